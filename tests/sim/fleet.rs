//! Several workers and a link or a few, with their state in a table: who may write a target, how links change hands and
//! spread over the workers, and that nothing is lost or old when all is quiet again (C6).
//!
//! Where the workers share the shards of a link, it is divided before most episodes, and each key is one part's (`parts`).
//!
//! The workers are whole programs, each behind a gate and a clock of its own. The table of their state lies in the
//! sandbox, so every knob that troubles calls troubles it, too.

mod parts;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use dynaferry::context::WallClock as _;
use dynaferry::error::{self, Error};
use dynaferry::runtime::Program;
use dynaferry::sandbox::{Event, FaultKind, FaultRule, Item, Sandbox, Trigger, Value};
use dynaferry::telemetry::Phase;
use dynaferry::telemetry::status::LinkStatus;
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clocks::Drift;
use crate::gate::Gate;
use crate::knobs::calm;
use crate::plan::{Episode, Family, Plan, Writing};
use crate::run::{Outcome, is_bug, rules};
use crate::trace::Trace;
use crate::workload::Writer;
use crate::world::{Names, REGION, SOURCE, STATE, TARGET, World};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Of each worker: the shortest that the configuration takes.
pub(crate) const LEASE: Duration = Duration::from_secs(5);
/// How long a write may be on its way; a freeze and a late delivery together are shorter.
pub(crate) const IN_DOUBT_FOR: Duration = Duration::from_secs(120);
/// What a hand-over without a replay may take, and what a take-over may take beyond the lease.
const HAND_OVER: Duration = Duration::from_secs(1);
const TAKE_OVER: Duration = Duration::from_secs(2);
/// Within this after the last fault the lag is small again (C8).
const RECOVERY: Duration = Duration::from_secs(600);
const MOST_SHARDS: usize = 60;
/// The share of writes that the target refuses while a backlog grows.
const THROTTLED: f64 = 0.9;
/// Within this the links are spread evenly over the workers that there are (one where a link failed does not ask for it for
/// a quarter of an hour); then none moves for so long.
const EVEN: Duration = Duration::from_secs(18 * 60);
const STILL: Duration = Duration::from_secs(120);

/// A process among others.
struct Worker {
    gate: Arc<Gate>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    program: Arc<Program>,
    name: String,
}

/// Lives through a plan with several workers.
pub(crate) async fn run(plan: Plan, trace: Trace) -> Outcome {
    let mut fleet = Fleet::new(plan, trace);
    fleet.live().await;
    fleet.outcome()
}

struct Fleet {
    world: World,
    links: Vec<Names>,
    writer: Writer,
    /// Of the tables of all links but the first.
    more: Vec<Writer>,
    /// A place for each worker; empty while it is down.
    workers: Vec<Option<Worker>>,
    random: fastrand::Rng,
    outcome: Outcome,
    is_calm: bool,
    /// Whose parts the keys are, where shards are shared.
    keys: Arc<parts::Keys>,
}

