//! The adapters over the real SDK and an HTTP client in memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::{Response, StatusCode};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;

use super::*;
use crate::apply::TargetTable as _;
use crate::config::{SideConfig, TableRef};
use crate::context::{Context, WallClock};
use crate::decode::KeyCodec;
use crate::error::{Failure, Fault};
use crate::load::{ScanRequest, TableReader as _};
use crate::model::{
    KeyAttribute, KeyKind, KeySchema, RawItem, SequenceNumber, ShardId, StartAt, StreamArn, ViewType, WallTime, Write,
};
use crate::stream::{ShardIterator, StreamSource as _, StreamStatus};

/// A clock that moves when told to.
#[derive(Debug, Default)]
pub(super) struct Manual(AtomicI64);

impl Manual {
    pub(super) const START: i64 = 1_800_000_000_000;

    pub(super) fn context() -> (Arc<Self>, Context) {
        let clock = Arc::new(Self(AtomicI64::new(Self::START)));
        (Arc::clone(&clock), Context::new(Arc::clone(&clock) as Arc<dyn WallClock>, fastrand::Rng::with_seed(7)))
    }

    pub(super) fn millis(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl WallClock for Manual {
    fn now(&self) -> WallTime {
        WallTime::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// A request as it would have gone onto the wire.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) headers: Vec<(String, String)>,
    pub(super) uri: String,
    pub(super) body: Bytes,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    pub(super) fn operation(&self) -> &str {
        self.header("x-amz-target").rsplit('.').next().unwrap()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Body(u16, Bytes),
    /// A body that ends before its announced length.
    Truncated(Bytes),
    /// The connection breaks after the request was sent.
    Broken,
    Silence,
}

impl Reply {
    pub(super) fn ok(body: impl Into<Bytes>) -> Self {
        Self::Body(200, body.into())
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let body =
            serde_json::json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": message});
        Self::Body(status, body.to_string().into())
    }
}

/// Answers requests from a list, and keeps them.
#[derive(Debug, Clone, Default)]
pub(super) struct Server(Arc<Mutex<(VecDeque<Reply>, Vec<Seen>)>>);

impl Server {
    pub(super) fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self(Arc::new(Mutex::new((replies.into_iter().collect(), Vec::new()))))
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().1.clone()
    }

    pub(super) fn client(&self) -> SharedHttpClient {
        let connector = SharedHttpConnector::new(self.clone());
        http_client_fn(move |_, _| connector.clone())
    }
}

impl HttpConnector for Server {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let seen = Seen {
            headers: request.headers().iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            uri: request.uri().to_owned(),
            body: Bytes::copy_from_slice(request.body().bytes().unwrap()),
        };
        let mut state = self.0.lock().unwrap();
        state.1.push(seen);
        let reply = state.0.pop_front().unwrap_or(Reply::Broken);
        HttpConnectorFuture::new(async move {
            let (status, body, missing) = match reply {
                Reply::Body(status, body) => (status, body, 0),
                Reply::Truncated(body) => (200, body, 1),
                Reply::Broken => return Err(ConnectorError::io("connection reset by peer".into())),
                Reply::Silence => std::future::pending().await,
            };
            let length = body.len() + missing;
            let mut response = Response::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body));
            response.headers_mut().insert("content-length", length.to_string());
            response.headers_mut().insert("x-amzn-requestid", "REQ1");
            response.headers_mut().insert("date", "Fri, 15 Jan 2027 08:00:03 GMT");
            Ok(response)
        })
    }
}

pub(super) fn side() -> SideConfig {
    SideConfig { region: Some("eu-west-1".into()), ..SideConfig::default() }
}

pub(super) fn clients(server: &Server, context: &Context) -> Clients {
    Clients {
        http: Some(server.client()),
        isolated: Some(AccessKey { id: "111122223333".into(), secret: "secret-of-the-key".into() }),
        ..Clients::new(context.clone(), Duration::from_secs(5))
    }
}

async fn account(server: &Server) -> Account {
    let (_, context) = Manual::context();
    Account::connect(&side(), Side::Source, &clients(server, &context)).await.unwrap()
}

fn schema() -> KeySchema {
    KeySchema { hash: KeyAttribute { name: "pk".into(), kind: KeyKind::S }, range: None }
}

fn orders() -> TableRef {
    TableRef::Name("orders".into())
}

async fn table(server: &Server) -> Table {
    account(server).await.table(&orders(), &schema())
}

fn put(item: &str) -> Write {
    let image = RawItem::new(item.to_owned().into());
    Write { key: KeyCodec::new(&schema()).key_of_item(image.json()).unwrap(), image: Some(image) }
}

fn delete(key: &str) -> Write {
    Write { key: KeyCodec::new(&schema()).key(key.to_owned().into()).unwrap(), image: None }
}

fn stream() -> StreamArn {
    StreamArn("arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-11-20T00:00:00.000".into())
}

