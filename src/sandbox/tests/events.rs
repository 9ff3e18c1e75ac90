//! The event observer.

use std::sync::Mutex;

use super::super::{Event, FAULT_NAMES, FaultKind, FaultRule, Faults, Trigger};
use super::*;

/// The sandbox, its clock, and a log of what its events say.
fn watched(options: Options) -> (Sandbox, Arc<Mutex<Vec<String>>>) {
    let sandbox = Sandbox::new(options);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    sandbox.set_event_observer(Some(Arc::new(move |event| {
        if let Some(line) = line(event) {
            log.lock().unwrap().push(line);
        }
    })));
    (sandbox, seen)
}

fn line(event: &Event<'_>) -> Option<String> {
    Some(match event {
        Event::Changed(change) => {
            let id = String::from_utf8_lossy(change.key.get(5..).unwrap()).into_owned();
            let image = if change.image.is_some() { "put" } else { "gone" };
            let record = if change.record.is_some() { "record" } else { "no record" };
            assert!(
                change.record.is_none_or(|record| record.shard.starts_with("shardId-") && record.sequence.len() >= 21)
            );
            let extra = [(change.is_noop, " noop"), (change.is_late, " late")];
            let extra: String = extra.iter().filter(|(is, _)| *is).map(|(_, text)| *text).collect();
            format!("{} {} {} {id} {image} {record}{extra}", change.account, change.table, change.by)
        }
        Event::Trimmed { through, shard_gone, .. } => format!("trimmed {} {shard_gone}", through.is_some()),
        Event::ShardOpened { parent, .. } => format!("opened {}", parent.is_some()),
        Event::ShardClosed { .. } => "closed".to_owned(),
        Event::StreamEnabled { table, .. } => format!("stream of {table}"),
        Event::StreamDisabled { .. } => "stream disabled".to_owned(),
        Event::TableCreated { table, .. } => format!("created {table}"),
        Event::TableDeleted { table, .. } => format!("deleted {table}"),
        Event::Fault { operation, kind, account, .. } => {
            assert!(FAULT_NAMES.contains(kind), "{kind}");
            format!("fault {account} {operation} {kind}")
        }
    })
}

fn take(seen: &Mutex<Vec<String>>) -> Vec<String> {
    std::mem::take(&mut seen.lock().unwrap())
}

/// What was seen besides faults: a split is one, for instance.
fn lives(seen: &Mutex<Vec<String>>) -> Vec<String> {
    take(seen).into_iter().filter(|line| !line.starts_with("fault")).collect()
}

#[tokio::test]
async fn every_accepted_write_is_told_once_with_its_record() {
    let (options, clock) = options();
    let (sandbox, seen) = watched(options);
    let client = database(&sandbox);
    create(&client, "orders").await;
    assert_eq!(take(&seen), ["created orders", "stream of orders", "opened false"]);

    put(&client, "orders", "a", "1").await;
    put(&client, "orders", "a", "1").await;
    client.delete_item().table_name("orders").key("id", s("a")).send().await.unwrap();
    client.delete_item().table_name("orders").key("id", s("a")).send().await.unwrap();
    let refused = client.put_item().table_name("orders").set_item(Some(item("b", &[])));
    assert!(refused.condition_expression("attribute_exists(id)").send().await.is_err());
    sandbox.put_item(SOURCE, REGION, "orders", r#"{"id":{"S":"b"}}"#).unwrap();
    sandbox.expire_ttl(SOURCE, REGION, "orders", r#"{"id":{"S":"b"}}"#).unwrap();
    let expected = [
        "111122223333 orders PutItem a put record",
        "111122223333 orders PutItem a put no record noop",
        "111122223333 orders DeleteItem a gone record",
        "111122223333 orders DeleteItem a gone no record noop",
        "111122223333 orders control.put_item b put record",
        "111122223333 orders TimeToLive b gone record",
    ];
    assert_eq!(take(&seen), expected);

    let late = FaultKind::DeliverLate(Duration::from_secs(9));
    sandbox.set_faults(Faults::new(vec![FaultRule::new("PutItem", Trigger::Next(1), late)]));
    let put = client.put_item().table_name("orders").set_item(Some(item("c", &[])));
    assert!(put.send().await.is_err());
    assert_eq!(take(&seen), ["fault 111122223333 PutItem error.reset_then_late_delivery"]);
    clock.advance(Duration::from_secs(9));
    sandbox.catch_up();
    assert_eq!(take(&seen), ["111122223333 orders PutItem c put record late"]);
}

#[tokio::test]
async fn the_lives_of_shards_are_told_though_nobody_reads_them() {
    let (options, clock) = options();
    let (sandbox, seen) = watched(options);
    let client = database(&sandbox);
    create(&client, "orders").await;
    put(&client, "orders", "a", "1").await;
    lives(&seen);
    sandbox.split_shard(SOURCE, REGION, "orders", 0).unwrap();
    assert_eq!(lives(&seen), ["closed", "opened true", "opened true"]);
    sandbox.trim_now(SOURCE, REGION, "orders", Duration::from_secs(1)).unwrap();
    assert!(lives(&seen).is_empty());
    client.delete_table().table_name("orders").send().await.unwrap();
    assert_eq!(lives(&seen), ["stream disabled", "closed", "closed", "deleted orders"]);
    clock.advance(Duration::from_secs(24 * 3600));
    sandbox.catch_up();
    assert_eq!(lives(&seen), ["trimmed true true", "trimmed false true", "trimmed false true"]);
    clock.advance(Duration::from_secs(24 * 3600));
    sandbox.catch_up();
    assert!(lives(&seen).is_empty());
}
