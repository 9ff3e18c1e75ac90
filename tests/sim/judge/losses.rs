//! What was trimmed unread, and the gaps over it.

use std::time::Duration;

use dynaferry::checkpoint::rows::{GapRow, GapScope, ShardRow, ShardStatus};
use dynaferry::model::{SequenceNumber, ShardId, StreamArn, WallTime};

use super::{Judge, since_start};
use crate::truth::{Lost, Record};

/// Shown in so many listings, a shard is known: some answers are lost, and ten in a row may contradict themselves.
const KNOWN_AFTER: u32 = 12;

impl Judge {
    pub(super) fn trimmed(&mut self, shard: &str, through: Option<&str>, at: WallTime, is_gone: bool) {
        self.trace.say(at, || format!("  shard {shard} trimmed through {through:?}, gone: {is_gone}"));
        let id = ShardId::new(shard);
        let through = through.and_then(|text| dynaferry::model::SequenceNumber::parse(text).ok());
        let Some(truth) = self.truth.shards.get_mut(&id) else { return };
        if is_gone {
            truth.gone_at.get_or_insert(at);
        }
        let mut gone = Vec::new();
        while let Some(record) = truth.records.pop_front_if(|record| is_gone || Some(record.sequence) <= through) {
            gone.push(record);
        }
        if self.link.is_none() {
            return;
        }
        for record in gone {
            if !self.is_settled(&record) {
                let Record { key, version, at, .. } = record;
                self.trace.say(at, || format!("  lost: key {key} version {version} of shard {id}"));
                let lost = Lost { key, version, at, shard: Some(id.clone()) };
                // Where nothing is settled yet, reading starts at what is left, and nobody says what is not.
                let is_begun = self.rows.get(&id).is_some_and(|row| row.checkpoint.is_some() && !row.is_trimmed);
                if is_begun && !self.given.contains(&record.sequence) {
                    self.unread.push((record.sequence, lost.clone()));
                }
                self.truth.lost.push(lost);
            }
        }
    }

    /// C5: what was trimmed before it was read lies under a gap when the shard's row moves over it.
    pub(super) fn check_unread(&mut self, row: &ShardRow, at: WallTime) {
        let is_over = |number: SequenceNumber| row.status == ShardStatus::Finished || row.checkpoint >= Some(number);
        let of_row =
            |(number, lost): &mut (SequenceNumber, Lost)| lost.shard.as_ref() == Some(&row.id) && is_over(*number);
        let passed: Vec<_> = self.unread.extract_if(.., of_row).collect();
        for (number, lost) in passed {
            if !self.gaps.values().any(|gap| self.tells_of(gap, &lost)) {
                let what = format!("record {number} of shard {} was trimmed unread, and no gap says so", row.id);
                self.violated("C5", at, what);
            }
        }
    }

    /// C5: a gap is closed when what was lost in it is right.
    pub(super) fn commit_gap(&mut self, row: &GapRow, at: WallTime) {
        self.trace.say(at, || format!("  gap {}: {:?}", row.id, row));
        self.check_alarm(row, at);
        self.gaps.insert(row.id, row.clone());
        if row.healed.is_none() {
            self.open_at.insert(row.id, at);
            return;
        }
        // What was lost later is for the next gap to say.
        let open_at = self.open_at.get(&row.id).copied().unwrap_or(at);
        let lost = std::mem::take(&mut self.truth.lost);
        // Nor is it this one's alone when another says it, too: the comparison may have been before the stream took the key
        // back to what came before the loss.
        let is_told_elsewhere =
            |lost: &Lost| self.gaps.values().any(|gap| gap.healed.is_none() && self.covers(gap, lost));
        let (covered, rest): (Vec<_>, Vec<_>) = lost.into_iter().partition(|lost| {
            lost.at <= open_at && self.covers(row, lost) && !self.is_behind_stream(lost) && !is_told_elsewhere(lost)
        });
        self.truth.lost = rest;
        for lost in covered {
            if !self.is_right(&lost) {
                self.violated(
                    "C5",
                    at,
                    format!("gap {} is closed, but key {} still lacks version {}", row.id, lost.key, lost.version),
                );
            }
        }
    }

