//! One link: a source table, a target table, and how the one becomes the other. `[link.NAME]`.

use serde::Serialize;

use super::apply::ApplyConfig;
use super::diagnose::Collector;
use super::load::{LoadConfig, LoadMethod};
use super::pattern::{PatternLink, Patterns, Template};
use super::section::{Complaint, Section, texts};
use super::side::{SideConfig, TableRef};
use super::stream::StreamConfig;
use super::tree::{Node, Origin};
use super::verify::VerifyConfig;

/// One source table and its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkConfig {
    /// `[a-z0-9][a-z0-9_-]*`; a link of a pattern has its table's name behind a dot: `shop.PROD_orders`.
    pub name: String,
    /// How the source is reached.
    pub source: SideConfig,
    /// What is copied.
    pub source_table: TableRef,
    /// How the target is reached.
    pub target: SideConfig,
    /// Where to.
    pub target_table: TableRef,
    /// Whether a missing target is made. Default false.
    pub target_create: bool,
    /// Whether nobody else writes the target, so that target-only keys may be deleted. `None`: true if the link made it
    /// or found it empty.
    pub target_exclusive: Option<bool>,
    /// Whether a load may begin into a target that holds items. Default false.
    pub target_allow_non_empty: bool,
    /// The first copy.
    pub load: LoadConfig,
    /// Writing.
    pub apply: ApplyConfig,
    /// Reading the stream.
    pub stream: StreamConfig,
    /// Comparing.
    pub verify: VerifyConfig,
}

/// What `[link.NAME]` says but for its tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Shared {
    pub(super) source: SideConfig,
    pub(super) target: SideConfig,
    create: bool,
    exclusive: Option<bool>,
    allow_non_empty: bool,
    load: LoadConfig,
    pub(super) apply: ApplyConfig,
    pub(super) stream: StreamConfig,
    verify: VerifyConfig,
}

impl Shared {
    /// The link of two tables.
    pub(super) fn link(self, name: String, source_table: TableRef, target_table: TableRef) -> LinkConfig {
        LinkConfig {
            name,
            source: self.source,
            source_table,
            target: self.target,
            target_table,
            target_create: self.create,
            target_exclusive: self.exclusive,
            target_allow_non_empty: self.allow_non_empty,
            load: self.load,
            apply: self.apply,
            stream: self.stream,
            verify: self.verify,
        }
    }
}

impl LinkConfig {
    /// Whether source and target are one table, as far as it can be seen without asking AWS.
    #[must_use]
    pub fn is_onto_itself(&self) -> bool {
        self.source_table.name() == self.target_table.name()
            && same_place((&self.source, &self.source_table), (&self.target, &self.target_table))
    }

    /// Whether two links write the same table, as far as it can be seen without asking AWS.
    #[must_use]
    pub fn shares_target_with(&self, other: &Self) -> bool {
        self.target_table.name() == other.target_table.name()
            && same_place((&self.target, &self.target_table), (&other.target, &other.target_table))
    }
}

