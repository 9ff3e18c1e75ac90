//! Calls with raw bodies, over the SDK's connections and signer but past its orchestrator.
//!
//! The hot operations (GetRecords, Scan, GetItem, BatchWriteItem) are a POST of bytes, answered by bytes. The SDK's own way
//! to send one costs more than all else that we do for a batch, so it is left out: what remains is credentials from the
//! side's [`Keeper`], `aws-sigv4`, and the HTTP client that the SDK's clients use too. A response body comes out as the
//! buffer that was received.
//!
//! Where a call goes (endpoint rules, account endpoints, ARNs, FIPS, the environment's endpoint variables) stays the SDK's
//! decision: once for each operation and account, the SDK makes the same call typed against a connector that sends
//! nothing, and its request's address and signing scope are noted as the [`Route`].

use std::fmt;
use std::future::Future;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::{ConnectorError, SdkError};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::error::metadata::{ErrorMetadata, ProvideErrorMetadata};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use serde::Deserialize;

use super::accounts::system_time;
use super::call::SendGuard;
use super::credentials::Keeper;
use super::fault;
use super::wire::{self, Answer, HeldBack};
use crate::context::Context;
use crate::error::Failure;

/// Who calls, as CloudTrail shows it.
pub(super) const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("dynaferry/", env!("CARGO_PKG_VERSION"), " aws-sdk-rust"));

const JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");

const TARGET: HeaderName = HeaderName::from_static("x-amz-target");

/// How much of an announced body is given room before it came: above the largest answers of the services (16 MB).
const MOST_ROOM: usize = 17 << 20;

pub(super) type CallError = SdkError<ErrorMetadata, HttpResponse>;

/// The SDK's own call of an operation, over the given HTTP client. Its outcome is of no interest.
type Probe = Arc<dyn Fn(SharedHttpClient) -> BoxFuture<'static, Result<(), CallError>> + Send + Sync>;

/// The SDK's own call as a [`RawOperation`] wants it: `probe!(Builder, client.scan().table_name(table))`, with the service's
/// config builder.
macro_rules! probe {
    ($builder:ident, $call:expr) => {{
        let call = $call;
        move |http| {
            let send = call.clone().customize().config_override($builder::default().http_client(http)).send();
            async { send.await.map(drop).map_err($crate::aws::raw::untyped) }
        }
    }};
}
pub(super) use probe;

/// What the raw calls of one client share.
#[derive(Clone)]
pub(super) struct Sender {
    /// The client of the SDK's clients: one pool of connections for both.
    pub(super) http: SharedHttpClient,
    pub(super) credentials: Keeper,
    pub(super) context: Context,
    /// One attempt, credentials included.
    pub(super) attempt_timeout: Duration,
    /// Asked between the signature and the sending.
    pub(super) guard: Option<SendGuard>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("attempt_timeout", &self.attempt_timeout).finish_non_exhaustive()
    }
}

/// An operation of one table or of one account's streams, whose bodies travel raw. Cheap to clone.
#[derive(Clone)]
pub(super) struct RawOperation(Arc<Inner>);

struct Inner {
    /// The value of `x-amz-target`.
    target: &'static str,
    sender: Sender,
    probe: Probe,
    ready: Mutex<Option<Arc<Ready>>>,
}

/// What is the same for each call with the same credentials.
struct Ready {
    generation: u64,
    account: Option<String>,
    identity: Identity,
    route: Arc<Route>,
}

/// Where the SDK sends an operation.
struct Route {
    connector: SharedHttpConnector,
    uri: http::Uri,
    /// As the signer wants it.
    uri_text: String,
    region: String,
    service: String,
}

impl fmt::Debug for RawOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.target)
    }
}

impl RawOperation {
    /// `target` is the value of `x-amz-target`; `probe` makes the SDK's call of the same operation and resource.
    pub(super) fn new<F>(
        target: &'static str,
        sender: &Sender,
        probe: impl Fn(SharedHttpClient) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), CallError>> + Send + 'static,
    {
        let probe: Probe = Arc::new(move |http| probe(http).boxed());
        Self(Arc::new(Inner { target, sender: sender.clone(), probe, ready: Mutex::default() }))
    }

