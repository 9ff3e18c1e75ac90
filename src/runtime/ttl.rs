//! A source that lets expired items stay at the target.
//!
//! Under `stream.ttl_deletes = "skip"` the target keeps what the source's time to live deleted. Then an item that is missing
//! at the source may be one that expired: a `sync` must not delete it.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::context::Context;
use crate::decode::{ScanPage, seconds_attribute};
use crate::error::Failure;
use crate::load::{ScanRequest, TableReader};
use crate::model::{Key, RawItem, TableDescription};

/// Reads the source; where it has nothing, and the target has an item whose time has passed, answers that item.
///
/// What a `sync` reads it writes, so the target keeps it as it is. Within the key's lane nothing else writes meanwhile.
pub(crate) struct KeepExpired {
    pub(crate) source: Arc<dyn TableReader>,
    pub(crate) target: Arc<dyn TableReader>,
    /// The attribute that says when an item expires, in seconds since 1970.
    pub(crate) attribute: String,
    pub(crate) context: Context,
}

impl TableReader for KeepExpired {
    fn describe(&self) -> BoxFuture<'_, Result<TableDescription, Failure>> {
        self.source.describe()
    }

    fn scan<'a>(&'a self, request: &'a ScanRequest) -> BoxFuture<'a, Result<ScanPage, Failure>> {
        self.source.scan(request)
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<RawItem>, Failure>> {
        Box::pin(async move {
            if let Some(item) = self.source.get(key).await? {
                return Ok(Some(item));
            }
            let kept = self.target.get(key).await?;
            Ok(kept.filter(|item| self.is_expired(item)))
        })
    }
}

impl KeepExpired {
    fn is_expired(&self, item: &RawItem) -> bool {
        let now = self.context.now().millis() / 1000;
        matches!(seconds_attribute(item.json(), &self.attribute), Ok(Some(expires)) if expires <= now)
    }
}
