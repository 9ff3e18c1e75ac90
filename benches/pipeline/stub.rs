//! The stub server: DynamoDB as far as the arms need it, cheap, and no slower for one arm than for another.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::Result;
use crate::exchange::{Answer, Question};
use crate::http::Connection;
use crate::pages::{CYCLE_DIGITS, PAGES, Page, SHARDS, Variant, all_pages, digest, page};

pub(crate) const REGION: &str = "eu-west-1";
pub(crate) const ACCOUNT: &str = "111122223333";
/// As long as the service's own are, about.
const ITERATOR_BYTES: usize = 240;

/// What the stub was told to serve, and what it received.
struct State {
    variant: Variant,
    cycles: usize,
    /// Whether items are understood and kept.
    verifies: bool,
    requests: u64,
    writes: u64,
    bytes: u64,
    items: HashMap<String, Value>,
    /// Shards that were read to their end.
    ended: HashSet<usize>,
}

struct Stub {
    pages: HashMap<(Variant, usize, usize), Page>,
    /// Whose folders are buckets.
    buckets: PathBuf,
    state: Mutex<State>,
}

/// Serves until it is killed; prints its address first.
pub(crate) fn serve(buckets: &Path) -> Result<()> {
    let variants = Variant::ALL.into_iter();
    let pages =
        variants.flat_map(|variant| all_pages().map(move |(s, p)| ((variant, s, p), page(variant, s, p)))).collect();
    let state = State {
        variant: Variant::Both,
        cycles: 1,
        verifies: false,
        requests: 0,
        writes: 0,
        bytes: 0,
        items: HashMap::new(),
        ended: HashSet::new(),
    };
    let stub = Arc::new(Stub { pages, buckets: buckets.to_owned(), state: Mutex::new(state) });
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (socket, _) = listener.accept().await?;
            let (stub, mut connection) = (Arc::clone(&stub), Connection::new(socket)?);
            tokio::spawn(async move {
                // A client that goes away in the middle is no concern of the stub's.
                while let Ok(true) = stub.answer(&mut connection).await {}
            });
        }
    })
}

impl Stub {
    async fn answer(&self, connection: &mut Connection) -> Result<bool> {
        let Some(message) = connection.receive().await? else { return Ok(false) };
        let (head, [body, end]) = self.answer_to(&Question::of(&message))?.into_message();
        connection.send(&[head.as_bytes(), &body, &end]).await?;
        Ok(true)
    }

    fn answer_to(&self, asked: &Question<'_>) -> Result<Answer> {
        let target = asked.target.unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default();
        Ok(Answer::Json(match operation {
            "GetRecords" => return self.records(asked.body),
            "BatchWriteItem" => self.write(asked.body)?,
            "GetShardIterator" => {
                let request: Value = serde_json::from_slice(asked.body)?;
                let shard = request.get("ShardId").and_then(Value::as_str).and_then(|id| id.rsplit('-').next());
                let shard: usize = shard.ok_or("no shard")?.parse()?;
                format!(r#"{{"ShardIterator":"{}"}}"#, iterator(shard, 0, 0))
            }
            "DescribeStream" => self.stream(),
            "DescribeTable" => self.table(&serde_json::from_slice(asked.body)?),
            "Scan" => r#"{"Count":0,"Items":[],"ScannedCount":0}"#.to_owned(),
            "Reset" => {
                let text = std::str::from_utf8(asked.body)?;
                let words: Vec<&str> = text.split(' ').collect();
                let [variant, cycles, verifies] = words.as_slice() else { return Err("reset to what?".into()) };
                let mut state = self.state.lock().expect("no panic");
                (state.variant, state.cycles) = (variant.parse()?, cycles.parse()?);
                state.verifies = verifies.parse()?;
                (state.requests, state.writes, state.bytes) = (0, 0, 0);
                state.items.clear();
                state.ended.clear();
                "{}".to_owned()
            }
            "Ended" => self.state.lock().expect("no panic").ended.len().to_string(),
            "Received" => {
                let state = self.state.lock().expect("no panic");
                let (items, sum) = digest(state.items.values());
                json!({"requests": state.requests, "writes": state.writes, "bytes": state.bytes, "items": items, "digest": sum})
                    .to_string()
            }
            "" if asked.path.len() > 1 => return self.part(asked),
            "" => format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>arn:aws:iam::{ACCOUNT}:user/bench</Arn><UserId>AIDA</UserId><Account>{ACCOUNT}</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
            ),
            "GetItem" => "{}".to_owned(),
            "DescribeTimeToLive" => r#"{"TimeToLiveDescription":{"TimeToLiveStatus":"DISABLED"}}"#.to_owned(),
            other => {
                // The client would ask again, and only be slow.
                eprintln!("the stub has no operation {other}");
                return Err("no such operation".into());
            }
        }))
    }

