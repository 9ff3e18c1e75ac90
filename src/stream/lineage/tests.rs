use super::*;
use crate::model::SequenceNumber;
use crate::stream::listing::{Listed, Lister};
use crate::stream::source::ListingPage;

const HOUR: Duration = Duration::from_secs(3600);

fn id(text: &str) -> ShardId {
    ShardId::new(text)
}

fn at(hours: u32) -> WallTime {
    WallTime::from_secs(1_800_000_000).plus(HOUR * hours)
}

fn open(shard: &str, parent: &str) -> ShardListing {
    let parent = (!parent.is_empty()).then(|| id(parent));
    ShardListing { id: id(shard), parent, first: None, last: None }
}

fn closed(shard: &str, parent: &str) -> ShardListing {
    ShardListing { last: Some(SequenceNumber::parse("9").unwrap()), ..open(shard, parent) }
}

fn listing_as(status: StreamStatus, shards: &[ShardListing]) -> Listing {
    let page = ListingPage { status, view: None, shards: shards.to_vec(), next: None };
    match Lister::new().accept(page).unwrap() {
        Listed::All(listing) => listing,
        Listed::More(_) => unreachable!("one page"),
    }
}

fn listing(shards: &[ShardListing]) -> Listing {
    listing_as(StreamStatus::Enabled, shards)
}

fn pinned(shards: &[ShardListing]) -> Lineage {
    Lineage::pin(&listing(shards), at(0)).unwrap().0
}

fn readable(lineage: &Lineage) -> Vec<&str> {
    lineage.readable().map(ShardId::as_str).collect()
}

fn ids(new: &[NewShard]) -> Vec<&str> {
    new.iter().map(|new| new.id.as_str()).collect()
}

fn read(lineage: &mut Lineage, shard: &str, now: WallTime) {
    assert!(lineage.begin(&id(shard)), "{shard} is readable");
    assert!(lineage.finish(&id(shard), now), "{shard} was being read");
}

fn suspect(shard: &str, why: Suspicion) -> Suspect {
    Suspect { shard: id(shard), why }
}

fn row(shard: &str, parent: &str, status: ShardStatus) -> LineageRow {
    LineageRow { id: id(shard), parent: open(shard, parent).parent, status, last_listed: at(0), lost: false }
}

// Case 3.
#[test]
fn a_parent_that_still_looks_open_is_closed_by_its_listed_child() {
    let lineage = pinned(&[open("p", ""), open("c", "p")]);
    assert_eq!(readable(&lineage), ["p"]);
    let counts = lineage.counts();
    assert_eq!((counts.closed_pending, counts.waiting_parent, counts.open), (1, 1, 0));
}

// Case 4.
#[test]
fn a_finished_shard_awaits_its_children_for_as_long_as_it_takes() {
    let mut lineage = pinned(&[closed("p", ""), open("other", "")]);
    read(&mut lineage, "p", at(0));
    lineage.merge_listing(&listing(&[closed("p", ""), open("other", "")]), at(9));
    let awaiting: Vec<_> = lineage.awaiting_children(at(9)).collect();
    assert_eq!(awaiting, [Awaiting { id: id("p"), since: at(0), waited: HOUR * 9 }]);
    assert_eq!(readable(&lineage), ["other"], "others go on");
    let found = lineage.merge_listing(&listing(&[closed("p", ""), open("c", "p")]), at(10));
    assert_eq!(ids(&found.new_shards), ["c"]);
    assert_eq!(lineage.awaiting_children(at(10)).count(), 0);
}

// Case 5.
#[test]
fn a_second_child_is_read_though_it_comes_later() {
    let mut lineage = pinned(&[closed("p", "")]);
    read(&mut lineage, "p", at(0));
    assert_eq!(ids(&lineage.merge_children(&id("p"), &[open("a", "p")], at(1))), ["a"]);
    assert_eq!(ids(&lineage.merge_children(&id("p"), &[open("b", "p"), open("a", "p")], at(2))), ["b"]);
    assert_eq!(readable(&lineage), ["a", "b"]);
}

