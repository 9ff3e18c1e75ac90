//! `dynaferry healthcheck`: what an orchestrator without an HTTP client asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::client;
use super::format::parse_duration;
use super::session::{Ended, Session};
use crate::config;
use crate::context::Context;
use crate::error::{Error, Exit, Result};
use crate::runtime::Program;
use crate::telemetry::Mode;

/// Exit 0 when the running service is alive, 1 when not; for containers.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  dynaferry healthcheck                    HEALTHCHECK CMD [\"/dynaferry\", \"healthcheck\"]
  dynaferry healthcheck --ready            started, credentials, stream, no gap; never follows lag
  dynaferry healthcheck --workers          on any machine: does a live worker have each link?")]
pub(super) struct HealthcheckArgs {
    /// Ask whether it is ready, not whether it is alive
    #[arg(long)]
    ready: bool,

    /// Ask the state table whether a live worker has each link, instead of a service on this machine
    #[arg(long, conflicts_with_all = ["ready", "address"])]
    workers: bool,

    /// Where the service listens [default: `service.listen` of the config file]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<SocketAddr>,

    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    timeout: Duration,
}

/// Never another code than 0 and 1: container engines reserve the rest.
pub(super) async fn execute(session: &Session, args: &HealthcheckArgs) -> Ended {
    match check(session, args).await {
        Ok(answer) => {
            // The exit code is the answer; the text is for the engine's log.
            let _closed =
                session.print(&answer, &serde_json::json!({"schema": "dynaferry.healthcheck/v1", "ok": true})).is_err();
            Ended::DONE
        }
        Err(error) => {
            session.print_error(&error);
            Ended::Exit(Exit::Unexpected)
        }
    }
}

async fn check(session: &Session, args: &HealthcheckArgs) -> Result<String> {
    if args.workers {
        return match tokio::time::timeout(args.timeout, Box::pin(check_workers(session))).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(Exit::Unexpected, "ask the state table: no answer in time")),
        };
    }
    let address = match args.address {
        Some(address) => address,
        None => config::load(session.options.config.as_deref(), session.environment.iter().cloned())?.service.listen,
    };
    let (path, what) = if args.ready { ("/readyz", "ready") } else { ("/livez", "alive") };
    let ask = client::get(address, path, args.timeout).await;
    let answer = ask.map_err(|error| Error::new(Exit::Unexpected, format!("not {what}")).because(error))?;
    if answer.status == 200 {
        return Ok(what.to_owned());
    }
    let body = String::from_utf8_lossy(&answer.body).trim().to_owned();
    let why = if body.is_empty() { format!("it answers with status {}", answer.status) } else { body };
    Err(Error::new(Exit::Unexpected, format!("not {what}: {why}")))
}

async fn check_workers(session: &Session) -> Result<String> {
    let config = config::load(session.options.config.as_deref(), session.environment.iter().cloned())?;
    let program = Arc::new(Program::new(config, Context::system(), Mode::Oneshot));
    let unheld = program.unheld_links().await?;
    if unheld.is_empty() {
        return Ok("each link has a live worker".to_owned());
    }
    let why: Vec<String> = unheld.into_iter().map(|(link, why)| format!("{link}: {why}")).collect();
    Err(Error::new(Exit::Unexpected, why.join("; ")))
}
