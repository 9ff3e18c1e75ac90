//! Pure: how much a count grew of late, per second.

use std::collections::VecDeque;
use std::time::Duration;

/// The rate is that of the last ten seconds: long enough to be steady, short enough to be of now.
const WINDOW: Duration = Duration::from_secs(10);
/// Whoever asks more often than this adds no sample.
const GRAIN: Duration = Duration::from_millis(400);

/// Samples of a count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rate {
    samples: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// The count at this time; times do not go back.
    pub(crate) fn observe(&mut self, now: Duration, count: u64) {
        if self.samples.back().is_some_and(|(last, _)| now.saturating_sub(*last) < GRAIN) {
            return;
        }
        self.samples.push_back((now, count));
        // One that is older than the window stays: the rate is that since then.
        while self.samples.get(1).is_some_and(|(second, _)| now.saturating_sub(*second) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Per second, over the last ten seconds or what is known of them; `None` before the second sample.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(crate) fn per_second(&self) -> Option<f64> {
        let (first, last) = self.samples.front().zip(self.samples.back())?;
        let seconds = last.0.saturating_sub(first.0).as_secs_f64();
        (seconds > 0.0).then(|| last.1.saturating_sub(first.1) as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_steady_count_has_its_rate_however_often_it_is_asked() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), None);
        for step in 0..1000 {
            rate.observe(at(step * 50), step * 5);
            assert!(rate.samples.len() <= 27, "{}", rate.samples.len());
        }
        assert!(rate.per_second().is_some_and(|rate| (rate - 100.0).abs() < 1e-6), "{rate:?}");
    }

    #[test]
    fn what_was_longer_than_ten_seconds_ago_is_forgotten() {
        let mut rate = Rate::default();
        rate.observe(at(0), 0);
        rate.observe(at(1_000), 5_000);
        assert_eq!(rate.per_second(), Some(5_000.0));
        (2..=12).for_each(|second| rate.observe(at(second * 1_000), 5_000));
        assert_eq!(rate.per_second(), Some(0.0));
    }
}