// Case 6.
#[test]
fn a_child_of_a_trimmed_parent_that_we_finished_goes_on_without_a_gap() {
    let mut lineage = pinned(&[closed("p", "")]);
    read(&mut lineage, "p", at(0));
    let found = lineage.merge_listing(&listing(&[open("c", "p")]), at(30));
    assert!(found.suspects.is_empty());
    assert_eq!(readable(&lineage), ["c"]);
}

// Cases 6 and 31, G3.
#[test]
fn a_child_of_a_parent_that_we_never_saw_is_read_only_after_a_gap() {
    let mut lineage = pinned(&[closed("g", "")]);
    read(&mut lineage, "g", at(0));
    let found = lineage.merge_listing(&listing(&[open("c", "p")]), at(30));
    let why = suspect("c", Suspicion::UnknownParent);
    assert_eq!(found.suspects, std::slice::from_ref(&why));
    assert!(readable(&lineage).is_empty());
    assert_eq!(lineage.resolve(&why, at(30)), Some(ShardStatus::Reading));
    assert_eq!(readable(&lineage), ["c"]);
    assert!(lineage.suspects().is_empty());
}

// Case 6.
#[test]
fn the_first_pin_takes_trimmed_parents_as_they_are() {
    let (mut lineage, new) =
        Lineage::pin(&listing(&[open("c", "gone"), closed("r", ""), open("d", "r")]), at(0)).unwrap();
    let statuses: Vec<_> = new.iter().map(|new| (new.id.as_str(), new.status)).collect();
    let (waiting, reading) = (ShardStatus::Waiting, ShardStatus::Reading);
    assert_eq!(statuses, [("c", reading), ("r", reading), ("d", waiting)]);
    let again = lineage.merge_listing(&listing(&[open("c", "gone"), closed("r", ""), open("d", "r")]), at(1));
    assert_eq!(again, Discovery::default());
}

// Case 7.
#[test]
fn rows_are_created_ancestors_first_whatever_the_ids() {
    let mut lineage = pinned(&[open("z", "")]);
    let found =
        lineage.merge_listing(&listing(&[open("a", "m"), closed("m", "y"), closed("y", "z"), closed("z", "")]), at(1));
    assert_eq!(ids(&found.new_shards), ["y", "m", "a"]);
}

// Case 8.
#[test]
fn a_shard_born_and_closed_between_two_polls_is_read() {
    let mut lineage = pinned(&[open("p", "")]);
    lineage.merge_listing(&listing(&[closed("p", ""), closed("c", "p"), open("d", "c")]), at(1));
    for shard in ["p", "c"] {
        assert_eq!(readable(&lineage), [shard]);
        read(&mut lineage, shard, at(1));
    }
    assert_eq!(readable(&lineage), ["d"]);
}

// Case 9.
#[test]
fn a_finished_shard_that_is_listed_again_is_never_read_again() {
    let mut lineage = pinned(&[closed("p", ""), open("c", "p")]);
    read(&mut lineage, "p", at(0));
    for (hour, listed) in [(1, vec![open("c", "p")]), (2, vec![open("p", ""), open("c", "p")])] {
        let found = lineage.merge_listing(&listing(&listed), at(hour));
        assert!(found.suspects.is_empty() && found.new_shards.is_empty());
        assert_eq!(readable(&lineage), ["c"]);
    }
}

// Cases 9 and 10.
#[test]
fn a_finished_row_is_kept_for_48_hours_after_it_left_the_listing() {
    let mut lineage = pinned(&[closed("p", ""), open("c", "p")]);
    read(&mut lineage, "p", at(0));
    assert!(lineage.begin(&id("c")));
    let found = lineage.merge_listing(&listing(&[closed("p", ""), open("c", "p")]), at(20));
    assert_eq!(found.relisted, [(id("p"), at(20))]);
    assert!(!lineage.forget(&id("p"), at(90)), "it is still listed");
    lineage.merge_listing(&listing(&[open("c", "p")]), at(21));
    assert_eq!(lineage.forgettable(at(68)).count(), 0);
    assert_eq!(lineage.forgettable(at(69)).collect::<Vec<_>>(), [&id("p")]);
    assert!(lineage.forget(&id("p"), at(69)));
    let found = lineage.merge_listing(&listing(&[open("c", "p")]), at(70));
    assert_eq!(found, Discovery::default(), "the child is past its start");
}

