//! History that is gone before it was read: each finding becomes a durable gap first, then reading goes on with what
//! is left.

use std::collections::HashSet;

use tokio::time::Instant;

use super::{StreamDriver, StreamError};
use crate::checkpoint::rows::{GapRow, ShardStatus};
use crate::model::ShardId;
use crate::stream::gaps::{GapCause, GapScope, is_unconfirmed, no_older_than};
use crate::stream::{GiveUp, LossCause, Polled, Step, Suspect, Suspicion};

impl StreamDriver {
    /// Opens a gap where nothing proved for nearly a day that the shard's oldest records are still there.
    pub(super) async fn look_for_silent_loss(&mut self, shard: &ShardId) -> Result<(), StreamError> {
        let wall = self.context.now();
        let settled = self.lineage.ancestors(shard).filter_map(|ancestor| self.settled_to.get(ancestor)).copied();
        let oldest = self.verified.get(shard).map(|at| no_older_than(*at, settled));
        if oldest.is_some_and(|at| is_unconfirmed(at, wall)) {
            self.open_gap(shard, GapCause::NotConfirmed).await?;
            self.verified.insert(shard.clone(), wall);
            self.keeper.confirm(shard, wall).await?;
        }
        Ok(())
    }

    /// The unread history of a shard is gone: a durable gap first, then on with what is left.
    pub(super) async fn position_lost(&mut self, shard: &ShardId, cause: LossCause) -> Result<(), StreamError> {
        if cause != LossCause::ShardVanished || !self.owes_nothing(shard) {
            self.open_gap(shard, cause.into()).await?;
        }
        let now = self.now();
        let restart = match cause {
            LossCause::Trimmed => {
                self.keeper.trimmed(shard).await?;
                true
            }
            LossCause::ShardVanished => match self.lineage.give_up(shard, self.context.now()) {
                GiveUp::Finished => {
                    self.keeper.give_up(shard).await?;
                    self.stop_reading(shard);
                    self.schedule.ended(shard);
                    false
                }
                GiveUp::StillListed => {
                    self.list_at = Instant::now();
                    true
                }
                GiveUp::NotReading => {
                    self.schedule.ended(shard);
                    false
                }
            },
        };
        if restart && let Some(reading) = self.readings.get_mut(shard) {
            reading.cursor.restart();
            let wait = reading.attempts.next_wait(self.context.draw());
            self.schedule.polled(shard, Polled::Failed { wait }, now);
        }
        Ok(())
    }

    /// Each suspect gets its gap, and then its way out; that may uncover the next.
    ///
    /// What follows from absence is believed when two listings in a row say so: one alone may be incomplete.
    pub(super) async fn resolve(&mut self, mut suspects: Vec<Suspect>) -> Result<(), StreamError> {
        suspects = self.certain(suspects);
        while !suspects.is_empty() {
            let mut has_changed = false;
            for suspect in suspects {
                if suspect.why != Suspicion::Vanished || !self.owes_nothing(&suspect.shard) {
                    self.open_gap(&suspect.shard, suspect.why.into()).await?;
                }
                let resolved = self.lineage.resolve(&suspect, self.context.now());
                has_changed |= resolved.is_some();
                match resolved {
                    Some(ShardStatus::Finished) => {
                        self.stop_reading(&suspect.shard);
                        if may_come_back(suspect.why) {
                            self.keeper.give_up(&suspect.shard).await?;
                        } else {
                            self.keeper.leave(&suspect.shard).await?;
                        }
                    }
                    Some(ShardStatus::Reading) => {
                        self.keeper.begin(&suspect.shard).await?;
                        self.drop_news_of(&suspect.shard);
                        self.observer.shard_reopened(&suspect.shard);
                    }
                    Some(ShardStatus::Waiting) | None => {}
                }
            }
            if !has_changed {
                // The next listing tells more; asked again now, the forest would answer the same.
                break;
            }
            suspects = self.certain(self.lineage.suspects());
        }
        Ok(())
    }

