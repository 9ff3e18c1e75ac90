//! Objects of one bucket: S3's GetObject, in parts.
//!
//! Sent like the raw calls of DynamoDB: `aws-sigv4` and the connections of the side's clients. The SDK's own crate for S3 is
//! left out for what it costs to build (about 100 s on two cores, for one operation of its hundred). So it is decided here
//! where a bucket is: under its own name of host, or, with an endpoint of the user's or a dot in its name, under a path.
//! S3 signs otherwise than DynamoDB: the path as it is sent, once encoded and not normalized, and a digest of the body in a
//! header of its own (S3 API reference, signature calculations).

use std::fmt;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::config::Builder;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{HttpConnector as _, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::error::metadata::ErrorMetadata;
use aws_types::service_config::ServiceConfigKey;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderName, HeaderValue};

use super::accounts::system_time;
use super::call::Caller;
use super::fault;
use super::raw::{self, CallError, Sender, probe};
use super::wire::{self, Answer};
use crate::config::SideConfig;
use crate::error::Failure;
use crate::export::{ObjectPart, ObjectReader, PartRequest};

const OPERATION: &str = "GetObject";

/// A part is a megabyte: it may take several times as long as a call of DynamoDB.
const MORE_TIME: u32 = 6;

const BUCKET_REGION: &str = "x-amz-bucket-region";

/// Where S3 is, for one side.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// An address of the user's; buckets are paths there.
    url: Option<String>,
    is_fips: bool,
    is_dual_stack: bool,
}

impl Endpoint {
    pub(super) fn of(config: &SideConfig, settings: &SdkConfig) -> Self {
        let key =
            || ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
        let ambient = || {
            let key = key().ok()?;
            let of_service = settings.service_config().and_then(|ambient| ambient.load_config(key));
            of_service.or_else(|| settings.endpoint_url().map(str::to_owned))
        };
        Self {
            url: config.s3_endpoint_url.clone().or_else(ambient),
            is_fips: settings.use_fips().unwrap_or(false),
            is_dual_stack: settings.use_dual_stack().unwrap_or(false),
        }
    }

    /// The address of an object.
    fn address(&self, bucket: &str, region: &str, key: &str) -> String {
        let key = encoded(key);
        if let Some(url) = &self.url {
            return format!("{}/{bucket}/{key}", url.trim_end_matches('/'));
        }
        let fips = if self.is_fips { "-fips" } else { "" };
        let dual_stack = if self.is_dual_stack { ".dualstack" } else { "" };
        let host = format!("s3{fips}{dual_stack}.{region}.{}", suffix_of(region));
        // A certificate is for one label before that.
        if bucket.contains('.') {
            format!("https://{host}/{bucket}/{key}")
        } else {
            format!("https://{bucket}.{host}/{key}")
        }
    }
}

/// The domain of a Region's services. Source: the SDK's partitions.
fn suffix_of(region: &str) -> &'static str {
    const OTHERS: [(&str, &str); 6] = [
        ("cn-", "amazonaws.com.cn"),
        ("eusc-", "amazonaws.eu"),
        ("us-iso-", "c2s.ic.gov"),
        ("us-isob-", "sc2s.sgov.gov"),
        ("us-isof-", "csp.hci.ic.gov"),
        ("eu-isoe-", "cloud.adc-e.uk"),
    ];
    OTHERS.iter().find(|(start, _)| region.starts_with(start)).map_or("amazonaws.com", |(_, suffix)| suffix)
}

/// A key as a path: its slashes stay. Source: S3 API reference, signature calculations, `UriEncode`.
fn encoded(key: &str) -> String {
    let mut path = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => path.push(char::from(byte)),
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    path
}

