//! The read seam: what the replicator asks of a stream.
//!
//! `aws` implements it over the service, the sandbox and tests in memory. Bodies stay raw here; `crate::decode` reads
//! them. Nothing in this file decides anything.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::error::Failure;
use crate::model::{SequenceNumber, ShardId, StartAt, StreamArn, ViewType, WallTime};

/// The state of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamStatus {
    /// Being turned on. Its shards may not be listed yet, so nothing follows from what is absent.
    Enabling,
    /// Takes new records.
    Enabled,
    /// Being turned off.
    Disabling,
    /// Takes no new records; what it holds stays readable for 24 hours. Source: Developer Guide, DynamoDB Streams.
    Disabled,
}

/// One shard as a listing tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardListing {
    /// Its id.
    pub id: ShardId,
    /// The shard it came from; that one may be trimmed and no longer listed.
    pub parent: Option<ShardId>,
    /// The first number of its range, where told.
    pub first: Option<SequenceNumber>,
    /// The last number of its range. Present: the shard is closed. Absent: perhaps open; a listed child says more.
    pub last: Option<SequenceNumber>,
}

/// One page of DescribeStream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingPage {
    /// The stream's state when the page was made.
    pub status: StreamStatus,
    /// What its records carry, where told.
    pub view: Option<ViewType>,
    /// Up to 100 shards, in no particular order. Source: DynamoDB Streams API reference, `DescribeStream`.
    pub shards: Vec<ShardListing>,
    /// Where the next page starts (exclusive). `None` or an empty id is the end.
    pub next: Option<ShardId>,
}

/// A position that the service understands; good for 15 minutes.
/// Source: DynamoDB Streams API reference, `GetShardIterator`.
///
/// It is a bearer token for table contents, so it is never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ShardIterator(Arc<str>);

impl ShardIterator {
    /// Wraps the service's text.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text, for sending only.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ShardIterator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShardIterator(…)")
    }
}

/// One page of GetRecords, undecoded.
#[derive(Clone)]
pub struct RecordsPage {
    /// The answer's JSON body: item contents, so it is never printed.
    pub body: Bytes,
    /// When the request was begun, by our wall clock: an empty page of an open shard says that nothing older is unread.
    pub asked_at: WallTime,
}

impl fmt::Debug for RecordsPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordsPage").field("bytes", &self.body.len()).field("asked_at", &self.asked_at).finish()
    }
}

/// A stream that can be read.
///
/// One call is one attempt: no retries, no pacing (both belong to the driver), and an error says nothing about the
/// shard unless its [`Fault`](crate::error::Fault) does. All calls are reads: they may be repeated, and dropping a
/// future half-way is safe, because no position lives on the other side.
///
/// Faults: `Lost` with code `TrimmedDataAccessException` means that the position is gone, `Lost` with
/// `ResourceNotFoundException` that the shard or the stream is; `Expired` that the iterator (or the token) is too old.
/// An implementation never turns an error into an empty answer or into the end of a shard.
pub trait StreamSource: Send + Sync + 'static {
    /// One page of the stream's shards, after (exclusive) `after`. The service allows 10 calls/s per account and Region.
    fn describe<'a>(
        &'a self,
        stream: &'a StreamArn,
        after: Option<&'a ShardId>,
    ) -> BoxFuture<'a, Result<ListingPage, Failure>>;

    /// The shards known to descend from `parent` right now (the `CHILD_SHARDS` filter).
    ///
    /// A hint that saves time: it may be empty, hold one child of two, or be unsupported and hold every shard. Nothing
    /// follows from what is absent. Counts against the same budget as [`describe`](Self::describe).
    fn children<'a>(
        &'a self,
        stream: &'a StreamArn,
        parent: &'a ShardId,
    ) -> BoxFuture<'a, Result<Vec<ShardListing>, Failure>>;

    /// An iterator at a position of a shard.
    fn iterator<'a>(
        &'a self,
        stream: &'a StreamArn,
        shard: &'a ShardId,
        at: StartAt,
    ) -> BoxFuture<'a, Result<ShardIterator, Failure>>;

    /// Up to `max_records` records (1 to 1,000) or 1 MB, whichever is less.
    ///
    /// A page may be empty anywhere in a shard, and the last page may hold records. Records ascend strictly by sequence
    /// number. At most two readers of a shard, one for a global table. Source: Developer Guide, quotas.
    fn records<'a>(
        &'a self,
        iterator: &'a ShardIterator,
        max_records: u32,
    ) -> BoxFuture<'a, Result<RecordsPage, Failure>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterators_and_record_bodies_are_never_printed() {
        let page = RecordsPage { body: Bytes::from_static(b"secret"), asked_at: WallTime::from_millis(0) };
        let text = format!("{page:?} {:?}", ShardIterator::new("secret"));
        assert!(!text.contains("secret"), "{text}");
    }
}
