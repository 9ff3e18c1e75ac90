//! The control plane: tables, tags, time to live, and what describes them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use super::auth::Caller;
use super::capacity::Capacity;
use super::definition::{read_definition, read_index, stream_view};
use super::events::Event;
use super::knobs::Knob;
use super::moment::Moment;
use super::record::View;
use super::reply::ApiError;
use super::stream::{NewStream, Stream};
use super::table::Table;
use super::world::{Address, Region, World, body, parse};
use crate::model::WallTime;

type Request = Map<String, Json>;

pub(super) fn execute(world: &mut World, operation: &str, caller: &Caller, bytes: &[u8]) -> Result<Bytes, ApiError> {
    let request: Request = parse(bytes)?;
    let answer = match operation {
        "CreateTable" => create_table(world, caller, &request)?,
        "DescribeTable" => {
            let address = named(world, caller, &request)?;
            json!({"Table": describe(world, &address)?})
        }
        "UpdateTable" => update_table(world, caller, &request)?,
        "DeleteTable" => delete_table(world, caller, &request)?,
        "ListTables" => list_tables(world, caller, &request)?,
        "ListTagsOfResource" | "TagResource" | "UntagResource" => tags(world, operation, caller, &request)?,
        "DescribeTimeToLive" | "UpdateTimeToLive" => time_to_live(world, caller, &request)?,
        "DescribeLimits" => json!({
            "AccountMaxReadCapacityUnits": 80_000, "AccountMaxWriteCapacityUnits": 80_000,
            "TableMaxReadCapacityUnits": 40_000, "TableMaxWriteCapacityUnits": 40_000,
        }),
        "DescribeEndpoints" => {
            json!({"Endpoints": [{"Address": format!("dynamodb.{}.amazonaws.com", caller.region), "CachePeriodInMinutes": 1440}]})
        }
        _ => return Err(ApiError::new("UnknownOperationException", format!("the sandbox does not know {operation}"))),
    };
    Ok(body(&answer))
}

fn text<'a>(request: &'a Request, member: &str) -> Result<&'a str, ApiError> {
    request.get(member).and_then(Json::as_str).ok_or_else(|| {
        ApiError::validation(format!(
            "1 validation error detected: Value null at '{member}' failed to satisfy constraint"
        ))
    })
}

fn named(world: &World, caller: &Caller, request: &Request) -> Result<Address, ApiError> {
    world.address(caller, text(request, "TableName")?)
}

fn no_such_table(address: &Address) -> ApiError {
    ApiError::not_found(format!("Requested resource not found: Table: {} not found", address.table))
}

fn create_table(world: &mut World, caller: &Caller, request: &Request) -> Result<Json, ApiError> {
    let address = named(world, caller, request)?;
    if world.place_any(&address).is_ok() {
        return Err(ApiError::in_use(format!("Table already exists: {}", address.table)));
    }
    let view = stream_view(request)?;
    let delay = world.moment.options.table_delay;
    let active_from = world.moment.now.plus(delay);
    make_table(world, &address, request, view.flatten(), active_from)?;
    Ok(json!({"TableDescription": describe(world, &address)?}))
}

/// Makes a table that is CREATING until then.
pub(super) fn make_table(
    world: &mut World,
    address: &Address,
    request: &Request,
    view: Option<View>,
    active_from: WallTime,
) -> Result<(), ApiError> {
    let arn = format!("arn:aws:dynamodb:{}:{}:table/{}", address.region, address.account, address.table);
    let definition = read_definition(request, &arn)?;
    let now = world.moment.now;
    let options = &world.moment.options;
    let table = Table {
        address: address.clone(),
        arn,
        id: new_id(&mut world.moment.rng),
        partition: definition.partition,
        sort: definition.sort,
        indexes: definition.indexes,
        described: definition.described,
        tags: read_tags(request.get("Tags")),
        time_to_live: None,
        deletion_protection: request.get("DeletionProtectionEnabled") == Some(&Json::Bool(true)),
        stream: None,
        stream_view: None,
        created: now,
        active_from,
        was_active: active_from <= now,
        deleted_at: None,
        items: BTreeMap::new(),
        bytes: 0,
        capacity: Capacity::new(options, now),
        poison: world.poisons.get(address).cloned(),
        history: VecDeque::new(),
        past: None,
    };
    add_table(world, table, view);
    Ok(())
}

