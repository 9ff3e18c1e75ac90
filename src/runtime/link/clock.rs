//! AWS's time, as a link learns it from answers.

use std::sync::{Arc, Mutex, PoisonError};

use super::slots::BoardSlot;
use super::watching::observer;
use crate::aws::Observer;
use crate::context::{Context, WallClock};
use crate::model::WallTime;
use crate::telemetry::CallMetrics;
use crate::telemetry::skew::SkewEstimate;

/// A context by AWS's clock, and the observer that it learns that clock from: for what runs no link.
pub(crate) fn by_aws(context: &Context, calls: CallMetrics) -> (Context, Observer) {
    let skew = Arc::default();
    let observer = observer(calls, BoardSlot::default(), Arc::clone(&skew));
    (context.by_clock(Arc::new(AwsClock { context: context.clone(), skew })), observer)
}

/// AWS's clock, as far as it is known: ours, corrected by what answers told.
pub(super) struct AwsClock {
    pub(super) context: Context,
    pub(super) skew: Arc<Mutex<SkewEstimate>>,
}

impl WallClock for AwsClock {
    fn now(&self) -> WallTime {
        corrected(&self.skew, &self.context)
    }
}

pub(super) fn corrected(skew: &Mutex<SkewEstimate>, context: &Context) -> WallTime {
    skew.lock().unwrap_or_else(PoisonError::into_inner).corrected(context.now())
}
