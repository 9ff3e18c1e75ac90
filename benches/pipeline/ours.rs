//! The program with a stream to apply, stopped when all of it is.

use dynaferry::telemetry::Metrics;

use crate::Result;
use crate::http::Connection;
use crate::pages::SHARDS;
use crate::program::{run_until, sum};

/// Moves the stream until so many records are settled.
pub(crate) async fn run(address: &str, records: usize) -> Result<()> {
    let mut stub = Connection::connect(address).await?;
    let is_done = async |metrics: &Metrics| Ok(is_read(&mut stub).await? && settled(metrics) >= records);
    let metrics = run_until(address, r#"load.method = "none""#, is_done).await?;
    match settled(&metrics) {
        all if all == records => Ok(()),
        other => Err(format!("{other} of {records} records were settled").into()),
    }
}

/// Whether the stub was asked for what comes after the last page of every shard. Only then are the metrics looked at.
async fn is_read(stub: &mut Connection) -> Result<bool> {
    stub.send(&[b"POST / HTTP/1.1\r\nx-amz-target: Bench.Ended\r\ncontent-length: 0\r\n\r\n"]).await?;
    let answer = stub.receive().await?.ok_or("no answer")?;
    Ok(std::str::from_utf8(answer.body)?.parse::<usize>()? == SHARDS)
}

/// Records that were applied, or superseded by one that was.
fn settled(metrics: &Metrics) -> usize {
    let is_settled = |line: &str| line.contains(r#""applied""#) || line.contains(r#""superseded""#);
    sum(metrics, "dynaferry_stream_records_total", is_settled)
}
