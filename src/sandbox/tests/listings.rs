//! What may go wrong with DescribeStream: `describe.*`, `filter.*`, `children.*`.

use std::collections::BTreeSet;

use aws_sdk_dynamodbstreams::types::{ShardFilter, ShardFilterType, StreamDescription};

use super::*;

async fn page(reader: &ds::Client, arn: &str, after: Option<String>) -> StreamDescription {
    let page = reader.describe_stream().stream_arn(arn).set_exclusive_start_shard_id(after).send().await.unwrap();
    page.stream_description.unwrap()
}

fn ids(page: &StreamDescription) -> Vec<String> {
    page.shards().iter().map(|shard| shard.shard_id().unwrap().to_owned()).collect()
}

fn open_ids(page: &StreamDescription) -> BTreeSet<String> {
    let is_open = |shard: &&Shard| shard.sequence_number_range().unwrap().ending_sequence_number().is_none();
    page.shards().iter().filter(is_open).map(|shard| shard.shard_id().unwrap().to_owned()).collect()
}

/// The children that the filter shows, or the error's code.
async fn children(reader: &ds::Client, arn: &str, parent: &str) -> Result<Vec<Shard>, String> {
    let filter = ShardFilter::builder().r#type(ShardFilterType::ChildShards).shard_id(parent).build();
    let answer = reader.describe_stream().stream_arn(arn).shard_filter(filter).send().await;
    let answer = answer.map_err(|error| error.code().unwrap_or_default().to_owned())?;
    Ok(answer.stream_description.unwrap().shards.unwrap_or_default())
}

/// A stream of one closed shard with two open children.
async fn family(options: Options) -> (Sandbox, ds::Client, String) {
    let sandbox = Sandbox::new(options);
    let arn = create(&database(&sandbox), "orders").await;
    sandbox.split_shard(SOURCE, REGION, "orders", 0).unwrap();
    let reader = streams(&sandbox);
    (sandbox, reader, arn)
}

#[tokio::test]
async fn describe_page_size_makes_short_pages_of_the_whole_listing() {
    let (options, _) = options();
    let sandbox = Sandbox::new(Options { initial_shards: 7..=7, max_page_shards: 2, ..options });
    let arn = create(&database(&sandbox), "orders").await;
    let reader = streams(&sandbox);
    assert_eq!(page(&reader, &arn, None).await.shards().len(), 2);
    assert_eq!(shards(&reader, &arn).await.len(), 7);
    assert_eq!(count(&sandbox, "describe.page_size"), 1 + 3);
}

#[tokio::test]
async fn describe_empty_last_page_is_empty_and_ends_the_listing() {
    let (options, _) = options();
    let (sandbox, reader, arn) = family(options).await;
    next(&sandbox, "DescribeStream", FaultKind::EmptyLastPage);
    let first = page(&reader, &arn, None).await;
    assert_eq!(first.shards().len(), 3);
    let last = page(&reader, &arn, first.last_evaluated_shard_id).await;
    assert!(last.shards().is_empty() && last.last_evaluated_shard_id.is_none());
    assert_eq!(count(&sandbox, "describe.empty_last_page"), 1);
}

#[tokio::test]
async fn describe_repeat_cursor_leads_back_to_the_same_page() {
    let (options, _) = options();
    let (sandbox, reader, arn) = family(Options { max_page_shards: 1, ..options }).await;
    next(&sandbox, "DescribeStream", FaultKind::RepeatCursor);
    let first = page(&reader, &arn, None).await;
    let cursor = first.last_evaluated_shard_id;
    let second = page(&reader, &arn, cursor.clone()).await;
    assert_eq!(second.last_evaluated_shard_id, cursor);
    assert_eq!(ids(&page(&reader, &arn, cursor).await), ids(&second));
    assert_eq!(count(&sandbox, "describe.repeat_cursor"), 1);
}

#[tokio::test]
async fn describe_fail_page_k_spares_the_first_page() {
    let (options, _) = options();
    let (sandbox, reader, arn) = family(Options { max_page_shards: 1, ..options }).await;
    next(&sandbox, "DescribeStream", FaultKind::FailLaterPage);
    let first = page(&reader, &arn, None).await;
    let second = reader.describe_stream().stream_arn(&arn).set_exclusive_start_shard_id(first.last_evaluated_shard_id);
    assert_eq!(code(second.send().await), "InternalServerError");
    assert_eq!(count(&sandbox, "describe.fail_page_k"), 1);
}

