//! `dynaferry run`: the service.

use std::sync::Arc;

use clap::Args;

use super::progress::Progress;
use super::server::Server;
use super::session::{Ended, Session};
use crate::context::Context;
use crate::error::Result;
use crate::runtime::Program;
use crate::telemetry::Mode;

/// The service: load if needed, then replicate until stopped.
///
/// On SIGTERM it stops reading, finishes the writes on the wire, saves how far it is and exits 0 within `service.drain`.
/// It may be killed at any time: it goes on where it was.
#[derive(Debug, Clone, Copy, Args)]
#[command(after_help = "Examples:
  dynaferry run
  dynaferry run -c /etc/dynaferry/dynaferry.toml --log-format json
  DYNAFERRY__LINK__ORDERS__APPLY__MAX_WCU=500 dynaferry run      any key, from the environment")]
pub(super) struct RunArgs {}

pub(super) async fn execute(session: &Session, _args: &RunArgs) -> Result<Ended> {
    let config = session.load_config()?;
    let listen = config.service.listen;
    let program = Arc::new(Program::new(config, Context::system(), Mode::Service));
    let server = Server::bind(listen, &program).await?;
    let progress = Progress::of_service(session, program.status_source());
    let work = Box::pin(program.run(session.stop.token()));
    server.during(progress.during(work)).await?;
    Ok(Ended::DONE)
}
