//! Reads a stream: lists its shards, polls those that may be read, hands their changes on.
//!
//! One task owns the forest, the cursors and the schedule; it decides by asking them, and does their bidding with many
//! requests out at once. A shard's next page is asked for when its last one was admitted by the bookkeeper and taken by
//! the engine, so what cannot be applied is not read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::filter::{ChangeFilter, Fate, Skipped};
use super::gaps::{GapCause, GapScope, first_confirmed, is_unconfirmed};
use super::{
    Cursor, CursorError, Discovery, GiveUp, Lineage, ListingError, LossCause, NewShard, Pace, Polled, Schedule, Step,
    StreamSource, StreamStatus, Suspect, Suspicion,
};
use crate::apply::engine::{Engine, EngineGone};
use crate::checkpoint::keeper::{Admission, Keeper, KeeperGone};
use crate::checkpoint::rows::{GapRow, ShardRow, ShardStatus};
use crate::context::Context;
use crate::decode::{DecodeError, KeyCodec, stream_page};
use crate::error::{Failure, Fault};
use crate::model::{SequenceNumber, ShardId, StartAt, StreamArn, ViewType, WallTime};
use crate::retry::{Attempts, Patience, Verdict};
use crate::stream::lister::{ListError, ShardLister};
use crate::stream::{Listing, RecordsPage, ShardIterator};

