//! Writing to the target.
