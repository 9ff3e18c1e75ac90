//! Complaints about settings: collected, sorted, and shown with the line and a caret.
//!
//! Reading never stops at the first mistake. A place in the file is shown with its source line, a variable or an option
//! by its name alone (its value may be a secret). Lines that hold credentials or external ids are cut after the `=`.

use std::cell::RefCell;
use std::fmt;

use super::tree::Origin;
use crate::error::{Error, Exit};

/// Words whose line is never shown beyond the `=`. The last one also hides user names in endpoint URLs.
const SENSITIVE: &[&str] = &["secret", "token", "password", "access_key", "external_id", "@"];

/// The least similarity (Jaro-Winkler) of a suggestion: lower, and unrelated words are offered.
const SIMILAR: f64 = 0.8;

/// One thing wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file, or the variable or option; empty when it is none of them.
    pub origin: String,
    /// Line and column, from 1, in characters; for places in a file.
    pub at: Option<(usize, usize)>,
    /// What is wrong.
    pub what: String,
    /// How to mend it; may be empty.
    pub hint: String,
    /// The source line and the caret's offset and width, in characters.
    excerpt: Option<(String, usize, usize)>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("error: ")?;
        if !self.origin.is_empty() {
            f.write_str(&self.origin)?;
            if let Some((line, column)) = self.at {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.what)?;
        match (&self.excerpt, self.at) {
            (Some((text, offset, width)), Some((line, _))) => {
                let number = line.to_string();
                let gutter = " ".repeat(number.len());
                // Tabs stay tabs, so that the caret stands under its text on any terminal.
                let pad: String = text.chars().take(*offset).map(|c| if c == '\t' { c } else { ' ' }).collect();
                let caret = "^".repeat(*width);
                let body = format!("\n{gutter} |\n{number} | {text}\n{gutter} | {pad}{caret} {}", self.hint);
                f.write_str(body.trim_end())
            }
            _ if self.hint.is_empty() => Ok(()),
            _ => write!(f, "\n  = {}", self.hint),
        }
    }
}

/// Everything wrong with the settings, in file order; never empty.
///
/// Its text is the whole report for a terminal: `error: FILE:LINE:COLUMN: …` with the line and a caret, one after the
/// other. As an [`Error`] (exit 8) the first `error: ` is left to the one who prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// One problem that has no place in a file.
    pub(super) fn one(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self(vec![Problem { origin: String::new(), at: None, what: what.into(), hint: hint.into(), excerpt: None }])
    }

    /// The problems, in file order, then those of variables and options.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join("\n\n"))
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        let text = problems.to_string();
        Self::new(Exit::Config, text.strip_prefix("error: ").unwrap_or(&text))
    }
}

/// Collects problems over one file.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    name: &'a str,
    text: &'a str,
    found: RefCell<Vec<(usize, Problem)>>,
}

impl<'a> Collector<'a> {
    /// For the file of this name and content; both empty when there is none.
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text, found: RefCell::default() }
    }

    /// Notes a problem; once, however many links inherit it.
    pub(super) fn add(&self, origin: &Origin, what: impl Into<String>, hint: impl Into<String>) {
        let (order, mut problem) = match origin {
            Origin::File(span) => (span.start, self.in_file(span)),
            Origin::Said(name) => (usize::MAX, bare(name)),
            Origin::Nowhere => (usize::MAX, bare(self.name)),
        };
        problem.what = what.into();
        problem.hint = hint.into();
        let mut found = self.found.borrow_mut();
        if !found.iter().any(|(_, known)| *known == problem) {
            found.push((order, problem));
        }
    }

    /// Whether nothing was found.
    pub(super) fn is_clean(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// The value, if nothing was found.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Problems> {
        let mut found = self.found.into_inner();
        if found.is_empty() {
            return Ok(value);
        }
        found.sort_by_key(|(order, _)| *order);
        Err(Problems(found.into_iter().map(|(_, problem)| problem).collect()))
    }

    fn in_file(&self, span: &std::ops::Range<usize>) -> Problem {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let offset = self.text.get(line_start..start).unwrap_or_default().chars().count();
        let width = self
            .text
            .get(start..span.end.max(start))
            .unwrap_or_default()
            .lines()
            .next()
            .map_or(0, |first| first.trim_end().chars().count());
        Problem {
            origin: self.name.to_owned(),
            at: Some((before.matches('\n').count() + 1, offset + 1)),
            what: String::new(),
            hint: String::new(),
            excerpt: Some(discreet(line, offset, width.max(1))),
        }
    }
}

fn bare(name: &str) -> Problem {
    Problem { origin: name.to_owned(), at: None, what: String::new(), hint: String::new(), excerpt: None }
}

/// The line with its caret; a line that may hold a secret is cut after the `=`, and the caret with it.
fn discreet(line: &str, offset: usize, width: usize) -> (String, usize, usize) {
    let lower = line.to_ascii_lowercase();
    let secret = SENSITIVE.iter().filter_map(|word| lower.find(word)).min();
    let cut = secret.and_then(|at| match line.get(at..) {
        // The `@` of a URL comes after what it hides: go back to the line's first `=`.
        Some(rest) if rest.starts_with('@') => line.find('='),
        Some(rest) => rest.find('=').map(|equals| at + equals),
        None => None,
    });
    let Some(kept) = cut.and_then(|cut| line.get(..=cut)) else { return (line.to_owned(), offset, width) };
    let shown = format!("{kept} …");
    let length = shown.chars().count();
    let offset = offset.min(length.saturating_sub(1));
    let width = width.min(length - offset);
    (shown, offset, width)
}

/// The known word that was probably meant.
pub(super) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_ascii_lowercase().replace('-', "_");
    let scored = known.into_iter().map(|word| (strsim::jaro_winkler(&given, word), word));
    let best = scored.filter(|(score, _)| *score >= SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, word)| word)
}

/// `a`, `b` or `c`.
pub(super) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut quoted: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.pop() {
        Some(last) if !quoted.is_empty() => format!("{} or {last}", quoted.join(", ")),
        last => last.unwrap_or_default(),
    }
}
