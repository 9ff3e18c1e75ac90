//! The lanes against what was promised, and against a sequential model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LIMITS: BatchLimits = BatchLimits { writes: 25, bytes: 1 << 20, reads: 8 };

fn key(name: u8) -> Key {
    Key { canonical: CanonicalKey::from_canonical([name]), json: format!("{{\"pk\":{{\"S\":\"{name}\"}}}}").into() }
}

fn image(text: &str) -> RawItem {
    RawItem::new(text.to_owned().into())
}

fn put(text: &str) -> ChangeOp {
    ChangeOp::Put(image(text))
}

fn written(ready: &Ready<u32>) -> Vec<Option<String>> {
    let text = |image: &RawItem| String::from_utf8(image.json().to_vec()).unwrap();
    ready.writes.iter().map(|write| write.image.as_ref().map(text)).collect()
}

fn dropped(items: Vec<(CanonicalKey, Tokens<u32>)>) -> Vec<u32> {
    items.into_iter().flat_map(|(_, tokens)| tokens.into_iter()).collect()
}

fn sorted(tokens: Tokens<u32>) -> Vec<u32> {
    let mut tokens: Vec<_> = tokens.into_iter().collect();
    tokens.sort_unstable();
    tokens
}

#[test]
fn the_next_write_of_a_key_waits_for_the_one_on_the_wire() {
    let mut lanes = Lanes::new();
    lanes.push_change(key(1), put("a"), 1);
    assert_eq!(lanes.take(LIMITS).unwrap().writes.len(), 1);
    lanes.push_change(key(1), put("b"), 2);
    assert!(lanes.take(LIMITS).unwrap().writes.is_empty());
    assert_eq!(sorted(lanes.acknowledge(&key(1).canonical).unwrap()), [1]);
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [Some("b".to_owned())]);
}

#[test]
fn queued_changes_coalesce_and_the_last_settles_them_all() {
    let mut lanes = Lanes::new();
    for (n, text) in ["a", "b", "c"].into_iter().enumerate() {
        lanes.push_change(key(1), put(text), u32::try_from(n).unwrap());
    }
    lanes.push_change(key(1), ChangeOp::Delete, 3);
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [None]);
    assert_eq!(sorted(lanes.acknowledge(&key(1).canonical).unwrap()), [0, 1, 2, 3]);
    assert!(lanes.is_empty());
}

#[test]
fn a_sync_is_not_crossed_by_coalescing() {
    let mut lanes = Lanes::new();
    lanes.push_change(key(1), put("a"), 1);
    lanes.push_sync(key(1), 2);
    lanes.push_change(key(1), put("b"), 3);
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [Some("a".to_owned())]);
    lanes.acknowledge(&key(1).canonical).unwrap();
    let ready = lanes.take(LIMITS).unwrap();
    assert_eq!((ready.reads.len(), ready.writes.len()), (1, 0));
    lanes.sync_read(&key(1).canonical, Some(image("now"))).unwrap();
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [Some("now".to_owned())]);
    assert_eq!(sorted(lanes.acknowledge(&key(1).canonical).unwrap()), [2]);
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [Some("b".to_owned())]);
}

#[test]
fn an_unprocessed_write_goes_first_again_or_gives_way_to_a_newer_image() {
    let mut lanes = Lanes::new();
    lanes.push_change(key(1), put("a"), 1);
    lanes.take(LIMITS).unwrap();
    lanes.put_back(&key(1).canonical).unwrap();
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [Some("a".to_owned())]);
    lanes.push_change(key(1), put("b"), 2);
    lanes.put_back_in_doubt(&key(1).canonical).unwrap();
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [Some("b".to_owned())]);
    assert_eq!(sorted(lanes.acknowledge(&key(1).canonical).unwrap()), [1, 2]);
}

#[test]
fn a_sync_in_doubt_reads_again() {
    let mut lanes = Lanes::new();
    lanes.push_sync(key(1), 1);
    lanes.take(LIMITS).unwrap();
    lanes.sync_read(&key(1).canonical, Some(image("old"))).unwrap();
    lanes.take(LIMITS).unwrap();
    lanes.put_back_in_doubt(&key(1).canonical).unwrap();
    assert_eq!(lanes.take(LIMITS).unwrap().reads.len(), 1);
}

