//! Environment variables over the file: `DYNAFERRY__LINK__ORDERS__APPLY__MAX_WCU=500`.
//!
//! Two underscores part the keys. A link is found by its name in capitals with `_` for `-`; a name that no link has
//! makes a new one, so that a container needs no file at all.

use super::diagnose::Collector;
use super::tree::{Origin, Table, said};

/// What a variable that is a setting begins with. `DYNAFERRY_CONFIG` is none.
const PREFIX: &str = "DYNAFERRY__";

/// Sets every setting of the environment, in the order of the variables' names.
pub(super) fn apply(tree: &mut Table, mut variables: Vec<(String, String)>, problems: &Collector<'_>) {
    for (name, meant) in variables.iter().filter_map(|(name, _)| Some((name, meant(name)?))) {
        let what = "is no setting: two underscores part the keys";
        problems.add(&Origin::Said(name.as_str().into()), what, format!("did you mean {meant}?"));
    }
    variables.retain(|(name, _)| name.starts_with(PREFIX));
    variables.sort();
    for (name, text) in variables {
        let origin = Origin::Said(name.as_str().into());
        match path(&name, tree) {
            Ok(path) => set(tree, &path, &name, &text, problems),
            Err((what, hint)) => problems.add(&origin, what, hint),
        }
    }
}

/// The setting that a variable with too few underscores is meant to be. Kubernetes puts variables such as
/// `DYNAFERRY_SERVICE_HOST` and `DYNAFERRY_PORT` into every container beside a Service named `dynaferry`: only what is
/// the name of a setting is taken for one.
fn meant(name: &str) -> Option<String> {
    const SETTINGS: [(&str, &[&str]); 3] = [
        ("CHECKPOINT", &["STORE", "INTERVAL", "RECORDS", "NAMESPACE", "LEASE"]),
        ("SERVICE", &["LISTEN", "DRAIN"]),
        ("TELEMETRY", &["LOG_FORMAT", "LOG_LEVEL"]),
    ];
    let rest = name.strip_prefix("DYNAFERRY_")?;
    let is_meant = |section: &str, key: &str| {
        let keys = rest.trim_start_matches('_').strip_prefix(section).map(|rest| rest.trim_start_matches('_'));
        keys == Some(key)
    };
    let of = |(section, keys): &(&str, &[&str])| {
        let key = keys.iter().find(|key| is_meant(section, key))?;
        Some(format!("{PREFIX}{section}__{key}"))
    };
    SETTINGS.iter().find_map(of).filter(|meant| meant != name)
}

/// Sets one value, given by a variable or an option.
pub(super) fn set(tree: &mut Table, path: &[String], name: &str, text: &str, problems: &Collector<'_>) {
    let home = path.split_last().map(|(_, home)| home.join(".")).unwrap_or_default();
    if !tree.set(path, "", said(name, text, &home)) {
        let what = format!("`{}` is not a table in the file, so nothing can be set in it", home);
        problems.add(&Origin::Said(name.into()), what, "");
    }
}

/// The keys that a variable names, or why it names none.
fn path(name: &str, tree: &Table) -> Result<Vec<String>, (String, &'static str)> {
    const SHAPE: &str = "as in DYNAFERRY__LINK__ORDERS__APPLY__MAX_WCU";
    let rest = name.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
    let mut path = Vec::new();
    let mut keys = rest.as_str();
    if let Some(after) = rest.strip_prefix("link__") {
        path.push("link".to_owned());
        if let Some((link, rest)) = link(after, tree)? {
            path.push(link);
            keys = rest;
        } else {
            keys = after;
        }
    }
    path.extend(keys.split("__").map(str::to_owned));
    if path.iter().any(String::is_empty) {
        return Err(("names no setting".to_owned(), SHAPE));
    }
    Ok(path)
}

/// The link that is meant, and the rest of the name; the longest match wins, since names may hold `__`.
fn link<'a>(keys: &'a str, tree: &Table) -> Result<Option<(String, &'a str)>, (String, &'static str)> {
    let names = tree.table("link").into_iter().flat_map(Table::iter).map(|(name, _)| name);
    let mut found: Vec<(&str, &str)> = names
        .filter_map(|name| {
            let rest = keys.strip_prefix(&name.to_ascii_lowercase().replace('-', "_"))?.strip_prefix("__")?;
            Some((name, rest))
        })
        .collect();
    found.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    match found.as_slice() {
        [] => Ok(None),
        [(one, _), (other, _), ..] if one.len() == other.len() => {
            Err((format!("may mean link `{one}` or link `{other}`"), "rename one of them"))
        }
        [(name, rest), ..] => Ok(Some(((*name).to_owned(), rest))),
    }
}
