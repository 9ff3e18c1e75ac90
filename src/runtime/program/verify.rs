//! `verify`: both tables of a link, compared and repaired, whether the link runs or not.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::migrate::{catch_up, let_doubts_end, tell_failed};
use super::verifying::Watching;
use super::{Program, State};
use crate::aws::{Clients, SendGuard};
use crate::checkpoint::StateStore;
use crate::checkpoint::rows::{DoubtRow, Fence};
use crate::config::LinkConfig;
use crate::context::Context;
use crate::error::{Error, Exit, Result, chain};
use crate::retry::Patience;
use crate::runtime::fleet::LinkGuard;
use crate::runtime::link::{
    Companion, Running, applied_until_now, by_aws, caught_up_within, keep_verified, link_span, verified_row,
    verify_settings,
};
use crate::runtime::prepare::{Accounts, Needs, prepare};
use crate::runtime::repair::{ApartRepairs, DirectRepairs, KeeperRepairs};
use crate::verify::{self, Settle, VerifyJob, VerifyReport};

/// How tables are compared by a command.
#[derive(Default)]
pub struct VerifyOptions {
    /// Whether confirmed differences are synced and looked at again.
    pub repair: bool,
    /// Whether the report shows both images, not the key alone.
    pub show_values: bool,
    /// Where the report goes, one JSON object per line.
    pub report: Option<Box<dyn Write + Send>>,
    /// The links to compare; empty: all.
    pub links: Vec<String>,
}

impl Program {
    /// As [`Program::verify_each`], for who has no use for a part of the reports.
    ///
    /// # Errors
    /// The first fault.
    pub async fn verify(
        self: &Arc<Self>,
        options: VerifyOptions,
        stop: CancellationToken,
    ) -> Result<Vec<(String, VerifyReport)>> {
        let outcomes = self.verify_each(options, stop).await?;
        outcomes.into_iter().map(|(link, ended)| Ok((link, ended?))).collect()
    }

    /// Compares both tables of each link. Repairs are made in the lanes of the link, which runs meanwhile; where it never ran,
    /// one by one, while the link is this process's: each key is listed in its state before, so that a link that runs
    /// later puts right what landed late. A link that fails does not keep the others from it: a side that cannot be read,
    /// with `repair` a link that another process holds (exit 6). After a stop the rest is left out.
    ///
    /// # Errors
    /// What keeps every link from it: the source's tables; with `repair`, state that another process holds (exit 6).
    pub async fn verify_each(
        self: &Arc<Self>,
        options: VerifyOptions,
        stop: CancellationToken,
    ) -> Result<Vec<(String, Result<VerifyReport>)>> {
        let links = self.chosen(&options.links).await?;
        let state = if options.repair { Some(self.open_state().await?) } else { None };
        let out = options.report.map(|out| SharedReport(Arc::new(Mutex::new(out))));
        let how = Report { show_values: options.show_values, out };
        let reports = self.verify_all(links, state.as_ref(), how, stop).await;
        if let Some(state) = state {
            state.close().await;
        }
        Ok(reports)
    }

    async fn verify_all(
        &self,
        links: Vec<LinkConfig>,
        state: Option<&State>,
        how: Report,
        stop: CancellationToken,
    ) -> Vec<(String, Result<VerifyReport>)> {
        let mut reports = Vec::new();
        let is_alone = links.len() == 1;
        for config in links {
            let name = config.name.clone();
            let report = tokio::select! {
                biased;
                () = stop.cancelled() => Err(Error::new(Exit::Timeout, "stopped before the comparison was done, and no key in doubt")),
                report = Box::pin(self.verify_one(config, state, how.clone())).instrument(link_span(&name)) => report,
            };
            match &report {
                Ok(report) => self.keep_report(state.map(|state| &state.store), &name, report).await,
                Err(error) if !is_alone => tell_failed(&name, error),
                Err(_) => {}
            }
            reports.push((name, report));
            if stop.is_cancelled() {
                break;
            }
        }
        reports
    }

