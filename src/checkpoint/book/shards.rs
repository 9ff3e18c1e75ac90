//! The books of the shards: records that arrive and are settled, checkpoints that follow, shards that begin and end.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Arrival, Book, BookError, Event, FinishedShard, ShardProgress, Token};
use crate::checkpoint::Watermark;
use crate::checkpoint::rows::{ShardRow, ShardStatus};
use crate::invariant::{Invariant, Violation};
use crate::model::{SequenceNumber, ShardId, WallTime};

#[derive(Debug)]
pub(super) struct ShardBooks {
    pub(super) row: ShardRow,
    pub(super) watermark: Watermark,
    pub(super) settled_to: Option<WallTime>,
    pub(super) is_drained: bool,
    /// It is not read on, and will not be: see [`Book::leave_shard`].
    is_left: bool,
    pub(super) durable: Durable,
    /// When a page was read last, in this run.
    confirmed_at: Option<WallTime>,
}

impl ShardBooks {
    /// Brings `verified_at` up to date: the time at which the position that a restart would use was proved.
    ///
    /// A read proves a checkpoint. Without one a restart reads from the trim horizon, which never says what is missing:
    /// there the position is as old as the oldest record that is owed, whenever it was read.
    fn verify_position(&mut self) {
        let is_proved = self.row.checkpoint.is_some() && !self.row.is_trimmed;
        match self.watermark.oldest_unsettled().filter(|_| !is_proved) {
            Some(oldest) => self.row.verified_at = self.confirmed_at.unwrap_or(self.row.verified_at).min(oldest),
            None => self.row.verified_at = self.row.verified_at.max(self.confirmed_at.unwrap_or(self.row.verified_at)),
        }
    }

    /// Whether the position was confirmed again since what the row durably says, and so much later.
    fn is_later_by(&self, time: Duration) -> bool {
        let (now, written) = (self.row.verified_at, self.durable.verified_at);
        now > written && now.since(written) >= time
    }
}

/// What a shard's row durably says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Durable {
    dispatch: Option<SequenceNumber>,
    is_finished: bool,
    verified_at: WallTime,
}

impl Durable {
    fn of(row: &ShardRow) -> Self {
        Self { dispatch: row.dispatch, is_finished: row.status == ShardStatus::Finished, verified_at: row.verified_at }
    }

    /// Of a row that is to be made.
    const fn nothing(row: &ShardRow) -> Self {
        Self { dispatch: None, is_finished: false, verified_at: row.verified_at }
    }
}

/// How far each shard's records had been dispatched at some time.
#[derive(Debug, Clone)]
pub(crate) struct Barrier(Vec<(ShardId, SequenceNumber)>);

impl Book {
    pub(super) fn add_shard(&mut self, row: ShardRow, is_durable: bool) {
        let slot = self.shards.len();
        self.slots.insert(row.id.clone(), slot);
        let watermark = Watermark::after(row.checkpoint);
        let settled_to = row.checkpoint_time;
        let durable = if is_durable { Durable::of(&row) } else { Durable::nothing(&row) };
        self.shards.push(ShardBooks {
            row,
            watermark,
            settled_to,
            is_drained: false,
            is_left: false,
            durable,
            confirmed_at: None,
        });
    }

    fn slot(&self, shard: &ShardId) -> Result<usize, BookError> {
        self.slots.get(shard).copied().ok_or_else(|| BookError::Unknown(format!("shard {shard}")))
    }

    fn shard_mut(&mut self, slot: usize) -> Result<&mut ShardBooks, BookError> {
        self.shards.get_mut(slot).ok_or_else(|| BookError::Unknown(format!("shard no. {slot}")))
    }

    /// How far a shard is settled.
    pub(crate) fn progress(&self, slot: usize) -> Option<(&ShardId, ShardProgress)> {
        let shard = self.shards.get(slot)?;
        let oldest_unsettled = shard.watermark.oldest_unsettled();
        Some((&shard.row.id, ShardProgress { oldest_unsettled, settled_to: shard.settled_to }))
    }

