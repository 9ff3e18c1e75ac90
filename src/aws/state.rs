//! A table of state behind the seam for it. Bodies are written here, with sorted members: the same request twice is the same
//! bytes.

use std::fmt::Write as _;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::accounts::Account;
use super::call::Caller;
use super::fault::broken;
use super::raw::{RawOperation, probe};
use super::transaction::Cancelled;
use crate::checkpoint::table::{
    Field, Fields, Found, Guard, ItemKey, ItemWrite, PARTITION, Page, Range, SORT, StateTable, Written,
};
use crate::config::TableRef;
use crate::error::{Failure, Fault};
use crate::model::{KeyKind, TableStatus};

const CREATE: &str = "CreateTable";

/// A table of state. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct State {
    account: Account,
    client: Client,
    caller: Caller,
    name: String,
    get: RawOperation,
    query: RawOperation,
    put: RawOperation,
    delete: RawOperation,
    transact: RawOperation,
}

impl Account {
    /// The table of this name in this account, to keep state in.
    #[must_use]
    pub(crate) fn state_table(&self, name: &str) -> State {
        let client = self.dynamodb.clone();
        State {
            account: self.clone(),
            client: client.clone(),
            caller: self.caller.clone(),
            name: name.to_owned(),
            get: RawOperation::new(
                "DynamoDB_20120810.GetItem",
                &self.sender,
                probe!(Builder, client.get_item().table_name(name)),
            ),
            query: RawOperation::new(
                "DynamoDB_20120810.Query",
                &self.sender,
                probe!(Builder, client.query().table_name(name)),
            ),
            put: RawOperation::new(
                "DynamoDB_20120810.PutItem",
                &self.sender,
                probe!(Builder, client.put_item().table_name(name)),
            ),
            delete: RawOperation::new(
                "DynamoDB_20120810.DeleteItem",
                &self.sender,
                probe!(Builder, client.delete_item().table_name(name)),
            ),
            transact: RawOperation::new(
                "DynamoDB_20120810.TransactWriteItems",
                &self.sender,
                probe!(Builder, client.transact_write_items().set_transact_items(Some(Vec::new()))),
            ),
        }
    }
}

impl State {
    async fn look(&self) -> Result<Found, Failure> {
        let table = TableRef::Name(self.name.clone());
        match self.account.describe(&table).await {
            Ok(found) => {
                let is_ours = found.keys.hash.name == PARTITION
                    && found.keys.hash.kind == KeyKind::S
                    && found.keys.range.as_ref().is_some_and(|range| range.name == SORT && range.kind == KeyKind::B);
                Ok(match found.status {
                    _ if !is_ours => Found::Foreign,
                    TableStatus::Active | TableStatus::Updating => Found::Ready,
                    TableStatus::Creating | TableStatus::Other(_) => Found::NotYet,
                })
            }
            Err(failure) if failure.fault == Fault::Lost => Ok(Found::Nothing),
            Err(failure) => Err(failure),
        }
    }

