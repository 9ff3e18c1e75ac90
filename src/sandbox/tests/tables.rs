//! The control plane.

use aws_sdk_dynamodb::types::{
    GlobalSecondaryIndex, LocalSecondaryIndex, Projection, ProjectionType, ProvisionedThroughput, TableStatus, Tag,
    TimeToLiveSpecification, TimeToLiveStatus,
};

use super::*;

#[tokio::test]
async fn a_table_is_described_as_it_was_created() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    let all = || Projection::builder().projection_type(ProjectionType::All).build();
    let units = ProvisionedThroughput::builder().read_capacity_units(5).write_capacity_units(7).build().unwrap();
    let global = GlobalSecondaryIndex::builder().index_name("g").key_schema(key_element("owner", KeyType::Hash));
    let local = LocalSecondaryIndex::builder()
        .index_name("l")
        .key_schema(key_element("id", KeyType::Hash))
        .key_schema(key_element("owner", KeyType::Range));
    let create = client
        .create_table()
        .table_name("orders")
        .attribute_definitions(attribute("id", ScalarAttributeType::S))
        .attribute_definitions(attribute("at", ScalarAttributeType::N))
        .attribute_definitions(attribute("owner", ScalarAttributeType::B))
        .key_schema(key_element("id", KeyType::Hash))
        .key_schema(key_element("at", KeyType::Range))
        .provisioned_throughput(units.clone())
        .global_secondary_indexes(global.projection(all()).provisioned_throughput(units).build().unwrap())
        .local_secondary_indexes(local.projection(all()).build().unwrap())
        .deletion_protection_enabled(true)
        .tags(Tag::builder().key("team").value("shop").build().unwrap());
    create.clone().send().await.unwrap();
    assert_eq!(code(create.send().await), "ResourceInUseException");
    let table = client.describe_table().table_name("orders").send().await.unwrap().table.unwrap();
    assert_eq!(table.attribute_definitions().len(), 3);
    assert_eq!(table.key_schema().len(), 2);
    assert_eq!(table.provisioned_throughput().unwrap().write_capacity_units(), Some(7));
    assert!(table.billing_mode_summary().is_none());
    assert!(table.latest_stream_arn().is_none() && table.stream_specification().is_none());
    let index = &table.global_secondary_indexes()[0];
    assert_eq!(index.index_status().unwrap().as_str(), "ACTIVE");
    assert_eq!(index.projection(), Some(&all()));
    assert_eq!(table.local_secondary_indexes()[0].key_schema().len(), 2);
    assert_eq!(table.table_arn().unwrap(), format!("arn:aws:dynamodb:{REGION}:{SOURCE}:table/orders"));
    let tags = client.list_tags_of_resource().resource_arn(table.table_arn().unwrap()).send().await.unwrap();
    assert_eq!(tags.tags()[0].value(), "shop");

    let delete = || client.delete_table().table_name("orders").send();
    assert_eq!(code(delete().await), "ValidationException");
    client.update_table().table_name("orders").deletion_protection_enabled(false).send().await.unwrap();
    delete().await.unwrap();
    assert_eq!(code(delete().await), "ResourceNotFoundException");
}

#[tokio::test]
async fn definitions_that_do_not_fit_are_refused() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    let create = || client.create_table().table_name("orders").key_schema(key_element("id", KeyType::Hash));
    let id = || attribute("id", ScalarAttributeType::S);
    let bad = [
        create().billing_mode(BillingMode::PayPerRequest),
        create().attribute_definitions(id()),
        create()
            .attribute_definitions(id())
            .attribute_definitions(attribute("spare", ScalarAttributeType::S))
            .billing_mode(BillingMode::PayPerRequest),
        create().attribute_definitions(id()).billing_mode(BillingMode::PayPerRequest).table_name("ab"),
    ];
    for create in bad {
        assert_eq!(code(create.send().await), "ValidationException");
    }
}

