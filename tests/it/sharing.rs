//! Several workers and the shards of one link: who reads which, and what becomes of them when workers come and go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dynaferry::runtime::VerifyOptions;
use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::{Mode, Phase};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::border::Border;
use crate::world::{HOUR, Process, REGION, TARGET, World, failed};

pub(crate) const STATE: &str = "dynaferry-state";
pub(crate) const SHARED: &str = "[checkpoint]\nstore = \"dynamodb:dynaferry-state\"\nsharing = true";
pub(crate) const LEASE: Duration = Duration::from_secs(20);

pub(crate) fn options(seed: u64) -> Options {
    // As DynamoDB does it, a shard lives for hours.
    Options { seed, initial_shards: 8..=8, shard_life: 4 * HOUR, ..Options::default() }
}

pub(crate) fn world_of(options: Options) -> World {
    let world = World::paused(options);
    (0..50).for_each(|n| world.put(n, 0, "before"));
    world
}

pub(crate) fn world(seed: u64) -> World {
    world_of(options(seed))
}

pub(crate) fn worker_with(world: &World, more: &str) -> (Process, Arc<Border>) {
    let border = Border::new();
    let config = world.config(more);
    (Process::start(world.program_through(config, Mode::Service, border.http_client(&world.sandbox))), border)
}

pub(crate) fn worker(world: &World) -> (Process, Arc<Border>) {
    worker_with(world, SHARED)
}

/// How many parts the state table knows of.
pub(crate) fn parts(world: &World) -> usize {
    let items = world.sandbox.snapshot(TARGET, REGION, STATE).unwrap_or_default();
    items.keys().filter(|key| key.windows(13).any(|bytes| bytes == b"default/parts")).count()
}

pub(crate) async fn until_equal(worker: &Process, world: &World) {
    worker.until("both tables are equal", || world.num_differences() == 0).await;
}

pub(crate) async fn until_divided(worker: &Process, world: &World) {
    worker.until("the link is divided", || parts(world) >= 2).await;
    // Parts go one by one from who came first to who has fewer.
    tokio::time::sleep(LEASE * 6).await;
}

