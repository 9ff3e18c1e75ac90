//! Recording and rendering. With `handles`, the only place that touches the metrics crates.
//!
//! A [`Metrics`] owns its recorder (none is installed for the process, so that two programs in one test do not mix).
//! A [`LinkMetrics`] holds handles made once: recording is an atomic operation, without a look-up or an allocation.
//! A gauge that holds NaN is not known and is left out of the text.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::exposition::arrange;
use super::handles::{CallHandles, Handles, ProcessGauges, gauge, link_info};
use super::labels::{
    AppliedOp, CapacityKind, DifferenceKind, DifferenceState, GapCause, Label, Mode, Operation, Phase, RecordStage,
    RequestResult, ShardState, Side, Stage, Takeover, ThrottleReason, WriteResult,
};
use super::lag::Watermarks;
use super::process::ProcessSample;
use super::table::{self, MetricDoc};
use crate::model::WallTime;

/// Bounds of the apply delay: from a quiet link's poll interval to half an hour of backlog.
const DELAY_BUCKETS: &[f64] = &[0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];
/// Bounds of request durations: DynamoDB answers within single milliseconds, our time-outs are some tens of seconds.
const REQUEST_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Histogram samples are kept until they are counted; this many at most when nobody scrapes.
const MAX_PENDING_SAMPLES: u64 = 8192;

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
    workers: Gauge,
    /// What each link is said to join.
    joined: Mutex<BTreeMap<String, LinkIdentity>>,
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
        let workers = gauge(&recorder, table::WORKERS, &[]);
        workers.set(f64::NAN);
        let handle = recorder.handle();
        let (pending_samples, joined) = (AtomicU64::new(0), Mutex::default());
        Self { inner: Arc::new(Inner { recorder, handle, pending_samples, process, workers, joined }) }
    }

    /// The metrics of a link: its counters exist from here on, at 0, and its unknown gauges do not.
    ///
    /// May be called again for the same link, as after a restart of it: counters go on where they were.
    #[must_use]
    pub fn link(&self, identity: &LinkIdentity, mode: Mode) -> LinkMetrics {
        // Those of its calls exist, too, whoever counts them.
        drop(self.calls(&identity.link));
        let joined = self
            .inner
            .joined
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(identity.link.clone(), identity.clone());
        // More is known now than at first: a link joins the same at any time, and has one series that says so.
        if let Some(before) = joined.filter(|before| before != identity) {
            link_info(&self.inner.recorder, &before, mode).set(f64::NAN);
        }
        LinkMetrics { handles: Arc::new(Handles::new(&self.inner.recorder, identity, mode)), metrics: self.clone() }
    }

    /// The metrics of one of several parts of a link that this process works on: it counts where the link counts. What a
    /// gauge tells is of the whole link, so a part has none.
    #[must_use]
    pub fn part(&self, identity: &LinkIdentity, mode: Mode) -> LinkMetrics {
        LinkMetrics { handles: Arc::new(Handles::of_part(&self.inner.recorder, identity, mode)), metrics: self.clone() }
    }

    /// How many workers share the state, this one counted.
    pub fn workers(&self, num_workers: usize) {
        self.inner.workers.set(num_workers as f64);
    }

    /// A link is about to be opened for the first time: from here on it is seen, whether it can be opened or not.
    pub fn opens(&self, identity: &LinkIdentity, mode: Mode) {
        self.link(identity, mode).phase(Phase::Starting);
    }

    /// Another worker has this link now.
    pub fn stands_by(&self, link: &str) {
        self.idle(link, Phase::Standby);
    }

    /// This process has this link, and works on it, or looks around before it does.
    pub fn holds(&self, link: &str) {
        gauge(&self.inner.recorder, table::LEASE_HELD, &[link]).set(1.0);
    }

    /// This link could not be opened, or stopped: nothing is copied until it is opened again.
    pub fn failed(&self, link: &str) {
        self.idle(link, Phase::Failed);
    }

    /// Nobody works here on this link.
    fn idle(&self, link: &str, now_in: Phase) {
        for &phase in Phase::ALL {
            let is_so = f64::from(u8::from(phase == now_in));
            gauge(&self.inner.recorder, table::PHASE, &[link, phase.as_str()]).set(is_so);
        }
        gauge(&self.inner.recorder, table::LEASE_HELD, &[link]).set(0.0);
    }

    /// What counts the calls of a link, from its first one on: nothing need be known of its tables.
    #[must_use]
    pub fn calls(&self, link: &str) -> CallMetrics {
        CallMetrics { handles: Arc::new(CallHandles::of_link(&self.inner.recorder, link)), metrics: self.clone() }
    }

    /// What counts the calls to the table of the state.
    #[must_use]
    pub fn state_calls(&self) -> CallMetrics {
        CallMetrics { handles: Arc::new(CallHandles::of_state(&self.inner.recorder)), metrics: self.clone() }
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

    fn sampled(&self, num_samples: u64) {
        let before = self.inner.pending_samples.fetch_add(num_samples, Ordering::Relaxed);
        if before < MAX_PENDING_SAMPLES && before + num_samples >= MAX_PENDING_SAMPLES {
            self.upkeep();
        }
    }
}

