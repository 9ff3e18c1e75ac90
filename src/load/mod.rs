//! The initial load by scan; uses decode, lanes and apply as they are.

mod reader;

pub use reader::{ScanRequest, TableReader};
