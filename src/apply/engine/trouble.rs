//! Failures in a row: how long to wait, and when to give up.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Failure, Fault};
use crate::retry::{Attempts, Patience, Verdict};

/// Failures in a row of one kind of request.
pub(super) struct Trouble {
    attempts: Attempts,
    counted_at: Option<Instant>,
}

impl Trouble {
    pub(super) fn new(patience: Patience) -> Self {
        Self { attempts: Attempts::new(patience), counted_at: None }
    }

    pub(super) fn passed(&mut self) {
        self.attempts.succeeded();
        self.counted_at = None;
    }

    /// A request that was sent then failed now. Requests that were out together fail together: they are one failure, or
    /// a single burst would drive the wait to its longest. Answers the wait; `None`: it is on already.
    pub(super) fn failed(
        &mut self,
        failure: &Failure,
        sent: Instant,
        now: Duration,
        draw: f64,
    ) -> Result<Option<Duration>, ()> {
        let is_final = matches!(failure.fault, Fault::Lost | Fault::Rejected);
        if !is_final && self.counted_at.is_some_and(|at| sent <= at) {
            return Ok(None);
        }
        self.counted_at = Some(Instant::now());
        match self.attempts.failed_with(failure, now, draw) {
            Verdict::Again(wait) => {
                warn_of(failure, self.attempts.failed());
                Ok(Some(wait))
            }
            Verdict::Stop => Err(()),
        }
    }
}

/// One line for the first failure of a row, and for every tenth after it.
fn warn_of(failure: &Failure, failed: u32) {
    if failed == 1 || failed.is_multiple_of(10) {
        tracing::warn!(error = %failure, failed, fault = failure.fault.as_str(), "a call failed, trying again");
    }
}
