//! Two accounts in an embedded sandbox, and a program between them.
//!
//! A world is either real (system clock, state in a file) or virtual: the test's runtime is paused, the wall clock of
//! sandbox and program follows tokio's, and the state lives in memory, so days pass in milliseconds and nothing sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use dynaferry::checkpoint::rows::{GapRow, LinkRow};
use dynaferry::checkpoint::{LinkState, MemoryStore, StateStore};
use dynaferry::config::Config;
use dynaferry::context::{Context, WallClock};
use dynaferry::error::{Error, Exit};
use dynaferry::http::NotReady;
use dynaferry::model::WallTime;
use dynaferry::runtime::{MigrateReport, Program};
use dynaferry::sandbox::{FaultRule, Faults, Options, Sandbox};
use dynaferry::telemetry::status::LinkStatus;
use dynaferry::telemetry::{Mode, Phase};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::accounts;
pub(crate) use crate::accounts::{OURS, REGION, SOURCE, TARGET};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A source table with hash `pk` (S) and range `sk` (N), and its stream.
pub(crate) const ORDERS: &str = r#"{"TableName":"orders","BillingMode":"PAY_PER_REQUEST",
    "AttributeDefinitions":[{"AttributeName":"pk","AttributeType":"S"},{"AttributeName":"sk","AttributeType":"N"}],
    "KeySchema":[{"AttributeName":"pk","KeyType":"HASH"},{"AttributeName":"sk","KeyType":"RANGE"}],
    "StreamSpecification":{"StreamEnabled":true,"StreamViewType":"NEW_AND_OLD_IMAGES"}}"#;

/// Wall time that goes with tokio's clock, and may be set forward besides.
pub(crate) struct VirtualClock {
    started: tokio::time::Instant,
    ahead_millis: AtomicI64,
}

impl VirtualClock {
    /// Days go by at once. Deadlines of running tasks do not see it, as after a machine slept.
    pub(crate) fn skip(&self, time: Duration) {
        self.ahead_millis.fetch_add(i64::try_from(time.as_millis()).expect("a time"), Ordering::SeqCst);
    }
}

impl WallClock for VirtualClock {
    fn now(&self) -> WallTime {
        let ahead = self.ahead_millis.load(Ordering::SeqCst);
        WallTime::from_millis(1_800_000_000_000 + ahead).plus(self.started.elapsed())
    }
}

/// A clock that is off by so much.
struct Skewed(Arc<VirtualClock>, i64);

impl WallClock for Skewed {
    fn now(&self) -> WallTime {
        WallTime::from_millis(self.0.now().millis() + self.1)
    }
}

/// A sandbox, a place for state, and a source table `orders`.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) dir: TempDir,
    pub(crate) clock: Option<Arc<VirtualClock>>,
    pub(crate) store: Option<Arc<MemoryStore>>,
    seeds: AtomicU64,
}

impl World {
    /// A world on the system clock, its state in a file.
    pub(crate) fn new(options: Options) -> Self {
        let world = Self::empty(options, None);
        world.call(SOURCE, "CreateTable", ORDERS);
        world
    }

    /// A world on the paused runtime's clock, its state in memory.
    pub(crate) fn paused(options: Options) -> Self {
        Self::paused_with(options, ORDERS)
    }

    /// The same with another source table.
    pub(crate) fn paused_with(options: Options, table: &str) -> Self {
        let clock = Arc::new(VirtualClock { started: tokio::time::Instant::now(), ahead_millis: AtomicI64::new(0) });
        let options = Options { clock: Arc::clone(&clock) as _, ..options };
        let world = Self::empty(options, Some(clock));
        world.call(SOURCE, "CreateTable", table);
        world
    }

    fn empty(options: Options, clock: Option<Arc<VirtualClock>>) -> Self {
        let seeds = AtomicU64::new(options.seed << 32);
        let sandbox = accounts::sandbox(options);
        let store = clock.is_some().then(|| Arc::new(MemoryStore::new()));
        Self { sandbox, dir: TempDir::new().expect("a directory"), clock, store, seeds }
    }

    pub(crate) fn clock(&self) -> &Arc<VirtualClock> {
        self.clock.as_ref().expect("a virtual world")
    }

    pub(crate) fn call(&self, account: &str, operation: &str, json: &str) -> bytes::Bytes {
        self.sandbox.call(account, REGION, operation, json).expect(operation)
    }

    /// The answer of an operation, as JSON.
    pub(crate) fn ask(&self, account: &str, operation: &str, json: &str) -> serde_json::Value {
        serde_json::from_slice(&self.call(account, operation, json)).expect("JSON")
    }

