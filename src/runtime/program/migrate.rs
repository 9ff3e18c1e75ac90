//! `migrate`: load, catch up, compare, done.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::verify::{Comparison, verify_running};
use super::verifying::Verifying;
use super::{Program, State};
use crate::checkpoint::keeper::{BookStatus, KeeperGone};
use crate::config::LinkConfig;
use crate::context::Context;
use crate::error::{Error, Exit, Result, chain};
use crate::runtime::link::{Companion, Running, applied_until_now};
use crate::verify::VerifyReport;

/// How often a migration looks whether it has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How much longer than a key is in doubt a migration waits for an instant at which none is, before it ends reading.
const DOUBTS_MARGIN: Duration = Duration::from_secs(60);
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

/// Waits until the load is done, the stream is applied, no gap is open, and of the keys that were in doubt then none is.
/// Those that come into doubt meanwhile are not waited for: with a source that is being written and a network that loses an
/// answer now and then, there may always be one.
pub(super) async fn catch_up(name: &str, running: &Running) {
    let mut saying = Saying::new(name);
    let mut awaited: Option<Awaited> = None;
    loop {
        let now = running.board.snapshot();
        let is_current = now.watermarks.lag(now.now).is_some_and(|lag| lag <= running.caught_up_within);
        if !running.board.is_loading() && is_current && now.books.open_gaps.is_empty() {
            if awaited.get_or_insert_with(|| Awaited::of(&now.books)).are_settled(&now.books, running.in_doubt_for) {
                return;
            }
            saying.wait_for_doubts(&now.books);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The keys that were in doubt at a time.
struct Awaited {
    listed_before: u64,
    since: Instant,
}

impl Awaited {
    fn of(books: &BookStatus) -> Self {
        Self { listed_before: books.next_listed, since: Instant::now() }
    }

    /// Whether none of them is in doubt any more; or one comes into doubt anew again and again.
    fn are_settled(&self, books: &BookStatus, in_doubt_for: Duration) -> bool {
        books.first_listed.is_none_or(|first| first >= self.listed_before)
            || self.since.elapsed() >= in_doubt_for * 2 + DOUBTS_MARGIN
    }
}

/// Ends reading at an instant at which no key is in doubt and no gap is open, and waits until nothing is out that would put
/// one in doubt. Where new keys come into doubt all the time there is no such instant: then reading ends first.
pub(super) async fn let_doubts_end(name: &str, running: &Running) -> Result<()> {
    let mut saying = Saying::new(name);
    let mut awaited: Option<Awaited> = None;
    loop {
        let books = books(running).await;
        if !books.open_gaps.is_empty() {
            awaited = None;
        } else if books.doubts == 0 {
            break;
        } else {
            let awaited = awaited.get_or_insert_with(|| Awaited::of(&books));
            let is_long = awaited.since.elapsed() >= running.in_doubt_for + DOUBTS_MARGIN;
            if is_long && awaited.are_settled(&books, running.in_doubt_for) {
                tracing::warn!(
                    link = name,
                    keys = books.doubts,
                    "answers to writes are lost again and again: nothing more is read, so that no further key comes into doubt"
                );
                break;
            }
        }
        saying.wait_for_doubts(&books);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    running.reading.end().await;
    loop {
        let books = books(running).await;
        if !books.open_gaps.is_empty() {
            return Err(Error::new(Exit::Timeout, format!("history of link `{name}` was lost at the end"))
                .hint("progress is saved: run the same command again, which compares both tables and heals"));
        }
        if books.doubts == 0 {
            return Ok(());
        }
        saying.wait_for_doubts(&books);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the books say of all that was told to them.
async fn books(running: &Running) -> BookStatus {
    match running.keeper.status().await {
        Ok(books) => books,
        // The link ends, and with it who asked.
        Err(KeeperGone) => std::future::pending().await,
    }
}

/// Says now and then what is waited for.
struct Saying<'a> {
    link: &'a str,
    said_at: Instant,
}

impl<'a> Saying<'a> {
    fn new(link: &'a str) -> Self {
        Self { link, said_at: Instant::now() }
    }

    fn wait_for_doubts(&mut self, books: &BookStatus) {
        if books.doubts == 0 || self.said_at.elapsed() < SAY_EVERY {
            return;
        }
        self.said_at = Instant::now();
        tracing::info!(
            link = self.link,
            keys = books.doubts,
            until = books.last_doubt_due.map(|due| due.to_string()).unwrap_or_default(),
            "waiting for keys in doubt: a late write may still land on them"
        );
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
    // A write whose answer was lost may still land: the migration ends when it no longer can.
    let_doubts_end(name, &running).await?;
    let now = running.board.snapshot();
    Ok(MigrateReport {
        link: name.to_owned(),
        items_loaded: now.load.items,
        changes_replicated: now.totals.applied + now.totals.superseded,
        verification,
    })
}
