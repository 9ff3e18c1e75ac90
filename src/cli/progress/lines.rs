//! Which lines are due, and what they say. Pure: the time is an argument.
//!
//! Each link is told when its phase changes, and every 30 s; every 10 s in the first minute.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::cli::format::{load_percent, span, verify_percent};
use crate::model::WallTime;
use crate::telemetry::status::{LinkStatus, Status, VerifyStatus};
use crate::telemetry::{Label as _, Phase, ShardState};

const FIRST_MINUTE: Duration = Duration::from_secs(60);
const EVERY_AT_FIRST: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(30);

/// In one round, so many links are told; the others are counted.
const MAX_LINKS: usize = 20;

/// Remembers what was told.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    told_at: Option<Duration>,
    phases: BTreeMap<String, (Phase, bool)>,
    items: BTreeMap<String, (Duration, u64)>,
}

/// A line about one link.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    at: WallTime,
    link: LinkStatus,
    was: Option<Phase>,
    items_per_second: Option<f64>,
}

impl Reporter {
    /// The lines that are due after so much time.
    pub(super) fn due(&mut self, elapsed: Duration, status: &Status) -> Vec<Line> {
        let every = if elapsed <= FIRST_MINUTE { EVERY_AT_FIRST } else { EVERY };
        let is_round = self.told_at.is_none_or(|told| elapsed >= told + every);
        if is_round {
            self.told_at = Some(elapsed);
        }
        let mut due = Vec::new();
        for (index, link) in status.links.iter().enumerate() {
            let now = (link.phase, link.verify.is_some());
            let was = self.phases.insert(link.link.clone(), now);
            let has_changed = was != Some(now);
            if has_changed || (is_round && index < MAX_LINKS) {
                let items_per_second = self.rate(link, elapsed);
                let was = was.map(|(phase, _)| phase).filter(|phase| *phase != link.phase);
                due.push(Line { at: status.at, link: link.clone(), was, items_per_second });
            }
        }
        due
    }

    /// Items per second since this was asked last; `None` at first and outside of a load.
    #[expect(clippy::cast_precision_loss, reason = "shown to people")]
    pub(super) fn rate(&mut self, link: &LinkStatus, elapsed: Duration) -> Option<f64> {
        let load = link.load.as_ref().filter(|_| link.phase == Phase::InitialLoad)?;
        let (before, items) = self.items.insert(link.link.clone(), (elapsed, load.items))?;
        let seconds = elapsed.saturating_sub(before).as_secs_f64();
        (seconds > 0.0).then(|| load.items.saturating_sub(items) as f64 / seconds)
    }
}

impl Line {
    fn is_warning(&self) -> bool {
        self.link.throttle.is_some() || !self.link.gaps.is_empty() || !self.link.needs.is_empty()
    }

