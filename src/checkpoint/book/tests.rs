//! What must be durable before what.

use std::time::Duration;

use super::*;
use crate::checkpoint::rows::{ExportPlan, GapRow, GapScope, LinkIdentity, LoadPlan, Stage};
use crate::model::{KeyAttribute, KeyKind, KeySchema, StreamArn};

const GHOST: Duration = Duration::from_secs(960);

fn at(secs: i64) -> WallTime {
    WallTime::from_secs(secs)
}

fn link(clean: bool) -> LinkRow {
    let arn = |name: &str| format!("arn:aws:dynamodb:eu-west-1:111122223333:table/{name}").parse().unwrap();
    LinkRow {
        identity: LinkIdentity {
            source: arn("orders"),
            source_id: "1".into(),
            target_id: "t".into(),
            stream: StreamArn("stream".into()),
            target: arn("copy"),
            keys: KeySchema { hash: KeyAttribute { name: "pk".into(), kind: KeyKind::S }, range: None },
        },
        stage: Stage::Streaming,
        load: None,
        start_from: None,
        owns_target: true,
        clean,
        ghosts_until: None,
        settled_until: None,
        expiry_attributes: BTreeMap::new(),
        signed_ahead: Duration::ZERO,
        gates: 0,
        gated_at: None,
    }
}

/// The row of a link that drained.
pub(crate) fn link_for_tests() -> LinkRow {
    link(true)
}

fn shard(name: &str) -> ShardRow {
    ShardRow {
        id: ShardId::new(name),
        parent: None,
        status: ShardStatus::Reading,
        checkpoint: None,
        checkpoint_time: None,
        dispatch: None,
        verified_at: at(0),
        last_listed: at(0),
        debts: Vec::new(),
        is_trimmed: false,
        is_lost: false,
    }
}

fn number(n: u64) -> SequenceNumber {
    SequenceNumber::parse(&n.to_string()).unwrap()
}

fn key(name: u8) -> Key {
    Key { canonical: CanonicalKey::from_canonical([name]), json: format!("{{\"pk\":{{\"S\":\"{name}\"}}}}").into() }
}

fn book_with(name: &str) -> Book {
    let mut book = Book::new(link(false), GHOST);
    book.create_shards([shard(name)]);
    book.take_writes();
    book
}

fn admit(book: &mut Book, name: &str, numbers: std::ops::Range<u64>) -> Vec<Token> {
    let keys: Vec<_> = numbers.clone().map(|n| key(u8::try_from(n).unwrap())).collect();
    let arrivals: Vec<_> = numbers
        .zip(&keys)
        .map(|(n, key)| Arrival { sequence: number(n), created: at(0), bytes: 1, key: Some(key) })
        .collect();
    book.admit(&ShardId::new(name), &arrivals).unwrap()
}

fn written_shard(writes: &[StateWrite]) -> &ShardRow {
    writes.iter().rev().find_map(|write| if let StateWrite::Shard(row) = write { Some(row) } else { None }).unwrap()
}

#[test]
fn records_are_dispatched_only_after_the_row_says_so() {
    let mut book = book_with("a");
    admit(&mut book, "a", 1..4);
    assert!(book.is_urgent());
    let writes = book.take_writes();
    assert_eq!((written_shard(&writes).dispatch, written_shard(&writes).checkpoint), (Some(number(3)), None));
}

#[test]
fn the_checkpoint_stops_at_the_first_hole() {
    let mut book = book_with("a");
    let tokens = admit(&mut book, "a", 1..5);
    book.take_writes();
    let settled = [0, 1, 3].map(|n| tokens.get(n).unwrap().clone());
    book.settle(settled).unwrap();
    assert_eq!(written_shard(&book.take_writes()).checkpoint, Some(number(2)));
}

#[test]
fn a_lost_answer_is_listed_before_the_checkpoint_that_passes_it() {
    let mut book = book_with("a");
    let tokens = admit(&mut book, "a", 1..2);
    book.take_writes();
    book.in_doubt(&key(1), at(100));
    book.settle(tokens).unwrap();
    let writes = book.take_writes();
    let doubt = writes.iter().position(|write| matches!(write, StateWrite::Doubt(row) if row.until == at(1060)));
    let checkpoint =
        writes.iter().position(|write| matches!(write, StateWrite::Shard(row) if row.checkpoint.is_some()));
    assert!(doubt.unwrap() < checkpoint.unwrap(), "{writes:?}");
}

/// Whether others are told that it was read to its end.
fn is_told_finished(book: &mut Book, name: &str) -> bool {
    let is_it = |finished: &FinishedShard| finished.id == ShardId::new(name) && !finished.is_lost;
    book.take_events().iter().any(|event| matches!(event, Event::ShardFinished(finished) if is_it(finished)))
}

