//! Patches: a header of `name: value` lines, and a unified diff that is applied wherever its lines are found.
//!
//! Line numbers are hints alone, so that work elsewhere in a file does no harm; the lines themselves must be there, once
//! or nearest to the number. Knows no command and no seed.

use std::collections::BTreeMap;
use std::path::Path;

/// A patch that was read.
#[derive(Debug)]
pub(crate) struct Patch {
    header: BTreeMap<String, String>,
    hunks: Vec<Hunk>,
}

#[derive(Debug)]
struct Hunk {
    file: String,
    /// The line that it begins with in the old file, counted from 0.
    line: usize,
    old: Vec<String>,
    new: Vec<String>,
}

impl Patch {
    /// Reads a patch.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut patch = Self { header: BTreeMap::new(), hunks: Vec::new() };
        let mut file = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("+++ b/") {
                file = Some(name.to_owned());
            } else if line.starts_with("--- a/") {
                file = None;
            } else if let Some(range) = line.strip_prefix("@@ -") {
                let digits: String = range.chars().take_while(char::is_ascii_digit).collect();
                let line =
                    digits.parse::<usize>().map_err(|_| format!("no line number in {line:?}"))?.saturating_sub(1);
                let file = file.clone().ok_or("a hunk without a file")?;
                patch.hunks.push(Hunk { file, line, old: Vec::new(), new: Vec::new() });
            } else if let Some(hunk) = patch.hunks.last_mut() {
                hunk.take(line)?;
            } else if let Some((name, value)) = line.split_once(": ") {
                patch.header.insert(name.to_owned(), value.to_owned());
            }
        }
        if patch.hunks.is_empty() { Err("it changes nothing".to_owned()) } else { Ok(patch) }
    }

    /// A value of the header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.header.get(name).map(String::as_str)
    }

    /// The files that it changes, as they are and as it makes them.
    pub(crate) fn apply(&self, tree: &Path) -> Result<Vec<Changed>, String> {
        let mut files: BTreeMap<&str, (String, Vec<String>)> = BTreeMap::new();
        for hunk in &self.hunks {
            if !files.contains_key(hunk.file.as_str()) {
                let text = std::fs::read_to_string(tree.join(&hunk.file));
                let text = text.map_err(|error| format!("{} cannot be read: {error}", hunk.file))?;
                let lines = text.lines().map(str::to_owned).collect();
                files.insert(&hunk.file, (text, lines));
            }
            if let Some((_, lines)) = files.get_mut(hunk.file.as_str()) {
                hunk.apply(lines)?;
            }
        }
        let changed = files.into_iter().map(|(file, (before, lines))| {
            let after = lines.join("\n") + "\n";
            Changed { file: file.to_owned(), before, after }
        });
        Ok(changed.collect())
    }
}

/// A file that a patch changes.
pub(crate) struct Changed {
    pub(crate) file: String,
    pub(crate) before: String,
    pub(crate) after: String,
}

impl Hunk {
    fn take(&mut self, line: &str) -> Result<(), String> {
        let (mark, rest) = line.split_at_checked(1).unwrap_or((" ", ""));
        match mark {
            " " => {
                self.old.push(rest.to_owned());
                self.new.push(rest.to_owned());
            }
            "-" => self.old.push(rest.to_owned()),
            "+" => self.new.push(rest.to_owned()),
            "\\" => {}
            _ => return Err(format!("{line:?} is no line of a hunk")),
        }
        Ok(())
    }

    fn apply(&self, lines: &mut Vec<String>) -> Result<(), String> {
        let places = lines.windows(self.old.len()).enumerate().filter(|(_, window)| *window == self.old.as_slice());
        let nearest = places.map(|(at, _)| at).min_by_key(|at| at.abs_diff(self.line));
        let at = nearest.ok_or_else(|| format!("{}: the lines around {} are not there", self.file, self.line + 1))?;
        lines.splice(at..at + self.old.len(), self.new.iter().cloned());
        Ok(())
    }
}
