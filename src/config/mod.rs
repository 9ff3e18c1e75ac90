//! Typed settings; the only reader of files and environment.
//!
//! ```text
//! file ─→ tree ─→ environment, options ─→ defaults into links ─→ typed settings, or every mistake with its place
//! ```
//!
//! [`load()`] finds and reads the file, [`parse`] takes its text, [`LinkConfig::from_arns`] needs none. The environment is
//! passed in. Knows no client and no clock; a failure ends with exit 8. Results are read only by convention: they are
//! plain values that own themselves, so tests may change them.

mod apply;
mod builder;
mod diagnose;
mod file;
mod link;
mod load;
mod overlay;
mod pattern;
mod section;
mod service;
mod side;
mod stream;
#[cfg(test)]
mod tests;
mod tree;
mod units;
mod verify;

use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::de::DeTable;

pub use apply::{
    ATTEMPT_TIMEOUT_RANGE, ApplyConfig, BATCH_ITEMS_RANGE, DEFAULT_ATTEMPT_TIMEOUT, DEFAULT_BATCH_ITEMS,
    DEFAULT_IN_DOUBT_FOR, DEFAULT_LOOK_AHEAD_BYTES, DEFAULT_LOOK_AHEAD_RECORDS, DEFAULT_MAX_IN_FLIGHT,
    DEFAULT_WRITE_CAPACITY, IN_DOUBT_FOR_RANGE, LOOK_AHEAD_BYTES_RANGE, LOOK_AHEAD_RECORDS_RANGE, MAX_FENCED_IN_FLIGHT,
    MAX_IN_FLIGHT_RANGE, MAX_WCU_RANGE, OnRejected, WriteFence,
};
pub use builder::LinkBuilder;
pub use diagnose::{Problem, Problems};
pub use file::{DEFAULT_FILES, FILE_VARIABLE};
pub use link::LinkConfig;
pub use load::{
    DEFAULT_LOAD_CONCURRENCY, DEFAULT_READ_CAPACITY, LOAD_CONCURRENCY_RANGE, LoadConfig, LoadMethod, SEGMENTS_RANGE,
    Segments,
};
pub use pattern::PatternLink;
pub use service::{
    CHECKPOINT_INTERVAL_RANGE, CHECKPOINT_RECORDS_RANGE, CheckpointConfig, DEFAULT_BALANCE,
    DEFAULT_CHECKPOINT_INTERVAL, DEFAULT_CHECKPOINT_RECORDS, DEFAULT_DRAIN, DEFAULT_LEASE, DEFAULT_LISTEN,
    DEFAULT_NAMESPACE, DEFAULT_SHARING, DEFAULT_STORE, DRAIN_RANGE, LEASE_RANGE, LogFormat, LogLevel, ServiceConfig,
    Store, TelemetryConfig,
};
pub use side::{DEFAULT_SESSION_NAME, ExternalId, SideConfig, TableRef};
pub use stream::{
    DEFAULT_DISCOVERY_INTERVAL, DEFAULT_MAX_CONCURRENT_SHARDS, DEFAULT_POLL_MAX, DEFAULT_POLL_MIN,
    DISCOVERY_INTERVAL_RANGE, MAX_CONCURRENT_SHARDS_RANGE, MAX_RECORD_AGE_RANGE, OnGap, POLL_RANGE, StreamConfig,
    StreamStart, TtlDeletes,
};
pub use units::Capacity;
pub use verify::{DEFAULT_VERIFY_RATE, VerifyConfig};

use diagnose::{Collector, nearest};
use link::Read;
use section::{Complaint, Section, integer};
use tree::{Origin, Table, Value, join};

/// The only version of the format.
const VERSION: u32 = 1;

/// Everything that the user set, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// The file that was read; `None` when all came from variables or options.
    pub file: Option<PathBuf>,
    /// Links of one table, in file order.
    pub links: Vec<LinkConfig>,
    /// Links of many tables, to be expanded at run time.
    pub patterns: Vec<PatternLink>,
    /// Progress.
    pub checkpoint: CheckpointConfig,
    /// The process.
    pub service: ServiceConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

