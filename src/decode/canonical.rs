//! Items by what they mean: a digest that is equal exactly when DynamoDB's values are.
//!
//! The JSON of an item may be spelt in many ways: attributes and sets in any order, numbers as `1`, `1.0` or `1E0`,
//! characters escaped or not. Here it becomes one canonical encoding: type tags and lengths before every value, so that no
//! two items share it; maps by decoded name and sets by element, sorted; numbers in canonical form, never through a float.
//! Its SHA-256, cut to 128 bits, stands for the item while two tables are compared.
//!
//! Attributes named `aws:rep:*` (legacy global tables) do not count: they are never copied.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::scanner::{RawStr, Scanner};
use super::{DecodeError, number};

/// Top-level attributes whose names start so are not part of the item.
const IGNORED_PREFIX: &str = "aws:rep:";

/// 128 bits that stand for an item's value.
///
/// Equal for equal items; for different ones only if somebody finds a collision of SHA-256 cut to 128 bits, which is
/// beyond chance for the 10¹² items of the largest tables (about 10⁻¹⁵ for any pair among them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemDigest([u8; 16]);

impl ItemDigest {
    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The digest of an item's DynamoDB JSON.
///
/// # Errors
/// [`DecodeError`] on anything that DynamoDB does not send: an unknown type, two types in one value, a name or a set element
/// twice, an empty set, a `NULL` that is not `true`, a number or base64 that is none, text without a UTF-8 form.
pub fn item_digest(item: &[u8]) -> Result<ItemDigest, DecodeError> {
    let mut encoded = Vec::with_capacity(item.len());
    encode_item(item, &mut encoded)?;
    let hash = Sha256::digest(&encoded);
    let mut digest = [0; 16];
    digest.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    Ok(ItemDigest(digest))
}

/// The whole seconds of a top-level number attribute, as time to live reads it; `None` when it is not there, not a number
/// or beyond 64 bits.
///
/// # Errors
/// [`DecodeError`] when the item is not a JSON object.
pub fn seconds_attribute(item: &[u8], attribute: &str) -> Result<Option<i64>, DecodeError> {
    let mut seconds = None;
    Scanner::over(item).object(|scanner, name| {
        let value = item.get(scanner.value()?).unwrap_or_default();
        if name.is(attribute) {
            seconds = number_text(value).and_then(|text| whole_part(&text));
        }
        Ok(())
    })?;
    Ok(seconds)
}

fn number_text(value: &[u8]) -> Option<String> {
    let mut text = None;
    let read = Scanner::over(value).object(|scanner, tag| {
        if tag.is("N") {
            text = Some(scanner.string()?.decode()?.into_owned());
            Ok(())
        } else {
            scanner.value().map(drop)
        }
    });
    read.ok().and(text)
}

/// `12.7` is 12. A number with an exponent is put right by its canonical form.
fn whole_part(text: &str) -> Option<i64> {
    let mut form = Vec::new();
    number::canonical(text, &mut form).ok()?;
    let form = std::str::from_utf8(&form).ok()?;
    let Some((digits, power)) = form.split_once('e') else { return Some(0) };
    let power: i32 = power.parse().ok()?;
    let digits: i128 = digits.parse().ok()?;
    let scale = 10i128.checked_pow(power.unsigned_abs());
    let whole = if power >= 0 { digits.checked_mul(scale?)? } else { scale.map_or(0, |scale| digits / scale) };
    i64::try_from(whole).ok()
}

fn encode_item(item: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let mut scanner = Scanner::over(item);
    map(&mut scanner, &|name| name.starts_with(IGNORED_PREFIX), out)?;
    scanner.end()
}

/// One value: `{"S":"a"}`.
fn value(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let at = scanner.position();
    let mut is_typed = false;
    scanner.object(|scanner, tag| {
        if std::mem::replace(&mut is_typed, true) {
            return Err(DecodeError::new("find one type in a value", scanner.position()));
        }
        typed(scanner, tag, out)
    })?;
    if is_typed { Ok(()) } else { Err(DecodeError::new("find a type in a value", at)) }
}

fn typed(scanner: &mut Scanner<'_>, tag: RawStr<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    if tag.is("S") {
        scalar(scanner, Scalar::Text, b'S', out)
    } else if tag.is("N") {
        scalar(scanner, Scalar::Number, b'N', out)
    } else if tag.is("M") {
        map(scanner, &|_| false, out)
    } else if tag.is("L") {
        list(scanner, out)
    } else if tag.is("BOOL") {
        out.push(if scanner.peek() == Some(b't') { b'T' } else { b'F' });
        literal(scanner, b"tf")
    } else if tag.is("NULL") {
        out.push(b'0');
        literal(scanner, b"t")
    } else if tag.is("B") {
        scalar(scanner, Scalar::Binary, b'B', out)
    } else if tag.is("SS") {
        set(scanner, Scalar::Text, b's', out)
    } else if tag.is("NS") {
        set(scanner, Scalar::Number, b'n', out)
    } else if tag.is("BS") {
        set(scanner, Scalar::Binary, b'b', out)
    } else {
        Err(DecodeError::new("find a known type", scanner.position()))
    }
}

