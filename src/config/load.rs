//! Settings of the initial load: `[link.NAME.load]`.

use std::ops::RangeInclusive;

use serde::Serialize;

use super::section::{Complaint, Section, Word, defaults, integer, texts};
use super::tree::{Node, Value};
use super::units::Capacity;
use crate::model::{ExportBucket, ExportRef, is_bucket};

/// The service's own limit on `TotalSegments` (API reference, `Scan`).
pub const SEGMENTS_RANGE: RangeInclusive<u32> = 1..=1_000_000;
/// A quarter of the table leaves the application three.
pub const DEFAULT_READ_CAPACITY: Capacity = Capacity::Percent(25);
/// Eight segments read at a time: about 8 MB on the wire, and one connection each.
pub const DEFAULT_LOAD_CONCURRENCY: u32 = 8;
/// Beyond a thousand, connections cost more than they bring.
pub const LOAD_CONCURRENCY_RANGE: RangeInclusive<u32> = 1..=1024;

/// How the first copy is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadMethod {
    /// Parallel scan with strongly consistent reads.
    Scan,
    /// A full export: one that exists already, or one of the link's own.
    Export,
    /// Such an export, put into a new table by the target's account itself.
    Import,
    /// No first copy: the stream only.
    None,
}

impl Word for LoadMethod {
    const WORDS: &'static [(&'static str, Self)] =
        &[("scan", Self::Scan), ("export", Self::Export), ("import", Self::Import), ("none", Self::None)];
}

impl LoadMethod {
    /// Whether a full export is loaded.
    pub(crate) const fn is_by_export(self) -> bool {
        matches!(self, Self::Export | Self::Import)
    }
}

/// Into how many segments a scan is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Segments {
    /// Chosen from the table's size.
    Auto,
    /// Exactly this many, 1 to 1,000,000.
    Fixed(u32),
}

impl Serialize for Segments {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Fixed(segments) => serializer.serialize_u32(*segments),
        }
    }
}

impl Segments {
    /// Reads `segments`; chosen from the table's size unless it is given.
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let read = section.read("segments", |node| match &node.value {
            Value::Text(text) if text == "auto" => Ok(Self::Auto),
            Value::Text(_) => {
                Err(Complaint::new("must be a number or \"auto\"", "1 to 1000000 without quotes, or \"auto\""))
            }
            _ => integer(node, &SEGMENTS_RANGE).map(Self::Fixed).map_err(|complaint| complaint.or_default("auto")),
        });
        read.unwrap_or(Self::Auto)
    }
}

/// How the first copy is made, and how hard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadConfig {
    /// Default `scan`; `export` where `from_export` is set.
    pub method: LoadMethod,
    /// The export that is loaded.
    pub from_export: Option<ExportRef>,
    /// Incremental exports that go on from it, one after the other.
    pub increments: Vec<ExportRef>,
    /// The account that must own the export's bucket: 12 digits. Default: anybody may.
    pub bucket_owner: Option<String>,
    /// Where the link's own export is put, where `method` is `"export"` or `"import"` without `from_export`.
    pub own_export: Option<ExportBucket>,
    /// Default `auto`. More segments spread the reads and make restarts cheaper; each has its own cursor.
    pub segments: Segments,
    /// Of the source's read capacity. Default [`DEFAULT_READ_CAPACITY`].
    pub read_capacity: Capacity,
    /// Segments read at the same time. Default [`DEFAULT_LOAD_CONCURRENCY`], within [`LOAD_CONCURRENCY_RANGE`].
    pub concurrency: u32,
}

impl Default for LoadConfig {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl LoadConfig {
    /// Whether incremental exports may go on from the one that is loaded.
    pub(crate) const fn goes_on(&self) -> bool {
        self.own_export.is_some() || !self.increments.is_empty()
    }