    async fn make(&self) -> Result<(), Failure> {
        let mut request = self
            .client
            .create_table()
            .table_name(&self.name)
            .billing_mode(BillingMode::PayPerRequest)
            .deletion_protection_enabled(true);
        let keys = [(PARTITION, KeyType::Hash, ScalarAttributeType::S), (SORT, KeyType::Range, ScalarAttributeType::B)];
        for (name, key, kind) in keys {
            let element = KeySchemaElement::builder().attribute_name(name).key_type(key).build();
            let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build();
            request = request
                .key_schema(element.map_err(|error| broken(CREATE, error))?)
                .attribute_definitions(attribute.map_err(|error| broken(CREATE, error))?);
        }
        match self.caller.typed(CREATE, request.send().boxed()).await {
            Ok(_) => Ok(()),
            // Another worker's, or an attempt of ours whose answer was lost.
            Err(failure) if failure.code.as_deref() == Some("ResourceInUseException") => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn get_one(&self, key: &ItemKey) -> Result<Option<Fields>, Failure> {
        let body = json!({"TableName": self.name, "ConsistentRead": true, "Key": key_json(key)});
        let answer = self.caller.raw(&self.get, bytes_of(&body)).await?;
        let answer = parse(&self.get, &answer)?;
        match answer.get("Item") {
            None | Some(Value::Null) => Ok(None),
            Some(item) => Ok(Some(fields_of(item).ok_or_else(|| odd(&self.get))?.1)),
        }
    }

    async fn query_page(&self, range: &Range) -> Result<Page, Failure> {
        let mut names = Map::from_iter([("#p".to_owned(), PARTITION.into()), ("#s".to_owned(), SORT.into())]);
        let mut body = json!({
            "TableName": self.name,
            "ConsistentRead": true,
            "KeyConditionExpression": "#p = :p AND #s BETWEEN :from AND :to",
            "ExpressionAttributeValues": {
                ":p": {"S": range.partition}, ":from": binary(&range.from), ":to": binary(&range.to)
            },
        });
        if !range.only.is_empty() {
            let mut only = "#p, #s".to_owned();
            for (index, name) in range.only.iter().enumerate() {
                names.insert(format!("#o{index}"), (*name).into());
                // To a text: it cannot fail.
                let _written = write!(only, ", #o{index}").is_ok();
            }
            set(&mut body, "ProjectionExpression", only.into());
        }
        set(&mut body, "ExpressionAttributeNames", names.into());
        if let Some(after) = &range.after {
            let key = ItemKey { partition: range.partition.clone(), sort: after.clone() };
            set(&mut body, "ExclusiveStartKey", key_json(&key));
        }
        if let Some(limit) = range.limit {
            set(&mut body, "Limit", limit.max(1).into());
        }
        let answer = parse(&self.query, &self.caller.raw(&self.query, bytes_of(&body)).await?)?;
        let items = answer.get("Items").and_then(Value::as_array).ok_or_else(|| odd(&self.query))?;
        let items = items.iter().map(fields_of).collect::<Option<Vec<_>>>().ok_or_else(|| odd(&self.query))?;
        let next = match answer.get("LastEvaluatedKey") {
            None | Some(Value::Null) => None,
            Some(key) => Some(fields_of(key).ok_or_else(|| odd(&self.query))?.0),
        };
        // BETWEEN takes both ends.
        let items = items.into_iter().filter(|(sort, _)| *sort < range.to).collect();
        Ok(Page { items, next })
    }

    async fn write_one(&self, write: &ItemWrite) -> Result<Written, Failure> {
        let body = write_json(&self.name, write);
        let operation = if write.fields.is_some() { &self.put } else { &self.delete };
        let (failure, said) = match self.caller.raw_or_refusal(operation, bytes_of(&body)).await {
            Ok(_) => return Ok(Written::Done),
            Err((failure, said)) => (failure, said.unwrap_or_default()),
        };
        if failure.code.as_deref() != Some("ConditionalCheckFailedException") {
            return Err(failure);
        }
        refusal(operation, parse(operation, &said)?.get("Item"))
    }

    async fn write_all(&self, token: &str, writes: &[ItemWrite]) -> Result<Written, Failure> {
        let actions = writes.iter().map(|write| {
            let action = if write.fields.is_some() { "Put" } else { "Delete" };
            json!({ action: write_json(&self.name, write) })
        });
        let actions: Vec<Value> = actions.collect();
        let body = json!({"ClientRequestToken": token, "TransactItems": actions});
        let (failure, said) = match self.caller.raw_or_refusal(&self.transact, bytes_of(&body)).await {
            Ok(_) => return Ok(Written::Done),
            Err((failure, said)) => (failure, said.unwrap_or_default()),
        };
        match Cancelled::read(failure, &said)? {
            Cancelled { refused: Some((_, found)), .. } => refusal(&self.transact, found.as_ref()),
            Cancelled { failure, refused: None } => Err(failure),
        }
    }
}

/// A guard did not hold: what is there, or that nothing is.
fn refusal(operation: &RawOperation, found: Option<&Value>) -> Result<Written, Failure> {
    let found = found.filter(|found| found.as_object().is_some_and(|members| !members.is_empty()));
    let fields = found.map(|found| fields_of(found).map(|(_, fields)| fields).ok_or_else(|| odd(operation)));
    Ok(Written::Refused(fields.transpose()?))
}

fn odd(operation: &RawOperation) -> Failure {
    broken(operation.name(), "the answer is not what it should be")
}

fn parse(operation: &RawOperation, answer: &Bytes) -> Result<Value, Failure> {
    // Its text may quote what is in the answer.
    serde_json::from_slice(answer).map_err(|_| broken(operation.name(), "the answer is no JSON"))
}

fn bytes_of(body: &Value) -> Vec<u8> {
    body.to_string().into_bytes()
}

fn set(body: &mut Value, name: &str, value: Value) {
    if let Some(members) = body.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

fn binary(bytes: &[u8]) -> Value {
    json!({"B": BASE64_STANDARD.encode(bytes)})
}

fn field_json(field: &Field) -> Value {
    match field {
        Field::Text(text) => json!({"S": text}),
        Field::Number(number) => json!({"N": number.to_string()}),
        Field::Bytes(bytes) => binary(bytes),
        Field::Flag(flag) => json!({"BOOL": flag}),
    }
}

fn key_json(key: &ItemKey) -> Value {
    json!({ PARTITION: {"S": key.partition}, SORT: binary(&key.sort) })
}

/// The members of a put or a delete, or of a check, which has those of a delete.
fn write_json(table: &str, write: &ItemWrite) -> Value {
    let mut body = json!({"TableName": table});
    match &write.fields {
        None => set(&mut body, "Key", key_json(&write.key)),
        Some(fields) => {
            let mut item = key_json(&write.key);
            fields.iter().for_each(|(name, field)| set(&mut item, name, field_json(field)));
            set(&mut body, "Item", item);
        }
    }
    let (condition, names, values) = match &write.guard {
        Guard::Always => return body,
        Guard::Absent => {
            let names = Map::from_iter([("#p".to_owned(), PARTITION.into())]);
            ("attribute_not_exists(#p)".to_owned(), names, Map::new())
        }
        Guard::Same(fields) => {
            let conditions: Vec<String> = (0..fields.len()).map(|index| format!("#g{index} = :g{index}")).collect();
            let named = fields.iter().enumerate();
            let names = named.clone().map(|(index, (name, _))| (format!("#g{index}"), (*name).into()));
            let values = named.map(|(index, (_, field))| (format!(":g{index}"), field_json(field)));
            (conditions.join(" AND "), names.collect(), values.collect())
        }
    };
    set(&mut body, "ConditionExpression", condition.into());
    set(&mut body, "ExpressionAttributeNames", names.into());
    if !values.is_empty() {
        set(&mut body, "ExpressionAttributeValues", values.into());
    }
    set(&mut body, "ReturnValuesOnConditionCheckFailure", "ALL_OLD".into());
    body
}

/// Sort key and attributes of an item. Attributes of types that we never write are left out.
fn fields_of(item: &Value) -> Option<(Vec<u8>, Fields)> {
    let bytes = |value: &Value| BASE64_STANDARD.decode(value.as_str()?).ok();
    let sort = bytes(item.get(SORT)?.get("B")?)?;
    let mut fields = Fields::new();
    for (name, value) in item.as_object()?.iter().filter(|(name, _)| *name != PARTITION && *name != SORT) {
        let (tag, value) = value.as_object()?.iter().next()?;
        let field = match tag.as_str() {
            "S" => Field::Text(value.as_str()?.to_owned()),
            "N" => match value.as_str()?.parse() {
                Ok(number) => Field::Number(number),
                Err(_) => continue,
            },
            "B" => Field::Bytes(bytes(value)?),
            "BOOL" => Field::Flag(value.as_bool()?),
            _ => continue,
        };
        fields.insert(name.clone(), field);
    }
    Some((sort, fields))
}

impl StateTable for State {
    fn place(&self) -> String {
        format!("dynamodb:{}", self.name)
    }

    fn condition(&self, key: &ItemKey, guard: &Guard) -> Vec<u8> {
        let check = ItemWrite::new(key.clone(), None).guarded(guard.clone());
        bytes_of(&write_json(&self.name, &check))
    }

    fn find(&self) -> BoxFuture<'_, Result<Found, Failure>> {
        self.look().boxed()
    }

    fn create(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.make().boxed()
    }

    fn get<'a>(&'a self, key: &'a ItemKey) -> BoxFuture<'a, Result<Option<Fields>, Failure>> {
        self.get_one(key).boxed()
    }

    fn query<'a>(&'a self, range: &'a Range) -> BoxFuture<'a, Result<Page, Failure>> {
        self.query_page(range).boxed()
    }

    fn write<'a>(&'a self, write: &'a ItemWrite) -> BoxFuture<'a, Result<Written, Failure>> {
        self.write_one(write).boxed()
    }

    fn transact<'a>(&'a self, token: &'a str, writes: &'a [ItemWrite]) -> BoxFuture<'a, Result<Written, Failure>> {
        self.write_all(token, writes).boxed()
    }
}
