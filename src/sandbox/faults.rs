//! The fault plan: which requests go wrong, and how.
//!
//! Rules are asked in order; the first that fires decides. A rule is asked only about requests that its kind can befall.
//! Chance is drawn from the sandbox's seeded generators, one for each kind.

use std::time::Duration;

use super::knobs::{Knob, Knobs};

/// How a request goes wrong.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum FaultKind {
    /// Refused with this throttling exception, `ThrottlingException` for instance; nothing is done.
    Throttle(String),
    /// Refused with this error code and HTTP status; nothing is done.
    Error {
        /// The exception's name.
        code: String,
        /// The HTTP status.
        status: u16,
    },
    /// HTTP 500; nothing is done.
    InternalError,
    /// Done, and the connection drops before the answer.
    LoseAnswer,
    /// The connection is reset before anything is done.
    Refuse,
    /// The connection drops at once, and the request is done so much later, as if the network had held it back: in
    /// time order, before the first request or control call after that. Its signature counts as checked when it was sent.
    DeliverLate(Duration),
    /// As [`Self::DeliverLate`], but the client hears nothing at all and has to give up by itself.
    TimeOutAndDeliverLate(Duration),
    /// Not done, and the client hears nothing at all.
    TimeOut,
    /// Done at once, answered so much later.
    Hold(Duration),
    /// Done, but only the beginning of the answer arrives, as if it were all.
    TruncateAnswer,
    /// Done, but a byte of the answer is broken, so that it is no JSON; its checksum does not fit.
    GarbleAnswer,
    /// A batch writes a random part and hands back the rest, at least one request, as unprocessed.
    UnprocessedSubset,
    /// A batch hands everything back as unprocessed.
    UnprocessedAll,
    /// A transaction is cancelled, or a write of one item refused, as if another transaction over one of its items were under
    /// way; nothing is done.
    TransactionConflict,
    /// Refused as if the credentials had expired.
    ExpiredToken,
    /// Refused as if a policy did not allow it.
    AccessDenied,
    /// DescribeStream: HTTP 500 for a page of a listing that is not its first.
    FailLaterPage,
    /// DescribeStream: the last page says that another follows, which will be empty.
    EmptyLastPage,
    /// DescribeStream: the page says to continue where it began itself. Not on the first page.
    RepeatCursor,
    /// DescribeStream: the shards of the page in random order.
    ShuffleShards,
    /// DescribeStream: a shard is in the page twice; the second copy of a closed one may look open.
    DuplicateShards,
    /// DescribeStream: closed shards that have children look open.
    StaleParentOpen,
    /// DescribeStream: the listing as it was so long ago, as far as what is new since goes.
    StaleListing(Duration),
    /// DescribeStream with a filter: refused, as where it is not known.
    FilterUnsupported,
    /// DescribeStream with a filter: the whole listing, as where the parameter is not looked at.
    FilterIgnored,
    /// DescribeStream with a filter: no children.
    FilterEmpty,
    /// DescribeStream with a filter: one of several children is missing.
    FilterPartial,
    /// Reading a stream: just before, a shard's oldest records are trimmed, few or all, whatever their age.
    TrimEarly,
    /// GetRecords: just before, what the iterator points at is trimmed.
    TrimUnderIterator,
    /// GetRecords: the iterator has expired.
    ExpireIterator,
    /// GetRecords: this page of the shard and the next ones, so many in all, are empty.
    EmptyPages(u32),
    /// GetRecords: a page of one record.
    OneRecord,
    /// GetRecords: a record of the page is of an event that nobody knows.
    UnknownEvent,
    /// GetRecords: a member of a record of the page is missing.
    MissingField,
    /// Reads that do not ask for consistency: the table as it was some time ago, at most
    /// [`Options::stale_reads`](super::Options::stale_reads).
    StaleRead,
    /// Scan: the partition splits where the page is; the page ends there.
    SplitPartition,
}

const STREAM_READS: &[&str] = &["DescribeStream", "GetShardIterator", "GetRecords"];

