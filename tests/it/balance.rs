//! Several links and several workers: how the links spread, and what a hand-over costs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dynaferry::config::Config;
use dynaferry::sandbox::{FaultKind, FaultRule, Options, Trigger};
use dynaferry::telemetry::status::LinkStatus;
use dynaferry::telemetry::{Mode, Phase};
use tokio::time::Instant;

use crate::accounts;
use crate::border::Border;
use crate::world::{ORDERS, Process, REGION, SOURCE, TARGET, World};

const LEASE: Duration = Duration::from_secs(20);
/// A sign of life is given so often, and a link handed over at most.
const BEAT: Duration = Duration::from_secs(4);

/// Links `tab0`, `tab1`, … each with a table of 20 items.
struct Tables {
    world: World,
    count: usize,
    balance: bool,
}

impl Tables {
    fn new(seed: u64, count: usize) -> Self {
        let world = World::paused(Options { seed, ..Options::default() });
        for n in 0..count {
            world.call(SOURCE, "CreateTable", &ORDERS.replace("\"orders\"", &format!("\"tab{n}\"")));
            (0..20).for_each(|pk| world.put_at(SOURCE, &format!("tab{n}"), pk, 0, "before"));
        }
        Self { world, count, balance: true }
    }

    fn config(&self) -> Config {
        let links = (0..self.count).map(|n| {
            format!(
                "[link.tab{n}]\nsource.table = \"tab{n}\"\ntarget.table = \"tab{n}-copy\"\ntarget.create = true\n\
                 apply.in_doubt_for = \"5m\"\nstream.poll_max = \"5s\"\n"
            )
        });
        let balance = if self.balance { "" } else { "balance = false\n" };
        accounts::config(&format!(
            "[checkpoint]\nstore = \"dynamodb:dynaferry-state\"\n{balance}{}",
            links.collect::<String>()
        ))
    }

    fn worker(&self) -> (Process, Arc<Border>) {
        let border = Border::new();
        let http = border.http_client(&self.world.sandbox);
        (Process::start(self.world.program_through(self.config(), Mode::Service, http)), border)
    }

    fn write(&self, round: usize) {
        for n in 0..self.count {
            (0..20).for_each(|pk| self.world.put_at(SOURCE, &format!("tab{n}"), pk, 0, &format!("round {round}")));
        }
    }

    fn are_equal(&self) -> bool {
        (0..self.count).all(|n| {
            let of = |account, table: String| self.world.sandbox.snapshot(account, REGION, &table);
            of(SOURCE, format!("tab{n}")).unwrap() == of(TARGET, format!("tab{n}-copy")).unwrap_or_default()
        })
    }
}

fn held(worker: &Process) -> f64 {
    worker.metric("dynaferry_lease_held", &[])
}

fn links_of(worker: &Process) -> BTreeSet<String> {
    let status = worker.program.status_source().status();
    let has = |link: &LinkStatus| worker.metric("dynaferry_lease_held", &[&format!("link=\"{}\"", link.link)]) == 1.0;
    status.links.into_iter().filter(has).map(|link| link.link).collect()
}

