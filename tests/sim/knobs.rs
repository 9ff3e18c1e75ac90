//! The kinds of faults: what each is called, and how it is turned on.
//!
//! A name is stable: reports count by it, and `--without` leaves it out of a run.

use std::time::Duration;

use dynaferry::sandbox::{FaultKind, FaultRule, Options, SequenceNumbers, Trigger};

use crate::run::{landing, outage, stale};
use crate::state::StateFaults;

/// Something that is done to the world now and then while an episode lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    RollShards,
    SplitShard,
    ExpireIterators,
    ExpireSessions,
    TrimAll,
    TrimEarly,
    VanishShard,
    Poison,
    Freeze,
    Crash,
    Restart,
    StateOutage,
    ReplaceStream,
    SourceOutage,
    TargetOutage,
    StreamOutage,
    TargetThrottle,
    CrashOverWrite,
    StopOverWrite,
}

/// How a kind is turned on.
#[derive(Clone, Copy)]
pub(crate) enum Setting {
    /// A rule of the sandbox's fault plan: its operations, the highest chance for a request, and what happens.
    Rule(&'static [&'static str], f64, fn(&mut fastrand::Rng) -> FaultKind),
    /// The world is so from its beginning to its end.
    World(fn(&mut Options, f64, &mut fastrand::Rng)),
    /// Done so often: the mean time between two at full strength.
    Act(Act, Duration),
    /// The state store misbehaves.
    State(fn(&mut StateFaults, f64)),
}

/// A kind of fault.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) setting: Setting,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const ALL: &[&str] = &["*"];
const READS: &[&str] = &["GetRecords", "GetShardIterator", "DescribeStream", "Scan", "GetItem"];
const STREAM: &[&str] = &["GetRecords", "GetShardIterator", "DescribeStream"];
const WRITES: &[&str] = &["BatchWriteItem"];
const CONDITIONAL: &[&str] = &["TransactWriteItems", "PutItem", "DeleteItem"];
const TABLES: &[&str] = &["Scan", "GetItem", "BatchWriteItem"];

/// Transactions over one item at the same time.
pub(crate) const CONFLICT: &str = "transaction.conflict";

fn throttle(name: &str) -> FaultKind {
    FaultKind::Throttle(name.to_owned())
}

fn millis(random: &mut fastrand::Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(random.u64(least..=most))
}

const fn rule(
    name: &'static str,
    operations: &'static [&'static str],
    chance: f64,
    make: fn(&mut fastrand::Rng) -> FaultKind,
) -> Kind {
    Kind { name, setting: Setting::Rule(operations, chance, make) }
}

const fn world(name: &'static str, set: fn(&mut Options, f64, &mut fastrand::Rng)) -> Kind {
    Kind { name, setting: Setting::World(set) }
}

const fn act(name: &'static str, act: Act, every_secs: u64) -> Kind {
    Kind { name, setting: Setting::Act(act, Duration::from_secs(every_secs)) }
}

const fn state(name: &'static str, set: fn(&mut StateFaults, f64)) -> Kind {
    Kind { name, setting: Setting::State(set) }
}

const LISTING: &[&str] = &["DescribeStream"];
const PAGES: &[&str] = &["GetRecords"];