/// A bucket, read with the credentials of one side. Cheap to clone.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    name: String,
    /// The account that must own it, if that is said.
    owner: Option<String>,
    endpoint: Endpoint,
    dynamodb: aws_sdk_dynamodb::Client,
    sender: Sender,
    caller: Caller,
    /// The bucket's, as far as it is known.
    region: Mutex<String>,
    connector: Mutex<Option<SharedHttpConnector>>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl Bucket {
    pub(super) fn new(
        name: &str,
        owner: Option<&str>,
        endpoint: Endpoint,
        region: &str,
        dynamodb: &aws_sdk_dynamodb::Client,
        (sender, caller): (&Sender, &Caller),
    ) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            owner: owner.map(str::to_owned),
            endpoint,
            dynamodb: dynamodb.clone(),
            sender: sender.clone(),
            caller: caller.clone(),
            region: Mutex::new(region.to_owned()),
            connector: Mutex::default(),
        }))
    }

    /// One part; asked for a second time in the bucket's own Region, where that is another one.
    async fn part(&self, request: &PartRequest) -> Result<ObjectPart, Failure> {
        let asked = self.region();
        let (result, _) = self.0.caller.noted(OPERATION, self.send(request)).await;
        if result.is_err() && self.region() != asked {
            return self.0.caller.noted(OPERATION, self.send(request)).await.0;
        }
        result
    }

    fn region(&self) -> String {
        self.0.region.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn send(&self, request: &PartRequest) -> (Result<ObjectPart, Failure>, Answer) {
        let mut answer = Answer::default();
        let limit = self.0.sender.attempt_timeout * MORE_TIME;
        let result = match tokio::time::timeout(limit, self.attempt(request, &mut answer)).await {
            Ok(result) => result,
            Err(elapsed) => Err(failure(&CallError::timeout_error(elapsed))),
        };
        (result, answer)
    }

    async fn attempt(&self, request: &PartRequest, answer: &mut Answer) -> Result<ObjectPart, Failure> {
        let connector = self.connector().await?;
        let signer = self.0.sender.credentials.get().await;
        let (credentials, generation) = signer.map_err(|missing| missing.failure(OPERATION))?;
        answer.credentials = Some(generation);
        let signed = self.signed(&raw::identity(credentials), request);
        let signed = signed.map_err(|error| failure(&CallError::construction_failure(error)))?;
        let reply = connector.call(signed).await;
        let reply = reply.map_err(|error| failure(&CallError::dispatch_failure(error)))?;
        answer.date = wire::date(&reply);
        if let Some(region) = reply.headers().get(BUCKET_REGION).filter(|_| !reply.status().is_success()) {
            *self.0.region.lock().unwrap_or_else(PoisonError::into_inner) = region.to_owned();
        }
        received(reply, request).await
    }

    async fn connector(&self) -> Result<SharedHttpConnector, Failure> {
        if let Some(connector) = self.0.connector.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(connector);
        }
        let client = &self.0.dynamodb;
        let of_sdk = raw::connector(&self.0.sender, probe!(Builder, client.describe_table().table_name("any")));
        let connector = of_sdk.await.map_err(|error| failure(&error))?;
        *self.0.connector.lock().unwrap_or_else(PoisonError::into_inner) = Some(connector.clone());
        Ok(connector)
    }

    fn signed(
        &self,
        identity: &aws_smithy_runtime_api::client::identity::Identity,
        request: &PartRequest,
    ) -> Result<HttpRequest, BoxError> {
        let region = self.region();
        let address = self.0.endpoint.address(&self.0.name, &region, &request.key);
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let params = v4::SigningParams::builder()
            .identity(identity)
            .region(&region)
            .name("s3")
            .time(system_time(self.0.sender.context.now()))
            .settings(settings)
            .build()?
            .into();
        let last = request.offset.saturating_add(request.length.max(1)) - 1;
        let mut headers = vec![("range", format!("bytes={}-{last}", request.offset))];
        headers.extend(request.etag.clone().map(|etag| ("if-match", etag)));
        headers.extend(self.0.owner.clone().map(|owner| ("x-amz-expected-bucket-owner", owner)));
        let to_sign = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let signable = SignableRequest::new("GET", &address, to_sign, SignableBody::Bytes(&[]))?;
        let (instructions, _) = sign(signable, &params)?.into_parts();

        let mut http = http::Request::new(SdkBody::empty());
        *http.uri_mut() = address.parse()?;
        let to = http.headers_mut();
        to.insert(header::USER_AGENT, raw::USER_AGENT);
        for (name, value) in headers {
            to.insert(HeaderName::from_static(name), HeaderValue::try_from(value)?);
        }
        for (name, value) in instructions.headers() {
            let mut value = HeaderValue::from_str(value)?;
            value.set_sensitive(true);
            to.insert(HeaderName::from_str(name)?, value);
        }
        Ok(http.try_into()?)
    }
}

impl ObjectReader for Bucket {
    fn read<'a>(&'a self, request: &'a PartRequest) -> BoxFuture<'a, Result<ObjectPart, Failure>> {
        self.part(request).boxed()
    }
}

fn failure(error: &CallError) -> Failure {
    fault::failure(OPERATION, error)
}

