//! One running link: its tasks, wired together over the seams, started and stopped in order.
//!
//! ```text
//! stream driver ─┐                ┌─→ target
//!                ├─→ engine ──────┤
//! load driver  ──┘     ↑ syncs    └─→ source (reads for sync)
//!        └──→ bookkeeper ──→ store
//! ```
//!
//! The stream is applied while a scan goes on. It waits for the end of an export, which is older than what is in it.
//! The first fault stops the link. Stopping: reading ends, then the engine finishes what is on the wire, then the books are
//! closed; only after all that were they closed clean.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::board::Board;
use crate::apply::TargetTable;
use crate::apply::engine::{Engine, EngineError, EngineSettings, EngineSetup, EngineTask};
use crate::checkpoint::book::Book;
use crate::checkpoint::keeper::{Keeper, KeeperError, KeeperSettings, KeeperSetup, KeeperTask};
use crate::checkpoint::lease::Session;
use crate::checkpoint::rows::{Fence, SegmentRow, ShardRow, Stage};
use crate::checkpoint::{StateStore, StoreError};
use crate::context::Context;
use crate::decode::KeyCodec;
use crate::load::TableReader;
use crate::load::driver::{LoadDriver, LoadEnd, LoadError, LoadSettings};
use crate::load::export::{ExportDriver, ExportSource};
use crate::load::handover::HandOver;
use crate::model::{ShardId, ViewType, WallTime};
use crate::stream::driver::{StreamDriver, StreamEnd, StreamError, StreamSettings, StreamSetup};
use crate::stream::lister::Listings;
use crate::stream::part::Elsewhere;
use crate::stream::{Lineage, StreamSource};

/// What the last checkpoint may take, also when draining took all its time.
const CLOSE_TIME: Duration = Duration::from_secs(3);

/// Both sides of a link.
#[derive(Clone)]
pub(crate) struct Ends {
    pub(crate) source: Arc<dyn TableReader>,
    pub(crate) stream: Arc<dyn StreamSource>,
    pub(crate) target: Arc<dyn TargetTable>,
    pub(crate) target_reader: Arc<dyn TableReader>,
}

/// How a link runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplicaSettings {
    pub(crate) keeper: KeeperSettings,
    pub(crate) engine: EngineSettings,
    pub(crate) stream: StreamSettings,
    pub(crate) load: LoadSettings,
    /// How long the engine may take to finish what is on the wire.
    pub(crate) drain: Duration,
}

/// A link that is ready to run.
pub(crate) struct ReplicaSetup {
    pub(crate) link: String,
    pub(crate) ends: Ends,
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) fence: Fence,
    pub(crate) book: Book,
    pub(crate) lineage: Lineage,
    /// The export that is being loaded; `None`: a load is a scan.
    pub(crate) export: Option<ExportSource>,
    /// From where the stream goes on from it, and whether another export may bring what the stream has lost.
    pub(crate) hand_over: Option<(HandOver, bool)>,
    /// The stream was pinned, and then waited for a load that holds what was written before.
    pub(crate) waited_for_load: bool,
    pub(crate) proved_before: BTreeMap<ShardId, WallTime>,
    /// Of a part of a link: what it leaves alone.
    pub(crate) elsewhere: Option<Elsewhere>,
    /// Where the parts of a link have their listings from.
    pub(crate) listings: Option<Arc<Listings>>,
    pub(crate) view: ViewType,
    pub(crate) context: Context,
    /// The context by AWS's clock. Until when late writes may land is read by many owners, whose own clocks differ.
    pub(crate) by_aws: Context,
    pub(crate) settings: ReplicaSettings,
    pub(crate) board: Arc<Board>,
    /// As long as it lives, the link is this worker's; `None`: always.
    pub(crate) session: Option<Arc<Session>>,
}

/// Reading of stream and load, which may end before the link does.
#[derive(Clone)]
pub(crate) struct Reading {
    stop: CancellationToken,
    ended: CancellationToken,
    engine: Engine,
}