/// All kinds.
pub(crate) static KINDS: &[Kind] = &[
    rule("throttle.provisioned", TABLES, 0.3, |_| throttle("ProvisionedThroughputExceededException")),
    rule("throttle.throttling", ALL, 0.3, |_| throttle("ThrottlingException")),
    rule("throttle.request_limit", TABLES, 0.3, |_| throttle("RequestLimitExceeded")),
    rule("throttle.limit_exceeded", STREAM, 0.3, |_| throttle("LimitExceededException")),
    rule("scan.throttle", &["Scan"], 0.5, |_| throttle("ProvisionedThroughputExceededException")),
    rule("error.500", ALL, 0.3, |_| FaultKind::InternalError),
    rule("error.other", ALL, 0.2, |_| FaultKind::Error { code: "ServiceUnavailable".to_owned(), status: 503 }),
    rule("error.reset_before", ALL, 0.3, |_| FaultKind::Refuse),
    rule("error.reset_after", ALL, 0.3, |_| FaultKind::LoseAnswer),
    rule("error.timeout", ALL, 0.2, |_| FaultKind::TimeOut),
    rule("error.reset_then_late_delivery", WRITES, 0.2, |random| FaultKind::DeliverLate(millis(random, 1, 50_000))),
    rule("error.timeout_then_late_delivery", WRITES, 0.2, |random| {
        FaultKind::TimeOutAndDeliverLate(millis(random, 1, 50_000))
    }),
    rule("answer.slow", ALL, 0.2, |random| FaultKind::Hold(millis(random, 1, 12_000))),
    rule("answer.truncated", ALL, 0.15, |_| FaultKind::TruncateAnswer),
    rule("answer.garbled", ALL, 0.15, |_| FaultKind::GarbleAnswer),
    rule("iterator.lose_response", &["GetRecords", "GetShardIterator"], 0.3, |_| FaultKind::LoseAnswer),
    rule("iterator.expire", PAGES, 0.3, |_| FaultKind::ExpireIterator),
    rule("batch.unprocessed_subset", WRITES, 0.6, |_| FaultKind::UnprocessedSubset),
    rule("batch.unprocessed_all", WRITES, 0.4, |_| FaultKind::UnprocessedAll),
    rule(CONFLICT, CONDITIONAL, 0.3, |_| FaultKind::TransactionConflict),
    rule("auth.expired_token", READS, 0.1, |_| FaultKind::ExpiredToken),
    rule("auth.access_denied", ALL, 0.05, |_| FaultKind::AccessDenied),
    rule("describe.fail_page_k", LISTING, 0.5, |_| FaultKind::FailLaterPage),
    rule("describe.empty_last_page", LISTING, 0.7, |_| FaultKind::EmptyLastPage),
    rule("describe.repeat_cursor", LISTING, 0.2, |_| FaultKind::RepeatCursor),
    rule("describe.shuffle", LISTING, 1.0, |_| FaultKind::ShuffleShards),
    rule("describe.duplicate", LISTING, 0.7, |_| FaultKind::DuplicateShards),
    rule("describe.stale_parent_open", LISTING, 0.8, |_| FaultKind::StaleParentOpen),
    rule("describe.stale_listing", LISTING, 0.6, |random| FaultKind::StaleListing(millis(random, 1, 60_000))),
    rule("filter.unsupported", LISTING, 1.0, |_| FaultKind::FilterUnsupported),
    rule("filter.ignored", LISTING, 1.0, |_| FaultKind::FilterIgnored),
    rule("filter.empty", LISTING, 1.0, |_| FaultKind::FilterEmpty),
    rule("filter.partial", LISTING, 1.0, |_| FaultKind::FilterPartial),
    act("trim.early_at_any_moment", Act::TrimEarly, 20),
    rule("trim.mid_iterator", PAGES, 0.03, |_| FaultKind::TrimUnderIterator),
    rule("page.empty_run", PAGES, 0.3, |random| FaultKind::EmptyPages(random.u32(1..20))),
    rule("page.one_record", PAGES, 0.8, |_| FaultKind::OneRecord),
    rule("record.unknown_event", PAGES, 0.03, |_| FaultKind::UnknownEvent),
    rule("record.missing_field", PAGES, 0.03, |_| FaultKind::MissingField),
    rule("scan.stale", &["Scan", "GetItem"], 1.0, |_| FaultKind::StaleRead),
    rule("scan.partition_split", &["Scan"], 0.5, |_| FaultKind::SplitPartition),
    rule("scan.slow", &["Scan"], 1.0, |random| FaultKind::Hold(millis(random, 20, 3_000))),
    world("scan.small_pages", |options, _, random| options.max_page_bytes = random.usize(500..3_000)),
    world("items.big", |_, _, _| {}),
    world(landing::KNOB, |_, _, _| {}),
    world(outage::KNOB, |_, _, _| {}),
    world(stale::KNOB, |_, _, _| {}),
    world("describe.page_size", |options, _, random| options.max_page_shards = random.usize(1..4)),
    world("describe.rate", |options, _, _| options.max_describe_stream_rate = Some(10)),
    world("list.rate", |options, _, _| options.max_list_streams_rate = Some(5)),
    world("shard.odd_ids", |options, _, _| options.odd_shard_ids = true),
    world("children.delay", |options, strength, _| options.children_delay = Duration::from_secs(300).mul_f64(strength)),
    world("children.stagger", |options, strength, _| {
        options.children_stagger = Duration::from_secs(300).mul_f64(strength);
    }),
    world("split", |options, _, _| options.split_chance = 0.9),
    world("iterator.short_life", |options, _, random| options.iterator_life = millis(random, 500, 60_000)),
    world("page.final_with_records", |options, _, _| options.final_page_with_records_chance = 1.0),
    world("page.final_empty", |options, _, _| options.final_page_with_records_chance = 0.0),
    world("record.40_digit_seq", |options, _, _| options.sequence_numbers = SequenceNumbers::Growing),
    world("record.epoch_restart", |options, _, _| options.restart_numbers = true),
    world("stream.enabling", |options, _, random| {
        options.table_delay = millis(random, 1, 20_000);
        options.enabling_delay = millis(random, 1, 40_000);
    }),
    world("readers_per_shard_limit", |options, _, _| options.max_shard_readers = Some(2)),
    world("capacity.partition_bucket", |options, _, random| {
        options.partitions = random.u32(1..4);
        options.partition_write_capacity = Some(random.u32(5..100));
        options.partition_read_capacity = Some(random.u32(20..200));
    }),
    world("capacity.on_demand_ramp", |options, _, random| {
        options.on_demand_writes = Some(random.u32(5..60));
        options.on_demand_reads = Some(random.u32(20..200));
    }),
    world("ttl.delete", |options, strength, _| {
        options.ttl_lateness = Some(Duration::from_secs(3600).mul_f64(strength))
    }),
    world("auth.skewed_signature", |options, _, _| options.check_request_time = true),
    act("split.now", Act::SplitShard, 10),
    act("rollover", Act::RollShards, 5),
    act("iterator.expire_all", Act::ExpireIterators, 15),
    act("auth.sessions_expire", Act::ExpireSessions, 15),
    act("trim.all", Act::TrimAll, 90),
    act("shard.vanish", Act::VanishShard, 60),
    act("stream.reenable_new_arn", Act::ReplaceStream, 90),
    act("source.outage", Act::SourceOutage, 120),
    act("target.outage", Act::TargetOutage, 120),
    act("batch.reject_poison", Act::Poison, 30),
    act("worker.freeze", Act::Freeze, 40),
    act("worker.crash", Act::Crash, 20),
    act("worker.shutdown", Act::Restart, 30),
    act("worker.crash_over_write", Act::CrashOverWrite, 40),
    act("worker.stop_over_write", Act::StopOverWrite, 40),
    act("state_table.outage", Act::StateOutage, 60),
    state("state_table.throttle", |faults, strength| faults.throttle = 0.3 * strength),
    state("state_table.lost_reply", |faults, strength| faults.lost_reply = 0.2 * strength),
    state("state_table.slow", |faults, strength| {
        faults.slow = Some((0.3 * strength, Duration::from_secs(3)));
    }),
];

