//! What is true: every version that a key had at the source, every record that tells of one, and what the target took.
//!
//! It is fed by the sandbox's events alone, so it knows nothing of what the program believes.

use std::collections::{BTreeMap, HashMap, VecDeque};

use dynaferry::model::{SequenceNumber, ShardId, WallTime};
use dynaferry::sandbox::{Changed, Item, Value};

/// Index of a version in the history of its key; the first is «there is no such item».
pub(crate) type VersionIndex = usize;

/// A state that a key had at the source.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// The number in the image; `None`: the item was absent.
    pub(crate) number: Option<u64>,
    /// The record that tells of it; `None`: no stream does.
    pub(crate) record: Option<(ShardId, SequenceNumber)>,
}

/// One key, at both sides.
#[derive(Debug, Clone)]
pub(crate) struct KeyTruth {
    pub(crate) versions: Vec<Version>,
    /// Indexes of the versions in which it was absent.
    absents: Vec<VersionIndex>,
    /// The newest version that the target ever took.
    pub(crate) high: Option<VersionIndex>,
    /// What the target has now: the number in its image.
    pub(crate) target: Option<u64>,
    /// How far the stream's own writes may have come in this run of the process. Several answers are possible where
    /// deletes look alike.
    pub(crate) streamed: Vec<VersionIndex>,
    /// The newest version that this run of the process read at the source table.
    pub(crate) read: Option<VersionIndex>,
    /// The version in the export that the load is made from.
    pub(crate) exported: Option<VersionIndex>,
    /// The first version that is not of the table that the link was begun with, but of one under the same name.
    pub(crate) foreign_from: Option<VersionIndex>,
    /// How many versions there were when the state was thrown away.
    pub(crate) known_at_drop: VersionIndex,
    /// What it has came late, of a state that was thrown away: whose operator had to wait until nothing could land any more.
    pub(crate) is_forgotten: bool,
}

impl KeyTruth {
    fn new() -> Self {
        let absent = Version { number: None, record: None };
        Self {
            versions: vec![absent],
            absents: vec![0],
            high: None,
            target: None,
            streamed: vec![0],
            read: None,
            exported: None,
            foreign_from: None,
            known_at_drop: 0,
            is_forgotten: false,
        }
    }

    /// Whether one of these versions is of the table that the link copies, and not older than where its stream is.
    pub(crate) fn is_of_link(&self, candidates: &[VersionIndex]) -> bool {
        let least = self.streamed.iter().min().copied().unwrap_or(0);
        self.foreign_from.is_none_or(|end| candidates.iter().any(|version| (least..end).contains(version)))
    }

    pub(crate) fn last(&self) -> VersionIndex {
        self.versions.len() - 1
    }

    /// A write that looks like one of these versions came to the target, in time. Answers whether it may be.
    ///
    /// The stream's own writes never go back. What was read at the table is never older than where the stream is; after
    /// it, the stream goes on where it was.
    pub(crate) fn written(&mut self, candidates: &[VersionIndex]) -> bool {
        let mut possible = Vec::new();
        for &at in &self.streamed {
            let reachable = candidates.iter().copied().filter(|version| *version >= at);
            possible.extend(reachable.clone());
            if reachable.clone().any(|version| self.read.is_some_and(|read| version <= read)) {
                possible.push(at);
            }
        }
        possible.sort_unstable();
        possible.dedup();
        let may_be = !possible.is_empty();
        if may_be {
            self.streamed = possible;
        } else {
            // Judged once, not at every write that follows.
            self.streamed = candidates.to_vec();
        }
        may_be
    }

    /// A checkpoint passed the record of this version.
    pub(crate) fn checkpointed(&mut self, version: VersionIndex) {
        self.streamed.iter_mut().for_each(|at| *at = (*at).max(version));
        self.streamed.dedup();
    }
}

/// A record of a shard.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) sequence: SequenceNumber,
    pub(crate) key: usize,
    pub(crate) version: VersionIndex,
    pub(crate) at: WallTime,
    /// Bytes of the longest attributes of its image, and of all records of the shard up to it: it has more.
    pub(crate) bytes: usize,
    pub(crate) bytes_so_far: usize,
}

/// A shard, as far as its records are not settled in the program's books.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShardTruth {
    pub(crate) stream: Option<String>,
    pub(crate) parent: Option<ShardId>,
    pub(crate) records: VecDeque<Record>,
    /// DescribeStream does not show it before.
    pub(crate) listed_from: Option<WallTime>,
    pub(crate) is_closed: bool,
    pub(crate) gone_at: Option<WallTime>,
    /// Bytes of all records that it ever had.
    bytes: usize,
}

impl ShardTruth {
    fn push(&mut self, record: Record) {
        self.bytes += record.bytes;
        self.records.push_back(Record { bytes_so_far: self.bytes, ..record });
    }

    /// How many of its records that are not passed lie at or before this one, and their bytes.
    pub(crate) fn ahead(&self, to: SequenceNumber) -> (usize, usize) {
        let count = self.records.partition_point(|record| record.sequence <= to);
        let last = count.checked_sub(1).and_then(|last| self.records.get(last));
        let bytes = last
            .zip(self.records.front())
            .map_or(0, |(last, first)| last.bytes_so_far - first.bytes_so_far + first.bytes);
        (count, bytes)
    }
}

