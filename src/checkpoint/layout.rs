//! Pure: a link's rows as the items of a table, and a commit as transactions.
//!
//! The owner keeps all rows of its link in memory ([`Image`]), which it may, because nobody else writes them; so a commit is
//! judged by the ledger's own rules without a read, and what it changes becomes items.
//!
//! # Items
//! A link is one partition, `NAMESPACE/link/NAME`. An item's sort key is the number of its row's kind and the row's key
//! (beyond 900 bytes: its beginning and a digest, and the whole key beside the value). A value of more than 300 KiB goes
//! on in further items. Keys in doubt because of a page of the load, thousands at a time, are no items of their own: a
//! page is a few packs of them, and its index is worked out when they are read.
//!
//! The link's head holds the owner, the epoch, and the number of the last transaction: see [`Head`].
//!
//! # Order
//! [`plan`] cuts a commit between its writes, so that each transaction leaves the state as it is after some prefix of
//! them, with two exceptions that no reader can be hurt by. What takes keys out of a pack goes last: until then a key is in
//! doubt for longer than need be. And a single write that is larger than a transaction is itself cut: forgetting thousands
//! of segments, which is begun when nobody needs them any more, or a page too large for one, which nobody relies on before
//! its commit is done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::ledger::{self, Changes, KeyValues, Kind, Overlay, PAGE_PREFIX, Rows, Span, StoredDoubt};
use super::rows::{Fence, PageId};
use super::table::{Field, Fields, Guard, ItemKey, ItemWrite, MAX_TRANSACTION_ITEMS, Range};
use super::{Sign, StateWrite, StoreError, StoreResult};
use crate::model::WallTime;

/// Longest row key that is part of a sort key as it is. The service allows sort keys of 1,024 bytes.
const MAX_KEY: usize = 900;
/// Bytes of a value in one item. The service allows items of 400 KB, names and all.
const MAX_PART: usize = 300 << 10;
/// Bytes of a pack, about.
const MAX_PACK: usize = 200 << 10;
/// Bytes of a transaction's values, about: a pack or a part less than the service's 4 MB.
const MAX_TRANSACTION: usize = 3 << 20;
/// A step is cut after so many rows, or so many bytes: then it is one transaction.
const STEP: (usize, usize) = (90, 2 << 20);
/// First byte of the sort keys of a value's further items; the kind follows.
const PART: u8 = 0xF0;

/// The value of a row, or a part of it.
pub(super) const VALUE: &str = "v";
/// The key of a row, where the sort key does not hold all of it.
const KEY: &str = "k";
/// Of how many items a row is, if not of one.
const PARTS: &str = "n";
const OWNER: &str = "owner";
const EPOCH: &str = "epoch";
const SEQ: &str = "seq";
const NONCE: &str = "nonce";
const RELEASED: &str = "released";
const COUNTER: &str = "counter";
const AT: &str = "at";
const LEASE: &str = "lease_millis";
const REPORT: &str = "report";

/// Where the rows of a namespace are.
#[derive(Debug, Clone)]
pub(super) struct Places {
    namespace: String,
}

impl Places {
    pub(super) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    /// The item that says which layout the whole table has.
    pub(super) fn version() -> ItemKey {
        ItemKey { partition: "dynaferry".to_owned(), sort: b"schema_version".to_vec() }
    }

    fn partition(&self, link: &str) -> String {
        format!("{}/link/{link}", self.namespace)
    }

    /// The head of a link.
    pub(super) fn head(&self, link: &str) -> ItemKey {
        ItemKey { partition: self.partition(link), sort: vec![Kind::Fence as u8] }
    }

    /// The item that says that there is such a link.
    pub(super) fn entry(&self, link: &str) -> ItemKey {
        ItemKey { partition: format!("{}/links", self.namespace), sort: link.as_bytes().to_vec() }
    }

    /// All links.
    pub(super) fn entries(&self) -> Range {
        self.range(format!("{}/links", self.namespace), vec![0], vec![0xFF])
    }

    /// What the last comparison of a link's tables found. In no link's own partition, whose rows are its owner's alone.
    pub(super) fn verified(&self, link: &str) -> ItemKey {
        ItemKey { partition: format!("{}/verified", self.namespace), sort: link.as_bytes().to_vec() }
    }

    /// A worker's pulse.
    pub(super) fn worker(&self, worker: &str) -> ItemKey {
        ItemKey { partition: format!("{}/workers", self.namespace), sort: worker.as_bytes().to_vec() }
    }

