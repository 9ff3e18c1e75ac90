//! What a seed means: the world, the workload, the faults and the life of the process, all drawn before anything runs.
//!
//! A knob can be left out without changing what else was drawn: that is how a failing run is shrunk.

use std::fmt;
use std::time::Duration;

use dynaferry::sandbox::Options;

use crate::clocks::Drift;
use crate::fleet;
use crate::knobs::{Act, CONFLICT, KINDS, Kind, Setting};
use crate::run::landing;
use crate::world::STATE;

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    /// A bit of everything.
    Mix,
    /// The process is down for 25 hours and more.
    Down25,
    /// For 72 hours.
    Down72,
    /// The stream is turned off, and on again later under a new name.
    Replaced,
    /// The source table is made anew under its name.
    Recreated,
    /// Quiet faults, and the lag is compared with the truth every second.
    Lag(LagScenario),
    /// The process lives all the time.
    Long,
    /// Several workers, one of which has the link.
    Fleet,
    /// The load is made from an export.
    Exports,
    /// Several workers and several links.
    Links,
    /// Several workers, whose writes go through gates.
    Fenced,
    /// Several workers that share the shards of one link.
    Parts,
}

/// Where the lag is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LagScenario {
    Idle,
    Burst,
    StuckShard,
    Split,
    Throttle,
    Skew,
    Down,
    Restart,
    Load,
    /// The process stands still for a while.
    Pause,
    /// Much of what the stream holds is read and not written: the load has it.
    Filter,
}

impl LagScenario {
    /// What is done to the world meanwhile.
    pub(crate) fn act(self) -> Option<Act> {
        match self {
            Self::StuckShard => Some(Act::StreamOutage),
            Self::Split => Some(Act::SplitShard),
            Self::Throttle => Some(Act::TargetThrottle),
            Self::Pause => Some(Act::Freeze),
            _ => None,
        }
    }

    /// Those that a family is drawn from.
    const FIRST: [Self; 9] = [
        Self::Idle,
        Self::Burst,
        Self::StuckShard,
        Self::Split,
        Self::Throttle,
        Self::Skew,
        Self::Down,
        Self::Restart,
        Self::Load,
    ];

    /// Two came later; seeds that were known by then mostly mean what they meant.
    fn or_later_one(self, random: &mut fastrand::Rng) -> Self {
        match random.u32(0..11) {
            0 => Self::Pause,
            1 => Self::Filter,
            _ => self,
        }
    }
}

impl Family {
    /// The names that the command line takes.
    pub(crate) const NAMES: [&'static str; 13] = [
        "mix",
        "down25",
        "down72",
        "replaced",
        "recreated",
        "lag",
        "long",
        "outages",
        "fleet",
        "links",
        "fenced",
        "parts",
        "exports",
    ];

    fn draw(random: &mut fastrand::Rng) -> Self {
        match random.u32(0..100) {
            0..80 => Self::Mix,
            80..84 => Self::Down25,
            84..87 => Self::Down72,
            87..91 => Self::Replaced,
            91..93 => Self::Recreated,
            93..98 => Self::Lag(random.choice(LagScenario::FIRST).unwrap_or(LagScenario::Idle)),
            _ => Self::Long,
        }
    }

    fn named(name: &str, random: &mut fastrand::Rng) -> Option<Self> {
        Some(match name {
            "mix" => Self::Mix,
            "down25" => Self::Down25,
            "down72" => Self::Down72,
            "replaced" => Self::Replaced,
            "recreated" => Self::Recreated,
            "lag" => Self::Lag(random.choice(LagScenario::FIRST)?),
            "fleet" => Self::Fleet,
            "exports" => Self::Exports,
            "links" => Self::Links,
            "fenced" => Self::Fenced,
            "parts" => Self::Parts,
            "long" => Self::Long,
            "outages" => random.choice([Self::Down25, Self::Down72, Self::Replaced, Self::Recreated])?,
            _ => return None,
        })
    }

    /// Whether there are several workers, whose state is in a table.
    pub(crate) fn has_workers(self) -> bool {
        matches!(self, Self::Fleet | Self::Links | Self::Fenced | Self::Parts)
    }

