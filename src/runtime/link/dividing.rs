//! A link that is whole is divided: when, and how.

use std::collections::BTreeSet;
use std::time::Duration;

use super::auditing::strays_of;
use super::looking::part_name;
use super::{Generation, Link};
use crate::checkpoint::division::{Obstacle, divide, part_row};
use crate::checkpoint::rows::{Division, Fence, LinkRow, ShardRow, ShardStatus, Stage};
use crate::checkpoint::{LinkState, StateWrite, StoreError, StoreResult};
use crate::error::{Result, chain};
use crate::model::{ShardId, StreamArn, WallTime};
use crate::runtime::board::{Board, Snapshot};
use crate::runtime::fleet::Heard;
use crate::runtime::prepare::Prepared;
use crate::stream::Listing;

/// A link runs as a whole for so long before it is divided: workers come and go in an update, and what was found when it was
/// opened has had its time to be followed up.
const WHOLE_FOR: Duration = Duration::from_secs(60);
/// After a try at dividing, whatever came of it, the next one is not made before this.
const DIVIDE_AGAIN: Duration = Duration::from_secs(600);
/// How often it is looked whether a link may be divided.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Parts for each worker that shares: enough to spread, and few enough that each may have its share of the limits.
const PARTS_PER_WORKER: usize = 4;
/// Most parts of a link.
const MOST_PARTS: usize = 64;
/// What listing the shards may take before a link is divided.
const LIST_WITHIN: Duration = Duration::from_secs(20);

impl Link {
    /// Resolves when the link may be divided, as far as can be seen while it runs.
    pub(super) async fn until_divisible(&self, board: &Board, ghosts_until: WallTime) {
        let Some(fleet) = self.shared.fleet.as_ref().filter(|_| self.shares()) else {
            return std::future::pending().await;
        };
        tokio::time::sleep(WHOLE_FOR).await;
        loop {
            let (now, heard) = (board.snapshot(), fleet.heard());
            let may_be = self.sharing.is_time() && ghosts_until <= self.aws_now() && self.most_parts(&heard) >= 2;
            if may_be && is_divisible(&now, board.is_loading(), &heard) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Divides the link, which was closed clean just now and is still held.
    ///
    /// Until the link's row says that it is divided, nobody looks at the parts, and a crash leaves a link that is whole. What it
    /// leaves of the parts is removed when the link is divided next.
    pub(super) async fn divide(&self, prepared: &Prepared, fence: &Fence, stream: &StreamArn) -> Result<Generation> {
        self.sharing.not_before(DIVIDE_AGAIN);
        let name = &self.config.name;
        match Box::pin(self.try_to_divide(prepared, fence, stream)).await {
            Ok(Ok(parts)) => tracing::info!(link = name, parts, "the link is divided: its shards are shared"),
            Ok(Err(obstacle)) => tracing::info!(link = name, %obstacle, "the link is not divided now"),
            Err(error @ (StoreError::Invariant { .. } | StoreError::Gone { .. })) => return Err(error.into()),
            Err(error) => tracing::warn!(link = name, error = chain(&error), "the link could not be divided"),
        }
        // Whether it is divided, its row says.
        Ok(Generation::Again)
    }

    /// Into how many parts the link is divided at most: each has a share of its limits, and no limit is less than 1.
    pub(super) fn most_parts(&self, heard: &Heard) -> usize {
        let (in_flight, shards) = (self.config.apply.max_in_flight, self.config.stream.max_concurrent_shards);
        (PARTS_PER_WORKER * (heard.sharing + 1)).min(MOST_PARTS).min(in_flight.min(shards) as usize)
    }

    async fn try_to_divide(
        &self,
        prepared: &Prepared,
        fence: &Fence,
        stream: &StreamArn,
    ) -> StoreResult<std::result::Result<usize, Obstacle>> {
        let (Some(fleet), Some(leases)) = (&self.shared.fleet, self.shared.store.leases()) else {
            return Ok(Err(Obstacle::Stage));
        };
        let (name, store) = (&self.config.name, &self.shared.store);
        let state = store.read(name).await?;
        let lister = self.lister(prepared, stream);
        // Nothing is read meanwhile, so it is not waited for however long it takes.
        let Ok(Ok(listing)) = tokio::time::timeout(LIST_WITHIN, lister.list()).await else {
            return Ok(Err(Obstacle::NotListed));
        };
        let most = self.most_parts(&fleet.heard());
        let parts = match divide(&state, &awaited(&listing, &state.shards), most, self.aws_now()) {
            Ok(parts) => parts,
            Err(obstacle) => return Ok(Err(obstacle)),
        };
        if !listing.is_conclusive() || !strays_of(&listing, &state.shards, parts.iter().map(Vec::as_slice)).is_empty() {
            return Ok(Err(Obstacle::Stranger));
        }
        let Some(row) = state.link.clone() else { return Ok(Err(Obstacle::Stage)) };
        let division = division(&state, fence, parts.len());
        // None of those that are older is the link's, which is whole, nor ever will be: whoever made them has lost the link.
        for old in leases.parts(name).await?.into_iter().filter(|part| part.epoch < fence.epoch) {
            leases.remove_part(&old).await?;
        }
        let num_parts = parts.len();
        for (number, shards) in (0..).zip(parts) {
            let mut writes: Vec<StateWrite> = shards.into_iter().map(StateWrite::Shard).collect();
            writes.push(StateWrite::Link(part_row(&row)));
            leases.make_part(&part_name(name, division, number), self.shared.context.worker(), writes).await?;
        }
        let row = LinkRow { stage: Stage::Divided(division), ..row };
        store.commit(name, fence, vec![StateWrite::Link(row)]).await?;
        Ok(Ok(num_parts))
    }
}

/// Named by the link's owner, which divides it once.
fn division(state: &LinkState, fence: &Fence, parts: usize) -> Division {
    Division {
        epoch: fence.epoch,
        parts: u32::try_from(parts).unwrap_or(u32::MAX),
        is_recalled: false,
        first_letter: state.dead_letters.1 + 1,
        first_gap: state.gaps.iter().map(|gap| gap.id).max().unwrap_or(0) + 1,
    }
}

/// Finished shards that are listed and of which no child is known.
pub(super) fn awaited(listing: &Listing, rows: &[ShardRow]) -> BTreeSet<ShardId> {
    let parents: BTreeSet<&ShardId> = rows.iter().filter_map(|row| row.parent.as_ref()).collect();
    let is_awaited = |row: &&ShardRow| {
        row.status == ShardStatus::Finished && !row.is_lost && listing.contains(&row.id) && !parents.contains(&row.id)
    };
    rows.iter().filter(is_awaited).map(|row| row.id.clone()).collect()
}

/// Pure: whether it is worth while to drain the link and look whether it can be divided.
fn is_divisible(now: &Snapshot, is_loading: bool, heard: &Heard) -> bool {
    let is_shared = heard.sharing > 0 && heard.others == 0;
    let is_certain = now.books.doubts == 0 && now.books.open_gaps.is_empty();
    is_shared && is_certain && !is_loading && now.counts.open + now.counts.closed_pending >= 2
}
