//! One seed, from its plan to its verdict.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dynaferry::checkpoint::StateStore as _;
use dynaferry::context::WallClock as _;
use dynaferry::error::{self, Error, Exit};
use dynaferry::model::WallTime;
use dynaferry::runtime::Program;
use dynaferry::sandbox::{FaultKind, FaultRule, Trigger};
use dynaferry::telemetry::status::LinkStatus;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clocks::Drift;
use crate::gate::Gate;
use crate::judge::Violation;
use crate::knobs::{Act, Setting, calm, rule_of};
use crate::plan::{Ending, Episode, Family, Knob, LEAST_LIFE, LagScenario, Plan};
use crate::state::{StateFaults, StateTrouble};
use crate::trace::{LogSink, Trace, VirtualTime};
use crate::workload::{POISON, Writer};
use crate::world::{COPY, LINK, REGION, SOURCE, TABLE, TARGET, World};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a run may take on its clock; one that does not end is stuck.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// Shards of a stream, and open ones, beyond which none is split or rolled over by an act.
const MOST_SHARDS: usize = 100;
const MOST_OPEN: usize = 8;
/// So many short lives in a row the process is started again within seconds; from then on the orchestrator takes its time,
/// twice as long after each.
const QUICK_RESTARTS: u32 = 5;
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// A life that is not short.
const SOUND_LIFE: Duration = Duration::from_secs(600);
/// Within this after the last fault the lag is small again (C8).
const RECOVERY: Duration = Duration::from_secs(600);

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<Violation>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) kinds: Vec<&'static str>,
    pub(crate) virtual_time: Duration,
    pub(crate) live_time: Duration,
    pub(crate) exchanges: u64,
    pub(crate) lives: u64,
    pub(crate) gaps: usize,
    pub(crate) late_writes: u64,
    pub(crate) hash: Option<u64>,
}

/// What is to be seen of a run.
pub(crate) enum Watch {
    /// Its outcome alone.
    Nothing,
    /// A number that two equal runs share.
    Hash,
    /// Every request, answer and decision.
    Trace(Arc<std::sync::Mutex<Box<dyn std::io::Write + Send>>>),
}

/// Runs a plan to its end, on a paused clock of its own.
pub(crate) fn run(plan: Plan, watch: Watch) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    };
    let (trace, sink) = match watch {
        Watch::Nothing => (Trace::default(), None),
        Watch::Hash => (Trace::hashed(), None),
        Watch::Trace(sink) => (Trace::to(Arc::clone(&sink)), Some(sink)),
    };
    let running = async {
        let logged = sink.map(|sink| {
            let logs = tracing_subscriber::fmt()
                .with_writer(LogSink(sink))
                .with_timer(VirtualTime(tokio::time::Instant::now()))
                .with_env_filter("dynaferry=debug")
                .with_ansi(false)
                .finish();
            tracing::subscriber::set_default(logs)
        });
        let outcome = Run::new(plan, trace).run().await;
        drop(logged);
        outcome
    };
    runtime.block_on(running)
}

/// A process that runs.
struct Process {
    gate: Arc<Gate>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    program: Arc<Program>,
    since: tokio::time::Instant,
}

struct Run {
    world: World,
    writer: Writer,
    process: Option<Process>,
    random: fastrand::Rng,
    drift: Drift,
    outcome: Outcome,
    /// From here on an error that ends the process is a broken promise.
    is_calm: bool,
    /// When the lag is looked at next.
    next_look: tokio::time::Instant,
    /// The last claim of the process that runs.
    /// The lag as it was, of the last seconds.
    truths: VecDeque<(tokio::time::Instant, Duration)>,
    last_claim: Option<WallTime>,
    worst_lag_error: Duration,
    /// Whether the source writes what the target does not take.
    poison: Arc<AtomicBool>,
    /// A part of the source's history cannot have been read.
    loses_history: bool,
    /// How often in a row the process ended by itself soon after its start.
    short_lives: u32,
}

