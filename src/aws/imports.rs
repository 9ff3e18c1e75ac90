//! Imports of tables from S3: asked for, found again, looked at; and what an import cannot give its table.

use aws_sdk_dynamodb::types::{
    self, BillingMode, InputCompressionType, InputFormat, S3BucketSource, SseSpecification, SseType,
    TableCreationParameters, Tag,
};
use aws_smithy_types::DateTime;
use futures_util::FutureExt as _;

use super::accounts::Account;
use super::create::{
    self, Patience, attributes, global_index, is_managed_key, is_reserved, key_schema, on_demand, provisioned,
};
use super::fault::broken;
use crate::config::TableRef;
use crate::error::{Failure, Fault};
use crate::model::{Billing, ImportArn, ImportReport, ImportStatus, TableArn, TableDescription, TableStatus, WallTime};

const IMPORT: &str = "ImportTable";
const DESCRIBE: &str = "DescribeImport";
const LIST: &str = "ListImports";
const UPDATE: &str = "UpdateTable";
const TAG: &str = "TagResource";
const DELETE: &str = "DeleteTable";

/// Some items were refused, and all others are in the table. Source: Developer Guide, import format quotas and validation.
const ITEMS_REFUSED: &str = "ItemValidationError";

/// What an import reads: gzip files of DynamoDB JSON.
#[derive(Debug, Clone, Copy)]
pub struct ImportFiles<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// The account that owns it; `None`: the importing one.
    pub owner: Option<&'a str>,
    /// What all of their keys begin with.
    pub prefix: &'a str,
}

impl Account {
    /// Asks for an import into a new table of this account and Region, with the keys, global indexes, billing and encryption
    /// of another table. The service makes one import for each token, however often it is asked within 8 hours.
    ///
    /// # Errors
    /// [`Failure`]; with `ResourceInUseException` where there is a table of this name.
    pub async fn begin_import(
        &self,
        name: &str,
        like: &TableDescription,
        files: ImportFiles<'_>,
        token: &str,
    ) -> Result<ImportArn, Failure> {
        let source = S3BucketSource::builder()
            .s3_bucket(files.bucket)
            .set_s3_bucket_owner(files.owner.map(str::to_owned))
            .s3_key_prefix(files.prefix)
            .build()
            .map_err(|error| broken(IMPORT, error))?;
        let request = self
            .dynamodb
            .import_table()
            .s3_bucket_source(source)
            .input_format(InputFormat::DynamodbJson)
            .input_compression_type(InputCompressionType::Gzip)
            .table_creation_parameters(parameters(name, like)?)
            .client_token(token);
        let output = self.caller.typed(IMPORT, request.send().boxed()).await.map_err(|failure| taken(name, failure))?;
        let arn = output.import_table_description.and_then(|import| import.import_arn);
        arn.and_then(|arn| arn.parse().ok()).ok_or_else(|| broken(IMPORT, "the answer has no ARN"))
    }

