//! Which shards there are: the stream is listed, late children are asked for, rows are made and forgotten.
//!
//! The full listing is the truth; asking a parent for its children only saves time. Both go one call at a time.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::losses::needs_two_listings;
use super::{Done, FinishedShard, StreamDriver, StreamError};
use crate::checkpoint::rows::{ShardRow, ShardStatus};
use crate::error::{Failure, Fault};
use crate::model::{ShardId, WallTime};
use crate::stream::gaps::first_confirmed;
use crate::stream::lister::{ListError, Numbered};
use crate::stream::part::Elsewhere;
use crate::stream::{Discovery, Listing, NewShard, ShardListing, StreamStatus, Suspect};

/// How often shards whose children are late are asked for them; doubles up to the discovery interval.
pub(super) const CHILDREN_EVERY: Duration = Duration::from_millis(500);
/// The whole stream is listed this soon after a shard's end: its children may come one by one. While they do not come the
/// wait doubles up to the discovery interval.
pub(super) const LIST_AFTER_END: Duration = Duration::from_millis(500);
/// Full listings in a row that may contradict themselves.
const MAX_ODD_LISTINGS: u32 = 10;
/// A shard's children are this late before somebody is told.
const CHILDREN_ARE_LATE: Duration = Duration::from_secs(300);

impl StreamDriver {
    pub(super) fn next_listing_at(&self) -> Instant {
        if self.asks_for_children() { self.list_at.min(self.children_at) } else { self.list_at }
    }

    pub(super) fn start_listing(&mut self) {
        let now = Instant::now();
        if self.is_listing {
            return;
        }
        if now >= self.list_at {
            self.is_listing = true;
            let parents = self.finished_lately.iter().filter(|shard| self.lineage.has_known_children(shard));
            self.settled_by_listing = parents.cloned().collect();
            let (lister, seen, begun_after) = (self.lister.clone(), self.seen_listing, self.listed_since(now));
            self.work.push(Box::pin(async move { Done::Listed(lister.list_after(seen, begun_after).await) }));
        } else if self.asks_for_children() && now >= self.children_at {
            let waiting: Vec<_> = self.lineage.awaiting_children(self.context.now()).collect();
            let Some(next) = waiting.get(self.children_asked % waiting.len().max(1)) else { return };
            if next.waited >= CHILDREN_ARE_LATE && self.children_asked.is_multiple_of(64) {
                tracing::warn!(shard = %next.id, waited_seconds = next.waited.as_secs(), "the children of a finished shard are late");
            }
            self.children_asked += 1;
            self.is_listing = true;
            let (lister, parent) = (self.lister.clone(), next.id.clone());
            self.work.push(Box::pin(async move {
                let answer = lister.children(&parent).await;
                Done::Children(parent, answer)
            }));
        }
    }

    /// Whether children are waited for, and an answer that tells of them alone is enough to add them.
    fn asks_for_children(&self) -> bool {
        self.is_awaiting && self.elsewhere.as_ref().is_none_or(Elsewhere::leaves_children)
    }

    /// A listing that was begun after this will do: while nothing is waited for it may be somebody else's of a while ago.
    fn listed_since(&self, now: Instant) -> Instant {
        let waits =
            !self.is_listed || self.is_awaiting || !self.finished_lately.is_empty() || !self.suspected.is_empty();
        let most = if waits { Duration::ZERO } else { self.settings.discovery_interval / 2 };
        now.checked_sub(most).unwrap_or(now)
    }

