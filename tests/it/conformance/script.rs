//! The requests, in order: tables, items, batches, scans and queries, streams; what works, and each way to get it wrong.

use serde_json::{Value, json};

use super::{Step, base64, long};

fn step(name: &'static str, operation: &'static str, body: Value) -> Step {
    Step { name, operation, body, look_at: &[], keep: &[] }
}

impl Step {
    fn look_at(mut self, paths: &'static [&'static str]) -> Self {
        self.look_at = paths;
        self
    }

    fn keep(mut self, kept: &'static [(&'static str, &'static str)]) -> Self {
        self.keep = kept;
        self
    }
}

fn table(name: &str, hash: (&str, &str), range: Option<(&str, &str)>) -> Value {
    let parts: Vec<(&str, &str, &str)> =
        [(hash.0, hash.1, "HASH")].into_iter().chain(range.map(|(name, kind)| (name, kind, "RANGE"))).collect();
    json!({
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": parts.iter().map(|(name, kind, _)| json!({"AttributeName": name, "AttributeType": kind})).collect::<Vec<_>>(),
        "KeySchema": parts.iter().map(|(name, _, role)| json!({"AttributeName": name, "KeyType": role})).collect::<Vec<_>>(),
    })
}

fn with(mut body: Value, more: Value) -> Value {
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

fn put(item: Value) -> Value {
    json!({"TableName": "things", "Item": item})
}

fn get(key: Value) -> Value {
    json!({"TableName": "things", "Key": key, "ConsistentRead": true})
}

fn key(id: &str, sort: &str) -> Value {
    json!({"id": {"S": id}, "sort": {"N": sort}})
}

fn item(id: &str, sort: &str, more: Value) -> Value {
    with(key(id, sort), more)
}

fn batch(requests: &[Value]) -> Value {
    json!({"RequestItems": {"things": requests}})
}

fn batch_put(id: &str, sort: usize) -> Value {
    json!({"PutRequest": {"Item": key(id, &sort.to_string())}})
}

fn batch_delete(id: &str, sort: usize) -> Value {
    json!({"DeleteRequest": {"Key": key(id, &sort.to_string())}})
}

pub(crate) fn steps() -> Vec<Step> {
    [tables(), items(), numbers(), conditions(), batches(), reads(), streams(), ends()].into_iter().flatten().collect()
}

fn tables() -> Vec<Step> {
    let stream = json!({"StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"}});
    vec![
        step("describe a table that does not exist", "DescribeTable", json!({"TableName": "things"})),
        step("create a table", "CreateTable", with(table("things", ("id", "S"), Some(("sort", "N"))), stream)).look_at(
            &["/TableDescription/TableName", "/TableDescription/KeySchema", "/TableDescription/StreamSpecification"],
        ),
        step("describe the table", "DescribeTable", json!({"TableName": "things"}))
            .look_at(&[
                "/Table/TableStatus",
                "/Table/KeySchema",
                "/Table/BillingModeSummary/BillingMode",
                "/Table/StreamSpecification/StreamViewType",
                "/Table/TableArn",
            ])
            .keep(&[("/Table/LatestStreamArn", "stream")]),
        step("create it again", "CreateTable", table("things", ("id", "S"), Some(("sort", "N")))),
        step("list the tables", "ListTables", json!({})).look_at(&["/TableNames"]),
        step("create a table with a name too short", "CreateTable", table("ab", ("id", "S"), None)),
        step("create a table with a bad name", "CreateTable", table("a b c", ("id", "S"), None)),
        step(
            "create a table whose key is not defined",
            "CreateTable",
            with(
                table("others", ("id", "S"), None),
                json!({"KeySchema": [{"AttributeName": "no", "KeyType": "HASH"}]}),
            ),
        ),
        step(
            "create a table with an attribute that no key uses",
            "CreateTable",
            with(
                table("others", ("id", "S"), None),
                json!({"AttributeDefinitions": [
                    {"AttributeName": "id", "AttributeType": "S"}, {"AttributeName": "more", "AttributeType": "S"},
                ]}),
            ),
        ),
        step("create a table with a key of truth values", "CreateTable", table("others", ("id", "BOOL"), None)),
        step("an operation that does not exist", "MakeTable", json!({})),
    ]
}

