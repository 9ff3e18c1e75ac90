//! Metrics, health, API; read only.
