//! How far is safe: the watermark of each shard, the rows that a link remembers, the store that keeps them.
//! Knows no table contents.
//!
//! [`rows`] are the nouns and [`StateStore`] is the seam. `rules` says what a write may do to a row, `ledger` turns the
//! seam's operations into keys and bytes (`pages` those of the load's pages), and three media keep those: [`FileStore`], [`MemoryStore`], and a DynamoDB table
//! (`dynamodb`, over the items of `layout` and the service calls of `table`). Many workers may share a table; `lease` says
//! which of them may work on a link.
//! [`Watermark`] stands apart: it turns the settlements of a shard into what may be checkpointed.

pub(crate) mod book;
mod database;
pub(crate) mod division;
pub(crate) mod dynamodb;
mod file;
mod gates;
pub(crate) mod keeper;
mod layout;
pub(crate) mod lease;
mod ledger;
mod memory;
mod pages;
mod part;
pub mod rows;
mod rules;
mod store;
pub(crate) mod table;
mod watermark;

#[cfg(test)]
mod conformance;

pub use file::FileStore;
pub use gates::{Gate, Gates};
pub use lease::Sighting;
pub use memory::MemoryStore;
pub use part::PartName;
pub(crate) use store::all_letters;
pub use store::{Leases, LinkState, Pulses, Sign, StateStore, StateWrite, StoreError, StoreResult};
pub use watermark::{Advance, Ordinal, Watermark, WatermarkError};