// Case 10.
#[test]
fn a_finished_row_stays_until_each_known_child_is_past_its_start() {
    let mut lineage = pinned(&[closed("p", ""), closed("a", "p"), open("b", "p")]);
    read(&mut lineage, "p", at(0));
    lineage.merge_listing(&listing(&[closed("a", "p"), open("b", "p")]), at(1));
    assert!(lineage.begin(&id("a")));
    assert!(!lineage.forget(&id("p"), at(99)));
    assert!(lineage.begin(&id("b")));
    assert!(lineage.forget(&id("p"), at(99)));
}

// Case 14.
#[test]
fn a_late_sibling_with_a_smaller_id_is_found() {
    let mut lineage = pinned(&[closed("m", ""), open("z", "m")]);
    let found = lineage.merge_listing(&listing(&[open("a", "m"), closed("m", ""), open("z", "m")]), at(1));
    assert_eq!(ids(&found.new_shards), ["a"]);
}

// Case 15.
#[test]
fn an_unfiltered_or_empty_answer_about_children_does_no_harm() {
    let mut lineage = pinned(&[closed("p", ""), open("q", "")]);
    let everything = [closed("p", ""), open("q", ""), open("stranger", ""), open("cousin", "q"), open("c", "p")];
    assert_eq!(ids(&lineage.merge_children(&id("p"), &everything, at(1))), ["c"]);
    assert!(lineage.merge_children(&id("p"), &[], at(1)).is_empty());
    assert!(lineage.merge_children(&id("unknown"), &[open("x", "unknown")], at(1)).is_empty());
    assert!(lineage.suspects().is_empty());
}

#[test]
fn a_child_that_no_full_listing_has_shown_yet_is_not_taken_as_vanished() {
    let mut lineage = pinned(&[closed("p", "")]);
    read(&mut lineage, "p", at(0));
    lineage.merge_children(&id("p"), &[open("c", "p")], at(0));
    let found = lineage.merge_listing(&listing(&[closed("p", "")]), at(1));
    assert!(found.suspects.is_empty(), "that listing may have begun before");
    lineage.merge_listing(&listing(&[closed("p", "")]), at(2));
    let found = lineage.merge_listing(&listing(&[closed("p", "")]), at(3));
    assert_eq!(found.suspects, [suspect("c", Suspicion::Vanished)]);
}

// Case 16.
#[test]
fn nothing_follows_from_what_a_stream_that_is_being_enabled_does_not_list() {
    assert!(Lineage::pin(&listing_as(StreamStatus::Enabling, &[]), at(0)).is_none());
    assert!(Lineage::pin(&listing(&[]), at(0)).is_none());
    let mut lineage = pinned(&[open("p", "")]);
    for status in [StreamStatus::Enabling, StreamStatus::Enabled] {
        assert!(lineage.merge_listing(&listing_as(status, &[]), at(1)).suspects.is_empty());
        assert_eq!(readable(&lineage), ["p"]);
    }
}

// Case 17.
#[test]
fn a_disabled_stream_is_read_to_the_end_of_each_leaf() {
    let disabled = |shards: &[ShardListing]| listing_as(StreamStatus::Disabled, shards);
    let mut lineage = pinned(&[open("a", ""), open("b", "")]);
    lineage.merge_listing(&disabled(&[closed("a", ""), closed("b", "")]), at(1));
    assert_eq!(readable(&lineage), ["a", "b"]);
    read(&mut lineage, "a", at(1));
    assert!(!lineage.is_exhausted());
    assert_eq!(lineage.awaiting_children(at(1)).count(), 0, "there will be none");
    read(&mut lineage, "b", at(1));
    assert!(lineage.is_exhausted());
}

