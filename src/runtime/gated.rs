//! A target that is written through gates: what was sent lands in its time or not at all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::apply::{ConditionalTarget, TargetTable};
use crate::checkpoint::{Gate, Gates, StoreError, StoreResult};
use crate::context::Context;
use crate::decode::WriteReply;
use crate::error::{Failure, Fault, chain};
use crate::model::Write;
use crate::retry::{Attempts, Patience, Verdict};

/// Gates that are opened at once.
const OPENING: usize = 16;
/// Between two attempts to open a gate: the store has tried for a while each time.
const LEAST_WAIT: Duration = Duration::from_millis(100);

/// The gates of one owner of a link.
pub(crate) struct LinkGates {
    gates: Arc<dyn Gates>,
    link: String,
    epoch: u64,
    open: Vec<Gate>,
}

impl LinkGates {
    /// Opens all gates that owners of this link ever wrote through, and at least so many: nothing of an earlier owner lands
    /// after this.
    pub(crate) async fn open(gates: Arc<dyn Gates>, link: &str, epoch: u64, count: u32) -> StoreResult<Self> {
        let open = stream::iter(0..count).map(|number| gates.open(link, number, epoch));
        let open = open.buffered(OPENING).try_collect().await?;
        Ok(Self { gates, link: link.to_owned(), epoch, open })
    }

    /// Whether a transaction may ask for a gate and write the target: one is sent that cannot be carried out, for no gate was
    /// ever opened as it asks.
    pub(crate) async fn check(&self, target: &dyn ConditionalTarget, writes: &[Write]) -> Result<(), Failure> {
        let Some(gate) = self.open.first() else { return Ok(()) };
        let never = Gate { nonce: "never".to_owned(), ..gate.clone() };
        target.write_if(&self.gates.condition(&self.link, &never), writes).await.map(drop)
    }

    /// Where they are.
    pub(crate) fn place(&self) -> String {
        self.gates.place()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.open.len()).unwrap_or(u32::MAX)
    }
}

/// A gate, and whether something may be on its way through it.
struct Way {
    gate: Gate,
    is_doubtful: bool,
}

/// A target behind gates.
pub(crate) struct GatedTarget {
    target: Arc<dyn ConditionalTarget>,
    gates: Arc<dyn Gates>,
    link: String,
    epoch: u64,
    /// As many as there are ways.
    permits: Semaphore,
    ways: Mutex<Vec<Way>>,
    context: Context,
}

impl GatedTarget {
    pub(crate) fn new(target: Arc<dyn ConditionalTarget>, gates: LinkGates, context: Context) -> Self {
        let LinkGates { gates, link, epoch, open } = gates;
        let permits = Semaphore::new(open.len());
        let ways = Mutex::new(open.into_iter().map(|gate| Way { gate, is_doubtful: false }).collect());
        Self { target, gates, link, epoch, permits, ways, context }
    }

    fn ways(&self) -> MutexGuard<'_, Vec<Way>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One attempt, and when its outcome is not known the certainty that it has one.
    async fn attempt(&self, writes: &[Write]) -> Result<WriteReply, Failure> {
        let Ok(_permit) = self.permits.acquire().await else {
            return Err(failure(Fault::Broken, "no gates"));
        };
        let Some(way) = self.ways().pop() else { return Err(failure(Fault::Broken, "no gate is free")) };
        let mut borrowed = Borrowed { of: self, way: Some(way) };
        let Some(way) = &mut borrowed.way else { return Err(failure(Fault::Broken, "no gate")) };
        if way.is_doubtful {
            self.open_again(way).await.map_err(|not| not.failure)?;
        }
        way.is_doubtful = true;
        let condition = self.gates.condition(&self.link, &way.gate);
        match self.target.write_if(&condition, writes).await {
            Ok(Some(reply)) => {
                way.is_doubtful = false;
                Ok(reply)
            }
            // Not as this owner left it: another one has opened it, or it is gone.
            Ok(None) => {
                self.open_again(way).await.map_err(|not| not.failure)?;
                Err(failure(Fault::Transient, "the gate was not as it was left"))
            }
            Err(failure) if !failure.may_have_happened => {
                way.is_doubtful = false;
                Err(failure)
            }
            Err(failure) => {
                // Where that is not to be had, nobody knows.
                let is_certain = match self.open_again(way).await {
                    Ok(()) => true,
                    Err(NotOpened { is_shut, .. }) => is_shut,
                };
                Err(Failure { may_have_happened: !is_certain, ..failure })
            }
        }
    }

