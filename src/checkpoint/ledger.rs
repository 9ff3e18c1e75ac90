//! Pure: the rows of all links as ordered keys and bytes, and each operation of a store over them.
//!
//! A medium ([`Rows`]) keeps bytes under (link, kind, key), in that order, and knows no rule; the rules are in
//! [`super::rules`]. A commit is judged as a whole on an [`Overlay`] before its first byte reaches the medium, so a
//! refused one leaves nothing behind. Values are JSON; an error names row and place, never what a row holds.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::pages::{self, page_of, page_prefix};
use super::rows::{DeadLetterRow, DoubtRow, ExportRequestRow, Fence, ImportRequestRow, PageId, VerifiedRow};
use super::rules::{self, Listing, Refusal};
use super::{LinkState, StateStore, StateWrite, StoreError, StoreResult};
use crate::model::{CanonicalKey, Key, WallTime};

/// What a row is. The numbers are part of the file's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(super) enum Kind {
    /// The keys of a page of the load, packed: by epoch, page, number. What comes after dead letters is not read with a link.
    PageKeys = 0,
    Link = 1,
    Fence = 2,
    Counters = 3,
    Shard = 4,
    Segment = 5,
    /// By canonical key.
    Doubt = 6,
    /// Index of doubts of a page, by epoch, page, key; no value. Of versions that had a row for each of a page's keys.
    DoubtOfPage = 7,
    Gap = 8,
    DeadLetter = 9,
    /// Not of the link's owner.
    Verified = 10,
    /// Not of the link's owner.
    ExportRequest = 11,
    /// Likewise.
    ImportRequest = 12,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::PageKeys,
        Self::Link,
        Self::Fence,
        Self::Counters,
        Self::Shard,
        Self::Segment,
        Self::Doubt,
        Self::DoubtOfPage,
        Self::Gap,
        Self::DeadLetter,
        Self::Verified,
        Self::ExportRequest,
        Self::ImportRequest,
    ];

    /// The kind with this number.
    pub(super) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::PageKeys => "page of keys",
            Self::Link => "link",
            Self::Fence => "fence",
            Self::Counters => "counters",
            Self::Shard => "shard",
            Self::Segment => "segment",
            Self::Doubt => "doubt",
            Self::DoubtOfPage => "doubt-of-page",
            Self::Gap => "gap",
            Self::DeadLetter => "dead letter",
            Self::Verified => "verification",
            Self::ExportRequest => "export request",
            Self::ImportRequest => "import request",
        }
    }
}

/// Which rows of a kind: keys that begin with `prefix` and are not below `from`, ascending, at most `limit`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<'a> {
    pub prefix: &'a [u8],
    pub from: &'a [u8],
    pub limit: usize,
}

impl<'a> Span<'a> {
    const ALL: Span<'static> = Span { prefix: &[], from: &[], limit: usize::MAX };

    pub(super) const fn of(prefix: &'a [u8]) -> Self {
        Self { prefix, from: prefix, limit: usize::MAX }
    }
}

/// Keys and values of a span.
pub(super) type KeyValues = Vec<(Vec<u8>, Vec<u8>)>;

/// A medium that keeps rows in the order of (link, kind, key).
pub(super) trait Rows {
    /// Its name, for errors.
    fn place(&self) -> &str;
    /// The value of a row.
    fn get(&self, link: &str, kind: Kind, key: &[u8]) -> StoreResult<Option<Vec<u8>>>;
    /// The rows of a span.
    fn scan(&self, link: &str, kind: Kind, span: Span<'_>) -> StoreResult<KeyValues>;
    /// The first link, in order, that has a row and whose name comes after this one.
    fn next_link(&self, after: Option<&str>) -> StoreResult<Option<String>>;
    /// Writes a row, or removes it.
    fn write(&mut self, link: &str, kind: Kind, key: &[u8], value: Option<&[u8]>) -> StoreResult<()>;
}

/// Runs work over rows, one after the other, in the order of the calls, each durable before its answer.
///
/// The work is queued when `submit` is called, not when the future is first polled.
pub(super) trait Engine: Send + Sync + 'static {
    fn place_name(&self) -> String;

