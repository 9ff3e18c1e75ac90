//! The bookkeeper: one task that owns a link's books and writes them down.
//!
//! Everybody else holds a [`Keeper`] and sends notes. The task takes all notes that wait, enters them, and commits once for
//! all of them: at once when somebody waits for durability, else every interval or every so many records. Nothing else
//! writes the link's rows, so no two writes of a row can cross.
//!
//! A failing store is retried for ever; meanwhile no record is admitted beyond the look-ahead, so nothing grows. A
//! store that answers that another worker took over, or that a write breaks an invariant, ends the link.
//!
//! The task is here. `handle` is what others hold, `entering` puts their notes into the books, `budget` is the look-ahead.

mod budget;
mod entering;
mod handle;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::book::{Barrier, Book, BookError, Event, FinishedShard, ShardProgress, Token};
use super::rows::{Fence, GapRow, PageId};
use super::{StateStore, StateWrite, StoreError};
use crate::context::Context;
use crate::model::{CanonicalKey, Key, SequenceNumber, ShardId, WallTime};

use budget::Budget;
use handle::Note;
pub(crate) use handle::{Admission, Keeper, KeeperGone, Settlement};

/// Notes that may wait. Senders wait when there are more, which slows reading and settling, and loses nothing.
const NOTES: usize = 256;
/// Syncs that may be out at once.
const MAX_SYNCS: usize = 64;
/// First wait after the store failed; doubles up to [`LONGEST_STORE_WAIT`].
const FIRST_STORE_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two attempts at a failing store.
const LONGEST_STORE_WAIT: Duration = Duration::from_secs(10);

/// A clock that is ahead by less needs no word: doubts have a minute's margin.
const CLOCK_STEP: Duration = Duration::from_secs(10);

/// AWS refuses what is signed by a clock that is further ahead. Source: Signature Version 4, by other texts 5 minutes.
const MOST_AHEAD: Duration = Duration::from_secs(15 * 60);

/// How far the clock that requests are signed by is ahead of AWS's, as far as that lengthens their lives.
pub(crate) fn ahead(signing: &Context, by_aws: &Context) -> Duration {
    signing.now().since(by_aws.now()).min(MOST_AHEAD)
}

/// How often the books are written down, and how far reading may run ahead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeeperSettings {
    /// At most this long between two checkpoints that moved.
    pub(crate) interval: Duration,
    /// At most this many records between two checkpoints.
    pub(crate) records: u64,
    /// Records beyond the watermarks of all shards of the link.
    pub(crate) look_ahead_records: usize,
    /// Bytes of them, as read.
    pub(crate) look_ahead_bytes: usize,
    /// How much later a position must be confirmed, or everything be applied, to be written down where nothing else is.
    pub(crate) idle_interval: Duration,
}

/// Why the books were closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    /// The state could not be written, and will not be.
    #[error("write checkpoint")]
    Store(#[from] StoreError),
    /// A bug.
    #[error("keep the books")]
    Book(#[from] BookError),
}

/// A key to be synced, and what the sync settles.
pub(crate) type SyncOrder = (Key, Token);

/// What the books say now, for status and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BookStatus {
    pub(crate) doubts: usize,
    /// See [`Book::listed`].
    pub(crate) first_listed: Option<u64>,
    pub(crate) next_listed: u64,
    pub(crate) last_doubt_due: Option<WallTime>,
    pub(crate) dead_letters: u64,
    pub(crate) open_gaps: Vec<GapRow>,
    pub(crate) all_gaps: usize,
}

/// What the books tell while they are kept.
pub(crate) trait BookObserver: Send + Sync {
    /// A shard's books changed; `arrived` are the creation times of records that came in, oldest and newest.
    fn progress(&self, shard: &ShardId, progress: ShardProgress, arrived: Option<(WallTime, WallTime)>);
    /// The positions of these shards are being written as they are now.
    fn committing(&self, shards: &mut dyn Iterator<Item = &ShardId>);
    /// A commit was tried; the shards are those of the last call of `committing`.
    fn committed(&self, ok: bool);
    /// Counts changed.
    fn status(&self, status: BookStatus);
    /// Records and bytes that were read beyond the watermarks.
    fn ahead(&self, records: u64, bytes: u64);
    /// Every change created before this is applied; `None`: not known.
    fn settled_until(&self) -> Option<WallTime>;
}

