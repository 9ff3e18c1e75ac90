//! Adapters to the AWS SDK; the only folder that names an SDK type. Takes no decision.
//!
//! [`Account`] is one side: its credentials, Region and clients. [`Streams`] and [`Table`] are the seams that the stages
//! know, over that account, as are the table of state and a [`Bucket`]. One call is one attempt; each is timed, told to the [`Observer`], and its failure given a
//! fate.

mod accounts;
mod call;
mod create;
mod credentials;
mod exports;
mod fault;
mod imports;
mod objects;
mod raw;
mod schema;
mod state;
mod streams;
mod tables;
#[cfg(test)]
mod tests;
mod transaction;
mod wire;

pub use accounts::{AccessKey, Account, Clients, Identity};
pub use call::{CallRecord, Observer, Outcome, SendGuard, Side};
pub use create::{Created, Patience};
pub(crate) use fault::{has_no_credentials, has_stale_credentials, was_held_back};
pub use imports::ImportFiles;
pub use objects::Bucket;
pub use streams::Streams;
pub use tables::Table;
