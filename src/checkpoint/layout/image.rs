//! All rows of a link, from its items.

use std::collections::BTreeMap;

use super::head::Head;
use super::items::{damaged, part_sort, parts_of, row_key, unpack, value_of, whole};
use crate::checkpoint::StoreResult;
use crate::checkpoint::ledger::{self, KeyValues, Kind, Rows, Span, StoredDoubt};
use crate::checkpoint::pages::{PAGE_PREFIX, page_of};
use crate::checkpoint::rows::Fence;
use crate::checkpoint::table::Fields;

/// All rows of a link but the contents of its dead letters, as they are in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    place: String,
    pub(crate) head: Option<Head>,
    rows: BTreeMap<(Kind, Vec<u8>), Vec<u8>>,
    /// The rows that are items, by sort key: of how many.
    stored: BTreeMap<Vec<u8>, u16>,
}

impl Rows for Image {
    fn place(&self) -> &str {
        &self.place
    }

    fn get(&self, _link: &str, kind: Kind, key: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        Ok(self.rows.get(&(kind, key.to_vec())).cloned())
    }

    fn scan(&self, _link: &str, kind: Kind, span: Span<'_>) -> StoreResult<KeyValues> {
        let rows = self.rows.range((kind, span.from.to_vec())..);
        let rows = rows.take_while(|((k, key), _)| *k == kind && key.starts_with(span.prefix));
        Ok(rows.take(span.limit).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn next_link(&self, _after: Option<&str>) -> StoreResult<Option<String>> {
        Ok(None)
    }

    fn write(&mut self, _link: &str, kind: Kind, key: &[u8], value: Option<&[u8]>) -> StoreResult<()> {
        match value {
            // They may be many, and large.
            Some(_) if kind == Kind::DeadLetter => drop(self.rows.insert((kind, key.to_vec()), Vec::new())),
            Some(value) => drop(self.rows.insert((kind, key.to_vec()), value.to_vec())),
            None => drop(self.rows.remove(&(kind, key.to_vec()))),
        }
        Ok(())
    }
}

/// Items of a link, as they were read.
#[derive(Debug, Default)]
pub(crate) struct Items {
    /// Of [`Places::rows`](super::Places::rows) and [`Places::letter_numbers`](super::Places::letter_numbers).
    pub(crate) rows: Vec<(Vec<u8>, Fields)>,
    /// Of [`Places::parts`](super::Places::parts).
    pub(crate) parts: Vec<(Vec<u8>, Fields)>,
}

impl Image {
    /// What the items say. Items of kinds that a later version may know are left alone.
    pub(crate) fn of_items(place: &str, items: Items) -> StoreResult<Self> {
        let mut image = Self { place: place.to_owned(), head: None, rows: BTreeMap::new(), stored: BTreeMap::new() };
        let parts: BTreeMap<Vec<u8>, Fields> = items.parts.into_iter().collect();
        let mut packs = Vec::new();
        for (sort, fields) in items.rows {
            let Some(kind) = sort.first().and_then(|number| Kind::of_number(*number)) else { continue };
            let num_parts = parts_of(&fields);
            match kind {
                Kind::Fence => {
                    image.head = Some(Head::parse(&fields, place)?);
                    continue;
                }
                Kind::DeadLetter => {
                    image.rows.insert((kind, row_key(&sort, &fields)), Vec::new());
                }
                Kind::DoubtOfPage => packs.push((sort.clone(), value_of(place, &fields)?)),
                _ => {
                    let more = (1..num_parts).map(|part| parts.get(&part_sort(&sort, part)));
                    let value = whole(place, &fields, more)?;
                    image.rows.insert((kind, row_key(&sort, &fields)), value);
                }
            }
            image.stored.insert(sort, num_parts);
        }
        for (sort, pack) in packs {
            image.unpack(&sort, &pack)?;
        }
        if let Some(head) = &image.head {
            let fence = serde_json::to_vec(&head.fence).map_err(|_| damaged(place, "the head of a link"))?;
            image.rows.insert((Kind::Fence, Vec::new()), fence);
        }
        Ok(image)
    }

    /// Lists the keys of a pack. One that is a row of its own is in doubt for more than this page.
    fn unpack(&mut self, sort: &[u8], pack: &[u8]) -> StoreResult<()> {
        let page = sort.get(1..1 + PAGE_PREFIX).and_then(page_of);
        let (Some(page), Some(doubts)) = (page, unpack(pack)) else {
            return Err(damaged(&self.place, "a pack of keys in doubt"));
        };
        for (key, key_json, until) in doubts {
            if self.rows.contains_key(&(Kind::Doubt, key.clone())) {
                continue;
            }
            let doubt = StoredDoubt { key_json, until, page: Some(page), under_way: Some(page.0) };
            let value = serde_json::to_vec(&doubt).map_err(|_| damaged(&self.place, "a key in doubt"))?;
            self.rows.insert((Kind::DoubtOfPage, ledger::page_entry(page, &key)), Vec::new());
            self.rows.insert((Kind::Doubt, key), value);
        }
        Ok(())
    }

    /// The fence that the rows are under.
    pub(crate) fn fence(&self) -> Option<&Fence> {
        self.head.as_ref().map(|head| &head.fence)
    }

    /// Of how many items a row is; none: it is not there.
    pub(super) fn parts(&self, sort: &[u8]) -> u16 {
        self.stored.get(sort).copied().unwrap_or(0)
    }

    /// A row is of so many items now.
    pub(super) fn set_parts(&mut self, sort: Vec<u8>, parts: Option<u16>) {
        match parts {
            Some(parts) => drop(self.stored.insert(sort, parts)),
            None => drop(self.stored.remove(&sort)),
        }
    }
}
