//! The rows of the state store: no checkpoint over what is not settled, none that moves back, no child before its parent.

use dynaferry::checkpoint::StateWrite;
use dynaferry::checkpoint::rows::{GapRow, GapScope, LinkRow, ShardRow, ShardStatus};
use dynaferry::model::{ShardId, WallTime};

use super::{Judge, Limits};
use crate::truth::{Lost, Record};

impl Judge {
    pub(super) fn commit(&mut self, write: &StateWrite, at: WallTime) {
        match write {
            StateWrite::Link(row) => {
                self.check_stream(row, at);
                let followed = &row.identity.stream;
                match &self.link {
                    // What came before the link began is in its load.
                    None => self.forget_other_streams(&followed.0.clone()),
                    Some(link) if link.identity.stream != *followed => self.leave_streams(&followed.0.clone()),
                    Some(_) => {}
                }
                self.link = Some(row.clone());
            }
            StateWrite::Shard(row) => self.commit_shard(row, at),
            StateWrite::ForgetShard(id) => drop(self.rows.remove(id)),
            StateWrite::Gap(row) => self.commit_gap(row, at),
            _ => {}
        }
    }

    /// The link goes over to another stream: what is unread of all others will never be read.
    fn leave_streams(&mut self, followed: &str) {
        let shards = std::mem::take(&mut self.truth.shards);
        for (id, shard) in &shards {
            if shard.stream.as_deref().is_none_or(|stream| stream == followed) {
                continue;
            }
            let unread = shard.records.iter().filter(|record| !self.is_settled(record));
            let lost: Vec<Lost> = unread
                .map(|record| Lost { key: record.key, version: record.version, at: record.at, shard: Some(id.clone()) })
                .collect();
            self.truth.lost.extend(lost);
        }
        self.truth.shards = shards;
        self.forget_other_streams(followed);
    }

    fn forget_other_streams(&mut self, followed: &str) {
        for shard in self.truth.shards.values_mut() {
            if shard.stream.as_deref().is_some_and(|stream| stream != followed) {
                shard.records.clear();
            }
        }
    }

    fn commit_shard(&mut self, row: &ShardRow, at: WallTime) {
        self.check_parent(row, at);
        self.check_no_retreat(row, at);
        self.rows.insert(row.id.clone(), row.clone());
        self.check_checkpoint(row, at);
        self.check_unread(row, at);
        if row.status == ShardStatus::Finished && !row.is_lost {
            self.check_finished(row, at);
        }
        self.check_look_ahead(at);
    }

    /// C4.
    fn check_parent(&mut self, row: &ShardRow, at: WallTime) {
        // A row that is given up sends nothing, and a commit whose answer was lost comes twice.
        let Some(parent) = row.parent.as_ref().filter(|_| row.dispatch.is_some() && !row.is_lost) else { return };
        let is_first = self.rows.get(&row.id).is_none_or(|before| before.dispatch.is_none());
        // One that is gone before its end never is; what is left of it lies under its gap, which says so first.
        let is_of_parent = |gap: &GapRow| gap.healed.is_none() && gap.scope == GapScope::Shard(parent.clone());
        let is_finished = match self.rows.get(parent) {
            Some(row) => row.status == ShardStatus::Finished || self.gaps.values().any(is_of_parent),
            None => self.truth.shards.get(parent).is_none_or(|shard| shard.gone_at.is_some()),
        };
        if is_first && !is_finished && !self.is_misled(&row.id) {
            self.violated("C4", at, format!("shard {} is dispatched before its parent {parent} is finished", row.id));
        }
    }

    /// Two listings in a row were so old that an ancestor of this shard was missing that was there; a gap of one of its line
    /// says so, and stays open until both tables are equal.
    pub(super) fn is_misled(&self, shard: &ShardId) -> bool {
        let is_of_line = |of: &ShardId| self.truth.descends(shard, of) || self.truth.descends(of, shard);
        let says_so = |gap: &GapRow| {
            let is_such = ["parent_unknown", "shard_late"].contains(&gap.cause.as_str());
            is_such && matches!(&gap.scope, GapScope::Shard(of) if is_of_line(of))
        };
        self.faults.contains_key("describe.stale_listing") && self.gaps.values().any(says_so)
    }

    /// C2: what is durable once is never taken back.
    fn check_no_retreat(&mut self, row: &ShardRow, at: WallTime) {
        let Some(before) = self.rows.get(&row.id) else { return };
        let opens_again = before.status == ShardStatus::Finished && !before.is_lost && row.status != before.status;
        if row.checkpoint < before.checkpoint || row.dispatch < before.dispatch || opens_again {
            let what = format!("the row of shard {} moves back, from {before:?} to {row:?}", row.id);
            self.violated("C2", at, what);
        }
    }

