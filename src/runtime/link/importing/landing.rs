//! The end of an import: waited for; then its table is made like the source, or what it has left is cleared away.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::super::exporting::{LOOK_EVERY, SAY_EVERY, check};
use super::super::slots::Importing;
use super::{Imported, Link, known};
use crate::aws::Patience;
use crate::checkpoint::rows::ImportRequestRow;
use crate::error::{Error, Exit, Failure, Fault, Result};
use crate::model::{ImportArn, ImportReport, ImportStatus, TableDescription, TableStatus};
use crate::runtime::prepare::{Accounts, cannot_describe, patiently};
use crate::telemetry::status::LoadStatus;

/// An import that was begun is seen no later.
const SEEN_WITHIN: Duration = Duration::from_secs(600);
/// What a failed import has left is cleared away so long after it at most: later somebody may have begun to use it, and a
/// request that is held up on its way could meet the next import's table.
pub(super) const CLEARED_WITHIN: Duration = Duration::from_secs(600);
/// A table that was imported so long ago may be somebody else's by now: the stream does not go on from it either.
const ADOPTED_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// For how long a table that is being deleted is waited for, and how often it is looked at.
const GOING: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(5));
/// The stream's name within it tells the import. Source: Developer Guide, import format quotas and validation.
const LOG_GROUP: &str = "/aws-dynamodb/imports";

