//! What would refuse the load of an export is found out before one is paid for.
//!
//! What only reads comes first: where something is missing, nothing was made, turned on or asked for.

use std::time::Duration;

use super::super::costs;
use super::super::exporting::turned_on;
use super::{Link, cannot_export, cannot_read};
use crate::aws::Account;
use crate::config::LoadMethod;
use crate::error::{Error, Exit, Failure, Fault, Result};
use crate::export::open::look;
use crate::model::{ExportArn, ExportBucket, TableDescription, WallTime};
use crate::runtime::prepare::{Accounts, Needs, cannot_describe, patiently, prepare, prepare_source};

/// The stream must be older than what is exported, with margin: an export is of a moment some five minutes ago, give or take
/// one, and its load is of five minutes before that. Source: Developer Guide, point-in-time recovery: latest restorable time.
const STREAM_AGE: Duration = Duration::from_secs(20 * 60);
/// The id of no export.
const NO_EXPORT: &str = "00000000000000-00000000";

impl Link {
    /// Looks at both tables and the bucket, turns on what is to be turned on, and waits until the stream is old enough. The
    /// source as it is then.
    pub(super) async fn look_before_export(
        &self,
        accounts: &Accounts,
        bucket: &ExportBucket,
    ) -> Result<TableDescription> {
        let (name, context) = (&self.config.name, &self.shared.context);
        let source = accounts.describe_source(context).await;
        let source = source.map_err(|failure| cannot_describe("source", &self.config, failure))?;
        if !self.config.stream.enable && source.stream.as_ref().is_none_or(|stream| !stream.enabled) {
            return Err(self
                .cannot_begin("the source's stream is off")
                .hint("turn on DynamoDB Streams with NEW_AND_OLD_IMAGES, or set `stream.enable = true`"));
        }
        let is_recoverable = self.may_recover(accounts, bucket).await?;
        self.may_look_up(accounts, &source).await?;
        self.may_read(accounts, bucket).await?;

        let source = if self.config.load.method == LoadMethod::Import {
            self.look_before_own_import(accounts, &source, bucket, &key_of_none(bucket)).await?;
            prepare_source(&self.config, accounts, &self.by_aws()).await?
        } else {
            let needs = Needs { stream: true, target: false };
            let prepared = prepare(&self.config, accounts.clone(), &self.by_aws(), needs).await?;
            self.owns_target(&prepared).await?;
            prepared.source
        };
        if !is_recoverable {
            tracing::info!(link = name, "turning on the source's point-in-time recovery, as `load.enable_pitr` asks");
            let turning = patiently(context, || accounts.source.turn_on_recovery(&self.config.source_table)).await;
            turning.map_err(|failure| cannot_export(name, failure))?;
        }
        let source = self.wait_for_stream(accounts, source).await?;
        tracing::info!(
            link = name,
            bytes = source.size_bytes,
            items = source.item_count,
            bucket = bucket.name,
            about = costs::of_export(source.size_bytes).to_string(),
            "exporting the source table: DynamoDB charges by its size, and S3 for what it keeps"
        );
        Ok(source)
    }

    /// Whether point-in-time recovery is on; refused where it is off and may not be turned on.
    async fn may_recover(&self, accounts: &Accounts, bucket: &ExportBucket) -> Result<bool> {
        let table = &self.config.source_table;
        let is_on = patiently(&self.shared.context, || accounts.source.has_recovery(table)).await;
        let is_on = is_on.map_err(|failure| cannot_export(&self.config.name, failure))?;
        if is_on || bucket.enable_pitr {
            return Ok(is_on);
        }
        Err(self
            .cannot_begin("point-in-time recovery of the source table is off")
            .hint("turn it on, or set `load.enable_pitr = true`; it costs by the table's size"))
    }

    /// An export that may be begun and not be found again would be paid for twice.
    async fn may_look_up(&self, accounts: &Accounts, source: &TableDescription) -> Result<()> {
        let (name, context) = (&self.config.name, &self.shared.context);
        let listed = patiently(context, || accounts.source.list_exports(&source.arn, false, None)).await;
        listed.map_err(|failure| cannot_export(name, failure))?;
        let arn = ExportArn { table: source.arn.clone(), id: NO_EXPORT.to_owned() };
        match accounts.source.describe_export(&arn).await {
            Err(failure) if failure.fault == Fault::Denied => Err(cannot_export(name, failure)),
            // There is none, in whichever words. Anything else is met again when it matters.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Whether one of both sides may read what will be in the bucket.
    async fn may_read(&self, accounts: &Accounts, bucket: &ExportBucket) -> Result<()> {
        let key = key_of_none(bucket);
        let mut refused: Option<Failure> = None;
        for account in [&accounts.source, &accounts.target] {
            let reader = Account::bucket(account, &bucket.name, bucket.owner.as_deref());
            match look(&reader, &key, &self.shared.context).await {
                Ok(()) => return Ok(()),
                Err(failure) if failure.fault == Fault::Denied => refused = refused.or(Some(failure)),
                Err(failure) => return Err(cannot_read(&self.config.name, bucket, failure)),
            }
        }
        match refused {
            Some(failure) => Err(cannot_read(&self.config.name, bucket, failure)),
            None => Ok(()),
        }
    }

    /// Waits until what is exported now is younger than the stream.
    async fn wait_for_stream(&self, accounts: &Accounts, mut source: TableDescription) -> Result<TableDescription> {
        let (link, context) = (&self.config.name, &self.shared.context);
        loop {
            let wait = stream_age(&source).map(|on| on.plus(STREAM_AGE).since(self.aws_now()));
            let wait = wait.ok_or_else(|| {
                self.cannot_begin("nobody knows since when the source's stream is on").hint("turn it on anew")
            })?;
            if wait.is_zero() {
                return Ok(source);
            }
            tracing::info!(link, seconds = wait.as_secs(), "waiting until the stream is older than the export");
            tokio::time::sleep(wait).await;
            // It may be another one by now.
            let again = accounts.describe_source(context).await;
            source = again.map_err(|failure| cannot_describe("source", &self.config, failure))?;
        }
    }

    fn cannot_begin(&self, why: &str) -> Error {
        Error::new(Exit::Precondition, format!("begin an export for link `{}`: {why}", self.config.name))
    }
}

/// A key of an export that is not there.
fn key_of_none(bucket: &ExportBucket) -> String {
    let folder = bucket.prefix.as_ref().map_or_else(String::new, |prefix| format!("{prefix}/"));
    format!("{folder}AWSDynamoDB/{NO_EXPORT}/manifest-summary.json")
}

/// Since when a table's stream is on; `None`: it is off, or it does not tell.
fn stream_age(source: &TableDescription) -> Option<WallTime> {
    source.stream.as_ref().filter(|stream| stream.enabled).and_then(|stream| turned_on(&stream.arn))
}