    fn level(&self) -> &'static str {
        match self.link.phase {
            Phase::Failed => "ERROR",
            _ if self.is_warning() => "WARN",
            _ => "INFO",
        }
    }

    /// `TIME LEVEL key=value …`.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} {}", self.at, self.level());
        for (key, value) in self.fields() {
            let needs_quotes = value.contains([' ', '"', '=']);
            let value = if needs_quotes { format!("{value:?}") } else { value };
            text.push_str(&format!(" {key}={value}"));
        }
        text
    }

    /// One JSON object: shaped like a log line, with the link as in the status document.
    pub(super) fn json(&self) -> String {
        let message = if self.was.is_some() { "phase changed" } else { "progress" };
        json!({"timestamp": self.at.to_string(), "level": self.level(), "message": message, "was": self.was,
               "items_per_second": self.items_per_second, "status": self.link})
        .to_string()
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let link = &self.link;
        let mut fields = vec![("link", link.link.clone()), ("phase", phase(link))];
        fields.extend(self.was.map(|phase| ("was", phase.to_string())));
        if let Some(verify) = &link.verify {
            fields.extend(verify_fields(verify));
        } else if link.phase == Phase::InitialLoad {
            self.load_fields(&mut fields);
        } else {
            fields.push(("lag", link.lag_seconds.map_or_else(|| "unknown".to_owned(), span)));
            let open = link.shards.iter().find(|(state, _)| *state == ShardState::Open);
            fields.extend(open.map(|(_, shards)| ("shards", shards.to_string())));
        }
        if link.phase != Phase::Starting {
            let throttled = link.throttle.map_or("false", |reason| reason.as_str());
            fields.push(("throttled", throttled.to_owned()));
        }
        fields.extend(link.headroom_seconds.map(|left| ("headroom", span(left))));
        let counts =
            [("in_doubt", link.in_doubt), ("gaps", link.gaps.len() as u64), ("dead_letters", link.dead_letters)];
        fields.extend(counts.into_iter().filter(|(_, count)| *count > 0).map(|(key, count)| (key, count.to_string())));
        fields.extend((!link.needs.is_empty()).then(|| ("needs", link.needs.join("; "))));
        fields
    }

    fn load_fields(&self, fields: &mut Vec<(&'static str, String)>) {
        let Some(load) = &self.link.load else { return };
        match load.expected_bytes {
            Some(expected) => {
                fields.push(("done", load_percent(load.bytes, expected, load.segments_done >= load.segments)));
                fields.push(("bytes", format!("{}/{expected}", load.bytes)));
            }
            None => fields.push(("bytes", load.bytes.to_string())),
        }
        fields.push(("items", load.items.to_string()));
        fields.push(("segments", format!("{}/{}", load.segments_done, load.segments)));
        fields.extend(self.items_per_second.map(|items| ("rate_items", format!("{items:.0}/s"))));
        fields.extend(load.eta_seconds.map(|left| ("eta", span(left))));
    }
}

/// What a link is at: a comparison beside a running link is told in its place.
fn phase(link: &LinkStatus) -> String {
    if link.verify.is_some() { "verifying".to_owned() } else { link.phase.to_string() }
}

