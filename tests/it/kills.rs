//! The real binary, killed with SIGKILL at random moments of load and stream, over TCP and over its state file.

use std::process::Stdio;
use std::time::Duration;

use dynaferry::sandbox::Options;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::world::{OURS, World};

/// How often the process is killed.
const KILLS: u64 = 30;

fn start(world: &World, endpoint: &str, command: &str) -> Child {
    let config = world.dir.path().join("dynaferry.toml");
    let state = world.dir.path().join("state.redb");
    let side = |account: &str, role: &str| {
        format!(
            "region = \"eu-west-1\"\nendpoint_url = \"{endpoint}\"\nsts_endpoint_url = \"{endpoint}\"\n\
             role_arn = \"arn:aws:iam::{account}:role/dynaferry-{role}\"\nexternal_id = \"between-us\"\n"
        )
    };
    let text = format!(
        "version = 1\n[checkpoint]\nstore = \"file:{}\"\n[service]\nlisten = \"127.0.0.1:0\"\n\
         [defaults.source]\n{}[defaults.target]\n{}\
         [link.orders]\nsource.table = \"orders\"\ntarget.table = \"orders-copy\"\ntarget.create = true\n\
         apply.in_doubt_for = \"1s\"\nload.segments = 16\nverify.rate = \"100%\"\n",
        state.display(),
        side(crate::world::SOURCE, "source"),
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
        let mut process = start(&world, &endpoint, "run");
        let lives = Duration::from_millis(random.u64(100..1_200));
        let until = tokio::time::Instant::now() + lives;
        while tokio::time::Instant::now() < until {
            let n = random.usize(0..3_000);
            match random.u8(0..4) {
                0 => world.delete(n % 300, n),
                _ => world.put(n % 300, n, &format!("at {kill}")),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        process.kill().await.unwrap();
    }

    let process = start(&world, &endpoint, "migrate");
    let ended = tokio::time::timeout(Duration::from_secs(90), process.wait_with_output()).await;
    let ended = ended.expect("it ends within 90 s").unwrap();
    assert!(ended.status.success(), "{}: {}", ended.status, String::from_utf8_lossy(&ended.stderr));
    world.assert_equal();
    server.abort();
}
