//! DescribeTable → [`TableDescription`].

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    self, AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ProjectionType, ScalarAttributeType, SseType,
    StreamViewType,
};
use futures_util::FutureExt as _;

use super::call::Caller;
use super::fault::broken;
use crate::error::Failure;
use crate::model::{
    Billing, Encryption, Index, KeyAttribute, KeyKind, KeySchema, Projection, StreamArn, TableDescription, TableStatus,
    TableStream, ViewType,
};

const DESCRIBE: &str = "DescribeTable";

/// What the service says of a table, given by name or ARN.
pub(super) async fn describe(client: &Client, caller: &Caller, table: &str) -> Result<TableDescription, Failure> {
    let output = caller.typed(DESCRIBE, client.describe_table().table_name(table).send().boxed()).await?;
    table_description(output.table().ok_or_else(|| broken(DESCRIBE, "no table description"))?)
}

pub(super) fn table_description(table: &types::TableDescription) -> Result<TableDescription, Failure> {
    let arn = table.table_arn().unwrap_or_default();
    let attributes = attributes(table.attribute_definitions())?;
    Ok(TableDescription {
        arn: arn.parse().map_err(|error| broken(DESCRIBE, error))?,
        id: table.table_id().unwrap_or_default().to_owned(),
        status: table_status(table.table_status()),
        keys: key_schema(table.key_schema(), &attributes)?,
        item_count: units(table.item_count()),
        size_bytes: units(table.table_size_bytes()),
        billing: billing(table),
        global_indexes: global_indexes(table),
        local_indexes: local_indexes(table),
        stream: stream(table)?,
        table_class: table
            .table_class_summary()
            .and_then(types::TableClassSummary::table_class)
            .filter(|class| **class != types::TableClass::Standard)
            .map(|class| class.as_str().to_owned()),
        encryption: table
            .sse_description()
            .filter(|sse| sse.sse_type() == Some(&SseType::Kms) || sse.kms_master_key_arn().is_some())
            .map(|sse| Encryption { kms_key_arn: sse.kms_master_key_arn().map(str::to_owned) }),
        deletion_protection: table.deletion_protection_enabled().unwrap_or(false),
        not_copied: not_copied(table),
        attributes,
    })
}

/// A count that the service tells as a signed number; absent and -1 ("no limit") are zero.
fn units(value: Option<i64>) -> u64 {
    value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0)
}

/// A limit: absent, zero and -1 are none.
fn limit(value: Option<i64>) -> Option<u64> {
    Some(units(value)).filter(|units| *units > 0)
}

fn table_status(status: Option<&types::TableStatus>) -> TableStatus {
    match status {
        Some(types::TableStatus::Creating) => TableStatus::Creating,
        Some(types::TableStatus::Updating) => TableStatus::Updating,
        Some(types::TableStatus::Active) => TableStatus::Active,
        Some(other) => TableStatus::Other(other.as_str().to_owned()),
        None => TableStatus::Other("unknown".to_owned()),
    }
}

fn attributes(definitions: &[AttributeDefinition]) -> Result<Vec<(String, KeyKind)>, Failure> {
    let kind = |definition: &AttributeDefinition| match definition.attribute_type() {
        ScalarAttributeType::S => Ok(KeyKind::S),
        ScalarAttributeType::N => Ok(KeyKind::N),
        ScalarAttributeType::B => Ok(KeyKind::B),
        other => Err(broken(DESCRIBE, format_args!("key attribute of type {:?}", other.as_str()))),
    };
    definitions.iter().map(|each| Ok((each.attribute_name().to_owned(), kind(each)?))).collect()
}

fn key_schema(elements: &[KeySchemaElement], attributes: &[(String, KeyKind)]) -> Result<KeySchema, Failure> {
    let attribute = |name: &String| {
        let kind = attributes.iter().find(|(defined, _)| defined == name).map(|(_, kind)| *kind);
        let kind = kind.ok_or_else(|| broken(DESCRIBE, format_args!("key attribute {name:?} is not defined")))?;
        Ok(KeyAttribute { name: name.clone(), kind })
    };
    let (hash, range) = split_keys(elements);
    match (hash.as_slice(), range.as_slice()) {
        ([hash], []) => Ok(KeySchema { hash: attribute(hash)?, range: None }),
        ([hash], [range]) => Ok(KeySchema { hash: attribute(hash)?, range: Some(attribute(range)?) }),
        (hash, range) => {
            Err(broken(DESCRIBE, format_args!("a key of {} hash and {} range attributes", hash.len(), range.len())))
        }
    }
}

/// Hash and range attributes, each in the order of the schema.
fn split_keys(elements: &[KeySchemaElement]) -> (Vec<String>, Vec<String>) {
    let of = |kind: KeyType| {
        let named = elements.iter().filter(|element| *element.key_type() == kind);
        named.map(|element| element.attribute_name().to_owned()).collect()
    };
    (of(KeyType::Hash), of(KeyType::Range))
}

