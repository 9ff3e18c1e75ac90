//! `migrate`: load, catch up, compare, done.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::verify::{Comparison, verify_running};
use super::verifying::Verifying;
use super::{Program, State};
use crate::config::LinkConfig;
use crate::context::Context;
use crate::error::{Error, Exit, Result, chain};
use crate::runtime::link::{Companion, Running, applied_until_now};
use crate::verify::VerifyReport;

/// A migration has caught up when it is no further behind than this.
pub(super) const CAUGHT_UP: Duration = Duration::from_secs(5);
/// How often a migration looks whether it has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it says what it waits for.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// What a finished migration tells, one for each link.
#[derive(Debug, Clone, Serialize)]
pub struct MigrateReport {
    /// The link.
    pub link: String,
    /// Items that the initial load settled, also in earlier runs.
    pub items_loaded: u64,
    /// Changes of the stream that were settled by this run.
    pub changes_replicated: u64,
    /// What the comparison of both tables found.
    pub verification: VerifyReport,
}

impl Program {
    /// As [`Program::migrate_each`], for who has no use for a part of the reports.
    ///
    /// # Errors
    /// The first fault. Told to stop: exit 7, since progress is saved and it may be run again.
    pub async fn migrate(self: &Arc<Self>, stop: CancellationToken) -> Result<Vec<MigrateReport>> {
        Box::pin(self.migrate_each(stop)).await?.into_iter().map(|(_, ended)| ended).collect()
    }

    /// Loads, catches up and verifies every link, one after the other; each is drained before the next one begins. One
    /// that fails does not keep the others from it; after a stop the rest is left out.
    ///
    /// # Errors
    /// What keeps every link from it: the source's tables, the state.
    pub async fn migrate_each(
        self: &Arc<Self>,
        stop: CancellationToken,
    ) -> Result<Vec<(String, Result<MigrateReport>)>> {
        let links = self.links().await?;
        let state = self.open_state().await?;
        let mut outcomes = Vec::new();
        let is_alone = links.len() == 1;
        for config in links {
            let name = config.name.clone();
            let ended = Box::pin(self.migrate_one(config, &state, &stop)).await;
            if let (Err(error), false) = (&ended, is_alone) {
                tell_failed(&name, error);
            }
            outcomes.push((name, ended));
            if stop.is_cancelled() {
                break;
            }
        }
        state.close().await;
        Ok(outcomes)
    }

    async fn migrate_one(&self, config: LinkConfig, state: &State, stop: &CancellationToken) -> Result<MigrateReport> {
        let name = config.name.clone();
        let link = self.link(config, state);
        let report = Arc::new(Mutex::new(None));
        let (slot, context, link_name) = (Arc::clone(&report), self.context.clone(), name.clone());
        let verifying = Arc::clone(&self.verifying);
        let companion: Companion<'_> = Box::new(move |running| {
            let (slot, context, name) = (Arc::clone(&slot), context.clone(), link_name.clone());
            let verifying = Arc::clone(&verifying);
            Box::pin(async move {
                let found = finish_migration(&name, running, context, &verifying).await?;
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                Ok(())
            })
        });
        Box::pin(link.run(Some(companion), stop.clone())).await?;
        let found = report.lock().unwrap_or_else(PoisonError::into_inner).take();
        let found: MigrateReport = found.ok_or_else(|| {
            Error::new(Exit::Timeout, format!("link `{name}` was stopped before it was done"))
                .hint("progress is saved: run the same command again to go on")
        })?;
        self.keep_report(Some(&state.store), &name, &found.verification).await;
        Ok(found)
    }
}

/// Says at once that a link of several failed: the others may take hours.
pub(super) fn tell_failed(link: &str, error: &Error) {
    tracing::error!(link, error = chain(error), hint = error.hint, "the link failed");
}

/// Waits until the load is done, the stream is applied, no gap is open and no key in doubt.
pub(super) async fn catch_up(name: &str, running: &Running) {
    let mut said_at = tokio::time::Instant::now();
    loop {
        let now = running.board.snapshot();
        let is_current = now.watermarks.lag(now.now).is_some_and(|lag| lag <= CAUGHT_UP);
        if !running.board.is_loading() && is_current && now.books.doubts == 0 && now.books.open_gaps.is_empty() {
            return;
        }
        if said_at.elapsed() >= SAY_EVERY {
            said_at = tokio::time::Instant::now();
            if is_current && now.books.doubts > 0 {
                let until = now.books.last_doubt_due.map(|due| due.to_string()).unwrap_or_default();
                tracing::info!(
                    link = name,
                    keys = now.books.doubts,
                    until,
                    "waiting for keys in doubt: a late write may still land on them"
                );
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn finish_migration(
    name: &str,
    running: Running,
    context: Context,
    verifying: &Arc<Verifying>,
) -> Result<MigrateReport> {
    catch_up(name, &running).await;
    applied_until_now(Arc::clone(&running.board)).await;
    tracing::info!(link = name, "caught up: comparing both tables");
    let watching = verifying.begin(name, running.source_items);
    let how = Comparison { repair: false, show_values: false, report: None, watching };
    let verification = verify_running(name, &running, context, how).await?;
    // A write that was lost meanwhile may still land: the migration ends when it no longer can.
    catch_up(name, &running).await;
    let now = running.board.snapshot();
    Ok(MigrateReport {
        link: name.to_owned(),
        items_loaded: now.load.items,
        changes_replicated: now.totals.applied + now.totals.superseded,
        verification,
    })
}
