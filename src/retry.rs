//! Pure: which failures are tried again, and when.