    fn submit<T, F>(&self, work: F) -> BoxFuture<'static, StoreResult<T>>
    where
        T: Send + 'static,
        F: FnOnce(&mut dyn Rows) -> StoreResult<T> + Send + 'static;
}

impl<E: Engine> StateStore for E {
    fn place(&self) -> String {
        self.place_name()
    }

    fn links(&self) -> BoxFuture<'_, StoreResult<Vec<String>>> {
        self.submit(|rows| links(rows))
    }

    fn read<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<LinkState>> {
        let link = link.to_owned();
        self.submit(move |rows| read(rows, &link))
    }

    fn take<'a>(&'a self, link: &'a str, owner: &'a str) -> BoxFuture<'a, StoreResult<(Fence, LinkState)>> {
        let (link, owner) = (link.to_owned(), owner.to_owned());
        self.submit(move |rows| take(rows, &link, &owner))
    }

    fn commit<'a>(
        &'a self,
        link: &'a str,
        fence: &'a Fence,
        writes: Vec<StateWrite>,
    ) -> BoxFuture<'a, StoreResult<()>> {
        let (link, fence) = (link.to_owned(), fence.clone());
        self.submit(move |rows| commit(rows, &link, &fence, writes))
    }

    fn dead_letters<'a>(
        &'a self,
        link: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, StoreResult<Vec<DeadLetterRow>>> {
        let link = link.to_owned();
        self.submit(move |rows| dead_letters(rows, &link, after, limit))
    }

    fn doubt<'a>(&'a self, link: &'a str, key: &'a CanonicalKey) -> BoxFuture<'a, StoreResult<Option<DoubtRow>>> {
        let (link, key) = (link.to_owned(), key.clone());
        self.submit(move |rows| doubt(rows, &link, key))
    }

    fn note_verified<'a>(&'a self, link: &'a str, row: &'a VerifiedRow) -> BoxFuture<'a, StoreResult<()>> {
        let (link, row) = (link.to_owned(), row.clone());
        self.submit(move |rows| {
            let mut overlay = Overlay::new(rows, &link, 0);
            overlay.put(Kind::Verified, &[], &row)?;
            let changes = overlay.changes;
            store(rows, &link, changes)
        })
    }

    fn verified<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<VerifiedRow>>> {
        let link = link.to_owned();
        self.submit(move |rows| get(rows, &link, Kind::Verified, &[]))
    }

    fn note_export<'a>(
        &'a self,
        link: &'a str,
        row: &'a ExportRequestRow,
        replaces: Option<&'a ExportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        let (link, row, replaces) = (link.to_owned(), row.clone(), replaces.map(ExportRequestRow::mark));
        self.submit(move |rows| note_request(rows, &link, Kind::ExportRequest, &row, replaces, ExportRequestRow::mark))
    }

    fn export_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ExportRequestRow>>> {
        let link = link.to_owned();
        self.submit(move |rows| get(rows, &link, Kind::ExportRequest, &[]))
    }

    fn note_import<'a>(
        &'a self,
        link: &'a str,
        row: &'a ImportRequestRow,
        replaces: Option<&'a ImportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        let (link, row, replaces) = (link.to_owned(), row.clone(), replaces.map(ImportRequestRow::mark));
        self.submit(move |rows| note_request(rows, &link, Kind::ImportRequest, &row, replaces, ImportRequestRow::mark))
    }

    fn import_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ImportRequestRow>>> {
        let link = link.to_owned();
        self.submit(move |rows| get(rows, &link, Kind::ImportRequest, &[]))
    }
}

