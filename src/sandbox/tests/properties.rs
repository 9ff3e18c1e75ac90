//! What holds for any numbers, and for any history of a stream.

use std::collections::{BTreeMap, BTreeSet};

use http::Request;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::super::number::Number;
use super::super::{Outcome, Snapshot};
use super::*;

/// Integers of up to 28 digits with an exponent, so that sums are exact in 128 bits when exponents are equal.
fn number_text() -> impl Strategy<Value = (i128, i32)> {
    (-10_i128.pow(28)..10_i128.pow(28), -60..60_i32)
}

/// The same comparison by integers alone.
fn scaled(mantissa: i128, exponent: i32) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(exponent).ok()?)?.checked_mul(mantissa)
}

proptest! {
    #[test]
    fn a_number_reads_back_as_itself((mantissa, exponent) in number_text()) {
        let number = Number::parse(&format!("{mantissa}e{exponent}")).unwrap();
        prop_assert_eq!(&Number::parse(&number.to_string()).unwrap(), &number);
        prop_assert_eq!(&Number::parse(&format!("{mantissa}000E{}", exponent - 3)).unwrap(), &number);
        let text = number.to_string();
        prop_assert!(!text.contains('.') || !text.ends_with('0'));
    }

    #[test]
    fn numbers_and_their_key_bytes_are_ordered_by_value(a in -1000_i128..1000, b in -1000_i128..1000, e in 0..6_i32, f in 0..6_i32) {
        let (left, right) = (Number::parse(&format!("{a}e{}", e - 3)).unwrap(), Number::parse(&format!("{b}e{}", f - 3)).unwrap());
        let expected = scaled(a, e).cmp(&scaled(b, f));
        prop_assert_eq!(left.cmp(&right), expected);
        prop_assert_eq!(left.sortable().cmp(&right.sortable()), expected);
    }

    #[test]
    fn sums_are_exact(a in -10_i128.pow(15)..10_i128.pow(15), b in -10_i128.pow(15)..10_i128.pow(15), e in 0..9_i32, f in 0..9_i32) {
        let parse = |mantissa: i128, exponent: i32| Number::parse(&format!("{mantissa}e{}", exponent - 5)).unwrap();
        let (left, right) = (scaled(a, e).unwrap(), scaled(b, f).unwrap());
        prop_assert_eq!(parse(a, e).add(&parse(b, f), false).unwrap(), parse(left + right, 0));
        prop_assert_eq!(parse(a, e).add(&parse(b, f), true).unwrap(), parse(left - right, 0));
    }
}

#[test]
fn numbers_that_begin_alike_are_ordered_too() {
    let ascending = [
        "-1e125", "-120", "-12", "-1.2", "-1", "-0.12", "-0.1", "-1e-130", "0", "1e-130", "0.1", "0.12", "1", "1.2",
        "12", "120", "1e125",
    ];
    let numbers: Vec<_> = ascending.iter().map(|text| Number::parse(text).unwrap()).collect();
    assert!(numbers.is_sorted());
    assert!(numbers.iter().map(Number::sortable).is_sorted());
}

/// One step of a table's history.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Expire(u8),
    Roll,
    Split(usize),
    Sleep(u32),
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12_u8, 0..3_u8).prop_map(|(key, value)| Step::Put(key, value)),
        3 => (0..12_u8).prop_map(Step::Delete),
        1 => (0..12_u8).prop_map(Step::Expire),
        1 => Just(Step::Roll),
        1 => (0..4_usize).prop_map(Step::Split),
        2 => (1..2000_u32).prop_map(Step::Sleep),
        2 => Just(Step::Read),
    ]
}

fn call(sandbox: &Sandbox, service: &str, operation: &str, body: &Json) -> Json {
    let request = Request::post("/")
        .header("x-amz-target", format!("{service}_20120810.{operation}"))
        .header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={SOURCE}/20231114/{REGION}/dynamodb/aws4_request"),
        )
        .body(body.to_string().into())
        .unwrap();
    let Outcome::Reply(reply) = sandbox.handle(&request) else { panic!("no reply") };
    let answer = serde_json::from_slice(reply.body()).unwrap();
    assert_eq!(reply.status(), 200, "{operation}: {answer}");
    answer
}

/// Every page of the shards' listing.
fn listing(sandbox: &Sandbox, arn: &str) -> Vec<Json> {
    let mut shards = Vec::new();
    let mut body = json!({"StreamArn": arn});
    loop {
        let page = call(sandbox, "DynamoDBStreams", "DescribeStream", &body)["StreamDescription"].take();
        shards.extend(page["Shards"].as_array().unwrap().iter().cloned());
        match page.get("LastEvaluatedShardId") {
            Some(last) => body["ExclusiveStartShardId"] = last.clone(),
            None => break,
        }
    }
    let ids: BTreeSet<_> = shards.iter().map(|shard: &Json| shard["ShardId"].as_str().unwrap()).collect();
    let mut parents = shards.iter().filter_map(|shard| shard["ParentShardId"].as_str());
    assert!(parents.all(|parent| ids.contains(parent)), "a child is not listed before its parent");
    shards
}

