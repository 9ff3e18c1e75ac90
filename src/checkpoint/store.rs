//! The seam of all durable state.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::gates::Gates;
use super::lease::Sighting;
use super::part::PartName;
use super::rows::{
    DeadLetterRow, DoubtRow, ExportRequestRow, Fence, GapRow, ImportRequestRow, LinkRow, PageId, SegmentRow, ShardRow,
    VerifiedRow,
};
use crate::error::{Error, Exit};
use crate::model::{CanonicalKey, Key, ShardId, WallTime};

/// Everything a link remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkState {
    /// The link's row; `None`: the link has never run.
    pub link: Option<LinkRow>,
    /// The last owner; `None`: nobody took the link yet.
    pub fence: Option<Fence>,
    /// Shards, by id.
    pub shards: Vec<ShardRow>,
    /// Segments of the load, by number.
    pub segments: Vec<SegmentRow>,
    /// Keys in doubt: those with a row of their own, by key, and then those of pages of the load, by page. A key may be among
    /// both, and in several pages.
    pub doubts: Vec<DoubtRow>,
    /// Gaps, open and healed, by number.
    pub gaps: Vec<GapRow>,
    /// How many dead letters there are, and the highest number given so far.
    pub dead_letters: (u64, u64),
}

/// One change of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "the link's row is the largest, and there is one in a thousand writes")]
pub enum StateWrite {
    /// Writes the link's row.
    Link(LinkRow),
    /// Writes a shard's row. Refused when it would move a checkpoint or a dispatch watermark back or un-finish a shard.
    Shard(ShardRow),
    /// Drops the row of a shard that is finished and long gone from the listing. Refused when it is not finished.
    ForgetShard(ShardId),
    /// Writes a segment's row. Refused when it would re-open one that is done.
    Segment(SegmentRow),
    /// Lists a key as in doubt. Where it is listed already, the later `until` stays, and a row without a page stays one;
    /// a key listed for two pages becomes a row without a page, for neither page alone may settle it. What is
    /// [`under_way`](DoubtRow::under_way), as every row with a page is, stays so until another owner lists the key.
    Doubt(DoubtRow),
    /// Takes the key off the list: it was synced. Ignored when the row's `until` is later than the given one, for then
    /// it was listed again meanwhile.
    Settle(DoubtRow),
    /// Lists all keys of a page of the load as under way, whatever else they are in doubt for.
    Page(PageId, Vec<Key>),
    /// Takes all keys of a settled page of the load off the list: those that this owner listed for the page and for
    /// nothing else. A page of an earlier owner is another page, whatever its number: its keys wait for their sync.
    SettlePage(PageId),
    /// Removes the pages of earlier owners: their keys are listed by themselves, or none of their writes is on its way.
    ForgetPages,
    /// Writes a gap.
    Gap(GapRow),
    /// Sets a change aside.
    DeadLetter(DeadLetterRow),
    /// Removes a dead letter that was written after all.
    RemoveDeadLetter(u64),
    /// Removes all of the load's segments.
    ForgetSegments,
}

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("the state in {place} is in use by another process")]
    Held {
        /// The file or the table.
        place: String,
    },
    /// A newer owner took over: this process must stop sending at once.
    #[error("link {link}: another worker took over")]
    Fenced {
        /// The link.
        link: String,
    },
    /// Written by another version.
    #[error("the state in {place} has schema version {found}; this program knows {known}")]
    Version {
        /// The file or the table.
        place: String,
        /// What it has.
        found: u32,
        /// What we know.
        known: u32,
    },
    /// The write would break an invariant (a checkpoint that moves back, a finished shard that opens): a bug of ours.
    #[error("link {link}: refused state write: {what}")]
    Invariant {
        /// The link.
        link: String,
        /// Which one.
        what: String,
    },
    /// The table is not there, or a link's rows are not in it any more. It is not made anew: that would forget how far the
    /// links are.
    #[error("the state in {place} is gone, or was never there")]
    Gone {
        /// The table.
        place: String,
    },
    /// The credentials do not allow it.
    #[error("use the state in {place}")]
    Denied {
        /// The table.
        place: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It cannot be read as what it should be.
    #[error("the state in {place} is damaged: {what}")]
    Damaged {
        /// The file or the table.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// What keeps it has stopped, which it never does while it is in use: a bug of ours.
    #[error("what keeps the state in {place} has stopped")]
    Stopped {
        /// The file or the table.
        place: String,
    },
    /// The medium failed.
    #[error("use the state in {place}")]
    Io {
        /// The file or the table.
        place: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// Whether it may pass, so that the same call may be tried again: a medium in trouble, permissions that are being mended.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Denied { .. })
    }
}

impl From<StoreError> for Error {
    /// What ends the command: the exit code and what the operator can do.
    fn from(error: StoreError) -> Self {
        let (exit, hint) = match &error {
            StoreError::Held { .. } => (Exit::Held, Some("stop the other process, or give this one a file of its own")),
            StoreError::Fenced { .. } => (Exit::Held, Some("one link has one worker: see which one holds it now")),
            StoreError::Version { .. } => (Exit::Precondition, Some("run the version of dynaferry that wrote it")),
            StoreError::Damaged { .. } => (
                Exit::Precondition,
                Some("restore it from a backup less than a day old, or move it away and load the tables again"),
            ),
            StoreError::Gone { .. } => (
                Exit::Precondition,
                Some(
                    "is the name right? a table that was deleted is restored from its backups, or the links load again, into empty targets",
                ),
            ),
            StoreError::Denied { .. } => {
                (Exit::Precondition, Some("allow what config/policies/state.json says to the target's identity"))
            }
            StoreError::Io { .. } => (Exit::Unexpected, Some("check that the place exists, is writable and has room")),
            StoreError::Invariant { .. } | StoreError::Stopped { .. } => (Exit::Unexpected, None),
        };
        let ended = Self::new(exit, error.to_string());
        let ended = match hint {
            Some(hint) => ended.hint(hint),
            None => ended,
        };
        match error {
            StoreError::Io { source, .. } | StoreError::Denied { source, .. } => ended.because(source),
            _ => ended,
        }
    }
}

/// A result of the store.
pub type StoreResult<T> = Result<T, StoreError>;

/// A worker's sign of life, in a row of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// The worker.
    pub worker: String,
    /// Counts up with each sign. Only that it moved matters, and only to the clock of whoever sees it move.
    pub counter: u64,
    /// How long the worker may be taken to live after this: workers of one table may be set differently, as during an
    /// update, and nobody may take a link sooner than its owner stops.
    pub lease: Duration,
    /// When it was given, by the worker's own clock; for people to look at.
    pub at: WallTime,
    /// What the worker says of its links; for people to look at.
    pub report: String,
}

