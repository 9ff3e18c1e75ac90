//! The sandbox's HTTP client with something of a test's own around every request.

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use dynaferry::sandbox::Sandbox;

/// A client of this sandbox whose requests all go through `call`, which may hold them or their answers back.
pub(crate) fn around<F>(sandbox: &Sandbox, call: F) -> SharedHttpClient
where
    F: Fn(SharedHttpConnector, HttpRequest) -> HttpConnectorFuture + Clone + Send + Sync + 'static,
{
    let client = sandbox.http_client();
    http_client_fn(move |settings, components| {
        let inner = client.http_connector(settings, components);
        SharedHttpConnector::new(Around { inner, call: call.clone() })
    })
}

struct Around<F> {
    inner: SharedHttpConnector,
    call: F,
}

impl<F> std::fmt::Debug for Around<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Around").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<F> HttpConnector for Around<F>
where
    F: Fn(SharedHttpConnector, HttpRequest) -> HttpConnectorFuture + Send + Sync,
{
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        (self.call)(self.inner.clone(), request)
    }
}
