//! The rest of what may go wrong: tables and their streams, credentials, capacity, stale reads, time to live, answers.

use aws_sdk_dynamodb::types::{PutRequest, TimeToLiveSpecification, WriteRequest};
use aws_sdk_dynamodbstreams::types::StreamStatus;
use bytes::Bytes;

use super::super::Outcome;
use super::*;

fn put_request(id: &str, more: &[(&str, Attr)]) -> WriteRequest {
    let put = PutRequest::builder().set_item(Some(item(id, more))).build().unwrap();
    WriteRequest::builder().put_request(put).build()
}

async fn value(client: &db::Client, id: &str, consistent: bool) -> Option<String> {
    let found =
        client.get_item().table_name("orders").key("id", s(id)).consistent_read(consistent).send().await.unwrap();
    found.item.map(|item| item["v"].as_s().unwrap().clone())
}

#[tokio::test]
async fn stream_enabling_has_no_shards_for_a_time() {
    let (options, clock) = options();
    let sandbox = Sandbox::new(Options { enabling_delay: MINUTE, ..options });
    let arn = create(&database(&sandbox), "orders").await;
    let reader = streams(&sandbox);
    let status = || async {
        let answer = reader.describe_stream().stream_arn(&arn).send().await.unwrap().stream_description.unwrap();
        (answer.stream_status.unwrap(), answer.shards.unwrap_or_default().len())
    };
    assert_eq!(status().await, (StreamStatus::Enabling, 0));
    put(&database(&sandbox), "orders", "a", "1").await;
    clock.advance(MINUTE);
    assert_eq!(status().await, (StreamStatus::Enabled, 1));
    let shard = shards(&reader, &arn).await.remove(0).shard_id.unwrap();
    assert_eq!(read(&reader, horizon(&reader, &arn, &shard).await).await.0.len(), 1);
    assert_eq!(count(&sandbox, "stream.enabling"), 1);
}

#[tokio::test]
async fn table_recreate_has_another_id_another_stream_and_no_items() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    let old = create(&client, "orders").await;
    put(&client, "orders", "a", "1").await;
    let describe = || async { client.describe_table().table_name("orders").send().await.unwrap().table.unwrap() };
    let before = describe().await;
    sandbox.recreate_table(SOURCE, REGION, "orders").unwrap();
    let after = describe().await;
    assert_ne!(before.table_id, after.table_id);
    assert_eq!((after.key_schema, after.item_count), (before.key_schema, Some(0)));
    let new = after.latest_stream_arn.unwrap();
    assert_ne!(new, old);
    assert_eq!(value(&client, "a", true).await, None);
    let reader = streams(&sandbox);
    let described = reader.describe_stream().stream_arn(&old).send().await.unwrap().stream_description.unwrap();
    assert_eq!(described.stream_status, Some(StreamStatus::Disabled));
    let shard = shards(&reader, &old).await.remove(0).shard_id.unwrap();
    assert_eq!(read(&reader, horizon(&reader, &old, &shard).await).await.0.len(), 1);
    put(&client, "orders", "b", "1").await;
    let shard = shards(&reader, &new).await.remove(0).shard_id.unwrap();
    assert_eq!(read(&reader, horizon(&reader, &new, &shard).await).await.0.len(), 1);
    assert_eq!(count(&sandbox, "table.recreate"), 1);
}

