//! The whole program against servers: the embedded sandbox, and those that others wrote.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::cast_possible_truncation,
    reason = "a test that panics has failed"
)]
#![allow(clippy::disallowed_methods, reason = "tests are their own runtime, on real clocks where servers are real")]

#[path = "../shared/accounts.rs"]
mod accounts;
mod balance;
mod border;
mod buckets;
mod conformance;
#[path = "../shared/connector.rs"]
mod connector;
mod exports;
mod faults;
mod fence;
mod gaps;
mod handoff;
mod imports;
mod kills;
mod leading;
mod lease;
mod line;
mod ministack;
mod model;
mod moto;
mod ordering;
mod own_exports;
mod pair;
mod permissions;
mod repairs;
mod resharding;
mod restart;
mod sandboxed;
mod servers;
mod sharing;
mod short_sessions;
mod shutdown;
mod table;
mod windows;
mod wire;
mod workload;
mod world;