async fn read_records(reply: Reply) -> (Result<Bytes, Failure>, Seen) {
    let server = Server::new([reply]);
    let streams = account(&server).await.streams();
    let page = streams.records(&ShardIterator::new(r#"it"er"#), 1000).await;
    (page.map(|page| page.body), server.seen().remove(0))
}

#[tokio::test(start_paused = true)]
async fn a_page_of_records_is_the_very_buffer_that_was_received() {
    let body = Bytes::from(format!(r#"{{"Records":[],"x":"{}","NextShardIterator":"n"}}"#, "é".repeat(200_000)));
    let (page, _) = read_records(Reply::ok(body.clone())).await;
    let page = page.unwrap();
    assert_eq!(page, body);
    assert_eq!(page.as_ptr(), body.as_ptr(), "no copy");
}

#[tokio::test(start_paused = true)]
async fn a_raw_request_has_all_that_the_service_wants() {
    let (_, seen) = read_records(Reply::ok(r#"{"Records":[]}"#)).await;
    assert_eq!(seen.header("x-amz-target"), "DynamoDBStreams_20120810.GetRecords");
    assert_eq!(seen.header("content-type"), "application/x-amz-json-1.0");
    assert_eq!(seen.header("content-length"), seen.body.len().to_string());
    assert_eq!(seen.json(), serde_json::json!({"ShardIterator": "it\"er", "Limit": 1000}));
    assert!(seen.header("authorization").contains("/eu-west-1/dynamodb/aws4_request"), "{:?}", seen.headers);
    assert!(seen.header("x-amz-date").starts_with("20270115T080000Z"), "signed by the context's clock");
    assert!(seen.header("user-agent").starts_with("dynaferry/"), "{:?}", seen.headers);
    assert_eq!(seen.uri, "https://streams.dynamodb.eu-west-1.amazonaws.com/");
}

#[tokio::test(start_paused = true)]
async fn errors_are_typed_and_have_their_fate() {
    for (status, code, fault, throttled, may_have_happened) in [
        (400, "ExpiredIteratorException", Fault::Expired, false, false),
        (400, "TrimmedDataAccessException", Fault::Lost, false, false),
        (400, "ResourceNotFoundException", Fault::Lost, false, false),
        (400, "LimitExceededException", Fault::Transient, true, false),
        (400, "ThrottlingException", Fault::Transient, true, false),
        (400, "AccessDeniedException", Fault::Denied, false, false),
        (500, "InternalServerError", Fault::Transient, false, true),
        (503, "Anything", Fault::Transient, false, true),
    ] {
        let failure = read_records(Reply::error(status, code, "why")).await.0.unwrap_err();
        assert_eq!(failure.operation, "GetRecords");
        assert_eq!(failure.code.as_deref(), Some(code));
        assert_eq!((failure.fault, failure.throttled), (fault, throttled), "{code}");
        assert_eq!(failure.may_have_happened, may_have_happened, "{code}");
        assert_eq!((failure.message.as_str(), failure.request_id.as_deref()), ("why", Some("REQ1")), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_the_services_words_is_judged_by_its_status() {
    for (status, body, fault, may_have_happened) in [
        (502, "<html>Bad Gateway</html>", Fault::Transient, true),
        (503, "", Fault::Transient, true),
        (302, "", Fault::Transient, true),
        (403, "<html>Forbidden</html>", Fault::Denied, false),
        (413, "", Fault::Rejected, false),
    ] {
        let failure = read_records(Reply::Body(status, body.into())).await.0.unwrap_err();
        assert_eq!((failure.fault, failure.may_have_happened), (fault, may_have_happened), "{status}: {failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_call_is_one_attempt() {
    let server = Server::new([Reply::error(500, "InternalServerError", "x"), Reply::ok("{}")]);
    assert!(table(&server).await.write(&[delete(r#"{"pk":{"S":"a"}}"#)]).await.is_err());
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_holds_the_images_as_they_came() {
    let server = Server::new([Reply::ok(r#"{"UnprocessedItems":{}}"#)]);
    let item = r#"{ "pk":{"S":"a"}, "n" : {"N":"1.50"} }"#;
    let writes = [put(item), delete(r#"{"pk":{"S":"b"}}"#)];
    let reply = table(&server).await.write(&writes).await.unwrap();
    assert!(reply.unprocessed.is_empty());
    let seen = server.seen().remove(0);
    let want = format!(
        r#"{{"RequestItems":{{"orders":[{{"PutRequest":{{"Item":{item}}}}},{{"DeleteRequest":{{"Key":{{"pk":{{"S":"b"}}}}}}}}]}},"ReturnConsumedCapacity":"TOTAL"}}"#
    );
    assert_eq!(seen.body, want.as_bytes());
    assert_eq!(seen.header("x-amz-target"), "DynamoDB_20120810.BatchWriteItem");
    assert_eq!(seen.header("content-length"), want.len().to_string());
}

#[test]
fn a_batch_is_built_without_growing() {
    let writes: Vec<Write> = (0..25).map(|n| put(&format!(r#"{{"pk":{{"S":"{n}"}}}}"#))).collect();
    let body = super::tables::write_request("orders", &writes);
    assert!(body.capacity() < body.len() + 200, "{} of {}", body.len(), body.capacity());
    let deletes: Vec<Write> = (0..25).map(|n| delete(&format!(r#"{{"pk":{{"S":"{n}"}}}}"#))).collect();
    let body = super::tables::write_request("orders", &deletes);
    assert!(body.capacity() < body.len() + 200, "{} of {}", body.len(), body.capacity());
}

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_is_named() {
    let left = r#"{"UnprocessedItems":{"orders":[{"DeleteRequest":{"Key":{"pk":{"S":"b"}}}}]},"ConsumedCapacity":[{"TableName":"orders","CapacityUnits":3.0}]}"#;
    let server = Server::new([Reply::ok(left)]);
    let writes = [put(r#"{"pk":{"S":"a"}}"#), delete(r#"{"pk":{"S":"b"}}"#)];
    let reply = table(&server).await.write(&writes).await.unwrap();
    assert_eq!(reply.unprocessed, [writes[1].key.canonical.clone()]);
    assert_eq!(reply.consumed_units, Some(3.0));
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_may_have_happened() {
    let lost = [Reply::Truncated("{\"Unproc".into()), Reply::Broken, Reply::Silence];
    for reply in lost {
        let server = Server::new([reply.clone()]);
        let failure = table(&server).await.write(&[put(r#"{"pk":{"S":"a"}}"#)]).await.unwrap_err();
        assert_eq!((failure.fault, failure.may_have_happened), (Fault::Transient, true), "{reply:?}: {failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_truncated_page_is_a_failure_and_no_page() {
    let failure = read_records(Reply::Truncated(r#"{"Records":[]}"#.into())).await.0.unwrap_err();
    assert_eq!(failure.fault, Fault::Transient);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_understood_is_broken_and_happened() {
    let server = Server::new([Reply::ok("[]")]);
    let failure = table(&server).await.write(&[put(r#"{"pk":{"S":"a"}}"#)]).await.unwrap_err();
    assert_eq!((failure.fault, failure.may_have_happened), (Fault::Broken, true), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn items_of_400_kb_pass_both_ways() {
    let item = format!(r#"{{"pk":{{"S":"a"}},"v":{{"S":"{}"}}}}"#, "v".repeat(409_000));
    let server = Server::new([Reply::ok("{}"), Reply::ok(format!(r#"{{"Item":{item}}}"#))]);
    let table = table(&server).await;
    table.write(&[put(&item), delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    let read = table.get(&put(&item).key).await.unwrap().unwrap();
    assert_eq!(read.json(), item.as_bytes());
    let seen = server.seen();
    assert_eq!(seen[0].json()["RequestItems"]["orders"][0]["PutRequest"]["Item"]["v"]["S"], "v".repeat(409_000));
    assert_eq!(
        seen[1].json(),
        serde_json::json!({"TableName": "orders", "ConsistentRead": true, "Key": {"pk": {"S": "a"}}})
    );
}

#[tokio::test(start_paused = true)]
async fn a_scan_is_consistent_and_goes_on_where_it_ended() {
    let body = r#"{"Items":[{"pk":{"S":"a"},"n":{"N":"1.50"}}],"LastEvaluatedKey":{"pk":{"S":"a"}},"ConsumedCapacity":{"CapacityUnits":2.0}}"#;
    let server = Server::new([Reply::ok(body), Reply::ok(r#"{"Items":[]}"#)]);
    let table = table(&server).await;
    let mut request = ScanRequest { segment: 1, total_segments: 4, start: None, limit: None };
    let page = table.scan(&request).await.unwrap();
    assert_eq!(page.items[0].image.json(), r#"{"pk":{"S":"a"},"n":{"N":"1.50"}}"#.as_bytes());
    assert_eq!(page.consumed_units, Some(2.0));
    (request.start, request.limit) = (page.last_key, Some(10));
    assert!(table.scan(&request).await.unwrap().last_key.is_none());
    let mut want = serde_json::json!({"TableName": "orders", "Segment": 1, "TotalSegments": 4, "ConsistentRead": true, "ReturnConsumedCapacity": "TOTAL"});
    assert_eq!(server.seen()[0].json(), want);
    want["Limit"] = 10.into();
    want["ExclusiveStartKey"] = serde_json::json!({"pk": {"S": "a"}});
    assert_eq!(server.seen()[1].json(), want);
}

#[tokio::test(start_paused = true)]
async fn a_table_of_another_account_is_named_by_its_arn() {
    let arn = "arn:aws:dynamodb:eu-west-1:444455556666:table/orders";
    let server = Server::new([Reply::ok("{}")]);
    let table = account(&server).await.table(&TableRef::Arn(arn.parse().unwrap()), &schema());
    table.write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    let seen = server.seen().remove(0);
    assert!(seen.json()["RequestItems"][arn].is_array(), "{}", seen.json());
    assert_eq!(seen.uri, "https://444455556666.ddb.eu-west-1.amazonaws.com/", "the endpoint is chosen by the ARN");
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_the_side_are_used() {
    let server = Server::new([Reply::ok(r#"{"Records":[]}"#), Reply::ok("{}")]);
    let (_, context) = Manual::context();
    let config = SideConfig { endpoint_url: Some("http://127.0.0.1:8000".into()), ..side() };
    let account = Account::connect(&config, Side::Target, &clients(&server, &context)).await.unwrap();
    account.streams().records(&ShardIterator::new("i"), 1).await.unwrap();
    account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    assert!(server.seen().iter().all(|seen| seen.uri.starts_with("http://127.0.0.1:8000")), "{:?}", server.seen());
}

#[tokio::test(start_paused = true)]
async fn a_side_without_a_region_is_refused_with_a_hint() {
    let (_, context) = Manual::context();
    let error = Account::connect(&SideConfig::default(), Side::Source, &clients(&Server::default(), &context)).await;
    let error = error.unwrap_err();
    assert_eq!(error.exit, crate::error::Exit::Config);
    assert!(error.hint.unwrap().contains("AWS_REGION"));
}

#[tokio::test(start_paused = true)]
async fn a_listing_page_says_what_the_service_said() {
    let body = r#"{"StreamDescription":{"StreamStatus":"ENABLED","StreamViewType":"NEW_IMAGE","LastEvaluatedShardId":"shard-2","Shards":[
        {"ShardId":"shard-1","SequenceNumberRange":{"StartingSequenceNumber":"100","EndingSequenceNumber":"200"}},
        {"ShardId":"shard-2","ParentShardId":"shard-1","SequenceNumberRange":{"StartingSequenceNumber":"201"}}]}}"#;
    let server = Server::new([Reply::ok(body), Reply::ok(body)]);
    let streams = account(&server).await.streams();
    let page = streams.describe(&stream(), Some(&ShardId::new("shard-0"))).await.unwrap();
    assert_eq!((page.status, page.view), (StreamStatus::Enabled, Some(ViewType::NewImage)));
    assert_eq!(page.next, Some(ShardId::new("shard-2")));
    assert_eq!(page.shards[0].last, Some(SequenceNumber::parse("200").unwrap()));
    assert_eq!((page.shards[1].last, page.shards[1].parent.clone()), (None, Some(ShardId::new("shard-1"))));
    assert_eq!(streams.children(&stream(), &ShardId::new("shard-1")).await.unwrap().len(), 2);
    let seen = server.seen();
    assert_eq!(seen[0].json()["ExclusiveStartShardId"], "shard-0");
    assert_eq!(seen[1].json()["ShardFilter"], serde_json::json!({"Type": "CHILD_SHARDS", "ShardId": "shard-1"}));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_stream_status_is_broken_and_not_guessed() {
    let server = Server::new([Reply::ok(r#"{"StreamDescription":{"StreamStatus":"NEW","Shards":[]}}"#)]);
    let failure = account(&server).await.streams().describe(&stream(), None).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Broken);
}

#[tokio::test(start_paused = true)]
async fn iterators_start_at_the_horizon_or_after_a_record() {
    let server = Server::new([Reply::ok(r#"{"ShardIterator":"i"}"#), Reply::ok("{}")]);
    let streams = account(&server).await.streams();
    let number = SequenceNumber::parse("000000000000000000042").unwrap();
    let shard = ShardId::new("shard-1");
    assert_eq!(streams.iterator(&stream(), &shard, StartAt::After(number)).await.unwrap().as_str(), "i");
    let missing = streams.iterator(&stream(), &shard, StartAt::TrimHorizon).await.unwrap_err();
    assert_eq!(missing.fault, Fault::Broken);
    assert_eq!(server.seen()[0].json()["ShardIteratorType"], "AFTER_SEQUENCE_NUMBER");
    assert_eq!(server.seen()[0].json()["SequenceNumber"], "000000000000000000042");
    assert_eq!(server.seen()[1].json()["ShardIteratorType"], "TRIM_HORIZON");
}

#[tokio::test(start_paused = true)]
async fn every_attempt_is_told_with_both_clocks() {
    let server = Server::new([
        Reply::ok(r#"{"Items":[]}"#),
        Reply::error(400, "ProvisionedThroughputExceededException", "x"),
        Reply::error(400, "AccessDeniedException", "x"),
        Reply::Broken,
        Reply::error(400, "ValidationException", "x"),
    ]);
    let (_, context) = Manual::context();
    let told = Arc::new(Mutex::new(Vec::new()));
    let observer: Observer = Arc::new({
        let told = Arc::clone(&told);
        move |record| told.lock().unwrap().push(record)
    });
    let clients = Clients { observer: Some(observer), ..clients(&server, &context) };
    let account = Account::connect(&side(), Side::Target, &clients).await.unwrap();
    let table = account.table(&orders(), &schema());
    let request = ScanRequest { segment: 0, total_segments: 1, start: None, limit: None };
    for _ in 0..4 {
        drop(table.scan(&request).await);
    }
    drop(account.describe(&orders()).await);
    let told = told.lock().unwrap().clone();
    let outcomes: Vec<Outcome> = told.iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes, [Outcome::Ok, Outcome::Throttled, Outcome::Denied, Outcome::Retryable, Outcome::Error]);
    assert_eq!((told[0].operation, told[4].operation, told[0].side), ("Scan", "DescribeTable", Side::Target));
    let theirs = WallTime::from_secs(1_800_000_003);
    assert_eq!(told[0].clocks, Some((theirs, WallTime::from_millis(Manual::START))));
    assert!(told[3].clocks.is_none() && told[4].clocks.is_some());
}

#[tokio::test(start_paused = true)]
async fn no_text_holds_items_keys_or_secrets() {
    let quoting = "The parameter cannot be converted to a numeric value: secret-value";
    let item = r#"{"pk":{"S":"secret-key"},"v":{"S":"secret-value"}}"#;
    for reply in [
        Reply::error(400, "ValidationException", quoting),
        Reply::ok(format!("[{item}]")),
        Reply::Truncated(item.into()),
        Reply::Broken,
        Reply::Silence,
    ] {
        let server = Server::new([reply]);
        let table = table(&server).await;
        let failure = table.write(&[put(item)]).await.unwrap_err();
        let text = format!("{failure} {failure:?} {table:?} {:?}", clients(&server, &Manual::context().1));
        assert!(!text.contains("secret"), "{text}");
    }
}

/// A role's session, as the token service grants it.
pub(super) fn session(id: &str, expires: &str) -> Reply {
    Reply::ok(format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><AssumedRoleUser>\
         <AssumedRoleId>A:dynaferry</AssumedRoleId><Arn>arn:aws:sts::444455556666:assumed-role/copy/dynaferry</Arn>\
         </AssumedRoleUser><Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
         <SessionToken>t</SessionToken><Expiration>{expires}</Expiration></Credentials></AssumeRoleResult>\
         </AssumeRoleResponse>"
    ))
}

fn in_role() -> SideConfig {
    SideConfig {
        role_arn: Some("arn:aws:iam::444455556666:role/copy".into()),
        external_id: Some(crate::config::ExternalId::Value("ext-1".into())),
        sts_endpoint_url: Some("http://127.0.0.1:9000".into()),
        ..side()
    }
}

#[tokio::test(start_paused = true)]
async fn expired_credentials_are_replaced_for_the_next_attempt() {
    let server = Server::new([
        session("AKIAFIRST", "2027-01-15T09:00:00Z"),
        Reply::error(400, "ExpiredTokenException", "The security token included in the request is expired"),
        session("AKIASECOND", "2027-01-15T09:00:00Z"),
        Reply::ok("{}"),
    ]);
    let (_, context) = Manual::context();
    let account = Account::connect(&in_role(), Side::Target, &clients(&server, &context)).await.unwrap();
    let table = account.table(&orders(), &schema());
    let writes = [delete(r#"{"pk":{"S":"b"}}"#)];
    let failure = table.write(&writes).await.unwrap_err();
    assert_eq!((failure.fault, failure.may_have_happened), (Fault::Denied, false));
    table.write(&writes).await.unwrap();
    let seen = server.seen();
    assert!(seen[1].header("authorization").contains("AKIAFIRST"));
    assert!(seen[3].header("authorization").contains("AKIASECOND"));
    let asked = std::str::from_utf8(&seen[0].body).unwrap();
    assert!(asked.contains("ExternalId=ext-1") && asked.contains("RoleSessionName=dynaferry"), "{asked}");
    assert!(seen[0].header("authorization").contains("111122223333/"), "the role is assumed with the base key");
    assert!(seen[0].uri.starts_with("http://127.0.0.1:9000"));
    assert_eq!(account.credentials_expire_at(), Some(WallTime::from_secs(1_800_003_600)));
}

#[tokio::test(start_paused = true)]
async fn a_raw_call_of_a_role_goes_where_the_sdk_sends_it_and_carries_its_token() {
    let server = Server::new([session("AKIAFIRST", "2027-01-15T09:00:00Z"), Reply::ok("{}"), Reply::ok("{}")]);
    let (_, context) = Manual::context();
    let account = Account::connect(&in_role(), Side::Target, &clients(&server, &context)).await.unwrap();
    account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    drop(account.describe(&orders()).await);
    let [_, raw, typed] = server.seen().try_into().unwrap();
    assert_eq!((raw.operation(), typed.operation()), ("BatchWriteItem", "DescribeTable"));
    assert_eq!(raw.uri, typed.uri);
    assert!(raw.uri.contains(".ddb.eu-west-1."), "the endpoint of the role's account: {}", raw.uri);
    for header in ["x-amz-security-token", "x-amz-date", "content-type"] {
        assert_eq!(raw.header(header), typed.header(header), "{header}");
        assert!(!raw.header(header).is_empty(), "{header}");
        assert!(raw.header("authorization").contains(header), "{header} is signed");
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_fit_into_no_header_are_an_error_that_does_not_show_them() {
    for id in ["AKIA\n1", "AKIA\u{7f}1"] {
        let server = Server::new([1, 2].map(|_| session(id, "2027-01-15T09:00:00Z")));
        let (_, context) = Manual::context();
        let account = Account::connect(&in_role(), Side::Target, &clients(&server, &context)).await.unwrap();
        let table = account.table(&orders(), &schema());
        for failure in [
            table.write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap_err(),
            account.describe(&orders()).await.unwrap_err(),
        ] {
            assert_eq!((failure.fault, failure.may_have_happened), (Fault::Denied, false), "{failure}");
            let text = failure.to_string();
            assert!(text.contains("access key id") && !text.contains("AKIA"), "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_role_that_is_refused_is_denied_and_a_token_service_that_is_away_passes() {
    let refusal = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: arn:aws:iam::111122223333:user/a is not authorized to perform: sts:AssumeRole</Message></Error><RequestId>r</RequestId></ErrorResponse>";
    for (reply, fault) in [
        (Reply::Body(403, refusal.into()), Fault::Denied),
        (Reply::Broken, Fault::Transient),
        (Reply::Silence, Fault::Transient),
        (Reply::Body(503, "".into()), Fault::Transient),
    ] {
        let server = Server::new([reply.clone()]);
        let (_, context) = Manual::context();
        let account = Account::connect(&in_role(), Side::Target, &clients(&server, &context)).await.unwrap();
        let writes = [delete(r#"{"pk":{"S":"b"}}"#)];
        let failure = account.table(&orders(), &schema()).write(&writes).await.unwrap_err();
        assert_eq!((failure.fault, failure.may_have_happened), (fault, false), "{reply:?}: {failure}");
        assert!(!failure.to_string().contains("ext-1"), "{failure}");
        if fault == Fault::Denied {
            let want = "BatchWriteItem: AccessDenied: assume the role: User: arn:aws:iam::111122223333:user/a is not \
                        authorized to perform: sts:AssumeRole";
            assert_eq!(failure.to_string(), want);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_of_a_role_are_told_like_any_call() {
    let server = Server::new([
        session("AKIAFIRST", "2027-01-15T09:00:00Z"),
        Reply::error(400, "ExpiredTokenException", "x"),
        Reply::Body(403, "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>".into()),
    ]);
    let (_, context) = Manual::context();
    let told = Arc::new(Mutex::new(Vec::new()));
    let observer: Observer = Arc::new({
        let told = Arc::clone(&told);
        move |record| told.lock().unwrap().push(record)
    });
    let clients = Clients { observer: Some(observer), ..clients(&server, &context) };
    let account = Account::connect(&in_role(), Side::Target, &clients).await.unwrap();
    for _ in 0..2 {
        drop(account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await);
    }
    let told = told.lock().unwrap().clone();
    let calls: Vec<_> = told.iter().map(|record| (record.operation, record.outcome, record.side)).collect();
    let expected = [
        ("AssumeRole", Outcome::Ok, Side::Target),
        ("BatchWriteItem", Outcome::Denied, Side::Target),
        ("AssumeRole", Outcome::Denied, Side::Target),
        ("BatchWriteItem", Outcome::Denied, Side::Target),
    ];
    assert_eq!(calls, expected);
    assert!(told[0].clocks.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_external_id_file_is_read_for_each_session() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first-id\n").unwrap();
    let server = Server::new([
        session("A1", "2027-01-15T09:00:00Z"),
        Reply::error(400, "ExpiredTokenException", "x"),
        session("A2", "2027-01-15T09:00:00Z"),
        Reply::ok("{}"),
    ]);
    let (_, context) = Manual::context();
    let external_id = Some(crate::config::ExternalId::File(file.path().into()));
    let config = SideConfig { external_id, ..in_role() };
    let account = Account::connect(&config, Side::Target, &clients(&server, &context)).await.unwrap();
    let table = account.table(&orders(), &schema());
    drop(table.write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await);
    std::fs::write(file.path(), "second-id\n").unwrap();
    table.write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    let asked = |at: usize| String::from_utf8(server.seen()[at].body.to_vec()).unwrap();
    assert!(asked(0).contains("ExternalId=first-id") && asked(2).contains("ExternalId=second-id"));
}

#[tokio::test(start_paused = true)]
async fn identity_names_account_and_region() {
    let body = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/a</Arn><UserId>U</UserId><Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>";
    let server = Server::new([Reply::ok(body), Reply::Body(404, "no such service".into())]);
    let account = account(&server).await;
    let identity = account.identity().await.unwrap();
    assert_eq!((identity.account.as_str(), identity.region.as_str()), ("111122223333", "eu-west-1"));
    assert!(account.identity().await.is_err(), "a server without a token service");
}

#[tokio::test]
async fn a_refused_connection_has_written_nothing() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (_, context) = Manual::context();
    let config = SideConfig { endpoint_url: Some(format!("http://127.0.0.1:{port}")), ..side() };
    let clients = Clients { http: None, ..clients(&Server::default(), &context) };
    let account = Account::connect(&config, Side::Target, &clients).await.unwrap();
    let failure = account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap_err();
    assert_eq!((failure.fault, failure.may_have_happened), (Fault::Transient, false), "{failure}");
}

/// What DescribeTable says of a table with everything.
fn described() -> serde_json::Value {
    serde_json::json!({"TableArn": "arn:aws:dynamodb:eu-west-1:111122223333:table/orders", "TableId": "id-1", "TableName": "orders",
        "TableStatus": "ACTIVE", "ItemCount": 7, "TableSizeBytes": 900,
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"}, {"AttributeName": "sk", "AttributeType": "N"},
            {"AttributeName": "g1", "AttributeType": "S"}, {"AttributeName": "g2", "AttributeType": "B"},
            {"AttributeName": "g3", "AttributeType": "N"}, {"AttributeName": "dying", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"},
        "ProvisionedThroughput": {"ReadCapacityUnits": 0, "WriteCapacityUnits": 0},
        "OnDemandThroughput": {"MaxReadRequestUnits": -1, "MaxWriteRequestUnits": 500},
        "WarmThroughput": {"ReadUnitsPerSecond": 30000, "WriteUnitsPerSecond": 4000, "Status": "ACTIVE"},
        "GlobalSecondaryIndexes": [
            {"IndexName": "many", "IndexStatus": "ACTIVE", "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["v"]},
             "KeySchema": [{"AttributeName": "g1", "KeyType": "HASH"}, {"AttributeName": "g2", "KeyType": "HASH"},
                           {"AttributeName": "sk", "KeyType": "RANGE"}, {"AttributeName": "g3", "KeyType": "RANGE"}],
             "ProvisionedThroughput": {"ReadCapacityUnits": 0, "WriteCapacityUnits": 0}},
            {"IndexName": "gone", "IndexStatus": "DELETING", "Projection": {"ProjectionType": "ALL"},
             "KeySchema": [{"AttributeName": "dying", "KeyType": "HASH"}]}],
        "LocalSecondaryIndexes": [{"IndexName": "local", "Projection": {"ProjectionType": "KEYS_ONLY"},
             "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "g3", "KeyType": "RANGE"}]}],
        "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_IMAGE"}, "LatestStreamArn": "arn:stream",
        "TableClassSummary": {"TableClass": "STANDARD_INFREQUENT_ACCESS"},
        "SSEDescription": {"Status": "ENABLED", "SSEType": "KMS", "KMSMasterKeyArn": "arn:aws:kms:eu-west-1:111122223333:key/k1"},
        "DeletionProtectionEnabled": true,
        "Replicas": [{"RegionName": "eu-north-1"}]})
}

fn answer(table: &serde_json::Value) -> Reply {
    Reply::ok(serde_json::json!({ "Table": table }).to_string())
}

async fn description(table: &serde_json::Value) -> Result<crate::model::TableDescription, Failure> {
    account(&Server::new([answer(table)])).await.describe(&orders()).await
}

#[tokio::test(start_paused = true)]
async fn a_description_holds_what_the_service_said() {
    use crate::model::{Billing, Projection, TableStatus};
    let table = description(&described()).await.unwrap();
    assert_eq!((table.id.as_str(), table.item_count, table.size_bytes), ("id-1", 7, 900));
    assert_eq!((table.arn.name.as_str(), table.status), ("orders", TableStatus::Active));
    assert_eq!(table.keys.range, Some(KeyAttribute { name: "sk".into(), kind: KeyKind::N }));
    let billing =
        Billing::OnDemand { warm_read: Some(30_000), warm_write: Some(4000), max_read: None, max_write: Some(500) };
    assert_eq!(table.billing, billing);
    assert_eq!(table.global_indexes.len(), 1, "an index that is being deleted is none");
    assert_eq!(
        (&table.global_indexes[0].hash[..], table.global_indexes[0].range.len()),
        (&["g1".into(), "g2".into()][..], 2)
    );
    assert_eq!(table.global_indexes[0].projection, Projection::Include(vec!["v".into()]));
    assert_eq!(table.local_indexes[0].projection, Projection::KeysOnly);
    let stream = table.stream.unwrap();
    assert!(stream.enabled && stream.view == Some(ViewType::NewImage));
    assert_eq!(table.table_class.as_deref(), Some("STANDARD_INFREQUENT_ACCESS"));
    assert!(table.deletion_protection && table.encryption.is_some());
    assert_eq!(table.not_copied, ["global table replica in eu-north-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_table_without_a_billing_summary_is_provisioned_and_one_without_a_stream_has_none() {
    let table = serde_json::json!({"TableArn": "arn:aws:dynamodb:eu-west-1:111122223333:table/orders", "TableStatus": "CREATING",
        "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}], "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        "ProvisionedThroughput": {"ReadCapacityUnits": 5, "WriteCapacityUnits": 6}});
    let table = description(&table).await.unwrap();
    assert_eq!(table.billing, crate::model::Billing::Provisioned { read: 5, write: 6 });
    assert!(table.stream.is_none() && table.encryption.is_none() && table.table_class.is_none());
    assert_eq!(table.keys.range, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_turned_off_still_has_its_name() {
    let mut table = described();
    table.as_object_mut().unwrap().remove("StreamSpecification");
    let stream = description(&table).await.unwrap().stream.unwrap();
    assert_eq!((stream.arn.0.as_str(), stream.enabled, stream.view), ("arn:stream", false, None));
}

#[tokio::test(start_paused = true)]
async fn a_description_without_its_key_is_broken() {
    let mut table = described();
    table["KeySchema"] = serde_json::json!([]);
    assert_eq!(description(&table).await.unwrap_err().fault, Fault::Broken);
}

#[tokio::test(start_paused = true)]
async fn a_new_table_is_like_the_other_but_for_what_is_said() {
    let from = description(&described()).await.unwrap();
    let (mut creating, active) = (described(), described());
    creating["TableStatus"] = "CREATING".into();
    let not_yet = Reply::error(400, "ResourceNotFoundException", "x");
    let server = Server::new([Reply::ok("{}"), not_yet, answer(&creating), answer(&active)]);
    let tags = [("team".to_owned(), "a".to_owned()), ("aws:cloudformation:stack-id".to_owned(), "s".to_owned())];
    let account = account(&server).await;
    let created = account.create_table("orders-copy", &from, &tags, Patience::default()).await.unwrap();
    assert_eq!(created.description.id, "id-1");
    let seen = server.seen();
    assert_eq!(
        seen.iter().map(Seen::operation).collect::<Vec<_>>(),
        ["CreateTable", "DescribeTable", "DescribeTable", "DescribeTable"]
    );
    assert_eq!(
        seen[0].json(),
        serde_json::json!({"TableName": "orders-copy", "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [
                {"AttributeName": "pk", "AttributeType": "S"}, {"AttributeName": "sk", "AttributeType": "N"},
                {"AttributeName": "g1", "AttributeType": "S"}, {"AttributeName": "g2", "AttributeType": "B"},
                {"AttributeName": "g3", "AttributeType": "N"}],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            "OnDemandThroughput": {"MaxWriteRequestUnits": 500},
            "GlobalSecondaryIndexes": [{"IndexName": "many",
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["v"]},
                "KeySchema": [{"AttributeName": "g1", "KeyType": "HASH"}, {"AttributeName": "g2", "KeyType": "HASH"},
                    {"AttributeName": "sk", "KeyType": "RANGE"}, {"AttributeName": "g3", "KeyType": "RANGE"}]}],
            "LocalSecondaryIndexes": [{"IndexName": "local", "Projection": {"ProjectionType": "KEYS_ONLY"},
                "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "g3", "KeyType": "RANGE"}]}],
            "TableClass": "STANDARD_INFREQUENT_ACCESS", "DeletionProtectionEnabled": true,
            "Tags": [{"Key": "team", "Value": "a"}]})
    );
    let notes = created.notes.join("\n");
    for about in
        ["eu-north-1", "key/k1", "aws/dynamodb", "update-table", "warm throughput", "aws:cloudformation:stack-id"]
    {
        assert!(notes.contains(about), "{about}: {notes}");
    }
}

#[tokio::test(start_paused = true)]
async fn provisioned_tables_and_managed_keys_are_made_alike() {
    let mut from = description(&described()).await.unwrap();
    from.billing = crate::model::Billing::Provisioned { read: 5, write: 0 };
    from.global_indexes[0].provisioned = Some((2, 3));
    from.encryption = Some(crate::model::Encryption { kms_key_arn: None });
    let server = Server::new([Reply::ok("{}"), answer(&described())]);
    account(&server).await.create_table("copy", &from, &[], Patience::default()).await.unwrap();
    let asked = server.seen()[0].json();
    assert_eq!(asked["ProvisionedThroughput"], serde_json::json!({"ReadCapacityUnits": 5, "WriteCapacityUnits": 1}));
    let index = &asked["GlobalSecondaryIndexes"][0]["ProvisionedThroughput"];
    assert_eq!(*index, serde_json::json!({"ReadCapacityUnits": 2, "WriteCapacityUnits": 3}));
    assert_eq!(asked["SSESpecification"], serde_json::json!({"Enabled": true, "SSEType": "KMS"}));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_is_refused_clearly() {
    let from = description(&described()).await.unwrap();
    let server = Server::new([Reply::error(400, "ResourceInUseException", "Table already exists: copy")]);
    let failure = account(&server).await.create_table("copy", &from, &[], Patience::default()).await.unwrap_err();
    assert_eq!((failure.fault, failure.may_have_happened), (Fault::Rejected, false));
    assert!(failure.to_string().contains("copy is already there"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_table_has_an_end() {
    let mut creating = described();
    creating["TableStatus"] = "CREATING".into();
    let server = Server::new(std::iter::repeat_n(answer(&creating), 400));
    let patience = Patience { limit: Duration::from_secs(60), poll: Duration::from_secs(2) };
    let begun = tokio::time::Instant::now();
    let failure = account(&server).await.wait_until_active(&orders(), patience).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Transient, "{failure}");
    assert_eq!(begun.elapsed(), patience.limit);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_turned_on_once_and_waited_for() {
    let (mut off, mut updating) = (described(), described());
    off.as_object_mut().unwrap().remove("StreamSpecification");
    updating["TableStatus"] = "UPDATING".into();
    let server = Server::new([answer(&off), Reply::ok("{}"), answer(&updating), answer(&described())]);
    let on = account(&server).await.enable_stream(&orders(), Patience::default()).await.unwrap();
    assert!(on.stream.unwrap().enabled);
    let want = serde_json::json!({"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"});
    assert_eq!(server.seen()[1].json()["StreamSpecification"], want);

    let server = Server::new([answer(&described())]);
    account(&server).await.enable_stream(&orders(), Patience::default()).await.unwrap();
    assert_eq!(server.seen().len(), 1, "one that is on is left as it is");
}

#[tokio::test(start_paused = true)]
async fn names_and_tags_are_read_to_their_last_page() {
    let server = Server::new([
        Reply::ok(r#"{"TableNames":["a-1","b-1"],"LastEvaluatedTableName":"b-1"}"#),
        Reply::ok(r#"{"TableNames":["c-1"]}"#),
        Reply::ok(r#"{"Tags":[{"Key":"k","Value":"v"}],"NextToken":"n"}"#),
        Reply::ok(r#"{"Tags":[{"Key":"l","Value":"w"}]}"#),
        Reply::ok(r#"{"TimeToLiveDescription":{"TimeToLiveStatus":"ENABLED","AttributeName":"expires"}}"#),
        Reply::ok(r#"{"TimeToLiveDescription":{"TimeToLiveStatus":"DISABLED"}}"#),
    ]);
    let from = description(&described()).await.unwrap();
    let account = account(&server).await;
    assert_eq!(account.list_tables().await.unwrap(), ["a-1", "b-1", "c-1"]);
    let tags = account.list_tags(&from).await.unwrap();
    assert_eq!(tags, [("k".to_owned(), "v".to_owned()), ("l".to_owned(), "w".to_owned())]);
    assert_eq!(account.time_to_live(&orders()).await.unwrap().as_deref(), Some("expires"));
    assert_eq!(account.time_to_live(&orders()).await.unwrap(), None);
    assert_eq!(server.seen()[1].json()["ExclusiveStartTableName"], "b-1");
}

/// Runs one ignored test in a process of its own: the ambient settings belong to the process.
fn in_process(test: &str, settings: &[(&str, &str)]) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", &format!("aws::tests::{test}")]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    let output = command.envs(settings.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

const AMBIENT: [(&str, &str); 6] = [
    ("AWS_MAX_ATTEMPTS", "5"),
    ("AWS_ACCESS_KEY_ID", "AKIAENV"),
    ("AWS_SECRET_ACCESS_KEY", "s"),
    ("AWS_REGION", "eu-north-1"),
    ("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:7001"),
    ("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:7002"),
];

#[test]
fn a_side_without_settings_is_reached_as_the_environment_says() {
    in_process("child_ambient", &AMBIENT);
}

#[test]
fn a_profile_that_a_side_names_wins_over_the_environment() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let profile = |key| format!("aws_access_key_id = {key}\naws_secret_access_key = s\n");
    let text = format!("[profile one]\n{}[profile two]\n{}", profile("AKIAONE"), profile("AKIATWO"));
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    let files = [("AWS_CONFIG_FILE", path), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")];
    in_process("child_profiles", &[&AMBIENT[..], &files].concat());
}

#[test]
fn the_endpoint_of_the_token_service_that_a_side_names_wins_over_the_environment() {
    in_process("child_token_service", &AMBIENT);
}

async fn ambient(config: &SideConfig, replies: impl IntoIterator<Item = Reply>) -> (Server, Account) {
    let server = Server::new(replies);
    let (_, context) = Manual::context();
    let clients = Clients { isolated: None, ..clients(&server, &context) };
    let account = Account::connect(config, Side::Source, &clients).await.unwrap();
    (server, account)
}

#[tokio::test(start_paused = true)]
#[ignore = "run by another test, with settings"]
async fn child_ambient() {
    let replies = [Reply::ok("{}"), Reply::error(500, "InternalServerError", "x")];
    let (server, account) = ambient(&SideConfig::default(), replies).await;
    assert_eq!(account.region(), "eu-north-1");
    account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    let seen = server.seen().remove(0);
    assert!(seen.uri.starts_with("http://127.0.0.1:7001"), "{}", seen.uri);
    assert!(seen.header("authorization").contains("AKIAENV/"));
    assert!(account.describe(&orders()).await.is_err());
    assert_eq!(server.seen().len(), 2, "one attempt, whatever AWS_MAX_ATTEMPTS says");
}

#[tokio::test(start_paused = true)]
#[ignore = "run by another test, with settings"]
async fn child_profiles() {
    for (profile, key) in [("one", "AKIAONE/"), ("two", "AKIATWO/")] {
        let config = SideConfig { profile: Some(profile.into()), ..side() };
        let (server, account) = ambient(&config, [Reply::ok("{}")]).await;
        account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
        assert!(server.seen()[0].header("authorization").contains(key), "{:?}", server.seen());
    }
    let config = SideConfig { profile: Some("one".into()), ..in_role() };
    let (server, account) = ambient(&config, [session("A1", "2027-01-15T09:00:00Z"), Reply::ok("{}")]).await;
    account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    assert!(server.seen()[0].header("authorization").contains("AKIAONE/"), "the base of the role");
}

#[tokio::test(start_paused = true)]
#[ignore = "run by another test, with settings"]
async fn child_token_service() {
    let (server, account) = ambient(&in_role(), [session("A1", "2027-01-15T09:00:00Z"), Reply::ok("{}")]).await;
    account.table(&orders(), &schema()).write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap();
    assert!(server.seen()[0].uri.starts_with("http://127.0.0.1:9000"), "{:?}", server.seen());
    assert!(server.seen()[1].uri.starts_with("http://127.0.0.1:7001"), "{:?}", server.seen());
}

/// A server of one connection that reads a request of one packet and answers with these bytes.
fn tcp_server(answer: Vec<u8>) -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let read = connection.read(&mut [0; 16_384]).unwrap();
        assert!(read > 0);
        connection.write_all(&answer).unwrap();
    });
    url
}

async fn over_tcp(answer: Vec<u8>) -> Table {
    let (_, context) = Manual::context();
    let config = SideConfig { endpoint_url: Some(tcp_server(answer)), ..side() };
    let clients = Clients { http: None, ..clients(&Server::default(), &context) };
    Account::connect(&config, Side::Target, &clients).await.unwrap().table(&orders(), &schema())
}

#[tokio::test]
async fn a_megabyte_arrives_whole_over_a_real_connection() {
    let item = format!(r#"{{"pk":{{"S":"a"}},"v":{{"S":"{}"}}}}"#, "v".repeat(1_000_000));
    let body = format!(r#"{{"Item":{item}}}"#);
    let table = over_tcp(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()).await;
    assert_eq!(table.get(&put(&item).key).await.unwrap().unwrap().json(), item.as_bytes());
}

#[tokio::test]
async fn a_real_connection_that_breaks_off_leaves_the_write_in_doubt() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}", "HTTP/1.1 2"] {
        let table = over_tcp(answer.into()).await;
        let failure = table.write(&[delete(r#"{"pk":{"S":"b"}}"#)]).await.unwrap_err();
        assert_eq!((failure.fault, failure.may_have_happened), (Fault::Transient, true), "{failure}");
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    use sha2::{Digest as _, Sha256};
    let pad = |with: u8| (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect::<Vec<u8>>();
    let inner = Sha256::digest([pad(0x36), text.as_bytes().to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The signature by the book. Source: IAM User Guide, signing AWS API requests.
fn signature(seen: &Seen, secret: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let authorization = seen.header("authorization");
    let part = |name: &str| authorization.split(name).nth(1).unwrap().split([',', ' ']).next().unwrap();
    let (scope, signed) = (part("Credential=").split_once('/').unwrap().1, part("SignedHeaders="));
    let host = seen.uri.trim_start_matches("https://").trim_end_matches('/');
    let value = |name: &str| if name == "host" { host.to_owned() } else { seen.header(name).to_owned() };
    let headers: String = signed.split(';').map(|name| format!("{name}:{}\n", value(name))).collect();
    let request = format!("POST\n/\n\n{headers}\n{signed}\n{}", hex(&Sha256::digest(&seen.body)));
    let hash = hex(&Sha256::digest(request));
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{hash}", seen.header("x-amz-date"));
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part));
    hex(&hmac(&key, &text))
}

#[tokio::test(start_paused = true)]
async fn the_signature_covers_the_raw_body_its_target_and_its_length() {
    let server = Server::new([Reply::ok("{}")]);
    table(&server).await.write(&[put(r#"{"pk":{"S":"é"}}"#)]).await.unwrap();
    let seen = server.seen().remove(0);
    let authorization = seen.header("authorization");
    assert!(authorization.ends_with(&signature(&seen, "secret-of-the-key")), "{seen:?}");
    for header in ["content-length", "content-type", "host", "x-amz-target"] {
        assert!(authorization.contains(header), "{header}: {authorization}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_sent_any_more_never_leaves_and_is_not_in_doubt() {
    let server = Server::new([Reply::ok("{}"), Reply::ok("{}")]);
    let (_, context) = Manual::context();
    let allowed = Arc::new(Mutex::new(false));
    let asked = Arc::clone(&allowed);
    let guard: SendGuard = Arc::new(move || *asked.lock().unwrap());
    let clients = Clients { guard: Some(guard), ..clients(&server, &context) };
    let target = Account::connect(&side(), Side::Target, &clients).await.unwrap().table(&orders(), &schema());
    let failure = target.write(&[put(r#"{"pk":{"S":"a"}}"#)]).await.unwrap_err();
    assert!(failure.fault == Fault::Transient && !failure.may_have_happened, "{failure:?}");
    assert!(was_held_back(&failure), "who has no other way to hear of it does not try again");
    assert!(server.seen().is_empty());
    let source = Account::connect(&side(), Side::Source, &clients).await.unwrap().table(&orders(), &schema());
    source.write(&[put(r#"{"pk":{"S":"a"}}"#)]).await.unwrap();
    *allowed.lock().unwrap() = true;
    target.write(&[put(r#"{"pk":{"S":"a"}}"#)]).await.unwrap();
    assert_eq!(server.seen().len(), 2);
}