impl FaultKind {
    /// The kind, for counting.
    pub(super) fn knob(&self, operation: &str) -> Knob {
        match self {
            Self::Throttle(code) => match (operation, code.as_str()) {
                ("Scan", _) => Knob::ScanThrottle,
                (_, "ProvisionedThroughputExceededException") => Knob::ThrottleProvisioned,
                (_, "RequestLimitExceeded") => Knob::ThrottleRequestLimit,
                (_, "LimitExceededException") => Knob::ThrottleLimitExceeded,
                _ => Knob::ThrottleThrottling,
            },
            Self::Error { .. } => Knob::ErrorOther,
            Self::InternalError => Knob::Error500,
            Self::LoseAnswer if operation == "GetShardIterator" => Knob::IteratorLost,
            Self::LoseAnswer => Knob::ResetAfter,
            Self::Refuse => Knob::ResetBefore,
            Self::DeliverLate(_) => Knob::ResetThenLate,
            Self::TimeOutAndDeliverLate(_) => Knob::TimeoutThenLate,
            Self::TimeOut => Knob::Timeout,
            Self::Hold(_) => Knob::AnswerSlow,
            Self::TruncateAnswer => Knob::AnswerTruncated,
            Self::GarbleAnswer => Knob::AnswerGarbled,
            Self::UnprocessedSubset => Knob::UnprocessedSubset,
            Self::UnprocessedAll => Knob::UnprocessedAll,
            Self::TransactionConflict => Knob::TransactionConflict,
            Self::ExpiredToken => Knob::ExpiredToken,
            Self::AccessDenied => Knob::AccessDenied,
            Self::FailLaterPage => Knob::DescribeFailPage,
            Self::EmptyLastPage => Knob::DescribeEmptyLastPage,
            Self::RepeatCursor => Knob::DescribeRepeatCursor,
            Self::ShuffleShards => Knob::DescribeShuffle,
            Self::DuplicateShards => Knob::DescribeDuplicate,
            Self::StaleParentOpen => Knob::DescribeStaleParent,
            Self::StaleListing(_) => Knob::DescribeStaleListing,
            Self::FilterUnsupported => Knob::FilterUnsupported,
            Self::FilterIgnored => Knob::FilterIgnored,
            Self::FilterEmpty => Knob::FilterEmpty,
            Self::FilterPartial => Knob::FilterPartial,
            Self::TrimEarly => Knob::TrimEarly,
            Self::TrimUnderIterator => Knob::TrimUnderIterator,
            Self::ExpireIterator => Knob::IteratorExpire,
            Self::EmptyPages(_) => Knob::PageEmptyRun,
            Self::OneRecord => Knob::PageOneRecord,
            Self::UnknownEvent => Knob::UnknownEvent,
            Self::MissingField => Knob::MissingField,
            Self::StaleRead => Knob::ScanStale,
            Self::SplitPartition => Knob::ScanPartitionSplit,
        }
    }

    /// Whether the operation itself has to go wrong, and says so when it does: it may have no occasion.
    pub(super) const fn is_twist(&self) -> bool {
        !matches!(
            self,
            Self::Throttle(_)
                | Self::Error { .. }
                | Self::InternalError
                | Self::LoseAnswer
                | Self::Refuse
                | Self::DeliverLate(_)
                | Self::TimeOutAndDeliverLate(_)
                | Self::TimeOut
                | Self::Hold(_)
                | Self::TruncateAnswer
                | Self::GarbleAnswer
                | Self::ExpiredToken
                | Self::AccessDenied
                | Self::FailLaterPage
                | Self::FilterUnsupported
                | Self::ExpireIterator
        )
    }

