//! What repairs a key: through the lanes of a running link, or directly where no link runs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::replica::Ends;
use crate::aws::was_held_back;
use crate::checkpoint::keeper::Keeper;
use crate::context::Context;
use crate::error::{Failure, Fault};
use crate::model::{Key, Write};
use crate::retry::{Attempts, Patience, Verdict};
use crate::verify::{RepairError, Repairer};

/// Wait after an answer that left the write unprocessed.
const UNPROCESSED_WAIT: Duration = Duration::from_millis(100);

/// Syncs through the running link's lanes.
pub(crate) struct KeeperRepairs(pub(crate) Keeper);

impl Repairer for KeeperRepairs {
    fn sync<'a>(&'a self, keys: Vec<Key>) -> BoxFuture<'a, Result<(), RepairError>> {
        Box::pin(async move { self.0.sync_keys(keys).await.map_err(|_| RepairError) })
    }
}

/// Syncs one key after the other, for tables that no link of this process copies.
///
/// Without lanes nothing stands between the read and the write: use it only while nothing else writes the target. A write
/// whose answer was lost is made again.
pub(crate) struct DirectRepairs {
    pub(crate) ends: Ends,
    pub(crate) context: Context,
}

impl DirectRepairs {
    /// Makes one key at the target what it is at the source.
    pub(crate) async fn sync_key(&self, key: &Key) -> Result<(), Failure> {
        let (mut attempts, started) = (Attempts::new(Patience::COMMAND), Instant::now());
        loop {
            let failure = match self.sync_once(key).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    tokio::time::sleep(UNPROCESSED_WAIT.mul_f64(0.5 + self.context.draw())).await;
                    continue;
                }
                Err(failure) => failure,
            };
            match attempts.failed_with(&failure, started.elapsed(), self.context.draw()) {
                _ if was_held_back(&failure) => return Err(failure),
                Verdict::Again(wait) => tokio::time::sleep(wait).await,
                Verdict::Stop => return Err(failure),
            }
        }
    }

    async fn sync_once(&self, key: &Key) -> Result<bool, Failure> {
        let image = self.ends.source.get(key).await?;
        let write = Write { key: key.clone(), image };
        let reply = self.ends.target.write(std::slice::from_ref(&write)).await?;
        Ok(reply.unprocessed.is_empty())
    }
}

impl Repairer for Arc<DirectRepairs> {
    fn sync<'a>(&'a self, keys: Vec<Key>) -> BoxFuture<'a, Result<(), RepairError>> {
        Box::pin(async move {
            for key in &keys {
                match self.sync_key(key).await {
                    // A rejected one is looked at again, and stays a difference.
                    Err(failure) if failure.fault == Fault::Rejected => {
                        tracing::warn!(error = %failure, "the target rejects an item: it stays different");
                    }
                    Err(failure) => {
                        tracing::error!(error = %failure, "a key could not be synced");
                        return Err(RepairError);
                    }
                    Ok(()) => {}
                }
            }
            Ok(())
        })
    }
}
