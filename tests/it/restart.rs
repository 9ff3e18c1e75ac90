//! Stopped or killed at any moment, and run again: nothing is lost, little is repeated.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynaferry::error::Exit;
use dynaferry::runtime::VerifyOptions;
use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::{Mode, Phase};
use tokio_util::sync::CancellationToken;

use crate::world::{HOUR, ORDERS, REGION, SOURCE, TARGET, World, failed};

fn seeded(seed: u64) -> Options {
    Options { seed, ..Options::default() }
}

fn fill(world: &World, items: usize) {
    for n in 0..items {
        world.put(n, 0, "before");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_load_goes_on_where_it_was() {
    let world = World::paused(Options { max_page_bytes: 150, ..seeded(100) });
    fill(&world, 300);
    world.clock().skip(HOUR);
    world.faults(vec![FaultRule::new("Scan", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_millis(500)))]);
    let slow = "load.segments = 8\nload.concurrency = 2";
    let mut scans = 0;
    for _ in 0..3 {
        let service = world.serve(slow);
        tokio::time::sleep(Duration::from_secs(3)).await;
        service.stop().await.unwrap();
        let done: u64 = world.state().await.segments.iter().map(|segment| segment.items).sum();
        assert!(done > scans, "it gets on: {done} items after {scans}");
        scans = done;
    }
    world.no_faults();
    let before = world.sandbox.stats();
    // Another number of segments in the configuration means nothing for a load that has begun.
    let reports = world.migrate("load.segments = 3").await.unwrap();
    assert_eq!(reports[0].items_loaded, 300, "none twice, none left out");
    assert!(reports[0].verification.is_identical());
    assert_eq!(world.link_row().await.load.unwrap().total_segments, 8);
    assert!(world.sandbox.stats().writes - before.writes <= 300 - scans, "only what was left is written");
    assert!(world.state().await.doubts.is_empty());
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn after_a_clean_stop_nothing_is_replayed() {
    let world = World::paused(Options { shard_life: Duration::from_secs(3), ..seeded(101) });
    fill(&world, 50);
    for _ in 0..5 {
        let service = world.serve("");
        for n in 0..100 {
            world.put(n % 50, 0, &format!("{n}"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        let state = world.state().await;
        assert!(state.link.unwrap().clean && state.doubts.is_empty());
        assert!(state.shards.iter().all(|row| row.debts.is_empty()));
    }
    let before = world.sandbox.stats().writes;
    let service = world.serve("");
    tokio::time::sleep(Duration::from_secs(10)).await;
    service.stop().await.unwrap();
    assert_eq!(world.sandbox.stats().writes, before);
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_moment_of_load_and_stream_it_ends_equal() {
    for seed in 110..122 {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = World::paused(Options {
            max_page_bytes: 2000,
            shard_life: Duration::from_secs(3),
            split_chance: 0.4,
            ..seeded(seed)
        });
        fill(&world, 150);
        let hold = |call| FaultRule::new(call, Trigger::Chance(0.3), FaultKind::Hold(Duration::from_millis(250)));
        world.faults(vec![hold("Scan"), hold("BatchWriteItem"), hold("GetRecords")]);
        for _ in 0..random.usize(2..6) {
            let service = world.serve("load.segments = 4\nload.concurrency = 2");
            for _ in 0..random.usize(1..60) {
                let key = random.usize(0..170);
                if random.f64() < 0.2 {
                    world.delete(key, 0)
                } else {
                    world.put(key, 0, &random.u64(..).to_string())
                }
                tokio::time::sleep(Duration::from_millis(random.u64(1..40))).await;
            }
            service.kill().await;
        }
        world.no_faults();
        let reports = world.migrate("").await.unwrap();
        assert!(reports[0].verification.is_identical(), "seed {seed}: {:?}", reports[0]);
        assert_eq!(world.num_differences(), 0, "seed {seed}");
        assert!(world.gaps().await.is_empty(), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_process_had_on_the_wire_lands_late_and_is_put_right() {
    for seed in 130..138 {
        let world = World::paused(seeded(seed));
        fill(&world, 60);
        let doubt = "apply.in_doubt_for = \"120s\"\napply.attempt_timeout = \"60s\"";
        let service = world.serve(doubt);
        if seed % 2 == 0 {
            service.until_equal(&world).await;
        }
        // The network holds these writes back for a minute and more; the process dies meanwhile.
        let late = FaultKind::DeliverLate(Duration::from_secs(100));
        world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(0.7), late).for_account(TARGET)]);
        for n in 0..40 {
            world.put(n, 0, "old");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        service.kill().await;
        world.no_faults();
        let service = world.serve(doubt);
        for n in 0..60 {
            if n % 3 == 0 { world.delete(n, 0) } else { world.put(n, 0, "new") }
        }
        service.until("the new ones are there", || world.num_differences() == 0).await;
        assert!(service.status().in_doubt > 0, "seed {seed}: the replayed keys are in doubt");
        tokio::time::sleep(Duration::from_secs(130)).await;
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn keys_in_doubt_outlive_several_kills() {
    let world = World::paused(seeded(140));
    fill(&world, 20);
    let doubt = "apply.in_doubt_for = \"120s\"";
    let service = world.serve(doubt);
    service.until_equal(&world).await;
    let late = FaultKind::DeliverLate(Duration::from_secs(80));
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Next(3), late)]);
    world.put(1, 0, "old");
    service.until("it is in doubt", || service.status().in_doubt > 0).await;
    for n in 0..5 {
        service_restart(&world, doubt, n).await;
    }
    service.kill().await;
    let service = world.serve(doubt);
    tokio::time::sleep(Duration::from_secs(200)).await;
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world.assert_equal();
}

async fn service_restart(world: &World, more: &str, n: usize) {
    world.put(1, 0, &format!("new {n}"));
    let service = world.serve(more);
    tokio::time::sleep(Duration::from_millis(700)).await;
    service.kill().await;
}

#[tokio::test(start_paused = true)]
async fn state_that_belongs_to_other_tables_is_refused() {
    let world = World::paused(seeded(141));
    fill(&world, 10);
    world.migrate("").await.unwrap();
    for other in ["source.table = \"others\"", "target.table = \"others\""] {
        world.sandbox.call(SOURCE, REGION, "CreateTable", &ORDERS.replace("\"orders\"", "\"others\"")).ok();
        world.sandbox.call(TARGET, REGION, "CreateTable", &ORDERS.replace("\"orders\"", "\"others\"")).ok();
        let (exit, text) = failed(world.migrate(other).await);
        assert_eq!(exit, Exit::Precondition, "{other}: {text}");
        assert!(text.contains("other tables"), "{text}");
    }
    world.migrate("").await.unwrap();
}

#[tokio::test]
async fn a_second_process_over_the_same_state_is_refused() {
    let world = World::new(seeded(142));
    fill(&world, 10);
    let first = world.serve("");
    first.until_equal(&world).await;
    let (exit, text) = failed(world.migrate("").await);
    assert_eq!(exit, Exit::Held, "{text}");
    first.stop().await.unwrap();
    world.migrate("").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_another_took_over_from_stops_and_the_copy_ends_right() {
    let world = World::paused(seeded(143));
    fill(&world, 10);
    let first = world.serve("");
    first.until_equal(&world).await;
    let second = world.serve("");
    for n in 0..50 {
        world.put(n % 10, 0, &format!("{n}"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (exit, text) = failed(first.end().await);
    assert_eq!(exit, Exit::Held, "{text}");
    second.until_equal(&world).await;
    second.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn state_restored_from_an_old_backup_only_costs_a_replay_or_a_heal() {
    for (age, gap) in [(HOUR, false), (HOUR * 30, true)] {
        let world = World::paused(seeded(144));
        fill(&world, 50);
        let service = world.serve("");
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        let backup = std::sync::Arc::new(world.store.as_ref().unwrap().fork());
        for hour in 0..usize::try_from(age.as_secs() / 3600).unwrap() {
            let service = world.serve("");
            world.put(hour, 0, "later");
            world.delete(hour + 1, 0);
            service.until_equal(&world).await;
            service.stop().await.unwrap();
            world.clock().skip(HOUR);
        }
        world.put(7, 0, "newest");
        let mut world = world;
        world.store = Some(backup);
        let service = world.serve("");
        service.until_equal(&world).await;
        assert_eq!(!world.gaps().await.is_empty(), gap);
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

/// Which keys are tampered with: one is missing, one is extra, one differs.
fn tamper(world: &World) {
    world.delete_at(TARGET, "orders-copy", 3, 0);
    world.put_at(TARGET, "orders-copy", 900, 0, "extra");
    world.put_at(TARGET, "orders-copy", 5, 0, "different");
}

#[tokio::test(start_paused = true)]
async fn verify_finds_what_was_tampered_with_and_repair_mends_it() {
    for (exclusive, left) in [("", 0), ("target.exclusive = false", 1)] {
        let world = World::paused(seeded(145));
        fill(&world, 50);
        world.migrate(exclusive).await.unwrap();
        tamper(&world);
        let verify = |repair| {
            let program = world.program(world.config(exclusive), Mode::Oneshot);
            Box::pin(async move {
                let options = VerifyOptions { repair, ..VerifyOptions::default() };
                Box::pin(program.verify(options, CancellationToken::new())).await.unwrap().remove(0).1
            })
        };
        let found = verify(false).await;
        let confirmed = found.differences.confirmed;
        assert_eq!((confirmed.missing, confirmed.extra, confirmed.different), (1, 1, 1));
        assert!(!found.is_identical());
        assert_eq!(world.num_differences(), 3, "looking changes nothing");
        let mended = verify(true).await;
        assert_eq!(mended.differences.repaired.total(), 3 - left, "{mended:?}");
        assert_eq!((mended.is_identical(), mended.differences.confirmed.extra), (left == 0, left));
        assert_eq!(world.num_differences() as u64, left);
        assert_eq!(verify(false).await.is_identical(), left == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_verification_under_writes_calls_nothing_different_that_is_only_under_way() {
    let world = World::paused(seeded(146));
    fill(&world, 200);
    let service = world.serve("");
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    let program = world.program(world.config(""), Mode::Oneshot);
    let options = VerifyOptions { repair: true, ..VerifyOptions::default() };
    let mut verify = Box::pin(program.verify(options, CancellationToken::new()));
    let mut n = 0;
    let report = loop {
        tokio::select! {
            report = &mut verify => break report.unwrap().remove(0).1,
            () = tokio::time::sleep(Duration::from_millis(15)) => {
                n += 1;
                if n < 400 { world.put(n % 200, 0, &format!("{n}")) }
            }
        }
    };
    assert_eq!(report.differences.confirmed.total(), 0, "{report:?}");
    assert_eq!(report.differences.repaired.total(), 0, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn the_state_of_an_idle_table_does_not_look_as_old_as_its_last_change() {
    let stopped_after = async |is_killed: bool| {
        let world = World::paused(seeded(if is_killed { 152 } else { 151 }));
        fill(&world, 20);
        let service = world.serve("");
        service.until_equal(&world).await;
        tokio::time::sleep(HOUR / 2).await;
        if is_killed {
            service.kill().await
        } else {
            service.stop().await.unwrap()
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let status = world.program(world.config(""), Mode::Oneshot).stored_status().await.unwrap();
        let orders = &status.links[0];
        assert_eq!(orders.phase, Phase::CatchingUp);
        assert!(orders.headroom_seconds.unwrap() > 23.9 * 3600.0, "{orders:?}");
        orders.lag_seconds.unwrap()
    };
    let drained = stopped_after(false).await;
    assert!(drained < 10.0, "{drained} s a second after a clean stop");
    let killed = stopped_after(true).await;
    assert!(killed < 150.0, "{killed} s a second after a kill");
}

#[tokio::test(start_paused = true)]
async fn who_only_looks_makes_no_state_and_is_told_of_links_that_never_ran() {
    let world = World::paused(seeded(153));
    let nowhere = world.dir.path().join("nowhere");
    let place = format!("[checkpoint]\nstore = \"file:{}\"", nowhere.join("state.redb").display());
    let looks = || world.program_by_config(world.config(&place), Mode::Oneshot);
    let status = looks().stored_status().await.unwrap();
    assert_eq!(status.links.len(), 1);
    assert_eq!((status.links[0].link.as_str(), status.links[0].phase), ("orders", Phase::Starting));
    assert_eq!(status.links[0].needs, ["this link never ran", "no process is running this link"]);
    assert!(looks().dead_letters(&[]).await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(world.dir.path()).unwrap().count(), 0, "nothing was made");
    let (_, text) = failed(looks().migrate(CancellationToken::new()).await);
    assert!(text.contains("is not there: make it, or mount its disk"), "{text}");
    assert!(!nowhere.exists());
}

/// Takes the report of a verification.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn one_report_tells_the_differences_of_all_links_and_names_them() {
    let world = World::paused(seeded(147));
    fill(&world, 20);
    let two = "source.table = \"orders\"\ntarget.table = \"orders-copy\"\ntarget.create = true\n\
               [link.second]\nsource.table = \"orders\"\ntarget.table = \"second\"\ntarget.create = true";
    world.migrate(two).await.unwrap();
    world.delete_at(TARGET, "orders-copy", 3, 0);
    world.delete_at(TARGET, "second", 5, 0);
    let (lines, program) = (Lines::default(), world.program(world.config(two), Mode::Oneshot));
    let options = VerifyOptions { report: Some(Box::new(lines.clone())), ..VerifyOptions::default() };
    Box::pin(program.verify(options, CancellationToken::new())).await.unwrap();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let found: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<_> = found.iter().map(|line| (line["link"].as_str(), line["key"]["pk"]["S"].as_str())).collect();
    assert_eq!(found, [(Some("orders"), Some("p3")), (Some("second"), Some("p5"))]);
}

#[tokio::test(start_paused = true)]
async fn a_comparison_tells_how_far_it_is_while_it_runs() {
    let world = World::paused(Options { max_page_bytes: 150, ..seeded(148) });
    fill(&world, 100);
    world.migrate("").await.unwrap();
    world.delete_at(TARGET, "orders-copy", 3, 0);
    world.faults(vec![FaultRule::new("Scan", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_millis(500)))]);
    let program = world.program(world.config(""), Mode::Oneshot);
    let status = || program.status_source().status().links.into_iter().find_map(|link| link.verify);
    let mut verify = Box::pin(program.verify(VerifyOptions::default(), CancellationToken::new()));
    let mut told = Vec::new();
    loop {
        tokio::select! {
            found = &mut verify => break drop(found.unwrap()),
            () = tokio::time::sleep(Duration::from_secs(1)) => told.extend(status()),
        }
    }
    let items: Vec<u64> = told.iter().map(|now| now.source_items).collect();
    assert!(items.len() > 3 && items.is_sorted() && items[0] < 100, "{items:?}");
    assert_eq!(told.last().map(|now| (now.source_items, now.segments_done == now.segments)), Some((100, true)));
    assert!(told.iter().any(|now| now.suspects > 0));
    assert_eq!(status(), None, "and nothing afterwards");
}

#[tokio::test(start_paused = true)]
async fn status_tells_the_streams_rate_and_the_metrics_every_session() {
    let world = World::paused(seeded(149));
    fill(&world, 10);
    let service = world.serve("");
    service.until_equal(&world).await;
    for n in 0..150 {
        world.put(n % 10, 0, &format!("{n}"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rate = service.status().records_per_second.unwrap();
    assert!((rate - 10.0).abs() < 3.0, "{rate} records/s");
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(service.status().records_per_second, Some(0.0));
    for side in ["side=\"source\"", "side=\"target\""] {
        let sessions = |result| service.metric("dynaferry_requests_total", &["op=\"AssumeRole\"", side, result]);
        assert!((sessions("result=\"ok\"") - 1.0).abs() < f64::EPSILON, "the first one, too");
    }
    tokio::time::sleep(HOUR).await;
    world.put(1, 0, "an hour later");
    service.until_equal(&world).await;
    let renewed = service.metric("dynaferry_requests_total", &["op=\"AssumeRole\"", "result=\"ok\""]);
    assert!(renewed >= 4.0, "{renewed} sessions");
    service.stop().await.unwrap();
}

/// Each link goes to its own table.
const TWO_LINKS: &str = "source.table = \"orders\"\ntarget.table = \"orders-copy\"\ntarget.create = true\n\
                         [link.second]\nsource.table = \"orders\"\ntarget.table = \"second\"\ntarget.create = true";

#[tokio::test(start_paused = true)]
async fn log_lines_of_a_process_of_several_links_name_theirs() {
    let world = World::paused(seeded(154));
    fill(&world, 10);
    let lines = Lines::default();
    let into = lines.clone();
    let logs = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || into.clone()).finish();
    // Where there is but one subscriber, a line that another test's thread came to first would be off for all.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let logging = tracing::subscriber::set_default(logs);
    let failing = |operation: &str| FaultRule::new(operation, Trigger::Next(1), FaultKind::InternalError);
    world.faults(vec![failing("DescribeTable"), failing("BatchWriteItem")]);
    let service = world.serve(TWO_LINKS);
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    drop(logging);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for message in ["phase", "a call failed, trying again"] {
        let of_message: Vec<_> = lines.iter().filter(|line| line["message"] == message).collect();
        assert!(!of_message.is_empty(), "{message}");
        for line in of_message {
            let link = line["link"].as_str().or(line["span"]["link"].as_str());
            assert!(matches!(link, Some("orders" | "second")), "{line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn links_that_are_done_are_told_although_another_one_failed() {
    let world = World::paused(seeded(155));
    fill(&world, 10);
    let denied = FaultRule::new("DescribeTable", Trigger::Chance(1.0), FaultKind::AccessDenied);
    world.faults(vec![denied.for_table("orders-copy")]);
    let command = || world.program(world.config(TWO_LINKS), Mode::Oneshot);
    let outcomes = command().migrate_each(CancellationToken::new()).await.unwrap();
    let names: Vec<_> = outcomes.iter().map(|(link, ended)| (link.as_str(), ended.is_ok())).collect();
    assert_eq!(names, [("orders", false), ("second", true)]);
    let options = VerifyOptions::default();
    let outcomes = Box::pin(command().verify_each(options, CancellationToken::new())).await.unwrap();
    assert!(outcomes[0].1.is_err() && outcomes[1].1.as_ref().is_ok_and(|found| found.is_identical()));
    world.no_faults();
    let reports = command().migrate(CancellationToken::new()).await.unwrap();
    let items: Vec<_> = reports.iter().map(|report| report.items_loaded).collect();
    assert_eq!(items, [10, 10], "of the second one in the run before");
}

#[tokio::test(start_paused = true)]
async fn a_target_of_another_name_is_no_target_that_was_lost() {
    let world = World::paused(seeded(156));
    fill(&world, 10);
    world.migrate("").await.unwrap();
    let (exit, text) = failed(world.migrate("target.table = \"orders-cpoy\"\ntarget.create = false").await);
    assert_eq!(exit, Exit::Precondition);
    assert!(text.contains("the state of link `orders` belongs to other tables"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_matches_a_pattern_later_is_told_and_listing_tables_is_tried_again() {
    let world = World::paused(seeded(157));
    fill(&world, 10);
    let failing = FaultRule::new("ListTables", Trigger::Next(2), FaultKind::InternalError);
    world.faults(vec![failing]);
    let service = world.serve("source.tables = [\"ord*\"]\ntarget.table = \"copy-of-{table}\"");
    service.until("it runs", || service.status().phase == Phase::Replicating).await;
    let new_tables = || service.status().needs.into_iter().find(|need| need.contains("matches new tables"));
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(new_tables(), None);
    world.call(SOURCE, "CreateTable", &ORDERS.replacen("orders", "ordinary", 1));
    tokio::time::sleep(Duration::from_secs(310)).await;
    let told = new_tables().unwrap();
    assert_eq!(told, "[link.orders] matches new tables, not copied before the next start: ordinary");
    service.stop().await.unwrap();
}
