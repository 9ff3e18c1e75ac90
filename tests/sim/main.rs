//! The simulation: the shipped program with the real SDK over the embedded AWS, on paused time. One seed is one run.
//!
//! ```text
//! cargo test --release --test sim                                 the regression list and the default seeds
//! cargo test --release --test sim -- --seeds N --start S          N seeds from S on
//! cargo test --release --test sim -- --family outages --seeds N   of one family
//! cargo test --release --test sim -- --replay SEED                one run, with a trace of everything
//! cargo test --release --test sim -- --shrink SEED                leaves out faults while it still fails
//! cargo test --release --test sim -- museum [--only NAME]         brings back known defects, and counts seeds until one is seen
//! ```
//!
//! [`plan`] draws everything from the seed; [`run`] lives through it; [`truth`] and [`judge`] stand on the sandbox's side and
//! judge what they see; [`fleet`] lives through it with several workers; [`swarm`] runs many; [`report`] says what came of it. [`museum`] tests all of that.

#![allow(
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "a test that panics has failed"
)]
#![allow(clippy::disallowed_methods, reason = "tests are their own runtime and time themselves")]

#[path = "../shared/accounts.rs"]
mod accounts;
mod clocks;
mod fleet;
mod gate;
mod judge;
mod knobs;
mod museum;
mod patch;
mod plan;
mod regressions;
mod report;
mod run;
mod state;
mod swarm;
mod trace;
mod truth;
mod workload;
mod world;

use std::process::ExitCode;

use clap::Parser;

/// Seeds that run when none are asked for: with the regressions and those below, more than 2,000.
const DEFAULT_SEEDS: u64 = 1_800;
/// And so many with several workers, which cost more each.
const DEFAULT_FLEETS: u64 = 60;

/// And so many whose load is made from an export.
const DEFAULT_EXPORTS: u64 = 60;

/// Runs seeds of the simulation.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Runs at the same time; default: one for each core.
    #[arg(long)]
    jobs: Option<usize>,
    /// Only runs of this family: mix, down25, down72, replaced, recreated, lag, long, outages, fleet,
    /// links, fenced, exports.
    #[arg(long)]
    family: Option<String>,
    /// Runs one seed with a trace of everything.
    #[arg(long, value_name = "SEED")]
    replay: Option<u64>,
    /// Writes the trace here; default: stdout.
    #[arg(long, value_name = "FILE")]
    trace: Option<std::path::PathBuf>,
    /// Leaves out knobs of a failing seed, one at a time, while it still fails.
    #[arg(long, value_name = "SEED")]
    shrink: Option<u64>,
    /// Knobs to leave out, by name.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Shows what a seed means, and runs nothing.
    #[arg(long, value_name = "SEED")]
    show: Option<u64>,
    /// Stops at the first seed that fails.
    #[arg(long)]
    fail_fast: bool,
    /// Of the museum: only exhibits with this in their names.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Of the museum: the profile to build with.
    #[arg(long, default_value = "release")]
    profile: String,
    #[command(flatten)]
    libtest: Libtest,
}

/// What `cargo test` and its users pass to every test binary.
#[derive(Debug, clap::Args)]
struct Libtest {
    /// Runs the default seeds only if this is part of `simulation`; `museum` runs that.
    filter: Option<String>,
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    no_capture: bool,
    #[arg(long, hide = true)]
    exact: bool,
    #[arg(long, hide = true)]
    ignored: bool,
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    skip: Vec<String>,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
    #[arg(long, hide = true)]
    format: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let libtest = &arguments.libtest;
    if libtest.filter.as_deref() == Some("museum") && !libtest.list {
        let Arguments { seeds, jobs, only, profile, .. } = &arguments;
        let seeds = seeds.unwrap_or(museum::MOST_SEEDS);
        let all_are_killed = museum::run(&museum::Tour { seeds, jobs: *jobs, only: only.as_deref(), profile });
        return if all_are_killed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let is_left_out = libtest.filter.as_ref().is_some_and(|filter| !"simulation".contains(filter.as_str()))
        || libtest.skip.iter().any(|skip| "simulation".contains(skip.as_str()));
    if libtest.list || libtest.ignored || is_left_out {
        println!("0 seeds, 0 failed: the filter leaves the simulation out");
        return ExitCode::SUCCESS;
    }
    if let Some(family) = &arguments.family
        && !plan::Family::NAMES.contains(&family.as_str())
    {
        eprintln!("there is no family {family:?}: want one of {}", plan::Family::NAMES.join(", "));
        return ExitCode::from(2);
    }
    let family = arguments.family.as_deref();
    let all_hold = if let Some(seed) = arguments.show {
        println!("{}", plan::Plan::draw(seed, family).without(&arguments.without));
        true
    } else if let Some(seed) = arguments.replay {
        swarm::replay(seed, family, &arguments.without, arguments.trace.as_deref())
    } else if let Some(seed) = arguments.shrink {
        swarm::shrink(seed, family, &arguments.without)
    } else {
        let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let seeds = match arguments.seeds {
            Some(count) => swarm::Seeds::range(arguments.start, count, family),
            None => swarm::Seeds::with_regressions(arguments.start, DEFAULT_SEEDS, [DEFAULT_FLEETS, DEFAULT_EXPORTS]),
        };
        let is_default = arguments.seeds.is_none();
        let all_apply = !is_default || museum::every_patch_applies();
        swarm::run_all(seeds, jobs, arguments.fail_fast) && all_apply
    };
    if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
