//! Items: batches, reads and scans.

use super::*;

#[tokio::test(start_paused = true)]
async fn one_call_is_one_attempt() {
    let server = Server::new([Reply::error(500, "InternalServerError", "x"), Reply::ok("{}")]);
    assert!(table(&server).await.write(&[delete(r#"{"pk":{"S":"a"}}"#)]).await.is_err());
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_holds_the_images_as_they_came() {
    let server = Server::new([Reply::ok(r#"{"UnprocessedItems":{}}"#)]);
    let item = r#"{ "pk":{"S":"a"}, "n" : {"N":"1.50"} }"#;
    let writes = [put(item), delete(r#"{"pk":{"S":"b"}}"#)];
    let reply = table(&server).await.write(&writes).await.unwrap();
    assert!(reply.unprocessed.is_empty());
    let seen = server.seen().remove(0);
    let want = format!(
        r#"{{"RequestItems":{{"orders":[{{"PutRequest":{{"Item":{item}}}}},{{"DeleteRequest":{{"Key":{{"pk":{{"S":"b"}}}}}}}}]}},"ReturnConsumedCapacity":"TOTAL"}}"#
    );
    assert_eq!(seen.body, want.as_bytes());
    assert_eq!(seen.header("x-amz-target"), "DynamoDB_20120810.BatchWriteItem");
    assert_eq!(seen.header("content-length"), want.len().to_string());
}

#[test]
fn a_batch_is_built_without_growing() {
    let writes: Vec<Write> = (0..25).map(|n| put(&format!(r#"{{"pk":{{"S":"{n}"}}}}"#))).collect();
    let body = crate::aws::tables::write_request("orders", &writes);
    assert!(body.capacity() < body.len() + 200, "{} of {}", body.len(), body.capacity());
    let deletes: Vec<Write> = (0..25).map(|n| delete(&format!(r#"{{"pk":{{"S":"{n}"}}}}"#))).collect();
    let body = crate::aws::tables::write_request("orders", &deletes);
    assert!(body.capacity() < body.len() + 200, "{} of {}", body.len(), body.capacity());
}

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_is_named() {
    let left = r#"{"UnprocessedItems":{"orders":[{"DeleteRequest":{"Key":{"pk":{"S":"b"}}}}]},"ConsumedCapacity":[{"TableName":"orders","CapacityUnits":3.0}]}"#;
    let server = Server::new([Reply::ok(left)]);
    let writes = [put(r#"{"pk":{"S":"a"}}"#), delete(r#"{"pk":{"S":"b"}}"#)];
    let reply = table(&server).await.write(&writes).await.unwrap();
    assert_eq!(reply.unprocessed, [writes[1].key.canonical.clone()]);
    assert_eq!(reply.consumed_units, Some(3.0));
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_may_have_happened() {
    let lost = [Reply::Truncated("{\"Unproc".into()), Reply::Broken, Reply::Silence];
    for reply in lost {
        let server = Server::new([reply.clone()]);
        let failure = table(&server).await.write(&[put(r#"{"pk":{"S":"a"}}"#)]).await.unwrap_err();
        assert_eq!((failure.fault, failure.may_have_happened), (Fault::Transient, true), "{reply:?}: {failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_understood_is_broken_and_happened() {
    let server = Server::new([Reply::ok("[]")]);
    let failure = table(&server).await.write(&[put(r#"{"pk":{"S":"a"}}"#)]).await.unwrap_err();
    assert_eq!((failure.fault, failure.may_have_happened), (Fault::Broken, true), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn items_of_400_kb_pass_both_ways() {
    let item = format!(r#"{{"pk":{{"S":"a"}},"v":{{"S":"{}"}}}}"#, "v".repeat(409_000));
    let server = Server::new([Reply::ok("{}"), Reply::ok(format!(r#"{{"Item":{item}}}"#))]);
    let table = table(&server).await;
    table.write(&[put(&item), delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    let read = table.get(&put(&item).key).await.unwrap().unwrap();
    assert_eq!(read.json(), item.as_bytes());
    let seen = server.seen();
    assert_eq!(seen[0].json()["RequestItems"]["orders"][0]["PutRequest"]["Item"]["v"]["S"], "v".repeat(409_000));
    assert_eq!(
        seen[1].json(),
        serde_json::json!({"TableName": "orders", "ConsistentRead": true, "Key": {"pk": {"S": "a"}}})
    );
}

#[tokio::test(start_paused = true)]
async fn a_scan_is_consistent_and_goes_on_where_it_ended() {
    let body = r#"{"Items":[{"pk":{"S":"a"},"n":{"N":"1.50"}}],"LastEvaluatedKey":{"pk":{"S":"a"}},"ConsumedCapacity":{"CapacityUnits":2.0}}"#;
    let server = Server::new([Reply::ok(body), Reply::ok(r#"{"Items":[]}"#)]);
    let table = table(&server).await;
    let mut request = ScanRequest { segment: 1, total_segments: 4, start: None, limit: None };
    let page = table.scan(&request).await.unwrap();
    assert_eq!(page.items[0].image.json(), r#"{"pk":{"S":"a"},"n":{"N":"1.50"}}"#.as_bytes());
    assert_eq!(page.consumed_units, Some(2.0));
    (request.start, request.limit) = (page.last_key, Some(10));
    assert!(table.scan(&request).await.unwrap().last_key.is_none());
    let mut want = serde_json::json!({"TableName": "orders", "Segment": 1, "TotalSegments": 4, "ConsistentRead": true, "ReturnConsumedCapacity": "TOTAL"});
    assert_eq!(server.seen()[0].json(), want);
    want["Limit"] = 10.into();
    want["ExclusiveStartKey"] = serde_json::json!({"pk": {"S": "a"}});
    assert_eq!(server.seen()[1].json(), want);
}

#[tokio::test(start_paused = true)]
async fn a_table_of_another_account_is_named_by_its_arn() {
    let arn = "arn:aws:dynamodb:eu-west-1:444455556666:table/orders";
    let server = Server::new([Reply::ok("{}")]);
    let table = account(&server).await.table(&TableRef::Arn(arn.parse().unwrap()), &schema());
    table.write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    let seen = server.seen().remove(0);
    assert!(seen.json()["RequestItems"][arn].is_array(), "{}", seen.json());
    assert_eq!(seen.uri, "https://444455556666.ddb.eu-west-1.amazonaws.com/", "the endpoint is chosen by the ARN");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_sent_any_more_never_leaves_and_is_not_in_doubt() {
    let server = Server::new([Reply::ok("{}"), Reply::ok("{}")]);
    let (_, context) = Manual::context();
    let allowed = Arc::new(Mutex::new(false));
    let asked = Arc::clone(&allowed);
    let guard: SendGuard = Arc::new(move || *asked.lock().unwrap());
    let clients = Clients { guard: Some(guard), ..clients(&server, &context) };
    let target = Account::connect(&side(), Side::Target, &clients).await.unwrap().table(&orders(), &schema());
    let failure = target.write(&[put(r#"{"pk":{"S":"a"}}"#)]).await.unwrap_err();
    assert!(failure.fault == Fault::Transient && !failure.may_have_happened, "{failure:?}");
    assert!(was_held_back(&failure), "who has no other way to hear of it does not try again");
    assert!(server.seen().is_empty());
    let source = Account::connect(&side(), Side::Source, &clients).await.unwrap().table(&orders(), &schema());
    source.write(&[put(r#"{"pk":{"S":"a"}}"#)]).await.unwrap();
    *allowed.lock().unwrap() = true;
    target.write(&[put(r#"{"pk":{"S":"a"}}"#)]).await.unwrap();
    assert_eq!(server.seen().len(), 2);
}
