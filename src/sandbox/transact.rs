//! TransactWriteItems and TransactGetItems: all or nothing, within one account and Region.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use super::auth::Caller;
use super::faults::FaultKind;
use super::items::{Answer, Consumed, Intent, Kind, WriteRequest};
use super::knobs::Knob;
use super::reply::ApiError;
use super::table::read_units;
use super::value::{WireItem, read_item, write_attributes};
use super::world::{Address, World, parse};

/// Limits of the service (AWS facts 4.1).
const MAX_ACTIONS: usize = 100;
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// What the service says of an item that another transaction is about.
pub(super) const ONGOING: &str = "Transaction is ongoing for the item";
/// How long a repeated request with the same token is known to be one.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TransactWrite {
    transact_items: Vec<Action>,
    client_request_token: Option<String>,
    return_consumed_capacity: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Action {
    put: Option<WriteRequest>,
    delete: Option<WriteRequest>,
    update: Option<WriteRequest>,
    condition_check: Option<WriteRequest>,
}

impl Action {
    fn only(self) -> Option<(Kind, WriteRequest)> {
        let given = [
            (Kind::Put, self.put),
            (Kind::Delete, self.delete),
            (Kind::Update, self.update),
            (Kind::Check, self.condition_check),
        ];
        let mut given = given.into_iter().filter_map(|(kind, request)| Some((kind, request?)));
        given.next().filter(|_| given.next().is_none())
    }
}

pub(super) fn transact_write_items(world: &mut World, caller: &Caller, body: &[u8]) -> Result<Bytes, ApiError> {
    let request: TransactWrite = parse(body)?;
    if request.transact_items.is_empty() || request.transact_items.len() > MAX_ACTIONS {
        return Err(ApiError::validation(
            "Member must have length less than or equal to 100, greater than or equal to 1",
        ));
    }
    let token = request.client_request_token.map(|token| (caller.account.clone(), caller.region.clone(), token));
    let now = world.moment.now;
    world.transactions.retain(|_, (done, _)| now.since(*done) < TOKEN_LIFE);
    if let Some((_, same)) = token.as_ref().and_then(|token| world.transactions.get(token)) {
        // Done before: the answer was lost, or the client is mistaken.
        return if *same == body { Ok(Answer::default().into_body()) } else { Err(mismatch()) };
    }
    let mut seen = BTreeSet::new();
    let mut steps = Vec::new();
    let mut reasons = Vec::new();
    let (mut failed, mut bytes) = (false, 0);
    for action in request.transact_items {
        let (kind, mut request) = action.only().ok_or_else(|| {
            ApiError::validation("TransactItems can only contain one of Check, Put, Update or Delete")
        })?;
        let address = world.address(caller, &request.table_name)?;
        if address.account != caller.account {
            return Err(ApiError::validation("a transaction must stay within one account"));
        }
        let place = world.place(&address)?;
        let intent = Intent::read(kind, &mut request, &place)?;
        if !seen.insert((address.clone(), intent.key.clone())) {
            return Err(ApiError::validation("Transaction request cannot include multiple operations on one item"));
        }
        match intent.outcome(&place) {
            Ok(new) => {
                bytes += new.as_ref().map_or(0, |stored| stored.size);
                reasons.push(serde_json::json!({"Code": "None"}));
                steps.push((address, request.table_name, intent.key, kind, new));
            }
            Err(error) => {
                failed = true;
                let code = match error.code.as_str() {
                    "ConditionalCheckFailedException" => "ConditionalCheckFailed",
                    _ => "ValidationError",
                };
                let mut reason = serde_json::json!({"Code": code, "Message": error.message});
                let shown = request.return_values_on_condition_check_failure.as_deref() == Some("ALL_OLD");
                let old = place.table.items.get(&intent.key).filter(|_| shown);
                let old = old.and_then(|stored| serde_json::from_slice(&stored.json).ok());
                if let (Some(members), Some(item)) = (reason.as_object_mut(), old) {
                    members.insert("Item".to_owned(), item);
                }
                reasons.push(reason);
            }
        }
    }
    if world.moment.twist == Some(FaultKind::TransactionConflict) {
        world.moment.fault(Knob::TransactionConflict);
        let which = world.moment.knobs.chance(Knob::TransactionConflict).usize(..reasons.len());
        if let Some(reason) = reasons.get_mut(which) {
            *reason = serde_json::json!({"Code": "TransactionConflict", "Message": ONGOING});
        }
        failed = true;
    }
    if failed {
        return Err(cancelled(reasons));
    }
    if bytes > MAX_BYTES {
        return Err(ApiError::validation("The transaction exceeds the maximum size of 4 MB"));
    }
    let mut capacity = std::collections::BTreeMap::<String, Consumed>::new();
    for (step, (address, name, key, _, new)) in steps.iter().enumerate() {
        let mut place = world.place(address)?;
        let old = place.table.items.get(key).cloned();
        let consumed = capacity.entry(name.clone()).or_insert_with(|| Consumed::of(name));
        let units = consumed.add_write(&place, old.as_deref(), new.as_deref(), 2.0);
        // Of a transaction that is cancelled for this, what was taken is gone.
        if let Err(error) = place.take_writes(key.hash, units) {
            let code = match error.code.as_str() {
                "ProvisionedThroughputExceededException" => "ProvisionedThroughputExceeded",
                _ => "ThrottlingError",
            };
            if let Some(reason) = reasons.get_mut(step) {
                *reason = serde_json::json!({"Code": code, "Message": error.message});
            }
            return Err(cancelled(reasons));
        }
    }
    for (address, _, key, kind, new) in steps {
        let mut place = world.place(&address)?;
        if kind != Kind::Check {
            place.change(&key, new, false);
            world.stats.writes += 1;
        }
    }
    if let Some(token) = token {
        world.transactions.insert(token, (now, Bytes::copy_from_slice(body)));
    }
    let asked = request.return_consumed_capacity.as_deref();
    let capacity: Vec<_> = capacity.values().filter_map(|consumed| consumed.json(asked)).collect();
    let mut answer = Answer::default();
    answer.add("ConsumedCapacity", (!capacity.is_empty()).then(|| capacity.into()));
    Ok(answer.into_body())
}

