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

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::rows::{
    DeadLetterRow, Debt, DoubtRow, GapRow, GapScope, LinkRow, PageId, SegmentRow, ShardRow, ShardStatus,
};
use super::{LinkState, Ordinal, StateWrite, Watermark, WatermarkError};
use crate::model::{CanonicalKey, Key, SequenceNumber, ShardId, WallTime};

/// A gap starts this much before the last settled time: source times are whole seconds, rounded down.
const GAP_MARGIN: std::time::Duration = std::time::Duration::from_secs(2);

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

/// What others are to be told. Only ever after the writes that came with it are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A shard's row says `Finished`.
    ShardFinished(ShardId),
    /// All items of a page are settled.
    PageDone(PageId),
    /// A key that was in doubt is synced.
    Synced(CanonicalKey),
    /// Records left the look-ahead: their count and bytes.
    Passed(u64, u64),
}

/// How far each shard's records had been dispatched at some time.
#[derive(Debug, Clone)]
pub(crate) struct Barrier(Vec<(ShardId, SequenceNumber)>);

/// A note that does not fit the books: a bug of ours, so the link stops.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BookError {
    /// Of a shard.
    #[error("keep the books of shard {shard}")]
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

#[derive(Debug)]
struct ShardBooks {
    row: ShardRow,
    watermark: Watermark,
    settled_to: Option<WallTime>,
    is_drained: bool,
}

#[derive(Debug)]
struct PageBooks {
    remaining: usize,
    after: SegmentRow,
}

#[derive(Debug)]
struct Doubt {
    row: DoubtRow,
    is_syncing: bool,
}

#[derive(Debug, Default)]
struct Dirty {
    link: bool,
    shards: BTreeSet<usize>,
    forgotten: Vec<ShardId>,
    /// Rows that are finished first, for only finished ones may be forgotten.
    dropped: Vec<ShardRow>,
    doubts: BTreeSet<CanonicalKey>,
    pages: Vec<DoubtRow>,
    dead_letters: Vec<DeadLetterRow>,
    removed_letters: Vec<u64>,
    gaps: BTreeSet<u64>,
    segments: BTreeSet<u32>,
    settled_pages: Vec<PageId>,
    settled: Vec<DoubtRow>,
    forget_segments: bool,
    /// Something must be durable before somebody goes on.
    urgent: bool,
    records: u64,
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
    gaps: BTreeMap<u64, GapRow>,
    dead_letters: u64,
    last_letter: u64,
    dirty: Dirty,
    events: Vec<Event>,
    ghost_life: std::time::Duration,
    /// Records beyond the watermarks, and their share of the look-ahead.
    ahead: (u64, u64),
    /// The link's row was never written: it goes last, as the mark that the pin is complete.
    is_new: bool,
}

impl Book {
    /// The books of a link that never ran.
    pub(crate) fn new(link: LinkRow, ghost_life: std::time::Duration) -> Self {
        let mut book = Self {
            link,
            shards: Vec::new(),
            slots: HashMap::new(),
            segments: BTreeMap::new(),
            pages: HashMap::new(),
            doubts: BTreeMap::new(),
            due: BTreeSet::new(),
            gaps: BTreeMap::new(),
            dead_letters: 0,
            last_letter: 0,
            dirty: Dirty::default(),
            events: Vec::new(),
            ghost_life,
            ahead: (0, 0),
            is_new: true,
        };
        book.write_link();
        book
    }

    /// Takes over from the last owner, who may be this process's former self.
    ///
    /// Where that one did not drain, everything that it may have on the wire is put in doubt until its last signature has
    /// expired: the records that it may have sent (a [`Debt`] on each shard), the pages of the load that it had sent, and
    /// every key that it may have been syncing.
    pub(crate) fn take_over(state: LinkState, link: LinkRow, now: WallTime, ghost_life: std::time::Duration) -> Self {
        let until = now.plus(ghost_life);
        let unclean = !link.clean;
        let mut book = Self { is_new: false, ..Self::new(LinkRow { clean: false, ..link }, ghost_life) };
        for mut row in state.shards {
            if unclean
                && row.status != ShardStatus::Finished
                && let Some(to) = row.dispatch.filter(|dispatch| row.checkpoint < Some(*dispatch))
            {
                row.debts.push(Debt { to, until });
                book.dirty.shards.insert(book.shards.len());
            }
            book.add_shard(row);
        }
        book.segments = state.segments.into_iter().map(|row| (row.segment, row)).collect();
        for row in state.doubts {
            match row.page {
                // The last owner drained, so nothing of the page is on its way: it is read again.
                Some(_) if !unclean => book.dirty.settled.push(row),
                _ if unclean => {
                    let until = row.until.max(until);
                    book.list(DoubtRow { until, page: None, ..row });
                }
                _ => {
                    book.due.insert((row.until, row.key.clone()));
                    book.doubts.insert(row.key.clone(), Doubt { row, is_syncing: false });
                }
            }
        }
        book.gaps = state.gaps.into_iter().map(|row| (row.id, row)).collect();
        (book.dead_letters, book.last_letter) = state.dead_letters;
        book
    }

