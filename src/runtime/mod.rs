//! The wiring: the only folder that spawns tasks, and the only one that knows all stages.

pub(crate) mod board;
pub(crate) mod replica;