    /// Whether history is lost in every run of it.
    pub(crate) fn always_loses_history(self) -> bool {
        matches!(self, Self::Down25 | Self::Down72 | Self::Replaced)
    }
}

/// The primary key of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyShape {
    Text,
    TextAndNumber,
    Number,
    BytesAndText,
}

/// How the source is written during an episode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writing {
    /// Changes.
    pub(crate) count: usize,
    /// Longest pause between two.
    pub(crate) pause: Duration,
    /// How much the first keys are preferred: 1 for not at all.
    pub(crate) skew: u32,
    /// Changes that come without a pause, now and then.
    pub(crate) burst: usize,
}

/// How an episode ends for the process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ending {
    /// It goes on.
    LeaveRunning,
    /// SIGKILL, when the episode is over.
    Kill,
    /// SIGKILL at the so manieth step of its I/O from the beginning of the episode.
    KillAtStep(u64),
    /// SIGTERM.
    Stop,
    /// SIGTERM, and SIGKILL so much later.
    StopThenKill(Duration),
}

/// A stretch of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Episode {
    /// Whether the knobs are in force.
    pub(crate) has_faults: bool,
    pub(crate) writing: Writing,
    /// Nobody writes, and the process runs, so much longer.
    pub(crate) idle: Duration,
    pub(crate) ending: Ending,
    /// The process stays away so much longer, if it ended.
    pub(crate) down: Duration,
    /// Changes made meanwhile.
    pub(crate) writes_while_down: usize,
    pub(crate) drift: Drift,
}

/// A knob that is turned on.
#[derive(Debug, Clone)]
pub(crate) struct Knob {
    pub(crate) kind: &'static Kind,
    /// How strong, between 0 and 1.
    pub(crate) strength: f64,
    /// For what it draws by itself.
    pub(crate) seed: u64,
}

/// The name by which all stages are left out: knobs that are not always on, but come once, between or before the writing.
pub(crate) const STAGES: &str = "stages";

/// A run.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) family: Family,
    pub(crate) keys: usize,
    pub(crate) shape: KeyShape,
    view: &'static str,
    /// Big items, up to the limit of the service.
    pub(crate) has_big_items: bool,
    /// How old the source's history is when the process first starts.
    pub(crate) age: Duration,
    /// Changes before the first start.
    pub(crate) writes_before: usize,
    pub(crate) episodes: Vec<Episode>,
    pub(crate) settings: Settings,
    pub(crate) knobs: Vec<Knob>,
    has_stages: bool,
    world: Options,
}

/// What the configuration says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) segments: u32,
    pub(crate) concurrency: u32,
    pub(crate) batch_items: u32,
    pub(crate) max_in_flight: u32,
    pub(crate) concurrent_shards: u32,
    pub(crate) poll_min: Duration,
    pub(crate) poll_max: Duration,
    pub(crate) discovery: Duration,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) checkpoint_records: u32,
    pub(crate) look_ahead_records: u32,
    pub(crate) in_doubt_for: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) drain: Duration,
    /// What the target refuses is set aside; else the link stops.
    pub(crate) dead_letters: bool,
}

const VIEWS: [&str; 8] = [
    "NEW_AND_OLD_IMAGES",
    "NEW_AND_OLD_IMAGES",
    "NEW_AND_OLD_IMAGES",
    "NEW_IMAGE",
    "NEW_IMAGE",
    "NEW_IMAGE",
    "KEYS_ONLY",
    "OLD_IMAGE",
];

/// The least that a run lasts.
pub(crate) const LEAST_LIFE: Duration = Duration::from_secs(30 * 3600);

