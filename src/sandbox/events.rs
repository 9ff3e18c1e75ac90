//! What happens in the world, told to checkers as it happens: changes of items, lives of shards, trims, faults.
//!
//! An [`Exchange`](super::Exchange) says what was asked and answered; an [`Event`] says what was done. One request may do
//! much (a batch), nothing (a refusal), or bring about what was due anyway (roll-overs and trims come with the next look at
//! a stream, see [`Sandbox::catch_up`](super::Sandbox::catch_up)).

use std::sync::Arc;

use super::value::Item;
use super::world::Incoming;
use crate::model::WallTime;

/// Something that happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A write was accepted.
    Changed(Changed<'a>),
    /// Records left a shard, or the shard left the stream with all that was in it.
    Trimmed {
        /// The stream's ARN.
        stream: &'a str,
        /// The shard's id.
        shard: &'a str,
        /// Number of the last record that is gone; `None` if the shard never had one.
        through: Option<&'a str>,
        /// When.
        at: WallTime,
        /// Whether the shard itself is gone: neither listed nor found any more.
        shard_gone: bool,
    },
    /// A shard was opened; its records will carry numbers above its start.
    ShardOpened {
        /// The stream's ARN.
        stream: &'a str,
        /// The shard's id.
        shard: &'a str,
        /// Its parent's id; `None` in a new stream.
        parent: Option<&'a str>,
        /// When.
        at: WallTime,
        /// DescribeStream does not show it before.
        listed_from: WallTime,
    },
    /// A shard was closed: no more records.
    ShardClosed {
        /// The stream's ARN.
        stream: &'a str,
        /// The shard's id.
        shard: &'a str,
        /// Its ending sequence number, which no record carries.
        end: &'a str,
        /// When.
        at: WallTime,
    },
    /// A table got a stream.
    StreamEnabled {
        /// The owner.
        account: &'a str,
        /// Its Region.
        region: &'a str,
        /// The table's name.
        table: &'a str,
        /// The stream's ARN.
        stream: &'a str,
        /// When.
        at: WallTime,
    },
    /// A stream was disabled, or its table deleted: its shards are closed, later changes are in no stream.
    StreamDisabled {
        /// The stream's ARN.
        stream: &'a str,
        /// When.
        at: WallTime,
    },
    /// A table was made.
    TableCreated {
        /// The owner.
        account: &'a str,
        /// Its Region.
        region: &'a str,
        /// The table's name.
        table: &'a str,
        /// The table's id, another one each time.
        id: &'a str,
        /// When.
        at: WallTime,
    },
    /// A table was deleted, with its items: there is no [`Event::Changed`] for them.
    TableDeleted {
        /// The owner.
        account: &'a str,
        /// Its Region.
        region: &'a str,
        /// The table's name.
        table: &'a str,
        /// The table's id.
        id: &'a str,
        /// When.
        at: WallTime,
    },
    /// Something went wrong on purpose.
    Fault {
        /// The operation that met it; or what it was that happened to the world.
        operation: &'a str,
        /// The caller's account; empty if it is unknown, or nobody called.
        account: &'a str,
        /// The kind's short name, one of [`FAULT_NAMES`](super::FAULT_NAMES).
        kind: &'static str,
        /// When.
        at: WallTime,
    },
}

/// One accepted write of one item.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Changed<'a> {
    /// The table's owner.
    pub account: &'a str,
    /// The table's Region.
    pub region: &'a str,
    /// The table's name.
    pub table: &'a str,
    /// Canonical bytes of the key, as in [`Snapshot`](super::Snapshot).
    pub key: &'a [u8],
    /// The item now; `None` if there is none.
    pub image: Option<&'a Item>,
    /// The item before; `None` if there was none.
    pub before: Option<&'a Item>,
    /// The record that tells of it; `None` if the table has no enabled stream, or nothing changed.
    pub record: Option<RecordAt<'a>>,
    /// When.
    pub at: WallTime,
    /// Accepted, but the item is as it was.
    pub is_noop: bool,
    /// Done by a request that was delivered late.
    pub is_late: bool,
    /// The operation, `BatchWriteItem` for instance; `TimeToLive` for the service's own deletes; a control call's name
    /// with `control.` before it.
    pub by: &'static str,
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the three coordinates of a record")]
pub struct RecordAt<'a> {
    /// The stream's ARN.
    pub stream: &'a str,
    /// The shard's id.
    pub shard: &'a str,
    /// Its sequence number.
    pub sequence: &'a str,
}

/// Sees every event, in order, before the exchange that brought it about. It is called under the sandbox's lock: it must not call the sandbox.
pub type EventObserver = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// The observer, and on whose behalf things happen now.
#[derive(Default)]
pub(super) struct Events {
    pub(super) observer: Option<EventObserver>,
    pub(super) by: &'static str,
    pub(super) account: String,
    pub(super) is_late: bool,
}

impl Events {
    /// What happens from now on is this request's doing.
    pub(super) fn attribute(&mut self, request: &Incoming<'_>) {
        self.by = static_name(request.operation);
        self.account.clear();
        self.account.push_str(request.account());
    }

    /// What happens from now on is the doing of nobody in the world.
    pub(super) fn attribute_to(&mut self, control: &'static str) {
        self.by = control;
        self.account.clear();
    }

    /// Whether anybody looks: what is costly to tell is told only then.
    pub(super) const fn are_watched(&self) -> bool {
        self.observer.is_some()
    }

    pub(super) fn tell(&self, event: &Event<'_>) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}

/// The operation's name as one that lives for ever; unknown ones are all `?`.
pub(super) fn static_name(operation: &str) -> &'static str {
    const NAMES: [&str; 39] = [
        "GetRecords",
        "BatchWriteItem",
        "PutItem",
        "DeleteItem",
        "UpdateItem",
        "GetItem",
        "DescribeStream",
        "GetShardIterator",
        "Scan",
        "Query",
        "BatchGetItem",
        "TransactWriteItems",
        "TransactGetItems",
        "ListStreams",
        "DescribeTable",
        "CreateTable",
        "UpdateTable",
        "DeleteTable",
        "ListTables",
        "ListTagsOfResource",
        "TagResource",
        "UntagResource",
        "DescribeTimeToLive",
        "UpdateTimeToLive",
        "DescribeContinuousBackups",
        "DescribeExport",
        "ListExports",
        "GetObject",
        "HeadObject",
        "DeleteObject",
        "DescribeLimits",
        "DescribeEndpoints",
        "AssumeRole",
        "GetCallerIdentity",
        "UpdateContinuousBackups",
        "ExportTableToPointInTime",
        "ImportTable",
        "DescribeImport",
        "ListImports",
    ];
    NAMES.iter().find(|name| **name == operation).copied().unwrap_or("?")
}
