//! What a command runs: all links of a configuration, in one process.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::board::{Board, Snapshot};
use super::link::{BoardSlot, Companion, Link, Running, Shared, applied_until_now, verify_settings};
use super::prepare::{Accounts, Needs, prepare};
use super::repair::{DirectRepairs, KeeperRepairs};
use crate::aws::{AccessKey, Clients};
use crate::checkpoint::rows::{DeadLetterRow, DoubtRow, GapRow, Stage};
use crate::checkpoint::{LinkState, StateStore, StateWrite};
use crate::config::{Config, LinkConfig, Store, check_targets, suggest_link};
use crate::context::Context;
use crate::decode::KeyCodec;
use crate::error::{Error, Exit, Result, chain};
use crate::http::{Heartbeats, LinkReadiness, NotReady, StatusSource};
use crate::model::GapScope;
use crate::retry::Patience;
use crate::telemetry::status::{GapStatus, LinkStatus, LoadStatus, Status};
use crate::telemetry::{GapCause, Label as _, Metrics, Mode, Phase, ShardState, ThrottleReason};
use crate::verify::{self, Settle, VerifyJob, VerifyReport};

/// A migration has caught up when it is no further behind than this.
const CAUGHT_UP: Duration = Duration::from_secs(5);
/// How often a migration looks whether it has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it says what it waits for.
const SAY_EVERY: Duration = Duration::from_secs(30);
/// First and longest wait before a failed link is opened again, where there are others.
const LINK_AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// Dead letters read at once.
const LETTERS: usize = 100;

/// What a finished migration tells, one for each link.
#[derive(Debug, Clone, Serialize)]
pub struct MigrateReport {
    /// The link.
    pub link: String,
    /// Items that the initial load settled, also in earlier runs.
    pub items_loaded: u64,
    /// Changes of the stream that were settled by this run.
    pub changes_replicated: u64,
    /// What the comparison of both tables found.
    pub verification: VerifyReport,
}

/// How tables are compared by a command.
#[derive(Default)]
pub struct VerifyOptions {
    /// Whether confirmed differences are synced and looked at again.
    pub repair: bool,
    /// Whether the report shows both images, not the key alone.
    pub show_values: bool,
    /// Where the report goes, one JSON object per line.
    pub report: Option<Box<dyn Write + Send>>,
    /// The links to compare; empty: all.
    pub links: Vec<String>,
}

/// A dead letter and the link it belongs to.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The link.
    pub link: String,
    /// The letter.
    pub letter: DeadLetterRow,
}

/// All links of a configuration, with everything that they need from outside.
pub struct Program {
    config: Config,
    context: Context,
    mode: Mode,
    http: Option<SharedHttpClient>,
    isolated: Option<AccessKey>,
    store: Option<Arc<dyn StateStore>>,
    metrics: Metrics,
    heartbeats: Heartbeats,
    boards: Mutex<BTreeMap<String, BoardSlot>>,
}

impl Program {
    /// A program over a valid configuration.
    #[must_use]
    pub fn new(config: Config, context: Context, mode: Mode) -> Self {
        Self {
            config,
            context,
            mode,
            http: None,
            isolated: None,
            store: None,
            metrics: Metrics::new(),
            heartbeats: Heartbeats::new(),
            boards: Mutex::default(),
        }
    }

    /// Talks through this HTTP client: the sandbox in the same process, or a simulation.
    #[must_use]
    pub fn with_http(mut self, http: SharedHttpClient) -> Self {
        self.http = Some(http);
        self
    }

    /// Starts from this access key alone, and reads no profile and no environment: for simulations.
    #[must_use]
    pub fn with_access_key(mut self, key: AccessKey) -> Self {
        self.isolated = Some(key);
        self
    }

    /// Keeps its state here, whatever the configuration names: for simulations.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn StateStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// The pulse of the worker loops.
    #[must_use]
    pub fn heartbeats(&self) -> Heartbeats {
        self.heartbeats.clone()
    }

    /// What HTTP answers from.
    #[must_use]
    pub fn status_source(self: &Arc<Self>) -> Arc<dyn StatusSource> {
        Arc::new(Watched(Arc::clone(self)))
    }

