//! Exports in buckets of servers that others wrote. They make none themselves (moto writes data files without manifests,
//! ministack nothing), so one is made here, of what a scan says, and put there.

use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use dynaferry::context::Context;
use dynaferry::telemetry::Mode;
use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest as _, Md5};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::pair::{Pair, ours};
use crate::servers;
use crate::wire::{REGION, Wire};
use crate::workload::{Keys, fill};
use crate::world::SOURCE;

pub(crate) const BUCKET: &str = "exports-of-ours";
pub(crate) const PREFIX: &str = "team/a b";

/// From the making of a table until an export of it may be loaded. These servers' streams are as old as the test, and a
/// stream must be five minutes older than an export's time: so that time is set, a little less than that, to come.
const STREAM_IS_OLD: Duration = Duration::from_secs(12);

/// Exports a table of the source into a bucket of its account; answers its place.
pub(crate) async fn put_export(pair: &Pair, keys: Keys) -> String {
    put_export_by(pair, keys, &pair.source, &[&[]]).await
}

/// The same, into a bucket of another account, with these files besides.
async fn put_export_by(pair: &Pair, keys: Keys, owner: &Wire, more: &[&[Value]]) -> String {
    tokio::time::sleep(STREAM_IS_OLD).await;
    let page = pair.source.call("Scan", json!({"TableName": keys.table()})).await;
    assert!(page.get("LastEvaluatedKey").is_none_or(|key| key.is_null()), "one page");
    let items = page["Items"].as_array().expect("items");
    let folder = "AWSDynamoDB/01796000000000-0a1b2c3d";
    let region = format!(
        "<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
    );
    owner.put_object(BUCKET, "", region.into()).await;
    // The space of the prefix, as a path has it.
    let at = |name: &str| format!("{}/{folder}/{name}", PREFIX.replace(' ', "%20"));
    let mut list = String::new();
    for (n, part) in items.chunks(items.len() / 3 + 1).chain(more.iter().copied()).enumerate() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        for item in part {
            writeln!(encoder, "{}", json!({"Item": item})).expect("written");
        }
        let object = encoder.finish().expect("written");
        let line = json!({
            "itemCount": part.len(), "md5Checksum": BASE64.encode(Md5::digest(&object)),
            "dataFileS3Key": format!("{folder}/data/{n}.json.gz"),
        });
        list.push_str(&format!("{line}\n"));
        owner.put_object(BUCKET, &at(&format!("data/{n}.json.gz")), object).await;
    }
    let time = Context::system().now().plus(Duration::from_secs(300) - STREAM_IS_OLD / 2);
    let summary = json!({
        "tableArn": format!("arn:aws:dynamodb:{REGION}:{SOURCE}:table/{}", keys.table()),
        "exportTime": time.to_string(), "itemCount": items.len(), "outputFormat": "DYNAMODB_JSON",
        "manifestFilesS3Key": format!("{PREFIX}/{folder}/manifest-files.json"),
    });
    owner.put_object(BUCKET, &at("manifest-files.json"), list.into()).await;
    owner.put_object(BUCKET, &at("manifest-summary.json"), summary.to_string().into()).await;
    format!("s3://{BUCKET}/{PREFIX}/{folder}/")
}

/// What the link's section says for it.
pub(crate) fn from_export(pair: &Pair, place: &str) -> String {
    let url = &pair.server.url;
    format!("load.from_export = \"{place}\"\nsource.s3_endpoint_url = \"{url}\"\ntarget.s3_endpoint_url = \"{url}\"\n")
}

/// moto imports from buckets of the importing account alone, knows no tokens and lists no imports; it takes an empty file and
/// escaped quotes for errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_imported_by_moto() {
    let pair = Pair::by_roles(servers::moto()).await;
    let keys = Keys::Text;
    pair.create(keys).await;
    for n in 0..100 {
        let key = keys.key(n);
        let item =
            json!({"id": key["id"], "sort": key["sort"], "v": {"S": "x".repeat(n)}, "l": {"L": [{"NULL": true}]}});
        pair.source.call("PutItem", json!({"TableName": keys.table(), "Item": item})).await;
    }
    let place = put_export_by(&pair, keys, &pair.target, &[]).await;
    let more = format!("{}load.method = \"import\"\n", from_export(&pair, &place));
    let program = pair.program(keys, Mode::Oneshot, &ours(), &more);
    let reports = program.migrate(CancellationToken::new()).await.expect("a migration");
    assert_eq!(reports[0].items_loaded, 100);
    assert!(reports[0].verification.is_identical());
    assert_eq!(pair.compare(keys), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_loaded_from_a_bucket_of_moto() {
    let pair = Pair::by_roles(servers::moto()).await;
    let keys = Keys::Text;
    pair.create(keys).await;
    fill(&pair.source, keys, 100).await;
    let place = put_export(&pair, keys).await;
    let program = pair.program(keys, Mode::Oneshot, &ours(), &from_export(&pair, &place));
    let reports = program.migrate(CancellationToken::new()).await.expect("a migration");
    assert_eq!(reports[0].items_loaded, 100);
    assert!(reports[0].verification.is_identical());
    assert_eq!(pair.compare(keys), 100);
}
