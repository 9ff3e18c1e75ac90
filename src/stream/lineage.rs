//! Which shards there are, how they descend from each other, and which may be read.
//!
//! The forest is built from complete listings, from CHILD_SHARDS answers and from our own rows; our rows win. Order per
//! key rests on one rule: a shard is read when its parent is finished, durably, and not before. What the service may do
//! to confuse that (parents trimmed or still shown as open, children late or one by one, shards that come back) ends
//! here: it either changes nothing, or it is a [`Suspect`], for which a gap is opened before reading goes on.
//!
//! The driver: merge a listing → create the new rows, in order → open gaps for the suspects → [`Lineage::resolve`] each,
//! and again until there is none → read what is [`Lineage::readable`].

#[cfg(test)]
mod model_tests;
mod rows;
mod suspect;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use crate::model::{ShardId, WallTime};

use super::listing::Listing;
use super::source::{ShardListing, StreamStatus};

pub use rows::{Awaiting, Counts, Discovery, LineageRow, NewShard, ShardStatus};
pub use suspect::{GiveUp, Suspect, Suspicion};

/// Rows of finished shards are kept this long after the shard left the listing. A listing lags: 24 hours were too few
/// for others.
pub const FORGET_AFTER: Duration = Duration::from_secs(48 * 3600);

/// How coarsely `last_listed` is kept in rows, so that finished shards cost few writes; added to [`FORGET_AFTER`].
pub const LISTED_GRAIN: Duration = Duration::from_secs(3600);

/// A finished shard whose children are this late is taken for one without, once a shard of unknown parent told that some
/// were gone before they were listed. The service's own delays are seconds.
const ORPHANED_AFTER: Duration = Duration::from_secs(300);

/// So many conclusive listings without a shard that only CHILD_SHARDS told of mean that it is gone.
const MISSES: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// Known from CHILD_SHARDS; no full listing held it yet. One that began before we knew it could not, so nothing
    /// follows before [`MISSES`] of them.
    Unseen {
        misses: u8,
    },
    Listed,
    Left,
}

impl Presence {
    fn missed(self) -> Self {
        match self {
            Self::Unseen { misses } if misses + 1 < MISSES => Self::Unseen { misses: misses + 1 },
            Self::Unseen { .. } | Self::Listed | Self::Left => Self::Left,
        }
    }
}

#[derive(Debug)]
struct Node {
    parent: Option<ShardId>,
    status: ShardStatus,
    presence: Presence,
    last_listed: WallTime,
    saved_listed: WallTime,
    has_end: bool,
    /// When it was finished; of one that an earlier run finished, when that was seen first.
    finished_at: Option<WallTime>,
    /// An earlier run finished it.
    was_finished: bool,
    lost: bool,
    /// Its children were gone before they were listed; a gap lies below it.
    is_orphaned: bool,
}

/// The shard forest of one stream.
#[derive(Debug, Default)]
pub struct Lineage {
    nodes: BTreeMap<ShardId, Node>,
    /// By parent, also by parents that have no row.
    children: BTreeMap<ShardId, BTreeSet<ShardId>>,
    stream: Option<StreamStatus>,
    /// When the newest listing was merged, if something follows from absence in it.
    concluded_at: Option<WallTime>,
    /// When a gap was opened for a shard of unknown parent, the last time.
    stranger_at: Option<WallTime>,
}

impl Lineage {
    /// The first pin: every listed shard, those without a listed parent to be read from the trim horizon.
    ///
    /// What was trimmed before is none of our history, so absent parents are no gap here. `None` when the listing is
    /// not conclusive (the stream is still being turned on): list again. The rows and a mark that the pin is complete
    /// must be durable before anything is read; without the mark, drop the rows and pin again.
    #[must_use]
    pub fn pin(listing: &Listing, now: WallTime) -> Option<(Self, Vec<NewShard>)> {
        if !listing.is_conclusive() {
            return None;
        }
        let mut lineage = Self::default();
        let mut new_shards = lineage.register_new(listing, now);
        for new in &mut new_shards {
            if new.parent.as_ref().is_none_or(|parent| !listing.contains(parent)) {
                new.status = ShardStatus::Reading;
                lineage.set_status(&new.id, ShardStatus::Reading);
            }
        }
        lineage.conclude(listing, now);
        debug_assert!(lineage.children_wait_for_their_parents());
        Some((lineage, new_shards))
    }

