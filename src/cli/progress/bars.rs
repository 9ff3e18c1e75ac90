//! What a bar says. Pure.

use crate::cli::format::{bytes, count, counted, load_percent, rate, span, verify_percent};
use crate::telemetry::status::{LinkStatus, LoadStatus, VerifyStatus};
use crate::telemetry::{Label as _, Phase};

const CELLS: u64 = 20;

/// One link on one line; `width`: of the longest name.
pub(super) fn line(link: &LinkStatus, items_per_second: Option<f64>, width: usize) -> String {
    let phase = if link.verify.is_some() { "verifying".to_owned() } else { link.phase.as_str().replace('_', " ") };
    let mut parts = vec![format!("{:width$}  {phase:12}", link.link)];
    match &link.load {
        _ if link.verify.is_some() => parts.extend(link.verify.as_ref().map(verify_text)),
        Some(load) if link.phase == Phase::InitialLoad => parts.push(load_text(load, items_per_second)),
        _ => parts.extend(link.lag_seconds.map(|lag| format!("lag {}", span(lag)))),
    }
    if let Some(reason) = link.throttle {
        parts.push(format!("slowed: {}", reason.as_str().replace('_', " ")));
    }
    if !link.gaps.is_empty() {
        parts.push(format!("{} open", counted(link.gaps.len() as u64, "gap")));
    }
    if link.in_doubt > 0 {
        parts.push(format!("{} in doubt", counted(link.in_doubt, "key")));
    }
    parts.extend(link.headroom_seconds.map(|left| format!("loses data in {}", span(left))));
    parts.extend(link.needs.first().map(|need| format!("needs you: {need}")));
    parts.join("  ")
}

fn load_text(load: &LoadStatus, items_per_second: Option<f64>) -> String {
    let mut parts = Vec::new();
    let segments = format!("segments {}/{}", load.segments_done, load.segments);
    match load.expected_bytes {
        Some(expected) if expected > 0 => {
            // The size is the service's estimate: more may come than was expected.
            let done = load.bytes.min(expected);
            parts.push(format!(
                "{} {:>4}",
                drawn(done, expected),
                load_percent(load.bytes, expected, load.segments_done >= load.segments)
            ));
            parts.push(format!("{} of {}", bytes(load.bytes), bytes(expected)));
        }
        _ => parts.push(bytes(load.bytes)),
    }
    parts.push(format!("{} items", count(load.items)));
    parts.push(segments);
    parts.extend(items_per_second.map(|items| format!("{} items/s", rate(items))));
    parts.extend(load.eta_seconds.map(|left| format!("ETA ~{}", span(left))));
    parts.join("  ")
}

fn verify_text(verify: &VerifyStatus) -> String {
    let mut parts = Vec::new();
    if let (Some(expected), Some(percent)) = (verify.expected_items, verify_percent(verify)) {
        parts.push(format!("{} {percent:>4}", drawn(verify.source_items.min(expected), expected)));
    }
    parts.push(format!("{} items", count(verify.source_items)));
    parts.push(format!("segments {}/{}", verify.segments_done, verify.segments));
    let more = [(verify.suspects, "suspect"), (verify.differences, "difference")];
    parts.extend(more.into_iter().filter(|(number, _)| *number > 0).map(|(number, noun)| counted(number, noun)));
    parts.join("  ")
}

fn drawn(done: u64, all: u64) -> String {
    let full = u64::try_from(u128::from(done) * u128::from(CELLS) / u128::from(all.max(1))).unwrap_or(0);
    (0..CELLS).map(|cell| if cell < full { '█' } else { '░' }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::lines::tests::{loading, replicating, verifying};
    use super::*;
    use crate::telemetry::ThrottleReason;

    #[test]
    fn a_load_shows_bar_size_rate_and_an_estimate() {
        let text = line(&loading(), Some(56_300.0), 6);
        let expected = "orders  initial load  ████████████░░░░░░░░  62%  27.9 GiB of 44.3 GiB  41,210,044 items  segments 40/64  \
                        56,300 items/s  ETA ~7m00s  loses data in 23h47m";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_comparison_shows_how_far_it_is_and_what_it_found() {
        let text = line(&verifying(), None, 6);
        let expected = "orders  verifying     ████████████░░░░░░░░  62%  41,210,044 items  segments 40/64  12 suspects  \
                        3 differences";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_service_shows_its_lag_and_why_it_is_slow() {
        let mut link = replicating();
        assert_eq!(line(&link, None, 8), "orders    replicating   lag 1.1s  loses data in 23h59m");
        link.throttle = Some(ThrottleReason::TargetThrottling);
        link.in_doubt = 1;
        let text = line(&link, None, 8);
        assert!(text.contains("lag 1.1s  slowed: target throttling  1 key in doubt  loses"), "{text}");
    }

    #[test]
    fn an_unknown_size_draws_no_bar() {
        let mut link = loading();
        link.load.as_mut().unwrap().expected_bytes = None;
        assert!(!line(&link, None, 6).contains('█'));
    }
}
