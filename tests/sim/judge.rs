//! The checkers. They stand on the sandbox's side and at the state store: they see data writes and state writes, and judge
//! both by the truth, at each of them.
//!
//! | | what must hold |
//! |---|---|
//! | C1 | in the end both tables are equal; at no time does the target get an image that the source never had |
//! | C2 | no checkpoint passes a record that is not settled, or moves back; no shard is finished before it was read to its end |
//! | C3 | no key goes backwards but where the protocol says so: replay, reads that ran ahead, writes in doubt; one that a late write took back is owed another write, durably |
//! | C4 | no record of a child is dispatched before its parent's row says that it is finished |
//! | C5 | every record that was trimmed unread lies under a gap; none is closed before its keys are right, none is a false alarm |
//! | C7 | no request that the service must refuse; DescribeStream at most ten times a second |
//! | C9 | no more records and bytes ahead of the checkpoints than was configured, and but a page of each shard more in memory; none is sent beyond the dispatch watermark |
//!
//! C8 (liveness) and the lag are looked at by the run itself, C10 (determinism) by running twice.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dynaferry::checkpoint::rows::{DoubtRow, GapRow, GapScope, LinkRow, ShardRow, ShardStatus};
use dynaferry::checkpoint::{LinkState, MemoryStore, StateStore as _, StateWrite};
use dynaferry::model::{CanonicalKey, SequenceNumber, ShardId, WallTime};
use dynaferry::sandbox::{Changed, Event, Exchange, Sandbox};
use futures_util::FutureExt as _;

use crate::state::CommitObserver;
use crate::trace::Trace;
use crate::truth::{Lost, Record, ShardTruth, Truth, VersionIndex, number_of};
use crate::world::{COPY, LINK, REGION, SOURCE, TABLE, TARGET};

/// Changes created so long before the load began are in its pages (`src/runtime/open.rs`).
const LOAD_MARGIN: Duration = Duration::from_secs(300);
/// Shown in so many listings, a shard is known: some answers are lost, and ten in a row may contradict themselves.
const KNOWN_AFTER: u32 = 12;
/// So often an iterator that has expired may be used again: answers are lost, too.
const DEAD_ITERATOR_USES: u32 = 10;
/// DescribeStream calls of an account in a second. Source: DynamoDB Streams API reference.
const DESCRIBE_STREAM_LIMIT: usize = 10;

/// A promise that was broken.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    /// Which one: `C1` to `C10`, `lag`, `panic`.
    pub(crate) check: &'static str,
    pub(crate) at: Duration,
    pub(crate) what: String,
}

/// How much may be read ahead of the checkpoints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// Of a page.
    pub(crate) page_records: usize,
    pub(crate) page_bytes: usize,
}

/// What the checkers know.
pub(crate) struct Judge {
    pub(crate) truth: Truth,
    pub(crate) trace: Trace,
    pub(crate) violations: Vec<Violation>,
    /// Faults that fired, by kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// The rows as they are durable.
    rows: BTreeMap<ShardId, ShardRow>,
    link: Option<LinkRow>,
    gaps: BTreeMap<u64, GapRow>,
    /// When each gap was written down as open, the last time.
    open_at: HashMap<u64, WallTime>,
    limits: Limits,
    /// Where the link's state is, and the keys of the truth as they are called there.
    store: Arc<MemoryStore>,
    names: HashMap<usize, CanonicalKey>,
    describe_calls: VecDeque<WallTime>,
    /// Records that the process that runs was given.
    given: BTreeSet<SequenceNumber>,
    /// The last of each shard.
    given_to: HashMap<ShardId, SequenceNumber>,
    /// How often that process was shown a shard.
    shown: HashMap<ShardId, u32>,
    /// Records that were trimmed beyond a checkpoint before they were given to it.
    unread: Vec<(SequenceNumber, Lost)>,
    /// Requests that were answered with an expired iterator.
    expired: HashMap<Vec<u8>, u32>,
    /// Items that the target refuses, by version number.
    pub(crate) poison: BTreeSet<u64>,
    /// Writes at the target that came late, and what was accepted there.
    pub(crate) late_writes: u64,
    pub(crate) accepted_writes: u64,
    pub(crate) exchanges: u64,
}

/// Shared by all who see something.
#[derive(Clone)]
pub(crate) struct Court(Arc<Mutex<Judge>>);

