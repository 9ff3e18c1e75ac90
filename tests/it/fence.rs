//! `apply.fence = "transaction"`: what was sent lands in its time or never, and nothing is in doubt.

use std::sync::Arc;
use std::time::Duration;

use dynaferry::config::Config;
use dynaferry::error::Exit;
use dynaferry::runtime::VerifyOptions;
use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::{Mode, Phase};
use tokio_util::sync::CancellationToken;

use crate::border::Border;
use crate::lease::{ON_TABLE, STATE, a_random_life, holds, process_of, takeovers, until_equal};
use crate::world::{Process, REGION, SOURCE, TARGET, World, failed};

const FENCED: &str = "apply.in_doubt_for = \"16m\"\napply.fence = \"transaction\"";
/// Longer than the doubts of a link without a fence.
const FOR_EVER: Duration = Duration::from_secs(20 * 60);

fn world(seed: u64) -> World {
    let world = World::paused(Options { seed, ..Options::default() });
    (0..50).for_each(|n| world.put(n, 0, "before"));
    world
}

fn fenced(world: &World) -> (Process, Arc<Border>) {
    process_of(world, FENCED)
}

/// Of the target's writes alone: the state's own transactions do not name it.
fn at_writes(trigger: Trigger, kind: FaultKind) -> FaultRule {
    FaultRule::new("TransactWriteItems", trigger, kind).for_account(TARGET).for_table("orders-copy")
}

