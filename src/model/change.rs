//! One change of one key.

use super::{Key, RawItem, SequenceNumber, WallTime};

/// What a change does to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeOp {
    /// The key now holds this whole image.
    Put(RawItem),
    /// The key is gone.
    Delete,
    /// The key changed, but the stream's view type does not carry the new image: it must be read at the source.
    Touch,
}

/// One record of a stream: a whole new image or the absence of one key, with its position and source time.
///
/// Applying it twice is the same as applying it once.
#[derive(Debug, Clone)]
pub struct Change {
    /// The key.
    pub key: Key,
    /// What happened to it.
    pub op: ChangeOp,
    /// Its number within its shard.
    pub sequence: SequenceNumber,
    /// When the source took the write: whole seconds, rounded down.
    pub created: WallTime,
    /// Whether DynamoDB's time to live deleted it (not marked in replica Regions of global tables).
    pub is_ttl_delete: bool,
    /// Length of the record in its page, in bytes: what it costs in memory.
    pub wire_bytes: usize,
}
