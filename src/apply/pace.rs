//! Pure: how fast requests may be sent. Used for writes and for the load's reads.
//!
//! A bucket of capacity units that fills at the current rate. The rate never exceeds the user's limit; when the service
//! throttles it is cut (multiplicative decrease), and it creeps back while it does not (additive increase). Requests are
//! charged an estimate when they are sent and corrected when the service says what they cost; a bucket below zero makes
//! the next request wait. Times are monotonic, since any fixed point.

use std::time::Duration;

/// What one throttled answer leaves of the rate.
const DECREASE: f64 = 0.7;
/// Part of the rate at the last throttle that is added per second without one.
const INCREASE_PER_SECOND: f64 = 0.1;
/// At most one decrease in this time: the answers to one burst are one signal.
const DECREASE_EVERY: Duration = Duration::from_millis(200);
/// The slowest rate, in units per second: one small write.
const SLOWEST: f64 = 1.0;
/// How much an idle bucket may save up, in seconds of the rate.
const BURST_SECONDS: f64 = 0.25;
/// Over this time the rate that was really reached is measured.
const MEASURED_OVER: Duration = Duration::from_secs(1);

/// The pace of one kind of request.
#[derive(Debug, Clone)]
pub struct Pacer {
    limit: Option<f64>,
    /// Units per second; `None`: never throttled, and no limit.
    rate: Option<f64>,
    throttled_at_rate: f64,
    bucket: f64,
    filled_at: Duration,
    decreased_at: Option<Duration>,
    window_start: Duration,
    window_units: f64,
    reached: f64,
}

impl Pacer {
    /// `limit` in units per second; `None`: only the service limits.
    #[must_use]
    pub fn new(limit: Option<f64>, now: Duration) -> Self {
        let limit = limit.map(|limit| limit.max(SLOWEST));
        Self {
            limit,
            rate: limit,
            throttled_at_rate: limit.unwrap_or(0.0),
            bucket: 0.0,
            filled_at: now,
            decreased_at: None,
            window_start: now,
            window_units: 0.0,
            reached: 0.0,
        }
    }

    /// The rate now, units per second; `None`: unlimited.
    #[must_use]
    pub const fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Whether the service's throttling, and not the user's limit, sets the rate.
    #[must_use]
    pub fn is_slowed(&self) -> bool {
        self.rate.is_some_and(|rate| self.limit.is_none_or(|limit| rate < limit))
    }

