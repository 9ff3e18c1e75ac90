//! What a link's state is: from its board while it runs, from its rows when no process does.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Program;
use crate::checkpoint::rows::{GapRow, Stage};
use crate::checkpoint::{Leases, LinkState, PartName, Sighting, Sign};
use crate::config::{OnGap, PatternLink};
use crate::error::{Error, Exit, Result};
use crate::http::{LinkReadiness, NotReady, StatusSource};
use crate::model::{GapScope, ShardStatus, WallTime};
use crate::runtime::board::Snapshot;
use crate::runtime::fleet::WorkerReport;
use crate::runtime::link::{Importing, LinkSlots, parts_at_work, read_with_parts};
use crate::telemetry::lag::{RETENTION, Watermarks};
use crate::telemetry::status::{GapStatus, LinkStatus, LoadStatus, Status};
use crate::telemetry::{GapCause, Label as _, Phase, ShardState, ThrottleReason};

impl Program {
    /// What HTTP answers from.
    #[must_use]
    pub fn status_source(self: &Arc<Self>) -> Arc<dyn StatusSource> {
        Arc::new(Watched(Arc::clone(self)))
    }

    /// The status that the state tells, when no process answers.
    ///
    /// # Errors
    /// State that cannot be read, or that a process holds.
    pub async fn stored_status(self: &Arc<Self>) -> Result<Status> {
        let store = self.open_store(true).await?;
        let leases = store.leases();
        let signs = match &leases {
            Some(leases) => leases.signs().await?,
            None => Vec::new(),
        };
        let mut links = Vec::new();
        let mut names: BTreeSet<String> = store.links().await?.into_iter().collect();
        names.extend(self.named_links()?);
        for name in names {
            let (state, parts) = read_with_parts(store.as_ref(), &name).await?;
            let mut unheld = Vec::new();
            for part in parts {
                let troubles = self.troubles(leases.as_ref(), &part, &signs).await?;
                unheld.extend(troubles.into_iter().map(|why| format!("part {part}: {why}")));
            }
            let sighting = match &leases {
                Some(leases) => Some(leases.sight(&name, false).await?),
                None => None,
            };
            let now = self.context.now();
            let trouble = match &sighting {
                Some(sighting) => holder_trouble(sighting, &signs, now),
                None => Some("no process is running this link".to_owned()),
            };
            let mut link = stored_link(&name, &state, self.on_gap(&name), trouble.is_none(), now);
            if state.link.is_none()
                && let Some(import) = store.import_request(&name).await?
            {
                link.phase = Phase::InitialLoad;
                link.needs = vec![format!("its target is being imported, or was: asked for at {}", import.asked)];
            }
            if let Some(sighting) = &sighting {
                tell_holder(&mut link, sighting, &signs, trouble.is_none(), now);
            }
            link.needs.extend(trouble);
            link.needs.extend(unheld);
            links.push(with_trouble(link, told_trouble(&name, sighting.as_ref(), &signs, now)));
        }
        Ok(Status::new(self.context.now(), links))
    }

    /// The links of the configuration on which no live worker works, and why that is known, as the state table tells; for
    /// probes on any machine.
    ///
    /// # Errors
    /// State that is in no table, or cannot be read.
    pub async fn unheld_links(self: &Arc<Self>) -> Result<Vec<(String, String)>> {
        let store = self.open_store(true).await?;
        let leases = store.leases().ok_or_else(|| {
            Error::new(Exit::Config, "ask the state table for its workers: the state is in a file")
                .hint("set `checkpoint.store` to \"dynamodb:TABLE\", or ask the process itself")
        })?;
        let signs = leases.signs().await?;
        let mut unheld = Vec::new();
        for link in self.links().await? {
            let parts = parts_at_work(store.as_ref(), &link.name).await?;
            for name in std::iter::once(&link.name).chain(&parts) {
                let sighting = leases.sight(name, false).await?;
                let trouble = self.unheld(name, &sighting, &signs);
                unheld.extend(trouble.map(|trouble| (name.clone(), trouble)));
            }
        }
        Ok(unheld)
    }

    /// Why no live worker works on a link, or on a part of one.
    fn unheld(&self, link: &str, sighting: &Sighting, signs: &[Sign]) -> Option<String> {
        // It was removed since: the link is whole.
        let is_gone = sighting.fence.is_none() && PartName::parse(link).is_some();
        holder_trouble(sighting, signs, self.context.now()).filter(|_| !is_gone)
    }

