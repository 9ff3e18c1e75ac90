//! Drives the scans of both tables and joins them into candidates.
//!
//! Both tables are scanned in the same segments at the same time. Of a pair of scans the one that lags behind goes on, so
//! that few entries wait. Entries that still have not met when all is read, or when too many wait, become candidates:
//! whether they differ is found out by reading the key on both sides. One task, no spawning: pages are futures in a set.
//!
//! The owner alternates [`Compare::step`] and [`Compare::pop`]; when it does not take candidates, reading stops by itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::merge::{Join, Met};
use super::side::{DigestedPage, SideReader};
use super::{Kind, Side, VerifyError};
use crate::context::Context;
use crate::model::{CanonicalKey, Key, WallTime};

/// A key whose entries differ, or have not met. To be confirmed.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) key: Key,
    /// As far as the scans saw.
    pub(crate) kind: Kind,
    /// When it was found.
    pub(crate) first_seen: WallTime,
}

/// How much is read at once, and how much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompareLimits {
    pub(crate) segments: u32,
    /// Pairs of segments at once.
    pub(crate) concurrency: usize,
    /// Entries that may wait for the other side. Pages on the way come on top.
    pub(crate) max_waiting: usize,
    /// Candidates that may wait for the owner. Pages on the way come on top.
    pub(crate) max_found: usize,
}

/// What has been compared.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CompareCounts {
    pub(crate) source_items: u64,
    pub(crate) target_items: u64,
    pub(crate) source_expired: u64,
    pub(crate) target_expired: u64,
    pub(crate) matched: u64,
    pub(crate) segments_done: u32,
}

/// A comparison of two tables on its way.
pub(crate) struct Compare {
    source: Arc<SideReader>,
    target: Arc<SideReader>,
    context: Context,
    limits: CompareLimits,
    /// Segments that are not begun, the next one last.
    todo: Vec<u32>,
    active: BTreeMap<u32, SegmentPair>,
    join: Join,
    found: VecDeque<Candidate>,
    fetches: FuturesUnordered<BoxFuture<'static, Result<Fetched, VerifyError>>>,
    counts: CompareCounts,
}

struct Fetched {
    segment: u32,
    side: Side,
    page: DigestedPage,
}

/// The scans of one segment.
#[derive(Default)]
struct SegmentPair {
    source: Cursor,
    target: Cursor,
}

#[derive(Default)]
struct Cursor {
    state: CursorState,
    /// The last key that it brought.
    last: Option<CanonicalKey>,
}

#[derive(Default)]
enum CursorState {
    #[default]
    Fresh,
    At(Bytes),
    Fetching,
    Done,
}

impl Compare {
    pub(crate) fn new(
        source: Arc<SideReader>,
        target: Arc<SideReader>,
        context: Context,
        limits: CompareLimits,
    ) -> Self {
        let limits = CompareLimits {
            segments: limits.segments.max(1),
            concurrency: limits.concurrency.max(1),
            max_found: limits.max_found.max(1),
            ..limits
        };
        let mut todo: Vec<u32> = (0..limits.segments).collect();
        context.shuffle(&mut todo);
        Self {
            source,
            target,
            context,
            limits,
            todo,
            active: BTreeMap::new(),
            join: Join::default(),
            found: VecDeque::new(),
            fetches: FuturesUnordered::new(),
            counts: CompareCounts::default(),
        }
    }

    /// What has been compared.
    pub(crate) const fn counts(&self) -> &CompareCounts {
        &self.counts
    }