/// A change that no stream tells of any more, and that was not settled when it was lost.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    pub(crate) key: usize,
    pub(crate) version: VersionIndex,
    pub(crate) at: WallTime,
    /// The shard that it was trimmed from; `None`: it was in no stream.
    pub(crate) shard: Option<ShardId>,
}

/// Everything that is true.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) keys: Vec<KeyTruth>,
    by_canonical: HashMap<Vec<u8>, usize>,
    by_number: HashMap<u64, (usize, VersionIndex)>,
    pub(crate) shards: BTreeMap<ShardId, ShardTruth>,
    pub(crate) lost: Vec<Lost>,
    /// Whether the stream's records carry the new images.
    pub(crate) records_have_images: bool,
}

/// The version number in an image.
pub(crate) fn number_of(image: Option<&Item>) -> Option<u64> {
    match image?.get("v") {
        Some(Value::S(text)) => text.parse().ok(),
        _ => None,
    }
}

/// The bytes of an image's own texts: less than what travels.
fn bytes_of(image: Option<&Item>) -> usize {
    let texts = image.into_iter().flat_map(|image| image.values());
    texts.map(|value| if let Value::S(text) = value { text.len() } else { 0 }).sum()
}

impl Truth {
    /// The key with these canonical bytes; it is made known if it is new.
    pub(crate) fn key(&mut self, canonical: &[u8]) -> usize {
        if let Some(&key) = self.by_canonical.get(canonical) {
            return key;
        }
        self.keys.push(KeyTruth::new());
        self.by_canonical.insert(canonical.to_vec(), self.keys.len() - 1);
        self.keys.len() - 1
    }

    /// The key and version of an image, by its number.
    pub(crate) fn version(&self, number: u64) -> Option<(usize, VersionIndex)> {
        self.by_number.get(&number).copied()
    }

    /// The versions of a key that look like what the target has now.
    pub(crate) fn candidates(&self, key: usize, number: Option<u64>) -> Vec<VersionIndex> {
        match number {
            None => self.keys[key].absents.clone(),
            Some(number) => self
                .by_number
                .get(&number)
                .filter(|(owner, _)| *owner == key)
                .map(|(_, version)| vec![*version])
                .unwrap_or_default(),
        }
    }

    /// The source changed. Answers the key and its new version.
    pub(crate) fn changed_at_source(&mut self, change: &Changed<'_>) -> (usize, VersionIndex) {
        let key = self.key(change.key);
        let number = number_of(change.image);
        let record = change.record.and_then(|record| {
            let sequence = SequenceNumber::parse(record.sequence).ok()?;
            Some((ShardId::new(record.shard), sequence))
        });
        let version = self.push(key, Version { number, record: record.clone() });
        if let Some((shard, sequence)) = record {
            let bytes = if self.records_have_images { bytes_of(change.image) } else { 0 };
            let record = Record { sequence, key, version, at: change.at, bytes, bytes_so_far: 0 };
            self.shards.entry(shard).or_default().push(record);
        }
        (key, version)
    }

    fn push(&mut self, key: usize, version: Version) -> VersionIndex {
        let truth = &mut self.keys[key];
        let index = truth.versions.len();
        match version.number {
            Some(number) => drop(self.by_number.insert(number, (key, index))),
            None => truth.absents.push(index),
        }
        truth.versions.push(version);
        truth.is_forgotten = false;
        index
    }

    /// The source table is gone, with all its items; what comes is foreign to a link that was begun with it.
    pub(crate) fn source_deleted(&mut self, has_link: bool) {
        for key in 0..self.keys.len() {
            let end = self.keys[key].versions.len();
            if has_link {
                self.keys[key].foreign_from.get_or_insert(end);
            }
            if self.keys[key].versions.last().is_some_and(|version| version.number.is_some()) {
                self.push(key, Version { number: None, record: None });
            }
        }
        self.shards.clear();
        self.lost.clear();
    }

    /// The target table is gone, or a new process life begins with nothing at the target.
    pub(crate) fn target_deleted(&mut self) {
        for key in &mut self.keys {
            (key.target, key.high, key.read) = (None, None, key.exported);
            key.is_forgotten = false;
            key.streamed = vec![0];
        }
        self.lost.clear();
    }

    /// Whether the target took this version, or a newer one.
    pub(crate) fn is_applied(&self, key: usize, version: VersionIndex) -> bool {
        self.keys[key].high.is_some_and(|high| high >= version)
    }

    /// Whether both sides look the same for this key.
    pub(crate) fn is_equal(&self, key: usize) -> bool {
        let truth = &self.keys[key];
        truth.target == truth.versions[truth.last()].number
    }

    /// Whether nobody answers for the key of these canonical bytes.
    pub(crate) fn is_forgotten(&self, canonical: &[u8]) -> bool {
        self.by_canonical.get(canonical).is_some_and(|key| self.keys[*key].is_forgotten)
    }

    /// Whether the target has what this version was, or a later one: it was right once since.
    pub(crate) fn looks_since(&self, key: usize, version: VersionIndex) -> bool {
        let truth = &self.keys[key];
        truth.versions.iter().skip(version).any(|later| truth.target == later.number)
    }

    /// Whether one shard descends from the other, or is it.
    pub(crate) fn descends(&self, shard: &ShardId, ancestor: &ShardId) -> bool {
        let mut at = Some(shard);
        for _ in 0..=self.shards.len() {
            match at {
                None => return false,
                Some(id) if id == ancestor => return true,
                Some(id) => at = self.shards.get(id).and_then(|shard| shard.parent.as_ref()),
            }
        }
        false
    }
}