    /// The same of a part, and what is wrong with it.
    async fn troubles(&self, leases: Option<&Arc<dyn Leases>>, part: &str, signs: &[Sign]) -> Result<Vec<String>> {
        let Some(leases) = leases else { return Ok(Vec::new()) };
        let sighting = leases.sight(part, false).await?;
        let told = told_trouble(part, Some(&sighting), signs, self.context.now());
        Ok(self.unheld(part, &sighting, signs).into_iter().chain(told).collect())
    }
}

impl Program {
    /// The links of the configuration that are known without asking for the source's tables.
    fn named_links(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = self.config.links.iter().map(|link| link.name.clone()).collect();
        for pattern in self.config.patterns.iter().filter(|pattern| !pattern.needs_listing()) {
            names.extend(pattern.expand(&[])?.into_iter().map(|link| link.name));
        }
        Ok(names)
    }

    /// What becomes of a link's gaps; of one that the configuration does not name, as if it said nothing.
    fn on_gap(&self, link: &str) -> OnGap {
        let named = self.config.links.iter().find(|known| known.name == link).map(|known| known.stream.on_gap);
        let of_pattern = || self.config.patterns.iter().find(|known| known.may_name(link)).map(PatternLink::on_gap);
        named.or_else(of_pattern).unwrap_or(OnGap::Heal)
    }
}

struct Watched(Arc<Program>);

impl Watched {
    /// Tables that match a pattern and are not copied are told by the first of its links: they have none of their own.
    fn tell_not_copied(&self, links: &mut [LinkStatus]) {
        let not_copied = self.0.not_copied.lock().unwrap_or_else(PoisonError::into_inner);
        for (pattern, tables) in not_copied.iter().filter(|(_, tables)| !tables.is_empty()) {
            let is_of = |name: &str| name.strip_prefix(pattern.as_str()).is_some_and(|rest| rest.starts_with('.'));
            let Some(first) = links.iter_mut().find(|link| is_of(&link.link)) else { continue };
            let tables = tables.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            first
                .needs
                .push(format!("[link.{pattern}] matches new tables, not copied before the next start: {tables}"));
        }
    }

    fn slots(&self) -> Vec<(String, LinkSlots)> {
        self.0.slots().iter().map(|(name, slots)| (name.clone(), slots.clone())).collect()
    }
}

impl StatusSource for Watched {
    fn status(&self) -> Status {
        let slots = self.slots();
        let mut verifying = self.0.verifying.all();
        let links = slots.iter().map(|(name, slots)| {
            let link = match (slots.standby(), slots.board()) {
                (Some(_), _) => LinkStatus::new(name, Phase::Standby),
                (None, Some(board)) => live_link(name, &board.snapshot(), slots.on_gap),
                (None, None) => starting_link(name, slots.importing()),
            };
            let link = with_trouble(link, slots.trouble());
            LinkStatus { verify: verifying.remove(name), ..link }
        });
        let mut links: Vec<LinkStatus> = links.collect();
        self.tell_not_copied(&mut links);
        // Tables that are compared while no link of this process copies them.
        let alone = verifying.into_iter();
        links.extend(
            alone.map(|(name, now)| LinkStatus { verify: Some(now), ..LinkStatus::new(name, Phase::Starting) }),
        );
        Status::new(self.0.context.now(), links)
    }

    fn readiness(&self) -> Vec<LinkReadiness> {
        let slots = self.slots().into_iter();
        slots
            .map(|(link, slots)| {
                if slots.standby().is_some() {
                    return LinkReadiness { link, reasons: Vec::new(), standby: true };
                }
                let snapshot = slots.board().map(|board| board.snapshot());
                let has_failed = slots.trouble().is_some();
                let mut reasons = Vec::new();
                match snapshot {
                    None if has_failed => reasons.push(NotReady::Failed),
                    None => reasons.push(NotReady::NotStarted),
                    Some(now) => {
                        if now.is_denied {
                            reasons.push(NotReady::Credentials);
                        }
                        if !now.stream_opened {
                            reasons.push(NotReady::StreamNotOpened);
                        }
                        if !now.books.open_gaps.is_empty() {
                            reasons.push(NotReady::GapOpen);
                        }
                        if has_failed || now.phase == Phase::Failed {
                            reasons.push(NotReady::Failed);
                        }
                    }
                }
                LinkReadiness { link, reasons, standby: false }
            })
            .collect()
    }

    fn refresh_metrics(&self) {
        self.slots().iter().filter_map(|(_, slots)| slots.board()).for_each(|board| drop(board.snapshot()));
    }
}

/// What the worker that has the link said last; `lives`: whether it still does.
fn tell_holder(link: &mut LinkStatus, sighting: &Sighting, signs: &[Sign], lives: bool, now: WallTime) {
    if let Some(sign) = sign_of_holder(sighting, signs) {
        let report: WorkerReport = serde_json::from_str(&sign.report).unwrap_or_default();
        if let Some(mark) = report.links.get(&link.link) {
            let watermarks = Watermarks { read: None, applied: mark.applied, checkpointed: mark.checkpointed };
            link.set_lag(watermarks, Some(mark.deadline), now);
            if lives {
                link.phase = mark.phase;
            }
        }
    }
}

