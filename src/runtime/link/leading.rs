//! The owner of a link that is divided: it looks whether everything is somebody's, tells how far the link is, and puts the link
//! together again when something is for the whole of it. It reads no shard by that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::auditing::Audit;
use super::looking::part_name;
use super::marks::{PartMarks, Said};
use super::spreading::Spread;
use super::watching::CATCHING_UP;
use super::{Generation, Link, LinkSlots, Start};
use crate::checkpoint::division::{Clocks, PartState, reunite};
use crate::checkpoint::lease::Session;
use crate::checkpoint::rows::{Division, Fence, LinkRow, Stage};
use crate::checkpoint::{StateWrite, StoreError, StoreResult, all_letters};
use crate::error::{Error, Result, chain};
use crate::http::Heartbeat;
use crate::runtime::board::Board;
use crate::runtime::fleet::{Heard, LinkMark};
use crate::runtime::prepare::Prepared;
use crate::stream::lineage::FORGET_AFTER;
use crate::telemetry::Phase;
use crate::telemetry::lag::RETENTION;

/// How often the leader looks at what the parts say.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon after a listing with a stray in it the stream is listed again: one alone may be incomplete.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// Parts for one worker are of no use, but a worker that is replaced is back soon.
const ALONE_FOR: Duration = Duration::from_secs(120);
/// A process that stops tries for so long to let go of parts; then its last sign of life tells others.
pub(super) const LET_GO_WITHIN: Duration = Duration::from_secs(3);
/// Wait before the state is asked again for what may pass.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A link that did worse divided stays whole for so long.
const NOT_AGAIN_FOR: Duration = Duration::from_secs(6 * 3600);

/// A divided link, held.
pub(super) struct Lead {
    pub(super) prepared: Prepared,
    pub(super) fence: Fence,
    pub(super) row: LinkRow,
    pub(super) division: Division,
    pub(super) session: Arc<Session>,
}

/// Why a link is to be whole again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Reason {
    #[error("this process does not share")]
    NotShared,
    #[error("a gap is open")]
    Gap,
    #[error("shards are no part's")]
    Strays,
    #[error("the stream is off, gone, or another one")]
    Stream,
    #[error("fewer than two workers share, or one does not")]
    Workers,
    #[error("a part failed wherever it was opened")]
    Failing,
    #[error("a part is far behind the others")]
    Behind,
    #[error("its shards are spread badly, and it is to be divided anew")]
    Spread,
}

