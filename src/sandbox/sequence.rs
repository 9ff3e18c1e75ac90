//! Sequence numbers: whole numbers of up to 40 digits, one more than a `u128` holds.

use std::fmt;

/// Digits of the lower part.
const LOW_DIGITS: usize = 38;
const LOW: u128 = 10_u128.pow(38);
/// Digits of a number at most, and of the service's shortest.
pub(super) const DIGITS: std::ops::RangeInclusive<usize> = 21..=40;

/// A sequence number, or 0 as the one before all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sequence {
    high: u8,
    low: u128,
}

impl Sequence {
    pub(super) const ZERO: Self = Self { high: 0, low: 0 };
    /// The smallest of 21 digits.
    pub(super) const FIRST: Self = Self { high: 0, low: 10_u128.pow(20) };

    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > *DIGITS.end() || !text.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let (high, low) = text.split_at(text.len().saturating_sub(LOW_DIGITS));
        let high = if high.is_empty() { 0 } else { high.parse().ok()? };
        Some(Self { high, low: low.parse().ok()? })
    }

    /// The number so much above this one; the highest of 40 digits when there is none.
    pub(super) const fn plus(self, by: u128) -> Self {
        let sum = self.low.saturating_add(if by < LOW { by } else { LOW });
        match (sum < LOW, self.high) {
            (true, high) => Self { high, low: sum },
            (false, 99) => Self { high: 99, low: LOW - 1 },
            (false, high) => Self { high: high + 1, low: sum - LOW },
        }
    }

    pub(super) const fn next(self) -> Self {
        self.plus(1)
    }

    /// How many digits it has.
    pub(super) fn digits(self) -> usize {
        let digits = |number: u128| number.checked_ilog10().map_or(0, |log| usize::try_from(log).unwrap_or(0) + 1);
        if self.high == 0 { digits(self.low) } else { LOW_DIGITS + digits(self.high.into()) }
    }

    /// A number above this one, from 21 digits on to 40: mostly a little, now and then in numbers of another length.
    pub(super) fn leap(self, rng: &mut fastrand::Rng) -> Self {
        let digits = self.digits();
        let power = |exponent: usize| 10_u128.pow(u32::try_from(exponent.min(LOW_DIGITS - 1)).unwrap_or(0));
        if digits < *DIGITS.end() && rng.u8(..) < 24 {
            // The next length begins at ten to the power of this one's.
            let bottom = match digits {
                0..LOW_DIGITS => Self { high: 0, low: power(digits) },
                LOW_DIGITS => Self { high: 1, low: 0 },
                _ => Self { high: 10, low: 0 },
            };
            return bottom.plus(rng.u128(..power(digits.saturating_sub(2))));
        }
        // Far below the room that a length has, so that no shard runs out of numbers.
        let stride = power(rng.usize(..digits.saturating_sub(8).max(1)));
        self.plus(1 + rng.u128(..stride))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.high == 0 { write!(f, "{}", self.low) } else { write!(f, "{}{:038}", self.high, self.low) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_read_written_and_ordered_by_value() {
        let mut numbers = Vec::new();
        for digits in 1..=40 {
            for text in ["1".to_owned() + &"0".repeat(digits - 1), "9".repeat(digits)] {
                let number = Sequence::parse(&text).unwrap();
                assert_eq!(number.to_string(), text);
                assert_eq!(number.digits(), digits);
                numbers.push(number);
            }
        }
        assert!(numbers.is_sorted());
        assert_eq!(Sequence::parse(&"9".repeat(41)), None);
        assert_eq!(Sequence::parse("12x"), None);
        let nines = Sequence::parse(&"9".repeat(38)).unwrap();
        assert_eq!(nines.next().to_string(), format!("1{}", "0".repeat(38)));
        let highest = Sequence::parse(&"9".repeat(40)).unwrap();
        assert_eq!(highest.next(), highest);
    }

    #[test]
    fn leaps_go_up_and_reach_forty_digits_with_room_to_spare() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut number = Sequence::FIRST;
        let mut lengths = std::collections::BTreeSet::new();
        for _ in 0..100_000 {
            let next = number.leap(&mut rng);
            assert!(next > number);
            lengths.insert(next.digits());
            number = next;
        }
        assert_eq!(lengths, (21..=40).collect());
        assert!(number < Sequence::parse(&format!("5{}", "0".repeat(39))).unwrap());
    }
}
