//! Makes a request for an export, and finds it again.

use std::time::Duration;

use tokio::time::Instant;

use super::{Link, NO_RECOVERY, TOO_YOUNG, cannot_export};
use crate::checkpoint::rows::ExportRequestRow;
use crate::error::{Error, Exit, Failure, Fault, Result};
use crate::model::{ExportArn, ExportBucket, TableDescription, WallTime};
use crate::runtime::prepare::{Accounts, patiently};

/// For how long a request is made again and again before it is looked up whether it was made: much less than a token lives.
const REPEATED_FOR: Duration = Duration::from_secs(3600);
/// For how long the recovery that was turned on may take to be ready for an export, or the latest time to be, and how often it
/// is tried.
const RECOVERING: (Duration, Duration) = (Duration::from_secs(15 * 60), Duration::from_secs(30));
/// Pages of a listing at most: the service lists the exports of 90 days, 25 a page.
const MAX_PAGES: usize = 1_000;
/// How far two clocks may be apart that tell when an export was begun.
const CLOCKS: Duration = Duration::from_secs(900);

impl Link {
    /// Makes a request until it is known which export it has made. `may_be_there`: somebody may have made it before. `None`:
    /// its window cannot be exported any more.
    pub(in crate::runtime::link) async fn ask_for_export(
        &self,
        accounts: &Accounts,
        source: &TableDescription,
        bucket: &ExportBucket,
        row: &ExportRequestRow,
        mut may_be_there: bool,
    ) -> Result<Option<ExportArn>> {
        let (context, begun) = (&self.shared.context, Instant::now());
        let is_recovering = |failure: &Failure| matches!(failure.code.as_deref(), Some(NO_RECOVERY | TOO_YOUNG));
        loop {
            let since = self.aws_now();
            if may_be_there && let Some(arn) = self.look_for_request(accounts, source, row).await? {
                return Ok(Some(arn));
            }
            match patiently(context, || self.ask_since(accounts, source, bucket, row, since)).await {
                Ok(Some(arn)) => return Ok(Some(arn)),
                Ok(None) => {}
                // It was turned on a moment ago.
                Err(failure) if is_recovering(&failure) && bucket.enable_pitr && begun.elapsed() < RECOVERING.0 => {
                    tracing::info!(link = self.config.name, "point-in-time recovery is not ready yet: trying again");
                    tokio::time::sleep(RECOVERING.1).await;
                }
                Err(failure) if row.of.window.is_some() && failure.code.as_deref() == Some(TOO_YOUNG) => {
                    // Its end may be so short a while ago that it is not known yet.
                    if begun.elapsed() >= RECOVERING.0 {
                        return Ok(None);
                    }
                    tokio::time::sleep(RECOVERING.1).await;
                }
                Err(failure) => return Err(cannot_export(&self.config.name, failure)),
            }
            may_be_there = true;
        }
    }

    /// Makes a request once. `None`: it has been made since then for so long, by a machine that slept, or with so much
    /// patience, that the service may have forgotten that it was, and makes another export of it.
    async fn ask_since(
        &self,
        accounts: &Accounts,
        source: &TableDescription,
        bucket: &ExportBucket,
        row: &ExportRequestRow,
        since: WallTime,
    ) -> Result<Option<ExportArn>, Failure> {
        if self.aws_now().since(since) >= REPEATED_FOR {
            return Ok(None);
        }
        accounts.source.begin_export(&source.arn, bucket, row.span(), &row.token).await.map(Some)
    }

    /// The export that was begun with this request's token. Those that cannot be described are not it: it is younger.
    pub(in crate::runtime::link) async fn look_for_request(
        &self,
        accounts: &Accounts,
        source: &TableDescription,
        row: &ExportRequestRow,
    ) -> Result<Option<ExportArn>> {
        let (name, context) = (&self.config.name, &self.shared.context);
        let earliest = row.asked.minus(CLOCKS);
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let list = || accounts.source.list_exports(&source.arn, row.of.window.is_some(), after.clone());
            let (exports, next) = patiently(context, list).await.map_err(|failure| cannot_export(name, failure))?;
            for arn in exports.into_iter().filter(|arn| arn.begun().is_none_or(|begun| begun >= earliest)) {
                match patiently(context, || accounts.source.describe_export(&arn)).await {
                    Ok(report) if report.token.as_ref() == Some(&row.token) => return Ok(Some(arn)),
                    Ok(_) => {}
                    Err(failure) if matches!(failure.fault, Fault::Lost | Fault::Broken) => {}
                    Err(failure) => return Err(cannot_export(name, failure)),
                }
            }
            after = next;
            if after.is_none() {
                return Ok(None);
            }
        }
        let what = format!("the exports of the source table of link `{name}` have no end after {MAX_PAGES} pages");
        Err(Error::new(Exit::Unexpected, what))
    }
}