fn cancelled(reasons: Vec<serde_json::Value>) -> ApiError {
    let codes: Vec<&str> = reasons.iter().filter_map(|reason| reason.get("Code")?.as_str()).collect();
    let message =
        format!("Transaction cancelled, please refer cancellation reasons for specific reasons [{}]", codes.join(", "));
    ApiError::new("TransactionCanceledException", message).with("CancellationReasons", reasons.into())
}

fn mismatch() -> ApiError {
    ApiError::new(
        "IdempotentParameterMismatchException",
        "The request uses the same client token as a previous, but non-identical request",
    )
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TransactGet {
    transact_items: Vec<GetAction>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetAction {
    get: Get,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Get {
    table_name: String,
    key: WireItem,
}

pub(super) fn transact_get_items(world: &mut World, caller: &Caller, body: &[u8]) -> Result<Bytes, ApiError> {
    let request: TransactGet = parse(body)?;
    if request.transact_items.is_empty() || request.transact_items.len() > MAX_ACTIONS {
        return Err(ApiError::validation(
            "Member must have length less than or equal to 100, greater than or equal to 1",
        ));
    }
    let mut answer = Answer::default();
    let out = answer.member("Responses");
    out.push(b'[');
    for (index, action) in request.transact_items.into_iter().enumerate() {
        let address: Address = world.address(caller, &action.get.table_name)?;
        let mut place = world.place(&address)?;
        let key = place.table.key_alone(&read_item(action.get.key)?)?;
        let found = place.table.items.get(&key).cloned();
        place.take_reads(key.hash, 2.0 * read_units(found.as_ref().map_or(0, |stored| stored.size), true))?;
        out.extend_from_slice(if index > 0 { b",{" } else { b"{" });
        if let Some(stored) = found {
            out.extend_from_slice(b"\"Item\":");
            write_attributes(stored.attributes.iter(), out);
        }
        out.push(b'}');
    }
    out.push(b']');
    Ok(answer.into_body())
}
