//! Items, batches, conditions and updates.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    DeleteRequest, Projection, ProjectionType, Put, PutRequest, ReturnConsumedCapacity, ReturnValue, TransactWriteItem,
    WriteRequest,
};

use super::super::{FaultKind, FaultRule, Faults, Trigger};
use super::*;

fn put_request(item: HashMap<String, Attr>) -> WriteRequest {
    WriteRequest::builder().put_request(PutRequest::builder().set_item(Some(item)).build().unwrap()).build()
}

fn delete_request(key: HashMap<String, Attr>) -> WriteRequest {
    WriteRequest::builder().delete_request(DeleteRequest::builder().set_key(Some(key)).build().unwrap()).build()
}

#[tokio::test]
async fn an_item_of_every_type_is_read_back_as_it_was_put() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    let whole = item(
        "a\"\\\u{1}ü",
        &[
            ("number", n("-12.5")),
            ("binary", Attr::B(Blob::new([0, 255, 7]))),
            ("bool", Attr::Bool(false)),
            ("null", Attr::Null(true)),
            ("empty", s("")),
            ("list", Attr::L(vec![s("x"), n("1"), Attr::L(vec![])])),
            ("map", Attr::M(item("inner", &[("deep", Attr::M(HashMap::new()))]))),
            ("strings", Attr::Ss(vec!["a".into(), "b".into()])),
            ("numbers", Attr::Ns(vec!["-1".into(), "2".into()])),
            ("binaries", Attr::Bs(vec![Blob::new([1]), Blob::new([2])])),
        ],
    );
    client.put_item().table_name("orders").set_item(Some(whole.clone())).send().await.unwrap();
    let key = s("a\"\\\u{1}ü");
    let found = client.get_item().table_name("orders").key("id", key.clone()).send().await.unwrap();
    assert_eq!(found.item.unwrap(), whole);

    let gone = client.delete_item().table_name("orders").key("id", key.clone()).return_values(ReturnValue::AllOld);
    assert_eq!(gone.send().await.unwrap().attributes.unwrap(), whole);
    let found = client.get_item().table_name("orders").key("id", key).send().await.unwrap();
    assert_eq!(found.item, None);
}

#[tokio::test]
async fn numbers_are_stored_by_value() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    for (given, stored) in [
        ("1.0", "1"),
        ("1E0", "1"),
        ("-0.0", "0"),
        ("+007", "7"),
        ("12e-3", "0.012"),
        ("1.5E+5", "150000"),
        ("0.00100", "0.001"),
        ("99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
    ] {
        let put = client.put_item().table_name("orders").set_item(Some(item("a", &[("n", n(given))])));
        put.send().await.unwrap();
        let found = client.get_item().table_name("orders").key("id", s("a")).send().await.unwrap();
        assert_eq!(found.item.unwrap()["n"], n(stored), "{given}");
    }
    for refused in
        ["", "abc", "1e", "1e126", "1e-131", "1.1.1", "--1", "1e+-1", "0x1", "100000000000000000000000000000000000001"]
    {
        let put = client.put_item().table_name("orders").set_item(Some(item("a", &[("n", n(refused))])));
        assert_eq!(code(put.send().await), "ValidationException", "{refused}");
    }
}

#[tokio::test]
async fn items_that_the_service_refuses_are_refused() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    let nested = |levels: usize| (0..levels).fold(s("x"), |inner, _| Attr::L(vec![inner]));
    let room = 400 * 1024 - "id".len() - "a".len() - "v".len();
    for (bad, why) in [
        (item("a", &[("v", Attr::Ss(vec![]))]), "empty set"),
        (item("a", &[("v", Attr::Ss(vec!["x".into(), "x".into()]))]), "twice in a set"),
        (item("a", &[("v", Attr::Ns(vec!["1".into(), "1.0".into()]))]), "same number twice in a set"),
        (item("", &[]), "empty key"),
        (item(&"k".repeat(2049), &[]), "long key"),
        (item("a", &[("v", nested(32))]), "33 levels"),
        (item("a", &[("v", s(&"x".repeat(room + 1)))]), "more than 400 KB"),
        (HashMap::from([("id".to_owned(), n("1"))]), "key type"),
        (HashMap::from([("other".to_owned(), n("1"))]), "no key"),
    ] {
        let put = client.put_item().table_name("orders").set_item(Some(bad));
        assert_eq!(code(put.send().await), "ValidationException", "{why}");
    }
    for (good, why) in [
        (item("a", &[("v", nested(31))]), "32 levels"),
        (item("a", &[("v", s(&"x".repeat(room)))]), "exactly 400 KB"),
        (item(&"k".repeat(2048), &[]), "longest key"),
    ] {
        assert!(client.put_item().table_name("orders").set_item(Some(good)).send().await.is_ok(), "{why}");
    }
}

