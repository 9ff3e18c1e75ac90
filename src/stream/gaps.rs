//! Where history is lost, or may be: over our rows, over the listing, over what the readers met.
//!
//! Each finding becomes a durable gap row, which is healed and closed. Detection is a function of what is known now, so
//! it may run as often as one likes: while a gap of that scope and cause is open, it is not found again.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::model::GapScope;
use crate::model::{ShardId, StreamArn, WallTime};

use super::cursor::LossCause;
use super::lineage::{ShardStatus, Suspect, Suspicion};

/// An unfinished position that was not confirmed for this long may have lost records: the stream keeps 24 hours, and a
/// read from the trim horizon never says that something is missing. An hour less, for clocks and late listings.
pub const UNCONFIRMED_AFTER: Duration = Duration::from_secs(23 * 3600);

/// A gap starts this much before the last settled time: source times are whole seconds, rounded down.
const MARGIN: Duration = Duration::from_secs(2);

/// Why a gap was opened. The names are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The service said that the position is trimmed.
    Trimmed,
    /// A shard that was not read to its end is no longer listed, or not found.
    ShardVanished,
    /// A listed shard's parent is neither listed nor finished by us.
    ParentUnknown,
    /// A shard was listed for the first time after a child of it had been begun.
    ShardLate,
    /// A shard that was given up is listed again.
    ShardReappeared,
    /// The table has another stream now; what was written in between is in none.
    StreamReplaced,
    /// The table was made anew under its name.
    TableReplaced,
    /// A position was not confirmed for [`UNCONFIRMED_AFTER`]. Once the gap is durable it covers all that is lost so far:
    /// set the row's `verified_at` to the gap's end, or it is found again when the gap is closed.
    NotConfirmed,
}

impl GapCause {
    /// The stored name, also used in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::ShardVanished => "shard_vanished",
            Self::ParentUnknown => "parent_unknown",
            Self::ShardLate => "shard_late",
            Self::ShardReappeared => "shard_reappeared",
            Self::StreamReplaced => "stream_replaced",
            Self::TableReplaced => "table_replaced",
            Self::NotConfirmed => "not_confirmed",
        }
    }
}

impl From<LossCause> for GapCause {
    fn from(cause: LossCause) -> Self {
        match cause {
            LossCause::Trimmed => Self::Trimmed,
            LossCause::ShardVanished => Self::ShardVanished,
        }
    }
}

impl From<Suspicion> for GapCause {
    fn from(why: Suspicion) -> Self {
        match why {
            Suspicion::Vanished => Self::ShardVanished,
            Suspicion::UnknownParent => Self::ParentUnknown,
            Suspicion::Overtaken => Self::ShardLate,
            Suspicion::Reappeared => Self::ShardReappeared,
        }
    }
}

/// A gap to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapFinding {
    /// What it spans.
    pub scope: GapScope,
    /// Nothing written before this is lost; `None` when no row tells.
    pub from: Option<WallTime>,
    /// Why.
    pub cause: GapCause,
}

/// What detection needs of a shard's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressRow {
    /// The shard.
    pub id: ShardId,
    /// Its parent, as listed.
    pub parent: Option<ShardId>,
    /// Its status.
    pub status: ShardStatus,
    /// Source time up to which the shard is settled, where anything is.
    pub settled_at: Option<WallTime>,
    /// When the position was last proved to be within the stream's retention; see [`first_confirmed`] for a shard that
    /// was never read. Run detection before moving it, or an old position looks young.
    pub verified_at: WallTime,
}

impl ProgressRow {
    fn lost_from(&self) -> WallTime {
        self.settled_at.unwrap_or(self.verified_at).minus(MARGIN)
    }
}

/// The table and stream that a link is pinned to, or that DescribeTable names now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamIdentity {
    /// The table's id.
    pub table_id: String,
    /// The stream; `None`: the table has none.
    pub stream: Option<StreamArn>,
}

/// All that is known.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Our wall clock.
    pub now: WallTime,
    /// Our rows, all of them.
    pub rows: &'a [ProgressRow],
    /// What the listing made of the forest: [`super::lineage::Lineage::suspects`].
    pub suspects: &'a [Suspect],
    /// What readers met: [`super::cursor::Step::Lost`].
    pub losses: &'a [(ShardId, LossCause)],
    /// What the link is pinned to.
    pub pinned: &'a StreamIdentity,
    /// What the table says now; `None` when it was not asked or did not answer, from which nothing follows.
    pub seen: Option<&'a StreamIdentity>,
}

/// The gaps to open, beyond those that are open.
#[must_use]
pub fn detect(evidence: &Evidence<'_>, open: &[(GapScope, GapCause)]) -> Vec<GapFinding> {
    let mut known: HashSet<(GapScope, GapCause)> = open.iter().cloned().collect();
    let mut findings = everything_that_is_wrong(evidence);
    findings.retain(|finding| known.insert((finding.scope.clone(), finding.cause)));
    findings
}

