//! Metrics, health, status over HTTP; read only.
//!
//! `/metrics` for Prometheus, `/livez`, `/readyz` and `/startupz` for an orchestrator, `/api/v1/status` for programs, `/`
//! for a lost human. Nothing here changes anything: mutations have their own socket. Knows no stage: it asks a
//! [`StatusSource`]; liveness comes from [`Heartbeats`] alone, so that no outside dependency can get the process killed.

mod health;
mod heartbeats;
mod server;

#[cfg(test)]
mod tests;

pub use self::health::{LinkReadiness, NotReady};
pub use self::heartbeats::{Heartbeat, Heartbeats, STALE_AFTER};
pub use self::server::{HttpState, StatusSource, router, serve};