impl Reading {
    /// Nothing more is read; resolves when what was read is applied, as far as it was handed over, and nothing is on the
    /// wire. Keys in doubt are synced until the link is told to stop.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.ended.cancelled().await;
        if self.engine.idle().await.is_err() {
            // The link ends, and with it who asked.
            std::future::pending::<()>().await;
        }
    }
}

/// Why a link ended by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaError {
    /// Reading the stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The initial load.
    #[error("load the table")]
    Load(#[from] LoadError),
    /// Writing.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The books.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// This worker's signs of life were not answered in time, so another one may have the link.
    #[error("the lease is over: no sign of life was answered in time")]
    Lapsed,
    /// A task panicked: a bug.
    #[error("task {0} ended unexpectedly")]
    Task(&'static str),
}

/// How a link ended.
#[derive(Debug)]
pub(crate) enum ReplicaEnd {
    /// It was told to stop, and drained.
    Stopped,
    /// It was told to stop, and something was still on the wire.
    StoppedUnclean,
    /// The stream is disabled, and read and settled to its end; drained.
    Exhausted,
    /// The export is loaded, and the stream does not go on from it: another one must bring what is in between.
    Outlasted,
}

enum Ended {
    Keeper(Result<(), KeeperError>),
    Engine(Result<(), EngineError>),
    Stream(Result<StreamEnd, StreamError>),
    Load(Result<LoadEnd, LoadError>),
}

/// A link that runs. Drop it and its tasks are aborted, which is a crash: correct, only slower.
pub(crate) struct Replica {
    tasks: JoinSet<Ended>,
    keeper: Keeper,
    stop_reading: CancellationToken,
    /// The stream is not read any more.
    has_read: CancellationToken,
    engine: Engine,
    stop_engine: CancellationToken,
    /// The load is done: what waits for that begins.
    loaded: CancellationToken,
    board: Arc<Board>,
    drain: Duration,
    session: Option<Arc<Session>>,
    context: Context,
}

impl Replica {
    /// Starts the tasks.
    pub(crate) fn start(setup: ReplicaSetup) -> Self {
        let ReplicaSetup { link, ends, store, fence, mut book, lineage, export, view, context, settings, .. } = setup;
        let hand_over = setup.hand_over;
        let proved_before = setup.proved_before;
        let (by_aws, board, session) = (setup.by_aws, setup.board, setup.session);
        let clocks = context.clone();
        let row = book.link().clone();
        let shards: Vec<ShardRow> = book.shard_rows().cloned().collect();
        let segments: Vec<SegmentRow> = book.segment_rows().cloned().collect();
        board.restore(shards.iter());
        if export.is_some() {
            book.load_export();
        }

        let (keeper_task, keeper, outputs) = KeeperTask::new(KeeperSetup {
            link: link.clone(),
            fence,
            store,
            context: by_aws.clone(),
            signing: context.clone(),
            settings: settings.keeper,
            observer: Arc::clone(&board) as _,
            book,
        });
        let (engine_task, engine) = EngineTask::new(EngineSetup {
            target: ends.target,
            source: Arc::clone(&ends.source),
            source_id: row.identity.source_id.as_str().into(),
            keeper: keeper.clone(),
            context: context.clone(),
            settings: settings.engine,
            observer: Arc::clone(&board) as _,
            syncs: outputs.syncs,
        });
        let stream = StreamDriver::new(StreamSetup {
            source: ends.stream,
            stream: row.identity.stream.clone(),
            view,
            codec: KeyCodec::new(&row.identity.keys),
            keeper: keeper.clone(),
            engine: engine.clone(),
            context: context.clone(),
            settings: settings.stream,
            observer: Arc::clone(&board) as _,
            lineage,
            rows: shards,
            proved_before,
            elsewhere: setup.elsewhere,
            listings: setup.listings,
            waited_for_load: setup.waited_for_load,
            finished: outputs.finished,
        });

        let writes = engine.clone();
        let (stop_reading, stop_engine) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        // Their log lines name the link, as those of whoever starts them do.
        tasks.spawn(async move { Ended::Keeper(keeper_task.run().await) }.in_current_span());
        let stop = stop_engine.clone();
        tasks.spawn(async move { Ended::Engine(engine_task.run(stop).await) }.in_current_span());
        let loaded = CancellationToken::new();
        let waits_for = export.is_some().then(|| loaded.clone());
        if waits_for.is_some() {
            board.stream_waits_for_load();
        }
        let stop = stop_reading.clone();
        tasks.spawn(async move { Ended::Stream(read_stream(stream, waits_for, stop).await) }.in_current_span());
        if row.stage == Stage::Loading
            && let Some(plan) = &row.load
        {
            board.load_begins(plan, hand_over.is_some_and(|(_, may_go_on)| may_go_on), segments.iter());
            let stop = stop_reading.clone();
            let (keeper, observer) = (keeper.clone(), Arc::clone(&board) as _);
            let (settings, total_segments) = (settings.load, plan.total_segments);
            if let (Some(source), Some((hand_over, may_go_on))) = (export, hand_over) {
                let load = ExportDriver {
                    source,
                    keys: KeyCodec::new(&row.identity.keys),
                    keeper,
                    engine,
                    context,
                    by_aws,
                    settings,
                    observer,
                    not_before: plan.export.as_ref().and_then(|export| export.not_before),
                    hand_over,
                    may_go_on,
                    segments,
                    is_late: false.into(),
                };
                tasks.spawn(async move { Ended::Load(load.run(stop).await) }.in_current_span());
            } else {
                let source = ends.source;
                let load = LoadDriver { source, keeper, engine, context, settings, observer, segments, total_segments };
                tasks.spawn(async move { Ended::Load(load.run(stop).await) }.in_current_span());
            }
        } else if let Some(items) = row.load.as_ref().and_then(|plan| plan.loaded_items) {
            board.was_loaded(items);
        }
        let (drain, has_read) = (settings.drain, CancellationToken::new());
        let context = clocks;
        Self {
            tasks,
            keeper,
            stop_reading,
            has_read,
            engine: writes,
            stop_engine,
            loaded,
            board,
            drain,
            session,
            context,
        }
    }

    /// The way to the bookkeeper.
    pub(crate) const fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// The way to end reading before the link.
    pub(crate) fn reading(&self) -> Reading {
        let (stop, ended) = (self.stop_reading.clone(), self.has_read.clone());
        Reading { stop, ended, engine: self.engine.clone() }
    }

    /// Runs until something ends it: a stop, an exhausted stream, a fault. Drains as far as it can, unless the link is, or
    /// may be, another worker's: then everything ends at once, and what is on the wire is that one's doubt.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<ReplicaEnd, ReplicaError> {
        let (session, context) = (self.session.clone(), self.context.clone());
        let ended = tokio::select! {
            biased;
            ended = self.run_while_held(stop) => ended,
            () = lapse(session.as_deref(), &context) => Err(ReplicaError::Lapsed),
        };
        // Joined, so that nothing is sent after this returns.
        self.tasks.shutdown().await;
        ended
    }

    async fn run_while_held(&mut self, stop: CancellationToken) -> Result<ReplicaEnd, ReplicaError> {
        let (mut exhausted, mut outlasted) = (false, false);
        let mut engine_ended = false;
        let fault = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break None,
                ended = self.tasks.join_next() => match ended {
                    Some(Ok(Ended::Load(Ok(LoadEnd::Outlasted)))) => {
                        outlasted = true;
                        break None;
                    }
                    Some(Ok(Ended::Load(Ok(LoadEnd::Done)))) => {
                        if !stop.is_cancelled() && !self.stop_reading.is_cancelled() {
                            self.board.load_ended();
                            self.loaded.cancel();
                        }
                    }
                    Some(Ok(Ended::Stream(Ok(StreamEnd::Exhausted)))) => {
                        exhausted = true;
                        break None;
                    }
                    // Reading was ended, not the link.
                    Some(Ok(Ended::Stream(Ok(StreamEnd::Stopped)))) => self.has_read.cancel(),
                    Some(Ok(Ended::Keeper(Err(error)))) if is_fenced(&error) => return Err(error.into()),
                    Some(Ok(ended)) => {
                        engine_ended = matches!(ended, Ended::Engine(_));
                        break Some(fault_of(ended));
                    }
                    Some(Err(_)) | None => break Some(ReplicaError::Task("of the link")),
                }
            }
        };
        let (is_clean, drain_fault) = self.shut_down(engine_ended).await;
        match first_cause(fault, drain_fault) {
            Some(fault) => Err(fault),
            // What it left is in the state, as after any other end.
            None if outlasted => Ok(ReplicaEnd::Outlasted),
            None if exhausted && is_clean => Ok(ReplicaEnd::Exhausted),
            None if is_clean => Ok(ReplicaEnd::Stopped),
            None => Ok(ReplicaEnd::StoppedUnclean),
        }
    }

    /// Stop reading → finish what is on the wire → checkpoint, within the drain time.
    async fn shut_down(&mut self, mut engine_ended: bool) -> (bool, Option<ReplicaError>) {
        self.stop_reading.cancel();
        self.stop_engine.cancel();
        let deadline = tokio::time::Instant::now() + self.drain;
        let (mut engine_is_clean, mut fault) = (false, None);
        while !engine_ended {
            match tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
                Ok(Some(Ok(Ended::Engine(Ok(()))))) => (engine_is_clean, engine_ended) = (true, true),
                Ok(Some(Ok(Ended::Engine(Err(error))))) => {
                    engine_ended = true;
                    fault = Some(error.into());
                }
                Ok(Some(Ok(Ended::Keeper(Err(error))))) => return (false, Some(error.into())),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let deadline = deadline.max(tokio::time::Instant::now() + CLOSE_TIME);
        let closed = tokio::time::timeout_at(deadline, self.keeper.close(engine_is_clean)).await;
        let is_clean = engine_is_clean && matches!(closed, Ok(Ok(())));
        if !engine_ended {
            self.tasks.abort_all();
        }
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
            if let Ok(Ended::Keeper(Err(error))) = ended {
                fault = Some(error.into());
            }
        }
        (is_clean, fault)
    }
}

