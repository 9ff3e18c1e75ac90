//! DynamoDB numbers: decimal text, 38 significant digits, compared by value.
//!
//! A number is kept as sign, exponent and digits without leading or trailing zeros, so `1`, `1.0` and `1E0` are one value
//! and read back as `1`. It never passes through a float. Limits: AWS facts 4.4 (1E-130 to 9.9…E+125, and zero).

use std::cmp::Ordering;
use std::fmt;

use super::reply::ApiError;

const MAX_DIGITS: usize = 38;
/// Scientific exponents that the service stores.
const EXPONENTS: std::ops::RangeInclusive<i64> = -130..=125;

/// A canonical number: `±0.DIGITS × 10^exponent`; zero has no digits, no sign and exponent 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Number {
    negative: bool,
    exponent: i16,
    digits: Box<[u8]>,
}

impl Number {
    /// Reads a number from its wire text.
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let malformed =
            || ApiError::validation(format!("The parameter cannot be converted to a numeric value: {text}"));
        let (negative, unsigned) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let mut digits = Vec::with_capacity(unsigned.len().min(64));
        let mut seen_digit = false;
        let mut seen_point = false;
        let mut exponent: i64 = 0;
        let mut rest = unsigned.iter();
        while let Some(byte) = rest.next() {
            match byte {
                b'0'..=b'9' => {
                    seen_digit = true;
                    if *byte != b'0' || !digits.is_empty() {
                        digits.push(*byte);
                        exponent = exponent.saturating_add(i64::from(!seen_point));
                    } else if seen_point {
                        exponent = exponent.saturating_sub(1);
                    }
                }
                b'.' if !seen_point => seen_point = true,
                b'e' | b'E' if seen_digit => {
                    let power = std::str::from_utf8(rest.as_slice()).map_err(|_| malformed())?;
                    if !power.trim_start_matches(['+', '-']).bytes().all(|digit| digit.is_ascii_digit()) {
                        return Err(malformed());
                    }
                    let power: i64 = power.parse().map_err(|_| malformed())?;
                    exponent = exponent.saturating_add(power);
                    break;
                }
                _ => return Err(malformed()),
            }
        }
        if !seen_digit {
            return Err(malformed());
        }
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        if digits.is_empty() {
            return Ok(Self { negative: false, exponent: 0, digits: Box::default() });
        }
        if digits.len() > MAX_DIGITS {
            return Err(ApiError::validation("Attempting to store more than 38 significant digits in a Number"));
        }
        let scientific = exponent.saturating_sub(1);
        if scientific > *EXPONENTS.end() {
            return Err(ApiError::validation(
                "Number overflow. Attempting to store a number with magnitude larger than supported range",
            ));
        }
        let exponent = i16::try_from(exponent).ok().filter(|_| scientific >= *EXPONENTS.start()).ok_or_else(|| {
            ApiError::validation(
                "Number underflow. Attempting to store a number with magnitude smaller than supported range",
            )
        })?;
        Ok(Self { negative, exponent, digits: digits.into() })
    }

    /// Bytes by the service's size rule: one per two digits, one more, one for a minus sign.
    pub(super) fn size(&self) -> usize {
        1 + self.digits.len().div_ceil(2) + usize::from(self.negative)
    }

    /// Bytes whose order is the order of the numbers, equal for equal numbers only.
    pub(super) fn sortable(&self) -> Vec<u8> {
        if self.digits.is_empty() {
            return vec![1];
        }
        let shifted = u16::try_from(i32::from(self.exponent) + 1000).unwrap_or(0).to_be_bytes();
        let mut bytes = Vec::with_capacity(self.digits.len() + 4);
        if self.negative {
            bytes.push(0);
            bytes.extend(shifted.iter().map(|byte| !byte));
            bytes.extend(self.digits.iter().map(|digit| !digit));
            bytes.push(0xff);
        } else {
            bytes.push(2);
            bytes.extend(shifted);
            bytes.extend(self.digits.iter());
        }
        bytes
    }

    /// `self + other` (or minus), with the service's limits on the result.
    pub(super) fn add(&self, other: &Self, minus: bool) -> Result<Self, ApiError> {
        let mut other = other.clone();
        if minus && !other.digits.is_empty() {
            other.negative = !other.negative;
        }
        if self.digits.is_empty() || other.digits.is_empty() {
            return Ok(if self.digits.is_empty() { other } else { self.clone() });
        }
        // Digits are laid out on one scale, from the highest power of ten to the lowest.
        let top = self.exponent.max(other.exponent);
        let bottom = self.lowest().min(other.lowest());
        let width = usize::from(top.abs_diff(bottom));
        let (left, right) = (self.laid_out(top, width), other.laid_out(top, width));
        let (negative, magnitude) = if self.negative == other.negative {
            (self.negative, add_digits(&left, &right))
        } else if left >= right {
            (self.negative, subtract_digits(&left, &right))
        } else {
            (other.negative, subtract_digits(&right, &left))
        };
        let text: String = magnitude.iter().map(|digit| char::from(b'0' + digit)).collect();
        let sign = if negative { "-" } else { "" };
        Self::parse(&format!("{sign}{text}E{bottom}"))
    }

    /// The power of ten just below the last digit.
    fn lowest(&self) -> i16 {
        self.exponent - i16::try_from(self.digits.len()).unwrap_or(0)
    }

    fn laid_out(&self, top: i16, width: usize) -> Vec<u8> {
        let lead = usize::from(top.abs_diff(self.exponent));
        let mut row = vec![0; lead];
        row.extend(self.digits.iter().map(|digit| digit - b'0'));
        row.resize(width, 0);
        row
    }
}

/// Sum of two rows of equal length, one digit longer.
fn add_digits(left: &[u8], right: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let mut sum: Vec<u8> = left
        .iter()
        .zip(right)
        .rev()
        .map(|(a, b)| {
            let digit = a + b + carry;
            carry = digit / 10;
            digit % 10
        })
        .collect();
    sum.push(carry);
    sum.reverse();
    sum
}

/// Difference of two rows of equal length, `left >= right`.
fn subtract_digits(left: &[u8], right: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut difference: Vec<u8> = left
        .iter()
        .zip(right)
        .rev()
        .map(|(a, b)| {
            let digit = a + 10 - b - borrow;
            borrow = u8::from(digit < 10);
            digit % 10
        })
        .collect();
    difference.reverse();
    difference
}

impl fmt::Display for Number {
    /// Plain decimal notation, as the service answers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.digits.is_empty() {
            return f.write_str("0");
        }
        if self.negative {
            f.write_str("-")?;
        }
        let digits = std::str::from_utf8(&self.digits).unwrap_or_default();
        match usize::try_from(self.exponent) {
            Ok(whole) if whole >= digits.len() => {
                write!(f, "{digits}{:0<zeros$}", "", zeros = whole - digits.len())
            }
            Ok(whole) if whole > 0 => {
                let (integer, fraction) = digits.split_at(whole);
                write!(f, "{integer}.{fraction}")
            }
            _ => write!(f, "0.{:0<zeros$}{digits}", "", zeros = usize::from(self.exponent.unsigned_abs())),
        }
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |number: &Self| match (number.digits.is_empty(), number.negative) {
            (true, _) => 1,
            (false, true) => 0,
            (false, false) => 2,
        };
        let magnitude = || self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits));
        rank(self).cmp(&rank(other)).then_with(|| if self.negative { magnitude().reverse() } else { magnitude() })
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
