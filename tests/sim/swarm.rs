//! Many runs at once, one seed after the other; one run alone, to be read; one run made smaller.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use crate::plan::{Plan, STAGES};
use crate::regressions::{LATER_REGRESSIONS, REGRESSIONS, Regression};
use crate::report::Report;
use crate::run::{Outcome, Watch, run};
use crate::trace;

/// One of so many seeds is run twice, and both runs must be the same (C10).
const TWICE_EVERY: u64 = 100;

/// A seed to run.
#[derive(Debug, Clone)]
pub(crate) struct Seed {
    pub(crate) seed: u64,
    pub(crate) family: Option<String>,
    /// What it found when it failed for the first time.
    pub(crate) found: Option<&'static str>,
    /// What is left out.
    pub(crate) without: Vec<String>,
}

/// What is to be run.
pub(crate) struct Seeds(Vec<Seed>);

impl Seeds {
    pub(crate) fn range(start: u64, count: u64, family: Option<&str>) -> Self {
        let seed = |seed| Seed { seed, family: family.map(str::to_owned), found: None, without: Vec::new() };
        Self((start..start.saturating_add(count)).map(seed).collect())
    }

    /// The regressions first, then fleets of workers, a third as many with several links, a sixth with a fence and a sixth that share
    /// the shards of one link, and loads from exports last.
    pub(crate) fn with_regressions(start: u64, count: u64, [fleets, exports]: [u64; 2]) -> Self {
        let known = |known: &Regression, without: &[&str]| Seed {
            seed: known.seed,
            family: known.family.map(str::to_owned),
            found: Some(known.found),
            without: without.iter().map(|name| (*name).to_owned()).collect(),
        };
        let first = REGRESSIONS.iter().map(|seed| known(seed, &[STAGES]));
        let known = first.chain(LATER_REGRESSIONS.iter().map(|seed| known(seed, &[])));
        let (one, many) = (Self::range(start, count, None), Self::range(start, fleets, Some("fleet")));
        let links = Self::range(start, fleets / 3, Some("links"));
        let fenced = Self::range(start, fleets / 6, Some("fenced"));
        let exports = Self::range(start, exports, Some("exports"));
        let parts = Self::range(start, fleets / 6, Some("parts"));
        let fleets = many.0.into_iter().chain(links.0).chain(fenced.0).chain(parts.0);
        Self(known.chain(one.0).chain(fleets).chain(exports.0).collect())
    }
}

/// Runs all of them. Answers whether every promise held.
pub(crate) fn run_all(seeds: Seeds, jobs: usize, fail_fast: bool) -> bool {
    // A run that panics has failed; its text comes with the verdict.
    std::panic::set_hook(Box::new(|_| {}));
    let mut report = Report::new(seeds.0.len());
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let (sender, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (sender, seeds, next, stopped) = (sender.clone(), &seeds.0, &next, &stopped);
            scope.spawn(move || {
                while !stopped.load(Ordering::Relaxed)
                    && let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let outcome = run_one(seed);
                    if sender.send((seed.clone(), outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (seed, outcome) in outcomes {
            let failed = !outcome.violations.is_empty();
            report.add(&seed, outcome);
            if failed && fail_fast {
                stopped.store(true, Ordering::Relaxed);
            }
        }
    });
    report.finish()
}

fn run_one(seed: &Seed) -> Outcome {
    let plan = || Plan::draw(seed.seed, seed.family.as_deref()).without(&seed.without);
    if !seed.seed.is_multiple_of(TWICE_EVERY) {
        return guarded(plan(), Watch::Nothing);
    }
    let (first, second) = (guarded(plan(), Watch::Hash), guarded(plan(), Watch::Hash));
    let mut outcome = first;
    if outcome.hash != second.hash {
        outcome.violations.push(crate::judge::Violation {
            check: "C10",
            at: outcome.virtual_time,
            what: format!("two runs of the same seed differ: {:?}, {:?}", outcome.hash, second.hash),
        });
    }
    outcome
}

/// A panic anywhere is a broken promise.
fn guarded(plan: Plan, watch: Watch) -> Outcome {
    let told = Mutex::new(None);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(plan, watch)));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.clone());
        let violation =
            crate::judge::Violation { check: "panic", at: std::time::Duration::ZERO, what: format!("a panic: {text}") };
        Outcome { violations: vec![violation], ..Outcome::default() }
    })
}

/// One run, to be read.
pub(crate) fn replay(seed: u64, family: Option<&str>, without: &[String], to: Option<&Path>) -> bool {
    let plan = Plan::draw(seed, family).without(without);
    println!("{plan}");
    let sink = match to.map(std::fs::File::create) {
        None => trace::sink(std::io::stdout()),
        Some(Ok(file)) => trace::sink(std::io::BufWriter::new(file)),
        Some(Err(error)) => {
            eprintln!("the trace cannot be written: {error}");
            return false;
        }
    };
    let outcome = guarded(plan, Watch::Trace(sink));
    for violation in &outcome.violations {
        println!("{} after {:?}: {}", violation.check, violation.at, violation.what);
    }
    println!(
        "seed {seed}: {} violations, {} requests, {} lives, {} gaps, {:?} of virtual time",
        outcome.violations.len(),
        outcome.exchanges,
        outcome.lives,
        outcome.gaps,
        outcome.virtual_time
    );
    outcome.violations.is_empty()
}

/// Leaves out one knob after the other, as long as the same promise is still broken.
pub(crate) fn shrink(seed: u64, family: Option<&str>, without: &[String]) -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    let mut without = without.to_vec();
    let broken = |without: &[String]| {
        let outcome = guarded(Plan::draw(seed, family).without(without), Watch::Nothing);
        outcome.violations.first().map(|violation| violation.check)
    };
    let Some(check) = broken(&without) else {
        println!("seed {seed} holds");
        return true;
    };
    println!("seed {seed} breaks {check}");
    loop {
        let left: Vec<_> = Plan::draw(seed, family).without(&without).knobs.iter().map(|knob| knob.kind.name).collect();
        let superfluous = left.iter().find(|name| {
            let fewer: Vec<String> = without.iter().cloned().chain([(**name).to_owned()]).collect();
            broken(&fewer) == Some(check)
        });
        match superfluous {
            Some(name) => {
                println!("  not needed: {name}");
                without.push((*name).to_owned());
            }
            None => {
                let needed = if left.is_empty() { "no knob".to_owned() } else { left.join(", ") };
                println!("needed: {needed}");
                println!("{}", crate::report::replay_command(seed, family, &without));
                return false;
            }
        }
    }
}
