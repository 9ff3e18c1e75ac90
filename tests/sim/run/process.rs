//! The life of a process: started, kept running as an orchestrator does, stopped, killed; and why it ended by itself.

use std::sync::Arc;
use std::time::Duration;

use dynaferry::error::{self, Error, Exit};
use dynaferry::runtime::Program;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::acts::Actor;
use super::{Run, SECOND};
use crate::gate::Gate;
use crate::plan::Family;

/// So many short lives in a row the process is started again within seconds; from then on the orchestrator takes its time,
/// twice as long after each.
const QUICK_RESTARTS: u32 = 5;
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// A life that is not short.
const SOUND_LIFE: Duration = Duration::from_secs(600);

/// A process that runs.
pub(super) struct Process {
    pub(super) gate: Arc<Gate>,
    pub(super) stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    pub(super) program: Arc<Program>,
    pub(super) since: tokio::time::Instant,
}

impl Run {
    /// Keeps a process running, as an orchestrator does, while something else goes on.
    pub(super) async fn supervise(&mut self, actor: &mut Actor, die_at: Option<u64>, until: impl Future<Output = ()>) {
        tokio::pin!(until);
        let mut die_at = die_at.filter(|_| self.process.is_none());
        loop {
            if self.process.is_none() {
                self.start();
                if let (Some(steps), Some(process)) = (die_at.take(), &self.process) {
                    process.gate.die_after(steps);
                }
            }
            let Some(process) = &mut self.process else { return };
            let gate = Arc::clone(&process.gate);
            tokio::select! {
                biased;
                () = &mut until => return,
                () = gate.died.notified() => self.kill().await,
                ended = &mut process.task => {
                    self.ended(ended);
                    let backoff = self.backoff();
                    tokio::select! {
                        biased;
                        () = &mut until => return,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    continue;
                }
                () = tokio::time::sleep_until(self.next_look) => {
                    self.look();
                    continue;
                }
                act = actor.next() => {
                    tokio::select! {
                        biased;
                        () = &mut until => return,
                        () = self.act(act) => {}
                    }
                    continue;
                }
            }
            tokio::select! {
                biased;
                () = &mut until => return,
                () = tokio::time::sleep(SECOND) => {}
            }
        }
    }

    /// How long the orchestrator waits before it starts the process again.
    fn backoff(&mut self) -> Duration {
        let doublings = self.short_lives.saturating_sub(QUICK_RESTARTS).min(16);
        (SECOND.mul_f64(1.0 + 9.0 * self.random.f64()) * 2_u32.pow(doublings)).min(LONGEST_BACKOFF)
    }

    fn start(&mut self) {
        self.world.renew_export();
        self.world.mend_exports();
        let gate = Gate::new();
        let program = self.world.program(&gate, self.drift);
        let stop = CancellationToken::new();
        let (running, token) = (Arc::clone(&program), stop.clone());
        let task = tokio::spawn(async move { running.run(token).await });
        self.outcome.lives += 1;
        self.last_claim = None;
        self.say(|| "--- the process starts".to_owned());
        self.process = Some(Process { gate, stop, task, program, since: tokio::time::Instant::now() });
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        self.say(|| "--- the process is killed".to_owned());
        process.gate.kill();
        process.task.abort();
        self.outcome.live_time += process.since.elapsed();
        let ended = process.task.await;
        if ended.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
            self.violated("panic", "the program panicked".to_owned());
        }
    }

    /// SIGTERM, and SIGKILL later if it does not end.
    pub(super) async fn stop(&mut self, patience: Option<Duration>) {
        let Some(process) = &mut self.process else { return };
        process.stop.cancel();
        let longest = self.world.plan.settings.drain + 10 * SECOND;
        let died = Arc::clone(&process.gate);
        let ended = tokio::select! {
            biased;
            ended = &mut process.task => Some(ended),
            () = died.died.notified() => None,
            () = tokio::time::sleep(patience.unwrap_or(longest)) => None,
        };
        match ended {
            Some(ended) => self.ended(ended),
            None => {
                if patience.is_none() && !died.is_dead() {
                    self.violated("C8", format!("the process did not stop within {longest:?}"));
                }
                self.kill().await;
            }
        }
    }

    /// The process ended by itself.
    fn ended(&mut self, ended: Result<Result<(), Error>, tokio::task::JoinError>) {
        if let Some(process) = self.process.take() {
            let life = process.since.elapsed();
            self.outcome.live_time += life;
            self.short_lives = if life < SOUND_LIFE { self.short_lives + 1 } else { 0 };
        }
        match ended {
            Err(error) if error.is_panic() => self.violated("panic", "the program panicked".to_owned()),
            Err(_) => {}
            Ok(Ok(())) => self.say(|| "--- the process ended: drained".to_owned()),
            Ok(Err(error)) => {
                let text = error::chain(&error);
                self.say(|| format!("--- the process ended with exit {}: {text}", error.exit as u8));
                self.judge_end(&error, &text);
            }
        }
    }

    fn judge_end(&mut self, error: &Error, text: &str) {
        if is_bug(text) {
            return self.violated("assert", format!("the program found a bug of its own: {text}"));
        }
        let is_begun_anew = error.exit == Exit::Lost && text.contains("made anew")
            // A write of before may have come to the table that was emptied.
            || error.exit == Exit::Precondition && text.contains("is not empty");
        if is_begun_anew && self.world.plan.family == Family::Recreated {
            // As its message says: with fresh state, into an empty target.
            self.world.begin_anew();
            return;
        }
        let is_of_operator = self.world.plan.export().is_some() && self.world.plan.own_export().is_none();
        if text.contains("load the export") && is_of_operator && !self.world.court.judge().has_link() {
            // The stream is younger than it, or it has grown old: as its message says.
            self.world.export();
            return;
        }
        if text.contains("holds a part") {
            self.world.clear_target();
            return;
        }
        let is_of_no_use = text.contains("exports for link") || text.contains("imports is");
        if is_of_no_use && text.contains("is of no use") && is_of_operator {
            self.world.export();
            return;
        }
        if is_of_no_use && text.contains("is of no use") {
            // As its message says.
            self.world.let_export_to("again");
            return;
        }
        if self.is_calm {
            self.violated("C8", format!("the process ended without any fault: exit {}, {text}", error.exit as u8));
        }
    }
}

/// Whether a process that ended so says that the program is wrong.
pub(crate) fn is_bug(text: &str) -> bool {
    ["keep the books", "keep the lanes", "refused state write", "ended unexpectedly", "panicked", "invariant"]
        .iter()
        .any(|sign| text.contains(sign))
}