fn between(random: &mut fastrand::Rng, least: Duration, most: Duration) -> Duration {
    // Even over orders of magnitude.
    let (least, most) = (least.as_secs_f64().max(0.001).ln(), most.as_secs_f64().max(0.001).ln());
    Duration::from_millis((least + (most - least) * random.f64()).exp().mul_add(1000.0, 0.0) as u64)
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How imports go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImportPlan {
    pub(crate) takes: Duration,
    /// They fail for so long, and then do no more.
    pub(crate) fail_for: Duration,
    /// With this share of the items in a table that stays.
    pub(crate) leaves: f64,
    /// The chance that an item is refused.
    pub(crate) rejects: f64,
}

impl Plan {
    /// The plan of a seed; `family` by name, if one is wanted.
    pub(crate) fn draw(seed: u64, family: Option<&str>) -> Self {
        // Each part draws by itself, so that a change of one leaves the others of a known seed as they were.
        let random = &mut draws(seed, "family");
        let drawn = Family::draw(random);
        let family = match family.and_then(|name| Family::named(name, random)).unwrap_or(drawn) {
            Family::Lag(scenario) => Family::Lag(scenario.or_later_one(&mut draws(seed, "lag"))),
            other => other,
        };
        let random = &mut draws(seed, "workload");
        let mut plan = Self {
            seed,
            family,
            keys: random.usize(1..40).max(random.usize(1..40)),
            shape: random
                .choice([KeyShape::Text, KeyShape::TextAndNumber, KeyShape::Number, KeyShape::BytesAndText])
                .unwrap_or(KeyShape::Text),
            view: random.choice(VIEWS).unwrap_or("NEW_IMAGE"),
            has_big_items: random.f64() < 0.05,
            age: if random.bool() { between(random, SECOND, 40 * HOUR) } else { SECOND },
            writes_before: random.usize(0..80),
            episodes: draw_episodes(&mut draws(seed, "episodes"), family),
            settings: Settings::draw(&mut draws(seed, "settings"), family),
            knobs: draw_knobs(seed, family),
            has_stages: true,
            world: draw_world(seed, &mut draws(seed, "world")),
        };
        if let Family::Lag(scenario) = family {
            plan.calm(scenario);
        }
        if family.has_workers() {
            plan.settings.in_doubt_for = fleet::IN_DOUBT_FOR;
            plan.settings.poll_max = plan.settings.poll_max.min(5 * SECOND);
        }
        if family == Family::Parts {
            // There are no more parts than that.
            plan.settings.max_in_flight = plan.settings.max_in_flight.max(2);
            plan.settings.concurrent_shards = plan.settings.concurrent_shards.max(2);
        }
        plan
    }

    /// From the export until the process first starts, and how many changes are made meanwhile; `None`: the load is a scan.
    pub(crate) fn export(&self) -> Option<(Duration, usize)> {
        let random = &mut draws(self.seed, "export");
        (self.family == Family::Exports).then(|| (between(random, SECOND, 20 * HOUR), random.usize(0..60)))
    }

    /// Whether the link makes its export itself: how long that takes, and for how long exports fail; `None`: an operator
    /// made it.
    pub(crate) fn own_export(&self) -> Option<(Duration, Duration)> {
        let random = &mut draws(self.seed, "own export");
        let is_own = self.family == Family::Exports && random.bool();
        // Two of them at most: the third one is begun three quarters of an hour after the first one, at the soonest.
        let fail_for = |random: &mut fastrand::Rng| if random.u8(0..3) == 0 { 40 * MINUTE } else { Duration::ZERO };
        let drawn = is_own.then(|| (between(random, SECOND, 10 * HOUR), fail_for(random)));
        drawn.map(|(takes, fail_for)| {
            self.windows().map_or((takes, fail_for), |windows| (windows.export_takes, Duration::ZERO))
        })
    }

    /// Whether the link's own export takes longer than the stream keeps, so that incremental ones must go on from it.
    pub(crate) fn windows(&self) -> Option<Windows> {
        let random = &mut draws(self.seed, "windows");
        let is_own = self.family == Family::Exports && draws(self.seed, "own export").bool();
        let longest = random.choice([MINUTE, HOUR, 6 * HOUR]).unwrap_or(HOUR);
        let windows = Windows {
            export_takes: between(random, 19 * HOUR, 54 * HOUR),
            windows_take: between(random, SECOND, longest),
            recovery_is_switched: random.u8(0..8) == 0,
            fail: random.u8(0..8) == 0,
        };
        (is_own && random.bool()).then_some(windows)
    }

    /// Whether what was exported is imported by the target's account; `None`: the link loads it.
    pub(crate) fn import(&self) -> Option<ImportPlan> {
        let random = &mut draws(self.seed, "import");
        let is_imported = self.family == Family::Exports && random.f64() < 0.4;
        let longest = if random.u8(0..6) == 0 { 30 * HOUR } else { 10 * HOUR };
        let takes = between(random, SECOND, longest);
        // Two of them at most, as of exports.
        let fail_for = if random.u8(0..3) == 0 { 40 * MINUTE } else { Duration::ZERO };
        let leaves = if random.bool() { 0.5 } else { 0.0 };
        let rejects = if random.u8(0..3) == 0 { 0.1 } else { 0.0 };
        is_imported.then_some(ImportPlan { takes, fail_for, leaves, rejects })
    }

    /// How late a write may be delivered: before it is no longer in doubt, also where it had waited in a frozen process.
    pub(crate) fn longest_delivery(&self) -> Duration {
        let Settings { in_doubt_for, .. } = self.settings;
        if self.family.has_workers() { in_doubt_for / 2 } else { in_doubt_for }
    }

    /// Quiet faults, and a world in which the lag can be known.
    fn calm(&mut self, scenario: LagScenario) {
        self.settings.poll_max = self.settings.poll_max.min(5 * SECOND);
        if scenario == LagScenario::Load {
            self.writes_before = 400;
            self.settings.segments = 1;
        }
        if scenario == LagScenario::Filter {
            // Half of them at the beginning, and longer ago than the load looks back.
            (self.age, self.writes_before) = (20 * MINUTE, 400);
        }
        if scenario == LagScenario::Burst {
            self.episodes.iter_mut().for_each(|episode| episode.writing.burst = 200);
        }
        if scenario == LagScenario::Skew {
            let millis = if self.seed.is_multiple_of(2) { 60_000 } else { -60_000 };
            self.episodes.iter_mut().for_each(|episode| episode.drift.offset_millis = millis);
        }
    }

    /// The options of the sandbox, with the knobs that change the world itself.
    pub(crate) fn world(&self) -> Options {
        let mut options = self.world.clone();
        for knob in &self.knobs {
            if let Setting::World(set) = knob.kind.setting {
                set(&mut options, knob.strength, &mut fastrand::Rng::with_seed(knob.seed));
            }
        }
        if self.has_knob("scan.stale") {
            options.stale_reads = MINUTE;
        }
        options
    }

    /// Bytes that may be read beyond the checkpoints: as usual, or little where items are big.
    pub(crate) fn look_ahead_bytes(&self) -> usize {
        if self.has_knob("items.big") { 4 << 20 } else { 32 << 20 }
    }

    /// How long the process may take to drain: not long enough for a write that is not answered, where it is to be stopped
    /// over one.
    fn drain(&self) -> Duration {
        let Settings { drain, attempt_timeout, .. } = self.settings;
        if self.stage(landing::KNOB).is_some() || self.has_knob("worker.stop_over_write") {
            drain.min(attempt_timeout / 2)
        } else {
            drain
        }
    }

    /// Whether more is written than may be read ahead while the target takes nothing.
    pub(crate) fn fills_look_ahead(&self) -> bool {
        self.has_stages_of_one() && self.has_knob("items.big") && draws(self.seed, "narrow look ahead").f64() < 0.5
    }

    /// Whether a worker of a fleet is cut off from its state while it has much left to send.
    pub(crate) fn has_backlogs(&self) -> bool {
        self.has_stages && self.family.has_workers()
    }

    /// Of a process that runs alone.
    fn has_stages_of_one(&self) -> bool {
        self.has_stages && !self.family.has_workers() && self.family != Family::Exports
    }

    /// Whether the source table is made anew under a process that is at work.
    pub(crate) fn is_made_anew_while_it_runs(&self) -> bool {
        self.has_stages && self.family == Family::Recreated && draws(self.seed, "made anew while it runs").f64() < 0.5
    }

    /// The knob of a stage, if it is on.
    pub(crate) fn stage(&self, name: &str) -> Option<&Knob> {
        self.knobs.iter().find(|knob| self.has_stages_of_one() && knob.kind.name == name)
    }

    /// Which images the stream's records carry.
    pub(crate) fn view(&self) -> &'static str {
        // Where images are read at the table, which is another one by then.
        if self.is_made_anew_while_it_runs() { "KEYS_ONLY" } else { self.view }
    }

    /// Whether a knob is on.
    pub(crate) fn has_knob(&self, name: &str) -> bool {
        self.knobs.iter().any(|knob| knob.kind.name == name)
    }

    /// Leaves a knob out.
    pub(crate) fn without(mut self, names: &[String]) -> Self {
        self.has_stages &= !names.iter().any(|name| name == STAGES);
        self.knobs.retain(|knob| !names.iter().any(|name| name == knob.kind.name));
        self
    }

    /// The link's settings as lines of the configuration.
    pub(crate) fn config(&self) -> String {
        let s = &self.settings;
        // Where there are several workers, their lease goes with the table.
        let store = match self.family.has_workers() {
            true => format!("dynamodb:{STATE}\"\nlease = \"{}ms", fleet::LEASE.as_millis()),
            false => "file:unused".to_owned(),
        };
        let sharing = if self.family == Family::Parts { "sharing = true\n" } else { "" };
        format!(
            "[checkpoint]\nstore = \"{store}\"\n{sharing}interval = {}\nrecords = {}\n[service]\ndrain = {}\n",
            millis(s.checkpoint_interval),
            s.checkpoint_records,
            millis(self.drain()),
        )
    }

    /// The settings of a link.
    pub(crate) fn config_of_link(&self) -> String {
        let s = &self.settings;
        format!(
            "load.segments = {}\nload.concurrency = {}\napply.batch_items = {}\napply.max_in_flight = {}\n\
             apply.on_rejected = \"{}\"\napply.look_ahead_records = {}\napply.in_doubt_for = {}\napply.attempt_timeout = {}\n\
             apply.look_ahead_bytes = \"{}MiB\"\nstream.max_concurrent_shards = {}\nstream.poll_min = {}\nstream.poll_max = {}\n\
             stream.discovery_interval = {}\nload.read_capacity = 100000\napply.write_capacity = 100000\n\
             verify.rate = 100000\n{}",
            s.segments,
            s.concurrency,
            s.batch_items,
            s.max_in_flight,
            if s.dead_letters { "dead_letter" } else { "stop" },
            s.look_ahead_records,
            millis(s.in_doubt_for),
            millis(s.attempt_timeout),
            self.look_ahead_bytes() >> 20,
            s.concurrent_shards,
            millis(s.poll_min),
            millis(s.poll_max),
            millis(s.discovery),
            if self.family == Family::Fenced { "apply.fence = \"transaction\"\n" } else { "" },
        )
    }

    /// How many links there are.
    pub(crate) fn num_links(&self) -> usize {
        if self.family == Family::Links { draws(self.seed, "links").usize(2..=5) } else { 1 }
    }
}

