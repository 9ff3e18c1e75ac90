//! The orders of events between two workers and a table, with the code's own [`Session`] and [`HolderWatch`].
//!
//! Signs of life, looks and takes are sent, take effect and are answered at different times, or are lost; a worker that
//! does nothing for a while is one that is frozen, or cut off. One worker's clock runs slow by a tenth, the other's fast.
//! The promise: who may send has the link, as the table says. Time is cut into twelfths of a lease, and kept as ages, so
//! that many orders come to the same state. The states are visited in the order of the events that lead to them, fewest
//! first, up to a number.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::*;

/// Units of time in a lease.
const LEASE: u8 = 12;
const UNIT: Duration = Duration::from_millis(1_000);
/// What is older than that is past everything that a clock may still wait for.
const OLDEST: u8 = 15;
/// Take-overs and releases after which a state is not followed any more.
const MOST_EPOCHS: u8 = 3;

type Worker = usize;

/// The head of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Head {
    owner: Worker,
    epoch: u8,
    released: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Look {
    asked: u8,
    /// What was read: the head, and the number of its owner.
    read: Option<(Head, u8)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Watched {
    head: Head,
    counter: u8,
    since: u8,
}

/// One worker: all that it knows and has on the wire. Times are ages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Mind {
    /// Since its last answered sign was begun; `None`: its session has lapsed.
    session: Option<u8>,
    /// A sign on the wire: since it was begun, and whether it took effect.
    sign: Option<(u8, bool)>,
    look: Option<Look>,
    watched: Option<Watched>,
    /// A take on the wire, on the condition that the head still is this one; whether it took effect.
    take: Option<(Head, Option<bool>)>,
    /// The epoch under which it believes to have the link.
    holds: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    head: Head,
    /// The numbers of both, modulo 8: no look sees one that is eight signs old and takes it for the newest.
    counters: [u8; 2],
    minds: [Mind; 2],
}

/// What is varied: the code as it is, or one that is wrong on purpose.
#[derive(Clone, Copy)]
struct Rules {
    /// Of whom sends, in units.
    senders_lease: u8,
    /// Of whom waits.
    watchers_lease: u8,
}

const AS_IT_IS: Rules = Rules { senders_lease: LEASE, watchers_lease: LEASE };

/// How fast each worker's own clock runs.
const RATES: [f64; 2] = [0.9, 1.1];

impl Rules {
    fn times(self) -> LeaseTimes {
        LeaseTimes { lease: UNIT * u32::from(self.senders_lease) }
    }
}

struct Model {
    base: Instant,
    rules: Rules,
}

impl Model {
    /// A moment so long ago, by this worker's clock. All moments lie after the base.
    fn ago(&self, worker: Worker, age: u8) -> Moment {
        let back = UNIT.mul_f64(f64::from(OLDEST - age) * RATES[worker]);
        Moment { monotonic: self.base + back, wall: WallTime::from_secs(1_000).plus(back) }
    }

    fn now(&self, worker: Worker) -> Moment {
        self.ago(worker, 0)
    }

    fn is_live(&self, worker: Worker, session: Option<u8>) -> bool {
        let Some(age) = session else { return false };
        let sent = self.ago(worker, age);
        Session::begin(self.rules.times(), sent, sent).is_some_and(|session| session.is_live(self.now(worker)))
    }

    /// The answer of a look, by the code.
    fn judge(&self, worker: Worker, watched: Option<Watched>, asked: u8, read: (Head, u8)) -> (Option<Watched>, bool) {
        let (head, counter) = read;
        let fence = |head: Head| Fence { owner: format!("worker {}", head.owner), epoch: u64::from(head.epoch) };
        let lease = UNIT * u32::from(self.rules.watchers_lease);
        let mut watch = HolderWatch::new(lease);
        watch.seen = watched.map(|watched| Seen {
            fence: fence(watched.head),
            counter: Some(Some(u64::from(watched.counter))),
            lease,
            since: self.ago(worker, watched.since).monotonic,
            has_moved: false,
        });
        let sighting = Sighting {
            fence: Some(fence(head)),
            released: head.released,
            counter: Some(Some(u64::from(counter))),
            lease: None,
        };
        let (asked, now) = (self.ago(worker, asked).monotonic, self.now(worker).monotonic);
        match watch.look(&sighting, asked, now, &format!("worker {worker}")) {
            Chance::Free => (None, true),
            Chance::Expired => (watched, true),
            Chance::Held { .. } => {
                let is_new = watched.is_none_or(|watched| watched.head != head || watched.counter != counter);
                let since = if is_new { 0 } else { watched.map_or(0, |watched| watched.since) };
                (Some(Watched { head, counter, since }), false)
            }
        }
    }

    /// Who may send has the link.
    fn holds_promise(&self, state: &State) -> bool {
        (0..2).all(|worker| {
            let mind = &state.minds[worker];
            let may_send = mind.holds.is_some() && self.is_live(worker, mind.session);
            let has_link = state.head.owner == worker && Some(state.head.epoch) == mind.holds && !state.head.released;
            !may_send || has_link
        })
    }

