//! A write that outlives its process: the network holds it back for minutes, and it lands while the next process runs and
//! the source is quiet. Whatever nobody remembers of it stays wrong then.

use std::time::Duration;

use dynaferry::sandbox::{FaultKind, FaultRule, Trigger};
use tokio::time::Instant;

use super::acts::Actor;
use super::{MINUTE, Run, SECOND};
use crate::clocks::Drift;
use crate::plan::Episode;
use crate::state::StateFaults;
use crate::world::{REGION, SOURCE, TABLE, TARGET};

/// The knob that brings it.
pub(crate) const KNOB: &str = "write.outlives_process";
/// How often it is looked whether the write was sent.
const LOOK: Duration = Duration::from_millis(100);

/// Which write it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Of the load: the first of all.
    Load,
    /// Of the stream.
    Stream,
    /// Of a sync: what an earlier one left in doubt is due, and nothing else is written.
    Sync,
}

/// How the process ends that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Killed before it gave up waiting.
    Killed,
    /// Told to stop, with less time than it waits for an answer.
    Stopped,
    /// Told to stop when it had given up, and had sent the write again.
    Drained,
}

impl Run {
    /// The stage of the episode in which it comes, if it comes in this run: before the writing of the first one, or after
    /// that of any.
    pub(super) fn landing_of(&self, episode: usize) -> Option<(fastrand::Rng, bool)> {
        let knob = self.world.plan.stage(KNOB)?;
        let mut random = fastrand::Rng::with_seed(knob.seed);
        let is_of_load = random.bool();
        let chosen = if is_of_load { 0 } else { random.usize(0..self.world.plan.episodes.len()) };
        (chosen == episode).then_some((random, is_of_load))
    }

    pub(super) async fn outlive_process(&mut self, episode: Episode, mut random: fastrand::Rng, is_of_load: bool) {
        // Where other writes fail, their keys are in doubt for that.
        let is_quiet = random.u32(0..8) > 0;
        let held = if is_of_load { Held::Load } else { Held::Stream };
        self.hold_back_and_land(held, is_quiet, &mut random).await;
        if self.status().is_some_and(|status| status.in_doubt > 0) {
            self.hold_back_and_land(Held::Sync, is_quiet, &mut random).await;
        }
        self.drift = episode.drift;
        self.calm_down(!episode.has_faults, Vec::new());
    }

    /// No faults but these, or those of the plan after these.
    fn calm_down(&self, is_quiet: bool, first: Vec<FaultRule>) {
        if is_quiet {
            self.world.trouble.set(StateFaults::default());
            self.world.set_faults(first);
        } else {
            self.turn_on_with(first);
        }
    }

    async fn hold_back_and_land(&mut self, held: Held, is_quiet: bool, random: &mut fastrand::Rng) {
        let settings = self.world.plan.settings;
        let late = settings.in_doubt_for.mul_f64(0.3 + 0.5 * random.f64());
        let kind = FaultKind::TimeOutAndDeliverLate(late);
        let rule = FaultRule::new("BatchWriteItem", Trigger::Next(1), kind).for_account(TARGET);
        let patience = match held {
            Held::Load => 2 * MINUTE,
            Held::Stream => {
                // What came before is applied, as far as it can be.
                self.supervise(&mut Actor::idle(), None, tokio::time::sleep(settings.poll_max * 2)).await;
                self.writer.change_each();
                2 * MINUTE
            }
            Held::Sync => settings.in_doubt_for + MINUTE,
        };
        self.calm_down(is_quiet, vec![rule]);
        let is_sent = self.until_sent(patience).await;
        let lands_at = Instant::now() + late;
        let end = match random.u32(0..4) {
            _ if held == Held::Sync => End::Killed,
            0..2 => End::Killed,
            2 => End::Stopped,
            _ => End::Drained,
        };
        self.say(|| {
            format!("... a write of the {held:?} is held back for {late:?}: {is_sent}, and the process {end:?}")
        });
        self.calm_down(is_quiet, Vec::new());
        if !is_sent {
            return;
        }
        self.world.court.judge().fault(KNOB);
        match end {
            End::Killed => self.kill().await,
            End::Stopped => self.stop(None).await,
            End::Drained => {
                let time = settings.attempt_timeout + SECOND.mul_f64(5.0 * random.f64());
                self.supervise(&mut Actor::idle(), None, tokio::time::sleep(time)).await;
                self.stop(None).await;
                // On another host, whose clock is another one.
                let off = settings.in_doubt_for.min(9 * MINUTE).as_millis() as i64;
                self.drift = Drift { offset_millis: random.i64(-off..=off), ..self.drift };
            }
        }
        if held == Held::Stream && end != End::Drained && random.bool() {
            // What was on the wire is in no stream any more.
            let which = |shard: &str| self.world.court.judge().has_position(shard);
            drop(self.world.sandbox.trim_shards(SOURCE, REGION, TABLE, Duration::ZERO, which));
        }
        let moment = (lands_at - Instant::now()).mul_f64(0.5 * random.f64());
        self.supervise(&mut Actor::idle(), None, tokio::time::sleep(moment)).await;
        self.writer.change_each();
        self.supervise(&mut Actor::idle(), None, tokio::time::sleep_until(lands_at + SECOND)).await;
        // It lands when somebody looks.
        drop(self.world.sandbox.shards(SOURCE, REGION, TABLE));
    }

    /// With a process that is kept running, until a write was held back. Answers whether one was.
    async fn until_sent(&mut self, patience: Duration) -> bool {
        let sandbox = self.world.sandbox.clone();
        let count = move || sandbox.fault_counts().get("error.timeout_then_late_delivery").copied();
        // Before it times out.
        let look = LOOK.min(self.world.plan.settings.attempt_timeout / 4);
        let (before, is_sent) = (count(), std::cell::Cell::new(false));
        let sent = async {
            let until = Instant::now() + patience;
            while Instant::now() < until && !is_sent.get() {
                tokio::time::sleep(look).await;
                is_sent.set(count() != before);
            }
        };
        self.supervise(&mut Actor::idle(), None, sent).await;
        is_sent.get()
    }
}
