//! The rows that a link remembers.
//!
//! Plain values with a serde form; every store keeps the same ones. A row never holds an item's contents, except a dead
//! letter, which is the user's to read and replay.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::model::{GapScope, ShardStatus};

use crate::model::{
    CanonicalKey, ExportArn, ExportBucket, ExportPlace, ExportRef, ExportSpan, ExportWindow, ImportArn, Key, KeySchema,
    SequenceNumber, ShardId, StreamArn, TableArn, WallTime,
};

/// The longest life of a signed request, with margin: a write whose answer was lost may still land until then.
///
/// AWS refuses a signature older than 5 minutes, by other texts 15; one minute more for the clock's drift.
pub const GHOST_LIFE: Duration = Duration::from_secs(16 * 60);

/// The version of the rows' layout. A store with another one is refused.
pub const SCHEMA_VERSION: u32 = 1;

/// Who may write a link's rows: the owner, and the how-manieth one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The worker's id, random per process.
    pub owner: String,
    /// Grows by one with each owner.
    pub epoch: u64,
}

/// What is copied where, and what of it must never change under a running link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkIdentity {
    /// The source table.
    pub source: TableArn,
    /// Its id: a re-created table has another.
    pub source_id: String,
    /// The stream being read.
    pub stream: StreamArn,
    /// The target table.
    pub target: TableArn,
    /// Its id: a re-created table lacks what was copied before.
    pub target_id: String,
    /// The primary key, the same on both sides.
    pub keys: KeySchema,
}

/// How far the life of a link has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The stream is pinned; the load is not finished.
    Loading,
    /// The load is done, or there was none: the stream alone.
    Streaming,
    /// The same, and the link's shards are shared by several workers: the rows of its parts say how far they are, and those
    /// of the link that were dealt out to them say how far they were then. A version that does not know of parts refuses it.
    Divided(Division),
}

/// How the shards of a link are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Division {
    /// The epoch of the owner that divided the link; its parts are named by it.
    pub epoch: u64,
    /// How many parts there are, numbered from 0.
    pub parts: u32,
    /// The link is to be whole again: nobody begins to work on a part any more, and who does lets go of it.
    pub is_recalled: bool,
    /// The number that the first dead letter of the parts has as one of the link.
    pub first_letter: u64,
    /// The same of gaps.
    pub first_gap: u64,
}

/// The initial load, pinned when it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadPlan {
    /// Number of segments, fixed for the whole load: cursors mean nothing under another number. Of an export, its files.
    pub total_segments: u32,
    /// When it began, by AWS's clock. Changes created more than five minutes before are in every page of a scan already.
    pub began: WallTime,
    /// What is said to be loaded, in bytes: by DescribeTable, or by the export's summary.
    pub expected_bytes: u64,
    /// What is said to be loaded, in items.
    pub expected_items: u64,
    /// What is loaded instead of a scan of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<ExportPlan>,
    /// Items that the load settled in all its runs, from its end on.
    #[serde(default)]
    pub loaded_items: Option<u64>,
}

impl LoadPlan {
    /// The time whose changes every loaded item holds, but for a margin: a scan reads what is there, an export what was.
    #[must_use]
    pub fn holds_until(&self) -> WallTime {
        self.export.as_ref().map_or(self.began, |export| export.time)
    }
}

/// An export that is loaded. The stream waits for its end: what is in it is older than everything that is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPlan {
    /// Where it is.
    pub place: ExportPlace,
    /// Its name, where the user gave that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arn: Option<ExportArn>,
    /// The account that owns its bucket, where that is known: a bucket of that name that is somebody else's is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket_owner: Option<String>,
    /// The time of which it is an image, give or take a minute; of a window, its end.
    pub time: WallTime,
    /// SHA-256 of what its list says of its files, in hex: segments are numbered by it.
    pub fingerprint: String,
    /// The window, where it holds no more than what changed in one: what came before it is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<ExportWindow>,
    /// Nothing of it is sent before this, by AWS's clock: until then what was sent before it may land.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<WallTime>,
    /// Items that were loaded before it; of one that is loaded, with its own.
    #[serde(default)]
    pub items_before: u64,
    /// Of a window: how the load comes on by windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<ChainPace>,
    /// All of it is loaded, and the stream does not go on from it. Segments may be those of the export that follows, as far as
    /// they were written.
    #[serde(default)]
    pub is_loaded: bool,
}

/// How a load comes on by windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainPace {
    /// How far behind the source the load was when the window was chosen.
    pub behind: Duration,
    /// So many windows in a row have brought it no closer.
    pub without_gain: u32,
}

impl ExportPlan {
    /// Whether it is of this export, by whichever of its names.
    pub(crate) fn is_of(&self, export: &ExportRef) -> bool {
        match (export, &self.arn) {
            (ExportRef::Place(place), _) => self.place == *place,
            (ExportRef::Arn(arn), Some(own)) => arn == own,
            (ExportRef::Arn(arn), None) => self.place.folder.ends_with(&format!("AWSDynamoDB/{}/", arn.id)),
        }
    }
}