#[tokio::test]
async fn index_keys_must_have_their_type_and_a_value() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    let index = aws_sdk_dynamodb::types::GlobalSecondaryIndex::builder()
        .index_name("by-owner")
        .key_schema(key_element("owner", KeyType::Hash))
        .projection(Projection::builder().projection_type(ProjectionType::All).build());
    client
        .create_table()
        .table_name("orders")
        .attribute_definitions(attribute("id", ScalarAttributeType::S))
        .attribute_definitions(attribute("owner", ScalarAttributeType::S))
        .key_schema(key_element("id", KeyType::Hash))
        .billing_mode(BillingMode::PayPerRequest)
        .global_secondary_indexes(index.build().unwrap())
        .send()
        .await
        .unwrap();
    for bad in [n("1"), s("")] {
        let put = client.put_item().table_name("orders").set_item(Some(item("a", &[("owner", bad)])));
        assert_eq!(code(put.send().await), "ValidationException");
    }
    for (id, owner) in [("a", "ann"), ("b", "ann"), ("c", "bob")] {
        let put = client.put_item().table_name("orders").set_item(Some(item(id, &[("owner", s(owner))])));
        put.send().await.unwrap();
    }
    put(&client, "orders", "without", "x").await;
    let found = client
        .query()
        .table_name("orders")
        .index_name("by-owner")
        .key_condition_expression("#o = :o")
        .expression_attribute_names("#o", "owner")
        .expression_attribute_values(":o", s("ann"))
        .send()
        .await
        .unwrap();
    assert_eq!(found.count, 2);
}

#[tokio::test]
async fn a_batch_is_refused_as_a_whole() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    let many = |count: usize| (0..count).map(|id| put_request(item(&id.to_string(), &[]))).collect::<Vec<_>>();
    for (bad, why) in [
        (many(26), "26 requests"),
        (vec![put_request(item("a", &[])), delete_request(item("a", &[]))], "the same key twice"),
        (vec![put_request(item("a", &[])), put_request(item("b", &[("v", Attr::Ss(vec![]))]))], "one bad item"),
        (vec![put_request(item("a", &[])), delete_request(item("b", &[("v", s("x"))]))], "more than a key"),
    ] {
        let result = client.batch_write_item().request_items("orders", bad).send().await;
        assert_eq!(code(result), "ValidationException", "{why}");
    }
    assert!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().is_empty());
    let result = client.batch_write_item().request_items("missing", many(1)).send().await;
    assert_eq!(code(result), "ResourceNotFoundException");

    let done = client
        .batch_write_item()
        .request_items("orders", many(25))
        .return_consumed_capacity(ReturnConsumedCapacity::Total)
        .send()
        .await
        .unwrap();
    assert!(done.unprocessed_items.unwrap().is_empty());
    assert_eq!(done.consumed_capacity.unwrap()[0].capacity_units, Some(25.0));
    assert_eq!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().len(), 25);
}

#[tokio::test]
async fn keys_that_are_equal_numbers_are_one_key() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    client
        .create_table()
        .table_name("counts")
        .attribute_definitions(attribute("id", ScalarAttributeType::N))
        .key_schema(key_element("id", KeyType::Hash))
        .billing_mode(BillingMode::PayPerRequest)
        .send()
        .await
        .unwrap();
    let key = |text: &str| HashMap::from([("id".to_owned(), n(text))]);
    let both = vec![put_request(key("1")), put_request(key("1.0"))];
    assert_eq!(code(client.batch_write_item().request_items("counts", both).send().await), "ValidationException");
    client.put_item().table_name("counts").set_item(Some(key("1E2"))).send().await.unwrap();
    let found = client.get_item().table_name("counts").set_key(Some(key("100.0"))).send().await.unwrap();
    assert_eq!(found.item.unwrap()["id"], n("100"));
}

#[tokio::test]
async fn conditions_and_updates_work_as_at_the_service() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "state").await;
    let once = client.put_item().table_name("state").set_item(Some(item("a", &[("epoch", n("1"))])));
    let once = once.condition_expression("attribute_not_exists(id)");
    once.clone().send().await.unwrap();
    let refused = once.return_values_on_condition_check_failure("ALL_OLD".into()).send().await.unwrap_err();
    let refused = refused.into_service_error();
    assert!(refused.is_conditional_check_failed_exception());

    let update = |expected: &str| {
        client
            .update_item()
            .table_name("state")
            .key("id", s("a"))
            .condition_expression("#e = :e AND (attribute_not_exists(owner) OR NOT contains(owner, :x))")
            .update_expression("SET #e = #e + :one, m = if_not_exists(m, :x) REMOVE gone ADD tags :set")
            .expression_attribute_names("#e", "epoch")
            .expression_attribute_values(":e", n(expected))
            .expression_attribute_values(":one", n("1"))
            .expression_attribute_values(":x", s("x"))
            .expression_attribute_values(":set", Attr::Ss(vec!["t".into()]))
            .return_values(ReturnValue::AllNew)
    };
    let updated = update("1.0").send().await.unwrap().attributes.unwrap();
    assert_eq!(updated["epoch"], n("2"));
    assert_eq!(updated["m"], s("x"));
    assert_eq!(updated["tags"], Attr::Ss(vec!["t".into()]));
    assert_eq!(code(update("1").send().await), "ConditionalCheckFailedException");

    let action = |id: &str| {
        let put = Put::builder().table_name("state").set_item(Some(item(id, &[])));
        let put = put.condition_expression("attribute_not_exists(id)").build().unwrap();
        TransactWriteItem::builder().put(put).build()
    };
    let result = client.transact_write_items().transact_items(action("b")).transact_items(action("a")).send().await;
    let error = result.unwrap_err().into_service_error();
    let aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError::TransactionCanceledException(error) =
        error
    else {
        panic!("{error:?}")
    };
    let codes: Vec<_> = error.cancellation_reasons().iter().filter_map(|reason| reason.code()).collect();
    assert_eq!(codes, ["None", "ConditionalCheckFailed"]);
    assert_eq!(sandbox.snapshot(SOURCE, REGION, "state").unwrap().len(), 1);
    client.transact_write_items().transact_items(action("b")).send().await.unwrap();
    assert_eq!(sandbox.snapshot(SOURCE, REGION, "state").unwrap().len(), 2);
}

