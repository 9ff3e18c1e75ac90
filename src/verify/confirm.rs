//! From candidates to verdicts.
//!
//! A suspect is read on both sides, consistently. Equal: it was a write on its way. Not equal: a settling time later it is
//! read again. The difference is *confirmed* when a number of looks in a row, with a settling time between them, show the
//! same two images: what the source held at the first look has had the time to arrive, and neither side has moved. (A
//! key whose source goes A, B, A and whose target is seen at B every single time passes for different; each look at a
//! random time makes that rarer.) When either side moved, counting starts over; after a bounded number of looks the key is left *pending*:
//! nobody knows, so it counts as a finding.
//!
//! A confirmed difference may be repaired; then it is looked at again from the beginning.
//!
//! Suspects of one wait share it. Held are at most so many; the owner gives more only while there is room.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, try_join};
use futures_util::stream::FuturesUnordered;

use super::compare::Candidate;
use super::repair::{REPAIR_BATCH, Repairs};
use super::report::{Difference, State, Tally};
use super::side::{Image, SideReader};
use super::{Kind, Settle, VerifyError, VerifySettings};
use crate::context::Context;
use crate::decode::ItemDigest;
use crate::model::{CanonicalKey, Key, RawItem, WallTime};

/// Source and target.
pub(crate) type Sides = (Arc<SideReader>, Arc<SideReader>);

/// What both sides held at one look. The two reads overlap; no order between them is promised.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    source: Option<Image>,
    target: Option<Image>,
}

/// The two digests of a look.
type Seen = (Option<ItemDigest>, Option<ItemDigest>);

impl Look {
    /// Reads both sides at once.
    pub(crate) async fn at(sides: &Sides, key: &Key) -> Result<Self, VerifyError> {
        let (source, target) = try_join(sides.0.item(key), sides.1.item(key)).await?;
        Ok(Self { source, target })
    }

    fn seen(&self) -> Seen {
        let digest = |image: &Option<Image>| image.as_ref().map(|image| image.digest);
        (digest(&self.source), digest(&self.target))
    }

    /// How the sides differ; `None`: they do not.
    pub(crate) fn kind(&self) -> Option<Kind> {
        match self.seen() {
            (source, target) if source == target => None,
            (Some(_), None) => Some(Kind::Missing),
            (None, Some(_)) => Some(Kind::Extra),
            _ => Some(Kind::Different),
        }
    }

    /// Whether an item on either side is past its time to live.
    pub(crate) fn is_expired(&self) -> bool {
        [&self.source, &self.target].into_iter().flatten().any(|image| image.is_expired)
    }

    pub(crate) fn source_item(&self) -> Option<&RawItem> {
        self.source.as_ref().map(|image| &image.item)
    }

    pub(crate) fn target_item(&self) -> Option<&RawItem> {
        self.target.as_ref().map(|image| &image.item)
    }
}

/// How often is looked, and how much is held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConfirmLimits {
    looks: u32,
    max_looks: u32,
    max_suspects: usize,
    reads: usize,
}

impl ConfirmLimits {
    /// The limits of these settings, put right where they make no sense.
    pub(crate) fn new(settings: &VerifySettings) -> Self {
        let looks = settings.looks.max(2);
        Self {
            looks,
            max_looks: settings.max_looks.max(looks),
            max_suspects: settings.max_suspects.max(1),
            reads: settings.reads.max(1),
        }
    }
}

/// A key under suspicion.
#[derive(Debug)]
struct Suspect {
    key: Key,
    /// As far as the scans saw.
    origin: Kind,
    first_seen: WallTime,
    history: History,
    /// As what it was confirmed, and whether an item was expired; then it has been repaired.
    confirmed: Option<(Kind, bool)>,
}

/// What the looks at one key showed.
#[derive(Debug, Clone, Copy, Default)]
struct History {
    looks: u32,
    /// The last look's images, and how many looks in a row showed them.
    last: Option<(Seen, u32)>,
}

/// What follows from the looks so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Equal,
    LookAgain,
    Confirmed(Kind),
    LeftPending(Kind),
}

