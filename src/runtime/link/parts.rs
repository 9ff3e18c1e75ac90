//! The parts of a divided link, as a worker has them: it waits for each as it waits for links, and works on those that it gets.
//!
//! A part is a link to whatever works on it; what differs is here. `leading` is what the link's own owner does meanwhile.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::leading::{LET_GO_WITHIN, stopped_for};
use super::looking::{division_of, part_name};
use super::{Link, LinkSlots};
use crate::checkpoint::LinkState;
use crate::checkpoint::rows::{Division, ShardStatus};
use crate::config::LinkConfig;
use crate::error::{Error, Result, chain};
use crate::stream::lister::Listings;
use crate::stream::part::Elsewhere;
use crate::telemetry::Mode;

/// How often a worker looks whether a link is divided, or is to be whole again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A stream is listed so often by each worker, however many there are.
const LIST_AT_LEAST_EVERY: Duration = Duration::from_secs(300);
/// First and longest wait before a part that failed is opened again.
const PART_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What a part is a part of.
#[derive(Clone)]
pub(crate) struct PartOf {
    pub(super) link: String,
    pub(super) division: Division,
}

/// What this process does for a link that may be divided, besides leading it.
pub(crate) struct Sharing {
    /// Whether parts of the link are worked on here.
    at_work: watch::Sender<bool>,
    listings: Arc<Listings>,
    /// The link is not to be divided here before this.
    not_before: Mutex<Option<Instant>>,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { at_work: watch::Sender::new(false), listings: Arc::default(), not_before: Mutex::default() }
    }
}

impl Sharing {
    /// Where all listings of the link's stream go that its parts make here.
    pub(super) fn listings(&self) -> Arc<Listings> {
        Arc::clone(&self.listings)
    }

    /// Resolves when no part of the link is worked on here.
    ///
    /// One that begins after that finds the division recalled, if it was before this was asked.
    pub(super) async fn at_rest(&self) {
        let mut at_work = self.at_work.subscribe();
        // The sender is this struct's.
        let _still_there = at_work.wait_for(|at_work| !at_work).await.is_ok();
    }

    /// The link is not to be divided here for so long.
    pub(super) fn not_before(&self, wait: Duration) {
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = (*not_before).max(Some(Instant::now() + wait));
    }

    /// Whether that time is over.
    pub(super) fn is_time(&self) -> bool {
        let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        not_before.is_none_or(|at| at <= Instant::now())
    }
}

/// The parts of one division that this process works on or waits for.
struct AtWork {
    division: Division,
    tasks: JoinSet<Result<()>>,
    stop: CancellationToken,
}

impl Link {
    /// Whether this process works on parts of the link, and divides it.
    pub(super) fn shares(&self) -> bool {
        let is_service = self.shared.mode == Mode::Service;
        self.part.is_none() && self.shared.fleet.is_some() && is_service && self.shared.checkpoint.sharing
    }

    /// Runs the link, and beside it, whoever leads it, those of its parts that fall to this worker.
    pub(super) async fn run_beside_parts(
        &self,
        run: impl Future<Output = Result<()>>,
        (stop_link, stop): (CancellationToken, CancellationToken),
    ) -> Result<()> {
        let stop_parts = stop.child_token();
        let parts = self.work_on_parts(&stop_parts);
        tokio::pin!(run, parts);
        tokio::select! {
            biased;
            done = &mut run => {
                stop_parts.cancel();
                done.and(parts.await)
            }
            done = &mut parts => {
                stop_link.cancel();
                run.await.and(done)
            }
        }
    }