impl Run {
    fn new(plan: Plan, trace: Trace) -> Self {
        let random = fastrand::Rng::with_seed(plan.seed ^ 0xc4a05);
        let outcome = Outcome { kinds: plan.knobs.iter().map(|knob| knob.kind.name).collect(), ..Outcome::default() };
        let world = World::new(plan, trace);
        let poison = Arc::new(AtomicBool::new(false));
        let writer = Writer::new(&world, Arc::clone(&poison));
        Self {
            world,
            writer,
            process: None,
            random,
            drift: Drift::default(),
            outcome,
            is_calm: false,
            next_look: tokio::time::Instant::now(),
            truths: VecDeque::new(),
            last_claim: None,
            worst_lag_error: Duration::ZERO,
            poison,
            loses_history: false,
            short_lives: 0,
        }
    }

    fn now(&self) -> WallTime {
        self.world.clock.now()
    }

    fn say(&self, what: impl FnOnce() -> String) {
        self.world.court.judge().trace.say(self.now(), what);
    }

    fn violated(&self, check: &'static str, what: String) {
        let now = self.now();
        self.world.court.judge().violated(check, now, what);
    }

    async fn run(mut self) -> Outcome {
        let life = tokio::time::timeout(LONGEST, self.live()).await;
        if life.is_err() {
            self.violated("C8", format!("the run did not end within {LONGEST:?}"));
        }
        let mut judge = self.world.court.judge();
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.violations = std::mem::take(&mut judge.violations);
        outcome.faults = std::mem::take(&mut judge.faults);
        for (name, count) in StateTrouble::NAMES.into_iter().zip(self.world.trouble.counts()) {
            if count > 0 {
                *outcome.faults.entry(name).or_default() += count;
            }
        }
        outcome.exchanges = judge.exchanges;
        outcome.late_writes = judge.late_writes;
        outcome.gaps = judge.gaps().count();
        outcome.hash = judge.trace.hash();
        outcome.virtual_time = self.world.clock.elapsed();
        outcome
    }

    async fn live(&mut self) {
        let (age, before) = (self.world.plan.age, self.world.plan.writes_before);
        self.writer.write_now(before / 2);
        tokio::time::sleep(age).await;
        self.writer.write_now(before - before / 2);
        let episodes = self.world.plan.episodes.clone();
        for (n, episode) in episodes.iter().enumerate() {
            self.say(|| format!("=== episode {n}: {episode:?}"));
            self.episode(n, *episode).await;
        }
        self.grow_old().await;
        self.settle().await;
    }

    async fn episode(&mut self, n: usize, episode: Episode) {
        self.drift = episode.drift;
        if episode.has_faults {
            self.turn_on();
        }
        if let (Ending::KillAtStep(steps), Some(process)) = (episode.ending, &self.process) {
            process.gate.die_after(steps);
        }
        let family = self.world.plan.family;
        let mut actor = Actor::new(self, episode.has_faults);
        if n == 0 && episode.has_faults && self.world.plan.has_knob("worker.crash_over_write") {
            // Over the first write of all, which is of the load.
            actor.next = Some((Act::CrashOverWrite, tokio::time::Instant::now()));
        }
        let twin = self.writer.twin(&self.world);
        let mut writer = std::mem::replace(&mut self.writer, twin);
        {
            let (done, is_done) = tokio::sync::oneshot::channel::<()>();
            let writing = async {
                writer.write(episode.writing).await;
                tokio::time::sleep(episode.idle).await;
                drop(done);
            };
            let steps = match episode.ending {
                Ending::KillAtStep(steps) => Some(steps),
                _ => None,
            };
            let supervising = self.supervise(&mut actor, steps, async { drop(is_done.await) });
            tokio::join!(writing, supervising);
        }
        self.writer = writer;
        self.turn_off_acts();
        match episode.ending {
            Ending::LeaveRunning => {}
            Ending::Kill | Ending::KillAtStep(_) => self.kill().await,
            Ending::Stop => self.stop(None).await,
            Ending::StopThenKill(after) => self.stop(Some(after)).await,
        }
        match family {
            Family::Replaced => self.replace_stream(episode.writes_while_down).await,
            Family::Recreated if n == 0 => self.recreate_source(episode.writes_while_down).await,
            _ => {}
        }
        // What is lost before the link has begun is none of its history.
        let is_outage = family.always_loses_history() && (episode.down > DAY || family == Family::Replaced);
        self.loses_history |= is_outage && self.world.court.judge().has_link();
        if self.process.is_none() {
            self.stay_away(episode.down, episode.writes_while_down).await;
        }
    }

