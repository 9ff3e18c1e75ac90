//! DynamoDB Streams behind the read seam.

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::config::Builder;
use aws_sdk_dynamodbstreams::types::{self, ShardFilter, ShardFilterType, ShardIteratorType};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::call::Caller;
use super::fault::broken;
use super::raw::{RawOperation, Sender, probe};
use crate::error::Failure;
use crate::model::{SequenceNumber, ShardId, StartAt, StreamArn, ViewType};
use crate::stream::{ListingPage, RecordsPage, ShardIterator, ShardListing, StreamSource, StreamStatus};

const DESCRIBE: &str = "DescribeStream";
const ITERATOR: &str = "GetShardIterator";

/// The streams of one account and Region. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Streams {
    client: Client,
    caller: Caller,
    get_records: RawOperation,
}

impl Streams {
    pub(super) fn new(client: Client, sender: &Sender, caller: Caller) -> Self {
        Self { get_records: get_records(&client, sender), client, caller }
    }

    async fn list(
        &self,
        stream: &StreamArn,
        after: Option<&ShardId>,
        children_of: Option<&ShardId>,
    ) -> Result<ListingPage, Failure> {
        let filter = children_of.map(|parent| {
            ShardFilter::builder().r#type(ShardFilterType::ChildShards).shard_id(parent.as_str()).build()
        });
        let send = self
            .client
            .describe_stream()
            .stream_arn(&stream.0)
            .set_exclusive_start_shard_id(after.map(|shard| shard.as_str().to_owned()))
            .set_shard_filter(filter)
            .send()
            .boxed();
        let output = self.caller.typed(DESCRIBE, send).await?;
        let description = output.stream_description().ok_or_else(|| broken(DESCRIBE, "no stream description"))?;
        listing_page(description)
    }
}

fn get_records(client: &Client, sender: &Sender) -> RawOperation {
    RawOperation::new(
        "DynamoDBStreams_20120810.GetRecords",
        sender,
        probe!(Builder, client.get_records().shard_iterator("any")),
    )
}

impl StreamSource for Streams {
    fn describe<'a>(
        &'a self,
        stream: &'a StreamArn,
        after: Option<&'a ShardId>,
    ) -> BoxFuture<'a, Result<ListingPage, Failure>> {
        self.list(stream, after, None).boxed()
    }

    fn children<'a>(
        &'a self,
        stream: &'a StreamArn,
        parent: &'a ShardId,
    ) -> BoxFuture<'a, Result<Vec<ShardListing>, Failure>> {
        async move { Ok(self.list(stream, None, Some(parent)).await?.shards) }.boxed()
    }

    fn iterator<'a>(
        &'a self,
        stream: &'a StreamArn,
        shard: &'a ShardId,
        at: StartAt,
    ) -> BoxFuture<'a, Result<ShardIterator, Failure>> {
        async move {
            let request = self.client.get_shard_iterator().stream_arn(&stream.0).shard_id(shard.as_str());
            let request = match at {
                StartAt::TrimHorizon => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
                StartAt::After(number) => {
                    request.shard_iterator_type(ShardIteratorType::AfterSequenceNumber).sequence_number(number.as_str())
                }
            };
            let output = self.caller.typed(ITERATOR, request.send().boxed()).await?;
            let iterator = output.shard_iterator.ok_or_else(|| broken(ITERATOR, "no iterator"))?;
            Ok(ShardIterator::new(iterator))
        }
        .boxed()
    }

    fn records<'a>(
        &'a self,
        iterator: &'a ShardIterator,
        max_records: u32,
    ) -> BoxFuture<'a, Result<RecordsPage, Failure>> {
        async move {
            let asked_at = self.caller.context.now();
            let request = records_request(iterator, max_records);
            let body = self.caller.raw(&self.get_records, request).await?;
            Ok(RecordsPage { body, asked_at })
        }
        .boxed()
    }
}

fn records_request(iterator: &ShardIterator, max_records: u32) -> Vec<u8> {
    let iterator = serde_json::Value::from(iterator.as_str());
    format!(r#"{{"ShardIterator":{iterator},"Limit":{max_records}}}"#).into_bytes()
}

fn listing_page(description: &types::StreamDescription) -> Result<ListingPage, Failure> {
    let status = match description.stream_status() {
        Some(types::StreamStatus::Enabling) => StreamStatus::Enabling,
        Some(types::StreamStatus::Enabled) => StreamStatus::Enabled,
        Some(types::StreamStatus::Disabling) => StreamStatus::Disabling,
        Some(types::StreamStatus::Disabled) => StreamStatus::Disabled,
        other => return Err(broken(DESCRIBE, format_args!("stream status {:?}", other.map(|s| s.as_str())))),
    };
    let view = match description.stream_view_type() {
        None => None,
        Some(types::StreamViewType::KeysOnly) => Some(ViewType::KeysOnly),
        Some(types::StreamViewType::NewImage) => Some(ViewType::NewImage),
        Some(types::StreamViewType::OldImage) => Some(ViewType::OldImage),
        Some(types::StreamViewType::NewAndOldImages) => Some(ViewType::NewAndOldImages),
        Some(other) => return Err(broken(DESCRIBE, format_args!("stream view {:?}", other.as_str()))),
    };
    let shards = description.shards().iter().map(shard_listing).collect::<Result<_, _>>()?;
    let next = description.last_evaluated_shard_id().filter(|id| !id.is_empty()).map(ShardId::new);
    Ok(ListingPage { status, view, shards, next })
}

fn shard_listing(shard: &types::Shard) -> Result<ShardListing, Failure> {
    let number = |text: Option<&str>| {
        let parsed = text.filter(|text| !text.is_empty()).map(SequenceNumber::parse).transpose();
        parsed.map_err(|error| broken(DESCRIBE, error))
    };
    let range = shard.sequence_number_range();
    Ok(ShardListing {
        id: shard.shard_id().map(ShardId::new).ok_or_else(|| broken(DESCRIBE, "a shard without an id"))?,
        parent: shard.parent_shard_id().filter(|id| !id.is_empty()).map(ShardId::new),
        first: number(range.and_then(types::SequenceNumberRange::starting_sequence_number))?,
        last: number(range.and_then(types::SequenceNumberRange::ending_sequence_number))?,
    })
}