#[tokio::test]
async fn describe_shuffle_of_a_page_keeps_its_shards() {
    let (options, _) = options();
    let sandbox = Sandbox::new(Options { initial_shards: 20..=20, ..options });
    let arn = create(&database(&sandbox), "orders").await;
    let reader = streams(&sandbox);
    let sorted = ids(&page(&reader, &arn, None).await);
    next(&sandbox, "DescribeStream", FaultKind::ShuffleShards);
    let mut shuffled = ids(&page(&reader, &arn, None).await);
    assert_ne!(shuffled, sorted);
    shuffled.sort();
    assert_eq!(shuffled, sorted);
}

#[tokio::test]
async fn describe_shuffle_of_the_listing_is_lasting_and_splits_families_across_pages() {
    let (options, _) = options();
    let options = Options { initial_shards: 20..=20, max_page_shards: 3, shuffle_listings: true, ..options };
    let sandbox = Sandbox::new(options);
    let arn = create(&database(&sandbox), "orders").await;
    sandbox.roll_shards(SOURCE, REGION, "orders").unwrap();
    let reader = streams(&sandbox);
    let order = |shards: Vec<Shard>| -> Vec<String> { shards.into_iter().filter_map(|shard| shard.shard_id).collect() };
    let listed = shards(&reader, &arn).await;
    let mut seen = BTreeSet::new();
    let child_first = listed.iter().any(|shard| {
        seen.insert(shard.shard_id().unwrap());
        shard.parent_shard_id().is_some_and(|parent| !seen.contains(parent))
    });
    assert!(child_first);
    let listed = order(listed);
    assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), 40);
    assert!(!listed.is_sorted());
    assert_eq!(order(shards(&reader, &arn).await), listed);
    assert!(count(&sandbox, "describe.shuffle") > 0);
}

#[tokio::test]
async fn describe_duplicate_lists_a_shard_twice() {
    let (options, _) = options();
    let (sandbox, reader, arn) = family(options).await;
    let mut conflicting = 0;
    for _ in 0..20 {
        next(&sandbox, "DescribeStream", FaultKind::DuplicateShards);
        let page = page(&reader, &arn, None).await;
        assert_eq!(page.shards().len(), 4);
        assert_eq!(ids(&page).iter().collect::<BTreeSet<_>>().len(), 3);
        conflicting += usize::from(open_ids(&page).len() == 3);
    }
    assert!((1..20).contains(&conflicting));
    assert_eq!(count(&sandbox, "describe.duplicate"), 20);
}

#[tokio::test]
async fn describe_stale_parent_open_hides_the_end_for_one_page() {
    let (options, _) = options();
    let (sandbox, reader, arn) = family(options).await;
    assert_eq!(open_ids(&page(&reader, &arn, None).await).len(), 2);
    next(&sandbox, "DescribeStream", FaultKind::StaleParentOpen);
    assert_eq!(open_ids(&page(&reader, &arn, None).await).len(), 3);
    assert_eq!(open_ids(&page(&reader, &arn, None).await).len(), 2);
    assert_eq!(count(&sandbox, "describe.stale_parent_open"), 1);
}

#[tokio::test]
async fn describe_stale_listing_shows_the_stream_as_it_was() {
    let (options, clock) = options();
    let sandbox = Sandbox::new(options);
    let arn = create(&database(&sandbox), "orders").await;
    let reader = streams(&sandbox);
    clock.advance(MINUTE);
    sandbox.split_shard(SOURCE, REGION, "orders", 0).unwrap();
    clock.advance(Duration::from_secs(10));
    next(&sandbox, "DescribeStream", FaultKind::StaleListing(Duration::from_secs(5)));
    assert_eq!(page(&reader, &arn, None).await.shards().len(), 3);
    assert_eq!(count(&sandbox, "describe.stale_listing"), 0);
    next(&sandbox, "DescribeStream", FaultKind::StaleListing(Duration::from_secs(20)));
    let stale = page(&reader, &arn, None).await;
    assert_eq!((stale.shards().len(), open_ids(&stale).len()), (1, 1));
    assert_eq!(count(&sandbox, "describe.stale_listing"), 1);
}