    /// Whether a request may be sent now; else how long to wait.
    ///
    /// # Errors
    /// The wait.
    pub fn may_send(&mut self, now: Duration) -> Result<(), Duration> {
        self.fill(now);
        match self.rate {
            Some(rate) if self.bucket < 0.0 => {
                Err(Duration::from_secs_f64((-self.bucket / rate).min(60.0)).max(Duration::from_millis(1)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A request was sent that should cost this many units.
    pub fn sent(&mut self, estimate: f64) {
        self.bucket -= estimate;
        self.window_units += estimate;
    }

    /// The service said what a request cost, against what was estimated.
    pub fn cost(&mut self, estimate: f64, actual: f64) {
        self.bucket -= actual - estimate;
        self.window_units += actual - estimate;
    }

    /// The service throttled.
    pub fn throttled(&mut self, now: Duration) {
        self.fill(now);
        if self.decreased_at.is_some_and(|at| now.saturating_sub(at) < DECREASE_EVERY) {
            return;
        }
        self.decreased_at = Some(now);
        let current = self.rate.unwrap_or_else(|| self.measured(now)).max(SLOWEST);
        self.throttled_at_rate = current;
        self.rate = Some((current * DECREASE).max(SLOWEST));
        self.bucket = self.bucket.min(0.0);
        debug_assert!(self.keeps_to_the_limit());
    }

    fn fill(&mut self, now: Duration) {
        let seconds = now.saturating_sub(self.filled_at).as_secs_f64();
        self.filled_at = self.filled_at.max(now);
        self.measure(now);
        let Some(rate) = self.rate else {
            self.bucket = 0.0;
            return;
        };
        let raised = rate + self.throttled_at_rate * INCREASE_PER_SECOND * seconds;
        let rate = self.limit.map_or(raised, |limit| raised.min(limit));
        self.rate = Some(rate);
        self.bucket = (self.bucket + rate * seconds).min(rate * BURST_SECONDS);
        debug_assert!(self.keeps_to_the_limit());
    }

    fn measure(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.window_start);
        if elapsed >= MEASURED_OVER {
            self.reached = self.window_units / elapsed.as_secs_f64();
            self.window_start = now;
            self.window_units = 0.0;
        }
    }

    fn measured(&self, now: Duration) -> f64 {
        let elapsed = now.saturating_sub(self.window_start).max(Duration::from_millis(100));
        self.reached.max(self.window_units / elapsed.as_secs_f64())
    }

    /// Invariant: the rate is never above the user's limit.
    #[must_use]
    pub fn keeps_to_the_limit(&self) -> bool {
        match (self.rate, self.limit) {
            (Some(rate), Some(limit)) => rate <= limit + 1e-9,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends as fast as it may for a time; answers the units sent.
    fn send_for(pacer: &mut Pacer, from: Duration, time: Duration, units: f64) -> f64 {
        let (mut now, mut sent) = (from, 0.0);
        while now < from + time {
            match pacer.may_send(now) {
                Ok(()) => {
                    pacer.sent(units);
                    sent += units;
                    now += MS;
                }
                Err(wait) => now += wait,
            }
        }
        sent
    }

    #[test]
    fn without_limit_and_throttles_nothing_waits() {
        assert!(
            send_for(&mut Pacer::new(None, Duration::ZERO), Duration::ZERO, Duration::from_secs(1), 25.0) >= 25_000.0
        );
    }

    #[test]
    fn a_throttle_slows_and_time_speeds_up_again() {
        let mut pacer = Pacer::new(None, Duration::ZERO);
        send_for(&mut pacer, Duration::ZERO, Duration::from_secs(2), 1.0);
        pacer.throttled(Duration::from_secs(2));
        let slow = pacer.rate().unwrap();
        assert!(slow < 1001.0 && pacer.is_slowed());
        pacer.throttled(Duration::from_millis(2100));
        assert!(pacer.rate().unwrap() >= slow, "one burst of throttles is one signal");
        pacer.may_send(Duration::from_secs(30)).unwrap();
        assert!(pacer.rate().unwrap() > slow * 2.0);
    }

    #[test]
    fn the_rate_comes_back_to_the_users_limit_and_stays_there() {
        let mut pacer = Pacer::new(Some(100.0), Duration::ZERO);
        pacer.throttled(Duration::ZERO);
        assert!(pacer.is_slowed());
        pacer.may_send(Duration::from_secs(60)).unwrap();
        assert_eq!((pacer.rate(), pacer.is_slowed()), (Some(100.0), false));
    }

    #[test]
    fn real_costs_count() {
        let mut pacer = Pacer::new(Some(10.0), Duration::ZERO);
        pacer.sent(1.0);
        pacer.cost(1.0, 51.0);
        assert!(pacer.may_send(Duration::from_secs(4)).is_err());
        assert!(pacer.may_send(Duration::from_secs(6)).is_ok());
    }

    proptest! {
        #[test]
        fn the_users_limit_is_kept_over_any_time(limit in 1.0f64..5000.0, units in 0.5f64..400.0, secs in 1u64..20) {
            let mut pacer = Pacer::new(Some(limit), Duration::ZERO);
            let time = Duration::from_secs(secs);
            let sent = send_for(&mut pacer, Duration::ZERO, time, units);
            let allowed = limit * time.as_secs_f64() + limit * BURST_SECONDS + 2.0 * units;
            prop_assert!(sent <= allowed, "{} > {}", sent, allowed);
        }
    }
}
