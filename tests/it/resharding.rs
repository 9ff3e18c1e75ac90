//! Shards roll over and split under load, late and in numbers: nothing is lost, nothing comes out of order.

use std::time::Duration;

use dynaferry::sandbox::{FaultKind, FaultRule, Options, ShardView, Trigger};

use crate::world::{HOUR, World};

const MILLIS: Duration = Duration::from_millis(1);

/// Writes each of a few keys again and again, deletes some, for `steps` steps of 20 ms.
async fn write_for(world: &World, steps: usize) {
    for n in 0..steps {
        world.put(n % 17, n % 3, &format!("value {n}"));
        world.put(n % 5, 0, &format!("hot {n}"));
        if n % 4 == 0 {
            world.delete(n % 17, (n + 1) % 3);
        }
        tokio::time::sleep(20 * MILLIS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn shards_that_roll_and_split_every_second_are_all_read_in_order() {
    let world = World::paused(Options {
        seed: 1,
        shard_life: 1000 * MILLIS,
        split_chance: 0.5,
        max_open_shards: 12,
        ..Options::default()
    });
    let service = world.serve("");
    write_for(&world, 600).await;
    service.until_equal(&world).await;
    assert!(world.sandbox.shards("111111111111", "eu-west-1", "orders").unwrap().len() > 20);
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn children_that_are_listed_late_and_one_by_one_are_all_read() {
    let world = World::paused(Options {
        seed: 2,
        shard_life: 2000 * MILLIS,
        split_chance: 0.7,
        children_delay: 3000 * MILLIS,
        children_stagger: 10_000 * MILLIS,
        empty_page_chance: 0.3,
        ..Options::default()
    });
    let service = world.serve("");
    write_for(&world, 300).await;
    service.until_equal(&world).await;
    assert!(world.gaps().await.is_empty(), "late children are no loss");
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn children_that_are_minutes_late_are_looked_for_less_and_less_often() {
    let late = HOUR / 3;
    let world = World::paused(Options {
        seed: 7,
        initial_shards: 1..=1,
        shard_life: HOUR * 1000,
        children_delay: late,
        ..Options::default()
    });
    world.put(1, 1, "before");
    let service = world.serve("");
    service.until_equal(&world).await;
    let calls = || service.metric("dynaferry_requests_total", &["op=\"DescribeStream\""]);
    let before = calls();
    world.sandbox.roll_shards("111111111111", "eu-west-1", "orders").unwrap();
    tokio::time::sleep(late).await;
    // Ten a second are all that the account has, for all who read its streams. One listing every 30 s is due anyway, and
    // the parent is asked as seldom.
    let calls = calls() - before;
    assert!((40.0..120.0).contains(&calls), "{calls} calls in 20 minutes");
    world.put(1, 1, "after");
    service.until_equal(&world).await;
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_last_page_with_records_and_one_without_both_end_a_shard() {
    for (seed, chance) in [(3, 1.0), (4, 0.0)] {
        let world = World::paused(Options { seed, final_page_with_records_chance: chance, ..Options::default() });
        let service = world.serve("");
        for round in 0..8 {
            // Every second generation of shards is closed without a record.
            if round % 2 == 0 {
                write_for(&world, 10).await;
            }
            world.sandbox.roll_shards("111111111111", "eu-west-1", "orders").unwrap();
            tokio::time::sleep(300 * MILLIS).await;
        }
        write_for(&world, 10).await;
        service.until_equal(&world).await;
        assert!(world.gaps().await.is_empty());
        service.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_shards_are_found_and_read_in_turns() {
    let world = World::paused(Options {
        seed: 5,
        initial_shards: 230..=230,
        max_open_shards: 300,
        split_chance: 0.2,
        shard_life: 20_000 * MILLIS,
        ..Options::default()
    });
    for n in 0..300 {
        world.put(n, n, "before");
    }
    let service = world.serve("stream.max_concurrent_shards = 3");
    for n in 0..300 {
        world.put(n, n, "after");
        world.put(n, n + 1000, "new");
        tokio::time::sleep(100 * MILLIS).await;
    }
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn rows_of_finished_shards_are_kept_two_days_and_then_forgotten() {
    let world =
        World::paused(Options { seed: 6, initial_shards: 2..=2, shard_life: HOUR * 1000, ..Options::default() });
    let service = world.serve("stream.poll_min = \"5s\"\nstream.poll_max = \"20s\"");
    for day in 0..5 {
        for n in 0..4 {
            world.put(n, 0, &format!("day {day}"));
        }
        service.until_equal(&world).await;
        // A quarter of a day at a time, as a listing sees it; positions are confirmed in between.
        for _ in 0..4 {
            world.sandbox.roll_shards("111111111111", "eu-west-1", "orders").unwrap();
            tokio::time::sleep(Duration::from_secs(90)).await;
            world.clock().skip(HOUR * 6);
            tokio::time::sleep(Duration::from_secs(90)).await;
        }
    }
    service.until_equal(&world).await;
    assert!(world.gaps().await.is_empty(), "{:?}", world.gaps().await);
    let rows = world.state().await.shards.len();
    assert!((2 * 8..2 * 16).contains(&rows), "two to three days of shards, one of them listed: {rows}");
    service.stop().await.unwrap();
}

/// A world in which the parent of an open shard stands first in a listing of one shard a page, before the two shards that
/// were there before it. The child stands anywhere behind.
async fn world_with_a_young_parent_listed_first() -> World {
    for seed in 0..200 {
        let world = World::paused(Options {
            seed,
            initial_shards: 3..=3,
            shard_life: HOUR * 1000,
            odd_shard_ids: true,
            max_page_shards: 1,
            ..Options::default()
        });
        let shards = || world.sandbox.shards("111111111111", "eu-west-1", "orders").unwrap();
        let old = shards();
        tokio::time::sleep(30_000 * MILLIS).await;
        world.sandbox.split_shard("111111111111", "eu-west-1", "orders", 0).unwrap();
        let is_new = |before: &[ShardView], shard: &ShardView| before.iter().all(|known| known.id != shard.id);
        let parents = shards();
        for n in 0..40 {
            world.put(n, 0, "of the parent, if it is there");
        }
        world.sandbox.split_shard("111111111111", "eu-west-1", "orders", 0).unwrap();
        let all = shards();
        let child = all.iter().find(|shard| is_new(&parents, shard)).unwrap();
        let parent = child.parent.clone().unwrap();
        let first_old = old.iter().map(|shard| &shard.id).min().unwrap();
        let is_young = parents.iter().any(|shard| shard.id == parent && is_new(&old, shard));
        let children_are_behind = all.iter().filter(|shard| is_new(&parents, shard)).all(|shard| shard.id > *first_old);
        if is_young && parent < *first_old && children_are_behind {
            return world;
        }
    }
    panic!("no seed makes such a world");
}

#[tokio::test(start_paused = true)]
async fn a_parent_that_came_into_being_while_the_first_pages_were_listed_is_no_loss() {
    let world = world_with_a_young_parent_listed_first().await;
    // The first page is as it was before the parent came, the others are of now: the child seems to have none.
    let stale = FaultKind::StaleListing(20_000 * MILLIS);
    world.faults(vec![FaultRule::new("DescribeStream", Trigger::Next(1), stale)]);
    let service = world.serve("");
    service.until_equal(&world).await;
    assert_eq!(world.sandbox.fault_counts().get("describe.stale_listing"), Some(&1));
    write_for(&world, 100).await;
    tokio::time::sleep(HOUR).await;
    service.until_equal(&world).await;
    assert!(world.gaps().await.is_empty(), "nothing was lost: {:?}", world.gaps().await);
    service.stop().await.unwrap();
}
