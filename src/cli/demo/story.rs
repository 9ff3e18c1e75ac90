//! What happens when, and what is said about it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::replicator::{IN_DOUBT_FOR, Replicator};
use crate::cli::args::ProgressKind;
use crate::cli::example::{Example, REGION, SOURCE_ACCOUNT, TABLE, TARGET_ACCOUNT};
use crate::cli::format::{count, counted, percent, span};
use crate::cli::sandbox::Budget;
use crate::cli::session::{Ended, Session};
use crate::cli::status::{self, LinkView};
use crate::context::{SystemClock, WallClock as _};
use crate::error::{Error, Exit, Result};
use crate::model::WallTime;
use crate::sandbox::{FaultKind, FaultRule, Faults, Sandbox, Snapshot, Trigger};

/// How often the replicator is looked at: often enough to meet the load half-way.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often the writer wakes up.
const WRITE_EVERY: Duration = Duration::from_millis(50);
/// Between two changes of the shards by hand.
const RESHARD_EVERY: Duration = Duration::from_secs(7);
/// Without a terminal, between two lines about how it goes.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// In which everything must have arrived after the last write.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(90);

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) items: u64,
    pub(super) rate: u32,
    pub(super) duration: Duration,
    pub(super) forever: bool,
}

impl Plan {
    /// A part of the way; of a minute when there is no end.
    fn at(&self, share: f64) -> Duration {
        if self.forever { Duration::from_secs(60).mul_f64(share) } else { self.duration.mul_f64(share) }
    }
}

/// The demo while it runs.
pub(super) struct Story<'a> {
    session: &'a Session,
    plan: Plan,
    sandbox: Sandbox,
    writer: Option<Example>,
    replicator: Replicator,
    endpoint: SocketAddr,
    started: Instant,
    changes: Arc<AtomicU64>,
    live: Option<ProgressBar>,
    told_at: Duration,
    done: Done,
}

/// What has happened already.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    killed_in_load: bool,
    loaded: bool,
    faults_since: Option<Duration>,
    faults_over: Option<Duration>,
    killed_in_stream: bool,
}

impl<'a> Story<'a> {
    pub(super) fn new(
        session: &'a Session,
        plan: Plan,
        example: Example,
        replicator: Replicator,
        endpoint: SocketAddr,
    ) -> Self {
        Self {
            session,
            plan,
            sandbox: example.sandbox.clone(),
            writer: Some(example),
            replicator,
            endpoint,
            started: Instant::now(),
            changes: Arc::default(),
            live: None,
            told_at: Duration::ZERO,
            done: Done::default(),
        }
    }

    /// Everything, from the first line to the last.
    pub(super) async fn tell(mut self) -> Result<Ended> {
        self.introduce();
        let told = self.run_to_the_end().await;
        self.session.screen.hide_bars();
        match told {
            Ok(()) => {
                self.replicator.clean_up();
                Ok(Ended::DONE)
            }
            Err(error) => {
                let hint = format!("the replicator's log: {}", self.replicator.log().display());
                Err(error.hint(hint))
            }
        }
    }

    async fn run_to_the_end(&mut self) -> Result<()> {
        self.launch("dynaferry starts, in a process of its own")?;
        let stop_writes = self.session.stop.token().child_token();
        let writer = self
            .writer
            .take()
            .map(|example| write(example, self.plan.rate, Arc::clone(&self.changes), stop_writes.clone()));
        let Some(writer) = writer else { return Ok(()) };
        let act = self.act(&stop_writes);
        let (written, acted) = tokio::join!(writer, act);
        written.and(acted)?;
        let items = self.finish().await?;
        let changes = self.changes.load(Ordering::Relaxed);
        let text = format!("identical: {}, {} replicated", counted(items, "item"), counted(changes, "change"));
        let document = serde_json::json!({
            "schema": "dynaferry.demo/v1", "identical": true, "items": items, "changes": changes,
            "seconds": self.started.elapsed().as_secs_f64(),
        });
        self.session.screen.hide_bars();
        self.session.print(&text, &document)
    }

