//! What may go wrong with reading a shard: `trim.*`, `iterator.*`, `page.*`, `record.*`, readers, and vanished shards.

use std::collections::BTreeSet;

use super::super::SequenceNumbers;
use super::*;

async fn one(reader: &ds::Client, iterator: &str) -> (Vec<Record>, Option<String>) {
    let page = reader.get_records().shard_iterator(iterator).send().await.unwrap();
    (page.records.unwrap_or_default(), page.next_shard_iterator)
}

/// A stream with one shard and the records `0`, `1`, and so on.
async fn filled(options: Options, records: usize) -> (Sandbox, ds::Client, String, String) {
    let sandbox = Sandbox::new(options);
    let client = database(&sandbox);
    let arn = create(&client, "orders").await;
    for id in 0..records {
        put(&client, "orders", &id.to_string(), "1").await;
    }
    let reader = streams(&sandbox);
    let shard = shards(&reader, &arn).await.remove(0).shard_id.unwrap();
    (sandbox, reader, arn, shard)
}

#[tokio::test]
async fn trim_early_takes_the_oldest_records_at_any_moment() {
    let (options, _) = options();
    let (sandbox, reader, arn, shard) = filled(options, 50).await;
    let early = horizon(&reader, &arn, &shard).await;
    next(&sandbox, "GetShardIterator", FaultKind::TrimEarly);
    let late = horizon(&reader, &arn, &shard).await;
    assert_eq!(code(reader.get_records().shard_iterator(early).send().await), "TrimmedDataAccessException");
    let (left, _) = read(&reader, late).await;
    assert!(left.len() < 50);
    assert!(left.last().is_none_or(|record| id_of(record) == "49"));
    assert_eq!(count(&sandbox, "trim.early_at_any_moment"), 1);
}

#[tokio::test]
async fn trim_mid_iterator_takes_what_a_fresh_iterator_points_at() {
    let (options, _) = options();
    let (sandbox, reader, arn, shard) = filled(options, 3).await;
    next(&sandbox, "GetRecords", FaultKind::TrimUnderIterator);
    let iterator = horizon(&reader, &arn, &shard).await;
    assert_eq!(code(reader.get_records().shard_iterator(iterator).send().await), "TrimmedDataAccessException");
    let (left, _) = read(&reader, horizon(&reader, &arn, &shard).await).await;
    assert_eq!(left.iter().map(id_of).collect::<Vec<_>>(), ["1", "2"]);
    // At the tip there is nothing to trim.
    let (_, tip) = read(&reader, horizon(&reader, &arn, &shard).await).await;
    let tip = tip.unwrap();
    next(&sandbox, "GetRecords", FaultKind::TrimUnderIterator);
    one(&reader, &tip).await;
    assert_eq!(count(&sandbox, "trim.mid_iterator"), 1);
}

#[tokio::test]
async fn trim_on_time_is_counted() {
    let (options, clock) = options();
    let (sandbox, _, _, _) = filled(options, 1).await;
    clock.advance(24 * HOUR - Duration::from_secs(1));
    sandbox.catch_up();
    assert_eq!(count(&sandbox, "trim.on_time"), 0);
    clock.advance(Duration::from_secs(1));
    sandbox.catch_up();
    assert_eq!(count(&sandbox, "trim.on_time"), 1);
    assert!(count(&sandbox, "rollover") >= 5);
}

#[tokio::test]
async fn shard_vanish_takes_it_from_listing_and_reading_and_leaves_its_child() {
    let (options, _) = options();
    let (sandbox, reader, arn, shard) = filled(options, 3).await;
    let iterator = horizon(&reader, &arn, &shard).await;
    assert!(sandbox.vanish_shard(SOURCE, REGION, "orders", &shard).unwrap());
    assert!(!sandbox.vanish_shard(SOURCE, REGION, "orders", &shard).unwrap());
    let left = shards(&reader, &arn).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].parent_shard_id(), Some(shard.as_str()));
    assert_eq!(code(reader.get_records().shard_iterator(iterator).send().await), "ResourceNotFoundException");
    put(&database(&sandbox), "orders", "after", "1").await;
    let (records, _) = read(&reader, horizon(&reader, &arn, left[0].shard_id().unwrap()).await).await;
    assert_eq!(records.len(), 1);
    assert_eq!(count(&sandbox, "shard.vanish"), 1);
}

#[tokio::test]
async fn iterator_expire_and_lose_response_are_over_with_the_next_try() {
    let (options, _) = options();
    let (sandbox, reader, arn, shard) = filled(options, 3).await;
    let iterator = horizon(&reader, &arn, &shard).await;
    next(&sandbox, "GetRecords", FaultKind::ExpireIterator);
    let expired = reader.get_records().shard_iterator(&iterator).send().await;
    assert_eq!(code(expired), "ExpiredIteratorException");
    next(&sandbox, "GetShardIterator", FaultKind::LoseAnswer);
    let lost = reader.get_shard_iterator().stream_arn(&arn).shard_id(&shard);
    assert!(lost.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.is_err());
    assert_eq!(one(&reader, &iterator).await.0.len(), 3);
    assert_eq!((count(&sandbox, "iterator.expire"), count(&sandbox, "iterator.lose_response")), (1, 1));
}

