//! The embedded AWS: DynamoDB, DynamoDB Streams, STS and some of S3, of several accounts, at the wire level, in memory.
//!
//! For the demo, tests, benches and the simulation. It knows nothing of the replicator. [`Sandbox::handle`] is the core: a
//! request in, an [`Outcome`] out, synchronous, one lock. Around it are two thin adapters: [`Sandbox::http_client`] for SDK
//! clients in the same process, and [`Sandbox::serve`] over TCP.
//!
//! Time and chance are arguments: the clock and the seed of [`Options`]. Nothing happens by itself; what a request touches
//! is brought up to now first (roll-overs, trims, tables that become active). Same seed, clock and requests: same answers.
//!
//! Every service answers on one endpoint, told apart by `x-amz-target`, or without it by the signature's scope as S3 or STS. The account is the access
//! key's, the Region the signature's; a key of 12 digits is that account.
//!
//! # Known simplifications
//! - Signatures are not verified, and an account's identities may do everything in it: no IAM policies besides role trust
//!   and [`Sandbox::allow_cross_account`].
//! - Reads are strongly consistent but for [`FaultKind::StaleRead`]; indexes too, and they are read in full by each query of one.
//! - A page of Scan or Query counts against the partition of its last item.
//! - Index entries cost capacity as whole items, and projections of indexes are not applied.
//! - A number's size is one byte per two digits and one more; sets have no overhead. The service's arithmetic is not published.
//! - Sets and maps come back sorted. Expressions project top-level attributes only; reserved words are not refused.
//! - Time to live deletes only if [`Options::ttl_lateness`] says so. Exports are full and of the moment; imports are of DynamoDB JSON; no backups, global tables.
//! - A bucket's guests may do in it what its owner may.
//! - Legacy parameters (`KeyConditions`, `AttributeUpdates`, …) are refused. `ItemCount` is always up to date.
//! - Transactions use capacity but are never throttled by it, and never conflict.
//! - The stream is written at once, and TTL, capacity and table settings change at once.

mod auth;
mod batch;
mod capacity;
mod client;
mod control;
mod definition;
mod events;
mod expiry;
mod exports;
mod expression;
mod faults;
mod imports;
mod items;
mod knobs;
mod listing;
mod moment;
mod number;
mod options;
mod past;
mod read;
mod readers;
mod record;
mod reply;
mod s3;
mod sequence;
mod serve;
mod stream;
mod streams;
mod table;
mod tables;
#[cfg(test)]
mod tests;
mod transact;
mod value;
mod world;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

pub use auth::Trust;
pub use control::{ControlError, ShardView, Snapshot};
pub use events::{Changed, Event, EventObserver, RecordAt};
pub use faults::{FaultKind, FaultRule, Faults, Trigger};
pub use knobs::FAULT_NAMES;
pub use number::Number;
pub use options::{Options, SequenceNumbers};
pub use value::{Item, Value};

use crate::model::WallTime;

/// What becomes of a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Answered.
    Reply(http::Response<Bytes>),
    /// Done, but the connection drops before the answer.
    LoseAnswer,
    /// Not done; the connection is reset.
    Refuse,
    /// Done; what follows comes so much later.
    Hold(Duration, Box<Outcome>),
}

/// One request and what became of it, for checkers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Exchange<'a> {
    /// The operation's name, `GetRecords` for instance.
    pub operation: &'a str,
    /// The caller's account; empty if it is unknown.
    pub account: &'a str,
    /// The Region of the signature; empty if the caller is unknown.
    pub region: &'a str,
    /// When it was executed.
    pub at: WallTime,
    /// The request's body.
    pub request: &'a [u8],
    /// What the service answered; `None` if nothing was done. With a lost answer, the client never sees this.
    pub reply: Option<&'a http::Response<Bytes>>,
    /// Delivered late: nobody hears the answer.
    pub is_late: bool,
}

/// Sees every exchange, in the order of execution; one that is delivered late, when it is done. It is called under the sandbox's lock: it must not call the sandbox.
pub type Observer = Arc<dyn Fn(&Exchange<'_>) + Send + Sync>;

/// What a sandbox has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Requests received.
    pub requests: u64,
    /// Requests executed and answered with an error.
    pub errors: u64,
    /// Requests that met a fault.
    pub faults: u64,
    /// Item writes done.
    pub writes: u64,
    /// Reads done: pages, batches and single items.
    pub reads: u64,
    /// Stream records handed out.
    pub records_read: u64,
    /// Reads of a shard that more than two readers read at the time, refused or not.
    pub crowded_reads: u64,
}

/// An embedded AWS. Cheap to clone; clones are the same world.
#[derive(Clone)]
pub struct Sandbox {
    world: Arc<Mutex<world::World>>,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").finish_non_exhaustive()
    }
}

impl Sandbox {
    /// An empty world.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { world: Arc::new(Mutex::new(world::World::new(options))) }
    }

    /// Executes one request.
    #[must_use]
    pub fn handle(&self, request: &http::Request<Bytes>) -> Outcome {
        self.lock().handle(request)
    }

    fn lock(&self) -> MutexGuard<'_, world::World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