    /// `GetRecords` of `DynamoDBStreams_20120810.GetRecords`.
    pub(super) fn name(&self) -> &'static str {
        self.0.target.rsplit('.').next().unwrap_or(self.0.target)
    }

    /// One attempt.
    pub(super) async fn send(&self, body: Vec<u8>) -> (Result<Bytes, Failure>, Answer) {
        let mut answer = Answer::default();
        let attempt = self.attempt(body.into(), &mut answer);
        let result = match tokio::time::timeout(self.0.sender.attempt_timeout, attempt).await {
            Ok(result) => result,
            Err(elapsed) => Err(self.failure(&CallError::timeout_error(elapsed))),
        };
        (result, answer)
    }

    async fn attempt(&self, body: Bytes, answer: &mut Answer) -> Result<Bytes, Failure> {
        let ready = self.ready().await?;
        answer.credentials = Some(ready.generation);
        let request = self.signed(&ready, body);
        let request = request.map_err(|error| self.failure(&CallError::construction_failure(error)))?;
        if self.0.sender.guard.as_ref().is_some_and(|may_send| !may_send()) {
            return Err(self.failure(&CallError::construction_failure(HeldBack)));
        }
        let reply = ready.route.connector.call(request).await;
        let reply = reply.map_err(|error| self.failure(&CallError::dispatch_failure(error)))?;
        answer.date = wire::date(&reply);
        received(reply, answer).await.map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &CallError) -> Failure {
        fault::failure(self.name(), error)
    }

    async fn ready(&self) -> Result<Arc<Ready>, Failure> {
        let signer = self.0.sender.credentials.get().await;
        let (credentials, generation) = signer.map_err(|missing| missing.failure(self.name()))?;
        let old = self.state().clone();
        if let Some(ready) = old.as_ref().filter(|ready| ready.generation == generation) {
            return Ok(Arc::clone(ready));
        }
        let account = credentials.account_id().map(|id| id.as_str().to_owned());
        let route = match old.filter(|ready| ready.account == account) {
            Some(ready) => Arc::clone(&ready.route),
            None => Arc::new(self.route().await?),
        };
        let ready = Arc::new(Ready { generation, account, identity: identity(credentials), route });
        *self.state() = Some(Arc::clone(&ready));
        Ok(ready)
    }

    fn state(&self) -> MutexGuard<'_, Option<Arc<Ready>>> {
        self.0.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the SDK choose.
    async fn route(&self) -> Result<Route, Failure> {
        route(&self.0.sender, |http| (self.0.probe)(http)).await.map_err(|error| self.failure(&error))
    }

    fn signed(&self, ready: &Ready, body: Bytes) -> Result<HttpRequest, BoxError> {
        let Route { uri, uri_text, region, service, .. } = &*ready.route;
        let length = body.len().to_string();
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
        let params = v4::SigningParams::builder()
            .identity(&ready.identity)
            .region(region)
            .name(service)
            .time(system_time(self.0.sender.context.now()))
            .settings(settings)
            .build()?
            .into();
        let headers = [
            ("content-length", length.as_str()),
            ("content-type", "application/x-amz-json-1.0"),
            ("x-amz-target", self.0.target),
        ];
        let request = SignableRequest::new("POST", uri_text, headers.into_iter(), SignableBody::Bytes(&body))?;
        let (instructions, _) = sign(request, &params)?.into_parts();

        let mut request = http::Request::new(SdkBody::from(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri.clone();
        let to = request.headers_mut();
        *to = HeaderMap::with_capacity(8);
        to.insert(header::CONTENT_TYPE, JSON);
        to.insert(TARGET, HeaderValue::from_static(self.0.target));
        to.insert(header::USER_AGENT, USER_AGENT);
        to.insert(header::CONTENT_LENGTH, HeaderValue::try_from(length)?);
        // Not the signer's own way to do this, which panics where credentials hold what no header may.
        for (name, value) in instructions.headers() {
            let mut value = HeaderValue::from_str(value)?;
            value.set_sensitive(true);
            to.insert(HeaderName::from_str(name)?, value);
        }
        Ok(request.try_into()?)
    }
}

/// Where the SDK would send a call.
async fn route<F>(sender: &Sender, probe: impl FnOnce(SharedHttpClient) -> F) -> Result<Route, CallError>
where
    F: Future<Output = Result<(), CallError>>,
{
    let seen = Seen::default();
    let recorder = Recorder { real: sender.http.clone(), seen: Arc::clone(&seen) };
    let result = probe(SharedHttpClient::new(recorder)).await;
    let route = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (route, result) {
        (Some(Ok(route)), _) => Ok(route),
        (Some(Err(why)), _) => Err(CallError::construction_failure(why)),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(CallError::construction_failure("the SDK sent nothing")),
    }
}

/// The connections that the SDK would use for a call, whoever else is called with them.
pub(super) async fn connector<F>(
    sender: &Sender,
    probe: impl FnOnce(SharedHttpClient) -> F,
) -> Result<SharedHttpConnector, CallError>
where
    F: Future<Output = Result<(), CallError>>,
{
    Ok(route(sender, probe).await?.connector)
}

/// What a typed call's error says, without its type.
pub(super) fn untyped<E>(error: SdkError<E, HttpResponse>) -> CallError
where
    E: ProvideErrorMetadata,
{
    error.map_service_error(|error| error.meta().clone())
}

pub(super) fn identity(credentials: Credentials) -> Identity {
    credentials.into()
}

/// The body of a 200, as the buffer that it came in where it came in one piece. Anything else is an error, typed by what
/// the service said.
async fn received(mut reply: HttpResponse, answer: &mut Answer) -> Result<Bytes, CallError> {
    let announced = announced_length(&reply);
    let body = match collect(std::mem::replace(reply.body_mut(), SdkBody::taken()), announced).await {
        Ok(body) => body,
        Err(error) => return Err(CallError::response_error(error, reply)),
    };
    // The HTTP client looks at this; an injected one may not.
    if announced.is_some_and(|announced| announced != body.len()) {
        return Err(CallError::response_error("the response body has not the length that was announced", reply));
    }
    if reply.status().as_u16() == 200 {
        return Ok(body);
    }
    match service_error(&reply, &body) {
        Ok(error) => {
            answer.refusal = Some(body);
            Err(CallError::service_error(error, reply))
        }
        // Something in between answered, or the service without words: the status says what became of it.
        Err(_) if reply.status().is_client_error() || reply.status().is_server_error() => {
            Err(CallError::service_error(ErrorMetadata::builder().build(), reply))
        }
        Err(error) => Err(CallError::response_error(error, reply)),
    }
}

pub(super) fn announced_length(reply: &HttpResponse) -> Option<usize> {
    reply.headers().get(header::CONTENT_LENGTH.as_str())?.parse().ok()
}

pub(super) async fn collect(
    body: SdkBody,
    announced: Option<usize>,
) -> Result<Bytes, aws_smithy_types::byte_stream::error::Error> {
    let mut pieces = ByteStream::new(body);
    let Some(first) = pieces.next().await.transpose()? else { return Ok(Bytes::new()) };
    let Some(second) = pieces.next().await.transpose()? else { return Ok(first) };
    let mut whole = BytesMut::with_capacity(announced.unwrap_or(0).min(MOST_ROOM));
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&second);
    while let Some(piece) = pieces.next().await.transpose()? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// An error as the JSON protocols write it. Source: Smithy, AWS JSON 1.0 protocol, operation error serialization.
#[derive(Deserialize)]
struct ErrorBody {
    #[serde(rename = "__type")]
    kind: Option<String>,
    code: Option<String>,
    #[serde(alias = "Message", alias = "errorMessage")]
    message: Option<String>,
}

fn service_error(reply: &HttpResponse, body: &[u8]) -> Result<ErrorMetadata, serde_json::Error> {
    let ErrorBody { kind, code, message } = serde_json::from_slice(body)?;
    let named = reply.headers().get("x-amzn-errortype").map(str::to_owned).or(kind).or(code);
    let mut error = ErrorMetadata::builder();
    if let Some(code) = named.as_deref().map(bare) {
        error = error.code(code);
    }
    if let Some(message) = message {
        error = error.message(message);
    }
    Ok(error.build())
}

/// `Code` of `namespace#Code:http://…`.
fn bare(code: &str) -> &str {
    let code = code.split(':').next().unwrap_or(code);
    code.rsplit('#').next().unwrap_or(code)
}

type Seen = Arc<Mutex<Option<Result<Route, String>>>>;

/// An HTTP client that notes where a request would have gone, and sends nothing.
#[derive(Debug)]
struct Recorder {
    real: SharedHttpClient,
    seen: Seen,
}

#[derive(Debug)]
struct Recording {
    connector: SharedHttpConnector,
    seen: Seen,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri_text)
    }
}

