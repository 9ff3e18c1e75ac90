//! An export of the link's own: asked for once, whatever crashes, and waited for.
//!
//! What is to be asked for is noted before it is asked for, with the token by which the service knows it again: within eight
//! hours the same request makes no second export. A request of which nobody knows whether it was made is looked for by its
//! token among the table's exports first, so that the eight hours do not matter. Exports cost money: one that failed, or that
//! nobody loaded in time, is asked for anew after a while, and three times in all.
//!
//! `known` decides what becomes of a request that was noted before; `preflight` finds out whatever would refuse the load
//! before an export is paid for; `asking` makes a request and finds it again.

mod asking;
pub(super) mod known;
mod preflight;

use std::time::Duration;

use super::Link;
use super::asked::MOST_ATTEMPTS;
use super::exporting::{Wanted, place_of};
use crate::checkpoint::rows::{ExportRequestRow, ExportSubject};
use crate::config::{LoadMethod, TtlDeletes};
use crate::error::{Error, Exit, Failure, Fault, Result};
use crate::model::{
    ExportArn, ExportBucket, ExportPlace, ExportSpan, ExportStatus, RecoveryWindow, StreamArn, TableDescription,
    WallTime,
};
use crate::runtime::prepare::{Accounts, cannot_describe, patiently};

use known::Fate;

/// An export that was begun is seen no later.
pub(super) const SEEN_WITHIN: Duration = Duration::from_secs(600);

/// The service's code where the recovery is off, or not ready.
const NO_RECOVERY: &str = "PointInTimeRecoveryUnavailableException";
/// And where it is too young for the time that is asked for.
const TOO_YOUNG: &str = "InvalidExportTimeException";

/// An export of the link's own that is whole.
pub(super) struct OwnExport {
    pub(super) place: ExportPlace,
    pub(super) arn: ExportArn,
    /// The account that owns its bucket, as far as that is told.
    pub(super) owner: Option<String>,
    pub(super) ended: Option<WallTime>,
}

impl Link {
    /// The export that the link's load is made of, when it is whole: one that the link has asked for, or asks for now.
    ///
    /// `gone`: of this one nothing is there any more.
    pub(super) async fn own_export(
        &self,
        accounts: &Accounts,
        bucket: &ExportBucket,
        gone: Option<&ExportArn>,
    ) -> Result<OwnExport> {
        let (row, arn) = self.begun_export(accounts, bucket, gone).await?;
        let report = match self.wait_for_export(accounts, &arn, SEEN_WITHIN, Wanted::Full { may_be_old: true }).await? {
            Ok(report) => report,
            Err(why) => {
                let next = "as soon as another one would be of use, the link asks for it when it runs again";
                return Err(self.refused("load", &arn).hint(format!("{why} ({next})")));
            }
        };
        if let ExportStatus::Failed(why) = &report.status {
            let fate = known::fate(&row, Some(&report), self.windows_may_follow(), self.aws_now());
            let at_once = || failed(&self.config.name, why, &row, self.aws_now());
            return Err(self.refusal(&row, &fate).unwrap_or_else(at_once));
        }
        match place_of(&arn, &report) {
            Some(place) => Ok(OwnExport { place, arn, owner: report.bucket_owner, ended: report.ended }),
            None => Err(self.refused("find", &arn).hint("its account does not say where it is: run again")),
        }
    }