fn items() -> Vec<Step> {
    let every_type = json!({
        "s": {"S": "ä\u{1f600}\u{0}"}, "n": {"N": "-1.5"}, "b": {"B": base64(&[0, 255])}, "yes": {"BOOL": true}, "no": {"NULL": true},
        "ss": {"SS": ["b", "a", ""]}, "ns": {"NS": ["2", "1"]}, "bs": {"BS": [base64(&[1]), base64(&[0])]},
        "l": {"L": [{"S": ""}, {"L": []}]}, "m": {"M": {"": {"S": "x"}, "k": {"M": {}}}}, "empty": {"S": ""}, "none": {"B": ""},
    });
    let nested = |levels: usize| (0..levels).fold(json!({"S": "x"}), |inner, _| json!({"L": [inner]}));
    vec![
        step("put into a table that does not exist", "PutItem", json!({"TableName": "nothing", "Item": key("a", "1")})),
        step("put an item of all types", "PutItem", put(item("a", "1", every_type))),
        step("get it", "GetItem", get(key("a", "1"))).look_at(&["/Item"]),
        step("get an item that does not exist", "GetItem", get(key("nobody", "1"))).look_at(&["/Item"]),
        step("get from a table that does not exist", "GetItem", json!({"TableName": "nothing", "Key": key("a", "1")})),
        step("put without a key", "PutItem", put(json!({"id": {"S": "a"}}))),
        step("put with a key of another type", "PutItem", put(json!({"id": {"N": "1"}, "sort": {"N": "1"}}))),
        step("put with an empty key", "PutItem", put(key("", "1"))),
        step("get by an empty key", "GetItem", get(key("", "1"))),
        step("get by half a key", "GetItem", get(json!({"id": {"S": "a"}}))),
        step("get by more than the key", "GetItem", get(item("a", "1", json!({"x": {"S": "1"}})))),
        step("get by a key of another type", "GetItem", get(json!({"id": {"S": "a"}, "sort": {"S": "1"}}))),
        step("put an empty set", "PutItem", put(item("a", "2", json!({"x": {"SS": []}})))),
        step("put a set with a duplicate", "PutItem", put(item("a", "2", json!({"x": {"SS": ["a", "a"]}})))),
        step("put a set of numbers that are equal", "PutItem", put(item("a", "2", json!({"x": {"NS": ["1", "1.0"]}})))),
        step("put a value of two types", "PutItem", put(item("a", "2", json!({"x": {"S": "a", "N": "1"}})))),
        step("put a value of no type", "PutItem", put(item("a", "2", json!({"x": {}})))),
        step("put bytes that are no base64", "PutItem", put(item("a", "2", json!({"x": {"B": "?"}})))),
        step("put a null that is false", "PutItem", put(item("a", "2", json!({"x": {"NULL": false}})))),
        step("put 31 levels", "PutItem", put(item("a", "3", json!({"x": nested(31)})))),
        step("put 33 levels", "PutItem", put(item("a", "3", json!({"x": nested(33)})))),
        step("put a hash key of 2048 bytes", "PutItem", put(key(&long(2048), "1"))),
        step("put a hash key of 2049 bytes", "PutItem", put(key(&long(2049), "1"))),
        // Names 2 + 4 + 1, values 1 + 2 (a number), and the text: 409,600 in all.
        step("put 400 KB", "PutItem", put(item("b", "1", json!({"x": {"S": long(409_600 - 10)}})))),
        step("put more than 400 KB", "PutItem", put(item("b", "2", json!({"x": {"S": long(409_600)}})))),
        step(
            "put and see what was there",
            "PutItem",
            with(put(item("a", "1", json!({"v": {"S": "new"}}))), json!({"ReturnValues": "ALL_OLD"})),
        )
        .look_at(&["/Attributes/n", "/Attributes/ss"]),
        step(
            "delete and see what was there",
            "DeleteItem",
            json!({"TableName": "things", "Key": key("a", "1"), "ReturnValues": "ALL_OLD"}),
        )
        .look_at(&["/Attributes"]),
        step(
            "delete what is not there",
            "DeleteItem",
            json!({"TableName": "things", "Key": key("a", "1"), "ReturnValues": "ALL_OLD"}),
        )
        .look_at(&["/Attributes"]),
        step(
            "delete by a key of another type",
            "DeleteItem",
            json!({"TableName": "things", "Key": {"id": {"S": "a"}, "sort": {"S": "1"}}}),
        ),
        step("delete 400 KB", "DeleteItem", json!({"TableName": "things", "Key": key("b", "1")})),
        step("delete the longest key", "DeleteItem", json!({"TableName": "things", "Key": key(&long(2048), "1")})),
        step("delete the nested one", "DeleteItem", json!({"TableName": "things", "Key": key("a", "3")})),
    ]
}