    /// Runs every link until it is told to stop; then all drain.
    ///
    /// The fault of a single link ends the program, for whoever restarts it. Of several links, one that fails is opened
    /// again later, and the others go on: their streams do not wait.
    ///
    /// # Errors
    /// The link's fault.
    pub async fn run(self: &Arc<Self>, stop: CancellationToken) -> Result<()> {
        let links = self.links().await?;
        let store = self.open_store()?;
        let mut tasks = JoinSet::new();
        let stop_all = stop.child_token();
        let is_alone = links.len() == 1;
        for link in links {
            let (link, stop) = (self.link(link, &store), stop_all.clone());
            tasks.spawn(async move {
                if is_alone {
                    Box::pin(link.run(None, stop)).await
                } else {
                    Box::pin(run_among_others(&link, stop)).await
                }
            });
        }
        let mut outcome = Ok(());
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.unwrap_or_else(|_| Err(Error::new(Exit::Unexpected, "a link's task panicked")));
            if let Err(error) = ended {
                stop_all.cancel();
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    /// Loads, catches up and verifies every link, one after the other; each is drained before the next one begins.
    ///
    /// # Errors
    /// The first fault. Told to stop: exit 7, since progress is saved and it may be run again.
    pub async fn migrate(self: &Arc<Self>, stop: CancellationToken) -> Result<Vec<MigrateReport>> {
        let links = self.links().await?;
        let store = self.open_store()?;
        let mut reports = Vec::new();
        for config in links {
            let name = config.name.clone();
            let link = self.link(config, &store);
            let report = Arc::new(Mutex::new(None));
            let (slot, context, link_name) = (Arc::clone(&report), self.context.clone(), name.clone());
            let companion: Companion<'_> = Box::new(move |running| {
                let (slot, context, name) = (Arc::clone(&slot), context.clone(), link_name.clone());
                Box::pin(async move {
                    let found = finish_migration(&name, running, context).await?;
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                    Ok(())
                })
            });
            Box::pin(link.run(Some(companion), stop.clone())).await?;
            let found = report.lock().unwrap_or_else(PoisonError::into_inner).take();
            reports.push(found.ok_or_else(|| {
                Error::new(Exit::Timeout, format!("link `{name}` was stopped before it was done"))
                    .hint("progress is saved: run the same command again to go on")
            })?);
        }
        Ok(reports)
    }

