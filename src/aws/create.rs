//! What is changed about tables as a whole: make one like another, turn a stream on. And what is read besides
//! DescribeTable: names, tags, time to live.
//!
//! Each change is one request, followed by polling until it has taken effect. What a copy cannot have is left out and
//! said in [`Created::notes`], never guessed.

use std::time::Duration;

use aws_sdk_dynamodb::operation::create_table::builders::CreateTableFluentBuilder;
use aws_sdk_dynamodb::types::{
    self, AttributeDefinition, BillingMode, KeySchemaElement, KeyType, OnDemandThroughput, ProjectionType,
    ProvisionedThroughput, ScalarAttributeType, SseSpecification, SseType, StreamSpecification, StreamViewType, Tag,
    TimeToLiveStatus,
};
use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::accounts::Account;
use super::fault::broken;
use super::schema;
use crate::config::TableRef;
use crate::error::{Failure, Fault};
use crate::model::{Billing, Encryption, Index, KeyKind, Projection, TableDescription, TableStatus};

const CREATE: &str = "CreateTable";
const UPDATE: &str = "UpdateTable";
const LIST: &str = "ListTables";
const TAGS: &str = "ListTagsOfResource";
const TTL: &str = "DescribeTimeToLive";

/// Pages of a paged call at most. The quotas are 10,000 tables (100 a page) and 50 tags; this ends a cursor that never does.
const MAX_PAGES: usize = 1_000;

/// How long a change is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// In all.
    pub limit: Duration,
    /// From one look to the next.
    pub poll: Duration,
}

impl Default for Patience {
    /// Ten minutes, every two seconds: a table takes seconds, one with many indexes a few minutes.
    fn default() -> Self {
        Self { limit: Duration::from_secs(600), poll: Duration::from_secs(2) }
    }
}

/// A table that was made after another.
#[derive(Debug, Clone)]
pub struct Created {
    /// What it is.
    pub description: TableDescription,
    /// In which respects it is not like the other, and why: a line each.
    pub notes: Vec<String>,
}

impl Account {
    /// Makes a table in this account with the keys, indexes, billing, class, encryption and deletion protection of
    /// another, its stream and time to live off; waits until it is active.
    ///
    /// # Errors
    /// [`Failure`]; `Rejected` with `ResourceInUseException` where a table of this name is already there (maybe by an
    /// earlier call whose answer was lost: compare its description); `Transient` where it was made, and is not active
    /// in time.
    pub async fn create_table(
        &self,
        name: &str,
        from: &TableDescription,
        tags: &[(String, String)],
        patience: Patience,
    ) -> Result<Created, Failure> {
        let notes = what_differs(from, tags);
        let request = create_request(self.dynamodb.create_table().table_name(name), from, tags)?;
        self.caller.typed(CREATE, request.send().boxed()).await.map_err(|failure| already_there(name, failure))?;
        let table = TableRef::Name(name.to_owned());
        let description = self.wait(CREATE, &table, patience, |table| table.status == TableStatus::Active).await?;
        Ok(Created { description, notes })
    }

