//! Point-in-time recovery, as far as it is asked for, and full exports to S3.
//!
//! An export is an image of the moment in which it is asked for: no history of a table is kept. Its time is a minute off, at
//! most. Its objects are there when it is complete. A file for each quarter of the hash range, also where that is empty. Source: Developer Guide, table export output format.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest as _, Md5};
use serde_json::{Map, Value as Json, json};

use super::auth::Caller;
use super::reply::ApiError;
use super::s3::Bucket;
use super::value::write_item;
use super::world::{World, body, parse};
use crate::model::WallTime;

/// How far an export's time is from the moment of which it is an image, at most.
const FUZZ_MILLIS: i64 = 60_000;
/// For how long a client token makes no second export. Source: API reference, `ExportTableToPointInTime`.
const TOKEN_LIFE: Duration = Duration::from_secs(8 * 3600);
/// Exports in a page of ListExports. Source: API reference.
const LISTED: usize = 25;
/// Files of an export.
const FILES: u64 = 4;

type Request = Map<String, Json>;

/// An export that was asked for.
pub(super) struct Export {
    request: Request,
    asked: WallTime,
    described: Request,
    /// What is to come, and when.
    pending: Option<Pending>,
}

struct Pending {
    due: WallTime,
    bucket: String,
    objects: Vec<(String, Bytes)>,
}

impl Export {
    /// Completes it, or lets it fail, when its time has come.
    fn advance(&mut self, now: WallTime, fails: bool, buckets: &mut BTreeMap<String, Bucket>) {
        let Some(pending) = self.pending.take_if(|pending| pending.due <= now) else { return };
        let mut say = |member: &str, value: Json| self.described.insert(member.to_owned(), value);
        say("EndTime", seconds(pending.due).into());
        match buckets.get_mut(&pending.bucket).filter(|_| !fails) {
            Some(bucket) => {
                bucket.objects.extend(pending.objects);
                say("ExportStatus", "COMPLETED".into());
            }
            None => {
                say("ExportStatus", "FAILED".into());
                say("FailureCode", "S3NoSuchBucket".into());
                say("FailureMessage", "The specified bucket does not exist".into());
            }
        }
    }
}

impl World {
    /// Brings exports up to now.
    pub(super) fn advance_exports(&mut self) {
        let (now, fails) = (self.moment.now, self.moment.options.exports_fail);
        self.exports.values_mut().for_each(|export| export.advance(now, fails, &mut self.buckets));
    }
}

pub(super) fn execute(world: &mut World, operation: &str, caller: &Caller, bytes: &[u8]) -> Result<Bytes, ApiError> {
    let request: Request = parse(bytes)?;
    let answer = match operation {
        "ExportTableToPointInTime" => export(world, caller, &request)?,
        "ListExports" => {
            let table = text(&request, "TableArn")?;
            let after = request.get("NextToken").and_then(Json::as_str).unwrap_or("");
            let is_listed = |arn: &str| arn.starts_with(&format!("{table}/export/")) && arn > after;
            let mut exports = world.exports.iter().filter(|(arn, _)| is_listed(arn.as_str())).peekable();
            let page: Vec<_> = exports.by_ref().take(LISTED).collect();
            let next = exports.peek().and(page.last()).map(|(arn, _)| arn.as_str());
            let summaries = page.iter().map(|(arn, export)| {
                json!({"ExportArn": arn, "ExportStatus": export.described.get("ExportStatus"), "ExportType": "FULL_EXPORT"})
            });
            json!({"ExportSummaries": summaries.collect::<Vec<_>>(), "NextToken": next})
        }
        "DescribeExport" => {
            let arn = text(&request, "ExportArn")?;
            let described = world.exports.get(arn).map(|export| &export.described);
            let described = described.filter(|_| arn.contains(&format!(":{}:", caller.account)));
            let described = described.ok_or_else(|| ApiError::new("ExportNotFoundException", "Export not found"))?;
            json!({"ExportDescription": described})
        }
        _ => backups(world, operation, caller, &request)?,
    };
    Ok(body(&answer))
}

