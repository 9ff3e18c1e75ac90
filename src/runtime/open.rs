//! From what is remembered to what is to be done: a link's rows become its books and its shard forest.

use std::collections::BTreeMap;
use std::time::Duration;

use super::link::Imported;
use super::prepare::Prepared;
use crate::checkpoint::LinkState;
use crate::checkpoint::book::Book;
use crate::checkpoint::rows::{
    ExportPlan, GapRow, LinkIdentity, LinkRow, LoadPlan, SegmentRow, ShardRow, ShardStatus, Stage,
};
use crate::config::{LinkConfig, LoadConfig, LoadMethod, Segments, StreamStart, TtlDeletes};
use crate::context::Context;
use crate::error::{Error, Exit, Result};
use crate::load::export::ExportSource;
use crate::model::{GapScope, ShardId, StreamArn, WallTime};
use crate::stream::driver::new_row;
use crate::stream::gaps::{UNSEEN, is_unconfirmed, no_older_than};
use crate::stream::lineage::{FORGET_AFTER, LineageRow};
use crate::stream::{GapCause, Lineage, Listing};

/// Every page of the load holds the changes that were created longer than this before it began: AWS's clocks differ less.
pub(crate) const LOAD_MARGIN: Duration = Duration::from_secs(300);
/// Creation times are whole seconds, rounded down, and AWS's clock is known to a second: where reading begins "now", what
/// was created this much before is taken as well.
const START_MARGIN: Duration = Duration::from_secs(2);
/// A segment of an automatic plan holds about this much.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Fewest and most segments of an automatic plan.
const AUTO_SEGMENTS: (u64, u64) = (16, 10_000);

/// What to do when the source is not the table that was copied.
pub(crate) const ANOTHER_TABLE: &str = "its history is another one: load again with a fresh state, into an empty target; not \
    before 16 minutes from now, for what was sent may land until then, and a fresh state knows nothing of it";

/// A link's books and forest, ready to run.
pub(crate) struct Opened {
    pub(crate) book: Book,
    pub(crate) lineage: Lineage,
    /// When the positions were proved last that a gap was opened for now, because that is so long ago.
    pub(crate) proved_before: BTreeMap<ShardId, WallTime>,
    pub(crate) resumed: bool,
}

/// What time it is: by our clock, which shards and gaps are kept by, and by AWS's, which creation times are compared with
/// and which doubts are kept by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    pub(crate) ours: WallTime,
    pub(crate) aws: WallTime,
}

/// What a link begins with, besides its stream.
#[derive(Clone, Copy)]
pub(crate) struct Begin<'a> {
    /// Whether the target is its own: made by it, or found empty.
    pub(crate) owns_target: bool,
    /// What is loaded in the place of a scan.
    pub(crate) export: Option<&'a ExportSource>,
    /// What was imported before, and whether the stream goes on from it.
    pub(crate) imported: Option<(&'a Imported, bool)>,
}

/// The books of a link that runs for the first time: the stream is pinned at its oldest records, then the load is planned. `state`
/// holds no link; what it holds all the same is of a pin that broke off, or of repairs without a link.
pub(crate) fn pin(
    link: &LinkConfig,
    prepared: &Prepared,
    listing: &Listing,
    Begin { owns_target, export, imported }: Begin<'_>,
    state: LinkState,
    Clocks { ours: now, aws }: Clocks,
) -> Option<Opened> {
    let (lineage, new_shards) = Lineage::pin(listing, now)?;
    let has_load = link.load.method != LoadMethod::None;
    let total_segments = segments_of(link.load.segments, prepared.source.size_bytes);
    let load = has_load.then_some(LoadPlan {
        total_segments,
        began: aws,
        expected_bytes: prepared.source.size_bytes,
        expected_items: prepared.source.item_count,
        export: None,
        loaded_items: None,
    });
    let load = load.map(|plan| match (export, imported) {
        (Some(export), _) => from_export(export, plan),
        (None, Some((imported, _))) => from_import(imported, plan),
        (None, None) => plan,
    });
    // What is older is in the load, so the stream is owed from there on: an export is older than this beginning.
    let goes_on = imported.is_none_or(|(_, goes_on)| goes_on);
    let owed_from = match &load {
        // What is older than the stream is in the gap.
        Some(_) if !goes_on => owed_from(StreamStart::TrimHorizon, now),
        None => owed_from(link.stream.start, now),
        Some(LoadPlan { export: Some(export), .. }) => export.time.minus(LOAD_MARGIN).min(now),
        Some(_) => now,
    };
    let is_loading = has_load && imported.is_none();
    let total_segments = load.as_ref().map_or(0, |plan| plan.total_segments);
    let is_export = export.is_some();
    let row = LinkRow {
        identity: prepared.identity.clone(),
        stage: if is_loading { Stage::Loading } else { Stage::Streaming },
        load,
        start_from: match link.stream.start {
            StreamStart::TrimHorizon => None,
            StreamStart::Now => Some(aws.minus(START_MARGIN)),
            StreamStart::At(time) => Some(WallTime::from_secs(time.millis().div_euclid(1000))),
        },
        owns_target: link.target_exclusive.unwrap_or(owns_target),
        clean: false,
        ghosts_until: None,
        settled_until: None,
        expiry_attributes: BTreeMap::new(),
        signed_ahead: Duration::ZERO,
        gates: 0,
        gated_at: None,
    };
    let mut book = Book::pin_over(state, row, aws, link.apply.in_doubt_for);
    book.create_shards(new_shards.into_iter().map(|new| new_row(new.id, new.parent, new.status, owed_from, now)));
    if imported.is_some_and(|(imported, goes_on)| !imported.is_whole || !goes_on) {
        open_gap(&mut book, GapScope::All, GapCause::ImportIncomplete, now);
    }
    if is_export {
        nothing_before_it_lands(&mut book);
    }
    if is_loading {
        book.plan_segments((0..total_segments).map(not_begun));
    }
    Some(Opened { book, lineage, proved_before: BTreeMap::new(), resumed: false })
}

