//! Pure: the shards of a link dealt out to parts, and the link put together again from what its parts are by then.
//!
//! # Why no two parts ever have records of one key
//! The keys of a shard are some of those of its parent, and siblings have none in common. So two shards have keys in common
//! only where one descends from the other, and what goes to a part is a tree: a shard that was not read to its end, or whose
//! children may yet come, with all of its descendants. A tree begins where no ancestor goes anywhere. Those ancestors are
//! finished: what was read of them is settled, and no key is in doubt, no debt is open, no earlier owner's write can land
//! when a link is divided ([`Obstacle`]), for of none of these is it known to which tree it belongs.
//!
//! Of ancestors that have no row nothing is known; one that turns up late belongs to no part (see `stream::part`).
//!
//! `reunion` is the way back, `spread` says when both are worth while.

#[cfg(test)]
mod model_tests;
mod reunion;
mod spread;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::LinkState;
use super::rows::{LinkRow, ShardRow, ShardStatus, Stage};
use crate::model::{ShardId, WallTime};

pub(crate) use reunion::{Clocks, PartState, reunite, together};
pub(crate) use spread::{gains, if_whole};

/// Why a link is not divided now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Obstacle {
    /// It is being loaded, or is divided already.
    #[error("it is not streaming as a whole")]
    Stage,
    /// The last owner did not drain.
    #[error("its books were not closed clean")]
    Unclean,
    /// A late write may land, and nobody knows in which tree.
    #[error("keys are in doubt")]
    Doubts,
    /// The same, of records that will be applied again.
    #[error("an earlier owner's records are still to be paid for")]
    Debts,
    /// The same, of records that were trimmed.
    #[error("an earlier owner's writes may still land")]
    Ghosts,
    /// Both tables are compared, by one worker.
    #[error("a gap is open")]
    Gap,
    /// It waits for a parent of which nothing is known, so it may descend from any other.
    #[error("a shard's parent is not known")]
    Stranger,
    /// The service did not answer in time, or not well.
    #[error("its shards could not be listed")]
    NotListed,
    /// There are not two trees.
    #[error("its shards all descend from one")]
    OneTree,
    /// The rows say that a shard is its own ancestor.
    #[error("a shard is its own ancestor")]
    Circle,
}

/// Deals the shards of a link that was just closed out to at most so many parts, none of them empty.
///
/// `awaited`: finished shards that are listed and whose children are not known. `aws_now`: now, by AWS's clock.
pub(crate) fn divide(
    state: &LinkState,
    awaited: &BTreeSet<ShardId>,
    most_parts: usize,
    aws_now: WallTime,
) -> Result<Vec<Vec<ShardRow>>, Obstacle> {
    check(state, aws_now)?;
    let forest = Forest::of(&state.shards);
    let goes = |row: &ShardRow| row.status != ShardStatus::Finished || awaited.contains(&row.id);
    let mut roots = BTreeSet::new();
    for row in state.shards.iter().filter(|row| goes(row)) {
        roots.insert(forest.first_that(row, goes).ok_or(Obstacle::Circle)?);
    }
    if roots.len() < 2 || most_parts < 2 {
        return Err(Obstacle::OneTree);
    }
    Ok(deal(roots.into_iter().map(|root| forest.tree(root)).collect(), most_parts))
}

fn check(state: &LinkState, aws_now: WallTime) -> Result<(), Obstacle> {
    let Some(link) = &state.link else { return Err(Obstacle::Stage) };
    let has_row = |id: &ShardId| state.shards.iter().any(|row| row.id == *id);
    let is_stranger = |row: &ShardRow| {
        row.status == ShardStatus::Waiting && row.parent.as_ref().is_some_and(|parent| !has_row(parent))
    };
    let is_lost_unsettled = |row: &ShardRow| row.is_lost && row.status != ShardStatus::Finished;
    match () {
        () if link.stage != Stage::Streaming => Err(Obstacle::Stage),
        () if !link.clean => Err(Obstacle::Unclean),
        () if !state.doubts.is_empty() => Err(Obstacle::Doubts),
        () if state.shards.iter().any(|row| !row.debts.is_empty()) => Err(Obstacle::Debts),
        () if link.ghosts_until.is_some_and(|until| until > aws_now) => Err(Obstacle::Ghosts),
        () if state.gaps.iter().any(|gap| gap.healed.is_none()) => Err(Obstacle::Gap),
        () if state.shards.iter().any(is_lost_unsettled) => Err(Obstacle::Gap),
        () if state.shards.iter().any(is_stranger) => Err(Obstacle::Stranger),
        () => Ok(()),
    }
}

