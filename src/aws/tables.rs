//! One table behind the seams for reading and for writing.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Builder;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::call::Caller;
use super::fault::broken;
use super::raw::{RawOperation, Sender, probe};
use super::schema;
use super::transaction::Cancelled;
use crate::apply::{ConditionalTarget, TargetTable};
use crate::config::TableRef;
use crate::decode::{KeyCodec, ScanPage, WriteReply, one_item, transaction_reply, write_reply};
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
    transact: RawOperation,
}

impl Table {
    pub(super) fn new(client: Client, sender: &Sender, caller: Caller, table: &TableRef, schema: &KeySchema) -> Self {
        let reference = table.to_string();
        Self {
            scan: scan(&client, sender, &reference),
            get_item: get_item(&client, sender, &reference),
            batch_write: batch_write(&client, sender, &reference),
            transact: transact(&client, sender),
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

    async fn transact_if(&self, condition: &[u8], writes: &[Write]) -> Result<Option<WriteReply>, Failure> {
        let body = conditional_request(&self.reference, condition, writes);
        let (failure, said) = match self.caller.raw_or_refusal(&self.transact, body).await {
            Ok(answer) => {
                let reply = transaction_reply(&answer, &self.reference);
                return reply.map(Some).map_err(|error| broken(self.transact.name(), error));
            }
            Err((failure, said)) => (failure, said.unwrap_or_default()),
        };
        match Cancelled::read(failure, &said)? {
            // The condition stands first, and the writes have none.
            Cancelled { refused: Some(_), .. } => Ok(None),
            Cancelled { failure, refused: None } => Err(failure),
        }
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

fn transact(client: &Client, sender: &Sender) -> RawOperation {
    RawOperation::new(
        "DynamoDB_20120810.TransactWriteItems",
        sender,
        probe!(Builder, client.transact_write_items().set_transact_items(Some(Vec::new()))),
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

impl ConditionalTarget for Table {
    fn write_if<'a>(
        &'a self,
        condition: &'a [u8],
        writes: &'a [Write],
    ) -> BoxFuture<'a, Result<Option<WriteReply>, Failure>> {
        self.transact_if(condition, writes).boxed()
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

/// The same, in one transaction that is carried out only if the condition holds.
pub(super) fn conditional_request(table: &str, condition: &[u8], writes: &[Write]) -> Vec<u8> {
    let table = serde_json::Value::from(table).to_string();
    let of_each = table.len() + 40;
    let of_writes: usize = writes.iter().map(|write| write.wire_len() + of_each).sum();
    let mut body = Vec::with_capacity(of_writes + condition.len() + 96);
    body.extend_from_slice(br#"{"TransactItems":[{"ConditionCheck":"#);
    body.extend_from_slice(condition);
    body.push(b'}');
    for write in writes {
        let (action, member, json): (&[u8], &[u8], _) = match &write.image {
            Some(image) => (br#",{"Put":{"TableName":"#, br#","Item":"#, image.json()),
            None => (br#",{"Delete":{"TableName":"#, br#","Key":"#, &write.key.json),
        };
        body.extend_from_slice(action);
        body.extend_from_slice(table.as_bytes());
        body.extend_from_slice(member);
        body.extend_from_slice(json);
        body.extend_from_slice(b"}}");
    }
    body.extend_from_slice(br#"],"ReturnConsumedCapacity":"TOTAL"}"#);
    body
}
