//! Tokens, placeholders, document paths and projections.

use std::collections::{BTreeMap, BTreeSet};

use crate::sandbox::reply::ApiError;
use crate::sandbox::value::{Item, Stored, Value, Wire, WireItem, read_item, write_item};

/// The placeholders of a request. [`Names::finish`] refuses those that no expression used.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Names {
    names: BTreeMap<String, String>,
    values: BTreeMap<String, Value>,
    used: BTreeSet<String>,
}

impl Names {
    pub(in crate::sandbox) fn new(
        names: BTreeMap<String, String>,
        values: BTreeMap<String, Wire>,
    ) -> Result<Self, ApiError> {
        let values: WireItem = values;
        Ok(Self { names, values: read_item(values)?, used: BTreeSet::new() })
    }

    fn name(&mut self, text: &str) -> Result<String, ApiError> {
        if !text.starts_with('#') {
            return Ok(text.to_owned());
        }
        self.used.insert(text.to_owned());
        self.names.get(text).cloned().ok_or_else(|| {
            invalid(&format!(
                "An expression attribute name used in the document path is not defined; attribute name: {text}"
            ))
        })
    }

    fn value(&mut self, text: &str) -> Result<Value, ApiError> {
        self.used.insert(text.to_owned());
        self.values.get(text).cloned().ok_or_else(|| {
            invalid(&format!(
                "An expression attribute value used in expression is not defined; attribute value: {text}"
            ))
        })
    }

    /// Checks that every placeholder was used.
    pub(in crate::sandbox) fn finish(self) -> Result<(), ApiError> {
        for (member, mut keys) in [
            ("ExpressionAttributeNames", self.names.keys().collect::<Vec<_>>()),
            ("ExpressionAttributeValues", self.values.keys().collect()),
        ] {
            keys.retain(|key| !self.used.contains(*key));
            if let Some(key) = keys.first() {
                return Err(ApiError::validation(format!(
                    "Value provided in {member} unused in expressions: keys: {{{key}}}"
                )));
            }
        }
        Ok(())
    }
}

pub(super) fn invalid(reason: &str) -> ApiError {
    ApiError::validation(format!("Invalid expression: {reason}"))
}

/// One step of a document path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) enum Step {
    Name(String),
    Index(usize),
}

/// A document path: an attribute's name, then names and indices inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) struct Path {
    pub(super) top: String,
    pub(super) inner: Vec<Step>,
}

impl Path {
    /// The value at this path.
    pub(super) fn find<'a>(&self, item: &'a Item) -> Option<&'a Value> {
        self.inner.iter().try_fold(item.get(&self.top)?, |value, step| match (value, step) {
            (Value::M(map), Step::Name(name)) => map.get(name),
            (Value::L(list), Step::Index(index)) => list.get(*index),
            _ => None,
        })
    }
}

/// A value that an expression computes.
#[derive(Debug, Clone)]
pub(in crate::sandbox) enum Operand {
    Path(Path),
    Value(Value),
    Size(Path),
    IfNotExists(Path, Box<Operand>),
    ListAppend(Box<Operand>, Box<Operand>),
}