/// The metrics of a link's calls. Cheap to clone.
#[derive(Clone)]
pub struct CallMetrics {
    handles: Arc<CallHandles>,
    metrics: Metrics,
}

impl std::fmt::Debug for CallMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallMetrics").finish_non_exhaustive()
    }
}

impl CallMetrics {
    /// One attempt of a request ended.
    pub fn ended(&self, side: Side, operation: Operation, result: RequestResult, took: Duration) {
        let Some(handles) = self.handles.of(side, operation) else { return };
        handles.results.of(result).increment(1);
        handles.duration.record(took.as_secs_f64());
        self.metrics.sampled(1);
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

    /// All three at once, as [`super::lag::LinkLag::watermarks`] has them.
    pub fn watermarks(&self, watermarks: Watermarks) {
        for &stage in Stage::ALL {
            self.watermark(stage, watermarks.of(stage));
        }
    }

    /// When the oldest change that is not durably applied leaves the stream.
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
        self.apply_delays(op, delay, 1);
    }

    /// So many records were acknowledged by the target this long after they were created.
    pub fn apply_delays(&self, op: AppliedOp, delay: Duration, num_records: u64) {
        let samples = usize::try_from(num_records).unwrap_or(usize::MAX);
        self.handles.apply_delay.of(op).record_many(delay.as_secs_f64(), samples);
        self.metrics.sampled(num_records);
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
    pub fn dead_lettered(&self, num_records: u64) {
        self.handles.dead_lettered.increment(num_records);
    }

    /// How many dead letters wait in the state; `None` while that is not known here.
    pub fn dead_letters(&self, num_letters: Option<u64>) {
        self.handles.dead_letters.set(num_letters.map_or(f64::NAN, |letters| letters as f64));
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

    /// The link was taken over from another worker.
    pub fn takeover(&self, kind: Takeover) {
        self.handles.takeovers.of(kind).increment(1);
    }

    /// This process does not work on the link any more: what only the one who does can know is not known here.
    pub fn left(&self) {
        self.lease_held(false);
        self.watermarks(Watermarks { read: None, applied: None, checkpointed: None });
        self.retention_deadline(None);
        self.shard_skew(None);
        set_time(&self.handles.discovery, None);
        self.gaps_open(0);
        self.dead_letters(None);
        self.in_doubt(0);
        self.buffered(0, 0);
        ShardState::ALL.iter().for_each(|&state| self.shards(state, 0));
        ThrottleReason::ALL.iter().for_each(|&reason| self.throttled(reason, false));
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

fn set_time(gauge: &Gauge, time: Option<WallTime>) {
    gauge.set(time.map_or(f64::NAN, WallTime::as_secs_f64));
}