/// Writes each key now and then, for so many steps of 100 ms.
pub(crate) async fn write_for(world: &World, steps: usize, text: &str) {
    for n in 0..steps {
        (0..5).for_each(|k| world.put((n * 5 + k) % 50, n % 3, &format!("{text} {n}")));
        if n % 7 == 0 {
            world.delete(n % 50, (n + 1) % 3);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The keys that a worker wrote at the target since then.
pub(crate) fn written(border: &Border, since: Instant) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for body in border.bodies("BatchWriteItem", since) {
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        for request in body["RequestItems"]["orders-copy"].as_array().into_iter().flatten() {
            let item = request.pointer("/PutRequest/Item").or_else(|| request.pointer("/DeleteRequest/Key")).unwrap();
            keys.insert(item["pk"]["S"].as_str().unwrap().to_owned());
        }
    }
    keys
}

#[tokio::test(start_paused = true)]
async fn two_workers_share_the_shards_of_a_link_and_no_key_is_written_by_both() {
    let world = world(901);
    let (one, border_one) = worker(&world);
    until_equal(&one, &world).await;
    let (two, border_two) = worker(&world);
    until_divided(&one, &world).await;
    let since = Instant::now();
    write_for(&world, 300, "shared").await;
    until_equal(&one, &world).await;
    let (by_one, by_two) = (written(&border_one, since), written(&border_two, since));
    assert!(by_one.len() > 5 && by_two.len() > 5, "{by_one:?} {by_two:?}");
    assert_eq!(by_one.intersection(&by_two).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(by_one.len() + by_two.len(), 50);
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn shards_that_split_while_they_are_shared_are_read_by_who_has_their_parents() {
    let world = world_of(Options { shard_life: HOUR / 6, split_chance: 0.5, max_open_shards: 24, ..options(902) });
    let (one, border_one) = worker(&world);
    until_equal(&one, &world).await;
    let (two, border_two) = worker(&world);
    until_divided(&one, &world).await;
    let (since, made) = (Instant::now(), parts(&world));
    // Three generations of shards.
    for _ in 0..30 {
        write_for(&world, 50, "shared").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    until_equal(&one, &world).await;
    assert_eq!(parts(&world), made, "it was never put together meanwhile");
    let (by_one, by_two) = (written(&border_one, since), written(&border_two, since));
    assert!(!by_one.is_empty() && !by_two.is_empty());
    assert_eq!(by_one.intersection(&by_two).collect::<Vec<_>>(), Vec::<&String>::new());
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_killed_is_replaced_in_its_parts_and_as_leader() {
    let world = world(903);
    let (one, _) = worker(&world);
    until_equal(&one, &world).await;
    let (two, _) = worker(&world);
    until_divided(&one, &world).await;
    let (three, _) = worker(&world);
    tokio::time::sleep(LEASE * 4).await;
    // One of them leads the link, and all have parts.
    for worker in [one, two] {
        write_for(&world, 30, "on its way").await;
        worker.kill().await;
        write_for(&world, 30, "after a kill").await;
        let killed = Instant::now();
        until_equal(&three, &world).await;
        assert!(killed.elapsed() <= LEASE + Duration::from_secs(4), "{:?}", killed.elapsed());
    }
    // Alone, it has the link as a whole before long.
    three.until("the link is whole", || parts(&world) == 0).await;
    write_for(&world, 30, "whole").await;
    until_equal(&three, &world).await;
    three.until("what the others left is put right", || three.status().in_doubt == 0).await;
    three.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_gap_makes_the_link_whole_and_is_healed() {
    let world = world(904);
    let (one, border_one) = worker(&world);
    until_equal(&one, &world).await;
    let (two, border_two) = worker(&world);
    until_divided(&one, &world).await;
    // Nobody reads for longer than the stream keeps anything.
    for border in [&border_one, &border_two] {
        border.set_frozen(true);
    }
    write_for(&world, 30, "lost").await;
    world.delete(3, 0);
    tokio::time::sleep(HOUR * 26).await;
    for border in [&border_one, &border_two] {
        border.set_frozen(false);
    }
    one.until("the link is whole", || parts(&world) == 0).await;
    write_for(&world, 30, "after").await;
    one.until("what was lost is mended", || world.num_differences() == 0).await;
    until_divided(&one, &world).await;
    write_for(&world, 30, "shared again").await;
    until_equal(&one, &world).await;
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_rolling_update_of_all_workers_repeats_nothing_and_loses_nothing() {
    let world = world(905);
    let (mut old, _) = worker(&world);
    until_equal(&old, &world).await;
    let (mut other, _) = worker(&world);
    until_divided(&old, &world).await;
    for round in 0..4 {
        write_for(&world, 20, &format!("round {round}")).await;
        let (new, _) = worker(&world);
        tokio::time::sleep(LEASE).await;
        write_for(&world, 20, "handed over").await;
        old.stop().await.unwrap();
        let unclean = other.metric("dynaferry_takeovers_total", &["kind=\"unclean\""]);
        assert_eq!(unclean + new.metric("dynaferry_takeovers_total", &["kind=\"unclean\""]), 0.0);
        (old, other) = (other, new);
        until_equal(&other, &world).await;
    }
    old.stop().await.unwrap();
    other.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_does_not_share_makes_the_link_whole() {
    let world = world(906);
    let (one, _) = worker(&world);
    until_equal(&one, &world).await;
    let (two, _) = worker(&world);
    until_divided(&one, &world).await;
    write_for(&world, 20, "shared").await;
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    assert!(parts(&world) >= 2, "the workers went, and the link stayed divided");
    write_for(&world, 20, "meanwhile").await;
    let (alone, _) = worker_with(&world, "[checkpoint]\nstore = \"dynamodb:dynaferry-state\"");
    until_equal(&alone, &world).await;
    assert_eq!(parts(&world), 0);
    alone.until("it is as without sharing", || alone.status().phase == Phase::Replicating).await;
    alone.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_command_finds_a_divided_link_whole() {
    let world = world(907);
    let (one, _) = worker(&world);
    until_equal(&one, &world).await;
    let (two, _) = worker(&world);
    until_divided(&one, &world).await;
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    world.put_at(TARGET, "orders-copy", 7, 0, "changed behind its back");
    let program = world.program_through(world.config(SHARED), Mode::Oneshot, Border::new().http_client(&world.sandbox));
    let options = VerifyOptions { repair: true, ..VerifyOptions::default() };
    program.verify(options, CancellationToken::new()).await.unwrap();
    assert_eq!((parts(&world), world.num_differences()), (0, 0));
}

pub(crate) fn poison_target(world: &World, attribute: Option<&str>) {
    world.sandbox.set_poison_attribute(TARGET, REGION, "orders-copy", attribute);
}

pub(crate) fn put_poisoned(world: &World) {
    world.put_json(&serde_json::json!({"pk": {"S": "p7"}, "sk": {"N": "0"}, "poison": {"S": "x"}}));
}

#[tokio::test(start_paused = true)]
async fn a_part_that_fails_wherever_it_is_opened_is_the_links_failure() {
    let world = world(909);
    let (one, _) = worker(&world);
    until_equal(&one, &world).await;
    let (two, _) = worker(&world);
    until_divided(&one, &world).await;
    poison_target(&world, Some("poison"));
    put_poisoned(&world);
    // Which of them leads the link is not told; as of a link that is whole, and its process's only one, its process ends.
    for _ in 0..6_000 {
        if one.has_ended() || two.has_ended() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (leader, other) = if one.has_ended() { (one, two) } else { (two, one) };
    let (_, why) = failed(leader.end().await);
    assert!(why.contains("the target rejects an item"), "{why}");
    assert_eq!(parts(&world), 0);
    assert!(failed(other.end().await).1.contains("the target rejects an item"));
    poison_target(&world, None);
    let (three, _) = worker(&world);
    until_equal(&three, &world).await;
    three.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn what_a_part_sets_aside_is_told_of_the_link() {
    let world = world(910);
    let more = format!("apply.on_rejected = \"dead_letter\"\n{SHARED}");
    let (one, _) = worker_with(&world, &more);
    until_equal(&one, &world).await;
    let (two, _) = worker_with(&world, &more);
    until_divided(&one, &world).await;
    poison_target(&world, Some("poison"));
    put_poisoned(&world);
    let told = || [&one, &two].map(|worker| worker.metric("dynaferry_dead_letters", &[])).contains(&1.0);
    one.until("who leads the link tells of it", told).await;
    assert!(parts(&world) >= 2, "by its parts, without putting it together");
    one.stop().await.unwrap();
    two.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn while_the_source_lists_no_shards_its_parts_go_on_and_the_leader_tells_how_far() {
    let world = world(911);
    let (one, _) = worker(&world);
    until_equal(&one, &world).await;
    let (two, _) = worker(&world);
    until_divided(&one, &world).await;
    world.faults(vec![FaultRule::new("DescribeStream", Trigger::Chance(1.0), FaultKind::InternalError)]);
    write_for(&world, 50, "meanwhile").await;
    tokio::time::sleep(HOUR / 4).await;
    assert_eq!((world.num_differences(), parts(&world) >= 2), (0, true));
    let told = |worker: &Process| worker.status().lag_seconds.is_some_and(|lag| lag < 30.0);
    assert!(told(&one) || told(&two));
    for worker in [&one, &two] {
        assert_eq!(worker.program.heartbeats().stale(), [], "nobody is killed for it");
    }
    world.no_faults();
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_parts_than_requests_at_once() {
    for (most, seed) in [(3, 912), (1, 913)] {
        let world = world(seed);
        let more = format!("apply.max_in_flight = {most}\n{SHARED}");
        let (one, border_one) = worker_with(&world, &more);
        until_equal(&one, &world).await;
        let (two, border_two) = worker_with(&world, &more);
        tokio::time::sleep(HOUR / 4).await;
        assert_eq!(parts(&world), if most == 1 { 0 } else { most });
        let listed = |border: &Border| border.sent("DescribeStream").len();
        let before = listed(&border_one) + listed(&border_two);
        tokio::time::sleep(HOUR).await;
        let an_hour = listed(&border_one) + listed(&border_two) - before;
        // The leader looks, and so does each worker that has parts; all together hardly more often than one alone.
        assert!((100..300).contains(&an_hour), "{an_hour} in an hour, where one worker lists each 30 s");
        one.stop().await.unwrap();
        two.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_sharing_nothing_is_divided() {
    let world = world(908);
    let plain = "[checkpoint]\nstore = \"dynamodb:dynaferry-state\"";
    let (one, _) = worker_with(&world, plain);
    let (two, border) = worker_with(&world, plain);
    until_equal(&one, &world).await;
    tokio::time::sleep(HOUR / 2).await;
    write_for(&world, 50, "whole").await;
    until_equal(&one, &world).await;
    assert_eq!(
        (parts(&world), border.sent("GetRecords").len().min(1)),
        (0, usize::from(two.metric("dynaferry_lease_held", &[]) > 0.0))
    );
    one.stop().await.unwrap();
    two.stop().await.unwrap();
}
