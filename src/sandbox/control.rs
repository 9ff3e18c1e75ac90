//! The control API: what a test or the demo does to the world besides sending requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::auth::{Caller, Trust};
use super::events::EventObserver;
use super::faults::Faults;
use super::knobs::Knob;
use super::moment::Moment;
use super::options::Options;
use super::reply::ApiError;
use super::s3::Bucket;
use super::sequence::Sequence;
use super::stream::{Shard, Stream};
use super::value::{Item, Stored, WireItem, read_item};
use super::world::{Address, Place, World};
use super::{Observer, Sandbox, Stats, tables};

/// The items of a table by canonical key bytes. Equal for equal tables: numbers by value, sets without order.
pub type Snapshot = BTreeMap<Vec<u8>, Item>;

/// A control call that cannot be done.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
#[non_exhaustive]
pub struct ControlError {
    /// The exception that a request would have got.
    pub code: String,
    /// What is wrong.
    pub message: String,
}

impl From<ApiError> for ControlError {
    fn from(error: ApiError) -> Self {
        Self { code: error.code, message: error.message }
    }
}

/// A shard as it is now, whether it is listed yet or not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardView {
    /// The shard's id.
    pub id: String,
    /// Its parent's id, also when that one is no longer listed.
    pub parent: Option<String>,
    /// Whether it can still get records.
    pub open: bool,
    /// Whether DescribeStream shows it.
    pub listed: bool,
    /// Records in it now.
    pub records: usize,
    /// Sequence number of the last record that was trimmed.
    pub trimmed_through: Option<String>,
    /// Sequence number of the newest record in it.
    pub newest: Option<String>,
}

fn address(account: &str, region: &str, table: &str) -> Address {
    Address { account: account.to_owned(), region: region.to_owned(), table: table.to_owned() }
}

impl World {
    fn stream(&mut self, address: &Address) -> Result<(&mut Stream, &mut Moment), ApiError> {
        self.tick();
        let Place { stream, moment, .. } = self.place_any(address)?;
        Ok((stream.ok_or_else(|| ApiError::not_found("the table has no stream"))?, moment))
    }
}

impl Sandbox {
    /// Makes an access key known, as one of this account.
    pub fn add_access_key(&self, key: &str, account: &str) {
        self.lock().identities.add_key(key, account);
    }

    /// Makes a role; hands back its ARN. Whoever it trusts may do everything in the role's account.
    pub fn add_role(&self, account: &str, name: &str, trust: Trust) -> String {
        let arn = format!("arn:aws:iam::{account}:role/{name}");
        self.lock().identities.add_role(arn.clone(), trust);
        arn
    }

    /// Lets a principal of another account use a table and its streams by ARN, as a resource policy would.
    pub fn allow_cross_account(&self, account: &str, region: &str, table: &str, principal_account: &str) {
        self.lock().grants.insert((address(account, region, table), principal_account.to_owned()));
    }

    /// Takes back what [`Self::allow_cross_account`] gave.
    pub fn deny_cross_account(&self, account: &str, region: &str, table: &str, principal_account: &str) {
        self.lock().grants.remove(&(address(account, region, table), principal_account.to_owned()));
    }

    /// Makes an empty bucket; what was under its name is gone.
    pub fn create_bucket(&self, account: &str, region: &str, bucket: &str) {
        let made = Bucket { owner: account.to_owned(), region: region.to_owned(), ..Bucket::default() };
        self.lock().buckets.insert(bucket.to_owned(), made);
    }

    /// Lets another account into a bucket, as its policy would, or out again.
    pub fn let_into_bucket(&self, bucket: &str, account: &str, is_in: bool) {
        let mut world = self.lock();
        let Some(bucket) = world.buckets.get_mut(bucket) else { return };
        if is_in {
            bucket.guests.insert(account.to_owned());
        } else {
            bucket.guests.remove(account);
        }
    }

