//! A token service whose sessions end long before they say so, as revoked ones do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use dynaferry::aws::AccessKey;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::wire::Wire;

/// Stands before a server's token service. Gone when it is dropped.
pub(crate) struct ShortSessions {
    pub(crate) url: String,
    issued: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Proxy {
    server: String,
    owner: Wire,
    life_secs: u64,
    issued: Arc<AtomicUsize>,
}

impl ShortSessions {
    /// Sessions that this key gets live so many seconds, and say that they live to the year 2099.
    pub(crate) async fn start(server: &str, key: &AccessKey, life_secs: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let issued = Arc::new(AtomicUsize::new(0));
        let owner = Wire::new(server, &key.id, &key.secret);
        let proxy = Proxy { server: server.to_owned(), owner, life_secs, issued: Arc::clone(&issued) };
        let router = Router::new().fallback(answer).with_state(proxy);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("the proxy") });
        Self { url, issued, task }
    }

    /// Sessions issued so far.
    pub(crate) fn issued(&self) -> usize {
        self.issued.load(Ordering::Relaxed)
    }
}

impl Drop for ShortSessions {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(proxy): State<Proxy>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    let text = String::from_utf8_lossy(&body);
    if !text.contains("Action=AssumeRole&") {
        // As it came, with its signature, which covers the name of the host.
        parts.uri = format!("{}/", proxy.server).parse().expect("a URI");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let passed_on = client.request(Request::from_parts(parts, Body::from(body.clone()))).await;
        return passed_on.expect("an answer").map(Body::new);
    }
    let answer = proxy.owner.raw_form("sts", format!("{text}&DurationSeconds={}", proxy.life_secs)).await;
    let expiry = answer.xml("Expiration").expect("a session").to_owned();
    proxy.issued.fetch_add(1, Ordering::Relaxed);
    ([("content-type", "text/xml")], answer.text.replace(&expiry, "2099-01-01T00:00:00Z")).into_response()
}
