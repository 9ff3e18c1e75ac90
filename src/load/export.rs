//! The initial load from an export: its data files, several at once, put through the lanes.
//!
//! A file is a segment. Its object is read in parts, its items go out in pages as those of a scan do, and the next page is
//! decompressed while the last one is settled. Nothing of the stream is applied meanwhile, for what is in an export is older
//! than that, and which keys the stream has touched is not remembered durably: the stream waits, and is read from before the
//! export's time.
//!
//! Where the stream does not reach back to that any more, the export of what changed in a window goes on from it, and then the
//! next one. Windows are not mixed: one is begun when the one before is settled, and when nothing that was sent for it can
//! land any more. Within one each key comes once, so a late write of it writes what is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::driver::{LoadEnd, LoadError, LoadObserver, LoadSettings};
use super::handover::HandOver;
use super::segments::{each, finish};
use crate::apply::engine::Engine;
use crate::checkpoint::book::Token;
use crate::checkpoint::keeper::{Keeper, KeeperGone, ahead};
use crate::checkpoint::rows::{ChainPace, LinkRow, PageId, SegmentRow};
use crate::context::Context;
use crate::decode::KeyCodec;
use crate::error::Failure;
use crate::export::open::{Endurance, PART_BYTES, read_first, read_part};
use crate::export::{Cursor, DataFile, FileEntry, FileError, Kind, Manifest, ObjectReader, Page, PartRequest, Step};
use crate::model::{ExportArn, ExportPlace, WallTime};

/// So much of what the stream keeps may be used up before somebody is told: what it drops is in no export.
const WARN_AT: Duration = Duration::from_secs(18 * 3600);

/// An export that was found.
#[derive(Clone)]
pub(crate) struct ExportSource {
    pub(crate) place: ExportPlace,
    /// Its name, where the user gave that.
    pub(crate) arn: Option<ExportArn>,
    /// The account that owns its bucket, where that is known.
    pub(crate) bucket_owner: Option<String>,
    pub(crate) manifest: Arc<Manifest>,
    /// Its bucket.
    pub(crate) reader: Arc<dyn ObjectReader>,
    /// Of a window: how the load comes on.
    pub(crate) pace: Option<ChainPace>,
}

impl ExportSource {
    fn kind(&self) -> Kind {
        if self.manifest.summary.window.is_some() { Kind::Window } else { Kind::Full }
    }
}

/// The task that loads an export.
pub(crate) struct ExportDriver {
    pub(crate) source: ExportSource,
    pub(crate) keys: KeyCodec,
    pub(crate) keeper: Keeper,
    pub(crate) engine: Engine,
    pub(crate) context: Context,
    /// The same, by AWS's clock.
    pub(crate) by_aws: Context,
    pub(crate) settings: LoadSettings,
    pub(crate) observer: Arc<dyn LoadObserver>,
    /// Nothing is sent before this, by AWS's clock.
    pub(crate) not_before: Option<WallTime>,
    /// From where the stream goes on.
    pub(crate) hand_over: HandOver,
    /// Whether an incremental export may go on from it where the stream does not; else a gap says what is missing.
    pub(crate) may_go_on: bool,
    /// The files, as far as they have come.
    pub(crate) segments: Vec<SegmentRow>,
    /// Somebody was told that the time runs out.
    pub(crate) is_late: AtomicBool,
}

