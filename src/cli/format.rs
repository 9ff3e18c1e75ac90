//! Numbers as people read them. Pure.

use std::time::Duration;

use crate::telemetry::status::VerifyStatus;

/// A number with thousands separated: `20,000`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 item`, `20,000 items`.
pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Bytes in binary units: `27.9 GiB`, `512 B`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = "KiB";
    for larger in UNITS.into_iter().skip(1) {
        if amount < 1024.0 {
            break;
        }
        (amount, unit) = (amount / 1024.0, larger);
    }
    format!("{amount:.1} {unit}")
}

/// A rate: `56,300`, `3.2`.
pub(super) fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { count(whole(per_second)) }
}

/// A span of time in one or two units: `0.4s`, `12s`, `7m12s`, `23h47m`, `3d4h`.
pub(super) fn span(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{:.1}s", seconds.max(0.0));
    }
    let seconds = whole(seconds);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// A setting's duration.
pub(super) fn duration(duration: Duration) -> String {
    span(duration.as_secs_f64())
}

/// A share: `63%`; never 100 % before it is all.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    let percent = u128::from(part) * 100 / u128::from(whole);
    format!("{}%", if part < whole { percent.min(99) } else { 100 })
}

/// The share of a load that is done: its size is the service's estimate, so it may be exceeded before the end.
pub(super) fn load_percent(bytes: u64, expected: u64, is_done: bool) -> String {
    if is_done { "100%".to_owned() } else { percent(bytes.min(expected.saturating_sub(1)), expected) }
}

/// The share of a comparison that is done, where the source's size is known.
pub(super) fn verify_percent(verify: &VerifyStatus) -> Option<String> {
    let is_done = verify.segments_done >= verify.segments;
    Some(load_percent(verify.source_items, verify.expected_items?, is_done))
}

/// The whole part of something not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is shown to people")]
pub(super) fn whole(number: f64) -> u64 {
    number.max(0.0).round() as u64
}

/// Reads a duration with its unit, as the config file writes them: `250ms`, `90s`, `5m`, `2h`, `1d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    const WANTED: &str = "a number with a unit: 250ms, 90s, 5m, 2h, 1d";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).ok_or(WANTED)?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(WANTED.to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| WANTED)?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| "is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_like_numbers() {
        assert_eq!([0, 999, 1000, 41_210_044].map(count), ["0", "999", "1,000", "41,210,044"]);
        assert_eq!(
            [0, 1023, 1024, 29_957_296_128, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "27.9 GiB", "16384.0 PiB"]
        );
        assert_eq!([0.0, 3.25, 56_300.4].map(rate), ["0.0", "3.2", "56,300"]);
        assert_eq!((counted(1, "item"), counted(2, "item")), ("1 item".to_owned(), "2 items".to_owned()));
    }

    #[test]
    fn spans_have_two_units_at_most() {
        let spans = [-1.0, 0.94, 9.94, 9.96, 59.0, 432.0, 85_620.0, 273_600.0].map(span);
        assert_eq!(spans, ["0.0s", "0.9s", "9.9s", "10s", "59s", "7m12s", "23h47m", "3d4h"]);
    }

    #[test]
    fn all_is_said_only_when_it_is_all() {
        assert_eq!(
            [(0, 0), (0, 9), (9_999, 10_000), (5, 5), (7, 5)].map(|(a, b)| percent(a, b)),
            ["–", "0%", "99%", "100%", "100%"]
        );
    }

    #[test]
    fn a_load_that_outgrows_its_estimate_is_not_done() {
        let loads = [(5000, 4000, false), (3000, 4000, false), (3000, 4000, true), (0, 0, false)];
        assert_eq!(loads.map(|(a, b, done)| load_percent(a, b, done)), ["99%", "75%", "100%", "–"]);
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for text in ["", "90", "s", "1w", "-1s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
