//! `verify`: both tables of a link, compared and repaired, whether the link runs or not.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::migrate::{CAUGHT_UP, catch_up};
use super::verifying::Watching;
use super::{Program, State};
use crate::config::LinkConfig;
use crate::context::Context;
use crate::error::{Error, Exit, Result};
use crate::retry::Patience;
use crate::runtime::link::{Companion, Running, applied_until_now, verify_settings};
use crate::runtime::prepare::{Accounts, Needs, prepare};
use crate::runtime::repair::{DirectRepairs, KeeperRepairs};
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
    /// Compares both tables of each link; repairs through lanes of its own, for which it needs the link's state.
    ///
    /// # Errors
    /// A side that cannot be read; with `repair`, state that another process holds (exit 6).
    pub async fn verify(
        self: &Arc<Self>,
        options: VerifyOptions,
        stop: CancellationToken,
    ) -> Result<Vec<(String, VerifyReport)>> {
        let links = self.chosen(&options.links).await?;
        let state = if options.repair { Some(self.open_state().await?) } else { None };
        let out = options.report.map(|out| SharedReport(Arc::new(Mutex::new(out))));
        let mut reports = Vec::new();
        for config in links {
            let name = config.name.clone();
            let one = self.verify_one(config, state.as_ref(), options.show_values, out.clone());
            let report = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Error::new(Exit::Timeout, "stopped before both tables were compared")),
                report = one => report?,
            };
            reports.push((name, report));
        }
        if let Some(state) = state {
            state.close().await;
        }
        Ok(reports)
    }

    async fn verify_one(
        &self,
        config: LinkConfig,
        state: Option<&State>,
        show_values: bool,
        out: Option<SharedReport>,
    ) -> Result<VerifyReport> {
        let clients = self.clients(&config);
        let accounts = Accounts::connect(&config, &clients, None).await?;
        let create_nothing = LinkConfig { target_create: false, ..config.clone() };
        let prepared = prepare(&create_nothing, accounts, &self.context, Needs::default()).await?;
        let is_running_link = match state {
            Some(state) => state.store.read(&config.name).await?.link.is_some(),
            None => false,
        };
        let Some(held) = state.filter(|_| is_running_link) else {
            let repairs = Arc::new(DirectRepairs {
                ends: prepared.ends.clone(),
                by_aws: self.context.clone(),
                in_doubt_for: config.apply.in_doubt_for,
            });
            let owns_target = config.target_exclusive.unwrap_or(false);
            let settings = verify_settings(&config, &prepared, owns_target, Patience::COMMAND);
            let watching = self.verifying.begin(&config.name, prepared.source.item_count);
            let job = VerifyJob {
                source: Arc::clone(&prepared.ends.source),
                target: Arc::clone(&prepared.ends.target_reader),
                settings: verify::VerifySettings { show_values, ..settings },
                context: self.context.clone(),
                settle: Settle::After(CAUGHT_UP + config.stream.poll_max * 2),
                repairer: state.map(|_| Arc::new(repairs) as Arc<dyn verify::Repairer>),
                report: out.map(SharedReport::boxed),
                progress: Some(watching.progress()),
            };
            return verify::run(job).await.map_err(|error| cannot_verify(&config.name, error));
        };
        // Repairs run inside the link's lanes, so the link runs while they are made.
        let link = self.link(config.clone(), held);
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
                Ok(())
            })
        });
        Box::pin(link.run(Some(companion), CancellationToken::new())).await?;
        let found = report.lock().unwrap_or_else(PoisonError::into_inner).take();
        found.ok_or_else(|| Error::new(Exit::Unexpected, "the comparison did not finish"))
    }
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
    running.board.verified(&found);
    Ok(found)
}

fn cannot_verify(name: &str, error: verify::VerifyError) -> Error {
    Error::new(Exit::Precondition, format!("compare both tables of link `{name}`"))
        .hint("allow dynamodb:Scan and GetItem on both tables")
        .because(error)
}