// Cases 31 and 33, G2.
#[test]
fn an_unfinished_shard_that_is_no_longer_listed_is_given_up_under_a_gap() {
    let mut lineage = pinned(&[closed("p", ""), open("c", "p")]);
    let found = lineage.merge_listing(&listing(&[open("c", "p")]), at(30));
    let why = suspect("p", Suspicion::Vanished);
    assert_eq!(found.suspects, std::slice::from_ref(&why));
    assert!(!lineage.begin(&id("c")), "the child waits for the gap");
    assert_eq!(lineage.resolve(&why, at(30)), Some(ShardStatus::Finished));
    assert_eq!(lineage.resolve(&why, at(30)), None);
    assert_eq!(readable(&lineage), ["c"]);
}

// Case 33.
#[test]
fn a_shard_that_is_listed_is_not_given_up_because_a_call_did_not_find_it() {
    let mut lineage = pinned(&[open("p", "")]);
    assert_eq!(lineage.give_up(&id("p"), at(1)), GiveUp::StillListed);
    assert_eq!(readable(&lineage), ["p"]);
    lineage.merge_listing(&listing(&[open("q", "")]), at(2));
    assert_eq!(lineage.give_up(&id("p"), at(2)), GiveUp::Finished);
    assert_eq!(lineage.give_up(&id("p"), at(2)), GiveUp::NotReading);
}

#[test]
fn a_shard_that_was_read_to_its_end_before_it_was_missed_is_not_read_again() {
    let mut lineage = pinned(&[open("p", ""), open("q", "")]);
    lineage.merge_listing(&listing(&[open("q", "")]), at(1));
    lineage.resolve(&suspect("p", Suspicion::Vanished), at(1));
    lineage.found(&id("p"));
    let found = lineage.merge_listing(&listing(&[open("p", ""), open("q", "")]), at(2));
    assert_eq!(found.suspects, []);
    assert_eq!(readable(&lineage), ["q"]);
}

#[test]
fn a_shard_that_was_given_up_and_comes_back_open_is_read_again_under_a_gap() {
    let mut lineage = pinned(&[open("p", ""), open("q", "")]);
    lineage.merge_listing(&listing(&[open("q", "")]), at(1));
    lineage.resolve(&suspect("p", Suspicion::Vanished), at(1));
    let found = lineage.merge_listing(&listing(&[open("p", ""), open("q", "")]), at(2));
    let why = suspect("p", Suspicion::Reappeared);
    assert_eq!(found.suspects, std::slice::from_ref(&why));
    assert_eq!(lineage.resolve(&why, at(2)), Some(ShardStatus::Reading));
    assert_eq!(readable(&lineage), ["p", "q"]);
}

#[test]
fn a_shard_that_comes_back_after_its_child_began_is_not_read_again() {
    let mut lineage = pinned(&[closed("p", ""), open("c", "p")]);
    lineage.merge_listing(&listing(&[open("c", "p")]), at(1));
    lineage.resolve(&suspect("p", Suspicion::Vanished), at(1));
    assert!(lineage.begin(&id("c")));
    lineage.merge_listing(&listing(&[closed("p", ""), open("c", "p")]), at(2));
    let why = suspect("p", Suspicion::Reappeared);
    assert_eq!(lineage.resolve(&why, at(2)), Some(ShardStatus::Finished));
    assert!(lineage.suspects().is_empty(), "one gap is enough");
}

#[test]
fn a_parent_that_shows_up_after_its_child_began_is_healed_and_not_read() {
    let mut lineage = pinned(&[open("c", "late")]);
    let found = lineage.merge_listing(&listing(&[closed("late", ""), open("c", "late")]), at(1));
    let why = suspect("late", Suspicion::Overtaken);
    assert_eq!(found.suspects, std::slice::from_ref(&why));
    assert_eq!(readable(&lineage), ["c"]);
    assert_eq!(lineage.resolve(&why, at(1)), Some(ShardStatus::Finished));
    assert!(lineage.suspects().is_empty());
}

