//! State in a DynamoDB table: what a link remembers there, and what becomes of it when the table is in trouble.

use std::sync::Arc;
use std::time::Duration;

use dynaferry::error::Exit;
use dynaferry::runtime::{Program, VerifyOptions};
use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::{Mode, Phase};
use tokio_util::sync::CancellationToken;

use crate::world::{HOUR, Process, REGION, SOURCE, TARGET, World, failed};

const STATE: &str = "dynaferry-state";
const ON_TABLE: &str = "apply.on_rejected = \"dead_letter\"\n[checkpoint]\nstore = \"dynamodb:dynaferry-state\"";

fn world(seed: u64) -> World {
    World::paused(Options { seed, ..Options::default() })
}

fn serve(world: &World) -> Process {
    Process::start(program(world, Mode::Service))
}

fn program(world: &World, mode: Mode) -> Arc<Program> {
    world.program_by_config(world.config(ON_TABLE), mode)
}

fn drop_state(world: &World) {
    world.call(TARGET, "UpdateTable", &format!(r#"{{"TableName":"{STATE}","DeletionProtectionEnabled":false}}"#));
    world.call(TARGET, "DeleteTable", &format!(r#"{{"TableName":"{STATE}"}}"#));
}

#[tokio::test(start_paused = true)]
async fn a_link_goes_on_from_what_the_table_remembers() {
    let world = world(301);
    (0..50).for_each(|n| world.put(n, 0, "before"));
    let service = serve(&world);
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    (0..50).for_each(|n| world.put(n, 0, "while nobody looked"));
    let scans = world.sandbox.stats().reads;
    let service = serve(&world);
    service.until_equal(&world).await;
    assert!(world.sandbox.stats().reads - scans < 100, "it did not load again");
    service.kill().await;
    (0..50).for_each(|n| world.put(n, 1, "after a kill"));
    let service = serve(&world);
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world.assert_equal();
    assert!(!world.dir.path().join("state.redb").exists());
}

#[tokio::test(start_paused = true)]
async fn trouble_of_the_state_table_delays_and_loses_nothing() {
    let world = world(302);
    (0..200).for_each(|n| world.put(n, 0, "before"));
    let chance = |kind| FaultRule::new("*", Trigger::Chance(0.15), kind).for_table(STATE);
    world.faults(vec![
        chance(FaultKind::Throttle("ThrottlingException".into())),
        chance(FaultKind::LoseAnswer),
        chance(FaultKind::InternalError),
        chance(FaultKind::DeliverLate(Duration::from_secs(30))),
    ]);
    let service = serve(&world);
    for round in 0..20 {
        (0..200).for_each(|n| world.put(n, 0, &format!("round {round}")));
        tokio::time::sleep(Duration::from_secs(7)).await;
    }
    service.until_equal(&world).await;
    world.no_faults();
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_state_table_that_vanishes_ends_the_process_and_is_not_made_anew() {
    let world = world(303);
    world.put(1, 0, "x");
    let service = serve(&world);
    service.until_equal(&world).await;
    drop_state(&world);
    world.put(2, 0, "x");
    let (exit, text) = failed(service.end().await);
    assert_eq!(exit, Exit::Precondition, "{text}");
    assert!(text.contains("dynamodb:dynaferry-state is gone"), "{text}");
    assert!(world.sandbox.snapshot(TARGET, REGION, STATE).is_err());
    // Only who looks finds nothing, and makes nothing either.
    assert_eq!(failed(program(&world, Mode::Oneshot).stored_status().await).0, Exit::Precondition);
    assert!(world.sandbox.snapshot(TARGET, REGION, STATE).is_err());
    // A new start makes a new table, and does not take the full target for an empty one.
    let (exit, text) = failed(serve(&world).end().await);
    assert!(exit == Exit::Precondition && text.contains("is not empty"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_a_verification_finds_beside_the_service_is_told_by_its_metrics() {
    let world = world(306);
    (0..20).for_each(|n| world.put(n, 0, "x"));
    let service = serve(&world);
    service.until_equal(&world).await;
    // Until no key of the load is in doubt any more: what is taken away would be put back.
    tokio::time::sleep(HOUR).await;
    let verify = async || {
        let command = program(&world, Mode::Oneshot);
        let found = Box::pin(command.verify(VerifyOptions::default(), CancellationToken::new())).await.unwrap();
        tokio::time::sleep(Duration::from_secs(61)).await;
        found[0].1.differences.confirmed.total()
    };
    let missing = ["link=\"orders\"", "kind=\"missing\"", "state=\"confirmed\""];
    let found = || service.metric("dynaferry_verify_differences", &missing).to_string();
    let last_success = || service.metric("dynaferry_verify_last_success_timestamp_seconds", &[]);
    world.delete_at(TARGET, "orders-copy", 3, 0);
    assert_eq!(verify().await, 1);
    assert_eq!(found(), "1");
    assert!(last_success() < 1.0, "there was none: no series");
    assert!(service.metric("dynaferry_verify_items_compared_total", &[]) >= 19.0);
    world.put(3, 0, "written again");
    service.until_equal(&world).await;
    assert_eq!(verify().await, 0);
    assert_eq!(found(), "0");
    assert!(last_success() > 0.0);
    service.stop().await.unwrap();
    let service = serve(&world);
    service.until_equal(&world).await;
    service
        .until("what was found before is told", || {
            service.metric("dynaferry_verify_last_success_timestamp_seconds", &[]) > 0.0
        })
        .await;
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn status_and_dead_letters_are_told_by_the_table_when_no_process_runs() {
    let world = world(304);
    (0..20).for_each(|n| world.put(n, 0, "x"));
    world.sandbox.set_poison_attribute(TARGET, REGION, "orders-copy", Some("poison"));
    let service = serve(&world);
    service.until_equal(&world).await;
    world.sandbox.set_poison_attribute(TARGET, REGION, "orders-copy", Some("poison"));
    world.put_json(&serde_json::json!({"pk": {"S": "p7"}, "sk": {"N": "0"}, "poison": {"S": "x"}}));
    service.until("one is set aside", || service.status().dead_letters == 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    service.kill().await;
    let status = program(&world, Mode::Oneshot).stored_status().await.unwrap();
    let orders = &status.links[0];
    assert_eq!((orders.link.as_str(), orders.phase, orders.dead_letters), ("orders", Phase::CatchingUp, 1));
    assert!(orders.lag_seconds.is_some());
    let letters = program(&world, Mode::Oneshot).dead_letters(&[]).await.unwrap();
    assert!(letters[0].letter.key_json.contains("p7"));
    world.sandbox.set_poison_attribute(TARGET, REGION, "orders-copy", None);
    assert_eq!(Box::pin(program(&world, Mode::Oneshot).retry_dead_letters(&[])).await.unwrap().retried, 1);
    world.assert_equal();
    assert!(program(&world, Mode::Oneshot).dead_letters(&[]).await.unwrap().is_empty());
    assert_eq!(world.sandbox.snapshot(SOURCE, REGION, "orders").unwrap().len(), 20);
}
