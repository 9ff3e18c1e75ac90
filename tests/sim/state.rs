//! The state store of a run: kept in memory, over the life of all processes, with faults in front of it.
//!
//! Checkers see each commit with its effect, whatever the process is told of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dynaferry::checkpoint::rows::{DeadLetterRow, DoubtRow, ExportRequestRow, Fence, ImportRequestRow, VerifiedRow};
use dynaferry::checkpoint::{LinkState, MemoryStore, StateStore, StateWrite, StoreError};
use dynaferry::model::CanonicalKey;
use futures_util::future::BoxFuture;

use crate::gate::Gate;

type StoreResult<T> = Result<T, StoreError>;

/// Sees what is written, when it is durable.
pub(crate) trait CommitObserver: Send + Sync {
    /// A process takes the link over, with this state.
    fn taken(&self, before: &LinkState);
    /// These writes are durable from now on.
    fn committed(&self, writes: &[StateWrite]);
}

/// How a store misbehaves: each a probability for one call.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StateFaults {
    /// Refused; nothing was done.
    pub(crate) throttle: f64,
    /// Done, and answered with an error.
    pub(crate) lost_reply: f64,
    /// Answered late, by so much at most.
    pub(crate) slow: Option<(f64, Duration)>,
    /// Refused, all of it.
    pub(crate) is_down: bool,
}

/// The faults in force, and how often each one fired.
#[derive(Debug)]
pub(crate) struct StateTrouble {
    faults: Mutex<(StateFaults, fastrand::Rng)>,
    counts: Mutex<[u64; 4]>,
}

enum Mishap {
    Refused,
    Unanswered,
    Late(Duration),
}

impl StateTrouble {
    pub(crate) const NAMES: [&'static str; 4] =
        ["state_table.throttle", "state_table.lost_reply", "state_table.slow", "state_table.outage"];

    pub(crate) fn new(seed: u64) -> Arc<Self> {
        let faults = Mutex::new((StateFaults::default(), fastrand::Rng::with_seed(seed)));
        Arc::new(Self { faults, counts: Mutex::default() })
    }

    pub(crate) fn set(&self, faults: StateFaults) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).0 = faults;
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).0.is_down = is_down;
    }

    pub(crate) fn counts(&self) -> [u64; 4] {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self) -> Option<Mishap> {
        let (faults, random) = &mut *self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fires = |chance: f64| chance > 0.0 && random.f64() < chance;
        let (kind, mishap) = if faults.is_down {
            (3, Mishap::Refused)
        } else if fires(faults.throttle) {
            (0, Mishap::Refused)
        } else if fires(faults.lost_reply) {
            (1, Mishap::Unanswered)
        } else if let Some((chance, most)) = faults.slow
            && fires(chance)
        {
            (2, Mishap::Late(most.mul_f64(random.f64())))
        } else {
            return None;
        };
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)[kind] += 1;
        Some(mishap)
    }
}

/// The store as one process reaches it.
pub(crate) struct ProcessStore {
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) trouble: Arc<StateTrouble>,
    pub(crate) observer: Arc<dyn CommitObserver>,
}

impl ProcessStore {
    async fn call<T>(&self, work: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        self.gate.pass().await;
        let failed = || StoreError::Io { place: "memory:".to_owned(), source: "the state store is in trouble".into() };
        let answer = match self.trouble.draw() {
            None => work.await,
            Some(Mishap::Refused) => Err(failed()),
            Some(Mishap::Unanswered) => work.await.and_then(|_| Err(failed())),
            Some(Mishap::Late(time)) => {
                // Half of the time on the way there, half on the way back.
                tokio::time::sleep(time / 2).await;
                self.gate.pass().await;
                let answer = work.await;
                tokio::time::sleep(time / 2).await;
                answer
            }
        };
        self.gate.pass().await;
        answer
    }
}

impl StateStore for ProcessStore {
    fn place(&self) -> String {
        self.memory.place()
    }

    fn links(&self) -> BoxFuture<'_, StoreResult<Vec<String>>> {
        Box::pin(self.call(async { self.memory.links().await }))
    }

    fn read<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<LinkState>> {
        Box::pin(self.call(async move { self.memory.read(link).await }))
    }

    fn take<'a>(&'a self, link: &'a str, owner: &'a str) -> BoxFuture<'a, StoreResult<(Fence, LinkState)>> {
        Box::pin(self.call(async move {
            let taken = self.memory.take(link, owner).await?;
            self.observer.taken(&taken.1);
            Ok(taken)
        }))
    }

    fn commit<'a>(
        &'a self,
        link: &'a str,
        fence: &'a Fence,
        writes: Vec<StateWrite>,
    ) -> BoxFuture<'a, StoreResult<()>> {
        Box::pin(self.call(async move {
            self.memory.commit(link, fence, writes.clone()).await?;
            self.observer.committed(&writes);
            Ok(())
        }))
    }

    fn dead_letters<'a>(
        &'a self,
        link: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, StoreResult<Vec<DeadLetterRow>>> {
        Box::pin(self.call(async move { self.memory.dead_letters(link, after, limit).await }))
    }

    fn note_export<'a>(
        &'a self,
        link: &'a str,
        row: &'a ExportRequestRow,
        replaces: Option<&'a ExportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        Box::pin(self.call(async move { self.memory.note_export(link, row, replaces).await }))
    }

    fn export_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ExportRequestRow>>> {
        Box::pin(self.call(async move { self.memory.export_request(link).await }))
    }

    fn note_import<'a>(
        &'a self,
        link: &'a str,
        row: &'a ImportRequestRow,
        replaces: Option<&'a ImportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        Box::pin(self.call(async move { self.memory.note_import(link, row, replaces).await }))
    }

    fn import_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ImportRequestRow>>> {
        Box::pin(self.call(async move { self.memory.import_request(link).await }))
    }

    fn note_verified<'a>(&'a self, link: &'a str, row: &'a VerifiedRow) -> BoxFuture<'a, StoreResult<()>> {
        Box::pin(self.call(async move { self.memory.note_verified(link, row).await }))
    }

    fn verified<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<VerifiedRow>>> {
        Box::pin(self.call(async move { self.memory.verified(link).await }))
    }

    fn doubt<'a>(&'a self, link: &'a str, key: &'a CanonicalKey) -> BoxFuture<'a, StoreResult<Option<DoubtRow>>> {
        Box::pin(self.call(async move { self.memory.doubt(link, key).await }))
    }
}
