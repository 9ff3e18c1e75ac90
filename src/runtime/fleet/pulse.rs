//! The signs of life of this worker, given apart from all work.
//!
//! In a real process they have a thread, a runtime and connections of their own, so that no work of any kind delays them;
//! under an injected HTTP client, as in a simulation, they are a task among the others. Each attempt is short, and is tried
//! again at once in a way; a sign keeps its number until it is answered, and counts from when it was first begun.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::balance::Peer;
use super::roster::Roster;
use crate::checkpoint::lease::{LeaseTimes, Moment, Session};
use crate::checkpoint::{Pulses, Sign, StoreError};
use crate::context::Context;
use crate::error::{Error, Exit, Result, chain};
use crate::model::WallTime;
use crate::runtime::board::Snapshot;
use crate::telemetry::{Metrics, Phase};

/// A table is gone when it is not found so often in a row.
const MISSES: u32 = 4;
/// A worker that gave no sign for so long, by our clock, is removed from the table.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// What saying good-bye may take.
const GOOD_BYE_WITHIN: Duration = Duration::from_secs(1);

/// What a worker tells of its links with each sign, for `status` on any machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerReport {
    /// Of the links and parts that it holds.
    pub(crate) links: BTreeMap<String, LinkMark>,
    /// How many links it holds, those that it is opening counted.
    #[serde(default)]
    pub(crate) has: usize,
    /// For how many it waits.
    #[serde(default)]
    pub(crate) waits: usize,
    /// Whether it works on parts of links.
    #[serde(default)]
    pub(crate) shares: bool,
    /// Whether it is a command, which takes links whole and is gone soon.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_command: bool,
    /// The link that it would like to have from a worker that has more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) asks: Option<String>,
    /// Of the links that it could not open, or that failed under it: why, and what to try.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) failed: BTreeMap<String, String>,
}

/// One link, as its worker sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkMark {
    pub(crate) phase: Phase,
    pub(crate) applied: Option<WallTime>,
    pub(crate) checkpointed: Option<WallTime>,
    pub(crate) deadline: WallTime,
    /// Gaps that are open.
    #[serde(default)]
    pub(crate) open_gaps: usize,
    /// Keys in doubt.
    #[serde(default)]
    pub(crate) in_doubt: usize,
}

impl LinkMark {
    /// What is known of a link now.
    pub(crate) fn of(now: &Snapshot) -> Self {
        Self {
            phase: now.phase,
            applied: now.watermarks.applied,
            checkpointed: now.watermarks.checkpointed,
            deadline: now.retention_deadline,
            open_gaps: now.books.open_gaps.len(),
            in_doubt: now.books.doubts,
        }
    }
}

/// How the pulse beats, and how it reaches its table.
pub(crate) struct PulseSetup {
    pub(crate) connect: BoxFuture<'static, Result<Arc<dyn Pulses>>>,
    pub(crate) context: Context,
    pub(crate) times: LeaseTimes,
    pub(crate) report: Arc<dyn Fn() -> WorkerReport + Send + Sync>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) metrics: Metrics,
    /// Whether it has a thread of its own.
    pub(crate) apart: bool,
}

#[derive(Debug, Clone)]
enum Vitals {
    /// No session now; there will be one.
    Waiting,
    Live(Arc<Session>),
    /// There is none as long as this is so.
    Dead(Arc<str>),
}

/// The vitals, for all links to look at. Those that wait for a change hear of it in the order in which they came; tokio's
/// `watch` wakes them in an order of its own, which would make no two runs of a simulation the same.
#[derive(Debug)]
struct Watched {
    vitals: Mutex<Vitals>,
    changed: Notify,
}

impl Watched {
    fn new() -> Arc<Self> {
        Arc::new(Self { vitals: Mutex::new(Vitals::Waiting), changed: Notify::new() })
    }

    fn now(&self) -> Vitals {
        self.vitals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, vitals: Vitals) -> Vitals {
        let before = std::mem::replace(&mut *self.vitals.lock().unwrap_or_else(PoisonError::into_inner), vitals);
        self.changed.notify_waiters();
        before
    }
}

