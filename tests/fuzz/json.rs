//! JSON by `serde_json`, opened one level at a time: what is not asked for stays as it came, as in the program.
//!
//! Names and texts may hold lone surrogates, which have no UTF-8 form: such a name is no name that anybody looks for, and
//! such a text cannot be read.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Deepest nesting: `serde_json`'s own limit for values.
const MAX_DEPTH: usize = 127;

/// The value that a body is, when it is JSON as a whole.
pub(crate) fn whole(body: &[u8]) -> Option<&RawValue> {
    let value: &RawValue = serde_json::from_slice(body).ok()?;
    let is_shallow = depth(body) <= MAX_DEPTH;
    assert!(is_shallow || serde_json::from_slice::<serde_json::Value>(body).is_err(), "serde_json reads deeper texts");
    is_shallow.then_some(value)
}

/// How deep a valid text nests.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut is_escaped) = (0usize, 0, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The fields of an object in their order, as often as they stand there; `None`: it is no object.
pub(crate) fn fields(json: &RawValue) -> Option<Vec<(Name, &RawValue)>> {
    struct Fields;
    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(Name, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some(field) = map.next_entry()? {
                fields.push(field);
            }
            Ok(fields)
        }
    }
    serde_json::Deserializer::from_str(json.get()).deserialize_map(Fields).ok()
}

/// The elements of an array; `None`: it is none.
pub(crate) fn elements(json: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(json.get()).ok()
}

/// The text of a string; `None`: it is none, or has no UTF-8 form.
pub(crate) fn text(json: &RawValue) -> Option<String> {
    serde_json::from_str(json.get()).ok()
}

/// A number; `None`: it is none, or beyond `f64`.
pub(crate) fn number(json: &RawValue) -> Option<f64> {
    serde_json::from_str(json.get()).ok()
}

pub(crate) fn is_null(json: &RawValue) -> bool {
    json.get() == "null"
}

pub(crate) fn is_string(json: &RawValue) -> bool {
    json.get().starts_with('"')
}

pub(crate) fn is_object(json: &RawValue) -> bool {
    json.get().starts_with('{')
}

/// The name of a field, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.0 == name.as_bytes()
    }

    /// One without a UTF-8 form begins like no other.
    pub(crate) fn starts_with(&self, prefix: &str) -> bool {
        std::str::from_utf8(&self.0).is_ok_and(|name| name.starts_with(prefix))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Name, E> {
                Ok(Name(bytes.to_vec()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(text.as_bytes().to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