    /// C2: everything up to the checkpoint is settled.
    fn check_checkpoint(&mut self, row: &ShardRow, at: WallTime) {
        let Some(checkpoint) = row.checkpoint else { return };
        let mut passed = Vec::new();
        if let Some(shard) = self.truth.shards.get_mut(&row.id) {
            while let Some(record) = shard.records.pop_front_if(|record| record.sequence <= checkpoint) {
                passed.push(record);
            }
        }
        for record in passed {
            if !self.is_settled(&record) {
                let Record { sequence, key, version, .. } = &record;
                self.violated("C2", at, format!(
                    "the checkpoint of shard {} passed record {sequence} of key {key} (version {version}), which is not settled",
                    row.id
                ));
            }
            self.truth.keys[record.key].checkpointed(record.version);
        }
    }

    /// C5: between two streams there may be changes that are in neither.
    fn check_stream(&mut self, row: &LinkRow, at: WallTime) {
        let before = self.link.as_ref().map(|link| &link.identity.stream);
        let is_replaced = before.is_some_and(|before| *before != row.identity.stream);
        // A window holds what came before its end, whatever stream told of it.
        let window = |link: &LinkRow| link.load.as_ref().and_then(|load| load.export.as_ref()?.window);
        let goes_on_by_window = window(row).is_some() && self.link.as_ref().and_then(window) != window(row);
        if is_replaced
            && !goes_on_by_window
            && !self.gaps.values().any(|gap| gap.scope == GapScope::All && gap.healed.is_none())
        {
            let what = format!("the link goes on with {:?}, and no gap spans what came before", row.identity.stream);
            self.violated("C5", at, what);
        }
    }

    /// C2: what is finished was read to its end.
    fn check_finished(&mut self, row: &ShardRow, at: WallTime) {
        let Some(shard) = self.truth.shards.get(&row.id) else { return };
        // What is unread of a shard that came, or came back, under a begun child is left to its gap.
        let of_shard = |gap: &&GapRow| gap.scope == GapScope::Shard(row.id.clone());
        let gaps = || self.gaps.values().filter(of_shard);
        let is_left_to_gaps = gaps().any(|gap| ["shard_late", "shard_reappeared"].contains(&gap.cause.as_str()));
        let is_left = |record: &Record| {
            let Record { key, version, at, .. } = *record;
            let lost = Lost { key, version, at, shard: Some(row.id.clone()) };
            is_left_to_gaps && gaps().any(|gap| self.covers(gap, &lost))
        };
        let left = shard.records.iter().filter(|record| !self.is_settled(record) && !is_left(record)).count();
        if !shard.is_closed || left > 0 {
            let open = if shard.is_closed { "closed" } else { "open" };
            self.violated(
                "C2",
                at,
                format!("shard {} is finished: it is {open}, and {left} records are not settled", row.id),
            );
        }
        if let Some(shard) = self.truth.shards.get_mut(&row.id) {
            shard.records.clear();
        }
    }

    /// C9: what lies between checkpoints and dispatch watermarks, and what the process was given beyond them.
    fn check_look_ahead(&mut self, at: WallTime) {
        let Limits { records, bytes, page_records, page_bytes } = self.limits;
        let unfinished = || self.rows.values().filter(|row| row.status != ShardStatus::Finished && !row.is_lost);
        let shards = || unfinished().filter_map(|row| Some((row, self.truth.shards.get(&row.id)?)));
        let sum =
            |all: &mut dyn Iterator<Item = (usize, usize)>| all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        // What an earlier owner dispatched, and this one was not given yet, is none of its look-ahead.
        let given = |row: &ShardRow| self.given_to.get(&row.id).copied();
        let sent = sum(&mut shards().filter_map(|(row, shard)| Some(shard.ahead(row.dispatch?.min(given(row)?)))));
        let held = sum(&mut shards().filter_map(|(row, shard)| Some(shard.ahead(given(row)?))));
        let pages = shards().count();
        // A page that is larger than all of the look-ahead takes all of it.
        let may_be_sent = (records.max(page_records), bytes + page_bytes);
        let may_be_held = (may_be_sent.0 + pages * page_records, may_be_sent.1 + pages * page_bytes);
        for (what, is, may_be) in [("sent", sent, may_be_sent), ("read", held, may_be_held)] {
            if is.0 > may_be.0 || is.1 > may_be.1 {
                let what =
                    format!("{} records, {} bytes are {what} ahead of the checkpoints; may be: {may_be:?}", is.0, is.1);
                self.violated("C9", at, what);
            }
        }
    }
}
