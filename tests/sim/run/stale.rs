//! A page of the load whose answer takes long, while the stream goes on: what it carries is stale when it comes. And pages
//! of the stream: that they are empty is no news when they come.

use std::time::Duration;

use dynaferry::sandbox::{FaultKind, FaultRule, Trigger};
use tokio::time::Instant;

use super::acts::Actor;
use super::{MINUTE, Run, SECOND};
use crate::plan::Episode;
use crate::state::StateFaults;
use crate::world::SOURCE;

/// The knob that brings it.
pub(crate) const KNOB: &str = "load.stale_page";
/// Pages that are asked for after it, each answered a little late, too, so that some are open all the time.
const OTHERS: u32 = 40;
/// Longer than AWS's clock is uncertain, and than creation times are.
const LONG: Duration = Duration::from_secs(3);

impl Run {
    pub(super) async fn load_stale_page(&mut self, episode: Episode) {
        // As long as an attempt may take, or it would be asked for once more.
        let long = self.world.plan.settings.attempt_timeout.mul_f64(0.9);
        let held =
            |count, time| FaultRule::new("Scan", Trigger::Next(count), FaultKind::Hold(time)).for_account(SOURCE);
        self.world.trouble.set(StateFaults::default());
        self.world.set_faults(vec![held(1, long), held(OTHERS, long / 6)]);
        let sandbox = self.world.sandbox.clone();
        let count = move || sandbox.fault_counts().get("answer.slow").copied();
        let before = count();
        let asked = async {
            let until = Instant::now() + 2 * MINUTE;
            while Instant::now() < until && count() == before {
                tokio::time::sleep(long / 20).await;
            }
        };
        self.supervise(&mut Actor::idle(), None, asked).await;
        self.world.court.judge().fault(KNOB);
        self.writer.change_each();
        self.supervise(&mut Actor::idle(), None, tokio::time::sleep(long * 2)).await;
        if long >= LONG {
            self.read_stale_pages(long).await;
        }
        self.world.set_faults(Vec::new());
        if episode.has_faults {
            self.turn_on();
        }
    }

    /// The source changes while an empty page is on its way; what the lag says meanwhile is looked at.
    async fn read_stale_pages(&mut self, long: Duration) {
        let poll = self.world.plan.settings.poll_max;
        let held = FaultRule::new("GetRecords", Trigger::Chance(1.0), FaultKind::Hold(long));
        self.world.set_faults(vec![held]);
        self.supervise(&mut Actor::idle(), None, tokio::time::sleep((poll + long) * 5)).await;
        for _ in 0..4 {
            self.writer.write_now(1);
            for _ in 0..(poll + long * 2).as_secs() {
                self.supervise(&mut Actor::idle(), None, tokio::time::sleep(SECOND)).await;
                self.look();
            }
        }
    }
}
