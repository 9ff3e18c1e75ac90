//! Tables with keys of every type, items with values of every type, and somebody who keeps changing them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::wire::Wire;

/// The primary key of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keys {
    /// A text, and a number to sort by.
    Text,
    /// A number alone.
    Number,
    /// Bytes, and a text to sort by.
    Bytes,
}

impl Keys {
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Text => "by-text",
            Self::Number => "by-number",
            Self::Bytes => "by-bytes",
        }
    }

    /// What `CreateTable` takes, with the stream on.
    pub(crate) fn definition(self) -> Value {
        let (hash, range) = match self {
            Self::Text => ("S", Some("N")),
            Self::Number => ("N", None),
            Self::Bytes => ("B", Some("S")),
        };
        let named = [("id", "HASH", Some(hash)), ("sort", "RANGE", range)];
        let parts = || named.iter().filter_map(|(name, role, kind)| Some((name, role, (*kind)?)));
        json!({
            "TableName": self.table(),
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": parts().map(|(name, _, kind)| json!({"AttributeName": name, "AttributeType": kind})).collect::<Vec<_>>(),
            "KeySchema": parts().map(|(name, role, _)| json!({"AttributeName": name, "KeyType": role})).collect::<Vec<_>>(),
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        })
    }

    /// The `n`th key: another text for another `n`, and another key.
    pub(crate) fn key(self, n: usize) -> Value {
        match self {
            Self::Text => json!({"id": {"S": format!("ключ/{}\u{1f600}", n % 7)}, "sort": {"N": format!("-{n}.5")}}),
            Self::Number => match n % 4 {
                0 => json!({"id": {"N": format!("{n}")}}),
                1 => json!({"id": {"N": format!("-{n}.25")}}),
                2 => json!({"id": {"N": format!("1234567890123456789012345678{n:010}")}}),
                _ => json!({"id": {"N": format!("0.{n:038}")}}),
            },
            Self::Bytes => {
                let bytes = [&[0, 255, 34, 92], n.to_be_bytes().as_slice()].concat();
                json!({"id": {"B": BASE64.encode(bytes)}, "sort": {"S": format!("\"\\\u{1}{n}")}})
            }
        }
    }

    /// An item with all ten types, at the edges of what they can hold.
    pub(crate) fn item(self, n: usize, version: usize) -> Value {
        let mut item = self.key(n);
        let bytes: Vec<u8> = (0..=255).cycle().skip(n).take(version % 300).collect();
        let more = json!({
            "text": {"S": format!("Grüße ✓ \u{10ffff} line\nbreak \"quoted\" \\ {version}")},
            "empty": {"S": ""},
            "digits": {"N": format!("-{:038}", 10_u128.pow(37) + version as u128)},
            "least": {"N": format!("{}E-130", 1 + version % 9)},
            "most": {"N": "9.9999999999999999999999999999999999999E+125"},
            "fraction": {"N": format!("{version}.10")},
            "bytes": {"B": BASE64.encode(&bytes)},
            "no-bytes": {"B": ""},
            "yes": {"BOOL": version.is_multiple_of(2)},
            "nothing": {"NULL": true},
            "texts": {"SS": ["", "b", "ä", format!("v{version}")]},
            "numbers": {"NS": ["1", "-2.50", format!("{version}3")]},
            "blobs": {"BS": [BASE64.encode([0]), BASE64.encode([255, 0]), BASE64.encode(version.to_be_bytes())]},
            "list": {"L": [{"S": ""}, {"N": "0"}, {"L": []}, {"M": {}}, {"NULL": true}, {"BOOL": false}]},
            "map": {"M": {"": {"S": "a name without letters"}, "S": {"M": {"N": {"L": [{"M": {"deep": {"B": "AA=="}}}]}}}}},
            "a.b [0] #:": {"S": "odd name"},
        });
        item.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        item
    }
}

/// Writes items `0..count`.
pub(crate) async fn fill(wire: &Wire, keys: Keys, count: usize) {
    for chunk in (0..count).collect::<Vec<_>>().chunks(25) {
        let puts: Vec<Value> = chunk.iter().map(|n| json!({"PutRequest": {"Item": keys.item(*n, *n)}})).collect();
        let answer = wire.call("BatchWriteItem", json!({"RequestItems": {keys.table(): puts}})).await;
        assert_eq!(answer["UnprocessedItems"], json!({}));
    }
}

/// Somebody who writes until told to stop: new items, changed ones, deleted ones, in batches and alone.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    done: watch::Receiver<usize>,
    task: JoinHandle<usize>,
}

impl Writer {
    /// One change each few milliseconds to keys `0..span`, 20,000 at most; the same seed makes the same changes.
    pub(crate) fn start(wire: Wire, keys: Keys, span: usize, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (count, counted) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut done = 0;
            while !stopped.load(Ordering::Relaxed) && done < 20_000 {
                change(&wire, keys, rng.usize(0..span), done, rng.u8(0..10)).await;
                done += 1;
                count.send_replace(done);
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
            done
        });
        Self { stop, done: counted, task }
    }

    /// Resolves when it has made so many changes.
    pub(crate) async fn has_made(&mut self, changes: usize) {
        let made = tokio::time::timeout(Duration::from_secs(60), self.done.wait_for(|done| *done >= changes)).await;
        made.expect("the writer is too slow").expect("the writer");
    }

    /// Stops it, and says how many changes it made.
    pub(crate) async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer")
    }
}

async fn change(wire: &Wire, keys: Keys, n: usize, version: usize, kind: u8) {
    let table = keys.table();
    match kind {
        0..=3 => {
            wire.call("PutItem", json!({"TableName": table, "Item": keys.item(n, version)})).await;
        }
        4..=6 => {
            let update = json!({
                "TableName": table, "Key": keys.key(n), "UpdateExpression": "SET #v = :v REMOVE #t",
                "ExpressionAttributeNames": {"#v": "fraction", "#t": "text"},
                "ExpressionAttributeValues": {":v": {"N": version.to_string()}},
            });
            wire.call("UpdateItem", update).await;
        }
        7..=8 => {
            wire.call("DeleteItem", json!({"TableName": table, "Key": keys.key(n)})).await;
        }
        _ => {
            let batch = [
                json!({"PutRequest": {"Item": keys.item(n, version)}}),
                json!({"DeleteRequest": {"Key": keys.key(n + 1)}}),
            ];
            wire.call("BatchWriteItem", json!({"RequestItems": {table: batch}})).await;
        }
    }
}
