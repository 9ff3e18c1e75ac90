//! What goes into the forest and what comes out of it: rows, findings, numbers.

use std::time::Duration;

pub use crate::model::ShardStatus;
use crate::model::{ShardId, WallTime};

/// What the forest needs to know of a row after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineageRow {
    /// The shard.
    pub id: ShardId,
    /// Its parent as first listed.
    pub parent: Option<ShardId>,
    /// Its status.
    pub status: ShardStatus,
    /// When it was last seen in a listing, or became finished; may be up to [`LISTED_GRAIN`](super::LISTED_GRAIN) too old.
    pub last_listed: WallTime,
    /// Whether it is finished only because it was given up (a gap row of the shard says it vanished).
    pub lost: bool,
}

/// A shard that has no row yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewShard {
    /// The shard.
    pub id: ShardId,
    /// Its parent, for the row.
    pub parent: Option<ShardId>,
    /// The status to create its row with. The position is always the trim horizon.
    pub status: ShardStatus,
    /// The last conclusive listing in this run that did not hold it: it has no older records. `None`: unknown (see
    /// [`first_confirmed`](crate::stream::gaps::first_confirmed)).
    pub born_after: Option<WallTime>,
}

/// What a listing brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovery {
    /// Shards without a row, ancestors first: create their rows in this order.
    pub new_shards: Vec<NewShard>,
    /// Finished rows whose `last_listed` is due to be written again, with the new time.
    pub relisted: Vec<(ShardId, WallTime)>,
    /// What needs a durable gap, and [`resolve`](super::Lineage::resolve) after it.
    pub suspects: Vec<super::Suspect>,
}

/// A finished shard of which no child is known, on a stream that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaiting {
    /// The shard.
    pub id: ShardId,
    /// Since when, in this run.
    pub since: WallTime,
    /// For how long. There is no limit, but a human should know after some minutes.
    pub waited: Duration,
}

/// The forest in numbers, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// May be read, and is not known to be closed.
    pub open: usize,
    /// Waits for its parent.
    pub waiting_parent: usize,
    /// May be read, is closed, and is not read to its end.
    pub closed_pending: usize,
    /// Finished.
    pub finished: usize,
    /// Of those, without a known child on a stream that goes on.
    pub awaiting_children: usize,
}