    /// Creates rows of shards.
    pub(crate) fn create_shards(&mut self, rows: impl IntoIterator<Item = ShardRow>) {
        for row in rows.into_iter().filter(|row| !self.slots.contains_key(&row.id)).collect::<Vec<_>>() {
            self.dirty.shards.insert(self.shards.len());
            self.add_shard(row, false);
            self.dirty.urgent = true;
        }
    }

    /// A shard may be read now.
    pub(crate) fn begin_shard(&mut self, shard: &ShardId) -> Result<(), BookError> {
        let slot = self.slot(shard)?;
        self.check_parent(slot)?;
        let books = self.shard_mut(slot)?;
        if books.row.status == ShardStatus::Waiting || books.row.is_lost {
            books.is_drained = false;
            books.row.is_lost = false;
            books.row.status = ShardStatus::Reading;
            self.dirty.shards.insert(slot);
            self.dirty.urgent = true;
            // One that was given up may have ended since the last commit: whoever hears of that would take it for the end
            // of what begins now.
            let is_given_up = |finished: &FinishedShard| finished.id == *shard && finished.is_lost;
            self.events.retain(|event| !matches!(event, Event::ShardFinished(finished) if is_given_up(finished)));
        }
        Ok(())
    }

    /// A shard is gone before it was read to its end; a durable gap says so.
    pub(crate) fn give_up_shard(&mut self, shard: &ShardId) -> Result<(), BookError> {
        let slot = self.slot(shard)?;
        let books = self.shard_mut(slot)?;
        // It was read to its end before anybody missed it; whoever missed it is told so when it is finished.
        if !books.row.is_lost && (books.is_drained || books.row.status == ShardStatus::Finished) {
            return Ok(());
        }
        (books.is_drained, books.row.is_lost) = (true, true);
        self.finish_if_done(slot)
    }

    /// What is unread of a shard is left to the heal of its durable gap, for good: a child of it has begun, so it is closed,
    /// and nothing of it is younger than the gap. It ends as finished as one that was read to its end; were it kept as
    /// lost, each restart would find it listed again, and open a gap for it once more.
    pub(crate) fn leave_shard(&mut self, shard: &ShardId) -> Result<(), BookError> {
        let slot = self.slot(shard)?;
        let books = self.shard_mut(slot)?;
        (books.is_drained, books.is_left, books.row.is_lost) = (true, true, false);
        self.dirty.shards.insert(slot);
        self.dirty.urgent = true;
        self.finish_if_done(slot)
    }

    /// Whether a shard was given up or left, and not begun again: what still comes of it lies under its gap.
    pub(crate) fn is_given_up(&self, shard: &ShardId) -> bool {
        let books = self.slots.get(shard).and_then(|slot| self.shards.get(*slot));
        books.is_some_and(|books| books.row.is_lost || books.is_left)
    }

    /// A shard's checkpoint was found trimmed; a durable gap says so.
    pub(crate) fn trimmed(&mut self, shard: &ShardId) -> Result<(), BookError> {
        let slot = self.slot(shard)?;
        self.shard_mut(slot)?.row.is_trimmed = true;
        self.dirty.shards.insert(slot);
        Ok(())
    }

    /// A shard's position was within the stream's retention at this time. Written with the next commit that writes the shard
    /// anyway; of one that is idle, where it is later by so much than what its row says. Answers whether it is.
    pub(crate) fn confirm(&mut self, shard: &ShardId, at: WallTime, later_by: Duration) -> Result<bool, BookError> {
        let slot = self.slot(shard)?;
        let books = self.shard_mut(slot)?;
        books.confirmed_at = books.confirmed_at.max(Some(at));
        books.verify_position();
        let is_due = books.is_later_by(later_by);
        if is_due {
            // Whoever would be next goes along: one commit for many shards costs less than one for each. Those alone that have
            // a row: one that was dropped must not come back.
            let is_near = |slot: &&usize| self.shards.get(**slot).is_some_and(|books| books.is_later_by(later_by / 2));
            self.dirty.shards.extend(self.slots.values().filter(is_near));
        }
        Ok(is_due)
    }

