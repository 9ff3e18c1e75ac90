//! An export that DynamoDB wrote to S3, of the whole table or of what changed in a window: its manifests and its data files.
//!
//! ```text
//! FOLDER/manifest-summary.json     what was exported, and as of when
//! FOLDER/manifest-files.json       a line for each data file: key, MD5, number of items
//! FOLDER/data/*.json.gz            gzip; a line for each item
//! FOLDER/../data/*.json.gz         those of all windows: only a list of files says whose they are
//! ```
//!
//! `manifest` says what is there, `file` turns the parts of a data file into pages of items and checks it: both are pure.
//! `reader` is the seam of the bucket, `open` reads the manifests through it. Knows no lane and no checkpoint.
//! Source: Developer Guide, DynamoDB table export output format.

mod file;
mod lines;
mod manifest;
pub(crate) mod open;
mod reader;

pub use file::{Cursor, DataFile, FileError, Page, Step};
pub use manifest::{FileEntry, Kind};
pub(crate) use manifest::{Manifest, Summary};
pub use reader::{ObjectPart, ObjectReader, PartRequest};
