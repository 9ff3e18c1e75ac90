//! Which shard to poll, and when.
//!
//! A pool with fewer slots than shards asks [`Schedule::due`] for work. Shards are handed out in the order in which they
//! fell due, first come first served among equals; one that comes back goes behind all that were due before it, so a
//! shard with full pages starves no other. Times are monotonic: the duration since the program began.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::model::ShardId;

/// How often an idle shard is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Wait after a page with records that was not full, and after the first empty one.
    pub poll_min: Duration,
    /// Longest wait of an idle shard; the wait doubles up to here.
    pub poll_max: Duration,
}

/// How a poll went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// A full page, or a step that is not a page (an iterator was got): go on at once.
    GoOn,
    /// A page with records, not full.
    Some,
    /// An empty page.
    Empty,
    /// It failed; the retry policy says how long to wait. The idle wait is kept as it was.
    Failed {
        /// The wait.
        wait: Duration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// In the queue under this due time and ticket.
    Queued(Duration, u64),
    /// A poll is out.
    Polling,
    /// A poll is out, and the shard is to be dropped when it comes back.
    Leaving,
}

#[derive(Debug)]
struct Entry {
    slot: Slot,
    idle_wait: Duration,
}

/// The polls to make.
#[derive(Debug)]
pub struct Schedule {
    pace: Pace,
    entries: HashMap<ShardId, Entry>,
    queue: BTreeSet<(Duration, u64, ShardId)>,
    next_ticket: u64,
    latest: Duration,
}

impl Schedule {
    /// An empty schedule.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self { pace, entries: HashMap::new(), queue: BTreeSet::new(), next_ticket: 0, latest: Duration::ZERO }
    }

    /// Adds a shard, due at once. One that is there already stays as it is.
    pub fn add(&mut self, shard: ShardId, now: Duration) {
        match self.entries.get_mut(&shard) {
            Some(entry) if entry.slot == Slot::Leaving => entry.slot = Slot::Polling,
            Some(_) => {}
            None => {
                let idle_wait = self.pace.poll_min;
                self.entries.insert(shard.clone(), Entry { slot: Slot::Polling, idle_wait });
                let due = self.observe(now);
                self.enqueue(shard, due);
            }
        }
        debug_assert!(self.each_shard_is_queued_once_or_out());
    }

    /// Drops a shard. While a poll of it is out it is only marked, so that adding it again never makes a second one.
    pub fn remove(&mut self, shard: &ShardId) {
        match self.entries.get_mut(shard) {
            Some(Entry { slot: Slot::Queued(due, ticket), .. }) => {
                self.queue.remove(&(*due, *ticket, shard.clone()));
                self.entries.remove(shard);
            }
            Some(entry) => entry.slot = Slot::Leaving,
            None => {}
        }
        debug_assert!(self.each_shard_is_queued_once_or_out());
    }

    /// The shard to poll now, if one is due. It is handed out once; report to [`polled`](Self::polled).
    pub fn due(&mut self, now: Duration) -> Option<ShardId> {
        let now = self.observe(now);
        let (due, ..) = self.queue.first()?;
        if *due > now {
            return None;
        }
        let (.., shard) = self.queue.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&shard) {
            entry.slot = Slot::Polling;
        }
        debug_assert!(self.each_shard_is_queued_once_or_out());
        Some(shard)
    }

    /// When the next shard falls due; `None` when all are out or there is none.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.queue.first().map(|(due, ..)| *due)
    }

    /// Takes back a shard that [`due`](Self::due) handed out. A dropped poll comes back as `Failed` with no wait.
    pub fn polled(&mut self, shard: &ShardId, outcome: Polled, now: Duration) {
        let now = self.observe(now);
        let pace = self.pace;
        let Some(entry) = self.entries.get_mut(shard) else { return };
        match entry.slot {
            Slot::Queued(..) => return,
            Slot::Leaving => {
                self.entries.remove(shard);
                return;
            }
            Slot::Polling => {}
        }
        let wait = match outcome {
            Polled::GoOn => Duration::ZERO,
            Polled::Some => pace.poll_min,
            Polled::Empty => entry.idle_wait,
            Polled::Failed { wait } => wait,
        };
        entry.idle_wait = match outcome {
            Polled::GoOn | Polled::Some => pace.poll_min,
            Polled::Empty => entry.idle_wait.saturating_mul(2).min(pace.poll_max),
            Polled::Failed { .. } => entry.idle_wait,
        };
        self.enqueue(shard.clone(), now.saturating_add(wait));
        debug_assert!(self.each_shard_is_queued_once_or_out());
    }

    /// Shards in the schedule, polls that are out included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.values().filter(|entry| entry.slot != Slot::Leaving).count()
    }

    /// Whether there is no shard in the schedule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Polls that are out.
    #[must_use]
    pub fn polls_out(&self) -> usize {
        self.entries.len() - self.queue.len()
    }

    fn enqueue(&mut self, shard: ShardId, due: Duration) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if let Some(entry) = self.entries.get_mut(&shard) {
            entry.slot = Slot::Queued(due, ticket);
            self.queue.insert((due, ticket, shard));
        }
    }

    /// Time never goes back here, or a shard that comes back could overtake one that waits.
    fn observe(&mut self, now: Duration) -> Duration {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn each_shard_is_queued_once_or_out(&self) -> bool {
        let queued = self.entries.iter().filter_map(|(shard, entry)| match entry.slot {
            Slot::Queued(due, ticket) => Some((due, ticket, shard.clone())),
            Slot::Polling | Slot::Leaving => None,
        });
        queued.collect::<BTreeSet<_>>() == self.queue
    }
}