#[test]
fn a_shard_is_finished_when_it_is_drained_and_settled_and_not_before() {
    let mut book = book_with("a");
    let tokens = admit(&mut book, "a", 1..3);
    book.drained(&ShardId::new("a")).unwrap();
    assert_eq!(written_shard(&book.take_writes()).status, ShardStatus::Reading);
    assert!(!is_told_finished(&mut book, "a"));
    book.settle(tokens).unwrap();
    assert!(book.is_urgent());
    assert_eq!(written_shard(&book.take_writes()).status, ShardStatus::Finished);
    assert!(is_told_finished(&mut book, "a"));
}

#[test]
fn a_process_that_dies_again_and_again_owes_no_more_for_it() {
    let row = ShardRow { checkpoint: Some(number(10)), dispatch: Some(number(12)), ..shard("a") };
    let mut state = LinkState { shards: vec![row], ..LinkState::default() };
    for n in 0..10 {
        let mut book = Book::take_over(state.clone(), link(false), at(100 + n), GHOST);
        let row = written_shard(&book.take_writes()).clone();
        assert_eq!(row.debts, [Debt { to: number(12), until: at(1060 + n) }]);
        state.shards = vec![row];
    }
}

#[test]
fn what_an_owner_with_a_clock_ahead_may_have_sent_is_owed_longer() {
    let row = ShardRow { checkpoint: Some(number(10)), dispatch: Some(number(12)), ..shard("a") };
    let ahead = LinkRow { signed_ahead: Duration::from_secs(700), ..link(false) };
    let state = LinkState { shards: vec![row], ..LinkState::default() };
    let mut book = Book::take_over(state, ahead, at(100), GHOST);
    assert_eq!(book.link().ghosts_until, Some(at(1760)));
    let row = written_shard(&book.take_writes()).clone();
    assert_eq!(row.debts, [Debt { to: number(12), until: at(1760) }]);
    // The next one's clock is right, and it dies at once.
    let state = LinkState { shards: vec![row], ..LinkState::default() };
    let mut book = Book::take_over(state, link(false), at(110), GHOST);
    assert_eq!(written_shard(&book.take_writes()).debts, [Debt { to: number(12), until: at(1760) }]);
}

#[test]
fn what_a_dead_owner_may_have_sent_becomes_doubts_as_it_is_applied_again() {
    let row = ShardRow { checkpoint: Some(number(10)), dispatch: Some(number(12)), ..shard("a") };
    let state = LinkState { shards: vec![row], ..LinkState::default() };
    let mut book = Book::take_over(state, link(false), at(100), GHOST);
    let debts = |writes: &[StateWrite]| written_shard(writes).debts.clone();
    assert_eq!(debts(&book.take_writes()), [Debt { to: number(12), until: at(1060) }]);
    let tokens = admit(&mut book, "a", 11..15);
    let writes = book.take_writes();
    let doubts: Vec<_> = writes.iter().filter(|write| matches!(write, StateWrite::Doubt(_))).collect();
    assert_eq!(doubts.len(), 2, "11 and 12 may have been sent, 13 and 14 were not");
    book.settle(tokens).unwrap();
    assert!(debts(&book.take_writes()).is_empty());
    assert_eq!(book.num_doubts(), 2);
}

#[test]
fn a_clean_stop_leaves_no_debt() {
    let row = ShardRow { checkpoint: Some(number(10)), dispatch: Some(number(12)), ..shard("a") };
    let state = LinkState { shards: vec![row], ..LinkState::default() };
    let mut book = Book::take_over(state, link(true), at(100), GHOST);
    admit(&mut book, "a", 11..13);
    assert_eq!(book.num_doubts(), 0);
    let writes = book.take_writes();
    assert!(
        matches!(writes.first(), Some(StateWrite::Link(row)) if !row.clean),
        "it is not clean any more, first of all"
    );
}

#[test]
fn late_writes_of_a_dead_owner_are_remembered_by_all_owners_after_it() {
    let after = |row: LinkRow, now, sent: Option<u64>| {
        let row_of_shard = ShardRow { checkpoint: Some(number(10)), dispatch: sent.map(number), ..shard("a") };
        let state = LinkState { shards: vec![row_of_shard], ..LinkState::default() };
        let book = Book::take_over(state, row, at(now), GHOST);
        book.link().clone()
    };
    let never = after(link(true), 10, Some(12));
    assert_eq!(never.ghosts_until, None);
    let idle = after(never.clone(), 50, Some(10));
    assert_eq!(idle.ghosts_until, None, "what had sent nothing beyond its checkpoints leaves nothing behind");
    let dead = after(idle, 100, Some(12));
    assert_eq!(dead.ghosts_until, Some(at(1060)));
    let clean = LinkRow { clean: true, ..dead.clone() };
    assert_eq!(after(clean, 110, Some(12)).ghosts_until, Some(at(1060)), "a clean stop in between changes nothing");
    assert_eq!(after(dead.clone(), 110, Some(10)).ghosts_until, Some(at(1060)));
    assert_eq!(after(dead, 110, Some(12)).ghosts_until, Some(at(1070)));
}

