//! How a process ends: drained, in time, with what it was told to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dynaferry::checkpoint::rows::{DeadLetterRow, DoubtRow, ExportRequestRow, Fence, ImportRequestRow, VerifiedRow};
use dynaferry::checkpoint::{LinkState, MemoryStore, StateStore, StateWrite, StoreError, StoreResult};
use dynaferry::error::Exit;
use dynaferry::http::NotReady;
use dynaferry::model::CanonicalKey;
use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::{Mode, Phase};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::world::{HOUR, ORDERS, Process, REGION, SOURCE, TARGET, World, failed};

fn seeded(seed: u64) -> Options {
    Options { seed, ..Options::default() }
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_heard_while_the_link_cannot_be_opened() {
    let world = World::paused(seeded(79));
    world.faults(vec![FaultRule::new("*", Trigger::Chance(1.0), FaultKind::InternalError)]);
    let service = world.serve("");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!service.has_ended(), "it is still trying");
    let asked = tokio::time::Instant::now();
    service.stop().await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_heard_while_another_stream_is_waited_for() {
    for is_answered in [true, false] {
        let world = World::paused(seeded(78));
        world.put(1, 0, "before");
        let service = world.serve("");
        service.until_equal(&world).await;
        world.set_stream(false);
        let is_closed = || service.why_not_ready().contains(&NotReady::StreamNotOpened);
        service.until("the stream is read to its end", is_closed).await;
        if !is_answered {
            world.faults(vec![FaultRule::new("*", Trigger::Chance(1.0), FaultKind::TimeOut)]);
        }
        // Between two looks, or in the middle of one.
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!service.has_ended());
        let asked = tokio::time::Instant::now();
        service.stop().await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_under_load_drains_and_leaves_no_doubt() {
    for seed in 80..90 {
        let world = World::paused(seeded(seed));
        for n in 0..200 {
            world.put(n, 0, "before");
        }
        let hold = FaultKind::Hold(Duration::from_millis(300));
        world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(0.5), hold)]);
        let service = world.serve("");
        tokio::time::sleep(Duration::from_millis(37 * (seed - 79))).await;
        let asked = tokio::time::Instant::now();
        service.stop().await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        if let Some(link) = world.state().await.link {
            assert!(link.clean);
        }
        let service = world.serve("");
        service.until("it is loaded", || world.num_differences() == 0).await;
        assert_eq!(service.status().in_doubt, 0, "nothing was on the wire");
        service.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_the_target_does_not_answer_ends_within_the_drain_time() {
    let world = World::paused(seeded(91));
    for n in 0..200 {
        world.put(n, 0, "before");
    }
    let hold = FaultKind::Hold(Duration::from_secs(300));
    world.faults(vec![FaultRule::new("BatchWriteItem", Trigger::Chance(1.0), hold)]);
    let service = world.serve("apply.attempt_timeout = \"60s\"\n[service]\ndrain = \"3s\"");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let asked = tokio::time::Instant::now();
    service.stop().await.unwrap();
    assert!(asked.elapsed() <= Duration::from_millis(3_100), "{:?}", asked.elapsed());
    assert!(!world.link_row().await.clean, "what is on the wire is not forgotten");
    world.no_faults();
    let service = world.serve("");
    service.until_equal(&world).await;
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_migration_that_is_stopped_says_that_it_can_go_on() {
    let world = World::paused(seeded(92));
    for n in 0..300 {
        world.put(n, 0, "before");
    }
    world.faults(vec![FaultRule::new("Scan", Trigger::Chance(1.0), FaultKind::Hold(Duration::from_secs(1)))]);
    let stop = CancellationToken::new();
    let program = world.program(world.config("load.concurrency = 1"), Mode::Oneshot);
    let (exit, text) = {
        let migration = program.migrate(stop.clone());
        tokio::pin!(migration);
        tokio::select! {
            ended = &mut migration => panic!("too early: {ended:?}"),
            () = tokio::time::sleep(Duration::from_secs(5)) => stop.cancel(),
        }
        failed(migration.await)
    };
    assert_eq!(exit, Exit::Timeout, "{text}");
    world.no_faults();
    let reports = world.migrate("").await.unwrap();
    assert!(reports[0].verification.is_identical());
    assert_eq!(reports[0].items_loaded, 300, "over both runs, none twice");
}

/// Makes a target whose index takes `g` as a number.
pub(crate) fn create_choosy_target(world: &World) {
    world.call(
        TARGET,
        "CreateTable",
        r#"{"TableName":"orders-copy","BillingMode":"PAY_PER_REQUEST",
            "AttributeDefinitions":[{"AttributeName":"pk","AttributeType":"S"},{"AttributeName":"sk","AttributeType":"N"},
                {"AttributeName":"g","AttributeType":"N"}],
            "KeySchema":[{"AttributeName":"pk","KeyType":"HASH"},{"AttributeName":"sk","KeyType":"RANGE"}],
            "GlobalSecondaryIndexes":[{"IndexName":"g","KeySchema":[{"AttributeName":"g","KeyType":"HASH"}],
                "Projection":{"ProjectionType":"ALL"}}]}"#,
    );
}

/// Such a target, while the source has text in one item.
fn world_with_poison(seed: u64) -> World {
    let world = World::paused(seeded(seed));
    create_choosy_target(&world);
    for n in 0..60 {
        world.put(n, 0, "fine");
    }
    world
}

pub(crate) fn poison(world: &World, pk: usize) {
    let item = serde_json::json!({"pk": {"S": format!("p{pk}")}, "sk": {"N": "0"}, "g": {"S": "text"}});
    world.put_json(&item);
}

fn drop_index(world: &World) {
    let body = r#"{"TableName":"orders-copy","GlobalSecondaryIndexUpdates":[{"Delete":{"IndexName":"g"}}]}"#;
    if world.sandbox.call(TARGET, REGION, "UpdateTable", body).is_err() {
        // The sandbox knows no index changes: the items change instead.
        for pk in [7, 13] {
            world.put(pk, 0, "mended");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_that_the_target_refuses_ends_the_link_at_once_and_loses_nothing() {
    for in_load in [true, false] {
        let world = world_with_poison(93);
        if in_load {
            poison(&world, 7);
        }
        let service = world.serve("");
        if !in_load {
            service.until_equal(&world).await;
            world.put(1, 0, "in the same batch");
            poison(&world, 7);
            world.put(2, 0, "in the same batch");
        }
        let asked = tokio::time::Instant::now();
        let (exit, text) = failed(service.end().await);
        assert_eq!(exit, Exit::Unexpected);
        assert!(text.contains("rejects an item") && text.contains("ValidationException"), "{text}");
        assert!(!text.contains("\"text\"") && !text.contains("p7"), "no contents: {text}");
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?} until it said so", asked.elapsed());
        drop_index(&world);
        let service = world.serve("");
        service.until_equal(&world).await;
        service.stop().await.unwrap();
        world.assert_equal();
    }
}

#[tokio::test(start_paused = true)]
async fn items_that_the_target_refuses_are_set_aside_listed_and_replayed() {
    let world = world_with_poison(94);
    poison(&world, 7);
    let service = world.serve("apply.on_rejected = \"dead_letter\"");
    service.until("all but one are there", || world.num_differences() == 1).await;
    poison(&world, 13);
    world.put(1, 0, "later");
    service.until("all but two are there", || service.status().dead_letters >= 2 && world.num_differences() == 2).await;
    assert!(service.metric("dynaferry_dead_letter_records_total", &[]) >= 2.0);
    service.stop().await.unwrap();

    let config = || world.config("apply.on_rejected = \"dead_letter\"");
    let letters = world.program(config(), Mode::Oneshot).dead_letters(&[]).await.unwrap();
    assert!(letters.iter().any(|letter| letter.letter.key_json.contains("p7")));
    assert!(letters.iter().any(|letter| letter.letter.key_json.contains("p13")));
    assert!(letters.iter().all(|letter| letter.letter.reason.contains("ValidationException")));
    let gone = Box::pin(world.program(config(), Mode::Oneshot).retry_dead_letters(&[])).await.unwrap();
    assert_eq!((gone.retried, gone.remaining), (0, letters.len() as u64), "refused again: they stay");
    assert_eq!(world.program(config(), Mode::Oneshot).dead_letters(&[]).await.unwrap().len(), letters.len());

    drop_index(&world);
    let gone = Box::pin(world.program(config(), Mode::Oneshot).retry_dead_letters(&[])).await.unwrap();
    assert_eq!((gone.retried, gone.remaining), (letters.len() as u64, 0));
    assert!(world.program(config(), Mode::Oneshot).dead_letters(&[]).await.unwrap().is_empty());
    world.assert_equal();
    let service = world.serve("");
    service.until_equal(&world).await;
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_dead_letter_is_counted_once_however_often_its_link_is_opened() {
    let world = world_with_poison(99);
    poison(&world, 7);
    let service = world.serve("apply.on_rejected = \"dead_letter\"");
    let counted = || service.metric("dynaferry_dead_letter_records_total", &[]);
    #[expect(clippy::cast_precision_loss, reason = "a few letters")]
    let letters = || service.status().dead_letters as f64;
    service.until("one is set aside", || letters() > 0.0 && world.num_differences() == 1).await;
    for _ in 0..2 {
        world.set_stream(false);
        let is_open = || !service.why_not_ready().contains(&NotReady::StreamNotOpened);
        service.until("the stream is read to its end", || !is_open()).await;
        world.set_stream(true);
        service.until("the link is open again", || is_open() && service.status().gaps.is_empty()).await;
        assert!((counted() - letters()).abs() < 0.5, "{} letters, {} counted", letters(), counted());
    }
    service.stop().await.unwrap();
    let service = world.serve("apply.on_rejected = \"dead_letter\"");
    service.until("it runs", || service.status().lag_known).await;
    let counted = service.metric("dynaferry_dead_letter_records_total", &[]);
    assert!(counted < 0.5, "{counted} were set aside by this process");
    let waiting = service.metric("dynaferry_dead_letters", &[]);
    assert!(waiting > 0.5, "they wait all the same");
    assert_eq!(waiting.to_string(), service.status().dead_letters.to_string());
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_not_replayed_from_a_source_that_was_made_anew() {
    let world = world_with_poison(96);
    world.put(1, 0, "x");
    let config = || world.config("apply.on_rejected = \"dead_letter\"");
    let service = world.serve("apply.on_rejected = \"dead_letter\"");
    service.until_equal(&world).await;
    poison(&world, 1);
    service.until("one is set aside", || service.status().dead_letters > 0).await;
    service.stop().await.unwrap();
    let copy = world.sandbox.snapshot(TARGET, REGION, "orders-copy").unwrap();
    world.call(SOURCE, "DeleteTable", r#"{"TableName":"orders"}"#);
    world.call(SOURCE, "CreateTable", ORDERS);
    let retried = Box::pin(world.program(config(), Mode::Oneshot).retry_dead_letters(&[])).await;
    assert_eq!(failed(retried).0, Exit::Lost);
    assert_eq!(world.sandbox.snapshot(TARGET, REGION, "orders-copy").unwrap(), copy);
}

#[tokio::test(start_paused = true)]
async fn a_source_made_anew_while_dead_letters_are_retried_deletes_nothing() {
    let world = world_with_poison(97);
    (1..3).for_each(|n| world.put(n, 0, "x"));
    let config = "apply.on_rejected = \"dead_letter\"";
    let service = world.serve(config);
    service.until_equal(&world).await;
    (1..3).for_each(|n| poison(&world, n));
    service.until("both are set aside", || service.status().dead_letters > 1).await;
    service.stop().await.unwrap();
    let copy = world.sandbox.snapshot(TARGET, REGION, "orders-copy").unwrap();
    // The first key's read takes long; by the second one's the table is another one, and empty.
    let slow = FaultKind::Hold(Duration::from_secs(3));
    world.faults(vec![FaultRule::new("GetItem", Trigger::Next(1), slow).for_account(SOURCE)]);
    let program = world.program(world.config(config), Mode::Oneshot);
    let making_anew = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.call(SOURCE, "DeleteTable", r#"{"TableName":"orders"}"#);
        world.call(SOURCE, "CreateTable", ORDERS);
    };
    let (retried, ()) = tokio::join!(Box::pin(program.retry_dead_letters(&[])), making_anew);
    assert_eq!(world.sandbox.snapshot(TARGET, REGION, "orders-copy").unwrap(), copy, "{retried:?}");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_deleted_under_a_running_link_is_no_loss_of_the_sources_history() {
    let world = World::paused(seeded(95));
    world.put(1, 0, "x");
    let service = world.serve("");
    service.until_equal(&world).await;
    world.call(TARGET, "DeleteTable", r#"{"TableName":"orders-copy"}"#);
    world.put(2, 0, "x");
    let (exit, text) = failed(service.end().await);
    assert_eq!(exit, Exit::Precondition, "{text}");
}

#[tokio::test(start_paused = true)]
async fn permissions_that_a_command_lacks_end_it_with_what_to_allow() {
    for (operation, account) in [("Scan", SOURCE), ("BatchWriteItem", TARGET), ("GetRecords", SOURCE)] {
        let world = World::paused(seeded(96));
        world.put(1, 0, "x");
        let denied = FaultKind::Error { code: "AccessDeniedException".into(), status: 400 };
        world.faults(vec![FaultRule::new(operation, Trigger::Chance(1.0), denied).for_account(account)]);
        let asked = tokio::time::Instant::now();
        let error = world.migrate("").await.unwrap_err();
        assert_eq!(error.exit, Exit::Precondition, "{operation}: {error:?}");
        assert!(error.hint.is_some(), "{operation}: {error:?}");
        assert!(asked.elapsed() < Duration::from_secs(120), "{operation}: {:?}", asked.elapsed());
    }
}

/// Refuses so many writes of one link.
struct Refusing {
    store: MemoryStore,
    link: &'static str,
    refuses: AtomicU32,
    with: fn(String) -> StoreError,
}

impl Refusing {
    /// Refuses nothing yet.
    fn new(link: &'static str, with: fn(String) -> StoreError) -> Arc<Self> {
        Arc::new(Self { store: MemoryStore::new(), link, refuses: AtomicU32::new(0), with })
    }

    fn refuse(&self, writes: u32) {
        self.refuses.store(writes, Ordering::SeqCst);
    }
}

impl StateStore for Refusing {
    fn place(&self) -> String {
        self.store.place()
    }

    fn links(&self) -> BoxFuture<'_, StoreResult<Vec<String>>> {
        self.store.links()
    }

    fn read<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<LinkState>> {
        self.store.read(link)
    }

    fn take<'a>(&'a self, link: &'a str, owner: &'a str) -> BoxFuture<'a, StoreResult<(Fence, LinkState)>> {
        self.store.take(link, owner)
    }

    fn commit<'a>(
        &'a self,
        link: &'a str,
        fence: &'a Fence,
        writes: Vec<StateWrite>,
    ) -> BoxFuture<'a, StoreResult<()>> {
        let one_less = |left: u32| left.checked_sub(1);
        let is_refused =
            link == self.link && self.refuses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
        if is_refused {
            let refused = (self.with)(link.to_owned());
            return Box::pin(async { Err(refused) });
        }
        self.store.commit(link, fence, writes)
    }

    fn dead_letters<'a>(
        &'a self,
        link: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, StoreResult<Vec<DeadLetterRow>>> {
        self.store.dead_letters(link, after, limit)
    }

    fn note_export<'a>(
        &'a self,
        link: &'a str,
        row: &'a ExportRequestRow,
        replaces: Option<&'a ExportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        self.store.note_export(link, row, replaces)
    }

    fn export_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ExportRequestRow>>> {
        self.store.export_request(link)
    }

    fn note_import<'a>(
        &'a self,
        link: &'a str,
        row: &'a ImportRequestRow,
        replaces: Option<&'a ImportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        self.store.note_import(link, row, replaces)
    }

    fn import_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ImportRequestRow>>> {
        self.store.import_request(link)
    }

    fn note_verified<'a>(&'a self, link: &'a str, row: &'a VerifiedRow) -> BoxFuture<'a, StoreResult<()>> {
        self.store.note_verified(link, row)
    }

    fn verified<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<VerifiedRow>>> {
        self.store.verified(link)
    }

    fn doubt<'a>(&'a self, link: &'a str, key: &'a CanonicalKey) -> BoxFuture<'a, StoreResult<Option<DoubtRow>>> {
        self.store.doubt(link, key)
    }
}

