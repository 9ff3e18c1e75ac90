//! The export that a link's load is made of: found, and looked at before anything is written.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Link;
use super::costs;
use super::own_export::OwnExport;
use crate::aws::Account;
use crate::checkpoint::rows::{ExportPlan, LinkRow, Stage};
use crate::config::TtlDeletes;
use crate::error::{Error, Exit, Failure, Fault, Result};
use crate::export::open::{OpenError, open};
use crate::export::{Kind, Manifest, ObjectReader, Summary};
use crate::load::export::ExportSource;
use crate::model::{
    ExportArn, ExportBucket, ExportPlace, ExportRef, ExportReport, ExportStatus, ExportWindow, StreamArn, TableArn,
    TableDescription, WallTime,
};
use crate::runtime::open::LOAD_MARGIN;
use crate::runtime::prepare::{Accounts, patiently};
use crate::stream::gaps::UNCONFIRMED_AFTER;
use crate::telemetry::Mode;

/// How often an export that is being written is looked at, at first, and how often it is said that it is waited for.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(15);
/// What is not there so long after its export's end was removed.
const REMOVED_AFTER: Duration = Duration::from_secs(3600);
/// One that takes hours is looked at less often.
const LOOK_SELDOM: Duration = Duration::from_secs(120);
/// See [`LOOK_EVERY`].
pub(super) const SAY_EVERY: Duration = Duration::from_secs(300);

/// What an export is waited for as.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// The whole table.
    Full {
        /// What the stream has lost since may be brought by incremental exports.
        may_be_old: bool,
    },
    /// What changed in a window; `None`: in whichever it was made of.
    Window(Option<ExportWindow>),
}

impl Link {
    /// The export that the link's load begins with, or goes on with; `None`: there is none to load, or no more.
    pub(super) async fn find_export(&self, accounts: &Accounts, row: Option<&LinkRow>) -> Result<Option<ExportSource>> {
        let wanted = self.config.load.from_export.as_ref();
        let begun = match row {
            None => None,
            Some(row) if row.stage == Stage::Streaming => return Ok(None),
            Some(row) => Some(row.load.as_ref().and_then(|plan| plan.export.as_ref())),
        };
        let owner = self.config.load.bucket_owner.clone();
        let (place, arn, owner) = match (begun, wanted) {
            (None, None) => {
                let Some(bucket) = &self.config.load.own_export else { return Ok(None) };
                let source = self.find_own_export(accounts, bucket).await?;
                return self.begin_with(accounts, source).await.map(Some);
            }
            (Some(None), None) if self.config.load.own_export.is_none() => return Ok(None),
            (Some(Some(plan)), None) if self.config.load.own_export.is_some() => {
                (plan.place.clone(), plan.arn.clone(), owner.or_else(|| plan.bucket_owner.clone()))
            }
            (None, Some(ExportRef::Place(place))) => (place.clone(), None, owner),
            (None, Some(ExportRef::Arn(arn))) => {
                let wanted = Wanted::Full { may_be_old: self.may_be_old() };
                let (place, its_owner) = self.finished_export(accounts, arn, wanted).await?;
                (place, Some(arn.clone()), owner.or(its_owner))
            }
            (Some(Some(plan)), Some(wanted)) if self.increments().chain([wanted]).any(|one| plan.is_of(one)) => {
                (plan.place.clone(), plan.arn.clone(), owner.or_else(|| plan.bucket_owner.clone()))
            }
            (Some(begun), _) => return Err(self.began_otherwise(begun)),
        };
        let is_window = begun.flatten().is_some_and(|plan| plan.window.is_some());
        if is_window && self.config.stream.ttl_deletes == TtlDeletes::Skip {
            return Err(self.refused("go on with", &place).hint(TELLS_EXPIRED));
        }
        let kind = if is_window { Kind::Window } else { Kind::Full };
        let source = self.read_export(accounts, &place, arn, owner.as_deref(), kind).await?;
        match begun.flatten() {
            Some(plan) if plan.fingerprint != source.manifest.fingerprint => Err(self
                .refused("go on with", &place)
                .hint("its list of files is not the one that the load began with: load again with a fresh state, into an empty target")),
            Some(_) => Ok(Some(source)),
            None => self.begin_with(accounts, source).await.map(Some),
        }
    }

