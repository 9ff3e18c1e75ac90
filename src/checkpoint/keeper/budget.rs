//! The look-ahead: how much may be read beyond the watermarks.

use tokio::sync::Semaphore;

use super::{Admission, KeeperSettings};

pub(super) struct Budget {
    pub(super) records: Semaphore,
    pub(super) kib: Semaphore,
    max_records: usize,
    max_kib: usize,
}

impl Budget {
    pub(super) fn new(settings: &KeeperSettings) -> Self {
        let max_records = settings.look_ahead_records.clamp(1, Semaphore::MAX_PERMITS);
        let max_kib = (settings.look_ahead_bytes / 1024).clamp(1, Semaphore::MAX_PERMITS);
        Self { records: Semaphore::new(max_records), kib: Semaphore::new(max_kib), max_records, max_kib }
    }

    /// What a page takes, in permits. A page larger than all of the look-ahead takes all of it.
    pub(super) fn weigh(&self, records: &[Admission]) -> (u32, u32) {
        let bytes: usize = records.iter().map(|record| record.change.wire_bytes).sum();
        let permits = |wanted: usize, most: usize| u32::try_from(wanted.clamp(1, most)).unwrap_or(u32::MAX);
        (permits(records.len(), self.max_records), permits(bytes.div_ceil(1024), self.max_kib))
    }
}
