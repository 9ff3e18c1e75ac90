//! Pure: which changes are applied.

use std::time::Duration;

use crate::model::{Change, WallTime};

/// Which changes are applied; all others are read, counted and settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ChangeFilter {
    /// Changes created before this are in every page of the load already, or before the start that the user chose.
    pub(crate) from: Option<WallTime>,
    /// Changes older than this are left out (`stream.max_record_age`).
    pub(crate) max_age: Option<Duration>,
    /// Whether deletes by time to live are left out (`stream.ttl_deletes = "skip"`).
    pub(crate) skip_ttl_deletes: bool,
}

/// What becomes of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is applied.
    Apply,
    /// It is left out.
    Skip(Skipped),
}

/// Why a change is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Skipped {
    /// Before the load or the chosen start.
    BeforeStart,
    /// Older than the user wants.
    TooOld,
    /// A delete by time to live.
    TtlDelete,
}

impl ChangeFilter {
    /// What becomes of a change at this time.
    pub(crate) fn fate(&self, change: &Change, now: WallTime) -> Fate {
        if self.from.is_some_and(|from| change.created < from) {
            Fate::Skip(Skipped::BeforeStart)
        } else if self.max_age.is_some_and(|age| now.since(change.created) > age) {
            Fate::Skip(Skipped::TooOld)
        } else if self.skip_ttl_deletes && change.is_ttl_delete {
            Fate::Skip(Skipped::TtlDelete)
        } else {
            Fate::Apply
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CanonicalKey, ChangeOp, Key, SequenceNumber};

    fn change(created: i64, is_ttl_delete: bool) -> Change {
        Change {
            key: Key { canonical: CanonicalKey::from_canonical([1]), json: "{}".into() },
            op: ChangeOp::Delete,
            sequence: SequenceNumber::parse("1").unwrap(),
            created: WallTime::from_secs(created),
            is_ttl_delete,
            wire_bytes: 1,
        }
    }

    #[test]
    fn all_is_applied_unless_asked_otherwise() {
        assert_eq!(ChangeFilter::default().fate(&change(0, true), WallTime::from_secs(1_000_000)), Fate::Apply);
    }

    #[test]
    fn each_reason_has_its_boundary() {
        let filter = ChangeFilter {
            from: Some(WallTime::from_secs(100)),
            max_age: Some(Duration::from_secs(50)),
            skip_ttl_deletes: true,
        };
        let fate = |created, ttl, now| filter.fate(&change(created, ttl), WallTime::from_secs(now));
        assert_eq!(fate(99, false, 100), Fate::Skip(Skipped::BeforeStart));
        assert_eq!(fate(100, false, 150), Fate::Apply);
        assert_eq!(fate(100, false, 151), Fate::Skip(Skipped::TooOld));
        assert_eq!(fate(100, true, 100), Fate::Skip(Skipped::TtlDelete));
    }
}