    /// Keeps a report in the link's state, for the metrics of whoever runs it: in ours, or else where there is one that
    /// nobody has for himself.
    pub(super) async fn keep_report(&self, ours: Option<&Arc<dyn StateStore>>, link: &str, report: &VerifyReport) {
        let keeping = async {
            let store = match ours {
                Some(store) => Arc::clone(store),
                None => self.open_store(true).await?,
            };
            Ok::<(), Error>(keep_verified(store.as_ref(), link, report, self.context.now()).await?)
        };
        match keeping.await {
            Ok(()) => {}
            // The usual case beside a service whose state is a file.
            Err(error) if error.exit == Exit::Held => {
                tracing::info!(link, "the result is not kept for the service's metrics: it has the state to itself");
            }
            Err(error) => {
                tracing::warn!(link, error = chain(&error), "the result is not kept for the service's metrics");
            }
        }
    }

    async fn verify_one(&self, config: LinkConfig, state: Option<&State>, how: Report) -> Result<VerifyReport> {
        let Some(state) = state else { return self.verify_apart(&config, None, how).await };
        let (name, store) = (config.name.clone(), Arc::clone(&state.store));
        let Some(fleet) = &state.fleet else {
            if store.read(&name).await?.link.is_some() {
                return self.verify_in_link(config, state, how).await;
            }
            let (fence, known) = store.take(&name, self.context.worker()).await?;
            let ours = Ours { store, fence, doubts: known.doubts, guard: None };
            return self.verify_apart(&config, Some(ours), how).await;
        };
        // Whether the link ever ran is asked for when it is ours: one that a worker is just opening has no row either.
        let held = fleet.acquire(&name, self.mode, |_| {}).await?;
        if held.state.link.is_some() {
            fleet.let_go(&name).await;
            return self.verify_in_link(config, state, how).await;
        }
        let (guard, session) = (Arc::new(LinkGuard::default()), Arc::clone(&held.session));
        guard.open(held.session);
        let guard = Some(guard.of_clients(&self.context));
        let ours = Ours { store, fence: held.fence, doubts: held.state.doubts, guard };
        fleet.hold(&name, &session, Box::pin(self.verify_apart(&config, Some(ours), how))).await
    }

    /// Compares tables that no link of this process copies, and repairs them if the link is ours.
    async fn verify_apart(&self, config: &LinkConfig, ours: Option<Ours>, how: Report) -> Result<VerifyReport> {
        let guard = ours.as_ref().and_then(|ours| ours.guard.clone());
        let clients = Clients { guard, ..self.clients(config) };
        let (by_aws, observer) = by_aws(&self.context, self.metrics.calls(&config.name));
        let accounts = Accounts::connect(config, &clients, Some(observer)).await?;
        let create_nothing = LinkConfig { target_create: false, ..config.clone() };
        let prepared = prepare(&create_nothing, accounts, &by_aws, Needs::default()).await?;
        let (ends, in_doubt_for) = (prepared.ends.clone(), config.apply.in_doubt_for);
        let repairer = ours.map(|Ours { store, fence, doubts, .. }| {
            let repairs = DirectRepairs {
                ends,
                by_aws,
                signing: self.context.clone(),
                in_doubt_for,
                source_id: prepared.source.id.clone(),
            };
            Arc::new(ApartRepairs::new(repairs, store, &config.name, (fence, &doubts))) as Arc<dyn verify::Repairer>
        });
        let owns_target = config.target_exclusive.unwrap_or(false);
        let settings = verify_settings(config, &prepared, owns_target, Patience::COMMAND);
        let watching = self.verifying.begin(&config.name, prepared.source.item_count);
        let job = VerifyJob {
            source: Arc::clone(&prepared.ends.source),
            target: Arc::clone(&prepared.ends.target_reader),
            settings: verify::VerifySettings { show_values: how.show_values, ..settings },
            context: self.context.clone(),
            settle: Settle::After(caught_up_within(config.stream.poll_max) + config.stream.poll_max * 2),
            repairer,
            report: how.out.map(SharedReport::boxed),
            progress: Some(watching.progress()),
        };
        verify::run(job).await.map_err(|error| cannot_verify(&config.name, error))
    }

