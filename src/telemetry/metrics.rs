//! Recording and rendering: the only place that touches the metrics crates.
//!
//! A [`Metrics`] owns its recorder (none is installed for the process, so that two programs in one test do not mix).
//! A [`LinkMetrics`] holds handles made once: recording is an atomic operation, without a look-up or an allocation.
//! A gauge that holds NaN is not known and is left out of the text. `HELP` and `TYPE` come from the table; the exporter's
//! unordered output is put into the table's order, so that two scrapes of one state are equal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::labels::{
    AppliedOp, CapacityKind, DifferenceKind, DifferenceState, GapCause, Label, Mode, Operation, Phase, RecordStage,
    RequestResult, ShardState, Side, Stage, ThrottleReason, WriteResult,
};
use super::process::ProcessSample;
use super::table::{self, METRICS, MetricDoc, MetricKind};
use crate::model::WallTime;

/// Bounds of the apply delay: from a quiet link's poll interval to half an hour of backlog.
const DELAY_BUCKETS: &[f64] = &[0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];
/// Bounds of request durations: DynamoDB answers within single milliseconds, our time-outs are some tens of seconds.
const REQUEST_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Histogram samples are kept until they are counted; this many at most when nobody scrapes.
const MAX_PENDING_SAMPLES: u64 = 8192;

const METADATA: Metadata<'static> = Metadata::new("dynaferry", Level::INFO, None);

/// The metrics of one process. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    pending_samples: AtomicU64,
    process: ProcessGauges,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry, with what concerns the process as a whole.
    #[must_use]
    pub fn new() -> Self {
        let full = |doc: MetricDoc| Matcher::Full(doc.name.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(full(table::APPLY_DELAY), DELAY_BUCKETS)
            .and_then(|builder| builder.set_buckets_for_metric(full(table::REQUEST_DURATION), REQUEST_BUCKETS))
            .expect("the buckets are not empty")
            .build_recorder();
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        let revision = option_env!("DYNAFERRY_REVISION").unwrap_or("unknown");
        gauge(&recorder, table::BUILD_INFO, &[env!("CARGO_PKG_VERSION"), revision, &target]).set(1.0);
        let process = ProcessGauges::new(&recorder);
        let handle = recorder.handle();
        Self { inner: Arc::new(Inner { recorder, handle, pending_samples: AtomicU64::new(0), process }) }
    }

    /// The metrics of a link: its counters exist from here on, at 0, and its unknown gauges do not.
    ///
    /// May be called again for the same link, as after a restart of it: counters go on where they were.
    #[must_use]
    pub fn link(&self, identity: &LinkIdentity, mode: Mode) -> LinkMetrics {
        LinkMetrics { handles: Arc::new(Handles::new(&self.inner.recorder, identity, mode)), metrics: self.clone() }
    }

    /// The text for Prometheus, in the table's order.
    #[must_use]
    pub fn render(&self) -> String {
        self.inner.process.set(&ProcessSample::read());
        self.upkeep();
        arrange(&self.inner.handle.render())
    }

    /// Counts the histogram samples that are waiting. Scrapes do it, and so does every [`MAX_PENDING_SAMPLES`]th sample.
    fn upkeep(&self) {
        self.inner.pending_samples.store(0, Ordering::Relaxed);
        self.inner.handle.run_upkeep();
    }

    #[cfg(test)]
    pub(super) fn pending_samples(&self) -> u64 {
        self.inner.pending_samples.load(Ordering::Relaxed)
    }

    fn sampled(&self) {
        if self.inner.pending_samples.fetch_add(1, Ordering::Relaxed) + 1 == MAX_PENDING_SAMPLES {
            self.upkeep();
        }
    }
}

/// What a link joins, for `dynaferry_link_info`. An unknown account is an empty text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkIdentity {
    /// The link's name in the configuration.
    pub link: String,
    /// The source's account id.
    pub source_account: String,
    /// The source's Region.
    pub source_region: String,
    /// The source table's name.
    pub source_table: String,
    /// The target's account id.
    pub target_account: String,
    /// The target's Region.
    pub target_region: String,
    /// The target table's name.
    pub target_table: String,
}

/// The metrics of one link. Cheap to clone; every method may be called from any task and never blocks.
#[derive(Clone)]
pub struct LinkMetrics {
    handles: Arc<Handles>,
    metrics: Metrics,
}

impl std::fmt::Debug for LinkMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkMetrics").finish_non_exhaustive()
    }
}