#[test]
fn keys_in_doubt_wait_again_when_their_owner_died() {
    let under_way = true;
    let row = |n: u8, page| DoubtRow { key: key(n).canonical, key_json: "{}".into(), until: at(50), page, under_way };
    let page = Some(PageId { segment: 0, number: 0 });
    let doubts = vec![row(1, None), row(2, page)];
    let state = LinkState { doubts, ..LinkState::default() };
    let mut book = Book::take_over(state.clone(), link(false), at(100), GHOST);
    assert_eq!((book.num_doubts(), book.next_due()), (2, Some(at(1060))));
    let writes = book.take_writes();
    let forgotten = writes.iter().position(|write| *write == StateWrite::ForgetPages);
    let listed = writes.iter().rposition(|write| matches!(write, StateWrite::Doubt(_)));
    assert!(listed < forgotten, "the keys of the page are listed by themselves before it goes");
    assert!(due(&mut book, at(1059)).is_empty());
    assert_eq!(due(&mut book, at(1060)).len(), 2);
    let clean = Book::take_over(state, link(true), at(100), GHOST);
    assert_eq!(
        (clean.num_doubts(), clean.next_due()),
        (1, Some(at(50))),
        "a page of a drained owner is not on its way"
    );
}

/// Takes what is due as the bookkeeper does: announced, written down, then given out.
fn due(book: &mut Book, now: WallTime) -> Vec<(Key, Token)> {
    book.announce_due(now, 10);
    book.take_writes();
    book.take_due(now, 10)
}

/// The keys in doubt as they are stored.
fn stored(writes: &[StateWrite]) -> Vec<DoubtRow> {
    let rows =
        writes.iter().filter_map(|write| if let StateWrite::Doubt(row) = write { Some(row.clone()) } else { None });
    rows.collect()
}

#[test]
fn a_process_that_is_killed_again_and_again_still_settles_its_doubts() {
    let mut book = book_with("a");
    book.in_doubt(&key(1), at(0));
    let mut rows = stored(&book.take_writes());
    // Killed every minute, and nothing sent for this key meanwhile: it waits for the one lost answer, and no longer.
    for minute in 1..=16 {
        let state = LinkState { doubts: rows.clone(), ..LinkState::default() };
        book = Book::take_over(state, link(false), at(60 * minute), GHOST);
        assert_eq!(book.next_due(), Some(at(960)));
        rows = book.doubts.values().map(|doubt| doubt.row.clone()).collect();
    }
    let (_, token) = due(&mut book, at(960)).pop().unwrap();
    book.settle([token]).unwrap();
    assert_eq!(book.num_doubts(), 0);
}

#[test]
fn a_key_waits_again_only_after_an_owner_that_may_have_been_syncing_it() {
    let mut book = book_with("a");
    book.in_doubt(&key(1), at(0));
    book.in_doubt(&key(2), at(500));
    book.take_writes();
    book.announce_due(at(960), 10);
    assert!(book.is_urgent());
    let announced = stored(&book.take_writes());
    assert_eq!(announced.iter().map(|row| (&row.key, row.under_way)).collect::<Vec<_>>(), [(&key(1).canonical, true)]);
    assert_eq!(book.take_due(at(960), 10).len(), 1);
    // The owner dies with the sync on the wire.
    let doubts: Vec<_> = book.doubts.values().map(|doubt| doubt.row.clone()).collect();
    let next = Book::take_over(LinkState { doubts, ..LinkState::default() }, link(false), at(970), GHOST);
    let until = |book: &Book, n| book.doubts.get(&key(n).canonical).map(|doubt| doubt.row.until);
    assert_eq!((until(&next, 1), until(&next, 2)), (Some(at(970 + 960)), Some(at(500 + 960))));
    // The next one had neither of them under way.
    let doubts: Vec<_> = next.doubts.values().map(|doubt| doubt.row.clone()).collect();
    let last = Book::take_over(LinkState { doubts, ..LinkState::default() }, link(false), at(980), GHOST);
    assert_eq!((until(&last, 1), until(&last, 2)), (Some(at(970 + 960)), Some(at(500 + 960))));
}

#[test]
fn a_due_key_is_not_synced_before_its_row_says_so() {
    let mut book = book_with("a");
    book.in_doubt(&key(1), at(0));
    book.take_writes();
    assert!(book.take_due(at(960), 10).is_empty(), "not announced");
    book.announce_due(at(960), 10);
    assert!(book.take_due(at(960), 10).is_empty(), "announced, and not durably");
    book.take_writes();
    assert_eq!(book.take_due(at(960), 10).len(), 1);
}

#[test]
fn a_key_that_a_page_of_the_load_brings_while_it_is_synced_stays_listed() {
    let mut book = book_with("a");
    book.sync_now(&key(1), at(10));
    let (_, token) = due(&mut book, at(10)).pop().unwrap();
    let after = SegmentRow { segment: 0, cursor: None, done: false, items: 1, bytes: 1 };
    book.open_page(PageId { segment: 0, number: 0 }, vec![key(1)], after);
    book.take_writes();
    book.settle([token]).unwrap();
    assert!(!book.take_writes().iter().any(|write| matches!(write, StateWrite::Settle(_))));
    assert_eq!(due(&mut book, at(11)).len(), 1, "it is synced once more, behind the item or in its place");
}

