//! Gates of a link, where its writes go through gates (`apply.fence = "transaction"`): opened before its books are, so that
//! nothing of an earlier owner lands any more when they are.

use std::sync::Arc;
use std::time::Duration;

use super::Link;
use crate::checkpoint::book::Book;
use crate::checkpoint::rows::{Fence, LinkRow};
use crate::checkpoint::{LinkState, StoreError};
use crate::config::WriteFence;
use crate::error::{Error, Exit, Fault, Result, chain};
use crate::runtime::gated::{GatedTarget, LinkGates};
use crate::runtime::prepare::{Prepared, patiently, sample_writes};

/// The store has tried for a while before it gives up.
const AGAIN: Duration = Duration::from_secs(1);

impl Link {
    /// Opens the link's gates for its owner. An owner that wrote through gates alone left nothing that could land after
    /// this, however it ended, so its state is taken over as that of one that drained.
    ///
    /// # Errors
    /// A state or a target that cannot be in one transaction.
    pub(super) async fn open_gates(
        &self,
        prepared: &Prepared,
        fence: &Fence,
        state: &mut LinkState,
    ) -> Result<Option<LinkGates>> {
        if self.config.apply.fence != WriteFence::Transaction {
            return Ok(None);
        }
        let store = &self.shared.store;
        let gates = store.gates().ok_or_else(|| {
            Error::new(Exit::Precondition, format!("write the target of link `{}` through gates", self.config.name))
                .hint("`fence = \"transaction\"` needs the state in a table: `store = \"dynamodb:TABLE\"`")
        })?;
        let before = state.link.as_ref().map_or(0, |row| row.gates);
        let count = before.max(self.config.apply.max_in_flight);
        let open = || LinkGates::open(Arc::clone(&gates), &self.config.name, fence.epoch, count);
        let gates = until_answered(open).await?;
        self.check_gates(&gates, prepared).await?;
        let here = gates.place();
        if let Some(row) = state.link.as_mut().filter(|row| row.gated_at.as_ref() == Some(&here)) {
            row.clean = true;
        }
        Ok(Some(gates))
    }

    /// What keeps a transaction from being made at all is said before anything is written: another account or Region, a
    /// permission that is missing, a table that takes none.
    async fn check_gates(&self, gates: &LinkGates, prepared: &Prepared) -> Result<()> {
        let samples = sample_writes(&prepared.identity.keys);
        let checked = patiently(&self.shared.context, || gates.check(&*prepared.conditional, &samples)).await;
        checked.map_err(|failure| {
            let what = format!("write the target of link `{}` in transactions with the state's table", self.config.name);
            let hint = match failure.fault {
                Fault::Denied => "give the target's identity the permissions of config/policies/fence.json",
                _ => {
                    "`apply.fence = \"transaction\"` needs both tables in the account and Region of the target's identity, \
                     and a target that takes transactions"
                }
            };
            Error::new(Exit::Precondition, what).hint(hint).because(failure)
        })
    }

    /// From now on the link writes through these gates, or through none: durable before the first write.
    pub(super) async fn go_through(
        &self,
        gates: Option<LinkGates>,
        prepared: &mut Prepared,
        book: &mut Book,
        fence: &Fence,
    ) -> Result<(), StoreError> {
        let gated_at = gates.as_ref().map(LinkGates::place);
        let LinkRow { gates: known, gated_at: was_gated_at, .. } = book.link();
        let count = gates.as_ref().map_or(0, LinkGates::count).max(*known);
        if (count, &gated_at) != (*known, was_gated_at) {
            // What the last owner left, all of it first: half of it under this mark would be taken for nothing.
            self.write_out(book, fence).await?;
            book.update_link(|row| (row.gates, row.gated_at) = (count, gated_at));
            self.write_out(book, fence).await?;
        }
        if let Some(gates) = gates {
            let target = Arc::clone(&prepared.conditional);
            prepared.ends.target = Arc::new(GatedTarget::new(target, gates, self.shared.context.clone()));
        }
        Ok(())
    }

    async fn write_out(&self, book: &mut Book, fence: &Fence) -> Result<(), StoreError> {
        let writes = book.take_writes();
        if writes.is_empty() {
            return Ok(());
        }
        until_answered(|| self.shared.store.commit(&self.config.name, fence, writes.clone())).await
    }
}

/// Tries again while the store may answer: whoever opens a link is stopped when its lease is over.
async fn until_answered<T, F>(mut call: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        match call().await {
            Err(error) if error.may_pass() => {
                tracing::warn!(error = %chain(&error), "the state did not answer, trying again");
                tokio::time::sleep(AGAIN).await;
            }
            ended => return ended,
        }
    }
}
