//! The whole program against servers: the embedded sandbox, and those that others wrote.

mod conformance;
mod ministack;
mod moto;
mod pair;
mod permissions;
mod sandboxed;
mod servers;
mod wire;
mod workload;
mod world;