    pub(crate) fn put(&self, pk: usize, sk: usize, text: &str) {
        self.put_at(SOURCE, "orders", pk, sk, text);
    }

    pub(crate) fn put_at(&self, account: &str, table: &str, pk: usize, sk: usize, text: &str) {
        let item = serde_json::json!({"pk": {"S": format!("p{pk}")}, "sk": {"N": sk.to_string()}, "v": {"S": text}});
        self.sandbox.put_item(account, REGION, table, &item.to_string()).expect("put");
    }

    pub(crate) fn put_json(&self, item: &serde_json::Value) {
        self.sandbox.put_item(SOURCE, REGION, "orders", &item.to_string()).expect("put");
    }

    pub(crate) fn delete(&self, pk: usize, sk: usize) {
        self.delete_at(SOURCE, "orders", pk, sk);
    }

    pub(crate) fn delete_at(&self, account: &str, table: &str, pk: usize, sk: usize) {
        let key = serde_json::json!({"TableName": table, "Key": {"pk": {"S": format!("p{pk}")}, "sk": {"N": sk.to_string()}}});
        self.call(account, "DeleteItem", &key.to_string());
    }

    /// Turns the source's stream on or off.
    pub(crate) fn set_stream(&self, on: bool) {
        let view = if on { r#","StreamViewType":"NEW_AND_OLD_IMAGES""# } else { "" };
        let body = format!(r#"{{"TableName":"orders","StreamSpecification":{{"StreamEnabled":{on}{view}}}}}"#);
        self.call(SOURCE, "UpdateTable", &body);
    }

    pub(crate) fn faults(&self, rules: Vec<FaultRule>) {
        self.sandbox.set_faults(Faults::new(rules));
    }

    pub(crate) fn no_faults(&self) {
        self.faults(Vec::new());
    }

    /// One link `orders` from account to account; `more` are further lines of it, or sections.
    pub(crate) fn config(&self, more: &str) -> Config {
        let unless = |key: &str, line: &'static str| if more.contains(key) { "" } else { line };
        let create = unless("target.create", "target.create = true");
        let source = unless("source.table", "source.table = \"orders\"");
        let target = unless("target.table", "target.table = \"orders-copy\"");
        let doubt = unless("in_doubt_for", "apply.in_doubt_for = \"2s\"");
        let file = format!("[checkpoint]\nstore = \"file:{}\"", self.dir.path().join("state.redb").display());
        let state = if more.contains("[checkpoint]") { "" } else { &file };
        accounts::config(&format!("{state}\n[link.orders]\n{source}\n{target}\n{create}\n{doubt}\n{more}"))
    }

    fn context(&self) -> Context {
        match &self.clock {
            Some(clock) => {
                let seed = self.seeds.fetch_add(1, Ordering::SeqCst);
                Context::new(Arc::clone(clock) as _, fastrand::Rng::with_seed(seed))
            }
            None => Context::system(),
        }
    }

    /// Of a host whose clock is ahead of AWS's by so many milliseconds.
    pub(crate) fn context_off_by(&self, millis: i64) -> Context {
        Context::new(Arc::new(Skewed(Arc::clone(self.clock()), millis)), fastrand::Rng::with_seed(1))
    }

    /// A new process.
    pub(crate) fn program(&self, config: Config, mode: Mode) -> Arc<Program> {
        self.program_in(config, mode, self.context())
    }

    pub(crate) fn program_in(&self, config: Config, mode: Mode, context: Context) -> Arc<Program> {
        let mut program = self.program_of(config, mode, context);
        if let Some(store) = &self.store {
            program = program.with_store(Arc::clone(store) as _);
        }
        Arc::new(program)
    }

    /// A new process with its state where its configuration says.
    pub(crate) fn program_by_config(&self, config: Config, mode: Mode) -> Arc<Program> {
        Arc::new(self.program_of(config, mode, self.context()))
    }

    /// The same, through an HTTP client of its own.
    pub(crate) fn program_through(&self, config: Config, mode: Mode, http: SharedHttpClient) -> Arc<Program> {
        Arc::new(self.program_of(config, mode, self.context()).with_http(http))
    }

    /// A new process with its state in another place.
    pub(crate) fn program_over(&self, config: Config, mode: Mode, store: Arc<dyn StateStore>) -> Arc<Program> {
        Arc::new(self.program_of(config, mode, self.context()).with_store(store))
    }

    fn program_of(&self, config: Config, mode: Mode, context: Context) -> Program {
        accounts::program(config, context, mode, self.sandbox.http_client())
    }

    /// Runs a migration to its end in a process of its own.
    pub(crate) async fn migrate(&self, more: &str) -> Result<Vec<MigrateReport>, Error> {
        self.program(self.config(more), Mode::Oneshot).migrate(CancellationToken::new()).await
    }

    /// Starts a service in a process of its own.
    pub(crate) fn serve(&self, more: &str) -> Process {
        Process::start(self.program(self.config(more), Mode::Service))
    }

    /// What the link remembers.
    pub(crate) async fn state(&self) -> LinkState {
        self.store.as_ref().expect("a virtual world").read("orders").await.expect("state")
    }

    pub(crate) async fn link_row(&self) -> LinkRow {
        self.state().await.link.expect("a link")
    }

    pub(crate) async fn gaps(&self) -> Vec<GapRow> {
        self.state().await.gaps
    }

    /// How many items differ, or are on one side alone.
    pub(crate) fn num_differences(&self) -> usize {
        let source = self.sandbox.snapshot(SOURCE, REGION, "orders").expect("source");
        let Ok(target) = self.sandbox.snapshot(TARGET, REGION, "orders-copy") else { return source.len().max(1) };
        let differing = source.iter().filter(|(key, item)| target.get(*key) != Some(item)).count();
        differing + target.keys().filter(|key| !source.contains_key(*key)).count()
    }

    /// Source and target hold the same items, bit for bit.
    pub(crate) fn assert_equal(&self) {
        let source = self.sandbox.snapshot(SOURCE, REGION, "orders").expect("source");
        let target = self.sandbox.snapshot(TARGET, REGION, "orders-copy").expect("target");
        let differing = source.iter().filter(|(key, item)| target.get(*key) != Some(item)).count();
        assert_eq!((source.len(), differing), (target.len(), 0), "items at the source, and how many of them differ");
    }
}

/// A service that runs in a task.
pub(crate) struct Process {
    pub(crate) program: Arc<Program>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Process {
    pub(crate) fn start(program: Arc<Program>) -> Self {
        let stop = CancellationToken::new();
        let (running, token) = (Arc::clone(&program), stop.clone());
        #[expect(clippy::disallowed_methods, reason = "a process of its own")]
        let task = tokio::spawn(async move {
            let ended = running.run(token).await;
            if let Err(error) = &ended {
                // Shown only by a test that fails.
                println!("the program ended: {}", dynaferry::error::chain(error));
            }
            ended
        });
        Self { program, stop, task }
    }

    /// SIGTERM, and its end.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        self.task.await.expect("no panic")
    }

    /// Waits until it ends by itself.
    pub(crate) async fn end(self) -> Result<(), Error> {
        tokio::time::timeout(HOUR, self.task).await.expect("it goes on for an hour").expect("no panic")
    }

    /// SIGKILL.
    pub(crate) async fn kill(self) {
        self.task.abort();
        if let Err(error) = self.task.await {
            assert!(error.is_cancelled(), "the program panicked: {error}");
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    pub(crate) fn status(&self) -> LinkStatus {
        let first = self.program.status_source().status().links.into_iter().next();
        first.unwrap_or_else(|| LinkStatus::new("orders", Phase::Starting))
    }

    pub(crate) fn why_not_ready(&self) -> Vec<NotReady> {
        self.program.status_source().readiness().into_iter().flat_map(|link| link.reasons).collect()
    }

    /// A counter or a gauge of the link, summed over the samples whose labels contain all of these.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.program, name, labels)
    }

    /// Waits until this holds. Panics after ten minutes, or when the process ended.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..6_000 {
            if holds() {
                return;
            }
            assert!(!self.has_ended(), "the program ended while waiting until {what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not within ten minutes: {what}; {:?}", self.status());
    }

    /// Waits until both tables are equal, no gap is open and no key in doubt.
    pub(crate) async fn until_equal(&self, world: &World) {
        self.until("both tables are equal", || {
            let status = self.status();
            world.num_differences() == 0 && status.gaps.is_empty() && status.in_doubt == 0
        })
        .await;
    }
}

pub(crate) fn metric(program: &Arc<Program>, name: &str, labels: &[&str]) -> f64 {
    let text = program.metrics().render();
    let of = |line: &&str| {
        let ends = line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '));
        ends && labels.iter().all(|label| line.contains(label))
    };
    let values = text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

/// The exit code of what should have failed, and its text.
pub(crate) fn failed<T: std::fmt::Debug>(result: Result<T, Error>) -> (Exit, String) {
    let error = result.expect_err("an error");
    (error.exit, dynaferry::error::chain(&error))
}
