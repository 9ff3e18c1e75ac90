//! Incremental exports: what a window left of each item, once; and windows that cannot be had.

use std::collections::BTreeMap;
use std::io::Read as _;

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value, json};

use super::*;

const PLACE: &str = "exports";

fn arn() -> String {
    format!("arn:aws:dynamodb:{REGION}:{SOURCE}:table/orders")
}

fn recover(sandbox: &Sandbox, on: bool) {
    let body = json!({"TableName": "orders", "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": on}});
    sandbox.call(SOURCE, REGION, "UpdateContinuousBackups", &body.to_string()).unwrap();
}

async fn world(seed: u64) -> (Sandbox, Arc<ManualClock>, db::Client) {
    let (options, clock) = options();
    let sandbox = Sandbox::new(Options { seed, ..options });
    let client = database(&sandbox);
    create(&client, "orders").await;
    sandbox.create_bucket(SOURCE, REGION, PLACE);
    recover(&sandbox, true);
    (sandbox, clock, client)
}

fn now(clock: &ManualClock) -> f64 {
    f64::from(u32::try_from(clock.now().millis() / 1000).unwrap())
}

fn ask(sandbox: &Sandbox, specification: Value) -> Result<Value, String> {
    let asked = json!({
        "TableArn": arn(), "S3Bucket": PLACE, "S3Prefix": "p", "ExportType": "INCREMENTAL_EXPORT",
        "IncrementalExportSpecification": specification,
    });
    match sandbox.call(SOURCE, REGION, "ExportTableToPointInTime", &asked.to_string()) {
        Ok(answer) => Ok(serde_json::from_slice::<Value>(&answer).unwrap()["ExportDescription"].clone()),
        Err(error) => Err(error.code),
    }
}

/// The lines of an export, by what its manifests say of it and nothing else.
fn lines(sandbox: &Sandbox, export: &Value) -> (Map<String, Value>, Vec<Value>) {
    let objects = sandbox.objects(PLACE);
    let object = |key: &str| objects.get(key).or_else(|| objects.get(&format!("p/{key}"))).unwrap().clone();
    let summary: Value = serde_json::from_slice(&object(export["ExportManifest"].as_str().unwrap())).unwrap();
    let list = object(summary["manifestFilesS3Key"].as_str().unwrap());
    let mut lines = Vec::new();
    for file in String::from_utf8(list.to_vec()).unwrap().lines() {
        let file: Value = serde_json::from_str(file).unwrap();
        let key = file["dataFileS3Key"].as_str().unwrap();
        assert!(key.contains("AWSDynamoDB/data/"), "{key}: all windows share a folder");
        let mut text = String::new();
        MultiGzDecoder::new(&*object(key)).read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count() as u64, file["itemCount"].as_u64().unwrap());
        lines.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    assert_eq!(summary["itemCount"].as_u64().unwrap(), lines.len() as u64);
    (summary.as_object().unwrap().clone(), lines)
}

async fn delete(client: &db::Client, id: &str) {
    client.delete_item().table_name("orders").key("id", s(id)).send().await.unwrap();
}

