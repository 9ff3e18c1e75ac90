//! Imports from S3 into new tables, in DynamoDB JSON.
//!
//! The table is CREATING until its import is over; then all items are there at once. What is in no item's form, or does not
//! fit the table's indexes, is left out, and the import is then FAILED, with all other items in its table. Source: Developer
//! Guide, import format quotas and validation.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value as Json, json};

use super::auth::Caller;
use super::events::Event;
use super::exports::{seconds, text};
use super::knobs::Knob;
use super::reply::ApiError;
use super::tables::make_table;
use super::value::{Item, Stored, WireItem, read_item};
use super::world::{Address, World, body, parse};
use crate::model::WallTime;

/// For how long a client token makes no second import. Source: API reference, `ImportTable`.
const TOKEN_LIFE: Duration = Duration::from_secs(8 * 3600);
/// Imports in a page of ListImports. Source: API reference.
const LISTED: usize = 25;
/// A table that is being imported becomes active when that is over, whenever that is.
const NEVER: WallTime = WallTime::from_millis(i64::MAX);
/// What an import fails with when nothing else is wrong.
const FAILED: (&str, &str) = ("InternalFailure", "The import could not be finished");

type Request = Map<String, Json>;

/// An import that was asked for.
pub(super) struct Import {
    request: Request,
    asked: WallTime,
    described: Request,
    /// What is to come, and when.
    pending: Option<Pending>,
}

struct Pending {
    due: WallTime,
    address: Address,
    source: Source,
}

/// What is read.
struct Source {
    bucket: String,
    prefix: String,
    objects: BTreeMap<String, Bytes>,
    /// Its lines; `None`: not an item.
    items: Vec<Option<Item>>,
    bytes: usize,
    /// Why it cannot be read at all.
    refused: Option<(&'static str, &'static str)>,
}

impl Import {
    fn say(&mut self, members: Json) {
        self.described.extend(members.as_object().cloned().unwrap_or_default());
    }

    /// What is told of it now: of one that goes on, how much of it its time makes likely.
    fn shown(&self, now: WallTime) -> Json {
        let mut shown = self.described.clone();
        if let Some(Pending { due, source, .. }) = &self.pending {
            let whole = due.since(self.asked).as_millis().max(1);
            let part = |all: usize| all as u128 * now.since(self.asked).as_millis().min(whole) / whole;
            let items = part(source.items.len());
            let progress = [
                ("ProcessedItemCount", items),
                ("ImportedItemCount", items),
                ("ProcessedSizeBytes", part(source.bytes)),
            ];
            let number = |count| Json::from(u64::try_from(count).unwrap_or(u64::MAX));
            shown.extend(progress.map(|(member, count)| (member.to_owned(), number(count))));
        }
        shown.into()
    }
}

/// Brings imports up to now.
pub(super) fn advance(world: &mut World) {
    let now = world.moment.now;
    let is_due = |import: &Import| import.pending.as_ref().is_some_and(|pending| pending.due <= now);
    let due: Vec<String> =
        world.imports.iter().filter(|(_, import)| is_due(import)).map(|(arn, _)| arn.clone()).collect();
    for arn in due {
        let Some(pending) = world.imports.get_mut(&arn).and_then(|import| import.pending.take()) else { continue };
        let end = pending.due;
        let outcome = land(world, pending);
        if let Some(import) = world.imports.get_mut(&arn) {
            import.say(json!({"EndTime": seconds(end)}));
            import.say(outcome);
        }
    }
}