impl Link {
    /// Leads a divided link until it is whole again, or until another worker is to lead it.
    pub(super) async fn lead(&self, lead: Lead, stop: &CancellationToken, heartbeat: &Heartbeat) -> Result<Generation> {
        let Some(fleet) = &self.shared.fleet else { return Err(Error::bug("a link is divided, and nobody shares")) };
        let board = self.board(&lead.prepared, &lead.row);
        let is_leading = Arc::new(AtomicBool::new(true));
        let may_leave = Arc::clone(&is_leading);
        let leave = fleet.offer(&self.config.name, move || may_leave.load(Ordering::Relaxed));
        let collected = Mutex::new(Vec::new());
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(Generation::Stopped),
            () = lead.session.lapse(&self.shared.context) => {
                self.leave(&board);
                Ok(Generation::LeaseLost { had_begun: true })
            }
            () = leave.cancelled() => {
                self.stands_by(Some(None));
                self.leave(&board);
                Ok(Generation::HandedOver)
            }
            done = Box::pin(self.lead_beside_looks(&lead, &board, (&is_leading, &collected), heartbeat)) => {
                // Whoever has it next knows what is so then.
                self.leave(&board);
                done
            }
        };
        // Nobody works on those here: they were collected.
        let letting_go = async {
            for part in collected.into_inner().unwrap_or_else(PoisonError::into_inner) {
                alive(fleet.let_go_for_good(&part), heartbeat).await;
            }
        };
        tokio::select! {
            biased;
            () = letting_go => {}
            () = stopped_for(stop, LET_GO_WITHIN) => {}
        }
        outcome
    }

    /// Puts the link together, for a command, if it is divided, and lets go of it. A service that shares may divide it again, not
    /// within a minute.
    ///
    /// # Errors
    /// Exit 6 where a worker leads it.
    pub(crate) async fn make_whole(&self) -> Result<()> {
        let heartbeat = self.shared.heartbeats.register(format!("link {}", self.config.name));
        let outcome = match Box::pin(self.begin()).await {
            Ok(Start::Divided(lead)) => {
                Box::pin(self.lead(*lead, &CancellationToken::new(), &heartbeat)).await.map(drop)
            }
            other => other.map(drop),
        };
        if let Some(fleet) = &self.shared.fleet {
            fleet.let_go(&self.config.name).await;
        }
        outcome
    }

    async fn lead_beside_looks(
        &self,
        lead: &Lead,
        board: &Board,
        shared: (&AtomicBool, &Mutex<Vec<String>>),
        heartbeat: &Heartbeat,
    ) -> Result<Generation> {
        tokio::select! {
            biased;
            done = self.lead_on(lead, board, shared, heartbeat) => done,
            never = self.watch_verified(board) => match never {},
        }
    }

    async fn lead_on(
        &self,
        lead: &Lead,
        board: &Board,
        (is_leading, collected): (&AtomicBool, &Mutex<Vec<String>>),
        heartbeat: &Heartbeat,
    ) -> Result<Generation> {
        let mut division = lead.division;
        if !division.is_recalled {
            let reason = self.until_recalled(lead, board, heartbeat).await?;
            tracing::info!(link = self.config.name, %reason, "the link is put together again");
            division.is_recalled = true;
            let row = LinkRow { stage: Stage::Divided(division), ..lead.row.clone() };
            self.persist(&lead.fence, vec![StateWrite::Link(row)], heartbeat).await?;
        }
        is_leading.store(false, Ordering::Relaxed);
        self.reunite(lead, division, collected, heartbeat).await?;
        Ok(Generation::Again)
    }

    async fn until_recalled(&self, lead: &Lead, board: &Board, heartbeat: &Heartbeat) -> Result<Reason> {
        let Some(fleet) = self.shared.fleet.as_ref().filter(|_| self.shares()) else { return Ok(Reason::NotShared) };
        let lister = self.lister(&lead.prepared, &lead.row.identity.stream).sharing(Some(self.sharing.listings()));
        let of_link = self.insist(heartbeat, || self.shared.store.read(&self.config.name)).await?;
        let (mut suspected, mut list_at, mut alone_since) = (BTreeSet::new(), Instant::now(), None);
        let (mut marks, mut spread) = (PartMarks::default(), Spread::new(Instant::now()));
        // Beside the rest, which is not to wait for a source or a table that does not answer.
        let mut auditing: Option<BoxFuture<'_, Result<Audit>>> = None;
        loop {
            heartbeat.tick();
            let heard = fleet.heard();
            if let Some(reason) = marks.take(&self.said(lead.division, &heard), Instant::now()) {
                return Ok(reason);
            }
            if marks.stays_one_behind(lead.division.parts, self.aws_now(), Instant::now()) {
                // What they lack is no less an hour later.
                self.sharing.not_before(NOT_AGAIN_FOR);
                return Ok(Reason::Behind);
            }
            // A shard that may be nobody's may have any key, from any time on.
            if suspected.is_empty() {
                self.tell(board, &marks, lead);
            }
            if heard.sharing > 0 && heard.others == 0 || heard.at.is_none() {
                alone_since = None;
            } else if alone_since.get_or_insert_with(Instant::now).elapsed() >= ALONE_FOR {
                return Ok(Reason::Workers);
            }
            if auditing.is_none() && Instant::now() >= list_at {
                auditing = Some(Box::pin(self.audit(lead, &lister, &of_link)));
            }
            let audited = async {
                match &mut auditing {
                    Some(auditing) => auditing.await,
                    None => std::future::pending().await,
                }
            };
            let audited = tokio::select! {
                biased;
                audited = audited => audited?,
                () = tokio::time::sleep(LOOK_EVERY) => continue,
            };
            auditing = None;
            let jitter = 0.9 + 0.2 * self.shared.context.draw();
            list_at = Instant::now() + self.list_part_every().mul_f64(jitter);
            match audited {
                Audit::Reason(reason) => return Ok(reason),
                Audit::Looked { strays, .. } if strays.intersection(&suspected).next().is_some() => {
                    return Ok(Reason::Strays);
                }
                Audit::Looked { strays, gains, .. } if spread.look(gains && strays.is_empty(), Instant::now()) => {
                    return Ok(Reason::Spread);
                }
                Audit::Looked { strays, dead_letters, .. } => {
                    use crate::stream::driver::StreamObserver as _;
                    board.discovered();
                    board.letters_of_parts(dead_letters);
                    if !strays.is_empty() {
                        list_at = Instant::now() + LIST_AGAIN;
                    }
                    suspected = strays;
                }
                Audit::NotNow => {}
            }
        }
    }

    /// What the owners of the parts say, whoever they are, and of which parts nobody says but that they failed.
    fn said(&self, division: Division, heard: &Heard) -> BTreeMap<u32, Said> {
        let ours = self.slots.parts().clone();
        let said = |number: u32| {
            let name = part_name(&self.config.name, division, number).to_string();
            let own = ours.get(&name);
            let board = own.and_then(LinkSlots::board).map(|board| LinkMark::of(&board.snapshot()));
            let board = board.filter(|mark| mark.phase != Phase::Failed);
            let mark = board.or_else(|| heard.marks.get(&name).cloned()).map(Said::Mark);
            let has_failed = || heard.failed.contains(&name) || own.is_some_and(|own| own.trouble().is_some());
            Some((number, mark.or_else(|| has_failed().then_some(Said::Failed))?))
        };
        (0..division.parts).filter_map(said).collect()
    }

    fn tell(&self, board: &Board, marks: &PartMarks, lead: &Lead) {
        let (parts, before) = (lead.division.parts, lead.row.settled_until);
        let (watermarks, deadline) = marks.least(parts);
        let deadline = deadline.or_else(|| before.map(|settled| settled.plus(RETENTION)));
        board.of_parts(watermarks, deadline, marks.in_doubt(parts));
        let snapshot = board.snapshot();
        let lag = snapshot.watermarks.lag(snapshot.now);
        let is_caught_up = lag.is_some_and(|lag| lag <= CATCHING_UP.1);
        board.set_phase(if is_caught_up { Phase::Replicating } else { Phase::CatchingUp });
    }

    /// Takes every part in hand and puts them together.
    async fn reunite(
        &self,
        lead: &Lead,
        division: Division,
        collected: &Mutex<Vec<String>>,
        heartbeat: &Heartbeat,
    ) -> Result<()> {
        let (Some(fleet), Some(leases)) = (&self.shared.fleet, self.shared.store.leases()) else {
            return Err(Error::bug("a link is divided, and nobody shares"));
        };
        let (link, store) = (&self.config.name, &self.shared.store);
        alive(self.sharing.at_rest(), heartbeat).await;
        let mut parts = Vec::new();
        for number in 0..division.parts {
            let part = part_name(link, division, number).to_string();
            // Before it is taken: whatever comes of that, it is let go of.
            collected.lock().unwrap_or_else(PoisonError::into_inner).push(part.clone());
            let held = alive(fleet.collect(&part), heartbeat).await?;
            let letters = self.insist(heartbeat, || Box::pin(all_letters(store.as_ref(), &part))).await?;
            parts.push(PartState { state: held.state, letters });
        }
        let of_link = self.insist(heartbeat, || store.read(link)).await?.shards;
        let clocks = Clocks { ours: self.shared.context.now(), aws: self.aws_now() };
        let kept = (self.config.apply.in_doubt_for, FORGET_AFTER);
        let whole = reunite((&lead.row, division), &of_link, parts, clocks, kept).ok_or_else(|| {
            let what = format!("a part of link {link} has no row");
            Error::from(StoreError::Damaged { place: store.place(), what })
        })?;
        self.persist(&lead.fence, whole.writes, heartbeat).await?;
        self.persist(&lead.fence, vec![StateWrite::Link(whole.row)], heartbeat).await?;
        tracing::info!(link, parts = division.parts, "the link is whole");
        for number in 0..division.parts {
            if let Err(error) = alive(leases.remove_part(&part_name(link, division, number)), heartbeat).await {
                // They are found when the link is divided next.
                tracing::warn!(link, error = chain(&error), "a part that is no more could not be removed");
            }
        }
        Ok(())
    }

    /// Writes this, however long that takes.
    async fn persist(&self, fence: &Fence, writes: Vec<StateWrite>, heartbeat: &Heartbeat) -> Result<()> {
        let store = &self.shared.store;
        self.insist(heartbeat, || store.commit(&self.config.name, fence, writes.clone())).await
    }

    /// Asks the state until it answers, however long that takes, unless it says what does not pass.
    async fn insist<'a, T>(&self, heartbeat: &Heartbeat, ask: impl Fn() -> BoxFuture<'a, StoreResult<T>>) -> Result<T> {
        loop {
            match alive(ask(), heartbeat).await {
                Err(error) if error.may_pass() => {
                    tracing::warn!(
                        link = self.config.name,
                        error = chain(&error),
                        "the state does not answer, trying again"
                    );
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                other => return Ok(other?),
            }
        }
    }
}

/// It was told to stop so long ago.
pub(super) async fn stopped_for(stop: &CancellationToken, time: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(time).await;
}

/// Does this, alive however long it takes.
pub(super) async fn alive<T>(work: impl Future<Output = T>, heartbeat: &Heartbeat) -> T {
    tokio::pin!(work);
    loop {
        heartbeat.tick();
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
