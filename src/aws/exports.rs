//! Exports of tables to S3: asked for, found again, looked at; and the point-in-time recovery that they need.

use aws_sdk_dynamodb::types::{self, PointInTimeRecoverySpecification, PointInTimeRecoveryStatus, S3SseAlgorithm};
use aws_smithy_types::DateTime;
use futures_util::FutureExt as _;

use super::accounts::Account;
use super::fault::broken;
use crate::config::TableRef;
use crate::error::Failure;
use crate::model::{
    ExportArn, ExportBucket, ExportReport, ExportSpan, ExportStatus, ExportWindow, RecoveryWindow, TableArn, WallTime,
};

const BEGIN: &str = "ExportTableToPointInTime";
const DESCRIBE: &str = "DescribeExport";
const LIST: &str = "ListExports";
const BACKUPS: &str = "DescribeContinuousBackups";
const TURN_ON: &str = "UpdateContinuousBackups";

impl Account {
    /// Whether a table's point-in-time recovery is on.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn has_recovery(&self, table: &TableRef) -> Result<bool, Failure> {
        self.recovery(table).await.map(|recovery| recovery.is_some())
    }

    /// Between which times a table can be exported; `None`: its point-in-time recovery is off.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn recovery(&self, table: &TableRef) -> Result<Option<RecoveryWindow>, Failure> {
        let send = self.dynamodb.describe_continuous_backups().table_name(table.to_string()).send();
        let output = self.caller.typed(BACKUPS, send.boxed()).await?;
        let recovery = output.continuous_backups_description.and_then(|it| it.point_in_time_recovery_description);
        let is_on = PointInTimeRecoveryStatus::Enabled;
        let recovery = recovery.filter(|recovery| recovery.point_in_time_recovery_status.as_ref() == Some(&is_on));
        Ok(recovery.map(|recovery| RecoveryWindow {
            earliest: wall_time(recovery.earliest_restorable_date_time),
            latest: wall_time(recovery.latest_restorable_date_time),
        }))
    }

    /// Turns a table's point-in-time recovery on.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn turn_on_recovery(&self, table: &TableRef) -> Result<(), Failure> {
        let on = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build();
        let on = on.map_err(|error| broken(TURN_ON, error))?;
        let request = self.dynamodb.update_continuous_backups().table_name(table.to_string());
        let send = request.point_in_time_recovery_specification(on).send();
        self.caller.typed(TURN_ON, send.boxed()).await.map(drop)
    }

    /// Asks for an export of a table of this account. The service makes one export for each token, however often it is asked
    /// within 8 hours.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn begin_export(
        &self,
        table: &TableArn,
        bucket: &ExportBucket,
        span: ExportSpan,
        token: &str,
    ) -> Result<ExportArn, Failure> {
        let request = self.dynamodb.export_table_to_point_in_time().table_arn(table.to_string());
        let request = request
            .s3_bucket(&bucket.name)
            .set_s3_prefix(bucket.prefix.clone())
            .set_s3_bucket_owner(bucket.owner.clone())
            .export_format(types::ExportFormat::DynamodbJson)
            .client_token(token);
        let request = match &bucket.kms_key {
            Some(key) => request.s3_sse_algorithm(S3SseAlgorithm::Kms).s3_sse_kms_key_id(key),
            None => request,
        };
        let request = match span {
            ExportSpan::Window(ExportWindow { from, to }) => {
                // What an item was before is not asked for: it would be read, and never written.
                let window = types::IncrementalExportSpecification::builder()
                    .export_from_time(DateTime::from_millis(from.millis()))
                    .export_to_time(DateTime::from_millis(to.millis()))
                    .export_view_type(types::ExportViewType::NewImage);
                request
                    .export_type(types::ExportType::IncrementalExport)
                    .incremental_export_specification(window.build())
            }
            ExportSpan::Whole(Some(at)) => request.export_time(DateTime::from_millis(at.millis())),
            ExportSpan::Whole(None) => request,
        };
        let output = self.caller.typed(BEGIN, request.send().boxed()).await?;
        let arn = output.export_description.and_then(|export| export.export_arn);
        arn.and_then(|arn| arn.parse().ok()).ok_or_else(|| broken(BEGIN, "the answer has no ARN"))
    }

    /// A page of the exports of a table of this account, the incremental ones or the full ones, and where the next page
    /// begins.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn list_exports(
        &self,
        table: &TableArn,
        are_windows: bool,
        after: Option<String>,
    ) -> Result<(Vec<ExportArn>, Option<String>), Failure> {
        let request = self.dynamodb.list_exports().table_arn(table.to_string()).set_next_token(after);
        let page = self.caller.typed(LIST, request.send().boxed()).await?;
        let incremental = Some(types::ExportType::IncrementalExport);
        let is_such = |export: &types::ExportSummary| (export.export_type == incremental) == are_windows;
        let exports = page.export_summaries.unwrap_or_default().into_iter().filter(is_such);
        let exports = exports.filter_map(|export| export.export_arn?.parse().ok()).collect();
        Ok((exports, page.next_token.filter(|token| !token.is_empty())))
    }

    /// An export of a table of this account.
    ///
    /// # Errors
    /// [`Failure`]; an export that there is not, or no more, is [`Fault::Lost`](crate::error::Fault::Lost).
    pub async fn describe_export(&self, arn: &ExportArn) -> Result<ExportReport, Failure> {
        let send = self.dynamodb.describe_export().export_arn(arn.to_string()).send();
        let output = self.caller.typed(DESCRIBE, send.boxed()).await?;
        let missing = |what: &str| broken(DESCRIBE, format_args!("the answer has no {what}"));
        let export = output.export_description.ok_or_else(|| missing("description"))?;
        let status = match export.export_status {
            Some(types::ExportStatus::InProgress) => ExportStatus::InProgress,
            Some(types::ExportStatus::Completed) => ExportStatus::Completed,
            Some(types::ExportStatus::Failed) => {
                let why = [export.failure_code, export.failure_message].into_iter().flatten();
                ExportStatus::Failed(why.collect::<Vec<_>>().join(": "))
            }
            other => return Err(broken(DESCRIBE, format_args!("a status that nobody knows: {other:?}"))),
        };
        let is_json = export.export_format.is_none_or(|format| format == types::ExportFormat::DynamodbJson);
        let is_whole = is_json && export.filter_specification.is_none();
        let is_window = export.export_type == Some(types::ExportType::IncrementalExport);
        let window = export.incremental_export_specification.filter(|_| is_whole && is_window).and_then(|window| {
            Some(ExportWindow { from: wall_time(window.export_from_time)?, to: wall_time(window.export_to_time)? })
        });
        let time = wall_time;
        Ok(ExportReport {
            status,
            is_full: is_whole && export.export_type.is_none_or(|kind| kind == types::ExportType::FullExport),
            window,
            table: export.table_arn.and_then(|arn| arn.parse().ok()),
            table_id: export.table_id,
            time: time(export.export_time),
            bucket: export.s3_bucket.ok_or_else(|| missing("bucket"))?,
            prefix: export.s3_prefix.filter(|prefix| !prefix.is_empty()),
            bucket_owner: export.s3_bucket_owner.filter(|owner| !owner.is_empty()),
            manifest: export.export_manifest,
            started: time(export.start_time),
            ended: time(export.end_time),
            token: export.client_token,
        })
    }
}

fn wall_time(time: Option<DateTime>) -> Option<WallTime> {
    // A fraction is a binary number, and is cut off in two places on its way here: the nearest millisecond is what was meant.
    let nearest = |time: DateTime| {
        time.secs().saturating_mul(1000).saturating_add(i64::from((time.subsec_nanos() + 500_000) / 1_000_000))
    };
    time.map(nearest).map(WallTime::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_was_sent_comes_back() {
        for millis in (1_800_000_000_000..1_800_000_001_000).chain(1_764_345_600_000..1_764_345_601_000) {
            // As it is told in JSON.
            #[expect(clippy::cast_precision_loss, reason = "milliseconds fit")]
            let told = millis as f64 / 1000.0;
            assert_eq!(wall_time(Some(DateTime::from_secs_f64(told))), Some(WallTime::from_millis(millis)), "{told}");
            let parsed = DateTime::from_fractional_secs(millis / 1000, told.fract());
            assert_eq!(wall_time(Some(parsed)), Some(WallTime::from_millis(millis)), "{told}");
        }
    }
}
