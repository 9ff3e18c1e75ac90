//! One table: its definition, its items in scan order, and what an item must satisfy to be stored.
//!
//! Items are ordered by the hash of the partition key, then by key. So a segment of a parallel scan is a range, and the
//! shards of the stream own ranges of the same hash.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::capacity::Capacity;
use super::knobs::Knob;
use super::moment::Moment;
use super::past::Past;
use super::reply::ApiError;
use super::value::{Item, Stored, Value};
use super::world::Address;
use crate::model::WallTime;

/// Bytes of an item at most (AWS facts 4.3).
const MAX_ITEM_BYTES: usize = 400 * 1024;
const MAX_PARTITION_KEY_BYTES: usize = 2048;
const MAX_SORT_KEY_BYTES: usize = 1024;

/// A key attribute: name and type tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyAttribute {
    pub(super) name: String,
    pub(super) kind: String,
}

/// A secondary index, as far as writes and queries look at it.
#[derive(Debug, Clone)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) global: bool,
    pub(super) keys: Vec<KeyAttribute>,
}

/// Where an item lies in its table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ItemKey {
    pub(super) hash: u64,
    pub(super) partition: Box<[u8]>,
    pub(super) sort: Box<[u8]>,
}

impl ItemKey {
    /// Smallest key of a hash, present or not.
    pub(super) fn first_of(hash: u64) -> Self {
        Self { hash, partition: Box::default(), sort: Box::default() }
    }

    /// Canonical bytes of both parts, length-prefixed.
    pub(super) fn canonical(&self) -> Vec<u8> {
        let length = u32::try_from(self.partition.len()).unwrap_or(u32::MAX).to_be_bytes();
        [length.as_slice(), &self.partition, &self.sort].concat()
    }
}

/// One table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) address: Address,
    pub(super) arn: String,
    pub(super) id: String,
    pub(super) partition: KeyAttribute,
    pub(super) sort: Option<KeyAttribute>,
    pub(super) indexes: Vec<Index>,
    /// The members of DescribeTable that are kept as they were given.
    pub(super) described: serde_json::Map<String, Json>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) time_to_live: Option<String>,
    pub(super) deletion_protection: bool,
    /// The latest stream, enabled or not.
    pub(super) stream: Option<String>,
    pub(super) stream_view: Option<&'static str>,
    pub(super) created: WallTime,
    /// CREATING before, and UPDATING once it was created.
    pub(super) active_from: WallTime,
    pub(super) was_active: bool,
    /// DELETING until then.
    pub(super) deleted_at: Option<WallTime>,
    pub(super) items: Items,
    pub(super) bytes: usize,
    pub(super) capacity: Capacity,
    /// Items with this attribute are refused.
    pub(super) poison: Option<String>,
    /// What items were before their last changes, as far as reads may be stale.
    pub(super) history: VecDeque<(WallTime, ItemKey, Option<Arc<Stored>>)>,
    /// What items were since point-in-time recovery is on; `None`: it is off.
    pub(super) past: Option<Past>,
}

/// The items of a table, or of one as it was.
pub(super) type Items = BTreeMap<ItemKey, Arc<Stored>>;