fn new_id(rng: &mut fastrand::Rng) -> String {
    let id = format!("{:032x}", rng.u128(..));
    let part = |from: usize, to: usize| id.get(from..to).unwrap_or_default().to_owned();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

/// Puts a new table into the world, with a stream if it has one.
fn add_table(world: &mut World, mut table: Table, view: Option<View>) {
    let Address { account, region, table: name } = table.address.clone();
    let moment = &mut world.moment;
    let (id, at) = (table.id.as_str(), moment.now);
    moment.events.tell(&Event::TableCreated { account: &account, region: &region, table: &name, id, at });
    let region = world.regions.entry((account, region)).or_default();
    if let Some(view) = view {
        open_stream(&mut table, &mut region.streams, view, moment);
    }
    region.tables.insert(name, table);
}

/// Deletes a table and makes it anew: the same definition, but another id, no items, and another stream if it has one.
pub(super) fn recreate(world: &mut World, address: &Address) -> Result<(), ApiError> {
    let place = world.place_any(address)?;
    let moment = place.moment;
    moment.fault(Knob::TableRecreate);
    if let Some(stream) = place.stream.filter(|stream| stream.disabled.is_none()) {
        stream.disable(moment);
    }
    let old = place.table;
    let Address { account, region, table: name } = address;
    let (id, at) = (old.id.as_str(), moment.now);
    moment.events.tell(&Event::TableDeleted { account, region, table: name, id, at });
    let view = old.stream_view.and_then(View::parse);
    let table = Table {
        address: address.clone(),
        arn: old.arn.clone(),
        id: new_id(&mut moment.rng),
        partition: old.partition.clone(),
        sort: old.sort.clone(),
        indexes: old.indexes.clone(),
        described: old.described.clone(),
        tags: old.tags.clone(),
        time_to_live: old.time_to_live.clone(),
        deletion_protection: old.deletion_protection,
        stream: old.stream.clone().filter(|_| view.is_some()),
        stream_view: None,
        created: moment.now,
        active_from: moment.now,
        was_active: true,
        deleted_at: None,
        items: BTreeMap::new(),
        bytes: 0,
        capacity: Capacity::new(&moment.options, moment.now),
        poison: old.poison.clone(),
        history: VecDeque::new(),
        past: None,
    };
    add_table(world, table, view);
    Ok(())
}

/// Gives a table a new stream, with an ARN of its own.
fn open_stream(table: &mut Table, streams: &mut BTreeMap<String, Stream>, view: View, moment: &mut Moment) {
    let now = moment.now;
    let enabled_from = table.active_from.max(now.plus(moment.options.enabling_delay));
    let previous = table.stream.as_ref().and_then(|arn| streams.get(arn));
    let after = previous.map(|stream| stream.last);
    if previous.is_some() {
        moment.fault(Knob::StreamReenable);
    }
    let mut at = now;
    let (label, arn) = loop {
        let label = jiff::Timestamp::from_millisecond(at.millis())
            .map_or_else(|_| at.millis().to_string(), |time| time.strftime("%Y-%m-%dT%H:%M:%S.%3f").to_string());
        let arn = format!("{}/stream/{label}", table.arn);
        if !streams.contains_key(&arn) {
            break (label, arn);
        }
        at = at.plus(std::time::Duration::from_millis(1));
    };
    let key_schema = table.described.get("KeySchema").cloned().unwrap_or_default();
    let Address { account, region, table: name } = &table.address;
    moment.events.tell(&Event::StreamEnabled { account, region, table: name, stream: &arn, at: now });
    let new = NewStream { arn: arn.clone(), label, table: name.clone(), view, key_schema, enabled_from, after };
    streams.insert(arn.clone(), Stream::new(new, moment));
    table.stream = Some(arn);
    table.stream_view = Some(view.name());
}

fn update_table(world: &mut World, caller: &Caller, request: &Request) -> Result<Json, ApiError> {
    let address = named(world, caller, request)?;
    let view = stream_view(request)?;
    let delay = world.moment.options.table_delay;
    let place = world.place_any(&address).map_err(|_| no_such_table(&address))?;
    let now = place.moment.now;
    if place.table.status(now) != "ACTIVE" {
        return Err(ApiError::in_use(format!("Table is being changed: {}", address.table)));
    }
    let table = place.table;
    match view {
        Some(Some(_)) if table.stream_view.is_some() => {
            return Err(ApiError::validation(format!(
                "Table already has an enabled stream: TableName: {}",
                address.table
            )));
        }
        Some(None) if table.stream_view.is_none() => {
            return Err(ApiError::validation(format!("Table has no stream to disable: TableName: {}", address.table)));
        }
        _ => {}
    }
    if let Some(protected) = request.get("DeletionProtectionEnabled").and_then(Json::as_bool) {
        table.deletion_protection = protected;
    }
    super::definition::update(table, request)?;
    if let Some(view) = view {
        table.active_from = now.plus(delay);
        match view {
            None => {
                table.stream_view = None;
                if let Some(stream) = place.stream {
                    stream.disable(place.moment);
                }
            }
            Some(view) => {
                let key = (address.account.clone(), address.region.clone());
                let World { regions, moment, .. } = world;
                let Some(Region { tables, streams }) = regions.get_mut(&key) else { return Err(ApiError::internal()) };
                let Some(table) = tables.get_mut(&address.table) else { return Err(ApiError::internal()) };
                open_stream(table, streams, view, moment);
            }
        }
    }
    Ok(json!({"TableDescription": describe(world, &address)?}))
}

fn delete_table(world: &mut World, caller: &Caller, request: &Request) -> Result<Json, ApiError> {
    let address = named(world, caller, request)?;
    let delay = world.moment.options.table_delay;
    let place = world.place_any(&address).map_err(|_| no_such_table(&address))?;
    if place.table.deletion_protection {
        return Err(ApiError::validation(
            "Resource cannot be deleted as it is currently protected against deletion. Disable deletion protection first.",
        ));
    }
    if place.table.status(place.moment.now) != "ACTIVE" {
        return Err(ApiError::in_use(format!("Table is being changed: {}", address.table)));
    }
    let moment = place.moment;
    if let Some(stream) = place.stream.filter(|stream| stream.disabled.is_none()) {
        stream.disable(moment);
    }
    place.table.deleted_at = Some(moment.now.plus(delay));
    moment.events.tell(&Event::TableDeleted {
        account: &address.account,
        region: &address.region,
        table: &address.table,
        id: &place.table.id,
        at: moment.now,
    });
    let description = description(place.table, moment.now);
    if delay.is_zero() {
        // Gone with the next look at it.
        let _gone = world.place_any(&address).is_err();
    }
    Ok(json!({"TableDescription": description}))
}

fn list_tables(world: &World, caller: &Caller, request: &Request) -> Result<Json, ApiError> {
    let limit = match request.get("Limit").and_then(Json::as_u64) {
        None => 100,
        Some(limit @ 1..=100) => usize::try_from(limit).unwrap_or(100),
        Some(_) => return Err(ApiError::validation("Limit must be between 1 and 100")),
    };
    let after = request.get("ExclusiveStartTableName").and_then(Json::as_str).unwrap_or_default();
    let region = world.regions.get(&(caller.account.clone(), caller.region.clone()));
    let alive = |table: &&Table| table.deleted_at.is_none_or(|at| at > world.moment.now);
    let tables = region.iter().flat_map(|region| region.tables.values()).filter(alive);
    let mut names: Vec<&str> = tables.map(|table| table.address.table.as_str()).filter(|name| *name > after).collect();
    let more = names.len() > limit;
    names.truncate(limit);
    let mut answer = json!({"TableNames": names});
    if let (true, Some(last), Some(members)) = (more, names.last(), answer.as_object_mut()) {
        members.insert("LastEvaluatedTableName".to_owned(), (*last).into());
    }
    Ok(answer)
}

fn read_tags(tags: Option<&Json>) -> BTreeMap<String, String> {
    let pair = |tag: &Json| Some((tag.get("Key")?.as_str()?.to_owned(), tag.get("Value")?.as_str()?.to_owned()));
    tags.and_then(Json::as_array).into_iter().flatten().filter_map(pair).collect()
}

fn tags(world: &mut World, operation: &str, caller: &Caller, request: &Request) -> Result<Json, ApiError> {
    let address = world.address(caller, text(request, "ResourceArn")?)?;
    let place = world.place_any(&address)?;
    match operation {
        "TagResource" => place.table.tags.extend(read_tags(request.get("Tags"))),
        "UntagResource" => {
            for key in request.get("TagKeys").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
                place.table.tags.remove(key);
            }
        }
        _ => {
            let tags: Vec<Json> =
                place.table.tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
            return Ok(json!({"Tags": tags}));
        }
    }
    Ok(json!({}))
}

