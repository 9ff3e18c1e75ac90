//! Numbers in canonical form, as text. Never through a float.

use std::io::Write as _;

use super::DecodeError;

/// Canonical text of a decimal number: `0`, or `[-]DIGITSeEXP` with no leading and no trailing zeros in DIGITS.
///
/// Two texts have the same form exactly when DynamoDB takes them for the same number: `1`, `1.0` and `1E0` are `1e0`, `-0` is
/// `0`. The service allows 38 significant digits and exponents from -130 to 125 (Developer Guide, naming rules and data
/// types); more is accepted here, for it never comes out of a table.
///
/// # Errors
/// When the text is no decimal number.
pub(crate) fn canonical(text: &str, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let bad = || DecodeError::new("read a number", 0);
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| bad())?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
        return Err(bad());
    }
    let digits = || whole.bytes().chain(fraction.bytes());
    let leading = digits().take_while(|b| *b == b'0').count();
    let all = whole.len() + fraction.len();
    if leading == all {
        out.push(b'0');
        return Ok(());
    }
    let trailing = digits().rev().take_while(|b| *b == b'0').count();
    let power = i64::from(exponent) - i64::try_from(fraction.len()).map_err(|_| bad())?
        + i64::try_from(trailing).map_err(|_| bad())?;
    if negative {
        out.push(b'-');
    }
    out.extend(digits().skip(leading).take(all - leading - trailing));
    // A vector takes all.
    write!(out, "e{power}").map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn form(text: &str) -> String {
        let mut out = Vec::new();
        canonical(text, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn spellings_of_one_number_are_one_form() {
        for spelling in ["1", "1.0", "1E0", "0.1e1", "+1", "001.00", "10e-1", ".1E+1"] {
            assert_eq!(form(spelling), "1e0", "{spelling}");
        }
        for zero in ["0", "-0", "0.000", "0e99", "-0.0E-5"] {
            assert_eq!(form(zero), "0", "{zero}");
        }
        assert_eq!(form("-120"), "-12e1");
        assert_eq!(form("0.00000012"), "12e-8");
    }

    #[test]
    fn keeps_all_38_digits() {
        assert_ne!(form("12345678901234567890123456789012345678"), form("12345678901234567890123456789012345679"));
    }

    #[test]
    fn refuses_what_is_no_number() {
        for bad in ["", "-", ".", "1e", "e5", "1.2.3", "0x1", "NaN", "1 ", "１", "--1"] {
            assert!(canonical(bad, &mut Vec::new()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn is_injective_on_values(a in -10_000i64..10_000, b in -10_000i64..10_000, za in 0usize..4, zb in 0usize..4) {
            let spell = |n: i64, zeros: usize| format!("{n}{}e-{zeros}", "0".repeat(zeros));
            prop_assert_eq!(form(&spell(a, za)) == form(&spell(b, zb)), a == b);
        }

        #[test]
        fn shifting_the_point_changes_nothing(digits in "[1-9][0-9]{0,37}", shift in 0usize..38) {
            let at = digits.len().saturating_sub(shift);
            let (whole, fraction) = digits.split_at(at);
            let shifted = format!("{whole}.{fraction}E{}", fraction.len());
            prop_assert_eq!(form(&shifted), form(&digits));
        }
    }
}
