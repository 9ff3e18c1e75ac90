//! What every store promises, run against each of them.
//!
//! A medium that joins later (a table) adds one arm to [`Medium`] and one line to the macro. What only a file can break
//! (locks, layout, damage) is below.

use std::sync::Arc;
use std::time::Duration;

use super::rows::{
    DeadLetterRow, Debt, DoubtRow, Fence, GapRow, GapScope, LinkIdentity, LinkRow, LoadPlan, PageId, SegmentRow,
    ShardRow, ShardStatus, Stage,
};
use super::{FileStore, LinkState, MemoryStore, StateStore, StateWrite, StoreError};
use crate::model::{CanonicalKey, KeyAttribute, KeyKind, KeySchema, SequenceNumber, ShardId, StreamArn, WallTime};

/// Where the state of a test is; stores come and go.
enum Medium {
    Memory(Arc<MemoryStore>),
    File(tempfile::TempDir),
}

impl Medium {
    fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    fn file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Arc<dyn StateStore> {
        match self {
            Self::Memory(store) => Arc::clone(store) as _,
            Self::File(directory) => Arc::new(FileStore::open(directory.path().join("state.redb")).unwrap()),
        }
    }
}

macro_rules! on_each_store {
    ($($promise:ident)*) => {
        mod memory {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Medium::memory()).await; })*
        }
        mod file {
            $(#[tokio::test] async fn $promise() { super::$promise(super::Medium::file()).await; })*
        }
    };
}

on_each_store! {
    a_link_that_never_ran_is_empty
    everything_written_is_there_after_reopening
    rows_come_in_order
    the_writes_of_a_commit_take_effect_in_order
    each_taker_gets_the_next_epoch_and_the_state_before_it
    a_stale_owner_changes_nothing
    nobody_writes_a_link_that_nobody_took
    one_of_two_racing_takers_is_fenced
    a_refused_commit_leaves_nothing_behind
    a_refused_commit_does_not_spoil_its_neighbours
    a_checkpoint_never_moves_back
    a_dispatch_watermark_never_moves_back
    a_newer_owner_cannot_move_back_either
    a_finished_shard_stays_finished
    only_a_finished_shard_is_forgotten
    a_segment_that_is_done_stays_done_until_all_are_forgotten
    a_key_in_doubt_keeps_the_later_time
    a_key_doubted_for_more_than_its_page_is_not_settled_by_the_page
    a_settled_page_takes_its_keys_and_no_others
    a_page_of_an_earlier_owner_is_not_settled_by_one_of_the_same_number
    a_key_listed_again_outlives_the_settling_of_its_first_listing
    a_listing_and_its_settling_in_one_commit_leave_nothing
    dead_letters_come_in_pages
    a_number_of_a_dead_letter_is_remembered_when_it_is_gone
    links_do_not_see_each_other
    commits_take_effect_in_the_order_of_the_calls
}

fn number(n: u64) -> SequenceNumber {
    SequenceNumber::parse(&format!("{n:021}")).unwrap()
}

fn time(secs: i64) -> WallTime {
    WallTime::from_secs(secs)
}

fn key(name: &str) -> CanonicalKey {
    CanonicalKey::from_canonical(name.as_bytes())
}

fn link_row() -> LinkRow {
    LinkRow {
        identity: LinkIdentity {
            source: "arn:aws:dynamodb:eu-west-1:111122223333:table/orders".parse().unwrap(),
            source_id: "11111111-2222-3333-4444-555555555555".into(),
            stream: StreamArn(
                "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-01-01T00:00:00.000".into(),
            ),
            target: "arn:aws:dynamodb:eu-west-1:444455556666:table/orders".parse().unwrap(),
            keys: KeySchema { hash: KeyAttribute { name: "pk".into(), kind: KeyKind::S }, range: None },
        },
        stage: Stage::Loading,
        load: Some(LoadPlan { total_segments: 4, began: time(100), expected_bytes: 1 << 40, expected_items: 7 }),
        start_from: Some(time(-1)),
        owns_target: true,
        clean: false,
    }
}

