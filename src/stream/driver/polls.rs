//! One shard's pages: asked for, decoded, handed on; and what happens to those that fail.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Done, PageError, PageFacts, StreamDriver, StreamError};
use crate::checkpoint::keeper::Admission;
use crate::decode::stream_page;
use crate::error::{Failure, Fault};
use crate::model::{Change, EMPTY_PAGES, ShardId, StartAt, WallTime};
use crate::retry::Verdict;
use crate::stream::filter::Fate;
use crate::stream::{Polled, RecordsPage, ShardIterator, Step};

/// Records asked for in a page: the service's most. Source: DynamoDB Streams API reference, `GetRecords`.
const PAGE_RECORDS: u32 = 1000;
/// A page of this many bytes is full: the service ends one at 1 MB.
const FULL_PAGE_BYTES: usize = 900_000;
/// How often a position that is read from is written down as confirmed.
const CONFIRM_EVERY: Duration = Duration::from_secs(60);

impl StreamDriver {
    pub(super) fn start_polls(&mut self) {
        while self.schedule.polls_out() < self.settings.max_concurrent {
            let now = self.now();
            let Some(shard) = self.schedule.due(now) else { return };
            let Some(reading) = self.readings.get(&shard) else {
                self.schedule.ended(&shard);
                continue;
            };
            let source = Arc::clone(&self.source);
            match reading.cursor.next() {
                Step::GetIterator(at) => {
                    let stream = self.stream.clone();
                    self.work.push(Box::pin(async move {
                        let answer = source.iterator(&stream, &shard, at).await;
                        Done::Iterator(shard, answer)
                    }));
                }
                Step::GetRecords(iterator) => self.work.push(Box::pin(async move {
                    let answer = source.records(&iterator, PAGE_RECORDS).await;
                    Done::Page(shard, iterator, answer)
                })),
                Step::Done | Step::Lost(_) => self.schedule.ended(&shard),
            }
        }
    }

    pub(super) async fn take_iterator(
        &mut self,
        shard: &ShardId,
        answer: Result<ShardIterator, Failure>,
    ) -> Result<(), StreamError> {
        let Some(reading) = self.readings.get_mut(shard) else {
            self.schedule.ended(shard);
            return Ok(());
        };
        match answer {
            Ok(iterator) => {
                reading.cursor.on_iterator(Ok(iterator));
                reading.empty_pages = 0;
                let now = self.now();
                self.schedule.polled(shard, Polled::GoOn, now);
                Ok(())
            }
            Err(failure) => {
                reading.cursor.on_iterator(Err(&failure));
                self.poll_failed(shard, failure).await
            }
        }
    }

    pub(super) async fn take_page(
        &mut self,
        shard: ShardId,
        iterator: &ShardIterator,
        answer: Result<RecordsPage, Failure>,
    ) -> Result<(), StreamError> {
        let Some(reading) = self.readings.get_mut(&shard) else {
            self.schedule.ended(&shard);
            return Ok(());
        };
        let was_unproved = reading.cursor.position() == StartAt::TrimHorizon;
        let page = match answer {
            Ok(page) => page,
            Err(failure) => {
                reading.cursor.on_page_failed(&failure);
                return self.poll_failed(&shard, failure).await;
            }
        };
        let decoded = stream_page(&page.body, &self.codec, self.view).map_err(PageError::from).and_then(|decoded| {
            let numbers = decoded.changes.iter().map(|change| change.sequence);
            let next = decoded.next_iterator.map(ShardIterator::new);
            let read = reading.cursor.on_page(iterator, numbers, next)?;
            Ok((decoded.changes, read))
        });
        let (mut changes, read) = match decoded {
            Ok(decoded) => decoded,
            Err(source) => return self.page_is_broken(&shard, source).await,
        };
        reading.attempts.succeeded();
        let facts = PageFacts {
            asked_at: page.asked_at,
            records: changes.len(),
            bytes: page.body.len(),
            is_closed: self.lineage.is_known_closed(&shard),
            is_last: read.drained,
        };
        self.observer.page(&shard, facts);
        if was_unproved {
            self.look_for_silent_loss(&shard).await?;
        }
        let oldest = changes.iter().map(|change| change.created).min();
        if let Some(at) = self.proved_by_page(&shard, was_unproved, oldest, facts.is_closed) {
            self.confirm(&shard, at).await?;
        }
        let polled = polled(&facts);
        changes.drain(..read.skip.min(changes.len()));
        if let Some(floor) = self.floors.get(&shard) {
            changes.retain(|change| change.sequence > *floor);
        }
        self.hand_on(shard, changes, read.drained, polled);
        Ok(())
    }

