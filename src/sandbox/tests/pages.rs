//! Scan and Query.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::{ReturnConsumedCapacity, Select};

use super::*;

async fn create_with_sort_key(client: &db::Client, table: &str) {
    client
        .create_table()
        .table_name(table)
        .attribute_definitions(attribute("id", ScalarAttributeType::S))
        .attribute_definitions(attribute("at", ScalarAttributeType::N))
        .key_schema(key_element("id", KeyType::Hash))
        .key_schema(key_element("at", KeyType::Range))
        .billing_mode(BillingMode::PayPerRequest)
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn the_segments_of_a_scan_cover_every_item_exactly_once() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create_with_sort_key(&client, "events").await;
    for id in 0..40 {
        for at in 0..5 {
            sandbox
                .put_item(SOURCE, REGION, "events", &format!(r#"{{"id":{{"S":"{id}"}},"at":{{"N":"{at}"}}}}"#))
                .unwrap();
        }
    }
    for total in [1, 3, 16, 1000] {
        let mut seen = BTreeSet::new();
        let mut homes: HashMap<String, i32> = HashMap::new();
        for segment in 0..total {
            let mut after = None;
            loop {
                let page = client.scan().table_name("events").segment(segment).total_segments(total).limit(7);
                let page = page.set_exclusive_start_key(after).send().await.unwrap();
                for item in page.items.unwrap_or_default() {
                    let (id, at) = (item["id"].as_s().unwrap().clone(), item["at"].as_n().unwrap().clone());
                    assert_eq!(*homes.entry(id.clone()).or_insert(segment), segment);
                    assert!(seen.insert((id, at)));
                }
                after = page.last_evaluated_key;
                if after.is_none() {
                    break;
                }
            }
        }
        assert_eq!(seen.len(), 200);
    }
    let bad = client.scan().table_name("events").segment(3).total_segments(3);
    assert_eq!(code(bad.send().await), "ValidationException");
}

#[tokio::test]
async fn a_page_holds_a_megabyte_and_counts_its_capacity() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    for id in 0..5 {
        put(&client, "orders", &id.to_string(), &"x".repeat(300 * 1024)).await;
    }
    let scan = client.scan().table_name("orders").consistent_read(true).select(Select::Count);
    let scan = scan.return_consumed_capacity(ReturnConsumedCapacity::Total);
    let first = scan.clone().send().await.unwrap();
    assert_eq!((first.count, first.items().len()), (4, 0));
    assert_eq!(first.consumed_capacity.unwrap().capacity_units, Some(301.0));
    let second = scan.set_exclusive_start_key(first.last_evaluated_key).send().await.unwrap();
    assert_eq!(second.count, 1);
    assert!(second.last_evaluated_key.is_none());
}

#[tokio::test]
async fn a_projection_shows_only_the_named_attributes() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    put(&client, "orders", "a", "1").await;
    let scan =
        client.scan().table_name("orders").projection_expression("#i, missing").expression_attribute_names("#i", "id");
    assert_eq!(scan.send().await.unwrap().items.unwrap(), [item("a", &[])]);
    let unused = client.scan().table_name("orders").expression_attribute_names("#i", "id");
    assert_eq!(code(unused.send().await), "ValidationException");
}

#[tokio::test]
async fn a_query_reads_one_partition_in_the_order_of_the_sort_key() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create_with_sort_key(&client, "events").await;
    for at in ["10", "-3", "2", "-0.5", "1e3", "0"] {
        for id in ["a", "b"] {
            let item = format!(r#"{{"id":{{"S":"{id}"}},"at":{{"N":"{at}"}}}}"#);
            sandbox.put_item(SOURCE, REGION, "events", &item).unwrap();
        }
    }
    let query = client
        .query()
        .table_name("events")
        .key_condition_expression("id = :i")
        .expression_attribute_values(":i", s("a"));
    let times = |items: Option<Vec<HashMap<String, Attr>>>| -> Vec<String> {
        items.unwrap().iter().map(|item| item["at"].as_n().unwrap().clone()).collect()
    };
    let all = query.clone().send().await.unwrap();
    assert_eq!(times(all.items), ["-3", "-0.5", "0", "2", "10", "1000"]);
    let some = query.clone().scan_index_forward(false).limit(2).send().await.unwrap();
    assert_eq!(times(some.items), ["1000", "10"]);
    let rest = query.clone().scan_index_forward(false).set_exclusive_start_key(some.last_evaluated_key);
    assert_eq!(times(rest.send().await.unwrap().items), ["2", "0", "-0.5", "-3"]);
    let between = query.key_condition_expression("id = :i AND at BETWEEN :a AND :b");
    let between = between.expression_attribute_values(":a", n("0")).expression_attribute_values(":b", n("10.0"));
    assert_eq!(times(between.send().await.unwrap().items), ["0", "2", "10"]);
}
