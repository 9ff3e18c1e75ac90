//! Pure: the keys of a page of the load as a few rows.
//!
//! A page has thousands of keys, and all of them are durable before the first one is sent. They come and go together, so they
//! are packed: a row for each key would cost more than all else that is done for its item.

use bytes::Bytes;

use super::rows::PageId;
use crate::model::{CanonicalKey, Key};

/// Bytes of a row, about: half of what an item of a table may have.
const MAX_ROW: usize = 200 << 10;

/// Bytes of a page's prefix: epoch, segment, number.
pub(super) const PAGE_PREFIX: usize = 20;

/// How the keys of a page's rows begin.
pub(super) fn page_prefix(epoch: u64, page: PageId) -> Vec<u8> {
    [&epoch.to_be_bytes()[..], &page.segment.to_be_bytes(), &page.number.to_be_bytes()].concat()
}

/// The epoch and the page in such a prefix.
pub(super) fn page_of(row: &[u8]) -> Option<(u64, PageId)> {
    let (epoch, rest) = row.split_first_chunk::<8>()?;
    let (segment, rest) = rest.split_first_chunk::<4>()?;
    let (number, _) = rest.split_first_chunk::<8>()?;
    let page = PageId { segment: u32::from_be_bytes(*segment), number: u64::from_be_bytes(*number) };
    Some((u64::from_be_bytes(*epoch), page))
}

/// The key of one of a page's rows.
pub(super) fn row_key(prefix: &[u8], number: usize) -> Vec<u8> {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    [prefix, &number.to_be_bytes()].concat()
}

/// What is in the rows of a page: length and bytes of each key and of its JSON.
pub(super) fn packed(keys: &[Key]) -> Vec<Vec<u8>> {
    let mut rows: Vec<Vec<u8>> = Vec::new();
    for key in keys {
        let parts = [key.canonical.as_bytes(), &key.json];
        let size: usize = parts.iter().map(|part| 4 + part.len()).sum();
        if rows.last().is_none_or(|row| row.len() + size > MAX_ROW) {
            rows.push(Vec::new());
        }
        if let Some(row) = rows.last_mut() {
            for part in parts {
                row.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
                row.extend_from_slice(part);
            }
        }
    }
    rows
}

/// The keys in a row; `None`: it is none.
pub(super) fn unpacked(mut row: &[u8]) -> Option<Vec<Key>> {
    let mut keys = Vec::new();
    while !row.is_empty() {
        let mut part = || {
            let (length, rest) = row.split_first_chunk::<4>()?;
            let (part, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            row = rest;
            Some(part)
        };
        let (canonical, json) = (part()?, part()?);
        keys.push(Key {
            canonical: CanonicalKey::from_canonical(canonical),
            json: Bytes::copy_from_slice(std::str::from_utf8(json).ok()?.as_bytes()),
        });
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(canonical: &[u8], json: &str) -> Key {
        Key { canonical: CanonicalKey::from_canonical(canonical), json: Bytes::copy_from_slice(json.as_bytes()) }
    }

    #[test]
    fn a_large_page_is_rows_that_an_item_of_a_table_holds() {
        let keys: Vec<Key> = (0..2_000).map(|n| key(&[b'k'; 3_000], &n.to_string())).collect();
        let rows = packed(&keys);
        assert!(rows.len() > 20 && rows.iter().all(|row| row.len() <= MAX_ROW));
        let found: Vec<Key> = rows.iter().flat_map(|row| unpacked(row).unwrap()).collect();
        assert_eq!(found, keys);
    }

    #[test]
    fn a_page_is_found_in_the_keys_of_its_rows() {
        let page = PageId { segment: 3, number: u64::MAX };
        assert_eq!(page_of(&row_key(&page_prefix(7, page), 300)), Some((7, page)));
        assert_eq!(page_of(b"short"), None);
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked_and_a_cut_row_is_none(
            keys in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..20), ".{0,20}"), 1..20),
            cut in 1usize..50,
        ) {
            let keys: Vec<Key> = keys.iter().map(|(canonical, json)| key(canonical, json)).collect();
            let row = packed(&keys).concat();
            prop_assert_eq!(unpacked(&row), Some(keys.clone()));
            let kept = row.len().saturating_sub(cut);
            let found = unpacked(&row[..kept]);
            prop_assert!(found.is_none_or(|found| keys.starts_with(&found)));
        }
    }
}
