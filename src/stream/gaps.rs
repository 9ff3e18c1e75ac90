//! Why history is lost, or may be.
//!
//! Each loss becomes a durable gap row, which is healed and closed. The books know which are open: what is found again
//! while its gap is open extends that gap.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::model::GapScope;
use crate::model::WallTime;

use super::cursor::LossCause;
use super::lineage::Suspicion;

/// An unfinished position that was not confirmed for this long may have lost records: the stream keeps 24 hours, and a
/// read from the trim horizon never says that something is missing. An hour less, for clocks and late listings.
pub const UNCONFIRMED_AFTER: Duration = Duration::from_secs(23 * 3600);
/// Where nobody knows how old the oldest record of a shard is, it is taken for so old: as old as may be, and still there for
/// whoever reads it within the hour.
pub const UNSEEN: Duration = Duration::from_secs(22 * 3600);

/// Why a gap was opened. The names are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The service said that the position is trimmed.
    Trimmed,
    /// A shard that was not read to its end is no longer listed, or not found.
    ShardVanished,
    /// A listed shard's parent is neither listed nor finished by us.
    ParentUnknown,
    /// A shard was listed for the first time after a child of it had been begun.
    ShardLate,
    /// A shard that was given up is listed again.
    ShardReappeared,
    /// The table has another stream now; what was written in between is in none.
    StreamReplaced,
    /// A position was not confirmed for [`UNCONFIRMED_AFTER`]. Once the gap is durable it covers all that is lost so far:
    /// set the row's `verified_at` to the gap's end, or it is found again when the gap is closed.
    NotConfirmed,
    /// An import has left out items, or the stream does not go on from it.
    ImportIncomplete,
}

impl GapCause {
    /// The stored name, also used in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::ShardVanished => "shard_vanished",
            Self::ParentUnknown => "parent_unknown",
            Self::ShardLate => "shard_late",
            Self::ShardReappeared => "shard_reappeared",
            Self::StreamReplaced => "stream_replaced",
            Self::NotConfirmed => "not_confirmed",
            Self::ImportIncomplete => "import_incomplete",
        }
    }
}

impl From<LossCause> for GapCause {
    fn from(cause: LossCause) -> Self {
        match cause {
            LossCause::Trimmed => Self::Trimmed,
            LossCause::ShardVanished => Self::ShardVanished,
        }
    }
}

impl From<Suspicion> for GapCause {
    fn from(why: Suspicion) -> Self {
        match why {
            Suspicion::Vanished => Self::ShardVanished,
            Suspicion::UnknownParent => Self::ParentUnknown,
            Suspicion::Overtaken => Self::ShardLate,
            Suspicion::Reappeared => Self::ShardReappeared,
        }
    }
}

/// Whether a position may have lost records, because nothing confirmed it for [`UNCONFIRMED_AFTER`].
#[must_use]
pub fn is_unconfirmed(verified_at: WallTime, now: WallTime) -> bool {
    now.since(verified_at) >= UNCONFIRMED_AFTER
}

/// A shard without a position is read from the trim horizon, which never says what is missing. No record of it is older
/// than this, so none is missing while this is younger than what a stream keeps: `verified_at`, or the newest change that
/// was settled of any of its ancestors, all of which came before its own.
#[must_use]
pub fn no_older_than(verified_at: WallTime, ancestors: impl Iterator<Item = WallTime>) -> WallTime {
    ancestors.fold(verified_at, WallTime::max)
}

/// The `verified_at` of a shard that was never read: no record of it is older.
///
/// `born_after` comes with [`super::lineage::NewShard`]. After a restart it is unknown; then the parent's confirmation, as
/// the last run left it, bounds it: that run listed just as late and did not see the child. So list after a restart
/// before any row's `verified_at` is moved. Where its parent is unknown, too, nobody knows.
#[must_use]
pub fn first_confirmed(born_after: Option<WallTime>, parent_verified_at: Option<WallTime>, now: WallTime) -> WallTime {
    let bounds = [born_after, parent_verified_at].into_iter().flatten();
    bounds.min().map_or_else(|| now.minus(UNSEEN), |bound| bound.min(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ShardId;

    fn hours(n: u64) -> Duration {
        Duration::from_secs(3600 * n)
    }

    fn start() -> WallTime {
        WallTime::from_secs(1_800_000_000)
    }

    // G5 and case 57.
    #[test]
    fn a_position_not_confirmed_for_23_hours_may_have_lost_records() {
        let due = start().plus(hours(23));
        assert!(!is_unconfirmed(start(), due.minus(Duration::from_millis(1))));
        assert!(is_unconfirmed(start(), due));
    }

    #[test]
    fn a_shard_that_was_never_read_is_as_old_as_the_last_look_without_it() {
        let (old, new, now) = (start(), start().plus(hours(1)), start().plus(hours(2)));
        assert_eq!(first_confirmed(Some(new), Some(old), now), old);
        assert_eq!(first_confirmed(None, Some(old), now), old);
        assert_eq!(first_confirmed(Some(new), None, now), new);
        assert_eq!(first_confirmed(None, None, now), now.minus(hours(22)), "its records may be a day old");
        assert!(!is_unconfirmed(first_confirmed(None, None, now), now), "and are there for the next hour");
    }

    #[test]
    fn stored_names_are_the_names_in_metrics() {
        for cause in [
            GapCause::Trimmed,
            GapCause::ShardVanished,
            GapCause::ParentUnknown,
            GapCause::ShardLate,
            GapCause::ShardReappeared,
            GapCause::StreamReplaced,
            GapCause::NotConfirmed,
        ] {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        }
        assert_eq!(
            serde_json::to_string(&[GapScope::All, GapScope::Shard(ShardId::new("a"))]).unwrap(),
            r#"["all",{"shard":"a"}]"#
        );
    }
}
