//! The life of one link: prepare, open the books, run, heal, follow a stream that is replaced.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::open::{self, Clocks, Opened, apply_from, resumed_line};
use super::prepare::{Accounts, Needs, Prepared, is_empty, prepare, read_units, write_units};
use super::repair::{KeeperRepairs, SameTableRepairs};
use super::replica::{Ends, Replica, ReplicaEnd, ReplicaError, ReplicaSettings, ReplicaSetup};
use crate::apply::engine::{EngineError, EngineSettings, OnRejected};
use crate::aws::{CallRecord, Clients, Observer};
use crate::checkpoint::book::Book;
use crate::checkpoint::keeper::{Keeper, KeeperError, KeeperSettings};
use crate::checkpoint::rows::{Fence, LinkRow, ShardStatus};
use crate::checkpoint::{LinkState, StateStore};
use crate::config::{self, CheckpointConfig, LinkConfig, OnGap, TtlDeletes};
use crate::context::Context;
use crate::error::{Error, Exit, Fault, Result, chain};
use crate::http::{Heartbeat, Heartbeats};
use crate::load::driver::{LoadError, LoadSettings};
use crate::model::{StreamArn, ViewType, WallTime};
use crate::retry::Patience;
use crate::stream::driver::{StreamError, StreamSettings};
use crate::stream::filter::ChangeFilter;
use crate::stream::lister::{ListError, ShardLister};
use crate::stream::{Listing, Pace};
use crate::telemetry::lag::RETENTION;
use crate::telemetry::skew::SkewEstimate;
use crate::telemetry::{self, CapacityKind, LinkIdentity, Metrics, Mode, Operation, Phase, RequestResult};
use crate::verify::{HealJob, VerifySettings, heal};

/// How often phases and time-dependent metrics are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// How often the source table is looked at: is it the same, has it another stream?
const DESCRIBE_EVERY: Duration = Duration::from_secs(60);
/// A link that is this far behind is catching up; once replicating, it is again when it falls behind so far.
const CATCHING_UP: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// Between two attempts at a heal that failed.
const HEAL_AGAIN: Duration = Duration::from_secs(30);
/// A stream that is being turned on is looked at so often, this long apart: five minutes in all.
const ENABLING_LOOKS: u32 = 300;
/// See [`ENABLING_LOOKS`].
const ENABLING_AGAIN: Duration = Duration::from_secs(1);
/// A service that has run once waits this long before it opens its link again after a failure.
const OPEN_AGAIN: Duration = Duration::from_secs(15);
/// How often a link whose stream is off looks whether there is another one.
const STREAM_AGAIN: Duration = Duration::from_secs(15);

/// What links of one process share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) context: Context,
    pub(crate) clients: Clients,
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) checkpoint: CheckpointConfig,
    pub(crate) drain: Duration,
    pub(crate) metrics: Metrics,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) mode: Mode,
}

/// A link while it runs, for those who watch it or work beside it.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) board: Arc<Board>,
    pub(crate) keeper: Keeper,
    pub(crate) ends: Ends,
    pub(crate) owns_target: bool,
    pub(crate) verify: VerifySettings,
}

/// What is done beside a link while it runs; when it is done, the link stops.
pub(crate) type Companion<'a> = Box<dyn Fn(Running) -> BoxFuture<'a, Result<()>> + Send + Sync + 'a>;

/// Where the board of a link is found, from its first moment on.
pub(crate) type BoardSlot = Arc<Mutex<Option<Arc<Board>>>>;

/// One link of the configuration.
pub(crate) struct Link {
    pub(crate) config: LinkConfig,
    pub(crate) shared: Shared,
    pub(crate) slot: BoardSlot,
    /// AWS's clock against ours, from the first answer on.
    pub(crate) skew: Arc<Mutex<SkewEstimate>>,
}

enum Generation {
    Stopped,
    StreamEnded,
}

