use std::time::Duration;

use proptest::prelude::*;

use super::reunion::Whole;
use super::*;
use crate::checkpoint::book::link_for_tests;
use crate::checkpoint::rows::{DeadLetterRow, Debt, Division, DoubtRow, GapRow, GapScope};
use crate::checkpoint::{MemoryStore, StateStore, StateWrite};
use crate::model::{CanonicalKey, SequenceNumber};
use crate::stream::{Lineage, LineageRow};

const GHOST_LIFE: Duration = Duration::from_secs(960);
const KEPT_FOR: Duration = Duration::from_secs(48 * 3600);
const DIVISION: Division = Division { epoch: 7, parts: 2, is_recalled: true, first_letter: 11, first_gap: 6 };

fn time(secs: i64) -> WallTime {
    WallTime::from_secs(secs)
}

fn number(n: u64) -> SequenceNumber {
    SequenceNumber::parse(&format!("{n:021}")).unwrap()
}

fn id(name: impl std::fmt::Display) -> ShardId {
    ShardId::new(format!("shard-{name}"))
}

fn shard(name: &str, parent: Option<&str>, status: ShardStatus) -> ShardRow {
    ShardRow {
        id: id(name),
        parent: parent.map(id),
        status,
        checkpoint: None,
        checkpoint_time: None,
        dispatch: None,
        verified_at: time(1_000),
        last_listed: time(1_000),
        debts: Vec::new(),
        is_trimmed: false,
        is_lost: false,
    }
}

fn link(clean: bool) -> LinkRow {
    LinkRow { stage: Stage::Streaming, clean, ..link_for_tests() }
}

fn state(shards: Vec<ShardRow>) -> LinkState {
    LinkState { link: Some(link(true)), shards, ..LinkState::default() }
}