/// Whether a position may have lost records, because nothing confirmed it for [`UNCONFIRMED_AFTER`].
#[must_use]
pub fn is_unconfirmed(verified_at: WallTime, now: WallTime) -> bool {
    now.since(verified_at) >= UNCONFIRMED_AFTER
}

/// The `verified_at` of a shard that was never read: no record of it is older.
///
/// `born_after` comes with [`super::lineage::NewShard`]. After a restart it is unknown; then the parent's confirmation, as
/// the last run left it, bounds it: that run listed just as late and did not see the child. So list after a restart
/// before any row's `verified_at` is moved. At the first pin both are unknown, and our history begins now.
#[must_use]
pub fn first_confirmed(born_after: Option<WallTime>, parent_verified_at: Option<WallTime>, now: WallTime) -> WallTime {
    [born_after, parent_verified_at].into_iter().flatten().fold(now, WallTime::min)
}

fn everything_that_is_wrong(evidence: &Evidence<'_>) -> Vec<GapFinding> {
    let Evidence { now, rows, suspects, losses, .. } = evidence;
    let mut findings = Vec::new();
    findings.extend(replaced(evidence).map(|cause| GapFinding { scope: GapScope::All, from: frontier(rows), cause }));
    for (shard, cause) in *losses {
        findings.push(of_shard(rows, shard, (*cause).into()));
    }
    for suspect in *suspects {
        findings.push(of_shard(rows, &suspect.shard, suspect.why.into()));
    }
    for row in *rows {
        if row.status != ShardStatus::Finished && is_unconfirmed(row.verified_at, *now) {
            findings.push(of_shard(rows, &row.id, GapCause::NotConfirmed));
        }
    }
    findings
}

fn replaced(evidence: &Evidence<'_>) -> Option<GapCause> {
    let seen = evidence.seen?;
    if seen.table_id != evidence.pinned.table_id {
        return Some(GapCause::TableReplaced);
    }
    (seen.stream.is_some() && seen.stream != evidence.pinned.stream).then_some(GapCause::StreamReplaced)
}

fn of_shard(rows: &[ProgressRow], shard: &ShardId, cause: GapCause) -> GapFinding {
    let from = match cause {
        // Shards that we never saw are lost, and which of our rows they descend from is unknown.
        GapCause::ParentUnknown | GapCause::ShardLate => rows.iter().map(ProgressRow::lost_from).min(),
        _ => rows.iter().find(|row| row.id == *shard).map(ProgressRow::lost_from),
    };
    GapFinding { scope: GapScope::Shard(shard.clone()), from, cause }
}