/// The row of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    /// What it copies.
    pub identity: LinkIdentity,
    /// How far it is.
    pub stage: Stage,
    /// The load, unless the link never had one.
    pub load: Option<LoadPlan>,
    /// Only changes created at or after this are applied (`stream.start = "now"` or a time).
    pub start_from: Option<WallTime>,
    /// Whether this link made its target or found it empty: then target-only keys may be deleted.
    pub owns_target: bool,
    /// Whether the last owner drained before it stopped. Where not, its writes may still land.
    pub clean: bool,
    /// Until when writes of owners that did not drain may land. Most keys of theirs are listed, or are by the time they are
    /// applied again; those of records that were trimmed unread are not, so no gap is closed before this.
    #[serde(default)]
    pub ghosts_until: Option<WallTime>,
    /// Every change created before this was applied when the row was written, as the running link knew from empty pages,
    /// too: written at a drain and now and then before, so that an idle table does not look as old as its last change.
    #[serde(default)]
    pub settled_until: Option<WallTime>,
    /// The attributes by which items of the source expire, or expired until then, where the target keeps what did
    /// (`stream.ttl_deletes = "skip"`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expiry_attributes: BTreeMap<String, Option<WallTime>>,
    /// How far the owner's clock is, or was, ahead of AWS's at most: what it signs holds so much longer.
    #[serde(default)]
    pub signed_ahead: Duration,
    /// How many gates ([`Gate`](super::Gate)) owners ever wrote through.
    #[serde(default)]
    pub gates: u32,
    /// The last owner wrote through gates alone, and where those are: nothing of it lands when they are another's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gated_at: Option<String>,
}

/// An export that a link has asked for, so that no crash makes it ask for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRequestRow {
    /// The client token of the request: with it the service makes one export, however often it is asked.
    pub token: String,
    /// When it was decided to ask, by AWS's clock.
    pub asked: WallTime,
    /// The export; `None`: whether it was asked for is not known.
    pub arn: Option<ExportArn>,
    /// What was asked for. Something else is another request.
    pub of: ExportSubject,
    /// The moment of which the whole table is exported, where one was named: to a whole second, so that a window can begin
    /// there. `None`: the service takes its latest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<WallTime>,
    /// The how-manieth request of that: the ones before failed, or were of no use when they were whole.
    pub attempt: u32,
}

/// What an export is asked for, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportSubject {
    /// The table.
    pub table: TableArn,
    /// Its id: a re-created table has another.
    pub table_id: String,
    /// The stream that goes on from it.
    pub stream: StreamArn,
    /// Where it is put.
    pub bucket: ExportBucket,
    /// The window whose changes are exported; `None`: the whole table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<ExportWindow>,
}

impl ExportRequestRow {
    /// What is asked for.
    pub(crate) fn span(&self) -> ExportSpan {
        self.of.window.map_or(ExportSpan::Whole(self.time), ExportSpan::Window)
    }

    /// What tells it from other rows of the link, whatever a later version adds.
    pub(crate) fn mark(&self) -> String {
        let arn = self.arn.as_ref().map(ExportArn::to_string).unwrap_or_default();
        format!("{} {arn}", self.token)
    }
}

/// An import that a link has asked for, so that no crash makes it ask for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRequestRow {
    /// The client token of the request: with it the service makes one import, however often it is asked.
    pub token: String,
    /// When it was decided to ask, by AWS's clock.
    pub asked: WallTime,
    /// The import; `None`: whether it was asked for is not known.
    pub arn: Option<ImportArn>,
    /// What was asked for. Something else is another request.
    pub of: ImportSubject,
    /// The how-manieth request of that: the ones before failed, or their tables were deleted.
    pub attempt: u32,
}

/// What is imported, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportSubject {
    /// The source table, and its id: a re-created table has another.
    pub source: TableArn,
    /// See above.
    pub source_id: String,
    /// The export that is read.
    pub export: ExportPlan,
    /// Its items.
    pub items: u64,
    /// Its size in bytes, as far as that is told.
    pub bytes: Option<u64>,
    /// The table that is made.
    pub target: TableArn,
}

impl ImportRequestRow {
    /// What tells it from other rows of the link, whatever a later version adds.
    pub(crate) fn mark(&self) -> String {
        let arn = self.arn.as_ref().map(ImportArn::to_string).unwrap_or_default();
        format!("{} {arn}", self.token)
    }
}

/// What the last comparison of a link's tables found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedRow {
    /// When it ended.
    pub at: WallTime,
    /// Keys that were compared.
    pub compared: u64,
    /// Keys that never came to rest.
    pub pending: DifferenceCounts,
    /// Keys that differ.
    pub confirmed: DifferenceCounts,
    /// When one last found both tables identical: this one, or one before it.
    pub last_success: Option<WallTime>,
}