    /// Turns a table's stream on, with both images; waits until the table says so. A stream that is on is left as it is.
    ///
    /// # Errors
    /// [`Failure`]; `Transient` where it is not on in time.
    pub async fn enable_stream(&self, table: &TableRef, patience: Patience) -> Result<TableDescription, Failure> {
        let is_on = |table: &TableDescription| table.stream.as_ref().is_some_and(|stream| stream.enabled);
        let now = self.describe(table).await?;
        if is_on(&now) {
            return Ok(now);
        }
        let stream =
            StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::NewAndOldImages);
        let stream = stream.build().map_err(|error| broken(UPDATE, error))?;
        let send = self.dynamodb.update_table().table_name(table.to_string()).stream_specification(stream).send();
        self.caller.typed(UPDATE, send.boxed()).await?;
        self.wait(UPDATE, table, patience, |table| is_on(table) && table.status == TableStatus::Active).await
    }

    /// Waits until a table is active.
    ///
    /// # Errors
    /// [`Failure`]; `Transient` where it is not in time.
    pub async fn wait_until_active(&self, table: &TableRef, patience: Patience) -> Result<TableDescription, Failure> {
        self.wait("DescribeTable", table, patience, |table| table.status == TableStatus::Active).await
    }

    /// The names of all tables of this account and Region.
    ///
    /// # Errors
    /// [`Failure`]; never a part of the list.
    pub async fn list_tables(&self) -> Result<Vec<String>, Failure> {
        let (mut names, mut after) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let send = self.dynamodb.list_tables().set_exclusive_start_table_name(after).send();
            let page = self.caller.typed(LIST, send.boxed()).await?;
            names.extend(page.table_names.unwrap_or_default());
            after = page.last_evaluated_table_name.filter(|name| !name.is_empty());
            if after.is_none() {
                return Ok(names);
            }
        }
        Err(broken(LIST, format_args!("no end after {MAX_PAGES} pages")))
    }

    /// A table's tags.
    ///
    /// # Errors
    /// [`Failure`]; never a part of them.
    pub async fn list_tags(&self, table: &TableDescription) -> Result<Vec<(String, String)>, Failure> {
        let (mut tags, mut after) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let request = self.dynamodb.list_tags_of_resource().resource_arn(table.arn.to_string());
            let page = self.caller.typed(TAGS, request.set_next_token(after).send().boxed()).await?;
            tags.extend(page.tags.unwrap_or_default().into_iter().map(|tag| (tag.key, tag.value)));
            after = page.next_token.filter(|token| !token.is_empty());
            if after.is_none() {
                return Ok(tags);
            }
        }
        Err(broken(TAGS, format_args!("no end after {MAX_PAGES} pages")))
    }

    /// The attribute by which the service deletes items: where that is on or being turned on, and also while it is being
    /// turned off, which takes up to an hour. Source: API reference, `UpdateTimeToLive`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn time_to_live(&self, table: &TableRef) -> Result<Option<String>, Failure> {
        let send = self.dynamodb.describe_time_to_live().table_name(table.to_string()).send();
        let output = self.caller.typed(TTL, send.boxed()).await?;
        let works = |ttl: &types::TimeToLiveDescription| {
            matches!(
                ttl.time_to_live_status(),
                Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling | TimeToLiveStatus::Disabling)
            )
        };
        Ok(output.time_to_live_description.filter(works).and_then(|ttl| ttl.attribute_name))
    }

    /// Looks until the table is as wanted. A table that was just made may not be found yet, and failures that pass are
    /// waited out, too.
    pub(super) async fn wait(
        &self,
        operation: &'static str,
        table: &TableRef,
        patience: Patience,
        is_done: impl Fn(&TableDescription) -> bool,
    ) -> Result<TableDescription, Failure> {
        let until = Instant::now() + patience.limit;
        let reference = table.to_string();
        loop {
            match schema::describe(&self.dynamodb, &self.caller, &reference).await {
                Ok(description) if is_done(&description) => return Ok(description),
                Ok(_) => {}
                Err(failure) if failure.fault == Fault::Transient || is_not_found(&failure) => {}
                Err(failure) => return Err(failure),
            }
            if Instant::now() + patience.poll > until {
                let message = format!("table {} is not ready after {:?}", table.name(), patience.limit);
                return Err(Failure { fault: Fault::Transient, message, ..broken(operation, "") });
            }
            tokio::time::sleep(patience.poll).await;
        }
    }
}

fn is_not_found(failure: &Failure) -> bool {
    failure.code.as_deref() == Some("ResourceNotFoundException")
}

pub(super) fn already_there(name: &str, failure: Failure) -> Failure {
    if failure.code.as_deref() != Some("ResourceInUseException") {
        return failure;
    }
    let message = format!("a table named {name} is already there");
    Failure { fault: Fault::Rejected, throttled: false, message, ..failure }
}

