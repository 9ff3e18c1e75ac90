//! `dynaferry status`: what happens and what needs you.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::client::{self, ClientError};
use super::format::{bytes, load_percent, rate, span};
use super::link::check_names;
use super::output;
use super::session::{Ended, Session};
use crate::config::Config;
use crate::context::Context;
use crate::error::{Error, Exit, Result};
use crate::runtime::Program;
use crate::telemetry::Mode;

/// A service on this host answers at once, or it is stuck.
const ASK_FOR: Duration = Duration::from_secs(5);

/// What happens and what needs you, also while no process runs.
///
/// Asks the running service (`service.listen`); when nobody answers there, reads the state file.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  dynaferry status
  dynaferry status orders -o json
  dynaferry status --address 127.0.0.1:9465       another process, without its config file")]
pub(super) struct StatusArgs {
    /// The links [default: all]
    #[arg(value_name = "LINK")]
    links: Vec<String>,

    /// Where the service listens [default: `service.listen` of the config file]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<SocketAddr>,
}

/// The parts of the status document that the table shows. Fields that a newer process adds are ignored.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StatusView {
    pub(super) links: Vec<LinkView>,
}

/// One link.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct LinkView {
    pub(super) link: String,
    pub(super) phase: String,
    #[cfg(feature = "sandbox")]
    #[serde(default)]
    pub(super) watermark: WatermarkView,
    pub(super) lag_seconds: Option<f64>,
    pub(super) headroom_seconds: Option<f64>,
    #[serde(default)]
    records_per_second: Option<f64>,
    pub(super) load: Option<LoadView>,
    #[cfg(feature = "sandbox")]
    #[serde(default)]
    pub(super) in_doubt: u64,
    #[serde(default)]
    needs: Vec<String>,
}

/// Its watermarks, in RFC 3339. Like the other parts that only the demo reads, not there without it.
#[cfg(feature = "sandbox")]
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct WatermarkView {
    pub(super) applied: Option<String>,
}

/// Its load.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct LoadView {
    #[cfg(feature = "sandbox")]
    pub(super) items: u64,
    bytes: u64,
    expected_bytes: Option<u64>,
    pub(super) segments_done: u64,
    pub(super) segments: u64,
    rate_bytes_per_second: Option<f64>,
}

pub(super) async fn execute(session: &Session, args: &StatusArgs) -> Result<Ended> {
    let mut document = match args.address {
        Some(address) => ask(address).await.map_err(|error| unreachable_service(address, error))?,
        None => {
            let config = session.load_config()?;
            check_names(&config, &args.links)?;
            ask_or_read(config).await?
        }
    };
    keep(&mut document, &args.links);
    if session.is_json() {
        output::json(&document)?;
    } else {
        output::text(&table(&view(document)?.links))?;
    }
    Ok(Ended::DONE)
}

async fn ask_or_read(config: Config) -> Result<Value> {
    let address = config.service.listen;
    match ask(address).await {
        Ok(document) => Ok(document),
        Err(Asked::Client(ClientError::Connect(..))) => {
            tracing::debug!(%address, "nobody answers: reading the state file");
            let program = Arc::new(Program::new(config, Context::system(), Mode::Oneshot));
            let status = program.stored_status().await?;
            serde_json::to_value(status)
                .map_err(|error| Error::new(Exit::Unexpected, "write the status as JSON").because(error))
        }
        Err(error) => Err(unreachable_service(address, error)),
    }
}

/// Why the service did not tell its status.
#[derive(Debug, thiserror::Error)]
pub(super) enum Asked {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error("its answer is not a status document")]
    Document(#[from] serde_json::Error),
}

/// The status document of the service at this address.
pub(super) async fn ask(address: SocketAddr) -> std::result::Result<Value, Asked> {
    let answer = client::get(address, "/api/v1/status", ASK_FOR).await?;
    if answer.status != 200 {
        return Err(Asked::Status(answer.status));
    }
    Ok(serde_json::from_slice(&answer.body)?)
}

fn unreachable_service(address: SocketAddr, error: Asked) -> Error {
    let hint = "is it this address? `service.listen` of the process says where it listens";
    Error::new(Exit::Unexpected, format!("ask the service at {address}")).because(error).hint(hint)
}

