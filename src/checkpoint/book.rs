//! Pure: the books of a link. Settlements and discoveries go in, rows to write come out.
//!
//! The rules of what must be durable before what:
//! - a record is handed to the lanes only after its shard's row says so (`dispatch`);
//! - a checkpoint moves over settled records without a hole, and never ahead of a [`DoubtRow`] for a write that it passes
//!   and whose answer was lost;
//! - a page of the load is sent after its keys are listed, and its cursor moves when all its items are settled;
//! - a `sync(k)` is sent only for a key that is listed, and the key leaves the list when the sync is settled;
//! - a shard is finished when it was read to its end and everything of it is settled, and this is durable before anyone
//!   is told.
//!
//! Writes come out in an order in which every prefix is safe.
//!
//! One file for each kind of entry: `shards`, `load`, `doubts`, `gaps`; `writes` puts what changed in that order.

mod doubts;
mod gaps;
mod load;
mod shards;
#[cfg(test)]
mod tests;
mod writes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::rows::{DeadLetterRow, Debt, DoubtRow, GapRow, LinkRow, PageId, SegmentRow, ShardRow, ShardStatus, Stage};
use super::{LinkState, Ordinal, StateWrite, WatermarkError};
use crate::invariant::{Invariant, Violation};
use crate::model::{CanonicalKey, Key, SequenceNumber, ShardId, WallTime};

#[cfg(test)]
pub(crate) use tests::link_for_tests;

use doubts::Doubt;
use load::PageBooks;
pub(crate) use shards::Barrier;
use shards::ShardBooks;
use writes::Dirty;

/// What an operation of the lanes settles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// A record of a shard.
    Record {
        /// Index of the shard's books.
        slot: usize,
        /// Which record.
        ordinal: Ordinal,
        /// When the source took it.
        created: WallTime,
    },
    /// An item of a page of the load.
    Item(PageId),
    /// A key in doubt, synced because it was listed until then.
    Doubt(CanonicalKey, WallTime),
}

/// A record as it arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) sequence: SequenceNumber,
    pub(crate) created: WallTime,
    /// What it takes of the look-ahead.
    pub(crate) bytes: usize,
    /// Its key; `None` when it is not to be applied, and so is settled already.
    pub(crate) key: Option<&'a Key>,
}

/// A shard of which nothing more is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FinishedShard {
    pub(crate) id: ShardId,
    /// It was given up: a gap says what is not known of it. Else it was read to its end.
    pub(crate) is_lost: bool,
    /// Its last settled change was created then; what its children hold is no older.
    pub(crate) settled_to: Option<WallTime>,
}

/// What others are to be told. Only ever after the writes that came with it are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A shard's row says `Finished`.
    ShardFinished(FinishedShard),
    /// All items of a page are settled.
    PageDone(PageId),
    /// A key that was in doubt is synced.
    Synced(CanonicalKey),
    /// Records left the look-ahead: their count and bytes.
    Passed(u64, u64),
}

/// A note that does not fit the books: a bug of ours, so the link stops.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BookError {
    /// A rule of the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// A shard's watermark would not keep to L3.
    #[error("invariant {}: shard {shard}", Invariant::L3)]
    Shard {
        /// Which.
        shard: ShardId,
        /// What is wrong.
        #[source]
        source: WatermarkError,
    },
    /// A shard or a page that the books do not have.
    #[error("keep the books: {0} is not in them")]
    Unknown(String),
}

/// The durable progress of one shard, for lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardProgress {
    /// Creation time of the oldest record that is not settled.
    pub(crate) oldest_unsettled: Option<WallTime>,
    /// Creation time of the newest record below the watermark.
    pub(crate) settled_to: Option<WallTime>,
}

/// The books of one link, between its rows and its lanes.
#[derive(Debug)]
pub(crate) struct Book {
    link: LinkRow,
    shards: Vec<ShardBooks>,
    slots: HashMap<ShardId, usize>,
    segments: BTreeMap<u32, SegmentRow>,
    pages: HashMap<PageId, PageBooks>,
    doubts: BTreeMap<CanonicalKey, Doubt>,
    due: BTreeSet<(WallTime, CanonicalKey)>,
    /// The numbers of the doubts, in the order in which their keys were listed.
    listed: BTreeSet<u64>,
    next_listed: u64,
    gaps: BTreeMap<u64, GapRow>,
    dead_letters: u64,
    last_letter: u64,
    dirty: Dirty,
    /// Shards whose rows were given out to be written.
    written: BTreeSet<usize>,
    events: Vec<Event>,
    ghost_life: Duration,
    /// Records beyond the watermarks, and their share of the look-ahead.
    ahead: (u64, u64),
    /// The link's row was never written: it goes last, as the mark that the pin is complete.
    is_new: bool,
    /// An export is being loaded: see [`Book::load_export`].
    loads_export: bool,
}

