//! What the stub is asked and what it answers.

use crate::http::{Message, header, path};

/// A page of a stream is the one body that is not made for each answer.
pub(crate) enum Answer {
    Json(String),
    Page {
        body: Vec<u8>,
        end: String,
    },
    /// Of an object: bytes from so many on, of so many.
    Part {
        body: Vec<u8>,
        from: u64,
        size: u64,
    },
}

impl Answer {
    /// Status, headers and body.
    pub(crate) fn into_parts(self) -> (u16, Vec<(&'static str, String)>, [Vec<u8>; 2]) {
        let kind = |kind: &str| ("content-type", kind.to_owned());
        let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let id = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEF".to_owned();
        let mut headers = vec![("server", "stub".to_owned()), ("date", date), ("x-amzn-requestid", id)];
        let (status, body) = match self {
            Self::Json(text) => (200, [text.into_bytes(), Vec::new()]),
            Self::Page { body, end } => (200, [body, end.into_bytes()]),
            Self::Part { body, from, size } => {
                let last = from + body.len() as u64 - 1;
                headers.push(("content-range", format!("bytes {from}-{last}/{size}")));
                (206, [body, Vec::new()])
            }
        };
        headers.push(kind(if status == 206 { "binary/octet-stream" } else { "application/x-amz-json-1.0" }));
        headers.push(("content-length", body.iter().map(Vec::len).sum::<usize>().to_string()));
        (status, headers, body)
    }
}

/// What is asked for.
pub(crate) struct Question<'a> {
    /// The operation; there is none for S3 and STS.
    pub(crate) target: Option<&'a str>,
    pub(crate) path: &'a str,
    pub(crate) range: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

impl<'a> Question<'a> {
    pub(crate) fn of(message: &Message<'a>) -> Self {
        let header = |name| header(message.head, name);
        Self { target: header("x-amz-target"), path: path(message.head), range: header("range"), body: message.body }
    }
}