#[test]
fn a_shard_of_unknown_parent_waits_for_vanished_shards_that_it_may_descend_from() {
    let mut lineage = pinned(&[closed("z", "")]);
    let found = lineage.merge_listing(&listing(&[open("c", "unseen")]), at(30));
    assert_eq!(found.suspects, [suspect("z", Suspicion::Vanished)]);
    lineage.resolve(&suspect("z", Suspicion::Vanished), at(30));
    assert_eq!(lineage.suspects(), [suspect("c", Suspicion::UnknownParent)]);
}

#[test]
fn a_restart_goes_on_where_the_rows_say() {
    let (waiting, reading, finished) = (ShardStatus::Waiting, ShardStatus::Reading, ShardStatus::Finished);
    let rows = [row("p", "", finished), row("c", "p", reading), row("d", "p", waiting), row("e", "c", waiting)];
    let mut lineage = Lineage::restore(rows);
    assert_eq!(readable(&lineage), ["c", "d"]);
    let same = listing(&[closed("p", ""), closed("c", "p"), open("d", "p"), open("e", "c")]);
    let found = lineage.merge_listing(&same, at(0));
    assert_eq!(found, Discovery::default());
}

#[test]
fn a_new_shard_is_no_older_than_the_last_listing_without_it() {
    let mut lineage = pinned(&[open("p", "")]);
    let found = lineage.merge_listing(&listing(&[closed("p", ""), open("c", "p")]), at(5));
    assert_eq!(found.new_shards[0].born_after, Some(at(0)));
    let mut lineage = Lineage::restore([row("p", "", ShardStatus::Reading)]);
    let found = lineage.merge_listing(&listing(&[closed("p", ""), open("c", "p")]), at(5));
    assert_eq!(found.new_shards[0].born_after, None, "this run has not listed before");
}

// Found by the model test.
#[test]
fn a_shard_being_read_stops_when_a_late_shard_shows_that_a_grandchild_began() {
    let mut lineage = pinned(&[closed("g", ""), open("d", "late")]);
    let found = lineage.merge_listing(&listing(&[closed("g", ""), closed("late", "g"), open("d", "late")]), at(1));
    assert_eq!(found.suspects, [suspect("g", Suspicion::Overtaken)]);
    assert_eq!(readable(&lineage), ["d"]);
    assert_eq!(lineage.resolve(&found.suspects[0], at(1)), Some(ShardStatus::Finished));
    assert_eq!(lineage.suspects(), [suspect("late", Suspicion::Overtaken)]);
}

// Found by the model test.
#[test]
fn a_shard_of_unknown_parent_that_vanishes_before_it_was_resolved_still_tells_of_both() {
    let mut lineage = Lineage::restore([row("g", "", ShardStatus::Finished), row("d", "unseen", ShardStatus::Waiting)]);
    let found = lineage.merge_listing(&listing(&[open("e", "d")]), at(30));
    assert_eq!(found.suspects, [suspect("d", Suspicion::UnknownParent), suspect("d", Suspicion::Vanished)]);
    let statuses: Vec<_> = found.suspects.iter().map(|suspect| lineage.resolve(suspect, at(30))).collect();
    assert_eq!(statuses, [None, Some(ShardStatus::Finished)]);
    assert!(lineage.suspects().is_empty());
    assert_eq!(readable(&lineage), ["e"]);
}

#[test]
fn an_inconclusive_listing_makes_no_shard_leave() {
    let mut lineage = pinned(&[open("p", "")]);
    lineage.merge_listing(&listing(&[]), at(1));
    assert_eq!(lineage.give_up(&id("p"), at(1)), GiveUp::StillListed);
}