/// The books of a link whose load goes on with a window: the stream, of which nothing was read, is pinned anew, and is owed
/// from the window's end on.
pub(crate) fn load_on(
    link: &LinkConfig,
    prepared: &Prepared,
    listing: &Listing,
    window: &ExportSource,
    (state, row): (LinkState, LinkRow),
    Clocks { ours: now, aws }: Clocks,
) -> Option<Opened> {
    let (lineage, new_shards) = Lineage::pin(listing, now)?;
    let before = row.load.clone()?;
    let items_before = before.export.as_ref().map_or(0, |export| export.items_before);
    let mut plan = from_export(window, LoadPlan { loaded_items: None, ..before });
    let (mut owed_from, total_segments) = (now, plan.total_segments);
    if let Some(export) = &mut plan.export {
        export.items_before = items_before;
        owed_from = export.time.minus(LOAD_MARGIN).min(now);
    }
    let identity = LinkIdentity { stream: prepared.identity.stream.clone(), ..row.identity.clone() };
    let row = LinkRow { identity, load: Some(plan), ..row };
    let mut book = Book::load_on(state, row, aws, link.apply.in_doubt_for);
    book.create_shards(new_shards.into_iter().map(|new| new_row(new.id, new.parent, new.status, owed_from, now)));
    nothing_before_it_lands(&mut book);
    book.plan_segments((0..total_segments).map(not_begun));
    Some(Opened { book, lineage, proved_before: BTreeMap::new(), resumed: false })
}

/// Whether incremental exports may go on from what is being loaded. Otherwise the stream is begun, whatever it has lost.
pub(crate) fn may_go_on(link: &LinkConfig, row: &LinkRow) -> bool {
    let Some(plan) = row.load.as_ref().and_then(|plan| plan.export.as_ref()) else { return false };
    // They tell of what expired as of what was deleted.
    let tells_expired = link.stream.ttl_deletes == TtlDeletes::Apply;
    tells_expired && row.stage == Stage::Loading && goes_on_from(&link.load, plan)
}

fn goes_on_from(load: &LoadConfig, plan: &ExportPlan) -> bool {
    load.own_export.is_some() || load.increments.last().is_some_and(|last| !plan.is_of(last))
}

/// Nothing of the export is sent before everything has landed that was sent earlier.
fn nothing_before_it_lands(book: &mut Book) {
    let not_before = book.last_due();
    book.update_link(|link| {
        if let Some(export) = link.load.as_mut().and_then(|plan| plan.export.as_mut()) {
            export.not_before = not_before;
        }
    });
}

/// The books of a link whose load ends with what it has: the stream, of which nothing was read, is pinned anew, and is owed from
/// there on. Where it does not reach back so far, a gap says so.
pub(crate) fn end_load(
    link: &LinkConfig,
    prepared: &Prepared,
    listing: &Listing,
    stream_lost: bool,
    (state, row): (LinkState, LinkRow),
    Clocks { ours: now, aws }: Clocks,
) -> Option<Opened> {
    let (lineage, new_shards) = Lineage::pin(listing, now)?;
    let mut plan = row.load.clone()?;
    let from = plan.holds_until().minus(LOAD_MARGIN);
    plan.loaded_items = plan.loaded_items.max(plan.export.as_ref().map(|export| export.items_before));
    let identity = LinkIdentity { stream: prepared.identity.stream.clone(), ..row.identity.clone() };
    let row = LinkRow { identity, stage: Stage::Streaming, load: Some(plan), ..row };
    let mut book = Book::load_on(state, row, aws, link.apply.in_doubt_for);
    if stream_lost {
        let cause = GapCause::NotConfirmed.as_str().to_owned();
        book.open_gap(GapRow { id: 0, scope: GapScope::All, from: Some(from), to: now, cause, healed: None });
    }
    book.create_shards(new_shards.into_iter().map(|new| new_row(new.id, new.parent, new.status, from.min(now), now)));
    Some(Opened { book, lineage, proved_before: BTreeMap::new(), resumed: true })
}