    /// The forest of our rows, after a restart.
    #[must_use]
    pub fn restore(rows: impl IntoIterator<Item = LineageRow>) -> Self {
        let mut lineage = Self::default();
        for LineageRow { id, parent, status, last_listed, lost } in rows {
            // Given up, and its last writes were not settled when the process ended: they lie under its gap with the rest.
            let status = if lost { ShardStatus::Finished } else { status };
            let node = Node {
                parent,
                status,
                presence: Presence::Listed,
                last_listed,
                saved_listed: last_listed,
                // One that was given up was not read to its end: if it comes back, it may be open.
                has_end: status == ShardStatus::Finished && !lost,
                finished_at: None,
                was_finished: status == ShardStatus::Finished,
                lost,
                is_orphaned: false,
            };
            lineage.insert(id, node);
        }
        // A child of one that was left had begun before that one was finished: it is not read on.
        let reading = lineage.nodes.iter().filter(|(_, node)| node.status == ShardStatus::Reading);
        let left: Vec<ShardId> = reading.filter(|(id, _)| lineage.is_overtaken(id)).map(|(id, _)| id.clone()).collect();
        left.iter().for_each(|id| lineage.set_status(id, ShardStatus::Waiting));
        lineage
    }

    /// A gap was opened for a shard of unknown parent at this time, in an earlier run.
    #[must_use]
    pub fn with_stranger(mut self, at: Option<WallTime>) -> Self {
        self.stranger_at = self.stranger_at.max(at);
        self
    }

    /// Takes a complete listing. May be repeated with the same one.
    pub fn merge_listing(&mut self, listing: &Listing, now: WallTime) -> Discovery {
        let new_shards = self.register_new(listing, now);
        let relisted = self.conclude(listing, now);
        debug_assert!(self.children_wait_for_their_parents());
        Discovery { new_shards, relisted, suspects: self.suspects() }
    }

    /// Takes an answer about the children of `parent`: a hint, so only what names this parent is believed, and nothing
    /// follows from what is absent. Create rows for what comes back.
    pub fn merge_children(&mut self, parent: &ShardId, children: &[ShardListing], now: WallTime) -> Vec<NewShard> {
        if !self.nodes.contains_key(parent) {
            return Vec::new();
        }
        let named = children.iter().filter(|child| child.parent.as_ref() == Some(parent) && child.id != *parent);
        let new_shards = named.filter_map(|child| self.register(child, now)).collect();
        debug_assert!(self.children_wait_for_their_parents());
        new_shards
    }

    /// The shards that may be read now, by id: those being read, and those whose parent is finished.
    pub fn readable(&self) -> impl Iterator<Item = &ShardId> {
        self.nodes.iter().filter(|(id, node)| self.may_be_read(id, node)).map(|(id, _)| id)
    }

    /// A readable shard's row durably says `Reading`. Returns whether it was readable.
    pub fn begin(&mut self, shard: &ShardId) -> bool {
        let readable = self.nodes.get(shard).is_some_and(|node| self.may_be_read(shard, node));
        if readable {
            debug_assert!(self.ancestors_are_finished(shard));
            self.set_status(shard, ShardStatus::Reading);
            debug_assert!(self.children_wait_for_their_parents());
        }
        readable
    }

    /// A shard's row durably says `Finished`: drained, and everything settled. Returns whether it was being read.
    pub fn finish(&mut self, shard: &ShardId, now: WallTime) -> bool {
        let Some(node) = self.nodes.get_mut(shard).filter(|node| node.status == ShardStatus::Reading) else {
            return false;
        };
        node.finish(now);
        true
    }

    /// A shard's status.
    #[must_use]
    pub fn status(&self, shard: &ShardId) -> Option<ShardStatus> {
        self.nodes.get(shard).map(|node| node.status)
    }

    /// Whether children of the shard may still turn up: it was read to its end, and none is known to be gone. One listing
    /// without it says nothing of that.
    #[must_use]
    pub fn may_have_children(&self, shard: &ShardId) -> bool {
        self.nodes.get(shard).is_some_and(|node| !node.lost && !node.is_orphaned)
    }

    /// Whether any child of the shard is known.
    #[must_use]
    pub fn has_known_children(&self, shard: &ShardId) -> bool {
        self.has_children(shard)
    }

    /// Whether the shard is closed as far as is known: then an empty page of it proves nothing.
    #[must_use]
    pub fn is_known_closed(&self, shard: &ShardId) -> bool {
        self.nodes.get(shard).is_some_and(|node| self.is_closed(shard, node))
    }

    /// All shards with their parents, by id.
    pub fn shards(&self) -> impl Iterator<Item = (&ShardId, Option<&ShardId>)> {
        self.nodes.iter().map(|(id, node)| (id, node.parent.as_ref()))
    }

