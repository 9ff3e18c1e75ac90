//! What is left half-way by a pin, a replay or a repair, and who may write while one goes on.

use std::sync::Arc;
use std::time::Duration;

use dynaferry::checkpoint::rows::{SegmentRow, ShardRow, ShardStatus};
use dynaferry::checkpoint::{StateStore as _, StateWrite};
use dynaferry::error::{Error, Exit};
use dynaferry::model::{ShardId, WallTime};
use dynaferry::runtime::{Program, VerifyOptions};
use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::{Mode, Phase};

use tokio_util::sync::CancellationToken;

use crate::border::Border;
use crate::world::{ORDERS, Process, REGION, SOURCE, TARGET, World, failed};

const STATE: &str = "dynaferry-state";
/// What is in doubt is in doubt for longer than any write is late here.
const ON_TABLE: &str = "apply.in_doubt_for = \"5m\"\napply.on_rejected = \"dead_letter\"\n\
                        [checkpoint]\nstore = \"dynamodb:dynaferry-state\"";

/// A process that keeps its state in a table, behind a border of its own.
fn process(world: &World, mode: Mode) -> (Arc<Program>, Arc<Border>) {
    let border = Border::new();
    (world.program_through(world.config(ON_TABLE), mode, border.http_client(&world.sandbox)), border)
}

fn poison_target(world: &World, attribute: Option<&str>) {
    world.sandbox.set_poison_attribute(TARGET, REGION, "orders-copy", attribute);
}

/// Two tables that differ by `p7`, which was set aside, and no process.
async fn with_a_dead_letter(seed: u64) -> World {
    let world = World::paused(Options { seed, ..Options::default() });
    sets_one_aside(&world, process(&world, Mode::Service).0).await;
    world
}

/// The same, by this service.
async fn sets_one_aside(world: &World, program: Arc<Program>) {
    (0..20).for_each(|n| world.put(n, 0, "x"));
    let service = Process::start(program);
    service.until_equal(world).await;
    poison_target(world, Some("poison"));
    world.put_json(&serde_json::json!({"pk": {"S": "p7"}, "sk": {"N": "0"}, "poison": {"S": "x"}}));
    service.until("one is set aside", || service.status().dead_letters == 1).await;
    service.stop().await.unwrap();
    poison_target(world, None);
    assert_eq!(world.num_differences(), 1);
}

/// The target's writes fail by these faults.
fn failing_writes(world: &World, kinds: impl IntoIterator<Item = (Trigger, FaultKind)>) {
    let rule = |(trigger, kind)| FaultRule::new("BatchWriteItem", trigger, kind).for_account(TARGET);
    world.faults(kinds.into_iter().map(rule).collect());
}

/// Goes on for so long with what waits for the target, and has not ended then.
async fn still_runs(command: &mut (impl Future + Unpin), time: Duration) {
    assert!(tokio::time::timeout(time, command).await.is_err(), "it does not wait");
}

/// Cuts the command off from its lease, which ends it.
async fn ends_with_its_lease<T: std::fmt::Debug>(border: &Border, command: impl Future<Output = Result<T, Error>>) {
    border.close_to(Some(STATE));
    let ended = tokio::time::timeout(Duration::from_secs(60), command).await;
    let (exit, text) = failed(ended.expect("it does not go on without its lease"));
    assert!(exit == Exit::Held && text.contains("the lease is over"), "{text}");
}

/// A write that was given up lands over a newer one, and the service repairs it.
async fn puts_a_late_write_right(world: &World, service: Process) {
    service.until("both tables are equal", || world.num_differences() == 0).await;
    service.until("the late write lands", || world.num_differences() == 1).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    ends_equal(world, service).await;
}

/// All is well in the end.
async fn ends_equal(world: &World, service: Process) {
    service.until_equal(world).await;
    service.stop().await.unwrap();
    world.assert_equal();
}

fn throttled() -> (Trigger, FaultKind) {
    (Trigger::Chance(1.0), FaultKind::Throttle("ThrottlingException".into()))
}

