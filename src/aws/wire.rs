//! Raw bodies through the SDK's clients.
//!
//! The hot operations (GetRecords, Scan, GetItem, BatchWriteItem) go through the SDK for credentials, signing, endpoints, TLS
//! and connections, but not through its serializers: an interceptor puts ours in their place. A request body is given as
//! bytes; a response body comes out as the bytes that were received, uncopied. Any status but 200 goes to the SDK's own
//! deserializer, so errors stay typed as the SDK types them.
//!
//! The body and the answer travel in a task-local around `send()`. The interceptor does nothing outside of it, and in a
//! typed call only notes the time in the answer's `Date` header, so one client serves both kinds.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use aws_runtime::invocation_id::InvocationIdInterceptor;
use aws_runtime::request_info::RequestInfoInterceptor;
use aws_runtime::user_agent::UserAgentInterceptor;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextRef,
    BeforeTransmitInterceptorContextRef, Error, Input, Output,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, disable_interceptor};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, Metadata, OrchestratorError};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::client::runtime_plugin::RuntimePlugin;
use aws_smithy_runtime_api::client::ser_de::{
    DeserializeResponse, SerializeRequest, SharedRequestSerializer, SharedResponseDeserializer,
};
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::config_bag::{ConfigBag, FrozenLayer};
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use futures_util::FutureExt as _;

use super::call::SendGuard;
use crate::model::WallTime;

tokio::task_local! {
    static CALL: Call;
}

/// Who calls, as CloudTrail shows it.
const USER_AGENT: &str = concat!("dynaferry/", env!("CARGO_PKG_VERSION"), " aws-sdk-rust");

/// Why a raw call goes without some of the SDK's headers: composing them for each request, and signing them, is a sixth of
/// what the SDK does for one. They tell SDK versions and settings, and tie the SDK's own retries together, which are off.
const DISABLED: &str = "raw calls name themselves, and are not retried by the SDK";

/// An operation whose bodies travel raw. Cheap to clone.
#[derive(Clone)]
pub(super) struct RawOperation {
    /// The value of `x-amz-target`.
    target: &'static str,
    /// The operation's own settings, which hold the SDK's deserializer: for errors.
    settings: FrozenLayer,
    /// What the SDK's generated code is given in the place of the output: empty, and of its type.
    empty: fn() -> Output,
}

impl std::fmt::Debug for RawOperation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.target)
    }
}

impl RawOperation {
    /// `plugin` is the operation itself (`GetRecords::new()`), which carries its own deserializer. `empty` must make the
    /// operation's output type: the generated code downcasts to it.
    pub(super) fn new(target: &'static str, plugin: &impl RuntimePlugin, empty: fn() -> Output) -> Self {
        let settings = plugin.config().unwrap_or_else(|| aws_smithy_types::config_bag::Layer::new(target).freeze());
        Self { target, settings, empty }
    }

    /// `GetRecords` of `DynamoDBStreams_20120810.GetRecords`.
    pub(super) fn name(&self) -> &'static str {
        self.target.rsplit('.').next().unwrap_or(self.target)
    }

    /// Whether this very operation is being made. Credentials are fetched within the call that wants them, so calls to
    /// the token service run in the same task.
    fn is_called(&self, cfg: &ConfigBag) -> bool {
        cfg.load::<Metadata>().is_some_and(|operation| operation.name() == self.name())
    }

    /// The SDK's deserializer. That it is there is shown by a test for each operation.
    fn typed(&self) -> Option<&SharedResponseDeserializer> {
        self.settings.load::<SharedResponseDeserializer>()
    }
}

/// What came back, as far as it did.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The body of a 200 to a raw call.
    pub(super) body: Option<Bytes>,
    /// The service's own clock, in whole seconds.
    pub(super) date: Option<WallTime>,
    /// Which of our credentials it was signed with.
    pub(super) credentials: Option<u64>,
}

/// Notes which credentials the call of this task is signed with.
pub(super) fn note_credentials(generation: u64) {
    with_call(|call| call.answer.lock().unwrap_or_else(PoisonError::into_inner).credentials = Some(generation));
}

/// Runs a `send()` with a raw body in the place of the generated one.
pub(super) async fn raw<T>(
    operation: &RawOperation,
    body: Vec<u8>,
    send: impl Future<Output = T> + Send,
) -> (T, Answer) {
    let answer = Slot::default();
    let raw = RawCall { operation: operation.clone(), body: Bytes::from(body), answer: Arc::clone(&answer) };
    let result = CALL.scope(Call { raw: Some(raw), answer: Arc::clone(&answer) }, send).await;
    (result, take(&answer))
}

