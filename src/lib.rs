//! Dynaferry copies DynamoDB tables into another AWS account and keeps the copies up to date.
//!
//! ```text
//! stream pages ─→ decode ─┐
//!                         ├─→ lanes (plan) ─→ apply ─→ watermark ─→ checkpoint
//! scan pages   ─→ decode ─┘
//! ```
//!
//! Data goes one way. Pure modules decide (`stream::lineage`, `lanes`, `checkpoint::watermark`, `telemetry::lag`, …):
//! they take values and a time and return values. Thin drivers do the I/O. Only `aws` names an SDK type; only `runtime`
//! knows all stages.

pub mod apply;
pub mod aws;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod context;
pub mod decode;
pub mod error;
pub mod http;
pub mod lanes;
pub mod load;
pub mod model;
pub mod retry;
pub mod runtime;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod stream;
pub mod telemetry;
pub mod verify;
