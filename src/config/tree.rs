//! The settings as a tree of nodes, each with the place where it was written.
//!
//! A TOML file becomes such a tree, environment variables and command-line options are set into it, defaults are
//! merged into the links; only then is it read into typed settings. Because every node keeps its origin through all
//! that, any complaint can point at the line, or name the variable, that caused it. Knows no key by name except the
//! pairs that replace each other.

use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

/// Keys that say the same thing in two ways: the one written later, or nearer, removes the other.
const ALTERNATIVES: &[&[&str]] = &[&["external_id", "external_id_file"], &["table", "tables"]];

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Bytes of the file.
    File(Range<usize>),
    /// An environment variable or a command-line option, by name.
    Said(Arc<str>),
    /// Nowhere: it is missing.
    Nowhere,
}

/// One value with its places.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Where its key was written.
    pub(super) key: Origin,
    /// Where it was written.
    pub(super) at: Origin,
    /// The section in which it was written: `defaults.source`, also after it was merged into a link.
    pub(super) home: Arc<str>,
    /// The value.
    pub(super) value: Value,
    /// The text of a variable or option as it was given, before it was taken for a number or the like.
    pub(super) raw: Option<Arc<str>>,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    /// What no setting takes, by name: a fraction, or a number beyond 64 bits.
    Other(&'static str),
    Bool(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
}

impl Value {
    /// The kind, with its article, for complaints.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Other(kind) => kind,
            Self::Bool(_) => "a boolean",
            Self::Datetime(_) => "a date",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Keys and values in the order in which they were written.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    entries: Vec<(String, Node)>,
}

impl Table {
    /// The tree of a parsed file.
    pub(super) fn from_toml(table: &DeTable<'_>) -> Self {
        Self::from_section(table, "")
    }

    fn from_section(table: &DeTable<'_>, home: &str) -> Self {
        let shared: Arc<str> = home.into();
        let entry = |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
            let name = key.get_ref().to_string();
            let node = node(key.span(), value, Arc::clone(&shared), &join(home, &name));
            (name, node)
        };
        Self { entries: table.iter().map(entry).collect() }
    }

    /// Keys with their nodes, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.entries.iter().map(|(key, node)| (key.as_str(), node))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The table under a key, if there is one.
    pub(super) fn table(&self, key: &str) -> Option<&Self> {
        match self.get(key) {
            Some(Node { value: Value::Table(table), .. }) => Some(table),
            _ => None,
        }
    }

    /// Sets the value at a path; makes the tables on the way. `false` when a value is in the way.
    pub(super) fn set(&mut self, path: &[String], home: &str, node: Node) -> bool {
        match path {
            [] => false,
            [key] => {
                let rivals = rivals(key);
                self.entries.retain(|(name, _)| name != key && !rivals.contains(&name.as_str()));
                self.entries.push((key.clone(), node));
                true
            }
            [key, rest @ ..] => {
                if self.get(key).is_none() {
                    let between = Node {
                        key: node.key.clone(),
                        at: node.at.clone(),
                        home: home.into(),
                        value: Value::Table(Self::default()),
                        raw: None,
                    };
                    self.entries.push((key.clone(), between));
                }
                match self.entries.iter_mut().find(|(name, _)| name == key) {
                    Some((_, Node { value: Value::Table(table), .. })) => table.set(rest, &join(home, key), node),
                    _ => false,
                }
            }
        }
    }

    /// This table over its defaults: what it says wins, key by key, deep.
    pub(super) fn over(&self, defaults: &Self) -> Self {
        let mut entries = self.entries.clone();
        for (key, default) in &defaults.entries {
            let rivals = rivals(key);
            if rivals.iter().any(|rival| self.get(rival).is_some()) {
                continue;
            }
            match entries.iter_mut().find(|(name, _)| name == key) {
                None => entries.push((key.clone(), default.clone())),
                Some((_, Node { value: Value::Table(own), .. })) => {
                    if let Value::Table(default) = &default.value {
                        *own = own.over(default);
                    }
                }
                Some(_) => {}
            }
        }
        Self { entries }
    }
}

/// The dotted path of a key in a section; the top level has no name.
pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// The other keys of the group of alternatives to which a key belongs.
fn rivals(key: &str) -> Vec<&'static str> {
    let group = ALTERNATIVES.iter().find(|group| group.contains(&key));
    group.map(|group| group.iter().copied().filter(|rival| *rival != key).collect()).unwrap_or_default()
}

fn node(key: Range<usize>, value: &toml::Spanned<DeValue<'_>>, home: Arc<str>, path: &str) -> Node {
    let inner = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number beyond 64 bits"), Value::Integer),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(time) => Value::Datetime(time.to_string()),
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| node(item.span(), item, Arc::clone(&home), path)).collect())
        }
        DeValue::Table(table) => Value::Table(Table::from_section(table, path)),
    };
    Node { key: Origin::File(key), at: Origin::File(value.span()), home, value: inner, raw: None }
}

/// The node of a variable or option: its text taken as a TOML scalar or list, else as plain text.
pub(super) fn said(name: &str, text: &str, home: &str) -> Node {
    let origin = Origin::Said(name.into());
    let value = match DeValue::parse(text.trim()) {
        Ok(parsed) if !matches!(parsed.get_ref(), DeValue::Table(_)) => {
            let mut parsed = node(0..0, &parsed, home.into(), home);
            if let Value::Array(items) = &mut parsed.value {
                items.iter_mut().for_each(|item| {
                    item.key = origin.clone();
                    item.at = origin.clone();
                });
            }
            parsed.value
        }
        _ => Value::Text(text.to_owned()),
    };
    Node { key: origin.clone(), at: origin, home: home.into(), value, raw: Some(text.into()) }
}
