//! Reads a stream: lists its shards, polls those that may be read, hands their changes on.
//!
//! One task owns the forest, the cursors and the schedule; it decides by asking them, and does their bidding with many
//! requests out at once. A shard's next page is asked for when its last one was admitted by the bookkeeper and taken by
//! the engine, so what cannot be applied is not read.
//!
//! The loop is here. `shards` keeps the list of shards, `polls` reads their pages, `losses` opens the gaps.

mod error;
mod forest;
mod losses;
mod observer;
mod polls;
mod shards;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::filter::ChangeFilter;
use super::lister::{ListError, Listings, Numbered, ShardLister};
use super::part::Elsewhere;
use super::{Cursor, Lineage, Pace, Polled, RecordsPage, Schedule, ShardIterator, ShardListing, StreamSource, Suspect};
use crate::apply::engine::Engine;
use crate::checkpoint::book::FinishedShard;
use crate::checkpoint::keeper::Keeper;
use crate::checkpoint::rows::{ShardRow, ShardStatus};
use crate::context::Context;
use crate::decode::KeyCodec;
use crate::error::Failure;
use crate::model::{SequenceNumber, ShardId, StartAt, StreamArn, ViewType, WallTime};
use crate::retry::{Attempts, Patience};

pub(crate) use error::{PageError, StreamError};
use forest::Forest;
pub(crate) use observer::{PageFacts, StreamObserver};
pub(crate) use shards::new_row;
use shards::{CHILDREN_EVERY, LIST_AFTER_END};

/// How the stream is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamSettings {
    pub(crate) pace: Pace,
    /// How often the whole stream is listed.
    pub(crate) discovery_interval: Duration,
    /// GetRecords calls out at once.
    pub(crate) max_concurrent: usize,
    /// Which changes are applied.
    pub(crate) filter: ChangeFilter,
    /// For how long refused credentials are borne.
    pub(crate) patience: Patience,
    /// Whether a gap ends the link, or is healed.
    pub(crate) stop_on_gap: bool,
}

/// Why reading ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// It was told to stop.
    Stopped,
    /// The stream is disabled, and all that it will ever hold is read and settled.
    Exhausted,
}

/// Whom the reader works with, and from where it goes on.
pub(crate) struct StreamSetup {
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) stream: StreamArn,
    pub(crate) view: ViewType,
    pub(crate) codec: KeyCodec,
    pub(crate) keeper: Keeper,
    pub(crate) engine: Engine,
    pub(crate) context: Context,
    pub(crate) settings: StreamSettings,
    pub(crate) observer: Arc<dyn StreamObserver>,
    pub(crate) lineage: Lineage,
    /// The rows, for positions.
    pub(crate) rows: Vec<ShardRow>,
    /// See [`StreamDriver::proved_before`].
    pub(crate) proved_before: BTreeMap<ShardId, WallTime>,
    /// Of a part of a link: what it leaves alone.
    pub(crate) elsewhere: Option<Elsewhere>,
    /// Of a link of which this process has several parts: where they have their listings from.
    pub(crate) listings: Option<Arc<Listings>>,
    /// The stream was pinned, and then waited for a load that holds what was written before.
    pub(crate) waited_for_load: bool,
    pub(crate) finished: mpsc::UnboundedReceiver<FinishedShard>,
}

enum Done {
    Iterator(ShardId, Result<ShardIterator, Failure>),
    Page(ShardId, ShardIterator, Result<RecordsPage, Failure>),
    Admitted(ShardId, Polled, Result<(), StreamError>),
    Listed(Result<Numbered, ListError>),
    Children(ShardId, Result<Vec<ShardListing>, Failure>),
}

struct Reading {
    cursor: Cursor,
    attempts: Attempts,
    confirmed_at: Option<Instant>,
    /// Empty pages in a row, by one iterator after the other from the trim horizon on.
    empty_pages: u8,
}

/// The task that reads a stream.
pub(crate) struct StreamDriver {
    source: Arc<dyn StreamSource>,
    stream: StreamArn,
    view: ViewType,
    codec: KeyCodec,
    keeper: Keeper,
    engine: Engine,
    context: Context,
    settings: StreamSettings,
    observer: Arc<dyn StreamObserver>,
    lineage: Forest,
    /// Whether a finished shard's children are missing, as of the forest's last change.
    is_awaiting: bool,
    positions: HashMap<ShardId, StartAt>,
    verified: HashMap<ShardId, WallTime>,
    /// The same as the former run left it, of shards that had waited so long that a gap was opened at the start.
    proved_before: BTreeMap<ShardId, WallTime>,
    /// Of a stream that has waited for a load: the shards that were pinned, and not read, before.
    unread_pins: HashSet<ShardId>,
    /// When the last settled change of each finished shard was created.
    settled_to: HashMap<ShardId, WallTime>,
    /// Checkpoints at the start: reading from the trim horizon may bring records up to there once more.
    floors: HashMap<ShardId, SequenceNumber>,
    /// Whether the stream was listed in this run: gaps are looked for before any position is confirmed.
    is_listed: bool,
    readings: BTreeMap<ShardId, Reading>,
    schedule: Schedule,
    finished: mpsc::UnboundedReceiver<FinishedShard>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    elsewhere: Option<Elsewhere>,
    lister: ShardLister,
    /// The number of the last listing.
    seen_listing: u64,
    /// One call about shards at a time: their budget is 10/s for the account.
    is_listing: bool,
    list_at: Instant,
    /// How long after a listing the next one is wanted while children are missing.
    list_wait: Duration,
    children_at: Instant,
    children_wait: Duration,
    children_asked: usize,
    /// Finished, and no full listing was begun since their first child was found: a second one may not be known yet.
    finished_lately: HashSet<ShardId>,
    /// Listings in a row that contradicted themselves.
    odd_listings: u32,
    /// What follows from the last listing, and is believed when the next one says so, too.
    suspected: HashSet<Suspect>,
    /// Those of them that had a known child when the listing that is under way began.
    settled_by_listing: HashSet<ShardId>,
    started: Instant,
}

