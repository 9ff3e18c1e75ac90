//! What looks on while a link runs: its phase, its calls, its tables, and a stream that is off.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ending::ANOTHER_TABLE;
use super::{BoardSlot, Link};
use crate::aws::{self, CallRecord, Observer};
use crate::checkpoint::keeper::Keeper;
use crate::error::{Error, Exit, Fault, Result};
use crate::http::Heartbeat;
use crate::model::{StreamArn, WallTime};
use crate::runtime::board::Board;
use crate::runtime::open::target_made_anew;
use crate::runtime::prepare::{Accounts, Prepared};
use crate::telemetry::skew::SkewEstimate;
use crate::telemetry::{CallMetrics, Mode, Operation, Phase, RequestResult, Side};

/// How often phases and time-dependent metrics are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// How often the tables are looked at: are they the same, has the source another stream?
const DESCRIBE_EVERY: Duration = Duration::from_secs(60);
/// A target that was not there at so many looks in a row is gone.
const GONE_AFTER: u32 = 2;
/// A link that is this far behind is catching up; once replicating, it is again when it falls behind so far.
pub(super) const CATCHING_UP: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// How often a link whose stream is off looks whether there is another one.
const STREAM_AGAIN: Duration = Duration::from_secs(15);

impl Link {
    /// Looks whether the source is still the same table, and whether it has another stream.
    pub(super) async fn watch_source(&self, prepared: &Prepared, stream: &StreamArn) -> Result<()> {
        let mut is_told = false;
        loop {
            tokio::time::sleep(DESCRIBE_EVERY).await;
            let Ok(source) = prepared.accounts.describe_source(&self.shared.context).await else { continue };
            if source.id != prepared.source.id {
                return Err(Error::new(
                    Exit::Lost,
                    format!("the source table of link `{}` was made anew", self.config.name),
                )
                .hint(ANOTHER_TABLE));
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

    /// Looks whether items of the source expire by another attribute, where the target keeps what expired.
    pub(super) async fn watch_expiry(&self, prepared: &Prepared, keeper: &Keeper) {
        let Some(expiry) = &prepared.expiry else { return std::future::pending().await };
        loop {
            tokio::time::sleep(DESCRIBE_EVERY).await;
            let attribute = match prepared.accounts.time_to_live(&self.shared.context).await {
                Ok(attribute) => attribute,
                Err(failure) => {
                    tracing::debug!(link = self.config.name, error = %failure, "by what items expire was not told");
                    continue;
                }
            };
            if expiry.found(attribute, self.aws_now()) {
                tracing::info!(link = self.config.name, "items of the source expire by another attribute now");
                let all = expiry.all();
                if keeper.update_link(move |link| link.expiry_attributes = all).await.is_err() {
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Looks whether the target is still the same table. Of a quiet source nothing is written that would tell.
    pub(super) async fn watch_target(&self, prepared: &Prepared) -> Result<()> {
        let mut missed = 0;
        loop {
            tokio::time::sleep(DESCRIBE_EVERY).await;
            match prepared.accounts.describe_target(&self.shared.context).await {
                Ok(target) if target.id != prepared.target.id => return Err(target_made_anew(&self.config.name)),
                Ok(_) => missed = 0,
                Err(failure) if failure.fault == Fault::Lost => {
                    missed += 1;
                    if missed == GONE_AFTER {
                        let what = format!("the target table of link `{}` was deleted", self.config.name);
                        return Err(Error::new(Exit::Precondition, what)
                            .hint("load again with a fresh state")
                            .because(failure));
                    }
                }
                Err(_) => {}
            }
        }
    }

    /// The stream is off and read to its end: nothing more will come of it.
    pub(super) async fn wait_for_another_stream(&self, stop: &CancellationToken, heartbeat: &Heartbeat) -> Result<()> {
        let name = &self.config.name;
        if self.shared.mode == Mode::Oneshot && !self.config.stream.enable {
            return Err(Error::new(Exit::Precondition, format!("the source's stream of link `{name}` was turned off"))
                .hint("turn it on again, or set `stream.enable = true`; what was written in between is then compared and healed"));
        }
        tracing::error!(link = name, "the source's stream is off: changes are not replicated until it is on again");
        while !stop.is_cancelled() {
            let look = async {
                let observer = Some(self.observer());
                let accounts = Accounts::connect(&self.config, &self.shared.clients, observer).await.ok()?;
                accounts.describe_source(&self.shared.context).await.ok()
            };
            let Some(source) = unless_stopped(Box::pin(look), stop, heartbeat).await else { return Ok(()) };
            let is_on = source.is_some_and(|source| source.stream.is_some_and(|stream| stream.enabled));
            if is_on || self.config.stream.enable {
                return Ok(());
            }
            pause(STREAM_AGAIN, stop, heartbeat).await;
        }
        Ok(())
    }
}

/// Does this, alive however long it takes; `None`: it was told to stop first.
pub(super) async fn unless_stopped<T>(
    mut work: impl Future<Output = T> + Unpin,
    stop: &CancellationToken,
    heartbeat: &Heartbeat,
) -> Option<T> {
    loop {
        heartbeat.tick();
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            done = &mut work => return Some(done),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Waits, alive, unless it is told to stop.
pub(super) async fn pause(time: Duration, stop: &CancellationToken, heartbeat: &Heartbeat) {
    let until = Instant::now() + time;
    while Instant::now() < until && !stop.is_cancelled() {
        heartbeat.tick();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Keeps phase, heartbeat and time-dependent metrics up to date.
pub(super) async fn watch(board: &Board, accounts: &Accounts, heartbeat: &Heartbeat) {
    let mut is_caught_up = false;
    loop {
        heartbeat.tick();
        let metrics = board.metrics();
        metrics.credentials_expiry(Side::Source, accounts.source.credentials_expire_at());
        metrics.credentials_expiry(Side::Target, accounts.target.credentials_expire_at());
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

/// Counts every call, also before there is a board and where none comes to be, and compares AWS's clock with ours.
pub(super) fn observer(calls: CallMetrics, slot: BoardSlot, skew: Arc<Mutex<SkewEstimate>>) -> Observer {
    Arc::new(move |call: CallRecord| {
        if let Some((date, received)) = call.clocks {
            skew.lock().unwrap_or_else(PoisonError::into_inner).observe(received.minus(call.elapsed), received, date);
        }
        let (side, operation, result) = (side_of(&call), Operation::named(call.operation), result_of(call.outcome));
        calls.ended(side, operation, result, call.elapsed);
        let board = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(board) = board else { return };
        // A role that is refused matters to others when its last session has expired: then all calls are denied.
        if operation != Operation::AssumeRole {
            board.called(side, operation, result == RequestResult::Denied);
        }
        if let Some((date, received)) = call.clocks {
            board.observe_date(side, received.minus(call.elapsed), received, date);
        }
    })
}

/// Counts the calls to the table of the state.
pub(crate) fn state_observer(calls: CallMetrics) -> Observer {
    Arc::new(move |call: CallRecord| {
        calls.ended(Side::Checkpoint, Operation::named(call.operation), result_of(call.outcome), call.elapsed);
    })
}

fn side_of(call: &CallRecord) -> Side {
    match (call.side, call.operation) {
        (_, "GetRecords" | "GetShardIterator" | "DescribeStream") => Side::Stream,
        (aws::Side::Source, _) => Side::Source,
        (aws::Side::Target, _) => Side::Target,
    }
}

const fn result_of(outcome: aws::Outcome) -> RequestResult {
    match outcome {
        aws::Outcome::Ok => RequestResult::Ok,
        aws::Outcome::Throttled => RequestResult::Throttled,
        aws::Outcome::Retryable => RequestResult::Retryable,
        aws::Outcome::Denied => RequestResult::Denied,
        aws::Outcome::Error => RequestResult::Error,
    }
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
