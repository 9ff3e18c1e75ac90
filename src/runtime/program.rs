//! What a command runs: all links of a configuration, in one process.
//!
//! The links, what they share, and the service (`run`) are here; each other command has a file of its own.

mod dead_letters;
mod migrate;
mod status;
mod verify;
mod verifying;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::fleet::{Fleet, LinkMark, Pulse, PulseSetup, Roster, WorkerReport};
use super::link::{Link, LinkSlots, Shared, state_observer};
use super::prepare::patiently;
use crate::aws::{AccessKey, Account, Clients, Side};
use crate::checkpoint::lease::LeaseTimes;
use crate::checkpoint::table::StateTable;
use crate::checkpoint::{FileStore, MemoryStore, Pulses, StateStore, dynamodb};
use crate::config::{Config, DEFAULT_ATTEMPT_TIMEOUT, LinkConfig, PatternLink, Store, check_targets, suggest_link};
use crate::context::Context;
use crate::error::{Error, Exit, Result, chain};
use crate::http::Heartbeats;
use crate::telemetry::{Metrics, Mode};

pub use dead_letters::{DeadLetter, RetryReport};
pub use migrate::MigrateReport;
pub use verify::VerifyOptions;
use verifying::Verifying;

/// One attempt at the state table: its items are small, and a late checkpoint is worth more than a slow one.
const STATE_TIMEOUT: Duration = Duration::from_secs(3);
/// First and longest wait before a failed link is opened again, where there are others. What ran longer than the longest
/// wait was well meanwhile, and its next failure is a first one.
const LINK_AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Of how many links it is told with each sign of life why they failed, and how many characters of it: a worker may have a
/// thousand links that fail together, and all that it tells is one item of the state table, of 400 KB at most.
const MOST_FAILED: usize = 50;
/// See [`MOST_FAILED`].
const MOST_SAID: usize = 300;

/// How often it is looked whether new tables match a pattern.
const TABLES_AGAIN: Duration = Duration::from_secs(300);

/// Where the links' state is, and who shares it.
struct State {
    store: Arc<dyn StateStore>,
    /// `None`: nobody else.
    fleet: Option<Fleet>,
}

impl State {
    /// No link is worked on any more.
    async fn close(self) {
        if let Some(fleet) = self.fleet {
            fleet.stop().await;
        }
    }
}

/// All links of a configuration, with everything that they need from outside.
pub struct Program {
    config: Config,
    context: Context,
    mode: Mode,
    http: Option<SharedHttpClient>,
    isolated: Option<AccessKey>,
    store: Option<Arc<dyn StateStore>>,
    metrics: Metrics,
    heartbeats: Heartbeats,
    slots: Mutex<BTreeMap<String, LinkSlots>>,
    verifying: Arc<Verifying>,
    /// Tables that match a pattern and that no link of this process copies, by pattern.
    not_copied: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

impl Program {
    /// A program over a valid configuration.
    #[must_use]
    pub fn new(config: Config, context: Context, mode: Mode) -> Self {
        Self {
            config,
            context,
            mode,
            http: None,
            isolated: None,
            store: None,
            metrics: Metrics::new(),
            heartbeats: Heartbeats::new(),
            slots: Mutex::default(),
            verifying: Arc::default(),
            not_copied: Mutex::default(),
        }
    }

    /// Talks through this HTTP client: the sandbox in the same process, or a simulation.
    #[must_use]
    pub fn with_http(mut self, http: SharedHttpClient) -> Self {
        self.http = Some(http);
        self
    }

    /// Starts from this access key alone, and reads no profile and no environment: for simulations.
    #[must_use]
    pub fn with_access_key(mut self, key: AccessKey) -> Self {
        self.isolated = Some(key);
        self
    }

    /// Keeps its state here, whatever the configuration names: for simulations.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn StateStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// The pulse of the worker loops.
    #[must_use]
    pub fn heartbeats(&self) -> Heartbeats {
        self.heartbeats.clone()
    }

    /// Runs every link until it is told to stop; then all drain.
    ///
    /// The fault of a single link ends the program, for whoever restarts it. Of several links, one that fails is opened
    /// again later, and the others go on: their streams do not wait.
    ///
    /// # Errors
    /// The link's fault.
    pub async fn run(self: &Arc<Self>, stop: CancellationToken) -> Result<()> {
        let links = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            links = Box::pin(self.links()) => links?,
        };
        let state = self.open_state().await?;
        let mut tasks = JoinSet::new();
        let stop_all = stop.child_token();
        let is_alone = links.len() == 1;
        for link in links {
            let (link, stop) = (self.link(link, &state), stop_all.clone());
            tasks.spawn(async move {
                if is_alone {
                    Box::pin(link.run(None, stop)).await
                } else {
                    Box::pin(run_among_others(&link, stop)).await
                }
            });
        }
        let mut outcome = Ok(());
        let mut watching = Box::pin(self.watch_patterns());
        loop {
            let ended = tokio::select! {
                biased;
                ended = tasks.join_next() => ended,
                () = &mut watching => continue,
            };
            let Some(ended) = ended else { break };
            let ended = ended.unwrap_or_else(|_| Err(Error::new(Exit::Unexpected, "a link's task panicked")));
            if let Err(error) = ended {
                stop_all.cancel();
                outcome = outcome.and(Err(error));
            }
        }
        state.close().await;
        outcome
    }

