//! Pure: the operations of each key, and what may be sent now.
//!
//! Every key has a lane, a FIFO of its operations. The lanes keep the order of a key and nothing else; what is settled
//! is reported with the tokens that came in, and it is the bookkeeper who turns tokens into watermarks.
//!
//! - **L1** at most one operation of a key is under way (`has_one_in_flight_per_key`).
//! - **L2** the operations of a key are issued in the order in which they were pushed.
//! - **L5** an operation whose outcome is unknown is issued again, with the newest image that is queued by then; its tokens
//!   remember it.
//!
//! Each step checks the first two for its own key; what would break them is a violation of an invariant, and the link stops.
//!
//! Coalescing: only of queued operations, never of one under way, never across a `sync`; the last image wins and takes the
//! tokens of those it absorbed.
//!
//! The load filter: a page of the load notes the count of executed operations before it is requested
//! (`open_page`). When one of its items reaches the head of its lane, it is dropped if anything of that key was
//! executed since, else written. So an item that was read before a change never overwrites that change, and a deleted
//! one is never brought back; only keys touched since the oldest open page are remembered.

mod lane;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};

use lane::{Lane, Operation, Work};

use crate::invariant::{Invariant, Violation};
use crate::model::{CanonicalKey, ChangeOp, Key, RawItem, Write};

/// What an operation settles. `T` is opaque here.
#[derive(Debug, Clone)]
pub(crate) struct Tokens<T> {
    first: T,
    more: Vec<T>,
    is_doubtful: bool,
}

impl<T> Tokens<T> {
    fn one(first: T) -> Self {
        Self { first, more: Vec::new(), is_doubtful: false }
    }

    fn absorb(&mut self, other: Self) {
        self.more.push(other.first);
        self.more.extend(other.more);
        self.is_doubtful |= other.is_doubtful;
    }

    /// Whether a write for one of them may have been done without an answer: its key is listed as in doubt.
    pub(crate) const fn are_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// All of them, in no particular order.
    pub(crate) fn into_iter(self) -> impl Iterator<Item = T> {
        std::iter::once(self.first).chain(self.more)
    }
}

/// The page of the load that an item came with.
pub(crate) type PageNumber = u64;

/// What may be sent now.
#[derive(Debug)]
pub(crate) struct Ready<T> {
    /// Writes of distinct keys, now under way.
    pub(crate) writes: Vec<Write>,
    /// Keys to be read at the source, now under way.
    pub(crate) reads: Vec<Key>,
    /// Load items that were dropped: settled.
    pub(crate) dropped: Vec<(CanonicalKey, Tokens<T>)>,
}

/// Bounds of one batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    /// Writes: 1 to 25 (BatchWriteItem's limit).
    pub(crate) writes: usize,
    /// Bytes of JSON; a single write may be larger.
    pub(crate) bytes: usize,
    /// Reads for `sync`.
    pub(crate) reads: usize,
}

/// Reads that wait are passed over for writes behind them, so many at most: a look at all of them each time would cost.
const MAX_PASSED_OVER: usize = 256;

/// A call that does not fit the state of the lanes: a bug of ours, so the link stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LaneError {
    /// A rule of the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// A page of the load.
    #[error("page of the load: {0}")]
    Page(&'static str),
}

const fn one_write(what: &'static str) -> LaneError {
    LaneError::Violation(Violation::new(Invariant::L1, what))
}

const NOT_OUT: LaneError = one_write("an answer names a key that is not under way");

/// The lanes of one link.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    lanes: HashMap<CanonicalKey, Lane<T>>,
    /// Keys whose head may be issued, oldest first.
    ready: VecDeque<CanonicalKey>,
    /// Counts executed stream operations and syncs.
    executed: u64,
    /// When keys were last executed; only while pages are open.
    touched: HashMap<CanonicalKey, u64>,
    /// The same, in order, to forget the oldest.
    touch_order: VecDeque<(u64, CanonicalKey)>,
    /// The count at the opening of each open page, and its items not settled yet.
    pages: BTreeMap<PageNumber, OpenPage>,
    next_page: PageNumber,
    in_flight: usize,
    /// Counts the operations that were pushed.
    pushed: u64,
}

#[derive(Debug)]
struct OpenPage {
    opened_at: u64,
    /// `None` until the items were pushed.
    remaining: Option<usize>,
}

impl<T> Lanes<T> {
    pub(crate) fn new() -> Self {
        Self {
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            executed: 0,
            touched: HashMap::new(),
            touch_order: VecDeque::new(),
            pages: BTreeMap::new(),
            next_page: 0,
            in_flight: 0,
            pushed: 0,
        }
    }