#[tokio::test]
async fn page_empty_run_hides_records_for_so_many_pages() {
    let (options, _) = options();
    let (sandbox, reader, arn, shard) = filled(options, 3).await;
    next(&sandbox, "GetRecords", FaultKind::EmptyPages(40));
    let mut iterator = horizon(&reader, &arn, &shard).await;
    for _ in 0..40 {
        let (records, more) = one(&reader, &iterator).await;
        assert!(records.is_empty());
        iterator = more.unwrap();
    }
    assert_eq!(one(&reader, &iterator).await.0.len(), 3);
    assert_eq!(count(&sandbox, "page.empty_run"), 40);
}

#[tokio::test]
async fn page_empty_run_comes_before_the_end_of_a_closed_shard_too() {
    let (options, _) = options();
    let (sandbox, reader, arn, shard) = filled(options, 0).await;
    sandbox.roll_shards(SOURCE, REGION, "orders").unwrap();
    next(&sandbox, "GetRecords", FaultKind::EmptyPages(1));
    let (_, more) = one(&reader, &horizon(&reader, &arn, &shard).await).await;
    assert!(one(&reader, &more.unwrap()).await.1.is_none());
}

#[tokio::test]
async fn the_final_page_has_records_or_has_none() {
    for (chance, kind) in [(1.0, "page.final_with_records"), (0.0, "page.final_empty")] {
        let (options, _) = options();
        let options = Options { final_page_with_records_chance: chance, ..options };
        let (sandbox, reader, arn, shard) = filled(options, 3).await;
        sandbox.roll_shards(SOURCE, REGION, "orders").unwrap();
        let (records, more) = one(&reader, &horizon(&reader, &arn, &shard).await).await;
        assert_eq!((records.len(), more.is_none()), (3, chance > 0.0));
        if let Some(more) = more {
            let (records, end) = one(&reader, &more).await;
            assert!(records.is_empty() && end.is_none());
        }
        assert_eq!(count(&sandbox, kind), 1);
    }
}

#[tokio::test]
async fn page_one_record_and_page_1mb_are_shorter_than_what_is_there() {
    let (options, _) = options();
    let (sandbox, reader, arn, shard) = filled(options, 3).await;
    next(&sandbox, "GetRecords", FaultKind::OneRecord);
    let (records, more) = one(&reader, &horizon(&reader, &arn, &shard).await).await;
    assert_eq!(records.len(), 1);
    assert_eq!(one(&reader, &more.unwrap()).await.0.len(), 2);
    let client = database(&sandbox);
    for round in ["x", "y"] {
        put(&client, "orders", "0", &round.repeat(399 * 1024)).await;
    }
    let (records, _) = one(&reader, &horizon(&reader, &arn, &shard).await).await;
    assert_eq!(records.len(), 4);
    assert_eq!((count(&sandbox, "page.one_record"), count(&sandbox, "page.1MB")), (1, 1));
}

#[tokio::test]
async fn record_unknown_event_spoils_one_record_of_one_page() {
    let (options, _) = options();
    let (sandbox, reader, arn, shard) = filled(options, 10).await;
    let odd =
        |records: &[Record]| records.iter().filter(|record| record.event_name().unwrap().as_str() != "INSERT").count();
    next(&sandbox, "GetRecords", FaultKind::UnknownEvent);
    assert_eq!(odd(&one(&reader, &horizon(&reader, &arn, &shard).await).await.0), 1);
    assert_eq!(odd(&one(&reader, &horizon(&reader, &arn, &shard).await).await.0), 0);
    assert_eq!(count(&sandbox, "record.unknown_event"), 1);
}

#[tokio::test]
async fn record_missing_field_spoils_one_record_of_one_page() {
    let (options, _) = options();
    let (sandbox, reader, arn, shard) = filled(options, 10).await;
    let whole = |record: &Record| {
        let change = record.dynamodb().unwrap();
        let missing = [
            ("name", record.event_name().is_none()),
            ("keys", change.keys().is_none()),
            ("number", change.sequence_number().is_none()),
            ("image", change.new_image().is_none()),
        ];
        missing.into_iter().filter(|(_, is_missing)| *is_missing).map(|(what, _)| what).collect::<Vec<_>>()
    };
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        next(&sandbox, "GetRecords", FaultKind::MissingField);
        let (records, _) = one(&reader, &horizon(&reader, &arn, &shard).await).await;
        let missing: Vec<_> = records.iter().flat_map(whole).collect();
        assert_eq!(missing.len(), 1);
        seen.extend(missing);
    }
    assert_eq!(seen, ["image", "keys", "name", "number"].into());
    let (records, _) = one(&reader, &horizon(&reader, &arn, &shard).await).await;
    assert!(records.iter().all(|record| whole(record).is_empty()));
}