    /// Whether it can befall this request.
    fn befalls(&self, operation: &str, body: &[u8]) -> bool {
        let names = |member: &str| memchr::memmem::find(body, member.as_bytes()).is_some();
        match self {
            Self::FailLaterPage | Self::RepeatCursor => {
                operation == "DescribeStream" && names("\"ExclusiveStartShardId\"")
            }
            Self::FilterUnsupported | Self::FilterIgnored | Self::FilterEmpty | Self::FilterPartial => {
                operation == "DescribeStream" && names("\"ShardFilter\"")
            }
            Self::EmptyLastPage
            | Self::ShuffleShards
            | Self::DuplicateShards
            | Self::StaleParentOpen
            | Self::StaleListing(_) => operation == "DescribeStream",
            Self::TrimEarly => STREAM_READS.contains(&operation),
            Self::TrimUnderIterator
            | Self::ExpireIterator
            | Self::EmptyPages(_)
            | Self::OneRecord
            | Self::UnknownEvent
            | Self::MissingField => operation == "GetRecords",
            Self::UnprocessedSubset | Self::UnprocessedAll => ["BatchWriteItem", "BatchGetItem"].contains(&operation),
            Self::TransactionConflict => {
                ["TransactWriteItems", "PutItem", "UpdateItem", "DeleteItem"].contains(&operation)
            }
            Self::StaleRead => {
                ["GetItem", "Scan", "Query", "BatchGetItem"].contains(&operation) && !names("\"ConsistentRead\":true")
            }
            Self::SplitPartition => operation == "Scan",
            Self::Throttle(_)
            | Self::Error { .. }
            | Self::InternalError
            | Self::LoseAnswer
            | Self::Refuse
            | Self::DeliverLate(_)
            | Self::TimeOutAndDeliverLate(_)
            | Self::TimeOut
            | Self::Hold(_)
            | Self::TruncateAnswer
            | Self::GarbleAnswer
            | Self::ExpiredToken
            | Self::AccessDenied => true,
        }
    }
}

/// When a rule fires.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Trigger {
    /// At each matching request with this probability, from 0 to 1.
    Chance(f64),
    /// At the next so many matching requests.
    Next(u32),
}

/// One rule of a fault plan.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FaultRule {
    /// Name of the operation, `GetRecords` for instance, or `*` for all.
    pub operation: String,
    /// Only requests of this account, if given.
    pub account: Option<String>,
    /// Only requests whose body names this table, if given. GetRecords names none.
    pub table: Option<String>,
    /// When it fires.
    pub trigger: Trigger,
    /// What happens then.
    pub kind: FaultKind,
}

impl FaultRule {
    /// A rule for every account.
    #[must_use]
    pub fn new(operation: &str, trigger: Trigger, kind: FaultKind) -> Self {
        Self { operation: operation.to_owned(), account: None, table: None, trigger, kind }
    }

    /// The same rule for requests of one account alone.
    #[must_use]
    pub fn for_account(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }

    /// The same rule for requests that name one table alone.
    #[must_use]
    pub fn for_table(mut self, table: &str) -> Self {
        self.table = Some(table.to_owned());
        self
    }

    fn fires(&mut self, operation: &str, account: &str, body: &[u8], knobs: &mut Knobs) -> bool {
        let names = |table: &str| memchr::memmem::find(body, format!("\"{table}\"").as_bytes()).is_some();
        let matches = (self.operation == "*" || self.operation == operation)
            && self.account.as_deref().is_none_or(|only| only == account)
            && self.table.as_deref().is_none_or(names)
            && self.kind.befalls(operation, body);
        if !matches {
            return false;
        }
        match &mut self.trigger {
            Trigger::Chance(chance) => knobs.happens(self.kind.knob(operation), *chance),
            Trigger::Next(left) => {
                let fires = *left > 0;
                *left = left.saturating_sub(1);
                fires
            }
        }
    }
}

/// A fault plan; the empty one, which is the default, breaks nothing.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Faults {
    /// The rules, in the order in which they are asked.
    pub rules: Vec<FaultRule>,
}

impl Faults {
    /// A plan of these rules.
    #[must_use]
    pub fn new(rules: Vec<FaultRule>) -> Self {
        Self { rules }
    }

    /// What happens to this request.
    pub(super) fn decide(
        &mut self,
        operation: &str,
        account: &str,
        body: &[u8],
        knobs: &mut Knobs,
    ) -> Option<FaultKind> {
        self.rules.iter_mut().find_map(|rule| rule.fires(operation, account, body, knobs).then(|| rule.kind.clone()))
    }
}
