//! The kinds of fault, by their short names, and a generator of chance for each.
//!
//! Each kind draws from a generator of its own. So a kind that is switched off takes nothing from the others: take one fault
//! away, and the draws of the rest stay as they were.

use std::cell::Cell;
use std::collections::BTreeMap;

macro_rules! knobs {
    ($($variant:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Knob { $($variant,)* }

        impl Knob {
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        /// The short name of every kind of fault that a sandbox knows, sorted.
        pub const FAULT_NAMES: &[&str] = &[$($name,)*];
    };
}

knobs! {
    AnswerGarbled = "answer.garbled",
    AnswerSlow = "answer.slow",
    AnswerTruncated = "answer.truncated",
    AccessDenied = "auth.access_denied",
    ExpiredToken = "auth.expired_token",
    SkewedSignature = "auth.skewed_signature",
    RejectPoison = "batch.reject_poison",
    UnprocessedAll = "batch.unprocessed_all",
    UnprocessedSubset = "batch.unprocessed_subset",
    OnDemandRamp = "capacity.on_demand_ramp",
    PartitionBucket = "capacity.partition_bucket",
    TableBucket = "capacity.table_bucket",
    ChildrenDelay = "children.delay",
    ChildrenNever = "children.never",
    ChildrenStagger = "children.stagger",
    DescribeDuplicate = "describe.duplicate",
    DescribeEmptyLastPage = "describe.empty_last_page",
    DescribeFailPage = "describe.fail_page_k",
    DescribePageSize = "describe.page_size",
    DescribeRate = "describe.rate",
    DescribeRepeatCursor = "describe.repeat_cursor",
    DescribeShuffle = "describe.shuffle",
    DescribeStaleListing = "describe.stale_listing",
    DescribeStaleParent = "describe.stale_parent_open",
    Error500 = "error.500",
    ErrorOther = "error.other",
    ResetAfter = "error.reset_after",
    ResetBefore = "error.reset_before",
    ResetThenLate = "error.reset_then_late_delivery",
    Timeout = "error.timeout",
    TimeoutThenLate = "error.timeout_then_late_delivery",
    FilterEmpty = "filter.empty",
    FilterIgnored = "filter.ignored",
    FilterPartial = "filter.partial",
    FilterUnsupported = "filter.unsupported",
    ImportFail = "import.fail",
    ImportReject = "import.reject_item",
    IteratorExpire = "iterator.expire",
    IteratorLost = "iterator.lose_response",
    ListRate = "list.rate",
    PageOneMegabyte = "page.1MB",
    PageEmptyRun = "page.empty_run",
    PageFinalEmpty = "page.final_empty",
    PageFinalWithRecords = "page.final_with_records",
    PageOneRecord = "page.one_record",
    ReadersPerShard = "readers_per_shard_limit",
    LongNumbers = "record.40_digit_seq",
    EpochRestart = "record.epoch_restart",
    MissingField = "record.missing_field",
    UnknownEvent = "record.unknown_event",
    Rollover = "rollover",
    ScanPartitionSplit = "scan.partition_split",
    ScanStale = "scan.stale",
    ScanThrottle = "scan.throttle",
    OddShardIds = "shard.odd_ids",
    ShardVanish = "shard.vanish",
    Split = "split",
    StreamDisable = "stream.disable",
    StreamEnabling = "stream.enabling",
    StreamReenable = "stream.reenable_new_arn",
    TableRecreate = "table.recreate",
    ThrottleLimitExceeded = "throttle.limit_exceeded",
    ThrottleProvisioned = "throttle.provisioned",
    ThrottleRequestLimit = "throttle.request_limit",
    ThrottleThrottling = "throttle.throttling",
    TransactionConflict = "transaction.conflict",
    TrimEarly = "trim.early_at_any_moment",
    TrimUnderIterator = "trim.mid_iterator",
    TrimOnTime = "trim.on_time",
    TtlDelete = "ttl.delete",
}

/// A generator for each kind, and how often each fired.
pub(super) struct Knobs {
    chances: Vec<fastrand::Rng>,
    fired: Vec<Cell<u64>>,
}

impl Knobs {
    pub(super) fn new(seed: u64) -> Self {
        // One generator seeds the others: neighbouring seeds would begin alike.
        let mut seeds = fastrand::Rng::with_seed(seed ^ 0x9e37_79b9_7f4a_7c15);
        // One that came later takes nothing from those of known seeds.
        let chance = |name: &&str| if *name == Knob::TransactionConflict.name() { None } else { Some(seeds.fork()) };
        let chances: Vec<Option<fastrand::Rng>> = FAULT_NAMES.iter().map(chance).collect();
        let chances = chances.into_iter().map(|chance| chance.unwrap_or_else(|| seeds.fork())).collect();
        Self { chances, fired: vec![Cell::new(0); FAULT_NAMES.len()] }
    }

    /// The generator of a kind.
    pub(super) fn chance(&mut self, knob: Knob) -> &mut fastrand::Rng {
        self.chances.get_mut(knob as usize).expect("there is one for each kind")
    }

    /// Whether something of this probability happens. What never happens, or always, draws nothing.
    pub(super) fn happens(&mut self, knob: Knob, probability: f64) -> bool {
        probability >= 1.0 || (probability > 0.0 && self.chance(knob).f64() < probability)
    }

    /// Counts one.
    pub(super) fn count(&self, knob: Knob) {
        if let Some(fired) = self.fired.get(knob as usize) {
            fired.set(fired.get() + 1);
        }
    }

    /// How often each kind fired that did.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counts = FAULT_NAMES.iter().zip(&self.fired).map(|(name, fired)| (*name, fired.get()));
        counts.filter(|(_, fired)| *fired > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_unique_and_belong_to_their_kinds() {
        assert!(FAULT_NAMES.is_sorted_by(|one, next| one < next), "{FAULT_NAMES:?}");
        assert!(FAULT_NAMES.len() >= 60);
        for knob in [Knob::AnswerGarbled, Knob::Split, Knob::TtlDelete] {
            assert_eq!(FAULT_NAMES[knob as usize], knob.name());
        }
    }

    #[test]
    fn a_kind_that_draws_takes_nothing_from_another() {
        let (mut one, mut other) = (Knobs::new(3), Knobs::new(3));
        for _ in 0..9 {
            one.chance(Knob::Split).u64(..);
        }
        assert!(!one.happens(Knob::Rollover, 0.0) && one.happens(Knob::Rollover, 1.0));
        assert_eq!(one.chance(Knob::Rollover).u64(..), other.chance(Knob::Rollover).u64(..));
        assert_ne!(one.chance(Knob::Split).u64(..), other.chance(Knob::Split).u64(..));
    }
}
