//! Expressions: conditions, updates, projections, key conditions.
//!
//! A hand-written recursive descent over tokens. Names and values are resolved while parsing, so an evaluated expression
//! holds no placeholder. Reserved words are not refused.

mod condition;
mod syntax;
mod update;

pub(super) use condition::{Condition, KeyCondition};
pub(super) use syntax::{Names, Projection};
pub(super) use update::Update;
