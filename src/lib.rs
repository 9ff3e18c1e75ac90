//! Dynaferry copies DynamoDB tables into another AWS account and keeps the copies up to date.
//!
//! ```text
//! stream pages ─→ decode ─┐
//!                         ├─→ lanes (plan) ─→ apply ─→ watermark ─→ checkpoint
//! scan, export ─→ decode ─┘
//! ```
//!
//! Data goes one way. Pure modules decide (`stream::lineage`, `lanes`, `checkpoint::watermark`, `telemetry::lag`, …):
//! they take values and a time and return values. Thin drivers do the I/O. Only `aws` names an SDK type; only `runtime`
//! knows all stages.
//!
//! | folder | what it does, and what it must not know |
//! |---|---|
//! | [`model`] | the nouns: items as bytes, keys, changes, positions. No AWS type, no task, no stage |
//! | [`decode`] | bytes → model; odd input is a typed error, never a guess |
//! | [`stream`] | reads the source's stream, parents before children; finds gaps. No target |
//! | [`export`] | what DynamoDB exported to S3: manifests and data files, checked. No lane, no checkpoint |
//! | [`load`] | the initial load: a parallel scan, or an export |
//! | [`lanes`] | the operations of each key: order, coalescing, one in flight |
//! | [`apply`] | writes to the target, at its pace. No shard, no checkpoint storage |
//! | [`checkpoint`] | the books of a link: what is settled, in doubt, lost; and the file that keeps them. No table contents |
//! | [`verify`] | compares, confirms, repairs, heals |
//! | [`aws`] | credentials, clients, raw bodies, the fate of errors. Takes no decision |
//! | [`runtime`] | the life of a link; the only folder that spawns |
//! | [`config`], [`cli`], [`http`], [`telemetry`] | what a user sets, types, asks and watches |
//! | `sandbox` | an AWS of several accounts in memory, for demo and tests (feature `sandbox`). Knows nothing of the rest |
//!
//! Further pages: [what users get](docs::semantics), [operations](docs::operations), [metrics](docs::metrics),
//! [decisions](docs::decisions), [the bug museum](docs::museum). How to use the program: README.

pub mod apply;
pub mod aws;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod context;
pub mod decode;
/// The pages that stand beside the code.
pub mod docs {
    #[doc = include_str!("docs/decisions.md")]
    pub mod decisions {}
    #[doc = include_str!("docs/metrics.md")]
    pub mod metrics {}
    #[doc = include_str!("docs/museum.md")]
    pub mod museum {}
    #[doc = include_str!("docs/operations.md")]
    pub mod operations {}
    #[doc = include_str!("docs/semantics.md")]
    pub mod semantics {}
}
pub mod error;
pub mod export;
pub mod http;
mod invariant;
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
