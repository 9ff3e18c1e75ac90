//! Reading the source.
