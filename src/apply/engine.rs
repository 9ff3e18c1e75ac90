//! Drives the lanes: what may be sent is sent, and what comes back is settled.
//!
//! One task owns the lanes. Changes of the stream, items of the load and keys to be synced come in; batches go out, at most
//! so many at once, at the pace that the target bears. What was not processed goes round again, in order. Settlements go to
//! the bookkeeper, who turns them into checkpoints.

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
use crate::checkpoint::book::Token;
use crate::checkpoint::keeper::{Keeper, KeeperGone, SyncOrder};
use crate::checkpoint::rows::DeadLetterRow;
use crate::context::Context;
use crate::decode::WriteReply;
use crate::error::{Failure, Fault};
use crate::lanes::{BatchLimits, LaneError, Lanes, PageNumber, Tokens};
use crate::load::TableReader;
use crate::model::{CanonicalKey, Change, Key, RawItem, WallTime, Write};
use crate::retry::{Attempts, Patience, Verdict};
use crate::telemetry::AppliedOp;

/// Messages that may wait; senders wait when there are more.
const INBOX: usize = 32;
/// Reads for `sync` that may be out at once.
const MAX_READS: usize = 16;
/// Bytes of JSON in one request: below BatchWriteItem's 16 MB with room for the envelope.
const MAX_BATCH_BYTES: usize = 15 << 20;
/// Wait after an answer that left everything unprocessed, besides what the pace says.
const UNPROCESSED_WAIT: Duration = Duration::from_millis(20);

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

enum Message {
    Changes(Vec<(Change, Token)>),
    OpenPage(oneshot::Sender<PageNumber>),
    Page(PageNumber, Vec<(Key, RawItem, Token)>),
    AbandonPage(PageNumber),
}

/// The engine is gone; the reason is what its task returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine has stopped")]
pub(crate) struct EngineGone;

/// The way to the engine. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    inbox: mpsc::Sender<Message>,
}

impl Engine {
    /// Hands over changes that the bookkeeper admitted, in the order of their shard.
    pub(crate) async fn apply(&self, changes: Vec<(Change, Token)>) -> Result<(), EngineGone> {
        if changes.is_empty() { Ok(()) } else { self.tell(Message::Changes(changes)).await }
    }

    /// Opens a page of the load, before it is requested.
    pub(crate) async fn open_page(&self) -> Result<PageNumber, EngineGone> {
        let (ack, number) = oneshot::channel();
        self.tell(Message::OpenPage(ack)).await?;
        number.await.map_err(|_| EngineGone)
    }

    /// Hands over the items of an open page.
    pub(crate) async fn load(&self, page: PageNumber, items: Vec<(Key, RawItem, Token)>) -> Result<(), EngineGone> {
        self.tell(Message::Page(page, items)).await
    }

    /// Closes a page that was not received.
    pub(crate) async fn abandon_page(&self, page: PageNumber) -> Result<(), EngineGone> {
        self.tell(Message::AbandonPage(page)).await
    }

    async fn tell(&self, message: Message) -> Result<(), EngineGone> {
        self.inbox.send(message).await.map_err(|_| EngineGone)
    }
}

enum Answer {
    Written { writes: Vec<Write>, estimate: f64, sent: Instant, reply: Result<WriteReply, Failure> },
    Read { key: Key, sent: Instant, item: Result<Option<RawItem>, Failure> },
    Told(Result<(), KeeperGone>),
}

/// Failures in a row of one kind of request.
struct Trouble {
    attempts: Attempts,
    counted_at: Option<Instant>,
}

impl Trouble {
    fn new(patience: Patience) -> Self {
        Self { attempts: Attempts::new(patience), counted_at: None }
    }

    fn passed(&mut self) {
        self.attempts.succeeded();
        self.counted_at = None;
    }