/// However the signs end, nobody waits for another one.
struct Ending(Arc<Watched>);

impl Drop for Ending {
    fn drop(&mut self) {
        match self.0.now() {
            // It says more of why.
            Vitals::Dead(_) => return,
            Vitals::Live(session) => session.end(),
            Vitals::Waiting => {}
        }
        self.0.replace(Vitals::Dead("the signs of life ended".into()));
    }
}

/// The signs of life. Dropping it ends them without a good-bye.
pub(crate) struct Pulse {
    vitals: Arc<Watched>,
    stop: CancellationToken,
    ended: watch::Receiver<bool>,
    context: Context,
    _task: Option<AbortOnDropHandle<()>>,
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Pulse {
    /// Begins.
    pub(crate) fn start(setup: PulseSetup) -> Result<Self> {
        let vitals = Watched::new();
        let (ending, ended) = watch::channel(false);
        let stop = CancellationToken::new();
        let (context, apart, token) = (setup.context.clone(), setup.apart, stop.clone());
        let last = Ending(Arc::clone(&vitals));
        let watched = Arc::clone(&vitals);
        let beat = async move {
            Box::pin(run(setup, watched, token)).await;
            drop(last);
            ending.send_replace(true);
        };
        let mut task = None;
        if apart {
            let fail = |error| Error::new(Exit::Unexpected, "start the thread for signs of life").because(error);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
            let thread = std::thread::Builder::new().name("dynaferry-pulse".to_owned());
            // Ends by itself: when it is told to stop, or with the process.
            drop(thread.spawn(move || runtime.block_on(beat)).map_err(fail)?);
        } else {
            #[expect(clippy::disallowed_methods, reason = "its handle is kept below, and aborts it")]
            let spawned = tokio::spawn(beat);
            task = Some(AbortOnDropHandle::new(spawned));
        }
        Ok(Self { vitals, stop, ended, context, _task: task })
    }

    /// A session that lives now. Waits for one as long as the table does not answer.
    pub(crate) async fn session(&self) -> Result<Arc<Session>> {
        loop {
            // Before the look, or a change between the two would be missed.
            let changed = self.vitals.changed.notified();
            match self.vitals.now() {
                Vitals::Live(session) if session.is_live(Moment::now(&self.context)) => return Ok(session),
                Vitals::Dead(why) => {
                    return Err(Error::new(Exit::Precondition, "give signs of life to other workers")
                        .hint("is the state table there, and may it be written? see config/policies/state.json")
                        .because(why.to_string()));
                }
                Vitals::Live(_) | Vitals::Waiting => {}
            }
            changed.await;
        }
    }

    /// The last sign was given: removes the row, so that nobody waits for it.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        let mut ended = self.ended.clone();
        let waiting = ended.wait_for(|ended| *ended);
        let _late = tokio::time::timeout(GOOD_BYE_WITHIN * 2, waiting).await.is_err();
    }
}

async fn run(setup: PulseSetup, vitals: Arc<Watched>, stop: CancellationToken) {
    let PulseSetup { connect, context, times, report, roster, metrics, .. } = setup;
    let pulses = tokio::select! {
        () = stop.cancelled() => return,
        pulses = connect => match pulses {
            Ok(pulses) => pulses,
            Err(error) => {
                vitals.replace(Vitals::Dead(chain(&error).into()));
                return;
            }
        },
    };
    let mut beating = Beating {
        pulses,
        context,
        times,
        report,
        roster,
        metrics,
        vitals,
        counter: 0,
        first: true,
        census: Census::default(),
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = Box::pin(beating.beat()) => {}
    }
    if let Vitals::Live(session) = beating.vitals.now() {
        session.end();
    }
    let good_bye = beating.pulses.forget(beating.context.worker(), beating.counter);
    let _unheard = tokio::time::timeout(GOOD_BYE_WITHIN, good_bye).await.is_err();
}

