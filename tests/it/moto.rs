//! A second opinion: moto, which shares no code with ministack.
//!
//! It has lies of its own, none of which may matter: every stream has the same shard id and first sequence number, nothing
//! ever closes or is trimmed, an update that creates an item shows as two inserts, writes that change nothing are recorded,
//! numbers stay as they were written, any role and external id will do. Permissions are not tested here for that reason,
//! and keys of bytes are not, because a scan by segments fails for them with 500 (moto 5.2.5 sums up their characters).

use std::time::Duration;

use dynaferry::context::Context;
use dynaferry::runtime::VerifyOptions;
use dynaferry::telemetry::Mode;
use tokio_util::sync::CancellationToken;

use crate::pair::{Pair, Service, ours};
use crate::servers;
use crate::workload::{Keys, Writer, fill};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_loaded_and_followed_under_writes() {
    let pair = Pair::by_roles(servers::moto()).await;
    for keys in [Keys::Text, Keys::Number] {
        pair.create(keys).await;
        fill(&pair.source, keys, 120).await;
        let mut writer = Writer::start(pair.source.clone(), keys, 150, 4);
        let mut service = Service::start(pair.program(keys, Mode::Service, &ours(), ""));
        tokio::time::sleep(Duration::from_secs(4)).await;
        writer.has_made(50).await;
        writer.stop().await;
        service.wait_until_applied(Context::system().now()).await;
        service.drain().await;
        assert!(pair.compare(keys) > 60);
        // And the program's own comparison agrees with boto3's.
        let program = pair.program(keys, Mode::Oneshot, &ours(), "");
        let reports = Box::pin(program.verify(VerifyOptions::default(), CancellationToken::new())).await;
        assert!(reports.expect("a comparison").iter().all(|(_, report)| report.is_identical()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_with_their_state_in_a_table_hand_a_link_over() {
    crate::ministack::two_workers(Pair::by_roles(servers::moto()).await).await;
}
