//! Reads one table: at the pace of its limit, again after failures, and counts what it costs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{Side, VerifyError};
use crate::apply::pace::Pacer;
use crate::context::Context;
use crate::decode::{ItemDigest, ScanPage, item_digest, seconds_attribute};
use crate::error::Failure;
use crate::load::{ScanRequest, TableReader};
use crate::model::{Key, RawItem, TableDescription};
use crate::retry::{Attempts, Patience, Verdict};

/// Units of a full page: 1 MB, strongly consistent. Source: Developer Guide, read consistency and capacity.
const FULL_PAGE_UNITS: f64 = 256.0;
/// Bytes that one strongly consistent unit reads. Source: as above.
const BYTES_PER_UNIT: f64 = 4096.0;
/// What the newest page counts in the average cost of an item.
const NEWEST_WEIGHT: f64 = 0.2;
/// Expired for longer than this, an item is left alone by time to live. Source: Developer Guide, how TTL works.
const TTL_REACH_SECONDS: i64 = 5 * 365 * 86_400;

/// A page as the comparison needs it.
#[derive(Debug)]
pub(crate) struct DigestedPage {
    /// Keys and digests, in the order of the scan.
    pub(crate) items: Vec<(Key, ItemDigest)>,
    /// Where the next page starts; `None`: this was the last.
    pub(crate) next: Option<Bytes>,
    /// Items whose time to live has passed.
    pub(crate) expired: u64,
}

/// What a point read found.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) item: RawItem,
    pub(crate) digest: ItemDigest,
    pub(crate) is_expired: bool,
}

/// How a side is read.
#[derive(Debug, Clone)]
pub(crate) struct SideSettings {
    /// Read units per second; `None`: only the service limits.
    pub(crate) rate: Option<f64>,
    pub(crate) patience: Patience,
    pub(crate) ttl_attribute: Option<String>,
}

/// One of the two tables.
pub(crate) struct SideReader {
    pub(crate) side: Side,
    table: Arc<dyn TableReader>,
    context: Context,
    settings: SideSettings,
    started: Instant,
    meter: Mutex<Meter>,
}

struct Meter {
    pacer: Pacer,
    page_units: f64,
    item_units: f64,
    consumed: f64,
}

impl SideReader {
    pub(crate) fn new(side: Side, table: Arc<dyn TableReader>, context: Context, settings: SideSettings) -> Arc<Self> {
        let meter = Meter {
            pacer: Pacer::new(settings.rate, Duration::ZERO),
            page_units: settings.rate.map_or(FULL_PAGE_UNITS, |rate| rate.min(FULL_PAGE_UNITS)),
            item_units: 1.0,
            consumed: 0.0,
        };
        Arc::new(Self { side, table, context, settings, started: Instant::now(), meter: Mutex::new(meter) })
    }

    /// Units consumed so far: as told for pages, by size for single reads.
    pub(crate) fn consumed(&self) -> f64 {
        self.with_meter(|meter, _| meter.consumed)
    }

    pub(crate) async fn describe(&self) -> Result<TableDescription, VerifyError> {
        self.call(0.0, || self.table.describe(), |_| 0.0).await
    }

    /// One page of a segment. Dropping it half-way is safe.
    pub(crate) async fn page(
        &self,
        segment: u32,
        total_segments: u32,
        start: Option<Bytes>,
    ) -> Result<DigestedPage, VerifyError> {
        let (estimate, limit) = self.with_meter(|meter, _| (meter.page_units, page_limit(self.settings.rate, meter)));
        let request = ScanRequest { segment, total_segments, start, limit };
        let cost = |page: &ScanPage| {
            page.consumed_units.unwrap_or_else(|| units(page.items.iter().map(|i| i.image.len()).sum()))
        };
        let page = self.call(estimate, || self.table.scan(&request), cost).await?;
        self.with_meter(|meter, _| meter.learn(cost(&page), page.items.len()));
        self.digest_page(&page)
    }

