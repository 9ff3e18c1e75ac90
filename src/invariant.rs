//! The rules of the protocol that hold at every moment, in production, too.
//!
//! Whoever is about to break one answers with a [`Violation`] instead of going on: the link stops with exit code 1 and
//! says which rule it was. Nothing is sent or written after it, so what is durable stays true and a restart begins there.
//! Each check is O(1) for a record or a request; the property tests check the same rules the long way round.

use std::borrow::Cow;
use std::fmt;

/// A rule. The numbers are the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invariant {
    L1,
    L2,
    L3,
    L4,
    L5,
    L6,
}

impl Invariant {
    const fn text(self) -> &'static str {
        match self {
            Self::L1 => "at most one write of a key is on its way",
            Self::L2 => "the writes of a key go out in the order of their records",
            Self::L3 => "a watermark passes settled records without a hole, and never moves back",
            Self::L4 => "no record of a shard is sent before its parent is finished, durably",
            Self::L5 => "a key is listed as in doubt before a write of it that may have been lost is settled",
            Self::L6 => "nothing is read beyond the look-ahead, nor sent beyond the dispatch watermark",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({})", self.text())
    }
}

/// A rule that does not hold: a bug of ours. `what` names shards and counts, never a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {rule}: {what}")]
pub(crate) struct Violation {
    pub(crate) rule: Invariant,
    what: Cow<'static, str>,
}

impl Violation {
    pub(crate) const fn new(rule: Invariant, what: &'static str) -> Self {
        Self { rule, what: Cow::Borrowed(what) }
    }

    /// With the facts of the case.
    pub(crate) const fn with(rule: Invariant, what: String) -> Self {
        Self { rule, what: Cow::Owned(what) }
    }
}
