//! How a sandbox behaves: sizes, delays, lives. Faults are another matter, see [`Faults`](super::Faults).

use std::sync::Arc;
use std::time::Duration;

use crate::context::{SystemClock, WallClock};

/// Settings of a sandbox. The defaults are the service's documented figures, without delays and capacity limits.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "made to be filled with struct update syntax")]
pub struct Options {
    /// What time it is. The sandbox has no other clock and no background task: each request first brings the world up to now.
    pub clock: Arc<dyn WallClock>,
    /// Seed of every random choice: the same seed and the same requests at the same times give the same answers.
    pub seed: u64,
    /// Refuse access keys that are neither registered nor issued by AssumeRole. Off: a key of 12 digits *is* that account.
    pub require_known_keys: bool,
    /// The account of unknown keys that are not 12 digits, while `require_known_keys` is off.
    pub default_account: String,
    /// Accept AssumeRole for less than the service's 900 s.
    pub allow_short_sessions: bool,
    /// Life of a shard before it rolls over, ± 10 %. The service: about 4 h.
    pub shard_life: Duration,
    /// Chance that an ageing shard splits in two instead of rolling over, while fewer than `max_open_shards` are open.
    pub split_chance: f64,
    /// Shards of a stream that may be open before none splits any more by itself.
    pub max_open_shards: usize,
    /// Shards of a new stream: drawn from this range.
    pub initial_shards: std::ops::RangeInclusive<usize>,
    /// How long stream records are kept. The service: 24 h.
    pub retention: Duration,
    /// How long a shard iterator is good. The service: 15 min.
    pub iterator_life: Duration,
    /// How long after its parent closed a child is listed.
    pub children_delay: Duration,
    /// How much later at most each child is listed, drawn for each: siblings appear one at a time.
    pub children_stagger: Duration,
    /// Chance that GetRecords answers an empty page although records follow.
    pub empty_page_chance: f64,
    /// Chance that the page with the last records of a closed shard already carries no next iterator.
    pub final_page_with_records_chance: f64,
    /// Records in a page of GetRecords at most. The service: 1,000.
    pub max_page_records: usize,
    /// Bytes in a page of GetRecords, Scan or Query at most. The service: 1 MB.
    pub max_page_bytes: usize,
    /// Shards in a page of DescribeStream at most. The service: 100.
    pub max_page_shards: usize,
    /// How long a table is CREATING, or UPDATING after a change of its stream.
    pub table_delay: Duration,
    /// Read units per second of each table; `None` for no limit. Bursts of `capacity_burst`.
    pub read_capacity: Option<u32>,
    /// Write units per second of each table; `None` for no limit. Bursts of `capacity_burst`.
    pub write_capacity: Option<u32>,
    /// How much unused capacity is kept. The service: up to 300 s.
    pub capacity_burst: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            seed: 0,
            require_known_keys: false,
            default_account: "000000000000".to_owned(),
            allow_short_sessions: false,
            shard_life: Duration::from_secs(4 * 3600),
            split_chance: 0.1,
            max_open_shards: 8,
            initial_shards: 1..=4,
            retention: Duration::from_secs(24 * 3600),
            iterator_life: Duration::from_secs(15 * 60),
            children_delay: Duration::ZERO,
            children_stagger: Duration::ZERO,
            empty_page_chance: 0.0,
            final_page_with_records_chance: 0.5,
            max_page_records: 1000,
            max_page_bytes: 1024 * 1024,
            max_page_shards: 100,
            table_delay: Duration::ZERO,
            read_capacity: None,
            write_capacity: None,
            capacity_burst: Duration::from_secs(300),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("seed", &self.seed).finish_non_exhaustive()
    }
}
