//! The states of reading one shard.
//!
//! ```text
//! seeking ──iterator──→ ready ──last page──→ drained
//!    ↑  ↑                 │ ↺ page
//!    │  └─────expired─────┤
//!    └─restart── lost ←───┘ (also from seeking)
//! ```
//!
//! A position moves only with the page it belongs to: a fetch that failed or was dropped changes nothing. There is no
//! "latest" in here, and no count of empty pages: only the service's missing iterator ends a shard.

use crate::error::{Failure, Fault};
use crate::model::{SequenceNumber, StartAt};

use super::source::ShardIterator;

/// The code by which the service says that a shard or a stream is gone.
const NOT_FOUND: &str = "ResourceNotFoundException";

/// Why a shard's unread history is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossCause {
    /// The position is older than what the stream keeps; the shard's remaining records can be read.
    Trimmed,
    /// The shard itself is gone, though it was not read to its end.
    ShardVanished,
}

/// What to do next for a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Get an iterator here and report to [`Cursor::on_iterator`].
    GetIterator(StartAt),
    /// Get records and report to [`Cursor::on_page`] or [`Cursor::on_page_failed`].
    GetRecords(ShardIterator),
    /// Read to its end. It is finished once everything read is settled.
    Done,
    /// Open a durable gap; then [`Cursor::restart`], or give the shard up in the lineage.
    Lost(LossCause),
}

/// What a page means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRead {
    /// This many leading records were read before, in this run, and must be left out. Zero, but after a restart.
    pub skip: usize,
    /// Whether it was the shard's last page.
    pub drained: bool,
}

/// A page that cannot be. The position has not moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Its records do not ascend strictly.
    #[error("read shard page: record {number} follows record {previous}")]
    NotAscending {
        /// The record.
        number: SequenceNumber,
        /// The one before it.
        previous: SequenceNumber,
    },
    /// A record at or before the position that the page was asked after.
    #[error("read shard page: record {number} is not after position {position}")]
    NotAfterPosition {
        /// The record.
        number: SequenceNumber,
        /// The position.
        position: SequenceNumber,
    },
    /// It was not asked for: the cursor holds another iterator or none.
    #[error("read shard page: nobody asked for it")]
    NotAsked,
}

impl CursorError {
    /// What becomes of it.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Broken
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Seeking,
    Ready(ShardIterator),
    Drained,
    Lost(LossCause),
}

/// Where reading of one shard stands.
#[derive(Debug, Clone)]
pub struct Cursor {
    registered: StartAt,
    last_read: Option<SequenceNumber>,
    /// Set by a restart, until a record beyond everything read shows up: seek the trim horizon, skip what was read.
    from_horizon: bool,
    state: State,
}

impl Cursor {
    /// A cursor at the position that the shard's row holds: its checkpoint, else the trim horizon.
    #[must_use]
    pub const fn new(registered: StartAt) -> Self {
        Self { registered, last_read: None, from_horizon: false, state: State::Seeking }
    }

    /// What to do next. Asking changes nothing, so a step may be dropped half-way and asked for again.
    #[must_use]
    pub fn next(&self) -> Step {
        match &self.state {
            State::Seeking => Step::GetIterator(self.position()),
            State::Ready(iterator) => Step::GetRecords(iterator.clone()),
            State::Drained => Step::Done,
            State::Lost(cause) => Step::Lost(*cause),
        }
    }

    /// Where an iterator would start: after the last record read, else where the shard was registered.
    #[must_use]
    pub fn position(&self) -> StartAt {
        if self.from_horizon {
            return StartAt::TrimHorizon;
        }
        self.last_read.map_or(self.registered, StartAt::After)
    }

    /// The last record read in this run.
    #[must_use]
    pub const fn last_read(&self) -> Option<SequenceNumber> {
        self.last_read
    }

    /// Takes the answer to [`Step::GetIterator`]. Only a definite answer changes anything.
    pub fn on_iterator(&mut self, answer: Result<ShardIterator, &Failure>) {
        if self.state != State::Seeking {
            return;
        }
        match answer {
            Ok(iterator) => self.state = State::Ready(iterator),
            Err(failure) => self.fail(failure),
        }
    }

    /// Takes a page that was got with `asked`: its records' numbers in order, and the next iterator.
    ///
    /// # Errors
    /// [`CursorError`] for a page that cannot be; nothing has moved then, and none of its records may be used.
    pub fn on_page(
        &mut self,
        asked: &ShardIterator,
        numbers: impl IntoIterator<Item = SequenceNumber>,
        next: Option<ShardIterator>,
    ) -> Result<PageRead, CursorError> {
        if !matches!(&self.state, State::Ready(current) if current == asked) {
            return Err(CursorError::NotAsked);
        }
        let (skip, last) = self.check(numbers)?;
        let drained = next.is_none();
        if let Some(last) = last {
            debug_assert!(self.is_beyond_everything_read(last));
            self.last_read = Some(last);
            self.from_horizon = false;
        }
        self.state = next.map_or(State::Drained, State::Ready);
        Ok(PageRead { skip, drained })
    }

    /// Takes the failure of [`Step::GetRecords`].
    pub fn on_page_failed(&mut self, failure: &Failure) {
        if matches!(self.state, State::Ready(_)) {
            self.fail(failure);
        }
    }

    /// Goes on after a loss, at the oldest record that is left. Call it when the gap is durable; else it does nothing.
    pub fn restart(&mut self) {
        if matches!(self.state, State::Lost(_)) {
            self.from_horizon = true;
            self.state = State::Seeking;
        }
    }

    /// How many leading numbers were read before, and the last one that was not.
    fn check(
        &self,
        numbers: impl IntoIterator<Item = SequenceNumber>,
    ) -> Result<(usize, Option<SequenceNumber>), CursorError> {
        let (mut skip, mut previous, mut last) = (0, None, None);
        for number in numbers {
            if let Some(previous) = previous.filter(|previous| number <= *previous) {
                return Err(CursorError::NotAscending { number, previous });
            }
            previous = Some(number);
            if self.is_beyond_everything_read(number) {
                last = Some(number);
            } else if self.from_horizon {
                skip += 1;
            } else if let Some(position) = self.floor() {
                return Err(CursorError::NotAfterPosition { number, position });
            }
        }
        Ok((skip, last))
    }

    fn is_beyond_everything_read(&self, number: SequenceNumber) -> bool {
        self.floor().is_none_or(|floor| number > floor)
    }

    fn floor(&self) -> Option<SequenceNumber> {
        match (self.last_read, self.registered) {
            (Some(read), _) => Some(read),
            (None, StartAt::After(number)) => Some(number),
            (None, StartAt::TrimHorizon) => None,
        }
    }

    fn fail(&mut self, failure: &Failure) {
        match failure.fault {
            // The iterator is still good: ask again with it.
            Fault::Transient | Fault::Denied => {}
            // A fresh iterator after the last record read loses nothing, and may get past a refused one.
            Fault::Expired | Fault::Rejected | Fault::Broken => self.state = State::Seeking,
            Fault::Lost => self.state = State::Lost(loss_cause(failure)),
        }
    }
}

/// Anything but "not found" is taken as trimmed: reading on from the trim horizon, under a gap, is always safe.
fn loss_cause(failure: &Failure) -> LossCause {
    match failure.code.as_deref().and_then(|code| code.rsplit('#').next()) {
        Some(NOT_FOUND) => LossCause::ShardVanished,
        Some(_) | None => LossCause::Trimmed,
    }
}

#[cfg(test)]
mod tests;