/// Runs a `send()` with the generated bodies, and notes what is of interest besides.
pub(super) async fn typed<T>(send: impl Future<Output = T> + Send) -> (T, Answer) {
    let answer = Slot::default();
    let result = CALL.scope(Call { raw: None, answer: Arc::clone(&answer) }, send).await;
    (result, take(&answer))
}

type Slot = Arc<Mutex<Answer>>;

fn take(answer: &Slot) -> Answer {
    std::mem::take(&mut *answer.lock().unwrap_or_else(PoisonError::into_inner))
}

#[derive(Debug)]
struct Call {
    raw: Option<RawCall>,
    answer: Slot,
}

#[derive(Clone)]
struct RawCall {
    operation: RawOperation,
    body: Bytes,
    answer: Slot,
}

impl std::fmt::Debug for RawCall {
    /// Never the body: the SDK may print what lies in its config bag.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawCall({:?}, {} bytes)", self.operation, self.body.len())
    }
}

/// Puts our serializer and deserializer in place for the calls that ask for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawBodies;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for RawBodies {
    fn name(&self) -> &'static str {
        "RawBodies"
    }

    fn read_before_serialization(
        &self,
        _context: &BeforeSerializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        with_call(|call| {
            let Some(raw) = call.raw.as_ref().filter(|raw| raw.operation.is_called(cfg)) else { return };
            let layer = cfg.interceptor_state();
            layer.store_put(SharedRequestSerializer::new(raw.clone()));
            layer.store_put(SharedResponseDeserializer::new(raw.clone()));
            layer.store_put(disable_interceptor::<UserAgentInterceptor>(DISABLED));
            layer.store_put(disable_interceptor::<InvocationIdInterceptor>(DISABLED));
            layer.store_put(disable_interceptor::<RequestInfoInterceptor>(DISABLED));
        });
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        with_call(|call| {
            call.answer.lock().unwrap_or_else(PoisonError::into_inner).date = date(context.response());
        });
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

/// Does something with the call of this task; nothing where there is none.
fn with_call(act: impl FnOnce(&Call)) {
    CALL.try_with(act).unwrap_or_default();
}

fn date(response: &HttpResponse) -> Option<WallTime> {
    let date = DateTime::from_str(response.headers().get("date")?, Format::HttpDate).ok()?;
    Some(WallTime::from_secs(date.secs()))
}

impl SerializeRequest for RawCall {
    fn serialize_input(&self, _input: Input, _cfg: &mut ConfigBag) -> Result<HttpRequest, BoxError> {
        let request = http::Request::post("/")
            .header(http::header::CONTENT_TYPE, "application/x-amz-json-1.0")
            .header("x-amz-target", self.operation.target)
            .header(http::header::USER_AGENT, USER_AGENT)
            .header(http::header::CONTENT_LENGTH, self.body.len())
            .body(SdkBody::from(self.body.clone()))?;
        Ok(request.try_into()?)
    }
}

impl DeserializeResponse for RawCall {
    fn deserialize_nonstreaming_with_config(
        &self,
        response: &HttpResponse,
        cfg: &ConfigBag,
    ) -> Result<Output, OrchestratorError<Error>> {
        if response.status().as_u16() != 200 {
            let typed =
                self.operation.typed().ok_or_else(|| OrchestratorError::other("the operation has no deserializer"))?;
            return typed.deserialize_nonstreaming_with_config(response, cfg);
        }
        let body = loaded_body(response).ok_or_else(|| OrchestratorError::other("the response body is not loaded"))?;
        if announced_length(response).is_some_and(|announced| announced != body.len()) {
            return Err(OrchestratorError::response("the response body has not the length that was announced".into()));
        }
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).body = Some(body);
        Ok((self.operation.empty)())
    }
}

/// The SDK leaves this to the HTTP client; an injected one may not look.
fn announced_length(response: &HttpResponse) -> Option<usize> {
    response.headers().get(http::header::CONTENT_LENGTH.as_str())?.parse().ok()
}

/// The body as the buffer that it was received in: a reference more, no copy.
fn loaded_body(response: &HttpResponse) -> Option<Bytes> {
    let mut stream = ByteStream::new(response.body().try_clone()?);
    match stream.next().now_or_never()? {
        Some(chunk) => chunk.ok(),
        None => Some(Bytes::new()),
    }
}
