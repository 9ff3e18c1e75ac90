//! The second opinion: what the pages of the service mean, by `serde_json` and the documented shapes. `None`: refused.
//!
//! Where a field stands twice the later one counts, except lists, of which all are read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dynaferry::model::{KeyKind, KeySchema, ViewType};
use serde_json::value::RawValue;

use crate::json::{self, elements, fields, is_null, is_object, is_string, text};

/// What legacy global tables write.
const MARKS: &str = "aws:rep:";

/// An image: how it stands in the page, and which of its fields are forwarded.
pub(crate) struct Image<'a> {
    pub(crate) whole: &'a RawValue,
    pub(crate) has_marks: bool,
    pub(crate) kept: Vec<(json::Name, &'a RawValue)>,
}

/// What is done to a key.
pub(crate) enum Op<'a> {
    Put(Image<'a>),
    Delete,
    Touch,
}

/// A record of a stream.
pub(crate) struct Record<'a> {
    pub(crate) whole: &'a RawValue,
    pub(crate) key: Key<'a>,
    pub(crate) op: Op<'a>,
    pub(crate) sequence: String,
    /// Milliseconds; a float, for it is compared with some tolerance.
    pub(crate) created: f64,
    pub(crate) is_ttl_delete: bool,
}

/// A key: its canonical bytes, and each attribute's JSON, in the order of the schema.
pub(crate) struct Key<'a> {
    pub(crate) canonical: Vec<u8>,
    pub(crate) values: Vec<&'a RawValue>,
}

pub(crate) struct StreamPage<'a> {
    pub(crate) records: Vec<Record<'a>>,
    pub(crate) next: Option<String>,
}

pub(crate) struct ScanPage<'a> {
    pub(crate) items: Vec<(Key<'a>, Image<'a>)>,
    pub(crate) last_key: Option<&'a RawValue>,
    pub(crate) units: Option<f64>,
}

pub(crate) struct WriteReply {
    pub(crate) unprocessed: Vec<Vec<u8>>,
    pub(crate) units: Option<f64>,
}

pub(crate) fn stream_page<'a>(body: &'a [u8], schema: &KeySchema, view: ViewType) -> Option<StreamPage<'a>> {
    let (mut records, mut next, mut has_records) = (Vec::new(), None, false);
    for (name, value) in fields(json::whole(body)?)? {
        if name.is("Records") {
            has_records = true;
            for element in elements(value)? {
                records.push(record(element, schema, view)?);
            }
        } else if name.is("NextShardIterator") {
            next = if is_null(value) { None } else { Some(text(value)?) };
        }
    }
    let next = next.filter(|token| !token.is_empty());
    has_records.then_some(StreamPage { records, next })
}

fn record<'a>(whole: &'a RawValue, schema: &KeySchema, view: ViewType) -> Option<Record<'a>> {
    let (mut event, mut is_service) = (None, false);
    let (mut keys, mut image, mut sequence, mut created) = (None, None, None, None);
    for (name, value) in fields(whole)? {
        if name.is("eventName") {
            let known = text(value)?;
            event = Some(["INSERT", "MODIFY", "REMOVE"].into_iter().find(|event| *event == known)?);
        } else if name.is("userIdentity") && !is_null(value) {
            is_service = is_dynamodb(value)?;
        } else if name.is("dynamodb") {
            for (name, value) in fields(value)? {
                if name.is("Keys") {
                    keys = Some(value);
                } else if name.is("NewImage") {
                    image = Some(value).filter(|value| !is_null(value));
                    if image.is_some_and(|image| !is_object(image)) {
                        return None;
                    }
                } else if name.is("SequenceNumber") {
                    sequence = Some(text(value)?);
                    let digits = sequence.as_ref()?;
                    if digits.is_empty() || digits.len() > 40 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                        return None;
                    }
                } else if name.is("ApproximateCreationDateTime") {
                    created = Some(creation_time(value)?);
                }
            }
        }
    }
    let op = match (view.has_new_image(), event?, image) {
        (false, ..) => Op::Touch,
        (true, "REMOVE", None) => Op::Delete,
        (true, "INSERT" | "MODIFY", Some(value)) => Op::Put(self::image(value)?),
        _ => return None,
    };
    let key = key_of(keys?, schema, true)?;
    let is_ttl_delete = is_service && event == Some("REMOVE");
    Some(Record { whole, key, op, sequence: sequence?, created: created?, is_ttl_delete })
}

/// Whether DynamoDB itself made the change.
fn is_dynamodb(identity: &RawValue) -> Option<bool> {
    let (mut kind, mut principal) = (None, None);
    for (name, value) in fields(identity)? {
        let slot = if name.is("type") || name.is("Type") {
            &mut kind
        } else if name.is("principalId") || name.is("PrincipalId") {
            &mut principal
        } else {
            continue;
        };
        if !is_null(value) && !is_string(value) {
            return None;
        }
        *slot = text(value);
    }
    Some(kind.as_deref() == Some("Service") && principal.as_deref() == Some("dynamodb.amazonaws.com"))
}

fn creation_time(value: &RawValue) -> Option<f64> {
    let millis = json::number(value)? * 1000.0;
    // Whole seconds are taken as far as they go, and no millisecond lies beyond 64 bits.
    let is_whole = value.get().parse::<i64>().is_ok();
    (is_whole || millis.abs() < 9.0e15).then_some(millis.clamp(i64::MIN as f64, i64::MAX as f64))
}