    /// Compares both tables of each link; repairs through lanes of its own, for which it needs the link's state.
    ///
    /// # Errors
    /// A side that cannot be read; with `repair`, state that another process holds (exit 6).
    pub async fn verify(
        self: &Arc<Self>,
        options: VerifyOptions,
        stop: CancellationToken,
    ) -> Result<Vec<(String, VerifyReport)>> {
        let links = self.chosen(&options.links).await?;
        let store = if options.repair { Some(self.open_store()?) } else { None };
        let mut out = options.report;
        let mut reports = Vec::new();
        for config in links {
            let name = config.name.clone();
            let one = self.verify_one(config, store.as_ref(), options.show_values, out.take());
            let report = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Error::new(Exit::Timeout, "stopped before both tables were compared")),
                report = one => report?,
            };
            reports.push((name, report));
        }
        Ok(reports)
    }

    async fn verify_one(
        &self,
        config: LinkConfig,
        store: Option<&Arc<dyn StateStore>>,
        show_values: bool,
        out: Option<Box<dyn Write + Send>>,
    ) -> Result<VerifyReport> {
        let clients = self.clients(&config);
        let accounts = Accounts::connect(&config, &clients, None).await?;
        let create_nothing = LinkConfig { target_create: false, ..config.clone() };
        let prepared = prepare(&create_nothing, accounts, &self.context, Needs::default()).await?;
        let is_running_link = match store {
            Some(store) => store.read(&config.name).await?.link.is_some(),
            None => false,
        };
        let Some(store) = store.filter(|_| is_running_link) else {
            let repairs = Arc::new(DirectRepairs { ends: prepared.ends.clone(), context: self.context.clone() });
            let owns_target = config.target_exclusive.unwrap_or(false);
            let settings = verify_settings(&config, &prepared, owns_target, Patience::COMMAND);
            let job = VerifyJob {
                source: Arc::clone(&prepared.ends.source),
                target: Arc::clone(&prepared.ends.target_reader),
                settings: verify::VerifySettings { show_values, ..settings },
                context: self.context.clone(),
                settle: Settle::After(CAUGHT_UP + config.stream.poll_max * 2),
                repairer: store.map(|_| Arc::new(repairs) as Arc<dyn verify::Repairer>),
                report: out,
                progress: None,
            };
            return verify::run(job).await.map_err(|error| cannot_verify(&config.name, error));
        };
        // Repairs run inside the link's lanes, so the link runs while they are made.
        let link = self.link(config.clone(), store);
        let report = Arc::new(Mutex::new(None));
        let out = Arc::new(Mutex::new(out));
        let (slot, context, name) = (Arc::clone(&report), self.context.clone(), config.name.clone());
        let companion: Companion<'_> = Box::new(move |running| {
            let (slot, context, name, out) = (Arc::clone(&slot), context.clone(), name.clone(), Arc::clone(&out));
            Box::pin(async move {
                catch_up(&name, &running).await;
                let out = out.lock().unwrap_or_else(PoisonError::into_inner).take();
                let found = verify_running(&name, &running, context, true, show_values, out).await?;
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                Ok(())
            })
        });
        Box::pin(link.run(Some(companion), CancellationToken::new())).await?;
        let found = report.lock().unwrap_or_else(PoisonError::into_inner).take();
        found.ok_or_else(|| Error::new(Exit::Unexpected, "the comparison did not finish"))
    }

    /// The status that the state tells, when no process answers.
    ///
    /// # Errors
    /// State that cannot be read, or that a process holds.
    pub async fn stored_status(self: &Arc<Self>) -> Result<Status> {
        let store = self.open_store()?;
        let mut links = Vec::new();
        for name in store.links().await? {
            let state = store.read(&name).await?;
            links.push(stored_link(&name, &state, &self.context));
        }
        Ok(Status::new(self.context.now(), links))
    }

    /// All dead letters of these links; empty: of all that the state knows.
    ///
    /// # Errors
    /// State that cannot be read, or that a process holds.
    pub async fn dead_letters(self: &Arc<Self>, links: &[String]) -> Result<Vec<DeadLetter>> {
        let store = self.open_store()?;
        let known = store.links().await?;
        let mut letters = Vec::new();
        for link in known.into_iter().filter(|link| links.is_empty() || links.contains(link)) {
            letters.extend(
                letters_of(store.as_ref(), &link)
                    .await?
                    .into_iter()
                    .map(|letter| DeadLetter { link: link.clone(), letter }),
            );
        }
        Ok(letters)
    }

    /// Replays dead letters: each key is synced, so that the target holds what the source holds now. Answers how many
    /// letters are gone; those that the target refuses again stay.
    ///
    /// # Errors
    /// A side that cannot be reached; state that a process holds.
    pub async fn retry_dead_letters(self: &Arc<Self>, links: &[String]) -> Result<u64> {
        let configs = self.chosen(links).await?;
        let store = self.open_store()?;
        let mut gone = 0;
        for config in configs {
            let letters = letters_of(store.as_ref(), &config.name).await?;
            if letters.is_empty() {
                continue;
            }
            let clients = self.clients(&config);
            let accounts = Accounts::connect(&config, &clients, None).await?;
            let prepared = prepare(&config, accounts, &self.context, Needs { stream: false, target: true }).await?;
            let (fence, _) = store.take(&config.name, self.context.worker()).await?;
            let codec = KeyCodec::new(&prepared.identity.keys);
            let repairs = DirectRepairs { ends: prepared.ends.clone(), context: self.context.clone() };
            for letter in letters {
                let key = codec.key(letter.key_json.clone().into());
                let key =
                    key.map_err(|error| Error::new(Exit::Unexpected, "read a dead letter's key").because(error))?;
                // A write of ours may land late, so the next run syncs the key once more.
                let until = self.context.now().plus(config.apply.in_doubt_for);
                let doubt =
                    DoubtRow { key: key.canonical.clone(), key_json: letter.key_json.clone(), until, page: None };
                store.commit(&config.name, &fence, vec![StateWrite::Doubt(doubt)]).await?;
                match repairs.sync_key(&key).await {
                    Ok(()) => {
                        store.commit(&config.name, &fence, vec![StateWrite::RemoveDeadLetter(letter.id)]).await?;
                        gone += 1;
                    }
                    Err(failure) => {
                        tracing::warn!(link = config.name, letter = letter.id, error = %failure, "not written: the letter stays");
                    }
                }
            }
        }
        Ok(gone)
    }

    fn open_store(&self) -> Result<Arc<dyn StateStore>> {
        if let Some(store) = &self.store {
            return Ok(Arc::clone(store));
        }
        let Store::File(path) = &self.config.checkpoint.store;
        Ok(crate::checkpoint::open(&format!("file:{}", path.display()))?)
    }

    fn clients(&self, link: &LinkConfig) -> Clients {
        self.clients_with(link.apply.attempt_timeout)
    }

    fn clients_with(&self, attempt_timeout: Duration) -> Clients {
        let (http, isolated) = (self.http.clone(), self.isolated.clone());
        Clients { http, isolated, ..Clients::new(self.context.clone(), attempt_timeout) }
    }

    fn link(&self, config: LinkConfig, store: &Arc<dyn StateStore>) -> Link {
        let slot = BoardSlot::default();
        self.boards().insert(config.name.clone(), Arc::clone(&slot));
        let shared = Shared {
            context: self.context.clone(),
            clients: self.clients(&config),
            store: Arc::clone(store),
            checkpoint: self.config.checkpoint.clone(),
            drain: self.config.service.drain,
            metrics: self.metrics.clone(),
            heartbeats: self.heartbeats.clone(),
            mode: self.mode,
        };
        Link { config, shared, slot, skew: Arc::default() }
    }

    fn boards(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, BoardSlot>> {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All links, those of patterns written out.
    async fn links(&self) -> Result<Vec<LinkConfig>> {
        let mut links = self.config.links.clone();
        for pattern in &self.config.patterns {
            let names = if pattern.needs_listing() {
                let clients = self.clients_with(crate::config::DEFAULT_ATTEMPT_TIMEOUT);
                let account =
                    crate::aws::Account::connect(pattern.source(), crate::aws::Side::Source, &clients).await?;
                account.list_tables().await.map_err(|failure| {
                    Error::new(Exit::Precondition, format!("list the source's tables for [link.{}]", pattern.name()))
                        .hint("allow dynamodb:ListTables to the source's identity, or name the tables")
                        .because(failure)
                })?
            } else {
                Vec::new()
            };
            links.extend(pattern.expand(&names)?);
        }
        check_targets(&links)?;
        Ok(links)
    }

    async fn chosen(&self, names: &[String]) -> Result<Vec<LinkConfig>> {
        let links = self.links().await?;
        if let Some(unknown) = names.iter().find(|name| links.iter().all(|link| link.name != **name)) {
            let error = Error::new(Exit::Usage, format!("there is no link `{unknown}`"));
            return Err(match suggest_link(&self.config, unknown) {
                Some(known) => error.hint(format!("did you mean `{known}`?")),
                None => error,
            });
        }
        Ok(links.into_iter().filter(|link| names.is_empty() || names.contains(&link.name)).collect())
    }
}

/// Opens a link again and again, until it is told to stop.
async fn run_among_others(link: &Link, stop: CancellationToken) -> Result<()> {
    let mut wait = LINK_AGAIN.0;
    while let Err(error) = Box::pin(link.run(None, stop.clone())).await {
        tracing::error!(
            link = link.config.name,
            error = chain(&error),
            hint = error.hint,
            "the link failed, it is opened again later"
        );
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LINK_AGAIN.1);
    }
    Ok(())
}