impl LinkMetrics {
    /// A link of that name in a registry of its own: for tests, and where nobody scrapes.
    #[must_use]
    pub fn detached(link: &str) -> Self {
        Metrics::new().link(&LinkIdentity { link: link.to_owned(), ..LinkIdentity::default() }, Mode::Oneshot)
    }

    /// The phase that the link is in now.
    pub fn phase(&self, now_in: Phase) {
        for &phase in Phase::ALL {
            self.handles.phase.of(phase).set(f64::from(u8::from(phase == now_in)));
        }
    }

    /// Up to where a stage has passed everything; `None` while that is not known.
    pub fn watermark(&self, stage: Stage, time: Option<WallTime>) {
        set_time(self.handles.watermark.of(stage), time);
        if stage == Stage::Applied {
            self.handles.watermark_known.set(f64::from(u8::from(time.is_some())));
        }
    }

    /// When the oldest unapplied change leaves the stream.
    pub fn retention_deadline(&self, time: Option<WallTime>) {
        set_time(&self.handles.retention_deadline, time);
    }

    /// Stream records that reached a stage, and their bytes on the wire.
    pub fn stream_records(&self, stage: RecordStage, num_records: u64, num_bytes: u64) {
        self.handles.stream_records.of(stage).increment(num_records);
        self.handles.stream_bytes.of(stage).increment(num_bytes);
    }

    /// One record was acknowledged by the target this long after it was created.
    pub fn apply_delay(&self, op: AppliedOp, delay: Duration) {
        self.handles.apply_delay.of(op).record(delay.as_secs_f64());
        self.metrics.sampled();
    }

    /// How many unfinished shards are in this state.
    pub fn shards(&self, state: ShardState, num_shards: usize) {
        self.handles.shards.of(state).set(num_shards as f64);
    }

    /// How far the shards are apart; `None` while that is not known.
    pub fn shard_skew(&self, skew: Option<Duration>) {
        self.handles.shard_skew.set(skew.map_or(f64::NAN, |skew| skew.as_secs_f64()));
    }

    /// The stream's shards were listed to the end at this time.
    pub fn discovered(&self, at: WallTime) {
        set_time(&self.handles.discovery, Some(at));
    }

    /// A gap was opened.
    pub fn gap_opened(&self, cause: GapCause) {
        self.handles.gaps.of(cause).increment(1);
    }

    /// How many gaps are open.
    pub fn gaps_open(&self, num_gaps: usize) {
        self.handles.gaps_open.set(num_gaps as f64);
    }

    /// What is read and not settled.
    pub fn buffered(&self, num_records: u64, num_bytes: u64) {
        self.handles.buffer_records.set(num_records as f64);
        self.handles.buffer_bytes.set(num_bytes as f64);
    }

    /// The initial load began, or is resumed: when it first began, its segments, the source's size where known.
    pub fn load_started(&self, at: WallTime, num_segments: usize, expected_bytes: Option<u64>) {
        set_time(&self.handles.load_start, Some(at));
        self.handles.load_segments.set(num_segments as f64);
        self.handles.load_expected_bytes.set(expected_bytes.map_or(f64::NAN, |bytes| bytes as f64));
    }

    /// Items of the initial load were settled.
    pub fn load_settled(&self, num_items: u64, num_bytes: u64) {
        self.handles.load_items.increment(num_items);
        self.handles.load_bytes.increment(num_bytes);
    }

    /// How many segments of the initial load are done.
    pub fn load_segments_done(&self, num_segments: usize) {
        self.handles.load_segments_done.set(num_segments as f64);
    }

    /// The initial load ended.
    pub fn load_ended(&self, at: WallTime) {
        set_time(&self.handles.load_end, Some(at));
    }

    /// One attempt of a request ended.
    pub fn request(&self, side: Side, operation: Operation, result: RequestResult, took: Duration) {
        let handles = self.handles.request(side, operation);
        handles.results.of(result).increment(1);
        handles.duration.record(took.as_secs_f64());
        self.metrics.sampled();
    }

    /// The service reported consumed capacity units; fractions count.
    pub fn consumed(&self, side: Side, kind: CapacityKind, units: f64) {
        if units > 0.0 {
            self.handles.capacity.of(side).of(kind).increment(units);
        }
    }

    /// The limit that the sender keeps to now, in units per second; `None` where nothing limits.
    pub fn rate_limit(&self, side: Side, kind: CapacityKind, units_per_second: Option<f64>) {
        self.handles.rate_limit.of(side).of(kind).set(units_per_second.unwrap_or(f64::NAN));
    }

    /// Whether this is a reason now why the link is slow.
    pub fn throttled(&self, reason: ThrottleReason, is_so: bool) {
        self.handles.throttled.of(reason).set(f64::from(u8::from(is_so)));
    }

