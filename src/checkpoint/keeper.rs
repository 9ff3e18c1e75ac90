//! The bookkeeper: one task that owns a link's books and writes them down.
//!
//! Everybody else holds a [`Keeper`] and sends notes. The task takes all notes that wait, enters them, and commits once for
//! all of them: at once when somebody waits for durability, else every interval or every so many records. Nothing else
//! writes the link's rows, so no two writes of a row can cross.
//!
//! A failing store is retried for ever; meanwhile no record is admitted beyond the look-ahead, so nothing grows. A
//! store that answers that another worker took over, or that a write breaks an invariant, ends the link.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::book::{Arrival, Barrier, Book, BookError, Event, ShardProgress, Token};
use super::rows::{DeadLetterRow, Fence, GapRow, LinkRow, PageId, SegmentRow, ShardRow};
use super::{StateStore, StateWrite, StoreError};
use crate::context::Context;
use crate::model::{CanonicalKey, Change, Key, ShardId, WallTime};

/// Notes that may wait. Senders wait when there are more, which slows reading and settling, and loses nothing.
const NOTES: usize = 256;
/// Syncs that may be out at once.
const MAX_SYNCS: usize = 64;
/// First wait after the store failed; doubles up to [`LONGEST_STORE_WAIT`].
const FIRST_STORE_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two attempts at a failing store.
const LONGEST_STORE_WAIT: Duration = Duration::from_secs(10);

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

/// The bookkeeper is gone; the reason is what its task returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bookkeeper has stopped")]
pub(crate) struct KeeperGone;

/// A key to be synced, and what the sync settles.
pub(crate) type SyncOrder = (Key, Token);

/// What the books say now, for status and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BookStatus {
    pub(crate) doubts: usize,
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
}

enum Note {
    Admit(ShardId, Vec<Admission>, oneshot::Sender<Vec<(Change, Token)>>),
    Settled(Vec<Token>),
    InDoubt(Vec<Key>),
    DeadLetter(DeadLetterRow, Vec<Token>),
    Drained(ShardId),
    GiveUp(ShardId),
    Trimmed(ShardId),
    Confirm(ShardId, WallTime),
    Relist(ShardId, WallTime),
    Forget(ShardId),
    CreateShards(Vec<ShardRow>, oneshot::Sender<()>),
    Begin(ShardId, oneshot::Sender<()>),
    OpenPage(PageId, Vec<Key>, SegmentRow, oneshot::Sender<()>, oneshot::Sender<()>),
    ForgetSegments,
    UpdateLink(Box<dyn FnOnce(&mut LinkRow) + Send>, oneshot::Sender<()>),
    OpenGap(GapRow, oneshot::Sender<bool>),
    HealGaps(Vec<u64>, WallTime, oneshot::Sender<()>),
    Barrier(oneshot::Sender<()>),
    SyncKeys(Vec<Key>, oneshot::Sender<()>),
    Close(bool, oneshot::Sender<()>),
}

/// A record on its way to the lanes.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The record.
    pub(crate) change: Change,
    /// Whether it is to be applied; one that is not is settled at once.
    pub(crate) apply: bool,
}

/// The way to the bookkeeper. Cheap to clone. Dropping any of its futures is safe: the note is entered or not.
#[derive(Clone)]
pub(crate) struct Keeper {
    notes: mpsc::Sender<Note>,
    budget: Arc<Budget>,
}

struct Budget {
    records: Semaphore,
    kib: Semaphore,
    max_records: usize,
    max_kib: usize,
}