    fn add_shard(&mut self, row: ShardRow) {
        let slot = self.shards.len();
        self.slots.insert(row.id.clone(), slot);
        let watermark = Watermark::after(row.checkpoint);
        let settled_to = row.checkpoint_time;
        self.shards.push(ShardBooks { row, watermark, settled_to, is_drained: false });
    }

    fn slot(&self, shard: &ShardId) -> Result<usize, BookError> {
        self.slots.get(shard).copied().ok_or_else(|| BookError::Unknown(format!("shard {shard}")))
    }

    fn shard_mut(&mut self, slot: usize) -> Result<&mut ShardBooks, BookError> {
        self.shards.get_mut(slot).ok_or_else(|| BookError::Unknown(format!("shard no. {slot}")))
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

    fn write_link(&mut self) {
        self.dirty.link = true;
        self.dirty.urgent = true;
    }

    /// The shards' rows as they would be written now.
    pub(crate) fn shard_rows(&self) -> impl Iterator<Item = &ShardRow> {
        self.shards.iter().map(|shard| &shard.row)
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

    /// When the last key in doubt will be due.
    pub(crate) fn last_due(&self) -> Option<WallTime> {
        self.due.last().map(|(until, _)| *until)
    }

    /// Dead letters.
    pub(crate) const fn num_dead_letters(&self) -> u64 {
        self.dead_letters
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
            self.add_shard(row);
            self.dirty.urgent = true;
        }
    }

    /// A shard may be read now.
    pub(crate) fn begin_shard(&mut self, shard: &ShardId) -> Result<(), BookError> {
        let slot = self.slot(shard)?;
        let books = self.shard_mut(slot)?;
        if books.row.status == ShardStatus::Waiting || books.row.is_lost {
            books.is_drained = false;
            books.row.is_lost = false;
            books.row.status = ShardStatus::Reading;
            self.dirty.shards.insert(slot);
            self.dirty.urgent = true;
        }
        Ok(())
    }

    /// A shard is gone before it was read to its end; a durable gap says so.
    pub(crate) fn give_up_shard(&mut self, shard: &ShardId) -> Result<(), BookError> {
        let slot = self.slot(shard)?;
        let books = self.shard_mut(slot)?;
        (books.is_drained, books.row.is_lost) = (true, true);
        self.finish_if_done(slot)
    }

    /// A shard's checkpoint was found trimmed; a durable gap says so.
    pub(crate) fn trimmed(&mut self, shard: &ShardId) -> Result<(), BookError> {
        let slot = self.slot(shard)?;
        self.shard_mut(slot)?.row.is_trimmed = true;
        self.dirty.shards.insert(slot);
        Ok(())
    }

    /// A shard's position was within the stream's retention at this time.
    pub(crate) fn confirm(&mut self, shard: &ShardId, at: WallTime) -> Result<(), BookError> {
        let slot = self.slot(shard)?;
        let row = &mut self.shard_mut(slot)?.row;
        row.verified_at = row.verified_at.max(at);
        self.dirty.shards.insert(slot);
        Ok(())
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
        let size: u64 = arrivals.iter().map(|arrival| arrival.bytes as u64).sum();
        self.ahead = (self.ahead.0 + arrivals.len() as u64, self.ahead.1 + size);
        for (key, until) in doubtful {
            self.doubt(&key, until);
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
        debug_assert!(books.row.checkpoint < Some(advance.to), "a checkpoint never moves back");
        books.row.checkpoint = Some(advance.to);
        books.row.is_trimmed = false;
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
        let finished = Event::ShardFinished(books.row.id.clone());
        self.events.push(finished);
        self.dirty.shards.insert(slot);
        self.dirty.urgent = true;
        Ok(())
    }

    /// Plans the segments of a load.
    pub(crate) fn plan_segments(&mut self, rows: impl IntoIterator<Item = SegmentRow>) {
        for row in rows {
            self.dirty.segments.insert(row.segment);
            self.segments.insert(row.segment, row);
        }
        self.dirty.urgent = true;
    }

    /// A page of the load was received: its items may be sent once this is durable. `after` is the segment's row for when
    /// all of them are settled.
    pub(crate) fn open_page<'a>(&mut self, page: PageId, keys: impl Iterator<Item = &'a Key>, after: SegmentRow) {
        let mut remaining = 0;
        for key in keys {
            remaining += 1;
            self.dirty.pages.push(DoubtRow {
                key: key.canonical.clone(),
                key_json: text(key),
                until: WallTime::from_millis(0),
                page: Some(page),
            });
        }
        self.pages.insert(page, PageBooks { remaining, after });
        self.dirty.urgent = true;
        self.finish_page_if_done(page);
    }

    fn settle_item(&mut self, page: PageId) -> Result<(), BookError> {
        let books = self.pages.get_mut(&page).ok_or_else(|| BookError::Unknown(format!("page {page:?}")))?;
        books.remaining = books.remaining.saturating_sub(1);
        self.finish_page_if_done(page);
        Ok(())
    }

    fn finish_page_if_done(&mut self, page: PageId) {
        if self.pages.get(&page).is_none_or(|books| books.remaining > 0) {
            return;
        }
        if let Some(books) = self.pages.remove(&page) {
            self.dirty.segments.insert(books.after.segment);
            self.segments.insert(books.after.segment, books.after);
            self.dirty.settled_pages.push(page);
            self.events.push(Event::PageDone(page));
        }
    }

    /// The load is done: its cursors are of no more use.
    pub(crate) fn forget_segments(&mut self) {
        self.segments.clear();
        self.dirty.segments.clear();
        self.dirty.forget_segments = true;
    }

    /// The outcome of a write of this key is unknown: it is listed until no late one can land.
    pub(crate) fn in_doubt(&mut self, key: &Key, now: WallTime) {
        self.doubt(key, now.plus(self.ghost_life));
    }

    /// Lists a key to be synced at once.
    pub(crate) fn sync_now(&mut self, key: &Key, now: WallTime) {
        self.doubt(key, now);
        self.dirty.urgent = true;
    }

    fn doubt(&mut self, key: &Key, until: WallTime) {
        self.list(DoubtRow { key: key.canonical.clone(), key_json: text(key), until, page: None });
    }

    /// Lists a key, or extends its time.
    fn list(&mut self, row: DoubtRow) {
        let key = row.key.clone();
        if let Some(listed) = self.doubts.get_mut(&key) {
            if listed.row.until >= row.until && !listed.is_syncing {
                return;
            }
            self.due.remove(&(listed.row.until, key.clone()));
            // A sync that is out settles what it was sent for; what is listed after it stays, so times must differ.
            let after_sync = WallTime::from_millis(listed.row.until.millis() + i64::from(listed.is_syncing));
            listed.row.until = row.until.max(after_sync);
            listed.is_syncing = false;
            self.due.insert((listed.row.until, key.clone()));
        } else {
            self.due.insert((row.until, key.clone()));
            self.doubts.insert(key.clone(), Doubt { row, is_syncing: false });
        }
        self.dirty.doubts.insert(key);
    }

    /// Keys whose time has come, durably listed, at most `limit`: sync each with the token that comes with it.
    pub(crate) fn take_due(&mut self, now: WallTime, limit: usize) -> Vec<(Key, Token)> {
        let mut taken = Vec::new();
        while taken.len() < limit {
            let Some((until, key)) = self.due.first().cloned() else { break };
            if until > now || self.dirty.doubts.contains(&key) {
                break;
            }
            self.due.remove(&(until, key.clone()));
            if let Some(doubt) = self.doubts.get_mut(&key) {
                doubt.is_syncing = true;
                let json = doubt.row.key_json.clone().into();
                taken.push((Key { canonical: key.clone(), json }, Token::Doubt(key, until)));
            }
        }
        taken
    }

    /// When the next key in doubt is due.
    pub(crate) fn next_due(&self) -> Option<WallTime> {
        self.due.first().map(|(until, _)| *until)
    }

    fn settle_doubt(&mut self, key: CanonicalKey, until: WallTime) {
        let is_settled = self.doubts.get(&key).is_some_and(|doubt| doubt.row.until <= until);
        if is_settled && let Some(doubt) = self.doubts.remove(&key) {
            self.due.remove(&(doubt.row.until, key.clone()));
            self.dirty.doubts.remove(&key);
            self.dirty.settled.push(doubt.row);
            self.events.push(Event::Synced(key));
        }
    }

    /// Opens a gap, or extends the open one of the same scope and cause. Answers whether it is new.
    pub(crate) fn open_gap(&mut self, mut row: GapRow) -> bool {
        let is_same = |gap: &GapRow| gap.healed.is_none() && gap.scope == row.scope && gap.cause == row.cause;
        if let Some(open) = self.gaps.values_mut().find(|gap| is_same(gap)) {
            open.to = open.to.max(row.to);
            self.dirty.gaps.insert(open.id);
            self.dirty.urgent = true;
            return false;
        }
        row.from = row.from.or_else(|| self.lost_from(&row.scope));
        row.id = self.gaps.keys().next_back().map_or(1, |last| last + 1);
        let id = row.id;
        self.gaps.insert(id, row);
        self.dirty.gaps.insert(id);
        self.dirty.urgent = true;
        true
    }

    /// The time before which nothing of a gap's scope can be lost, where a row tells.
    fn lost_from(&self, scope: &GapScope) -> Option<WallTime> {
        let rows = self.shards.iter().map(|shard| &shard.row);
        let settled = |row: &ShardRow| row.checkpoint_time.unwrap_or(row.verified_at).minus(GAP_MARGIN);
        match scope {
            GapScope::Shard(id) if self.slots.contains_key(id) => rows.filter(|row| row.id == *id).map(settled).min(),
            GapScope::Shard(_) | GapScope::All => {
                rows.filter(|row| row.status != ShardStatus::Finished).map(settled).min()
            }
        }
    }

    /// The tables were found equal by a pass that began at `covered`: these gaps are healed, unless they went on since.
    pub(crate) fn heal_gaps(&mut self, ids: &[u64], covered: WallTime, at: WallTime) {
        for id in ids {
            if let Some(gap) = self.gaps.get_mut(id).filter(|gap| gap.to <= covered) {
                gap.healed = Some(at);
                self.dirty.gaps.insert(*id);
                self.dirty.urgent = true;
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

    /// Sets a change aside that the target refuses for ever. Its tokens are settled by the caller, after this.
    pub(crate) fn dead_letter(&mut self, mut row: DeadLetterRow) {
        self.last_letter += 1;
        self.dead_letters += 1;
        row.id = self.last_letter;
        self.dirty.dead_letters.push(row);
    }

    /// Whether somebody waits for the next commit.
    pub(crate) const fn is_urgent(&self) -> bool {
        self.dirty.urgent
    }

    /// Records that the checkpoints moved over since the last commit.
    pub(crate) const fn records_since_commit(&self) -> u64 {
        self.dirty.records
    }

    /// What is to be written now, in an order in which every prefix is safe. Empty: nothing changed.
    pub(crate) fn take_writes(&mut self) -> Vec<StateWrite> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut writes = Vec::new();
        let link_goes_last = self.link.clean || std::mem::take(&mut self.is_new);
        if dirty.link && !link_goes_last {
            writes.push(StateWrite::Link(self.link.clone()));
        }
        writes.extend(dirty.gaps.iter().filter_map(|id| self.gaps.get(id)).cloned().map(StateWrite::Gap));
        // Before anything is listed: a key that was synced, and is listed for something new by now, stays listed.
        writes.extend(dirty.settled.into_iter().map(StateWrite::Settle));
        let doubts = dirty.doubts.iter().filter_map(|key| self.doubts.get(key));
        writes.extend(doubts.map(|doubt| StateWrite::Doubt(doubt.row.clone())));
        writes.extend(dirty.dead_letters.into_iter().map(StateWrite::DeadLetter));
        writes.extend(dirty.removed_letters.into_iter().map(StateWrite::RemoveDeadLetter));
        let shards = dirty.shards.iter().filter_map(|slot| self.shards.get(*slot));
        writes.extend(shards.map(|shard| StateWrite::Shard(shard.row.clone())));
        writes.extend(dirty.dropped.into_iter().map(StateWrite::Shard));
        writes.extend(dirty.forgotten.into_iter().map(StateWrite::ForgetShard));
        if dirty.forget_segments {
            writes.push(StateWrite::ForgetSegments);
        }
        let segments = dirty.segments.iter().filter_map(|segment| self.segments.get(segment));
        writes.extend(segments.cloned().map(StateWrite::Segment));
        writes.extend(dirty.settled_pages.into_iter().map(StateWrite::SettlePage));
        writes.extend(dirty.pages.into_iter().map(StateWrite::Doubt));
        if dirty.link && link_goes_last {
            writes.push(StateWrite::Link(self.link.clone()));
        }
        writes
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

#[cfg(test)]
mod tests;
