//! The sandbox as SDK clients see it.

mod access;
mod events;
mod faults;
mod items;
mod pages;
mod properties;
mod streams;
mod tables;

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

use super::{Options, Sandbox};
use crate::context::WallClock;
use crate::model::WallTime;

pub(super) const SOURCE: &str = "111122223333";
pub(super) const TARGET: &str = "444455556666";
pub(super) const REGION: &str = "eu-central-1";

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
