//! Enters notes in the books.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::oneshot;

use super::handle::Note;
use super::{Admission, KeeperError, KeeperTask, Settlement, SyncWait};
use crate::checkpoint::book::{Arrival, BookError, Token};
use crate::invariant::{Invariant, Violation};
use crate::model::{Change, ShardId, WallTime};

impl KeeperTask {
    pub(super) fn enter(&mut self, note: Note) -> Result<(), KeeperError> {
        match note {
            Note::Admit(shard, records, ack) => self.admit(&shard, records, ack)?,
            Note::Settled(settled) => self.settle(settled)?,
            Note::InDoubt(keys) => {
                let sent = self.signed_at();
                keys.iter().for_each(|key| self.book.in_doubt(key, sent));
            }
            Note::DeadLetter(row, settled) => {
                self.book.dead_letter(row);
                self.settle(settled)?;
            }
            Note::Drained(shard) => self.book.drained(&shard)?,
            Note::GiveUp(shard) => self.book.give_up_shard(&shard)?,
            Note::Leave(shard) => self.book.leave_shard(&shard)?,
            Note::Trimmed(shard) => self.book.trimmed(&shard)?,
            Note::Confirm(shard, at) => {
                let interval = self.settings.idle_interval;
                let is_written = self.book.confirm(&shard, at, interval)?;
                // With that, rather than soon after it.
                self.note_settled(if is_written { interval / 2 } else { interval });
            }
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
                self.book.open_page(page, keys, after);
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
                let healed = self.book.heal_gaps(&ids, covered, self.context.now());
                self.ack_when_durable(ack, healed);
            }
            Note::Barrier(ack) => self.barriers.push((self.book.barrier(), ack)),
            Note::SyncKeys(keys, ack) => {
                let now = self.context.now();
                keys.iter().for_each(|key| self.book.sync_now(key, now));
                self.sync_waits.push(SyncWait { left: keys.into_iter().map(|key| key.canonical).collect(), ack });
            }
            // Who no longer waits was cancelled, and needs no answer.
            Note::Status(ack) => drop(ack.send(self.status())),
            Note::Close(clean, ack) => {
                self.note_settled(Duration::ZERO);
                self.book.update_link(|link| link.clean = clean);
                self.ack_when_durable(ack, ());
                self.closing = true;
            }
        }
        Ok(())
    }

    /// Lets the link's row say up to when everything is applied.
    fn note_settled(&mut self, later_by: Duration) {
        if let Some(time) = self.observer.settled_until() {
            self.book.settled_until(time, later_by);
        }
    }

    fn admit(
        &mut self,
        shard: &ShardId,
        records: Vec<Admission>,
        ack: oneshot::Sender<Vec<(Change, Token)>>,
    ) -> Result<(), KeeperError> {
        let (count, kib) = self.budget.weigh(&records);
        if self.book.is_given_up(shard) {
            // Read before the shard was given up, and late: it lies under the gap, whose heal may have seen its keys.
            self.budget.give_back(count, kib);
            self.ack_when_durable(ack, Vec::new());
            return Ok(());
        }
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
        self.check_look_ahead(arrivals.len())?;
        self.to_dispatch.extend(arrivals.last().map(|last| (shard.clone(), last.sequence)));
        if let Some(Token::Record { slot, .. }) = tokens.first() {
            self.observe(*slot, arrived);
        }
        let admitted = records.into_iter().zip(tokens).filter(|(record, _)| record.apply);
        let admitted = admitted.map(|(record, token)| (record.change, token)).collect();
        self.ack_when_durable(ack, admitted);
        Ok(())
    }

    /// L6, its first half. A page that is larger than all of the look-ahead is alone in it.
    fn check_look_ahead(&self, page: usize) -> Result<(), BookError> {
        let (records, kib) = self.book.ahead();
        if self.budget.covers(records, kib, page) {
            return Ok(());
        }
        let what = format!("{records} records and {kib} KiB are read beyond the watermarks");
        Err(Violation::with(Invariant::L6, what).into())
    }

    fn settle(&mut self, settled: Settlement) -> Result<(), KeeperError> {
        let Settlement { tokens, doubtful } = settled;
        self.book.check_listed(&doubtful)?;
        self.syncs_out -= tokens.iter().filter(|token| matches!(token, Token::Doubt(..))).count().min(self.syncs_out);
        let slots: BTreeSet<usize> = tokens
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
}
