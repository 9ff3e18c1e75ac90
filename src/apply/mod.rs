//! Writing to the target. Knows no shard, no export, no checkpoint storage.

mod target;

pub use target::TargetTable;