async fn letters_of(store: &dyn StateStore, link: &str) -> Result<Vec<DeadLetterRow>> {
    let mut letters: Vec<DeadLetterRow> = Vec::new();
    loop {
        let after = letters.last().map_or(0, |letter| letter.id);
        let page = store.dead_letters(link, after, LETTERS).await?;
        if page.is_empty() {
            return Ok(letters);
        }
        letters.extend(page);
    }
}

/// Waits until the load is done, the stream is applied, no gap is open and no key in doubt.
async fn catch_up(name: &str, running: &Running) {
    let mut said_at = tokio::time::Instant::now();
    loop {
        let now = running.board.snapshot();
        let is_current = now.watermarks.lag(now.now).is_some_and(|lag| lag <= CAUGHT_UP);
        if !running.board.is_loading() && is_current && now.books.doubts == 0 && now.books.open_gaps.is_empty() {
            return;
        }
        if said_at.elapsed() >= SAY_EVERY {
            said_at = tokio::time::Instant::now();
            if is_current && now.books.doubts > 0 {
                let until = now.books.last_doubt_due.map(|due| due.to_string()).unwrap_or_default();
                tracing::info!(
                    link = name,
                    keys = now.books.doubts,
                    until,
                    "waiting for keys in doubt: a late write may still land on them"
                );
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn finish_migration(name: &str, running: Running, context: Context) -> Result<MigrateReport> {
    catch_up(name, &running).await;
    applied_until_now(Arc::clone(&running.board)).await;
    tracing::info!(link = name, "caught up: comparing both tables");
    let verification = verify_running(name, &running, context, false, false, None).await?;
    // A write that was lost meanwhile may still land: the migration ends when it no longer can.
    catch_up(name, &running).await;
    let now = running.board.snapshot();
    Ok(MigrateReport {
        link: name.to_owned(),
        items_loaded: now.load.items,
        changes_replicated: now.totals.applied + now.totals.superseded,
        verification,
    })
}

async fn verify_running(
    name: &str,
    running: &Running,
    context: Context,
    repair: bool,
    show_values: bool,
    report: Option<Box<dyn Write + Send>>,
) -> Result<VerifyReport> {
    let board = Arc::clone(&running.board);
    let settle = Settle::Until(Arc::new(move || Box::pin(applied_until_now(Arc::clone(&board)))));
    let repairer = repair.then(|| Arc::new(KeeperRepairs(running.keeper.clone())) as Arc<dyn verify::Repairer>);
    let job = VerifyJob {
        source: Arc::clone(&running.ends.source),
        target: Arc::clone(&running.ends.target_reader),
        settings: verify::VerifySettings { show_values, owns_target: running.owns_target, ..running.verify.clone() },
        context: context.clone(),
        settle,
        repairer,
        report,
        progress: None,
    };
    let found = verify::run(job).await.map_err(|error| cannot_verify(name, error))?;
    running.board.verified(&found);
    Ok(found)
}

fn cannot_verify(name: &str, error: verify::VerifyError) -> Error {
    Error::new(Exit::Precondition, format!("compare both tables of link `{name}`"))
        .hint("allow dynamodb:Scan and GetItem on both tables")
        .because(error)
}

struct Watched(Arc<Program>);

impl StatusSource for Watched {
    fn status(&self) -> Status {
        let slots: Vec<(String, BoardSlot)> =
            self.0.boards().iter().map(|(name, slot)| (name.clone(), Arc::clone(slot))).collect();
        let links = slots.iter().map(|(name, slot)| match board_in(slot) {
            Some(board) => live_link(name, &board.snapshot()),
            None => LinkStatus::new(name, Phase::Starting),
        });
        Status::new(self.0.context.now(), links.collect())
    }

    fn readiness(&self) -> Vec<LinkReadiness> {
        let slots: Vec<(String, BoardSlot)> =
            self.0.boards().iter().map(|(name, slot)| (name.clone(), Arc::clone(slot))).collect();
        slots
            .into_iter()
            .map(|(link, slot)| {
                let snapshot = board_in(&slot).map(|board| board.snapshot());
                let mut reasons = Vec::new();
                match snapshot {
                    None => reasons.push(NotReady::NotStarted),
                    Some(now) => {
                        if now.is_denied {
                            reasons.push(NotReady::Credentials);
                        }
                        if !now.stream_opened {
                            reasons.push(NotReady::StreamNotOpened);
                        }
                        if !now.books.open_gaps.is_empty() {
                            reasons.push(NotReady::GapOpen);
                        }
                    }
                }
                LinkReadiness { link, reasons }
            })
            .collect()
    }

    fn refresh_metrics(&self) {
        let slots: Vec<BoardSlot> = self.0.boards().values().cloned().collect();
        slots.iter().filter_map(board_in).for_each(|board| drop(board.snapshot()));
    }
}

fn board_in(slot: &BoardSlot) -> Option<Arc<Board>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn live_link(name: &str, now: &Snapshot) -> LinkStatus {
    let mut status = LinkStatus::new(name, now.phase);
    status.set_lag(now.watermarks, Some(now.retention_deadline), now.now);
    status.load = now.load.plan.as_ref().map(|plan| {
        let running = now.load.elapsed.as_secs_f64();
        let mut load = LoadStatus {
            bytes: now.load.bytes,
            expected_bytes: Some(plan.expected_bytes).filter(|bytes| *bytes > 0),
            items: now.load.items,
            segments_done: u64::from(now.load.segments_done),
            segments: u64::from(plan.total_segments),
            rate_bytes_per_second: (running > 0.0).then(|| now.load.bytes as f64 / running),
            eta_seconds: None,
        };
        load.eta_seconds = load.estimate_eta_seconds(running);
        load
    });
    status.shards = vec![
        (ShardState::Open, now.counts.open as u64),
        (ShardState::WaitingParent, now.counts.waiting_parent as u64),
        (ShardState::ClosedPending, now.counts.closed_pending as u64),
    ];
    status.gaps = now.books.open_gaps.iter().filter_map(gap_status).collect();
    status.dead_letters = now.books.dead_letters;
    status.in_doubt = now.books.doubts as u64;
    status.throttle = match () {
        () if now.load.waits_for_stream => Some(ThrottleReason::StreamFirst),
        () if now.is_target_throttled => Some(ThrottleReason::TargetThrottling),
        () => None,
    };
    status.needs = needs(&status);
    status
}

fn stored_link(name: &str, state: &LinkState, context: &Context) -> LinkStatus {
    let phase = match state.link.as_ref().map(|row| row.stage) {
        Some(Stage::Loading) => Phase::InitialLoad,
        Some(Stage::Streaming) => Phase::CatchingUp,
        None => Phase::Starting,
    };
    let mut status = LinkStatus::new(name, phase);
    let unfinished = state.shards.iter().filter(|row| row.status != crate::model::ShardStatus::Finished);
    let settled = unfinished.clone().map(|row| row.checkpoint_time).min().flatten();
    if phase == Phase::CatchingUp {
        let watermarks = crate::telemetry::lag::Watermarks { read: None, applied: settled, checkpointed: settled };
        let deadline = settled.map(|time| time.plus(crate::telemetry::lag::RETENTION));
        status.set_lag(watermarks, deadline, context.now());
    }
    status.gaps = state.gaps.iter().filter(|gap| gap.healed.is_none()).filter_map(gap_status).collect();
    status.dead_letters = state.dead_letters.0;
    status.in_doubt = state.doubts.iter().filter(|doubt| doubt.page.is_none()).count() as u64;
    status.needs = needs(&status);
    status.needs.push("no process is running this link".to_owned());
    status
}

fn gap_status(gap: &GapRow) -> Option<GapStatus> {
    let cause = GapCause::ALL.iter().copied().find(|cause| cause.as_str() == gap.cause)?;
    let shard = match &gap.scope {
        GapScope::Shard(shard) => Some(shard.to_string()),
        GapScope::All => None,
    };
    Some(GapStatus { cause, shard, from: gap.from, to: gap.to })
}

fn needs(status: &LinkStatus) -> Vec<String> {
    let mut needs = Vec::new();
    if !status.gaps.is_empty() {
        needs.push(format!("{} gaps are open: they heal by themselves, see the log", status.gaps.len()));
    }
    if status.dead_letters > 0 {
        needs.push(format!("{} dead letters: dynaferry dead-letter list", status.dead_letters));
    }
    needs
}