fn millis(time: Duration) -> String {
    format!("\"{}ms\"", time.as_millis())
}

/// A load that outlasts the stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    /// How long the full export takes.
    pub(crate) export_takes: Duration,
    /// And each of what was changed meanwhile.
    pub(crate) windows_take: Duration,
    /// Point-in-time recovery is off for a moment meanwhile.
    pub(crate) recovery_is_switched: bool,
    /// Those of windows fail for some time.
    pub(crate) fail: bool,
}

impl Settings {
    fn draw(random: &mut fastrand::Rng, family: Family) -> Self {
        let poll_min = between(random, 50 * MS, SECOND);
        // A process that lives for hours polls and lists seldom, or a run would take minutes.
        let is_long = family == Family::Long;
        let slowest = if is_long { (45 * SECOND, MINUTE) } else { (SECOND, MINUTE) };
        Self {
            segments: random.u32(1..9),
            concurrency: random.u32(1..5),
            batch_items: random.u32(1..=25),
            max_in_flight: random.u32(1..=16),
            concurrent_shards: random.u32(1..9),
            poll_min,
            poll_max: between(random, slowest.0, slowest.1).max(poll_min),
            discovery: between(random, if is_long { 5 * MINUTE } else { 10 * SECOND }, 10 * MINUTE),
            checkpoint_interval: between(random, 100 * MS, 30 * SECOND),
            checkpoint_records: random.u32(1..1000),
            look_ahead_records: if random.bool() { 1000 } else { 10_000 },
            in_doubt_for: random.choice([16 * MINUTE, 16 * MINUTE, MINUTE]).unwrap_or(16 * MINUTE),
            attempt_timeout: between(random, 200 * MS, 10 * SECOND),
            drain: random.choice([20 * SECOND, 20 * SECOND, SECOND]).unwrap_or(20 * SECOND),
            dead_letters: random.f64() < 0.7,
        }
    }
}

