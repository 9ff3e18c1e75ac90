//! What only a table can break: lost and late answers, throttles, a table that is gone, values larger than an item.

use futures_util::future::BoxFuture;

use super::super::dynamodb::{self, TableStore};
use super::super::table::{self, StateTable};
use super::super::{Leases as _, Pulses as _, Sighting, Sign};
use super::*;
use crate::aws::{AccessKey, Account, Clients, Side};
use crate::config::SideConfig;
use crate::context::{Context, WallClock};
use crate::error::{Exit, Failure};
use crate::sandbox::{FaultKind, FaultRule, Faults, Options, Sandbox, Trigger};

pub(super) const ACCOUNT: &str = "222222222222";
pub(super) const REGION: &str = "eu-west-1";
pub(super) const TABLE: &str = "dynaferry-state";

/// Wall time that goes with the paused runtime's.
pub(in super::super) struct Virtual(tokio::time::Instant);

impl WallClock for Virtual {
    fn now(&self) -> WallTime {
        WallTime::from_millis(1_800_000_000_000).plus(self.0.elapsed())
    }
}

/// An account to keep state in.
pub(in super::super) struct Cloud {
    pub(in super::super) sandbox: Sandbox,
    context: Context,
}

impl Cloud {
    pub(in super::super) fn new(seed: u64) -> Self {
        let clock: Arc<dyn WallClock> = Arc::new(Virtual(tokio::time::Instant::now()));
        let sandbox = Sandbox::new(Options { clock: Arc::clone(&clock), seed, ..Options::default() });
        Self { sandbox, context: Context::new(clock, fastrand::Rng::with_seed(seed)) }
    }

    async fn state_table(&self) -> Arc<dyn StateTable> {
        let clients = Clients {
            http: Some(self.sandbox.http_client()),
            isolated: Some(AccessKey { id: ACCOUNT.to_owned(), secret: "secret".to_owned() }),
            ..Clients::new(self.context.clone(), Duration::from_secs(5))
        };
        let side = SideConfig { region: Some(REGION.to_owned()), ..SideConfig::default() };
        let account = Account::connect(&side, Side::Target, &clients).await.unwrap();
        Arc::new(account.state_table(TABLE))
    }

    pub(in super::super) async fn open(&self, namespace: &str) -> Result<TableStore, StoreError> {
        self.open_with(namespace, true).await
    }

    async fn open_with(&self, namespace: &str, create: bool) -> Result<TableStore, StoreError> {
        let table = self.state_table().await;
        let (store, task) = dynamodb::open(table, namespace, self.context.clone(), create).await?;
        #[expect(clippy::disallowed_methods, reason = "the store's task, as a process has it")]
        drop(tokio::spawn(task.run()));
        Ok(store)
    }

    pub(super) fn faults(&self, rules: Vec<FaultRule>) {
        self.sandbox.set_faults(Faults::new(rules));
    }

    fn call(&self, operation: &str, body: &str) {
        self.sandbox.call(ACCOUNT, REGION, operation, body).unwrap();
    }

