//! How far AWS's clock is from this machine's, from the `Date` header of its answers.
//!
//! Pure. A header of second D, on an answer that was asked for at `sent` and came at `received`, proves that AWS's clock
//! less ours lies within [D − received, D + 1 s − sent]. Proofs are intersected, so the bounds get narrower than a
//! second; they widen slowly with age, because clocks drift; a proof that contradicts them (a clock was set) replaces
//! them.

use std::time::Duration;

use crate::model::WallTime;

/// What `Date` leaves out: it is in whole seconds, rounded down. Source: RFC 9110, section 5.6.7.
const RESOLUTION_MILLIS: i64 = 1000;

/// How much two clocks may drift apart: one part in this many. A bad crystal is off by 100 parts in a million, and one that
/// is being put right by 500 more. Source: ntpd's documentation, slewing.
const DRIFT_ONE_IN: u128 = 1_000;

/// Bounds of AWS's clock less ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SkewEstimate {
    bounds: Option<Bounds>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    low_millis: i64,
    high_millis: i64,
    at: WallTime,
}

impl SkewEstimate {
    /// An answer came: our clock when its request was sent and when it was received, and its `Date`. Without effect when
    /// our clock was set back in between.
    pub fn observe(&mut self, sent: WallTime, received: WallTime, date: WallTime) {
        if received < sent {
            return;
        }
        let proof = Bounds {
            low_millis: date.millis().saturating_sub(received.millis()),
            high_millis: date.millis().saturating_add(RESOLUTION_MILLIS).saturating_sub(sent.millis()),
            at: received,
        };
        self.bounds = Some(match self.bounds {
            Some(known) => known.aged(received).intersect(proof).unwrap_or(proof),
            None => proof,
        });
    }

    /// The smallest correction that the bounds allow, in milliseconds: 0 where the clocks may be equal. `None` before
    /// the first answer.
    #[must_use]
    pub fn offset_millis(&self) -> Option<i64> {
        // Not `clamp`: it panics when the bounds cross.
        self.bounds.map(|bounds| 0_i64.max(bounds.low_millis).min(bounds.high_millis))
    }

    /// The same in seconds, for the metric.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "milliseconds fit 53 bits for 285,000 years")]
    pub fn offset_seconds(&self) -> Option<f64> {
        self.offset_millis().map(|millis| millis as f64 / 1000.0)
    }

    /// What AWS's clock says when ours says `now`, as far as we know.
    #[must_use]
    pub fn corrected(&self, now: WallTime) -> WallTime {
        WallTime::from_millis(now.millis().saturating_add(self.offset_millis().unwrap_or(0)))
    }

    /// How far off [`SkewEstimate::corrected`] may be.
    #[must_use]
    pub fn uncertainty(&self) -> Option<Duration> {
        let bounds = self.bounds?;
        let width = bounds.high_millis.saturating_sub(bounds.low_millis);
        Some(Duration::from_millis(u64::try_from(width).unwrap_or(0)))
    }
}

impl Bounds {
    fn aged(self, now: WallTime) -> Self {
        let drift = now.since(self.at).as_millis().div_ceil(DRIFT_ONE_IN);
        let drift = i64::try_from(drift).unwrap_or(i64::MAX);
        Self {
            low_millis: self.low_millis.saturating_sub(drift),
            high_millis: self.high_millis.saturating_add(drift),
            at: now,
        }
    }

    fn intersect(self, other: Self) -> Option<Self> {
        let both = Self {
            low_millis: self.low_millis.max(other.low_millis),
            high_millis: self.high_millis.min(other.high_millis),
            at: other.at,
        };
        (both.low_millis <= both.high_millis).then_some(both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOON: WallTime = WallTime::from_secs(1_763_000_000);

    fn after(millis: i64) -> WallTime {
        WallTime::from_millis(NOON.millis() + millis)
    }

    #[test]
    fn clocks_that_may_be_equal_are_not_corrected() {
        let mut skew = SkewEstimate::default();
        assert_eq!(skew.corrected(NOON), NOON);
        skew.observe(after(400), after(420), NOON);
        assert_eq!(skew.offset_millis(), Some(0));
        assert_eq!(skew.uncertainty(), Some(Duration::from_millis(1020)));
    }

    #[test]
    fn a_clock_that_is_a_minute_late_is_corrected_to_the_right_minute() {
        let mut skew = SkewEstimate::default();
        skew.observe(NOON, after(10), after(60_000));
        assert_eq!(skew.corrected(after(10)), after(60_000));
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_at_the_next_answer() {
        let mut skew = SkewEstimate::default();
        skew.observe(after(300), after(310), NOON);
        skew.observe(after(600_500), after(600_510), after(0));
        assert!(skew.offset_millis() < Some(-599_000), "{skew:?}");
    }

    #[test]
    fn an_answer_before_its_request_proves_nothing() {
        let mut skew = SkewEstimate::default();
        skew.observe(after(10), NOON, NOON);
        assert_eq!(skew, SkewEstimate::default());
    }

    proptest! {
        #[test]
        fn bounds_hold_the_true_offset_and_narrow(
            offset in -100_000_i64..100_000,
            requests in prop::collection::vec((1_i64..5000, 0_i64..800, 0_i64..=100), 1..60),
        ) {
            let mut skew = SkewEstimate::default();
            let mut clock = 0;
            for (pause, took, share) in requests {
                clock += pause;
                let (sent, received) = (clock, clock + took);
                let stamped = after(sent + took * share / 100 + offset).millis().div_euclid(1000);
                skew.observe(after(sent), after(received), WallTime::from_secs(stamped));
                clock = received;
                let bounds = skew.bounds.unwrap();
                prop_assert!(bounds.low_millis <= offset && offset <= bounds.high_millis, "{bounds:?}");
                prop_assert!(bounds.high_millis - bounds.low_millis <= 1000 + took + 1);
                let error = (skew.offset_millis().unwrap() - offset).abs();
                prop_assert!(error <= bounds.high_millis - bounds.low_millis);
            }
        }

        #[test]
        fn bounds_hold_the_offset_of_a_clock_that_is_being_put_right(
            offset in -100_000_i64..100_000,
            parts_in_a_million in -600_i64..600,
            requests in prop::collection::vec((1_i64..20_000, 0_i64..800, 0_i64..=100), 1..60),
        ) {
            let mut skew = SkewEstimate::default();
            let mut ours = 0;
            let theirs = |ours: i64| ours + offset + ours * parts_in_a_million / 1_000_000;
            for (pause, took, share) in requests {
                ours += pause;
                let (sent, received) = (ours, ours + took);
                let stamped = after(theirs(sent + took * share / 100)).millis().div_euclid(1000);
                skew.observe(after(sent), after(received), WallTime::from_secs(stamped));
                ours = received;
                let (bounds, now) = (skew.bounds.unwrap(), theirs(ours) - ours);
                // A millisecond for the rounding of both.
                prop_assert!(bounds.low_millis - 1 <= now && now <= bounds.high_millis + 1, "{bounds:?} {now}");
            }
        }

        #[test]
        fn never_panics(times in prop::collection::vec((any::<i64>(), any::<i64>(), any::<i64>()), 0..8)) {
            let mut skew = SkewEstimate::default();
            for (sent, received, date) in times {
                skew.observe(WallTime::from_millis(sent), WallTime::from_millis(received), WallTime::from_millis(date));
                let _ = (skew.corrected(WallTime::from_millis(sent)), skew.uncertainty());
            }
        }
    }
}
