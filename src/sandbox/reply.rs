//! What the services answer: errors by their real names, and HTTP responses with the headers that clients look at.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::model::WallTime;

/// An error of a service, by its name on the wire.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ApiError {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) status: u16,
    /// More members of the error's body, `CancellationReasons` for instance.
    pub(super) extra: serde_json::Map<String, serde_json::Value>,
}

impl ApiError {
    /// An error with HTTP status 400.
    pub(super) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), status: 400, extra: serde_json::Map::new() }
    }

    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    pub(super) fn serialization(message: impl Into<String>) -> Self {
        Self::new("SerializationException", message)
    }

    pub(super) fn no_table() -> Self {
        Self::new("ResourceNotFoundException", "Requested resource not found")
    }

    pub(super) fn not_found(what: impl Into<String>) -> Self {
        Self::new("ResourceNotFoundException", what)
    }

    pub(super) fn in_use(message: impl Into<String>) -> Self {
        Self::new("ResourceInUseException", message)
    }

    pub(super) fn condition_failed() -> Self {
        Self::new("ConditionalCheckFailedException", "The conditional request failed")
    }

    pub(super) fn throttled(code: impl Into<String>) -> Self {
        let code = code.into();
        let message = match code.as_str() {
            "ProvisionedThroughputExceededException" => {
                "The level of configured provisioned throughput for the table was exceeded. \
                 Consider increasing your provisioning level with the UpdateTable API."
            }
            "RequestLimitExceeded" => "Throughput exceeds the current throughput limit for your account.",
            "LimitExceededException" => "Too many operations for a given subscriber.",
            _ => "Throughput exceeds the current capacity of your table or index.",
        };
        Self::new(code, message)
    }

    /// The same with the reason of the throttling; the member is spelled as the exception spells it.
    pub(super) fn because(self, reason: &str, resource: &str) -> Self {
        let member = if self.code == "ThrottlingException" { "throttlingReasons" } else { "ThrottlingReasons" };
        self.with(member, serde_json::json!([{"reason": reason, "resource": resource}]))
    }

    pub(super) fn expired_token() -> Self {
        Self::new("ExpiredTokenException", "The security token included in the request is expired")
    }

    pub(super) fn expired_iterator() -> Self {
        let message = "The shard iterator has expired and can no longer be used to retrieve stream records";
        Self::new("ExpiredIteratorException", message)
    }

    pub(super) fn internal() -> Self {
        Self {
            status: 500,
            ..Self::new("InternalServerError", "The request processing has failed because of an internal error.")
        }
    }

    pub(super) fn with(mut self, member: &str, value: serde_json::Value) -> Self {
        self.extra.insert(member.to_owned(), value);
        self
    }

    /// The error's type as the JSON protocol writes it, with its namespace.
    fn qualified(&self) -> String {
        let namespace = match self.code.as_str() {
            "ValidationException" => "com.amazon.coral.validate",
            "AccessDeniedException"
            | "ExpiredTokenException"
            | "IncompleteSignatureException"
            | "InvalidSignatureException"
            | "MissingAuthenticationTokenException"
            | "SerializationException"
            | "UnknownOperationException"
            | "UnrecognizedClientException" => "com.amazon.coral.service",
            "ThrottlingException" => "com.amazon.coral.availability",
            _ => "com.amazonaws.dynamodb.v20120810",
        };
        format!("{namespace}#{}", self.code)
    }

    fn json(&self) -> Bytes {
        let mut body = self.extra.clone();
        body.insert("__type".to_owned(), self.qualified().into());
        body.insert("message".to_owned(), self.message.clone().into());
        serde_json::Value::Object(body).to_string().into()
    }

    /// As S3 says it, with the status.
    fn s3(&self, request_id: &str) -> (u16, Bytes) {
        let (status, code) = match self.code.as_str() {
            "AccessDeniedException" => (403, "AccessDenied"),
            "ExpiredTokenException" => (400, "ExpiredToken"),
            "InvalidSignatureException" => (403, "SignatureDoesNotMatch"),
            "UnrecognizedClientException" => (403, "InvalidAccessKeyId"),
            "InternalServerError" => (500, "InternalError"),
            other => (self.status, other),
        };
        let message = xml_escape(&self.message);
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
             <RequestId>{request_id}</RequestId></Error>"
        );
        (status, text.into())
    }

    fn xml(&self, request_id: &str) -> Bytes {
        let code = match self.code.as_str() {
            "AccessDeniedException" => "AccessDenied",
            "ExpiredTokenException" => "ExpiredToken",
            "InvalidSignatureException" => "SignatureDoesNotMatch",
            "UnrecognizedClientException" => "InvalidClientTokenId",
            "ValidationException" => "ValidationError",
            other => other,
        };
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>{}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>",
            xml_escape(&self.message)
        )
        .into()
    }
}