impl StreamDriver {
    pub(crate) fn new(setup: StreamSetup) -> Self {
        let now = Instant::now();
        let at = |row: &ShardRow| match row.checkpoint {
            Some(checkpoint) if !row.is_trimmed => StartAt::After(checkpoint),
            Some(_) | None => StartAt::TrimHorizon,
        };
        let floors = setup.rows.iter().filter_map(|row| Some((row.id.clone(), row.checkpoint?))).collect();
        Self {
            lister: ShardLister::new(
                Arc::clone(&setup.source),
                setup.stream.clone(),
                setup.context.clone(),
                setup.settings.patience,
            )
            .sharing(setup.listings),
            seen_listing: 0,
            elsewhere: setup.elsewhere,
            source: setup.source,
            stream: setup.stream,
            view: setup.view,
            codec: setup.codec,
            keeper: setup.keeper,
            engine: setup.engine,
            context: setup.context,
            settings: setup.settings,
            observer: setup.observer,
            lineage: Forest::new(setup.lineage),
            is_awaiting: false,
            positions: setup.rows.iter().map(|row| (row.id.clone(), at(row))).collect(),
            verified: setup.rows.iter().map(|row| (row.id.clone(), row.verified_at)).collect(),
            proved_before: setup.proved_before,
            unread_pins: setup.rows.iter().filter(|_| setup.waited_for_load).map(|row| row.id.clone()).collect(),
            settled_to: setup.rows.iter().filter_map(|row| Some((row.id.clone(), row.checkpoint_time?))).collect(),
            floors,
            is_listed: false,
            readings: BTreeMap::new(),
            schedule: Schedule::new(setup.settings.pace),
            finished: setup.finished,
            work: FuturesUnordered::new(),
            is_listing: false,
            list_at: now,
            list_wait: LIST_AFTER_END,
            children_at: now,
            children_wait: CHILDREN_EVERY,
            children_asked: 0,
            finished_lately: HashSet::new(),
            odd_listings: 0,
            suspected: HashSet::new(),
            settled_by_listing: HashSet::new(),
            started: now,
        }
    }

    /// Reads until it is told to stop or the stream is exhausted. Dropping it half-way loses nothing: positions live in the
    /// bookkeeper's rows.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<StreamEnd, StreamError> {
        loop {
            if self.lineage.take_change() {
                self.is_awaiting = self.lineage.awaiting_children(self.context.now()).next().is_some();
                self.begin_readable().await?;
            }
            self.start_polls();
            self.start_listing();
            let wake = self.next_wake();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(StreamEnd::Stopped),
                Some(shard) = self.finished.recv() => self.shard_finished(&shard),
                Some(done) = self.work.next(), if !self.work.is_empty() => self.take(done).await?,
                () = tokio::time::sleep_until(wake) => {}
            }
            if self.lineage.has_changed() && self.lineage.is_exhausted() && self.readings.is_empty() {
                return Ok(StreamEnd::Exhausted);
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn next_wake(&self) -> Instant {
        let poll = self.schedule.next_due().filter(|_| self.schedule.polls_out() < self.settings.max_concurrent);
        let poll_at = poll.map(|due| self.started + due);
        let list_at = if self.is_listing { None } else { Some(self.next_listing_at()) };
        [poll_at, list_at]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| Instant::now() + self.settings.discovery_interval)
    }

    /// Shards whose turn has come: their rows say so before they are read.
    async fn begin_readable(&mut self) -> Result<(), StreamError> {
        if !self.is_listed {
            return Ok(());
        }
        let ready: Vec<ShardId> =
            self.lineage.readable().filter(|shard| !self.readings.contains_key(*shard)).cloned().collect();
        if ready.is_empty() {
            return Ok(());
        }
        let waiting = ready.iter().filter(|shard| self.lineage.status(shard) == Some(ShardStatus::Waiting));
        let begun: FuturesUnordered<_> = waiting.map(|shard| self.keeper.begin(shard)).collect();
        begun.collect::<Vec<_>>().await.into_iter().collect::<Result<(), _>>()?;
        let now = self.now();
        for shard in ready {
            if !matches!(self.positions.get(&shard), Some(StartAt::After(_))) {
                self.look_for_silent_loss(&shard).await?;
            }
            if self.lineage.begin(&shard) {
                let at = self.positions.get(&shard).copied().unwrap_or(StartAt::TrimHorizon);
                let attempts = Attempts::new(self.settings.patience);
                let cursor = Cursor::new(at);
                let reading = Reading { cursor, attempts, confirmed_at: None, empty_pages: 0 };
                self.readings.insert(shard.clone(), reading);
                self.schedule.add(shard, now);
            }
        }
        self.report_shards();
        Ok(())
    }

    async fn take(&mut self, done: Done) -> Result<(), StreamError> {
        match done {
            Done::Iterator(shard, answer) => self.take_iterator(&shard, answer).await,
            Done::Page(shard, iterator, answer) => self.take_page(shard, &iterator, answer).await,
            Done::Admitted(shard, polled, answer) => {
                answer?;
                let now = self.now();
                self.schedule.polled(&shard, polled, now);
                Ok(())
            }
            Done::Listed(answer) => self.take_listing(answer).await,
            Done::Children(parent, answer) => self.take_children(&parent, answer).await,
        }
    }
}