impl Fleet {
    fn new(plan: Plan, trace: Trace) -> Self {
        let mut random = fastrand::Rng::with_seed(plan.seed ^ 0xf1ee7);
        let outcome = Outcome { kinds: plan.knobs.iter().map(|knob| knob.kind.name).collect(), ..Outcome::default() };
        let world = World::new(plan, trace);
        let court = world.court.clone();
        world.sandbox.set_observer(Some(Arc::new(move |exchange| {
            let mut judge = court.judge();
            judge.exchanges += 1;
            judge.trace.exchange(exchange);
        })));
        let court = world.court.clone();
        world.sandbox.set_event_observer(Some(Arc::new(move |event| {
            if let Event::Fault { kind, .. } = event {
                court.judge().fault(kind);
            }
        })));
        let links = world.links();
        let writer = Writer::new(&world, Arc::new(AtomicBool::new(false)));
        let more = links.iter().skip(1).map(|names| {
            assert!(world.create_table(&names.table), "there is no such table");
            writer.of_table(&world, &names.table)
        });
        let more = more.collect();
        let most = if random.f64() < 0.1 { 8 } else { 4 };
        let count = random.usize(2..=most);
        Self {
            world,
            links,
            writer,
            more,
            workers: (0..count).map(|_| None).collect(),
            random,
            outcome,
            is_calm: false,
            keys: Arc::default(),
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        self.world.court.judge().trace.say(self.world.clock.now(), what);
    }

    fn violated(&self, check: &'static str, what: String) {
        self.world.court.judge().violated(check, self.world.clock.now(), what);
    }

    fn outcome(mut self) -> Outcome {
        let mut judge = self.world.court.judge();
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.violations = std::mem::take(&mut judge.violations);
        outcome.faults = std::mem::take(&mut judge.faults);
        outcome.exchanges = judge.exchanges;
        outcome.hash = judge.trace.hash();
        outcome.virtual_time = self.world.clock.elapsed();
        outcome
    }

    async fn live(&mut self) {
        let before = self.world.plan.writes_before;
        self.write_now(before);
        let episodes = self.world.plan.episodes.clone();
        for (n, episode) in episodes.iter().enumerate() {
            self.divide().await;
            self.say(|| format!("=== episode {n}: {episode:?}"));
            self.episode(*episode).await;
        }
        self.settle().await;
    }

    async fn episode(&mut self, episode: Episode) {
        if episode.has_faults {
            self.world.set_faults(rules(&self.world.plan));
        }
        let twin = self.writer.twin(&self.world);
        let mut writer = std::mem::replace(&mut self.writer, twin);
        let mut more = std::mem::take(&mut self.more);
        // Less, so that a run does not take as many times as long as there are links.
        let writing = Writing { count: episode.writing.count / 4, ..episode.writing };
        let writing_more = join_all(more.iter_mut().map(|writer| writer.write(writing)));
        tokio::join!(writer.write(episode.writing), writing_more, self.disturb(episode));
        (self.writer, self.more) = (writer, more);
        self.world.set_faults(Vec::new());
        self.check_doubts();
        if self.random.f64() < 0.3 {
            for n in 0..self.workers.len() {
                self.kill(n).await;
            }
            self.write_now(episode.writes_while_down);
            tokio::time::sleep(episode.down.min(20 * HOUR)).await;
        }
    }

    fn write_now(&mut self, count: usize) {
        self.writer.write_now(count);
        self.more.iter_mut().for_each(|writer| writer.write_now(count));
    }

    /// Any link.
    fn any_link(&mut self) -> Names {
        let n = if self.links.len() > 1 { self.random.usize(0..self.links.len()) } else { 0 };
        self.links[n].clone()
    }

    /// Things happen to one worker after the other.
    async fn disturb(&mut self, episode: Episode) {
        for _ in 0..self.random.usize(2..12) {
            self.start_all(0.8, episode.drift).await;
            tokio::time::sleep(between(&mut self.random, SECOND / 20, MINUTE / 2)).await;
            let n = self.random.usize(0..self.workers.len());
            // Mostly to the one that works.
            let link = self.any_link().link;
            let n = if self.random.f64() < 0.6 { self.holder(&link).unwrap_or(n) } else { n };
            match self.random.u32(0..10) {
                0..3 => self.freeze(n).await,
                3..5 => self.kill(n).await,
                5..7 => self.stop(n).await,
                7 => self.replace_shards(),
                8 if episode.has_faults => self.state_outage().await,
                _ => self.cut_off(n, episode.has_faults).await,
            }
        }
    }

    async fn start_all(&mut self, chance: f64, drift: Drift) {
        for n in 0..self.workers.len() {
            if self.workers[n].as_ref().is_some_and(|worker| worker.task.is_finished()) {
                self.ended(n).await;
            }
            if self.workers[n].is_none() && self.random.f64() < chance {
                // Each host has a clock of its own.
                let drift = if self.random.bool() { drift } else { Drift::default() };
                self.start(n, drift);
            }
        }
    }

    fn start(&mut self, n: usize, drift: Drift) {
        let gate = Gate::new();
        let (program, name) = self.world.worker(&gate, drift);
        let (court, sandbox, clock) =
            (self.world.court.clone(), self.world.sandbox.clone(), Arc::clone(&self.world.clock));
        let (ours, links) = (name.clone(), self.links.clone());
        let keys = (self.world.plan.family == Family::Parts).then(|| Arc::clone(&self.keys));
        // C6: who sends a write to a target has its link, as the table says.
        gate.watch(move |operation, body| {
            let is_about =
                |names: &&Names| memchr::memmem::find(body, format!("\"{}\"", names.copy).as_bytes()).is_some();
            let copy = || links.iter().find(is_about);
            if let Some(keys) = keys.as_ref().filter(|_| operation == "BatchWriteItem") {
                if let Err(what) = keys.sent(&sandbox, &ours, body) {
                    court.judge().violated("C6", clock.now(), format!("worker {n} ({ours}) {what}"));
                }
            // The state's own transactions name no copy.
            } else if operation == "BatchWriteItem" || (operation == "TransactWriteItems" && copy().is_some()) {
                let owner = copy().map(|names| owner(&sandbox, &names.link));
                if owner.as_ref().is_none_or(|owner| owner.as_ref() != Some(&ours)) {
                    let what = format!("worker {n} ({ours}) sends a write, and the link is {owner:?}'s");
                    court.judge().violated("C6", clock.now(), what);
                }
            }
        });
        let stop = CancellationToken::new();
        let (running, token) = (Arc::clone(&program), stop.clone());
        let task = tokio::spawn(async move { running.run(token).await });
        self.outcome.lives += 1;
        self.say(|| format!("--- worker {n} ({name}) starts"));
        self.workers[n] = Some(Worker { gate, stop, task, program, name });
    }

    /// SIGKILL.
    async fn kill(&mut self, n: usize) {
        let Some(worker) = self.workers[n].take() else { return };
        self.say(|| format!("--- worker {n} is killed"));
        worker.gate.kill();
        worker.task.abort();
        if worker.task.await.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
            self.violated("panic", format!("worker {n} panicked"));
        }
    }

