//! The life of one link: prepare, open the books, run, heal, follow a stream that is replaced.
//!
//! One generation is the link over one stream, from preparing to draining: that is here. `beginning` takes the link, `opening` gets
//! from state and tables to open books, `settings` from the configuration to the stages; `healing` and `watching` go on beside the
//! replica; `ending` says what follows when it stops. A link whose shards several workers share is divided by `dividing`, led
//! by `leading`, and its `parts` are links of their own here; `spreading` says when it had better be divided anew.

mod asked;
mod auditing;
mod beginning;
mod chaining;
mod clock;
mod costs;
mod dividing;
mod ending;
mod exporting;
mod gating;
mod healing;
mod importing;
mod increments;
mod leading;
mod looking;
mod marks;
mod opening;
mod own_export;
mod parts;
mod settings;
mod slots;
mod spreading;
mod verified;
mod watching;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::board::Board;
use super::fleet::Fleet;
use super::open::resumed_line;
use super::prepare::Prepared;
use super::replica::{Ends, Reading, Replica, ReplicaEnd, ReplicaError, ReplicaSetup};
use crate::aws::{Clients, Observer};
use crate::checkpoint::StateStore;
use crate::checkpoint::keeper::Keeper;
use crate::config::{CheckpointConfig, LinkConfig};
use crate::context::Context;
use crate::error::{Exit, Result, chain};
use crate::http::{Heartbeat, Heartbeats};
use crate::model::{StreamArn, WallTime};
use crate::retry::Patience;
use crate::telemetry::skew::SkewEstimate;
use crate::telemetry::{Metrics, Mode, Phase, Takeover};
use crate::verify::VerifySettings;

use beginning::{Begun, Start};
pub(crate) use clock::by_aws;
use clock::{AwsClock, corrected};
pub(crate) use importing::Imported;
use leading::alive;
pub(crate) use looking::{check_whole, letters_with_parts, parts_at_work, parts_of, read_with_parts};
pub(crate) use parts::{PartOf, Sharing};
pub(crate) use settings::verify_settings;
pub(crate) use slots::{BoardSlot, Importing, LinkSlots};
pub(crate) use verified::{keep_verified, verified_row};
pub(crate) use watching::{applied_until_now, state_observer};
use watching::{observer, pause, unless_stopped, watch};

/// What a link needs whose stream is off and read to its end.
const STREAM_OFF: &str =
    "the source's stream is off and changes are not replicated: turn it on, or set `stream.enable = true`";
/// A service that has run once waits this long before it opens its link again after a failure.
const OPEN_AGAIN: Duration = Duration::from_secs(15);

/// A part that is recalled is looked at again after this: it is gone by then, or somebody puts the link together.
const RECALLED_AGAIN: Duration = Duration::from_secs(1);

/// What counts as caught up, where a shard is polled often enough for that.
const CAUGHT_UP: Duration = Duration::from_secs(5);

/// How far behind a link may be that has caught up: an idle shard is as far behind as its last poll is ago.
pub(crate) fn caught_up_within(poll_max: Duration) -> Duration {
    CAUGHT_UP.max(poll_max * 2)
}

/// What links of one process share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) context: Context,
    pub(crate) clients: Clients,
    pub(crate) store: Arc<dyn StateStore>,
    /// The workers that share the store; `None`: nobody does.
    pub(crate) fleet: Option<Fleet>,
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
    pub(crate) reading: Reading,
    pub(crate) ends: Ends,
    pub(crate) owns_target: bool,
    /// What the service says that the source holds.
    pub(crate) source_items: u64,
    pub(crate) verify: VerifySettings,
    /// No further behind than this, it has caught up.
    pub(crate) caught_up_within: Duration,
    /// For how long a key is in doubt.
    pub(crate) in_doubt_for: Duration,
}

/// What is done beside a link while it runs; when it is done, the link stops.
pub(crate) type Companion<'a> = Box<dyn Fn(Running) -> BoxFuture<'a, Result<()>> + Send + Sync + 'a>;

/// One link of the configuration.
pub(crate) struct Link {
    pub(crate) config: LinkConfig,
    pub(crate) shared: Shared,
    pub(crate) slots: LinkSlots,
    /// AWS's clock against ours, from the first answer on.
    pub(crate) skew: Arc<Mutex<SkewEstimate>>,
    /// What this is a part of; `None`: it is a link.
    pub(crate) part: Option<PartOf>,
    /// What is done here for the link while it is divided.
    pub(crate) sharing: Arc<Sharing>,
}

enum Generation {
    Stopped,
    StreamEnded,
    /// An export is loaded, and the stream does not go on from it.
    Outlasted,
    /// Drained, for another worker that has fewer links.
    HandedOver,
    /// It is to be opened again: it was divided, or put together, or that came to nothing.
    Again,
    /// A part that nobody is to work on any more.
    Recalled,
    /// Another worker has the link, or may have it; whether this one had begun to work on it.
    LeaseLost {
        had_begun: bool,
    },
}

