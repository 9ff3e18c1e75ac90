//! Pure: what one part of a divided link sees of the stream's listing.
//!
//! A part adds the shards that descend from its own, and no others, so each new shard belongs to the part of its parent. A
//! shard that belongs to none is a stray: it may descend from any, so it is for the link as a whole.
//!
//! One kind of stray would look as if it belonged to a part. Some shards that the link knew when it was divided had parents
//! of which it knew nothing. Such a parent may turn up after all, as a child of a shard of some part; then the part would read
//! the parent after another part, or the link before it, has read the child. So these parents, and whatever is listed
//! between them and a part, belong to no part.

use std::collections::{BTreeMap, BTreeSet};

use super::listing::Listing;
use crate::model::ShardId;

/// What is not a part's, although it may look so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    shards: BTreeSet<ShardId>,
    /// One of them has no row, and a child that was still to be read: what is between it and the part shows in a whole listing
    /// alone.
    has_unknown: bool,
}

impl Elsewhere {
    /// `rows`: the shards of the link with their parents, when it was divided, and whether they were still to be read; `is_ours`:
    /// those that are the part's.
    pub(crate) fn of<'a>(
        rows: impl Iterator<Item = (&'a ShardId, Option<&'a ShardId>, bool)> + Clone,
        is_ours: impl Fn(&ShardId) -> bool,
    ) -> Self {
        let known: BTreeSet<&ShardId> = rows.clone().map(|(id, ..)| id).collect();
        let unknown = rows.filter_map(|(_, parent, is_open)| Some((parent?, is_open)));
        let unknown: Vec<_> = unknown.filter(|(parent, _)| !known.contains(*parent)).collect();
        let has_unknown = unknown.iter().any(|(_, is_open)| *is_open);
        let elsewhere = known.iter().copied().filter(|id| !is_ours(id));
        let shards = unknown.into_iter().map(|(parent, _)| parent).chain(elsewhere).cloned().collect();
        Self { shards, has_unknown }
    }

    /// Whether a shard is one of those.
    pub(crate) fn has(&self, shard: &ShardId) -> bool {
        self.shards.contains(shard)
    }

    /// Whether the children of a part's shard are the part's, as far as they are not known to be elsewhere.
    pub(crate) const fn leaves_children(&self) -> bool {
        !self.has_unknown
    }
}

impl Listing {
    /// What a part sees: its own shards and all that descend from them, by this listing. Something follows from a shard's
    /// absence if it does from the whole.
    pub(crate) fn of_part(&self, is_ours: impl Fn(&ShardId) -> bool, elsewhere: &Elsewhere) -> Self {
        let mut not_ours: BTreeSet<&ShardId> = BTreeSet::new();
        for shard in self.shards().filter(|shard| elsewhere.has(&shard.id)) {
            let mut at = Some(shard);
            while let Some(shard) = at.filter(|shard| !is_ours(&shard.id) && not_ours.insert(&shard.id)) {
                at = shard.parent.as_ref().and_then(|parent| self.get(parent));
            }
        }
        let mut seen: BTreeMap<&ShardId, bool> = BTreeMap::new();
        for shard in self.shards() {
            // Up to the first of which it is known; a listing has no circles.
            let (mut line, mut at) = (Vec::new(), Some(&shard.id));
            let is_seen = loop {
                let Some(id) = at else { break false };
                match seen.get(id) {
                    Some(is_seen) => break *is_seen,
                    None if is_ours(id) => {
                        line.push(id);
                        break true;
                    }
                    None if not_ours.contains(id) => {
                        line.push(id);
                        break false;
                    }
                    None => line.push(id),
                }
                at = self.get(id).and_then(|shard| shard.parent.as_ref());
            };
            seen.extend(line.into_iter().map(|id| (id, is_seen)));
        }
        self.keeping(|id| seen.get(id) == Some(&true))
    }
}

