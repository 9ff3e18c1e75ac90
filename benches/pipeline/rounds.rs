//! Arms that take turns, and what comes out: medians, how far values lie around them, ratios.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Result;
use crate::arms::Used;
use crate::bench::count;
use crate::process;

/// A middle and how far values lie around it: half of them within the quartiles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
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

    pub(crate) fn json(self) -> Value {
        json!({"median": self.median, "quartiles": [self.quartiles.0, self.quartiles.1], "least": self.least, "most": self.most})
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { median, quartiles: (low, high), least, most } = self;
        write!(f, "{median:>6.2}  half {low:.2}–{high:.2}, all {least:.2}–{most:.2}")
    }
}

/// Microseconds of CPU for a record, or an item.
pub(crate) fn per_record(used: &Used) -> f64 {
    used.cpu_seconds * 1e6 / used.records as f64
}

/// What each arm used in each round.
#[derive(Default)]
pub(crate) struct Rounds(BTreeMap<String, Vec<(Used, f64)>>);

impl Rounds {
    /// Runs the arms so many times, another one first each time. `what` names them for who watches.
    pub(crate) fn take(
        num_rounds: usize,
        arms: &[String],
        what: &str,
        mut run: impl FnMut(&str) -> Result<(Used, Value)>,
    ) -> Result<Self> {
        let mut rounds = Self::default();
        for round in 0..num_rounds {
            for turn in 0..arms.len() {
                let arm = arms.get((round + turn) % arms.len()).ok_or("no arms")?;
                let (used, received) = run(arm)?;
                let batch = count(&received, "writes") as f64 / count(&received, "requests").max(1) as f64;
                eprintln!(
                    "{what:<5} {}/{num_rounds} {arm:<10} {:>6.2} µs each, {} in {:.1} s ({:.1} s CPU), {batch:.1} writes a request, {} MiB",
                    round + 1,
                    per_record(&used),
                    used.records,
                    used.wall_seconds,
                    used.cpu_seconds,
                    used.peak_rss_kib / 1024
                );
                rounds.0.entry(arm.clone()).or_default().push((used, batch));
            }
        }
        Ok(rounds)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Vec::len).max().unwrap_or(0)
    }

    fn costs(&self, arm: &str) -> Vec<f64> {
        self.0.get(arm).map(|rounds| rounds.iter().map(|(used, _)| per_record(used)).collect()).unwrap_or_default()
    }

    pub(crate) fn peak_rss_kib(&self, arm: &str) -> Option<u64> {
        self.0.get(arm)?.iter().map(|(used, _)| used.peak_rss_kib).max()
    }

    /// Each round's own ratio: its arms ran one after the other, so what disturbed one disturbed the others.
    pub(crate) fn ratio(&self, of: &str, to: &str) -> Spread {
        Spread::of(self.costs(of).iter().zip(self.costs(to)).map(|(of, to)| of / to).collect())
    }

    /// A line for each arm.
    pub(crate) fn show(&self) {
        for arm in self.0.keys() {
            let rss = self.peak_rss_kib(arm).unwrap_or(0) / 1024;
            println!("  {arm:<10} {}; {rss} MiB", Spread::of(self.costs(arm)));
        }
    }

    /// The same as JSON, with the ratios that are given.
    pub(crate) fn json(&self, variant: &str, ratios: &[(&str, Spread)]) -> Value {
        let arms: BTreeMap<&String, Value> = self
            .0
            .iter()
            .map(|(arm, used)| {
                let (costs, batch) = (self.costs(arm), used.first().map(|(_, batch)| batch));
                (arm, json!({"us_per_record": Spread::of(costs.clone()).json(), "rounds": costs, "peak_rss_kib": self.peak_rss_kib(arm), "writes_per_request": batch}))
            })
            .collect();
        let mut result = json!({"variant": variant, "arms": arms, "load_average": process::load_average()});
        if let Some(result) = result.as_object_mut() {
            result.extend(ratios.iter().map(|(name, ratio)| ((*name).to_owned(), ratio.json())));
        }
        result
    }
}