fn doubt(key: &str, until: i64, under_way: bool) -> DoubtRow {
    let key_json = format!(r#"{{"pk":{{"S":"{key}"}}}}"#);
    let key = CanonicalKey::from_canonical(key.as_bytes());
    DoubtRow { key, key_json, until: time(until), page: None, under_way }
}

fn letter(id: u64, key: &str) -> DeadLetterRow {
    DeadLetterRow { id, key_json: key.to_owned(), item_json: None, reason: "no".into(), at: time(5) }
}

fn gap(id: u64, of: &str) -> GapRow {
    let scope = GapScope::Shard(self::id(of));
    GapRow { id, scope, from: None, to: time(9), cause: "trimmed".into(), healed: None }
}

use ShardStatus::{Finished, Reading, Waiting};

fn names(part: &[ShardRow]) -> Vec<&str> {
    part.iter().map(|row| row.id.as_str().trim_start_matches("shard-")).collect()
}

fn divided(shards: Vec<ShardRow>, awaited: &[&str]) -> Result<Vec<Vec<ShardRow>>, Obstacle> {
    divide(&state(shards), &awaited.iter().map(id).collect(), 2, time(2_000))
}

#[test]
fn a_shard_goes_with_its_parent_and_a_finished_parent_stays() {
    let shards = vec![
        shard("a", None, Finished),
        shard("a1", Some("a"), Reading),
        shard("a2", Some("a"), Waiting),
        shard("a1x", Some("a1"), Waiting),
        shard("a1y", Some("a1"), Waiting),
        shard("b", Some("trimmed"), Reading),
    ];
    let parts = divided(shards, &[]).unwrap();
    assert_eq!(parts.iter().map(|part| names(part)).collect::<Vec<_>>(), [vec!["a1", "a1x", "a1y"], vec!["a2", "b"]]);
    let row = |name: &str| parts.iter().flatten().find(|row| row.id == id(name)).unwrap();
    assert_eq!(row("a2").status, Reading, "its part has no row of its parent, which is finished");
    assert_eq!(row("a1x").status, Waiting);
}

#[test]
fn a_finished_shard_whose_children_are_not_known_goes_so_that_somebody_finds_them() {
    let shards = vec![shard("a", None, Finished), shard("b", None, Reading)];
    assert_eq!(divided(shards.clone(), &[]).unwrap_err(), Obstacle::OneTree);
    let parts = divided(shards, &["a"]).unwrap();
    assert_eq!(parts.iter().map(|part| names(part)).collect::<Vec<_>>(), [["b"], ["a"]]);
    assert_eq!(parts[1][0].status, Finished);
}

#[test]
fn a_shard_that_turned_up_late_takes_what_began_before_it_along() {
    // The grandparent came to light when its grandchild was read already.
    let shards = vec![
        shard("late", None, Reading),
        shard("between", Some("late"), Finished),
        shard("begun", Some("between"), Reading),
        shard("other", None, Reading),
    ];
    let parts = divided(shards, &[]).unwrap();
    assert_eq!(names(&parts[0]), ["late", "between", "begun"]);
}

#[test]
fn a_root_keeps_what_its_ancestors_prove_of_its_age() {
    let settled = |row: ShardRow, at: i64| ShardRow { checkpoint_time: Some(time(at)), ..row };
    let shards = vec![
        settled(shard("a", None, Finished), 1_500),
        settled(shard("a1", Some("a"), Finished), 1_200),
        shard("a11", Some("a1"), Waiting),
        settled(shard("b", None, Reading), 1_900),
    ];
    let parts = divided(shards, &[]).unwrap();
    let row = parts.iter().flatten().find(|row| row.id == id("a11")).unwrap();
    assert_eq!((row.verified_at, row.checkpoint_time), (time(1_500), None));
}

#[test]
fn whatever_may_concern_a_key_of_an_unknown_tree_is_an_obstacle() {
    let whole = state(vec![shard("a", None, Reading), shard("b", None, Reading)]);
    let because = |state: LinkState| divide(&state, &BTreeSet::new(), 8, time(2_000)).unwrap_err();
    assert_eq!(divide(&whole, &BTreeSet::new(), 8, time(2_000)).unwrap().len(), 2);
    let with_row = |row: LinkRow| LinkState { link: Some(row), ..whole.clone() };
    let with = |row: ShardRow| LinkState { shards: [whole.shards.clone(), vec![row]].concat(), ..whole.clone() };
    assert_eq!(because(LinkState { link: None, ..whole.clone() }), Obstacle::Stage);
    assert_eq!(because(with_row(LinkRow { stage: Stage::Loading, ..link(true) })), Obstacle::Stage);
    assert_eq!(because(with_row(LinkRow { stage: Stage::Divided(DIVISION), ..link(true) })), Obstacle::Stage);
    assert_eq!(because(with_row(link(false))), Obstacle::Unclean);
    assert_eq!(because(with_row(LinkRow { ghosts_until: Some(time(2_001)), ..link(true) })), Obstacle::Ghosts);
    let past = with_row(LinkRow { ghosts_until: Some(time(2_000)), ..link(true) });
    assert!(divide(&past, &BTreeSet::new(), 8, time(2_000)).is_ok());
    assert_eq!(because(LinkState { doubts: vec![doubt("k", 1, false)], ..whole.clone() }), Obstacle::Doubts);
    assert_eq!(because(LinkState { gaps: vec![gap(1, "a")], ..whole.clone() }), Obstacle::Gap);
    let healed = GapRow { healed: Some(time(1)), ..gap(1, "a") };
    assert!(divide(&LinkState { gaps: vec![healed], ..whole.clone() }, &BTreeSet::new(), 8, time(2_000)).is_ok());
    let debts = vec![Debt { to: number(3), until: time(1) }];
    assert_eq!(because(with(ShardRow { debts, ..shard("c", None, Reading) })), Obstacle::Debts);
    assert_eq!(because(with(ShardRow { is_lost: true, ..shard("c", None, Reading) })), Obstacle::Gap);
    assert_eq!(because(with(shard("c", Some("unknown"), Waiting))), Obstacle::Stranger);
    let circle = [shard("c", Some("d"), Reading), shard("d", Some("c"), Reading)];
    let circle = LinkState { shards: [whole.shards.clone(), circle.to_vec()].concat(), ..whole.clone() };
    assert_eq!(because(circle), Obstacle::Circle);
}

fn reunited(shards: &[ShardRow], parts: Vec<PartState>, now: i64) -> Whole {
    let clocks = Clocks { ours: time(now), aws: time(now) };
    let link = LinkRow { stage: Stage::Divided(DIVISION), ..link(true) };
    reunite((&link, DIVISION), shards, parts, clocks, (GHOST_LIFE, KEPT_FOR)).unwrap()
}

fn part(shards: Vec<ShardRow>) -> PartState {
    PartState { state: LinkState { link: Some(part_row(&link(true))), ..state(shards) }, letters: Vec::new() }
}

#[test]
fn a_part_that_was_not_closed_leaves_debts_and_doubts_to_the_link() {
    let sent = ShardRow { checkpoint: Some(number(5)), dispatch: Some(number(9)), ..shard("a", None, Reading) };
    let mut unclean = part(vec![sent.clone()]);
    unclean.state.link = Some(LinkRow { signed_ahead: Duration::from_secs(7), ..link(false) });
    unclean.state.doubts = vec![doubt("asked", 10, true), doubt("known", 11, false)];
    let whole = reunited(std::slice::from_ref(&sent), vec![unclean, part(vec![])], 5_000);
    let until = time(5_000 + 960 + 7);
    let debts = vec![Debt { to: number(9), until }];
    assert!(whole.writes.contains(&StateWrite::Shard(ShardRow { debts, ..sent })));
    assert!(whole.writes.contains(&StateWrite::Doubt(DoubtRow { until, ..doubt("asked", 10, false) })));
    assert!(whole.writes.contains(&StateWrite::Doubt(doubt("known", 11, false))));
    assert_eq!((whole.row.ghosts_until, whole.row.clean, whole.row.stage), (Some(until), true, Stage::Streaming));
}

#[test]
fn a_shard_that_its_part_forgot_is_not_read_from_where_it_was_when_the_link_was_divided() {
    let rows = [shard("old", None, Reading), shard("b", None, Reading)];
    let later = 1_000 + 49 * 3600;
    let whole = reunited(&rows, vec![part(vec![]), part(vec![rows[1].clone()])], later);
    let finished = ShardRow { status: Finished, ..rows[0].clone() };
    let gone = [StateWrite::Shard(finished), StateWrite::ForgetShard(id("old"))];
    assert_eq!(whole.writes[whole.writes.len() - 2..], gone);
    // Nobody forgets a shard that young: what became of its row is not known, and it is read from where it was.
    let whole = reunited(&rows, vec![part(vec![]), part(vec![rows[1].clone()])], 1_000 + 3600);
    assert_eq!(whole.writes, [StateWrite::Shard(rows[1].clone())]);
}

#[test]
fn a_shard_of_two_parts_is_read_again_under_a_gap() {
    let at =
        |n: u64| ShardRow { checkpoint: Some(number(n)), dispatch: Some(number(n + 2)), ..shard("a", None, Reading) };
    let done = ShardRow { status: Finished, ..at(3) };
    for parts in [[at(5), done.clone()], [done, at(5)]] {
        let whole = reunited(&[], parts.map(|row| part(vec![row])).to_vec(), 5_000);
        let shards: Vec<_> = whole.writes.iter().filter(|write| matches!(write, StateWrite::Shard(_))).collect();
        assert_eq!(shards, [&StateWrite::Shard(at(5))]);
        let opened =
            whole.writes.iter().any(|write| matches!(write, StateWrite::Gap(gap) if gap.id == DIVISION.first_gap));
        assert!(opened, "{:?}", whole.writes);
    }
}

#[test]
fn what_a_part_does_not_know_is_not_claimed_of_the_link() {
    let knows = |at: Option<i64>, expiry: Option<i64>| {
        let mut known = part(vec![]);
        let row = known.state.link.as_mut().unwrap();
        row.settled_until = at.map(time);
        row.expiry_attributes = [("ttl".to_owned(), expiry.map(time))].into();
        known
    };
    let whole = reunited(&[], vec![knows(Some(70), Some(3)), knows(Some(60), Some(4))], 100);
    assert_eq!((whole.row.settled_until, whole.row.expiry_attributes["ttl"]), (Some(time(60)), Some(time(4))));
    let whole = reunited(&[], vec![knows(Some(70), Some(3)), knows(None, None)], 100);
    assert_eq!((whole.row.settled_until, whole.row.expiry_attributes["ttl"]), (None, None));
    // The link's own row says what was so when it was divided.
    let before = LinkRow {
        expiry_attributes: [("ttl".to_owned(), None), ("older".to_owned(), Some(time(1)))].into(),
        ..link(true)
    };
    let clocks = Clocks { ours: time(100), aws: time(100) };
    let parts = vec![knows(Some(70), Some(3)), knows(Some(60), Some(4))];
    let whole = reunite((&before, DIVISION), &[], parts, clocks, (GHOST_LIFE, KEPT_FOR)).unwrap();
    let expiry = [("ttl".to_owned(), Some(time(4))), ("older".to_owned(), Some(time(1)))].into();
    assert_eq!(whole.row.expiry_attributes, expiry, "an attribute is not in use again because it was once");
    let no_part = PartState { state: LinkState::default(), letters: Vec::new() };
    let clocks = Clocks { ours: time(1), aws: time(1) };
    let of_nothing = reunite((&link(true), DIVISION), &[], vec![no_part], clocks, (GHOST_LIFE, KEPT_FOR));
    assert_eq!(of_nothing, None, "what has no row is no part, and nothing is put together of it");
}

/// A link that was divided, and its parts by now; each has so many shards that are read, below one tree.
fn grown(parts: &[usize]) -> (LinkState, Vec<LinkState>) {
    let root = |n: usize| format!("{n}");
    let roots = (0..parts.len()).map(|n| shard(&root(n), None, Reading)).collect();
    let link = LinkState { link: Some(LinkRow { stage: Stage::Divided(DIVISION), ..link(true) }), ..state(roots) };
    let of_part = |(n, shards): (usize, &usize)| {
        let children = (0..*shards).map(|child| shard(&format!("{n}-{child}"), Some(&root(n)), Reading));
        let rows = std::iter::once(shard(&root(n), None, Finished)).chain(children).collect();
        let row = LinkRow { clean: false, ..part_row(&self::link(true)) };
        LinkState { link: Some(row), ..state(rows) }
    };
    (link, parts.iter().enumerate().map(of_part).collect())
}

fn gains_by(parts: &[usize], workers: usize) -> bool {
    let (link, parts) = grown(parts);
    let anew = divide(&if_whole(&link, &parts), &BTreeSet::new(), workers * 4, time(2_000)).unwrap();
    gains(parts.iter().map(|part| part.shards.as_slice()), anew.iter().map(Vec::as_slice), workers)
}

#[test]
fn a_link_is_divided_anew_where_the_workers_that_live_would_share_it_clearly_better() {
    // It was divided when it had two shards, and these split.
    assert!(gains_by(&[32, 32], 4));
    assert!(!gains_by(&[32, 32], 2), "two workers have as much each as they would have");
    // One part has ten times as many as the others.
    assert!(gains_by(&[40, 4, 4, 4], 2) && gains_by(&[40, 4, 4, 4], 8));
    assert!(!gains_by(&[40, 40, 44, 38], 4) && !gains_by(&[12, 10, 8, 9, 11, 10, 7, 12], 2), "that is even enough");
    assert!(!gains_by(&[3, 1], 2) && !gains_by(&[4, 4], 4), "a few shards are no work");
    for parts in [&[32, 32][..], &[40, 4, 4, 4], &[100, 1], &[9, 2, 1, 1]] {
        for workers in 2..12 {
            let (link, of_parts) = grown(parts);
            let anew = divide(&if_whole(&link, &of_parts), &BTreeSet::new(), workers * 4, time(2_000)).unwrap();
            let sizes: Vec<usize> = anew.iter().map(Vec::len).collect();
            assert!(!gains_by(&sizes, workers), "{parts:?} {workers}: it would be divided anew for ever: {sizes:?}");
        }
    }
}

#[test]
fn a_link_that_could_not_be_divided_now_is_not_put_together_for_that() {
    let because = |change: &dyn Fn(&mut LinkState)| {
        let (link, mut parts) = grown(&[32, 32]);
        change(&mut parts[1]);
        divide(&if_whole(&link, &parts), &BTreeSet::new(), 16, time(2_000)).unwrap_err()
    };
    assert_eq!(because(&|part| part.doubts = vec![doubt("k", 1, false)]), Obstacle::Doubts);
    assert_eq!(because(&|part| part.link.as_mut().unwrap().ghosts_until = Some(time(2_001))), Obstacle::Ghosts);
    assert_eq!(because(&|part| part.gaps = vec![gap(1, "a")]), Obstacle::Gap);
    let debts = vec![Debt { to: number(3), until: time(1) }];
    assert_eq!(because(&|part| part.shards[1].debts.clone_from(&debts)), Obstacle::Debts);
}

#[test]
fn a_shard_that_its_part_forgot_is_nothing_to_share() {
    let (link, mut parts) = grown(&[3, 3]);
    parts[0].shards.retain(|row| row.id != id("0"));
    let whole = if_whole(&link, &parts);
    assert!(whole.shards.iter().all(|row| row.id != id("0")));
    assert_eq!(whole.shards.len(), 7);
}

/// A forest as a link has it: children after their parents, and each begun when its parent was finished; some that turned up
/// late, and whose children had begun.
fn arb_forest() -> impl Strategy<Value = (Vec<ShardRow>, BTreeSet<ShardId>)> {
    let one = (any::<prop::sample::Index>(), 0u8..10, 0u8..3, 0u64..50, 0u8..20, any::<bool>());
    prop::collection::vec(one, 1..40).prop_map(|shards| {
        let mut rows: Vec<ShardRow> = Vec::new();
        let mut awaited = BTreeSet::new();
        for (n, (parent, kind, status, checkpoint, is_odd, is_awaited)) in shards.into_iter().enumerate() {
            let parent_row = (kind < 7 && n > 0).then(|| rows[parent.index(n)].clone());
            let parent = match (&parent_row, kind) {
                (Some(row), _) => Some(row.id.clone()),
                (None, 8) => Some(id("trimmed")),
                (None, _) => None,
            };
            let may_begin = parent_row.as_ref().is_none_or(|row| row.status == Finished) || is_odd == 0;
            let is_of_unknown = parent == Some(id("trimmed"));
            let status = match status {
                0 if may_begin => Finished,
                1 if may_begin => Reading,
                _ if is_of_unknown => Reading,
                _ => Waiting,
            };
            let checkpoint = (status != Waiting && checkpoint > 0).then(|| number(checkpoint));
            let row = ShardRow { checkpoint, dispatch: checkpoint, parent, ..shard(&n.to_string(), None, status) };
            if status == Finished && is_awaited {
                awaited.insert(row.id.clone());
            }
            rows.push(row);
        }
        let has_children: BTreeSet<_> = rows.iter().filter_map(|row| row.parent.clone()).collect();
        awaited.retain(|id| !has_children.contains(id));
        (rows, awaited)
    })
}

fn ancestors<'a>(rows: &'a [ShardRow], row: &'a ShardRow) -> Vec<&'a ShardId> {
    let parent = |row: &'a ShardRow| row.parent.as_ref().and_then(|id| rows.iter().find(|other| other.id == *id));
    std::iter::successors(parent(row), |at| parent(at)).map(|row| &row.id).collect()
}

fn readable(rows: &[ShardRow]) -> BTreeSet<ShardId> {
    let rows = rows.iter().map(|row| LineageRow {
        id: row.id.clone(),
        parent: row.parent.clone(),
        status: row.status,
        last_listed: row.last_listed,
        lost: row.is_lost,
    });
    Lineage::restore(rows).readable().cloned().collect()
}

/// What may become of a part: each of its shards goes on or ends, children come, keys fall into doubt.
#[derive(Debug, Clone)]
struct Life {
    steps: Vec<(prop::sample::Index, u8)>,
    clean: bool,
    letters: u64,
    gaps: u64,
}

fn arb_life() -> impl Strategy<Value = Life> {
    let steps = prop::collection::vec((any::<prop::sample::Index>(), 0u8..5), 0..12);
    (steps, any::<bool>(), 0u64..3, 0u64..2).prop_map(|(steps, clean, letters, gaps)| Life {
        steps,
        clean,
        letters,
        gaps,
    })
}

fn lived(number_of_part: usize, shards: Vec<ShardRow>, life: &Life) -> PartState {
    let mut of_part = part(shards);
    let state = &mut of_part.state;
    for (n, (index, step)) in life.steps.iter().enumerate() {
        let at = index.index(state.shards.len());
        let row = &mut state.shards[at];
        let name = format!("{number_of_part}-{n}");
        match step {
            0 if row.status == Reading => {
                row.checkpoint = row.checkpoint.max(Some(number(100 + n as u64)));
                row.dispatch = row.checkpoint.max(row.dispatch).max(Some(number(200)));
            }
            1 if row.status == Reading => row.status = Finished,
            2 if row.status == Finished => {
                let parent = row.id.clone();
                state.shards.push(ShardRow { parent: Some(parent), ..shard(&format!("child-{name}"), None, Waiting) });
            }
            3 => state.doubts.push(doubt(&name, n as i64, n % 2 == 0)),
            _ => {}
        }
    }
    state.gaps = (1..=life.gaps).map(|n| gap(n, &format!("{number_of_part}-{n}"))).collect();
    of_part.letters = (1..=life.letters).map(|n| letter(n, &format!("{number_of_part}-{n}"))).collect();
    state.dead_letters = (life.letters, life.letters);
    if let Some(row) = &mut state.link {
        row.clean = life.clean;
    }
    of_part
}

fn now<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).expect("a store in memory answers at once")
}

