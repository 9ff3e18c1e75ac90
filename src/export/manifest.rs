//! Pure: the two manifests of an export, in every shape that is documented.
//!
//! What the pages of the service show differs from each other: keys with and without the prefix, a full export with and without
//! its type. So every field is optional here but what nothing works without. Ours are times by AWS's clock.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::lines::Lines;
use crate::model::{ExportWindow, TableArn, WallTime};

/// A line of the list of files is some hundred bytes: a key has 1,024 at most.
const MAX_LINE: usize = 16 << 10;

/// As many files as a scan has segments, at most: each has a row in the state.
const MAX_FILES: usize = 1_000_000;

/// What is wrong with a manifest. The texts may quote it: it holds names and sizes, and no item.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    /// No summary as documented.
    #[error("read the summary")]
    Summary(#[source] serde_json::Error),
    /// A line of the list of files.
    #[error("read line {line} of the list of files")]
    Line {
        /// Which, from 1.
        line: u64,
        #[source]
        source: serde_json::Error,
    },
    /// Something else about the list of files.
    #[error("read line {line} of the list of files: {what}")]
    File {
        /// Which, from 1.
        line: u64,
        what: &'static str,
    },
    /// It is not an export of that kind in DynamoDB JSON.
    #[error("it is {what}; only {wanted} as DynamoDB JSON can be loaded")]
    Kind { what: String, wanted: Kind },
    /// Both manifests do not go together.
    #[error("the summary counts {summary} items, the list of files {files}")]
    Counts { summary: u64, files: u64 },
}

/// What an export is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The whole table.
    Full,
    /// What changed in a window.
    Window,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "a full export",
            Self::Window => "an incremental export",
        })
    }
}

/// What was exported, and as of when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) table: TableArn,
    /// The table's id; one that is made anew has another.
    pub(crate) table_id: Option<String>,
    /// The time of which the data are an image, give or take a minute; of a window, its end. Source: Developer Guide,
    /// requesting a table export.
    pub(crate) time: Option<WallTime>,
    /// The window, of an incremental export.
    pub(crate) window: Option<ExportWindow>,
    /// Where the list of files is; see [`crate::model::ExportPlace::spellings`].
    pub(super) files_key: String,
    items: Option<u64>,
    /// What the service billed for, about the size of the table.
    pub(crate) billed_bytes: Option<u64>,
}

/// A data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its key as the list has it.
    pub key: String,
    /// Its items.
    pub items: u64,
    /// MD5 of the object as it is stored, compressed; `None` where the list has none.
    pub md5: Option<[u8; 16]>,
}

/// Both manifests of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) summary: Summary,
    pub(crate) files: Vec<FileEntry>,
    /// The sum of the files' items.
    pub(crate) items: u64,
    /// SHA-256 of what the list says of the files, in hex: whether it is still the same.
    pub(crate) fingerprint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SummaryJson {
    table_arn: TableArn,
    table_id: Option<String>,
    #[serde(default, deserialize_with = "time")]
    export_time: Option<WallTime>,
    #[serde(default, deserialize_with = "time")]
    export_from_time: Option<WallTime>,
    #[serde(default, deserialize_with = "time")]
    export_to_time: Option<WallTime>,
    export_type: Option<String>,
    output_format: Option<String>,
    #[serde(rename = "manifestFilesS3Key")]
    files_key: String,
    item_count: Option<u64>,
    billed_size_bytes: Option<u64>,
}

/// ISO 8601 in UTC, with milliseconds.
fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<WallTime>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
    Ok(Some(WallTime::from_millis(time.as_millisecond())))
}