fn sign_of_holder<'a>(sighting: &Sighting, signs: &'a [Sign]) -> Option<&'a Sign> {
    let holder = sighting.fence.as_ref().filter(|_| !sighting.released)?;
    signs.iter().find(|sign| sign.worker == holder.owner)
}

/// Why a link failed, as the worker that has it said with its last sign; of one that nobody has, as any worker that lives
/// says.
fn told_trouble(link: &str, sighting: Option<&Sighting>, signs: &[Sign], now: WallTime) -> Option<String> {
    let sighting = sighting?;
    let tells = |sign: &Sign| {
        let report: WorkerReport = serde_json::from_str(&sign.report).unwrap_or_default();
        report.failed.get(link).map(|why| format!("worker {}: {why}", sign.worker))
    };
    match sign_of_holder(sighting, signs).filter(|sign| silence(sign, now) <= sign.lease) {
        Some(holder) => tells(holder),
        None => signs.iter().filter(|sign| silence(sign, now) <= sign.lease).find_map(tells),
    }
}

/// For how long a worker gave no sign. By two machines' clocks: good enough to be looked at.
fn silence(sign: &Sign, now: WallTime) -> Duration {
    Duration::from_secs(now.since(sign.at).as_secs())
}

/// Why nobody works on a link, as far as its rows tell; `None`: somebody does.
fn holder_trouble(sighting: &Sighting, signs: &[Sign], now: WallTime) -> Option<String> {
    let Some(holder) = sighting.fence.as_ref().filter(|_| !sighting.released).map(|fence| fence.owner.as_str()) else {
        return Some("no worker has this link".to_owned());
    };
    let Some(sign) = sign_of_holder(sighting, signs) else {
        return Some(format!("worker {holder}, which has this link, is gone"));
    };
    let silent = silence(sign, now);
    (silent > sign.lease).then(|| format!("worker {holder}, which has this link, gave no sign of life for {silent:?}"))
}

