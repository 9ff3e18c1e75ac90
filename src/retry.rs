//! Pure: which failures are tried again, and when. The one place that acts on a [`Fault`].
//!
//! The SDK's own retries are off, so nothing multiplies and every attempt is counted once. Throttling and passing failures
//! are retried for ever; what a human must mend is retried for as long as the caller's patience lasts.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

use crate::error::{Failure, Fault};

/// First wait after a failure that passes by itself.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Attempts at what should be final.
const FINAL_ATTEMPTS: u32 = 4;

/// For how long failures are borne that only a human can mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long refused credentials are tried again: a service waits for the fix, a one-shot command gives up.
    pub denied: Duration,
}

impl Patience {
    /// Of a service: a key that was disabled or a policy that was changed may be mended within the stream's 24 hours.
    pub const SERVICE: Self = Self { denied: Duration::MAX };
    /// Of a command that somebody waits for.
    pub const COMMAND: Self = Self { denied: Duration::from_secs(60) };
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after this.
    Again(Duration),
    /// It is final.
    Stop,
}

/// The waits between the attempts at one thing. Grow exponentially, jittered, up to 20 s.
#[derive(Debug)]
pub struct Attempts {
    patience: Patience,
    schedule: ExponentialBackoff,
    failed: u32,
    since: Option<Duration>,
}

impl Attempts {
    /// No failure yet.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        let schedule = ExponentialBackoff {
            current_interval: FIRST_WAIT,
            initial_interval: FIRST_WAIT,
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval: LONGEST_WAIT,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { patience, schedule, failed: 0, since: None }
    }

    /// Failures in a row.
    #[must_use]
    pub const fn failed(&self) -> u32 {
        self.failed
    }

    /// It went well: the next failure is a first one.
    pub fn succeeded(&mut self) {
        if self.failed > 0 {
            *self = Self::new(self.patience);
        }
    }

    /// It failed at `now` (monotonic, since any fixed point). `draw` is uniform in `[0, 1)`.
    pub fn failed_with(&mut self, failure: &Failure, now: Duration, draw: f64) -> Verdict {
        self.failed = self.failed.saturating_add(1);
        let elapsed = now.saturating_sub(*self.since.get_or_insert(now));
        let is_final = match failure.fault {
            Fault::Transient | Fault::Expired => false,
            Fault::Denied => elapsed >= self.patience.denied,
            // What is not found may be there in a moment (a table that is being changed), what is refused was perhaps
            // damaged on its way: a few attempts, then it is final.
            Fault::Broken | Fault::Lost | Fault::Rejected => self.failed >= FINAL_ATTEMPTS,
        };
        if is_final { Verdict::Stop } else { Verdict::Again(self.next_wait(draw)) }
    }

    /// The next wait: between half of the schedule's and the whole.
    pub fn next_wait(&mut self, draw: f64) -> Duration {
        let wait = self.schedule.next_backoff().unwrap_or(LONGEST_WAIT);
        wait.mul_f64(0.5 + 0.5 * draw.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(fault: Fault) -> Failure {
        Failure::of_ours("GetRecords", fault, "")
    }

    #[test]
    fn throttling_is_retried_for_ever_with_bounded_waits() {
        let mut attempts = Attempts::new(Patience::COMMAND);
        for n in 0..10_000u32 {
            let now = Duration::from_secs(u64::from(n) * 20);
            match attempts.failed_with(&failure(Fault::Transient), now, 0.999) {
                Verdict::Again(wait) => assert!(wait <= LONGEST_WAIT && wait >= FIRST_WAIT / 2),
                Verdict::Stop => panic!("gave up"),
            }
        }
    }

    #[test]
    fn waits_grow_and_start_over_after_a_success() {
        let mut attempts = Attempts::new(Patience::SERVICE);
        let mut wait = || attempts.next_wait(1.0);
        assert!(wait() < wait());
        attempts.failed_with(&failure(Fault::Transient), Duration::ZERO, 0.0);
        attempts.succeeded();
        assert!(attempts.next_wait(1.0) <= FIRST_WAIT);
    }

    #[test]
    fn refused_credentials_outlast_a_service_and_not_a_command() {
        let at = |patience, secs| {
            Attempts { since: Some(Duration::ZERO), ..Attempts::new(patience) }.failed_with(
                &failure(Fault::Denied),
                Duration::from_secs(secs),
                0.5,
            )
        };
        assert_eq!(at(Patience::COMMAND, 61), Verdict::Stop);
        assert_ne!(at(Patience::SERVICE, 90_000), Verdict::Stop);
    }

    #[test]
    fn what_should_be_final_is_tried_a_few_times() {
        for fault in [Fault::Lost, Fault::Rejected, Fault::Broken] {
            let mut attempts = Attempts::new(Patience::SERVICE);
            let mut verdict = || attempts.failed_with(&failure(fault), Duration::ZERO, 0.5);
            assert_eq!((0..3).filter(|_| verdict() == Verdict::Stop).count(), 0);
            assert_eq!(verdict(), Verdict::Stop);
        }
    }
}
