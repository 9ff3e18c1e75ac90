//! The adapters over the real SDK and an HTTP client in memory. Here is what all of them need: a clock, a server, and the
//! shortest way to an account, a table, a write.

mod accounts;
mod connections;
mod descriptions;
mod objects;
mod raw;
mod roles;
mod streams;
mod tables;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::{Response, StatusCode};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;

use super::*;
use crate::apply::TargetTable as _;
use crate::config::{SideConfig, TableRef};
use crate::context::{Context, WallClock};
use crate::decode::KeyCodec;
use crate::error::{Failure, Fault};
use crate::load::{ScanRequest, TableReader as _};
use crate::model::{
    KeyAttribute, KeyKind, KeySchema, RawItem, SequenceNumber, ShardId, StartAt, StreamArn, ViewType, WallTime, Write,
};
use crate::stream::{ShardIterator, StreamSource as _, StreamStatus};

/// A clock that moves when told to.
#[derive(Debug, Default)]
pub(super) struct Manual(AtomicI64);

impl Manual {
    pub(super) const START: i64 = 1_800_000_000_000;

    pub(super) fn context() -> (Arc<Self>, Context) {
        let clock = Arc::new(Self(AtomicI64::new(Self::START)));
        (Arc::clone(&clock), Context::new(Arc::clone(&clock) as Arc<dyn WallClock>, fastrand::Rng::with_seed(7)))
    }

    pub(super) fn millis(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl WallClock for Manual {
    fn now(&self) -> WallTime {
        WallTime::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// A request as it would have gone onto the wire.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) headers: Vec<(String, String)>,
    pub(super) uri: String,
    pub(super) body: Bytes,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    pub(super) fn operation(&self) -> &str {
        self.header("x-amz-target").rsplit('.').next().unwrap()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Body(u16, Bytes),
    /// A part of an object, as its `content-range` says.
    Part(Bytes, &'static str),
    /// A body that ends before its announced length.
    Truncated(Bytes),
    /// The connection breaks after the request was sent.
    Broken,
    Silence,
}

impl Reply {
    pub(super) fn ok(body: impl Into<Bytes>) -> Self {
        Self::Body(200, body.into())
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let body =
            serde_json::json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": message});
        Self::Body(status, body.to_string().into())
    }
}

/// Answers requests from a list, and keeps them.
#[derive(Debug, Clone, Default)]
pub(super) struct Server(Arc<Mutex<(VecDeque<Reply>, Vec<Seen>)>>);

impl Server {
    pub(super) fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self(Arc::new(Mutex::new((replies.into_iter().collect(), Vec::new()))))
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().1.clone()
    }

    pub(super) fn client(&self) -> SharedHttpClient {
        let connector = SharedHttpConnector::new(self.clone());
        http_client_fn(move |_, _| connector.clone())
    }
}

impl HttpConnector for Server {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let seen = Seen {
            headers: request.headers().iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            uri: request.uri().to_owned(),
            body: Bytes::copy_from_slice(request.body().bytes().unwrap()),
        };
        let mut state = self.0.lock().unwrap();
        state.1.push(seen);
        let reply = state.0.pop_front().unwrap_or(Reply::Broken);
        HttpConnectorFuture::new(async move {
            let mut range = None;
            let (status, body, missing) = match reply {
                Reply::Body(status, body) => (status, body, 0),
                Reply::Part(body, of) => {
                    range = Some(of);
                    (206, body, 0)
                }
                Reply::Truncated(body) => (200, body, 1),
                Reply::Broken => return Err(ConnectorError::io("connection reset by peer".into())),
                Reply::Silence => std::future::pending().await,
            };
            let length = body.len() + missing;
            let mut response = Response::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body));
            response.headers_mut().insert("content-length", length.to_string());
            response.headers_mut().insert("x-amzn-requestid", "REQ1");
            if let Some(range) = range {
                response.headers_mut().insert("content-range", range);
                response.headers_mut().insert("etag", "\"tag\"");
            }
            response.headers_mut().insert("date", "Fri, 15 Jan 2027 08:00:03 GMT");
            Ok(response)
        })
    }
}

pub(super) fn side() -> SideConfig {
    SideConfig { region: Some("eu-west-1".into()), ..SideConfig::default() }
}

pub(super) fn clients(server: &Server, context: &Context) -> Clients {
    Clients {
        http: Some(server.client()),
        isolated: Some(AccessKey { id: "111122223333".into(), secret: "secret-of-the-key".into() }),
        ..Clients::new(context.clone(), Duration::from_secs(5))
    }
}

async fn account(server: &Server) -> Account {
    let (_, context) = Manual::context();
    Account::connect(&side(), Side::Source, &clients(server, &context)).await.unwrap()
}

fn schema() -> KeySchema {
    KeySchema { hash: KeyAttribute { name: "pk".into(), kind: KeyKind::S }, range: None }
}

fn orders() -> TableRef {
    TableRef::Name("orders".into())
}

async fn table(server: &Server) -> Table {
    account(server).await.table(&orders(), &schema())
}

fn put(item: &str) -> Write {
    let image = RawItem::new(item.to_owned().into());
    Write { key: KeyCodec::new(&schema()).key_of_item(image.json()).unwrap(), image: Some(image) }
}

fn delete(key: &str) -> Write {
    Write { key: KeyCodec::new(&schema()).key(key.to_owned().into()).unwrap(), image: None }
}