fn numbers() -> Vec<Step> {
    let many = json!({
        "zeros": {"N": "001.500"}, "exponent": {"N": "12E2"}, "small": {"N": "1.5e-3"}, "nought": {"N": "-0"}, "none": {"N": "0.000"},
        "long": {"N": "12345678901234567890123456789012345678"}, "most": {"N": "9.9999999999999999999999999999999999999E+125"},
        "least": {"N": "1E-130"}, "plus": {"N": "+5"}, "tens": {"N": "1E20"},
    });
    let one = |text: &str| put(item("n", "2", json!({"x": {"N": text}})));
    vec![
        step("put numbers in many forms", "PutItem", put(item("n", "1.0", many))),
        step("get them", "GetItem", get(key("n", "1"))).look_at(&["/Item"]),
        step("get them by another form of the key", "GetItem", get(key("n", "10E-1")))
            .look_at(&["/Item/id", "/Item/sort"]),
        step("put 39 digits", "PutItem", one("123456789012345678901234567890123456789")),
        step("put a number too big", "PutItem", one("1E126")),
        step("put a number too small", "PutItem", one("1E-131")),
        step("put a word as a number", "PutItem", one("one")),
        step("put an empty number", "PutItem", one("")),
        step("put not a number", "PutItem", one("NaN")),
        step("put infinity", "PutItem", one("Infinity")),
        step("put a number as JSON", "PutItem", put(item("n", "2", json!({"x": {"N": 1}})))),
        step("delete the numbers", "DeleteItem", json!({"TableName": "things", "Key": key("n", "1")})),
    ]
}

fn conditions() -> Vec<Step> {
    let absent = json!({"ConditionExpression": "attribute_not_exists(id)"});
    let update = |expression: &str, values: Value| {
        json!({
            "TableName": "things", "Key": key("c", "1"), "UpdateExpression": expression,
            "ExpressionAttributeNames": {"#v": "v"}, "ExpressionAttributeValues": values, "ReturnValues": "ALL_NEW",
        })
    };
    vec![
        step("put if absent", "PutItem", with(put(item("c", "1", json!({"v": {"N": "1"}}))), absent.clone())),
        step("put if absent where it is present", "PutItem", with(put(item("c", "1", json!({}))), absent)),
        step("update a number", "UpdateItem", update("SET #v = #v + :d", json!({":d": {"N": "0.5"}})))
            .look_at(&["/Attributes"]),
        step(
            "add to a set that is not there",
            "UpdateItem",
            json!({
                "TableName": "things", "Key": key("c", "1"), "UpdateExpression": "ADD s :d",
                "ExpressionAttributeValues": {":d": {"SS": ["a"]}}, "ReturnValues": "ALL_NEW",
            }),
        )
        .look_at(&["/Attributes"]),
        step(
            "update with a value that nothing uses",
            "UpdateItem",
            update("SET #v = :d", json!({":d": {"N": "1"}, ":e": {"N": "2"}})),
        ),
        step(
            "update the key",
            "UpdateItem",
            json!({
                "TableName": "things", "Key": key("c", "1"), "UpdateExpression": "SET id = :d", "ExpressionAttributeValues": {":d": {"S": "x"}},
            }),
        ),
        step(
            "update with an expression that is none",
            "UpdateItem",
            json!({"TableName": "things", "Key": key("c", "1"), "UpdateExpression": "SET"}),
        ),
        step(
            "delete under a condition that fails",
            "DeleteItem",
            json!({
                "TableName": "things", "Key": key("c", "1"), "ConditionExpression": "v = :d", "ExpressionAttributeValues": {":d": {"N": "7"}},
            }),
        ),
        step("delete the updated one", "DeleteItem", json!({"TableName": "things", "Key": key("c", "1")})),
    ]
}