    /// A request that was sent then failed now. Requests that were out together fail together: they are one failure, or
    /// a single burst would drive the wait to its longest. Answers the wait; `None`: it is on already.
    fn failed(&mut self, failure: &Failure, sent: Instant, now: Duration, draw: f64) -> Result<Option<Duration>, ()> {
        let is_final = matches!(failure.fault, Fault::Lost | Fault::Rejected);
        if !is_final && self.counted_at.is_some_and(|at| sent <= at) {
            return Ok(None);
        }
        self.counted_at = Some(Instant::now());
        match self.attempts.failed_with(failure, now, draw) {
            Verdict::Again(wait) => {
                warn_of(failure, self.attempts.failed());
                Ok(Some(wait))
            }
            Verdict::Stop => Err(()),
        }
    }
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
    on_wire: FuturesUnordered<BoxFuture<'static, Answer>>,
    requests_out: usize,
    reads_out: usize,
    /// Halves of batches that were rejected as a whole; their keys are under way.
    halves: VecDeque<Vec<Write>>,
    pacer: Pacer,
    writing: Trouble,
    reading: Trouble,
    not_before: Instant,
    reads_not_before: Instant,
    started: Instant,
    was_slowed: bool,
}

/// Whom the engine works with.
pub(crate) struct EngineSetup {
    pub(crate) target: Arc<dyn TargetTable>,
    pub(crate) source: Arc<dyn TableReader>,
    pub(crate) keeper: Keeper,
    pub(crate) context: Context,
    pub(crate) settings: EngineSettings,
    pub(crate) observer: Arc<dyn EngineObserver>,
    pub(crate) syncs: mpsc::UnboundedReceiver<SyncOrder>,
}

