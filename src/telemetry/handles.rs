//! The handles behind the recording functions: made once for each link, one for each value of each label.

use std::marker::PhantomData;

use metrics::{Counter, Gauge, Histogram, Key, Level, Metadata, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::labels::{
    AppliedOp, CapacityKind, DifferenceKind, DifferenceState, GapCause, Label, Mode, Operation, Phase, RecordStage,
    RequestResult, ShardState, Side, Stage, Takeover, ThrottleReason, WriteResult,
};
use super::metrics::LinkIdentity;
use super::process::ProcessSample;
use super::table::{self, MetricDoc, MetricKind};

const METADATA: Metadata<'static> = Metadata::new("dynaferry", Level::INFO, None);

/// One handle for each value of a label.
pub(super) struct Per<L, H> {
    handles: Box<[H]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, H> Per<L, H> {
    fn new(make: impl FnMut(L) -> H) -> Self {
        Self { handles: L::ALL.iter().copied().map(make).collect(), label: PhantomData }
    }

    pub(super) fn of(&self, value: L) -> &H {
        self.handles.get(value.index()).expect("each value has its handle")
    }
}

/// The counters and the histogram of one operation on one side.
pub(super) struct RequestHandles {
    pub(super) results: Per<RequestResult, Counter>,
    pub(super) duration: Histogram,
}

/// The handles that count a link's calls, or those to the table of the state, which is all links'.
pub(super) struct CallHandles(Per<Side, Per<Operation, Option<RequestHandles>>>);

impl CallHandles {
    pub(super) fn of_link(recorder: &PrometheusRecorder, link: &str) -> Self {
        Self::new(recorder, link, |side| side != Side::Checkpoint)
    }

    pub(super) fn of_state(recorder: &PrometheusRecorder) -> Self {
        Self::new(recorder, "", |side| side == Side::Checkpoint)
    }

    fn new(recorder: &PrometheusRecorder, link: &str, has: impl Fn(Side) -> bool) -> Self {
        let handles = |side, operation| has(side).then(|| request_handles(recorder, link, side, operation)).flatten();
        Self(Per::new(|side| Per::new(|operation| handles(side, operation))))
    }

    /// The handles of an operation; those of `other` when it was not expected on this side; none on a side that is not
    /// these calls'.
    pub(super) fn of(&self, side: Side, operation: Operation) -> Option<&RequestHandles> {
        let side = self.0.of(side);
        side.of(operation).as_ref().or_else(|| side.of(Operation::Other).as_ref())
    }
}

/// Every other handle of a link.
pub(super) struct Handles {
    pub(super) watermark: Per<Stage, Gauge>,
    pub(super) watermark_known: Gauge,
    pub(super) retention_deadline: Gauge,
    pub(super) phase: Per<Phase, Gauge>,
    pub(super) apply_delay: Per<AppliedOp, Histogram>,
    pub(super) stream_records: Per<RecordStage, Counter>,
    pub(super) stream_bytes: Per<RecordStage, Counter>,
    pub(super) shards: Per<ShardState, Gauge>,
    pub(super) shard_skew: Gauge,
    pub(super) discovery: Gauge,
    pub(super) gaps_open: Gauge,
    pub(super) gaps: Per<GapCause, Counter>,
    pub(super) buffer_records: Gauge,
    pub(super) buffer_bytes: Gauge,
    pub(super) load_items: Counter,
    pub(super) load_bytes: Counter,
    pub(super) load_expected_bytes: Gauge,
    pub(super) load_segments: Gauge,
    pub(super) load_segments_done: Gauge,
    pub(super) load_start: Gauge,
    pub(super) load_end: Gauge,
    pub(super) capacity: Per<Side, Per<CapacityKind, Gauge>>,
    pub(super) rate_limit: Per<Side, Per<CapacityKind, Gauge>>,
    pub(super) throttled: Per<ThrottleReason, Gauge>,
    pub(super) dead_lettered: Counter,
    pub(super) dead_letters: Gauge,
    pub(super) in_doubt: Gauge,
    pub(super) checkpoint_writes: Per<WriteResult, Counter>,
    pub(super) lease_held: Gauge,
    pub(super) takeovers: Per<Takeover, Counter>,
    pub(super) verify_differences: Per<DifferenceKind, Per<DifferenceState, Gauge>>,
    pub(super) verify_compared: Counter,
    pub(super) verify_last_success: Gauge,
    pub(super) clock_skew: Per<Side, Gauge>,
    pub(super) credentials_expiry: Per<Side, Gauge>,
}

impl Handles {
    pub(super) fn new(recorder: &PrometheusRecorder, identity: &LinkIdentity, mode: Mode) -> Self {
        link_info(recorder, identity, mode).set(1.0);
        Self::with(recorder, identity, mode, &|doc, labels| gauge(recorder, doc, labels))
    }

    /// Counters and histograms of the link, and gauges that nobody sees.
    pub(super) fn of_part(recorder: &PrometheusRecorder, identity: &LinkIdentity, mode: Mode) -> Self {
        let handles = Self::with(recorder, identity, mode, &|_, _| Gauge::noop());
        let (link, of) = (identity.link.as_str(), |doc, labels: &[&str]| gauge(recorder, doc, labels));
        // It counts, though in fractions.
        let capacity = Per::new(|side: Side| {
            Per::new(|kind: CapacityKind| of(table::CAPACITY, &[link, side.as_str(), kind.as_str()]))
        });
        Self { capacity, ..handles }
    }

    fn with(
        recorder: &PrometheusRecorder,
        identity: &LinkIdentity,
        mode: Mode,
        gauge: &dyn Fn(MetricDoc, &[&str]) -> Gauge,
    ) -> Self {
        let (link, mode) = (identity.link.as_str(), mode.as_str());
        let count = |doc, labels: &[&str]| counter(recorder, doc, labels);
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
            capacity: Per::new(|side: Side| {
                Per::new(|kind: CapacityKind| zero(table::CAPACITY, &[link, side.as_str(), kind.as_str()]))
            }),
            rate_limit: Per::new(|side: Side| {
                Per::new(|kind: CapacityKind| unknown(table::RATE_LIMIT, &[link, side.as_str(), kind.as_str()]))
            }),
            throttled: Per::new(|reason: ThrottleReason| zero(table::THROTTLED, &[link, reason.as_str()])),
            dead_lettered: count(table::DEAD_LETTERED, &[link]),
            dead_letters: unknown(table::DEAD_LETTERS, &[link]),
            in_doubt: zero(table::IN_DOUBT, &[link]),
            checkpoint_writes: Per::new(|result: WriteResult| {
                count(table::CHECKPOINT_WRITES, &[link, result.as_str()])
            }),
            lease_held: zero(table::LEASE_HELD, &[link]),
            takeovers: Per::new(|kind: Takeover| count(table::TAKEOVERS, &[link, kind.as_str()])),
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
}

/// Says what a link joins.
pub(super) fn link_info(recorder: &PrometheusRecorder, identity: &LinkIdentity, mode: Mode) -> Gauge {
    let LinkIdentity { link, source_account, source_region, source_table, target_account, target_region, target_table } =
        identity;
    let ends = [source_account, source_region, source_table, target_account, target_region, target_table];
    let mut values = vec![link.as_str(), mode.as_str()];
    values.extend(ends.map(String::as_str));
    gauge(recorder, table::LINK_INFO, &values)
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
pub(super) struct ProcessGauges {
    cpu: Gauge,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start: Gauge,
}

impl ProcessGauges {
    pub(super) fn new(recorder: &PrometheusRecorder) -> Self {
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

    pub(super) fn set(&self, sample: &ProcessSample) {
        self.cpu.set(sample.cpu_seconds.unwrap_or(f64::NAN));
        self.resident.set(sample.resident_bytes.unwrap_or(f64::NAN));
        self.virtual_memory.set(sample.virtual_bytes.unwrap_or(f64::NAN));
        self.open_fds.set(sample.open_fds.unwrap_or(f64::NAN));
        self.max_fds.set(sample.max_fds.unwrap_or(f64::NAN));
        self.threads.set(sample.threads.unwrap_or(f64::NAN));
        self.start.set(sample.start_seconds.unwrap_or(f64::NAN));
    }
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
pub(super) fn gauge(recorder: &PrometheusRecorder, doc: MetricDoc, values: &[&str]) -> Gauge {
    debug_assert_ne!(doc.kind, MetricKind::Histogram);
    recorder.register_gauge(&key(doc, values), &METADATA)
}

fn histogram(recorder: &PrometheusRecorder, doc: MetricDoc, values: &[&str]) -> Histogram {
    debug_assert_eq!(doc.kind, MetricKind::Histogram);
    recorder.register_histogram(&key(doc, values), &METADATA)
}
