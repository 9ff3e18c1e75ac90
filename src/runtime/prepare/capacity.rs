//! How much of a table's capacity a link may use.

use crate::config::Capacity;
use crate::model::{Billing, TableDescription};

/// What an on-demand table serves where nothing else is known, per table and Region. Source: Service quotas, DynamoDB.
const DEFAULT_QUOTA: u64 = 40_000;

/// A share of a table's write capacity in units per second; `None`: only the service limits.
pub(crate) fn write_units(capacity: Capacity, table: &TableDescription) -> f64 {
    share(
        capacity,
        match table.billing {
            Billing::Provisioned { write, .. } => write,
            Billing::OnDemand { warm_write, max_write, .. } => max_write.or(warm_write).unwrap_or(DEFAULT_QUOTA),
        },
    )
}

/// A share of a table's read capacity in units per second.
pub(crate) fn read_units(capacity: Capacity, table: &TableDescription) -> f64 {
    share(
        capacity,
        match table.billing {
            Billing::Provisioned { read, .. } => read,
            Billing::OnDemand { warm_read, max_read, .. } => max_read.or(warm_read).unwrap_or(DEFAULT_QUOTA),
        },
    )
}

#[expect(clippy::cast_precision_loss, reason = "capacities are far below 2^53 units")]
fn share(capacity: Capacity, whole: u64) -> f64 {
    match capacity {
        Capacity::Percent(percent) => whole as f64 * f64::from(percent) / 100.0,
        Capacity::Units(units) => units as f64,
    }
}