impl EngineTask {
    pub(crate) fn new(setup: EngineSetup) -> (Self, Engine) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let EngineSetup { target, source, keeper, context, settings, observer, syncs } = setup;
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
            on_wire: FuturesUnordered::new(),
            requests_out: 0,
            reads_out: 0,
            halves: VecDeque::new(),
            pacer: Pacer::new(settings.write_limit, Duration::ZERO),
            writing: Trouble::new(settings.patience),
            reading: Trouble::new(settings.patience),
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
                let wake = self.send_what_may_be_sent();
                self.step(&stop, wake).await?;
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
            Some(message) = self.inbox.recv() => self.take_message(message),
            () = sleep_until(wake) => {}
        }
        for _ in 0..INBOX {
            match self.inbox.try_recv() {
                Ok(message) => self.take_message(message),
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn take_message(&mut self, message: Message) {
        match message {
            Message::Changes(changes) => {
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
            Message::Page(page, items) => {
                // A page is handed over once by construction; the lanes check it.
                if let Err(error) = self.lanes.push_page(page, items.into_iter()) {
                    tracing::error!(%error, "a page of the load was not taken");
                }
            }
            Message::AbandonPage(page) => self.lanes.abandon_page(page),
        }
    }

    /// Fills the wire. Answers when to come back, where only time is in the way.
    fn send_what_may_be_sent(&mut self) -> Option<Instant> {
        loop {
            let now = Instant::now();
            if self.not_before > now && self.has_work() {
                return Some(self.not_before);
            }
            if self.requests_out >= self.settings.max_in_flight || !self.has_work() {
                return None;
            }
            if let Err(wait) = self.pacer.may_send(self.monotonic()) {
                self.report_throttle();
                return Some(now + wait);
            }
            if let Some(half) = self.halves.pop_front() {
                self.send(half);
                continue;
            }
            let may_read = self.reads_not_before <= now;
            let reads = if may_read { MAX_READS.saturating_sub(self.reads_out) } else { 0 };
            let limits = BatchLimits { writes: self.settings.batch_items, bytes: MAX_BATCH_BYTES, reads };
            let ready = self.lanes.take(limits);
            let is_idle = ready.writes.is_empty() && ready.reads.is_empty();
            ready.reads.into_iter().for_each(|key| self.read(key));
            if !ready.writes.is_empty() {
                self.send(ready.writes);
            }
            if !ready.dropped.is_empty() {
                self.dropped(ready.dropped);
            }
            if is_idle {
                return if may_read { None } else { Some(self.reads_not_before) };
            }
        }
    }

    fn has_work(&self) -> bool {
        self.lanes.has_ready() || !self.halves.is_empty()
    }

    fn dropped(&mut self, tokens: Vec<Token>) {
        let keeper = self.keeper.clone();
        let tell = async move { Answer::Told(keeper.settled(tokens).await) };
        self.on_wire.push(Box::pin(tell));
    }

    fn send(&mut self, writes: Vec<Write>) {
        debug_assert!(are_distinct(&writes), "one write per key in a request");
        let estimate = writes.iter().map(|write| units(write.wire_len())).sum();
        self.pacer.sent(estimate);
        self.requests_out += 1;
        let target = Arc::clone(&self.target);
        self.on_wire.push(Box::pin(async move {
            let sent = Instant::now();
            let reply = target.write(&writes).await;
            Answer::Written { writes, estimate, sent, reply }
        }));
    }

    fn read(&mut self, key: Key) {
        self.reads_out += 1;
        let source = Arc::clone(&self.source);
        self.on_wire.push(Box::pin(async move {
            let sent = Instant::now();
            let item = source.get(&key).await;
            Answer::Read { key, sent, item }
        }));
    }

    async fn take_answer(&mut self, answer: Answer) -> Result<(), EngineError> {
        match answer {
            Answer::Written { writes, estimate, sent, reply } => {
                self.requests_out -= 1;
                match reply {
                    Ok(reply) => self.written(writes, estimate, reply).await,
                    Err(failure) => self.write_failed(writes, estimate, sent, failure).await,
                }
            }
            Answer::Told(told) => Ok(told?),
            Answer::Read { key, sent, item } => {
                self.reads_out -= 1;
                self.read_answered(&key.canonical, sent, item)
            }
        }
    }

    async fn written(&mut self, writes: Vec<Write>, estimate: f64, reply: WriteReply) -> Result<(), EngineError> {
        self.writing.passed();
        if let Some(units) = reply.consumed_units {
            self.pacer.cost(estimate, units);
            self.observer.consumed_write(units);
        }
        if !reply.unprocessed.is_empty() {
            self.throttled();
            if reply.unprocessed.len() >= writes.len() {
                self.not_before = Instant::now() + UNPROCESSED_WAIT.mul_f64(0.5 + self.context.draw());
            }
        }
        let mut settled = Settled::new(writes.len());
        for write in writes {
            if reply.unprocessed.contains(&write.key.canonical) {
                self.lanes.put_back(&write.key.canonical)?;
            } else {
                let op = if write.image.is_some() { AppliedOp::Put } else { AppliedOp::Delete };
                settled.add(op, self.lanes.acknowledge(&write.key.canonical)?, self.observer.as_ref());
            }
        }
        Ok(self.keeper.settled(settled.tell(self.observer.as_ref())).await?)
    }

    async fn write_failed(
        &mut self,
        writes: Vec<Write>,
        estimate: f64,
        sent: Instant,
        failure: Failure,
    ) -> Result<(), EngineError> {
        self.pacer.cost(estimate, 0.0);
        if failure.fault == Fault::Rejected && !failure.may_have_happened {
            return self.rejected(writes, failure).await;
        }
        if failure.may_have_happened {
            // Listed before anything of them can be settled: the notes of one sender keep their order.
            self.keeper.in_doubt(writes.iter().map(|write| write.key.clone()).collect()).await?;
        }
        for write in &writes {
            if failure.may_have_happened {
                self.lanes.put_back_in_doubt(&write.key.canonical)?;
            } else {
                self.lanes.put_back(&write.key.canonical)?;
            }
        }
        if failure.throttled {
            self.throttled();
        }
        match self.writing.failed(&failure, sent, self.started.elapsed(), self.context.draw()) {
            Ok(wait) => {
                self.wait(wait);
                Ok(())
            }
            Err(()) => Err(EngineError::Target(failure)),
        }
    }

    fn wait(&mut self, wait: Option<Duration>) {
        self.not_before = self.not_before.max(Instant::now() + wait.unwrap_or_default());
    }

    /// A batch was refused as a whole: its halves are sent, down to the item that is to blame.
    async fn rejected(&mut self, mut writes: Vec<Write>, failure: Failure) -> Result<(), EngineError> {
        if writes.len() > 1 {
            let second = writes.split_off(writes.len() / 2);
            self.halves.extend([writes, second]);
            return Ok(());
        }
        let Some(write) = writes.pop() else { return Ok(()) };
        let code = failure.code.clone().unwrap_or_default();
        if self.settings.on_rejected == OnRejected::Stop {
            return Err(EngineError::Rejected { code, source: failure });
        }
        tracing::warn!(code, "an item was set aside as a dead letter");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let row = DeadLetterRow {
            id: 0,
            key_json: text(&write.key.json),
            item_json: write.image.as_ref().map(|image| text(image.json())),
            reason: format!("{code}: {}", failure.message),
            at: self.context.now(),
        };
        let tokens = self.lanes.give_up(&write.key.canonical)?;
        Ok(self.keeper.dead_letter(row, tokens.into_iter().collect()).await?)
    }

    fn read_answered(
        &mut self,
        key: &CanonicalKey,
        sent: Instant,
        item: Result<Option<RawItem>, Failure>,
    ) -> Result<(), EngineError> {
        match item {
            Ok(image) => {
                self.reading.passed();
                Ok(self.lanes.sync_read(key, image)?)
            }
            Err(failure) => {
                self.lanes.put_back(key)?;
                match self.reading.failed(&failure, sent, self.started.elapsed(), self.context.draw()) {
                    // Writes go on: what cannot be read at the source holds up nothing but its own keys.
                    Ok(wait) => {
                        self.reads_not_before = self.reads_not_before.max(Instant::now() + wait.unwrap_or_default());
                        Ok(())
                    }
                    Err(()) => Err(EngineError::Source(failure)),
                }
            }
        }
    }

    fn throttled(&mut self) {
        self.pacer.throttled(self.monotonic());
        self.report_throttle();
    }

    fn report_throttle(&mut self) {
        let is_slowed = self.pacer.is_slowed();
        if is_slowed != self.was_slowed {
            self.was_slowed = is_slowed;
            self.observer.throttled(is_slowed);
        }
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// What an answer settled, told to the observer in runs: records of one second come together.
struct Settled {
    tokens: Vec<Token>,
    run: Option<(AppliedOp, WallTime, u64)>,
    superseded: u64,
}

impl Settled {
    fn new(writes: usize) -> Self {
        Self { tokens: Vec::with_capacity(writes), run: None, superseded: 0 }
    }

    fn add(&mut self, op: AppliedOp, tokens: Tokens<Token>, observer: &dyn EngineObserver) {
        for (n, token) in tokens.into_iter().enumerate() {
            if let Token::Record { created, .. } = token {
                // The first is the operation's own, the others were absorbed by it.
                if n == 0 {
                    self.applied(op, created, observer);
                } else {
                    self.superseded += 1;
                }
            }
            self.tokens.push(token);
        }
    }

    fn applied(&mut self, op: AppliedOp, created: WallTime, observer: &dyn EngineObserver) {
        match &mut self.run {
            Some((of, at, records)) if (*of, *at) == (op, created) => *records += 1,
            run => {
                if let Some((op, created, records)) = run.replace((op, created, 1)) {
                    observer.applied(op, created, records);
                }
            }
        }
    }

    fn tell(self, observer: &dyn EngineObserver) -> Vec<Token> {
        if let Some((op, created, records)) = self.run {
            observer.applied(op, created, records);
        }
        if self.superseded > 0 {
            observer.superseded(self.superseded);
        }
        self.tokens
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// One line for the first failure of a row, and for every tenth after it.
fn warn_of(failure: &Failure, failed: u32) {
    if failed == 1 || failed.is_multiple_of(10) {
        tracing::warn!(error = %failure, failed, fault = failure.fault.as_str(), "a call failed, trying again");
    }
}

/// What a write of this many bytes of JSON costs at most, in units: one per started KB.
/// Source: Developer Guide, read and write operations.
fn units(wire_len: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an item has at most a few megabytes of JSON")]
    let units = wire_len.div_ceil(1024).max(1) as f64;
    units
}

fn are_distinct(writes: &[Write]) -> bool {
    let mut keys: Vec<_> = writes.iter().map(|write| &write.key.canonical).collect();
    keys.sort_unstable();
    keys.windows(2).all(|pair| pair.first() != pair.last())
}