fn batches() -> Vec<Step> {
    let many = |count: usize| batch(&(0..count).map(|n| batch_put("batch", n)).collect::<Vec<_>>());
    vec![
        step("write a batch of 25", "BatchWriteItem", many(25)).look_at(&["/UnprocessedItems"]),
        step("write a batch of 26", "BatchWriteItem", many(26)),
        step("write an empty batch", "BatchWriteItem", json!({"RequestItems": {}})),
        step("write a batch of no requests", "BatchWriteItem", batch(&[])),
        step("write one key twice", "BatchWriteItem", batch(&[batch_put("twice", 1), batch_put("twice", 1)])),
        step("put and delete one key", "BatchWriteItem", batch(&[batch_put("twice", 1), batch_delete("twice", 1)])),
        step(
            "write one key in two forms",
            "BatchWriteItem",
            batch(&[
                json!({"PutRequest": {"Item": key("twice", "1")}}),
                json!({"DeleteRequest": {"Key": key("twice", "1.0")}}),
            ]),
        ),
        step(
            "write a batch with a bad key",
            "BatchWriteItem",
            batch(&[batch_put("bad", 1), json!({"PutRequest": {"Item": {"id": {"S": "bad"}}}})]),
        ),
        step("write a batch with an empty key", "BatchWriteItem", batch(&[batch_put("bad", 1), batch_put("", 1)])),
        step(
            "write a batch with an item too big",
            "BatchWriteItem",
            batch(&[
                batch_put("bad", 1),
                json!({"PutRequest": {"Item": item("bad", "2", json!({"x": {"S": long(409_600)}}))}}),
            ]),
        ),
        step(
            "write a batch to a table that does not exist",
            "BatchWriteItem",
            json!({"RequestItems": {
                "things": [batch_put("bad", 1)], "nothing": [batch_put("bad", 1)],
            }}),
        ),
        step("nothing of a bad batch was written", "GetItem", get(key("bad", "1"))).look_at(&["/Item"]),
        step(
            "a batch by the table's ARN",
            "BatchWriteItem",
            json!({"RequestItems": {
                "arn:aws:dynamodb:eu-west-1:111111111111:table/things": [batch_delete("batch", 24)],
            }}),
        )
        .look_at(&["/UnprocessedItems"]),
        step(
            "get a batch",
            "BatchGetItem",
            json!({"RequestItems": {"things": {"Keys": [key("batch", "3"), key("nobody", "1")]}}}),
        )
        .look_at(&["/Responses/things", "/UnprocessedKeys"]),
    ]
}

fn reads() -> Vec<Step> {
    let query = |more: Value| {
        with(
            json!({
                "TableName": "pages", "KeyConditionExpression": "id = :i", "ExpressionAttributeValues": {":i": {"S": "batch"}},
            }),
            more,
        )
    };
    let puts: Vec<Value> = (0..25).map(|n| batch_put("batch", n)).collect();
    vec![
        step("create a table for reading", "CreateTable", table("pages", ("id", "S"), Some(("sort", "N")))),
        step("fill it", "BatchWriteItem", json!({"RequestItems": {"pages": puts}})).look_at(&["/UnprocessedItems"]),
        step("scan", "Scan", json!({"TableName": "pages", "ConsistentRead": true})).look_at(&[
            "/Count",
            "/ScannedCount",
            "/LastEvaluatedKey",
        ]),
        step("scan a segment of one", "Scan", json!({"TableName": "pages", "Segment": 0, "TotalSegments": 1}))
            .look_at(&["/Count", "/LastEvaluatedKey"]),
        step("scan with a limit", "Scan", json!({"TableName": "pages", "Limit": 10}))
            .look_at(&["/Count"])
            .keep(&[("/LastEvaluatedKey", "last key")]),
        step("scan what comes after it", "Scan", json!({"TableName": "pages", "ExclusiveStartKey": "$last key"}))
            .look_at(&["/Count", "/LastEvaluatedKey"]),
        step("scan a segment out of range", "Scan", json!({"TableName": "pages", "Segment": 2, "TotalSegments": 2})),
        step("scan a segment of nothing", "Scan", json!({"TableName": "pages", "Segment": 0})),
        step("scan with no limit at all", "Scan", json!({"TableName": "pages", "Limit": 0})),
        step(
            "scan after a bad key",
            "Scan",
            json!({"TableName": "pages", "ExclusiveStartKey": {"id": {"S": "batch"}}}),
        ),
        step("scan a table that does not exist", "Scan", json!({"TableName": "nothing"})),
        step("query", "Query", query(json!({"Limit": 3}))).look_at(&["/Items", "/Count", "/LastEvaluatedKey"]),
        step("query backwards", "Query", query(json!({"Limit": 2, "ScanIndexForward": false}))).look_at(&["/Items"]),
        step(
            "query between",
            "Query",
            query(json!({
                "KeyConditionExpression": "id = :i AND sort BETWEEN :a AND :b",
                "ExpressionAttributeValues": {":i": {"S": "batch"}, ":a": {"N": "9"}, ":b": {"N": "11.0"}},
            })),
        )
        .look_at(&["/Items"]),
        step(
            "query without the hash key",
            "Query",
            query(json!({
                "KeyConditionExpression": "sort = :a", "ExpressionAttributeValues": {":a": {"N": "1"}},
            })),
        ),
        step("query an index that does not exist", "Query", query(json!({"IndexName": "none"}))),
    ]
}

