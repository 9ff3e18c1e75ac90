//! Settings of reading the stream: `[link.NAME.stream]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;

use super::load::LoadMethod;
use super::section::{Complaint, Section, Word, defaults, duration};
use super::tree::{Node, Value};
use super::units;
use crate::model::WallTime;

/// Five reads per second and shard: no limit is documented, and more is said to be throttled.
pub const DEFAULT_POLL_MIN: Duration = Duration::from_millis(200);
/// An idle shard adds at most a second to the lag; one read per second is 2.6 million a month, about the free share.
pub const DEFAULT_POLL_MAX: Duration = Duration::from_secs(1);
/// Below, the service throttles; above, the lag of an idle shard is no longer useful.
pub const POLL_RANGE: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);
/// New shards are found at their parent's end at once; the timer is for those that come without one.
pub const DEFAULT_DISCOVERY_INTERVAL: Duration = Duration::from_secs(30);
/// Below, DescribeStream's ten calls per second of an account are used up; above, a new shard waits too long.
pub const DISCOVERY_INTERVAL_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
/// Shards read at the same time: one connection each; a backlog of closed shards is read in turns.
pub const DEFAULT_MAX_CONCURRENT_SHARDS: u32 = 32;
/// One to ten thousand.
pub const MAX_CONCURRENT_SHARDS_RANGE: RangeInclusive<u32> = 1..=10_000;
/// A stream keeps 24 h.
pub const MAX_RECORD_AGE_RANGE: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(86_400);

/// What becomes of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnGap {
    /// Both tables are compared, and what differs is synced.
    Heal,
    /// The link stops, exit code 5.
    Stop,
}

impl Word for OnGap {
    const WORDS: &'static [(&'static str, Self)] = &[("heal", Self::Heal), ("stop", Self::Stop)];
}

/// What becomes of the deletes that the source's TTL made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TtlDeletes {
    /// Applied as any other.
    Apply,
    /// Left out: the target expires its items itself, or keeps them.
    Skip,
}

impl Word for TtlDeletes {
    const WORDS: &'static [(&'static str, Self)] = &[("apply", Self::Apply), ("skip", Self::Skip)];
}

/// Where a link without a load begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamStart {
    /// At the oldest record that the stream keeps.
    TrimHorizon,
    /// At the newest.
    Now,
    /// At the records that were created from this time on (by whole seconds).
    At(WallTime),
}

impl Serialize for StreamStart {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::TrimHorizon => serializer.serialize_str("trim_horizon"),
            Self::Now => serializer.serialize_str("now"),
            Self::At(time) => serializer.collect_str(time),
        }
    }
}

/// How the stream is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamConfig {
    /// Default `heal`.
    pub on_gap: OnGap,
    /// Default `apply`.
    pub ttl_deletes: TtlDeletes,
    /// Whether the stream may be turned on at the source. Default false: the source is never changed unasked.
    pub enable: bool,
    /// Where to begin; only a link with `load.method = "none"` may choose. Default the trim horizon.
    pub start: StreamStart,
    /// Pause between two reads of a shard that had records. Default [`DEFAULT_POLL_MIN`], within [`POLL_RANGE`].
    #[serde(serialize_with = "units::duration")]
    pub poll_min: Duration,
    /// Pause up to which an idle shard backs off. Default [`DEFAULT_POLL_MAX`], not below `poll_min`.
    #[serde(serialize_with = "units::duration")]
    pub poll_max: Duration,
    /// Between two full listings of the shards. Default [`DEFAULT_DISCOVERY_INTERVAL`].
    #[serde(serialize_with = "units::duration")]
    pub discovery_interval: Duration,
    /// Shards read at the same time. Default [`DEFAULT_MAX_CONCURRENT_SHARDS`].
    pub max_concurrent_shards: u32,
    /// A change that is older than this when it is read is left out, counted and logged. Default off (`None`).
    #[serde(serialize_with = "age")]
    pub max_record_age: Option<Duration>,
}

