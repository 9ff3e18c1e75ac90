//! Exports of tables to S3: asked for, found again, looked at; and the point-in-time recovery that they need.

use aws_sdk_dynamodb::types::{self, PointInTimeRecoverySpecification, PointInTimeRecoveryStatus, S3SseAlgorithm};
use aws_smithy_types::DateTime;
use futures_util::FutureExt as _;

use super::accounts::Account;
use super::fault::broken;
use crate::config::TableRef;
use crate::error::Failure;
use crate::model::{ExportArn, ExportBucket, ExportReport, ExportStatus, TableArn, WallTime};

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
        let send = self.dynamodb.describe_continuous_backups().table_name(table.to_string()).send();
        let output = self.caller.typed(BACKUPS, send.boxed()).await?;
        let recovery = output.continuous_backups_description.and_then(|it| it.point_in_time_recovery_description);
        let status = recovery.and_then(|recovery| recovery.point_in_time_recovery_status);
        Ok(status == Some(PointInTimeRecoveryStatus::Enabled))
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

    /// Asks for a full export of a table of this account as it is now. The service makes one export for each token, however
    /// often it is asked within 8 hours.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn begin_export(
        &self,
        table: &TableArn,
        bucket: &ExportBucket,
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
        let output = self.caller.typed(BEGIN, request.send().boxed()).await?;
        let arn = output.export_description.and_then(|export| export.export_arn);
        arn.and_then(|arn| arn.parse().ok()).ok_or_else(|| broken(BEGIN, "the answer has no ARN"))
    }

    /// A page of the full exports of a table of this account, and where the next page begins.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn list_exports(
        &self,
        table: &TableArn,
        after: Option<String>,
    ) -> Result<(Vec<ExportArn>, Option<String>), Failure> {
        let request = self.dynamodb.list_exports().table_arn(table.to_string()).set_next_token(after);
        let page = self.caller.typed(LIST, request.send().boxed()).await?;
        let is_full = |export: &types::ExportSummary| export.export_type != Some(types::ExportType::IncrementalExport);
        let exports = page.export_summaries.unwrap_or_default().into_iter().filter(is_full);
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
        let time = |time: Option<DateTime>| time.and_then(|time| time.to_millis().ok()).map(WallTime::from_millis);
        let is_json = export.export_format.is_none_or(|format| format == types::ExportFormat::DynamodbJson);
        Ok(ExportReport {
            status,
            is_full: is_json
                && export.filter_specification.is_none()
                && export.export_type.is_none_or(|kind| kind == types::ExportType::FullExport),
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