/// A reader that follows the lineage as it should be followed: parents to their end before children.
#[derive(Default)]
struct Follower {
    /// Next iterator of each shard; `None` at its end.
    cursors: BTreeMap<String, Option<String>>,
    items: BTreeMap<String, Json>,
    numbers: BTreeMap<String, String>,
}

impl Follower {
    fn read(&mut self, sandbox: &Sandbox, arn: &str) {
        loop {
            let shards = listing(sandbox, arn);
            let before = self.cursors.clone();
            for shard in shards {
                let id = shard["ShardId"].as_str().unwrap().to_owned();
                // Nothing is trimmed in this test: a parent that was not read to its end must be waited for.
                let parent_done =
                    shard["ParentShardId"].as_str().is_none_or(|parent| self.cursors.get(parent) == Some(&None));
                if !parent_done {
                    continue;
                }
                let cursor = self.cursors.entry(id.clone()).or_insert_with(|| {
                    let body = json!({"StreamArn": arn, "ShardId": id, "ShardIteratorType": "TRIM_HORIZON"});
                    let iterator = call(sandbox, "DynamoDBStreams", "GetShardIterator", &body);
                    iterator["ShardIterator"].as_str().map(str::to_owned)
                });
                let Some(iterator) = cursor.clone() else { continue };
                let page =
                    call(sandbox, "DynamoDBStreams", "GetRecords", &json!({"ShardIterator": iterator, "Limit": 3}));
                *cursor = page["NextShardIterator"].as_str().map(str::to_owned);
                for record in page["Records"].as_array().unwrap() {
                    let change = &record["dynamodb"];
                    let number = change["SequenceNumber"].as_str().unwrap().to_owned();
                    let key = change["Keys"]["id"]["S"].as_str().unwrap().to_owned();
                    assert_eq!(
                        self.items.get(&key),
                        change.get("OldImage"),
                        "the old image is what the last record left"
                    );
                    assert!(self.numbers.insert(key.clone(), number.clone()).is_none_or(|last| last < number));
                    match change.get("NewImage") {
                        Some(image) => self.items.insert(key, image.clone()),
                        None => self.items.remove(&key),
                    };
                }
            }
            if before == self.cursors {
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn the_stream_tells_the_tables_whole_history(
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let (options, clock) = options();
        let sandbox = Sandbox::new(Options {
            seed,
            initial_shards: 1..=3,
            split_chance: 0.5,
            shard_life: Duration::from_secs(3600),
            retention: Duration::from_secs(1_000_000),
            iterator_life: Duration::from_secs(1_000_000),
            empty_page_chance: 0.2,
            children_delay: Duration::from_secs(600),
            children_stagger: Duration::from_secs(600),
            ..options
        });
        let created = call(&sandbox, "DynamoDB", "CreateTable", &json!({
            "TableName": "orders", "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        }));
        let arn = created["TableDescription"]["LatestStreamArn"].as_str().unwrap().to_owned();
        let mut follower = Follower::default();
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    let item = json!({"id": {"S": key.to_string()}, "v": {"N": value.to_string()}});
                    sandbox.put_item(SOURCE, REGION, "orders", &item.to_string()).unwrap();
                }
                Step::Delete(key) => {
                    let body = json!({"TableName": "orders", "Key": {"id": {"S": key.to_string()}}});
                    call(&sandbox, "DynamoDB", "DeleteItem", &body);
                }
                Step::Expire(key) => {
                    let key = json!({"id": {"S": key.to_string()}});
                    sandbox.expire_ttl(SOURCE, REGION, "orders", &key.to_string()).unwrap();
                }
                Step::Roll => {
                    sandbox.roll_shards(SOURCE, REGION, "orders").unwrap();
                }
                Step::Split(n) => {
                    sandbox.split_shard(SOURCE, REGION, "orders", n).unwrap();
                }
                Step::Sleep(secs) => clock.advance(Duration::from_secs(secs.into())),
                Step::Read => follower.read(&sandbox, &arn),
            }
        }
        // Late children become visible; then a reader that has caught up holds the table.
        clock.advance(Duration::from_secs(1200));
        for _ in 0..40 {
            follower.read(&sandbox, &arn);
        }
        let copy: Snapshot = {
            let other = Sandbox::new(Options { ..self::options().0 });
            let created = json!({
                "TableName": "orders", "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
            });
            call(&other, "DynamoDB", "CreateTable", &created);
            for item in follower.items.values() {
                other.put_item(SOURCE, REGION, "orders", &item.to_string()).unwrap();
            }
            other.snapshot(SOURCE, REGION, "orders").unwrap()
        };
        prop_assert_eq!(copy, sandbox.snapshot(SOURCE, REGION, "orders").unwrap());
    }
}