#[tokio::test]
async fn throttles_of_every_name_say_why() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    for (code, kind, reason) in [
        ("ProvisionedThroughputExceededException", "throttle.provisioned", "TableWriteProvisionedThroughputExceeded"),
        ("RequestLimitExceeded", "throttle.request_limit", "TableWriteAccountLimitExceeded"),
        ("ThrottlingException", "throttle.throttling", "TableWriteKeyRangeThroughputExceeded"),
        ("LimitExceededException", "throttle.limit_exceeded", ""),
    ] {
        next(&sandbox, "PutItem", FaultKind::Throttle(code.to_owned()));
        let error = client.put_item().table_name("orders").set_item(Some(item("a", &[]))).send().await.unwrap_err();
        assert_eq!(error.code(), Some(code));
        let body = String::from_utf8(error.raw_response().unwrap().body().bytes().unwrap().to_vec()).unwrap();
        assert!(body.contains(reason), "{body}");
        assert_eq!(count(&sandbox, kind), 1);
    }
    next(&sandbox, "Scan", FaultKind::Throttle("ThrottlingException".to_owned()));
    assert!(client.scan().table_name("orders").send().await.is_err());
    assert_eq!(count(&sandbox, "scan.throttle"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_timed_out_write_is_delivered_late_or_never_and_its_client_hears_nothing() {
    let (sandbox, clock) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    let put = |id: &str| client.put_item().table_name("orders").set_item(Some(item(id, &[("v", s("1"))]))).send();
    let wait = Duration::from_secs(30);
    next(&sandbox, "PutItem", FaultKind::TimeOutAndDeliverLate(MINUTE));
    assert!(!matches!(tokio::time::timeout(wait, put("a")).await, Ok(Ok(_))));
    next(&sandbox, "PutItem", FaultKind::TimeOut);
    assert!(!matches!(tokio::time::timeout(wait, put("b")).await, Ok(Ok(_))));
    assert_eq!(value(&client, "a", true).await, None);
    clock.advance(MINUTE);
    assert_eq!(value(&client, "a", true).await.as_deref(), Some("1"));
    assert_eq!(value(&client, "b", true).await, None);
    assert_eq!((count(&sandbox, "error.timeout_then_late_delivery"), count(&sandbox, "error.timeout")), (1, 1));
}

#[tokio::test]
async fn batch_reject_poison_refuses_the_batch_as_a_whole_until_it_is_taken_back() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    sandbox.set_poison_attribute(SOURCE, REGION, "orders", Some("poison"));
    create(&client, "orders").await;
    let batch = || vec![put_request("a", &[]), put_request("b", &[("poison", n("1"))])];
    let send = |batch: Vec<WriteRequest>| client.batch_write_item().request_items("orders", batch).send();
    assert_eq!(code(send(batch()).await), "ValidationException");
    assert!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().is_empty());
    put(&client, "orders", "a", "1").await;
    let alone = client.put_item().table_name("orders").set_item(Some(item("b", &[("poison", n("1"))])));
    assert_eq!(code(alone.send().await), "ValidationException");
    assert_eq!(count(&sandbox, "batch.reject_poison"), 2);
    sandbox.set_poison_attribute(SOURCE, REGION, "orders", None);
    send(batch()).await.unwrap();
    assert_eq!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().len(), 2);
}

#[tokio::test]
async fn capacity_partition_bucket_throttles_one_range_of_hashes_and_not_the_others() {
    let (options, clock) = options();
    let options = Options { partitions: 2, partition_write_capacity: Some(1), ..options };
    let sandbox = Sandbox::new(options);
    let client = database(&sandbox);
    create(&client, "orders").await;
    let mut refused = Vec::new();
    for id in 0..20 {
        let put = client.put_item().table_name("orders").set_item(Some(item(&id.to_string(), &[]))).send().await;
        if let Err(error) = put {
            refused.push(error.code().unwrap().to_owned());
            let body = error.raw_response().unwrap().body().bytes().unwrap();
            assert!(String::from_utf8_lossy(body).contains("TableWriteKeyRangeThroughputExceeded"));
        }
    }
    assert_eq!(refused.len(), 18);
    assert!(refused.iter().all(|code| code == "ThrottlingException"));
    assert_eq!(count(&sandbox, "capacity.partition_bucket"), 18);
    clock.advance(Duration::from_secs(1));
    put(&client, "orders", "0", "1").await;
}

#[tokio::test]
async fn capacity_on_demand_ramp_lets_a_table_grow_to_twice_its_peak_after_half_an_hour() {
    let (options, clock) = options();
    let sandbox = Sandbox::new(Options { on_demand_writes: Some(10), ..options });
    let client = database(&sandbox);
    create(&client, "orders").await;
    let burst = || async {
        let mut done = 0;
        for id in 0..100 {
            let put = client.put_item().table_name("orders").set_item(Some(item(&id.to_string(), &[])));
            done += usize::from(put.send().await.is_ok());
        }
        clock.advance(Duration::from_secs(1));
        done
    };
    assert_eq!(burst().await, 10);
    assert_eq!(burst().await, 10);
    clock.advance(30 * MINUTE);
    assert_eq!(burst().await, 20);
    clock.advance(30 * MINUTE);
    assert_eq!(burst().await, 40);
    assert!(count(&sandbox, "capacity.on_demand_ramp") > 0);
}

