//! The values that labels may take.
//!
//! Every label of every metric is a closed enum from here, or the name of a link: the number of series is bounded by
//! the configuration, never by traffic, shards or keys. The texts are an interface (dashboards and alerts name them).

use crate::error::{Failure, Fault};

/// A closed set of label values.
pub trait Label: Copy + Eq + 'static {
    /// Every value, in order of [`Label::index`].
    const ALL: &'static [Self];

    /// The text of the value, as it appears in metrics and in JSON.
    fn as_str(self) -> &'static str;

    /// The place of the value in [`Label::ALL`].
    fn index(self) -> usize;
}

macro_rules! labels {
    ($($(#[$meta:meta])* $name:ident { $($(#[$value_meta:meta])* $value:ident = $text:literal,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$value_meta])* #[serde(rename = $text)] $value,)+
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$value,)+];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }

            fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    )+};
}

labels! {
    /// How the process runs. Alerts look at services only: a finished migration is not an outage.
    Mode {
        /// Runs until it is told to stop.
        Service = "service",
        /// Ends by itself: `migrate`, `verify`.
        Oneshot = "oneshot",
    }

    /// Where a link is in its life.
    Phase {
        /// Preconditions, discovery.
        Starting = "starting",
        /// Another worker has the link; this one waits to take it over.
        Standby = "standby",
        /// The target is being filled; it is no copy of any point in time yet.
        InitialLoad = "initial_load",
        /// The load is done; the stream is being caught up with.
        CatchingUp = "catching_up",
        /// Keeping pace with the source.
        Replicating = "replicating",
        /// Told to stand still.
        Paused = "paused",
        /// Shutting down.
        Draining = "draining",
        /// A cutover is under way.
        Cutover = "cutover",
        /// Stopped by a fault; needs a human.
        Failed = "failed",
    }

    /// How a link was taken over from another worker.
    Takeover {
        /// That one had drained and let go: nothing is repeated.
        Clean = "clean",
        /// It had not: what it may have had on the wire is applied again, and its keys are in doubt.
        Unclean = "unclean",
    }

    /// How far along the pipeline a watermark stands.
    Stage {
        /// Read from the stream.
        Read = "read",
        /// Acknowledged by the target.
        Applied = "applied",
        /// Durable in the checkpoint store.
        Checkpointed = "checkpointed",
    }

    /// What became of a stream record. `read` less the others and less the dead letters is in flight.
    RecordStage {
        /// Read from the stream.
        Read = "read",
        /// Left out by the user's filter.
        Filtered = "filtered",
        /// Acknowledged by the target.
        Applied = "applied",
        /// Never sent: a later change of the same key took its place.
        Superseded = "superseded",
        /// Never sent: created before the load began, so the load already carries it.
        SkippedOlder = "skipped_older",
    }

    /// What the target was told to do for a record.
    AppliedOp {
        /// A whole image was written.
        Put = "put",
        /// The item was deleted.
        Delete = "delete",
    }

    /// What a shard is doing.
    ShardState {
        /// Being read.
        Open = "open",
        /// Waits until its parent is read and settled.
        WaitingParent = "waiting_parent",
        /// Read to its end, not settled or not checkpointed yet.
        ClosedPending = "closed_pending",
    }

    /// Why a gap was opened (DESIGN 4.4).
    GapCause {
        /// The service said that the position is trimmed.
        Trimmed = "trimmed",
        /// An unfinished shard is no longer listed, or not found.
        ShardVanished = "shard_vanished",
        /// A listed shard's parent is neither listed nor finished.
        ParentUnknown = "parent_unknown",
        /// A shard was listed only after its child had been begun.
        ShardLate = "shard_late",
        /// A shard that was given up is listed again.
        ShardReappeared = "shard_reappeared",
        /// The table has another stream now.
        StreamReplaced = "stream_replaced",
        /// A position was not confirmed for nearly the stream's retention.
        NotConfirmed = "not_confirmed",
        /// An import has left out items, or the stream does not go on from it.
        ImportIncomplete = "import_incomplete",
    }

    /// Which of the services a link talks to.
    Side {
        /// The source table.
        Source = "source",
        /// The source's stream.
        Stream = "stream",
        /// The target table.
        Target = "target",
        /// The checkpoint table.
        Checkpoint = "checkpoint",
    }

    /// An API operation, by the service's own name.
    Operation {
        /// STS.
        AssumeRole = "AssumeRole",
        /// DynamoDB.
        BatchGetItem = "BatchGetItem",
        /// DynamoDB.
        BatchWriteItem = "BatchWriteItem",
        /// DynamoDB.
        CreateTable = "CreateTable",
        /// DynamoDB.
        DeleteItem = "DeleteItem",
        /// DynamoDB.
        DescribeContinuousBackups = "DescribeContinuousBackups",
        /// DynamoDB Streams.
        DescribeStream = "DescribeStream",
        /// DynamoDB.
        DescribeTable = "DescribeTable",
        /// DynamoDB.
        DescribeTimeToLive = "DescribeTimeToLive",
        /// STS.
        GetCallerIdentity = "GetCallerIdentity",
        /// DynamoDB.
        GetItem = "GetItem",
        /// S3.
        GetObject = "GetObject",
        /// DynamoDB Streams.
        GetRecords = "GetRecords",
        /// DynamoDB Streams.
        GetShardIterator = "GetShardIterator",
        /// DynamoDB.
        ListTagsOfResource = "ListTagsOfResource",
        /// DynamoDB.
        PutItem = "PutItem",
        /// DynamoDB.
        Query = "Query",
        /// DynamoDB.
        Scan = "Scan",
        /// DynamoDB.
        TagResource = "TagResource",
        /// DynamoDB.
        TransactWriteItems = "TransactWriteItems",
        /// DynamoDB.
        UpdateItem = "UpdateItem",
        /// DynamoDB.
        UpdateTable = "UpdateTable",
        /// DynamoDB.
        UpdateTimeToLive = "UpdateTimeToLive",
        /// Whatever is not in this list.
        Other = "other",
    }

    /// How a request ended.
    RequestResult {
        /// Answered as asked, possibly with unprocessed items.
        Ok = "ok",
        /// The service asked us to slow down.
        Throttled = "throttled",
        /// Failed in a way that passes: it is sent again.
        Retryable = "retryable",
        /// The credentials do not allow it.
        Denied = "denied",
        /// Refused for good.
        Error = "error",
    }

    /// What capacity units were consumed for.
    CapacityKind {
        /// Read units.
        Read = "read",
        /// Write units.
        Write = "write",
    }

    /// Why a link is slower than it could be.
    ThrottleReason {
        /// The source throttles reads of the load or of verification.
        SourceThrottling = "source_throttling",
        /// The stream throttles reads.
        StreamThrottling = "stream_throttling",
        /// The target throttles writes.
        TargetThrottling = "target_throttling",
        /// The configured read limit is reached.
        ReadLimit = "read_limit",
        /// The configured write limit is reached.
        WriteLimit = "write_limit",
        /// The load is held back so that the stream keeps up.
        StreamFirst = "stream_first",
        /// The look-ahead beyond the watermark is used up.
        LookAhead = "look_ahead",
    }

    /// How a durable write of progress ended.
    WriteResult {
        /// Durable.
        Ok = "ok",
        /// Refused: somebody else owns the row.
        Conflict = "conflict",
        /// Failed; tried again.
        Error = "error",
    }

    /// What a comparison found.
    DifferenceKind {
        /// In the source only.
        Missing = "missing",
        /// In the target only.
        Extra = "extra",
        /// In both, not equal.
        Different = "different",
    }

    /// How sure a difference is.
    DifferenceState {
        /// Seen once; may be a change on its way.
        Pending = "pending",
        /// Still there after the changes on their way have arrived.
        Confirmed = "confirmed",
    }
}

