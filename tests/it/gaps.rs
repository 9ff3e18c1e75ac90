//! History that is lost before it was read: a durable gap says so, the process is not ready meanwhile, and it heals.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dynaferry::checkpoint::LinkState;
use dynaferry::checkpoint::rows::{GapScope, ShardStatus};
use dynaferry::context::WallClock as _;
use dynaferry::error::Exit;
use dynaferry::http::NotReady;
use dynaferry::model::ShardId;
use dynaferry::sandbox::{Exchange, FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::Mode;
use tokio_util::sync::CancellationToken;

use crate::world::{HOUR, ORDERS, Process, REGION, SOURCE, TARGET, World, failed};

fn seeded(seed: u64) -> Options {
    Options { seed, ..Options::default() }
}

fn fill(world: &World) {
    for n in 0..100 {
        world.put(n % 50, n / 50, "before");
    }
}

/// Changes, new keys and deletes.
fn change(world: &World, text: &str) {
    for n in 0..20 {
        world.put(n, 0, text);
        world.put(n + 100, 0, text);
        world.delete(n + 20, 1);
    }
}

async fn replicated(seed: u64) -> World {
    let world = World::paused(seeded(seed));
    fill(&world);
    let service = world.serve("");
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world
}

/// Slow reads, so that there is something to see while it heals.
fn slow_heal(world: &World) {
    world.faults(vec![FaultRule::new("Scan", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_secs(2)))]);
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_position_not_confirmed_for_23_hours_is_a_gap() {
    for (seed, minutes, is_gap) in [(68, 22 * 60 + 55, false), (69, 23 * 60 + 5, true)] {
        let world = replicated(seed).await;
        world.clock().skip(Duration::from_secs(minutes * 60));
        let service = world.serve("");
        service.until("it has caught up", || service.status().lag_known).await;
        service.until_equal(&world).await;
        // Nothing of it was trimmed yet, but nothing proves that either.
        let gaps = world.gaps().await;
        assert_eq!(gaps.iter().any(|gap| gap.cause == "not_confirmed"), is_gap, "{minutes} minutes: {gaps:?}");
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_longer_than_the_stream_keeps_is_a_gap_and_heals() {
    for (seed, hours) in [(61, 25), (62, 72)] {
        let world = replicated(seed).await;
        change(&world, "lost");
        for _ in 0..hours {
            world.clock().skip(HOUR);
            world.put(70, 0, "hourly");
        }
        change(&world, "kept");
        slow_heal(&world);
        let service = world.serve("apply.attempt_timeout = \"5s\"");
        service.until("the gap is seen", || service.why_not_ready() == [NotReady::GapOpen]).await;
        assert!(world.gaps().await.iter().any(|gap| gap.healed.is_none()), "it is durable");
        assert!(!service.status().gaps.is_empty() && !service.status().needs.is_empty());
        service.until_equal(&world).await;
        service.until("it is ready again", || service.why_not_ready().is_empty()).await;
        assert!(world.gaps().await.iter().all(|gap| gap.healed.is_some()));
        change(&world, "later");
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_stream_keeps_is_no_gap() {
    let world = replicated(63).await;
    change(&world, "kept");
    for _ in 0..22 {
        world.clock().skip(HOUR);
        world.put(70, 0, "hourly");
    }
    let service = world.serve("");
    service.until_equal(&world).await;
    assert!(world.gaps().await.is_empty());
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_gap_ends_the_link_where_the_user_wants_that() {
    let world = replicated(64).await;
    change(&world, "lost");
    world.clock().skip(HOUR * 30);
    for _ in 0..2 {
        let (exit, text) = failed(world.serve("stream.on_gap = \"stop\"").end().await);
        assert_eq!(exit, Exit::Lost, "{text}");
    }
    let gaps = world.gaps().await;
    assert!(gaps.iter().any(|gap| gap.healed.is_none()), "and says so durably: {gaps:?}");
    let status = world.program(world.config(""), Mode::Oneshot).stored_status().await.unwrap();
    assert!(!status.links[0].gaps.is_empty());
    let service = world.serve("");
    service.until_equal(&world).await;
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_turned_off_and_on_again_is_a_gap_over_all_keys_and_heals() {
    let world = replicated(65).await;
    let service = world.serve("");
    change(&world, "in the old stream");
    world.set_stream(false);
    change(&world, "in no stream");
    tokio::time::sleep(Duration::from_secs(90)).await;
    change(&world, "in no stream either");
    world.set_stream(true);
    service.until_equal(&world).await;
    let gaps = world.gaps().await;
    assert!(gaps.iter().any(|gap| gap.cause == "stream_replaced" && gap.healed.is_some()), "{gaps:?}");
    change(&world, "in the new stream");
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_stream_replaced_while_nobody_looked_is_a_gap_over_all_keys_and_heals() {
    for outage in [HOUR, HOUR * 30] {
        let world = replicated(66).await;
        change(&world, "in the old stream");
        world.set_stream(false);
        change(&world, "in no stream");
        world.clock().skip(outage);
        world.set_stream(true);
        change(&world, "in the new stream");
        let service = world.serve("");
        service.until_equal(&world).await;
        assert!(world.gaps().await.iter().any(|gap| gap.cause == "stream_replaced" && gap.healed.is_some()));
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_turned_off_for_good_ends_a_command_and_not_a_service() {
    let world = replicated(67).await;
    world.set_stream(false);
    let (exit, text) = failed(world.migrate("").await);
    assert_eq!(exit, Exit::Precondition, "{text}");
    let service = world.serve("");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!service.has_ended());
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_trimmed_under_its_reader_is_a_gap_each_time_it_happens() {
    let world = World::paused(Options { initial_shards: 1..=1, shard_life: HOUR * 1000, ..seeded(68) });
    fill(&world);
    let service = world.serve("stream.poll_min = \"5s\"\nstream.poll_max = \"5s\"");
    service.until_equal(&world).await;
    for round in 1..=3 {
        tokio::time::sleep(Duration::from_secs(7)).await;
        change(&world, &format!("lost {round}"));
        // A key that no later record mends.
        world.put(45, 0, &format!("lost {round}"));
        world.sandbox.trim_now(SOURCE, REGION, "orders", Duration::ZERO).unwrap();
        change(&world, &format!("kept {round}"));
        world.sandbox.expire_iterators();
        service.until_equal(&world).await;
        let gaps = world.gaps().await;
        assert_eq!(gaps.iter().filter(|gap| gap.healed.is_some()).count(), round, "{gaps:?}");
    }
    assert!((service.metric("dynaferry_stream_gaps_total", &[]) - 3.0).abs() < f64::EPSILON);
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn shards_that_are_trimmed_away_unread_are_a_gap_and_their_children_go_on() {
    for seed in 70..76 {
        let world = World::paused(Options { shard_life: Duration::from_secs(5), split_chance: 0.5, ..seeded(seed) });
        fill(&world);
        let service = world.serve("");
        service.until_equal(&world).await;
        service.kill().await;
        for n in 0..30 {
            world.put(n % 20, 0, &format!("lost {n}"));
            world.delete(n + 20, 1);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        world.sandbox.trim_now(SOURCE, REGION, "orders", Duration::from_secs(seed % 6)).unwrap();
        let service = world.serve("");
        for n in 0..30 {
            world.put(n % 20, 0, &format!("kept {n}"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        service.until_equal(&world).await;
        assert!(world.gaps().await.iter().any(|gap| gap.healed.is_some()));
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_the_target_has_alone_are_healed_away_only_where_it_is_the_links_own() {
    for (exclusive, left) in [("", 0), ("target.exclusive = false", 1)] {
        let world = World::paused(seeded(77));
        fill(&world);
        let service = world.serve(exclusive);
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        // A delete that nobody read.
        world.delete(3, 1);
        world.sandbox.trim_now(SOURCE, REGION, "orders", Duration::ZERO).unwrap();
        world.clock().skip(HOUR * 25);
        let service = world.serve(exclusive);
        while !world.gaps().await.iter().any(|gap| gap.healed.is_some()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(world.num_differences(), left, "{exclusive}");
        service.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_made_anew_under_its_name_ends_the_link() {
    let world = replicated(78).await;
    let service = world.serve("");
    service.until_equal(&world).await;
    world.call(SOURCE, "DeleteTable", r#"{"TableName":"orders"}"#);
    world.call(SOURCE, "CreateTable", ORDERS);
    world.put(1, 1, "another life");
    let (exit, text) = failed(service.end().await);
    assert_eq!(exit, Exit::Lost, "{text}");
    assert!(text.contains("made anew"), "{text}");
    let (exit, _) = failed(world.serve("").end().await);
    assert_eq!(exit, Exit::Lost);
    let target = world.sandbox.snapshot(TARGET, REGION, "orders-copy").unwrap();
    assert_eq!(target.len(), 100, "the copy is left as it was");
}

#[tokio::test(start_paused = true)]
async fn a_source_made_anew_while_keys_are_in_doubt_leaves_the_copy_as_it_was() {
    for is_made_anew in [true, false] {
        let world = replicated(81).await;
        // The doubts fall due before anything else is asked of the source.
        let slow = "apply.in_doubt_for = \"2s\"\nstream.poll_min = \"5s\"\nstream.poll_max = \"5s\"";
        let service = world.serve(slow);
        world.put(99, 0, "before");
        service.until_equal(&world).await;
        // Ten writes that are done, and whose answers are lost.
        world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Next(2), FaultKind::LoseAnswer)]);
        (0..10).for_each(|n| world.put(n, 0, "in doubt"));
        service.until("their keys are in doubt", || service.status().in_doubt >= 10).await;
        service.until("they are copied", || world.num_differences() == 0).await;
        let copy = world.sandbox.snapshot(TARGET, REGION, "orders-copy").unwrap();
        if is_made_anew {
            world.call(SOURCE, "DeleteTable", r#"{"TableName":"orders"}"#);
            world.call(SOURCE, "CreateTable", ORDERS);
            let before = tokio::time::Instant::now();
            let (exit, text) = failed(service.end().await);
            assert_eq!(world.sandbox.snapshot(TARGET, REGION, "orders-copy").unwrap(), copy);
            assert_eq!(exit, Exit::Lost, "{text}");
            assert!(text.contains("made anew"), "{text}");
            assert!(before.elapsed() < Duration::from_secs(4), "seen by the syncs, after {:?}", before.elapsed());
        } else {
            service.until_equal(&world).await;
            service.stop().await.unwrap();
        }
        assert_eq!(world.sandbox.snapshot(TARGET, REGION, "orders-copy").unwrap(), copy);
    }
}

/// A write that its dead owner left on the wire, to a key that no list holds: its record was trimmed before it was applied
/// again. The gap stays open until no such write can land, also over a clean stop in between.
#[tokio::test(start_paused = true)]
async fn a_gap_over_what_a_dead_owner_had_sent_stays_open_until_its_writes_can_no_longer_land() {
    for is_stopped_between in [false, true] {
        let options = Options { initial_shards: 1..=1, shard_life: HOUR * 1000, ..seeded(82) };
        let world = World::paused(options);
        fill(&world);
        let serve = || {
            let mut config = world.config("apply.in_doubt_for = \"16m\"");
            // So that the process dies before it has written down which keys are in doubt.
            config.checkpoint.interval = Duration::from_secs(60);
            config.links[0].stream.poll_min = Duration::from_secs(5);
            config.links[0].stream.poll_max = Duration::from_secs(5);
            Process::start(world.program(config, Mode::Service))
        };
        let service = serve();
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        let service = serve();
        service.until("it reads", || service.status().lag_known).await;
        let minute = Duration::from_secs(60);
        world.faults(vec![
            FaultRule::new("BatchWriteItem", Trigger::Next(1), FaultKind::DeliverLate(minute * 10)),
            FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), FaultKind::Refuse),
        ]);
        world.put(45, 0, "late");
        service
            .until("it is on the wire", || {
                service.metric("dynaferry_requests_total", &["BatchWriteItem", "retryable"]) > 0.0
            })
            .await;
        service.kill().await;
        world.no_faults();
        assert_eq!(world.state().await.doubts.len(), 0, "only the dispatch watermark knows of it");
        world.delete(45, 0);
        world.sandbox.trim_now(SOURCE, REGION, "orders", Duration::ZERO).unwrap();

        let mut service = serve();
        service
            .until("the tables are equal", || !service.status().gaps.is_empty() && world.num_differences() == 0)
            .await;
        if is_stopped_between {
            service.stop().await.unwrap();
            service = serve();
        }
        world.put(2, 0, "read");
        tokio::time::sleep(minute * 3).await;
        // More is lost meanwhile, and is not left to the pass at the end.
        world.put(46, 0, "lost");
        world.sandbox.trim_now(SOURCE, REGION, "orders", Duration::ZERO).unwrap();
        world.put(1, 0, "kept");
        world.sandbox.expire_iterators();
        let lost_at = tokio::time::Instant::now();
        service.until("the tables are equal again", || world.num_differences() == 0).await;
        assert!(lost_at.elapsed() < minute, "after {:?}", lost_at.elapsed());
        tokio::time::sleep(minute * 6).await;
        world.put(1, 0, "something");
        service.until("the late write lands", || world.num_differences() == 1).await;
        assert!(!service.status().gaps.is_empty(), "the gap is open");
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_made_anew_under_its_name_is_not_taken_for_the_copy() {
    let world = replicated(79).await;
    world.call(TARGET, "DeleteTable", r#"{"TableName":"orders-copy"}"#);
    let (exit, text) = failed(world.serve("").end().await);
    assert_eq!(exit, Exit::Precondition, "{text}");
    assert!(world.sandbox.snapshot(TARGET, REGION, "orders-copy").is_err(), "nor is an empty one made");
    world.call(TARGET, "CreateTable", &ORDERS.replace(r#""TableName":"orders""#, r#""TableName":"orders-copy""#));
    let (exit, text) = failed(world.serve("").end().await);
    assert_eq!(exit, Exit::Precondition, "{text}");
    assert!(text.contains("made anew"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_beginning_was_trimmed_during_an_outage_has_a_gap_of_its_own() {
    let world = World::paused(Options { initial_shards: 1..=1, shard_life: HOUR * 1000, ..seeded(83) });
    fill(&world);
    let service = world.serve("");
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    // The shard ends right after the process, and its child has a change of then and one of a day later.
    world.sandbox.roll_shards(SOURCE, REGION, "orders").unwrap();
    let child = world.sandbox.shards(SOURCE, REGION, "orders").unwrap().last().unwrap().id.clone();
    world.put(1, 0, "is trimmed");
    world.clock().skip(HOUR * 24);
    world.put(2, 0, "is kept");
    world.clock().skip(HOUR);
    let service = world.serve("");
    service.until("the last change is copied", || world.num_differences() == 0).await;
    service.until_equal(&world).await;
    let of_child = GapScope::Shard(ShardId::new(child));
    let gaps = world.gaps().await;
    assert!(gaps.iter().any(|gap| gap.scope == of_child), "{gaps:?}");
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_target_made_anew_or_deleted_under_a_quiet_link_ends_it() {
    for (is_made_anew, says) in [(true, "made anew"), (false, "not found")] {
        let world = replicated(82).await;
        let service = world.serve("");
        service.until("it is ready", || service.why_not_ready().is_empty()).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        world.call(TARGET, "DeleteTable", r#"{"TableName":"orders-copy"}"#);
        if is_made_anew {
            let copy = ORDERS.replace(r#""TableName":"orders""#, r#""TableName":"orders-copy""#);
            world.call(TARGET, "CreateTable", &copy);
        }
        // Nothing is written meanwhile: no write tells of it.
        let before = tokio::time::Instant::now();
        let (exit, text) = failed(service.end().await);
        assert_eq!(exit, Exit::Precondition, "{text}");
        assert!(text.contains(says), "{text}");
        assert!(before.elapsed() < Duration::from_secs(300), "after {:?}", before.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_gap_during_the_load_is_healed_after_it() {
    let world = World::paused(seeded(80));
    fill(&world);
    let slow = FaultKind::Hold(Duration::from_secs(3));
    world.faults(vec![FaultRule::new("Scan", Trigger::Chance(1.0), slow)]);
    let service = world.serve("load.segments = 16\nload.concurrency = 1");
    tokio::time::sleep(Duration::from_secs(8)).await;
    service.kill().await;
    change(&world, "lost");
    world.sandbox.trim_now(SOURCE, REGION, "orders", Duration::ZERO).unwrap();
    world.clock().skip(HOUR * 26);
    let reports = world.program(world.config(""), Mode::Oneshot).migrate(CancellationToken::new()).await.unwrap();
    assert!(reports[0].verification.is_identical());
    let gaps = world.gaps().await;
    assert!(!gaps.is_empty() && gaps.iter().all(|gap| gap.healed.is_some()), "{gaps:?}");
    world.assert_equal();
}

/// Each pass of a heal reads both tables: while more is lost all the time, it is not made again and again without a pause.
#[tokio::test(start_paused = true)]
async fn a_heal_that_more_losses_keep_open_is_repeated_with_pauses() {
    let world = World::paused(Options { initial_shards: 1..=1, shard_life: HOUR * 1000, ..seeded(83) });
    fill(&world);
    let service = world.serve("stream.poll_min = \"1s\"\nstream.poll_max = \"1s\"");
    service.until_equal(&world).await;
    let passes = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&passes);
    world.sandbox.set_observer(Some(Arc::new(move |exchange: &Exchange<'_>| {
        let is_first = memchr::memmem::find(exchange.request, b"\"Segment\":0,").is_some();
        let is_of_source = exchange.operation == "Scan" && exchange.account == SOURCE;
        seen.fetch_add(usize::from(is_of_source && is_first), Ordering::Relaxed);
    })));
    // A pass takes some seconds, and meanwhile more is lost.
    slow_heal(&world);
    for n in 0..600 {
        world.put(n % 50, 0, &format!("lost {n}"));
        world.sandbox.trim_now(SOURCE, REGION, "orders", Duration::ZERO).unwrap();
        world.put(n % 50, 1, &format!("kept {n}"));
        world.sandbox.expire_iterators();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(!service.status().gaps.is_empty());
    let made = passes.load(Ordering::Relaxed);
    assert!((2..=6).contains(&made), "{made} passes in ten minutes");
    world.no_faults();
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world.assert_equal();
}

/// A shard that was read to its end leaves the listing before its children are in it: nobody knows what they hold, so the
/// lag must go on counting from the shard's end.
#[tokio::test(start_paused = true)]
async fn a_listing_without_a_finished_shard_and_its_children_does_not_release_the_lag() {
    let delay = Duration::from_secs(60);
    let options =
        Options { initial_shards: 1..=1, split_chance: 0.0, shard_life: HOUR, children_delay: delay, ..seeded(84) };
    let world = World::paused(options);
    fill(&world);
    let service = world.serve("stream.discovery_interval = \"10s\"");
    service.until_equal(&world).await;
    let parent = world.sandbox.shards(SOURCE, REGION, "orders").unwrap().remove(0).id;
    world.sandbox.roll_shards(SOURCE, REGION, "orders").unwrap();
    let rolled = world.clock().now();
    world.put(1, 0, "in a child that nobody knows");
    let is_finished = |state: &LinkState| {
        state.shards.iter().any(|row| row.id.as_str() == parent && row.status == ShardStatus::Finished)
    };
    while !is_finished(&world.state().await) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.sandbox.vanish_shard(SOURCE, REGION, "orders", &parent).unwrap();
    while world.clock().now().since(rolled) < delay {
        let claimed = service.status().watermark.applied.unwrap();
        assert!(claimed <= rolled, "{:?} after the roll-over, which it claims to have passed", claimed.since(rolled));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    service.until_equal(&world).await;
    service.until("the lag is small", || service.status().lag_seconds.is_some_and(|lag| lag < 5.0)).await;
    service.stop().await.unwrap();
}
