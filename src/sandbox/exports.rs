//! Point-in-time recovery, as far as it is asked for, and exports to S3.
//!
//! A full export is an image of the time that is asked for, or else of the moment in which it is; either a minute off, at most. An incremental one
//! tells what a window left of the items that changed in it. Objects are there when their export is complete. A file for each
//! quarter of the hash range, also where that is empty. Source: Developer Guide, table export output format.

mod writing;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use self::writing::{FILES, Folders, Spelling, Text};
use super::auth::Caller;
use super::moment::Moment;
use super::past::{FUZZ_MILLIS, Past};
use super::reply::ApiError;
use super::s3::Bucket;
use super::table::Table;
use super::world::{World, body, parse};
use crate::model::WallTime;

/// For how long a client token makes no second export. Source: API reference, `ExportTableToPointInTime`.
const TOKEN_LIFE: Duration = Duration::from_secs(8 * 3600);
/// For how long changes are kept. Source: Developer Guide, point-in-time recovery: 35 days by default.
const RECOVERY_PERIOD: Duration = Duration::from_secs(35 * 86_400);
/// How long a window may be. Source: quotas, table export.
const WINDOW: [Duration; 2] = [Duration::from_secs(15 * 60), Duration::from_secs(24 * 3600)];
/// Exports in a page of ListExports. Source: API reference.
const LISTED: usize = 25;

type Request = Map<String, Json>;

/// An export that was asked for.
pub(super) struct Export {
    request: Request,
    asked: WallTime,
    described: Request,
    is_window: bool,
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
        let (now, options) = (self.moment.now, &self.moment.options);
        let fails = |export: &Export| options.exports_fail || options.windows_fail && export.is_window;
        self.exports.values_mut().for_each(|export| export.advance(now, fails(export), &mut self.buckets));
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
                let described = |member: &str| export.described.get(member);
                json!({"ExportArn": arn, "ExportStatus": described("ExportStatus"), "ExportType": described("ExportType")})
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
    let lag = world.moment.options.export_lag;
    let place = world.place_any(&address)?;
    let now = place.moment.now;
    if operation == "UpdateContinuousBackups" {
        let wanted =
            &request.get("PointInTimeRecoverySpecification").unwrap_or(&Json::Null)["PointInTimeRecoveryEnabled"];
        match wanted.as_bool() {
            Some(true) => drop(place.table.past.get_or_insert_with(|| Past::new(now))),
            _ => place.table.past = None,
        }
    }
    let recovery = match &place.table.past {
        Some(past) => json!({
            "PointInTimeRecoveryStatus": "ENABLED",
            "EarliestRestorableDateTime": seconds(earliest(past, now)),
            "LatestRestorableDateTime": seconds(now.minus(lag)),
        }),
        None => json!({"PointInTimeRecoveryStatus": "DISABLED"}),
    };
    Ok(json!({"ContinuousBackupsDescription": {
        "ContinuousBackupsStatus": "ENABLED", "PointInTimeRecoveryDescription": recovery,
    }}))
}

/// The first time that can be exported.
fn earliest(past: &Past, now: WallTime) -> WallTime {
    past.since.max(now.minus(RECOVERY_PERIOD))
}

/// What is exported, before it is known where to.
struct Content {
    files: Vec<Text>,
    spelling: Spelling,
    /// What the summary says of the kind of export.
    summary: Json,
    /// And what DescribeExport says of it.
    described: Json,
    is_window: bool,
}

