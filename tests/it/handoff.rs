//! From the load to the stream, and the beginnings that a user may choose.

use std::time::Duration;

use dynaferry::context::WallClock as _;
use dynaferry::error::Exit;
use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::Mode;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::world::{HOUR, ORDERS, OURS, REGION, SOURCE, TARGET, World, failed};

fn seeded(seed: u64) -> Options {
    Options { seed, ..Options::default() }
}

pub(crate) fn target_has(world: &World, pk: usize) -> bool {
    let target = world.sandbox.snapshot(TARGET, REGION, "orders-copy").unwrap();
    target.values().any(|item| format!("{item:?}").contains(&format!("\"p{pk}\"")))
}

async fn write_for(world: &World, steps: usize) {
    for n in 0..steps {
        world.put(n % 50, n % 2, &format!("during {n}"));
        if n % 3 == 0 {
            world.delete((n * 7) % 50, n % 2);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn items_that_change_between_their_page_and_their_write_keep_the_change() {
    for seed in 40..46 {
        let world = World::paused(Options { max_page_bytes: 1500, ..seeded(seed) });
        for n in 0..100 {
            world.put(n % 50, n / 50, "before");
        }
        // Pages of the load take their time, and so do their writes; the stream overtakes them.
        let hold =
            |call, millis| FaultRule::new(call, Trigger::Chance(0.5), FaultKind::Hold(Duration::from_millis(millis)));
        world.faults(vec![hold("Scan", 900), hold("BatchWriteItem", 700)]);
        let service = world.serve("load.segments = 3\nload.concurrency = 2");
        write_for(&world, 500).await;
        world.no_faults();
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn streams_of_keys_or_old_images_alone_are_replicated_by_reading_the_source() {
    for view in ["KEYS_ONLY", "OLD_IMAGE", "NEW_IMAGE"] {
        let world = World::paused_with(seeded(47), &ORDERS.replace("NEW_AND_OLD_IMAGES", view));
        for n in 0..100 {
            world.put(n % 50, n / 50, "before");
        }
        let service = world.serve("");
        write_for(&world, 200).await;
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn deletes_by_time_to_live_are_applied_or_skipped_as_asked() {
    for (word, is_gone) in [("apply", true), ("skip", false)] {
        let world = World::paused(seeded(48));
        world.put(1, 1, "expires");
        world.put(2, 1, "is deleted");
        let service = world.serve(&format!("stream.ttl_deletes = \"{word}\""));
        service.until_equal(&world).await;
        let key = json!({"pk": {"S": "p1"}, "sk": {"N": "1"}}).to_string();
        assert!(world.sandbox.expire_ttl(SOURCE, REGION, "orders", &key).unwrap());
        world.delete(2, 1);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!((target_has(&world, 1), target_has(&world, 2)), (!is_gone, false), "{word}");
        service.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_expired_is_kept_only_where_the_attribute_is_known() {
    let world = World::paused(seeded(58));
    world.put(1, 1, "may expire");
    let denied = FaultKind::Error { code: "AccessDeniedException".into(), status: 400 };
    world.faults(vec![FaultRule::new("DescribeTimeToLive", Trigger::Chance(1.0), denied).for_account(SOURCE)]);
    let (exit, text) = failed(world.migrate("stream.ttl_deletes = \"skip\"").await);
    assert_eq!(exit, Exit::Precondition, "{text}");
    assert!(text.contains("time-to-live"), "{text}");
    assert!(world.migrate("").await.is_ok(), "who applies those deletes needs not know");
}

pub(crate) fn set_expiry(world: &World, attribute: &str, on: bool) {
    let ttl = json!({"AttributeName": attribute, "Enabled": on});
    world.call(SOURCE, "UpdateTimeToLive", &json!({"TableName": "orders", "TimeToLiveSpecification": ttl}).to_string());
}

#[tokio::test(start_paused = true)]
async fn what_expired_by_an_attribute_that_is_no_longer_in_use_is_kept_by_a_heal() {
    let world = World::paused(seeded(59));
    let expire = |pk: usize| {
        let key = json!({"pk": {"S": format!("p{pk}")}, "sk": {"N": "1"}}).to_string();
        assert!(world.sandbox.expire_ttl(SOURCE, REGION, "orders", &key).unwrap());
    };
    for (pk, attribute) in [(1, "first"), (2, "second"), (3, "third")] {
        let past = json!({"N": "1700000000"});
        world.put_json(&json!({"pk": {"S": format!("p{pk}")}, "sk": {"N": "1"}, attribute: past}));
    }
    world.put(4, 1, "stays");
    set_expiry(&world, "first", true);
    let skip = "stream.ttl_deletes = \"skip\"";
    let service = world.serve(skip);
    service.until_equal(&world).await;
    expire(1);
    set_expiry(&world, "first", false);
    // Turned on and off while the link runs.
    tokio::time::sleep(HOUR * 2).await;
    set_expiry(&world, "second", true);
    tokio::time::sleep(HOUR * 2).await;
    expire(2);
    set_expiry(&world, "second", false);
    tokio::time::sleep(HOUR * 2).await;
    service.stop().await.unwrap();
    expire(3);
    world.clock().skip(HOUR * 30);
    let service = world.serve(skip);
    service.until("a gap is open", || !service.status().gaps.is_empty()).await;
    service.until("it is healed", || service.status().gaps.is_empty()).await;
    let kept = [1, 2, 3, 4].map(|pk| target_has(&world, pk));
    assert_eq!(kept, [true, true, false, true], "the third was deleted by something else, as far as anybody can know");
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_off_is_turned_on_only_when_asked() {
    let off =
        ORDERS.replace(r#""StreamEnabled":true,"StreamViewType":"NEW_AND_OLD_IMAGES""#, r#""StreamEnabled":false"#);
    let world = World::paused_with(Options { table_delay: Duration::from_secs(3), ..seeded(49) }, &off);
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.put(1, 1, "before");
    let (exit, text) = failed(world.migrate("").await);
    assert_eq!(exit, Exit::Precondition, "{text}");
    assert!(world.sandbox.snapshot(TARGET, REGION, "orders-copy").is_err(), "nothing was written");
    let description = world.ask(SOURCE, "DescribeTable", r#"{"TableName":"orders"}"#);
    assert!(description["Table"]["StreamSpecification"]["StreamEnabled"].as_bool() != Some(true));

    let reports = world.migrate("stream.enable = true").await.unwrap();
    assert!(reports[0].verification.is_identical());
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn without_a_load_the_stream_begins_where_the_user_says() {
    for (start, old, new) in [("trim_horizon", true, true), ("now", false, true)] {
        let world = World::paused(seeded(50));
        world.put(1, 1, "old");
        tokio::time::sleep(Duration::from_secs(100)).await;
        let service = world.serve(&format!("load.method = \"none\"\nstream.start = \"{start}\""));
        service.until("the stream is open", || service.why_not_ready().is_empty()).await;
        world.put(2, 1, "new");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!((target_has(&world, 1), target_has(&world, 2)), (old, new), "{start}");
        assert!(world.gaps().await.is_empty(), "{start}: nothing was lost");
        service.stop().await.unwrap();
    }
}

/// A source whose stream has five generations of one shard, four hours and an item each, and when the first began.
fn world_of_twenty_hours(seed: u64) -> (World, String) {
    let world = World::paused(Options { initial_shards: 1..=1, shard_life: HOUR * 1000, ..seeded(seed) });
    let start = world.clock().now().to_string();
    for n in 0..5 {
        world.put(n, 0, "of this generation");
        world.clock().skip(HOUR * 4);
        world.sandbox.roll_shards(SOURCE, REGION, "orders").unwrap();
    }
    (world, start)
}

#[tokio::test(start_paused = true)]
async fn without_a_load_a_long_history_that_is_read_in_time_is_no_gap() {
    for start in [Some(()), None] {
        let (world, began) = world_of_twenty_hours(54);
        let start = start.map_or("trim_horizon".to_owned(), |()| began);
        let service = world.serve(&format!("load.method = \"none\"\nstream.start = \"{start}\""));
        service.until_equal(&world).await;
        assert!(world.gaps().await.is_empty(), "{start}: {:?}", world.gaps().await);
        service.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_load_history_that_is_trimmed_before_it_is_read_lies_under_a_gap() {
    for hindrance in ["BatchWriteItem", "GetRecords"] {
        for at_horizon in [false, true] {
            let (world, began) = world_of_twenty_hours(55);
            let start = if at_horizon { "trim_horizon".to_owned() } else { began };
            let denied = FaultKind::Error { code: "AccessDeniedException".into(), status: 400 };
            world.faults(vec![FaultRule::new(hindrance, Trigger::Chance(1.0), denied)]);
            let service = world.serve(&format!("load.method = \"none\"\nstream.start = \"{start}\""));
            tokio::time::sleep(Duration::from_secs(60)).await;
            // The first shard is read at most, its children wait for its end; meanwhile some of them are trimmed.
            world.clock().skip(HOUR * 10);
            world.no_faults();
            service.until_equal(&world).await;
            let gaps = world.gaps().await;
            assert!(!gaps.is_empty(), "{hindrance}, from {start}");
            service.stop().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_of_a_parent_tells_how_old_its_child_may_be() {
    let (world, start) = world_of_twenty_hours(59);
    let denied = FaultKind::Error { code: "AccessDeniedException".into(), status: 400 };
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), denied)]);
    let service = world.serve(&format!("load.method = \"none\"\nstream.start = \"{start}\""));
    tokio::time::sleep(Duration::from_secs(60)).await;
    // The first change is nearly a day old, and the next ones are four hours younger each: only of the shard after the
    // first one nobody knows how old it may be.
    world.clock().skip(Duration::from_secs(3 * 3600 + 1800));
    world.no_faults();
    service.until_equal(&world).await;
    let scopes: std::collections::BTreeSet<_> =
        world.gaps().await.iter().map(|gap| format!("{:?}", gap.scope)).collect();
    assert_eq!(scopes.len(), 1, "{scopes:?}");
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_load_a_beginning_that_no_stream_keeps_is_a_gap() {
    let (world, start) = world_of_twenty_hours(56);
    world.clock().skip(HOUR * 6);
    let service = world.serve(&format!("load.method = \"none\"\nstream.start = \"{start}\""));
    service.until_equal(&world).await;
    assert!(!world.gaps().await.is_empty());
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_read_and_not_taken_yet_proves_nothing_of_where_a_restart_begins() {
    let world = World::paused(Options { initial_shards: 2..=2, shard_life: HOUR * 1000, ..seeded(57) });
    for n in 0..3_000 {
        world.put(n, 0, "old");
    }
    world.clock().skip(HOUR * 20);
    // Nothing is written, and the first page fills all of the look-ahead: the other shard's waits for room.
    let throttle = FaultKind::Throttle("ThrottlingException".to_owned());
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), throttle)]);
    let config = "load.method = \"none\"\napply.look_ahead_records = 1000";
    let service = world.serve(config);
    tokio::time::sleep(Duration::from_secs(120)).await;
    service.kill().await;
    world.clock().skip(HOUR * 5);
    world.no_faults();
    let service = world.serve(config);
    service.until_equal(&world).await;
    let mut scopes: Vec<String> = world.gaps().await.iter().map(|gap| format!("{:?}", gap.scope)).collect();
    scopes.sort_unstable();
    scopes.dedup();
    assert_eq!(scopes.len(), 2, "a gap for each shard: {scopes:?}");
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn starting_now_takes_what_is_written_in_the_same_second() {
    let world = World::paused(seeded(51));
    // Creation times are whole seconds, rounded down: begin late in one.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let service = world.serve("load.method = \"none\"\nstream.start = \"now\"");
    service.until("the stream is open", || service.why_not_ready().is_empty()).await;
    world.put(1, 1, "now");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(target_has(&world, 1));
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn changes_older_than_the_user_wants_are_left_out_and_counted() {
    let world = World::paused(seeded(52));
    world.put(1, 1, "old");
    world.clock().skip(HOUR);
    world.put(2, 1, "new");
    let service = world.serve("load.method = \"none\"\nstream.max_record_age = \"10m\"");
    service.until("the new one is there", || world.num_differences() == 1).await;
    assert!(!target_has(&world, 1) && target_has(&world, 2));
    let skipped = service.metric("dynaferry_stream_records_total", &["stage=\"skipped_older\""]);
    assert!((skipped - 1.0).abs() < f64::EPSILON, "{skipped}");
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_host_whose_clock_is_ten_minutes_off_loses_nothing() {
    for offset in [600_000, -600_000] {
        let world = World::paused(seeded(53));
        for n in 0..50 {
            world.put(n, 1, "before");
        }
        let program = world.program_in(world.config(""), Mode::Service, world.context_off_by(offset));
        let service = crate::world::Process::start(program);
        write_for(&world, 300).await;
        service.until_equal(&world).await;
        service.stop().await.unwrap();
    }
}

const RICH: &str = r#"{"TableName":"orders",
    "BillingMode":"PROVISIONED","ProvisionedThroughput":{"ReadCapacityUnits":50,"WriteCapacityUnits":60},
    "AttributeDefinitions":[{"AttributeName":"pk","AttributeType":"S"},{"AttributeName":"sk","AttributeType":"N"},
        {"AttributeName":"g","AttributeType":"S"},{"AttributeName":"l","AttributeType":"B"}],
    "KeySchema":[{"AttributeName":"pk","KeyType":"HASH"},{"AttributeName":"sk","KeyType":"RANGE"}],
    "GlobalSecondaryIndexes":[{"IndexName":"by-g","KeySchema":[{"AttributeName":"g","KeyType":"HASH"}],
        "Projection":{"ProjectionType":"INCLUDE","NonKeyAttributes":["v"]},
        "ProvisionedThroughput":{"ReadCapacityUnits":5,"WriteCapacityUnits":6}}],
    "LocalSecondaryIndexes":[{"IndexName":"by-l","KeySchema":[{"AttributeName":"pk","KeyType":"HASH"},
        {"AttributeName":"l","KeyType":"RANGE"}],"Projection":{"ProjectionType":"KEYS_ONLY"}}],
    "TableClass":"STANDARD_INFREQUENT_ACCESS","DeletionProtectionEnabled":true,
    "Tags":[{"Key":"team","Value":"shop"}],
    "StreamSpecification":{"StreamEnabled":true,"StreamViewType":"NEW_AND_OLD_IMAGES"}}"#;

#[tokio::test(start_paused = true)]
async fn a_target_that_is_made_is_like_its_source() {
    let world = World::paused_with(Options { table_delay: Duration::from_secs(4), ..seeded(54) }, RICH);
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.put(1, 1, "x");
    world.migrate("").await.unwrap();
    world.assert_equal();
    let of = |account, table: &str| {
        world.ask(account, "DescribeTable", &json!({"TableName": table}).to_string())["Table"].clone()
    };
    let (source, target) = (of(SOURCE, "orders"), of(TARGET, "orders-copy"));
    let sorted = |value: &serde_json::Value| {
        let mut all: Vec<String> = value.as_array().unwrap().iter().map(ToString::to_string).collect();
        all.sort();
        all
    };
    assert_eq!(sorted(&source["AttributeDefinitions"]), sorted(&target["AttributeDefinitions"]));
    for field in ["KeySchema", "DeletionProtectionEnabled"] {
        assert_eq!(source[field], target[field], "{field}");
    }
    assert_eq!(source["TableClassSummary"]["TableClass"], target["TableClassSummary"]["TableClass"]);
    for units in ["ReadCapacityUnits", "WriteCapacityUnits"] {
        assert_eq!(source["ProvisionedThroughput"][units], target["ProvisionedThroughput"][units]);
    }
    for (indexes, field) in [
        ("GlobalSecondaryIndexes", "KeySchema"),
        ("LocalSecondaryIndexes", "KeySchema"),
        ("GlobalSecondaryIndexes", "Projection"),
        ("LocalSecondaryIndexes", "Projection"),
    ] {
        assert_eq!(source[indexes][0][field], target[indexes][0][field], "{indexes} {field}");
        assert!(source[indexes][0][field].is_object() || source[indexes][0][field].is_array());
    }
    let tags = world.ask(TARGET, "ListTagsOfResource", &json!({"ResourceArn": target["TableArn"]}).to_string());
    assert_eq!(tags["Tags"], json!([{"Key": "team", "Value": "shop"}]));
    assert!(
        target["StreamSpecification"]["StreamEnabled"].as_bool() != Some(true),
        "the copy has no stream of its own"
    );
}

fn copy_of(orders: &str) -> String {
    orders.replace(r#""TableName":"orders""#, r#""TableName":"orders-copy""#)
}

#[tokio::test(start_paused = true)]
async fn a_target_that_holds_items_is_refused_unless_it_is_allowed() {
    let world = World::paused(seeded(55));
    world.call(TARGET, "CreateTable", &copy_of(ORDERS));
    world.put(1, 1, "ours");
    world.put_at(TARGET, "orders-copy", 9, 9, "theirs");
    let (exit, text) = failed(world.migrate("").await);
    assert_eq!(exit, Exit::Precondition);
    assert!(text.contains("not empty"), "{text}");
    assert_eq!(world.sandbox.snapshot(TARGET, REGION, "orders-copy").unwrap().len(), 1, "nothing was written");

    let reports = world.migrate("target.allow_non_empty = true").await.unwrap();
    assert_eq!(reports[0].verification.differences.confirmed.extra, 1);
    assert!(target_has(&world, 9) && target_has(&world, 1), "what others wrote stays");
}

#[tokio::test(start_paused = true)]
async fn tables_that_cannot_be_a_pair_are_refused_before_anything_is_written() {
    let world = World::paused(seeded(56));
    world.put(1, 1, "x");
    let (exit, _) = failed(world.migrate("target.create = false").await);
    assert_eq!(exit, Exit::Precondition, "no target, and none is to be made");
    world.call(TARGET, "CreateTable", &copy_of(ORDERS).replace(r#""AttributeType":"N""#, r#""AttributeType":"S""#));
    let (exit, text) = failed(world.migrate("").await);
    assert_eq!(exit, Exit::Precondition);
    assert!(text.contains("copy into"), "{text}");
    let (exit, text) = failed(world.migrate("source.table = \"ordres\"").await);
    assert_eq!(exit, Exit::Precondition, "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_same_table_on_both_sides_is_refused_also_by_way_of_another_identity() {
    let world = World::paused(seeded(57));
    world.put(1, 1, "x");
    // Without a role the ambient identity is the source's own account: only asking AWS shows that it is one table.
    let text = format!(
        "version = 1\n[checkpoint]\nstore = \"file:x\"\n[link.orders]\nsource.region = \"{REGION}\"\n\
         source.role_arn = \"arn:aws:iam::{SOURCE}:role/dynaferry-source\"\nsource.external_id = \"between-us\"\n\
         source.table = \"orders\"\ntarget.region = \"{REGION}\"\ntarget.table = \"arn:aws:dynamodb:{REGION}:{SOURCE}:table/orders\"\n"
    );
    world.sandbox.allow_cross_account(SOURCE, REGION, "orders", OURS);
    if let Ok(config) = dynaferry::config::parse("test.toml", &text, Vec::new()) {
        let program = world.program(config, Mode::Oneshot);
        let (exit, text) = failed(program.migrate(CancellationToken::new()).await);
        assert_eq!(exit, Exit::Precondition);
        assert!(text.contains("same table"), "{text}");
    }
}