fn load(lanes: &mut Lanes<u32>, page: PageNumber, name: u8, text: &str, token: u32) {
    lanes.push_page(page, [(key(name), Some(image(text)), token)].into_iter()).unwrap();
}

#[test]
fn a_load_item_is_dropped_when_its_key_was_executed_since_its_page_was_requested() {
    let mut lanes = Lanes::new();
    let page = lanes.open_page();
    lanes.push_change(key(1), ChangeOp::Delete, 1);
    lanes.take(LIMITS).unwrap();
    lanes.acknowledge(&key(1).canonical).unwrap();
    load(&mut lanes, page, 1, "stale", 2);
    let ready = lanes.take(LIMITS).unwrap();
    assert!(ready.writes.is_empty());
    assert_eq!(dropped(ready.dropped), [2]);
    assert_eq!((lanes.is_empty(), lanes.remembers()), (true, 0));
}

#[test]
fn a_load_item_behind_a_change_on_the_wire_is_dropped() {
    let mut lanes = Lanes::new();
    lanes.push_change(key(1), ChangeOp::Delete, 1);
    lanes.take(LIMITS).unwrap();
    let page = lanes.open_page();
    load(&mut lanes, page, 1, "stale", 2);
    lanes.acknowledge(&key(1).canonical).unwrap();
    assert_eq!(dropped(lanes.take(LIMITS).unwrap().dropped), [2]);
}

#[test]
fn a_load_item_is_written_when_its_key_was_executed_before_its_page_was_requested() {
    let mut lanes = Lanes::new();
    lanes.push_change(key(1), put("a"), 1);
    lanes.take(LIMITS).unwrap();
    lanes.acknowledge(&key(1).canonical).unwrap();
    let page = lanes.open_page();
    load(&mut lanes, page, 1, "read later", 2);
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [Some("read later".to_owned())]);
}

#[test]
fn a_refused_change_does_not_drop_the_load_item() {
    let mut lanes = Lanes::new();
    let page = lanes.open_page();
    lanes.push_change(key(1), put("poison"), 1);
    lanes.take(LIMITS).unwrap();
    lanes.give_up(&key(1).canonical).unwrap();
    load(&mut lanes, page, 1, "loaded", 2);
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [Some("loaded".to_owned())]);
}

#[test]
fn a_change_takes_the_place_of_a_queued_load_item_and_settles_it() {
    let mut lanes = Lanes::new();
    let page = lanes.open_page();
    load(&mut lanes, page, 1, "loaded", 1);
    lanes.push_change(key(1), ChangeOp::Delete, 2);
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [None]);
    assert_eq!(sorted(lanes.acknowledge(&key(1).canonical).unwrap()), [1, 2]);
}

#[test]
fn only_keys_touched_since_the_oldest_open_page_are_remembered() {
    let mut lanes = Lanes::new();
    let oldest = lanes.open_page();
    for n in 0..100 {
        lanes.push_change(key(n), put("x"), 0);
        lanes.take(LIMITS).unwrap();
        lanes.acknowledge(&key(n).canonical).unwrap();
    }
    let newest = lanes.open_page();
    assert_eq!(lanes.remembers(), 100);
    lanes.abandon_page(oldest);
    assert_eq!(lanes.remembers(), 0);
    lanes.abandon_page(newest);
}

#[test]
fn a_batch_keeps_to_its_bytes_but_a_single_large_write_passes() {
    let mut lanes = Lanes::new();
    for n in 0..4 {
        lanes.push_change(key(n), put(&"x".repeat(600)), 0);
    }
    let limits = BatchLimits { writes: 25, bytes: 1000, reads: 8 };
    assert_eq!(lanes.take(limits).unwrap().writes.len(), 1);
    assert_eq!(lanes.take(BatchLimits { bytes: 10, ..limits }).unwrap().writes.len(), 1);
    assert_eq!(lanes.take(BatchLimits { bytes: 5000, ..limits }).unwrap().writes.len(), 2);
}

#[test]
fn an_answer_for_a_key_that_was_not_sent_is_an_error() {
    let mut lanes: Lanes<u32> = Lanes::new();
    assert!(lanes.acknowledge(&key(1).canonical).is_err());
    lanes.push_change(key(1), put("a"), 1);
    assert!(lanes.acknowledge(&key(1).canonical).is_err());
    assert!(lanes.sync_read(&key(1).canonical, None).is_err());
}