    /// All workers.
    pub(super) fn workers(&self) -> Range {
        self.range(format!("{}/workers", self.namespace), vec![0], vec![0xFF])
    }

    /// Everything of a link but dead letters.
    pub(super) fn rows(&self, link: &str) -> Range {
        self.range(self.partition(link), vec![0], vec![Kind::DeadLetter as u8])
    }

    /// The further items of those rows.
    pub(super) fn parts(&self, link: &str) -> Range {
        self.range(self.partition(link), vec![PART, 0], vec![PART, Kind::DeadLetter as u8])
    }

    /// Dead letters with a number of this one or above.
    pub(super) fn letters(&self, link: &str, from: u64) -> Range {
        let from = [&[Kind::DeadLetter as u8][..], &from.to_be_bytes()].concat();
        self.range(self.partition(link), from, vec![Kind::DeadLetter as u8 + 1])
    }

    /// The same, without what they hold.
    pub(super) fn letter_numbers(&self, link: &str) -> Range {
        Range { only: &[PARTS], ..self.letters(link, 0) }
    }

    /// A further item of a row.
    pub(super) fn part(&self, link: &str, sort: &[u8], part: u16) -> ItemKey {
        ItemKey { partition: self.partition(link), sort: part_sort(sort, part) }
    }

    #[expect(clippy::unused_self, reason = "ranges are of a namespace")]
    fn range(&self, partition: String, from: Vec<u8>, to: Vec<u8>) -> Range {
        Range { partition, from, to, after: None, limit: None, only: &[] }
    }
}

/// The head of a link: who may write it.
///
/// Each transaction of the owner counts `seq` up by one, and asks that owner, epoch and `seq` be as it knows them. So no
/// write of a superseded owner happens; and none happens twice or late: an attempt whose answer was lost, and that arrives
/// after the next one, finds another `seq`. The nonce tells an attempt of one's own from anybody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) fence: Fence,
    pub(super) seq: u64,
    pub(super) nonce: String,
    /// The owner let go of the link, and sends nothing more.
    pub(super) released: bool,
}

impl Head {
    pub(super) fn fields(&self) -> Fields {
        Fields::from([
            (OWNER.to_owned(), Field::Text(self.fence.owner.clone())),
            (EPOCH.to_owned(), Field::Number(self.fence.epoch)),
            (SEQ.to_owned(), Field::Number(self.seq)),
            (NONCE.to_owned(), Field::Text(self.nonce.clone())),
            (RELEASED.to_owned(), Field::Flag(self.released)),
        ])
    }

    pub(super) fn parse(fields: &Fields, place: &str) -> StoreResult<Self> {
        match (fields.get(OWNER), fields.get(EPOCH), fields.get(SEQ), fields.get(NONCE), fields.get(RELEASED)) {
            (
                Some(Field::Text(owner)),
                Some(Field::Number(epoch)),
                Some(Field::Number(seq)),
                Some(Field::Text(nonce)),
                Some(Field::Flag(released)),
            ) => {
                let fence = Fence { owner: owner.clone(), epoch: *epoch };
                Ok(Self { fence, seq: *seq, nonce: nonce.clone(), released: *released })
            }
            _ => Err(StoreError::Damaged { place: place.to_owned(), what: "the head of a link".to_owned() }),
        }
    }

    /// The link is still this owner's.
    pub(super) fn guard_of_owner(&self) -> Guard {
        let Fence { owner, epoch } = &self.fence;
        Guard::Same(vec![(OWNER, Field::Text(owner.clone())), (EPOCH, Field::Number(*epoch))])
    }

    /// The same, and its last transaction is the last one that we know.
    pub(super) fn guard_of_writer(&self) -> Guard {
        let Guard::Same(mut fields) = self.guard_of_owner() else { return Guard::Absent };
        fields.push((SEQ, Field::Number(self.seq)));
        Guard::Same(fields)
    }
}

/// A worker's row.
pub(super) fn sign_fields(sign: &Sign) -> Fields {
    Fields::from([
        (COUNTER.to_owned(), Field::Number(sign.counter)),
        (LEASE.to_owned(), Field::Number(u64::try_from(sign.lease.as_millis()).unwrap_or(u64::MAX))),
        (AT.to_owned(), Field::Number(u64::try_from(sign.at.millis()).unwrap_or(0))),
        (REPORT.to_owned(), Field::Text(sign.report.clone())),
    ])
}