    pub(super) async fn take_children(
        &mut self,
        parent: &ShardId,
        answer: Result<Vec<ShardListing>, Failure>,
    ) -> Result<(), StreamError> {
        self.is_listing = false;
        let found = match answer {
            Ok(mut children) => {
                children.retain(|child| !self.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.has(&child.id)));
                let now = self.context.now();
                let new_shards = self.lineage.merge_children(parent, &children, now);
                let found = !new_shards.is_empty();
                self.create_rows(new_shards).await?;
                found
            }
            // The filter only saves time: the full listing is the truth, and it is on its way.
            Err(_) => false,
        };
        if !found {
            self.children_wait = (self.children_wait * 2).min(self.settings.discovery_interval);
        }
        self.children_at = Instant::now() + if found { Duration::ZERO } else { self.children_wait };
        Ok(())
    }

    pub(super) async fn take_listing(&mut self, answer: Result<Numbered, ListError>) -> Result<(), StreamError> {
        self.is_listing = false;
        let jitter = 0.9 + 0.2 * self.context.draw();
        self.list_at = Instant::now() + self.settings.discovery_interval.mul_f64(jitter);
        let listing = match answer {
            Ok(Numbered { number, listing, .. }) => {
                self.seen_listing = number;
                self.of_part(listing)
            }
            // The stream itself is gone: what is unread of every shard is lost.
            Err(ListError::Failed(failure)) if failure.fault == Fault::Lost => return self.stream_is_gone().await,
            Err(ListError::Failed(failure)) => return Err(StreamError::Source(failure)),
            Err(ListError::Odd(error)) => {
                self.odd_listings += 1;
                if self.odd_listings >= MAX_ODD_LISTINGS {
                    return Err(StreamError::Listing(error));
                }
                tracing::warn!(%error, "the stream's listings contradict each other, trying again");
                return Ok(());
            }
        };
        self.odd_listings = 0;
        let now = self.context.now();
        self.is_listed = true;
        let Discovery { new_shards, relisted, suspects } = self.lineage.merge_listing(&listing, now);
        if !new_shards.is_empty() {
            self.list_wait = LIST_AFTER_END;
        }
        self.create_rows(new_shards).await?;
        for (shard, at) in relisted {
            self.keeper.relist(&shard, at).await?;
        }
        let mut suspected: HashSet<Suspect> = suspects.iter().cloned().collect();
        self.resolve(suspects).await?;
        suspected.extend(self.lineage.suspects());
        suspected.retain(|suspect| needs_two_listings(suspect.why));
        if !suspected.is_subset(&self.suspected) {
            self.list_at = self.list_at.min(Instant::now() + LIST_AFTER_END);
        }
        self.suspected = suspected;
        self.forget_old(now).await?;
        for shard in std::mem::take(&mut self.settled_by_listing) {
            self.finished_lately.remove(&shard);
        }
        // Some never show a child: one that vanished, or one whose children did. One that came back is read again.
        self.finished_lately.retain(|shard| {
            self.lineage.may_have_children(shard) && self.lineage.status(shard) == Some(ShardStatus::Finished)
        });
        if !self.finished_lately.is_empty() && listing.status() == StreamStatus::Enabled {
            self.list_at = self.list_at.min(Instant::now() + self.list_wait);
            self.list_wait = (self.list_wait * 2).min(self.settings.discovery_interval);
        }
        self.observer.discovered();
        self.report_shards();
        Ok(())
    }

    /// What is to be seen of a listing.
    fn of_part(&self, listing: Listing) -> Listing {
        match &self.elsewhere {
            Some(elsewhere) => listing.of_part(|shard| self.lineage.status(shard).is_some(), elsewhere),
            None => listing,
        }
    }

    pub(super) fn shard_finished(&mut self, finished: &FinishedShard) {
        let FinishedShard { id: shard, is_lost, settled_to } = finished;
        self.lineage.finish(shard, self.context.now());
        if let Some(at) = settled_to {
            self.settled_to.insert(shard.clone(), *at);
        }
        if !is_lost {
            self.lineage.found(shard);
        }
        self.observer.shard_finished(shard);
        self.stop_reading(shard);
        self.children_at = Instant::now();
        self.children_wait = CHILDREN_EVERY;
        self.finished_lately.insert(shard.clone());
        self.list_wait = LIST_AFTER_END;
        self.list_at = self.list_at.min(Instant::now() + LIST_AFTER_END);
        self.report_shards();
    }

    async fn create_rows(&mut self, new_shards: Vec<NewShard>) -> Result<(), StreamError> {
        let now = self.context.now();
        let rows: Vec<ShardRow> = new_shards
            .into_iter()
            .map(|new| {
                let parent_verified = new.parent.as_ref().and_then(|parent| {
                    let before = self.proved_before.get(parent).filter(|_| new.born_after.is_none());
                    before.or_else(|| self.verified.get(parent)).copied()
                });
                let verified_at = first_confirmed(new.born_after, parent_verified, now);
                self.verified.insert(new.id.clone(), verified_at);
                new_row(new.id, new.parent, new.status, verified_at, now)
            })
            .collect();
        Ok(self.keeper.create_shards(rows).await?)
    }

    async fn forget_old(&mut self, now: WallTime) -> Result<(), StreamError> {
        let old: Vec<ShardId> = self.lineage.forgettable(now).cloned().collect();
        for shard in old {
            if self.lineage.forget(&shard, now) {
                self.keeper.forget(&shard).await?;
                self.observer.shard_forgotten(&shard);
                self.positions.remove(&shard);
                self.verified.remove(&shard);
                self.settled_to.remove(&shard);
            }
        }
        Ok(())
    }

    pub(super) fn report_shards(&self) {
        let awaiting = self.lineage.awaiting_children(self.context.now()).map(|awaiting| awaiting.id);
        let awaiting = awaiting.chain(self.finished_lately.iter().cloned()).collect();
        self.observer.shards(&mut self.lineage.shards(), &awaiting, self.lineage.counts());
    }
}

/// The row of a shard that was never read.
pub(crate) fn new_row(
    id: ShardId,
    parent: Option<ShardId>,
    status: ShardStatus,
    verified_at: WallTime,
    now: WallTime,
) -> ShardRow {
    ShardRow {
        id,
        parent,
        status,
        checkpoint: None,
        checkpoint_time: None,
        dispatch: None,
        verified_at,
        last_listed: now,
        debts: Vec::new(),
        is_trimmed: false,
        is_lost: false,
    }
}
