//! An item as the bytes it came in.

use bytes::Bytes;

/// An item's DynamoDB JSON (`{"pk":{"S":"a"},…}`), a slice of the page that it came in.
///
/// The bytes are one valid JSON object (checked when the page was scanned) and are spliced unchanged into the write
/// request. `Debug` shows the length alone: item contents never reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct RawItem(Bytes);

impl RawItem {
    /// Wraps the bytes of one JSON object.
    #[must_use]
    pub const fn new(json: Bytes) -> Self {
        Self(json)
    }

    /// The JSON.
    #[must_use]
    pub fn json(&self) -> &Bytes {
        &self.0
    }

    /// Length of the JSON in bytes: never less than the item's size by DynamoDB's rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes at all (an empty item is `{}`, two bytes).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for RawItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawItem({} bytes)", self.0.len())
    }
}
