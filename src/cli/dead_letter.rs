//! `dynaferry dead-letter`: items that the target refused.

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::value::RawValue;

use super::format::counted;
use super::link::check_names;
use super::output;
use super::session::{Ended, Session};
use crate::context::Context;
use crate::error::{Exit, Result};
use crate::runtime::{DeadLetter, Program, RetryReport};
use crate::telemetry::Mode;

/// Items that the target refused (links with `on_rejected = "dead_letter"`).
#[derive(Debug, Clone, Subcommand)]
pub(super) enum DeadLetterCommand {
    /// Show them: key, reason, time
    #[command(
        after_help = "Examples:\n  dynaferry dead-letter list\n  dynaferry dead-letter list orders --show-values -o json"
    )]
    List(ListArgs),
    /// Copy them again, each as its source is now; what is accepted is crossed off
    ///
    /// Exits 0 when none is left, 3 when the target refused some of them again.
    #[command(after_help = "Examples:\n  dynaferry dead-letter retry orders")]
    Retry(RetryArgs),
}

/// Which letters, and how much of them.
#[derive(Debug, Clone, Args)]
pub(super) struct ListArgs {
    /// The links [default: all]
    #[arg(value_name = "LINK")]
    links: Vec<String>,

    /// Show whole items, not the keys alone; with -o json
    #[arg(long)]
    show_values: bool,
}

/// Which letters.
#[derive(Debug, Clone, Args)]
pub(super) struct RetryArgs {
    /// The links [default: all]
    #[arg(value_name = "LINK")]
    links: Vec<String>,
}

#[derive(Serialize)]
struct Retried {
    schema: &'static str,
    #[serde(flatten)]
    report: RetryReport,
}

#[derive(Serialize)]
struct Row<'a> {
    link: &'a str,
    id: u64,
    at: String,
    reason: &'a str,
    operation: &'static str,
    key: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<&'a RawValue>,
}

impl<'a> Row<'a> {
    fn new(found: &'a DeadLetter, show_values: bool) -> Self {
        let letter = &found.letter;
        let item = letter.item_json.as_deref().filter(|_| show_values);
        Self {
            link: &found.link,
            id: letter.id,
            at: letter.at.to_string(),
            reason: &letter.reason,
            operation: if letter.item_json.is_some() { "put" } else { "delete" },
            key: serde_json::from_str(&letter.key_json).ok(),
            item: item.and_then(|item| serde_json::from_str(item).ok()),
        }
    }
}

pub(super) async fn execute(session: &Session, command: &DeadLetterCommand) -> Result<Ended> {
    let (DeadLetterCommand::List(ListArgs { links, .. }) | DeadLetterCommand::Retry(RetryArgs { links })) = command;
    let config = session.load_config()?;
    check_names(&config, links)?;
    let program = Arc::new(Program::new(config, Context::system(), Mode::Oneshot));
    match command {
        DeadLetterCommand::List(args) => list(session, &program.dead_letters(links).await?, args.show_values)?,
        DeadLetterCommand::Retry(_) => {
            let report = Box::pin(program.retry_dead_letters(links)).await?;
            let document = Retried { schema: "dynaferry.dead_letter_retry/v1", report };
            session.print(&told(report), &document)?;
            if report.remaining > 0 {
                return Ok(Ended::Exit(Exit::Differences));
            }
        }
    }
    Ok(Ended::DONE)
}

fn told(RetryReport { retried, remaining }: RetryReport) -> String {
    let gone = format!("{} copied again", counted(retried, "dead letter"));
    match remaining {
        0 => gone,
        _ => format!("{gone}; {remaining} refused again and kept: the log says why"),
    }
}

fn list(session: &Session, letters: &[DeadLetter], show_values: bool) -> Result<()> {
    let letters: Vec<Row<'_>> = letters.iter().map(|letter| Row::new(letter, show_values)).collect();
    if session.is_json() {
        return output::json(&serde_json::json!({"schema": "dynaferry.dead_letters/v1", "dead_letters": letters}));
    }
    if letters.is_empty() {
        return output::text("no dead letters");
    }
    output::text(&table(&letters))
}

fn table(letters: &[Row<'_>]) -> String {
    let mut rows = vec![["LINK", "ID", "AT", "OPERATION", "KEY", "REASON"].map(str::to_owned).to_vec()];
    rows.extend(letters.iter().map(|row| {
        let key = row.key.map_or("–", RawValue::get);
        vec![
            row.link.to_owned(),
            row.id.to_string(),
            row.at.clone(),
            row.operation.to_owned(),
            key.to_owned(),
            row.reason.to_owned(),
        ]
    }));
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::rows::DeadLetterRow;
    use crate::model::WallTime;

    fn letter() -> DeadLetter {
        let letter = DeadLetterRow {
            id: 7,
            key_json: r#"{"id":{"S":"a"}}"#.into(),
            item_json: Some(r#"{"id":{"S":"a"},"secret":{"S":"x"}}"#.into()),
            reason: "ValidationException: too big".into(),
            at: WallTime::from_secs(0),
        };
        DeadLetter { link: "orders".into(), letter }
    }

    #[test]
    fn a_retry_says_what_is_left() {
        assert_eq!(told(RetryReport { retried: 1, remaining: 0 }), "1 dead letter copied again");
        let text = "0 dead letters copied again; 2 refused again and kept: the log says why";
        assert_eq!(told(RetryReport { retried: 0, remaining: 2 }), text);
    }

    #[test]
    fn the_key_is_shown_and_the_item_only_if_asked_for() {
        let letter = letter();
        let text = table(&[Row::new(&letter, false)]);
        let line =
            "orders  7   1970-01-01T00:00:00.000Z  put        {\"id\":{\"S\":\"a\"}}  ValidationException: too big";
        assert_eq!(text.lines().nth(1), Some(line));
        let json = |show| serde_json::to_string(&Row::new(&letter, show)).unwrap();
        assert!(!json(false).contains("secret") && json(true).contains("secret"));
    }
}
