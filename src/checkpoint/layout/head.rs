//! Who may write a link, and the signs of life of workers.

use std::time::Duration;

use crate::checkpoint::rows::Fence;
use crate::checkpoint::table::{Field, Fields, Guard};
use crate::checkpoint::{Sign, StoreError, StoreResult};
use crate::model::WallTime;

const OWNER: &str = "owner";
const EPOCH: &str = "epoch";
const SEQ: &str = "seq";
const NONCE: &str = "nonce";
const RELEASED: &str = "released";
const COUNTER: &str = "counter";
const AT: &str = "at";
const LEASE: &str = "lease_millis";
const REPORT: &str = "report";

/// The head of a link: who may write it.
///
/// Each transaction of the owner counts `seq` up by one, and asks that owner, epoch and `seq` be as it knows them. So no
/// write of a superseded owner happens; and none happens twice or late: an attempt whose answer was lost, and that arrives
/// after the next one, finds another `seq`. The nonce tells an attempt of one's own from anybody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) fence: Fence,
    pub(crate) seq: u64,
    pub(crate) nonce: String,
    /// The owner let go of the link, and sends nothing more.
    pub(crate) released: bool,
}

impl Head {
    pub(crate) fn fields(&self) -> Fields {
        Fields::from([
            (OWNER.to_owned(), Field::Text(self.fence.owner.clone())),
            (EPOCH.to_owned(), Field::Number(self.fence.epoch)),
            (SEQ.to_owned(), Field::Number(self.seq)),
            (NONCE.to_owned(), Field::Text(self.nonce.clone())),
            (RELEASED.to_owned(), Field::Flag(self.released)),
        ])
    }

    pub(crate) fn parse(fields: &Fields, place: &str) -> StoreResult<Self> {
        match (fields.get(OWNER), fields.get(EPOCH), fields.get(SEQ), fields.get(NONCE), fields.get(RELEASED)) {
            (
                Some(Field::Text(owner)),
                Some(Field::Number(epoch)),
                Some(Field::Number(seq)),
                Some(Field::Text(nonce)),
                Some(Field::Flag(released)),
            ) => {
                let fence = Fence { owner: owner.clone(), epoch: *epoch };
                Ok(Self { fence, seq: *seq, nonce: nonce.clone(), released: *released })
            }
            _ => Err(StoreError::Damaged { place: place.to_owned(), what: "the head of a link".to_owned() }),
        }
    }

    /// The link is still this owner's.
    pub(crate) fn guard_of_owner(&self) -> Guard {
        let Fence { owner, epoch } = &self.fence;
        Guard::Same(vec![(OWNER, Field::Text(owner.clone())), (EPOCH, Field::Number(*epoch))])
    }

    /// The same, and its last transaction is the last one that we know.
    pub(crate) fn guard_of_writer(&self) -> Guard {
        let Guard::Same(mut fields) = self.guard_of_owner() else { return Guard::Absent };
        fields.push((SEQ, Field::Number(self.seq)));
        Guard::Same(fields)
    }
}

/// A worker's row.
pub(crate) fn sign_fields(sign: &Sign) -> Fields {
    Fields::from([
        (COUNTER.to_owned(), Field::Number(sign.counter)),
        (LEASE.to_owned(), Field::Number(u64::try_from(sign.lease.as_millis()).unwrap_or(u64::MAX))),
        (AT.to_owned(), Field::Number(u64::try_from(sign.at.millis()).unwrap_or(0))),
        (REPORT.to_owned(), Field::Text(sign.report.clone())),
    ])
}

/// What a worker's row says; `None`: it is of another kind.
pub(crate) fn sign_of(sort: &[u8], fields: &Fields) -> Option<Sign> {
    let worker = std::str::from_utf8(sort).ok()?.to_owned();
    let (Field::Number(at), Field::Text(report)) = (fields.get(AT)?, fields.get(REPORT)?) else { return None };
    let at = WallTime::from_millis(i64::try_from(*at).unwrap_or(i64::MAX));
    let lease = lease_of(fields)?;
    Some(Sign { worker, counter: counter_of(fields)?, lease, at, report: report.clone() })
}

/// A worker's number.
pub(crate) fn counter_of(fields: &Fields) -> Option<u64> {
    match fields.get(COUNTER)? {
        Field::Number(counter) => Some(*counter),
        _ => None,
    }
}

/// How long a worker may be taken to live.
pub(crate) fn lease_of(fields: &Fields) -> Option<Duration> {
    match fields.get(LEASE)? {
        Field::Number(millis) => Some(Duration::from_millis(*millis)),
        _ => None,
    }
}

/// The number of the sign before.
pub(crate) fn guard_of_counter(counter: u64) -> Guard {
    Guard::Same(vec![(COUNTER, Field::Number(counter))])
}
