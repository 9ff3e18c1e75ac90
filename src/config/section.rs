//! Reads one section of the tree into typed values, and notes what is wrong with it.
//!
//! A method that reads a key also declares it known; what nobody asked for is reported at the end as unknown, with the
//! nearest known key. A bad value is noted and the default taken, so that one run shows every mistake.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::diagnose::{Collector, nearest, one_of};
use super::tree::{Node, Origin, Table, Value, join};
use super::units::{self, Capacity};

/// A closed set of words, such as `stop` and `dead_letter`.
pub(super) trait Word: Copy + 'static {
    /// Each word with its value.
    const WORDS: &'static [(&'static str, Self)];
    /// Words of a later version: recognized, and refused by name.
    const LATER: &'static [&'static str] = &[];
}

/// A value that is not what was wanted: the complaint and how to mend it.
pub(super) struct Complaint {
    what: String,
    hint: String,
}

impl Complaint {
    pub(super) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }

    /// Names the default where there is no better advice.
    pub(super) fn or_default(self, shown: impl Display) -> Self {
        let hint = if self.hint.is_empty() { format!("the default is {shown}") } else { self.hint };
        Self { hint, ..self }
    }
}

/// One section while it is read.
pub(super) struct Section<'a> {
    path: String,
    at: Origin,
    table: Option<&'a Table>,
    known: Vec<&'static str>,
    refused: Vec<&'static str>,
    /// Whether something else stands where the section should: what is missing in it is not worth a word.
    is_broken: bool,
    problems: &'a Collector<'a>,
}

impl<'a> Section<'a> {
    /// The top level.
    pub(super) fn top(table: &'a Table, problems: &'a Collector<'a>) -> Self {
        Self::at("", Origin::Nowhere, table, problems)
    }

    /// The section of this path.
    pub(super) fn at(path: &str, at: Origin, table: &'a Table, problems: &'a Collector<'a>) -> Self {
        Self {
            path: path.to_owned(),
            at,
            table: Some(table),
            known: Vec::new(),
            refused: Vec::new(),
            is_broken: false,
            problems,
        }
    }

    /// A section inside of this one; all defaults when it is not there.
    pub(super) fn child(&mut self, key: &'static str) -> Section<'a> {
        let node = self.node(key);
        let table = match node {
            Some(Node { value: Value::Table(table), .. }) => Some(table),
            Some(node) => {
                self.complain(
                    key,
                    node,
                    Complaint::new("must be a table", format!("write it as [{}]", join(&self.path, key))),
                );
                None
            }
            None => None,
        };
        let at = node.map_or_else(|| self.at.clone(), |node| node.key.clone());
        Section {
            path: join(&self.path, key),
            at,
            table,
            known: Vec::new(),
            refused: Vec::new(),
            is_broken: node.is_some() && table.is_none(),
            problems: self.problems,
        }
    }

    /// The node of a key, which is known from now on.
    pub(super) fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.and_then(|table| table.get(key))
    }

    /// Where the section begins; nowhere when it is missing.
    pub(super) fn origin(&self) -> Origin {
        self.at.clone()
    }

    /// Where problems go.
    pub(super) fn problems(&self) -> &'a Collector<'a> {
        self.problems
    }

    /// Reads a key.
    pub(super) fn read<T>(&mut self, key: &'static str, read: impl FnOnce(&Node) -> Result<T, Complaint>) -> Option<T> {
        let node = self.node(key)?;
        read(node).map_err(|complaint| self.complain(key, node, complaint)).ok()
    }

    /// Notes that a value of this section is wrong.
    pub(super) fn complain(&self, key: &str, node: &Node, complaint: Complaint) {
        let place = place(if node.home.is_empty() { "" } else { &node.home });
        self.problems.add(&node.at, format!("`{key}` {place} {}", complaint.what), complaint.hint);
    }

    /// Notes that a key is missing.
    pub(super) fn missing(&self, key: &str, hint: impl Into<String>) {
        if !self.is_broken {
            self.problems.add(&self.at, format!("`{key}` is missing {}", place(&self.path)), hint);
        }
    }

