//! Closes gaps: compares both tables once and syncs whatever differs, at once.
//!
//! Nothing is confirmed first: a sync is safe at any time, and needless ones cost a read and a write. It is enough to make
//! one pass while the stream is applied from its oldest record on: changes after the start of the pass come through the
//! stream, so only what was trimmed before it can still be different, and a scan sees that whenever it comes by.

use std::io::Write;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use tokio::time::Instant;

use super::compare::{Candidate, Compare};
use super::confirm::{Look, Sides};
use super::repair::{REPAIR_BATCH, Repairer, Repairs};
use super::report::{Difference, ReportWriter, State};
use super::{Kind, OnProgress, VerifyError, VerifySettings, compare_limits, open_sides};
use crate::context::Context;
use crate::load::TableReader;
use crate::model::Key;

/// Calls of the repairer at once.
const MAX_SYNCS: usize = 4;

/// One healing pass.
pub struct HealJob {
    /// The source, as the target should be: a link that filters or renames wraps its source.
    pub source: Arc<dyn TableReader>,
    /// The target.
    pub target: Arc<dyn TableReader>,
    /// How; `owns_target` decides on keys that only the target has. Looks and `stop_after` do not apply.
    pub settings: VerifySettings,
    /// Time and chance.
    pub context: Context,
    /// What repairs a key.
    pub repairer: Arc<dyn Repairer>,
    /// Takes one JSON line for each key that was left, because only the target has it and others may write there.
    pub report: Option<Box<dyn Write + Send>>,
    /// Called after every page and every repair.
    pub progress: Option<OnProgress<HealReport>>,
}

/// The outcome of a healing pass; while it runs, what is done so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct HealReport {
    /// Items read at the source.
    pub source_items: u64,
    /// Items read at the target.
    pub target_items: u64,
    /// Segments read to their end on both sides.
    pub segments_done: u32,
    /// Keys that were synced.
    pub synced: u64,
    /// Keys whose entries had not met, and that a look found equal.
    pub settled: u64,
    /// Keys that only the target has, and that were left there: it is not the link's own.
    pub left_extra: u64,
    /// Seconds that it took.
    pub duration_seconds: f64,
    /// Read units consumed at the source; those of the syncs not included.
    pub source_units: f64,
    /// Read units consumed at the target.
    pub target_units: f64,
}

enum Done {
    Looked(Candidate, Box<Look>),
    Synced(usize),
}

struct Healing {
    sides: Sides,
    repairs: Repairs,
    reads: usize,
    max_held: usize,
    writer: Option<ReportWriter>,
    report: HealReport,
    to_sync: Vec<Key>,
    reading: usize,
    syncing: usize,
    work: FuturesUnordered<BoxFuture<'static, Result<Done, VerifyError>>>,
}

/// Compares both tables once, to the end, and has every difference synced.
///
/// Begin it when the stream is being applied from its oldest record on. Resolves when every sync was done. May be
/// repeated; dropping it half-way is safe, and the next one starts from the beginning.
///
/// # Errors
/// [`VerifyError`]; then the pass does not count.
pub async fn heal(job: HealJob) -> Result<HealReport, VerifyError> {
    let HealJob { source, target, settings, context, repairer, report, mut progress } = job;
    let started = Instant::now();
    let sides = open_sides(source, target, &context, &settings).await?;
    let limits = compare_limits(&settings);
    let mut compare = Compare::new(Arc::clone(&sides.0), Arc::clone(&sides.1), context, limits);
    let mut healing = Healing::new(sides, Repairs::new(repairer, settings.owns_target), &settings, report);
    loop {
        while healing.has_room()
            && let Some(candidate) = compare.pop()
        {
            healing.take(candidate);
        }
        compare.launch();
        healing.launch();
        if compare.is_idle() && healing.work.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            stepped = healing.step(), if !healing.work.is_empty() => stepped?,
            stepped = compare.step(), if !compare.is_idle() => stepped?,
        }
        let counts = compare.counts();
        healing.report.source_items = counts.source_items;
        healing.report.target_items = counts.target_items;
        healing.report.segments_done = counts.segments_done;
        healing.report.duration_seconds = started.elapsed().as_secs_f64();
        if let Some(progress) = &mut progress {
            progress(&healing.report);
        }
    }
    healing.finish()
}

impl Healing {
    fn new(sides: Sides, repairs: Repairs, settings: &VerifySettings, report: Option<Box<dyn Write + Send>>) -> Self {
        Self {
            sides,
            repairs,
            reads: settings.reads.max(1),
            max_held: settings.max_suspects.max(1),
            writer: report.map(|out| ReportWriter::new(out, settings)),
            report: HealReport::default(),
            to_sync: Vec::new(),
            reading: 0,
            syncing: 0,
            work: FuturesUnordered::new(),
        }
    }

    fn has_room(&self) -> bool {
        self.reading < self.reads && self.to_sync.len() < self.max_held.min(MAX_SYNCS * REPAIR_BATCH)
    }

    /// A key whose entries differ is synced. One whose entries have not met is looked at first: where the tables are
    /// scanned in different orders that is every key, and a look is cheaper than a write.
    fn take(&mut self, candidate: Candidate) {
        if candidate.kind == Kind::Different {
            self.to_sync.push(candidate.key);
            return;
        }
        self.reading += 1;
        let sides = self.sides.clone();
        self.work.push(Box::pin(async move {
            let look = Look::at(&sides, &candidate.key).await?;
            Ok(Done::Looked(candidate, Box::new(look)))
        }));
    }

    fn launch(&mut self) {
        while self.syncing < MAX_SYNCS
            && !self.to_sync.is_empty()
            && (self.to_sync.len() >= REPAIR_BATCH || self.reading == 0)
        {
            let count = self.to_sync.len().min(REPAIR_BATCH);
            let keys: Vec<_> = self.to_sync.drain(..count).collect();
            let repairer = Arc::clone(&self.repairs.repairer);
            self.syncing += 1;
            self.work.push(Box::pin(async move {
                repairer.sync(keys).await?;
                Ok(Done::Synced(count))
            }));
        }
    }

    async fn step(&mut self) -> Result<(), VerifyError> {
        match self.work.next().await.transpose()? {
            Some(Done::Looked(candidate, look)) => {
                self.reading -= 1;
                self.judge(candidate, &look)?;
            }
            Some(Done::Synced(count)) => {
                self.syncing -= 1;
                self.report.synced += count as u64;
            }
            None => {}
        }
        Ok(())
    }

    fn judge(&mut self, candidate: Candidate, look: &Look) -> Result<(), VerifyError> {
        match look.kind() {
            None => self.report.settled += 1,
            Some(kind) if self.repairs.may(kind) => self.to_sync.push(candidate.key),
            Some(kind) => {
                self.report.left_extra += 1;
                let Candidate { key, first_seen, .. } = &candidate;
                let line = Difference { kind, state: State::Pending, key, first_seen: *first_seen, look: Some(look) };
                self.writer.as_mut().map_or(Ok(()), |writer| writer.write(&line))?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<HealReport, VerifyError> {
        if let Some(writer) = &mut self.writer {
            writer.flush()?;
        }
        self.report.source_units = self.sides.0.consumed();
        self.report.target_units = self.sides.1.consumed();
        Ok(self.report)
    }
}
