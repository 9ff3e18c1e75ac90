//! What a load by exports costs, as far as anybody can tell before: said in the log when it begins.
//!
//! Prices are those of us-east-1, on demand, standard class, as of September 2026 (pricing pages); other Regions and classes
//! differ, and so may your contract.

use std::fmt;

/// US dollars for a GB that is exported.
const EXPORT: f64 = 0.10;
/// For a GB that is imported, uncompressed.
const IMPORT: f64 = 0.15;
/// For a million write units.
const WRITES: f64 = 0.625;

/// US dollars.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Dollars(f64);

impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${:.2}", self.0)
    }
}

pub(super) fn of_export(bytes: u64) -> Dollars {
    Dollars(gigabytes(bytes) * EXPORT)
}

pub(super) fn of_import(bytes: u64) -> Dollars {
    Dollars(gigabytes(bytes) * IMPORT)
}

#[expect(clippy::cast_precision_loss, reason = "a price")]
pub(super) fn of_writes(units: u64) -> Dollars {
    Dollars(units as f64 / 1e6 * WRITES)
}

/// Write units, one for each KiB that is begun, that these items take if they are of one size; as many again for each index.
pub(super) fn write_units(items: u64, bytes: u64, indexes: usize) -> u64 {
    let each = bytes.checked_div(items).unwrap_or(0).div_ceil(1024).max(1);
    items.saturating_mul(each).saturating_mul(1 + indexes as u64)
}

#[expect(clippy::cast_precision_loss, reason = "a price")]
fn gigabytes(bytes: u64) -> f64 {
    // As it is billed: 2^30 bytes.
    bytes as f64 / f64::from(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_load_costs_is_told_in_dollars_and_units() {
        let terabyte = 1 << 40;
        assert_eq!(of_export(terabyte).to_string(), "$102.40");
        assert_eq!(of_import(terabyte).to_string(), "$153.60");
        // A billion items of some 1,100 bytes take two units each, and as many again for an index.
        let units = write_units(1_000_000_000, terabyte, 0);
        assert_eq!((units, write_units(1_000_000_000, terabyte, 1)), (2_000_000_000, 4_000_000_000));
        assert_eq!(of_writes(units).to_string(), "$1250.00");
        assert_eq!((write_units(0, 0, 2), write_units(7, 0, 0), of_writes(0).to_string()), (0, 7, "$0.00".to_owned()));
    }
}
