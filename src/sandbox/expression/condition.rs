//! Conditions and key conditions: parse and evaluate.

use std::cmp::Ordering;

use super::syntax::{Names, Operand, Parser, Path, invalid};
use crate::sandbox::number::Number;
use crate::sandbox::reply::ApiError;
use crate::sandbox::value::{Item, Value};

/// A condition or filter on one item.
#[derive(Debug)]
pub(in crate::sandbox) enum Condition {
    Or(Vec<Condition>),
    And(Vec<Condition>),
    Not(Box<Condition>),
    Compare(Operand, Comparator, Operand),
    Between(Operand, Operand, Operand),
    In(Operand, Vec<Operand>),
    Exists(Path, bool),
    HasType(Path, Operand),
    BeginsWith(Operand, Operand),
    Contains(Path, Operand),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Comparator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Condition {
    pub(in crate::sandbox) fn parse(text: &str, names: &mut Names) -> Result<Self, ApiError> {
        let mut parser = Parser::new(text, names)?;
        let condition = any(&mut parser)?;
        parser.end()?;
        Ok(condition)
    }

    /// Whether it holds for an item; an item that does not exist has no attributes.
    pub(in crate::sandbox) fn holds(&self, item: &Item) -> bool {
        match self {
            Self::Or(parts) => parts.iter().any(|part| part.holds(item)),
            Self::And(parts) => parts.iter().all(|part| part.holds(item)),
            Self::Not(part) => !part.holds(item),
            Self::Compare(left, comparator, right) => {
                compares(left.value(item).as_ref(), *comparator, right.value(item).as_ref())
            }
            Self::Between(value, low, high) => {
                let value = value.value(item);
                compares(value.as_ref(), Comparator::GreaterOrEqual, low.value(item).as_ref())
                    && compares(value.as_ref(), Comparator::LessOrEqual, high.value(item).as_ref())
            }
            Self::In(value, list) => {
                let value = value.value(item);
                list.iter().any(|one| compares(value.as_ref(), Comparator::Equal, one.value(item).as_ref()))
            }
            Self::Exists(path, wanted) => path.find(item).is_some() == *wanted,
            Self::HasType(path, tag) => {
                path.find(item).is_some_and(|value| tag.value(item) == Some(Value::S(value.tag().to_owned())))
            }
            Self::BeginsWith(value, prefix) => match (value.value(item), prefix.value(item)) {
                (Some(Value::S(text)), Some(Value::S(prefix))) => text.starts_with(&prefix),
                (Some(Value::B(bytes)), Some(Value::B(prefix))) => bytes.starts_with(&prefix),
                _ => false,
            },
            Self::Contains(path, wanted) => {
                path.find(item).zip(wanted.value(item)).is_some_and(|(value, wanted)| contains(value, &wanted))
            }
        }
    }
}

fn contains(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::S(text), Value::S(part)) => text.contains(part.as_str()),
        (Value::B(bytes), Value::B(part)) => part.is_empty() || bytes.windows(part.len()).any(|window| window == part),
        (Value::Ss(set), Value::S(part)) => set.contains(part),
        (Value::Ns(set), Value::N(part)) => set.contains(part),
        (Value::Bs(set), Value::B(part)) => set.contains(part),
        (Value::L(list), part) => list.contains(part),
        _ => false,
    }
}

fn compares(left: Option<&Value>, comparator: Comparator, right: Option<&Value>) -> bool {
    let (Some(left), Some(right)) = (left, right) else {
        return comparator == Comparator::NotEqual && left.is_some() != right.is_some();
    };
    match comparator {
        Comparator::Equal => left == right,
        Comparator::NotEqual => left != right,
        _ => {
            let ordering = match (left, right) {
                (Value::S(left), Value::S(right)) => left.as_bytes().cmp(right.as_bytes()),
                (Value::N(left), Value::N(right)) => left.cmp(right),
                (Value::B(left), Value::B(right)) => left.cmp(right),
                _ => return false,
            };
            match comparator {
                Comparator::Less => ordering == Ordering::Less,
                Comparator::LessOrEqual => ordering != Ordering::Greater,
                Comparator::Greater => ordering == Ordering::Greater,
                _ => ordering != Ordering::Less,
            }
        }
    }
}