#[tokio::test]
async fn auth_access_denied_is_refused_and_nothing_is_done() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    next(&sandbox, "PutItem", FaultKind::AccessDenied);
    let put = client.put_item().table_name("orders").set_item(Some(item("a", &[])));
    assert_eq!(code(put.send().await), "AccessDeniedException");
    assert!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().is_empty());
    assert_eq!(count(&sandbox, "auth.access_denied"), 1);
}

#[tokio::test]
async fn auth_skewed_signature_is_refused_from_five_minutes_on() {
    let (options, clock) = options();
    let sandbox = Sandbox::new(Options { check_request_time: true, ..options });
    let send = |time: &str| {
        let request = http::Request::builder()
            .header("x-amz-target", "DynamoDB_20120810.ListTables")
            .header("x-amz-date", time)
            .header("authorization", format!("AWS4-HMAC-SHA256 Credential={SOURCE}/20231114/{REGION}/dynamodb/x, S=1"));
        let Outcome::Reply(reply) = sandbox.handle(&request.body(Bytes::from_static(b"{}")).unwrap()) else {
            panic!("no reply")
        };
        (reply.status().as_u16(), String::from_utf8_lossy(reply.body()).into_owned())
    };
    // The clock stands at 22:13:20.
    for (time, is_fine) in [
        ("20231114T221320Z", true),
        ("20231114T220821Z", true),
        ("20231114T220820Z", false),
        ("20231114T221819Z", true),
        ("20231114T221820Z", false),
    ] {
        let (status, body) = send(time);
        assert_eq!(status == 200, is_fine, "{time} {body}");
        assert!(is_fine || body.contains("InvalidSignatureException") && body.contains("5 min."), "{body}");
    }
    assert_eq!(count(&sandbox, "auth.skewed_signature"), 2);
    clock.advance(Duration::from_secs(1));
    assert_eq!(send("20231114T220821Z").0, 400);
}

#[tokio::test]
async fn scan_stale_answers_as_of_some_time_ago_unless_consistency_is_asked_for() {
    let (options, clock) = options();
    let sandbox = Sandbox::new(Options { stale_reads: Duration::from_secs(3), ..options });
    let client = database(&sandbox);
    create(&client, "orders").await;
    put(&client, "orders", "a", "old").await;
    clock.advance(MINUTE);
    put(&client, "orders", "a", "new").await;
    put(&client, "orders", "b", "new").await;
    let always = FaultRule::new("*", Trigger::Chance(1.0), FaultKind::StaleRead);
    sandbox.set_faults(Faults::new(vec![always]));
    assert_eq!(value(&client, "a", false).await.as_deref(), Some("old"));
    assert_eq!(value(&client, "b", false).await, None);
    assert_eq!(value(&client, "a", true).await.as_deref(), Some("new"));
    assert_eq!(client.scan().table_name("orders").send().await.unwrap().count, 1);
    assert_eq!(client.scan().table_name("orders").consistent_read(true).send().await.unwrap().count, 2);
    clock.advance(Duration::from_secs(3));
    assert_eq!(value(&client, "a", false).await.as_deref(), Some("new"));
    assert_eq!(count(&sandbox, "scan.stale"), 3);
}

#[tokio::test]
async fn scan_partition_split_moves_the_page_boundary_and_loses_nothing() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    for id in 0..20 {
        put(&client, "orders", &id.to_string(), "1").await;
    }
    next(&sandbox, "Scan", FaultKind::SplitPartition);
    let first = client.scan().table_name("orders").send().await.unwrap();
    assert!((1..20).contains(&first.count));
    let rest =
        client.scan().table_name("orders").set_exclusive_start_key(first.last_evaluated_key).send().await.unwrap();
    assert_eq!(first.count + rest.count, 20);
    assert!(rest.last_evaluated_key.is_none());
    assert_eq!(count(&sandbox, "scan.partition_split"), 1);
}

