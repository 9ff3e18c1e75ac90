//! Keys out of JSON: the canonical bytes to compare, the JSON to send.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::replica_marks::{is_mark, take_marks};
use super::scanner::{RawStr, Scanner};
use super::{DecodeError, LoadedItem, number};
use crate::model::{CanonicalKey, Key, KeyAttribute, KeyKind, KeySchema, RawItem};

/// Reads keys of one schema.
#[derive(Debug, Clone)]
pub struct KeyCodec {
    hash: Attribute,
    range: Option<Attribute>,
}

#[derive(Debug, Clone)]
struct Attribute {
    attribute: KeyAttribute,
    /// The name as a JSON string, quotes included.
    name_json: String,
}

impl Attribute {
    fn new(attribute: &KeyAttribute) -> Self {
        Self { attribute: attribute.clone(), name_json: serde_json::Value::from(attribute.name.as_str()).to_string() }
    }
}

impl KeyCodec {
    /// A codec for this schema.
    #[must_use]
    pub fn new(schema: &KeySchema) -> Self {
        Self { hash: Attribute::new(&schema.hash), range: schema.range.as_ref().map(Attribute::new) }
    }

    /// The key of an object that holds just the key attributes, as `Keys` of a stream record does.
    ///
    /// # Errors
    /// When an attribute is missing, too many, of another type, or not decodable.
    pub fn key(&self, json: Bytes) -> Result<Key, DecodeError> {
        self.key_with(json, &mut Vec::with_capacity(64))
    }

    /// The same, with a buffer that is used for one key after the other.
    pub(super) fn key_with(&self, json: Bytes, buffer: &mut Vec<u8>) -> Result<Key, DecodeError> {
        let found = self.find(&mut Scanner::over(&json))?;
        if found.has_others {
            return Err(DecodeError::new("find only key attributes in a key", 0));
        }
        let canonical = self.canonical(&found, buffer)?;
        Ok(Key { canonical, json })
    }

    /// The key of a whole item; its JSON is spliced together from the item's own bytes.
    ///
    /// # Errors
    /// When a key attribute is missing, of another type, or not decodable.
    pub fn key_of_item(&self, item: &[u8]) -> Result<Key, DecodeError> {
        self.key_of(&self.find(&mut Scanner::over(item))?)
    }

    /// The item that stands next in a page, with its key: it is walked over once. Its image is a slice of the page, without
    /// the marks of legacy global tables.
    ///
    /// # Errors
    /// When it is no object, or its key is as [`KeyCodec::key_of_item`] refuses it.
    pub(super) fn item(&self, scanner: &mut Scanner<'_>, page: &Bytes) -> Result<LoadedItem, DecodeError> {
        scanner.peek();
        let start = scanner.position();
        let found = self.find(scanner)?;
        let image = page.slice(start..scanner.position());
        let image = if found.has_marks { take_marks(&image)? } else { RawItem::new(image) };
        Ok(LoadedItem { key: self.key_of(&found)?, image })
    }

    fn key_of(&self, found: &Found<'_>) -> Result<Key, DecodeError> {
        let canonical = self.canonical(found, &mut Vec::with_capacity(64))?;
        let mut json = Vec::with_capacity(canonical.as_bytes().len() * 2 + 64);
        let mut separator = b'{';
        for (attribute, value) in self.attributes().zip([&found.hash, &found.range]) {
            json.push(separator);
            json.extend_from_slice(attribute.name_json.as_bytes());
            json.push(b':');
            json.extend_from_slice(value.as_ref().map_or(&[], |value| value.json));
            separator = b',';
        }
        json.push(b'}');
        Ok(Key { canonical, json: json.into() })
    }

    fn attributes(&self) -> impl Iterator<Item = &Attribute> {
        std::iter::once(&self.hash).chain(self.range.as_ref())
    }

    /// What an object has of a key, and what else.
    fn find<'a>(&self, scanner: &mut Scanner<'a>) -> Result<Found<'a>, DecodeError> {
        let mut found = Found::default();
        scanner.object(|scanner, name| {
            let (attribute, slot) = match &self.range {
                _ if name.is(&self.hash.attribute.name) => (&self.hash, &mut found.hash),
                Some(range) if name.is(&range.attribute.name) => (range, &mut found.range),
                _ => {
                    found.has_others = true;
                    found.has_marks |= is_mark(name);
                    return scanner.value().map(drop);
                }
            };
            let value = KeyValue::read(scanner, attribute.attribute.kind)?;
            if slot.replace(value).is_some() {
                return Err(DecodeError::new("find a key attribute once", 0));
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn canonical(&self, found: &Found<'_>, out: &mut Vec<u8>) -> Result<CanonicalKey, DecodeError> {
        out.clear();
        for (attribute, value) in self.attributes().zip([&found.hash, &found.range]) {
            let value = value.as_ref().ok_or_else(|| DecodeError::new("find every key attribute", 0))?;
            append(attribute.attribute.kind, value.text, out)?;
        }
        Ok(CanonicalKey::from_canonical(out.as_slice()))
    }
}

/// What was found in an object.
#[derive(Default)]
struct Found<'a> {
    hash: Option<KeyValue<'a>>,
    range: Option<KeyValue<'a>>,
    /// Attributes that are not of the key.
    has_others: bool,
    /// Among them marks of legacy global tables.
    has_marks: bool,
}

/// The value of a key attribute.
struct KeyValue<'a> {
    /// With its type: `{"S":"a"}`.
    json: &'a [u8],
    text: RawStr<'a>,
}

