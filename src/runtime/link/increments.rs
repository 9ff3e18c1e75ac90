//! Incremental exports that the user has made: each goes on from the one before, and the first one from a full export.

use super::Link;
use super::chaining::Load;
use super::exporting::{TELLS_EXPIRED, Wanted, check, check_table};
use crate::checkpoint::rows::{ExportPlan, LinkIdentity};
use crate::config::TtlDeletes;
use crate::error::Result;
use crate::export::{Kind, Summary};
use crate::load::export::ExportSource;
use crate::model::{ExportRef, TableDescription, WallTime};
use crate::runtime::prepare::Accounts;

impl Link {
    /// Those that are named, the oldest one first.
    pub(super) fn increments(&self) -> impl Iterator<Item = &ExportRef> {
        self.config.load.increments.iter()
    }

    /// Refuses, before anything is written, increments that leave something out: each begins where the one before ended, and
    /// the stream goes on from the last one.
    pub(super) async fn check_increments(
        &self,
        accounts: &Accounts,
        full: &ExportSource,
        table: &TableDescription,
    ) -> Result<()> {
        if let (Some(first), TtlDeletes::Skip) = (self.increments().next(), self.config.stream.ttl_deletes) {
            return Err(self.refused("load", first).hint(TELLS_EXPIRED));
        }
        // Of one without a time was said so before.
        let mut ends = full.manifest.summary.time.unwrap_or(WallTime::from_secs(0));
        for export in self.increments() {
            let source = self.increment(accounts, export).await?;
            let Summary { table: of, table_id, window, .. } = &source.manifest.summary;
            let refuse = |why: String| self.refused("load", &source.place).hint(why);
            check_table((of, table_id.as_deref()), table).map_err(refuse)?;
            match window {
                Some(window) if window.from == ends => ends = window.to,
                _ => {
                    let from = window.map_or_else(|| "it does not say".to_owned(), |window| window.from.to_string());
                    return Err(refuse(format!(
                        "each increment must begin where the export before it ended, at {ends}: this one begins at {from}"
                    )));
                }
            }
        }
        if let Some(last) = self.config.load.increments.last() {
            let (of, id) = (&full.manifest.summary.table, full.manifest.summary.table_id.as_deref());
            check((of, id), ends, table, self.aws_now(), false).map_err(|why| self.refused("load", last).hint(why))?;
        }
        Ok(())
    }

    /// The increment that goes on from what is loaded: one that follows it in the list.
    pub(super) async fn listed_window(
        &self,
        accounts: &Accounts,
        identity: &LinkIdentity,
        plan: &ExportPlan,
    ) -> Result<Load> {
        let from = plan.time;
        let loaded = self.increments().position(|export| plan.is_of(export)).map_or(0, |at| at + 1);
        for export in self.increments().skip(loaded) {
            let source = self.increment(accounts, export).await?;
            // It may have been put there since the others were looked at.
            let Summary { table: of, table_id, .. } = &source.manifest.summary;
            if *of != identity.source || table_id.as_ref().is_some_and(|id| *id != identity.source_id) {
                return Err(self
                    .refused("load", &source.place)
                    .hint(format!("it is an export of {of}, or of one of that name")));
            }
            if source.manifest.summary.window.is_some_and(|window| window.from == from) {
                tracing::info!(
                    link = self.config.name,
                    export = source.place.to_string(),
                    files = source.manifest.files.len(),
                    items = source.manifest.items,
                    "loading what was changed after the export before"
                );
                return Ok(Load::Window(source));
            }
        }
        Ok(Load::NoWindow(format!("no export of `load.increments` begins at {from}")))
    }

    async fn increment(&self, accounts: &Accounts, export: &ExportRef) -> Result<ExportSource> {
        let owner = self.config.load.bucket_owner.clone();
        let (place, arn, owner) = match export {
            ExportRef::Place(place) => (place.clone(), None, owner),
            ExportRef::Arn(arn) => {
                let (place, its_owner) = self.finished_export(accounts, arn, Wanted::Window(None)).await?;
                (place, Some(arn.clone()), owner.or(its_owner))
            }
        };
        self.read_export(accounts, &place, arn, owner.as_deref(), Kind::Window).await
    }
}
