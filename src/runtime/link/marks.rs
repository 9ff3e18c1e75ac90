//! Pure: how the parts of a divided link are, as their owners said last, and what of that is for the link as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::leading::Reason;
use crate::model::WallTime;
use crate::runtime::fleet::LinkMark;
use crate::telemetry::lag::{RETENTION, Watermarks};

/// A part that fails wherever it is opened is for the link as a whole after this: the link fails for the same reason then,
/// where everybody looks.
const FAILS_FOR: Duration = Duration::from_secs(120);
/// A part that is so far behind while others are not, lacks what the link as a whole has: each part has a fixed share of the
/// limits. Far from the 24 hours that the stream keeps.
const FAR_BEHIND: Duration = Duration::from_secs(3600);
/// As far behind are those that are not.
const NOT_BEHIND: Duration = Duration::from_secs(300);
/// And for so long: after an outage one part has caught up before another one.
const BEHIND_FOR: Duration = Duration::from_secs(1800);

/// How far each part is. Times never go back: who takes a part over knows less for a moment.
#[derive(Debug, Default)]
pub(super) struct PartMarks {
    parts: BTreeMap<u32, PartMark>,
    /// One is far behind, and another one is not.
    behind_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct PartMark {
    applied: Option<WallTime>,
    checkpointed: Option<WallTime>,
    in_doubt: usize,
    /// It failed then, and was not further than this; since then it got nowhere.
    failed: Option<(Instant, Option<WallTime>)>,
}

/// What is said of a part now.
#[derive(Debug, Clone)]
pub(super) enum Said {
    /// By whoever works on it.
    Mark(LinkMark),
    /// It failed, and nobody works on it now.
    Failed,
}

impl PartMarks {
    /// Takes in what is said now. Answers what the link is to be whole for.
    pub(super) fn take(&mut self, said: &BTreeMap<u32, Said>, now: Instant) -> Option<Reason> {
        let mut reason = None;
        for (number, said) in said {
            let known = self.parts.entry(*number).or_default();
            match said {
                Said::Mark(mark) => {
                    known.applied = known.applied.max(mark.applied);
                    known.checkpointed = known.checkpointed.max(mark.checkpointed);
                    known.in_doubt = mark.in_doubt;
                    known.failed = known.failed.filter(|(_, applied)| known.applied <= *applied);
                    if mark.open_gaps > 0 {
                        return Some(Reason::Gap);
                    }
                }
                Said::Failed => {
                    let (since, _) = *known.failed.get_or_insert((now, known.applied));
                    if now.duration_since(since) >= FAILS_FOR {
                        reason = Some(Reason::Failing);
                    }
                }
            }
        }
        reason
    }

    /// Whether one of them stays behind alone.
    pub(super) fn stays_one_behind(&mut self, parts: u32, at: WallTime, now: Instant) -> bool {
        let applied = || (0..parts).filter_map(|number| self.parts.get(&number)?.applied);
        let is_current = applied().max().is_some_and(|applied| at.since(applied) <= NOT_BEHIND);
        if !is_current || applied().min().is_none_or(|applied| at.since(applied) < FAR_BEHIND) {
            self.behind_since = None;
            return false;
        }
        now.duration_since(*self.behind_since.get_or_insert(now)) >= BEHIND_FOR
    }

    /// Those of the link: everything before them is applied, whichever part it was for. Of a part that was not heard of
    /// nothing is known.
    pub(super) fn least(&self, parts: u32) -> (Watermarks, Option<WallTime>) {
        let known = || (0..parts).map(|number| self.parts.get(&number).copied().unwrap_or_default());
        let applied = known().map(|mark| mark.applied).min().flatten();
        let checkpointed = known().map(|mark| mark.checkpointed).min().flatten();
        let deadline = checkpointed.map(|checkpointed| checkpointed.plus(RETENTION));
        (Watermarks { read: None, applied, checkpointed }, deadline)
    }

    pub(super) fn in_doubt(&self, parts: u32) -> usize {
        self.parts.range(..parts).map(|(_, mark)| mark.in_doubt).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Phase;

    fn mark(applied: Option<i64>, open_gaps: usize) -> Said {
        let applied = applied.map(WallTime::from_secs);
        let deadline = WallTime::from_secs(9);
        Said::Mark(LinkMark {
            phase: Phase::Replicating,
            applied,
            checkpointed: applied,
            deadline,
            open_gaps,
            in_doubt: 2,
        })
    }

    #[test]
    fn a_link_is_as_far_as_its_last_part_and_no_further_than_is_known() {
        let (mut marks, now) = (PartMarks::default(), Instant::now());
        let applied = |marks: &PartMarks| marks.least(3).0.applied.map(|time| time.millis() / 1000);
        assert_eq!(marks.take(&[(0, mark(Some(70), 0)), (1, mark(Some(60), 0))].into(), now), None);
        assert_eq!(applied(&marks), None, "nobody told of the third");
        marks.take(&[(2, mark(Some(65), 0))].into(), now);
        assert_eq!(applied(&marks), Some(60), "what the others said stands");
        marks.take(&[(0, mark(Some(10), 0)), (1, mark(None, 0)), (2, mark(Some(90), 0))].into(), now);
        assert_eq!(applied(&marks), Some(60), "who takes over knows less, and what was applied is applied");
        assert_eq!(marks.take(&[(2, mark(Some(90), 1))].into(), now), Some(Reason::Gap));
        assert_eq!(marks.in_doubt(3), 6);
    }

    #[test]
    fn a_part_that_fails_wherever_it_is_opened_is_for_the_whole_and_one_that_gets_on_is_not() {
        let (mut marks, begun) = (PartMarks::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        marks.take(&[(0, mark(Some(70), 0)), (1, mark(Some(60), 0))].into(), at(0));
        assert_eq!(marks.take(&[(1, Said::Failed)].into(), at(10)), None, "another worker may do better");
        // Opened again, and no further.
        assert_eq!(marks.take(&[(1, mark(Some(60), 0))].into(), at(70)), None);
        assert_eq!(marks.take(&[(1, Said::Failed)].into(), at(129)), None);
        assert_eq!(marks.take(&[(1, Said::Failed)].into(), at(130)), Some(Reason::Failing));
        marks.take(&[(1, mark(Some(61), 0))].into(), at(131));
        assert_eq!(marks.take(&[(1, Said::Failed)].into(), at(140)), None, "it got on meanwhile");
    }

    #[test]
    fn a_part_that_is_far_behind_alone_is_for_the_whole() {
        let (mut marks, begun) = (PartMarks::default(), Instant::now());
        let mut is_behind = |first: i64, after: u64| {
            let now = begun + Duration::from_secs(after);
            marks.take(&[(0, mark(Some(first), 0)), (1, mark(Some(6_400), 0))].into(), now);
            marks.stays_one_behind(2, WallTime::from_secs(10_000).plus(Duration::from_secs(after)), now)
        };
        assert!(!is_behind(10_000, 0) && !is_behind(11_799, 1_799), "it may be catching up");
        assert!(is_behind(11_800, 1_800));
        assert!(!is_behind(11_800, 2_200), "all are: after an outage, say");
        assert!(!is_behind(12_200, 2_201), "and that is over");
    }
}