/// Puts the world back to where everything can come right: what cannot be undone stays.
pub(crate) fn calm(options: &mut Options) {
    let usual = Options::default();
    options.children_delay = usual.children_delay;
    options.children_stagger = usual.children_stagger;
    options.iterator_life = usual.iterator_life;
    options.empty_page_chance = usual.empty_page_chance;
    options.table_delay = usual.table_delay;
    options.enabling_delay = usual.enabling_delay;
    options.partition_read_capacity = usual.partition_read_capacity;
    options.partition_write_capacity = usual.partition_write_capacity;
    options.on_demand_reads = usual.on_demand_reads;
    options.on_demand_writes = usual.on_demand_writes;
    options.check_request_time = usual.check_request_time;
    options.ttl_lateness = usual.ttl_lateness;
}

/// The rules of a kind at this strength.
pub(crate) fn rule_of(setting: Setting, strength: f64, seed: u64) -> Vec<FaultRule> {
    let Setting::Rule(operations, chance, make) = setting else { return Vec::new() };
    let mut random = fastrand::Rng::with_seed(seed);
    let kind = make(&mut random);
    // One of the operations, or each of them.
    let chosen: &[&str] = match random.usize(0..=operations.len()) {
        n if n < operations.len() => &operations[n..=n],
        _ => operations,
    };
    chosen.iter().map(|operation| FaultRule::new(operation, Trigger::Chance(chance * strength), kind.clone())).collect()
}
