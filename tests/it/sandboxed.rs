//! Load, replicate, verify against the embedded sandbox, with the shard life and the faults that no other server has.

use std::time::Duration;

use dynaferry::sandbox::Options;
use dynaferry::telemetry::Mode;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::world::World;

#[tokio::test]
async fn a_migration_copies_a_table_that_is_written_meanwhile() {
    let world = World::new(Options { shard_life: Duration::from_secs(2), ..Options::default() });
    for n in 0..500 {
        world.put(n, n, "before");
    }
    let program = world.program(world.config(""), Mode::Oneshot);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { Box::pin(program.migrate(CancellationToken::new())).await });
    for n in 0..400 {
        world.put(n, n, "during");
        world.put(n, n + 1000, "new");
        if n % 3 == 0 {
            world.delete(n, n);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let reports = tasks.join_next().await.unwrap().unwrap().unwrap();
    assert!(reports[0].verification.is_identical(), "{reports:?}");
    // On a busy machine the migration may end before the writer does: a second one takes the rest.
    let rest = world.program(world.config(""), Mode::Oneshot);
    let reports = Box::pin(rest.migrate(CancellationToken::new())).await.unwrap();
    assert!(reports[0].verification.is_identical(), "{reports:?}");
    world.assert_equal();
}
