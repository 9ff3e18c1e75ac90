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

mod clerk;
mod imports;
mod losses;
mod requests;
mod rows;
mod writes;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dynaferry::checkpoint::MemoryStore;
use dynaferry::checkpoint::rows::{GapRow, LinkRow, ShardRow, Stage};
use dynaferry::model::{CanonicalKey, SequenceNumber, ShardId, WallTime};
use dynaferry::sandbox::Event;

use crate::trace::Trace;
use crate::truth::{Lost, Record, ShardTruth, Truth, VersionIndex};
use crate::world::{COPY, SOURCE, TABLE, TARGET};

pub(crate) use clerk::Clerk;

/// Changes created so long before the load began are in its pages (`src/runtime/open.rs`).
const LOAD_MARGIN: Duration = Duration::from_secs(300);
/// What an export's time may be off, and a clock that shows seconds.
const LOAD_TIME_SLACK: Duration = Duration::from_secs(90);

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
    /// When the load's first page was read, or its export was made.
    loaded_at: Option<WallTime>,
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
    /// What was on the wire when the state was thrown away is owed by nobody; all of it has landed by then.
    forgets_until: Option<WallTime>,
    /// Records that were trimmed beyond a checkpoint before they were given to it.
    unread: Vec<(SequenceNumber, Lost)>,
    /// Requests that were answered with an expired iterator.
    expired: HashMap<Vec<u8>, u32>,
    /// Items that the target refuses, by version number.
    pub(crate) poison: BTreeSet<u64>,
    /// Whether the source has a stream that goes on.
    is_stream_on: bool,
    /// The times at which shards were opened.
    opened: Vec<WallTime>,
    /// Of the request that comes next.
    answer_may_be_lost: bool,
    /// Writes at the target that came late, and what was accepted there.
    pub(crate) late_writes: u64,
    /// The exports that the link has begun itself, where it does.
    own_exports: Option<requests::OwnExports>,
    /// And the imports.
    imports: imports::Imports,
    /// Of those, the incremental ones by ARN: where they begin, and whether they failed.
    own_windows: BTreeMap<String, (i64, bool)>,
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
            loaded_at: None,
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
            forgets_until: None,
            expired: HashMap::new(),
            poison: BTreeSet::new(),
            is_stream_on: false,
            opened: Vec::new(),
            answer_may_be_lost: false,
            late_writes: 0,
            own_exports: None,
            imports: BTreeMap::new(),
            own_windows: BTreeMap::new(),
            accepted_writes: 0,
            exchanges: 0,
        })))
    }

    pub(crate) fn judge(&self) -> MutexGuard<'_, Judge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Faults whose request is done, and whose answer may not come, or not be read.
