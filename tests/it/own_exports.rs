//! The initial load from an export that the link asks for itself: once, whatever crashes; and not before it may be loaded.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dynaferry::checkpoint::StateStore as _;
use dynaferry::checkpoint::rows::{ExportRequestRow, Stage};
use dynaferry::context::WallClock as _;
use dynaferry::error::Exit;
use dynaferry::sandbox::{FaultKind, FaultRule, Trigger};
use dynaferry::telemetry::{Mode, Phase};
use serde_json::json;

use crate::border::Border;
use crate::exports::{arn, counted, export, fill, whole, world, write_for};
use crate::world::{HOUR, ORDERS, Process, REGION, SOURCE, TARGET, World, failed};

const OWN: &str =
    "load.method = \"export\"\nload.bucket = \"exports\"\nload.prefix = \"team/a b\"\nload.concurrency = 2\n";
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn num_exports(world: &World) -> usize {
    let (mut count, mut after) = (0, json!(null));
    loop {
        let asked = json!({"TableArn": arn(), "NextToken": after}).to_string();
        let page = world.ask(SOURCE, "ListExports", &asked);
        count += page["ExportSummaries"].as_array().unwrap().len();
        after = page["NextToken"].clone();
        if after.is_null() {
            return count;
        }
    }
}

pub(crate) fn set_recovery(world: &World, on: bool) {
    let body =
        format!(r#"{{"TableName":"orders","PointInTimeRecoverySpecification":{{"PointInTimeRecoveryEnabled":{on}}}}}"#);
    world.call(SOURCE, "UpdateContinuousBackups", &body);
}

pub(crate) fn always(operation: &str, kind: FaultKind) -> FaultRule {
    FaultRule::new(operation, Trigger::Chance(1.0), kind)
}

fn not_found() -> FaultKind {
    FaultKind::Error { code: "ExportNotFoundException".to_owned(), status: 400 }
}

async fn noted(world: &World) -> Option<ExportRequestRow> {
    world.store.as_ref().unwrap().export_request("orders").await.unwrap()
}

/// Nothing is at the target, nothing is remembered of the link, and nothing is paid for.
async fn assert_untouched(world: &World) {
    assert_eq!(num_exports(world), 0);
    assert!(world.sandbox.snapshot(TARGET, REGION, "orders-copy").is_err(), "a table was made");
    assert!(world.state().await.link.is_none() && noted(world).await.is_none(), "something was remembered");
}

#[tokio::test(start_paused = true)]
async fn an_export_of_its_own_is_made_waited_for_and_loaded_under_writes() {
    let world = world(960);
    fill(&world, 1_000);
    world.sandbox.change_options(|options| options.export_takes = HOUR);
    let scans = counted(&world, "Scan", SOURCE);
    let service = world.serve(OWN);
    write_for(&world, 200).await;
    assert_eq!((num_exports(&world), service.status().phase), (1, Phase::Starting));
    tokio::time::sleep(HOUR).await;
    write_for(&world, 200).await;
    service.until_equal(&world).await;
    assert_eq!((num_exports(&world), scans.load(Ordering::SeqCst)), (1, 0));
    service.stop().await.unwrap();
    world.assert_equal();
    let reports = world.migrate(OWN).await.unwrap();
    assert!(reports[0].verification.is_identical() && num_exports(&world) == 1, "what is loaded is not exported again");
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_moment_it_never_exports_twice() {
    let (mut asked, mut waited, mut loaded) = (0, 0, 0);
    for seed in 961..973 {
        let world = world(seed);
        fill(&world, 1_000);
        world.sandbox.change_options(|options| options.export_takes = Duration::from_secs(12));
        let of = |call, chance, kind| FaultRule::new(call, Trigger::Chance(chance), kind);
        world.faults(vec![
            of("ExportTableToPointInTime", 0.2, FaultKind::DeliverLate(Duration::from_secs(5))),
            of("ExportTableToPointInTime", 0.2, FaultKind::InternalError),
            of("ExportTableToPointInTime", 0.9, FaultKind::LoseAnswer),
            of("BatchWriteItem", 0.7, FaultKind::Hold(Duration::from_millis(900))),
            of("*", 0.3, FaultKind::Hold(Duration::from_millis(300))),
        ]);
        let mut random = fastrand::Rng::with_seed(seed);
        for n in 0..20 {
            let service = world.serve(OWN);
            tokio::time::sleep(Duration::from_millis(random.u64(100..6_000))).await;
            service.kill().await;
            world.put(n, 1, &format!("between {n}"));
            let (row, link) = (noted(&world).await, world.state().await.link);
            asked += u32::from(row.as_ref().is_some_and(|row| row.arn.is_none()));
            waited += u32::from(row.is_some_and(|row| row.arn.is_some()) && link.is_none());
            loaded += u32::from(link.is_some_and(|link| link.stage == Stage::Loading));
            // A token is good for eight hours, and its export is known for longer.
            if n == 3 && seed % 3 == 0 {
                world.clock().skip(HOUR * 9);
            }
        }
        world.no_faults();
        let reports = world.migrate(OWN).await.unwrap();
        assert!(reports[0].verification.is_identical());
        assert_eq!(num_exports(&world), 1, "seed {seed}");
        world.assert_equal();
    }
    assert!(asked > 5 && waited > 20 && loaded > 5, "asked for {asked}, waited for {waited}, loaded {loaded}");
}

#[tokio::test(start_paused = true)]
async fn a_request_of_which_nobody_knows_is_found_again_when_its_token_is_forgotten() {
    let world = world(985);
    fill(&world, 50);
    // Others export the table, too: a page of a listing has 25.
    (0..40).for_each(|_| drop(export(&world)));
    world.faults(vec![always("ExportTableToPointInTime", FaultKind::LoseAnswer)]);
    let service = world.serve(OWN);
    service.until("the export is made, and nobody heard of it", || num_exports(&world) == 41).await;
    service.kill().await;
    world.clock().skip(HOUR * 9);
    world.no_faults();
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!(num_exports(&world), 41);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_while_it_asked_does_not_ask_again_with_a_token_that_is_forgotten() {
    let world = world(986);
    fill(&world, 50);
    world.faults(vec![always("ExportTableToPointInTime", FaultKind::LoseAnswer)]);
    let service = world.serve(OWN);
    service.until("the export is made, and nobody heard of it", || num_exports(&world) == 1).await;
    world.clock().skip(HOUR * 9);
    world.no_faults();
    service.until_equal(&world).await;
    assert_eq!(num_exports(&world), 1);
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_processes_over_one_state_ask_for_one_export() {
    for seed in 1_000..1_020 {
        let world = world(seed);
        fill(&world, 50);
        world.sandbox.change_options(|options| options.export_takes = MINUTE);
        world.faults(vec![
            FaultRule::new("ExportTableToPointInTime", Trigger::Chance(0.5), FaultKind::LoseAnswer),
            FaultRule::new("*", Trigger::Chance(0.5), FaultKind::Hold(Duration::from_millis(400))),
        ]);
        let mut random = fastrand::Rng::with_seed(seed);
        let one = world.serve(OWN);
        tokio::time::sleep(Duration::from_millis(random.u64(0..4_000))).await;
        let other = world.serve(OWN);
        tokio::time::sleep(MINUTE / 2).await;
        assert_eq!(num_exports(&world), 1, "seed {seed}");
        one.kill().await;
        other.kill().await;
        world.no_faults();
        assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
        assert_eq!(num_exports(&world), 1, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_link_over_goes_on_with_the_export_that_was_asked_for() {
    for seed in 1_020..1_030 {
        let world = world(seed);
        fill(&world, 50);
        world.sandbox.change_options(|options| options.export_takes = MINUTE * 5);
        let worker = || {
            let border = Border::new();
            let config = world.config(&format!("{OWN}\n[checkpoint]\nstore = \"dynamodb:dynaferry-state\""));
            (Process::start(world.program_through(config, Mode::Service, border.http_client(&world.sandbox))), border)
        };
        let late = FaultKind::TimeOutAndDeliverLate(Duration::from_secs(90));
        world.faults(vec![FaultRule::new("ExportTableToPointInTime", Trigger::Next(1), late)]);
        let (first, border) = worker();
        first.until("it asks", || !border.sent("ExportTableToPointInTime").is_empty()).await;
        let (second, _) = worker();
        // Killed, or frozen until long after.
        let mut frozen = None;
        if seed % 2 == 0 {
            first.kill().await;
        } else {
            border.set_frozen(true);
            frozen = Some(first);
        }
        second.until("it has the export", || num_exports(&world) > 0).await;
        tokio::time::sleep(MINUTE * 2).await;
        border.set_frozen(false);
        second.until_equal(&world).await;
        tokio::time::sleep(MINUTE * 2).await;
        assert_eq!(num_exports(&world), 1, "seed {seed}");
        second.stop().await.unwrap();
        if let Some(frozen) = frozen {
            frozen.stop().await.unwrap();
        }
        assert_eq!(num_exports(&world), 1, "seed {seed}");
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn an_export_that_is_not_seen_at_once_is_waited_for_and_not_made_again() {
    let world = world(987);
    fill(&world, 50);
    world.sandbox.change_options(|options| options.export_takes = MINUTE);
    // Once it is looked for before anything is asked for.
    world.faults(vec![FaultRule::new("DescribeExport", Trigger::Next(9), not_found())]);
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!(num_exports(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn an_export_that_cannot_be_seen_is_asked_for_by_the_same_token() {
    let world = world(988);
    fill(&world, 50);
    world.sandbox.change_options(|options| options.export_takes = HOUR);
    let service = world.serve(OWN);
    service.until("it is asked for", || num_exports(&world) == 1).await;
    tokio::time::sleep(MINUTE).await;
    service.kill().await;
    world.faults(vec![always("DescribeExport", not_found())]);
    for _ in 0..3 {
        world.migrate(OWN).await.expect_err("nobody knows of it");
        assert_eq!(num_exports(&world), 1, "its token tells it again");
        tokio::time::sleep(HOUR).await;
    }
    world.no_faults();
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!(num_exports(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn an_export_that_nobody_loaded_in_time_is_made_again_and_not_for_ever() {
    let world = world(990);
    fill(&world, 50);
    world.sandbox.change_options(|options| options.export_takes = HOUR);
    // What expired is told from what was deleted by the stream alone.
    let own = format!("{OWN}stream.ttl_deletes = \"skip\"\n");
    for round in 1..=4 {
        let service = world.serve(&own);
        tokio::time::sleep(MINUTE).await;
        service.kill().await;
        assert_eq!(num_exports(&world), round.min(3));
        world.clock().skip(HOUR * 23);
    }
    let (exit, text) = failed(world.migrate(&own).await);
    assert!(exit == Exit::Precondition && text.contains("the last of 3 exports"), "{text}");
    assert_eq!(num_exports(&world), 3);
}

#[tokio::test(start_paused = true)]
async fn an_export_that_failed_is_begun_anew_and_not_at_once() {
    let world = world(991);
    fill(&world, 10);
    let failing = |options: &mut dynaferry::sandbox::Options| {
        (options.export_takes, options.exports_fail) = (MINUTE, true);
    };
    world.sandbox.change_options(failing);
    for _ in 0..3 {
        let error = world.migrate(OWN).await.expect_err("it fails");
        let text = whole(&error);
        assert!(text.contains("S3NoSuchBucket") && text.contains("Another one is asked for"), "{text}");
    }
    assert_eq!(num_exports(&world), 1, "each costs money");
    for exports in [2, 3, 3, 3] {
        tokio::time::sleep(HOUR).await;
        world.migrate(OWN).await.expect_err("it fails again");
        assert_eq!(num_exports(&world), exports, "three in all");
    }
    world.sandbox.change_options(|options| options.exports_fail = false);
    let error = world.migrate(OWN).await.expect_err("three in all");
    let text = whole(&error);
    assert!(text.contains("of no use") && text.contains("S3NoSuchBucket") && text.contains("load.prefix"), "{text}");
    assert!(world.migrate(&OWN.replace("team/a b", "team/c")).await.unwrap()[0].verification.is_identical());
}

#[tokio::test(start_paused = true)]
async fn what_would_refuse_the_load_is_found_out_before_anything_is_made_or_paid_for() {
    let world = world(992);
    fill(&world, 10);
    let enabling = format!("{OWN}load.enable_pitr = true\n");
    let denied = |call: &str| always(call, FaultKind::AccessDenied);
    let elsewhere = OWN.replace("\"exports\"", "\"missing\"");
    let no_recovery: &[&str] = &["point-in-time recovery of the source table is off", "load.enable_pitr"];
    let policy: &[&str] = &["AccessDenied", "config/policies/export.json"];
    let cases: [(Vec<FaultRule>, bool, &str, &[&str]); 7] = [
        (vec![], false, OWN, no_recovery),
        (vec![], true, &elsewhere, &["`missing`", "NoSuchBucket", "load.bucket"]),
        (vec![denied("GetObject")], true, OWN, &["`exports`", "s3:GetObject", "s3:ListBucket", "load.bucket_owner"]),
        (vec![denied("DescribeContinuousBackups")], true, OWN, policy),
        (vec![denied("ListExports")], true, OWN, policy),
        (vec![denied("DescribeExport")], true, OWN, policy),
        // What is wrong with the bucket is said before the recovery is turned on.
        (vec![denied("GetObject")], false, &enabling, &["`exports`"]),
    ];
    for (faults, recovery, more, words) in cases {
        set_recovery(&world, recovery);
        world.faults(faults);
        let error = world.migrate(more).await.expect_err("refused");
        let text = whole(&error);
        assert_eq!(error.exit, Exit::Precondition, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
        assert_untouched(&world).await;
    }
    world.no_faults();
    assert!(!is_recoverable(&world));
    set_recovery(&world, true);
    world.set_stream(false);
    let error = world.migrate(OWN).await.expect_err("the stream is off");
    assert!(whole(&error).contains("stream.enable"), "{}", whole(&error));
    assert_untouched(&world).await;
    world.set_stream(true);
    world.clock().skip(HOUR);

    world.call(TARGET, "CreateTable", &ORDERS.replace("orders", "orders-copy"));
    world.put_at(TARGET, "orders-copy", 1, 1, "somebody's");
    let error = world.migrate(OWN).await.expect_err("the target holds something");
    assert!(whole(&error).contains("not empty"), "{}", whole(&error));
    world.delete_at(TARGET, "orders-copy", 1, 1);
    world.faults(vec![denied("ExportTableToPointInTime")]);
    let error = world.migrate(OWN).await.expect_err("nobody may ask for one");
    assert!(policy.iter().all(|word| whole(&error).contains(word)), "{}", whole(&error));
    assert_eq!(num_exports(&world), 0);
    world.no_faults();
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!(num_exports(&world), 1);
}

fn is_recoverable(world: &World) -> bool {
    let answer = world.ask(SOURCE, "DescribeContinuousBackups", r#"{"TableName":"orders"}"#);
    let recovery = &answer["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"];
    recovery["PointInTimeRecoveryStatus"] == "ENABLED"
}

#[tokio::test(start_paused = true)]
async fn recovery_and_stream_are_turned_on_where_that_is_allowed_and_waited_for() {
    for (seed, recovery_delay) in [(993, Duration::ZERO), (994, MINUTE * 30)] {
        let world = world(seed);
        fill(&world, 10);
        set_recovery(&world, false);
        world.set_stream(false);
        // An export is of some minutes ago, and the stream must be older than that.
        world.sandbox.change_options(|options| {
            (options.export_lag, options.recovery_delay) = (MINUTE * 7, recovery_delay);
        });
        let began = world.clock().now();
        let both = format!("{OWN}load.enable_pitr = true\nstream.enable = true\n");
        let reports = world.migrate(&both).await.unwrap();
        assert!(reports[0].verification.is_identical() && num_exports(&world) == 1 && is_recoverable(&world));
        let (took, least) = (world.clock().now().since(began), recovery_delay.max(MINUTE * 12));
        assert!(took >= least && took < MINUTE * 40, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_made_anew_meanwhile_is_exported_anew() {
    let world = world(984);
    fill(&world, 50);
    world.sandbox.change_options(|options| options.export_takes = HOUR);
    let service = world.serve(OWN);
    tokio::time::sleep(MINUTE).await;
    world.call(SOURCE, "DeleteTable", r#"{"TableName":"orders"}"#);
    world.call(SOURCE, "CreateTable", ORDERS);
    set_recovery(&world, true);
    world.put(1, 1, "of another table");
    let error = service.end().await.expect_err("it is of another table");
    assert!(whole(&error).contains("made anew") && error.exit == Exit::Precondition, "{}", whole(&error));
    assert!(world.state().await.link.is_none());
    let reports = world.migrate(OWN).await.unwrap();
    assert!(reports[0].verification.is_identical());
    assert_eq!(num_exports(&world), 2);
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_turned_off_and_on_after_the_export_was_found_is_not_begun_with() {
    for after_it_was_read in [false, true] {
        let world = world(995 + u64::from(after_it_was_read));
        fill(&world, 50);
        let reads = counted(&world, "GetObject", SOURCE);
        world.faults(vec![always("DescribeTable", FaultKind::Hold(Duration::from_secs(4)))]);
        world.sandbox.change_options(|options| options.export_takes = MINUTE);
        let service = world.serve(OWN);
        service.until("it is exported", || num_exports(&world) == 1).await;
        if after_it_was_read {
            // The bucket is looked at once before; then come both manifests, one under two keys, and a look at the source.
            service.until("the manifests are read", || reads.load(Ordering::SeqCst) == 4).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        world.set_stream(false);
        world.put(2, 2, "only in the export to come");
        world.delete(3, 3);
        world.set_stream(true);
        let error = service.end().await.expect_err("the stream is younger than the export");
        assert!(whole(&error).contains("the stream was turned on at"), "{}", whole(&error));
        assert!(world.state().await.link.is_none(), "nothing is pinned");
        world.no_faults();
        assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
        assert_eq!(num_exports(&world), 2);
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn hours_of_waiting_outlast_a_network_that_is_away_for_some_of_them() {
    let world = world(1_040);
    fill(&world, 50);
    world.sandbox.change_options(|options| options.export_takes = HOUR * 4);
    let service = world.serve(OWN);
    tokio::time::sleep(HOUR).await;
    world.faults(vec![always("*", FaultKind::Refuse).for_account(SOURCE)]);
    tokio::time::sleep(HOUR).await;
    assert!(!service.has_ended());
    world.no_faults();
    tokio::time::sleep(HOUR * 2).await;
    service.until_equal(&world).await;
    assert_eq!(num_exports(&world), 1);
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_time_that_cannot_be_exported_any_more_is_not_asked_for_again() {
    let world = world(995);
    fill(&world, 50);
    world.faults(vec![always("ExportTableToPointInTime", FaultKind::InternalError)]);
    let service = world.serve(OWN);
    tokio::time::sleep(MINUTE * 3).await;
    service.kill().await;
    let row = noted(&world).await.unwrap();
    assert!(row.arn.is_none() && row.time.is_some_and(|time| time.millis() % 1000 == 0), "{row:?}");
    set_recovery(&world, false);
    set_recovery(&world, true);
    world.clock().skip(HOUR);
    world.no_faults();
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!(num_exports(&world), 1);
}
