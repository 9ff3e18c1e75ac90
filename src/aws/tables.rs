//! One table behind the seams for reading and for writing.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Builder;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::call::Caller;
use super::fault::broken;
use super::raw::{RawOperation, Sender, probe};
use super::schema;
use crate::apply::TargetTable;
use crate::config::TableRef;
use crate::decode::{KeyCodec, ScanPage, WriteReply, one_item, write_reply};
use crate::error::Failure;
use crate::load::{ScanRequest, TableReader};
use crate::model::{Key, KeySchema, RawItem, TableDescription, Write};

/// A table whose key schema is known. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Table {
    client: Client,
    caller: Caller,
    /// The name, or the ARN where it may be another account's.
    reference: String,
    keys: KeyCodec,
    scan: RawOperation,
    get_item: RawOperation,
    batch_write: RawOperation,
}

impl Table {
    pub(super) fn new(client: Client, sender: &Sender, caller: Caller, table: &TableRef, schema: &KeySchema) -> Self {
        let reference = table.to_string();
        Self {
            scan: scan(&client, sender, &reference),
            get_item: get_item(&client, sender, &reference),
            batch_write: batch_write(&client, sender, &reference),
            client,
            caller,
            reference,
            keys: KeyCodec::new(schema),
        }
    }

    /// Reads this table's keys.
    #[must_use]
    pub fn keys(&self) -> &KeyCodec {
        &self.keys
    }

    async fn scan_page(&self, request: &ScanRequest) -> Result<ScanPage, Failure> {
        let body = scan_request(&self.reference, request);
        let answer = self.caller.raw(&self.scan, body).await?;
        ScanPage::decode(&answer, &self.keys).map_err(|error| broken(self.scan.name(), error))
    }

    async fn get_one(&self, key: &Key) -> Result<Option<RawItem>, Failure> {
        let body = get_request(&self.reference, key);
        let answer = self.caller.raw(&self.get_item, body).await?;
        one_item(&answer).map_err(|error| broken(self.get_item.name(), error))
    }

    async fn write_batch(&self, writes: &[Write]) -> Result<WriteReply, Failure> {
        let body = write_request(&self.reference, writes);
        let answer = self.caller.raw(&self.batch_write, body).await?;
        write_reply(&answer, &self.keys).map_err(|error| broken(self.batch_write.name(), error))
    }
}

fn scan(client: &Client, sender: &Sender, table: &str) -> RawOperation {
    RawOperation::new("DynamoDB_20120810.Scan", sender, probe!(Builder, client.scan().table_name(table)))
}

fn get_item(client: &Client, sender: &Sender, table: &str) -> RawOperation {
    RawOperation::new("DynamoDB_20120810.GetItem", sender, probe!(Builder, client.get_item().table_name(table)))
}

fn batch_write(client: &Client, sender: &Sender, table: &str) -> RawOperation {
    RawOperation::new(
        "DynamoDB_20120810.BatchWriteItem",
        sender,
        probe!(Builder, client.batch_write_item().request_items(table, Vec::new())),
    )
}

impl TableReader for Table {
    fn describe(&self) -> BoxFuture<'_, Result<TableDescription, Failure>> {
        schema::describe(&self.client, &self.caller, &self.reference).boxed()
    }

    fn scan<'a>(&'a self, request: &'a ScanRequest) -> BoxFuture<'a, Result<ScanPage, Failure>> {
        self.scan_page(request).boxed()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<RawItem>, Failure>> {
        self.get_one(key).boxed()
    }
}

impl TargetTable for Table {
    fn write<'a>(&'a self, writes: &'a [Write]) -> BoxFuture<'a, Result<WriteReply, Failure>> {
        self.write_batch(writes).boxed()
    }
}

fn scan_request(table: &str, request: &ScanRequest) -> Vec<u8> {
    let ScanRequest { segment, total_segments, start, limit } = request;
    let mut body = Vec::with_capacity(256 + start.as_ref().map_or(0, bytes::Bytes::len));
    let fixed = format!(
        r#"{{"TableName":{},"Segment":{segment},"TotalSegments":{total_segments},"ConsistentRead":true,"ReturnConsumedCapacity":"TOTAL""#,
        serde_json::Value::from(table)
    );
    body.extend_from_slice(fixed.as_bytes());
    if let Some(limit) = limit {
        body.extend_from_slice(format!(r#","Limit":{limit}"#).as_bytes());
    }
    if let Some(start) = start {
        body.extend_from_slice(br#","ExclusiveStartKey":"#);
        body.extend_from_slice(start);
    }
    body.push(b'}');
    body
}

fn get_request(table: &str, key: &Key) -> Vec<u8> {
    let mut body = Vec::with_capacity(key.json.len() + table.len() + 64);
    let table = serde_json::Value::from(table);
    body.extend_from_slice(format!(r#"{{"TableName":{table},"ConsistentRead":true,"Key":"#).as_bytes());
    body.extend_from_slice(&key.json);
    body.push(b'}');
    body
}

const PUT: &[u8] = br#"{"PutRequest":{"Item":"#;
const DELETE: &[u8] = br#"{"DeleteRequest":{"Key":"#;

/// The images as they came, each copied once.
pub(super) fn write_request(table: &str, writes: &[Write]) -> Vec<u8> {
    let table = serde_json::Value::from(table).to_string();
    let of_writes: usize = writes.iter().map(|write| write.wire_len() + DELETE.len() + 3).sum();
    let mut body = Vec::with_capacity(of_writes + table.len() + 72);
    body.extend_from_slice(br#"{"RequestItems":{"#);
    body.extend_from_slice(table.as_bytes());
    body.extend_from_slice(b":[");
    for (at, write) in writes.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        let (kind, json) = match &write.image {
            Some(image) => (PUT, image.json()),
            None => (DELETE, &write.key.json),
        };
        body.extend_from_slice(kind);
        body.extend_from_slice(json);
        body.extend_from_slice(b"}}");
    }
    body.extend_from_slice(br#"]},"ReturnConsumedCapacity":"TOTAL"}"#);
    body
}