fn verify_fields(verify: &VerifyStatus) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    fields.extend(verify_percent(verify).map(|done| ("done", done)));
    fields.push(("items", verify.source_items.to_string()));
    fields.push(("segments", format!("{}/{}", verify.segments_done, verify.segments)));
    fields.push(("suspects", verify.suspects.to_string()));
    fields.push(("differences", verify.differences.to_string()));
    fields
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::telemetry::ThrottleReason;
    use crate::telemetry::status::LoadStatus;

    pub(in crate::cli::progress) fn loading() -> LinkStatus {
        let mut link = LinkStatus::new("orders", Phase::InitialLoad);
        link.headroom_seconds = Some(85_620.0);
        link.load = Some(LoadStatus {
            bytes: 29_957_296_128,
            expected_bytes: Some(47_566_884_864),
            items: 41_210_044,
            segments_done: 40,
            segments: 64,
            rate_bytes_per_second: Some(39_950_745.6),
            eta_seconds: Some(420.0),
        });
        link
    }

    pub(in crate::cli::progress) fn replicating() -> LinkStatus {
        let mut link = LinkStatus::new("orders", Phase::Replicating);
        (link.lag_seconds, link.headroom_seconds) = (Some(1.1), Some(86_399.0));
        link
    }

    pub(in crate::cli::progress) fn verifying() -> LinkStatus {
        let mut link = LinkStatus::new("orders", Phase::Starting);
        link.verify = Some(VerifyStatus {
            source_items: 41_210_044,
            target_items: 41_208_000,
            expected_items: Some(66_000_000),
            segments_done: 40,
            segments: 64,
            suspects: 12,
            differences: 3,
        });
        link
    }

    fn status(link: LinkStatus) -> Status {
        Status::new(WallTime::from_secs(1_763_000_000), vec![link])
    }

    fn told(reporter: &mut Reporter, second: u64, link: LinkStatus) -> Vec<String> {
        reporter.due(Duration::from_secs(second), &status(link)).iter().map(Line::text).collect()
    }

    #[test]
    fn a_load_is_told_in_one_line() {
        let mut reporter = Reporter::default();
        assert_eq!(
            told(&mut reporter, 0, loading()),
            ["2025-11-13T02:13:20.000Z INFO link=orders phase=initial_load done=62% bytes=29957296128/47566884864 \
              items=41210044 segments=40/64 eta=7m00s throttled=false headroom=23h47m"]
        );
        let mut more = loading();
        more.load.as_mut().unwrap().items += 563_000;
        more.throttle = Some(ThrottleReason::TargetThrottling);
        let lines = told(&mut reporter, 10, more);
        assert!(lines[0].contains(" WARN ") && lines[0].contains("rate_items=56300/s"), "{lines:?}");
        assert!(lines[0].contains("throttled=target_throttling"), "{lines:?}");
    }

    #[test]
    fn a_comparison_is_told_at_once_and_then_like_a_load() {
        let mut reporter = Reporter::default();
        told(&mut reporter, 0, replicating());
        let compared = LinkStatus { phase: Phase::Replicating, ..verifying() };
        assert_eq!(
            told(&mut reporter, 1, compared.clone()),
            ["2025-11-13T02:13:20.000Z INFO link=orders phase=verifying done=62% items=41210044 segments=40/64 \
              suspects=12 differences=3 throttled=false"]
        );
        let seconds = (2..=70).filter(|&second| !told(&mut reporter, second, compared.clone()).is_empty());
        assert_eq!(seconds.collect::<Vec<u64>>(), [10, 20, 30, 40, 50, 60]);
        let alone = told(&mut Reporter::default(), 0, verifying());
        assert!(alone[0].ends_with("suspects=12 differences=3"), "{alone:?}");
    }

    #[test]
    fn a_line_comes_every_ten_seconds_at_first_and_then_every_thirty() {
        let mut reporter = Reporter::default();
        let seconds: Vec<u64> =
            (0..=150).filter(|&second| !told(&mut reporter, second, replicating()).is_empty()).collect();
        assert_eq!(seconds, [0, 10, 20, 30, 40, 50, 60, 90, 120, 150]);
    }

    #[test]
    fn a_change_of_phase_is_told_at_once() {
        let mut reporter = Reporter::default();
        told(&mut reporter, 0, loading());
        assert!(told(&mut reporter, 1, loading()).is_empty());
        let lines = told(&mut reporter, 2, replicating());
        assert_eq!(
            lines,
            ["2025-11-13T02:13:20.000Z INFO link=orders phase=replicating was=initial_load lag=1.1s shards=0 \
              throttled=false headroom=23h59m"]
        );
    }

    #[test]
    fn what_needs_a_human_is_a_warning_in_quotes() {
        let mut link = replicating();
        link.lag_seconds = None;
        link.needs = vec!["turn the \"stream\" on".into()];
        let lines = told(&mut Reporter::default(), 0, link);
        assert!(lines[0].contains(" WARN ") && lines[0].contains("lag=unknown"), "{lines:?}");
        assert!(lines[0].ends_with(r#"needs="turn the \"stream\" on""#), "{lines:?}");
    }

    #[test]
    fn a_link_that_failed_is_an_error_and_says_why() {
        let mut link = LinkStatus::new("orders", Phase::Failed);
        link.needs = vec!["find target table orders-copy; try: create it".into()];
        let lines = told(&mut Reporter::default(), 0, link.clone());
        assert!(lines[0].contains(" ERROR link=orders phase=failed "), "{lines:?}");
        assert!(lines[0].ends_with(r#"needs="find target table orders-copy; try: create it""#), "{lines:?}");
        let line = Reporter::default().due(Duration::ZERO, &status(link)).remove(0);
        assert!(line.json().contains(r#""level":"ERROR""#), "{}", line.json());
    }

    #[test]
    fn a_json_line_carries_the_link_as_the_status_does() {
        let line = Reporter::default().due(Duration::ZERO, &status(replicating())).remove(0);
        let json: serde_json::Value = serde_json::from_str(&line.json()).unwrap();
        assert_eq!((&json["message"], &json["status"]["lag_seconds"]), (&json!("progress"), &json!(1.1)));
        assert_eq!((&json["level"], &json["timestamp"]), (&json!("INFO"), &json!("2025-11-13T02:13:20.000Z")));
    }
}
