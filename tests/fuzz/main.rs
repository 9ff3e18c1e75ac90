//! Fuzzing: texts that are valid, nearly valid and broken, against a second opinion.
//!
//! ```text
//! cargo test --test fuzz                                                  a bounded number of cases, in each `cargo test`
//! FUZZ_CASES=10000000 cargo test --release --test fuzz -- --nocapture     as many as one likes, from FUZZ_START on
//! FUZZ_CASES=1 FUZZ_START=4711 cargo test --test fuzz stream_pages        one case again, as its failure says
//! ```
//!
//! A case is drawn from its number alone. [`build`] writes a text that the service could have sent, [`mutate`] spoils most
//! of them a little, [`oracle`] reads them by `serde_json` and the documented shapes. Both readers must accept the same
//! texts and find the same in them; and nothing panics.

#![allow(clippy::panic, reason = "a test that panics has failed")]

mod build;
mod json;
mod mutate;
mod oracle;
mod pages;
mod settings;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Cases of each kind that run when the environment says nothing.
const DEFAULT_CASES: u64 = 20_000;
/// A configuration takes as long to read as so many pages.
const PAGES_PER_CONFIG: u64 = 10;
/// How often a long run says how far it is.
const SAY_EVERY: u64 = 1_000_000;

/// What came of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Refused,
}

fn number_from(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is no number")),
        Err(_) => default,
    }
}

/// Runs one kind of cases; each gets a generator of its own. At least some must be accepted, and some refused.
fn run(kind: &str, share: u64, case: impl Fn(&mut fastrand::Rng) -> Result<Verdict, String>) {
    let start = number_from("FUZZ_START", 0);
    let cases = number_from("FUZZ_CASES", DEFAULT_CASES).div_ceil(share);
    let (mut accepted, mut refused) = (0, 0);
    for n in start..start.saturating_add(cases) {
        let random = &mut fastrand::Rng::with_seed(n);
        let verdict = catch_unwind(AssertUnwindSafe(|| case(random)));
        match verdict.unwrap_or_else(|_| Err("it panicked".to_owned())) {
            Ok(Verdict::Accepted) => accepted += 1,
            Ok(Verdict::Refused) => refused += 1,
            Err(what) => panic!("{kind}: {what}\nagain: FUZZ_CASES=1 FUZZ_START={n} cargo test --test fuzz {kind}"),
        }
        if (n + 1 - start).is_multiple_of(SAY_EVERY) {
            println!("{kind}: {} cases, {accepted} accepted, {refused} refused", n + 1 - start);
        }
    }
    println!("{kind}: {cases} cases, {accepted} accepted, {refused} refused");
    assert!(cases < 1000 || accepted.min(refused) > cases / 100, "nearly all cases of {kind} end alike");
}

#[test]
fn stream_pages() {
    run("stream_pages", 1, pages::stream_page);
}

#[test]
fn scan_pages() {
    run("scan_pages", 1, pages::scan_page);
}

#[test]
fn single_items() {
    run("single_items", 1, pages::single_item);
}

#[test]
fn export_lines() {
    run("export_lines", 1, pages::export_line);
}

#[test]
fn write_replies() {
    run("write_replies", 1, pages::write_reply);
}

#[test]
fn digests() {
    run("digests", 1, pages::digest);
}

#[test]
fn configs() {
    run("configs", PAGES_PER_CONFIG, settings::config);
}
