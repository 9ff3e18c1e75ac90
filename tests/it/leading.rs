//! What the leader of a divided link looks after while others read its shards.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::Mode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::sharing::{
    SHARED, STATE, options, parts, poison_target, put_poisoned, until_divided, until_equal, worker_with, world,
    world_of, write_for, written,
};
use crate::world::{HOUR, Process, REGION, SOURCE, TARGET, World};

/// By which epochs the link was divided whose parts the state table knows of.
fn divisions(world: &World) -> BTreeSet<String> {
    let items = world.sandbox.snapshot(TARGET, REGION, STATE).unwrap_or_default();
    let keys = items.keys().map(|key| String::from_utf8_lossy(key).into_owned());
    let parts = keys.filter(|key| key.contains("default/parts"));
    let epoch = |key: String| Some(key.split_once("orders/")?.1.split_once('.')?.0.to_owned());
    parts.filter_map(epoch).collect()
}

/// Writes for so long, and answers how long a key's change waited at most.
async fn longest_wait(world: &World, time: Duration, mut look: impl FnMut()) -> Duration {
    let (begun, mut n) = (Instant::now(), 0);
    let (mut waits, mut longest): (HashMap<_, Instant>, _) = (HashMap::new(), Duration::ZERO);
    while begun.elapsed() < time {
        world.put(n % 50, 0, &format!("while it is shared {n}"));
        n += 1;
        let source = world.sandbox.snapshot(SOURCE, REGION, "orders").unwrap();
        let target = world.sandbox.snapshot(TARGET, REGION, "orders-copy").unwrap();
        waits.retain(|key, _| source.get(key) != target.get(key));
        for key in source.iter().filter(|(key, item)| target.get(*key) != Some(item)).map(|(key, _)| key) {
            longest = longest.max(waits.entry(key.clone()).or_insert_with(Instant::now).elapsed());
        }
        look();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    longest
}

#[tokio::test(start_paused = true)]
async fn a_link_whose_trees_grew_apart_is_divided_anew_after_an_hour_and_then_stays_so() {
    let world = world_of(Options { initial_shards: 2..=2, shard_life: 24 * HOUR, max_open_shards: 64, ..options(915) });
    let more = format!("stream.poll_max = \"2s\"\n{SHARED}");
    let (one, border_one) = worker_with(&world, &more);
    until_equal(&one, &world).await;
    let (two, border_two) = worker_with(&world, &more);
    until_divided(&one, &world).await;
    let (first, began) = (divisions(&world), Instant::now());
    assert_eq!((first.len(), parts(&world)), (1, 2));
    // One of both shards becomes twelve.
    for n in 0..11 {
        assert!(world.sandbox.split_shard(SOURCE, REGION, "orders", n % 6).unwrap());
        write_for(&world, 10, "it splits").await;
    }
    let mut seen = vec![(Instant::now(), first)];
    let look = || {
        let now = divisions(&world);
        if seen.last().is_some_and(|(_, last)| *last != now) {
            seen.push((Instant::now(), now));
        }
    };
    let longest = longest_wait(&world, HOUR * 9 / 4, look).await;
    let seen: Vec<_> = seen.into_iter().map(|(at, epochs)| (at.duration_since(began), epochs.len())).collect();
    println!("{seen:?}, and no change waited longer than {longest:?}");
    let [_, (whole, 0), (divided, 1)] = seen[..] else { panic!("{seen:?}") };
    assert!(whole > HOUR * 9 / 10 && divided - whole < Duration::from_secs(120), "{seen:?}");
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    assert_eq!(parts(&world), 8);
    let since = Instant::now();
    write_for(&world, 300, "shared again").await;
    until_equal(&one, &world).await;
    let (by_one, by_two) = (written(&border_one, since), written(&border_two, since));
    assert!(!by_one.is_empty() && !by_two.is_empty(), "{by_one:?} {by_two:?}");
    assert_eq!(by_one.intersection(&by_two).collect::<Vec<_>>(), Vec::<&String>::new());
    for worker in [&one, &two] {
        assert_eq!(worker.metric("dynaferry_takeovers_total", &["kind=\"unclean\""]), 0.0);
    }
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn what_was_set_aside_is_told_once_though_putting_the_link_together_broke_off() {
    let world = world(914);
    let more = format!("apply.on_rejected = \"dead_letter\"\n{SHARED}");
    let (one, _) = worker_with(&world, &more);
    until_equal(&one, &world).await;
    let (two, _) = worker_with(&world, &more);
    until_divided(&one, &world).await;
    poison_target(&world, Some("poison"));
    put_poisoned(&world);
    let told = || [&one, &two].map(|worker| worker.metric("dynaferry_dead_letters", &[])).contains(&1.0);
    one.until("it is set aside", told).await;
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    let own_rows = || {
        let items = world.sandbox.snapshot(TARGET, REGION, STATE).unwrap();
        let keys = items.keys().map(|key| String::from_utf8_lossy(key).into_owned());
        keys.filter(|key| key.contains("default/link/orders") && !key.contains("default/link/orders/")).count()
    };
    let before = own_rows();
    let slow = FaultKind::Hold(Duration::from_millis(500));
    world.faults(vec![FaultRule::new("TransactWriteItems", Trigger::Chance(1.0), slow).for_table(STATE)]);
    let unshared = more.replace("sharing = true", "");
    let (alone, _) = worker_with(&world, &unshared);
    alone.until("the link has rows of its parts", || own_rows() > before).await;
    alone.kill().await;
    world.no_faults();
    let (looks, lists) = [(); 2].map(|()| world.program_by_config(world.config(&more), Mode::Oneshot)).into();
    let status = looks.stored_status().await.unwrap();
    assert!(parts(&world) >= 2, "the test is void");
    assert_eq!(status.links[0].dead_letters, 1);
    let letters = lists.dead_letters(&[]).await.unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    let (last, _) = worker_with(&world, &unshared);
    last.until("the link is whole", || parts(&world) == 0).await;
    last.until("its letter is told", || last.status().dead_letters == 1).await;
    last.stop().await.unwrap();
}

/// Takes the row of a shard away that a part reads.
fn lose_a_row(world: &World) {
    let rows = world.ask(TARGET, "Scan", &format!(r#"{{"TableName":"{STATE}"}}"#))["Items"].clone();
    let is_of_part = |row: &&Value| row["pk"]["S"].as_str().unwrap().contains("link/orders/");
    let is_shard = |row: &&Value| row["v"]["S"].as_str().is_some_and(|row| row.contains("\"verified_at\""));
    let row = rows.as_array().unwrap().iter().filter(is_of_part).find(is_shard).expect("a part's shard");
    let key = json!({"TableName": STATE, "Key": {"pk": row["pk"], "sk": row["sk"]}});
    world.call(TARGET, "DeleteItem", &key.to_string());
}

/// How far the link is behind, as its leader says.
fn told(workers: &[&Process]) -> Option<f64> {
    workers.iter().filter_map(|worker| worker.status().lag_seconds).reduce(f64::max)
}

#[tokio::test(start_paused = true)]
async fn while_a_shard_may_be_nobodys_the_leader_does_not_say_that_the_copy_is_current() {
    let world = world_of(Options { max_page_shards: 2, ..options(916) });
    let (one, _) = worker_with(&world, SHARED);
    until_equal(&one, &world).await;
    let (two, _) = worker_with(&world, SHARED);
    until_divided(&one, &world).await;
    // A listing takes twenty seconds. So long is it suspected: from the answer of one to that of the next one.
    let slow = FaultKind::Hold(Duration::from_secs(5));
    world.faults(vec![FaultRule::new("DescribeStream", Trigger::Chance(1.0), slow)]);
    for _ in 0..120 {
        let lag = told(&[&one, &two]).expect("a leader tells");
        assert!(lag < 12.0, "{lag}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    lose_a_row(&world);
    let mut last = 0.0;
    one.until("the link is whole", || {
        last = told(&[&one, &two]).unwrap_or(last);
        parts(&world) == 0
    })
    .await;
    assert!(last >= 18.0, "it said {last} when it had missed a shard for 20 seconds");
    world.no_faults();
    write_for(&world, 30, "whole").await;
    until_equal(&one, &world).await;
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_part_that_stays_an_hour_behind_alone_is_for_the_whole_which_is_not_divided_again_soon() {
    let world = world(917);
    let more = format!("stream.poll_max = \"5s\"\n{SHARED}");
    let (one, _) = worker_with(&world, &more);
    until_equal(&one, &world).await;
    let (two, _) = worker_with(&world, &more);
    until_divided(&one, &world).await;
    // A batch that names this key is too much for the target, whatever else is in it.
    let throttle = || FaultKind::Throttle("ProvisionedThroughputExceededException".into());
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), throttle()).for_table("p7")]);
    let stuck = Instant::now();
    world.put(7, 0, "stuck");
    while stuck.elapsed() < HOUR * 85 / 60 {
        assert!(parts(&world) >= 2, "{:?}", stuck.elapsed());
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    one.until("the link is whole", || parts(&world) == 0).await;
    assert!(stuck.elapsed() < HOUR * 95 / 60, "{:?}", stuck.elapsed());
    world.no_faults();
    until_equal(&one, &world).await;
    let whole = Instant::now();
    while whole.elapsed() < HOUR {
        assert_eq!(parts(&world), 0, "what it lacked is no more than it was");
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    world.assert_equal();
}
