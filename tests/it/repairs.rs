//! What is left half-way by a pin, a replay or a repair, and who may write while one goes on.

use std::time::Duration;

use dynaferry::checkpoint::rows::{SegmentRow, ShardRow, ShardStatus};
use dynaferry::checkpoint::{StateStore as _, StateWrite};
use dynaferry::model::{ShardId, WallTime};
use dynaferry::sandbox::Options;
use dynaferry::telemetry::Phase;

use crate::world::World;

#[tokio::test(start_paused = true)]
async fn a_load_ends_after_a_pin_that_broke_off_with_more_segments_and_other_shards() {
    let world = World::paused(Options { seed: 501, ..Options::default() });
    (0..400).for_each(|n| world.put(n, 0, "item"));
    let store = world.store.clone().unwrap();
    let (fence, _) = store.take("orders", "earlier").await.unwrap();
    let segment = |segment| SegmentRow { segment, cursor: None, done: false, items: 0, bytes: 0 };
    let gone = ShardRow {
        id: ShardId::new("shardId-00000000000000000001-gone"),
        parent: None,
        status: ShardStatus::Reading,
        checkpoint: None,
        checkpoint_time: None,
        dispatch: None,
        verified_at: WallTime::from_secs(0),
        last_listed: WallTime::from_secs(0),
        debts: Vec::new(),
        is_trimmed: false,
        is_lost: false,
    };
    let mut left: Vec<_> = (0..40).map(|n| StateWrite::Segment(segment(n))).collect();
    left.push(StateWrite::Shard(gone));
    store.commit("orders", &fence, left).await.unwrap();

    let slow = "load.segments = 2\napply.max_wcu = 20";
    let service = world.serve(slow);
    service.until("it has loaded a part", || service.status().load.is_some_and(|load| load.items > 50)).await;
    service.kill().await;
    assert!(world.state().await.segments.iter().all(|row| row.segment < 2));
    let service = world.serve(slow);
    service.until("both tables are equal", || world.num_differences() == 0).await;
    service.until("the load is done", || service.status().phase == Phase::Replicating).await;
    assert!(world.gaps().await.is_empty(), "a shard of the pin that broke off is no loss");
    tokio::time::sleep(Duration::from_secs(5)).await;
    service.stop().await.unwrap();
    world.assert_equal();
}
