//! A store without a medium: for tests and simulations.
//!
//! The same rows, rules and encoding as the file's, on an ordered map. No thread, no clock: work is done when it is
//! submitted and the future is ready at once, so a simulation on paused time stays deterministic. It outlives a
//! "process" of a simulation by being shared.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::StoreResult;
use super::ledger::{Engine, KeyValues, Kind, Rows, Span};

/// State in memory; as durable as the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: Mutex<MemoryRows>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy as it is now, with a life of its own: what a restore from a backup of the state brings back.
    #[must_use]
    pub fn fork(&self) -> Self {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { rows: Mutex::new(rows) }
    }
}

impl Engine for MemoryStore {
    fn place_name(&self) -> String {
        PLACE.to_owned()
    }

    fn submit<T, F>(&self, work: F) -> BoxFuture<'static, StoreResult<T>>
    where
        T: Send + 'static,
        F: FnOnce(&mut dyn Rows) -> StoreResult<T> + Send + 'static,
    {
        let done = work(&mut *self.rows.lock().unwrap_or_else(PoisonError::into_inner));
        ready(done).boxed()
    }
}

const PLACE: &str = "memory:";

#[derive(Debug, Clone, Default)]
struct MemoryRows(BTreeMap<(String, Kind, Vec<u8>), Vec<u8>>);

impl Rows for MemoryRows {
    fn place(&self) -> &str {
        PLACE
    }

    fn get(&self, link: &str, kind: Kind, key: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        Ok(self.0.get(&(link.to_owned(), kind, key.to_vec())).cloned())
    }

    fn scan(&self, link: &str, kind: Kind, span: Span<'_>) -> StoreResult<KeyValues> {
        let rows = self.0.range((link.to_owned(), kind, span.from.to_vec())..);
        let rows = rows.take_while(|((l, k, key), _)| l == link && *k == kind && key.starts_with(span.prefix));
        Ok(rows.take(span.limit).map(|((_, _, key), value)| (key.clone(), value.clone())).collect())
    }

    fn next_link(&self, after: Option<&str>) -> StoreResult<Option<String>> {
        Ok(self.0.keys().map(|(link, _, _)| link).find(|link| after.is_none_or(|a| link.as_str() > a)).cloned())
    }

    fn write(&mut self, link: &str, kind: Kind, key: &[u8], value: Option<&[u8]>) -> StoreResult<()> {
        let key = (link.to_owned(), kind, key.to_vec());
        match value {
            Some(value) => drop(self.0.insert(key, value.to_vec())),
            None => drop(self.0.remove(&key)),
        }
        Ok(())
    }
}