#[tokio::test]
async fn a_window_tells_what_it_left_of_each_item_and_nothing_of_what_came_and_went() {
    for view in ["NEW_AND_OLD_IMAGES", "NEW_IMAGE"] {
        let (sandbox, clock, client) = world(1).await;
        for id in ["updated", "deleted", "untouched"] {
            put(&client, "orders", id, "before").await;
        }
        clock.advance(HOUR);
        let from = now(&clock);
        clock.advance(MINUTE * 5);
        for (id, value) in [("updated", "one"), ("updated", "two"), ("new", "one"), ("fleeting", "x")] {
            put(&client, "orders", id, value).await;
        }
        delete(&client, "deleted").await;
        delete(&client, "fleeting").await;
        clock.advance(MINUTE * 15);
        let to = now(&clock);
        clock.advance(MINUTE * 5);
        put(&client, "orders", "updated", "after").await;
        let export =
            ask(&sandbox, json!({"ExportFromTime": from, "ExportToTime": to, "ExportViewType": view})).unwrap();
        let (summary, lines) = lines(&sandbox, &export);
        assert_eq!((&summary["exportType"], &summary["outputView"]), (&json!("INCREMENTAL_EXPORT"), &json!(view)));
        assert!(summary.contains_key("exportFromTime") && !summary.contains_key("exportTime"));
        let by_id: BTreeMap<&str, &Value> =
            lines.iter().map(|line| (line["Keys"]["id"]["S"].as_str().unwrap(), line)).collect();
        assert_eq!(by_id.keys().copied().collect::<Vec<_>>(), ["deleted", "new", "updated"]);
        let image = |id: &str, name: &str| by_id[id][name]["v"]["S"].as_str().map(str::to_owned);
        let old = |text: &str| (view == "NEW_AND_OLD_IMAGES").then(|| text.to_owned());
        assert_eq!((image("updated", "NewImage"), image("updated", "OldImage")), (Some("two".into()), old("before")));
        assert_eq!((image("deleted", "NewImage"), image("deleted", "OldImage")), (None, old("before")));
        assert_eq!((image("new", "NewImage"), image("new", "OldImage")), (Some("one".into()), None));
    }
}

