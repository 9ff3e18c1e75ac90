//! Time, chance, settings and watchers: what every operation is given.

use super::events::{Event, Events};
use super::faults::FaultKind;
use super::knobs::{Knob, Knobs};
use super::options::Options;
use crate::model::WallTime;

/// The moment in which something happens.
pub(super) struct Moment {
    /// Never goes back.
    pub(super) now: WallTime,
    /// What is drawn whatever the knobs: ids, lives of shards.
    pub(super) rng: fastrand::Rng,
    pub(super) knobs: Knobs,
    pub(super) options: Options,
    pub(super) events: Events,
    /// How the request in hand is to go wrong, if that is for its operation to do.
    pub(super) twist: Option<FaultKind>,
}

impl Moment {
    pub(super) fn new(options: Options) -> Self {
        Self {
            now: options.clock.now(),
            rng: fastrand::Rng::with_seed(options.seed),
            knobs: Knobs::new(options.seed),
            events: Events::default(),
            twist: None,
            options,
        }
    }

    /// Says that something went wrong on purpose.
    pub(super) fn fault(&self, knob: Knob) {
        self.knobs.count(knob);
        self.events.tell(&Event::Fault {
            operation: self.events.by,
            account: &self.events.account,
            kind: knob.name(),
            at: self.now,
        });
    }
}
