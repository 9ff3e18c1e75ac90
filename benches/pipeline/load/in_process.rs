//! The stub as an HTTP client: requests are answered where they would be sent.

use std::fmt;
use std::sync::Arc;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;

use crate::Result;
use crate::exchange::Question;
use crate::stub::Stub;

#[derive(Clone)]
struct InProcess(Arc<Stub>);

/// A client whose every request goes to this stub.
pub(super) fn client(stub: Arc<Stub>) -> SharedHttpClient {
    let connector = InProcess(stub);
    http_client_fn(move |_, _| SharedHttpConnector::new(connector.clone()))
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InProcess")
    }
}

impl InProcess {
    fn answer(&self, request: &HttpRequest) -> Result<HttpResponse> {
        let url: http::Uri = request.uri().parse()?;
        let header = |name| request.headers().get(name);
        let body = request.body().bytes().unwrap_or_default();
        let asked = Question { target: header("x-amz-target"), path: url.path(), range: header("range"), body };
        let (status, headers, body) = self.0.answer_to(&asked)?.into_parts();
        let mut answer = http::Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(name, value);
        }
        Ok(answer.body(SdkBody::from(body.concat()))?.try_into()?)
    }
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::ready(self.answer(&request).map_err(|error| ConnectorError::other(error, None)))
    }
}
