//! Takes what comes back: settled, put back to the head of its lane, split, set aside, or the end of the link.

use std::time::Duration;

use tokio::time::Instant;

use super::proofs::Look;
use super::settled::Settled;
use super::{EngineError, EngineTask, OnRejected};
use crate::checkpoint::keeper::{KeeperGone, Settlement};
use crate::checkpoint::rows::DeadLetterRow;
use crate::decode::WriteReply;
use crate::error::{Failure, Fault};
use crate::model::{CanonicalKey, Key, RawItem, Write};
use crate::telemetry::AppliedOp;

/// Wait after an answer that left everything unprocessed, besides what the pace says.
const UNPROCESSED_WAIT: Duration = Duration::from_millis(20);

/// Between two looks at a source table that is being deleted.
const DELETING_WAIT: Duration = Duration::from_secs(1);

pub(super) enum Answer {
    Written { writes: Vec<Write>, bytes: usize, estimate: f64, sent: Instant, reply: Result<WriteReply, Failure> },
    Read { key: Key, sent: Instant, item: Result<Option<RawItem>, Failure> },
    Looked { sent: Instant, found: Result<Look, Failure> },
    Told(Result<(), KeeperGone>),
}

impl EngineTask {
    pub(super) async fn take_answer(&mut self, answer: Answer) -> Result<(), EngineError> {
        match answer {
            Answer::Written { writes, bytes, estimate, sent, reply } => {
                self.requests_out -= 1;
                self.heed_lateness(sent, bytes, reply.as_ref().err());
                self.bytes_out -= bytes;
                match reply {
                    Ok(reply) => self.written(writes, estimate, reply).await,
                    Err(failure) => self.write_failed(writes, estimate, sent, failure).await,
                }
            }
            Answer::Told(told) => Ok(told?),
            Answer::Read { key, sent, item } => {
                self.reads_out -= 1;
                self.read_answered(key.canonical, sent, item)
            }
            Answer::Looked { sent, found } => self.looked(sent, found),
        }
    }

    /// Less may be out when a request was not answered in its time, and more again when others are.
    fn heed_lateness(&mut self, sent: Instant, bytes: usize, failure: Option<&Failure>) {
        let (sent, now) = (sent.duration_since(self.started), self.monotonic());
        match failure {
            Some(failure) if failure.timed_out => {
                if self.window.late(sent, now, bytes, self.bytes_out) {
                    tracing::warn!(
                        bytes = self.bytes_out,
                        "writes are not answered in time: less is sent at once (a slow line? see `apply.attempt_timeout`)"
                    );
                }
            }
            // One without a code never reached the service, or its answer did not come back: it says nothing of the line.
            Some(Failure { code: None, .. }) => {}
            _ => self.window.answered(sent, now, bytes),
        }
    }

    async fn written(&mut self, writes: Vec<Write>, estimate: f64, reply: WriteReply) -> Result<(), EngineError> {
        self.writing.passed();
        if let Some(units) = reply.consumed_units {
            self.pacer.cost(estimate, units);
            self.observer.consumed_write(units);
        }
        if !reply.unprocessed.is_empty() {
            self.throttled();
            if reply.unprocessed.len() >= writes.len() {
                self.not_before = Instant::now() + UNPROCESSED_WAIT.mul_f64(0.5 + self.context.draw());
            }
        }
        let mut settled = Settled::new(writes.len());
        for write in writes {
            if reply.unprocessed.contains(&write.key.canonical) {
                self.lanes.put_back(&write.key.canonical)?;
            } else {
                let op = if write.image.is_some() { AppliedOp::Put } else { AppliedOp::Delete };
                let key = &write.key.canonical;
                settled.add(key, op, self.lanes.acknowledge(key)?, self.observer.as_ref());
            }
        }
        Ok(self.keeper.settled(settled.tell(self.observer.as_ref())).await?)
    }

