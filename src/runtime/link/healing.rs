//! Closes gaps while the stream is applied: both tables are compared, and what differs is synced.

use std::sync::Arc;
use std::time::Duration;

use super::{Link, Running};
use crate::error::chain;
use crate::model::WallTime;
use crate::runtime::repair::KeeperRepairs;
use crate::verify::{HealJob, heal};

/// Between two attempts at a heal that failed.
const HEAL_AGAIN: Duration = Duration::from_secs(30);

impl Link {
    /// Heals gaps as they open, after the load: compares both tables and syncs what differs, while the stream is applied.
    pub(super) async fn heal_gaps(&self, running: &Running, ghosts_until: WallTime) {
        let context = &self.shared.context;
        let mut books = running.board.follow_books();
        loop {
            let open = books.borrow_and_update().open_gaps.clone();
            if open.is_empty() || running.board.is_loading() {
                tokio::select! {
                    _ = books.changed() => {}
                    () = tokio::time::sleep(HEAL_AGAIN / 10) => {}
                }
                continue;
            }
            tracing::info!(link = self.config.name, gaps = open.len(), "healing: comparing both tables");
            // What was read before the gap must be applied before keys are compared, or it would be applied after.
            let covered = context.now();
            if running.keeper.settled_until_now().await.is_err() {
                return std::future::pending().await;
            }
            let job = HealJob {
                source: Arc::clone(&running.ends.source),
                target: Arc::clone(&running.ends.target_reader),
                settings: running.verify.clone(),
                context: context.clone(),
                repairer: Arc::new(KeeperRepairs(running.keeper.clone())),
                report: None,
                progress: None,
            };
            match heal(job).await {
                Ok(report) => {
                    tracing::info!(
                        link = self.config.name,
                        synced = report.synced,
                        left_extra = report.left_extra,
                        "healed"
                    );
                    if report.left_extra > 0 {
                        tracing::warn!(
                            link = self.config.name,
                            keys = report.left_extra,
                            "keys that only the target has were left: it is not the link's own (`target.exclusive`)"
                        );
                    }
                    if covered < ghosts_until {
                        // A write of an earlier owner may still land on a key that was compared: one more pass after that,
                        // or as soon as more is lost.
                        tokio::select! {
                            () = tokio::time::sleep(ghosts_until.since(context.now())) => {}
                            _ = books.wait_for(|now| now.open_gaps != open) => {}
                        }
                        continue;
                    }
                    let ids = open.iter().map(|gap| gap.id).collect();
                    if running.keeper.heal_gaps(ids, covered).await.is_err() {
                        return std::future::pending().await;
                    }
                }
                Err(error) => {
                    tracing::error!(link = self.config.name, error = chain(&error), "a heal failed, trying again");
                    tokio::time::sleep(HEAL_AGAIN).await;
                }
            }
        }
    }
}
