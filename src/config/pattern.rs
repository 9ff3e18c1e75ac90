//! Links of many tables: `source.tables = ["PROD_*"]`, `target.table = "copy-of-{table}"`.
//!
//! Which tables there are is asked at run time (ListTables); what becomes of the answer is decided here, purely.

use serde::Serialize;

use super::apply::ApplyConfig;
use super::link::{LinkConfig, Shared, same_place};
use super::section::{Complaint, Section};
use super::side::{SideConfig, TableRef};
use super::stream::OnGap;
use super::tree::Origin;
use crate::error::{Error, Exit, Result};

/// What stands for the source table's name.
const PLACEHOLDER: &str = "{table}";

/// A target's name, made from the source's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Template(String);

impl Template {
    /// The source's own name.
    pub(super) fn same_name() -> Self {
        Self(PLACEHOLDER.to_owned())
    }

    pub(super) fn parse(text: &str) -> std::result::Result<Self, Complaint> {
        let rest = text.replace(PLACEHOLDER, "abc");
        if rest.contains(['{', '}']) {
            return Err(Complaint::new("has an unknown placeholder", "the only one is `{table}`"));
        }
        TableRef::parse(&rest)?;
        Ok(Self(text.to_owned()))
    }

    /// Whether different tables get different names.
    pub(super) fn varies(&self) -> bool {
        self.0.contains(PLACEHOLDER)
    }

    /// The target of a source table.
    pub(super) fn fill(&self, table: &str) -> std::result::Result<TableRef, Complaint> {
        TableRef::parse(&self.0.replace(PLACEHOLDER, table))
    }
}

/// Names with `*` (any run) and `?` (any one).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Patterns {
    tables: Vec<String>,
    exclude: Vec<String>,
}

impl Patterns {
    pub(super) fn parse(
        tables: &[(String, Origin)],
        exclude: &[(String, Origin)],
        section: &Section<'_>,
    ) -> Option<Self> {
        let mut good = true;
        for (pattern, origin) in tables.iter().chain(exclude) {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b"_.-*?".contains(&b);
            if pattern.len() > 255 || !pattern.bytes().all(legal) {
                let hint = "letters, digits, `_`, `.`, `-`, and `*` or `?`";
                section.problems().add(origin, format!("`{pattern}` is not a pattern of table names"), hint);
                good = false;
            }
        }
        let texts = |list: &[(String, Origin)]| list.iter().map(|(text, _)| text.clone()).collect();
        good.then(|| Self { tables: texts(tables), exclude: texts(exclude) })
    }

    fn covers(&self, table: &str) -> bool {
        let matched =
            |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern.as_bytes(), table.as_bytes()));
        matched(&self.tables) && !matched(&self.exclude)
    }

    fn literals(&self) -> impl Iterator<Item = &String> {
        self.tables.iter().filter(|pattern| !is_wild(pattern))
    }
}

fn is_wild(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// Whether a name matches; goes back to the last `*` only, so it is quadratic at worst.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(byte) = name.get(read) {
        match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at + 1, read));
                at += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => {
                at += 1;
                read += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    at = after_star;
                    read = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|rest| *rest == b'*')
}

/// A link of many tables, before its tables are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatternLink {
    name: String,
    patterns: Patterns,
    target_table: Template,
    #[serde(flatten)]
    shared: Shared,
}

impl PatternLink {
    pub(super) fn new(name: &str, patterns: Patterns, target_table: Template, shared: Shared) -> Self {
        Self { name: name.to_owned(), patterns, target_table, shared }
    }

    /// The name in the settings.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose tables are to be listed.
    #[must_use]
    pub fn source(&self) -> &SideConfig {
        &self.shared.source
    }

    /// Where the copies go.
    #[must_use]
    pub fn target(&self) -> &SideConfig {
        &self.shared.target
    }

    /// How its links write.
    #[must_use]
    pub fn apply(&self) -> &ApplyConfig {
        &self.shared.apply
    }

    /// What becomes of a gap of any of its links.
    #[must_use]
    pub fn on_gap(&self) -> OnGap {
        self.shared.stream.on_gap
    }

    /// Whether a link of this name may be one of its own.
    #[must_use]
    pub fn may_name(&self, link: &str) -> bool {
        link.strip_prefix(&self.name)
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|table| self.patterns.covers(table))
    }

    /// Whether the source's tables must be listed: false when every name is written out.
    #[must_use]
    pub fn needs_listing(&self) -> bool {
        self.patterns.tables.iter().any(|pattern| is_wild(pattern))
    }

    /// One link per table, by name. A name without wildcards is always among them, listed or not, so that a misspelt
    /// one fails loudly later.
    ///
    /// # Errors
    /// Exit 8 when nothing matches, a target's name would be illegal, a target is its own source, or targets match the
    /// source's pattern in the same place, so that the next start would copy the copies.
    pub fn expand(&self, listed: &[String]) -> Result<Vec<LinkConfig>> {
        let mut names: Vec<&String> = listed.iter().chain(self.patterns.literals()).collect();
        names.retain(|name| self.patterns.covers(name));
        names.sort();
        names.dedup();
        if names.is_empty() {
            let what = format!("no table of the source matches [link.{}]", self.name);
            return Err(
                Error::new(Exit::Config, what).hint("check `source.tables`, `source.exclude`, account and Region")
            );
        }
        names.into_iter().map(|name| self.link(name)).collect()
    }

    fn link(&self, table: &str) -> Result<LinkConfig> {
        let name = format!("{}.{table}", self.name);
        let refuse = |what: String| Error::new(Exit::Config, format!("[link.{}]: {what}", self.name));
        let target = self.target_table.fill(table).map_err(|_| {
            refuse(format!("the target of `{table}` would have no legal name"))
                .hint("table names have 3 to 255 characters: shorten `target.table`")
        })?;
        let link = self.shared.clone().link(name, TableRef::Name(table.to_owned()), target);
        if link.is_onto_itself() {
            return Err(refuse(format!("source and target of `{table}` are the same table"))
                .hint("the target must differ in account, Region, endpoint or name"));
        }
        let copies = same_place((&link.source, &link.source_table), (&link.target, &link.target_table))
            && self.patterns.covers(link.target_table.name());
        if copies {
            let what = format!(
                "the target `{}` matches `source.tables`, so it would be copied, too",
                link.target_table.name()
            );
            return Err(refuse(what).hint("add it to `source.exclude`"));
        }
        Ok(link)
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_pattern_covers_the_whole_name() {
        for (pattern, name) in [
            ("PROD_*", "PROD_orders"),
            ("PROD_*", "PROD_"),
            ("*", "x"),
            ("*.v2", "orders.v1.v2"),
            ("a?c", "abc"),
            ("*a*b*", "xxaxxbxx"),
            ("orders", "orders"),
            ("**", "x"),
        ] {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("PROD_*", "prod_orders"),
            ("PROD_*", "xPROD_a"),
            ("a?c", "ac"),
            ("orders", "orders2"),
            ("*.v2", "orders.v2.x"),
            ("", "x"),
        ] {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }
}
