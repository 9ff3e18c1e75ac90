//! An import of the link's own: the target's account reads an export into a new table, once, whatever crashes.
//!
//! As with an export of the link's own, what is to be asked for is noted before, with its token. The service makes no second
//! import of a token, and none into a table that is there; and a request of which nobody knows whether it was made is looked
//! for by its token. When it is over the link begins with the stream, as after the load of an export. What an import has left
//! out is a gap of the whole table, which heals like any other: both tables are compared, and what differs is synced. So does
//! an import that took longer than the stream keeps.
//!
//! `known` decides what becomes of a request that was noted before; `preflight` finds out whatever would refuse the import;
//! `asking` makes a request and finds it again; `landing` waits for its end, and sees to the table that it made or left.

mod asking;
mod known;
mod landing;
mod preflight;

use super::Link;
use super::asked::MOST_ATTEMPTS;
use super::costs;
use crate::checkpoint::rows::{ExportPlan, ImportRequestRow, ImportSubject};
use crate::config::TableRef;
use crate::error::{Error, Exit, Failure, Fault, Result};
use crate::load::export::ExportSource;
use crate::model::{ExportRef, ImportArn, ImportReport, ImportStatus, TableArn, TableDescription, WallTime};
use crate::runtime::prepare::{Accounts, cannot_describe, patiently};

use known::Fate;

/// An import that is over, and its table.
pub(crate) struct Imported {
    /// The export that was read.
    pub(crate) plan: ExportPlan,
    /// Its size, as far as that was told.
    pub(crate) bytes: Option<u64>,
    /// The id of the table.
    pub(crate) table_id: String,
    /// And that of the source.
    pub(crate) source_id: String,
    /// What the import has put into it.
    pub(crate) items: u64,
    /// Whether that is all of the export.
    pub(crate) is_whole: bool,
}

impl Link {
    /// The import that the link begins with, when it is over.
    pub(super) async fn find_import(&self, accounts: &Accounts) -> Result<Imported> {
        let (row, arn) = Box::pin(self.begun_import(accounts)).await?;
        let report = self.wait_for_import(accounts, &row, &arn).await?;
        self.land(accounts, &row, &arn, &report).await
    }

    /// The import that was asked for, or is asked for now. Nothing is asked for before both tables and the bucket were looked
    /// at.
    async fn begun_import(&self, accounts: &Accounts) -> Result<(ImportRequestRow, ImportArn)> {
        let noted = self.shared.store.import_request(&self.config.name).await?;
        let source = accounts.describe_source(&self.shared.context).await;
        let source = source.map_err(|failure| cannot_describe("source", &self.config, failure))?;
        let target = self.table_to_make(accounts, &source).await?;
        if target == source.arn {
            return Err(self.cannot_import("source and target are the same table").hint("see the roles of both sides"));
        }
        // One of another export, or into another table, is another request.
        let known = noted.clone().filter(|row| self.is_for(row, &source, &target));
        let fate = match &known {
            Some(row) => self.fate_of_import(accounts, row).await?,
            None => Fate::Another,
        };
        let mut attempt = 1;
        if let Some(row) = known {
            attempt = row.attempt.saturating_add(1);
            match fate {
                Fate::Load(arn) => return Ok((row, arn)),
                Fate::LookUp => match self.look_for_import(accounts, &row).await? {
                    Some(arn) => return self.note_begun_import(row, arn).await,
                    None if known::may_be_repeated(&row, self.aws_now()) => {
                        let arn = self.ask_for_import(accounts, &source, &row).await?;
                        return self.note_begun_import(row, arn).await;
                    }
                    None => self.refuse_import(&row, &known::another(&row, "it is not known any more"))?,
                },
                fate => self.refuse_import(&row, &fate)?,
            }
        }
        let export = self.export_to_import(accounts).await?;
        // That may have taken hours.
        let before = source;
        let source = accounts.describe_source(&self.shared.context).await;
        let source = source.map_err(|failure| cannot_describe("source", &self.config, failure))?;
        if source.id != before.id {
            return Err(self.cannot_import("the source table was made anew meanwhile").hint("run again"));
        }
        let owner = self.owner_of(export.bucket_owner.clone(), &source, &target);
        let key = export.place.summary_key();
        self.look_before_import(accounts, &source, (&export.place.bucket, &owner, &key)).await?;
        let of = ImportSubject {
            source: source.arn.clone(),
            source_id: source.id.clone(),
            export: ExportPlan {
                place: export.place,
                arn: export.arn,
                bucket_owner: Some(owner),
                // One without a time was refused.
                time: export.manifest.summary.time.unwrap_or_else(|| self.aws_now()),
                fingerprint: export.manifest.fingerprint.clone(),
                window: None,
                not_before: None,
                items_before: 0,
                pace: None,
                is_loaded: false,
            },
            items: export.manifest.items,
            bytes: export.manifest.summary.billed_bytes,
            target,
        };
        let context = &self.shared.context;
        let token = format!("{:016x}{:016x}", context.draw_u64(), context.draw_u64());
        let row = ImportRequestRow { token, asked: self.aws_now(), arn: None, of, attempt };
        self.replace_import(&row, noted.as_ref()).await?;
        tracing::info!(
            link = self.config.name,
            export = row.of.export.place.to_string(),
            items = row.of.items,
            bytes = row.of.bytes,
            table = row.of.target.name,
            about = row.of.bytes.map(|bytes| costs::of_import(bytes).to_string()),
            "importing the export into a new table: DynamoDB charges by its size, uncompressed"
        );
        let arn = self.ask_for_import(accounts, &source, &row).await?;
        self.note_begun_import(row, arn).await
    }

