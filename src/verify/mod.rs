//! Compare, confirm, repair.
//!
//! ```text
//! scan source ─┐
//!              ├─→ join ─→ candidates ─→ confirm ─→ report, repair
//! scan target ─┘
//! ```
//!
//! Both tables are read while they are written, so what the scans see differ is only a suspicion. It is confirmed when the
//! key is read again on both sides, several times, with the replication's lag between the looks, and neither side moves while
//! they differ. Whatever never comes to rest is reported as pending and not taken for equal. Items are compared by value
//! ([`crate::decode::item_digest`]). Knows no stream and no checkpoint: the caller says how long a write takes to arrive,
//! and what repairs a key.

mod compare;
mod confirm;
mod heal;
mod merge;
mod repair;
mod report;
mod side;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

pub use heal::{HealJob, HealReport, heal};
pub use repair::{RepairError, Repairer};
pub use report::{Differences, KindCounts, VerifyProgress, VerifyReport};

use compare::{Compare, CompareLimits};
use confirm::{Confirm, ConfirmLimits};
use repair::Repairs;
use report::{ReportWriter, Tally};
use side::{SideReader, SideSettings};

use crate::context::Context;
use crate::decode::DecodeError;
use crate::error::Failure;
use crate::load::TableReader;
use crate::retry::Patience;

/// Pairs of segments that are read at once by default.
pub const DEFAULT_CONCURRENCY: usize = 4;
/// Entries that may wait for the other side, by default: some 30 MB with keys of usual length.
pub const DEFAULT_MAX_WAITING: usize = 100_000;
/// Suspects that may be held at once, by default.
pub const DEFAULT_MAX_SUSPECTS: usize = 10_000;
/// Single reads at once, each of both sides, by default.
pub const DEFAULT_READS: usize = 32;
/// Looks in a row that must show the same difference before it is confirmed, by default. Two would do where no item ever
/// takes an earlier value again; a third guards against ones that toggle.
pub const DEFAULT_LOOKS: u32 = 3;
/// Looks at a key that keeps changing before it is left pending, by default.
pub const DEFAULT_MAX_LOOKS: u32 = 10;

/// Longest random wait after the stream has passed.
const LONGEST_PHASE_SHIFT: Duration = Duration::from_secs(1);

/// What is told how far it is. Called between two steps: keep it short.
pub type OnProgress<T> = Box<dyn FnMut(&T) + Send>;

/// One of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The table that is copied.
    Source,
    /// The copy.
    Target,
}

impl Side {
    /// The name used in texts and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// How the tables differ at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// At the source only.
    Missing,
    /// At the target only.
    Extra,
    /// On both sides, with different values.
    Different,
}

impl Kind {
    /// The name used in metrics and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Different => "different",
        }
    }
}

/// How to wait until what the source held before has reached the target.
#[derive(Clone)]
pub enum Settle {
    /// This long and up to half as long again: the lag and two polls of the stream.
    After(Duration),
    /// Until the future of this call ends; each call is made after the reads it is for.
    Until(Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>),
}

impl Settle {
    /// Waits, and a random time more (`draw` from `[0, 1)`), so that no writer with a period is always met in one phase.
    fn wait(&self, draw: f64) -> BoxFuture<'static, ()> {
        match self {
            Self::After(duration) => Box::pin(tokio::time::sleep(duration.mul_f64(1.0 + 0.5 * draw))),
            Self::Until(passed) => {
                let passed = passed();
                Box::pin(async move {
                    passed.await;
                    tokio::time::sleep(LONGEST_PHASE_SHIFT.mul_f64(draw)).await;
                })
            }
        }
    }
}

impl std::fmt::Debug for Settle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::After(duration) => f.debug_tuple("After").field(duration).finish(),
            Self::Until(_) => f.write_str("Until"),
        }
    }
}

/// How two tables are compared.
#[derive(Debug, Clone)]
pub struct VerifySettings {
    /// Segments of either scan, 1 to 1,000,000.
    pub segments: u32,
    /// Pairs of segments at once. Default [`DEFAULT_CONCURRENCY`].
    pub concurrency: usize,
    /// Read units per second at the source; `None`: only the service limits.
    pub source_rate: Option<f64>,
    /// Read units per second at the target; `None`: only the service limits.
    pub target_rate: Option<f64>,
    /// Entries that may wait for the other side. Default [`DEFAULT_MAX_WAITING`].
    pub max_waiting: usize,
    /// Suspects held at once. Default [`DEFAULT_MAX_SUSPECTS`].
    pub max_suspects: usize,
    /// Single reads at once, each of both sides. Default [`DEFAULT_READS`].
    pub reads: usize,
    /// Equal looks that confirm a difference, at least 2. Default [`DEFAULT_LOOKS`].
    pub looks: u32,
    /// Looks before a key is left pending, at least `looks`. Default [`DEFAULT_MAX_LOOKS`].
    pub max_looks: u32,
    /// Stop when this many differences are confirmed or left pending; `None`: compare everything.
    pub stop_after: Option<u64>,
    /// The time-to-live attribute: items whose time has passed are counted apart, too. They are compared like all others.
    pub ttl_attribute: Option<String>,
    /// Whether nobody else writes the target: then a key that only the target has may be deleted.
    pub owns_target: bool,
    /// Whether the report shows items, not just keys.
    pub show_values: bool,
    /// The link that each line of the report names, for a report of several.
    pub link: Option<String>,
    /// For how long refused credentials are borne.
    pub patience: Patience,
}

