//! What each stage tells the board while it runs.

use std::collections::HashSet;
use std::time::Duration;

use super::Board;
use crate::apply::engine::EngineObserver;
use crate::checkpoint::book::ShardProgress;
use crate::checkpoint::keeper::{BookObserver, BookStatus};
use crate::load::driver::LoadObserver;
use crate::model::{ShardId, WallTime};
use crate::stream::driver::{PageFacts, StreamObserver};
use crate::stream::filter::Skipped;
use crate::stream::{Counts, GapCause};
use crate::telemetry::lag::{PageContent, RETENTION, ShardLag};
use crate::telemetry::{
    self, AppliedOp, CapacityKind, Label as _, RecordStage, ShardState, Side, ThrottleReason, WriteResult,
};

/// Answers bound AWS's clock to about a second; before the first few of them the bounds mean nothing.
const MAX_CLOCK_DOUBT: Duration = Duration::from_secs(1);

impl BookObserver for Board {
    fn progress(&self, shard: &ShardId, progress: ShardProgress, arrived: Option<(WallTime, WallTime)>) {
        let mut state = self.state();
        let asked_at = WallTime::from_millis(0);
        let Some(lag) = state.lag.shard(shard) else { return };
        if let Some((oldest, newest)) = arrived {
            lag.page_read(asked_at, PageContent::Records { oldest, newest });
        }
        lag.applied(progress.oldest_unsettled);
    }

    fn committing(&self, shards: &mut dyn Iterator<Item = &ShardId>) {
        let mut state = self.state();
        state.marks.clear();
        for shard in shards {
            if let Some(mark) = state.lag.shard(shard).map(|lag| lag.checkpoint_begun()) {
                state.marks.insert(shard.clone(), mark);
            }
        }
    }

    fn committed(&self, ok: bool) {
        self.metrics.checkpoint_write(if ok { WriteResult::Ok } else { WriteResult::Error });
        if !ok {
            return;
        }
        let mut state = self.state();
        for (shard, mark) in std::mem::take(&mut state.marks) {
            if let Some(lag) = state.lag.shard(&shard) {
                lag.checkpointed(mark);
            }
        }
    }

    fn ahead(&self, records: u64, bytes: u64) {
        self.metrics.buffered(records, bytes);
    }

    fn settled_until(&self) -> Option<WallTime> {
        self.state().lag.watermarks().applied
    }

    fn status(&self, status: BookStatus) {
        let mut state = self.state();
        let known_letters = state.known_letters.replace(status.dead_letters).unwrap_or(status.dead_letters);
        self.metrics.dead_letters(Some(status.dead_letters));
        if state.books == status {
            return;
        }
        self.metrics.in_doubt(status.doubts);
        self.metrics.gaps_open(status.open_gaps.len());
        self.metrics.dead_lettered(status.dead_letters.saturating_sub(known_letters));
        state.books = status.clone();
        drop(state);
        self.books.send_replace(status);
    }
}

impl EngineObserver for Board {
    fn applied(&self, op: AppliedOp, created: WallTime, records: u64) {
        let mut state = self.state();
        state.totals.applied += records;
        let delay = state.skew.corrected(self.context.now()).since(created);
        drop(state);
        self.metrics.stream_records(RecordStage::Applied, records, 0);
        self.metrics.apply_delays(op, delay, records);
    }

    fn superseded(&self, records: u64) {
        self.state().totals.superseded += records;
        self.metrics.stream_records(RecordStage::Superseded, records, 0);
    }

    fn consumed_write(&self, units: f64) {
        self.metrics.consumed(Side::Target, CapacityKind::Write, units);
    }

    fn throttled(&self, slowed: bool) {
        self.state().is_target_throttled = slowed;
        self.metrics.throttled(ThrottleReason::TargetThrottling, slowed);
    }
}

impl StreamObserver for Board {
    fn shards(
        &self,
        known: &mut dyn Iterator<Item = (&ShardId, Option<&ShardId>)>,
        awaiting: &HashSet<ShardId>,
        counts: Counts,
    ) {
        let mut state = self.state();
        for (shard, parent) in known {
            state.lag.add(shard.clone(), parent.cloned(), ShardLag::resumed(None));
        }
        state.lag.release(|shard| awaiting.contains(shard));
        state.counts = counts;
        drop(state);
        self.metrics.shards(ShardState::Open, counts.open);
        self.metrics.shards(ShardState::WaitingParent, counts.waiting_parent);
        self.metrics.shards(ShardState::ClosedPending, counts.closed_pending);
    }

    fn shard_finished(&self, shard: &ShardId) {
        self.state().lag.finished(shard);
    }

    fn shard_reopened(&self, shard: &ShardId) {
        self.state().lag.reopened(shard);
    }

    fn shard_forgotten(&self, shard: &ShardId) {
        self.state().lag.forget(shard);
    }

    fn gap_opened(&self, cause: GapCause) {
        let label = telemetry::GapCause::ALL.iter().find(|label| label.as_str() == cause.as_str());
        label.into_iter().for_each(|label| self.metrics.gap_opened(*label));
    }

    fn page(&self, shard: &ShardId, page: PageFacts) {
        let mut state = self.state();
        state.totals.read += page.records as u64;
        // By AWS's clock, and not later than it may be.
        let doubt = state.skew.uncertainty().unwrap_or(Duration::ZERO);
        let asked_at = state.skew.corrected(page.asked_at).minus(doubt.min(MAX_CLOCK_DOUBT));
        if page.records == 0
            && let Some(lag) = state.lag.shard(shard)
        {
            let shard_is_closed = page.is_closed || page.is_last;
            lag.page_read(asked_at, PageContent::Empty { shard_is_closed });
        }
        drop(state);
        self.metrics.stream_records(RecordStage::Read, page.records as u64, page.bytes as u64);
    }

    fn skipped(&self, why: Skipped) {
        self.state().totals.filtered += 1;
        let stage = match why {
            Skipped::BeforeStart | Skipped::TtlDelete => RecordStage::Filtered,
            Skipped::TooOld => RecordStage::SkippedOlder,
        };
        self.metrics.stream_records(stage, 1, 0);
    }

    fn discovered(&self) {
        self.state().stream_opened = true;
        self.metrics.discovered(self.context.now());
    }
}

impl LoadObserver for Board {
    fn loaded(&self, items: u64, bytes: u64) {
        let mut state = self.state();
        state.load.items += items;
        state.load.items_here += items;
        state.load.bytes += bytes;
        drop(state);
        self.metrics.load_settled(items, bytes);
    }

    fn segment_done(&self) {
        let mut state = self.state();
        state.load.segments_done += 1;
        self.metrics.load_segments_done(state.load.segments_done as usize);
    }

    fn consumed_read(&self, units: f64) {
        self.metrics.consumed(Side::Source, CapacityKind::Read, units);
    }

    fn stream_age(&self) -> Duration {
        let mut state = self.state();
        let read = state.lag.watermarks().read;
        let deadline = state.lag.retention_deadline();
        let now = state.skew.corrected(self.context.now());
        let oldest = read.unwrap_or_else(|| deadline.minus(RETENTION));
        now.since(oldest)
    }

    fn waits_for_stream(&self, waits: bool) {
        self.state().load.waits_for_stream = waits;
        self.metrics.throttled(ThrottleReason::StreamFirst, waits);
    }
}