impl Keeper {
    /// Takes records into the books. Resolves when they may be dispatched: there is room for them in the look-ahead, and
    /// the shard's row durably says that they may be out. What is not to be applied does not come back.
    pub(crate) async fn admit(
        &self,
        shard: &ShardId,
        records: Vec<Admission>,
    ) -> Result<Vec<(Change, Token)>, KeeperGone> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let (count, kib) = self.budget.weigh(&records);
        let records_permit = self.budget.records.acquire_many(count).await.map_err(|_| KeeperGone)?;
        let bytes_permit = self.budget.kib.acquire_many(kib).await.map_err(|_| KeeperGone)?;
        // Given back by the task when the watermark passes the records.
        records_permit.forget();
        bytes_permit.forget();
        self.ask(|ack| Note::Admit(shard.clone(), records, ack)).await
    }

    /// Operations were settled.
    pub(crate) async fn settled(&self, tokens: Vec<Token>) -> Result<(), KeeperGone> {
        if tokens.is_empty() { Ok(()) } else { self.tell(Note::Settled(tokens)).await }
    }

    /// The outcome of writes of these keys is unknown. Tell it before their operations are settled.
    pub(crate) async fn in_doubt(&self, keys: Vec<Key>) -> Result<(), KeeperGone> {
        self.tell(Note::InDoubt(keys)).await
    }

    /// A change was refused for ever: set it aside, and its operation is settled.
    pub(crate) async fn dead_letter(&self, row: DeadLetterRow, tokens: Vec<Token>) -> Result<(), KeeperGone> {
        self.tell(Note::DeadLetter(row, tokens)).await
    }

    /// The shard's last page was admitted.
    pub(crate) async fn drained(&self, shard: &ShardId) -> Result<(), KeeperGone> {
        self.tell(Note::Drained(shard.clone())).await
    }

    /// The shard is gone before its end; a gap says so.
    pub(crate) async fn give_up(&self, shard: &ShardId) -> Result<(), KeeperGone> {
        self.tell(Note::GiveUp(shard.clone())).await
    }

    /// The shard's checkpoint was found trimmed; a gap says so.
    pub(crate) async fn trimmed(&self, shard: &ShardId) -> Result<(), KeeperGone> {
        self.tell(Note::Trimmed(shard.clone())).await
    }

    /// The shard's position was within retention at this time.
    pub(crate) async fn confirm(&self, shard: &ShardId, at: WallTime) -> Result<(), KeeperGone> {
        self.tell(Note::Confirm(shard.clone(), at)).await
    }

    /// A finished shard was listed.
    pub(crate) async fn relist(&self, shard: &ShardId, at: WallTime) -> Result<(), KeeperGone> {
        self.tell(Note::Relist(shard.clone(), at)).await
    }

    /// A finished shard's row may go.
    pub(crate) async fn forget(&self, shard: &ShardId) -> Result<(), KeeperGone> {
        self.tell(Note::Forget(shard.clone())).await
    }

    /// Creates rows, in this order. Resolves when they are durable.
    pub(crate) async fn create_shards(&self, rows: Vec<ShardRow>) -> Result<(), KeeperGone> {
        if rows.is_empty() { Ok(()) } else { self.ask(|ack| Note::CreateShards(rows, ack)).await }
    }

    /// Marks a shard as being read. Resolves when that is durable.
    pub(crate) async fn begin(&self, shard: &ShardId) -> Result<(), KeeperGone> {
        self.ask(|ack| Note::Begin(shard.clone(), ack)).await
    }

    /// Lists the keys of a page of the load. Resolves, when they are listed durably, with what resolves when all of the
    /// page's items are settled.
    pub(crate) async fn open_page(
        &self,
        page: PageId,
        keys: Vec<Key>,
        after: SegmentRow,
    ) -> Result<oneshot::Receiver<()>, KeeperGone> {
        let (done, is_done) = oneshot::channel();
        self.ask(|ack| Note::OpenPage(page, keys, after, done, ack)).await?;
        Ok(is_done)
    }

    /// The load is done.
    pub(crate) async fn forget_segments(&self) -> Result<(), KeeperGone> {
        self.tell(Note::ForgetSegments).await
    }

    /// Changes the link's row. Resolves when it is durable.
    pub(crate) async fn update_link(
        &self,
        change: impl FnOnce(&mut LinkRow) + Send + 'static,
    ) -> Result<(), KeeperGone> {
        self.ask(|ack| Note::UpdateLink(Box::new(change), ack)).await
    }

    /// Opens a gap, or extends an open one. Resolves when that is durable, with whether it is new.
    pub(crate) async fn open_gap(&self, row: GapRow) -> Result<bool, KeeperGone> {
        self.ask(|ack| Note::OpenGap(row, ack)).await
    }

    /// Closes gaps that a pass healed which began at `covered`; those that went on since stay open. Resolves when that
    /// is durable.
    pub(crate) async fn heal_gaps(&self, ids: Vec<u64>, covered: WallTime) -> Result<(), KeeperGone> {
        self.ask(|ack| Note::HealGaps(ids, covered, ack)).await
    }

    /// Resolves when every record that has been admitted by now is settled.
    pub(crate) async fn settled_until_now(&self) -> Result<(), KeeperGone> {
        self.ask(Note::Barrier).await
    }

    /// Has keys synced. Resolves when every one of them was.
    pub(crate) async fn sync_keys(&self, keys: Vec<Key>) -> Result<(), KeeperGone> {
        if keys.is_empty() { Ok(()) } else { self.ask(|ack| Note::SyncKeys(keys, ack)).await }
    }

    /// Closes the books: a last commit, which says whether nothing is left on the wire. No note is taken after it.
    pub(crate) async fn close(&self, clean: bool) -> Result<(), KeeperGone> {
        self.ask(|ack| Note::Close(clean, ack)).await
    }

    async fn tell(&self, note: Note) -> Result<(), KeeperGone> {
        self.notes.send(note).await.map_err(|_| KeeperGone)
    }

    async fn ask<T>(&self, note: impl FnOnce(oneshot::Sender<T>) -> Note) -> Result<T, KeeperGone> {
        let (ack, answer) = oneshot::channel();
        self.tell(note(ack)).await?;
        answer.await.map_err(|_| KeeperGone)
    }
}

