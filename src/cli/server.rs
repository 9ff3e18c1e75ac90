//! Metrics, health and status over HTTP, beside a command.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Exit, Result};
use crate::http::{self, HttpState};
use crate::runtime::Program;

/// A server that is bound, and answers once it is run.
#[derive(Debug)]
pub(super) struct Server {
    listener: TcpListener,
    state: HttpState,
}

impl Server {
    pub(super) async fn bind(address: SocketAddr, program: &Arc<Program>) -> Result<Self> {
        let fail = |error: std::io::Error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => "another process listens there; choose another `service.listen`",
                _ => "check `service.listen`",
            };
            Error::new(Exit::Precondition, format!("listen on {address}")).because(error).hint(hint)
        };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let state = HttpState::new(program.metrics(), program.heartbeats(), program.status_source());
        tracing::info!(%address, "serving metrics, health and status: http://{address}/");
        Ok(Self { listener, state })
    }

    /// Runs some work and answers meanwhile, to the end of the work.
    pub(super) async fn during<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let stop = CancellationToken::new();
        let serve = http::serve(self.listener, self.state, stop.clone());
        tokio::pin!(serve, work);
        tokio::select! {
            // Connections that are open when the work ends are closed: nothing is lost by that.
            done = &mut work => done,
            ended = &mut serve => {
                let error = ended.err().unwrap_or_else(|| std::io::Error::other("it stopped by itself"));
                tracing::error!(%error, "metrics and health are no longer served");
                work.await
            }
        }
    }
}