/// A link whose books are not open yet: it looks around, or its target is being imported.
fn starting_link(name: &str, importing: Option<Importing>) -> LinkStatus {
    let Some(Importing { load, errors }) = importing else { return LinkStatus::new(name, Phase::Starting) };
    let mut status = LinkStatus { load: Some(load), ..LinkStatus::new(name, Phase::InitialLoad) };
    if errors > 0 {
        status.needs.push(format!("the import has refused {errors} items: they are copied when it is over"));
    }
    status
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn live_link(name: &str, now: &Snapshot, on_gap: OnGap) -> LinkStatus {
    let mut status = LinkStatus::new(name, now.phase);
    let deadline = Some(now.retention_deadline).filter(|_| !now.is_chained);
    status.set_lag(now.watermarks, deadline, now.now);
    status.records_per_second = now.records_per_second;
    status.load = now.load.plan.as_ref().map(|plan| {
        let running = now.load.elapsed.as_secs_f64();
        let mut load = LoadStatus {
            bytes: now.load.bytes,
            expected_bytes: Some(plan.expected_bytes).filter(|bytes| *bytes > 0),
            items: now.load.items,
            segments_done: u64::from(now.load.segments_done),
            segments: u64::from(plan.total_segments),
            rate_bytes_per_second: (running > 0.0).then(|| now.load.bytes as f64 / running),
            eta_seconds: None,
        };
        load.eta_seconds = load.estimate_eta_seconds(running);
        load
    });
    status.shards = vec![
        (ShardState::Open, now.counts.open as u64),
        (ShardState::WaitingParent, now.counts.waiting_parent as u64),
        (ShardState::ClosedPending, now.counts.closed_pending as u64),
    ];
    status.gaps = now.books.open_gaps.iter().filter_map(gap_status).collect();
    status.dead_letters = now.books.dead_letters;
    status.in_doubt = now.books.doubts as u64;
    status.throttle = match () {
        () if now.load.waits_for_stream => Some(ThrottleReason::StreamFirst),
        () if now.is_target_throttled => Some(ThrottleReason::TargetThrottling),
        () => None,
    };
    status.needs = needs(&status, on_gap, true);
    status
}

fn stored_link(name: &str, state: &LinkState, on_gap: OnGap, runs: bool, now: WallTime) -> LinkStatus {
    let phase = match state.link.as_ref().map(|row| row.stage) {
        Some(Stage::Loading) => Phase::InitialLoad,
        Some(Stage::Streaming | Stage::Divided(_)) => Phase::CatchingUp,
        None => Phase::Starting,
    };
    let mut status = LinkStatus::new(name, phase);
    let unfinished = state.shards.iter().filter(|row| row.status != ShardStatus::Finished);
    // A checkpoint's time is that of the last change: of an idle table the link's row knows more.
    let checkpointed = unfinished.map(|row| row.checkpoint_time).min().flatten();
    let settled = checkpointed.max(state.link.as_ref().and_then(|row| row.settled_until));
    if phase == Phase::CatchingUp {
        let watermarks = Watermarks { read: None, applied: settled, checkpointed: settled };
        let deadline = settled.map(|time| time.plus(RETENTION));
        status.set_lag(watermarks, deadline, now);
    }
    status.gaps = state.gaps.iter().filter(|gap| gap.healed.is_none()).filter_map(gap_status).collect();
    status.dead_letters = state.dead_letters.0;
    status.in_doubt = state.doubts.iter().filter(|doubt| doubt.page.is_none()).count() as u64;
    status.needs = needs(&status, on_gap, runs);
    if state.link.is_none() {
        status.needs.push("this link never ran".to_owned());
    }
    status
}

fn gap_status(gap: &GapRow) -> Option<GapStatus> {
    let cause = GapCause::ALL.iter().copied().find(|cause| cause.as_str() == gap.cause)?;
    let shard = match &gap.scope {
        GapScope::Shard(shard) => Some(shard.to_string()),
        GapScope::All => None,
    };
    Some(GapStatus { cause, shard, from: gap.from, to: gap.to })
}

/// A link that could not be opened, or that stopped, says so before everything else.
fn with_trouble(mut link: LinkStatus, trouble: Option<String>) -> LinkStatus {
    if let Some(trouble) = trouble {
        link.phase = Phase::Failed;
        link.needs.insert(0, trouble);
    }
    link
}

/// What gaps and dead letters ask for; `runs`: whether a process works on the link.
fn needs(status: &LinkStatus, on_gap: OnGap, runs: bool) -> Vec<String> {
    let mut needs = Vec::new();
    let gaps = match status.gaps.len() {
        0 => None,
        1 => Some("1 gap is open".to_owned()),
        gaps => Some(format!("{gaps} gaps are open")),
    };
    needs.extend(gaps.map(|gaps| match (on_gap, runs) {
        (OnGap::Heal, true) => format!("{gaps}: both tables are being compared, and what differs is mended"),
        (OnGap::Heal, false) => format!("{gaps}: run the link, which compares both tables and mends what differs"),
        (OnGap::Stop, _) => {
            format!("{gaps}, and on_gap is \"stop\": set `stream.on_gap = \"heal\"`, or load again with a fresh state")
        }
    }));
    needs.extend(match status.dead_letters {
        0 => None,
        1 => Some("1 dead letter: dynaferry dead-letter list".to_owned()),
        letters => Some(format!("{letters} dead letters: dynaferry dead-letter list")),
    });
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(gaps: usize, dead_letters: u64) -> LinkStatus {
        let gap = GapStatus { cause: GapCause::Trimmed, shard: None, from: None, to: WallTime::from_secs(1) };
        LinkStatus { gaps: vec![gap; gaps], dead_letters, ..LinkStatus::new("orders", Phase::Replicating) }
    }

    #[test]
    fn what_a_gap_needs_follows_its_policy_and_whether_the_link_runs() {
        let of_gap = |gaps, on_gap, runs| needs(&link(gaps, 0), on_gap, runs).remove(0);
        let running = "1 gap is open: both tables are being compared, and what differs is mended";
        assert_eq!(of_gap(1, OnGap::Heal, true), running);
        let stopped = "2 gaps are open: run the link, which compares both tables and mends what differs";
        assert_eq!(of_gap(2, OnGap::Heal, false), stopped);
        for runs in [true, false] {
            let text = of_gap(1, OnGap::Stop, runs);
            assert!(text.starts_with("1 gap is open, and on_gap is \"stop\": set `stream.on_gap"), "{text}");
        }
        assert!(needs(&link(0, 0), OnGap::Stop, true).is_empty());
    }

    #[test]
    fn why_a_link_failed_comes_before_everything_else() {
        let status = LinkStatus { needs: needs(&link(0, 1), OnGap::Heal, true), ..link(0, 1) };
        let failed = with_trouble(status.clone(), Some("find target table copy; try: create it".to_owned()));
        assert_eq!(failed.phase, Phase::Failed);
        assert_eq!(
            failed.needs,
            ["find target table copy; try: create it", "1 dead letter: dynaferry dead-letter list"]
        );
        assert_eq!(with_trouble(status.clone(), None), status);
    }
}