    /// Whether nothing of a shard that is gone is missed: it was pinned, was never read while an export was loaded, and what
    /// is owed of it is younger than what a stream keeps. So what was trimmed of it is in the export.
    fn owes_nothing(&self, shard: &ShardId) -> bool {
        let is_read = self.readings.get(shard).is_some_and(|reading| reading.confirmed_at.is_some());
        let owed_from = self.verified.get(shard).filter(|_| !self.floors.contains_key(shard) && !is_read);
        self.unread_pins.contains(shard) && owed_from.is_some_and(|at| !is_unconfirmed(*at, self.context.now()))
    }

    fn certain(&self, suspects: Vec<Suspect>) -> Vec<Suspect> {
        let is_read =
            |shard: &ShardId| self.readings.get(shard).is_some_and(|reading| reading.cursor.next() == Step::Done);
        certain(suspects, &self.suspected, is_read)
    }

    /// A shard that was given up is read again: that it was given up durably, and is still to be heard of, is no news.
    fn drop_news_of(&mut self, shard: &ShardId) {
        while let Ok(finished) = self.finished.try_recv() {
            if finished.id != *shard || !finished.is_lost {
                self.shard_finished(&finished);
            }
        }
    }

    pub(super) async fn stream_is_gone(&mut self) -> Result<(), StreamError> {
        let unfinished: Vec<ShardId> = self.lineage.readable().cloned().collect();
        for shard in unfinished {
            self.open_gap(&shard, GapCause::ShardVanished).await?;
        }
        Err(StreamError::Gone)
    }

    async fn open_gap(&mut self, shard: &ShardId, cause: GapCause) -> Result<(), StreamError> {
        let (scope, name) = (GapScope::Shard(shard.clone()), cause.as_str().to_owned());
        let (id, from, healed) = (0, None, None);
        // Every finding goes to the books, which know what is open now: an open gap is extended, a healed one is not.
        let row = GapRow { id, scope, from, to: self.context.now(), cause: name, healed };
        if self.keeper.open_gap(row).await? {
            tracing::error!(%shard, cause = cause.as_str(), "source history was lost before it was read: a gap is open");
            self.observer.gap_opened(cause);
        }
        if self.settings.stop_on_gap {
            return Err(StreamError::Lost { shard: shard.clone(), cause: cause.as_str() });
        }
        Ok(())
    }
}

/// The suspects of which enough is known. A shard that only one listing lacked, or whose parent it lacked, is left alone,
/// whatever else it is suspected of: a suspicion is judged by all that is known of its shard. So is one that was read to
/// its end: nothing of it is missing, and its children wait until all of it is settled, as ever.
fn certain(suspects: Vec<Suspect>, suspected: &HashSet<Suspect>, is_read: impl Fn(&ShardId) -> bool) -> Vec<Suspect> {
    let is_unsure = |suspect: &&Suspect| {
        is_read(&suspect.shard) || needs_two_listings(suspect.why) && !suspected.contains(*suspect)
    };
    let unsure: HashSet<ShardId> = suspects.iter().filter(is_unsure).map(|suspect| suspect.shard.clone()).collect();
    suspects.into_iter().filter(|suspect| !unsure.contains(&suspect.shard)).collect()
}

/// Whether it follows from the absence of a shard, which may have come into being between two pages of the listing, or
/// which an old answer may lack.
pub(super) const fn needs_two_listings(why: Suspicion) -> bool {
    match why {
        Suspicion::Vanished | Suspicion::UnknownParent => true,
        Suspicion::Overtaken | Suspicion::Reappeared => false,
    }
}

