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

    /// Whether so much may be read beyond the watermarks when a page of so many records was taken last.
    pub(super) fn covers(&self, records: u64, kib: u64, page: usize) -> bool {
        records <= self.max_records.max(page) as u64 && kib <= self.max_kib as u64
    }

    /// What a page takes, in permits. A page larger than all of the look-ahead takes all of it.
    pub(super) fn weigh(&self, records: &[Admission]) -> (u32, u32) {
        let bytes: usize = records.iter().map(|record| record.change.wire_bytes).sum();
        let permits = |wanted: usize, most: usize| u32::try_from(wanted.clamp(1, most)).unwrap_or(u32::MAX);
        (permits(records.len(), self.max_records), permits(bytes.div_ceil(1024), self.max_kib))
    }

    /// Gives permits back that were taken for nothing.
    pub(super) fn give_back(&self, records: u32, kib: u32) {
        self.records.add_permits(records as usize);
        self.kib.add_permits(kib as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_look_ahead_ends_at_its_records_and_its_bytes_or_with_one_larger_page() {
        let (interval, idle_interval) = (Duration::from_secs(1), Duration::from_secs(60));
        let (look_ahead_records, look_ahead_bytes) = (1000, 64 * 1024);
        let settings = KeeperSettings { interval, records: 1, look_ahead_records, look_ahead_bytes, idle_interval };
        let budget = Budget::new(&settings);
        assert!(budget.covers(1000, 64, 100));
        assert!(!budget.covers(1001, 64, 100));
        assert!(!budget.covers(1000, 65, 100));
        assert!(budget.covers(1200, 64, 1200));
    }
}