fn draw_world(seed: u64, random: &mut fastrand::Rng) -> Options {
    Options {
        seed,
        // Each shard costs some calls, and a run lives 30 hours: more of them come by acts.
        shard_life: between(random, HOUR, 4 * HOUR),
        split_chance: random.f64() * 0.5,
        initial_shards: 1..=random.usize(1..4),
        max_open_shards: random.usize(1..5),
        final_page_with_records_chance: random.f64(),
        max_page_records: random.usize(20..300),
        max_page_bytes: random.usize(2_000..200_000),
        ..Options::default()
    }
}

/// A random part of the kinds, each with a strength of its own.
fn draw_knobs(seed: u64, family: Family) -> Vec<Knob> {
    let random = &mut draws(seed, "share");
    let share = match family {
        Family::Lag(_) => 0.0,
        _ if random.f64() < 0.05 => 0.0,
        _ => random.f64() * 0.35,
    };
    let draw = |kind: &'static Kind| {
        let random = &mut draws(seed, kind.name);
        let (chance, strength, seed) = (random.f64(), random.f64(), random.u64(..));
        (chance < share).then_some(Knob { kind, strength, seed })
    };
    let is_fair = |kind: &&Kind| match kind.name {
        // What is trimmed before its time, while the load goes on, is lost where nobody can see it.
        name if EARLY_TRIMS.contains(&name) => family != Family::Exports,
        CONFLICT => family == Family::Fenced,
        _ => true,
    };
    KINDS.iter().filter(is_fair).filter_map(draw).collect()
}

