//! Who writes the source: keys of every type, items of every type, puts, updates, deletes, transactions, expiries.
//!
//! Every image carries a number that no other image has (`v`), so that checkers know a version when they see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use dynaferry::context::WallClock as _;
use dynaferry::sandbox::Sandbox;
use serde_json::{Map, Value, json};

use crate::clocks::WorldClock;
use crate::judge::Court;
use crate::plan::{KeyShape, Writing};
use crate::world::{REGION, SOURCE, TABLE, World};

impl KeyShape {
    /// What CreateTable takes; the stream is on.
    pub(crate) fn definition(self, view: &str) -> Value {
        let (hash, range) = match self {
            Self::Text => ("S", None),
            Self::TextAndNumber => ("S", Some("N")),
            Self::Number => ("N", None),
            Self::BytesAndText => ("B", Some("S")),
        };
        let parts = [("pk", "HASH", Some(hash)), ("sk", "RANGE", range)];
        let parts = || parts.iter().filter_map(|(name, role, kind)| Some((name, role, (*kind)?)));
        let attributes: Vec<_> =
            parts().map(|(name, _, kind)| json!({"AttributeName": name, "AttributeType": kind})).collect();
        let keys: Vec<_> = parts().map(|(name, role, _)| json!({"AttributeName": name, "KeyType": role})).collect();
        json!({
            "TableName": TABLE, "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": attributes, "KeySchema": keys,
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": view},
        })
    }

    /// The `n`th key, as the service spells it.
    pub(crate) fn key(self, n: usize) -> Value {
        match self {
            Self::Text => json!({"pk": {"S": format!("ключ \"{n}\"\u{1f600}")}}),
            Self::TextAndNumber => json!({"pk": {"S": format!("p{}", n % 3)}, "sk": {"N": format!("-{n}.5")}}),
            Self::Number => json!({"pk": {"N": format!("1234567890123456789012345678{:010}", n + 1)}}),
            Self::BytesAndText => {
                let bytes = [&[0, 255, 34, 92], u64::try_from(n).unwrap_or(0).to_be_bytes().as_slice()].concat();
                // Keys that differ in their bytes alone, and keys that do not.
                json!({"pk": {"B": BASE64.encode(bytes)}, "sk": {"S": format!("\\{}", n % 3)}})
            }
        }
    }
}

/// The writer of one run. Its writes are done past faults, capacity and credentials: the source's own users.
pub(crate) struct Writer {
    table: String,
    sandbox: Sandbox,
    random: fastrand::Rng,
    shape: KeyShape,
    keys: usize,
    /// How many of the items are big.
    big_items: f64,
    /// Whether items expire by themselves.
    expires: bool,
    /// Shared with its twins: no two images of a run have the same number.
    version: Arc<AtomicU64>,
    poison: Arc<AtomicBool>,
    court: Court,
    clock: Arc<WorldClock>,
}

/// The attribute that the target takes from nobody while it is poison.
pub(crate) const POISON: &str = "poison";
/// The attribute by which items expire.
pub(crate) const EXPIRY: &str = "expiry";

impl Writer {
    pub(crate) fn new(world: &World, poison: Arc<AtomicBool>) -> Self {
        let plan = &world.plan;
        Self {
            table: TABLE.to_owned(),
            sandbox: world.sandbox.clone(),
            random: fastrand::Rng::with_seed(plan.seed ^ 0x7777),
            shape: plan.shape,
            keys: plan.keys,
            big_items: match plan.has_knob("items.big") {
                true => 0.5,
                false if plan.has_big_items => 0.1,
                false => 0.0,
            },
            expires: plan.has_knob("ttl.delete"),
            version: Arc::default(),
            poison,
            court: world.court.clone(),
            clock: Arc::clone(&world.clock),
        }
    }

    /// Another writer, for what happens while this one is at work.
    pub(crate) fn twin(&self, world: &World) -> Self {
        let (version, table) = (Arc::clone(&self.version), self.table.clone());
        Self { version, table, ..Self::new(world, Arc::clone(&self.poison)) }
    }

