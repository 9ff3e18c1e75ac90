//! Pure: who may work on a link, from rows and this process's own monotonic clock.
//!
//! A worker gives a sign of life every so often: it counts up a number in a row of its own. A link belongs to the worker
//! whose name is in its head, until another one finds that number unmoved for a whole lease, or the head says that the
//! worker let go. Nobody compares the clocks of two machines.
//!
//! # Why a superseded owner sends nothing
//! The owner stops sending two thirds of a lease after it *began to send* its last sign that was answered
//! ([`Session`]). Who takes over saw that sign, or a later one, no earlier than that, and waits for a whole lease after
//! seeing it, asking with a request that was sent after the lease was over ([`HolderWatch`]). A sign that is answered too
//! late does not count: a session that has lapsed never lives again. So at the take-over the owner has stopped for a
//! third of a lease, which is the margin for clocks that run fast or slow. What it had on the wire is what the taker's
//! books put in doubt, as after an unclean stop of its own; no record beyond the durable dispatch watermark was ever sent.

#[cfg(test)]
mod model_tests;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rows::Fence;
use crate::context::Context;
use crate::model::WallTime;

/// How long things last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseTimes {
    pub(crate) lease: Duration,
}

impl LeaseTimes {
    /// From one sign of life to the next. Three may fail before the owner has to stop.
    pub(crate) fn beat_every(self) -> Duration {
        self.lease / 5
    }

    /// The owner stops so long after its last sign.
    pub(crate) fn stop_after(self) -> Duration {
        self.lease * 2 / 3
    }

    /// One attempt at a sign.
    pub(crate) fn attempt(self) -> Duration {
        (self.lease / 6).clamp(Duration::from_millis(500), Duration::from_secs(3))
    }
}

/// A moment by both clocks of this process. The monotonic one decides; it may stand still while a machine is suspended,
/// which the other one shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) monotonic: Instant,
    pub(crate) wall: WallTime,
}

impl Moment {
    /// Now.
    pub(crate) fn now(context: &Context) -> Self {
        Self { monotonic: Instant::now(), wall: context.now() }
    }
}

/// A time without a break in which this worker's signs were answered in time. Lapsed once, lapsed for ever.
#[derive(Debug)]
pub(crate) struct Session {
    times: LeaseTimes,
    /// When the last sign that was answered was begun; `None`: lapsed.
    last: Mutex<Option<Moment>>,
    lapsed: CancellationToken,
}

impl Session {
    /// Begins with a sign that was answered now. `None`: its time was over before that.
    pub(crate) fn begin(times: LeaseTimes, sent: Moment, now: Moment) -> Option<Self> {
        let session = Self { times, last: Mutex::new(Some(sent)), lapsed: CancellationToken::new() };
        session.is_live(now).then_some(session)
    }

    fn last(&self) -> MutexGuard<'_, Option<Moment>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sign was answered. False: too late, the session has lapsed.
    pub(crate) fn confirmed(&self, sent: Moment, now: Moment) -> bool {
        let mut last = self.last();
        if !self.check(&mut last, now) {
            return false;
        }
        if last.is_some_and(|last| last.monotonic < sent.monotonic) {
            *last = Some(sent);
        }
        self.check(&mut last, now)
    }

    /// Whether something may be sent now.
    pub(crate) fn is_live(&self, now: Moment) -> bool {
        self.check(&mut self.last(), now)
    }

    fn check(&self, last: &mut Option<Moment>, now: Moment) -> bool {
        let is_live = last.is_some_and(|last| {
            let is_suspended = now.wall.since(last.wall) > self.times.lease;
            now.monotonic.saturating_duration_since(last.monotonic) <= self.times.stop_after() && !is_suspended
        });
        if !is_live {
            *last = None;
            self.lapsed.cancel();
        }
        is_live
    }

    /// Ends it: nothing is sent any more.
    pub(crate) fn end(&self) {
        *self.last() = None;
        self.lapsed.cancel();
    }

    /// When it lapses, should no further sign be answered. It has lapsed: now.
    fn deadline(&self) -> Instant {
        self.last().map_or_else(Instant::now, |last| last.monotonic + self.times.stop_after())
    }

