//! The status document: what `/api/v1/status` answers and `dynaferry status -o json` prints.
//!
//! The schema is versioned ([`SCHEMA`]); fields are only ever added, and readers must ignore those that they do not
//! know. Times are RFC 3339 in UTC. What is not known is `null`, never 0. Holds no item contents and no credentials.

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::labels::{GapCause, Label, Phase, ShardState, ThrottleReason};
use super::lag::Watermarks;
use crate::model::WallTime;

/// The name and version of the schema.
pub const SCHEMA: &str = "dynaferry.status/v1";

/// Everything that a process says about itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The version of the program.
    pub version: &'static str,
    /// When this was taken, by AWS's clock where the skew is known.
    #[serde(serialize_with = "rfc3339")]
    pub at: WallTime,
    /// Its links, in the order of the configuration.
    pub links: Vec<LinkStatus>,
}

impl Status {
    /// A document of this program version.
    #[must_use]
    pub fn new(at: WallTime, links: Vec<LinkStatus>) -> Self {
        Self { schema: SCHEMA, version: env!("CARGO_PKG_VERSION"), at, links }
    }
}

/// One link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkStatus {
    /// Its name in the configuration.
    pub link: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Up to where everything has passed each stage.
    pub watermark: WatermarkStatus,
    /// How far the copy is behind; `null` while not known.
    pub lag_seconds: Option<f64>,
    /// Whether it is known.
    pub lag_known: bool,
    /// When the oldest change that is not durably settled leaves the stream.
    #[serde(serialize_with = "optional_rfc3339")]
    pub retention_deadline: Option<WallTime>,
    /// The time left until then; 0 when it is over.
    pub headroom_seconds: Option<f64>,
    /// Records of the stream that were settled per second of late; `null` while not known.
    pub records_per_second: Option<f64>,
    /// The initial load; `null` for a link without one.
    pub load: Option<LoadStatus>,
    /// The comparison that is under way; `null`: there is none.
    pub verify: Option<VerifyStatus>,
    /// Unfinished shards by state.
    #[serde(serialize_with = "by_state")]
    pub shards: Vec<(ShardState, u64)>,
    /// Open gaps.
    pub gaps: Vec<GapStatus>,
    /// Dead letters that wait in the state.
    pub dead_letters: u64,
    /// Keys with a write of unknown outcome.
    pub in_doubt: u64,
    /// Why the link is slower than it could be; `null`: it is not.
    pub throttle: Option<ThrottleReason>,
    /// What only a human can do, as short sentences; empty when nothing.
    pub needs: Vec<String>,
}

impl LinkStatus {
    /// A link of which nothing is known yet.
    #[must_use]
    pub fn new(link: impl Into<String>, phase: Phase) -> Self {
        Self {
            link: link.into(),
            phase,
            watermark: WatermarkStatus::default(),
            lag_seconds: None,
            lag_known: false,
            retention_deadline: None,
            headroom_seconds: None,
            records_per_second: None,
            load: None,
            verify: None,
            shards: ShardState::ALL.iter().map(|&state| (state, 0)).collect(),
            gaps: Vec::new(),
            dead_letters: 0,
            in_doubt: 0,
            throttle: None,
            needs: Vec::new(),
        }
    }

    /// Sets the watermarks and what follows from them at this time.
    pub fn set_lag(&mut self, watermarks: Watermarks, retention_deadline: Option<WallTime>, now: WallTime) {
        let Watermarks { read, applied, checkpointed } = watermarks;
        self.watermark = WatermarkStatus { read, applied, checkpointed };
        self.lag_seconds = watermarks.lag(now).map(|lag| lag.as_secs_f64());
        self.lag_known = self.lag_seconds.is_some();
        self.retention_deadline = retention_deadline;
        self.headroom_seconds = retention_deadline.map(|deadline| deadline.since(now).as_secs_f64());
    }
}

/// The watermarks of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WatermarkStatus {
    /// Read from the stream.
    #[serde(serialize_with = "optional_rfc3339")]
    pub read: Option<WallTime>,
    /// Acknowledged by the target.
    #[serde(serialize_with = "optional_rfc3339")]
    pub applied: Option<WallTime>,
    /// Durable in the checkpoint store.
    #[serde(serialize_with = "optional_rfc3339")]
    pub checkpointed: Option<WallTime>,
}

/// The initial load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LoadStatus {
    /// Bytes settled so far.
    pub bytes: u64,
    /// The source table's size as the service last reported it (about every six hours): an estimate.
    pub expected_bytes: Option<u64>,
    /// Items settled so far.
    pub items: u64,
    /// Segments done.
    pub segments_done: u64,
    /// Segments in all.
    pub segments: u64,
    /// Bytes per second of late.
    pub rate_bytes_per_second: Option<f64>,
    /// Time left at that rate; `null` before 1 % and a minute have passed.
    pub eta_seconds: Option<f64>,
}

