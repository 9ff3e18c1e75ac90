//! The initial load from a full export that is there already: under writes, under faults, killed, and refused.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dynaferry::checkpoint::rows::Stage;
use dynaferry::context::WallClock as _;
use dynaferry::error::{Error, Exit, chain};
use dynaferry::sandbox::{Exchange, FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::Phase;
use serde_json::{Value, json};

use crate::world::{HOUR, ORDERS, REGION, SOURCE, TARGET, World, failed};

const BUCKET: &str = "exports";
const ACCOUNT_OF_GOLDEN: &str = "111122223333";

pub(crate) fn world(seed: u64) -> World {
    let world = World::paused(Options { seed, ..Options::default() });
    world.sandbox.create_bucket(SOURCE, REGION, BUCKET);
    world.call(
        SOURCE,
        "UpdateContinuousBackups",
        r#"{"TableName":"orders","PointInTimeRecoverySpecification":{"PointInTimeRecoveryEnabled":true}}"#,
    );
    // The stream is older than what is exported.
    world.clock().skip(HOUR);
    world
}

pub(crate) fn arn() -> String {
    format!("arn:aws:dynamodb:{REGION}:{SOURCE}:table/orders")
}

/// Exports the table now: the place of it.
pub(crate) fn export(world: &World) -> String {
    let asked = json!({"TableArn": arn(), "S3Bucket": BUCKET, "S3Prefix": "team/a b"}).to_string();
    let manifest = world.ask(SOURCE, "ExportTableToPointInTime", &asked)["ExportDescription"]["ExportManifest"].clone();
    format!("s3://{BUCKET}/{}", manifest.as_str().unwrap())
}

/// The same, by its name.
fn export_arn(world: &World) -> String {
    let asked = json!({"TableArn": arn(), "S3Bucket": BUCKET, "S3Prefix": "team/a b"}).to_string();
    let export = world.ask(SOURCE, "ExportTableToPointInTime", &asked)["ExportDescription"]["ExportArn"].clone();
    export.as_str().unwrap().to_owned()
}

fn from(place: &str) -> String {
    format!("load.from_export = \"{place}\"\nload.concurrency = 2\n")
}

/// Data files of the bucket's only export.
fn data_files(world: &World) -> Vec<String> {
    world.sandbox.objects(BUCKET).into_keys().filter(|key| key.contains("/data/")).collect()
}

pub(crate) fn counted(world: &World, operation: &'static str, account: &'static str) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&count);
    world.sandbox.set_observer(Some(Arc::new(move |exchange: &Exchange<'_>| {
        if exchange.operation == operation && exchange.account == account {
            counting.fetch_add(1, Ordering::SeqCst);
        }
    })));
    count
}

/// Items of some kilobytes, so that each file has several pages.
pub(crate) fn fill(world: &World, items: usize) {
    let text = "x".repeat(3_000);
    (0..items).for_each(|n| world.put(n, n % 7, &format!("{n} {text}")));
    // An export of now may be one of some minutes ago.
    world.clock().skip(Duration::from_secs(600));
}

