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

    /// Drops a shard of which no poll is out, whatever [`due`](Self::due) handed out: there was nothing to ask for.
    pub fn ended(&mut self, shard: &ShardId) {
        self.remove(shard);
        self.entries.remove(shard);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACE: Pace = Pace { poll_min: Duration::from_millis(200), poll_max: Duration::from_secs(1) };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn id(number: usize) -> ShardId {
        ShardId::new(format!("shard-{number}"))
    }

    fn schedule(shards: usize) -> Schedule {
        let mut schedule = Schedule::new(PACE);
        (0..shards).for_each(|shard| schedule.add(id(shard), Duration::ZERO));
        schedule
    }

    fn wait_after(schedule: &mut Schedule, outcome: Polled) -> Duration {
        let now = schedule.next_due().unwrap();
        let shard = schedule.due(now).unwrap();
        schedule.polled(&shard, outcome, now);
        schedule.next_due().unwrap() - now
    }

    #[test]
    fn an_idle_shard_is_polled_less_and_less_often_up_to_a_limit() {
        let mut schedule = schedule(1);
        let waits: Vec<_> = (0..5).map(|_| wait_after(&mut schedule, Polled::Empty)).collect();
        assert_eq!(waits, [ms(200), ms(400), ms(800), ms(1000), ms(1000)]);
        assert_eq!(wait_after(&mut schedule, Polled::Some), ms(200));
        assert_eq!(wait_after(&mut schedule, Polled::Empty), ms(200), "a record wakes it up");
    }

    #[test]
    fn a_full_page_is_followed_at_once() {
        assert_eq!(wait_after(&mut schedule(1), Polled::GoOn), ms(0));
    }

    #[test]
    fn a_failure_waits_as_told_and_keeps_the_idle_wait() {
        let mut schedule = schedule(1);
        wait_after(&mut schedule, Polled::Empty);
        assert_eq!(wait_after(&mut schedule, Polled::Failed { wait: ms(7_000) }), ms(7_000));
        assert_eq!(wait_after(&mut schedule, Polled::Empty), ms(400));
    }

    #[test]
    fn a_shard_is_polled_once_at_a_time_even_if_removed_and_added_meanwhile() {
        let mut schedule = schedule(1);
        let out = schedule.due(ms(0)).unwrap();
        schedule.add(out.clone(), ms(0));
        assert_eq!(schedule.due(ms(9)), None);
        schedule.remove(&out);
        assert!(schedule.is_empty());
        schedule.add(out.clone(), ms(10));
        assert_eq!((schedule.due(ms(10)), schedule.polls_out()), (None, 1));
        schedule.polled(&out, Polled::GoOn, ms(20));
        assert_eq!(schedule.due(ms(20)), Some(out));
    }

    #[test]
    fn a_finished_shard_is_polled_no_more() {
        let mut schedule = schedule(2);
        let out = schedule.due(ms(0)).unwrap();
        schedule.remove(&out);
        schedule.polled(&out, Polled::GoOn, ms(0));
        schedule.remove(&id(1));
        assert_eq!((schedule.next_due(), schedule.due(ms(99)), schedule.polls_out()), (None, None, 0));
    }

    fn arb_outcome() -> impl Strategy<Value = Polled> {
        prop_oneof![
            4 => Just(Polled::GoOn),
            1 => Just(Polled::Some),
            2 => Just(Polled::Empty),
            1 => (0u64..5_000).prop_map(|wait| Polled::Failed { wait: ms(wait) }),
        ]
    }

    proptest! {
        /// A turn: every free slot takes a due shard, then all polls that are out come back.
        #[test]
        fn a_due_shard_is_served_within_as_many_turns_as_the_slots_need_for_all(
            shards in 1usize..30,
            slots in 1usize..8,
            turns in prop::collection::vec((0u64..400, prop::collection::vec(arb_outcome(), 8)), 1..60),
        ) {
            let mut schedule = schedule(shards);
            let (mut now, mut overdue) = (Duration::ZERO, HashMap::<ShardId, usize>::new());
            for (passes, outcomes) in turns {
                let waiting: Vec<_> = schedule.queue.iter().filter(|(due, ..)| *due <= now).map(|(.., id)| id.clone()).collect();
                waiting.into_iter().for_each(|shard| *overdue.entry(shard).or_default() += 1);
                let taken: Vec<_> = std::iter::from_fn(|| schedule.due(now)).take(slots).collect();
                prop_assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len());
                for shard in &taken {
                    let waited = overdue.remove(shard).unwrap();
                    prop_assert!(waited <= shards.div_ceil(slots), "{} waited {} turns", shard, waited);
                }
                now += ms(passes);
                for (shard, outcome) in taken.iter().zip(outcomes) {
                    schedule.polled(shard, outcome, now);
                }
                prop_assert!(overdue.values().all(|waited| *waited <= shards.div_ceil(slots)));
                prop_assert_eq!((schedule.len(), schedule.polls_out()), (shards, 0));
            }
        }

        #[test]
        fn any_order_of_calls_keeps_each_shard_queued_once_or_out(
            calls in prop::collection::vec((0u8..4, 0usize..5, 0u64..3_000, arb_outcome()), 0..200),
        ) {
            let mut schedule = schedule(0);
            let mut out = BTreeSet::new();
            for (call, shard, at, outcome) in calls {
                let shard = id(shard);
                match call {
                    0 => schedule.add(shard, ms(at)),
                    1 => schedule.remove(&shard),
                    2 => if let Some(shard) = schedule.due(ms(at)) {
                        prop_assert!(out.insert(shard), "two polls of one shard");
                    },
                    _ => {
                        if out.remove(&shard) {
                            schedule.polled(&shard, outcome, ms(at));
                        }
                    }
                }
                prop_assert!(schedule.each_shard_is_queued_once_or_out());
                prop_assert_eq!(schedule.polls_out(), out.len());
            }
        }
    }
}
