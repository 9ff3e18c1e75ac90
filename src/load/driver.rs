//! The initial load: a parallel, strongly consistent scan, put through the lanes while the stream is applied.
//!
//! Segments are scanned in random order, so many at once; within one, the next page is asked for when the items of the last
//! are settled, so its cursor moves in page order. The stream comes first: the load slows down when the oldest unread
//! change gets old, and waits when it gets very old, for what the stream drops is lost and what the load has not read is not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::segments::{each, finish};
use super::{ScanRequest, TableReader};
use crate::apply::engine::{Engine, EngineGone};
use crate::apply::pace::Pacer;
use crate::checkpoint::book::Token;
use crate::checkpoint::keeper::{Keeper, KeeperGone};
use crate::checkpoint::rows::{PageId, SegmentRow};
use crate::context::Context;
use crate::decode::ScanPage;
use crate::error::Failure;
use crate::export::FileError;
use crate::lanes::PageNumber;
use crate::retry::{Attempts, Patience, Verdict};

/// The load slows down when the oldest unread change is older than this.
const SLOW_AT: Duration = Duration::from_secs(2 * 3600);
/// The load waits while the oldest unread change is older than this: a quarter of what the stream keeps.
const PAUSE_AT: Duration = Duration::from_secs(6 * 3600);
/// How long a page waits while the load is slow; and how often a paused load looks again.
const SLOW_WAIT: Duration = Duration::from_secs(1);
/// How long a page waits at most before it looks again: pages in flight that cost less than was charged give some back.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What a page of a megabyte costs at most, read consistently: one unit per 4 KB. Charged ahead, corrected after.
const PAGE_UNITS: f64 = 256.0;

/// How the table is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadSettings {
    /// Segments scanned at once.
    pub(crate) concurrency: usize,
    /// Read units per second; `None`: only the service limits.
    pub(crate) read_limit: Option<f64>,
    /// For how long refused credentials are borne.
    pub(crate) patience: Patience,
    /// For how long a write whose answer was lost may land.
    pub(crate) in_doubt_for: Duration,
}

