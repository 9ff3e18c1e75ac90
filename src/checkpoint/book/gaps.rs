//! The gaps: where source history was lost before it was read.

use std::time::Duration;

use super::Book;
use crate::checkpoint::rows::{GapRow, GapScope, ShardRow, ShardStatus};
use crate::model::{ShardId, WallTime};

/// A gap starts this much before the last settled time: source times are whole seconds, rounded down.
const GAP_MARGIN: Duration = Duration::from_secs(2);

impl Book {
    /// Opens a gap, or extends the open one of the same scope and cause. Answers whether it is new.
    pub(crate) fn open_gap(&mut self, mut row: GapRow) -> bool {
        let is_same = |gap: &GapRow| gap.healed.is_none() && gap.scope == row.scope && gap.cause == row.cause;
        if let Some(open) = self.gaps.values_mut().find(|gap| is_same(gap)) {
            open.to = open.to.max(row.to);
            self.dirty.gaps.insert(open.id);
            self.dirty.urgent = true;
            return false;
        }
        row.from = row.from.or_else(|| self.lost_from(&row.scope));
        row.id = self.gaps.keys().next_back().map_or(1, |last| last + 1);
        let id = row.id;
        self.gaps.insert(id, row);
        self.dirty.gaps.insert(id);
        self.dirty.urgent = true;
        true
    }

    /// The time before which nothing of a gap's scope can be lost, where a row tells.
    fn lost_from(&self, scope: &GapScope) -> Option<WallTime> {
        let rows = self.shards.iter().map(|shard| &shard.row);
        let settled = |row: &ShardRow| row.checkpoint_time.unwrap_or(row.verified_at).minus(GAP_MARGIN);
        match scope {
            // Between ours and one that waits for a parent without a row there may be others: nobody knows since when.
            GapScope::Shard(id) if self.waits_for_a_stranger(id) => None,
            GapScope::Shard(id) if self.slots.contains_key(id) => rows.filter(|row| row.id == *id).map(settled).min(),
            GapScope::Shard(_) => rows.filter(|row| row.status != ShardStatus::Finished).map(settled).min(),
            GapScope::All => self.replaced_since().map(|time| time.minus(GAP_MARGIN)),
        }
    }

    /// The time before which a stream that was replaced told everything. Pages of it that were empty prove nothing: since
    /// it was turned off, changes were in another stream, or in none.
    fn replaced_since(&self) -> Option<WallTime> {
        let rows = || self.shards.iter().map(|shard| &shard.row);
        let mut unfinished = rows().filter(|row| row.status != ShardStatus::Finished).map(|row| row.checkpoint_time);
        match unfinished.next() {
            // A shard without a settled record may have had any.
            Some(first) => unfinished.fold(first, Option::min),
            None => rows().filter_map(|row| row.checkpoint_time).max(),
        }
    }

    fn waits_for_a_stranger(&self, shard: &ShardId) -> bool {
        let row = self.slots.get(shard).and_then(|slot| self.shards.get(*slot)).map(|books| &books.row);
        row.is_some_and(|row| {
            row.status == ShardStatus::Waiting
                && row.parent.as_ref().is_some_and(|parent| !self.slots.contains_key(parent))
        })
    }

    /// The tables were found equal by a pass that began at `covered`: these gaps are healed, unless they went on since.
    /// Answers those that are.
    pub(crate) fn heal_gaps(&mut self, ids: &[u64], covered: WallTime, at: WallTime) -> Vec<u64> {
        let mut healed = Vec::new();
        for id in ids {
            if let Some(gap) = self.gaps.get_mut(id).filter(|gap| gap.to <= covered) {
                gap.healed = Some(at);
                healed.push(*id);
                self.dirty.gaps.insert(*id);
                self.dirty.urgent = true;
            }
        }
        healed
    }
}
