//! What it costs to move GetRecords pages, or the lines of an export, into BatchWriteItem: the real program against two
//! others, in one run.
//!
//! - `typed`: the straightforward loop over the AWS SDK's own types.
//! - `dynaferry`: the program as `run` runs it, with checkpoints, metrics and pacing.
//! - `floor`: sockets, copies, SHA-256 of each body, heads; nothing is understood.
//!
//! A stub server serves pages that were made ahead. It and each arm are processes of their own, on a core of their own
//! where there are two; only the CPU time of the client counts. First a verify pass: each arm must deliver the same final
//! items. Then the arms take turns, and medians of CPU per record are compared. Quote the ratios, not the times.
//!
//! The variant `load` is an export in S3, which the stub serves, too: eight files of 50,000 items. It has one more arm,
//! `bodies`, in which nothing is sent, and a floor of its own; see `load/mod.rs`. Last comes the program's peak memory over
//! a file of 68 MB and one of 1.1 GB.
//!
//! ```text
//! cargo bench --bench pipeline -- [--quick] [--gate] [--rounds N] [--seconds S] [--variant both|new|load] [--arms a,b]
//! ```

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time, and its arms spawn as their users do")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time and starts its own tasks")]

mod arms;
mod bench;
mod exchange;
mod floor;
mod http;
mod load;
mod ours;
mod pages;
mod process;
mod program;
mod report;
mod rounds;
mod stub;
mod typed;

use std::error::Error;
use std::path::Path;

/// What can go wrong in a benchmark: it is said, and that is all.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["stub", buckets] => stub::serve(Path::new(buckets)),
        ["arm", arm, address, variant, cycles] => arms::run_one(arm, address, variant.parse()?, cycles.parse()?),
        ["load", arm, address, buckets, shape] => arms::load_one(arm, address, Path::new(buckets), shape.parse()?),
        _ => report::run(&report::Options::parse(&words)?),
    }
}