/// A table that was never on demand has no billing summary. Source: DynamoDB API reference, `TableDescription`.
fn is_on_demand(table: &types::TableDescription) -> bool {
    let summary = table.billing_mode_summary().and_then(types::BillingModeSummary::billing_mode);
    summary == Some(&BillingMode::PayPerRequest)
}

fn billing(table: &types::TableDescription) -> Billing {
    if is_on_demand(table) {
        let warm = table.warm_throughput();
        let ceiling = table.on_demand_throughput();
        return Billing::OnDemand {
            warm_read: limit(warm.and_then(types::TableWarmThroughputDescription::read_units_per_second)),
            warm_write: limit(warm.and_then(types::TableWarmThroughputDescription::write_units_per_second)),
            max_read: limit(ceiling.and_then(types::OnDemandThroughput::max_read_request_units)),
            max_write: limit(ceiling.and_then(types::OnDemandThroughput::max_write_request_units)),
        };
    }
    let (read, write) = provisioned(table.provisioned_throughput()).unwrap_or((0, 0));
    Billing::Provisioned { read, write }
}

fn provisioned(throughput: Option<&types::ProvisionedThroughputDescription>) -> Option<(u64, u64)> {
    throughput.map(|units_of| (units(units_of.read_capacity_units()), units(units_of.write_capacity_units())))
}

fn projection(projection: Option<&types::Projection>) -> Projection {
    match projection.and_then(types::Projection::projection_type) {
        Some(ProjectionType::KeysOnly) => Projection::KeysOnly,
        Some(ProjectionType::Include) => {
            Projection::Include(projection.map(|p| p.non_key_attributes().to_vec()).unwrap_or_default())
        }
        _ => Projection::All,
    }
}

fn global_indexes(table: &types::TableDescription) -> Vec<Index> {
    let live =
        |index: &&types::GlobalSecondaryIndexDescription| index.index_status() != Some(&types::IndexStatus::Deleting);
    let read = |index: &types::GlobalSecondaryIndexDescription| {
        let (hash, range) = split_keys(index.key_schema());
        let ceiling = index.on_demand_throughput();
        Index {
            name: index.index_name().unwrap_or_default().to_owned(),
            hash,
            range,
            projection: projection(index.projection()),
            provisioned: provisioned(index.provisioned_throughput()).filter(|_| !is_on_demand(table)),
            on_demand_max: (
                limit(ceiling.and_then(types::OnDemandThroughput::max_read_request_units)),
                limit(ceiling.and_then(types::OnDemandThroughput::max_write_request_units)),
            ),
        }
    };
    table.global_secondary_indexes().iter().filter(live).map(read).collect()
}

fn local_indexes(table: &types::TableDescription) -> Vec<Index> {
    let read = |index: &types::LocalSecondaryIndexDescription| {
        let (hash, range) = split_keys(index.key_schema());
        Index {
            name: index.index_name().unwrap_or_default().to_owned(),
            hash,
            range,
            projection: projection(index.projection()),
            provisioned: None,
            on_demand_max: (None, None),
        }
    };
    table.local_secondary_indexes().iter().map(read).collect()
}

fn stream(table: &types::TableDescription) -> Result<Option<TableStream>, Failure> {
    let Some(arn) = table.latest_stream_arn() else { return Ok(None) };
    let specification = table.stream_specification();
    let enabled = specification.is_some_and(types::StreamSpecification::stream_enabled);
    let view = match specification.and_then(types::StreamSpecification::stream_view_type) {
        None => None,
        Some(StreamViewType::KeysOnly) => Some(ViewType::KeysOnly),
        Some(StreamViewType::NewImage) => Some(ViewType::NewImage),
        Some(StreamViewType::OldImage) => Some(ViewType::OldImage),
        Some(StreamViewType::NewAndOldImages) => Some(ViewType::NewAndOldImages),
        Some(other) => return Err(broken(DESCRIBE, format_args!("stream view {:?}", other.as_str()))),
    };
    Ok(Some(TableStream { arn: StreamArn(arn.to_owned()), view: view.filter(|_| enabled), enabled }))
}

/// What no copy carries over.
fn not_copied(table: &types::TableDescription) -> Vec<String> {
    let replicas = table.replicas().iter().filter_map(|replica| replica.region_name());
    let witnesses = table.global_table_witnesses().iter().filter_map(|witness| witness.region_name());
    let vectors = table.vector_indexes().iter().filter_map(|index| index.index_name());
    let mut left: Vec<String> = replicas.map(|region| format!("global table replica in {region}")).collect();
    left.extend(witnesses.map(|region| format!("global table witness in {region}")));
    left.extend(vectors.map(|name| format!("vector index {name}")));
    if table.multi_region_consistency() == Some(&types::MultiRegionConsistency::Strong) {
        left.push("multi-Region strong consistency".to_owned());
    }
    left
}