    async fn write_failed(
        &mut self,
        writes: Vec<Write>,
        estimate: f64,
        sent: Instant,
        failure: Failure,
    ) -> Result<(), EngineError> {
        self.pacer.cost(estimate, 0.0);
        if failure.fault == Fault::Rejected && !failure.may_have_happened {
            return self.rejected(writes, failure).await;
        }
        if failure.may_have_happened {
            // Listed before anything of them can be settled: the notes of one sender keep their order.
            self.keeper.in_doubt(writes.iter().map(|write| write.key.clone()).collect()).await?;
        }
        if failure.throttled && !failure.may_have_happened && self.settings.is_transaction && writes.len() > 1 {
            // As a whole it may never be taken; of its halves one is, before the other.
            self.halve(writes);
        } else {
            for write in &writes {
                if failure.may_have_happened {
                    self.lanes.put_back_in_doubt(&write.key.canonical)?;
                } else {
                    self.lanes.put_back(&write.key.canonical)?;
                }
            }
        }
        if failure.throttled {
            self.throttled();
        }
        match self.writing.failed(&failure, sent, self.started.elapsed(), self.context.draw()) {
            Ok(wait) => {
                self.wait(wait);
                Ok(())
            }
            Err(()) => Err(EngineError::Target(failure)),
        }
    }

    fn wait(&mut self, wait: Option<Duration>) {
        self.not_before = self.not_before.max(Instant::now() + wait.unwrap_or_default());
    }

    fn halve(&mut self, mut writes: Vec<Write>) {
        let second = writes.split_off(writes.len() / 2);
        self.halves.extend([writes, second]);
    }

    /// A batch was refused as a whole: its halves are sent, down to the item that is to blame.
    async fn rejected(&mut self, mut writes: Vec<Write>, failure: Failure) -> Result<(), EngineError> {
        if writes.len() > 1 {
            self.halve(writes);
            return Ok(());
        }
        let Some(write) = writes.pop() else { return Ok(()) };
        let code = failure.code.clone().unwrap_or_default();
        if self.settings.on_rejected == OnRejected::Stop {
            return Err(EngineError::Rejected { code, source: failure });
        }
        tracing::warn!(code, "an item was set aside as a dead letter");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let row = DeadLetterRow {
            id: 0,
            key_json: text(&write.key.json),
            item_json: write.image.as_ref().map(|image| text(image.json())),
            reason: format!("{code}: {}", failure.message),
            at: self.context.now(),
        };
        let tokens = self.lanes.give_up(&write.key.canonical)?;
        let doubtful = tokens.are_doubtful().then_some(write.key.canonical).into_iter().collect();
        Ok(self.keeper.dead_letter(row, Settlement { tokens: tokens.into_iter().collect(), doubtful }).await?)
    }

    fn read_answered(
        &mut self,
        key: CanonicalKey,
        sent: Instant,
        item: Result<Option<RawItem>, Failure>,
    ) -> Result<(), EngineError> {
        match item {
            Ok(image) => {
                self.reading.passed();
                self.proofs.add(Instant::now(), (key, image));
                Ok(())
            }
            Err(failure) => {
                self.lanes.put_back(&key)?;
                match self.reading.failed(&failure, sent, self.started.elapsed(), self.context.draw()) {
                    // Writes go on: what cannot be read at the source holds up nothing but its own keys.
                    Ok(wait) => {
                        self.reads_not_before = self.reads_not_before.max(Instant::now() + wait.unwrap_or_default());
                        Ok(())
                    }
                    Err(()) => Err(EngineError::Source(failure)),
                }
            }
        }
    }

    /// What was read before the look is written when it was read in the right table.
    fn looked(&mut self, sent: Instant, found: Result<Look, Failure>) -> Result<(), EngineError> {
        match found {
            Ok(Look::Refutes) => Err(EngineError::SourceReplaced),
            Ok(Look::TellsNothing) => {
                self.looking.passed();
                self.proofs.failed(Instant::now(), DELETING_WAIT);
                Ok(())
            }
            Ok(Look::Proves) => {
                self.looking.passed();
                for (key, image) in self.proofs.proved() {
                    self.lanes.sync_read(&key, image)?;
                }
                Ok(())
            }
            Err(failure) => match self.looking.failed(&failure, sent, self.started.elapsed(), self.context.draw()) {
                Ok(wait) => {
                    self.proofs.failed(Instant::now(), wait.unwrap_or_default());
                    Ok(())
                }
                Err(()) => Err(EngineError::Source(failure)),
            },
        }
    }

    fn throttled(&mut self) {
        self.pacer.throttled(self.monotonic());
        self.report_throttle();
    }

    pub(super) fn report_throttle(&mut self) {
        let is_slowed = self.pacer.is_slowed();
        if is_slowed != self.was_slowed {
            self.was_slowed = is_slowed;
            self.observer.throttled(is_slowed);
        }
    }
}