    fn drop_table(&self) {
        self.call("UpdateTable", r#"{"TableName":"dynaferry-state","DeletionProtectionEnabled":false}"#);
        self.call("DeleteTable", r#"{"TableName":"dynaferry-state"}"#);
    }
}

/// A table whose next queries may see what an earlier one saw.
struct Behind {
    table: Arc<dyn StateTable>,
    seen: std::sync::Mutex<Vec<(table::Range, table::Page)>>,
    records: std::sync::atomic::AtomicBool,
}

impl StateTable for Behind {
    fn place(&self) -> String {
        self.table.place()
    }

    fn condition(&self, key: &table::ItemKey, guard: &table::Guard) -> Vec<u8> {
        self.table.condition(key, guard)
    }

    fn find(&self) -> BoxFuture<'_, Result<table::Found, Failure>> {
        self.table.find()
    }

    fn create(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.table.create()
    }

    fn get<'a>(&'a self, key: &'a table::ItemKey) -> BoxFuture<'a, Result<Option<table::Fields>, Failure>> {
        self.table.get(key)
    }

    fn query<'a>(&'a self, range: &'a table::Range) -> BoxFuture<'a, Result<table::Page, Failure>> {
        Box::pin(async move {
            let records = self.records.load(std::sync::atomic::Ordering::SeqCst);
            if !records {
                let mut seen = self.seen.lock().unwrap();
                if let Some(at) = seen.iter().position(|(of, _)| of == range) {
                    return Ok(seen.remove(at).1);
                }
            }
            let page = self.table.query(range).await?;
            if records {
                self.seen.lock().unwrap().push((range.clone(), page.clone()));
            }
            Ok(page)
        })
    }

    fn write<'a>(&'a self, write: &'a table::ItemWrite) -> BoxFuture<'a, Result<table::Written, Failure>> {
        self.table.write(write)
    }

    fn transact<'a>(
        &'a self,
        token: &'a str,
        writes: &'a [table::ItemWrite],
    ) -> BoxFuture<'a, Result<table::Written, Failure>> {
        self.table.transact(token, writes)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_from_an_owner_that_was_writing_is_read_when_all_of_it_is_in_view() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let cloud = Cloud::new(21);
    let first = cloud.open("fleet").await.unwrap();
    let (fence, _) = first.take("orders", "a").await.unwrap();
    checkpoint(&first, &fence, 1).await.unwrap();
    let behind =
        Arc::new(Behind { table: cloud.state_table().await, seen: Default::default(), records: AtomicBool::new(true) });
    let (second, task) =
        dynamodb::open(Arc::clone(&behind) as Arc<dyn StateTable>, "fleet", cloud.context.clone(), false)
            .await
            .unwrap();
    #[expect(clippy::disallowed_methods, reason = "the store's task, as a process has it")]
    drop(tokio::spawn(task.run()));
    assert_eq!(second.read("orders").await.unwrap().shards, [shard("s", Some(1))]);
    checkpoint(&first, &fence, 2).await.unwrap();
    behind.records.store(false, Ordering::SeqCst);
    let (_, state) = second.take("orders", "b").await.unwrap();
    assert_eq!(state.shards, [shard("s", Some(2))]);
}

pub(super) fn next(operation: &str, count: u32, kind: FaultKind) -> FaultRule {
    FaultRule::new(operation, Trigger::Next(count), kind)
}

async fn checkpoint(store: &TableStore, fence: &Fence, n: u64) -> Result<(), StoreError> {
    store.commit("orders", fence, vec![StateWrite::Shard(shard("s", Some(n)))]).await
}

