//! Random forests that split, roll over, are trimmed and show up late, against what really happened.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::model::SequenceNumber;
use crate::stream::LossCause;
use crate::stream::gaps::{GapCause, GapScope};
use crate::stream::listing::{Listed, Lister};
use crate::stream::source::ListingPage;

#[derive(Debug, Clone)]
enum Op {
    /// Close an open shard; one child is a roll-over, two a split. Bits say which children show up late.
    Close { pick: u8, children: u8, late: u8 },
    /// A late shard shows up.
    Reveal { pick: u8 },
    /// The oldest closed shard of some line leaves the stream.
    Trim { pick: u8 },
    /// A full listing, shuffled, paged, with stale duplicates; perhaps cut off by a crash.
    List { seed: u64, page: u8, crash: Crash },
    /// CHILD_SHARDS of a shard, which answers some or, unfiltered, all.
    Children { pick: u8, mask: u8 },
    /// Begin a readable shard, and read it to its end if that has come.
    Read { pick: u8, to_end: bool },
    /// The process starts again from its rows.
    Restart,
    /// Two days pass, and old rows are dropped.
    TwoDays,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    No,
    AfterFirstRow,
    BeforeResolve,
}

struct Shard {
    id: ShardId,
    parent: Option<usize>,
    open: bool,
    visible: bool,
    trimmed: bool,
    /// Existed when the first pin was taken but was gone already.
    before_history: bool,
}

struct World {
    shards: Vec<Shard>,
    /// Whether a child may be listed before its parent ever was.
    late_parents: bool,
    rows: BTreeMap<ShardId, LineageRow>,
    lineage: Lineage,
    begun: Vec<ShardId>,
    read_to_end: BTreeSet<ShardId>,
    gaps: BTreeSet<(GapScope, GapCause)>,
    now: WallTime,
}

fn nth<T: Clone>(from: &[T], pick: u8) -> Option<T> {
    (!from.is_empty()).then(|| from[usize::from(pick) % from.len()].clone())
}

impl World {
    fn new(roots: usize, late_parents: bool, history: &[Op]) -> Self {
        let mut world = Self {
            shards: Vec::new(),
            late_parents,
            rows: BTreeMap::new(),
            lineage: Lineage::default(),
            begun: Vec::new(),
            read_to_end: BTreeSet::new(),
            gaps: BTreeSet::new(),
            now: WallTime::from_secs(1_800_000_000),
        };
        (0..roots).for_each(|_| world.give_birth(None, true));
        for op in history {
            match op {
                Op::Close { pick, children, .. } => world.close(*pick, *children, 0),
                Op::Trim { pick } => world.trim(*pick),
                _ => {}
            }
        }
        world.shards.iter_mut().for_each(|shard| shard.before_history = shard.trimmed);
        let (lineage, new_shards) = Lineage::pin(&world.listing(7, 3), world.now).unwrap();
        world.lineage = lineage;
        for new in &new_shards {
            world.save_new(new);
            if new.status == ShardStatus::Reading {
                world.note_begin(&new.id);
            }
        }
        world
    }

    fn give_birth(&mut self, parent: Option<usize>, visible: bool) {
        let number = self.shards.len() + 1;
        let id = ShardId::new(format!("{:04x}-{number}", number * 7919 % 10_007));
        let shard = Shard { id, parent, open: true, visible, trimmed: false, before_history: false };
        self.shards.push(shard);
    }

    fn close(&mut self, pick: u8, children: u8, late: u8) {
        let open: Vec<_> = (0..self.shards.len()).filter(|i| self.shards[*i].open).collect();
        let Some(parent) = nth(&open, pick) else { return };
        if self.shards.len() > 60 {
            return;
        }
        self.shards[parent].open = false;
        for child in 0..1 + children % 2 {
            let visible = late & (1 << child) == 0 && (self.late_parents || self.shards[parent].visible);
            self.give_birth(Some(parent), visible);
        }
    }

    fn reveal(&mut self, pick: u8) {
        let may_show = |i: &usize| {
            let shard = &self.shards[*i];
            !shard.visible && (self.late_parents || shard.parent.is_none_or(|parent| self.shards[parent].visible))
        };
        let hidden: Vec<_> = (0..self.shards.len()).filter(may_show).collect();
        if let Some(i) = nth(&hidden, pick) {
            self.shards[i].visible = true;
        }
    }