/// Differences by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceCounts {
    /// In the source only.
    pub missing: u64,
    /// In the target only.
    pub extra: u64,
    /// In both, not equal.
    pub different: u64,
}

/// A range of records that an earlier owner may still have on the wire.
///
/// While records of the range are applied again, each of their keys is listed as in doubt until `until`; the debt is paid
/// when the checkpoint has passed `to`, for then every key of it is a durable [`DoubtRow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// The last record of the range.
    pub to: SequenceNumber,
    /// When the last of its writes can land.
    pub until: WallTime,
}

/// The row of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRow {
    /// The shard.
    pub id: ShardId,
    /// Its parent, as listed; it may be gone.
    pub parent: Option<ShardId>,
    /// Its state.
    pub status: ShardStatus,
    /// Every record up to here is settled; `None`: none yet.
    pub checkpoint: Option<SequenceNumber>,
    /// The source time up to which the shard is settled (see `telemetry::lag`).
    pub checkpoint_time: Option<WallTime>,
    /// Nothing beyond this record was sent to the target.
    pub dispatch: Option<SequenceNumber>,
    /// When the position was last confirmed to be within the stream's retention.
    pub verified_at: WallTime,
    /// When the row became `Finished`, or when it last was in a listing after that.
    pub last_listed: WallTime,
    /// Ranges of earlier owners, see [`Debt`].
    pub debts: Vec<Debt>,
    /// The checkpoint was found trimmed: a gap says so, and reading starts at the oldest record that is left.
    #[serde(default)]
    pub is_trimmed: bool,
    /// It is `Finished` only because it vanished, under a gap; it may be read again if it is listed again.
    #[serde(default)]
    pub is_lost: bool,
}

/// How far a segment of the load is: every page up to the cursor is settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRow {
    /// The segment, `0..total_segments`.
    pub segment: u32,
    /// `ExclusiveStartKey` of the next page as DynamoDB JSON text, or how far the file of an export is; `None`: from the
    /// start.
    pub cursor: Option<String>,
    /// Whether the last page is settled.
    pub done: bool,
    /// Items read so far.
    pub items: u64,
    /// Bytes read so far, in JSON.
    pub bytes: u64,
}

/// A key whose newest write at the target is not certain. It gets `sync(k)` at `until`, and then the row goes.
///
/// Written before anything that may leave a late write behind: with the checkpoint that passes an unanswered write, with a
/// page of the load before its items are sent, before every `sync(k)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoubtRow {
    /// The key, canonical.
    pub key: CanonicalKey,
    /// The key as DynamoDB JSON text, to read and write it.
    pub key_json: String,
    /// When it is to be synced: no earlier write can land after this.
    pub until: WallTime,
    /// Set for a page of the load that is in flight: only a restart makes the key doubtful.
    pub page: Option<PageId>,
    /// The last owner may have a write of the key on the wire of which only this row tells: a sync, or an item of the
    /// load. Durable before that write is sent; where an owner did not drain, the key waits once more.
    pub under_way: bool,
}

impl DoubtRow {
    /// A key of a page of the load that may be in flight.
    pub(crate) fn of_page(key: Key, page: PageId) -> Self {
        let key_json = String::from_utf8_lossy(&key.json).into_owned();
        Self { key: key.canonical, key_json, until: WallTime::from_millis(0), page: Some(page), under_way: true }
    }
}

/// A page of the load: its segment and its number within this process's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PageId {
    /// The segment.
    pub segment: u32,
    /// Counts up within the segment; unique within a link for ever (it starts at the number of pages settled before).
    pub number: u64,
}

/// An interval of the source's history that was trimmed, or may have been, before it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRow {
    /// Its number within the link.
    pub id: u64,
    /// What it spans.
    pub scope: GapScope,
    /// From when, where known.
    pub from: Option<WallTime>,
    /// When it was found: what was lost was written before.
    pub to: WallTime,
    /// Why, as a short stable word: `trimmed`, `shard_vanished`, `parent_unknown`, `stream_replaced`, `not_confirmed`,
    /// `import_incomplete`.
    pub cause: String,
    /// When the tables were found equal again; `None` while the gap is open.
    pub healed: Option<WallTime>,
}

/// A change that the target refuses for ever, set aside under `on_rejected = "dead_letter"`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterRow {
    /// Its number within the link.
    pub id: u64,
    /// The key as DynamoDB JSON text.
    pub key_json: String,
    /// The refused image as DynamoDB JSON text; `None` for a delete.
    pub item_json: Option<String>,
    /// The service's error code and text.
    pub reason: String,
    /// When.
    pub at: WallTime,
}

impl std::fmt::Debug for DeadLetterRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetterRow").field("id", &self.id).field("reason", &self.reason).finish_non_exhaustive()
    }
}