/// The document as the table needs it.
pub(super) fn view(document: Value) -> Result<StatusView> {
    let fail = |error| Error::new(Exit::Unexpected, "understand the status document").because(error);
    serde_json::from_value(document).map_err(fail)
}

/// Leaves only these links in the document; all when none are named.
fn keep(document: &mut Value, names: &[String]) {
    let links = document.get_mut("links").and_then(Value::as_array_mut);
    if let (Some(links), false) = (links, names.is_empty()) {
        links.retain(|link| names.iter().any(|name| link.get("link").and_then(Value::as_str) == Some(name)));
    }
}

fn table(links: &[LinkView]) -> String {
    let mut rows = vec![["LINK", "PHASE", "LAG", "HEADROOM", "RATE", "NEEDS"].map(str::to_owned).to_vec()];
    let known = |seconds: Option<f64>| seconds.map_or_else(|| "–".to_owned(), span);
    rows.extend(links.iter().map(|link| {
        let phase = link.phase.replace('_', " ");
        vec![link.link.clone(), phase, known(link.lag_seconds), known(link.headroom_seconds), speed(link), needs(link)]
    }));
    let mut text = output::table(&rows);
    let waiting = links.iter().filter(|link| !link.needs.is_empty());
    for need in waiting.flat_map(|link| link.needs.iter().skip(1).map(move |need| format!("\n{}: {need}", link.link))) {
        text.push_str(&need);
    }
    text
}

fn speed(link: &LinkView) -> String {
    match &link.load {
        Some(load) if link.phase == "initial_load" => {
            let done = match load.expected_bytes {
                Some(expected) => load_percent(load.bytes, expected, load.segments_done >= load.segments),
                None => format!("{}/{} segments", load.segments_done, load.segments),
            };
            let speed = load.rate_bytes_per_second.map(|speed| format!(", {}/s", bytes(super::format::whole(speed))));
            format!("{done}{}", speed.unwrap_or_default())
        }
        _ => link.records_per_second.map_or_else(|| "–".to_owned(), |now| format!("{} records/s", rate(now))),
    }
}

fn needs(link: &LinkView) -> String {
    link.needs.first().cloned().unwrap_or_else(|| "–".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WallTime;
    use crate::telemetry::Phase;
    use crate::telemetry::status::{LinkStatus, LoadStatus, Status};

    fn document() -> Value {
        let mut orders = LinkStatus::new("orders", Phase::Replicating);
        (orders.lag_seconds, orders.headroom_seconds) = (Some(1.1), Some(86_399.0));
        orders.records_per_second = Some(1_234.4);
        let mut events = LinkStatus::new("events", Phase::InitialLoad);
        events.load = Some(LoadStatus {
            bytes: 63,
            expected_bytes: Some(100),
            items: 5,
            segments_done: 1,
            segments: 4,
            rate_bytes_per_second: Some(2048.0),
            eta_seconds: None,
        });
        events.dead_letters = 2;
        events.needs = vec!["credentials are refused".into(), "turn the stream on".into()];
        serde_json::to_value(Status::new(WallTime::from_secs(0), vec![orders, events])).unwrap()
    }

    #[test]
    fn the_table_shows_each_link_and_what_it_needs() {
        let text = table(&view(document()).unwrap().links);
        let expected = "\
LINK    PHASE         LAG   HEADROOM  RATE             NEEDS
orders  replicating   1.1s  23h59m    1,234 records/s  –
events  initial load  –     –         63%, 2.0 KiB/s   credentials are refused
events: turn the stream on";
        assert_eq!(text, expected);
    }

    #[test]
    fn only_the_named_links_are_kept_and_unknown_fields_too() {
        let mut document = document();
        document["later"] = true.into();
        document["links"][1]["later"] = true.into();
        keep(&mut document, &["events".to_owned()]);
        assert_eq!((document["links"].as_array().unwrap().len(), &document["later"]), (1, &Value::Bool(true)));
        assert_eq!(view(document).unwrap().links[0].link, "events");
    }
}