/// Signs of life in a store that many workers share.
pub trait Pulses: Send + Sync + 'static {
    /// Gives a sign, after the one with the number before it or, where it is the `first` of its row, after none. One
    /// attempt. True also where an earlier attempt at the same number is found; false where the row is not as it was left.
    fn give<'a>(&'a self, sign: &'a Sign, first: bool) -> BoxFuture<'a, StoreResult<bool>>;

    /// The last sign of each worker.
    fn signs(&self) -> BoxFuture<'_, StoreResult<Vec<Sign>>>;

    /// Removes the row of a worker whose last number is this one.
    fn forget<'a>(&'a self, worker: &'a str, counter: u64) -> BoxFuture<'a, StoreResult<()>>;
}

/// Who may work on a link, in a store that many workers share.
pub trait Leases: Pulses {
    /// A link and its holder; the holder's number only where it is asked for.
    fn sight<'a>(&'a self, link: &'a str, with_counter: bool) -> BoxFuture<'a, StoreResult<Sighting>>;

    /// As [`StateStore::take`], if the last owner still is the one that was seen. `None`: somebody was faster.
    fn take_from<'a>(
        &'a self,
        link: &'a str,
        owner: &'a str,
        seen: Option<&'a Fence>,
    ) -> BoxFuture<'a, StoreResult<Option<(Fence, LinkState)>>>;

    /// The link's row alone, as it is now; `None`: the link has never run.
    fn link_row<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<LinkRow>>>;

    /// Makes a part of a link, with what these writes leave in it, for whoever takes it. That one is its first owner: whoever
    /// makes it owned nothing. A part that is not made is never taken. After an error there may be some of it.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where there is such a part, however much of it.
    fn make_part<'a>(
        &'a self,
        part: &'a PartName,
        owner: &'a str,
        writes: Vec<StateWrite>,
    ) -> BoxFuture<'a, StoreResult<()>>;

    /// The parts of a link that there are, also those that were not made or removed to the end.
    fn parts<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Vec<PartName>>>;

    /// Removes a part, of which nothing is needed any more. Whoever owns it hears that another one took over.
    fn remove_part<'a>(&'a self, part: &'a PartName) -> BoxFuture<'a, StoreResult<()>>;

    /// Lets go of a link: this owner, whose name no other process has, sends nothing more. Comes after every call for the
    /// link that was made before, also one that nobody waits for any more. Does nothing where the link is another's by now.
    fn release<'a>(&'a self, link: &'a str, owner: &'a str) -> BoxFuture<'a, StoreResult<()>>;
}