impl Book {
    /// The books of a link that never ran.
    pub(crate) fn new(link: LinkRow, ghost_life: Duration) -> Self {
        let mut book = Self {
            link,
            shards: Vec::new(),
            slots: HashMap::new(),
            segments: BTreeMap::new(),
            pages: HashMap::new(),
            doubts: BTreeMap::new(),
            due: BTreeSet::new(),
            listed: BTreeSet::new(),
            next_listed: 0,
            gaps: BTreeMap::new(),
            dead_letters: 0,
            last_letter: 0,
            dirty: Dirty::default(),
            written: BTreeSet::new(),
            events: Vec::new(),
            ghost_life,
            ahead: (0, 0),
            is_new: true,
            loads_export: false,
        };
        book.write_link();
        book
    }

    /// Takes over from the last owner, who may be this process's former self.
    ///
    /// Where that one did not drain, everything that it may have on the wire is put in doubt until its last signature has
    /// expired, and nothing else: a key that waits for what an earlier owner left waits no longer for that, or a process
    /// that is killed again and again would never be sure of anything. It is sound, because each write is announced,
    /// durably, before it is sent:
    /// - a record of the stream by its shard's dispatch watermark: the range beyond the checkpoint is a [`Debt`], and what
    ///   is trimmed of it before it lists its keys holds up the closing of gaps (`ghosts_until`);
    /// - an item of the load by its page's rows, a sync by its key's: they are [`under_way`](DoubtRow::under_way);
    /// - any other row tells of writes that were sent before it was written, and its own `until` is after the last of them.
    pub(crate) fn take_over(state: LinkState, link: LinkRow, now: WallTime, ghost_life: Duration) -> Self {
        let until = now.plus(ghost_life + link.signed_ahead);
        let unclean = !link.clean;
        let may_be_out = |row: &ShardRow| row.status != ShardStatus::Finished && row.checkpoint < row.dispatch;
        let has_range = unclean && state.shards.iter().any(may_be_out);
        let ghosts_until = if has_range { link.ghosts_until.max(Some(until)) } else { link.ghosts_until };
        let link = LinkRow { clean: false, ghosts_until, ..link };
        let mut book = Self { is_new: false, ..Self::new(link, ghost_life) };
        for mut row in state.shards {
            if unclean && let Some(to) = row.dispatch.filter(|_| may_be_out(&row)) {
                // It spans what earlier owners left of the range, whose signatures may hold longer.
                let spanned = row.debts.extract_if(.., |debt| debt.to <= to).map(|debt| debt.until);
                let until = spanned.max().max(Some(until)).unwrap_or(until);
                row.debts.push(Debt { to, until });
                book.dirty.shards.insert(book.shards.len());
            }
            // It was given up, and its last writes were not settled: they lie under its gap with the rest, and what may come
            // of it later is read when it is begun again. Its debts stay for that.
            if row.is_lost && row.status != ShardStatus::Finished {
                row.status = ShardStatus::Finished;
                book.dirty.shards.insert(book.shards.len());
            }
            book.add_shard(row, true);
        }
        let has_segments = !state.segments.is_empty();
        let num_segments = book.link.load.as_ref().map_or(0, |plan| plan.total_segments);
        // Of a pin with more segments, which broke off before this one: nothing may be asked for by their numbers.
        let planned = state.segments.into_iter().filter(|row| row.segment < num_segments);
        book.segments = planned.map(|row| (row.segment, row)).collect();
        if book.link.stage == Stage::Streaming && has_segments {
            // The load is over: the commit that says so broke off before they were gone.
            book.forget_segments();
        }
        book.inherit_doubts(state.doubts, unclean, until);
        book.gaps = state.gaps.into_iter().map(|row| (row.id, row)).collect();
        (book.dead_letters, book.last_letter) = state.dead_letters;
        book
    }

    /// The books of a link that never ran, over the rows that may be there all the same. A pin of many transactions may have
    /// broken off before the link's row: its shards and segments are another listing's and another plan's, so they are
    /// removed before anything is written. Keys that were left in doubt without a link stay so, as after an owner that did
    /// not drain.
    pub(crate) fn pin_over(state: LinkState, link: LinkRow, now: WallTime, ghost_life: Duration) -> Self {
        let mut book = Self::new(link, ghost_life);
        book.leave_over(state.shards, !state.segments.is_empty());
        book.inherit_doubts(state.doubts, true, now.plus(ghost_life));
        (book.dead_letters, book.last_letter) = state.dead_letters;
        book
    }

