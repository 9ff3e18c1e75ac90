//! What repairs a key: through the lanes of a running link, or directly where no link runs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::replica::Ends;
use crate::aws::was_held_back;
use crate::checkpoint::keeper::Keeper;
use crate::checkpoint::rows::DoubtRow;
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

/// Syncs one key after the other, for tables that no link of this process copies, though the link is this process's.
///
/// Without lanes nothing stands between the read and the write: use it only while nothing else writes the target. A write
/// whose answer was lost is made again, and may land after that. So each key is listed as in doubt before anything is sent
/// for it, and once more when that happened: whoever runs the link next syncs it when no write can land any more.
pub(crate) struct DirectRepairs {
    pub(crate) ends: Ends,
    /// By AWS's clock: who reads until when a key is in doubt has another machine's.
    pub(crate) by_aws: Context,
    pub(crate) in_doubt_for: Duration,
}

/// What became of a key.
pub(crate) struct Synced {
    pub(crate) result: Result<(), Failure>,
    /// A write of it may have been carried out, or may be yet, of which no answer was heard.
    pub(crate) may_land_late: bool,
}

impl DirectRepairs {
    /// The row that lists a key from now on. Durable before [`Self::sync_key`], and again after one that may land late.
    pub(crate) fn doubt(&self, key: &Key) -> DoubtRow {
        let until = self.by_aws.now().plus(self.in_doubt_for);
        let key_json = String::from_utf8_lossy(&key.json).into_owned();
        DoubtRow { key: key.canonical.clone(), key_json, until, page: None, under_way: true }
    }

    /// Makes one key, which is listed, at the target what it is at the source.
    pub(crate) async fn sync_key(&self, key: &Key) -> Synced {
        let (mut attempts, started) = (Attempts::new(Patience::COMMAND), Instant::now());
        let mut may_land_late = false;
        let result = loop {
            let failure = match self.sync_once(key, &mut may_land_late).await {
                Ok(true) => break Ok(()),
                Ok(false) => {
                    tokio::time::sleep(UNPROCESSED_WAIT.mul_f64(0.5 + self.by_aws.draw())).await;
                    continue;
                }
                Err(failure) => failure,
            };
            match attempts.failed_with(&failure, started.elapsed(), self.by_aws.draw()) {
                _ if was_held_back(&failure) => break Err(failure),
                Verdict::Again(wait) => tokio::time::sleep(wait).await,
                Verdict::Stop => break Err(failure),
            }
        };
        Synced { result, may_land_late }
    }

    async fn sync_once(&self, key: &Key, may_land_late: &mut bool) -> Result<bool, Failure> {
        let image = self.ends.source.get(key).await?;
        let write = Write { key: key.clone(), image };
        let reply = self.ends.target.write(std::slice::from_ref(&write)).await;
        let reply = reply.inspect_err(|failure| *may_land_late |= failure.may_have_happened)?;
        Ok(reply.unprocessed.is_empty())
    }
}

impl Repairer for Arc<DirectRepairs> {
    fn sync<'a>(&'a self, keys: Vec<Key>) -> BoxFuture<'a, Result<(), RepairError>> {
        Box::pin(async move {
            for key in &keys {
                match self.sync_key(key).await.result {
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
