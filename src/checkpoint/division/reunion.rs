//! The parts of a link put together again.
//!
//! Whoever does this has every part in hand, so they do not change meanwhile, nor does the link. What is written to the link
//! before its row is of no use to anybody until that row says that the link is whole; should it break off, it is done again,
//! and writes the same, or later times. Whoever looks meanwhile leaves that out ([`together`]).

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::book::Book;
use super::super::rows::{DeadLetterRow, Division, GapRow, GapScope, LinkRow, ShardRow, ShardStatus, Stage};
use super::super::{LinkState, StateWrite};
use crate::model::{ShardId, WallTime};

/// What time it is, by our clock and by AWS's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    pub(crate) ours: WallTime,
    pub(crate) aws: WallTime,
}

/// A part as it was taken from its last owner.
#[derive(Debug, Clone)]
pub(crate) struct PartState {
    pub(crate) state: LinkState,
    /// All of them, by number.
    pub(crate) letters: Vec<DeadLetterRow>,
}

/// A link that is whole again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whole {
    /// To be durable first. Every prefix is safe.
    pub(crate) writes: Vec<StateWrite>,
    /// To be written when all of that is there: from then on the link is whole.
    pub(crate) row: LinkRow,
}

/// How a shard is called that two parts have: the service named two parents of it, one after the other.
const TWICE: &str = "shard_late";

/// Puts a link together. `shards`: its rows as they are in the link's own partition. `None`: a part has no row, so what is
/// there is no part.
///
/// A part that was not closed clean is taken over first, as a link is: what its owner may have on the wire becomes debts and
/// doubts of the link. `kept_for`: how long a finished shard's row is kept at least.
pub(crate) fn reunite(
    (link, division): (&LinkRow, Division),
    shards: &[ShardRow],
    parts: Vec<PartState>,
    clocks: Clocks,
    (ghost_life, kept_for): (Duration, Duration),
) -> Option<Whole> {
    let mut row = LinkRow { stage: Stage::Streaming, clean: true, ..link.clone() };
    let mut settled = Vec::new();
    let (mut doubts, mut letters, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
    let mut found: BTreeMap<ShardId, ShardRow> = BTreeMap::new();
    let mut twice: Vec<ShardId> = Vec::new();
    let mut expiry = BTreeMap::new();
    for PartState { state, letters: of_part } in parts {
        let part = state.link.clone()?;
        settled.push(part.settled_until);
        let book = Book::take_over(state, part, clocks.aws, ghost_life);
        let part = book.link();
        row.ghosts_until = row.ghosts_until.max(part.ghosts_until);
        join_expiry(&mut expiry, part);
        doubts.extend(book.doubt_rows().cloned());
        letters.extend(of_part);
        gaps.extend(book.gap_rows().cloned());
        for shard in book.shard_rows() {
            let known = found.remove(&shard.id);
            twice.extend(known.is_some().then(|| shard.id.clone()));
            let shard = known.map_or_else(|| shard.clone(), |known| earlier(known, shard.clone()));
            found.insert(shard.id.clone(), shard);
        }
    }
    // What the parts say of an attribute is younger than what the link's row does.
    row.expiry_attributes.extend(expiry);
    // Each part knows of its own shards, and a link's time is that of its last shard.
    row.settled_until = row.settled_until.max(settled.into_iter().min().flatten());
    gaps.extend(twice.into_iter().map(|shard| of_twice(shard, clocks.ours)));
    for (letter, id) in letters.iter_mut().zip(division.first_letter..) {
        letter.id = id;
    }
    for (gap, id) in gaps.iter_mut().zip(division.first_gap..) {
        gap.id = id;
    }
    let forgotten = forgotten(shards, &found, clocks.ours, kept_for);
    let mut writes: Vec<StateWrite> = gaps.into_iter().map(StateWrite::Gap).collect();
    writes.extend(doubts.into_iter().map(StateWrite::Doubt));
    writes.extend(letters.into_iter().map(StateWrite::DeadLetter));
    writes.extend(found.into_values().map(StateWrite::Shard));
    writes.extend(forgotten);
    Some(Whole { writes, row })
}

/// What a divided link and its parts say together, for whoever looks. `parts`: each as it is, read before the link.
///
/// The link's rows may hold what an attempt to put it together has written before it broke off. The parts have that, too, so
/// it is left out: a link in which a key is in doubt is not divided, and what is numbered is numbered on in the order of the
/// parts.
pub(crate) fn together(link: LinkState, division: Division, parts: Vec<LinkState>) -> LinkState {
    let letters: u64 = parts.iter().map(|part| part.dead_letters.0).sum();
    let num_gaps = parts.iter().map(|part| part.gaps.len() as u64).sum::<u64>();
    let written = (link.dead_letters.1 + 1).saturating_sub(division.first_letter).min(letters);
    let copies = division.first_gap..division.first_gap + num_gaps;
    let mut shards: BTreeMap<ShardId, ShardRow> = link.shards.into_iter().map(|row| (row.id.clone(), row)).collect();
    let mut gaps: Vec<GapRow> = link.gaps.into_iter().filter(|gap| !copies.contains(&gap.id)).collect();
    let mut doubts = Vec::new();
    for part in parts {
        // Of its shards it knows more than the link.
        shards.extend(part.shards.into_iter().map(|row| (row.id.clone(), row)));
        gaps.extend(part.gaps);
        doubts.extend(part.doubts);
    }
    let dead_letters = (link.dead_letters.0.saturating_sub(written) + letters, link.dead_letters.1);
    LinkState { shards: shards.into_values().collect(), doubts, gaps, dead_letters, ..link }
}

/// What one part says is no longer in use may still be for another, which has not looked yet.
fn join_expiry(joined: &mut BTreeMap<String, Option<WallTime>>, part: &LinkRow) {
    for (attribute, until) in &part.expiry_attributes {
        let known = joined.entry(attribute.clone()).or_insert(*until);
        // In use is later than any time.
        *known = known.zip(*until).map(|(one, other)| one.max(other));
    }
}

/// Two parts read one shard: what either has applied is not known of the other, so it is read from where the first one is.
fn earlier(one: ShardRow, other: ShardRow) -> ShardRow {
    let dispatch = one.dispatch.max(other.dispatch);
    let is_ahead = |row: &ShardRow| (row.status == ShardStatus::Finished, row.checkpoint);
    let (mut row, ahead) = if is_ahead(&one) <= is_ahead(&other) { (one, other) } else { (other, one) };
    row.debts.extend(ahead.debts);
    ShardRow { dispatch, ..row }
}

fn of_twice(shard: ShardId, now: WallTime) -> GapRow {
    GapRow { id: 0, scope: GapScope::Shard(shard), from: None, to: now, cause: TWICE.to_owned(), healed: None }
}

/// Rows that went to a part and that no part has any more: they were read to the end there, and left the listing so long ago
/// that they were forgotten. One that is too young for that was lost in some other way: it stays as it was, and what became
/// of it is found out by whoever reads the stream.
fn forgotten(
    shards: &[ShardRow],
    found: &BTreeMap<ShardId, ShardRow>,
    now: WallTime,
    kept_for: Duration,
) -> Vec<StateWrite> {
    let gone = shards.iter().filter(|row| row.status != ShardStatus::Finished && !found.contains_key(&row.id));
    let gone = gone.filter(|row| now.since(row.last_listed) >= kept_for);
    gone.flat_map(|row| {
        let finished = ShardRow { status: ShardStatus::Finished, ..row.clone() };
        [StateWrite::Shard(finished), StateWrite::ForgetShard(row.id.clone())]
    })
    .collect()
}
