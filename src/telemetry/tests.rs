//! The names: the running exporter, the table, the docs, the alerts and the dashboard agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::model::WallTime;

const NOW: WallTime = WallTime::from_secs(1_763_000_000);

fn identity(link: &str) -> LinkIdentity {
    LinkIdentity {
        link: link.to_owned(),
        source_account: "111122223333".to_owned(),
        source_region: "eu-west-1".to_owned(),
        source_table: "orders".to_owned(),
        target_account: "444455556666".to_owned(),
        target_region: "eu-central-1".to_owned(),
        target_table: "orders-copy".to_owned(),
    }
}

/// Sets everything that starts out unknown, so that every series is there.
fn exercise(metrics: &Metrics, name: &str) {
    let link = metrics.link(&identity(name), Mode::Service);
    link.phase(Phase::Replicating);
    for &stage in Stage::ALL {
        link.watermark(stage, Some(NOW));
    }
    link.retention_deadline(Some(NOW.plus(Duration::from_secs(86_400))));
    link.shard_skew(Some(Duration::from_millis(400)));
    link.discovered(NOW);
    link.load_started(NOW, 16, Some(44_000_000_000));
    link.load_segments_done(3);
    link.load_ended(NOW);
    link.apply_delay(AppliedOp::Put, Duration::from_millis(700));
    let took = Duration::from_millis(9);
    metrics.calls(name).ended(Side::Stream, Operation::GetRecords, RequestResult::Ok, took);
    for &side in Side::ALL {
        link.clock_skew(side, Some(-0.25));
        link.credentials_expiry(side, Some(NOW));
        for &kind in CapacityKind::ALL {
            link.consumed(side, kind, 12.5);
            link.rate_limit(side, kind, Some(1000.0));
        }
    }
    for &kind in DifferenceKind::ALL {
        for &state in DifferenceState::ALL {
            link.verify_differences(kind, state, 0);
        }
    }
    link.verify_succeeded(NOW);
    link.dead_letters(Some(0));
}

fn exercised() -> String {
    let metrics = Metrics::new();
    exercise(&metrics, "orders");
    metrics.workers(2);
    metrics.render()
}

/// Sample lines of the metric of this very name.
fn samples<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name)).collect()
}

fn at_root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn exporter_and_table_name_the_same_metrics_with_the_same_labels() {
    let text = exercised();
    let mut exported: BTreeMap<String, BTreeSet<Vec<String>>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|base| METRICS.iter().any(|doc| doc.name == *base && doc.kind == MetricKind::Histogram));
        let labels = rest.trim_start_matches('{').split("\",").filter_map(|pair| pair.split_once("=\""));
        let labels = labels.map(|(label, _)| label.to_owned()).filter(|label| label != "le").collect();
        exported.entry(family.unwrap_or(name).to_owned()).or_default().insert(labels);
    }
    for doc in METRICS {
        let expected = BTreeSet::from([doc.labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>()]);
        assert_eq!(exported.remove(doc.name), Some(expected), "{}", doc.name);
        assert!(text.contains(&format!(
            "# HELP {} {}\n# TYPE {} {}\n",
            doc.name,
            doc.help,
            doc.name,
            doc.kind.as_str()
        )));
    }
    assert!(exported.is_empty(), "not in the table: {exported:?}");
}

#[test]
fn names_carry_their_unit_and_their_kind() {
    for doc in METRICS {
        assert!(doc.name.starts_with("dynaferry_") || doc.name.starts_with("process_"), "{}", doc.name);
        assert_eq!(doc.kind == MetricKind::Counter, doc.name.ends_with("_total"), "{}", doc.name);
        assert!(doc.kind != MetricKind::Histogram || doc.name.ends_with("_seconds"), "{}", doc.name);
        assert!(!doc.help.contains('\n') && doc.help.ends_with('.'), "{}", doc.name);
        for forbidden in ["shard", "key", "id"] {
            assert!(!doc.labels.contains(&forbidden), "{}", doc.name);
        }
    }
}

