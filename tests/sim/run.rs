//! One seed, from its plan to its verdict.

mod acts;
mod ending;
mod lag;
pub(crate) mod landing;
pub(crate) mod outage;
mod process;
pub(crate) mod stale;
mod windows;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use dynaferry::context::WallClock as _;
use dynaferry::model::WallTime;

use crate::clocks::Drift;
use crate::fleet;
use crate::judge::Violation;
use crate::knobs::Act;
use crate::plan::{Ending, Episode, Family, LEAST_LIFE, Plan};
use crate::state::StateTrouble;
use crate::trace::{LogSink, Trace, VirtualTime};
use crate::workload::Writer;
use crate::world::{REGION, SOURCE, TABLE, World};

pub(crate) use acts::rules;
pub(crate) use process::is_bug;

use acts::Actor;
use process::Process;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a run may take on its clock; one that does not end is stuck.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

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
        let outcome = match plan.family {
            Family::Fleet | Family::Links | Family::Fenced | Family::Parts => fleet::run(plan, trace).await,
            _ => Run::new(plan, trace).run().await,
        };
        drop(logged);
        outcome
    };
    runtime.block_on(running)
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
        if let Some((takes, fail_for)) = self.world.plan.own_export() {
            self.world.let_export(takes, fail_for);
            if let Some(windows) = self.world.plan.windows() {
                self.outlast_stream(windows).await;
            }
        } else if let Some((wait, writes)) = self.world.plan.export() {
            // A stream must be older than an export.
            tokio::time::sleep(6 * MINUTE).await;
            self.world.export();
            self.stay_away(wait, writes).await;
        }
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
        let landing = self.landing_of(n);
        if let Some((random, true)) = &landing {
            self.outlive_process(episode, random.clone(), true).await;
        } else if n == 0 && self.world.plan.stage(stale::KNOB).is_some() {
            self.load_stale_page(episode).await;
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
        if let Some((random, false)) = landing {
            self.outlive_process(episode, random, false).await;
        }
        if n == 0 && self.world.plan.fills_look_ahead() {
            self.fill_look_ahead(episode).await;
        }
        if let Some(random) = self.outage_of(n) {
            self.target_is_away(episode, random).await;
        }
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
}
