//! The initial load: by scan, or from an export. Uses decode, lanes and apply as they are.

pub(crate) mod driver;
pub(crate) mod export;
pub(crate) mod handover;
mod reader;
mod segments;

pub use reader::{ScanRequest, TableReader};
