//! The initial load by scan; uses decode, lanes and apply as they are.

pub(crate) mod driver;
mod reader;

pub use reader::{ScanRequest, TableReader};
