//! What is known of a running link: fed by its tasks, read by status, metrics and the load's control.
//!
//! Every number goes through here once; nothing here decides what is sent.
//!
//! What is known and how it is told are here; `observing` takes in what the stages say.

mod observing;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::checkpoint::keeper::BookStatus;
use crate::checkpoint::rows::{LoadPlan, SegmentRow, ShardRow, ShardStatus, VerifiedRow};
use crate::context::Context;
use crate::model::{ShardId, WallTime};
use crate::stream::Counts;
use crate::telemetry::lag::{CheckpointMark, LinkLag, ShardLag, Watermarks};
use crate::telemetry::rate::Rate;
use crate::telemetry::skew::SkewEstimate;
use crate::telemetry::{DifferenceKind, DifferenceState, LinkMetrics, Operation, Phase, Side, Stage};

/// How far the initial load is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LoadProgress {
    /// What was planned; `None`: there is no load.
    pub(crate) plan: Option<LoadPlan>,
    /// Items settled, also by earlier runs.
    pub(crate) items: u64,
    /// Bytes of JSON settled, also by earlier runs.
    pub(crate) bytes: u64,
    /// Segments settled.
    pub(crate) segments_done: u32,
    /// Items settled by this run.
    pub(crate) items_here: u64,
    /// Since this run began.
    pub(crate) elapsed: Duration,
    /// Whether it waits for the stream.
    pub(crate) waits_for_stream: bool,
    /// Whether what the stream loses meanwhile is brought by incremental exports.
    pub(crate) is_chained: bool,
}

/// The totals of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Records read from the stream.
    pub(crate) read: u64,
    /// Records left out by a filter.
    pub(crate) filtered: u64,
    /// Records acknowledged by the target.
    pub(crate) applied: u64,
    /// Records settled by newer ones of their keys.
    pub(crate) superseded: u64,
}

/// What is known of a link now.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) phase: Phase,
    pub(crate) watermarks: Watermarks,
    pub(crate) retention_deadline: WallTime,
    /// AWS's clock, as far as it is known.
    pub(crate) now: WallTime,
    pub(crate) load: LoadProgress,
    pub(crate) totals: Totals,
    /// Records of the stream that were settled per second of late.
    pub(crate) records_per_second: Option<f64>,
    pub(crate) counts: Counts,
    pub(crate) books: BookStatus,
    pub(crate) is_target_throttled: bool,
    /// What the stream loses is brought by incremental exports.
    pub(crate) is_chained: bool,
    pub(crate) stream_opened: bool,
    /// Sides whose last call was refused for its credentials.
    pub(crate) is_denied: bool,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    lag: LinkLag,
    marks: HashMap<ShardId, CheckpointMark>,
    skew: SkewEstimate,
    load: LoadProgress,
    load_started: Option<Instant>,
    is_loading: bool,
    totals: Totals,
    settled: Rate,
    counts: Counts,
    books: BookStatus,
    /// Dead letters of the newest status; `None` before the first one: those that are there already are not new.
    known_letters: Option<u64>,
    is_target_throttled: bool,
    stream_opened: bool,
    denied: HashSet<(Side, Operation)>,
    /// Of a link that is divided: how far its parts are, and until when what they lack is in the stream.
    of_parts: Option<(Watermarks, Option<WallTime>)>,
}

/// The board of one link.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
    metrics: LinkMetrics,
    context: Context,
    books: watch::Sender<BookStatus>,
    began: Instant,
}

impl Board {
    /// A board for a link whose changes are owed from this time on; `skew` is what answers have told so far.
    pub(crate) fn new(metrics: LinkMetrics, context: Context, owed_from: WallTime, skew: SkewEstimate) -> Self {
        let state = State {
            phase: Phase::Starting,
            lag: LinkLag::new(owed_from),
            marks: HashMap::new(),
            skew,
            load: LoadProgress::default(),
            load_started: None,
            is_loading: false,
            totals: Totals::default(),
            settled: Rate::default(),
            counts: Counts::default(),
            books: BookStatus::default(),
            known_letters: None,
            is_target_throttled: false,
            stream_opened: false,
            denied: HashSet::new(),
            of_parts: None,
        };
        metrics.phase(Phase::Starting);
        Self {
            state: Mutex::new(state),
            metrics,
            context,
            books: watch::Sender::new(BookStatus::default()),
            began: Instant::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link's metrics.
    pub(crate) const fn metrics(&self) -> &LinkMetrics {
        &self.metrics
    }

    /// Follows the books: gaps, doubts, dead letters.
    pub(crate) fn follow_books(&self) -> watch::Receiver<BookStatus> {
        self.books.subscribe()
    }

    /// Where the shards stand at the start.
    pub(crate) fn restore<'a>(&self, rows: impl Iterator<Item = &'a ShardRow>) {
        let mut state = self.state();
        for row in rows {
            state.lag.add(row.id.clone(), row.parent.clone(), ShardLag::resumed(row.checkpoint_time));
            if row.status == ShardStatus::Finished {
                state.lag.finished(&row.id);
            }
        }
    }

    /// The link is divided, its parts are so far, and so many keys of theirs are in doubt.
    pub(crate) fn of_parts(&self, watermarks: Watermarks, deadline: Option<WallTime>, in_doubt: usize) {
        let mut state = self.state();
        state.of_parts = Some((watermarks, deadline));
        state.books.doubts = in_doubt;
        self.metrics.in_doubt(in_doubt);
    }

    /// So many dead letters of the link and its parts are kept.
    pub(crate) fn letters_of_parts(&self, dead_letters: u64) {
        self.state().books.dead_letters = dead_letters;
        self.metrics.dead_letters(Some(dead_letters));
    }

    /// The load begins, or goes on from these segments.
    /// `is_chained`: what the stream loses meanwhile is brought by incremental exports.
    pub(crate) fn load_begins<'a>(
        &self,
        plan: &LoadPlan,
        is_chained: bool,
        segments: impl Iterator<Item = &'a SegmentRow>,
    ) {
        let mut state = self.state();
        let items = plan.export.as_ref().map_or(0, |export| if export.is_loaded { 0 } else { export.items_before });
        let mut progress = LoadProgress { plan: Some(plan.clone()), items, is_chained, ..LoadProgress::default() };
        for segment in segments {
            progress.items += segment.items;
            progress.bytes += segment.bytes;
            progress.segments_done += u32::from(segment.done);
        }
        self.metrics.load_started(plan.began, plan.total_segments as usize, Some(plan.expected_bytes));
        self.metrics.load_segments_done(progress.segments_done as usize);
        state.load = progress;
        state.load_started = Some(Instant::now());
        state.lag.set_loading(true);
        state.is_loading = true;
    }