/// Text as the content of an XML element.
pub(super) fn xml_escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Which protocol the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// DynamoDB and its Streams.
    Json,
    /// STS.
    Query,
    /// S3.
    S3,
}

/// Builds the HTTP response of a result.
pub(super) fn respond(
    protocol: Protocol,
    result: Result<Bytes, ApiError>,
    request_id: &str,
    date: &HeaderValue,
) -> Response<Bytes> {
    let (status, body) = match (result, protocol) {
        (Ok(body), _) => (200, body),
        (Err(error), Protocol::Json) => (error.status, error.json()),
        (Err(error), Protocol::Query) => {
            let is_forbidden = ["AccessDeniedException", "InvalidSignatureException"].contains(&error.code.as_str());
            let status = if is_forbidden { 403 } else { error.status };
            (status, error.xml(request_id))
        }
        (Err(error), Protocol::S3) => error.s3(request_id),
    };
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(header::DATE, date.clone());
    headers.extend(HeaderValue::from_str(request_id).ok().map(|id| (REQUEST_ID, id)));
    let kind = match protocol {
        Protocol::Json => {
            headers.insert(CHECKSUM, crc32(&body).into());
            "application/x-amz-json-1.0"
        }
        Protocol::Query => "text/xml",
        Protocol::S3 => "application/octet-stream",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-crc32");

/// The `Date` header of a time (RFC 9110, 5.6.7), kept as long as its second lasts.
#[derive(Debug)]
pub(super) struct Date {
    second: i64,
    pub(super) header: HeaderValue,
}

impl Date {
    pub(super) fn at(now: WallTime) -> Self {
        let text = jiff::Timestamp::from_millisecond(now.millis())
            .map_or_else(|_| String::new(), |time| time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
        let header = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
        Self { second: now.millis().div_euclid(1000), header }
    }

    pub(super) fn advance(&mut self, now: WallTime) {
        if self.second != now.millis().div_euclid(1000) {
            *self = Self::at(now);
        }
    }
}

/// Eight tables, so that eight bytes are folded in one step.
const CRC_TABLES: [[u32; 256]; 8] = crc_tables();

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "const evaluation; every index is below 256"
)]
const fn crc_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        tables[0][index] = crc;
        index += 1;
    }
    let mut slice = 1;
    while slice < 8 {
        let mut index = 0;
        while index < 256 {
            let previous = tables[slice - 1][index];
            tables[slice][index] = (previous >> 8) ^ tables[0][(previous & 0xff) as usize];
            index += 1;
        }
        slice += 1;
    }
    tables
}

/// CRC-32 (ISO-HDLC), the checksum of the `x-amz-crc32` header.
#[expect(clippy::indexing_slicing, reason = "indices are bytes, tables have 256 entries")]
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let at = |table: usize, byte: u8| CRC_TABLES[table][usize::from(byte)];
    let (chunks, rest) = bytes.as_chunks::<8>();
    let mut crc = u32::MAX;
    for [a, b, c, d, e, f, g, h] in chunks {
        let [w, x, y, z] = (crc ^ u32::from_le_bytes([*a, *b, *c, *d])).to_le_bytes();
        crc = at(7, w) ^ at(6, x) ^ at(5, y) ^ at(4, z) ^ at(3, *e) ^ at(2, *f) ^ at(1, *g) ^ at(0, *h);
    }
    for byte in rest {
        let [low, ..] = (crc ^ u32::from(*byte)).to_le_bytes();
        crc = (crc >> 8) ^ at(0, low);
    }
    !crc
}
