//! Names and numbers for operators.
