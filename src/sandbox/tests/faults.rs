//! The fault plan, capacity, the observer, TCP.

use std::sync::Mutex;

use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};

use super::super::{FaultKind, FaultRule, Faults, Trigger};
use super::*;

fn plan(operation: &str, kind: FaultKind) -> Faults {
    Faults::new(vec![FaultRule::new(operation, Trigger::Next(1), kind)])
}

fn batch(count: usize) -> Vec<WriteRequest> {
    let put = |id: usize| PutRequest::builder().set_item(Some(item(&id.to_string(), &[]))).build().unwrap();
    (0..count).map(|id| WriteRequest::builder().put_request(put(id)).build()).collect()
}

#[tokio::test]
async fn a_lost_answer_did_the_write_and_a_refusal_did_not() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    let put = |id: &str| client.put_item().table_name("orders").set_item(Some(item(id, &[]))).send();
    sandbox.set_faults(plan("PutItem", FaultKind::Refuse));
    assert!(matches!(put("a").await.unwrap_err(), db::error::SdkError::DispatchFailure(failure) if failure.is_io()));
    assert_eq!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().len(), 0);
    sandbox.set_faults(plan("PutItem", FaultKind::LoseAnswer));
    assert!(matches!(put("a").await.unwrap_err(), db::error::SdkError::DispatchFailure(failure) if failure.is_io()));
    assert_eq!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().len(), 1);
    put("b").await.unwrap();
    assert_eq!(sandbox.stats().faults, 1 + 1);
}

#[tokio::test]
async fn errors_have_the_names_that_the_service_gives_them() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    for (kind, name, status) in [
        (
            FaultKind::Throttle("ProvisionedThroughputExceededException".into()),
            "ProvisionedThroughputExceededException",
            400,
        ),
        (FaultKind::Throttle("ThrottlingException".into()), "ThrottlingException", 400),
        (FaultKind::InternalError, "InternalServerError", 500),
        (FaultKind::ExpiredToken, "ExpiredTokenException", 400),
        (FaultKind::Error { code: "ServiceUnavailable".into(), status: 503 }, "ServiceUnavailable", 503),
    ] {
        sandbox.set_faults(plan("*", kind));
        let error = client.list_tables().send().await.unwrap_err();
        assert_eq!(error.raw_response().unwrap().status().as_u16(), status);
        assert_eq!(error.code(), Some(name));
    }
}

#[tokio::test]
async fn part_of_a_batch_comes_back_unprocessed_and_can_be_sent_again() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    let size = || sandbox.snapshot(SOURCE, REGION, "orders").unwrap().len();
    let send = |batch: Vec<WriteRequest>| client.batch_write_item().request_items("orders", batch).send();
    sandbox.set_faults(plan("BatchWriteItem", FaultKind::UnprocessedAll));
    let left = send(batch(25)).await.unwrap().unprocessed_items.unwrap().remove("orders").unwrap();
    assert_eq!((left.len(), size()), (25, 0));
    sandbox.set_faults(plan("BatchWriteItem", FaultKind::UnprocessedSubset));
    let left = send(left).await.unwrap().unprocessed_items.unwrap().remove("orders").unwrap();
    assert!((1..25).contains(&left.len()));
    assert_eq!(left.len() + size(), 25);
    assert!(send(left).await.unwrap().unprocessed_items.unwrap().is_empty());
    assert_eq!(size(), 25);
}

#[tokio::test]
async fn a_write_that_is_delivered_late_overwrites_what_came_between() {
    let (sandbox, clock) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    sandbox.set_faults(plan("PutItem", FaultKind::DeliverLate(Duration::from_secs(60))));
    let first = client.put_item().table_name("orders").set_item(Some(item("a", &[("v", s("early"))])));
    assert!(first.send().await.is_err());
    put(&client, "orders", "a", "new").await;
    let value = || async {
        let found = client.get_item().table_name("orders").key("id", s("a")).send().await.unwrap();
        found.item.unwrap()["v"].as_s().unwrap().clone()
    };
    clock.advance(Duration::from_millis(59_999));
    assert_eq!(value().await, "new");
    clock.advance(Duration::from_millis(1));
    assert_eq!(value().await, "early");
}

#[tokio::test(start_paused = true)]
async fn a_held_answer_comes_late_and_the_write_is_done_meanwhile() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    sandbox.set_faults(plan("PutItem", FaultKind::Hold(Duration::from_secs(9))));
    let before = tokio::time::Instant::now();
    put(&client, "orders", "a", "1").await;
    assert!(before.elapsed() >= Duration::from_secs(9));
}

#[tokio::test]
async fn capacity_runs_out_and_refills_with_time() {
    let (options, clock) = options();
    let sandbox = Sandbox::new(Options { write_capacity: Some(10), capacity_burst: Duration::from_secs(1), ..options });
    let client = database(&sandbox);
    create(&client, "orders").await;
    let send = || client.batch_write_item().request_items("orders", batch(25)).send();
    let left = send().await.unwrap().unprocessed_items.unwrap().remove("orders").unwrap();
    assert_eq!(left.len(), 15);
    let refused = send().await.unwrap_err().into_service_error();
    let db::operation::batch_write_item::BatchWriteItemError::ProvisionedThroughputExceededException(refused) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(refused.throttling_reasons()[0].reason(), Some("TableWriteProvisionedThroughputExceeded"));
    clock.advance(Duration::from_millis(500));
    let left = send().await.unwrap().unprocessed_items.unwrap().remove("orders").unwrap();
    assert_eq!(left.len(), 20);
}

