//! The past of a table whose point-in-time recovery is on: what every item was before each of its changes.
//!
//! A time that an export is asked for is a cut through the changes: by the service's clock, up to a minute off, and the same
//! cut each time that it is named. So exports whose times meet hold every change once. Source: Developer Guide, requesting a
//! table export.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::table::{ItemKey, Items};
use super::value::Stored;
use crate::model::WallTime;

/// How far a cut is from the time that names it, at most.
pub(super) const FUZZ_MILLIS: i64 = 60_000;

/// A change: when, and what the item was before it.
#[derive(Debug)]
struct Change {
    at: WallTime,
    key: ItemKey,
    old: Option<Arc<Stored>>,
}

/// All changes since the recovery was turned on.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) since: WallTime,
    changes: Vec<Change>,
    cuts: BTreeMap<WallTime, usize>,
}

/// What a window left of an item.
#[derive(Debug, Clone)]
pub(super) struct Compacted {
    pub(super) key: ItemKey,
    /// When it was changed last.
    pub(super) at: WallTime,
    /// What it was just before the window.
    pub(super) old: Option<Arc<Stored>>,
    /// What it was at the window's end.
    pub(super) new: Option<Arc<Stored>>,
}

impl Past {
    pub(super) const fn new(since: WallTime) -> Self {
        Self { since, changes: Vec::new(), cuts: BTreeMap::new() }
    }

    pub(super) fn changed(&mut self, at: WallTime, key: &ItemKey, old: Option<Arc<Stored>>) {
        self.changes.push(Change { at, key: key.clone(), old });
    }

    /// The table as it is now is what an export of that time holds.
    pub(super) fn cut_now(&mut self, time: WallTime) {
        self.cuts.insert(time, self.changes.len());
    }

    /// The items as they were at a time. `items`: as they are now.
    pub(super) fn image(&mut self, time: WallTime, fuzz: i64, items: &Items) -> Items {
        let cut = self.cut(time, fuzz);
        let mut image = items.clone();
        for Change { key, old, .. } in self.changes.get(cut..).unwrap_or_default().iter().rev() {
            match old {
                Some(old) => image.insert(key.clone(), Arc::clone(old)),
                None => image.remove(key),
            };
        }
        image
    }

    /// Where a time cuts; `fuzz` in milliseconds, where nobody named it before.
    fn cut(&mut self, time: WallTime, fuzz: i64) -> usize {
        let by_service = WallTime::from_millis(time.millis() + fuzz);
        let changes = &self.changes;
        *self.cuts.entry(time).or_insert_with(|| changes.partition_point(|change| change.at < by_service))
    }

    /// The items that changed from one time to another, each once. What came and went in between is not there. `items`: as
    /// they are now.
    pub(super) fn window(&mut self, times: [WallTime; 2], fuzz: [i64; 2], items: &Items) -> Vec<Compacted> {
        let [from, to] = [self.cut(times[0], fuzz[0]), self.cut(times[1], fuzz[1])];
        let (inside, after) = self
            .changes
            .get(from..to.max(from))
            .map_or((&[][..], &[][..]), |inside| (inside, self.changes.get(to.max(from)..).unwrap_or_default()));
        let mut compacted: BTreeMap<&ItemKey, Compacted> = BTreeMap::new();
        for Change { at, key, old } in inside {
            let first = || Compacted { key: key.clone(), at: *at, old: old.clone(), new: None };
            compacted.entry(key).or_insert_with(first).at = *at;
        }
        let mut later: BTreeMap<&ItemKey, &Option<Arc<Stored>>> = BTreeMap::new();
        for Change { key, old, .. } in after {
            later.entry(key).or_insert(old);
        }
        for (key, item) in &mut compacted {
            item.new = later.get(key).map_or_else(|| items.get(*key).cloned(), |old| (*old).clone());
        }
        compacted.into_values().filter(|item| item.old.is_some() || item.new.is_some()).collect()
    }
}
