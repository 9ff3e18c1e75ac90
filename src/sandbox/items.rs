//! Single-item operations: PutItem, GetItem, DeleteItem, UpdateItem, and the one function that changes an item.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::auth::Caller;
use super::capacity::{Demand, Use};
use super::events::{Changed, Event, RecordAt};
use super::expression::{Condition, Names, Projection, Update};
use super::faults::FaultKind;
use super::knobs::Knob;
use super::record::Record;
use super::reply::ApiError;
use super::table::{ItemKey, read_units, write_units};
use super::transact::ONGOING;
use super::value::{Item, Stored, Wire, WireItem, item_json, item_size, read_item, write_item};
use super::world::{Address, Place, World, parse};
use crate::model::WallTime;

/// What PutItem, DeleteItem, UpdateItem and the actions of a transaction have in common.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WriteRequest {
    pub(super) table_name: String,
    pub(super) item: Option<WireItem>,
    pub(super) key: Option<WireItem>,
    #[serde(default)]
    pub(super) condition_expression: Option<String>,
    #[serde(default)]
    pub(super) update_expression: Option<String>,
    #[serde(default)]
    pub(super) expression_attribute_names: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) expression_attribute_values: BTreeMap<String, Wire>,
    #[serde(default)]
    return_values: Option<String>,
    #[serde(default)]
    pub(super) return_values_on_condition_check_failure: Option<String>,
    #[serde(default)]
    return_consumed_capacity: Option<String>,
    #[serde(flatten)]
    legacy: Legacy,
}

/// Parameters of the time before expressions. They are refused: ignoring them would answer another question.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Legacy {
    attribute_updates: Option<IgnoredAny>,
    attributes_to_get: Option<IgnoredAny>,
    expected: Option<IgnoredAny>,
    key_conditions: Option<IgnoredAny>,
    query_filter: Option<IgnoredAny>,
    scan_filter: Option<IgnoredAny>,
}

impl Legacy {
    pub(super) fn refuse(&self) -> Result<(), ApiError> {
        let given = [
            &self.attribute_updates,
            &self.attributes_to_get,
            &self.expected,
            &self.key_conditions,
            &self.query_filter,
            &self.scan_filter,
        ];
        if given.iter().any(|parameter| parameter.is_some()) {
            return Err(ApiError::validation("the sandbox knows no legacy parameters: use expressions"));
        }
        Ok(())
    }
}

/// A write that was checked: what the item is to become.
pub(super) struct Intent {
    pub(super) key: ItemKey,
    condition: Option<Condition>,
    becomes: Becomes,
}

enum Becomes {
    Put(Arc<Stored>),
    Gone,
    Updated {
        update: Update,
        key: Item,
    },
    /// A transaction's ConditionCheck.
    Same,
}

/// Which kind of write a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    Delete,
    Update,
    Check,
}

impl Intent {
    /// Reads and checks a request against its table; nothing is changed.
    pub(super) fn read(kind: Kind, request: &mut WriteRequest, place: &Place<'_>) -> Result<Self, ApiError> {
        request.legacy.refuse()?;
        let mut names = Names::new(
            std::mem::take(&mut request.expression_attribute_names),
            std::mem::take(&mut request.expression_attribute_values),
        )?;
        let condition =
            request.condition_expression.as_deref().map(|text| Condition::parse(text, &mut names)).transpose()?;
        let update = request.update_expression.as_deref().map(|text| Update::parse(text, &mut names)).transpose()?;
        names.finish()?;
        let missing = |what: &str| ApiError::validation(format!("1 validation error detected: Value null at '{what}'"));
        let (key, becomes) = if kind == Kind::Put {
            let stored = Stored::new(read_item(request.item.take().ok_or_else(|| missing("item"))?)?);
            let key = place.table.key_of_item(&stored.attributes)?;
            place.table.check_item(&stored, place.moment)?;
            (key, Becomes::Put(stored))
        } else {
            let attributes = read_item(request.key.take().ok_or_else(|| missing("key"))?)?;
            let key = place.table.key_alone(&attributes)?;
            let becomes = match kind {
                Kind::Delete => Becomes::Gone,
                Kind::Check => Becomes::Same,
                Kind::Put | Kind::Update => {
                    let update = update.unwrap_or_default();
                    if let Some(attribute) = place.table.keys().find(|attribute| update.touches(&attribute.name)) {
                        return Err(ApiError::validation(format!(
                            "One or more parameter values were invalid: Cannot update attribute {}. This attribute is \
                             part of the key",
                            attribute.name
                        )));
                    }
                    Becomes::Updated { update, key: attributes }
                }
            };
            (key, becomes)
        };
        Ok(Self { key, condition, becomes })
    }

