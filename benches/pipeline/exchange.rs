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
    /// The head of the message, and its body.
    pub(crate) fn into_message(self) -> (String, [Vec<u8>; 2]) {
        let (line, kind, range, body) = match self {
            Self::Json(text) => {
                ("200 OK", "application/x-amz-json-1.0", String::new(), [text.into_bytes(), Vec::new()])
            }
            Self::Page { body, end } => {
                ("200 OK", "application/x-amz-json-1.0", String::new(), [body, end.into_bytes()])
            }
            Self::Part { body, from, size } => {
                let last = from + body.len() as u64 - 1;
                let range = format!("content-range: bytes {from}-{last}/{size}\r\n");
                ("206 Partial Content", "binary/octet-stream", range, [body, Vec::new()])
            }
        };
        let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
        let length: usize = body.iter().map(Vec::len).sum();
        let head = format!(
            "HTTP/1.1 {line}\r\nserver: stub\r\ndate: {date}\r\ncontent-type: {kind}\r\n{range}content-length: {length}\r\nx-amzn-requestid: 0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEF\r\n\r\n"
        );
        (head, body)
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