/// No service does that: a stream keeps what it has for 24 hours, and the children of what it has.
const EARLY_TRIMS: [&str; 3] = ["trim.early_at_any_moment", "trim.all", "shard.vanish"];

/// The generator of one part of a plan.
fn draws(seed: u64, part: &str) -> fastrand::Rng {
    // FNV-1a: the same on every machine, for ever.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = seed.to_be_bytes().into_iter().chain(part.bytes());
    fastrand::Rng::with_seed(bytes.fold(0xcbf2_9ce4_8422_2325, mix))
}

fn draw_writing(random: &mut fastrand::Rng) -> Writing {
    Writing {
        count: if random.f64() < 0.15 { 0 } else { random.usize(1..120) },
        pause: between(random, MS, 2 * SECOND),
        skew: random.u32(1..5),
        burst: if random.f64() < 0.3 { random.usize(10..80) } else { 0 },
    }
}

fn draw_ending(random: &mut fastrand::Rng) -> Ending {
    match random.u32(0..10) {
        0..2 => Ending::LeaveRunning,
        2..4 => Ending::Kill,
        4..7 => Ending::KillAtStep(between(random, 2 * MS, 2 * SECOND).as_millis() as u64),
        7..9 => Ending::Stop,
        _ => Ending::StopThenKill(between(random, MS, 10 * SECOND)),
    }
}