    /// Puts an object into a bucket, or takes it out. Returns what was there.
    pub fn set_object(&self, bucket: &str, key: &str, object: Option<Bytes>) -> Option<Bytes> {
        let mut world = self.lock();
        let objects = &mut world.buckets.get_mut(bucket)?.objects;
        match object {
            Some(object) => objects.insert(key.to_owned(), object),
            None => objects.remove(key),
        }
    }

    /// The objects of a bucket, by key.
    #[must_use]
    pub fn objects(&self, bucket: &str) -> BTreeMap<String, Bytes> {
        self.lock().buckets.get(bucket).map(|bucket| bucket.objects.clone()).unwrap_or_default()
    }

    /// Makes all credentials that AssumeRole issued expire now.
    pub fn expire_sessions(&self) {
        let mut world = self.lock();
        world.tick();
        let now = world.moment.now;
        world.identities.expire_sessions(now);
    }

    /// Makes all shard iterators expire now.
    pub fn expire_iterators(&self) {
        let mut world = self.lock();
        world.iterator_generation = world.iterator_generation.wrapping_add(1);
    }

    /// Executes an operation of DynamoDB or DynamoDB Streams, `CreateTable` for instance, with its JSON body, in the name of
    /// an account: past signatures, faults, statistics and the observer. Returns the answer's JSON.
    ///
    /// # Errors
    /// What the operation answers.
    pub fn call(&self, account: &str, region: &str, operation: &str, body: &str) -> Result<Bytes, ControlError> {
        let is_stream = ["ListStreams", "DescribeStream", "GetShardIterator", "GetRecords"].contains(&operation);
        let service = if is_stream { "DynamoDBStreams_20120810" } else { "DynamoDB_20120810" };
        let mut world = self.lock();
        world.tick();
        let caller = Caller::root(account, region);
        let stats = world.stats;
        world.moment.events.attribute_to("control.call");
        let result = world.execute(service, operation, &caller, body.as_bytes());
        world.stats = stats;
        Ok(result?)
    }

    /// Writes an item, given as DynamoDB JSON (`{"id":{"S":"a"}}`), as PutItem would, but past faults and capacity.
    ///
    /// # Errors
    /// What PutItem would answer.
    pub fn put_item(&self, account: &str, region: &str, table: &str, item_json: &str) -> Result<(), ControlError> {
        let mut world = self.lock();
        world.tick();
        let mut place = world.place(&address(account, region, table))?;
        let stored = Stored::new(read_attributes(item_json)?);
        let key = place.table.key_of_item(&stored.attributes)?;
        place.table.check_item(&stored, place.moment)?;
        place.moment.events.attribute_to("control.put_item");
        place.change(&key, Some(stored), false);
        world.stats.writes += 1;
        Ok(())
    }

    /// Deletes an item, given by its key as DynamoDB JSON, in the name of the service's time to live: the stream record
    /// says so. Returns whether there was such an item.
    ///
    /// # Errors
    /// If there is no such table, or the key does not fit it.
    pub fn expire_ttl(&self, account: &str, region: &str, table: &str, key_json: &str) -> Result<bool, ControlError> {
        let mut world = self.lock();
        world.tick();
        let mut place = world.place(&address(account, region, table))?;
        let key = place.table.key_alone(&read_attributes(key_json)?)?;
        Ok(place.change(&key, None, true).is_some())
    }

    /// Rolls every open shard of a table's stream over to one child each. Returns how many.
    ///
    /// # Errors
    /// If there is no such table, or it has no stream.
    pub fn roll_shards(&self, account: &str, region: &str, table: &str) -> Result<usize, ControlError> {
        self.replace_shards(account, region, table, None, 1)
    }

    /// Splits the `n`th open shard (in the order of hash ranges, from 0) into two children. Returns whether there is one.
    ///
    /// # Errors
    /// If there is no such table, or it has no stream.
    pub fn split_shard(&self, account: &str, region: &str, table: &str, n: usize) -> Result<bool, ControlError> {
        Ok(self.replace_shards(account, region, table, Some(n), 2)? > 0)
    }

