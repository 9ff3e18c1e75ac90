//! What others see of a link, whoever works on it and whether anybody does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::OnGap;
use crate::runtime::board::Board;
use crate::telemetry::status::LoadStatus;

/// Where the board of a link is found, from its first moment on.
pub(crate) type BoardSlot = Arc<Mutex<Option<Arc<Board>>>>;

/// Whom a link waits for: the name of a worker, where it is known.
pub(crate) type StandbySlot = Arc<Mutex<Option<Option<String>>>>;

/// Why nothing is copied, and what to try, since the last time the link was opened or ran.
pub(crate) type TroubleSlot = Arc<Mutex<Option<String>>>;

/// How far an import is that the link waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Importing {
    pub(crate) load: LoadStatus,
    /// Items that it has refused.
    pub(crate) errors: u64,
}

/// Where that is found; `None`: the link waits for none.
pub(crate) type ImportSlot = Arc<Mutex<Option<Importing>>>;

/// An import is waited for as long as this lives.
pub(super) struct ShownImport(ImportSlot);

impl ShownImport {
    pub(super) fn update(&self, now: Importing) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

impl Drop for ShownImport {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What others see of a link.
#[derive(Clone)]
pub(crate) struct LinkSlots {
    pub(crate) board: BoardSlot,
    pub(crate) standby: StandbySlot,
    pub(crate) trouble: TroubleSlot,
    pub(crate) importing: ImportSlot,
    pub(crate) on_gap: OnGap,
    /// Of the parts of the link that this process works on or waits for, by name.
    parts: Arc<Mutex<BTreeMap<String, LinkSlots>>>,
}

impl LinkSlots {
    /// Of a link that nothing is known of yet.
    pub(crate) fn new(on_gap: OnGap) -> Self {
        Self {
            board: Arc::default(),
            standby: Arc::default(),
            trouble: Arc::default(),
            importing: Arc::default(),
            on_gap,
            parts: Arc::default(),
        }
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

    /// How far the import is that the link waits for.
    pub(crate) fn importing(&self) -> Option<Importing> {
        *self.importing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn show_import(&self) -> ShownImport {
        self.set_trouble(None);
        ShownImport(Arc::clone(&self.importing))
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}
