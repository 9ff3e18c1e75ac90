//! Time and chance, as arguments.
//!
//! Every driver takes a [`Context`]; nothing else in the crate reads a clock or draws a random number. Monotonic time is
//! `tokio::time::Instant` (a paused runtime makes it virtual), wall time comes from a [`WallClock`], randomness from one
//! seeded generator. A simulation passes its own clock and seed and gets the same run twice.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::WallTime;

/// The wall clock: what time it is for this process. It may jump; never measure a duration with it.
pub trait WallClock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> WallTime;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
    fn now(&self) -> WallTime {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        WallTime::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Wall clock, randomness and the identity of this process. Cheap to clone; clones share the generator.
#[derive(Clone)]
pub struct Context {
    clock: Arc<dyn WallClock>,
    random: Arc<Mutex<fastrand::Rng>>,
    worker: Arc<str>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Context {
    /// The context of a real process: system clock, entropy from the operating system, a fresh worker id.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Arc::new(SystemClock), fastrand::Rng::new())
    }

    /// A context over any clock and generator. The worker id (16 hex digits) is the generator's first draw.
    #[must_use]
    pub fn new(clock: Arc<dyn WallClock>, mut random: fastrand::Rng) -> Self {
        let worker = format!("{:016x}", random.u64(..)).into();
        Self { clock, random: Arc::new(Mutex::new(random)), worker }
    }

    /// The same context by another clock.
    #[must_use]
    pub fn by_clock(&self, clock: Arc<dyn WallClock>) -> Self {
        Self { clock, ..self.clone() }
    }

    /// Wall time now.
    #[must_use]
    pub fn now(&self) -> WallTime {
        self.clock.now()
    }

    /// A random id, new for each process: no lease outlives the process that took it under this name.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// A uniform draw from `[0, 1)`, for jitter.
    #[must_use]
    pub fn draw(&self) -> f64 {
        self.with_random(fastrand::Rng::f64)
    }

    /// A uniform 64-bit draw, for nonces and seeds.
    #[must_use]
    pub fn draw_u64(&self) -> u64 {
        self.with_random(|random| random.u64(..))
    }

    /// Shuffles in place.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        self.with_random(|random| random.shuffle(items));
    }

    fn with_random<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
