//! Credentials that are there when they are needed.
//!
//! The keeper stands between a side's clients and the provider that knows how to get credentials (environment, profile,
//! role, …). It gets new ones well before the old ones expire, in one flight however many requests wait, and lives on
//! with the old ones when that fails. The flight is shared: a request that is dropped half-way does not end it.
//! Credentials are never printed.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::fault::NoCredentials;
use crate::context::Context;
use crate::model::WallTime;

/// New credentials are fetched this long before the old ones expire, or at the last fifth of their life if that is less.
const AHEAD: Duration = Duration::from_secs(5 * 60);

/// Credentials this close to their end are not used any more: a request must arrive before it.
const MARGIN: Duration = Duration::from_secs(10);

/// One fetch of credentials at most: several hops (instance metadata, web identity, STS), each with its own limits.
const FETCH_LIMIT: Duration = Duration::from_secs(15);

/// How long a request waits for new credentials while the old ones are good. Below the attempt time-out.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between a failed fetch ahead of time and the next: this, and up to as much again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(20);

/// Between two fetches that were forced because the service called the credentials outdated: where that is its answer to
/// every call, the token service must not be asked at the pace of our calls.
const PAUSE_BETWEEN_FORCED: Duration = Duration::from_secs(10);

type Fetch = Shared<BoxFuture<'static, Result<Credentials, NoCredentials>>>;

/// Keeps one side's credentials fresh. Clones share them.
#[derive(Clone)]
pub(super) struct Keeper(Arc<Inner>);

struct Inner {
    provider: SharedCredentialsProvider,
    context: Context,
    state: Mutex<State>,
    /// Held by the one request that waits for new credentials while the old ones are good.
    lead: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// Counts the credentials that were held so far.
    generation: u64,
    /// The fetch under way.
    fetch: Option<Fetch>,
    /// No fetch ahead of time before this.
    not_before: Option<Instant>,
    forced_at: Option<Instant>,
}

struct Held {
    credentials: Credentials,
    /// From here on new ones are fetched; `None`: they do not expire.
    refresh_at: Option<WallTime>,
    /// From here on they are not used.
    unusable_at: Option<WallTime>,
    is_outdated: bool,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keeper(…)")
    }
}

/// What a request is to do.
enum Plan {
    Use(Credentials),
    /// Good ones are there, and new ones are on their way.
    Prefer(Fetch, Credentials),
    Wait(Fetch),
}

impl Keeper {
    pub(super) fn new(provider: SharedCredentialsProvider, context: Context) -> Self {
        let lead = tokio::sync::Mutex::new(());
        Self(Arc::new(Inner { provider, context, state: Mutex::default(), lead }))
    }

    /// Counts the credentials: names those that a call used, for [`invalidate`](Self::invalidate).
    pub(super) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// When those held expire; `None`: they do not, or there are none yet.
    pub(super) fn expires_at(&self) -> Option<WallTime> {
        self.state().held.as_ref().and_then(|held| held.credentials.expiry()).map(wall_time)
    }

    /// The service called the credentials of this generation outdated: the next call gets new ones. Does nothing when
    /// there are newer ones already, and no more often than every [`PAUSE_BETWEEN_FORCED`].
    pub(super) fn invalidate(&self, generation: u64) {
        let now = Instant::now();
        let mut state = self.state();
        if state.generation != generation || state.forced_at.is_some_and(|at| now < at + PAUSE_BETWEEN_FORCED) {
            return;
        }
        if let Some(held) = &mut state.held {
            held.is_outdated = true;
            state.forced_at = Some(now);
        }
    }

    /// Good credentials, fetched first where need be.
    async fn get(&self) -> Result<Credentials, NoCredentials> {
        let (fetch, good) = match self.plan() {
            Plan::Use(credentials) => return Ok(credentials),
            Plan::Wait(fetch) => return self.finish(fetch).await,
            Plan::Prefer(fetch, good) => (fetch, good),
        };
        let Ok(_lead) = self.0.lead.try_lock() else { return Ok(good) };
        match tokio::time::timeout(PATIENCE, self.finish(fetch)).await {
            Ok(Ok(fresh)) => Ok(fresh),
            Ok(Err(_)) | Err(_) => Ok(good),
        }
    }

    fn plan(&self) -> Plan {
        let now = self.0.context.now();
        let mut state = self.state();
        let good = state.held.as_ref().filter(|held| held.is_usable(now));
        match good {
            Some(held) if !held.is_due(now) => Plan::Use(held.credentials.clone()),
            Some(held) => {
                let good = held.credentials.clone();
                match state.not_before {
                    Some(at) if Instant::now() < at => Plan::Use(good),
                    _ => Plan::Prefer(self.fetch(&mut state), good),
                }
            }
            None => Plan::Wait(self.fetch(&mut state)),
        }
    }

    /// The fetch under way, or a new one.
    fn fetch(&self, state: &mut State) -> Fetch {
        let provider = self.0.provider.clone();
        let start = || {
            async move {
                match tokio::time::timeout(FETCH_LIMIT, provider.provide_credentials()).await {
                    Ok(Ok(credentials)) => Ok(credentials),
                    Ok(Err(error)) => Err(NoCredentials::from(&error)),
                    Err(_) => Err(NoCredentials::from(&CredentialsError::provider_timed_out(FETCH_LIMIT))),
                }
            }
            .boxed()
            .shared()
        };
        state.fetch.get_or_insert_with(start).clone()
    }

    /// Waits for a fetch; whoever sees it end first puts its result in place.
    async fn finish(&self, fetch: Fetch) -> Result<Credentials, NoCredentials> {
        let result = fetch.clone().await;
        let mut state = self.state();
        if state.fetch.as_ref().is_some_and(|current| current.ptr_eq(&fetch)) {
            state.fetch = None;
            match &result {
                Ok(fresh) => {
                    state.held = Some(Held::new(fresh.clone(), &self.0.context));
                    state.generation += 1;
                    state.not_before = None;
                }
                Err(failed) => {
                    let pause = PAUSE_AFTER_FAILURE.mul_f64(1.0 + self.0.context.draw());
                    state.not_before = Some(Instant::now() + pause);
                    tracing::warn!(error = %failed, "fetch credentials");
                }
            }
        }
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn new(credentials: Credentials, context: &Context) -> Self {
        let now = context.now();
        let expiry = credentials.expiry().map(wall_time);
        let refresh_at = expiry.map(|end| {
            let life = end.since(now);
            // Up to a quarter earlier, so that workers that started together do not refresh together.
            end.minus(AHEAD.min(life / 5).mul_f64(1.0 + context.draw() / 4.0))
        });
        // Ones that are handed out with hardly any life left are used for what they have.
        let unusable_at = expiry.map(|end| end.minus(MARGIN.min(end.since(now) / 5)));
        Self { credentials, refresh_at, unusable_at, is_outdated: false }
    }

    fn is_due(&self, now: WallTime) -> bool {
        self.refresh_at.is_some_and(|at| now >= at)
    }

    fn is_usable(&self, now: WallTime) -> bool {
        !self.is_outdated && self.unusable_at.is_none_or(|at| now < at)
    }
}

impl ProvideCredentials for Keeper {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move { self.get().await.map_err(CredentialsError::provider_error) })
    }
}

fn wall_time(time: SystemTime) -> WallTime {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    WallTime::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
