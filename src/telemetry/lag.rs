//! How far the copy is behind, without flattering anybody.
//!
//! A *watermark time* W says: every change created **before** W has passed the stage. Creation times are whole seconds,
//! rounded down by the service, so a record of second s proves what came before s and nothing about s itself. The link's
//! W is the minimum over its shards, and it never goes back. What cannot be proved is not claimed: an empty page counts
//! only after [`EMPTY_PAGES`] in a row and never on a closed shard, whose data still lie ahead; a failed request is no
//! event at all; a finished shard holds the link where it ended until its children are known.
//!
//! Pure: times come in, corrected for clock skew by [`super::skew`]. Not visible here: the time between a write and its
//! appearance in the stream (well below a second), and a service that answers with more empty pages than that.

#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::labels::Stage;
use crate::model::{EMPTY_PAGES, ShardId, WallTime};

/// How long a stream keeps a record. Source: DynamoDB developer guide, Change data capture for DynamoDB Streams.
pub const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// What a page held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageContent {
    /// No record.
    Empty {
        /// Whether the shard is closed as far as we know: a child is listed, its ending number is, or this page had no
        /// next iterator.
        shard_is_closed: bool,
    },
    /// At least one record.
    Records {
        /// The earliest creation time in it.
        oldest: WallTime,
        /// The latest creation time in it.
        newest: WallTime,
    },
}

/// What a checkpoint that is being written will prove once it is durable. See [`ShardLag::checkpoint_begun`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointMark {
    applied: Option<WallTime>,
    covers_generation: Option<u64>,
}

/// Watermark times of one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardLag {
    read: Option<WallTime>,
    applied: Option<WallTime>,
    checkpointed: Option<WallTime>,
    empty_pages: u8,
    oldest_unapplied: Option<WallTime>,
    /// Counts the pages with records.
    generation: u64,
    /// Whether the durable position covers every record that was read.
    is_durable: bool,
}

impl ShardLag {
    /// A shard that stands where a checkpoint left it; `None`: nothing of it was ever settled.
    #[must_use]
    pub fn resumed(checkpoint_time: Option<WallTime>) -> Self {
        let time = checkpoint_time;
        Self { read: time, applied: time, checkpointed: time, is_durable: true, ..Self::default() }
    }

    /// A page was read with a request that was begun at this time. Its records count as unapplied until
    /// [`ShardLag::applied`] says otherwise. A request that failed is not reported.
    pub fn page_read(&mut self, request_started: WallTime, content: PageContent) {
        match content {
            PageContent::Records { oldest, newest } => {
                self.empty_pages = 0;
                self.generation += 1;
                self.is_durable = false;
                // Held back before `read` moves: there must be no moment at which the page counts as applied.
                self.oldest_unapplied = Some(self.oldest_unapplied.map_or(oldest, |before| before.min(oldest)));
                self.read = self.read.max(Some(newest));
            }
            PageContent::Empty { shard_is_closed: true } => self.empty_pages = 0,
            PageContent::Empty { shard_is_closed: false } => {
                self.empty_pages = self.empty_pages.saturating_add(1);
                if self.empty_pages >= EMPTY_PAGES {
                    self.read = self.read.max(Some(request_started));
                }
            }
        }
        self.settle();
    }

    /// The creation time of the oldest record that was read and is not settled, after the books of the shard
    /// (`Watermark::oldest_unsettled`); `None`: everything that was read is settled.
    pub fn applied(&mut self, oldest_unapplied: Option<WallTime>) {
        self.oldest_unapplied = oldest_unapplied;
        self.settle();
    }

    /// To be asked at the moment when the position of a checkpoint is taken.
    #[must_use]
    pub fn checkpoint_begun(&self) -> CheckpointMark {
        let covers_generation = self.oldest_unapplied.is_none().then_some(self.generation);
        CheckpointMark { applied: self.applied, covers_generation }
    }