    fn trim(&mut self, pick: u8) {
        let trimmable = |i: &usize| {
            let shard = &self.shards[*i];
            !shard.open && !shard.trimmed && shard.parent.is_none_or(|parent| self.shards[parent].trimmed)
        };
        let oldest: Vec<_> = (0..self.shards.len()).filter(trimmable).collect();
        if let Some(i) = nth(&oldest, pick) {
            self.shards[i].trimmed = true;
        }
    }

    fn told(&self, shard: &Shard, stale: bool) -> ShardListing {
        let last = (!shard.open && !stale).then(|| SequenceNumber::parse("100").unwrap());
        let parent = shard.parent.map(|parent| self.shards[parent].id.clone());
        ShardListing { id: shard.id.clone(), parent, first: None, last }
    }

    fn listing(&self, seed: u64, page: u8) -> Listing {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut told: Vec<_> = self.listed().map(|shard| self.told(shard, random.u8(..4) == 0)).collect();
        let copies: Vec<_> = self.listed().filter(|_| random.u8(..5) == 0).map(|s| self.told(s, true)).collect();
        told.extend(copies);
        random.shuffle(&mut told);
        let mut lister = Lister::new();
        let mut pages: Vec<_> = told.chunks(usize::from(page % 7) + 1).collect();
        if pages.is_empty() {
            pages.push(&[]);
        }
        for (number, shards) in pages.iter().enumerate() {
            let last = number + 1 == pages.len();
            let next = Some(if last { ShardId::new("") } else { ShardId::new(format!("cursor {number}")) });
            let page = ListingPage { status: StreamStatus::Enabled, view: None, shards: shards.to_vec(), next };
            match lister.accept(page).unwrap() {
                Listed::More(more) => lister = more,
                Listed::All(listing) => return listing,
            }
        }
        unreachable!("the last page ends it")
    }

    fn listed(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter(|shard| shard.visible && !shard.trimmed)
    }

    fn index(&self, id: &ShardId) -> usize {
        self.shards.iter().position(|shard| shard.id == *id).unwrap()
    }

