//! How well the shards of a divided link are spread, and whether it is worth while to divide it anew.
//!
//! A division is of the trees that there were then. They grow: a link that was divided when it had two shards has two parts,
//! however many shards come of these, so that a third worker has nothing to do.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::super::LinkState;
use super::super::rows::{LinkRow, ShardRow, ShardStatus, Stage};

/// The busiest worker is to have so many shards less to read; for fewer it is not worth the pause.
const LEAST_GAIN: usize = 4;

/// A divided link as it would be if it were put together now, every part having drained.
pub(crate) fn if_whole(link: &LinkState, parts: &[LinkState]) -> LinkState {
    let ghosts_until = parts.iter().filter_map(|part| part.link.as_ref()?.ghosts_until).max();
    let row = link.link.clone().map(|row| LinkRow {
        stage: Stage::Streaming,
        clean: true,
        ghosts_until: row.ghosts_until.max(ghosts_until),
        ..row
    });
    // What the link has as unfinished went to a part, which has it no more.
    let own = link.shards.iter().filter(|row| row.status == ShardStatus::Finished);
    let rows = own.chain(parts.iter().flat_map(|part| &part.shards));
    let shards: BTreeMap<_, _> = rows.map(|row| (&row.id, row)).collect();
    LinkState {
        link: row,
        shards: shards.into_values().cloned().collect(),
        doubts: parts.iter().flat_map(|part| part.doubts.clone()).collect(),
        gaps: link.gaps.iter().chain(parts.iter().flat_map(|part| &part.gaps)).cloned().collect(),
        ..LinkState::default()
    }
}

/// Whether so many workers share the work clearly better when the link is divided like this: the busiest one has a third
/// less to read.
pub(crate) fn gains<'a>(
    now: impl Iterator<Item = &'a [ShardRow]>,
    anew: impl Iterator<Item = &'a [ShardRow]>,
    workers: usize,
) -> bool {
    let (now, anew) = (busiest(now, workers), busiest(anew, workers));
    anew + LEAST_GAIN <= now && anew * 3 <= now * 2
}

/// How many shards the busiest of so many workers has to read, at best.
fn busiest<'a>(parts: impl Iterator<Item = &'a [ShardRow]>, workers: usize) -> usize {
    let mut to_read: Vec<usize> = parts.map(to_read).collect();
    to_read.sort_by_key(|shards| Reverse(*shards));
    let mut workers = vec![0; workers.max(1)];
    for shards in to_read {
        if let Some(worker) = workers.iter_mut().min() {
            *worker += shards;
        }
    }
    workers.into_iter().max().unwrap_or(0)
}

/// How many of these shards are to be read yet.
pub(super) fn to_read(rows: &[ShardRow]) -> usize {
    rows.iter().filter(|row| row.status != ShardStatus::Finished).count()
}
