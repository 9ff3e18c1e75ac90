//! Tables: what is said of them, and those that are made.

use super::*;
use crate::model::ExportStatus;

/// What DescribeTable says of a table with everything.
fn described() -> serde_json::Value {
    serde_json::json!({"TableArn": "arn:aws:dynamodb:eu-west-1:111122223333:table/orders", "TableId": "id-1", "TableName": "orders",
        "TableStatus": "ACTIVE", "ItemCount": 7, "TableSizeBytes": 900,
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"}, {"AttributeName": "sk", "AttributeType": "N"},
            {"AttributeName": "g1", "AttributeType": "S"}, {"AttributeName": "g2", "AttributeType": "B"},
            {"AttributeName": "g3", "AttributeType": "N"}, {"AttributeName": "dying", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"},
        "ProvisionedThroughput": {"ReadCapacityUnits": 0, "WriteCapacityUnits": 0},
        "OnDemandThroughput": {"MaxReadRequestUnits": -1, "MaxWriteRequestUnits": 500},
        "WarmThroughput": {"ReadUnitsPerSecond": 30000, "WriteUnitsPerSecond": 4000, "Status": "ACTIVE"},
        "GlobalSecondaryIndexes": [
            {"IndexName": "many", "IndexStatus": "ACTIVE", "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["v"]},
             "KeySchema": [{"AttributeName": "g1", "KeyType": "HASH"}, {"AttributeName": "g2", "KeyType": "HASH"},
                           {"AttributeName": "sk", "KeyType": "RANGE"}, {"AttributeName": "g3", "KeyType": "RANGE"}],
             "ProvisionedThroughput": {"ReadCapacityUnits": 0, "WriteCapacityUnits": 0}},
            {"IndexName": "gone", "IndexStatus": "DELETING", "Projection": {"ProjectionType": "ALL"},
             "KeySchema": [{"AttributeName": "dying", "KeyType": "HASH"}]}],
        "LocalSecondaryIndexes": [{"IndexName": "local", "Projection": {"ProjectionType": "KEYS_ONLY"},
             "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "g3", "KeyType": "RANGE"}]}],
        "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"}, "LatestStreamArn": "arn:stream",
        "TableClassSummary": {"TableClass": "STANDARD_INFREQUENT_ACCESS"},
        "SSEDescription": {"Status": "ENABLED", "SSEType": "KMS", "KMSMasterKeyArn": "arn:aws:kms:eu-west-1:111122223333:key/k1"},
        "DeletionProtectionEnabled": true,
        "Replicas": [{"RegionName": "eu-north-1"}]})
}

fn answer(table: &serde_json::Value) -> Reply {
    Reply::ok(serde_json::json!({ "Table": table }).to_string())
}

async fn description(table: &serde_json::Value) -> Result<crate::model::TableDescription, Failure> {
    account(&Server::new([answer(table)])).await.describe(&orders()).await
}

#[tokio::test(start_paused = true)]
async fn a_description_holds_what_the_service_said() {
    use crate::model::{Billing, Projection, TableStatus};
    let table = description(&described()).await.unwrap();
    assert_eq!((table.id.as_str(), table.item_count, table.size_bytes), ("id-1", 7, 900));
    assert_eq!((table.arn.name.as_str(), table.status), ("orders", TableStatus::Active));
    assert_eq!(table.keys.range, Some(KeyAttribute { name: "sk".into(), kind: KeyKind::N }));
    let billing =
        Billing::OnDemand { warm_read: Some(30_000), warm_write: Some(4000), max_read: None, max_write: Some(500) };
    assert_eq!(table.billing, billing);
    assert_eq!(table.global_indexes.len(), 1, "an index that is being deleted is none");
    assert_eq!(
        (&table.global_indexes[0].hash[..], table.global_indexes[0].range.len()),
        (&["g1".into(), "g2".into()][..], 2)
    );
    assert_eq!(table.global_indexes[0].projection, Projection::Include(vec!["v".into()]));
    assert_eq!(table.local_indexes[0].projection, Projection::KeysOnly);
    let stream = table.stream.unwrap();
    assert!(stream.enabled && stream.view == Some(ViewType::NewImage));
    assert_eq!(table.table_class.as_deref(), Some("STANDARD_INFREQUENT_ACCESS"));
    assert!(table.deletion_protection && table.encryption.is_some());
    assert_eq!(table.not_copied, ["global table replica in eu-north-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_table_without_a_billing_summary_is_provisioned_and_one_without_a_stream_has_none() {
    let table = serde_json::json!({"TableArn": "arn:aws:dynamodb:eu-west-1:111122223333:table/orders", "TableStatus": "CREATING",
        "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}], "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        "ProvisionedThroughput": {"ReadCapacityUnits": 5, "WriteCapacityUnits": 6}});
    let table = description(&table).await.unwrap();
    assert_eq!(table.billing, crate::model::Billing::Provisioned { read: 5, write: 6 });
    assert!(table.stream.is_none() && table.encryption.is_none() && table.table_class.is_none());
    assert_eq!(table.keys.range, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_turned_off_still_has_its_name() {
    let mut table = described();
    table.as_object_mut().unwrap().remove("StreamSpecification");
    let stream = description(&table).await.unwrap().stream.unwrap();
    assert_eq!((stream.arn.0.as_str(), stream.enabled, stream.view), ("arn:stream", false, None));
}

#[tokio::test(start_paused = true)]
async fn a_description_without_its_key_is_broken() {
    let mut table = described();
    table["KeySchema"] = serde_json::json!([]);
    assert_eq!(description(&table).await.unwrap_err().fault, Fault::Broken);
}

#[tokio::test(start_paused = true)]
async fn a_new_table_is_like_the_other_but_for_what_is_said() {
    let from = description(&described()).await.unwrap();
    let (mut creating, active) = (described(), described());
    creating["TableStatus"] = "CREATING".into();
    let not_yet = Reply::error(400, "ResourceNotFoundException", "x");
    let server = Server::new([Reply::ok("{}"), not_yet, answer(&creating), answer(&active)]);
    let tags = [("team".to_owned(), "a".to_owned()), ("aws:cloudformation:stack-id".to_owned(), "s".to_owned())];
    let account = account(&server).await;
    let created = account.create_table("orders-copy", &from, &tags, Patience::default()).await.unwrap();
    assert_eq!(created.description.id, "id-1");
    let seen = server.seen();
    assert_eq!(
        seen.iter().map(Seen::operation).collect::<Vec<_>>(),
        ["CreateTable", "DescribeTable", "DescribeTable", "DescribeTable"]
    );
    assert_eq!(
        seen[0].json(),
        serde_json::json!({"TableName": "orders-copy", "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [
                {"AttributeName": "pk", "AttributeType": "S"}, {"AttributeName": "sk", "AttributeType": "N"},
                {"AttributeName": "g1", "AttributeType": "S"}, {"AttributeName": "g2", "AttributeType": "B"},
                {"AttributeName": "g3", "AttributeType": "N"}],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            "OnDemandThroughput": {"MaxWriteRequestUnits": 500},
            "GlobalSecondaryIndexes": [{"IndexName": "many",
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["v"]},
                "KeySchema": [{"AttributeName": "g1", "KeyType": "HASH"}, {"AttributeName": "g2", "KeyType": "HASH"},
                    {"AttributeName": "sk", "KeyType": "RANGE"}, {"AttributeName": "g3", "KeyType": "RANGE"}]}],
            "LocalSecondaryIndexes": [{"IndexName": "local", "Projection": {"ProjectionType": "KEYS_ONLY"},
                "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "g3", "KeyType": "RANGE"}]}],
            "TableClass": "STANDARD_INFREQUENT_ACCESS", "DeletionProtectionEnabled": true,
            "Tags": [{"Key": "team", "Value": "a"}]})
    );
    let notes = created.notes.join("\n");
    for about in
        ["eu-north-1", "key/k1", "aws/dynamodb", "update-table", "warm throughput", "aws:cloudformation:stack-id"]
    {
        assert!(notes.contains(about), "{about}: {notes}");
    }
}

#[tokio::test(start_paused = true)]
async fn provisioned_tables_and_managed_keys_are_made_alike() {
    let mut from = description(&described()).await.unwrap();
    from.billing = crate::model::Billing::Provisioned { read: 5, write: 0 };
    from.global_indexes[0].provisioned = Some((2, 3));
    from.encryption = Some(crate::model::Encryption { kms_key_arn: None });
    let server = Server::new([Reply::ok("{}"), answer(&described())]);
    account(&server).await.create_table("copy", &from, &[], Patience::default()).await.unwrap();
    let asked = server.seen()[0].json();
    assert_eq!(asked["ProvisionedThroughput"], serde_json::json!({"ReadCapacityUnits": 5, "WriteCapacityUnits": 1}));
    let index = &asked["GlobalSecondaryIndexes"][0]["ProvisionedThroughput"];
    assert_eq!(*index, serde_json::json!({"ReadCapacityUnits": 2, "WriteCapacityUnits": 3}));
    assert_eq!(asked["SSESpecification"], serde_json::json!({"Enabled": true, "SSEType": "KMS"}));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_is_refused_clearly() {
    let from = description(&described()).await.unwrap();
    let server = Server::new([Reply::error(400, "ResourceInUseException", "Table already exists: copy")]);
    let failure = account(&server).await.create_table("copy", &from, &[], Patience::default()).await.unwrap_err();
    assert_eq!((failure.fault, failure.may_have_happened), (Fault::Rejected, false));
    assert!(failure.to_string().contains("copy is already there"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_table_has_an_end() {
    let mut creating = described();
    creating["TableStatus"] = "CREATING".into();
    let server = Server::new(std::iter::repeat_n(answer(&creating), 400));
    let patience = Patience { limit: Duration::from_secs(60), poll: Duration::from_secs(2) };
    let begun = tokio::time::Instant::now();
    let failure = account(&server).await.wait_until_active(&orders(), patience).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Transient, "{failure}");
    assert_eq!(begun.elapsed(), patience.limit);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_turned_on_once_and_waited_for() {
    let (mut off, mut updating) = (described(), described());
    off.as_object_mut().unwrap().remove("StreamSpecification");
    updating["TableStatus"] = "UPDATING".into();
    let server = Server::new([answer(&off), Reply::ok("{}"), answer(&updating), answer(&described())]);
    let on = account(&server).await.enable_stream(&orders(), Patience::default()).await.unwrap();
    assert!(on.stream.unwrap().enabled);
    let want = serde_json::json!({"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"});
    assert_eq!(server.seen()[1].json()["StreamSpecification"], want);

    let server = Server::new([answer(&described())]);
    account(&server).await.enable_stream(&orders(), Patience::default()).await.unwrap();
    assert_eq!(server.seen().len(), 1, "one that is on is left as it is");
}

#[tokio::test(start_paused = true)]
async fn names_and_tags_are_read_to_their_last_page() {
    let server = Server::new([
        Reply::ok(r#"{"TableNames":["a-1","b-1"],"LastEvaluatedTableName":"b-1"}"#),
        Reply::ok(r#"{"TableNames":["c-1"]}"#),
        Reply::ok(r#"{"Tags":[{"Key":"k","Value":"v"}],"NextToken":"n"}"#),
        Reply::ok(r#"{"Tags":[{"Key":"l","Value":"w"}]}"#),
        Reply::ok(r#"{"TimeToLiveDescription":{"TimeToLiveStatus":"ENABLED","AttributeName":"expires"}}"#),
        Reply::ok(r#"{"TimeToLiveDescription":{"TimeToLiveStatus":"DISABLING","AttributeName":"expires"}}"#),
        Reply::ok(r#"{"TimeToLiveDescription":{"TimeToLiveStatus":"DISABLED"}}"#),
    ]);
    let from = description(&described()).await.unwrap();
    let account = account(&server).await;
    assert_eq!(account.list_tables().await.unwrap(), ["a-1", "b-1", "c-1"]);
    let tags = account.list_tags(&from).await.unwrap();
    assert_eq!(tags, [("k".to_owned(), "v".to_owned()), ("l".to_owned(), "w".to_owned())]);
    assert_eq!(account.time_to_live(&orders()).await.unwrap().as_deref(), Some("expires"));
    assert_eq!(account.time_to_live(&orders()).await.unwrap().as_deref(), Some("expires"), "items still expire");
    assert_eq!(account.time_to_live(&orders()).await.unwrap(), None);
    assert_eq!(server.seen()[1].json()["ExclusiveStartTableName"], "b-1");
}

#[tokio::test]
async fn an_export_is_full_only_where_nothing_was_left_out_of_it() {
    let arn = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/export/01604473200000-a1b2c3d4";
    let reply = |more: &str| {
        let fields = format!(
            r#""ExportArn":"{arn}","ExportStatus":"COMPLETED","S3Bucket":"b","ExportManifest":"AWSDynamoDB/1-a/manifest-summary.json""#
        );
        Reply::ok(format!(r#"{{"ExportDescription":{{{fields}{more}}}}}"#))
    };
    let server = Server::new([
        reply(
            r#","ExportType":"FULL_EXPORT","ExportFormat":"DYNAMODB_JSON","ExportTime":1604473200,"StartTime":1604473210"#,
        ),
        reply(""),
        reply(r#","ExportType":"FULL_EXPORT","FilterSpecification":{"FilterExpression":"a = :a"}"#),
        reply(r#","ExportType":"INCREMENTAL_EXPORT""#),
        reply(r#","ExportFormat":"ION""#),
        Reply::ok(
            r#"{"ExportDescription":{"ExportStatus":"FAILED","S3Bucket":"b","FailureCode":"S3AccessDenied","FailureMessage":"no"}}"#,
        ),
        Reply::ok(r#"{"ExportDescription":{"ExportStatus":"PAUSED","S3Bucket":"b"}}"#),
    ]);
    let account = account(&server).await;
    let arn = arn.parse().unwrap();
    let whole = account.describe_export(&arn).await.unwrap();
    assert!(whole.is_full && whole.status == ExportStatus::Completed);
    assert_eq!(
        (whole.time, whole.started),
        (Some(WallTime::from_secs(1_604_473_200)), Some(WallTime::from_secs(1_604_473_210)))
    );
    for is_full in [true, false, false, false] {
        assert_eq!(account.describe_export(&arn).await.unwrap().is_full, is_full);
    }
    let failed = account.describe_export(&arn).await.unwrap();
    assert_eq!(failed.status, ExportStatus::Failed("S3AccessDenied: no".to_owned()));
    assert_eq!(account.describe_export(&arn).await.unwrap_err().fault, Fault::Broken);
}