#[tokio::test(start_paused = true)]
async fn lost_answers_are_not_taken_for_another_owner() {
    let cloud = Cloud::new(2);
    let store = cloud.open("fleet").await.unwrap();
    for kind in [FaultKind::LoseAnswer, FaultKind::InternalError, FaultKind::Refuse, FaultKind::GarbleAnswer] {
        cloud.faults(vec![next("PutItem", 1, kind.clone()), next("TransactWriteItems", 2, kind.clone())]);
        let before = store.read("orders").await.unwrap();
        let (fence, taken) = store.take("orders", "me").await.unwrap();
        assert_eq!(taken, before, "{kind:?}");
        assert_eq!(fence.epoch, before.fence.map_or(0, |fence| fence.epoch) + 1, "{kind:?}");
        checkpoint(&store, &fence, fence.epoch).await.unwrap();
        cloud.faults(Vec::new());
        checkpoint(&store, &fence, fence.epoch).await.unwrap();
        let state = store.read("orders").await.unwrap();
        assert_eq!((state.fence, state.shards), (Some(fence.clone()), vec![shard("s", Some(fence.epoch))]), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_arrives_late_changes_nothing() {
    let cloud = Cloud::new(3);
    let store = cloud.open("fleet").await.unwrap();
    let (fence, _) = store.take("orders", "me").await.unwrap();
    checkpoint(&store, &fence, 1).await.unwrap();
    // Beyond the ten minutes for which the service knows a transaction's token.
    let late = FaultKind::DeliverLate(Duration::from_secs(12 * 60));
    cloud.faults(vec![next("TransactWriteItems", 1, late)]);
    checkpoint(&store, &fence, 2).await.unwrap();
    let row = ShardRow { checkpoint_time: Some(time(777)), ..shard("s", Some(2)) };
    store.commit("orders", &fence, vec![StateWrite::Shard(row.clone())]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(15 * 60)).await;
    assert_eq!(store.read("orders").await.unwrap().shards, [row], "the late attempt did not put the old row back");
    checkpoint(&store, &fence, 3).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_take_that_arrives_late_takes_nothing() {
    let cloud = Cloud::new(4);
    let store = cloud.open("fleet").await.unwrap();
    let (first, _) = store.take("orders", "a").await.unwrap();
    cloud.faults(vec![next("PutItem", 1, FaultKind::DeliverLate(Duration::from_secs(60)))]);
    let (second, _) = store.take("orders", "b").await.unwrap();
    assert_eq!(second.epoch, first.epoch + 1);
    checkpoint(&store, &second, 5).await.unwrap();
    tokio::time::sleep(Duration::from_secs(90)).await;
    checkpoint(&store, &second, 6).await.unwrap();
    assert_eq!(store.read("orders").await.unwrap().fence, Some(second));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_was_given_up_and_arrives_late_fences_nobody() {
    let cloud = Cloud::new(5);
    let store = cloud.open("fleet").await.unwrap();
    let (fence, _) = store.take("orders", "me").await.unwrap();
    checkpoint(&store, &fence, 1).await.unwrap();
    // Given up after twenty seconds; every attempt arrives at some time later.
    cloud.faults(vec![next("TransactWriteItems", 100, FaultKind::DeliverLate(Duration::from_secs(22)))]);
    let error = checkpoint(&store, &fence, 2).await.unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    cloud.faults(Vec::new());
    let mut tries = 0;
    while let Err(error) = checkpoint(&store, &fence, 3).await {
        assert!(error.may_pass(), "{error:?}");
        tries += 1;
        assert!(tries < 5);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(store.read("orders").await.unwrap().shards, [shard("s", Some(3))]);
    tokio::time::sleep(Duration::from_secs(600)).await;
    checkpoint(&store, &fence, 4).await.unwrap();
    assert_eq!(store.read("orders").await.unwrap().shards, [shard("s", Some(4))]);
}

#[tokio::test(start_paused = true)]
async fn throttles_are_waited_out_and_an_outage_is_told_after_a_while() {
    let cloud = Cloud::new(6);
    let store = cloud.open("fleet").await.unwrap();
    let (fence, _) = store.take("orders", "me").await.unwrap();
    let throttle = FaultKind::Throttle("ThrottlingException".into());
    cloud.faults(vec![FaultRule::new("*", Trigger::Chance(0.5), throttle.clone())]);
    for n in 1..=20 {
        checkpoint(&store, &fence, n).await.unwrap();
    }
    cloud.faults(vec![FaultRule::new("*", Trigger::Chance(1.0), throttle)]);
    let asked = tokio::time::Instant::now();
    let error = checkpoint(&store, &fence, 21).await.unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }) && asked.elapsed() <= Duration::from_secs(25), "{error:?}");
    let denied = FaultKind::AccessDenied;
    cloud.faults(vec![FaultRule::new("TransactWriteItems", Trigger::Chance(1.0), denied)]);
    let error = checkpoint(&store, &fence, 21).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }) && error.may_pass(), "{error:?}");
    cloud.faults(Vec::new());
    checkpoint(&store, &fence, 21).await.unwrap();
    assert_eq!(store.read("orders").await.unwrap().shards, [shard("s", Some(21))]);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_gone_stops_the_owner_and_is_not_made_anew() {
    let cloud = Cloud::new(7);
    let store = cloud.open("fleet").await.unwrap();
    let (fence, _) = store.take("orders", "me").await.unwrap();
    checkpoint(&store, &fence, 1).await.unwrap();
    cloud.drop_table();
    let error = checkpoint(&store, &fence, 2).await.unwrap_err();
    assert!(matches!(error, StoreError::Gone { .. }) && !error.may_pass(), "{error:?}");
    assert_eq!(crate::error::Error::from(error).exit, Exit::Precondition);
    assert!(cloud.sandbox.snapshot(ACCOUNT, REGION, TABLE).is_err());
    assert!(matches!(cloud.open_with("fleet", false).await.err(), Some(StoreError::Gone { .. })));
    // Somebody else makes it anew: it is not what the owner wrote, and no other owner either.
    let other = cloud.open("fleet").await.unwrap();
    assert_eq!(other.read("orders").await.unwrap(), LinkState::default());
    for _ in 0..2 {
        let error = checkpoint(&store, &fence, 2).await.unwrap_err();
        assert!(matches!(error, StoreError::Gone { .. }), "{error:?}");
    }
    assert_eq!(other.read("orders").await.unwrap(), LinkState::default());
}

#[tokio::test(start_paused = true)]
async fn another_version_and_another_table_are_refused() {
    let cloud = Cloud::new(8);
    drop(cloud.open("fleet").await.unwrap());
    let version = r#"{"TableName":"dynaferry-state","Item":{"pk":{"S":"dynaferry"},"sk":{"B":"c2NoZW1hX3ZlcnNpb24="},"version":{"N":"2"}}}"#;
    cloud.call("PutItem", version);
    let error = cloud.open("fleet").await.err().unwrap();
    assert!(matches!(error, StoreError::Version { found: 2, known: 1, .. }), "{error:?}");
    cloud.drop_table();
    let foreign = r#"{"TableName":"dynaferry-state","BillingMode":"PAY_PER_REQUEST",
        "AttributeDefinitions":[{"AttributeName":"pk","AttributeType":"S"}],"KeySchema":[{"AttributeName":"pk","KeyType":"HASH"}]}"#;
    cloud.call("CreateTable", foreign);
    let error = cloud.open("fleet").await.err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn fleets_share_a_table_and_see_nothing_of_each_other() {
    let cloud = Cloud::new(9);
    let (red, blue) = (cloud.open("red").await.unwrap(), cloud.open("blue").await.unwrap());
    let (fence, _) = red.take("orders", "a").await.unwrap();
    checkpoint(&red, &fence, 1).await.unwrap();
    assert_eq!(blue.read("orders").await.unwrap(), LinkState::default());
    assert!(blue.links().await.unwrap().is_empty());
    blue.take("orders", "b").await.unwrap();
    checkpoint(&red, &fence, 2).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn long_keys_large_letters_and_large_pages_survive() {
    let cloud = Cloud::new(10);
    let store = cloud.open("fleet").await.unwrap();
    let (fence, _) = store.take("orders", "me").await.unwrap();
    let long = "k".repeat(3000);
    let keys = [long.clone(), format!("{long}x"), "k".repeat(900), "k".repeat(901), "k".repeat(933)];
    let mut rows: Vec<StateWrite> = keys.iter().map(|key| StateWrite::Doubt(doubt(key, 5, None))).collect();
    let mut random = fastrand::Rng::with_seed(1);
    let large: String = std::iter::repeat_with(|| random.alphanumeric()).take(1_500_000).collect();
    let big = DeadLetterRow { item_json: Some(large), ..letter(1) };
    rows.push(StateWrite::DeadLetter(big.clone()));
    rows.push(StateWrite::DeadLetter(letter(2)));
    rows.extend((0..20_000).map(|n| StateWrite::Doubt(doubt(&format!("page-{n:05}"), 1, Some(page(3, 9))))));
    store.commit("orders", &fence, rows).await.unwrap();
    let again = cloud.open("fleet").await.unwrap();
    let state = again.read("orders").await.unwrap();
    assert_eq!(state.doubts.len(), 20_000 + keys.len());
    for key in &keys {
        assert!(state.doubts.contains(&doubt(key, 5, None)));
    }
    assert!(state.doubts.contains(&doubt("page-12345", 1, Some(page(3, 9)))));
    assert_eq!(state.dead_letters, (2, 2));
    assert_eq!(again.dead_letters("orders", 0, 1).await.unwrap(), [big]);
    assert_eq!(again.dead_letters("orders", 0, 10).await.unwrap().len(), 2);
    let items = || cloud.sandbox.snapshot(ACCOUNT, REGION, TABLE).unwrap().len();
    assert!(items() < 60, "a page is a few items, not one for each key: {}", items());
    let rows = vec![
        StateWrite::Settle(doubt(&long, 5, None)),
        StateWrite::SettlePage(page(3, 9)),
        StateWrite::RemoveDeadLetter(1),
    ];
    store.commit("orders", &fence, rows).await.unwrap();
    let state = again.read("orders").await.unwrap();
    assert_eq!((state.doubts.len(), state.dead_letters), (keys.len() - 1, (1, 2)));
    // The version, the list of links, the head, the counters, a letter, the keys.
    assert_eq!(items(), 5 + keys.len() - 1);
}

/// However far a commit gets: what is there is what some prefix of its writes leaves, and the same commit made again
/// completes it.
#[tokio::test(start_paused = true)]
async fn a_commit_that_breaks_off_leaves_a_prefix_and_can_be_made_again() {
    for broken_at in 1..=4 {
        let cloud = Cloud::new(11);
        let store = cloud.open("fleet").await.unwrap();
        let (fence, _) = store.take("orders", "me").await.unwrap();
        checkpoint(&store, &fence, 1).await.unwrap();
        let mut rows: Vec<StateWrite> =
            (0..350).map(|n| StateWrite::Doubt(doubt(&format!("{n:03}"), 5, None))).collect();
        rows.push(StateWrite::Shard(shard("s", Some(2))));
        let denied = FaultKind::Error { code: "ValidationException".into(), status: 400 };
        let passes = FaultKind::Hold(Duration::ZERO);
        let rule = |kind, count| next("TransactWriteItems", count, kind);
        cloud.faults(vec![rule(passes, broken_at - 1), rule(denied, 100)]);
        store.commit("orders", &fence, rows.clone()).await.unwrap_err();
        cloud.faults(Vec::new());
        let state = store.read("orders").await.unwrap();
        let expected: Vec<_> = (0..state.doubts.len()).map(|n| doubt(&format!("{n:03}"), 5, None)).collect();
        assert_eq!(state.doubts, expected, "a prefix");
        assert_eq!(state.doubts.len() / 80, broken_at as usize - 1);
        assert_eq!(state.shards, [shard("s", Some(1))], "the checkpoint comes after the keys in doubt");
        store.commit("orders", &fence, rows).await.unwrap();
        let state = store.read("orders").await.unwrap();
        assert_eq!((state.doubts.len(), state.shards), (350, vec![shard("s", Some(2))]));
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_one_link_holds_up_no_other() {
    let cloud = Cloud::new(12);
    let store = cloud.open("fleet").await.unwrap();
    let (slow, _) = store.take("slow", "me").await.unwrap();
    let (quick, _) = store.take("quick", "me").await.unwrap();
    cloud.faults(vec![next("TransactWriteItems", 1, FaultKind::Hold(Duration::from_secs(4)))]);
    let held = store.commit("slow", &slow, vec![StateWrite::Segment(segment(0, false))]);
    let asked = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_millis(100)).await;
    store.commit("quick", &quick, vec![StateWrite::Segment(segment(0, false))]).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1));
    held.await.unwrap();
    assert!(asked.elapsed() >= Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn a_read_beside_a_busy_owner_is_of_one_moment() {
    let cloud = Cloud::new(13);
    let (store, other) = (cloud.open("fleet").await.unwrap(), cloud.open("fleet").await.unwrap());
    let (fence, _) = store.take("orders", "me").await.unwrap();
    cloud.sandbox.change_options(|options| options.max_page_bytes = 500);
    cloud.faults(vec![FaultRule::new("Query", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_millis(20)))]);
    let both = |n| vec![StateWrite::Shard(shard("a", Some(n))), StateWrite::Shard(shard("z", Some(n)))];
    store.commit("orders", &fence, both(1)).await.unwrap();
    let writing = async {
        for n in 2..=12 {
            tokio::time::sleep(Duration::from_millis(45)).await;
            store.commit("orders", &fence, both(n)).await.unwrap();
        }
    };
    let reading = async {
        for _ in 0..5 {
            let state = other.read("orders").await.unwrap();
            assert_eq!(state.shards[0].checkpoint, state.shards[1].checkpoint);
        }
    };
    futures_util::future::join(writing, reading).await;
}

const LEASE: Duration = Duration::from_secs(20);

fn sign(worker: &str, counter: u64) -> Sign {
    Sign { worker: worker.into(), counter, lease: LEASE, at: time(5), report: "{}".into() }
}

#[tokio::test(start_paused = true)]
async fn a_sign_whose_answer_was_lost_is_recognized_and_an_old_one_changes_nothing() {
    let cloud = Cloud::new(14);
    let store = cloud.open("fleet").await.unwrap();
    for counter in 1..=3 {
        cloud.faults(vec![next("PutItem", 1, FaultKind::LoseAnswer)]);
        store.give(&sign("w", counter), counter == 1).await.unwrap_err();
        assert!(store.give(&sign("w", counter), counter == 1).await.unwrap());
    }
    cloud.faults(vec![next("PutItem", 1, FaultKind::DeliverLate(Duration::from_secs(30)))]);
    store.give(&sign("w", 4), false).await.unwrap_err();
    assert!(store.give(&sign("w", 4), false).await.unwrap());
    assert!(store.give(&sign("w", 5), false).await.unwrap());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(store.signs().await.unwrap(), [sign("w", 5)], "the late attempt at 4 is no sign of life");
    store.forget("w", 4).await.unwrap();
    assert_eq!(store.signs().await.unwrap().len(), 1);
    store.forget("w", 5).await.unwrap();
    assert!(store.signs().await.unwrap().is_empty());
    assert!(!store.give(&sign("w", 6), false).await.unwrap(), "its row is gone, and it is told so");
}

#[tokio::test(start_paused = true)]
async fn only_one_of_two_workers_that_saw_the_same_holder_takes_a_link() {
    let cloud = Cloud::new(15);
    let (one, two) = (cloud.open("fleet").await.unwrap(), cloud.open("fleet").await.unwrap());
    let mut seen = None;
    for round in 1..=5 {
        let taken = futures_util::future::join(
            one.take_from("orders", "a", seen.as_ref()),
            two.take_from("orders", "b", seen.as_ref()),
        );
        let (a, b) = taken.await;
        let taken: Vec<_> = [a.unwrap(), b.unwrap()].into_iter().flatten().collect();
        assert_eq!(taken.len(), 1, "round {round}");
        assert_eq!((taken[0].0.epoch, &taken[0].1.fence), (round, &seen));
        seen = Some(taken[0].0.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn a_take_that_nobody_waits_for_is_let_go_of_as_well() {
    let cloud = Cloud::new(17);
    let store = cloud.open("fleet").await.unwrap();
    cloud.faults(vec![next("PutItem", 1, FaultKind::Hold(Duration::from_secs(1)))]);
    drop(store.take("orders", "a"));
    store.release("orders", "a").await.unwrap();
    let sighting = store.sight("orders", false).await.unwrap();
    assert_eq!((sighting.fence.map(|fence| fence.owner), sighting.released), (Some("a".to_owned()), true));
}

#[tokio::test(start_paused = true)]
async fn what_was_let_go_stays_so_until_somebody_takes_it() {
    let cloud = Cloud::new(16);
    let store = cloud.open("fleet").await.unwrap();
    let (fence, _) = store.take("orders", "a").await.unwrap();
    assert!(store.give(&sign("a", 1), true).await.unwrap());
    let held = Sighting { fence: Some(fence.clone()), released: false, counter: Some(Some(1)), lease: Some(LEASE) };
    assert_eq!(store.sight("orders", true).await.unwrap(), held);
    // A commit that nobody heard of any more, and that arrives after its owner let go.
    cloud.faults(vec![next("TransactWriteItems", 100, FaultKind::DeliverLate(Duration::from_secs(22)))]);
    checkpoint(&store, &fence, 1).await.unwrap_err();
    cloud.faults(vec![next("PutItem", 1, FaultKind::LoseAnswer)]);
    store.release("orders", "a").await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let released = Sighting { released: true, counter: None, lease: None, ..held };
    assert_eq!(store.sight("orders", true).await.unwrap(), released);
    let (next, _) = store.take_from("orders", "b", Some(&fence)).await.unwrap().unwrap();
    // Too late to let go of what is another's.
    store.release("orders", "a").await.unwrap();
    let sighting = store.sight("orders", false).await.unwrap();
    assert_eq!((sighting.fence, sighting.released), (Some(next), false));
    let late = checkpoint(&store, &fence, 2).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
}