    /// Shuts out what may be on its way. Tried for as long as the store may answer: until then nobody can know.
    async fn open_again(&self, way: &mut Way) -> Result<(), NotOpened> {
        let (mut attempts, begun) = (Attempts::new(Patience::SERVICE), Instant::now());
        loop {
            let error = match self.gates.open(&self.link, way.gate.number, self.epoch).await {
                Ok(gate) => {
                    *way = Way { gate, is_doubtful: false };
                    return Ok(());
                }
                Err(error) => error,
            };
            let fault = match &error {
                error if error.may_pass() => Fault::Transient,
                StoreError::Denied { .. } => Fault::Denied,
                // Whoever keeps the books finds that out, too, and ends the link.
                StoreError::Fenced { .. } => {
                    return Err(NotOpened { is_shut: true, failure: failure(Fault::Transient, chain(&error)) });
                }
                _ => Fault::Lost,
            };
            let failure = failure(fault, format!("open a gate: {}", chain(&error)));
            match attempts.failed_with(&failure, begun.elapsed(), self.context.draw()) {
                Verdict::Again(wait) => tokio::time::sleep(wait.max(LEAST_WAIT)).await,
                Verdict::Stop => return Err(NotOpened { is_shut: false, failure }),
            }
        }
    }
}

/// A gate was not opened.
struct NotOpened {
    /// By another owner all the same: nothing of this one lands.
    is_shut: bool,
    failure: Failure,
}

impl TargetTable for GatedTarget {
    /// As promised, but that what was not answered will not land later, and so is not in doubt, as long as the state is there.
    fn write<'a>(&'a self, writes: &'a [Write]) -> BoxFuture<'a, Result<WriteReply, Failure>> {
        Box::pin(self.attempt(writes))
    }
}

/// A way that is in use; it goes back also when the write is dropped, with its doubt.
struct Borrowed<'a> {
    of: &'a GatedTarget,
    way: Option<Way>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        self.of.ways().extend(self.way.take());
    }
}

