//! What changed since the last commit, and the order in which it is written.

use std::collections::BTreeSet;

use super::Book;
use crate::checkpoint::StateWrite;
use crate::checkpoint::rows::{DeadLetterRow, DoubtRow, PageId, ShardRow};
use crate::model::{CanonicalKey, Key, ShardId};

#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// What removes rows of a pin that broke off: before everything else.
    pub(super) leftovers: Vec<StateWrite>,
    pub(super) link: bool,
    pub(super) shards: BTreeSet<usize>,
    pub(super) forgotten: Vec<ShardId>,
    /// Rows that are finished first, for only finished ones may be forgotten.
    pub(super) dropped: Vec<ShardRow>,
    pub(super) doubts: BTreeSet<CanonicalKey>,
    pub(super) pages: Vec<(PageId, Vec<Key>)>,
    /// Pages of earlier owners are left.
    pub(super) forget_pages: bool,
    pub(super) dead_letters: Vec<DeadLetterRow>,
    pub(super) removed_letters: Vec<u64>,
    pub(super) gaps: BTreeSet<u64>,
    pub(super) segments: BTreeSet<u32>,
    pub(super) settled_pages: Vec<PageId>,
    pub(super) settled: Vec<DoubtRow>,
    pub(super) forget_segments: bool,
    /// Something must be durable before somebody goes on.
    pub(super) urgent: bool,
    pub(super) records: u64,
}

impl Book {
    /// Whether somebody waits for the next commit.
    pub(crate) const fn is_urgent(&self) -> bool {
        self.dirty.urgent
    }

    /// Records that the checkpoints moved over since the last commit.
    pub(crate) const fn records_since_commit(&self) -> u64 {
        self.dirty.records
    }

    /// What is to be written now, in an order in which every prefix is safe. Empty: nothing changed.
    pub(crate) fn take_writes(&mut self) -> Vec<StateWrite> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut writes = dirty.leftovers;
        let link_goes_last = self.link.clean || std::mem::take(&mut self.is_new);
        if dirty.link && !link_goes_last {
            writes.push(StateWrite::Link(self.link.clone()));
        }
        writes.extend(dirty.gaps.iter().filter_map(|id| self.gaps.get(id)).cloned().map(StateWrite::Gap));
        // Before anything is listed: a key that was synced, and is listed for something new by now, stays listed.
        writes.extend(dirty.settled.into_iter().map(StateWrite::Settle));
        let doubts = dirty.doubts.iter().filter_map(|key| self.doubts.get(key));
        writes.extend(doubts.map(|doubt| StateWrite::Doubt(doubt.row.clone())));
        if dirty.forget_pages {
            writes.push(StateWrite::ForgetPages);
        }
        writes.extend(dirty.dead_letters.into_iter().map(StateWrite::DeadLetter));
        writes.extend(dirty.removed_letters.into_iter().map(StateWrite::RemoveDeadLetter));
        let shards = dirty.shards.iter().filter_map(|slot| self.shards.get(*slot));
        writes.extend(shards.map(|shard| StateWrite::Shard(shard.row.clone())));
        self.written.extend(&dirty.shards);
        writes.extend(dirty.dropped.into_iter().map(StateWrite::Shard));
        writes.extend(dirty.forgotten.into_iter().map(StateWrite::ForgetShard));
        if dirty.forget_segments {
            writes.push(StateWrite::ForgetSegments);
        }
        let segments = dirty.segments.iter().filter_map(|segment| self.segments.get(segment));
        writes.extend(segments.cloned().map(StateWrite::Segment));
        writes.extend(dirty.settled_pages.into_iter().map(StateWrite::SettlePage));
        writes.extend(dirty.pages.into_iter().map(|(page, keys)| StateWrite::Page(page, keys)));
        if dirty.link && link_goes_last {
            writes.push(StateWrite::Link(self.link.clone()));
        }
        writes
    }
}