    fn digest_page(&self, page: &ScanPage) -> Result<DigestedPage, VerifyError> {
        let mut items = Vec::with_capacity(page.items.len());
        let mut expired = 0;
        for item in &page.items {
            let image = self.image(item.image.clone())?;
            expired += u64::from(image.is_expired);
            items.push((item.key.clone(), image.digest));
        }
        // A copy: a slice would keep the whole page.
        let next = page.last_key.as_deref().map(Bytes::copy_from_slice);
        Ok(DigestedPage { items, next, expired })
    }

    /// One item, strongly consistent. Dropping it half-way is safe.
    pub(crate) async fn item(&self, key: &Key) -> Result<Option<Image>, VerifyError> {
        let cost = |item: &Option<RawItem>| item.as_ref().map_or(1.0, |item| units(item.len()));
        let item = self.call(1.0, || self.table.get(key), cost).await?;
        item.map(|item| self.image(item)).transpose()
    }

    fn image(&self, item: RawItem) -> Result<Image, VerifyError> {
        let bad = |source| VerifyError::Item { side: self.side, source };
        let digest = item_digest(item.json()).map_err(bad)?;
        let expires = match &self.settings.ttl_attribute {
            Some(attribute) => seconds_attribute(item.json(), attribute).map_err(bad)?,
            None => None,
        };
        let now = self.context.now().millis().div_euclid(1000);
        let is_expired = expires.is_some_and(|at| at <= now && at > now - TTL_REACH_SECONDS);
        Ok(Image { item, digest, is_expired })
    }

    /// Calls until it answers or the failure is final.
    async fn call<'a, T>(
        &'a self,
        estimate: f64,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, Failure>>,
        cost: impl Fn(&T) -> f64,
    ) -> Result<T, VerifyError> {
        let mut attempts = Attempts::new(self.settings.patience);
        loop {
            self.wait_for_turn(estimate).await;
            let failure = match attempt().await {
                Ok(answer) => {
                    self.with_meter(|meter, _| meter.charge(estimate, cost(&answer)));
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let verdict = self.with_meter(|meter, now| {
                meter.charge(estimate, 0.0);
                if failure.throttled {
                    meter.pacer.throttled(now);
                }
                attempts.failed_with(&failure, now, self.context.draw())
            });
            match verdict {
                Verdict::Again(wait) => tokio::time::sleep(wait).await,
                Verdict::Stop => return Err(VerifyError::Read { side: self.side, source: failure }),
            }
        }
    }

    async fn wait_for_turn(&self, estimate: f64) {
        let take_turn = || {
            self.with_meter(|meter, now| {
                meter.pacer.may_send(now)?;
                meter.pacer.sent(estimate);
                Ok(())
            })
        };
        while let Err(wait) = take_turn() {
            let wait: Duration = wait;
            tokio::time::sleep(wait).await;
        }
    }

    fn with_meter<T>(&self, act: impl FnOnce(&mut Meter, Duration) -> T) -> T {
        act(&mut self.meter.lock().unwrap_or_else(PoisonError::into_inner), self.started.elapsed())
    }
}

impl Meter {
    fn charge(&mut self, estimate: f64, actual: f64) {
        self.pacer.cost(estimate, actual);
        self.consumed += actual;
    }

    #[expect(clippy::cast_precision_loss, reason = "a page holds fewer than 2^20 items")]
    fn learn(&mut self, page_units: f64, items: usize) {
        self.page_units = page_units;
        if items > 0 {
            self.item_units += NEWEST_WEIGHT * (page_units / items as f64 - self.item_units);
        }
    }
}

/// Items in a page, where a whole megabyte would use up more than a second of the rate at once.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=100,000 first")]
fn page_limit(rate: Option<f64>, meter: &Meter) -> Option<u32> {
    let rate = rate.filter(|rate| *rate < FULL_PAGE_UNITS)?;
    Some((rate / meter.item_units.max(1e-6)).clamp(1.0, 100_000.0) as u32)
}

#[expect(clippy::cast_precision_loss, reason = "a page is about a megabyte")]
fn units(bytes: usize) -> f64 {
    (bytes as f64 / BYTES_PER_UNIT).ceil().max(1.0)
}