    fn replace_shards(
        &self,
        account: &str,
        region: &str,
        table: &str,
        only: Option<usize>,
        children: usize,
    ) -> Result<usize, ControlError> {
        let mut world = self.lock();
        world.moment.events.attribute_to("control.replace_shards");
        let (stream, moment) = world.stream(&address(account, region, table))?;
        let now = moment.now;
        let open = stream.open_shards();
        let wanted = open.iter().enumerate().filter(|(index, _)| only.is_none_or(|only| only == *index));
        Ok(wanted.filter(|(_, id)| stream.replace_shard(id, now, children, moment)).count())
    }

    /// The canonical bytes of a key that is given as DynamoDB JSON, as in [`Snapshot`] and in events.
    ///
    /// # Errors
    /// If there is no such table, or it has other keys.
    pub fn key_bytes(&self, account: &str, region: &str, table: &str, key: &str) -> Result<Vec<u8>, ControlError> {
        let mut world = self.lock();
        let place = world.place_any(&address(account, region, table))?;
        Ok(place.table.key_alone(&read_attributes(key)?)?.canonical())
    }

    /// The shards of a table's latest stream, in the order of their creation.
    ///
    /// # Errors
    /// If there is no such table, or it has no stream.
    pub fn shards(&self, account: &str, region: &str, table: &str) -> Result<Vec<ShardView>, ControlError> {
        let mut world = self.lock();
        let (stream, moment) = world.stream(&address(account, region, table))?;
        let now = moment.now;
        let view = |(id, shard): (&String, &Shard)| ShardView {
            id: id.clone(),
            parent: shard.parent.clone(),
            open: shard.end.is_none(),
            listed: shard.visible <= now,
            records: shard.records.len(),
            trimmed_through: (shard.trimmed_through > Sequence::ZERO).then(|| shard.trimmed_through.to_string()),
            newest: shard.records.back().map(|record| record.sequence.to_string()),
        };
        Ok(stream.shards.iter().map(view).collect())
    }

    /// Trims a table's stream now: everything as old as `keep`, records and closed shards; all of it with zero.
    ///
    /// # Errors
    /// If there is no such table, or it has no stream.
    pub fn trim_now(&self, account: &str, region: &str, table: &str, keep: Duration) -> Result<(), ControlError> {
        self.trim_shards(account, region, table, keep, |_| true)
    }

    /// As [`Self::trim_now`], of the shards that `which` chooses by their ids.
    ///
    /// # Errors
    /// If there is no such table, or it has no stream.
    pub fn trim_shards(
        &self,
        account: &str,
        region: &str,
        table: &str,
        keep: Duration,
        which: impl Fn(&str) -> bool,
    ) -> Result<(), ControlError> {
        let mut world = self.lock();
        let (stream, moment) = world.stream(&address(account, region, table))?;
        moment.events.attribute_to("control.trim_now");
        if stream.trim(keep, which, moment) > 0 && keep < moment.options.retention {
            moment.fault(Knob::TrimEarly);
        }
        Ok(())
    }

    /// Takes a shard of a table's latest stream away, with all that is in it: it is neither listed nor found any more. One
    /// that is open is rolled over first. Returns whether there was one.
    ///
    /// # Errors
    /// If there is no such table, or it has no stream.
    pub fn vanish_shard(&self, account: &str, region: &str, table: &str, id: &str) -> Result<bool, ControlError> {
        let mut world = self.lock();
        let (stream, moment) = world.stream(&address(account, region, table))?;
        moment.events.attribute_to("control.vanish_shard");
        let gone = stream.vanish(id, moment);
        if gone {
            moment.fault(Knob::ShardVanish);
        }
        Ok(gone)
    }

    /// Disables a table's stream.
    ///
    /// # Errors
    /// What UpdateTable would answer.
    pub fn disable_stream(&self, account: &str, region: &str, table: &str) -> Result<(), ControlError> {
        let body = serde_json::json!({"TableName": table, "StreamSpecification": {"StreamEnabled": false}});
        self.call(account, region, "UpdateTable", &body.to_string()).map(drop)
    }