    /// The export to import, whole and the link's; one that is of use to an import.
    async fn export_to_import(&self, accounts: &Accounts) -> Result<ExportSource> {
        let export = self.find_export(accounts, None).await?;
        let export =
            export.ok_or_else(|| self.cannot_import("there is no export to import").hint("set `load.bucket`"))?;
        preflight::check_files(&export).map_err(|why| {
            self.cannot_import(&why)
                .hint("use `load.method = \"export\"`, which loads this very export: it is not made again")
        })?;
        Ok(export)
    }

    /// The table that an import makes: of the account and Region of who asks for it.
    async fn table_to_make(&self, accounts: &Accounts, source: &TableDescription) -> Result<TableArn> {
        let identity = patiently(&self.shared.context, || accounts.target.identity()).await;
        let identity = identity.map_err(|failure| {
            let what = "nobody knows in whose account the table would be made";
            self.cannot_import(what).hint("is the endpoint of STS right?").because(failure)
        })?;
        let name = match &self.config.target_table {
            TableRef::Name(name) => name,
            TableRef::Arn(arn) if arn.account == identity.account && arn.region == identity.region => &arn.name,
            TableRef::Arn(_) => {
                let what = "the target's identity is of another account or Region than its table, and imports are made in its own";
                return Err(self
                    .cannot_import(what)
                    .hint("give the target a role of the table's account, and its Region"));
            }
        };
        Ok(TableArn {
            partition: source.arn.partition.clone(),
            region: identity.region,
            account: identity.account,
            name: name.clone(),
        })
    }

    /// The account that owns the bucket: an import from another one must name it. An export of the link's own is in the
    /// source's where nothing else is said, and one that is named by its folder in the importing one.
    fn owner_of(&self, told: Option<String>, source: &TableDescription, target: &TableArn) -> String {
        let own = || if self.config.load.own_export.is_some() { &source.arn.account } else { &target.account };
        self.config.load.bucket_owner.clone().or(told).unwrap_or_else(|| own().clone())
    }

    /// Whether a request was for an import of such an export of this table as it is, into this table.
    fn is_for(&self, row: &ImportRequestRow, source: &TableDescription, target: &TableArn) -> bool {
        let ImportSubject { source: of, source_id, export, target: to, .. } = &row.of;
        let is_from = match (&self.config.load.from_export, &self.config.load.own_export) {
            (Some(ExportRef::Place(place)), _) => export.place == *place,
            (Some(ExportRef::Arn(arn)), _) => export.arn.as_ref() == Some(arn),
            (None, Some(bucket)) => {
                let folder = bucket.prefix.as_ref().map_or_else(String::new, |prefix| format!("{prefix}/"));
                let id = export.place.folder.strip_prefix(&format!("{folder}AWSDynamoDB/"));
                export.place.bucket == bucket.name
                    && id.is_some_and(|id| id.trim_end_matches('/').split('/').count() == 1)
            }
            (None, None) => false,
        };
        is_from && *of == source.arn && *source_id == source.id && to == target
    }