fn streams() -> Vec<Step> {
    let of = |body: Value| with(json!({"StreamArn": "$stream"}), body);
    let at = |kind: &str, more: Value| of(with(json!({"ShardId": "$shard", "ShardIteratorType": kind}), more));
    let records = |iterator: &str| json!({"ShardIterator": iterator});
    let unknown = "arn:aws:dynamodb:eu-west-1:111111111111:table/things/stream/2020-01-01T00:00:00.000";
    vec![
        step("list the table's streams", "ListStreams", json!({"TableName": "things"}))
            .look_at(&["/Streams/0/TableName", "/Streams/1"]),
        step("describe the stream", "DescribeStream", of(json!({})))
            .look_at(&[
                "/StreamDescription/StreamStatus",
                "/StreamDescription/StreamViewType",
                "/StreamDescription/TableName",
                "/StreamDescription/KeySchema",
                "/StreamDescription/Shards/1",
                "/StreamDescription/Shards/0/SequenceNumberRange/EndingSequenceNumber",
                "/StreamDescription/LastEvaluatedShardId",
            ])
            .keep(&[("/StreamDescription/Shards/0/ShardId", "shard")]),
        step("describe a stream that does not exist", "DescribeStream", json!({"StreamArn": unknown})),
        step("describe what is no stream", "DescribeStream", json!({"StreamArn": "orders"})),
        step("read from the newest on", "GetShardIterator", at("LATEST", json!({})))
            .keep(&[("/ShardIterator", "latest")]),
        step("nothing yet", "GetRecords", records("$latest"))
            .look_at(&["/Records"])
            .keep(&[("/NextShardIterator", "next")]),
        step("put a new item", "PutItem", put(item("s", "1.0", json!({"v": {"N": "1.0"}})))),
        step("change it", "PutItem", put(item("s", "1", json!({"v": {"N": "2"}})))),
        step("write what is there already", "PutItem", put(item("s", "1.00", json!({"v": {"N": "2.0"}})))),
        step(
            "update it to what it is",
            "UpdateItem",
            json!({
                "TableName": "things", "Key": key("s", "1"), "UpdateExpression": "SET v = :v", "ExpressionAttributeValues": {":v": {"N": "2"}},
            }),
        ),
        step("delete it", "DeleteItem", json!({"TableName": "things", "Key": key("s", "1")})),
        step("delete it again", "DeleteItem", json!({"TableName": "things", "Key": key("s", "1")})),
        step(
            "make one by an update",
            "UpdateItem",
            json!({
                "TableName": "things", "Key": key("s", "2"), "UpdateExpression": "SET v = :v", "ExpressionAttributeValues": {":v": {"S": ""}},
            }),
        ),
        step("read what happened", "GetRecords", records("$next"))
            .look_at(&[
                "/Records/0/eventName",
                "/Records/0/eventSource",
                "/Records/0/awsRegion",
                "/Records/0/dynamodb/Keys",
                "/Records/0/dynamodb/NewImage",
                "/Records/0/dynamodb/OldImage",
                "/Records/0/dynamodb/StreamViewType",
                "/Records/0/userIdentity",
                "/Records/1/eventName",
                "/Records/1/dynamodb/NewImage",
                "/Records/1/dynamodb/OldImage",
                "/Records/2/eventName",
                "/Records/2/dynamodb/NewImage",
                "/Records/2/dynamodb/OldImage",
                "/Records/3/eventName",
                "/Records/3/dynamodb/NewImage",
                "/Records/3/dynamodb/OldImage",
                "/Records/4/eventName",
            ])
            .keep(&[("/Records/0/dynamodb/SequenceNumber", "first"), ("/Records/1/dynamodb/SequenceNumber", "second")]),
        step(
            "read after the first",
            "GetShardIterator",
            at("AFTER_SEQUENCE_NUMBER", json!({"SequenceNumber": "$first"})),
        )
        .keep(&[("/ShardIterator", "after")]),
        step("the second comes next", "GetRecords", with(records("$after"), json!({"Limit": 1})))
            .look_at(&["/Records/0/eventName", "/Records/1"]),
        step("read at the second", "GetShardIterator", at("AT_SEQUENCE_NUMBER", json!({"SequenceNumber": "$second"})))
            .keep(&[("/ShardIterator", "at")]),
        step("the second comes first", "GetRecords", with(records("$at"), json!({"Limit": 1})))
            .look_at(&["/Records/0/eventName", "/Records/1"]),
        step("read from the oldest on", "GetShardIterator", at("TRIM_HORIZON", json!({})))
            .keep(&[("/ShardIterator", "oldest")]),
        step("the oldest is the first that was put", "GetRecords", with(records("$oldest"), json!({"Limit": 1})))
            .look_at(&["/Records/0/eventName", "/Records/0/dynamodb/Keys", "/Records/1"]),
        step("read more than 1000 at once", "GetRecords", with(records("$oldest"), json!({"Limit": 1001}))),
        step("read none at once", "GetRecords", with(records("$oldest"), json!({"Limit": 0}))),
        step("read by a made-up iterator", "GetRecords", records("made-up")),
        step(
            "read a shard that does not exist",
            "GetShardIterator",
            of(json!({
                "ShardId": "shardId-00000000000000000000-00000000", "ShardIteratorType": "TRIM_HORIZON",
            })),
        ),
        step("read in a way that does not exist", "GetShardIterator", at("NEWEST", json!({}))),
        step("read after no number", "GetShardIterator", at("AFTER_SEQUENCE_NUMBER", json!({}))),
        step("read after a word", "GetShardIterator", at("AFTER_SEQUENCE_NUMBER", json!({"SequenceNumber": "first"}))),
        step(
            "read a stream that does not exist",
            "GetShardIterator",
            json!({
                "StreamArn": unknown, "ShardId": "$shard", "ShardIteratorType": "TRIM_HORIZON",
            }),
        ),
    ]
}