    /// The same for another table.
    pub(crate) fn of_table(&self, world: &World, table: &str) -> Self {
        let seed = table.bytes().fold(world.plan.seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        Self { table: table.to_owned(), random: fastrand::Rng::with_seed(seed), ..self.twin(world) }
    }

    fn next_version(&self) -> u64 {
        self.version.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Writes as told.
    pub(crate) async fn write(&mut self, writing: Writing) {
        let mut left = writing.count;
        let mut burst = 0;
        while left > 0 {
            left -= 1;
            self.change(writing.skew);
            if burst > 0 {
                burst -= 1;
                continue;
            }
            if writing.burst > 0 && self.random.f64() < 0.05 {
                burst = writing.burst;
                left += burst;
            }
            tokio::time::sleep(writing.pause.mul_f64(self.random.f64())).await;
        }
    }

    /// So many changes, one right after the other.
    pub(crate) fn write_now(&mut self, count: usize) {
        (0..count).for_each(|_| self.change(2));
    }

    /// Every key is changed: half of them are gone then.
    pub(crate) fn change_each(&mut self) {
        for n in 0..self.keys {
            self.put(n);
            if self.random.bool() {
                self.delete(n);
            }
        }
    }

    /// One change of one key; the first keys are preferred.
    fn change(&mut self, skew: u32) {
        let n = (0..skew).map(|_| self.random.usize(0..self.keys)).min().unwrap_or(0);
        match self.random.u32(0..100) {
            0..45 => self.put(n),
            45..65 => self.update(n),
            65..85 => self.delete(n),
            85..90 => self.expire(n),
            90..95 => self.transact(n),
            // Nothing changes, so the stream has no record of it.
            _ => self.delete(self.keys + 7),
        }
    }

    fn call(&self, operation: &str, body: &Value) {
        // The table may be away for a moment, while it is made anew: such a write fails, as it would for its users.
        drop(self.sandbox.call(SOURCE, REGION, operation, &body.to_string()));
    }

    fn put(&mut self, n: usize) {
        let item = self.item(n);
        self.call("PutItem", &json!({"TableName": self.table, "Item": item}));
    }

    fn update(&mut self, n: usize) {
        let version = self.next_version();
        self.call(
            "UpdateItem",
            &json!({
                "TableName": self.table, "Key": self.shape.key(n), "UpdateExpression": "SET v = :v REMOVE t, poison",
                "ExpressionAttributeValues": {":v": {"S": version.to_string()}},
            }),
        );
    }

    fn delete(&self, n: usize) {
        self.call("DeleteItem", &json!({"TableName": self.table, "Key": self.shape.key(n)}));
    }

    fn expire(&self, n: usize) {
        drop(self.sandbox.expire_ttl(SOURCE, REGION, &self.table, &self.shape.key(n).to_string()));
    }

    fn transact(&mut self, n: usize) {
        let other = (n + 1) % self.keys;
        let put = json!({"Put": {"TableName": self.table, "Item": self.item(n)}});
        let mut actions = vec![put];
        if other != n {
            actions.push(json!({"Delete": {"TableName": self.table, "Key": self.shape.key(other)}}));
        }
        self.call("TransactWriteItems", &json!({"TransactItems": actions}));
    }

    fn item(&mut self, n: usize) -> Value {
        let version = self.next_version();
        let mut item = self.shape.key(n);
        let attributes = item.as_object_mut().map(std::mem::take).unwrap_or_default();
        let mut item: Map<String, Value> = attributes;
        item.insert("v".to_owned(), json!({"S": version.to_string()}));
        if self.random.f64() < 0.3 {
            item.extend(self.every_type());
        }
        if self.random.f64() < 0.5 {
            item.insert("t".to_owned(), json!({"S": "x".repeat(self.random.usize(0..200))}));
        }
        if self.expires && self.random.f64() < 0.3 {
            let at = self.clock.now().millis() / 1000 + self.random.i64(0..7200);
            item.insert(EXPIRY.to_owned(), json!({"N": at.to_string()}));
        }
        if self.poison.load(Ordering::Relaxed) && self.random.f64() < 0.1 {
            item.insert(POISON.to_owned(), json!({"BOOL": true}));
            self.court.judge().poison.insert(version);
        }
        if self.big_items > 0.0 && self.random.f64() < self.big_items {
            item.insert("big".to_owned(), json!({"S": "b".repeat(self.random.usize(100_000..400_000))}));
        }
        Value::Object(item)
    }

    fn every_type(&mut self) -> Map<String, Value> {
        let n = self.random.u64(1..1_000_000);
        let more = json!({
            "text": {"S": format!("Grüße \u{10ffff}\n\"{n}\" \\")}, "empty": {"S": ""},
            "digits": {"N": format!("-1234567890123456789012345678901{n}")}, "least": {"N": "1E-130"},
            "bytes": {"B": BASE64.encode(n.to_be_bytes())}, "none": {"NULL": true}, "yes": {"BOOL": n.is_multiple_of(2)},
            "texts": {"SS": ["a", format!("ä{n}")]}, "numbers": {"NS": ["1", format!("-{n}.25")]},
            "blobs": {"BS": [BASE64.encode([0]), BASE64.encode(n.to_le_bytes())]},
            "list": {"L": [{"S": ""}, {"M": {}}, {"L": [{"N": n.to_string()}]}]},
            "map": {"M": {"S": {"M": {"N": {"L": [{"B": "AA=="}]}}}}}, "a.b [0] #:": {"S": "odd name"},
        });
        match more {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}
