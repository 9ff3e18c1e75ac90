//! The DynamoDB Streams API: ListStreams, DescribeStream, GetShardIterator, GetRecords.
//!
//! Iterators are self-contained: a position, when it was issued, which generation, whose. Nothing is kept for them.

use std::borrow::Cow;
use std::io::Write as _;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::auth::Caller;
use super::faults::FaultKind;
use super::items::Answer;
use super::knobs::Knob;
use super::listing::{Listing, Wanted};
use super::moment::Moment;
use super::record::Flaw;
use super::reply::ApiError;
use super::sequence::{DIGITS, Sequence};
use super::stream::{Shard, Stream};
use super::world::{World, parse};
use crate::model::WallTime;

/// Readers of a shard at the same time that the service allows (AWS facts 1.1).
const READERS: usize = 2;

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
    if moment.twist == Some(FaultKind::TrimEarly) && stream.trim_early(moment) {
        moment.fault(Knob::TrimEarly);
    }
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
    world.check_rate("ListStreams", caller, world.moment.options.max_list_streams_rate, Knob::ListRate)?;
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
struct DescribeStream<'a> {
    #[serde(borrow)]
    stream_arn: Cow<'a, str>,
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
    let request: DescribeStream<'_> = parse(bytes)?;
    let limit = page_limit(request.limit, 100)?;
    let parent = match request.shard_filter {
        None => None,
        Some(ShardFilter { r#type: Some(kind), shard_id: Some(id) }) if kind == "CHILD_SHARDS" => Some(id),
        Some(_) => return Err(ApiError::validation("ShardFilter needs the type CHILD_SHARDS and a shard id")),
    };
    world.check_rate("DescribeStream", caller, world.moment.options.max_describe_stream_rate, Knob::DescribeRate)?;
    let (stream, moment) = open(world, caller, &request.stream_arn)?;
    let wanted = Wanted { after: request.exclusive_start_shard_id, parent, limit };
    let mut out = Vec::with_capacity(1024);
    Listing::of(stream, wanted, moment).write_description(stream, moment.now, &mut out);
    Ok(out.into())
}

/// Where a reader of a shard is.
struct Position<'a> {
    arn: &'a str,
    shard: &'a str,
    /// The smallest sequence number that was not read yet.
    from: Sequence,
    issued: WallTime,
    generation: u32,
    /// Which chain of iterators it is of.
    reader: u64,
}

impl<'a> Position<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        let Self { arn, shard, from, issued, generation, reader } = self;
        let issued = issued.millis();
        write!(out, "\"{arn}|{shard}|{from}|{issued}|{generation}|{reader}\"").expect("a vector takes everything");
    }

    fn read(token: &'a str) -> Option<Self> {
        let mut parts = token.split('|');
        let position = Self {
            arn: parts.next()?,
            shard: parts.next()?,
            from: Sequence::parse(parts.next()?)?,
            issued: WallTime::from_millis(parts.next()?.parse().ok()?),
            generation: parts.next()?.parse().ok()?,
            reader: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(position)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetShardIterator<'a> {
    #[serde(borrow)]
    stream_arn: Cow<'a, str>,
    #[serde(borrow)]
    shard_id: Cow<'a, str>,
    #[serde(borrow)]
    shard_iterator_type: Cow<'a, str>,
    #[serde(borrow)]
    sequence_number: Option<Cow<'a, str>>,
}

fn trimmed() -> ApiError {
    ApiError::new("TrimmedDataAccessException", "The requested data has been trimmed and is no longer available")
}

fn find_shard<'a>(stream: &'a mut Stream, id: &str, now: WallTime) -> Result<&'a mut Shard, ApiError> {
    let is_enabled = stream.enabled_from <= now;
    stream
        .shards
        .get_mut(id)
        .filter(|shard| shard.visible <= now && is_enabled)
        .ok_or_else(|| ApiError::not_found(format!("Requested resource not found: Shard does not exist: {id}")))
}

fn get_shard_iterator(world: &mut World, caller: &Caller, bytes: &[u8]) -> Result<Bytes, ApiError> {
    let request: GetShardIterator<'_> = parse(bytes)?;
    let generation = world.iterator_generation;
    world.readers += 1;
    let reader = world.readers;
    let (stream, moment) = open(world, caller, &request.stream_arn)?;
    let shard = find_shard(stream, &request.shard_id, moment.now)?;
    let number = || {
        let number = request.sequence_number.as_deref().unwrap_or_default();
        let parsed = Sequence::parse(number).filter(|_| DIGITS.contains(&number.len()));
        let parsed = parsed.ok_or_else(|| ApiError::validation("Invalid SequenceNumber"))?;
        if parsed <= shard.trimmed_through {
            return Err(trimmed());
        }
        if parsed < shard.start || shard.end.is_some_and(|end| parsed > end) {
            return Err(ApiError::validation("SequenceNumber is not in the range of the shard"));
        }
        Ok(parsed)
    };
    let from = match &*request.shard_iterator_type {
        "TRIM_HORIZON" => shard.horizon(),
        "LATEST" => shard.last.next(),
        "AT_SEQUENCE_NUMBER" => number()?,
        "AFTER_SEQUENCE_NUMBER" => number()?.next(),
        other => return Err(ApiError::validation(format!("Invalid ShardIteratorType: {other}"))),
    };
    let position =
        Position { arn: &request.stream_arn, shard: &request.shard_id, from, issued: moment.now, generation, reader };
    let mut answer = Answer::default();
    position.write(answer.member("ShardIterator"));
    Ok(answer.into_body())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetRecords<'a> {
    #[serde(borrow)]
    shard_iterator: Cow<'a, str>,
    limit: Option<usize>,
}

