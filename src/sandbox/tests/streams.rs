//! Lineage, iterators, trims, records.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::types::ReturnValue;
use aws_sdk_dynamodbstreams::types::{Shard, ShardFilter, ShardFilterType, ShardIteratorType, StreamStatus};

use super::*;

#[tokio::test]
async fn each_change_is_one_record_with_its_images() {
    let (sandbox, clock) = sandbox();
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let arn = create(&client, "orders").await;
    clock.advance(Duration::from_millis(1_999));
    put(&client, "orders", "a", "1").await;
    put(&client, "orders", "a", "1").await;
    put(&client, "orders", "a", "2").await;
    client.delete_item().table_name("orders").key("id", s("a")).send().await.unwrap();
    client.delete_item().table_name("orders").key("id", s("a")).send().await.unwrap();
    put(&client, "orders", "b", "3").await;
    assert!(sandbox.expire_ttl(SOURCE, REGION, "orders", r#"{"id":{"S":"b"}}"#).unwrap());

    let shard = shards(&reader, &arn).await.remove(0).shard_id.unwrap();
    let (records, _) = read(&reader, horizon(&reader, &arn, &shard).await).await;
    let names: Vec<_> = records.iter().map(|record| record.event_name().unwrap().as_str()).collect();
    assert_eq!(names, ["INSERT", "MODIFY", "REMOVE", "INSERT", "REMOVE"]);
    let modify = records[1].dynamodb().unwrap();
    assert_eq!(modify.old_image().unwrap()["v"].as_s().unwrap(), "1");
    assert_eq!(modify.new_image().unwrap()["v"].as_s().unwrap(), "2");
    assert_eq!(modify.approximate_creation_date_time().unwrap().as_secs_f64(), 1_700_000_001.0);
    assert_eq!(modify.size_bytes(), Some(3 + 5 + 5));
    assert_eq!(modify.stream_view_type().unwrap().as_str(), "NEW_AND_OLD_IMAGES");
    assert!(records[2].dynamodb().unwrap().new_image().is_none());
    assert!(records[3].dynamodb().unwrap().old_image().is_none());
    assert!(records[2].user_identity().is_none());
    let identity = records[4].user_identity().unwrap();
    assert_eq!((identity.principal_id(), identity.r#type()), (Some("dynamodb.amazonaws.com"), Some("Service")));
    assert_eq!(records[0].aws_region(), Some(REGION));
    let numbers: Vec<_> = records.iter().map(|record| record.dynamodb().unwrap().sequence_number().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.iter().all(|number| number.len() >= 21));
    let ids: BTreeSet<_> = records.iter().map(|record| record.event_id().unwrap()).collect();
    assert_eq!(ids.len(), records.len());
}

#[tokio::test]
async fn order_per_key_survives_rolls_and_splits() {
    let (options, _clock) = options();
    let sandbox = Sandbox::new(Options { initial_shards: 3..=3, ..options });
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let arn = create(&client, "orders").await;
    for round in 0..6 {
        for id in 0..20 {
            put(&client, "orders", &id.to_string(), &format!("{round}")).await;
        }
        match round {
            1 => assert_eq!(sandbox.roll_shards(SOURCE, REGION, "orders").unwrap(), 3),
            3 => assert!(sandbox.split_shard(SOURCE, REGION, "orders", 1).unwrap()),
            _ => {}
        }
    }
    let shards = shards(&reader, &arn).await;
    assert_eq!(shards.len(), 3 + 3 + 2);
    // Listed in the order of creation, so parents come first.
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut open = 0;
    let mut listed = BTreeSet::new();
    for shard in &shards {
        let id = shard.shard_id().unwrap();
        assert!((28..=65).contains(&id.len()));
        assert!(shard.parent_shard_id().is_none_or(|parent| listed.contains(parent)));
        listed.insert(id);
        let range = shard.sequence_number_range().unwrap();
        let (records, next) = read(&reader, horizon(&reader, &arn, id).await).await;
        open += usize::from(next.is_some());
        assert_eq!(next.is_some(), range.ending_sequence_number().is_none());
        for record in records {
            let number = record.dynamodb().unwrap().sequence_number().unwrap();
            assert!(number > range.starting_sequence_number().unwrap());
            assert!(range.ending_sequence_number().is_none_or(|end| number <= end));
            seen.entry(id_of(&record)).or_default().push(value_of(&record));
        }
    }
    assert_eq!(open, 2 + 2);
    assert_eq!(seen.len(), 20);
    assert!(seen.values().all(|values| *values == ["0", "1", "2", "3", "4", "5"]));

    let split = shards.iter().filter_map(Shard::parent_shard_id).collect::<Vec<_>>();
    let twice = split.iter().find(|parent| split.iter().filter(|other| other == parent).count() == 2).unwrap();
    let filter = ShardFilter::builder().r#type(ShardFilterType::ChildShards).shard_id(*twice).build();
    let children = reader.describe_stream().stream_arn(&arn).shard_filter(filter).send().await.unwrap();
    assert_eq!(children.stream_description.unwrap().shards.unwrap().len(), 2);
}

#[tokio::test]
async fn shards_roll_over_with_age_and_leave_the_listing_after_the_retention() {
    let (sandbox, clock) = sandbox();
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let arn = create(&client, "orders").await;
    let first = shards(&reader, &arn).await.remove(0).shard_id.unwrap();
    put(&client, "orders", "a", "1").await;
    clock.advance(20 * HOUR);
    let generations = shards(&reader, &arn).await;
    assert!((4..=7).contains(&generations.len()), "{}", generations.len());
    assert_eq!(
        generations
            .iter()
            .filter(|shard| shard.sequence_number_range().unwrap().ending_sequence_number().is_none())
            .count(),
        1
    );
    clock.advance(9 * HOUR);
    let later = shards(&reader, &arn).await;
    assert!(later.iter().all(|shard| shard.shard_id() != Some(&first)));
    let listed: BTreeSet<_> = later.iter().filter_map(Shard::shard_id).collect();
    assert!(later.iter().any(|shard| !listed.contains(shard.parent_shard_id().unwrap())));
    let iterator = reader.get_shard_iterator().stream_arn(&arn).shard_id(first);
    let iterator = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon);
    assert_eq!(code(iterator.send().await), "ResourceNotFoundException");
}

#[tokio::test]
async fn children_are_listed_late() {
    let (options, clock) = options();
    let sandbox = Sandbox::new(Options { children_delay: MINUTE, ..options });
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let arn = create(&client, "orders").await;
    sandbox.split_shard(SOURCE, REGION, "orders", 0).unwrap();
    put(&client, "orders", "a", "1").await;
    let before = shards(&reader, &arn).await;
    assert_eq!(before.len(), 1);
    let (records, next) = read(&reader, horizon(&reader, &arn, before[0].shard_id().unwrap()).await).await;
    assert!(records.is_empty() && next.is_none());
    clock.advance(MINUTE);
    let after = shards(&reader, &arn).await;
    assert_eq!(after.len(), 3);
    let mut found = 0;
    for child in &after[1..] {
        found += read(&reader, horizon(&reader, &arn, child.shard_id().unwrap()).await).await.0.len();
    }
    assert_eq!(found, 1);
}

#[tokio::test]
async fn an_iterator_expires_after_fifteen_minutes() {
    let (sandbox, clock) = sandbox();
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let arn = create(&client, "orders").await;
    let shard = shards(&reader, &arn).await.remove(0).shard_id.unwrap();
    let iterator = horizon(&reader, &arn, &shard).await;
    clock.advance(15 * MINUTE);
    reader.get_records().shard_iterator(&iterator).send().await.unwrap();
    clock.advance(Duration::from_millis(1));
    assert_eq!(code(reader.get_records().shard_iterator(&iterator).send().await), "ExpiredIteratorException");
    let iterator = horizon(&reader, &arn, &shard).await;
    sandbox.expire_iterators();
    assert_eq!(code(reader.get_records().shard_iterator(&iterator).send().await), "ExpiredIteratorException");
}

#[tokio::test]
async fn a_position_before_the_trim_point_is_an_error() {
    let (sandbox, clock) = sandbox();
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let arn = create(&client, "orders").await;
    let shard = shards(&reader, &arn).await.remove(0).shard_id.unwrap();
    let at = |kind: ShardIteratorType, number: &str| {
        let iterator = reader.get_shard_iterator().stream_arn(&arn).shard_id(&shard);
        iterator.shard_iterator_type(kind).sequence_number(number).send()
    };
    put(&client, "orders", "a", "1").await;
    clock.advance(MINUTE);
    put(&client, "orders", "b", "2").await;
    put(&client, "orders", "c", "3").await;
    let early = horizon(&reader, &arn, &shard).await;
    let (records, _) = read(&reader, early.clone()).await;
    let numbers: Vec<_> =
        records.iter().map(|record| record.dynamodb().unwrap().sequence_number().unwrap().to_owned()).collect();
    let after = at(ShardIteratorType::AfterSequenceNumber, &numbers[1]).await.unwrap().shard_iterator.unwrap();
    assert_eq!(read(&reader, after).await.0.iter().map(id_of).collect::<Vec<_>>(), ["c"]);

    sandbox.trim_now(SOURCE, REGION, "orders", MINUTE).unwrap();
    let trimmed = "TrimmedDataAccessException";
    assert_eq!(code(reader.get_records().shard_iterator(early).send().await), trimmed);
    assert_eq!(code(at(ShardIteratorType::AtSequenceNumber, &numbers[0]).await), trimmed);
    assert_eq!(code(at(ShardIteratorType::AfterSequenceNumber, &numbers[0]).await), trimmed);
    let left = at(ShardIteratorType::AtSequenceNumber, &numbers[1]).await.unwrap().shard_iterator.unwrap();
    assert_eq!(read(&reader, left).await.0.iter().map(id_of).collect::<Vec<_>>(), ["b", "c"]);
    let (records, _) = read(&reader, horizon(&reader, &arn, &shard).await).await;
    assert_eq!(records.iter().map(id_of).collect::<Vec<_>>(), ["b", "c"]);

    clock.advance(24 * HOUR);
    let ids: Vec<_> = shards(&reader, &arn).await.iter().map(|shard| shard.shard_id().unwrap().to_owned()).collect();
    for id in ids {
        assert!(read(&reader, horizon(&reader, &arn, &id).await).await.0.is_empty());
    }
}

#[tokio::test]
async fn latest_begins_after_the_newest_record() {
    let (sandbox, _) = sandbox();
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let arn = create(&client, "orders").await;
    let shard = shards(&reader, &arn).await.remove(0).shard_id.unwrap();
    put(&client, "orders", "a", "1").await;
    let latest = reader.get_shard_iterator().stream_arn(&arn).shard_id(&shard);
    let latest = latest.shard_iterator_type(ShardIteratorType::Latest).send().await.unwrap().shard_iterator.unwrap();
    put(&client, "orders", "b", "2").await;
    assert_eq!(read(&reader, latest).await.0.iter().map(id_of).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn a_disabled_stream_can_be_read_to_its_end_and_a_new_one_has_a_new_arn() {
    let (sandbox, clock) = sandbox();
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let old = create(&client, "orders").await;
    put(&client, "orders", "a", "1").await;
    let set = |on: bool| {
        let stream = StreamSpecification::builder().stream_enabled(on);
        let stream = if on { stream.stream_view_type(StreamViewType::NewImage) } else { stream };
        client.update_table().table_name("orders").stream_specification(stream.build().unwrap()).send()
    };
    assert_eq!(code(set(true).await), "ValidationException");
    set(false).await.unwrap();
    assert_eq!(code(set(false).await), "ValidationException");
    put(&client, "orders", "b", "nobody sees this").await;
    let new = set(true).await.unwrap().table_description.unwrap().latest_stream_arn.unwrap();
    assert_ne!(old, new);
    put(&client, "orders", "c", "3").await;

    let described = reader.describe_stream().stream_arn(&old).send().await.unwrap().stream_description.unwrap();
    assert_eq!(described.stream_status, Some(StreamStatus::Disabled));
    for (arn, wanted, ends) in [(&old, "a", true), (&new, "c", false)] {
        let shard = shards(&reader, arn).await.remove(0).shard_id.unwrap();
        let (records, next) = read(&reader, horizon(&reader, arn, &shard).await).await;
        assert_eq!(records.iter().map(id_of).collect::<Vec<_>>(), [wanted]);
        assert_eq!(next.is_none(), ends);
    }
    assert_eq!(reader.list_streams().table_name("orders").send().await.unwrap().streams.unwrap().len(), 2);
    clock.advance(24 * HOUR);
    assert_eq!(code(reader.describe_stream().stream_arn(&old).send().await), "ResourceNotFoundException");
    assert_eq!(reader.list_streams().table_name("orders").send().await.unwrap().streams.unwrap().len(), 1);
}

#[tokio::test]
async fn a_listing_of_many_shards_is_paged() {
    let (options, _) = options();
    let sandbox = Sandbox::new(Options { initial_shards: 250..=250, ..options });
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let arn = create(&client, "orders").await;
    let ids: BTreeSet<_> = shards(&reader, &arn).await.into_iter().filter_map(|shard| shard.shard_id).collect();
    assert_eq!(ids.len(), 250);
    let page = reader.describe_stream().stream_arn(&arn).limit(100).send().await.unwrap().stream_description.unwrap();
    assert_eq!(page.shards.unwrap().len(), 100);
    assert!(reader.describe_stream().stream_arn(&arn).limit(101).send().await.is_err());
}

#[tokio::test]
async fn pages_hold_a_thousand_records_or_a_megabyte_and_may_be_empty() {
    let (options, _) = options();
    let sandbox = Sandbox::new(Options { empty_page_chance: 0.9, final_page_with_records_chance: 1.0, ..options });
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let arn = create(&client, "orders").await;
    for id in 0..1500 {
        sandbox.put_item(SOURCE, REGION, "orders", &format!(r#"{{"id":{{"S":"{id}"}}}}"#)).unwrap();
    }
    for id in 0..4 {
        put(&client, "orders", &id.to_string(), &"x".repeat(399 * 1024)).await;
    }
    sandbox.roll_shards(SOURCE, REGION, "orders").unwrap();
    let shard = shards(&reader, &arn).await.remove(0).shard_id.unwrap();
    let mut iterator = Some(horizon(&reader, &arn, &shard).await);
    let mut counts = Vec::new();
    while let Some(current) = iterator {
        let page = reader.get_records().shard_iterator(current).send().await.unwrap();
        counts.push(page.records.unwrap_or_default().len());
        iterator = page.next_shard_iterator;
    }
    assert!(counts.contains(&0), "{counts:?}");
    counts.retain(|count| *count > 0);
    assert_eq!(counts, [1000, 502, 2]);
}

#[tokio::test]
async fn an_update_and_a_batch_are_recorded_like_puts() {
    let (sandbox, _) = sandbox();
    let (client, reader) = (database(&sandbox), streams(&sandbox));
    let arn = create(&client, "orders").await;
    let update = client.update_item().table_name("orders").key("id", s("a")).update_expression("SET v = :v");
    let update = update.expression_attribute_values(":v", s("1")).return_values(ReturnValue::AllNew);
    update.clone().send().await.unwrap();
    update.send().await.unwrap();
    let shard = shards(&reader, &arn).await.remove(0).shard_id.unwrap();
    let (records, _) = read(&reader, horizon(&reader, &arn, &shard).await).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].event_name().unwrap().as_str(), "INSERT");
}
