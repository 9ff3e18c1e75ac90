//! The source's stream: its listing, and iterators.

use super::*;

fn stream() -> StreamArn {
    StreamArn("arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026-11-20T00:00:00.000".into())
}

#[tokio::test(start_paused = true)]
async fn a_listing_page_says_what_the_service_said() {
    let body = r#"{"StreamDescription":{"StreamStatus":"ENABLED","StreamViewType":"NEW_IMAGE","LastEvaluatedShardId":"shard-2","Shards":[
        {"ShardId":"shard-1","SequenceNumberRange":{"StartingSequenceNumber":"100","EndingSequenceNumber":"200"}},
        {"ShardId":"shard-2","ParentShardId":"shard-1","SequenceNumberRange":{"StartingSequenceNumber":"201"}}]}}"#;
    let server = Server::new([Reply::ok(body), Reply::ok(body)]);
    let streams = account(&server).await.streams();
    let page = streams.describe(&stream(), Some(&ShardId::new("shard-0"))).await.unwrap();
    assert_eq!((page.status, page.view), (StreamStatus::Enabled, Some(ViewType::NewImage)));
    assert_eq!(page.next, Some(ShardId::new("shard-2")));
    assert_eq!(page.shards[0].last, Some(SequenceNumber::parse("200").unwrap()));
    assert_eq!((page.shards[1].last, page.shards[1].parent.clone()), (None, Some(ShardId::new("shard-1"))));
    assert_eq!(streams.children(&stream(), &ShardId::new("shard-1")).await.unwrap().len(), 2);
    let seen = server.seen();
    assert_eq!(seen[0].json()["ExclusiveStartShardId"], "shard-0");
    assert_eq!(seen[1].json()["ShardFilter"], serde_json::json!({"Type": "CHILD_SHARDS", "ShardId": "shard-1"}));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_stream_status_is_broken_and_not_guessed() {
    let server = Server::new([Reply::ok(r#"{"StreamDescription":{"StreamStatus":"NEW","Shards":[]}}"#)]);
    let failure = account(&server).await.streams().describe(&stream(), None).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Broken);
}

#[tokio::test(start_paused = true)]
async fn iterators_start_at_the_horizon_or_after_a_record() {
    let server = Server::new([Reply::ok(r#"{"ShardIterator":"i"}"#), Reply::ok("{}")]);
    let streams = account(&server).await.streams();
    let number = SequenceNumber::parse("000000000000000000042").unwrap();
    let shard = ShardId::new("shard-1");
    assert_eq!(streams.iterator(&stream(), &shard, StartAt::After(number)).await.unwrap().as_str(), "i");
    let missing = streams.iterator(&stream(), &shard, StartAt::TrimHorizon).await.unwrap_err();
    assert_eq!(missing.fault, Fault::Broken);
    assert_eq!(server.seen()[0].json()["ShardIteratorType"], "AFTER_SEQUENCE_NUMBER");
    assert_eq!(server.seen()[0].json()["SequenceNumber"], "000000000000000000042");
    assert_eq!(server.seen()[1].json()["ShardIteratorType"], "TRIM_HORIZON");
}
