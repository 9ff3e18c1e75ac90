//! `dynaferry verify`: compare source and target, repair what differs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::format::{counted, parse_duration, span};
use super::link::{LinkArgs, TargetArgs, check_names};
use super::output;
use super::progress::Progress;
use super::session::{Ended, STOP_MARGIN, Session};
use crate::context::Context;
use crate::error::{Error, Exit, Result};
use crate::runtime::{Program, VerifyOptions};
use crate::telemetry::Mode;
use crate::verify::{KindCounts, VerifyReport};

/// Compare source and target; repair what differs with --repair.
///
/// Works while both tables are written: a difference counts once it has stayed after the changes on their way have arrived.
/// Exits 0 when the tables are identical, 3 when differences were found (and not repaired).
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Examples:
  dynaferry verify                                         every link of ./dynaferry.toml
  dynaferry verify orders --report differences.ndjson      which keys differ, one JSON object per line
  dynaferry verify --repair                                copy what differs again, and look again
  dynaferry verify --source arn:aws:dynamodb:eu-west-1:111111111111:table/orders \\
                   --target arn:aws:dynamodb:eu-west-1:222222222222:table/orders")]
pub(super) struct VerifyArgs {
    /// The links [default: all]
    #[arg(value_name = "LINK", conflicts_with = "source")]
    links: Vec<String>,

    #[command(flatten)]
    link: LinkArgs,

    /// Copy what differs from the source again; delete target-only keys where nobody else writes the target
    #[arg(long)]
    repair: bool,

    /// Write the differences to a file, one JSON object per line
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Show whole items in the report, not the keys alone
    #[arg(long, requires = "report")]
    show_values: bool,

    /// Stop after this time: exit 7
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    identical: bool,
    links: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    link: &'a str,
    identical: bool,
    #[serde(flatten)]
    report: Option<&'a VerifyReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<serde_json::Value>,
}

pub(super) async fn execute(session: &Session, args: &VerifyArgs) -> Result<Ended> {
    let config = args.link.config(session, TargetArgs::default())?;
    check_names(&config, &args.links)?;
    let options = VerifyOptions {
        repair: args.repair,
        show_values: args.show_values,
        report: args.report.as_deref().map(create).transpose()?,
        links: args.links.clone(),
    };
    let grace = config.service.drain + STOP_MARGIN;
    let program = Arc::new(Program::new(config, Context::system(), Mode::Oneshot));
    let progress = Progress::of_command(session, program.status_source());
    let verifying = async { output::any_done(Box::pin(program.verify_each(options, session.stop.token())).await?) };
    let work = Box::pin(progress.during(verifying));
    let done = session.within(args.timeout, grace, work);
    report(session, args, done.await?)
}

/// A new file for the report; only its owner may read it, since it holds keys and perhaps items.
fn create(path: &Path) -> Result<Box<dyn Write + Send>> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let fail = |error| Error::new(Exit::Precondition, format!("create the report {}", path.display())).because(error);
    Ok(Box::new(BufWriter::new(options.open(path).map_err(fail)?)))
}

fn report(session: &Session, args: &VerifyArgs, outcomes: Vec<(String, Result<VerifyReport>)>) -> Result<Ended> {
    let is_identical = |ended: &Result<VerifyReport>| ended.as_ref().is_ok_and(VerifyReport::is_identical);
    let identical = outcomes.iter().all(|(_, ended)| is_identical(ended));
    let lines = outcomes.iter().map(|(link, ended)| match ended {
        Ok(report) => format!("{link}: {}", describe(report)),
        Err(error) => format!("{link}: failed: {}", error.what),
    });
    let mut lines: Vec<String> = lines.collect();
    match &args.report {
        Some(path) => lines.push(format!("report: {}", path.display())),
        None if !identical => lines.push("which keys: --report FILE; mend them: --repair".to_owned()),
        None => {}
    }
    let rows = outcomes.iter().map(|(link, ended)| Row {
        link,
        identical: is_identical(ended),
        report: ended.as_ref().ok(),
        error: ended.as_ref().err().map(output::error_document),
    });
    let document = Document { schema: "dynaferry.verify/v1", identical, links: rows.collect() };
    session.print(&lines.join("\n"), &document)?;
    outcomes.into_iter().try_for_each(|(_, ended)| ended.map(drop))?;
    Ok(if identical { Ended::DONE } else { Ended::Exit(Exit::Differences) })
}

/// What a comparison found, in one line.
pub(super) fn describe(report: &VerifyReport) -> String {
    let compared = format!("{} compared in {}", counted(report.compared, "item"), span(report.duration_seconds));
    let found = &report.differences;
    let mut parts = Vec::new();
    if report.is_identical() {
        parts.push("identical".to_owned());
    }
    let states = [
        (&found.confirmed, "difference", ""),
        (&found.pending, "key", " that never came to rest"),
        (&found.repaired, "difference", " repaired"),
    ];
    for (counts, noun, state) in states.into_iter().filter(|(counts, ..)| counts.total() > 0) {
        parts.push(format!("{}{state} ({})", counted(counts.total(), noun), kinds(counts)));
    }
    if !report.complete {
        parts.push("not all was compared".to_owned());
    }
    parts.push(compared);
    parts.join(", ")
}

fn kinds(counts: &KindCounts) -> String {
    let kinds = [(counts.missing, "missing"), (counts.extra, "extra"), (counts.different, "different")];
    let kinds = kinds.into_iter().filter(|(count, _)| *count > 0).map(|(count, kind)| format!("{count} {kind}"));
    kinds.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli) fn report() -> VerifyReport {
        VerifyReport {
            source_items: 20_000,
            target_items: 20_000,
            compared: 20_000,
            settled: 0,
            differences: crate::verify::Differences::default(),
            expired_differences: 0,
            source_expired: 0,
            target_expired: 0,
            complete: true,
            duration_seconds: 1.5,
            source_units: 1.0,
            target_units: 1.0,
        }
    }

    #[test]
    fn differences_are_told_by_state_and_kind() {
        assert_eq!(describe(&report()), "identical, 20,000 items compared in 1.5s");
        let mut report = report();
        report.differences.confirmed = KindCounts { missing: 1, extra: 0, different: 2 };
        report.differences.pending.different = 1;
        let text = "3 differences (1 missing, 2 different), 1 key that never came to rest (1 different), 20,000 items compared in 1.5s";
        assert_eq!(describe(&report), text);
    }

    #[test]
    fn a_part_that_was_not_compared_is_no_sameness() {
        let report = VerifyReport { complete: false, ..report() };
        assert_eq!(describe(&report), "not all was compared, 20,000 items compared in 1.5s");
    }
}
