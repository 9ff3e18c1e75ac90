//! The initial load by an import in the target's account: once, whatever crashes; into a table that nobody else has.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dynaferry::checkpoint::StateStore as _;
use dynaferry::checkpoint::rows::{ImportRequestRow, Stage};
use dynaferry::error::Exit;
use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::{Mode, Phase};
use serde_json::{Value, json};

use crate::border::Border;
use crate::exports::{arn, counted, export, fill, whole, write_for};
use crate::world::{HOUR, ORDERS, Process, REGION, SOURCE, TARGET, World, failed};

const OWN: &str = "load.method = \"import\"\nload.bucket = \"exports\"\nload.prefix = \"team/a b\"\n";
const MINUTE: Duration = Duration::from_secs(60);

/// A source with recovery on, and a bucket of its account that lets the target in.
fn world(seed: u64) -> World {
    let world = crate::exports::world(seed);
    world.sandbox.let_into_bucket("exports", TARGET, true);
    world
}

fn imports(world: &World) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), json!(null));
    loop {
        let page = world.ask(TARGET, "ListImports", &json!({"NextToken": after}).to_string());
        all.extend(page["ImportSummaryList"].as_array().unwrap().iter().cloned());
        after = page["NextToken"].clone();
        if after.is_null() {
            return all;
        }
    }
}

fn num_imports(world: &World) -> usize {
    imports(world).len()
}

fn num_exports(world: &World) -> usize {
    let page = world.ask(SOURCE, "ListExports", &json!({"TableArn": arn()}).to_string());
    page["ExportSummaries"].as_array().unwrap().len()
}

fn always(operation: &str, kind: FaultKind) -> FaultRule {
    FaultRule::new(operation, Trigger::Chance(1.0), kind)
}

async fn noted(world: &World) -> Option<ImportRequestRow> {
    world.store.as_ref().unwrap().import_request("orders").await.unwrap()
}