struct Beating {
    pulses: Arc<dyn Pulses>,
    context: Context,
    times: LeaseTimes,
    report: Arc<dyn Fn() -> WorkerReport + Send + Sync>,
    roster: Arc<Roster>,
    metrics: Metrics,
    vitals: Arc<Watched>,
    /// Of the last sign that was answered.
    counter: u64,
    /// There is no row of ours, as far as we know.
    first: bool,
    census: Census,
}

impl Beating {
    /// Until it is dropped.
    async fn beat(&mut self) {
        let mut misses = 0;
        let mut begun: Option<Moment> = None;
        loop {
            // A number that was not answered counts from its first attempt: that one may be what others see.
            let sent = *begun.get_or_insert_with(|| Moment::now(&self.context));
            let report = self.roster.complete((self.report)());
            let report = serde_json::to_string(&report).unwrap_or_default();
            let worker = self.context.worker().to_owned();
            let sign =
                Sign { worker, counter: self.counter + 1, lease: self.times.lease, at: self.context.now(), report };
            let attempt = tokio::time::timeout(self.times.attempt(), self.pulses.give(&sign, self.first)).await;
            let failure = match attempt {
                Ok(Ok(true)) => {
                    (self.counter, self.first, begun, misses) = (sign.counter, false, None, 0);
                    self.answered(sent);
                    // Housekeeping, which must not delay a sign.
                    let next = sent.monotonic + self.times.beat_every();
                    let _cut_off = tokio::time::timeout_at(next, self.count()).await.is_err();
                    tokio::time::sleep_until(sent.monotonic + self.times.beat_every()).await;
                    continue;
                }
                Ok(Ok(false)) => {
                    // Our row was removed, or it never was: whoever did that takes us for dead. Or the table is an older one,
                    // restored from its backups.
                    self.lose_session();
                    begun = None;
                    self.find_own_row().await;
                    "our row is gone, or not as it was left".to_owned()
                }
                Ok(Err(StoreError::Gone { place })) if misses + 1 >= MISSES => {
                    self.lose_session();
                    let gone = StoreError::Gone { place }.to_string();
                    self.vitals.replace(Vitals::Dead(gone.as_str().into()));
                    // It may be restored from its backups while other links of this process go on.
                    begun = None;
                    gone
                }
                Ok(Err(error)) => {
                    misses = if matches!(error, StoreError::Gone { .. }) { misses + 1 } else { 0 };
                    chain(&error)
                }
                Err(_) => "no answer in time".to_owned(),
            };
            tracing::warn!(error = failure, "a sign of life was not taken, trying again");
            tokio::time::sleep(self.times.attempt().mul_f64(0.1 + 0.2 * self.context.draw())).await;
        }
    }

    /// Goes on from the number that the table has, whatever ours is; the next sign begins a new session.
    async fn find_own_row(&mut self) {
        self.first = true;
        let looking = tokio::time::timeout(self.times.attempt(), self.pulses.signs());
        let Ok(Ok(signs)) = looking.await else { return };
        if let Some(own) = signs.iter().find(|sign| sign.worker == self.context.worker()) {
            (self.counter, self.first) = (own.counter, false);
        }
    }

    fn answered(&self, sent: Moment) {
        let now = Moment::now(&self.context);
        let lives_on = match self.vitals.now() {
            Vitals::Live(session) => session.confirmed(sent, now),
            Vitals::Waiting | Vitals::Dead(_) => false,
        };
        if !lives_on {
            let session = Session::begin(self.times, sent, now).map(Arc::new);
            self.vitals.replace(session.map_or(Vitals::Waiting, Vitals::Live));
        }
    }

    fn lose_session(&self) {
        if let Vitals::Live(session) = self.vitals.replace(Vitals::Waiting) {
            session.end();
        }
    }

