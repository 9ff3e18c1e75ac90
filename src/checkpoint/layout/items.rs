//! A row as items: sort keys, values in parts, packs of keys in doubt.

use sha2::{Digest, Sha256};

use crate::checkpoint::ledger::{Kind, StoredDoubt};
use crate::checkpoint::table::{Field, Fields};
use crate::checkpoint::{StoreError, StoreResult};
use crate::model::WallTime;

/// Longest row key that is part of a sort key as it is. The service allows sort keys of 1,024 bytes.
pub(super) const MAX_KEY: usize = 900;
/// Bytes of a value in one item. The service allows items of 400 KB, names and all.
pub(super) const MAX_PART: usize = 300 << 10;
/// Bytes of a pack, about.
pub(super) const MAX_PACK: usize = 200 << 10;
/// First byte of the sort keys of a value's further items; the kind follows.
pub(super) const PART: u8 = 0xF0;

/// The value of a row, or a part of it.
pub(crate) const VALUE: &str = "v";
/// The key of a row, where the sort key does not hold all of it.
pub(super) const KEY: &str = "k";
/// Of how many items a row is, if not of one.
pub(super) const PARTS: &str = "n";

/// Readable in the console where it can be.
pub(super) fn shown(value: &[u8]) -> Field {
    match std::str::from_utf8(value) {
        Ok(text) if text.starts_with('{') => Field::Text(text.to_owned()),
        _ => Field::Bytes(value.to_vec()),
    }
}

pub(super) fn damaged(place: &str, what: &str) -> StoreError {
    StoreError::Damaged { place: place.to_owned(), what: what.to_owned() }
}

pub(super) fn row_sort(kind: Kind, key: &[u8]) -> Vec<u8> {
    match key.get(..MAX_KEY + 1) {
        None => [&[kind as u8], key].concat(),
        // Longer than any key that is whole.
        Some(beginning) => [&[kind as u8], beginning, &Sha256::digest(key)[..]].concat(),
    }
}

pub(super) fn row_key(sort: &[u8], fields: &Fields) -> Vec<u8> {
    match fields.get(KEY) {
        Some(Field::Bytes(key)) => key.clone(),
        _ => sort.get(1..).unwrap_or_default().to_vec(),
    }
}

pub(super) fn part_sort(sort: &[u8], part: u16) -> Vec<u8> {
    [&[PART], sort, &part.to_be_bytes()].concat()
}

/// Of how many items a row is.
pub(crate) fn parts_of(fields: &Fields) -> u16 {
    match fields.get(PARTS) {
        Some(Field::Number(parts)) => u16::try_from(*parts).unwrap_or(u16::MAX).max(1),
        _ => 1,
    }
}

pub(super) fn value_of(place: &str, fields: &Fields) -> StoreResult<Vec<u8>> {
    match fields.get(VALUE) {
        Some(Field::Text(text)) => Ok(text.clone().into_bytes()),
        Some(Field::Bytes(bytes)) => Ok(bytes.clone()),
        _ => Err(damaged(place, "a row without a value")),
    }
}

/// The value of a row from its items.
pub(crate) fn whole<'a>(
    place: &str,
    first: &Fields,
    more: impl Iterator<Item = Option<&'a Fields>>,
) -> StoreResult<Vec<u8>> {
    let mut value = value_of(place, first)?;
    for part in more {
        let part = part.ok_or_else(|| damaged(place, "a part of a row is missing"))?;
        value.extend(value_of(place, part)?);
    }
    Ok(value)
}

/// Length and bytes of the key, of its JSON, and the time in milliseconds.
pub(super) fn pack_doubt(pack: &mut Vec<u8>, key: &[u8], doubt: &StoredDoubt) {
    for bytes in [key, doubt.key_json.as_bytes()] {
        pack.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        pack.extend(bytes);
    }
    pack.extend(doubt.until.millis().to_be_bytes());
}

pub(super) fn unpack(mut pack: &[u8]) -> Option<Vec<(Vec<u8>, String, WallTime)>> {
    let mut doubts = Vec::new();
    while !pack.is_empty() {
        let mut bytes = || {
            let (length, rest) = pack.split_first_chunk::<4>()?;
            let (bytes, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            pack = rest;
            Some(bytes.to_vec())
        };
        let (key, json) = (bytes()?, bytes()?);
        let (until, rest) = pack.split_first_chunk::<8>()?;
        pack = rest;
        doubts.push((key, String::from_utf8(json).ok()?, WallTime::from_millis(i64::from_be_bytes(*until))));
    }
    Some(doubts)
}