fn failure(fault: Fault, message: impl Into<String>) -> Failure {
    Failure::of_ours("TransactWriteItems", fault, message)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::FutureExt as _;

    use super::*;
    use crate::model::{CanonicalKey, Key};

    /// `None`: never.
    type Answer = Option<Result<Option<WriteReply>, Failure>>;

    /// What the store and the target answer next; nothing more: as they should.
    #[derive(Default)]
    struct World {
        openings: Mutex<VecDeque<StoreError>>,
        writes: Mutex<VecDeque<Answer>>,
        opened: AtomicU64,
        asked: Mutex<Vec<String>>,
    }

    impl Gates for World {
        fn place(&self) -> String {
            "here".to_owned()
        }

        fn open<'a>(&'a self, _: &'a str, number: u32, epoch: u64) -> BoxFuture<'a, StoreResult<Gate>> {
            let answer = match self.openings.lock().unwrap().pop_front() {
                Some(error) => Err(error),
                None => {
                    let nonce = self.opened.fetch_add(1, Ordering::SeqCst).to_string();
                    Ok(Gate { number, epoch, nonce })
                }
            };
            std::future::ready(answer).boxed()
        }

        fn condition(&self, _: &str, gate: &Gate) -> Vec<u8> {
            gate.nonce.clone().into_bytes()
        }
    }

    impl ConditionalTarget for World {
        fn write_if<'a>(
            &'a self,
            condition: &'a [u8],
            _: &'a [Write],
        ) -> BoxFuture<'a, Result<Option<WriteReply>, Failure>> {
            self.asked.lock().unwrap().push(String::from_utf8_lossy(condition).into_owned());
            match self.writes.lock().unwrap().pop_front() {
                Some(Some(answer)) => std::future::ready(answer).boxed(),
                Some(None) => std::future::pending().boxed(),
                None => std::future::ready(Ok(Some(WriteReply::default()))).boxed(),
            }
        }
    }

    impl World {
        async fn target(self: &Arc<Self>, gates: u32) -> GatedTarget {
            let gates = LinkGates::open(Arc::clone(self) as _, "orders", 7, gates).await.unwrap();
            GatedTarget::new(Arc::clone(self) as _, gates, Context::system())
        }

        fn answers(&self, answer: Answer) {
            self.writes.lock().unwrap().push_back(answer);
        }

        /// Which opening of a gate each write asked for.
        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().clone()
        }
    }

    fn write() -> [Write; 1] {
        let key = Key { canonical: CanonicalKey::from_canonical(*b"k"), json: "{}".into() };
        [Write { key, image: None }]
    }

    fn lost() -> Failure {
        Failure { may_have_happened: true, ..failure(Fault::Transient, "the answer was lost") }
    }

    fn gone() -> StoreError {
        StoreError::Gone { place: "here".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_without_an_answer_is_certain_when_its_gate_is_another_one_and_not_before() {
        let world = Arc::new(World::default());
        let target = world.target(1).await;
        target.write(&write()).await.unwrap();
        world.answers(Some(Err(lost())));
        let io = || StoreError::Io { place: "here".to_owned(), source: "silent".into() };
        world.openings.lock().unwrap().extend([io(), io()]);
        assert!(!target.write(&write()).await.unwrap_err().may_have_happened, "its gate was opened in the end");
        target.write(&write()).await.unwrap();
        assert_eq!(world.asked(), ["0", "0", "1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_gate_cannot_be_opened_anew_the_write_is_in_doubt_unless_another_owner_has_it() {
        let world = Arc::new(World::default());
        let target = world.target(1).await;
        for (error, is_certain) in [(gone(), false), (StoreError::Fenced { link: "orders".to_owned() }, true)] {
            world.answers(Some(Err(lost())));
            let again = || if is_certain { StoreError::Fenced { link: String::new() } } else { gone() };
            world.openings.lock().unwrap().extend([error, again(), again(), again()]);
            assert_eq!(target.write(&write()).await.unwrap_err().may_have_happened, !is_certain);
            world.openings.lock().unwrap().clear();
            target.write(&write()).await.unwrap();
        }
        assert_eq!(world.asked(), ["0", "1", "1", "2"], "and no write goes through a gate that is in doubt");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_was_dropped_leaves_its_gate_to_be_opened_anew() {
        let world = Arc::new(World::default());
        let target = world.target(2).await;
        world.answers(None);
        assert!(target.write(&write()).now_or_never().is_none(), "it is on its way");
        target.write(&write()).await.unwrap();
        target.write(&write()).await.unwrap();
        assert_eq!(world.opened.load(Ordering::SeqCst), 3);
        assert!(!world.asked()[1..].contains(&world.asked()[0]), "{:?}", world.asked());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_or_not_sent_costs_no_new_gate() {
        let world = Arc::new(World::default());
        let target = world.target(1).await;
        world.answers(Some(Err(failure(Fault::Rejected, "too large"))));
        assert_eq!(target.write(&write()).await.unwrap_err().fault, Fault::Rejected);
        target.write(&write()).await.unwrap();
        assert_eq!(world.asked(), ["0", "0"]);
        world.answers(Some(Ok(None)));
        let shut = target.write(&write()).await.unwrap_err();
        assert!(shut.fault == Fault::Transient && !shut.may_have_happened);
        target.write(&write()).await.unwrap();
        assert_eq!(world.asked()[3], "1");
    }
}
