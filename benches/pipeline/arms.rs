//! One arm in a process of its own: runs, then prints what it used.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::load::Shape;
use crate::pages::{RECORDS_PER_CYCLE, Variant};
use crate::{Result, floor, load, ours, process, typed};

pub(crate) const ARMS: [&str; 3] = ["typed", "dynaferry", "floor"];

/// What one run of an arm used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Used {
    pub(crate) records: usize,
    pub(crate) cpu_seconds: f64,
    pub(crate) wall_seconds: f64,
    pub(crate) peak_rss_kib: u64,
}

/// Runs an arm of the stream and prints its [`Used`] as a line of JSON.
pub(crate) fn run_one(arm: &str, address: &str, variant: Variant, cycles: usize) -> Result<()> {
    let bodies = if arm == "floor" { floor::prepare() } else { Vec::new() };
    measured(cycles * RECORDS_PER_CYCLE, async {
        match arm {
            "typed" => typed::run(address, variant).await,
            "dynaferry" => ours::run(address, cycles * RECORDS_PER_CYCLE).await,
            "floor" => floor::run(address, bodies, cycles).await,
            other => Err(format!("no arm {other}").into()),
        }
    })
}

/// The same for an arm of the load.
pub(crate) fn load_one(arm: &str, address: &str, buckets: &Path, shape: Shape) -> Result<()> {
    measured(shape.items(), load::run_arm(arm, address, buckets, shape))
}

fn measured(records: usize, work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (cpu, begun) = (process::cpu_time()?, Instant::now());
    runtime.block_on(work)?;
    let used = Used {
        records,
        cpu_seconds: (process::cpu_time()? - cpu).as_secs_f64(),
        wall_seconds: begun.elapsed().as_secs_f64(),
        peak_rss_kib: process::peak_rss_kib()?,
    };
    println!("{}", serde_json::to_string(&used)?);
    Ok(())
}
