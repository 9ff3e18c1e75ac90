//! Gates, as items, each of a partition of its own: they are written while the link's rows are.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::TableStore;
use super::reach::Reach;
use crate::checkpoint::layout;
use crate::checkpoint::table::{Fields, Guard, ItemWrite, Written};
use crate::checkpoint::{Gate, Gates, StoreError, StoreResult};

impl Reach {
    /// Written over what is there, never over what came meanwhile: an attempt that arrives late finds another nonce.
    async fn open_gate(&self, link: &str, number: u32, epoch: u64) -> StoreResult<Gate> {
        let key = self.places.gate(link, number);
        let gate = Gate { number, epoch, nonce: self.nonce() };
        let mut found = self.get(&key).await?;
        loop {
            let guard = match &found {
                None => Guard::Absent,
                Some(fields) => self.guard_of(link, fields, epoch)?,
            };
            let write = ItemWrite::new(key.clone(), Some(layout::gate_fields(&gate))).guarded(guard);
            match self.write(&write).await? {
                Written::Done => return Ok(gate),
                // An attempt whose answer was lost.
                Written::Refused(now) if now.as_ref() == Some(&layout::gate_fields(&gate)) => return Ok(gate),
                Written::Refused(now) => found = now,
            }
        }
    }

    fn guard_of(&self, link: &str, found: &Fields, epoch: u64) -> StoreResult<Guard> {
        let (of, guard) = layout::gate_guard(found)
            .ok_or_else(|| StoreError::Damaged { place: self.place(), what: format!("a gate of link {link}") })?;
        if of > epoch { Err(StoreError::Fenced { link: link.to_owned() }) } else { Ok(guard) }
    }
}

impl Gates for TableStore {
    fn place(&self) -> String {
        format!("{}/{}", self.reach.place(), self.reach.places.namespace())
    }

    fn open<'a>(&'a self, link: &'a str, number: u32, epoch: u64) -> BoxFuture<'a, StoreResult<Gate>> {
        self.reach.open_gate(link, number, epoch).boxed()
    }

    fn condition(&self, link: &str, gate: &Gate) -> Vec<u8> {
        let guard = layout::guard_of_gate(gate);
        self.reach.table.condition(&self.reach.places.gate(link, gate.number), &guard)
    }
}