    /// Counts the workers, and removes those that are long gone.
    async fn count(&mut self) {
        let Ok(Ok(signs)) = tokio::time::timeout(self.times.attempt(), self.pulses.signs()).await else { return };
        let now = Instant::now();
        let gone = self.census.see(&signs, now);
        self.metrics.workers(self.census.alive(self.times.lease, now));
        let others = signs.iter().filter(|sign| sign.worker != self.context.worker());
        let alive = others.filter(|sign| self.census.is_alive(&sign.worker, self.times.lease, now));
        let alive: Vec<(&Sign, WorkerReport)> =
            alive.map(|sign| (sign, serde_json::from_str(&sign.report).unwrap_or_default())).collect();
        self.roster.hear(alive.iter().map(|(_, report)| report));
        self.roster.look(alive.into_iter().map(|(sign, report)| peer(sign, report)).collect());
        // One at a time: the others are found again with the next sign.
        if let Some((worker, counter)) = gone.into_iter().find(|(worker, _)| worker != self.context.worker()) {
            tracing::info!(worker, "a worker that gave no sign for an hour is forgotten");
            let forget = self.pulses.forget(&worker, counter);
            let _later = tokio::time::timeout(self.times.attempt(), forget).await.is_err();
        }
    }
}

/// Pure: the workers by the last time at which their numbers were seen to move.
#[derive(Debug, Default)]
struct Census(BTreeMap<String, (u64, Instant)>);

impl Census {
    /// Answers those that are long gone.
    fn see(&mut self, signs: &[Sign], now: Instant) -> Vec<(String, u64)> {
        self.0.retain(|worker, _| signs.iter().any(|sign| sign.worker == *worker));
        let mut gone = Vec::new();
        for sign in signs {
            let (counter, since) = self.0.entry(sign.worker.clone()).or_insert((sign.counter, now));
            if *counter != sign.counter {
                (*counter, *since) = (sign.counter, now);
            } else if now.duration_since(*since) >= FORGET_AFTER {
                gone.push((sign.worker.clone(), sign.counter));
            }
        }
        gone
    }

    /// How many moved within a lease.
    fn alive(&self, lease: Duration, now: Instant) -> usize {
        self.0.keys().filter(|worker| self.is_alive(worker, lease, now)).count()
    }

    fn is_alive(&self, worker: &str, lease: Duration, now: Instant) -> bool {
        self.0.get(worker).is_some_and(|(_, since)| now.duration_since(*since) < lease)
    }
}