impl Budget {
    fn new(settings: &KeeperSettings) -> Self {
        let max_records = settings.look_ahead_records.clamp(1, Semaphore::MAX_PERMITS);
        let max_kib = (settings.look_ahead_bytes / 1024).clamp(1, Semaphore::MAX_PERMITS);
        Self { records: Semaphore::new(max_records), kib: Semaphore::new(max_kib), max_records, max_kib }
    }

    /// What a page takes, in permits. A page larger than all of the look-ahead takes all of it.
    fn weigh(&self, records: &[Admission]) -> (u32, u32) {
        let bytes: usize = records.iter().map(|record| record.change.wire_bytes).sum();
        let permits = |wanted: usize, most: usize| u32::try_from(wanted.clamp(1, most)).unwrap_or(u32::MAX);
        (permits(records.len(), self.max_records), permits(bytes.div_ceil(1024), self.max_kib))
    }
}

/// The task behind a [`Keeper`].
pub(crate) struct KeeperTask {
    link: String,
    fence: Fence,
    store: Arc<dyn StateStore>,
    context: Context,
    settings: KeeperSettings,
    observer: Arc<dyn BookObserver>,
    book: Book,
    notes: mpsc::Receiver<Note>,
    budget: Arc<Budget>,
    syncs: mpsc::UnboundedSender<SyncOrder>,
    syncs_out: usize,
    finished: mpsc::UnboundedSender<ShardId>,
    /// To be answered when the next commit is durable.
    acks: Vec<Box<dyn FnOnce() + Send>>,
    pages: HashMap<PageId, oneshot::Sender<()>>,
    sync_waits: Vec<SyncWait>,
    barriers: Vec<(Barrier, oneshot::Sender<()>)>,
    committed_at: Instant,
    closing: bool,
}

struct SyncWait {
    left: std::collections::HashSet<CanonicalKey>,
    ack: oneshot::Sender<()>,
}

