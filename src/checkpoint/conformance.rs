//! What every store promises, run against each of them.
//!
//! Each medium is an arm of [`Medium`] and a module of the macro. What only a file can break (locks, layout, damage, sudden
//! death) is in `file_only`; what only a table can (lost answers, throttles, late attempts, loss) is in `table_only`.

use std::sync::Arc;
use std::time::Duration;

use super::rows::{
    DeadLetterRow, Debt, DifferenceCounts, DoubtRow, ExportPlan, ExportRequestRow, ExportSubject, Fence, GapRow,
    GapScope, ImportRequestRow, ImportSubject, LinkIdentity, LinkRow, LoadPlan, PageId, SegmentRow, ShardRow,
    ShardStatus, Stage, VerifiedRow,
};
use super::{FileStore, LinkState, MemoryStore, StateStore, StateWrite, StoreError};
use crate::model::{
    CanonicalKey, ExportBucket, Key, KeyAttribute, KeyKind, KeySchema, SequenceNumber, ShardId, StreamArn, WallTime,
};

/// Where the state of a test is; stores come and go.
enum Medium {
    Memory(Arc<MemoryStore>),
    File(tempfile::TempDir),
    #[cfg(feature = "sandbox")]
    Table(table_only::Cloud),
    /// Each link is a part of that link.
    #[cfg(feature = "sandbox")]
    Part(table_only::Cloud),
}

impl Medium {
    fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    fn file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    #[cfg(feature = "sandbox")]
    fn table() -> Self {
        Self::Table(table_only::Cloud::new(1))
    }

    #[cfg(feature = "sandbox")]
    fn part() -> Self {
        Self::Part(table_only::Cloud::new(1))
    }

