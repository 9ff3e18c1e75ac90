//! Updates: SET, REMOVE, ADD, DELETE.

use super::syntax::{Names, Operand, Parser, Path, Step, invalid};
use crate::sandbox::reply::ApiError;
use crate::sandbox::value::{Item, Value};

/// What an UpdateItem does to an item; nothing without an expression.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Update(Vec<Action>);

#[derive(Debug)]
enum Action {
    Set(Path, Operand, Option<(bool, Operand)>),
    Remove(Path),
    Add(Path, Operand),
    Delete(Path, Operand),
}

impl Action {
    const fn path(&self) -> &Path {
        match self {
            Self::Set(path, ..) | Self::Remove(path) | Self::Add(path, _) | Self::Delete(path, _) => path,
        }
    }
}

impl Update {
    pub(in crate::sandbox) fn parse(text: &str, names: &mut Names) -> Result<Self, ApiError> {
        let mut parser = Parser::new(text, names)?;
        let mut actions: Vec<Action> = Vec::new();
        while parser.peek().is_some() {
            let clause = parser.next()?.to_ascii_uppercase();
            loop {
                let path = parser.path()?;
                if actions.iter().any(|action| *action.path() == path) {
                    return Err(invalid("Two document paths overlap with each other"));
                }
                actions.push(match clause.as_str() {
                    "SET" => {
                        parser.expect("=")?;
                        let first = parser.operand()?;
                        let minus = parser.peek() == Some("-");
                        let second =
                            if parser.take("+") || parser.take("-") { Some((minus, parser.operand()?)) } else { None };
                        Action::Set(path, first, second)
                    }
                    "REMOVE" => Action::Remove(path),
                    "ADD" => Action::Add(path, parser.operand()?),
                    "DELETE" => Action::Delete(path, parser.operand()?),
                    other => return Err(invalid(&format!("Syntax error; token: \"{other}\""))),
                });
                if !parser.take(",") {
                    break;
                }
            }
        }
        Ok(Self(actions))
    }

    /// Whether it changes this attribute, or something in it.
    pub(in crate::sandbox) fn touches(&self, name: &str) -> bool {
        self.0.iter().any(|action| action.path().top == name)
    }

    /// The attributes that it changes, as they are in an item.
    pub(in crate::sandbox) fn touched(&self, item: &Item) -> Item {
        item.iter().filter(|(name, _)| self.touches(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Applies every action, all of them to the item as it was before.
    pub(in crate::sandbox) fn apply(&self, item: &mut Item) -> Result<(), ApiError> {
        let before = item.clone();
        for action in &self.0 {
            match action {
                Action::Set(path, first, second) => {
                    let value = set_value(&before, first, second.as_ref())?;
                    put(item, path, value)?;
                }
                Action::Remove(path) => remove(item, path),
                Action::Add(path, operand) => {
                    let more = operand.value(&before).ok_or_else(missing)?;
                    let value = add(path.find(&before), more)?;
                    put(item, path, value)?;
                }
                Action::Delete(path, operand) => {
                    let less = operand.value(&before).ok_or_else(missing)?;
                    match path.find(&before).map(|value| subtract(value, &less)).transpose()? {
                        Some(Some(value)) => put(item, path, value)?,
                        Some(None) => remove(item, path),
                        None => {}
                    }
                }
            }
        }
        Ok(())
    }
}

fn missing() -> ApiError {
    ApiError::validation("The provided expression refers to an attribute that does not exist in the item")
}

fn wrong_type() -> ApiError {
    ApiError::validation("An operand in the update expression has an incorrect data type")
}

fn set_value(item: &Item, first: &Operand, second: Option<&(bool, Operand)>) -> Result<Value, ApiError> {
    let first = first.value(item).ok_or_else(missing)?;
    let Some((minus, second)) = second else { return Ok(first) };
    match (first, second.value(item).ok_or_else(missing)?) {
        (Value::N(left), Value::N(right)) => Ok(Value::N(left.add(&right, *minus)?)),
        _ => Err(wrong_type()),
    }
}

fn add(old: Option<&Value>, more: Value) -> Result<Value, ApiError> {
    Ok(match (old, more) {
        (None, more @ (Value::N(_) | Value::Ss(_) | Value::Ns(_) | Value::Bs(_))) => more,
        (Some(Value::N(old)), Value::N(more)) => Value::N(old.add(&more, false)?),
        (Some(Value::Ss(old)), Value::Ss(more)) => Value::Ss(old.union(&more).cloned().collect()),
        (Some(Value::Ns(old)), Value::Ns(more)) => Value::Ns(old.union(&more).cloned().collect()),
        (Some(Value::Bs(old)), Value::Bs(more)) => Value::Bs(old.union(&more).cloned().collect()),
        _ => return Err(wrong_type()),
    })
}

/// What is left of a set; `None` if nothing.
fn subtract(old: &Value, less: &Value) -> Result<Option<Value>, ApiError> {
    let value = match (old, less) {
        (Value::Ss(old), Value::Ss(less)) => Value::Ss(old.difference(less).cloned().collect()),
        (Value::Ns(old), Value::Ns(less)) => Value::Ns(old.difference(less).cloned().collect()),
        (Value::Bs(old), Value::Bs(less)) => Value::Bs(old.difference(less).cloned().collect()),
        _ => return Err(wrong_type()),
    };
    let empty = match &value {
        Value::Ss(set) => set.is_empty(),
        Value::Ns(set) => set.is_empty(),
        Value::Bs(set) => set.is_empty(),
        _ => false,
    };
    Ok((!empty).then_some(value))
}

/// The value that holds the last step of a path, and that step; `None` for a top-level attribute.
fn holder<'a, 'p>(item: &'a mut Item, path: &'p Path) -> Option<Option<(&'a mut Value, &'p Step)>> {
    let Some((last, steps)) = path.inner.split_last() else { return Some(None) };
    let value = steps.iter().try_fold(item.get_mut(&path.top)?, |value, step| match (value, step) {
        (Value::M(map), Step::Name(name)) => map.get_mut(name),
        (Value::L(list), Step::Index(index)) => list.get_mut(*index),
        _ => None,
    })?;
    Some(Some((value, last)))
}

fn put(item: &mut Item, path: &Path, value: Value) -> Result<(), ApiError> {
    let no_path = || ApiError::validation("The document path provided in the update expression is invalid for update");
    match holder(item, path) {
        Some(None) => {
            item.insert(path.top.clone(), value);
        }
        Some(Some((Value::M(map), Step::Name(name)))) => {
            map.insert(name.clone(), value);
        }
        Some(Some((Value::L(list), Step::Index(index)))) => match list.get_mut(*index) {
            Some(slot) => *slot = value,
            None => list.push(value),
        },
        _ => return Err(no_path()),
    }
    Ok(())
}

fn remove(item: &mut Item, path: &Path) {
    match holder(item, path) {
        Some(None) => {
            item.remove(&path.top);
        }
        Some(Some((Value::M(map), Step::Name(name)))) => {
            map.remove(name);
        }
        Some(Some((Value::L(list), Step::Index(index)))) if *index < list.len() => {
            list.remove(*index);
        }
        _ => {}
    }
}
