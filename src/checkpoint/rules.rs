//! Pure: what a write may do to the row that is there.
//!
//! Every store asks these functions, so that a file, a table and a test's memory refuse the same things. They know rows
//! and fences; they know no medium, no encoding and no clock.

use super::rows::{DoubtRow, Fence, PageId, SegmentRow, ShardRow, ShardStatus};
use crate::model::WallTime;

/// A write that would break an invariant: its text, for [`super::StoreError::Invariant`].
pub(super) type Refusal = String;

/// Whether the holder of `given` may write rows whose last owner is `held`. No owner: nobody may.
pub(super) fn is_owner(held: Option<&Fence>, given: &Fence) -> bool {
    held == Some(given)
}

/// The fence of the next owner.
pub(super) fn next_fence(held: Option<&Fence>, owner: &str) -> Fence {
    Fence { owner: owner.to_owned(), epoch: held.map_or(1, |fence| fence.epoch.saturating_add(1)) }
}

/// A shard's row: checkpoint and dispatch watermark never move back, whatever the epoch, and `Finished` is final,
/// unless the shard was given up for lost.
pub(super) fn check_shard(old: Option<&ShardRow>, new: &ShardRow) -> Result<(), Refusal> {
    let Some(old) = old else { return Ok(()) };
    let id = &new.id;
    if new.checkpoint < old.checkpoint {
        return Err(format!("checkpoint of shard {id} would move back"));
    }
    if new.dispatch < old.dispatch {
        return Err(format!("dispatch watermark of shard {id} would move back"));
    }
    if old.status == ShardStatus::Finished && !old.is_lost && new.status != ShardStatus::Finished {
        return Err(format!("finished shard {id} would open again"));
    }
    Ok(())
}

/// Dropping a shard's row: only a finished one. One that is not there is dropped already.
pub(super) fn check_forget(old: Option<&ShardRow>) -> Result<(), Refusal> {
    match old {
        Some(row) if row.status != ShardStatus::Finished => Err(format!("shard {} is not finished", row.id)),
        Some(_) | None => Ok(()),
    }
}

/// A segment's row: one that is done stays done, until all are forgotten.
pub(super) fn check_segment(old: Option<&SegmentRow>, new: &SegmentRow) -> Result<(), Refusal> {
    match old {
        Some(old) if old.done && !new.done => Err(format!("segment {} is done and would open again", new.segment)),
        Some(_) | None => Ok(()),
    }
}

/// What makes a key doubtful, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listing {
    /// When it is to be synced.
    pub until: WallTime,
    /// The page of the load that is in flight, and the epoch of the owner that sends it. Page numbers of two owners may
    /// be the same; the pages are not.
    pub page: Option<(u64, PageId)>,
    /// The epoch of the owner that may have a write on the wire of which only this listing tells.
    pub under_way: Option<u64>,
}

impl Listing {
    /// What the owner of this epoch lists.
    pub(super) fn of(row: &DoubtRow, epoch: u64) -> Self {
        let under_way = row.under_way || row.page.is_some();
        Self { until: row.until, page: row.page.map(|page| (epoch, page)), under_way: under_way.then_some(epoch) }
    }
}

/// A key is listed again by the owner of this epoch: the later `until` stays. Only a page that is the sole reason to doubt
/// may settle the key, so where there are two reasons (no page, or another page) none of them is kept as one. What may be
/// on the wire stays so, until another owner says until when it can land.
pub(super) fn merge(old: Option<Listing>, new: Listing, epoch: u64) -> Listing {
    let Some(old) = old else { return new };
    Listing {
        until: old.until.max(new.until),
        page: if old.page == new.page { new.page } else { None },
        under_way: new.under_way.or(old.under_way.filter(|owner| *owner == epoch)),
    }
}

/// Whether a sync that was due at `given` settles a key listed until `listed`: not when it was listed again meanwhile.
pub(super) fn is_settled_by(listed: WallTime, given: WallTime) -> bool {
    listed <= given
}