/// Durable state of links.
///
/// - *Durable*: when a future resolves with `Ok`, the writes survive the process and the machine.
/// - *Order*: the writes of one commit take effect in order; after a crash or an error a prefix of them may be there (a
///   file keeps all or none). Commits of one link take effect in the order in which they were made.
/// - *Fenced*: every write names the owner and epoch that [`StateStore::take`] gave; a stale one changes nothing and
///   answers [`StoreError::Fenced`].
/// - *Cancel*: dropping a future may or may not carry the write out.
pub trait StateStore: Send + Sync + 'static {
    /// What the store is, for messages: `file:./dynaferry.redb`.
    fn place(&self) -> String;

    /// Leases, where many workers may share the store. `None`: it is this process's alone.
    fn leases(&self) -> Option<Arc<dyn Leases>> {
        None
    }

    /// Gates, where a transaction of the target's account can ask for what is in the store.
    fn gates(&self) -> Option<Arc<dyn Gates>> {
        None
    }

    /// The links that have state here, by name.
    fn links(&self) -> BoxFuture<'_, StoreResult<Vec<String>>>;

    /// Reads everything of a link, consistently: with every commit that was called before on this store.
    fn read<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<LinkState>>;

    /// Makes `owner` the link's owner under the next epoch, and reads the state that it takes over in the same step.
    fn take<'a>(&'a self, link: &'a str, owner: &'a str) -> BoxFuture<'a, StoreResult<(Fence, LinkState)>>;

    /// Writes.
    fn commit<'a>(&'a self, link: &'a str, fence: &'a Fence, writes: Vec<StateWrite>)
    -> BoxFuture<'a, StoreResult<()>>;

    /// Dead letters with a number above `after`, lowest first, at most `limit`.
    fn dead_letters<'a>(
        &'a self,
        link: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, StoreResult<Vec<DeadLetterRow>>>;

    /// Whether a key is in doubt now; for tests and `status`.
    fn doubt<'a>(&'a self, link: &'a str, key: &'a CanonicalKey) -> BoxFuture<'a, StoreResult<Option<DoubtRow>>>;

    /// Notes what a comparison of the link's tables found. Not fenced: nothing that is written depends on it, and who
    /// compares is seldom who has the link.
    fn note_verified<'a>(&'a self, link: &'a str, row: &'a VerifiedRow) -> BoxFuture<'a, StoreResult<()>>;

    /// What the last comparison found, whoever made it; `None`: there was none.
    fn verified<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<VerifiedRow>>>;

    /// Notes the export that a link asks for, if the last one is still `replaces`. Answers whether it was, or the same row is
    /// there already. Not fenced: the link has no row yet.
    fn note_export<'a>(
        &'a self,
        link: &'a str,
        row: &'a ExportRequestRow,
        replaces: Option<&'a ExportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>>;

    /// The export that the link has asked for last; `None`: it never did.
    fn export_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ExportRequestRow>>>;

    /// Notes the import that a link asks for, as [`Self::note_export`] does an export.
    fn note_import<'a>(
        &'a self,
        link: &'a str,
        row: &'a ImportRequestRow,
        replaces: Option<&'a ImportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>>;

    /// The import that the link has asked for last; `None`: it never did.
    fn import_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ImportRequestRow>>>;
}

/// Rows of dead letters that are read at a time.
const LETTERS: usize = 100;

/// All dead letters of a link, by number.
pub(crate) async fn all_letters(store: &dyn StateStore, link: &str) -> StoreResult<Vec<DeadLetterRow>> {
    let mut letters: Vec<DeadLetterRow> = Vec::new();
    loop {
        let after = letters.last().map_or(0, |letter| letter.id);
        let page = store.dead_letters(link, after, LETTERS).await?;
        if page.is_empty() {
            return Ok(letters);
        }
        letters.extend(page);
    }
}
