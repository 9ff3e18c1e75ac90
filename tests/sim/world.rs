//! The place of a run: two accounts in a sandbox, the state that outlives processes, and the court that watches both.

use std::sync::Arc;
use std::time::Duration;

use dynaferry::checkpoint::MemoryStore;
use dynaferry::config::Config;
use dynaferry::context::Context;
use dynaferry::context::WallClock as _;
use dynaferry::model::WallTime;
use dynaferry::runtime::Program;
use dynaferry::sandbox::{FaultRule, Faults, Options, Sandbox};
use dynaferry::telemetry::Mode;

use crate::accounts;
pub(crate) use crate::accounts::{REGION, SOURCE, TARGET};
use crate::clocks::{Drift, ProcessClock, WorldClock};
use crate::gate::Gate;
use crate::judge::{Clerk, Court, Limits};
use crate::plan::{ImportPlan, Plan};
use crate::state::{ProcessStore, StateTrouble};
use crate::trace::Trace;
use crate::workload::EXPIRY;

pub(crate) const TABLE: &str = "orders";
pub(crate) const COPY: &str = "orders-copy";
pub(crate) const LINK: &str = "orders";
const BUCKET: &str = "exports";
/// The program refuses one that is 23 hours old; a start takes its time.
const EXPORT_IS_OLD: Duration = Duration::from_secs(20 * 3600);
/// The table of the workers' state, where there are several.
pub(crate) const STATE: &str = "dynaferry-state";

/// A link and its tables.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) link: String,
    pub(crate) table: String,
    pub(crate) copy: String,
}

/// Everything around the process.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) sandbox: Sandbox,
    pub(crate) clock: Arc<WorldClock>,
    pub(crate) court: Court,
    pub(crate) trouble: Arc<StateTrouble>,
    store: Arc<MemoryStore>,
    lives: u64,
    /// What the load is made from, where it is no scan, and since when it is there.
    export: Option<(String, WallTime)>,
    exports_fail_until: Option<WallTime>,
    imports_fail_until: Option<WallTime>,
}

impl World {
    /// The world of a plan, with the source table in it.
    pub(crate) fn new(plan: Plan, trace: Trace) -> Self {
        let clock = WorldClock::start();
        let options = plan.world();
        let sandbox = accounts::sandbox(Options { clock: Arc::clone(&clock) as _, ..options.clone() });
        let limits = Limits {
            records: plan.settings.look_ahead_records as usize,
            bytes: plan.look_ahead_bytes(),
            page_records: options.max_page_records,
            // One record is a page, whatever its size: both images of an item of 400 KB.
            page_bytes: options.max_page_bytes.max(1 << 20),
        };
        let store = Arc::new(MemoryStore::new());
        let court = Court::new(limits, Arc::clone(&store), trace);
        court.judge().truth.records_have_images = plan.view().contains("NEW");
        let watched = court.clone();
        sandbox.set_event_observer(Some(Arc::new(move |event| watched.judge().event(event))));
        let watched = court.clone();
        sandbox.set_observer(Some(Arc::new(move |exchange| watched.judge().exchange(exchange))));
        let trouble = StateTrouble::new(plan.seed ^ 0x57a7e);
        let mut world = Self {
            plan,
            sandbox,
            clock,
            court,
            trouble,
            store,
            lives: 0,
            export: None,
            exports_fail_until: None,
            imports_fail_until: None,
        };
        world.let_import();
        assert!(world.create_source(), "an empty world takes a table");
        world
    }

    /// What was exported is imported, as the plan says.
    fn let_import(&mut self) {
        let Some(ImportPlan { takes, fail_for, leaves, rejects }) = self.plan.import() else { return };
        let fails = (!fail_for.is_zero()).then_some(leaves);
        self.sandbox.change_options(|options| {
            (options.import_takes, options.imports_fail, options.import_reject_chance) = (takes, fails, rejects);
        });
        self.imports_fail_until = (!fail_for.is_zero()).then_some(WallTime::from_millis(i64::MAX));
    }

    /// The bucket; the target may read it, where it imports.
    fn create_bucket(&self) {
        self.sandbox.create_bucket(SOURCE, REGION, BUCKET);
        self.sandbox.let_into_bucket(BUCKET, TARGET, self.plan.import().is_some());
    }

