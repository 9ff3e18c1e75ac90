//! Migration and replication between two accounts of ministack.

use dynaferry::telemetry::Mode;
use tokio_util::sync::CancellationToken;

use crate::pair::{Pair, ours};
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
