//! What one process sends, seen and held back at its border.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorFuture, SharedHttpClient};
use dynaferry::sandbox::Sandbox;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connector;

/// The border of one process.
#[derive(Debug, Default)]
pub(crate) struct Border {
    /// Nothing passes, either way.
    frozen: AtomicBool,
    /// Nothing about this table passes.
    closed_to: Mutex<Option<String>>,
    changed: Notify,
    sent: Mutex<Vec<(Instant, String, Vec<u8>)>>,
}

impl Border {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub(crate) fn close_to(&self, table: Option<&str>) {
        *self.closed_to.lock().unwrap_or_else(PoisonError::into_inner) = table.map(str::to_owned);
        self.changed.notify_waiters();
    }

    /// When requests of this operation passed, in order.
    pub(crate) fn sent(&self, operation: &str) -> Vec<Instant> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.iter().filter(|(_, name, _)| name == operation).map(|(at, ..)| *at).collect()
    }

    /// What requests of this operation said that passed since then.
    pub(crate) fn bodies(&self, operation: &str, since: Instant) -> Vec<Vec<u8>> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let of = sent.iter().filter(|(at, name, _)| name == operation && *at >= since);
        of.map(|(.., body)| body.clone()).collect()
    }

    async fn pass(&self, body: &[u8]) {
        loop {
            let changed = self.changed.notified();
            let closed_to = self.closed_to.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let is_about = |table: String| String::from_utf8_lossy(body).contains(&format!("\"{table}\""));
            if !self.frozen.load(Ordering::Relaxed) && !closed_to.is_some_and(is_about) {
                return;
            }
            changed.await;
        }
    }

    /// The sandbox as this process reaches it.
    pub(crate) fn http_client(self: &Arc<Self>, sandbox: &Sandbox) -> SharedHttpClient {
        let border = Arc::clone(self);
        connector::around(sandbox, move |inner, request| {
            let border = Arc::clone(&border);
            HttpConnectorFuture::new(async move {
                let body = request.body().bytes().unwrap_or_default().to_vec();
                border.pass(&body).await;
                let target = request.headers().get("x-amz-target").unwrap_or_default();
                let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
                border.sent.lock().unwrap_or_else(PoisonError::into_inner).push((
                    Instant::now(),
                    operation,
                    body.clone(),
                ));
                let answer = inner.call(request).await;
                border.pass(&body).await;
                answer
            })
        })
    }
}
