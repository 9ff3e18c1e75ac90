//! An HTTP client that sends nothing: every request is taken for carried out, and its body is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;

/// Takes all that is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Sink {
    bytes: Arc<AtomicUsize>,
}

impl Sink {
    /// The client.
    pub(super) fn client(&self) -> SharedHttpClient {
        let sink = self.clone();
        http_client_fn(move |_, _| SharedHttpConnector::new(sink.clone()))
    }

    /// Bytes of all bodies.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl HttpConnector for Sink {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.bytes.fetch_add(request.body().bytes().map_or(0, <[u8]>::len), Ordering::Relaxed);
        let answer = http::Response::new(SdkBody::from(r#"{"UnprocessedItems":{}}"#));
        HttpConnectorFuture::ready(Ok(answer.try_into().expect("a valid answer")))
    }
}