    /// What the item becomes, given what it is.
    pub(super) fn outcome(&self, place: &Place<'_>) -> Result<Option<Arc<Stored>>, ApiError> {
        let old = place.table.items.get(&self.key);
        let empty = Item::new();
        let attributes = old.map_or(&empty, |stored| &stored.attributes);
        if let Some(condition) = &self.condition
            && !condition.holds(attributes)
        {
            return Err(ApiError::condition_failed());
        }
        Ok(match &self.becomes {
            Becomes::Put(stored) => Some(Arc::clone(stored)),
            Becomes::Gone => None,
            Becomes::Same => old.cloned(),
            Becomes::Updated { update, key } => {
                let mut item = old.map_or_else(|| key.clone(), |stored| stored.attributes.clone());
                update.apply(&mut item)?;
                let stored = Stored::new(item);
                place.table.check_item(&stored, place.moment)?;
                Some(stored)
            }
        })
    }
}

impl Place<'_> {
    /// Changes one item and records the change; hands back what was there. A change of nothing leaves no record.
    pub(super) fn change(&mut self, key: &ItemKey, new: Option<Arc<Stored>>, expired: bool) -> Option<Arc<Stored>> {
        let old = self.table.replace(key, new.clone());
        let is_noop = match (&old, &new) {
            (None, None) => true,
            (Some(old), Some(new)) => old.attributes == new.attributes,
            _ => false,
        };
        let at = self.moment.now;
        if !is_noop {
            self.table.remember(key, old.clone(), at, self.moment.options.stale_reads);
            if let Some(past) = &mut self.table.past {
                past.changed(at, key, old.clone());
            }
        }
        let mut record = None;
        if let Some(stream) = self.stream.as_deref_mut().filter(|stream| !is_noop && stream.disabled.is_none())
            && let Some(image) = new.as_ref().or(old.as_ref())
        {
            let keys = self.table.key_attributes(&image.attributes);
            let (keys_size, keys) = (item_size(&keys), item_json(&keys));
            let (new, old) = (new.clone(), old.clone());
            let make = |sequence, event_id| Record { sequence, at, event_id, keys, keys_size, new, old, expired };
            let place = stream.append(key.hash, make, self.moment);
            if self.moment.events.are_watched() {
                record = place.map(|(shard, sequence)| (shard.to_owned(), sequence.to_string()));
            }
        }
        if self.moment.events.are_watched() {
            let Address { account, region, table } = &self.table.address;
            let stream = self.stream.as_deref().map_or("", |stream| &stream.arn);
            let record = record.as_ref().map(|(shard, sequence)| RecordAt { stream, shard, sequence });
            self.moment.events.tell(&Event::Changed(Changed {
                account,
                region,
                table,
                key: &key.canonical(),
                image: new.as_ref().map(|stored| &stored.attributes),
                before: old.as_ref().map(|stored| &stored.attributes),
                record,
                at,
                is_noop,
                is_late: self.moment.events.is_late,
                by: if expired { "TimeToLive" } else { self.moment.events.by },
            }));
        }
        old
    }

    /// Takes write units for an item; an error if there are none left.
    pub(super) fn take_writes(&mut self, hash: u64, units: f64) -> Result<(), ApiError> {
        self.take(Use::Write, hash, units)
    }

    /// Takes read units for an item; an error if there are none left.
    pub(super) fn take_reads(&mut self, hash: u64, units: f64) -> Result<(), ApiError> {
        self.take(Use::Read, hash, units)
    }

    /// Takes write units, also those that are not there.
    pub(super) fn charge_writes(&mut self, hash: u64, units: f64) {
        let is_on_demand = self.table.is_on_demand();
        self.table.capacity.charge(Demand { used: Use::Write, hash, units, is_on_demand });
    }

    fn take(&mut self, used: Use, hash: u64, units: f64) -> Result<(), ApiError> {
        let options = &self.moment.options;
        let demand = Demand { used, hash, units, is_on_demand: self.table.is_on_demand() };
        match self.table.capacity.check(demand, options, self.moment.now) {
            Ok(()) => {
                self.table.capacity.charge(demand);
                Ok(())
            }
            Err(limit) => {
                self.moment.fault(limit);
                let (code, reason) = match limit {
                    Knob::TableBucket => ("ProvisionedThroughputExceededException", "ProvisionedThroughputExceeded"),
                    _ => ("ThrottlingException", "KeyRangeThroughputExceeded"),
                };
                Err(ApiError::throttled(code).because(&format!("Table{used:?}{reason}"), &self.table.arn))
            }
        }
    }

    /// As of when a read is to be answered that does not ask for consistency, if not as of now.
    pub(super) fn stale_moment(&mut self, is_consistent: bool) -> Option<WallTime> {
        let most = self.moment.options.stale_reads;
        if is_consistent || most.is_zero() || self.moment.twist != Some(FaultKind::StaleRead) {
            return None;
        }
        let then = self.moment.now.minus(most.mul_f64(self.moment.knobs.chance(Knob::ScanStale).f64()));
        if self.table.history.back().is_some_and(|(at, _, _)| *at > then) {
            self.moment.fault(Knob::ScanStale);
        }
        Some(then)
    }
}

