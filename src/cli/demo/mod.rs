//! `dynaferry demo`: the whole job on this machine.
//!
//! An embedded AWS, somebody who writes, and this very binary as the replicator in a process of its own, so that it can be
//! killed for real. [`story`] is what happens when, [`replicator`] the process.

mod replicator;
mod story;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;

use self::replicator::{Replicator, Setup};
use self::story::{Plan, Story};
use super::example::Example;
use super::format::parse_duration;
use super::session::{Ended, Session};
use crate::config::{DEFAULT_LISTEN, LogFormat, LogLevel, TelemetryConfig};
use crate::error::{Error, Exit, Result};
use crate::sandbox::Options;

/// The whole job against an embedded AWS: load, live changes, faults, a crash, verification; needs no account.
///
/// Makes a table in one account, copies it into another while somebody writes to it, kills the replicator twice, breaks
/// requests, and compares both tables in the end. Nothing leaves this machine. Ctrl-C ends the writes early.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  dynaferry demo
  dynaferry demo --items 200000 --rate 1000 --duration 2m
  dynaferry demo --forever                 until Ctrl-C; look at http://127.0.0.1:9464/ meanwhile")]
pub(super) struct DemoArgs {
    /// Items that the table begins with
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    items: u64,

    /// Changes a second: new items, new images, deletes
    #[arg(long, value_name = "N", default_value_t = 300)]
    rate: u32,

    /// How long somebody writes
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    duration: Duration,

    /// Write until Ctrl-C
    #[arg(long, conflicts_with = "duration")]
    forever: bool,

    /// Where the replicator serves its metrics [default: 127.0.0.1:9464, or a free port]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,

    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    seed: u64,
}

pub(super) async fn execute(session: &Session, args: &DemoArgs) -> Result<Ended> {
    session.start_logging(&TelemetryConfig { log_format: LogFormat::Text, log_level: LogLevel::Warn })?;
    let listener = bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).await?;
    let endpoint = local_address(&listener)?;
    let mut example = Example::new(options(args.seed))?;
    example.fill(args.items)?;
    let setup =
        Setup { endpoint, listen: choose_listen(args.listen).await?, max_wcu: write_limit(args), example: &example };
    let replicator = Replicator::prepare(&setup)?;
    let sandbox = example.sandbox.clone();
    let plan = Plan { items: args.items, rate: args.rate, duration: args.duration, forever: args.forever };
    let story = Story::new(session, plan, example, replicator, endpoint);
    tokio::select! {
        () = sandbox.serve(listener, std::future::pending()) => Err(Error::new(Exit::Unexpected, "the embedded AWS ended")),
        ended = Box::pin(story.tell()) => ended,
    }
}

/// Shards that live for seconds, and children that are listed late: what the service does in hours.
fn options(seed: u64) -> Options {
    Options {
        seed,
        shard_life: Duration::from_secs(12),
        split_chance: 0.25,
        max_open_shards: 6,
        initial_shards: 2..=3,
        children_delay: Duration::from_millis(300),
        children_stagger: Duration::from_millis(500),
        empty_page_chance: 0.1,
        ..Options::default()
    }
}

/// Slow enough that the load takes some seconds and can be watched, with room for the changes. Items are 1 to 2 units.
fn write_limit(args: &DemoArgs) -> u64 {
    (args.items / 6).max(500) + u64::from(args.rate) * 4
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    let fail = |error| Error::new(Exit::Precondition, format!("listen on {address}")).because(error);
    TcpListener::bind(address).await.map_err(fail)
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| Error::new(Exit::Unexpected, "find a free port").because(error))
}

/// A port for the replicator: the wanted one, else the usual one, else a free one. It is free again until it is bound.
async fn choose_listen(wanted: Option<SocketAddr>) -> Result<SocketAddr> {
    let address = match wanted {
        Some(address) => {
            local_address(&bind(address).await.map_err(|error| error.hint("give another address with --listen"))?)?
        }
        None => match bind(DEFAULT_LISTEN).await {
            Ok(_) => DEFAULT_LISTEN,
            Err(_) => local_address(&bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).await?)?,
        },
    };
    Ok(address)
}