impl ExportDriver {
    /// Loads what is not loaded yet. Resolves when every item is settled, and the link's row says so unless the stream is to
    /// wait for another export; or when it is told to stop. Dropping it half-way is safe: pages in flight are listed.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<LoadEnd, LoadError> {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(LoadEnd::Done),
            () = self.wait_until(self.not_before) => {}
        }
        let spelling = AtomicUsize::new(0);
        let load_one = |row| self.load_file(row, &spelling);
        let is_done =
            each(&self.segments, self.settings.concurrency, &self.context, &*self.observer, &stop, load_one).await?;
        if is_done {
            if self.may_go_on && !self.hand_over.is_in_time(self.by_aws.now()) {
                // Durable before anything of the next one is: its segments have the same names.
                let items = self.source.manifest.items;
                self.keeper.update_link(move |link| set_loaded(link, items)).await?;
                return Ok(LoadEnd::Outlasted);
            }
            if self.source.kind() == Kind::Window {
                tracing::warn!(
                    "loaded by exports that meet, and how exactly they do DynamoDB does not say: compare once, by `dynaferry verify`"
                );
            }
            if let Some(gap) = self.hand_over.gap(self.context.now()) {
                tracing::error!("the stream is younger than what is loaded: a gap is open");
                self.keeper.open_gap(gap).await?;
            }
            finish(&self.keeper).await?;
        }
        Ok(LoadEnd::Done)
    }

    /// What was sent before may land until then, and would land on what comes now.
    async fn wait_until(&self, until: Option<WallTime>) {
        let left = || until.map_or(Duration::ZERO, |until| until.since(self.by_aws.now()));
        if !left().is_zero() {
            tracing::info!(seconds = left().as_secs(), "waiting until no write that was sent before can land");
        }
        while !left().is_zero() {
            tokio::time::sleep(left()).await;
        }
    }

    async fn load_file(&self, mut row: SegmentRow, spelling: &AtomicUsize) -> Result<(), LoadError> {
        let nowhere = FileEntry { key: String::new(), items: 0, md5: None };
        let entry = self.source.manifest.files.get(row.segment as usize).unwrap_or(&nowhere);
        loop {
            let after = row.cursor.as_deref().and_then(|cursor| cursor.parse().ok());
            match self.load_from(entry, row.clone(), after, spelling).await {
                // What was taken of it then may have been damaged, so all of it is taken again; and a late write of it would
                // land on what comes now.
                Err(LoadError::File { key, source: FileError::Changed }) if after.is_some() => {
                    tracing::warn!(key, "a file of the export is not what it was before: it is begun again");
                    let lands_within = self.settings.in_doubt_for + ahead(&self.context, &self.by_aws);
                    self.wait_until(Some(self.by_aws.now().plus(lands_within))).await;
                    row = SegmentRow { cursor: None, items: 0, bytes: 0, ..row };
                }
                ended => return ended,
            }
        }
    }

    async fn load_from(
        &self,
        entry: &FileEntry,
        mut row: SegmentRow,
        after: Option<Cursor>,
        spelling: &AtomicUsize,
    ) -> Result<(), LoadError> {
        let mut object = Object::open(self, entry, spelling).await?;
        let mut file = DataFile::new(entry, self.source.kind(), &self.keys, after);
        let mut on_its_way: Option<Sent> = None;
        let mut number = 0;
        while !row.done {
            let (page, ()) = tokio::try_join!(next_page(&mut object, &mut file), self.settled(on_its_way.take()))?;
            let (page, is_last) = page;
            row.items += page.items.len() as u64;
            row.bytes += page.bytes;
            row.cursor = Some(page.cursor.to_string());
            row.done = is_last;
            on_its_way = Some(self.send(PageId { segment: row.segment, number }, page, row.clone()).await?);
            number += 1;
        }
        self.settled(on_its_way.take()).await
    }

    const fn endurance(&self) -> Endurance {
        Endurance { patience: self.settings.patience, trouble: Duration::MAX }
    }

    async fn send(&self, id: PageId, page: Page, after: SegmentRow) -> Result<Sent, LoadError> {
        let (items, bytes) = (page.items.len() as u64, page.bytes);
        let page_number = self.engine.open_page().await?;
        let keys = page.items.iter().map(|item| item.key.clone()).collect();
        let is_settled = self.keeper.open_page(id, keys, after).await?;
        let tokens = page.items.into_iter().map(|item| (item.key, item.image, Token::Item(id)));
        self.engine.load(page_number, tokens.collect()).await?;
        Ok(Sent { items, bytes, is_settled })
    }

    async fn settled(&self, sent: Option<Sent>) -> Result<(), LoadError> {
        let Some(sent) = sent else { return Ok(()) };
        sent.is_settled.await.map_err(|_| KeeperGone)?;
        self.observer.loaded(sent.items, sent.bytes);
        let age = self.observer.stream_age();
        if age >= WARN_AT && !self.is_late.swap(true, Ordering::Relaxed) {
            let hours = age.as_secs() / 3600;
            if self.may_go_on {
                tracing::warn!(hours, "the export is loaded slowly: incremental exports are to go on from it");
            } else {
                tracing::warn!(
                    hours,
                    "the export is loaded slowly: what the stream drops after 24 hours is found by comparing both tables"
                );
            }
        }
        Ok(())
    }
}

fn set_loaded(link: &mut LinkRow, items: u64) {
    if let Some(export) = link.load.as_mut().and_then(|plan| plan.export.as_mut()) {
        export.items_before += if export.is_loaded { 0 } else { items };
        export.is_loaded = true;
    }
}

/// A page on its way to the target.
struct Sent {
    items: u64,
    bytes: u64,
    is_settled: oneshot::Receiver<()>,
}

async fn next_page(object: &mut Object<'_>, file: &mut DataFile<'_>) -> Result<(Page, bool), LoadError> {
    loop {
        let step = file.next_step();
        match step.map_err(|source| LoadError::File { key: object.request.key.clone(), source })? {
            Step::NeedsPart => object.read_into(file).await?,
            Step::Page(page) => return Ok((page, false)),
            Step::Last(page) => return Ok((page, true)),
        }
        // A megabyte is some milliseconds of work: others have their turn.
        tokio::task::yield_now().await;
    }
}

/// The object of a file, while it is read.
struct Object<'a> {
    driver: &'a ExportDriver,
    /// The next part.
    request: PartRequest,
    size: u64,
    first: Option<bytes::Bytes>,
}

impl<'a> Object<'a> {
    async fn open(driver: &'a ExportDriver, entry: &FileEntry, spelling: &AtomicUsize) -> Result<Self, LoadError> {
        let spellings = driver.source.place.spellings(&entry.key);
        let likely = spelling.load(Ordering::Relaxed);
        let reader = &*driver.source.reader;
        let read = read_first(reader, &spellings, likely, &driver.context, driver.endurance()).await;
        let (at, part) = read.map_err(|source| failed(&entry.key, source))?;
        spelling.store(at, Ordering::Relaxed);
        let key = spellings.get(at).map_or("", String::as_str);
        let request = PartRequest { length: PART_BYTES, ..PartRequest::after(key, &part) };
        Ok(Self { driver, request, size: part.size, first: Some(part.bytes) })
    }

    async fn read_into(&mut self, file: &mut DataFile<'_>) -> Result<(), LoadError> {
        if let Some(first) = self.first.take() {
            file.put(first);
        } else if self.request.offset >= self.size {
            file.end();
        } else {
            let driver = self.driver;
            let part = read_part(&*driver.source.reader, &self.request, &driver.context, driver.endurance()).await;
            let part = part.map_err(|source| failed(&self.request.key, source))?;
            self.request.offset += part.bytes.len() as u64;
            file.put(part.bytes);
        }
        Ok(())
    }
}

fn failed(key: &str, source: Failure) -> LoadError {
    LoadError::Object { key: key.to_owned(), source }
}