#[test]
fn a_key_is_synced_only_when_it_is_durably_listed_and_leaves_the_list_when_settled() {
    let mut book = book_with("a");
    book.sync_now(&key(1), at(10));
    assert!(book.take_due(at(10), 10).is_empty(), "not durable yet");
    book.take_writes();
    let (_, token) = book.take_due(at(10), 10).pop().unwrap();
    book.settle([token]).unwrap();
    assert!(matches!(book.take_writes().as_slice(), [StateWrite::Settle(_)]));
    assert_eq!(book.take_events(), [Event::Synced(key(1).canonical)]);
}

#[test]
fn a_key_that_is_listed_again_while_it_is_synced_stays_listed() {
    let mut book = book_with("a");
    book.sync_now(&key(1), at(10));
    book.take_writes();
    let (_, token) = book.take_due(at(10), 10).pop().unwrap();
    book.in_doubt(&key(1), at(11));
    book.in_doubt(&key(2), at(12));
    assert_eq!(book.listed(), (Some(0), 2));
    book.settle([token]).unwrap();
    assert_eq!(book.listed(), (Some(0), 2), "it was never off the list");
    assert_eq!((book.num_doubts(), book.next_due()), (2, Some(at(11 + 960))));
    let (_, again) = due(&mut book, at(11 + 960)).pop().unwrap();
    book.settle([again]).unwrap();
    assert_eq!((book.num_doubts(), book.listed()), (1, (Some(1), 2)));
    let (_, other) = due(&mut book, at(12 + 960)).pop().unwrap();
    book.settle([other]).unwrap();
    assert_eq!((book.num_doubts(), book.listed()), (0, (None, 2)));
}

#[test]
fn a_page_moves_its_cursor_when_all_its_items_are_settled() {
    let mut book = book_with("a");
    let page = PageId { segment: 3, number: 0 };
    let after = SegmentRow { segment: 3, cursor: Some("{}".into()), done: false, items: 2, bytes: 10 };
    book.open_page(page, vec![key(1), key(2)], after.clone());
    assert!(book.take_writes().contains(&StateWrite::Page(page, vec![key(1), key(2)])));
    book.settle([Token::Item(page)]).unwrap();
    assert!(book.take_writes().is_empty());
    book.settle([Token::Item(page)]).unwrap();
    assert_eq!(book.take_events(), [Event::PageDone(page)]);
    assert_eq!(book.take_writes(), [StateWrite::Segment(after), StateWrite::SettlePage(page)]);
}

#[test]
fn the_first_pin_is_marked_complete_last() {
    let mut book = Book::new(link(false), GHOST);
    book.create_shards([shard("a")]);
    let writes = book.take_writes();
    assert!(matches!(writes.last(), Some(StateWrite::Link(_))), "{writes:?}");
}

fn segment(segment: u32) -> SegmentRow {
    SegmentRow { segment, cursor: None, done: false, items: 0, bytes: 0 }
}

fn export_plan(began: WallTime) -> LoadPlan {
    let export = ExportPlan {
        place: "s3://bucket/AWSDynamoDB/1-a/".parse().unwrap(),
        arn: None,
        bucket_owner: None,
        time: began,
        fingerprint: String::new(),
        window: None,
        not_before: None,
        items_before: 40,
        pace: None,
        is_loaded: false,
    };
    LoadPlan {
        total_segments: 2,
        began,
        expected_bytes: 0,
        expected_items: 0,
        export: Some(export),
        loaded_items: None,
    }
}

fn loading(began: WallTime) -> LinkRow {
    LinkRow { stage: Stage::Loading, load: Some(export_plan(began)), ..link(false) }
}

#[test]
fn while_an_export_is_loaded_no_key_is_synced_and_late_writes_are_waited_for() {
    let mut book = Book::take_over(LinkState::default(), loading(at(1000)), at(1000), GHOST);
    book.load_export();
    book.in_doubt(&key(1), at(1100));
    book.in_doubt(&key(2), at(1200));
    assert_eq!(book.last_due(), Some(at(2160)), "nothing of the next export is sent before this");
    assert!(due(&mut book, at(2059)).is_empty() && book.num_doubts() == 2);
    assert!(due(&mut book, at(2060)).is_empty(), "it is not read at the source, which is ahead of what is loaded");
    assert_eq!((book.num_doubts(), book.next_due()), (1, Some(at(2160))), "its late write has landed, or never will");
    book.check_listed(&[key(1).canonical]).unwrap();
    let writes = book.take_writes();
    assert!(writes.iter().any(|write| matches!(write, StateWrite::Settle(row) if row.key == key(1).canonical)));
    book.update_link(|link| link.stage = Stage::Streaming);
    assert_eq!(due(&mut book, at(2160)).len(), 1, "from then on keys are synced as always");
}

