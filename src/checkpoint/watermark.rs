//! Pure: settlements of one shard's records, in any order, become a watermark without a hole.
//!
//! Each record is pushed in stream order and gets an [`Ordinal`]; whoever carries it settles that, once. The watermark is
//! the largest record such that it and every record before it are settled, so it never retreats and never jumps a hole,
//! however late the settlement that closes one. Memory is what lies beyond the watermark, nothing more; the caller bounds
//! that by [`Watermark::outstanding`].

use std::collections::{BTreeMap, VecDeque};

use crate::model::{SequenceNumber, WallTime};

/// The place of a record among all that were pushed onto one [`Watermark`]: the token that settles it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordinal(u64);

/// How far the watermark moved since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// The watermark: this record and all before it are settled.
    pub to: SequenceNumber,
    /// The latest source time of the records that were passed, so far: never falls from one advance to the next.
    pub created: WallTime,
    /// Records passed.
    pub records: u64,
    /// Bytes passed, as pushed.
    pub bytes: u64,
}

/// A bug of the caller's: order or bookkeeping is broken, and the shard must not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatermarkError {
    /// A record that is not after the one before it, or not after the checkpoint that reading started from.
    #[error("record {got} does not come after {last}")]
    NotAscending {
        /// The last record pushed, or the checkpoint.
        last: SequenceNumber,
        /// The one refused.
        got: SequenceNumber,
    },
    /// The record was settled before.
    #[error("record no. {} was settled before", .0.0)]
    AlreadySettled(Ordinal),
    /// No record has this ordinal.
    #[error("record no. {} was never pushed", .0.0)]
    NeverPushed(Ordinal),
}

#[derive(Debug, Clone, Copy)]
struct Record {
    sequence: SequenceNumber,
    created: WallTime,
    bytes: u64,
    is_settled: bool,
}

/// The records of one shard that were read and are not passed yet.
#[derive(Debug, Clone, Default)]
pub struct Watermark {
    /// The last record pushed, or where reading started.
    last: Option<SequenceNumber>,
    /// The ordinal of the first of `records`.
    first: u64,
    /// What lies beyond the watermark. The first one is never settled: settling it moves the watermark.
    records: VecDeque<Record>,
    /// Sum over `records`.
    bytes: u64,
    /// How many unsettled records have each source time. Whole seconds: few.
    unsettled: BTreeMap<WallTime, u64>,
    /// The latest source time that was passed.
    created: Option<WallTime>,
    /// What [`Self::advance`] has not handed out yet.
    passed: Option<Advance>,
}

impl Watermark {
    /// A watermark that stands at a checkpoint, or before the first record.
    #[must_use]
    pub fn after(checkpoint: Option<SequenceNumber>) -> Self {
        Self { last: checkpoint, ..Self::default() }
    }

    /// A record was read: it is outstanding until it is settled. `bytes` is what it costs in memory.
    ///
    /// # Errors
    /// [`WatermarkError::NotAscending`]; nothing is changed then.
    pub fn push(
        &mut self,
        sequence: SequenceNumber,
        created: WallTime,
        bytes: usize,
    ) -> Result<Ordinal, WatermarkError> {
        if let Some(last) = self.last.filter(|last| sequence <= *last) {
            return Err(WatermarkError::NotAscending { last, got: sequence });
        }
        let ordinal = self.end();
        let bytes = bytes as u64;
        self.last = Some(sequence);
        self.bytes = self.bytes.saturating_add(bytes);
        *self.unsettled.entry(created).or_default() += 1;
        self.records.push_back(Record { sequence, created, bytes, is_settled: false });
        Ok(Ordinal(ordinal))
    }

    /// A record is settled: acknowledged by the target, absorbed by one that is, or durably set aside.
    ///
    /// # Errors
    /// [`WatermarkError::AlreadySettled`], [`WatermarkError::NeverPushed`]; nothing is changed then.
    pub fn settle(&mut self, ordinal: Ordinal) -> Result<(), WatermarkError> {
        if ordinal.0 >= self.end() {
            return Err(WatermarkError::NeverPushed(ordinal));
        }
        let index = ordinal.0.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let record = index.and_then(|index| self.records.get_mut(index)).filter(|record| !record.is_settled);
        let record = record.ok_or(WatermarkError::AlreadySettled(ordinal))?;
        record.is_settled = true;
        let created = record.created;
        self.forget_unsettled(created);
        self.pass_settled();
        Ok(())
    }

