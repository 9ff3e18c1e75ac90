//! The end of a run: the faults are over, and everything must come right.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dynaferry::checkpoint::StateStore as _;
use dynaferry::error::{self, Exit};

use super::acts::Actor;
use super::{MINUTE, Run, SECOND};
use crate::clocks::Drift;
use crate::gate::Gate;
use crate::knobs::calm;
use crate::plan::Family;
use crate::state::StateFaults;
use crate::world::{COPY, LINK, REGION, SOURCE, TABLE, TARGET};

/// Within this after the last fault the lag is small again (C8).
const RECOVERY: Duration = Duration::from_secs(600);

/// Within this an export of the link's own is made that takes two days, and what goes on from it, and it is loaded.
const IS_LOADED: Duration = Duration::from_secs(80 * 3600);

/// And an import, after two that failed, besides what each of them takes.
const IMPORT_IS_MADE: Duration = Duration::from_secs(3 * 3600);

impl Run {
    /// Faults are over and the source grows quiet: everything must come right.
    pub(super) async fn settle(&mut self) {
        self.say(|| "=== the faults are over".to_owned());
        self.world.set_faults(Vec::new());
        self.world.trouble.set(StateFaults::default());
        self.world.sandbox.change_options(calm);
        let is_cured = self.cure().await;
        self.drift = Drift::default();
        self.enable_stream().await;
        self.writer.write_now(5);
        let is_imported = self.world.plan.import();
        if self.world.plan.own_export().is_some() || is_imported.is_some() {
            // Nobody may have been there to wait for it, or to load it. What failed is asked for again, and not at once.
            self.world.let_windows(MINUTE, false);
            let longest = IS_LOADED + is_imported.map_or(Duration::ZERO, |import| IMPORT_IS_MADE + import.takes * 3);
            let _is_loaded = self.until(longest, |run| run.world.court.judge().is_loaded()).await;
        }
        if !is_cured && !self.cure().await {
            self.violated("C8", "dead letters cannot be retried: the export is still being loaded".to_owned());
        }
        let settings = self.world.plan.settings;
        let mut nothing = Actor::idle();
        // Errors of calls that were under way end the process once more, at most.
        self.supervise(&mut nothing, None, tokio::time::sleep(MINUTE)).await;
        self.is_calm = true;
        self.writer.write_now(5);
        let small = (5 * SECOND).max(settings.poll_max * 5);
        if !self.until(RECOVERY, |run| run.lag().is_some_and(|lag| lag <= small)).await {
            let (status, lag) = (self.status(), self.lag());
            self.violated("C8", format!("ten minutes after the last fault the lag is {lag:?}; {status:?}"));
        }
        let now = self.now();
        self.world.court.judge().check_losses(now);
        let patience = settings.in_doubt_for * 2 + RECOVERY;
        if !self.until(patience, |run| run.is_certain()).await {
            let status = self.status();
            self.violated(
                "C8",
                format!("{patience:?} after the last fault gaps are open or keys in doubt; {status:?}"),
            );
        }
        self.writer.write_now(5);
        // A child that is listed five minutes late is found by the full listing after that, whose interval varies by a
        // tenth.
        let comes_late = ["children.delay", "children.stagger", "describe.stale_listing"];
        let comes_late = comes_late.iter().any(|knob| self.world.plan.has_knob(knob));
        let discovery = if comes_late { settings.discovery.mul_f64(1.2) + 5 * MINUTE } else { Duration::ZERO };
        let patience = small + settings.poll_max * 5 + MINUTE + discovery;
        if !self.until(patience, |run| run.world.court.judge().oldest_unapplied().is_none()).await {
            self.violated("C8", format!("{patience:?} after the last write it is not applied"));
        }
        // What the target looks like already may be unread yet; what lies in a stream that was replaced stays so.
        let _is_all_read = self.until(patience, |run| run.world.court.judge().oldest_unread().is_none()).await;
        self.finish().await;
    }

    /// The target takes everything again; what was set aside meanwhile is retried by its operator. Answers whether it was:
    /// while an export is loaded it is not.
    async fn cure(&mut self) -> bool {
        self.kill().await;
        self.short_lives = 0;
        self.poison.store(false, Ordering::Relaxed);
        self.world.sandbox.set_poison_attribute(TARGET, REGION, COPY, None);
        if !self.world.plan.settings.dead_letters {
            self.world.court.judge().poison.clear();
            return true;
        }
        let gate = Gate::new();
        let program = self.world.program(&gate, Drift::default());
        match program.retry_dead_letters(&[]).await {
            Ok(report) => self.say(|| format!("--- {} dead letters are gone", report.retried)),
            // Its operator begins anew, and what was set aside is gone with the state.
            Err(error) if error.exit == Exit::Lost && self.world.plan.family == Family::Recreated => {
                self.world.begin_anew();
            }
            Err(error) if error.exit == Exit::Precondition && self.world.court.judge().loads_export() => return false,
            Err(error) => {
                let text = error::chain(&error);
                self.violated("C8", format!("dead letters cannot be retried: {text}"));
            }
        }
        self.world.court.judge().poison.clear();
        true
    }

    /// The last look: equality, and a clean end.
    pub(super) async fn finish(&mut self) {
        let source = self.world.sandbox.snapshot(SOURCE, REGION, TABLE).unwrap_or_default();
        let target = self.world.sandbox.snapshot(TARGET, REGION, COPY).unwrap_or_default();
        if source != target {
            let owed = |key: &[u8]| !self.world.court.judge().truth.is_forgotten(key);
            let differing = source.iter().filter(|(key, item)| target.get(*key) != Some(item) && owed(key)).count();
            let extra = target.keys().filter(|key| !source.contains_key(*key) && owed(key)).count();
            if differing + extra > 0 {
                self.violated(
                    "C1",
                    format!("{differing} items of the source are not at the target, {extra} are there alone"),
                );
            }
            let now = self.now();
            self.world.court.judge().check_equal(now);
        }
        self.stop(None).await;
        let state = self.world.store().read(LINK).await.unwrap_or_default();
        if !state.link.as_ref().is_some_and(|link| link.clean) {
            self.violated("C8", "after a drained stop the link is not clean".to_owned());
        }
        if self.loses_history && state.gaps.is_empty() {
            self.violated("C5", format!("{:?} left no gap", self.world.plan.family));
        }
    }

    fn is_certain(&self) -> bool {
        let status = self.status();
        status.is_some_and(|status| status.gaps.is_empty() && status.in_doubt == 0 && status.lag_known)
    }

    /// Waits until this holds, with a process that is kept running.
    async fn until(&mut self, longest: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let mut nothing = Actor::idle();
        let mut waited = Duration::ZERO;
        let mut step = SECOND;
        while waited < longest {
            if holds(self) {
                return true;
            }
            self.supervise(&mut nothing, None, tokio::time::sleep(step)).await;
            waited += step;
            step = (step * 2).min(10 * SECOND);
        }
        holds(self)
    }
}