impl Default for StreamConfig {
    fn default() -> Self {
        defaults(|section| Self::read(section, LoadMethod::None))
    }
}

impl StreamConfig {
    pub(super) fn read(mut section: Section<'_>, load: LoadMethod) -> Self {
        let start = section.node("start");
        if let (Some(node), true) = (start, load != LoadMethod::None) {
            let complaint = Complaint::new(
                "needs a link without a load: a load decides itself where the stream begins",
                "remove it, or set `load.method = \"none\"`",
            );
            section.complain("start", node, complaint);
        }
        let oldest = section.node("max_record_age").filter(|node| matches!(max_age(node), Ok(Some(_))));
        if let (Some(node), true) = (oldest, load.is_by_export()) {
            let complaint = Complaint::new(
                "does not go with an export: when that is loaded the stream is read from hours ago, and all of it is needed",
                "remove it; when the load is done, `load.method = \"none\"` makes room for it",
            );
            section.complain("max_record_age", node, complaint);
        }
        let slowest = section.node("poll_max");
        let read = Self {
            on_gap: section.word("on_gap", OnGap::Heal),
            ttl_deletes: section.word("ttl_deletes", TtlDeletes::Apply),
            enable: section.flag("enable", false),
            start: section.read("start", begin).unwrap_or(StreamStart::TrimHorizon),
            poll_min: section.duration("poll_min", DEFAULT_POLL_MIN, POLL_RANGE),
            poll_max: section.duration("poll_max", DEFAULT_POLL_MAX, POLL_RANGE),
            discovery_interval: section.duration(
                "discovery_interval",
                DEFAULT_DISCOVERY_INTERVAL,
                DISCOVERY_INTERVAL_RANGE,
            ),
            max_concurrent_shards: section.integer(
                "max_concurrent_shards",
                DEFAULT_MAX_CONCURRENT_SHARDS,
                MAX_CONCURRENT_SHARDS_RANGE,
            ),
            max_record_age: section.read("max_record_age", max_age).flatten(),
        };
        let (fastest, shown) = (section.node("poll_min"), units::show_duration);
        if read.poll_max < read.poll_min
            && let Some(node) = slowest.or(fastest)
        {
            let what = format!(
                "makes `poll_max` ({}) shorter than `poll_min` ({})",
                shown(read.poll_max),
                shown(read.poll_min)
            );
            let key = if slowest.is_some() { "poll_max" } else { "poll_min" };
            section.complain(key, node, Complaint::new(what, "set both"));
        }
        section.finish();
        read
    }
}

fn begin(node: &Node) -> Result<StreamStart, Complaint> {
    const HINT: &str = "\"trim_horizon\", \"now\", or a time with its zone, as in \"2026-11-20T14:00:00Z\"";
    let text = match &node.value {
        Value::Text(text) | Value::Datetime(text) => text.as_str(),
        other => return Err(Complaint::new(format!("must be a word or a time, not {}", other.kind()), HINT)),
    };
    match text {
        "trim_horizon" => Ok(StreamStart::TrimHorizon),
        "now" => Ok(StreamStart::Now),
        time => time
            .parse::<jiff::Timestamp>()
            .map(|time| StreamStart::At(WallTime::from_millis(time.as_millisecond())))
            .map_err(|_| Complaint::new("is no place to start", HINT)),
    }
}

fn max_age(node: &Node) -> Result<Option<Duration>, Complaint> {
    match &node.value {
        Value::Text(text) if text == "off" => Ok(None),
        _ => duration(node, &MAX_RECORD_AGE_RANGE).map(Some).map_err(|complaint| complaint.or_default("off")),
    }
}

#[expect(clippy::ref_option, reason = "the signature is serde's")]
fn age<S: serde::Serializer>(age: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&age.map_or_else(|| "off".to_owned(), units::show_duration))
}
