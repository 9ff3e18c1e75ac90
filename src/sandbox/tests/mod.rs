//! The sandbox as SDK clients see it.

mod access;
mod buckets;
mod events;
mod faults;
mod imports;
mod items;
mod listings;
mod pages;
mod properties;
mod reading;
mod streams;
mod tables;
mod trouble;
mod windows;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_dynamodb as db;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue as Attr, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    StreamSpecification, StreamViewType,
};
use aws_sdk_dynamodbstreams as ds;
use aws_sdk_dynamodbstreams::types::{Record, Shard, ShardIteratorType};

use super::{FAULT_NAMES, FaultKind, FaultRule, Faults, Options, Sandbox, Trigger};
use crate::context::WallClock;
use crate::model::WallTime;

pub(super) const SOURCE: &str = "111122223333";
pub(super) const TARGET: &str = "444455556666";
pub(super) const REGION: &str = "eu-central-1";

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// A clock that stands still until it is moved.
pub(super) struct ManualClock(AtomicI64);

impl ManualClock {
    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl WallClock for ManualClock {
    fn now(&self) -> WallTime {
        WallTime::from_millis(self.0.load(Ordering::SeqCst))
    }
}

pub(super) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock(AtomicI64::new(1_700_000_000_000)))
}

pub(super) fn options() -> (Options, Arc<ManualClock>) {
    let clock = clock();
    let options = Options {
        clock: Arc::clone(&clock) as Arc<dyn WallClock>,
        seed: 7,
        initial_shards: 1..=1,
        split_chance: 0.0,
        ..Options::default()
    };
    (options, clock)
}

pub(super) fn sandbox() -> (Sandbox, Arc<ManualClock>) {
    let (options, clock) = options();
    (Sandbox::new(options), clock)
}

pub(super) fn key_of(account: &str) -> Credentials {
    Credentials::new(account, "secret", None, None, "test")
}

pub(super) fn database_as(sandbox: &Sandbox, credentials: Credentials) -> db::Client {
    db::Client::from_conf(
        db::Config::builder()
            .behavior_version(db::config::BehaviorVersion::latest())
            .region(db::config::Region::new(REGION))
            .credentials_provider(credentials)
            .retry_config(db::config::retry::RetryConfig::disabled())
            .http_client(sandbox.http_client())
            .build(),
    )
}

pub(super) fn database(sandbox: &Sandbox) -> db::Client {
    database_as(sandbox, key_of(SOURCE))
}

pub(super) fn streams(sandbox: &Sandbox) -> ds::Client {
    ds::Client::from_conf(
        ds::Config::builder()
            .behavior_version(ds::config::BehaviorVersion::latest())
            .region(ds::config::Region::new(REGION))
            .credentials_provider(key_of(SOURCE))
            .retry_config(ds::config::retry::RetryConfig::disabled())
            .http_client(sandbox.http_client())
            .build(),
    )
}

pub(super) fn attribute(name: &str, kind: ScalarAttributeType) -> AttributeDefinition {
    AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().unwrap()
}

pub(super) fn key_element(name: &str, role: KeyType) -> KeySchemaElement {
    KeySchemaElement::builder().attribute_name(name).key_type(role).build().unwrap()
}

/// A table with the partition key `id`, a string, and a stream with both images.
pub(super) async fn create(client: &db::Client, table: &str) -> String {
    let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::NewAndOldImages);
    let created = client
        .create_table()
        .table_name(table)
        .attribute_definitions(attribute("id", ScalarAttributeType::S))
        .key_schema(key_element("id", KeyType::Hash))
        .billing_mode(BillingMode::PayPerRequest)
        .stream_specification(stream.build().unwrap())
        .send()
        .await
        .unwrap();
    created.table_description.unwrap().latest_stream_arn.unwrap()
}

pub(super) fn s(text: &str) -> Attr {
    Attr::S(text.to_owned())
}

pub(super) fn n(text: &str) -> Attr {
    Attr::N(text.to_owned())
}

pub(super) fn item(id: &str, more: &[(&str, Attr)]) -> HashMap<String, Attr> {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    std::iter::once(("id".to_owned(), s(id))).chain(more).collect()
}

pub(super) async fn put(client: &db::Client, table: &str, id: &str, value: &str) {
    client.put_item().table_name(table).set_item(Some(item(id, &[("v", s(value))]))).send().await.unwrap();
}

/// The error's code, of a call that must fail.
pub(super) fn code<T: std::fmt::Debug, E: ProvideErrorMetadata>(result: Result<T, E>) -> String {
    result.unwrap_err().code().unwrap_or_default().to_owned()
}

/// All shards that are listed.
pub(super) async fn shards(client: &ds::Client, arn: &str) -> Vec<Shard> {
    let mut shards = Vec::new();
    let mut after = None;
    loop {
        let page = client.describe_stream().stream_arn(arn).set_exclusive_start_shard_id(after).send().await.unwrap();
        let page = page.stream_description.unwrap();
        shards.extend(page.shards.unwrap_or_default());
        after = page.last_evaluated_shard_id;
        if after.is_none() {
            return shards;
        }
    }
}

pub(super) async fn horizon(client: &ds::Client, arn: &str, shard: &str) -> String {
    let iterator = client.get_shard_iterator().stream_arn(arn).shard_id(shard);
    iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap().shard_iterator.unwrap()
}

/// Reads a shard until it ends, or an empty page says that it is at its tip.
pub(super) async fn read(client: &ds::Client, mut iterator: String) -> (Vec<Record>, Option<String>) {
    let mut records = Vec::new();
    loop {
        let page = client.get_records().shard_iterator(iterator).send().await.unwrap();
        let found = page.records.unwrap_or_default();
        let at_tip = found.is_empty();
        records.extend(found);
        match page.next_shard_iterator {
            Some(next) if !at_tip => iterator = next,
            next => return (records, next),
        }
    }
}

pub(super) fn id_of(record: &Record) -> String {
    record.dynamodb().unwrap().keys().unwrap()["id"].as_s().unwrap().clone()
}

pub(super) fn value_of(record: &Record) -> String {
    record.dynamodb().unwrap().new_image().unwrap()["v"].as_s().unwrap().clone()
}

/// Makes the next request to an operation go wrong.
pub(super) fn next(sandbox: &Sandbox, operation: &str, kind: FaultKind) {
    sandbox.set_faults(Faults::new(vec![FaultRule::new(operation, Trigger::Next(1), kind)]));
}

/// How often a kind of fault happened.
pub(super) fn count(sandbox: &Sandbox, kind: &str) -> u64 {
    assert!(FAULT_NAMES.contains(&kind), "{kind}");
    sandbox.fault_counts().get(kind).copied().unwrap_or(0)
}