    /// What becomes of a request for the same that was noted before. What a failed one has left is cleared away.
    async fn fate_of_import(&self, accounts: &Accounts, row: &ImportRequestRow) -> Result<Fate> {
        let Some(arn) = &row.arn else { return Ok(Fate::LookUp) };
        let report = match patiently(&self.shared.context, || accounts.target.describe_import(arn)).await {
            Ok(report) => report,
            Err(failure) if failure.fault == Fault::Lost => return Ok(known::fate(row, None, false, self.aws_now())),
            Err(failure) => return Err(self.cannot_be_imported(failure)),
        };
        let mut has_table = false;
        match &report.status {
            ImportStatus::InProgress => {}
            ImportStatus::Completed | ImportStatus::Incomplete => {
                has_table = self.table_of(accounts, &report).await?.is_some();
            }
            ImportStatus::Failed(why) => self.clear_away(accounts, row, &report, why).await?,
        }
        Ok(known::fate(row, Some(&report), has_table, self.aws_now()))
    }

    /// The table that an import has made, while it is there.
    async fn table_of(&self, accounts: &Accounts, report: &ImportReport) -> Result<Option<TableDescription>> {
        match accounts.describe_target(&self.shared.context).await {
            Ok(table) => Ok(Some(table).filter(|table| report.table_id.as_ref().is_none_or(|id| *id == table.id))),
            Err(failure) if failure.fault == Fault::Lost => Ok(None),
            Err(failure) => Err(cannot_describe("target", &self.config, failure)),
        }
    }

    /// Refuses another import now, where that is so.
    fn refuse_import(&self, row: &ImportRequestRow, fate: &Fate) -> Result<()> {
        match fate {
            Fate::Load(_) | Fate::LookUp | Fate::Another => Ok(()),
            Fate::Later { why, again } => Err(self.import_failed(row, why, *again)),
            Fate::NoMore { why } => Err(self
                .cannot_import(&format!("the last of {} imports is of no use: {why}", row.attempt))
                .hint("no further one is asked for by itself: mend it, then give the target another name; or load with `method = \"export\"`")),
        }
    }

    fn import_failed(&self, row: &ImportRequestRow, why: &str, again: WallTime) -> Error {
        let what = format!("import {} of {MOST_ATTEMPTS} for link `{}` failed: {why}", row.attempt, self.config.name);
        let log = row.arn.as_ref().map_or_else(String::new, |arn| format!("; its log: {}", landing::log_of(arn, None)));
        Error::new(Exit::Precondition, what).hint(format!(
            "may the target's identity read the bucket, and use its key?{log}. Another one is asked for when the link runs after {again}"
        ))
    }

    async fn note_begun_import(&self, row: ImportRequestRow, arn: ImportArn) -> Result<(ImportRequestRow, ImportArn)> {
        let (link, attempt) = (&self.config.name, row.attempt);
        tracing::info!(link, import = arn.to_string(), attempt, most_attempts = MOST_ATTEMPTS, "the import was begun");
        let begun = ImportRequestRow { arn: Some(arn.clone()), ..row.clone() };
        self.replace_import(&begun, Some(&row)).await?;
        Ok((begun, arn))
    }

    async fn replace_import(&self, row: &ImportRequestRow, before: Option<&ImportRequestRow>) -> Result<()> {
        let name = &self.config.name;
        if self.shared.store.note_import(name, row, before).await? {
            return Ok(());
        }
        Err(Error::new(Exit::Held, format!("another process asks for an import for link `{name}`"))
            .hint("one link has one worker: see which one holds it now"))
    }

    fn cannot_import(&self, why: &str) -> Error {
        Error::new(Exit::Precondition, format!("import the target of link `{}`: {why}", self.config.name))
    }

    fn cannot_be_imported(&self, failure: Failure) -> Error {
        let hint = match failure.fault {
            Fault::Denied => "allow what config/policies/import.json says to the target's identity",
            _ => "try again; or load with `method = \"export\"`",
        };
        let what = format!("import the target table of link `{}`", self.config.name);
        Error::new(Exit::Precondition, what).hint(hint).because(failure)
    }
}