impl Court {
    pub(crate) fn new(limits: Limits, store: Arc<MemoryStore>, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(Judge {
            truth: Truth::default(),
            trace,
            violations: Vec::new(),
            faults: BTreeMap::new(),
            rows: BTreeMap::new(),
            link: None,
            gaps: BTreeMap::new(),
            open_at: HashMap::new(),
            limits,
            store,
            names: HashMap::new(),
            describe_calls: VecDeque::new(),
            given: BTreeSet::new(),
            given_to: HashMap::new(),
            shown: HashMap::new(),
            unread: Vec::new(),
            expired: HashMap::new(),
            poison: BTreeSet::new(),
            late_writes: 0,
            accepted_writes: 0,
            exchanges: 0,
        })))
    }

    pub(crate) fn judge(&self) -> MutexGuard<'_, Judge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn since_start(at: WallTime) -> Duration {
    at.since(crate::clocks::EPOCH)
}

impl Judge {
    /// A promise is broken.
    pub(crate) fn violated(&mut self, check: &'static str, at: WallTime, what: String) {
        self.trace.say(at, || format!("VIOLATION {check}: {what}"));
        // One is enough to know, and a few more tell what kind it is.
        if self.violations.len() < 5 {
            self.violations.push(Violation { check, at: since_start(at), what });
        }
    }