/// Capacity that a request used up, as the answer tells it.
#[derive(Debug, Default, Clone)]
pub(super) struct Consumed {
    pub(super) table: String,
    pub(super) units: f64,
    pub(super) indexes: BTreeMap<(bool, String), f64>,
}

impl Consumed {
    pub(super) fn of(table: &str) -> Self {
        Self { table: table.to_owned(), ..Self::default() }
    }

    /// Adds the write units of one change; hands back their sum.
    pub(super) fn add_write(
        &mut self,
        place: &Place<'_>,
        old: Option<&Stored>,
        new: Option<&Stored>,
        factor: f64,
    ) -> f64 {
        let (base, indexes) = write_units(place.table, old, new);
        self.units += base * factor;
        let mut sum = base * factor;
        for (name, global, units) in indexes {
            *self.indexes.entry((global, name)).or_default() += units * factor;
            sum += units * factor;
        }
        sum
    }

    /// The answer's member, if the request asked for it.
    pub(super) fn json(&self, asked: Option<&str>) -> Option<serde_json::Value> {
        let detailed = match asked {
            Some("TOTAL") => false,
            Some("INDEXES") => true,
            _ => return None,
        };
        let total = self.units + self.indexes.values().sum::<f64>();
        let mut json = serde_json::json!({"TableName": self.table, "CapacityUnits": total});
        if detailed && let Some(members) = json.as_object_mut() {
            members.insert("Table".to_owned(), serde_json::json!({"CapacityUnits": self.units}));
            for (global, member) in [(true, "GlobalSecondaryIndexes"), (false, "LocalSecondaryIndexes")] {
                let indexes: serde_json::Map<_, _> = self
                    .indexes
                    .iter()
                    .filter(|((is_global, _), _)| *is_global == global)
                    .map(|((_, name), units)| (name.clone(), serde_json::json!({"CapacityUnits": units})))
                    .collect();
                if !indexes.is_empty() {
                    members.insert(member.to_owned(), indexes.into());
                }
            }
        }
        Some(json)
    }
}

/// An answer put together from ready JSON members.
#[derive(Debug, Default)]
pub(super) struct Answer(Vec<u8>);

impl Answer {
    /// An answer of about so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Begins a member; its value is to be appended to what this hands back.
    pub(super) fn member(&mut self, name: &str) -> &mut Vec<u8> {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        self.0.extend_from_slice(format!("\"{name}\":").as_bytes());
        &mut self.0
    }

    pub(super) fn add(&mut self, name: &str, value: Option<serde_json::Value>) {
        if let Some(value) = value {
            self.member(name).extend_from_slice(value.to_string().as_bytes());
        }
    }

    pub(super) fn into_body(mut self) -> Bytes {
        self.0.extend_from_slice(if self.0.is_empty() { b"{}" } else { b"}" });
        self.0.into()
    }
}

pub(super) fn put_item(world: &mut World, caller: &Caller, body: &[u8]) -> Result<Bytes, ApiError> {
    write(world, caller, body, Kind::Put)
}

pub(super) fn delete_item(world: &mut World, caller: &Caller, body: &[u8]) -> Result<Bytes, ApiError> {
    write(world, caller, body, Kind::Delete)
}

pub(super) fn update_item(world: &mut World, caller: &Caller, body: &[u8]) -> Result<Bytes, ApiError> {
    write(world, caller, body, Kind::Update)
}