/// What another worker says of its links. An older version may say less, and is then asked for nothing.
fn peer(sign: &Sign, report: WorkerReport) -> Peer {
    let working = report.links.into_iter().filter(|(_, mark)| mark.phase != Phase::Failed);
    let links = working.map(|(link, _)| link).collect();
    Peer { worker: sign.worker.clone(), has: report.has, waits: report.waits, asks: report.asks, links }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table that is away for the first so many signs, and slow to be looked through.
    struct Table {
        away: std::sync::atomic::AtomicU32,
        given: std::sync::Mutex<Vec<Instant>>,
    }

    impl Pulses for Table {
        fn give<'a>(&'a self, _sign: &'a Sign, _first: bool) -> BoxFuture<'a, crate::checkpoint::StoreResult<bool>> {
            use std::sync::atomic::Ordering;
            let is_away =
                self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            self.given.lock().unwrap().push(Instant::now());
            let answer = if is_away { Err(StoreError::Gone { place: "dynamodb:state".into() }) } else { Ok(true) };
            Box::pin(std::future::ready(answer))
        }

        fn signs(&self) -> BoxFuture<'_, crate::checkpoint::StoreResult<Vec<Sign>>> {
            Box::pin(std::future::pending())
        }

        fn forget<'a>(&'a self, _worker: &'a str, _counter: u64) -> BoxFuture<'a, crate::checkpoint::StoreResult<()>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    fn pulse<T: Pulses>(table: &Arc<T>, lease: Duration) -> Pulse {
        let (pulses, context) = (Arc::clone(table) as Arc<dyn Pulses>, Context::system());
        let setup = PulseSetup {
            connect: Box::pin(std::future::ready(Ok(pulses))),
            roster: Arc::new(Roster::new(context.clone(), lease, true, false)),
            context,
            times: LeaseTimes { lease },
            report: Arc::new(WorkerReport::default),
            metrics: Metrics::new(),
            apart: false,
        };
        Pulse::start(setup).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_that_was_away_and_is_restored_is_given_signs_again() {
        let table = Arc::new(Table { away: 6.into(), given: std::sync::Mutex::default() });
        let pulse = pulse(&table, Duration::from_secs(20));
        let mut failures = 0;
        while pulse.session().await.is_err() {
            failures += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(failures < 1000, "never again");
        }
        assert!(failures > 0, "whoever asks meanwhile hears that the table is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_that_is_slow_to_be_looked_through_delays_no_sign() {
        // So short that a look may take longer than a beat.
        let lease = Duration::from_secs(2);
        let table = Arc::new(Table { away: 0.into(), given: std::sync::Mutex::default() });
        let _pulse = pulse(&table, lease);
        tokio::time::sleep(lease * 4).await;
        let given = table.given.lock().unwrap().clone();
        let longest = given.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest <= lease / 5 + Duration::from_millis(5), "{longest:?}");
    }

    /// A table that was restored from a backup: it knows a sign of ours, and not the last.
    struct Restored(std::sync::Mutex<Option<Sign>>);

    impl Pulses for Restored {
        fn give<'a>(&'a self, sign: &'a Sign, first: bool) -> BoxFuture<'a, crate::checkpoint::StoreResult<bool>> {
            let mut row = self.0.lock().unwrap();
            let may_be = row.as_ref().map_or(first, |row| !first && row.counter + 1 == sign.counter);
            if may_be {
                *row = Some(sign.clone());
            }
            Box::pin(std::future::ready(Ok(may_be)))
        }

        fn signs(&self) -> BoxFuture<'_, crate::checkpoint::StoreResult<Vec<Sign>>> {
            Box::pin(std::future::ready(Ok(self.0.lock().unwrap().iter().cloned().collect())))
        }

        fn forget<'a>(&'a self, _worker: &'a str, _counter: u64) -> BoxFuture<'a, crate::checkpoint::StoreResult<()>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn signs_go_on_from_the_number_that_a_restored_table_has() {
        let lease = Duration::from_secs(20);
        let table = Arc::new(Restored(std::sync::Mutex::default()));
        let pulse = pulse(&table, lease);
        let before = pulse.session().await.unwrap();
        tokio::time::sleep(lease * 2).await;
        let counter = || table.0.lock().unwrap().as_ref().map_or(0, |row| row.counter);
        assert!(counter() > 8);
        table.0.lock().unwrap().as_mut().unwrap().counter = 3;
        tokio::time::sleep(lease).await;
        assert!((4..9).contains(&counter()), "{}", counter());
        let after = tokio::time::timeout(lease, pulse.session()).await.expect("a session again").unwrap();
        assert!(!Arc::ptr_eq(&before, &after), "whoever looked meanwhile saw no sign of the old one");
    }

    fn sign(worker: &str, counter: u64) -> Sign {
        let (lease, at) = (Duration::from_secs(20), WallTime::from_secs(0));
        Sign { worker: worker.into(), counter, lease, at, report: String::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn workers_are_counted_by_their_moves_and_forgotten_after_an_hour() {
        let base = Instant::now();
        let at = |secs| base + Duration::from_secs(secs);
        let mut census = Census::default();
        let lease = Duration::from_secs(15);
        assert!(census.see(&[sign("a", 1), sign("b", 1)], at(0)).is_empty());
        assert_eq!(census.alive(lease, at(0)), 2);
        census.see(&[sign("a", 2), sign("b", 1)], at(10));
        assert_eq!(census.alive(lease, at(20)), 1);
        assert_eq!(census.see(&[sign("a", 3), sign("b", 1)], at(3600)), [("b".to_owned(), 1)]);
        census.see(&[sign("a", 4)], at(3601));
        assert_eq!(census.alive(lease, at(3602)), 1);
    }
}