impl Link {
    /// Waits until an import is over, however it ends.
    pub(super) async fn wait_for_import(
        &self,
        accounts: &Accounts,
        row: &ImportRequestRow,
        arn: &ImportArn,
    ) -> Result<ImportReport> {
        let (mut told_at, mut was_seen, mut errors) = (None::<Instant>, false, 0);
        let showing = self.slots.show_import();
        loop {
            let report = match patiently(&self.shared.context, || accounts.target.describe_import(arn)).await {
                Ok(report) => report,
                Err(failure) if self.bears(&failure, was_seen) || self.is_new_import(arn, &failure) => {
                    tracing::warn!(link = self.config.name, error = %failure, "the import cannot be seen: trying again");
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                Err(failure) => return Err(self.cannot_be_imported(failure)),
            };
            was_seen = true;
            if report.errors > errors {
                errors = report.errors;
                let log = log_of(arn, report.log_group.as_deref());
                tracing::warn!(link = self.config.name, errors, log, "the import leaves out items that it refuses");
            }
            if report.status != ImportStatus::InProgress {
                return Ok(report);
            }
            showing.update(self.progress(row, &report));
            if told_at.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                told_at = Some(Instant::now());
                tracing::info!(
                    link = self.config.name,
                    import = arn.to_string(),
                    items = report.imported_items,
                    of_items = row.of.items,
                    errors = report.errors,
                    minutes = report.started.map(|started| self.aws_now().since(started).as_secs() / 60),
                    "the target is being imported: waiting for it"
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether an import is not seen because it was begun so short a while ago.
    fn is_new_import(&self, arn: &ImportArn, failure: &Failure) -> bool {
        failure.fault == Fault::Lost && arn.begun().is_some_and(|begun| self.aws_now().since(begun) < SEEN_WITHIN)
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn progress(&self, row: &ImportRequestRow, report: &ImportReport) -> Importing {
        let running = report.started.map_or(0.0, |started| self.aws_now().since(started).as_secs_f64());
        let mut load = LoadStatus {
            bytes: report.processed_bytes,
            expected_bytes: row.of.bytes,
            items: report.imported_items,
            segments_done: 0,
            segments: 1,
            rate_bytes_per_second: (running > 0.0).then(|| report.processed_bytes as f64 / running),
            eta_seconds: None,
        };
        load.eta_seconds = load.estimate_eta_seconds(running);
        Importing { load, errors: report.errors }
    }

    /// What an import that is over gives the link. Its table gets what an import cannot give it.
    pub(super) async fn land(
        &self,
        accounts: &Accounts,
        row: &ImportRequestRow,
        arn: &ImportArn,
        report: &ImportReport,
    ) -> Result<Imported> {
        let (link, context) = (&self.config.name, &self.shared.context);
        if let ImportStatus::Failed(why) = &report.status {
            self.clear_away(accounts, row, report, why).await?;
            self.refuse_import(row, &known::fate(row, Some(report), false, self.aws_now()))?;
            return Err(self.import_failed(row, why, known::again(row, report)));
        }
        let table = self.table_of(accounts, report).await?.ok_or_else(|| {
            self.cannot_import("the table that was imported is not there any more")
                .hint("run again: another one is imported")
        })?;
        self.check_unused(&table, row, report)?;
        if table.status != TableStatus::Active {
            let active = accounts.target.wait_until_active(&self.config.target_table, Patience::default()).await;
            active.map_err(|failure| {
                let what = format!("wait for the imported table `{}` of link `{link}`", table.arn.name);
                Error::new(Exit::Timeout, what).hint("run again when it is ACTIVE").because(failure)
            })?;
        }
        let source = accounts.describe_source(context).await;
        let source = source.map_err(|failure| cannot_describe("source", &self.config, failure))?;
        self.make_like(accounts, &source, &table).await?;

        let plan = row.of.export.clone();
        let is_whole = report.status == ImportStatus::Completed && report.imported_items == row.of.items;
        if !is_whole {
            tracing::error!(
                link,
                items = report.imported_items,
                of_items = row.of.items,
                errors = report.errors,
                log = log_of(arn, report.log_group.as_deref()),
                "the import has left out items: both tables are compared, and what is missing is copied"
            );
        }
        if source.id != row.of.source_id {
            return Err(self
                .cannot_import("the source table was made anew meanwhile")
                .hint("delete the target and run again"));
        }
        tracing::info!(link, table = table.arn.name, items = report.imported_items, "the target was imported");
        Ok(Imported {
            plan,
            bytes: row.of.bytes,
            table_id: table.id,
            source_id: source.id,
            items: report.imported_items,
            is_whole,
        })
    }

    /// An imported table is the link's own as long as nobody can have begun to use it: a copy that heals deletes what is at
    /// the target alone.
    fn check_unused(&self, table: &TableDescription, row: &ImportRequestRow, report: &ImportReport) -> Result<()> {
        let ended = report.ended.unwrap_or(row.asked);
        let is_old = self.aws_now().since(ended) >= ADOPTED_WITHIN;
        let is_used = is_old || table.stream.as_ref().is_some_and(|stream| stream.enabled);
        if !is_used || self.config.target_exclusive == Some(true) {
            return Ok(());
        }
        let name = &table.arn.name;
        let what = format!("the table `{name}` was imported at {ended}, and somebody may use it by now");
        Err(self.cannot_import(&what).hint(
            "if nobody has written to it, set `target.exclusive = true`: what it has alone is then deleted; else delete it, and another one is imported",
        ))
    }

    /// Whether the stream goes on from what was imported; both tables are compared where it does not.
    pub(in super::super) fn goes_on(&self, imported: &Imported, source: &TableDescription) -> bool {
        let goes_on = check((&source.arn, Some(&source.id)), imported.plan.time, source, self.aws_now(), false);
        if let Err(why) = &goes_on {
            let link = &self.config.name;
            tracing::error!(link, why, "the stream does not go on from what was imported: both tables are compared");
        }
        goes_on.is_ok()
    }

    async fn make_like(&self, accounts: &Accounts, source: &TableDescription, table: &TableDescription) -> Result<()> {
        let (link, context) = (&self.config.name, &self.shared.context);
        let tags = match patiently(context, || accounts.source.list_tags(source)).await {
            Ok(tags) => tags,
            Err(failure) => {
                tracing::warn!(link, error = %failure, "tags are not copied: they could not be read");
                Vec::new()
            }
        };
        let finish = || accounts.target.finish_import(table, source, &tags, Patience::default());
        // Hours of work, and what was paid for it, are not held up by a label.
        let notes = patiently(context, finish).await.unwrap_or_else(|failure| vec![failure.to_string()]);
        for note in notes {
            tracing::warn!(link, what = note, "the target is not like the source");
        }
        let names =
            |of: &TableDescription| of.global_indexes.iter().map(|index| index.name.clone()).collect::<BTreeSet<_>>();
        for index in names(source).symmetric_difference(&names(table)) {
            tracing::warn!(link, index, "an index of the source was made or deleted while its table was imported");
        }
        if let Ok(Some(attribute)) = accounts.time_to_live(context).await {
            tracing::info!(link, attribute, "time to live is left off at the target until you turn it on");
        }
        Ok(())
    }

    /// Deletes the table that a failed import has left, where that is certainly what is there: it has the id that the import
    /// says, the import is the one that this link has noted, it failed a moment ago, and nobody has set anything on it.
    pub(super) async fn clear_away(
        &self,
        accounts: &Accounts,
        row: &ImportRequestRow,
        report: &ImportReport,
        why: &str,
    ) -> Result<()> {
        let table = match accounts.describe_target(&self.shared.context).await {
            Ok(table) => table,
            Err(failure) if failure.fault == Fault::Lost => return Ok(()),
            Err(failure) => return Err(cannot_describe("target", &self.config, failure)),
        };
        let is_its_own = table.arn == row.of.target && report.table_id.as_ref() == Some(&table.id);
        if !is_its_own && report.table_id.is_some() {
            return Ok(());
        }
        let left = || {
            let name = &table.arn.name;
            self.cannot_import(&format!("it failed ({why}) and left the table `{name}`, which holds a part")).hint(format!(
                "delete it, unless somebody uses it, and run again: aws dynamodb delete-table --table-name {name}; or use \
                 `load.method = \"export\"` with another table"
            ))
        };
        let is_recent = report.ended.is_some_and(|ended| self.aws_now().since(ended) < CLEARED_WITHIN);
        let is_untouched = table.stream.is_none() && !table.deletion_protection && table.status == TableStatus::Active;
        if is_its_own && table.status.is_deleting() {
            return self.wait_until_gone(accounts, &table).await.map_err(|()| left());
        }
        if !(is_its_own && is_recent && is_untouched) {
            return Err(left());
        }
        tracing::warn!(link = self.config.name, table = table.arn.name, why, "deleting what a failed import has left");
        // Once: by the time of another attempt the name may be another table's.
        match accounts.target.delete_table(&table.arn.name).await {
            Ok(()) => {}
            Err(failure) if failure.fault == Fault::Denied => return Err(left().because(failure)),
            // It may be on its way all the same.
            Err(failure) => {
                tracing::warn!(link = self.config.name, error = %failure, "the table may not be deleted yet");
            }
        }
        self.wait_until_gone(accounts, &table).await.map_err(|()| left())
    }

    async fn wait_until_gone(&self, accounts: &Accounts, table: &TableDescription) -> std::result::Result<(), ()> {
        let begun = Instant::now();
        while begun.elapsed() < GOING.0 {
            match accounts.describe_target(&self.shared.context).await {
                Err(failure) if failure.fault == Fault::Lost => return Ok(()),
                Ok(now) if now.id != table.id => return Ok(()),
                Ok(_) | Err(_) => tokio::time::sleep(GOING.1).await,
            }
        }
        Err(())
    }
}

/// Where an import's log is.
pub(super) fn log_of(arn: &ImportArn, group: Option<&str>) -> String {
    format!("{} {}/error in CloudWatch", group.unwrap_or(LOG_GROUP), arn.id)
}
