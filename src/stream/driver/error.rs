//! Why reading a stream stops.

use crate::apply::engine::EngineGone;
use crate::checkpoint::keeper::KeeperGone;
use crate::decode::DecodeError;
use crate::error::Failure;
use crate::model::ShardId;
use crate::stream::{CursorError, ListingError};

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The source refused for good.
    #[error("read the stream")]
    Source(#[source] Failure),
    /// An answer that cannot be.
    #[error("read a page of shard {shard}")]
    Page {
        /// The shard.
        shard: ShardId,
        /// What is wrong with it.
        #[source]
        source: PageError,
    },
    /// Listings that cannot be.
    #[error("list the stream's shards")]
    Listing(#[source] ListingError),
    /// There is no such stream any more.
    #[error("the stream is gone")]
    Gone,
    /// History is lost, and the link is to stop then.
    #[error("source history was lost ({cause}, shard {shard}) and on_gap is \"stop\"")]
    Lost {
        /// The shard.
        shard: ShardId,
        /// Why.
        cause: &'static str,
    },
    /// The bookkeeper stopped first.
    #[error(transparent)]
    Keeper(#[from] KeeperGone),
    /// The engine stopped first.
    #[error(transparent)]
    Engine(#[from] EngineGone),
}

/// A page that cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    /// Not understood.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Out of order.
    #[error(transparent)]
    Cursor(#[from] CursorError),
}
