//! Attribute values and items: read from the wire, checked, measured, written back.
//!
//! A value is typed and canonical: numbers by value, sets unordered and unique. So `==` on items is equality as the service
//! sees it. An item in a table is a [`Stored`]: its JSON is written once and shared by every page that carries it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::number::Number;
use super::reply::ApiError;

/// Levels that a value may nest (AWS facts 4.4).
const MAX_DEPTH: usize = 32;

/// An attribute value as it comes in the request.
#[derive(Debug, Clone)]
pub(super) enum Wire {
    S(String),
    N(String),
    B(String),
    Bool(bool),
    Null(bool),
    L(Vec<Wire>),
    M(BTreeMap<String, Wire>),
    Ss(Vec<String>),
    Ns(Vec<String>),
    Bs(Vec<String>),
    /// None of the types: refused, but as a value, not as JSON.
    Empty,
    /// More than one of the types: refused in the same way.
    Several,
}

impl<'de> Deserialize<'de> for Wire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WireVisitor)
    }
}

struct WireVisitor;

impl<'de> Visitor<'de> for WireVisitor {
    type Value = Wire;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an attribute value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Wire, A::Error> {
        let mut found = Wire::Empty;
        while let Some(tag) = map.next_key::<Cow<'de, str>>()? {
            let value = match tag.as_ref() {
                "S" => Wire::S(map.next_value()?),
                "N" => Wire::N(map.next_value()?),
                "B" => Wire::B(map.next_value()?),
                "BOOL" => Wire::Bool(map.next_value()?),
                "NULL" => Wire::Null(map.next_value()?),
                "L" => Wire::L(map.next_value()?),
                "M" => Wire::M(map.next_value()?),
                "SS" => Wire::Ss(map.next_value()?),
                "NS" => Wire::Ns(map.next_value()?),
                "BS" => Wire::Bs(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            found = if matches!(found, Wire::Empty) { value } else { Wire::Several };
        }
        Ok(found)
    }
}

/// Attributes as they come in the request.
pub(super) type WireItem = BTreeMap<String, Wire>;

/// One attribute value, canonical.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// String.
    S(String),
    /// Number.
    N(Number),
    /// Binary, decoded.
    B(Vec<u8>),
    /// Boolean.
    Bool(bool),
    /// Null.
    Null,
    /// List.
    L(Vec<Value>),
    /// Map.
    M(Item),
    /// String set.
    Ss(BTreeSet<String>),
    /// Number set.
    Ns(BTreeSet<Number>),
    /// Binary set.
    Bs(BTreeSet<Vec<u8>>),
}

/// Attributes by name.
pub type Item = BTreeMap<String, Value>;

impl Value {
    pub(super) fn from_wire(wire: Wire) -> Result<Self, ApiError> {
        Self::read(wire, 1)
    }

    fn read(wire: Wire, depth: usize) -> Result<Self, ApiError> {
        if depth > MAX_DEPTH {
            return Err(ApiError::validation("Nesting Levels have exceeded supported limits"));
        }
        Ok(match wire {
            Wire::Empty => {
                return Err(ApiError::validation(
                    "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes",
                ));
            }
            Wire::Several => {
                return Err(ApiError::validation(
                    "Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported \
                     datatypes",
                ));
            }
            Wire::S(text) => Self::S(text),
            Wire::N(text) => Self::N(Number::parse(&text)?),
            Wire::B(text) => Self::B(binary(&text)?),
            Wire::Bool(value) => Self::Bool(value),
            Wire::Null(true) => Self::Null,
            Wire::Null(false) => {
                return Err(invalid("Null attribute value types must have the value of true"));
            }
            Wire::L(list) => {
                Self::L(list.into_iter().map(|wire| Self::read(wire, depth + 1)).collect::<Result<_, _>>()?)
            }
            Wire::M(map) => {
                Self::M(map.into_iter().map(|(name, wire)| Ok((name, Self::read(wire, depth + 1)?))).collect::<Result<
                    _,
                    ApiError,
                >>(
                )?)
            }
            Wire::Ss(set) => Self::Ss(unique(set, "string", Ok)?),
            Wire::Ns(set) => Self::Ns(unique(set, "number", |text| Number::parse(&text))?),
            Wire::Bs(set) => Self::Bs(unique(set, "binary", |text| binary(&text))?),
        })
    }