/// `true` or `false`, by their first letters.
fn literal(scanner: &mut Scanner<'_>, allowed: &[u8]) -> Result<(), DecodeError> {
    match scanner.peek() {
        Some(first) if allowed.contains(&first) => scanner.value().map(drop),
        _ => Err(DecodeError::new("find a boolean", scanner.position())),
    }
}

#[derive(Clone, Copy)]
enum Scalar {
    Text,
    Number,
    Binary,
}

fn scalar(scanner: &mut Scanner<'_>, kind: Scalar, tag: u8, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    out.push(tag);
    bare_scalar(scanner, kind, out)
}

/// Length and bytes, without a tag.
fn bare_scalar(scanner: &mut Scanner<'_>, kind: Scalar, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let at = scanner.position();
    let text = scanner.string()?.decode()?;
    prefixed(at, out, |out| match kind {
        Scalar::Text => {
            out.extend_from_slice(text.as_bytes());
            Ok(())
        }
        Scalar::Number => number::canonical(&text, out),
        Scalar::Binary => {
            STANDARD.decode_vec(text.as_bytes(), out).map_err(|_| DecodeError::new("read base64 in a value", at))
        }
    })
}

fn list(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    out.push(b'L');
    let at = scanner.position();
    prefixed(at, out, |out| scanner.array(|scanner| value(scanner, out)))
}

fn map(scanner: &mut Scanner<'_>, is_ignored: &dyn Fn(&str) -> bool, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    out.push(b'M');
    let at = scanner.position();
    prefixed(at, out, |out| {
        let (start, mut parts) = (out.len(), Vec::new());
        scanner.object(|scanner, name| {
            let name = name.decode()?;
            if is_ignored(&name) {
                return scanner.value().map(drop);
            }
            let from = out.len();
            prefixed(at, out, |out| {
                out.extend_from_slice(name.as_bytes());
                Ok(())
            })?;
            let name_end = out.len();
            value(scanner, out)?;
            parts.push(Part { sorted_by: from..name_end, whole: from..out.len() });
            Ok(())
        })?;
        arrange(out, start, parts, at)
    })
}

fn set(scanner: &mut Scanner<'_>, kind: Scalar, tag: u8, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    out.push(tag);
    let at = scanner.position();
    prefixed(at, out, |out| {
        let (start, mut parts) = (out.len(), Vec::new());
        scanner.array(|scanner| {
            let from = out.len();
            bare_scalar(scanner, kind, out)?;
            parts.push(Part { sorted_by: from..out.len(), whole: from..out.len() });
            Ok(())
        })?;
        if parts.is_empty() {
            Err(DecodeError::new("find elements in a set", at))
        } else {
            arrange(out, start, parts, at)
        }
    })
}

/// A piece of the encoding that has no place of its own.
struct Part {
    sorted_by: Range<usize>,
    whole: Range<usize>,
}

/// Sorts the pieces of `out` from `start`; refuses two of the same name.
fn arrange(out: &mut Vec<u8>, start: usize, mut parts: Vec<Part>, at: usize) -> Result<(), DecodeError> {
    let piece = |range: &Range<usize>| out.get(range.clone()).unwrap_or_default();
    let ascends = |pair: &[Part]| matches!(pair, [a, b] if piece(&a.sorted_by) < piece(&b.sorted_by));
    if parts.windows(2).all(ascends) {
        return Ok(());
    }
    parts.sort_unstable_by(|a, b| piece(&a.sorted_by).cmp(piece(&b.sorted_by)));
    if !parts.windows(2).all(ascends) {
        return Err(DecodeError::new("find each name and element once", at));
    }
    let mut arranged = Vec::with_capacity(out.len() - start);
    parts.iter().for_each(|part| arranged.extend_from_slice(piece(&part.whole)));
    out.truncate(start);
    out.append(&mut arranged);
    Ok(())
}

/// Four bytes of length, big endian, then what `fill` appends.
fn prefixed(
    at: usize,
    out: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out)?;
    let length =
        u32::try_from(out.len() - length_at - 4).map_err(|_| DecodeError::new("read a value under 4 GiB", at))?;
    if let Some(slot) = out.get_mut(length_at..length_at + 4) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
