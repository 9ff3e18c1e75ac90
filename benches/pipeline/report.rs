//! The parent: starts the stub, has every arm verified, then measured, and says what came out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::arms::{ARMS, Used};
use crate::bench::{Bench, check_delivered};
use crate::load;
use crate::pages::{RECORDS_PER_CYCLE, Variant, expected_digest};
use crate::rounds::{Rounds, per_record};
use crate::{Result, process};

/// At least so many times cheaper than the typed loop, and at most so many times the floor.
const GATES: [(Variant, f64, f64); 2] = [(Variant::Both, 4.0, 5.0), (Variant::New, 3.0, 5.0)];

/// The name of the load among the variants.
const LOAD: &str = "load";

/// What was asked for.
pub(crate) struct Options {
    pub(crate) rounds: usize,
    seconds: f64,
    pub(crate) quick: bool,
    gate: bool,
    variants: Vec<Variant>,
    has_load: bool,
    arms: Option<Vec<String>>,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self {
            rounds: 9,
            seconds: 2.0,
            quick: false,
            gate: false,
            variants: Variant::ALL.to_vec(),
            has_load: true,
            arms: None,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match *word {
                "--quick" => (options.rounds, options.seconds, options.quick) = (1, 0.0, true),
                "--gate" => options.gate = true,
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.seconds = value()?.parse()?,
                "--variant" => {
                    let variant = *value()?;
                    options.has_load = variant == LOAD;
                    options.variants = if options.has_load { Vec::new() } else { vec![variant.parse()?] };
                }
                "--arms" => options.arms = Some(value()?.split(',').map(str::to_owned).collect()),
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        Ok(options)
    }

    /// Those of these arms that are wanted.
    pub(crate) fn arms_of(&self, all: &[&str]) -> Vec<String> {
        let wanted = |arm: &&&str| self.arms.as_ref().is_none_or(|arms| arms.iter().any(|wanted| wanted == **arm));
        all.iter().filter(wanted).map(|arm| (*arm).to_owned()).collect()
    }
}

/// Runs everything.
pub(crate) fn run(options: &Options) -> Result<()> {
    let bench = Bench::start()?;
    let mut results = Vec::new();
    let mut is_met = true;
    let arms = options.arms_of(&ARMS);
    let expected = expected_digest()?;
    for &variant in &options.variants {
        for arm in &arms {
            let (_, received) = run_arm(&bench, arm, variant, 1, true)?;
            check_delivered(&received, expected, &format!("{arm}, {}", variant.as_str()))?;
        }
    }
    for &variant in &options.variants {
        let rounds = measure(&bench, options, &arms, variant)?;
        is_met &= show(variant, &rounds);
        let ratios = [
            ("typed_over_dynaferry", rounds.ratio("typed", "dynaferry")),
            ("dynaferry_over_floor", rounds.ratio("dynaferry", "floor")),
        ];
        results.push(rounds.json(variant.as_str(), &ratios));
    }
    if options.has_load {
        let (result, is_load_met) = load::run(&bench, options, LOAD)?;
        is_met &= is_load_met;
        results.push(result);
    }
    println!("{}", json!({"bench": "pipeline", "quick": options.quick, "rounds": options.rounds, "results": results}));
    if options.gate && !is_met { Err("a gate is not met".into()) } else { Ok(()) }
}

fn run_arm(bench: &Bench, arm: &str, variant: Variant, cycles: usize, verifies: bool) -> Result<(Used, Value)> {
    let serve = format!("{} {cycles} {verifies}", variant.as_str());
    bench.run(&serve, &["arm", arm, &bench.address, variant.as_str(), &cycles.to_string()])
}

fn measure(bench: &Bench, options: &Options, arms: &[String], variant: Variant) -> Result<Rounds> {
    let mut cycles = BTreeMap::new();
    for arm in arms {
        let (used, _) = run_arm(bench, arm, variant, if options.quick { 1 } else { 8 }, false)?;
        let per_cycle = per_record(&used) * RECORDS_PER_CYCLE as f64 / 1e6;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number of cycles")]
        let wanted = (options.seconds / per_cycle.max(1e-6)).ceil() as usize;
        cycles.insert(arm.clone(), wanted.clamp(1, 10_000));
    }
    Rounds::take(options.rounds, arms, variant.as_str(), |arm| {
        run_arm(bench, arm, variant, cycles.get(arm).copied().unwrap_or(1), false)
    })
}

/// Prints the table; answers whether the gates are met.
fn show(variant: Variant, rounds: &Rounds) -> bool {
    println!("\n{} images: µs of client CPU per record, median of {} rounds; peak RSS", variant.as_str(), rounds.len());
    rounds.show();
    let (times, over) = (rounds.ratio("typed", "dynaferry"), rounds.ratio("dynaferry", "floor"));
    println!("  typed / dynaferry {times}\n  dynaferry / floor {over}\n  load average {}", process::load_average());
    let gate = GATES.iter().find(|(of, ..)| *of == variant);
    gate.is_none_or(|(_, least, most)| times.median >= *least && over.median <= *most)
}
