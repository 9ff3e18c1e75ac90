//! The wiring: the only folder that spawns tasks, and the only one that knows all stages.

pub(crate) mod board;
mod program;
pub(crate) mod replica;

pub use program::{DeadLetter, MigrateReport, Program, VerifyOptions};
