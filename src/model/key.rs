//! Keys: the schema of a table's primary key, and one key as canonical bytes.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The type of a key attribute. DynamoDB allows no other (Developer Guide, naming rules and data types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyKind {
    /// Text.
    S,
    /// Number, up to 38 significant digits.
    N,
    /// Binary, base64 on the wire.
    B,
}

impl KeyKind {
    /// The type's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S => "S",
            Self::N => "N",
            Self::B => "B",
        }
    }
}

/// One attribute of a primary key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyAttribute {
    /// The attribute's name, decoded.
    pub name: String,
    /// Its type.
    pub kind: KeyKind,
}

/// A table's primary key: a hash attribute and perhaps a range attribute.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeySchema {
    /// The partition key.
    pub hash: KeyAttribute,
    /// The sort key, where the table has one.
    pub range: Option<KeyAttribute>,
}

impl KeySchema {
    /// The attributes, hash first: one or two.
    pub fn attributes(&self) -> impl Iterator<Item = &KeyAttribute> {
        std::iter::once(&self.hash).chain(self.range.as_ref())
    }
}

/// A key as bytes that are equal exactly when DynamoDB takes the keys for the same.
///
/// For each attribute in schema order: type tag (1 byte), length (4 bytes, big endian), value. Text is decoded UTF-8,
/// binary is decoded base64, numbers are in canonical form: `1`, `1.0` and `1E0` are one key. Made by
/// `decode::key`; `Debug` shows the length alone. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CanonicalKey(Arc<[u8]>);

impl CanonicalKey {
    /// Wraps canonical bytes. Only `decode::key` and the stores that read back what it made should call this.
    #[must_use]
    pub fn from_canonical(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for CanonicalKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CanonicalKey({} bytes)", self.0.len())
    }
}

/// A key in both its forms: to compare and to send.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// For comparing, hashing, ordering.
    pub canonical: CanonicalKey,
    /// The JSON object of the key attributes (`{"pk":{"S":"a"}}`), as it came, ready to be sent.
    pub json: Bytes,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({} bytes)", self.json.len())
    }
}