    /// The export that was asked for, or is asked for now. Nothing is asked for before both tables and the bucket were
    /// looked at.
    async fn begun_export(
        &self,
        accounts: &Accounts,
        bucket: &ExportBucket,
        gone: Option<&ExportArn>,
    ) -> Result<(ExportRequestRow, ExportArn)> {
        let name = &self.config.name;
        let noted = self.shared.store.export_request(name).await?;
        let source = accounts.describe_source(&self.shared.context).await;
        let source = source.map_err(|failure| cannot_describe("source", &self.config, failure))?;
        // One of another table, or to another place, is another request.
        let known = noted.clone().filter(|row| known::is_for(row, &source, bucket, None));
        let fate = match &known {
            Some(row) if gone.is_some() && row.arn.as_ref() == gone => {
                known::another(row, "its manifests are not in the bucket any more")
            }
            Some(row) => self.fate_of(accounts, row).await?,
            None => Fate::Another,
        };
        if let (Some(row), Fate::Load(arn)) = (&known, &fate) {
            return Ok((row.clone(), arn.clone()));
        }
        if let Some(error) = known.as_ref().and_then(|row| self.refusal(row, &fate)) {
            return Err(error);
        }
        let source = self.look_before_export(accounts, bucket).await?;
        // That took its time, perhaps.
        let known = known.filter(|row| known::is_for(row, &source, bucket, None));
        let recovery = self.recovery(accounts).await?;
        let may_be_repeated =
            |row: &ExportRequestRow| known::may_be_repeated(row, self.aws_now()) && known::can_be_had(row, recovery);
        let span = ExportSpan::Whole(known::whole_second(recovery, source.stream.as_ref().map(|stream| &stream.arn)));
        let (row, may_be_there) = match known {
            Some(row) if fate == Fate::LookUp && may_be_repeated(&row) => (row, true),
            Some(row) if fate == Fate::LookUp => match self.look_for_request(accounts, &source, &row).await? {
                Some(arn) => return self.note_begun(row, arn).await,
                None => {
                    if let Some(error) = self.refusal(&row, &known::another(&row, "it is not known any more")) {
                        return Err(error);
                    }
                    let attempt = row.attempt.saturating_add(1);
                    (self.note_request(&source, bucket, span, attempt, noted.as_ref()).await?, false)
                }
            },
            known => {
                let attempt = known.map_or(0, |row| row.attempt).saturating_add(1);
                (self.note_request(&source, bucket, span, attempt, noted.as_ref()).await?, false)
            }
        };
        let arn = self.ask_for_export(accounts, &source, bucket, &row, may_be_there).await?;
        let arn =
            arn.ok_or_else(|| Error::bug(format!("link `{name}` has asked for a window and wants a whole table")))?;
        self.note_begun(row, arn).await
    }

    /// Between which times the source can be exported.
    pub(super) async fn recovery(&self, accounts: &Accounts) -> Result<Option<RecoveryWindow>> {
        let recovery = patiently(&self.shared.context, || accounts.source.recovery(&self.config.source_table)).await;
        recovery.map_err(|failure| cannot_export(&self.config.name, failure))
    }

    /// What becomes of a request for the same that was noted before.
    pub(super) async fn fate_of(&self, accounts: &Accounts, row: &ExportRequestRow) -> Result<Fate> {
        let report = match &row.arn {
            None => None,
            Some(arn) => match patiently(&self.shared.context, || accounts.source.describe_export(arn)).await {
                Ok(report) => Some(report),
                Err(failure) if failure.fault == Fault::Lost => None,
                Err(failure) => return Err(cannot_export(&self.config.name, failure)),
            },
        };
        let time =
            report.as_ref().filter(|report| report.status == ExportStatus::Completed).and_then(|report| report.time);
        let goes_on = match time.filter(|_| self.windows_may_follow()) {
            None => false,
            Some(time) => {
                let recovery = self.recovery(accounts).await?;
                recovery.is_some_and(|recovery| recovery.earliest.is_none_or(|earliest| earliest <= time))
            }
        };
        Ok(known::fate(row, report.as_ref(), goes_on, self.aws_now()))
    }

    /// Whether incremental exports may go on from one of the link's own.
    fn windows_may_follow(&self) -> bool {
        self.config.load.method == LoadMethod::Export && self.config.stream.ttl_deletes == TtlDeletes::Apply
    }

    /// Why no other export is asked for now, where that is so.
    pub(super) fn refusal(&self, row: &ExportRequestRow, fate: &Fate) -> Option<Error> {
        let name = &self.config.name;
        match fate {
            Fate::Load(_) | Fate::LookUp | Fate::Another => None,
            Fate::Later { why, again } => Some(failed(name, why, row, *again)),
            Fate::NoMore { why } => {
                let what = format!("the last of {} exports for link `{name}` is of no use: {why}", row.attempt);
                Some(Error::new(Exit::Precondition, what).hint(
                    "no further one is asked for by itself: mend it, then set another `load.prefix`; or load with \
                     `method = \"scan\"`",
                ))
            }
        }
    }