/// Listed shards that are no part's although the link is divided, and that no part will add: the link must be whole for
/// them. Shards that two parts have, or would add, are among them.
///
/// `link`: the shards of the link's own rows with their parents, and whether each was given up as lost; `parts`: the shards
/// of each part. Rows read after the listing was made: what is in neither then is not being added just now by a listing
/// that was older.
pub(crate) fn strays(
    listing: &Listing,
    link: &[(&ShardId, Option<&ShardId>, bool)],
    parts: &[BTreeSet<&ShardId>],
) -> BTreeSet<ShardId> {
    let views = parts.iter().map(|part| {
        let elsewhere = Elsewhere::of(link.iter().copied(), |id| part.contains(id));
        listing.of_part(|id| part.contains(id), &elsewhere)
    });
    let views: Vec<Listing> = views.collect();
    let of_link: BTreeMap<&ShardId, bool> = link.iter().map(|(id, _, is_lost)| (*id, *is_lost)).collect();
    let is_stray = |id: &ShardId| {
        let has = parts.iter().filter(|part| part.contains(id)).count();
        let sees = views.iter().filter(|view| view.contains(id)).count();
        match (has.max(sees), of_link.get(id)) {
            (0, Some(is_lost)) => *is_lost,
            (0, None) => true,
            (owners, _) => owners > 1,
        }
    };
    listing.shards().map(|shard| &shard.id).filter(|id| is_stray(id)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::listing::{Listed, Lister};
    use crate::stream::{ListingPage, ShardListing, StreamStatus};

    fn id(name: &str) -> ShardId {
        ShardId::new(name)
    }

    fn listing(shards: &[(&str, &str)]) -> Listing {
        let shards = shards.iter().map(|(name, parent)| ShardListing {
            id: id(name),
            parent: (!parent.is_empty()).then(|| id(parent)),
            first: None,
            last: None,
        });
        let page = ListingPage { status: StreamStatus::Enabled, view: None, shards: shards.collect(), next: None };
        match Lister::new().accept(page).unwrap() {
            Listed::All(listing) => listing,
            Listed::More(_) => panic!("one page"),
        }
    }

    /// The link when it was divided: `a` and `b` came from the finished `root`; `c` and `f` from parents that nobody knew, and
    /// `f` was finished.
    const LINK: [(&str, &str); 5] = [("root", ""), ("a", "root"), ("b", "root"), ("c", "lost"), ("f", "gone")];

    fn rows() -> Vec<(ShardId, Option<ShardId>)> {
        LINK.iter().map(|(name, parent)| (id(name), (!parent.is_empty()).then(|| id(parent)))).collect()
    }

    fn sees(part: &[&str], shards: &[(&str, &str)]) -> Vec<String> {
        let rows = rows();
        let is_ours = |shard: &ShardId| part.contains(&shard.as_str());
        let elsewhere = Elsewhere::of(rows.iter().map(|(id, parent)| (id, parent.as_ref(), false)), is_ours);
        listing(shards).of_part(is_ours, &elsewhere).shards().map(|shard| shard.id.to_string()).collect()
    }

    fn strange(parts: &[&[&str]], shards: &[(&str, &str)]) -> Vec<String> {
        let rows = rows();
        let link: Vec<_> = rows.iter().map(|(id, parent)| (id, parent.as_ref(), id.as_str() == "f")).collect();
        let ids: Vec<Vec<ShardId>> = parts.iter().map(|part| part.iter().map(|name| id(name)).collect()).collect();
        let parts: Vec<BTreeSet<&ShardId>> = ids.iter().map(|part| part.iter().collect()).collect();
        strays(&listing(shards), &link, &parts).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn children_are_asked_for_unless_a_parent_that_nobody_knows_may_still_turn_up_between() {
        let rows = rows();
        let elsewhere = |open: &str| {
            let rows = rows.iter().map(|(id, parent)| (id, parent.as_ref(), id.as_str() == open));
            Elsewhere::of(rows, |id| id.as_str() == "a").leaves_children()
        };
        assert!(elsewhere("b"), "its parent is known");
        assert!(elsewhere(""), "all that came from parents that nobody knows was read to its end");
        assert!(!elsewhere("c"));
    }

    #[test]
    fn a_part_sees_its_shards_and_what_descends_from_them() {
        let shards = [("root", ""), ("a", "root"), ("b", "root"), ("a1", "a"), ("a11", "a1"), ("b1", "b"), ("new", "")];
        assert_eq!(sees(&["a"], &shards), ["a", "a1", "a11"]);
        assert_eq!(sees(&["a", "a1"], &[("a11", "a1"), ("x", "root")]), ["a11"], "the parent left the listing");
        assert_eq!(sees(&["b", "c"], &shards), ["b", "b1"]);
    }

    #[test]
    fn what_follows_from_absence_follows_for_a_part_that_sees_nothing() {
        let all = listing(&[("b", "root")]);
        let of_part = all.of_part(|_| false, &Elsewhere::default());
        assert!(of_part.is_empty() && of_part.is_conclusive());
        let nothing = listing(&[]).of_part(|_| true, &Elsewhere::default());
        assert!(!nothing.is_conclusive());
    }

    #[test]
    fn a_parent_that_turns_up_late_is_read_by_no_part() {
        // `c` is read by another part, and both of these are its ancestors.
        let late = [("a", "root"), ("between", "a"), ("lost", "between"), ("c", "lost"), ("a1", "a")];
        assert_eq!(sees(&["a"], &late), ["a", "a1"]);
        assert_eq!(sees(&["a", "c"], &late), ["a", "a1", "c"], "also where the part has both");
        assert_eq!(strange(&[&["a"], &["b", "c"]], &late), ["between", "lost"]);
        // Its child was finished before the link was divided, and is listed no more.
        let late = [("a", "root"), ("gone", "a"), ("other", "gone")];
        assert_eq!(sees(&["a"], &late), ["a"]);
        assert_eq!(strange(&[&["a"], &["b", "c"]], &late), ["gone", "other"]);
    }

    #[test]
    fn a_shard_that_another_part_had_is_not_added_whatever_parent_is_told() {
        assert_eq!(sees(&["a"], &[("a", "root"), ("b", "a")]), ["a"]);
    }

    #[test]
    fn a_shard_is_a_stray_unless_it_is_finished_or_a_part_has_it_or_will_have_it() {
        let parts: [&[&str]; 2] = [&["a"], &["b", "c", "b1"]];
        let usual = [("root", ""), ("a", "root"), ("b", "root"), ("c", "lost"), ("b1", "b"), ("b2", "b"), ("a1", "a")];
        assert!(strange(&parts, &usual).is_empty());
        assert_eq!(
            strange(&parts, &[("late", "root"), ("alone", ""), ("orphan", "trimmed"), ("below", "alone")]),
            ["alone", "below", "late", "orphan"]
        );
        assert_eq!(strange(&parts, &[("f", "gone")]), ["f"], "it was given up, and is back");
        assert_eq!(strange(&[&["a", "x"], &["b", "x"]], &[("x", "a")]), ["x"], "two parts have it");
    }
}