impl Link {
    /// Runs the link until it is told to stop, or until the companion is done.
    pub(crate) async fn run(&self, companion: Option<Companion<'_>>, stop: CancellationToken) -> Result<()> {
        let heartbeat = self.shared.heartbeats.register(format!("link {}", self.config.name));
        let mut has_run = false;
        loop {
            match Box::pin(self.run_generation(companion.as_ref(), &stop, &heartbeat)).await {
                Ok(Generation::Stopped) => return Ok(()),
                Ok(Generation::StreamEnded) => {
                    has_run = true;
                    self.wait_for_another_stream(&stop, &heartbeat).await?;
                }
                // A service that was running and is between two streams outlasts what passes.
                Err(error) if has_run && self.shared.mode == Mode::Service && error.exit == Exit::Precondition => {
                    tracing::error!(
                        link = self.config.name,
                        error = chain(&error),
                        "the link could not be opened again, trying later"
                    );
                    pause(OPEN_AGAIN, &stop, &heartbeat).await;
                }
                Err(error) => return Err(error),
            }
            if stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// AWS's time: what the load begins with is compared with creation times.
    fn aws_now(&self) -> WallTime {
        self.skew.lock().unwrap_or_else(PoisonError::into_inner).corrected(self.shared.context.now())
    }

    fn patience(&self) -> Patience {
        if self.shared.mode == Mode::Service { Patience::SERVICE } else { Patience::COMMAND }
    }

    /// From preparing to draining, over one stream.
    async fn run_generation(
        &self,
        companion: Option<&Companion<'_>>,
        stop: &CancellationToken,
        heartbeat: &Heartbeat,
    ) -> Result<Generation> {
        let context = &self.shared.context;
        let board_slot = Arc::clone(&self.slot);
        let accounts =
            Accounts::connect(&self.config, &self.shared.clients, Some(observer(board_slot, Arc::clone(&self.skew))))
                .await?;
        let has_run = self.shared.store.read(&self.config.name).await?.link.is_some();
        let prepared = prepare(&self.config, accounts, context, Needs { stream: true, target: has_run }).await?;
        heartbeat.tick();
        let (fence, state) = self.shared.store.take(&self.config.name, context.worker()).await?;
        let was_unclean = state.link.as_ref().is_some_and(|row| !row.clean);
        let (opened, stream, view) = self.open(&prepared, state).await?;
        let now = context.now();
        let ghosts_until = if was_unclean { now.plus(self.config.apply.in_doubt_for) } else { now };
        heartbeat.tick();
        if self.config.stream.on_gap == OnGap::Stop && opened.book.gap_rows().any(|gap| gap.healed.is_none()) {
            self.write_down(opened.book, &fence).await?;
            return Err(Error::new(
                Exit::Lost,
                format!("link `{}` has an open gap and on_gap is \"stop\"", self.config.name),
            )
            .hint("set `stream.on_gap = \"heal\"`, or load again with a fresh state"));
        }
        let row = opened.book.link().clone();
        if opened.resumed {
            tracing::info!(link = self.config.name, "resumed: {}", resumed_line(&opened.book, context));
        }
        let board = self.board(&prepared, &row);
        let running_verify = self.verify_settings(&prepared, row.owns_target);
        let replica = Replica::start(ReplicaSetup {
            link: self.config.name.clone(),
            ends: prepared.ends.clone(),
            store: Arc::clone(&self.shared.store),
            fence,
            book: opened.book,
            lineage: opened.lineage,
            view,
            context: context.clone(),
            settings: self.settings(&prepared, &row),
            board: Arc::clone(&board),
        });
        let running = Running {
            board: Arc::clone(&board),
            keeper: replica.keeper().clone(),
            ends: prepared.ends.clone(),
            owns_target: row.owns_target,
            verify: running_verify,
        };
        let stop_replica = stop.child_token();
        let ended = {
            let replica = replica.run(stop_replica.clone());
            tokio::pin!(replica);
            let beside = self.beside(companion, running, &prepared, (stream, ghosts_until), heartbeat);
            tokio::pin!(beside);
            tokio::select! {
                ended = &mut replica => (ended, Ok(())),
                done = &mut beside => {
                    board.set_phase(Phase::Draining);
                    stop_replica.cancel();
                    ((&mut replica).await, done)
                }
            }
        };
        self.judge(ended.0, ended.1, &board)
    }

    /// Makes durable what opening the books has found, where nothing is sent after it.
    async fn write_down(&self, mut book: Book, fence: &Fence) -> Result<()> {
        book.update_link(|link| link.clean = true);
        Ok(self.shared.store.commit(&self.config.name, fence, book.take_writes()).await?)
    }

    fn judge(
        &self,
        ended: std::result::Result<ReplicaEnd, ReplicaError>,
        beside: Result<()>,
        board: &Board,
    ) -> Result<Generation> {
        board.metrics().lease_held(false);
        beside.inspect_err(|_| board.set_phase(Phase::Failed))?;
        match ended {
            Ok(ReplicaEnd::Stopped) => Ok(Generation::Stopped),
            Ok(ReplicaEnd::StoppedUnclean) => {
                tracing::warn!(
                    link = self.config.name,
                    "stopped before everything on the wire was answered: the next start takes care of it"
                );
                Ok(Generation::Stopped)
            }
            Ok(ReplicaEnd::Exhausted) | Err(ReplicaError::Stream(StreamError::Gone)) => {
                board.stream_closed();
                board.set_phase(Phase::Failed);
                Ok(Generation::StreamEnded)
            }
            Err(error) => {
                board.set_phase(Phase::Failed);
                Err(self.fault(error))
            }
        }
    }

    /// The link's error as the command's: its exit code and what to do.
    fn fault(&self, error: ReplicaError) -> Error {
        let what = format!("link `{}` stopped", self.config.name);
        let exit_of = |fault: Fault| match fault {
            Fault::Denied => Exit::Precondition,
            Fault::Lost => Exit::Lost,
            _ => Exit::Unexpected,
        };
        let (exit, hint) = match &error {
            ReplicaError::Stream(StreamError::Lost { .. }) => {
                (Exit::Lost, Some("set `stream.on_gap = \"heal\"`, or load again"))
            }
            ReplicaError::Stream(StreamError::Source(failure))
            | ReplicaError::Engine(EngineError::Source(failure))
            | ReplicaError::Load(LoadError::Source(failure)) => (
                exit_of(failure.fault),
                Some("check the source's permissions: `doctor` is not part of this version, see README"),
            ),
            ReplicaError::Engine(EngineError::Target(failure)) => {
                let exit = if failure.fault == Fault::Lost { Exit::Precondition } else { exit_of(failure.fault) };
                (exit, Some("check that the target exists and that its identity may write to it"))
            }
            ReplicaError::Engine(EngineError::Rejected { .. }) => (
                Exit::Unexpected,
                Some("make the target accept it, or set `apply.on_rejected = \"dead_letter\"` to go on without it"),
            ),
            ReplicaError::Keeper(KeeperError::Store(crate::checkpoint::StoreError::Fenced { .. })) => {
                (Exit::Held, Some("another process runs this link"))
            }
            _ => (Exit::Unexpected, None),
        };
        let fault = Error::new(exit, what).because(error);
        match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }

    fn board(&self, prepared: &Prepared, row: &LinkRow) -> Arc<Board> {
        let (source, target) = (&prepared.source.arn, &prepared.target.arn);
        let identity = LinkIdentity {
            link: self.config.name.clone(),
            source_account: source.account.clone(),
            source_region: source.region.clone(),
            source_table: source.name.clone(),
            target_account: target.account.clone(),
            target_region: target.region.clone(),
            target_table: target.name.clone(),
        };
        let metrics = self.shared.metrics.link(&identity, self.shared.mode);
        let limits = self.settings(prepared, row);
        metrics.rate_limit(telemetry::Side::Target, CapacityKind::Write, limits.engine.write_limit);
        metrics.rate_limit(telemetry::Side::Source, CapacityKind::Read, limits.load.read_limit);
        metrics.lease_held(true);
        // Without a load everything is owed that the stream still keeps.
        let owed_from = apply_from(row).unwrap_or_else(|| self.aws_now().minus(RETENTION));
        let board = Arc::new(Board::new(metrics, self.shared.context.clone(), owed_from));
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&board));
        board
    }

