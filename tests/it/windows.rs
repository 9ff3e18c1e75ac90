//! A load from an export that takes longer than the stream keeps: incremental exports go on from it, and then the stream.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dynaferry::checkpoint::rows::Stage;
use dynaferry::error::Exit;
use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::{Mode, Phase};
use serde_json::{Value, json};

use dynaferry::context::WallClock as _;

use crate::exports::{arn, assert_refused, counted, fill, whole, world};
use crate::handoff::{set_expiry, target_has};
use crate::own_exports::set_recovery;
use crate::shutdown::{create_choosy_target, poison};
use crate::world::{HOUR, Process, REGION, SOURCE, World};

const OWN: &str = "load.method = \"export\"\nload.bucket = \"exports\"\nload.concurrency = 2\n";
const MINUTE: Duration = Duration::from_secs(60);

/// The exports of the table, full ones and windows, in the order in which they were begun.
fn exports(world: &World) -> [Vec<Value>; 2] {
    let listed = world.ask(SOURCE, "ListExports", &json!({"TableArn": arn()}).to_string());
    let arns = listed["ExportSummaries"].as_array().unwrap().iter().map(|export| export["ExportArn"].clone());
    let described = arns.map(|arn| {
        let asked = json!({"ExportArn": arn}).to_string();
        world.ask(SOURCE, "DescribeExport", &asked)["ExportDescription"].clone()
    });
    let (windows, full) = described.partition(|export| export["ExportType"] == "INCREMENTAL_EXPORT");
    [full, windows]
}

fn windows(world: &World) -> Vec<(f64, f64)> {
    let [_, windows] = exports(world);
    let of = |window: &Value, name: &str| window["IncrementalExportSpecification"][name].as_f64().unwrap();
    windows.iter().map(|window| (of(window, "ExportFromTime"), of(window, "ExportToTime"))).collect()
}

/// An export takes so long, and what changed in a window another time.
fn slow(options: &mut Options, export: Duration, window: Duration) {
    (options.export_takes, options.windows_take) = (export, Some(window));
    options.export_lag = MINUTE * 5;
}

/// Changes of every kind, some of which a window leaves out: each round, what came and went.
fn change(world: &World, round: usize) {
    for n in 0..12 {
        world.put((round * 5 + n) % 40, 0, &format!("round {round} {n}"));
        world.put(1_000 + round, n, "comes and goes");
        world.delete((round * 7 + n) % 50, n % 7);
        world.delete(1_000 + round, n);
    }
}

async fn live(world: &World, hours: u32) {
    for hour in 0..hours {
        change(world, hour as usize);
        tokio::time::sleep(HOUR).await;
    }
}

/// The full export is asked for, and hours pass while nobody is there.
async fn begin(world: &World, hours: u32) {
    let service = world.serve(OWN);
    service.until("the export is asked for", || !exports(world)[0].is_empty()).await;
    tokio::time::sleep(MINUTE).await;
    service.kill().await;
    pass(world, hours);
}