    async fn verify_in_link(&self, config: LinkConfig, state: &State, how: Report) -> Result<VerifyReport> {
        let Report { show_values, out } = how;
        // Repairs run inside the link's lanes, so the link runs while they are made.
        let link = self.link(config.clone(), state);
        let report = Arc::new(Mutex::new(None));
        let (slot, context, name) = (Arc::clone(&report), self.context.clone(), config.name.clone());
        let verifying = Arc::clone(&self.verifying);
        let companion: Companion<'_> = Box::new(move |running| {
            let (slot, context, name, out) = (Arc::clone(&slot), context.clone(), name.clone(), out.clone());
            let verifying = Arc::clone(&verifying);
            Box::pin(async move {
                catch_up(&name, &running).await;
                let report = out.map(SharedReport::boxed);
                let watching = verifying.begin(&name, running.source_items);
                let how = Comparison { repair: true, show_values, report, watching };
                let found = verify_running(&name, &running, context, how).await?;
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                // A write whose answer was lost may still land, and then nobody runs that would mend it.
                let_doubts_end(&name, &running).await
            })
        });
        Box::pin(link.run(Some(companion), CancellationToken::new())).await?;
        let found = report.lock().unwrap_or_else(PoisonError::into_inner).take();
        found.ok_or_else(|| Error::new(Exit::Unexpected, "the comparison did not finish"))
    }
}

/// A link without a row that is this process's: nobody else writes its target.
struct Ours {
    store: Arc<dyn StateStore>,
    fence: Fence,
    doubts: Vec<DoubtRow>,
    guard: Option<SendGuard>,
}

/// What is told of a comparison, and where.
#[derive(Clone)]
struct Report {
    show_values: bool,
    out: Option<SharedReport>,
}

/// One report for the comparisons of all links, which are made one after the other; each of its lines names its link.
#[derive(Clone)]
struct SharedReport(Arc<Mutex<Box<dyn Write + Send>>>);

impl SharedReport {
    fn boxed(self) -> Box<dyn Write + Send> {
        Box::new(self)
    }
}

impl Write for SharedReport {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// How the tables of a link that runs are compared.
pub(super) struct Comparison {
    pub(super) repair: bool,
    pub(super) show_values: bool,
    pub(super) report: Option<Box<dyn Write + Send>>,
    pub(super) watching: Watching,
}

pub(super) async fn verify_running(
    name: &str,
    running: &Running,
    context: Context,
    how: Comparison,
) -> Result<VerifyReport> {
    let Comparison { repair, show_values, report, watching } = how;
    let board = Arc::clone(&running.board);
    let settle = Settle::Until(Arc::new(move || Box::pin(applied_until_now(Arc::clone(&board)))));
    let repairer = repair.then(|| Arc::new(KeeperRepairs(running.keeper.clone())) as Arc<dyn verify::Repairer>);
    let job = VerifyJob {
        source: Arc::clone(&running.ends.source),
        target: Arc::clone(&running.ends.target_reader),
        settings: verify::VerifySettings { show_values, owns_target: running.owns_target, ..running.verify.clone() },
        context: context.clone(),
        settle,
        repairer,
        report,
        progress: Some(watching.progress()),
    };
    let found = verify::run(job).await.map_err(|error| cannot_verify(name, error))?;
    running.board.verified(&verified_row(&found, context.now(), None), true);
    Ok(found)
}

fn cannot_verify(name: &str, error: verify::VerifyError) -> Error {
    Error::new(Exit::Precondition, format!("compare both tables of link `{name}`"))
        .hint("allow dynamodb:Scan and GetItem on both tables")
        .because(error)
}