    fn introduce(&mut self) {
        let wants_lines = matches!(self.session.options.progress, ProgressKind::Auto | ProgressKind::Bar);
        if wants_lines && self.session.screen.is_terminal() && self.session.options.quiet == 0 {
            let live = self.session.screen.show_bars().add(ProgressBar::new_spinner());
            live.set_style(
                ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            self.live = Some(live);
        }
        self.say(&format!("an embedded AWS listens on http://{}; nothing leaves this machine", self.endpoint));
        self.say(&format!(
            "account {SOURCE_ACCOUNT}: table `{TABLE}` with {} of every type",
            counted(self.plan.items, "item")
        ));
        self.say(&format!("account {TARGET_ACCOUNT}: nothing yet"));
        let rate = counted(u64::from(self.plan.rate), "change");
        self.say(&format!("somebody writes: {rate} a second, while shards roll over and split"));
    }

    /// From the first write to the last: what goes wrong, and when.
    async fn act(&mut self, stop_writes: &CancellationToken) -> Result<()> {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = Instant::now();
        // However this ends: nobody writes for a replicator that is gone.
        let _writes_end = stop_writes.clone().drop_guard();
        loop {
            tokio::select! {
                () = stop_writes.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let elapsed = begun.elapsed();
            if !self.plan.forever && elapsed >= self.plan.duration {
                break;
            }
            let link = self.look().await?;
            self.intervene(elapsed, link.as_ref()).await?;
        }
        self.sandbox.set_faults(Faults::default());
        Ok(())
    }

    async fn intervene(&mut self, elapsed: Duration, link: Option<&LinkView>) -> Result<()> {
        let phase = link.map(|link| link.phase.as_str());
        let loaded = link.and_then(|link| link.load).map_or(0, |load| load.items);
        let is_loading = phase == Some("initial_load");
        if is_loading && !self.done.killed_in_load && loaded >= self.plan.items / 2 {
            self.done.killed_in_load = true;
            self.crash("half-way through the load").await?;
            self.say(&format!(
                "  what it was writing may land late: those keys are compared again after {IN_DOUBT_FOR} (16m against AWS)"
            ));
        }
        if matches!(phase, Some("catching_up" | "replicating")) && !self.done.loaded {
            self.done.loaded = true;
            self.say("the load is done; the stream was applied all the while");
        }
        // Each part waits for the one before it, however slow this machine is.
        match (self.done.faults_since, self.done.faults_over) {
            (None, _) if self.done.loaded && elapsed >= self.plan.at(0.3) => {
                self.done.faults_since = Some(elapsed);
                self.sandbox.set_faults(faults());
                self.say("faults on: throttled writes, batches done in part, answers lost, connections reset");
            }
            (Some(since), None) if elapsed >= since + self.plan.at(0.2) => {
                self.done.faults_over = Some(elapsed);
                self.sandbox.set_faults(Faults::default());
                self.sandbox.expire_iterators();
                let failed = counted(self.sandbox.stats().faults, "request");
                self.say(&format!("faults off: {failed} failed; and every iterator expires at once"));
            }
            (_, Some(over)) if !self.done.killed_in_stream && elapsed >= over + self.plan.at(0.1) => {
                self.done.killed_in_stream = true;
                self.crash("in the middle of the stream").await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn crash(&mut self, when: &str) -> Result<()> {
        self.replicator.kill().await?;
        self.say(&format!("kill -9, {when}"));
        self.launch("dynaferry starts again, and goes on from its last checkpoint")
    }

    fn launch(&mut self, what: &str) -> Result<()> {
        let id = self.replicator.start()?;
        self.say(&format!("{what} (pid {id}): http://{}/metrics", self.replicator.listen));
        Ok(())
    }

    /// What the replicator says about itself; `None` while it starts. Shown, too.
    async fn look(&mut self) -> Result<Option<LinkView>> {
        if let Some(status) = self.replicator.ended() {
            let error = Error::new(Exit::Unexpected, format!("the replicator ended: {status}"));
            return Err(error.because(self.replicator.last_words()));
        }
        let document = status::ask(self.replicator.listen).await.ok();
        let link =
            document.and_then(|document| status::view(document).ok()).and_then(|view| view.links.into_iter().next());
        self.show(link.as_ref());
        Ok(link)
    }

    fn show(&mut self, link: Option<&LinkView>) {
        let changes = self.changes.load(Ordering::Relaxed);
        let text = describe(self.started.elapsed(), link, self.plan.items, changes);
        if let Some(live) = &self.live {
            live.set_message(text);
        } else if self.session.options.quiet == 0
            && self.session.options.progress != ProgressKind::None
            && self.started.elapsed() >= self.told_at + TELL_EVERY
        {
            self.told_at = self.started.elapsed();
            self.session.screen.line(&text);
        }
    }

    /// After the last write: waits until all has arrived, compares both tables in two ways, stops. Answers the items.
    async fn finish(&mut self) -> Result<u64> {
        let last_write = SystemClock.now();
        let changes = self.changes.load(Ordering::Relaxed);
        self.say(&format!("the writes stop after {}", counted(changes, "change")));
        self.catch_up(last_write).await?;
        let snapshot = |account| -> Result<Snapshot> {
            let fail = |error| Error::new(Exit::Unexpected, "look into the embedded AWS").because(error);
            self.sandbox.snapshot(account, REGION, TABLE).map_err(fail)
        };
        let (source, target) = (snapshot(SOURCE_ACCOUNT)?, snapshot(TARGET_ACCOUNT)?);
        if source != target {
            let differing = source.iter().filter(|(key, item)| target.get(*key) != Some(item)).count();
            let extra = target.keys().filter(|key| !source.contains_key(*key)).count();
            let what = format!("the tables differ: {differing} items missing or different, {extra} too many");
            return Err(Error::new(Exit::Differences, what));
        }
        self.say("both tables are equal, bit for bit; `dynaferry verify` looks for itself");
        let report = self.replicator.verify().await?;
        if report.get("identical") != Some(&Value::Bool(true)) {
            return Err(Error::new(Exit::Differences, "`verify` found differences").because(report.to_string()));
        }
        let status = self.replicator.stop().await?;
        if !status.success() {
            let error = Error::new(Exit::Unexpected, format!("the replicator did not end in good order: {status}"));
            return Err(error.because(self.replicator.last_words()));
        }
        self.say("verified; dynaferry drained on SIGTERM and exited with 0");
        Ok(u64::try_from(source.len()).unwrap_or(u64::MAX))
    }

    async fn catch_up(&mut self, last_write: WallTime) -> Result<()> {
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let link = self.look().await?;
            if link.as_ref().is_some_and(|link| has_arrived(link, last_write)) {
                self.say(&format!(
                    "everything has arrived, {} after the last write",
                    span(begun.elapsed().as_secs_f64())
                ));
                return Ok(());
            }
            if begun.elapsed() > CATCH_UP_WITHIN {
                let what = format!("not everything arrived within {}", span(CATCH_UP_WITHIN.as_secs_f64()));
                return Err(Error::new(Exit::Timeout, what).because(self.replicator.last_words()));
            }
        }
    }

    /// A line of the story.
    fn say(&self, text: &str) {
        if self.session.options.quiet == 0 {
            self.session.screen.line(&format!("{:>6}  {text}", span(self.started.elapsed().as_secs_f64())));
        }
    }
}

/// Writes until told to stop, and reshapes the shards now and then.
async fn write(mut example: Example, rate: u32, changes: Arc<AtomicU64>, stop: CancellationToken) -> Result<()> {
    let mut ticks = tokio::time::interval(WRITE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut budget = Budget::new(rate, WRITE_EVERY);
    let mut reshaped = Instant::now();
    let mut turn = 0_usize;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        for _ in 0..budget.next() {
            if let Err(error) = example.change() {
                stop.cancel();
                return Err(error);
            }
            changes.fetch_add(1, Ordering::Relaxed);
        }
        if reshaped.elapsed() >= RESHARD_EVERY {
            (reshaped, turn) = (Instant::now(), turn + 1);
            let sandbox = &example.sandbox;
            let done = match turn % 2 {
                0 => sandbox.split_shard(SOURCE_ACCOUNT, REGION, TABLE, 0).map(|_| ()),
                _ => sandbox.roll_shards(SOURCE_ACCOUNT, REGION, TABLE).map(|_| ()),
            };
            done.map_err(|error| Error::new(Exit::Unexpected, "reshape the shards").because(error))?;
        }
    }
}

/// What goes wrong for a while.
fn faults() -> Faults {
    let rule = |operation, chance, kind| FaultRule::new(operation, Trigger::Chance(chance), kind);
    Faults::new(vec![
        rule("BatchWriteItem", 0.05, FaultKind::Throttle("ThrottlingException".to_owned())).for_account(TARGET_ACCOUNT),
        rule("BatchWriteItem", 0.05, FaultKind::UnprocessedSubset).for_account(TARGET_ACCOUNT),
        rule("BatchWriteItem", 0.03, FaultKind::LoseAnswer).for_account(TARGET_ACCOUNT),
        rule("BatchWriteItem", 0.02, FaultKind::InternalError).for_account(TARGET_ACCOUNT),
        rule("GetRecords", 0.05, FaultKind::InternalError).for_account(SOURCE_ACCOUNT),
        rule("GetRecords", 0.02, FaultKind::Refuse).for_account(SOURCE_ACCOUNT),
    ])
}

/// Whether everything up to then was applied and nothing is in doubt.
fn has_arrived(link: &LinkView, then: WallTime) -> bool {
    let applied = link.watermark.applied.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let applied = applied.map(|applied| WallTime::from_millis(applied.as_millisecond()));
    link.phase == "replicating" && link.in_doubt == 0 && applied.is_some_and(|applied| applied > then)
}

/// How it goes, in one line.
fn describe(elapsed: Duration, link: Option<&LinkView>, items: u64, changes: u64) -> String {
    let now = match link {
        None => "dynaferry starts".to_owned(),
        Some(LinkView { phase, load: Some(load), .. }) if phase == "initial_load" => {
            format!("load {:>3}  {} items", percent(load.items.min(items), items), count(load.items))
        }
        Some(link) => {
            let lag = link.lag_seconds.map_or_else(|| "not known".to_owned(), span);
            format!("{}  lag {lag}", link.phase.replace('_', " "))
        }
    };
    let doubt = link.map_or(0, |link| link.in_doubt);
    let doubt = if doubt > 0 { format!("  {} in doubt", counted(doubt, "key")) } else { String::new() };
    format!("{:>6}  {now}  {} written{doubt}", span(elapsed.as_secs_f64()), counted(changes, "change"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(phase: &str, applied: &str, in_doubt: u64) -> LinkView {
        let json = serde_json::json!({"link": "orders", "phase": phase, "watermark": {"applied": applied}, "in_doubt": in_doubt,
            "lag_seconds": 0.4, "load": {"items": 9_012, "bytes": 1, "segments": 64, "segments_done": 3}});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn all_has_arrived_when_the_watermark_passed_the_last_write_and_nothing_is_in_doubt() {
        let then = WallTime::from_secs(1_763_000_000);
        let (before, after) = ("2025-11-13T02:13:20.000Z", "2025-11-13T02:13:20.001Z");
        assert!(has_arrived(&link("replicating", after, 0), then));
        assert!(!has_arrived(&link("replicating", before, 0), then));
        assert!(!has_arrived(&link("replicating", after, 1), then));
        assert!(!has_arrived(&link("catching_up", after, 0), then));
    }

    #[test]
    fn a_newcomer_sees_load_lag_and_doubt() {
        let at = Duration::from_secs(12);
        assert_eq!(describe(at, None, 20_000, 1), "   12s  dynaferry starts  1 change written");
        let text = describe(at, Some(&link("initial_load", "", 0)), 20_000, 3_600);
        assert_eq!(text, "   12s  load 45%  9,012 items  3,600 changes written");
        let text = describe(at, Some(&link("replicating", "", 25)), 20_000, 3_600);
        assert_eq!(text, "   12s  replicating  lag 0.4s  3,600 changes written  25 keys in doubt");
    }
}