/// The task behind a [`Keeper`].
pub(crate) struct KeeperTask {
    link: String,
    fence: Fence,
    store: Arc<dyn StateStore>,
    context: Context,
    signing: Context,
    settings: KeeperSettings,
    observer: Arc<dyn BookObserver>,
    book: Book,
    notes: mpsc::Receiver<Note>,
    budget: Arc<Budget>,
    syncs: mpsc::UnboundedSender<SyncOrder>,
    syncs_out: usize,
    finished: mpsc::UnboundedSender<FinishedShard>,
    /// How far the records reach that may be sent when the next commit is durable.
    to_dispatch: Vec<(ShardId, SequenceNumber)>,
    /// To be answered when the next commit is durable.
    acks: Vec<Box<dyn FnOnce() + Send>>,
    pages: HashMap<PageId, oneshot::Sender<()>>,
    sync_waits: Vec<SyncWait>,
    barriers: Vec<(Barrier, oneshot::Sender<()>)>,
    committed_at: Instant,
    closing: bool,
}

struct SyncWait {
    left: HashSet<CanonicalKey>,
    ack: oneshot::Sender<()>,
}

/// Where the books of a link come from and go to.
pub(crate) struct KeeperSetup {
    pub(crate) link: String,
    pub(crate) fence: Fence,
    pub(crate) store: Arc<dyn StateStore>,
    /// By AWS's clock.
    pub(crate) context: Context,
    /// By the clock that requests are signed by.
    pub(crate) signing: Context,
    pub(crate) settings: KeeperSettings,
    pub(crate) observer: Arc<dyn BookObserver>,
    pub(crate) book: Book,
}

/// What comes out of a [`KeeperTask`] for others.
pub(crate) struct KeeperOutput {
    /// Keys to be synced. At most 64 are out at once, so it needs no other bound.
    pub(crate) syncs: mpsc::UnboundedReceiver<SyncOrder>,
    /// Shards whose rows durably say `Finished`: one message a shard.
    pub(crate) finished: mpsc::UnboundedReceiver<FinishedShard>,
}

impl KeeperTask {
    pub(crate) fn new(setup: KeeperSetup) -> (Self, Keeper, KeeperOutput) {
        let (notes, inbox) = mpsc::channel(NOTES);
        let (syncs, sync_orders) = mpsc::unbounded_channel();
        let (finished, finished_shards) = mpsc::unbounded_channel();
        let budget = Arc::new(Budget::new(&setup.settings));
        let KeeperSetup { link, fence, store, context, signing, settings, observer, book } = setup;
        let task = Self {
            link,
            fence,
            store,
            context,
            signing,
            settings,
            observer,
            book,
            notes: inbox,
            budget: Arc::clone(&budget),
            syncs,
            syncs_out: 0,
            finished,
            to_dispatch: Vec::new(),
            acks: Vec::new(),
            pages: HashMap::new(),
            sync_waits: Vec::new(),
            barriers: Vec::new(),
            committed_at: Instant::now(),
            closing: false,
        };
        // Who looks before the task runs must not take open gaps and keys in doubt for none.
        task.report();
        (task, Keeper { notes, budget }, KeeperOutput { syncs: sync_orders, finished: finished_shards })
    }

    /// Keeps the books until they are closed. Dropping it half-way leaves what is durable, which is always enough.
    pub(crate) async fn run(mut self) -> Result<(), KeeperError> {
        self.commit().await?;
        // The last owner's stands until all is written down that was taken over by it; ours, before anything is sent.
        if self.book.link().signed_ahead > Duration::ZERO {
            self.book.update_link(|link| link.signed_ahead = Duration::ZERO);
        }
        self.note_clock();
        self.commit().await?;
        self.report();
        while !self.closing {
            self.wait().await?;
            self.note_clock();
            self.book.announce_due(self.context.now(), self.room_for_syncs());
            if self.book.is_urgent() || self.is_checkpoint_due() {
                self.commit().await?;
            }
            self.tell_events();
            self.send_syncs();
            self.report();
        }
        Ok(())
    }

