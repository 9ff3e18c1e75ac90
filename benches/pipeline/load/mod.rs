//! The load of an export, as a group of arms over the same stub: lines in S3 → acknowledged batches.
//!
//! - `typed`: the straightforward loop with `serde_json` and the AWS SDK's own types.
//! - `dynaferry`: the program with `load.from_export`: MD5, counts, key, lanes, checkpoints, metrics.
//! - `bodies`: lines → request bodies, by the program's own parts and with nothing sent.
//! - `floor`: gunzip and SHA-256 of the same files, and nothing else.
//!
//! Then the program loads one short file and one that is many times longer, and the peaks of its memory are told.

mod bodies;
mod exports;
mod floor;
mod in_process;
mod ours;
mod typed;

use std::path::Path;

use serde_json::{Value, json};

use crate::arms::Used;
use crate::bench::{Bench, check_delivered, count};
use crate::pages::digest;
use crate::report::Options;
use crate::rounds::Rounds;
use crate::{Result, process};
pub(crate) use exports::Shape;

const ARMS: [&str; 4] = ["typed", "dynaferry", "bodies", "floor"];

/// The typed loop's CPU per item, at least so many times the program's.
const LEAST_TIMES: f64 = 2.3;
/// Lines → request bodies, at most so many times gunzip and SHA-256 alone.
const MOST_OVER_FLOOR: f64 = 2.5;
/// Peak RSS of the program, whatever a file's size.
const MOST_RSS_KIB: u64 = 96 << 10;

/// What the arms must have delivered is looked at here.
const VERIFIED: Shape = Shape { files: 4, items_per_file: 1_000 };

/// What is loaded to be measured; one short file; one that is sixteen times longer, of a gigabyte but in a quick run.
const fn shapes(is_quick: bool) -> [Shape; 3] {
    let (of_eight, of_one) = if is_quick { (4_000, 1_000) } else { (50_000, 100_000) };
    [
        Shape { files: 8, items_per_file: of_eight },
        Shape { files: 1, items_per_file: of_one },
        Shape { files: 1, items_per_file: of_one * 16 },
    ]
}

/// Whether an arm sends what it makes.
fn sends(arm: &str) -> bool {
    ["typed", "dynaferry"].contains(&arm)
}

/// Runs an arm in this process.
pub(crate) async fn run_arm(arm: &str, address: &str, buckets: &Path, shape: Shape) -> Result<()> {
    match arm {
        "typed" => typed::run(address, shape).await,
        "dynaferry" => ours::run(address, shape).await,
        "bodies" => bodies::run(buckets, shape).await,
        "floor" => floor::run(buckets, shape),
        other => Err(format!("no arm {other}").into()),
    }
}

/// Verifies and measures: what came out, and whether the gates are met.
pub(crate) fn run(bench: &Bench, options: &Options, name: &str) -> Result<(Value, bool)> {
    let arms = options.arms_of(&ARMS);
    verify(bench, &arms, name)?;
    let [shape, short, long] = shapes(options.quick);
    exports::write(bench.buckets(), shape)?;
    let rounds = Rounds::take(options.rounds, &arms, name, |arm| run_child(bench, arm, shape, false))?;
    let (times, over) = (rounds.ratio("typed", "dynaferry"), rounds.ratio("bodies", "floor"));
    println!("\n{name}: µs of client CPU per item, {shape} items, median of {} rounds; peak RSS", rounds.len());
    rounds.show();
    println!("  typed / dynaferry {times}\n  bodies / floor    {over}\n  load average {}", process::load_average());
    let mut is_met = times.median >= LEAST_TIMES && over.median <= MOST_OVER_FLOOR;
    let mut result = rounds.json(name, &[("typed_over_dynaferry", times), ("bodies_over_floor", over)]);
    let mut peaks = Vec::new();
    for shape in [short, long] {
        let peak = peak(bench, shape)?;
        is_met &= peak.rss_kib <= MOST_RSS_KIB;
        println!(
            "  one file of {} items, {} MB of text: peak RSS {} MiB",
            shape.items(),
            peak.text_mb,
            peak.rss_kib / 1024
        );
        peaks.push(json!({"items": shape.items(), "text_mb": peak.text_mb, "peak_rss_kib": peak.rss_kib}));
    }
    is_met &= rounds.peak_rss_kib("dynaferry").is_none_or(|peak| peak <= MOST_RSS_KIB);
    if let Some(result) = result.as_object_mut() {
        result.insert("one_file".to_owned(), peaks.into());
    }
    Ok((result, is_met))
}

/// Every arm that delivers something must deliver the same.
fn verify(bench: &Bench, arms: &[String], name: &str) -> Result<()> {
    exports::write(bench.buckets(), VERIFIED)?;
    let items = VERIFIED.all_items().map(|item| serde_json::from_str(&item));
    let items: Vec<Value> = items.collect::<std::result::Result<_, _>>()?;
    for arm in arms.iter().filter(|arm| sends(arm)) {
        let (_, received) = run_child(bench, arm, VERIFIED, true)?;
        check_delivered(&received, digest(items.iter()), &format!("{arm}, {name}"))?;
    }
    Ok(())
}

fn run_child(bench: &Bench, arm: &str, shape: Shape, verifies: bool) -> Result<(Used, Value)> {
    let buckets = bench.buckets().to_str().ok_or("a folder that is no text")?;
    let (used, received) =
        bench.run(&format!("both 0 {verifies}"), &["load", arm, &bench.address, buckets, &shape.to_string()])?;
    if sends(arm) && count(&received, "writes") != shape.items() as u64 {
        return Err(format!("{arm}: not every item was written once: {received}").into());
    }
    Ok((used, received))
}

struct Peak {
    text_mb: u64,
    rss_kib: u64,
}

/// Loads an export, which is deleted again.
fn peak(bench: &Bench, shape: Shape) -> Result<Peak> {
    let text_bytes = exports::write(bench.buckets(), shape)?;
    let (used, _) = run_child(bench, "dynaferry", shape, false)?;
    exports::remove(bench.buckets(), shape)?;
    Ok(Peak { text_mb: text_bytes / 1_000_000, rss_kib: used.peak_rss_kib })
}