    /// That checkpoint is durable. From then on, as long as no record is read, the durable watermark follows the
    /// applied one without further writes.
    pub fn checkpointed(&mut self, mark: CheckpointMark) {
        self.checkpointed = self.checkpointed.max(mark.applied);
        self.is_durable |= mark.covers_generation == Some(self.generation);
        self.settle();
    }

    fn settle(&mut self) {
        self.applied = self.applied.max(self.oldest_unapplied.or(self.read));
        if self.is_durable {
            self.checkpointed = self.checkpointed.max(self.applied);
        }
        debug_assert!(self.checkpointed <= self.applied && self.applied <= self.read, "stages out of order: {self:?}");
    }

    /// Read and settled to its end, durably: all stages stand where reading ended.
    fn finish(&mut self) {
        (self.oldest_unapplied, self.is_durable) = (None, true);
        self.settle();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Counts: unread, being read, or its end is not settled.
    Unfinished,
    /// Finished, children unknown: counts where it ended.
    Holding,
    /// Finished, children known: counts no more; kept for children that come late.
    Released,
}

#[derive(Debug)]
struct Shard {
    lag: ShardLag,
    parent: Option<ShardId>,
    standing: Standing,
}

/// The watermark times of a link. `None`: not known, nothing to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// See [`Stage::Read`].
    pub read: Option<WallTime>,
    /// See [`Stage::Applied`].
    pub applied: Option<WallTime>,
    /// See [`Stage::Checkpointed`].
    pub checkpointed: Option<WallTime>,
}

impl Watermarks {
    /// That of a stage.
    #[must_use]
    pub fn of(&self, stage: Stage) -> Option<WallTime> {
        match stage {
            Stage::Read => self.read,
            Stage::Applied => self.applied,
            Stage::Checkpointed => self.checkpointed,
        }
    }

    /// How far the copy is behind at this time; `None` while that is not known.
    #[must_use]
    pub fn lag(&self, now: WallTime) -> Option<Duration> {
        self.applied.map(|applied| now.since(applied))
    }
}

/// The lag of a link: its shards, how they descend from each other, and what was claimed so far.
#[derive(Debug)]
pub struct LinkLag {
    shards: BTreeMap<ShardId, Shard>,
    /// Those that are not released: a few of hundreds, and asked for twice a second.
    counted: BTreeSet<ShardId>,
    owed_from: WallTime,
    is_loading: bool,
    claimed: Watermarks,
}

impl LinkLag {
    /// A link without shards. `owed_from` is the time from which no change may be missed: the pin of the initial load
    /// (older ones are in the load); for a link without a load, where its reading is to start.
    #[must_use]
    pub fn new(owed_from: WallTime) -> Self {
        Self {
            shards: BTreeMap::new(),
            counted: BTreeSet::new(),
            owed_from,
            is_loading: false,
            claimed: Watermarks::default(),
        }
    }

    /// Says whether the initial load is under way: until it has ended the target is no copy of any time, and no applied
    /// or checkpointed watermark is shown, whatever the stream has got to.
    pub fn set_loading(&mut self, is_loading: bool) {
        self.is_loading = is_loading;
    }

    /// A shard is known, from a listing (`ShardLag::resumed(None)`) or from its row. Until it has a watermark of its own
    /// it has its parent's. A shard that is already there stays as it is.
    pub fn add(&mut self, id: ShardId, parent: Option<ShardId>, lag: ShardLag) {
        if let Entry::Vacant(place) = self.shards.entry(id) {
            self.counted.insert(place.key().clone());
            place.insert(Shard { lag, parent, standing: Standing::Unfinished });
        }
    }

    /// The shard's own books, to report its events to; `None` when it was never added or is forgotten.
    pub fn shard(&mut self, id: &ShardId) -> Option<&mut ShardLag> {
        self.shards.get_mut(id).map(|shard| &mut shard.lag)
    }

    /// A shard is read and settled to its end, and that is durable. It holds the link until [`LinkLag::release`].
    pub fn finished(&mut self, id: &ShardId) {
        let inherited = self.watermarks_of(id);
        if let Some(shard) = self.shards.get_mut(id).filter(|shard| shard.standing == Standing::Unfinished) {
            shard.standing = Standing::Holding;
            shard.lag.read = shard.lag.read.max(inherited.read);
            shard.lag.finish();
        }
    }