    /// Enables a table's stream again, with this view type: another stream, with another ARN.
    ///
    /// # Errors
    /// What UpdateTable would answer.
    pub fn enable_stream(&self, account: &str, region: &str, table: &str, view: &str) -> Result<(), ControlError> {
        let specification = serde_json::json!({"StreamEnabled": true, "StreamViewType": view});
        let body = serde_json::json!({"TableName": table, "StreamSpecification": specification});
        self.call(account, region, "UpdateTable", &body.to_string()).map(drop)
    }

    /// Deletes a table and makes it anew at once: defined as before, with another id, no items, and another stream if it
    /// had one that was enabled.
    ///
    /// # Errors
    /// If there is no such table.
    pub fn recreate_table(&self, account: &str, region: &str, table: &str) -> Result<(), ControlError> {
        let mut world = self.lock();
        world.tick();
        world.moment.events.attribute_to("control.recreate_table");
        Ok(tables::recreate(&mut world, &address(account, region, table))?)
    }

    /// Makes a table refuse items that have this attribute, or none any more: the put, or the whole batch or transaction,
    /// gets a ValidationException. The table need not exist yet.
    pub fn set_poison_attribute(&self, account: &str, region: &str, table: &str, attribute: Option<&str>) {
        let mut world = self.lock();
        let address = address(account, region, table);
        if let Ok(place) = world.place_any(&address) {
            place.table.poison = attribute.map(str::to_owned);
        }
        match attribute {
            Some(attribute) => world.poisons.insert(address, attribute.to_owned()),
            None => world.poisons.remove(&address),
        };
    }

    /// Changes how the sandbox behaves from now on. The clock and the seed stay what they are.
    pub fn change_options(&self, change: impl FnOnce(&mut Options)) {
        let mut world = self.lock();
        world.tick();
        let (clock, seed) = (Arc::clone(&world.moment.options.clock), world.moment.options.seed);
        change(&mut world.moment.options);
        (world.moment.options.clock, world.moment.options.seed) = (clock, seed);
        for stream in world.regions.values_mut().flat_map(|region| region.streams.values_mut()) {
            stream.look_again();
        }
    }

    /// How often each kind of fault happened, by its short name; see [`FAULT_NAMES`](super::FAULT_NAMES).
    #[must_use]
    pub fn fault_counts(&self) -> BTreeMap<&'static str, u64> {
        self.lock().moment.knobs.counts()
    }

    /// All items of a table, comparable with `==` to those of another.
    ///
    /// # Errors
    /// If there is no such table.
    pub fn snapshot(&self, account: &str, region: &str, table: &str) -> Result<Snapshot, ControlError> {
        let mut world = self.lock();
        world.tick();
        let place = world.place_any(&address(account, region, table))?;
        Ok(place.table.items.iter().map(|(key, stored)| (key.canonical(), stored.attributes.clone())).collect())
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.lock().stats
    }

    /// Replaces the fault plan.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Hangs in an observer of exchanges, or takes it away.
    pub fn set_observer(&self, observer: Option<Observer>) {
        self.lock().observer = observer;
    }

    /// Hangs in an observer of events, or takes it away.
    pub fn set_event_observer(&self, observer: Option<EventObserver>) {
        self.lock().moment.events.observer = observer;
    }

    /// Lets everything happen that is due by now: late deliveries, roll-overs, splits, trims, deletes by time to live.
    /// Requests do this for what they touch; a checker calls it to hear of the rest.
    pub fn catch_up(&self) {
        let mut world = self.lock();
        world.moment.events.attribute_to("control.catch_up");
        world.tick();
        world.advance_all();
    }
}

fn read_attributes(json: &str) -> Result<Item, ApiError> {
    let wire: WireItem = serde_json::from_str(json).map_err(|error| ApiError::serialization(error.to_string()))?;
    read_item(wire)
}