fn export(world: &mut World, caller: &Caller, request: &Request) -> Result<Json, ApiError> {
    let arn = text(request, "TableArn")?;
    let address = world.address(caller, arn)?;
    if address.account != caller.account {
        return Err(ApiError::validation("This action is only supported by accounts matching the owner of the table"));
    }
    let member = |name: &str| request.get(name).and_then(Json::as_str);
    if member("ExportFormat").is_some_and(|given| given != "DYNAMODB_JSON") {
        return Err(ApiError::validation("the sandbox makes no export whose ExportFormat is not DYNAMODB_JSON"));
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
    let recovery_delay = world.moment.options.recovery_delay;

    let place = world.place(&address)?;
    let (table, moment) = (place.table, place.moment);
    let now = moment.now;
    let Some(past) = &mut table.past else {
        let why = format!("Point in time recovery is not enabled for table '{}'", address.table);
        return Err(ApiError::new("PointInTimeRecoveryUnavailableException", why));
    };
    if now.since(past.since) < recovery_delay {
        return Err(outside("the time is outside of the recovery window"));
    }
    let content = match member("ExportType") {
        None | Some("FULL_EXPORT") => {
            // What was written within a minute of an export's time may be in it or not (Developer Guide, requesting an export).
            let fuzz = moment.rng.i64(-FUZZ_MILLIS..=FUZZ_MILLIS);
            let latest = now.minus(moment.options.export_lag);
            let (time, files) = match request.get("ExportTime").and_then(Json::as_f64).map(time_of) {
                Some(time) if time < earliest(past, now) || time > latest => {
                    return Err(outside("the time is outside of the recovery window"));
                }
                Some(time) => (time, writing::full(&past.image(time, fuzz, &table.items))),
                None => {
                    // There is no time before the recovery was turned on.
                    let time = WallTime::from_millis(latest.millis() + fuzz).max(past.since);
                    past.cut_now(time);
                    (time, writing::full(&table.items))
                }
            };
            Content {
                files,
                spelling: Spelling::FULL,
                summary: json!({"version": "2020-06-30", "exportTime": time.to_string()}),
                described: json!({"ExportType": "FULL_EXPORT", "ExportTime": seconds(time)}),
                is_window: false,
            }
        }
        Some("INCREMENTAL_EXPORT") => window(table, moment, request)?,
        Some(_) => return Err(ApiError::validation("1 validation error detected: Value at 'exportType' is unknown")),
    };
    let (table_arn, table_id, billed) = (table.arn.clone(), table.id.clone(), table.bytes);
    let id = format!("{:014}-{:08x}", now.millis(), moment.rng.u32(..));
    let names: Vec<String> = (0..FILES).map(|_| name(&mut moment.rng)).collect();
    if !world.buckets.get(bucket_name).is_some_and(|bucket| bucket.lets_in(&caller.account)) {
        return Err(ApiError::validation("the bucket does not exist or may not be written"));
    }
    let options = &world.moment.options;
    let takes = options.windows_take.filter(|_| content.is_window).unwrap_or(options.export_takes);
    let fails = options.exports_fail || options.windows_fail && content.is_window;
    let end = now.plus(takes);

    let own = format!("AWSDynamoDB/{id}");
    // The data of all incremental exports of a prefix are in one folder.
    let data = if content.is_window { "AWSDynamoDB/data".to_owned() } else { format!("{own}/data") };
    let folders = Folders { prefix, own, data };
    let export_arn = format!("{table_arn}/export/{id}");
    let common = json!({
        "exportArn": export_arn, "startTime": now.to_string(), "endTime": end.to_string(), "tableArn": table_arn,
        "tableId": table_id, "s3Bucket": bucket_name, "s3Prefix": member("S3Prefix"), "s3SseAlgorithm": "AES256",
        "s3SseKmsKeyId": null, "billedSizeBytes": billed, "outputFormat": "DYNAMODB_JSON",
    });
    let summary = joined(common, content.summary);
    let files = content.files.into_iter().zip(names).collect();
    let (objects, count) = writing::objects(files, &folders, summary, content.spelling);
    let common = json!({
        "ExportArn": export_arn, "ExportStatus": "IN_PROGRESS", "StartTime": seconds(now),
        "ExportManifest": format!("{}{}/manifest-summary.json", folders.prefix, folders.own), "TableArn": table_arn,
        "TableId": table_id, "S3Bucket": bucket_name, "S3Prefix": member("S3Prefix"), "S3SseAlgorithm": "AES256",
        "ExportFormat": "DYNAMODB_JSON", "BilledSizeBytes": billed, "ItemCount": count, "ClientToken": token,
    });
    let described = joined(common, content.described);
    let pending = Some(Pending { due: end, bucket: bucket_name.to_owned(), objects });
    let is_window = content.is_window;
    let mut export = Export { request: request.clone(), asked: now, described, is_window, pending };
    export.advance(now, fails, &mut world.buckets);
    let answer = json!({"ExportDescription": export.described});
    world.exports.insert(export_arn, export);
    Ok(answer)
}

/// What an incremental export holds.
fn window(
    table: &mut Table,
    Moment { now, rng, options, .. }: &mut Moment,
    request: &Request,
) -> Result<Content, ApiError> {
    let now = *now;
    let specified = request.get("IncrementalExportSpecification").unwrap_or(&Json::Null);
    let in_seconds = options.windows_in_seconds;
    let time = |member: &str| {
        let told = specified.get(member).and_then(Json::as_f64).map(time_of);
        told.map(|time| if in_seconds { time.second() } else { time })
    };
    let latest = now.minus(options.export_lag);
    let Some(from) = time("ExportFromTime") else {
        return Err(ApiError::validation("1 validation error detected: Value null at 'ExportFromTime'"));
    };
    let to = time("ExportToTime").unwrap_or(latest);
    let with_old = match specified.get("ExportViewType").and_then(Json::as_str) {
        None | Some("NEW_AND_OLD_IMAGES") => true,
        Some("NEW_IMAGE") => false,
        Some(_) => {
            return Err(ApiError::validation("1 validation error detected: Value at 'ExportViewType' is unknown"));
        }
    };
    let [least, most] = WINDOW;
    if to.since(from) < least || to.since(from) > most {
        let why = "the difference between export from time and export to time must be between 15 minutes and 24 hours";
        return Err(ApiError::validation(why));
    }
    let Some(mut past) = table.past.take() else { return Err(outside("there is no recovery window")) };
    let is_inside = from >= earliest(&past, now) && to <= latest;
    let fuzz = [(); 2].map(|()| rng.i64(-FUZZ_MILLIS..=FUZZ_MILLIS));
    let changed = if is_inside { past.window([from, to], fuzz, &table.items) } else { Vec::new() };
    table.past = Some(past);
    if !is_inside {
        return Err(outside("the window is outside of the recovery window"));
    }
    let spelling = Spelling::draw(rng);
    let view = if with_old { "NEW_AND_OLD_IMAGES" } else { "NEW_IMAGE" };
    Ok(Content {
        files: writing::window(table, &changed, with_old, spelling),
        spelling,
        summary: json!({
            "version": "2023-08-01", "exportType": "INCREMENTAL_EXPORT", "outputView": view,
            "exportFromTime": from.to_string(), "exportToTime": to.to_string(),
        }),
        described: json!({
            "ExportType": "INCREMENTAL_EXPORT",
            "IncrementalExportSpecification": {
                "ExportFromTime": seconds(from), "ExportToTime": seconds(to), "ExportViewType": view,
            },
        }),
        is_window: true,
    })
}

fn outside(why: &str) -> ApiError {
    ApiError::new("InvalidExportTimeException", why)
}

fn joined(one: Json, other: Json) -> Map<String, Json> {
    let members = |json: Json| if let Json::Object(members) = json { members } else { Map::new() };
    members(one).into_iter().chain(members(other)).collect()
}

/// As long as the service's names of data files.
fn name(rng: &mut fastrand::Rng) -> String {
    std::iter::repeat_with(|| rng.alphanumeric().to_ascii_lowercase()).take(26).collect()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit 53 bits")]
pub(super) fn seconds(time: WallTime) -> f64 {
    time.millis() as f64 / 1000.0
}

#[expect(clippy::cast_possible_truncation, reason = "a time beyond the range of milliseconds is outside of any window")]
fn time_of(seconds: f64) -> WallTime {
    WallTime::from_millis((seconds * 1000.0).round() as i64)
}
