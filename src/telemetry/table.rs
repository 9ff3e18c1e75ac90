//! The table of every metric: name, type, labels, meaning.
//!
//! The single source: recorders take their names from here, `/metrics` its `HELP` and `TYPE` lines, `docs/metrics.md`
//! its text. Tests hold alerts, dashboards and the running exporter against it, both ways. A name, once released, is an
//! interface.

use std::fmt::Write as _;

/// What kind of time series a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down. A gauge whose value is unknown has no series; it is never a made-up 0.
    Gauge,
    /// Counts of observations by upper bound.
    Histogram,
}

impl MetricKind {
    /// The word of the exposition format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricDoc {
    /// The full name, with its unit.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// The label names, in the order of [`MetricDoc::name`]'s series.
    pub labels: &'static [&'static str],
    /// One or two sentences; also the `HELP` line.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(pub(super) const $constant: MetricDoc =
            MetricDoc { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help };)+

        /// Every metric of this program, in the order in which `/metrics` prints them.
        pub const METRICS: &[MetricDoc] = &[$($constant,)+];
    };
}

metrics! {
    WATERMARK: Gauge "dynaferry_watermark_timestamp_seconds" ["link", "mode", "stage"]
        "Every source change created before this time has passed the stage. Lag is time() minus stage=applied. Absent while unknown, as during the initial load.";
    WATERMARK_KNOWN: Gauge "dynaferry_watermark_known" ["link", "mode"]
        "1 when the applied watermark is known, 0 when it is not.";
    RETENTION_DEADLINE: Gauge "dynaferry_stream_retention_deadline_timestamp_seconds" ["link", "mode"]
        "When the oldest change that is not durably applied yet leaves the source's stream. Known in every phase from the first pin on, but while incremental exports bring what it drops.";
    LINK_INFO: Gauge "dynaferry_link_info" ["link", "mode", "source_account", "source_region", "source_table", "target_account", "target_region", "target_table"]
        "Always 1; what the link joins.";
    PHASE: Gauge "dynaferry_phase" ["link", "phase"]
        "1 for the phase that the link is in, 0 for every other.";
    APPLY_DELAY: Histogram "dynaferry_record_apply_delay_seconds" ["link", "op"]
        "From the creation of a record (whole seconds, rounded down) to the target's acknowledgement.";
    STREAM_RECORDS: Counter "dynaferry_stream_records_total" ["link", "stage"]
        "Stream records by what became of them. read minus the other stages minus the dead letters is in flight.";
    STREAM_BYTES: Counter "dynaferry_stream_bytes_total" ["link", "stage"]
        "Bytes of stream records by what became of them, as they came over the wire.";
    STREAM_SHARDS: Gauge "dynaferry_stream_shards" ["link", "state"]
        "Unfinished shards by state.";
    SHARD_SKEW: Gauge "dynaferry_stream_shard_skew_seconds" ["link"]
        "Applied watermark of the shard furthest ahead minus that of the shard furthest behind. Absent while unknown.";
    DISCOVERY: Gauge "dynaferry_stream_discovery_timestamp_seconds" ["link"]
        "When the stream's shards were last listed to the end. Absent before the first time.";
    GAPS_OPEN: Gauge "dynaferry_stream_gaps_open" ["link"]
        "Open gaps: intervals of the source's history that were lost before they were read and are not healed yet.";
    GAPS: Counter "dynaferry_stream_gaps_total" ["link", "cause"]
        "Gaps ever opened by this process.";
    BUFFER_RECORDS: Gauge "dynaferry_buffer_records" ["link"]
        "Records read and not settled.";
    BUFFER_BYTES: Gauge "dynaferry_buffer_bytes" ["link"]
        "Bytes of the records read and not settled.";
    LOAD_ITEMS: Counter "dynaferry_initial_load_items_total" ["link"]
        "Items of the initial load that are settled: written, or dropped because the stream knew better.";
    LOAD_BYTES: Counter "dynaferry_initial_load_bytes_total" ["link"]
        "Bytes of the items of the initial load that are settled.";
    LOAD_EXPECTED_BYTES: Gauge "dynaferry_initial_load_expected_bytes" ["link"]
        "Size of the source table by DescribeTable, which the service refreshes about every six hours, or of the export by its summary. An estimate; absent while unknown.";
    LOAD_SEGMENTS: Gauge "dynaferry_initial_load_segments" ["link"]
        "Parallel segments of the initial load; of an export, its files. Absent without a load.";
    LOAD_SEGMENTS_DONE: Gauge "dynaferry_initial_load_segments_done" ["link"]
        "Segments of the initial load that are read and settled to their end. Absent without a load.";
    LOAD_START: Gauge "dynaferry_initial_load_start_timestamp_seconds" ["link"]
        "When the initial load began, however often it was resumed. Absent without a load.";
    LOAD_END: Gauge "dynaferry_initial_load_end_timestamp_seconds" ["link"]
        "When the initial load ended. Absent until then.";
    REQUESTS: Counter "dynaferry_requests_total" ["link", "side", "op", "result"]
        "Requests to AWS, every attempt counted, by how they ended; AssumeRole at the side whose role it is. Those to the table of the state are all links', and have no link.";
    REQUEST_DURATION: Histogram "dynaferry_request_duration_seconds" ["side", "op"]
        "From sending a request to its answer or failure, per attempt.";
    CAPACITY: Counter "dynaferry_consumed_capacity_units_total" ["link", "side", "kind"]
        "Capacity units consumed, as the service reported them.";
    RATE_LIMIT: Gauge "dynaferry_rate_limit_units_per_second" ["link", "side", "kind"]
        "Current limit on capacity units per second, after slow-downs. Absent where nothing limits.";
    THROTTLED: Gauge "dynaferry_throttled" ["link", "reason"]
        "1 for each reason why the link is slower than it could be, else 0.";
    DEAD_LETTERED: Counter "dynaferry_dead_letter_records_total" ["link"]
        "Records that the target will never accept, set aside by this process as the policy says.";
    DEAD_LETTERS: Gauge "dynaferry_dead_letters" ["link"]
        "Dead letters that wait in the state, also those of earlier processes. Absent where the link is not open.";
    IN_DOUBT: Gauge "dynaferry_in_doubt_keys" ["link"]
        "Keys with a write whose outcome is unknown; each is compared with the source once it can no longer arrive.";
    CHECKPOINT_WRITES: Counter "dynaferry_checkpoint_writes_total" ["link", "result"]
        "Durable writes of progress.";
    LEASE_HELD: Gauge "dynaferry_lease_held" ["link"]
        "1 while this process works on the link, 0 while it waits for another worker that does.";
    TAKEOVERS: Counter "dynaferry_takeovers_total" ["link", "kind"]
        "Times that this process took the link over from another worker, by whether that one had drained.";
    WORKERS: Gauge "dynaferry_workers" []
        "Workers that share the state table and gave a sign of life within a lease, this one counted. Absent where the state is this process's alone.";
    VERIFY_DIFFERENCES: Gauge "dynaferry_verify_differences" ["link", "kind", "state"]
        "Differences between source and target in the current or last verification. Absent before the first one.";
    VERIFY_COMPARED: Counter "dynaferry_verify_items_compared_total" ["link"]
        "Keys compared between source and target.";
    VERIFY_LAST_SUCCESS: Gauge "dynaferry_verify_last_success_timestamp_seconds" ["link"]
        "When a verification last ended without a confirmed difference. Absent before the first time.";
    CLOCK_SKEW: Gauge "dynaferry_clock_skew_seconds" ["link", "side"]
        "AWS's clock minus this machine's, from the Date header. Absent while unknown.";
    CREDENTIALS_EXPIRY: Gauge "dynaferry_credentials_expiry_timestamp_seconds" ["link", "side"]
        "When the credentials in use expire. Absent for credentials that do not.";
    BUILD_INFO: Gauge "dynaferry_build_info" ["version", "revision", "target"]
        "Always 1; which build this is.";
    PROCESS_CPU: Counter "process_cpu_seconds_total" []
        "User and system CPU time spent. Linux only, like all of process_*.";
    PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" []
        "Resident memory.";
    PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" []
        "Virtual memory.";
    PROCESS_OPEN_FDS: Gauge "process_open_fds" []
        "Open file descriptors.";
    PROCESS_MAX_FDS: Gauge "process_max_fds" []
        "Largest number of open file descriptors allowed. Absent when unlimited.";
    PROCESS_THREADS: Gauge "process_threads" []
        "Threads of the operating system.";
    PROCESS_START: Gauge "process_start_time_seconds" []
        "When the process started.";
}

/// The reference page of all metrics, in Markdown: the text of `src/docs/metrics.md`.
#[must_use]
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         Generated from the table in `src/telemetry/table.rs`; a test compares both.\n\n\
         Ages are exported as timestamps: `time() - x` keeps counting while the process is down. A gauge that is not\n\
         known has no series; counters start at 0. `link` is the name in the configuration; no label ever holds a shard\n\
         or a key. Recording rules and alerts: `config/prometheus/`; dashboard: `config/grafana/`; what to do about an\n\
         alert: `operations.md`.\n\n\
         | Name | Type | Labels | Meaning |\n|---|---|---|---|\n",
    );
    for MetricDoc { name, kind, labels, help } in METRICS {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
        writeln!(page, "| `{name}` | {} | {labels} | {help} |", kind.as_str()).expect("text grows without errors");
    }
    page
}