/// What a worker's row says; `None`: it is of another kind.
pub(super) fn sign_of(sort: &[u8], fields: &Fields) -> Option<Sign> {
    let worker = std::str::from_utf8(sort).ok()?.to_owned();
    let (Field::Number(at), Field::Text(report)) = (fields.get(AT)?, fields.get(REPORT)?) else { return None };
    let at = WallTime::from_millis(i64::try_from(*at).unwrap_or(i64::MAX));
    let lease = lease_of(fields)?;
    Some(Sign { worker, counter: counter_of(fields)?, lease, at, report: report.clone() })
}

/// A worker's number.
pub(super) fn counter_of(fields: &Fields) -> Option<u64> {
    match fields.get(COUNTER)? {
        Field::Number(counter) => Some(*counter),
        _ => None,
    }
}

/// How long a worker may be taken to live.
pub(super) fn lease_of(fields: &Fields) -> Option<Duration> {
    match fields.get(LEASE)? {
        Field::Number(millis) => Some(Duration::from_millis(*millis)),
        _ => None,
    }
}

/// The number of the sign before.
pub(super) fn guard_of_counter(counter: u64) -> Guard {
    Guard::Same(vec![(COUNTER, Field::Number(counter))])
}

/// All rows of a link but the contents of its dead letters, as they are in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    place: String,
    pub(super) head: Option<Head>,
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
pub(super) struct Items {
    /// Of [`Places::rows`] and [`Places::letter_numbers`].
    pub(super) rows: Vec<(Vec<u8>, Fields)>,
    /// Of [`Places::parts`].
    pub(super) parts: Vec<(Vec<u8>, Fields)>,
}

impl Image {
    /// What the items say. Items of kinds that a later version may know are left alone.
    pub(super) fn of_items(place: &str, items: Items) -> StoreResult<Self> {
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
    pub(super) fn fence(&self) -> Option<&Fence> {
        self.head.as_ref().map(|head| &head.fence)
    }

    /// A commit was written, and the head is this one now.
    pub(super) fn apply(&mut self, link: &str, plan: Plan, head: Head) -> StoreResult<()> {
        for ((kind, key), value) in plan.changes {
            self.write(link, kind, &key, value.as_deref())?;
        }
        for (sort, parts) in plan.stored {
            match parts {
                Some(parts) => drop(self.stored.insert(sort, parts)),
                None => drop(self.stored.remove(&sort)),
            }
        }
        self.head = Some(head);
        Ok(())
    }
}

/// A commit as it is to be written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// One transaction each, in this order, besides the head of the link.
    pub(super) steps: Vec<Vec<ItemWrite>>,
    changes: Changes,
    stored: BTreeMap<Vec<u8>, Option<u16>>,
}

/// Judges a commit, and turns it into transactions. Refused: nothing of it may be written.
pub(super) fn plan(
    places: &Places,
    image: &Image,
    link: &str,
    fence: &Fence,
    writes: Vec<StateWrite>,
) -> StoreResult<Plan> {
    let mut planner = Planner {
        partition: places.partition(link),
        link,
        image,
        overlay: Overlay::noting(image, link, fence.epoch),
        plan: Plan::default(),
        dirty: BTreeSet::new(),
        order: Vec::new(),
        shrunk: BTreeSet::new(),
        weight: 0,
    };
    for write in writes {
        if matches!(write, StateWrite::ForgetSegments) {
            planner.cut()?;
        }
        planner.overlay.apply(write)?;
        planner.note()?;
        if planner.order.len() >= STEP.0 || planner.weight >= STEP.1 {
            planner.cut()?;
        }
    }
    let shrunk = std::mem::take(&mut planner.shrunk);
    let shrunk = shrunk.into_iter().map(|page| (Kind::DoubtOfPage, page));
    let shrunk: Vec<Stored> = shrunk.filter(|pack| !planner.dirty.contains(pack)).collect();
    planner.order.extend(shrunk);
    planner.cut()?;
    let Planner { overlay, mut plan, .. } = planner;
    plan.changes = overlay.changes;
    Ok(plan)
}

/// A row as the table keeps it: a row of the ledger, or all packs of a page.
type Stored = (Kind, Vec<u8>);

/// A sort key, the value (`None`: the row goes), and the key where the sort key does not hold all of it.
type Row = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

struct Planner<'a> {
    partition: String,
    link: &'a str,
    image: &'a Image,
    overlay: Overlay<'a>,
    plan: Plan,
    dirty: BTreeSet<Stored>,
    order: Vec<Stored>,
    /// Pages that have fewer keys than their packs.
    shrunk: BTreeSet<Vec<u8>>,
    weight: usize,
}

