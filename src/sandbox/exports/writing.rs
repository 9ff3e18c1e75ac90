//! What an export writes: its lines, its files, its manifests.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest as _, Md5};
use serde_json::{Map, Value as Json, json};

use super::super::past::Compacted;
use super::super::table::{Items, Table};
use super::super::value::write_item;

/// Files of an export: one for each quarter of the hash range.
pub(super) const FILES: usize = 4;

/// The text of a data file, and how many lines it has.
pub(super) type Text = (Vec<u8>, u64);

/// How the manifests of an export spell what has several spellings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spelling {
    /// Keys begin with the prefix. AWS's own samples have them without it, too.
    pub(super) has_prefix: bool,
    /// `WriteTimestampMicros` is a plain string, else `{"N":…}`.
    pub(super) plain_micros: bool,
    /// Checksums are in objects that end so.
    pub(super) checksum: &'static str,
    /// Where nothing changed there is no data file at all, else empty ones.
    pub(super) leaves_out_empty: bool,
}

impl Spelling {
    /// How full exports are written.
    pub(super) const FULL: Self =
        Self { has_prefix: false, plain_micros: false, checksum: "md5", leaves_out_empty: false };

    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        Self {
            has_prefix: rng.bool(),
            plain_micros: rng.bool(),
            checksum: if rng.bool() { "md5" } else { "checksum" },
            leaves_out_empty: rng.bool(),
        }
    }
}

fn part_of(hash: u64) -> usize {
    usize::try_from(hash / (u64::MAX / FILES as u64 + 1)).unwrap_or(0)
}

fn put_line(files: &mut [Text], hash: u64, write: impl FnOnce(&mut Vec<u8>)) {
    if let Some((text, lines)) = files.get_mut(part_of(hash)) {
        write(text);
        text.push(b'\n');
        *lines += 1;
    }
}

/// The lines of a full export.
pub(super) fn full(items: &Items) -> Vec<Text> {
    let mut files = vec![(Vec::new(), 0); FILES];
    for (key, stored) in items {
        put_line(&mut files, key.hash, |line| {
            line.extend_from_slice(b"{\"Item\":");
            write_item(&stored.attributes, line);
            line.push(b'}');
        });
    }
    files
}

/// The lines of an incremental export.
pub(super) fn window(table: &Table, changed: &[Compacted], with_old: bool, spelling: Spelling) -> Vec<Text> {
    let mut files = vec![(Vec::new(), 0); FILES];
    for Compacted { key, at, old, new } in changed {
        let Some(image) = new.as_ref().or(old.as_ref()) else { continue };
        put_line(&mut files, key.hash, |line| {
            let micros = at.millis() * 1000;
            let micros =
                if spelling.plain_micros { format!("\"{micros}\"") } else { format!("{{\"N\":\"{micros}\"}}") };
            line.extend_from_slice(
                format!("{{\"Metadata\":{{\"WriteTimestampMicros\":{micros}}},\"Keys\":").as_bytes(),
            );
            write_item(&table.key_attributes(&image.attributes), line);
            for (name, image) in [("NewImage", new.as_ref()), ("OldImage", old.as_ref().filter(|_| with_old))] {
                if let Some(image) = image {
                    line.extend_from_slice(format!(",\"{name}\":").as_bytes());
                    write_item(&image.attributes, line);
                }
            }
            line.push(b'}');
        });
    }
    files
}

/// Where an export's objects go: what all of its keys begin with, its own folder, and the folder of its data.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    pub(super) prefix: String,
    pub(super) own: String,
    pub(super) data: String,
}

/// The objects of an export by key, and the lines of all files. `summary` lacks what follows from the files.
pub(super) fn objects(
    files: Vec<(Text, String)>,
    Folders { prefix, own, data }: &Folders,
    mut summary: Map<String, Json>,
    spelling: Spelling,
) -> (Vec<(String, Bytes)>, u64) {
    let mut objects = Vec::new();
    let mut put = |key: &str, bytes: Bytes| objects.push((format!("{prefix}{key}"), bytes));
    let told = |key: &str| if spelling.has_prefix { format!("{prefix}{key}") } else { key.to_owned() };
    put(&format!("{own}/_started"), Bytes::new());
    let (mut list, mut count) = (String::new(), 0);
    let is_empty = files.iter().all(|((_, lines), _)| *lines == 0);
    for ((text, lines), name) in files.into_iter().filter(|_| !(is_empty && spelling.leaves_out_empty)) {
        let object = gzip(&text);
        let (md5, key) = (Md5::digest(&object), format!("{data}/{name}.json.gz"));
        let line = json!({
            "itemCount": lines,
            "md5Checksum": STANDARD.encode(md5),
            "etag": format!("{}-1", hex(&Md5::digest(md5))),
            "dataFileS3Key": told(&key),
        });
        list.push_str(&format!("{line}\n"));
        put(&key, object.into());
        count += lines;
    }
    let checksum = |bytes: &str| Bytes::from(STANDARD.encode(Md5::digest(bytes)));
    put(&format!("{own}/manifest-files.{}", spelling.checksum), checksum(&list));
    put(&format!("{own}/manifest-files.json"), list.into());
    summary.insert("manifestFilesS3Key".to_owned(), told(&format!("{own}/manifest-files.json")).into());
    summary.insert("itemCount".to_owned(), count.into());
    let summary = Json::Object(summary).to_string();
    put(&format!("{own}/manifest-summary.{}", spelling.checksum), checksum(&summary));
    put(&format!("{own}/manifest-summary.json"), summary.into());
    (objects, count)
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).and_then(|()| encoder.finish()).unwrap_or_default()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
