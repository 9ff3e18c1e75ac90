//! Reading the source.
//!
//! [`source`] is the read seam. The rest decides and does no I/O: [`listing`] makes one listing of many pages,
//! [`lineage`] says which shards may be read, [`schedule`] which of them to poll now, [`cursor`] what to ask for, and
//! [`gaps`] why history is lost. Nothing here knows a target, an export, or how rows are stored.

pub mod cursor;
pub(crate) mod driver;
pub(crate) mod filter;
pub mod gaps;
pub mod lineage;
pub(crate) mod lister;
pub mod listing;
pub(crate) mod part;
pub mod schedule;
pub mod source;

pub use cursor::{Cursor, CursorError, LossCause, PageRead, Step};
pub use gaps::{GapCause, GapScope};
pub use lineage::{
    Awaiting, Counts, Discovery, GiveUp, Lineage, LineageRow, NewShard, ShardStatus, Suspect, Suspicion,
};
pub use listing::{Listed, Lister, Listing, ListingError};
pub use schedule::{Pace, Polled, Schedule};
pub use source::{ListingPage, RecordsPage, ShardIterator, ShardListing, StreamSource, StreamStatus};