    /// One of the link's own, with its manifests.
    async fn find_own_export(&self, accounts: &Accounts, bucket: &ExportBucket) -> Result<ExportSource> {
        let mut gone = None;
        loop {
            let OwnExport { place, arn, owner, ended } = self.own_export(accounts, bucket, gone.as_ref()).await?;
            let owner = self.config.load.bucket_owner.clone().or(owner);
            match self.open_export(accounts, &place, Some(arn.clone()), owner.as_deref(), Kind::Full).await {
                Ok(source) => return Ok(source),
                Err(error) if error.is_missing() && self.may_be_removed(ended) => gone = Some(arn),
                Err(error) => return Err(self.cannot_open(&place, error)),
            }
        }
    }

    /// Whether somebody may have removed what was exported, as rules of a bucket do: another one costs money, and is for nothing
    /// where the last one is looked for in the wrong place.
    pub(super) fn may_be_removed(&self, ended: Option<WallTime>) -> bool {
        ended.is_some_and(|ended| self.aws_now().since(ended) >= REMOVED_AFTER)
    }

    /// What there is to be said, and refused, of an export that a load is to begin with.
    async fn begin_with(&self, accounts: &Accounts, source: ExportSource) -> Result<ExportSource> {
        let table = accounts
            .describe_source(&self.shared.context)
            .await
            .map_err(|failure| self.refused("find the table of", &source.place).because(failure))?;
        self.check_goes_on(&source, &table)?;
        self.check_increments(accounts, &source, &table).await?;
        let Manifest { files, items, summary, .. } = &*source.manifest;
        let indexes = table.global_indexes.len() + table.local_indexes.len();
        let units = summary.billed_bytes.map(|bytes| costs::write_units(*items, bytes, indexes));
        let limit = self.config.apply.max_wcu;
        tracing::info!(
            link = self.config.name,
            export = source.place.to_string(),
            files = files.len(),
            items,
            bytes = summary.billed_bytes,
            time = summary.time.map(|time| time.to_string()),
            write_units = units,
            about = units.map(|units| costs::of_writes(units).to_string()),
            minutes_at_least = units.zip(limit).map(|(units, limit)| units / limit.max(1) / 60),
            "loading an export"
        );
        Ok(source)
    }

    /// Whether an export is of this table, and its stream goes on from it.
    pub(super) fn check_goes_on(&self, export: &ExportSource, table: &TableDescription) -> Result<()> {
        let Summary { table: of, table_id, time, .. } = &export.manifest.summary;
        let Some(time) = time else {
            let why = "its summary has no exportTime, so nobody knows from where the stream goes on";
            return Err(self.refused("load", &export.place).hint(why));
        };
        check((of, table_id.as_deref()), *time, table, self.aws_now(), self.may_be_old())
            .map_err(|why| self.refused("load", &export.place).hint(why))
    }

    /// Whether an export may be older than what the stream keeps: incremental ones go on from it.
    pub(super) fn may_be_old(&self) -> bool {
        self.config.load.goes_on()
    }

    /// Where an export is, and whose its bucket is, when it is whole: one that is being written is waited for.
    pub(super) async fn finished_export(
        &self,
        accounts: &Accounts,
        arn: &ExportArn,
        wanted: Wanted,
    ) -> Result<(ExportPlace, Option<String>)> {
        let report = self.wait_for_export(accounts, arn, Duration::ZERO, wanted).await?;
        let report = report.map_err(|why| self.refused("load", arn).hint(why))?;
        if let ExportStatus::Failed(why) = &report.status {
            return Err(self.refused("load", arn).hint(format!("it failed ({why}): export the table again")));
        }
        let place = place_of(arn, &report)
            .ok_or_else(|| self.refused("find", arn).hint("its account does not say where it is: name its folder"))?;
        Ok((place, report.bucket_owner))
    }