const fn not_begun(segment: u32) -> SegmentRow {
    SegmentRow { segment, cursor: None, done: false, items: 0, bytes: 0 }
}

/// No record is owed that is older. At the trim horizon nobody knows how old the oldest one is; it is as old as may be, and
/// still there for whoever reads it within the hour.
fn owed_from(start: StreamStart, now: WallTime) -> WallTime {
    match start {
        StreamStart::TrimHorizon => now.minus(UNSEEN),
        StreamStart::Now => now,
        StreamStart::At(time) => time.min(now),
    }
}

/// The plan of a load from an export: a segment for each of its files.
fn from_export(
    ExportSource { place, arn, bucket_owner, manifest, pace, .. }: &ExportSource,
    scan: LoadPlan,
) -> LoadPlan {
    let export = ExportPlan {
        place: place.clone(),
        arn: arn.clone(),
        bucket_owner: bucket_owner.clone(),
        // One without a time was refused.
        time: manifest.summary.time.unwrap_or(scan.began),
        fingerprint: manifest.fingerprint.clone(),
        window: manifest.summary.window,
        not_before: None,
        items_before: 0,
        pace: *pace,
        is_loaded: false,
    };
    LoadPlan {
        total_segments: u32::try_from(manifest.files.len()).unwrap_or(u32::MAX),
        expected_bytes: manifest.summary.billed_bytes.unwrap_or(scan.expected_bytes),
        expected_items: manifest.items,
        export: Some(export),
        ..scan
    }
}

/// The plan of a load that an import has made: nothing of it is left to do.
fn from_import(imported: &Imported, scan: LoadPlan) -> LoadPlan {
    LoadPlan {
        total_segments: 0,
        expected_bytes: imported.bytes.unwrap_or(scan.expected_bytes),
        expected_items: imported.items,
        export: Some(imported.plan.clone()),
        loaded_items: Some(imported.items),
        ..scan
    }
}

/// How many segments a table of this size is read in.
pub(crate) fn segments_of(wanted: Segments, size_bytes: u64) -> u32 {
    match wanted {
        Segments::Fixed(segments) => segments,
        Segments::Auto => {
            let segments = (size_bytes / SEGMENT_BYTES).clamp(AUTO_SEGMENTS.0, AUTO_SEGMENTS.1);
            u32::try_from(segments).unwrap_or(u32::MAX)
        }
    }
}

/// The books of a link that ran before. Refuses state that belongs to other tables.
pub(crate) fn resume(
    link: &LinkConfig,
    prepared: &Prepared,
    state: LinkState,
    row: LinkRow,
    Clocks { ours: now, aws }: Clocks,
) -> Result<Opened> {
    check_tables(&link.name, &row.identity, &prepared.identity)?;
    let rows = state.shards.iter().map(|row| LineageRow {
        id: row.id.clone(),
        parent: row.parent.clone(),
        status: row.status,
        last_listed: row.last_listed,
        lost: row.is_lost,
    });
    // What was found before any shard that is still listed was closed says nothing of it.
    let is_recent = |gap: &&GapRow| now.since(gap.to) < FORGET_AFTER;
    let strangers = state.gaps.iter().filter(|gap| gap.cause == GapCause::ParentUnknown.as_str()).filter(is_recent);
    let lineage = Lineage::restore(rows).with_stranger(strangers.map(|gap| gap.to).max());
    let settled: BTreeMap<&ShardId, WallTime> =
        state.shards.iter().filter_map(|row| Some((&row.id, row.checkpoint_time?))).collect();
    let oldest = |row: &ShardRow| {
        let ancestors = lineage.ancestors(&row.id).filter_map(|id| settled.get(id)).copied();
        no_older_than(row.verified_at, ancestors)
    };
    // Where a load may go on by incremental exports, its stream is pinned anew for each of them, and looked at when it begins.
    let is_chained = may_go_on(link, &row);
    let unconfirmed: BTreeMap<ShardId, WallTime> = state
        .shards
        .iter()
        .filter(|row| row.status != ShardStatus::Finished && !is_chained)
        .map(|row| (row.id.clone(), oldest(row)))
        .filter(|(_, oldest)| is_unconfirmed(*oldest, now))
        .collect();
    let mut book = Book::take_over(state, row, aws, link.apply.in_doubt_for);
    for shard in unconfirmed.keys() {
        open_gap(&mut book, GapScope::Shard(shard.clone()), GapCause::NotConfirmed, now);
        // The gap covers what is lost so far.
        book.confirm(shard, now, Duration::ZERO)
            .map_err(|error| Error::new(Exit::Unexpected, "open the books").because(error))?;
    }
    Ok(Opened { book, lineage, proved_before: unconfirmed, resumed: true })
}

