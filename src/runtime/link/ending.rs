//! How a link ended: what follows from it, and what a command tells of it.

use super::exporting::NOT_READABLE;
use super::{Generation, Link};
use crate::apply::engine::EngineError;
use crate::checkpoint::StoreError;
use crate::checkpoint::keeper::KeeperError;
use crate::error::{Error, Exit, Fault, Result, chain};
use crate::load::driver::LoadError;
use crate::runtime::board::Board;
use crate::runtime::fleet::lapsed;
pub(super) use crate::runtime::open::ANOTHER_TABLE;
use crate::runtime::replica::{ReplicaEnd, ReplicaError};
use crate::stream::driver::StreamError;
use crate::telemetry::{Mode, Phase};

/// What to do when a file of an export is not as its manifest says.
const DAMAGED: &str = "the export is damaged or not whole, and the stream was not begun: put the file back as it was and run again, \
    or export the table again and load that with a fresh state, into an empty target";

/// What to do when the table with the state vanished under a running link.
const STATE_GONE: &str =
    "restore the table from its backups if it is less than a day old; or load again, into an empty target";

impl Link {
    /// The lease was over before the books were open. A service stands by, and tries again when it is its turn.
    pub(super) fn lapsed_early(&self) -> Result<Generation> {
        match self.shared.mode {
            Mode::Service => {
                tracing::warn!(
                    link = self.config.name,
                    "the lease was over before the link was open, standing by again"
                );
                Ok(Generation::LeaseLost { had_begun: false })
            }
            Mode::Oneshot => Err(lapsed(&self.config.name)),
        }
    }

    pub(super) fn judge(
        &self,
        ended: std::result::Result<ReplicaEnd, ReplicaError>,
        beside: Result<()>,
        board: &Board,
    ) -> Result<Generation> {
        if let (Err(error), Some(_), Mode::Service) = (&ended, &self.shared.fleet, self.shared.mode)
            && is_lease_lost(error)
        {
            tracing::warn!(link = self.config.name, error = chain(error), "this worker stands by now");
            self.leave(board);
            return Ok(Generation::LeaseLost { had_begun: true });
        }
        board.metrics().lease_held(false);
        beside.inspect_err(|_| board.set_phase(Phase::Failed))?;
        match ended {
            Ok(ReplicaEnd::Stopped) => Ok(Generation::Stopped),
            Ok(ReplicaEnd::StoppedUnclean) => {
                tracing::warn!(
                    link = self.config.name,
                    "stopped before everything on the wire was answered: the next start takes care of it"
                );
                Ok(Generation::Stopped)
            }
            Ok(ReplicaEnd::Outlasted) => {
                // What it goes on with is not there yet.
                board.set_phase(Phase::Starting);
                Ok(Generation::Outlasted)
            }
            Ok(ReplicaEnd::Exhausted) | Err(ReplicaError::Stream(StreamError::Gone)) => {
                board.stream_closed();
                board.set_phase(Phase::Failed);
                Ok(Generation::StreamEnded)
            }
            Err(error) => {
                board.set_phase(Phase::Failed);
                Err(fault(&self.config.name, error))
            }
        }
    }
}

/// The link's error as the command's: its exit code and what to do.
fn fault(link: &str, error: ReplicaError) -> Error {
    if is_bug(&error) {
        return Error::bug(format!("link `{link}` stopped: this is a bug, please report it")).because(error);
    }
    let what = format!("link `{link}` stopped");
    let exit_of = |fault: Fault| match fault {
        Fault::Denied => Exit::Precondition,
        Fault::Lost => Exit::Lost,
        _ => Exit::Unexpected,
    };
    let (exit, hint) = match &error {
        ReplicaError::Stream(StreamError::Lost { .. }) => {
            (Exit::Lost, Some("set `stream.on_gap = \"heal\"`, or load again"))
        }
        ReplicaError::Stream(StreamError::Source(failure))
        | ReplicaError::Engine(EngineError::Source(failure))
        | ReplicaError::Load(LoadError::Source(failure)) => (
            exit_of(failure.fault),
            Some("check the source's permissions: `doctor` is not part of this version, see README"),
        ),
        ReplicaError::Load(LoadError::Object { .. }) => (Exit::Precondition, Some(NOT_READABLE)),
        ReplicaError::Load(LoadError::File { .. }) => (Exit::Precondition, Some(DAMAGED)),
        ReplicaError::Engine(EngineError::SourceReplaced) => (Exit::Lost, Some(ANOTHER_TABLE)),
        ReplicaError::Engine(EngineError::Target(failure)) => {
            let exit = if failure.fault == Fault::Lost { Exit::Precondition } else { exit_of(failure.fault) };
            (exit, Some("check that the target exists and that its identity may write to it"))
        }
        ReplicaError::Engine(EngineError::Rejected { .. }) => (
            Exit::Unexpected,
            Some("make the target accept it, or set `apply.on_rejected = \"dead_letter\"` to go on without it"),
        ),
        ReplicaError::Lapsed | ReplicaError::Keeper(KeeperError::Store(StoreError::Fenced { .. })) => {
            (Exit::Held, Some("another process runs this link"))
        }
        ReplicaError::Keeper(KeeperError::Store(StoreError::Gone { .. })) => (Exit::Precondition, Some(STATE_GONE)),
        _ => (Exit::Unexpected, None),
    };
    let fault = Error::new(exit, what).because(error);
    match hint {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

/// Whether another worker has the link, or may have it.
const fn is_lease_lost(error: &ReplicaError) -> bool {
    matches!(error, ReplicaError::Lapsed | ReplicaError::Keeper(KeeperError::Store(StoreError::Fenced { .. })))
}

/// Whether the program itself is to blame: a rule of the protocol would have been broken, or a task panicked.
fn is_bug(error: &ReplicaError) -> bool {
    matches!(
        error,
        ReplicaError::Engine(EngineError::Lanes(_))
            | ReplicaError::Keeper(
                KeeperError::Book(_) | KeeperError::Store(StoreError::Invariant { .. } | StoreError::Stopped { .. })
            )
            | ReplicaError::Task(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::book::BookError;
    use crate::invariant::{Invariant, Violation};
    use crate::lanes::LaneError;

    #[test]
    fn a_broken_rule_stops_the_link_with_code_1_and_says_which_and_that_it_is_a_bug() {
        let of_lanes = LaneError::from(Violation::new(Invariant::L1, "a key is to be sent that is under way"));
        let of_books = BookError::from(Violation::with(Invariant::L4, "shard b would begin".to_owned()));
        let refused = StoreError::Invariant { link: "orders".into(), what: "a checkpoint would move back".into() };
        let stopped = StoreError::Stopped { place: "./state.redb".into() };
        let errors: [(ReplicaError, &str); 4] = [
            (KeeperError::from(stopped).into(), "what keeps the state in ./state.redb has stopped"),
            (EngineError::from(of_lanes).into(), "invariant L1 (at most one write of a key is on its way): a key"),
            (KeeperError::from(of_books).into(), "invariant L4 (no record of a shard is sent before"),
            (KeeperError::from(refused).into(), "a checkpoint would move back"),
        ];
        for (error, expected) in errors {
            let error = fault("orders", error);
            let text = chain(&error);
            assert!(text.starts_with("link `orders` stopped: this is a bug, please report it: "), "{text}");
            assert!(text.contains(expected), "{text}");
            assert!(error.exit == Exit::Unexpected && error.is_bug());
        }
        let late = fault("orders", ReplicaError::Keeper(StoreError::Fenced { link: "orders".into() }.into()));
        assert!(late.exit == Exit::Held && !late.is_bug());
    }
}
