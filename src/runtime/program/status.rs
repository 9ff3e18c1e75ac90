//! What a link's state is: from its board while it runs, from its rows when no process does.

use std::sync::Arc;
use std::time::Duration;

use super::Program;
use crate::checkpoint::rows::{GapRow, Stage};
use crate::checkpoint::{LinkState, Sighting, Sign};
use crate::context::Context;
use crate::error::{Error, Exit, Result};
use crate::http::{LinkReadiness, NotReady, StatusSource};
use crate::model::{GapScope, ShardStatus, WallTime};
use crate::runtime::board::Snapshot;
use crate::runtime::fleet::WorkerReport;
use crate::runtime::link::LinkSlots;
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
        for name in store.links().await? {
            let state = store.read(&name).await?;
            let mut link = stored_link(&name, &state, &self.context);
            match &leases {
                None => link.needs.push("no process is running this link".to_owned()),
                Some(leases) => {
                    let sighting = leases.sight(&name, false).await?;
                    tell_holder(&mut link, &sighting, &signs, self.context.now());
                }
            }
            links.push(link);
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
            let sighting = leases.sight(&link.name, false).await?;
            if let Some(trouble) = holder_trouble(&sighting, &signs, self.context.now()) {
                unheld.push((link.name, trouble));
            }
        }
        Ok(unheld)
    }
}

struct Watched(Arc<Program>);

impl Watched {
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
                (None, Some(board)) => live_link(name, &board.snapshot()),
                (None, None) => LinkStatus::new(name, Phase::Starting),
            };
            LinkStatus { verify: verifying.remove(name), ..link }
        });
        let mut links: Vec<LinkStatus> = links.collect();
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
                let mut reasons = Vec::new();
                match snapshot {
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
                        if now.phase == Phase::Failed {
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

/// What the worker that has the link said last, and what is wrong with that worker.
fn tell_holder(link: &mut LinkStatus, sighting: &Sighting, signs: &[Sign], now: WallTime) {
    let trouble = holder_trouble(sighting, signs, now);
    if let Some(sign) = sign_of_holder(sighting, signs) {
        let report: WorkerReport = serde_json::from_str(&sign.report).unwrap_or_default();
        if let Some(mark) = report.links.get(&link.link) {
            let watermarks = Watermarks { read: None, applied: mark.applied, checkpointed: mark.checkpointed };
            link.set_lag(watermarks, Some(mark.deadline), now);
            if trouble.is_none() {
                link.phase = mark.phase;
            }
        }
    }
    link.needs.extend(trouble);
}

fn sign_of_holder<'a>(sighting: &Sighting, signs: &'a [Sign]) -> Option<&'a Sign> {
    let holder = sighting.fence.as_ref().filter(|_| !sighting.released)?;
    signs.iter().find(|sign| sign.worker == holder.owner)
}

/// Why nobody works on a link, as far as its rows tell; `None`: somebody does.
fn holder_trouble(sighting: &Sighting, signs: &[Sign], now: WallTime) -> Option<String> {
    let Some(holder) = sighting.fence.as_ref().filter(|_| !sighting.released).map(|fence| fence.owner.as_str()) else {
        return Some("no worker has this link".to_owned());
    };
    let Some(sign) = sign_of_holder(sighting, signs) else {
        return Some(format!("worker {holder}, which has this link, is gone"));
    };
    // By two machines' clocks: good enough to be looked at.
    let silent = Duration::from_secs(now.since(sign.at).as_secs());
    (silent > sign.lease).then(|| format!("worker {holder}, which has this link, gave no sign of life for {silent:?}"))
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn live_link(name: &str, now: &Snapshot) -> LinkStatus {
    let mut status = LinkStatus::new(name, now.phase);
    status.set_lag(now.watermarks, Some(now.retention_deadline), now.now);
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
    status.needs = needs(&status);
    status
}

fn stored_link(name: &str, state: &LinkState, context: &Context) -> LinkStatus {
    let phase = match state.link.as_ref().map(|row| row.stage) {
        Some(Stage::Loading) => Phase::InitialLoad,
        Some(Stage::Streaming) => Phase::CatchingUp,
        None => Phase::Starting,
    };
    let mut status = LinkStatus::new(name, phase);
    let unfinished = state.shards.iter().filter(|row| row.status != ShardStatus::Finished);
    let settled = unfinished.clone().map(|row| row.checkpoint_time).min().flatten();
    if phase == Phase::CatchingUp {
        let watermarks = Watermarks { read: None, applied: settled, checkpointed: settled };
        let deadline = settled.map(|time| time.plus(RETENTION));
        status.set_lag(watermarks, deadline, context.now());
    }
    status.gaps = state.gaps.iter().filter(|gap| gap.healed.is_none()).filter_map(gap_status).collect();
    status.dead_letters = state.dead_letters.0;
    status.in_doubt = state.doubts.iter().filter(|doubt| doubt.page.is_none()).count() as u64;
    status.needs = needs(&status);
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

fn needs(status: &LinkStatus) -> Vec<String> {
    let mut needs = Vec::new();
    if !status.gaps.is_empty() {
        needs.push(format!("{} gaps are open: they heal by themselves, see the log", status.gaps.len()));
    }
    if status.dead_letters > 0 {
        needs.push(format!("{} dead letters: dynaferry dead-letter list", status.dead_letters));
    }
    needs
}