#[tokio::test]
async fn capacity_is_told_by_the_documented_arithmetic() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    let put = client.put_item().table_name("orders").set_item(Some(item("a", &[("v", s(&"x".repeat(3000)))])));
    let put = put.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await.unwrap();
    assert_eq!(put.consumed_capacity.unwrap().capacity_units, Some(3.0));
    for (consistent, units) in [(true, 1.0), (false, 0.5)] {
        let get = client.get_item().table_name("orders").key("id", s("a")).consistent_read(consistent);
        let get = get.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await.unwrap();
        assert_eq!(get.consumed_capacity.unwrap().capacity_units, Some(units));
    }
    let gone = client.delete_item().table_name("orders").key("id", s("a"));
    let gone = gone.return_consumed_capacity(ReturnConsumedCapacity::Total);
    for units in [3.0, 1.0] {
        let gone = gone.clone().send().await.unwrap();
        assert_eq!(gone.consumed_capacity.unwrap().capacity_units, Some(units));
    }
}

#[test]
fn the_checksum_is_crc_32() {
    assert_eq!(super::super::reply::crc32(b"123456789"), 0xcbf4_3926);
    assert_eq!(super::super::reply::crc32(b"The quick brown fox jumps over the lazy dog"), 0x414f_a339);
}

#[tokio::test]
async fn where_another_transaction_is_under_way_nothing_is_done_and_the_action_is_named() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "state").await;
    let conflict = || FaultRule::new("*", Trigger::Next(1), FaultKind::TransactionConflict);
    let action = |id: &str| {
        let put = Put::builder().table_name("state").set_item(Some(item(id, &[]))).build().unwrap();
        TransactWriteItem::builder().put(put).build()
    };
    let transact =
        || ["a", "b", "c"].iter().fold(client.transact_write_items(), |all, id| all.transact_items(action(id)));
    sandbox.set_faults(Faults::new(vec![conflict()]));
    let aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError::TransactionCanceledException(error) =
        transact().send().await.unwrap_err().into_service_error()
    else {
        panic!("another error")
    };
    let mut codes: Vec<_> = error.cancellation_reasons().iter().filter_map(|reason| reason.code()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["None", "None", "TransactionConflict"]);
    sandbox.set_faults(Faults::new(vec![conflict()]));
    let put = || client.put_item().table_name("state").set_item(Some(item("a", &[]))).send();
    assert_eq!(code(put().await), "TransactionConflictException");
    assert!(sandbox.snapshot(SOURCE, REGION, "state").unwrap().is_empty());
    transact().send().await.unwrap();
    assert_eq!(sandbox.snapshot(SOURCE, REGION, "state").unwrap().len(), 3);
}

#[tokio::test]
async fn a_transaction_repeated_with_its_token_is_done_once() {
    let (sandbox, clock) = sandbox();
    let client = database(&sandbox);
    create(&client, "state").await;
    let add = |by: &str| {
        let update = aws_sdk_dynamodb::types::Update::builder()
            .table_name("state")
            .key("id", s("a"))
            .update_expression("ADD total :by")
            .expression_attribute_values(":by", n(by));
        let item = TransactWriteItem::builder().update(update.build().unwrap()).build();
        client.transact_write_items().transact_items(item).client_request_token("once").send()
    };
    let total = || async {
        let found = client.get_item().table_name("state").key("id", s("a")).send().await.unwrap();
        found.item.unwrap()["total"].as_n().unwrap().clone()
    };
    add("5").await.unwrap();
    add("5").await.unwrap();
    assert_eq!(total().await, "5");
    assert_eq!(code(add("6").await), "IdempotentParameterMismatchException");
    clock.advance(Duration::from_secs(600));
    add("5").await.unwrap();
    assert_eq!(total().await, "10");
}
