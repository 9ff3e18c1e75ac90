//! Raw bodies through the SDK's clients.
//!
//! The hot operations (GetRecords, Scan, GetItem, BatchWriteItem) go through the SDK for credentials, signing, endpoints, TLS
//! and connections, but not through its serializers: an interceptor puts ours in their place. A request body is given as
//! bytes; a response body comes out as the bytes that were received, uncopied. Any status but 200 goes to the SDK's own
//! deserializer, so errors stay typed as the SDK types them.
//!
//! The body and the answer travel in a task-local around `send()`; the interceptor does nothing outside of it, so the same
//! client serves typed calls, too.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeSerializationInterceptorContextRef, Error, Input, Output,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::client::runtime_plugin::RuntimePlugin;
use aws_smithy_runtime_api::client::ser_de::{
    DeserializeResponse, SerializeRequest, SharedRequestSerializer, SharedResponseDeserializer,
};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use futures_util::FutureExt as _;

tokio::task_local! {
    static CALL: RawCall;
}

/// An operation whose bodies travel raw.
#[derive(Clone)]
pub(super) struct RawOperation {
    /// The value of `x-amz-target`.
    target: &'static str,
    /// The SDK's deserializer: for errors.
    typed: SharedResponseDeserializer,
    /// What the SDK's generated code is given in the place of the output: empty, and of its type.
    empty: fn() -> Output,
}

impl std::fmt::Debug for RawOperation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.target)
    }
}

impl RawOperation {
    /// `plugin` is the operation itself (`GetRecords::new()`), which carries its own deserializer; `None` when it does
    /// not, which a test rules out.
    pub(super) fn new(target: &'static str, plugin: &impl RuntimePlugin, empty: fn() -> Output) -> Option<Self> {
        let typed = plugin.config()?.load::<SharedResponseDeserializer>()?.clone();
        Some(Self { target, typed, empty })
    }

    /// Runs a `send()` with this request body, and answers the response body with it.
    ///
    /// The slot is empty when the call failed or was answered by anything but a 200.
    pub(super) async fn call<T, E>(
        &self,
        body: Vec<u8>,
        send: impl Future<Output = Result<T, E>>,
    ) -> Result<RawAnswer, E> {
        let answer = Arc::new(Mutex::new(RawAnswer::default()));
        let call = RawCall { operation: self.clone(), body: Bytes::from(body), answer: Arc::clone(&answer) };
        CALL.scope(call, send).await?;
        let mut answer = answer.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut answer))
    }
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct RawAnswer {
    /// The body; empty where nothing was received.
    pub(super) body: Bytes,
}

#[derive(Debug, Clone)]
struct RawCall {
    operation: RawOperation,
    body: Bytes,
    answer: Arc<Mutex<RawAnswer>>,
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
        let _: Result<(), _> = CALL.try_with(|call| {
            let layer = cfg.interceptor_state();
            layer.store_put(SharedRequestSerializer::new(call.clone()));
            layer.store_put(SharedResponseDeserializer::new(call.clone()));
        });
        Ok(())
    }
}

impl SerializeRequest for RawCall {
    fn serialize_input(&self, _input: Input, _cfg: &mut ConfigBag) -> Result<HttpRequest, BoxError> {
        let request = http::Request::post("/")
            .header(http::header::CONTENT_TYPE, "application/x-amz-json-1.0")
            .header("x-amz-target", self.operation.target)
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
            return self.operation.typed.deserialize_nonstreaming_with_config(response, cfg);
        }
        let body = loaded_body(response).ok_or_else(|| OrchestratorError::other("the response body is not loaded"))?;
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).body = body;
        Ok((self.operation.empty)())
    }
}

/// The body as the buffer that it was received in: a reference more, no copy.
fn loaded_body(response: &HttpResponse) -> Option<Bytes> {
    let mut stream = ByteStream::new(response.body().try_clone()?);
    match stream.next().now_or_never()? {
        Some(chunk) => chunk.ok(),
        None => Some(Bytes::new()),
    }
}