impl History {
    /// Takes in one more look.
    fn judge(&mut self, seen: Seen, kind: Option<Kind>, limits: &ConfirmLimits) -> Judgement {
        let Some(kind) = kind else { return Judgement::Equal };
        self.looks += 1;
        let in_a_row = match self.last {
            Some((last, in_a_row)) if last == seen => in_a_row + 1,
            _ => 1,
        };
        self.last = Some((seen, in_a_row));
        if in_a_row >= limits.looks {
            Judgement::Confirmed(kind)
        } else if self.looks >= limits.max_looks {
            Judgement::LeftPending(kind)
        } else {
            Judgement::LookAgain
        }
    }
}

/// Something that was waited for.
enum Done {
    Looked(Suspect, Box<Look>),
    Waited(Vec<Suspect>),
    Repaired(Vec<Suspect>),
}

/// The open cases.
pub(crate) struct Confirm {
    sides: Sides,
    limits: ConfirmLimits,
    settle: Settle,
    context: Context,
    repairs: Option<Repairs>,
    tally: Tally,
    /// Keys of findings that may come a second time: see [`Confirm::is_second`].
    found_once: HashSet<CanonicalKey>,
    /// To be looked at now.
    ready: VecDeque<Suspect>,
    /// Looked at, to be looked at again after a settling time.
    unsettled: Vec<Suspect>,
    /// To be repaired.
    confirmed: Vec<Suspect>,
    reading: usize,
    held: usize,
    /// Of those, how many are booked as confirmed and not given up.
    repairing: u64,
    work: FuturesUnordered<BoxFuture<'static, Result<Done, VerifyError>>>,
}

impl Confirm {
    pub(crate) fn new(
        sides: Sides,
        limits: ConfirmLimits,
        settle: Settle,
        context: Context,
        repairs: Option<Repairs>,
        tally: Tally,
    ) -> Self {
        Self {
            sides,
            limits,
            settle,
            context,
            repairs,
            tally,
            found_once: HashSet::new(),
            ready: VecDeque::new(),
            unsettled: Vec::new(),
            confirmed: Vec::new(),
            reading: 0,
            held: 0,
            repairing: 0,
            work: FuturesUnordered::new(),
        }
    }