/// Tokens of an expression, read from the front.
pub(super) struct Parser<'a> {
    tokens: std::iter::Peekable<std::vec::IntoIter<String>>,
    names: &'a mut Names,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &str, names: &'a mut Names) -> Result<Self, ApiError> {
        Ok(Self { tokens: tokenize(text)?.into_iter().peekable(), names })
    }

    pub(super) fn peek(&mut self) -> Option<&str> {
        self.tokens.peek().map(String::as_str)
    }

    pub(super) fn next(&mut self) -> Result<String, ApiError> {
        self.tokens.next().ok_or_else(|| invalid("Syntax error; token: <EOF>"))
    }

    /// Takes a word (in any case) or symbol if it comes next.
    pub(super) fn take(&mut self, wanted: &str) -> bool {
        self.tokens.next_if(|token| token.eq_ignore_ascii_case(wanted)).is_some()
    }

    pub(super) fn expect(&mut self, wanted: &str) -> Result<(), ApiError> {
        let token = self.next()?;
        if token == wanted { Ok(()) } else { Err(invalid(&format!("Syntax error; token: \"{token}\""))) }
    }

    pub(super) fn end(&mut self) -> Result<(), ApiError> {
        match self.tokens.next() {
            None => Ok(()),
            Some(token) => Err(invalid(&format!("Syntax error; token: \"{token}\""))),
        }
    }

    pub(super) fn path(&mut self) -> Result<Path, ApiError> {
        let token = self.next()?;
        self.path_from(&token)
    }

    fn path_from(&mut self, token: &str) -> Result<Path, ApiError> {
        if !token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '#') {
            return Err(invalid(&format!("Syntax error; token: \"{token}\"")));
        }
        let mut path = Path { top: self.names.name(token)?, inner: Vec::new() };
        loop {
            if self.take(".") {
                let name = self.next()?;
                path.inner.push(Step::Name(self.names.name(&name)?));
            } else if self.take("[") {
                let index = self.next()?.parse().map_err(|_| invalid("Syntax error; list index"))?;
                path.inner.push(Step::Index(index));
                self.expect("]")?;
            } else {
                return Ok(path);
            }
        }
    }

    pub(super) fn operand(&mut self) -> Result<Operand, ApiError> {
        let token = self.next()?;
        if token.starts_with(':') {
            return Ok(Operand::Value(self.names.value(&token)?));
        }
        if self.peek() != Some("(") {
            return Ok(Operand::Path(self.path_from(&token)?));
        }
        self.expect("(")?;
        let operand = match token.as_str() {
            "size" => Operand::Size(self.path()?),
            "if_not_exists" => {
                let path = self.path()?;
                self.expect(",")?;
                Operand::IfNotExists(path, Box::new(self.operand()?))
            }
            "list_append" => {
                let first = self.operand()?;
                self.expect(",")?;
                Operand::ListAppend(Box::new(first), Box::new(self.operand()?))
            }
            _ => return Err(invalid(&format!("Invalid function name; function: {token}"))),
        };
        self.expect(")")?;
        Ok(operand)
    }
}

fn tokenize(text: &str) -> Result<Vec<String>, ApiError> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let mut token = c.to_string();
        match c {
            c if c.is_whitespace() => continue,
            '(' | ')' | ',' | '.' | '[' | ']' | '+' | '-' | '=' => {}
            '<' | '>' => token.extend(chars.next_if(|next| *next == '=' || (c == '<' && *next == '>'))),
            c if c.is_alphanumeric() || "_#:".contains(c) => {
                while let Some(next) = chars.next_if(|next| next.is_alphanumeric() || *next == '_') {
                    token.push(next);
                }
            }
            _ => return Err(invalid(&format!("Syntax error; token: \"{c}\""))),
        }
        tokens.push(token);
    }
    if tokens.is_empty() { Err(invalid("The expression can not be empty;")) } else { Ok(tokens) }
}

/// Which top-level attributes a read shows; all of them without an expression.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Projection(Option<BTreeSet<String>>);

impl Projection {
    /// Reads a projection whose names no other expression uses.
    pub(in crate::sandbox) fn read(text: Option<&str>, names: BTreeMap<String, String>) -> Result<Self, ApiError> {
        let mut names = Names::new(names, BTreeMap::new())?;
        let projection = Self::parse(text, &mut names)?;
        names.finish()?;
        Ok(projection)
    }

    /// Reads a projection among other expressions.
    pub(in crate::sandbox) fn parse(text: Option<&str>, names: &mut Names) -> Result<Self, ApiError> {
        let Some(text) = text else { return Ok(Self(None)) };
        let mut parser = Parser::new(text, names)?;
        let mut shown = BTreeSet::new();
        loop {
            let path = parser.path()?;
            if !path.inner.is_empty() {
                return Err(ApiError::validation("the sandbox projects top-level attributes only"));
            }
            shown.insert(path.top);
            if !parser.take(",") {
                break;
            }
        }
        parser.end()?;
        Ok(Self(Some(shown)))
    }

    /// Appends what is shown of an item.
    pub(in crate::sandbox) fn write(&self, stored: &Stored, out: &mut Vec<u8>) {
        match &self.0 {
            None => out.extend_from_slice(&stored.json),
            Some(shown) => {
                let item = stored.attributes.iter().filter(|(name, _)| shown.contains(*name));
                write_item(&item.map(|(name, value)| (name.clone(), value.clone())).collect(), out);
            }
        }
    }
}