/// The end of an import: what is in its table, and what is told of it.
fn land(world: &mut World, Pending { due, address, source }: Pending) -> Json {
    let Source { bucket, prefix, objects, items, bytes, refused } = source;
    let now = objects_of(world, &bucket, &prefix);
    let is_other = now.is_some_and(|now| now != objects);
    let modified = ("ObjectModifiedInS3DuringImport", "An object was modified during the import");
    let fails = world.moment.options.imports_fail;
    let why = refused.or(is_other.then_some(modified)).or(fails.map(|_| FAILED));
    let share = if refused.is_some() { Some(0.0) } else { is_other.then_some(0.5).or(fails) };
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share")]
    let kept = share.map_or(items.len(), |share| (items.len() as f64 * share.clamp(0.0, 1.0)) as usize);
    let (processed, chance) = (items.len(), world.moment.options.import_reject_chance);
    let (mut imported, mut errors) = (0_usize, 0_usize);
    world.moment.events.attribute_to("ImportTable");
    if why.is_some() && fails.is_some() {
        world.moment.fault(Knob::ImportFail);
    }
    if why.is_some() && kept == 0 {
        remove_table(world, &address);
    } else if let Ok(mut place) = world.place_any(&address) {
        place.table.active_from = due;
        place.table.was_active = true;
        for item in items.into_iter().take(kept) {
            let stored = item.map(Stored::new);
            let key = stored.as_ref().and_then(|stored| {
                let key = place.table.key_of_item(&stored.attributes).ok()?;
                place.table.check_item(stored, place.moment).is_ok().then_some(key)
            });
            let is_rejected = place.moment.knobs.happens(Knob::ImportReject, chance);
            match key.zip(stored).filter(|_| !is_rejected) {
                Some((key, stored)) => {
                    place.change(&key, Some(stored), false);
                    imported += 1;
                }
                None => {
                    place.moment.fault(Knob::ImportReject);
                    errors += 1;
                }
            }
        }
    }
    let rejected = ("ItemValidationError", "Some of the items failed validation checks and were not imported");
    let why = why.or((errors > 0).then_some(rejected));
    let (code, message) = why.unzip();
    json!({
        "ImportStatus": if why.is_some() { "FAILED" } else { "COMPLETED" }, "FailureCode": code, "FailureMessage": message,
        "ProcessedItemCount": processed, "ImportedItemCount": imported, "ErrorCount": errors, "ProcessedSizeBytes": bytes,
    })
}

fn remove_table(world: &mut World, address: &Address) {
    let Some(region) = world.regions.get_mut(&(address.account.clone(), address.region.clone())) else { return };
    if let Some(table) = region.tables.remove(&address.table) {
        let Address { account, region, table: name } = address;
        let (id, at) = (table.id.as_str(), world.moment.now);
        world.moment.events.tell(&Event::TableDeleted { account, region, table: name, id, at });
    }
}

pub(super) fn execute(world: &mut World, operation: &str, caller: &Caller, bytes: &[u8]) -> Result<Bytes, ApiError> {
    let request: Request = parse(bytes)?;
    let answer = match operation {
        "ImportTable" => import(world, caller, &request)?,
        "ListImports" => {
            let table = request.get("TableArn").and_then(Json::as_str);
            let after = request.get("NextToken").and_then(Json::as_str).unwrap_or("");
            let own = format!("arn:aws:dynamodb:{}:{}:table/", caller.region, caller.account);
            let is_listed = |arn: &str| {
                let is_of = |table: &str| arn.starts_with(&format!("{table}/import/"));
                arn.starts_with(&own) && table.is_none_or(is_of) && arn > after
            };
            let mut imports = world.imports.iter().filter(|(arn, _)| is_listed(arn.as_str())).peekable();
            let page: Vec<_> = imports.by_ref().take(LISTED).collect();
            let next = imports.peek().and(page.last()).map(|(arn, _)| arn.as_str());
            let summary = |(arn, import): &(&String, &Import)| {
                let of = |member: &str| import.described.get(member).cloned();
                json!({"ImportArn": arn, "ImportStatus": of("ImportStatus"), "TableArn": of("TableArn"),
                       "S3BucketSource": of("S3BucketSource"), "StartTime": of("StartTime")})
            };
            json!({"ImportSummaryList": page.iter().map(summary).collect::<Vec<_>>(), "NextToken": next})
        }
        _ => {
            let arn = text(&request, "ImportArn")?;
            let import = world.imports.get(arn).filter(|_| arn.contains(&format!(":{}:", caller.account)));
            let import = import.ok_or_else(|| ApiError::new("ImportNotFoundException", "Import not found"))?;
            json!({"ImportTableDescription": import.shown(world.moment.now)})
        }
    };
    Ok(body(&answer))
}

