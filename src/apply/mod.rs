//! Writing to the target. Knows no shard, no export, no checkpoint storage.

pub(crate) mod engine;
pub mod pace;
mod target;
pub mod window;

pub use target::{ConditionalTarget, TargetTable};