fn time_to_live(world: &mut World, caller: &Caller, request: &Request) -> Result<Json, ApiError> {
    let address = named(world, caller, request)?;
    let place = world.place_any(&address).map_err(|_| no_such_table(&address))?;
    let Some(specification) = request.get("TimeToLiveSpecification") else {
        return Ok(json!({"TimeToLiveDescription": match &place.table.time_to_live {
            Some(attribute) => json!({"TimeToLiveStatus": "ENABLED", "AttributeName": attribute}),
            None => json!({"TimeToLiveStatus": "DISABLED"}),
        }}));
    };
    let enabled = specification.get("Enabled") == Some(&Json::Bool(true));
    let attribute = specification.get("AttributeName").and_then(Json::as_str).unwrap_or_default();
    if attribute.is_empty() {
        return Err(ApiError::validation("TimeToLiveSpecification needs an AttributeName"));
    }
    if enabled == place.table.time_to_live.is_some() {
        let state = if enabled { "enabled" } else { "disabled" };
        return Err(ApiError::validation(format!("TimeToLive is already {state}")));
    }
    place.table.time_to_live = enabled.then(|| attribute.to_owned());
    Ok(json!({"TimeToLiveSpecification": specification}))
}

/// DescribeTable's answer for a table.
fn describe(world: &mut World, address: &Address) -> Result<Json, ApiError> {
    let place = world.place_any(address).map_err(|_| no_such_table(address))?;
    Ok(description(place.table, place.moment.now))
}

