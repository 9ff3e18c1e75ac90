//! Names and numbers for operators: what is measured, what it is called, how far behind the copy is.
//!
//! [`METRICS`] is the one table of names; [`Metrics`] renders them, [`LinkMetrics`] records them. [`lag`] decides, in
//! pure code, what the watermark of a link may claim; [`skew`] how far AWS's clock is from ours. [`status`] is the
//! document that `/api/v1/status` and `dynaferry status -o json` print. Knows no stage and no AWS type: stages push
//! numbers in.

mod exposition;
mod handles;
mod labels;
pub mod lag;
mod metrics;
mod process;
pub(crate) mod rate;
pub mod skew;
pub mod status;
mod table;

#[cfg(test)]
mod operator_tests;
#[cfg(test)]
mod tests;

pub use self::labels::{
    AppliedOp, CapacityKind, DifferenceKind, DifferenceState, GapCause, Label, Mode, Operation, Phase, RecordStage,
    RequestResult, ShardState, Side, Stage, Takeover, ThrottleReason, WriteResult,
};
pub use self::metrics::{CallMetrics, LinkIdentity, LinkMetrics, Metrics};
pub use self::table::{METRICS, MetricDoc, MetricKind, reference_markdown};
