//! Calls whose bodies nobody decodes: what is sent, what comes back, and what is told of it.

use super::*;

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
async fn a_truncated_page_is_a_failure_and_no_page() {
    let failure = read_records(Reply::Truncated(r#"{"Records":[]}"#.into())).await.0.unwrap_err();
    assert_eq!(failure.fault, Fault::Transient);
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