#[tokio::test]
async fn record_40_digit_seq_grows_in_each_shard_and_a_child_may_start_below() {
    let (options, _) = options();
    let options = Options { sequence_numbers: SequenceNumbers::Growing, ..options };
    let (sandbox, reader, arn, first) = filled(options, 300).await;
    let number = |text: &str| (text.len(), text.to_owned());
    let (mut longest, mut starts_below) = (0, 0);
    for _ in 0..20 {
        sandbox.roll_shards(SOURCE, REGION, "orders").unwrap();
    }
    let mut ends = std::collections::BTreeMap::new();
    for shard in shards(&reader, &arn).await {
        let id = shard.shard_id().unwrap().to_owned();
        let range = shard.sequence_number_range().unwrap();
        let start = number(range.starting_sequence_number().unwrap());
        starts_below += usize::from(shard.parent_shard_id().is_some_and(|parent| ends[parent] > start));
        let (records, _) = read(&reader, horizon(&reader, &arn, &id).await).await;
        let mut numbers = vec![start];
        numbers.extend(records.iter().map(|record| number(record.dynamodb().unwrap().sequence_number().unwrap())));
        numbers.extend(range.ending_sequence_number().map(number));
        assert!(numbers.is_sorted() && numbers.iter().all(|(length, _)| (21..=40).contains(length)));
        longest = longest.max(numbers.last().unwrap().0);
        ends.insert(id, numbers.pop().unwrap());
    }
    assert_eq!(longest, 40);
    assert!((1..20).contains(&starts_below), "{starts_below}");

    // Every position of the longest kind can be gone back to.
    let (records, _) = read(&reader, horizon(&reader, &arn, &first).await).await;
    let middle = records[250].dynamodb().unwrap().sequence_number().unwrap();
    let after = reader.get_shard_iterator().stream_arn(&arn).shard_id(&first).sequence_number(middle);
    let after = after.shard_iterator_type(ShardIteratorType::AfterSequenceNumber).send().await.unwrap();
    let (rest, _) = read(&reader, after.shard_iterator.unwrap()).await;
    assert_eq!(rest.len(), 49);
    assert!(count(&sandbox, "record.40_digit_seq") >= 19);
}

#[tokio::test]
async fn record_epoch_restart_numbers_a_reenabled_stream_from_the_start() {
    for restarts in [false, true] {
        let (options, _) = options();
        let options = Options { restart_numbers: restarts, ..options };
        let (sandbox, reader, old, shard) = filled(options, 30).await;
        let (records, _) = read(&reader, horizon(&reader, &old, &shard).await).await;
        let before = records[29].dynamodb().unwrap().sequence_number().unwrap();
        sandbox.disable_stream(SOURCE, REGION, "orders").unwrap();
        sandbox.enable_stream(SOURCE, REGION, "orders", "NEW_AND_OLD_IMAGES").unwrap();
        let listed = reader.list_streams().table_name("orders").send().await.unwrap().streams.unwrap();
        let new = listed.iter().find_map(|stream| stream.stream_arn().filter(|arn| *arn != old)).unwrap();
        let shard = shards(&reader, new).await.remove(0);
        let start = shard.sequence_number_range().unwrap().starting_sequence_number().unwrap();
        assert_eq!(start < before, restarts, "{start} {before}");
        assert_eq!(count(&sandbox, "record.epoch_restart"), u64::from(restarts));
        assert_eq!(count(&sandbox, "stream.reenable_new_arn"), 1);
    }
}

#[tokio::test]
async fn readers_per_shard_limit_throttles_the_third_that_goes_on() {
    let (options, clock) = options();
    let (sandbox, reader, arn, shard) = filled(Options { max_shard_readers: Some(2), ..options }, 3).await;
    let mut iterators = Vec::new();
    for _ in 0..3 {
        iterators.push(horizon(&reader, &arn, &shard).await);
    }
    let send = |iterator: &str| reader.get_records().shard_iterator(iterator).send();
    // Each once: any of them may have taken the place of the one before.
    for iterator in &iterators {
        send(iterator).await.unwrap();
    }
    assert_eq!(sandbox.stats().crowded_reads, 0);
    assert_eq!(code(send(&iterators[0]).await), "LimitExceededException");
    assert_eq!(sandbox.stats().crowded_reads, 1);
    clock.advance(Duration::from_secs(1));
    send(&iterators[0]).await.unwrap();
    send(&iterators[1]).await.unwrap();
    send(&iterators[0]).await.unwrap();
    assert_eq!(count(&sandbox, "readers_per_shard_limit"), 1);
}