    /// A finished shard was listed.
    pub(crate) fn relist(&mut self, shard: &ShardId, at: WallTime) -> Result<(), BookError> {
        let slot = self.slot(shard)?;
        self.shard_mut(slot)?.row.last_listed = at;
        self.dirty.shards.insert(slot);
        Ok(())
    }

    /// A finished shard's row is no longer needed.
    pub(crate) fn forget_shard(&mut self, shard: &ShardId) {
        if let Some(slot) = self.slots.remove(shard) {
            self.dirty.shards.remove(&slot);
            self.dirty.forgotten.push(shard.clone());
        }
    }

    /// A shard of a stream that is no more: its row goes, whatever its state. A durable gap covers what was unread of it.
    pub(crate) fn drop_shard(&mut self, shard: &ShardId) {
        if let Some(slot) = self.slots.get(shard).copied()
            && let Some(books) = self.shards.get_mut(slot)
        {
            (books.row.status, books.row.is_lost) = (ShardStatus::Finished, true);
            self.dirty.dropped.push(books.row.clone());
            self.forget_shard(shard);
        }
    }

    /// Records arrived: they may be dispatched once what comes out of [`Book::take_writes`] is durable. One token each.
    pub(crate) fn admit(&mut self, shard: &ShardId, arrivals: &[Arrival<'_>]) -> Result<Vec<Token>, BookError> {
        let slot = self.slot(shard)?;
        let books = self.shard_mut(slot)?;
        if books.row.status != ShardStatus::Reading || books.row.is_lost {
            return Err(Violation::with(Invariant::L4, format!("shard {shard} is not being read")).into());
        }
        let debts = std::mem::take(&mut books.row.debts);
        let mut tokens = Vec::with_capacity(arrivals.len());
        let mut doubtful = Vec::new();
        for arrival in arrivals {
            let pushed = books.watermark.push(arrival.sequence, arrival.created, arrival.bytes);
            let of_shard = |source| BookError::Shard { shard: shard.clone(), source };
            let ordinal = pushed.map_err(of_shard)?;
            books.row.dispatch = books.row.dispatch.max(Some(arrival.sequence));
            tokens.push(Token::Record { slot, ordinal, created: arrival.created });
            let until = debts.iter().filter(|debt| arrival.sequence <= debt.to).map(|debt| debt.until).max();
            match arrival.key {
                Some(key) => doubtful.extend(until.map(|until| (key.clone(), until))),
                None => books.watermark.settle(ordinal).map_err(of_shard)?,
            }
        }
        books.row.debts = debts;
        books.verify_position();
        let size: u64 = arrivals.iter().map(|arrival| arrival.bytes as u64).sum();
        self.ahead = (self.ahead.0 + arrivals.len() as u64, self.ahead.1 + size);
        for (key, until) in doubtful {
            self.doubt(&key, until, false);
        }
        self.dirty.shards.insert(slot);
        self.dirty.urgent = true;
        self.after_settling(slot)?;
        Ok(tokens)
    }

    /// The shard's last page was admitted.
    pub(crate) fn drained(&mut self, shard: &ShardId) -> Result<(), BookError> {
        let slot = self.slot(shard)?;
        self.shard_mut(slot)?.is_drained = true;
        self.finish_if_done(slot)
    }

    /// Operations were settled.
    pub(crate) fn settle(&mut self, tokens: impl IntoIterator<Item = Token>) -> Result<(), BookError> {
        let mut touched = BTreeSet::new();
        for token in tokens {
            match token {
                Token::Record { slot, ordinal, .. } => {
                    let books = self.shard_mut(slot)?;
                    let settled = books.watermark.settle(ordinal);
                    settled.map_err(|source| BookError::Shard { shard: books.row.id.clone(), source })?;
                    touched.insert(slot);
                }
                Token::Item(page) => self.settle_item(page)?,
                Token::Doubt(key, until) => self.settle_doubt(key, until),
            }
        }
        touched.into_iter().try_for_each(|slot| self.after_settling(slot))
    }

    fn after_settling(&mut self, slot: usize) -> Result<(), BookError> {
        let books = self.shard_mut(slot)?;
        let Some(advance) = books.watermark.advance() else { return Ok(()) };
        if books.row.checkpoint >= Some(advance.to) {
            let what = format!("the checkpoint of shard {} would move back to {}", books.row.id, advance.to);
            return Err(Violation::with(Invariant::L3, what).into());
        }
        books.row.checkpoint = Some(advance.to);
        books.row.is_trimmed = false;
        books.verify_position();
        books.row.checkpoint_time = books.row.checkpoint_time.max(Some(advance.created));
        books.settled_to = books.row.checkpoint_time;
        books.row.debts.retain(|debt| advance.to < debt.to);
        self.dirty.shards.insert(slot);
        self.dirty.records += advance.records;
        self.ahead = (self.ahead.0.saturating_sub(advance.records), self.ahead.1.saturating_sub(advance.bytes));
        self.events.push(Event::Passed(advance.records, advance.bytes));
        self.finish_if_done(slot)
    }

    fn finish_if_done(&mut self, slot: usize) -> Result<(), BookError> {
        let books = self.shard_mut(slot)?;
        if !books.is_drained || !books.watermark.is_drained() || books.row.status == ShardStatus::Finished {
            return Ok(());
        }
        books.row.status = ShardStatus::Finished;
        books.row.debts.clear();
        // What was read ahead of it took memory that nothing needs any more.
        books.watermark.free_memory();
        let finished = FinishedShard {
            id: books.row.id.clone(),
            is_lost: books.row.is_lost,
            settled_to: books.row.checkpoint_time,
        };
        self.events.push(Event::ShardFinished(finished));
        self.dirty.shards.insert(slot);
        self.dirty.urgent = true;
        Ok(())
    }

    /// L4: the parent's row says `Finished`, durably. A parent that was given up for lost or left is under a gap, and one
    /// without a row, too, or it is no part of our history.
    fn check_parent(&self, slot: usize) -> Result<(), Violation> {
        let row = self.shards.get(slot).map(|shard| &shard.row).filter(|row| row.status == ShardStatus::Waiting);
        let Some((row, parent)) = row.and_then(|row| Some((row, row.parent.as_ref()?))) else { return Ok(()) };
        let parent = self.slots.get(parent).and_then(|slot| self.shards.get(*slot));
        if parent.is_none_or(|parent| parent.durable.is_finished || parent.row.is_lost || parent.is_left) {
            return Ok(());
        }
        Err(Violation::with(Invariant::L4, format!("shard {} would begin before its parent is finished", row.id)))
    }

    /// L6, its second half: whether records up to this one may be sent, because the shard's row durably says so.
    pub(crate) fn check_dispatch(&self, shard: &ShardId, last: SequenceNumber) -> Result<(), BookError> {
        let books = self.slots.get(shard).and_then(|slot| self.shards.get(*slot));
        // The row of a shard that is gone was dropped, and its gap covers it.
        if books.is_none_or(|books| books.durable.dispatch >= Some(last)) {
            return Ok(());
        }
        let what = format!("record {last} of shard {shard} is beyond its dispatch watermark");
        Err(Violation::with(Invariant::L6, what).into())
    }

    /// What [`Book::take_writes`] gave out last is durable.
    pub(crate) fn committed(&mut self) {
        for slot in std::mem::take(&mut self.written) {
            if let Some(shard) = self.shards.get_mut(slot) {
                shard.durable = Durable::of(&shard.row);
            }
        }
    }

    /// Where every shard's dispatched records end now.
    pub(crate) fn barrier(&self) -> Barrier {
        let ends = self.shards.iter().filter(|shard| !shard.watermark.is_drained());
        Barrier(ends.filter_map(|shard| Some((shard.row.id.clone(), shard.row.dispatch?))).collect())
    }

    /// Whether everything that was dispatched at a barrier is settled.
    pub(crate) fn has_passed(&self, barrier: &Barrier) -> bool {
        barrier.0.iter().all(|(shard, end)| {
            let books = self.slots.get(shard).and_then(|slot| self.shards.get(*slot));
            books.is_none_or(|books| books.row.checkpoint >= Some(*end) || books.watermark.is_drained())
        })
    }
}