    /// The books and the forest, and the stream that is to be read.
    async fn open(&self, prepared: &Prepared, state: LinkState) -> Result<(Opened, StreamArn, ViewType)> {
        let now = self.shared.context.now();
        let found = prepared.identity.stream.clone();
        let Some(row) = state.link.clone() else {
            let owns_target = self.owns_target(prepared).await?;
            let listing = self.list(prepared, &found).await?;
            let opened =
                open::pin(&self.config, prepared, &listing, owns_target, Clocks { ours: now, aws: self.aws_now() });
            let opened = opened.ok_or_else(|| {
                Error::new(Exit::Precondition, "pin the stream: it is still being turned on")
                    .hint("run again in a minute")
            })?;
            return Ok((opened, found, prepared.view));
        };
        let known = row.identity.stream.clone();
        if known == found {
            return Ok((open::resume(&self.config, prepared, state, row, now)?, found, prepared.view));
        }
        // The old stream is finished first, while it can be read: order per key spans both.
        let unfinished = state.shards.iter().any(|row| row.status != ShardStatus::Finished);
        if unfinished && let Ok(listing) = self.lister(prepared, &known).list().await {
            let view = listing.view().unwrap_or(prepared.view);
            return Ok((open::resume(&self.config, prepared, state, row, now)?, known, view));
        }
        // Refuses another table's state before anything changes.
        open::resume(&self.config, prepared, state.clone(), row.clone(), now)?;
        let listing = self.list(prepared, &found).await?;
        let opened = open::replace_stream(&self.config, &found, &listing, state, row, now);
        let opened = opened.ok_or_else(|| {
            Error::new(Exit::Precondition, "pin the new stream: it is still being turned on")
                .hint("run again in a minute")
        })?;
        Ok((opened, found, prepared.view))
    }

