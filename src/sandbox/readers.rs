//! How many read a shard at the same time.
//!
//! A reader is a chain of iterators: one that GetShardIterator gave, and all that follow from it. A chain that was given up
//! for a new one is no second reader; two are when both go on.

use std::time::Duration;

use crate::model::WallTime;

/// Who has not read for so long reads no more.
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Reader {
    id: u64,
    /// Which read of the shard was its first, and its last.
    first: u64,
    last: u64,
    at: WallTime,
}

/// Who read a shard of late.
#[derive(Debug, Default)]
pub(super) struct Readers {
    recent: Vec<Reader>,
    reads: u64,
}

impl Readers {
    /// Notes a read; answers how many readers the shard has now, this one included.
    pub(super) fn note(&mut self, id: u64, now: WallTime) -> usize {
        self.reads += 1;
        let read = self.reads;
        self.recent.retain(|reader| reader.id == id || now.since(reader.at) < WINDOW);
        let first = match self.recent.iter_mut().find(|reader| reader.id == id) {
            Some(reader) if now.since(reader.at) < WINDOW => {
                (reader.last, reader.at) = (read, now);
                reader.first
            }
            Some(reader) => {
                *reader = Reader { id, first: read, last: read, at: now };
                read
            }
            None => {
                self.recent.push(Reader { id, first: read, last: read, at: now });
                read
            }
        };
        1 + self.recent.iter().filter(|reader| reader.id != id && reader.last > first).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_that_go_on_side_by_side_are_counted_and_successors_are_not() {
        let at = WallTime::from_millis;
        let mut readers = Readers::default();
        for id in 1..=5 {
            assert_eq!(readers.note(id, at(0)), 1);
        }
        let mut readers = Readers::default();
        assert_eq!(readers.note(1, at(0)), 1);
        assert_eq!(readers.note(2, at(100)), 1);
        assert_eq!(readers.note(1, at(200)), 2);
        assert_eq!(readers.note(3, at(300)), 1);
        assert_eq!(readers.note(1, at(400)), 3);
        assert_eq!(readers.note(2, at(500)), 3);
        assert_eq!(readers.note(3, at(600)), 3);
        assert_eq!(readers.note(3, at(1550)), 1);
    }
}
