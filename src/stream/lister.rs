//! Lists a stream's shards: all pages or nothing, within the account's budget for such calls.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Listed, Lister, Listing, ListingError, ShardListing, StreamSource};
use crate::context::Context;
use crate::error::Failure;
use crate::model::{ShardId, StreamArn};
use crate::retry::{Attempts, Patience, Verdict};

/// Between two DescribeStream calls: the account has 10 a second for all its streams and readers.
/// Source: DynamoDB Streams API reference, `DescribeStream`.
const BETWEEN_CALLS: Duration = Duration::from_millis(125);
/// Attempts at listings that contradict themselves, for a reshard may run between their pages.
const ODD_LISTINGS: u32 = 5;

/// Why there is no listing.
#[derive(Debug)]
pub(crate) enum ListError {
    /// A call failed for good.
    Failed(Failure),
    /// The pages contradict each other, again and again.
    Odd(ListingError),
}

/// Lists the shards of one stream. Cheap to clone; make one call at a time.
#[derive(Clone)]
pub(crate) struct ShardLister {
    source: Arc<dyn StreamSource>,
    stream: StreamArn,
    context: Context,
    patience: Patience,
    shared: Option<Arc<Listings>>,
}

/// The last listing of a stream, for all of one process that list it: the account's budget for such calls is small, and a
/// link may have many parts.
#[derive(Default)]
pub(crate) struct Listings(Mutex<Option<Numbered>>);

/// A listing, and the how-manieth.
#[derive(Debug, Clone)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) listing: Listing,
    begun: Instant,
    stream: StreamArn,
}

impl ShardLister {
    pub(crate) fn new(source: Arc<dyn StreamSource>, stream: StreamArn, context: Context, patience: Patience) -> Self {
        Self { source, stream, context, patience, shared: None }
    }

    /// The same, one of several in this process.
    pub(crate) fn sharing(self, listings: Option<Arc<Listings>>) -> Self {
        Self { shared: listings, ..self }
    }

    /// A listing that is not that of this number, and was begun no earlier than this. One at a time is made of all that are
    /// asked for; who asks meanwhile waits, and gets one that was begun after that.
    pub(crate) async fn list_after(&self, seen: u64, begun_after: Instant) -> Result<Numbered, ListError> {
        let stream = self.stream.clone();
        let Some(shared) = &self.shared else {
            let begun = Instant::now();
            return Ok(Numbered { number: seen + 1, listing: self.list().await?, begun, stream });
        };
        let mut last = shared.0.lock().await;
        let is_new = |known: &&Numbered| known.number != seen && known.begun >= begun_after && known.stream == stream;
        if let Some(known) = last.as_ref().filter(is_new) {
            return Ok(known.clone());
        }
        let number = last.as_ref().map_or(0, |known| known.number) + 1;
        let begun = Instant::now();
        let listing = self.list().await?;
        Ok(last.insert(Numbered { number, listing, begun, stream }).clone())
    }

    /// All shards. Passing failures are retried; a page that fails does not shorten the listing.
    pub(crate) async fn list(&self) -> Result<Listing, ListError> {
        let mut odd = 0;
        loop {
            match self.list_once().await {
                Err(ListError::Odd(_)) if odd < ODD_LISTINGS => {
                    odd += 1;
                    tokio::time::sleep(BETWEEN_CALLS * odd).await;
                }
                other => return other,
            }
        }
    }

    async fn list_once(&self) -> Result<Listing, ListError> {
        let (mut attempts, started) = (Attempts::new(self.patience), Instant::now());
        let mut lister = Lister::new();
        loop {
            tokio::time::sleep(BETWEEN_CALLS).await;
            match self.source.describe(&self.stream, lister.after()).await {
                Ok(page) => {
                    attempts.succeeded();
                    match lister.accept(page).map_err(ListError::Odd)? {
                        Listed::All(listing) => return Ok(listing),
                        Listed::More(more) => lister = more,
                    }
                }
                Err(failure) => match attempts.failed_with(&failure, started.elapsed(), self.context.draw()) {
                    Verdict::Again(wait) => tokio::time::sleep(wait).await,
                    Verdict::Stop => return Err(ListError::Failed(failure)),
                },
            }
        }
    }

    /// The children of one shard, as far as the service tells them now. One attempt.
    pub(crate) async fn children(&self, parent: &ShardId) -> Result<Vec<ShardListing>, Failure> {
        tokio::time::sleep(BETWEEN_CALLS).await;
        self.source.children(&self.stream, parent).await
    }
}