/// Stays equal, with nothing in doubt, while what was sent before arrives.
async fn stays_equal(worker: &Process, world: &World) {
    for _ in 0..FOR_EVER.as_secs() {
        assert_eq!((world.num_differences(), worker.status().in_doubt), (0, 0));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_superseded_worker_had_sent_never_lands() {
    let world = world(1001);
    let (frozen, border) = fenced(&world);
    until_equal(&frozen, &world).await;
    assert!(border.sent("BatchWriteItem").is_empty(), "every write goes through a gate");
    let (other, _) = fenced(&world);
    other.until("it stands by", || other.status().phase == Phase::Standby).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.faults(vec![at_writes(Trigger::Next(1), FaultKind::TimeOutAndDeliverLate(Duration::from_secs(120)))]);
    world.put(1, 0, "old, and late");
    let before = world.sandbox.stats().faults;
    frozen.until("it is sent", || world.sandbox.stats().faults > before).await;
    border.set_frozen(true);
    world.put(1, 0, "new");
    other.until("it has the link", || holds(&other)).await;
    until_equal(&other, &world).await;
    assert_eq!(takeovers(&other, "unclean"), 1.0);
    stays_equal(&other, &world).await;
    border.set_frozen(false);
    frozen.until("it finds that it is superseded", || frozen.status().phase == Phase::Standby).await;
    stays_equal(&other, &world).await;
    other.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_lands_before_the_next_one_of_its_key_or_never() {
    let world = world(1002);
    let (worker, _) = fenced(&world);
    until_equal(&worker, &world).await;
    for (n, kind) in [
        FaultKind::TimeOutAndDeliverLate(Duration::from_secs(90)),
        FaultKind::DeliverLate(Duration::from_secs(90)),
        FaultKind::LoseAnswer,
        FaultKind::GarbleAnswer,
        FaultKind::InternalError,
    ]
    .into_iter()
    .enumerate()
    {
        world.faults(vec![at_writes(Trigger::Next(1), kind)]);
        world.put(1, 0, &format!("old {n}"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.put(1, 0, &format!("new {n}"));
        until_equal(&worker, &world).await;
        stays_equal(&worker, &world).await;
    }
    worker.stop().await.unwrap();
    world.assert_equal();
}

/// How many gates were opened, over all lives.
fn gates_opened(border: &Border) -> usize {
    let since = border.sent("PutItem").first().copied().unwrap_or_else(tokio::time::Instant::now);
    let is_gate = |body: &Vec<u8>| body.windows(13).any(|bytes| bytes == b"default/gate/");
    border.bodies("PutItem", since).iter().filter(|body| is_gate(body)).count()
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_meets_another_one_is_sent_again_through_the_same_gate() {
    let world = world(1016);
    let (worker, border) = fenced(&world);
    until_equal(&worker, &world).await;
    let opened = gates_opened(&border);
    assert!(opened > 0, "the test is void");
    let conflict = FaultKind::TransactionConflict;
    let of_state = FaultRule::new("*", Trigger::Chance(0.5), conflict.clone()).for_table(STATE);
    world.faults(vec![at_writes(Trigger::Chance(0.7), conflict), of_state]);
    for round in 0..20 {
        (0..50).for_each(|n| world.put(n, 0, &format!("round {round}")));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(worker.status().in_doubt, 0, "it was not carried out, and that is certain");
    }
    until_equal(&worker, &world).await;
    assert!(world.sandbox.fault_counts()["transaction.conflict"] > 50, "the test is void");
    assert_eq!(gates_opened(&border), opened, "no gate was taken for another owner's");
    assert!(holds(&worker) && takeovers(&worker, "clean") + takeovers(&worker, "unclean") == 0.0);
    world.no_faults();
    worker.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_killed_worker_leaves_nothing_in_doubt() {
    let world = world(1003);
    let (worker, _) = fenced(&world);
    until_equal(&worker, &world).await;
    for round in 0..5 {
        let late = FaultKind::TimeOutAndDeliverLate(Duration::from_secs(60));
        world.faults(vec![at_writes(Trigger::Chance(0.5), late)]);
        (0..50).for_each(|n| world.put(n, 0, &format!("old {round}")));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    worker.kill().await;
    world.no_faults();
    (0..50).for_each(|n| world.put(n, 0, "new"));
    let (next, _) = fenced(&world);
    next.until("both tables are equal", || world.num_differences() == 0).await;
    stays_equal(&next, &world).await;
    next.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn while_the_state_does_not_answer_a_write_without_an_answer_is_waited_for() {
    let world = world(1004);
    let (worker, border) = fenced(&world);
    until_equal(&worker, &world).await;
    world.faults(vec![at_writes(Trigger::Next(1), FaultKind::DeliverLate(Duration::from_secs(100)))]);
    world.put(1, 0, "old");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    border.close_to(Some(STATE));
    world.put(1, 0, "new");
    tokio::time::sleep(Duration::from_secs(60)).await;
    border.close_to(None);
    until_equal(&worker, &world).await;
    stays_equal(&worker, &world).await;
    worker.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn large_items_go_in_transactions_that_the_service_takes_and_a_rejected_one_is_set_aside() {
    let world = World::paused(Options { seed: 1005, ..Options::default() });
    (0..30).for_each(|n| world.put(n, 0, &"x".repeat(390_000)));
    let config = format!("{FENCED}\napply.on_rejected = \"dead_letter\"");
    let (worker, _) = process_of(&world, &config);
    until_equal(&worker, &world).await;
    (0..30).for_each(|n| world.put(n, 0, &"y".repeat(390_000)));
    until_equal(&worker, &world).await;
    (0..30).for_each(|n| world.delete(n, 0));
    until_equal(&worker, &world).await;
    let refused = ["op=\"TransactWriteItems\"", "result=\"error\""];
    assert_eq!(worker.metric("dynaferry_requests_total", &refused), 0.0, "none was too large");
    world.sandbox.set_poison_attribute(TARGET, REGION, "orders-copy", Some("poison"));
    (0..20).for_each(|n| world.put(n, 0, "harmless"));
    let poisoned = serde_json::json!({"pk": {"S": "p7"}, "sk": {"N": "0"}, "v": {"S": "z"}, "poison": {"S": "x"}});
    world.put_json(&poisoned);
    worker.until("it is set aside", || worker.status().dead_letters == 1).await;
    assert_eq!(world.num_differences(), 1, "the others of its transaction are written");
    worker.stop().await.unwrap();
    world.sandbox.set_poison_attribute(TARGET, REGION, "orders-copy", None);
    let retry = world.program_by_config(world.config(&format!("{config}\n{ON_TABLE}")), Mode::Oneshot);
    assert_eq!(retry.retry_dead_letters(&[]).await.unwrap().retried, 1);
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_link_goes_on_with_and_without_a_fence() {
    let world = world(1006);
    for (round, more) in [FENCED, "apply.in_doubt_for = \"16m\"", FENCED, FENCED].into_iter().enumerate() {
        let (worker, _) = process_of(&world, more);
        until_equal(&worker, &world).await;
        let kind = FaultKind::TimeOutAndDeliverLate(Duration::from_secs(200));
        let rule = |operation| FaultRule::new(operation, Trigger::Chance(0.5), kind.clone()).for_table("orders-copy");
        world.faults(vec![rule("BatchWriteItem"), rule("TransactWriteItems")]);
        (0..50).for_each(|n| world.put(n, 0, &format!("old {round}")));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        worker.kill().await;
        world.no_faults();
        (0..50).for_each(|n| world.put(n, 0, &format!("new {round}")));
    }
    let (worker, _) = fenced(&world);
    tokio::time::sleep(FOR_EVER).await;
    worker.until("nothing is in doubt", || world.num_differences() == 0 && worker.status().in_doubt == 0).await;
    worker.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn what_an_owner_without_a_fence_had_sent_stays_in_doubt() {
    let world = world(1009);
    let (worker, _) = process_of(&world, "apply.in_doubt_for = \"16m\"");
    until_equal(&worker, &world).await;
    let late = FaultKind::TimeOutAndDeliverLate(Duration::from_secs(120));
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Next(1), late).for_account(TARGET)]);
    world.put(1, 0, "old, and late");
    let before = world.sandbox.stats().faults;
    worker.until("it is sent", || world.sandbox.stats().faults > before).await;
    worker.kill().await;
    world.put(1, 0, "new");
    let (next, _) = fenced(&world);
    until_equal(&next, &world).await;
    next.until("the late write lands", || world.num_differences() == 1).await;
    assert!(next.status().in_doubt > 0);
    tokio::time::sleep(FOR_EVER).await;
    stays_equal(&next, &world).await;
    next.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_while_it_puts_a_fence_before_a_link_forgets_no_doubt_of_the_owner_before() {
    let world = World::paused(Options { seed: 1010, ..Options::default() });
    (0..900).for_each(|n| world.put(n, 0, "old, and late"));
    let (worker, _) = process_of(&world, "apply.in_doubt_for = \"16m\"\nload.segments = 8");
    let late = FaultKind::TimeOutAndDeliverLate(Duration::from_secs(150));
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), late).for_account(TARGET)]);
    let before = world.sandbox.stats().faults;
    worker.until("much is sent", || world.sandbox.stats().faults > before + 10).await;
    worker.kill().await;
    let slow = FaultKind::Hold(Duration::from_millis(500));
    world.faults(vec![FaultRule::new("TransactWriteItems", Trigger::Chance(1.0), slow).for_table(STATE)]);
    (0..900).for_each(|n| world.put(n, 0, "new"));
    let (next, border) = fenced(&world);
    // One asks whether transactions may be made, the second writes the first rows.
    next.until("some of its rows are written", || border.sent("TransactWriteItems").len() > 2).await;
    next.kill().await;
    world.no_faults();
    let (last, _) = fenced(&world);
    until_equal(&last, &world).await;
    tokio::time::sleep(FOR_EVER).await;
    stays_equal(&last, &world).await;
    last.stop().await.unwrap();
}

/// Of all of it the service takes none, however often it is asked.
#[tokio::test(start_paused = true)]
async fn a_transaction_that_is_too_much_for_its_partition_goes_in_parts() {
    let options = Options { seed: 1011, partition_write_capacity: Some(60), ..Options::default() };
    let world = World::paused(options);
    let (worker, _) = process_of(&world, &format!("{FENCED}\nload.segments = 2"));
    until_equal(&worker, &world).await;
    // Four units each.
    (0..50).for_each(|sk| world.put(1, sk, &"x".repeat(1_900)));
    until_equal(&worker, &world).await;
    stays_equal(&worker, &world).await;
    worker.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_link_is_opened_though_its_state_takes_no_rows_for_a_while() {
    let world = world(1012);
    let throttled = FaultKind::Throttle("ThrottlingException".into());
    let rule = |trigger, kind| FaultRule::new("TransactWriteItems", trigger, kind).for_table(STATE);
    // The first one asks whether such transactions may be made at all.
    world.faults(vec![
        rule(Trigger::Next(1), FaultKind::Hold(Duration::from_millis(1))),
        rule(Trigger::Chance(1.0), throttled),
    ]);
    let (worker, border) = fenced(&world);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(border.sent("TransactWriteItems").len() > 2, "the test is void");
    assert!(!worker.has_ended(), "it waits");
    world.no_faults();
    until_equal(&worker, &world).await;
    worker.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_went_through_the_gates_of_another_table_stays_in_doubt() {
    const MOVED: &str = "dynaferry-state-2";
    let world = world(1013);
    let (worker, _) = fenced(&world);
    until_equal(&worker, &world).await;
    world.faults(vec![at_writes(Trigger::Next(1), FaultKind::TimeOutAndDeliverLate(Duration::from_secs(120)))]);
    world.put(1, 0, "old, and late");
    let before = world.sandbox.stats().faults;
    worker.until("it is sent", || world.sandbox.stats().faults > before).await;
    worker.kill().await;
    world.no_faults();
    // As a backup is restored under another name.
    let table = world.ask(TARGET, "DescribeTable", &format!(r#"{{"TableName":"{STATE}"}}"#))["Table"].clone();
    let made = serde_json::json!({"TableName": MOVED, "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": table["KeySchema"], "AttributeDefinitions": table["AttributeDefinitions"]});
    world.call(TARGET, "CreateTable", &made.to_string());
    let rows = world.ask(TARGET, "Scan", &format!(r#"{{"TableName":"{STATE}"}}"#))["Items"].clone();
    for row in rows.as_array().unwrap() {
        world.sandbox.put_item(TARGET, REGION, MOVED, &row.to_string()).unwrap();
    }
    world.put(1, 0, "new");
    let config = world.config(&format!("{FENCED}\n{}", ON_TABLE.replace(STATE, MOVED)));
    let next = Process::start(world.program_by_config(config, Mode::Service));
    until_equal(&next, &world).await;
    next.until("the late write lands", || world.num_differences() == 1).await;
    assert!(next.status().in_doubt > 0, "the key is known to be in doubt");
    tokio::time::sleep(FOR_EVER).await;
    stays_equal(&next, &world).await;
    next.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_replay_of_dead_letters_shuts_out_what_a_killed_worker_had_sent() {
    let world = world(1014);
    let config = format!("{FENCED}\napply.on_rejected = \"dead_letter\"");
    let (worker, _) = process_of(&world, &config);
    until_equal(&worker, &world).await;
    world.sandbox.set_poison_attribute(TARGET, REGION, "orders-copy", Some("poison"));
    let poisoned = serde_json::json!({"pk": {"S": "p7"}, "sk": {"N": "0"}, "v": {"S": "z"}, "poison": {"S": "x"}});
    world.put_json(&poisoned);
    worker.until("it is set aside", || worker.status().dead_letters == 1).await;
    world.faults(vec![at_writes(Trigger::Next(1), FaultKind::TimeOutAndDeliverLate(Duration::from_secs(120)))]);
    world.put(7, 0, "old, and late");
    let before = world.sandbox.stats().faults;
    worker.until("it is sent", || world.sandbox.stats().faults > before).await;
    worker.kill().await;
    world.no_faults();
    world.put(7, 0, "new");
    let retry = world.program_by_config(world.config(&format!("{config}\n{ON_TABLE}")), Mode::Oneshot);
    assert_eq!(retry.retry_dead_letters(&[]).await.unwrap().retried, 1);
    assert_eq!(world.num_differences(), 0);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(world.num_differences(), 0, "the late write has landed, and nobody runs");
}

#[tokio::test(start_paused = true)]
async fn of_what_a_fence_costs_the_target_is_told_its_own() {
    let world = world(1015);
    let (worker, _) = fenced(&world);
    until_equal(&worker, &world).await;
    let consumed = || worker.metric("dynaferry_consumed_capacity_units_total", &["side=\"target\"", "kind=\"write\""]);
    let before = consumed();
    (0..50).for_each(|n| world.put(n, 0, "later"));
    until_equal(&worker, &world).await;
    worker.until("it is told", || consumed() > before).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(consumed() - before, 100.0, "two units for each of fifty items, and nothing for the gates");
    worker.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_migration_and_a_repair_go_through_gates() {
    let world = world(1007);
    let config = || -> Config { world.config(&format!("{FENCED}\n{ON_TABLE}")) };
    let program = world.program_by_config(config(), Mode::Oneshot);
    program.migrate(CancellationToken::new()).await.unwrap();
    world.assert_equal();
    world.put_at(TARGET, "orders-copy", 3, 0, "different");
    let repair = VerifyOptions { repair: true, ..VerifyOptions::default() };
    let program = world.program_by_config(config(), Mode::Oneshot);
    let reports = program.verify(repair, CancellationToken::new()).await.unwrap();
    assert_eq!(reports[0].1.differences.repaired.total(), 1);
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn a_fence_is_refused_where_the_target_and_the_state_cannot_be_in_one_transaction() {
    let world = world(1008);
    let arn = format!("arn:aws:dynamodb:{REGION}:{SOURCE}:table/elsewhere");
    world.call(SOURCE, "CreateTable", &crate::world::ORDERS.replace("\"orders\"", "\"elsewhere\""));
    world.sandbox.allow_cross_account(SOURCE, REGION, "elsewhere", TARGET);
    let config = world.config(&format!("target.create = false\ntarget.table = \"{arn}\"\n{FENCED}\n{ON_TABLE}"));
    let program = world.program_by_config(config, Mode::Oneshot);
    let (exit, text) = failed(program.migrate(CancellationToken::new()).await);
    assert!(exit == Exit::Precondition && text.contains("in transactions with the state"), "{text}");
}

/// More: `FENCE_SEEDS=1000..1100 cargo test --test it fenced_lives`.
#[test]
fn fenced_lives_at_random_end_with_equal_tables_and_never_a_key_in_doubt() {
    let asked = std::env::var("FENCE_SEEDS").unwrap_or("1..5".into());
    let (first, last) = asked.split_once("..").unwrap();
    for seed in first.parse().unwrap()..last.parse().unwrap() {
        println!("seed {seed}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(a_random_life(seed, true));
    }
}
