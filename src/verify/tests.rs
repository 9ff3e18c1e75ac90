//! Two tables in memory that are compared while everything goes wrong that may.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::*;
use crate::context::WallClock;
use crate::decode::{KeyCodec, LoadedItem, ScanPage};
use crate::error::Fault;
use crate::load::ScanRequest;
use crate::model::{
    Billing, CanonicalKey, Key, KeyAttribute, KeyKind, KeySchema, RawItem, TableDescription, TableStatus, WallTime,
};

const LATENCY: Duration = Duration::from_millis(2);
const NOW: i64 = 1_763_640_000;

struct Clock(Instant);

impl WallClock for Clock {
    fn now(&self) -> WallTime {
        WallTime::from_secs(NOW).plus(self.0.elapsed())
    }
}

fn context() -> Context {
    Context::new(Arc::new(Clock(Instant::now())), fastrand::Rng::with_seed(7))
}

fn schema() -> KeySchema {
    KeySchema { hash: KeyAttribute { name: "pk".into(), kind: KeyKind::N }, range: None }
}

fn key(n: u32) -> Key {
    KeyCodec::new(&schema()).key(format!(r#"{{"pk":{{"N":"{n}"}}}}"#).into()).unwrap()
}

fn image(n: u32, rest: &str) -> RawItem {
    RawItem::new(format!(r#"{{"pk":{{"N":"{n}"}},{rest}}}"#).into())
}

fn version(n: u32, version: u64) -> RawItem {
    image(n, &format!(r#""v":{{"N":"{version}"}}"#))
}

/// A table in memory.
struct Table {
    items: Mutex<BTreeMap<CanonicalKey, (Key, RawItem)>>,
    /// Decides the order of its scans and which segment a key is in.
    order: u64,
    page_items: usize,
    /// How its first calls fail.
    failures: Mutex<Vec<Failure>>,
    schema: KeySchema,
    gets: AtomicUsize,
}

impl Table {
    fn new(order: u64, items: impl IntoIterator<Item = (u32, RawItem)>) -> Arc<Self> {
        let table = Self {
            items: Mutex::default(),
            order,
            page_items: 7,
            failures: Mutex::default(),
            schema: schema(),
            gets: AtomicUsize::new(0),
        };
        items.into_iter().for_each(|(n, item)| table.put(n, Some(item)));
        Arc::new(table)
    }

    fn numbered(order: u64, numbers: std::ops::Range<u32>) -> Arc<Self> {
        Self::new(order, numbers.map(|n| (n, version(n, 0))))
    }

    fn put(&self, n: u32, item: Option<RawItem>) {
        self.set(key(n), item);
    }

    fn set(&self, key: Key, item: Option<RawItem>) {
        let mut items = self.items.lock().unwrap();
        match item {
            Some(item) => drop(items.insert(key.canonical.clone(), (key, item))),
            None => drop(items.remove(&key.canonical)),
        }
    }

    fn item(&self, key: &Key) -> Option<RawItem> {
        self.items.lock().unwrap().get(&key.canonical).map(|(_, item)| item.clone())
    }

    fn contents(&self) -> Vec<(CanonicalKey, RawItem)> {
        self.items.lock().unwrap().iter().map(|(key, (_, item))| (key.clone(), item.clone())).collect()
    }

    fn place(&self, key: &CanonicalKey) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.order, key).hash(&mut hasher);
        hasher.finish()
    }

    fn page(&self, request: &ScanRequest) -> ScanPage {
        let codec = KeyCodec::new(&self.schema);
        let after = request.start.clone().map(|start| self.place(&codec.key(start).unwrap().canonical));
        let mut rest: Vec<_> = self
            .items
            .lock()
            .unwrap()
            .values()
            .map(|(key, item)| (self.place(&key.canonical), key.clone(), item.clone()))
            .filter(|(place, ..)| place % u64::from(request.total_segments) == u64::from(request.segment))
            .filter(|(place, ..)| after.is_none_or(|after| *place > after))
            .collect();
        rest.sort_by_key(|(place, ..)| *place);
        let size = self.page_items.min(request.limit.unwrap_or(u32::MAX) as usize);
        let is_last = rest.len() <= size;
        rest.truncate(size);
        let last_key = if is_last { None } else { rest.last().map(|(_, key, _)| key.json.clone()) };
        let consumed_units = Some(rest.len() as f64);
        let items = rest.into_iter().map(|(_, key, image)| LoadedItem { key, image }).collect();
        ScanPage { items, last_key, consumed_units }
    }

    async fn fail_or_pass(&self) -> Result<(), Failure> {
        tokio::time::sleep(LATENCY).await;
        self.failures.lock().unwrap().pop().map_or(Ok(()), Err)
    }
}

impl TableReader for Table {
    fn describe(&self) -> BoxFuture<'_, Result<TableDescription, Failure>> {
        let description = TableDescription {
            arn: "arn:aws:dynamodb:eu-west-1:111122223333:table/orders".parse().unwrap(),
            id: "id".into(),
            status: TableStatus::Active,
            keys: self.schema.clone(),
            attributes: Vec::new(),
            item_count: 0,
            size_bytes: 0,
            billing: Billing::Provisioned { read: 1, write: 1 },
            global_indexes: Vec::new(),
            local_indexes: Vec::new(),
            stream: None,
            table_class: None,
            encryption: None,
            deletion_protection: false,
            not_copied: Vec::new(),
        };
        async move { Ok(description) }.boxed()
    }

    fn scan<'a>(&'a self, request: &'a ScanRequest) -> BoxFuture<'a, Result<ScanPage, Failure>> {
        async move {
            self.fail_or_pass().await?;
            Ok(self.page(request))
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<RawItem>, Failure>> {
        async move {
            self.fail_or_pass().await?;
            self.gets.fetch_add(1, Ordering::Relaxed);
            Ok(self.item(key))
        }
        .boxed()
    }
}

/// Copies keys from source to target, or only says so.
struct Copier {
    source: Arc<Table>,
    target: Arc<Table>,
    works: bool,
    synced: Mutex<Vec<Key>>,
}

impl Copier {
    fn new(source: &Arc<Table>, target: &Arc<Table>) -> Arc<Self> {
        Arc::new(Self { source: Arc::clone(source), target: Arc::clone(target), works: true, synced: Mutex::default() })
    }
}

impl Repairer for Copier {
    fn sync<'a>(&'a self, keys: Vec<Key>) -> BoxFuture<'a, Result<(), RepairError>> {
        async move {
            tokio::time::sleep(LATENCY).await;
            for key in keys.into_iter().filter(|_| self.works) {
                self.target.set(key.clone(), self.source.item(&key));
                self.synced.lock().unwrap().push(key);
            }
            Ok(())
        }
        .boxed()
    }
}

/// A report that the test can read.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn parsed(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn job(source: &Arc<Table>, target: &Arc<Table>) -> VerifyJob {
    VerifyJob {
        source: Arc::clone(source) as _,
        target: Arc::clone(target) as _,
        settings: VerifySettings { segments: 3, concurrency: 2, ..VerifySettings::default() },
        context: context(),
        settle: Settle::After(Duration::from_secs(3)),
        repairer: None,
        report: None,
        progress: None,
    }
}

fn counts(missing: u64, extra: u64, different: u64) -> KindCounts {
    KindCounts { missing, extra, different }
}

/// Differences of each kind: 5 missing, 3 extra, 2 different, among 200.
fn differing(source_order: u64, target_order: u64) -> (Arc<Table>, Arc<Table>) {
    let (source, target) = (Table::numbered(source_order, 0..200), Table::numbered(target_order, 5..203));
    target.put(50, Some(version(50, 1)));
    target.put(51, Some(image(51, r#""v":{"S":"0"}"#)));
    (source, target)
}

#[tokio::test(start_paused = true)]
async fn finds_every_difference_of_every_kind_and_no_other() {
    let (source, target) = differing(1, 1);
    let lines = Lines::default();
    let report = run(VerifyJob { report: Some(Box::new(lines.clone())), ..job(&source, &target) }).await.unwrap();
    assert_eq!(report.differences.confirmed, counts(5, 3, 2));
    assert_eq!(report.differences.pending, counts(0, 0, 0));
    assert_eq!((report.source_items, report.target_items, report.compared), (200, 198, 203));
    assert!(!report.is_identical() && report.complete);
    assert_eq!(lines.parsed().len(), 10);
    let missing = lines.parsed().into_iter().find(|line| line["key"]["pk"]["N"] == "3").unwrap();
    assert_eq!((&missing["kind"], &missing["state"]), (&"missing".into(), &"confirmed".into()));
    assert!(missing["first_seen"].as_str().unwrap().starts_with("2025-11-20T12:00:0"));
    assert!(!lines.text().contains(r#""v""#), "no item contents unless asked for");
}

#[tokio::test(start_paused = true)]
async fn equal_tables_are_identical_and_cost_two_scans() {
    let (source, target) = (Table::numbered(1, 0..500), Table::numbered(1, 0..500));
    let report = run(job(&source, &target)).await.unwrap();
    assert!(report.is_identical());
    assert_eq!((source.gets.load(Ordering::Relaxed), target.gets.load(Ordering::Relaxed)), (0, 0));
    assert_eq!((report.compared, report.source_units, report.target_units), (500, 500.0, 500.0));
}

#[tokio::test(start_paused = true)]
async fn the_order_of_the_scans_and_the_memory_bound_change_no_verdict() {
    for (order, max_waiting, concurrency) in [(1, 0, 1), (1, 10, 3), (2, 0, 2), (2, 25, 1), (3, 1000, 3)] {
        let (source, target) = differing(1, order);
        let mut job = job(&source, &target);
        job.settings.max_waiting = max_waiting;
        job.settings.max_suspects = 16;
        job.settings.concurrency = concurrency;
        let report = run(job).await.unwrap();
        assert_eq!(report.differences.confirmed, counts(5, 3, 2), "order {order} bound {max_waiting}");
        assert_eq!((report.source_items + report.target_items, report.compared), (398, 203));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_stays_bounded_when_the_orders_have_nothing_in_common() {
    let (source, target) = (Table::numbered(1, 0..3000), Table::numbered(2, 0..3000));
    let settings = VerifySettings { segments: 4, concurrency: 2, ..VerifySettings::default() };
    let sides = open_sides(source, target, &context(), &settings).await.unwrap();
    let limits = CompareLimits { segments: 4, concurrency: 2, max_waiting: 100, max_found: 10 };
    let mut compare = Compare::new(sides.0, sides.1, context(), limits);
    let mut candidates = 0;
    loop {
        while compare.pop().is_some() {
            candidates += 1;
        }
        compare.launch();
        if compare.is_idle() {
            break;
        }
        // Not taking candidates must stop the reading, not fill the memory.
        while !compare.is_idle() {
            compare.step().await.unwrap();
            compare.launch();
            assert!(compare.held() <= 100 + 10 + 2 * 2 * 7 * 2, "{} held", compare.held());
        }
    }
    assert_eq!(compare.counts().source_items, 3000);
    assert!(candidates > 1000);
}

#[tokio::test(start_paused = true)]
async fn tables_in_the_same_order_keep_few_waiting_even_where_one_lacks_much() {
    let (source, target) = (Table::numbered(1, 0..3000), Table::numbered(1, 0..200));
    let mut job = job(&source, &target);
    job.settings.max_waiting = 100_000;
    let report = run(job).await.unwrap();
    assert_eq!(report.differences.confirmed, counts(2800, 0, 0));
    assert!(target.gets.load(Ordering::Relaxed) <= 2800 * 3);
}

/// Writes to the source as users do, and brings each write to the target a lag later, in order.
async fn replicate(source: Arc<Table>, target: Arc<Table>, keys: std::ops::Range<u32>, lag: Duration) {
    let mut random = fastrand::Rng::with_seed(11);
    let mut on_the_way = std::collections::VecDeque::new();
    for number in 1u64.. {
        let n = random.u32(keys.clone());
        let item = (random.u8(..) > 60).then(|| version(n, number));
        source.put(n, item.clone());
        on_the_way.push_back((Instant::now() + lag, n, item));
        while let Some((due, n, item)) = on_the_way.front().filter(|(due, ..)| *due <= Instant::now()).cloned() {
            target.put(n, item);
            on_the_way.pop_front();
            assert!(due <= Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..8))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn writes_on_their_way_are_never_confirmed_and_real_differences_are() {
    let (source, target) = differing(1, 1);
    let lag = Duration::from_millis(900);
    let mut job = job(&source, &target);
    job.settle = Settle::After(lag * 2);
    let live = replicate(Arc::clone(&source), Arc::clone(&target), 100..200, lag);
    let report = tokio::select! {
        report = run(job) => report.unwrap(),
        () = live => unreachable!("writes without end"),
    };
    assert_eq!(report.differences.confirmed, counts(5, 3, 2));
    assert!(report.settled > 0, "some were suspected");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_never_rests_is_pending_and_not_identical() {
    let (source, target) = (Table::numbered(1, 0..20), Table::numbered(1, 0..20));
    let writes = async {
        for number in 1u64.. {
            source.put(3, Some(version(3, number)));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let lines = Lines::default();
    let job = VerifyJob { report: Some(Box::new(lines.clone())), ..job(&source, &target) };
    let report = tokio::select! {
        biased;
        () = writes => unreachable!("writes without end"),
        report = run(job) => report.unwrap(),
    };
    assert_eq!((report.differences.pending, report.differences.confirmed), (counts(0, 0, 1), counts(0, 0, 0)));
    assert!(!report.is_identical());
    assert_eq!(lines.parsed()[0]["state"], "pending");
}

/// An item goes back and forth every second, and the settling time is a multiple of that.
#[tokio::test(start_paused = true)]
async fn a_writer_with_the_period_of_the_looks_is_not_taken_for_a_difference() {
    let (source, target) = (Table::numbered(1, 0..20), Table::numbered(1, 0..20));
    let writes = async {
        for number in 1u64.. {
            source.put(3, Some(version(3, number % 2)));
            tokio::time::sleep(Duration::from_millis(100)).await;
            target.put(3, Some(version(3, number % 2)));
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
    };
    let mut job = job(&source, &target);
    job.settle = Settle::After(Duration::from_secs(4) - LATENCY);
    let report = tokio::select! {
        biased;
        () = writes => unreachable!("writes without end"),
        report = run(job) => report.unwrap(),
    };
    assert!(report.settled == 1 && report.is_identical());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_confirmed_before_the_stream_has_passed() {
    let (source, target) = (Table::numbered(1, 0..20), Table::numbered(1, 0..20));
    source.put(3, Some(version(3, 9)));
    let (waits, late) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&target));
    let counted = Arc::clone(&waits);
    let passed = move || {
        let (late, nth) = (Arc::clone(&late), counted.fetch_add(1, Ordering::Relaxed));
        async move {
            tokio::time::sleep(Duration::from_secs(100)).await;
            if nth == 0 {
                late.put(3, Some(version(3, 9)));
            }
        }
        .boxed()
    };
    let report = run(VerifyJob { settle: Settle::Until(Arc::new(passed)), ..job(&source, &target) }).await.unwrap();
    assert!(report.is_identical() && report.settled == 1);
    assert_eq!(waits.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn spellings_of_one_value_are_equal() {
    let source = [(1, image(1, r#""n":{"N":"1"},"s":{"SS":["a","b"]}"#)), (2, image(2, r#""n":{"N":"1.0"}"#))];
    let target = [
        (1, RawItem::new(r#"{"s":{"SS":["b","a"]},"n":{"N":"1.0"},"pk":{"N":"1E0"}}"#.into())),
        (2, image(2, r#""aws:rep:updatetime":{"N":"5"},"n":{"N":"1E0"}"#)),
    ];
    assert!(run(job(&Table::new(1, source), &Table::new(1, target))).await.unwrap().is_identical());
}

fn failure(fault: Fault, throttled: bool) -> Failure {
    Failure {
        operation: "Scan",
        fault,
        throttled,
        may_have_happened: false,
        timed_out: false,
        code: None,
        message: "no".into(),
        request_id: None,
    }
}

#[tokio::test(start_paused = true)]
async fn throttles_and_faults_that_pass_change_nothing() {
    let (source, target) = differing(1, 1);
    *source.failures.lock().unwrap() = (0..30).map(|n| failure(Fault::Transient, n % 2 == 0)).collect();
    *target.failures.lock().unwrap() = (0..10).map(|_| failure(Fault::Transient, true)).collect();
    let report = run(job(&source, &target)).await.unwrap();
    assert_eq!(report.differences.confirmed, counts(5, 3, 2));
    assert_eq!((report.source_items, report.target_items), (200, 198));
}

#[tokio::test(start_paused = true)]
async fn a_lasting_refusal_ends_it_and_names_the_side() {
    let (source, target) = differing(1, 1);
    // What is not found is asked for a few times: a table that is being changed may be there in a moment.
    target.failures.lock().unwrap().extend((0..1000).map(|_| failure(Fault::Lost, false)));
    let error = run(job(&source, &target)).await.unwrap_err();
    assert!(matches!(error, VerifyError::Read { side: Side::Target, .. }));
    target.failures.lock().unwrap().clear();
    target.put(9, Some(image(9, r#""v":{"X":"?"}"#)));
    let error = run(job(&source, &target)).await.unwrap_err();
    assert!(matches!(error, VerifyError::Item { side: Side::Target, .. }));
    assert!(!crate::error::chain(&error).contains('?'), "no contents in errors");
}

#[tokio::test(start_paused = true)]
async fn tables_with_other_keys_are_not_compared() {
    let target =
        Table { schema: KeySchema { range: Some(schema().hash), ..schema() }, ..take(Table::numbered(1, 0..1)) };
    let error = run(job(&Table::numbered(1, 0..1), &Arc::new(target))).await.unwrap_err();
    assert!(matches!(error, VerifyError::Keys));
}

fn take(table: Arc<Table>) -> Table {
    Arc::into_inner(table).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_read_rate_is_kept_on_both_sides() {
    let (source, target) = (Table::numbered(1, 0..2000), Table::numbered(1, 0..2000));
    let mut job = job(&source, &target);
    (job.settings.source_rate, job.settings.target_rate) = (Some(100.0), Some(50.0));
    let report = run(job).await.unwrap();
    assert!(report.is_identical());
    assert!(report.duration_seconds >= 2000.0 / 50.0 - 2.0, "{}", report.duration_seconds);
    assert!(report.duration_seconds < 60.0, "{}", report.duration_seconds);
}

#[tokio::test(start_paused = true)]
async fn differences_are_repaired_and_looked_at_again() {
    let (source, target) = differing(1, 1);
    let (copier, lines) = (Copier::new(&source, &target), Lines::default());
    let mut job = VerifyJob { repairer: Some(Arc::clone(&copier) as _), ..job(&source, &target) };
    job.report = Some(Box::new(lines.clone()));
    job.settings.owns_target = true;
    job.settings.show_values = true;
    let report = run(job).await.unwrap();
    assert_eq!((report.differences.repaired, report.differences.confirmed), (counts(5, 3, 2), counts(0, 0, 0)));
    assert!(report.is_identical());
    assert_eq!(source.contents(), target.contents());
    assert_eq!(lines.parsed().iter().filter(|line| line["state"] == "repaired").count(), 10);
    let different = lines.parsed().into_iter().find(|line| line["key"]["pk"]["N"] == "50").unwrap();
    assert_eq!((&different["source"]["v"]["N"], &different["target"]["v"]["N"]), (&"0".into(), &"1".into()));
}

#[tokio::test(start_paused = true)]
async fn what_only_the_target_has_is_not_deleted_where_others_write_it() {
    let (source, target) = differing(1, 1);
    let copier = Copier::new(&source, &target);
    let report = run(VerifyJob { repairer: Some(Arc::clone(&copier) as _), ..job(&source, &target) }).await.unwrap();
    assert_eq!((report.differences.repaired, report.differences.confirmed), (counts(5, 0, 2), counts(0, 3, 0)));
    assert!(!report.is_identical());
    assert!(target.item(&key(201)).is_some());
    assert!(copier.synced.lock().unwrap().iter().all(|synced| *synced != key(201)));
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_does_not_help_leaves_the_difference_confirmed() {
    let (source, target) = differing(1, 1);
    let copier = Arc::new(Copier { works: false, ..Arc::into_inner(Copier::new(&source, &target)).unwrap() });
    let report = run(VerifyJob { repairer: Some(copier), ..job(&source, &target) }).await.unwrap();
    assert_eq!((report.differences.repaired, report.differences.confirmed), (counts(0, 0, 0), counts(5, 3, 2)));
}

#[tokio::test(start_paused = true)]
async fn stops_at_a_number_of_differences_and_says_that_it_is_not_complete() {
    let (source, target) = (Table::numbered(1, 0..2000), Table::numbered(1, 0..0));
    let mut job = job(&source, &target);
    job.settings.stop_after = Some(10);
    job.settings.max_suspects = 20;
    let report = run(job).await.unwrap();
    assert!(!report.complete && !report.is_identical());
    assert!((10..100).contains(&report.differences.confirmed.missing));
}

#[tokio::test(start_paused = true)]
async fn expired_items_are_compared_and_counted_apart() {
    let ttl = |n: u32, at: i64| (n, image(n, &format!(r#""ttl":{{"N":"{at}"}}"#)));
    let items = [ttl(1, NOW - 10), ttl(2, NOW - 10), ttl(3, NOW + 1_000_000), ttl(4, 5), ttl(5, NOW + 1_000_000)];
    let source = Table::new(1, items.clone());
    let target = Table::new(1, items.into_iter().filter(|(n, _)| *n != 1 && *n != 5));
    let mut job = job(&source, &target);
    job.settings.ttl_attribute = Some("ttl".into());
    let report = run(job).await.unwrap();
    assert_eq!((report.source_expired, report.target_expired), (2, 1));
    assert_eq!((report.differences.confirmed, report.expired_differences), (counts(2, 0, 0), 1));
}

#[tokio::test(start_paused = true)]
async fn progress_ends_at_what_the_report_says() {
    let (source, target) = differing(1, 1);
    let last = Arc::new(Mutex::new(VerifyProgress::default()));
    let seen = Arc::clone(&last);
    let progress = Box::new(move |progress: &VerifyProgress| *seen.lock().unwrap() = *progress);
    let report = run(VerifyJob { progress: Some(progress), ..job(&source, &target) }).await.unwrap();
    let last = *last.lock().unwrap();
    assert_eq!((last.segments_done, last.segments, last.suspects), (3, 3, 0));
    assert_eq!((last.source_items, last.differences), (report.source_items, report.differences));
}

fn heal_job(source: &Arc<Table>, target: &Arc<Table>, copier: &Arc<Copier>, owns_target: bool) -> HealJob {
    HealJob {
        source: Arc::clone(source) as _,
        target: Arc::clone(target) as _,
        settings: VerifySettings { segments: 3, owns_target, max_waiting: 50, ..VerifySettings::default() },
        context: context(),
        repairer: Arc::clone(copier) as _,
        report: None,
        progress: None,
    }
}

#[tokio::test(start_paused = true)]
async fn one_healing_pass_makes_the_tables_equal_whatever_their_orders() {
    for order in [1, 2] {
        let (source, target) = differing(1, order);
        let copier = Copier::new(&source, &target);
        let report = heal(heal_job(&source, &target, &copier, true)).await.unwrap();
        assert_eq!(source.contents(), target.contents());
        assert_eq!((report.synced, report.left_extra), (10, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn healing_heals_under_live_writes() {
    let (source, target) = differing(1, 1);
    let copier = Copier::new(&source, &target);
    let live = replicate(Arc::clone(&source), Arc::clone(&target), 100..200, Duration::from_millis(300));
    let healed = tokio::select! {
        report = heal(heal_job(&source, &target, &copier, true)) => report.unwrap(),
        () = live => unreachable!("writes without end"),
    };
    assert!(healed.synced >= 10);
    let quiet = |table: &Table| (0..100).chain(200..203).map(|n| table.item(&key(n))).collect::<Vec<_>>();
    assert_eq!(quiet(&source), quiet(&target));
}

#[tokio::test(start_paused = true)]
async fn healing_leaves_and_reports_what_only_a_shared_target_has() {
    let (source, target) = differing(1, 1);
    let (copier, lines) = (Copier::new(&source, &target), Lines::default());
    let job = HealJob { report: Some(Box::new(lines.clone())), ..heal_job(&source, &target, &copier, false) };
    let report = heal(job).await.unwrap();
    assert_eq!((report.synced, report.left_extra), (7, 3));
    assert!(target.item(&key(200)).is_some());
    assert!(lines.parsed().len() == 3 && lines.parsed().iter().all(|line| line["kind"] == "extra"));
}

#[tokio::test(start_paused = true)]
async fn both_may_run_on_any_thread() {
    fn sends<F: Future + Send>(future: F) -> F {
        future
    }
    let (source, target) = (Table::numbered(1, 0..9), Table::numbered(1, 0..9));
    assert!(sends(run(job(&source, &target))).await.unwrap().is_identical());
    let copier = Copier::new(&source, &target);
    assert_eq!(sends(heal(heal_job(&source, &target, &copier, true))).await.unwrap().synced, 0);
}