/// 64 well-mixed bits of a partition key.
pub(super) fn hash_of(partition: &[u8]) -> u64 {
    let fnv = partition
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Bytes of a key value in the value's order, with its type; `None` for what cannot be a key.
pub(super) fn key_bytes(value: &Value) -> Option<Vec<u8>> {
    let (tag, body) = match value {
        Value::S(text) => (b'S', text.as_bytes().to_vec()),
        Value::N(number) => (b'N', number.sortable()),
        Value::B(bytes) => (b'B', bytes.clone()),
        _ => return None,
    };
    let mut bytes = Vec::with_capacity(body.len() + 1);
    bytes.push(tag);
    bytes.extend(body);
    Some(bytes)
}

impl Table {
    /// The key attributes, partition first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &KeyAttribute> {
        std::iter::once(&self.partition).chain(self.sort.as_ref())
    }

    /// The key of an item that is to be written whole.
    pub(super) fn key_of_item(&self, item: &Item) -> Result<ItemKey, ApiError> {
        self.key(item, &|attribute, found| match found {
            None => ApiError::validation(format!(
                "One or more parameter values were invalid: Missing the key {} in the item",
                attribute.name
            )),
            Some(tag) => ApiError::validation(format!(
                "One or more parameter values were invalid: Type mismatch for key {} expected: {} actual: {tag}",
                attribute.name, attribute.kind
            )),
        })
    }

    /// The key that a request names: the key attributes and nothing else.
    pub(super) fn key_alone(&self, key: &Item) -> Result<ItemKey, ApiError> {
        let mismatch = || ApiError::validation("The provided key element does not match the schema");
        if key.len() != self.keys().count() {
            return Err(mismatch());
        }
        self.key(key, &|_, _| mismatch())
    }

    fn key(
        &self,
        item: &Item,
        mismatch: &dyn Fn(&KeyAttribute, Option<&'static str>) -> ApiError,
    ) -> Result<ItemKey, ApiError> {
        let part = |attribute: &KeyAttribute, limit: usize, what: &str| {
            let value = item.get(&attribute.name).ok_or_else(|| mismatch(attribute, None))?;
            let bytes = key_bytes(value)
                .filter(|_| value.tag() == attribute.kind)
                .ok_or_else(|| mismatch(attribute, Some(value.tag())))?;
            if value.size() == 0 {
                let kind = if attribute.kind == "B" { "binary" } else { "string" };
                return Err(ApiError::validation(format!(
                    "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain \
                     an empty {kind} value. Key: {}",
                    attribute.name
                )));
            }
            if value.size() > limit {
                return Err(ApiError::validation(format!(
                    "One or more parameter values were invalid: Size of {what} has exceeded the maximum size limit of \
                     {limit} bytes"
                )));
            }
            Ok(bytes)
        };
        let partition = part(&self.partition, MAX_PARTITION_KEY_BYTES, "hashkey")?;
        let sort = match &self.sort {
            Some(attribute) => part(attribute, MAX_SORT_KEY_BYTES, "rangekey")?,
            None => Vec::new(),
        };
        Ok(ItemKey { hash: hash_of(&partition), partition: partition.into(), sort: sort.into() })
    }

    /// Checks a whole item for storing: size, and the keys of the indexes.
    pub(super) fn check_item(&self, stored: &Stored, moment: &Moment) -> Result<(), ApiError> {
        if self.poison.as_ref().is_some_and(|poison| stored.attributes.contains_key(poison)) {
            moment.fault(Knob::RejectPoison);
            return Err(ApiError::validation("One or more parameter values were invalid: the table refuses this item"));
        }
        if stored.size > MAX_ITEM_BYTES {
            return Err(ApiError::validation("Item size has exceeded the maximum allowed size"));
        }
        for index in &self.indexes {
            for key in &index.keys {
                let Some(value) = stored.attributes.get(&key.name) else { continue };
                if value.tag() != key.kind {
                    return Err(ApiError::validation(format!(
                        "One or more parameter values were invalid: Type mismatch for Index Key {} Expected: {} Actual: {} \
                         IndexName: {}",
                        key.name,
                        key.kind,
                        value.tag(),
                        index.name
                    )));
                }
                if value.size() == 0 {
                    let kind = if key.kind == "B" { "binary" } else { "string" };
                    return Err(ApiError::validation(format!(
                        "One or more parameter values are not valid. A value specified for a secondary index key is not \
                         supported. The AttributeValue for a key attribute cannot contain an empty {kind} value. \
                         IndexName: {}, IndexKey: {}",
                        index.name, key.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// The key attributes of an item, as an item.
    pub(super) fn key_attributes(&self, item: &Item) -> Item {
        self.keys().filter_map(|key| Some((key.name.clone(), item.get(&key.name)?.clone()))).collect()
    }

    /// Puts or removes an item; hands back what was there.
    pub(super) fn replace(&mut self, key: &ItemKey, new: Option<Arc<Stored>>) -> Option<Arc<Stored>> {
        self.bytes += new.as_ref().map_or(0, |stored| stored.size);
        let old = match new {
            Some(stored) => self.items.insert(key.clone(), stored),
            None => self.items.remove(key),
        };
        self.bytes -= old.as_ref().map_or(0, |stored| stored.size);
        old
    }

    /// Whether it has no provisioned throughput.
    pub(super) fn is_on_demand(&self) -> bool {
        self.described.get("BillingModeSummary").and_then(|mode| mode.get("BillingMode"))
            == Some(&Json::String("PAY_PER_REQUEST".to_owned()))
    }

    /// Keeps in mind what an item was until now, for so long.
    pub(super) fn remember(&mut self, key: &ItemKey, old: Option<Arc<Stored>>, now: WallTime, keep: Duration) {
        if keep.is_zero() {
            self.history.clear();
            return;
        }
        while self.history.pop_front_if(|(at, _, _)| now.since(*at) > keep).is_some() {}
        self.history.push_back((now, key.clone(), old));
    }

    /// The item as it was then.
    pub(super) fn item_as_of(&self, key: &ItemKey, then: WallTime) -> Option<&Arc<Stored>> {
        let changed = self.history.iter().find(|(at, changed, _)| *at > then && changed == key);
        changed.map_or_else(|| self.items.get(key), |(_, _, old)| old.as_ref())
    }

    /// All items as they were then.
    pub(super) fn items_as_of(&self, then: WallTime) -> Items {
        let mut items = self.items.clone();
        for (_, key, old) in self.history.iter().rev().take_while(|(at, _, _)| *at > then) {
            match old {
                Some(old) => items.insert(key.clone(), Arc::clone(old)),
                None => items.remove(key),
            };
        }
        items
    }

    /// The table's status by the clock.
    pub(super) fn status(&self, now: WallTime) -> &'static str {
        match (self.deleted_at, now < self.active_from, self.was_active) {
            (Some(_), _, _) => "DELETING",
            (None, true, true) => "UPDATING",
            (None, true, false) => "CREATING",
            (None, false, _) => "ACTIVE",
        }
    }

    /// Whether items can be read and written now.
    pub(super) fn is_open(&self, now: WallTime) -> bool {
        matches!(self.status(now), "ACTIVE" | "UPDATING")
    }
}

/// Write units of changing one item: the table's, and those of each index (AWS facts 4.2).
///
/// An index entry is taken to be as big as the item, whatever the projection.
pub(super) fn write_units(
    table: &Table,
    old: Option<&Stored>,
    new: Option<&Stored>,
) -> (f64, Vec<(String, bool, f64)>) {
    let units = |bytes: usize| f64::from(u32::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(u32::MAX));
    let size = |stored: Option<&Stored>| stored.map_or(0, |stored| stored.size);
    let base = units(size(old).max(size(new)));
    let unchanged = matches!((old, new), (Some(old), Some(new)) if old.attributes == new.attributes);
    let mut indexes = Vec::new();
    for index in &table.indexes {
        let entry = |stored: Option<&Stored>| -> Option<Vec<Value>> {
            index.keys.iter().map(|key| stored?.attributes.get(&key.name).cloned()).collect()
        };
        let cost = match (entry(old), entry(new)) {
            (None, None) => continue,
            (Some(_), Some(_)) if unchanged => continue,
            (Some(before), Some(after)) if before == after => units(size(old).max(size(new))),
            (Some(_), Some(_)) => units(size(old)) + units(size(new)),
            (Some(_), None) => units(size(old)),
            (None, Some(_)) => units(size(new)),
        };
        indexes.push((index.name.clone(), index.global, cost));
    }
    (base, indexes)
}

/// Read units of evaluating so many bytes.
pub(super) fn read_units(bytes: usize, consistent: bool) -> f64 {
    let blocks = f64::from(u32::try_from(bytes.div_ceil(4096).max(1)).unwrap_or(u32::MAX));
    if consistent { blocks } else { blocks / 2.0 }
}