/// Puts the only row of such a kind in the place of the one with this mark. Answers whether it is there now.
fn note_request<T: Serialize + DeserializeOwned>(
    rows: &mut dyn Rows,
    link: &str,
    kind: Kind,
    row: &T,
    replaces: Option<String>,
    mark: fn(&T) -> String,
) -> StoreResult<bool> {
    let known = get(rows, link, kind, &[])?.as_ref().map(mark);
    if known.as_ref() == Some(&mark(row)) {
        return Ok(true);
    }
    if known != replaces {
        return Ok(false);
    }
    let mut overlay = Overlay::new(rows, link, 0);
    overlay.put(kind, &[], row)?;
    let changes = overlay.changes;
    store(rows, link, changes)?;
    Ok(true)
}

/// Numbers that outlive the rows they count.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Counters {
    dead_letters: u64,
    last_dead_letter: u64,
}

/// A [`DoubtRow`] without its key, which is the row's own.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredDoubt {
    pub(super) key_json: String,
    pub(super) until: WallTime,
    pub(super) page: Option<(u64, PageId)>,
    /// The epoch of the owner that may have such a write on the wire.
    #[serde(default = "of_nobody_known")]
    pub(super) under_way: Option<u64>,
}

/// A row that does not say it may be of anyone: epochs begin with 1.
#[expect(clippy::unnecessary_wraps, reason = "it stands for a field that is absent")]
const fn of_nobody_known() -> Option<u64> {
    Some(0)
}

impl StoredDoubt {
    fn into_row(self, key: CanonicalKey) -> DoubtRow {
        let Self { key_json, until, page, under_way } = self;
        DoubtRow { key, key_json, until, page: page.map(|(_, page)| page), under_way: under_way.is_some() }
    }
}

pub(super) fn page_entry((epoch, page): (u64, PageId), key: &[u8]) -> Vec<u8> {
    [&page_prefix(epoch, page), key].concat()
}

pub(super) fn decode<T: DeserializeOwned>(rows: &dyn Rows, link: &str, kind: Kind, value: &[u8]) -> StoreResult<T> {
    serde_json::from_slice(value).map_err(|error| {
        // serde's own text may quote the row.
        let what = format!("a {} row of link {link}: {:?} at byte {}", kind.as_str(), error.classify(), error.column());
        StoreError::Damaged { place: rows.place().to_owned(), what }
    })
}

fn get<T: DeserializeOwned>(rows: &dyn Rows, link: &str, kind: Kind, key: &[u8]) -> StoreResult<Option<T>> {
    rows.get(link, kind, key)?.map(|value| decode(rows, link, kind, &value)).transpose()
}

fn all<T: DeserializeOwned>(rows: &dyn Rows, link: &str, kind: Kind) -> StoreResult<Vec<T>> {
    rows.scan(link, kind, Span::ALL)?.iter().map(|(_, value)| decode(rows, link, kind, value)).collect()
}

fn links(rows: &dyn Rows) -> StoreResult<Vec<String>> {
    let mut links: Vec<String> = Vec::new();
    while let Some(link) = rows.next_link(links.last().map(String::as_str))? {
        links.push(link);
    }
    Ok(links)
}

pub(super) fn read(rows: &dyn Rows, link: &str) -> StoreResult<LinkState> {
    let doubts = rows.scan(link, Kind::Doubt, Span::ALL)?.into_iter().map(|(key, value)| {
        let stored: StoredDoubt = decode(rows, link, Kind::Doubt, &value)?;
        Ok(stored.into_row(CanonicalKey::from_canonical(key)))
    });
    let mut doubts = doubts.collect::<StoreResult<Vec<_>>>()?;
    doubts.extend(of_pages(rows, link)?);
    let counters: Counters = get(rows, link, Kind::Counters, &[])?.unwrap_or_default();
    Ok(LinkState {
        link: get(rows, link, Kind::Link, &[])?,
        fence: get(rows, link, Kind::Fence, &[])?,
        shards: all(rows, link, Kind::Shard)?,
        segments: all(rows, link, Kind::Segment)?,
        doubts,
        gaps: all(rows, link, Kind::Gap)?,
        dead_letters: (counters.dead_letters, counters.last_dead_letter),
    })
}

