//! The real binary, killed with SIGKILL at random moments of load and stream, over TCP and over its state file.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dynaferry::context::{SystemClock, WallClock};
use dynaferry::model::WallTime;
use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::world::{OURS, SOURCE, World};

/// How often the process is killed.
const KILLS: u64 = 30;

fn start(world: &World, endpoint: &str, command: &str) -> Child {
    let state = format!("store = \"file:{}\"", world.dir.path().join("state.redb").display());
    start_with(world, endpoint, command, &state, "1s")
}

fn start_with(world: &World, endpoint: &str, command: &str, state: &str, in_doubt_for: &str) -> Child {
    start_link(world, endpoint, command, (state, in_doubt_for), "load.segments = 16")
}

fn start_link(world: &World, endpoint: &str, command: &str, (state, in_doubt_for): (&str, &str), load: &str) -> Child {
    let config = world.dir.path().join("dynaferry.toml");
    let side = |account: &str, role: &str| {
        format!(
            "region = \"eu-west-1\"\nendpoint_url = \"{endpoint}\"\ns3_endpoint_url = \"{endpoint}\"\nsts_endpoint_url = \"{endpoint}\"\n\
             role_arn = \"arn:aws:iam::{account}:role/dynaferry-{role}\"\nexternal_id = \"between-us\"\n"
        )
    };
    let text = format!(
        "version = 1\n[checkpoint]\n{state}\n[service]\nlisten = \"127.0.0.1:0\"\n\
         [defaults.source]\n{}[defaults.target]\n{}\
         [link.orders]\nsource.table = \"orders\"\ntarget.table = \"orders-copy\"\ntarget.create = true\n\
         apply.in_doubt_for = \"{in_doubt_for}\"\n{load}\nverify.rate = \"100%\"\n",
        side(SOURCE, "source"),
        side(crate::world::TARGET, "target"),
    );
    std::fs::write(&config, text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_dynaferry"))
        .args([command, "--config"])
        .arg(&config)
        .env_clear()
        .env("AWS_ACCESS_KEY_ID", OURS)
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Changes the source, with so many milliseconds in between, and kills the process after as many as `most` at random.
async fn kill_while_written(
    world: &World,
    mut process: Child,
    random: &mut fastrand::Rng,
    (most, pause): (u64, u64),
    text: &str,
) {
    let until = tokio::time::Instant::now() + Duration::from_millis(random.u64(100..most));
    while tokio::time::Instant::now() < until {
        let n = random.usize(0..3_000);
        match random.u8(0..4) {
            0 => world.delete(n % 300, n),
            _ => world.put(n % 300, n, text),
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    process.kill().await.unwrap();
}

async fn ends_well(process: Child) {
    let ended = tokio::time::timeout(Duration::from_secs(180), process.wait_with_output()).await;
    let ended = ended.expect("it ends within 180 s").unwrap();
    assert!(ended.status.success(), "{}: {}", ended.status, String::from_utf8_lossy(&ended.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_thirty_times_at_random_it_ends_equal() {
    let world = World::new(Options { shard_life: Duration::from_secs(3), ..Options::default() });
    for n in 0..3_000 {
        world.put(n % 300, n, "before");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(world.sandbox.clone().serve(listener, std::future::pending()));

    let mut random = fastrand::Rng::with_seed(0x6b69_6c6c);
    for kill in 0..KILLS {
        let process = start(&world, &endpoint, "run");
        kill_while_written(&world, process, &mut random, (1_200, 2), &format!("at {kill}")).await;
    }

    ends_well(start(&world, &endpoint, "migrate")).await;
    world.assert_equal();
    server.abort();
}

/// A clock that may be set.
struct Set(AtomicI64);

impl WallClock for Set {
    fn now(&self) -> WallTime {
        SystemClock.now().minus(Duration::from_millis(self.0.load(Ordering::SeqCst).unsigned_abs()))
    }
}

/// A table and its stream that are an hour older than what follows, and a bucket; exports take so long.
fn world_an_hour_ago(export_takes: Duration) -> World {
    let clock = Arc::new(Set(AtomicI64::new(3_600_000)));
    let (shard_life, set) = (Duration::from_secs(30), Arc::clone(&clock) as _);
    let world = World::new(Options { shard_life, clock: set, export_takes, ..Options::default() });
    world.sandbox.create_bucket(SOURCE, "eu-west-1", "exports");
    let text = "x".repeat(3_000);
    (0..3_000).for_each(|n| world.put(n % 300, n, &text));
    clock.0.store(0, Ordering::SeqCst);
    world
}

/// Killed twenty times while it loads so under these faults, it ends equal.
async fn killed_twenty_times(world: &World, load: &str, faults: Vec<FaultRule>, seed: u64) {
    let load = format!("{load}\napply.max_in_flight = 2\nload.concurrency = 2");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(world.sandbox.clone().serve(listener, std::future::pending()));
    let state = format!("store = \"file:{}\"", world.dir.path().join("state.redb").display());
    let start = |command| start_link(world, &endpoint, command, (&state, "1s"), &load);
    world.faults(faults);
    let mut random = fastrand::Rng::with_seed(seed);
    for kill in 0..20 {
        let process = start("run");
        kill_while_written(world, process, &mut random, (900, 5), &format!("at {kill}")).await;
    }
    world.no_faults();
    ends_well(start("migrate")).await;
    world.assert_equal();
    server.abort();
}

fn slow_writes() -> FaultRule {
    FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_millis(60)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_twenty_times_while_an_export_is_loaded_it_ends_equal() {
    let world = world_an_hour_ago(Duration::ZERO);
    let on = r#"{"TableName":"orders","PointInTimeRecoverySpecification":{"PointInTimeRecoveryEnabled":true}}"#;
    world.call(SOURCE, "UpdateContinuousBackups", on);
    let asked = r#"{"TableArn":"arn:aws:dynamodb:eu-west-1:111111111111:table/orders","S3Bucket":"exports"}"#;
    let export = world.ask(SOURCE, "ExportTableToPointInTime", asked);
    let manifest = export["ExportDescription"]["ExportManifest"].as_str().unwrap();
    let load = format!("load.from_export = \"s3://exports/{manifest}\"");
    killed_twenty_times(&world, &load, vec![slow_writes()], 0x6578_706f).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_twenty_times_while_its_own_export_is_made_and_loaded_it_ends_equal_and_pays_once() {
    let world = world_an_hour_ago(Duration::from_secs(4));
    let load = "load.method = \"export\"\nload.bucket = \"exports\"\nload.enable_pitr = true";
    let half = |kind| FaultRule::new("ExportTableToPointInTime", Trigger::Chance(0.5), kind);
    let faults = vec![slow_writes(), half(FaultKind::LoseAnswer), half(FaultKind::Hold(Duration::from_millis(300)))];
    killed_twenty_times(&world, load, faults, 0x6f77_6e65).await;
    let asked = r#"{"TableArn":"arn:aws:dynamodb:eu-west-1:111111111111:table/orders"}"#;
    let exports = world.ask(SOURCE, "ListExports", asked);
    assert_eq!(exports["ExportSummaries"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_twenty_times_while_its_target_is_imported_it_ends_equal_and_pays_once() {
    let world = world_an_hour_ago(Duration::from_secs(2));
    world.sandbox.let_into_bucket("exports", crate::world::TARGET, true);
    world.sandbox.change_options(|options| options.import_takes = Duration::from_secs(4));
    let load = "load.method = \"import\"\nload.bucket = \"exports\"\nload.enable_pitr = true";
    let half = |call, kind| FaultRule::new(call, Trigger::Chance(0.5), kind);
    let hold = || FaultKind::Hold(Duration::from_millis(300));
    let faults = vec![
        slow_writes(),
        half("ImportTable", FaultKind::LoseAnswer),
        half("ImportTable", hold()),
        half("ExportTableToPointInTime", FaultKind::LoseAnswer),
        half("DescribeTable", hold()),
    ];
    killed_twenty_times(&world, load, faults, 0x696d_706f).await;
    let imports = world.ask(crate::world::TARGET, "ListImports", "{}");
    assert_eq!(imports["ImportSummaryList"].as_array().map(Vec::len), Some(1));
}

fn signal(process: &Child, name: &str) {
    let pid = process.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

/// Two real processes over one table of state, with signs of life from threads of their own: killed, frozen for longer than
/// a lease with whatever they have on the wire, and replaced as in a rolling update.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_killed_frozen_and_replaced_at_random_over_a_table_end_equal() {
    const STATE: &str = "store = \"dynamodb:dynaferry-state\"\nlease = \"5s\"";
    let world = World::new(Options { shard_life: Duration::from_secs(10), ..Options::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(world.sandbox.clone().serve(listener, std::future::pending()));
    let worker = || start_with(&world, &endpoint, "run", STATE, "15s");
    let mut random = fastrand::Rng::with_seed(0x6c65_6173);
    let write_for = async |random: &mut fastrand::Rng, secs: u64| {
        let until = tokio::time::Instant::now() + Duration::from_secs(secs);
        while tokio::time::Instant::now() < until {
            let n = random.usize(0..300);
            match random.u8(0..4) {
                0 => world.delete(n, 0),
                _ => world.put(n, 0, &format!("{:016x}", random.u64(..))),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let mut workers = vec![worker(), worker()];
    for round in 0..8 {
        let (chosen, lively) = (random.usize(0..2), random.u64(2..5));
        write_for(&mut random, lively).await;
        match round % 3 {
            0 => {
                workers[chosen].kill().await.unwrap();
                workers[chosen] = worker();
            }
            1 => {
                signal(&workers[chosen], "-STOP");
                write_for(&mut random, 8).await;
                signal(&workers[chosen], "-CONT");
            }
            _ => {
                signal(&workers[chosen], "-TERM");
                let ended = tokio::time::timeout(Duration::from_secs(30), workers[chosen].wait()).await;
                assert!(ended.expect("it drains").unwrap().success());
                workers[chosen] = worker();
            }
        }
        for worker in &mut workers {
            assert!(worker.try_wait().unwrap().is_none(), "a worker ended by itself in round {round}");
        }
    }
    write_for(&mut random, 3).await;
    for worker in &mut workers {
        signal(worker, "-TERM");
        let ended = tokio::time::timeout(Duration::from_secs(30), worker.wait()).await;
        assert!(ended.expect("it drains").unwrap().success());
    }
    let process = start_with(&world, &endpoint, "migrate", STATE, "15s");
    ends_well(process).await;
    world.assert_equal();
    server.abort();
}