impl HttpClient for Recorder {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let connector = self.real.http_connector(settings, components);
        SharedHttpConnector::new(Recording { connector, seen: Arc::clone(&self.seen) })
    }
}

impl HttpConnector for Recording {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let route = Route::of(&request, &self.connector);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(route);
        HttpConnectorFuture::ready(Err(ConnectorError::user("noted, not sent".into())))
    }
}

impl Route {
    fn of(request: &HttpRequest, connector: &SharedHttpConnector) -> Result<Self, String> {
        let uri_text = request.uri().to_owned();
        let uri = uri_text.parse().map_err(|error| format!("the endpoint {uri_text}: {error}"))?;
        let authorization = request.headers().get(header::AUTHORIZATION.as_str()).unwrap_or_default();
        // AWS4-HMAC-SHA256 Credential=ID/DATE/REGION/SERVICE/aws4_request, …
        let scope = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=").and_then(|rest| rest.split(',').next());
        let mut parts = scope.unwrap_or_default().rsplit('/').skip(1);
        let (Some(service), Some(region)) = (parts.next(), parts.next()) else {
            return Err(format!("the endpoint {uri_text} wants another signature than AWS4-HMAC-SHA256"));
        };
        let (region, service) = (region.to_owned(), service.to_owned());
        Ok(Self { connector: connector.clone(), uri, uri_text, region, service })
    }
}
