//! What the leader of a divided link looks after while others read its shards.

use std::time::Duration;

use dynaferry::sandbox::{FaultKind, FaultRule, Trigger};
use dynaferry::telemetry::Mode;

use crate::sharing::{
    SHARED, STATE, parts, poison_target, put_poisoned, until_divided, until_equal, worker_with, world,
};
use crate::world::{REGION, TARGET};

#[tokio::test(start_paused = true)]
async fn what_was_set_aside_is_told_once_though_putting_the_link_together_broke_off() {
    let world = world(914);
    let more = format!("apply.on_rejected = \"dead_letter\"\n{SHARED}");
    let (one, _) = worker_with(&world, &more);
    until_equal(&one, &world).await;
    let (two, _) = worker_with(&world, &more);
    until_divided(&one, &world).await;
    poison_target(&world, Some("poison"));
    put_poisoned(&world);
    let told = || [&one, &two].map(|worker| worker.metric("dynaferry_dead_letters", &[])).contains(&1.0);
    one.until("it is set aside", told).await;
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    let own_rows = || {
        let items = world.sandbox.snapshot(TARGET, REGION, STATE).unwrap();
        let keys = items.keys().map(|key| String::from_utf8_lossy(key).into_owned());
        keys.filter(|key| key.contains("default/link/orders") && !key.contains("default/link/orders/")).count()
    };
    let before = own_rows();
    let slow = FaultKind::Hold(Duration::from_millis(500));
    world.faults(vec![FaultRule::new("TransactWriteItems", Trigger::Chance(1.0), slow).for_table(STATE)]);
    let unshared = more.replace("sharing = true", "");
    let (alone, _) = worker_with(&world, &unshared);
    alone.until("the link has rows of its parts", || own_rows() > before).await;
    alone.kill().await;
    world.no_faults();
    let (looks, lists) = [(); 2].map(|()| world.program_by_config(world.config(&more), Mode::Oneshot)).into();
    let status = looks.stored_status().await.unwrap();
    assert!(parts(&world) >= 2, "the test is void");
    assert_eq!(status.links[0].dead_letters, 1);
    let letters = lists.dead_letters(&[]).await.unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    let (last, _) = worker_with(&world, &unshared);
    last.until("the link is whole", || parts(&world) == 0).await;
    last.until("its letter is told", || last.status().dead_letters == 1).await;
    last.stop().await.unwrap();
}
