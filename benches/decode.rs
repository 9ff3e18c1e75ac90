//! What it costs to read pages of GetRecords: MB/s and ns per record, with both images and with the new ones alone.
//!
//! ```text
//! cargo bench --bench decode -- [--quick]
//! ```

#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

#[expect(dead_code, reason = "the other bench uses the rest")]
#[path = "pipeline/pages.rs"]
mod pages;

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dynaferry::decode::{KeyCodec, stream_page};
use dynaferry::model::{KeyAttribute, KeyKind, KeySchema, ViewType};
use pages::{RECORDS, Variant};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let time = if is_quick { Duration::from_millis(50) } else { Duration::from_secs(3) };
    let attribute = |name: &str, kind| KeyAttribute { name: name.to_owned(), kind };
    let schema = KeySchema { hash: attribute("pk", KeyKind::S), range: Some(attribute("sk", KeyKind::N)) };
    let codec = KeyCodec::new(&schema);
    for variant in Variant::ALL {
        let view = if variant == Variant::Both { ViewType::NewAndOldImages } else { ViewType::NewImage };
        let mut body = pages::page(variant, 0, 0).body;
        body.extend_from_slice(br#"],"NextShardIterator":"next"}"#);
        let body = Bytes::from(body);
        let (begun, mut rounds, mut best) = (Instant::now(), 0_u32, Duration::MAX);
        while begun.elapsed() < time {
            let page_begun = Instant::now();
            let page = stream_page(black_box(&body), &codec, view)?;
            assert_eq!(black_box(page).changes.len(), RECORDS);
            best = best.min(page_begun.elapsed());
            rounds += 1;
        }
        let mean = begun.elapsed() / rounds;
        let megabytes = body.len() as f64 / 1e6;
        for (what, time) in [("mean", mean), ("best", best)] {
            println!(
                "{{\"bench\":\"decode\",\"variant\":\"{}\",\"what\":\"{what}\",\"mb_per_s\":{:.0},\"ns_per_record\":{:.0}}}",
                variant.as_str(),
                megabytes / time.as_secs_f64(),
                time.as_secs_f64() * 1e9 / RECORDS as f64
            );
        }
    }
    Ok(())
}