    /// Resolves when it lapsed.
    pub(crate) async fn lapse(&self, context: &Context) {
        while self.is_live(Moment::now(context)) {
            tokio::select! {
                () = self.lapsed.cancelled() => return,
                // At its end it still lives.
                () = tokio::time::sleep_until(self.deadline() + Duration::from_millis(1)) => {}
            }
        }
    }
}

/// A link and its holder, as their rows say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sighting {
    /// The last owner; `None`: nobody took the link yet.
    pub fence: Option<Fence>,
    /// It let go of the link.
    pub released: bool,
    /// Its number, where it was asked for; `Some(None)`: it has no row.
    pub counter: Option<Option<u64>>,
    /// How long it may be taken to live, where its row says so.
    pub lease: Option<Duration>,
}

/// What a worker without the link does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chance {
    /// Nobody holds it: it may be taken from whom was seen.
    Free,
    /// Its holder gave no sign for a whole lease.
    Expired,
    /// Somebody holds it. `is_alive`: and was seen to live, not only to be named.
    Held { is_alive: bool },
}

/// Watches the holder of one link.
#[derive(Debug)]
pub(crate) struct HolderWatch {
    lease: Duration,
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    fence: Fence,
    /// `None`: not asked for yet.
    counter: Option<Option<u64>>,
    /// The longer one of its lease and ours.
    lease: Duration,
    /// Not before this did the number become what it is, as far as we know.
    since: Instant,
    has_moved: bool,
}

impl HolderWatch {
    pub(crate) const fn new(lease: Duration) -> Self {
        Self { lease, seen: None }
    }