    /// Entries and candidates that are held now.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.join.len() + self.found.len()
    }

    /// Sends for what may be read now.
    pub(crate) fn launch(&mut self) {
        if !self.has_room() {
            return;
        }
        while self.active.len() < self.limits.concurrency {
            let Some(segment) = self.todo.pop() else { break };
            self.active.insert(segment, SegmentPair::default());
        }
        for (segment, pair) in &mut self.active {
            for side in pair.lagging(&self.join) {
                let Some(start) = pair.cursor(side).begin() else { continue };
                let reader = Arc::clone(match side {
                    Side::Source => &self.source,
                    Side::Target => &self.target,
                });
                let (segment, segments) = (*segment, self.limits.segments);
                self.fetches.push(Box::pin(async move {
                    let page = reader.page(segment, segments, start).await?;
                    Ok(Fetched { segment, side, page })
                }));
            }
        }
    }

    fn has_room(&self) -> bool {
        self.found.len() < self.limits.max_found && self.join.len() <= self.limits.max_waiting
    }

    /// Whether no page is on its way: after [`Self::launch`], all is read or candidates must be taken first.
    pub(crate) fn is_idle(&self) -> bool {
        self.fetches.is_empty()
    }

    /// Waits for one page and takes it in. Dropping the future is safe.
    pub(crate) async fn step(&mut self) -> Result<(), VerifyError> {
        if let Some(fetched) = self.fetches.next().await {
            self.take(fetched?);
        }
        Ok(())
    }

    fn take(&mut self, Fetched { segment, side, page }: Fetched) {
        let count = page.items.len() as u64;
        match side {
            Side::Source => {
                self.counts.source_items += count;
                self.counts.source_expired += page.expired;
            }
            Side::Target => {
                self.counts.target_items += count;
                self.counts.target_expired += page.expired;
            }
        }
        let last = page.items.last().map(|(key, _)| key.canonical.clone());
        for (key, digest) in page.items {
            self.join_entry(side, key, digest);
        }
        let Some(pair) = self.active.get_mut(&segment) else { return };
        pair.cursor(side).end(page.next, last);
        if pair.is_done() {
            self.active.remove(&segment);
            self.counts.segments_done += 1;
        }
    }

    fn join_entry(&mut self, side: Side, key: Key, digest: crate::decode::ItemDigest) {
        match self.join.push(side, key, digest) {
            Met::Equal => self.counts.matched += 1,
            Met::Different(key) => self.found.push_back(self.candidate(key, Kind::Different)),
            Met::Nothing => {}
        }
    }

    fn candidate(&self, key: Key, kind: Kind) -> Candidate {
        Candidate { key, kind, first_seen: self.context.now() }
    }

    /// The next candidate, if there is one now. Of a key that is on both sides there may be two, where too many entries
    /// waited: one for each side.
    pub(crate) fn pop(&mut self) -> Option<Candidate> {
        let all_read = self.todo.is_empty() && self.active.is_empty();
        if let Some(candidate) = self.found.pop_front() {
            return Some(candidate);
        }
        if !all_read && self.join.len() <= self.limits.max_waiting {
            return None;
        }
        let (key, side) = self.join.pop_oldest()?;
        Some(self.candidate(key, if side == Side::Source { Kind::Missing } else { Kind::Extra }))
    }
}

impl SegmentPair {
    fn cursor(&mut self, side: Side) -> &mut Cursor {
        match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        }
    }

    fn is_done(&self) -> bool {
        matches!((&self.source.state, &self.target.state), (CursorState::Done, CursorState::Done))
    }

    /// The sides that may go on. One whose last key the other has brought, too, is not ahead; where each is ahead of the
    /// other, their orders differ or items are missing, and both go on.
    fn lagging(&self, join: &Join) -> Vec<Side> {
        let is_ahead = |cursor: &Cursor| cursor.last.as_ref().is_some_and(|key| join.is_waiting(key));
        let is_done = |cursor: &Cursor| matches!(cursor.state, CursorState::Done);
        let source_ahead = is_ahead(&self.source) && !is_done(&self.target);
        let target_ahead = is_ahead(&self.target) && !is_done(&self.source);
        match (source_ahead, target_ahead) {
            (true, false) => vec![Side::Target],
            (false, true) => vec![Side::Source],
            (true, true) | (false, false) => vec![Side::Source, Side::Target],
        }
    }
}

impl Cursor {
    /// Where to read on, unless it is being read or at its end.
    fn begin(&mut self) -> Option<Option<Bytes>> {
        match std::mem::replace(&mut self.state, CursorState::Fetching) {
            CursorState::Fresh => Some(None),
            CursorState::At(key) => Some(Some(key)),
            other => {
                self.state = other;
                None
            }
        }
    }

    fn end(&mut self, next: Option<Bytes>, last: Option<CanonicalKey>) {
        self.state = next.map_or(CursorState::Done, CursorState::At);
        self.last = last.or(self.last.take());
    }
}
