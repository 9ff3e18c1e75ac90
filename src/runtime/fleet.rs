//! This worker among others that share a table of state: its signs of life, and the links that it may work on.
//!
//! `pulse` gives the signs, apart from all work; here a link is waited for, taken and let go. What decides is in
//! [`crate::checkpoint::lease`]. One worker works on a link at a time; `balance` says who had better have it, and `roster`
//! what becomes of that. The parts of a link that is divided are waited for, taken and let go by name as links are.

mod balance;
mod pulse;
mod roster;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::aws::SendGuard;
use crate::checkpoint::lease::{Chance, HolderWatch, LeaseTimes, Moment, Session};
use crate::checkpoint::rows::Fence;
use crate::checkpoint::{Leases, LinkState, PartName, StoreError};
use crate::context::Context;
use crate::error::{Error, Exit, Result, chain};
use crate::telemetry::Mode;

pub(crate) use pulse::{LinkMark, Pulse, PulseSetup, WorkerReport};
pub(crate) use roster::{Heard, Roster};

/// How often a link that another worker holds is looked at: a hand-over takes about half of this, and the taker's start.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// The same of a part, of which a link may have many: looking is paid for.
const LOOK_AT_PART_EVERY: Duration = Duration::from_secs(1);
/// How often its holder's number is looked at besides: an expired lease is found so much later at most.
const COUNTER_EVERY: Duration = Duration::from_secs(1);
/// What letting a link go may take. Whoever wants it then waits until the lease is over.
const LET_GO_WITHIN: Duration = Duration::from_secs(3);

/// A worker among others. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fleet {
    leases: Arc<dyn Leases>,
    pulse: Arc<Pulse>,
    roster: Arc<Roster>,
    times: LeaseTimes,
    context: Context,
}

/// A link that this worker may work on as long as the session lives.
pub(crate) struct Held {
    pub(crate) fence: Fence,
    /// What the link remembered when it was taken.
    pub(crate) state: LinkState,
    pub(crate) session: Arc<Session>,
    /// Who held it before, if that was another worker, and whether that one had drained.
    pub(crate) takeover: Option<bool>,
}

/// What a worker waits for that has not got its link.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait<'a> {
    /// Another worker has it; its name, where it is known.
    For(Option<&'a str>),
    /// The table of the state does not answer: should the holder die, this worker could not take over.
    Blind,
}

impl Fleet {
    pub(crate) fn new(
        leases: Arc<dyn Leases>,
        pulse: Pulse,
        roster: Arc<Roster>,
        times: LeaseTimes,
        context: Context,
    ) -> Self {
        Self { leases, pulse: Arc::new(pulse), roster, times, context }
    }