    /// The rows were asked for and answered at these times. `worker` is this worker.
    pub(crate) fn look(&mut self, sighting: &Sighting, asked: Instant, answered: Instant, worker: &str) -> Chance {
        let Some(fence) = sighting.fence.as_ref().filter(|fence| !sighting.released && fence.owner != worker) else {
            self.seen = None;
            return Chance::Free;
        };
        let lease = self.lease.max(sighting.lease.unwrap_or_default());
        let Some(seen) = self.seen.as_mut().filter(|seen| seen.fence == *fence) else {
            let (fence, counter) = (fence.clone(), sighting.counter);
            self.seen = Some(Seen { fence, counter, lease, since: answered, has_moved: false });
            return Chance::Held { is_alive: false };
        };
        seen.lease = seen.lease.max(lease);
        if let Some(counter) = sighting.counter {
            if seen.counter != Some(counter) {
                seen.has_moved = seen.counter.is_some() && counter.is_some();
                (seen.counter, seen.since) = (Some(counter), answered);
            } else if asked.saturating_duration_since(seen.since) >= seen.lease {
                return Chance::Expired;
            }
        }
        Chance::Held { is_alive: seen.has_moved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);
    const TIMES: LeaseTimes = LeaseTimes { lease: LEASE };

    fn moment(base: Instant, secs: u64) -> Moment {
        let after = Duration::from_secs(secs);
        Moment { monotonic: base + after, wall: WallTime::from_secs(1_000).plus(after) }
    }

    fn held(counter: u64) -> Sighting {
        let fence = Fence { owner: "other".into(), epoch: 3 };
        Sighting { fence: Some(fence), released: false, counter: Some(Some(counter)), lease: Some(LEASE) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_lives_for_two_thirds_of_a_lease_after_its_last_sign_was_begun() {
        let base = Instant::now();
        let session = Session::begin(TIMES, moment(base, 0), moment(base, 4)).unwrap();
        assert!(session.is_live(moment(base, 10)));
        assert!(session.confirmed(moment(base, 8), moment(base, 10)));
        assert!(session.is_live(moment(base, 18)) && !session.lapsed.is_cancelled());
        assert!(!session.is_live(moment(base, 19)) && session.lapsed.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_lapsed_never_lives_again() {
        let base = Instant::now();
        let session = Session::begin(TIMES, moment(base, 0), moment(base, 0)).unwrap();
        // Nobody looked in between; the answer came too late all the same.
        assert!(!session.confirmed(moment(base, 9), moment(base, 11)));
        assert!(!session.is_live(moment(base, 11)));
        assert!(!session.confirmed(moment(base, 11), moment(base, 11)));
        assert!(Session::begin(TIMES, moment(base, 0), moment(base, 11)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_was_suspended_has_lost_its_session() {
        let base = Instant::now();
        let session = Session::begin(TIMES, moment(base, 0), moment(base, 0)).unwrap();
        let awake = Moment { monotonic: base + Duration::from_secs(1), wall: WallTime::from_secs(1_016) };
        assert!(!session.is_live(awake));
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_expires_when_its_number_stood_still_for_a_lease_by_our_own_clock() {
        let base = Instant::now();
        let at = |secs| base + Duration::from_secs(secs);
        let mut watch = HolderWatch::new(LEASE);
        assert_eq!(watch.look(&held(7), at(0), at(1), "me"), Chance::Held { is_alive: false });
        assert_eq!(watch.look(&held(8), at(10), at(11), "me"), Chance::Held { is_alive: true });
        assert_eq!(watch.look(&held(8), at(25), at(60), "me"), Chance::Held { is_alive: true }, "asked too early");
        assert_eq!(watch.look(&held(8), at(26), at(60), "me"), Chance::Expired);
        assert_eq!(watch.look(&held(9), at(70), at(71), "me"), Chance::Held { is_alive: true }, "it lives after all");
    }

    #[tokio::test(start_paused = true)]
    async fn another_holder_is_watched_from_its_first_sight_on() {
        let base = Instant::now();
        let at = |secs| base + Duration::from_secs(secs);
        let mut watch = HolderWatch::new(LEASE);
        watch.look(&held(7), at(0), at(0), "me");
        let mut other = held(7);
        other.fence = Some(Fence { owner: "third".into(), epoch: 4 });
        assert_eq!(watch.look(&other, at(15), at(15), "me"), Chance::Held { is_alive: false });
        assert_eq!(watch.look(&other, at(29), at(29), "me"), Chance::Held { is_alive: false });
        assert_eq!(watch.look(&other, at(30), at(30), "me"), Chance::Expired);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_with_a_longer_lease_has_that_one() {
        let base = Instant::now();
        let at = |secs| base + Duration::from_secs(secs);
        let mut watch = HolderWatch::new(LEASE);
        let patient = Sighting { lease: Some(LEASE * 2), ..held(7) };
        watch.look(&patient, at(0), at(0), "me");
        assert_eq!(watch.look(&patient, at(29), at(29), "me"), Chance::Held { is_alive: false });
        assert_eq!(watch.look(&patient, at(30), at(30), "me"), Chance::Expired);
        let hasty = Sighting { lease: Some(LEASE / 2), ..held(8) };
        watch.look(&hasty, at(40), at(40), "another");
        assert_eq!(watch.look(&hasty, at(50), at(50), "another"), Chance::Held { is_alive: true });
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_nobody_holds_is_free_at_once() {
        let now = Instant::now();
        let mut watch = HolderWatch::new(LEASE);
        assert_eq!(watch.look(&Sighting::default(), now, now, "me"), Chance::Free);
        assert_eq!(watch.look(&Sighting { released: true, ..held(7) }, now, now, "me"), Chance::Free);
        assert_eq!(watch.look(&held(7), now, now, "other"), Chance::Free, "a former self");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_without_the_number_decides_nothing() {
        let base = Instant::now();
        let at = |secs| base + Duration::from_secs(secs);
        let mut watch = HolderWatch::new(LEASE);
        let silent = Sighting { counter: None, ..held(0) };
        watch.look(&silent, at(0), at(0), "me");
        assert_eq!(watch.look(&silent, at(100), at(100), "me"), Chance::Held { is_alive: false });
        assert_eq!(watch.look(&held(7), at(100), at(100), "me"), Chance::Held { is_alive: false });
        assert_eq!(watch.look(&held(8), at(101), at(101), "me"), Chance::Held { is_alive: true });
        assert_eq!(watch.look(&silent, at(200), at(200), "me"), Chance::Held { is_alive: true });
    }
}