/// The table at the target; `None`: there is none.
fn copy(world: &World) -> Option<Value> {
    let told = world.sandbox.call(TARGET, REGION, "DescribeTable", r#"{"TableName":"orders-copy"}"#).ok()?;
    Some(serde_json::from_slice::<Value>(&told).unwrap()["Table"].clone())
}

async fn causes(world: &World) -> Vec<(String, bool)> {
    world.gaps().await.into_iter().map(|gap| (gap.cause, gap.healed.is_some())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_target_is_imported_and_then_the_stream_goes_on_from_before_it() {
    let world = world(1_200);
    fill(&world, 500);
    world.sandbox.change_options(|options| (options.export_takes, options.import_takes) = (MINUTE, HOUR));
    let scans = counted(&world, "Scan", SOURCE);
    let service = world.serve(OWN);
    write_for(&world, 100).await;
    service.until("the import is asked for", || num_imports(&world) == 1).await;
    tokio::time::sleep(HOUR / 2).await;
    let status = service.status();
    let load = status.load.expect("how far the import is");
    assert_eq!(status.phase, Phase::InitialLoad);
    assert!((100..450).contains(&load.items) && load.bytes > 100_000, "{load:?}");
    assert_eq!(scans.load(Ordering::SeqCst), 0);
    tokio::time::sleep(HOUR / 2).await;
    write_for(&world, 100).await;
    service.until_equal(&world).await;
    let row = world.link_row().await;
    assert!(row.stage == Stage::Streaming && row.owns_target);
    assert_eq!((num_exports(&world), num_imports(&world), scans.load(Ordering::SeqCst)), (1, 1, 0));
    assert!(causes(&world).await.is_empty());
    service.stop().await.unwrap();
    world.assert_equal();
    let reports = world.migrate(OWN).await.unwrap();
    assert!(reports[0].verification.is_identical() && reports[0].items_loaded > 400);
    assert_eq!((num_exports(&world), num_imports(&world)), (1, 1), "what was imported is not imported again");
}

#[tokio::test(start_paused = true)]
async fn nothing_but_what_changed_since_the_export_is_written_by_the_link() {
    let world = world(1_201);
    fill(&world, 400);
    let batches = counted(&world, "BatchWriteItem", TARGET);
    let place = export(&world);
    tokio::time::sleep(MINUTE * 10).await;
    world.put(1, 1, "since");
    let more = format!("load.method = \"import\"\nload.from_export = \"{place}\"\nload.bucket_owner = \"{SOURCE}\"\n");
    let reports = world.migrate(&more).await.unwrap();
    assert!(reports[0].verification.is_identical());
    assert_eq!((num_exports(&world), num_imports(&world)), (1, 1), "the export that is there is imported");
    // The hour before is older than what is applied again.
    assert!(batches.load(Ordering::SeqCst) <= 40, "{}", batches.load(Ordering::SeqCst));
    world.assert_equal();
}

/// A source with an index, a class, deletion protection and tags, and a bucket that lets the target in.
fn indexed_world(seed: u64) -> World {
    let indexed = ORDERS
        .replace(r#"{"AttributeName":"sk","AttributeType":"N"}]"#, r#"{"AttributeName":"sk","AttributeType":"N"},{"AttributeName":"v","AttributeType":"S"}]"#)
        .replace(r#""StreamSpecification""#, r#""GlobalSecondaryIndexes":[{"IndexName":"by-v","KeySchema":[{"AttributeName":"v","KeyType":"HASH"}],"Projection":{"ProjectionType":"KEYS_ONLY"}}],"SSESpecification":{"Enabled":true,"KMSMasterKeyId":"arn:aws:kms:eu-west-1:111111111111:alias/aws/dynamodb"},"TableClass":"STANDARD_INFREQUENT_ACCESS","DeletionProtectionEnabled":true,"Tags":[{"Key":"team","Value":"orders"}],"StreamSpecification""#);
    let world =
        World::paused_with(Options { seed, table_delay: Duration::from_secs(3), ..Options::default() }, &indexed);
    world.clock().skip(HOUR);
    world.sandbox.create_bucket(SOURCE, REGION, "exports");
    world.sandbox.let_into_bucket("exports", TARGET, true);
    world.put(1, 1, "x");
    world
}

#[tokio::test(start_paused = true)]
async fn the_table_is_made_like_the_source_also_where_an_import_cannot() {
    let world = indexed_world(1_202);
    // Killed between the import and the end of all this, it goes on with it.
    world.faults(vec![FaultRule::new("TagResource", Trigger::Next(2), FaultKind::Hold(HOUR))]);
    let more = format!("{OWN}load.enable_pitr = true\n");
    let service = world.serve(&more);
    service.until("the table is there", || copy(&world).is_some_and(|table| table["TableStatus"] == "ACTIVE")).await;
    tokio::time::sleep(MINUTE).await;
    service.kill().await;
    world.no_faults();
    assert!(world.migrate(&more).await.unwrap()[0].verification.is_identical());
    let table = copy(&world).unwrap();
    assert_eq!(table["GlobalSecondaryIndexes"][0]["IndexName"], "by-v");
    assert_eq!(table["BillingModeSummary"]["BillingMode"], "PAY_PER_REQUEST");
    assert_eq!(table["TableClassSummary"]["TableClass"], "STANDARD_INFREQUENT_ACCESS");
    assert_eq!(
        (&table["DeletionProtectionEnabled"], &table["SSEDescription"]["SSEType"]),
        (&json!(true), &json!("KMS"))
    );
    assert_eq!(table["StreamSpecification"], Value::Null);
    let tags = world.ask(TARGET, "ListTagsOfResource", &json!({"ResourceArn": table["TableArn"]}).to_string());
    assert_eq!(tags["Tags"], json!([{"Key": "team", "Value": "orders"}]));
    assert_eq!(num_imports(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn a_label_that_is_refused_holds_up_neither_the_others_nor_the_link() {
    let world = indexed_world(1_203);
    world.faults(vec![always("TagResource", FaultKind::AccessDenied)]);
    let more = format!("{OWN}load.enable_pitr = true\n");
    assert!(world.migrate(&more).await.unwrap()[0].verification.is_identical());
    let table = copy(&world).unwrap();
    assert_eq!(table["TableClassSummary"]["TableClass"], "STANDARD_INFREQUENT_ACCESS");
    assert_eq!(table["DeletionProtectionEnabled"], true);
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_moment_it_never_imports_twice() {
    let (mut asked, mut waited, mut streams) = (0, 0, 0);
    for seed in 1_210..1_222 {
        let world = world(seed);
        fill(&world, 300);
        world.sandbox.change_options(|options| {
            (options.export_takes, options.import_takes) = (Duration::from_secs(5), Duration::from_secs(30));
        });
        let of = |call, chance, kind| FaultRule::new(call, Trigger::Chance(chance), kind);
        world.faults(vec![
            of("ImportTable", 0.2, FaultKind::DeliverLate(Duration::from_secs(5))),
            of("ImportTable", 0.2, FaultKind::Throttle("LimitExceededException".to_owned())),
            of("ImportTable", 0.9, FaultKind::LoseAnswer),
            of("*", 0.3, FaultKind::Hold(Duration::from_millis(300))),
        ]);
        let mut random = fastrand::Rng::with_seed(seed);
        for n in 0..20 {
            let service = world.serve(OWN);
            tokio::time::sleep(Duration::from_millis(random.u64(100..9_000))).await;
            service.kill().await;
            world.put(n, 1, &format!("between {n}"));
            let (row, link) = (noted(&world).await, world.state().await.link);
            asked += u32::from(row.as_ref().is_some_and(|row| row.arn.is_none()));
            waited += u32::from(row.is_some_and(|row| row.arn.is_some()) && link.is_none());
            streams += u32::from(link.is_some());
            // A token is good for eight hours, and its import is known for longer.
            if n == 5 && seed % 3 == 0 {
                world.clock().skip(HOUR * 9);
            }
        }
        world.no_faults();
        let reports = world.migrate(OWN).await.unwrap();
        assert!(reports[0].verification.is_identical());
        assert_eq!((num_imports(&world), num_exports(&world)), (1, 1), "seed {seed}");
        world.assert_equal();
    }
    assert!(asked > 5 && waited > 20 && streams > 5, "asked for {asked}, waited for {waited}, streamed {streams}");
}

#[tokio::test(start_paused = true)]
async fn an_import_of_which_nobody_knows_is_found_again_when_its_token_is_forgotten() {
    for slept in [false, true] {
        let world = world(1_223);
        fill(&world, 50);
        world.faults(vec![always("ImportTable", FaultKind::LoseAnswer)]);
        let mut service = world.serve(OWN);
        service.until("the import is made, and nobody heard of it", || num_imports(&world) == 1).await;
        if slept {
            world.clock().skip(HOUR * 9);
        } else {
            service.kill().await;
            world.clock().skip(HOUR * 9);
            service = world.serve(OWN);
        }
        world.no_faults();
        world.put(1, 1, "since");
        service.until_equal(&world).await;
        assert_eq!(num_imports(&world), 1);
        service.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn two_processes_over_one_state_ask_for_one_import() {
    for seed in 1_230..1_240 {
        let world = world(seed);
        fill(&world, 50);
        world.sandbox.change_options(|options| options.import_takes = MINUTE);
        world.faults(vec![
            FaultRule::new("ImportTable", Trigger::Chance(0.5), FaultKind::LoseAnswer),
            FaultRule::new("*", Trigger::Chance(0.5), FaultKind::Hold(Duration::from_millis(400))),
        ]);
        let mut random = fastrand::Rng::with_seed(seed);
        let one = world.serve(OWN);
        tokio::time::sleep(Duration::from_millis(random.u64(0..4_000))).await;
        let other = world.serve(OWN);
        tokio::time::sleep(MINUTE / 2).await;
        one.kill().await;
        other.kill().await;
        world.no_faults();
        assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
        assert_eq!((num_exports(&world), num_imports(&world)), (1, 1), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_link_over_goes_on_with_the_import_that_was_asked_for() {
    for seed in 1_240..1_246 {
        let world = world(seed);
        fill(&world, 50);
        world.sandbox.change_options(|options| options.import_takes = MINUTE * 5);
        let worker = || {
            let border = Border::new();
            let config = world.config(&format!("{OWN}\n[checkpoint]\nstore = \"dynamodb:dynaferry-state\""));
            (Process::start(world.program_through(config, Mode::Service, border.http_client(&world.sandbox))), border)
        };
        let late = FaultKind::TimeOutAndDeliverLate(Duration::from_secs(90));
        world.faults(vec![FaultRule::new("ImportTable", Trigger::Next(1), late)]);
        let (first, border) = worker();
        first.until("it asks", || !border.sent("ImportTable").is_empty()).await;
        let (second, _) = worker();
        // Killed, or frozen until long after.
        let mut frozen = None;
        if seed % 2 == 0 {
            first.kill().await;
        } else {
            border.set_frozen(true);
            frozen = Some(first);
        }
        second.until("it has the import", || num_imports(&world) > 0).await;
        tokio::time::sleep(MINUTE * 2).await;
        border.set_frozen(false);
        world.put(1, 1, "since");
        second.until_equal(&world).await;
        second.stop().await.unwrap();
        if let Some(frozen) = frozen {
            frozen.stop().await.unwrap();
        }
        assert_eq!((num_exports(&world), num_imports(&world)), (1, 1), "seed {seed}");
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn an_import_that_is_not_seen_at_once_is_waited_for_and_not_made_again() {
    let world = world(1_247);
    fill(&world, 50);
    world.sandbox.change_options(|options| options.import_takes = MINUTE);
    let not_found = FaultKind::Error { code: "ImportNotFoundException".to_owned(), status: 400 };
    world.faults(vec![FaultRule::new("DescribeImport", Trigger::Next(9), not_found)]);
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!(num_imports(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn items_that_an_import_refuses_are_found_and_copied() {
    let world = world(1_250);
    fill(&world, 600);
    world.sandbox.change_options(|options| {
        (options.import_takes, options.import_reject_chance) = (MINUTE * 30, 0.1);
    });
    let service = world.serve(OWN);
    service.until("it asks for the import", || num_imports(&world) == 1).await;
    world.put(3, 3, "meanwhile");
    tokio::time::sleep(MINUTE * 29).await;
    let status = service.status();
    assert!(status.phase == Phase::InitialLoad && world.num_differences() > 500);
    tokio::time::sleep(MINUTE * 2).await;
    service.until_equal(&world).await;
    assert_eq!(causes(&world).await, [("import_incomplete".to_owned(), true)]);
    service.stop().await.unwrap();
    world.assert_equal();
    assert_eq!((num_exports(&world), num_imports(&world)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_item_that_no_index_of_the_target_takes_is_the_users_to_decide() {
    let world = world(1_251);
    fill(&world, 40);
    world.put_json(&json!({"pk": {"S": "bad"}, "sk": {"N": "1"}, "poison": {"S": "x"}}));
    world.sandbox.set_poison_attribute(TARGET, REGION, "orders-copy", Some("poison"));
    let (exit, text) = failed(world.migrate(OWN).await);
    assert!(exit == Exit::Unexpected && text.contains("rejects an item"), "{exit:?} {text}");
    assert_eq!(num_imports(&world), 1);
    let service = world.serve(&format!("{OWN}apply.on_rejected = \"dead_letter\"\n"));
    service.until("it is set aside", || service.status().dead_letters > 0).await;
    service.until("everything else is there", || world.num_differences() == 1).await;
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_import_that_outlasts_the_stream_is_not_in_vain() {
    let world = world(1_252);
    fill(&world, 300);
    world.sandbox.change_options(|options| options.import_takes = HOUR * 40);
    let service = world.serve(OWN);
    service.until("it asks for the import", || num_imports(&world) == 1).await;
    // Only the first of these are trimmed, and a delete among them.
    for hour in 0..41 {
        world.put(hour, 1, "while it is imported");
        world.delete(hour + 100, (hour + 100) % 7);
        tokio::time::sleep(HOUR).await;
    }
    service.until("the link is opened", || service.status().phase != Phase::InitialLoad).await;
    service.until_equal(&world).await;
    assert_eq!(causes(&world).await, [("import_incomplete".to_owned(), true)]);
    assert_eq!((num_exports(&world), num_imports(&world)), (1, 1));
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn an_import_that_was_whole_while_nobody_was_there_is_the_links_days_later_if_the_user_says_so() {
    let world = world(1_253);
    fill(&world, 300);
    world.sandbox.change_options(|options| options.import_takes = HOUR);
    let service = world.serve(OWN);
    service.until("it asks for the import", || num_imports(&world) == 1).await;
    service.kill().await;
    let told = world.program(world.config(OWN), Mode::Oneshot).stored_status().await.unwrap();
    assert_eq!(told.links[0].phase, Phase::InitialLoad, "also when the process is dead");
    assert!(told.links[0].needs[0].contains("being imported"), "{:?}", told.links[0].needs);
    world.delete(8, 1);
    world.clock().skip(HOUR * 100);
    world.put(9, 9, "days later");
    world.put_at(TARGET, "orders-copy", 77, 7, "somebody's");
    let text = whole(&world.migrate(OWN).await.expect_err("what is at the target alone would be deleted"));
    assert!(text.contains("somebody may use it") && text.contains("target.exclusive = true"), "{text}");
    let mine = format!("target.exclusive = true\n{OWN}");
    assert!(world.migrate(&mine).await.unwrap()[0].verification.is_identical());
    assert_eq!((num_exports(&world), num_imports(&world)), (1, 1));
    assert_eq!(causes(&world).await, [("import_incomplete".to_owned(), true)]);
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn an_imported_table_that_somebody_listens_to_is_not_taken_for_the_links_own() {
    let world = world(1_261);
    fill(&world, 100);
    world.sandbox.change_options(|options| options.import_takes = MINUTE);
    let service = world.serve(OWN);
    service.until("it asks for the import", || num_imports(&world) == 1).await;
    service.kill().await;
    tokio::time::sleep(MINUTE * 2).await;
    let on = r#"{"TableName":"orders-copy","StreamSpecification":{"StreamEnabled":true,"StreamViewType":"KEYS_ONLY"}}"#;
    world.call(TARGET, "UpdateTable", on);
    let text = whole(&world.migrate(OWN).await.expect_err("it may be in use"));
    assert!(text.contains("somebody may use it"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_turned_off_and_on_while_the_import_lands_leaves_a_gap_that_heals() {
    for after in 0..12 {
        let world = world(1_270 + after);
        fill(&world, 50);
        world.faults(vec![always("DescribeTable", FaultKind::Hold(Duration::from_secs(4)))]);
        world.sandbox.change_options(|options| options.import_takes = MINUTE);
        let service = world.serve(OWN);
        let is_whole = || imports(&world).iter().any(|import| import["ImportStatus"] == "COMPLETED");
        service.until("it is imported", is_whole).await;
        tokio::time::sleep(Duration::from_secs(3 * after)).await;
        world.set_stream(false);
        world.put(2, 2, "in neither stream");
        world.delete(3, 3);
        world.set_stream(true);
        world.no_faults();
        world.put(4, 4, "in the second one");
        // Where the link had begun, it goes on with the second stream when the first one has ended.
        service.until("both tables are equal", || copy(&world).is_some() && world.num_differences() == 0).await;
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn an_import_that_is_not_begun_for_minutes_says_why_and_goes_on_when_it_is() {
    let world = world(1_262);
    fill(&world, 50);
    world.faults(vec![always("ImportTable", FaultKind::Throttle("LimitExceededException".to_owned()))]);
    let service = world.serve(OWN);
    service.until("it says why", || service.status().needs.iter().any(|why| why.contains("50 imports"))).await;
    assert_eq!(service.status().phase, Phase::Failed);
    world.no_faults();
    service.until_equal(&world).await;
    assert_eq!((num_exports(&world), num_imports(&world)), (1, 1));
    service.until("it replicates", || service.status().phase == Phase::Replicating).await;
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_import_left_is_cleared_away_and_another_is_asked_for_later() {
    for share in [0.0, 0.5] {
        let world = world(1_254);
        fill(&world, 100);
        world.sandbox.change_options(|options| (options.import_takes, options.imports_fail) = (MINUTE, Some(share)));
        for _ in 0..3 {
            let error = world.migrate(OWN).await.expect_err("it fails");
            let text = whole(&error);
            assert_eq!(error.exit, Exit::Precondition);
            assert!(text.contains("InternalFailure") && text.contains("/error in CloudWatch"), "{text}");
            assert!(text.contains("Another one is asked for"), "{text}");
            assert!(copy(&world).is_none(), "what it left is cleared away");
        }
        assert_eq!(num_imports(&world), 1, "each costs money");
        for imports in [2, 3, 3, 3] {
            tokio::time::sleep(HOUR).await;
            world.migrate(OWN).await.expect_err("it fails again");
            assert_eq!((num_imports(&world), num_exports(&world)), (imports, 1), "three in all, of one export");
        }
        let text = whole(&world.migrate(OWN).await.expect_err("three in all"));
        assert!(text.contains("of no use") && text.contains("method = \"export\""), "{text}");
        world.sandbox.change_options(|options| options.imports_fail = None);
        // The export is there, and is loaded instead.
        let instead = OWN.replace("\"import\"", "\"export\"");
        assert!(world.migrate(&instead).await.unwrap()[0].verification.is_identical());
        assert_eq!(num_exports(&world), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_import_that_fails_once_is_made_again_and_ends_equal() {
    let world = world(1_255);
    fill(&world, 100);
    world.sandbox.change_options(|options| (options.import_takes, options.imports_fail) = (MINUTE, Some(0.7)));
    world.migrate(OWN).await.expect_err("it fails");
    world.sandbox.change_options(|options| options.imports_fail = None);
    write_for(&world, 50).await;
    tokio::time::sleep(HOUR / 2).await;
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!((num_exports(&world), num_imports(&world)), (1, 2));
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn no_table_is_deleted_that_is_not_certainly_what_a_failed_import_of_this_link_left() {
    let left: &[&str] = &["orders-copy", "holds a part", "delete-table"];
    let there: &[&str] = &["orders-copy", "is there"];
    let protect = |world: &World| {
        world.call(TARGET, "UpdateTable", r#"{"TableName":"orders-copy","DeletionProtectionEnabled":true}"#);
    };
    let watch = |world: &World| {
        let on =
            r#"{"TableName":"orders-copy","StreamSpecification":{"StreamEnabled":true,"StreamViewType":"KEYS_ONLY"}}"#;
        world.call(TARGET, "UpdateTable", on);
    };
    let replace = |world: &World| world.sandbox.recreate_table(TARGET, REGION, "orders-copy").unwrap();
    let wait = |world: &World| world.clock().skip(HOUR * 2);
    type Happening<'a> = &'a dyn Fn(&World);
    let cases: [(Happening<'_>, &[&str]); 4] = [(&protect, left), (&watch, left), (&wait, left), (&replace, there)];
    // When the next import is due, and while what the last one left may be cleared away.
    let after = [5, 5, 5, 31];
    for (n, ((happens, words), after)) in cases.into_iter().zip(after).enumerate() {
        let world = world(1_256 + n as u64);
        fill(&world, 100);
        world.sandbox.change_options(|options| (options.import_takes, options.imports_fail) = (MINUTE, Some(0.5)));
        let service = world.serve(OWN);
        service.until("it asks for the import", || num_imports(&world) == 1).await;
        service.kill().await;
        tokio::time::sleep(MINUTE * after).await;
        happens(&world);
        let before = copy(&world).unwrap()["TableId"].clone();
        let text = whole(&world.migrate(OWN).await.expect_err("it is not the link's to delete"));
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
        assert_eq!((copy(&world).unwrap()["TableId"].clone(), num_imports(&world)), (before, 1));
    }
    // Without the permission it says what to do.
    let world = world(1_260);
    fill(&world, 100);
    world.sandbox.change_options(|options| (options.import_takes, options.imports_fail) = (MINUTE, Some(0.5)));
    world.faults(vec![always("DeleteTable", FaultKind::AccessDenied)]);
    let text = whole(&world.migrate(OWN).await.expect_err("it may not delete"));
    assert!(left.iter().all(|word| text.contains(word)) && text.contains("AccessDenied"), "{text}");
    assert!(copy(&world).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_would_refuse_the_import_is_found_out_before_anything_is_made_or_paid_for() {
    let denied = |call: &str| always(call, FaultKind::AccessDenied);
    let policy: &[&str] = &["AccessDenied", "config/policies/import.json"];
    let world = world(1_261);
    fill(&world, 10);
    let bucket: &[&str] = &["`exports`", "target's identity", "s3:ListBucket"];
    let cases: [(Vec<FaultRule>, &[&str]); 4] = [
        (vec![denied("ListImports")], policy),
        (vec![denied("DescribeImport")], policy),
        (vec![denied("GetObject").for_account(TARGET)], bucket),
        (vec![denied("ListExports")], &["AccessDenied", "config/policies/export.json"]),
    ];
    let untouched = async || {
        assert_eq!((num_exports(&world), num_imports(&world)), (0, 0));
        assert!(noted(&world).await.is_none() && world.state().await.link.is_none());
    };
    for (faults, words) in cases {
        world.faults(faults);
        let error = world.migrate(OWN).await.expect_err("refused");
        let text = whole(&error);
        assert_eq!(error.exit, Exit::Precondition, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
        untouched().await;
        assert!(copy(&world).is_none());
    }
    world.no_faults();
    world.sandbox.let_into_bucket("exports", TARGET, false);
    let text = whole(&world.migrate(OWN).await.expect_err("the bucket is closed to the target"));
    assert!(bucket.iter().all(|word| text.contains(word)), "{text}");
    untouched().await;
    world.sandbox.let_into_bucket("exports", TARGET, true);
    // Empty or not, whoever made it.
    world.call(TARGET, "CreateTable", &ORDERS.replace("orders", "orders-copy"));
    let text = whole(&world.migrate(OWN).await.expect_err("there is a table"));
    assert!(text.contains("`orders-copy` is there") && text.contains("method = \"export\""), "{text}");
    untouched().await;
    world.call(TARGET, "DeleteTable", r#"{"TableName":"orders-copy"}"#);
    // Only the import itself tells; the export is there all the same, and is not made again.
    world.faults(vec![denied("ImportTable")]);
    let text = whole(&world.migrate(OWN).await.expect_err("nobody may import"));
    assert!(policy.iter().all(|word| text.contains(word)), "{text}");
    world.no_faults();
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!((num_exports(&world), num_imports(&world)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_source_with_local_indexes_is_refused_with_advice() {
    let local = ORDERS
        .replace(r#"{"AttributeName":"sk","AttributeType":"N"}]"#, r#"{"AttributeName":"sk","AttributeType":"N"},{"AttributeName":"v","AttributeType":"S"}]"#)
        .replace(r#""StreamSpecification""#, r#""LocalSecondaryIndexes":[{"IndexName":"by-v","KeySchema":[{"AttributeName":"pk","KeyType":"HASH"},{"AttributeName":"v","KeyType":"RANGE"}],"Projection":{"ProjectionType":"ALL"}}],"StreamSpecification""#);
    let world = World::paused_with(Options { seed: 1_262, ..Options::default() }, &local);
    world.clock().skip(HOUR);
    world.sandbox.create_bucket(SOURCE, REGION, "exports");
    world.sandbox.let_into_bucket("exports", TARGET, true);
    world.put(1, 1, "x");
    let more = format!("{OWN}load.enable_pitr = true\n");
    let error = world.migrate(&more).await.expect_err("an import makes no local index");
    let text = whole(&error);
    assert!(
        error.exit == Exit::Precondition && text.contains("`by-v`") && text.contains("method = \"export\""),
        "{text}"
    );
    assert_eq!((num_exports(&world), num_imports(&world)), (0, 0));
    assert!(world.migrate(&more.replace("\"import\"", "\"export\"")).await.unwrap()[0].verification.is_identical());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_made_anew_while_it_is_imported_is_not_begun_with() {
    let world = world(1_263);
    fill(&world, 50);
    world.sandbox.change_options(|options| options.import_takes = HOUR);
    let service = world.serve(OWN);
    service.until("it asks for the import", || num_imports(&world) == 1).await;
    world.call(SOURCE, "DeleteTable", r#"{"TableName":"orders"}"#);
    world.call(SOURCE, "CreateTable", ORDERS);
    world.put(1, 1, "of another table");
    let error = service.end().await.expect_err("it is of another table");
    assert!(whole(&error).contains("made anew") && error.exit == Exit::Precondition, "{}", whole(&error));
    assert!(world.state().await.link.is_none());
    let text = whole(&world.migrate(&format!("{OWN}load.enable_pitr = true\n")).await.expect_err("the table is there"));
    assert!(text.contains("`orders-copy` is there"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_imported_table_that_was_deleted_before_the_link_began_is_imported_again() {
    let world = world(1_264);
    fill(&world, 50);
    world.sandbox.change_options(|options| options.import_takes = HOUR);
    let service = world.serve(OWN);
    service.until("it asks for the import", || num_imports(&world) == 1).await;
    service.kill().await;
    tokio::time::sleep(HOUR * 2).await;
    world.call(TARGET, "DeleteTable", r#"{"TableName":"orders-copy"}"#);
    assert!(world.migrate(OWN).await.unwrap()[0].verification.is_identical());
    assert_eq!((num_exports(&world), num_imports(&world)), (1, 2));
    world.assert_equal();
}