    /// A page of the imports of a table of this account, and where the next page begins.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn list_imports(
        &self,
        table: &TableArn,
        after: Option<String>,
    ) -> Result<(Vec<ImportArn>, Option<String>), Failure> {
        let request = self.dynamodb.list_imports().table_arn(table.to_string()).set_next_token(after);
        let page = self.caller.typed(LIST, request.send().boxed()).await?;
        let imports = page.import_summary_list.unwrap_or_default().into_iter();
        let imports = imports.filter_map(|import| import.import_arn?.parse().ok()).collect();
        Ok((imports, page.next_token.filter(|token| !token.is_empty())))
    }

    /// An import of this account.
    ///
    /// # Errors
    /// [`Failure`]; an import that there is not, or no more, is [`Fault::Lost`].
    pub async fn describe_import(&self, arn: &ImportArn) -> Result<ImportReport, Failure> {
        let send = self.dynamodb.describe_import().import_arn(arn.to_string()).send();
        let output = self.caller.typed(DESCRIBE, send.boxed()).await?;
        let import = output.import_table_description;
        let import = import.ok_or_else(|| broken(DESCRIBE, "the answer has no description"))?;
        let why = || [import.failure_code.clone(), import.failure_message.clone()].into_iter().flatten();
        let failed = |what: &str| {
            let why = why().collect::<Vec<_>>().join(": ");
            ImportStatus::Failed(if why.is_empty() { what.to_owned() } else { why })
        };
        let status = match &import.import_status {
            Some(types::ImportStatus::InProgress | types::ImportStatus::Cancelling) => ImportStatus::InProgress,
            Some(types::ImportStatus::Completed) if import.error_count > 0 => ImportStatus::Incomplete,
            Some(types::ImportStatus::Completed) => ImportStatus::Completed,
            Some(types::ImportStatus::Failed) if import.failure_code.as_deref() == Some(ITEMS_REFUSED) => {
                ImportStatus::Incomplete
            }
            Some(types::ImportStatus::Failed) => failed("it does not say why"),
            Some(types::ImportStatus::Cancelled) => failed("it was cancelled"),
            other => return Err(broken(DESCRIBE, format_args!("a status that nobody knows: {other:?}"))),
        };
        let time = |time: Option<DateTime>| time.and_then(|time| time.to_millis().ok()).map(WallTime::from_millis);
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        Ok(ImportReport {
            status,
            table_id: import.table_id.filter(|id| !id.is_empty()),
            token: import.client_token,
            started: time(import.start_time),
            ended: time(import.end_time),
            processed_bytes: count(import.processed_size_bytes.unwrap_or(0)),
            imported_items: count(import.imported_item_count),
            errors: count(import.error_count),
            log_group: import.cloud_watch_log_group_arn,
        })
    }

    /// Gives an imported table what an import cannot: the tags, class and deletion protection of another. What it has already
    /// is left as it is, so this may be repeated. Answers in which respects it is not like the other.
    ///
    /// # Errors
    /// [`Failure`]; `Transient` where a change has not taken effect in time.
    pub async fn finish_import(
        &self,
        table: &TableDescription,
        like: &TableDescription,
        tags: &[(String, String)],
        patience: Patience,
    ) -> Result<Vec<String>, Failure> {
        let name = TableRef::Name(table.arn.name.clone());
        let wanted: Vec<_> = tags.iter().filter(|(key, _)| !is_reserved(key)).collect();
        if !wanted.is_empty() {
            let tag = |(key, value): &&(String, String)| Tag::builder().key(key).value(value).build();
            let tags = wanted.iter().map(tag).collect::<Result<Vec<_>, _>>().map_err(|error| broken(TAG, error))?;
            let request = self.dynamodb.tag_resource().resource_arn(table.arn.to_string()).set_tags(Some(tags));
            self.caller.typed(TAG, request.send().boxed()).await?;
        }
        if let Some(class) = like.table_class.as_deref().filter(|class| table.table_class.as_deref() != Some(*class)) {
            let request = self.dynamodb.update_table().table_name(name.to_string()).table_class(class.into());
            self.caller.typed(UPDATE, request.send().boxed()).await?;
            let has_class = |now: &TableDescription| now.table_class.as_deref() == Some(class);
            self.wait(UPDATE, &name, patience, |now| has_class(now) && now.status == TableStatus::Active).await?;
        }
        if like.deletion_protection && !table.deletion_protection {
            let request = self.dynamodb.update_table().table_name(name.to_string());
            self.caller.typed(UPDATE, request.deletion_protection_enabled(true).send().boxed()).await?;
            let is_done = |now: &TableDescription| now.deletion_protection && now.status == TableStatus::Active;
            self.wait(UPDATE, &name, patience, is_done).await?;
        }
        Ok(create::what_differs(like, tags))
    }

    /// Deletes a table of this account. It is gone some time after this.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn delete_table(&self, name: &str) -> Result<(), Failure> {
        self.caller.typed(DELETE, self.dynamodb.delete_table().table_name(name).send().boxed()).await.map(drop)
    }
}

/// A name or a token that is taken will be so when it is asked for again.
fn taken(name: &str, failure: Failure) -> Failure {
    match failure.code.as_deref() {
        Some("ImportConflictException") => Failure { fault: Fault::Rejected, throttled: false, ..failure },
        _ => create::already_there(name, failure),
    }
}

/// The new table, as far as an import can define it.
fn parameters(name: &str, like: &TableDescription) -> Result<TableCreationParameters, Failure> {
    let keys = &like.keys;
    let hash = std::slice::from_ref(&keys.hash.name);
    let range: Vec<String> = keys.range.iter().map(|range| range.name.clone()).collect();
    let indexes = like.global_indexes.iter().map(|index| global_index(index, &like.billing));
    let indexes = indexes.collect::<Result<Vec<_>, _>>()?;
    let builder = TableCreationParameters::builder()
        .table_name(name)
        .set_key_schema(Some(key_schema(hash, &range)?))
        .set_attribute_definitions(Some(attributes(like)?))
        .set_global_secondary_indexes(Some(indexes).filter(|indexes| !indexes.is_empty()));
    let mut builder = match like.billing {
        Billing::OnDemand { max_read, max_write, .. } => {
            builder.billing_mode(BillingMode::PayPerRequest).set_on_demand_throughput(on_demand(max_read, max_write))
        }
        Billing::Provisioned { read, write } => {
            builder.billing_mode(BillingMode::Provisioned).provisioned_throughput(provisioned(read, write)?)
        }
    };
    if like.encryption.as_ref().is_some_and(is_managed_key) {
        builder = builder.sse_specification(SseSpecification::builder().enabled(true).sse_type(SseType::Kms).build());
    }
    builder.build().map_err(|error| broken(IMPORT, error))
}
