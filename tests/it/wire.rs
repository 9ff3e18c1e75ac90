//! Requests to any server as they are on the wire: JSON or a form in, status and body out, signed as AWS asks.
//!
//! Independent of the program under test: it shares no code with it beyond the SDK's signer.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use axum::body::Body;
use bytes::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

pub(crate) const REGION: &str = "eu-west-1";

/// One identity at one endpoint. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Wire {
    url: String,
    identity: Credentials,
    client: Client<HttpConnector, Body>,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Answer {
    /// The body, or null where it is no JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// The error's name without its namespace; empty for an answer without one.
    pub(crate) fn error(&self) -> String {
        let body = self.json();
        let name = body.get("__type").and_then(Value::as_str).unwrap_or_default();
        name.rsplit('#').next().unwrap_or_default().to_owned()
    }

    /// What stands between `<name>` and its end, in an XML answer.
    pub(crate) fn xml(&self, name: &str) -> Option<&str> {
        self.text.split_once(&format!("<{name}>"))?.1.split_once(&format!("</{name}>")).map(|(text, _)| text)
    }
}

impl Wire {
    pub(crate) fn new(url: &str, key: &str, secret: &str) -> Self {
        Self::with(url, Credentials::new(key, secret, None, None, "test"))
    }

    pub(crate) fn with(url: &str, identity: Credentials) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { url: format!("{url}/"), identity, client }
    }

    /// An operation of DynamoDB or DynamoDB Streams, whatever it answers.
    pub(crate) async fn send(&self, operation: &str, body: &str) -> Answer {
        let is_stream = ["ListStreams", "DescribeStream", "GetShardIterator", "GetRecords"].contains(&operation);
        let service = if is_stream { "DynamoDBStreams_20120810" } else { "DynamoDB_20120810" };
        let headers =
            [("content-type", "application/x-amz-json-1.0"), ("x-amz-target", &format!("{service}.{operation}"))];
        self.post("dynamodb", &headers, body.to_owned()).await
    }

    /// An operation that must succeed.
    pub(crate) async fn call(&self, operation: &str, body: impl ToString) -> Value {
        let answer = self.send(operation, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{operation} answered {}", answer.text);
        answer.json()
    }

    /// An operation of a service that takes forms (IAM, STS), which must succeed.
    pub(crate) async fn form(&self, service: &str, fields: &[(&str, &str)]) -> Answer {
        let answer = self.try_form(service, fields).await;
        assert_eq!(answer.status, 200, "{service} {fields:?} answered {}", answer.text);
        answer
    }

    /// An operation of a service that takes forms, whatever it answers.
    pub(crate) async fn try_form(&self, service: &str, fields: &[(&str, &str)]) -> Answer {
        let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", percent(value))).collect();
        self.raw_form(service, pairs.join("&")).await
    }

    /// A form that is encoded already, whatever it answers.
    pub(crate) async fn raw_form(&self, service: &str, form: String) -> Answer {
        self.post(service, &[("content-type", "application/x-www-form-urlencoded; charset=utf-8")], form).await
    }

    /// Puts an object into a bucket, path-style; with an empty key it makes the bucket.
    pub(crate) async fn put_object(&self, bucket: &str, key: &str, object: Vec<u8>) {
        let separator = if key.is_empty() { "" } else { "/" };
        let url = format!("{}{bucket}{separator}{key}", self.url);
        let host = self.url.trim_start_matches("http://").trim_end_matches('/');
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let identity = self.identity.clone().into();
        let params = v4::SigningParams::builder().identity(&identity).region(REGION).name("s3");
        let params = params.time(SystemTime::now()).settings(settings).build().expect("all parts of a signature");
        let signable = SignableRequest::new("PUT", &url, [("host", host)].into_iter(), SignableBody::Bytes(&object));
        let (instructions, _) =
            sign(signable.expect("a signable request"), &params.into()).expect("a signature").into_parts();
        let mut request = http::Request::put(&url).header("host", host).body(()).expect("a request");
        instructions.apply_to_request_http1x(&mut request);
        let request = request.map(|()| Body::from(object));
        let answer = self.client.request(request).await.expect("an answer");
        let status = answer.status();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX).await.expect("a body");
        assert!(status.is_success(), "{status} for {url}: {}", String::from_utf8_lossy(&body));
    }

    async fn post(&self, service: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let mut request = http::Request::post(&self.url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let host = self.url.trim_start_matches("http://").trim_end_matches('/');
        let mut request = request.header("host", host).body(()).expect("a request");
        let identity = self.identity.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name(service)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .expect("all parts of a signature");
        let signed_headers = headers.iter().copied().chain([("host", host)]);
        let signable =
            SignableRequest::new("POST", self.url.as_str(), signed_headers, SignableBody::Bytes(body.as_bytes()));
        let (instructions, _) =
            sign(signable.expect("a signable request"), &params.into()).expect("a signature").into_parts();
        instructions.apply_to_request_http1x(&mut request);
        let request = request.map(|()| Body::from(body));
        let sent = tokio::time::timeout(Duration::from_secs(30), self.client.request(request)).await;
        let answer = sent.expect("an answer within 30 s").expect("an answer");
        let status = answer.status().as_u16();
        let bytes: Bytes = axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX).await.expect("a body");
        Answer { status, text: String::from_utf8_lossy(&bytes).into_owned() }
    }
}

fn percent(text: &str) -> String {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if legal(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
