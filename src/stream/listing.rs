//! A full listing from its pages: all of them, or nothing.
//!
//! A partial listing would look like trimmed shards and hide open ones, so there is no way to get one out of here. The
//! driver asks for the page at [`Lister::after`], hands it to [`Lister::accept`], and drops the lister when a page fails.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::Fault;
use crate::model::{ShardId, ViewType};

use super::source::{ListingPage, ShardListing, StreamStatus};

/// Pages of one listing at most: 2,000 × 100 shards. Far above any real stream; it ends a cursor that never does.
pub const MAX_PAGES: usize = 2_000;

/// What is wrong with a listing. All of these are [`Fault::Broken`]: drop the listing, list again later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    /// The service handed out the same cursor twice, which would never end.
    #[error("list shards: cursor {cursor} came twice")]
    RepeatedCursor {
        /// The cursor.
        cursor: ShardId,
    },
    /// More than [`MAX_PAGES`] pages.
    #[error("list shards: no end after {pages} pages")]
    TooManyPages {
        /// Pages read.
        pages: usize,
    },
    /// Two copies of one shard name different parents.
    #[error("list shards: shard {shard} is listed with two parents")]
    TwoParents {
        /// The shard.
        shard: ShardId,
    },
    /// A shard is listed as its own ancestor.
    #[error("list shards: shard {shard} is its own ancestor")]
    Cycle {
        /// A shard on the cycle.
        shard: ShardId,
    },
}

impl ListingError {
    /// What becomes of it.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Broken
    }
}

/// Every shard of a stream, as told by one complete run over DescribeStream's pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    status: StreamStatus,
    view: Option<ViewType>,
    shards: BTreeMap<ShardId, ShardListing>,
    /// Whether the service listed no shard at all.
    is_blank: bool,
}

impl Listing {
    /// The stream's state on the last page.
    #[must_use]
    pub const fn status(&self) -> StreamStatus {
        self.status
    }

    /// What the records carry, where told.
    #[must_use]
    pub const fn view(&self) -> Option<ViewType> {
        self.view
    }

    /// The shard with this id.
    #[must_use]
    pub fn get(&self, id: &ShardId) -> Option<&ShardListing> {
        self.shards.get(id)
    }

    /// Whether the shard is listed.
    #[must_use]
    pub fn contains(&self, id: &ShardId) -> bool {
        self.shards.contains_key(id)
    }

    /// All shards, by id. Ids mean nothing: this order is only repeatable.
    pub fn shards(&self) -> impl Iterator<Item = &ShardListing> {
        self.shards.values()
    }

    /// Shards whose parent is not listed, by id.
    pub fn orphans(&self) -> impl Iterator<Item = &ShardListing> {
        let is_orphan = |shard: &&ShardListing| shard.parent.as_ref().is_some_and(|parent| !self.contains(parent));
        self.shards().filter(is_orphan)
    }

    /// The same listing with some of its shards; what follows from it follows for those.
    pub(super) fn keeping(&self, is_kept: impl Fn(&ShardId) -> bool) -> Self {
        let kept = self.shards.iter().filter(|(id, _)| is_kept(id)).map(|(id, shard)| (id.clone(), shard.clone()));
        Self { shards: kept.collect(), ..*self }
    }

    /// The number of shards.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether no shard is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Whether something follows from a shard's absence.
    ///
    /// Not while the stream is being turned on, and not when a stream that takes records lists no shard at all: it
    /// always has an open one, so that answer is early or wrong.
    #[must_use]
    pub fn is_conclusive(&self) -> bool {
        match self.status {
            StreamStatus::Enabling => false,
            StreamStatus::Enabled => !self.is_blank,
            StreamStatus::Disabling | StreamStatus::Disabled => true,
        }
    }
}

/// What follows a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Listed {
    /// Ask for the next page, after [`Lister::after`].
    More(Lister),
    /// That was the last page.
    All(Listing),
}

/// A listing that is being read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lister {
    shards: BTreeMap<ShardId, ShardListing>,
    view: Option<ViewType>,
    after: Option<ShardId>,
    used: HashSet<ShardId>,
    pages: usize,
}