impl Planner<'_> {
    /// Takes note of what the last write changed.
    fn note(&mut self) -> StoreResult<()> {
        for (kind, key) in self.overlay.take_touched() {
            let stored = match kind {
                Kind::DoubtOfPage => {
                    let page = key.get(..PAGE_PREFIX).unwrap_or_default().to_vec();
                    if self.overlay.bytes(kind, &key)?.is_none() {
                        self.shrunk.insert(page);
                        continue;
                    }
                    self.weight += key.len() * 2;
                    (kind, page)
                }
                Kind::Doubt if !self.is_own_row(&key)? && !self.is_stored(&row_sort(kind, &key)) => continue,
                _ => {
                    self.weight += self.overlay.bytes(kind, &key)?.map_or(0, |value| value.len());
                    (kind, key)
                }
            };
            if self.dirty.insert(stored.clone()) {
                self.order.push(stored);
            }
        }
        Ok(())
    }

    /// Whether a key in doubt is a row of its own now, and not in a pack.
    fn is_own_row(&self, key: &[u8]) -> StoreResult<bool> {
        let Some(value) = self.overlay.bytes(Kind::Doubt, key)? else { return Ok(false) };
        let doubt: StoredDoubt = ledger::decode(self.image, self.link, Kind::Doubt, &value)?;
        Ok(doubt.page.is_none())
    }

    fn is_stored(&self, sort: &[u8]) -> bool {
        self.stored_parts(sort) > 0
    }

    fn stored_parts(&self, sort: &[u8]) -> u16 {
        match self.plan.stored.get(sort) {
            Some(parts) => parts.unwrap_or(0),
            None => self.image.stored.get(sort).copied().unwrap_or(0),
        }
    }

    /// Everything noted so far goes out before anything that comes.
    fn cut(&mut self) -> StoreResult<()> {
        let (mut step, mut bytes) = (Vec::new(), 0);
        self.dirty.clear();
        self.weight = 0;
        for (kind, key) in std::mem::take(&mut self.order) {
            let rows = match kind {
                Kind::DoubtOfPage => self.packs(&key)?,
                Kind::Doubt if !self.is_own_row(&key)? => vec![(row_sort(kind, &key), None, None)],
                _ => {
                    let sort = row_sort(kind, &key);
                    let value = self.overlay.bytes(kind, &key)?;
                    vec![(sort, value, (key.len() > MAX_KEY).then_some(key))]
                }
            };
            for (sort, value, key) in rows {
                let size = value.as_ref().map_or(0, Vec::len) + sort.len();
                let items = self.items(&sort, value, key)?;
                let is_full = step.len() + items.len() >= MAX_TRANSACTION_ITEMS || bytes + size > MAX_TRANSACTION;
                if is_full && !step.is_empty() {
                    self.plan.steps.push(std::mem::take(&mut step));
                    bytes = 0;
                }
                bytes += size;
                step.extend(items);
            }
        }
        if !step.is_empty() {
            self.plan.steps.push(step);
        }
        Ok(())
    }

    /// The packs of a page as it is now. What is left over of them goes.
    fn packs(&self, prefix: &[u8]) -> StoreResult<Vec<Row>> {
        let mut packs: Vec<Vec<u8>> = Vec::new();
        for entry in self.overlay.keys(Kind::DoubtOfPage, prefix)? {
            let key = entry.get(prefix.len()..).unwrap_or_default();
            let Some(value) = self.overlay.bytes(Kind::Doubt, key)? else { continue };
            let doubt: StoredDoubt = ledger::decode(self.image, self.link, Kind::Doubt, &value)?;
            if packs.last().is_none_or(|pack| pack.len() >= MAX_PACK) {
                packs.push(Vec::new());
            }
            if let Some(pack) = packs.last_mut() {
                pack_doubt(pack, key, &doubt);
            }
        }
        let num_packs = packs.len();
        let sort = |number: usize| {
            let number = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
            [&[Kind::DoubtOfPage as u8][..], prefix, &number].concat()
        };
        let mut rows: Vec<_> =
            packs.into_iter().enumerate().map(|(number, pack)| (sort(number), Some(pack), None)).collect();
        let left = (num_packs..).map(sort).take_while(|sort| self.is_stored(sort));
        rows.extend(left.map(|sort| (sort, None, None)));
        Ok(rows)
    }

    /// The items that a row becomes, and those that it leaves.
    fn items(&mut self, sort: &[u8], value: Option<Vec<u8>>, key: Option<Vec<u8>>) -> StoreResult<Vec<ItemWrite>> {
        let before = self.stored_parts(sort);
        let item = |sort: Vec<u8>, fields| ItemWrite::new(ItemKey { partition: self.partition.clone(), sort }, fields);
        let mut items = Vec::new();
        let mut parts = 0_u16;
        if let Some(value) = &value {
            if value.len() > MAX_TRANSACTION {
                let what = format!("a row of {} bytes is too large for a table", value.len());
                return Err(StoreError::Invariant { link: self.link.to_owned(), what });
            }
            let num_parts = u16::try_from(value.len().div_ceil(MAX_PART)).unwrap_or(u16::MAX).max(1);
            let mut chunks = value.chunks(MAX_PART);
            let first = chunks.next().unwrap_or_default();
            let mut fields = Fields::from([(VALUE.to_owned(), shown(first))]);
            fields.extend(key.map(|key| (KEY.to_owned(), Field::Bytes(key))));
            if num_parts > 1 {
                fields.insert(PARTS.to_owned(), Field::Number(num_parts.into()));
            }
            items.push(item(sort.to_vec(), Some(fields)));
            parts = 1;
            for chunk in chunks {
                let fields = Fields::from([(VALUE.to_owned(), Field::Bytes(chunk.to_vec()))]);
                items.push(item(part_sort(sort, parts), Some(fields)));
                parts += 1;
            }
        } else if before > 0 {
            items.push(item(sort.to_vec(), None));
        }
        items.extend((parts.max(1)..before).map(|part| item(part_sort(sort, part), None)));
        self.plan.stored.insert(sort.to_vec(), value.map(|_| parts));
        Ok(items)
    }
}

