//! Exports as DynamoDB writes them, made ahead: a summary, a list of files with their MD5, and gzip'ed lines.
//!
//! The items are those of the stream's pages, each key once. Nothing is held in memory but what gzip holds.

use std::fmt;
use std::fs::{File, create_dir_all};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dynaferry::export::FileEntry;
use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest as _, Md5};
use serde_json::{Value, json};

use crate::Result;
use crate::pages::item;
use crate::stub::{ACCOUNT, REGION};

/// The bucket: a folder of the bench's own, in which each export has a folder named by its shape.
pub(crate) const BUCKET: &str = "bench-exports";

/// How large an export is: so many files of so many items, `8x50000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) files: usize,
    pub(crate) items_per_file: usize,
}

impl Shape {
    pub(crate) const fn items(self) -> usize {
        self.files * self.items_per_file
    }

    /// The export's folder in its bucket.
    pub(crate) fn folder(self) -> String {
        format!("{self}/AWSDynamoDB/01764288000000-a1b2c3d4/")
    }

    /// A data file's key.
    pub(crate) fn key(self, file: usize) -> String {
        format!("{}data/{file:04}.json.gz", self.folder())
    }

    /// Every item of a file.
    fn items_of(self, file: usize) -> impl Iterator<Item = String> {
        (file * self.items_per_file..(file + 1) * self.items_per_file).map(|number| item(number, number % 9))
    }

    /// Every item.
    pub(crate) fn all_items(self) -> impl Iterator<Item = String> {
        (0..self.files).flat_map(move |file| self.items_of(file))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.files, self.items_per_file)
    }
}

impl FromStr for Shape {
    type Err = Box<dyn std::error::Error + Send + Sync>;

    fn from_str(text: &str) -> Result<Self> {
        let (files, items) = text.split_once('x').ok_or_else(|| format!("no shape {text}"))?;
        Ok(Self { files: files.parse()?, items_per_file: items.parse()? })
    }
}

/// Where an object of the bucket is on disk.
pub(crate) fn path(buckets: &Path, key: &str) -> PathBuf {
    buckets.join(BUCKET).join(key)
}

/// Writes an export; answers how many bytes its text has.
pub(crate) fn write(buckets: &Path, shape: Shape) -> Result<u64> {
    let folder = shape.folder();
    create_dir_all(path(buckets, &format!("{folder}data")))?;
    let (mut list, mut text_bytes) = (String::new(), 0);
    for file in 0..shape.files {
        let key = shape.key(file);
        let (md5, of_file) = write_file(&path(buckets, &key), shape.items_of(file))?;
        text_bytes += of_file;
        let entry = json!({"itemCount": shape.items_per_file, "md5Checksum": md5, "etag": "any", "dataFileS3Key": key});
        list.push_str(&format!("{entry}\n"));
    }
    std::fs::write(path(buckets, &format!("{folder}manifest-files.json")), list)?;
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string();
    let summary = json!({"version": "2020-06-30", "exportArn": format!("arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/src/export/01764288000000-a1b2c3d4"),
        "startTime": now, "endTime": now, "exportTime": now, "tableArn": format!("arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/src"), "tableId": "src",
        "s3Bucket": BUCKET, "s3SseAlgorithm": "AES256", "manifestFilesS3Key": format!("{folder}manifest-files.json"),
        "billedSizeBytes": text_bytes, "itemCount": shape.items(), "outputFormat": "DYNAMODB_JSON", "exportType": "FULL_EXPORT"});
    std::fs::write(path(buckets, &format!("{folder}manifest-summary.json")), summary.to_string())?;
    Ok(text_bytes)
}

/// A file as the list of files has it.
pub(crate) fn entry(buckets: &Path, shape: Shape, file: usize) -> Result<FileEntry> {
    let list = std::fs::read_to_string(path(buckets, &format!("{}manifest-files.json", shape.folder())))?;
    let entry: Value = serde_json::from_str(list.lines().nth(file).ok_or("no such file")?)?;
    let md5 = entry.get("md5Checksum").and_then(Value::as_str).ok_or("no MD5")?;
    let md5 = STANDARD.decode(md5)?.try_into().map_err(|_| "no MD5")?;
    Ok(FileEntry { key: shape.key(file), items: shape.items_per_file as u64, md5: Some(md5) })
}

/// Deletes an export.
pub(crate) fn remove(buckets: &Path, shape: Shape) -> Result<()> {
    Ok(std::fs::remove_dir_all(path(buckets, &shape.to_string()))?)
}

/// One data file: its MD5, and how many bytes its text has.
fn write_file(path: &Path, items: impl Iterator<Item = String>) -> Result<(String, u64)> {
    let object = Digested { file: BufWriter::new(File::create(path)?), md5: Md5::new() };
    let mut gzip = GzEncoder::new(object, Compression::default());
    let mut text_bytes = 0;
    for item in items {
        let line = format!("{{\"Item\":{item}}}\n");
        text_bytes += line.len() as u64;
        gzip.write_all(line.as_bytes())?;
    }
    let mut object = gzip.finish()?;
    object.flush()?;
    Ok((STANDARD.encode(object.md5.finalize()), text_bytes))
}

/// A file whose MD5 is taken on the way.
struct Digested {
    file: BufWriter<File>,
    md5: Md5,
}

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = self.file.write(bytes)?;
        self.md5.update(bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
