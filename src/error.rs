//! What can go wrong, and what becomes of it.
//!
//! [`Fault`] is the fate of a failure: it is chosen at the edge (`aws::fault`, `decode`) and acted on in one place
//! ([`crate::retry`]). [`Error`] is what ends a command: its text, its cause, its exit code and what to try next.

use std::fmt;

/// The fate of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Passes by itself: wait, then again. Throttling is one, too.
    Transient,
    /// The iterator or the token is too old: get a new one, go on after the last position.
    Expired,
    /// The history asked for is gone (trimmed, or the stream with it): open a gap.
    Lost,
    /// This item will never be accepted as it is.
    Rejected,
    /// The credentials do not allow it.
    Denied,
    /// Something that cannot be: our bug, or an answer that no one documented.
    Broken,
}

impl Fault {
    /// The name used in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Rejected => "rejected",
            Self::Denied => "denied",
            Self::Broken => "broken",
        }
    }
}

/// A failed call to a service.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {}{message}{}", code.as_ref().map(|c| format!("{c}: ")).unwrap_or_default(), request_id.as_ref().map(|r| format!(" (request {r})")).unwrap_or_default())]
pub struct Failure {
    /// The operation: `GetRecords`.
    pub operation: &'static str,
    /// What becomes of it.
    pub fault: Fault,
    /// Whether the service asked us to slow down.
    pub throttled: bool,
    /// Whether the request may have been carried out although it failed: the answer was lost, or it was a 500.
    pub may_have_happened: bool,
    /// Whether there was no answer in the time that one attempt may take.
    pub timed_out: bool,
    /// The service's error code, where it gave one.
    pub code: Option<String>,
    /// The service's text or the transport's; never item contents.
    pub message: String,
    /// The service's request id, where it gave one.
    pub request_id: Option<String>,
}

impl Failure {
    /// One that no service has told: nothing was carried out.
    pub(crate) fn of_ours(operation: &'static str, fault: Fault, message: impl Into<String>) -> Self {
        Self {
            operation,
            fault,
            throttled: false,
            may_have_happened: false,
            timed_out: false,
            code: None,
            message: message.into(),
            request_id: None,
        }
    }
}

/// How a command ends. The numbers are a stable interface (README, exit codes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; also after a drained SIGTERM.
    Done = 0,
    /// Unexpected.
    Unexpected = 1,
    /// Bad command line (clap's own).
    Usage = 2,
    /// Differences were found.
    Differences = 3,
    /// A precondition is not met; nothing was written.
    Precondition = 4,
    /// Source history is lost: heal or reseed.
    Lost = 5,
    /// Another instance holds the lease or the state file.
    Held = 6,
    /// Time-out; progress is saved, run it again.
    Timeout = 7,
    /// The configuration is invalid.
    Config = 8,
    /// A guard tripped (cost, items).
    Guard = 9,
}

/// What ends a command.
pub struct Error {
    /// The exit code.
    pub exit: Exit,
    /// What failed: lowercase, verb and object, no full stop.
    pub what: String,
    /// What the user can do about it.
    pub hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    is_bug: bool,
}

/// A result that ends the command when it is an error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with this exit code.
    #[must_use]
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hint: None, source: None, is_bug: false }
    }

    /// A fault of the program itself. Nothing is tried again in the same process.
    #[must_use]
    pub fn bug(what: impl Into<String>) -> Self {
        Self { is_bug: true, ..Self::new(Exit::Unexpected, what) }
    }

    /// Whether the program itself is to blame.
    #[must_use]
    pub const fn is_bug(&self) -> bool {
        self.is_bug
    }

    /// Adds what to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What failed, why, and what to try, in one line: what a human is needed for.
    #[must_use]
    pub fn needs(&self) -> String {
        let hint = self.hint.iter().map(|hint| format!("; try: {hint}")).collect::<String>();
        format!("{}{hint}", chain(self))
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (exit {})", self.what, self.exit as u8)?;
        self.source.iter().try_for_each(|source| write!(f, ": {source}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// An error and all its causes in one line, for a log. Printed once, where the error is handled.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
