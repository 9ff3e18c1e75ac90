//! Pure: bytes to model. Never guesses, never skips: odd input is a typed error that names no contents.
//!
//! Of a page only what a decision needs is decoded; images stay slices of the page that they came in.

mod canonical;
mod export_line;
mod key;
mod number;
mod replica_marks;
mod scan_page;
mod scanner;
mod stream_page;
mod window_line;
mod write_reply;

pub use canonical::{ItemDigest, item_digest, seconds_attribute};
pub use export_line::export_line;
pub use key::KeyCodec;
pub use scan_page::{LoadedItem, ScanPage, one_item};
pub use stream_page::{StreamPage, stream_page};
pub use window_line::{ExportedItem, window_line};
pub use write_reply::{WriteReply, transaction_reply, write_reply};

/// Text that could not be understood. Names what was looked for and where, never what stood there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not {what} at byte {at}")]
pub struct DecodeError {
    what: &'static str,
    at: usize,
}

impl DecodeError {
    pub(crate) const fn new(what: &'static str, at: usize) -> Self {
        Self { what, at }
    }
}
