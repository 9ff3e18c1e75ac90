//! Which differences are repaired, and by whom.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Kind;
use crate::model::Key;

/// Keys that are repaired in one call.
pub(crate) const REPAIR_BATCH: usize = 64;

/// What repairs is gone; the reason is known to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what repairs has stopped")]
pub struct RepairError;

/// What makes the target as the source is, key by key.
pub trait Repairer: Send + Sync + 'static {
    /// For each key, within its lane: reads the source consistently, then writes that image to the target, or deletes the
    /// key there. Resolves when all are done. May be repeated; dropping the future leaves the repairs going on.
    fn sync<'a>(&'a self, keys: Vec<Key>) -> BoxFuture<'a, Result<(), RepairError>>;
}

/// A repairer and its leave.
#[derive(Clone)]
pub(crate) struct Repairs {
    pub(crate) repairer: Arc<dyn Repairer>,
    owns_target: bool,
}

impl Repairs {
    pub(crate) const fn new(repairer: Arc<dyn Repairer>, owns_target: bool) -> Self {
        Self { repairer, owns_target }
    }

    /// Whether a difference of this kind may be repaired: what only the target has may be somebody else's.
    pub(crate) const fn may(&self, kind: Kind) -> bool {
        match kind {
            Kind::Missing | Kind::Different => true,
            Kind::Extra => self.owns_target,
        }
    }
}