#[test]
fn a_shard_of_unknown_parent_waits_for_a_vanished_one_that_may_be_above_it() {
    let mut lineage = Lineage::restore([row("z", "unseen", ShardStatus::Waiting)]);
    let found = lineage.merge_listing(&listing(&[open("c", "unseen too")]), at(30));
    assert_eq!(found.suspects, [suspect("z", Suspicion::UnknownParent), suspect("z", Suspicion::Vanished)]);
    lineage.resolve(&suspect("z", Suspicion::Vanished), at(30));
    assert_eq!(lineage.suspects(), [suspect("c", Suspicion::UnknownParent)]);
}

#[test]
fn a_shard_whose_child_was_gone_before_it_was_listed_is_not_waited_for_all_day() {
    let minutes = |n: u64| at(1).plus(Duration::from_secs(60 * n));
    let waits = |lineage: &Lineage| lineage.awaiting_children(at(2)).map(|awaiting| awaiting.id).collect::<Vec<_>>();
    let shards = [closed("a", ""), open("b", "gone")];
    let mut lineage = pinned(&[open("a", "")]);
    read(&mut lineage, "a", at(1));
    assert_eq!(lineage.merge_listing(&listing(&shards), minutes(1)).suspects, [suspect("b", Suspicion::UnknownParent)]);
    lineage.resolve(&suspect("b", Suspicion::UnknownParent), minutes(1));
    lineage.merge_listing(&listing(&shards), minutes(4));
    assert_eq!(waits(&lineage), [id("a")], "its children may just be late");
    lineage.merge_listing(&listing(&shards), minutes(6));
    assert_eq!(waits(&lineage), []);

    // Another run knows of the gap from its row.
    let rows = || [row("a", "", ShardStatus::Finished), row("b", "gone", ShardStatus::Reading)];
    for (gap_at, expected) in [(None, vec![id("a")]), (Some(minutes(1)), vec![])] {
        let mut lineage = Lineage::restore(rows()).with_stranger(gap_at);
        lineage.merge_listing(&listing(&shards), minutes(10));
        lineage.merge_listing(&listing(&shards), minutes(16));
        assert_eq!(waits(&lineage), expected);
    }
}

#[test]
fn a_shard_that_was_given_up_with_writes_under_way_is_read_again_after_a_restart_if_it_comes_back() {
    let given_up = || LineageRow { lost: true, ..row("p", "", ShardStatus::Reading) };
    let mut lineage = Lineage::restore([given_up()]);
    assert!(readable(&lineage).is_empty(), "its row says that nothing of it is admitted");
    let found = lineage.merge_listing(&listing(&[open("p", "")]), at(1));
    let why = suspect("p", Suspicion::Reappeared);
    assert_eq!(found.suspects, std::slice::from_ref(&why));
    assert_eq!(lineage.resolve(&why, at(1)), Some(ShardStatus::Reading));
    // Its child had begun, as under a shard that was left: then it is not read on, and the listing can be merged.
    for parent in [given_up(), row("p", "", ShardStatus::Reading)] {
        let mut lineage = Lineage::restore([parent, row("c", "p", ShardStatus::Reading)]);
        let found = lineage.merge_listing(&listing(&[closed("p", ""), open("c", "p")]), at(1));
        assert_eq!(found.suspects.len(), 1);
        assert_eq!(lineage.resolve(&found.suspects[0], at(1)), Some(ShardStatus::Finished));
        assert_eq!(readable(&lineage), ["c"]);
    }
}

#[test]
fn a_shard_that_was_given_up_before_a_restart_may_be_open_when_it_comes_back() {
    let mut lineage = Lineage::restore([LineageRow { lost: true, ..row("a", "", ShardStatus::Reading) }]);
    lineage.merge_listing(&listing(&[open("a", "")]), at(1));
    assert_eq!(lineage.resolve(&suspect("a", Suspicion::Reappeared), at(1)), Some(ShardStatus::Reading));
    assert!(!lineage.is_known_closed(&id("a")), "an empty page of it is one of an open shard");
    let read = Lineage::restore([row("b", "", ShardStatus::Finished)]);
    assert!(read.is_known_closed(&id("b")));
}
