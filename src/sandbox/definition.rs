//! Table definitions: what CreateTable and UpdateTable say, checked, in the form that DescribeTable answers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::record::View;
use super::reply::ApiError;
use super::table::{Index, KeyAttribute, Table};

/// A new table, as far as it is defined by the request.
pub(super) struct Definition {
    pub(super) partition: KeyAttribute,
    pub(super) sort: Option<KeyAttribute>,
    pub(super) indexes: Vec<Index>,
    pub(super) described: Map<String, Json>,
}

fn invalid(reason: &str) -> ApiError {
    ApiError::validation(format!("One or more parameter values were invalid: {reason}"))
}

fn list(json: Option<&Json>) -> impl Iterator<Item = &Json> {
    json.and_then(Json::as_array).into_iter().flatten()
}

fn text<'a>(json: &'a Json, member: &str) -> Result<&'a str, ApiError> {
    json.get(member).and_then(Json::as_str).ok_or_else(|| invalid(&format!("{member} is missing")))
}

/// What a request says about streams: nothing, off, or on with a view type.
pub(super) fn stream_view(request: &Map<String, Json>) -> Result<Option<Option<View>>, ApiError> {
    let Some(specification) = request.get("StreamSpecification") else { return Ok(None) };
    if specification.get("StreamEnabled") != Some(&Json::Bool(true)) {
        return Ok(Some(None));
    }
    let view = specification.get("StreamViewType").and_then(Json::as_str).and_then(View::parse);
    view.map(|view| Some(Some(view))).ok_or_else(|| invalid("StreamViewType is required when StreamEnabled is true"))
}

/// The key attributes of an index of this table.
pub(super) fn read_index<'a>(table: &'a Table, name: &str) -> Option<&'a [KeyAttribute]> {
    table.indexes.iter().find(|index| index.name == name).map(|index| index.keys.as_slice())
}

fn attribute_types(request: &Map<String, Json>) -> Result<BTreeMap<String, String>, ApiError> {
    let mut types = BTreeMap::new();
    for attribute in list(request.get("AttributeDefinitions")) {
        let (name, kind) = (text(attribute, "AttributeName")?, text(attribute, "AttributeType")?);
        if !["S", "N", "B"].contains(&kind) {
            return Err(invalid(&format!("AttributeType {kind}")));
        }
        types.insert(name.to_owned(), kind.to_owned());
    }
    Ok(types)
}

fn read_keys(schema: Option<&Json>, types: &BTreeMap<String, String>) -> Result<Vec<KeyAttribute>, ApiError> {
    let mut keys = Vec::new();
    for (index, element) in list(schema).enumerate() {
        let (name, role) = (text(element, "AttributeName")?, text(element, "KeyType")?);
        if role != if index == 0 { "HASH" } else { "RANGE" } || index > 1 {
            return Err(invalid("Invalid KeySchema: HASH comes first, then at most one RANGE"));
        }
        let kind = types.get(name).ok_or_else(|| {
            invalid(&format!(
                "Some index key attributes are not defined in AttributeDefinitions. Keys: [{name}], AttributeDefinitions: {:?}",
                types.keys().collect::<Vec<_>>()
            ))
        })?;
        keys.push(KeyAttribute { name: name.to_owned(), kind: kind.clone() });
    }
    if keys.is_empty() { Err(invalid("KeySchema is missing")) } else { Ok(keys) }
}

