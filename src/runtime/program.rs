//! What a command runs: all links of a configuration, in one process.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::rows::DeadLetterRow;
use crate::config::Config;
use crate::context::Context;
use crate::error::Result;
use crate::http::{Heartbeats, LinkReadiness, StatusSource};
use crate::telemetry::status::{LinkStatus, Status};
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
    config: Config,
    context: Context,
    mode: Mode,
    metrics: Metrics,
    heartbeats: Heartbeats,
}
