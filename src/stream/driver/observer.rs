//! What reading tells those who watch it: status, metrics, the lag.

use std::collections::HashSet;

use crate::model::{ShardId, WallTime};
use crate::stream::filter::Skipped;
use crate::stream::{Counts, GapCause};

/// What reading tells while it runs.
pub(crate) trait StreamObserver: Send + Sync {
    /// The shards that are known, with their parents, and those whose children are not.
    fn shards(
        &self,
        known: &mut dyn Iterator<Item = (&ShardId, Option<&ShardId>)>,
        awaiting: &HashSet<ShardId>,
        counts: Counts,
    );
    /// A shard is read and settled to its end, durably.
    fn shard_finished(&self, shard: &ShardId);
    /// A shard that was given up is read again.
    fn shard_reopened(&self, shard: &ShardId);
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