async fn stored(store: &MemoryStore) -> (LinkState, Vec<DeadLetterRow>) {
    (store.read("orders").await.unwrap(), store.dead_letters("orders", 0, 1_000).await.unwrap())
}

proptest! {
    /// No shard is lost, none is in two parts, none is apart from one with which it may have keys in common.
    #[test]
    fn each_shard_that_is_to_be_read_is_in_one_part_with_all_that_may_have_its_keys(
        (rows, awaited) in arb_forest(),
        most in 2usize..6,
    ) {
        let parts = match divide(&state(rows.clone()), &awaited, most, time(2_000)) {
            Ok(parts) => parts,
            Err(obstacle) => {
                prop_assert_eq!(obstacle, Obstacle::OneTree);
                return Ok(());
            }
        };
        prop_assert!(parts.len() <= most && parts.iter().all(|part| !part.is_empty()));
        let part_of = |id: &ShardId| {
            let found: Vec<_> = (0..parts.len()).filter(|n| parts[*n].iter().any(|row| row.id == *id)).collect();
            assert!(found.len() <= 1, "{id} is in {found:?}");
            found.first().copied()
        };
        let all: usize = parts.iter().map(Vec::len).sum();
        let ids: BTreeSet<_> = parts.iter().flatten().map(|row| &row.id).collect();
        prop_assert_eq!(all, ids.len());
        for row in &rows {
            let goes = row.status != Finished || awaited.contains(&row.id);
            let at = part_of(&row.id);
            prop_assert!(!goes || at.is_some(), "{} is lost", row.id);
            for ancestor in ancestors(&rows, row) {
                let other = part_of(ancestor);
                prop_assert!(at.is_none() || other.is_none() || at == other, "{} is apart from {ancestor}", row.id);
            }
            let Some(found) = parts.iter().flatten().find(|found| found.id == row.id) else { continue };
            let is_root = row.parent.as_ref().is_none_or(|parent| part_of(parent) != at);
            let status = if is_root && row.status == Waiting { Reading } else { row.status };
            prop_assert_eq!(found, &ShardRow { status, ..row.clone() });
        }
        let apart: BTreeSet<ShardId> = parts.iter().flat_map(|part| readable(part)).collect();
        prop_assert_eq!(apart, readable(&rows), "what may be read is the same");
    }

    /// However often it breaks off, and wherever, the link has in the end what its parts had, and nothing twice; nor does
    /// whoever looks meanwhile see anything twice.
    #[test]
    fn a_link_that_is_put_together_has_all_that_its_parts_had(
        (rows, awaited) in arb_forest(),
        lives in prop::collection::vec(arb_life(), 5),
        broken_off in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let Ok(parts) = divide(&state(rows.clone()), &awaited, 5, time(2_000)) else { return Ok(()) };
        let parts: Vec<PartState> =
            parts.into_iter().zip(&lives).enumerate().map(|(n, (shards, life))| lived(n, shards, life)).collect();
        let store = MemoryStore::new();
        let (mut fence, _) = now(store.take("orders", "a")).unwrap();
        let divided = LinkRow { stage: Stage::Divided(DIVISION), ..link(true) };
        let mut begin: Vec<_> = rows.iter().cloned().map(StateWrite::Shard).collect();
        begin.extend((1..=10).map(|n| StateWrite::DeadLetter(letter(n, "own"))));
        begin.push(StateWrite::Link(divided.clone()));
        now(store.commit("orders", &fence, begin)).unwrap();
        let mut at = 5_000;
        for stop in broken_off.iter().map(Some).chain([None]) {
            let (of_link, _) = now(stored(&store));
            prop_assert_eq!(of_link.link.as_ref(), Some(&divided));
            let Whole { mut writes, row } = reunited(&of_link.shards, parts.clone(), at);
            match stop {
                Some(stop) => writes.truncate(stop.index(writes.len() + 1)),
                None => writes.push(StateWrite::Link(row)),
            }
            now(store.commit("orders", &fence, writes)).unwrap();
            let (so_far, _) = now(stored(&store));
            if so_far.link.as_ref() == Some(&divided) {
                let seen = together(so_far, DIVISION, parts.iter().map(|part| part.state.clone()).collect());
                let sum = |of: fn(&LinkState) -> usize| parts.iter().map(|part| of(&part.state)).sum::<usize>();
                let letters = 10 + parts.iter().map(|part| part.state.dead_letters.0).sum::<u64>();
                prop_assert_eq!((seen.dead_letters.0, seen.doubts.len()), (letters, sum(|part| part.doubts.len())));
                prop_assert_eq!(seen.gaps.len(), sum(|part| part.gaps.len()), "nothing is told twice");
                let ids: BTreeSet<_> = seen.shards.iter().map(|row| &row.id).collect();
                prop_assert_eq!(ids.len(), seen.shards.len());
                let is_newest = |row: &ShardRow| seen.shards.contains(row);
                prop_assert!(parts.iter().flat_map(|part| &part.state.shards).all(is_newest));
            }
            (fence, _) = now(store.take("orders", "b")).unwrap();
            at += 60;
        }
        let (whole, letters) = now(stored(&store));
        prop_assert!(whole.link.as_ref().is_some_and(|row| row.stage == Stage::Streaming && row.clean));
        let of_parts = |id: &ShardId| parts.iter().flat_map(|part| &part.state.shards).find(|row| row.id == *id);
        for row in &whole.shards {
            let known = of_parts(&row.id).or_else(|| rows.iter().find(|known| known.id == row.id)).unwrap();
            prop_assert_eq!(&ShardRow { debts: Vec::new(), ..row.clone() }, known);
        }
        let num_new = parts.iter().flat_map(|part| &part.state.shards).filter(|row| !rows.iter().any(|r| r.id == row.id));
        prop_assert_eq!(whole.shards.len(), rows.len() + num_new.count());
        for part in &parts {
            let clean = part.state.link.as_ref().unwrap().clean;
            for row in part.state.shards.iter().filter(|row| row.status != Finished && row.checkpoint < row.dispatch) {
                let debts = &whole.shards.iter().find(|found| found.id == row.id).unwrap().debts;
                let owed = debts.iter().any(|debt| Some(debt.to) >= row.dispatch && debt.until >= time(5_000 + 960));
                prop_assert!(clean || owed, "{}: {debts:?}", row.id);
            }
            for doubt in &part.state.doubts {
                let listed = whole.doubts.iter().find(|listed| listed.key == doubt.key).unwrap();
                let until = if clean || !doubt.under_way { doubt.until } else { time(5_000 + 960) };
                prop_assert!(listed.until >= until, "{listed:?}");
            }
        }
        let sum = |of: fn(&Life) -> u64| lives.iter().take(parts.len()).map(of).sum::<u64>();
        let mut keys: Vec<_> = letters.iter().map(|letter| &letter.key_json).filter(|key| *key != "own").collect();
        let number_of_letters = sum(|life| life.letters);
        prop_assert_eq!(keys.len() as u64, number_of_letters);
        keys.dedup();
        prop_assert_eq!(keys.len() as u64, number_of_letters);
        prop_assert_eq!(whole.dead_letters, (10 + number_of_letters, 10 + number_of_letters));
        prop_assert_eq!(whole.gaps.len() as u64, sum(|life| life.gaps));
        prop_assert!(whole.gaps.iter().all(|gap| gap.id >= DIVISION.first_gap));
    }
}
