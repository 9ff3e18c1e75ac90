//! How far is safe, and the store that remembers it.