/// Whether a shard that ends for this reason is read (on) when it is listed again. One that has a begun child is not: it
/// is closed, and all of it lies under its gap.
const fn may_come_back(why: Suspicion) -> bool {
    match why {
        Suspicion::Vanished => true,
        Suspicion::Overtaken | Suspicion::Reappeared | Suspicion::UnknownParent => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::LinkState;
    use crate::checkpoint::book::{Book, link_for_tests};
    use crate::checkpoint::rows::ShardRow;
    use crate::model::WallTime;
    use crate::stream::driver::new_row;
    use crate::stream::lineage::LineageRow;
    use crate::stream::listing::{Listed, Lister};
    use crate::stream::{Lineage, ListingPage, ShardListing, StreamStatus};

    /// The forest of these rows when both shards of a family are listed.
    fn listed(rows: &[ShardRow], now: WallTime) -> Lineage {
        let shards = [("parent", None), ("child", Some("parent"))].map(|(id, parent)| ShardListing {
            id: ShardId::new(id),
            parent: parent.map(ShardId::new),
            first: None,
            last: None,
        });
        let page = ListingPage { status: StreamStatus::Enabled, view: None, shards: shards.to_vec(), next: None };
        let Listed::All(listing) = Lister::new().accept(page).unwrap() else { panic!("one page") };
        let rows = rows.iter().cloned().map(|row| LineageRow {
            id: row.id,
            parent: row.parent,
            status: row.status,
            last_listed: row.last_listed,
            lost: row.is_lost,
        });
        let mut lineage = Lineage::restore(rows);
        lineage.merge_listing(&listing, now);
        lineage
    }

    #[test]
    fn a_shard_that_came_back_or_came_late_under_a_begun_child_gets_one_gap_and_none_at_each_restart() {
        let now = WallTime::from_secs(1_800_000_000);
        let parent = |status| new_row(ShardId::new("parent"), None, status, now, now);
        let came_back = ShardRow { is_lost: true, ..parent(ShardStatus::Finished) };
        let came_late = parent(ShardStatus::Waiting);
        let child = new_row(ShardId::new("child"), Some(ShardId::new("parent")), ShardStatus::Reading, now, now);
        for (parent, why) in [(came_back, Suspicion::Reappeared), (came_late, Suspicion::Overtaken)] {
            let rows = vec![parent.clone(), child.clone()];
            let mut lineage = listed(&rows, now);
            let suspects = lineage.suspects();
            assert_eq!(suspects, [Suspect { shard: parent.id.clone(), why }]);
            assert_eq!(lineage.resolve(&suspects[0], now), Some(ShardStatus::Finished));
            assert!(!may_come_back(why));

            let state = LinkState { shards: rows, ..LinkState::default() };
            let mut book = Book::take_over(state, link_for_tests(), now, Duration::ZERO);
            book.leave_shard(&parent.id).unwrap();
            let rows: Vec<ShardRow> = book.shard_rows().cloned().collect();
            assert_eq!(listed(&rows, now).suspects(), [], "{why:?}");
        }
    }

    #[test]
    fn a_shard_that_one_listing_lacked_is_left_alone_whatever_else_it_is_suspected_of() {
        let suspect = |shard: &str, why| Suspect { shard: ShardId::new(shard), why };
        let of_x = [suspect("x", Suspicion::UnknownParent), suspect("x", Suspicion::Vanished)];
        let other = suspect("y", Suspicion::Overtaken);
        let all: Vec<Suspect> = of_x.iter().cloned().chain([other.clone()]).collect();
        let nothing_is_read = |_: &ShardId| false;
        assert_eq!(certain(all.clone(), &HashSet::new(), nothing_is_read), std::slice::from_ref(&other));
        let one_of_both = HashSet::from([of_x[1].clone()]);
        assert_eq!(certain(all.clone(), &one_of_both, nothing_is_read), std::slice::from_ref(&other));
        let both_lacked_it = HashSet::from(of_x.clone());
        assert_eq!(certain(all.clone(), &both_lacked_it, nothing_is_read), all);
        assert_eq!(
            certain(all, &both_lacked_it, |shard| *shard == ShardId::new("x")),
            [other],
            "it was read to its end"
        );
    }
}
