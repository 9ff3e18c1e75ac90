//! What comparisons of a link's tables found: kept in its state by whoever compared, told by whoever runs it.

use std::convert::Infallible;
use std::time::Duration;

use super::Link;
use crate::checkpoint::rows::{DifferenceCounts, VerifiedRow};
use crate::checkpoint::{StateStore, StoreResult};
use crate::error::chain;
use crate::model::WallTime;
use crate::runtime::board::Board;
use crate::verify::{KindCounts, VerifyReport};

/// How often a link looks whether another process has compared its tables.
const LOOK_EVERY: Duration = Duration::from_secs(60);

impl Link {
    /// Tells what the last comparison found, and those that others make while the link runs.
    pub(super) async fn watch_verified(&self, board: &Board) -> Infallible {
        let (name, store) = (&self.config.name, &self.shared.store);
        let mut told = None;
        let mut has_looked = false;
        loop {
            match store.verified(name).await {
                Ok(found) if found != told => {
                    found.iter().for_each(|row| board.verified(row, has_looked));
                    told = found;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(link = name, error = chain(&error), "the last verification could not be looked up");
                }
            }
            has_looked = true;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// A report, as it is kept.
pub(crate) fn verified_row(report: &VerifyReport, at: WallTime, before: Option<&VerifiedRow>) -> VerifiedRow {
    let counts = |kinds: &KindCounts| DifferenceCounts {
        missing: kinds.missing,
        extra: kinds.extra,
        different: kinds.different,
    };
    VerifiedRow {
        at,
        compared: report.compared,
        pending: counts(&report.differences.pending),
        confirmed: counts(&report.differences.confirmed),
        last_success: if report.is_identical() { Some(at) } else { before.and_then(|before| before.last_success) },
    }
}

/// Keeps what a comparison found, for who runs the link.
///
/// # Errors
/// Of the store; the comparison itself is none the worse for it.
pub(crate) async fn keep_verified(
    store: &dyn StateStore,
    link: &str,
    report: &VerifyReport,
    at: WallTime,
) -> StoreResult<()> {
    let before = store.verified(link).await?;
    store.note_verified(link, &verified_row(report, at, before.as_ref())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::MemoryStore;
    use crate::verify::Differences;

    #[tokio::test]
    async fn a_verification_that_finds_differences_keeps_the_time_of_the_last_that_found_none() {
        let store = MemoryStore::new();
        let mut report = VerifyReport {
            source_items: 5,
            target_items: 5,
            compared: 5,
            settled: 0,
            differences: Differences::default(),
            expired_differences: 0,
            source_expired: 0,
            target_expired: 0,
            complete: true,
            duration_seconds: 1.0,
            source_units: 1.0,
            target_units: 1.0,
        };
        keep_verified(&store, "orders", &report, WallTime::from_secs(10)).await.unwrap();
        report.differences.confirmed.missing = 2;
        keep_verified(&store, "orders", &report, WallTime::from_secs(20)).await.unwrap();
        let kept = store.verified("orders").await.unwrap().unwrap();
        assert_eq!((kept.at, kept.last_success), (WallTime::from_secs(20), Some(WallTime::from_secs(10))));
        assert_eq!((kept.confirmed.missing, kept.compared), (2, 5));
    }
}
