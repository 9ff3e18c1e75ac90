//! What an orchestrator and an operator are promised, over a real connection.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::model::WallTime;
use crate::telemetry::status::{LinkStatus, Status};
use crate::telemetry::{LinkIdentity, Metrics, Mode, Phase};

#[derive(Default)]
struct Fake {
    links: Mutex<Vec<(LinkStatus, Vec<NotReady>)>>,
}

impl Fake {
    fn set(&self, phase: Phase, lag_seconds: Option<f64>, reasons: &[NotReady]) {
        let link = LinkStatus { lag_seconds, lag_known: lag_seconds.is_some(), ..LinkStatus::new("orders", phase) };
        *self.links.lock().unwrap() = vec![(link, reasons.to_vec())];
    }
}

impl StatusSource for Fake {
    fn status(&self) -> Status {
        let links = self.links.lock().unwrap().iter().map(|(link, _)| link.clone()).collect();
        Status::new(WallTime::from_secs(1_763_000_000), links)
    }

    fn readiness(&self) -> Vec<LinkReadiness> {
        let links = self.links.lock().unwrap();
        links
            .iter()
            .map(|(link, reasons)| LinkReadiness {
                link: link.link.clone(),
                reasons: reasons.clone(),
                standby: link.phase == Phase::Standby,
            })
            .collect()
    }
}

struct Server {
    address: std::net::SocketAddr,
    source: Arc<Fake>,
    heartbeats: Heartbeats,
    metrics: Metrics,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "a test joins its own task")]
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (source, heartbeats, metrics) = (Arc::new(Fake::default()), Heartbeats::new(), Metrics::new());
        let state = HttpState::new(metrics.clone(), heartbeats.clone(), Arc::clone(&source) as Arc<dyn StatusSource>);
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, state, stop.clone()));
        Self { address, source, heartbeats, metrics, stop, task }
    }

    /// Status code, headers, body.
    async fn request(&self, method: &str, path: &str) -> (u16, String, String) {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    async fn json(&self, path: &str) -> (u16, Value) {
        let (code, _, body) = self.request("GET", path).await;
        (code, serde_json::from_str(&body).unwrap())
    }
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let server = Server::start().await;
    for path in ["/", "/metrics", "/livez", "/readyz", "/startupz", "/api/v1/status"] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let (code, head, _) = server.request(method, path).await;
            assert_eq!(code, 405, "{method} {path}");
            assert!(head.contains("allow: get,head"), "{head}");
        }
        let (_, head, _) = server.request("GET", path).await;
        assert!(head.contains("cache-control: no-store"), "{path}: {head}");
    }
    assert_eq!(server.request("GET", "/nothing").await.0, 404);
}

#[tokio::test]
async fn the_front_page_names_every_endpoint() {
    let server = Server::start().await;
    let (code, head, page) = server.request("GET", "/").await;
    assert!(code == 200 && head.contains("content-type: text/html"));
    for path in ["/metrics", "/livez", "/readyz", "/startupz", "/api/v1/status"] {
        assert!(page.contains(&format!("href=\"{path}\"")), "{path}");
    }
}