    /// Records were put aside as dead letters.
    pub fn dead_letters(&self, num_records: u64) {
        self.handles.dead_letters.increment(num_records);
    }

    /// How many keys have a write of unknown outcome.
    pub fn in_doubt(&self, num_keys: usize) {
        self.handles.in_doubt.set(num_keys as f64);
    }

    /// A durable write of progress ended.
    pub fn checkpoint_write(&self, result: WriteResult) {
        self.handles.checkpoint_writes.of(result).increment(1);
    }

    /// Whether this process holds a lease of the link.
    pub fn lease_held(&self, is_held: bool) {
        self.handles.lease_held.set(f64::from(u8::from(is_held)));
    }

    /// How many differences of this kind and state the current or last verification found.
    pub fn verify_differences(&self, kind: DifferenceKind, state: DifferenceState, num_keys: u64) {
        self.handles.verify_differences.of(kind).of(state).set(num_keys as f64);
    }

    /// Keys were compared.
    pub fn verify_compared(&self, num_keys: u64) {
        self.handles.verify_compared.increment(num_keys);
    }

    /// A verification ended at this time without a confirmed difference.
    pub fn verify_succeeded(&self, at: WallTime) {
        set_time(&self.handles.verify_last_success, Some(at));
    }

    /// AWS's clock minus ours, in seconds; `None` while unknown.
    pub fn clock_skew(&self, side: Side, seconds: Option<f64>) {
        self.handles.clock_skew.of(side).set(seconds.unwrap_or(f64::NAN));
    }

    /// When the credentials of a side expire; `None` when they do not, or when that is not known.
    pub fn credentials_expiry(&self, side: Side, at: Option<WallTime>) {
        set_time(self.handles.credentials_expiry.of(side), at);
    }
}