fn takeovers(workers: &[&Process], kind: &str) -> f64 {
    workers.iter().map(|worker| worker.metric("dynaferry_takeovers_total", &[&format!("kind=\"{kind}\"")])).sum()
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_comes_gets_its_share_one_link_after_the_other_and_nothing_is_repeated() {
    let tables = Tables::new(501, 6);
    let (first, _) = tables.worker();
    let is_settled = || held(&first) == 6.0 && tables.are_equal() && first.why_not_ready().is_empty();
    first.until("it has all links, and all is equal", is_settled).await;
    let (second, _) = tables.worker();
    let came = Instant::now();
    let mut rounds = 0;
    while held(&second) < 3.0 {
        tables.write(rounds);
        rounds += 1;
        for _ in 0..14 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(first.why_not_ready().is_empty(), "not ready because a link is handed over");
        }
        assert!(came.elapsed() < LEASE * 2 + BEAT * 10, "{} links after {:?}", held(&second), came.elapsed());
        if came.elapsed() < LEASE * 2 {
            assert_eq!(held(&second), 0.0, "it may have come to replace another one");
        }
    }
    assert_eq!((held(&first), held(&second)), (3.0, 3.0));
    assert!(came.elapsed() >= LEASE * 2 + BEAT * 2, "one with each sign of life: {:?}", came.elapsed());
    second.until("all is equal", || tables.are_equal()).await;
    let workers = [&first, &second];
    assert_eq!((takeovers(&workers, "clean"), takeovers(&workers, "unclean")), (3.0, 0.0));
    let read: f64 =
        workers.iter().map(|worker| worker.metric("dynaferry_stream_records_total", &["stage=\"read\""])).sum();
    let written = f64::from(u32::try_from((1 + rounds) * 6 * 20).unwrap());
    assert!(read <= written, "{read} of {written} records read: some twice");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(takeovers(&workers, "clean"), 3.0, "even, and links still move");
    first.stop().await.unwrap();
    second.until("it has all links", || held(&second) == 6.0).await;
    second.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_worker_had_spreads_over_the_others() {
    let tables = Tables::new(502, 6);
    let workers = [tables.worker().0, tables.worker().0, tables.worker().0];
    workers[0].until("each has two", || workers.iter().all(|worker| held(worker) == 2.0)).await;
    let [first, second, third] = workers;
    tables.write(0);
    first.kill().await;
    let killed = Instant::now();
    second.until("all links are worked on", || held(&second) + held(&third) == 6.0).await;
    assert!(killed.elapsed() <= LEASE + Duration::from_secs(3), "{:?}", killed.elapsed());
    tokio::time::sleep(BEAT * 6).await;
    assert_eq!((held(&second), held(&third)), (3.0, 3.0));
    second.until("all is equal", || tables.are_equal()).await;
    second.stop().await.unwrap();
    third.until("it has all", || held(&third) == 6.0).await;
    third.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_link_that_heals_is_not_handed_over() {
    let tables = Tables::new(503, 4);
    let (first, _) = tables.worker();
    first.until("all is equal", || held(&first) == 4.0 && tables.are_equal()).await;
    first.stop().await.unwrap();
    tables.world.clock().skip(Duration::from_secs(26 * 3600));
    let failing = |table| FaultRule::new("Scan", Trigger::Chance(1.0), FaultKind::InternalError).for_table(table);
    tables.world.faults(vec![failing("tab1"), failing("tab3")]);
    let (first, _) = tables.worker();
    let open = |worker: &Process, link: &str| {
        worker.metric("dynaferry_stream_gaps_open", &[&format!("link=\"{link}\"")]) > 0.0
    };
    let heal = || !open(&first, "tab0") && !open(&first, "tab2") && open(&first, "tab1") && open(&first, "tab3");
    first.until("two heal", || held(&first) == 4.0 && heal()).await;
    let (second, _) = tables.worker();
    second.until("it has two links", || held(&second) == 2.0).await;
    assert_eq!(links_of(&second), BTreeSet::from(["tab0".to_owned(), "tab2".to_owned()]));
    tables.world.no_faults();
    first.until("all is healed", || !open(&first, "tab1") && !open(&first, "tab3")).await;
    first.stop().await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_balance_links_stay_where_they_are() {
    let tables = Tables { balance: false, ..Tables::new(504, 3) };
    let (first, _) = tables.worker();
    first.until("it has all links", || held(&first) == 3.0 && tables.are_equal()).await;
    let (second, _) = tables.worker();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((held(&first), held(&second)), (3.0, 0.0));
    first.stop().await.unwrap();
    second.until("it has all links", || held(&second) == 3.0).await;
    second.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn any_machine_is_told_why_a_link_fails() {
    let tables = Tables::new(503, 2);
    let (worker, _) = tables.worker();
    worker.until("it has both", || held(&worker) == 2.0 && tables.are_equal()).await;
    tables.world.call(TARGET, "DeleteTable", r#"{"TableName":"tab1-copy"}"#);
    let status = || worker.program.status_source().status().links.remove(1);
    worker.until("one has failed", || status().phase == Phase::Failed).await;
    let here = status().needs.remove(0);
    tokio::time::sleep(BEAT * 2).await;
    let looks = tables.world.program_by_config(tables.config(), Mode::Oneshot);
    let links = looks.stored_status().await.unwrap().links;
    assert_eq!((links[0].phase, links[0].needs.len()), (Phase::Replicating, 0), "{:?}", links[0]);
    assert_eq!(links[1].phase, Phase::Failed);
    let there = &links[1].needs[0];
    assert!(there.starts_with("worker ") && there.ends_with(&here), "{there}");
    worker.stop().await.unwrap();
}