    /// Waits for notes, or for the next checkpoint, or for a key in doubt; enters all notes that are there.
    async fn wait(&mut self) -> Result<(), KeeperError> {
        let deadline = self.next_deadline();
        tokio::select! {
            biased;
            note = self.notes.recv() => match note {
                Some(note) => self.enter(note)?,
                None => self.closing = true,
            },
            () = tokio::time::sleep_until(deadline) => {}
        }
        for _ in 0..NOTES {
            match self.notes.try_recv() {
                Ok(note) => self.enter(note)?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn next_deadline(&self) -> Instant {
        let tick = self.committed_at + self.settings.interval;
        let next_due = self.book.next_due().filter(|_| self.syncs_out < MAX_SYNCS);
        let due_in = next_due.map(|due| due.since(self.context.now()).max(Duration::from_millis(1)));
        due_in.map_or(tick, |due_in| tick.min(Instant::now() + due_in)).max(Instant::now() + Duration::from_millis(1))
    }

    /// Until when AWS holds a signature of ours for one that was made then. A request of a machine whose clock is, or was, ahead
    /// holds so much longer.
    fn signed_at(&self) -> WallTime {
        self.context.now().plus(self.book.link().signed_ahead.max(self.clock_ahead()))
    }

    fn clock_ahead(&self) -> Duration {
        ahead(&self.signing, &self.context)
    }

    /// Lets the link's row say how far the clock of requests is ahead at most, for whoever takes over from an owner that did
    /// not drain.
    fn note_clock(&mut self) {
        let ahead = self.clock_ahead();
        if ahead > self.book.link().signed_ahead + CLOCK_STEP {
            self.book.update_link(|link| link.signed_ahead = ahead);
        }
    }

    fn is_checkpoint_due(&self) -> bool {
        self.book.records_since_commit() >= self.settings.records
            || self.committed_at.elapsed() >= self.settings.interval
    }

    /// Writes everything that changed. Tried until it succeeds or can never succeed.
    async fn commit(&mut self) -> Result<(), KeeperError> {
        self.committed_at = Instant::now();
        let writes = self.book.take_writes();
        if !writes.is_empty() {
            self.observer.committing(&mut writes.iter().filter_map(|write| match write {
                StateWrite::Shard(row) => Some(&row.id),
                _ => None,
            }));
            let mut wait = FIRST_STORE_WAIT;
            while let Err(error) = self.store.commit(&self.link, &self.fence, writes.clone()).await {
                self.observer.committed(false);
                if !error.may_pass() {
                    return Err(error.into());
                }
                tracing::warn!(link = %self.link, error = %crate::error::chain(&error), "state could not be written, trying again");
                tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * self.context.draw())).await;
                wait = (wait * 2).min(LONGEST_STORE_WAIT);
            }
            self.observer.committed(true);
        }
        self.book.committed();
        for (shard, last) in self.to_dispatch.drain(..) {
            self.book.check_dispatch(&shard, last)?;
        }
        self.acks.drain(..).for_each(|ack| ack());
        Ok(())
    }

    fn tell_events(&mut self) {
        for event in self.book.take_events() {
            match event {
                Event::ShardFinished(shard) => drop(self.finished.send(shard)),
                Event::PageDone(page) => {
                    if let Some(done) = self.pages.remove(&page) {
                        answer(done);
                    }
                }
                Event::Synced(key) => self.sync_waits.iter_mut().for_each(|wait| {
                    wait.left.remove(&key);
                }),
                Event::Passed(records, kib) => {
                    self.budget.records.add_permits(usize::try_from(records).unwrap_or(0));
                    self.budget.kib.add_permits(usize::try_from(kib).unwrap_or(0));
                }
            }
        }
        for (_, ack) in self.barriers.extract_if(.., |(barrier, _)| self.book.has_passed(barrier)) {
            answer(ack);
        }
        for wait in self.sync_waits.extract_if(.., |wait| wait.left.is_empty()) {
            answer(wait.ack);
        }
    }

    const fn room_for_syncs(&self) -> usize {
        MAX_SYNCS.saturating_sub(self.syncs_out)
    }

    fn send_syncs(&mut self) {
        for order in self.book.take_due(self.context.now(), self.room_for_syncs()) {
            self.syncs_out += 1;
            drop(self.syncs.send(order));
        }
    }

    fn report(&self) {
        let (records, kib) = self.book.ahead();
        self.observer.ahead(records, kib.saturating_mul(1024));
        self.observer.status(self.status());
    }

    fn status(&self) -> BookStatus {
        let open_gaps = self.book.gap_rows().filter(|gap| gap.healed.is_none()).cloned().collect();
        let (first_listed, next_listed) = self.book.listed();
        BookStatus {
            doubts: self.book.num_doubts(),
            first_listed,
            next_listed,
            last_doubt_due: self.book.last_due(),
            dead_letters: self.book.num_dead_letters(),
            open_gaps,
            all_gaps: self.book.gap_rows().count(),
        }
    }
}

/// Who no longer waits was cancelled, and needs no answer.
fn answer(waiting: oneshot::Sender<()>) {
    if waiting.send(()).is_err() {
        tracing::trace!("nobody waits for the answer");
    }
}