    /// Everything that may happen next.
    fn next(&self, state: &State) -> Vec<State> {
        let mut all = vec![self.later(*state)];
        for worker in 0..2 {
            let change = |change: &dyn Fn(&mut State)| {
                let mut next = *state;
                change(&mut next);
                next
            };
            let mind = state.minds[worker];
            // Who only looks gives signs, too, but nobody judges by them: they begin here with the look that shows a free
            // link, for the session under which a link is held is older than that look.
            match mind.sign {
                _ if mind.holds.is_none() && mind.take.is_none() => {}
                None => all.push(change(&|next| next.minds[worker].sign = Some((0, false)))),
                Some((age, false)) => {
                    all.push(change(&|next| {
                        next.counters[worker] = (next.counters[worker] + 1) % 8;
                        next.minds[worker].sign = Some((age, true));
                    }));
                    all.push(change(&|next| next.minds[worker].sign = None));
                }
                // Answered: in time, or too late, which begins no session and goes on with none.
                Some((age, true)) => all.push(change(&|next| {
                    let mind = &mut next.minds[worker];
                    let session = mind.session.map(|last| last.min(age));
                    mind.session = session.filter(|_| self.is_live(worker, session));
                    mind.sign = None;
                })),
            }
            if mind.holds.is_some() {
                // It has drained, and lets go; or its session is over, and it stands by.
                let held = mind.holds;
                all.push(change(&|next| {
                    let mind = &mut next.minds[worker];
                    (mind.holds, mind.session, mind.sign) = (None, None, None);
                    let Head { owner, epoch, .. } = next.head;
                    if owner == worker && Some(epoch) == held {
                        next.head.released = true;
                    }
                }));
                continue;
            }
            match (mind.look, mind.take) {
                (None, None) => {
                    all.push(change(&|next| next.minds[worker].look = Some(Look { asked: 0, read: None })));
                }
                (Some(Look { asked, read: None }), None) => all.push(change(&|next| {
                    let read = Some((next.head, next.counters[next.head.owner]));
                    next.minds[worker].look = Some(Look { asked, read });
                })),
                (Some(Look { asked, read: Some(read) }), None) => all.push(change(&|next| {
                    let mind = &mut next.minds[worker];
                    let (watched, is_free) = self.judge(worker, mind.watched, asked, read);
                    (mind.watched, mind.look) = (watched, None);
                    if is_free {
                        mind.take = Some((read.0, None));
                        mind.session = Some(asked).filter(|_| self.is_live(worker, Some(asked)));
                    }
                })),
                (_, Some((seen, None))) => all.push(change(&|next| {
                    let is_same = next.head == seen;
                    if is_same {
                        next.head = Head { owner: worker, epoch: seen.epoch + 1, released: false };
                    }
                    next.minds[worker].take = Some((seen, Some(is_same)));
                })),
                (_, Some((seen, Some(has_taken)))) => all.push(change(&|next| {
                    let mind = &mut next.minds[worker];
                    (mind.take, mind.watched) = (None, None);
                    mind.holds = has_taken.then_some(seen.epoch + 1);
                    if !has_taken {
                        (mind.session, mind.sign) = (None, None);
                    }
                })),
            }
        }
        all.retain(|next| next.head.epoch <= MOST_EPOCHS);
        all
    }

    /// A unit of time goes by.
    fn later(&self, mut state: State) -> State {
        let older = |age: &mut u8| *age = (*age + 1).min(OLDEST);
        for (worker, mind) in state.minds.iter_mut().enumerate() {
            mind.session.iter_mut().for_each(older);
            mind.session = mind.session.filter(|_| self.is_live(worker, mind.session));
            mind.sign.iter_mut().for_each(|(age, _)| older(age));
            mind.look.iter_mut().for_each(|look| older(&mut look.asked));
            mind.watched.iter_mut().for_each(|watched| older(&mut watched.since));
        }
        state
    }

    /// Visits states until there are no more, or the promise is broken. How many, and the one that breaks it.
    fn visit(&self, most: usize) -> (usize, Option<State>) {
        let first = State {
            head: Head { owner: 0, epoch: 1, released: false },
            counters: [0; 2],
            minds: [Mind { session: Some(0), holds: Some(1), ..Mind::default() }, Mind::default()],
        };
        let mut known = HashSet::from([first]);
        let mut layer = vec![first];
        while !layer.is_empty() && known.len() < most {
            let mut following = Vec::new();
            for next in layer.iter().flat_map(|state| self.next(state)) {
                if known.insert(next) {
                    if !self.holds_promise(&next) {
                        return (known.len(), Some(next));
                    }
                    following.push(next);
                }
            }
            layer = following;
        }
        (known.len(), None)
    }
}

fn visit(rules: Rules, most: usize) -> (usize, Option<State>) {
    Model { base: Instant::now(), rules }.visit(most)
}

#[tokio::test(start_paused = true)]
async fn in_whatever_order_things_happen_who_may_send_has_the_link() {
    let (states, broken) = visit(AS_IT_IS, 1_500_000);
    assert_eq!(broken, None);
    assert!(states >= 100_000, "{states} states");
}

#[tokio::test(start_paused = true)]
async fn the_model_notices_who_sends_for_too_long_and_who_takes_too_early() {
    let sends_for_long = Rules { senders_lease: LEASE * 2, ..AS_IT_IS };
    assert!(visit(sends_for_long, 1_500_000).1.is_some());
    let takes_early = Rules { watchers_lease: LEASE / 2, ..AS_IT_IS };
    assert!(visit(takes_early, 1_500_000).1.is_some());
}