    /// Waits until an export is whole, or failed. Not in vain: why it is of no use is said as soon as it is known. One that
    /// was begun no longer ago than this may not be seen yet.
    pub(super) async fn wait_for_export(
        &self,
        accounts: &Accounts,
        arn: &ExportArn,
        seen_within: Duration,
        wanted: Wanted,
    ) -> Result<std::result::Result<ExportReport, String>> {
        let (begun, mut told_at, mut was_seen) = (Instant::now(), None::<Instant>, false);
        loop {
            let report = match patiently(&self.shared.context, || accounts.source.describe_export(arn)).await {
                Ok(report) => report,
                Err(failure) if self.bears(&failure, was_seen) || self.is_new(arn, seen_within, &failure) => {
                    tracing::warn!(link = self.config.name, error = %failure, "the export cannot be seen: trying again");
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                Err(failure) => return Err(self.cannot_find(arn, failure)),
            };
            was_seen = true;
            if let Err(why) = check_kind(&report, wanted) {
                return Ok(Err(why));
            }
            if let Some(of) = &report.table {
                let table = match accounts.describe_source(&self.shared.context).await {
                    Ok(table) => table,
                    Err(failure) if self.bears(&failure, told_at.is_some()) => {
                        tokio::time::sleep(LOOK_EVERY).await;
                        continue;
                    }
                    Err(failure) => return Err(self.refused("find the table of", arn).because(failure)),
                };
                let (of, now) = ((of, report.table_id.as_deref()), self.aws_now());
                let checked = match (wanted, report.time) {
                    (Wanted::Full { may_be_old }, Some(time)) => check(of, time, &table, now, may_be_old),
                    (Wanted::Full { .. }, None) => Ok(()),
                    (Wanted::Window(_), _) => check_table(of, &table),
                };
                if let Err(why) = checked {
                    return Ok(Err(why));
                }
            }
            if report.status != ExportStatus::InProgress {
                return Ok(Ok(report));
            }
            if told_at.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                told_at = Some(Instant::now());
                let minutes = report.started.map(|started| self.aws_now().since(started).as_secs() / 60);
                let export = arn.to_string();
                tracing::info!(link = self.config.name, export, minutes, "the export is being written: waiting for it");
            }
            tokio::time::sleep((begun.elapsed() / 60).clamp(LOOK_EVERY, LOOK_SELDOM)).await;
        }
    }

    /// Whether a failure is waited out in the middle of hours of waiting, which began well.
    pub(super) fn bears(&self, failure: &Failure, began_well: bool) -> bool {
        let passes = match failure.fault {
            Fault::Transient | Fault::Expired => true,
            Fault::Denied => self.shared.mode == Mode::Service,
            Fault::Lost | Fault::Rejected | Fault::Broken => false,
        };
        passes && began_well
    }

    /// Whether an export is not seen because it was begun so short a while ago.
    fn is_new(&self, arn: &ExportArn, seen_within: Duration, failure: &Failure) -> bool {
        let is_recent = |begun| self.aws_now().since(begun) < seen_within;
        failure.fault == Fault::Lost && arn.begun().is_some_and(is_recent)
    }

    fn cannot_find(&self, arn: &ExportArn, failure: Failure) -> Error {
        let hint = match failure.fault {
            Fault::Denied => "allow dynamodb:DescribeExport on it to the source's identity, or name its folder",
            Fault::Lost => {
                "is it an export of the source's account and Region, of the last 90 days? or name its folder"
            }
            _ => "try again, or name its folder: s3://BUCKET/PREFIX/AWSDynamoDB/EXPORT_ID/",
        };
        self.refused("find", arn).hint(hint).because(failure)
    }

    /// The manifests, as [`open_export`](Self::open_export) reads them.
    pub(super) async fn read_export(
        &self,
        accounts: &Accounts,
        place: &ExportPlace,
        arn: Option<ExportArn>,
        owner: Option<&str>,
        kind: Kind,
    ) -> Result<ExportSource> {
        let source = self.open_export(accounts, place, arn, owner, kind).await;
        source.map_err(|error| self.cannot_open(place, error))
    }

