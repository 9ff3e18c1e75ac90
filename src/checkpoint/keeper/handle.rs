//! The way to the bookkeeper: one note for each thing that others may tell or ask.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::BookStatus;
use super::budget::Budget;
use crate::checkpoint::book::Token;
use crate::checkpoint::rows::{DeadLetterRow, GapRow, LinkRow, PageId, SegmentRow, ShardRow};
use crate::model::{CanonicalKey, Change, Key, ShardId, WallTime};

/// The bookkeeper is gone; the reason is what its task returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bookkeeper has stopped")]
pub(crate) struct KeeperGone;

pub(super) enum Note {
    Admit(ShardId, Vec<Admission>, oneshot::Sender<Vec<(Change, Token)>>),
    Settled(Settlement),
    InDoubt(Vec<Key>),
    DeadLetter(DeadLetterRow, Settlement),
    Drained(ShardId),
    GiveUp(ShardId),
    Leave(ShardId),
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
    HealGaps(Vec<u64>, WallTime, oneshot::Sender<Vec<u64>>),
    Barrier(oneshot::Sender<()>),
    SyncKeys(Vec<Key>, oneshot::Sender<()>),
    Status(oneshot::Sender<BookStatus>),
    Close(bool, oneshot::Sender<()>),
}

/// Operations that are settled.
#[derive(Debug, Default)]
pub(crate) struct Settlement {
    pub(crate) tokens: Vec<Token>,
    /// Keys of those that may have been done without an answer before: all of them are listed as in doubt.
    pub(crate) doubtful: Vec<CanonicalKey>,
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
    pub(super) notes: mpsc::Sender<Note>,
    pub(super) budget: Arc<Budget>,
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
    pub(crate) async fn settled(&self, settled: Settlement) -> Result<(), KeeperGone> {
        if settled.tokens.is_empty() { Ok(()) } else { self.tell(Note::Settled(settled)).await }
    }

    /// The outcome of writes of these keys is unknown. Tell it before their operations are settled.
    pub(crate) async fn in_doubt(&self, keys: Vec<Key>) -> Result<(), KeeperGone> {
        self.tell(Note::InDoubt(keys)).await
    }

    /// A change was refused for ever: set it aside, and its operation is settled.
    pub(crate) async fn dead_letter(&self, row: DeadLetterRow, settled: Settlement) -> Result<(), KeeperGone> {
        self.tell(Note::DeadLetter(row, settled)).await
    }

    /// What the books say when everything is entered that was told before.
    pub(crate) async fn status(&self) -> Result<BookStatus, KeeperGone> {
        self.ask(Note::Status).await
    }

    /// The shard's last page was admitted.
    pub(crate) async fn drained(&self, shard: &ShardId) -> Result<(), KeeperGone> {
        self.tell(Note::Drained(shard.clone())).await
    }

    /// The shard is gone before its end; a gap says so.
    pub(crate) async fn give_up(&self, shard: &ShardId) -> Result<(), KeeperGone> {
        self.tell(Note::GiveUp(shard.clone())).await
    }

    /// What is unread of the shard is left to the heal of its gap: a child of it has begun.
    pub(crate) async fn leave(&self, shard: &ShardId) -> Result<(), KeeperGone> {
        self.tell(Note::Leave(shard.clone())).await
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
    /// is durable, with those that are closed.
    pub(crate) async fn heal_gaps(&self, ids: Vec<u64>, covered: WallTime) -> Result<Vec<u64>, KeeperGone> {
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
