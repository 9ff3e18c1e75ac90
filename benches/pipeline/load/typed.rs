//! The straightforward load with the SDK's own types and its default settings: a file is decompressed, each line is read by
//! `serde_json` straight into a typed item, and 25 of them are written at a time, 16 requests in flight.
//!
//! It checks neither MD5 nor count, keeps no state, and gets its objects over a bare socket: all to its advantage.

use std::collections::HashMap;
use std::io::BufRead as _;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::bufread::MultiGzDecoder;
use futures_util::future::try_join_all;
use serde::Deserialize;

use super::exports::{BUCKET, Shape};
use crate::Result;
use crate::http::Connection;
use crate::typed::{Clients, write};

const BATCH: usize = 25;
/// Batches that a file has in flight before it is read on: with eight files, more than the 16 requests in flight at once.
const AHEAD: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    item: HashMap<String, Attribute>,
}

/// As DynamoDB JSON spells it.
#[derive(Deserialize)]
enum Attribute {
    S(String),
    N(String),
    B(String),
    #[serde(rename = "BOOL")]
    Bool(bool),
    #[serde(rename = "NULL")]
    Null(bool),
    #[serde(rename = "SS")]
    Ss(Vec<String>),
    #[serde(rename = "NS")]
    Ns(Vec<String>),
    #[serde(rename = "BS")]
    Bs(Vec<String>),
    L(Vec<Attribute>),
    M(HashMap<String, Attribute>),
}

/// Loads the whole export.
pub(crate) async fn run(address: &str, shape: Shape) -> Result<()> {
    let clients = Clients::new(address);
    let tasks =
        (0..shape.files).map(|file| tokio::spawn(load_file(clients.clone(), address.to_owned(), shape.key(file))));
    for loaded in try_join_all(tasks).await? {
        loaded?;
    }
    Ok(())
}

async fn load_file(clients: Clients, address: String, key: String) -> Result<()> {
    let mut socket = Connection::connect(&address).await?;
    let request = format!("GET /{BUCKET}/{key} HTTP/1.1\r\nrange: bytes=0-{}\r\n\r\n", u32::MAX);
    socket.send(&[request.as_bytes()]).await?;
    let answer = socket.receive().await?.ok_or("no answer")?;
    let mut text = std::io::BufReader::new(MultiGzDecoder::new(answer.body));
    let (mut line, mut batch, mut batches) = (String::new(), Vec::with_capacity(BATCH), Vec::with_capacity(AHEAD));
    loop {
        line.clear();
        let is_end = text.read_line(&mut line)? == 0;
        if !is_end {
            batch.push(put(serde_json::from_str(&line)?)?);
        }
        if batch.len() == BATCH || is_end && !batch.is_empty() {
            batches.push(write(&clients, std::mem::replace(&mut batch, Vec::with_capacity(BATCH))));
        }
        if batches.len() == AHEAD || is_end {
            try_join_all(batches.drain(..)).await?;
        }
        if is_end {
            return Ok(());
        }
    }
}

fn put(line: Line) -> Result<WriteRequest> {
    let put = PutRequest::builder().set_item(Some(item(line.item)?)).build()?;
    Ok(WriteRequest::builder().put_request(put).build())
}

fn item(item: HashMap<String, Attribute>) -> Result<HashMap<String, AttributeValue>> {
    item.into_iter().map(|(name, value)| Ok((name, convert(value)?))).collect()
}

fn blob(text: &str) -> Result<Blob> {
    Ok(Blob::new(STANDARD.decode(text)?))
}

fn convert(value: Attribute) -> Result<AttributeValue> {
    Ok(match value {
        Attribute::S(text) => AttributeValue::S(text),
        Attribute::N(number) => AttributeValue::N(number),
        Attribute::B(text) => AttributeValue::B(blob(&text)?),
        Attribute::Bool(flag) => AttributeValue::Bool(flag),
        Attribute::Null(null) => AttributeValue::Null(null),
        Attribute::Ss(set) => AttributeValue::Ss(set),
        Attribute::Ns(set) => AttributeValue::Ns(set),
        Attribute::Bs(set) => AttributeValue::Bs(set.iter().map(|text| blob(text)).collect::<Result<_>>()?),
        Attribute::L(list) => AttributeValue::L(list.into_iter().map(convert).collect::<Result<_>>()?),
        Attribute::M(map) => AttributeValue::M(item(map)?),
    })
}
