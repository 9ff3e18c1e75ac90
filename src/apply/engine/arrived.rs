//! Pure: whether the records of a shard come in their order (L2). The lanes keep the order in which they are told.

use std::collections::HashMap;

use crate::checkpoint::Ordinal;
use crate::checkpoint::book::Token;
use crate::invariant::{Invariant, Violation};

/// The last record that came in, for each shard.
#[derive(Debug, Default)]
pub(super) struct Arrived(HashMap<usize, Ordinal>);

impl Arrived {
    /// Takes in some records: one look-up for each run of one shard, of which there is one in a message.
    pub(super) fn check<'a>(&mut self, tokens: impl Iterator<Item = &'a Token>) -> Result<(), Violation> {
        let mut at: Option<(usize, Ordinal)> = None;
        for token in tokens {
            let Token::Record { slot, ordinal, .. } = token else { continue };
            let last = match at {
                Some((of, last)) if of == *slot => Some(last),
                other => {
                    self.0.extend(other);
                    self.0.get(slot).copied()
                }
            };
            if last.is_some_and(|last| *ordinal <= last) {
                return Err(Violation::new(Invariant::L2, "a record came in after a later one of its shard"));
            }
            at = Some((*slot, *ordinal));
        }
        self.0.extend(at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Watermark;
    use crate::model::{SequenceNumber, WallTime};

    fn records(slot: usize, count: u64) -> Vec<Token> {
        let mut watermark = Watermark::after(None);
        let created = WallTime::from_secs(0);
        let token = |n: u64| {
            let ordinal = watermark.push(SequenceNumber::parse(&n.to_string()).unwrap(), created, 1).unwrap();
            Token::Record { slot, ordinal, created }
        };
        (1..=count).map(token).collect()
    }

    #[test]
    fn records_of_a_shard_that_come_in_order_pass_and_others_do_not() {
        let (first, second) = (records(0, 6), records(1, 6));
        let mut arrived = Arrived::default();
        arrived.check(first[..2].iter().chain(&second[..2])).unwrap();
        arrived.check(first[3..5].iter().chain(&second[2..])).unwrap();
        for late in [&first[2..3], &first[4..5], &second[5..]] {
            let refused = arrived.check(late.iter()).unwrap_err();
            assert_eq!(refused.rule, Invariant::L2);
        }
        let swapped = [first[5].clone(), first[4].clone()];
        assert!(Arrived::default().check(swapped.iter()).is_err(), "also within a message");
    }
}
