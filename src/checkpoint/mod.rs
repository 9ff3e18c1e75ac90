//! How far is safe: the watermark of each shard, the rows that a link remembers, the store that keeps them.
//! Knows no table contents.

pub mod rows;
mod store;

pub use store::{LinkState, StateStore, StateWrite, StoreError, StoreResult};
