//! A gate as an item.

use crate::checkpoint::Gate;
use crate::checkpoint::table::{Field, Fields, Guard};

const EPOCH: &str = "epoch";
const NONCE: &str = "nonce";

pub(crate) fn gate_fields(Gate { epoch, nonce, .. }: &Gate) -> Fields {
    Fields::from([(EPOCH.to_owned(), Field::Number(*epoch)), (NONCE.to_owned(), Field::Text(nonce.clone()))])
}

/// Whose gate an item is, by the owner's epoch, and that it still is as it was found. `None`: it is no gate.
pub(crate) fn gate_guard(fields: &Fields) -> Option<(u64, Guard)> {
    match (fields.get(EPOCH)?, fields.get(NONCE)?) {
        (Field::Number(epoch), Field::Text(nonce)) => Some((*epoch, same(*epoch, nonce))),
        _ => None,
    }
}

/// That a gate is as it was opened.
pub(crate) fn guard_of_gate(Gate { epoch, nonce, .. }: &Gate) -> Guard {
    same(*epoch, nonce)
}

fn same(epoch: u64, nonce: &str) -> Guard {
    Guard::Same(vec![(EPOCH, Field::Number(epoch)), (NONCE, Field::Text(nonce.to_owned()))])
}