impl Config {
    /// The targets' account, where a table of state is. Links that write to several have none: see [`parse`].
    #[must_use]
    pub fn state_side(&self) -> Option<&SideConfig> {
        let links = self.links.iter().map(|link| &link.target);
        links.chain(self.patterns.iter().map(PatternLink::target)).next()
    }
}

/// Reads the settings: from `named` (the option `--config`), else the file that `DYNAFERRY_CONFIG` names, else the first
/// of [`DEFAULT_FILES`] that exists, else the environment alone; and the environment over it.
///
/// # Errors
/// Everything that is wrong, at once. Converts into an [`Error`](crate::error::Error) with exit 8.
pub fn load(named: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, Problems> {
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    let variable = environment.iter().find(|(name, text)| name == FILE_VARIABLE && !text.is_empty());
    let by_variable = variable.map(|(_, path)| (Path::new(path), FILE_VARIABLE));
    match file::find(named.map(|path| (path, "--config")).or(by_variable), &DEFAULT_FILES)? {
        Some(read) => {
            let config = parse(&shown(&read.path), &read.text, environment)?;
            Ok(Config { file: Some(read.path), ..config })
        }
        None if environment.iter().any(|(name, _)| name.starts_with("DYNAFERRY__")) => parse("", "", environment),
        None => Err(Problems::one(
            format!("no config file: looked for {}", DEFAULT_FILES.join(", ")),
            "name one with --config, or give --source and --target",
        )),
    }
}

/// Reads the settings from a file's text, called `name` in complaints, with the environment over it.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn parse(
    name: &str,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, Problems> {
    let problems = Collector::new(name, text);
    let (document, mistakes) = DeTable::parse_recoverable(text);
    for mistake in mistakes {
        let mut lines = mistake.message().lines();
        let what = lines.next().unwrap_or("is not TOML").to_owned();
        let origin = mistake.span().map_or(Origin::Nowhere, Origin::File);
        problems.add(&origin, what, lines.collect::<Vec<_>>().join(", "));
    }
    if !problems.is_clean() {
        // What follows from a broken tree would only hide the cause.
        return problems.finish(()).and_then(|()| Err(Problems::one("the file is not TOML", "")));
    }
    let mut tree = Table::from_toml(document.get_ref());
    overlay::apply(&mut tree, environment.into_iter().collect(), &problems);
    let config = assemble(&tree, !text.is_empty(), &problems);
    problems.finish(config)
}

impl Config {
    /// What is valid, and most likely not what is meant: a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let links = self.links.iter().map(|link| (link.name.as_str(), &link.apply, &link.target));
        let patterns = self.patterns.iter().map(|link| (link.name(), link.apply(), link.target()));
        let is_early = |apply: &ApplyConfig, target: &SideConfig| {
            apply.in_doubt_for < DEFAULT_IN_DOUBT_FOR && target.endpoint_url.is_none()
        };
        let early = links.chain(patterns).filter(|(_, apply, target)| is_early(apply, target));
        early
            .map(|(link, apply, _)| {
                format!(
                    "[link.{link}]: `apply.in_doubt_for` is {:?}: at AWS a write whose answer was lost may land for up to 16 \
                     minutes, and what it puts back after that time stays; leave the default there",
                    apply.in_doubt_for
                )
            })
            .collect()
    }
}

/// Reads the tree; what it notes among the problems decides whether the result counts.
fn assemble(tree: &Table, from_file: bool, problems: &Collector<'_>) -> Config {
    let mut top = Section::top(tree, problems);
    version(&mut top, from_file);
    let empty = Table::default();
    let defaults = tree.table("defaults").unwrap_or(&empty);
    check_defaults(top.child("defaults"));
    let named = top.child("link");
    let mut config = Config {
        file: None,
        links: Vec::new(),
        patterns: Vec::new(),
        checkpoint: CheckpointConfig::read(top.child("checkpoint")),
        service: ServiceConfig::read(top.child("service")),
        telemetry: TelemetryConfig::read(top.child("telemetry")),
    };
    if tree.table("link").is_none_or(|links| links.iter().next().is_none()) {
        problems.add(&Origin::Nowhere, "there is no link", "add [link.NAME] with `source.table` and `target.table`");
    }
    top.finish();
    read_links(tree, defaults, &named, &mut config);
    check_state_table(tree, &config, problems);
    check_fences(tree, &config, problems);
    config
}

