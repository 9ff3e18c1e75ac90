//! The straightforward loop over the SDK's own types, with its default settings: read a page, keep the newest change of
//! each key, write batches of 25, 16 in flight.

use std::collections::HashMap;
use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::types::{AttributeValue, DeleteRequest, PutRequest, WriteRequest};
use aws_sdk_dynamodbstreams::types::{AttributeValue as StreamValue, OperationType, Record, ShardIteratorType};
use futures_util::future::try_join_all;
use tokio::sync::Semaphore;

use crate::Result;
use crate::pages::Variant;
use crate::stub::stream_arn;

const IN_FLIGHT: usize = 16;
const BATCH: usize = 25;

type Item = HashMap<String, AttributeValue>;

#[derive(Clone)]
pub(crate) struct Clients {
    streams: aws_sdk_dynamodbstreams::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    in_flight: Arc<Semaphore>,
}

impl Clients {
    pub(crate) fn new(address: &str) -> Self {
        let settings = aws_config::SdkConfig::builder()
            .behavior_version(aws_config::BehaviorVersion::v2026_01_12())
            .region(aws_config::Region::new("eu-west-1"))
            .endpoint_url(format!("http://{address}"))
            .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(Credentials::new(
                "111122223333",
                "secret",
                None,
                None,
                "bench",
            )))
            .build();
        Self {
            streams: aws_sdk_dynamodbstreams::Client::new(&settings),
            dynamodb: aws_sdk_dynamodb::Client::new(&settings),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        }
    }
}

/// Moves the whole stream.
pub(crate) async fn run(address: &str, _variant: Variant) -> Result<()> {
    let clients = Clients::new(address);
    let description = clients.streams.describe_stream().stream_arn(stream_arn()).send().await?;
    let shards = description.stream_description().map(|stream| stream.shards()).unwrap_or_default();
    let ids: Vec<String> = shards.iter().filter_map(|shard| shard.shard_id().map(str::to_owned)).collect();
    let tasks = ids.into_iter().map(|id| tokio::spawn(move_shard(clients.clone(), id)));
    for moved in try_join_all(tasks).await? {
        moved?;
    }
    Ok(())
}

async fn move_shard(clients: Clients, shard: String) -> Result<()> {
    let start = clients.streams.get_shard_iterator().stream_arn(stream_arn()).shard_id(shard);
    let start = start.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await?;
    let mut next = start.shard_iterator;
    while let Some(iterator) = next {
        let page = clients.streams.get_records().shard_iterator(iterator).limit(1000).send().await?;
        let records = page.records.unwrap_or_default();
        if records.is_empty() {
            return Ok(());
        }
        let mut requests = newest(records).into_iter();
        let mut batches = Vec::new();
        loop {
            let batch: Vec<WriteRequest> = requests.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            batches.push(write(&clients, batch));
        }
        try_join_all(batches).await?;
        next = page.next_shard_iterator;
    }
    Ok(())
}

/// Writes until nothing is left.
pub(crate) async fn write(clients: &Clients, mut batch: Vec<WriteRequest>) -> Result<()> {
    let _permit = clients.in_flight.acquire().await?;
    while !batch.is_empty() {
        let answer = clients.dynamodb.batch_write_item().request_items("dst", batch).send().await?;
        batch = answer.unprocessed_items.and_then(|mut tables| tables.remove("dst")).unwrap_or_default();
    }
    Ok(())
}

/// The newest change of each key, as writes.
fn newest(records: Vec<Record>) -> Vec<WriteRequest> {
    let mut by_key: HashMap<String, WriteRequest> = HashMap::with_capacity(records.len());
    for record in records {
        let Some(data) = record.dynamodb else { continue };
        let key = converted(data.keys.unwrap_or_default());
        let name = name_of(&key);
        let request = match (record.event_name, data.new_image) {
            (Some(OperationType::Remove), _) | (_, None) => WriteRequest::builder()
                .delete_request(DeleteRequest::builder().set_key(Some(key)).build().expect("there is a key"))
                .build(),
            (_, Some(image)) => WriteRequest::builder()
                .put_request(PutRequest::builder().set_item(Some(converted(image))).build().expect("there is an item"))
                .build(),
        };
        by_key.insert(name, request);
    }
    by_key.into_values().collect()
}

fn name_of(key: &Item) -> String {
    let part = |name: &str| match key.get(name) {
        Some(AttributeValue::S(text) | AttributeValue::N(text)) => text.as_str(),
        _ => "",
    };
    format!("{}\0{}", part("pk"), part("sk"))
}

fn converted(item: HashMap<String, StreamValue>) -> Item {
    item.into_iter().map(|(name, value)| (name, convert(value))).collect()
}

fn convert(value: StreamValue) -> AttributeValue {
    match value {
        StreamValue::S(text) => AttributeValue::S(text),
        StreamValue::N(number) => AttributeValue::N(number),
        StreamValue::B(blob) => AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new(blob.into_inner())),
        StreamValue::Bool(flag) => AttributeValue::Bool(flag),
        StreamValue::Null(null) => AttributeValue::Null(null),
        StreamValue::Ss(set) => AttributeValue::Ss(set),
        StreamValue::Ns(set) => AttributeValue::Ns(set),
        StreamValue::Bs(set) => AttributeValue::Bs(
            set.into_iter().map(|blob| aws_sdk_dynamodb::primitives::Blob::new(blob.into_inner())).collect(),
        ),
        StreamValue::L(list) => AttributeValue::L(list.into_iter().map(convert).collect()),
        StreamValue::M(map) => AttributeValue::M(converted(map)),
        other => unreachable!("a type of value that this version does not know: {other:?}"),
    }
}
