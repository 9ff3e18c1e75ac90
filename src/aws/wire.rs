//! What is noted about each call besides its result.
//!
//! A typed call goes through the SDK, which shows neither the answer's `Date` header nor the credentials that it signed
//! with. An [`Answer`] travels in a task-local around `send()`, and is filled by an interceptor and by our keeper of
//! credentials.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;

use super::call::SendGuard;
use crate::model::WallTime;

tokio::task_local! {
    static ANSWER: Slot;
}

type Slot = Arc<Mutex<Answer>>;

/// What came back, as far as it did. Not to be printed: a refusal may quote items.
#[derive(Default)]
pub(super) struct Answer {
    /// The service's own clock, in whole seconds.
    pub(super) date: Option<WallTime>,
    /// Which of our credentials it was signed with.
    pub(super) credentials: Option<u64>,
    /// The body of an error of the service, for raw calls.
    pub(super) refusal: Option<Bytes>,
}

/// Notes which credentials the typed call of this task is signed with.
pub(super) fn note_credentials(generation: u64) {
    note(|answer| answer.credentials = Some(generation));
}

/// Runs a typed `send()`, and notes what is of interest besides.
pub(super) async fn typed<T>(send: impl Future<Output = T> + Send) -> (T, Answer) {
    let answer = Slot::default();
    let result = ANSWER.scope(Arc::clone(&answer), send).await;
    let answer = std::mem::take(&mut *answer.lock().unwrap_or_else(PoisonError::into_inner));
    (result, answer)
}

/// Does something with the answer to this task's call; nothing where there is none.
fn note(act: impl FnOnce(&mut Answer)) {
    let noted = ANSWER.try_with(|slot| act(&mut slot.lock().unwrap_or_else(PoisonError::into_inner)));
    noted.unwrap_or_default();
}

/// Notes the time in each answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoteDate;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for NoteDate {
    fn name(&self) -> &'static str {
        "NoteDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        note(|answer| answer.date = date(context.response()));
        Ok(())
    }
}

/// Holds back what may not be sent any more.
pub(super) struct Guarded(pub(super) SendGuard);

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guarded")
    }
}

/// The guard did not let it pass.
#[derive(Debug, thiserror::Error)]
#[error("not sent: this worker may not work on the link any more")]
pub(super) struct HeldBack;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for Guarded {
    fn name(&self) -> &'static str {
        "Guarded"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if (self.0)() { Ok(()) } else { Err(HeldBack.into()) }
    }
}

/// The service's clock, of the `Date` header.
pub(super) fn date(response: &HttpResponse) -> Option<WallTime> {
    let date = DateTime::from_str(response.headers().get("date")?, Format::HttpDate).ok()?;
    Some(WallTime::from_secs(date.secs()))
}