const LOSES_ANSWERS: [&str; 5] =
    ["error.reset_after", "iterator.lose_response", "answer.slow", "answer.truncated", "answer.garbled"];

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
            Event::ShardOpened { stream, shard, parent, at, listed_from } => {
                self.trace.say(*at, || format!("  shard {shard} opened, child of {parent:?}"));
                if self.opened.last() != Some(at) {
                    self.opened.push(*at);
                }
                let id = ShardId::new(*shard);
                let truth = self.truth.shards.entry(id).or_default();
                (truth.parent, truth.stream) = (parent.map(ShardId::new), Some((*stream).to_owned()));
                truth.listed_from = Some(*listed_from);
            }
            Event::ShardClosed { shard, at, .. } => {
                self.trace.say(*at, || format!("  shard {shard} closed"));
                self.truth.shards.entry(ShardId::new(*shard)).or_default().is_closed = true;
            }
            Event::TableDeleted { account, table, at, .. } => {
                self.trace.say(*at, || format!("  table {table} of {account} deleted"));
                if *account == SOURCE && *table == TABLE {
                    self.truth.source_deleted(self.link.is_some());
                } else if *account == TARGET && *table == COPY {
                    self.truth.target_deleted();
                }
            }
            Event::StreamEnabled { stream, at, .. } => {
                self.trace.say(*at, || format!("  stream {stream} enabled"));
                self.is_stream_on = true;
                self.exports_are_of_no_use();
            }
            Event::StreamDisabled { stream, at } => {
                self.trace.say(*at, || format!("  stream {stream} disabled"));
                self.is_stream_on = false;
            }
            Event::Fault { kind, at, operation, .. } => {
                self.trace.say(*at, || format!("  fault {kind} at {operation}"));
                self.answer_may_be_lost |= LOSES_ANSWERS.contains(kind);
                self.fault(kind);
            }
            _ => {}
        }
    }

    fn is_settled(&self, record: &Record) -> bool {
        self.truth.is_applied(record.key, record.version)
            || self.is_filtered(record.at)
            || self.is_poison(record.key, record.version)
    }

    /// Whether it, or a later version that may have absorbed it, was set aside.
    fn is_poison(&self, key: usize, version: VersionIndex) -> bool {
        let later = self.truth.keys[key].versions.iter().skip(version);
        !self.poison.is_empty()
            && later.filter_map(|version| version.number).any(|number| self.poison.contains(&number))
    }

    /// Changes of so long ago are in the load's pages, by what the link says and by when they were read.
    fn is_filtered(&self, at: WallTime) -> bool {
        let Some(load) = self.link.as_ref().and_then(|link| link.load.as_ref()) else { return false };
        let said = load.holds_until();
        let held = self.loaded_at.map_or(said, |read| said.min(read.plus(LOAD_TIME_SLACK)));
        let created = WallTime::from_secs(at.millis().div_euclid(1000));
        created < held.minus(LOAD_MARGIN)
    }

    /// C1, at the end.
    pub(crate) fn check_equal(&mut self, at: WallTime) {
        for key in 0..self.truth.keys.len() {
            if !self.truth.is_equal(key) && !self.truth.keys[key].is_forgotten {
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
    pub(crate) fn oldest_unapplied(&self) -> Option<Lost> {
        self.oldest(|_, record| !self.is_settled(record))
    }

    /// As [`Self::oldest_unapplied`], of shards that can be known: one whose parent was trimmed away before it could be listed
    /// nobody waits for, nor for what descends from it.
    pub(crate) fn oldest_that_is_owed(&self) -> Option<Lost> {
        self.oldest(|id, record| !self.is_hidden(id) && !self.is_settled(record))
    }

    fn is_hidden(&self, id: &ShardId) -> bool {
        let is_unknown = !self.rows.contains_key(id) && !self.shown.contains_key(id);
        let Some(shard) = self.truth.shards.get(id).filter(|_| is_unknown) else { return false };
        shard.parent.as_ref().is_some_and(|parent| {
            let gone_at = self.truth.shards.get(parent).and_then(|parent| parent.gone_at);
            gone_at.is_some_and(|gone| Some(gone) <= shard.listed_from) || self.is_hidden(parent)
        })
    }

    /// As [`Self::oldest_unapplied`], or not read yet: what the target has already may have come by a later record or a
    /// read of the source, and who has not read the record cannot know that.
    pub(crate) fn oldest_unread(&self) -> Option<WallTime> {
        self.oldest(|_, record| !self.given.contains(&record.sequence) || !self.is_settled(record))
            .map(|oldest| oldest.at)
    }

    /// The oldest such record outside of all open gaps.
    fn oldest(&self, is_such: impl Fn(&ShardId, &Record) -> bool) -> Option<Lost> {
        let of_shard = |(id, shard): (&ShardId, &ShardTruth)| {
            shard.records.iter().filter(|record| is_such(id, record)).find_map(|record| {
                let Record { key, version, at, .. } = *record;
                let unapplied = Lost { key, version, at, shard: Some(id.clone()) };
                let mut open = self.gaps.values().filter(|gap| gap.healed.is_none());
                (!open.any(|gap| self.covers(gap, &unapplied))).then_some(unapplied)
            })
        };
        self.truth.shards.iter().filter_map(of_shard).min_by_key(|oldest| oldest.at)
    }

    /// How often shards were opened lately.
    pub(crate) fn generations_within(&self, now: WallTime, lately: Duration) -> u32 {
        let recent = self.opened.iter().rev().take_while(|at| now.since(**at) < lately);
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
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

    /// Whether the link has come to its stream.
    pub(crate) fn loads_export(&self) -> bool {
        let link = self.link.as_ref().filter(|link| link.stage == Stage::Loading);
        link.is_some_and(|link| link.load.as_ref().is_some_and(|load| load.export.is_some()))
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.stage == Stage::Streaming)
    }

    pub(crate) fn gaps(&self) -> impl Iterator<Item = &GapRow> {
        self.gaps.values()
    }

    /// The operator throws the state away and begins anew.
    pub(crate) fn state_dropped(&mut self, store: Arc<MemoryStore>, forgets_until: WallTime) {
        self.store = store;
        self.forgets_until = Some(forgets_until);
        self.truth.keys.iter_mut().for_each(|key| key.known_at_drop = key.versions.len());
        self.loaded_at = None;
        self.rows.clear();
        self.gaps.clear();
        self.open_at.clear();
        self.link = None;
        self.truth.lost.clear();
        self.unread.clear();
        self.truth.keys.iter_mut().for_each(|key| key.foreign_from = None);
    }
}
