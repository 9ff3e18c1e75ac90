//! The lag that a process shows, next to the truth.

use std::time::Duration;

use dynaferry::telemetry::status::LinkStatus;

use super::{MINUTE, Run, SECOND};
use crate::plan::{Family, LagScenario};

/// Shards that were opened in so short a time follow each other at once.
const BURST: Duration = Duration::from_secs(20);

impl Run {
    /// The lag, next to the truth: what is claimed to be applied must be; and nothing is hidden for long.
    pub(super) fn look(&mut self) {
        let is_lag_run = matches!(self.world.plan.family, Family::Lag(_));
        self.next_look = tokio::time::Instant::now() + if is_lag_run { SECOND } else { 7 * SECOND };
        // A service that answers with many empty pages in a row, or that lists a shard's second child minutes after its
        // first one, fools the lag: nothing tells that there is more.
        let fools = ["page.empty_run", "children.stagger", "describe.stale_listing"];
        let has = |knob: &str| self.world.plan.has_knob(knob);
        // A shard that is gone before its end holds the lag no longer than its gap is open; that it has a child, which is
        // listed minutes later, nobody can know.
        let is_fooled = fools.iter().any(|knob| has(knob)) || has("shard.vanish") && has("children.delay");
        let Some(status) = self.status().filter(|_| !is_fooled) else { return };
        let Some(claimed) = status.watermark.applied else {
            // Not known any more, as after the stream was replaced.
            self.last_claim = None;
            return;
        };
        let (now, oldest) = (self.now(), self.world.court.judge().oldest_that_is_owed());
        if self.last_claim.is_some_and(|before| claimed < before) {
            self.violated("lag", format!("the watermark went back to {claimed:?}"));
        }
        self.last_claim = Some(claimed);
        if let Some(oldest) = oldest.filter(|oldest| oldest.at < claimed) {
            let ahead = claimed.since(oldest.at);
            self.violated("lag", format!("the watermark claims {ahead:?} more than is applied: {oldest:?}"));
        }
        let unread = self.world.court.judge().oldest_unread();
        let truth = unread.map_or(Duration::ZERO, |oldest| now.since(oldest));
        let settings = self.world.plan.settings;
        // Three empty pages prove that there is no more, and creation times are whole seconds.
        let proof = settings.poll_max * 3;
        // After a parent's end, which is seen at its next poll, its children are listed, one call after the other; and
        // shards that live but seconds are proved one generation after the other.
        let generations = self.world.court.judge().generations_within(now, BURST);
        let births = if generations > 0 { settings.poll_max + SECOND } else { Duration::ZERO };
        let most = (2 * SECOND).max(proof) + SECOND + births + proof * generations.saturating_sub(1);
        // Until they are there, what was true a moment ago is shown.
        let seen_at = tokio::time::Instant::now();
        self.truths.push_back((seen_at, truth));
        while self.truths.pop_front_if(|(at, _)| seen_at - *at > most).is_some() {}
        let lately = self.truths.iter().map(|(_, truth)| *truth).max().unwrap_or(truth);
        let hidden = now.since(claimed).saturating_sub(lately);
        self.worst_lag_error = self.worst_lag_error.max(hidden);
        let lives = self.process.as_ref().map_or(Duration::ZERO, |process| process.since.elapsed());
        // While a shard cannot be read nobody knows whether there is more, and the lag must not pretend to.
        let is_stuck = matches!(self.world.plan.family, Family::Lag(LagScenario::StuckShard | LagScenario::Pause));
        if is_lag_run && !is_stuck && hidden > most && lives > MINUTE {
            self.violated("lag", format!("the lag is {truth:?}, and {hidden:?} more is shown"));
        }
    }

    pub(super) fn status(&self) -> Option<LinkStatus> {
        let process = self.process.as_ref()?;
        process.program.status_source().status().links.into_iter().next()
    }

    pub(super) fn lag(&self) -> Option<Duration> {
        Some(self.now().since(self.status()?.watermark.applied?))
    }
}