fn create_request(
    request: CreateTableFluentBuilder,
    from: &TableDescription,
    tags: &[(String, String)],
) -> Result<CreateTableFluentBuilder, Failure> {
    let keys = &from.keys;
    let hash = std::slice::from_ref(&keys.hash.name);
    let range: Vec<String> = keys.range.iter().map(|range| range.name.clone()).collect();
    let mut request = request
        .set_key_schema(Some(key_schema(hash, &range)?))
        .set_attribute_definitions(Some(attributes(from)?))
        .deletion_protection_enabled(from.deletion_protection)
        .set_table_class(from.table_class.as_deref().map(types::TableClass::from));
    for index in &from.local_indexes {
        request = request.local_secondary_indexes(local_index(index)?);
    }
    for index in &from.global_indexes {
        request = request.global_secondary_indexes(global_index(index, &from.billing)?);
    }
    request = match from.billing {
        Billing::OnDemand { max_read, max_write, .. } => {
            request.billing_mode(BillingMode::PayPerRequest).set_on_demand_throughput(on_demand(max_read, max_write))
        }
        Billing::Provisioned { read, write } => {
            request.billing_mode(BillingMode::Provisioned).provisioned_throughput(provisioned(read, write)?)
        }
    };
    if from.encryption.as_ref().is_some_and(is_managed_key) {
        // No key id: the key that the service manages in the new table's own account.
        request = request.sse_specification(SseSpecification::builder().enabled(true).sse_type(SseType::Kms).build());
    }
    for (key, value) in tags.iter().filter(|(key, _)| !is_reserved(key)) {
        let tag = Tag::builder().key(key).value(value).build().map_err(|error| broken(CREATE, error))?;
        request = request.tags(tag);
    }
    Ok(request)
}

/// Tags of AWS's own cannot be set. Source: Developer Guide, tagging restrictions.
pub(super) fn is_reserved(tag: &str) -> bool {
    tag.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("aws:"))
}

/// Whether the key is the one that the service manages in each account (`aws/dynamodb`). DescribeTable gives that one's
/// ARN like that of any other key; only kms:DescribeKey would tell, which is not asked for.
pub(super) fn is_managed_key(encryption: &Encryption) -> bool {
    encryption.kms_key_arn.as_deref().is_none_or(|arn| arn.ends_with(":alias/aws/dynamodb"))
}

/// What a new table, made after this one, will not have.
pub(super) fn what_differs(from: &TableDescription, tags: &[(String, String)]) -> Vec<String> {
    let mut notes: Vec<String> = from.not_copied.iter().map(|what| format!("{what} is not copied")).collect();
    if let Some(encryption) = from.encryption.as_ref().filter(|encryption| !is_managed_key(encryption)) {
        let key = encryption.kms_key_arn.as_deref().unwrap_or_default();
        notes.push(format!(
            "encryption under KMS key {key} is not copied, because a key belongs to its account, and the service does not \
             tell whether this one is yours or aws/dynamodb: the copy is encrypted under a key that AWS owns; for another \
             one: aws dynamodb update-table --sse-specification, at any time"
        ));
    }
    if let Billing::OnDemand { warm_read, warm_write, .. } = from.billing {
        let (read, write) = (warm_read.unwrap_or(0), warm_write.unwrap_or(0));
        if read > DEFAULT_WARM.0 || write > DEFAULT_WARM.1 {
            notes.push(format!(
                "warm throughput ({read} reads/s, {write} writes/s) is not copied, because it is charged"
            ));
        }
    }
    let reserved = tags.iter().filter(|(key, _)| is_reserved(key));
    notes.extend(reserved.map(|(key, _)| format!("tag {key} is not copied, because AWS alone sets such tags")));
    notes
}