#[test]
fn a_key_whose_late_write_has_landed_is_still_of_the_page_that_is_under_way() {
    let mut book = Book::take_over(LinkState::default(), loading(at(1000)), at(1000), GHOST);
    book.load_export();
    book.in_doubt(&key(1), at(1100));
    let page = PageId { segment: 0, number: 1 };
    book.plan_segments([segment(0)]);
    book.open_page(page, vec![key(1), key(2)], SegmentRow { items: 2, done: true, ..segment(0) });
    book.take_writes();
    assert!(due(&mut book, at(2061)).is_empty() && book.num_doubts() == 0, "it has landed, or never will");
    let writes = book.take_writes();
    assert!(writes.iter().any(|write| matches!(write, StateWrite::Settle(row) if row.key == key(1).canonical)));
    // The page tells, after a crash, what may be on the wire.
    assert!(!writes.contains(&StateWrite::SettlePage(page)), "{writes:?}");
    book.settle([Token::Item(page), Token::Item(page)]).unwrap();
    assert!(book.take_writes().contains(&StateWrite::SettlePage(page)));
}

#[test]
fn what_was_listed_before_the_load_is_synced_when_the_stream_is_applied() {
    let doubt = DoubtRow { key: key(7).canonical, key_json: "{}".into(), until: at(50), page: None, under_way: true };
    let state = LinkState { doubts: vec![doubt], ..LinkState::default() };
    let mut book = Book::pin_over(state, loading(at(1000)), at(1000), GHOST);
    book.load_export();
    assert!(due(&mut book, at(9_000)).is_empty());
    assert_eq!((book.num_doubts(), book.next_due()), (1, None), "and nobody is woken for it");
    book.update_link(|link| link.stage = Stage::Streaming);
    assert_eq!(due(&mut book, at(9_000)).len(), 1);
}

#[test]
fn a_load_goes_on_when_all_of_its_new_plan_is_written() {
    let under_way =
        |key: Key, page| DoubtRow { key: key.canonical, key_json: "{}".into(), until: at(0), page, under_way: true };
    let gap = GapRow { id: 3, scope: GapScope::All, from: None, to: at(1), cause: String::new(), healed: None };
    let done = |n| SegmentRow { done: true, items: 10, ..segment(n) };
    let state = LinkState {
        shards: vec![shard("a"), shard("gone")],
        segments: vec![done(0), done(1)],
        doubts: vec![under_way(key(1), Some(PageId { segment: 0, number: 1 }))],
        gaps: vec![gap],
        ..LinkState::default()
    };
    let mut book = Book::load_on(state, loading(at(1000)), at(5000), GHOST);
    book.create_shards([shard("a")]);
    book.plan_segments([segment(0)]);
    assert_eq!(book.last_due(), Some(at(5960)), "an owner that did not drain has it on the wire");
    assert_eq!(book.gap_rows().count(), 1);
    let writes = book.take_writes();
    let position = |wanted: &dyn Fn(&StateWrite) -> bool| writes.iter().position(wanted).unwrap();
    let is_new = position(&|write| *write == StateWrite::Shard(shard("a")));
    assert!(position(&|write| *write == StateWrite::ForgetShard(ShardId::new("a"))) < is_new, "{writes:?}");
    let plan = position(&|write| matches!(write, StateWrite::Segment(_)));
    assert!(position(&|write| *write == StateWrite::ForgetSegments) < plan, "{writes:?}");
    // A plan without all of its segments would look like one that is loaded.
    assert!(matches!(writes.last(), Some(StateWrite::Link(_))), "{writes:?}");
}

#[test]
fn items_of_all_exports_of_a_load_are_counted() {
    let mut book = Book::take_over(LinkState::default(), loading(at(0)), at(0), GHOST);
    book.plan_segments([SegmentRow { items: 2, ..segment(0) }]);
    for _ in 0..2 {
        book.forget_segments();
        assert_eq!(book.link().load.as_ref().unwrap().loaded_items, Some(42), "also when it is told twice");
    }
}

#[test]
fn a_pin_first_removes_what_an_earlier_one_left_half_way() {
    let doubt = DoubtRow { key: key(1).canonical, key_json: "{}".into(), until: at(50), page: None, under_way: true };
    let begun = ShardRow { dispatch: Some(number(3)), ..shard("a") };
    let state = LinkState {
        shards: vec![begun, shard("gone")],
        segments: (0..9).map(segment).collect(),
        doubts: vec![doubt],
        ..LinkState::default()
    };
    let mut book = Book::pin_over(state, link(false), at(100), GHOST);
    book.create_shards([shard("a")]);
    book.plan_segments([segment(0), segment(1)]);
    assert_eq!(book.segment_rows().count(), 2);
    assert_eq!(book.next_due(), Some(at(1060)), "a repair without a link may be on the wire");
    let writes = book.take_writes();
    let position = |wanted: &dyn Fn(&StateWrite) -> bool| writes.iter().position(wanted).unwrap();
    let forgotten = |id: &str| position(&|write| *write == StateWrite::ForgetShard(ShardId::new(id)));
    let is_new = |write: &StateWrite| *write == StateWrite::Shard(shard("a"));
    assert!(forgotten("a") < position(&is_new) && forgotten("gone") < position(&is_new), "{writes:?}");
    let plan = position(&|write| matches!(write, StateWrite::Segment(_)));
    assert!(position(&|write| *write == StateWrite::ForgetSegments) < plan, "{writes:?}");
    assert!(matches!(writes.last(), Some(StateWrite::Link(_))), "{writes:?}");
}

