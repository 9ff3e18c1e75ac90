//! The parent: starts the stub, has every arm verified, then measured, and says what came out.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::arms::{ARMS, Used};
use crate::pages::{RECORDS_PER_CYCLE, Variant, expected_digest};
use crate::{Result, process};

/// At least so many times cheaper than the typed loop, and at most so many times the floor.
const GATES: [(Variant, f64, f64); 2] = [(Variant::Both, 4.0, 5.0), (Variant::New, 3.0, 5.0)];

/// What was asked for.
pub(crate) struct Options {
    rounds: usize,
    seconds: f64,
    quick: bool,
    gate: bool,
    variants: Vec<Variant>,
    arms: Vec<String>,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self {
            rounds: 9,
            seconds: 2.0,
            quick: false,
            gate: false,
            variants: Variant::ALL.to_vec(),
            arms: ARMS.map(str::to_owned).to_vec(),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match *word {
                "--quick" => (options.rounds, options.seconds, options.quick) = (1, 0.0, true),
                "--gate" => options.gate = true,
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.seconds = value()?.parse()?,
                "--variant" => options.variants = vec![value()?.parse()?],
                "--arms" => options.arms = value()?.split(',').map(str::to_owned).collect(),
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        Ok(options)
    }
}

/// A child that is ended with its owner.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// This very program again, on one core where there are several and `taskset` is there.
fn command(core: usize, arguments: &[&str]) -> Result<Command> {
    let program = std::env::current_exe()?;
    let cores = std::thread::available_parallelism()?.get();
    let has_taskset = Command::new("taskset").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let mut command = if cores > 1 && has_taskset {
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.to_string()).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

struct Bench {
    address: String,
    _stub: Owned,
}

impl Bench {
    fn start() -> Result<Self> {
        let mut stub = Owned(command(1, &["stub"])?.stdout(Stdio::piped()).spawn()?);
        let mut address = String::new();
        BufReader::new(stub.0.stdout.take().ok_or("no output")?).read_line(&mut address)?;
        Ok(Self { address: address.trim().to_owned(), _stub: stub })
    }

    fn tell(&self, operation: &str, body: &str) -> Result<Value> {
        let mut socket = TcpStream::connect(&self.address)?;
        write!(
            socket,
            "POST / HTTP/1.1\r\nx-amz-target: Bench.{operation}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        Ok(serde_json::from_str(body)?)
    }

    fn run(&self, arm: &str, variant: Variant, cycles: usize, verifies: bool) -> Result<(Used, Value)> {
        self.tell("Reset", &format!("{} {cycles} {verifies}", variant.as_str()))?;
        let output = command(0, &["arm", arm, &self.address, variant.as_str(), &cycles.to_string()])?
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("arm {arm} failed").into());
        }
        Ok((serde_json::from_slice(&output.stdout)?, self.tell("Received", "")?))
    }
}

fn per_record(used: &Used) -> f64 {
    used.cpu_seconds * 1e6 / used.records as f64
}

/// A middle and how far values lie around it: half of them within the quartiles.
#[derive(Debug, Clone, Copy)]
struct Spread {
    median: f64,
    quartiles: (f64, f64),
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let last = values.len().saturating_sub(1);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let quartiles = (at(last / 4), at(last - last / 4));
        Self { median: at(values.len() / 2), quartiles, least: at(0), most: at(last) }
    }

    fn json(self) -> Value {
        json!({"median": self.median, "quartiles": [self.quartiles.0, self.quartiles.1], "least": self.least, "most": self.most})
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { median, quartiles: (low, high), least, most } = self;
        write!(f, "{median:>6.2}  half {low:.2}–{high:.2}, all {least:.2}–{most:.2}")
    }
}

/// Runs everything.
pub(crate) fn run(options: &Options) -> Result<()> {
    let bench = Bench::start()?;
    let (items, digest) = expected_digest()?;
    for &variant in &options.variants {
        for arm in &options.arms {
            let (_, received) = bench.run(arm, variant, 1, true)?;
            let delivered =
                (received.get("items").and_then(Value::as_u64), received.get("digest").and_then(Value::as_u64));
            if delivered != (Some(items), Some(digest)) {
                return Err(format!(
                    "{arm}, {}: other items than expected were delivered: {received}",
                    variant.as_str()
                )
                .into());
            }
            eprintln!(
                "verified  {arm:<10} {:<5} {items} items, writes {}, requests {}",
                variant.as_str(),
                count(&received, "writes"),
                count(&received, "requests")
            );
        }
    }
    let mut results = Vec::new();
    let mut is_met = true;
    for &variant in &options.variants {
        let result = measure(&bench, options, variant)?;
        is_met &= show(variant, &result);
        results.push(result_json(variant, &result));
    }
    println!("{}", json!({"bench": "pipeline", "quick": options.quick, "rounds": options.rounds, "results": results}));
    if options.gate && !is_met { Err("a gate is not met".into()) } else { Ok(()) }
}