    /// SIGTERM.
    async fn stop(&mut self, n: usize) {
        let Some(worker) = &mut self.workers[n] else { return };
        worker.stop.cancel();
        let longest = self.world.plan.settings.drain + 15 * SECOND;
        if tokio::time::timeout(longest, &mut worker.task).await.is_ok() {
            self.workers[n] = None;
            self.say(|| format!("--- worker {n} stopped"));
        } else {
            if self.is_calm {
                self.violated("C8", format!("worker {n} did not stop within {longest:?}"));
            }
            self.kill(n).await;
        }
    }

    /// A process that ended by itself.
    async fn ended(&mut self, n: usize) {
        let Some(worker) = self.workers[n].take() else { return };
        match worker.task.await {
            Err(error) if error.is_panic() => self.violated("panic", format!("worker {n} panicked")),
            Err(_) | Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let text = error::chain(&error);
                self.say(|| format!("--- worker {n} ended with exit {}: {text}", error.exit as u8));
                if is_bug(&text) {
                    self.violated("assert", format!("worker {n} found a bug of its own: {text}"));
                } else if self.is_calm {
                    self.violated("C8", format!("worker {n} ended without any fault: {text}"));
                }
            }
        }
    }

    /// SIGSTOP, for a part of the lease or for many: what it was about to send is sent when it goes on.
    async fn freeze(&mut self, n: usize) {
        let Some(worker) = &self.workers[n] else { return };
        let long = between(&mut self.random, LEASE / 5, IN_DOUBT_FOR * 2 / 5);
        let gate = Arc::clone(&worker.gate);
        self.say(|| format!("--- worker {n} freezes for {long:?}"));
        gate.set_frozen(true);
        tokio::time::sleep(long).await;
        gate.set_frozen(false);
        self.say(|| format!("--- worker {n} goes on"));
    }

    /// One worker alone does not reach the table of the state for a while; all else it does. Half of the time the target
    /// takes few writes meanwhile, so that the worker has something left to send when its lease is over.
    async fn cut_off(&mut self, n: usize, has_faults: bool) {
        let Some(worker) = &self.workers[n] else { return };
        let long = between(&mut self.random, LEASE / 2, LEASE * 6);
        let gate = Arc::clone(&worker.gate);
        // No draw of its own: seeds keep their meaning.
        let has_backlog = self.world.plan.has_backlogs() && long.subsec_nanos().is_multiple_of(2);
        self.say(|| format!("--- worker {n} is cut off from its state for {long:?}, with a backlog: {has_backlog}"));
        if has_backlog {
            let kind = FaultKind::Throttle("ProvisionedThroughputExceededException".to_owned());
            // And nothing else, so that the others take the link in time.
            let write = if self.is_fenced() { "TransactWriteItems" } else { "BatchWriteItem" };
            let throttle = FaultRule::new(write, Trigger::Chance(THROTTLED), kind).for_table(&self.links[0].copy);
            self.world.set_faults(vec![throttle]);
            self.writer.change_each();
            tokio::time::sleep(self.world.plan.settings.poll_max + SECOND).await;
        }
        gate.set_cut_off(true);
        tokio::time::sleep(long).await;
        gate.set_cut_off(false);
        if has_backlog {
            self.world.set_faults(if has_faults { rules(&self.world.plan) } else { Vec::new() });
        }
    }

    fn replace_shards(&mut self) {
        let table = self.any_link().table;
        let sandbox = &self.world.sandbox;
        let shards = sandbox.shards(SOURCE, REGION, &table).unwrap_or_default();
        if shards.len() > MOST_SHARDS {
            return;
        }
        if self.random.bool() {
            drop(sandbox.roll_shards(SOURCE, REGION, &table));
        } else {
            drop(sandbox.split_shard(SOURCE, REGION, &table, 0));
        }
    }

    /// The table of the state takes nothing for a while, or does everything and says nothing.
    async fn state_outage(&mut self) {
        let kind = if self.random.bool() { FaultKind::LoseAnswer } else { FaultKind::InternalError };
        let operations = ["GetItem", "Query", "UpdateItem", "PutItem", "DeleteItem", "TransactWriteItems"];
        let down = operations
            .map(|operation| FaultRule::new(operation, Trigger::Chance(1.0), kind.clone()).for_account(TARGET));
        self.world.set_faults(down.into_iter().chain(rules(&self.world.plan)).collect());
        tokio::time::sleep(between(&mut self.random, LEASE / 5, LEASE * 5)).await;
        self.world.set_faults(rules(&self.world.plan));
    }

    /// Which worker has a link, as the table says.
    fn holder(&self, link: &str) -> Option<usize> {
        let owner = owner(&self.world.sandbox, link)?;
        self.workers.iter().position(|worker| worker.as_ref().is_some_and(|worker| worker.name == owner))
    }

    fn status(&self, link: &str) -> Option<LinkStatus> {
        let worker = self.workers.get(self.holder(link)?)?.as_ref()?;
        worker.program.status_source().status().links.into_iter().find(|status| status.link == link)
    }

    fn statuses(&self) -> Vec<Option<LinkStatus>> {
        self.links.iter().map(|names| self.status(&names.link)).collect()
    }

    fn is_certain(&self) -> bool {
        let is_certain = |status: &LinkStatus| status.gaps.is_empty() && status.in_doubt == 0 && status.lag_known;
        self.statuses().iter().all(|status| status.as_ref().is_some_and(is_certain))
    }

    fn is_equal(&self) -> bool {
        let of = |account, table: &str| self.world.sandbox.snapshot(account, REGION, table).unwrap_or_default();
        self.links.iter().all(|names| of(SOURCE, &names.table) == of(TARGET, &names.copy))
    }

    /// How many links each worker has.
    fn counts(&self) -> Vec<usize> {
        let holders: Vec<_> = self.links.iter().map(|names| self.holder(&names.link)).collect();
        let running = (0..self.workers.len()).filter(|n| self.workers[*n].is_some());
        running.map(|n| holders.iter().filter(|holder| **holder == Some(n)).count()).collect()
    }

    fn is_even(&self) -> bool {
        let counts = self.counts();
        counts.iter().sum::<usize>() == self.links.len()
            && counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0) <= 1
    }

    fn epochs(&self) -> Vec<Option<Value>> {
        self.links.iter().map(|names| head(&self.world.sandbox, &names.link)?.get("epoch").cloned()).collect()
    }

    async fn until(&mut self, longest: Duration, step: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = Instant::now() + longest;
        while !holds(self) {
            if Instant::now() >= end {
                return false;
            }
            self.start_all(1.0, Drift::default()).await;
            tokio::time::sleep(step).await;
        }
        true
    }

    /// Faults are over, all workers are there: one of them brings everything right, whoever it is.
    async fn settle(&mut self) {
        self.say(|| "=== the faults are over".to_owned());
        self.world.sandbox.change_options(calm);
        self.start_all(1.0, Drift::default()).await;
        self.write_now(5);
        tokio::time::sleep(MINUTE).await;
        self.start_all(1.0, Drift::default()).await;
        self.is_calm = true;
        self.check_doubts();
        self.come_right("the last fault").await;
        self.stay_right().await;
        if self.links.len() > 1 && !self.until(EVEN, SECOND, Self::is_even).await {
            self.violated("C8", format!("{EVEN:?} after the last fault the links are spread as {:?}", self.counts()));
        }
        let link = self.any_link().link;
        // Without a fault, the link changes hands as fast as promised; all but one are up.
        let Some(first) = self.holder(&link) else { return };
        self.stop(first).await;
        self.hand_over("a worker that stopped", HAND_OVER).await;
        self.start_all(1.0, Drift::default()).await;
        let Some(second) = self.holder(&link) else { return };
        self.write_now(5);
        tokio::time::sleep(self.random.u32(0..5) * SECOND / 10).await;
        self.kill(second).await;
        self.hand_over("a worker that was killed", LEASE + TAKE_OVER).await;
        self.come_right("the last hand-over").await;
        self.stay_right().await;
        if self.world.plan.family == Family::Parts {
            self.share_and_stop_sharing().await;
        } else {
            self.spread().await;
        }
        for n in 0..self.workers.len() {
            self.stop(n).await;
        }
    }

    async fn hand_over(&mut self, from: &str, within: Duration) {
        let end = Instant::now() + within;
        while self.links.iter().any(|names| self.holder(&names.link).is_none()) {
            if Instant::now() >= end {
                let phases: Vec<_> = self.workers.iter().flatten().map(phases).collect();
                self.violated("C8", format!("nobody took a link from {from} within {within:?}: {phases:?}"));
                return;
            }
            tokio::time::sleep(SECOND / 50).await;
        }
    }

    async fn come_right(&mut self, since: &str) {
        let settings = self.world.plan.settings;
        let small = (5 * SECOND).max(settings.poll_max * 5);
        let is_small = |status: &LinkStatus| status.lag_seconds.is_some_and(|lag| lag <= small.as_secs_f64());
        let are_small = |fleet: &Self| fleet.statuses().iter().all(|status| status.as_ref().is_some_and(is_small));
        self.write_now(5);
        if !self.until(RECOVERY, SECOND, are_small).await {
            self.violated("C8", format!("ten minutes after {since} a lag is large: {:?}", self.statuses()));
        }
        let patience = IN_DOUBT_FOR * 2 + RECOVERY;
        if !self.until(patience, SECOND, Self::is_certain).await {
            let what = format!("{patience:?} after {since} gaps are open or keys in doubt: {:?}", self.statuses());
            self.violated("C8", what);
        }
        let patience = small + settings.poll_max * 5 + MINUTE + settings.discovery * 2;
        if !self.until(patience, SECOND, Self::is_equal).await {
            self.violated("C1", format!("{patience:?} after all is certain again both tables differ"));
        }
    }

    fn is_fenced(&self) -> bool {
        self.world.plan.family == Family::Fenced
    }

    /// C6: behind a fence no key is ever in doubt, and what is still on its way never lands.
    async fn stay_right(&mut self) {
        if !self.is_fenced() {
            return;
        }
        tokio::time::sleep(IN_DOUBT_FOR).await;
        if !self.is_equal() {
            self.violated("C6", format!("both tables were equal, and {IN_DOUBT_FOR:?} later they are not"));
        }
    }

    fn check_doubts(&self) {
        // What a heal has found different is listed, too.
        let statuses = self.statuses();
        let quiet = statuses.iter().flatten().filter(|status| status.gaps.is_empty());
        let in_doubt: u64 = quiet.map(|status| status.in_doubt).sum();
        if self.is_fenced() && in_doubt > 0 {
            self.violated("C6", format!("{in_doubt} keys are in doubt behind a fence"));
        }
    }

    /// The links spread evenly over the workers, and then stay where they are.
    async fn spread(&mut self) {
        if !self.until(EVEN, SECOND, Self::is_even).await {
            self.violated("C8", format!("{EVEN:?} after all is right the links are spread as {:?}", self.counts()));
        }
        let before = self.epochs();
        tokio::time::sleep(STILL).await;
        let now = self.epochs();
        if now != before {
            self.violated("C8", format!("all is even, and links move: {before:?}, then {now:?}"));
        }
    }
}

/// What a worker says of itself.
fn phases(worker: &Worker) -> (String, Vec<Phase>) {
    let status = worker.program.status_source().status();
    (worker.name.clone(), status.links.iter().map(|link| link.phase).collect())
}

/// The head of a link, as it is in the table.
fn head(sandbox: &Sandbox, link: &str) -> Option<Item> {
    let items = sandbox.snapshot(TARGET, REGION, STATE).ok()?;
    let partition = Value::S(format!("default/link/{link}"));
    items.into_values().find(|item| item.contains_key("epoch") && item.get("pk") == Some(&partition))
}

/// Whom a link belongs to, as its head in the table says; `None`: nobody has it now.
fn owner(sandbox: &Sandbox, link: &str) -> Option<String> {
    let head = head(sandbox, link)?;
    match (head.get("owner")?, head.get("released")?) {
        (Value::S(owner), Value::Bool(false)) => Some(owner.clone()),
        _ => None,
    }
}

fn between(random: &mut fastrand::Rng, least: Duration, most: Duration) -> Duration {
    least.mul_f64((most.as_secs_f64() / least.as_secs_f64()).powf(random.f64()))
}