impl Lister {
    /// A listing of which nothing was read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the page to ask for starts (exclusive); `None` for the first.
    #[must_use]
    pub const fn after(&self) -> Option<&ShardId> {
        self.after.as_ref()
    }

    /// Takes the page after [`after`](Self::after).
    ///
    /// # Errors
    /// [`ListingError`]; the pages read so far are dropped with it.
    pub fn accept(mut self, page: ListingPage) -> Result<Listed, ListingError> {
        self.pages += 1;
        self.view = page.view.or(self.view);
        for shard in page.shards {
            self.merge(shard)?;
        }
        let Some(cursor) = page.next.filter(|cursor| !cursor.as_str().is_empty()) else {
            refuse_cycles(&self.shards)?;
            let is_blank = self.shards.is_empty();
            return Ok(Listed::All(Listing { status: page.status, view: self.view, shards: self.shards, is_blank }));
        };
        if !self.used.insert(cursor.clone()) {
            return Err(ListingError::RepeatedCursor { cursor });
        }
        if self.pages >= MAX_PAGES {
            return Err(ListingError::TooManyPages { pages: self.pages });
        }
        self.after = Some(cursor);
        Ok(Listed::More(self))
    }

    /// Keeps the copy that knows more: one that is closed, and the parent wherever it is told.
    fn merge(&mut self, shard: ShardListing) -> Result<(), ListingError> {
        let Some(known) = self.shards.get_mut(&shard.id) else {
            self.shards.insert(shard.id.clone(), shard);
            return Ok(());
        };
        if known.parent.is_some() && shard.parent.is_some() && known.parent != shard.parent {
            return Err(ListingError::TwoParents { shard: shard.id });
        }
        known.parent = known.parent.take().or(shard.parent);
        known.first = known.first.or(shard.first);
        known.last = known.last.or(shard.last);
        Ok(())
    }
}