/// Where the books of a link come from and go to.
pub(crate) struct KeeperSetup {
    pub(crate) link: String,
    pub(crate) fence: Fence,
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) context: Context,
    pub(crate) settings: KeeperSettings,
    pub(crate) observer: Arc<dyn BookObserver>,
    pub(crate) book: Book,
}

/// What comes out of a [`KeeperTask`] for others.
pub(crate) struct KeeperOutput {
    /// Keys to be synced. At most 64 are out at once, so it needs no other bound.
    pub(crate) syncs: mpsc::UnboundedReceiver<SyncOrder>,
    /// Shards whose rows durably say `Finished`: one message a shard.
    pub(crate) finished: mpsc::UnboundedReceiver<ShardId>,
}

impl KeeperTask {
    pub(crate) fn new(setup: KeeperSetup) -> (Self, Keeper, KeeperOutput) {
        let (notes, inbox) = mpsc::channel(NOTES);
        let (syncs, sync_orders) = mpsc::unbounded_channel();
        let (finished, finished_shards) = mpsc::unbounded_channel();
        let budget = Arc::new(Budget::new(&setup.settings));
        let KeeperSetup { link, fence, store, context, settings, observer, book } = setup;
        let task = Self {
            link,
            fence,
            store,
            context,
            settings,
            observer,
            book,
            notes: inbox,
            budget: Arc::clone(&budget),
            syncs,
            syncs_out: 0,
            finished,
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
        self.report();
        while !self.closing {
            self.wait().await?;
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

    fn is_checkpoint_due(&self) -> bool {
        self.book.records_since_commit() >= self.settings.records
            || self.committed_at.elapsed() >= self.settings.interval
    }

    fn enter(&mut self, note: Note) -> Result<(), KeeperError> {
        match note {
            Note::Admit(shard, records, ack) => self.admit(&shard, records, ack)?,
            Note::Settled(tokens) => self.settle(tokens)?,
            Note::InDoubt(keys) => {
                let now = self.context.now();
                keys.iter().for_each(|key| self.book.in_doubt(key, now));
            }
            Note::DeadLetter(row, tokens) => {
                self.book.dead_letter(row);
                self.settle(tokens)?;
            }
            Note::Drained(shard) => self.book.drained(&shard)?,
            Note::GiveUp(shard) => self.book.give_up_shard(&shard)?,
            Note::Trimmed(shard) => self.book.trimmed(&shard)?,
            Note::Confirm(shard, at) => self.book.confirm(&shard, at)?,
            Note::Relist(shard, at) => self.book.relist(&shard, at)?,
            Note::Forget(shard) => self.book.forget_shard(&shard),
            Note::CreateShards(rows, ack) => {
                self.book.create_shards(rows);
                self.ack_when_durable(ack, ());
            }
            Note::Begin(shard, ack) => {
                self.book.begin_shard(&shard)?;
                self.ack_when_durable(ack, ());
            }
            Note::OpenPage(page, keys, after, done, ack) => {
                self.pages.insert(page, done);
                self.book.open_page(page, keys.iter(), after);
                self.ack_when_durable(ack, ());
            }
            Note::ForgetSegments => self.book.forget_segments(),
            Note::UpdateLink(change, ack) => {
                self.book.update_link(change);
                self.ack_when_durable(ack, ());
            }
            Note::OpenGap(row, ack) => {
                let is_new = self.book.open_gap(row);
                self.ack_when_durable(ack, is_new);
            }
            Note::HealGaps(ids, covered, ack) => {
                self.book.heal_gaps(&ids, covered, self.context.now());
                self.ack_when_durable(ack, ());
            }
            Note::Barrier(ack) => self.barriers.push((self.book.barrier(), ack)),
            Note::SyncKeys(keys, ack) => {
                let now = self.context.now();
                keys.iter().for_each(|key| self.book.sync_now(key, now));
                self.sync_waits.push(SyncWait { left: keys.into_iter().map(|key| key.canonical).collect(), ack });
            }
            Note::Close(clean, ack) => {
                self.book.update_link(|link| link.clean = clean);
                self.ack_when_durable(ack, ());
                self.closing = true;
            }
        }
        Ok(())
    }

    fn admit(
        &mut self,
        shard: &ShardId,
        records: Vec<Admission>,
        ack: oneshot::Sender<Vec<(Change, Token)>>,
    ) -> Result<(), KeeperError> {
        let (_, kib) = self.budget.weigh(&records);
        let last = records.len().saturating_sub(1);
        let arrivals: Vec<_> = records
            .iter()
            .enumerate()
            .map(|(n, record)| Arrival {
                sequence: record.change.sequence,
                created: record.change.created,
                // The page's bytes are given back when its last record is passed, and so is what a huge page could not take.
                bytes: if n == last { kib as usize } else { 0 },
                key: record.apply.then_some(&record.change.key),
            })
            .collect();
        let created = || arrivals.iter().map(|arrival| arrival.created);
        let arrived = created().min().zip(created().max());
        let tokens = self.book.admit(shard, &arrivals)?;
        if let Some(Token::Record { slot, .. }) = tokens.first() {
            self.observe(*slot, arrived);
        }
        let admitted = records.into_iter().zip(tokens).filter(|(record, _)| record.apply);
        let admitted = admitted.map(|(record, token)| (record.change, token)).collect();
        self.ack_when_durable(ack, admitted);
        Ok(())
    }

    fn settle(&mut self, tokens: Vec<Token>) -> Result<(), KeeperError> {
        self.syncs_out -= tokens.iter().filter(|token| matches!(token, Token::Doubt(..))).count().min(self.syncs_out);
        let slots: std::collections::BTreeSet<usize> = tokens
            .iter()
            .filter_map(|token| if let Token::Record { slot, .. } = token { Some(*slot) } else { None })
            .collect();
        self.book.settle(tokens)?;
        slots.into_iter().for_each(|slot| self.observe(slot, None));
        Ok(())
    }

    fn observe(&self, slot: usize, arrived: Option<(WallTime, WallTime)>) {
        if let Some((shard, progress)) = self.book.progress(slot) {
            self.observer.progress(shard, progress, arrived);
        }
    }

    fn ack_when_durable<T: Send + 'static>(&mut self, ack: oneshot::Sender<T>, value: T) {
        // Who no longer waits was cancelled, and needs no answer.
        self.acks.push(Box::new(move || drop(ack.send(value))));
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
                if !matches!(error, StoreError::Io { .. }) {
                    return Err(error.into());
                }
                tracing::warn!(link = %self.link, error = %crate::error::chain(&error), "state could not be written, trying again");
                tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * self.context.draw())).await;
                wait = (wait * 2).min(LONGEST_STORE_WAIT);
            }
            self.observer.committed(true);
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

    fn send_syncs(&mut self) {
        let room = MAX_SYNCS.saturating_sub(self.syncs_out);
        for order in self.book.take_due(self.context.now(), room) {
            self.syncs_out += 1;
            drop(self.syncs.send(order));
        }
    }

    fn report(&self) {
        let (records, kib) = self.book.ahead();
        self.observer.ahead(records, kib.saturating_mul(1024));
        let open_gaps = self.book.gap_rows().filter(|gap| gap.healed.is_none()).cloned().collect();
        self.observer.status(BookStatus {
            doubts: self.book.num_doubts(),
            last_doubt_due: self.book.last_due(),
            dead_letters: self.book.num_dead_letters(),
            open_gaps,
            all_gaps: self.book.gap_rows().count(),
        });
    }
}

/// Who no longer waits was cancelled, and needs no answer.
fn answer(waiting: oneshot::Sender<()>) {
    if waiting.send(()).is_err() {
        tracing::trace!("nobody waits for the answer");
    }
}
