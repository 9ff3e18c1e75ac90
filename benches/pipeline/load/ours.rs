//! The program with an export to load, stopped when all of it is.

use dynaferry::telemetry::Metrics;

use super::exports::{BUCKET, Shape};
use crate::Result;
use crate::program::{run_until, sum};

/// Loads the whole export.
pub(crate) async fn run(address: &str, shape: Shape) -> Result<()> {
    let link = format!(r#"load.from_export = "s3://{BUCKET}/{}""#, shape.folder());
    let metrics = run_until(address, &link, async |metrics| Ok(loaded(metrics) >= shape.items())).await?;
    match loaded(&metrics) {
        all if all == shape.items() => Ok(()),
        other => Err(format!("{other} of {} items were loaded", shape.items()).into()),
    }
}

/// Items that are settled.
fn loaded(metrics: &Metrics) -> usize {
    sum(metrics, "dynaferry_initial_load_items_total", |_| true)
}
