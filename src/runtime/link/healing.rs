//! Closes gaps while the stream is applied: both tables are compared, and what differs is synced.

use std::sync::Arc;
use std::time::Duration;

use super::{Link, Running};
use crate::checkpoint::keeper::BookStatus;
use crate::checkpoint::rows::GapRow;
use crate::error::chain;
use crate::model::WallTime;
use crate::runtime::repair::KeeperRepairs;
use crate::verify::{HealJob, heal};

/// First and longest wait after a pass that failed, or that left a gap open because more was lost meanwhile: each pass
/// reads both tables.
const HEAL_AGAIN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(300));
/// How often a link without gaps to heal looks for some.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// What came of a pass.
#[derive(Debug, PartialEq, Eq)]
enum Pass {
    /// These gaps are closed. One that went on meanwhile is not.
    Closed(Vec<u64>),
    /// A write of an earlier owner may still land on a key that was compared: one more pass after that, or when more is
    /// lost.
    WaitsForGhosts,
    Failed,
}

impl Link {
    /// Heals gaps as they open, after the load: compares both tables and syncs what differs, while the stream is applied.
    pub(super) async fn heal_gaps(&self, running: &Running, ghosts_until: WallTime) {
        let mut books = running.board.follow_books();
        let mut wait = HEAL_AGAIN.0;
        loop {
            let open = books.borrow_and_update().open_gaps.clone();
            if open.is_empty() || running.board.is_loading() {
                wait = HEAL_AGAIN.0;
                tokio::select! {
                    _ = books.changed() => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
                continue;
            }
            tracing::info!(link = self.config.name, gaps = open.len(), "healing: comparing both tables");
            let Some(pass) = self.heal(running, &open, ghosts_until).await else {
                return std::future::pending().await;
            };
            let closed = if let Pass::Closed(ids) = &pass { ids.as_slice() } else { &[] };
            // What is closed is not to be taken for open because the status is a moment late.
            let is_told = |now: &BookStatus| now.open_gaps.iter().all(|gap| !closed.contains(&gap.id));
            if books.wait_for(is_told).await.is_ok_and(|now| now.open_gaps.is_empty()) {
                continue;
            }
            let again = async {
                tokio::time::sleep(wait).await;
                if pass == Pass::WaitsForGhosts && books.wait_for(|now| now.open_gaps != open).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = again => {}
                () = tokio::time::sleep(ghosts_until.since(self.aws_now())), if pass == Pass::WaitsForGhosts => {}
            }
            wait = (wait * 2).min(HEAL_AGAIN.1);
        }
    }

    /// One pass; `None`: the bookkeeper has stopped.
    async fn heal(&self, running: &Running, open: &[GapRow], ghosts_until: WallTime) -> Option<Pass> {
        let context = &self.shared.context;
        // What was read before the gap must be applied before keys are compared, or it would be applied after.
        let (covered, began) = (context.now(), self.aws_now());
        running.keeper.settled_until_now().await.ok()?;
        let job = HealJob {
            source: Arc::clone(&running.ends.source),
            target: Arc::clone(&running.ends.target_reader),
            settings: running.verify.clone(),
            context: context.clone(),
            repairer: Arc::new(KeeperRepairs(running.keeper.clone())),
            report: None,
            progress: None,
        };
        let report = match heal(job).await {
            Ok(report) => report,
            Err(error) => {
                tracing::error!(link = self.config.name, error = chain(&error), "a heal failed, trying again");
                return Some(Pass::Failed);
            }
        };
        tracing::info!(link = self.config.name, synced = report.synced, left_extra = report.left_extra, "healed");
        if report.left_extra > 0 {
            tracing::warn!(
                link = self.config.name,
                keys = report.left_extra,
                "keys that only the target has were left: it is not the link's own (`target.exclusive`)"
            );
        }
        if began < ghosts_until {
            return Some(Pass::WaitsForGhosts);
        }
        running.keeper.heal_gaps(open.iter().map(|gap| gap.id).collect(), covered).await.ok().map(Pass::Closed)
    }
}