    /// C5: no shard is given up that is there, unless the service itself says so.
    fn check_alarm(&mut self, row: &GapRow, at: WallTime) {
        let GapScope::Shard(id) = &row.scope else { return };
        let is_new = !self.gaps.contains_key(&row.id);
        let is_there = |id: &ShardId| self.truth.shards.get(id).is_some_and(|shard| shard.gone_at.is_none());
        let is_known = |id: &ShardId| is_there(id) && self.shown.get(id).is_some_and(|times| *times >= KNOWN_AFTER);
        let parent = self.truth.shards.get(id).and_then(|shard| shard.parent.as_ref());
        let is_false = match row.cause.as_str() {
            "shard_vanished" => is_there(id),
            "parent_unknown" => parent.is_some_and(is_known),
            _ => false,
        };
        let is_told_so = self.faults.contains_key("describe.stale_listing");
        if is_new && is_false && !is_told_so {
            let what = format!("gap {} of {id} says {}, but nothing is lost there", row.id, row.cause);
            self.violated("C5", at, what);
        }
    }

    /// What was written while no stream was on, after the one that the link reads now: the link reads that to its end first,
    /// and then opens a gap for what follows.
    fn is_behind_stream(&self, lost: &Lost) -> bool {
        let began = self.link.as_ref().and_then(|link| turned_on(&link.identity.stream));
        lost.shard.is_none() && began.is_some_and(|began| lost.at > began)
    }

    fn is_right(&self, lost: &Lost) -> bool {
        // A version that looks like what the target has is no loss: nothing would change. So is one that was followed by
        // such a one: two deletions look alike, and a comparison between them finds the tables equal.
        self.truth.is_applied(lost.key, lost.version)
            || self.truth.is_equal(lost.key)
            || self.truth.looks_since(lost.key, lost.version)
            || self.is_poison(lost.key, lost.version)
    }

    /// Whether a gap says of a loss that it is to be made good, or that it was: one that is closed says nothing of what was
    /// lost after it was written down the last time.
    fn tells_of(&self, gap: &GapRow, lost: &Lost) -> bool {
        let is_in_time = || self.open_at.get(&gap.id).is_some_and(|open_at| lost.at <= *open_at);
        self.covers(gap, lost) && (gap.healed.is_none() || is_in_time())
    }

    pub(super) fn covers(&self, gap: &GapRow, lost: &Lost) -> bool {
        // The program's clock may be off by ten minutes and more; the interval is by it.
        let slack = Duration::from_secs(700);
        let in_time = gap.from.is_none_or(|from| from.minus(slack) <= lost.at) && lost.at <= gap.to.plus(slack);
        in_time
            && match (&gap.scope, &lost.shard) {
                (GapScope::All, _) => true,
                (GapScope::Shard(_), None) => false,
                (GapScope::Shard(id), Some(shard)) => self.truth.descends(id, shard) || self.truth.descends(shard, id),
            }
    }

    /// C5, when the program has had its time to notice: every loss that nothing made good lies under a gap. While there is
    /// no stream, the program waits for one, and nothing has told it yet.
    pub(crate) fn check_losses(&mut self, at: WallTime) {
        if !self.is_stream_on {
            return;
        }
        let lost = std::mem::take(&mut self.truth.lost);
        let lost: Vec<Lost> = lost.into_iter().filter(|lost| !self.is_right(lost)).collect();
        for lost in &lost {
            if !self.gaps.values().any(|gap| self.tells_of(gap, lost)) {
                self.violated(
                    "C5",
                    at,
                    format!(
                        "version {} of key {} was lost at {:?} ({:?}), and no gap says so",
                        lost.version,
                        lost.key,
                        since_start(lost.at),
                        lost.shard
                    ),
                );
            }
        }
        self.truth.lost = lost;
    }
}

/// When a stream was turned on, by its label.
fn turned_on(stream: &StreamArn) -> Option<WallTime> {
    let label: jiff::civil::DateTime = stream.0.rsplit('/').next()?.parse().ok()?;
    let time = label.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(WallTime::from_millis(time.timestamp().as_millisecond()))
}
