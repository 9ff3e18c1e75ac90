//! What goes wrong on the way, one kind at a time and all at once: the copy still ends equal.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use dynaferry::sandbox::{Exchange, FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::Mode;
use tokio::time::Instant;

use crate::line;
use crate::world::{HOUR, Process, SOURCE, TARGET, World, metric};

const ON_TABLE: &str = "[checkpoint]\nstore = \"dynamodb:dynaferry-state\"";

async fn write_for(world: &World, steps: usize) {
    for n in 0..steps {
        world.put(n % 40, n % 3, &format!("value {n}"));
        if n % 5 == 0 {
            world.delete((n + 7) % 40, n % 3);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn filled(options: Options) -> World {
    let world = World::paused(options);
    for n in 0..120 {
        world.put(n % 40, n % 3, "loaded");
    }
    world
}

/// A service from its load on under these faults, then without; equal in the end, and without a gap.
async fn survives(world: World, more: &str, rules: Vec<FaultRule>) {
    world.faults(rules);
    let service = world.serve(more);
    write_for(&world, 250).await;
    let met = world.sandbox.stats().faults;
    world.no_faults();
    service.until_equal(&world).await;
    assert!(met > 0, "no fault was met: the test is void");
    assert!(world.gaps().await.is_empty());
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_target_is_made_also_when_that_is_throttled_or_its_answer_lost() {
    for kind in [FaultKind::Throttle("LimitExceededException".into()), FaultKind::LoseAnswer, FaultKind::InternalError]
    {
        let world = filled(Options { seed: 32, ..Options::default() });
        world.faults(vec![FaultRule::new("CreateTable", Trigger::Next(2), kind)]);
        let reports = world.migrate("").await.unwrap();
        assert!(reports[0].verification.is_identical());
        assert!(world.link_row().await.owns_target);
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_to_be_made_is_looked_for_once() {
    let world = filled(Options { seed: 33, ..Options::default() });
    let not_found = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&not_found);
    world.sandbox.set_observer(Some(Arc::new(move |exchange: &Exchange<'_>| {
        let is_refused = exchange.reply.is_some_and(|reply| !reply.status().is_success());
        seen.fetch_add(usize::from(exchange.operation == "DescribeTable" && is_refused), Relaxed);
    })));
    world.migrate("").await.unwrap();
    assert_eq!(not_found.load(Relaxed), 1);
}

const CALLS: [&str; 7] =
    ["DescribeTable", "DescribeStream", "GetShardIterator", "GetRecords", "Scan", "BatchWriteItem", "GetItem"];

#[tokio::test(start_paused = true)]
async fn throttles_of_every_name_on_every_operation_only_cost_time() {
    let names = [
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
        "LimitExceededException",
    ];
    let rule = |name: &&str| FaultRule::new("*", Trigger::Chance(0.08), FaultKind::Throttle((*name).to_owned()));
    survives(filled(Options { seed: 21, ..Options::default() }), "", names.iter().map(rule).collect()).await;
}

#[tokio::test(start_paused = true)]
async fn a_third_of_all_calls_may_end_in_a_500() {
    let rules = CALLS.map(|call| FaultRule::new(call, Trigger::Chance(0.33), FaultKind::InternalError));
    survives(filled(Options { seed: 22, ..Options::default() }), "", rules.into()).await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_lost_are_no_refusals() {
    let rules = CALLS.map(|call| FaultRule::new(call, Trigger::Chance(0.2), FaultKind::LoseAnswer));
    survives(filled(Options { seed: 23, ..Options::default() }), "", rules.into()).await;
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_refused_are_made_again() {
    let rules = CALLS.map(|call| FaultRule::new(call, Trigger::Chance(0.3), FaultKind::Refuse));
    survives(filled(Options { seed: 24, ..Options::default() }), "", rules.into()).await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_come_after_the_time_out_are_survived() {
    let held = FaultKind::Hold(Duration::from_secs(4));
    let rules = CALLS.map(|call| FaultRule::new(call, Trigger::Chance(0.1), held.clone()));
    survives(filled(Options { seed: 25, ..Options::default() }), "apply.attempt_timeout = \"500ms\"", rules.into())
        .await;
}

#[tokio::test(start_paused = true)]
async fn batches_of_which_a_part_or_all_comes_back_are_written_in_the_end() {
    let rules = vec![
        FaultRule::new("BatchWriteItem", Trigger::Chance(0.4), FaultKind::UnprocessedSubset),
        FaultRule::new("BatchWriteItem", Trigger::Chance(0.3), FaultKind::UnprocessedAll),
    ];
    survives(filled(Options { seed: 26, ..Options::default() }), "", rules).await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_timed_out_and_lands_later_is_put_right() {
    let late = |seconds| FaultKind::DeliverLate(Duration::from_secs(seconds));
    let rules = vec![
        FaultRule::new("BatchWriteItem", Trigger::Chance(0.05), late(3)),
        FaultRule::new("BatchWriteItem", Trigger::Chance(0.05), late(45)),
    ];
    let world = filled(Options { seed: 27, ..Options::default() });
    world.faults(rules);
    let service = world.serve("apply.in_doubt_for = \"60s\"");
    write_for(&world, 400).await;
    world.no_faults();
    // Everything that is late has landed, over newer values; the keys in doubt are due after it.
    service.until("keys are in doubt", || service.status().in_doubt > 0).await;
    service.until("no key is in doubt", || service.status().in_doubt == 0).await;
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_line_that_carries_less_than_is_sent_at_once_carries_all_of_it_in_the_end() {
    let world = World::paused(Options { seed: 31, ..Options::default() });
    let text = "x".repeat(10_000);
    for n in 0..400 {
        world.put(n, 0, &text);
    }
    // Of the requests that are out together a tenth could be carried in the time that each of them has.
    let http = line::slow_uplink(&world.sandbox, 80_000);
    let config = world.config(&format!("apply.in_doubt_for = \"16m\"\n{ON_TABLE}"));
    let service = Process::start(world.program_through(config, Mode::Service, http));
    let began = Instant::now();
    service.until("both tables are equal", || world.num_differences() == 0).await;
    // 4 MB at 80 kB/s take 50 s.
    assert!(began.elapsed() < Duration::from_secs(240), "{:?}", began.elapsed());
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_late_write_of_a_host_whose_clock_is_ahead_is_put_right() {
    // What it signs holds for 15 minutes after its own time, so by AWS's up to 27.
    let ahead = Duration::from_secs(12 * 60);
    for is_killed in [false, true] {
        let world = filled(Options { seed: 32, ..Options::default() });
        let sixteen = world.config("apply.in_doubt_for = \"16m\"");
        let context = world.context_off_by(i64::try_from(ahead.as_millis()).unwrap());
        let service = Process::start(world.program_in(sixteen, Mode::Service, context));
        service.until_equal(&world).await;
        let late = FaultKind::DeliverLate(Duration::from_secs(25 * 60));
        world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Next(1), late)]);
        world.put(1, 1, "old");
        let told = world.link_row().await.signed_ahead;
        assert!(told.abs_diff(ahead) < Duration::from_secs(2), "{told:?}");
        let service = if is_killed {
            tokio::time::sleep(Duration::from_secs(2)).await;
            service.kill().await;
            world.put(1, 1, "new");
            world.serve("apply.in_doubt_for = \"16m\"")
        } else {
            service.until("the write is lost", || service.status().in_doubt > 0).await;
            world.put(1, 1, "new");
            service
        };
        tokio::time::sleep(Duration::from_secs(40 * 60)).await;
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn a_migration_ends_also_while_the_source_is_written_and_answers_are_lost_all_the_time() {
    let world = filled(Options { seed: 33, ..Options::default() });
    world.faults(vec![
        FaultRule::new("BatchWriteItem", Trigger::Chance(0.2), FaultKind::LoseAnswer).for_account(TARGET),
    ]);
    let began = Instant::now();
    let migration = world.migrate("apply.in_doubt_for = \"16m\"");
    let writing = async {
        for n in 0.. {
            world.put(n % 40, n % 3, &format!("value {n}"));
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert!(began.elapsed() < HOUR * 4, "there is always a key in doubt, and the migration never ends");
        }
    };
    let reports = tokio::select! {
        reports = migration => reports.unwrap(),
        () = writing => unreachable!("it writes for ever"),
    };
    assert!(reports[0].verification.is_identical());
    assert!(world.state().await.doubts.is_empty(), "a late write may still land, and nobody would put it right");
}

#[tokio::test(start_paused = true)]
async fn a_migration_ends_without_a_key_in_doubt_however_much_is_on_its_way() {
    for seed in 3400..3412 {
        let world = filled(Options { seed, ..Options::default() });
        let lost = FaultKind::TimeOutAndDeliverLate(Duration::from_secs(15));
        world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(0.03), lost)]);
        let migration = world.migrate("apply.in_doubt_for = \"20s\"\napply.attempt_timeout = \"3s\"");
        let writing = async {
            for n in 0..20_000 {
                world.put(n % 40, n % 3, &format!("value {n}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            reports = migration => assert!(reports.unwrap()[0].verification.is_identical()),
            () = writing => panic!("it does not end"),
        };
        assert!(world.state().await.doubts.is_empty(), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn iterators_that_expire_half_way_lose_nothing_and_repeat_little() {
    let world = World::paused(Options {
        seed: 28,
        iterator_life: Duration::from_secs(3),
        shard_life: Duration::from_secs(4),
        max_page_records: 7,
        ..Options::default()
    });
    let service = world.serve("");
    for n in 0..60 {
        write_for(&world, 5).await;
        if n % 4 == 0 {
            world.sandbox.expire_iterators();
        }
    }
    service.until_equal(&world).await;
    let (read, written) = (service.metric("dynaferry_stream_records_total", &["stage=\"read\""]), 360.0);
    assert!(read <= written, "{read} records were read");
    assert!(world.gaps().await.is_empty());
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn sessions_that_expire_in_mid_run_are_renewed() {
    let world = filled(Options { seed: 29, ..Options::default() });
    let service = world.serve("");
    for n in 0..6 {
        write_for(&world, 60).await;
        if n % 2 == 0 {
            world.sandbox.expire_sessions();
        } else {
            let next = |account| FaultRule::new("*", Trigger::Next(3), FaultKind::ExpiredToken).for_account(account);
            world.faults(vec![next(SOURCE), next(TARGET)]);
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    service.until_equal(&world).await;
    assert!(metric(&service.program, "dynaferry_requests_total", &["result=\"denied\""]) > 0.0, "the test is void");
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_expires_while_a_link_is_opened_is_renewed() {
    for (operation, account) in [
        ("GetCallerIdentity", SOURCE),
        ("GetCallerIdentity", TARGET),
        ("DescribeTable", SOURCE),
        ("DescribeTable", TARGET),
    ] {
        let world = filled(Options { seed: 33, ..Options::default() });
        let next = FaultRule::new(operation, Trigger::Next(1), FaultKind::ExpiredToken).for_account(account);
        world.faults(vec![next]);
        let service = world.serve("");
        service.until_equal(&world).await;
        let denied = metric(&service.program, "dynaferry_requests_total", &["result=\"denied\""]);
        assert!(denied > 0.0, "{operation} in {account}: the test is void");
        service.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_waits_out_credentials_that_are_refused_for_an_hour() {
    let world = filled(Options { seed: 30, ..Options::default() });
    let service = world.serve("");
    service.until_equal(&world).await;
    let denied = FaultKind::Error { code: "AccessDeniedException".into(), status: 400 };
    world.faults(vec![FaultRule::new("*", Trigger::Chance(1.0), denied)]);
    for _ in 0..12 {
        write_for(&world, 5).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
    }
    assert!(!service.has_ended());
    world.no_faults();
    service.until_equal(&world).await;
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_table_with_little_capacity_is_written_at_its_pace() {
    let world = World::paused(Options {
        seed: 31,
        write_capacity: Some(40),
        read_capacity: Some(100),
        capacity_burst: Duration::from_secs(1),
        ..Options::default()
    });
    for n in 0..600 {
        world.put(n, 1, "loaded");
    }
    let started = tokio::time::Instant::now();
    let reports = world.migrate("").await.unwrap();
    assert!(reports[0].verification.is_identical());
    assert!(started.elapsed() < Duration::from_secs(60), "{:?} for 600 items at 40 a second", started.elapsed());
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_load_keeps_to_its_limit_from_its_first_page_on() {
    let world = World::paused(Options { seed: 38, ..Options::default() });
    // A page of a megabyte costs 256 units.
    for n in 0..160 {
        world.put(n, 1, &"x".repeat(60_000));
    }
    let service = world.serve("load.segments = 8\nload.concurrency = 8\nload.read_capacity = 100");
    let consumed = || service.metric("dynaferry_consumed_capacity_units_total", &["side=\"source\"", "kind=\"read\""]);
    service.until("the first page is read", || consumed() > 0.0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(consumed() <= 256.0 + 100.0 * 3.0, "{} units in two seconds at 100 a second", consumed());
    service.until_equal(&world).await;
    service.stop().await.unwrap();
}