#[tokio::test]
async fn a_table_takes_its_time_to_become_active_and_to_go() {
    let (options, clock) = options();
    let sandbox = Sandbox::new(Options { table_delay: Duration::from_secs(5), ..options });
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let status = || async {
        let described = client.describe_table().table_name("orders").send().await;
        described
            .map(|described| described.table.unwrap().table_status.unwrap())
            .map_err(|error| error.code().map(str::to_owned))
    };
    let arn = create(&client, "orders").await;
    assert_eq!(status().await.unwrap(), TableStatus::Creating);
    let early = client.put_item().table_name("orders").set_item(Some(item("a", &[])));
    assert_eq!(code(early.send().await), "ResourceNotFoundException");
    let stream = reader.describe_stream().stream_arn(&arn).send().await.unwrap().stream_description.unwrap();
    assert_eq!((stream.stream_status.unwrap().as_str(), stream.shards.unwrap().len()), ("ENABLING", 0));
    clock.advance(Duration::from_secs(5));
    assert_eq!(status().await.unwrap(), TableStatus::Active);
    put(&client, "orders", "a", "1").await;
    client.delete_table().table_name("orders").send().await.unwrap();
    assert_eq!(status().await.unwrap(), TableStatus::Deleting);
    clock.advance(Duration::from_secs(5));
    assert_eq!(status().await.unwrap_err().unwrap(), "ResourceNotFoundException");
}

#[tokio::test]
async fn a_recreated_table_is_another_table() {
    let (sandbox, _) = sandbox();
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let id = || async {
        client.describe_table().table_name("orders").send().await.unwrap().table.unwrap().table_id.unwrap()
    };
    let old_arn = create(&client, "orders").await;
    let old_id = id().await;
    put(&client, "orders", "a", "1").await;
    client.delete_table().table_name("orders").send().await.unwrap();
    let new_arn = create(&client, "orders").await;
    assert_ne!(old_arn, new_arn);
    assert_ne!(old_id, id().await);
    assert!(sandbox.snapshot(SOURCE, REGION, "orders").unwrap().is_empty());
    let old = reader.describe_stream().stream_arn(old_arn).send().await.unwrap().stream_description.unwrap();
    assert_eq!(old.stream_status.unwrap().as_str(), "DISABLED");
}

#[tokio::test]
async fn time_to_live_is_switched_on_and_off() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    create(&client, "orders").await;
    let set = |on: bool| {
        let specification = TimeToLiveSpecification::builder().enabled(on).attribute_name("until").build().unwrap();
        client.update_time_to_live().table_name("orders").time_to_live_specification(specification).send()
    };
    set(true).await.unwrap();
    assert_eq!(code(set(true).await), "ValidationException");
    let shown = client.describe_time_to_live().table_name("orders").send().await.unwrap();
    let shown = shown.time_to_live_description.unwrap();
    assert_eq!(shown.time_to_live_status, Some(TimeToLiveStatus::Enabled));
    assert_eq!(shown.attribute_name(), Some("until"));
    set(false).await.unwrap();
    let backups = client.describe_continuous_backups().table_name("orders").send().await.unwrap();
    let backups = backups.continuous_backups_description.unwrap();
    assert_eq!(
        backups.point_in_time_recovery_description.unwrap().point_in_time_recovery_status.unwrap().as_str(),
        "DISABLED"
    );
}

#[tokio::test]
async fn tables_are_listed_in_pages() {
    let (sandbox, _) = sandbox();
    let client = database(&sandbox);
    for table in ["one", "two", "three"] {
        create(&client, table).await;
    }
    let first = client.list_tables().limit(2).send().await.unwrap();
    assert_eq!(first.table_names(), ["one", "three"]);
    let second =
        client.list_tables().set_exclusive_start_table_name(first.last_evaluated_table_name).send().await.unwrap();
    assert_eq!(second.table_names(), ["two"]);
    assert!(second.last_evaluated_table_name.is_none());
}

#[tokio::test]
async fn equal_tables_have_equal_snapshots() {
    let (sandbox, _) = sandbox();
    create(&database(&sandbox), "orders").await;
    create(&database_as(&sandbox, key_of(TARGET)), "copy").await;
    let put = |account: &str, table: &str, json: &str| sandbox.put_item(account, REGION, table, json).unwrap();
    put(SOURCE, "orders", r#"{"id":{"S":"a"},"n":{"N":"1.0"},"s":{"SS":["x","y"]}}"#);
    put(TARGET, "copy", r#"{"s":{"SS":["y","x"]},"n":{"N":"1"},"id":{"S":"a"}}"#);
    let snapshots =
        || (sandbox.snapshot(SOURCE, REGION, "orders").unwrap(), sandbox.snapshot(TARGET, REGION, "copy").unwrap());
    let (source, target) = snapshots();
    assert_eq!(source, target);
    put(TARGET, "copy", r#"{"id":{"S":"a"},"n":{"N":"1.00001"},"s":{"SS":["x","y"]}}"#);
    let (source, target) = snapshots();
    assert_ne!(source, target);
}