    /// Whether nothing is queued and nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Whether something may be issued.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Queues a change of the stream.
    pub(crate) fn push_change(&mut self, key: Key, op: ChangeOp, token: T) {
        let work = match op {
            ChangeOp::Put(image) => Work::Put(image),
            ChangeOp::Delete => Work::Delete,
            ChangeOp::Touch => Work::Sync,
        };
        self.push(key, work, token);
    }

    /// Queues a repair: read the key at the source, write what was read at the target.
    pub(crate) fn push_sync(&mut self, key: Key, token: T) {
        self.push(key, Work::Sync, token);
    }

    /// Opens a page of the load, *before* it is requested. Close it with [`Lanes::push_page`] or [`Lanes::abandon_page`].
    pub(crate) fn open_page(&mut self) -> PageNumber {
        let number = self.next_page;
        self.next_page += 1;
        self.pages.insert(number, OpenPage { opened_at: self.executed, remaining: None });
        number
    }

    /// Queues the items of an open page; one without an image is gone.
    pub(crate) fn push_page(
        &mut self,
        page: PageNumber,
        items: impl ExactSizeIterator<Item = (Key, Option<RawItem>, T)>,
    ) -> Result<(), LaneError> {
        let open = self.pages.get_mut(&page).ok_or(LaneError::Page("it is pushed and not open"))?;
        if open.remaining.is_some() {
            return Err(LaneError::Page("it is pushed twice"));
        }
        open.remaining = Some(items.len());
        let opened_at = open.opened_at;
        for (key, image, token) in items {
            self.push(key, Work::Load { image, page, opened_at }, token);
        }
        self.close_page_if_done(page);
        Ok(())
    }

    /// Closes a page that was never received.
    pub(crate) fn abandon_page(&mut self, page: PageNumber) {
        self.pages.remove(&page);
        self.forget_untouched();
    }

    fn push(&mut self, key: Key, work: Work, token: T) {
        self.pushed += 1;
        let operation = Operation { key, work, tokens: Tokens::one(token), number: self.pushed };
        let key = operation.key.canonical.clone();
        let lane = self.lanes.entry(key.clone()).or_default();
        let was_idle = lane.is_idle();
        let absorbed_from = lane.push(operation);
        if was_idle {
            self.ready.push_back(key);
        }
        if let Some(page) = absorbed_from {
            self.settle_page_item(page);
        }
        debug_assert!(self.has_one_in_flight_per_key());
    }

    /// Takes what may be sent now: heads of lanes that are not under way, oldest first.
    pub(crate) fn take(&mut self, limits: BatchLimits) -> Result<Ready<T>, LaneError> {
        let writes = Vec::with_capacity(limits.writes.min(self.ready.len()));
        let mut out = Ready { writes, reads: Vec::new(), dropped: Vec::new() };
        let mut bytes = 0;
        let mut passed_over = Vec::new();
        while out.writes.len() < limits.writes {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            let touched_at = self.touched.get(&key).copied();
            while let Some(load) = lane.take_stale_load(touched_at) {
                if let Work::Load { page, .. } = load.work {
                    Self::count_down(&mut self.pages, page);
                }
                out.dropped.push((key.clone(), load.tokens));
            }
            match lane.head()? {
                None => {
                    self.lanes.remove(&key);
                    continue;
                }
                Some(Work::Sync) if out.reads.len() >= limits.reads => {
                    passed_over.push(key);
                    if passed_over.len() >= MAX_PASSED_OVER {
                        break;
                    }
                    continue;
                }
                Some(work) if bytes + work.wire_len() > limits.bytes && !out.writes.is_empty() => {
                    self.ready.push_front(key);
                    break;
                }
                Some(_) => {}
            }
            match lane.issue()? {
                lane::Issue::Read(key) => out.reads.push(key),
                lane::Issue::Write(write) => {
                    bytes += write.wire_len();
                    out.writes.push(write);
                }
            }
            self.in_flight += 1;
        }
        for key in passed_over.into_iter().rev() {
            self.ready.push_front(key);
        }
        self.forget_untouched();
        debug_assert!(self.has_one_in_flight_per_key());
        Ok(out)
    }

