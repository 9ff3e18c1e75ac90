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
use http::HeaderValue;
use tokio::time::Instant;

use super::fault::NoCredentials;
use super::wire;
use crate::context::Context;
use crate::error::Fault;
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

/// Credentials and their generation, by which [`Keeper::invalidate`] knows them.
pub(super) type Signer = (Credentials, u64);

/// What a request is to do.
enum Plan {
    Use(Signer),
    /// Good ones are there, and new ones are on their way.
    Prefer(Fetch, Signer),
    Wait(Fetch),
}

impl Keeper {
    pub(super) fn new(provider: SharedCredentialsProvider, context: Context) -> Self {
        let lead = tokio::sync::Mutex::new(());
        Self(Arc::new(Inner { provider, context, state: Mutex::default(), lead }))
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
    pub(super) async fn get(&self) -> Result<Signer, NoCredentials> {
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
            Some(held) if !held.is_due(now) => Plan::Use((held.credentials.clone(), state.generation)),
            Some(held) => {
                let good = (held.credentials.clone(), state.generation);
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
                    Ok(Ok(credentials)) => fitting(credentials),
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
    async fn finish(&self, fetch: Fetch) -> Result<Signer, NoCredentials> {
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
        let generation = state.generation;
        result.map(|credentials| (credentials, generation))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The SDK's signer panics on what fits into no header: a line break at the end of a variable, say.
fn fitting(credentials: Credentials) -> Result<Credentials, NoCredentials> {
    let parts =
        [("access key id", credentials.access_key_id()), ("session token", credentials.session_token().unwrap_or(""))];
    let odd = parts.into_iter().find(|(_, text)| HeaderValue::from_str(text).is_err());
    match odd {
        None => Ok(credentials),
        Some((part, _)) => {
            let message = format!("the {part} holds a character that fits into no request: a line break?");
            Err(NoCredentials { fault: Fault::Denied, code: None, message })
        }
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
        future::ProvideCredentials::new(async move {
            let (credentials, generation) = self.get().await.map_err(CredentialsError::provider_error)?;
            wire::note_credentials(generation);
            Ok(credentials)
        })
    }
}

fn wall_time(time: SystemTime) -> WallTime {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    WallTime::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::aws::tests::Manual;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Grants sessions of an hour, numbered; or fails, or never answers.
    #[derive(Debug, Default)]
    struct Issuer {
        clock: Arc<Manual>,
        asked: AtomicUsize,
        is_down: std::sync::atomic::AtomicBool,
        delay: Duration,
    }

    impl Issuer {
        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        fn set_down(&self, is_down: bool) {
            self.is_down.store(is_down, Ordering::SeqCst);
        }
    }

    #[derive(Debug, Clone)]
    struct Shop(Arc<Issuer>);

    impl ProvideCredentials for Shop {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let issuer = Arc::clone(&self.0);
            future::ProvideCredentials::new(async move {
                let number = issuer.asked.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(issuer.delay).await;
                if issuer.is_down.load(Ordering::SeqCst) {
                    return Err(CredentialsError::provider_error("the token service is away"));
                }
                let expiry = UNIX_EPOCH + Duration::from_millis(u64::try_from(issuer.clock.millis()).unwrap()) + HOUR;
                Ok(Credentials::new(format!("KEY{number}"), "secret", None, Some(expiry), "test"))
            })
        }
    }

    fn setup(delay: Duration) -> (Arc<Manual>, Arc<Issuer>, Keeper) {
        let (clock, context) = Manual::context();
        let issuer = Arc::new(Issuer { clock: Arc::clone(&clock), delay, ..Issuer::default() });
        let keeper = Keeper::new(SharedCredentialsProvider::new(Shop(Arc::clone(&issuer))), context);
        (clock, issuer, keeper)
    }

    async fn key(keeper: &Keeper) -> String {
        keeper.get().await.unwrap().0.access_key_id().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn one_fetch_serves_all_that_wait_and_all_that_follow() {
        let (_, issuer, keeper) = setup(Duration::from_millis(100));
        let all = futures_util::future::join_all((0..16).map(|_| key(&keeper))).await;
        assert!(all.iter().all(|key| key == "KEY0"), "{all:?}");
        assert_eq!(key(&keeper).await, "KEY0");
        assert_eq!(issuer.asked(), 1);
        assert_eq!(keeper.expires_at(), Some(WallTime::from_millis(Manual::START).plus(HOUR)));
    }

    #[tokio::test(start_paused = true)]
    async fn new_ones_are_fetched_five_minutes_ahead_while_others_use_the_old() {
        let (clock, issuer, keeper) = setup(Duration::from_millis(100));
        key(&keeper).await;
        clock.advance(HOUR - AHEAD * 5 / 4 - Duration::from_secs(1));
        assert_eq!(key(&keeper).await, "KEY0", "not yet");
        clock.advance(AHEAD / 4 + Duration::from_secs(2));
        let both = futures_util::future::join(key(&keeper), key(&keeper)).await;
        assert_eq!(both, ("KEY1".into(), "KEY0".into()), "one waits for the new ones, the other goes on");
        assert_eq!(issuer.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_refresh_is_survived_while_the_old_ones_are_good_and_no_longer() {
        let (clock, issuer, keeper) = setup(Duration::ZERO);
        key(&keeper).await;
        clock.advance(HOUR - Duration::from_secs(200));
        issuer.set_down(true);
        for _ in 0..50 {
            assert_eq!(key(&keeper).await, "KEY0");
        }
        assert_eq!(issuer.asked(), 2, "no storm");
        tokio::time::advance(PAUSE_AFTER_FAILURE * 2).await;
        assert_eq!(key(&keeper).await, "KEY0");
        assert_eq!(issuer.asked(), 3, "tried again after a pause");
        clock.advance(Duration::from_secs(195));
        assert_eq!(keeper.get().await.unwrap_err().fault, crate::error::Fault::Transient);
        issuer.set_down(false);
        assert_eq!(key(&keeper).await, "KEY4", "and comes back by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_service_that_hangs_holds_nobody_up_while_the_old_ones_are_good() {
        let (clock, _issuer, keeper) = setup(Duration::from_secs(10));
        key(&keeper).await;
        clock.advance(HOUR - Duration::from_secs(200));
        let begun = Instant::now();
        assert_eq!(key(&keeper).await, "KEY0");
        assert!(begun.elapsed() <= PATIENCE, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_request_does_not_end_the_fetch() {
        let (_, issuer, keeper) = setup(Duration::from_secs(8));
        for _ in 0..2 {
            assert!(tokio::time::timeout(Duration::from_secs(3), key(&keeper)).await.is_err());
        }
        assert_eq!(key(&keeper).await, "KEY0");
        assert_eq!(issuer.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_never_ends_is_given_up() {
        let (_, _issuer, keeper) = setup(Duration::from_secs(3600));
        assert_eq!(keeper.get().await.unwrap_err().fault, crate::error::Fault::Transient);
    }

    #[tokio::test(start_paused = true)]
    async fn outdated_ones_are_replaced_once_however_many_calls_report_them() {
        let (_, issuer, keeper) = setup(Duration::ZERO);
        let (_, first) = keeper.get().await.unwrap();
        keeper.invalidate(first);
        assert_eq!(key(&keeper).await, "KEY1");
        tokio::time::advance(PAUSE_BETWEEN_FORCED).await;
        keeper.invalidate(first);
        assert_eq!(key(&keeper).await, "KEY1", "a late report of the old ones does not touch the new ones");
        let (_, second) = keeper.get().await.unwrap();
        keeper.invalidate(second);
        assert_eq!(key(&keeper).await, "KEY2");
        let (_, third) = keeper.get().await.unwrap();
        keeper.invalidate(third);
        assert_eq!(key(&keeper).await, "KEY2", "not again at once");
        tokio::time::advance(PAUSE_BETWEEN_FORCED).await;
        keeper.invalidate(third);
        assert_eq!(key(&keeper).await, "KEY3");
        assert_eq!(issuer.asked(), 4);
    }
}
