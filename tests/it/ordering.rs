//! Per key, the target takes the values of the source in their order and never goes back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynaferry::sandbox::{Exchange, FaultKind, FaultRule, Options, Trigger};
use serde_json::Value;

use crate::world::{TARGET, World};

type Seen = Arc<Mutex<HashMap<String, Vec<u64>>>>;

/// Notes the number in each item that the target accepted, in the order of execution.
fn watch_target(world: &World) -> Seen {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    world.sandbox.set_observer(Some(Arc::new(move |exchange: &Exchange<'_>| {
        if exchange.operation != "BatchWriteItem" || exchange.account != TARGET {
            return;
        }
        let Some(reply) = exchange.reply.filter(|reply| reply.status().is_success()) else { return };
        let request: Value = serde_json::from_slice(exchange.request).unwrap();
        let reply: Value = serde_json::from_slice(reply.body()).unwrap();
        let unprocessed = reply["UnprocessedItems"]["orders-copy"].as_array().cloned().unwrap_or_default();
        let mut noted = noted.lock().unwrap();
        for write in request["RequestItems"]["orders-copy"].as_array().unwrap() {
            let item = &write["PutRequest"]["Item"];
            if let (Some(n), false) = (item["n"]["N"].as_str(), unprocessed.contains(write)) {
                let key = format!("{}/{}", item["pk"]["S"], item["sk"]["N"]);
                noted.entry(key).or_default().push(n.parse().unwrap());
            }
        }
    })));
    seen
}

fn put(world: &World, key: usize, n: usize) {
    let item = serde_json::json!({"pk": {"S": format!("p{key}")}, "sk": {"N": "1"}, "n": {"N": n.to_string()}});
    world.put_json(&item);
}

#[tokio::test(start_paused = true)]
async fn a_key_never_goes_back_while_shards_split_and_writes_are_throttled() {
    let life = Duration::from_secs(2);
    let world = World::paused(Options {
        seed: 11,
        shard_life: life,
        split_chance: 0.5,
        max_open_shards: 8,
        ..Options::default()
    });
    for key in 0..10 {
        put(&world, key, 0);
    }
    let seen = watch_target(&world);
    let rule = |chance, kind| FaultRule::new("BatchWriteItem", Trigger::Chance(chance), kind);
    world.faults(vec![
        rule(0.1, FaultKind::UnprocessedSubset),
        rule(0.05, FaultKind::UnprocessedAll),
        rule(0.05, FaultKind::Throttle("ProvisionedThroughputExceededException".into())),
    ]);
    let service = world.serve("");
    for n in 1..1500 {
        put(&world, n % 10, n);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 10);
    for (key, numbers) in seen.iter() {
        assert!(numbers.is_sorted(), "{key} went back: {numbers:?}");
        assert!(numbers.len() > 20, "{key} was hardly written: the test is void");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_deleted_and_put_again_in_one_page_ends_as_at_the_source() {
    let world = World::paused(Options { seed: 12, ..Options::default() });
    let service = world.serve("");
    service.until_equal(&world).await;
    for round in 0..40 {
        // All of it between two polls: one page holds many changes of a key.
        for n in 0..60 {
            let (pk, sk) = (n % 6, 7);
            if (n + round) % 3 == 0 { world.delete(pk, sk) } else { world.put(pk, sk, &format!("{round}/{n}")) }
        }
        tokio::time::sleep(Duration::from_millis(70)).await;
    }
    service.until_equal(&world).await;
    service.stop().await.unwrap();
    world.assert_equal();
}

#[tokio::test(start_paused = true)]
async fn numbers_that_are_spelt_differently_are_one_key() {
    let world = World::paused(Options { seed: 13, ..Options::default() });
    let service = world.serve("");
    for (n, spelling) in ["1", "1.0", "10E-1", "0.1e1", "001"].into_iter().enumerate() {
        world.put_json(&serde_json::json!({"pk": {"S": "p"}, "sk": {"N": spelling}, "n": {"N": n.to_string()}}));
    }
    service.until_equal(&world).await;
    assert_eq!(world.sandbox.snapshot(TARGET, "eu-west-1", "orders-copy").unwrap().len(), 1);
    service.stop().await.unwrap();
}
