//! Results on stdout: text, tables, JSON documents; and how an error is told.

use std::error::Error as _;
use std::io::{self, Write};

use serde::Serialize;

use crate::error::{Error, Exit, Result};
use crate::model::WallTime;

/// Writes a text and a newline.
pub(super) fn text(text: &str) -> Result<()> {
    write(|out| writeln!(out, "{}", text.trim_end_matches('\n')))
}

/// Writes a JSON document and a newline.
pub(super) fn json(document: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|error| Error::new(Exit::Unexpected, "write the result as JSON").because(error))?;
    write(|out| writeln!(out, "{text}"))
}

fn write(write: impl FnOnce(&mut io::StdoutLock<'static>) -> io::Result<()>) -> Result<()> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // The reader has seen enough, as `head` has.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::new(Exit::Unexpected, "write to stdout").because(error)),
    }
}

/// What failed, why, and what to try: `error: …`, one `because: …` for each cause, `try: …`.
pub(super) fn describe_error(error: &Error, has_color: bool) -> String {
    let paint = |code: &str, text: &str| {
        if has_color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    };
    let mut lines = vec![format!("{} {}", paint("1;31", "error:"), error.what)];
    lines.extend(causes(error).into_iter().map(|cause| format!("  because: {cause}")));
    if let Some(hint) = &error.hint {
        lines.push(format!("  {} {hint}", paint("1;32", "try:")));
    }
    lines.join("\n")
}

/// The causes of an error, the nearest first; one that its parent already quoted is told once.
fn causes(error: &Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(because) = cause {
        let text = because.to_string();
        if !causes.last().unwrap_or(&error.what).ends_with(&text) {
            causes.push(text);
        }
        cause = because.source();
    }
    causes
}

/// An error as a document: for those of links, and for a log in JSON.
pub(super) fn error_document(error: &Error) -> serde_json::Value {
    serde_json::json!({
        "what": error.what, "because": causes(error), "try": error.hint, "exit_code": error.exit as u8,
    })
}

/// What became of each link, where any has a result; else the first error, as if there were one link.
pub(super) fn any_done<T>(outcomes: Vec<(String, Result<T>)>) -> Result<Vec<(String, Result<T>)>> {
    if outcomes.is_empty() || outcomes.iter().any(|(_, ended)| ended.is_ok()) {
        return Ok(outcomes);
    }
    outcomes.into_iter().map(|(link, ended)| Ok((link, Ok(ended?)))).collect()
}

/// The error that ends a command, as one line of a log in JSON.
pub(super) fn error_line(error: &Error, now: WallTime) -> String {
    serde_json::json!({
        "timestamp": now.to_string(), "level": "ERROR", "message": error.what, "because": causes(error),
        "try": error.hint, "exit_code": error.exit as u8,
    })
    .to_string()
}

/// Columns of left-aligned text; the first row is the head. No trailing blanks.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_what_failed_why_and_what_to_try() {
        let cause = Error::new(Exit::Unexpected, "connect").because(io::Error::other("connection refused"));
        let error = Error::new(Exit::Precondition, "read the source table").because(cause).hint("check the Region");
        let expected =
            "error: read the source table\n  because: connect\n  because: connection refused\n  try: check the Region";
        assert_eq!(describe_error(&error, false), expected);
        assert!(describe_error(&error, true).starts_with("\u{1b}[1;31merror:\u{1b}[0m read"));
    }

    #[test]
    fn in_a_json_log_an_error_is_one_line() {
        let cause = Error::new(Exit::Unexpected, "connect").because(io::Error::other("connection refused"));
        let error = Error::new(Exit::Precondition, "read the source table").because(cause).hint("check the Region");
        let line = error_line(&error, WallTime::from_secs(1_763_000_000));
        assert_eq!(line.lines().count(), 1);
        let expected = serde_json::json!({
            "timestamp": "2025-11-13T02:13:20.000Z", "level": "ERROR", "message": "read the source table",
            "because": ["connect", "connection refused"], "try": "check the Region", "exit_code": 4,
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), expected);
    }

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["LINK", "LAG", "NEEDS"]), row(["orders", "1.1s", "–"]), row(["a", "–", ""])]);
        assert_eq!(text, "LINK    LAG   NEEDS\norders  1.1s  –\na       –");
    }
}
