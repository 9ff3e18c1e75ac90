//! The border of a process: everything that it sends or stores passes here, so here it dies, freezes, or is alone.
//!
//! A process that was killed does no more I/O at that very point, before or after the effect; its tasks are dropped a
//! moment later. One that is frozen does none for a while, and its timers fire late.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorFuture, SharedHttpClient};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use dynaferry::sandbox::Sandbox;
use tokio::sync::Notify;

use crate::world::STATE;

#[path = "../shared/connector.rs"]
mod connector;

/// Steps that never come.
const NEVER: u64 = u64::MAX;

/// The gate of one process.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    dead: AtomicBool,
    frozen: AtomicBool,
    /// What names the table of its state in a request does not pass.
    cut_off: AtomicBool,
    changed: Notify,
    steps: AtomicU64,
    dies_at: AtomicU64,
    pub(crate) died: Notify,
    watcher: Watcher,
}

type Watch = dyn Fn(&str, &[u8]) + Send + Sync;

/// Sees the operation and the body of each request at the moment when it leaves the program.
#[derive(Default)]
struct Watcher(OnceLock<Box<Watch>>);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { dies_at: AtomicU64::new(NEVER), ..Self::default() })
    }

    /// Looks at the requests, once for all.
    pub(crate) fn watch(&self, watch: impl Fn(&str, &[u8]) + Send + Sync + 'static) {
        drop(self.watcher.0.set(Box::new(watch)));
    }

    /// The process dies at the so manieth step from now.
    pub(crate) fn die_after(&self, steps: u64) {
        self.dies_at.store(self.steps.load(Ordering::Relaxed) + steps, Ordering::Relaxed);
    }

    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.died.notify_one();
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// From now on the process does not reach the table of its state, or does again; all else it does.
    pub(crate) fn set_cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// One step of I/O: goes on at once, later, or never.
    pub(crate) async fn pass(&self) {
        self.pass_as(false).await;
    }

    async fn pass_as(&self, is_of_state: bool) {
        if self.steps.fetch_add(1, Ordering::Relaxed) >= self.dies_at.load(Ordering::Relaxed) {
            self.kill();
        }
        loop {
            let thawed = self.changed.notified();
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            let is_cut_off = is_of_state && self.cut_off.load(Ordering::Relaxed);
            if !self.frozen.load(Ordering::Relaxed) && !is_cut_off {
                return;
            }
            thawed.await;
        }
    }

    fn tell(&self, request: &HttpRequest) {
        if let Some(watch) = self.watcher.0.get()
            && !self.is_dead()
            && let Some((_, operation)) = request.headers().get("x-amz-target").and_then(|name| name.split_once('.'))
        {
            watch(operation, request.body().bytes().unwrap_or_default());
        }
    }

    /// The sandbox as this process reaches it.
    pub(crate) fn http_client(self: &Arc<Self>, sandbox: &Sandbox) -> SharedHttpClient {
        let gate = Arc::clone(self);
        connector::around(sandbox, move |inner, request| {
            let gate = Arc::clone(&gate);
            HttpConnectorFuture::new(async move {
                gate.tell(&request);
                let body = request.body().bytes().unwrap_or_default();
                let is_of_state = memchr::memmem::find(body, STATE.as_bytes()).is_some();
                gate.pass_as(is_of_state).await;
                let answer = inner.call(request).await;
                gate.pass_as(is_of_state).await;
                answer
            })
        })
    }
}