    pub(super) fn read(mut section: Section<'_>) -> Self {
        section.later("export", "name the bucket: `bucket = \"BUCKET\"`, with `method = \"export\"`");
        section.later("import", "name the bucket: `bucket = \"BUCKET\"`, with `method = \"import\"`");
        let (method, place) = (section.node("method"), section.node("from_export"));
        let default = if place.is_some() { LoadMethod::Export } else { LoadMethod::Scan };
        let bucket_owner = section.text("bucket_owner", account);
        let bucket = own_export(&mut section, bucket_owner.clone());
        let mut read = Self {
            method: section.word("method", default),
            from_export: section.text("from_export", export),
            increments: section.read("increments", exports).unwrap_or_default(),
            bucket_owner,
            own_export: bucket,
            segments: Segments::read(&mut section),
            read_capacity: section.capacity("read_capacity", DEFAULT_READ_CAPACITY),
            concurrency: section.integer("concurrency", DEFAULT_LOAD_CONCURRENCY, LOAD_CONCURRENCY_RANGE),
        };
        match (method, place) {
            (Some(node), None) if read.method.is_by_export() && section.node("bucket").is_none() => {
                let what = match read.method {
                    LoadMethod::Import => {
                        "is `import`, and there is neither an export to import nor a bucket to put it"
                    }
                    _ => "is `export`, and there is neither one to load nor a bucket to put it",
                };
                section.complain("method", node, Complaint::new(what, FROM_EXPORT));
            }
            (_, Some(node)) if !read.method.is_by_export() => {
                let complaint = Complaint::new("has no effect with this `method`", "remove one of them");
                section.complain("from_export", node, complaint);
            }
            _ => {}
        }
        let is_own = read.method.is_by_export() && place.is_none();
        for key in OF_OWN_EXPORT.into_iter().filter(|_| !is_own) {
            // What stands among the defaults is for those links that it fits.
            if let Some(node) = section.node(key).filter(|node| !node.home.starts_with("defaults")) {
                let complaint = Complaint::new(
                    "has no effect",
                    "it goes with `method = \"export\"` or `\"import\"` without `from_export`",
                );
                section.complain(key, node, complaint);
            }
        }
        if !is_own {
            read.own_export = None;
        }
        let goes_on = place.is_some() && read.method == LoadMethod::Export;
        if let Some(node) = section.node("increments").filter(|_| !goes_on) {
            let complaint = Complaint::new("has no effect", "it goes with `from_export` and `method = \"export\"`");
            section.complain("increments", node, complaint);
        }
        section.finish();
        read
    }
}

const FROM_EXPORT: &str = "add `bucket = \"BUCKET\"`, or `from_export = \"s3://BUCKET/PREFIX/AWSDynamoDB/EXPORT_ID/\"`";

/// Bytes of a prefix, which leave room for the export's own part of a key. Source: S3 User Guide, object keys.
const MAX_PREFIX: usize = 900;

/// What only an export of the link's own needs.
const OF_OWN_EXPORT: [&str; 4] = ["bucket", "prefix", "kms_key", "enable_pitr"];

fn own_export(section: &mut Section<'_>, owner: Option<String>) -> Option<ExportBucket> {
    let name = section.text("bucket", |text| {
        let is_legal = is_bucket(text);
        is_legal.then(|| text.to_owned()).ok_or_else(|| {
            Complaint::new("is not the name of a bucket", "3 to 63 of a-z, 0-9, `-` and `.`, without s3://")
        })
    });
    let prefix = section.text("prefix", |text| {
        let text = text.trim_matches('/');
        let fits = text.len() <= MAX_PREFIX;
        fits.then(|| text.to_owned())
            .ok_or_else(|| Complaint::new("is too long", "keys in S3 have 1,024 bytes at most"))
    });
    let kms_key = section.text("kms_key", |text| Ok(text.to_owned()));
    let enable_pitr = section.flag("enable_pitr", false);
    Some(ExportBucket { name: name?, prefix: prefix.filter(|text| !text.is_empty()), owner, kms_key, enable_pitr })
}

fn export(text: &str) -> Result<ExportRef, Complaint> {
    text.parse().map_err(|_| {
        Complaint::new(
            "is neither the folder of an export nor its ARN",
            "as in \"s3://BUCKET/PREFIX/AWSDynamoDB/01604473200000-a1b2c3d4/\"",
        )
    })
}

fn exports(node: &Node) -> Result<Vec<ExportRef>, Complaint> {
    texts(node)?.iter().map(|(text, _)| export(text)).collect()
}

fn account(text: &str) -> Result<String, Complaint> {
    if text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("is not an account id", "12 digits"))
}
