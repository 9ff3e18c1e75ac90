//! Pure: joins two scans whose items come in any order, in bounded memory.
//!
//! An entry waits until the other side brings its key. Two tables that are scanned in the same order keep few waiting, and
//! where too many do, the owner takes the oldest out and looks them up one by one. So the order costs reads, never truth.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::Side;
use crate::decode::ItemDigest;
use crate::model::{CanonicalKey, Key};

/// What an entry met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Met {
    /// The other side's entry, with the same digest.
    Equal,
    /// The other side's entry of this key, with another digest.
    Different(Key),
    /// Nothing yet.
    Nothing,
}

/// Entries of two tables that have not met.
#[derive(Debug, Default)]
pub(crate) struct Join {
    waiting: HashMap<ByCanonical, Waiting>,
    /// The same entries, oldest first.
    ages: BTreeMap<u64, ByCanonical>,
    next_age: u64,
}

#[derive(Debug)]
struct Waiting {
    side: Side,
    digest: ItemDigest,
    age: u64,
}

/// A key that is looked up by its canonical bytes, kept once for both maps.
#[derive(Debug, Clone)]
struct ByCanonical(Arc<Key>);

impl PartialEq for ByCanonical {
    fn eq(&self, other: &Self) -> bool {
        self.0.canonical == other.0.canonical
    }
}

impl Eq for ByCanonical {}

impl Hash for ByCanonical {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.canonical.hash(state);
    }
}

impl Borrow<CanonicalKey> for ByCanonical {
    fn borrow(&self) -> &CanonicalKey {
        &self.0.canonical
    }
}

impl Join {
    /// Adds an entry of one side. A key that the same side brought before is replaced.
    pub(crate) fn push(&mut self, side: Side, key: Key, digest: ItemDigest) -> Met {
        match self.waiting.get_mut(&key.canonical) {
            Some(entry) if entry.side == side => {
                entry.digest = digest;
                Met::Nothing
            }
            Some(entry) => {
                let is_equal = entry.digest == digest;
                self.ages.remove(&entry.age);
                self.waiting.remove(&key.canonical);
                if is_equal { Met::Equal } else { Met::Different(key) }
            }
            None => {
                self.wait(side, key, digest);
                Met::Nothing
            }
        }
    }

    fn wait(&mut self, side: Side, key: Key, digest: ItemDigest) {
        let (age, key) = (self.next_age, ByCanonical(Arc::new(key)));
        self.next_age += 1;
        self.ages.insert(age, key.clone());
        self.waiting.insert(key, Waiting { side, digest, age });
    }

    /// Takes out the entry that waits longest, and says which side brought it.
    pub(crate) fn pop_oldest(&mut self) -> Option<(Key, Side)> {
        let (_, key) = self.ages.pop_first()?;
        let side = self.waiting.remove(&key)?.side;
        Some((Arc::unwrap_or_clone(key.0), side))
    }

    /// Whether this key waits for the other side.
    pub(crate) fn is_waiting(&self, key: &CanonicalKey) -> bool {
        self.waiting.contains_key(key)
    }

    /// Entries that wait.
    pub(crate) fn len(&self) -> usize {
        debug_assert_eq!(self.waiting.len(), self.ages.len());
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::item_digest;

    fn key(n: u8) -> Key {
        Key { canonical: CanonicalKey::from_canonical(vec![n]), json: bytes::Bytes::from(vec![n]) }
    }

    fn version(n: u8) -> ItemDigest {
        item_digest(format!(r#"{{"v":{{"N":"{n}"}}}}"#).as_bytes()).unwrap()
    }

    proptest! {
        /// Whatever the two orders, and whatever is taken out early, each key ends in exactly the right place.
        #[test]
        fn order_and_bound_decide_nothing(
            source in prop::collection::hash_map(0u8..40, 0u8..3, 0..40),
            target in prop::collection::hash_map(0u8..40, 0u8..3, 0..40),
            seed in any::<u64>(),
            bound in 0usize..40,
        ) {
            let mut entries: Vec<_> = source.iter().map(|(k, v)| (Side::Source, *k, *v)).collect();
            entries.extend(target.iter().map(|(k, v)| (Side::Target, *k, *v)));
            fastrand::Rng::with_seed(seed).shuffle(&mut entries);
            let (mut join, mut unresolved) = (Join::default(), Vec::new());
            for (side, k, v) in entries {
                match join.push(side, key(k), version(v)) {
                    Met::Equal => prop_assert_eq!(source.get(&k), target.get(&k)),
                    Met::Different(_) => prop_assert!(source.contains_key(&k) && target.contains_key(&k) && source.get(&k) != target.get(&k)),
                    Met::Nothing => {}
                }
                while join.len() > bound {
                    unresolved.push(join.pop_oldest().unwrap());
                }
            }
            let early = unresolved.len();
            unresolved.extend(std::iter::from_fn(|| join.pop_oldest()));
            prop_assert_eq!(join.len(), 0);
            for (k, side) in &unresolved {
                let k = k.canonical.as_bytes()[0];
                let both = source.contains_key(&k) && target.contains_key(&k);
                prop_assert!(!both || early > 0, "met nothing although nothing was taken out");
                let own = if *side == Side::Source { &source } else { &target };
                prop_assert!(own.contains_key(&k));
            }
            let one_sided = |k: &u8| source.contains_key(k) != target.contains_key(k);
            for k in (0..40).filter(one_sided) {
                prop_assert_eq!(unresolved.iter().filter(|(found, _)| *found == key(k)).count(), 1);
            }
        }
    }

    #[test]
    fn the_oldest_goes_first_and_the_newest_digest_counts() {
        let mut join = Join::default();
        join.push(Side::Source, key(1), version(1));
        join.push(Side::Target, key(2), version(1));
        assert_eq!(join.push(Side::Source, key(1), version(2)), Met::Nothing);
        assert!(join.is_waiting(&key(1).canonical));
        assert_eq!(join.push(Side::Target, key(1), version(2)), Met::Equal);
        assert_eq!(join.pop_oldest(), Some((key(2), Side::Target)));
    }
}
