//! What is written to both tables: every image is known, and no key goes backwards.

use dynaferry::checkpoint::StateStore as _;
use dynaferry::checkpoint::rows::{ShardStatus, Stage};
use dynaferry::model::{CanonicalKey, WallTime};
use dynaferry::sandbox::{Changed, Sandbox};
use futures_util::FutureExt as _;

use super::Judge;
use crate::truth::{Lost, Record, VersionIndex, number_of};
use crate::world::{COPY, LINK, REGION, TARGET};

impl Judge {
    pub(super) fn source_changed(&mut self, change: &Changed<'_>) {
        if change.is_noop {
            return;
        }
        let (key, version) = self.truth.changed_at_source(change);
        self.trace.say(change.at, || {
            let place = change.record.map_or("no stream".to_owned(), |r| format!("{} {}", r.shard, r.sequence));
            format!("  source: key {key} version {version} ({:?}) by {}, {place}", number_of(change.image), change.by)
        });
        if change.record.is_none() && self.link.is_some() {
            self.truth.lost.push(Lost { key, version, at: change.at, shard: None });
        }
    }

    pub(super) fn target_changed(&mut self, change: &Changed<'_>) {
        self.accepted_writes += 1;
        let key = self.truth.key(change.key);
        let number = number_of(change.image);
        let candidates = self.truth.candidates(key, number);
        self.trace.say(change.at, || {
            let late = if change.is_late { " LATE" } else { "" };
            format!("  target: key {key} version {candidates:?} ({number:?}) by {}{late}", change.by)
        });
        let Some(&newest) = candidates.last() else {
            return self.violated(
                "C1",
                change.at,
                format!("key {key} got an image that the source never had: {number:?}"),
            );
        };
        let truth = &mut self.truth.keys[key];
        let is_older = truth.high.is_some_and(|high| newest < high);
        truth.high = truth.high.max(Some(newest));
        truth.target = number;
        let is_of_the_dropped = candidates.iter().any(|version| *version < truth.known_at_drop);
        let may_land = self.forgets_until.is_some_and(|until| change.at <= until);
        let is_forgotten = change.is_late && may_land && is_of_the_dropped;
        truth.is_forgotten = is_forgotten;
        if change.is_late {
            self.late_writes += 1;
            if is_older && !is_forgotten && !self.is_owed(key, newest) {
                let what = format!(
                    "a late write took key {key} back to version {newest}, and nothing says that it is owed another"
                );
                self.violated("C3", change.at, what);
            }
            return;
        }
        if !truth.is_of_link(&candidates) && self.link.as_ref().is_some_and(|link| link.stage == Stage::Streaming) {
            let what =
                format!("key {key} got version {candidates:?} of a table that was made anew, which no link copies");
            self.violated("C1", change.at, what);
        }
        let truth = &mut self.truth.keys[key];
        let before = truth.streamed.clone();
        let read = truth.read;
        let is_read = candidates.iter().any(|version| read.is_some_and(|read| *version <= read));
        if !truth.written(&candidates) && !self.is_misled_about(key, &before, &candidates) {
            self.violated(
                "C3",
                change.at,
                format!(
                    "key {key} went back to version {candidates:?}; the stream was at {before:?}, {read:?} was read"
                ),
            );
        }
        if !is_read {
            self.check_dispatch(key, &candidates, change.at);
        }
    }

    /// Whether a shard that tells of these versions was read too early, for want of its parent in a listing.
    fn is_misled_about(&self, key: usize, before: &[VersionIndex], candidates: &[VersionIndex]) -> bool {
        let versions =
            before.iter().chain(candidates).filter_map(|version| self.truth.keys[key].versions.get(*version));
        versions.filter_map(|version| version.record.as_ref()).any(|(shard, _)| self.is_misled(shard))
    }

    /// Whether the state says that a key will be written once more: it is listed as in doubt, a newer record of it is not
    /// passed, or is lost and must come under a gap (C5), or a gap is open.
    fn is_owed(&self, key: usize, than: VersionIndex) -> bool {
        if self.link.is_none() || self.gaps.values().any(|gap| gap.healed.is_none()) {
            return true;
        }
        let is_newer = |record: &Record| record.key == key && record.version > than;
        let is_listed = || {
            let name = self.names.get(&key)?;
            self.store.doubt(LINK, name).now_or_never()?.ok()?
        };
        self.truth.shards.values().any(|shard| shard.records.iter().any(is_newer))
            || self.truth.lost.iter().any(|lost| lost.key == key && lost.version > than)
            || is_listed().is_some()
            || !self.poison.is_empty()
    }

    /// The state lists a key under this name.
    pub(super) fn learn(&mut self, name: &CanonicalKey, json: &str, sandbox: &Sandbox) {
        if self.names.values().any(|known| known == name) {
            return;
        }
        if let Ok(bytes) = sandbox.key_bytes(TARGET, REGION, COPY, json) {
            let key = self.truth.key(&bytes);
            self.names.insert(key, name.clone());
        }
    }

    /// What the stream tells is sent only below the durable dispatch watermark.
    fn check_dispatch(&mut self, key: usize, candidates: &[VersionIndex], at: WallTime) {
        let may_be_sent = candidates.iter().any(|version| {
            let version = self.truth.keys[key].versions.get(*version);
            match version.and_then(|version| version.record.as_ref()) {
                None => true,
                Some((shard, sequence)) => self
                    .rows
                    .get(shard)
                    .is_none_or(|row| row.status == ShardStatus::Finished || row.dispatch.as_ref() >= Some(sequence)),
            }
        });
        if !may_be_sent {
            self.violated("C9", at, format!("key {key} version {candidates:?} was sent beyond the dispatch watermark"));
        }
    }
}