#[tokio::test(start_paused = true)]
async fn a_bug_stops_its_link_for_good_with_code_1_and_no_other() {
    let world = World::paused(seeded(97));
    (0..20).for_each(|n| world.put(n, 0, "before"));
    for (config, is_alone) in [("", true), (TWO_LINKS, false)] {
        let link = if is_alone { "orders" } else { "second" };
        let store = Refusing::new(link, |link| {
            let what = "a checkpoint would move back".to_owned();
            StoreError::Invariant { link, what }
        });
        let service = Process::start(world.program_over(world.config(config), Mode::Service, Arc::clone(&store) as _));
        service.until_equal(&world).await;
        service.until("both are loaded", || world.sandbox.snapshot(TARGET, REGION, "second").is_ok() || is_alone).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(service.why_not_ready().is_empty());
        store.refuse(u32::MAX);
        world.put(1, 0, "after");
        let ended = if is_alone {
            service.end().await
        } else {
            let second = world.sandbox.snapshot(TARGET, REGION, "second").unwrap();
            service.until_equal(&world).await;
            tokio::time::sleep(HOUR).await;
            world.put(2, 0, "an hour later");
            service.until_equal(&world).await;
            assert_eq!(world.sandbox.snapshot(TARGET, REGION, "second").unwrap(), second, "it is not opened again");
            let phases = service.program.status_source().status().links;
            assert_eq!(phases.iter().find(|now| now.link == "second").unwrap().phase, Phase::Failed);
            assert_eq!(service.why_not_ready(), [NotReady::Failed], "nobody takes it for a copy that goes on");
            service.stop().await
        };
        let (exit, text) = failed(ended);
        assert_eq!(exit, Exit::Unexpected, "{text}");
        assert!(text.contains(&format!("link `{link}` stopped: this is a bug, please report it")), "{text}");
        world.call(TARGET, "DeleteTable", r#"{"TableName":"orders-copy"}"#);
    }
}

/// Two copies of one source.
const TWO_LINKS: &str = "source.table = \"orders\"\ntarget.table = \"orders-copy\"\ntarget.create = true\n\
                         [link.second]\nsource.table = \"orders\"\ntarget.table = \"second\"\ntarget.create = true";

#[tokio::test(start_paused = true)]
async fn a_link_that_was_well_for_a_while_is_opened_again_soon_after_its_next_fault() {
    let world = World::paused(seeded(77));
    (0..20).for_each(|n| world.put(n, 0, "before"));
    let store = Refusing::new("second", |link| StoreError::Fenced { link });
    store.refuse(u32::MAX);
    let service = Process::start(world.program_over(world.config(TWO_LINKS), Mode::Service, Arc::clone(&store) as _));
    tokio::time::sleep(HOUR).await;
    store.refuse(0);
    let phase_of_second = || {
        let links = service.program.status_source().status().links;
        links.iter().find(|now| now.link == "second").map(|now| now.phase)
    };
    service.until("it is opened", || phase_of_second() == Some(Phase::Replicating)).await;
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert!(service.why_not_ready().is_empty());
    store.refuse(1);
    service.until("it failed once more", || phase_of_second() == Some(Phase::Failed)).await;
    assert_eq!(service.why_not_ready(), [NotReady::Failed]);
    let failed_at = tokio::time::Instant::now();
    service.until("it is opened again", || phase_of_second() == Some(Phase::Replicating)).await;
    assert!(failed_at.elapsed() < Duration::from_secs(30), "after {:?}", failed_at.elapsed());
    assert!(service.why_not_ready().is_empty());
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_link_that_cannot_be_opened_is_seen_says_why_and_keeps_no_process_from_starting() {
    let world = World::paused(seeded(78));
    world.put(1, 0, "before");
    let two = TWO_LINKS.rsplit_once('\n').unwrap().0;
    let service = world.serve(two);
    let second =
        || service.program.status_source().status().links.into_iter().find(|now| now.link == "second").unwrap();
    let runs = || service.status().phase == Phase::Replicating;
    service.until("the first one runs, not the second", || runs() && second().phase == Phase::Failed).await;
    for _ in 0..2 {
        assert_eq!(second().phase, Phase::Failed, "what has started is not killed for it");
        assert!(second().needs[0].contains("find target table `second`"), "{:?}", second().needs);
        assert!(second().needs[0].contains("; try: create it"), "{:?}", second().needs);
        assert_eq!(service.why_not_ready(), [NotReady::Failed]);
        let is = |name: &str, labels: &[&str], value: f64| {
            let found = service.metric(name, &[labels, &["link=\"second\""]].concat());
            assert!((found - value).abs() < 0.5, "{name} {labels:?} is {found}");
        };
        is("dynaferry_phase", &["\"failed\""], 1.0);
        is("dynaferry_phase", &[], 1.0);
        is("dynaferry_link_info", &["mode=\"service\"", "source_table=\"orders\"", "target_table=\"second\""], 1.0);
        assert!(service.program.metrics().render().contains("dynaferry_lease_held{link=\"second\"} 0\n"));
        // Opened again and again.
        tokio::time::sleep(Duration::from_secs(400)).await;
    }
    let definition = ORDERS.replacen("orders", "second", 1);
    world.call(TARGET, "CreateTable", &definition);
    service.until("it is opened", || second().phase == Phase::Replicating).await;
    assert!(second().needs.is_empty() && service.why_not_ready().is_empty());
    assert!((service.metric("dynaferry_link_info", &["link=\"second\""]) - 1.0).abs() < 0.5, "one series");
    assert!((service.metric("dynaferry_lease_held", &["link=\"second\""]) - 1.0).abs() < 0.5);
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_start_that_fails_are_counted() {
    let world = World::paused(seeded(76));
    world.put(1, 0, "before");
    let denied = FaultRule::new("DescribeTable", Trigger::Chance(1.0), FaultKind::AccessDenied).for_table("second");
    world.faults(vec![denied]);
    let service = world.serve(TWO_LINKS);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(service.why_not_ready(), [NotReady::Failed], "of the second; the first one runs");
    let calls = |labels: &[&str]| service.metric("dynaferry_requests_total", labels);
    assert!(calls(&["link=\"second\"", "denied"]) > 0.0);
    assert!(calls(&["link=\"second\"", "AssumeRole", "ok"]) > 0.0);
    assert!(calls(&["link=\"orders\"", "DescribeTable", "ok"]) > 0.0);
    service.stop().await.unwrap();
}