fn draw_drift(random: &mut fastrand::Rng) -> Drift {
    if random.f64() < 0.8 {
        return Drift::default();
    }
    // Sometimes so much that signatures are refused, where they are checked.
    let most = if random.f64() < 0.1 { 600_000 } else { 120_000 };
    Drift { offset_millis: random.i64(-most..most), millis_per_hour: random.i64(-2_000..2_000) }
}

fn draw_episodes(random: &mut fastrand::Rng, family: Family) -> Vec<Episode> {
    let count = random.usize(2..6);
    let mut episodes: Vec<Episode> = (0..count)
        .map(|n| {
            let ending = draw_ending(random);
            let is_last = n + 1 == count;
            Episode {
                has_faults: random.f64() < 0.8,
                writing: draw_writing(random),
                idle: if random.f64() < 0.3 { between(random, SECOND, 30 * MINUTE) } else { Duration::ZERO },
                ending: if is_last && ending == Ending::LeaveRunning { Ending::Kill } else { ending },
                down: if random.f64() < 0.3 { between(random, SECOND, 20 * HOUR) } else { SECOND },
                writes_while_down: random.usize(0..30),
                drift: draw_drift(random),
            }
        })
        .collect();
    let which = random.usize(0..count);
    match family {
        Family::Down25 | Family::Down72 => {
            let down = if family == Family::Down25 { 25 * HOUR } else { 72 * HOUR };
            let episode = &mut episodes[which];
            episode.down = down + between(random, SECOND, HOUR);
            episode.writes_while_down = episode.writes_while_down.max(10);
            if episode.ending == Ending::LeaveRunning {
                episode.ending = Ending::Kill;
            }
        }
        Family::Long => {
            episodes.truncate(2);
            for episode in &mut episodes {
                episode.idle = 15 * HOUR;
                episode.ending = Ending::LeaveRunning;
            }
        }
        Family::Lag(scenario) => {
            episodes.truncate(3);
            for episode in &mut episodes {
                episode.has_faults = false;
                episode.idle = 2 * MINUTE;
                episode.drift = Drift::default();
                episode.ending = match scenario {
                    LagScenario::Restart => Ending::Stop,
                    LagScenario::Down => Ending::Kill,
                    _ => Ending::LeaveRunning,
                };
                episode.down = if scenario == LagScenario::Down { 5 * MINUTE } else { SECOND };
            }
        }
        Family::Mix
        | Family::Replaced
        | Family::Recreated
        | Family::Fleet
        | Family::Links
        | Family::Fenced
        | Family::Parts
        | Family::Exports => {}
    }
    pad(&mut episodes);
    episodes
}

/// A run lasts 30 hours at least: what is missing, the process is away, in two parts that lose nothing each.
fn pad(episodes: &mut [Episode]) {
    let planned: Duration = episodes.iter().map(|episode| episode.idle + episode.down).sum();
    let missing = LEAST_LIFE.saturating_sub(planned);
    let stopped = episodes.iter_mut().filter(|episode| episode.ending != Ending::LeaveRunning);
    let mut stopped: Vec<&mut Episode> = stopped.filter(|episode| episode.down < 20 * HOUR).collect();
    let Ok(parts) = u32::try_from(stopped.len()) else { return };
    if parts > 0 {
        stopped.iter_mut().for_each(|episode| episode.down += missing / parts);
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {:?}, {} keys ({:?}), history of {:?}",
            self.seed, self.family, self.keys, self.shape, self.age
        )?;
        writeln!(f, "  {:?}", self.settings)?;
        for (n, episode) in self.episodes.iter().enumerate() {
            writeln!(f, "  episode {n}: {episode:?}")?;
        }
        let world = self.world();
        writeln!(
            f,
            "  world: shards live {:?}, split {:.2}, {:?} at first, up to {} open, pages of {} records / {} bytes",
            world.shard_life,
            world.split_chance,
            world.initial_shards,
            world.max_open_shards,
            world.max_page_records,
            world.max_page_bytes
        )?;
        if let Some(import) = self.import() {
            writeln!(f, "  {import:?}")?;
        }
        for knob in &self.knobs {
            writeln!(f, "  knob {} at {:.3}", knob.kind.name, knob.strength)?;
        }
        Ok(())
    }
}
