//! The orders of events between two workers, a link of two trees and its two parts, as the protocol has them.
//!
//! Each step is one read or one guarded write of the table, or one thing that a worker does by what it knows. A worker whose
//! session lapses sends nothing from then on (`lease` says why), but what it was about to *commit* may be carried out at any
//! later time: a leader of long ago goes on making parts, dividing, merging and removing. That one of two workers takes a
//! lease only when the other one let go or has lapsed is taken for granted here, too.
//!
//! The promises: no key may be sent by two; whoever begins to send a key goes on exactly where it was left, whoever left it;
//! and as long as a write of somebody who did not drain may land, the state that the key's next owner takes over says so.

use std::collections::HashSet;

/// A worker, or a key, which is a tree, which is a part.
type Index = usize;

/// Take-overs of the link after which a state is not followed any more.
const MOST_EPOCHS: u8 = 4;
/// The same of a part.
const MOST_TAKES: u8 = 3;
/// Writes of a key.
const MOST_WRITES: u8 = 2;

/// How far a key is in some rows, and what these say of writes that may land.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Books {
    at: u8,
    is_open: bool,
    owes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Part {
    owner: Option<Index>,
    takes: u8,
    books: Books,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Row {
    Whole,
    Divided { epoch: u8, is_recalled: bool },
}

/// What a worker does as the link's owner, or did, and may still try to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lead {
    Taken(Row),
    Whole([u8; 2]),
    Dividing { made: usize },
    Leading { epoch: u8 },
    Collecting { epoch: u8, has: [Option<Books>; 2] },
    Merging { epoch: u8, has: [Books; 2], written: usize },
    Removing { epoch: u8, removed: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Work {
    /// The part is taken, and the row not looked at since.
    Taken {
        epoch: u8,
        take: u8,
        at: u8,
    },
    Sends {
        epoch: u8,
        take: u8,
        at: u8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Mind {
    has_lapsed: bool,
    /// Its epoch as the link's owner, and what it does.
    lead: Option<(u8, Lead)>,
    /// The division that it saw last in the row.
    saw: Option<u8>,
    work: [Option<Work>; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    row: Row,
    /// The link's head.
    owner: Option<Index>,
    epoch: u8,
    link: [Books; 2],
    /// By the epoch that they are named by.
    parts: [[Option<Part>; 2]; MOST_EPOCHS as usize + 1],
    minds: [Mind; 2],
    /// What was ever written of each key, and whether a write of somebody who did not drain may land.
    written: [u8; 2],
    ghosts: [bool; 2],
}

/// What is varied: the protocol as it is, or one that is wrong on purpose.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// Who has taken a part looks at the row before it works.
    looks_again: bool,
    /// The leader takes no part while its own process works on one.
    waits_for_own: bool,
    /// A division is named by its owner's epoch; else all by the same name.
    names_by_epoch: bool,
    /// What a part's rows say of late writes goes to the link.
    merges_debts: bool,
    /// A link is divided only when no late write may land.
    waits_for_debts: bool,
}

const AS_IT_IS: Rules =
    Rules { looks_again: true, waits_for_own: true, names_by_epoch: true, merges_debts: true, waits_for_debts: true };

impl State {
    const FIRST: Self = Self {
        row: Row::Whole,
        owner: None,
        epoch: 0,
        link: [Books { at: 0, is_open: false, owes: false }; 2],
        parts: [[None; 2]; MOST_EPOCHS as usize + 1],
        minds: [Mind { has_lapsed: false, lead: None, saw: None, work: [None; 2] }; 2],
        written: [0; 2],
        ghosts: [false; 2],
    };

    /// The same, divided by an owner that let go.
    fn divided() -> Self {
        let part = Some(Part { owner: None, takes: 0, books: Books::default() });
        let mut state = Self { row: Row::Divided { epoch: 1, is_recalled: false }, epoch: 1, ..Self::FIRST };
        state.parts[1] = [part; 2];
        state
    }

    /// The same, led by one worker that works on one of the parts.
    fn at_work() -> Self {
        let mut state = Self { owner: Some(0), epoch: 2, ..Self::divided() };
        let books = Books { is_open: true, ..Books::default() };
        state.parts[1][0] = Some(Part { owner: Some(0), takes: 1, books });
        let work = [Some(Work::Sends { epoch: 1, take: 1, at: 0 }), None];
        state.minds[0] = Mind { lead: Some((2, Lead::Leading { epoch: 1 })), saw: Some(1), work, ..Mind::default() };
        state
    }

    fn part(&self, epoch: u8, key: Index) -> Option<Part> {
        self.parts[usize::from(epoch)][key]
    }

    /// How far a worker is with a key that it may send now.
    fn may_send(&self, worker: Index, key: Index) -> Option<u8> {
        let mind = &self.minds[worker];
        let as_leader = match mind.lead {
            Some((_, Lead::Whole(at))) => Some(at[key]),
            _ => None,
        };
        let by_part = match mind.work[key] {
            Some(Work::Sends { at, .. }) => Some(at),
            _ => None,
        };
        as_leader.or(by_part).filter(|_| !mind.has_lapsed)
    }

    /// What the next owner of a key takes over.
    fn books(&self, key: Index) -> Option<Books> {
        match self.row {
            Row::Whole => Some(self.link[key]),
            Row::Divided { epoch, .. } => self.part(epoch, key).map(|part| part.books),
        }
    }

    fn holds_promise(&self) -> bool {
        (0..2).all(|key| {
            let senders: Vec<u8> = (0..2).filter_map(|worker| self.may_send(worker, key)).collect();
            let is_known = self.books(key).is_some_and(|books| books.owes || books.is_open);
            senders.len() <= 1 && senders.iter().all(|at| *at == self.written[key]) && (!self.ghosts[key] || is_known)
        })
    }

    /// Whether this worker may take a lease of that owner.
    fn is_free(&self, owner: Option<Index>, worker: Index) -> bool {
        owner.is_none_or(|owner| owner == worker || self.minds[owner].has_lapsed)
    }

    fn is_leader(&self, worker: Index, epoch: u8) -> bool {
        self.owner == Some(worker) && self.epoch == epoch
    }

    fn has_part(&self, worker: Index, key: Index, epoch: u8, take: u8) -> bool {
        self.part(epoch, key).is_some_and(|part| part.owner == Some(worker) && part.takes == take)
    }
}

impl Rules {
    fn name(self, epoch: u8) -> u8 {
        if self.names_by_epoch { epoch } else { 1 }
    }

    fn next(self, state: &State) -> Vec<State> {
        let mut all = Vec::new();
        for key in 0..2 {
            if state.ghosts[key] {
                // It lands, or can no more.
                let mut next = *state;
                next.ghosts[key] = false;
                all.push(next);
            }
        }
        for worker in 0..2 {
            self.live(state, worker, &mut all);
            self.lead(state, worker, &mut all);
            (0..2).for_each(|key| self.work(state, worker, key, &mut all));
        }
        all
    }

    /// Sessions, and looks at the row.
    fn live(self, state: &State, worker: Index, all: &mut Vec<State>) {
        let mut next = *state;
        let mind = &mut next.minds[worker];
        if mind.has_lapsed {
            // Whatever it did is over; it begins anew.
            *mind = Mind::default();
            all.push(next);
            return;
        }
        for key in 0..2 {
            // Both keep what they sent on the wire.
            next.ghosts[key] |= state.may_send(worker, key).is_some_and(|at| at > 0);
        }
        next.minds[worker].has_lapsed = true;
        all.push(next);
        let saw = match state.row {
            Row::Divided { epoch, is_recalled: false } => Some(epoch),
            Row::Whole | Row::Divided { .. } => None,
        };
        let mut next = *state;
        next.minds[worker].saw = saw;
        all.push(next);
        if state.minds[worker].lead.is_none() && state.epoch < MOST_EPOCHS && state.is_free(state.owner, worker) {
            let mut next = *state;
            (next.owner, next.epoch) = (Some(worker), state.epoch + 1);
            next.minds[worker].lead = Some((next.epoch, Lead::Taken(state.row)));
            all.push(next);
        }
    }

    /// The next step of a leader, or of one that was.
    fn lead(self, state: &State, worker: Index, all: &mut Vec<State>) {
        let mind = state.minds[worker];
        let Some((epoch, lead)) = mind.lead else { return };
        let mut next = *state;
        let is_leader = state.is_leader(worker, epoch);
        let after = match lead {
            Lead::Taken(Row::Whole) if is_leader && !mind.has_lapsed => {
                for books in &mut next.link {
                    books.owes |= books.is_open;
                    books.is_open = true;
                }
                Some(Lead::Whole(state.link.map(|books| books.at)))
            }
            Lead::Taken(Row::Divided { epoch: of, is_recalled: false }) => Some(Lead::Leading { epoch: of }),
            Lead::Taken(Row::Divided { epoch: of, is_recalled: true }) => {
                Some(Lead::Collecting { epoch: of, has: [None; 2] })
            }
            Lead::Taken(Row::Whole) => None,
            Lead::Whole(at) => {
                self.send_whole(state, worker, epoch, at, all);
                let owes = state.link.iter().any(|books| books.owes);
                if !is_leader || mind.has_lapsed || (self.waits_for_debts && owes) {
                    return;
                }
                next.link.iter_mut().for_each(|books| books.is_open = false);
                Some(Lead::Dividing { made: 0 })
            }
            Lead::Dividing { made: 2 } => {
                if is_leader {
                    next.row = Row::Divided { epoch: self.name(epoch), is_recalled: false };
                }
                None
            }
            // By no guard of the link's head: it may be a leader no more.
            Lead::Dividing { made } => {
                let name = usize::from(self.name(epoch));
                // Of what a link owes it is not known to which tree it belongs.
                let books = Books { at: state.link[made].at, ..Books::default() };
                if next.parts[name][made].is_none() {
                    next.parts[name][made] = Some(Part { owner: None, takes: 0, books });
                }
                Some(Lead::Dividing { made: made + 1 })
            }
            Lead::Leading { epoch: of } if is_leader => {
                next.row = Row::Divided { epoch: of, is_recalled: true };
                Some(Lead::Collecting { epoch: of, has: [None; 2] })
            }
            Lead::Leading { .. } => None,
            Lead::Collecting { epoch: of, has: [Some(one), Some(other)] } => {
                Some(Lead::Merging { epoch: of, has: [one, other], written: 0 })
            }
            Lead::Collecting { epoch: of, has } => {
                return self.collect(state, worker, (epoch, of, has), all);
            }
            Lead::Merging { epoch: of, written: 2, .. } if is_leader => {
                next.row = Row::Whole;
                Some(Lead::Removing { epoch: of, removed: 0 })
            }
            Lead::Merging { epoch: of, has, written } if is_leader => {
                let owes = self.merges_debts && (has[written].owes || has[written].is_open);
                let books = &mut next.link[written];
                *books = Books { at: has[written].at, is_open: false, owes: books.owes || owes };
                Some(Lead::Merging { epoch: of, has, written: written + 1 })
            }
            Lead::Merging { .. } => None,
            Lead::Removing { removed: 2, .. } => None,
            Lead::Removing { epoch: of, removed } => {
                next.parts[usize::from(of)][removed] = None;
                Some(Lead::Removing { epoch: of, removed: removed + 1 })
            }
        };
        next.minds[worker].lead = after.map(|lead| (epoch, lead));
        if after.is_none() && is_leader {
            next.owner = None;
        }
        all.push(next);
        if is_leader && !mind.has_lapsed {
            self.let_go(state, worker, lead, all);
        }
    }

    /// A leader that drains, and lets go of everything, whatever it was at.
    fn let_go(self, state: &State, worker: Index, lead: Lead, all: &mut Vec<State>) {
        let mut next = *state;
        if matches!(lead, Lead::Whole(_)) {
            next.link.iter_mut().for_each(|books| books.is_open = false);
        }
        if let Lead::Collecting { epoch: of, .. } | Lead::Merging { epoch: of, .. } = lead {
            for part in next.parts[usize::from(of)].iter_mut().flatten().filter(|part| part.owner == Some(worker)) {
                part.owner = None;
            }
        }
        next.owner = None;
        next.minds[worker].lead = None;
        all.push(next);
    }

    fn send_whole(self, state: &State, worker: Index, epoch: u8, at: [u8; 2], all: &mut Vec<State>) {
        for key in 0..2 {
            let mut next = *state;
            let may_send = state.may_send(worker, key).is_some() && state.is_leader(worker, epoch);
            if may_send && state.written[key] < MOST_WRITES {
                let mut now = at;
                now[key] += 1;
                (next.link[key].at, next.written[key]) = (now[key], state.written[key] + 1);
                next.minds[worker].lead = Some((epoch, Lead::Whole(now)));
                all.push(next);
            }
            if may_send && state.link[key].owes && !state.ghosts[key] {
                let mut next = *state;
                next.link[key].owes = false;
                all.push(next);
            }
        }
    }

    fn collect(
        self,
        state: &State,
        worker: Index,
        (epoch, of, has): (u8, u8, [Option<Books>; 2]),
        all: &mut Vec<State>,
    ) {
        let works_itself = state.minds[worker].work.iter().any(Option::is_some);
        if state.minds[worker].has_lapsed || (self.waits_for_own && works_itself) {
            return;
        }
        for key in (0..2).filter(|key| has[*key].is_none()) {
            let Some(part) = state.part(of, key) else { continue };
            if part.takes < MOST_TAKES && state.is_free(part.owner, worker) {
                let mut next = *state;
                let taken = Part { owner: Some(worker), takes: part.takes + 1, ..part };
                next.parts[usize::from(of)][key] = Some(taken);
                let mut has = has;
                has[key] = Some(part.books);
                next.minds[worker].lead = Some((epoch, Lead::Collecting { epoch: of, has }));
                all.push(next);
            }
        }
    }

    /// What a worker does about one part.
    fn work(self, state: &State, worker: Index, key: Index, all: &mut Vec<State>) {
        let mind = state.minds[worker];
        let mut next = *state;
        match mind.work[key] {
            None => {
                let Some(of) = mind.saw.filter(|_| !mind.has_lapsed) else { return };
                let Some(part) = state.part(of, key) else { return };
                if part.takes >= MOST_TAKES || !state.is_free(part.owner, worker) {
                    return;
                }
                let take = part.takes + 1;
                next.parts[usize::from(of)][key] = Some(Part { owner: Some(worker), takes: take, ..part });
                next.minds[worker].work[key] = Some(Work::Taken { epoch: of, take, at: part.books.at });
                all.push(next);
            }
            Some(Work::Taken { epoch, take, at }) => {
                let is_current = state.row == Row::Divided { epoch, is_recalled: false };
                let has_it = state.has_part(worker, key, epoch, take);
                if (is_current || !self.looks_again) && has_it {
                    if let Some(part) = &mut next.parts[usize::from(epoch)][key] {
                        part.books.owes |= part.books.is_open;
                        part.books.is_open = true;
                    }
                    next.minds[worker].work[key] = Some(Work::Sends { epoch, take, at });
                    all.push(next);
                } else {
                    self.stop(state, worker, key, (epoch, take), all);
                }
            }
            Some(Work::Sends { epoch, take, at }) => {
                let may_send = state.may_send(worker, key).is_some() && state.has_part(worker, key, epoch, take);
                if may_send && state.written[key] < MOST_WRITES {
                    next.written[key] += 1;
                    if let Some(part) = &mut next.parts[usize::from(epoch)][key] {
                        part.books.at = at + 1;
                    }
                    next.minds[worker].work[key] = Some(Work::Sends { epoch, take, at: at + 1 });
                    all.push(next);
                }
                let owes = state.part(epoch, key).is_some_and(|part| part.books.owes);
                if may_send && owes && !state.ghosts[key] {
                    let mut next = *state;
                    if let Some(part) = &mut next.parts[usize::from(epoch)][key] {
                        part.books.owes = false;
                    }
                    all.push(next);
                }
                self.stop(state, worker, key, (epoch, take), all);
            }
        }
    }

    /// It drains, closes, and lets go: to hand the part over, or because of a recall.
    fn stop(self, state: &State, worker: Index, key: Index, (epoch, take): (u8, u8), all: &mut Vec<State>) {
        if state.minds[worker].has_lapsed {
            return;
        }
        let mut next = *state;
        if state.has_part(worker, key, epoch, take)
            && let Some(part) = &mut next.parts[usize::from(epoch)][key]
        {
            part.owner = None;
            part.books.is_open &= !matches!(state.minds[worker].work[key], Some(Work::Sends { .. }));
        }
        next.minds[worker].work[key] = None;
        all.push(next);
    }

    /// Visits states until there are no more, or a promise is broken. How many, and the one that breaks it.
    fn visit(self, first: State, most: usize) -> (usize, Option<State>) {
        let mut known = HashSet::from([first]);
        let mut layer = vec![first];
        while !layer.is_empty() && known.len() < most {
            let mut following = Vec::new();
            for next in layer.iter().flat_map(|state| self.next(state)) {
                if known.insert(next) {
                    if !next.holds_promise() {
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

#[test]
fn in_whatever_order_things_happen_one_worker_sends_a_key_and_knows_all_of_it() {
    for first in [State::FIRST, State::divided(), State::at_work()] {
        let (states, broken) = AS_IT_IS.visit(first, 200_000);
        assert_eq!(broken, None);
        assert!(states >= 100_000, "{states} states");
    }
}

#[test]
fn the_model_notices_each_rule_that_is_left_out() {
    let wrong = [
        ("looks again", State::at_work(), Rules { looks_again: false, ..AS_IT_IS }),
        ("waits for its own", State::at_work(), Rules { waits_for_own: false, ..AS_IT_IS }),
        ("names by epoch", State::FIRST, Rules { names_by_epoch: false, ..AS_IT_IS }),
        ("merges debts", State::at_work(), Rules { merges_debts: false, ..AS_IT_IS }),
        ("waits for debts", State::FIRST, Rules { waits_for_debts: false, ..AS_IT_IS }),
    ];
    for (rule, first, rules) in wrong {
        let (states, broken) = rules.visit(first, 400_000);
        assert!(broken.is_some(), "nobody noticed among {states} states: {rule}");
    }
}