/// Readable in the console where it can be.
fn shown(value: &[u8]) -> Field {
    match std::str::from_utf8(value) {
        Ok(text) if text.starts_with('{') => Field::Text(text.to_owned()),
        _ => Field::Bytes(value.to_vec()),
    }
}

fn damaged(place: &str, what: &str) -> StoreError {
    StoreError::Damaged { place: place.to_owned(), what: what.to_owned() }
}

fn row_sort(kind: Kind, key: &[u8]) -> Vec<u8> {
    match key.get(..MAX_KEY + 1) {
        None => [&[kind as u8], key].concat(),
        // Longer than any key that is whole.
        Some(beginning) => [&[kind as u8], beginning, &Sha256::digest(key)[..]].concat(),
    }
}

fn row_key(sort: &[u8], fields: &Fields) -> Vec<u8> {
    match fields.get(KEY) {
        Some(Field::Bytes(key)) => key.clone(),
        _ => sort.get(1..).unwrap_or_default().to_vec(),
    }
}

fn part_sort(sort: &[u8], part: u16) -> Vec<u8> {
    [&[PART], sort, &part.to_be_bytes()].concat()
}

/// Of how many items a row is.
pub(super) fn parts_of(fields: &Fields) -> u16 {
    match fields.get(PARTS) {
        Some(Field::Number(parts)) => u16::try_from(*parts).unwrap_or(u16::MAX).max(1),
        _ => 1,
    }
}

fn value_of(place: &str, fields: &Fields) -> StoreResult<Vec<u8>> {
    match fields.get(VALUE) {
        Some(Field::Text(text)) => Ok(text.clone().into_bytes()),
        Some(Field::Bytes(bytes)) => Ok(bytes.clone()),
        _ => Err(damaged(place, "a row without a value")),
    }
}

/// The value of a row from its items.
pub(super) fn whole<'a>(
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

fn page_of(prefix: &[u8]) -> Option<(u64, PageId)> {
    let (epoch, rest) = prefix.split_first_chunk::<8>()?;
    let (segment, rest) = rest.split_first_chunk::<4>()?;
    let (number, _) = rest.split_first_chunk::<8>()?;
    let page = PageId { segment: u32::from_be_bytes(*segment), number: u64::from_be_bytes(*number) };
    Some((u64::from_be_bytes(*epoch), page))
}

/// Length and bytes of the key, of its JSON, and the time in milliseconds.
fn pack_doubt(pack: &mut Vec<u8>, key: &[u8], doubt: &StoredDoubt) {
    for bytes in [key, doubt.key_json.as_bytes()] {
        pack.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        pack.extend(bytes);
    }
    pack.extend(doubt.until.millis().to_be_bytes());
}

fn unpack(mut pack: &[u8]) -> Option<Vec<(Vec<u8>, String, WallTime)>> {
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
