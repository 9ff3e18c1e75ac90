//! One side's account: credentials, Region, endpoints, limits of time, and the clients made of them.
//!
//! The two sides share nothing: each has its own settings, credentials and connections (unless an HTTP client is
//! injected). Whatever the SDK might decide by itself is pinned here: its behaviour version, no retries (the one retry
//! policy is ours, and counts each attempt), time-outs, no cache of identities besides our own.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_dynamodb::config::{IdentityCache, StalledStreamProtectionConfig};
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::{ConnectorBuilder, tls};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::call::{CallRecord, Caller, Observer, Outcome, SendGuard, Side};
use super::credentials::Keeper;
use super::fault::{NoCredentials, broken};
use super::objects::{Bucket, Endpoint};
use super::raw::Sender;
use super::schema;
use super::streams::Streams;
use super::tables::Table;
use super::wire::{self, Answer, Guarded, NoteDate};
use crate::config::{SideConfig, TableRef};
use crate::context::Context;
use crate::error::{Error, Exit, Failure, Result};
use crate::model::{KeySchema, TableDescription, WallTime};

const ASSUME: &str = "AssumeRole";

/// To open a connection, TLS included. More than a lost first packet and its repetition (1 s) need.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What the clients of both sides are made with.
#[derive(Clone)]
pub struct Clients {
    /// Wall clock for signatures and expiry, randomness for jitter.
    pub context: Context,
    /// One attempt of one call, credentials included. See `apply.attempt_timeout`.
    pub attempt_timeout: Duration,
    /// Sends the requests; `None`: real connections, a pool for each client.
    pub http: Option<SharedHttpClient>,
    /// Is told each attempt.
    pub observer: Option<Observer>,
    /// Asked before anything is sent to the target's DynamoDB; `None`: always allowed.
    pub guard: Option<SendGuard>,
    /// In the place of all ambient AWS settings: neither environment nor files are read. For the sandbox and tests.
    pub isolated: Option<AccessKey>,
}

impl Clients {
    /// Real connections, ambient settings, nobody told.
    #[must_use]
    pub fn new(context: Context, attempt_timeout: Duration) -> Self {
        Self { context, attempt_timeout, http: None, observer: None, guard: None, isolated: None }
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("attempt_timeout", &self.attempt_timeout).finish_non_exhaustive()
    }
}

/// A fixed access key. The sandbox and other local servers take a 12-digit id for the account itself.
#[derive(Clone)]
pub struct AccessKey {
    /// The id.
    pub id: String,
    /// The secret; never shown.
    pub secret: String,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Who we are, as the service sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The account: 12 digits.
    pub account: String,
    /// The user's or the role session's ARN.
    pub arn: String,
    /// The Region that the clients talk to.
    pub region: String,
}

/// One side's account. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Account {
    pub(super) caller: Caller,
    pub(super) sender: Sender,
    region: String,
    s3: Endpoint,
    pub(super) dynamodb: aws_sdk_dynamodb::Client,
    streams: aws_sdk_dynamodbstreams::Client,
    sts: aws_sdk_sts::Client,
}

impl Account {
    /// Prepares the clients of one side. Reads the ambient settings (environment, files, instance metadata) where they
    /// are asked for; calls no service of the account.
    ///
    /// # Errors
    /// Exit 8 where no Region is found.
    pub async fn connect(config: &SideConfig, side: Side, clients: &Clients) -> Result<Self> {
        let base = base_settings(config, clients).await;
        let region = base.region().map(ToString::to_string).ok_or_else(|| {
            Error::new(Exit::Config, format!("find the Region of the {}", side.as_str()))
                .hint(format!("set `region` in `[defaults.{}]`, or AWS_REGION", side.as_str()))
        })?;
        let credentials = Keeper::new(provider(config, &base, side, clients)?, clients.context.clone());
        let settings =
            base.into_builder().credentials_provider(SharedCredentialsProvider::new(credentials.clone())).build();
        let sender = Sender {
            http: clients.http.clone().unwrap_or_else(connections),
            credentials: credentials.clone(),
            context: clients.context.clone(),
            attempt_timeout: clients.attempt_timeout,
            guard: clients.guard.clone().filter(|_| side == Side::Target),
        };
        let settings = settings.into_builder().http_client(sender.http.clone()).build();
        let caller = Caller { side, context: clients.context.clone(), credentials, observer: clients.observer.clone() };
        Ok(Self {
            dynamodb: dynamodb_client(config, &settings, sender.guard.as_ref()),
            streams: streams_client(config, &settings),
            sender,
            sts: aws_sdk_sts::Client::from_conf(sts_settings(config, &settings).build()),
            s3: Endpoint::of(config, &settings),
            caller,
            region,
        })
    }

