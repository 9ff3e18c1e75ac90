//! Pure: whether the stream goes on from what a load from exports has brought.

use std::time::Duration;

use crate::checkpoint::rows::GapRow;
use crate::model::{GapScope, WallTime};
use crate::stream::GapCause;
use crate::stream::gaps::UNCONFIRMED_AFTER;

/// What a stream keeps. Source: Developer Guide, change data capture for DynamoDB Streams.
const RETENTION: Duration = Duration::from_secs(24 * 3600);
/// So much of it must be left when the stream is begun: what is in it by then is read before it is trimmed.
const HEADROOM: Duration = Duration::from_secs(6 * 3600);
/// What is loaded may be so old when the stream is begun.
const TOO_SLOW: Duration = Duration::from_secs(RETENTION.as_secs() - HEADROOM.as_secs());

/// From where on the stream is needed, and since when there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HandOver {
    /// What is older is loaded.
    pub(crate) from: WallTime,
    /// When the stream was turned on; `None`: nobody knows, and it may be younger.
    pub(crate) stream_since: Option<WallTime>,
}

impl HandOver {
    /// Whether the stream reaches back to where it is needed, with enough time to read it.
    pub(crate) fn is_in_time(&self, now: WallTime) -> bool {
        now.since(self.from) <= TOO_SLOW && self.reaches_back()
    }

    /// Whether it has lost something, or is about to.
    pub(crate) fn is_lost(&self, now: WallTime) -> bool {
        now.since(self.from) >= UNCONFIRMED_AFTER || !self.reaches_back()
    }

    /// What the stream never had, where it is younger than what is loaded. What it has dropped is found out by who reads it.
    pub(crate) fn gap(&self, now: WallTime) -> Option<GapRow> {
        let cause = GapCause::StreamReplaced.as_str().to_owned();
        let gap = || GapRow { id: 0, scope: GapScope::All, from: Some(self.from), to: now, cause, healed: None };
        (!self.reaches_back()).then(gap)
    }

    fn reaches_back(&self) -> bool {
        self.stream_since.is_some_and(|since| since <= self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> WallTime {
        WallTime::from_secs(1_800_000_000 + hours * 3600)
    }

    #[test]
    fn a_stream_is_begun_while_six_hours_of_it_are_left() {
        let hand_over = HandOver { from: at(0), stream_since: Some(at(0)) };
        assert!(hand_over.is_in_time(at(18)) && !hand_over.is_in_time(at(18).plus(Duration::from_millis(1))));
        assert!(!hand_over.is_lost(at(18).plus(Duration::from_millis(1))), "it is read at once");
        assert!(hand_over.is_lost(at(23)));
        let unknown = HandOver { stream_since: None, ..hand_over };
        assert!(!unknown.is_in_time(at(1)) && unknown.is_lost(at(1)), "it may be younger");
    }

    #[test]
    fn a_stream_that_is_younger_than_what_is_loaded_does_not_go_on_from_it() {
        let hand_over = HandOver { from: at(0), stream_since: Some(at(0).plus(Duration::from_millis(1))) };
        assert!(!hand_over.is_in_time(at(1)) && hand_over.is_lost(at(1)));
        let gap = hand_over.gap(at(1)).unwrap();
        assert_eq!((gap.from, gap.to, gap.scope), (Some(at(0)), at(1), GapScope::All));
        assert!(
            HandOver { stream_since: Some(at(0)), ..hand_over }.gap(at(40)).is_none(),
            "who reads it finds that out"
        );
    }
}
