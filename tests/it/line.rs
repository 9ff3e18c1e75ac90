//! A way to AWS that carries little: the requests that are on it at once share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorFuture, SharedHttpClient};
use dynaferry::sandbox::Sandbox;

use crate::connector;

/// How often it is seen who shares the line.
const TICK: Duration = Duration::from_millis(50);

/// A request on the line. One that is given up frees its share.
struct OnLine(Arc<AtomicUsize>);

impl OnLine {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for OnLine {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The sandbox behind a line that carries this many bytes of request bodies per second. What arrived is answered at once.
pub(crate) fn slow_uplink(sandbox: &Sandbox, bytes_per_second: usize) -> SharedHttpClient {
    let count = Arc::new(AtomicUsize::new(0));
    connector::around(sandbox, move |inner, request| {
        let count = Arc::clone(&count);
        HttpConnectorFuture::new(async move {
            let mut left = request.body().bytes().map_or(0, <[u8]>::len) * 1000;
            let on_line = OnLine::new(&count);
            let millis = usize::try_from(TICK.as_millis()).expect("a moment");
            while left > 0 {
                tokio::time::sleep(TICK).await;
                left = left.saturating_sub(bytes_per_second * millis / count.load(Ordering::Relaxed).max(1));
            }
            drop(on_line);
            inner.call(request).await
        })
    })
}