fn rule<T: std::fmt::Debug>(result: Result<T, LaneError>) -> Invariant {
    match result.unwrap_err() {
        LaneError::Violation(violation) => violation.rule,
        LaneError::Page(what) => panic!("{what}"),
    }
}

#[test]
fn a_key_on_the_wire_is_never_sent_again_and_never_forgotten() {
    let mut lanes = Lanes::new();
    lanes.push_change(key(1), put("a"), 1);
    lanes.take(LIMITS).unwrap();
    lanes.push_change(key(1), put("b"), 2);
    // As if it had been told to be ready twice.
    lanes.ready.push_back(key(1).canonical);
    assert_eq!(rule(lanes.take(LIMITS)), Invariant::L1);
    assert_eq!(sorted(lanes.acknowledge(&key(1).canonical).unwrap()), [1]);
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [Some("b".to_owned())]);
    assert_eq!(rule(lanes.put_back(&key(2).canonical)), Invariant::L1);
}

#[test]
fn what_may_have_been_done_without_an_answer_is_remembered_until_it_is_settled() {
    let mut lanes = Lanes::new();
    lanes.push_change(key(1), put("a"), 1);
    lanes.take(LIMITS).unwrap();
    lanes.put_back(&key(1).canonical).unwrap();
    lanes.take(LIMITS).unwrap();
    lanes.put_back_in_doubt(&key(1).canonical).unwrap();
    lanes.push_change(key(1), put("b"), 2);
    assert_eq!(written(&lanes.take(LIMITS).unwrap()), [Some("b".to_owned())]);
    assert!(lanes.acknowledge(&key(1).canonical).unwrap().are_doubtful(), "also by the one that took its place");
    lanes.push_change(key(1), put("c"), 3);
    lanes.take(LIMITS).unwrap();
    assert!(!lanes.acknowledge(&key(1).canonical).unwrap().are_doubtful());

    let page = lanes.open_page();
    load(&mut lanes, page, 2, "loaded", 4);
    lanes.take(LIMITS).unwrap();
    lanes.put_back_in_doubt(&key(2).canonical).unwrap();
    let ready = lanes.take(LIMITS).unwrap();
    assert_eq!(ready.writes.len(), 1);
    assert!(lanes.acknowledge(&key(2).canonical).unwrap().are_doubtful());
}

/// A step of a random run. Keys are few, so that operations meet.
#[derive(Debug, Clone)]
enum Step {
    SourcePut(u8),
    SourceDelete(u8),
    Deliver,
    Sync(u8),
    OpenPage,
    ReadPage,
    Take,
    Answer(u8, Answer),
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Done,
    NotDone,
    DoneButLost,
    NotDoneButLost,
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..5u8;
    prop_oneof![
        4 => name.clone().prop_map(Step::SourcePut),
        2 => name.clone().prop_map(Step::SourceDelete),
        6 => Just(Step::Deliver),
        1 => name.clone().prop_map(Step::Sync),
        1 => Just(Step::OpenPage),
        1 => Just(Step::ReadPage),
        6 => Just(Step::Take),
        8 => (name, prop_oneof![
            5 => Just(Answer::Done),
            1 => Just(Answer::NotDone),
            1 => Just(Answer::DoneButLost),
            1 => Just(Answer::NotDoneButLost),
        ]).prop_map(|(name, answer)| Step::Answer(name, answer)),
    ]
}

/// The world around the lanes: a source with a log, a target, and what is on the wire.
#[derive(Default)]
struct World {
    source: BTreeMap<u8, u32>,
    log: VecDeque<(u8, Option<u32>)>,
    target: BTreeMap<u8, u32>,
    on_wire: BTreeMap<u8, Option<u32>>,
    reading: BTreeSet<u8>,
    version: u32,
    delivered: u32,
    settled: BTreeSet<u32>,
    open: Option<PageNumber>,
}

impl World {
    fn settle(&mut self, tokens: impl IntoIterator<Item = u32>) {
        for token in tokens {
            assert!(self.settled.insert(token), "token {token} settled twice");
        }
    }