async fn received(mut reply: HttpResponse, request: &PartRequest) -> Result<ObjectPart, Failure> {
    let announced = raw::announced_length(&reply);
    let body = raw::collect(std::mem::replace(reply.body_mut(), SdkBody::taken()), announced).await;
    let body = match body {
        Ok(body) => body,
        Err(error) => return Err(failure(&CallError::response_error(error, reply))),
    };
    let status = reply.status().as_u16();
    let etag = reply.headers().get("etag").map(str::to_owned);
    let range = reply.headers().get("content-range").and_then(content_range);
    match (status, range) {
        (206, Some((offset, last, size))) => {
            let length = (last + 1).saturating_sub(offset);
            let wanted = request.length.min(size.saturating_sub(request.offset));
            if offset == request.offset && length == wanted && body.len() as u64 == length {
                return Ok(ObjectPart { bytes: body, size, etag });
            }
            Err(failure(&CallError::response_error("the part is not the one that was asked for, or not whole", reply)))
        }
        // Servers that do not cut small objects, and objects of no bytes.
        (200, _) if request.offset == 0 && body.len() as u64 <= request.length && announced == Some(body.len()) => {
            Ok(ObjectPart { size: body.len() as u64, bytes: body, etag })
        }
        // Nothing begins in an object of no bytes.
        (416, _) if request.offset == 0 => Ok(ObjectPart { bytes: Bytes::new(), size: 0, etag }),
        (300.., _) => Err(failure(&CallError::service_error(xml_error(status, &body), reply))),
        _ => Err(failure(&CallError::response_error("the answer is no part of an object", reply))),
    }
}

/// `bytes 0-99/1000`.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

/// The error as S3 writes it: `<Error><Code>…</Code><Message>…</Message>…`. One without a body is known by its status.
fn xml_error(status: u16, body: &[u8]) -> ErrorMetadata {
    let text = String::from_utf8_lossy(body);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(content, _)| content.to_owned())
    };
    let by_status = || match status {
        404 => Some("NoSuchKey".to_owned()),
        412 => Some("PreconditionFailed".to_owned()),
        503 => Some("SlowDown".to_owned()),
        _ => None,
    };
    let mut error = ErrorMetadata::builder();
    if let Some(code) = element("Code").or_else(by_status) {
        error = error.code(code);
    }
    if let Some(message) = element("Message") {
        error = error.message(message);
    }
    error.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint { url: None, is_fips: false, is_dual_stack: false }
    }

    #[test]
    fn an_object_has_its_address() {
        let key = "a b/AWSDynamoDB/1-a/data/ü+.json.gz";
        let path = "a%20b/AWSDynamoDB/1-a/data/%C3%BC%2B.json.gz";
        let of = |endpoint: Endpoint, bucket, region| endpoint.address(bucket, region, key);
        for (endpoint, bucket, region, expected) in [
            (endpoint(), "b", "eu-west-1", "https://b.s3.eu-west-1.amazonaws.com/"),
            (endpoint(), "b.c", "eu-west-1", "https://s3.eu-west-1.amazonaws.com/b.c/"),
            (endpoint(), "b", "cn-north-1", "https://b.s3.cn-north-1.amazonaws.com.cn/"),
            (Endpoint { is_fips: true, ..endpoint() }, "b", "us-east-1", "https://b.s3-fips.us-east-1.amazonaws.com/"),
            (
                Endpoint { is_dual_stack: true, ..endpoint() },
                "b",
                "us-east-1",
                "https://b.s3.dualstack.us-east-1.amazonaws.com/",
            ),
            (Endpoint { url: Some("http://127.0.0.1:9/".into()), ..endpoint() }, "b", "x-1", "http://127.0.0.1:9/b/"),
        ] {
            assert_eq!(of(endpoint, bucket, region), format!("{expected}{path}"));
        }
    }

    #[test]
    fn errors_of_s3_are_read() {
        let xml =
            b"<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code><Message>The key</Message><Key>k</Key></Error>";
        let error = xml_error(404, xml);
        assert_eq!((error.code(), error.message()), (Some("NoSuchKey"), Some("The key")));
        assert_eq!(xml_error(503, b"").code(), Some("SlowDown"));
        assert_eq!(xml_error(403, b"<html>").code(), None);
        assert_eq!(content_range("bytes 0-99/1000"), Some((0, 99, 1000)));
        assert_eq!(content_range("bytes */0"), None);
    }
}