    /// Notes what is to be asked for, in the place of what was noted before.
    pub(super) async fn note_request(
        &self,
        source: &TableDescription,
        bucket: &ExportBucket,
        span: ExportSpan,
        attempt: u32,
        before: Option<&ExportRequestRow>,
    ) -> Result<ExportRequestRow> {
        let context = &self.shared.context;
        let token = format!("{:016x}{:016x}", context.draw_u64(), context.draw_u64());
        let stream = source.stream.as_ref().map(|stream| stream.arn.clone());
        let (time, window) = match span {
            ExportSpan::Whole(time) => (time, None),
            ExportSpan::Window(window) => (None, Some(window)),
        };
        let of = ExportSubject {
            table: source.arn.clone(),
            table_id: source.id.clone(),
            // One that is off was refused.
            stream: stream.unwrap_or_else(|| StreamArn(String::new())),
            bucket: bucket.clone(),
            window,
        };
        let row = ExportRequestRow { token, asked: self.aws_now(), arn: None, of, time, attempt };
        self.replace_request(&row, before).await?;
        Ok(row)
    }

    /// Notes which export a request has made.
    pub(super) async fn note_begun(
        &self,
        row: ExportRequestRow,
        arn: ExportArn,
    ) -> Result<(ExportRequestRow, ExportArn)> {
        let (link, attempt) = (&self.config.name, row.attempt);
        tracing::info!(link, export = arn.to_string(), attempt, most_attempts = MOST_ATTEMPTS, "the export was begun");
        let begun = ExportRequestRow { arn: Some(arn.clone()), ..row.clone() };
        self.replace_request(&begun, Some(&row)).await?;
        Ok((begun, arn))
    }

    async fn replace_request(&self, row: &ExportRequestRow, before: Option<&ExportRequestRow>) -> Result<()> {
        let name = &self.config.name;
        if self.shared.store.note_export(name, row, before).await? {
            return Ok(());
        }
        Err(Error::new(Exit::Held, format!("another process asks for an export for link `{name}`"))
            .hint("one link has one worker: see which one holds it now"))
    }
}

pub(super) fn failed(link: &str, why: &str, row: &ExportRequestRow, again: WallTime) -> Error {
    let hint = format!(
        "may the source's identity write to the bucket, and use its key? Another one is asked for when the link runs after \
         {again}"
    );
    let what = format!("export {} of {MOST_ATTEMPTS} for link `{link}` failed: {why}", row.attempt);
    Error::new(Exit::Precondition, what).hint(hint)
}

pub(super) fn cannot_export(link: &str, failure: Failure) -> Error {
    let hint = match (failure.fault, failure.code.as_deref()) {
        (Fault::Denied, _) => "allow what config/policies/export.json says to the source's identity",
        (_, Some(NO_RECOVERY | TOO_YOUNG)) => {
            "turn on point-in-time recovery and wait some minutes, or set `load.enable_pitr = true`"
        }
        _ => "is the bucket there, and does `load.bucket_owner` say whose it is, where it is another account's?",
    };
    Error::new(Exit::Precondition, format!("export the source table of link `{link}`")).hint(hint).because(failure)
}

/// A bucket that cannot be read, as far as anybody can tell.
fn cannot_read(link: &str, bucket: &ExportBucket, failure: Failure) -> Error {
    let hint = match failure.fault {
        Fault::Lost => "there is no such bucket: make it, or name another one in `load.bucket`",
        Fault::Denied => {
            "allow s3:GetObject on its folder and s3:ListBucket on it (and kms:Decrypt on its key, if it has one) to the \
             source's or the target's identity, in the bucket's policy, too, where that is another account's; or the bucket \
             is not of `load.bucket_owner`. An export that nobody may read would be paid for in vain"
        }
        _ => "try again; is the endpoint of S3 right?",
    };
    let what = format!("begin an export for link `{link}`: read the bucket `{}`, from which it is loaded", bucket.name);
    Error::new(Exit::Precondition, what).hint(hint).because(failure)
}
