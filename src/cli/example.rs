//! The example world of `sandbox` and `demo`: two accounts, two roles, one table of mixed items, and somebody who writes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::error::{Error, Exit, Result};
use crate::sandbox::{ControlError, Options, Sandbox, Trust};

pub(super) const SOURCE_ACCOUNT: &str = "111111111111";
pub(super) const TARGET_ACCOUNT: &str = "222222222222";
pub(super) const REGION: &str = "eu-west-1";
pub(super) const TABLE: &str = "orders";
pub(super) const EXTERNAL_ID: &str = "dynaferry-example";

/// A sandbox with both accounts, their roles and the source table, and whoever writes there.
#[derive(Debug)]
pub(super) struct Example {
    pub(super) sandbox: Sandbox,
    /// ARN of the role in the source's account.
    pub(super) source_role: String,
    /// ARN of the role in the target's account.
    pub(super) target_role: String,
    random: fastrand::Rng,
    keys: Vec<u64>,
    next_key: u64,
    revision: u64,
}

impl Example {
    /// An empty table with a stream.
    pub(super) fn new(options: Options) -> Result<Self> {
        let random = fastrand::Rng::with_seed(options.seed);
        let sandbox = Sandbox::new(options);
        let trust = || Trust::new(SOURCE_ACCOUNT, Some(EXTERNAL_ID));
        let source_role = sandbox.add_role(SOURCE_ACCOUNT, "dynaferry-source", trust());
        let target_role = sandbox.add_role(TARGET_ACCOUNT, "dynaferry-target", trust());
        let table = json!({
            "TableName": TABLE,
            "AttributeDefinitions": [{"AttributeName": "customer", "AttributeType": "S"}, {"AttributeName": "order", "AttributeType": "N"}],
            "KeySchema": [{"AttributeName": "customer", "KeyType": "HASH"}, {"AttributeName": "order", "KeyType": "RANGE"}],
            "BillingMode": "PAY_PER_REQUEST",
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        });
        sandbox.call(SOURCE_ACCOUNT, REGION, "CreateTable", &table.to_string()).map_err(failed)?;
        Ok(Self { sandbox, source_role, target_role, random, keys: Vec::new(), next_key: 0, revision: 0 })
    }

    /// Adds new items.
    pub(super) fn fill(&mut self, items: u64) -> Result<()> {
        (0..items).try_for_each(|_| self.insert())
    }

    /// One change: a new item, a new image of an old one, or a delete; the table keeps its size.
    pub(super) fn change(&mut self) -> Result<()> {
        match (self.random.u8(..10), self.random.usize(..self.keys.len().max(1))) {
            (0..=1, _) => self.insert(),
            (2..=3, index) if index < self.keys.len() => {
                let key = self.keys.swap_remove(index);
                let body = json!({"TableName": TABLE, "Key": key_of(key)}).to_string();
                self.sandbox.call(SOURCE_ACCOUNT, REGION, "DeleteItem", &body).map(drop).map_err(failed)
            }
            (_, index) => match self.keys.get(index).copied() {
                Some(key) => self.put(key),
                None => self.insert(),
            },
        }
    }

    fn insert(&mut self) -> Result<()> {
        let key = self.next_key;
        self.next_key += 1;
        self.put(key)?;
        self.keys.push(key);
        Ok(())
    }

    fn put(&mut self, key: u64) -> Result<()> {
        self.revision += 1;
        let item = item(key, self.revision, &mut self.random).to_string();
        self.sandbox.put_item(SOURCE_ACCOUNT, REGION, TABLE, &item).map_err(failed)
    }
}

fn failed(error: ControlError) -> Error {
    Error::new(Exit::Unexpected, "prepare the embedded AWS").because(error)
}

/// Ten orders a customer.
fn key_of(key: u64) -> Value {
    json!({"customer": {"S": format!("customer-{:06}", key / 10)}, "order": {"N": key.to_string()}})
}

/// An item with every type that DynamoDB has; no two images are the same.
fn item(key: u64, revision: u64, random: &mut fastrand::Rng) -> Value {
    let mut item = key_of(key);
    let note: String = (0..random.usize(20..400)).map(|_| random.alphabetic()).collect();
    let photo: Vec<u8> = (0..random.usize(8..200)).map(|_| random.u8(..)).collect();
    let amount = format!("{}.{:02}", random.u32(1..100_000), random.u8(..100));
    let lines: Vec<Value> = (0..random.u8(1..4))
        .map(|_| json!({"M": {"sku": {"S": format!("sku-{}", random.u16(..))}, "quantity": {"N": random.u8(1..20).to_string()}}}))
        .collect();
    let more = json!({
        "revision": {"N": revision.to_string()},
        "amount": {"N": amount},
        // More digits than a float holds: numbers are copied as they are.
        "ledger": {"N": format!("{}.{:018}", random.u64(..), random.u64(..1_000_000_000_000_000_000))},
        "note": {"S": note},
        "photo": {"B": STANDARD.encode(photo)},
        "lines": {"L": lines},
        "paid": {"BOOL": random.bool()},
        "coupon": {"NULL": true},
        "tags": {"SS": ["blue", "größe", "急ぎ"]},
        "ratings": {"NS": ["1", "2.5", "-3e-7"]},
        "marks": {"BS": [STANDARD.encode([random.u8(..), 1]), STANDARD.encode([2, 2, 2])]},
        "empty": {"S": ""},
    });
    if let (Value::Object(item), Value::Object(more)) = (&mut item, more) {
        item.extend(more);
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_filled_and_changes_keep_its_size() {
        let mut example = Example::new(Options { seed: 3, ..Options::default() }).unwrap();
        example.fill(300).unwrap();
        let size = |example: &Example| example.sandbox.snapshot(SOURCE_ACCOUNT, REGION, TABLE).unwrap().len();
        assert_eq!(size(&example), 300);
        (0..1000).for_each(|_| example.change().unwrap());
        assert_eq!(size(&example), example.keys.len());
        assert!((200..400).contains(&size(&example)), "{}", size(&example));
    }

    #[test]
    fn each_change_is_one_record_of_the_stream() {
        let mut example = Example::new(Options { seed: 4, initial_shards: 1..=1, ..Options::default() }).unwrap();
        example.fill(20).unwrap();
        (0..100).for_each(|_| example.change().unwrap());
        let shards = example.sandbox.shards(SOURCE_ACCOUNT, REGION, TABLE).unwrap();
        assert_eq!(shards.iter().map(|shard| shard.records).sum::<usize>(), 120);
    }
}
