//! The links of this worker, as its tasks tell of them; and how one of them hears that it is to be handed over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::balance::{Balance, Peer};
use super::pulse::{LinkMark, WorkerReport};
use crate::context::Context;
use crate::telemetry::Phase;

/// The links of this worker.
pub(crate) struct Roster {
    inner: Mutex<Inner>,
    /// What the workers that are alive said last, of what this one asks them for.
    heard: Mutex<Heard>,
    /// Whether links move from worker to worker.
    is_balancing: bool,
    /// Whether this worker works on parts of links.
    is_sharing: bool,
    context: Context,
}

struct Inner {
    balance: Balance,
    offers: BTreeMap<String, Offer>,
}

/// What other workers, which are alive, said with their last signs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// When that was taken in; `None`: nothing was yet.
    pub(crate) at: Option<Instant>,
    /// How many of them work on parts of links, and how many do not.
    pub(crate) sharing: usize,
    /// See `sharing`.
    pub(crate) others: usize,
    /// Of the links and parts that they hold.
    pub(crate) marks: BTreeMap<String, LinkMark>,
    /// Links and parts that one of them could not open, or that failed under it.
    pub(crate) failed: BTreeSet<String>,
}

/// A link that can be handed over.
struct Offer {
    may_leave: Box<dyn Fn() -> bool + Send>,
    leave: CancellationToken,
}

impl Roster {
    pub(crate) fn new(context: Context, lease: Duration, is_balancing: bool, is_sharing: bool) -> Self {
        let balance = Balance::new(context.worker(), lease, Instant::now());
        let inner = Mutex::new(Inner { balance, offers: BTreeMap::new() });
        Self { inner, heard: Mutex::default(), is_balancing, is_sharing, context }
    }

    /// Takes in what the workers that are alive say of parts of links.
    pub(super) fn hear<'a>(&self, reports: impl Iterator<Item = &'a WorkerReport>) {
        let mut heard = Heard { at: Some(Instant::now()), ..Heard::default() };
        for report in reports {
            // Commands come and go, and say nothing of what workers can do.
            if !report.is_command {
                let workers = if report.shares { &mut heard.sharing } else { &mut heard.others };
                *workers += 1;
            }
            heard.failed.extend(report.failed.keys().cloned());
            // One that failed there is another's, or nobody's: what was known of it stands still.
            for (name, mark) in report.links.iter().filter(|(_, mark)| mark.phase != Phase::Failed) {
                let known = heard.marks.entry(name.clone()).or_insert_with(|| mark.clone());
                // Of one that is just changing hands: who is not as far is not wrong.
                if mark.applied < known.applied {
                    *known = mark.clone();
                }
            }
        }
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
    }

    /// What they said last.
    pub(super) fn heard(&self) -> Heard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This worker waits for the link, until what comes back is dropped.
    pub(super) fn wait_for(self: &Arc<Self>, link: &str) -> Waiting {
        self.inner().balance.set_waiting(link, true);
        Waiting { roster: Arc::clone(self), link: link.to_owned() }
    }

    /// For how long a link that is free is left to other workers.
    pub(super) fn leaves_to_others(&self, link: &str) -> Duration {
        if !self.is_balancing {
            return Duration::ZERO;
        }
        self.inner().balance.leaves_to_others(link, Instant::now())
    }

    /// The link was seen to be another worker's.
    pub(super) fn is_held(&self, link: &str) {
        self.inner().balance.is_held(link);
    }

    /// The link is this worker's.
    pub(super) fn take(&self, link: &str) {
        self.inner().balance.take(link, Instant::now());
    }

    /// The link is this worker's no longer.
    pub(super) fn let_go(&self, link: &str) {
        let mut inner = self.inner();
        inner.balance.let_go(link);
        inner.offers.remove(link);
    }

    /// The link went wrong here.
    pub(super) fn set_troubled(&self, link: &str) {
        self.inner().balance.set_troubled(link, Instant::now());
    }

    /// The link may be handed over whenever `may_leave` says so. Cancelled when it is to be: drain, then let go.
    pub(super) fn offer(&self, link: &str, may_leave: impl Fn() -> bool + Send + 'static) -> CancellationToken {
        let leave = CancellationToken::new();
        let offer = Offer { may_leave: Box::new(may_leave), leave: leave.clone() };
        self.inner().offers.insert(link.to_owned(), offer);
        leave
    }

    /// Completes what this worker says with its next sign.
    pub(super) fn complete(&self, report: WorkerReport) -> WorkerReport {
        let inner = self.inner();
        let asks = inner.balance.asks().filter(|_| self.is_balancing).map(str::to_owned);
        WorkerReport { has: inner.balance.has(), waits: inner.balance.waits(), asks, shares: self.is_sharing, ..report }
    }

    /// Takes in what the workers that are alive say, and does what follows.
    pub(super) fn look(&self, peers: Vec<Peer>) {
        if !self.is_balancing {
            return;
        }
        // Drawn only where there is a choice, so that other draws do not depend on how often somebody looked.
        let draw = if peers.iter().any(|peer| peer.links.len() > 1) { self.context.draw() } else { 0.0 };
        let mut inner = self.inner();
        let Inner { balance, offers } = &mut *inner;
        let may_leave = |link: &str| offers.get(link).is_some_and(|offer| (offer.may_leave)());
        let Some(link) = balance.look(peers, Instant::now(), draw, may_leave) else { return };
        tracing::info!(link, "handing the link over to a worker that has fewer");
        if let Some(offer) = offers.remove(&link) {
            offer.leave.cancel();
        }
    }
}

/// This worker waits for a link as long as this is not dropped.
pub(super) struct Waiting {
    roster: Arc<Roster>,
    link: String,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.roster.inner().balance.set_waiting(&self.link, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WallTime;

    fn says(shares: bool, phase: Phase, applied: i64) -> WorkerReport {
        let applied = Some(WallTime::from_secs(applied));
        let deadline = WallTime::from_secs(0);
        let mark = LinkMark { phase, applied, checkpointed: applied, deadline, open_gaps: 0, in_doubt: 0 };
        WorkerReport { links: [("orders/3.0".to_owned(), mark)].into(), shares, ..WorkerReport::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_as_far_as_who_works_on_it_says_and_not_as_it_was_where_it_failed() {
        let roster = Roster::new(Context::system(), Duration::from_secs(20), true, true);
        assert!(roster.heard().at.is_none());
        let reports =
            [says(true, Phase::Failed, 10), says(true, Phase::Replicating, 70), says(false, Phase::Failed, 5)];
        roster.hear(reports.iter());
        let heard = roster.heard();
        assert_eq!((heard.sharing, heard.others), (2, 1));
        assert_eq!(heard.marks["orders/3.0"].applied, Some(WallTime::from_secs(70)));
        // A command does not work on parts, and is gone before that matters.
        let command = WorkerReport { is_command: true, ..says(false, Phase::Failed, 5) };
        roster.hear([says(true, Phase::Failed, 70), command].iter());
        let heard = roster.heard();
        assert_eq!((heard.sharing, heard.others), (1, 0));
        assert!(heard.marks.is_empty());
        // It is just changing hands, and both say that they have it.
        let reports = [says(true, Phase::Replicating, 70), says(true, Phase::CatchingUp, 60)];
        roster.hear(reports.iter());
        assert_eq!(roster.heard().marks["orders/3.0"].applied, Some(WallTime::from_secs(60)));
    }
}