    /// The load ended in an earlier run, with so many items.
    pub(crate) fn was_loaded(&self, items: u64) {
        self.state().load.items = items;
    }

    /// The load ended.
    pub(crate) fn load_ended(&self) {
        self.metrics.load_ended(self.context.now());
        let mut state = self.state();
        state.lag.set_loading(false);
        state.is_loading = false;
    }

    /// Whether the initial load is under way.
    pub(crate) fn is_loading(&self) -> bool {
        self.state().is_loading
    }

    /// The phase changed.
    pub(crate) fn set_phase(&self, phase: Phase) {
        let mut state = self.state();
        if state.phase != phase {
            tracing::info!(phase = phase.to_string(), "phase");
            state.phase = phase;
            self.metrics.phase(phase);
        }
    }

    /// Another worker has the link, or may have it.
    pub(crate) fn left(&self) {
        self.metrics.left();
        self.set_phase(Phase::Standby);
    }

    /// The stream, which was listed when it was pinned, is read when the load is done.
    pub(crate) fn stream_waits_for_load(&self) {
        self.state().stream_opened = true;
    }

    /// The stream is off and read to its end.
    pub(crate) fn stream_closed(&self) {
        self.state().stream_opened = false;
    }

    /// A call ended. An operation that is refused makes the link unready until it passes again.
    pub(crate) fn called(&self, side: Side, operation: Operation, is_denied: bool) {
        let mut state = self.state();
        if is_denied {
            state.denied.insert((side, operation));
        } else if !state.denied.is_empty() {
            state.denied.remove(&(side, operation));
        }
    }

    /// An answer told AWS's time.
    pub(crate) fn observe_date(&self, side: Side, sent: WallTime, received: WallTime, date: WallTime) {
        let mut state = self.state();
        state.skew.observe(sent, received, date);
        self.metrics.clock_skew(side, state.skew.offset_seconds());
    }

    /// What the last comparison of both tables found; `is_new`: it was not there when the link was opened.
    pub(crate) fn verified(&self, row: &VerifiedRow, is_new: bool) {
        let states = [(DifferenceState::Pending, &row.pending), (DifferenceState::Confirmed, &row.confirmed)];
        for (state, counts) in states {
            self.metrics.verify_differences(DifferenceKind::Missing, state, counts.missing);
            self.metrics.verify_differences(DifferenceKind::Extra, state, counts.extra);
            self.metrics.verify_differences(DifferenceKind::Different, state, counts.different);
        }
        if is_new {
            self.metrics.verify_compared(row.compared);
        }
        if let Some(at) = row.last_success {
            self.metrics.verify_succeeded(at);
        }
    }

    /// What is known now. Renews the time-dependent metrics, too, so call it for each scrape.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut state = self.state();
        let (watermarks, retention_deadline) = match state.of_parts {
            Some((watermarks, deadline)) => (watermarks, deadline.unwrap_or_else(|| state.lag.retention_deadline())),
            None => (state.lag.watermarks(), state.lag.retention_deadline()),
        };
        for stage in [Stage::Read, Stage::Applied, Stage::Checkpointed] {
            self.metrics.watermark(stage, watermarks.of(stage));
        }
        let is_chained = state.is_loading && state.load.is_chained;
        self.metrics.retention_deadline(Some(retention_deadline).filter(|_| !is_chained));
        self.metrics.shard_skew(state.lag.shard_skew());
        let settled = state.totals.applied + state.totals.superseded + state.totals.filtered;
        state.settled.observe(self.began.elapsed(), settled);
        let mut load = state.load.clone();
        load.elapsed = state.load_started.map_or(Duration::ZERO, |at| at.elapsed());
        Snapshot {
            phase: state.phase,
            watermarks,
            retention_deadline,
            now: state.skew.corrected(self.context.now()),
            load,
            totals: state.totals,
            records_per_second: state.settled.per_second(),
            counts: state.counts,
            books: state.books.clone(),
            is_target_throttled: state.is_target_throttled,
            is_chained,
            stream_opened: state.stream_opened,
            is_denied: !state.denied.is_empty(),
        }
    }
}
