//! Pure: a link's rows as the items of a table, and a commit as transactions.
//!
//! The owner keeps all rows of its link in memory ([`Image`]), which it may, because nobody else writes them; so a commit is
//! judged by the ledger's own rules without a read, and what it changes becomes items.
//!
//! # Items
//! A link is one partition, `NAMESPACE/link/NAME`. An item's sort key is the number of its row's kind and the row's key
//! (beyond 900 bytes: its beginning and a digest, and the whole key beside the value). A value of more than 300 KiB goes
//! on in further items. Keys in doubt because of a page of the load, thousands at a time, are no items of their own: a
//! page is a few packs of them, and its index is worked out when they are read.
//!
//! A part of a link (`part`) is laid out as a link is, in a partition of its own, `NAMESPACE/link/LINK/EPOCH.NUMBER`; it is
//! listed apart from links.
//!
//! The link's head holds the owner, the epoch, and the number of the last transaction: see [`Head`].
//!
//! # Order
//! [`plan()`] cuts a commit between its writes, so that each transaction leaves the state as it is after some prefix of
//! them, with two exceptions that no reader can be hurt by. What takes keys out of a pack goes last: until then a key is in
//! doubt for longer than need be. And a single write that is larger than a transaction is itself cut: forgetting thousands
//! of segments, which is begun when nobody needs them any more, or a page too large for one, which nobody relies on before
//! its commit is done.

mod gate;
mod head;
mod image;
mod items;
mod places;
mod plan;

pub(super) use gate::{gate_fields, gate_guard, guard_of_gate};
pub(super) use head::{Head, counter_of, guard_of_counter, lease_of, sign_fields, sign_of};
pub(super) use image::{Image, Items};
pub(super) use items::{VALUE, parts_of, whole};
pub(super) use places::Places;
pub(super) use plan::plan;