/// The keys of the pages that are in flight, by page.
fn of_pages(rows: &dyn Rows, link: &str) -> StoreResult<Vec<DoubtRow>> {
    let mut doubts = Vec::new();
    for (row, value) in rows.scan(link, Kind::PageKeys, Span::ALL)? {
        let (Some((_, page)), Some(keys)) = (page_of(&row), pages::unpacked(&value)) else {
            let what = format!("a {} row of link {link}", Kind::PageKeys.as_str());
            return Err(StoreError::Damaged { place: rows.place().to_owned(), what });
        };
        doubts.extend(keys.into_iter().map(|key| DoubtRow::of_page(key, page)));
    }
    Ok(doubts)
}

fn take(rows: &mut dyn Rows, link: &str, owner: &str) -> StoreResult<(Fence, LinkState)> {
    let before = read(rows, link)?;
    let fence = rules::next_fence(before.fence.as_ref(), owner);
    let mut overlay = Overlay::new(rows, link, fence.epoch);
    overlay.put(Kind::Fence, &[], &fence)?;
    let changes = overlay.changes;
    store(rows, link, changes)?;
    Ok((fence, before))
}

fn commit(rows: &mut dyn Rows, link: &str, fence: &Fence, writes: Vec<StateWrite>) -> StoreResult<()> {
    let held: Option<Fence> = get(rows, link, Kind::Fence, &[])?;
    if !rules::is_owner(held.as_ref(), fence) {
        return Err(StoreError::Fenced { link: link.to_owned() });
    }
    let mut overlay = Overlay::new(rows, link, fence.epoch);
    writes.into_iter().try_for_each(|write| overlay.apply(write))?;
    let changes = overlay.changes;
    store(rows, link, changes)
}

pub(super) fn dead_letters(rows: &dyn Rows, link: &str, after: u64, limit: usize) -> StoreResult<Vec<DeadLetterRow>> {
    let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
    let span = Span { prefix: &[], from: &from.to_be_bytes(), limit };
    let found = rows.scan(link, Kind::DeadLetter, span)?;
    found.iter().map(|(_, value)| decode(rows, link, Kind::DeadLetter, value)).collect()
}

pub(super) fn doubt(rows: &dyn Rows, link: &str, key: CanonicalKey) -> StoreResult<Option<DoubtRow>> {
    let stored: Option<StoredDoubt> = get(rows, link, Kind::Doubt, key.as_bytes())?;
    match stored {
        Some(stored) => Ok(Some(stored.into_row(key))),
        None => Ok(of_pages(rows, link)?.into_iter().find(|row| row.key == key)),
    }
}

pub(super) type Changes = BTreeMap<(Kind, Vec<u8>), Option<Vec<u8>>>;

fn store(rows: &mut dyn Rows, link: &str, changes: Changes) -> StoreResult<()> {
    changes.into_iter().try_for_each(|((kind, key), value)| rows.write(link, kind, &key, value.as_deref()))
}

/// The rows of a link as they will be, should the commit be accepted.
pub(super) struct Overlay<'a> {
    rows: &'a dyn Rows,
    link: &'a str,
    epoch: u64,
    pub(super) changes: Changes,
    /// What was changed since this was last taken, in order; kept only where somebody wants it.
    touched: Option<Vec<(Kind, Vec<u8>)>>,
}

impl<'a> Overlay<'a> {
    fn new(rows: &'a dyn Rows, link: &'a str, epoch: u64) -> Self {
        Self { rows, link, epoch, changes: Changes::new(), touched: None }
    }

    /// An overlay that notes what each write changes: for a medium that cannot write a commit at once.
    pub(super) fn noting(rows: &'a dyn Rows, link: &'a str, epoch: u64) -> Self {
        Self { touched: Some(Vec::new()), ..Self::new(rows, link, epoch) }
    }