#[tokio::test]
async fn a_full_export_and_windows_that_meet_hold_every_change_once() {
    let (mut plain, mut tagged, mut shifted) = (0, 0, 0);
    for seed in 0..24 {
        let (sandbox, clock, client) = world(seed).await;
        let mut random = fastrand::Rng::with_seed(seed);
        for n in 0..10 {
            put(&client, "orders", &format!("k{n}"), "0").await;
        }
        let asked = json!({"TableArn": arn(), "S3Bucket": PLACE, "S3Prefix": "full"}).to_string();
        let full = sandbox.call(SOURCE, REGION, "ExportTableToPointInTime", &asked).unwrap();
        let full: Value = serde_json::from_slice(&full).unwrap();
        let mut copy: BTreeMap<String, Value> =
            (0..10).map(|n| (format!("k{n}"), json!({"id": {"S": format!("k{n}")}, "v": {"S": "0"}}))).collect();
        let mut from = full["ExportDescription"]["ExportTime"].as_f64().unwrap();
        clock.advance(MINUTE);
        for window in 0..4 {
            let changes = if window == 2 { 0 } else { random.usize(10..120) };
            for n in 0..changes + 8 {
                if n == changes {
                    clock.advance(MINUTE * 18);
                }
                if n >= changes && window >= 2 {
                    continue;
                }
                let id = format!("k{}", random.u32(0..14));
                if random.bool() {
                    put(&client, "orders", &id, &format!("{window} {n}")).await;
                } else {
                    delete(&client, &id).await;
                }
                clock.advance(Duration::from_secs(15));
            }
            // Nothing is written within a minute of the last edge, so what a copy ends with is known.
            let to = now(&clock) - f64::from(random.u32(0..60));
            let export = ask(&sandbox, json!({"ExportFromTime": from, "ExportToTime": to})).unwrap();
            let (_, lines) = lines(&sandbox, &export);
            for line in lines {
                let at = &line["Metadata"]["WriteTimestampMicros"];
                let micros = at.as_str().or(at["N"].as_str()).unwrap();
                (plain, tagged) = (plain + u32::from(at.is_string()), tagged + u32::from(at.is_object()));
                let at = micros.parse::<f64>().unwrap() / 1e6;
                assert!(at >= from - 60.0 && at <= to + 60.0, "the edges are a minute off at most");
                shifted += u32::from(at < from || at >= to);
                let id = line["Keys"]["id"]["S"].as_str().unwrap().to_owned();
                assert_eq!(copy.get(&id), line.get("OldImage"), "seed {seed}: a change is missing, or comes twice");
                match line.get("NewImage") {
                    Some(image) => drop(copy.insert(id, image.clone())),
                    None => drop(copy.remove(&id)),
                }
            }
            from = to;
        }
        let scanned = sandbox.call(SOURCE, REGION, "Scan", r#"{"TableName":"orders"}"#).unwrap();
        let scanned: Value = serde_json::from_slice(&scanned).unwrap();
        let items = scanned["Items"].as_array().unwrap().iter().cloned();
        let items: BTreeMap<String, Value> =
            items.map(|item| (item["id"]["S"].as_str().unwrap().to_owned(), item)).collect();
        assert_eq!(items, copy, "seed {seed}");
    }
    assert!(plain > 0 && tagged > 0 && shifted > 0, "{plain} {tagged} {shifted}");
}

#[tokio::test]
async fn a_window_that_cannot_be_had_is_refused() {
    let (sandbox, clock, client) = world(3).await;
    put(&client, "orders", "k", "v").await;
    let began = now(&clock);
    sandbox.change_options(|options| options.export_lag = MINUTE * 5);
    clock.advance(HOUR * 30);
    let latest = now(&clock) - 300.0;
    let refused = |from: f64, to: f64| ask(&sandbox, json!({"ExportFromTime": from, "ExportToTime": to})).err();
    let (validation, outside) = (Some("ValidationException".to_owned()), Some("InvalidExportTimeException".to_owned()));
    assert_eq!(refused(began, began + 899.0), validation, "shorter than 15 minutes");
    assert_eq!(refused(began, began + 24.0 * 3600.0 + 1.0), validation, "longer than 24 hours");
    assert_eq!(ask(&sandbox, json!({"ExportToTime": latest})).err(), validation, "no beginning");
    assert_eq!(refused(began - 1.0, began + 900.0), outside, "before the recovery was turned on");
    assert_eq!(refused(latest - 3600.0, latest + 1.0), outside, "later than can be recovered");
    assert_eq!(refused(began, began + 24.0 * 3600.0), None);
    assert_eq!(ask(&sandbox, json!({"ExportFromTime": latest - 3600.0})).err(), None, "to the latest time");
    recover(&sandbox, false);
    assert_eq!(refused(began, began + 900.0).as_deref(), Some("PointInTimeRecoveryUnavailableException"));
    recover(&sandbox, true);
    assert_eq!(refused(began, began + 900.0), outside, "what was before it was turned on again is forgotten");
    let described = sandbox.call(SOURCE, REGION, "DescribeContinuousBackups", r#"{"TableName":"orders"}"#).unwrap();
    let described: Value = serde_json::from_slice(&described).unwrap();
    let recovery = &described["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"];
    assert_eq!(recovery["EarliestRestorableDateTime"].as_f64(), Some(now(&clock)));
    assert_eq!(recovery["LatestRestorableDateTime"].as_f64(), Some(now(&clock) - 300.0));
}

#[tokio::test]
async fn a_token_makes_one_window() {
    let (sandbox, clock, client) = world(4).await;
    put(&client, "orders", "k", "v").await;
    let from = now(&clock);
    clock.advance(HOUR);
    let ask = |to: f64| {
        let asked = json!({
            "TableArn": arn(), "S3Bucket": PLACE, "ExportType": "INCREMENTAL_EXPORT", "ClientToken": "t",
            "IncrementalExportSpecification": {"ExportFromTime": from, "ExportToTime": to},
        });
        let answer = sandbox.call(SOURCE, REGION, "ExportTableToPointInTime", &asked.to_string());
        answer.map_err(|error| error.code)
    };
    assert_eq!(ask(from + 900.0).unwrap(), ask(from + 900.0).unwrap());
    assert_eq!(ask(from + 901.0).unwrap_err(), "ExportConflictException");
}
