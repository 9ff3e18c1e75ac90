//! SIGINT and SIGTERM: the first asks for an orderly end, the second ends at once.

use super::session::{Cause, Stop};

/// Watches for signals. Ends at the second one (at the first, if there is nothing to finish) with 128 plus its number;
/// the caller then leaves at once.
pub(super) async fn watch(stop: &Stop, drains: bool) -> u8 {
    let Some(mut signals) = Signals::new() else { return std::future::pending().await };
    let first = signals.next().await;
    stop.because(Cause::Signal(first));
    if !drains {
        return first;
    }
    tracing::warn!("stopping: finishing what is under way; a second signal stops at once");
    let second = signals.next().await;
    tracing::warn!("stopped at once");
    second
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// `None` where signals cannot be watched: then they do what they always do.
    fn new() -> Option<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Some(Self {
            interrupt: signal(SignalKind::interrupt()).ok()?,
            terminate: signal(SignalKind::terminate()).ok()?,
        })
    }

    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Option<Self> {
        Some(Self)
    }

    async fn next(&mut self) -> u8 {
        match tokio::signal::ctrl_c().await {
            Ok(()) => 130,
            Err(_) => std::future::pending().await,
        }
    }
}