    /// Which end of the link this is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.caller.side
    }

    /// The Region.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// When the credentials in use expire; `None`: they do not, or none were needed yet.
    #[must_use]
    pub fn credentials_expire_at(&self) -> Option<WallTime> {
        self.caller.credentials.expires_at()
    }

    /// Asks who we are. Works with any credentials: the service wants no permission for it.
    ///
    /// A server without a token service fails here; whether that matters is the caller's decision.
    ///
    /// # Errors
    /// [`Failure`], as for every call.
    pub async fn identity(&self) -> Result<Identity, Failure> {
        const OPERATION: &str = "GetCallerIdentity";
        let output = self.caller.typed(OPERATION, self.sts.get_caller_identity().send().boxed()).await?;
        let account = output.account.ok_or_else(|| broken(OPERATION, "no account"))?;
        Ok(Identity { account, arn: output.arn.unwrap_or_default(), region: self.region.clone() })
    }

    /// The streams of this account and Region.
    #[must_use]
    pub fn streams(&self) -> Streams {
        Streams::new(self.streams.clone(), &self.sender, self.caller.clone())
    }

    /// A bucket, of any account and in any Region. `owner` is the account that must own it: where another one does, every
    /// call is denied.
    #[must_use]
    pub fn bucket(&self, name: &str, owner: Option<&str>) -> Bucket {
        let endpoint = self.s3.clone();
        Bucket::new(name, owner, endpoint, &self.region, &self.dynamodb, (&self.sender, &self.caller))
    }

    /// What a table is.
    ///
    /// # Errors
    /// [`Failure`]; `Lost` with `ResourceNotFoundException` where there is no such table (a read that may be early,
    /// right after the table was made).
    pub async fn describe(&self, table: &TableRef) -> Result<TableDescription, Failure> {
        schema::describe(&self.dynamodb, &self.caller, &table.to_string()).await
    }

    /// A table whose keys are known: from its description, or from the other side's.
    #[must_use]
    pub fn table(&self, table: &TableRef, keys: &KeySchema) -> Table {
        Table::new(self.dynamodb.clone(), &self.sender, self.caller.clone(), table, keys)
    }
}

/// Real connections, as the SDK would make them for each of its clients; one pool for a side, and for typed and raw calls.
fn connections() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_with_connector_fn(|settings, components| {
        let rustls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
        let mut connector = ConnectorBuilder::default().tls_provider(rustls);
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.set_proxy_config(Some(ProxyConfig::from_env()));
        connector.build()
    })
}

/// Everything but our own keeper of credentials.
async fn base_settings(config: &SideConfig, clients: &Clients) -> SdkConfig {
    let time = SharedTimeSource::new(Clock(clients.context.clone()));
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(clients.attempt_timeout)
        .operation_attempt_timeout(clients.attempt_timeout)
        .build();
    let region = config.region.clone().map(Region::new);
    if let Some(AccessKey { id, secret }) = &clients.isolated {
        let key = Credentials::new(id, secret, None, None, "isolated");
        let mut settings = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(region)
            .time_source(time)
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled())
            .identity_cache(IdentityCache::no_cache())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .credentials_provider(SharedCredentialsProvider::new(key));
        settings.set_http_client(clients.http.clone());
        settings.set_app_name(app_name());
        return settings.build();
    }
    let mut loader: ConfigLoader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .time_source(time.clone())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::disabled())
        .identity_cache(IdentityCache::no_cache())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(http) = &clients.http {
        loader = loader.http_client(http.clone());
    }
    if let Some(region) = &region {
        loader = loader.region(region.clone());
    }
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(name) = app_name() {
        loader = loader.app_name(name);
    }
    let settings = loader.load().await;
    match &config.profile {
        None => settings,
        Some(profile) => {
            let provider = SharedCredentialsProvider::new(profile_provider(profile, &settings, clients, time));
            settings.into_builder().credentials_provider(provider).build()
        }
    }
}

/// The profile that the side names, and nothing before it: the default chain would prefer the environment's keys, and
/// give both sides the same ones.
fn profile_provider(
    profile: &str,
    settings: &SdkConfig,
    clients: &Clients,
    time: SharedTimeSource,
) -> ProfileFileCredentialsProvider {
    let mut provider = ProviderConfig::without_region()
        .with_region(settings.region().cloned())
        .with_time_source(time)
        .with_retry_config(RetryConfig::disabled());
    if let Some(timeouts) = settings.timeout_config() {
        provider = provider.with_timeout_config(timeouts.clone());
    }
    if let Some(http) = &clients.http {
        provider = provider.with_http_client(http.clone());
    }
    ProfileFileCredentialsProvider::builder().configure(&provider).profile_name(profile).build()
}

fn app_name() -> Option<AppName> {
    AppName::new(concat!("dynaferry-", env!("CARGO_PKG_VERSION"))).ok()
}

