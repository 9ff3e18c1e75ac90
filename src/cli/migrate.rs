//! `dynaferry migrate`: load, catch up, verify, exit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::format::{counted, parse_duration};
use super::link::{LinkArgs, TargetArgs};
use super::progress::Progress;
use super::server::Server;
use super::session::{Ended, STOP_MARGIN, Session};
use super::verify::describe;
use crate::context::Context;
use crate::error::{Exit, Result};
use crate::runtime::{MigrateReport, Program};
use crate::telemetry::Mode;

/// Load, catch up, verify, exit.
///
/// The source stays in use all the time. Started again after whatever ended it, it goes on where it was. Exits 0 when
/// both tables are identical, 3 when differences were found.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Examples:
  dynaferry migrate                                        every link of ./dynaferry.toml
  dynaferry migrate --source arn:aws:dynamodb:eu-west-1:111111111111:table/orders \\
                    --target arn:aws:dynamodb:eu-west-1:222222222222:table/orders --create \\
                    --target-role-arn arn:aws:iam::222222222222:role/dynaferry-target
  dynaferry migrate --timeout 2h -o json > report.json     exits 7 when it is not done; run it again")]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    pub(super) link: LinkArgs,

    #[command(flatten)]
    pub(super) target: TargetArgs,

    /// Stop in good order after this time: exit 7, progress is saved
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,

    /// Serve metrics, health and status meanwhile
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    identical: bool,
    links: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    report: &'a MigrateReport,
    identical: bool,
}

pub(super) async fn execute(session: &Session, args: &MigrateArgs) -> Result<Ended> {
    let config = args.link.config(session, args.target)?;
    let grace = config.service.drain + STOP_MARGIN;
    let program = Arc::new(Program::new(config, Context::system(), Mode::Oneshot));
    let progress = Progress::of_command(session, program.status_source());
    let work = Box::pin(progress.during(program.migrate(session.stop.token())));
    let done = session.within(args.timeout, grace, async {
        match args.listen {
            Some(address) => Server::bind(address, &program).await?.during(work).await,
            None => work.await,
        }
    });
    report(session, &done.await?)
}

fn report(session: &Session, reports: &[MigrateReport]) -> Result<Ended> {
    let identical = reports.iter().all(|report| report.verification.is_identical());
    let lines: Vec<String> = reports.iter().map(line).collect();
    let rows = reports.iter().map(|report| Row { report, identical: report.verification.is_identical() });
    let document = Document { schema: "dynaferry.migrate/v1", identical, links: rows.collect() };
    session.print(&lines.join("\n"), &document)?;
    Ok(if identical { Ended::DONE } else { Ended::Exit(Exit::Differences) })
}

fn line(report: &MigrateReport) -> String {
    let loaded = counted(report.items_loaded, "item");
    let changes = counted(report.changes_replicated, "change");
    format!("{}: {loaded} loaded, {changes} replicated; {}", report.link, describe(&report.verification))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::verify::tests::report;

    #[test]
    fn a_report_is_one_line() {
        let report = MigrateReport {
            link: "orders".into(),
            items_loaded: 20_000,
            changes_replicated: 1,
            verification: report(),
        };
        assert_eq!(
            line(&report),
            "orders: 20,000 items loaded, 1 change replicated; identical, 20,000 items compared in 1.5s"
        );
    }
}