    /// A shard's parent, which may have no row.
    #[must_use]
    pub fn parent(&self, shard: &ShardId) -> Option<&ShardId> {
        self.nodes.get(shard).and_then(|node| node.parent.as_ref())
    }

    /// A shard's parent, that one's, and so on. The last may have no row.
    pub fn ancestors(&self, shard: &ShardId) -> impl Iterator<Item = &ShardId> {
        std::iter::successors(self.parent(shard), |id| self.parent(id)).take(self.nodes.len())
    }

    /// Finished shards of which no child is known although the stream goes on and still lists them. Ask for their
    /// children again and again; other shards are not affected.
    pub fn awaiting_children(&self, now: WallTime) -> impl Iterator<Item = Awaiting> {
        self.nodes.iter().filter(|(id, node)| self.awaits_children(id, node)).map(move |(id, node)| {
            let since = node.finished_at.unwrap_or(now);
            Awaiting { id: id.clone(), since, waited: now.since(since) }
        })
    }

    /// Whether everything that a disabled stream will ever hold is read and settled.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.stream == Some(StreamStatus::Disabled)
            && self.concluded_at.is_some()
            && self.nodes.values().all(|node| node.status == ShardStatus::Finished)
    }

    /// The forest in numbers.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (id, node) in &self.nodes {
            counts.awaiting_children += usize::from(self.awaits_children(id, node));
            let slot = match node.status {
                ShardStatus::Finished => &mut counts.finished,
                ShardStatus::Waiting if !self.may_be_read(id, node) => &mut counts.waiting_parent,
                ShardStatus::Waiting | ShardStatus::Reading if self.is_closed(id, node) => &mut counts.closed_pending,
                ShardStatus::Waiting | ShardStatus::Reading => &mut counts.open,
            };
            *slot += 1;
        }
        counts
    }

    /// Finished rows that may be dropped: out of the listing for [`FORGET_AFTER`], no row of the parent left, and every
    /// known child past its start.
    pub fn forgettable(&self, now: WallTime) -> impl Iterator<Item = &ShardId> {
        self.nodes.iter().filter(move |(id, node)| self.may_be_forgotten(id, node, now)).map(|(id, _)| id)
    }

    /// The row is deleted. Returns whether that was allowed; else nothing changes.
    pub fn forget(&mut self, shard: &ShardId, now: WallTime) -> bool {
        if !self.nodes.get(shard).is_some_and(|node| self.may_be_forgotten(shard, node, now)) {
            return false;
        }
        if let Some(parent) = self.nodes.remove(shard).and_then(|node| node.parent)
            && let Some(siblings) = self.children.get_mut(&parent)
        {
            siblings.remove(shard);
            if siblings.is_empty() {
                self.children.remove(&parent);
            }
        }
        true
    }

    fn register_new(&mut self, listing: &Listing, now: WallTime) -> Vec<NewShard> {
        let mut placed = HashSet::new();
        let mut new_shards = Vec::new();
        for shard in listing.shards() {
            // A listing has no cycles, and a placed or known ancestor ends the walk.
            let mut line = Vec::new();
            let mut at = Some(shard);
            while let Some(shard) = at.filter(|shard| placed.insert(&shard.id)) {
                line.push(shard);
                at = shard.parent.as_ref().and_then(|parent| listing.get(parent));
            }
            new_shards.extend(line.into_iter().rev().filter_map(|shard| self.register(shard, now)));
        }
        new_shards
    }

    fn register(&mut self, shard: &ShardListing, now: WallTime) -> Option<NewShard> {
        if let Some(node) = self.nodes.get_mut(&shard.id) {
            node.has_end |= shard.last.is_some();
            return None;
        }
        let node = Node {
            parent: shard.parent.clone(),
            status: ShardStatus::Waiting,
            presence: Presence::Unseen { misses: 0 },
            last_listed: now,
            saved_listed: now,
            has_end: shard.last.is_some(),
            finished_at: None,
            was_finished: false,
            lost: false,
            is_orphaned: false,
        };
        self.insert(shard.id.clone(), node);
        let (id, parent) = (shard.id.clone(), shard.parent.clone());
        Some(NewShard { id, parent, status: ShardStatus::Waiting, born_after: self.concluded_at })
    }

    fn insert(&mut self, id: ShardId, node: Node) {
        if let Some(parent) = &node.parent {
            self.children.entry(parent.clone()).or_default().insert(id.clone());
        }
        self.nodes.insert(id, node);
    }

    /// Notes who is listed and, if the listing allows that, who is not. Returns the rows to touch.
    fn conclude(&mut self, listing: &Listing, now: WallTime) -> Vec<(ShardId, WallTime)> {
        let conclusive = listing.is_conclusive();
        let mut relisted = Vec::new();
        for (id, node) in &mut self.nodes {
            if listing.contains(id) {
                node.presence = Presence::Listed;
                node.last_listed = node.last_listed.max(now);
            } else if conclusive {
                node.presence = node.presence.missed();
            }
            let finished = node.status == ShardStatus::Finished;
            if finished {
                let since = *node.finished_at.get_or_insert(now);
                let has_children = self.children.contains_key(id);
                let a_child_is_gone = self.stranger_at.is_some_and(|at| node.was_finished || since <= at);
                node.is_orphaned |= !has_children && a_child_is_gone && now.since(since) >= ORPHANED_AFTER;
            }
            if finished && node.last_listed.since(node.saved_listed) >= LISTED_GRAIN {
                node.saved_listed = node.last_listed;
                relisted.push((id.clone(), node.last_listed));
            }
        }
        self.stream = Some(listing.status());
        self.concluded_at = if conclusive { Some(now) } else { None };
        relisted
    }

    fn may_be_read(&self, id: &ShardId, node: &Node) -> bool {
        match node.status {
            ShardStatus::Finished => false,
            ShardStatus::Reading => !self.is_overtaken(id),
            ShardStatus::Waiting => self.parent_is_finished(node) && !self.is_overtaken(id),
        }
    }

    /// A parent without a row is not finished by us: such a shard starts with [`Lineage::resolve`].
    fn parent_is_finished(&self, node: &Node) -> bool {
        node.parent.as_ref().is_none_or(|parent| self.status(parent) == Some(ShardStatus::Finished))
    }

    fn known_children<'a>(&'a self, id: &ShardId) -> impl Iterator<Item = (&'a ShardId, &'a Node)> {
        let ids = self.children.get(id).into_iter().flatten();
        ids.filter_map(|child| self.nodes.get(child).map(|node| (child, node)))
    }

    fn has_children(&self, id: &ShardId) -> bool {
        self.children.contains_key(id)
    }

    /// A listed child proves that its parent is closed, whatever the listing shows.
    fn is_closed(&self, id: &ShardId, node: &Node) -> bool {
        node.has_end || self.has_children(id)
    }

    fn awaits_children(&self, id: &ShardId, node: &Node) -> bool {
        self.stream == Some(StreamStatus::Enabled)
            && node.status == ShardStatus::Finished
            && node.presence != Presence::Left
            && !node.is_orphaned
            && !self.has_children(id)
    }

    fn may_be_forgotten(&self, id: &ShardId, node: &Node, now: WallTime) -> bool {
        node.status == ShardStatus::Finished
            && node.presence == Presence::Left
            && now.since(node.last_listed) >= FORGET_AFTER + LISTED_GRAIN
            && node.parent.as_ref().is_none_or(|parent| !self.nodes.contains_key(parent))
            && self.known_children(id).all(|(_, child)| child.status != ShardStatus::Waiting)
    }

    fn set_status(&mut self, shard: &ShardId, status: ShardStatus) {
        if let Some(node) = self.nodes.get_mut(shard) {
            node.status = status;
        }
    }

    /// Invariant: while a shard is being read, none of its children has begun.
    #[must_use]
    pub fn children_wait_for_their_parents(&self) -> bool {
        self.nodes
            .iter()
            .filter(|(_, node)| node.status == ShardStatus::Reading)
            .all(|(id, _)| self.known_children(id).all(|(_, child)| child.status == ShardStatus::Waiting))
    }

    /// Invariant: every ancestor that has a row, up to the first that has none, is finished. One that
    /// was seen to be an ancestor only after the fact is exempt: it is not read (on).
    #[must_use]
    pub fn ancestors_are_finished(&self, shard: &ShardId) -> bool {
        let mut at = self.parent(shard);
        for _ in 0..self.nodes.len() {
            let Some((id, node)) = at.and_then(|id| self.nodes.get_key_value(id)) else { return true };
            if node.status != ShardStatus::Finished && !self.is_overtaken(id) {
                return false;
            }
            at = node.parent.as_ref();
        }
        true
    }
}

impl Node {
    fn finish(&mut self, now: WallTime) {
        self.status = ShardStatus::Finished;
        self.finished_at = Some(now);
        self.last_listed = self.last_listed.max(now);
        self.saved_listed = self.last_listed;
    }
}