impl Link {
    /// Runs the link until it is told to stop, or until the companion is done. All of its log lines name it.
    pub(crate) async fn run(&self, companion: Option<Companion<'_>>, stop: CancellationToken) -> Result<()> {
        let stop_link = stop.child_token();
        let run = Box::pin(self.run_generations(companion, stop_link.clone()));
        let run = async {
            if self.shares() { Box::pin(self.run_beside_parts(run, (stop_link, stop))).await } else { run.await }
        };
        run.instrument(link_span(&self.config.name)).await
    }

    async fn run_generations(&self, companion: Option<Companion<'_>>, stop: CancellationToken) -> Result<()> {
        let heartbeat = self.shared.heartbeats.register(format!("link {}", self.config.name));
        let mut has_run = false;
        loop {
            match Box::pin(self.run_generation(companion.as_ref(), &stop, &heartbeat)).await {
                Ok(Generation::Stopped) => return Ok(()),
                Ok(Generation::StreamEnded) => {
                    has_run = true;
                    // Of a part there is never another one: whoever leads the link sees to that.
                    match &self.part {
                        None => self.wait_for_another_stream(&stop, &heartbeat).await?,
                        Some(_) => pause(OPEN_AGAIN, &stop, &heartbeat).await,
                    }
                }
                Ok(Generation::HandedOver | Generation::Again | Generation::Outlasted) => has_run = true,
                Ok(Generation::Recalled) => pause(RECALLED_AGAIN, &stop, &heartbeat).await,
                Ok(Generation::LeaseLost { had_begun }) => has_run |= had_begun,
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

    /// From preparing to draining, over one stream.
    async fn run_generation(
        &self,
        companion: Option<&Companion<'_>>,
        stop: &CancellationToken,
        heartbeat: &Heartbeat,
    ) -> Result<Generation> {
        // Nothing was sent yet, and what was found is found again: a stop needs not wait for what keeps it from opening.
        let outcome = match unless_stopped(Box::pin(self.begin()), stop, heartbeat).await {
            None => Ok(Generation::Stopped),
            Some(Err(error)) => Err(error),
            Some(Ok(Start::Lapsed)) => self.lapsed_early(),
            Some(Ok(Start::Recalled)) => Ok(Generation::Recalled),
            Some(Ok(Start::Divided(lead))) => Box::pin(self.lead(*lead, stop, heartbeat)).await,
            Some(Ok(Start::Whole(begun))) => Box::pin(self.run_begun(*begun, companion, stop, heartbeat)).await,
        };
        match &outcome {
            Ok(Generation::StreamEnded) => self.failed(STREAM_OFF.to_owned()),
            Ok(_) => {}
            Err(error) => self.failed(error.needs()),
        }
        if let Some(fleet) = &self.shared.fleet {
            if outcome.is_err() {
                fleet.troubled(&self.config.name);
                if self.part.is_some() {
                    // Another worker may have it next, and knows more.
                    *self.slots.board.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
            }
            // Whatever the end was, nothing more is sent.
            fleet.let_go(&self.config.name).await;
            if !matches!(outcome, Ok(Generation::HandedOver)) {
                self.stands_by(None);
            }
        }
        outcome
    }

    async fn run_begun(
        &self,
        begun: Begun,
        companion: Option<&Companion<'_>>,
        stop: &CancellationToken,
        heartbeat: &Heartbeat,
    ) -> Result<Generation> {
        let context = &self.shared.context;
        let Begun { prepared, fence, opened, export, waited_for_load, stream, view, hold, elsewhere } = begun;
        let ghosts_until = opened.book.link().ghosts_until.unwrap_or_else(|| self.aws_now());
        let row = opened.book.link().clone();
        if opened.resumed {
            tracing::info!(link = self.config.name, "resumed: {}", resumed_line(&opened.book, context));
        }
        let board = self.board(&prepared, &row);
        if let Some(was_clean) = hold.takeover {
            board.metrics().takeover(if was_clean { Takeover::Clean } else { Takeover::Unclean });
        }
        let running_verify = self.verify_settings(&prepared, row.owns_target);
        let replica = Replica::start(ReplicaSetup {
            link: self.config.name.clone(),
            ends: prepared.ends.clone(),
            store: Arc::clone(&self.shared.store),
            fence: fence.clone(),
            book: opened.book,
            lineage: opened.lineage,
            export,
            hand_over: self.hand_over(&row),
            waited_for_load,
            proved_before: opened.proved_before,
            listings: elsewhere.is_some().then(|| self.sharing.listings()),
            elsewhere,
            view,
            context: context.clone(),
            by_aws: self.by_aws(),
            settings: self.settings(&prepared, &row),
            board: Arc::clone(&board),
            session: hold.session.clone(),
        });
        let running = Running {
            board: Arc::clone(&board),
            keeper: replica.keeper().clone(),
            reading: replica.reading(),
            ends: prepared.ends.clone(),
            owns_target: row.owns_target,
            source_items: prepared.source.item_count,
            verify: running_verify,
            caught_up_within: caught_up_within(self.config.stream.poll_max),
            in_doubt_for: self.config.apply.in_doubt_for,
        };
        let leave = self.offer_to_others(&board);
        let stop_replica = stop.child_token();
        let mut divides = false;
        let (ended, done) = {
            let replica = replica.run(stop_replica.clone());
            tokio::pin!(replica);
            let beside = self.beside(companion, running, &prepared, (stream.clone(), ghosts_until), heartbeat);
            tokio::pin!(beside);
            let divisible = self.until_divisible(&board, ghosts_until);
            tokio::pin!(divisible);
            let mut leaves = false;
            loop {
                tokio::select! {
                    biased;
                    ended = &mut replica => break (ended, Ok(())),
                    done = &mut beside => {
                        board.set_phase(Phase::Draining);
                        stop_replica.cancel();
                        break ((&mut replica).await, done);
                    }
                    () = leave.cancelled(), if !leaves => {
                        leaves = true;
                        stop_replica.cancel();
                    }
                    () = &mut divisible, if !leaves && !divides => {
                        divides = true;
                        stop_replica.cancel();
                    }
                }
            }
        };
        if leave.is_cancelled() && !stop.is_cancelled() && done.is_ok() && has_stopped(&ended) {
            // Who has it then shows in a moment; until then this worker is as ready as one that stood by all the time.
            self.stands_by(Some(None));
            self.leave(&board);
            return Ok(Generation::HandedOver);
        }
        if divides && !stop.is_cancelled() && done.is_ok() && has_stopped(&ended) {
            self.leave(&board);
            let Some(session) = hold.session.filter(|_| matches!(ended, Ok(ReplicaEnd::Stopped))) else {
                return Ok(Generation::Again);
            };
            return tokio::select! {
                biased;
                () = session.lapse(context) => Ok(Generation::LeaseLost { had_begun: true }),
                // As far as it got, it is as if the process had died there.
                () = stop.cancelled() => Ok(Generation::Stopped),
                divided = alive(self.divide(&prepared, &fence, &stream), heartbeat) => divided,
            };
        }
        self.judge(ended, done, &board)
    }

    /// Another worker may ask for the link, but for one that is healing: its next worker would begin that anew. What comes
    /// back is cancelled when this one is to drain and let go.
    fn offer_to_others(&self, board: &Arc<Board>) -> CancellationToken {
        match &self.shared.fleet {
            Some(fleet) if self.shared.mode == Mode::Service => {
                let books = board.follow_books();
                fleet.offer(&self.config.name, move || books.borrow().open_gaps.is_empty())
            }
            _ => CancellationToken::new(),
        }
    }

    /// This worker stands by.
    fn leave(&self, board: &Board) {
        board.metrics().lease_held(false);
        board.left();
        *self.slots.board.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Nothing is copied until the link is opened again: why.
    fn failed(&self, why: String) {
        if self.part.is_none() {
            self.shared.metrics.failed(&self.config.name);
        }
        self.slots.set_trouble(Some(why));
    }

    /// Another worker has the link, and who; or none any more.
    fn stands_by(&self, waits: Option<Option<&str>>) {
        let waits = waits.map(|holder| holder.map(str::to_owned));
        if waits.is_some() {
            self.slots.set_trouble(None);
        }
        let mut slot = self.slots.standby.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.is_some() && slot.is_none() && self.part.is_none() {
            self.shared.metrics.stands_by(&self.config.name);
        }
        *slot = waits;
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
            // Both tables are looked at at the same moments: in this order, the same in each run of a seed.
            biased;
            done = companion => done,
            () = self.heal_gaps(&running, ghosts_until), if self.part.is_none() => Ok(()),
            () = watch(&running.board, &prepared.accounts, heartbeat) => Ok(()),
            replaced = self.watch_source(prepared, &stream) => replaced,
            () = self.watch_expiry(prepared, &running.keeper) => Ok(()),
            replaced = self.watch_target(prepared) => replaced,
            never = self.watch_verified(&running.board), if self.part.is_none() => match never {},
        }
    }

    /// Counts the link's calls, and learns AWS's clock from them.
    pub(crate) fn observer(&self) -> Observer {
        let calls = self.shared.metrics.calls(self.label());
        observer(calls, Arc::clone(&self.slots.board), Arc::clone(&self.skew))
    }

    /// AWS's time: what the load begins with is compared with creation times, and doubts outlast owners.
    pub(crate) fn aws_now(&self) -> WallTime {
        corrected(&self.skew, &self.shared.context)
    }

    /// The context by that time.
    fn by_aws(&self) -> Context {
        let context = self.shared.context.clone();
        self.shared.context.by_clock(Arc::new(AwsClock { context, skew: Arc::clone(&self.skew) }))
    }

    fn patience(&self) -> Patience {
        if self.shared.mode == Mode::Service { Patience::SERVICE } else { Patience::COMMAND }
    }
}

/// Whether it was told to stop, and did.
const fn has_stopped(ended: &std::result::Result<ReplicaEnd, ReplicaError>) -> bool {
    matches!(ended, Ok(ReplicaEnd::Stopped | ReplicaEnd::StoppedUnclean))
}

/// Names a link in all log lines of what is done within.
pub(crate) fn link_span(link: &str) -> Span {
    // At the highest level: a filter that leaves out spans would leave out the name of the link in errors, too.
    tracing::error_span!("link", link)
}