impl Operation {
    /// The operation of this name; [`Operation::Other`] for a name that is not in the list.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::ALL.iter().copied().find(|operation| operation.as_str() == name).unwrap_or(Self::Other)
    }

    /// The sides on which this operation is used: only these have series from the start.
    pub(super) fn sides(self) -> &'static [Side] {
        use Side::{Checkpoint, Source, Stream, Target};
        match self {
            Self::DescribeStream | Self::GetRecords | Self::GetShardIterator => &[Stream],
            Self::AssumeRole | Self::GetCallerIdentity => &[Source, Target],
            Self::DescribeContinuousBackups | Self::ListTagsOfResource => &[Source],
            Self::BatchWriteItem | Self::TagResource | Self::UpdateTimeToLive => &[Target],
            Self::Query | Self::UpdateItem => &[Checkpoint],
            Self::BatchGetItem | Self::DescribeTimeToLive | Self::GetObject | Self::UpdateTable => &[Source, Target],
            Self::CreateTable | Self::DeleteItem | Self::PutItem | Self::TransactWriteItems => &[Target, Checkpoint],
            Self::DescribeTable | Self::GetItem | Self::Scan => &[Source, Target, Checkpoint],
            Self::Other => &[Source, Stream, Target, Checkpoint],
        }
    }
}

impl RequestResult {
    /// The result of a failed request.
    #[must_use]
    pub const fn of(failure: &Failure) -> Self {
        match failure.fault {
            _ if failure.throttled => Self::Throttled,
            Fault::Transient | Fault::Expired => Self::Retryable,
            Fault::Denied => Self::Denied,
            Fault::Lost | Fault::Rejected | Fault::Broken => Self::Error,
        }
    }
}
