//! Objects of a bucket: the request, and what its answers mean.

use super::*;
use crate::export::{ObjectPart, ObjectReader as _, PartRequest};

/// SHA-256 of nothing: a GET has no body.
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn request() -> PartRequest {
    PartRequest { key: "a b/x.gz".to_owned(), offset: 100, length: 50, etag: Some("\"tag\"".to_owned()) }
}

async fn read(reply: Reply, request: PartRequest) -> (Result<ObjectPart, Failure>, Vec<Seen>) {
    let server = Server::new([reply]);
    let bucket = account(&server).await.bucket("exports", Some("444455556666"));
    let read = bucket.read(&request).await;
    (read, server.seen())
}

fn fault(read: (Result<ObjectPart, Failure>, Vec<Seen>)) -> (Fault, bool) {
    let failure = read.0.unwrap_err();
    (failure.fault, failure.throttled)
}

#[tokio::test(start_paused = true)]
async fn a_part_is_asked_for_as_s3_wants_it() {
    let body = Bytes::from(vec![7; 50]);
    let (part, seen) = read(Reply::Part(body.clone(), "bytes 100-149/1000"), request()).await;
    assert_eq!(part.unwrap(), ObjectPart { bytes: body, size: 1000, etag: Some("\"tag\"".to_owned()) });
    let [sent] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(sent.uri, "https://exports.s3.eu-west-1.amazonaws.com/a%20b/x.gz");
    for (name, value) in [
        ("range", "bytes=100-149"),
        ("if-match", "\"tag\""),
        ("x-amz-expected-bucket-owner", "444455556666"),
        ("x-amz-content-sha256", OF_NOTHING),
    ] {
        assert_eq!(sent.header(name), value, "{name}");
    }
    assert!(sent.header("authorization").contains("/eu-west-1/s3/aws4_request"));
    for signed in ["host", "if-match", "range", "x-amz-content-sha256", "x-amz-expected-bucket-owner"] {
        assert!(sent.header("authorization").contains(signed), "{signed} is not signed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_not_the_one_asked_for_is_asked_for_again() {
    for (bytes, range) in [(49, "bytes 100-149/1000"), (50, "bytes 0-49/1000"), (49, "bytes 100-148/1000"), (50, "odd")]
    {
        let read = read(Reply::Part(vec![7; bytes].into(), range), request()).await;
        assert_eq!(fault(read), (Fault::Transient, false), "{range}");
    }
    assert_eq!(
        fault(read(Reply::ok(vec![7; 50]), request()).await).0,
        Fault::Transient,
        "the beginning is not the middle"
    );
    assert_eq!(fault(read(Reply::Broken, request()).await).0, Fault::Transient);
}

#[tokio::test(start_paused = true)]
async fn objects_that_are_shorter_than_a_part_are_whole() {
    let from_start = || PartRequest { offset: 0, etag: None, ..request() };
    let (short, _) = read(Reply::Part(vec![7; 20].into(), "bytes 0-19/20"), from_start()).await;
    assert_eq!(short.unwrap().size, 20);
    let (uncut, _) = read(Reply::ok(vec![7; 20]), from_start()).await;
    assert_eq!(uncut.unwrap().size, 20, "a server that does not cut");
    let (empty, _) = read(Reply::Body(416, Bytes::new()), from_start()).await;
    assert_eq!(empty.unwrap(), ObjectPart { bytes: Bytes::new(), size: 0, etag: None });
}

#[tokio::test(start_paused = true)]
async fn what_s3_refuses_has_its_fate() {
    for (status, code, expected) in [
        (404, "NoSuchKey", (Fault::Lost, false)),
        (404, "NoSuchBucket", (Fault::Lost, false)),
        (403, "AccessDenied", (Fault::Denied, false)),
        (403, "InvalidObjectState", (Fault::Rejected, false)),
        (412, "PreconditionFailed", (Fault::Rejected, false)),
        (503, "SlowDown", (Fault::Transient, true)),
        (500, "InternalError", (Fault::Transient, false)),
        (400, "ExpiredToken", (Fault::Denied, false)),
    ] {
        let xml = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>why</Message></Error>");
        let refused = read(Reply::Body(status, xml.into()), request()).await;
        let text = refused.0.as_ref().unwrap_err().to_string();
        assert!(text.starts_with(&format!("GetObject: {code}: why")), "{text}");
        assert_eq!(fault(refused), expected, "{code}");
    }
    assert_eq!(fault(read(Reply::Body(403, Bytes::new()), request()).await).0, Fault::Denied);
    assert_eq!(fault(read(Reply::Body(404, Bytes::new()), request()).await).0, Fault::Lost);
}
