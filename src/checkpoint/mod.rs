//! How far is safe: the watermark of each shard, the rows that a link remembers, the store that keeps them.
//! Knows no table contents.
//!
//! [`rows`] are the nouns and [`StateStore`] is the seam. `rules` says what a write may do to a row, `ledger` turns the
//! seam's operations into keys and bytes, and two media keep those: [`FileStore`] and [`MemoryStore`].
//! [`Watermark`] stands apart: it turns the settlements of a shard into what may be checkpointed.

pub(crate) mod book;
mod database;
mod file;
pub(crate) mod keeper;
mod ledger;
mod memory;
pub mod rows;
mod rules;
mod store;
mod watermark;

#[cfg(test)]
mod conformance;

use std::sync::Arc;

pub use file::FileStore;
pub use memory::MemoryStore;
pub use store::{LinkState, StateStore, StateWrite, StoreError, StoreResult};
pub use watermark::{Advance, Ordinal, Watermark, WatermarkError};

/// Opens the store that `checkpoint.store` names: `file:PATH`. Blocks until the file is open and locked.
///
/// # Errors
/// [`StoreError::Setting`] for another form, else as [`FileStore::open`].
pub fn open(setting: &str) -> StoreResult<Arc<dyn StateStore>> {
    match setting.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Ok(Arc::new(FileStore::open(path)?)),
        _ => Err(StoreError::Setting { given: setting.to_owned() }),
    }
}
