//! Gates: what keeps a write of the target from landing late.
//!
//! A gate is an item of the state table. A write that goes through it is one transaction with the condition that the gate is
//! as its owner left it. Opening a gate anew shuts out everything that was sent through it before: a request that is still on
//! its way, an owner that stood still. So no time has to pass until that is certain.
//!
//! - *By the same owner*, when an answer was lost: what it sent through that gate has landed by then, or never will.
//! - *By the next owner*, all of them, before it reads a record: nothing of the last one lands after that.
//!
//! A link has a gate for each request that it may have on the wire, since transactions over one item conflict.

use futures_util::future::BoxFuture;

use super::StoreResult;

/// A gate as it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Of the link's.
    pub number: u32,
    /// Of the link's owner.
    pub epoch: u64,
    /// No other opening has it.
    pub nonce: String,
}

/// The gates of links, in a store whose items a transaction of the target's account can ask for.
pub trait Gates: Send + Sync + 'static {
    /// Where they are: the same place has the same gates.
    fn place(&self) -> String;

    /// Opens a gate of a link for its owner of this epoch: nothing that was sent through it before lands from now on.
    ///
    /// # Errors
    /// [`Fenced`](super::StoreError::Fenced) where a later owner has opened it.
    fn open<'a>(&'a self, link: &'a str, number: u32, epoch: u64) -> BoxFuture<'a, StoreResult<Gate>>;

    /// That the gate is as it was opened: the members of a `ConditionCheck` as JSON.
    fn condition(&self, link: &str, gate: &Gate) -> Vec<u8>;
}