/// Reads and writes per second that each new on-demand table serves. Source: Developer Guide, on-demand capacity mode.
const DEFAULT_WARM: (u64, u64) = (12_000, 4_000);

/// Those that a key of the table or of an index names: any other is refused.
pub(super) fn attributes(from: &TableDescription) -> Result<Vec<AttributeDefinition>, Failure> {
    let of_indexes = from.local_indexes.iter().chain(&from.global_indexes);
    let named: Vec<&String> = from
        .keys
        .attributes()
        .map(|attribute| &attribute.name)
        .chain(of_indexes.flat_map(|index| index.hash.iter().chain(&index.range)))
        .collect();
    let define = |(name, kind): &(String, KeyKind)| {
        let kind = match kind {
            KeyKind::S => ScalarAttributeType::S,
            KeyKind::N => ScalarAttributeType::N,
            KeyKind::B => ScalarAttributeType::B,
        };
        let definition = AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build();
        definition.map_err(|error| broken(CREATE, error))
    };
    from.attributes.iter().filter(|(name, _)| named.contains(&name)).map(define).collect()
}

pub(super) fn key_schema(hash: &[String], range: &[String]) -> Result<Vec<KeySchemaElement>, Failure> {
    let hash = hash.iter().map(|name| (name, KeyType::Hash));
    let all = hash.chain(range.iter().map(|name| (name, KeyType::Range)));
    let element = |(name, kind)| {
        let element = KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
        element.map_err(|error| broken(CREATE, error))
    };
    all.map(element).collect()
}

fn projection(projection: &Projection) -> types::Projection {
    let builder = types::Projection::builder();
    match projection {
        Projection::All => builder.projection_type(ProjectionType::All),
        Projection::KeysOnly => builder.projection_type(ProjectionType::KeysOnly),
        Projection::Include(names) => {
            builder.projection_type(ProjectionType::Include).set_non_key_attributes(Some(names.clone()))
        }
    }
    .build()
}

fn local_index(index: &Index) -> Result<types::LocalSecondaryIndex, Failure> {
    let index = types::LocalSecondaryIndex::builder()
        .index_name(&index.name)
        .set_key_schema(Some(key_schema(&index.hash, &index.range)?))
        .projection(projection(&index.projection))
        .build();
    index.map_err(|error| broken(CREATE, error))
}

pub(super) fn global_index(index: &Index, billing: &Billing) -> Result<types::GlobalSecondaryIndex, Failure> {
    let mut builder = types::GlobalSecondaryIndex::builder()
        .index_name(&index.name)
        .set_key_schema(Some(key_schema(&index.hash, &index.range)?))
        .projection(projection(&index.projection));
    builder = match billing {
        Billing::OnDemand { .. } => {
            builder.set_on_demand_throughput(on_demand(index.on_demand_max.0, index.on_demand_max.1))
        }
        Billing::Provisioned { .. } => {
            let (read, write) = index.provisioned.unwrap_or((1, 1));
            builder.provisioned_throughput(provisioned(read, write)?)
        }
    };
    builder.build().map_err(|error| broken(CREATE, error))
}

/// Units are 1 at least.
pub(super) fn provisioned(read: u64, write: u64) -> Result<ProvisionedThroughput, Failure> {
    let units = |units: u64| i64::try_from(units.max(1)).unwrap_or(i64::MAX);
    let throughput =
        ProvisionedThroughput::builder().read_capacity_units(units(read)).write_capacity_units(units(write)).build();
    throughput.map_err(|error| broken(CREATE, error))
}

pub(super) fn on_demand(max_read: Option<u64>, max_write: Option<u64>) -> Option<OnDemandThroughput> {
    let units = |max: Option<u64>| max.and_then(|max| i64::try_from(max).ok());
    (max_read.is_some() || max_write.is_some()).then(|| {
        OnDemandThroughput::builder()
            .set_max_read_request_units(units(max_read))
            .set_max_write_request_units(units(max_write))
            .build()
    })
}