fn ends() -> Vec<Step> {
    let newest = json!({"StreamArn": "$stream", "ShardId": "$shard", "ShardIteratorType": "LATEST"});
    vec![
        step(
            "turn on a stream that is on",
            "UpdateTable",
            json!({"TableName": "things", "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"}}),
        ),
        step("an iterator before the end", "GetShardIterator", newest).keep(&[("/ShardIterator", "last")]),
        step(
            "turn the stream off",
            "UpdateTable",
            json!({"TableName": "things", "StreamSpecification": {"StreamEnabled": false}}),
        ),
        step(
            "turn it off again",
            "UpdateTable",
            json!({"TableName": "things", "StreamSpecification": {"StreamEnabled": false}}),
        ),
        step("the stream can still be described", "DescribeStream", json!({"StreamArn": "$stream"}))
            .look_at(&["/StreamDescription/StreamStatus", "/StreamDescription/Shards/1"]),
        step("its end is shown by no next iterator", "GetRecords", json!({"ShardIterator": "$last"}))
            .look_at(&["/Records", "/NextShardIterator"]),
        step("delete the table", "DeleteTable", json!({"TableName": "things"}))
            .look_at(&["/TableDescription/TableName"]),
        step("delete it once more", "DeleteTable", json!({"TableName": "nothing"})),
    ]
}