    pub(crate) fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    pub(crate) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Changed(change) if change.account == SOURCE && change.table == TABLE => self.source_changed(change),
            Event::Changed(change) if change.account == TARGET && change.table == COPY => self.target_changed(change),
            Event::Trimmed { shard, through, at, shard_gone, .. } => self.trimmed(shard, *through, *at, *shard_gone),
            Event::ShardOpened { stream, shard, parent, at, .. } => {
                self.trace.say(*at, || format!("  shard {shard} opened, child of {parent:?}"));
                let id = ShardId::new(*shard);
                let truth = self.truth.shards.entry(id).or_default();
                (truth.parent, truth.stream) = (parent.map(ShardId::new), Some((*stream).to_owned()));
            }
            Event::ShardClosed { shard, at, .. } => {
                self.trace.say(*at, || format!("  shard {shard} closed"));
                self.truth.shards.entry(ShardId::new(*shard)).or_default().is_closed = true;
            }
            Event::TableDeleted { account, table, at, .. } => {
                self.trace.say(*at, || format!("  table {table} of {account} deleted"));
                if *account == SOURCE && *table == TABLE {
                    self.truth.source_deleted();
                } else if *account == TARGET && *table == COPY {
                    self.truth.target_deleted();
                }
            }
            Event::StreamEnabled { stream, at, .. } => self.trace.say(*at, || format!("  stream {stream} enabled")),
            Event::StreamDisabled { stream, at } => self.trace.say(*at, || format!("  stream {stream} disabled")),
            Event::Fault { kind, at, operation, .. } => {
                self.trace.say(*at, || format!("  fault {kind} at {operation}"));
                self.fault(kind);
            }
            _ => {}
        }
    }

    fn source_changed(&mut self, change: &Changed<'_>) {
        if change.is_noop {
            return;
        }
        let (key, version) = self.truth.changed_at_source(change);
        self.trace.say(change.at, || {
            let place = change.record.map_or("no stream".to_owned(), |r| format!("{} {}", r.shard, r.sequence));
            format!("  source: key {key} version {version} ({:?}) by {}, {place}", number_of(change.image), change.by)
        });
        if change.record.is_none() && self.link.is_some() {
            self.truth.lost.push(Lost { key, version, at: change.at, shard: None });
        }
    }

    fn target_changed(&mut self, change: &Changed<'_>) {
        self.accepted_writes += 1;
        let key = self.truth.key(change.key);
        let number = number_of(change.image);
        let candidates = self.truth.candidates(key, number);
        self.trace.say(change.at, || {
            let late = if change.is_late { " LATE" } else { "" };
            format!("  target: key {key} version {candidates:?} ({number:?}) by {}{late}", change.by)
        });
        let Some(&newest) = candidates.last() else {
            return self.violated(
                "C1",
                change.at,
                format!("key {key} got an image that the source never had: {number:?}"),
            );
        };
        let truth = &mut self.truth.keys[key];
        let is_older = truth.high.is_some_and(|high| newest < high);
        truth.high = truth.high.max(Some(newest));
        truth.target = number;
        if change.is_late {
            self.late_writes += 1;
            if is_older && !self.is_owed(key, newest) {
                let what = format!(
                    "a late write took key {key} back to version {newest}, and nothing says that it is owed another"
                );
                self.violated("C3", change.at, what);
            }
            return;
        }
        let before = truth.streamed.clone();
        let read = truth.read;
        let is_read = candidates.iter().any(|version| read.is_some_and(|read| *version <= read));
        if !truth.written(&candidates) {
            self.violated(
                "C3",
                change.at,
                format!(
                    "key {key} went back to version {candidates:?}; the stream was at {before:?}, {read:?} was read"
                ),
            );
        }
        if !is_read {
            self.check_dispatch(key, &candidates, change.at);
        }
    }

    /// Whether the state says that a key will be written once more: it is listed as in doubt, a newer record of it is not
    /// passed, or a gap is open.
    fn is_owed(&self, key: usize, than: VersionIndex) -> bool {
        if self.link.is_none() || self.gaps.values().any(|gap| gap.healed.is_none()) {
            return true;
        }
        let is_newer = |record: &Record| record.key == key && record.version > than;
        let is_listed = || {
            let name = self.names.get(&key)?;
            self.store.doubt(LINK, name).now_or_never()?.ok()?
        };
        self.truth.shards.values().any(|shard| shard.records.iter().any(is_newer))
            || is_listed().is_some()
            || !self.poison.is_empty()
    }

    /// The state lists a key under this name.
    fn learn(&mut self, row: &DoubtRow, sandbox: &Sandbox) {
        if self.names.values().any(|name| *name == row.key) {
            return;
        }
        if let Ok(bytes) = sandbox.key_bytes(TARGET, REGION, COPY, &row.key_json) {
            let key = self.truth.key(&bytes);
            self.names.insert(key, row.key.clone());
        }
    }

    /// What the stream tells is sent only below the durable dispatch watermark.
    fn check_dispatch(&mut self, key: usize, candidates: &[VersionIndex], at: WallTime) {
        let may_be_sent = candidates.iter().any(|version| {
            let version = self.truth.keys[key].versions.get(*version);
            match version.and_then(|version| version.record.as_ref()) {
                None => true,
                Some((shard, sequence)) => self
                    .rows
                    .get(shard)
                    .is_none_or(|row| row.status == ShardStatus::Finished || row.dispatch.as_ref() >= Some(sequence)),
            }
        });
        if !may_be_sent {
            self.violated("C9", at, format!("key {key} version {candidates:?} was sent beyond the dispatch watermark"));
        }
    }

    fn trimmed(&mut self, shard: &str, through: Option<&str>, at: WallTime, is_gone: bool) {
        self.trace.say(at, || format!("  shard {shard} trimmed through {through:?}, gone: {is_gone}"));
        let id = ShardId::new(shard);
        let through = through.and_then(|text| dynaferry::model::SequenceNumber::parse(text).ok());
        let Some(truth) = self.truth.shards.get_mut(&id) else { return };
        truth.is_gone |= is_gone;
        let mut gone = Vec::new();
        while let Some(record) = truth.records.pop_front_if(|record| is_gone || Some(record.sequence) <= through) {
            gone.push(record);
        }
        if self.link.is_none() {
            return;
        }
        for record in gone {
            if !self.is_settled(&record) {
                let Record { key, version, at, .. } = record;
                self.trace.say(at, || format!("  lost: key {key} version {version} of shard {id}"));
                let lost = Lost { key, version, at, shard: Some(id.clone()) };
                // Where nothing is settled yet, reading starts at what is left, and nobody says what is not.
                let is_begun = self.rows.get(&id).is_some_and(|row| row.checkpoint.is_some() && !row.is_trimmed);
                if is_begun && !self.given.contains(&record.sequence) {
                    self.unread.push((record.sequence, lost.clone()));
                }
                self.truth.lost.push(lost);
            }
        }
    }

    fn is_settled(&self, record: &Record) -> bool {
        self.truth.is_applied(record.key, record.version) || self.is_filtered(record.at) || self.is_poison(record)
    }

    /// Whether it, or a later version that may have absorbed it, was set aside.
    fn is_poison(&self, record: &Record) -> bool {
        let later = self.truth.keys[record.key].versions.iter().skip(record.version);
        !self.poison.is_empty()
            && later.filter_map(|version| version.number).any(|number| self.poison.contains(&number))
    }

    /// Changes of so long ago are in the load's pages.
    fn is_filtered(&self, at: WallTime) -> bool {
        let began = self.link.as_ref().and_then(|link| link.load.as_ref()).map(|load| load.began.minus(LOAD_MARGIN));
        let created = WallTime::from_secs(at.millis().div_euclid(1000));
        began.is_some_and(|began| created < began)
    }

    pub(crate) fn exchange(&mut self, exchange: &Exchange<'_>) {
        self.exchanges += 1;
        self.trace.exchange(exchange);
        let Some(reply) = exchange.reply else { return };
        match exchange.operation {
            "DescribeStream" if exchange.account == SOURCE => {
                self.count_describe(exchange.at);
                for shard in texts_in(reply.body(), br#""ShardId":""#) {
                    *self.shown.entry(ShardId::new(shard)).or_default() += 1;
                }
            }
            "GetRecords" if reply.status() == 200 => self.records_were_given(reply.body()),
            "GetRecords" => self.check_iterator(exchange.request, reply.body(), exchange.at),
            "Scan" | "GetItem" if exchange.account == SOURCE && reply.status() == 200 => {
                self.source_was_read(exchange.operation, reply.body());
            }
            _ => {}
        }
        if reply.status() == 400 && is_our_fault(reply.body()) && !self.is_about_poison(exchange.request) {
            let text = String::from_utf8_lossy(reply.body()).into_owned();
            self.violated("C7", exchange.at, format!("{} is refused as invalid: {text}", exchange.operation));
        }
    }

    fn records_were_given(&mut self, body: &[u8]) {
        let numbers: Vec<SequenceNumber> = numbers_in(body).collect();
        let Some((first, last)) = numbers.first().zip(numbers.last()) else { return };
        let is_of = |shard: &ShardTruth| shard.records.iter().any(|record| record.sequence == *first);
        if let Some((id, _)) = self.truth.shards.iter().find(|(_, shard)| is_of(shard)) {
            let to = self.given_to.entry(id.clone()).or_insert(*last);
            *to = (*to).max(*last);
        }
        self.given.extend(numbers);
    }

    fn is_about_poison(&self, request: &[u8]) -> bool {
        !self.poison.is_empty() && memchr::memmem::find(request, b"poison").is_some()
    }

    /// C7: who is told that an iterator has expired gets another one.
    fn check_iterator(&mut self, request: &[u8], body: &[u8], at: WallTime) {
        if memchr::memmem::find(body, b"ExpiredIteratorException").is_none() {
            return;
        }
        let uses = self.expired.entry(request.to_vec()).or_default();
        *uses += 1;
        if *uses == DEAD_ITERATOR_USES {
            self.violated("C7", at, format!("an expired iterator was used {DEAD_ITERATOR_USES} times"));
        }
    }

    fn count_describe(&mut self, at: WallTime) {
        self.describe_calls.push_back(at);
        while self.describe_calls.front().is_some_and(|first| at.since(*first) >= Duration::from_secs(1)) {
            self.describe_calls.pop_front();
        }
        if self.describe_calls.len() > DESCRIBE_STREAM_LIMIT {
            let count = self.describe_calls.len();
            self.violated("C7", at, format!("{count} DescribeStream calls within a second"));
        }
    }

    /// What was read at the source table may be written from now on, ahead of the stream.
    fn source_was_read(&mut self, operation: &str, body: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<serde_json::Value>(body) else { return };
        let items = match operation {
            "Scan" => answer.get("Items").and_then(|items| items.as_array()).cloned().unwrap_or_default(),
            _ => answer.get("Item").cloned().into_iter().collect(),
        };
        if items.is_empty() && operation == "GetItem" {
            // An absent item: it may be any key that is absent now.
            for key in &mut self.truth.keys {
                if key.versions[key.last()].number.is_none() {
                    key.read = key.read.max(Some(key.last()));
                }
            }
            return;
        }
        for item in items {
            let number = item.pointer("/v/S").and_then(|text| text.as_str()?.parse().ok());
            if let Some((key, version)) = number.and_then(|number| self.truth.version(number)) {
                let truth = &mut self.truth.keys[key];
                truth.read = truth.read.max(Some(version));
            }
        }
    }

    fn commit(&mut self, write: &StateWrite, at: WallTime) {
        match write {
            StateWrite::Link(row) => {
                self.check_stream(row, at);
                let followed = &row.identity.stream;
                if self.link.as_ref().is_some_and(|link| link.identity.stream != *followed) {
                    self.leave_streams(&followed.0.clone());
                }
                self.link = Some(row.clone());
            }
            StateWrite::Shard(row) => self.commit_shard(row, at),
            StateWrite::ForgetShard(id) => drop(self.rows.remove(id)),
            StateWrite::Gap(row) => self.commit_gap(row, at),
            _ => {}
        }
    }

    /// The link goes over to another stream: what is unread of all others will never be read.
    fn leave_streams(&mut self, followed: &str) {
        let shards = std::mem::take(&mut self.truth.shards);
        for (id, shard) in &shards {
            if shard.stream.as_deref().is_none_or(|stream| stream == followed) {
                continue;
            }
            let unread = shard.records.iter().filter(|record| !self.is_settled(record));
            let lost: Vec<Lost> = unread
                .map(|record| Lost { key: record.key, version: record.version, at: record.at, shard: Some(id.clone()) })
                .collect();
            self.truth.lost.extend(lost);
        }
        self.truth.shards = shards;
        for shard in self.truth.shards.values_mut() {
            if shard.stream.as_deref().is_some_and(|stream| stream != followed) {
                shard.records.clear();
            }
        }
    }

    fn commit_shard(&mut self, row: &ShardRow, at: WallTime) {
        self.check_parent(row, at);
        self.check_no_retreat(row, at);
        self.rows.insert(row.id.clone(), row.clone());
        self.check_checkpoint(row, at);
        self.check_unread(row, at);
        if row.status == ShardStatus::Finished && !row.is_lost {
            self.check_finished(row, at);
        }
        self.check_look_ahead(at);
    }

    /// C4.
    fn check_parent(&mut self, row: &ShardRow, at: WallTime) {
        let Some(parent) = row.parent.as_ref().filter(|_| row.dispatch.is_some()) else { return };
        let is_first = self.rows.get(&row.id).is_none_or(|before| before.dispatch.is_none());
        // One that is gone before its end never is; what is left of it lies under its gap, which says so first.
        let is_of_parent = |gap: &GapRow| gap.healed.is_none() && gap.scope == GapScope::Shard(parent.clone());
        let is_finished = match self.rows.get(parent) {
            Some(row) => row.status == ShardStatus::Finished || self.gaps.values().any(is_of_parent),
            None => self.truth.shards.get(parent).is_none_or(|shard| shard.is_gone),
        };
        if is_first && !is_finished {
            self.violated("C4", at, format!("shard {} is dispatched before its parent {parent} is finished", row.id));
        }
    }

    /// C2: what is durable once is never taken back.
    fn check_no_retreat(&mut self, row: &ShardRow, at: WallTime) {
        let Some(before) = self.rows.get(&row.id) else { return };
        let opens_again = before.status == ShardStatus::Finished && !before.is_lost && row.status != before.status;
        if row.checkpoint < before.checkpoint || row.dispatch < before.dispatch || opens_again {
            let what = format!("the row of shard {} moves back, from {before:?} to {row:?}", row.id);
            self.violated("C2", at, what);
        }
    }

    /// C2: everything up to the checkpoint is settled.
    fn check_checkpoint(&mut self, row: &ShardRow, at: WallTime) {
        let Some(checkpoint) = row.checkpoint else { return };
        let mut passed = Vec::new();
        if let Some(shard) = self.truth.shards.get_mut(&row.id) {
            while let Some(record) = shard.records.pop_front_if(|record| record.sequence <= checkpoint) {
                passed.push(record);
            }
        }
        for record in passed {
            if !self.is_settled(&record) {
                let Record { sequence, key, version, .. } = &record;
                self.violated("C2", at, format!(
                    "the checkpoint of shard {} passed record {sequence} of key {key} (version {version}), which is not settled",
                    row.id
                ));
            }
            self.truth.keys[record.key].checkpointed(record.version);
        }
    }

    /// C5: what was trimmed before it was read lies under a gap when the shard's row moves over it.
    fn check_unread(&mut self, row: &ShardRow, at: WallTime) {
        let is_over = |number: SequenceNumber| row.status == ShardStatus::Finished || row.checkpoint >= Some(number);
        let of_row =
            |(number, lost): &mut (SequenceNumber, Lost)| lost.shard.as_ref() == Some(&row.id) && is_over(*number);
        let passed: Vec<_> = self.unread.extract_if(.., of_row).collect();
        for (number, lost) in passed {
            if !self.gaps.values().any(|gap| self.covers(gap, &lost)) {
                let what = format!("record {number} of shard {} was trimmed unread, and no gap says so", row.id);
                self.violated("C5", at, what);
            }
        }
    }

    /// C5: between two streams there may be changes that are in neither.
    fn check_stream(&mut self, row: &LinkRow, at: WallTime) {
        let before = self.link.as_ref().map(|link| &link.identity.stream);
        let is_replaced = before.is_some_and(|before| *before != row.identity.stream);
        if is_replaced && !self.gaps.values().any(|gap| gap.scope == GapScope::All && gap.healed.is_none()) {
            let what = format!("the link goes on with {:?}, and no gap spans what came before", row.identity.stream);
            self.violated("C5", at, what);
        }
    }

    /// C2: what is finished was read to its end.
    fn check_finished(&mut self, row: &ShardRow, at: WallTime) {
        let Some(shard) = self.truth.shards.get(&row.id) else { return };
        // What is unread of a shard that came, or came back, under a begun child is left to its gap.
        let of_gap = |gap: &GapRow| matches!(gap.cause.as_str(), "shard_late" | "shard_reappeared");
        let is_left = |record: &Record| {
            let Record { key, version, at, .. } = *record;
            let lost = Lost { key, version, at, shard: Some(row.id.clone()) };
            let scope = GapScope::Shard(row.id.clone());
            self.gaps.values().any(|gap| of_gap(gap) && gap.scope == scope && self.covers(gap, &lost))
        };
        let left = shard.records.iter().filter(|record| !self.is_settled(record) && !is_left(record)).count();
        if !shard.is_closed || left > 0 {
            let open = if shard.is_closed { "closed" } else { "open" };
            self.violated(
                "C2",
                at,
                format!("shard {} is finished: it is {open}, and {left} records are not settled", row.id),
            );
        }
        if let Some(shard) = self.truth.shards.get_mut(&row.id) {
            shard.records.clear();
        }
    }

    /// C9: what lies between checkpoints and dispatch watermarks, and what the process was given beyond them.
    fn check_look_ahead(&mut self, at: WallTime) {
        let Limits { records, bytes, page_records, page_bytes } = self.limits;
        let unfinished = || self.rows.values().filter(|row| row.status != ShardStatus::Finished && !row.is_lost);
        let shards = || unfinished().filter_map(|row| Some((row, self.truth.shards.get(&row.id)?)));
        let sum =
            |all: &mut dyn Iterator<Item = (usize, usize)>| all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        // What an earlier owner dispatched, and this one was not given yet, is none of its look-ahead.
        let given = |row: &ShardRow| self.given_to.get(&row.id).copied();
        let sent = sum(&mut shards().filter_map(|(row, shard)| Some(shard.ahead(row.dispatch?.min(given(row)?)))));
        let held = sum(&mut shards().filter_map(|(row, shard)| Some(shard.ahead(given(row)?))));
        let pages = shards().count();
        // A page that is larger than all of the look-ahead takes all of it.
        let may_be_sent = (records.max(page_records), bytes + page_bytes);
        let may_be_held = (may_be_sent.0 + pages * page_records, may_be_sent.1 + pages * page_bytes);
        for (what, is, may_be) in [("sent", sent, may_be_sent), ("read", held, may_be_held)] {
            if is.0 > may_be.0 || is.1 > may_be.1 {
                let what =
                    format!("{} records, {} bytes are {what} ahead of the checkpoints; may be: {may_be:?}", is.0, is.1);
                self.violated("C9", at, what);
            }
        }
    }

    /// C5: a gap is closed when what was lost in it is right.
    fn commit_gap(&mut self, row: &GapRow, at: WallTime) {
        self.trace.say(at, || format!("  gap {}: {:?}", row.id, row));
        self.check_alarm(row, at);
        self.gaps.insert(row.id, row.clone());
        if row.healed.is_none() {
            self.open_at.insert(row.id, at);
            return;
        }
        // What was lost later is for the next gap to say.
        let open_at = self.open_at.get(&row.id).copied().unwrap_or(at);
        let lost = std::mem::take(&mut self.truth.lost);
        let (covered, rest): (Vec<_>, Vec<_>) =
            lost.into_iter().partition(|lost| lost.at <= open_at && self.covers(row, lost));
        self.truth.lost = rest;
        for lost in covered {
            if !self.is_right(&lost) {
                self.violated(
                    "C5",
                    at,
                    format!("gap {} is closed, but key {} still lacks version {}", row.id, lost.key, lost.version),
                );
            }
        }
    }

    /// C5: no shard is given up that is there, unless the service itself says so.
    fn check_alarm(&mut self, row: &GapRow, at: WallTime) {
        let GapScope::Shard(id) = &row.scope else { return };
        let is_new = !self.gaps.contains_key(&row.id);
        let is_there = |id: &ShardId| self.truth.shards.get(id).is_some_and(|shard| !shard.is_gone);
        let is_known = |id: &ShardId| is_there(id) && self.shown.get(id).is_some_and(|times| *times >= KNOWN_AFTER);
        let parent = self.truth.shards.get(id).and_then(|shard| shard.parent.as_ref());
        let is_false = match row.cause.as_str() {
            "shard_vanished" => is_there(id),
            "parent_unknown" => parent.is_some_and(is_known),
            _ => false,
        };
        let is_told_so = self.faults.contains_key("describe.stale_listing");
        if is_new && is_false && !is_told_so {
            let what = format!("gap {} of {id} says {}, but nothing is lost there", row.id, row.cause);
            self.violated("C5", at, what);
        }
    }

    fn is_right(&self, lost: &Lost) -> bool {
        let number = self.truth.keys[lost.key].versions[lost.version].number;
        let is_set_aside = number.is_some_and(|number| self.poison.contains(&number));
        // A version that looks like what the target has is no loss: nothing would change. So is one that was followed by
        // such a one: two deletions look alike, and a comparison between them finds the tables equal.
        self.truth.is_applied(lost.key, lost.version)
            || self.truth.is_equal(lost.key)
            || self.truth.looks_since(lost.key, lost.version)
            || is_set_aside
    }

    fn covers(&self, gap: &GapRow, lost: &Lost) -> bool {
        // The program's clock may be off by ten minutes and more; the interval is by it.
        let slack = Duration::from_secs(700);
        let in_time = gap.from.is_none_or(|from| from.minus(slack) <= lost.at) && lost.at <= gap.to.plus(slack);
        in_time
            && match (&gap.scope, &lost.shard) {
                (GapScope::All, _) => true,
                (GapScope::Shard(_), None) => false,
                (GapScope::Shard(id), Some(shard)) => self.truth.descends(id, shard) || self.truth.descends(shard, id),
            }
    }

    /// C5, when the program has had its time to notice: every loss that nothing made good lies under a gap.
    pub(crate) fn check_losses(&mut self, at: WallTime) {
        let lost = std::mem::take(&mut self.truth.lost);
        let lost: Vec<Lost> = lost.into_iter().filter(|lost| !self.is_right(lost)).collect();
        for lost in &lost {
            if !self.gaps.values().any(|gap| self.covers(gap, lost)) {
                self.violated(
                    "C5",
                    at,
                    format!(
                        "version {} of key {} was lost at {:?} ({:?}), and no gap says so",
                        lost.version,
                        lost.key,
                        since_start(lost.at),
                        lost.shard
                    ),
                );
            }
        }
        self.truth.lost = lost;
    }

    /// C1, at the end.
    pub(crate) fn check_equal(&mut self, at: WallTime) {
        for key in 0..self.truth.keys.len() {
            if !self.truth.is_equal(key) {
                let truth = &self.truth.keys[key];
                let what = format!(
                    "key {key} ended as {:?}, not as version {}, last written by {:?}",
                    truth.target,
                    truth.last(),
                    truth.versions[truth.last()].record
                );
                self.violated("C1", at, what);
            }
        }
    }

    /// The time of the oldest change that a stream tells of and that the target lacks, unless an open gap says so.
    pub(crate) fn oldest_unapplied(&self) -> Option<WallTime> {
        self.oldest(|record| !self.is_settled(record))
    }

    /// As [`Self::oldest_unapplied`], or not read yet: what the target has already may have come by a later record or a
    /// read of the source, and who has not read the record cannot know that.
    pub(crate) fn oldest_unread(&self) -> Option<WallTime> {
        self.oldest(|record| !self.given.contains(&record.sequence) || !self.is_settled(record))
    }

    /// The oldest such record outside of all open gaps.
    fn oldest(&self, is_such: impl Fn(&Record) -> bool) -> Option<WallTime> {
        let of_shard = |(id, shard): (&ShardId, &ShardTruth)| {
            let record = shard.records.iter().find(|record| {
                let Record { key, version, at, .. } = **record;
                let lost = Lost { key, version, at, shard: Some(id.clone()) };
                let mut open = self.gaps.values().filter(|gap| gap.healed.is_none());
                is_such(record) && !open.any(|gap| self.covers(gap, &lost))
            });
            record.map(|record| record.at)
        };
        self.truth.shards.iter().filter_map(of_shard).min()
    }

    /// Whether the link has a row for this shard.
    pub(crate) fn knows(&self, shard: &str) -> bool {
        self.rows.contains_key(&ShardId::new(shard))
    }

    /// Whether a restart would go on from a record of this shard. Of another nobody can tell what was trimmed too early:
    /// reading it begins at what is left.
    pub(crate) fn has_position(&self, shard: &str) -> bool {
        self.rows.get(&ShardId::new(shard)).is_some_and(|row| row.checkpoint.is_some() && !row.is_trimmed)
    }

    /// Whether the link's books have begun.
    pub(crate) fn has_link(&self) -> bool {
        self.link.is_some()
    }

    pub(crate) fn gaps(&self) -> impl Iterator<Item = &GapRow> {
        self.gaps.values()
    }

    /// The operator throws the state away and begins anew.
    pub(crate) fn state_dropped(&mut self, store: Arc<MemoryStore>) {
        self.store = store;
        self.rows.clear();
        self.gaps.clear();
        self.open_at.clear();
        self.link = None;
        self.truth.lost.clear();
        self.unread.clear();
    }
}