#[tokio::test(start_paused = true)]
async fn a_replay_whose_lease_is_over_ends_and_leaves_the_link_to_others() {
    let world = with_a_dead_letter(502).await;
    failing_writes(&world, [throttled()]);
    let (program, border) = process(&world, Mode::Oneshot);
    let mut replay = Box::pin(program.retry_dead_letters(&[]));
    still_runs(&mut replay, Duration::from_secs(60)).await;
    ends_with_its_lease(&border, replay).await;
    border.close_to(None);
    world.no_faults();
    let service = Process::start(process(&world, Mode::Service).0);
    world.put(7, 0, "without poison");
    ends_equal(&world, service).await;
}

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

#[tokio::test(start_paused = true)]
async fn a_replay_that_waited_long_leaves_in_doubt_what_may_land_after_it() {
    let world = with_a_dead_letter(503).await;
    failing_writes(&world, [throttled()]);
    let program = process(&world, Mode::Oneshot).0;
    let mut replay = Box::pin(program.retry_dead_letters(&[]));
    still_runs(&mut replay, Duration::from_secs(20 * 60)).await;
    failing_writes(&world, [(Trigger::Next(1), FaultKind::TimeOutAndDeliverLate(Duration::from_secs(240)))]);
    assert_eq!(replay.await.unwrap().retried, 1);
    world.no_faults();
    world.put(7, 0, "newer than what the replay has sent");
    puts_a_late_write_right(&world, Process::start(process(&world, Mode::Service).0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_dies_leaves_in_doubt_what_it_has_on_the_wire() {
    let world = with_a_dead_letter(504).await;
    failing_writes(&world, [throttled()]);
    let program = process(&world, Mode::Oneshot).0;
    let mut replay = Box::pin(program.retry_dead_letters(&[]));
    still_runs(&mut replay, Duration::from_secs(20 * 60)).await;
    failing_writes(&world, [(Trigger::Chance(1.0), FaultKind::TimeOutAndDeliverLate(Duration::from_secs(240)))]);
    still_runs(&mut replay, Duration::from_secs(30)).await;
    drop(replay);
    drop(program);
    world.no_faults();
    world.put(7, 0, "newer than what the replay has sent");
    puts_a_late_write_right(&world, Process::start(process(&world, Mode::Service).0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_dies_on_a_host_whose_clock_is_ahead_says_so_to_whoever_takes_over() {
    let config = "apply.in_doubt_for = \"16m\"\napply.on_rejected = \"dead_letter\"";
    let world = World::paused(Options { seed: 508, ..Options::default() });
    sets_one_aside(&world, world.program(world.config(config), Mode::Service)).await;
    failing_writes(&world, [throttled()]);
    let program = world.program_in(world.config(config), Mode::Oneshot, world.context_off_by(12 * 60 * 1000));
    let mut replay = Box::pin(program.retry_dead_letters(&[]));
    // Until the key is in doubt no more by what its row says.
    still_runs(&mut replay, Duration::from_secs(30 * 60)).await;
    failing_writes(&world, [(Trigger::Chance(1.0), FaultKind::TimeOutAndDeliverLate(Duration::from_secs(25 * 60)))]);
    still_runs(&mut replay, Duration::from_secs(20)).await;
    drop(replay);
    drop(program);
    world.no_faults();
    world.put(7, 0, "newer than what the replay has sent");
    let service = Process::start(world.program(world.config(config), Mode::Service));
    tokio::time::sleep(Duration::from_secs(40 * 60)).await;
    ends_equal(&world, service).await;
}

#[tokio::test(start_paused = true)]
async fn a_repair_of_a_link_ends_when_none_of_its_writes_can_land_any_more() {
    let world = World::paused(Options { seed: 509, ..Options::default() });
    (0..20).for_each(|n| world.put(n, 0, "x"));
    let service = Process::start(process(&world, Mode::Service).0);
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world.put_at(TARGET, "orders-copy", 8, 0, "different");
    world.put(7, 0, "older");
    // Of the stream, which the repair reads first.
    failing_writes(&world, [(Trigger::Next(1), FaultKind::TimeOutAndDeliverLate(Duration::from_secs(240)))]);
    let program = process(&world, Mode::Oneshot).0;
    let mut repair = Box::pin(program.verify(repairing(), CancellationToken::new()));
    still_runs(&mut repair, Duration::from_secs(60)).await;
    world.put(7, 0, "newer than what is still on its way");
    let reports = repair.await.unwrap();
    assert_eq!(reports[0].1.differences.repaired.total(), 1, "{reports:?}");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.num_differences(), 0, "an older image has landed, and nobody runs");
}

/// A source with items, and an empty target that nobody has copied to.
fn two_tables(seed: u64) -> World {
    let world = World::paused(Options { seed, ..Options::default() });
    (0..20).for_each(|n| world.put(n, 0, "old"));
    world.call(TARGET, "CreateTable", &ORDERS.replace("\"orders\"", "\"orders-copy\""));
    world
}

fn repairing() -> VerifyOptions {
    VerifyOptions { repair: true, ..VerifyOptions::default() }
}

#[tokio::test(start_paused = true)]
async fn a_repair_leaves_a_link_alone_that_a_worker_is_opening_for_the_first_time() {
    let world = two_tables(505);
    let throttled = FaultKind::Throttle("ThrottlingException".into());
    world.faults(vec![FaultRule::new("DescribeStream", Trigger::Chance(1.0), throttled).for_account(SOURCE)]);
    let service = Process::start(process(&world, Mode::Service).0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let program = process(&world, Mode::Oneshot).0;
    let (exit, text) = failed(Box::pin(program.verify(repairing(), CancellationToken::new())).await);
    assert!(exit == Exit::Held && text.contains("which is alive"), "{text}");
    assert_eq!(world.num_differences(), 20, "it has written nothing");
    world.no_faults();
    ends_equal(&world, service).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_waits_while_the_tables_of_its_link_are_repaired() {
    let world = two_tables(506);
    failing_writes(&world, [throttled()]);
    let (program, border) = process(&world, Mode::Oneshot);
    let mut repair = Box::pin(program.verify(repairing(), CancellationToken::new()));
    still_runs(&mut repair, Duration::from_secs(120)).await;
    let (waiting, its_border) = process(&world, Mode::Service);
    let service = Process::start(waiting);
    still_runs(&mut repair, Duration::from_secs(120)).await;
    assert_eq!(service.status().phase, Phase::Standby);
    assert!(its_border.sent("BatchWriteItem").is_empty() && its_border.sent("Scan").is_empty());
    ends_with_its_lease(&border, repair).await;
    world.no_faults();
    ends_equal(&world, service).await;
}

#[tokio::test(start_paused = true)]
async fn a_repair_without_a_link_that_lands_late_is_put_right_by_the_link_that_runs_later() {
    for on_table in [true, false] {
        let world = two_tables(507);
        let more = if on_table { ON_TABLE } else { "apply.in_doubt_for = \"5m\"" };
        let more = format!("target.allow_non_empty = true\n{more}");
        let program = |mode| match on_table {
            true => world.program_by_config(world.config(&more), mode),
            false => world.program(world.config(&more), mode),
        };
        let late = FaultKind::TimeOutAndDeliverLate(Duration::from_secs(240));
        failing_writes(&world, [(Trigger::Next(1), late)]);
        let command = program(Mode::Oneshot);
        let reports = Box::pin(command.verify(repairing(), CancellationToken::new())).await.unwrap();
        assert!(reports[0].1.is_identical() && reports[0].1.differences.repaired.total() == 20, "{reports:?}");
        assert_eq!(world.num_differences(), 0);
        if !on_table {
            assert_eq!(world.state().await.doubts.len(), 1, "what was answered is in no doubt");
        }
        (0..20).for_each(|n| world.put(n, 0, "newer than what the repair has sent"));
        puts_a_late_write_right(&world, Process::start(program(Mode::Service))).await;
    }
}
