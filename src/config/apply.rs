//! Settings of writing to the target: `[link.NAME.apply]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;

use super::section::{Section, Word, defaults, integer};
use super::units::{self, Capacity};

/// Half of the target: the other half is for whoever reads and writes it already.
pub const DEFAULT_WRITE_CAPACITY: Capacity = Capacity::Percent(50);
/// Sixteen requests on the wire: about 400 items; with 10 ms each that is 40,000 items/s.
pub const DEFAULT_MAX_IN_FLIGHT: u32 = 16;
/// Beyond a thousand, connections cost more than they bring.
pub const MAX_IN_FLIGHT_RANGE: RangeInclusive<u32> = 1..=1024;
/// Requests on the wire where each needs an item of the state table for itself, which whoever takes over renews.
pub const MAX_FENCED_IN_FLIGHT: u32 = 64;
/// Items of one request: as many as `BatchWriteItem` takes.
pub const DEFAULT_BATCH_ITEMS: u32 = 25;
/// The service's limit (API reference, `BatchWriteItem`).
pub const BATCH_ITEMS_RANGE: RangeInclusive<u32> = 1..=25;
/// Records read beyond the watermark: a stuck key holds the watermark, and not the memory.
pub const DEFAULT_LOOK_AHEAD_RECORDS: u64 = 10_000;
/// At least one page of `GetRecords` (1,000 records); at most what one process can keep in order.
pub const LOOK_AHEAD_RECORDS_RANGE: RangeInclusive<u64> = 1_000..=10_000_000;
/// Bytes read beyond the watermark, per link: thirty pages; a sidecar with 128 MiB carries it.
pub const DEFAULT_LOOK_AHEAD_BYTES: u64 = 32 << 20;
/// At least a few pages, else reading waits for writing all the time.
pub const LOOK_AHEAD_BYTES_RANGE: RangeInclusive<u64> = (4 << 20)..=(64 << 30);
/// One attempt of one request: far above any healthy answer, far below what a user would wait.
pub const DEFAULT_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below, healthy requests are given up and their keys are in doubt; above, one dead connection stops a lane.
pub const ATTEMPT_TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// The longest life of a signed request, with margin: AWS refuses a signature after 15 minutes at most, by some of its
/// texts after 5.
pub const DEFAULT_IN_DOUBT_FOR: Duration = Duration::from_secs(16 * 60);
/// Less than the default is for emulators and tests that deliver nothing late; against AWS it gives up the guarantee.
pub const IN_DOUBT_FOR_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// Write units/s of `max_wcu`.
pub const MAX_WCU_RANGE: RangeInclusive<u64> = 1..=100_000_000;

/// What becomes of an item that the target will never accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRejected {
    /// The link stops.
    Stop,
    /// It is recorded durably, counted, and can be replayed.
    DeadLetter,
}

impl Word for OnRejected {
    const WORDS: &'static [(&'static str, Self)] = &[("stop", Self::Stop), ("dead_letter", Self::DeadLetter)];
}

/// What keeps a write from landing when its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteFence {
    /// Nothing: its key is in doubt meanwhile, and synced then.
    None,
    /// The service: each write asks for an item of the state table, in one transaction with it.
    Transaction,
}

impl Word for WriteFence {
    const WORDS: &'static [(&'static str, Self)] = &[("none", Self::None), ("transaction", Self::Transaction)];
    const LATER: &'static [&'static str] = &["version"];
}

/// How the target is written, and how hard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApplyConfig {
    /// Of the target's write capacity. Default [`DEFAULT_WRITE_CAPACITY`].
    pub write_capacity: Capacity,
    /// A ceiling in write units/s over `write_capacity`: the lower of the two holds. Default none.
    pub max_wcu: Option<u64>,
    /// Default `stop`: nothing is left out unless the user said so.
    pub on_rejected: OnRejected,
    /// Default `none`: a stale value may be seen for minutes, and writes cost what they cost.
    pub fence: WriteFence,
    /// Requests on the wire. Default [`DEFAULT_MAX_IN_FLIGHT`]; at most [`MAX_FENCED_IN_FLIGHT`] with a fence.
    pub max_in_flight: u32,
    /// Items per request. Default [`DEFAULT_BATCH_ITEMS`].
    pub batch_items: u32,
    /// Records read beyond the watermark. Default [`DEFAULT_LOOK_AHEAD_RECORDS`].
    pub look_ahead_records: u64,
    /// Bytes read beyond the watermark. Default [`DEFAULT_LOOK_AHEAD_BYTES`].
    #[serde(serialize_with = "units::size")]
    pub look_ahead_bytes: u64,
    /// One attempt of one request. Default [`DEFAULT_ATTEMPT_TIMEOUT`].
    #[serde(serialize_with = "units::duration")]
    pub attempt_timeout: Duration,
    /// How long a write whose answer was lost may still land; then its key is compared and synced. Default
    /// [`DEFAULT_IN_DOUBT_FOR`].
    #[serde(serialize_with = "units::duration")]
    pub in_doubt_for: Duration,
}

impl Default for ApplyConfig {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl ApplyConfig {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let read = Self {
            write_capacity: section.capacity("write_capacity", DEFAULT_WRITE_CAPACITY),
            max_wcu: section.read("max_wcu", |node| integer(node, &MAX_WCU_RANGE)),
            on_rejected: section.word("on_rejected", OnRejected::Stop),
            fence: section.word("fence", WriteFence::None),
            max_in_flight: section.integer("max_in_flight", DEFAULT_MAX_IN_FLIGHT, MAX_IN_FLIGHT_RANGE),
            batch_items: section.integer("batch_items", DEFAULT_BATCH_ITEMS, BATCH_ITEMS_RANGE),
            look_ahead_records: section.integer(
                "look_ahead_records",
                DEFAULT_LOOK_AHEAD_RECORDS,
                LOOK_AHEAD_RECORDS_RANGE,
            ),
            look_ahead_bytes: section.size("look_ahead_bytes", DEFAULT_LOOK_AHEAD_BYTES, LOOK_AHEAD_BYTES_RANGE),
            attempt_timeout: section.duration("attempt_timeout", DEFAULT_ATTEMPT_TIMEOUT, ATTEMPT_TIMEOUT_RANGE),
            in_doubt_for: section.duration("in_doubt_for", DEFAULT_IN_DOUBT_FOR, IN_DOUBT_FOR_RANGE),
        };
        section.finish();
        read
    }
}