    /// The type's tag on the wire.
    pub(super) const fn tag(&self) -> &'static str {
        match self {
            Self::S(_) => "S",
            Self::N(_) => "N",
            Self::B(_) => "B",
            Self::Bool(_) => "BOOL",
            Self::Null => "NULL",
            Self::L(_) => "L",
            Self::M(_) => "M",
            Self::Ss(_) => "SS",
            Self::Ns(_) => "NS",
            Self::Bs(_) => "BS",
        }
    }

    /// Bytes by the service's size rules (AWS facts 4.3).
    pub(super) fn size(&self) -> usize {
        match self {
            Self::S(text) => text.len(),
            Self::N(number) => number.size(),
            Self::B(bytes) => bytes.len(),
            Self::Bool(_) | Self::Null => 1,
            Self::L(list) => 3 + list.iter().map(|value| 1 + value.size()).sum::<usize>(),
            Self::M(map) => 3 + map.len() + item_size(map),
            Self::Ss(set) => set.iter().map(String::len).sum(),
            Self::Ns(set) => set.iter().map(Number::size).sum(),
            Self::Bs(set) => set.iter().map(Vec::len).sum(),
        }
    }

    /// Writes the wire form.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(self.tag().as_bytes());
        out.extend_from_slice(b"\":");
        match self {
            Self::S(text) => write_string(text, out),
            Self::N(number) => write_string(&number.to_string(), out),
            Self::B(bytes) => write_string(&BASE64.encode(bytes), out),
            Self::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Self::Null => out.extend_from_slice(b"true"),
            Self::L(list) => write_list(list, out, Self::write_json),
            Self::M(map) => write_item(map, out),
            Self::Ss(set) => write_list(set, out, |text, out| write_string(text, out)),
            Self::Ns(set) => write_list(set, out, |number, out| write_string(&number.to_string(), out)),
            Self::Bs(set) => write_list(set, out, |bytes, out| write_string(&BASE64.encode(bytes), out)),
        }
        out.push(b'}');
    }
}

fn invalid(reason: &str) -> ApiError {
    ApiError::validation(format!("One or more parameter values were invalid: {reason}"))
}

fn binary(text: &str) -> Result<Vec<u8>, ApiError> {
    BASE64.decode(text).map_err(|_| ApiError::serialization("Base64 encoded length is unexpected"))
}

fn unique<T: Ord>(
    wires: Vec<String>,
    kind: &str,
    read: impl Fn(String) -> Result<T, ApiError>,
) -> Result<BTreeSet<T>, ApiError> {
    if wires.is_empty() {
        return Err(invalid(&format!("An {kind} set  may not be empty")));
    }
    let count = wires.len();
    let set = wires.into_iter().map(read).collect::<Result<BTreeSet<T>, _>>()?;
    if set.len() == count { Ok(set) } else { Err(invalid("Input collection contains duplicates.")) }
}

/// Reads the attributes of a request.
pub(super) fn read_item(wire: WireItem) -> Result<Item, ApiError> {
    wire.into_iter()
        .map(|(name, value)| {
            if name.is_empty() {
                return Err(invalid("Attribute name must not be empty"));
            }
            Ok((name, Value::from_wire(value)?))
        })
        .collect()
}

/// Names and values in bytes, by the service's size rules.
pub(super) fn item_size(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value.size()).sum()
}

/// Writes attributes as one JSON object.
pub(super) fn write_item(item: &Item, out: &mut Vec<u8>) {
    write_attributes(item.iter(), out);
}

/// Writes some attributes as one JSON object.
pub(super) fn write_attributes<'a>(attributes: impl Iterator<Item = (&'a String, &'a Value)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (name, value)) in attributes.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        value.write_json(out);
    }
    out.push(b'}');
}

/// The JSON of attributes.
pub(super) fn item_json(item: &Item) -> Bytes {
    let mut out = Vec::with_capacity(256);
    write_item(item, &mut out);
    out.into()
}

/// Writes a JSON string.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    while let Some((plain, [special, after @ ..])) = rest.iter().position(is_special).map(|at| rest.split_at(at)) {
        out.extend_from_slice(plain);
        match special {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..=0x1f => out.extend_from_slice(format!("\\u{special:04x}").as_bytes()),
            quote_or_slash => out.extend_from_slice(&[b'\\', *quote_or_slash]),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn write_list<T>(values: impl IntoIterator<Item = T>, out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(value, out);
    }
    out.push(b']');
}

/// An item as a table keeps it: shared, with its JSON written once.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) attributes: Item,
    pub(super) json: Bytes,
    /// Bytes by the service's size rules.
    pub(super) size: usize,
}

impl Stored {
    pub(super) fn new(attributes: Item) -> Arc<Self> {
        let json = item_json(&attributes);
        let size = item_size(&attributes);
        Arc::new(Self { attributes, json, size })
    }
}
