//! How commits come before the court.

use std::sync::Arc;

use dynaferry::checkpoint::rows::{ShardStatus, Stage};
use dynaferry::checkpoint::{LinkState, StateWrite};
use dynaferry::model::Key;
use dynaferry::sandbox::Sandbox;

use super::Court;
use crate::state::CommitObserver;

/// The court sees commits at the time of the world.
pub(crate) struct Clerk {
    pub(crate) court: Court,
    pub(crate) clock: Arc<crate::clocks::WorldClock>,
    pub(crate) sandbox: Sandbox,
}

impl CommitObserver for Clerk {
    fn taken(&self, before: &LinkState) {
        use dynaferry::context::WallClock as _;
        let now = self.clock.now();
        let mut judge = self.court.judge();
        judge.trace.say(now, || format!("state taken: {} shards, {} doubts", before.shards.len(), before.doubts.len()));
        // What was read at the table, and what was applied beyond the checkpoints, belongs to an earlier process.
        let judge = &mut *judge;
        judge.given.clear();
        judge.given_to.clear();
        judge.shown.clear();
        judge.expired.clear();
        let is_loading = before.link.as_ref().is_none_or(|link| link.stage == Stage::Loading);
        for key in &mut judge.truth.keys {
            let is_passed = |version: &crate::truth::Version| {
                version.record.as_ref().is_some_and(|(shard, sequence)| {
                    let row = judge.rows.get(shard);
                    row.is_some_and(|row| {
                        // One that was given up was not read to its end.
                        let is_read = row.status == ShardStatus::Finished && !row.is_lost;
                        is_read || row.checkpoint.as_ref() >= Some(sequence)
                    })
                })
            };
            key.streamed = vec![key.versions.iter().rposition(is_passed).unwrap_or(0)];
            key.read = key.exported.filter(|_| is_loading);
        }
    }

    fn committed(&self, writes: &[StateWrite]) {
        use dynaferry::context::WallClock as _;
        let now = self.clock.now();
        let mut judge = self.court.judge();
        judge.trace.commit(now, writes);
        // Gaps first: one commit is one moment.
        let (gaps, others): (Vec<_>, Vec<_>) = writes.iter().partition(|write| matches!(write, StateWrite::Gap(_)));
        for write in gaps.into_iter().chain(others) {
            match write {
                StateWrite::Doubt(row) => judge.learn(&row.key, &row.key_json, &self.sandbox),
                StateWrite::Page(_, keys) => {
                    let text = |key: &Key| String::from_utf8_lossy(&key.json).into_owned();
                    keys.iter().for_each(|key| judge.learn(&key.canonical, &text(key), &self.sandbox));
                }
                _ => {}
            }
            judge.commit(write, now);
        }
    }
}
