//! Scan and Query: pages of items, in the order of the partition keys' hash.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::auth::Caller;
use super::expression::{Condition, KeyCondition, Names, Projection};
use super::faults::FaultKind;
use super::items::{Answer, Consumed, Legacy};
use super::knobs::Knob;
use super::reply::ApiError;
use super::table::{Index, ItemKey, Items, Table, hash_of, key_bytes, read_units};
use super::value::{Item, Stored, Wire, WireItem, read_item, write_item};
use super::world::{Place, World, parse};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReadRequest {
    table_name: String,
    index_name: Option<String>,
    limit: Option<i64>,
    segment: Option<u32>,
    total_segments: Option<u32>,
    exclusive_start_key: Option<WireItem>,
    #[serde(default)]
    consistent_read: bool,
    select: Option<String>,
    projection_expression: Option<String>,
    filter_expression: Option<String>,
    key_condition_expression: Option<String>,
    #[serde(default = "yes")]
    scan_index_forward: bool,
    #[serde(default)]
    expression_attribute_names: BTreeMap<String, String>,
    #[serde(default)]
    expression_attribute_values: BTreeMap<String, Wire>,
    return_consumed_capacity: Option<String>,
    #[serde(flatten)]
    legacy: Legacy,
}

const fn yes() -> bool {
    true
}

/// Where an item lies in what is read: in the table, or in an index.
type Row = (ItemKey, ItemKey, Arc<Stored>);

pub(super) fn scan(world: &mut World, caller: &Caller, body: &[u8]) -> Result<Bytes, ApiError> {
    let request: ReadRequest = parse(body)?;
    let hashes = match (request.segment, request.total_segments) {
        (None, None) => (0, u128::from(u64::MAX) + 1),
        (Some(segment), Some(total)) if segment < total && total <= 1_000_000 => {
            let bound = |part: u32| (u128::from(part) << 64) / u128::from(total);
            (bound(segment), bound(segment + 1))
        }
        _ => {
            return Err(ApiError::validation(
                "The Segment parameter is zero-based and must be less than parameter TotalSegments, at most 1000000",
            ));
        }
    };
    read(world, caller, request, Some(hashes))
}

pub(super) fn query(world: &mut World, caller: &Caller, body: &[u8]) -> Result<Bytes, ApiError> {
    read(world, caller, parse(body)?, None)
}