    /// Opens the state to work on links, and joins the workers that share it.
    async fn open_state(self: &Arc<Self>) -> Result<State> {
        let store = self.open_store(false).await?;
        let fleet = match store.leases() {
            None => None,
            Some(leases) => {
                let times = LeaseTimes { lease: self.config.checkpoint.lease };
                let balances = self.config.checkpoint.balance;
                let shares = self.config.checkpoint.sharing && self.mode == Mode::Service;
                let roster = Arc::new(Roster::new(self.context.clone(), times.lease, balances, shares));
                let pulse = Pulse::start(self.pulse_setup(times, Arc::clone(&roster)))?;
                Some(Fleet::new(leases, pulse, roster, times, self.context.clone()))
            }
        };
        Ok(State { store, fleet })
    }

    fn pulse_setup(self: &Arc<Self>, times: LeaseTimes, roster: Arc<Roster>) -> PulseSetup {
        let (program, reporter) = (Arc::clone(self), Arc::downgrade(self));
        let connect = async move {
            let table = program.state_table(times.attempt()).await?;
            let namespace = &program.config.checkpoint.namespace;
            Ok::<Arc<dyn Pulses>, Error>(dynamodb::pulses(table, namespace, program.context.clone()))
        };
        PulseSetup {
            connect: Box::pin(connect),
            context: self.context.clone(),
            times,
            report: Arc::new(move || reporter.upgrade().map(|program| program.report()).unwrap_or_default()),
            roster,
            metrics: self.metrics.clone(),
            apart: self.http.is_none(),
        }
    }

    /// What this worker says of the links that it holds, and of those that failed under it.
    fn report(&self) -> WorkerReport {
        let mut slots = self.slots().clone();
        let of_parts: Vec<_> = slots.values().flat_map(|slots| slots.parts().clone()).collect();
        slots.extend(of_parts);
        let failed = slots.iter().filter_map(|(name, slots)| Some((name.clone(), shortened(slots.trouble()?))));
        let failed = failed.take(MOST_FAILED).collect();
        let held = slots.iter().filter_map(|(name, slots)| Some((name.clone(), slots.board()?)));
        let links = held.map(|(name, board)| (name, LinkMark::of(&board.snapshot())));
        let is_command = self.mode == Mode::Oneshot;
        WorkerReport { links: links.collect(), failed, is_command, ..WorkerReport::default() }
    }

    /// Opens the state, and makes it where there is none; `only_look`: nothing is made. A table must be there then; a file
    /// that is not there holds nothing.
    async fn open_store(&self, only_look: bool) -> Result<Arc<dyn StateStore>> {
        if let Some(store) = &self.store {
            return Ok(Arc::clone(store));
        }
        match &self.config.checkpoint.store {
            Store::File(path) if only_look => match FileStore::open_existing(path)? {
                Some(store) => Ok(Arc::new(store)),
                None => Ok(Arc::new(MemoryStore::new())),
            },
            Store::File(path) => Ok(Arc::new(FileStore::open(path)?)),
            Store::DynamoDb(_) => self.open_table(!only_look).await,
        }
    }

    async fn state_table(&self, attempt_timeout: Duration) -> Result<Arc<dyn StateTable>> {
        let Store::DynamoDb(name) = &self.config.checkpoint.store else {
            return Err(Error::bug("the state is in no table"));
        };
        let side = self.config.state_side().cloned().unwrap_or_default();
        let observer = Some(state_observer(self.metrics.state_calls()));
        let clients = Clients { observer, ..self.clients_with(attempt_timeout) };
        let account = Account::connect(&side, Side::Target, &clients).await?;
        Ok(Arc::new(account.state_table(name)))
    }

    async fn open_table(&self, create: bool) -> Result<Arc<dyn StateStore>> {
        let table = self.state_table(STATE_TIMEOUT).await?;
        let namespace = &self.config.checkpoint.namespace;
        let (store, task) = dynamodb::open(table, namespace, self.context.clone(), create).await?;
        #[expect(clippy::disallowed_methods, reason = "its handle is the store's: the last one aborts it")]
        let task = tokio::spawn(task.run());
        Ok(Arc::new(store.kept_by(AbortOnDropHandle::new(task))))
    }

    fn clients(&self, link: &LinkConfig) -> Clients {
        self.clients_with(link.apply.attempt_timeout)
    }

