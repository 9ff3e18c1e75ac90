//! The wiring: the only folder that spawns tasks, and the only one that knows all stages.

pub(crate) mod board;
pub(crate) mod fleet;
mod gated;
pub(crate) mod link;
pub(crate) mod open;
pub(crate) mod prepare;
mod program;
pub(crate) mod repair;
pub(crate) mod replica;
pub(crate) mod ttl;

pub use program::{DeadLetter, MigrateReport, Program, RetryReport, VerifyOptions};
