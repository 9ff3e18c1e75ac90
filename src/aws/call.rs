//! One call to a service: run once, timed, told to the observer, its failure given a fate.
//!
//! Every adapter goes through here, so nothing is left out of the metrics and every use of outdated credentials is seen.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use bytes::Bytes;
use tokio::time::Instant;

use super::credentials::Keeper;
use super::fault;
use super::raw::RawOperation;
use super::wire::{self, Answer};
use crate::context::Context;
use crate::error::{Failure, Fault};
use crate::model::WallTime;

/// Which end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where the items come from.
    Source,
    /// Where the copies go.
    Target,
}

impl Side {
    /// The name used in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// How a call ended, coarsely: the `result` label of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was answered.
    Ok,
    /// The service asked us to slow down.
    Throttled,
    /// It failed, and may be tried again as it is or with a new iterator.
    Retryable,
    /// The credentials did not allow it, or there were none.
    Denied,
    /// Any other failure.
    Error,
}

impl Outcome {
    /// The name used in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Throttled => "throttled",
            Self::Retryable => "retryable",
            Self::Denied => "denied",
            Self::Error => "error",
        }
    }

    pub(super) fn of(failure: &Failure) -> Self {
        match failure.fault {
            _ if failure.throttled => Self::Throttled,
            Fault::Transient | Fault::Expired => Self::Retryable,
            Fault::Denied => Self::Denied,
            Fault::Lost | Fault::Rejected | Fault::Broken => Self::Error,
        }
    }
}

/// One attempt of one call, for the metrics. A call whose future was dropped is not told.
#[derive(Debug, Clone, Copy)]
pub struct CallRecord {
    /// Whose account.
    pub side: Side,
    /// The operation: `GetRecords`.
    pub operation: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// From before the request was made until its answer was read.
    pub elapsed: Duration,
    /// The service's clock (`Date` header, whole seconds, rounded down) and ours when the answer was there.
    pub clocks: Option<(WallTime, WallTime)>,
}

/// Asked when a request is signed and about to be sent: whether it may be. What is refused was never sent.
///
/// After the signature, so that whatever is sent later than allowed carries the time at which it was still allowed, and
/// expires like any other request.
pub type SendGuard = Arc<dyn Fn() -> bool + Send + Sync>;

/// Is told each attempt; must be quick.
pub type Observer = Arc<dyn Fn(CallRecord) + Send + Sync>;

/// What all calls of one side share.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) side: Side,
    pub(super) context: Context,
    pub(super) credentials: Keeper,
    pub(super) observer: Option<Observer>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("side", &self.side).finish_non_exhaustive()
    }
}

impl Caller {
    /// A call with the SDK's own types.
    pub(super) async fn typed<T, E>(
        &self,
        operation: &'static str,
        send: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let begun = Instant::now();
        let (result, answer) = wire::typed(send).await;
        let result = result.map_err(|error| never_sent_unsigned(fault::failure(operation, &error), &answer));
        self.settle(operation, begun, &answer, &result);
        result
    }

    /// A call with a raw request body; answers the raw response body.
    pub(super) async fn raw(&self, operation: &RawOperation, body: Vec<u8>) -> Result<Bytes, Failure> {
        self.raw_or_refusal(operation, body).await.map_err(|(failure, _)| failure)
    }

    /// As [`Self::raw`]; a failure comes with the body of the service's error, where it said one. It may quote items.
    pub(super) async fn raw_or_refusal(
        &self,
        operation: &RawOperation,
        body: Vec<u8>,
    ) -> Result<Bytes, (Failure, Option<Bytes>)> {
        let (result, mut answer) = self.noted(operation.name(), operation.send(body)).await;
        result.map_err(|failure| (failure, answer.refusal.take()))
    }

    /// A call that notes its answer itself.
    pub(super) async fn noted<T>(
        &self,
        operation: &'static str,
        send: impl Future<Output = (Result<T, Failure>, Answer)> + Send,
    ) -> (Result<T, Failure>, Answer) {
        let begun = Instant::now();
        let (result, answer) = send.await;
        let result = result.map_err(|failure| never_sent_unsigned(failure, &answer));
        self.settle(operation, begun, &answer, &result);
        (result, answer)
    }

    fn settle<T>(&self, operation: &'static str, begun: Instant, answer: &Answer, result: &Result<T, Failure>) {
        if let Some(generation) = answer.credentials
            && result.as_ref().is_err_and(fault::has_stale_credentials)
        {
            self.credentials.invalidate(generation);
        }
        let Some(observer) = &self.observer else { return };
        observer(CallRecord {
            side: self.side,
            operation,
            outcome: result.as_ref().err().map_or(Outcome::Ok, Outcome::of),
            elapsed: begun.elapsed(),
            clocks: answer.date.map(|theirs| (theirs, self.context.now())),
        });
    }
}

/// A call that never had credentials was never signed, so never sent: it waited for them until its time was over.
fn never_sent_unsigned(failure: Failure, answer: &Answer) -> Failure {
    Failure { may_have_happened: failure.may_have_happened && answer.credentials.is_some(), ..failure }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use aws_sdk_dynamodb::config::SharedCredentialsProvider;
    use aws_sdk_dynamodb::operation::scan::ScanError;

    use super::*;
    use crate::aws::tests::Manual;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_had_credentials_was_never_sent() {
        let (_, context) = Manual::context();
        let key = SharedCredentialsProvider::new(Credentials::new("id", "secret", None, None, "test"));
        let credentials = Keeper::new(key, context.clone());
        let caller = Caller { side: Side::Source, context, credentials, observer: None };
        for has_credentials in [false, true] {
            let send = async {
                if has_credentials {
                    wire::note_credentials(1);
                }
                Err::<(), SdkError<ScanError, HttpResponse>>(SdkError::timeout_error("too late"))
            };
            let failure = caller.typed("Scan", send).await.unwrap_err();
            assert_eq!(failure.may_have_happened, has_credentials);
        }
    }
}
