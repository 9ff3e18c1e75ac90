//! The seam for reading whole tables.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::decode::ScanPage;
use crate::error::Failure;
use crate::model::{Key, RawItem, TableDescription};

/// Which page of a parallel scan.
#[derive(Debug, Clone)]
pub struct ScanRequest {
    /// `0..total_segments`.
    pub segment: u32,
    /// 1 to 1,000,000. Source: DynamoDB API reference, `Scan`.
    pub total_segments: u32,
    /// `ExclusiveStartKey` as JSON; `None`: from the start of the segment.
    pub start: Option<Bytes>,
    /// At most this many items; `None`: up to a megabyte.
    pub limit: Option<u32>,
}

/// A table that can be read. One call is one attempt; all may be repeated and dropped.
pub trait TableReader: Send + Sync + 'static {
    /// What the table is.
    fn describe(&self) -> BoxFuture<'_, Result<TableDescription, Failure>>;

    /// One page, strongly consistent: it holds every write that was completed before the call. No snapshot across pages.
    fn scan<'a>(&'a self, request: &'a ScanRequest) -> BoxFuture<'a, Result<ScanPage, Failure>>;

    /// One item, strongly consistent; `None`: there is none.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<RawItem>, Failure>>;
}