/// Reads the definition of a new table.
pub(super) fn read_definition(request: &Map<String, Json>, arn: &str) -> Result<Definition, ApiError> {
    let types = attribute_types(request)?;
    let mut keys = read_keys(request.get("KeySchema"), &types)?.into_iter();
    let (Some(partition), sort) = (keys.next(), keys.next()) else { return Err(invalid("KeySchema is missing")) };
    let on_demand = match request.get("BillingMode").and_then(Json::as_str) {
        Some("PAY_PER_REQUEST") => true,
        Some("PROVISIONED") | None => false,
        Some(other) => return Err(invalid(&format!("BillingMode {other}"))),
    };
    if on_demand == request.contains_key("ProvisionedThroughput") {
        let rule = if on_demand {
            "must not be specified when BillingMode is PAY_PER_REQUEST"
        } else {
            "must be specified when BillingMode is PROVISIONED"
        };
        return Err(invalid(&format!("ReadCapacityUnits and WriteCapacityUnits {rule}")));
    }
    let mut described = Map::new();
    for member in ["AttributeDefinitions", "KeySchema", "OnDemandThroughput"] {
        described.extend(request.get(member).map(|value| (member.to_owned(), value.clone())));
    }
    if on_demand {
        described.insert("BillingModeSummary".to_owned(), json!({"BillingMode": "PAY_PER_REQUEST"}));
    }
    described.insert("ProvisionedThroughput".to_owned(), throughput(request.get("ProvisionedThroughput")));
    describe_settings(request, &mut described);
    let mut indexes = Vec::new();
    for (member, global, most) in [("GlobalSecondaryIndexes", true, 20), ("LocalSecondaryIndexes", false, 5)] {
        let mut shown = Vec::new();
        for given in list(request.get(member)) {
            let (index, description) = index(given, global, &types, arn)?;
            if !global && index.keys.first() != Some(&partition) {
                return Err(invalid("Table KeySchema and local secondary index have different partition keys"));
            }
            indexes.push(index);
            shown.push(description);
        }
        if shown.len() > most || (!global && !shown.is_empty() && sort.is_none()) {
            return Err(invalid(&format!("{member}: too many, or the table has no range key")));
        }
        if !shown.is_empty() {
            described.insert(member.to_owned(), shown.into());
        }
    }
    check_used(&types, [&partition].into_iter().chain(&sort), &indexes)?;
    let names: BTreeSet<&str> = indexes.iter().map(|index| index.name.as_str()).collect();
    if names.len() < indexes.len() {
        return Err(invalid("Duplicate index name"));
    }
    Ok(Definition { partition, sort, indexes, described })
}

/// Every defined attribute must be a key somewhere.
fn check_used<'a>(
    types: &BTreeMap<String, String>,
    keys: impl Iterator<Item = &'a KeyAttribute>,
    indexes: &'a [Index],
) -> Result<(), ApiError> {
    let used: BTreeSet<&str> =
        keys.chain(indexes.iter().flat_map(|index| &index.keys)).map(|key| key.name.as_str()).collect();
    if types.len() == used.len() {
        Ok(())
    } else {
        Err(invalid(
            "Number of attributes in KeySchema does not exactly match number of attributes defined in AttributeDefinitions",
        ))
    }
}

fn throughput(given: Option<&Json>) -> Json {
    let units = |member: &str| given.and_then(|given| given.get(member)).cloned().unwrap_or_else(|| 0.into());
    json!({
        "NumberOfDecreasesToday": 0,
        "ReadCapacityUnits": units("ReadCapacityUnits"),
        "WriteCapacityUnits": units("WriteCapacityUnits"),
    })
}

/// Settings whose description differs from their specification.
fn describe_settings(request: &Map<String, Json>, described: &mut Map<String, Json>) {
    if let Some(class) = request.get("TableClass") {
        described.insert("TableClassSummary".to_owned(), json!({"TableClass": class}));
    }
    if let Some(warm) = request.get("WarmThroughput").and_then(Json::as_object) {
        let mut warm = warm.clone();
        warm.insert("Status".to_owned(), "ACTIVE".into());
        described.insert("WarmThroughput".to_owned(), warm.into());
    }
    if let Some(encryption) = request.get("SSESpecification") {
        if encryption.get("Enabled") == Some(&Json::Bool(true)) {
            let key = encryption.get("KMSMasterKeyId").cloned().unwrap_or_else(|| "alias/aws/dynamodb".into());
            let description = json!({"Status": "ENABLED", "SSEType": "KMS", "KMSMasterKeyArn": key});
            described.insert("SSEDescription".to_owned(), description);
        } else {
            described.remove("SSEDescription");
        }
    }
}