    fn ancestors(&self, i: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.shards[i].parent, |parent| self.shards[*parent].parent)
    }

    fn save_new(&mut self, new: &NewShard) {
        let NewShard { id, parent, status, .. } = new.clone();
        let row = LineageRow { id: id.clone(), parent, status, last_listed: self.now, lost: false };
        assert!(self.rows.insert(id, row).is_none(), "a row is created once");
    }

    fn save_status(&mut self, id: &ShardId, status: ShardStatus, lost: bool) {
        let row = self.rows.get_mut(id).unwrap();
        assert!(row.status != ShardStatus::Finished, "finished is final here: no shard comes back");
        row.status = status;
        row.lost = lost;
        row.last_listed = self.now;
    }

    fn restart(&mut self) {
        self.lineage = Lineage::restore(self.rows.values().cloned());
    }

    fn open_gap(&mut self, shard: &ShardId, cause: GapCause) {
        self.gaps.insert((GapScope::Shard(shard.clone()), cause));
    }

    fn list(&mut self, seed: u64, page: u8, crash: Crash) {
        let discovery = self.lineage.merge_listing(&self.listing(seed, page), self.now);
        for new in &discovery.new_shards {
            self.save_new(new);
            if crash == Crash::AfterFirstRow {
                return self.restart();
            }
        }
        for (id, at) in discovery.relisted {
            self.rows.get_mut(&id).unwrap().last_listed = at;
        }
        let mut suspects = discovery.suspects;
        while !suspects.is_empty() {
            for suspect in &suspects {
                self.open_gap(&suspect.shard, suspect.why.into());
            }
            if crash == Crash::BeforeResolve {
                return self.restart();
            }
            for suspect in &suspects {
                if let Some(status) = self.lineage.resolve(suspect, self.now) {
                    self.save_status(&suspect.shard, status, suspect.why == Suspicion::Vanished);
                    if status == ShardStatus::Reading {
                        self.note_begin(&suspect.shard);
                    }
                }
            }
            let rest = self.lineage.suspects();
            assert!(suspects.iter().all(|suspect| !rest.contains(suspect)), "resolved for good");
            suspects = rest;
        }
    }

    fn children(&mut self, pick: u8, mask: u8) {
        let known: Vec<_> = self.rows.keys().cloned().collect();
        let Some(parent) = nth(&known, pick) else { return };
        let answer: Vec<_> = self.listed().map(|shard| self.told(shard, false)).collect();
        let answer: Vec<_> =
            answer.into_iter().enumerate().filter(|(i, _)| mask >> (i % 8) & 1 == 1).map(|(_, shard)| shard).collect();
        for new in self.lineage.merge_children(&parent, &answer, self.now) {
            self.save_new(&new);
        }
    }

    /// The ancestors that the replicator can know of: where a row is missing, the chain is broken.
    fn known_ancestors(&self, i: usize) -> impl Iterator<Item = usize> {
        self.ancestors(i)
            .take_while(|ancestor| !self.late_parents || self.rows.contains_key(&self.shards[*ancestor].id))
    }

    fn note_begin(&mut self, id: &ShardId) {
        let i = self.index(id);
        assert!(!self.begun.contains(id), "{id} is begun once");
        let descends = |begun: &ShardId, from: usize| self.known_ancestors(self.index(begun)).any(|at| at == from);
        for ancestor in self.known_ancestors(i) {
            let Some(row) = self.rows.get(&self.shards[ancestor].id) else { continue };
            let too_late = self.begun.iter().any(|begun| descends(begun, ancestor));
            assert!(row.status == ShardStatus::Finished || too_late, "{id} begins before {} ends", row.id);
        }
        assert!(!self.begun.iter().any(|begun| descends(begun, i)), "{id} is read after one of its descendants");
        self.begun.push(id.clone());
    }

    fn read(&mut self, pick: u8, to_end: bool) {
        let readable: Vec<_> = self.lineage.readable().cloned().collect();
        for id in &readable {
            assert!(self.rows[id].status != ShardStatus::Finished, "{id} is finished and readable");
        }
        let Some(id) = nth(&readable, pick) else { return };
        let was_waiting = self.rows[&id].status == ShardStatus::Waiting;
        assert!(self.lineage.begin(&id));
        if was_waiting {
            self.save_status(&id, ShardStatus::Reading, false);
            self.note_begin(&id);
        }
        let shard = &self.shards[self.index(&id)];
        let (trimmed, open) = (shard.trimmed, shard.open);
        if trimmed {
            self.open_gap(&id, LossCause::ShardVanished.into());
            if self.lineage.give_up(&id, self.now) == GiveUp::Finished {
                self.save_status(&id, ShardStatus::Finished, true);
            }
        } else if to_end && !open {
            self.save_status(&id, ShardStatus::Finished, false);
            assert!(self.lineage.finish(&id, self.now));
            self.read_to_end.insert(id);
        }
    }

    fn two_days(&mut self) {
        self.now = self.now.plus(FORGET_AFTER + LISTED_GRAIN * 2);
        let old: Vec<_> = self.lineage.forgettable(self.now).cloned().collect();
        for id in old {
            assert!(self.shards[self.index(&id)].trimmed, "{id} is listed, its row stays");
            assert!(self.lineage.forget(&id, self.now));
            self.rows.remove(&id);
        }
    }

    fn step(&mut self, op: &Op) {
        self.now = self.now.plus(Duration::from_secs(60));
        match *op {
            Op::Close { pick, children, late } => self.close(pick, children, late),
            Op::Reveal { pick } => self.reveal(pick),
            Op::Trim { pick } => self.trim(pick),
            Op::List { seed, page, crash } => self.list(seed, page, crash),
            Op::Children { pick, mask } => self.children(pick, mask),
            Op::Read { pick, to_end } => self.read(pick, to_end),
            Op::Restart => self.restart(),
            Op::TwoDays => self.two_days(),
        }
        assert!(self.lineage.children_wait_for_their_parents());
        let counts = self.lineage.counts();
        let total = counts.open + counts.waiting_parent + counts.closed_pending + counts.finished;
        assert_eq!(total, self.rows.len());
    }

    /// Everything shows up, the stream comes to rest, and the reader reads all that it may.
    fn settle(&mut self) {
        (0..self.shards.len()).for_each(|_| self.reveal(0));
        self.shards.iter().for_each(|shard| assert!(shard.visible));
        loop {
            self.list(1, 5, Crash::No);
            let progress = self.rows.clone();
            for _ in 0..self.rows.len() {
                let unfinished = self.lineage.readable().position(|id| !self.shards[self.index(id)].open);
                unfinished.into_iter().for_each(|pick| self.read(u8::try_from(pick).unwrap(), true));
            }
            for pick in 0..u8::try_from(self.rows.len()).unwrap() {
                self.read(pick, false);
            }
            if progress == self.rows {
                return;
            }
        }
    }

    fn is_covered(&self, i: usize) -> bool {
        self.gaps.iter().any(|(scope, cause)| match (scope, cause) {
            (GapScope::Shard(id), GapCause::ParentUnknown) => self.ancestors(self.index(id)).any(|at| at == i),
            (GapScope::Shard(id), _) => self.index(id) == i,
            (GapScope::All, _) => true,
        })
    }

    fn check_that_nothing_is_missing(&self) {
        for (i, shard) in self.shards.iter().enumerate().filter(|(_, shard)| !shard.before_history) {
            let being_read = shard.open && self.lineage.status(&shard.id) == Some(ShardStatus::Reading);
            let read = self.begun.contains(&shard.id) && (being_read || self.read_to_end.contains(&shard.id));
            assert!(read || self.is_covered(i), "{} is neither read nor under a gap", shard.id);
            assert!(read || shard.trimmed || self.late_parents, "{} is listed, and never read", shard.id);
        }
    }
}

