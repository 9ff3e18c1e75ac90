//! The operations of one key.

use std::collections::VecDeque;

use super::{LaneError, PageNumber, Tokens};
use crate::model::{Key, RawItem, Write};

/// What an operation does.
#[derive(Debug)]
pub(super) enum Work {
    /// A change of the stream: write this image.
    Put(RawItem),
    /// A change of the stream: delete.
    Delete,
    /// Read the key at the source, then write what was read.
    Sync,
    /// A `Sync` whose read is done.
    Synced(Option<RawItem>),
    /// An item of the load.
    Load {
        /// What was read.
        image: RawItem,
        /// The page it came with.
        page: PageNumber,
        /// How many operations had been executed when the page was requested.
        opened_at: u64,
    },
}

impl Work {
    /// Bytes of JSON that it adds to a request, its key aside.
    pub(super) fn wire_len(&self) -> usize {
        match self {
            Self::Put(image) | Self::Load { image, .. } | Self::Synced(Some(image)) => image.len(),
            Self::Delete | Self::Sync | Self::Synced(None) => 0,
        }
    }

    const fn is_change(&self) -> bool {
        matches!(self, Self::Put(_) | Self::Delete)
    }
}

/// One operation and what it stands for.
#[derive(Debug)]
pub(super) struct Operation<T> {
    pub(super) key: Key,
    pub(super) work: Work,
    pub(super) tokens: Tokens<T>,
}

impl<T> Operation<T> {
    /// Whether a later operation may take this one's place. Never across a sync that stands between source and target.
    fn may_be_absorbed_by(&self, later: &Work) -> bool {
        match (&self.work, later) {
            (Work::Put(_) | Work::Delete | Work::Load { .. }, later) => later.is_change(),
            (Work::Sync, Work::Sync) => true,
            _ => false,
        }
    }

    /// Takes the place of an earlier operation; answers the page that lost an item by it.
    fn absorb(&mut self, earlier: Self) -> Option<PageNumber> {
        self.tokens.absorb(earlier.tokens);
        match earlier.work {
            Work::Load { page, .. } => Some(page),
            _ => None,
        }
    }
}

/// What is to be done for a head.
#[derive(Debug)]
pub(super) enum Issue {
    Read(Key),
    Write(Write),
}

/// The FIFO of one key, and the operation that is under way.
#[derive(Debug)]
pub(super) struct Lane<T> {
    in_flight: Option<Operation<T>>,
    queue: VecDeque<Operation<T>>,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { in_flight: None, queue: VecDeque::new() }
    }
}

impl<T> Lane<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_none() && self.queue.is_empty()
    }

    /// Whether it is not in the list of ready keys: nothing waits, or its turn comes when what is under way is settled.
    pub(super) fn is_idle(&self) -> bool {
        self.is_empty()
    }

    pub(super) const fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Appends, or takes the place of the last one queued; answers the page whose item was absorbed.
    pub(super) fn push(&mut self, mut operation: Operation<T>) -> Option<PageNumber> {
        let last = self.queue.pop_back_if(|last| last.may_be_absorbed_by(&operation.work));
        let page = last.and_then(|last| operation.absorb(last));
        self.queue.push_back(operation);
        page
    }

    pub(super) fn head(&self) -> Option<&Work> {
        if self.in_flight.is_some() { None } else { self.queue.front().map(|operation| &operation.work) }
    }

    /// Removes the head if it is an item of the load and the key was executed since its page was requested.
    pub(super) fn take_stale_load(&mut self, touched_at: Option<u64>) -> Option<Operation<T>> {
        let touched_at = touched_at?;
        if self.in_flight.is_some() {
            return None;
        }
        self.queue.pop_front_if(|head| matches!(head.work, Work::Load { opened_at, .. } if touched_at > opened_at))
    }

    /// Puts the head under way.
    pub(super) fn issue(&mut self) -> Option<Issue> {
        if self.in_flight.is_some() {
            return None;
        }
        let head = self.queue.pop_front()?;
        let key = head.key.clone();
        let issue = match &head.work {
            Work::Sync => Issue::Read(key),
            Work::Put(image) | Work::Load { image, .. } => Issue::Write(Write { key, image: Some(image.clone()) }),
            Work::Delete => Issue::Write(Write { key, image: None }),
            Work::Synced(image) => Issue::Write(Write { key, image: image.clone() }),
        };
        self.in_flight = Some(head);
        Some(issue)
    }

    /// Ends what is under way.
    pub(super) fn finish(&mut self) -> Result<Operation<T>, LaneError> {
        self.in_flight.take().ok_or(LaneError("an answer names a key that is not under way"))
    }

    /// What is under way goes back to the head. In doubt, a sync starts again from its read and a newer change takes the
    /// place of an older one.
    pub(super) fn put_back(&mut self, in_doubt: bool) -> Result<Option<PageNumber>, LaneError> {
        let mut operation = self.finish()?;
        if in_doubt && matches!(operation.work, Work::Synced(_)) {
            operation.work = Work::Sync;
        }
        let newer = self.queue.front_mut().filter(|next| operation.may_be_absorbed_by(&next.work));
        if let Some(newer) = newer {
            return Ok(newer.absorb(operation));
        }
        self.queue.push_front(operation);
        Ok(None)
    }

    pub(super) fn sync_read(&mut self, image: Option<RawItem>) -> Result<(), LaneError> {
        let mut operation = self.finish()?;
        if !matches!(operation.work, Work::Sync) {
            return Err(LaneError("a read came back for a key that is not being read"));
        }
        operation.work = Work::Synced(image);
        self.queue.push_front(operation);
        Ok(())
    }
}