/// Records asked for in a page: the service's most. Source: DynamoDB Streams API reference, `GetRecords`.
const PAGE_RECORDS: u32 = 1000;
/// A page of this many bytes is full: the service ends one at 1 MB.
const FULL_PAGE_BYTES: usize = 900_000;
/// How often a position that is read from is written down as confirmed.
const CONFIRM_EVERY: Duration = Duration::from_secs(60);
/// How often shards whose children are late are asked for them; doubles up to the discovery interval.
const CHILDREN_EVERY: Duration = Duration::from_millis(500);
/// The whole stream is listed this soon after a shard's end: its children may come one by one.
const LIST_AFTER_END: Duration = Duration::from_millis(500);
/// Full listings in a row that may contradict themselves.
const MAX_ODD_LISTINGS: u32 = 10;
/// A shard's children are this late before somebody is told.
const CHILDREN_ARE_LATE: Duration = Duration::from_secs(300);

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

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The source refused for good.
    #[error("read the stream")]
    Source(#[source] Failure),
    /// An answer that cannot be.
    #[error("read a page of shard {shard}")]
    Page {
        /// The shard.
        shard: ShardId,
        /// What is wrong with it.
        #[source]
        source: PageError,
    },
    /// Listings that cannot be.
    #[error("list the stream's shards")]
    Listing(#[source] ListingError),
    /// There is no such stream any more.
    #[error("the stream is gone")]
    Gone,
    /// History is lost, and the link is to stop then.
    #[error("source history was lost ({cause}, shard {shard}) and on_gap is \"stop\"")]
    Lost {
        /// The shard.
        shard: ShardId,
        /// Why.
        cause: &'static str,
    },
    /// The bookkeeper stopped first.
    #[error(transparent)]
    Keeper(#[from] KeeperGone),
    /// The engine stopped first.
    #[error(transparent)]
    Engine(#[from] EngineGone),
}

/// A page that cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    /// Not understood.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Out of order.
    #[error(transparent)]
    Cursor(#[from] CursorError),
}

/// What reading tells while it runs.
pub(crate) trait StreamObserver: Send + Sync {
    /// The shards that are known, with their parents, and those whose children are not.
    fn shards(
        &self,
        known: &mut dyn Iterator<Item = (&ShardId, Option<&ShardId>)>,
        awaiting: &HashSet<ShardId>,
        counts: super::Counts,
    );
    /// A shard is read and settled to its end, durably.
    fn shard_finished(&self, shard: &ShardId);
    /// A shard's row is gone.
    fn shard_forgotten(&self, shard: &ShardId);
    /// A gap was opened.
    fn gap_opened(&self, cause: GapCause);
    /// A page was received.
    fn page(&self, shard: &ShardId, page: PageFacts);
    /// A change was left out.
    fn skipped(&self, why: Skipped);
    /// A full listing was made.
    fn discovered(&self);
}

/// What a page says of the lag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageFacts {
    /// When it was asked for.
    pub(crate) asked_at: WallTime,
    /// Its records.
    pub(crate) records: usize,
    /// Its bytes.
    pub(crate) bytes: usize,
    /// Whether the shard is known to be closed: then more may come although this page was empty.
    pub(crate) is_closed: bool,
    /// Whether it was the last one.
    pub(crate) is_last: bool,
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
    pub(crate) finished: mpsc::UnboundedReceiver<ShardId>,
}

enum Done {
    Iterator(ShardId, Result<ShardIterator, Failure>),
    Page(ShardId, ShardIterator, Result<RecordsPage, Failure>),
    Admitted(ShardId, Polled, Result<(), StreamError>),
    Listed(Result<Listing, ListError>),
    Children(ShardId, Result<Vec<super::ShardListing>, Failure>),
}

struct Reading {
    cursor: Cursor,
    attempts: Attempts,
    confirmed_at: Option<Instant>,
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
    lineage: Lineage,
    positions: HashMap<ShardId, StartAt>,
    verified: HashMap<ShardId, WallTime>,
    /// Checkpoints at the start: reading from the trim horizon may bring records up to there once more.
    floors: HashMap<ShardId, SequenceNumber>,
    /// Whether the stream was listed in this run: gaps are looked for before any position is confirmed.
    is_listed: bool,
    readings: BTreeMap<ShardId, Reading>,
    schedule: Schedule,
    finished: mpsc::UnboundedReceiver<ShardId>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    lister: ShardLister,
    /// One call about shards at a time: their budget is 10/s for the account.
    is_listing: bool,
    list_at: Instant,
    children_at: Instant,
    children_wait: Duration,
    children_asked: usize,
    /// Finished, and no full listing was begun since their first child was found: a second one may not be known yet.
    finished_lately: HashSet<ShardId>,
    /// Listings in a row that contradicted themselves.
    odd_listings: u32,
    /// Unfinished shards that the last listing did not hold.
    vanished: HashSet<ShardId>,
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
            ),
            source: setup.source,
            stream: setup.stream,
            view: setup.view,
            codec: setup.codec,
            keeper: setup.keeper,
            engine: setup.engine,
            context: setup.context,
            settings: setup.settings,
            observer: setup.observer,
            lineage: setup.lineage,
            positions: setup.rows.iter().map(|row| (row.id.clone(), at(row))).collect(),
            verified: setup.rows.iter().map(|row| (row.id.clone(), row.verified_at)).collect(),
            floors,
            is_listed: false,
            readings: BTreeMap::new(),
            schedule: Schedule::new(setup.settings.pace),
            finished: setup.finished,
            work: FuturesUnordered::new(),
            is_listing: false,
            list_at: now,
            children_at: now,
            children_wait: CHILDREN_EVERY,
            children_asked: 0,
            finished_lately: HashSet::new(),
            odd_listings: 0,
            vanished: HashSet::new(),
            settled_by_listing: HashSet::new(),
            started: now,
        }
    }

    /// Reads until it is told to stop or the stream is exhausted. Dropping it half-way loses nothing: positions live in the
    /// bookkeeper's rows.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<StreamEnd, StreamError> {
        loop {
            self.begin_readable().await?;
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
            if self.lineage.is_exhausted() && self.readings.is_empty() {
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

    fn next_listing_at(&self) -> Instant {
        if self.lineage.awaiting_children(self.context.now()).next().is_some() {
            self.list_at.min(self.children_at)
        } else {
            self.list_at
        }
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
                self.readings.insert(shard.clone(), Reading { cursor: Cursor::new(at), attempts, confirmed_at: None });
                self.schedule.add(shard, now);
            }
        }
        self.report_shards();
        Ok(())
    }

    fn start_polls(&mut self) {
        while self.schedule.polls_out() < self.settings.max_concurrent {
            let now = self.now();
            let Some(shard) = self.schedule.due(now) else { return };
            let Some(reading) = self.readings.get(&shard) else {
                self.schedule.ended(&shard);
                continue;
            };
            let source = Arc::clone(&self.source);
            match reading.cursor.next() {
                Step::GetIterator(at) => {
                    let stream = self.stream.clone();
                    self.work.push(Box::pin(async move {
                        let answer = source.iterator(&stream, &shard, at).await;
                        Done::Iterator(shard, answer)
                    }));
                }
                Step::GetRecords(iterator) => self.work.push(Box::pin(async move {
                    let answer = source.records(&iterator, PAGE_RECORDS).await;
                    Done::Page(shard, iterator, answer)
                })),
                Step::Done | Step::Lost(_) => self.schedule.ended(&shard),
            }
        }
    }

    fn start_listing(&mut self) {
        let now = Instant::now();
        if self.is_listing {
            return;
        }
        if now >= self.list_at {
            self.is_listing = true;
            let parents = self.finished_lately.iter().filter(|shard| self.lineage.has_known_children(shard));
            self.settled_by_listing = parents.cloned().collect();
            let lister = self.lister.clone();
            self.work.push(Box::pin(async move { Done::Listed(lister.list().await) }));
        } else if now >= self.children_at {
            let waiting: Vec<_> = self.lineage.awaiting_children(self.context.now()).collect();
            let Some(next) = waiting.get(self.children_asked % waiting.len().max(1)) else { return };
            if next.waited >= CHILDREN_ARE_LATE && self.children_asked.is_multiple_of(64) {
                tracing::warn!(shard = %next.id, waited_seconds = next.waited.as_secs(), "the children of a finished shard are late");
            }
            self.children_asked += 1;
            self.is_listing = true;
            let (lister, parent) = (self.lister.clone(), next.id.clone());
            self.work.push(Box::pin(async move {
                let answer = lister.children(&parent).await;
                Done::Children(parent, answer)
            }));
        }
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

    async fn take_iterator(
        &mut self,
        shard: &ShardId,
        answer: Result<ShardIterator, Failure>,
    ) -> Result<(), StreamError> {
        let Some(reading) = self.readings.get_mut(shard) else {
            self.schedule.ended(shard);
            return Ok(());
        };
        match answer {
            Ok(iterator) => {
                reading.cursor.on_iterator(Ok(iterator));
                let now = self.now();
                self.schedule.polled(shard, Polled::GoOn, now);
                Ok(())
            }
            Err(failure) => {
                reading.cursor.on_iterator(Err(&failure));
                self.poll_failed(shard, failure).await
            }
        }
    }

    async fn take_page(
        &mut self,
        shard: ShardId,
        iterator: &ShardIterator,
        answer: Result<RecordsPage, Failure>,
    ) -> Result<(), StreamError> {
        let Some(reading) = self.readings.get_mut(&shard) else {
            self.schedule.ended(&shard);
            return Ok(());
        };
        let was_unproved = reading.cursor.position() == StartAt::TrimHorizon;
        let page = match answer {
            Ok(page) => page,
            Err(failure) => {
                reading.cursor.on_page_failed(&failure);
                return self.poll_failed(&shard, failure).await;
            }
        };
        let decoded = stream_page(&page.body, &self.codec, self.view).map_err(PageError::from).and_then(|decoded| {
            let numbers = decoded.changes.iter().map(|change| change.sequence);
            let next = decoded.next_iterator.map(ShardIterator::new);
            let read = reading.cursor.on_page(iterator, numbers, next)?;
            Ok((decoded.changes, read))
        });
        let (mut changes, read) = match decoded {
            Ok(decoded) => decoded,
            Err(source) => return self.page_is_broken(&shard, source).await,
        };
        reading.attempts.succeeded();
        let facts = PageFacts {
            asked_at: page.asked_at,
            records: changes.len(),
            bytes: page.body.len(),
            is_closed: self.lineage.is_known_closed(&shard),
            is_last: read.drained,
        };
        self.observer.page(&shard, facts);
        self.confirm(&shard, was_unproved).await?;
        let polled = match facts.records {
            0 => Polled::Empty,
            n if n >= PAGE_RECORDS as usize || facts.bytes >= FULL_PAGE_BYTES => Polled::GoOn,
            _ => Polled::Some,
        };
        changes.drain(..read.skip.min(changes.len()));
        if let Some(floor) = self.floors.get(&shard) {
            changes.retain(|change| change.sequence > *floor);
        }
        self.hand_on(shard, changes, read.drained, polled);
        Ok(())
    }

    /// The shard is polled again when its page was taken.
    fn hand_on(&mut self, shard: ShardId, changes: Vec<crate::model::Change>, is_drained: bool, polled: Polled) {
        if changes.is_empty() && !is_drained {
            let now = self.now();
            self.schedule.polled(&shard, polled, now);
            return;
        }
        let wall = self.context.now();
        let admissions = changes.into_iter().map(|change| {
            let fate = self.settings.filter.fate(&change, wall);
            if let Fate::Skip(why) = fate {
                self.observer.skipped(why);
            }
            Admission { apply: fate == Fate::Apply, change }
        });
        let admissions: Vec<_> = admissions.collect();
        let (keeper, engine) = (self.keeper.clone(), self.engine.clone());
        self.work.push(Box::pin(async move {
            let handed_on = async {
                let admitted = keeper.admit(&shard, admissions).await?;
                engine.apply(admitted).await?;
                if is_drained {
                    keeper.drained(&shard).await?;
                }
                Ok(())
            };
            let answer = handed_on.await;
            Done::Admitted(shard, polled, answer)
        }));
    }

    /// A page was read: the position is within what the stream keeps. From the trim horizon a page comes also when
    /// older records are gone, so there the time since the last confirmation decides, before it is renewed.
    async fn confirm(&mut self, shard: &ShardId, was_unproved: bool) -> Result<(), StreamError> {
        if was_unproved {
            self.look_for_silent_loss(shard).await?;
        }
        let now = Instant::now();
        let Some(reading) = self.readings.get_mut(shard) else { return Ok(()) };
        if reading.confirmed_at.is_none_or(|at| now.duration_since(at) >= CONFIRM_EVERY) {
            reading.confirmed_at = Some(now);
            let wall = self.context.now();
            self.verified.insert(shard.clone(), wall);
            self.keeper.confirm(shard, wall).await?;
        }
        Ok(())
    }

    /// Opens a gap where nothing proved for nearly a day that the shard's oldest records are still there.
    async fn look_for_silent_loss(&mut self, shard: &ShardId) -> Result<(), StreamError> {
        let wall = self.context.now();
        if self.verified.get(shard).is_some_and(|at| is_unconfirmed(*at, wall)) {
            self.open_gap(shard, GapCause::NotConfirmed).await?;
            self.verified.insert(shard.clone(), wall);
            self.keeper.confirm(shard, wall).await?;
        }
        Ok(())
    }

    /// A page that cannot be is asked for again, in case it was damaged on its way; then reading stops.
    async fn page_is_broken(&mut self, shard: &ShardId, source: PageError) -> Result<(), StreamError> {
        let failure = Failure {
            operation: "GetRecords",
            fault: Fault::Broken,
            throttled: false,
            may_have_happened: false,
            code: None,
            message: source.to_string(),
            request_id: None,
        };
        match self.poll_failed(shard, failure).await {
            Err(StreamError::Source(_)) => Err(StreamError::Page { shard: shard.clone(), source }),
            other => other,
        }
    }

    async fn poll_failed(&mut self, shard: &ShardId, failure: Failure) -> Result<(), StreamError> {
        let now = self.now();
        let Some(reading) = self.readings.get_mut(shard) else { return Ok(()) };
        if let Step::Lost(cause) = reading.cursor.next() {
            return self.position_lost(shard, cause).await;
        }
        match reading.attempts.failed_with(&failure, now, self.context.draw()) {
            Verdict::Again(wait) => {
                let failed = reading.attempts.failed();
                if failed == 1 || failed.is_multiple_of(10) {
                    tracing::warn!(%shard, error = %failure, failed, "a shard could not be read, trying again");
                }
                let wait = if failure.fault == Fault::Expired { Duration::ZERO } else { wait };
                self.schedule.polled(shard, Polled::Failed { wait }, now);
                Ok(())
            }
            Verdict::Stop => Err(StreamError::Source(failure)),
        }
    }

    /// The unread history of a shard is gone: a durable gap first, then on with what is left.
    async fn position_lost(&mut self, shard: &ShardId, cause: LossCause) -> Result<(), StreamError> {
        self.open_gap(shard, cause.into()).await?;
        let now = self.now();
        let restart = match cause {
            LossCause::Trimmed => {
                self.keeper.trimmed(shard).await?;
                true
            }
            LossCause::ShardVanished => match self.lineage.give_up(shard, self.context.now()) {
                GiveUp::Finished => {
                    self.keeper.give_up(shard).await?;
                    self.stop_reading(shard);
                    self.schedule.ended(shard);
                    false
                }
                GiveUp::StillListed => {
                    self.list_at = Instant::now();
                    true
                }
                GiveUp::NotReading => {
                    self.schedule.ended(shard);
                    false
                }
            },
        };
        if restart && let Some(reading) = self.readings.get_mut(shard) {
            reading.cursor.restart();
            let wait = reading.attempts.next_wait(self.context.draw());
            self.schedule.polled(shard, Polled::Failed { wait }, now);
        }
        Ok(())
    }

    fn stop_reading(&mut self, shard: &ShardId) {
        // Should it be read once more, then not what was handed on already.
        if let Some(last) = self.readings.remove(shard).and_then(|reading| reading.cursor.last_read()) {
            self.positions.insert(shard.clone(), StartAt::After(last));
            self.floors.insert(shard.clone(), last);
        }
        self.schedule.remove(shard);
    }

    async fn open_gap(&mut self, shard: &ShardId, cause: GapCause) -> Result<(), StreamError> {
        let (scope, name) = (GapScope::Shard(shard.clone()), cause.as_str().to_owned());
        let (id, from, healed) = (0, None, None);
        // Every finding goes to the books, which know what is open now: an open gap is extended, a healed one is not.
        let row = GapRow { id, scope, from, to: self.context.now(), cause: name, healed };
        if self.keeper.open_gap(row).await? {
            tracing::error!(%shard, cause = cause.as_str(), "source history was lost before it was read: a gap is open");
            self.observer.gap_opened(cause);
        }
        if self.settings.stop_on_gap {
            return Err(StreamError::Lost { shard: shard.clone(), cause: cause.as_str() });
        }
        Ok(())
    }

    fn shard_finished(&mut self, shard: &ShardId) {
        self.lineage.finish(shard, self.context.now());
        self.observer.shard_finished(shard);
        self.stop_reading(shard);
        self.children_at = Instant::now();
        self.children_wait = CHILDREN_EVERY;
        self.finished_lately.insert(shard.clone());
        self.list_at = self.list_at.min(Instant::now() + LIST_AFTER_END);
        self.report_shards();
    }

    async fn take_children(
        &mut self,
        parent: &ShardId,
        answer: Result<Vec<super::ShardListing>, Failure>,
    ) -> Result<(), StreamError> {
        self.is_listing = false;
        let found = match answer {
            Ok(children) => {
                let now = self.context.now();
                let new_shards = self.lineage.merge_children(parent, &children, now);
                let found = !new_shards.is_empty();
                self.create_rows(new_shards).await?;
                found
            }
            // The filter only saves time: the full listing is the truth, and it is on its way.
            Err(_) => false,
        };
        if !found {
            self.children_wait = (self.children_wait * 2).min(self.settings.discovery_interval);
        }
        self.children_at = Instant::now() + if found { Duration::ZERO } else { self.children_wait };
        Ok(())
    }

    async fn take_listing(&mut self, answer: Result<Listing, ListError>) -> Result<(), StreamError> {
        self.is_listing = false;
        let jitter = 0.9 + 0.2 * self.context.draw();
        self.list_at = Instant::now() + self.settings.discovery_interval.mul_f64(jitter);
        let listing = match answer {
            Ok(listing) => listing,
            // The stream itself is gone: what is unread of every shard is lost.
            Err(ListError::Failed(failure)) if failure.fault == Fault::Lost => return self.stream_is_gone().await,
            Err(ListError::Failed(failure)) => return Err(StreamError::Source(failure)),
            Err(ListError::Odd(error)) => {
                self.odd_listings += 1;
                if self.odd_listings >= MAX_ODD_LISTINGS {
                    return Err(StreamError::Listing(error));
                }
                tracing::warn!(%error, "the stream's listings contradict each other, trying again");
                return Ok(());
            }
        };
        self.odd_listings = 0;
        let now = self.context.now();
        self.is_listed = true;
        let Discovery { new_shards, relisted, suspects } = self.lineage.merge_listing(&listing, now);
        self.create_rows(new_shards).await?;
        for (shard, at) in relisted {
            self.keeper.relist(&shard, at).await?;
        }
        let vanished = suspects.iter().filter(|suspect| suspect.why == Suspicion::Vanished);
        let vanished: HashSet<ShardId> = vanished.map(|suspect| suspect.shard.clone()).collect();
        self.resolve(suspects).await?;
        if !vanished.is_subset(&self.vanished) {
            self.list_at = self.list_at.min(Instant::now() + LIST_AFTER_END);
        }
        self.vanished = vanished;
        self.forget_old(now).await?;
        for shard in std::mem::take(&mut self.settled_by_listing) {
            self.finished_lately.remove(&shard);
        }
        self.finished_lately.retain(|shard| self.lineage.status(shard).is_some());
        if !self.finished_lately.is_empty() && listing.status() == StreamStatus::Enabled {
            self.list_at = self.list_at.min(Instant::now() + LIST_AFTER_END);
        }
        self.observer.discovered();
        self.report_shards();
        Ok(())
    }

    async fn stream_is_gone(&mut self) -> Result<(), StreamError> {
        let unfinished: Vec<ShardId> = self.lineage.readable().cloned().collect();
        for shard in unfinished {
            self.open_gap(&shard, GapCause::ShardVanished).await?;
        }
        Err(StreamError::Gone)
    }

    async fn create_rows(&mut self, new_shards: Vec<NewShard>) -> Result<(), StreamError> {
        let now = self.context.now();
        let rows: Vec<ShardRow> = new_shards
            .into_iter()
            .map(|new| {
                let parent_verified = new.parent.as_ref().and_then(|parent| self.verified.get(parent)).copied();
                let verified_at = first_confirmed(new.born_after, parent_verified, now);
                self.verified.insert(new.id.clone(), verified_at);
                new_row(new.id, new.parent, new.status, verified_at, now)
            })
            .collect();
        Ok(self.keeper.create_shards(rows).await?)
    }

    /// Each suspect gets its gap, and then its way out; that may uncover the next.
    ///
    /// A shard is given up when two listings in a row do not hold it: one alone may be incomplete.
    async fn resolve(&mut self, mut suspects: Vec<Suspect>) -> Result<(), StreamError> {
        let vanished = self.vanished.clone();
        let is_certain = |suspect: &Suspect| suspect.why != Suspicion::Vanished || vanished.contains(&suspect.shard);
        suspects.retain(is_certain);
        while !suspects.is_empty() {
            for suspect in suspects {
                self.open_gap(&suspect.shard, suspect.why.into()).await?;
                match self.lineage.resolve(&suspect, self.context.now()) {
                    Some(ShardStatus::Finished) => {
                        self.stop_reading(&suspect.shard);
                        self.keeper.give_up(&suspect.shard).await?;
                    }
                    Some(ShardStatus::Reading) => self.keeper.begin(&suspect.shard).await?,
                    Some(ShardStatus::Waiting) | None => {}
                }
            }
            suspects = self.lineage.suspects();
            suspects.retain(is_certain);
        }
        Ok(())
    }

    async fn forget_old(&mut self, now: WallTime) -> Result<(), StreamError> {
        let old: Vec<ShardId> = self.lineage.forgettable(now).cloned().collect();
        for shard in old {
            if self.lineage.forget(&shard, now) {
                self.keeper.forget(&shard).await?;
                self.observer.shard_forgotten(&shard);
                self.positions.remove(&shard);
                self.verified.remove(&shard);
            }
        }
        Ok(())
    }

    fn report_shards(&self) {
        let awaiting = self.lineage.awaiting_children(self.context.now()).map(|awaiting| awaiting.id);
        let awaiting = awaiting.chain(self.finished_lately.iter().cloned()).collect();
        self.observer.shards(&mut self.lineage.shards(), &awaiting, self.lineage.counts());
    }
}

/// The row of a shard that was never read.
pub(crate) fn new_row(
    id: ShardId,
    parent: Option<ShardId>,
    status: ShardStatus,
    verified_at: WallTime,
    now: WallTime,
) -> ShardRow {
    ShardRow {
        id,
        parent,
        status,
        checkpoint: None,
        checkpoint_time: None,
        dispatch: None,
        verified_at,
        last_listed: now,
        debts: Vec::new(),
        is_trimmed: false,
        is_lost: false,
    }
}
