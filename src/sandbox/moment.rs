//! Time, chance, settings and watchers: what every operation is given.

use super::events::Events;
use super::options::Options;
use crate::model::WallTime;

/// The moment in which something happens.
pub(super) struct Moment {
    /// Never goes back.
    pub(super) now: WallTime,
    pub(super) rng: fastrand::Rng,
    pub(super) options: Options,
    pub(super) events: Events,
}

impl Moment {
    pub(super) fn new(options: Options) -> Self {
        Self {
            now: options.clock.now(),
            rng: fastrand::Rng::with_seed(options.seed),
            events: Events::default(),
            options,
        }
    }
}
