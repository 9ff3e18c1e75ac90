//! Drives the lanes: what may be sent is sent, and what comes back is settled.
//!
//! One task owns the lanes. Changes of the stream, items of the load and keys to be synced come in; batches go out, at most
//! so many at once, at the pace that the target bears. What was not processed goes round again, in order. Settlements go to
//! the bookkeeper, who turns them into checkpoints.
//!
//! The loop is here. `handle` is what others hold, `sending` fills the wire, `answers` takes what comes back.

mod answers;
mod arrived;
mod handle;
mod proofs;
mod sending;
mod settled;
mod trouble;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::TargetTable;
use super::pace::Pacer;
use super::window::Window;
use crate::checkpoint::book::Token;
use crate::checkpoint::keeper::{Keeper, KeeperGone, SyncOrder};
use crate::context::Context;
use crate::error::Failure;
use crate::lanes::{LaneError, Lanes};
use crate::load::TableReader;
use crate::model::{WallTime, Write};
use crate::retry::Patience;
use crate::telemetry::AppliedOp;

use answers::Answer;
use arrived::Arrived;
use handle::Message;
pub(crate) use handle::{Engine, EngineGone};
pub(crate) use proofs::Look;
use proofs::Proofs;
use trouble::Trouble;

/// Messages that may wait; senders wait when there are more.
const INBOX: usize = 32;

/// What happens to an item that the target will never take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnRejected {
    /// The link stops.
    Stop,
    /// It is set aside, durably, and counted.
    DeadLetter,
}

/// How the engine sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineSettings {
    /// Requests on the wire at once.
    pub(crate) max_in_flight: usize,
    /// Writes in a request: 1 to 25.
    pub(crate) batch_items: usize,
    /// Bytes of JSON in one request, or a single write.
    pub(crate) batch_bytes: usize,
    /// A request is carried out as a whole or not at all, at two write units for each started KB.
    pub(crate) is_transaction: bool,
    /// Write units per second; `None`: only the service limits.
    pub(crate) write_limit: Option<f64>,
    /// What happens to rejected items.
    pub(crate) on_rejected: OnRejected,
    /// For how long refused credentials are borne.
    pub(crate) patience: Patience,
}

