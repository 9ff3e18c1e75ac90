//! Durations, sizes and shares of capacity, as text with units.
//!
//! A bare number is refused: `20` may be seconds or milliseconds. What is written here is read back the same.

use std::time::Duration;

use serde::Serialize;

/// Units of durations, the longest first, in milliseconds.
const DURATIONS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Units of sizes, the largest first, in bytes.
const SIZES: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// How much of a table's capacity may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capacity {
    /// A share of what the table has, 1 to 100 %.
    Percent(u8),
    /// Units per second, at least 1.
    Units(u64),
}

impl std::fmt::Display for Capacity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Units(units) => write!(f, "{units}"),
        }
    }
}

impl Serialize for Capacity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Percent(_) => serializer.collect_str(self),
            Self::Units(units) => serializer.serialize_u64(*units),
        }
    }
}

/// A duration such as `250ms`, `20s`, `90m`, `2h`, `1d`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, DURATIONS).map(Duration::from_millis)
}

/// A size such as `64MiB`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    parse(text, SIZES)
}

/// The text of a duration in the longest unit that fits it.
pub(super) fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), DURATIONS, "0s")
}

/// The text of a size in the largest unit that fits it.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, SIZES, "0B")
}

/// A share such as `25%`.
pub(super) fn parse_percent(text: &str) -> Option<u8> {
    text.strip_suffix('%')?.trim_end().parse().ok().filter(|percent| (1..=100).contains(percent))
}

/// The names of the units of durations, smallest first, for hints.
pub(super) const DURATION_HINT: &str = "write a number and a unit, as in \"250ms\", \"20s\", \"5m\", \"2h\" or \"1d\"";

/// The names of the units of sizes, for hints.
pub(super) const SIZE_HINT: &str = "write a number and a unit, as in \"512KiB\", \"64MiB\" or \"1GiB\"";

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    let fitting = units.iter().find(|(_, factor)| amount != 0 && amount.is_multiple_of(*factor));
    fitting.map_or_else(|| zero.to_owned(), |(name, factor)| format!("{}{name}", amount / factor))
}

/// Serializes a duration as its text.
pub(super) fn duration<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show_duration(*duration))
}

/// Serializes a size as its text.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
pub(super) fn size<S: serde::Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show_size(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_back_as_it_is_shown() {
        for text in ["1ms", "250ms", "20s", "90m", "2h", "1d", "0s"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn a_size_reads_back_as_it_is_shown() {
        for text in ["1B", "512KiB", "64MiB", "3GiB", "0B"] {
            assert_eq!(show_size(parse_size(text).unwrap()), text);
        }
    }

    #[test]
    fn bare_unknown_signed_and_overflowing_amounts_are_refused() {
        for text in ["20", "", "s", "20 s", "-1s", "1.5h", "20sec", "99999999999999999999s", "999999999999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in ["64", "64MB", "64mib", "-1B", "99999999999GiB", "é"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn a_share_is_one_to_a_hundred_percent() {
        assert_eq!(parse_percent("25%"), Some(25));
        for text in ["0%", "101%", "25", "%", "-1%", "2.5%", "300%"] {
            assert_eq!(parse_percent(text), None, "{text}");
        }
    }
}