fn read(
    world: &mut World,
    caller: &Caller,
    mut request: ReadRequest,
    segment: Option<(u128, u128)>,
) -> Result<Bytes, ApiError> {
    request.legacy.refuse()?;
    let limit = match request.limit {
        None => usize::MAX,
        Some(limit) => usize::try_from(limit).ok().filter(|limit| *limit > 0).ok_or_else(|| {
            ApiError::validation("1 validation error detected: Value at 'limit' must be greater than or equal to 1")
        })?,
    };
    let address = world.address(caller, &request.table_name)?;
    let mut place = world.place(&address)?;
    let index = request.index_name.as_ref().map(|name| find_index(place.table, name)).transpose()?;
    if request.consistent_read && index.as_ref().is_some_and(|index| index.global) {
        return Err(ApiError::validation("Consistent reads are not supported on global secondary indexes"));
    }
    let mut names = Names::new(
        std::mem::take(&mut request.expression_attribute_names),
        std::mem::take(&mut request.expression_attribute_values),
    )?;
    let partition = index.as_ref().and_then(|index| index.keys.first()).unwrap_or(&place.table.partition);
    let wanted = match (&request.key_condition_expression, segment) {
        (Some(text), None) => Some(KeyCondition::parse(text, &partition.name, &mut names)?),
        (None, Some(_)) => None,
        _ => {
            return Err(ApiError::validation(
                "Either the KeyConditions or KeyConditionExpression parameter must be specified",
            ));
        }
    };
    let filter = request.filter_expression.as_deref().map(|text| Condition::parse(text, &mut names)).transpose()?;
    let projection = Projection::parse(request.projection_expression.as_deref(), &mut names)?;
    names.finish()?;
    let start = request.exclusive_start_key.take().map(read_item).transpose()?;
    let start = start.map(|key| start_key(place.table, index.as_ref(), &key)).transpose()?;
    if let (Some((_, start)), Some((first, end))) = (&start, segment)
        && index.is_none()
        && !(first..end).contains(&u128::from(start.hash))
    {
        return Err(ApiError::validation("The provided starting key is outside the range of the segment"));
    }

    let max_bytes = place.moment.options.max_page_bytes;
    let then = place.stale_moment(request.consistent_read);
    let limit = limit.min(split_under(&mut place, &wanted, segment, (index.as_ref(), start.as_ref())));
    let past = then.map(|then| place.table.items_as_of(then));
    let items = past.as_ref().unwrap_or(&place.table.items);
    let rows = Rows { items, index: index.as_ref(), start: start.as_ref() };
    let mut page =
        Page { filter, projection, counts_only: request.select.as_deref() == Some("COUNT"), ..Page::default() };
    let mut last = None;
    let mut hash = segment.map_or(0, |(first, _)| u64::try_from(first).unwrap_or(u64::MAX));
    let mut visit = |row: Row| {
        page.take(&row.2);
        hash = row.1.hash;
        let full = page.scanned >= limit || page.bytes >= max_bytes;
        if full {
            last = Some(row.2);
        }
        !full
    };
    match (&wanted, segment) {
        (Some(wanted), _) => rows.of_partition(wanted, request.scan_index_forward, &mut visit),
        (None, segment) => rows.of_hashes(segment.unwrap_or_default(), &mut visit),
    }
    let last_key = last.map(|stored| {
        let mut key = place.table.key_attributes(&stored.attributes);
        for attribute in index.iter().flat_map(|index| &index.keys) {
            key.extend(stored.attributes.get(&attribute.name).map(|value| (attribute.name.clone(), value.clone())));
        }
        key
    });
    let mut consumed = Consumed::of(&request.table_name);
    consumed.units = read_units(page.bytes, request.consistent_read);
    place.take_reads(hash, consumed.units)?;
    world.stats.reads += 1;

    let mut answer = Answer::default();
    answer.add("ConsumedCapacity", consumed.json(request.return_consumed_capacity.as_deref()));
    answer.add("Count", Some(page.count.into()));
    if !page.counts_only {
        let out = answer.member("Items");
        out.push(b'[');
        out.extend_from_slice(&page.items);
        out.push(b']');
    }
    if let Some(key) = last_key {
        write_item(&key, answer.member("LastEvaluatedKey"));
    }
    answer.add("ScannedCount", Some(page.scanned.into()));
    Ok(answer.into_body())
}

/// After how many items a page of a Scan ends because the partition splits there, if the fault plan says so.
fn split_under(
    place: &mut Place<'_>,
    wanted: &Option<KeyCondition>,
    segment: Option<(u128, u128)>,
    (index, start): (Option<&Index>, Option<&(ItemKey, ItemKey)>),
) -> usize {
    let (Some(FaultKind::SplitPartition), None, Some(segment)) = (&place.moment.twist, wanted, segment) else {
        return usize::MAX;
    };
    let mut hashes = Vec::new();
    let rows = Rows { items: &place.table.items, index, start };
    rows.of_hashes(segment, &mut |row| {
        hashes.push(row.1.hash);
        true
    });
    if hashes.len() < 2 {
        return usize::MAX;
    }
    let count = place.moment.knobs.chance(Knob::ScanPartitionSplit).usize(1..hashes.len());
    if let Some(hash) = hashes.get(count - 1) {
        place.table.capacity.split(*hash);
    }
    place.moment.fault(Knob::ScanPartitionSplit);
    count
}

fn find_index(table: &Table, name: &str) -> Result<Index, ApiError> {
    let missing = || ApiError::validation(format!("The table does not have the specified index: {name}"));
    table.indexes.iter().find(|index| index.name == name).cloned().ok_or_else(missing)
}

/// The place after which a page begins: in the index (or the table again), and in the table.
fn start_key(table: &Table, index: Option<&Index>, key: &Item) -> Result<(ItemKey, ItemKey), ApiError> {
    let invalid = || ApiError::validation("The provided starting key is invalid");
    let own = table.key_alone(&table.key_attributes(key)).map_err(|_| invalid())?;
    match index {
        None if key.len() == table.keys().count() => Ok((own.clone(), own)),
        None => Err(invalid()),
        Some(index) => Ok((index_key(index, key).ok_or_else(invalid)?, own)),
    }
}

