//! How a link ended: what follows from it, and what a command tells of it.

use super::{Generation, Link};
use crate::apply::engine::EngineError;
use crate::checkpoint::StoreError;
use crate::checkpoint::keeper::KeeperError;
use crate::error::{Error, Exit, Fault, Result};
use crate::load::driver::LoadError;
use crate::runtime::board::Board;
use crate::runtime::replica::{ReplicaEnd, ReplicaError};
use crate::stream::driver::StreamError;
use crate::telemetry::Phase;

impl Link {
    pub(super) fn judge(
        &self,
        ended: std::result::Result<ReplicaEnd, ReplicaError>,
        beside: Result<()>,
        board: &Board,
    ) -> Result<Generation> {
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
            Ok(ReplicaEnd::Exhausted) | Err(ReplicaError::Stream(StreamError::Gone)) => {
                board.stream_closed();
                board.set_phase(Phase::Failed);
                Ok(Generation::StreamEnded)
            }
            Err(error) => {
                board.set_phase(Phase::Failed);
                Err(self.fault(error))
            }
        }
    }

    /// The link's error as the command's: its exit code and what to do.
    fn fault(&self, error: ReplicaError) -> Error {
        let what = format!("link `{}` stopped", self.config.name);
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
            ReplicaError::Engine(EngineError::Target(failure)) => {
                let exit = if failure.fault == Fault::Lost { Exit::Precondition } else { exit_of(failure.fault) };
                (exit, Some("check that the target exists and that its identity may write to it"))
            }
            ReplicaError::Engine(EngineError::Rejected { .. }) => (
                Exit::Unexpected,
                Some("make the target accept it, or set `apply.on_rejected = \"dead_letter\"` to go on without it"),
            ),
            ReplicaError::Keeper(KeeperError::Store(StoreError::Fenced { .. })) => {
                (Exit::Held, Some("another process runs this link"))
            }
            _ => (Exit::Unexpected, None),
        };
        let fault = Error::new(exit, what).because(error);
        match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}
