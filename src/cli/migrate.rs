//! `dynaferry migrate`: load, catch up, verify, exit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::format::{counted, parse_duration};
use super::link::{LinkArgs, TargetArgs};
use super::output;
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
#[serde(untagged)]
enum Row<'a> {
    Done {
        #[serde(flatten)]
        report: &'a MigrateReport,
        identical: bool,
    },
    Failed {
        link: &'a str,
        identical: bool,
        error: serde_json::Value,
    },
}

impl<'a> Row<'a> {
    fn new((link, ended): &'a (String, Result<MigrateReport>)) -> Self {
        match ended {
            Ok(report) => Self::Done { report, identical: report.verification.is_identical() },
            Err(error) => Self::Failed { link, identical: false, error: output::error_document(error) },
        }
    }
}

pub(super) async fn execute(session: &Session, args: &MigrateArgs) -> Result<Ended> {
    let config = args.link.config(session, args.target)?;
    let grace = config.service.drain + STOP_MARGIN;
    let program = Arc::new(Program::new(config, Context::system(), Mode::Oneshot));
    let progress = Progress::of_command(session, program.status_source());
    let migrating = async { output::any_done(Box::pin(program.migrate_each(session.stop.token())).await?) };
    let work = Box::pin(progress.during(migrating));
    let done = session.within(args.timeout, grace, async {
        match args.listen {
            Some(address) => Server::bind(address, &program).await?.during(work).await,
            None => work.await,
        }
    });
    report(session, done.await?)
}

fn report(session: &Session, outcomes: Vec<(String, Result<MigrateReport>)>) -> Result<Ended> {
    let is_identical =
        |ended: &Result<MigrateReport>| ended.as_ref().is_ok_and(|done| done.verification.is_identical());
    let identical = outcomes.iter().all(|(_, ended)| is_identical(ended));
    let lines = outcomes.iter().map(|(link, ended)| match ended {
        Ok(report) => line(report),
        Err(error) => format!("{link}: failed: {}", error.what),
    });
    let lines: Vec<String> = lines.collect();
    let rows = outcomes.iter().map(Row::new).collect();
    let document = Document { schema: "dynaferry.migrate/v1", identical, links: rows };
    session.print(&lines.join("\n"), &document)?;
    outcomes.into_iter().try_for_each(|(_, ended)| ended.map(drop))?;
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
    fn a_link_that_failed_is_in_the_document_beside_those_that_are_done() {
        let done = MigrateReport { link: "a".into(), items_loaded: 1, changes_replicated: 0, verification: report() };
        let failed = crate::error::Error::new(Exit::Precondition, "find target table b").hint("create it");
        let outcomes = output::any_done(vec![("a".to_owned(), Ok(done)), ("b".to_owned(), Err(failed))]).unwrap();
        let rows = serde_json::to_value(outcomes.iter().map(Row::new).collect::<Vec<_>>()).unwrap();
        assert_eq!(
            (&rows[0]["link"], &rows[0]["items_loaded"], &rows[0]["identical"]),
            (&"a".into(), &1.into(), &true.into())
        );
        let error =
            serde_json::json!({"what": "find target table b", "because": [], "try": "create it", "exit_code": 4});
        assert_eq!(rows[1], serde_json::json!({"link": "b", "identical": false, "error": error}));
        let lost = crate::error::Error::new(Exit::Lost, "x");
        let only = output::any_done::<MigrateReport>(vec![("b".to_owned(), Err(lost))]);
        assert_eq!(only.unwrap_err().exit, Exit::Lost, "as with one link");
    }

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
