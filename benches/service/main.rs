//! What an operator feels: time from start to ready (a first start makes the target; a restart follows a kill), time from
//! a source write to its acknowledged write at the target while the link is idle, and memory at 1,000 changes a second.
//!
//! The sandbox runs in this process and serves over TCP; the program is the real binary, `dynaferry run`.
//!
//! ```text
//! cargo bench --bench service -- [--quick]
//! ```

#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

#[expect(dead_code, reason = "the other bench uses the rest")]
#[path = "../pipeline/process.rs"]
mod process;

use std::collections::HashMap;
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dynaferry::sandbox::{Exchange, Options, Sandbox};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ACCOUNT: &str = "111111111111";
const REGION: &str = "eu-west-1";
/// The text before the number that an item of this bench carries.
const MARK: &[u8] = b"mark-";

/// How much is measured.
struct Extent {
    starts: usize,
    writes: usize,
    rate_seconds: u64,
    rate: u32,
}

/// A program that is ended with its owner.
struct Program {
    child: Child,
    started: Instant,
    listen: SocketAddr,
}

impl Program {
    fn start(config: &Path, listen: SocketAddr) -> Result<Self> {
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_dynaferry"))
            .args(["run", "--config"])
            .arg(config)
            .env("AWS_ACCESS_KEY_ID", ACCOUNT)
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, started, listen })
    }

    /// Waits until it says that it is ready; answers how long that took since its start.
    fn wait_until_ready(&mut self) -> Result<Duration> {
        while self.started.elapsed() < Duration::from_secs(30) {
            if self.is_ready().unwrap_or(false) {
                return Ok(self.started.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("it ended: {status}").into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err("it is not ready after 30 s".into())
    }

    fn is_ready(&self) -> Result<bool> {
        let mut socket = TcpStream::connect(self.listen)?;
        socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    }

    /// A line of its `/proc/PID/status`, in KiB.
    fn memory_kib(&self, name: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
        Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
    }

    /// CPU seconds so far. Source: proc(5); a tick is a hundredth of a second.
    fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        let ticks: std::result::Result<Vec<f64>, _> =
            fields.split_whitespace().skip(11).take(2).map(str::parse).collect();
        Ok(ticks?.iter().sum::<f64>() / 100.0)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// When the target's table took each marked item.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<HashMap<u64, Instant>>>);

impl Arrivals {
    fn watch(&self, sandbox: &Sandbox) {
        let arrivals = Arc::clone(&self.0);
        sandbox.set_observer(Some(Arc::new(move |exchange: &Exchange<'_>| {
            if exchange.operation != "BatchWriteItem" {
                return;
            }
            let mut arrivals = arrivals.lock().expect("no panic");
            for at in memchr::memmem::find_iter(exchange.request, MARK) {
                let digits = exchange.request.get(at + MARK.len()..).unwrap_or_default().iter();
                let number = digits.take_while(|byte| byte.is_ascii_digit());
                let number = number.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
                arrivals.entry(number).or_insert_with(Instant::now);
            }
        })));
    }

    fn of(&self, number: u64) -> Option<Instant> {
        self.0.lock().expect("no panic").get(&number).copied()
    }

    fn len(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }
}

fn create(sandbox: &Sandbox, table: &str, more: &str) -> Result<()> {
    let request = format!(
        r#"{{"TableName":"{table}","BillingMode":"PAY_PER_REQUEST","AttributeDefinitions":[{{"AttributeName":"pk","AttributeType":"S"}}],"KeySchema":[{{"AttributeName":"pk","KeyType":"HASH"}}]{more}}}"#
    );
    sandbox.call(ACCOUNT, REGION, "CreateTable", &request).map_err(|error| format!("{error:?}"))?;
    Ok(())
}

fn put(sandbox: &Sandbox, number: u64) -> Result<Instant> {
    let text = "x".repeat(560);
    let item =
        format!(r#"{{"pk":{{"S":"key-{}"}},"mark":{{"S":"mark-{number}"}},"text":{{"S":"{text}"}}}}"#, number % 5000);
    let begun = Instant::now();
    sandbox.put_item(ACCOUNT, REGION, "orders", &item).map_err(|error| format!("{error:?}"))?;
    Ok(begun)
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of a short list")]
    let at = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn spread(mut times: Vec<f64>) -> serde_json::Value {
    times.sort_by(f64::total_cmp);
    json!({"p50": percentile(&times, 0.5), "most": percentile(&times, 1.0)})
}

fn main() -> Result<()> {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let extent = if is_quick {
        Extent { starts: 1, writes: 3, rate_seconds: 1, rate: 1000 }
    } else {
        Extent { starts: 11, writes: 100, rate_seconds: 30, rate: 1000 }
    };
    let sandbox = Sandbox::new(Options { initial_shards: 1..=1, ..Options::default() });
    create(
        &sandbox,
        "orders",
        r#","StreamSpecification":{"StreamEnabled":true,"StreamViewType":"NEW_AND_OLD_IMAGES"}"#,
    )?;
    create(&sandbox, "orders-copy", "")?;
    let arrivals = Arrivals::default();
    arrivals.watch(&sandbox);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    runtime.spawn(sandbox.clone().serve(listener, std::future::pending()));

    let directory = tempfile::tempdir()?;
    let (mut first, mut restart) = (Vec::new(), Vec::new());
    for start in 0..extent.starts {
        let target = format!("target.table = \"copy-{start}\"\ntarget.create = true\n");
        let (config, listen) = configure(directory.path(), start, address, &target)?;
        // Killed when it is dropped, so the second one takes over from a former self that did not drain.
        for times in [&mut first, &mut restart] {
            times.push(Program::start(&config, listen)?.wait_until_ready()?.as_secs_f64() * 1e3);
        }
    }

    let target = "target.table = \"orders-copy\"\nload.method = \"none\"\n";
    let (config, listen) = configure(directory.path(), extent.starts, address, target)?;
    let mut program = Program::start(&config, listen)?;
    program.wait_until_ready()?;
    let idle = idle_latency(&sandbox, &arrivals, extent.writes)?;
    let idle_rss = program.memory_kib("VmRSS")?;
    let cpu = program.cpu_seconds()?;
    let (busy, written) = at_a_rate(&sandbox, &arrivals, &extent)?;
    let cpu = program.cpu_seconds()? - cpu;
    println!(
        "{}",
        json!({"bench": "service", "quick": is_quick,
            "load_average": process::load_average(),
            "ready_ms": {"first": spread(first), "restart": spread(restart)},
            "idle_latency_ms": {"p50": percentile(&idle, 0.5), "p99": percentile(&idle, 0.99), "writes": idle.len()},
            "at_rate": {"changes_per_s": extent.rate, "written": written, "latency_ms": {"p50": percentile(&busy, 0.5), "p99": percentile(&busy, 0.99)},
                "cpu_us_per_change": cpu * 1e6 / written as f64, "idle_rss_kib": idle_rss, "rss_kib": program.memory_kib("VmRSS")?, "peak_rss_kib": program.memory_kib("VmHWM")?}})
    );
    Ok(())
}

fn configure(
    directory: &Path,
    number: usize,
    address: SocketAddr,
    target: &str,
) -> Result<(std::path::PathBuf, SocketAddr)> {
    let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let side =
        format!("region = \"{REGION}\"\nendpoint_url = \"http://{address}\"\nsts_endpoint_url = \"http://{address}\"");
    let text = format!(
        "version = 1\n[service]\nlisten = \"{listen}\"\n[checkpoint]\nstore = \"file:{}\"\n[defaults.source]\n{side}\n[defaults.target]\n{side}\n[link.orders]\nsource.table = \"orders\"\n{target}",
        directory.join(format!("{number}.redb")).display()
    );
    let path = directory.join(format!("{number}.toml"));
    std::fs::write(&path, text)?;
    Ok((path, listen))
}

/// Milliseconds from a write to its acknowledged write at the target, sorted; between two writes the link falls idle.
fn idle_latency(sandbox: &Sandbox, arrivals: &Arrivals, writes: usize) -> Result<Vec<f64>> {
    let (mut times, mut random) = (Vec::new(), fastrand::Rng::with_seed(7));
    for number in 0..writes as u64 {
        std::thread::sleep(Duration::from_millis(random.u64(1500..2500)));
        let written = put(sandbox, number)?;
        let arrived = loop {
            match arrivals.of(number) {
                Some(at) => break at,
                None if written.elapsed() > Duration::from_secs(30) => return Err("a write did not arrive".into()),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        times.push((arrived - written).as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The same at a steady rate, with how many writes were made.
fn at_a_rate(sandbox: &Sandbox, arrivals: &Arrivals, extent: &Extent) -> Result<(Vec<f64>, usize)> {
    const FIRST: u64 = 1_000_000;
    let before = arrivals.len();
    let (begun, mut written) = (Instant::now(), Vec::new());
    let total = extent.rate_seconds * u64::from(extent.rate);
    for number in 0..total {
        let due = begun + Duration::from_secs(1) / extent.rate * u32::try_from(number)?;
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        written.push((FIRST + number, put(sandbox, FIRST + number)?));
    }
    // A key is written again after five seconds, so nearly every write arrives by itself; superseded ones never do.
    let deadline = Instant::now() + Duration::from_secs(5);
    while arrivals.len() - before < written.len() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let times = written.iter().filter_map(|(number, at)| Some((arrivals.of(*number)? - *at).as_secs_f64() * 1e3));
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    Ok((times, written.len()))
}