impl<'a> KeyValue<'a> {
    fn read(scanner: &mut Scanner<'a>, kind: KeyKind) -> Result<Self, DecodeError> {
        scanner.peek();
        let start = scanner.position();
        let mut text: Option<RawStr<'_>> = None;
        scanner.object(|scanner, name| {
            if !name.is(kind.as_str()) || text.is_some() {
                return Err(DecodeError::new("find a key attribute of the schema's type", 0));
            }
            text = Some(scanner.string()?);
            Ok(())
        })?;
        let text = text.ok_or_else(|| DecodeError::new("find a key attribute's value", 0))?;
        Ok(Self { json: scanner.slice(start..scanner.position()), text })
    }
}

/// Appends one typed value: tag, length, bytes.
fn append(kind: KeyKind, text: RawStr<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let text = text.decode()?;
    out.push(kind.as_str().as_bytes().first().copied().unwrap_or_default());
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    match kind {
        KeyKind::S => out.extend_from_slice(text.as_bytes()),
        KeyKind::N => number::canonical(&text, out)?,
        KeyKind::B => {
            STANDARD.decode_vec(text.as_bytes(), out).map_err(|_| DecodeError::new("read base64 in a key", 0))?;
        }
    }
    let length = u32::try_from(out.len() - length_at - 4).map_err(|_| DecodeError::new("read a key under 4 GiB", 0))?;
    if let Some(slot) = out.get_mut(length_at..length_at + 4) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn codec(hash: KeyKind, range: Option<KeyKind>) -> KeyCodec {
        let attribute = |name: &str, kind| KeyAttribute { name: name.to_owned(), kind };
        KeyCodec::new(&KeySchema { hash: attribute("pk", hash), range: range.map(|kind| attribute("s\"k", kind)) })
    }

    fn canonical(codec: &KeyCodec, json: &serde_json::Value) -> CanonicalKey {
        codec.key(json.to_string().into()).unwrap().canonical
    }

    #[test]
    fn number_spellings_are_one_key() {
        let codec = codec(KeyKind::N, None);
        let key = |n: &str| canonical(&codec, &serde_json::json!({"pk": {"N": n}}));
        assert_eq!(key("1"), key("1.0"));
        assert_eq!(key("1"), key("1E0"));
        assert_ne!(key("1"), key("10"));
    }

    #[test]
    fn an_items_key_is_the_keys_of_its_record() {
        let codec = codec(KeyKind::S, Some(KeyKind::B));
        let item = br#"{"z":{"M":{"pk":{"S":"no"}}},"s\"k":{"B":"AAEC"},"pk":{"S":"a\u00e9"}}"#;
        let from_item = codec.key_of_item(item).unwrap();
        assert_eq!(from_item.json, r#"{"pk":{"S":"a\u00e9"},"s\"k":{"B":"AAEC"}}"#.as_bytes());
        assert_eq!(
            codec.key(r#"{"s\"k":{"B":"AAEC"},"pk":{"S":"aé"}}"#.into()).unwrap().canonical,
            from_item.canonical
        );
    }

    #[test]
    fn refuses_keys_that_do_not_fit_the_schema() {
        let codec = codec(KeyKind::S, None);
        for bad in [
            r#"{}"#,
            r#"{"pk":{"N":"1"}}"#,
            r#"{"pk":{"S":"a"},"x":{"S":"b"}}"#,
            r#"{"pk":{}}"#,
            r#"{"pk":{"S":"\ud800"}}"#,
        ] {
            assert!(codec.key(bad.to_owned().into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn binary_keys_keep_every_byte_value() {
        let codec = codec(KeyKind::B, None);
        let keys: std::collections::BTreeSet<_> =
            (0..=255u8).map(|b| canonical(&codec, &serde_json::json!({"pk": {"B": STANDARD.encode([b])}}))).collect();
        assert_eq!(keys.len(), 256);
    }

    proptest! {
        #[test]
        fn is_injective(a in ".{0,6}", b in ".{0,6}", c in ".{0,6}", d in ".{0,6}") {
            let codec = codec(KeyKind::S, Some(KeyKind::S));
            let key = |h: &str, r: &str| canonical(&codec, &serde_json::json!({"pk": {"S": h}, "s\"k": {"S": r}}));
            prop_assert_eq!(key(&a, &b) == key(&c, &d), (a, b) == (c, d));
        }
    }
}