/// Reads the stream, from the end of a load on where there is one to wait for.
async fn read_stream(
    stream: StreamDriver,
    waits_for: Option<CancellationToken>,
    stop: CancellationToken,
) -> Result<StreamEnd, StreamError> {
    if let Some(loaded) = waits_for {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(StreamEnd::Stopped),
            () = loaded.cancelled() => {}
        }
    }
    stream.run(stop).await
}

/// Resolves when the link may be another worker's.
async fn lapse(session: Option<&Session>, context: &Context) {
    match session {
        Some(session) => session.lapse(context).await,
        None => std::future::pending().await,
    }
}

const fn is_fenced(error: &KeeperError) -> bool {
    matches!(error, KeeperError::Store(StoreError::Fenced { .. }))
}

fn fault_of(ended: Ended) -> ReplicaError {
    match ended {
        Ended::Keeper(Err(error)) => error.into(),
        Ended::Engine(Err(error)) => error.into(),
        Ended::Stream(Err(error)) => error.into(),
        Ended::Load(Err(error)) => error.into(),
        Ended::Keeper(Ok(())) => ReplicaError::Task("bookkeeper"),
        Ended::Engine(Ok(())) => ReplicaError::Task("engine"),
        Ended::Stream(Ok(_)) => ReplicaError::Task("stream"),
        Ended::Load(Ok(_)) => ReplicaError::Task("load"),
    }
}

/// A task that only says that another one is gone does not say why.
fn first_cause(first: Option<ReplicaError>, second: Option<ReplicaError>) -> Option<ReplicaError> {
    let is_consequence = matches!(
        first,
        Some(
            ReplicaError::Stream(StreamError::Keeper(_) | StreamError::Engine(_))
                | ReplicaError::Load(LoadError::Keeper(_) | LoadError::Engine(_))
                | ReplicaError::Engine(EngineError::Keeper(_))
        )
    );
    if is_consequence { second.or(first) } else { first.or(second) }
}