#[test]
fn what_is_unknown_has_no_series_and_never_a_zero() {
    let metrics = Metrics::new();
    let link = metrics.link(&identity("orders"), Mode::Service);
    let unknown = [
        "dynaferry_watermark_timestamp_seconds",
        "dynaferry_stream_retention_deadline_timestamp_seconds",
        "dynaferry_verify_last_success_timestamp_seconds",
        "dynaferry_verify_differences",
        "dynaferry_clock_skew_seconds",
        "dynaferry_initial_load_expected_bytes",
    ];
    let text = metrics.render();
    for name in unknown {
        assert!(!text.contains(name), "{name}");
    }
    assert_eq!(
        samples(&text, "dynaferry_watermark_known"),
        [r#"dynaferry_watermark_known{link="orders",mode="service"} 0"#]
    );

    link.watermark(Stage::Applied, Some(NOW));
    let text = metrics.render();
    let applied = r#"dynaferry_watermark_timestamp_seconds{link="orders",mode="service",stage="applied"} 1763000000"#;
    assert_eq!(samples(&text, "dynaferry_watermark_timestamp_seconds"), [applied]);
    assert_eq!(
        samples(&text, "dynaferry_watermark_known"),
        [r#"dynaferry_watermark_known{link="orders",mode="service"} 1"#]
    );

    link.watermark(Stage::Applied, None);
    let text = metrics.render();
    assert!(!text.contains("dynaferry_watermark_timestamp_seconds"));
    assert_eq!(
        samples(&text, "dynaferry_watermark_known"),
        [r#"dynaferry_watermark_known{link="orders",mode="service"} 0"#]
    );
}

#[test]
fn every_counter_of_a_new_link_stands_at_zero() {
    let metrics = Metrics::new();
    let _link = metrics.link(&identity("orders"), Mode::Service);
    let text = metrics.render();
    for doc in METRICS.iter().filter(|doc| doc.kind == MetricKind::Counter && doc.name.starts_with("dynaferry_")) {
        let lines = samples(&text, doc.name);
        assert!(!lines.is_empty() && lines.iter().all(|line| line.ends_with(" 0")), "{}: {lines:?}", doc.name);
    }
    let count = r#"dynaferry_record_apply_delay_seconds_count{link="orders",op="put"} 0"#;
    assert!(text.contains(count), "{text}");
}

#[test]
fn a_link_is_in_exactly_one_phase() {
    let metrics = Metrics::new();
    let link = metrics.link(&identity("orders"), Mode::Service);
    link.phase(Phase::InitialLoad);
    link.phase(Phase::CatchingUp);
    let text = metrics.render();
    let phases = samples(&text, "dynaferry_phase");
    assert_eq!(phases.len(), Phase::ALL.len());
    let on: Vec<_> = phases.iter().filter(|line| line.ends_with(" 1")).collect();
    assert_eq!(on, [&r#"dynaferry_phase{link="orders",phase="catching_up"} 1"#]);
}

#[test]
fn a_link_that_starts_again_goes_on_counting() {
    let metrics = Metrics::new();
    metrics.link(&identity("orders"), Mode::Service).dead_lettered(2);
    metrics.link(&identity("orders"), Mode::Service).dead_lettered(3);
    metrics.link(&identity("events"), Mode::Service).dead_lettered(1);
    let text = metrics.render();
    assert_eq!(
        samples(&text, "dynaferry_dead_letter_records_total"),
        [
            r#"dynaferry_dead_letter_records_total{link="events"} 1"#,
            r#"dynaferry_dead_letter_records_total{link="orders"} 5"#
        ]
    );
}

#[test]
fn a_link_is_seen_before_it_is_opened_and_joins_one_pair_whatever_is_known_of_it() {
    let metrics = Metrics::new();
    let known_later = identity("orders");
    let configured =
        LinkIdentity { source_account: String::new(), target_account: String::new(), ..known_later.clone() };
    metrics.opens(&configured, Mode::Service);
    metrics.failed("orders");
    let text = metrics.render();
    assert_eq!(samples(&text, "dynaferry_link_info").len(), 1, "{text}");
    for line in [
        r#"dynaferry_phase{link="orders",phase="failed"} 1"#,
        r#"dynaferry_phase{link="orders",phase="starting"} 0"#,
        r#"dynaferry_lease_held{link="orders"} 0"#,
        r#"dynaferry_watermark_known{link="orders",mode="service"} 0"#,
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
    }
    assert!(samples(&text, "dynaferry_dead_letters").is_empty(), "nobody has looked");
    metrics.link(&known_later, Mode::Service).dead_letters(Some(2));
    let text = metrics.render();
    let info = samples(&text, "dynaferry_link_info");
    assert!(info.len() == 1 && info[0].contains(&known_later.source_account), "{info:?}");
    assert_eq!(samples(&text, "dynaferry_dead_letters"), [r#"dynaferry_dead_letters{link="orders"} 2"#]);
}

#[test]
fn fractions_of_capacity_units_count() {
    let metrics = Metrics::new();
    let link = metrics.link(&identity("orders"), Mode::Service);
    link.consumed(Side::Source, CapacityKind::Read, 0.5);
    link.consumed(Side::Source, CapacityKind::Read, 1.0);
    let line = r#"dynaferry_consumed_capacity_units_total{link="orders",side="source",kind="read"} 1.5"#;
    assert!(metrics.render().contains(&format!("{line}\n")));
}

#[test]
fn apply_delays_fall_into_the_promised_buckets() {
    let metrics = Metrics::new();
    let link = metrics.link(&identity("orders"), Mode::Service);
    for millis in [200, 900, 4000, 3_600_000] {
        link.apply_delay(AppliedOp::Put, Duration::from_millis(millis));
    }
    let text = metrics.render();
    let bounds: Vec<_> = samples(&text, "dynaferry_record_apply_delay_seconds_bucket")
        .into_iter()
        .filter(|line| line.contains(r#"op="put""#))
        .map(|line| line.split("le=").nth(1).unwrap())
        .collect();
    let expected = [
        r#""0.25"} 1"#,
        r#""0.5"} 1"#,
        r#""1"} 2"#,
        r#""2.5"} 2"#,
        r#""5"} 3"#,
        r#""10"} 3"#,
        r#""30"} 3"#,
        r#""60"} 3"#,
        r#""300"} 3"#,
        r#""1800"} 3"#,
        r#""+Inf"} 4"#,
    ];
    assert_eq!(bounds, expected);
}

#[test]
fn an_unexpected_operation_is_counted_as_other() {
    let metrics = Metrics::new();
    metrics.calls("orders").ended(Side::Stream, Operation::BatchWriteItem, RequestResult::Denied, Duration::ZERO);
    let line = r#"dynaferry_requests_total{link="orders",side="stream",op="other",result="denied"} 1"#;
    assert!(metrics.render().contains(line));
    assert_eq!(Operation::named("GetRecords"), Operation::GetRecords);
    assert_eq!(Operation::named("DeleteTable"), Operation::Other);
}

#[test]
fn samples_do_not_pile_up_when_nobody_scrapes() {
    let metrics = Metrics::new();
    let link = metrics.link(&identity("orders"), Mode::Service);
    for _ in 0..20_000 {
        link.apply_delay(AppliedOp::Delete, Duration::from_secs(1));
    }
    assert!(metrics.pending_samples() < 8192, "{}", metrics.pending_samples());
    assert!(
        metrics.render().contains(r#"dynaferry_record_apply_delay_seconds_count{link="orders",op="delete"} 20000"#)
    );
}

#[test]
fn two_scrapes_of_one_state_are_equal() {
    let metrics = Metrics::new();
    exercise(&metrics, "orders");
    exercise(&metrics, "events");
    let scrape =
        || metrics.render().lines().filter(|line| !line.starts_with("process_")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(scrape(), scrape());
}

#[test]
fn the_series_of_a_link_are_few() {
    let count = |links: usize| {
        let metrics = Metrics::new();
        (0..links).for_each(|n| exercise(&metrics, &format!("link{n}")));
        metrics.render().lines().filter(|line| !line.starts_with('#')).count()
    };
    assert!(count(2) - count(1) < 400, "{} series more for a link", count(2) - count(1));
}

#[test]
fn the_reference_page_is_what_the_table_says() {
    let path = at_root("src/docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, reference_markdown()).unwrap();
    }
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page == reference_markdown(), "src/docs/metrics.md is out of date; run this test with UPDATE_DOCS=1");
}

#[test]
fn writes_the_sample_that_promtool_checks() {
    let directory = at_root("target");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("metrics-sample.txt"), exercised()).unwrap();
}
