//! What is done to the world meanwhile: knobs turned on and off, acts as their time comes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dynaferry::sandbox::{FaultKind, FaultRule, Trigger};

use super::{MINUTE, Run, SECOND};
use crate::knobs::{Act, Setting, rule_of};
use crate::plan::{Family, Knob, Plan};
use crate::state::StateFaults;
use crate::workload::POISON;
use crate::world::{COPY, REGION, SOURCE, TABLE, TARGET};

/// Shards of a stream, and open ones, beyond which none is split or rolled over by an act.
const MOST_SHARDS: usize = 100;
const MOST_OPEN: usize = 8;

impl Run {
    /// All knobs as drawn.
    pub(super) fn turn_on(&self) {
        self.turn_on_with(Vec::new());
    }

    /// All knobs as drawn, and these rules before them.
    pub(super) fn turn_on_with(&self, first: Vec<FaultRule>) {
        let plan = &self.world.plan;
        let mut state = StateFaults::default();
        for Knob { kind, strength, .. } in &plan.knobs {
            if let Setting::State(set) = kind.setting {
                set(&mut state, *strength);
            }
        }
        self.world.trouble.set(state);
        self.world.set_faults(first.into_iter().chain(rules(plan)).collect());
    }

    pub(super) fn turn_off_acts(&self) {
        self.world.trouble.set_down(false);
        if let Some(process) = &self.process {
            process.gate.set_frozen(false);
        }
    }

    pub(super) async fn act(&mut self, act: Act) {
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
    pub(super) async fn recreate_source(&mut self, writes: usize) {
        if self.world.plan.is_made_anew_while_it_runs() {
            let time = self.world.plan.settings.poll_max * 3 + MINUTE;
            self.supervise(&mut Actor::idle(), None, tokio::time::sleep(time)).await;
            self.writer.change_each();
        }
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
    pub(super) async fn replace_stream(&mut self, writes: usize) {
        let off = format!(r#"{{"TableName":"{TABLE}","StreamSpecification":{{"StreamEnabled":false}}}}"#);
        drop(self.world.sandbox.call(SOURCE, REGION, "UpdateTable", &off));
        self.writer.write_now(writes);
        tokio::time::sleep(SECOND.mul_f64(1.0 + 60.0 * self.random.f64())).await;
        self.writer.write_now(writes);
        self.enable_stream().await;
    }

    /// Turns the stream on; what is already on stays as it is.
    pub(super) async fn enable_stream(&self) {
        for _ in 0..120 {
            // While the table is being changed, it cannot be changed.
            match self.world.sandbox.enable_stream(SOURCE, REGION, TABLE, self.world.plan.view()) {
                Ok(_) => return,
                Err(error) if error.message.contains("already") => return,
                Err(_) => tokio::time::sleep(SECOND).await,
            }
        }
    }
}

/// What a plan's knobs do to calls.
pub(crate) fn rules(plan: &Plan) -> Vec<FaultRule> {
    let of_knob = |knob: &Knob| rule_of(knob.kind.setting, knob.strength, knob.seed);
    let mut rules: Vec<FaultRule> = plan.knobs.iter().flat_map(of_knob).collect();
    if plan.family == Family::Fenced {
        let of_writes = rules.iter().filter(|rule| rule.operation == "BatchWriteItem");
        let of_transactions =
            of_writes.map(|rule| FaultRule::new("TransactWriteItems", rule.trigger, rule.kind.clone()).for_table(COPY));
        rules = of_transactions.chain(rules.iter().cloned()).collect();
    }
    let longest = plan.longest_delivery();
    for rule in &mut rules {
        // A late write comes before its signature has expired: knobs say it for a minute.
        if let FaultKind::DeliverLate(time) | FaultKind::TimeOutAndDeliverLate(time) = &mut rule.kind {
            *time = time.mul_f64(longest.as_secs_f64() / 60.0);
        }
    }
    rules
}

fn act_name(act: Act) -> &'static str {
    let of_act = |kind: &&crate::knobs::Kind| matches!(kind.setting, Setting::Act(this, _) if this == act);
    crate::knobs::KINDS.iter().find(of_act).map_or("act", |kind| kind.name)
}

/// What is done to the world, and when.
pub(super) struct Actor {
    pub(super) acts: Vec<(Act, Duration)>,
    pub(super) random: fastrand::Rng,
    pub(super) next: Option<(Act, tokio::time::Instant)>,
}

impl Actor {
    pub(super) fn idle() -> Self {
        Self { acts: Vec::new(), random: fastrand::Rng::with_seed(0), next: None }
    }

    pub(super) fn new(run: &mut Run, has_faults: bool) -> Self {
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
    pub(super) async fn next(&mut self) -> Act {
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
