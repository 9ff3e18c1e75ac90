//! The target refuses everything for hours, then the process is away: each alone is shorter than what a stream keeps, and
//! both together are not. What was read in time is trimmed before it is written.

use std::sync::Arc;
use std::time::Duration;

use dynaferry::context::WallClock as _;
use dynaferry::sandbox::{FaultKind, FaultRule, Trigger};

use super::acts::Actor;
use super::{HOUR, MINUTE, Run, SECOND};
use crate::clocks::ProcessClock;
use crate::plan::{Episode, Family};
use crate::state::StateFaults;
use crate::world::{REGION, SOURCE, TABLE, TARGET};

/// The knob that brings it.
pub(crate) const KNOB: &str = "target.away_for_hours";
/// A process that polls more often than this would take a minute over it.
const SLOW: Duration = Duration::from_secs(20);
/// A clock that is off by more may be refused, in milliseconds: five minutes, and what a poll takes.
const REFUSED_OFF: u64 = 290_000;

impl Run {
    /// What draws it, if it comes after this episode.
    pub(super) fn outage_of(&self, episode: usize) -> Option<fastrand::Rng> {
        let plan = &self.world.plan;
        let knob = plan.stage(KNOB)?;
        let mut random = fastrand::Rng::with_seed(knob.seed);
        let is_chosen = random.usize(0..plan.episodes.len()) == episode;
        let may_be = plan.family != Family::Long && plan.settings.poll_max >= SLOW;
        (is_chosen && may_be).then_some(random)
    }

    /// The target refuses everything for some minutes, and the source writes more big items than may be read ahead.
    pub(super) async fn fill_look_ahead(&mut self, episode: Episode) {
        let poll = self.world.plan.settings.poll_max;
        self.supervise(&mut Actor::idle(), None, tokio::time::sleep(poll * 3)).await;
        self.world.set_faults(vec![nothing_is_taken()]);
        (0..4).for_each(|_| self.writer.change_each());
        self.supervise(&mut Actor::idle(), None, tokio::time::sleep(poll * 3 + 30 * SECOND)).await;
        self.world.set_faults(Vec::new());
        if episode.has_faults {
            self.turn_on();
        }
    }

    pub(super) async fn target_is_away(&mut self, episode: Episode, mut random: fastrand::Rng) {
        let poll = self.world.plan.settings.poll_max;
        self.world.trouble.set(StateFaults::default());
        self.world.set_faults(Vec::new());
        self.supervise(&mut Actor::idle(), None, tokio::time::sleep(poll * 6)).await;
        if random.bool() {
            // Where nothing of a shard is settled, nothing tells what is trimmed of it.
            drop(self.world.sandbox.roll_shards(SOURCE, REGION, TABLE));
            self.supervise(&mut Actor::idle(), None, tokio::time::sleep(poll * 6)).await;
        }
        self.world.set_faults(vec![nothing_is_taken()]);
        self.writer.change_each();
        self.world.court.judge().fault(KNOB);
        let away = HOUR.mul_f64(1.6 + 0.6 * random.f64());
        self.say(|| format!("... the target is away for {away:?}"));
        self.supervise(&mut Actor::idle(), None, tokio::time::sleep(away)).await;
        self.kill().await;
        self.world.set_faults(Vec::new());
        self.stay_away(24 * HOUR + HOUR.mul_f64(0.1 + 0.3 * random.f64()) - away, 3).await;
        // Now, not at the end: a later outage may heal what this one did.
        let time = poll * 6 + self.world.plan.settings.discovery * 2 + 10 * MINUTE;
        self.supervise(&mut Actor::idle(), None, tokio::time::sleep(time)).await;
        let clock = ProcessClock { world: Arc::clone(&self.world.clock), drift: self.drift };
        let off = clock.now().millis().abs_diff(self.now().millis());
        // A process whose clock is refused never looked.
        if off < REFUSED_OFF || !self.world.plan.world().check_request_time {
            let now = self.now();
            self.world.court.judge().check_losses(now);
        }
        if episode.has_faults {
            self.turn_on();
        }
    }
}

/// A throttle, which leaves no key in doubt: who has a list of keys to be written again has no need of the stream.
fn nothing_is_taken() -> FaultRule {
    let throttle = FaultKind::Throttle("ThrottlingException".to_owned());
    FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), throttle).for_account(TARGET)
}