fn index(given: &Json, global: bool, types: &BTreeMap<String, String>, arn: &str) -> Result<(Index, Json), ApiError> {
    let name = text(given, "IndexName")?.to_owned();
    let keys = read_keys(given.get("KeySchema"), types)?;
    if given.get("Projection").is_none() {
        return Err(invalid("Projection is missing"));
    }
    let mut description = Map::new();
    for member in ["IndexName", "KeySchema", "Projection", "OnDemandThroughput"] {
        description.extend(given.get(member).map(|value| (member.to_owned(), value.clone())));
    }
    description.insert("IndexArn".to_owned(), format!("{arn}/index/{name}").into());
    if global {
        description.insert("ProvisionedThroughput".to_owned(), throughput(given.get("ProvisionedThroughput")));
        describe_settings(given.as_object().unwrap_or(&Map::new()), &mut description);
    }
    Ok((Index { name, global, keys }, description.into()))
}

/// Applies the parts of an UpdateTable that change the definition; streams and protection are not among them.
pub(super) fn update(table: &mut Table, request: &Map<String, Json>) -> Result<(), ApiError> {
    if let Some(mode) = request.get("BillingMode") {
        table.described.insert("BillingModeSummary".to_owned(), json!({"BillingMode": mode}));
        if mode == "PAY_PER_REQUEST" {
            table.described.insert("ProvisionedThroughput".to_owned(), throughput(None));
        }
    }
    if let Some(given) = request.get("ProvisionedThroughput") {
        table.described.insert("ProvisionedThroughput".to_owned(), throughput(Some(given)));
    }
    if let Some(given) = request.get("OnDemandThroughput") {
        table.described.insert("OnDemandThroughput".to_owned(), given.clone());
    }
    describe_settings(request, &mut table.described);
    for change in list(request.get("GlobalSecondaryIndexUpdates")) {
        if let Some(given) = change.get("Create") {
            add_index(table, given, request)?;
        }
        if let Some(given) = change.get("Delete") {
            remove_index(table, text(given, "IndexName")?)?;
        }
    }
    Ok(())
}

fn add_index(table: &mut Table, given: &Json, request: &Map<String, Json>) -> Result<(), ApiError> {
    let types = attribute_types(request)?;
    let (index, description) = index(given, true, &types, &table.arn)?;
    if table.indexes.iter().any(|other| other.name == index.name) {
        return Err(invalid("Attempting to create an index which already exists"));
    }
    check_used(&types, table.keys(), &[table.indexes.clone(), vec![index.clone()]].concat())?;
    table
        .described
        .extend(request.get("AttributeDefinitions").map(|all| ("AttributeDefinitions".to_owned(), all.clone())));
    table.indexes.push(index);
    let shown = table.described.entry("GlobalSecondaryIndexes").or_insert_with(|| json!([]));
    if let Some(shown) = shown.as_array_mut() {
        shown.push(description);
    }
    Ok(())
}

fn remove_index(table: &mut Table, name: &str) -> Result<(), ApiError> {
    let before = table.indexes.len();
    table.indexes.retain(|index| !index.global || index.name != name);
    if table.indexes.len() == before {
        return Err(ApiError::not_found(format!("Requested resource not found: Index: {name}")));
    }
    if let Some(shown) = table.described.get_mut("GlobalSecondaryIndexes").and_then(Json::as_array_mut) {
        shown.retain(|index| index.get("IndexName").and_then(Json::as_str) != Some(name));
        if shown.is_empty() {
            table.described.remove("GlobalSecondaryIndexes");
        }
    }
    let used: BTreeSet<String> =
        table.keys().chain(table.indexes.iter().flat_map(|index| &index.keys)).map(|key| key.name.clone()).collect();
    if let Some(attributes) = table.described.get_mut("AttributeDefinitions").and_then(Json::as_array_mut) {
        attributes.retain(|attribute| {
            attribute.get("AttributeName").and_then(Json::as_str).is_some_and(|name| used.contains(name))
        });
    }
    Ok(())
}