fn import(world: &mut World, caller: &Caller, request: &Request) -> Result<Json, ApiError> {
    let wanted = |member: &str| request.get(member).and_then(Json::as_str);
    let token = wanted("ClientToken");
    let now = world.moment.now;
    let asked_before = |import: &&Import| {
        let is_recent = now.since(import.asked) < TOKEN_LIFE;
        is_recent && token.is_some() && import.request.get("ClientToken").and_then(Json::as_str) == token
    };
    if let Some(before) = world.imports.values().find(asked_before) {
        return match before.request == *request {
            true => Ok(json!({"ImportTableDescription": before.shown(now)})),
            false => Err(ApiError::new("ImportConflictException", "the token was used with other parameters")),
        };
    }
    if text(request, "InputFormat")? != "DYNAMODB_JSON" {
        return Err(ApiError::validation("the sandbox imports DynamoDB JSON alone"));
    }
    let definition = request.get("TableCreationParameters").and_then(Json::as_object);
    let definition =
        definition.ok_or_else(|| ApiError::validation("1 validation error detected: no TableCreationParameters"))?;
    let known = [
        "TableName",
        "AttributeDefinitions",
        "KeySchema",
        "BillingMode",
        "ProvisionedThroughput",
        "OnDemandThroughput",
        "SSESpecification",
        "GlobalSecondaryIndexes",
    ];
    if let Some(other) = definition.keys().find(|member| !known.contains(&member.as_str())) {
        return Err(ApiError::serialization(format!("TableCreationParameters has no member {other}")));
    }
    let name = text(definition, "TableName")?;
    if name.starts_with("arn:") {
        return Err(ApiError::validation("TableName must be a name, not an ARN"));
    }
    let address = world.address(caller, name)?;
    if world.place_any(&address).is_ok() {
        return Err(ApiError::in_use(format!("Table already exists: {name}")));
    }
    let source = read_source(world, caller, request)?;
    make_table(world, &address, definition, None, NEVER)?;
    let table = world.place_any(&address)?.table;
    let (table_arn, table_id) = (table.arn.clone(), table.id.clone());
    let arn = format!("{table_arn}/import/{:014}-{:08x}", now.millis(), world.moment.rng.u32(..));
    let group = format!("arn:aws:logs:{}:{}:log-group:/aws-dynamodb/imports:*", caller.region, caller.account);
    let mut import = Import { request: request.clone(), asked: now, described: Request::new(), pending: None };
    import.say(json!({
        "ImportArn": arn, "ImportStatus": "IN_PROGRESS", "TableArn": table_arn, "TableId": table_id, "ClientToken": token,
        "S3BucketSource": request.get("S3BucketSource"), "CloudWatchLogGroupArn": group, "InputFormat": "DYNAMODB_JSON",
        "InputCompressionType": request.get("InputCompressionType"), "TableCreationParameters": definition,
        "StartTime": seconds(now), "ErrorCount": 0, "ProcessedItemCount": 0, "ImportedItemCount": 0,
        "ProcessedSizeBytes": 0,
    }));
    let due = now.plus(world.moment.options.import_takes);
    import.pending = Some(Pending { due, address, source });
    let answer = json!({"ImportTableDescription": import.shown(now)});
    world.imports.insert(arn, import);
    advance(world);
    Ok(answer)
}

fn objects_of(world: &World, bucket: &str, prefix: &str) -> Option<BTreeMap<String, Bytes>> {
    let objects = &world.buckets.get(bucket)?.objects;
    let is_of = |(key, _): &(&String, &Bytes)| key.starts_with(prefix);
    Some(objects.iter().filter(is_of).map(|(key, object)| (key.clone(), object.clone())).collect())
}

fn read_source(world: &World, caller: &Caller, request: &Request) -> Result<Source, ApiError> {
    let place = request.get("S3BucketSource").and_then(Json::as_object);
    let place = place.ok_or_else(|| ApiError::validation("1 validation error detected: no S3BucketSource"))?;
    let bucket = text(place, "S3Bucket")?;
    let of = |member: &str| place.get(member).and_then(Json::as_str);
    let prefix = of("S3KeyPrefix").unwrap_or("");
    let owner = of("S3BucketOwner").unwrap_or(&caller.account);
    let refused = match world.buckets.get(bucket) {
        None => Some(("S3NoSuchBucket", "The specified bucket does not exist")),
        Some(bucket) if !bucket.lets_in(&caller.account) || bucket.owner != owner => {
            Some(("S3AccessDenied", "Access to the bucket was denied"))
        }
        Some(_) => None,
    };
    let objects = objects_of(world, bucket, prefix).filter(|_| refused.is_none()).unwrap_or_default();
    let is_gzip = request.get("InputCompressionType").and_then(Json::as_str) == Some("GZIP");
    let (mut items, mut bytes) = (Vec::new(), 0);
    for object in objects.values() {
        let mut lines = Vec::new();
        let is_whole = if is_gzip {
            MultiGzDecoder::new(object.as_ref()).read_to_end(&mut lines).is_ok()
        } else {
            lines.extend_from_slice(object);
            true
        };
        bytes += lines.len();
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        items.extend(lines.map(read_line));
        if !is_whole {
            items.push(None);
        }
    }
    Ok(Source { bucket: bucket.to_owned(), prefix: prefix.to_owned(), objects, items, bytes, refused })
}

fn read_line(line: &[u8]) -> Option<Item> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Line {
        item: WireItem,
    }
    serde_json::from_slice(line).ok().and_then(|line: Line| read_item(line.item).ok())
}