/// One handle for each value of a label.
struct Per<L, H> {
    handles: Box<[H]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, H> Per<L, H> {
    fn new(make: impl FnMut(L) -> H) -> Self {
        Self { handles: L::ALL.iter().copied().map(make).collect(), label: PhantomData }
    }

    fn of(&self, value: L) -> &H {
        self.handles.get(value.index()).expect("each value has its handle")
    }
}

/// The counters and the histogram of one operation on one side.
struct RequestHandles {
    results: Per<RequestResult, Counter>,
    duration: Histogram,
}

/// Every handle of a link.
struct Handles {
    watermark: Per<Stage, Gauge>,
    watermark_known: Gauge,
    retention_deadline: Gauge,
    phase: Per<Phase, Gauge>,
    apply_delay: Per<AppliedOp, Histogram>,
    stream_records: Per<RecordStage, Counter>,
    stream_bytes: Per<RecordStage, Counter>,
    shards: Per<ShardState, Gauge>,
    shard_skew: Gauge,
    discovery: Gauge,
    gaps_open: Gauge,
    gaps: Per<GapCause, Counter>,
    buffer_records: Gauge,
    buffer_bytes: Gauge,
    load_items: Counter,
    load_bytes: Counter,
    load_expected_bytes: Gauge,
    load_segments: Gauge,
    load_segments_done: Gauge,
    load_start: Gauge,
    load_end: Gauge,
    requests: Per<Side, Per<Operation, Option<RequestHandles>>>,
    capacity: Per<Side, Per<CapacityKind, Gauge>>,
    rate_limit: Per<Side, Per<CapacityKind, Gauge>>,
    throttled: Per<ThrottleReason, Gauge>,
    dead_letters: Counter,
    in_doubt: Gauge,
    checkpoint_writes: Per<WriteResult, Counter>,
    lease_held: Gauge,
    verify_differences: Per<DifferenceKind, Per<DifferenceState, Gauge>>,
    verify_compared: Counter,
    verify_last_success: Gauge,
    clock_skew: Per<Side, Gauge>,
    credentials_expiry: Per<Side, Gauge>,
}

impl Handles {
    fn new(recorder: &PrometheusRecorder, identity: &LinkIdentity, mode: Mode) -> Self {
        let LinkIdentity {
            link,
            source_account,
            source_region,
            source_table,
            target_account,
            target_region,
            target_table,
        } = identity;
        let (link, mode) = (link.as_str(), mode.as_str());
        let count = |doc, labels: &[&str]| counter(recorder, doc, labels);
        let gauge = |doc, labels: &[&str]| gauge(recorder, doc, labels);
        let zero = |doc, labels: &[&str]| {
            let gauge = gauge(doc, labels);
            gauge.set(0.0);
            gauge
        };
        let unknown = |doc, labels: &[&str]| {
            let gauge = gauge(doc, labels);
            gauge.set(f64::NAN);
            gauge
        };
        let accounts = [source_account, source_region, source_table, target_account, target_region, target_table];
        let mut info = vec![link, mode];
        info.extend(accounts.map(String::as_str));
        gauge(table::LINK_INFO, &info).set(1.0);
        Self {
            watermark: Per::new(|stage: Stage| unknown(table::WATERMARK, &[link, mode, stage.as_str()])),
            watermark_known: zero(table::WATERMARK_KNOWN, &[link, mode]),
            retention_deadline: unknown(table::RETENTION_DEADLINE, &[link, mode]),
            phase: Per::new(|phase: Phase| zero(table::PHASE, &[link, phase.as_str()])),
            apply_delay: Per::new(|op: AppliedOp| histogram(recorder, table::APPLY_DELAY, &[link, op.as_str()])),
            stream_records: Per::new(|stage: RecordStage| count(table::STREAM_RECORDS, &[link, stage.as_str()])),
            stream_bytes: Per::new(|stage: RecordStage| count(table::STREAM_BYTES, &[link, stage.as_str()])),
            shards: Per::new(|state: ShardState| zero(table::STREAM_SHARDS, &[link, state.as_str()])),
            shard_skew: unknown(table::SHARD_SKEW, &[link]),
            discovery: unknown(table::DISCOVERY, &[link]),
            gaps_open: zero(table::GAPS_OPEN, &[link]),
            gaps: Per::new(|cause: GapCause| count(table::GAPS, &[link, cause.as_str()])),
            buffer_records: zero(table::BUFFER_RECORDS, &[link]),
            buffer_bytes: zero(table::BUFFER_BYTES, &[link]),
            load_items: count(table::LOAD_ITEMS, &[link]),
            load_bytes: count(table::LOAD_BYTES, &[link]),
            load_expected_bytes: unknown(table::LOAD_EXPECTED_BYTES, &[link]),
            load_segments: unknown(table::LOAD_SEGMENTS, &[link]),
            load_segments_done: unknown(table::LOAD_SEGMENTS_DONE, &[link]),
            load_start: unknown(table::LOAD_START, &[link]),
            load_end: unknown(table::LOAD_END, &[link]),
            requests: Per::new(|side| Per::new(|operation| request_handles(recorder, link, side, operation))),
            capacity: Per::new(|side: Side| {
                Per::new(|kind: CapacityKind| zero(table::CAPACITY, &[link, side.as_str(), kind.as_str()]))
            }),
            rate_limit: Per::new(|side: Side| {
                Per::new(|kind: CapacityKind| unknown(table::RATE_LIMIT, &[link, side.as_str(), kind.as_str()]))
            }),
            throttled: Per::new(|reason: ThrottleReason| zero(table::THROTTLED, &[link, reason.as_str()])),
            dead_letters: count(table::DEAD_LETTERS, &[link]),
            in_doubt: zero(table::IN_DOUBT, &[link]),
            checkpoint_writes: Per::new(|result: WriteResult| {
                count(table::CHECKPOINT_WRITES, &[link, result.as_str()])
            }),
            lease_held: zero(table::LEASE_HELD, &[link]),
            verify_differences: Per::new(|kind: DifferenceKind| {
                Per::new(|state: DifferenceState| {
                    unknown(table::VERIFY_DIFFERENCES, &[link, kind.as_str(), state.as_str()])
                })
            }),
            verify_compared: count(table::VERIFY_COMPARED, &[link]),
            verify_last_success: unknown(table::VERIFY_LAST_SUCCESS, &[link]),
            clock_skew: Per::new(|side: Side| unknown(table::CLOCK_SKEW, &[link, side.as_str()])),
            credentials_expiry: Per::new(|side: Side| unknown(table::CREDENTIALS_EXPIRY, &[link, side.as_str()])),
        }
    }