#[tokio::test]
async fn filter_unsupported_is_refused_and_filter_ignored_lists_everything() {
    let (options, _) = options();
    let (sandbox, reader, arn) = family(options).await;
    let parent = ids(&page(&reader, &arn, None).await).remove(0);
    next(&sandbox, "DescribeStream", FaultKind::FilterUnsupported);
    assert_eq!(page(&reader, &arn, None).await.shards().len(), 3);
    assert_eq!(children(&reader, &arn, &parent).await.unwrap_err(), "ValidationException");
    next(&sandbox, "DescribeStream", FaultKind::FilterIgnored);
    assert_eq!(children(&reader, &arn, &parent).await.unwrap().len(), 3);
    assert_eq!(children(&reader, &arn, &parent).await.unwrap().len(), 2);
    assert_eq!((count(&sandbox, "filter.unsupported"), count(&sandbox, "filter.ignored")), (1, 1));
}

#[tokio::test]
async fn filter_empty_and_filter_partial_withhold_children() {
    let (options, _) = options();
    let (sandbox, reader, arn) = family(options).await;
    let parent = ids(&page(&reader, &arn, None).await).remove(0);
    next(&sandbox, "DescribeStream", FaultKind::FilterEmpty);
    assert_eq!(children(&reader, &arn, &parent).await.unwrap().len(), 0);
    next(&sandbox, "DescribeStream", FaultKind::FilterPartial);
    assert_eq!(children(&reader, &arn, &parent).await.unwrap().len(), 1);
    assert_eq!((count(&sandbox, "filter.empty"), count(&sandbox, "filter.partial")), (1, 1));
}

#[tokio::test]
async fn children_stagger_lists_siblings_one_at_a_time() {
    let (options, clock) = options();
    let (sandbox, reader, arn) = family(Options { children_stagger: HOUR, ..options }).await;
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        seen.insert(page(&reader, &arn, None).await.shards().len());
        clock.advance(MINUTE);
    }
    seen.insert(page(&reader, &arn, None).await.shards().len());
    assert_eq!(seen, [1, 2, 3].into());
    assert_eq!(count(&sandbox, "children.stagger"), 2);
}

#[tokio::test]
async fn children_never_come_after_a_disable_and_children_delay_is_counted() {
    let (options, clock) = options();
    let (sandbox, reader, arn) = family(Options { children_delay: MINUTE, ..options }).await;
    assert_eq!(page(&reader, &arn, None).await.shards().len(), 1);
    clock.advance(MINUTE);
    sandbox.disable_stream(SOURCE, REGION, "orders").unwrap();
    let described = page(&reader, &arn, None).await;
    assert_eq!(described.stream_status().unwrap().as_str(), "DISABLED");
    assert_eq!((described.shards().len(), open_ids(&described).len()), (3, 0));
    clock.advance(HOUR);
    assert_eq!(page(&reader, &arn, None).await.shards().len(), 3);
    assert_eq!((count(&sandbox, "children.delay"), count(&sandbox, "children.never")), (1, 2));
    assert_eq!(count(&sandbox, "stream.disable"), 1);
}

#[tokio::test]
async fn describe_rate_and_list_rate_throttle_an_account_for_the_rest_of_the_second() {
    let (options, clock) = options();
    let options = Options { max_describe_stream_rate: Some(10), max_list_streams_rate: Some(5), ..options };
    let (sandbox, reader, arn) = family(options).await;
    for _ in 0..10 {
        page(&reader, &arn, None).await;
    }
    assert_eq!(code(reader.describe_stream().stream_arn(&arn).send().await), "ThrottlingException");
    for _ in 0..5 {
        reader.list_streams().send().await.unwrap();
    }
    assert_eq!(code(reader.list_streams().send().await), "ThrottlingException");
    clock.advance(Duration::from_secs(1));
    page(&reader, &arn, None).await;
    reader.list_streams().send().await.unwrap();
    assert_eq!((count(&sandbox, "describe.rate"), count(&sandbox, "list.rate")), (1, 1));
}

#[tokio::test]
async fn odd_shard_ids_have_any_length_that_the_service_allows() {
    let (options, _) = options();
    let sandbox = Sandbox::new(Options { odd_shard_ids: true, initial_shards: 30..=30, ..options });
    let arn = create(&database(&sandbox), "orders").await;
    let reader = streams(&sandbox);
    let lengths: BTreeSet<usize> = ids(&page(&reader, &arn, None).await).iter().map(String::len).collect();
    assert!(lengths.len() > 10 && lengths.iter().all(|length| (28..=65).contains(length)), "{lengths:?}");
    assert_eq!(count(&sandbox, "shard.odd_ids"), 30);
}