#[test]
fn segments_beyond_the_plan_are_not_asked_for() {
    let load = LoadPlan {
        total_segments: 2,
        began: at(0),
        expected_bytes: 0,
        expected_items: 0,
        export: None,
        loaded_items: None,
    };
    let loading = LinkRow { stage: Stage::Loading, load: Some(load), ..link(false) };
    let state = LinkState { segments: (0..9).map(segment).collect(), ..LinkState::default() };
    let mut book = Book::take_over(state.clone(), loading.clone(), at(100), GHOST);
    assert_eq!(book.segment_rows().map(|row| row.segment).collect::<Vec<_>>(), [0, 1]);
    assert!(!book.take_writes().contains(&StateWrite::ForgetSegments));
    // Of a load that is over, none is: what tells so was durable before they were gone.
    let mut book = Book::take_over(state, LinkRow { stage: Stage::Streaming, ..loading }, at(100), GHOST);
    assert_eq!(book.segment_rows().count(), 0);
    assert!(book.take_writes().contains(&StateWrite::ForgetSegments));
}

fn rule(result: Result<(), BookError>) -> Invariant {
    match result.unwrap_err() {
        BookError::Violation(violation) => violation.rule,
        BookError::Shard { .. } => Invariant::L3,
        BookError::Unknown(what) => panic!("{what}"),
    }
}

fn commit(book: &mut Book) {
    book.take_writes();
    book.committed();
}

#[test]
fn a_checkpoint_that_would_move_back_or_settle_twice_is_refused() {
    let mut book = book_with("a");
    let tokens = admit(&mut book, "a", 1..3);
    book.settle(tokens[..1].to_vec()).unwrap();
    assert_eq!(rule(book.settle(tokens[..1].to_vec())), Invariant::L3);
    book.shards[0].row.checkpoint = Some(number(9));
    assert_eq!(rule(book.settle(tokens[1..].to_vec())), Invariant::L3);
}

#[test]
fn a_child_begins_when_its_parents_end_is_durable_and_not_before() {
    let mut book = book_with("parent");
    let child = ShardId::new("child");
    let row = ShardRow { parent: Some(ShardId::new("parent")), status: ShardStatus::Waiting, ..shard("child") };
    book.create_shards([row]);
    commit(&mut book);
    assert_eq!(rule(book.begin_shard(&child)), Invariant::L4);
    book.drained(&ShardId::new("parent")).unwrap();
    assert_eq!(rule(book.begin_shard(&child)), Invariant::L4, "finished, and not durably");
    let early = Arrival { sequence: number(1), created: at(0), bytes: 1, key: Some(&key(1)) };
    assert_eq!(rule(book.admit(&child, &[early]).map(drop)), Invariant::L4);
    commit(&mut book);
    book.begin_shard(&child).unwrap();
    book.admit(&child, &[early]).unwrap();
}

#[test]
fn the_child_of_a_lost_shard_begins_under_its_gap() {
    let mut book = book_with("parent");
    let row = ShardRow { parent: Some(ShardId::new("parent")), status: ShardStatus::Waiting, ..shard("child") };
    let orphan = ShardRow { parent: Some(ShardId::new("unknown")), status: ShardStatus::Waiting, ..shard("orphan") };
    book.create_shards([row, orphan]);
    admit(&mut book, "parent", 1..3);
    book.give_up_shard(&ShardId::new("parent")).unwrap();
    book.begin_shard(&ShardId::new("child")).unwrap();
    book.begin_shard(&ShardId::new("orphan")).unwrap();
}

#[test]
fn a_write_that_may_have_been_lost_is_settled_only_when_its_key_is_listed() {
    let mut book = book_with("a");
    assert_eq!(rule(book.check_listed(&[key(1).canonical])), Invariant::L5);
    book.in_doubt(&key(1), at(0));
    book.check_listed(&[key(1).canonical]).unwrap();
    assert_eq!(rule(book.check_listed(&[key(1).canonical, key(2).canonical])), Invariant::L5);
}

#[test]
fn nothing_is_sent_beyond_the_durable_dispatch_watermark() {
    let mut book = book_with("a");
    book.committed();
    let a = ShardId::new("a");
    admit(&mut book, "a", 1..4);
    assert_eq!(rule(book.check_dispatch(&a, number(3))), Invariant::L6);
    book.take_writes();
    assert_eq!(rule(book.check_dispatch(&a, number(3))), Invariant::L6, "given out, and not durable");
    book.committed();
    book.check_dispatch(&a, number(3)).unwrap();
    assert_eq!(rule(book.check_dispatch(&a, number(4))), Invariant::L6);
}