    /// The books of a link whose load goes on with another export, over the rows of the one before, of which everything is
    /// settled. The stream was not read: its shards are pinned anew. `link` is the row of the new load, and is written last:
    /// whoever comes upon a part of this goes on with the export before, which is loaded, and then with this one.
    pub(crate) fn load_on(state: LinkState, link: LinkRow, now: WallTime, ghost_life: Duration) -> Self {
        let (unclean, until) = (!link.clean, now.plus(ghost_life + link.signed_ahead));
        let mut book = Self::new(LinkRow { clean: false, ..link }, ghost_life);
        book.leave_over(state.shards, !state.segments.is_empty());
        book.inherit_doubts(state.doubts, unclean, until);
        book.gaps = state.gaps.into_iter().map(|row| (row.id, row)).collect();
        (book.dead_letters, book.last_letter) = state.dead_letters;
        book
    }

    /// Rows that are there and of no use are removed first.
    fn leave_over(&mut self, shards: Vec<ShardRow>, has_segments: bool) {
        if has_segments {
            self.dirty.leftovers.push(StateWrite::ForgetSegments);
        }
        for row in shards {
            let id = row.id.clone();
            let finished = ShardRow { status: ShardStatus::Finished, is_lost: true, ..row };
            self.dirty.leftovers.extend([StateWrite::Shard(finished), StateWrite::ForgetShard(id)]);
        }
    }

    /// The keys that earlier owners left in doubt; `until`: when the last write of one that did not drain can land.
    fn inherit_doubts(&mut self, rows: Vec<DoubtRow>, unclean: bool, until: WallTime) {
        for row in rows {
            // Their keys are listed by themselves from here on, before the pages go.
            self.dirty.forget_pages |= row.page.is_some();
            match row.page {
                // The last owner drained, so nothing of the page is on its way: it is read again.
                Some(_) if !unclean => self.dirty.settled.push(row),
                _ if unclean && row.under_way => {
                    let until = row.until.max(until);
                    self.list(DoubtRow { until, page: None, under_way: false, ..row });
                }
                _ => {
                    self.insert_doubt(row);
                }
            }
        }
    }

    /// The link's row.
    pub(crate) const fn link(&self) -> &LinkRow {
        &self.link
    }

    /// Changes the link's row; it is written with the next commit, at once.
    pub(crate) fn update_link(&mut self, change: impl FnOnce(&mut LinkRow)) {
        change(&mut self.link);
        self.write_link();
    }

    /// Every change created before this is applied. Written with the next commit where that is later by so much than what
    /// the row says: nobody waits for it.
    pub(crate) fn settled_until(&mut self, time: WallTime, later_by: Duration) {
        if self.link.settled_until.is_none_or(|known| time > known && time.since(known) >= later_by) {
            self.link.settled_until = Some(time);
            self.dirty.link = true;
        }
    }

    fn write_link(&mut self) {
        self.dirty.link = true;
        self.dirty.urgent = true;
    }

    /// The shards' rows as they would be written now.
    pub(crate) fn shard_rows(&self) -> impl Iterator<Item = &ShardRow> {
        let has_row = |(slot, shard): &(usize, &ShardBooks)| self.slots.get(&shard.row.id) == Some(slot);
        self.shards.iter().enumerate().filter(has_row).map(|(_, shard)| &shard.row)
    }

    /// The segments of the load.
    pub(crate) fn segment_rows(&self) -> impl Iterator<Item = &SegmentRow> {
        self.segments.values()
    }

    /// The gaps, open and healed.
    pub(crate) fn gap_rows(&self) -> impl Iterator<Item = &GapRow> {
        self.gaps.values()
    }

    /// Records beyond the watermarks, and their share of the look-ahead, in the unit of [`Arrival::bytes`].
    pub(crate) const fn ahead(&self) -> (u64, u64) {
        self.ahead
    }

    /// Keys in doubt.
    pub(crate) fn num_doubts(&self) -> usize {
        self.doubts.len()
    }

    /// The same, each as it would be written now.
    pub(crate) fn doubt_rows(&self) -> impl Iterator<Item = &DoubtRow> {
        self.doubts.values().map(|doubt| &doubt.row)
    }

    /// When the last key in doubt will be due.
    pub(crate) fn last_due(&self) -> Option<WallTime> {
        self.due.last().map(|(until, _)| *until)
    }

    /// Which of the keys in doubt has been so longest, counted in the order in which they were listed; and the number of
    /// the next one.
    pub(crate) fn listed(&self) -> (Option<u64>, u64) {
        (self.listed.first().copied(), self.next_listed)
    }

    /// Dead letters.
    pub(crate) const fn num_dead_letters(&self) -> u64 {
        self.dead_letters
    }

    /// Sets a change aside that the target refuses for ever. Its tokens are settled by the caller, after this.
    pub(crate) fn dead_letter(&mut self, mut row: DeadLetterRow) {
        self.last_letter += 1;
        self.dead_letters += 1;
        row.id = self.last_letter;
        self.dirty.dead_letters.push(row);
    }

    /// What to tell others, now that the last writes are durable.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

/// Key JSON is checked UTF-8.
fn text(key: &Key) -> String {
    String::from_utf8_lossy(&key.json).into_owned()
}