fn arb_op() -> impl Strategy<Value = Op> {
    let crash = prop_oneof![6 => Just(Crash::No), 1 => Just(Crash::AfterFirstRow), 1 => Just(Crash::BeforeResolve)];
    prop_oneof![
        6 => (any::<u8>(), any::<u8>(), prop_oneof![Just(0), 0u8..4]).prop_map(|(pick, children, late)| Op::Close { pick, children, late }),
        3 => any::<u8>().prop_map(|pick| Op::Reveal { pick }),
        3 => any::<u8>().prop_map(|pick| Op::Trim { pick }),
        6 => (any::<u64>(), any::<u8>(), crash).prop_map(|(seed, page, crash)| Op::List { seed, page, crash }),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(pick, mask)| Op::Children { pick, mask }),
        12 => (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(pick, to_end)| Op::Read { pick, to_end }),
        1 => Just(Op::Restart),
        1 => Just(Op::TwoDays),
    ]
}

fn run(roots: usize, late_parents: bool, history: &[Op], ops: &[Op]) -> World {
    let mut world = World::new(roots, late_parents, history);
    ops.iter().for_each(|op| world.step(op));
    world.settle();
    world.check_that_nothing_is_missing();
    world
}

proptest! {
    #[test]
    fn every_shard_is_read_once_after_its_ancestors_or_is_under_a_gap(
        roots in 1usize..4,
        history in prop::collection::vec(arb_op(), 0..20),
        ops in prop::collection::vec(arb_op(), 0..120),
    ) {
        run(roots, false, &history, &ops);
    }

    #[test]
    fn parents_that_show_up_after_their_children_are_healed_and_never_read_late(
        roots in 1usize..4,
        ops in prop::collection::vec(arb_op(), 0..120),
    ) {
        run(roots, true, &[], &ops);
    }

    #[test]
    fn no_gap_is_found_where_nothing_was_trimmed(
        roots in 1usize..4,
        history in prop::collection::vec(arb_op(), 0..20),
        ops in prop::collection::vec(arb_op(), 0..120),
    ) {
        let lossless: Vec<_> = ops.into_iter().filter(|op| !matches!(op, Op::Trim { .. } | Op::TwoDays)).collect();
        let world = run(roots, false, &history, &lossless);
        prop_assert!(world.gaps.is_empty(), "{:?}", world.gaps);
    }
}