    /// A target that this link finds empty, as one that it has just made, is its own. Another one is refused, unless the user allows it.
    async fn owns_target(&self, prepared: &Prepared) -> Result<bool> {
        let empty = is_empty(&prepared.ends.target_reader, &self.shared.context).await.map_err(|failure| {
            Error::new(Exit::Precondition, format!("look whether the target of link `{}` is empty", self.config.name))
                .hint("allow dynamodb:Scan on it to the target's identity")
                .because(failure)
        })?;
        if !empty && !self.config.target_allow_non_empty && self.config.load.method == config::LoadMethod::Scan {
            return Err(Error::new(
                Exit::Precondition,
                format!("the target table of link `{}` is not empty", self.config.name),
            )
            .hint(
                "empty it, name another one, or set `target.allow_non_empty = true`: keys that it has alone then stay",
            ));
        }
        Ok(empty)
    }

    fn lister(&self, prepared: &Prepared, stream: &StreamArn) -> ShardLister {
        let source = Arc::clone(&prepared.ends.stream);
        ShardLister::new(source, stream.clone(), self.shared.context.clone(), Patience::COMMAND)
    }

    /// A listing from which something follows: a stream that is being turned on is listed again until it is on.
    async fn list(&self, prepared: &Prepared, stream: &StreamArn) -> Result<Listing> {
        let lister = self.lister(prepared, stream);
        let what = || {
            let what = format!("list the shards of the stream of link `{}`", self.config.name);
            Error::new(Exit::Precondition, what)
        };
        for _ in 0..ENABLING_LOOKS {
            match lister.list().await {
                Ok(listing) if listing.is_conclusive() => return Ok(listing),
                Ok(_) => tokio::time::sleep(ENABLING_AGAIN).await,
                Err(ListError::Failed(failure)) => {
                    let hint = "allow dynamodb:DescribeStream, GetShardIterator and GetRecords on it";
                    return Err(what().hint(hint).because(failure));
                }
                Err(ListError::Odd(error)) => return Err(what().because(error)),
            }
        }
        Err(what().hint("it is still being turned on: run again in a minute"))
    }

    fn settings(&self, prepared: &Prepared, row: &LinkRow) -> ReplicaSettings {
        let LinkConfig { load, apply, stream, .. } = &self.config;
        let patience = self.patience();
        let share = write_units(apply.write_capacity, &prepared.target);
        #[expect(clippy::cast_precision_loss, reason = "the most that a user may set is far below 2^53")]
        let ceiling = apply.max_wcu.map_or(f64::INFINITY, |most| most as f64);
        ReplicaSettings {
            keeper: KeeperSettings {
                interval: self.shared.checkpoint.interval,
                records: self.shared.checkpoint.records,
                look_ahead_records: usize::try_from(apply.look_ahead_records).unwrap_or(usize::MAX),
                look_ahead_bytes: usize::try_from(apply.look_ahead_bytes).unwrap_or(usize::MAX),
            },
            engine: EngineSettings {
                max_in_flight: apply.max_in_flight as usize,
                batch_items: apply.batch_items as usize,
                write_limit: Some(share.min(ceiling)),
                on_rejected: match apply.on_rejected {
                    config::OnRejected::Stop => OnRejected::Stop,
                    config::OnRejected::DeadLetter => OnRejected::DeadLetter,
                },
                patience,
            },
            stream: StreamSettings {
                pace: Pace { poll_min: stream.poll_min, poll_max: stream.poll_max },
                discovery_interval: stream.discovery_interval,
                max_concurrent: stream.max_concurrent_shards as usize,
                filter: ChangeFilter {
                    from: apply_from(row),
                    max_age: stream.max_record_age,
                    skip_ttl_deletes: stream.ttl_deletes == TtlDeletes::Skip,
                },
                patience,
                stop_on_gap: stream.on_gap == OnGap::Stop,
            },
            load: LoadSettings {
                concurrency: load.concurrency as usize,
                read_limit: Some(read_units(load.read_capacity, &prepared.source)),
                patience,
            },
            drain: self.shared.drain,
        }
    }

