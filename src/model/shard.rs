//! What is remembered of shards, and of what was lost of them.

use serde::{Deserialize, Serialize};

use super::ShardId;

/// The durable status of a shard's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardStatus {
    /// Its parent is not finished.
    Waiting,
    /// Its parent question is settled: it is read, or may be.
    Reading,
    /// Read to its null iterator and everything settled; or lost, under a gap.
    Finished,
}

/// What a gap spans.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapScope {
    /// Keys of one shard and of what was between it and its last ancestor that we read.
    Shard(ShardId),
    /// Any key of the table.
    All,
}
