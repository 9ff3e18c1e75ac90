//! How much a table takes: its own limit, that of each partition, and the growth of on-demand tables.
//!
//! The last taker may overdraw, as at the service: a request is refused when nothing is left before it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::knobs::Knob;
use super::options::Options;
use crate::model::WallTime;

/// A peak counts for what comes after its half hour.
const RAMP_PERIOD: Duration = Duration::from_secs(1800);
const NO_BURST: Duration = Duration::from_secs(1);

/// Reading or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
}

/// Units that refill with time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    units: f64,
    at: WallTime,
}

impl Bucket {
    fn full(rate: Option<u32>, burst: Duration, now: WallTime) -> Self {
        Self { units: f64::from(rate.unwrap_or(0)) * burst.as_secs_f64(), at: now }
    }

    /// Whether anything is left.
    fn has_some(&mut self, rate: Option<u32>, burst: Duration, now: WallTime) -> bool {
        let Some(rate) = rate else { return true };
        let refill = f64::from(rate) * now.since(self.at).as_secs_f64();
        self.units = (self.units + refill).min(f64::from(rate) * burst.as_secs_f64());
        self.at = now;
        self.units > 0.0
    }
}

/// What an on-demand table has taken so far.
#[derive(Debug)]
struct Ramp {
    /// Units in the second of this number.
    second: (i64, f64),
    /// The highest second of the half hour that began then.
    period: (WallTime, f64),
    /// The highest second before.
    peak: f64,
}

impl Ramp {
    /// Whether the table takes more now, when it takes `first` units per second to begin with.
    fn has_some(&mut self, first: Option<u32>, now: WallTime) -> bool {
        let second = now.millis().div_euclid(1000);
        if second != self.second.0 {
            self.period.1 = self.period.1.max(self.second.1);
            self.second = (second, 0.0);
        }
        if now.since(self.period.0) >= RAMP_PERIOD {
            self.peak = self.peak.max(self.period.1);
            self.period = (now, 0.0);
        }
        first.is_none_or(|first| self.second.1 < f64::from(first).max(2.0 * self.peak))
    }
}

/// One side of a table's capacity.
#[derive(Debug)]
struct Side {
    table: Bucket,
    /// By the last hash of each.
    partitions: BTreeMap<u64, Bucket>,
    ramp: Ramp,
}

/// The limits that are in force.
struct Limits {
    table: Option<u32>,
    partition: Option<u32>,
    on_demand: Option<u32>,
}

impl Limits {
    fn of(used: Use, is_on_demand: bool, options: &Options) -> Self {
        let (table, partition, on_demand) = match used {
            Use::Read => (options.read_capacity, options.partition_read_capacity, options.on_demand_reads),
            Use::Write => (options.write_capacity, options.partition_write_capacity, options.on_demand_writes),
        };
        Self { table, partition, on_demand: on_demand.filter(|_| is_on_demand) }
    }
}

impl Side {
    fn new(used: Use, options: &Options, now: WallTime) -> Self {
        let limits = Limits::of(used, false, options);
        let count = u64::from(options.partitions.max(1));
        let width = u64::MAX / count;
        let last = |index: u64| if index + 1 == count { u64::MAX } else { width * (index + 1) };
        let bucket = Bucket::full(limits.partition, NO_BURST, now);
        Self {
            table: Bucket::full(limits.table, options.capacity_burst, now),
            partitions: (0..count).map(|index| (last(index), bucket)).collect(),
            ramp: Ramp { second: (0, 0.0), period: (now, 0.0), peak: 0.0 },
        }
    }
}

/// What a table takes.
#[derive(Debug)]
pub(super) struct Capacity {
    reads: Side,
    writes: Side,
}

/// One use of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    pub(super) used: Use,
    /// Of the partition key.
    pub(super) hash: u64,
    pub(super) units: f64,
    pub(super) is_on_demand: bool,
}

impl Capacity {
    pub(super) fn new(options: &Options, now: WallTime) -> Self {
        Self { reads: Side::new(Use::Read, options, now), writes: Side::new(Use::Write, options, now) }
    }

    /// Whether there is capacity for this; if not, which limit it met.
    pub(super) fn check(&mut self, demand: Demand, options: &Options, now: WallTime) -> Result<(), Knob> {
        let limits = Limits::of(demand.used, demand.is_on_demand, options);
        let side = self.side(demand.used);
        let partition = side.partitions.range_mut(demand.hash..).next();
        if partition.is_some_and(|(_, bucket)| !bucket.has_some(limits.partition, NO_BURST, now)) {
            return Err(Knob::PartitionBucket);
        }
        if !side.ramp.has_some(limits.on_demand, now) {
            return Err(Knob::OnDemandRamp);
        }
        if !side.table.has_some(limits.table, options.capacity_burst, now) {
            return Err(Knob::TableBucket);
        }
        Ok(())
    }

    /// Uses capacity, whether there is any or not.
    pub(super) fn charge(&mut self, demand: Demand) {
        let side = self.side(demand.used);
        side.table.units -= demand.units;
        side.ramp.second.1 += demand.units;
        if let Some((_, bucket)) = side.partitions.range_mut(demand.hash..).next() {
            bucket.units -= demand.units;
        }
    }

    /// Splits the partition of this hash after it.
    pub(super) fn split(&mut self, hash: u64) {
        for side in [&mut self.reads, &mut self.writes] {
            if let Some(bucket) = side.partitions.range(hash..).next().map(|(_, bucket)| *bucket) {
                side.partitions.insert(hash, bucket);
            }
        }
    }

    const fn side(&mut self, used: Use) -> &mut Side {
        match used {
            Use::Read => &mut self.reads,
            Use::Write => &mut self.writes,
        }
    }
}