    fn records(&self, request: &[u8]) -> Result<Answer> {
        let (cycles, variant) = {
            let state = self.state.lock().expect("no panic");
            (state.cycles, state.variant)
        };
        let at = memchr::memmem::find(request, b"|").ok_or("no iterator")?;
        let text = std::str::from_utf8(request.get(at..).unwrap_or_default())?;
        let mut numbers = text.split('|').skip(1).take(3).map(str::parse::<usize>);
        let mut number = || numbers.next().ok_or("no iterator");
        let (shard, cycle, page) = (number()??, number()??, number()??);
        if cycle >= cycles {
            self.state.lock().expect("no panic").ended.insert(shard);
            let next = iterator(shard, cycle, page);
            return Ok(Answer::Json(format!(r#"{{"Records":[],"NextShardIterator":"{next}"}}"#)));
        }
        let found = self.pages.get(&(variant, shard, page)).ok_or("no page")?;
        let mut body = found.body.clone();
        let digits = format!("{cycle:0CYCLE_DIGITS$}");
        for at in &found.cycles_at {
            if let Some(slot) = body.get_mut(*at..at + CYCLE_DIGITS) {
                slot.copy_from_slice(digits.as_bytes());
            }
        }
        let next = if page + 1 < PAGES { iterator(shard, cycle, page + 1) } else { iterator(shard, cycle + 1, 0) };
        Ok(Answer::Page { body, end: format!(r#"],"NextShardIterator":"{next}"}}"#) })
    }

    /// A part of a file.
    fn part(&self, asked: &Question<'_>) -> Result<Answer> {
        let path = Path::new(asked.path.trim_start_matches('/'));
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err("no such object".into());
        }
        let file = std::fs::File::open(self.buckets.join(path))?;
        let size = file.metadata()?.len();
        let range = asked.range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (from, last) = range.ok_or("no range")?;
        let (from, last): (u64, u64) = (from.parse()?, last.parse()?);
        let mut body = vec![0; usize::try_from((last + 1).min(size).saturating_sub(from))?];
        file.read_exact_at(&mut body, from)?;
        Ok(Answer::Part { body, from, size })
    }

    fn write(&self, request: &[u8]) -> Result<String> {
        let writes = memchr::memmem::find_iter(request, b"Request\":{").count() as u64;
        let mut state = self.state.lock().expect("no panic");
        state.requests += 1;
        state.writes += writes;
        state.bytes += request.len() as u64;
        if state.verifies {
            let request: Value = serde_json::from_slice(request)?;
            let writes = request.pointer("/RequestItems/dst").and_then(Value::as_array).ok_or("no writes")?;
            for write in writes {
                if let Some(item) = write.pointer("/PutRequest/Item") {
                    state.items.insert(key_of(item), item.clone());
                } else if let Some(key) = write.pointer("/DeleteRequest/Key") {
                    state.items.remove(&key_of(key));
                }
            }
        }
        Ok(r#"{"UnprocessedItems":{}}"#.to_owned())
    }

    fn stream(&self) -> String {
        let shards: Vec<Value> = (0..SHARDS)
            .map(|shard| {
                json!({"ShardId": shard_id(shard), "SequenceNumberRange": {"StartingSequenceNumber": format!("1{:023}", 0)}})
            })
            .collect();
        let view = self.state.lock().expect("no panic").variant.view();
        json!({"StreamDescription": {"StreamArn": stream_arn(), "StreamLabel": "2026-11-20T00:00:00.000", "StreamStatus": "ENABLED", "StreamViewType": view,
            "TableName": "src", "KeySchema": key_schema(), "Shards": shards}})
        .to_string()
    }

    fn table(&self, request: &Value) -> String {
        let name = request.get("TableName").and_then(Value::as_str).unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default();
        let mut table = json!({"TableName": name, "TableArn": format!("arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}"), "TableId": name, "TableStatus": "ACTIVE",
            "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}, {"AttributeName": "sk", "AttributeType": "N"}],
            "KeySchema": key_schema(), "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"}, "ItemCount": 0, "TableSizeBytes": 0});
        if name == "src"
            && let Some(table) = table.as_object_mut()
        {
            let view = self.state.lock().expect("no panic").variant.view();
            table.insert("StreamSpecification".to_owned(), json!({"StreamEnabled": true, "StreamViewType": view}));
            table.insert("LatestStreamArn".to_owned(), stream_arn().into());
        }
        json!({"Table": table}).to_string()
    }
}

fn key_of(item: &Value) -> String {
    let part = |name| item.get(name).map(Value::to_string).unwrap_or_default();
    part("pk") + &part("sk")
}

fn key_schema() -> Value {
    json!([{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}])
}

/// The stream of the source.
pub(crate) fn stream_arn() -> String {
    format!("arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/src/stream/2026-11-20T00:00:00.000")
}

/// The id of a shard.
pub(crate) fn shard_id(shard: usize) -> String {
    format!("shardId-00000001763647200000-{shard:08}")
}

pub(crate) fn iterator(shard: usize, cycle: usize, page: usize) -> String {
    let text = format!("{}|{shard}|{cycle}|{page}|", stream_arn());
    format!("{text:A<ITERATOR_BYTES$}")
}