    #[cfg_attr(not(feature = "sandbox"), expect(clippy::unused_async, reason = "only a table is waited for"))]
    async fn open(&self) -> Arc<dyn StateStore> {
        match self {
            Self::Memory(store) => Arc::clone(store) as _,
            Self::File(directory) => Arc::new(FileStore::open(directory.path().join("state.redb")).unwrap()),
            #[cfg(feature = "sandbox")]
            Self::Table(cloud) => Arc::new(cloud.open("fleet").await.unwrap()),
            #[cfg(feature = "sandbox")]
            Self::Part(cloud) => Arc::new(parted::Parted(cloud.open("fleet").await.unwrap())),
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
        #[cfg(feature = "sandbox")]
        mod table {
            $(#[tokio::test(start_paused = true)] async fn $promise() { super::$promise(super::Medium::table()).await; })*
        }
        #[cfg(feature = "sandbox")]
        mod part {
            $(#[tokio::test(start_paused = true)] async fn $promise() { super::$promise(super::Medium::part()).await; })*
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
    a_key_doubted_in_the_commit_that_settles_its_page_stays
    a_settled_page_takes_its_keys_and_no_others
    a_page_of_an_earlier_owner_is_not_settled_by_one_of_the_same_number
    a_page_is_listed_with_all_its_keys_and_settled_with_them
    a_key_of_a_page_that_is_doubted_for_more_stays_when_the_page_goes
    pages_of_earlier_owners_stay_until_they_are_forgotten
    a_page_of_many_long_keys_is_listed
    a_key_listed_again_outlives_the_settling_of_its_first_listing
    what_may_be_under_way_stays_so_until_another_owner_lists_the_key
    a_listing_and_its_settling_in_one_commit_leave_nothing
    dead_letters_come_in_pages
    a_number_of_a_dead_letter_is_remembered_when_it_is_gone
    a_verification_is_noted_by_anybody_and_is_nobodys_row
    an_export_is_asked_for_by_one_at_a_time
    an_import_is_asked_for_by_one_at_a_time
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
            target_id: "t".into(),
            stream: StreamArn(
                "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-01-01T00:00:00.000".into(),
            ),
            target: "arn:aws:dynamodb:eu-west-1:444455556666:table/orders".parse().unwrap(),
            keys: KeySchema { hash: KeyAttribute { name: "pk".into(), kind: KeyKind::S }, range: None },
        },
        stage: Stage::Loading,
        load: Some(LoadPlan {
            total_segments: 4,
            began: time(100),
            expected_bytes: 1 << 40,
            expected_items: 7,
            export: None,
            loaded_items: Some(3),
        }),
        start_from: Some(time(-1)),
        owns_target: true,
        clean: false,
        ghosts_until: None,
        settled_until: None,
        expiry_attributes: [("expires".to_owned(), None), ("before".to_owned(), Some(WallTime::from_secs(77)))].into(),
        signed_ahead: Duration::from_secs(12),
        gates: 16,
        gated_at: Some("dynamodb:state/default".to_owned()),
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
        is_trimmed: false,
        is_lost: false,
    }
}

fn segment(segment: u32, done: bool) -> SegmentRow {
    let cursor = Some(r#"{"pk":{"N":"123456789012345678901234567890.12345678"},"sk":{"B":"AP8="}}"#.into());
    SegmentRow { segment, cursor, done, items: 3, bytes: 99 }
}

fn doubt(name: &str, until: i64, page: Option<PageId>) -> DoubtRow {
    let key_json = format!(r#"{{"pk":{{"S":"{name}\u0000|"}}}}"#);
    DoubtRow { key: key(name), key_json, until: time(until), page, under_way: page.is_some() }
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
    let store = medium.open().await;
    assert_eq!(store.read("orders").await.unwrap(), LinkState::default());
    assert_eq!(store.links().await.unwrap(), Vec::<String>::new());
    assert_eq!(store.doubt("orders", &key("a")).await.unwrap(), None);
    assert!(store.dead_letters("orders", 0, 10).await.unwrap().is_empty());
}

async fn everything_written_is_there_after_reopening(medium: Medium) {
    let store = medium.open().await;
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
    let store = medium.open().await;
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
    let store = medium.open().await;
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
    let store = medium.open().await;
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
    let store = medium.open().await;
    let (first, before) = store.take("orders", "a").await.unwrap();
    assert_eq!((first.epoch, first.owner.as_str(), before), (1, "a", LinkState::default()));
    write(&store, &first, StateWrite::Link(link_row())).await;
    drop(store);
    let store = medium.open().await;
    let (second, before) = store.take("orders", "b").await.unwrap();
    assert_eq!((second.epoch, second.owner.as_str()), (2, "b"));
    assert_eq!((before.fence, before.link), (Some(first), Some(link_row())));
    let (third, _) = store.take("orders", "b").await.unwrap();
    assert_eq!(third.epoch, 3);
}

async fn a_stale_owner_changes_nothing(medium: Medium) {
    let store = medium.open().await;
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
    let store = medium.open().await;
    let fence = taken(&store, "other").await;
    let result = store.commit("orders", &fence, vec![StateWrite::Link(link_row())]).await;
    assert!(matches!(result, Err(StoreError::Fenced { .. })));
}

async fn one_of_two_racing_takers_is_fenced(medium: Medium) {
    let store = medium.open().await;
    let (a, b) = futures_util::future::join(store.take("orders", "a"), store.take("orders", "b")).await;
    let ((a, _), (b, _)) = (a.unwrap(), b.unwrap());
    assert_eq!(a.epoch.abs_diff(b.epoch), 1);
    let (loser, winner) = if a.epoch < b.epoch { (a, b) } else { (b, a) };
    assert!(matches!(store.commit("orders", &loser, vec![]).await, Err(StoreError::Fenced { .. })));
    assert!(store.commit("orders", &winner, vec![]).await.is_ok());
}

async fn a_refused_commit_leaves_nothing_behind(medium: Medium) {
    let store = medium.open().await;
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
    let store = medium.open().await;
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
    let store = medium.open().await;
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
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    write(&store, &fence, StateWrite::Shard(shard("s", Some(7)))).await;
    let back = ShardRow { dispatch: Some(number(10_006)), ..shard("s", Some(7)) };
    let none = ShardRow { dispatch: None, ..shard("s", Some(7)) };
    refused(&store, &fence, StateWrite::Shard(back)).await;
    refused(&store, &fence, StateWrite::Shard(none)).await;
}

async fn a_newer_owner_cannot_move_back_either(medium: Medium) {
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    write(&store, &fence, StateWrite::Shard(shard("s", Some(7)))).await;
    let (fence, _) = store.take("orders", "b").await.unwrap();
    refused(&store, &fence, StateWrite::Shard(shard("s", Some(6)))).await;
}

async fn a_finished_shard_stays_finished(medium: Medium) {
    let store = medium.open().await;
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
    let store = medium.open().await;
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
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    write(&store, &fence, StateWrite::Segment(segment(0, true))).await;
    refused(&store, &fence, StateWrite::Segment(segment(0, false))).await;
    write(&store, &fence, StateWrite::ForgetSegments).await;
    assert!(store.read("orders").await.unwrap().segments.is_empty());
    write(&store, &fence, StateWrite::Segment(segment(0, false))).await;
}

async fn a_key_in_doubt_keeps_the_later_time(medium: Medium) {
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    for (given, kept) in [(5, 5), (9, 9), (7, 9)] {
        write(&store, &fence, StateWrite::Doubt(doubt("a", given, None))).await;
        assert_eq!(doubts(&store).await, [doubt("a", kept, None)]);
    }
}

async fn a_key_doubted_for_more_than_its_page_is_not_settled_by_the_page(medium: Medium) {
    let store = medium.open().await;
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
        assert_eq!(left, Some(DoubtRow { until: time(until), page: None, under_way: true, ..name }));
    }
}

async fn a_key_doubted_in_the_commit_that_settles_its_page_stays(medium: Medium) {
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    write(&store, &fence, StateWrite::Doubt(doubt("unsure", 5, Some(page(0, 1))))).await;
    let unsure = doubt("unsure", 9, None);
    let writes = vec![StateWrite::Doubt(unsure.clone()), StateWrite::SettlePage(page(0, 1))];
    store.commit("orders", &fence, writes).await.unwrap();
    assert_eq!(doubts(&store).await, [DoubtRow { under_way: true, ..unsure }]);
}

async fn a_settled_page_takes_its_keys_and_no_others(medium: Medium) {
    let store = medium.open().await;
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
    let store = medium.open().await;
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

/// The keys of a page as they are written.
fn keys_of(names: &[&str]) -> Vec<Key> {
    let row = |name: &&str| doubt(name, 0, None);
    names.iter().map(row).map(|row| Key { canonical: row.key, json: row.key_json.into() }).collect()
}

/// The same as they are read.
fn listed(page: PageId, names: &[&str]) -> Vec<DoubtRow> {
    names.iter().map(|name| doubt(name, 0, Some(page))).collect()
}

async fn a_page_is_listed_with_all_its_keys_and_settled_with_them(medium: Medium) {
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    let (one, two) = (page(0, 1), page(0, 2));
    let writes = vec![
        StateWrite::Page(one, keys_of(&["a", "b"])),
        // In two goes, as where the first one broke off; and a key of both pages.
        StateWrite::Page(two, keys_of(&["b"])),
        StateWrite::Page(two, keys_of(&["c"])),
        StateWrite::Page(page(0, 3), Vec::new()),
    ];
    store.commit("orders", &fence, writes).await.unwrap();
    let (of_one, of_two) = (listed(one, &["a", "b"]), listed(two, &["b", "c"]));
    drop(store);
    let store = medium.open().await;
    assert_eq!(doubts(&store).await, [of_one.clone(), of_two.clone()].concat());
    assert_eq!(store.doubt("orders", &key("c")).await.unwrap().as_ref(), of_two.last());
    write(&store, &fence, StateWrite::SettlePage(one)).await;
    assert_eq!(doubts(&store).await, of_two, "it is in flight with the other page still");
    write(&store, &fence, StateWrite::SettlePage(two)).await;
    assert_eq!(doubts(&store).await, []);
    let both = vec![StateWrite::Page(one, keys_of(&["a"])), StateWrite::SettlePage(one)];
    store.commit("orders", &fence, both).await.unwrap();
    assert_eq!(doubts(&store).await, []);
}

async fn a_key_of_a_page_that_is_doubted_for_more_stays_when_the_page_goes(medium: Medium) {
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    let [before, after] = [doubt("before", 9, None), doubt("after", 9, None)];
    let writes = vec![
        StateWrite::Doubt(before.clone()),
        StateWrite::Page(page(0, 1), keys_of(&["after", "before", "synced"])),
        StateWrite::Doubt(after.clone()),
        StateWrite::Doubt(doubt("synced", 9, None)),
        StateWrite::Settle(doubt("synced", 9, None)),
    ];
    store.commit("orders", &fence, writes).await.unwrap();
    let own = [after.clone(), before.clone()];
    let of_page = listed(page(0, 1), &["after", "before", "synced"]);
    assert_eq!(doubts(&store).await, [&own[..], &of_page].concat());
    write(&store, &fence, StateWrite::SettlePage(page(0, 1))).await;
    assert_eq!(doubts(&store).await, own);
}

async fn pages_of_earlier_owners_stay_until_they_are_forgotten(medium: Medium) {
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    write(&store, &fence, StateWrite::Page(page(0, 1), keys_of(&["a"]))).await;
    let (fence, before) = store.take("orders", "b").await.unwrap();
    let old = listed(page(0, 1), &["a"]);
    assert_eq!(before.doubts, old);
    write(&store, &fence, StateWrite::Page(page(0, 1), keys_of(&["b"]))).await;
    write(&store, &fence, StateWrite::SettlePage(page(0, 1))).await;
    assert_eq!(doubts(&store).await, old, "a page of the same number is another page");
    write(&store, &fence, StateWrite::Page(page(0, 2), keys_of(&["b"]))).await;
    write(&store, &fence, StateWrite::ForgetPages).await;
    assert_eq!(doubts(&store).await, listed(page(0, 2), &["b"]));
}

async fn a_page_of_many_long_keys_is_listed(medium: Medium) {
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    let names: Vec<String> = (0..2_000).map(|n| format!("{n:04}-{}", "k".repeat(500))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    write(&store, &fence, StateWrite::Page(page(0, 1), keys_of(&names))).await;
    assert_eq!(doubts(&store).await, listed(page(0, 1), &names));
    write(&store, &fence, StateWrite::SettlePage(page(0, 1))).await;
    assert_eq!(doubts(&store).await, []);
}

async fn a_key_listed_again_outlives_the_settling_of_its_first_listing(medium: Medium) {
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    for again in [doubt("a", 9, None), doubt("a", 9, Some(page(0, 1)))] {
        let under_way = again.under_way;
        write(&store, &fence, StateWrite::Doubt(doubt("a", 5, None))).await;
        write(&store, &fence, StateWrite::Doubt(again)).await;
        write(&store, &fence, StateWrite::Settle(doubt("a", 5, None))).await;
        assert_eq!(doubts(&store).await, [DoubtRow { under_way, ..doubt("a", 9, None) }]);
        write(&store, &fence, StateWrite::Settle(doubt("a", 9, None))).await;
        assert_eq!(doubts(&store).await, []);
    }
    write(&store, &fence, StateWrite::Settle(doubt("never listed", 9, None))).await;
}

async fn what_may_be_under_way_stays_so_until_another_owner_lists_the_key(medium: Medium) {
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    let waits = doubt("a", 5, None);
    let sent = DoubtRow { under_way: true, ..waits.clone() };
    for (given, expected) in [(&waits, &waits), (&sent, &sent), (&waits, &sent)] {
        write(&store, &fence, StateWrite::Doubt(given.clone())).await;
        assert_eq!(doubts(&store).await, std::slice::from_ref(expected));
    }
    let (fence, before) = store.take("orders", "b").await.unwrap();
    assert_eq!(before.doubts, [sent]);
    write(&store, &fence, StateWrite::Doubt(doubt("a", 9, None))).await;
    assert_eq!(doubts(&store).await, [doubt("a", 9, None)]);
}

async fn a_listing_and_its_settling_in_one_commit_leave_nothing(medium: Medium) {
    let store = medium.open().await;
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
    let store = medium.open().await;
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

async fn a_verification_is_noted_by_anybody_and_is_nobodys_row(medium: Medium) {
    let store = medium.open().await;
    assert_eq!(store.verified("orders").await.unwrap(), None);
    let confirmed = DifferenceCounts { missing: 1, extra: 2, different: 3 };
    let row =
        VerifiedRow { at: time(5), compared: 7, pending: DifferenceCounts::default(), confirmed, last_success: None };
    store.note_verified("orders", &row).await.unwrap();
    let fence = taken(&store, "orders").await;
    store.commit("orders", &fence, vec![StateWrite::Link(link_row())]).await.unwrap();
    let later = VerifiedRow { at: time(9), last_success: Some(time(9)), ..row };
    store.note_verified("orders", &later).await.unwrap();
    store.commit("orders", &fence, vec![StateWrite::Link(link_row())]).await.unwrap();
    drop(store);
    let store = medium.open().await;
    assert_eq!(store.verified("orders").await.unwrap(), Some(later));
    assert_eq!(store.verified("events").await.unwrap(), None);
    let state = store.read("orders").await.unwrap();
    assert_eq!((state.link, state.dead_letters), (Some(link_row()), (0, 0)));
}

async fn an_export_is_asked_for_by_one_at_a_time(medium: Medium) {
    let store = medium.open().await;
    assert_eq!(store.export_request("orders").await.unwrap(), None);
    let row = |token: &str, arn: Option<&str>| ExportRequestRow {
        token: token.to_owned(),
        asked: time(5),
        arn: arn.map(|arn| arn.parse().unwrap()),
        of: ExportSubject {
            table: link_row().identity.source,
            table_id: "1".to_owned(),
            stream: link_row().identity.stream,
            bucket: ExportBucket { name: "b".to_owned(), prefix: None, owner: None, kms_key: None, enable_pitr: false },
            window: None,
        },
        time: None,
        attempt: 1,
    };
    let arn = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/export/01604473200000-a1b2c3d4";
    let (first, begun, other) = (row("a", None), row("a", Some(arn)), row("b", None));
    assert!(store.note_export("orders", &first, None).await.unwrap());
    assert!(store.note_export("orders", &first, None).await.unwrap(), "the answer was lost, and it is tried again");
    assert!(!store.note_export("orders", &other, None).await.unwrap());
    assert!(store.note_export("orders", &begun, Some(&first)).await.unwrap());
    assert!(!store.note_export("orders", &other, Some(&first)).await.unwrap(), "it goes by an old row");
    drop(store);
    let store = medium.open().await;
    assert_eq!(store.export_request("orders").await.unwrap(), Some(begun.clone()));
    assert_eq!(store.export_request("events").await.unwrap(), None);
    assert!(store.note_export("orders", &other, Some(&begun)).await.unwrap());
    assert!(store.read("orders").await.unwrap().link.is_none());
}

async fn an_import_is_asked_for_by_one_at_a_time(medium: Medium) {
    let store = medium.open().await;
    assert_eq!(store.import_request("orders").await.unwrap(), None);
    let row = |token: &str, arn: Option<&str>| ImportRequestRow {
        token: token.to_owned(),
        asked: time(5),
        arn: arn.map(|arn| arn.parse().unwrap()),
        of: ImportSubject {
            source: link_row().identity.source,
            source_id: "1".to_owned(),
            export: ExportPlan {
                place: "s3://bucket/AWSDynamoDB/1-a/".parse().unwrap(),
                arn: None,
                bucket_owner: None,
                time: time(1),
                fingerprint: "f".to_owned(),
                window: None,
                not_before: None,
                items_before: 0,
                pace: None,
                is_loaded: false,
            },
            items: 7,
            bytes: None,
            target: link_row().identity.target,
        },
        attempt: 1,
    };
    let arn = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/import/01604473200000-a1b2c3d4";
    let (first, begun, other) = (row("a", None), row("a", Some(arn)), row("b", None));
    assert!(store.note_import("orders", &first, None).await.unwrap());
    assert!(store.note_import("orders", &first, None).await.unwrap(), "the answer was lost, and it is tried again");
    assert!(!store.note_import("orders", &other, None).await.unwrap());
    assert!(store.note_import("orders", &begun, Some(&first)).await.unwrap());
    assert!(!store.note_import("orders", &other, Some(&first)).await.unwrap(), "it goes by an old row");
    drop(store);
    let store = medium.open().await;
    assert_eq!(store.import_request("orders").await.unwrap(), Some(begun.clone()));
    assert_eq!(store.import_request("events").await.unwrap(), None);
    assert_eq!(store.export_request("orders").await.unwrap(), None);
    assert!(store.note_import("orders", &other, Some(&begun)).await.unwrap());
    assert!(store.read("orders").await.unwrap().link.is_none());
}

async fn a_number_of_a_dead_letter_is_remembered_when_it_is_gone(medium: Medium) {
    let store = medium.open().await;
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
    let store = medium.open().await;
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
    let store = medium.open().await;
    let fence = taken(&store, "orders").await;
    let commits: Vec<_> =
        (1..=100).map(|n| store.commit("orders", &fence, vec![StateWrite::Shard(shard("s", Some(n)))])).collect();
    // Awaited backwards: it is the calls that count.
    for commit in commits.into_iter().rev() {
        commit.await.unwrap();
    }
    assert_eq!(store.read("orders").await.unwrap().shards, [shard("s", Some(100))]);
}

mod file_only;
#[cfg(feature = "sandbox")]
mod gates;
#[cfg(feature = "sandbox")]
mod part_only;
#[cfg(feature = "sandbox")]
mod parted;
#[cfg(feature = "sandbox")]
mod table_only;
