//! The fault plan: which requests go wrong, and how.
//!
//! Rules are asked in order; the first that fires decides. Chance is drawn from the sandbox's seeded generator.

use std::time::Duration;

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
    /// time order, before the first request or control call after that. A real request's signature is good for 15 min.
    DeliverLate(Duration),
    /// Done at once, answered so much later.
    Hold(Duration),
    /// A batch writes a random part and hands back the rest, at least one request, as unprocessed.
    UnprocessedSubset,
    /// A batch hands everything back as unprocessed.
    UnprocessedAll,
    /// Refused as if the credentials had expired.
    ExpiredToken,
}

impl FaultKind {
    /// The kind's short name, by which faults are counted.
    pub(super) fn name(&self, operation: &str) -> &'static str {
        match self {
            Self::Throttle(code) => match (operation, code.as_str()) {
                ("Scan", _) => "scan.throttle",
                (_, "ProvisionedThroughputExceededException") => "throttle.provisioned",
                (_, "RequestLimitExceeded") => "throttle.request_limit",
                (_, "LimitExceededException") => "throttle.limit_exceeded",
                _ => "throttle.throttling",
            },
            Self::Error { .. } => "error.other",
            Self::InternalError => "error.500",
            Self::LoseAnswer if operation == "GetShardIterator" => "iterator.lose_response",
            Self::LoseAnswer => "error.reset_after",
            Self::Refuse => "error.reset_before",
            Self::DeliverLate(_) => "error.reset_then_late_delivery",
            Self::Hold(_) => "answer.slow",
            Self::UnprocessedSubset => "batch.unprocessed_subset",
            Self::UnprocessedAll => "batch.unprocessed_all",
            Self::ExpiredToken => "auth.expired_token",
        }
    }
}

/// Every short name of a fault, sorted.
pub const FAULT_NAMES: &[&str] = &[
    "answer.slow",
    "auth.expired_token",
    "batch.unprocessed_all",
    "batch.unprocessed_subset",
    "error.500",
    "error.other",
    "error.reset_after",
    "error.reset_before",
    "error.reset_then_late_delivery",
    "iterator.lose_response",
    "scan.throttle",
    "throttle.limit_exceeded",
    "throttle.provisioned",
    "throttle.request_limit",
    "throttle.throttling",
];

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

    fn fires(&mut self, operation: &str, account: &str, body: &[u8], rng: &mut fastrand::Rng) -> bool {
        let names = |table: &str| memchr::memmem::find(body, format!("\"{table}\"").as_bytes()).is_some();
        let matches = (self.operation == "*" || self.operation == operation)
            && self.account.as_deref().is_none_or(|only| only == account)
            && self.table.as_deref().is_none_or(names);
        if !matches {
            return false;
        }
        match &mut self.trigger {
            Trigger::Chance(chance) => rng.f64() < *chance,
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
        rng: &mut fastrand::Rng,
    ) -> Option<FaultKind> {
        self.rules.iter_mut().find_map(|rule| rule.fires(operation, account, body, rng).then(|| rule.kind.clone()))
    }
}