fn count(received: &Value, what: &str) -> u64 {
    received.get(what).and_then(Value::as_u64).unwrap_or(0)
}

/// What an arm used in each round.
type Rounds = BTreeMap<String, Vec<(Used, f64)>>;

fn measure(bench: &Bench, options: &Options, variant: Variant) -> Result<Rounds> {
    let mut cycles = BTreeMap::new();
    for arm in &options.arms {
        let (used, _) = bench.run(arm, variant, if options.quick { 1 } else { 8 }, false)?;
        let per_cycle = per_record(&used) * RECORDS_PER_CYCLE as f64 / 1e6;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number of cycles")]
        let wanted = (options.seconds / per_cycle.max(1e-6)).ceil() as usize;
        cycles.insert(arm.clone(), wanted.clamp(1, 10_000));
    }
    let mut rounds = Rounds::new();
    for round in 0..options.rounds {
        for turn in 0..options.arms.len() {
            let arm = options.arms.get((round + turn) % options.arms.len()).ok_or("no arms")?;
            let (used, received) = bench.run(arm, variant, cycles.get(arm).copied().unwrap_or(1), false)?;
            let batch = count(&received, "writes") as f64 / count(&received, "requests").max(1) as f64;
            eprintln!(
                "{:<5} {}/{} {arm:<10} {:>6.2} µs/record, {} records in {:.1} s ({:.1} s CPU), {batch:.1} writes a request, {} MiB",
                variant.as_str(),
                round + 1,
                options.rounds,
                per_record(&used),
                used.records,
                used.wall_seconds,
                used.cpu_seconds,
                used.peak_rss_kib / 1024
            );
            rounds.entry(arm.clone()).or_default().push((used, batch));
        }
    }
    Ok(rounds)
}

fn costs(rounds: &Rounds, arm: &str) -> Vec<f64> {
    rounds.get(arm).map(|rounds| rounds.iter().map(|(used, _)| per_record(used)).collect()).unwrap_or_default()
}

/// Each round's own ratio: its arms ran one after the other, so what disturbed one disturbed the others.
fn ratio(rounds: &Rounds, of: &str, to: &str) -> Spread {
    Spread::of(costs(rounds, of).iter().zip(costs(rounds, to)).map(|(of, to)| of / to).collect())
}

/// Prints the table; answers whether the gates are met.
fn show(variant: Variant, rounds: &Rounds) -> bool {
    println!(
        "\n{} images: µs of client CPU per record, median of {} rounds; peak RSS",
        variant.as_str(),
        num_rounds(rounds)
    );
    for (arm, used) in rounds {
        let rss = used.iter().map(|(used, _)| used.peak_rss_kib).max().unwrap_or(0) / 1024;
        println!("  {arm:<10} {}; {rss} MiB", Spread::of(costs(rounds, arm)));
    }
    let (times, over) = (ratio(rounds, "typed", "dynaferry"), ratio(rounds, "dynaferry", "floor"));
    println!("  typed / dynaferry {times}\n  dynaferry / floor {over}\n  load average {}", process::load_average());
    let gate = GATES.iter().find(|(of, ..)| *of == variant);
    gate.is_none_or(|(_, least, most)| times.median >= *least && over.median <= *most)
}

fn num_rounds(rounds: &Rounds) -> usize {
    rounds.values().map(Vec::len).max().unwrap_or(0)
}

fn result_json(variant: Variant, rounds: &Rounds) -> Value {
    let arms: BTreeMap<&String, Value> = rounds
        .iter()
        .map(|(arm, used)| {
            let rss = used.iter().map(|(used, _)| used.peak_rss_kib).max();
            let (costs, batch) = (costs(rounds, arm), used.first().map(|(_, batch)| batch));
            (arm, json!({"us_per_record": Spread::of(costs.clone()).json(), "rounds": costs, "peak_rss_kib": rss, "writes_per_request": batch}))
        })
        .collect();
    let ratio = |of, to| ratio(rounds, of, to).json();
    json!({"variant": variant.as_str(), "arms": arms, "load_average": process::load_average(),
        "typed_over_dynaferry": ratio("typed", "dynaferry"), "dynaferry_over_floor": ratio("dynaferry", "floor")})
}