    /// No run is shorter than it should be: the process is away for some hours, but never so long that history is lost.
    async fn grow_old(&mut self) {
        while self.world.clock.elapsed() < LEAST_LIFE {
            self.kill().await;
            let missing = LEAST_LIFE.saturating_sub(self.world.clock.elapsed());
            self.stay_away(missing.min(20 * HOUR), 5).await;
            self.supervise(&mut Actor::idle(), None, tokio::time::sleep(MINUTE)).await;
        }
    }

    /// The process is down, and the source goes on.
    async fn stay_away(&mut self, down: Duration, writes: usize) {
        let parts = 3;
        for part in 0..parts {
            self.writer.write_now(writes / parts + usize::from(part == 0) * (writes % parts));
            tokio::time::sleep(down / u32::try_from(parts).unwrap_or(1)).await;
            // Trims and roll-overs happen when somebody looks.
            drop(self.world.sandbox.shards(SOURCE, REGION, TABLE));
        }
    }

    /// All knobs as drawn.
    fn turn_on(&self) {
        self.turn_on_with(Vec::new());
    }

    /// All knobs as drawn, and these rules before them.
    fn turn_on_with(&self, first: Vec<FaultRule>) {
        let plan = &self.world.plan;
        let in_doubt_for = plan.settings.in_doubt_for;
        let mut state = StateFaults::default();
        let mut rules = Vec::new();
        for Knob { kind, strength, seed } in &plan.knobs {
            rules.extend(rule_of(kind.setting, *strength, *seed));
            if let Setting::State(set) = kind.setting {
                set(&mut state, *strength);
            }
        }
        for rule in &mut rules {
            // A late write comes before its signature has expired: knobs say it for a minute.
            if let FaultKind::DeliverLate(time) | FaultKind::TimeOutAndDeliverLate(time) = &mut rule.kind {
                *time = time.mul_f64(in_doubt_for.as_secs_f64() / 60.0);
            }
        }
        self.world.trouble.set(state);
        self.world.set_faults(first.into_iter().chain(rules).collect());
    }

    fn turn_off_acts(&self) {
        self.world.trouble.set_down(false);
        if let Some(process) = &self.process {
            process.gate.set_frozen(false);
        }
    }