/// The state of a link is of other tables than those that the configuration names.
pub(crate) fn of_other_tables(link: &str, known: &LinkIdentity) -> Error {
    Error::new(Exit::Precondition, format!("the state of link `{link}` belongs to other tables")).hint(format!(
        "it copies {} to {}; rename the link, or use another state for these tables",
        known.source, known.target
    ))
}

/// Refuses state that belongs to other tables than those that are there now.
pub(crate) fn check_tables(link: &str, known: &LinkIdentity, found: &LinkIdentity) -> Result<()> {
    if known.source != found.source || known.target != found.target || known.keys != found.keys {
        return Err(of_other_tables(link, known));
    }
    if known.target_id != found.target_id {
        return Err(target_made_anew(link));
    }
    if known.source_id != found.source_id {
        return Err(
            Error::new(Exit::Lost, format!("the source table of link `{link}` was made anew")).hint(ANOTHER_TABLE)
        );
    }
    Ok(())
}

/// The target is not the table that the link copied to.
pub(crate) fn target_made_anew(link: &str) -> Error {
    Error::new(Exit::Precondition, format!("the target table of link `{link}` was made anew"))
        .hint("it lacks what was copied before: load again with a fresh state, into an empty target")
}

/// The books of a link whose stream was replaced: everything written in between is in no stream, but where a load is under way,
/// from which incremental exports may go on, in those.
pub(crate) fn replace_stream(
    link: &LinkConfig,
    stream: &StreamArn,
    listing: &Listing,
    state: LinkState,
    row: LinkRow,
    Clocks { ours: now, aws }: Clocks,
) -> Option<Opened> {
    let (lineage, new_shards) = Lineage::pin(listing, now)?;
    let is_chained = may_go_on(link, &row);
    let old: Vec<_> = state.shards.iter().map(|row| row.id.clone()).collect();
    let mut book = Book::take_over(state, row, aws, link.apply.in_doubt_for);
    if !is_chained {
        open_gap(&mut book, GapScope::All, GapCause::StreamReplaced, now);
    }
    let stream = stream.clone();
    book.update_link(|link| link.identity.stream = stream);
    for shard in old {
        book.drop_shard(&shard);
    }
    let owed_from = owed_from(StreamStart::TrimHorizon, now);
    book.create_shards(new_shards.into_iter().map(|new| new_row(new.id, new.parent, new.status, owed_from, now)));
    Some(Opened { book, lineage, proved_before: BTreeMap::new(), resumed: true })
}

fn open_gap(book: &mut Book, scope: GapScope, cause: GapCause, now: WallTime) {
    let row = GapRow { id: 0, scope, from: None, to: now, cause: cause.as_str().to_owned(), healed: None };
    if book.open_gap(row) {
        tracing::error!(cause = cause.as_str(), "source history may be lost: a gap is open");
    }
}

/// Changes created before this are not applied.
pub(crate) fn apply_from(row: &LinkRow) -> Option<WallTime> {
    let load = row.load.as_ref().map(|load| load.holds_until().minus(LOAD_MARGIN));
    load.max(row.start_from)
}

/// What a resumed link has behind it, in one line.
pub(crate) fn resumed_line(book: &Book, context: &Context) -> String {
    let done = book.segment_rows().filter(|segment| segment.done).count();
    let settled =
        book.shard_rows().filter(|row| row.status == ShardStatus::Reading).filter_map(|row| row.checkpoint_time);
    let behind = settled
        .min()
        .map_or_else(|| "not begun".to_owned(), |time| format!("{} s behind", context.now().since(time).as_secs()));
    match &book.link().load {
        Some(plan) if book.link().stage == Stage::Loading => {
            let segments = if plan.export.is_some() { "files of the export" } else { "segments" };
            format!("{done}/{} {segments} done, stream {behind}", plan.total_segments)
        }
        _ => format!("stream {behind}, {} keys in doubt", book.num_doubts()),
    }
}