fn pass(world: &World, hours: u32) {
    for hour in 0..hours {
        change(world, hour as usize);
        world.clock().skip(HOUR);
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_outlasts_the_stream_goes_on_by_windows_that_meet() {
    let world = world(1_100);
    fill(&world, 300);
    world.sandbox.change_options(|options| slow(options, HOUR * 50, HOUR * 3));
    let scans = counted(&world, "Scan", SOURCE);
    let service = world.serve(OWN);
    live(&world, 57).await;
    service.until_equal(&world).await;
    let [full, _] = exports(&world);
    let windows = windows(&world);
    assert_eq!((full.len(), windows.len()), (1, 2), "{windows:?}");
    let mut from = full[0]["ExportTime"].as_f64().unwrap();
    assert!(from.fract() == 0.0, "some tell the times of windows in whole seconds");
    for (begin, end) in &windows {
        assert!((begin - from).abs() < f64::EPSILON, "a window begins where the one before ended: {windows:?}");
        from = *end;
    }
    let row = world.link_row().await;
    let of = row.load.unwrap().export.unwrap();
    assert_eq!((row.stage, of.time.millis()), (Stage::Streaming, (from * 1000.0).round() as i64));
    assert!(world.gaps().await.is_empty(), "nothing was lost");
    assert_eq!(scans.load(Ordering::SeqCst), 0, "the source is not scanned");
    change(&world, 99);
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world.assert_equal();
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_moment_no_window_is_exported_twice() {
    let mut at_windows = 0;
    for seed in 1_101..1_107 {
        let world = world(seed);
        fill(&world, 300);
        world.sandbox.change_options(|options| slow(options, HOUR * 46, MINUTE * 2));
        begin(&world, 46).await;
        world.faults(vec![
            FaultRule::new("ExportTableToPointInTime", Trigger::Chance(0.4), FaultKind::LoseAnswer),
            FaultRule::new("BatchWriteItem", Trigger::Chance(0.5), FaultKind::Hold(Duration::from_millis(900))),
            FaultRule::new("*", Trigger::Chance(0.2), FaultKind::Hold(Duration::from_millis(300))),
        ]);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..40 {
            let service = world.serve(OWN);
            tokio::time::sleep(Duration::from_millis(random.u64(100..25_000))).await;
            service.kill().await;
            change(&world, round);
            let row = world.state().await.link;
            let plan = row.filter(|row| row.stage == Stage::Loading).and_then(|row| row.load?.export?.window);
            at_windows += u32::from(plan.is_some());
        }
        world.no_faults();
        assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
        let (windows, [full, _]) = (windows(&world), exports(&world));
        let mut begins: Vec<i64> = windows.iter().map(|(from, _)| (from * 1000.0).round() as i64).collect();
        begins.sort_unstable();
        begins.dedup();
        assert_eq!((full.len(), begins.len()), (1, windows.len()), "seed {seed}: {windows:?}");
        assert!(world.gaps().await.is_empty() && windows.len() >= 2, "seed {seed}: {windows:?}");
        world.assert_equal();
    }
    assert!(at_windows > 5, "{at_windows}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_away_for_days_in_the_middle_of_a_load_goes_on_by_windows() {
    let world = world(1_110);
    fill(&world, 2_000);
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_secs(3)))]);
    let service = world.serve(OWN);
    service.until("it loads", || service.metric("dynaferry_initial_load_items_total", &[]) > 0.0).await;
    service.kill().await;
    world.no_faults();
    pass(&world, 60);
    let service = world.serve(OWN);
    service.until_equal(&world).await;
    assert_eq!(windows(&world).len(), 2);
    assert!(world.gaps().await.is_empty());
    service.stop().await.unwrap();
    world.assert_equal();
}

