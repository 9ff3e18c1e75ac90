//! What others see of a link, whoever works on it and whether anybody does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::OnGap;
use crate::runtime::board::Board;

/// Where the board of a link is found, from its first moment on.
pub(crate) type BoardSlot = Arc<Mutex<Option<Arc<Board>>>>;

/// Whom a link waits for: the name of a worker, where it is known.
pub(crate) type StandbySlot = Arc<Mutex<Option<Option<String>>>>;

/// Why nothing is copied, and what to try, since the last time the link was opened or ran.
pub(crate) type TroubleSlot = Arc<Mutex<Option<String>>>;

/// What others see of a link.
#[derive(Clone)]
pub(crate) struct LinkSlots {
    pub(crate) board: BoardSlot,
    pub(crate) standby: StandbySlot,
    pub(crate) trouble: TroubleSlot,
    pub(crate) on_gap: OnGap,
    /// Of the parts of the link that this process works on or waits for, by name.
    parts: Arc<Mutex<BTreeMap<String, LinkSlots>>>,
}

impl LinkSlots {
    /// Of a link that nothing is known of yet.
    pub(crate) fn new(on_gap: OnGap) -> Self {
        Self { board: Arc::default(), standby: Arc::default(), trouble: Arc::default(), on_gap, parts: Arc::default() }
    }

    /// The parts of the link that this process works on or waits for.
    pub(crate) fn parts(&self) -> MutexGuard<'_, BTreeMap<String, Self>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The board, while this process works on the link.
    pub(crate) fn board(&self) -> Option<Arc<Board>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whom the link waits for; `None`: it does not.
    pub(crate) fn standby(&self) -> Option<Option<String>> {
        self.standby.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why nothing is copied, from the first opening that failed until one that does not.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}