    /// A shard that was given up is read again: it counts as if it had never ended.
    pub fn reopened(&mut self, id: &ShardId) {
        if let Some(shard) = self.shards.get_mut(id) {
            shard.standing = Standing::Unfinished;
            self.counted.insert(id.clone());
        }
    }

    /// To be called after each listing: finished shards that no longer wait for the discovery of their children let go
    /// of the link (their children carry on from where they ended).
    pub fn release(&mut self, awaits_children: impl Fn(&ShardId) -> bool) {
        let shards = &mut self.shards;
        self.counted.retain(|id| match shards.get_mut(id) {
            Some(shard) if shard.standing == Standing::Holding && !awaits_children(id) => {
                shard.standing = Standing::Released;
                false
            }
            _ => true,
        });
    }

    /// A finished shard's row is gone. Its children keep what they had from it.
    pub fn forget(&mut self, id: &ShardId) {
        let inherited = self.watermarks_of(id);
        if self.shards.remove(id).is_none() {
            return;
        }
        self.counted.remove(id);
        for child in self.shards.values_mut().filter(|shard| shard.parent.as_ref() == Some(id)) {
            child.parent = None;
            child.lag.read = child.lag.read.or(inherited.read);
            child.lag.applied = child.lag.applied.or(inherited.applied);
            child.lag.checkpointed = child.lag.checkpointed.or(inherited.checkpointed);
        }
    }

    /// The link's watermarks: the minimum over its shards, never less than what was said before. While a shard's is not
    /// known they stay where they are.
    pub fn watermarks(&mut self) -> Watermarks {
        let now = self.least();
        let claimed = &mut self.claimed;
        claimed.read = claimed.read.max(now.read);
        if !self.is_loading {
            claimed.applied = claimed.applied.max(now.applied);
            claimed.checkpointed = claimed.checkpointed.max(now.checkpointed);
        }
        *claimed
    }

    /// When the oldest change that is not durably settled leaves the stream: the time left until then is the headroom.
    /// Known in every phase: where nothing is read yet, from the time since which changes are owed.
    #[must_use]
    pub fn retention_deadline(&self) -> WallTime {
        self.least().checkpointed.map_or(self.owed_from, |oldest| oldest.max(self.owed_from)).plus(RETENTION)
    }

    /// How far the shards' applied watermarks are apart; `None` while one is not known.
    #[must_use]
    pub fn shard_skew(&self) -> Option<Duration> {
        let mut applied = self.counted.iter().map(|id| self.watermarks_of(id).applied);
        let first = applied.next()??;
        let mut range = (first, first);
        for time in applied {
            range = (range.0.min(time?), range.1.max(time?));
        }
        Some(range.1.since(range.0))
    }

    /// The minimum over the shards that count.
    fn least(&self) -> Watermarks {
        let each = self.counted.iter().map(|id| self.watermarks_of(id));
        // `None` sorts first: one unknown shard makes the link's unknown.
        let least = each.reduce(|a, b| Watermarks {
            read: a.read.min(b.read),
            applied: a.applied.min(b.applied),
            checkpointed: a.checkpointed.min(b.checkpointed),
        });
        least.unwrap_or_default()
    }

    /// A shard's own watermarks; for each that it has not, that of its nearest ancestor that has one.
    fn watermarks_of(&self, id: &ShardId) -> Watermarks {
        let mut found = Watermarks::default();
        let mut at = Some(id);
        // Bounded, should the listing ever contain a circle.
        for _ in 0..=self.shards.len() {
            let Some(shard) = at.and_then(|id| self.shards.get(id)) else { break };
            found.read = found.read.or(shard.lag.read);
            found.applied = found.applied.or(shard.lag.applied);
            found.checkpointed = found.checkpointed.or(shard.lag.checkpointed);
            if found.checkpointed.is_some() && found.applied.is_some() && found.read.is_some() {
                break;
            }
            at = shard.parent.as_ref();
        }
        found
    }
}
