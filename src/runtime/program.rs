//! What a command runs: all links of a configuration, in one process.

use std::io::Write;
use std::sync::Arc;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::rows::DeadLetterRow;
use crate::config::Config;
use crate::context::Context;
use crate::error::{Error, Exit, Result};
use crate::http::{Heartbeats, LinkReadiness, StatusSource};
use crate::telemetry::status::Status;
use crate::telemetry::{Metrics, Mode};
use crate::verify::VerifyReport;

/// What a finished migration tells, one for each link.
#[derive(Debug, Clone, Serialize)]
pub struct MigrateReport {
    /// The link.
    pub link: String,
    /// Items that the initial load settled, also in earlier runs.
    pub items_loaded: u64,
    /// Changes of the stream that were settled by this run.
    pub changes_replicated: u64,
    /// What the comparison of both tables found.
    pub verification: VerifyReport,
}

/// How tables are compared by a command.
pub struct VerifyOptions {
    /// Whether confirmed differences are synced and looked at again.
    pub repair: bool,
    /// Whether the report shows both images, not the key alone.
    pub show_values: bool,
    /// Where the report goes, one JSON object per line.
    pub report: Option<Box<dyn Write + Send>>,
    /// The links to compare; empty: all.
    pub links: Vec<String>,
}

/// A dead letter and the link it belongs to.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The link.
    pub link: String,
    /// The letter.
    pub letter: DeadLetterRow,
}

/// All links of a configuration, with everything that they need from outside.
pub struct Program {
    context: Context,
    metrics: Metrics,
    heartbeats: Heartbeats,
}

impl Program {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(_config: Config, context: Context, _mode: Mode) -> Self {
        Self { context, metrics: Metrics::new(), heartbeats: Heartbeats::new() }
    }

    /// Over this HTTP client.
    #[must_use]
    pub fn with_http(self, _http: SharedHttpClient) -> Self {
        self
    }

    /// Its metrics.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Its loops.
    #[must_use]
    pub fn heartbeats(&self) -> Heartbeats {
        self.heartbeats.clone()
    }

    /// Who knows how things are.
    #[must_use]
    pub fn status_source(self: &Arc<Self>) -> Arc<dyn StatusSource> {
        Arc::new(Unwired(self.context.clone()))
    }

    /// The service.
    ///
    /// # Errors
    /// Always.
    #[expect(clippy::unused_async, reason = "not wired")]
    pub async fn run(self: &Arc<Self>, _stop: CancellationToken) -> Result<()> {
        Err(not_wired())
    }

    /// Load, catch up, verify.
    ///
    /// # Errors
    /// Always.
    #[expect(clippy::unused_async, reason = "not wired")]
    pub async fn migrate(self: &Arc<Self>, _stop: CancellationToken) -> Result<Vec<MigrateReport>> {
        Err(not_wired())
    }

    /// Compare.
    ///
    /// # Errors
    /// Always.
    #[expect(clippy::unused_async, reason = "not wired")]
    pub async fn verify(
        self: &Arc<Self>,
        _options: VerifyOptions,
        _stop: CancellationToken,
    ) -> Result<Vec<(String, VerifyReport)>> {
        Err(not_wired())
    }

    /// From the state file.
    ///
    /// # Errors
    /// Always.
    #[expect(clippy::unused_async, reason = "not wired")]
    pub async fn stored_status(self: &Arc<Self>) -> Result<Status> {
        Err(not_wired())
    }

    /// Dead letters of these links; empty: all.
    ///
    /// # Errors
    /// Always.
    #[expect(clippy::unused_async, reason = "not wired")]
    pub async fn dead_letters(self: &Arc<Self>, _links: &[String]) -> Result<Vec<DeadLetter>> {
        Err(not_wired())
    }

    /// Replays them.
    ///
    /// # Errors
    /// Always.
    #[expect(clippy::unused_async, reason = "not wired")]
    pub async fn retry_dead_letters(self: &Arc<Self>, _links: &[String]) -> Result<u64> {
        Err(not_wired())
    }
}

fn not_wired() -> Error {
    Error::new(Exit::Unexpected, "not wired")
}

struct Unwired(Context);

impl StatusSource for Unwired {
    fn status(&self) -> Status {
        Status::new(self.0.now(), Vec::new())
    }

    fn readiness(&self) -> Vec<LinkReadiness> {
        Vec::new()
    }
}
