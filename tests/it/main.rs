//! The whole program against servers: the embedded sandbox, and those that others wrote.

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
