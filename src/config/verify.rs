//! Settings of verification: `[link.NAME.verify]`.

use serde::Serialize;

use super::load::Segments;
use super::section::{Section, defaults};
use super::units::Capacity;

/// A tenth of either table: verification is never urgent, and runs beside the replication.
pub const DEFAULT_VERIFY_RATE: Capacity = Capacity::Percent(10);

/// How both tables are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyConfig {
    /// Into how many segments the scan is split. Default `auto`.
    pub segments: Segments,
    /// Of either table's read capacity. Default [`DEFAULT_VERIFY_RATE`].
    pub rate: Capacity,
}

impl Default for VerifyConfig {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl VerifyConfig {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let read = Self { segments: Segments::read(&mut section), rate: section.capacity("rate", DEFAULT_VERIFY_RATE) };
        section.finish();
        read
    }
}
