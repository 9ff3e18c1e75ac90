//! A source that lets expired items stay at the target.
//!
//! Under `stream.ttl_deletes = "skip"` the target keeps what the source's time to live deleted. Then an item that is missing
//! at the source may be one that expired: a `sync` must not delete it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use crate::context::Context;
use crate::decode::{ScanPage, seconds_attribute};
use crate::error::Failure;
use crate::load::{ScanRequest, TableReader};
use crate::model::{Key, RawItem, TableDescription, WallTime};

/// The attributes that say when an item expires, in seconds since 1970: the one that is in use, and those that were, with
/// the last time at which they may have been.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExpiryAttributes(Arc<Mutex<Known>>);

/// As the link's row keeps them; `None`: in use.
type Known = BTreeMap<String, Option<WallTime>>;

impl ExpiryAttributes {
    /// What the link's row remembers; what was in use when it was written, and is not now, may have been until now.
    pub(crate) fn remember(&self, row: &Known, now: WallTime) {
        let mut known = self.known();
        for (attribute, until) in row {
            let until = until.unwrap_or(now);
            known
                .entry(attribute.clone())
                .and_modify(|known| *known = known.map(|known| known.max(until)))
                .or_insert(Some(until));
        }
    }

    /// This one is in use, or none; answers whether that is new.
    pub(crate) fn found(&self, attribute: Option<String>, now: WallTime) -> bool {
        let mut known = self.known();
        let before = known.clone();
        known.values_mut().filter(|until| until.is_none()).for_each(|until| *until = Some(now));
        known.extend(attribute.map(|attribute| (attribute, None)));
        *known != before
    }

    /// All of them.
    pub(crate) fn all(&self) -> Known {
        self.known().clone()
    }

    /// Whether the time to live may have deleted this item.
    fn has_expired(&self, item: &RawItem, now: WallTime) -> bool {
        self.known().iter().any(|(attribute, until)| {
            let until = until.unwrap_or(now).min(now).millis() / 1000;
            matches!(seconds_attribute(item.json(), attribute), Ok(Some(expires)) if expires <= until)
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the source; where it has nothing, and the target has an item whose time has passed, answers that item.
///
/// What a `sync` reads it writes, so the target keeps it as it is. Within the key's lane nothing else writes meanwhile.
pub(crate) struct KeepExpired {
    pub(crate) source: Arc<dyn TableReader>,
    pub(crate) target: Arc<dyn TableReader>,
    pub(crate) expiry: ExpiryAttributes,
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
            Ok(kept.filter(|item| self.expiry.has_expired(item, self.context.now())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(attribute: &str, seconds: i64) -> RawItem {
        RawItem::new(format!(r#"{{"pk":{{"S":"a"}},"{attribute}":{{"N":"{seconds}"}}}}"#).into())
    }

    #[test]
    fn what_expired_while_its_attribute_was_in_use_has_expired_and_nothing_later() {
        let (expiry, at) = (ExpiryAttributes::default(), WallTime::from_secs);
        assert!(expiry.found(Some("old".to_owned()), at(100)));
        assert!(!expiry.found(Some("old".to_owned()), at(200)));
        assert!(expiry.has_expired(&item("old", 250), at(250)) && !expiry.has_expired(&item("old", 251), at(250)));
        assert!(expiry.found(Some("new".to_owned()), at(300)));
        assert!(expiry.has_expired(&item("old", 300), at(9000)), "it was in use then");
        assert!(!expiry.has_expired(&item("old", 301), at(9000)), "it was not any more");
        assert!(expiry.has_expired(&item("new", 9000), at(9000)));
        // The next process finds none in use.
        let next = ExpiryAttributes::default();
        next.found(None, at(9500));
        next.remember(&expiry.all(), at(9500));
        assert!(next.has_expired(&item("new", 9500), at(9999)) && !next.has_expired(&item("new", 9501), at(9999)));
        assert!(next.has_expired(&item("old", 300), at(9999)) && !next.has_expired(&item("old", 301), at(9999)));
        // And one after it that the first is in use again.
        let last = ExpiryAttributes::default();
        last.found(Some("old".to_owned()), at(9999));
        last.remember(&next.all(), at(9999));
        assert!(last.has_expired(&item("old", 9999), at(9999)));
    }
}
