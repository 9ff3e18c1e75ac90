//! Whether the worker loops still turn.
//!
//! Each loop holds a [`Heartbeat`] and ticks it once per turn; a loop that has not ticked for [`STALE_AFTER`] is stuck.
//! A loop that waits for something outside must wake up to tick: slowness of AWS is no reason to be killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A loop that has not turned for so long is stuck: longer than any time-out of a request, retries are turns.
pub const STALE_AFTER: Duration = Duration::from_secs(60);

/// The loops of the process. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Heartbeats {
    started: Instant,
    loops: Arc<Mutex<BTreeMap<u64, Loop>>>,
    next_id: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Loop {
    name: Arc<str>,
    last_millis: Arc<AtomicU64>,
}

impl Default for Heartbeats {
    fn default() -> Self {
        Self::new()
    }
}

impl Heartbeats {
    /// No loops.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now(), loops: Arc::default(), next_id: Arc::default() }
    }

    /// A loop of this name begins, and counts as having ticked now. It is watched until the returned value is dropped.
    #[must_use]
    pub fn register(&self, name: impl Into<Arc<str>>) -> Heartbeat {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let last_millis = Arc::new(AtomicU64::new(self.elapsed_millis()));
        let entry = Loop { name: name.into(), last_millis: Arc::clone(&last_millis) };
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
        Heartbeat { heartbeats: self.clone(), id, last_millis }
    }

    /// The loops that are stuck, with the time since their last tick, in the order in which they began.
    #[must_use]
    pub fn stale(&self) -> Vec<(Arc<str>, Duration)> {
        let now = self.elapsed_millis();
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = loops.values().map(|entry| {
            let silent = now.saturating_sub(entry.last_millis.load(Ordering::Relaxed));
            (Arc::clone(&entry.name), Duration::from_millis(silent))
        });
        silent.filter(|(_, silent)| *silent > STALE_AFTER).collect()
    }

    fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// One loop's pulse. Dropping it ends the watch: a loop that has ended is not stuck.
#[derive(Debug)]
pub struct Heartbeat {
    heartbeats: Heartbeats,
    id: u64,
    last_millis: Arc<AtomicU64>,
}

impl Heartbeat {
    /// The loop turned.
    pub fn tick(&self) {
        self.last_millis.store(self.heartbeats.elapsed_millis(), Ordering::Relaxed);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.heartbeats.loops.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
