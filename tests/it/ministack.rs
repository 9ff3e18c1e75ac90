//! Migration and replication between two accounts of ministack.

use std::time::Duration;

use dynaferry::context::Context;
use dynaferry::telemetry::Mode;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::pair::{Pair, Service, ours};
use crate::servers;
use crate::workload::{Keys, Writer, fill};

/// Every key type and every value type, under a writer that never pauses; and once more for what came after.
async fn a_migration_under_a_busy_writer(keys: Keys) {
    let pair = Pair::new(servers::ministack());
    pair.create(keys).await;
    fill(&pair.source, keys, 300).await;
    let writer = Writer::start(pair.source.clone(), keys, 400, 1);
    let first = pair.program(keys, Mode::Oneshot, &ours(), "").migrate(CancellationToken::new()).await;
    let changes = writer.stop().await;
    let first = first.expect("a migration under writes");
    assert!(first[0].verification.is_identical(), "{first:?}");
    assert!(first[0].items_loaded >= 200, "{first:?}");
    assert!(changes > 50, "the writer was not busy: {changes}");

    let second = pair.program(keys, Mode::Oneshot, &ours(), "").migrate(CancellationToken::new()).await;
    let second = second.expect("a second migration, from where the first one ended");
    assert!(second[0].verification.is_identical(), "{second:?}");
    assert!(pair.compare(keys) > 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_under_a_busy_writer_copies_keys_of_text() {
    a_migration_under_a_busy_writer(Keys::Text).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_under_a_busy_writer_copies_keys_of_numbers() {
    a_migration_under_a_busy_writer(Keys::Number).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_under_a_busy_writer_copies_keys_of_bytes() {
    a_migration_under_a_busy_writer(Keys::Bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_drained_and_started_again_loses_nothing() {
    let keys = Keys::Text;
    let pair = Pair::new(servers::ministack());
    pair.create(keys).await;
    fill(&pair.source, keys, 200).await;
    let writer = Writer::start(pair.source.clone(), keys, 300, 3);
    for run_time in [Duration::from_secs(6), Duration::from_secs(3)] {
        let service = Service::start(pair.program(keys, Mode::Service, &ours(), ""));
        tokio::time::sleep(run_time).await;
        service.drain().await;
        // What is written while nothing runs is picked up by the next start.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    writer.stop().await;
    let mut service = Service::start(pair.program(keys, Mode::Service, &ours(), ""));
    // What the watermark says is true at that moment, not only after a drain.
    service.wait_until_applied(Context::system().now()).await;
    assert!(pair.compare(keys) > 150);
    service.drain().await;
    // And the comparison can tell: one value of one item, of another type.
    let table = format!("{}-copy", keys.table());
    let changed = json!({
        "TableName": table, "Key": keys.key(0), "UpdateExpression": "SET fraction = :v",
        "ExpressionAttributeValues": {":v": {"S": "1"}},
    });
    pair.target.call("UpdateItem", changed).await;
    let differences = pair.try_compare(keys).expect_err("a difference was not seen");
    assert!(differences.contains("1 keys differ"), "{differences}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_with_their_state_in_a_table_hand_a_link_over() {
    two_workers(Pair::new(servers::ministack())).await;
}

/// One stops as in a rolling update, the next one is left alone; every change arrives.
pub(crate) async fn two_workers(pair: Pair) {
    const ON_TABLE: &str = "[checkpoint]\nstore = \"dynamodb:dynaferry-state\"\nlease = \"5s\"";
    let keys = Keys::Text;
    pair.create(keys).await;
    fill(&pair.source, keys, 200).await;
    let writer = Writer::start(pair.source.clone(), keys, 200, 5);
    let worker = || Service::start(pair.program(keys, Mode::Service, &ours(), ON_TABLE));
    let mut first = worker();
    first.wait_until_applied(Context::system().now()).await;
    for _ in 0..2 {
        let mut second = worker();
        tokio::time::sleep(Duration::from_secs(7)).await;
        first.drain().await;
        second.wait_until_applied(Context::system().now()).await;
        first = second;
    }
    writer.stop().await;
    first.wait_until_applied(Context::system().now()).await;
    first.drain().await;
    assert!(pair.compare(keys) > 100);
}