/// The link's row as that of a part of it that nobody worked on yet.
pub(crate) fn part_row(link: &LinkRow) -> LinkRow {
    LinkRow { stage: Stage::Streaming, clean: true, ghosts_until: None, ..link.clone() }
}

/// Rows by id and by parent.
struct Forest<'a> {
    rows: BTreeMap<&'a ShardId, &'a ShardRow>,
    children: BTreeMap<&'a ShardId, Vec<&'a ShardId>>,
}

impl<'a> Forest<'a> {
    fn of(shards: &'a [ShardRow]) -> Self {
        let mut children: BTreeMap<&ShardId, Vec<&ShardId>> = BTreeMap::new();
        for row in shards {
            if let Some(parent) = &row.parent {
                children.entry(parent).or_default().push(&row.id);
            }
        }
        Self { rows: shards.iter().map(|row| (&row.id, row)).collect(), children }
    }

    fn parent(&self, row: &ShardRow) -> Option<&'a ShardRow> {
        row.parent.as_ref().and_then(|parent| self.rows.get(parent)).copied()
    }

    /// The eldest of a shard and its ancestors of which this holds; `None`: there is no eldest.
    fn first_that(&self, row: &'a ShardRow, holds: impl Fn(&ShardRow) -> bool) -> Option<&'a ShardId> {
        let (mut first, mut at) = (&row.id, row);
        for _ in 0..=self.rows.len() {
            let Some(parent) = self.parent(at) else { return Some(first) };
            if holds(parent) {
                first = &parent.id;
            }
            at = parent;
        }
        None
    }

    /// A shard and all that descend from it, parents first, as a part has them.
    fn tree(&self, root: &'a ShardId) -> Vec<ShardRow> {
        let mut tree: Vec<ShardRow> = self.rows.get(root).map(|row| self.root_row(row)).into_iter().collect();
        let mut parents = vec![root];
        while let Some(parent) = parents.pop() {
            for child in self.children.get(parent).into_iter().flatten() {
                tree.extend(self.rows.get(child).map(|row| (*row).clone()));
                parents.push(child);
            }
        }
        tree
    }

    /// The part has no row of the root's parent, which is finished. So the row says what follows from that: it may be read,
    /// and none of its records is older than any that was settled of its ancestors.
    fn root_row(&self, row: &'a ShardRow) -> ShardRow {
        let ancestors = std::iter::successors(self.parent(row), |at| self.parent(at)).take(self.rows.len());
        let settled = ancestors.filter_map(|ancestor| ancestor.checkpoint_time);
        let verified_at = settled.fold(row.verified_at, WallTime::max);
        let is_waiting = row.status == ShardStatus::Waiting;
        let status = if is_waiting { ShardStatus::Reading } else { row.status };
        ShardRow { status, verified_at, ..row.clone() }
    }
}

/// Largest trees first, each to the part that has the fewest shards to read.
fn deal(mut trees: Vec<Vec<ShardRow>>, most_parts: usize) -> Vec<Vec<ShardRow>> {
    trees.sort_by_key(|tree| Reverse(spread::to_read(tree)));
    let mut parts: Vec<(usize, Vec<ShardRow>)> = vec![Default::default(); most_parts.min(trees.len())];
    for tree in trees {
        if let Some((has, part)) = parts.iter_mut().min_by_key(|(has, part)| (*has, part.len())) {
            *has += spread::to_read(&tree);
            part.extend(tree);
        }
    }
    parts.into_iter().map(|(_, part)| part).collect()
}