    /// The operator knows that nobody else writes what was imported, however long ago that was.
    fn method(&self) -> &'static str {
        match self.plan.import() {
            Some(_) => "load.method = \"import\"\ntarget.exclusive = true",
            None => "load.method = \"export\"",
        }
    }

    /// The operator deletes what a failed import has left, as the message says.
    pub(crate) fn clear_target(&self) {
        let target = format!(r#"{{"TableName":"{COPY}"}}"#);
        drop(self.sandbox.call(TARGET, REGION, "DeleteTable", &target));
    }

    /// The link makes an export itself, which takes so long, and fails while that is younger than this.
    pub(crate) fn let_export(&mut self, takes: Duration, fail_for: Duration) {
        self.create_bucket();
        let fails = !fail_for.is_zero();
        self.sandbox.change_options(|options| (options.export_takes, options.exports_fail) = (takes, fails));
        self.exports_fail_until = Some(self.clock.now().plus(fail_for));
        self.let_export_to("first");
    }

    /// The link makes an export itself, to this place: to another one than before, another export.
    pub(crate) fn let_export_to(&mut self, prefix: &str) {
        let own = format!(
            "{}\nload.bucket = \"{BUCKET}\"\nload.prefix = \"{prefix}\"\nload.enable_pitr = true\n",
            self.method()
        );
        self.export = Some((own, WallTime::from_millis(i64::MAX)));
        self.court.judge().expects_own_export();
        self.court.judge().forget_imports();
    }

    /// What was changed in a window is exported in so long, or not at all.
    pub(crate) fn let_windows(&self, take: Duration, fail: bool) {
        self.sandbox.change_options(|options| (options.windows_take, options.windows_fail) = (Some(take), fail));
    }

    /// An operator switches point-in-time recovery off, and on again.
    pub(crate) fn switch_recovery(&self) {
        for on in [false, true] {
            let body = format!(
                r#"{{"TableName":"{TABLE}","PointInTimeRecoverySpecification":{{"PointInTimeRecoveryEnabled":{on}}}}}"#
            );
            drop(self.sandbox.call(SOURCE, REGION, "UpdateContinuousBackups", &body));
        }
    }

    /// Whatever kept exports from being written is mended, when its time has come.
    pub(crate) fn mend_exports(&mut self) {
        let now = self.clock.now();
        if self.exports_fail_until.take_if(|until| *until <= now).is_some() {
            self.sandbox.change_options(|options| options.exports_fail = false);
        }
        // They fail for so long from when the first one was begun.
        if let Some(ImportPlan { takes, fail_for, .. }) = self.plan.import()
            && self.imports_fail_until == Some(WallTime::from_millis(i64::MAX))
            && self.court.judge().has_imported()
        {
            self.imports_fail_until = Some(now.plus(takes + fail_for));
        }
        if self.imports_fail_until.take_if(|until| *until <= now).is_some() {
            self.sandbox.change_options(|options| options.imports_fail = None);
        }
    }

    /// Exports the source table, as it is now, for the link to begin with.
    pub(crate) fn export(&mut self) {
        self.create_bucket();
        let on = format!(
            r#"{{"TableName":"{TABLE}","PointInTimeRecoverySpecification":{{"PointInTimeRecoveryEnabled":true}}}}"#
        );
        let arn = format!("arn:aws:dynamodb:{REGION}:{SOURCE}:table/{TABLE}");
        let asked = format!(r#"{{"TableArn":"{arn}","S3Bucket":"{BUCKET}"}}"#);
        let call = |operation, body: &str| self.sandbox.call(SOURCE, REGION, operation, body).expect("an export");
        drop(call("UpdateContinuousBackups", &on));
        drop(call("ExportTableToPointInTime", &asked));
        let objects = self.sandbox.objects(BUCKET);
        let summary = objects.keys().find(|key| key.ends_with("summary.json")).expect("a summary");
        let from = format!(
            "{}\nload.bucket_owner = \"{SOURCE}\"\nload.from_export = \"s3://{BUCKET}/{summary}\"\n",
            self.method()
        );
        self.export = Some((from, self.clock.now()));
        self.court.judge().source_was_exported(self.clock.now());
        self.court.judge().forget_imports();
    }

    /// The operator makes another export, where no link has begun with the one that is there and it grows old.
    pub(crate) fn renew_export(&mut self) {
        let is_old = |(_, at): &(String, WallTime)| self.clock.now().since(*at) > EXPORT_IS_OLD;
        let is_begun_with = self.court.judge().has_link() || self.court.judge().has_import();
        if self.export.as_ref().is_some_and(is_old) && !is_begun_with {
            self.export();
        }
    }

    /// All links, the first of which is the one that checkers know.
    pub(crate) fn links(&self) -> Vec<Names> {
        let more = (2..=self.plan.num_links()).map(|n| {
            let table = format!("{TABLE}-{n}");
            Names { link: format!("{LINK}-{n}"), copy: format!("{table}-copy"), table }
        });
        let first = Names { link: LINK.to_owned(), table: TABLE.to_owned(), copy: COPY.to_owned() };
        std::iter::once(first).chain(more).collect()
    }

    /// Makes the source table, unless one is still there.
    pub(crate) fn create_source(&self) -> bool {
        self.create_table(TABLE)
    }

    /// Makes a source table of this name.
    pub(crate) fn create_table(&self, name: &str) -> bool {
        let mut definition = self.plan.shape.definition(self.plan.view());
        definition["TableName"] = name.into();
        let definition = definition.to_string();
        if self.sandbox.call(SOURCE, REGION, "CreateTable", &definition).is_err() {
            return false;
        }
        if self.plan.has_knob("ttl.delete") {
            let on = format!(r#"{{"Enabled":true,"AttributeName":"{EXPIRY}"}}"#);
            let body = format!(r#"{{"TableName":"{name}","TimeToLiveSpecification":{on}}}"#);
            drop(self.sandbox.call(SOURCE, REGION, "UpdateTimeToLive", &body));
        }
        true
    }

    /// The operator begins anew: no state, no target.
    pub(crate) fn begin_anew(&mut self) {
        self.store = Arc::new(MemoryStore::new());
        let target = format!(r#"{{"TableName":"{COPY}"}}"#);
        drop(self.sandbox.call(TARGET, REGION, "DeleteTable", &target));
        let all_landed = self.clock.now().plus(self.plan.settings.in_doubt_for);
        self.court.judge().state_dropped(Arc::clone(&self.store), all_landed);
    }

    pub(crate) fn store(&self) -> &Arc<MemoryStore> {
        &self.store
    }

    pub(crate) fn set_faults(&self, rules: Vec<FaultRule>) {
        self.sandbox.set_faults(Faults::new(rules));
    }

    fn config(&self) -> Config {
        let (settings, export) = (self.plan.config_of_link(), self.export.as_ref().map_or("", |(line, _)| line));
        let links = self.links().into_iter().map(|Names { link, table, copy }| {
            format!(
                "[link.{link}]\nsource.table = \"{table}\"\ntarget.table = \"{copy}\"\ntarget.create = true\n{export}{settings}"
            )
        });
        accounts::config(&format!("{}{}", links.collect::<String>(), self.plan.config()))
    }

    fn next_context(&mut self, drift: Drift) -> Context {
        self.lives += 1;
        let clock = Arc::new(ProcessClock { world: Arc::clone(&self.clock), drift });
        Context::new(clock, fastrand::Rng::with_seed(self.plan.seed.wrapping_mul(31).wrapping_add(self.lives)))
    }

    /// A new process, behind this gate, which keeps its state in a table with others.
    pub(crate) fn worker(&mut self, gate: &Arc<Gate>, drift: Drift) -> (Arc<Program>, String) {
        let (context, http) = (self.next_context(drift), gate.http_client(&self.sandbox));
        let name = context.worker().to_owned();
        (Arc::new(accounts::program(self.config(), context, Mode::Service, http)), name)
    }

    /// A new process, behind this gate.
    pub(crate) fn program(&mut self, gate: &Arc<Gate>, drift: Drift) -> Arc<Program> {
        let context = self.next_context(drift);
        let store = ProcessStore {
            memory: Arc::clone(&self.store),
            gate: Arc::clone(gate),
            trouble: Arc::clone(&self.trouble),
            observer: Arc::new(Clerk {
                court: self.court.clone(),
                clock: Arc::clone(&self.clock),
                sandbox: self.sandbox.clone(),
            }),
        };
        let http = gate.http_client(&self.sandbox);
        Arc::new(accounts::program(self.config(), context, Mode::Service, http).with_store(Arc::new(store)))
    }
}