impl Operand {
    /// The operand's value for an item; `None` if an attribute is missing.
    pub(super) fn value(&self, item: &Item) -> Option<Value> {
        match self {
            Self::Path(path) => path.find(item).cloned(),
            Self::Value(value) => Some(value.clone()),
            Self::Size(path) => {
                let size = match path.find(item)? {
                    Value::L(list) => list.len(),
                    Value::M(map) => map.len(),
                    Value::Ss(set) => set.len(),
                    Value::Ns(set) => set.len(),
                    Value::Bs(set) => set.len(),
                    other => other.size(),
                };
                Number::parse(&size.to_string()).ok().map(Value::N)
            }
            Self::IfNotExists(path, other) => path.find(item).cloned().or_else(|| other.value(item)),
            Self::ListAppend(first, second) => match (first.value(item)?, second.value(item)?) {
                (Value::L(mut list), Value::L(more)) => {
                    list.extend(more);
                    Some(Value::L(list))
                }
                _ => None,
            },
        }
    }
}

fn any(parser: &mut Parser<'_>) -> Result<Condition, ApiError> {
    let mut parts = vec![all(parser)?];
    while parser.take("OR") {
        parts.push(all(parser)?);
    }
    Ok(single_or(parts, Condition::Or))
}

fn all(parser: &mut Parser<'_>) -> Result<Condition, ApiError> {
    let mut parts = vec![one(parser)?];
    while parser.take("AND") {
        parts.push(one(parser)?);
    }
    Ok(single_or(parts, Condition::And))
}

fn single_or(mut parts: Vec<Condition>, many: impl FnOnce(Vec<Condition>) -> Condition) -> Condition {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            many(parts)
        }
    }
}

fn one(parser: &mut Parser<'_>) -> Result<Condition, ApiError> {
    if parser.take("NOT") {
        return Ok(Condition::Not(Box::new(one(parser)?)));
    }
    if parser.take("(") {
        let inner = any(parser)?;
        parser.expect(")")?;
        return Ok(inner);
    }
    for (function, exists) in [("attribute_exists", true), ("attribute_not_exists", false)] {
        if parser.take(function) {
            parser.expect("(")?;
            let path = parser.path()?;
            parser.expect(")")?;
            return Ok(Condition::Exists(path, exists));
        }
    }
    for function in ["attribute_type", "begins_with", "contains"] {
        if parser.take(function) {
            parser.expect("(")?;
            let path = parser.path()?;
            parser.expect(",")?;
            let operand = parser.operand()?;
            parser.expect(")")?;
            return Ok(match function {
                "attribute_type" => Condition::HasType(path, operand),
                "contains" => Condition::Contains(path, operand),
                _ => Condition::BeginsWith(Operand::Path(path), operand),
            });
        }
    }
    comparison(parser)
}

fn comparison(parser: &mut Parser<'_>) -> Result<Condition, ApiError> {
    let left = parser.operand()?;
    if parser.take("BETWEEN") {
        let low = parser.operand()?;
        if !parser.take("AND") {
            return Err(invalid("Syntax error; BETWEEN without AND"));
        }
        return Ok(Condition::Between(left, low, parser.operand()?));
    }
    if parser.take("IN") {
        parser.expect("(")?;
        let mut list = vec![parser.operand()?];
        while parser.take(",") {
            list.push(parser.operand()?);
        }
        parser.expect(")")?;
        return Ok(Condition::In(left, list));
    }
    let comparator = match parser.next()?.as_str() {
        "=" => Comparator::Equal,
        "<>" => Comparator::NotEqual,
        "<" => Comparator::Less,
        "<=" => Comparator::LessOrEqual,
        ">" => Comparator::Greater,
        ">=" => Comparator::GreaterOrEqual,
        token => return Err(invalid(&format!("Syntax error; token: \"{token}\""))),
    };
    Ok(Condition::Compare(left, comparator, parser.operand()?))
}

/// A key condition: one value of the partition key, and possibly a condition on the sort key.
#[derive(Debug)]
pub(in crate::sandbox) struct KeyCondition {
    pub(in crate::sandbox) partition: Value,
    /// The whole expression, which also holds for the items that are wanted.
    pub(in crate::sandbox) whole: Condition,
}

impl KeyCondition {
    /// Reads a key condition on this partition key.
    pub(in crate::sandbox) fn parse(text: &str, partition: &str, names: &mut Names) -> Result<Self, ApiError> {
        let whole = Condition::parse(text, names)?;
        let value = match &whole {
            Condition::And(parts) => parts.iter().find_map(|part| equals(part, partition)),
            part => equals(part, partition),
        };
        let partition = value
            .ok_or_else(|| ApiError::validation(format!("Query condition missed key schema element: {partition}")))?;
        Ok(Self { partition, whole })
    }
}

fn equals(part: &Condition, name: &str) -> Option<Value> {
    match part {
        Condition::Compare(Operand::Path(path), Comparator::Equal, Operand::Value(value))
            if path.top == name && path.inner.is_empty() =>
        {
            Some(value.clone())
        }
        _ => None,
    }
}
