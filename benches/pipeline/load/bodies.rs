//! Lines → request bodies, by the parts of the program that do it: a file is checked, decompressed and cut into items with
//! their keys, and each 25 of them become a request, signed, so with its SHA-256. None is sent: it is answered where it
//! would be, and the answer's cost counts. No order, no checkpoint.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dynaferry::apply::TargetTable;
use dynaferry::aws::{AccessKey, Account, Clients, Side};
use dynaferry::config::{SideConfig, TableRef};
use dynaferry::context::Context;
use dynaferry::decode::KeyCodec;
use dynaferry::export::{DataFile, FileEntry, Page, Step};
use dynaferry::model::{KeyAttribute, KeyKind, KeySchema, Write};

use super::exports::{self, Shape};
use super::floor::PART_BYTES;
use super::in_process;
use crate::Result;
use crate::stub::{ACCOUNT, REGION, Stub};

const BATCH: usize = 25;

/// Goes through every file.
pub(crate) async fn run(buckets: &Path, shape: Shape) -> Result<()> {
    let attribute = |name: &str, kind| KeyAttribute { name: name.to_owned(), kind };
    let keys = KeySchema { hash: attribute("pk", KeyKind::S), range: Some(attribute("sk", KeyKind::N)) };
    let stub = Arc::new(Stub::without_pages(buckets));
    let key = AccessKey { id: ACCOUNT.to_owned(), secret: "secret".to_owned() };
    let clients = Clients {
        http: Some(in_process::client(Arc::clone(&stub))),
        isolated: Some(key),
        ..Clients::new(Context::system(), Duration::from_secs(10))
    };
    let side = SideConfig { region: Some(REGION.to_owned()), ..SideConfig::default() };
    let account = Account::connect(&side, Side::Target, &clients).await.map_err(|error| format!("{error:?}"))?;
    let table = account.table(&TableRef::Name("dst".to_owned()), &keys);
    let codec = KeyCodec::new(&keys);
    for file in 0..shape.files {
        let entry = exports::entry(buckets, shape, file)?;
        write_file(&exports::path(buckets, &entry.key), &entry, &codec, &table).await?;
    }
    match stub.writes() {
        all if all == shape.items() as u64 => Ok(()),
        other => Err(format!("{other} writes instead of {}", shape.items()).into()),
    }
}

async fn write_file(path: &Path, entry: &FileEntry, codec: &KeyCodec, table: &impl TargetTable) -> Result<()> {
    let mut object = File::open(path)?;
    let mut file = DataFile::new(entry, codec, None);
    loop {
        match file.next_step()? {
            Step::NeedsPart => {
                let mut part = Vec::with_capacity(PART_BYTES);
                match (&mut object).take(PART_BYTES as u64).read_to_end(&mut part)? {
                    0 => file.end(),
                    _ => file.put(part.into()),
                }
            }
            Step::Page(page) => write_page(page, table).await?,
            Step::Last(page) => return write_page(page, table).await,
        }
    }
}

async fn write_page(page: Page, table: &impl TargetTable) -> Result<()> {
    let mut items = page.items.into_iter();
    loop {
        let batch = items.by_ref().take(BATCH).map(|item| Write { key: item.key, image: Some(item.image) });
        let batch: Vec<Write> = batch.collect();
        if batch.is_empty() {
            return Ok(());
        }
        table.write(&batch).await?;
    }
}