#[tokio::test]
async fn the_observer_sees_each_exchange_in_order() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    sandbox.set_observer(Some(Arc::new(move |exchange| {
        log.lock().unwrap().push(format!("{} {} {}", exchange.account, exchange.operation, exchange.request.len() > 2));
    })));
    create(&client, "orders").await;
    put(&client, "orders", "a", "1").await;
    assert_eq!(*seen.lock().unwrap(), ["111122223333 CreateTable true", "111122223333 PutItem true"]);
}

#[tokio::test]
async fn the_same_seed_and_requests_give_the_same_answers() {
    let run = || async {
        let (sandbox, clock) = sandbox();
        let answers = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&answers);
        sandbox.set_observer(Some(Arc::new(move |exchange| {
            log.lock().unwrap().push(format!("{:?}", exchange.reply));
        })));
        sandbox.set_faults(Faults::new(vec![FaultRule::new(
            "PutItem",
            Trigger::Chance(0.3),
            FaultKind::InternalError,
        )]));
        let (client, reader) = (database(&sandbox), streams(&sandbox));
        let arn = create(&client, "orders").await;
        for id in 0..50 {
            let put = client.put_item().table_name("orders").set_item(Some(item(&id.to_string(), &[])));
            let _failed = put.send().await.is_err();
            clock.advance(Duration::from_secs(600));
        }
        reader.describe_stream().stream_arn(arn).send().await.unwrap();
        answers.lock().unwrap().split_off(0)
    };
    assert_eq!(run().await, run().await);
}

#[tokio::test]
async fn over_tcp_it_answers_the_sdks_own_client_and_drops_connections() {
    let (sandbox, _) = sandbox();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let client = db::Client::from_conf(
        db::Config::builder()
            .behavior_version(db::config::BehaviorVersion::latest())
            .region(db::config::Region::new(REGION))
            .credentials_provider(key_of(SOURCE))
            .retry_config(db::config::retry::RetryConfig::disabled())
            .endpoint_url(format!("http://{address}"))
            .build(),
    );
    let work = async {
        create(&client, "orders").await;
        put(&client, "orders", "a", "1").await;
        for (kind, items) in [(FaultKind::Refuse, 1), (FaultKind::LoseAnswer, 2)] {
            sandbox.set_faults(plan("PutItem", kind));
            let lost = client.put_item().table_name("orders").set_item(Some(item("b", &[]))).send().await;
            assert!(matches!(lost.unwrap_err(), db::error::SdkError::DispatchFailure(_)));
            assert_eq!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().len(), items);
        }
        put(&client, "orders", "c", "1").await;
        stop.send(()).unwrap();
    };
    let serve = sandbox.clone().serve(listener, async {
        let _stopped = stopped.await;
    });
    tokio::join!(serve, work);
}

#[test]
fn a_call_needs_no_client_and_meets_no_fault() {
    let (sandbox, _) = sandbox();
    sandbox.set_faults(Faults::new(vec![FaultRule::new("*", Trigger::Chance(1.0), FaultKind::InternalError)]));
    let table = r#"{"TableName":"orders","BillingMode":"PAY_PER_REQUEST",
        "AttributeDefinitions":[{"AttributeName":"id","AttributeType":"S"}],
        "KeySchema":[{"AttributeName":"id","KeyType":"HASH"}],
        "StreamSpecification":{"StreamEnabled":true,"StreamViewType":"NEW_IMAGE"}}"#;
    sandbox.call(SOURCE, REGION, "CreateTable", table).unwrap();
    let streams = sandbox.call(SOURCE, REGION, "ListStreams", "{}").unwrap();
    assert!(String::from_utf8_lossy(&streams).contains("orders"));
    assert_eq!(sandbox.call(SOURCE, REGION, "CreateTable", table).unwrap_err().code, "ResourceInUseException");
    assert_eq!(sandbox.stats().requests, 0);
    let shards = sandbox.shards(SOURCE, REGION, "orders").unwrap();
    assert!(shards.iter().all(|shard| shard.open && shard.listed && shard.newest.is_none()));
}

#[tokio::test]
async fn a_rule_can_be_for_one_account_or_one_table() {
    let (sandbox, _) = sandbox();
    let (client, other) = (database(&sandbox), database_as(&sandbox, key_of(TARGET)));
    for client in [&client, &other] {
        create(client, "orders").await;
        create(client, "state").await;
    }
    let always = FaultRule::new("PutItem", Trigger::Chance(1.0), FaultKind::InternalError);
    sandbox.set_faults(Faults::new(vec![always.for_account(TARGET).for_table("orders")]));
    put(&client, "orders", "a", "1").await;
    put(&other, "state", "a", "1").await;
    let hit = other.put_item().table_name("orders").set_item(Some(item("a", &[]))).send().await;
    assert_eq!(code(hit), "InternalServerError");
}
