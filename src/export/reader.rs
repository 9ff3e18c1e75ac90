//! The seam for reading objects of one bucket.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::error::Failure;

/// Which part of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRequest {
    /// The object's key.
    pub key: String,
    /// Where the part begins.
    pub offset: u64,
    /// Its length in bytes at most: there is less at the object's end. Never 0.
    pub length: u64,
    /// The tag that the object had when an earlier part was read: another object under its key is refused.
    pub etag: Option<String>,
}

impl PartRequest {
    /// What follows a part, from the object that it is of.
    #[must_use]
    pub fn after(key: &str, part: &ObjectPart) -> Self {
        let offset = part.bytes.len() as u64;
        Self { key: key.to_owned(), offset, length: offset.max(1), etag: part.etag.clone() }
    }
}

/// A part of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPart {
    /// The bytes: as many as were asked for, or those up to the object's end.
    pub bytes: Bytes,
    /// The object's whole size.
    pub size: u64,
    /// What tells the object from a later one under its key.
    pub etag: Option<String>,
}

/// A bucket that can be read. One call is one attempt; all may be repeated and dropped.
pub trait ObjectReader: Send + Sync + 'static {
    /// One part. `Lost`: there is no such object, or no such bucket. `Rejected`: it is another object than the one that had
    /// the tag. `Denied`: it may not be read, or there is none: who may not list a bucket is not told which.
    fn read<'a>(&'a self, request: &'a PartRequest) -> BoxFuture<'a, Result<ObjectPart, Failure>>;
}