    /// Takes a link. A service waits as long as another worker holds it, and tells whom it waits for, or that it could not
    /// take over now; a command gives up when that worker is seen to live.
    ///
    /// # Errors
    /// Exit 6 for a command, and a table that is gone.
    pub(crate) async fn acquire(&self, link: &str, mode: Mode, waits: impl Fn(Wait<'_>)) -> Result<Held> {
        // A command takes what it can have, and goes.
        let waiting = (mode == Mode::Service).then(|| self.roster.wait_for(link));
        self.acquire_as(link, mode, waiting.is_some(), waits).await
    }

    /// Takes a part of a link as soon as its owner lets go of it or its lease is over, whoever else might like to have it:
    /// to put it together with the others.
    ///
    /// # Errors
    /// There is no such part, or the table is gone.
    pub(crate) async fn collect(&self, part: &str) -> Result<Held> {
        self.acquire_as(part, Mode::Service, false, |_| {}).await
    }

    /// `gives_way`: to workers that have fewer links.
    async fn acquire_as(&self, link: &str, mode: Mode, gives_way: bool, waits: impl Fn(Wait<'_>)) -> Result<Held> {
        let is_part = PartName::parse(link).is_some();
        let look_every = if is_part { LOOK_AT_PART_EVERY } else { LOOK_EVERY };
        let mut watch = HolderWatch::new(self.times.lease);
        let mut counter_at: Option<Instant> = None;
        let mut free_since: Option<Instant> = None;
        let mut is_told = false;
        let mut seen_at = Instant::now();
        loop {
            let session = match self.pulse.session().now_or_never() {
                Some(session) => session?,
                None => {
                    waits(Wait::Blind);
                    self.pulse.session().await?
                }
            };
            let asked = Instant::now();
            // Whether it is expired shows with the number alone: while it is left to others, each look asks for it.
            let with_counter =
                free_since.is_some() || counter_at.is_none_or(|at| asked.duration_since(at) >= COUNTER_EVERY);
            match self.leases.sight(link, with_counter).await {
                // Whoever divides a link makes its parts; one that is not there is never made by whoever waits for it.
                Ok(sighting) if sighting.fence.is_none() && is_part => {
                    let what = format!("there is no part `{link}`: the link was put together again");
                    return Err(Error::new(Exit::Precondition, what));
                }
                Ok(sighting) => {
                    seen_at = asked;
                    if with_counter {
                        counter_at = Some(asked);
                    }
                    match watch.look(&sighting, asked, Instant::now(), self.context.worker()) {
                        Chance::Free | Chance::Expired => {
                            let free_for = free_since.get_or_insert_with(Instant::now).elapsed();
                            let is_own = !sighting.released && self.is_own(sighting.fence.as_ref());
                            let is_first = !gives_way || is_own;
                            let leaves = if is_first { Duration::ZERO } else { self.roster.leaves_to_others(link) };
                            if free_for < leaves {
                                tokio::time::sleep(LOOK_EVERY.min(leaves - free_for)).await;
                            } else if let Some(held) = self.take(link, sighting.fence, session).await? {
                                return Ok(held);
                            }
                            continue;
                        }
                        Chance::Held { is_alive: true } if mode == Mode::Oneshot => {
                            return Err(held_by(link, sighting.fence.as_ref()));
                        }
                        Chance::Held { .. } => {
                            if with_counter {
                                free_since = None;
                                self.roster.is_held(link);
                            }
                            let holder = sighting.fence.as_ref().map(|fence| fence.owner.as_str());
                            waits(Wait::For(holder));
                            if !std::mem::replace(&mut is_told, true) {
                                tracing::info!(link, holder, "standing by: another worker has the link");
                            }
                        }
                    }
                }
                Err(error) if error.may_pass() => {
                    tracing::warn!(link, error = %chain(&error), "the link's holder could not be looked up, trying again");
                    if seen_at.elapsed() > self.times.lease {
                        waits(Wait::Blind);
                    }
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(look_every.mul_f64(0.8 + 0.2 * self.context.draw())).await;
        }
    }

    fn is_own(&self, fence: Option<&Fence>) -> bool {
        fence.is_some_and(|fence| fence.owner == self.context.worker())
    }

    /// `None`: somebody was faster, or nobody knows yet; a look tells.
    async fn take(&self, link: &str, seen: Option<Fence>, session: Arc<Session>) -> Result<Option<Held>> {
        match self.leases.take_from(link, self.context.worker(), seen.as_ref()).await {
            Ok(Some((fence, state))) => {
                let is_clean = state.link.as_ref().is_none_or(|row| row.clean);
                let takeover = seen.filter(|seen| seen.owner != fence.owner).map(|_| is_clean);
                self.roster.take(link);
                tracing::info!(link, epoch = fence.epoch, clean = is_clean, "the link is this worker's now");
                Ok(Some(Held { fence, state, session, takeover }))
            }
            Ok(None) => Ok(None),
            Err(error) if error.may_pass() => {
                tracing::warn!(link, error = %chain(&error), "the link could not be taken, trying again");
                tokio::time::sleep(LOOK_EVERY).await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Does this for a link that was acquired, then lets it go. Should the lease be over first, the work is dropped
    /// half-way.
    ///
    /// # Errors
    /// Of the work; exit 6 when the lease was over.
    pub(crate) async fn hold<T>(
        &self,
        link: &str,
        session: &Session,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let done = tokio::select! {
            biased;
            () = session.lapse(&self.context) => Err(lapsed(link)),
            done = work => done,
        };
        self.let_go(link).await;
        done
    }

    /// A link that is worked on may be handed over to another worker whenever `may_leave` says so. What comes back is
    /// cancelled when it is to be: drain, then let go.
    pub(crate) fn offer(&self, link: &str, may_leave: impl Fn() -> bool + Send + 'static) -> CancellationToken {
        self.roster.offer(link, may_leave)
    }

    /// What the other workers say.
    pub(crate) fn heard(&self) -> Heard {
        self.roster.heard()
    }

    /// A link failed here, and may do well with another worker.
    pub(crate) fn troubled(&self, link: &str) {
        self.roster.set_troubled(link);
    }

    /// Lets a link go that this worker may hold. To be called when it sends nothing more.
    pub(crate) async fn let_go(&self, link: &str) {
        self.release(link).await;
        self.roster.let_go(link);
    }

    /// The same for a part that nobody takes again from here: as long as this worker lives, and the table says that the part is
    /// its own, whoever wants it would wait. So it is tried until it is done.
    pub(crate) async fn let_go_for_good(&self, part: &str) {
        self.roster.let_go(part);
        while let Err(error) = self.leases.release(part, self.context.worker()).await {
            if !error.may_pass() {
                tracing::warn!(part, error = chain(&error), "the part could not be let go");
                return;
            }
            tracing::warn!(part, error = chain(&error), "the part could not be let go, trying again");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn release(&self, link: &str) {
        let letting_go = self.leases.release(link, self.context.worker());
        let outcome: Option<Result<(), StoreError>> = tokio::time::timeout(LET_GO_WITHIN, letting_go).await.ok();
        let failure = match outcome {
            Some(Ok(())) => return,
            Some(Err(error)) => chain(&error),
            None => "no answer in time".to_owned(),
        };
        tracing::warn!(link, error = failure, "the link could not be let go: others wait until its lease is over");
    }

    /// Says good-bye: no more signs.
    pub(crate) async fn stop(&self) {
        self.pulse.stop().await;
    }
}

/// What a command says whose lease is over.
pub(crate) fn lapsed(link: &str) -> Error {
    Error::new(Exit::Held, format!("link `{link}`: the lease is over, no sign of life was answered in time"))
        .hint("another worker may have it now: see that the state table can be reached, then run the command again")
}

fn held_by(link: &str, fence: Option<&Fence>) -> Error {
    let holder = fence.map_or("another worker", |fence| fence.owner.as_str());
    Error::new(Exit::Held, format!("link `{link}` is held by worker {holder}, which is alive"))
        .hint("stop that process first, or let it do the work")
}

/// What may be sent to a link's target: nothing before the link is held, nothing after.
#[derive(Default)]
pub(crate) struct LinkGuard(Mutex<Option<Arc<Session>>>);

impl LinkGuard {
    /// The link is held from now on, under this session.
    pub(crate) fn open(&self, session: Arc<Session>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    /// For the clients.
    pub(crate) fn of_clients(self: &Arc<Self>, context: &Context) -> SendGuard {
        let (guard, context) = (Arc::clone(self), context.clone());
        Arc::new(move || {
            let session = guard.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            session.is_some_and(|session| session.is_live(Moment::now(&context)))
        })
    }
}