    /// The target acknowledged the write: everything that the operation stood for is settled.
    pub(crate) fn acknowledge(&mut self, key: &CanonicalKey) -> Result<Tokens<T>, LaneError> {
        let operation = self.finish(key)?;
        match operation.work {
            Work::Load { page, .. } => self.settle_page_item(page),
            Work::Put(_) | Work::Delete | Work::Sync | Work::Synced(_) => self.note_executed(key),
        }
        Ok(operation.tokens)
    }

    /// The target will never take the write, and this was recorded: settled, and not executed.
    pub(crate) fn give_up(&mut self, key: &CanonicalKey) -> Result<Tokens<T>, LaneError> {
        let operation = self.finish(key)?;
        if let Work::Load { page, .. } = operation.work {
            self.settle_page_item(page);
        }
        Ok(operation.tokens)
    }

    /// The write was definitely not done: it goes back to the head of its lane.
    pub(crate) fn put_back(&mut self, key: &CanonicalKey) -> Result<(), LaneError> {
        self.return_to_head(key, false)
    }

    /// Nobody knows whether the write was done: it is issued again, a `sync` from its read on, and a change may be absorbed
    /// by a newer one. The caller lists the key as in doubt.
    pub(crate) fn put_back_in_doubt(&mut self, key: &CanonicalKey) -> Result<(), LaneError> {
        self.return_to_head(key, true)
    }

    /// The read of a `sync` came back: what was read goes to the head of the lane, to be written next.
    pub(crate) fn sync_read(&mut self, key: &CanonicalKey, image: Option<RawItem>) -> Result<(), LaneError> {
        let lane = self.lanes.get_mut(key).ok_or(NOT_OUT)?;
        lane.sync_read(image)?;
        self.came_back()?;
        self.ready.push_front(key.clone());
        Ok(())
    }

    fn return_to_head(&mut self, key: &CanonicalKey, in_doubt: bool) -> Result<(), LaneError> {
        let lane = self.lanes.get_mut(key).ok_or(NOT_OUT)?;
        let absorbed_from = lane.put_back(in_doubt)?;
        self.came_back()?;
        self.ready.push_front(key.clone());
        if let Some(page) = absorbed_from {
            self.settle_page_item(page);
        }
        Ok(())
    }

    fn finish(&mut self, key: &CanonicalKey) -> Result<Operation<T>, LaneError> {
        let Entry::Occupied(mut lane) = self.lanes.entry(key.clone()) else {
            return Err(NOT_OUT);
        };
        let operation = lane.get_mut().finish()?;
        if lane.get().is_empty() {
            lane.remove();
        } else {
            self.ready.push_back(key.clone());
        }
        self.came_back()?;
        Ok(operation)
    }

    fn came_back(&mut self) -> Result<(), LaneError> {
        self.in_flight = self.in_flight.checked_sub(1).ok_or(NOT_OUT)?;
        Ok(())
    }

    fn note_executed(&mut self, key: &CanonicalKey) {
        self.executed += 1;
        if self.pages.is_empty() {
            return;
        }
        self.touched.insert(key.clone(), self.executed);
        self.touch_order.push_back((self.executed, key.clone()));
    }

    fn settle_page_item(&mut self, page: PageNumber) {
        Self::count_down(&mut self.pages, page);
        self.forget_untouched();
    }

    fn count_down(pages: &mut BTreeMap<PageNumber, OpenPage>, page: PageNumber) {
        if let Some(open) = pages.get_mut(&page) {
            open.remaining = open.remaining.map(|n| n.saturating_sub(1));
            if open.remaining == Some(0) {
                pages.remove(&page);
            }
        }
    }

    fn close_page_if_done(&mut self, page: PageNumber) {
        if self.pages.get(&page).is_some_and(|open| open.remaining == Some(0)) {
            self.pages.remove(&page);
            self.forget_untouched();
        }
    }

    /// Forgets the keys that were touched before the oldest open page was requested.
    fn forget_untouched(&mut self) {
        let horizon = self.pages.values().map(|page| page.opened_at).min().unwrap_or(u64::MAX);
        while let Some((at, key)) = self.touch_order.pop_front_if(|(at, _)| *at <= horizon) {
            if self.touched.get(&key) == Some(&at) {
                self.touched.remove(&key);
            }
        }
    }

    /// L1 as a predicate. It counts all lanes, so it is for tests and debug builds of small size.
    pub(crate) fn has_one_in_flight_per_key(&self) -> bool {
        self.lanes.len() > 64 || self.lanes.values().filter(|lane| lane.is_in_flight()).count() == self.in_flight
    }

    #[cfg(test)]
    fn remembers(&self) -> usize {
        self.touched.len()
    }
}

#[cfg(test)]
mod tests;
