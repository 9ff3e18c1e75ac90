//! The whole program against servers: the embedded sandbox, and those that others wrote.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::large_futures,
    reason = "all of it is test: what fails here is to panic; servers and processes live on real clocks"
)]

mod faults;
mod gaps;
mod handoff;
mod ministack;
mod moto;
mod ordering;
mod pair;
mod permissions;
mod resharding;
mod restart;
mod sandboxed;
mod servers;
mod shutdown;
mod wire;
mod workload;
mod world;
