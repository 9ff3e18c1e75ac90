//! Fills the wire: what the lanes have ready goes out, as far as the pace and the requests that are out allow.

use std::sync::Arc;

use tokio::time::Instant;

use super::EngineTask;
use super::answers::Answer;
use super::proofs::Look;
use crate::checkpoint::book::Token;
use crate::checkpoint::keeper::Settlement;
use crate::lanes::{BatchLimits, LaneError, Tokens};
use crate::model::{CanonicalKey, Key, Write};

/// Reads for `sync` that may be out at once.
const MAX_READS: usize = 16;

impl EngineTask {
    /// Fills the wire. Answers when to come back, where only time is in the way.
    pub(super) fn send_what_may_be_sent(&mut self) -> Result<Option<Instant>, LaneError> {
        loop {
            let now = Instant::now();
            if self.not_before > now && self.has_work() {
                return Ok(Some(self.not_before));
            }
            if self.requests_out >= self.settings.max_in_flight || !self.has_work() {
                return Ok(None);
            }
            if let Err(wait) = self.pacer.may_send(self.monotonic()) {
                self.report_throttle();
                return Ok(Some(now + wait));
            }
            let Some(room) = self.window.room(self.bytes_out) else { return Ok(None) };
            if let Some(half) = self.halves.pop_front() {
                self.send(half);
                continue;
            }
            let may_read = self.reads_not_before <= now;
            let reads = if may_read && self.proofs.has_room() { MAX_READS.saturating_sub(self.reads_out) } else { 0 };
            let limits =
                BatchLimits { writes: self.settings.batch_items, bytes: self.settings.batch_bytes.min(room), reads };
            let ready = self.lanes.take(limits)?;
            let is_idle = ready.writes.is_empty() && ready.reads.is_empty();
            ready.reads.into_iter().for_each(|key| self.read(key));
            if !ready.writes.is_empty() {
                self.send(ready.writes);
            }
            if !ready.dropped.is_empty() {
                self.dropped(ready.dropped);
            }
            if is_idle {
                return Ok(if may_read { None } else { Some(self.reads_not_before) });
            }
        }
    }

    fn has_work(&self) -> bool {
        self.lanes.has_ready() || !self.halves.is_empty()
    }

    fn dropped(&mut self, items: Vec<(CanonicalKey, Tokens<Token>)>) {
        let mut settled = Settlement::default();
        for (key, tokens) in items {
            settled.doubtful.extend(tokens.are_doubtful().then_some(key));
            settled.tokens.extend(tokens.into_iter());
        }
        let keeper = self.keeper.clone();
        let tell = async move { Answer::Told(keeper.settled(settled).await) };
        self.on_wire.push(Box::pin(tell));
    }

    fn send(&mut self, writes: Vec<Write>) {
        debug_assert!(are_distinct(&writes), "one write per key in a request");
        let kilobytes: f64 = writes.iter().map(|write| kilobytes(write.wire_len())).sum();
        let estimate = if self.settings.is_transaction { kilobytes * 2.0 } else { kilobytes };
        let bytes = writes.iter().map(Write::wire_len).sum();
        self.pacer.sent(estimate);
        self.requests_out += 1;
        self.bytes_out += bytes;
        let target = Arc::clone(&self.target);
        self.on_wire.push(Box::pin(async move {
            let sent = Instant::now();
            let reply = target.write(&writes).await;
            Answer::Written { writes, bytes, estimate, sent, reply }
        }));
    }

    fn read(&mut self, key: Key) {
        self.reads_out += 1;
        let source = Arc::clone(&self.source);
        self.on_wire.push(Box::pin(async move {
            let sent = Instant::now();
            let item = source.get(&key).await;
            Answer::Read { key, sent, item }
        }));
    }

    /// Looks at the source's id where what was read waits for that. Answers when the next look is due.
    pub(super) fn look_at_source(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let due = self.proofs.look_at()?;
        if due > now {
            return Some(due);
        }
        self.proofs.begin(now);
        let (source, pinned) = (Arc::clone(&self.source), Arc::clone(&self.source_id));
        self.on_wire.push(Box::pin(async move {
            let found = source.describe().await.map(|table| Look::of(&table.id, &table.status, &pinned));
            Answer::Looked { sent: now, found }
        }));
        None
    }
}

/// What a write of this many bytes of JSON is charged for at most: started KB.
/// Source: Developer Guide, read and write operations.
fn kilobytes(wire_len: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an item has at most a few megabytes of JSON")]
    let kilobytes = wire_len.div_ceil(1024).max(1) as f64;
    kilobytes
}

fn are_distinct(writes: &[Write]) -> bool {
    let mut keys: Vec<_> = writes.iter().map(|write| &write.key.canonical).collect();
    keys.sort_unstable();
    keys.windows(2).all(|pair| pair.first() != pair.last())
}