/// The earliest time among shards that no other row goes on from.
fn frontier(rows: &[ProgressRow]) -> Option<WallTime> {
    let parents: HashSet<&ShardId> = rows.iter().filter_map(|row| row.parent.as_ref()).collect();
    let ends = rows.iter().filter(|row| row.status != ShardStatus::Finished || !parents.contains(&row.id));
    ends.map(ProgressRow::lost_from).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ShardId {
        ShardId::new(text)
    }

    fn hours(n: u64) -> Duration {
        Duration::from_secs(3600 * n)
    }

    fn start() -> WallTime {
        WallTime::from_secs(1_800_000_000)
    }

    fn row(shard: &str, parent: &str, status: ShardStatus, settled: Option<u64>) -> ProgressRow {
        let parent = (!parent.is_empty()).then(|| id(parent));
        let settled_at = settled.map(|n| start().plus(hours(n)));
        ProgressRow { id: id(shard), parent, status, settled_at, verified_at: start() }
    }

    fn identity(table: &str, stream: Option<&str>) -> StreamIdentity {
        StreamIdentity { table_id: table.into(), stream: stream.map(|arn| StreamArn(arn.into())) }
    }

    struct Case {
        now: WallTime,
        rows: Vec<ProgressRow>,
        suspects: Vec<Suspect>,
        losses: Vec<(ShardId, LossCause)>,
        seen: Option<StreamIdentity>,
    }

    impl Case {
        fn new(rows: &[ProgressRow]) -> Self {
            Self { now: start(), rows: rows.to_vec(), suspects: vec![], losses: vec![], seen: None }
        }

        fn detect(&self, open: &[(GapScope, GapCause)]) -> Vec<GapFinding> {
            let pinned = identity("t", Some("s1"));
            let Self { now, rows, suspects, losses, seen } = self;
            let evidence = Evidence { now: *now, rows, suspects, losses, pinned: &pinned, seen: seen.as_ref() };
            detect(&evidence, open)
        }
    }

    fn shard(text: &str) -> GapScope {
        GapScope::Shard(id(text))
    }

    fn before(settled: u64) -> Option<WallTime> {
        Some(start().plus(hours(settled)).minus(MARGIN))
    }

    // Cases 31 and 33, G1 and G2.
    #[test]
    fn what_a_reader_lost_is_a_gap_since_the_last_settled_time() {
        let mut case = Case::new(&[row("a", "", ShardStatus::Reading, Some(5))]);
        for (loss, cause) in
            [(LossCause::Trimmed, GapCause::Trimmed), (LossCause::ShardVanished, GapCause::ShardVanished)]
        {
            case.losses = vec![(id("a"), loss)];
            assert_eq!(case.detect(&[]), [GapFinding { scope: shard("a"), from: before(5), cause }]);
        }
    }

    // G2 and G3.
    #[test]
    fn suspects_of_the_listing_are_gaps() {
        let rows = [row("old", "", ShardStatus::Finished, Some(1)), row("a", "old", ShardStatus::Reading, Some(5))];
        let mut case = Case::new(&rows);
        let suspect = |shard: &str, why| Suspect { shard: id(shard), why };
        case.suspects = vec![suspect("a", Suspicion::Vanished), suspect("new", Suspicion::UnknownParent)];
        let vanished = GapFinding { scope: shard("a"), from: before(5), cause: GapCause::ShardVanished };
        let unknown = GapFinding { scope: shard("new"), from: before(1), cause: GapCause::ParentUnknown };
        assert_eq!(case.detect(&[]), [vanished, unknown]);
    }

    // Cases 18 and 19, G4.
    #[test]
    fn another_stream_or_table_is_a_gap_over_all_keys() {
        let rows = [
            row("old", "", ShardStatus::Finished, Some(1)),
            row("leaf", "old", ShardStatus::Finished, Some(6)),
            row("b", "old", ShardStatus::Reading, Some(4)),
        ];
        let mut case = Case::new(&rows);
        for (seen, cause) in [
            (Some(identity("t", Some("s2"))), Some(GapCause::StreamReplaced)),
            (Some(identity("u", Some("s1"))), Some(GapCause::TableReplaced)),
            (Some(identity("t", Some("s1"))), None),
            (Some(identity("t", None)), None),
            (None, None),
        ] {
            case.seen = seen;
            let expected = cause.map(|cause| GapFinding { scope: GapScope::All, from: before(4), cause });
            assert_eq!(case.detect(&[]), expected.into_iter().collect::<Vec<_>>());
        }
    }

    // G5 and case 57.
    #[test]
    fn an_unfinished_position_not_confirmed_for_23_hours_is_a_gap() {
        let rows = [
            row("a", "", ShardStatus::Reading, None),
            row("b", "a", ShardStatus::Waiting, None),
            row("c", "", ShardStatus::Finished, None),
        ];
        let mut case = Case::new(&rows);
        case.now = start().plus(hours(23)).minus(Duration::from_millis(1));
        assert!(case.detect(&[]).is_empty());
        case.now = start().plus(hours(23));
        let scopes: Vec<_> = case.detect(&[]).into_iter().map(|finding| finding.scope).collect();
        assert_eq!(scopes, [shard("a"), shard("b")], "a waiting shard's records age as well");
    }

    #[test]
    fn a_gap_that_is_open_is_not_found_again() {
        let mut case = Case::new(&[row("a", "", ShardStatus::Reading, Some(5))]);
        case.losses = vec![(id("a"), LossCause::ShardVanished), (id("a"), LossCause::ShardVanished)];
        case.suspects = vec![Suspect { shard: id("a"), why: Suspicion::Vanished }];
        assert_eq!(case.detect(&[]).len(), 1, "one thing seen three times is one gap");
        assert!(case.detect(&[(shard("a"), GapCause::ShardVanished)]).is_empty());
        assert_eq!(case.detect(&[(shard("a"), GapCause::Trimmed), (shard("b"), GapCause::ShardVanished)]).len(), 1);
    }

    #[test]
    fn a_shard_that_was_never_read_is_as_old_as_the_last_look_without_it() {
        let (old, new, now) = (start(), start().plus(hours(1)), start().plus(hours(2)));
        assert_eq!(first_confirmed(Some(new), Some(old), now), old);
        assert_eq!(first_confirmed(None, Some(old), now), old);
        assert_eq!(first_confirmed(Some(new), None, now), new);
        assert_eq!(first_confirmed(None, None, now), now);
    }

    #[test]
    fn stored_names_are_the_names_in_metrics() {
        for cause in [
            GapCause::Trimmed,
            GapCause::ShardVanished,
            GapCause::ParentUnknown,
            GapCause::ShardLate,
            GapCause::ShardReappeared,
            GapCause::StreamReplaced,
            GapCause::TableReplaced,
            GapCause::NotConfirmed,
        ] {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
        }
        assert_eq!(serde_json::to_string(&[GapScope::All, shard("a")]).unwrap(), r#"["all",{"shard":"a"}]"#);
    }
}