/// Follows each shard's parents once; a walk that meets itself is a cycle.
fn refuse_cycles(shards: &BTreeMap<ShardId, ShardListing>) -> Result<(), ListingError> {
    let mut walk_of: HashMap<&ShardId, usize> = HashMap::with_capacity(shards.len());
    for (walk, start) in shards.keys().enumerate() {
        let mut at = shards.get(start);
        while let Some(shard) = at {
            match walk_of.insert(&shard.id, walk) {
                Some(earlier) if earlier == walk => return Err(ListingError::Cycle { shard: shard.id.clone() }),
                Some(_) => break,
                None => at = shard.parent.as_ref().and_then(|parent| shards.get(parent)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SequenceNumber;
    use proptest::prelude::*;

    fn id(text: &str) -> ShardId {
        ShardId::new(text)
    }

    fn shard(text: &str, parent: Option<&str>) -> ShardListing {
        ShardListing { id: id(text), parent: parent.map(id), first: None, last: None }
    }

    fn page(shards: &[ShardListing], next: Option<&str>) -> ListingPage {
        ListingPage { status: StreamStatus::Enabled, view: None, shards: shards.to_vec(), next: next.map(id) }
    }

    fn more(lister: Lister, next: ListingPage) -> Lister {
        match lister.accept(next).unwrap() {
            Listed::More(more) => more,
            Listed::All(_) => panic!("ended early"),
        }
    }

    fn all(lister: Lister, next: ListingPage) -> Listing {
        match lister.accept(next).unwrap() {
            Listed::All(listing) => listing,
            Listed::More(_) => panic!("no end"),
        }
    }

    // Case 1.
    #[test]
    fn a_listing_of_ten_thousand_shards_is_read_to_its_last_page() {
        let mut lister = Lister::new();
        for number in 0..99 {
            let shards: Vec<_> = (0..100).map(|i| shard(&format!("{number}-{i}"), None)).collect();
            lister = more(lister, page(&shards, Some(&format!("{number}-99"))));
            assert_eq!(lister.after(), Some(&id(&format!("{number}-99"))));
        }
        let listing = all(lister, page(&[shard("open on the last page", None)], None));
        assert_eq!(listing.len(), 9_901);
        assert!(listing.contains(&id("open on the last page")));
    }

    // Case 2.
    #[test]
    fn an_empty_cursor_ends_a_listing_and_an_empty_page_does_not() {
        let lister = more(Lister::new(), page(&[shard("a", None)], Some("a")));
        let lister = more(lister, page(&[], Some("b")));
        assert_eq!(all(lister, page(&[], Some(""))).len(), 1);
    }

    // Case 2.
    #[test]
    fn the_same_cursor_twice_is_an_error() {
        let lister = more(more(Lister::new(), page(&[], Some("a"))), page(&[], Some("b")));
        let error = lister.accept(page(&[], Some("a"))).unwrap_err();
        assert_eq!((error.fault(), error), (Fault::Broken, ListingError::RepeatedCursor { cursor: id("a") }));
    }

    // Case 2.
    #[test]
    fn a_listing_without_end_is_an_error() {
        let mut lister = Lister::new();
        for number in 1..MAX_PAGES {
            lister = more(lister, page(&[], Some(&number.to_string())));
        }
        assert_eq!(lister.accept(page(&[], Some("x"))), Err(ListingError::TooManyPages { pages: MAX_PAGES }));
    }

    // Case 13.
    #[test]
    fn of_two_copies_the_one_with_an_end_is_kept() {
        let end = SequenceNumber::parse("123").ok();
        let closed = ShardListing { last: end, ..shard("a", Some("p")) };
        for (one, other) in [(closed.clone(), shard("a", None)), (shard("a", None), closed.clone())] {
            let listing = all(more(Lister::new(), page(&[one], Some("x"))), page(&[other], None));
            assert_eq!(listing.shards().collect::<Vec<_>>(), [&closed]);
        }
    }

    #[test]
    fn a_shard_with_two_parents_or_among_its_own_ancestors_is_an_error() {
        let two = page(&[shard("a", Some("p")), shard("a", Some("q"))], None);
        assert_eq!(Lister::new().accept(two), Err(ListingError::TwoParents { shard: id("a") }));
        let cycle = page(&[shard("x", None), shard("a", Some("b")), shard("b", Some("a"))], None);
        assert!(matches!(Lister::new().accept(cycle), Err(ListingError::Cycle { .. })));
        let own = page(&[shard("a", Some("a"))], None);
        assert_eq!(Lister::new().accept(own), Err(ListingError::Cycle { shard: id("a") }));
    }

    // Case 16.
    #[test]
    fn nothing_follows_from_absence_before_a_stream_is_on() {
        let listing = |status, shards: &[ShardListing]| {
            all(Lister::new(), ListingPage { status, ..page(shards, None) }).is_conclusive()
        };
        assert!(!listing(StreamStatus::Enabling, &[shard("a", None)]));
        assert!(!listing(StreamStatus::Enabled, &[]));
        assert!(listing(StreamStatus::Enabled, &[shard("a", None)]));
        assert!(listing(StreamStatus::Disabled, &[]), "all trimmed");
    }

    proptest! {
        // Cases 7, 13 and 21.
        #[test]
        fn order_copies_and_page_breaks_change_nothing(
            mut parents in prop::collection::vec(any::<prop::sample::Index>(), 1..40),
            copies in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            seed: u64,
            size in 1usize..9,
        ) {
            let names: Vec<_> = (0..parents.len()).map(|i| format!("{:x}", (i + 1) * 2_654_435_761)).collect();
            parents.truncate(names.len());
            let parent = |i: usize| (i > 0).then(|| names[parents[i].index(i)].as_str());
            let shards: Vec<_> = (0..names.len()).map(|i| shard(&names[i], parent(i))).collect();
            let expected = all(Lister::new(), page(&shards, None));
            let mut told = shards.clone();
            told.extend(copies.iter().map(|copy| copy.get(&shards).clone()));
            fastrand::Rng::with_seed(seed).shuffle(&mut told);
            let mut lister = Lister::new();
            for (number, chunk) in told.chunks(size).enumerate() {
                lister = more(lister, page(chunk, Some(&number.to_string())));
            }
            prop_assert_eq!(all(lister, page(&[], None)), expected);
        }
    }
}