pub(super) fn text<'a>(request: &'a Request, member: &str) -> Result<&'a str, ApiError> {
    let missing = || ApiError::validation(format!("1 validation error detected: Value null at '{member}'"));
    request.get(member).and_then(Json::as_str).ok_or_else(missing)
}

fn backups(world: &mut World, operation: &str, caller: &Caller, request: &Request) -> Result<Json, ApiError> {
    let address = world.address(caller, text(request, "TableName")?)?;
    let id = world.place_any(&address)?.table.id.clone();
    if operation == "UpdateContinuousBackups" {
        let wanted =
            &request.get("PointInTimeRecoverySpecification").unwrap_or(&Json::Null)["PointInTimeRecoveryEnabled"];
        match wanted.as_bool() {
            Some(true) => drop(world.recoverable.entry(id.clone()).or_insert(world.moment.now)),
            _ => drop(world.recoverable.remove(&id)),
        }
    }
    let status = if world.recoverable.contains_key(&id) { "ENABLED" } else { "DISABLED" };
    Ok(json!({"ContinuousBackupsDescription": {
        "ContinuousBackupsStatus": "ENABLED",
        "PointInTimeRecoveryDescription": {"PointInTimeRecoveryStatus": status},
    }}))
}

fn export(world: &mut World, caller: &Caller, request: &Request) -> Result<Json, ApiError> {
    let arn = text(request, "TableArn")?;
    let address = world.address(caller, arn)?;
    if address.account != caller.account {
        return Err(ApiError::validation("This action is only supported by accounts matching the owner of the table"));
    }
    let member = |name: &str| request.get(name).and_then(Json::as_str);
    for (name, only) in [("ExportType", "FULL_EXPORT"), ("ExportFormat", "DYNAMODB_JSON")] {
        if member(name).is_some_and(|given| given != only) {
            return Err(ApiError::validation(format!("the sandbox makes no export whose {name} is not {only}")));
        }
    }
    if request.contains_key("ExportTime") {
        return Err(ApiError::validation("the sandbox keeps no history: leave ExportTime out"));
    }
    let token = member("ClientToken");
    let asked_before = |export: &&Export| {
        let is_recent = world.moment.now.since(export.asked) < TOKEN_LIFE;
        is_recent && token.is_some() && export.request.get("ClientToken").and_then(Json::as_str) == token
    };
    if let Some(before) = world.exports.values().find(asked_before) {
        let same = before.request == *request;
        return match same {
            true => Ok(json!({"ExportDescription": before.described})),
            false => Err(ApiError::new("ExportConflictException", "the token was used with other parameters")),
        };
    }
    let bucket_name = text(request, "S3Bucket")?;
    let prefix = member("S3Prefix").filter(|prefix| !prefix.is_empty()).map_or_else(String::new, |it| format!("{it}/"));

    let place = world.place(&address)?;
    let (table_arn, table_id) = (place.table.arn.clone(), place.table.id.clone());
    let mut files: Vec<(Vec<u8>, u64)> = (0..FILES).map(|_| (Vec::new(), 0)).collect();
    for (key, stored) in &place.table.items {
        let part = usize::try_from(key.hash / (u64::MAX / FILES + 1)).unwrap_or(0);
        let Some((lines, items)) = files.get_mut(part) else { continue };
        lines.extend_from_slice(b"{\"Item\":");
        write_item(&stored.attributes, lines);
        lines.extend_from_slice(b"}\n");
        *items += 1;
    }
    let billed = place.table.bytes;
    let Some(recoverable_since) = world.recoverable.get(&table_id).copied() else {
        let why = format!("Point in time recovery is not enabled for table '{}'", address.table);
        return Err(ApiError::new("PointInTimeRecoveryUnavailableException", why));
    };
    let now = world.moment.now;
    if now.since(recoverable_since) < world.moment.options.recovery_delay {
        return Err(ApiError::new("InvalidExportTimeException", "the time is outside of the recovery window"));
    }
    // What was written within a minute of an export's time may be in it or not (Developer Guide, requesting an export).
    let fuzz = world.moment.rng.i64(-FUZZ_MILLIS..=FUZZ_MILLIS);
    let time = WallTime::from_millis(now.minus(world.moment.options.export_lag).millis() + fuzz);
    let id = format!("{:014}-{:08x}", now.millis(), world.moment.rng.u32(..));
    let names: Vec<String> = files.iter().map(|_| name(&mut world.moment.rng)).collect();
    if !world.buckets.get(bucket_name).is_some_and(|bucket| bucket.lets_in(&caller.account)) {
        return Err(ApiError::validation("the bucket does not exist or may not be written"));
    }
    let end = now.plus(world.moment.options.export_takes);

    // As in AWS's own samples: what the manifests say of keys is without the prefix.
    let folder = format!("AWSDynamoDB/{id}");
    let mut objects = Vec::new();
    let mut put = |key: &str, bytes: Bytes| objects.push((format!("{prefix}{folder}/{key}"), bytes));
    put("_started", Bytes::new());
    let mut list = String::new();
    let mut count = 0;
    for ((lines, items), name) in files.into_iter().zip(names) {
        let object = gzip(&lines);
        let md5 = Md5::digest(&object);
        let line = json!({
            "itemCount": items,
            "md5Checksum": STANDARD.encode(md5),
            "etag": format!("{}-1", hex(&Md5::digest(md5))),
            "dataFileS3Key": format!("{folder}/data/{name}.json.gz"),
        });
        list.push_str(&format!("{line}\n"));
        put(&format!("data/{name}.json.gz"), object.into());
        count += items;
    }
    put("manifest-files.md5", STANDARD.encode(Md5::digest(&list)).into());
    put("manifest-files.json", list.into());
    let export_arn = format!("{table_arn}/export/{id}");
    let summary = json!({
        "version": "2020-06-30", "exportArn": export_arn, "startTime": now.to_string(), "endTime": end.to_string(),
        "tableArn": table_arn, "tableId": table_id, "exportTime": time.to_string(),
        "s3Bucket": bucket_name, "s3Prefix": member("S3Prefix"), "s3SseAlgorithm": "AES256", "s3SseKmsKeyId": null,
        "manifestFilesS3Key": format!("{folder}/manifest-files.json"),
        "billedSizeBytes": billed, "itemCount": count, "outputFormat": "DYNAMODB_JSON",
    });
    put("manifest-summary.md5", STANDARD.encode(Md5::digest(summary.to_string())).into());
    put("manifest-summary.json", summary.to_string().into());
    let described = json!({
        "ExportArn": export_arn, "ExportStatus": "IN_PROGRESS", "StartTime": seconds(now),
        "ExportManifest": format!("{prefix}{folder}/manifest-summary.json"), "TableArn": table_arn, "TableId": table_id,
        "ExportTime": seconds(time), "S3Bucket": bucket_name, "S3Prefix": member("S3Prefix"), "S3SseAlgorithm": "AES256",
        "ExportFormat": "DYNAMODB_JSON", "BilledSizeBytes": billed, "ItemCount": count, "ExportType": "FULL_EXPORT",
        "ClientToken": token,
    });
    let pending = Some(Pending { due: end, bucket: bucket_name.to_owned(), objects });
    let described = described.as_object().cloned().unwrap_or_default();
    let mut export = Export { request: request.clone(), asked: now, described, pending };
    export.advance(now, world.moment.options.exports_fail, &mut world.buckets);
    let answer = json!({"ExportDescription": export.described});
    world.exports.insert(export_arn, export);
    Ok(answer)
}

/// As long as the service's names of data files.
fn name(rng: &mut fastrand::Rng) -> String {
    std::iter::repeat_with(|| rng.alphanumeric().to_ascii_lowercase()).take(26).collect()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).and_then(|()| encoder.finish()).unwrap_or_default()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit 53 bits")]
pub(super) fn seconds(time: WallTime) -> f64 {
    time.millis() as f64 / 1000.0
}
