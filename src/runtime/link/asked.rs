//! Pure: what becomes of an export or an import that was asked for. Each is asked for once, whatever crashes: its token is noted
//! before, and by that it is found again.

use std::time::Duration;

use crate::model::WallTime;

/// So many are asked for in all.
pub(super) const MOST_ATTEMPTS: u32 = 3;
/// For how long the service knows a token, at least, with margin. Source: API reference, `ExportTableToPointInTime` and
/// `ImportTable`: 8 hours.
const TOKEN_LIFE: Duration = Duration::from_secs(7 * 3600);

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate<A> {
    /// What it made is waited for, and is what the load is made of.
    Load(A),
    /// Whether it was made is looked up; if not, it is made, by the same token where that tells it again.
    LookUp,
    /// Another one takes its place.
    Another,
    /// So it does, but not before this.
    Later {
        /// What became of the last one.
        why: String,
        /// See above.
        again: WallTime,
    },
    /// There were too many, or another one would do no better.
    NoMore {
        /// What became of the last one.
        why: String,
    },
}

/// Another request for the same, unless there were too many; why.
pub(super) fn another<A>(attempt: u32, why: &str) -> Fate<A> {
    if attempt < MOST_ATTEMPTS { Fate::Another } else { Fate::NoMore { why: why.to_owned() } }
}

/// The same after one that failed: not before this.
pub(super) fn another_after<A>(attempt: u32, why: &str, again: WallTime, now: WallTime) -> Fate<A> {
    match another(attempt, why) {
        Fate::Another if now < again => Fate::Later { why: why.to_owned(), again },
        fate => fate,
    }
}

/// When another one is asked for after one that failed: so long after its end, and twice as long after the next one.
pub(super) fn again(attempt: u32, ended: WallTime, first_wait: Duration) -> WallTime {
    ended.plus(first_wait.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1))))
}

/// Whether a request makes nothing a second time when it is made once more. One of which no answer was noted, and that no
/// listing knows, was not made; else its token must tell it again. `begun`: when it was made, at the soonest.
pub(super) fn may_be_repeated(has_answer: bool, begun: WallTime, now: WallTime) -> bool {
    !has_answer || now.since(begun) < TOKEN_LIFE
}