/// Why the engine stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The target refused for good.
    #[error("write to the target")]
    Target(#[source] Failure),
    /// The source refused for good.
    #[error("read an item at the source")]
    Source(#[source] Failure),
    /// The source is another table now; nothing that was read in it was written.
    #[error("the source table was made anew")]
    SourceReplaced,
    /// An item will never be accepted.
    #[error("the target rejects an item: {code}")]
    Rejected {
        /// The service's code.
        code: String,
        /// What it said.
        #[source]
        source: Failure,
    },
    /// A bug.
    #[error("keep the lanes")]
    Lanes(#[from] LaneError),
    /// The bookkeeper stopped first.
    #[error(transparent)]
    Keeper(#[from] KeeperGone),
}

/// What the engine tells while it runs.
pub(crate) trait EngineObserver: Send + Sync {
    /// So many records of the stream were acknowledged; all were created in that second.
    fn applied(&self, op: AppliedOp, created: WallTime, records: u64);
    /// Records were settled by newer ones of their keys.
    fn superseded(&self, records: u64);
    /// Write units were consumed.
    fn consumed_write(&self, units: f64);
    /// Whether the target throttles now.
    fn throttled(&self, slowed: bool);
}

/// The task behind an [`Engine`].
pub(crate) struct EngineTask {
    target: Arc<dyn TargetTable>,
    source: Arc<dyn TableReader>,
    keeper: Keeper,
    context: Context,
    settings: EngineSettings,
    observer: Arc<dyn EngineObserver>,
    inbox: mpsc::Receiver<Message>,
    syncs: mpsc::UnboundedReceiver<SyncOrder>,
    lanes: Lanes<Token>,
    arrived: Arrived,
    on_wire: FuturesUnordered<BoxFuture<'static, Answer>>,
    requests_out: usize,
    bytes_out: usize,
    window: Window,
    reads_out: usize,
    /// Halves of batches that were rejected as a whole; their keys are under way.
    halves: VecDeque<Vec<Write>>,
    pacer: Pacer,
    writing: Trouble,
    reading: Trouble,
    looking: Trouble,
    /// What was read for syncs, and is not proved to be of the table with `source_id`.
    proofs: Proofs,
    source_id: Arc<str>,
    await_idle: Vec<oneshot::Sender<()>>,
    not_before: Instant,
    reads_not_before: Instant,
    started: Instant,
    was_slowed: bool,
}

/// Whom the engine works with.
pub(crate) struct EngineSetup {
    pub(crate) target: Arc<dyn TargetTable>,
    pub(crate) source: Arc<dyn TableReader>,
    /// The id of the table that the link is pinned to.
    pub(crate) source_id: Arc<str>,
    pub(crate) keeper: Keeper,
    pub(crate) context: Context,
    pub(crate) settings: EngineSettings,
    pub(crate) observer: Arc<dyn EngineObserver>,
    pub(crate) syncs: mpsc::UnboundedReceiver<SyncOrder>,
}

impl EngineTask {
    pub(crate) fn new(setup: EngineSetup) -> (Self, Engine) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let EngineSetup { target, source, source_id, keeper, context, settings, observer, syncs } = setup;
        let started = Instant::now();
        let task = Self {
            target,
            source,
            keeper,
            context,
            settings,
            observer,
            inbox,
            syncs,
            lanes: Lanes::new(),
            arrived: Arrived::default(),
            on_wire: FuturesUnordered::new(),
            requests_out: 0,
            bytes_out: 0,
            window: Window::new(settings.max_in_flight.saturating_mul(settings.batch_bytes)),
            reads_out: 0,
            halves: VecDeque::new(),
            pacer: Pacer::new(settings.write_limit, Duration::ZERO),
            writing: Trouble::new(settings.patience),
            reading: Trouble::new(settings.patience),
            looking: Trouble::new(settings.patience),
            proofs: Proofs::new(started),
            source_id,
            await_idle: Vec::new(),
            not_before: started,
            reads_not_before: started,
            started,
            was_slowed: false,
        };
        (task, Engine { inbox: sender })
    }

    /// Runs until it is told to stop; then no request is sent any more, and it ends when all that were sent are answered:
    /// nothing is on the wire then. Dropping it half-way leaves writes in doubt.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), EngineError> {
        loop {
            if !stop.is_cancelled() {
                self.tell_idle();
                let may_send = self.send_what_may_be_sent()?;
                let may_look = self.look_at_source();
                self.step(&stop, may_send.into_iter().chain(may_look).min()).await?;
            } else if let Some(answer) = self.on_wire.next().await {
                self.take_answer(answer).await?;
            } else {
                return Ok(());
            }
        }
    }

    /// Waits for anything to happen, and takes it together with all else that has happened.
    async fn step(&mut self, stop: &CancellationToken, wake: Option<Instant>) -> Result<(), EngineError> {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            Some(answer) = self.on_wire.next(), if !self.on_wire.is_empty() => self.take_answer(answer).await?,
            Some((key, token)) = self.syncs.recv() => self.lanes.push_sync(key, token),
            Some(message) = self.inbox.recv() => self.take_message(message)?,
            () = sleep_until(wake) => {}
        }
        for _ in 0..INBOX {
            match self.inbox.try_recv() {
                Ok(message) => self.take_message(message)?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn take_message(&mut self, message: Message) -> Result<(), LaneError> {
        match message {
            Message::Changes(changes) => {
                self.arrived.check(changes.iter().map(|(_, token)| token))?;
                for (change, token) in changes {
                    self.lanes.push_change(change.key, change.op, token);
                }
            }
            Message::OpenPage(ack) => {
                let page = self.lanes.open_page();
                if ack.send(page).is_err() {
                    self.lanes.abandon_page(page);
                }
            }
            Message::Page(page, items) => self.lanes.push_page(page, items.into_iter())?,
            Message::AbandonPage(page) => self.lanes.abandon_page(page),
            Message::Idle(ack) => self.await_idle.push(ack),
        }
        Ok(())
    }

    fn tell_idle(&mut self) {
        if self.lanes.is_empty() && self.on_wire.is_empty() {
            for ack in self.await_idle.drain(..) {
                if ack.send(()).is_err() {
                    tracing::trace!("nobody waits for the engine to be idle");
                }
            }
        }
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
