//! What one call through the real adapters and the real SDK costs where no network is: what the simulation pays for each.
//!
//! `whole` is answered by the sandbox in this process; `without service` by a fixed answer, so it is the SDK and the
//! adapter; `service` is the sandbox alone, given the same signed request.
//!
//! ```text
//! cargo bench --bench calls -- [--quick]
//! ```

#[expect(dead_code, reason = "the other bench uses the rest")]
#[path = "pipeline/process.rs"]
mod process;

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use dynaferry::apply::TargetTable as _;
use dynaferry::aws::{AccessKey, Account, Clients, Side};
use dynaferry::config::{SideConfig, TableRef};
use dynaferry::context::Context;
use dynaferry::model::{KeySchema, RawItem, ShardId, StartAt, Write};
use dynaferry::sandbox::{Options, Sandbox};
use dynaferry::stream::{ShardIterator, StreamSource as _};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ACCOUNT: &str = "111111111111";
const REGION: &str = "eu-west-1";
const BATCH: usize = 25;

/// Answers every request alike, and keeps the last one.
#[derive(Debug, Clone)]
struct Fixed {
    answer: &'static str,
    last: Arc<Mutex<Option<http::Request<Bytes>>>>,
}

impl Fixed {
    fn client(self) -> SharedHttpClient {
        http_client_fn(move |_, _| SharedHttpConnector::new(self.clone()))
    }
}

impl HttpConnector for Fixed {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = request.try_into_http1x().expect("the SDK makes valid requests");
        let request = request.map(|body| Bytes::copy_from_slice(body.bytes().unwrap_or_default()));
        *self.last.lock().expect("no panic") = Some(request);
        let reply = http::Response::new(SdkBody::from(self.answer));
        HttpConnectorFuture::ready(Ok(reply.try_into().expect("a valid answer")))
    }
}

struct Bench {
    sandbox: Sandbox,
    calls: u32,
    keys: KeySchema,
    iterator: ShardIterator,
    writes: Vec<Write>,
}

impl Bench {
    async fn new(calls: u32) -> Result<Self> {
        let sandbox = Sandbox::new(Options { initial_shards: 1..=1, ..Options::default() });
        for (table, more) in [
            ("orders", r#","StreamSpecification":{"StreamEnabled":true,"StreamViewType":"NEW_AND_OLD_IMAGES"}"#),
            ("copy", ""),
        ] {
            let request = format!(
                r#"{{"TableName":"{table}","BillingMode":"PAY_PER_REQUEST","AttributeDefinitions":[{{"AttributeName":"pk","AttributeType":"S"}}],"KeySchema":[{{"AttributeName":"pk","KeyType":"HASH"}}]{more}}}"#
            );
            sandbox.call(ACCOUNT, REGION, "CreateTable", &request).map_err(|error| format!("{error:?}"))?;
        }
        let account = account(sandbox.http_client()).await?;
        let described = account.describe(&table("orders")).await?;
        let stream = described.stream.ok_or("no stream")?.arn;
        let target = account.table(&table("copy"), &described.keys);
        let writes = (0..BATCH).map(|n| {
            let image = format!(r#"{{"pk":{{"S":"key-{n}"}},"text":{{"S":"{}"}}}}"#, "x".repeat(600));
            let key = target.keys().key_of_item(image.as_bytes())?;
            Ok(Write { key, image: Some(RawItem::new(image.into())) })
        });
        let writes = writes.collect::<Result<_>>()?;
        let streams = account.streams();
        let shards = streams.describe(&stream, None).await?.shards;
        let shard: &ShardId = &shards.first().ok_or("no shard")?.id;
        let iterator = streams.iterator(&stream, shard, StartAt::TrimHorizon).await?;
        Ok(Self { sandbox, calls, keys: described.keys, iterator, writes })
    }

    async fn reads(&self, http: SharedHttpClient) -> Result<f64> {
        let streams = account(http).await?.streams();
        self.timed(async || {
            streams.records(&self.iterator, 1000).await?;
            Ok(())
        })
        .await
    }

    async fn writes(&self, http: SharedHttpClient) -> Result<f64> {
        let table = account(http).await?.table(&table("copy"), &self.keys);
        self.timed(async || {
            table.write(&self.writes).await?;
            Ok(())
        })
        .await
    }

    async fn service(&self, request: &http::Request<Bytes>) -> Result<f64> {
        self.timed(async || {
            drop(self.sandbox.handle(request));
            Ok(())
        })
        .await
    }

    /// Microseconds of CPU for each call.
    async fn timed(&self, call: impl AsyncFn() -> Result<()>) -> Result<f64> {
        call().await?;
        let before = process::cpu_time()?;
        for _ in 0..self.calls {
            call().await?;
        }
        Ok((process::cpu_time()? - before).as_secs_f64() * 1e6 / f64::from(self.calls))
    }
}

fn table(name: &str) -> TableRef {
    TableRef::Name(name.to_owned())
}

async fn account(http: SharedHttpClient) -> Result<Account> {
    let config = SideConfig { region: Some(REGION.to_owned()), ..SideConfig::default() };
    let key = AccessKey { id: ACCOUNT.to_owned(), secret: "secret".to_owned() };
    let clients =
        Clients { http: Some(http), isolated: Some(key), ..Clients::new(Context::system(), Duration::from_secs(10)) };
    Account::connect(&config, Side::Source, &clients).await.map_err(|error| format!("{error:?}").into())
}

fn main() -> Result<()> {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let calls = if is_quick { 20 } else { 20_000 };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let bench = Bench::new(calls).await?;
        let mut results = Vec::new();
        for (operation, answer) in [
            ("GetRecords", r#"{"Records":[],"NextShardIterator":"next"}"#),
            ("BatchWriteItem", r#"{"UnprocessedItems":{}}"#),
        ] {
            let fixed = Fixed { answer, last: Arc::default() };
            let is_read = operation == "GetRecords";
            let measure = async |http| if is_read { bench.reads(http).await } else { bench.writes(http).await };
            let whole = measure(bench.sandbox.http_client()).await?;
            let without = measure(fixed.clone().client()).await?;
            let request = fixed.last.lock().expect("no panic").take().ok_or("no request")?;
            let service = bench.service(&request).await?;
            results.push(json!({"operation": operation, "whole_us": whole, "without_service_us": without, "service_us": service}));
        }
        println!("{}", json!({"bench": "calls", "quick": is_quick, "calls": calls, "load_average": process::load_average(), "results": results}));
        Ok(())
    })
}