    /// The handles of an operation; those of `other` when it was not expected on this side.
    fn request(&self, side: Side, operation: Operation) -> &RequestHandles {
        let side = self.requests.of(side);
        let found = side.of(operation).as_ref().or_else(|| side.of(Operation::Other).as_ref());
        found.expect("every side has handles for other operations")
    }
}

fn request_handles(
    recorder: &PrometheusRecorder,
    link: &str,
    side: Side,
    operation: Operation,
) -> Option<RequestHandles> {
    let (side_name, op) = (side.as_str(), operation.as_str());
    operation.sides().contains(&side).then(|| RequestHandles {
        results: Per::new(|result: RequestResult| {
            counter(recorder, table::REQUESTS, &[link, side_name, op, result.as_str()])
        }),
        duration: histogram(recorder, table::REQUEST_DURATION, &[side_name, op]),
    })
}

/// The gauges of `process_*`.
struct ProcessGauges {
    cpu: Gauge,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start: Gauge,
}

impl ProcessGauges {
    fn new(recorder: &PrometheusRecorder) -> Self {
        let gauge = |doc| gauge(recorder, doc, &[]);
        Self {
            cpu: gauge(table::PROCESS_CPU),
            resident: gauge(table::PROCESS_RESIDENT),
            virtual_memory: gauge(table::PROCESS_VIRTUAL),
            open_fds: gauge(table::PROCESS_OPEN_FDS),
            max_fds: gauge(table::PROCESS_MAX_FDS),
            threads: gauge(table::PROCESS_THREADS),
            start: gauge(table::PROCESS_START),
        }
    }

    fn set(&self, sample: &ProcessSample) {
        self.cpu.set(sample.cpu_seconds.unwrap_or(f64::NAN));
        self.resident.set(sample.resident_bytes.unwrap_or(f64::NAN));
        self.virtual_memory.set(sample.virtual_bytes.unwrap_or(f64::NAN));
        self.open_fds.set(sample.open_fds.unwrap_or(f64::NAN));
        self.max_fds.set(sample.max_fds.unwrap_or(f64::NAN));
        self.threads.set(sample.threads.unwrap_or(f64::NAN));
        self.start.set(sample.start_seconds.unwrap_or(f64::NAN));
    }
}

fn set_time(gauge: &Gauge, time: Option<WallTime>) {
    gauge.set(time.map_or(f64::NAN, WallTime::as_secs_f64));
}

fn key(doc: MetricDoc, values: &[&str]) -> Key {
    debug_assert_eq!(doc.labels.len(), values.len(), "{} has other labels", doc.name);
    let labels = doc.labels.iter().zip(values).map(|(&name, &value)| metrics::Label::new(name, value.to_owned()));
    Key::from_parts(doc.name, labels.collect::<Vec<_>>())
}

fn counter(recorder: &PrometheusRecorder, doc: MetricDoc, values: &[&str]) -> Counter {
    debug_assert_eq!(doc.kind, MetricKind::Counter);
    recorder.register_counter(&key(doc, values), &METADATA)
}

/// A gauge, or a counter of fractions (the exporter's counters are whole; the type that is shown comes from the table).
fn gauge(recorder: &PrometheusRecorder, doc: MetricDoc, values: &[&str]) -> Gauge {
    debug_assert_ne!(doc.kind, MetricKind::Histogram);
    recorder.register_gauge(&key(doc, values), &METADATA)
}

fn histogram(recorder: &PrometheusRecorder, doc: MetricDoc, values: &[&str]) -> Histogram {
    debug_assert_eq!(doc.kind, MetricKind::Histogram);
    recorder.register_histogram(&key(doc, values), &METADATA)
}

/// Puts the exporter's lines into the table's order, without the unknown, under the table's headings.
fn arrange(exported: &str) -> String {
    let mut families: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let samples = exported.lines().filter(|line| !line.is_empty() && !line.starts_with('#') && !line.ends_with(" NaN"));
    for line in samples {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        families.entry(name).or_default().push(line);
    }
    let mut text = String::with_capacity(exported.len());
    for MetricDoc { name, kind, help, .. } in METRICS {
        let mut lines: Vec<&str> = match kind {
            MetricKind::Counter | MetricKind::Gauge => families.remove(name).unwrap_or_default(),
            MetricKind::Histogram => ["_bucket", "_sum", "_count"]
                .into_iter()
                .flat_map(|suffix| families.remove(format!("{name}{suffix}").as_str()).unwrap_or_default())
                .collect(),
        };
        if lines.is_empty() {
            continue;
        }
        // Stable: the buckets of one series stay in their order, and before its sum and its count.
        lines.sort_by_key(|line| series(line));
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str()).expect("text grows without errors");
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
    }
    debug_assert!(families.is_empty(), "recorded without a place in the table: {:?}", families.keys());
    text
}

/// The labels of a sample without the bucket's bound, which the exporter puts last.
fn series(line: &str) -> &str {
    let labels = line.split_once('{').map_or("", |(_, rest)| rest);
    let labels = labels.rsplit_once('}').map_or(labels, |(labels, _)| labels);
    labels.rsplit_once("le=\"").map_or(labels, |(rest, _)| rest.trim_end_matches(','))
}