    /// What was changed since the last call, in order.
    pub(super) fn take_touched(&mut self) -> Vec<(Kind, Vec<u8>)> {
        self.touched.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn change(&mut self, kind: Kind, key: Vec<u8>, value: Option<Vec<u8>>) {
        if let Some(touched) = &mut self.touched {
            touched.push((kind, key.clone()));
        }
        self.changes.insert((kind, key), value);
    }

    pub(super) fn apply(&mut self, write: StateWrite) -> StoreResult<()> {
        match write {
            StateWrite::Link(row) => self.put(Kind::Link, &[], &row),
            StateWrite::Shard(row) => {
                let key = row.id.as_str().as_bytes();
                let check = rules::check_shard(self.get(Kind::Shard, key)?.as_ref(), &row);
                self.accept(check)?;
                self.put(Kind::Shard, key, &row)
            }
            StateWrite::ForgetShard(id) => {
                let key = id.as_str().as_bytes();
                let check = rules::check_forget(self.get(Kind::Shard, key)?.as_ref());
                self.accept(check)?;
                self.remove(Kind::Shard, key);
                Ok(())
            }
            StateWrite::Segment(row) => {
                let key = row.segment.to_be_bytes();
                let check = rules::check_segment(self.get(Kind::Segment, &key)?.as_ref(), &row);
                self.accept(check)?;
                self.put(Kind::Segment, &key, &row)
            }
            StateWrite::ForgetSegments => {
                self.keys(Kind::Segment, &[])?.iter().for_each(|key| self.remove(Kind::Segment, key));
                Ok(())
            }
            StateWrite::Doubt(row) => self.list(row),
            StateWrite::Page(page, keys) => self.list_page(page, &keys),
            StateWrite::ForgetPages => self.forget_pages(),
            StateWrite::Settle(row) => self.settle(&row),
            StateWrite::SettlePage(page) => self.settle_page(page),
            StateWrite::Gap(row) => self.put(Kind::Gap, &row.id.to_be_bytes(), &row),
            StateWrite::DeadLetter(row) => self.set_aside(&row),
            StateWrite::RemoveDeadLetter(id) => self.remove_dead_letter(id),
        }
    }

    fn list(&mut self, row: DoubtRow) -> StoreResult<()> {
        let key = row.key.as_bytes();
        let old = self.get::<StoredDoubt>(Kind::Doubt, key)?;
        let old = old.map(|stored| Listing { until: stored.until, page: stored.page, under_way: stored.under_way });
        let merged = rules::merge(old, Listing::of(&row, self.epoch), self.epoch);
        if let Some(page) = old.and_then(|old| old.page) {
            self.remove(Kind::DoubtOfPage, &page_entry(page, key));
        }
        if let Some(page) = merged.page {
            self.change(Kind::DoubtOfPage, page_entry(page, key), Some(Vec::new()));
        }
        let Listing { until, page, under_way } = merged;
        let stored = StoredDoubt { key_json: row.key_json, until, page, under_way };
        self.put(Kind::Doubt, key, &stored)
    }

    fn settle(&mut self, row: &DoubtRow) -> StoreResult<()> {
        let key = row.key.as_bytes();
        let Some(listed) = self.get::<StoredDoubt>(Kind::Doubt, key)? else { return Ok(()) };
        if rules::is_settled_by(listed.until, row.until) {
            if let Some(page) = listed.page {
                self.remove(Kind::DoubtOfPage, &page_entry(page, key));
            }
            self.remove(Kind::Doubt, key);
        }
        Ok(())
    }

    fn settle_page(&mut self, page: PageId) -> StoreResult<()> {
        let prefix = page_prefix(self.epoch, page);
        for entry in self.keys(Kind::DoubtOfPage, &prefix)? {
            self.remove(Kind::Doubt, entry.get(prefix.len()..).unwrap_or_default());
            self.remove(Kind::DoubtOfPage, &entry);
        }
        self.keys(Kind::PageKeys, &prefix)?.iter().for_each(|key| self.remove(Kind::PageKeys, key));
        Ok(())
    }

    fn list_page(&mut self, page: PageId, keys: &[Key]) -> StoreResult<()> {
        let prefix = page_prefix(self.epoch, page);
        // A page that is listed in two goes is one page.
        let listed = self.keys(Kind::PageKeys, &prefix)?.len();
        for (number, row) in pages::packed(keys).into_iter().enumerate() {
            self.change(Kind::PageKeys, pages::row_key(&prefix, listed + number), Some(row));
        }
        Ok(())
    }

    fn forget_pages(&mut self) -> StoreResult<()> {
        let epoch = self.epoch;
        let is_old = |key: &Vec<u8>| page_of(key).is_none_or(|(of, _)| of != epoch);
        let old: Vec<_> = self.keys(Kind::PageKeys, &[])?.into_iter().filter(is_old).collect();
        old.iter().for_each(|key| self.remove(Kind::PageKeys, key));
        Ok(())
    }

    fn set_aside(&mut self, row: &DeadLetterRow) -> StoreResult<()> {
        let key = row.id.to_be_bytes();
        let mut counters: Counters = self.get(Kind::Counters, &[])?.unwrap_or_default();
        if self.bytes(Kind::DeadLetter, &key)?.is_none() {
            counters.dead_letters = counters.dead_letters.saturating_add(1);
        }
        counters.last_dead_letter = counters.last_dead_letter.max(row.id);
        self.put(Kind::Counters, &[], &counters)?;
        self.put(Kind::DeadLetter, &key, row)
    }

    fn remove_dead_letter(&mut self, id: u64) -> StoreResult<()> {
        let key = id.to_be_bytes();
        if self.bytes(Kind::DeadLetter, &key)?.is_none() {
            return Ok(());
        }
        let mut counters: Counters = self.get(Kind::Counters, &[])?.unwrap_or_default();
        counters.dead_letters = counters.dead_letters.saturating_sub(1);
        self.put(Kind::Counters, &[], &counters)?;
        self.remove(Kind::DeadLetter, &key);
        Ok(())
    }

    fn accept(&self, check: Result<(), Refusal>) -> StoreResult<()> {
        check.map_err(|what| StoreError::Invariant { link: self.link.to_owned(), what })
    }

    pub(super) fn bytes(&self, kind: Kind, key: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        match self.changes.get(&(kind, key.to_vec())) {
            Some(changed) => Ok(changed.clone()),
            None => self.rows.get(self.link, kind, key),
        }
    }

    fn get<T: DeserializeOwned>(&self, kind: Kind, key: &[u8]) -> StoreResult<Option<T>> {
        self.bytes(kind, key)?.map(|value| decode(self.rows, self.link, kind, &value)).transpose()
    }

    /// Keys with this prefix, as this commit leaves them so far.
    pub(super) fn keys(&self, kind: Kind, prefix: &[u8]) -> StoreResult<Vec<Vec<u8>>> {
        let stored = self.rows.scan(self.link, kind, Span::of(prefix))?.into_iter().map(|(key, _)| key);
        let stored = stored.filter(|key| !self.changes.contains_key(&(kind, key.clone())));
        let changed = self.changes.range((kind, prefix.to_vec())..).filter(|(_, value)| value.is_some());
        let changed = changed.map(|((kind, key), _)| (*kind, key));
        let changed = changed.take_while(|(at, key)| *at == kind && key.starts_with(prefix));
        Ok(stored.chain(changed.map(|(_, key)| key.clone())).collect())
    }

    fn put<T: Serialize>(&mut self, kind: Kind, key: &[u8], value: &T) -> StoreResult<()> {
        let value = serde_json::to_vec(value).map_err(|error| StoreError::Invariant {
            link: self.link.to_owned(),
            what: format!("a {} row has no JSON form: {:?}", kind.as_str(), error.classify()),
        })?;
        self.change(kind, key.to_vec(), Some(value));
        Ok(())
    }

    fn remove(&mut self, kind: Kind, key: &[u8]) {
        self.change(kind, key.to_vec(), None);
    }
}
