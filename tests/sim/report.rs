//! What came of many runs, while they run and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::knobs::KINDS;
use crate::plan::Plan;
use crate::run::Outcome;
use crate::swarm::Seed;

/// How often a line says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(15);
/// How many of the runs with the most requests are told.
const HEAVIEST: usize = 5;

/// Counts of all runs so far.
pub(crate) struct Report {
    expected: usize,
    started: Instant,
    said: Instant,
    runs: u64,
    failed: Vec<Seed>,
    virtual_time: Duration,
    live_time: Duration,
    exchanges: u64,
    lives: u64,
    gaps: u64,
    late_writes: u64,
    faults: BTreeMap<&'static str, u64>,
    pairs: BTreeSet<(&'static str, &'static str)>,
    shortest: Duration,
    /// The runs with the most requests, which cost the most time: how many, and of which seed.
    heaviest: BTreeSet<(u64, u64)>,
}

impl Report {
    pub(crate) fn new(expected: usize) -> Self {
        let now = Instant::now();
        Self {
            expected,
            started: now,
            said: now,
            runs: 0,
            failed: Vec::new(),
            virtual_time: Duration::ZERO,
            live_time: Duration::ZERO,
            exchanges: 0,
            lives: 0,
            gaps: 0,
            late_writes: 0,
            faults: BTreeMap::new(),
            pairs: BTreeSet::new(),
            shortest: Duration::MAX,
            heaviest: BTreeSet::new(),
        }
    }

    /// One run is over.
    pub(crate) fn add(&mut self, seed: &Seed, outcome: Outcome) {
        self.runs += 1;
        self.virtual_time += outcome.virtual_time;
        self.live_time += outcome.live_time;
        self.shortest = self.shortest.min(outcome.virtual_time);
        self.exchanges += outcome.exchanges;
        self.heaviest.insert((outcome.exchanges, seed.seed));
        if self.heaviest.len() > HEAVIEST {
            self.heaviest.pop_first();
        }
        self.lives += outcome.lives;
        self.gaps += outcome.gaps as u64;
        self.late_writes += outcome.late_writes;
        for (n, kind) in outcome.kinds.iter().enumerate() {
            self.pairs.extend(outcome.kinds[n + 1..].iter().map(|other| (*kind, *other)));
        }
        for (kind, count) in outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            self.failed.push(seed.clone());
            let family = seed.family.as_deref();
            println!("FAILED {}", Plan::draw(seed.seed, family).without(&seed.without));
            if let Some(found) = seed.found {
                println!("  a regression: {found}");
            }
            for violation in &outcome.violations {
                println!("  {} after {:?}: {}", violation.check, violation.at, violation.what);
            }
            println!("  {}", replay_command(seed.seed, family, &seed.without));
        }
        if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            println!("{} of {} seeds, {} failed, {}", self.runs, self.expected, self.failed.len(), self.speed());
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn speed(&self) -> String {
        let wall = self.started.elapsed().as_secs_f64().max(0.001);
        format!(
            "{:.1} seeds/s, {:.0} virtual hours per second",
            self.runs as f64 / wall,
            self.virtual_time.as_secs_f64() / 3600.0 / wall
        )
    }

    /// The last words. Answers whether every promise held.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub(crate) fn finish(self) -> bool {
        let total: u64 = self.faults.values().sum();
        println!("faults injected, by kind:");
        for (kind, count) in &self.faults {
            println!("  {count:>9} {kind}");
        }
        let possible = KINDS.len() * (KINDS.len() - 1) / 2;
        println!(
            "{total} faults of {} kinds, {} of {possible} pairs of kinds together, {} requests, {} processes, {} gaps, {} late writes",
            self.faults.len(),
            self.pairs.len(),
            self.exchanges,
            self.lives,
            self.gaps,
            self.late_writes
        );
        let hours = |time: Duration| time.as_secs_f64() / 3600.0;
        println!(
            "{:.0} virtual hours, {:.0} of them with a process, {:.1} in the shortest run, {:.1} years in all",
            hours(self.virtual_time),
            hours(self.live_time),
            hours(self.shortest),
            hours(self.virtual_time) / 24.0 / 365.25
        );
        let heaviest: Vec<String> =
            self.heaviest.iter().rev().map(|(requests, seed)| format!("{seed} ({requests})")).collect();
        println!("most requests: seeds {}", heaviest.join(", "));
        if !self.failed.is_empty() {
            let seeds: Vec<String> = self.failed.iter().map(|seed| seed.seed.to_string()).collect();
            println!("failed: {}", seeds.join(" "));
        }
        println!(
            "{} seeds, {} failed, {:.1} s, {:.1} seeds/s",
            self.runs,
            self.failed.len(),
            self.started.elapsed().as_secs_f64(),
            self.runs as f64 / self.started.elapsed().as_secs_f64().max(0.001)
        );
        self.failed.is_empty() && self.runs > 0
    }
}

/// What to type to see a run.
pub(crate) fn replay_command(seed: u64, family: Option<&str>, without: &[String]) -> String {
    let family = family.map(|family| format!(" --family {family}")).unwrap_or_default();
    let without = if without.is_empty() { String::new() } else { format!(" --without {}", without.join(",")) };
    format!("cargo test --release --test sim -- --replay {seed}{family}{without}")
}
