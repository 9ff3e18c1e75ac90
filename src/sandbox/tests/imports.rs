//! Imports from S3.

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;

const PLACE: &str = "exports";

/// A table with items, exported into a bucket that lets the target in: the key of its data.
fn exported(sandbox: &Sandbox, items: usize) -> String {
    sandbox.create_bucket(SOURCE, REGION, PLACE);
    sandbox.let_into_bucket(PLACE, TARGET, true);
    ask(sandbox, SOURCE, "CreateTable", &definition("orders"));
    for n in 0..items {
        let item = json!({"id": {"S": format!("{n}")}, "kind": {"S": "k"}, "n": {"N": n.to_string()}}).to_string();
        sandbox.put_item(SOURCE, REGION, "orders", &item).unwrap();
    }
    ask(
        sandbox,
        SOURCE,
        "UpdateContinuousBackups",
        &json!({"TableName": "orders", "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": true}}),
    );
    let arn = format!("arn:aws:dynamodb:{REGION}:{SOURCE}:table/orders");
    let export = ask(sandbox, SOURCE, "ExportTableToPointInTime", &json!({"TableArn": arn, "S3Bucket": PLACE}));
    let manifest = export["ExportDescription"]["ExportManifest"].as_str().unwrap();
    manifest.replace("manifest-summary.json", "data/")
}

fn definition(name: &str) -> Value {
    json!({
        "TableName": name, "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": "id", "AttributeType": "S"}, {"AttributeName": "kind", "AttributeType": "S"},
        ],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "GlobalSecondaryIndexes": [{
            "IndexName": "by-kind", "KeySchema": [{"AttributeName": "kind", "KeyType": "HASH"}],
            "Projection": {"ProjectionType": "ALL"},
        }],
    })
}

fn request(data: &str, token: &str) -> Value {
    json!({
        "S3BucketSource": {"S3Bucket": PLACE, "S3KeyPrefix": data, "S3BucketOwner": SOURCE},
        "InputFormat": "DYNAMODB_JSON", "InputCompressionType": "GZIP", "ClientToken": token,
        "TableCreationParameters": definition("copy"),
    })
}

fn ask(sandbox: &Sandbox, account: &str, operation: &str, body: &Value) -> Value {
    let answer = sandbox.call(account, REGION, operation, &body.to_string()).expect(operation);
    serde_json::from_slice(&answer).unwrap()
}

fn refused(sandbox: &Sandbox, operation: &str, body: &Value) -> String {
    sandbox.call(TARGET, REGION, operation, &body.to_string()).expect_err("refused").to_string()
}

fn begin(sandbox: &Sandbox, request: &Value) -> String {
    let import = ask(sandbox, TARGET, "ImportTable", request);
    import["ImportTableDescription"]["ImportArn"].as_str().unwrap().to_owned()
}

fn described(sandbox: &Sandbox, arn: &str) -> Value {
    ask(sandbox, TARGET, "DescribeImport", &json!({"ImportArn": arn}))["ImportTableDescription"].clone()
}

fn status(sandbox: &Sandbox) -> Value {
    ask(sandbox, TARGET, "DescribeTable", &json!({"TableName": "copy"}))["Table"]["TableStatus"].clone()
}

#[test]
fn an_import_makes_a_table_that_is_open_when_it_is_over() {
    let (sandbox, clock) = sandbox();
    let data = exported(&sandbox, 40);
    sandbox.change_options(|options| options.import_takes = HOUR);
    let arn = begin(&sandbox, &request(&data, "a"));
    assert_eq!(begin(&sandbox, &request(&data, "a")), arn, "a token makes one import");
    assert!(refused(&sandbox, "ImportTable", &request(&data, "b")).contains("ResourceInUse"));
    let mut other = request(&data, "a");
    other["S3BucketSource"]["S3KeyPrefix"] = "elsewhere/".into();
    assert!(refused(&sandbox, "ImportTable", &other).contains("ImportConflict"));
    clock.advance(HOUR / 2);
    let half = described(&sandbox, &arn);
    assert_eq!((half["ImportStatus"].as_str(), half["ImportedItemCount"].as_u64()), (Some("IN_PROGRESS"), Some(20)));
    assert_eq!(status(&sandbox), "CREATING");
    assert!(refused(&sandbox, "Scan", &json!({"TableName": "copy"})).contains("ResourceNotFound"));
    assert!(refused(&sandbox, "DeleteTable", &json!({"TableName": "copy"})).contains("ResourceInUse"));
    clock.advance(HOUR / 2);
    let whole = described(&sandbox, &arn);
    assert_eq!((whole["ImportStatus"].as_str(), whole["ErrorCount"].as_u64()), (Some("COMPLETED"), Some(0)));
    assert!(whole["EndTime"].is_number() && whole["ClientToken"] == "a");
    assert_eq!(status(&sandbox), "ACTIVE");
    let both = [(SOURCE, "orders"), (TARGET, "copy")].map(|(account, table)| sandbox.snapshot(account, REGION, table));
    assert!(both[0].as_ref().unwrap() == both[1].as_ref().unwrap());
    assert_eq!(
        whole["TableId"],
        ask(&sandbox, TARGET, "DescribeTable", &json!({"TableName": "copy"}))["Table"]["TableId"]
    );
    let foreign = sandbox.call(SOURCE, REGION, "DescribeImport", &json!({"ImportArn": arn}).to_string());
    assert!(foreign.unwrap_err().to_string().contains("ImportNotFound"));
}