    /// Keeps a process running, as an orchestrator does, while something else goes on.
    async fn supervise(&mut self, actor: &mut Actor, die_at: Option<u64>, until: impl Future<Output = ()>) {
        tokio::pin!(until);
        let mut die_at = die_at.filter(|_| self.process.is_none());
        loop {
            if self.process.is_none() {
                self.start();
                if let (Some(steps), Some(process)) = (die_at.take(), &self.process) {
                    process.gate.die_after(steps);
                }
            }
            let Some(process) = &mut self.process else { return };
            let gate = Arc::clone(&process.gate);
            tokio::select! {
                biased;
                () = &mut until => return,
                () = gate.died.notified() => self.kill().await,
                ended = &mut process.task => {
                    self.ended(ended);
                    let backoff = self.backoff();
                    tokio::select! {
                        biased;
                        () = &mut until => return,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    continue;
                }
                () = tokio::time::sleep_until(self.next_look) => {
                    self.look();
                    continue;
                }
                act = actor.next() => {
                    tokio::select! {
                        biased;
                        () = &mut until => return,
                        () = self.act(act) => {}
                    }
                    continue;
                }
            }
            tokio::select! {
                biased;
                () = &mut until => return,
                () = tokio::time::sleep(SECOND) => {}
            }
        }
    }

    /// How long the orchestrator waits before it starts the process again.
    fn backoff(&mut self) -> Duration {
        let doublings = self.short_lives.saturating_sub(QUICK_RESTARTS).min(16);
        (SECOND.mul_f64(1.0 + 9.0 * self.random.f64()) * 2_u32.pow(doublings)).min(LONGEST_BACKOFF)
    }

    fn start(&mut self) {
        let gate = Gate::new();
        let program = self.world.program(&gate, self.drift);
        let stop = CancellationToken::new();
        let (running, token) = (Arc::clone(&program), stop.clone());
        let task = tokio::spawn(async move { running.run(token).await });
        self.outcome.lives += 1;
        self.last_claim = None;
        self.say(|| "--- the process starts".to_owned());
        self.process = Some(Process { gate, stop, task, program, since: tokio::time::Instant::now() });
    }

    /// SIGKILL.
    async fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        self.say(|| "--- the process is killed".to_owned());
        process.gate.kill();
        process.task.abort();
        self.outcome.live_time += process.since.elapsed();
        let ended = process.task.await;
        if ended.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
            self.violated("panic", "the program panicked".to_owned());
        }
    }

    /// SIGTERM, and SIGKILL later if it does not end.
    async fn stop(&mut self, patience: Option<Duration>) {
        let Some(process) = &mut self.process else { return };
        process.stop.cancel();
        let longest = self.world.plan.settings.drain + 10 * SECOND;
        let died = Arc::clone(&process.gate);
        let ended = tokio::select! {
            biased;
            ended = &mut process.task => Some(ended),
            () = died.died.notified() => None,
            () = tokio::time::sleep(patience.unwrap_or(longest)) => None,
        };
        match ended {
            Some(ended) => self.ended(ended),
            None => {
                if patience.is_none() && !died.is_dead() {
                    self.violated("C8", format!("the process did not stop within {longest:?}"));
                }
                self.kill().await;
            }
        }
    }

    /// The process ended by itself.
    fn ended(&mut self, ended: Result<Result<(), Error>, tokio::task::JoinError>) {
        if let Some(process) = self.process.take() {
            let life = process.since.elapsed();
            self.outcome.live_time += life;
            self.short_lives = if life < SOUND_LIFE { self.short_lives + 1 } else { 0 };
        }
        match ended {
            Err(error) if error.is_panic() => self.violated("panic", "the program panicked".to_owned()),
            Err(_) => {}
            Ok(Ok(())) => self.say(|| "--- the process ended: drained".to_owned()),
            Ok(Err(error)) => {
                let text = error::chain(&error);
                self.say(|| format!("--- the process ended with exit {}: {text}", error.exit as u8));
                self.judge_end(&error, &text);
            }
        }
    }

    fn judge_end(&mut self, error: &Error, text: &str) {
        let is_bug =
            ["keep the books", "keep the lanes", "refused state write", "ended unexpectedly", "panicked", "invariant"];
        if is_bug.iter().any(|sign| text.contains(sign)) {
            return self.violated("assert", format!("the program found a bug of its own: {text}"));
        }
        if error.exit == Exit::Lost && text.contains("made anew") && self.world.plan.family == Family::Recreated {
            // As its message says: with fresh state, into an empty target.
            self.world.begin_anew();
            return;
        }
        if self.is_calm {
            self.violated("C8", format!("the process ended without any fault: exit {}, {text}", error.exit as u8));
        }
    }

    /// The lag, next to the truth: what is claimed to be applied must be; and nothing is hidden for long.
    fn look(&mut self) {
        let is_lag_run = matches!(self.world.plan.family, Family::Lag(_));
        self.next_look = tokio::time::Instant::now() + if is_lag_run { SECOND } else { 7 * SECOND };
        // A service that answers with many empty pages in a row, or that lists a shard's second child minutes after its
        // first one, fools the lag: nothing tells that there is more.
        let fools = ["page.empty_run", "children.stagger", "describe.stale_listing"];
        let is_fooled = fools.iter().any(|knob| self.world.plan.has_knob(knob));
        let Some(status) = self.status().filter(|_| !is_fooled) else { return };
        let Some(claimed) = status.watermark.applied else {
            // Not known any more, as after the stream was replaced.
            self.last_claim = None;
            return;
        };
        let (now, oldest) = (self.now(), self.world.court.judge().oldest_unapplied());
        if self.last_claim.is_some_and(|before| claimed < before) {
            self.violated("lag", format!("the watermark went back to {claimed:?}"));
        }
        self.last_claim = Some(claimed);
        if let Some(oldest) = oldest.filter(|oldest| *oldest < claimed) {
            let ahead = claimed.since(oldest);
            self.violated("lag", format!("the watermark claims {ahead:?} more than is applied"));
        }
        let unread = self.world.court.judge().oldest_unread();
        let truth = unread.map_or(Duration::ZERO, |oldest| now.since(oldest));
        let settings = self.world.plan.settings;
        // Three empty pages prove that there is no more, and creation times are whole seconds.
        let most = (2 * SECOND).max(settings.poll_max * 3) + SECOND;
        // Until they are there, what was true a moment ago is shown.
        let seen_at = tokio::time::Instant::now();
        self.truths.push_back((seen_at, truth));
        while self.truths.pop_front_if(|(at, _)| seen_at - *at > most).is_some() {}
        let lately = self.truths.iter().map(|(_, truth)| *truth).max().unwrap_or(truth);
        let hidden = now.since(claimed).saturating_sub(lately);
        self.worst_lag_error = self.worst_lag_error.max(hidden);
        let lives = self.process.as_ref().map_or(Duration::ZERO, |process| process.since.elapsed());
        // While a shard cannot be read nobody knows whether there is more, and the lag must not pretend to.
        let is_stuck = self.world.plan.family == Family::Lag(LagScenario::StuckShard);
        if is_lag_run && !is_stuck && hidden > most && lives > MINUTE {
            self.violated("lag", format!("the lag is {truth:?}, and {hidden:?} more is shown"));
        }
    }

    async fn act(&mut self, act: Act) {
        let sandbox = self.world.sandbox.clone();
        self.say(|| format!("... {act:?}"));
        let name = act_name(act);
        self.world.court.judge().fault(name);
        let short = SECOND.mul_f64(0.1 + 20.0 * self.random.f64());
        match act {
            Act::RollShards | Act::SplitShard => self.replace_shards(act),
            Act::ExpireIterators => sandbox.expire_iterators(),
            Act::ExpireSessions => sandbox.expire_sessions(),
            Act::TrimAll => {
                let keep = MINUTE.mul_f64(self.random.f64());
                let which = |shard: &str| self.world.court.judge().has_position(shard);
                drop(sandbox.trim_shards(SOURCE, REGION, TABLE, keep, which));
            }
            Act::TrimEarly => {
                let mut shards = sandbox.shards(SOURCE, REGION, TABLE).unwrap_or_default();
                shards.retain(|shard| self.world.court.judge().has_position(&shard.id));
                if let Some(shard) = self.random.choice(shards) {
                    let keep = MINUTE.mul_f64(self.random.f64());
                    drop(sandbox.trim_shards(SOURCE, REGION, TABLE, keep, |id| id == shard.id));
                }
            }
            Act::VanishShard => {
                // One that the link knows: what is gone before it is pinned is none of its history.
                let mut shards = sandbox.shards(SOURCE, REGION, TABLE).unwrap_or_default();
                shards.retain(|shard| self.world.court.judge().knows(&shard.id));
                if let Some(shard) = self.random.choice(shards) {
                    drop(sandbox.vanish_shard(SOURCE, REGION, TABLE, &shard.id));
                }
            }
            Act::Poison => {
                // The target takes no item with this attribute; the writer uses it from now on.
                sandbox.set_poison_attribute(TARGET, REGION, COPY, Some(POISON));
                self.poison.store(true, Ordering::Relaxed);
            }
            Act::Freeze => {
                if let Some(process) = &self.process {
                    process.gate.set_frozen(true);
                    let long = if self.random.bool() { short } else { short * 20 };
                    tokio::time::sleep(long).await;
                    if let Some(process) = &self.process {
                        process.gate.set_frozen(false);
                    }
                }
            }
            Act::Crash => self.kill().await,
            Act::Restart => self.stop(None).await,
            Act::StateOutage => {
                self.world.trouble.set_down(true);
                tokio::time::sleep(short * 3).await;
                self.world.trouble.set_down(false);
            }
            Act::ReplaceStream => self.replace_stream(3).await,
            Act::SourceOutage => self.outage("*", SOURCE, FaultKind::InternalError, short * 5).await,
            Act::TargetOutage => self.outage("*", TARGET, FaultKind::InternalError, short * 5).await,
            Act::StreamOutage => self.outage("GetRecords", SOURCE, FaultKind::InternalError, short).await,
            Act::CrashOverWrite | Act::StopOverWrite => self.end_over_write(act == Act::CrashOverWrite).await,
            Act::TargetThrottle => {
                let kind = FaultKind::Throttle("ThrottlingException".to_owned());
                self.outage("BatchWriteItem", TARGET, kind, short).await;
            }
        }
    }

    /// Shards roll over, or one splits; but there is a limit to how many a run can live through.
    fn replace_shards(&mut self, act: Act) {
        let sandbox = &self.world.sandbox;
        let shards = sandbox.shards(SOURCE, REGION, TABLE).unwrap_or_default();
        let open = shards.iter().filter(|shard| shard.open).count();
        if shards.len() > MOST_SHARDS {
            return;
        }
        if act == Act::SplitShard && open < MOST_OPEN {
            let n = self.random.usize(0..open.max(1));
            drop(sandbox.split_shard(SOURCE, REGION, TABLE, n));
        } else {
            drop(sandbox.roll_shards(SOURCE, REGION, TABLE));
        }
    }

    /// One account refuses something for a while.
    async fn outage(&mut self, operation: &str, account: &str, kind: FaultKind, time: Duration) {
        let down = FaultRule::new(operation, Trigger::Chance(1.0), kind).for_account(account);
        self.world.set_faults(vec![down]);
        let until = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < until {
            tokio::time::sleep(SECOND).await;
            self.look();
        }
        self.turn_on();
    }

    /// The process ends while a write of it is on the wire, which lands later.
    async fn end_over_write(&mut self, is_crash: bool) {
        let late = self.world.plan.settings.in_doubt_for.mul_f64(0.05 + 0.75 * self.random.f64());
        let kind = FaultKind::TimeOutAndDeliverLate(late);
        self.turn_on_with(vec![FaultRule::new("BatchWriteItem", Trigger::Next(1), kind).for_account(TARGET)]);
        let fired = |run: &Self| run.world.sandbox.fault_counts().get("error.timeout_then_late_delivery").copied();
        let before = fired(self);
        for _ in 0..300 {
            if fired(self) != before || self.process.is_none() {
                break;
            }
            tokio::time::sleep(SECOND / 10).await;
        }
        if is_crash {
            self.kill().await;
        } else {
            self.stop(None).await;
        }
        self.turn_on();
    }

    /// The source table is deleted, and made anew under its name.
    async fn recreate_source(&mut self, writes: usize) {
        drop(self.world.sandbox.call(SOURCE, REGION, "DeleteTable", &format!(r#"{{"TableName":"{TABLE}"}}"#)));
        for _ in 0..120 {
            tokio::time::sleep(SECOND).await;
            if self.world.create_source() {
                break;
            }
        }
        self.writer.write_now(writes);
    }

    /// The stream is turned off, and on again under another ARN. What is written in between is in no stream.
    async fn replace_stream(&mut self, writes: usize) {
        let off = format!(r#"{{"TableName":"{TABLE}","StreamSpecification":{{"StreamEnabled":false}}}}"#);
        drop(self.world.sandbox.call(SOURCE, REGION, "UpdateTable", &off));
        self.writer.write_now(writes);
        tokio::time::sleep(SECOND.mul_f64(1.0 + 60.0 * self.random.f64())).await;
        self.writer.write_now(writes);
        self.enable_stream().await;
    }

    /// Turns the stream on; what is already on stays as it is.
    async fn enable_stream(&self) {
        for _ in 0..120 {
            // While the table is being changed, it cannot be changed.
            match self.world.sandbox.enable_stream(SOURCE, REGION, TABLE, self.world.plan.view) {
                Ok(_) => return,
                Err(error) if error.message.contains("already") => return,
                Err(_) => tokio::time::sleep(SECOND).await,
            }
        }
    }

    /// Faults are over and the source grows quiet: everything must come right.
    async fn settle(&mut self) {
        self.say(|| "=== the faults are over".to_owned());
        self.world.set_faults(Vec::new());
        self.world.trouble.set(StateFaults::default());
        self.world.sandbox.change_options(calm);
        self.cure().await;
        self.drift = Drift::default();
        self.enable_stream().await;
        self.writer.write_now(5);
        let settings = self.world.plan.settings;
        let mut nothing = Actor::idle();
        // Errors of calls that were under way end the process once more, at most.
        self.supervise(&mut nothing, None, tokio::time::sleep(MINUTE)).await;
        self.is_calm = true;
        self.writer.write_now(5);
        let small = (5 * SECOND).max(settings.poll_max * 5);
        if !self.until(RECOVERY, |run| run.lag().is_some_and(|lag| lag <= small)).await {
            let (status, lag) = (self.status(), self.lag());
            self.violated("C8", format!("ten minutes after the last fault the lag is {lag:?}; {status:?}"));
        }
        let now = self.now();
        self.world.court.judge().check_losses(now);
        let patience = settings.in_doubt_for * 2 + RECOVERY;
        if !self.until(patience, |run| run.is_certain()).await {
            let status = self.status();
            self.violated(
                "C8",
                format!("{patience:?} after the last fault gaps are open or keys in doubt; {status:?}"),
            );
        }
        self.writer.write_now(5);
        let patience = small + settings.poll_max * 5 + MINUTE;
        if !self.until(patience, |run| run.world.court.judge().oldest_unapplied().is_none()).await {
            self.violated("C8", format!("{patience:?} after the last write it is not applied"));
        }
        self.finish().await;
    }

    /// The target takes everything again; what was set aside meanwhile is retried by its operator.
    async fn cure(&mut self) {
        self.kill().await;
        self.short_lives = 0;
        self.poison.store(false, Ordering::Relaxed);
        self.world.sandbox.set_poison_attribute(TARGET, REGION, COPY, None);
        if !self.world.plan.settings.dead_letters {
            self.world.court.judge().poison.clear();
            return;
        }
        let gate = Gate::new();
        let program = self.world.program(&gate, Drift::default());
        match program.retry_dead_letters(&[]).await {
            Ok(gone) => self.say(|| format!("--- {gone} dead letters are gone")),
            Err(error) => {
                let text = error::chain(&error);
                self.violated("C8", format!("dead letters cannot be retried: {text}"));
            }
        }
        self.world.court.judge().poison.clear();
    }

    /// The last look: equality, and a clean end.
    async fn finish(&mut self) {
        let source = self.world.sandbox.snapshot(SOURCE, REGION, TABLE).unwrap_or_default();
        let target = self.world.sandbox.snapshot(TARGET, REGION, COPY).unwrap_or_default();
        if source != target {
            let differing = source.iter().filter(|(key, item)| target.get(*key) != Some(item)).count();
            let extra = target.keys().filter(|key| !source.contains_key(*key)).count();
            self.violated(
                "C1",
                format!("{differing} items of the source are not at the target, {extra} are there alone"),
            );
            let now = self.now();
            self.world.court.judge().check_equal(now);
        }
        self.stop(None).await;
        let state = self.world.store().read(LINK).await.unwrap_or_default();
        if !state.link.as_ref().is_some_and(|link| link.clean) {
            self.violated("C8", "after a drained stop the link is not clean".to_owned());
        }
        if self.loses_history && state.gaps.is_empty() {
            self.violated("C5", format!("{:?} left no gap", self.world.plan.family));
        }
    }

    fn status(&self) -> Option<LinkStatus> {
        let process = self.process.as_ref()?;
        process.program.status_source().status().links.into_iter().next()
    }

    fn lag(&self) -> Option<Duration> {
        Some(self.now().since(self.status()?.watermark.applied?))
    }

    fn is_certain(&self) -> bool {
        let status = self.status();
        status.is_some_and(|status| status.gaps.is_empty() && status.in_doubt == 0 && status.lag_known)
    }

    /// Waits until this holds, with a process that is kept running.
    async fn until(&mut self, longest: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let mut nothing = Actor::idle();
        let mut waited = Duration::ZERO;
        let mut step = SECOND;
        while waited < longest {
            if holds(self) {
                return true;
            }
            self.supervise(&mut nothing, None, tokio::time::sleep(step)).await;
            waited += step;
            step = (step * 2).min(10 * SECOND);
        }
        holds(self)
    }
}

fn act_name(act: Act) -> &'static str {
    let of_act = |kind: &&crate::knobs::Kind| matches!(kind.setting, Setting::Act(this, _) if this == act);
    crate::knobs::KINDS.iter().find(of_act).map_or("act", |kind| kind.name)
}

/// What is done to the world, and when.
struct Actor {
    acts: Vec<(Act, Duration)>,
    random: fastrand::Rng,
    next: Option<(Act, tokio::time::Instant)>,
}

impl Actor {
    fn idle() -> Self {
        Self { acts: Vec::new(), random: fastrand::Rng::with_seed(0), next: None }
    }

    fn new(run: &mut Run, has_faults: bool) -> Self {
        let random = run.random.fork();
        // What is dense in minutes would be a flood in a day.
        let stretch = if run.world.plan.family == Family::Long { 100.0 } else { 1.0 };
        let of_knob = |knob: &Knob| match knob.kind.setting {
            Setting::Act(act, every) => Some((act, every.mul_f64(stretch / (0.1 + knob.strength)))),
            _ => None,
        };
        let mut acts: Vec<_> =
            if has_faults { run.world.plan.knobs.iter().filter_map(of_knob).collect() } else { Vec::new() };
        if let Family::Lag(scenario) = run.world.plan.family {
            acts.extend(scenario.act().map(|act| (act, MINUTE / 2)));
        }
        Self { acts, random, next: None }
    }

    /// The next act, when its time has come. It may be dropped and asked again.
    async fn next(&mut self) -> Act {
        if self.next.is_none() {
            let now = tokio::time::Instant::now();
            let random = &mut self.random;
            // The first of several independent ones.
            let due = self.acts.iter().map(|(act, every)| (*act, now + every.mul_f64(-(1.0 - random.f64()).ln())));
            self.next = due.min_by_key(|(_, at)| *at);
        }
        match self.next {
            None => std::future::pending().await,
            Some((act, at)) => {
                tokio::time::sleep_until(at).await;
                self.next = None;
                act
            }
        }
    }
}
