//! What in the forest means that history may be lost, and what becomes of it once a gap is durable.
//!
//! Suspects are read off the forest's state, never stored: until one is resolved it is found again, also after a crash.

use std::collections::HashSet;

use crate::model::{ShardId, WallTime};

use super::{Lineage, Node, Presence, ShardStatus};

/// Why a shard is suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suspicion {
    /// Not read to its end, and no longer listed. Resolved: given up, so that its children can go on.
    Vanished,
    /// Its parent is neither listed nor known to us: that one, and perhaps others between, were never read. Resolved:
    /// it may be read.
    UnknownParent,
    /// It, or a shard between, turned up after a descendant had begun. Reading it (on) would put old values over new
    /// ones, so what is unread of it is left to the heal; all of that is older than the gap, for the shard is closed.
    /// Resolved: finished.
    Overtaken,
    /// It was given up as vanished, and is listed again. Resolved: read, unless a child of it has begun.
    Reappeared,
}

/// A shard under suspicion.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Suspect {
    /// The shard.
    pub shard: ShardId,
    /// Why.
    pub why: Suspicion,
}

/// The answer to [`Lineage::give_up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// Write `Finished` to its row; its children may go on.
    Finished,
    /// The newest listing holds it, so records may still come. Keep the gap, list again, restart its cursor later.
    StillListed,
    /// It was not being read.
    NotReading,
}

impl Lineage {
    /// All suspects, by shard id. Empty while the newest listing is not conclusive.
    #[must_use]
    pub fn suspects(&self) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        for (id, node) in &self.nodes {
            let Some(why) = self.suspicion(id, node) else { continue };
            // It will be finished unread, and what came before it would be forgotten with it.
            if node.status == ShardStatus::Waiting && self.parent_is_unknown(node) && why != Suspicion::UnknownParent {
                suspects.push(Suspect { shard: id.clone(), why: Suspicion::UnknownParent });
            }
            suspects.push(Suspect { shard: id.clone(), why });
        }
        suspects
    }

    /// A gap for this suspect is durable. Returns the status to write to its row (first stop reading it and let what was
    /// read settle), or `None` when there is nothing to write. Open the gaps of all suspects before resolving the first,
    /// then ask for suspects again: resolving one may uncover the next.
    pub fn resolve(&mut self, suspect: &Suspect, now: WallTime) -> Option<ShardStatus> {
        let why = self.nodes.get(&suspect.shard).and_then(|node| self.suspicion(&suspect.shard, node))?;
        if why != suspect.why {
            return None;
        }
        let a_child_began = self.known_children(&suspect.shard).any(|(_, child)| child.status != ShardStatus::Waiting);
        if why == Suspicion::UnknownParent {
            self.stranger_at = Some(now);
        }
        let node = self.nodes.get_mut(&suspect.shard)?;
        match why {
            Suspicion::Vanished => node.give_up(now),
            Suspicion::UnknownParent => node.status = ShardStatus::Reading,
            Suspicion::Overtaken => node.finish(now),
            Suspicion::Reappeared => {
                node.lost = false;
                if !a_child_began {
                    node.status = ShardStatus::Reading;
                }
            }
        }
        let status = node.status;
        debug_assert!(self.children_wait_for_their_parents());
        Some(status)
    }

    /// The service says that a shard being read does not exist, and a gap for it is durable.
    ///
    /// A shard that the newest listing holds is not given up: it may be open, and what comes into it would be lost.
    pub fn give_up(&mut self, shard: &ShardId, now: WallTime) -> GiveUp {
        match self.nodes.get_mut(shard) {
            Some(node) if node.status != ShardStatus::Reading => GiveUp::NotReading,
            Some(node) if node.presence == Presence::Listed => GiveUp::StillListed,
            Some(node) => {
                node.give_up(now);
                GiveUp::Finished
            }
            None => GiveUp::NotReading,
        }
    }

    /// A shard that was given up had been read to its end before that, as its row says: nothing of it is missing.
    pub fn found(&mut self, shard: &ShardId) {
        if let Some(node) = self.nodes.get_mut(shard).filter(|node| node.status == ShardStatus::Finished) {
            node.lost = false;
        }
    }

    fn suspicion(&self, id: &ShardId, node: &Node) -> Option<Suspicion> {
        self.concluded_at?;
        match (node.status, node.presence) {
            (ShardStatus::Finished, Presence::Listed) if node.lost => Some(Suspicion::Reappeared),
            (ShardStatus::Finished, _) => None,
            (ShardStatus::Reading, Presence::Left) => Some(Suspicion::Vanished),
            (ShardStatus::Reading, _) => self.is_overtaken(id).then_some(Suspicion::Overtaken),
            // A shard below an unfinished one comes to nothing before that one does, or order would break below it.
            (ShardStatus::Waiting, _) if !self.parent_is_unknown(node) && !self.parent_is_finished(node) => None,
            // It may descend from any of ours, so those that are on their way out come first.
            (ShardStatus::Waiting, _) if self.parent_is_unknown(node) && !self.every_line_is_listed() => None,
            (ShardStatus::Waiting, Presence::Left) => Some(Suspicion::Vanished),
            (ShardStatus::Waiting, _) if self.is_overtaken(id) => Some(Suspicion::Overtaken),
            (ShardStatus::Waiting, _) => {
                (self.parent_is_unknown(node) && self.no_stray_is_left()).then_some(Suspicion::UnknownParent)
            }
        }
    }

    fn parent_is_unknown(&self, node: &Node) -> bool {
        node.parent.as_ref().is_some_and(|parent| !self.nodes.contains_key(parent))
    }

    /// Whether the first unfinished shard of each line below a finished one is listed.
    fn every_line_is_listed(&self) -> bool {
        self.nodes.values().all(|node| match node.status {
            ShardStatus::Finished => true,
            ShardStatus::Reading => node.presence == Presence::Listed,
            ShardStatus::Waiting => node.presence == Presence::Listed || !self.parent_is_finished(node),
        })
    }

    /// Whether no shard of unknown parent has left the listing unread.
    fn no_stray_is_left(&self) -> bool {
        self.nodes.values().all(|node| {
            node.status != ShardStatus::Waiting || node.presence != Presence::Left || !self.parent_is_unknown(node)
        })
    }

    /// Whether an unfinished shard has a descendant that has begun.
    pub(super) fn is_overtaken(&self, id: &ShardId) -> bool {
        if self.status(id) == Some(ShardStatus::Finished) {
            return false;
        }
        let mut seen = HashSet::from([id]);
        let mut waiting = vec![id];
        while let Some(at) = waiting.pop() {
            for (child, node) in self.known_children(at) {
                if node.status != ShardStatus::Waiting {
                    return true;
                }
                if seen.insert(child) {
                    waiting.push(child);
                }
            }
        }
        false
    }
}

impl Node {
    fn give_up(&mut self, now: WallTime) {
        self.finish(now);
        self.lost = true;
    }
}