/// A write of a window that is late lands before the next one is begun.
#[tokio::test(start_paused = true)]
async fn a_late_write_of_a_window_never_lands_over_the_next_one() {
    for seed in 1_120..1_126 {
        let world = world(seed);
        fill(&world, 60);
        world.sandbox.change_options(|options| slow(options, HOUR * 46, MINUTE));
        begin(&world, 46).await;
        let late = FaultKind::TimeOutAndDeliverLate(MINUTE * 15);
        world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(0.4), late)]);
        let service = world.serve(&format!("{OWN}apply.in_doubt_for = \"16m\"\napply.attempt_timeout = \"1s\"\n"));
        for round in 0..160 {
            change(&world, round);
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        world.no_faults();
        // The last keys in doubt are read when nothing can land any more.
        tokio::time::sleep(HOUR).await;
        service.until_equal(&world).await;
        assert!(world.gaps().await.is_empty(), "seed {seed}");
        assert!(windows(&world).len() >= 2, "seed {seed}");
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

async fn healed(world: &World, service: &Process) {
    service.until_equal(world).await;
    let gaps = world.gaps().await;
    assert!(!gaps.is_empty() && gaps.iter().all(|gap| gap.healed.is_some()), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn recovery_that_was_off_meanwhile_is_a_gap_and_is_healed() {
    let world = world(1_130);
    fill(&world, 100);
    world.sandbox.change_options(|options| slow(options, HOUR * 30, MINUTE));
    begin(&world, 12).await;
    set_recovery(&world, false);
    set_recovery(&world, true);
    pass(&world, 20);
    let service = world.serve(OWN);
    healed(&world, &service).await;
    assert!(windows(&world).is_empty(), "there is none to be had");
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn windows_that_fail_are_three_and_then_a_gap_is_healed() {
    let world = world(1_131);
    fill(&world, 100);
    world.sandbox.change_options(|options| slow(options, HOUR * 30, MINUTE));
    begin(&world, 30).await;
    world.sandbox.change_options(|options| options.windows_fail = true);
    let service = world.serve(OWN);
    live(&world, 8).await;
    healed(&world, &service).await;
    assert_eq!(windows(&world).len(), 3);
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn windows_that_always_come_too_late_are_not_asked_for_for_ever() {
    let world = world(1_132);
    fill(&world, 100);
    world.sandbox.change_options(|options| slow(options, HOUR * 30, HOUR * 24 - MINUTE * 30));
    begin(&world, 30).await;
    let service = world.serve(OWN);
    live(&world, 50).await;
    healed(&world, &service).await;
    assert_eq!(windows(&world).len(), 2, "they have brought the load no closer");
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_refused_is_told_and_asked_for_when_the_link_runs_again() {
    let world = world(1_133);
    fill(&world, 100);
    world.sandbox.change_options(|options| slow(options, HOUR * 30, MINUTE));
    let denied = FaultKind::Error { code: "AccessDeniedException".to_owned(), status: 400 };
    begin(&world, 31).await;
    world.faults(vec![FaultRule::new("ExportTableToPointInTime", Trigger::Chance(1.0), denied)]);
    let error = world.migrate(OWN).await.expect_err("it may not ask for it");
    assert!(
        error.exit == Exit::Precondition && whole(&error).contains("config/policies/export.json"),
        "{}",
        whole(&error)
    );
    let row = world.link_row().await;
    assert_eq!(row.stage, Stage::Loading, "nothing is given up");
    world.no_faults();
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert!(world.gaps().await.is_empty() && !windows(&world).is_empty());
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn windows_that_do_not_catch_up_are_not_asked_for_for_ever() {
    let world = world(1_134);
    fill(&world, 100);
    world.sandbox.change_options(|options| slow(options, HOUR * 30, HOUR * 18 - MINUTE * 2));
    begin(&world, 30).await;
    let service = world.serve(OWN);
    live(&world, 80).await;
    service.until_equal(&world).await;
    assert!(world.gaps().await.is_empty(), "the stream had all of it, just so");
    assert_eq!(windows(&world).len(), 4, "after the last three it was as far behind");
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn what_expired_in_the_days_of_a_load_is_kept_where_the_target_keeps_it() {
    let world = world(1_135);
    world.put_json(
        &json!({"pk": {"S": "p500"}, "sk": {"N": "1"}, "end": {"N": (1_800_000_000 + 15 * 3600).to_string()}}),
    );
    world.put(501, 1, "is deleted");
    fill(&world, 100);
    set_expiry(&world, "end", true);
    world.sandbox.change_options(|options| slow(options, HOUR * 30, MINUTE));
    begin(&world, 20).await;
    let key = json!({"pk": {"S": "p500"}, "sk": {"N": "1"}}).to_string();
    assert!(world.sandbox.expire_ttl(SOURCE, REGION, "orders", &key).unwrap());
    world.delete(501, 1);
    pass(&world, 12);
    let service = world.serve(&format!("{OWN}stream.ttl_deletes = \"skip\""));
    service.until("a gap is healed", || world.num_differences() == 1).await;
    assert!(target_has(&world, 500) && !target_has(&world, 501));
    assert!(windows(&world).is_empty(), "they do not tell what expired from what was deleted");
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_window_that_begins_at_another_time_than_the_load_ended_is_of_no_use() {
    let world = world(1_136);
    fill(&world, 100);
    // No time can be named of a recovery that is turned on for the export, and the time that is taken is no whole second.
    set_recovery(&world, false);
    world.clock().skip(Duration::from_millis(28));
    world.sandbox.change_options(|options| {
        slow(options, HOUR * 30, MINUTE);
        (options.windows_in_seconds, options.recovery_delay) = (true, MINUTE * 10);
    });
    let own = format!("{OWN}load.enable_pitr = true\n");
    let service = world.serve(&own);
    tokio::time::sleep(MINUTE * 40).await;
    service.kill().await;
    assert!(exports(&world)[0][0]["ExportTime"].as_f64().unwrap().fract() > 0.0);
    pass(&world, 31);
    let service = world.serve(&own);
    healed(&world, &service).await;
    assert_eq!(windows(&world).len(), 1);
    service.stop().await.unwrap();
    world.assert_equal();
}

/// Every object of the windows that are whole.
fn forget_windows(world: &World) {
    let [_, windows] = exports(world);
    for manifest in windows.iter().filter_map(|window| window["ExportManifest"].as_str()) {
        let folder = manifest.trim_end_matches("manifest-summary.json");
        let of = world.sandbox.objects("exports").into_keys().filter(|key| key.starts_with(folder));
        of.for_each(|key| drop(world.sandbox.set_object("exports", &key, None)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_whose_objects_are_gone_is_exported_anew() {
    let world = world(1_137);
    fill(&world, 100);
    world.sandbox.change_options(|options| slow(options, HOUR * 30, HOUR));
    begin(&world, 31).await;
    let service = world.serve(OWN);
    service.until("a window is asked for", || !windows(&world).is_empty()).await;
    service.kill().await;
    pass(&world, 2);
    assert_eq!(exports(&world)[1][0]["ExportStatus"], "COMPLETED");
    forget_windows(&world);
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!(windows(&world).len(), 2, "the same twice");
    assert!(world.gaps().await.is_empty());
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_forgets_every_window_is_a_gap_and_is_healed() {
    let world = world(1_138);
    fill(&world, 100);
    world.sandbox.change_options(|options| slow(options, HOUR * 30, MINUTE * 10));
    begin(&world, 31).await;
    let gone = FaultKind::Error { code: "NoSuchKey".to_owned(), status: 404 };
    let service = world.serve(OWN);
    service.until("the export is loaded", || !windows(&world).is_empty()).await;
    world.faults(vec![FaultRule::new("GetObject", Trigger::Chance(1.0), gone)]);
    tokio::time::sleep(HOUR * 6).await;
    healed(&world, &service).await;
    assert_eq!(windows(&world).len(), 3);
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_not_replayed_into_an_export_that_is_being_loaded() {
    let world = world(1_139);
    fill(&world, 2_000);
    create_choosy_target(&world);
    (0..2_000).step_by(50).for_each(|pk| poison(&world, pk));
    world.clock().skip(MINUTE * 2);
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_secs(3)))]);
    let own = format!("{OWN}apply.on_rejected = \"dead_letter\"\n");
    let service = world.serve(&own);
    service.until("letters are written", || service.status().dead_letters > 0).await;
    tokio::time::sleep(MINUTE).await;
    service.kill().await;
    world.no_faults();
    let program = || world.program(world.config(&own), Mode::Oneshot);
    let error = Box::pin(program().retry_dead_letters(&[])).await.expect_err("it is loading");
    assert!(error.exit == Exit::Precondition && whole(&error).contains("finish its load"), "{}", whole(&error));
    assert!(!program().dead_letters(&[]).await.unwrap().is_empty());
    let service = world.serve(&own);
    // By then the source has changed what was refused.
    (0..2_000).step_by(50).for_each(|pk| world.put(pk, 0, "mended"));
    service.until("it is loaded", || service.status().phase == Phase::Replicating).await;
    service.stop().await.unwrap();
    let report = Box::pin(program().retry_dead_letters(&[])).await.unwrap();
    assert!(report.retried > 0 && report.remaining == 0);
    world.assert_equal();
}

/// Asks for a window of the last hours, or for a full export: its ARN, and its folder.
fn export_as(world: &World, window: Option<(i64, i64)>) -> (String, String) {
    let mut asked = json!({"TableArn": arn(), "S3Bucket": "exports", "S3Prefix": "by hand"});
    match window {
        Some((from, to)) => {
            asked["ExportType"] = "INCREMENTAL_EXPORT".into();
            asked["IncrementalExportSpecification"] = json!({"ExportFromTime": from, "ExportToTime": to});
        }
        None => asked["ExportTime"] = seconds(world).into(),
    }
    let made = &world.ask(SOURCE, "ExportTableToPointInTime", &asked.to_string())["ExportDescription"];
    let text = |member: &str| made[member].as_str().unwrap().to_owned();
    (text("ExportArn"), format!("s3://exports/{}", text("ExportManifest").replace("manifest-summary.json", "")))
}

fn seconds(world: &World) -> i64 {
    world.clock().now().millis() / 1000
}

/// A full export, and three increments that go on from it.
fn made_by_hand(world: &World) -> (String, Vec<(String, String)>) {
    fill(world, 200);
    let mut from = seconds(world);
    let (_, full) = export_as(world, None);
    let mut increments = Vec::new();
    for hours in [20, 20, 20] {
        pass(world, hours);
        let to = seconds(world) - 600;
        increments.push(export_as(world, Some((from, to))));
        from = to;
    }
    (full, increments)
}

fn from_all(full: &str, increments: &[&str]) -> String {
    format!("load.from_export = \"{full}\"\nload.increments = {}\n", json!(increments))
}

#[tokio::test(start_paused = true)]
async fn exports_and_increments_that_were_made_by_hand_are_loaded_one_after_the_other() {
    let world = world(1_140);
    let (full, made) = made_by_hand(&world);
    let scans = counted(&world, "Scan", SOURCE);
    // By either name.
    let config = from_all(&full, &[&made[0].0, &made[1].1, &made[2].0]);
    let service = world.serve(&config);
    service.until_equal(&world).await;
    change(&world, 99);
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world.assert_equal();
    assert!(world.gaps().await.is_empty());
    assert_eq!((scans.load(Ordering::SeqCst), windows(&world).len()), (0, 3), "it makes none of its own");
    assert!(world.migrate(&config).await.unwrap()[0].verification.is_identical());
}

#[tokio::test(start_paused = true)]
async fn a_load_of_increments_that_is_killed_at_any_moment_ends_equal() {
    let mut at_windows = 0;
    for seed in 1_141..1_145 {
        let world = world(seed);
        let (full, made) = made_by_hand(&world);
        let all = from_all(&full, &[&made[0].1, &made[1].1, &made[2].1]);
        let config = format!("{all}apply.max_in_flight = 1\n");
        world.faults(vec![
            FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_secs(2))),
            FaultRule::new("*", Trigger::Chance(0.2), FaultKind::Hold(Duration::from_millis(300))),
        ]);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..30 {
            let service = world.serve(&config);
            tokio::time::sleep(Duration::from_millis(random.u64(100..8_000))).await;
            service.kill().await;
            change(&world, round);
            let row = world.state().await.link;
            let plan = row.filter(|row| row.stage == Stage::Loading).and_then(|row| row.load?.export?.window);
            at_windows += u32::from(plan.is_some());
        }
        world.no_faults();
        assert!(world.migrate(&config).await.unwrap()[0].verification.is_identical());
        assert!(world.gaps().await.is_empty(), "seed {seed}");
        world.assert_equal();
    }
    assert!(at_windows > 5, "{at_windows}");
}

#[tokio::test(start_paused = true)]
async fn increments_that_leave_something_out_are_refused_before_anything_is_written() {
    let world = world(1_146);
    let (full, made) = made_by_hand(&world);
    let [first, second, third] = [&made[0].1, &made[1].1, &made[2].1].map(String::as_str);
    let stray = export_as(&world, Some((seconds(&world) - 7200, seconds(&world) - 60))).1;
    for (increments, words) in [
        (vec![second, third], vec!["must begin where the export before it ended"]),
        (vec![first, third, second], vec!["must begin where the export before it ended"]),
        (vec![first, second, &stray], vec!["must begin where the export before it ended"]),
        (vec![first], vec!["a stream keeps 24 hours"]),
        (vec![&full, second], vec!["only an incremental export"]),
    ] {
        assert_refused(&world, &from_all(&full, &increments), &words).await;
    }
    let skip = format!("{}stream.ttl_deletes = \"skip\"\n", from_all(&full, &[first, second, third]));
    assert_refused(&world, &skip, &["what expired as of what was deleted"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_export_that_nobody_loaded_for_days_is_not_paid_for_again() {
    let world = world(1_147);
    fill(&world, 100);
    world.sandbox.change_options(|options| slow(options, HOUR, MINUTE));
    begin(&world, 50).await;
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!(exports(&world)[0].len(), 1);
    assert!(world.gaps().await.is_empty() && !windows(&world).is_empty());
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_window_that_was_asked_for_is_loaded_however_long_nobody_was_there() {
    let world = world(1_148);
    fill(&world, 100);
    world.sandbox.change_options(|options| slow(options, HOUR * 20, HOUR));
    begin(&world, 21).await;
    for away in [40, 30, 30] {
        let service = world.serve(OWN);
        let asked = windows(&world).len();
        service.until("another window is asked for", || windows(&world).len() > asked).await;
        service.kill().await;
        pass(&world, away);
    }
    let service = world.serve(OWN);
    live(&world, 8).await;
    service.until_equal(&world).await;
    assert!(world.gaps().await.is_empty(), "{:?}", world.gaps().await);
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_turned_off_and_on_during_a_long_load_loses_nothing() {
    let world = world(1_149);
    fill(&world, 100);
    world.sandbox.change_options(|options| slow(options, HOUR, MINUTE));
    let late = FaultKind::Hold(Duration::from_secs(3));
    begin(&world, 2).await;
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), late)]);
    let service = world.serve(OWN);
    service.until("it loads", || service.status().phase == Phase::InitialLoad).await;
    service.kill().await;
    world.no_faults();
    world.set_stream(false);
    change(&world, 7);
    world.set_stream(true);
    pass(&world, 30);
    let service = world.serve(OWN);
    live(&world, 2).await;
    service.until_equal(&world).await;
    assert!(world.gaps().await.is_empty(), "{:?}", world.gaps().await);
    assert!(!windows(&world).is_empty());
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_younger_than_the_last_increment_is_a_gap_and_is_healed() {
    let world = world(1_150);
    fill(&world, 200);
    let mut from = seconds(&world);
    let (_, full) = export_as(&world, None);
    let mut made = Vec::new();
    for hours in [20, 10] {
        pass(&world, hours);
        let to = seconds(&world) - 600;
        made.push(export_as(&world, Some((from, to))).1);
        from = to;
    }
    let config = from_all(&full, &[&made[0], &made[1]]);
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_secs(3)))]);
    let service = world.serve(&config);
    service.until("it loads", || service.status().phase == Phase::InitialLoad).await;
    service.kill().await;
    world.no_faults();
    // What is written here is in neither stream, and in no increment.
    pass(&world, 1);
    world.set_stream(false);
    change(&world, 70);
    world.set_stream(true);
    change(&world, 71);
    let service = world.serve(&config);
    healed(&world, &service).await;
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn an_export_whose_objects_are_gone_is_made_anew() {
    let world = world(1_151);
    fill(&world, 100);
    world.sandbox.change_options(|options| slow(options, HOUR, MINUTE));
    begin(&world, 5).await;
    assert_eq!(exports(&world)[0][0]["ExportStatus"], "COMPLETED");
    for key in world.sandbox.objects("exports").into_keys() {
        world.sandbox.set_object("exports", &key, None);
    }
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!(exports(&world)[0].len(), 2);
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn an_increment_of_another_table_that_is_listed_later_is_refused() {
    let world = world(1_152);
    let (full, made) = made_by_hand(&world);
    let summary = format!("{}manifest-summary.json", made[2].1.replace("s3://exports/", ""));
    let whole_list = from_all(&full, &[&made[0].1, &made[1].1, &made[2].1]);
    let late = FaultKind::Hold(Duration::from_secs(3));
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), late)]);
    let service = world.serve(&whole_list);
    service.until("it loads", || service.status().phase == Phase::InitialLoad).await;
    service.kill().await;
    world.no_faults();
    let text = String::from_utf8(world.sandbox.objects("exports")[&summary].to_vec()).unwrap();
    let other = text.replace(&arn(), &arn().replace("orders", "others"));
    assert_ne!(text, other);
    world.sandbox.set_object("exports", &summary, Some(other.into()));
    let error = world.migrate(&whole_list).await.expect_err("it is another table's");
    assert!(error.exit == Exit::Precondition && whole(&error).contains("others"), "{}", whole(&error));
    world.sandbox.set_object("exports", &summary, Some(text.into()));
    assert!(world.migrate(&whole_list).await.unwrap()[0].verification.is_identical());
    world.assert_equal();
}