#[tokio::test]
async fn ttl_deletes_what_expired_some_time_late_in_the_services_name() {
    let (options, clock) = options();
    let sandbox = Sandbox::new(Options { ttl_lateness: Some(2 * HOUR), ..options });
    let client = database(&sandbox);
    let arn = create(&client, "orders").await;
    let ttl = TimeToLiveSpecification::builder().attribute_name("until").enabled(true).build().unwrap();
    client.update_time_to_live().table_name("orders").time_to_live_specification(ttl).send().await.unwrap();
    for id in 0..20 {
        let until = if id < 10 { "1700003600" } else { "soon" };
        let until = if id < 10 { n(until) } else { s(until) };
        let put = client.put_item().table_name("orders").set_item(Some(item(&id.to_string(), &[("until", until)])));
        put.send().await.unwrap();
    }
    let left = || {
        sandbox.catch_up();
        sandbox.snapshot(SOURCE, REGION, "orders").unwrap().len()
    };
    clock.advance(HOUR - Duration::from_secs(1));
    assert_eq!(left(), 20);
    clock.advance(HOUR);
    assert!((11..20).contains(&left()), "{}", left());
    clock.advance(HOUR + MINUTE);
    assert_eq!(left(), 10);
    let reader = streams(&sandbox);
    let shard = shards(&reader, &arn).await.remove(0).shard_id.unwrap();
    let (records, _) = read(&reader, horizon(&reader, &arn, &shard).await).await;
    assert_eq!(records.iter().filter(|record| record.user_identity().is_some()).count(), 10);
    assert_eq!(count(&sandbox, "ttl.delete"), 10);
}

#[tokio::test]
async fn answers_that_are_cut_short_or_garbled_are_errors_of_the_client_and_the_write_is_done() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    put(&client, "orders", "a", "1").await;
    for (kind, name) in [(FaultKind::TruncateAnswer, "answer.truncated"), (FaultKind::GarbleAnswer, "answer.garbled")] {
        next(&sandbox, "DescribeTable", kind.clone());
        assert!(client.describe_table().table_name("orders").send().await.is_err());
        next(&sandbox, "PutItem", kind);
        let _either = client.put_item().table_name("orders").set_item(Some(item(name, &[]))).send().await.is_err();
        assert_eq!(count(&sandbox, name), 2);
    }
    assert_eq!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().len(), 3);
}

#[tokio::test]
async fn options_can_be_changed_while_the_world_runs() {
    let (sandbox, clock) = sandbox();
    let client = database(&sandbox);
    let arn = create(&client, "orders").await;
    clock.advance(MINUTE);
    sandbox.change_options(|options| (options.shard_life, options.seed) = (Duration::from_secs(30), 99));
    sandbox.roll_shards(SOURCE, REGION, "orders").unwrap();
    clock.advance(MINUTE);
    assert!(shards(&streams(&sandbox), &arn).await.len() > 2);
}

#[tokio::test]
async fn a_fault_that_is_off_leaves_the_draws_of_the_others_as_they_are() {
    let refused = |more: Vec<FaultRule>| async move {
        let (sandbox, _) = sandbox();
        let client = database(&sandbox);
        create(&client, "orders").await;
        let mut rules = vec![FaultRule::new("PutItem", Trigger::Chance(0.5), FaultKind::InternalError)];
        rules.extend(more);
        sandbox.set_faults(Faults::new(rules));
        let mut seen = Vec::new();
        for id in 0..40 {
            let _scanned = client.scan().table_name("orders").send().await.is_ok();
            let put = client.put_item().table_name("orders").set_item(Some(item(&id.to_string(), &[]))).send().await;
            seen.push(put.is_err_and(|error| error.code() == Some("InternalServerError")));
        }
        seen
    };
    let alone = refused(vec![]).await;
    assert!(alone.contains(&true) && alone.contains(&false));
    let slow = FaultRule::new("Scan", Trigger::Chance(0.5), FaultKind::LoseAnswer);
    assert_eq!(refused(vec![slow]).await, alone);
    let never = FaultRule::new("PutItem", Trigger::Chance(0.0), FaultKind::Refuse);
    assert_eq!(refused(vec![never]).await, alone);
}
