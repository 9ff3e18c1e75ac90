//! Gates of a link, where its writes go through gates (`apply.fence = "transaction"`): opened before its books are, so that
//! nothing of an earlier owner lands any more when they are.

use std::sync::Arc;

use super::Link;
use crate::checkpoint::book::Book;
use crate::checkpoint::rows::{Fence, LinkRow};
use crate::checkpoint::{LinkState, StoreError};
use crate::config::WriteFence;
use crate::error::{Error, Exit, Fault, Result};
use crate::runtime::gated::{GatedTarget, LinkGates};
use crate::runtime::prepare::{Prepared, patiently};

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
        self.check_gates(&gates, prepared).await?;
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

    /// A permission that is missing is said before anything is written.
    async fn check_gates(&self, gates: &LinkGates, prepared: &Prepared) -> Result<()> {
        let checked = patiently(&self.shared.context, || gates.check(&*prepared.conditional)).await;
        checked.map_err(|failure| {
            let what = format!("ask for the state's table in a transaction of link `{}`", self.config.name);
            let hint = match failure.fault {
                Fault::Denied => "give the target's identity the permissions of config/policies/fence.json",
                _ => "`apply.fence = \"transaction\"` needs the state's table in the target's account and Region",
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