    fn verify_settings(&self, prepared: &Prepared, owns_target: bool) -> VerifySettings {
        verify_settings(&self.config, prepared, owns_target, self.patience())
    }

    /// All that goes on beside the replica. Ends when the companion is done, or when something says that the link must end.
    async fn beside(
        &self,
        companion: Option<&Companion<'_>>,
        running: Running,
        prepared: &Prepared,
        (stream, ghosts_until): (StreamArn, WallTime),
        heartbeat: &Heartbeat,
    ) -> Result<()> {
        let companion = async {
            match companion {
                Some(companion) => companion(running.clone()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = companion => done,
            () = self.heal_gaps(&running, &prepared.source.id, ghosts_until) => Ok(()),
            () = watch(&running.board, &prepared.accounts, heartbeat) => Ok(()),
            replaced = self.watch_source(prepared, &stream) => replaced,
        }
    }

    /// Heals gaps as they open, after the load: compares both tables and syncs what differs, while the stream is applied.
    async fn heal_gaps(&self, running: &Running, table_id: &str, ghosts_until: WallTime) {
        let table_id: Arc<str> = table_id.into();
        let context = &self.shared.context;
        let mut books = running.board.follow_books();
        loop {
            let open: Vec<u64> = books.borrow_and_update().open_gaps.iter().map(|gap| gap.id).collect();
            if open.is_empty() || running.board.is_loading() {
                tokio::select! {
                    _ = books.changed() => {}
                    () = tokio::time::sleep(HEAL_AGAIN / 10) => {}
                }
                continue;
            }
            tracing::info!(link = self.config.name, gaps = open.len(), "healing: comparing both tables");
            // What was read before the gap must be applied before keys are compared, or it would be applied after.
            let covered = context.now();
            if running.keeper.settled_until_now().await.is_err() {
                return std::future::pending().await;
            }
            let job = HealJob {
                source: Arc::clone(&running.ends.source),
                target: Arc::clone(&running.ends.target_reader),
                settings: running.verify.clone(),
                context: context.clone(),
                repairer: Arc::new(SameTableRepairs {
                    repairs: KeeperRepairs(running.keeper.clone()),
                    source: Arc::clone(&running.ends.source),
                    id: Arc::clone(&table_id),
                }),
                report: None,
                progress: None,
            };
            match heal(job).await {
                Ok(report) => {
                    tracing::info!(
                        link = self.config.name,
                        synced = report.synced,
                        left_extra = report.left_extra,
                        "healed"
                    );
                    if report.left_extra > 0 {
                        tracing::warn!(
                            link = self.config.name,
                            keys = report.left_extra,
                            "keys that only the target has were left: it is not the link's own (`target.exclusive`)"
                        );
                    }
                    if covered < ghosts_until {
                        // A write of the last owner may still land on a key that was compared: one more pass after that.
                        tokio::time::sleep(ghosts_until.since(context.now())).await;
                    } else if running.keeper.heal_gaps(open, covered).await.is_err() {
                        return std::future::pending().await;
                    }
                }
                Err(error) => {
                    tracing::error!(link = self.config.name, error = chain(&error), "a heal failed, trying again");
                    tokio::time::sleep(HEAL_AGAIN).await;
                }
            }
        }
    }

    /// Looks whether the source is still the same table, and whether it has another stream.
    async fn watch_source(&self, prepared: &Prepared, stream: &StreamArn) -> Result<()> {
        let mut is_told = false;
        loop {
            tokio::time::sleep(DESCRIBE_EVERY).await;
            let Ok(source) = prepared.accounts.describe_source(&self.shared.context).await else { continue };
            if source.id != prepared.source.id {
                return Err(Error::new(
                    Exit::Lost,
                    format!("the source table of link `{}` was made anew", self.config.name),
                )
                .hint("its history is another one: load again with a fresh state, into an empty target"));
            }
            let replaced = source.stream.as_ref().is_some_and(|now| now.arn != *stream);
            if replaced && !std::mem::replace(&mut is_told, true) {
                tracing::warn!(
                    link = self.config.name,
                    "the source has another stream now: the old one is read to its end first"
                );
            }
        }
    }

    /// The stream is off and read to its end: nothing more will come of it.
    async fn wait_for_another_stream(&self, stop: &CancellationToken, heartbeat: &Heartbeat) -> Result<()> {
        let name = &self.config.name;
        if self.shared.mode == Mode::Oneshot && !self.config.stream.enable {
            return Err(Error::new(Exit::Precondition, format!("the source's stream of link `{name}` was turned off"))
                .hint("turn it on again, or set `stream.enable = true`; what was written in between is then compared and healed"));
        }
        tracing::error!(link = name, "the source's stream is off: changes are not replicated until it is on again");
        while !stop.is_cancelled() {
            let source = match Accounts::connect(&self.config, &self.shared.clients, None).await {
                Ok(accounts) => accounts.describe_source(&self.shared.context).await.ok(),
                Err(_) => None,
            };
            let is_on = source.is_some_and(|source| source.stream.is_some_and(|stream| stream.enabled));
            if is_on || self.config.stream.enable {
                return Ok(());
            }
            pause(STREAM_AGAIN, stop, heartbeat).await;
        }
        Ok(())
    }
}

/// Waits, alive, unless it is told to stop.
async fn pause(time: Duration, stop: &CancellationToken, heartbeat: &Heartbeat) {
    let until = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < until && !stop.is_cancelled() {
        heartbeat.tick();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// How both tables of a link are compared.
pub(crate) fn verify_settings(
    config: &LinkConfig,
    prepared: &Prepared,
    owns_target: bool,
    patience: Patience,
) -> VerifySettings {
    let size = prepared.source.size_bytes.max(prepared.target.size_bytes);
    VerifySettings {
        segments: open::segments_of(config.verify.segments, size),
        source_rate: Some(read_units(config.verify.rate, &prepared.source)),
        target_rate: Some(read_units(config.verify.rate, &prepared.target)),
        owns_target,
        patience,
        ..VerifySettings::default()
    }
}

/// Keeps phase, heartbeat and time-dependent metrics up to date.
async fn watch(board: &Board, accounts: &Accounts, heartbeat: &Heartbeat) {
    let mut is_caught_up = false;
    loop {
        heartbeat.tick();
        let metrics = board.metrics();
        metrics.credentials_expiry(telemetry::Side::Source, accounts.source.credentials_expire_at());
        metrics.credentials_expiry(telemetry::Side::Target, accounts.target.credentials_expire_at());
        let snapshot = board.snapshot();
        let lag = snapshot.watermarks.lag(snapshot.now);
        let limit = if is_caught_up { CATCHING_UP.1 } else { CATCHING_UP.0 };
        is_caught_up = lag.is_some_and(|lag| lag <= limit);
        board.set_phase(match () {
            () if board.is_loading() => Phase::InitialLoad,
            () if is_caught_up => Phase::Replicating,
            () => Phase::CatchingUp,
        });
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Counts every call, and compares AWS's clock with ours.
fn observer(slot: BoardSlot, skew: Arc<Mutex<SkewEstimate>>) -> Observer {
    Arc::new(move |call: CallRecord| {
        if let Some((date, received)) = call.clocks {
            skew.lock().unwrap_or_else(PoisonError::into_inner).observe(received.minus(call.elapsed), received, date);
        }
        let board = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(board) = board else { return };
        let operation = Operation::named(call.operation);
        let side = match (call.side, call.operation) {
            (_, "GetRecords" | "GetShardIterator" | "DescribeStream") => telemetry::Side::Stream,
            (crate::aws::Side::Source, _) => telemetry::Side::Source,
            (crate::aws::Side::Target, _) => telemetry::Side::Target,
        };
        let result = match call.outcome {
            crate::aws::Outcome::Ok => RequestResult::Ok,
            crate::aws::Outcome::Throttled => RequestResult::Throttled,
            crate::aws::Outcome::Retryable => RequestResult::Retryable,
            crate::aws::Outcome::Denied => RequestResult::Denied,
            crate::aws::Outcome::Error => RequestResult::Error,
        };
        board.metrics().request(side, operation, result, call.elapsed);
        board.called(side, operation, result == RequestResult::Denied);
        if let Some((date, received)) = call.clocks {
            board.observe_date(side, received.minus(call.elapsed), received, date);
        }
    })
}

/// Resolves when everything that the source held at the call has been applied at the target.
pub(crate) async fn applied_until_now(board: Arc<Board>) {
    let asked: WallTime = board.snapshot().now;
    loop {
        // Creation times are floored, so a watermark of the next second proves this one.
        if board.snapshot().watermarks.applied.is_some_and(|applied| applied >= asked.plus(Duration::from_secs(1))) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
