//! The routes and the server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::{LinkReadiness, Liveness, Readiness, StartupLatch, parse_max_lag};
use super::heartbeats::Heartbeats;
use crate::telemetry::Metrics;
use crate::telemetry::status::Status;

/// The content type of the text format. Source: Prometheus, exposition formats, text format 0.0.4.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const FRONT_PAGE: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>dynaferry</title></head><body>\n\
    <h1>dynaferry</h1>\n<ul>\n\
    <li><a href=\"/api/v1/status\">/api/v1/status</a>: what happens and what needs you, as JSON</li>\n\
    <li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>\n\
    <li><a href=\"/livez\">/livez</a>: do the worker loops turn</li>\n\
    <li><a href=\"/readyz\">/readyz</a>: started, credentials, stream, no gap</li>\n\
    <li><a href=\"/startupz\">/startupz</a>: has it once started (<code>?max_lag=5s</code>: and caught up)</li>\n\
    </ul></body></html>\n";

/// Who knows how things are. Answers from memory, at once: a probe must not wait for a service.
pub trait StatusSource: Send + Sync + 'static {
    /// The status now.
    fn status(&self) -> Status;

    /// The readiness of each link; empty while the links are not known.
    fn readiness(&self) -> Vec<LinkReadiness>;

    /// Called before metrics are rendered: gauges that are worked out on demand are set here.
    fn refresh_metrics(&self) {}
}

/// What the endpoints answer from. Cheap to clone.
#[derive(Clone)]
pub struct HttpState {
    metrics: Metrics,
    heartbeats: Heartbeats,
    source: Arc<dyn StatusSource>,
    /// One latch for each `max_lag` that is asked for.
    latches: Arc<Mutex<BTreeMap<Option<Duration>, Arc<StartupLatch>>>>,
}

impl std::fmt::Debug for HttpState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpState").field("heartbeats", &self.heartbeats).finish_non_exhaustive()
    }
}

/// So many different `max_lag` are remembered; a question beyond is answered without memory.
const MAX_LATCHES: usize = 16;

impl HttpState {
    /// Endpoints over these.
    #[must_use]
    pub fn new(metrics: Metrics, heartbeats: Heartbeats, source: Arc<dyn StatusSource>) -> Self {
        Self { metrics, heartbeats, source, latches: Arc::default() }
    }

    fn latch(&self, max_lag: Option<Duration>) -> Arc<StartupLatch> {
        let mut latches = self.latches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latch) = latches.get(&max_lag) {
            return Arc::clone(latch);
        }
        let latch = Arc::new(StartupLatch::default());
        if latches.len() < MAX_LATCHES {
            latches.insert(max_lag, Arc::clone(&latch));
        }
        latch
    }
}

/// The routes. Everything but GET (and HEAD) is answered 405.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/", get(front_page))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/api/v1/status", get(status))
        .with_state(state)
}

/// Answers on this listener until told to stop; then requests under way are finished.
///
/// Dropping it closes the connections; nothing is lost by that.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, state: HttpState, stop: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router(state)).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn front_page() -> Response {
    let mut response = fresh(axum::response::Html(FRONT_PAGE).into_response());
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

async fn metrics(State(state): State<HttpState>) -> Response {
    state.source.refresh_metrics();
    fresh(([(header::CONTENT_TYPE, METRICS_TYPE)], state.metrics.render()).into_response())
}

async fn livez(State(state): State<HttpState>) -> Response {
    let body = Liveness::of(state.heartbeats.stale());
    answer(body.is_ok(), body)
}

async fn readyz(State(state): State<HttpState>) -> Response {
    let body = Readiness::of(state.source.readiness());
    answer(body.is_ok(), body)
}

#[derive(Debug, Deserialize)]
struct StartupQuery {
    max_lag: Option<String>,
}

async fn startupz(State(state): State<HttpState>, Query(query): Query<StartupQuery>) -> Response {
    let max_lag = match query.max_lag.as_deref().map(parse_max_lag) {
        Some(None) => return (StatusCode::BAD_REQUEST, "max_lag is not a duration such as 5s\n").into_response(),
        Some(Some(max_lag)) => Some(max_lag),
        None => None,
    };
    let body = state.latch(max_lag).ask(&state.source.status(), max_lag);
    answer(body.is_ok(), body)
}

async fn status(State(state): State<HttpState>) -> Response {
    answer(true, state.source.status())
}

fn answer(is_ok: bool, body: impl Serialize) -> Response {
    let code = if is_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    fresh((code, Json(body)).into_response())
}

/// Health and status are of the moment: no cache may answer in their place.
fn fresh(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