impl Summary {
    /// Reads `manifest-summary.json` of an export that is wanted to be of such a kind.
    pub(super) fn parse(text: &[u8], wanted: Kind) -> Result<Self, ManifestError> {
        let json: SummaryJson = serde_json::from_slice(text).map_err(ManifestError::Summary)?;
        let kind = |what: &str| ManifestError::Kind { what: what.to_owned(), wanted };
        let window = json.export_from_time.zip(json.export_to_time).map(|(from, to)| ExportWindow { from, to });
        match (json.export_type.as_deref(), wanted) {
            (None | Some("FULL_EXPORT"), Kind::Full) if json.export_from_time.is_none() => {}
            (None | Some("INCREMENTAL_EXPORT"), Kind::Window) if window.is_some() => {}
            (Some("INCREMENTAL_EXPORT"), Kind::Window) => return Err(kind("one that does not tell of which window")),
            (_, Kind::Full) => return Err(kind("an incremental export")),
            (_, Kind::Window) => return Err(kind("no incremental export")),
        }
        if let Some(format) = json.output_format.filter(|format| format != "DYNAMODB_JSON") {
            return Err(kind(&format!("in the format {format}")));
        }
        Ok(Self {
            table: json.table_arn,
            table_id: json.table_id,
            time: window.map_or(json.export_time, |window| Some(window.to)),
            window,
            files_key: json.files_key,
            items: json.item_count,
            billed_bytes: json.billed_size_bytes,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileJson {
    item_count: u64,
    md5_checksum: Option<String>,
    #[serde(rename = "dataFileS3Key")]
    key: String,
}

/// Reads `manifest-files.json`, as it comes.
pub(super) struct FileList {
    lines: Lines,
    digest: Sha256,
    files: Vec<FileEntry>,
    keys: HashSet<String>,
}

impl FileList {
    pub(super) fn new() -> Self {
        Self { lines: Lines::new(MAX_LINE), digest: Sha256::new(), files: Vec::new(), keys: HashSet::new() }
    }

    pub(super) fn put(&mut self, part: &[u8]) -> Result<(), ManifestError> {
        self.lines.put(part);
        loop {
            match self.lines.next_line() {
                Ok(Some(line)) => self.take(&line)?,
                Ok(None) => return Ok(()),
                Err(_too_long) => return Err(self.wrong("the line is too long")),
            }
        }
    }

    /// The text is at its end.
    pub(super) fn finish(mut self, summary: Summary) -> Result<Manifest, ManifestError> {
        if let Some(line) = self.lines.rest() {
            self.take(&line)?;
        }
        let items = self.files.iter().fold(0u64, |sum, file| sum.saturating_add(file.items));
        if let Some(counted) = summary.items.filter(|counted| *counted != items) {
            return Err(ManifestError::Counts { summary: counted, files: items });
        }
        let fingerprint = self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Manifest { summary, files: self.files, items, fingerprint })
    }

    fn take(&mut self, line: &[u8]) -> Result<(), ManifestError> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let line_number = self.lines.number();
        let file: FileJson =
            serde_json::from_slice(line).map_err(|source| ManifestError::Line { line: line_number, source })?;
        let md5 = match file.md5_checksum {
            None => None,
            Some(text) => {
                let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
                Some(bytes.ok_or_else(|| self.wrong("its md5Checksum is no MD5"))?)
            }
        };
        if !self.keys.insert(file.key.clone()) {
            return Err(self.wrong("the file was listed before"));
        }
        if self.files.len() >= MAX_FILES {
            return Err(self.wrong("there are too many files"));
        }
        // What is said of each file, and not how: it may be written anew, and a damaged byte where nobody looks is none.
        self.digest.update(file.key.as_bytes());
        self.digest.update([0, u8::from(md5.is_some())]);
        self.digest.update(file.item_count.to_be_bytes());
        self.digest.update(md5.unwrap_or_default());
        self.files.push(FileEntry { key: file.key, items: file.item_count, md5 });
        Ok(())
    }

    fn wrong(&self, what: &'static str) -> ManifestError {
        ManifestError::File { line: self.lines.number(), what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;
    use proptest::prelude::*;

    const ARN: &str = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders";

    fn summary(more: &str) -> Result<Summary, ManifestError> {
        Summary::parse(text(more).as_bytes(), Kind::Full)
    }

    fn window(more: &str) -> Result<Summary, ManifestError> {
        Summary::parse(text(more).as_bytes(), Kind::Window)
    }

    fn text(more: &str) -> String {
        format!(r#"{{"tableArn":"{ARN}","manifestFilesS3Key":"f"{more}}}"#)
    }

    fn manifest(summary: Summary, files: &str) -> Result<Manifest, ManifestError> {
        let mut list = FileList::new();
        list.put(files.as_bytes())?;
        list.finish(summary)
    }

    /// The folders of `tests/exports`: each documented shape.
    #[test]
    fn every_documented_shape_is_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/exports");
        let mut shapes = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let folder = entry.unwrap().path();
            let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let summary = Summary::parse(&read("manifest-summary.json"), Kind::Full);
            if name.starts_with("refused-") {
                assert!(matches!(summary, Err(ManifestError::Kind { .. })), "{name}");
                continue;
            }
            let mut list = FileList::new();
            list.put(&read("manifest-files.json")).unwrap();
            let manifest = list.finish(summary.unwrap()).unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
            assert_eq!(manifest.summary.table.to_string(), ARN, "{name}");
            assert_eq!((manifest.items, manifest.files.len()), (5, 3), "{name}");
            shapes += 1;
        }
        assert!(shapes >= 3);
    }

    #[test]
    fn a_summary_needs_a_table_and_a_list_of_files_and_nothing_else() {
        let bare = summary("").unwrap();
        assert_eq!((bare.table_id, bare.time, bare.items), (None, None, None));
        let nulls = r#","tableId":null,"exportTime":null,"exportType":null,"s3SseKmsKeyId":null,"itemCount":null"#;
        assert_eq!(summary(nulls).unwrap().time, None);
        assert!(Summary::parse(format!(r#"{{"tableArn":"{ARN}"}}"#).as_bytes(), Kind::Full).is_err());
        assert!(Summary::parse(br#"{"tableArn":"orders","manifestFilesS3Key":"f"}"#, Kind::Full).is_err());
        let timed = summary(r#","exportTime":"2026-11-04T07:28:34.028Z""#).unwrap();
        assert_eq!(timed.time.unwrap().to_string(), "2026-11-04T07:28:34.028Z");
    }

    #[test]
    fn what_is_no_full_export_as_json_is_refused() {
        for (more, what) in [
            (r#","exportType":"INCREMENTAL_EXPORT""#, "incremental"),
            (r#","exportFromTime":"2026-11-04T07:28:34.028Z""#, "incremental"),
            (r#","outputFormat":"ION""#, "ION"),
        ] {
            assert!(summary(more).unwrap_err().to_string().contains(what), "{more}");
        }
    }

    #[test]
    fn a_window_is_one_that_says_from_when_to_when() {
        let times = r#","exportFromTime":"2026-11-04T07:00:00.000Z","exportToTime":"2026-11-04T08:00:00.000Z""#;
        for more in ["", r#","exportType":"INCREMENTAL_EXPORT","outputView":"NEW_IMAGE","exportTime":null"#] {
            let read = window(&format!("{times}{more}")).unwrap();
            let of = read.window.unwrap();
            assert_eq!(of.to_string(), "2026-11-04T07:00:00.000Z to 2026-11-04T08:00:00.000Z");
            assert_eq!(read.time, Some(of.to), "it is an image of its end");
        }
        for (more, what) in [
            (String::new(), "no incremental export"),
            (r#","exportType":"INCREMENTAL_EXPORT""#.to_owned(), "of which window"),
            (r#","exportTime":"2026-11-04T07:28:34.028Z""#.to_owned(), "no incremental export"),
            (format!(r#"{times},"exportType":"FULL_EXPORT""#), "no incremental export"),
            (format!(r#"{times},"outputFormat":"ION""#), "ION"),
        ] {
            assert!(window(&more).unwrap_err().to_string().contains(what), "{more}");
        }
    }

    #[test]
    fn a_list_that_does_not_go_together_is_refused() {
        let file = r#"{"itemCount":2,"md5Checksum":"sQMSpEILNgoQmarvDFonGQ==","dataFileS3Key":"a"}"#;
        let wrong = |more: &str, files: &str| chain(&manifest(summary(more).unwrap(), files).unwrap_err());
        assert!(wrong("", &format!("{file}\n{file}\n")).contains("line 2 of the list of files: the file was listed"));
        assert!(wrong(r#","itemCount":3"#, file).contains("counts 3 items, the list of files 2"));
        assert!(wrong("", &file.replace("==", "")).contains("line 1 of the list of files: its md5Checksum"));
        assert!(wrong("", &format!("{file}\n\n{{}}")).contains("line 3"));
        assert!(wrong("", &"x".repeat(MAX_LINE + 1)).contains("too long"));
        assert_eq!(manifest(summary("").unwrap(), "").unwrap().files, [], "an empty list is one");
    }

    #[test]
    fn a_list_is_the_same_that_says_the_same_of_each_file() {
        let fingerprint = |files: &str| manifest(summary("").unwrap(), files).unwrap().fingerprint;
        let file = r#"{"itemCount":2,"md5Checksum":"sQMSpEILNgoQmarvDFonGQ==","etag":"a-1","dataFileS3Key":"a"}"#;
        let one = fingerprint(file);
        assert_eq!(one, fingerprint(&format!("\n{}\n", file.replace("a-1", "b-1").replace(':', " : "))));
        for other in [file.replace(":2", ":3"), file.replace("sQ", "tQ"), file.replace(r#":"a"}"#, r#":"b"}"#)] {
            assert_ne!(one, fingerprint(&other), "{other}");
        }
        assert_ne!(one, fingerprint(&file.replace(r#""md5Checksum":"sQMSpEILNgoQmarvDFonGQ==","#, "")));
    }

    proptest! {
        #[test]
        fn a_list_that_comes_in_parts_is_the_same(cut in 0usize..200) {
            let files: String = (0..3)
                .map(|n| format!("{{\"itemCount\":{n},\"etag\":\"x-1\",\"dataFileS3Key\":\"{n}\"}}\n"))
                .collect();
            let whole = manifest(summary("").unwrap(), &files).unwrap();
            let cut = cut.min(files.len());
            let mut list = FileList::new();
            list.put(&files.as_bytes()[..cut]).unwrap();
            list.put(&files.as_bytes()[cut..]).unwrap();
            prop_assert_eq!(list.finish(summary("").unwrap()).unwrap(), whole);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            for kind in [Kind::Full, Kind::Window] {
                if let Ok(read) = Summary::parse(text.as_bytes(), kind) {
                    prop_assert!(!read.files_key.is_empty() || text.contains("manifestFilesS3Key"));
                }
            }
            let mut list = FileList::new();
            if list.put(text.as_bytes()).is_ok() {
                let _read = list.finish(summary("").unwrap()).is_ok();
            }
        }
    }
}
