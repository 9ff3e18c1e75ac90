//! How far the comparisons are that are under way, for status and progress.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::telemetry::status::VerifyStatus;
use crate::verify::{OnProgress, VerifyProgress};

/// The comparisons that are under way, by link.
#[derive(Debug, Default)]
pub(super) struct Verifying(Mutex<BTreeMap<String, VerifyStatus>>);

/// One comparison; it is over when this is dropped.
pub(super) struct Watching {
    of: Arc<Verifying>,
    link: String,
    expected_items: Option<u64>,
}

impl Verifying {
    /// A comparison begins; `expected_items` is what the source is said to hold, 0 where nothing is said.
    pub(super) fn begin(self: &Arc<Self>, link: &str, expected_items: u64) -> Watching {
        let expected_items = Some(expected_items).filter(|items| *items > 0);
        Watching { of: Arc::clone(self), link: link.to_owned(), expected_items }
    }

    /// All of them as they are now.
    pub(super) fn all(&self) -> BTreeMap<String, VerifyStatus> {
        self.links().clone()
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<String, VerifyStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watching {
    /// What the comparison is to tell how far it is.
    pub(super) fn progress(&self) -> OnProgress<VerifyProgress> {
        let (of, link, expected_items) = (Arc::clone(&self.of), self.link.clone(), self.expected_items);
        Box::new(move |now: &VerifyProgress| {
            let status = VerifyStatus {
                source_items: now.source_items,
                target_items: now.target_items,
                expected_items,
                segments_done: u64::from(now.segments_done),
                segments: u64::from(now.segments),
                suspects: now.suspects,
                differences: now.differences.confirmed.total() + now.differences.pending.total(),
            };
            of.links().insert(link.clone(), status);
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.of.links().remove(&self.link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_is_told_while_it_runs_and_not_after() {
        let verifying = Arc::new(Verifying::default());
        let watching = verifying.begin("orders", 100);
        let mut progress = watching.progress();
        let mut now = VerifyProgress { source_items: 40, segments: 4, suspects: 2, ..VerifyProgress::default() };
        now.differences.confirmed.missing = 1;
        now.differences.repaired.extra = 5;
        progress(&now);
        let told = verifying.all()["orders"];
        assert_eq!((told.source_items, told.expected_items, told.segments), (40, Some(100), 4));
        assert_eq!((told.suspects, told.differences), (2, 1));
        drop(watching);
        assert!(verifying.all().is_empty());
        assert_eq!(verifying.begin("empty", 0).expected_items, None);
    }
}