    /// The manifests, by the identity of the source or else of the target: the bucket may be of either account, or of a third.
    pub(super) async fn open_export(
        &self,
        accounts: &Accounts,
        place: &ExportPlace,
        arn: Option<ExportArn>,
        owner: Option<&str>,
        kind: Kind,
    ) -> std::result::Result<ExportSource, OpenError> {
        let mut account = &accounts.source;
        let mut opened = self.open_by(account, place, owner, kind).await;
        if let Err(error) = &opened
            && error.is_denied()
        {
            let by_target = self.open_by(&accounts.target, place, owner, kind).await;
            if !by_target.as_ref().is_err_and(OpenError::is_denied) {
                (account, opened) = (&accounts.target, by_target);
            }
        }
        let (manifest, reader) = opened?;
        let side = account.side().as_str();
        tracing::info!(link = self.config.name, side, "the export can be read by this side's identity");
        let (place, bucket_owner) = (place.clone(), owner.map(str::to_owned));
        Ok(ExportSource { place, arn, bucket_owner, manifest, reader, pace: None })
    }

    async fn open_by(
        &self,
        account: &Account,
        place: &ExportPlace,
        owner: Option<&str>,
        kind: Kind,
    ) -> std::result::Result<(Arc<Manifest>, Arc<dyn ObjectReader>), OpenError> {
        let reader = Arc::new(Account::bucket(account, &place.bucket, owner));
        let manifest = open(&*reader, place, kind, &self.shared.context).await?;
        Ok((Arc::new(manifest), reader))
    }

    pub(super) fn cannot_open(&self, place: &ExportPlace, error: OpenError) -> Error {
        let hint = if error.is_denied() {
            NOT_READABLE
        } else if error.is_passing() {
            "try again; is the endpoint of S3 right?"
        } else {
            "is it the folder of such an export that is completed, with its manifests?"
        };
        self.refused("read", place).hint(hint).because(error)
    }

    pub(super) fn refused(&self, what: &str, export: &dyn std::fmt::Display) -> Error {
        Error::new(Exit::Precondition, format!("{what} the export {export} of link `{}`", self.config.name))
    }

    fn began_otherwise(&self, begun: Option<&ExportPlan>) -> Error {
        let name = &self.config.name;
        match begun {
            Some(plan) if plan.window.is_some() => {
                Error::new(Exit::Precondition, format!("the load of link `{name}` goes on by incremental exports"))
                    .hint("put back `load.bucket`, or `load.increments`, until it is done")
            }
            Some(plan) => Error::new(Exit::Precondition, format!("the load of link `{name}` began from another export"))
                .hint(format!(
                    "set `load.from_export = \"{}\"` until it is done, or load again with a fresh state, into an empty target",
                    plan.arn.as_ref().map_or_else(|| plan.place.to_string(), ExportArn::to_string)
                )),
            None => Error::new(Exit::Precondition, format!("the load of link `{name}` began with a scan"))
                .hint("set `load.method = \"scan\"` until it is done, or load again with a fresh state, into an empty target"),
        }
    }
}

/// Where a whole export is: its account leaves the prefix out of the key of its summary in places, as in AWS's own samples.
pub(super) fn place_of(arn: &ExportArn, report: &ExportReport) -> Option<ExportPlace> {
    let manifest = report.manifest.as_ref()?;
    let is_bare = manifest.starts_with(&format!("AWSDynamoDB/{}/", arn.id));
    let prefix = report.prefix.as_ref().filter(|_| is_bare).map_or("", |prefix| prefix.trim_end_matches('/'));
    let slash = if prefix.is_empty() { "" } else { "/" };
    format!("s3://{}/{prefix}{slash}{manifest}", report.bucket).parse().ok()
}

/// What is wrong with increments where the target is to keep what expired.
pub(super) const TELLS_EXPIRED: &str = "an incremental export tells of what expired as of what was deleted: set \
    `stream.ttl_deletes = \"apply\"` until the load is done, or leave `load.increments` out";

/// Who may not list a bucket is told that a missing object is denied.
pub(super) const NOT_READABLE: &str = "allow s3:GetObject on its folder (and kms:Decrypt on its key, if it has one) to the \
    source's or the target's identity, in the bucket's policy, too, where that is another account's; or there is no such \
    object: without s3:ListBucket S3 does not tell the difference; or the bucket is not of `load.bucket_owner`";