fn write(world: &mut World, caller: &Caller, body: &[u8], kind: Kind) -> Result<Bytes, ApiError> {
    let mut request: WriteRequest = parse(body)?;
    let address = world.address(caller, &request.table_name)?;
    let mut place = world.place(&address)?;
    let allowed = match kind {
        Kind::Update => ["NONE", "ALL_OLD", "ALL_NEW", "UPDATED_OLD", "UPDATED_NEW"].as_slice(),
        _ => &["NONE", "ALL_OLD"],
    };
    if request.return_values.as_deref().is_some_and(|asked| !allowed.contains(&asked)) {
        return Err(ApiError::validation("Return values set to invalid value"));
    }
    let intent = Intent::read(kind, &mut request, &place)?;
    if place.moment.twist == Some(FaultKind::TransactionConflict) {
        place.moment.fault(Knob::TransactionConflict);
        return Err(ApiError::new("TransactionConflictException", ONGOING));
    }
    let new = match intent.outcome(&place) {
        Ok(new) => new,
        Err(mut error) => {
            let shown = request.return_values_on_condition_check_failure.as_deref() == Some("ALL_OLD");
            if error.code == "ConditionalCheckFailedException" && shown {
                let old = place.table.items.get(&intent.key);
                let item = old.and_then(|stored| serde_json::from_slice(&stored.json).ok());
                if let Some(item) = item {
                    error = error.with("Item", item);
                }
            }
            place.charge_writes(intent.key.hash, 1.0);
            return Err(error);
        }
    };
    let mut consumed = Consumed::of(&request.table_name);
    let old = place.table.items.get(&intent.key).cloned();
    let units = consumed.add_write(&place, old.as_deref(), new.as_deref(), 1.0);
    place.take_writes(intent.key.hash, units)?;
    place.change(&intent.key, new.clone(), false);
    world.stats.writes += 1;
    let shown = match (request.return_values.as_deref(), &intent.becomes) {
        (None | Some("NONE"), _) => None,
        (Some("ALL_OLD"), _) => old.map(|stored| stored.attributes.clone()),
        (Some("ALL_NEW"), Becomes::Updated { .. }) => new.map(|stored| stored.attributes.clone()),
        (Some("UPDATED_NEW"), Becomes::Updated { update, .. }) => new.map(|stored| update.touched(&stored.attributes)),
        (Some("UPDATED_OLD"), Becomes::Updated { update, .. }) => old.map(|stored| update.touched(&stored.attributes)),
        (Some(_), _) => None,
    };
    let mut answer = Answer::default();
    if let Some(attributes) = shown.filter(|attributes| !attributes.is_empty()) {
        write_item(&attributes, answer.member("Attributes"));
    }
    answer.add("ConsumedCapacity", consumed.json(request.return_consumed_capacity.as_deref()));
    Ok(answer.into_body())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetItem {
    table_name: String,
    key: WireItem,
    #[serde(default)]
    consistent_read: bool,
    #[serde(default)]
    projection_expression: Option<String>,
    #[serde(default)]
    expression_attribute_names: BTreeMap<String, String>,
    #[serde(default)]
    return_consumed_capacity: Option<String>,
    #[serde(flatten)]
    legacy: Legacy,
}

pub(super) fn get_item(world: &mut World, caller: &Caller, body: &[u8]) -> Result<Bytes, ApiError> {
    let request: GetItem = parse(body)?;
    request.legacy.refuse()?;
    let projection = Projection::read(request.projection_expression.as_deref(), request.expression_attribute_names)?;
    let address = world.address(caller, &request.table_name)?;
    let mut place = world.place(&address)?;
    let key = place.table.key_alone(&read_item(request.key)?)?;
    let found = match place.stale_moment(request.consistent_read) {
        Some(then) => place.table.item_as_of(&key, then).cloned(),
        None => place.table.items.get(&key).cloned(),
    };
    let mut consumed = Consumed::of(&request.table_name);
    consumed.units = read_units(found.as_ref().map_or(0, |stored| stored.size), request.consistent_read);
    place.take_reads(key.hash, consumed.units)?;
    world.stats.reads += 1;
    let mut answer = Answer::default();
    if let Some(stored) = found {
        projection.write(&stored, answer.member("Item"));
    }
    answer.add("ConsumedCapacity", consumed.json(request.return_consumed_capacity.as_deref()));
    Ok(answer.into_body())
}
