//! The sandbox as the SDK's HTTP client: no sockets, no threads, `tokio::time` as the only timer.

use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::Bytes;

use super::{Outcome, Sandbox};

impl Sandbox {
    /// An HTTP client for SDK clients that is answered by this sandbox, whatever the endpoint.
    ///
    /// A lost answer and a refused connection are I/O errors; a held answer keeps to the client's read timeout. Dropping a
    /// call half-way leaves it done or not done, as on a network.
    #[must_use]
    pub fn http_client(&self) -> SharedHttpClient {
        let sandbox = self.clone();
        http_client_fn(move |settings, _components| {
            SharedHttpConnector::new(Connector { sandbox: sandbox.clone(), read_timeout: settings.read_timeout() })
        })
    }
}

#[derive(Debug)]
struct Connector {
    sandbox: Sandbox,
    read_timeout: Option<Duration>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let sandbox = self.sandbox.clone();
        let read_timeout = self.read_timeout;
        HttpConnectorFuture::new(async move {
            let exchange = exchange(sandbox, request);
            match read_timeout {
                None => exchange.await,
                Some(limit) => tokio::time::timeout(limit, exchange)
                    .await
                    .unwrap_or_else(|elapsed| Err(ConnectorError::timeout(elapsed.into()))),
            }
        })
    }
}

async fn exchange(sandbox: Sandbox, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
    let (parts, body) = request.into_parts();
    let body = match body.bytes() {
        Some(bytes) => Bytes::copy_from_slice(bytes),
        None => ByteStream::new(body).collect().await.map_err(|error| ConnectorError::io(error.into()))?.into_bytes(),
    };
    let mut outcome = sandbox.handle(&http::Request::from_parts(parts, body));
    loop {
        match outcome {
            Outcome::Reply(response) => {
                return HttpResponse::try_from(response.map(SdkBody::from))
                    .map_err(|error| ConnectorError::other(error.into(), None));
            }
            Outcome::LoseAnswer => return Err(reset("connection closed before the answer")),
            Outcome::Refuse => return Err(reset("connection reset")),
            Outcome::Hold(time, then) => {
                tokio::time::sleep(time).await;
                outcome = *then;
            }
        }
    }
}

fn reset(what: &'static str) -> ConnectorError {
    ConnectorError::io(std::io::Error::new(std::io::ErrorKind::ConnectionReset, what).into())
}
