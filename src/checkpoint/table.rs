//! The seam of a DynamoDB table that keeps state: items by partition and sort key, guarded writes, transactions.
//!
//! One call is one attempt; who calls decides about the next one. Every read is strongly consistent. Knows no row and no
//! rule: those are in `layout` and `ledger`; the adapter is in `aws`.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;

use crate::error::Failure;

/// Items of one transaction at most. Source: API reference, TransactWriteItems.
pub(crate) const MAX_TRANSACTION_ITEMS: usize = 100;

/// Name of the partition key, a text.
pub(crate) const PARTITION: &str = "pk";
/// Name of the sort key, bytes.
pub(crate) const SORT: &str = "sk";

/// The key of an item.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ItemKey {
    pub(crate) partition: String,
    /// 1 to 1,024 bytes; items of a partition are in its order.
    pub(crate) sort: Vec<u8>,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    Text(String),
    Number(u64),
    Bytes(Vec<u8>),
    Flag(bool),
}

/// The attributes of an item besides its key.
pub(crate) type Fields = BTreeMap<String, Field>;

/// What must hold of the item that is there, for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Guard {
    Always,
    /// There is none.
    Absent,
    /// There is one, with these attributes.
    Same(Vec<(&'static str, Field)>),
}

/// A put of a whole item, or a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ItemWrite {
    pub(crate) key: ItemKey,
    /// `None`: delete.
    pub(crate) fields: Option<Fields>,
    pub(crate) guard: Guard,
}

impl ItemWrite {
    /// An unguarded write.
    pub(crate) const fn new(key: ItemKey, fields: Option<Fields>) -> Self {
        Self { key, fields, guard: Guard::Always }
    }

    /// The same with a guard.
    pub(crate) fn guarded(self, guard: Guard) -> Self {
        Self { guard, ..self }
    }
}

/// How a guarded write ended, where it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// The guard did not hold and nothing was written: what is there. An earlier attempt of the same write may be why.
    Refused(Option<Fields>),
}

/// Which items of a partition: sort keys from `from` (inclusive) to `to` (exclusive), ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) partition: String,
    pub(crate) from: Vec<u8>,
    /// Never empty.
    pub(crate) to: Vec<u8>,
    /// After this one: the end of the page before.
    pub(crate) after: Option<Vec<u8>>,
    /// At most so many in a page.
    pub(crate) limit: Option<u32>,
    /// Only the keys and these attributes; empty: all.
    pub(crate) only: &'static [&'static str],
}

/// A page of a [`Range`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) items: Vec<(Vec<u8>, Fields)>,
    /// Where the next page begins; `None`: it was the last.
    pub(crate) next: Option<Vec<u8>>,
}

/// What is found under the table's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// It is being made.
    NotYet,
    Ready,
    /// Its keys are others than [`PARTITION`] (text) and [`SORT`] (bytes).
    Foreign,
}

/// A table, as one process reaches it.
pub(crate) trait StateTable: Send + Sync + 'static {
    /// Its name as it is set: `dynamodb:TABLE`.
    fn place(&self) -> String;

    /// That the item of this key is as the guard wants it, as the members of a `ConditionCheck`: for a transaction of others.
    fn condition(&self, key: &ItemKey, guard: &Guard) -> Vec<u8>;

    /// What is there.
    fn find(&self) -> BoxFuture<'_, Result<Found, Failure>>;

    /// Makes the table: on demand, protected from deletion. Succeeds where it is there already; it may not be ready yet.
    fn create(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// One item.
    fn get<'a>(&'a self, key: &'a ItemKey) -> BoxFuture<'a, Result<Option<Fields>, Failure>>;

    /// One page of items.
    fn query<'a>(&'a self, range: &'a Range) -> BoxFuture<'a, Result<Page, Failure>>;

    /// Writes one item.
    fn write<'a>(&'a self, write: &'a ItemWrite) -> BoxFuture<'a, Result<Written, Failure>>;

    /// Writes all of these items, of different keys, or none. At most [`MAX_TRANSACTION_ITEMS`] and 4 MB. The token (1 to
    /// 36 characters) names the transaction: one that was done is not done again within ten minutes.
    fn transact<'a>(&'a self, token: &'a str, writes: &'a [ItemWrite]) -> BoxFuture<'a, Result<Written, Failure>>;
}