/// Whether two tables are certainly in one account, Region and endpoint. Credentials that cannot be compared count as
/// different: the accounts are compared again online, by table id.
pub(super) fn same_place(one: (&SideConfig, &TableRef), other: (&SideConfig, &TableRef)) -> bool {
    let accounts = match (account(one), account(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => one.0.profile == other.0.profile,
        _ => false,
    };
    accounts && region(one) == region(other) && endpoint(one.0) == endpoint(other.0)
}

fn account<'a>((side, table): (&'a SideConfig, &'a TableRef)) -> Option<&'a str> {
    match table {
        TableRef::Arn(arn) => Some(&arn.account),
        TableRef::Name(_) => side.role_account(),
    }
}

fn region<'a>((side, table): (&'a SideConfig, &'a TableRef)) -> Option<&'a str> {
    match table {
        TableRef::Arn(arn) => Some(&arn.region),
        TableRef::Name(_) => side.region.as_deref(),
    }
}

fn endpoint(side: &SideConfig) -> Option<&str> {
    side.endpoint_url.as_deref().map(|url| url.trim_end_matches('/'))
}

/// A link as it was read: of one table, or of a pattern; with the place to complain about.
pub(super) enum Read {
    One(Box<LinkConfig>, Origin),
    Many(Box<PatternLink>),
}

/// What names the source's table or tables.
enum Tables {
    One(TableRef),
    Many(Patterns),
}

/// Reads one link, defaults merged; `None` when its tables are not known.
pub(super) fn read(name: &str, mut section: Section<'_>) -> Option<Read> {
    let problems = section.problems();
    section.later("filter", "remove it: whole tables are copied");
    section.later("backup", "remove it");
    section.later("export", "remove it");
    let mut source = section.child("source");
    let source_side = SideConfig::read(&mut source);
    let tables = source_tables(&mut source);
    if let Some(Tables::One(table)) = &tables {
        check_region(&mut source, table);
    }
    source.finish();

    let mut target = section.child("target");
    let target_side = SideConfig::read(&mut target);
    let place = target.node("table");
    let template = target.text("table", Template::parse);
    let (create, exclusive) = (target.flag("create", false), target.optional_flag("exclusive"));
    let allow_non_empty = target.flag("allow_non_empty", false);

    let mut load = section.child("load");
    if let (Some(node), Some(Tables::Many(_))) = (load.node("from_export"), &tables) {
        let complaint =
            Complaint::new("is of one table, and `source.tables` names many", "name it with `source.table`");
        load.complain("from_export", node, complaint);
    }
    let load = LoadConfig::read(load);
    match load.method {
        LoadMethod::Export => refuse_with_export(&mut target, allow_non_empty, exclusive),
        LoadMethod::Import => refuse_with_import(&mut target, (create, allow_non_empty, exclusive)),
        LoadMethod::Scan | LoadMethod::None => {}
    }
    let shared = Shared {
        source: source_side,
        target: target_side,
        create,
        exclusive,
        allow_non_empty,
        apply: ApplyConfig::read(section.child("apply")),
        stream: StreamConfig::read(section.child("stream"), load.method),
        verify: VerifyConfig::read(section.child("verify")),
        load,
    };
    section.finish();

    let template = match (template, place) {
        (Some(template), _) => template,
        (None, None) => Template::same_name(),
        (None, Some(_)) => {
            target.finish();
            return None;
        }
    };
    let read = pair(name, tables, template, shared, (&mut target, place));
    target.finish();
    read.inspect(|read| refuse_itself(read, problems))
}

/// An export is loaded into an empty table that is nobody else's.
fn refuse_with_export(target: &mut Section<'_>, allow_non_empty: bool, exclusive: Option<bool>) {
    let mut refuse = |key, is_wrong, why: &str| {
        if is_wrong && let Some(node) = target.node(key) {
            target.complain(key, node, Complaint::new("does not go with an export", why));
        }
    };
    refuse("allow_non_empty", allow_non_empty, "an export is loaded into an empty table");
    refuse("exclusive", exclusive == Some(false), "while an export is loaded nobody else may write its target");
}

/// An import makes its table, which is nobody else's before it is whole.
fn refuse_with_import(target: &mut Section<'_>, (create, allow_non_empty, exclusive): (bool, bool, Option<bool>)) {
    let mut refuse = |key, is_wrong, why: &str| {
        // Among the defaults it is for those links that it fits.
        let is_meant = |node: &&Node| key != "create" || !node.home.starts_with("defaults");
        if is_wrong && let Some(node) = target.node(key).filter(is_meant) {
            target.complain(key, node, Complaint::new("does not go with an import", why));
        }
    };
    refuse("create", !create, "an import makes its table: remove it, or use `load.method = \"export\"`");
    refuse("allow_non_empty", allow_non_empty, "an import makes its table");
    refuse("exclusive", exclusive == Some(false), "while a table is imported nobody else may write it");
}

/// Joins the tables of both sides.
fn pair(
    name: &str,
    tables: Option<Tables>,
    template: Template,
    shared: Shared,
    (target, place): (&mut Section<'_>, Option<&Node>),
) -> Option<Read> {
    match tables? {
        Tables::One(source) => {
            let written = match template.fill(source.name()) {
                Ok(table) => table,
                Err(complaint) => {
                    if let Some(node) = place {
                        target.complain("table", node, complaint);
                    }
                    return None;
                }
            };
            check_region(target, &written);
            let origin = place.map_or(target.origin(), |node| node.at.clone());
            Some(Read::One(Box::new(shared.link(name.to_owned(), source, written)), origin))
        }
        Tables::Many(patterns) => {
            if let (false, Some(node)) = (template.varies(), place) {
                let complaint = Complaint::new("is one table for many", "as in \"copy-of-{table}\"");
                target.complain("table", node, complaint);
            }
            Some(Read::Many(Box::new(PatternLink::new(name, patterns, template, shared))))
        }
    }
}

fn refuse_itself(read: &Read, problems: &Collector<'_>) {
    if let Read::One(link, origin) = read
        && link.is_onto_itself()
    {
        let what =
            format!("source and target of [link.{}] are the same table, `{}`", link.name, link.target_table.name());
        problems.add(origin, what, "the target must differ in account, Region, endpoint or name");
    }
}

fn source_tables(section: &mut Section<'_>) -> Option<Tables> {
    let (one, many, exclude) = (section.node("table"), section.node("tables"), section.node("exclude"));
    if let (Some(node), None) = (exclude, many) {
        section.complain("exclude", node, Complaint::new("has no effect without `tables`", "remove it"));
    }
    match (one, many) {
        (Some(_), Some(node)) => {
            section.complain("tables", node, Complaint::new("and `table` exclude each other", "keep one"));
            None
        }
        (Some(_), None) => section.text("table", TableRef::parse).map(Tables::One),
        (None, Some(_)) => {
            let tables = section.read("tables", texts)?;
            let exclude = section.read("exclude", texts).unwrap_or_default();
            Patterns::parse(&tables, &exclude, section).map(Tables::Many)
        }
        (None, None) => {
            section.missing("table", "add `source.table = \"…\"`, or `source.tables = [\"…\"]`");
            None
        }
    }
}

/// Refuses an ARN of another Region than the side's.
fn check_region(section: &mut Section<'_>, table: &TableRef) {
    let Some(node) = section.node("region") else { return };
    let region = section.text("region", |text| Ok(text.to_owned()));
    if let (TableRef::Arn(arn), Some(region)) = (table, region)
        && arn.region != region
    {
        let what = format!("is `{region}`, but the table's ARN names `{}`", arn.region);
        section.complain("region", node, Complaint::new(what, "make them the same"));
    }
}
