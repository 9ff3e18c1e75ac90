//! The keys in doubt: listed until no late write of theirs can land, then synced.

use super::{Book, BookError, Event, Token, text};
use crate::checkpoint::rows::{DoubtRow, Stage};
use crate::invariant::{Invariant, Violation};
use crate::model::{CanonicalKey, Key, WallTime};

#[derive(Debug)]
pub(super) struct Doubt {
    pub(super) row: DoubtRow,
    pub(super) is_syncing: bool,
    /// Since its key was listed, and has not been off the list: see [`Book::listed`].
    pub(super) number: u64,
}

impl Book {
    /// The outcome of a write of this key, signed no later than this, is unknown: it is listed until it cannot land any
    /// more.
    pub(crate) fn in_doubt(&mut self, key: &Key, signed: WallTime) {
        self.doubt(key, signed.plus(self.ghost_life), false);
    }

    /// Lists a key to be synced at once.
    pub(crate) fn sync_now(&mut self, key: &Key, now: WallTime) {
        self.doubt(key, now, true);
        self.dirty.urgent = true;
    }

    pub(super) fn doubt(&mut self, key: &Key, until: WallTime, under_way: bool) {
        self.list(DoubtRow { key: key.canonical.clone(), key_json: text(key), until, page: None, under_way });
    }

    /// Lists a key, or extends its time.
    pub(super) fn list(&mut self, row: DoubtRow) {
        let key = row.key.clone();
        if let Some(listed) = self.doubts.get_mut(&key) {
            if listed.row.until >= row.until && !listed.is_syncing {
                return;
            }
            self.due.remove(&(listed.row.until, key.clone()));
            // A sync that is out settles what it was sent for; what is listed after it stays, so times must differ.
            let after_sync = WallTime::from_millis(listed.row.until.millis() + i64::from(listed.is_syncing));
            listed.row.until = row.until.max(after_sync);
            listed.row.under_way |= row.under_way;
            listed.is_syncing = false;
            self.due.insert((listed.row.until, key.clone()));
        } else {
            self.insert_doubt(row);
        }
        self.dirty.doubts.insert(key);
    }

    /// Lists a key that is not listed.
    pub(super) fn insert_doubt(&mut self, row: DoubtRow) {
        let (key, number) = (row.key.clone(), self.next_listed);
        self.due.insert((row.until, key.clone()));
        self.next_listed += 1;
        self.listed.insert(number);
        if let Some(before) = self.doubts.insert(key, Doubt { row, is_syncing: false, number }) {
            self.listed.remove(&before.number);
        }
    }

    /// A key is listed for something new while its sync is out: that sync must not take it off the list.
    pub(super) fn outlive_sync(&mut self, key: &Key) {
        let listed = self.doubts.get(&key.canonical).filter(|doubt| doubt.is_syncing);
        if let Some(until) = listed.map(|doubt| doubt.row.until) {
            self.doubt(key, until, true);
        }
    }

    /// Of the keys whose time has come, at most `limit`, the rows are to say that a sync may be on the wire: whoever takes
    /// over from an owner that did not drain waits for those, and for no others.
    pub(crate) fn announce_due(&mut self, now: WallTime, limit: usize) {
        if self.holds_syncs() {
            return;
        }
        for (_, key) in self.due.iter().take_while(|(until, _)| *until <= now).take(limit) {
            if let Some(doubt) = self.doubts.get_mut(key).filter(|doubt| !doubt.row.under_way) {
                doubt.row.under_way = true;
                self.dirty.doubts.insert(key.clone());
                self.dirty.urgent = true;
            }
        }
    }

    /// Keys whose time has come, durably listed and announced, at most `limit`: sync each with the token that comes with
    /// it.
    pub(crate) fn take_due(&mut self, now: WallTime, limit: usize) -> Vec<(Key, Token)> {
        if self.holds_syncs() {
            self.forget_landed(now);
            return Vec::new();
        }
        let mut taken = Vec::new();
        while taken.len() < limit {
            let Some((until, key)) = self.due.first().cloned() else { break };
            let is_announced = self.doubts.get(&key).is_none_or(|doubt| doubt.row.under_way);
            if until > now || self.dirty.doubts.contains(&key) || !is_announced {
                break;
            }
            self.due.remove(&(until, key.clone()));
            if let Some(doubt) = self.doubts.get_mut(&key) {
                doubt.is_syncing = true;
                let json = doubt.row.key_json.clone().into();
                taken.push((Key { canonical: key.clone(), json }, Token::Doubt(key, until)));
            }
        }
        taken
    }

    /// L5: these keys are in doubt, and listed.
    pub(crate) fn check_listed(&self, keys: &[CanonicalKey]) -> Result<(), BookError> {
        if self.holds_syncs() || keys.iter().all(|key| self.doubts.contains_key(key)) {
            return Ok(());
        }
        let what = "a write that may have been lost is settled, and its key is not listed";
        Err(Violation::new(Invariant::L5, what).into())
    }

    /// When the next key in doubt is due.
    pub(crate) fn next_due(&self) -> Option<WallTime> {
        let held = self.holds_syncs().then(|| self.listed_before_load());
        self.due.iter().map(|(until, _)| *until).find(|until| held.is_none_or(|held| *until > held))
    }

    /// An export is loaded from now on, until the link's stage is another one. No key is synced meanwhile: what is at the
    /// source now is newer than what is loaded, and where a window that comes later leaves out what came and went in it, the
    /// item would stay for ever. It need not be, either: each key of an export comes once, and nothing of it is sent before
    /// what was sent earlier has landed. So a late write writes what is, or will be, written anyhow, and its key leaves the
    /// list when no such write can land any more.
    pub(crate) fn load_export(&mut self) {
        self.loads_export = true;
    }

    fn holds_syncs(&self) -> bool {
        self.loads_export && self.link.stage == Stage::Loading
    }

    /// Keys that were listed before the load began are listed until no later than this, and stay listed until the stream is
    /// applied: of these, nobody knows what a late write has written.
    fn listed_before_load(&self) -> WallTime {
        self.link.load.as_ref().map_or(WallTime::from_millis(i64::MAX), |plan| plan.began.plus(self.ghost_life))
    }

    fn forget_landed(&mut self, now: WallTime) {
        let held = self.listed_before_load();
        let landed = self.due.iter().take_while(|(until, _)| *until <= now).filter(|(until, _)| *until > held);
        for (until, key) in landed.cloned().collect::<Vec<_>>() {
            self.settle_doubt(key, until);
        }
    }

    pub(super) fn settle_doubt(&mut self, key: CanonicalKey, until: WallTime) {
        let is_settled = self.doubts.get(&key).is_some_and(|doubt| doubt.row.until <= until);
        if is_settled && let Some(doubt) = self.doubts.remove(&key) {
            self.due.remove(&(doubt.row.until, key.clone()));
            self.listed.remove(&doubt.number);
            self.dirty.doubts.remove(&key);
            self.dirty.settled.push(doubt.row);
            self.events.push(Event::Synced(key));
        }
    }
}
