//! The write seam.

use futures_util::future::BoxFuture;

use crate::decode::WriteReply;
use crate::error::Failure;
use crate::model::Write;

/// A table that can be written.
///
/// One call is one attempt: no retries, no pacing, both belong to the driver. Writes are whole images and deletes, so every
/// one may be repeated.
/// - *Partial success*: an `Ok` reply names the keys that were not written; all others were.
/// - *Failure*: `may_have_happened` says whether any write of the batch may have been done, or may be done later (a signed
///   request lives 15 minutes); where not, none was.
/// - *Cancel*: dropping the future leaves every write of the batch in doubt.
pub trait TargetTable: Send + Sync + 'static {
    /// Writes 1 to 25 distinct keys. More, a key twice or an image over 400 KB is refused as a whole.
    /// Source: DynamoDB API reference, `BatchWriteItem`.
    fn write<'a>(&'a self, writes: &'a [Write]) -> BoxFuture<'a, Result<WriteReply, Failure>>;
}

/// A table that can be written on a condition on another item of its account and Region.
pub trait ConditionalTarget: Send + Sync + 'static {
    /// As [`TargetTable::write`], all or nothing, and only if the condition holds when it is carried out: the members of a
    /// `ConditionCheck` as JSON. `None`: it does not. At most 99 writes and 4 MB, two write units for each KB.
    /// Source: DynamoDB API reference, `TransactWriteItems`.
    fn write_if<'a>(
        &'a self,
        condition: &'a [u8],
        writes: &'a [Write],
    ) -> BoxFuture<'a, Result<Option<WriteReply>, Failure>>;
}
