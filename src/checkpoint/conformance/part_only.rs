//! What is promised of parts besides what is promised of links: they are made once, and gone when they are removed.

use super::super::dynamodb::TableStore;
use super::super::{Leases as _, PartName};
use super::table_only::{ACCOUNT, Cloud, REGION, TABLE, next};
use super::*;
use crate::sandbox::FaultKind;

fn part(number: u32) -> PartName {
    PartName { link: "orders".into(), epoch: 3, number }
}

async fn move_on(store: &TableStore, fence: &Fence, n: u64) -> Result<(), StoreError> {
    store.commit("orders/3.0", fence, vec![StateWrite::Shard(shard("s", Some(n)))]).await
}

/// Items of the table that name parts or are of them.
fn items_of_parts(cloud: &Cloud) -> usize {
    let items = cloud.sandbox.snapshot(ACCOUNT, REGION, TABLE).unwrap();
    items.keys().filter(|key| key.windows(9).any(|bytes| bytes == b"orders/3.")).count()
}

#[tokio::test(start_paused = true)]
async fn a_part_begins_with_what_its_maker_left_and_nobody_owned_it_before() {
    let cloud = Cloud::new(31);
    let store = cloud.open("fleet").await.unwrap();
    let writes = vec![StateWrite::Link(link_row()), StateWrite::Shard(shard("s", Some(4)))];
    store.make_part(&part(0), "maker", writes).await.unwrap();
    let sighting = store.sight("orders/3.0", false).await.unwrap();
    assert!(sighting.released, "whoever comes need not wait for its maker");
    let (fence, state) = store.take_from("orders/3.0", "w", sighting.fence.as_ref()).await.unwrap().unwrap();
    assert_eq!((fence.epoch, state.link, state.shards), (1, Some(link_row()), vec![shard("s", Some(4))]));
    assert_eq!(store.link_row("orders/3.0").await.unwrap(), Some(link_row()));
    assert_eq!(store.link_row("orders").await.unwrap(), None, "the link's own partition has nothing of it");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_was_not_made_or_is_removed_is_taken_by_nobody() {
    let cloud = Cloud::new(32);
    let store = cloud.open("fleet").await.unwrap();
    assert!(store.take_from("orders/3.0", "w", None).await.unwrap().is_none());
    assert!(matches!(store.take("orders/3.0", "w").await, Err(StoreError::Fenced { .. })));
    assert_eq!(items_of_parts(&cloud), 0, "and who tried left nothing");
    store.make_part(&part(0), "maker", vec![StateWrite::Link(link_row())]).await.unwrap();
    let seen = store.sight("orders/3.0", false).await.unwrap().fence;
    store.remove_part(&part(0)).await.unwrap();
    assert!(store.take_from("orders/3.0", "w", seen.as_ref()).await.unwrap().is_none());
    assert!(store.take_from("orders/3.0", "w", None).await.unwrap().is_none());
    assert_eq!(items_of_parts(&cloud), 0);
}

#[tokio::test(start_paused = true)]
async fn the_owner_of_a_removed_part_is_superseded_and_writes_nothing() {
    let cloud = Cloud::new(33);
    let (store, leader) = (cloud.open("fleet").await.unwrap(), cloud.open("fleet").await.unwrap());
    leader.make_part(&part(0), "leader", vec![]).await.unwrap();
    let (fence, _) = store.take("orders/3.0", "w").await.unwrap();
    move_on(&store, &fence, 1).await.unwrap();
    leader.remove_part(&part(0)).await.unwrap();
    for _ in 0..2 {
        let error = move_on(&store, &fence, 2).await.unwrap_err();
        assert!(matches!(error, StoreError::Fenced { .. }), "no table is gone: {error:?}");
    }
    store.release("orders/3.0", "w").await.unwrap();
    assert_eq!(items_of_parts(&cloud), 0);
}

#[tokio::test(start_paused = true)]
async fn all_of_a_part_goes_however_much_it_is_and_nothing_else() {
    let cloud = Cloud::new(34);
    let store = cloud.open("fleet").await.unwrap();
    let large = |n: u64| DeadLetterRow { item_json: Some("x".repeat(700 << 10)), ..letter(n) };
    let mut writes: Vec<_> = (0..250).map(|n| StateWrite::Shard(shard(&format!("s{n:03}"), Some(1)))).collect();
    writes.extend((1..=2).map(|n| StateWrite::DeadLetter(large(n))));
    for number in 0..2 {
        store.make_part(&part(number), "maker", writes.clone()).await.unwrap();
    }
    let (fence, _) = store.take("orders", "a").await.unwrap();
    store.commit("orders", &fence, vec![StateWrite::Link(link_row())]).await.unwrap();
    assert_eq!(store.parts("orders").await.unwrap(), [part(0), part(1)]);
    let both = items_of_parts(&cloud);
    store.remove_part(&part(0)).await.unwrap();
    assert_eq!(
        (items_of_parts(&cloud), both),
        (both / 2, 2 * 259),
        "entry, head, counters, 250 shards, 2 × 3 items of letters"
    );
    assert_eq!(store.parts("orders").await.unwrap(), [part(1)]);
    assert_eq!(store.read("orders").await.unwrap().link, Some(link_row()));
    assert_eq!(store.dead_letters("orders/3.1", 0, 9).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_part_is_made_once_and_what_comes_late_of_that_changes_nothing() {
    let cloud = Cloud::new(35);
    let store = cloud.open("fleet").await.unwrap();
    cloud.faults(vec![
        next("PutItem", 2, FaultKind::LoseAnswer),
        next("TransactWriteItems", 1, FaultKind::DeliverLate(Duration::from_secs(12 * 60))),
    ]);
    store.make_part(&part(0), "maker", vec![StateWrite::Shard(shard("s", Some(1)))]).await.unwrap();
    cloud.faults(Vec::new());
    let again = store.make_part(&part(0), "maker", vec![StateWrite::Shard(shard("s", Some(1)))]).await;
    assert!(matches!(again, Err(StoreError::Fenced { .. })), "{again:?}");
    let (fence, _) = store.take("orders/3.0", "w").await.unwrap();
    move_on(&store, &fence, 2).await.unwrap();
    tokio::time::sleep(Duration::from_secs(15 * 60)).await;
    assert_eq!(store.read("orders/3.0").await.unwrap().shards, [shard("s", Some(2))]);
    move_on(&store, &fence, 3).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_making_or_removing_that_breaks_off_leaves_what_is_found_and_removed() {
    let cloud = Cloud::new(36);
    let store = cloud.open("fleet").await.unwrap();
    let writes: Vec<_> = (0..250).map(|n| StateWrite::Shard(shard(&format!("s{n:03}"), Some(1)))).collect();
    let down = || FaultKind::Throttle("ThrottlingException".into());
    for (allowed, operation) in [(0, "PutItem"), (1, "PutItem"), (0, "TransactWriteItems"), (1, "TransactWriteItems")] {
        let mut rules = vec![next(operation, allowed, FaultKind::Hold(Duration::from_millis(1)))];
        rules.push(next(operation, 1_000, down()));
        cloud.faults(rules);
        store.make_part(&part(0), "maker", writes.clone()).await.unwrap_err();
        cloud.faults(Vec::new());
        if allowed > 0 || operation != "PutItem" {
            assert_eq!(store.parts("orders").await.unwrap(), [part(0)], "{operation} {allowed}");
        }
        store.remove_part(&part(0)).await.unwrap();
        assert_eq!(items_of_parts(&cloud), 0, "{operation} {allowed}");
    }
    for operation in ["TransactWriteItems", "DeleteItem"] {
        store.make_part(&part(0), "maker", writes.clone()).await.unwrap();
        cloud.faults(vec![next(operation, 1_000, down())]);
        store.remove_part(&part(0)).await.unwrap_err();
        cloud.faults(Vec::new());
        assert_eq!(store.parts("orders").await.unwrap(), [part(0)], "{operation}");
        store.remove_part(&part(0)).await.unwrap();
        assert_eq!(items_of_parts(&cloud), 0, "{operation}");
    }
}
