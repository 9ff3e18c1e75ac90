//! Gates of a link, where its writes go through gates (`apply.fence = "transaction"`): opened before its books are, so that
//! nothing of an earlier owner lands any more when they are.

use std::sync::Arc;

use super::Link;
use crate::checkpoint::book::Book;
use crate::checkpoint::rows::{Fence, LinkRow};
use crate::checkpoint::{LinkState, StoreError};
use crate::config::WriteFence;
use crate::error::{Error, Exit, Result};
use crate::runtime::gated::{GatedTarget, LinkGates};
use crate::runtime::prepare::Prepared;

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
        self.check_place(prepared)?;
        let store = &self.shared.store;
        let gates = store.gates().ok_or_else(|| {
            Error::new(Exit::Precondition, format!("write the target of link `{}` through gates", self.config.name))
                .hint("`fence = \"transaction\"` needs the state in a table: `store = \"dynamodb:TABLE\"`")
        })?;
        let before = state.link.as_ref().map_or(0, |row| row.gates);
        let count = before.max(self.config.apply.max_in_flight);
        let gates = LinkGates::open(gates, &self.config.name, fence.epoch, count).await?;
        if let Some(row) = state.link.as_mut().filter(|row| row.is_gated) {
            row.clean = true;
        }
        Ok(Some(gates))
    }

    /// A transaction stays within one account and Region. Source: API reference, TransactWriteItems.
    fn check_place(&self, prepared: &Prepared) -> Result<()> {
        if prepared.accounts.owns_target() {
            return Ok(());
        }
        let what = format!("write the target of link `{}` in transactions with the state's table", self.config.name);
        Err(Error::new(Exit::Precondition, what).hint(format!(
            "{} is of another account or Region than the target's identity, and a transaction stays within one: leave \
             `apply.fence` out, or run with an identity of the table's account",
            prepared.identity.target
        )))
    }

    /// From now on the link writes through these gates, or through none: durable before the first write.
    pub(super) async fn go_through(
        &self,
        gates: Option<LinkGates>,
        prepared: &mut Prepared,
        book: &mut Book,
        fence: &Fence,
    ) -> Result<(), StoreError> {
        let count = gates.as_ref().map_or(0, LinkGates::count);
        let is_gated = gates.is_some();
        let LinkRow { gates: known, is_gated: was_gated, .. } = *book.link();
        if (known.max(count), is_gated) != (known, was_gated) {
            book.update_link(|row| (row.gates, row.is_gated) = (known.max(count), is_gated));
            self.shared.store.commit(&self.config.name, fence, book.take_writes()).await?;
        }
        if let Some(gates) = gates {
            let target = Arc::clone(&prepared.conditional);
            prepared.ends.target = Arc::new(GatedTarget::new(target, gates, self.shared.context.clone()));
        }
        Ok(())
    }
}