    /// Looks how the link is divided, and works on its parts accordingly. Ends when it is told to, or after a bug.
    async fn work_on_parts(&self, stop: &CancellationToken) -> Result<()> {
        let Some(leases) = self.shared.store.leases() else { return Ok(()) };
        let mut at_work: Option<AtWork> = None;
        let mut failed = Ok(());
        while !stop.is_cancelled() && failed.is_ok() {
            match leases.link_row(&self.config.name).await {
                Ok(row) => {
                    let division = division_of(row.as_ref()).filter(|division| !division.is_recalled);
                    let begun = at_work.as_ref().map(|at_work| at_work.division.epoch);
                    if begun != division.map(|division| division.epoch) {
                        failed = self.end_parts(at_work.take(), stop).await;
                        at_work = division.map(|division| self.begin_parts(division, stop));
                    }
                }
                Err(error) => {
                    tracing::debug!(error = chain(&error), "whether the link is divided was not told");
                }
            }
            let ended = async {
                match &mut at_work {
                    Some(at_work) => at_work.tasks.join_next().await,
                    None => None,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                Some(ended) = ended => failed = failed.and(ended.unwrap_or_else(|_| Err(panicked()))),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        let ended = self.end_parts(at_work, stop).await;
        failed.and(ended)
    }

    fn begin_parts(&self, division: Division, stop: &CancellationToken) -> AtWork {
        tracing::info!(link = self.config.name, parts = division.parts, "the link is divided: working on its parts");
        // Before any of them begins: who leads the link waits for them to end.
        self.sharing.at_work.send_replace(true);
        let (mut tasks, stop) = (JoinSet::new(), stop.child_token());
        for number in 0..division.parts {
            let (link, stop) = (self.part_link(division, number), stop.clone());
            tasks.spawn(run_part(link, stop));
        }
        AtWork { division, tasks, stop }
    }

    /// All parts drain, and are let go of. Each of them was by whoever worked on it, which may have come to nothing.
    async fn end_parts(&self, at_work: Option<AtWork>, stop: &CancellationToken) -> Result<()> {
        let mut outcome = Ok(());
        if let Some(AtWork { division, mut tasks, stop: stop_tasks }) = at_work {
            stop_tasks.cancel();
            while let Some(ended) = tasks.join_next().await {
                outcome = outcome.and(ended.unwrap_or_else(|_| Err(panicked())));
            }
            let letting_go = async {
                let Some(fleet) = &self.shared.fleet else { return };
                for number in 0..division.parts {
                    fleet.let_go_for_good(&part_name(&self.config.name, division, number).to_string()).await;
                }
            };
            tokio::select! {
                biased;
                () = letting_go => {}
                () = stopped_for(stop, LET_GO_WITHIN) => {}
            }
        }
        self.slots.parts().clear();
        self.sharing.at_work.send_replace(false);
        outcome
    }

    /// A part, as a link of its own.
    fn part_link(&self, division: Division, number: u32) -> Self {
        let name = part_name(&self.config.name, division, number).to_string();
        let slots = LinkSlots::new(self.slots.on_gap);
        self.slots.parts().insert(name.clone(), slots.clone());
        Self {
            config: LinkConfig { name, ..self.config.clone() },
            shared: self.shared.clone(),
            slots,
            skew: Arc::clone(&self.skew),
            part: Some(PartOf { link: self.config.name.clone(), division }),
            sharing: Arc::clone(&self.sharing),
        }
    }

    /// How often the stream of a divided link is listed by each worker while nothing is waited for: all of them together as
    /// often as one does of a whole one, for DescribeStream is limited.
    pub(super) fn list_part_every(&self) -> Duration {
        let workers = self.shared.fleet.as_ref().map_or(1, |fleet| fleet.heard().sharing + 1);
        let every = self.config.stream.discovery_interval;
        every.saturating_mul(u32::try_from(workers).unwrap_or(u32::MAX)).min(LIST_AT_LEAST_EVERY.max(every))
    }

    /// The link in metrics.
    pub(super) fn label(&self) -> &str {
        self.part.as_ref().map_or(&self.config.name, |part| &part.link)
    }

    /// What the part leaves alone; `None`: nobody is to work on it any more.
    ///
    /// To be asked when the part is held, and before anything of it is read: whoever recalls the division after this answer
    /// has to wait until the part is let go of.
    pub(super) async fn elsewhere(&self, of: &PartOf, part: &LinkState) -> Result<Option<Elsewhere>> {
        let link = self.shared.store.read(&of.link).await?;
        let division = division_of(link.link.as_ref()).filter(|division| !division.is_recalled);
        if division.is_none_or(|division| division.epoch != of.division.epoch) {
            return Ok(None);
        }
        let ours: BTreeSet<_> = part.shards.iter().map(|row| &row.id).collect();
        let rows = link.shards.iter();
        let rows = rows.map(|row| (&row.id, row.parent.as_ref(), row.status != ShardStatus::Finished));
        Ok(Some(Elsewhere::of(rows, |shard| ours.contains(shard))))
    }
}

/// Works on a part again and again, until it is told to stop; not after a bug. Boxed, for a part is a link, which has parts.
fn run_part(link: Link, stop: CancellationToken) -> BoxFuture<'static, Result<()>> {
    Box::pin(async move {
        let mut wait = PART_AGAIN.0;
        loop {
            let began = Instant::now();
            let Err(error) = link.run(None, stop.clone()).await else { return Ok(()) };
            if error.is_bug() {
                return Err(error);
            }
            tracing::error!(
                part = link.config.name,
                error = chain(&error),
                "the part failed, it is opened again later"
            );
            wait = if began.elapsed() > PART_AGAIN.1 { PART_AGAIN.0 } else { wait };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(PART_AGAIN.1);
        }
    })
}

fn panicked() -> Error {
    Error::bug("a part's task panicked")
}