#[test]
fn imports_are_listed_by_table_and_in_pages() {
    let (sandbox, clock) = sandbox();
    let data = exported(&sandbox, 1);
    for n in 0..30 {
        clock.advance(MINUTE);
        let mut request = request(&data, &n.to_string());
        request["TableCreationParameters"]["TableName"] = format!("copy-{n}").into();
        begin(&sandbox, &request);
    }
    let list = |body: Value| ask(&sandbox, TARGET, "ListImports", &body);
    let first = list(json!({}));
    assert_eq!(first["ImportSummaryList"].as_array().unwrap().len(), 25);
    let rest = list(json!({"NextToken": first["NextToken"]}));
    assert!(rest["ImportSummaryList"].as_array().unwrap().len() == 5 && rest["NextToken"].is_null());
    let arn = format!("arn:aws:dynamodb:{REGION}:{TARGET}:table/copy-7");
    let one = list(json!({"TableArn": arn}));
    assert_eq!(one["ImportSummaryList"].as_array().unwrap().len(), 1);
    assert_eq!(one["ImportSummaryList"][0]["TableArn"], arn);
}

#[test]
fn what_is_no_item_of_the_table_is_left_out_and_the_others_are_there() {
    let (sandbox, _) = sandbox();
    let data = exported(&sandbox, 40);
    let lines = concat!(
        "{\"Item\":{\"id\":{\"S\":\"fits\"}}}\n{\"Item\":{\"id\":{\"N\":\"1\"}}}\n{\"Keys\":{}}\nno JSON\n",
        "{\"Item\":{\"id\":{\"S\":\"x\"},\"kind\":{\"N\":\"1\"}}}\n"
    );
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, lines.as_bytes()).unwrap();
    sandbox.set_object(PLACE, &format!("{data}more.json.gz"), Some(encoder.finish().unwrap().into()));
    let arn = begin(&sandbox, &request(&data, "a"));
    let told = described(&sandbox, &arn);
    assert_eq!(
        (told["ImportStatus"].as_str(), told["FailureCode"].as_str(), told["ErrorCount"].as_u64()),
        (Some("FAILED"), Some("ItemValidationError"), Some(4))
    );
    assert_eq!(told["ImportedItemCount"].as_u64(), Some(41));
    assert_eq!(sandbox.snapshot(TARGET, REGION, "copy").unwrap().len(), 41);
}

#[test]
fn a_bucket_that_is_not_there_or_not_open_fails_the_import_and_leaves_no_table() {
    let (sandbox, _) = sandbox();
    let data = exported(&sandbox, 4);
    let of = |bucket: &str, owner: &str, token: &str| {
        let mut request = request(&data, token);
        request["S3BucketSource"]["S3Bucket"] = bucket.into();
        request["S3BucketSource"]["S3BucketOwner"] = owner.into();
        let told = described(&sandbox, &begin(&sandbox, &request));
        assert!(sandbox.snapshot(TARGET, REGION, "copy").is_err());
        told["FailureCode"].as_str().unwrap().to_owned()
    };
    assert_eq!(of("missing", SOURCE, "a"), "S3NoSuchBucket");
    assert_eq!(of(PLACE, TARGET, "b"), "S3AccessDenied", "a bucket of another owner than is said");
    sandbox.let_into_bucket(PLACE, TARGET, false);
    assert_eq!(of(PLACE, SOURCE, "c"), "S3AccessDenied");
}

#[test]
fn imports_fail_half_way_and_reject_items_where_they_are_told_to() {
    let (sandbox, clock) = sandbox();
    let data = exported(&sandbox, 40);
    sandbox.change_options(|options| options.import_takes = MINUTE);
    let half_loaded = begin(&sandbox, &request(&data, "a"));
    sandbox.change_options(|options| options.imports_fail = Some(0.5));
    clock.advance(MINUTE);
    let told = described(&sandbox, &half_loaded);
    assert_eq!((told["ImportStatus"].as_str(), told["ImportedItemCount"].as_u64()), (Some("FAILED"), Some(20)));
    assert_eq!((status(&sandbox), sandbox.snapshot(TARGET, REGION, "copy").unwrap().len()), ("ACTIVE".into(), 20));
    ask(&sandbox, TARGET, "DeleteTable", &json!({"TableName": "copy"}));

    sandbox.change_options(|options| (options.imports_fail, options.import_reject_chance) = (None, 0.3));
    let rejects = begin(&sandbox, &request(&data, "b"));
    clock.advance(MINUTE);
    let told = described(&sandbox, &rejects);
    let errors = told["ErrorCount"].as_u64().unwrap();
    assert!(told["FailureCode"] == "ItemValidationError" && (1..40).contains(&errors), "{errors}");
    assert_eq!(sandbox.fault_counts().get("import.fail"), Some(&1));
    ask(&sandbox, TARGET, "DeleteTable", &json!({"TableName": "copy"}));

    sandbox.change_options(|options| options.import_reject_chance = 0.0);
    let disturbed = begin(&sandbox, &request(&data, "c"));
    sandbox.set_object(PLACE, &format!("{data}more"), Some(Bytes::new()));
    clock.advance(MINUTE);
    assert_eq!(described(&sandbox, &disturbed)["FailureCode"], "ObjectModifiedInS3DuringImport");
}