    pub(crate) const fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) fn into_tally(self) -> Tally {
        self.tally
    }

    /// Suspects that are held.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    /// Findings that stand and that no repair is under way for.
    pub(crate) const fn findings(&self) -> u64 {
        self.tally.open().saturating_sub(self.repairing)
    }

    /// Whether one more suspect may come.
    pub(crate) const fn has_room(&self) -> bool {
        self.held < self.limits.max_suspects
    }

    /// Opens a case.
    pub(crate) fn suspect(&mut self, candidate: Candidate) {
        let Candidate { key, kind: origin, first_seen } = candidate;
        self.held += 1;
        self.ready.push_back(Suspect { key, origin, first_seen, history: History::default(), confirmed: None });
        debug_assert!(self.held <= self.limits.max_suspects);
    }

    /// Starts what may start now.
    pub(crate) fn launch(&mut self) {
        while self.reading < self.limits.reads
            && let Some(suspect) = self.ready.pop_front()
        {
            self.reading += 1;
            let sides = self.sides.clone();
            self.work.push(Box::pin(async move {
                let look = Look::at(&sides, &suspect.key).await?;
                Ok(Done::Looked(suspect, Box::new(look)))
            }));
        }
        let is_reading = self.reading > 0;
        if !self.unsettled.is_empty() && (!is_reading || self.unsettled.len() >= self.batch_size()) {
            let suspects = std::mem::take(&mut self.unsettled);
            let wait = self.settle.wait(self.context.draw());
            self.work.push(Box::pin(async move {
                wait.await;
                Ok(Done::Waited(suspects))
            }));
        }
        if !self.confirmed.is_empty() && (!is_reading || self.confirmed.len() >= REPAIR_BATCH) {
            self.launch_repair();
        }
    }

    /// Suspects that share a wait: not so many that all others wait for them.
    fn batch_size(&self) -> usize {
        (self.limits.max_suspects / 8).max(1)
    }

    fn launch_repair(&mut self) {
        let Some(Repairs { repairer, .. }) = self.repairs.clone() else { return };
        let count = self.confirmed.len().min(REPAIR_BATCH);
        let suspects: Vec<_> = self.confirmed.drain(..count).collect();
        let keys = suspects.iter().map(|suspect| suspect.key.clone()).collect();
        self.work.push(Box::pin(async move {
            repairer.sync(keys).await?;
            Ok(Done::Repaired(suspects))
        }));
    }

    /// Whether nothing is under way: after [`Self::launch`], no case is open.
    pub(crate) fn is_idle(&self) -> bool {
        self.work.is_empty()
    }

    /// Waits for one thing and takes it in. Dropping the future is safe.
    pub(crate) async fn step(&mut self) -> Result<(), VerifyError> {
        match self.work.next().await.transpose()? {
            Some(Done::Looked(suspect, look)) => {
                self.reading -= 1;
                self.judge(suspect, &look)
            }
            Some(Done::Waited(suspects) | Done::Repaired(suspects)) => {
                self.ready.extend(suspects);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn judge(&mut self, mut suspect: Suspect, look: &Look) -> Result<(), VerifyError> {
        match suspect.history.judge(look.seen(), look.kind(), &self.limits) {
            Judgement::LookAgain => {
                self.unsettled.push(suspect);
                Ok(())
            }
            Judgement::Equal => self.close_equal(&suspect, look),
            Judgement::Confirmed(kind) => self.close_confirmed(suspect, kind, look),
            Judgement::LeftPending(kind) => self.close_pending(&suspect, kind, look),
        }
    }

    fn close_equal(&mut self, suspect: &Suspect, look: &Look) -> Result<(), VerifyError> {
        self.held -= 1;
        let Some((kind, was_expired)) = suspect.confirmed else {
            if suspect.is_counted(look) {
                self.tally.judged += 1;
                self.tally.settled += 1;
            }
            return Ok(());
        };
        self.repairing -= 1;
        self.tally.book(&suspect.difference(kind, State::Repaired, None), was_expired)
    }

    fn close_confirmed(&mut self, mut suspect: Suspect, kind: Kind, look: &Look) -> Result<(), VerifyError> {
        if suspect.confirmed.is_some() {
            return self.give_up_repair();
        }
        if self.is_second(&suspect, kind) {
            self.held -= 1;
            return Ok(());
        }
        self.tally.judged += 1;
        let is_expired = look.is_expired();
        self.tally.book(&suspect.difference(kind, State::Confirmed, Some(look)), is_expired)?;
        if self.repairs.as_ref().is_some_and(|repairs| repairs.may(kind)) {
            suspect.confirmed = Some((kind, is_expired));
            suspect.history = History::default();
            self.repairing += 1;
            self.confirmed.push(suspect);
        } else {
            self.held -= 1;
        }
        Ok(())
    }

    fn close_pending(&mut self, suspect: &Suspect, kind: Kind, look: &Look) -> Result<(), VerifyError> {
        if suspect.confirmed.is_some() {
            return self.give_up_repair();
        }
        self.held -= 1;
        if self.is_second(suspect, kind) {
            return Ok(());
        }
        self.tally.judged += 1;
        self.tally.book(&suspect.difference(kind, State::Pending, Some(look)), look.is_expired())
    }

    /// Whether this finding was made before. Where the scans' orders have little in common, a key that is on both sides
    /// becomes a candidate twice: once for each side's entry that was taken out before it met the other. Only then is a key
    /// found to be something else than the scans saw, so only such findings are remembered.
    fn is_second(&mut self, suspect: &Suspect, kind: Kind) -> bool {
        kind != suspect.origin && !self.found_once.insert(suspect.key.canonical.clone())
    }

    /// It was repaired once and still differs: it stays booked as confirmed.
    #[expect(clippy::unnecessary_wraps, reason = "one of the ways to close a case")]
    fn give_up_repair(&mut self) -> Result<(), VerifyError> {
        self.held -= 1;
        self.repairing -= 1;
        Ok(())
    }
}

impl Suspect {
    /// Whether it counts as a key of its own. The target's entry of a key that the source has, too, was or will be counted
    /// with the source's.
    const fn is_counted(&self, look: &Look) -> bool {
        !matches!(self.origin, Kind::Extra) || look.source.is_none()
    }

    const fn difference<'a>(&'a self, kind: Kind, state: State, look: Option<&'a Look>) -> Difference<'a> {
        Difference { kind, state, key: &self.key, first_seen: self.first_seen, look }
    }
}