fn get_records(world: &mut World, caller: &Caller, bytes: &[u8]) -> Result<Bytes, ApiError> {
    let request: GetRecords<'_> = parse(bytes)?;
    let limit = page_limit(request.limit, 1000)?.min(world.moment.options.max_page_records);
    let position =
        Position::read(&request.shard_iterator).ok_or_else(|| ApiError::validation("Invalid ShardIterator"))?;
    let generation = world.iterator_generation;
    let (stream, moment) = open(world, caller, position.arn)?;
    let now = moment.now;
    if position.generation != generation || now.since(position.issued) > moment.options.iterator_life {
        return Err(ApiError::expired_iterator());
    }
    if moment.twist == Some(FaultKind::TrimUnderIterator) && stream.trim_at(position.shard, position.from, moment) {
        moment.fault(Knob::TrimUnderIterator);
    }
    let view = stream.view;
    let shard = find_shard(stream, position.shard, now)?;
    let readers = shard.readers.note(position.reader, now);
    if position.from <= shard.trimmed_through {
        return Err(trimmed());
    }
    if moment.options.max_shard_readers.is_some_and(|most| readers > most) {
        moment.fault(Knob::ReadersPerShard);
        world.stats.crowded_reads += u64::from(readers > READERS);
        return Err(ApiError::throttled("LimitExceededException"));
    }
    let page = Page::take(shard, position.from, view, limit, moment);
    let mut answer = Answer::with_capacity(256 + page.bytes * 2);
    let out = answer.member("Records");
    out.push(b'[');
    let mut next = position.from;
    for (index, record) in shard.records.range(page.first..page.first + page.count).enumerate() {
        out.extend_from_slice(if index > 0 { b"," } else { b"" });
        let flaw = if page.flawed == Some(index) { page.flaw } else { Flaw::None };
        record.write_json(view, &caller.region, flaw, out);
        next = record.sequence.next();
    }
    out.push(b']');
    if !page.ends {
        Position { from: next, issued: now, ..position }.write(answer.member("NextShardIterator"));
    }
    world.stats.crowded_reads += u64::from(readers > READERS);
    world.stats.records_read += u64::try_from(page.count).unwrap_or(0);
    Ok(answer.into_body())
}

/// What GetRecords is to answer.
struct Page {
    /// Index of its first record in the shard.
    first: usize,
    count: usize,
    bytes: usize,
    /// Whether there is no next iterator.
    ends: bool,
    /// Which of its records has the flaw.
    flawed: Option<usize>,
    flaw: Flaw,
}

impl Page {
    fn take(shard: &mut Shard, from: Sequence, view: super::record::View, limit: usize, moment: &mut Moment) -> Self {
        let first = shard.records.partition_point(|record| record.sequence < from);
        let left = shard.records.len() - first;
        let mut page = Self { first, count: 0, bytes: 0, ends: false, flawed: None, flaw: Flaw::None };
        if page.is_empty_by_chance(shard, left, moment) {
            moment.fault(Knob::PageEmptyRun);
            return page;
        }
        let mut limit = limit.min(left);
        if limit > 1 && moment.twist == Some(FaultKind::OneRecord) {
            moment.fault(Knob::PageOneRecord);
            limit = 1;
        }
        for record in shard.records.range(first..first + limit) {
            let size = record.size(view);
            if page.count > 0 && page.bytes + size > moment.options.max_page_bytes {
                moment.fault(Knob::PageOneMegabyte);
                break;
            }
            page.bytes += size;
            page.count += 1;
        }
        page.spoil(shard, moment);
        if shard.end.is_some() && page.count == left {
            let chance = moment.options.final_page_with_records_chance;
            page.ends = left == 0 || moment.knobs.happens(Knob::PageFinalWithRecords, chance);
            if page.ends {
                moment.fault(if left == 0 { Knob::PageFinalEmpty } else { Knob::PageFinalWithRecords });
            }
        }
        page
    }

    /// Whether nothing is answered although something is there: records, or the end.
    fn is_empty_by_chance(&self, shard: &mut Shard, left: usize, moment: &mut Moment) -> bool {
        if left == 0 && shard.end.is_none() {
            return false;
        }
        if let Some(FaultKind::EmptyPages(pages)) = moment.twist {
            shard.empty_pages = pages;
        }
        if shard.empty_pages > 0 {
            shard.empty_pages -= 1;
            return true;
        }
        left > 0 && moment.knobs.happens(Knob::PageEmptyRun, moment.options.empty_page_chance)
    }

    /// Gives one of the records its flaw, if the fault plan says so.
    fn spoil(&mut self, shard: &Shard, moment: &mut Moment) {
        let (knob, flaw) = match moment.twist {
            Some(FaultKind::UnknownEvent) => (Knob::UnknownEvent, Flaw::UnknownEvent),
            Some(FaultKind::MissingField) => {
                (Knob::MissingField, Flaw::missing(moment.knobs.chance(Knob::MissingField)))
            }
            _ => return,
        };
        if self.count == 0 {
            return;
        }
        let index = moment.knobs.chance(knob).usize(..self.count);
        let has_image = shard.records.get(self.first + index).is_some_and(|record| record.new.is_some());
        self.flaw = if flaw == Flaw::NoImage && !has_image { Flaw::NoName } else { flaw };
        self.flawed = Some(index);
        moment.fault(knob);
    }
}