/// A fence is an item of the state table, one for each request on the wire.
fn check_fences(tree: &Table, config: &Config, problems: &Collector<'_>) {
    let links = config.links.iter().map(|link| (link.name.as_str(), &link.apply));
    let all = links.chain(config.patterns.iter().map(|link| (link.name(), link.apply())));
    for (name, apply) in all.filter(|(_, apply)| apply.fence == WriteFence::Transaction) {
        let own = tree.table("link").and_then(|links| links.table(name));
        let sections = [own, tree.table("defaults")].into_iter().flatten().filter_map(|section| section.table("apply"));
        let node =
            |key: &str| sections.clone().find_map(|section| section.get(key)).map_or(&Origin::Nowhere, |node| &node.at);
        if !matches!(config.checkpoint.store, Store::DynamoDb(_)) {
            let what = format!(
                "`fence = \"transaction\"` in [link.{name}.apply] needs the state in a table of the target's account"
            );
            problems.add(node("fence"), what, "set `store = \"dynamodb:TABLE\"` in [checkpoint]");
        }
        if config.checkpoint.sharing {
            let what =
                format!("`fence = \"transaction\"` in [link.{name}.apply] does not go with `sharing` in [checkpoint]");
            problems.add(node("fence"), what, "leave one of both out");
        }
        if apply.max_in_flight > MAX_FENCED_IN_FLIGHT {
            let what = format!(
                "`max_in_flight` in [link.{name}.apply] must be 1 to {MAX_FENCED_IN_FLIGHT} with `fence = \"transaction\"`"
            );
            problems.add(
                node("max_in_flight"),
                what,
                "each request on the wire has an item of the state table for itself",
            );
        }
    }
}

/// A table of state is in the account and Region of the targets, so there must be one such place; and it is no target.
fn check_state_table(tree: &Table, config: &Config, problems: &Collector<'_>) {
    check_sharing(tree, config, problems);
    let Store::DynamoDb(table) = &config.checkpoint.store else { return };
    let node = tree.table("checkpoint").and_then(|section| section.get("store"));
    let origin = node.map_or(&Origin::Nowhere, |node| &node.at);
    let mut sides = config.links.iter().map(|link| &link.target);
    let mut sides = sides.by_ref().chain(config.patterns.iter().map(PatternLink::target));
    if let Some(first) = sides.next()
        && sides.any(|other| other != first)
    {
        let what = "`store` in [checkpoint] is a table in the targets' account, but the links' target settings differ";
        problems.add(
            origin,
            what,
            "set Region, role and endpoint in [defaults.target], or run one process for each account",
        );
    }
    if let Some(link) = config.links.iter().find(|link| link.target_table.name() == table) {
        let what = format!("`store` in [checkpoint] is the target table of [link.{}]", link.name);
        problems.add(origin, what, "give the state a table of its own");
    }
}

/// A file is one process's; and parts that stay where they are are the first worker's.
fn check_sharing(tree: &Table, config: &Config, problems: &Collector<'_>) {
    if !config.checkpoint.sharing {
        return;
    }
    let node = tree.table("checkpoint").and_then(|section| section.get("sharing"));
    let origin = node.map_or(&Origin::Nowhere, |node| &node.at);
    if matches!(config.checkpoint.store, Store::File(_)) {
        let what = "`sharing` in [checkpoint] is of workers that share a table, and the state is in a file";
        problems.add(origin, what, "set `checkpoint.store` to \"dynamodb:TABLE\", or remove `sharing`");
    } else if !config.checkpoint.balance {
        let what = "`sharing` in [checkpoint] needs `balance`: else who comes first has all parts of a link";
        problems.add(origin, what, "remove `balance = false`, or `sharing`");
    }
}

