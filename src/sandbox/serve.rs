//! The sandbox over TCP: HTTP/1.1, every service on one port.
//!
//! A lost answer closes the connection after the request was done; a refusal closes it before. Clients see a connection that
//! was closed before the message completed.

use axum::body::Body;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Outcome, Sandbox};

/// Bytes of a request at most: a 16 MB batch, as JSON and with base64, and room to spare.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;

impl Sandbox {
    /// Answers requests on this listener until `stop` is ready; then open connections are dropped.
    ///
    /// Dropping the future stops it too.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((socket, _peer)) => {
                        connections.spawn(answer_connection(self.clone(), socket));
                    }
                    // Out of file descriptors, for instance: give the others time to end.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                },
            }
        }
    }
}

async fn answer_connection(sandbox: Sandbox, socket: TcpStream) {
    // Small answers must not wait for the client's acknowledgement; if it cannot be set, they are only slower.
    let _slower = socket.set_nodelay(true).is_err();
    let service = service_fn(move |request| answer(sandbox.clone(), request));
    // An error is a connection that ended early, on purpose or not: the client knows best.
    // No timeout: closing idle connections of a client's pool would look like a fault that nobody asked for.
    let _ended = http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(socket), service).await;
}

/// Why a connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("dropped by the fault plan")]
    OnPurpose,
    #[error("read request")]
    Unreadable(#[source] axum::Error),
}

async fn answer(sandbox: Sandbox, request: http::Request<Incoming>) -> Result<http::Response<Body>, Closed> {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(Body::new(body), MAX_REQUEST_BYTES).await.map_err(Closed::Unreadable)?;
    let mut outcome = sandbox.handle(&http::Request::from_parts(parts, body));
    loop {
        match outcome {
            Outcome::Reply(response) => return Ok(response.map(Body::from)),
            Outcome::LoseAnswer | Outcome::Refuse => return Err(Closed::OnPurpose),
            Outcome::Hold(time, then) => {
                tokio::time::sleep(time).await;
                outcome = *then;
            }
        }
    }
}
