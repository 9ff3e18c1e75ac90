//! The program as `run` runs it: configuration, checkpoints in a file, metrics, pacing; stopped when all is applied.

use std::sync::Arc;
use std::time::Duration;

use dynaferry::aws::AccessKey;
use dynaferry::config;
use dynaferry::context::Context;
use dynaferry::runtime::Program;
use dynaferry::telemetry::{Metrics, Mode};
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::http::Connection;
use crate::pages::SHARDS;

/// How often it is asked whether the stream is read to its end. Only then are the metrics looked at: that costs as much as
/// moving a thousand records, and must not count by the time that a busy machine takes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Moves the stream until so many records are settled.
pub(crate) async fn run(address: &str, records: usize) -> Result<()> {
    let state = tempfile::tempdir()?;
    let text = format!(
        r#"
version = 1
[checkpoint]
store = "file:{state}"
[defaults.source]
region = "eu-west-1"
endpoint_url = "http://{address}"
sts_endpoint_url = "http://{address}"
[defaults.target]
region = "eu-west-1"
endpoint_url = "http://{address}"
sts_endpoint_url = "http://{address}"
[link.bench]
source.table = "src"
target.table = "dst"
[link.bench.load]
method = "none"
[link.bench.apply]
write_capacity = 10000000
"#,
        state = state.path().join("state.redb").display()
    );
    let config = config::parse("bench.toml", &text, Vec::new())?;
    let key = AccessKey { id: "111122223333".to_owned(), secret: "secret".to_owned() };
    let program = Arc::new(Program::new(config, Context::system(), Mode::Service).with_access_key(key));
    let (metrics, stop) = (program.metrics(), CancellationToken::new());
    let stopper = stop.clone();
    let running = tokio::spawn(async move { program.run(stopper).await });
    let mut stub = Connection::connect(address).await?;
    while !running.is_finished() && (!is_read(&mut stub).await? || settled(&metrics) < records) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    stop.cancel();
    running.await?.map_err(|error| format!("{error:?}"))?;
    match settled(&metrics) {
        all if all == records => Ok(()),
        other => Err(format!("{other} of {records} records were settled").into()),
    }
}

/// Whether the stub was asked for what comes after the last page of every shard.
async fn is_read(stub: &mut Connection) -> Result<bool> {
    stub.send(&[b"POST / HTTP/1.1\r\nx-amz-target: Bench.Ended\r\ncontent-length: 0\r\n\r\n"]).await?;
    let answer = stub.receive().await?.ok_or("no answer")?;
    Ok(std::str::from_utf8(answer.body)?.parse::<usize>()? == SHARDS)
}

/// Records that were applied, or superseded by one that was.
fn settled(metrics: &Metrics) -> usize {
    let text = metrics.render();
    let lines = text.lines().filter(|line| line.starts_with("dynaferry_stream_records_total{"));
    let lines = lines.filter(|line| line.contains(r#""applied""#) || line.contains(r#""superseded""#));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}