/// The sequence numbers in an answer of GetRecords.
fn numbers_in(body: &[u8]) -> impl Iterator<Item = SequenceNumber> {
    texts_in(body, br#""SequenceNumber":""#).filter_map(|digits| SequenceNumber::parse(digits).ok())
}

/// The plain texts that follow this in a body.
fn texts_in<'a>(body: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a str> {
    memchr::memmem::find_iter(body, name).filter_map(move |at| {
        let text = body.get(at + name.len()..)?.split(|byte| *byte == b'"').next()?;
        std::str::from_utf8(text).ok()
    })
}

/// Answers that say that a request was malformed.
fn is_our_fault(body: &[u8]) -> bool {
    [&b"ValidationException"[..], b"SerializationException", b"MissingParameter", b"UnknownOperation"]
        .iter()
        .any(|code| memchr::memmem::find(body, code).is_some())
}

/// The court sees commits at the time of the world.
pub(crate) struct Clerk {
    pub(crate) court: Court,
    pub(crate) clock: Arc<crate::clocks::WorldClock>,
    pub(crate) sandbox: Sandbox,
}

impl CommitObserver for Clerk {
    fn taken(&self, before: &LinkState) {
        use dynaferry::context::WallClock as _;
        let now = self.clock.now();
        let mut judge = self.court.judge();
        judge.trace.say(now, || format!("state taken: {} shards, {} doubts", before.shards.len(), before.doubts.len()));
        // What was read at the table, and what was applied beyond the checkpoints, belongs to an earlier process.
        let judge = &mut *judge;
        judge.given.clear();
        judge.given_to.clear();
        judge.shown.clear();
        judge.expired.clear();
        for key in &mut judge.truth.keys {
            let is_passed = |version: &crate::truth::Version| {
                version.record.as_ref().is_some_and(|(shard, sequence)| {
                    let row = judge.rows.get(shard);
                    row.is_some_and(|row| {
                        row.status == ShardStatus::Finished || row.checkpoint.as_ref() >= Some(sequence)
                    })
                })
            };
            key.streamed = vec![key.versions.iter().rposition(is_passed).unwrap_or(0)];
            key.read = None;
        }
    }

    fn committed(&self, writes: &[StateWrite]) {
        use dynaferry::context::WallClock as _;
        let now = self.clock.now();
        let mut judge = self.court.judge();
        judge.trace.commit(now, writes);
        // Gaps first: one commit is one moment.
        let (gaps, others): (Vec<_>, Vec<_>) = writes.iter().partition(|write| matches!(write, StateWrite::Gap(_)));
        for write in gaps.into_iter().chain(others) {
            if let StateWrite::Doubt(row) = write {
                judge.learn(row, &self.sandbox);
            }
            judge.commit(write, now);
        }
    }
}