fn read_links(tree: &Table, defaults: &Table, named: &Section<'_>, config: &mut Config) {
    let problems = named.problems();
    for (name, node) in tree.table("link").into_iter().flat_map(Table::iter) {
        if !is_link_name(name) {
            let hint = "small letters, digits, `_` and `-`, the first a letter or a digit";
            problems.add(&node.key, format!("`{name}` is not a name for a link"), hint);
        }
        let Value::Table(own) = &node.value else {
            named.complain(name, node, Complaint::new("must be a table", format!("write it as [link.{name}]")));
            continue;
        };
        let merged = own.over(defaults);
        let section = Section::at(&join("link", name), node.key.clone(), &merged, problems);
        match link::read(name, section) {
            Some(Read::One(link, origin)) => {
                if let Some(other) = config.links.iter().find(|other| other.shares_target_with(&link)) {
                    let what = format!("[link.{}] and [link.{name}] write the same table", other.name);
                    problems.add(&origin, what, "give each its own target");
                }
                config.links.push(*link);
            }
            Some(Read::Many(link)) => config.patterns.push(*link),
            None => suggest_variable(name, &node.key, tree, problems),
        }
    }
}

/// A link that variables made, and that has no tables, was probably meant to be one of the file's.
fn suggest_variable(name: &str, said: &Origin, tree: &Table, problems: &Collector<'_>) {
    let others = tree.table("link").into_iter().flat_map(Table::iter).map(|(other, _)| other);
    if let (Origin::Said(_), Some(meant)) = (said, nearest(name, others.filter(|other| *other != name))) {
        problems.add(said, format!("there is no link `{name}` in the file"), format!("did you mean `{meant}`?"));
    }
}

/// Refuses links of which two write the same table: for the caller who expanded patterns.
///
/// # Errors
/// Exit 8.
pub fn check_targets(links: &[LinkConfig]) -> crate::error::Result<()> {
    for (index, link) in links.iter().enumerate() {
        if let Some(other) = links.iter().take(index).find(|other| other.shares_target_with(link)) {
            let what =
                format!("links `{}` and `{}` write the same table, `{}`", other.name, link.name, link.target_table);
            let error = crate::error::Error::new(crate::error::Exit::Config, what);
            return Err(error.hint("use `source.exclude`, or give each its own target"));
        }
    }
    Ok(())
}

fn version(top: &mut Section<'_>, from_file: bool) {
    let range = VERSION..=VERSION;
    match top.node("version") {
        Some(node) => match integer(node, &range) {
            Ok(_) => {}
            Err(_) => top.complain("version", node, Complaint::new("is not one that this program knows", "write 1")),
        },
        None if from_file => {
            let what = "`version` is missing at the top level";
            top.problems().add(&Origin::File(0..0), what, "begin the file with `version = 1`");
        }
        None => {}
    }
}

/// Refuses what no link can inherit.
fn check_defaults(mut defaults: Section<'_>) {
    for key in ["load", "apply", "stream", "verify", "filter"] {
        defaults.node(key);
    }
    let mut source = defaults.child("source");
    for key in ["table", "tables", "exclude"] {
        if let Some(node) = source.node(key) {
            source.complain(key, node, Complaint::new("cannot be a default", "set it in [link.NAME]"));
        }
    }
    let mut target = defaults.child("target");
    if let Some(node) = target.node("table")
        && !matches!(&node.value, Value::Text(text) if text.contains("{table}"))
    {
        target.complain("table", node, Complaint::new("would be one table for all links", "as in \"copy-of-{table}\""));
    }
    defaults.finish();
}

/// `[a-z0-9][a-z0-9_-]*`.
fn is_link_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    name.bytes().all(inner) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// A path without the `./` of the default.
fn shown(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

/// A suggestion among the names of the links, for who asks for one that does not exist.
#[must_use]
pub fn suggest_link<'a>(config: &'a Config, given: &str) -> Option<&'a str> {
    nearest(given, config.links.iter().map(|link| link.name.as_str()))
}