/// What the keeper gets its credentials from: the base, or a role on top of it.
fn provider(config: &SideConfig, base: &SdkConfig, side: Side, clients: &Clients) -> Result<SharedCredentialsProvider> {
    if let Some(role_arn) = config.role_arn.clone() {
        let sts = aws_sdk_sts::Client::from_conf(sts_settings(config, base).build());
        let (context, observer) = (clients.context.clone(), clients.observer.clone());
        let role = Role { role_arn, config: config.clone(), sts, side, context, observer };
        return Ok(SharedCredentialsProvider::new(role));
    }
    base.credentials_provider()
        .ok_or_else(|| Error::new(Exit::Precondition, "find a provider of credentials among the AWS settings"))
}

/// A role, assumed anew for each session: the external id may be a file that is rotated.
///
/// Not the SDK's own provider of this kind: that one fixes the external id, makes a new client for each session, and has
/// no setting for the token service's endpoint that AWS_ENDPOINT_URL_STS does not overrule.
struct Role {
    role_arn: String,
    config: SideConfig,
    sts: aws_sdk_sts::Client,
    side: Side,
    context: Context,
    observer: Option<Observer>,
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role").field("role_arn", &self.role_arn).finish_non_exhaustive()
    }
}

impl Role {
    /// A session of one hour, the default: a role that was assumed by another role may have no longer one.
    async fn assume(&self) -> std::result::Result<Credentials, CredentialsError> {
        let external_id = self.config.read_external_id().map_err(CredentialsError::invalid_configuration)?;
        let send = self
            .sts
            .assume_role()
            .role_arn(&self.role_arn)
            .role_session_name(self.config.session_name())
            .set_external_id(external_id)
            .send();
        let begun = Instant::now();
        let (session, answer) = wire::typed(send.boxed()).await;
        let session = session.map_err(CredentialsError::provider_error);
        self.tell(begun, &answer, session.as_ref().err());
        let session = session?;
        let granted =
            session.credentials.ok_or_else(|| CredentialsError::unhandled("a session without credentials"))?;
        let expires =
            SystemTime::try_from(granted.expiration).map_err(|_| CredentialsError::unhandled("expiry is no time"))?;
        let mut credentials = Credentials::builder()
            .access_key_id(granted.access_key_id)
            .secret_access_key(granted.secret_access_key)
            .session_token(granted.session_token)
            .expiry(expires)
            .provider_name("role");
        // For the endpoints that belong to an account.
        credentials.set_account_id(self.role_arn.split(':').nth(4).map(Into::into));
        Ok(credentials.build())
    }

    /// No [`Caller`] makes this call: it is made within another one, to get that one's credentials.
    fn tell(&self, begun: Instant, answer: &Answer, error: Option<&CredentialsError>) {
        let Some(observer) = &self.observer else { return };
        observer(CallRecord {
            side: self.side,
            operation: ASSUME,
            outcome: error.map_or(Outcome::Ok, |error| Outcome::of(&NoCredentials::from(error).failure(ASSUME))),
            elapsed: begun.elapsed(),
            clocks: answer.date.map(|theirs| (theirs, self.context.now())),
        });
    }
}

impl ProvideCredentials for Role {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}

fn dynamodb_client(config: &SideConfig, settings: &SdkConfig, guard: Option<&SendGuard>) -> aws_sdk_dynamodb::Client {
    let mut builder = aws_sdk_dynamodb::config::Builder::from(settings).interceptor(NoteDate);
    if let Some(guard) = guard {
        builder = builder.interceptor(Guarded(Arc::clone(guard)));
    }
    if let Some(url) = &config.endpoint_url {
        builder = builder.endpoint_url(url);
    }
    aws_sdk_dynamodb::Client::from_conf(builder.build())
}

fn streams_client(config: &SideConfig, settings: &SdkConfig) -> aws_sdk_dynamodbstreams::Client {
    let mut builder = aws_sdk_dynamodbstreams::config::Builder::from(settings).interceptor(NoteDate);
    if let Some(url) = config.streams_endpoint_url.as_ref().or(config.endpoint_url.as_ref()) {
        builder = builder.endpoint_url(url);
    }
    aws_sdk_dynamodbstreams::Client::from_conf(builder.build())
}

fn sts_settings(config: &SideConfig, settings: &SdkConfig) -> aws_sdk_sts::config::Builder {
    let mut builder = aws_sdk_sts::config::Builder::from(settings).interceptor(NoteDate);
    if let Some(url) = &config.sts_endpoint_url {
        builder = builder.endpoint_url(url);
    }
    builder
}

/// The context's wall clock as the SDK's.
#[derive(Debug)]
struct Clock(Context);

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        system_time(self.0.now())
    }
}

/// A time before 1970 counts as 1970.
pub(super) fn system_time(time: WallTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(time.millis()).unwrap_or(0))
}