    fn clients_with(&self, attempt_timeout: Duration) -> Clients {
        let (http, isolated) = (self.http.clone(), self.isolated.clone());
        Clients { http, isolated, ..Clients::new(self.context.clone(), attempt_timeout) }
    }

    fn link(&self, config: LinkConfig, state: &State) -> Link {
        let slots = LinkSlots::new(config.stream.on_gap);
        self.slots().insert(config.name.clone(), slots.clone());
        let shared = Shared {
            context: self.context.clone(),
            clients: self.clients(&config),
            store: Arc::clone(&state.store),
            fleet: state.fleet.clone(),
            checkpoint: self.config.checkpoint.clone(),
            drain: self.config.service.drain,
            metrics: self.metrics.clone(),
            heartbeats: self.heartbeats.clone(),
            mode: self.mode,
        };
        let link = Link { config, shared, slots, skew: Arc::default(), part: None, sharing: Arc::default() };
        link.announce();
        link
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, LinkSlots>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All links, those of patterns written out.
    async fn links(&self) -> Result<Vec<LinkConfig>> {
        let mut links = self.config.links.clone();
        for pattern in &self.config.patterns {
            let names = if pattern.needs_listing() { self.list_tables(pattern).await? } else { Vec::new() };
            links.extend(pattern.expand(&names)?);
        }
        check_targets(&links)?;
        Ok(links)
    }

    async fn list_tables(&self, pattern: &PatternLink) -> Result<Vec<String>> {
        let clients = self.clients_with(DEFAULT_ATTEMPT_TIMEOUT);
        let account = Account::connect(pattern.source(), Side::Source, &clients).await?;
        patiently(&self.context, || account.list_tables()).await.map_err(|failure| {
            Error::new(Exit::Precondition, format!("list the source's tables for [link.{}]", pattern.name()))
                .hint("allow dynamodb:ListTables to the source's identity, or name the tables")
                .because(failure)
        })
    }

    /// Looks for tables that match a pattern since the links were begun: a running process does not take them on, and says
    /// so. Never ends.
    async fn watch_patterns(&self) {
        let wild: Vec<&PatternLink> = self.config.patterns.iter().filter(|pattern| pattern.needs_listing()).collect();
        if wild.is_empty() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(TABLES_AGAIN).await;
            for pattern in &wild {
                match self.list_tables(pattern).await.and_then(|names| pattern.expand(&names)) {
                    Ok(links) => self.note_tables(pattern, &links),
                    Err(error) => tracing::warn!(
                        pattern = pattern.name(),
                        error = chain(&error),
                        "whether new tables match the pattern is not known"
                    ),
                }
            }
        }
    }

    /// Remembers which of a pattern's tables no link of this process copies.
    fn note_tables(&self, pattern: &PatternLink, links: &[LinkConfig]) {
        let slots = self.slots();
        let new =
            links.iter().filter(|link| !slots.contains_key(&link.name)).map(|link| link.source_table.name().to_owned());
        let new: BTreeSet<String> = new.collect();
        drop(slots);
        let mut not_copied = self.not_copied.lock().unwrap_or_else(PoisonError::into_inner);
        let known = not_copied.insert(pattern.name().to_owned(), new.clone()).unwrap_or_default();
        for table in new.difference(&known) {
            tracing::warn!(
                pattern = pattern.name(),
                table,
                "a new table matches the pattern: it is copied from the next start on"
            );
        }
    }

    async fn chosen(&self, names: &[String]) -> Result<Vec<LinkConfig>> {
        let links = self.links().await?;
        if let Some(unknown) = names.iter().find(|name| links.iter().all(|link| link.name != **name)) {
            let error = Error::new(Exit::Usage, format!("there is no link `{unknown}`"));
            return Err(match suggest_link(&self.config, unknown) {
                Some(known) => error.hint(format!("did you mean `{known}`?")),
                None => error,
            });
        }
        Ok(links.into_iter().filter(|link| names.is_empty() || names.contains(&link.name)).collect())
    }
}

/// The beginning of a text that every sign of life carries.
fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MOST_SAID) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Opens a link again and again, until it is told to stop; not after a bug, which would strike again.
async fn run_among_others(link: &Link, stop: CancellationToken) -> Result<()> {
    let mut wait = LINK_AGAIN.0;
    loop {
        let began = Instant::now();
        let Err(error) = Box::pin(link.run(None, stop.clone())).await else { return Ok(()) };
        if error.is_bug() {
            // The others go on; this link waits for a new process, and its fault is what the process exits with.
            tracing::error!(link = link.config.name, error = chain(&error), "the link stays stopped");
            stop.cancelled().await;
            return Err(error);
        }
        tracing::error!(
            link = link.config.name,
            error = chain(&error),
            hint = error.hint,
            "the link failed, it is opened again later"
        );
        wait = if began.elapsed() > LINK_AGAIN.1 { LINK_AGAIN.0 } else { wait };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LINK_AGAIN.1);
    }
}
