//! Where in a stream: shards, sequence numbers, positions.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// So many empty pages in a row prove that an open shard has no more to give. One does not: `GetRecords` may need
/// several calls to reach the next record. Source: DynamoDB Streams API reference, `GetRecords`.
pub const EMPTY_PAGES: u8 = 3;

/// The id of a shard: 28 to 65 characters, opaque. Source: DynamoDB Streams API reference, `Shard`.
///
/// Nothing is ever read out of it (emulators and the service format it differently).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(Arc<str>);

impl ShardId {
    /// Wraps an id.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The largest number of digits of a sequence number. Source: DynamoDB Streams API reference, `StreamRecord`.
const MAX_DIGITS: usize = 40;

/// Number of a stream record within its shard.
///
/// 21 to 40 decimal digits, so a `u128` is too small; ordered as a number, not as text; leading zeros are kept for
/// sending and ignored for comparing. Comparable only within one shard. Source: DynamoDB Streams API reference,
/// `StreamRecord`.
#[derive(Clone, Copy)]
pub struct SequenceNumber {
    digits: [u8; MAX_DIGITS],
    len: u8,
}

/// What is wrong with the text of a sequence number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sequence number of {len} characters is not 1 to {MAX_DIGITS} decimal digits")]
pub struct BadSequenceNumber {
    len: usize,
}

impl SequenceNumber {
    /// Reads 1 to 40 decimal digits. (Emulators use fewer than the service's 21.)
    ///
    /// # Errors
    /// [`BadSequenceNumber`] when the text is empty, longer, or holds anything but digits.
    #[expect(clippy::cast_possible_truncation, reason = "at most 40")]
    pub fn parse(text: &str) -> Result<Self, BadSequenceNumber> {
        let bytes = text.as_bytes();
        let mut digits = [0; MAX_DIGITS];
        match digits.get_mut(..bytes.len()) {
            Some(slot) if !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit) => slot.copy_from_slice(bytes),
            _ => return Err(BadSequenceNumber { len: bytes.len() }),
        }
        Ok(Self { digits, len: bytes.len() as u8 })
    }

    /// The digits as they came.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let digits = self.digits.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(digits).unwrap_or_default()
    }

    /// The digits without leading zeros. Bytes, for this is compared several times for each record.
    fn significant(&self) -> &[u8] {
        let digits = self.digits.get(..usize::from(self.len)).unwrap_or_default();
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.get(zeros..).unwrap_or_default()
    }
}

impl PartialEq for SequenceNumber {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for SequenceNumber {}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        let (mine, theirs) = (self.significant(), other.significant());
        mine.len().cmp(&theirs.len()).then_with(|| mine.cmp(theirs))
    }
}

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for SequenceNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SequenceNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Where reading of a shard starts.
///
/// There is no "latest" here: children and restarts never start at the tip, and a link that is told to start there
/// filters by time instead (no call tells where the tip is).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest record that the stream still keeps.
    TrimHorizon,
    /// Right after this record.
    After(SequenceNumber),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(text: &str) -> SequenceNumber {
        SequenceNumber::parse(text).unwrap()
    }

    #[test]
    fn a_longer_number_is_larger_whatever_its_first_digit() {
        assert!(number("999999999999999999999") < number("1000000000000000000000"));
        assert!(number("9999999999999999999999999999999999999999") > number("340282366920938463463374607431768211456"));
    }

    #[test]
    fn leading_zeros_are_kept_and_do_not_count() {
        assert_eq!(number("000000000000000000042"), number("42"));
        assert_eq!(number("000000000000000000042").as_str(), "000000000000000000042");
    }

    #[test]
    fn refuses_what_is_no_number() {
        for bad in ["", "12a", "-1", "1.0", " 1", &"1".repeat(41)] {
            assert!(SequenceNumber::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn orders_like_numbers(a in 0u128.., b in 0u128.., zeros in 0usize..1) {
            let text = |n: u128| format!("{}{n}", "0".repeat(zeros));
            prop_assert_eq!(number(&text(a)).cmp(&number(&b.to_string())), a.cmp(&b));
        }

        #[test]
        fn orders_across_21_to_40_digits(a in "[1-9][0-9]{20,39}", b in "[1-9][0-9]{20,39}") {
            let by_padding = format!("{a:0>40}").cmp(&format!("{b:0>40}"));
            prop_assert_eq!(number(&a).cmp(&number(&b)), by_padding);
        }

        #[test]
        fn survives_its_text_form(a in "[0-9]{1,40}") {
            let json = serde_json::to_string(&number(&a)).unwrap();
            let back: SequenceNumber = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(back.as_str(), a.as_str());
        }
    }
}