impl Default for VerifySettings {
    fn default() -> Self {
        Self {
            segments: 1,
            concurrency: DEFAULT_CONCURRENCY,
            source_rate: None,
            target_rate: None,
            max_waiting: DEFAULT_MAX_WAITING,
            max_suspects: DEFAULT_MAX_SUSPECTS,
            reads: DEFAULT_READS,
            looks: DEFAULT_LOOKS,
            max_looks: DEFAULT_MAX_LOOKS,
            stop_after: None,
            ttl_attribute: None,
            owns_target: false,
            show_values: false,
            link: None,
            patience: Patience::COMMAND,
        }
    }
}

/// What ends a verification before its time.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A table could not be read, and will not be.
    #[error("read the {}", side.as_str())]
    Read {
        /// Which table.
        side: Side,
        /// Why.
        source: Failure,
    },
    /// A table holds an item that cannot be understood.
    #[error("understand an item of the {}", side.as_str())]
    Item {
        /// Which table.
        side: Side,
        /// Why.
        source: DecodeError,
    },
    /// The tables have different primary keys.
    #[error("compare tables with different primary keys")]
    Keys,
    /// The report could not be written.
    #[error("write the report")]
    Report(#[from] std::io::Error),
    /// Differences could not be repaired.
    #[error("repair differences")]
    Repair(#[from] RepairError),
}

/// One verification.
pub struct VerifyJob {
    /// The source, as the target should be: a link that filters or renames wraps its source.
    pub source: Arc<dyn TableReader>,
    /// The target.
    pub target: Arc<dyn TableReader>,
    /// How.
    pub settings: VerifySettings,
    /// Time and chance.
    pub context: Context,
    /// How long a write takes to arrive. Zero where the source is quiet and nothing replicates.
    pub settle: Settle,
    /// What repairs a key; `None`: report only.
    pub repairer: Option<Arc<dyn Repairer>>,
    /// Takes one JSON line a difference. Written in this task: give it a buffer.
    pub report: Option<Box<dyn Write + Send>>,
    /// Called after every page and every verdict.
    pub progress: Option<OnProgress<VerifyProgress>>,
}

/// Compares both tables once, to the end.
///
/// Reads only, but for the repairs. May be repeated; dropping it half-way is safe: repairs that were handed over go on by
/// themselves. Memory: `max_waiting` entries, `max_suspects` suspects twice, and one page a scan that is on its way; and
/// where the tables are not scanned in the same order, the keys of differing items that were found.
///
/// # Errors
/// [`VerifyError`]; what was reported until then stands.
pub async fn run(job: VerifyJob) -> Result<VerifyReport, VerifyError> {
    let VerifyJob { source, target, settings, context, settle, repairer, report, mut progress } = job;
    let started = Instant::now();
    let (source, target) = open_sides(source, target, &context, &settings).await?;
    let compare_limits = compare_limits(&settings);
    let mut compare = Compare::new(Arc::clone(&source), Arc::clone(&target), context.clone(), compare_limits);
    let mut confirm = Confirm::new(
        (Arc::clone(&source), Arc::clone(&target)),
        ConfirmLimits::new(&settings),
        settle,
        context,
        repairer.map(|repairer| Repairs::new(repairer, settings.owns_target)),
        Tally::new(report.map(|out| ReportWriter::new(out, &settings))),
    );
    let has_enough = |confirm: &Confirm| settings.stop_after.is_some_and(|most| confirm.findings() >= most);
    let mut complete = true;
    loop {
        while confirm.has_room()
            && let Some(candidate) = compare.pop()
        {
            confirm.suspect(candidate);
        }
        compare.launch();
        confirm.launch();
        if compare.is_idle() && confirm.is_idle() {
            break;
        }
        tokio::select! {
            biased;
            stepped = confirm.step(), if !confirm.is_idle() => stepped?,
            stepped = compare.step(), if !compare.is_idle() => stepped?,
        }
        if let Some(progress) = &mut progress {
            progress(&VerifyProgress::new(compare.counts(), &confirm, settings.segments));
        }
        if has_enough(&confirm) {
            complete = false;
            break;
        }
    }
    let units = (source.consumed(), target.consumed());
    confirm.into_tally().finish(*compare.counts(), complete, started.elapsed(), units)
}

async fn open_sides(
    source: Arc<dyn TableReader>,
    target: Arc<dyn TableReader>,
    context: &Context,
    settings: &VerifySettings,
) -> Result<(Arc<SideReader>, Arc<SideReader>), VerifyError> {
    let open = |side, table, rate| {
        let (patience, ttl_attribute) = (settings.patience, settings.ttl_attribute.clone());
        SideReader::new(side, table, context.clone(), SideSettings { rate, patience, ttl_attribute })
    };
    let source = open(Side::Source, source, settings.source_rate);
    let target = open(Side::Target, target, settings.target_rate);
    if source.describe().await?.keys != target.describe().await?.keys {
        return Err(VerifyError::Keys);
    }
    Ok((source, target))
}

fn compare_limits(settings: &VerifySettings) -> CompareLimits {
    CompareLimits {
        segments: settings.segments,
        concurrency: settings.concurrency,
        max_waiting: settings.max_waiting,
        max_found: settings.max_suspects,
    }
}