    /// The shard is polled again when its page was taken.
    fn hand_on(&mut self, shard: ShardId, changes: Vec<Change>, is_drained: bool, polled: Polled) {
        if changes.is_empty() && !is_drained {
            let now = self.now();
            self.schedule.polled(&shard, polled, now);
            return;
        }
        let wall = self.context.now();
        let admissions = changes.into_iter().map(|change| {
            let fate = self.settings.filter.fate(&change, wall);
            if let Fate::Skip(why) = fate {
                self.observer.skipped(why);
            }
            Admission { apply: fate == Fate::Apply, change }
        });
        let admissions: Vec<_> = admissions.collect();
        let (keeper, engine) = (self.keeper.clone(), self.engine.clone());
        self.work.push(Box::pin(async move {
            let handed_on = async {
                let admitted = keeper.admit(&shard, admissions).await?;
                engine.apply(admitted).await?;
                if is_drained {
                    keeper.drained(&shard).await?;
                }
                Ok(())
            };
            let answer = handed_on.await;
            Done::Admitted(shard, polled, answer)
        }));
    }

    /// What a page proves: no record is missing that is younger. Of a position after a record: none at all is missing. From
    /// the trim horizon a page comes also when older records are gone, and it may not be taken before this process ends,
    /// so there it proves as much as its oldest record. That nothing is there is proved as it is for the lag.
    fn proved_by_page(
        &mut self,
        shard: &ShardId,
        was_unproved: bool,
        oldest: Option<WallTime>,
        is_closed: bool,
    ) -> Option<WallTime> {
        let wall = self.context.now();
        let reading = self.readings.get_mut(shard)?;
        match oldest {
            _ if !was_unproved => Some(wall),
            Some(oldest) => Some(oldest.min(wall)),
            None => {
                reading.empty_pages = reading.empty_pages.saturating_add(1);
                (!is_closed && reading.empty_pages >= EMPTY_PAGES).then_some(wall)
            }
        }
    }

    /// The position is within what the stream keeps.
    async fn confirm(&mut self, shard: &ShardId, at: WallTime) -> Result<(), StreamError> {
        let now = Instant::now();
        let Some(reading) = self.readings.get_mut(shard) else { return Ok(()) };
        if reading.confirmed_at.is_none_or(|at| now.duration_since(at) >= CONFIRM_EVERY) {
            reading.confirmed_at = Some(now);
            self.verified.insert(shard.clone(), at);
            self.keeper.confirm(shard, at).await?;
        }
        Ok(())
    }

    /// A page that cannot be is asked for again, in case it was damaged on its way; then reading stops.
    async fn page_is_broken(&mut self, shard: &ShardId, source: PageError) -> Result<(), StreamError> {
        let failure = Failure::of_ours("GetRecords", Fault::Broken, source.to_string());
        match self.poll_failed(shard, failure).await {
            Err(StreamError::Source(_)) => Err(StreamError::Page { shard: shard.clone(), source }),
            other => other,
        }
    }

    async fn poll_failed(&mut self, shard: &ShardId, failure: Failure) -> Result<(), StreamError> {
        let now = self.now();
        let Some(reading) = self.readings.get_mut(shard) else { return Ok(()) };
        if let Step::Lost(cause) = reading.cursor.next() {
            return self.position_lost(shard, cause).await;
        }
        match reading.attempts.failed_with(&failure, now, self.context.draw()) {
            Verdict::Again(wait) => {
                let failed = reading.attempts.failed();
                if failed == 1 || failed.is_multiple_of(10) {
                    tracing::warn!(%shard, error = %failure, failed, "a shard could not be read, trying again");
                }
                let wait = if failure.fault == Fault::Expired { Duration::ZERO } else { wait };
                self.schedule.polled(shard, Polled::Failed { wait }, now);
                Ok(())
            }
            Verdict::Stop => Err(StreamError::Source(failure)),
        }
    }

    pub(super) fn stop_reading(&mut self, shard: &ShardId) {
        // Should it be read once more, then not what was handed on already.
        if let Some(last) = self.readings.remove(shard).and_then(|reading| reading.cursor.last_read()) {
            self.positions.insert(shard.clone(), StartAt::After(last));
            self.floors.insert(shard.clone(), last);
        }
        self.schedule.remove(shard);
        self.lineage.touch();
    }
}

/// What a page says of when the next one is wanted. Only an open shard can be idle: on a closed one an empty page lies
/// before what is still to come, were it only the end.
fn polled(page: &PageFacts) -> Polled {
    match page.records {
        0 if !page.is_closed => Polled::Empty,
        n if n >= PAGE_RECORDS as usize || page.bytes >= FULL_PAGE_BYTES => Polled::GoOn,
        _ => Polled::Some,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(records: usize, bytes: usize, is_closed: bool) -> PageFacts {
        PageFacts { asked_at: WallTime::from_secs(0), records, bytes, is_closed, is_last: false }
    }

    #[test]
    fn only_an_empty_page_of_an_open_shard_is_idle() {
        assert_eq!(polled(&page(0, 20, false)), Polled::Empty);
        assert_eq!(polled(&page(0, 20, true)), Polled::Some);
        assert_eq!(polled(&page(1, 300, true)), Polled::Some);
    }

    #[test]
    fn after_a_full_page_the_next_one_is_wanted_at_once() {
        assert_eq!(polled(&page(1000, 300_000, false)), Polled::GoOn);
        assert_eq!(polled(&page(2, 1_000_000, false)), Polled::GoOn);
    }
}
