//! BatchWriteItem and BatchGetItem: checked as a whole, done one by one, the rest handed back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::auth::Caller;
use super::expression::Projection;
use super::faults::FaultKind;
use super::items::{Answer, Consumed};
use super::knobs::Knob;
use super::moment::Moment;
use super::reply::ApiError;
use super::table::{ItemKey, read_units};
use super::value::{Stored, WireItem, item_json, read_item, write_string};
use super::world::{Address, World, parse};

/// Limits of the service (AWS facts 4.1).
const MAX_WRITES: usize = 25;
const MAX_GETS: usize = 100;
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchWrite {
    request_items: BTreeMap<String, Vec<WriteRequest>>,
    #[serde(default)]
    return_consumed_capacity: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WriteRequest {
    put_request: Option<PutRequest>,
    delete_request: Option<DeleteRequest>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRequest {
    item: WireItem,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteRequest {
    key: WireItem,
}

/// One write of a batch, checked.
struct Write {
    key: ItemKey,
    /// The new item; `None` deletes.
    new: Option<Arc<Stored>>,
    /// The request's JSON, to hand back.
    json: Vec<u8>,
}

/// The writes of one table, by the name that the request used.
struct TableWrites {
    name: String,
    address: Address,
    writes: Vec<Write>,
}

pub(super) fn batch_write_item(world: &mut World, caller: &Caller, body: &[u8]) -> Result<Bytes, ApiError> {
    let request: BatchWrite = parse(body)?;
    let batches = check(world, caller, request.request_items)?;
    let total: usize = batches.iter().map(|batch| batch.writes.len()).sum();
    let spared = spare(total, &mut world.moment);
    let mut unprocessed: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
    let mut capacity = Vec::new();
    let (mut index, mut done) = (0, 0);
    let mut refusal = None;
    for batch in &batches {
        let mut place = world.place(&batch.address)?;
        let mut consumed = Consumed::of(&batch.name);
        for write in &batch.writes {
            let mut trial = consumed.clone();
            let old = place.table.items.get(&write.key).cloned();
            let units = trial.add_write(&place, old.as_deref(), write.new.as_deref(), 1.0);
            let is_spared = spared.contains(&index);
            index += 1;
            match if is_spared { None } else { Some(place.take_writes(write.key.hash, units)) } {
                Some(Ok(())) => {
                    place.change(&write.key, write.new.clone(), false);
                    consumed = trial;
                    done += 1;
                }
                not_done => {
                    refusal = refusal.or(not_done.and_then(Result::err));
                    unprocessed.entry(&batch.name).or_default().push(write);
                }
            }
        }
        capacity.extend(consumed.json(request.return_consumed_capacity.as_deref()));
    }
    world.stats.writes += done;
    if let Some(refusal) = refusal.filter(|_| done == 0 && spared.is_empty()) {
        return Err(refusal);
    }
    let mut answer = Answer::default();
    write_unprocessed(&unprocessed, answer.member("UnprocessedItems"));
    answer.add("ConsumedCapacity", (!capacity.is_empty()).then(|| capacity.into()));
    Ok(answer.into_body())
}

/// What of the batch the fault plan wants to come back: nothing, all, or a random part, at least one of it.
fn spare(total: usize, moment: &mut Moment) -> BTreeSet<usize> {
    match moment.twist {
        Some(FaultKind::UnprocessedAll) => {
            moment.fault(Knob::UnprocessedAll);
            (0..total).collect()
        }
        Some(FaultKind::UnprocessedSubset) => {
            moment.fault(Knob::UnprocessedSubset);
            let rng = moment.knobs.chance(Knob::UnprocessedSubset);
            let mut spared: BTreeSet<usize> = (0..total).filter(|_| rng.bool()).collect();
            spared.insert(rng.usize(0..total.max(1)));
            spared
        }
        _ => BTreeSet::new(),
    }
}

fn write_unprocessed(unprocessed: &BTreeMap<&str, Vec<&Write>>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (table, (name, writes)) in unprocessed.iter().enumerate() {
        out.extend_from_slice(if table > 0 { b"," } else { b"" });
        write_string(name, out);
        out.extend_from_slice(b":[");
        for (index, write) in writes.iter().enumerate() {
            out.extend_from_slice(if index > 0 { b"," } else { b"" });
            out.extend_from_slice(&write.json);
        }
        out.push(b']');
    }
    out.push(b'}');
}

fn check(
    world: &mut World,
    caller: &Caller,
    requests: BTreeMap<String, Vec<WriteRequest>>,
) -> Result<Vec<TableWrites>, ApiError> {
    let total: usize = requests.values().map(Vec::len).sum();
    if total == 0 || total > MAX_WRITES || requests.values().any(Vec::is_empty) {
        return Err(ApiError::validation(format!(
            "1 validation error detected: Value at 'requestItems' failed to satisfy constraint: Map value must satisfy \
             constraint: [Member must have length less than or equal to {MAX_WRITES}, Member must have length greater \
             than or equal to 1]"
        )));
    }
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    let mut batches = Vec::with_capacity(requests.len());
    for (name, requests) in requests {
        let address = world.address(caller, &name)?;
        let place = world.place(&address)?;
        let mut writes = Vec::with_capacity(requests.len());
        for request in requests {
            let write = match (request.put_request, request.delete_request) {
                (Some(put), None) => {
                    let new = Stored::new(read_item(put.item)?);
                    let key = place.table.key_of_item(&new.attributes)?;
                    place.table.check_item(&new, place.moment)?;
                    bytes += new.size;
                    let json = [b"{\"PutRequest\":{\"Item\":".as_slice(), &new.json, b"}}"].concat();
                    Write { key, new: Some(new), json }
                }
                (None, Some(delete)) => {
                    let attributes = read_item(delete.key)?;
                    let key = place.table.key_alone(&attributes)?;
                    let json = [b"{\"DeleteRequest\":{\"Key\":".as_slice(), &item_json(&attributes), b"}}"].concat();
                    Write { key, new: None, json }
                }
                _ => {
                    return Err(ApiError::validation(
                        "Supplied AttributeValue has more than one datatypes set, must contain exactly one of the \
                         supported datatypes",
                    ));
                }
            };
            if !seen.insert((address.clone(), write.key.clone())) {
                return Err(ApiError::validation("Provided list of item keys contains duplicates"));
            }
            writes.push(write);
        }
        batches.push(TableWrites { name, address, writes });
    }
    if bytes > MAX_BATCH_BYTES {
        return Err(ApiError::validation("The batch exceeds the maximum size of 16 MB"));
    }
    Ok(batches)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchGet {
    request_items: BTreeMap<String, KeysAndAttributes>,
    #[serde(default)]
    return_consumed_capacity: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeysAndAttributes {
    keys: Vec<WireItem>,
    #[serde(default)]
    consistent_read: bool,
    projection_expression: Option<String>,
    #[serde(default)]
    expression_attribute_names: BTreeMap<String, String>,
}

pub(super) fn batch_get_item(world: &mut World, caller: &Caller, body: &[u8]) -> Result<Bytes, ApiError> {
    let mut request: BatchGet = parse(body)?;
    let total: usize = request.request_items.values().map(|keys| keys.keys.len()).sum();
    if total == 0 || total > MAX_GETS {
        return Err(ApiError::validation("Too many items requested for the BatchGetItem call"));
    }
    let spared = spare(total, &mut world.moment);
    let mut capacity = Vec::new();
    let (mut responses, mut unprocessed) = (Answer::default(), Answer::default());
    let (mut index, mut bytes) = (0, 0);
    for (name, asked) in &mut request.request_items {
        let names = std::mem::take(&mut asked.expression_attribute_names);
        let again = serde_json::json!({
            "ConsistentRead": asked.consistent_read,
            "ProjectionExpression": asked.projection_expression,
            "ExpressionAttributeNames": (!names.is_empty()).then_some(&names),
        });
        let projection = Projection::read(asked.projection_expression.as_deref(), names)?;
        let address = world.address(caller, name)?;
        let mut place = world.place(&address)?;
        let mut consumed = Consumed::of(name);
        let mut seen = BTreeSet::new();
        let mut left = Vec::new();
        let out = responses.member(name);
        out.push(b'[');
        let mut first = true;
        for key in std::mem::take(&mut asked.keys) {
            let attributes = read_item(key)?;
            let key = place.table.key_alone(&attributes)?;
            if !seen.insert(key.clone()) {
                return Err(ApiError::validation("Provided list of item keys contains duplicates"));
            }
            let found = match place.stale_moment(asked.consistent_read) {
                Some(then) => place.table.item_as_of(&key, then).cloned(),
                None => place.table.items.get(&key).cloned(),
            };
            let size = found.as_ref().map_or(0, |stored| stored.size);
            let units = read_units(size, asked.consistent_read);
            let fits = bytes + size <= MAX_BATCH_BYTES;
            let goes = fits && !spared.contains(&index) && place.take_reads(key.hash, units).is_ok();
            index += 1;
            if !goes {
                left.push(item_json(&attributes));
                continue;
            }
            consumed.units += units;
            bytes += size;
            if let Some(stored) = found {
                out.extend_from_slice(if first { b"" } else { b"," });
                first = false;
                projection.write(&stored, out);
            }
        }
        out.push(b']');
        if !left.is_empty() {
            let mut again = again;
            let keys = left.iter().filter_map(|key| serde_json::from_slice(key).ok()).collect();
            if let Some(members) = again.as_object_mut() {
                members.retain(|_, value| !value.is_null());
                members.insert("Keys".to_owned(), serde_json::Value::Array(keys));
            }
            unprocessed.add(name, Some(again));
        }
        capacity.extend(consumed.json(request.return_consumed_capacity.as_deref()));
    }
    world.stats.reads += 1;
    let mut answer = Answer::default();
    answer.member("Responses").extend_from_slice(&responses.into_body());
    answer.member("UnprocessedKeys").extend_from_slice(&unprocessed.into_body());
    answer.add("ConsumedCapacity", (!capacity.is_empty()).then(|| capacity.into()));
    Ok(answer.into_body())
}
