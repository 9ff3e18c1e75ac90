//! The control API: what a test or the demo does to the world besides sending requests.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::auth::{Caller, Trust};
use super::events::EventObserver;
use super::faults::Faults;
use super::moment::Moment;
use super::reply::ApiError;
use super::stream::{Shard, Stream};
use super::value::{Item, Stored, WireItem, read_item};
use super::world::{Address, BatchFate, Place, World};
use super::{Observer, Sandbox, Stats};

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
        world.moment.events.by = "control.call";
        let result = world.execute(service, operation, &caller, body.as_bytes(), BatchFate::Whole);
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
        place.table.check_item(&stored)?;
        place.moment.events.by = "control.put_item";
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
        let (stream, moment) = world.stream(&address(account, region, table))?;
        let now = moment.now;
        let open = stream.open_shards();
        let wanted = open.iter().enumerate().filter(|(index, _)| only.is_none_or(|only| only == *index));
        Ok(wanted.filter(|(_, id)| stream.replace_shard(id, now, children, moment)).count())
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
            trimmed_through: (shard.trimmed_through > 0).then(|| shard.trimmed_through.to_string()),
            newest: shard.records.back().map(|record| record.sequence.to_string()),
        };
        Ok(stream.shards.iter().map(view).collect())
    }

    /// Trims a table's stream now: everything as old as `keep`, records and closed shards; all of it with zero.
    ///
    /// # Errors
    /// If there is no such table, or it has no stream.
    pub fn trim_now(&self, account: &str, region: &str, table: &str, keep: Duration) -> Result<(), ControlError> {
        let mut world = self.lock();
        let (stream, moment) = world.stream(&address(account, region, table))?;
        stream.trim(keep, moment);
        Ok(())
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
        world.tick();
        world.advance_all();
    }
}

fn read_attributes(json: &str) -> Result<Item, ApiError> {
    let wire: WireItem = serde_json::from_str(json).map_err(|error| ApiError::serialization(error.to_string()))?;
    read_item(wire)
}
