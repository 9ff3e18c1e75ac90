//! The whole program against servers: the embedded sandbox, and those that others wrote.

mod faults;
mod gaps;
mod handoff;
mod model;
mod ordering;
mod resharding;
mod restart;
mod sandboxed;
mod shutdown;
mod world;