#[test]
fn a_gap_above_a_shard_of_unknown_parent_has_no_known_beginning() {
    let mut book = book_with("known");
    let row = |name: &str, parent: &str| ShardRow {
        parent: Some(ShardId::new(parent)),
        status: ShardStatus::Waiting,
        verified_at: at(500),
        ..shard(name)
    };
    book.create_shards([row("child", "known"), row("orphan", "unknown")]);
    for name in ["child", "orphan"] {
        let scope = GapScope::Shard(ShardId::new(name));
        let cause = "shard_late".to_owned();
        assert!(book.open_gap(GapRow { id: 0, scope, from: None, to: at(600), cause, healed: None }));
    }
    assert_eq!(book.gap_rows().map(|gap| gap.from).collect::<Vec<_>>(), [Some(at(498)), None]);
}

#[test]
fn a_position_without_a_checkpoint_is_as_old_as_the_oldest_record_that_is_owed() {
    let verified = |book: &Book| book.shard_rows().next().unwrap().verified_at;
    let a = ShardId::new("a");
    let mut book = book_with("a");
    book.confirm(&a, at(5_000), Duration::ZERO).unwrap();
    assert_eq!(verified(&book), at(5_000), "nothing is owed yet");

    let (old, new) = (key(1), key(2));
    let arrival = |n, created, key| Arrival { sequence: number(n), created: at(created), bytes: 1, key: Some(key) };
    let tokens = book.admit(&a, &[arrival(1, 100, &old), arrival(2, 4_900, &new)]).unwrap();
    assert_eq!(verified(&book), at(100));
    book.confirm(&a, at(6_000), Duration::ZERO).unwrap();
    assert_eq!(verified(&book), at(100), "reading proves nothing of where a restart would begin");

    book.settle(tokens).unwrap();
    assert_eq!(verified(&book), at(6_000), "the checkpoint is what a restart goes on from");
}

#[test]
fn idle_shards_are_written_seldom_and_together_and_a_busy_one_says_what_is_known() {
    let mut book = book_with("a");
    let (a, b, c) = (ShardId::new("a"), ShardId::new("b"), ShardId::new("c"));
    book.create_shards([shard("b"), shard("c")]);
    let written = |book: &mut Book| {
        let writes = book.take_writes();
        book.committed();
        let row = |write| if let StateWrite::Shard(row) = write { Some((row.id, row.verified_at)) } else { None };
        writes.into_iter().filter_map(row).collect::<Vec<_>>()
    };
    written(&mut book);
    let begun = book.shard_rows().map(|row| row.verified_at).max().unwrap();
    let after = |secs| begun.plus(Duration::from_secs(secs));
    let confirm = |book: &mut Book, shard: &ShardId, secs| {
        book.confirm(shard, after(secs), Duration::from_secs(600)).unwrap();
    };
    for secs in (60..600).step_by(60) {
        for shard in [&a, &b] {
            confirm(&mut book, shard, secs);
        }
        assert_eq!(written(&mut book), [], "{secs}");
    }
    // One of them has a record.
    let key = key(1);
    book.admit(&a, &[Arrival { sequence: number(1), created: after(570), bytes: 1, key: Some(&key) }]).unwrap();
    assert_eq!(written(&mut book), [(a.clone(), after(540))], "with what is written anyway");
    confirm(&mut book, &c, 200);
    confirm(&mut book, &b, 600);
    assert_eq!(written(&mut book), [(b.clone(), after(600))], "the others are not due for long");
    confirm(&mut book, &c, 599);
    confirm(&mut book, &b, 1_200);
    assert_eq!(
        written(&mut book),
        [(b.clone(), after(1_200)), (c.clone(), after(599))],
        "one that is due soon goes along"
    );
    confirm(&mut book, &c, 900);
    book.drop_shard(&c);
    written(&mut book);
    confirm(&mut book, &b, 1_800);
    assert_eq!(written(&mut book), [(b, after(1_800))], "a row that is gone does not come back");
}

#[test]
fn what_comes_late_of_a_shard_that_was_given_up_is_not_admitted() {
    let mut book = book_with("a");
    let a = ShardId::new("a");
    assert!(!book.is_given_up(&a));
    // Not finished yet: what was admitted before is still to be settled.
    admit(&mut book, "a", 1..3);
    book.give_up_shard(&a).unwrap();
    assert!(book.is_given_up(&a));
    let late = key(3);
    let arrival = Arrival { sequence: number(3), created: at(0), bytes: 1, key: Some(&late) };
    assert_eq!(rule(book.admit(&a, &[arrival]).map(drop)), Invariant::L4);
    book.begin_shard(&a).unwrap();
    assert!(!book.is_given_up(&a), "it is listed again");
}

#[test]
fn a_shard_that_is_missed_after_its_end_was_read_is_not_lost_and_does_not_open_again() {
    let a = ShardId::new("a");
    for is_settled_first in [true, false] {
        let mut book = book_with("a");
        let tokens = admit(&mut book, "a", 1..3);
        book.drained(&a).unwrap();
        if is_settled_first {
            book.settle(tokens).unwrap();
            book.give_up_shard(&a).unwrap();
        } else {
            book.give_up_shard(&a).unwrap();
            book.settle(tokens).unwrap();
        }
        assert!(is_told_finished(&mut book, "a"), "settled first: {is_settled_first}");
        assert!(!book.is_given_up(&a));
        book.begin_shard(&a).unwrap();
        let writes = book.take_writes();
        let row = written_shard(&writes);
        assert_eq!((row.status, row.is_lost), (ShardStatus::Finished, false));
    }
}

