//! The DynamoDB Streams API: ListStreams, DescribeStream, GetShardIterator, GetRecords.
//!
//! Iterators are self-contained: a position, when it was issued, and which generation. Nothing is kept for them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::auth::Caller;
use super::items::Answer;
use super::moment::Moment;
use super::reply::ApiError;
use super::stream::{Shard, Stream};
use super::world::{World, body, parse};
use crate::model::WallTime;

pub(super) fn execute(world: &mut World, operation: &str, caller: &Caller, bytes: &[u8]) -> Result<Bytes, ApiError> {
    match operation {
        "ListStreams" => list_streams(world, caller, bytes),
        "DescribeStream" => describe_stream(world, caller, bytes),
        "GetShardIterator" => get_shard_iterator(world, caller, bytes),
        "GetRecords" => get_records(world, caller, bytes),
        _ => Err(ApiError::new("UnknownOperationException", format!("the sandbox does not know {operation}"))),
    }
}

fn no_stream(arn: &str) -> ApiError {
    ApiError::not_found(format!("Requested resource not found: Stream: {arn} not found"))
}

/// A stream that this caller may read, brought up to now.
fn open<'a>(world: &'a mut World, caller: &Caller, arn: &str) -> Result<(&'a mut Stream, &'a mut Moment), ApiError> {
    if !arn.contains("/stream/") {
        return Err(ApiError::validation(format!("Invalid StreamArn: {arn}")));
    }
    let address = world.address(caller, arn)?;
    let World { regions, moment, .. } = world;
    let region = regions.get_mut(&(address.account, address.region)).ok_or_else(|| no_stream(arn))?;
    region.advance_stream(arn, moment);
    let stream = region.streams.get_mut(arn).ok_or_else(|| no_stream(arn))?;
    Ok((stream, moment))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListStreams {
    table_name: Option<String>,
    limit: Option<usize>,
    exclusive_start_stream_arn: Option<String>,
}

fn list_streams(world: &mut World, caller: &Caller, bytes: &[u8]) -> Result<Bytes, ApiError> {
    let request: ListStreams = parse(bytes)?;
    let limit = page_limit(request.limit, 100)?;
    let (now, retention) = (world.moment.now, world.moment.options.retention);
    let region = world.regions.get(&(caller.account.clone(), caller.region.clone()));
    let after = request.exclusive_start_stream_arn.unwrap_or_default();
    let wanted = |(arn, stream): &(&String, &Stream)| {
        **arn > after
            && !stream.is_gone(now, retention)
            && request.table_name.as_deref().is_none_or(|table| table == stream.table)
    };
    let mut found: Vec<_> = region.iter().flat_map(|region| &region.streams).filter(wanted).collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let streams: Vec<_> = found
        .iter()
        .map(|(arn, stream)| json!({"StreamArn": arn, "TableName": stream.table, "StreamLabel": stream.label}))
        .collect();
    let mut answer = Answer::default();
    answer.add("Streams", Some(streams.into()));
    answer.add("LastEvaluatedStreamArn", found.last().filter(|_| more).map(|(arn, _)| arn.as_str().into()));
    Ok(answer.into_body())
}

fn page_limit(limit: Option<usize>, most: usize) -> Result<usize, ApiError> {
    match limit {
        None => Ok(most),
        Some(limit) if (1..=most).contains(&limit) => Ok(limit),
        Some(limit) => Err(ApiError::validation(format!(
            "1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint: Member must have value \
             less than or equal to {most}, greater than or equal to 1"
        ))),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeStream {
    stream_arn: String,
    limit: Option<usize>,
    exclusive_start_shard_id: Option<String>,
    shard_filter: Option<ShardFilter>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ShardFilter {
    r#type: Option<String>,
    shard_id: Option<String>,
}

fn describe_stream(world: &mut World, caller: &Caller, bytes: &[u8]) -> Result<Bytes, ApiError> {
    let request: DescribeStream = parse(bytes)?;
    let limit = page_limit(request.limit, 100)?;
    let parent = match request.shard_filter {
        None => None,
        Some(ShardFilter { r#type: Some(kind), shard_id: Some(id) }) if kind == "CHILD_SHARDS" => Some(id),
        Some(_) => return Err(ApiError::validation("ShardFilter needs the type CHILD_SHARDS and a shard id")),
    };
    let (stream, moment) = open(world, caller, &request.stream_arn)?;
    let now = moment.now;
    let enabling = now < stream.enabled_from;
    let after = request.exclusive_start_shard_id.unwrap_or_default();
    let wanted = |(id, shard): &(&String, &Shard)| {
        !enabling
            && **id > after
            && shard.visible <= now
            && parent.as_ref().is_none_or(|parent| shard.parent.as_ref() == Some(parent))
    };
    let mut found: Vec<_> = stream.shards.iter().filter(wanted).collect();
    let limit = limit.min(moment.options.max_page_shards);
    let more = found.len() > limit;
    found.truncate(limit);
    let shards: Vec<_> = found.iter().map(|(id, shard)| describe_shard(id, shard)).collect();
    let status = match (stream.disabled, enabling) {
        (Some(_), _) => "DISABLED",
        (None, true) => "ENABLING",
        (None, false) => "ENABLED",
    };
    let mut description = json!({
        "StreamArn": request.stream_arn,
        "StreamLabel": stream.label,
        "StreamStatus": status,
        "StreamViewType": stream.view.name(),
        "CreationRequestDateTime": stream.created.as_secs_f64(),
        "TableName": stream.table,
        "KeySchema": stream.key_schema,
        "Shards": shards,
    });
    if let (true, Some((last, _)), Some(members)) = (more, found.last(), description.as_object_mut()) {
        members.insert("LastEvaluatedShardId".to_owned(), last.as_str().into());
    }
    Ok(body(&json!({"StreamDescription": description})))
}

fn describe_shard(id: &str, shard: &Shard) -> serde_json::Value {
    let mut range = json!({"StartingSequenceNumber": shard.start.to_string()});
    if let (Some(end), Some(members)) = (shard.end, range.as_object_mut()) {
        members.insert("EndingSequenceNumber".to_owned(), end.to_string().into());
    }
    let mut description = json!({"ShardId": id, "SequenceNumberRange": range});
    if let (Some(parent), Some(members)) = (&shard.parent, description.as_object_mut()) {
        members.insert("ParentShardId".to_owned(), parent.as_str().into());
    }
    description
}

/// Where a reader of a shard is.
struct Position {
    arn: String,
    shard: String,
    /// The smallest sequence number that was not read yet.
    from: u128,
    issued: WallTime,
    generation: u32,
}

impl Position {
    fn encode(&self) -> String {
        let issued = self.issued.millis();
        BASE64.encode(format!("{}\n{}\n{}\n{issued}\n{}", self.arn, self.shard, self.from, self.generation))
    }

    fn decode(token: &str) -> Option<Self> {
        let text = String::from_utf8(BASE64.decode(token).ok()?).ok()?;
        let mut parts = text.split('\n');
        Some(Self {
            arn: parts.next()?.to_owned(),
            shard: parts.next()?.to_owned(),
            from: parts.next()?.parse().ok()?,
            issued: WallTime::from_millis(parts.next()?.parse().ok()?),
            generation: parts.next()?.parse().ok()?,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetShardIterator {
    stream_arn: String,
    shard_id: String,
    shard_iterator_type: String,
    sequence_number: Option<String>,
}

fn trimmed() -> ApiError {
    ApiError::new("TrimmedDataAccessException", "The requested data has been trimmed and is no longer available")
}

fn find_shard<'a>(stream: &'a Stream, id: &str, now: WallTime) -> Result<&'a Shard, ApiError> {
    stream
        .shards
        .get(id)
        .filter(|shard| shard.visible <= now && stream.enabled_from <= now)
        .ok_or_else(|| ApiError::not_found(format!("Requested resource not found: Shard does not exist: {id}")))
}

fn get_shard_iterator(world: &mut World, caller: &Caller, bytes: &[u8]) -> Result<Bytes, ApiError> {
    let request: GetShardIterator = parse(bytes)?;
    let generation = world.iterator_generation;
    let (stream, moment) = open(world, caller, &request.stream_arn)?;
    let shard = find_shard(stream, &request.shard_id, moment.now)?;
    let number = || {
        let number = request.sequence_number.as_deref().unwrap_or_default();
        let parsed: Option<u128> = number.parse().ok().filter(|_| (21..=40).contains(&number.len()));
        let parsed = parsed.ok_or_else(|| ApiError::validation("Invalid SequenceNumber"))?;
        if parsed <= shard.trimmed_through {
            return Err(trimmed());
        }
        if parsed < shard.start || shard.end.is_some_and(|end| parsed > end) {
            return Err(ApiError::validation("SequenceNumber is not in the range of the shard"));
        }
        Ok(parsed)
    };
    let oldest = || shard.records.front().map_or(shard.trimmed_through + 1, |record| record.sequence);
    let from = match request.shard_iterator_type.as_str() {
        "TRIM_HORIZON" => oldest(),
        "LATEST" => stream.tip(),
        "AT_SEQUENCE_NUMBER" => number()?,
        "AFTER_SEQUENCE_NUMBER" => number()? + 1,
        other => return Err(ApiError::validation(format!("Invalid ShardIteratorType: {other}"))),
    };
    let position = Position {
        arn: request.stream_arn.clone(),
        shard: request.shard_id.clone(),
        from,
        issued: moment.now,
        generation,
    };
    Ok(body(&json!({"ShardIterator": position.encode()})))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetRecords {
    shard_iterator: String,
    limit: Option<usize>,
}

fn get_records(world: &mut World, caller: &Caller, bytes: &[u8]) -> Result<Bytes, ApiError> {
    let request: GetRecords = parse(bytes)?;
    let limit = page_limit(request.limit, 1000)?.min(world.moment.options.max_page_records);
    let position =
        Position::decode(&request.shard_iterator).ok_or_else(|| ApiError::validation("Invalid ShardIterator"))?;
    let generation = world.iterator_generation;
    let region = caller.region.clone();
    let (stream, moment) = open(world, caller, &position.arn)?;
    let Moment { now, rng, options, .. } = moment;
    let now = *now;
    if position.generation != generation || now.since(position.issued) > options.iterator_life {
        return Err(ApiError::new(
            "ExpiredIteratorException",
            "The shard iterator has expired and can no longer be used to retrieve stream records",
        ));
    }
    let shard = find_shard(stream, &position.shard, now)?;
    if position.from <= shard.trimmed_through {
        return Err(trimmed());
    }
    let first = shard.records.partition_point(|record| record.sequence < position.from);
    let has_records = first < shard.records.len();
    let is_empty_page = has_records && rng.f64() < options.empty_page_chance;
    let mut answer = Answer::default();
    let out = answer.member("Records");
    out.push(b'[');
    let (mut taken, mut size, mut next) = (0, 0, position.from);
    for record in shard.records.range(first..).take(if is_empty_page { 0 } else { limit }) {
        size += record.size(stream.view);
        if taken > 0 && size > options.max_page_bytes {
            break;
        }
        out.extend_from_slice(if taken > 0 { b"," } else { b"" });
        record.write_json(stream.view, &region, out);
        taken += 1;
        next = record.sequence + 1;
    }
    out.push(b']');
    let at_end = first + taken == shard.records.len();
    let is_last = shard.end.is_some() && at_end && !is_empty_page;
    let ends = is_last && (taken == 0 || rng.f64() < options.final_page_with_records_chance);
    if !ends {
        let next = Position { from: next, issued: now, generation, ..position };
        answer.add("NextShardIterator", Some(next.encode().into()));
    }
    world.stats.records_read += u64::try_from(taken).unwrap_or(0);
    Ok(answer.into_body())
}
