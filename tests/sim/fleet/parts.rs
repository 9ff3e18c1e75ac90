//! Workers that share the shards of a link: a write is sent by the owner of the part whose the key is, and by nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dynaferry::sandbox::{Sandbox, Value};

use super::{Fleet, MINUTE, SECOND};
use crate::clocks::Drift;
use crate::plan::Family;
use crate::world::{COPY, LINK, REGION, SOURCE, STATE, TABLE, TARGET};

/// A link that has been whole for a minute, and in which no key is in doubt, is divided; ten minutes after the last try.
const DIVIDED_WITHIN: Duration = Duration::from_secs(16 * 60);
/// A worker alone has the link whole within this.
const WHOLE_WITHIN: Duration = Duration::from_secs(5 * 60);

/// How the link is divided, as its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Division {
    epoch: u64,
    parts: u64,
}

/// Whose parts the keys are: those that every sender of a key had whenever it sent one.
#[derive(Default)]
pub(super) struct Keys(Mutex<BTreeMap<(Division, String), BTreeSet<u64>>>);

impl Keys {
    /// A worker sends this. What is wrong with it, if anything.
    pub(super) fn sent(&self, sandbox: &Sandbox, worker: &str, body: &[u8]) -> Result<(), String> {
        let table = Table::read(sandbox);
        let is_owner = |of: &str| table.owners.get(of).is_some_and(|owner| owner == worker);
        let Some(division) = table.division else {
            return if is_owner(LINK) { Ok(()) } else { Err("sends a write, and another one has the link".to_owned()) };
        };
        let has: BTreeSet<u64> =
            (0..division.parts).filter(|part| is_owner(&format!("{LINK}/{}.{part}", division.epoch))).collect();
        if has.is_empty() {
            return Err("sends a write, and has no part".to_owned());
        }
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys_of(sandbox, body) {
            let known = keys.entry((division, key.clone())).or_insert_with(|| has.clone());
            let before = known.clone();
            known.retain(|part| has.contains(part));
            if known.is_empty() {
                return Err(format!("sends a write of key {key} by part {has:?}, and it is of one of {before:?}"));
            }
        }
        Ok(())
    }
}

/// What the table says of the link and its parts.
#[derive(Default)]
struct Table {
    division: Option<Division>,
    /// Whom the link and each part belong to.
    owners: BTreeMap<String, String>,
}

impl Table {
    fn read(sandbox: &Sandbox) -> Self {
        let mut table = Self::default();
        for item in sandbox.snapshot(TARGET, REGION, STATE).unwrap_or_default().into_values() {
            let Some(Value::S(partition)) = item.get("pk") else { continue };
            let Some(name) = partition.strip_prefix("default/link/") else { continue };
            match (item.get("owner"), item.get("released"), item.get("v")) {
                (Some(Value::S(owner)), Some(Value::Bool(false)), _) => {
                    table.owners.insert(name.to_owned(), owner.clone());
                }
                (None, None, Some(Value::S(row))) if name == LINK && row.contains("\"identity\"") => {
                    table.division = divided(row);
                }
                _ => {}
            }
        }
        table
    }
}

fn divided(row: &str) -> Option<Division> {
    let row: serde_json::Value = serde_json::from_str(row).ok()?;
    let divided = row["stage"].get("divided")?;
    Some(Division { epoch: divided["epoch"].as_u64()?, parts: divided["parts"].as_u64()? })
}

/// The keys of a batch, as text.
fn keys_of(sandbox: &Sandbox, body: &[u8]) -> Vec<String> {
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(body) else { return Vec::new() };
    let requests = body["RequestItems"][COPY].as_array().cloned().unwrap_or_default();
    let description = sandbox.call(TARGET, REGION, "DescribeTable", &format!(r#"{{"TableName":"{COPY}"}}"#));
    let Ok(description) = description else { return Vec::new() };
    let Ok(description) = serde_json::from_slice::<serde_json::Value>(&description) else { return Vec::new() };
    let schema = description["Table"]["KeySchema"].as_array().cloned().unwrap_or_default();
    let key = |request: &serde_json::Value| {
        let item = request.pointer("/PutRequest/Item").or_else(|| request.pointer("/DeleteRequest/Key"))?;
        let values = schema.iter().map(|part| item[part["AttributeName"].as_str().unwrap_or_default()].to_string());
        Some(values.collect::<String>())
    };
    requests.iter().filter_map(key).collect()
}

impl Fleet {
    fn is_divided(&self) -> bool {
        Table::read(&self.world.sandbox).division.is_some()
    }

    /// Most episodes begin with a link that is divided, if it can be.
    pub(super) async fn divide(&mut self) {
        if self.world.plan.family != Family::Parts || self.random.f64() < 0.2 {
            return;
        }
        self.split_into_trees();
        let is_divided = self.until(DIVIDED_WITHIN, SECOND, Self::is_divided).await;
        // All have their parts by then.
        tokio::time::sleep(MINUTE / 2).await;
        self.say(|| format!("=== divided: {is_divided}"));
    }

    /// A link is divided if there is something to be shared.
    fn split_into_trees(&self) {
        let sandbox = &self.world.sandbox;
        for n in 0..2 {
            let shards = sandbox.shards(SOURCE, REGION, TABLE).unwrap_or_default();
            if shards.iter().filter(|shard| shard.open).count() < 3 {
                drop(sandbox.split_shard(SOURCE, REGION, TABLE, n));
            }
        }
    }

    /// Without a fault the link is divided, and is right; a worker that is alone has it whole, and that is right, too.
    pub(super) async fn share_and_stop_sharing(&mut self) {
        self.split_into_trees();
        if !self.until(DIVIDED_WITHIN * 2, SECOND, Self::is_divided).await {
            self.violated("C8", format!("{:?} after all is right the link is not divided", DIVIDED_WITHIN * 2));
        }
        self.write_now(5);
        self.come_right("the link was divided").await;
        for n in 1..self.workers.len() {
            self.stop(n).await;
        }
        let end = tokio::time::Instant::now() + WHOLE_WITHIN;
        while self.is_divided() {
            if tokio::time::Instant::now() >= end {
                self.violated("C8", format!("a worker is alone for {WHOLE_WITHIN:?}, and the link is divided"));
                return;
            }
            tokio::time::sleep(SECOND).await;
        }
        self.start_all(1.0, Drift::default()).await;
        self.come_right("the link was put together").await;
    }
}