    /// Refuses a key that a later version will know.
    pub(super) fn later(&mut self, key: &'static str, what: &str) {
        self.refused.push(key);
        if let Some(node) = self.table.and_then(|table| table.get(key)) {
            let text = format!("`{key}` {} is not available in this version", place(&node.home));
            self.problems.add(&node.key, text, what);
        }
    }

    /// Refuses a key that must never be in the settings.
    pub(super) fn never(&mut self, keys: &[&'static str], why: &str) {
        for key in keys {
            let Some(node) = self.table.and_then(|table| table.get(key)) else { continue };
            self.refused.push(key);
            self.problems.add(&node.key, format!("`{key}` {} is refused", place(&node.home)), why);
        }
    }

    /// Ends the section: every key that nobody asked for is unknown.
    pub(super) fn finish(self) {
        for (key, node) in self.table.into_iter().flat_map(Table::iter) {
            if self.known.contains(&key) || self.refused.contains(&key) {
                continue;
            }
            let hint = match nearest(key, self.known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            self.problems.add(&node.key, format!("unknown key `{key}` {}", place(&node.home)), hint);
        }
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.optional_flag(key).unwrap_or(default)
    }

    pub(super) fn optional_flag(&mut self, key: &'static str) -> Option<bool> {
        self.read(key, |node| match node.value {
            Value::Bool(flag) => Ok(flag),
            _ => {
                let hint = if node.raw.is_some() { "" } else { "write it without quotes" };
                Err(Complaint::new(format!("must be true or false, not {}", node.value.kind()), hint))
            }
        })
    }

    /// A whole number within bounds.
    pub(super) fn integer<N>(&mut self, key: &'static str, default: N, range: RangeInclusive<N>) -> N
    where
        N: TryFrom<i64> + PartialOrd + Display + Copy,
    {
        self.read(key, |node| integer(node, &range).map_err(|complaint| complaint.or_default(default)))
            .unwrap_or(default)
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let shown = units::show_duration(default);
        self.read(key, |node| duration(node, &range).map_err(|complaint| complaint.or_default(shown)))
            .unwrap_or(default)
    }

    /// A size in bytes.
    pub(super) fn size(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let read = |node: &Node| {
            let bytes = match &node.value {
                Value::Text(text) => {
                    units::parse_size(text).ok_or_else(|| Complaint::new("is not a size", units::SIZE_HINT))
                }
                Value::Integer(_) => Err(Complaint::new("is a number without a unit", units::SIZE_HINT)),
                other => Err(Complaint::new(format!("must be a size, not {}", other.kind()), units::SIZE_HINT)),
            }?;
            let within = within(bytes, &range, |bytes| units::show_size(*bytes));
            within.map_err(|complaint| complaint.or_default(units::show_size(default)))
        };
        self.read(key, read).unwrap_or(default)
    }

    /// A share of a table's capacity, or units per second.
    pub(super) fn capacity(&mut self, key: &'static str, default: Capacity) -> Capacity {
        const HINT: &str = "write a share, as in \"25%\" (1% to 100%), or units per second, as in 500";
        let read = |node: &Node| match &node.value {
            Value::Text(text) => match units::parse_percent(text) {
                Some(percent) => Ok(Capacity::Percent(percent)),
                None if text.ends_with('%') => Err(Complaint::new("must be 1% to 100%", HINT)),
                None => Err(Complaint::new("is not a capacity", HINT)),
            },
            Value::Integer(units) => match u64::try_from(*units) {
                Ok(units @ 1..) => Ok(Capacity::Units(units)),
                _ => Err(Complaint::new("must be at least 1", HINT)),
            },
            other => Err(Complaint::new(format!("must be a share or a number, not {}", other.kind()), HINT)),
        };
        self.read(key, read).unwrap_or(default)
    }

    /// One of a closed set of words.
    pub(super) fn word<W: Word>(&mut self, key: &'static str, default: W) -> W {
        self.read(key, word::<W>).unwrap_or(default)
    }

    /// A text that passes a check.
    pub(super) fn text<T>(&mut self, key: &'static str, check: impl FnOnce(&str) -> Result<T, Complaint>) -> Option<T> {
        self.read(key, |node| check(&text(node)?))
    }
}

/// What an empty section reads as: the defaults.
pub(super) fn defaults<T>(read: impl FnOnce(Section<'_>) -> T) -> T {
    let (table, problems) = (Table::default(), Collector::new("", ""));
    read(Section::top(&table, &problems))
}

/// `in [link.orders]`, or `at the top level`.
fn place(section: &str) -> String {
    if section.is_empty() { "at the top level".to_owned() } else { format!("in [{section}]") }
}

/// A node's text. What a variable says counts as text even where it looks like a number.
pub(super) fn text(node: &Node) -> Result<String, Complaint> {
    match (&node.value, &node.raw) {
        (Value::Text(text), _) if !text.is_empty() => Ok(text.clone()),
        (Value::Text(_), _) => Err(Complaint::new("is empty", "give it a value, or leave it out")),
        (Value::Array(_), _) => Err(Complaint::new("must be a text, not a list", "give one, without brackets")),
        (Value::Table(_), _) | (_, None) => {
            Err(Complaint::new(format!("must be a text, not {}", node.value.kind()), "put it in quotes"))
        }
        (_, Some(raw)) => Ok(raw.to_string()),
    }
}

/// A list of texts; a variable's plain text is a list of one.
pub(super) fn texts(node: &Node) -> Result<Vec<(String, Origin)>, Complaint> {
    match &node.value {
        Value::Array(items) if items.is_empty() => {
            Err(Complaint::new("is empty", "list at least one, or leave it out"))
        }
        Value::Array(items) => items.iter().map(|item| Ok((text(item)?, item.at.clone()))).collect(),
        _ if node.raw.is_some() => Ok(vec![(text(node)?, node.at.clone())]),
        other => Err(Complaint::new(format!("must be a list, not {}", other.kind()), "write it in brackets: [\"…\"]")),
    }
}

pub(super) fn word<W: Word>(node: &Node) -> Result<W, Complaint> {
    let words = || W::WORDS.iter().map(|(word, _)| *word);
    let text =
        text(node).map_err(|complaint| Complaint { hint: format!("one of {}", one_of(words())), ..complaint })?;
    if let Some((_, value)) = W::WORDS.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    if W::LATER.contains(&text.as_str()) {
        let what = format!("is `{text}`, which is not available in this version");
        return Err(Complaint::new(what, format!("use {}", one_of(words()))));
    }
    let hint = nearest(&text, words()).map(|meant| format!("did you mean `{meant}`?"));
    Err(Complaint::new(format!("must be {}", one_of(words())), hint.unwrap_or_default()))
}

pub(super) fn integer<N>(node: &Node, range: &RangeInclusive<N>) -> Result<N, Complaint>
where
    N: TryFrom<i64> + PartialOrd + Display + Copy,
{
    match node.value {
        Value::Integer(number) => match N::try_from(number) {
            Ok(number) => within(number, range, ToString::to_string),
            Err(_) => Err(out_of(range, ToString::to_string)),
        },
        Value::Text(_) => Err(Complaint::new(
            "must be a number, not a text",
            format!("{} to {}, without quotes", range.start(), range.end()),
        )),
        _ => Err(Complaint::new(
            format!("must be a whole number, not {}", node.value.kind()),
            format!("{} to {}", range.start(), range.end()),
        )),
    }
}

pub(super) fn duration(node: &Node, range: &RangeInclusive<Duration>) -> Result<Duration, Complaint> {
    let parsed = match &node.value {
        Value::Text(text) => {
            units::parse_duration(text).ok_or_else(|| Complaint::new("is not a duration", units::DURATION_HINT))
        }
        Value::Integer(_) => Err(Complaint::new("is a number without a unit", units::DURATION_HINT)),
        other => Err(Complaint::new(format!("must be a duration, not {}", other.kind()), units::DURATION_HINT)),
    }?;
    within(parsed, range, |duration| units::show_duration(*duration))
}

fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Result<T, Complaint> {
    if range.contains(&value) { Ok(value) } else { Err(out_of(range, show)) }
}

fn out_of<T>(range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Complaint {
    Complaint::new(format!("must be {} to {}", show(range.start()), show(range.end())), "")
}
