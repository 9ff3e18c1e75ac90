//! S3, as far as exports need it: objects of buckets, whole or in parts. Virtual-host and path-style addresses.
//!
//! A bucket's owner and those it lets in may do everything in it; they are told of objects that are not there, everybody else
//! is denied. No versions, no lists, no multipart uploads.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use md5::{Digest as _, Md5};

use super::auth::Caller;
use super::reply::{ApiError, Protocol, respond};

/// A bucket.
#[derive(Debug, Clone, Default)]
pub(super) struct Bucket {
    pub(super) owner: String,
    pub(super) region: String,
    /// Other accounts that its policy lets in.
    pub(super) guests: BTreeSet<String>,
    pub(super) objects: BTreeMap<String, Bytes>,
}

impl Bucket {
    pub(super) fn lets_in(&self, account: &str) -> bool {
        self.owner == account || self.guests.contains(account)
    }
}

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct S3Request {
    pub(super) operation: &'static str,
    bucket: String,
    key: String,
    range: Option<String>,
    if_match: Option<String>,
    expected_owner: Option<String>,
}

impl S3Request {
    /// What a request asks of S3; `None`: it is signed for another service.
    pub(super) fn read(request: &http::Request<Bytes>) -> Option<Self> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if !header("authorization")?.contains("/s3/aws4_request") {
            return None;
        }
        let host = request.uri().host().map(str::to_owned).or_else(|| header("host")).unwrap_or_default();
        let path = decoded(request.uri().path().trim_start_matches('/'));
        let (bucket, key) = match host.split_once(".s3") {
            Some((bucket, rest)) if rest.starts_with(['.', '-']) => (bucket.to_owned(), path),
            _ => {
                let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
                (bucket.to_owned(), key.to_owned())
            }
        };
        let operation = match *request.method() {
            Method::PUT => "PutObject",
            Method::HEAD => "HeadObject",
            Method::DELETE => "DeleteObject",
            _ => "GetObject",
        };
        Some(Self {
            operation,
            bucket,
            key,
            range: header("range"),
            if_match: header("if-match"),
            expected_owner: header("x-amz-expected-bucket-owner"),
        })
    }
}

fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'%').then(|| tail.get(..2)).flatten();
        let code =
            code.and_then(|code| std::str::from_utf8(code).ok()).and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Executes a request.
pub(super) fn execute(
    buckets: &mut BTreeMap<String, Bucket>,
    caller: &Caller,
    request: &S3Request,
    body: &Bytes,
    (id, date): (&str, &HeaderValue),
) -> Response<Bytes> {
    let fail = |status: u16, code: &str, message: &str| {
        let error = ApiError { status, ..ApiError::new(code, message) };
        respond(Protocol::S3, Err(error), id, date)
    };
    let Some(bucket) = buckets.get_mut(&request.bucket) else {
        return fail(404, "NoSuchBucket", "The specified bucket does not exist");
    };
    if bucket.region != caller.region {
        let mut reply = fail(301, "PermanentRedirect", "The bucket must be addressed using the specified endpoint");
        insert(&mut reply, "x-amz-bucket-region", &bucket.region);
        return reply;
    }
    let is_owners = request.expected_owner.as_ref().is_none_or(|owner| *owner == bucket.owner);
    if !bucket.lets_in(&caller.account) || !is_owners {
        return fail(403, "AccessDenied", "Access Denied");
    }
    match request.operation {
        "PutObject" => {
            bucket.objects.insert(request.key.clone(), body.clone());
            let mut reply = respond(Protocol::S3, Ok(Bytes::new()), id, date);
            insert(&mut reply, "etag", &etag(body));
            return reply;
        }
        "DeleteObject" => {
            bucket.objects.remove(&request.key);
            return respond(Protocol::S3, Ok(Bytes::new()), id, date);
        }
        _ => {}
    }
    let Some(object) = bucket.objects.get(&request.key) else {
        return fail(404, "NoSuchKey", "The specified key does not exist.");
    };
    let tag = etag(object);
    if request.if_match.as_ref().is_some_and(|wanted| *wanted != tag) {
        return fail(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold");
    }
    let size = object.len();
    let (body, range) = match request.range.as_deref().and_then(|range| range_of(range, size)) {
        Some((first, _)) if first >= size => {
            return fail(416, "InvalidRange", "The requested range is not satisfiable");
        }
        Some((first, last)) => (object.slice(first..=last), Some(format!("bytes {first}-{last}/{size}"))),
        None => (object.clone(), None),
    };
    let body = if request.operation == "HeadObject" { Bytes::new() } else { body };
    let mut reply = respond(Protocol::S3, Ok(body), id, date);
    insert(&mut reply, "etag", &tag);
    if let Some(range) = range {
        *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
        insert(&mut reply, "content-range", &range);
    }
    if request.operation == "HeadObject" {
        reply.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    }
    reply
}

/// First and last byte of `bytes=0-99`.
fn range_of(range: &str, size: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let last = last.parse().map_or(size, |last: usize| last);
    Some((first.parse().ok()?, last.min(size.saturating_sub(1))))
}

fn etag(object: &[u8]) -> String {
    let digest: String = Md5::digest(object).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digest}\"")
}

fn insert(reply: &mut Response<Bytes>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}