#[test]
fn what_is_left_to_a_heal_ends_as_finished_and_not_as_lost() {
    let mut book = book_with("a");
    let a = ShardId::new("a");
    let child = ShardRow { parent: Some(a.clone()), status: ShardStatus::Waiting, ..shard("child") };
    book.create_shards([child]);
    let tokens = admit(&mut book, "a", 1..3);
    book.leave_shard(&a).unwrap();
    assert!(book.is_given_up(&a), "a page of it that comes late is not admitted");
    book.begin_shard(&ShardId::new("child")).unwrap();
    let row = |book: &Book| book.shard_rows().find(|row| row.id == a).unwrap().clone();
    assert_eq!((row(&book).status, row(&book).is_lost), (ShardStatus::Reading, false), "its writes are not settled");
    book.settle(tokens).unwrap();
    assert_eq!((row(&book).status, row(&book).is_lost), (ShardStatus::Finished, false));

    let mut book = book_with("a");
    book.give_up_shard(&a).unwrap();
    assert_eq!((row(&book).status, row(&book).is_lost), (ShardStatus::Finished, true));
    book.leave_shard(&a).unwrap();
    assert_eq!((row(&book).status, row(&book).is_lost), (ShardStatus::Finished, false));
    assert!(book.is_urgent());
}

#[test]
fn a_stream_that_was_replaced_told_everything_up_to_its_last_record_whatever_was_read_since() {
    let all = || GapRow {
        id: 0,
        scope: GapScope::All,
        from: None,
        to: at(9_000),
        cause: "stream_replaced".into(),
        healed: None,
    };
    let from = |book: &mut Book| {
        book.open_gap(all());
        let gap = book.take_writes().into_iter().find_map(|write| match write {
            StateWrite::Gap(row) => Some(row.from),
            _ => None,
        });
        gap.unwrap()
    };
    let a = ShardId::new("a");
    let mut book = book_with("a");
    book.confirm(&a, at(8_000), Duration::ZERO).unwrap();
    assert_eq!(from(&mut book), None, "nothing was read: since when is unknown");

    let mut book = book_with("a");
    let key = key(1);
    let arrival = Arrival { sequence: number(1), created: at(4_000), bytes: 1, key: Some(&key) };
    let tokens = book.admit(&a, &[arrival]).unwrap();
    book.settle(tokens).unwrap();
    book.confirm(&a, at(8_000), Duration::ZERO).unwrap();
    book.take_writes();
    assert_eq!(from(&mut book), Some(at(3_998)));

    let mut book = book_with("a");
    let arrival = Arrival { sequence: number(1), created: at(4_000), bytes: 1, key: Some(&key) };
    let tokens = book.admit(&a, &[arrival]).unwrap();
    book.settle(tokens).unwrap();
    book.drained(&a).unwrap();
    book.take_writes();
    assert_eq!(from(&mut book), Some(at(3_998)), "also when it was read to its end");
}

#[test]
fn the_end_of_a_shard_that_was_given_up_is_no_news_once_it_begins_again() {
    let a = ShardId::new("a");
    let mut book = book_with("a");
    let is_end = |event: &Event| matches!(event, Event::ShardFinished(finished) if finished.id == a);
    book.give_up_shard(&a).unwrap();
    book.begin_shard(&a).unwrap();
    assert!(!book.take_events().iter().any(is_end));
    let writes = book.take_writes();
    let row = written_shard(&writes);
    assert_eq!((row.status, row.is_lost), (ShardStatus::Reading, false));
}

#[test]
fn shards_of_a_stream_that_was_replaced_have_no_rows() {
    let mut book = book_with("a");
    book.drop_shard(&ShardId::new("a"));
    book.create_shards([shard("b")]);
    let rows: Vec<&str> = book.shard_rows().map(|row| row.id.as_str()).collect();
    assert_eq!(rows, ["b"]);
}

#[test]
fn a_shard_that_was_given_up_by_an_owner_that_died_is_finished_and_may_begin_again() {
    let a = ShardId::new("a");
    let given_up = ShardRow { checkpoint: Some(number(10)), dispatch: Some(number(12)), is_lost: true, ..shard("a") };
    let state = LinkState { shards: vec![given_up], ..LinkState::default() };
    let mut book = Book::take_over(state, link(false), at(100), GHOST);
    let row = written_shard(&book.take_writes()).clone();
    assert_eq!((row.status, row.is_lost), (ShardStatus::Finished, true));
    book.begin_shard(&a).unwrap();
    admit(&mut book, "a", 11..14);
    assert_eq!(book.num_doubts(), 2, "what the dead owner had sent of it is in doubt, also when it comes back");
}
