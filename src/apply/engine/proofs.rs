//! Pure: whether what a `sync` read at the source was read in the table that the link copies.
//!
//! A table that is dropped and made anew under its name is another one, and empty at first: a sync that reads it would
//! delete the copy's item. An id is never given twice, so a look at the table's id that began after the read, and found
//! the id that the link is pinned to, proves it. A table that is being deleted keeps its id, may still answer, and may miss
//! items already: a look that finds it so proves nothing. One look proves all that was read before; until then what was
//! read waits, in bounded memory, and its key with it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{CanonicalKey, RawItem, TableStatus};

/// Looks are at least so far apart: DescribeTable has a budget, which all tools of an account share.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Reads that may wait for a look: some thousands a second may be synced.
const MAX_WAITING: usize = 1_000;
/// Bytes of JSON that may wait.
const MAX_WAITING_BYTES: usize = 4 << 20;

/// What a look at the source's table says of the reads before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// They were made in the table that the link copies.
    Proves,
    /// It is that table still, and will not be for long: look again.
    TellsNothing,
    /// It is another table.
    Refutes,
}

impl Look {
    pub(crate) fn of(id: &str, status: &TableStatus, pinned: &str) -> Self {
        match () {
            () if id != pinned => Self::Refutes,
            () if status.is_deleting() => Self::TellsNothing,
            () => Self::Proves,
        }
    }
}

/// What a read found.
pub(super) type Found = (CanonicalKey, Option<RawItem>);

/// Reads that wait for their proof.
#[derive(Debug)]
pub(super) struct Proofs {
    waiting: VecDeque<(Instant, Found)>,
    bytes: usize,
    /// When the look that is under way began.
    looking_since: Option<Instant>,
    not_before: Instant,
}

impl Proofs {
    pub(super) const fn new(now: Instant) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, looking_since: None, not_before: now }
    }

    /// Whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING && self.bytes < MAX_WAITING_BYTES
    }

    /// A read was answered at this time.
    pub(super) fn add(&mut self, now: Instant, found: Found) {
        self.bytes += size(&found);
        self.waiting.push_back((now, found));
    }

    /// When the next look is due; `None`: nothing waits for one, or it is under way.
    pub(super) fn look_at(&self) -> Option<Instant> {
        (self.looking_since.is_none() && !self.waiting.is_empty()).then_some(self.not_before)
    }

    /// A look begins now.
    pub(super) fn begin(&mut self, now: Instant) {
        self.looking_since = Some(now);
        self.not_before = now + LOOK_EVERY;
    }

    /// The look found the table: what was answered before it began is proved.
    pub(super) fn proved(&mut self) -> Vec<Found> {
        let Some(since) = self.looking_since.take() else { return Vec::new() };
        let count = self.waiting.iter().take_while(|(at, _)| *at <= since).count();
        let proved: Vec<Found> = self.waiting.drain(..count).map(|(_, found)| found).collect();
        self.bytes = self.bytes.saturating_sub(proved.iter().map(size).sum());
        proved
    }

    /// The look failed; the next one is no earlier than after this wait.
    pub(super) fn failed(&mut self, now: Instant, wait: Duration) {
        self.looking_since = None;
        self.not_before = self.not_before.max(now + wait);
    }
}

fn size((_, image): &Found) -> usize {
    image.as_ref().map_or(0, RawItem::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: u8, bytes: usize) -> Found {
        (CanonicalKey::from_canonical([name]), Some(RawItem::new(vec![b' '; bytes].into())))
    }

    fn names(found: &[Found]) -> Vec<CanonicalKey> {
        found.iter().map(|(key, _)| key.clone()).collect()
    }

    #[test]
    fn a_look_proves_what_was_read_before_it_began_and_nothing_else() {
        let start = Instant::now();
        let mut proofs = Proofs::new(start);
        assert_eq!(proofs.look_at(), None, "no call while nothing is synced");
        proofs.add(start, found(1, 10));
        proofs.add(start, found(2, 10));
        assert_eq!(proofs.look_at(), Some(start));
        proofs.begin(start);
        proofs.add(start + Duration::from_millis(1), found(3, 10));
        assert_eq!(proofs.look_at(), None, "one look at a time");
        assert_eq!(names(&proofs.proved()), names(&[found(1, 0), found(2, 0)]));
        assert_eq!(proofs.look_at(), Some(start + LOOK_EVERY));
        proofs.begin(start + LOOK_EVERY);
        proofs.failed(start + LOOK_EVERY, Duration::from_secs(9));
        assert!(proofs.proved().is_empty());
        assert_eq!(proofs.look_at(), Some(start + LOOK_EVERY + Duration::from_secs(9)));
        proofs.begin(start + Duration::from_secs(10));
        assert_eq!(names(&proofs.proved()), names(&[found(3, 0)]));
        assert_eq!((proofs.look_at(), proofs.bytes), (None, 0));
    }

    #[test]
    fn a_look_at_a_table_that_is_being_deleted_proves_nothing() {
        let deleting = TableStatus::Other("DELETING".to_owned());
        assert_eq!(Look::of("a", &deleting, "a"), Look::TellsNothing);
        for status in [TableStatus::Active, TableStatus::Updating, TableStatus::Other("ARCHIVING".to_owned())] {
            assert_eq!(Look::of("a", &status, "a"), Look::Proves);
        }
        for status in [deleting, TableStatus::Creating, TableStatus::Active] {
            assert_eq!(Look::of("b", &status, "a"), Look::Refutes);
        }
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let now = Instant::now();
        let mut proofs = Proofs::new(now);
        proofs.add(now, found(1, MAX_WAITING_BYTES));
        assert!(!proofs.has_room());
        proofs.begin(now);
        proofs.proved();
        (0..MAX_WAITING).for_each(|_| proofs.add(now, found(2, 1)));
        assert!(!proofs.has_room());
    }
}
