//! The program as `run` runs it: configuration, checkpoints in a file, metrics, pacing; stopped when its work is done.

use std::sync::Arc;
use std::time::Duration;

use dynaferry::aws::AccessKey;
use dynaferry::config;
use dynaferry::context::Context;
use dynaferry::runtime::Program;
use dynaferry::telemetry::{Metrics, Mode};
use tokio_util::sync::CancellationToken;

use crate::Result;

/// How often it is asked whether all is done. Looking at the metrics costs as much as moving a thousand records, and must
/// not count by the time that a busy machine takes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs a link with these settings against the stub until it is done.
pub(crate) async fn run_until(
    address: &str,
    link: &str,
    mut is_done: impl AsyncFnMut(&Metrics) -> Result<bool>,
) -> Result<Metrics> {
    let state = tempfile::tempdir()?;
    let side = format!(
        r#"region = "eu-west-1"
endpoint_url = "http://{address}"
sts_endpoint_url = "http://{address}"
s3_endpoint_url = "http://{address}""#
    );
    let text = format!(
        r#"
version = 1
[checkpoint]
store = "file:{state}"
[defaults.source]
{side}
[defaults.target]
{side}
[link.bench]
source.table = "src"
target.table = "dst"
{link}
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
    while !running.is_finished() && !is_done(&metrics).await? {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    stop.cancel();
    running.await?.map_err(|error| format!("{error:?}"))?;
    Ok(metrics)
}

/// The sum of a counter over the label sets that are wanted.
pub(crate) fn sum(metrics: &Metrics, name: &str, wanted: impl Fn(&str) -> bool) -> usize {
    let text = metrics.render();
    let lines = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    lines.filter(|line| wanted(line)).filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}