#[tokio::test]
async fn metrics_are_served_in_the_text_format() {
    let server = Server::start().await;
    let identity = LinkIdentity { link: "orders".to_owned(), ..LinkIdentity::default() };
    server.metrics.link(&identity, Mode::Service).dead_lettered(7);
    let (code, head, text) = server.request("GET", "/metrics").await;
    assert!(code == 200 && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(text.contains("dynaferry_dead_letter_records_total{link=\"orders\"} 7\n"));
}

#[tokio::test]
async fn ready_names_every_reason_and_never_follows_lag() {
    let server = Server::start().await;
    assert_eq!(server.json("/readyz").await, (503, json!({"ready": false, "links": []})));

    let reasons =
        [NotReady::NotStarted, NotReady::Credentials, NotReady::StreamNotOpened, NotReady::GapOpen, NotReady::Failed];
    server.source.set(Phase::Starting, None, &reasons);
    let names = json!(["not_started", "credentials", "stream_not_opened", "gap_open", "failed"]);
    let expected = json!({"ready": false, "links": [{"link": "orders", "reasons": names}]});
    assert_eq!(server.json("/readyz").await, (503, expected));

    for lag in [None, Some(0.5), Some(86_000.0)] {
        server.source.set(Phase::CatchingUp, lag, &[]);
        let expected = json!({"ready": true, "links": [{"link": "orders", "reasons": []}]});
        assert_eq!(server.json("/readyz").await, (200, expected));
    }
}

#[tokio::test]
async fn startup_waits_for_the_lag_once_and_never_flips_back() {
    let server = Server::start().await;
    assert_eq!(server.json("/startupz").await.0, 503, "without links nothing has started");
    server.source.set(Phase::InitialLoad, None, &[]);
    assert_eq!(server.json("/startupz").await.0, 200);
    let waiting = json!({"link": "orders", "phase": "initial_load", "lag_seconds": null});
    assert_eq!(server.json("/startupz?max_lag=5s").await, (503, json!({"started": false, "waiting": [waiting]})));
    server.source.set(Phase::CatchingUp, Some(5.1), &[]);
    assert_eq!(server.json("/startupz?max_lag=5s").await.0, 503);
    server.source.set(Phase::Replicating, Some(5.0), &[]);
    assert_eq!(server.json("/startupz?max_lag=5s").await, (200, json!({"started": true, "waiting": []})));
    server.source.set(Phase::CatchingUp, Some(9000.0), &[]);
    assert_eq!(server.json("/startupz?max_lag=5s").await.0, 200);
    assert_eq!(server.json("/startupz?max_lag=1m").await.0, 503, "another limit is another question");
    for bad in ["5", "s", "-5s", "5d", "99999999999999999999s", ""] {
        assert_eq!(server.request("GET", &format!("/startupz?max_lag={bad}")).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_link_that_could_not_be_opened_has_started_without_being_ready() {
    let server = Server::start().await;
    server.source.set(Phase::Starting, None, &[NotReady::NotStarted]);
    assert_eq!(server.json("/startupz").await.0, 503, "its first opening has not ended");
    server.source.set(Phase::Failed, None, &[NotReady::Failed]);
    assert_eq!((server.json("/startupz").await.0, server.json("/readyz").await.0), (200, 503));
    assert_eq!(server.json("/startupz?max_lag=5s").await.0, 503);
}

#[tokio::test]
async fn status_is_the_versioned_document() {
    let server = Server::start().await;
    server.source.set(Phase::Replicating, Some(1.25), &[]);
    let (code, status) = server.json("/api/v1/status").await;
    assert_eq!((code, &status["schema"]), (200, &json!("dynaferry.status/v1")));
    assert_eq!(status["links"][0]["lag_seconds"], json!(1.25));
}

#[tokio::test]
async fn stops_when_told_to() {
    let server = Server::start().await;
    server.stop.cancel();
    server.task.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn live_while_every_loop_turns() {
    let server = Server::start().await;
    let _reader = server.heartbeats.register("orders/reader");
    assert_eq!(server.json("/livez").await, (200, json!({"alive": true, "stuck": []})));
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_does_not_turn_for_a_minute_is_named() {
    let heartbeats = Heartbeats::new();
    let (reader, writer) = (heartbeats.register("orders/reader"), heartbeats.register("orders/writer"));
    for _ in 0..6 {
        tokio::time::advance(Duration::from_secs(10)).await;
        reader.tick();
    }
    assert_eq!(heartbeats.stale(), []);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(heartbeats.stale(), [(Arc::from("orders/writer"), Duration::from_secs(61))]);
    let body = serde_json::to_value(health::Liveness::of(heartbeats.stale())).unwrap();
    assert_eq!(body, json!({"alive": false, "stuck": [{"name": "orders/writer", "silent_seconds": 61}]}));
    writer.tick();
    assert_eq!(heartbeats.stale(), []);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_ended_is_not_stuck() {
    let heartbeats = Heartbeats::new();
    let first = heartbeats.register("orders/reader");
    let second = heartbeats.register("orders/reader");
    drop(first);
    tokio::time::advance(Duration::from_secs(120)).await;
    second.tick();
    assert_eq!(heartbeats.stale(), []);
    drop(second);
    tokio::time::advance(Duration::from_secs(120)).await;
    assert_eq!(heartbeats.stale(), []);
}