pub(crate) fn scan_page<'a>(body: &'a [u8], schema: &KeySchema) -> Option<ScanPage<'a>> {
    let mut page = ScanPage { items: Vec::new(), last_key: None, units: None };
    let mut has_items = false;
    for (name, value) in fields(json::whole(body)?)? {
        if is_null(value) {
            continue;
        } else if name.is("Items") {
            has_items = true;
            for item in elements(value)? {
                page.items.push((key_of(item, schema, false)?, image(item)?));
            }
        } else if name.is("LastEvaluatedKey") {
            page.last_key = if fields(value)?.is_empty() { None } else { Some(value) };
        } else if name.is("ConsumedCapacity") {
            page.units = units(value)?;
        }
    }
    has_items.then_some(page)
}

/// `None`: refused. `Some(None)`: there is no such item.
pub(crate) fn single_item(body: &[u8]) -> Option<Option<Image<'_>>> {
    let mut item = None;
    for (name, value) in fields(json::whole(body)?)? {
        if name.is("Item") && !is_null(value) {
            item = Some(image(value)?);
        }
    }
    Some(item)
}

/// One field, whose name and shape are known: everything else is another kind of line.
pub(crate) fn export_line<'a>(line: &'a [u8], schema: &KeySchema) -> Option<(Key<'a>, Image<'a>)> {
    let fields = fields(json::whole(line)?)?;
    let [(name, item)] = fields.as_slice() else { return None };
    (name.is("Item") && is_object(item)).then_some(())?;
    Some((key_of(item, schema, false)?, image(item)?))
}

pub(crate) fn write_reply(body: &[u8], schema: &KeySchema) -> Option<WriteReply> {
    let mut reply = WriteReply { unprocessed: Vec::new(), units: None };
    for (name, value) in fields(json::whole(body)?)? {
        if is_null(value) {
            continue;
        } else if name.is("UnprocessedItems") {
            for (_, requests) in fields(value)? {
                for request in elements(requests)? {
                    reply.unprocessed.push(key_of_request(request, schema)?);
                }
            }
        } else if name.is("ConsumedCapacity") {
            for table in elements(value)? {
                if let Some(units) = units(table)? {
                    *reply.units.get_or_insert(0.0) += units;
                }
            }
        }
    }
    Some(reply)
}

fn key_of_request(request: &RawValue, schema: &KeySchema) -> Option<Vec<u8>> {
    let mut key = None;
    for (_, value) in fields(request)? {
        if is_null(value) {
            continue;
        }
        for (name, value) in fields(value)? {
            if name.is("Item") || name.is("Key") {
                key = Some(key_of(value, schema, false)?.canonical);
            }
        }
    }
    key
}

fn units(capacity: &RawValue) -> Option<Option<f64>> {
    let mut units = None;
    for (name, value) in fields(capacity)? {
        if name.is("CapacityUnits") {
            let is_number = value.get().starts_with(|first: char| first == '-' || first.is_ascii_digit());
            units = if is_number { json::number(value) } else { return None };
        }
    }
    Some(units)
}

fn image(whole: &RawValue) -> Option<Image<'_>> {
    let all = fields(whole)?;
    let number = all.len();
    let kept: Vec<_> = all.into_iter().filter(|(name, _)| !name.starts_with(MARKS)).collect();
    Some(Image { whole, has_marks: kept.len() < number, kept })
}

/// The key in an item, or in an object that must hold nothing else.
fn key_of<'a>(item: &'a RawValue, schema: &KeySchema, alone: bool) -> Option<Key<'a>> {
    let mut values = vec![None; schema.attributes().count()];
    for (name, value) in fields(item)? {
        match schema.attributes().position(|attribute| name.is(&attribute.name)) {
            Some(n) => {
                let twice = values.get_mut(n)?.replace(value).is_some();
                if twice {
                    return None;
                }
            }
            None if alone => return None,
            None => {}
        }
    }
    let values = values.into_iter().collect::<Option<Vec<_>>>()?;
    let mut canonical = Vec::new();
    for (attribute, value) in schema.attributes().zip(&values) {
        let typed = fields(value)?;
        let [(tag, value)] = typed.as_slice() else { return None };
        let text = text(value).filter(|_| tag.is(attribute.kind.as_str()))?;
        let bytes = match attribute.kind {
            KeyKind::S => text.into_bytes(),
            KeyKind::N => plain_number(&text)?.into_bytes(),
            KeyKind::B => STANDARD.decode(text).ok()?,
        };
        canonical.extend_from_slice(attribute.kind.as_str().as_bytes());
        canonical.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_be_bytes());
        canonical.extend_from_slice(&bytes);
    }
    Some(Key { canonical, values })
}

/// A decimal number as `0` or digits without zeros at either end, and the power of ten of the last one.
fn plain_number(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let (mantissa, power) = match lower.find('e') {
        Some(at) => (lower.get(..at)?, i64::from(lower.get(at + 1..)?.parse::<i32>().ok()?)),
        None => (lower.as_str(), 0),
    };
    let unsigned = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let fraction = unsigned.find('.').map_or(0, |at| unsigned.len() - at - 1);
    let digits = unsigned.replacen('.', "", 1);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    let short = digits.trim_end_matches('0');
    if short.is_empty() {
        return Some("0".to_owned());
    }
    let power = power - i64::try_from(fraction).ok()? + i64::try_from(digits.len() - short.len()).ok()?;
    let sign = if mantissa.starts_with('-') { "-" } else { "" };
    Some(format!("{sign}{short}e{power}"))
}

/// Whether a forwarded image says the same: the very bytes, or, where marks were taken out, the same fields.
pub(crate) fn is_same_image(forwarded: &[u8], image: &Image<'_>) -> bool {
    if !image.has_marks {
        return forwarded == image.whole.get().as_bytes();
    }
    let Some(parsed) = json::whole(forwarded).filter(|parsed| is_object(parsed)).and_then(fields) else { return false };
    parsed.len() == image.kept.len()
        && parsed.iter().zip(&image.kept).all(|((a, x), (b, y))| a == b && x.get() == y.get())
}