fn shard(id: &str, checkpoint: Option<u64>) -> ShardRow {
    ShardRow {
        id: ShardId::new(id),
        parent: Some(ShardId::new("shardId-parent")),
        status: ShardStatus::Reading,
        checkpoint: checkpoint.map(number),
        checkpoint_time: checkpoint.map(|_| time(200)),
        dispatch: checkpoint.map(|c| number(c + 10_000)),
        verified_at: time(300),
        last_listed: time(300),
        debts: vec![Debt { to: number(5), until: time(1260) }],
    }
}

fn segment(segment: u32, done: bool) -> SegmentRow {
    let cursor = Some(r#"{"pk":{"N":"123456789012345678901234567890.12345678"},"sk":{"B":"AP8="}}"#.into());
    SegmentRow { segment, cursor, done, items: 3, bytes: 99 }
}

fn doubt(name: &str, until: i64, page: Option<PageId>) -> DoubtRow {
    DoubtRow { key: key(name), key_json: format!(r#"{{"pk":{{"S":"{name}\u0000|"}}}}"#), until: time(until), page }
}

fn page(segment: u32, number: u64) -> PageId {
    PageId { segment, number }
}

fn gap(id: u64) -> GapRow {
    let scope = if id == 1 { GapScope::All } else { GapScope::Shard(ShardId::new("shardId-1")) };
    GapRow { id, scope, from: None, to: time(9), cause: "trimmed".into(), healed: None }
}

fn letter(id: u64) -> DeadLetterRow {
    DeadLetterRow {
        id,
        key_json: r#"{"pk":{"S":"a"}}"#.into(),
        item_json: Some(r#"{"pk":{"S":"a"},"n":{"N":"1"}}"#.into()),
        reason: "ValidationException: too big".into(),
        at: time(400),
    }
}

async fn taken(store: &Arc<dyn StateStore>, link: &str) -> Fence {
    store.take(link, "worker-a").await.unwrap().0
}

async fn write(store: &Arc<dyn StateStore>, fence: &Fence, write: StateWrite) {
    store.commit("orders", fence, vec![write]).await.unwrap();
}

async fn refused(store: &Arc<dyn StateStore>, fence: &Fence, write: StateWrite) {
    let before = store.read("orders").await.unwrap();
    let result = store.commit("orders", fence, vec![write]).await;
    assert!(matches!(result, Err(StoreError::Invariant { .. })), "{result:?}");
    assert_eq!(store.read("orders").await.unwrap(), before);
}

async fn doubts(store: &Arc<dyn StateStore>) -> Vec<DoubtRow> {
    store.read("orders").await.unwrap().doubts
}

async fn a_link_that_never_ran_is_empty(medium: Medium) {
    let store = medium.open();
    assert_eq!(store.read("orders").await.unwrap(), LinkState::default());
    assert_eq!(store.links().await.unwrap(), Vec::<String>::new());
    assert_eq!(store.doubt("orders", &key("a")).await.unwrap(), None);
    assert!(store.dead_letters("orders", 0, 10).await.unwrap().is_empty());
}

async fn everything_written_is_there_after_reopening(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    let rows = vec![
        StateWrite::Link(link_row()),
        StateWrite::Shard(shard("shardId-1", Some(7))),
        StateWrite::Segment(segment(0, true)),
        StateWrite::Doubt(doubt("a", 1, Some(page(0, 2)))),
        StateWrite::Gap(gap(1)),
        StateWrite::Gap(gap(2)),
        StateWrite::DeadLetter(letter(1)),
    ];
    store.commit("orders", &fence, rows).await.unwrap();
    // No goodbye: the store is just gone.
    drop(store);
    let store = medium.open();
    let expected = LinkState {
        link: Some(link_row()),
        fence: Some(fence),
        shards: vec![shard("shardId-1", Some(7))],
        segments: vec![segment(0, true)],
        doubts: vec![doubt("a", 1, Some(page(0, 2)))],
        gaps: vec![gap(1), gap(2)],
        dead_letters: (1, 1),
    };
    assert_eq!(store.read("orders").await.unwrap(), expected);
    assert_eq!(store.dead_letters("orders", 0, 10).await.unwrap(), [letter(1)]);
    assert_eq!(store.doubt("orders", &key("a")).await.unwrap(), Some(doubt("a", 1, Some(page(0, 2)))));
}

async fn rows_come_in_order(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    for n in [300, 2, 256, 1, 255] {
        let rows = vec![
            StateWrite::Segment(segment(n, false)),
            StateWrite::Gap(gap(n.into())),
            StateWrite::Shard(shard(&format!("shardId-{n:03}"), None)),
            StateWrite::Doubt(doubt(&format!("{n:03}"), 1, None)),
        ];
        store.commit("orders", &fence, rows).await.unwrap();
    }
    let state = store.read("orders").await.unwrap();
    assert_eq!(state.segments.iter().map(|row| row.segment).collect::<Vec<_>>(), [1, 2, 255, 256, 300]);
    assert_eq!(state.gaps.iter().map(|row| row.id).collect::<Vec<_>>(), [1, 2, 255, 256, 300]);
    assert!(state.shards.is_sorted_by(|a, b| a.id < b.id) && state.shards.len() == 5);
    assert!(state.doubts.is_sorted_by(|a, b| a.key < b.key) && state.doubts.len() == 5);
}

async fn the_writes_of_a_commit_take_effect_in_order(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    let rows = vec![
        StateWrite::Segment(segment(0, true)),
        StateWrite::ForgetSegments,
        StateWrite::Segment(segment(0, false)),
        StateWrite::DeadLetter(letter(1)),
        StateWrite::RemoveDeadLetter(1),
        StateWrite::DeadLetter(letter(2)),
    ];
    store.commit("orders", &fence, rows).await.unwrap();
    let state = store.read("orders").await.unwrap();
    assert_eq!((state.segments, state.dead_letters), (vec![segment(0, false)], (1, 2)));
}

async fn each_taker_gets_the_next_epoch_and_the_state_before_it(medium: Medium) {
    let store = medium.open();
    let (first, before) = store.take("orders", "a").await.unwrap();
    assert_eq!((first.epoch, first.owner.as_str(), before), (1, "a", LinkState::default()));
    write(&store, &first, StateWrite::Link(link_row())).await;
    drop(store);
    let store = medium.open();
    let (second, before) = store.take("orders", "b").await.unwrap();
    assert_eq!((second.epoch, second.owner.as_str()), (2, "b"));
    assert_eq!((before.fence, before.link), (Some(first), Some(link_row())));
    let (third, _) = store.take("orders", "b").await.unwrap();
    assert_eq!(third.epoch, 3);
}

async fn a_stale_owner_changes_nothing(medium: Medium) {
    let store = medium.open();
    let (old, _) = store.take("orders", "same").await.unwrap();
    let (new, _) = store.take("orders", "same").await.unwrap();
    let stolen = Fence { owner: "other".into(), epoch: new.epoch };
    for fence in [&old, &stolen] {
        for rows in [vec![], vec![StateWrite::Link(link_row())]] {
            let result = store.commit("orders", fence, rows).await;
            assert!(matches!(result, Err(StoreError::Fenced { ref link }) if link == "orders"), "{result:?}");
        }
    }
    assert_eq!(store.read("orders").await.unwrap().link, None);
    write(&store, &new, StateWrite::Link(link_row())).await;
}

async fn nobody_writes_a_link_that_nobody_took(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "other").await;
    let result = store.commit("orders", &fence, vec![StateWrite::Link(link_row())]).await;
    assert!(matches!(result, Err(StoreError::Fenced { .. })));
}

async fn one_of_two_racing_takers_is_fenced(medium: Medium) {
    let store = medium.open();
    let (a, b) = futures_util::future::join(store.take("orders", "a"), store.take("orders", "b")).await;
    let ((a, _), (b, _)) = (a.unwrap(), b.unwrap());
    assert_eq!(a.epoch.abs_diff(b.epoch), 1);
    let (loser, winner) = if a.epoch < b.epoch { (a, b) } else { (b, a) };
    assert!(matches!(store.commit("orders", &loser, vec![]).await, Err(StoreError::Fenced { .. })));
    assert!(store.commit("orders", &winner, vec![]).await.is_ok());
}

async fn a_refused_commit_leaves_nothing_behind(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    write(&store, &fence, StateWrite::Shard(shard("shardId-1", Some(7)))).await;
    let before = store.read("orders").await.unwrap();
    let rows = vec![
        StateWrite::Link(link_row()),
        StateWrite::Doubt(doubt("a", 1, None)),
        StateWrite::Shard(shard("shardId-1", Some(6))),
    ];
    assert!(store.commit("orders", &fence, rows).await.is_err());
    assert_eq!(store.read("orders").await.unwrap(), before);
}

async fn a_refused_commit_does_not_spoil_its_neighbours(medium: Medium) {
    let store = medium.open();
    let mut fences = Vec::new();
    for link in ["a", "b", "c"] {
        fences.push(taken(&store, link).await);
        store.commit(link, &fences[0], vec![StateWrite::Shard(shard("s", Some(7)))]).await.unwrap();
    }
    let write = |to| vec![StateWrite::Shard(shard("s", Some(to)))];
    let (a, b, c) = (
        store.commit("a", &fences[0], write(8)),
        store.commit("b", &fences[1], write(6)),
        store.commit("c", &fences[2], write(9)),
    );
    let (c, a, b) = (c.await, a.await, b.await);
    assert!(a.is_ok() && c.is_ok() && matches!(b, Err(StoreError::Invariant { .. })));
    for (link, checkpoint) in [("a", 8), ("b", 7), ("c", 9)] {
        assert_eq!(store.read(link).await.unwrap().shards, [shard("s", Some(checkpoint))]);
    }
}

async fn a_checkpoint_never_moves_back(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    write(&store, &fence, StateWrite::Shard(shard("s", Some(7)))).await;
    let back = ShardRow { checkpoint: Some(number(6)), ..shard("s", Some(7)) };
    let none = ShardRow { checkpoint: None, ..shard("s", Some(7)) };
    refused(&store, &fence, StateWrite::Shard(back)).await;
    refused(&store, &fence, StateWrite::Shard(none)).await;
    write(&store, &fence, StateWrite::Shard(shard("s", Some(7)))).await;
    write(&store, &fence, StateWrite::Shard(shard("s", Some(8)))).await;
}

async fn a_dispatch_watermark_never_moves_back(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    write(&store, &fence, StateWrite::Shard(shard("s", Some(7)))).await;
    let back = ShardRow { dispatch: Some(number(10_006)), ..shard("s", Some(7)) };
    let none = ShardRow { dispatch: None, ..shard("s", Some(7)) };
    refused(&store, &fence, StateWrite::Shard(back)).await;
    refused(&store, &fence, StateWrite::Shard(none)).await;
}

async fn a_newer_owner_cannot_move_back_either(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    write(&store, &fence, StateWrite::Shard(shard("s", Some(7)))).await;
    let (fence, _) = store.take("orders", "b").await.unwrap();
    refused(&store, &fence, StateWrite::Shard(shard("s", Some(6)))).await;
}

async fn a_finished_shard_stays_finished(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    let finished = ShardRow { status: ShardStatus::Finished, ..shard("s", Some(7)) };
    write(&store, &fence, StateWrite::Shard(finished.clone())).await;
    for status in [ShardStatus::Reading, ShardStatus::Waiting] {
        refused(&store, &fence, StateWrite::Shard(ShardRow { status, ..shard("s", Some(8)) })).await;
    }
    let seen_again = ShardRow { last_listed: time(500), ..finished };
    write(&store, &fence, StateWrite::Shard(seen_again)).await;
}

async fn only_a_finished_shard_is_forgotten(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    write(&store, &fence, StateWrite::Shard(shard("s", Some(7)))).await;
    refused(&store, &fence, StateWrite::ForgetShard(ShardId::new("s"))).await;
    let finished = ShardRow { status: ShardStatus::Finished, ..shard("s", Some(7)) };
    write(&store, &fence, StateWrite::Shard(finished)).await;
    for _twice in 0..2 {
        write(&store, &fence, StateWrite::ForgetShard(ShardId::new("s"))).await;
        assert!(store.read("orders").await.unwrap().shards.is_empty());
    }
}

async fn a_segment_that_is_done_stays_done_until_all_are_forgotten(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    write(&store, &fence, StateWrite::Segment(segment(0, true))).await;
    refused(&store, &fence, StateWrite::Segment(segment(0, false))).await;
    write(&store, &fence, StateWrite::ForgetSegments).await;
    assert!(store.read("orders").await.unwrap().segments.is_empty());
    write(&store, &fence, StateWrite::Segment(segment(0, false))).await;
}

async fn a_key_in_doubt_keeps_the_later_time(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    for (given, kept) in [(5, 5), (9, 9), (7, 9)] {
        write(&store, &fence, StateWrite::Doubt(doubt("a", given, None))).await;
        assert_eq!(doubts(&store).await, [doubt("a", kept, None)]);
    }
}

async fn a_key_doubted_for_more_than_its_page_is_not_settled_by_the_page(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    let on_page = |number| Some(page(0, number));
    let listings = [
        (doubt("unsure first", 9, None), doubt("unsure first", 5, on_page(1)), 9),
        (doubt("page first", 5, on_page(1)), doubt("page first", 9, None), 9),
        (doubt("two pages", 5, on_page(2)), doubt("two pages", 5, on_page(1)), 5),
    ];
    for (first, second, until) in listings {
        let name = first.clone();
        write(&store, &fence, StateWrite::Doubt(first)).await;
        write(&store, &fence, StateWrite::Doubt(second)).await;
        write(&store, &fence, StateWrite::SettlePage(page(0, 1))).await;
        write(&store, &fence, StateWrite::SettlePage(page(0, 2))).await;
        let left = store.doubt("orders", &name.key).await.unwrap();
        assert_eq!(left, Some(DoubtRow { until: time(until), page: None, ..name }));
    }
}

async fn a_settled_page_takes_its_keys_and_no_others(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    let mut rows = vec![StateWrite::Doubt(doubt("unsure", 1, None))];
    let pages = [page(0, 1), page(0, 2), page(1, 1), page(0, u64::MAX), page(1, 0)];
    for (n, page) in pages.into_iter().enumerate() {
        rows.extend(["x", "y"].map(|key| StateWrite::Doubt(doubt(&format!("{n}{key}"), 1, Some(page)))));
    }
    // The same page twice is one reason, not two.
    rows.push(StateWrite::Doubt(doubt("0x", 2, Some(page(0, 1)))));
    store.commit("orders", &fence, rows).await.unwrap();
    for (n, settled) in pages.into_iter().enumerate() {
        write(&store, &fence, StateWrite::SettlePage(settled)).await;
        let left = doubts(&store).await;
        assert_eq!(left.len(), 1 + 2 * (pages.len() - n - 1));
        assert!(left.iter().all(|row| row.page != Some(settled)));
    }
    assert_eq!(doubts(&store).await, [doubt("unsure", 1, None)]);
}

async fn a_page_of_an_earlier_owner_is_not_settled_by_one_of_the_same_number(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    let old = ["deleted since", "there still"].map(|name| doubt(name, 5, Some(page(0, 1))));
    store.commit("orders", &fence, old.clone().map(StateWrite::Doubt).to_vec()).await.unwrap();
    let (fence, before) = store.take("orders", "b").await.unwrap();
    assert_eq!(before.doubts, old);
    write(&store, &fence, StateWrite::Doubt(doubt("there still", 6, Some(page(0, 1))))).await;
    write(&store, &fence, StateWrite::SettlePage(page(0, 1))).await;
    let [deleted, there] = old;
    assert_eq!(doubts(&store).await, [deleted, DoubtRow { until: time(6), page: None, ..there }]);
}

async fn a_key_listed_again_outlives_the_settling_of_its_first_listing(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    for again in [doubt("a", 9, None), doubt("a", 9, Some(page(0, 1)))] {
        write(&store, &fence, StateWrite::Doubt(doubt("a", 5, None))).await;
        write(&store, &fence, StateWrite::Doubt(again)).await;
        write(&store, &fence, StateWrite::Settle(doubt("a", 5, None))).await;
        assert_eq!(doubts(&store).await, [doubt("a", 9, None)]);
        write(&store, &fence, StateWrite::Settle(doubt("a", 9, None))).await;
        assert_eq!(doubts(&store).await, []);
    }
    write(&store, &fence, StateWrite::Settle(doubt("never listed", 9, None))).await;
}

async fn a_listing_and_its_settling_in_one_commit_leave_nothing(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    let rows = vec![
        StateWrite::Doubt(doubt("a", 5, Some(page(0, 1)))),
        StateWrite::Doubt(doubt("b", 5, Some(page(0, 1)))),
        StateWrite::Settle(doubt("a", 5, None)),
        StateWrite::Doubt(doubt("a", 7, None)),
        StateWrite::SettlePage(page(0, 1)),
    ];
    store.commit("orders", &fence, rows).await.unwrap();
    assert_eq!(doubts(&store).await, [doubt("a", 7, None)]);
}

async fn dead_letters_come_in_pages(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    let ids = [1, 2, 255, 256, 70_000, u64::MAX];
    store.commit("orders", &fence, ids.map(|id| StateWrite::DeadLetter(letter(id))).to_vec()).await.unwrap();
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let page = store.dead_letters("orders", after, 4).await.unwrap();
        assert!(page.len() <= 4);
        let Some(last) = page.last() else { break };
        after = last.id;
        seen.extend(page.iter().map(|row| row.id));
    }
    assert_eq!(seen, ids);
    assert!(store.dead_letters("orders", 0, 0).await.unwrap().is_empty());
}

async fn a_number_of_a_dead_letter_is_remembered_when_it_is_gone(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    for id in [1, 2, 2] {
        write(&store, &fence, StateWrite::DeadLetter(letter(id))).await;
    }
    for _twice in 0..2 {
        write(&store, &fence, StateWrite::RemoveDeadLetter(2)).await;
        assert_eq!(store.read("orders").await.unwrap().dead_letters, (1, 2));
    }
    assert_eq!(store.dead_letters("orders", 0, 9).await.unwrap(), [letter(1)]);
}

async fn links_do_not_see_each_other(medium: Medium) {
    let store = medium.open();
    let names = ["orders", "orders-2", "order", "a", "Ω"];
    for name in names {
        let fence = taken(&store, name).await;
        let rows = vec![
            StateWrite::Segment(segment(0, false)),
            StateWrite::Doubt(doubt(name, 1, Some(page(0, 1)))),
            StateWrite::DeadLetter(letter(1)),
        ];
        store.commit(name, &fence, rows).await.unwrap();
    }
    let (fence, _) = store.take("orders", "b").await.unwrap();
    let rows = vec![StateWrite::ForgetSegments, StateWrite::Settle(doubt("orders", 1, None))];
    store.commit("orders", &fence, rows).await.unwrap();
    for name in names {
        let state = store.read(name).await.unwrap();
        let expected = usize::from(name != "orders");
        assert_eq!((state.segments.len(), state.doubts.len(), state.dead_letters), (expected, expected, (1, 1)));
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(store.links().await.unwrap(), sorted);
}

async fn commits_take_effect_in_the_order_of_the_calls(medium: Medium) {
    let store = medium.open();
    let fence = taken(&store, "orders").await;
    let commits: Vec<_> =
        (1..=100).map(|n| store.commit("orders", &fence, vec![StateWrite::Shard(shard("s", Some(n)))])).collect();
    // Awaited backwards: it is the calls that count.
    for commit in commits.into_iter().rev() {
        commit.await.unwrap();
    }
    assert_eq!(store.read("orders").await.unwrap().shards, [shard("s", Some(100))]);
}

/// What only a file can break.
mod file_only {
    use std::path::{Path, PathBuf};

    use super::super::{database, open};
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        (directory, path)
    }

    #[test]
    fn a_file_in_use_is_refused_with_the_exit_code_for_it() {
        let (_directory, path) = place();
        let first = FileStore::open(&path).unwrap();
        let error = FileStore::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Held { .. }), "{error:?}");
        assert_eq!(crate::error::Error::from(error).exit, crate::error::Exit::Held);
        drop(first);
        FileStore::open(&path).unwrap();
    }

    #[test]
    fn parent_directories_are_made_and_no_draft_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("a/b");
        let store = open(&format!("file:{}", folder.join("state.redb").display())).unwrap();
        assert_eq!(store.place(), format!("file:{}", folder.join("state.redb").display()));
        let names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["state.redb"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (_directory, path) = place();
        drop(FileStore::open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn an_empty_file_becomes_a_state_file() {
        let (_directory, path) = place();
        std::fs::write(&path, "").unwrap();
        let store = FileStore::open(&path).unwrap();
        assert_eq!(store.take("orders", "a").await.unwrap().0.epoch, 1);
    }

    #[test]
    fn another_version_is_refused_and_left_as_it_is() {
        let (_directory, path) = place();
        drop(FileStore::open(&path).unwrap());
        database::tests::set_version(&path, 2);
        for _twice in 0..2 {
            let error = FileStore::open(&path).unwrap_err();
            assert!(matches!(error, StoreError::Version { found: 2, known: 1, .. }), "{error:?}");
        }
    }

    #[test]
    fn a_foreign_file_is_refused_and_left_as_it_is() {
        let (_directory, path) = place();
        for content in ["x", "not a database", &"SQLite format 3\0".repeat(4096)] {
            std::fs::write(&path, content).unwrap();
            let error = FileStore::open(&path).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
            assert_eq!(std::fs::read(&path).unwrap(), content.as_bytes());
        }
    }

    #[test]
    fn a_database_of_another_program_is_refused() {
        let (_directory, path) = place();
        database::tests::make_foreign(&path);
        let error = FileStore::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    }

    #[test]
    fn a_setting_that_names_no_store_is_refused() {
        for bad in ["", "file:", "state.redb", "s3:bucket", "dynamodb"] {
            assert!(matches!(open(bad).err(), Some(StoreError::Setting { .. })), "{bad}");
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named_with_the_cause() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for path in [file.join("state.redb"), directory.path().to_owned()] {
            let error = FileStore::open(&path).unwrap_err();
            assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
            assert!(error.to_string().contains(&path.display().to_string()));
            assert!(std::error::Error::source(&error).is_some());
        }
    }

    #[tokio::test]
    async fn a_damaged_row_is_told_without_its_contents_and_others_live_on() {
        let (_directory, path) = place();
        let store = FileStore::open(&path).unwrap();
        store.take("orders", "a").await.unwrap();
        drop(store);
        database::tests::put_raw(&path, ("orders", 4, b"s"), br#"{"id":"s","status":"SECRET"}"#);
        let store = FileStore::open(&path).unwrap();
        let error = store.read("orders").await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }) && !format!("{error:?}").contains("SECRET"), "{error:?}");
        store.take("other", "a").await.unwrap();
    }

    /// Flips bytes all over a file, and cuts it: it is refused, or it is a state that was once answered. Nothing panics
    /// in the caller, nothing hangs, and no row is read as what it never was.
    #[tokio::test]
    async fn a_damaged_file_is_an_error_and_never_a_panic_or_another_state() {
        let (_directory, path) = place();
        let store: Arc<dyn StateStore> = Arc::new(FileStore::open(&path).unwrap());
        let fence = taken(&store, "orders").await;
        let mut states = vec![store.read("orders").await.unwrap()];
        for n in 1..=20 {
            write(&store, &fence, StateWrite::Shard(shard(&format!("s{n}"), Some(n)))).await;
            states.push(store.read("orders").await.unwrap());
        }
        drop(store);
        let good = std::fs::read(&path).unwrap();
        let used: Vec<usize> =
            good.chunks(4096).enumerate().filter(|(_, p)| p.iter().any(|b| *b != 0)).map(|(n, _)| n).collect();
        let mut random = fastrand::Rng::with_seed(7);
        let (mut refused, mut read) = (0, 0);
        for case in 0..300 {
            let mut bytes = good.clone();
            if case % 10 == 0 {
                bytes.truncate(random.usize(1..good.len()));
            } else {
                let page = if case % 3 == 0 { 0 } else { used[random.usize(..used.len())] };
                let at = page * 4096 + random.usize(..if case % 3 == 0 { 512 } else { 4096 });
                let end = good.len().min(at + random.usize(1..16));
                bytes[at..end].iter_mut().for_each(|byte| *byte = random.u8(..));
            }
            std::fs::write(&path, &bytes).unwrap();
            let Ok(store) = FileStore::open(&path) else {
                refused += 1;
                continue;
            };
            read += 1;
            let state = store.read("orders").await.unwrap();
            assert!(states.contains(&state), "case {case}: {state:?}");
            store.commit("orders", &fence, vec![StateWrite::Shard(shard("s99", Some(99)))]).await.unwrap();
        }
        assert!(refused > 50 && read > 20, "{refused} refused, {read} read");
    }

    /// A copy of the file taken at any moment is what a killed process leaves behind.
    #[tokio::test]
    async fn a_killed_process_leaves_what_it_was_answered() {
        let (directory, path) = place();
        let store: Arc<dyn StateStore> = Arc::new(FileStore::open(&path).unwrap());
        let fence = taken(&store, "orders").await;
        for n in 1..=30 {
            write(&store, &fence, StateWrite::Shard(shard("s", Some(n)))).await;
            let copy = directory.path().join(format!("copy-{n}"));
            std::fs::copy(&path, &copy).unwrap();
            let state = read_all(&copy).await;
            assert_eq!(state.shards, [shard("s", Some(n))]);
        }
    }

    async fn read_all(path: &Path) -> LinkState {
        FileStore::open(path).unwrap().read("orders").await.unwrap()
    }

    #[tokio::test]
    async fn a_future_that_is_dropped_leaves_the_store_in_order() {
        let (_directory, path) = place();
        let store: Arc<dyn StateStore> = Arc::new(FileStore::open(&path).unwrap());
        let fence = taken(&store, "orders").await;
        for n in 1..=50 {
            drop(store.commit("orders", &fence, vec![StateWrite::Shard(shard("s", Some(n)))]));
        }
        drop(store);
        assert_eq!(read_all(&path).await.shards, [shard("s", Some(50))]);
    }

    #[tokio::test]
    async fn settled_doubts_give_their_room_back() {
        let (_directory, path) = place();
        let store: Arc<dyn StateStore> = Arc::new(FileStore::open(&path).unwrap());
        let fence = taken(&store, "orders").await;
        let mut sizes = Vec::new();
        for round in 0..6 {
            let rows = (0..3000).map(|n| StateWrite::Doubt(doubt(&format!("{round}-{n}"), 1, Some(page(0, round)))));
            store.commit("orders", &fence, rows.collect()).await.unwrap();
            write(&store, &fence, StateWrite::SettlePage(page(0, round))).await;
            sizes.push(std::fs::metadata(&path).unwrap().len());
        }
        assert!(sizes.iter().all(|size| *size < 8 << 20), "{sizes:?}");
        assert!(sizes[5] <= sizes[1] * 2, "{sizes:?}");
    }

    /// Run by hand: `cargo test --release --lib commit_latency -- --ignored --nocapture`.
    #[tokio::test]
    #[ignore = "measures the disk"]
    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    async fn commit_latency() {
        let directory = tempfile::tempdir_in(std::env::var("STATE_DIR").unwrap_or("/var/tmp".into())).unwrap();
        let path = directory.path().join("state.redb");
        let store: Arc<dyn StateStore> = Arc::new(FileStore::open(&path).unwrap());
        let fence = taken(&store, "orders").await;
        let mut lone: Vec<Duration> = Vec::new();
        for n in 1..=500 {
            let start = std::time::Instant::now();
            write(&store, &fence, StateWrite::Shard(shard("s", Some(n)))).await;
            lone.push(start.elapsed());
        }
        lone.sort_unstable();
        println!("lone commit: median {:?}, p99 {:?}", lone[250], lone[495]);
        let start = std::time::Instant::now();
        for n in 501..=550 {
            let shards = (0..64)
                .map(|s| store.commit("orders", &fence, vec![StateWrite::Shard(shard(&format!("s{s}"), Some(n)))]));
            futures_util::future::join_all(shards).await.into_iter().for_each(|done| done.unwrap());
        }
        println!("64 at once: {:?} each", start.elapsed() / (50 * 64));
        let start = std::time::Instant::now();
        let rows = (0..2000).map(|n| StateWrite::Doubt(doubt(&format!("k{n}"), 1, Some(page(0, 1)))));
        store.commit("orders", &fence, rows.collect()).await.unwrap();
        println!("2000 doubts of a page: {:?}", start.elapsed());
        let start = std::time::Instant::now();
        write(&store, &fence, StateWrite::SettlePage(page(0, 1))).await;
        println!("its settling: {:?}; file {} KiB", start.elapsed(), std::fs::metadata(&path).unwrap().len() >> 10);
        let start = std::time::Instant::now();
        store.read("orders").await.unwrap();
        println!("read: {:?}", start.elapsed());
        let sync = std::fs::File::create(directory.path().join("probe")).unwrap();
        let start = std::time::Instant::now();
        for n in 0..200_u64 {
            std::io::Write::write_all(&mut &sync, &n.to_be_bytes()).unwrap();
            sync.sync_data().unwrap();
        }
        println!("bare fdatasync: {:?}", start.elapsed() / 200);
        drop(store);
        println!("file after close {} KiB", std::fs::metadata(&path).unwrap().len() >> 10);
    }
}