pub(crate) async fn write_for(world: &World, steps: usize) {
    for n in 0..steps {
        world.put(n % 60, 0, &format!("during {n}"));
        world.delete((n * 7) % 90, n % 7);
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

pub(crate) fn whole(error: &Error) -> String {
    format!("{}\n{}", chain(error), error.hint.clone().unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn an_export_is_loaded_under_writes_and_the_source_is_not_scanned() {
    let world = world(900);
    fill(&world, 2_000);
    write_for(&world, 60).await;
    let place = export(&world);
    // Since then: changes, deletes of what is in it, new items; more while it is loaded.
    write_for(&world, 200).await;
    let scans = counted(&world, "Scan", SOURCE);
    let service = world.serve(&from(&place));
    write_for(&world, 300).await;
    service.until_equal(&world).await;
    assert_eq!(scans.load(Ordering::SeqCst), 0);
    let loaded = service.metric("dynaferry_initial_load_items_total", &[]);
    assert!(loaded > 1_900.0, "{loaded}");
    assert_eq!(world.link_row().await.stage, Stage::Streaming);
    service.stop().await.unwrap();
    world.assert_equal();
    // And once more, with nothing to load.
    let reports = world.migrate(&from(&place)).await.unwrap();
    assert!(reports[0].verification.is_identical());
}

#[tokio::test(start_paused = true)]
async fn the_stream_waits_for_the_load_and_says_nothing_wrong_meanwhile() {
    let world = world(901);
    fill(&world, 2_000);
    let place = export(&world);
    let slow = FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_secs(3)));
    world.faults(vec![slow]);
    let reads = counted(&world, "GetRecords", SOURCE);
    let service = world.serve(&from(&place));
    service.until("the load is under way", || service.metric("dynaferry_initial_load_items_total", &[]) > 0.0).await;
    for _ in 0..5 {
        let status = service.status();
        assert_eq!(reads.load(Ordering::SeqCst), 0, "nothing of the stream is applied before the load's end");
        assert_eq!(status.lag_seconds, None, "no lag is claimed");
        assert!(status.load.as_ref().is_some_and(|load| load.segments == 4));
        assert_eq!(service.why_not_ready(), []);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    world.no_faults();
    service.until_equal(&world).await;
    service.until("the stream is read", || reads.load(Ordering::SeqCst) > 0).await;
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn killed_twenty_times_in_the_middle_it_resumes_and_ends_equal() {
    let world = world(902);
    fill(&world, 3_000);
    let place = export(&world);
    write_for(&world, 100).await;
    let hold =
        |call, millis| FaultRule::new(call, Trigger::Chance(0.7), FaultKind::Hold(Duration::from_millis(millis)));
    world.faults(vec![
        hold("GetObject", 200),
        hold("BatchWriteItem", 700),
        FaultRule::new("BatchWriteItem", Trigger::Chance(0.05), FaultKind::DeliverLate(Duration::from_secs(1))),
    ]);
    let mut random = fastrand::Rng::with_seed(902);
    let mut in_the_middle = 0;
    for n in 0..20 {
        let service = world.serve(&from(&place));
        tokio::time::sleep(Duration::from_millis(random.u64(100..4_000))).await;
        world.put(n, 1, &format!("between {n}"));
        world.delete(n * 3, n * 3 % 7);
        service.kill().await;
        let is_loading = world.state().await.link.is_some_and(|link| link.stage == Stage::Loading);
        in_the_middle += u32::from(is_loading && world.state().await.segments.iter().any(|row| row.items > 0));
    }
    assert!(in_the_middle > 1, "{in_the_middle}");
    world.no_faults();
    let service = world.serve(&from(&place));
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_stopped_load_goes_on_within_its_files() {
    let world = world(904);
    fill(&world, 3_000);
    // What is written shortly before an export comes by the stream once more.
    world.clock().skip(HOUR);
    let place = export(&world);
    world.faults(vec![FaultRule::new(
        "BatchWriteItem",
        Trigger::Chance(1.0),
        FaultKind::Hold(Duration::from_millis(900)),
    )]);
    let mut before = 0;
    for _ in 0..3 {
        let service = world.serve(&from(&place));
        service.until("a page is settled", || service.status().load.is_some_and(|load| load.items > before)).await;
        service.stop().await.unwrap();
        let done: u64 = world.state().await.segments.iter().map(|segment| segment.items).sum();
        assert!(done > before, "it gets on: {done} items after {before}");
        before = done;
    }
    assert!(world.state().await.segments.iter().any(|segment| segment.cursor.is_some() && !segment.done));
    world.no_faults();
    let writes = world.sandbox.stats().writes;
    let reports = world.migrate(&from(&place)).await.unwrap();
    assert_eq!(reports[0].items_loaded, 3_000, "none twice, none left out");
    assert!(reports[0].verification.is_identical());
    // Of each file that was under way, one page was out, of some 350 items.
    let most = 3_000 - before + 2 * 400;
    let written = world.sandbox.stats().writes - writes;
    assert!(written <= most, "only what was left is written: {written}, and {before} were done");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_not_as_listed_stops_the_load_before_the_stream_begins() {
    type Spoil = fn(&World, &str);
    let spoilt: [(&str, Spoil); 4] = [
        ("its MD5 is not the one in the list of files", |world, key| {
            // The same items in another frame.
            let object = world.sandbox.objects(BUCKET)[key].clone();
            let mut other = object.to_vec();
            other[9] ^= 1;
            world.sandbox.set_object(BUCKET, key, Some(other.into()));
        }),
        ("NoSuchKey", |world, key| {
            world.sandbox.set_object(BUCKET, key, None);
        }),
        ("decompress it after line", |world, key| {
            let object = world.sandbox.objects(BUCKET)[key].clone();
            world.sandbox.set_object(BUCKET, key, Some(object.slice(..object.len() - 100)));
        }),
        ("items, the list of files says", |world, key| {
            let (list, text) = list_of_files(world);
            let count = r#""itemCount":"#;
            let spoilt: Vec<String> = text
                .lines()
                .map(|line| {
                    if line.contains(&key[key.len() - 20..]) {
                        line.replace(count, &format!("{count}1"))
                    } else {
                        line.to_owned()
                    }
                })
                .collect();
            world.sandbox.set_object(BUCKET, &list, Some(spoilt.join("\n").into()));
            let summary = list.replace("files", "summary");
            let text: Value = serde_json::from_slice(&world.sandbox.objects(BUCKET)[&summary]).unwrap();
            let mut text = text.clone();
            text["itemCount"] = Value::Null;
            world.sandbox.set_object(BUCKET, &summary, Some(text.to_string().into()));
        }),
    ];
    for (n, (what, spoil)) in spoilt.into_iter().enumerate() {
        let world = world(910 + n as u64);
        fill(&world, 400);
        let place = export(&world);
        let whole_export = world.sandbox.objects(BUCKET);
        let key = data_files(&world).into_iter().max_by_key(|key| whole_export[key].len()).unwrap();
        spoil(&world, &key);
        let reads = counted(&world, "GetRecords", SOURCE);
        let error = world.migrate(&from(&place)).await.expect_err(what);
        let text = whole(&error);
        assert_eq!(error.exit, Exit::Precondition, "{text}");
        assert!(text.contains(what) && text.contains(&key[key.len() - 20..]), "{what}: {text}");
        assert!(!text.contains("xxx"), "no contents: {text}");
        assert_eq!((reads.load(Ordering::SeqCst), world.link_row().await.stage), (0, Stage::Loading), "{what}");
        if what.starts_with("items") {
            // With another list it is another export.
            for (key, object) in whole_export {
                world.sandbox.set_object(BUCKET, &key, Some(object));
            }
            let (exit, text) = failed(world.migrate(&from(&place)).await);
            assert!(exit == Exit::Precondition && text.contains("go on with the export"), "{text}");
            continue;
        }
        world.sandbox.set_object(BUCKET, &key, Some(whole_export[&key].clone()));
        let reports = world.migrate(&from(&place)).await.unwrap();
        assert!(reports[0].verification.is_identical());
        world.assert_equal();
    }
}

fn list_of_files(world: &World) -> (String, String) {
    let objects = world.sandbox.objects(BUCKET);
    let (key, text) = objects.iter().find(|(key, _)| key.ends_with("manifest-files.json")).unwrap();
    (key.clone(), String::from_utf8(text.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_of_a_damaged_part_is_taken_again() {
    let world = world(920);
    // Without compression a broken byte is a broken value, not a broken file.
    let text = format!("value {}", "x".repeat(7_000));
    (0..2_500).for_each(|n| world.put(n, 0, &text));
    // So the stream brings none of it once more.
    world.clock().skip(HOUR);
    let place = export(&world);
    let (list, text) = list_of_files(&world);
    let text = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let key = format!("team/a b/{}", line["dataFileS3Key"].as_str().unwrap());
        let stored = stored_gzip(&unzipped(&world.sandbox.objects(BUCKET)[&key]));
        line["md5Checksum"] = json!(md5_of(&stored));
        world.sandbox.set_object(BUCKET, &key, Some(stored.into()));
        line.to_string()
    });
    let text: Vec<String> = text.collect();
    world.sandbox.set_object(BUCKET, &list, Some(text.join("\n").into()));
    let good = world.sandbox.objects(BUCKET);
    for key in data_files(&world) {
        let object = good[&key].to_vec();
        let Some(at) = object.windows(5).position(|text| text == b"value") else { continue };
        let mut damaged = object;
        damaged[at] = b'V';
        world.sandbox.set_object(BUCKET, &key, Some(damaged.into()));
    }
    let (exit, text) = failed(world.migrate(&from(&place)).await);
    assert!(exit == Exit::Precondition && text.contains("of the export"), "{text}");
    let state = world.state().await;
    assert!(state.segments.iter().any(|segment| segment.items > 0), "something of it was settled");
    for (key, object) in good {
        world.sandbox.set_object(BUCKET, &key, Some(object));
    }
    let reports = world.migrate(&from(&place)).await.unwrap();
    assert!(reports[0].verification.is_identical(), "no damaged value stays");
    world.assert_equal();
}

fn unzipped(object: &[u8]) -> Vec<u8> {
    use std::io::Read as _;
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(object).read_to_end(&mut text).unwrap();
    text
}

fn stored_gzip(text: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn md5_of(object: &[u8]) -> String {
    use base64::Engine as _;
    use md5::Digest as _;
    base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(object))
}

#[tokio::test(start_paused = true)]
async fn a_troubled_s3_delays_and_loses_nothing() {
    let world = world(930);
    fill(&world, 2_000);
    let place = export(&world);
    let chance = |kind| FaultRule::new("GetObject", Trigger::Chance(0.12), kind);
    world.faults(vec![
        chance(FaultKind::Refuse),
        chance(FaultKind::LoseAnswer),
        chance(FaultKind::TruncateAnswer),
        chance(FaultKind::InternalError),
        chance(FaultKind::Error { code: "SlowDown".to_owned(), status: 503 }),
        chance(FaultKind::TimeOut),
        chance(FaultKind::ExpiredToken),
        chance(FaultKind::Hold(Duration::from_secs(2))),
    ]);
    let service = world.serve(&from(&place));
    service.until_equal(&world).await;
    assert!(world.sandbox.stats().faults > 10, "{:?}", world.sandbox.stats());
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_denied_half_way_is_waited_for() {
    let world = world(931);
    fill(&world, 3_000);
    let place = export(&world);
    let hold = FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_secs(2)));
    world.faults(vec![hold]);
    let service = world.serve(&from(&place));
    service.until("the load is under way", || service.status().load.is_some_and(|load| load.items > 0)).await;
    let denied = FaultRule::new("GetObject", Trigger::Chance(1.0), FaultKind::AccessDenied);
    world.faults(vec![denied]);
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert!(!service.has_ended());
    assert!(service.why_not_ready().contains(&dynaferry::http::NotReady::Credentials));
    world.no_faults();
    service.until_equal(&world).await;
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_bucket_of_the_other_account_in_another_region_is_read_by_who_may() {
    let world = world(932);
    fill(&world, 300);
    // The source's account may write it and not read it back: here a guest that is sent away.
    world.sandbox.create_bucket(TARGET, "us-west-2", BUCKET);
    world.sandbox.let_into_bucket(BUCKET, SOURCE, true);
    let place = export(&world);
    world.sandbox.let_into_bucket(BUCKET, SOURCE, false);
    let wrong_owner = format!("{}load.bucket_owner = \"{SOURCE}\"\n", from(&place));
    assert_eq!(failed(world.migrate(&wrong_owner).await).0, Exit::Precondition);
    let right_owner = format!("{}load.bucket_owner = \"{TARGET}\"\n", from(&place));
    let reports = world.migrate(&right_owner).await.unwrap();
    assert!(reports[0].verification.is_identical());
}

/// Refused before anything is written, with these words.
pub(crate) async fn assert_refused(world: &World, more: &str, words: &[&str]) {
    let error = world.migrate(more).await.expect_err("refused");
    let text = whole(&error);
    assert_eq!(error.exit, Exit::Precondition, "{text}");
    for word in words {
        assert!(text.contains(word), "no word of `{word}` in: {text}");
    }
    assert!(world.sandbox.snapshot(TARGET, REGION, "orders-copy").is_err(), "something was made");
    assert!(world.state().await.link.is_none(), "something was remembered");
}

#[tokio::test(start_paused = true)]
async fn an_export_that_the_stream_does_not_go_on_from_is_refused() {
    let world = world(940);
    fill(&world, 50);
    let place = export(&world);
    world.clock().skip(Duration::from_secs(22 * 3600 + 50 * 60));
    let folder = place.replace("manifest-summary.json", "");
    let summary = place.replace("s3://exports/", "");
    let original = world.sandbox.objects(BUCKET)[&summary].clone();
    let edit = |member: &str, value: Value| {
        let mut text: Value = serde_json::from_slice(&original).unwrap();
        text[member] = value;
        world.sandbox.set_object(BUCKET, &summary, Some(text.to_string().into()));
    };
    edit("tableArn", json!(arn().replace("orders", "others")));
    assert_refused(
        &world,
        &from(&folder),
        &["load the export", "export of arn:aws:dynamodb:eu-west-1:111111111111:table/others"],
    )
    .await;
    edit("tableId", json!("another"));
    assert_refused(&world, &from(&folder), &["made anew"]).await;
    edit("exportTime", Value::Null);
    assert_refused(&world, &from(&folder), &["no exportTime"]).await;
    edit("exportType", json!("INCREMENTAL_EXPORT"));
    assert_refused(&world, &from(&folder), &["read the export", "an incremental export"]).await;
    world.sandbox.set_object(BUCKET, &summary, None);
    assert_refused(&world, &from(&folder), &["read the export", "NoSuchKey", "completed"]).await;
    world.sandbox.set_object(BUCKET, &summary, Some(original.clone()));
    world.clock().skip(Duration::from_secs(600));
    assert_refused(&world, &from(&folder), &["a stream keeps 24 hours", "export the table again"]).await;
    world.set_stream(false);
    let fresh = export(&world);
    assert_refused(&world, &from(&fresh), &["stream is off"]).await;
    world.set_stream(true);
    world.clock().skip(Duration::from_secs(120));
    assert_refused(&world, &from(&export(&world)), &["the stream was turned on at"]).await;
    world.clock().skip(Duration::from_secs(300));
    let reports = world.migrate(&from(&export(&world))).await.unwrap();
    assert!(reports[0].verification.is_identical());
}

#[tokio::test(start_paused = true)]
async fn an_export_that_nobody_may_read_names_what_is_missing() {
    let world = world(941);
    fill(&world, 50);
    let place = export(&world);
    world.faults(vec![FaultRule::new("GetObject", Trigger::Chance(1.0), FaultKind::AccessDenied)]);
    assert_refused(&world, &from(&place), &["read the export", "AccessDenied", "s3:GetObject", "kms:Decrypt"]).await;
    world.no_faults();
    world.faults(vec![FaultRule::new("GetObject", Trigger::Chance(1.0), FaultKind::Refuse)]);
    assert_refused(&world, &from(&place), &["read the export", "endpoint of S3"]).await;
    world.no_faults();
    let elsewhere = place.replace("exports/", "no-such-bucket/");
    assert_refused(&world, &from(&elsewhere), &["NoSuchBucket"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_holds_items_is_refused_and_so_is_a_load_that_began_otherwise() {
    let world = world(942);
    fill(&world, 50);
    let place = export(&world);
    world.call(TARGET, "CreateTable", &ORDERS.replace(r#""TableName":"orders""#, r#""TableName":"orders-copy""#));
    world.put_at(TARGET, "orders-copy", 9, 9, "theirs");
    let (exit, text) = failed(world.migrate(&from(&place)).await);
    assert!(exit == Exit::Precondition && text.contains("not empty"), "{text}");
    world.delete_at(TARGET, "orders-copy", 9, 9);

    let slow = FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), FaultKind::TimeOut);
    world.faults(vec![slow]);
    let service = world.serve(&from(&place));
    tokio::time::sleep(Duration::from_secs(5)).await;
    service.kill().await;
    world.no_faults();
    let another = export(&world);
    for more in [String::new(), from(&another)] {
        let (exit, text) = failed(world.migrate(&more).await);
        assert!(exit == Exit::Precondition && text.contains("began from another export"), "{text}");
    }
    let service = world.serve(&from(&place));
    service.until_equal(&world).await;
    service.stop().await.unwrap();
}

/// The time counts from the export's, not from the load's beginning.
#[tokio::test(start_paused = true)]
async fn a_load_that_outlasts_the_stream_opens_a_gap_that_heals() {
    for (before, during) in [(0, 30), (12, 13)] {
        let world = world(943);
        fill(&world, 1_200);
        let place = export(&world);
        // What is trimmed before the load is done, and in no export.
        world.clock().skip(Duration::from_secs(60));
        write_for(&world, 100).await;
        let kept = world.sandbox.snapshot(SOURCE, REGION, "orders").unwrap();
        world.clock().skip(before * HOUR);
        let slow = FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_secs(3)));
        world.faults(vec![slow]);
        let service = world.serve(&format!("{}apply.max_in_flight = 1\n", from(&place)));
        service.until("the load is under way", || service.status().load.is_some_and(|load| load.items > 0)).await;
        for _ in 0..during {
            world.clock().skip(HOUR);
            world.sandbox.catch_up();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(world.link_row().await.stage, Stage::Loading, "it is not done");
        world.no_faults();
        service.until_equal(&world).await;
        let gaps = world.gaps().await;
        assert!(!gaps.is_empty() && gaps.iter().all(|gap| gap.healed.is_some()), "{gaps:?}");
        service.stop().await.unwrap();
        world.assert_equal();
        assert_eq!(world.sandbox.snapshot(SOURCE, REGION, "orders").unwrap(), kept);
    }
}

/// A folder of `tests/exports`, as if it were of the world's table and of now.
fn upload(world: &World, folder: &Path) -> String {
    let at = "team/exports/AWSDynamoDB/01796000000000-0a1b2c3d/";
    let description = world.ask(SOURCE, "DescribeTable", r#"{"TableName":"orders"}"#);
    let now: dynaferry::model::WallTime = dynaferry::context::WallClock::now(&**world.clock());
    for part in ["", "data"] {
        let files = std::fs::read_dir(folder.join(part)).into_iter().flatten();
        for file in files.map(|file| file.unwrap().path()) {
            if !file.is_file() {
                continue;
            }
            let mut object = std::fs::read(&file).unwrap();
            if file.ends_with("manifest-summary.json") {
                let text = String::from_utf8(object).unwrap();
                let text = text.replace(ACCOUNT_OF_GOLDEN, SOURCE);
                let mut summary: Value = serde_json::from_str(&text).unwrap();
                summary["exportTime"] = json!(now.to_string());
                if summary["tableId"].is_string() {
                    summary["tableId"] = description["Table"]["TableId"].clone();
                }
                object = summary.to_string().into();
            }
            let name = file.strip_prefix(folder).unwrap().to_str().unwrap();
            world.sandbox.set_object(BUCKET, &format!("{at}{name}"), Some(Bytes::from(object)));
        }
    }
    format!("s3://{BUCKET}/{at}")
}

#[tokio::test(start_paused = true)]
async fn every_documented_shape_of_an_export_is_loaded() {
    let folders = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/exports");
    let mut loaded = 0;
    for folder in std::fs::read_dir(folders).unwrap().map(|folder| folder.unwrap().path()) {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let world = world(950);
        let place = upload(&world, &folder);
        if name.starts_with("refused-") {
            assert_refused(&world, &from(&place), &["only a full export as DynamoDB JSON can be loaded"]).await;
            continue;
        }
        for file in std::fs::read_dir(folder.join("data")).unwrap().map(|file| file.unwrap().path()) {
            let object = std::fs::read(file).unwrap();
            let text = if object.is_empty() { Vec::new() } else { unzipped_all(&object) };
            for line in String::from_utf8(text).unwrap().lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                world.put_json(&line["Item"]);
            }
        }
        // What is at the source now is what is in the export: only a load brings it, for the stream begins later.
        world.clock().skip(HOUR);
        let place_again = upload(&world, &folder);
        assert_eq!(place, place_again);
        let reports = world.migrate(&from(&place)).await.unwrap_or_else(|error| panic!("{name}: {}", whole(&error)));
        assert_eq!((reports[0].items_loaded, reports[0].changes_replicated), (5, 0), "{name}");
        assert!(reports[0].verification.is_identical(), "{name}");
        world.assert_equal();
        loaded += 1;
    }
    assert_eq!(loaded, 4);
}

fn unzipped_all(object: &[u8]) -> Vec<u8> {
    use std::io::Read as _;
    let mut text = Vec::new();
    flate2::read::MultiGzDecoder::new(object).read_to_end(&mut text).unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn an_export_that_is_named_by_its_arn_is_waited_for_and_loaded() {
    let world = world(950);
    fill(&world, 500);
    world.sandbox.change_options(|options| options.export_takes = HOUR);
    let name = export_arn(&world);
    let service = world.serve(&from(&name));
    write_for(&world, 200).await;
    tokio::time::sleep(HOUR / 2).await;
    assert_eq!((service.status().phase, world.sandbox.objects(BUCKET).len()), (Phase::Starting, 0));
    assert!(!service.has_ended() && world.sandbox.snapshot(TARGET, REGION, "orders-copy").is_err());
    tokio::time::sleep(HOUR / 2).await;
    service.until_equal(&world).await;
    let loaded = service.metric("dynaferry_initial_load_items_total", &[]);
    assert!(loaded > 400.0, "{loaded}");
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_load_goes_on_by_the_name_that_it_began_with_also_when_that_is_forgotten() {
    let world = world(951);
    fill(&world, 2_000);
    let name = export_arn(&world);
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_secs(3)))]);
    let service = world.serve(&from(&name));
    service.until("it loads", || service.metric("dynaferry_initial_load_items_total", &[]) > 0.0).await;
    service.kill().await;
    world.no_faults();
    // The account lists an export for 90 days, and the load is begun.
    let gone = FaultKind::Error { code: "ExportNotFoundException".to_owned(), status: 400 };
    world.faults(vec![FaultRule::new("DescribeExport", Trigger::Chance(1.0), gone)]);
    let (exit, text) = failed(world.migrate(&from("s3://exports/AWSDynamoDB/01604473200000-a1b2c3d4/")).await);
    assert!(exit == Exit::Precondition && text.contains("began from another export"), "{text}");
    let reports = world.migrate(&from(&name)).await.unwrap();
    assert!(reports[0].verification.is_identical());
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn an_export_that_its_account_does_not_have_or_that_failed_is_refused_before_anything_is_written() {
    let world = world(952);
    fill(&world, 10);
    let missing = format!("{}/export/01604473200000-a1b2c3d4", arn());
    let error = world.migrate(&from(&missing)).await.expect_err("it is not there");
    assert_eq!(error.exit, Exit::Precondition);
    assert!(
        whole(&error).contains("ExportNotFoundException") && whole(&error).contains("90 days"),
        "{}",
        whole(&error)
    );
    world.sandbox.change_options(|options| (options.export_takes, options.exports_fail) = (HOUR, true));
    let name = export_arn(&world);
    let error = world.migrate(&from(&name)).await.expect_err("it fails");
    assert!(whole(&error).contains("S3NoSuchBucket") && whole(&error).contains("export the table again"));
    let denied = FaultKind::Error { code: "AccessDeniedException".to_owned(), status: 400 };
    world.faults(vec![FaultRule::new("DescribeExport", Trigger::Chance(1.0), denied)]);
    let error = world.migrate(&from(&name)).await.expect_err("nobody may look");
    assert!(whole(&error).contains("dynamodb:DescribeExport"), "{}", whole(&error));
    assert!(world.sandbox.snapshot(TARGET, REGION, "orders-copy").is_err() && world.state().await.link.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_export_that_will_be_too_old_is_not_waited_for() {
    let world = world(953);
    fill(&world, 10);
    world.sandbox.change_options(|options| options.export_takes = HOUR * 40);
    let name = export_arn(&world);
    let began = world.clock().now();
    let (exit, _) = failed(world.migrate(&from(&name)).await);
    let waited = world.clock().now().since(began);
    assert!(exit == Exit::Precondition && waited > HOUR * 22 && waited < HOUR * 24, "{waited:?}");
    let (exit, text) = failed(world.migrate(&from(&name)).await);
    assert!(exit == Exit::Precondition && text.contains("load the export"), "{text}");
}
