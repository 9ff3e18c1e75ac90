//! What repairs a key: through the lanes of a running link, or directly where no link runs.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::replica::Ends;
use crate::apply::engine::Look;
use crate::aws::was_held_back;
use crate::checkpoint::keeper::{Keeper, ahead};
use crate::checkpoint::rows::{DoubtRow, Fence};
use crate::checkpoint::{StateStore, StateWrite};
use crate::context::Context;
use crate::error::{Failure, Fault, chain};
use crate::model::{CanonicalKey, Key, Write};
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
    /// By the clock that requests are signed by.
    pub(crate) signing: Context,
    pub(crate) in_doubt_for: Duration,
    /// The table that the source was when its account was asked first.
    pub(crate) source_id: String,
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
        let until = self.by_aws.now().plus(ahead(&self.signing, &self.by_aws) + self.in_doubt_for);
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
        if image.is_none() {
            self.prove_absence().await?;
        }
        let write = Write { key: key.clone(), image };
        let reply = self.ends.target.write(std::slice::from_ref(&write)).await;
        let reply = reply.inspect_err(|failure| *may_land_late |= failure.may_have_happened)?;
        Ok(reply.unprocessed.is_empty())
    }
}

impl DirectRepairs {
    /// An item that is missing at the source is deleted at the target only where it is missing from the same table: one that
    /// is being deleted, or was made anew under its name, lacks items that nobody deleted.
    async fn prove_absence(&self) -> Result<(), Failure> {
        let table = self.ends.source.describe().await?;
        let (fault, what) = match Look::of(&table.id, &table.status, &self.source_id) {
            Look::Proves => return Ok(()),
            Look::TellsNothing => (Fault::Transient, "the source table is being deleted"),
            Look::Refutes => (Fault::Lost, "the source table was made anew"),
        };
        Err(Failure::of_ours("DescribeTable", fault, what))
    }
}

/// Repairs tables of a link without a row, which is this process's all the same.
///
/// Whoever runs the link later takes over what is listed here, as from an owner that did not drain.
pub(crate) struct ApartRepairs {
    repairs: DirectRepairs,
    store: Arc<dyn StateStore>,
    link: String,
    fence: Fence,
    /// Keys that stay in doubt even when an answer says that they were synced.
    kept: Mutex<HashSet<CanonicalKey>>,
}

impl ApartRepairs {
    /// For a link that was taken, with the keys that were in doubt then.
    pub(crate) fn new(
        repairs: DirectRepairs,
        store: Arc<dyn StateStore>,
        link: &str,
        (fence, doubts): (Fence, &[DoubtRow]),
    ) -> Self {
        let kept = Mutex::new(doubts.iter().map(|row| row.key.clone()).collect());
        Self { repairs, store, link: link.to_owned(), fence, kept }
    }

    async fn commit(&self, writes: Vec<StateWrite>) -> Result<(), RepairError> {
        self.store.commit(&self.link, &self.fence, writes).await.map_err(|error| {
            tracing::error!(link = self.link, error = chain(&error), "keys that are repaired could not be listed");
            RepairError
        })
    }

    /// What is to be written of a key that was sent.
    fn note(&self, key: &Key, may_land_late: bool) -> Option<StateWrite> {
        let row = self.repairs.doubt(key);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if may_land_late {
            tracing::warn!(
                link = self.link,
                until = %row.until,
                "the answer to a repair was lost, so an older image may arrive until then: the link puts it right when it runs; without it, compare again"
            );
            kept.insert(row.key.clone());
            return Some(StateWrite::Doubt(row));
        }
        (!kept.contains(&row.key)).then_some(StateWrite::Settle(row))
    }

    async fn sync_all(&self, keys: Vec<Key>) -> Result<(), RepairError> {
        self.commit(keys.iter().map(|key| StateWrite::Doubt(self.repairs.doubt(key))).collect()).await?;
        let (mut notes, mut repaired) = (Vec::new(), Ok(()));
        for key in &keys {
            let synced = self.repairs.sync_key(key).await;
            notes.extend(self.note(key, synced.may_land_late));
            match synced.result {
                // A rejected one is looked at again, and stays a difference.
                Err(failure) if failure.fault == Fault::Rejected => {
                    tracing::warn!(error = %failure, "the target rejects an item: it stays different");
                }
                Err(failure) => {
                    tracing::error!(error = %failure, "a key could not be synced");
                    repaired = Err(RepairError);
                    break;
                }
                Ok(()) => {}
            }
        }
        self.commit(notes).await?;
        repaired
    }
}

impl Repairer for ApartRepairs {
    fn sync<'a>(&'a self, keys: Vec<Key>) -> BoxFuture<'a, Result<(), RepairError>> {
        Box::pin(self.sync_all(keys))
    }
}
