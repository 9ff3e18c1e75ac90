//! The clocks of a run: the world's, which goes with tokio's paused one, and a process's, which may be off.

use std::sync::Arc;
use std::time::Duration;

use dynaferry::context::WallClock;
use dynaferry::model::WallTime;

/// When every run begins.
pub(crate) const EPOCH: WallTime = WallTime::from_millis(1_800_000_000_000);

/// AWS's clock.
pub(crate) struct WorldClock {
    started: tokio::time::Instant,
}

impl WorldClock {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self { started: tokio::time::Instant::now() })
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl WallClock for WorldClock {
    fn now(&self) -> WallTime {
        EPOCH.plus(self.elapsed())
    }
}

/// How far a process's wall clock is off: at once, and more with time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Drift {
    pub(crate) offset_millis: i64,
    /// Milliseconds gained an hour.
    pub(crate) millis_per_hour: i64,
}

/// The wall clock of one process.
pub(crate) struct ProcessClock {
    pub(crate) world: Arc<WorldClock>,
    pub(crate) drift: Drift,
}

impl WallClock for ProcessClock {
    fn now(&self) -> WallTime {
        let elapsed = i64::try_from(self.world.elapsed().as_millis()).unwrap_or(i64::MAX);
        let gained = self.drift.millis_per_hour * (elapsed / 1000) / 3600;
        WallTime::from_millis(self.world.now().millis() + self.drift.offset_millis + gained)
    }
}