/// Where an item lies in an index; `None` if it is not in there.
fn index_key(index: &Index, item: &Item) -> Option<ItemKey> {
    let mut parts = index.keys.iter().map(|key| item.get(&key.name).and_then(key_bytes));
    let partition = parts.next()??;
    let sort = match parts.next() {
        Some(sort) => sort?,
        None => Vec::new(),
    };
    Some(ItemKey { hash: hash_of(&partition), partition: partition.into(), sort: sort.into() })
}

/// What a page gathers.
#[derive(Debug, Default)]
struct Page {
    filter: Option<Condition>,
    projection: Projection,
    counts_only: bool,
    items: Vec<u8>,
    count: usize,
    scanned: usize,
    bytes: usize,
}

impl Page {
    fn take(&mut self, stored: &Stored) {
        self.scanned += 1;
        self.bytes += stored.size;
        if self.filter.as_ref().is_some_and(|filter| !filter.holds(&stored.attributes)) {
            return;
        }
        self.count += 1;
        if !self.counts_only {
            if self.count > 1 {
                self.items.push(b',');
            }
            self.projection.write(stored, &mut self.items);
        }
    }
}

/// The items of a table or an index, in reading order.
struct Rows<'a> {
    items: &'a Items,
    index: Option<&'a Index>,
    start: Option<&'a (ItemKey, ItemKey)>,
}

impl Rows<'_> {
    /// Visits the items of a range of hashes, end exclusive, until the visitor says stop.
    fn of_hashes(&self, (first, end): (u128, u128), visit: &mut dyn FnMut(Row) -> bool) {
        let inside = |key: &ItemKey| u128::from(key.hash) >= first && u128::from(key.hash) < end;
        if self.index.is_some() {
            let rows = self.index_rows(|key| inside(key));
            let _all = rows.into_iter().all(visit);
            return;
        }
        let from = u64::try_from(first).unwrap_or(u64::MAX);
        let lower = match self.start {
            Some((start, _)) => Bound::Excluded(start.clone()),
            None => Bound::Included(ItemKey::first_of(from)),
        };
        let rows = self.items.range((lower, Bound::Unbounded)).take_while(|(key, _)| inside(key));
        let _all = rows.map(|(key, stored)| (key.clone(), key.clone(), Arc::clone(stored))).all(visit);
    }

    /// Visits the items of one partition key, in the order of the sort key or backwards.
    fn of_partition(&self, wanted: &KeyCondition, forward: bool, visit: &mut dyn FnMut(Row) -> bool) {
        let Some(partition) = key_bytes(&wanted.partition) else { return };
        let hash = hash_of(&partition);
        let mut rows: Vec<Row> = if self.index.is_some() {
            self.index_rows(|key| *key.partition == *partition)
        } else {
            let first = ItemKey { hash, partition: partition.clone().into(), sort: Box::default() };
            let rows = self.items.range(first..).take_while(|(key, _)| *key.partition == *partition);
            rows.map(|(key, stored)| (key.clone(), key.clone(), Arc::clone(stored))).collect()
        };
        if !forward {
            rows.reverse();
        }
        if let Some((start, own)) = self.start {
            rows.retain(|(key, of_table, _)| {
                let order = (key, of_table).cmp(&(start, own));
                if forward { order.is_gt() } else { order.is_lt() }
            });
        }
        let _all = rows.into_iter().filter(|(_, _, stored)| wanted.whole.holds(&stored.attributes)).all(visit);
    }

    /// The index's entries: the table is read in full each time, which is slow and always right.
    fn index_rows(&self, wanted: impl Fn(&ItemKey) -> bool) -> Vec<Row> {
        let Some(index) = self.index else { return Vec::new() };
        let entry = |(own, stored): (&ItemKey, &Arc<Stored>)| {
            let key = index_key(index, &stored.attributes)?;
            wanted(&key).then(|| (key, own.clone(), Arc::clone(stored)))
        };
        let mut rows: Vec<Row> = self.items.iter().filter_map(entry).collect();
        rows.sort_by(|left, right| (&left.0, &left.1).cmp(&(&right.0, &right.1)));
        rows
    }
}