/// Why the load stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The source refused for good.
    #[error("scan the source")]
    Source(#[source] Failure),
    /// A file of the export could not be read.
    #[error("read {key} of the export")]
    Object {
        /// Its key.
        key: String,
        #[source]
        source: Failure,
    },
    /// A file of the export is not what it should be.
    #[error("read {key} of the export")]
    File {
        /// Its key.
        key: String,
        #[source]
        source: FileError,
    },
    /// The bookkeeper stopped first.
    #[error(transparent)]
    Keeper(#[from] KeeperGone),
    /// The engine stopped first.
    #[error(transparent)]
    Engine(#[from] EngineGone),
}

/// How a load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadEnd {
    /// Everything is settled, and the link's row says so; or it was told to stop.
    Done,
    /// Everything is settled, and the stream does not go on from it: another export must bring what is in between.
    Outlasted,
}

/// What the load tells while it runs.
pub(crate) trait LoadObserver: Send + Sync {
    /// The items of a page were settled.
    fn loaded(&self, items: u64, bytes: u64);
    /// A segment was settled to its end.
    fn segment_done(&self);
    /// Read units were consumed.
    fn consumed_read(&self, units: f64);
    /// How old the oldest unread change of the stream is.
    fn stream_age(&self) -> Duration;
    /// The load waits for the stream, or goes on.
    fn waits_for_stream(&self, waits: bool);
}

/// The task that loads a table.
pub(crate) struct LoadDriver {
    pub(crate) source: Arc<dyn TableReader>,
    pub(crate) keeper: Keeper,
    pub(crate) engine: Engine,
    pub(crate) context: Context,
    pub(crate) settings: LoadSettings,
    pub(crate) observer: Arc<dyn LoadObserver>,
    /// The segments, as far as they have come.
    pub(crate) segments: Vec<SegmentRow>,
    pub(crate) total_segments: u32,
}

struct Shared {
    pacer: Mutex<Pacer>,
    started: Instant,
}

impl LoadDriver {
    /// Loads what is not loaded yet. Resolves when every item is settled and the link's row says so, or when it is told to
    /// stop. Dropping it half-way is safe: pages in flight are listed.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<LoadEnd, LoadError> {
        let shared =
            Shared { pacer: Mutex::new(Pacer::new(self.settings.read_limit, Duration::ZERO)), started: Instant::now() };
        let load_one = |row| self.load_segment(row, &shared);
        let is_done =
            each(&self.segments, self.settings.concurrency, &self.context, &*self.observer, &stop, load_one).await?;
        if is_done {
            finish(&self.keeper).await?;
        }
        Ok(LoadEnd::Done)
    }

    async fn load_segment(&self, mut row: SegmentRow, shared: &Shared) -> Result<(), LoadError> {
        let mut number = 0;
        while !row.done {
            self.wait_for_stream().await;
            let (page_number, page) = self.scan(&row, shared).await?;
            let bytes: usize = page.items.iter().map(|item| item.image.len()).sum();
            let items = page.items.len() as u64;
            row.items += items;
            row.bytes += bytes as u64;
            row.done = page.last_key.is_none();
            row.cursor = page.last_key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
            let page_id = PageId { segment: row.segment, number };
            number += 1;
            let keys = page.items.iter().map(|item| item.key.clone()).collect();
            let settled = self.keeper.open_page(page_id, keys, row.clone()).await?;
            let tokens = page.items.into_iter().map(|item| (item.key, Some(item.image), Token::Item(page_id)));
            self.engine.load(page_number, tokens.collect()).await?;
            settled.await.map_err(|_| KeeperGone)?;
            self.observer.loaded(items, bytes as u64);
        }
        Ok(())
    }

    /// One page, opened before it was requested; passing failures are retried. Each attempt opens its own: while a page is
    /// open the lanes remember every key that is executed.
    async fn scan(&self, row: &SegmentRow, shared: &Shared) -> Result<(PageNumber, ScanPage), LoadError> {
        let request = ScanRequest {
            segment: row.segment,
            total_segments: self.total_segments,
            start: row.cursor.clone().map(Bytes::from),
            limit: None,
        };
        let mut attempts = Attempts::new(self.settings.patience);
        loop {
            take_turn(shared).await;
            let page_number = self.engine.open_page().await?;
            match self.source.scan(&request).await {
                Ok(page) => {
                    let units = page.consumed_units.unwrap_or(PAGE_UNITS);
                    shared.pacer().cost(PAGE_UNITS, units);
                    self.observer.consumed_read(units);
                    return Ok((page_number, page));
                }
                Err(failure) => {
                    self.engine.abandon_page(page_number).await?;
                    shared.pacer().cost(PAGE_UNITS, 0.0);
                    if failure.throttled {
                        shared.pacer().throttled(shared.started.elapsed());
                    }
                    match attempts.failed_with(&failure, shared.started.elapsed(), self.context.draw()) {
                        Verdict::Again(wait) => {
                            tracing::warn!(error = %failure, segment = row.segment, "a page could not be scanned, trying again");
                            tokio::time::sleep(wait).await;
                        }
                        Verdict::Stop => return Err(LoadError::Source(failure)),
                    }
                }
            }
        }
    }

    /// The stream comes first.
    async fn wait_for_stream(&self) {
        if self.observer.stream_age() >= SLOW_AT {
            self.observer.waits_for_stream(true);
            tokio::time::sleep(SLOW_WAIT).await;
            while self.observer.stream_age() >= PAUSE_AT {
                tokio::time::sleep(SLOW_WAIT).await;
            }
            self.observer.waits_for_stream(false);
        }
    }
}

/// Waits until a page may be asked for within the user's limit. It is paid for at once, before any other segment asks: or
/// all of them would go at a moment when one may.
async fn take_turn(shared: &Shared) {
    let ask = || {
        let mut pacer = shared.pacer();
        pacer.may_send(shared.started.elapsed())?;
        pacer.sent(PAGE_UNITS);
        Ok(())
    };
    while let Err(wait) = ask() {
        let wait: Duration = wait;
        tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
    }
}

impl Shared {
    fn pacer(&self) -> std::sync::MutexGuard<'_, Pacer> {
        self.pacer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
