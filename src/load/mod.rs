//! The initial load by scan.