    /// How far the watermark moved since the last call; `None`: it did not. Checkpoint it, then ask again.
    #[must_use]
    pub fn advance(&mut self) -> Option<Advance> {
        self.passed.take()
    }

    /// Gives back what the longest look-ahead took. Numbers go on where they are: the shard may be read on.
    pub fn free_memory(&mut self) {
        self.records.shrink_to_fit();
    }

    /// The earliest source time of the records that are not settled; `None`: all are.
    #[must_use]
    pub fn oldest_unsettled(&self) -> Option<WallTime> {
        self.unsettled.keys().next().copied()
    }

    /// Records and bytes beyond the watermark: what is held in memory for it, settled or not.
    #[must_use]
    pub fn outstanding(&self) -> (usize, u64) {
        (self.records.len(), self.bytes)
    }

    /// Whether every record that was pushed is settled. An [`Advance`] may still wait to be handed out.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.records.is_empty()
    }

    fn end(&self) -> u64 {
        self.first.saturating_add(self.records.len() as u64)
    }

    fn forget_unsettled(&mut self, created: WallTime) {
        if let Some(count) = self.unsettled.get_mut(&created) {
            *count -= 1;
            if *count == 0 {
                self.unsettled.remove(&created);
            }
        }
    }

    /// Each record is passed once: O(1) amortised.
    fn pass_settled(&mut self) {
        while let Some(record) = self.records.pop_front_if(|record| record.is_settled) {
            self.first += 1;
            self.bytes = self.bytes.saturating_sub(record.bytes);
            let created = self.created.map_or(record.created, |before| before.max(record.created));
            self.created = Some(created);
            let before = self.passed;
            debug_assert!(before.is_none_or(|before| before.to < record.sequence), "the watermark retreats");
            self.passed = Some(Advance {
                to: record.sequence,
                created,
                records: before.map_or(0, |before| before.records).saturating_add(1),
                bytes: before.map_or(0, |before| before.bytes).saturating_add(record.bytes),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(n: u64) -> SequenceNumber {
        SequenceNumber::parse(&n.to_string()).unwrap()
    }

    fn pushed(watermark: &mut Watermark, n: u64) -> Ordinal {
        watermark.push(number(n), WallTime::from_secs(n.cast_signed()), 10).unwrap()
    }

    #[test]
    fn a_hole_holds_the_watermark_until_it_is_closed() {
        let mut watermark = Watermark::after(None);
        let [a, b, c] = [1, 5, 9].map(|n| pushed(&mut watermark, n));
        watermark.settle(c).unwrap();
        watermark.settle(b).unwrap();
        assert_eq!((watermark.advance(), watermark.outstanding()), (None, (3, 30)));
        assert_eq!(watermark.oldest_unsettled(), Some(WallTime::from_secs(1)));
        watermark.settle(a).unwrap();
        let advance = Advance { to: number(9), created: WallTime::from_secs(9), records: 3, bytes: 30 };
        assert_eq!((watermark.advance(), watermark.advance()), (Some(advance), None));
        assert!(watermark.is_drained() && watermark.oldest_unsettled().is_none());
        assert_eq!(watermark.outstanding(), (0, 0));
    }

    #[test]
    fn a_record_that_is_not_after_the_last_one_is_refused() {
        let mut watermark = Watermark::after(Some(number(100)));
        let refused = WatermarkError::NotAscending { last: number(100), got: number(99) };
        assert_eq!(watermark.push(number(99), WallTime::from_secs(0), 1), Err(refused));
        assert!(watermark.push(number(100), WallTime::from_secs(0), 1).is_err());
        let a = pushed(&mut watermark, 101);
        watermark.settle(a).unwrap();
        assert!(watermark.push(number(101), WallTime::from_secs(0), 1).is_err());
        assert_eq!(watermark.outstanding(), (0, 0));
        pushed(&mut watermark, 1000);
    }

    #[test]
    fn a_record_is_settled_once() {
        let mut watermark = Watermark::after(None);
        let [a, b] = [1, 2].map(|n| pushed(&mut watermark, n));
        for ordinal in [b, a] {
            watermark.settle(ordinal).unwrap();
            assert_eq!(watermark.settle(ordinal), Err(WatermarkError::AlreadySettled(ordinal)));
        }
        assert_eq!(watermark.settle(Ordinal(2)), Err(WatermarkError::NeverPushed(Ordinal(2))));
        assert_eq!(watermark.advance().map(|advance| advance.records), Some(2));
    }

    #[test]
    fn source_times_that_go_back_do_not_take_the_advance_back() {
        let mut watermark = Watermark::after(None);
        let mut push = |n, secs| {
            let ordinal = watermark.push(number(n), WallTime::from_secs(secs), 1).unwrap();
            let oldest = watermark.oldest_unsettled();
            watermark.settle(ordinal).unwrap();
            (oldest, watermark.advance().unwrap().created)
        };
        assert_eq!(push(1, 9), (Some(WallTime::from_secs(9)), WallTime::from_secs(9)));
        assert_eq!(push(2, 7), (Some(WallTime::from_secs(7)), WallTime::from_secs(9)));
    }

    /// What it has to be, without any cleverness.
    #[derive(Default)]
    struct Model {
        records: Vec<(u64, i64, usize, bool)>,
        handed_out: usize,
    }

    impl Model {
        fn prefix(&self) -> usize {
            self.records.iter().take_while(|record| record.3).count()
        }

        fn advance(&mut self) -> Option<Advance> {
            let (from, to) = (self.handed_out, self.prefix());
            self.handed_out = to;
            (from < to).then(|| Advance {
                to: number(self.records[to - 1].0),
                created: WallTime::from_secs(self.records[..to].iter().map(|record| record.1).max().unwrap()),
                records: (to - from) as u64,
                bytes: self.records[from..to].iter().map(|record| record.2 as u64).sum(),
            })
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push { ahead: u64, secs: i64, bytes: usize },
        Settle(prop::sample::Index),
        Advance,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u64..4, -3i64..3, 0usize..1000).prop_map(|(ahead, secs, bytes)| Step::Push { ahead, secs, bytes }),
            4 => any::<prop::sample::Index>().prop_map(Step::Settle),
            1 => Just(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn is_the_largest_record_before_which_all_are_settled(steps in prop::collection::vec(step(), 1..200)) {
            let (mut watermark, mut model) = (Watermark::after(Some(number(10))), Model::default());
            let (mut ordinals, mut reached) = (Vec::new(), number(10));
            for step in steps.into_iter().chain([Step::Advance]) {
                match step {
                    Step::Push { ahead, secs, bytes } => {
                        let last = model.records.last().map_or(10, |record| record.0);
                        let result = watermark.push(number(last + ahead), WallTime::from_secs(secs), bytes);
                        prop_assert_eq!(result.is_ok(), ahead > 0);
                        if let Ok(ordinal) = result {
                            ordinals.push(ordinal);
                            model.records.push((last + ahead, secs, bytes, false));
                        }
                    }
                    Step::Settle(index) if !ordinals.is_empty() => {
                        let index = index.index(ordinals.len());
                        let was_settled = std::mem::replace(&mut model.records[index].3, true);
                        prop_assert_eq!(watermark.settle(ordinals[index]).is_err(), was_settled);
                    }
                    Step::Settle(_) => {}
                    Step::Advance => {
                        let advance = watermark.advance();
                        prop_assert_eq!(advance, model.advance());
                        prop_assert!(advance.is_none_or(|advance| advance.to > reached));
                        reached = advance.map_or(reached, |advance| advance.to);
                    }
                }
                let beyond = &model.records[model.prefix()..];
                let bytes: usize = beyond.iter().map(|record| record.2).sum();
                prop_assert_eq!(watermark.outstanding(), (beyond.len(), bytes as u64));
                prop_assert_eq!(watermark.is_drained(), beyond.is_empty());
                let oldest = beyond.iter().filter(|record| !record.3).map(|record| WallTime::from_secs(record.1)).min();
                prop_assert_eq!(watermark.oldest_unsettled(), oldest);
            }
        }

        #[test]
        fn loses_nothing_in_any_order_of_settling(count in 1usize..300, seed in any::<u64>()) {
            let mut watermark = Watermark::after(None);
            let mut ordinals: Vec<_> = (1..=count as u64).map(|n| pushed(&mut watermark, n)).collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut ordinals);
            let mut records = 0;
            for ordinal in ordinals {
                watermark.settle(ordinal).unwrap();
                records += watermark.advance().map_or(0, |advance| advance.records);
            }
            prop_assert_eq!(records, count as u64);
            prop_assert!(watermark.is_drained());
        }
    }
}
