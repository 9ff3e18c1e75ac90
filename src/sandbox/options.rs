//! How a sandbox behaves: sizes, delays, lives. Faults are another matter, see [`Faults`](super::Faults).

use std::sync::Arc;
use std::time::Duration;

use crate::context::{SystemClock, WallClock};

/// How sequence numbers grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SequenceNumbers {
    /// Across the stream, from 21 digits on, by strides of 32 bits.
    #[default]
    Steady,
    /// Within each shard, from 21 digits to 40, by strides of any size; a child may start below its parent's numbers.
    Growing,
}

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
    /// DescribeStream lists shards in some other order than that of their ids, parents and children on any page.
    pub shuffle_listings: bool,
    /// Shard ids of 28 to 65 letters and digits that say nothing.
    pub odd_shard_ids: bool,
    /// How a stream's sequence numbers grow.
    pub sequence_numbers: SequenceNumbers,
    /// A table's next stream numbers its records from the start again, instead of above those of the one before.
    pub restart_numbers: bool,
    /// How long a new stream is ENABLING, without shards; at least as long as its table is not ACTIVE.
    pub enabling_delay: Duration,
    /// Readers of a shard at the same time; one more is refused with LimitExceededException. `None` for any number; more
    /// than two are counted all the same. The service: 2.
    pub max_shard_readers: Option<usize>,
    /// DescribeStream calls of an account in a Region in any second, more are throttled; `None` for any number. The service: 10.
    pub max_describe_stream_rate: Option<usize>,
    /// ListStreams calls likewise. The service: 5.
    pub max_list_streams_rate: Option<usize>,
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
    /// Partitions of a new table, for the limits of each.
    pub partitions: u32,
    /// Read units per second of each partition; `None` for no limit. No bursts. The service: 3,000.
    pub partition_read_capacity: Option<u32>,
    /// Write units per second of each partition; `None` for no limit. No bursts. The service: 1,000.
    pub partition_write_capacity: Option<u32>,
    /// Read units per second that a new on-demand table takes at once; later, twice the highest second of any half hour
    /// before. `None` for no limit. The service: 12,000.
    pub on_demand_reads: Option<u32>,
    /// Write units per second likewise. The service: 4,000.
    pub on_demand_writes: Option<u32>,
    /// How old the answer of a read without consistency may be, see [`FaultKind::StaleRead`](super::FaultKind::StaleRead).
    /// What was written before this was set is not remembered.
    pub stale_reads: Duration,
    /// Deletes items by their tables' time to live, at most so much too late; `None` leaves them.
    pub ttl_lateness: Option<Duration>,
    /// How long an export to S3 takes, at the least. The service: minutes to hours, by size.
    pub export_takes: Duration,
    /// The same of incremental exports; `None`: as long as full ones.
    pub windows_take: Option<Duration>,
    /// How much older than its request the time of an export is. The service: about five minutes. What is in it is what the
    /// table holds at the request all the same.
    pub export_lag: Duration,
    /// For how long after a table's point-in-time recovery was turned on there is no time to export. The service: minutes.
    pub recovery_delay: Duration,
    /// Exports fail when they are due.
    pub exports_fail: bool,
    /// How long an import from S3 takes. The service: minutes to hours, by size.
    pub import_takes: Duration,
    /// Imports fail when they are due, with this share of their items in a table that stays; at 0 no table stays.
    pub imports_fail: Option<f64>,
    /// Chance that an import rejects an item that is in order.
    pub import_reject_chance: f64,
    /// Incremental exports do.
    pub windows_fail: bool,
    /// Their times are taken, and told, in whole seconds.
    pub windows_in_seconds: bool,
    /// Refuse requests whose time is 5 min or more off the sandbox's clock.
    pub check_request_time: bool,
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
            shuffle_listings: false,
            odd_shard_ids: false,
            sequence_numbers: SequenceNumbers::Steady,
            restart_numbers: false,
            enabling_delay: Duration::ZERO,
            max_shard_readers: None,
            max_describe_stream_rate: None,
            max_list_streams_rate: None,
            empty_page_chance: 0.0,
            final_page_with_records_chance: 0.5,
            max_page_records: 1000,
            max_page_bytes: 1024 * 1024,
            max_page_shards: 100,
            table_delay: Duration::ZERO,
            read_capacity: None,
            write_capacity: None,
            capacity_burst: Duration::from_secs(300),
            partitions: 1,
            partition_read_capacity: None,
            partition_write_capacity: None,
            on_demand_reads: None,
            on_demand_writes: None,
            stale_reads: Duration::ZERO,
            ttl_lateness: None,
            export_takes: Duration::ZERO,
            windows_take: None,
            export_lag: Duration::ZERO,
            recovery_delay: Duration::ZERO,
            exports_fail: false,
            import_takes: Duration::ZERO,
            imports_fail: None,
            import_reject_chance: 0.0,
            windows_fail: false,
            windows_in_seconds: false,
            check_request_time: false,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("seed", &self.seed).finish_non_exhaustive()
    }
}