fn check_kind(report: &ExportReport, wanted: Wanted) -> std::result::Result<(), String> {
    match wanted {
        Wanted::Full { .. } if !report.is_full => {
            Err("it is not of the whole table, in DynamoDB JSON: export it so".to_owned())
        }
        Wanted::Window(Some(window)) if report.window != Some(window) => {
            Err(format!("it is not of what changed from {window}"))
        }
        Wanted::Window(None) if report.window.is_none() => {
            Err("it is not an incremental one, in DynamoDB JSON: name those in `load.increments`".to_owned())
        }
        Wanted::Full { .. } | Wanted::Window(_) => Ok(()),
    }
}

/// Whether an export is of this table.
pub(super) fn check_table(
    (exported, id): (&TableArn, Option<&str>),
    table: &TableDescription,
) -> std::result::Result<(), String> {
    if *exported != table.arn {
        return Err(format!("it is an export of {exported}"));
    }
    if id.is_some_and(|id| id != table.id) {
        return Err("the table was deleted and made anew since: export it again".to_owned());
    }
    Ok(())
}

/// Whether the stream goes on from where an export of this table, with this id, and time ends; else why not.
pub(super) fn check(
    of: (&TableArn, Option<&str>),
    time: WallTime,
    table: &TableDescription,
    now: WallTime,
    may_be_old: bool,
) -> std::result::Result<(), String> {
    check_table(of, table)?;
    let from = time.minus(LOAD_MARGIN);
    if from > now {
        return Err(format!("it is an image of {time}, which is yet to come"));
    }
    if !may_be_old && now.since(from) >= UNCONFIRMED_AFTER {
        return Err(format!(
            "it is an image of {time}, and a stream keeps 24 hours: what was written since {from} is not, or not for much longer, in it; export the table again"
        ));
    }
    let stream = table.stream.as_ref().filter(|stream| stream.enabled);
    let Some(stream) = stream else {
        return Err("the table's stream is off: turn it on, and then export the table again".to_owned());
    };
    match turned_on(&stream.arn) {
        Some(on) if on <= from => Ok(()),
        Some(on) => Err(format!(
            "it is an image of {time}, and the stream was turned on at {on}: export the table again, {} minutes after that or later",
            LOAD_MARGIN.as_secs() / 60
        )),
        None => {
            Err(format!("the label of the stream {} tells no time: nobody knows when it was turned on", stream.arn))
        }
    }
}

/// When a stream was turned on: its label, the last part of its ARN. Source: API reference, `StreamDescription`.
pub(super) fn turned_on(stream: &StreamArn) -> Option<WallTime> {
    let label = stream.0.rsplit('/').next()?;
    let time: jiff::civil::DateTime = label.trim_end_matches('Z').parse().ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(WallTime::from_millis(time.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_found_also_where_its_account_leaves_the_prefix_out() {
        let arn: ExportArn =
            "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/export/01604473200000-a1b2c3d4".parse().unwrap();
        let folder = "AWSDynamoDB/01604473200000-a1b2c3d4/";
        let place = |prefix: Option<&str>, before: &str| {
            let report = ExportReport {
                status: ExportStatus::Completed,
                is_full: true,
                window: None,
                table: None,
                table_id: None,
                time: None,
                bucket: "bucket".to_owned(),
                prefix: prefix.map(str::to_owned),
                bucket_owner: None,
                manifest: Some(format!("{before}{folder}manifest-summary.json")),
                started: None,
                ended: None,
                token: None,
            };
            place_of(&arn, &report).unwrap().folder
        };
        assert_eq!(place(None, ""), folder);
        assert_eq!(place(Some("a/b"), "a/b/"), format!("a/b/{folder}"));
        assert_eq!(place(Some("a/b"), ""), format!("a/b/{folder}"));
        assert_eq!(place(Some("AWSDynamoDB/"), ""), format!("AWSDynamoDB/{folder}"));
    }

    #[test]
    fn a_label_tells_when_its_stream_was_turned_on() {
        let label = |label: &str| turned_on(&StreamArn(format!("arn:aws:dynamodb:r:a:table/t/stream/{label}")));
        assert_eq!(label("2015-05-20T20:51:10.252").unwrap().to_string(), "2015-05-20T20:51:10.252Z");
        assert_eq!(label("2015-05-20T20:51:10.252Z"), label("2015-05-20T20:51:10.252"));
        assert_eq!(label("latest"), None);
    }
}
