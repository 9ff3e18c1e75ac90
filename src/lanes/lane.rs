//! The operations of one key.

use std::collections::VecDeque;

use super::{LaneError, NOT_OUT, PageNumber, Tokens, one_write};
use crate::invariant::{Invariant, Violation};
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
        /// What was read; `None`: that it is gone.
        image: Option<RawItem>,
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
            Self::Put(image) | Self::Load { image: Some(image), .. } | Self::Synced(Some(image)) => image.len(),
            Self::Delete | Self::Load { image: None, .. } | Self::Sync | Self::Synced(None) => 0,
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
    /// Its place among all that were pushed.
    pub(super) number: u64,
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

/// The FIFO of one key. Nearly every lane has one operation, for queued ones coalesce: it lies inside, and stays where it is
/// while it is under way.
#[derive(Debug)]
pub(super) struct Lane<T> {
    head: Option<Operation<T>>,
    /// Whether the head is under way.
    is_out: bool,
    /// Those after the head; empty where there is no head.
    waiting: VecDeque<Operation<T>>,
    /// The number of the operation that was issued last.
    issued: u64,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { head: None, is_out: false, waiting: VecDeque::new(), issued: 0 }
    }
}

impl<T> Lane<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Whether it is not in the list of ready keys: nothing waits, or its turn comes when what is under way is settled.
    pub(super) fn is_idle(&self) -> bool {
        self.is_empty()
    }

    pub(super) const fn is_in_flight(&self) -> bool {
        self.is_out
    }

    /// Appends, or takes the place of the last one queued; answers the page whose item was absorbed.
    pub(super) fn push(&mut self, mut operation: Operation<T>) -> Option<PageNumber> {
        let last = match self.waiting.back_mut() {
            Some(last) => Some(last),
            None => self.head.as_mut().filter(|_| !self.is_out),
        };
        if let Some(last) = last.filter(|last| last.may_be_absorbed_by(&operation.work)) {
            std::mem::swap(last, &mut operation);
            return last.absorb(operation);
        }
        match self.head {
            None => self.head = Some(operation),
            Some(_) => self.waiting.push_back(operation),
        }
        None
    }

    /// What is to be done next; a lane whose head is under way is not asked.
    pub(super) fn head(&self) -> Result<Option<&Work>, LaneError> {
        if self.is_out { Err(TWICE) } else { Ok(self.head.as_ref().map(|operation| &operation.work)) }
    }

    /// Removes the head if it is an item of the load and the key was executed since its page was requested.
    pub(super) fn take_stale_load(&mut self, touched_at: Option<u64>) -> Option<Operation<T>> {
        let touched_at = touched_at?;
        let head = self.head.as_ref().filter(|_| !self.is_out)?;
        let is_stale = matches!(&head.work, Work::Load { opened_at, .. } if touched_at > *opened_at);
        if is_stale { self.pop() } else { None }
    }

    /// Puts the head under way.
    pub(super) fn issue(&mut self) -> Result<Issue, LaneError> {
        if self.is_out {
            return Err(TWICE);
        }
        let head = self.head.as_ref().ok_or(EMPTY)?;
        if head.number < self.issued {
            return Err(Violation::new(Invariant::L2, "a later operation of the key was issued before").into());
        }
        self.issued = head.number;
        let key = head.key.clone();
        let issue = match &head.work {
            Work::Sync => Issue::Read(key),
            Work::Put(image) => Issue::Write(Write { key, image: Some(image.clone()) }),
            Work::Load { image, .. } => Issue::Write(Write { key, image: image.clone() }),
            Work::Delete => Issue::Write(Write { key, image: None }),
            Work::Synced(image) => Issue::Write(Write { key, image: image.clone() }),
        };
        self.is_out = true;
        Ok(issue)
    }

    /// Ends what is under way.
    pub(super) fn finish(&mut self) -> Result<Operation<T>, LaneError> {
        self.come_back()?;
        self.pop().ok_or(NOT_OUT)
    }

    /// What is under way goes back to the head. In doubt, a sync starts again from its read and a newer change takes the
    /// place of an older one.
    pub(super) fn put_back(&mut self, in_doubt: bool) -> Result<Option<PageNumber>, LaneError> {
        self.come_back()?;
        let head = self.head.as_mut().ok_or(NOT_OUT)?;
        head.tokens.is_doubtful |= in_doubt;
        if in_doubt && matches!(head.work, Work::Synced(_)) {
            head.work = Work::Sync;
        }
        if self.waiting.front().is_some_and(|next| head.may_be_absorbed_by(&next.work))
            && let Some(older) = self.pop()
        {
            return Ok(self.head.as_mut().and_then(|newer| newer.absorb(older)));
        }
        Ok(None)
    }

    pub(super) fn sync_read(&mut self, image: Option<RawItem>) -> Result<(), LaneError> {
        self.come_back()?;
        let head = self.head.as_mut().ok_or(NOT_OUT)?;
        if !matches!(head.work, Work::Sync) {
            return Err(one_write("a read came back for a key that is not being read"));
        }
        head.work = Work::Synced(image);
        Ok(())
    }

    fn come_back(&mut self) -> Result<(), LaneError> {
        if std::mem::take(&mut self.is_out) { Ok(()) } else { Err(NOT_OUT) }
    }

    fn pop(&mut self) -> Option<Operation<T>> {
        std::mem::replace(&mut self.head, self.waiting.pop_front())
    }
}

const TWICE: LaneError = one_write("a key is to be sent that is under way");
const EMPTY: LaneError = one_write("a key is to be sent that has nothing to do");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CanonicalKey;

    fn put(number: u64) -> Operation<u64> {
        let key = Key { canonical: CanonicalKey::from_canonical([1]), json: "{}".into() };
        let work = Work::Put(RawItem::new(number.to_string().into()));
        Operation { key, work, tokens: Tokens::one(number), number }
    }

    #[test]
    fn an_operation_is_not_issued_after_a_later_one_of_its_key() {
        let mut lane = Lane::default();
        lane.push(put(1));
        lane.issue().unwrap();
        lane.push(put(2));
        // As if what came back unprocessed had gone to the end.
        let older = lane.head.take().unwrap();
        lane.head = lane.waiting.pop_front();
        lane.waiting.push_back(older);
        lane.is_out = false;
        lane.issue().unwrap();
        lane.finish().unwrap();
        let refused = lane.issue().unwrap_err();
        assert!(matches!(&refused, LaneError::Violation(violation) if violation.rule == Invariant::L2), "{refused}");
    }
}