    fn next_token(&mut self) -> u32 {
        self.delivered += 1;
        self.delivered
    }

    fn run(&mut self, lanes: &mut Lanes<u32>, step: Step) {
        match step {
            Step::SourcePut(name) => {
                self.version += 1;
                self.source.insert(name, self.version);
                self.log.push_back((name, Some(self.version)));
            }
            Step::SourceDelete(name) => {
                self.source.remove(&name);
                self.log.push_back((name, None));
            }
            Step::Deliver => {
                if let Some((name, version)) = self.log.pop_front() {
                    let token = self.next_token();
                    let op = version.map_or(ChangeOp::Delete, |v| put(&v.to_string()));
                    lanes.push_change(key(name), op, token);
                }
            }
            Step::Sync(name) => {
                let token = self.next_token();
                lanes.push_sync(key(name), token);
            }
            Step::OpenPage => self.open = self.open.or_else(|| Some(lanes.open_page())),
            Step::ReadPage => {
                if let Some(page) = self.open.take() {
                    let items: Vec<_> = self
                        .source
                        .clone()
                        .into_iter()
                        .map(|(n, v)| (key(n), Some(image(&v.to_string())), self.next_token()))
                        .collect();
                    lanes.push_page(page, items.into_iter()).unwrap();
                }
            }
            Step::Take => {
                let ready = lanes.take(BatchLimits { writes: 2, bytes: 1 << 20, reads: 1 }).unwrap();
                self.settle(dropped(ready.dropped));
                for write in ready.writes {
                    let version = write.image.map(|i| std::str::from_utf8(i.json()).unwrap().parse().unwrap());
                    let name = *write.key.canonical.as_bytes().first().unwrap();
                    assert!(self.on_wire.insert(name, version).is_none(), "two writes of one key on the wire");
                }
                for read in ready.reads {
                    assert!(self.reading.insert(*read.canonical.as_bytes().first().unwrap()));
                }
            }
            Step::Answer(name, answer) => self.answer(lanes, name, answer),
        }
    }

    fn answer(&mut self, lanes: &mut Lanes<u32>, name: u8, answer: Answer) {
        let canonical = key(name).canonical;
        if self.reading.remove(&name) {
            match answer {
                Answer::Done => {
                    let version = self.source.get(&name).map(|v| image(&v.to_string()));
                    lanes.sync_read(&canonical, version).unwrap();
                }
                _ => lanes.put_back(&canonical).unwrap(),
            }
        } else if let Some(version) = self.on_wire.remove(&name) {
            if matches!(answer, Answer::Done | Answer::DoneButLost) {
                match version {
                    Some(version) => self.target.insert(name, version),
                    None => self.target.remove(&name),
                };
            }
            match answer {
                Answer::Done => {
                    let tokens: Vec<_> = lanes.acknowledge(&canonical).unwrap().into_iter().collect();
                    self.settle(tokens);
                }
                Answer::NotDone => lanes.put_back(&canonical).unwrap(),
                Answer::DoneButLost | Answer::NotDoneButLost => lanes.put_back_in_doubt(&canonical).unwrap(),
            }
        }
    }

    fn drain(&mut self, lanes: &mut Lanes<u32>) {
        while !self.log.is_empty() {
            self.run(lanes, Step::Deliver);
        }
        self.run(lanes, Step::ReadPage);
        for _ in 0..1000 {
            self.run(lanes, Step::Take);
            for name in 0..5 {
                self.answer(lanes, name, Answer::Done);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// With a load, syncs, lost answers and unprocessed writes in any order: the target ends as the source, every token is
    /// settled exactly once, and no key ever has two writes on the wire.
    #[test]
    fn the_target_converges_and_nothing_is_left(steps in prop::collection::vec(step(), 0..120)) {
        let mut lanes = Lanes::new();
        let mut world = World::default();
        for step in steps {
            world.run(&mut lanes, step);
            prop_assert!(lanes.has_one_in_flight_per_key());
        }
        world.drain(&mut lanes);
        prop_assert!(lanes.is_empty());
        prop_assert_eq!(&world.target, &world.source);
        prop_assert_eq!(world.settled.len(), world.delivered as usize);
        prop_assert_eq!(lanes.remembers(), 0);
    }
}