fn description(table: &Table, now: WallTime) -> Json {
    let status = table.status(now);
    let mut members = table.described.clone();
    for indexes in ["GlobalSecondaryIndexes", "LocalSecondaryIndexes"] {
        for index in members.get_mut(indexes).and_then(Json::as_array_mut).into_iter().flatten() {
            let keys = index.get("IndexName").and_then(Json::as_str).and_then(|name| read_index(table, name));
            let inside = |attributes: &super::value::Item| {
                keys.is_some_and(|keys| keys.iter().all(|key| attributes.contains_key(&key.name)))
            };
            let sizes = table.items.values().filter(|stored| inside(&stored.attributes)).map(|stored| stored.size);
            let (count, bytes) = sizes.fold((0_usize, 0), |(count, bytes), size| (count + 1, bytes + size));
            if let Some(index) = index.as_object_mut() {
                index.insert("ItemCount".to_owned(), count.into());
                index.insert("IndexSizeBytes".to_owned(), bytes.into());
                if indexes == "GlobalSecondaryIndexes" {
                    let status = if status == "CREATING" { status } else { "ACTIVE" };
                    index.insert("IndexStatus".to_owned(), status.into());
                }
            }
        }
    }
    let created = serde_json::Number::from_f64(table.created.as_secs_f64()).map_or(Json::Null, Json::Number);
    members.extend([
        ("TableName".to_owned(), table.address.table.clone().into()),
        ("TableArn".to_owned(), table.arn.clone().into()),
        ("TableId".to_owned(), table.id.clone().into()),
        ("TableStatus".to_owned(), status.into()),
        ("CreationDateTime".to_owned(), created),
        ("ItemCount".to_owned(), table.items.len().into()),
        ("TableSizeBytes".to_owned(), table.bytes.into()),
        ("DeletionProtectionEnabled".to_owned(), table.deletion_protection.into()),
    ]);
    if let Some(arn) = &table.stream {
        members.insert("LatestStreamArn".to_owned(), arn.clone().into());
        let label = arn.rsplit('/').next().unwrap_or_default();
        members.insert("LatestStreamLabel".to_owned(), label.into());
    }
    if let Some(view) = table.stream_view {
        members.insert("StreamSpecification".to_owned(), json!({"StreamEnabled": true, "StreamViewType": view}));
    }
    members.into()
}
