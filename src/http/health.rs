//! What the health endpoints answer: pure, apart from one latch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::telemetry::Phase;
use crate::telemetry::status::Status;

/// Why a link is not ready. Lag is not among them, on purpose: a restart does not cure it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotReady {
    /// Still starting: preconditions, discovery.
    NotStarted,
    /// The credentials of a side are missing or refused.
    Credentials,
    /// The source's stream was not opened.
    StreamNotOpened,
    /// A gap is open: the copy misses changes until it is healed.
    GapOpen,
    /// The link met a fault and stopped: it copies nothing until it is opened again, or until the process is.
    Failed,
}

/// Whether a link is ready: it is when there is no reason against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkReadiness {
    /// The link's name in the configuration.
    pub link: String,
    /// Every reason against it.
    pub reasons: Vec<NotReady>,
    /// Another worker has the link, and this one is ready to take it over: that is no reason against it, or a rolling
    /// update would wait for ever for the new worker while the old one has the link.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
}

/// The body of `/livez`.
#[derive(Debug, Serialize)]
pub(super) struct Liveness {
    alive: bool,
    stuck: Vec<StuckLoop>,
}

#[derive(Debug, Serialize)]
struct StuckLoop {
    name: Arc<str>,
    silent_seconds: u64,
}

impl Liveness {
    pub(super) fn of(stale: Vec<(Arc<str>, Duration)>) -> Self {
        let stuck = stale.into_iter().map(|(name, silent)| StuckLoop { name, silent_seconds: silent.as_secs() });
        let stuck: Vec<_> = stuck.collect();
        Self { alive: stuck.is_empty(), stuck }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.alive
    }
}

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    ready: bool,
    links: Vec<LinkReadiness>,
}

impl Readiness {
    /// Every link must be ready, and there must be one: a process that has not read its configuration is not.
    pub(super) fn of(links: Vec<LinkReadiness>) -> Self {
        Self { ready: !links.is_empty() && links.iter().all(|link| link.reasons.is_empty()), links }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.ready
    }
}

/// The body of `/startupz`.
#[derive(Debug, Serialize)]
pub(super) struct Startup {
    started: bool,
    waiting: Vec<WaitingLink>,
}

#[derive(Debug, Serialize)]
struct WaitingLink {
    link: String,
    phase: Phase,
    lag_seconds: Option<f64>,
}

impl Startup {
    pub(super) fn is_ok(&self) -> bool {
        self.started
    }
}

/// Remembers that the process has once started: from then on it has, whatever comes.
#[derive(Debug, Default)]
pub(super) struct StartupLatch(AtomicBool);

impl StartupLatch {
    /// Without a `max_lag`, a link has started once it is past [`Phase::Starting`]; with one, once its lag is known and
    /// within it. One latch serves one `max_lag`.
    pub(super) fn ask(&self, status: &Status, max_lag: Option<Duration>) -> Startup {
        let has_started = |phase: Phase, lag: Option<f64>| match max_lag {
            None => phase != Phase::Starting,
            Some(limit) => lag.is_some_and(|lag| lag <= limit.as_secs_f64()),
        };
        let waiting = status.links.iter().filter(|link| !has_started(link.phase, link.lag_seconds));
        let waiting = waiting.map(|link| WaitingLink {
            link: link.link.clone(),
            phase: link.phase,
            lag_seconds: link.lag_seconds,
        });
        let waiting: Vec<_> = waiting.collect();
        if waiting.is_empty() && !status.links.is_empty() {
            self.0.store(true, Ordering::Relaxed);
        }
        if self.0.load(Ordering::Relaxed) {
            return Startup { started: true, waiting: Vec::new() };
        }
        Startup { started: false, waiting }
    }
}

/// Reads a duration such as `5s`, `500ms`, `2m`, `1h`; `None` when it is not one.
pub(super) fn parse_max_lag(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}
