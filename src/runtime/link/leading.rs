//! The owner of a link that is divided: it looks whether everything is somebody's, tells how far the link is, and puts the link
//! together again when something is for the whole of it. It reads no shard by that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ending::ANOTHER_TABLE;
use super::parts::part_name;
use super::watching::CATCHING_UP;
use super::{Generation, Link, Start};
use crate::checkpoint::division::{Clocks, PartState, reunite};
use crate::checkpoint::lease::Session;
use crate::checkpoint::rows::{Division, Fence, LinkRow, ShardRow, ShardStatus, Stage};
use crate::checkpoint::{StateWrite, StoreError, all_letters};
use crate::error::{Error, Exit, Fault, Result, chain};
use crate::http::Heartbeat;
use crate::model::{ShardId, WallTime};
use crate::runtime::board::Board;
use crate::runtime::fleet::{Heard, LinkMark};
use crate::runtime::prepare::Prepared;
use crate::stream::lineage::FORGET_AFTER;
use crate::stream::lister::{ListError, ShardLister};
use crate::stream::part::strays;
use crate::stream::{Listing, StreamStatus};
use crate::telemetry::Phase;
use crate::telemetry::lag::{RETENTION, Watermarks};

/// How often the leader looks at what the parts say.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon after a listing with a stray in it the stream is listed again: one alone may be incomplete.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// Parts for one worker are of no use, but a worker that is replaced is back soon.
const ALONE_FOR: Duration = Duration::from_secs(120);
/// A process that stops tries for so long to let go of parts; then its last sign of life tells others.
pub(super) const LET_GO_WITHIN: Duration = Duration::from_secs(3);
/// Wait before a write is tried again that may pass.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

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
enum Reason {
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
            done = Box::pin(self.lead_on(&lead, &board, (&is_leading, &collected), heartbeat)) => done,
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
        let of_link = self.shared.store.read(&self.config.name).await?.shards;
        let (mut suspected, mut list_at, mut alone_since) = (BTreeSet::new(), Instant::now(), None);
        let mut marks = PartMarks::default();
        loop {
            heartbeat.tick();
            let heard = fleet.heard();
            if marks.take(&self.marks(lead.division, &heard)) {
                return Ok(Reason::Gap);
            }
            self.tell(board, &marks, lead);
            if heard.sharing > 0 && heard.others == 0 || heard.at.is_none() {
                alone_since = None;
            } else if alone_since.get_or_insert_with(Instant::now).elapsed() >= ALONE_FOR {
                return Ok(Reason::Workers);
            }
            if Instant::now() >= list_at {
                let jitter = 0.9 + 0.2 * self.shared.context.draw();
                list_at = Instant::now() + self.config.stream.discovery_interval.mul_f64(jitter);
                match self.audit(lead, &lister, &of_link, board).await? {
                    Audit::Reason(reason) => return Ok(reason),
                    Audit::Strays(strays) if strays.intersection(&suspected).next().is_some() => {
                        return Ok(Reason::Strays);
                    }
                    Audit::Strays(strays) => {
                        if !strays.is_empty() {
                            list_at = Instant::now() + LIST_AGAIN;
                        }
                        suspected = strays;
                    }
                    Audit::NotNow => {}
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Looks whether the source is as it was, and whether each of its shards is finished, or somebody's.
    async fn audit(&self, lead: &Lead, lister: &ShardLister, of_link: &[ShardRow], board: &Board) -> Result<Audit> {
        if let Ok(source) = lead.prepared.accounts.describe_source(&self.shared.context).await {
            if source.id != lead.row.identity.source_id {
                let what = format!("the source table of link `{}` was made anew", self.config.name);
                return Err(Error::new(Exit::Lost, what).hint(ANOTHER_TABLE));
            }
            if source.stream.is_none_or(|stream| stream.arn != lead.row.identity.stream) {
                return Ok(Audit::Reason(Reason::Stream));
            }
        }
        let begun = Instant::now();
        let listing = match lister.list_after(0, begun).await {
            Ok(listed) => listed.listing,
            Err(ListError::Failed(failure)) if failure.fault == Fault::Lost => {
                return Ok(Audit::Reason(Reason::Stream));
            }
            Err(ListError::Failed(failure)) => {
                tracing::warn!(link = self.config.name, error = %failure, "the shards could not be listed, trying later");
                return Ok(Audit::NotNow);
            }
            Err(ListError::Odd(error)) => {
                tracing::warn!(link = self.config.name, %error, "the listing contradicts itself, trying later");
                return Ok(Audit::NotNow);
            }
        };
        if listing.status() != StreamStatus::Enabled {
            return Ok(Audit::Reason(Reason::Stream));
        }
        if !listing.is_conclusive() {
            return Ok(Audit::NotNow);
        }
        // After the listing: what is added by then is seen.
        let mut parts = Vec::new();
        for number in 0..lead.division.parts {
            let part = self.shared.store.read(&part_name(&self.config.name, lead.division, number).to_string()).await;
            match part {
                Ok(part) if part.gaps.iter().any(|gap| gap.healed.is_none()) => return Ok(Audit::Reason(Reason::Gap)),
                Ok(part) => parts.push(part.shards),
                Err(error) if error.may_pass() => return Ok(Audit::NotNow),
                Err(error) => return Err(error.into()),
            }
        }
        use crate::stream::driver::StreamObserver as _;
        board.discovered();
        Ok(Audit::Strays(strays_of(&listing, of_link, &parts)))
    }

    /// What the owners of the parts say, whoever they are.
    fn marks(&self, division: Division, heard: &Heard) -> BTreeMap<u32, LinkMark> {
        let ours = self.slots.parts().clone();
        let mark = |number: u32| {
            let name = part_name(&self.config.name, division, number).to_string();
            let own = ours.get(&name).and_then(|slots| slots.board()).map(|board| LinkMark::of(&board.snapshot()));
            let own = own.filter(|mark| mark.phase != Phase::Failed);
            own.or_else(|| heard.marks.get(&name).cloned()).map(|mark| (number, mark))
        };
        (0..division.parts).filter_map(mark).collect()
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
            let letters = all_letters(store.as_ref(), &part).await?;
            parts.push(PartState { state: held.state, letters });
        }
        let of_link = store.read(link).await?.shards;
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
            heartbeat.tick();
            if let Err(error) = leases.remove_part(&part_name(link, division, number)).await {
                // They are found when the link is divided next.
                tracing::warn!(link, error = chain(&error), "a part that is no more could not be removed");
            }
        }
        Ok(())
    }

    /// Writes this, however long that takes.
    pub(super) async fn persist(&self, fence: &Fence, writes: Vec<StateWrite>, heartbeat: &Heartbeat) -> Result<()> {
        loop {
            heartbeat.tick();
            match self.shared.store.commit(&self.config.name, fence, writes.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) if error.may_pass() => {
                    tracing::warn!(
                        link = self.config.name,
                        error = chain(&error),
                        "state could not be written, trying again"
                    );
                    tokio::time::sleep(WRITE_AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What a look at the source and at the parts says.
enum Audit {
    Reason(Reason),
    Strays(BTreeSet<ShardId>),
    /// Nothing.
    NotNow,
}

/// Strays among the shards of a listing, by the rows of link and parts.
pub(super) fn strays_of(listing: &Listing, of_link: &[ShardRow], parts: &[Vec<ShardRow>]) -> BTreeSet<ShardId> {
    let is_owed = |row: &ShardRow| row.is_lost || row.status != ShardStatus::Finished;
    let link: Vec<_> = of_link.iter().map(|row| (&row.id, row.parent.as_ref(), is_owed(row))).collect();
    let parts: Vec<BTreeSet<&ShardId>> = parts.iter().map(|rows| rows.iter().map(|row| &row.id).collect()).collect();
    strays(listing, &link, &parts)
}

/// It was told to stop so long ago.
pub(super) async fn stopped_for(stop: &CancellationToken, time: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(time).await;
}

/// Does this, alive however long it takes.
async fn alive<T>(work: impl Future<Output = T>, heartbeat: &Heartbeat) -> T {
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

/// Pure: how far each part is, as it was heard last. Times never go back: who takes a part over knows less for a moment.
#[derive(Debug, Default)]
struct PartMarks(BTreeMap<u32, PartMark>);

#[derive(Debug, Clone, Copy, Default)]
struct PartMark {
    applied: Option<WallTime>,
    checkpointed: Option<WallTime>,
    in_doubt: usize,
}

impl PartMarks {
    /// Answers whether one of them has an open gap.
    fn take(&mut self, marks: &BTreeMap<u32, LinkMark>) -> bool {
        for (number, mark) in marks {
            let known = self.0.entry(*number).or_default();
            known.applied = known.applied.max(mark.applied);
            known.checkpointed = known.checkpointed.max(mark.checkpointed);
            known.in_doubt = mark.in_doubt;
        }
        marks.values().any(|mark| mark.open_gaps > 0)
    }

    /// Those of the link: everything before them is applied, whichever part it was for. Of a part that was not heard of
    /// nothing is known.
    fn least(&self, parts: u32) -> (Watermarks, Option<WallTime>) {
        let known = || (0..parts).map(|number| self.0.get(&number).copied().unwrap_or_default());
        let applied = known().map(|mark| mark.applied).min().flatten();
        let checkpointed = known().map(|mark| mark.checkpointed).min().flatten();
        let deadline = checkpointed.map(|checkpointed| checkpointed.plus(RETENTION));
        (Watermarks { read: None, applied, checkpointed }, deadline)
    }

    fn in_doubt(&self, parts: u32) -> usize {
        self.0.range(..parts).map(|(_, mark)| mark.in_doubt).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(applied: Option<i64>, open_gaps: usize) -> LinkMark {
        let applied = applied.map(WallTime::from_secs);
        let deadline = WallTime::from_secs(9);
        LinkMark { phase: Phase::Replicating, applied, checkpointed: applied, deadline, open_gaps, in_doubt: 2 }
    }

    #[test]
    fn a_link_is_as_far_as_its_last_part_and_no_further_than_is_known() {
        let mut marks = PartMarks::default();
        let applied = |marks: &PartMarks| marks.least(3).0.applied.map(|time| time.millis() / 1000);
        assert!(!marks.take(&[(0, mark(Some(70), 0)), (1, mark(Some(60), 0))].into()));
        assert_eq!(applied(&marks), None, "nobody told of the third");
        marks.take(&[(2, mark(Some(65), 0))].into());
        assert_eq!(applied(&marks), Some(60), "what the others said stands");
        marks.take(&[(0, mark(Some(10), 0)), (1, mark(None, 0)), (2, mark(Some(90), 0))].into());
        assert_eq!(applied(&marks), Some(60), "who takes over knows less, and what was applied is applied");
        assert!(marks.take(&[(2, mark(Some(90), 1))].into()));
        assert_eq!(marks.in_doubt(3), 6);
    }
}