impl LoadStatus {
    /// The time left at a rate, or `None` while it would be a guess: before a minute and 1 % are over, when the size is
    /// not known, or when more came than was expected.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn estimate_eta_seconds(&self, running_seconds: f64) -> Option<f64> {
        let (expected, rate) = (self.expected_bytes?, self.rate_bytes_per_second?);
        let is_early = running_seconds < 60.0 || self.bytes.saturating_mul(100) < expected;
        let left = expected.checked_sub(self.bytes)?;
        (!is_early && rate > 0.0).then_some(left as f64 / rate)
    }
}

/// A comparison of both tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VerifyStatus {
    /// Items read at the source so far.
    pub source_items: u64,
    /// Items read at the target so far.
    pub target_items: u64,
    /// What the source held by the service's last count (about every six hours): an estimate.
    pub expected_items: Option<u64>,
    /// Segments read to their end on both sides.
    pub segments_done: u64,
    /// Segments in all.
    pub segments: u64,
    /// Keys that the scans saw differ, and that are looked at again.
    pub suspects: u64,
    /// Differences found so far, those that are repaired by now not counted.
    pub differences: u64,
}

/// An open gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GapStatus {
    /// Why it was opened.
    pub cause: GapCause,
    /// The shard concerned; `null`: all.
    pub shard: Option<String>,
    /// Changes from this time on may be lost.
    #[serde(serialize_with = "optional_rfc3339")]
    pub from: Option<WallTime>,
    /// Changes up to this time may be lost.
    #[serde(serialize_with = "rfc3339")]
    pub to: WallTime,
}

fn rfc3339<S: Serializer>(time: &WallTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn optional_rfc3339<S: Serializer>(time: &Option<WallTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

fn by_state<S: Serializer>(shards: &[(ShardState, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(shards.len()))?;
    for (state, count) in shards {
        map.serialize_entry(state.as_str(), count)?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_link_that_just_started_knows_nothing_and_says_null() {
        let status = Status::new(WallTime::from_secs(1_763_000_000), vec![LinkStatus::new("orders", Phase::Starting)]);
        let expected = json!({
            "schema": "dynaferry.status/v1", "version": env!("CARGO_PKG_VERSION"), "at": "2025-11-13T02:13:20.000Z",
            "links": [{
                "link": "orders", "phase": "starting",
                "watermark": {"read": null, "applied": null, "checkpointed": null},
                "lag_seconds": null, "lag_known": false, "retention_deadline": null, "headroom_seconds": null,
                "records_per_second": null, "load": null, "verify": null, "shards": {"open": 0, "waiting_parent": 0, "closed_pending": 0}, "gaps": [],
                "dead_letters": 0, "in_doubt": 0, "throttle": null, "needs": [],
            }],
        });
        assert_eq!(serde_json::to_value(status).unwrap(), expected);
    }

    #[test]
    fn lag_and_headroom_follow_from_the_watermark() {
        let now = WallTime::from_secs(1_763_000_000);
        let mut link = LinkStatus::new("orders", Phase::Replicating);
        let applied = Some(now.minus(std::time::Duration::from_millis(1100)));
        link.set_lag(Watermarks { read: Some(now), applied, checkpointed: applied }, Some(WallTime::from_secs(1)), now);
        assert_eq!((link.lag_seconds, link.lag_known, link.headroom_seconds), (Some(1.1), true, Some(0.0)));
    }

    #[test]
    fn gaps_and_reasons_are_told_by_their_metric_names() {
        let mut link = LinkStatus::new("orders", Phase::Failed);
        let to = WallTime::from_secs(1_763_000_000);
        link.gaps.push(GapStatus { cause: GapCause::StreamReplaced, shard: None, from: None, to });
        link.throttle = Some(ThrottleReason::WriteLimit);
        let json = serde_json::to_value(link).unwrap();
        let gap = json!({"cause": "stream_replaced", "shard": null, "from": null, "to": "2025-11-13T02:13:20.000Z"});
        assert_eq!((&json["gaps"][0], &json["throttle"]), (&gap, &json!("write_limit")));
    }

    #[test]
    fn no_time_left_is_promised_before_a_minute_and_a_percent() {
        let load = LoadStatus {
            bytes: 2_000,
            expected_bytes: Some(100_000),
            items: 2,
            segments_done: 0,
            segments: 16,
            rate_bytes_per_second: Some(1_000.0),
            eta_seconds: None,
        };
        assert_eq!(load.estimate_eta_seconds(59.0), None);
        assert_eq!(load.estimate_eta_seconds(61.0), Some(98.0));
        assert_eq!(LoadStatus { bytes: 900, ..load }.estimate_eta_seconds(61.0), None);
        assert_eq!(LoadStatus { bytes: 100_001, ..load }.estimate_eta_seconds(61.0), None);
        assert_eq!(LoadStatus { rate_bytes_per_second: Some(0.0), ..load }.estimate_eta_seconds(61.0), None);
    }
}
