//! Lines → request bodies, by the parts of the program that do it: a file is checked, decompressed and cut into items with
//! their keys, and each 25 of them become a request, signed, so with its SHA-256. None is sent. No order, no checkpoint.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use dynaferry::apply::TargetTable;
use dynaferry::aws::{AccessKey, Account, Clients, Side};
use dynaferry::config::{SideConfig, TableRef};
use dynaferry::context::Context;
use dynaferry::decode::KeyCodec;
use dynaferry::export::{DataFile, FileEntry, Kind, Page, Step};
use dynaferry::model::{KeyAttribute, KeyKind, KeySchema, Write};

use super::exports::{self, Shape};
use super::floor::PART_BYTES;
use super::in_process::Sink;
use crate::Result;
use crate::stub::{ACCOUNT, REGION};

const BATCH: usize = 25;

/// Goes through every file.
pub(crate) async fn run(buckets: &Path, shape: Shape) -> Result<()> {
    let attribute = |name: &str, kind| KeyAttribute { name: name.to_owned(), kind };
    let keys = KeySchema { hash: attribute("pk", KeyKind::S), range: Some(attribute("sk", KeyKind::N)) };
    let sink = Sink::default();
    let key = AccessKey { id: ACCOUNT.to_owned(), secret: "secret".to_owned() };
    let clients = Clients {
        http: Some(sink.client()),
        isolated: Some(key),
        ..Clients::new(Context::system(), Duration::from_secs(10))
    };
    let side = SideConfig { region: Some(REGION.to_owned()), ..SideConfig::default() };
    let account = Account::connect(&side, Side::Target, &clients).await.map_err(|error| format!("{error:?}"))?;
    let table = account.table(&TableRef::Name("dst".to_owned()), &keys);
    let codec = KeyCodec::new(&keys);
    let mut images = 0;
    for file in 0..shape.files {
        let entry = exports::entry(buckets, shape, file)?;
        images += write_file(&exports::path(buckets, &entry.key), &entry, &codec, &table).await?;
    }
    // The bodies hold every image, and little besides.
    match sink.bytes().checked_sub(images) {
        Some(more) if more < shape.items() * 64 => Ok(()),
        _ => Err(format!("{} bytes in bodies for {images} of images", sink.bytes()).into()),
    }
}

/// Answers how many bytes the images have.
async fn write_file(path: &Path, entry: &FileEntry, codec: &KeyCodec, table: &impl TargetTable) -> Result<usize> {
    let mut object = File::open(path)?;
    let mut images = 0;
    let mut file = DataFile::new(entry, Kind::Full, codec, None);
    loop {
        match file.next_step()? {
            Step::NeedsPart => {
                let mut part = Vec::with_capacity(PART_BYTES);
                match (&mut object).take(PART_BYTES as u64).read_to_end(&mut part)? {
                    0 => file.end(),
                    _ => file.put(part.into()),
                }
            }
            Step::Page(page) => images += write_page(page, table).await?,
            Step::Last(page) => return Ok(images + write_page(page, table).await?),
        }
    }
}

async fn write_page(page: Page, table: &impl TargetTable) -> Result<usize> {
    let images = page.items.iter().filter_map(|item| item.image.as_ref()).map(|image| image.len()).sum();
    let mut items = page.items.into_iter();
    loop {
        let batch = items.by_ref().take(BATCH).map(|item| Write { key: item.key, image: item.image });
        let batch: Vec<Write> = batch.collect();
        if batch.is_empty() {
            return Ok(images);
        }
        table.write(&batch).await?;
    }
}
