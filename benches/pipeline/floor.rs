//! The floor: what moving these bytes costs before anything is understood.
//!
//! Pages are received and forgotten; bodies that were made ahead are copied, digested as a signature would, and sent over
//! 16 kept connections. No signing key, no JSON, no retries, no order.

use std::collections::HashMap;
use std::hint::black_box;

use futures_util::future::try_join_all;
use sha2::{Digest as _, Sha256};

use crate::Result;
use crate::http::Connection;
use crate::pages::{PAGES, SHARDS, all_pages, plan};
use crate::stub::iterator;

const SOCKETS: usize = 16;
const BATCH: usize = 25;

/// The request bodies of a page.
pub(crate) type Bodies = Vec<Vec<u8>>;

/// What is sent for each page, shard by shard: the newest change of each key, 25 in a body.
pub(crate) fn prepare() -> Vec<Bodies> {
    let pages = all_pages().map(|(shard, page)| {
        let (mut newest, mut order) = (HashMap::new(), Vec::new());
        for change in plan(shard, page) {
            if newest.insert(change.key.clone(), change.image).is_none() {
                order.push(change.key);
            }
        }
        let requests = order.chunks(BATCH).map(|keys| {
            let writes: Vec<String> = keys
                .iter()
                .map(|key| match newest.get(key).cloned().flatten() {
                    Some(image) => format!(r#"{{"PutRequest":{{"Item":{image}}}}}"#),
                    None => format!(r#"{{"DeleteRequest":{{"Key":{key}}}}}"#),
                })
                .collect();
            format!(r#"{{"RequestItems":{{"dst":[{}]}}}}"#, writes.join(",")).into_bytes()
        });
        requests.collect()
    });
    pages.collect()
}

/// Moves every page of every cycle.
pub(crate) async fn run(address: &str, pages: Vec<Bodies>, cycles: usize) -> Result<()> {
    try_join_all(pages.chunks(PAGES).enumerate().map(|(shard, pages)| move_shard(address, shard, pages, cycles)))
        .await?;
    Ok(())
}

async fn move_shard(address: &str, shard: usize, pages: &[Bodies], cycles: usize) -> Result<()> {
    let mut reader = Connection::connect(address).await?;
    let mut writers = Vec::new();
    for _ in 0..SOCKETS / SHARDS {
        writers.push(Connection::connect(address).await?);
    }
    for cycle in 0..cycles {
        for (page, bodies) in pages.iter().enumerate() {
            let request = format!(r#"{{"ShardIterator":"{}","Limit":1000}}"#, iterator(shard, cycle, page));
            black_box(call(&mut reader, "DynamoDBStreams_20120810.GetRecords", request.as_bytes()).await?);
            let share = bodies.len().div_ceil(writers.len());
            try_join_all(writers.iter_mut().zip(bodies.chunks(share)).map(|(writer, bodies)| async move {
                for body in bodies {
                    let copy = black_box(body.clone());
                    call(writer, "DynamoDB_20120810.BatchWriteItem", &copy).await?;
                }
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            }))
            .await?;
        }
    }
    Ok(())
}

/// One request and its answer's length.
async fn call(connection: &mut Connection, target: &str, body: &[u8]) -> Result<usize> {
    let digest = Sha256::digest(body);
    let signature: String = digest.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-amz-json-1.0\r\nx-amz-target: {target}\r\nx-amz-date: 20261120T140000Z\r\nauthorization: AWS4-HMAC-SHA256 Credential=111122223333/20261120/eu-west-1/dynamodb/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature={signature}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.send(&[head.as_bytes(), body]).await?;
    let answer = connection.receive().await?.ok_or("no answer")?;
    Ok(answer.body.len())
}
