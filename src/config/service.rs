//! Settings of the process: `[checkpoint]`, `[service]`, `[telemetry]`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::section::{Complaint, Section, Word, defaults};
use super::units;
use crate::model::is_table_name;

/// Beside the process; enough for one-shot runs and for a sidecar with a volume.
pub const DEFAULT_STORE: &str = "file:./dynaferry.redb";
/// A crash costs at most a second of replay.
pub const DEFAULT_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// Below, the disk is the limit; above, replay after a crash takes long.
pub const CHECKPOINT_INTERVAL_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// A crash costs at most a thousand records of replay: one page.
pub const DEFAULT_CHECKPOINT_RECORDS: u64 = 1_000;
/// One record to a million.
pub const CHECKPOINT_RECORDS_RANGE: RangeInclusive<u64> = 1..=1_000_000;
/// One fleet in a table.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Long enough for a throttled table and a slow host, short enough to be waited for.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(20);
/// Below, a pause of the network loses the lease; above, a dead worker's links wait for long.
pub const LEASE_RANGE: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(300);
/// Else who starts first has all links. A hand-over costs a link about a second of lag.
pub const DEFAULT_BALANCE: bool = true;
/// While it is young: what shares a link is kept back until somebody asks for it.
pub const DEFAULT_SHARING: bool = false;
/// This host only: metrics name tables. 9464 is the port that OpenTelemetry's Prometheus exporters use.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);
/// Ten seconds less than Kubernetes and ECS give before they kill.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(20);
/// Zero stops at once; more than ten minutes, no orchestrator waits.
pub const DRAIN_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);

/// Where checkpoints live.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Store {
    /// One embedded file, locked by one process. Relative to the working directory.
    File(PathBuf),
    /// A DynamoDB table of this name in the account and Region of the links' targets; many processes may use it.
    DynamoDb(String),
}

impl Serialize for Store {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) => serializer.collect_str(&format_args!("file:{}", path.display())),
            Self::DynamoDb(table) => serializer.collect_str(&format_args!("dynamodb:{table}")),
        }
    }
}

/// Where progress is kept, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointConfig {
    /// Default [`DEFAULT_STORE`].
    pub store: Store,
    /// Longest time between two checkpoints. Default [`DEFAULT_CHECKPOINT_INTERVAL`].
    #[serde(serialize_with = "units::duration")]
    pub interval: Duration,
    /// Most records between two checkpoints. Default [`DEFAULT_CHECKPOINT_RECORDS`].
    pub records: u64,
    /// Of a table that several fleets share, this fleet's part: links of one name in two of them are two links. 1 to 64 of
    /// `A-Za-z0-9_.-`. Default [`DEFAULT_NAMESPACE`].
    pub namespace: String,
    /// Of a table that several workers share: a worker that gave no sign of life for so long has lost its links. Default
    /// [`DEFAULT_LEASE`].
    #[serde(serialize_with = "units::duration")]
    pub lease: Duration,
    /// Of a table that several workers share: whether a worker that has two links more than another one hands one over.
    /// Default [`DEFAULT_BALANCE`].
    pub balance: bool,
    /// Of a table that several workers share: whether they share the shards of a link, too, while it streams. Default
    /// [`DEFAULT_SHARING`].
    pub sharing: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl CheckpointConfig {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = || Store::File(DEFAULT_STORE.trim_start_matches("file:").into());
        let read = Self {
            store: section.text("store", store).unwrap_or_else(default),
            interval: section.duration("interval", DEFAULT_CHECKPOINT_INTERVAL, CHECKPOINT_INTERVAL_RANGE),
            records: section.integer("records", DEFAULT_CHECKPOINT_RECORDS, CHECKPOINT_RECORDS_RANGE),
            namespace: section.text("namespace", namespace).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            lease: section.duration("lease", DEFAULT_LEASE, LEASE_RANGE),
            balance: section.flag("balance", DEFAULT_BALANCE),
            sharing: section.flag("sharing", DEFAULT_SHARING),
        };
        section.finish();
        read
    }
}

fn store(text: &str) -> Result<Store, Complaint> {
    const FILE: &str = "write \"file:PATH\", as in \"file:./dynaferry.redb\"";
    const TABLE: &str =
        "write \"dynamodb:TABLE\", as in \"dynamodb:dynaferry-state\"; 3 to 255 letters, digits, `_`, `.` or `-`";
    match text.split_once(':') {
        Some(("file", "")) => Err(Complaint::new("names no file", FILE)),
        Some(("file", path)) if path.ends_with('/') => Err(Complaint::new("names a directory, not a file", FILE)),
        Some(("file", path)) => Ok(Store::File(path.into())),
        Some(("dynamodb", table)) if is_table_name(table) => Ok(Store::DynamoDb(table.to_owned())),
        Some(("dynamodb", _)) => Err(Complaint::new("names no table", TABLE)),
        _ => Err(Complaint::new("is no store", "write \"file:PATH\" or \"dynamodb:TABLE\"")),
    }
}

fn namespace(text: &str) -> Result<String, Complaint> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(legal) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("is not a namespace", "1 to 64 letters, digits, `_`, `.` or `-`"))
}

/// The process as a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceConfig {
    /// Where metrics, health and the page are served, read only. Default [`DEFAULT_LISTEN`]; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How long a shutdown may take. Default [`DEFAULT_DRAIN`].
    #[serde(serialize_with = "units::duration")]
    pub drain: Duration,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl ServiceConfig {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        section.later("control", "remove it; the process is controlled by its signals");
        let listen = |text: &str| {
            text.parse().map_err(|_| {
                Complaint::new("is not an address with a port", "as in \"127.0.0.1:9464\" or \"[::]:9464\"")
            })
        };
        let read = Self {
            listen: section.text("listen", listen).unwrap_or(DEFAULT_LISTEN),
            drain: section.duration("drain", DEFAULT_DRAIN, DRAIN_RANGE),
        };
        section.finish();
        read
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// Text.
    Text,
    /// One JSON object per line.
    Json,
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("text", Self::Text), ("json", Self::Json)];
}

/// The least important lines that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What needs a human.
    Error,
    /// What was survived.
    Warn,
    /// What happens.
    Info,
    /// Decisions.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word: `info`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Word for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TelemetryConfig {
    /// Default `auto`.
    pub log_format: LogFormat,
    /// Default `info`.
    pub log_level: LogLevel,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl TelemetryConfig {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let read = Self {
            log_format: section.word("log_format", LogFormat::Auto),
            log_level: section.word("log_level", LogLevel::Info),
        };
        section.finish();
        read
    }
}
