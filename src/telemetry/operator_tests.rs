//! What operators are given (rules, their tests, the dashboard, the runbook) names nothing that does not exist, and
//! leaves nothing out. That the rules do what they say is promtool's to test.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::*;

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&file("config/grafana/dynaferry.json")).unwrap()
}

/// Every string anywhere in a document, with its key.
fn strings(value: &Value, key: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) => found.push((key.to_owned(), text.clone())),
        Value::Array(values) => values.iter().for_each(|value| strings(value, key, found)),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| strings(value, key, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn dashboard_expressions() -> Vec<String> {
    let mut found = Vec::new();
    strings(&dashboard(), "", &mut found);
    found.into_iter().filter(|(key, _)| key == "expr" || key == "definition").map(|(_, text)| text).collect()
}

/// The metric names in a text, each with what follows it.
fn names(text: &str) -> Vec<(&str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_name) {
        let word = &rest[start..];
        let end = word.find(|c| !is_name(c)).unwrap_or(word.len());
        let (name, after) = word.split_at(end);
        if name.starts_with("dynaferry_") || name.starts_with("process_") {
            found.push((name, after));
        }
        rest = after;
    }
    found
}

fn doc(name: &str) -> Option<&'static MetricDoc> {
    let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
    METRICS.iter().find(|doc| doc.name == name || (doc.kind == MetricKind::Histogram && Some(doc.name) == histogram))
}

fn values_of(label: &str) -> Option<BTreeSet<&'static str>> {
    fn all<L: Label>() -> impl Iterator<Item = &'static str> {
        L::ALL.iter().map(|value| value.as_str())
    }
    Some(match label {
        "mode" => all::<Mode>().collect(),
        "phase" => all::<Phase>().collect(),
        "stage" => all::<Stage>().chain(all::<RecordStage>()).collect(),
        "side" => all::<Side>().collect(),
        "op" => all::<Operation>().chain(all::<AppliedOp>()).collect(),
        "result" => all::<RequestResult>().chain(all::<WriteResult>()).collect(),
        "kind" => all::<CapacityKind>().chain(all::<DifferenceKind>()).chain(all::<Takeover>()).collect(),
        "state" => all::<ShardState>().chain(all::<DifferenceState>()).collect(),
        "cause" => all::<GapCause>().collect(),
        "reason" => all::<ThrottleReason>().collect(),
        _ => return None,
    })
}

/// Checks names, labels and label values of a text against the table.
fn check_selectors(text: &str, origin: &str) {
    for (name, after) in names(text) {
        let Some(doc) = doc(name) else { panic!("{origin} names {name}, which does not exist") };
        let Some((selector, _)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) else { continue };
        for matcher in selector.split(',') {
            let (label, value) = matcher.split_once('=').unwrap();
            let label = label.trim_end_matches('!');
            let is_scraped = ["job", "instance", "pod", "le"].contains(&label);
            assert!(doc.labels.contains(&label) || is_scraped, "{origin}: {name} has no label {label}");
            let Some(allowed) = values_of(label) else { continue };
            for value in value.trim_matches(['~', '"']).split('|') {
                assert!(allowed.contains(value), "{origin}: {name} is never {label}={value}");
            }
        }
    }
}

fn alerts() -> Vec<String> {
    let rules = file("config/prometheus/rules.yml");
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

#[test]
fn rules_tests_dashboard_and_runbook_name_only_what_exists() {
    let paths = ["config/prometheus/rules.yml", "config/prometheus/tests.yml", "src/docs/operations.md", "README.md"];
    for path in paths {
        check_selectors(&file(path), path);
    }
    for expression in dashboard_expressions() {
        check_selectors(&expression, "the dashboard");
    }
}

#[test]
fn every_metric_is_used_by_a_rule_or_on_the_dashboard() {
    let mut texts = dashboard_expressions();
    texts.push(file("config/prometheus/rules.yml"));
    let used: BTreeSet<_> =
        texts.iter().flat_map(|text| names(text)).filter_map(|(name, _)| doc(name)).map(|doc| doc.name).collect();
    let unused: Vec<_> = METRICS.iter().map(|doc| doc.name).filter(|name| !used.contains(name)).collect();
    assert_eq!(unused, Vec::<&str>::new());
}

#[test]
fn every_recording_that_is_used_is_recorded() {
    let rules = file("config/prometheus/rules.yml");
    let recorded: BTreeSet<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    for path in ["config/prometheus/rules.yml", "config/prometheus/tests.yml", "src/docs/operations.md"] {
        let text = file(path);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        for word in words.filter(|word| word.starts_with("dynaferry:")) {
            assert!(recorded.contains(word), "{path} uses {word}");
        }
    }
}

#[test]
fn every_alert_has_a_firing_case_a_silent_case_and_a_runbook() {
    let rules = file("config/prometheus/rules.yml");
    let runbook = file("src/docs/operations.md");
    let cases = file("config/prometheus/tests.yml");
    // An entry starts with a dash; in the long form its fields follow on lines of their own.
    let entries: Vec<_> = cases.split("\n      - ").collect();
    assert!(alerts().len() >= 15);
    for alert in alerts() {
        let of_alert: Vec<_> = entries
            .iter()
            .filter(|entry| {
                entry.contains(&format!("alertname: {alert}\n")) || entry.contains(&format!("alertname: {alert},"))
            })
            .collect();
        assert!(of_alert.iter().any(|entry| entry.contains("exp_alerts: [{")), "{alert} never fires");
        assert!(of_alert.iter().any(|entry| entry.contains("exp_alerts: []")), "{alert} is never silent");
        assert!(runbook.contains(&format!("\n### {alert}\n")), "{alert} has no runbook");
        let anchor = format!("src/docs/operations.md#{}'", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{alert} does not link to its runbook");
    }
    for section in runbook.lines().filter_map(|line| line.strip_prefix("### ")) {
        assert!(alerts().iter().any(|alert| alert == section), "a runbook for {section}, which is no alert");
    }
}

#[test]
fn the_dashboard_works_anywhere() {
    let dashboard = dashboard();
    let variables: Vec<_> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(variables, ["datasource", "job", "link"]);
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title} has no description");
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title} shows nothing");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(expression.contains("job=~\"$job\""), "{title} shows other jobs");
            for call in ["rate(", "increase("] {
                for (start, _) in expression.match_indices(call) {
                    let window = expression[start..].split_once('[').unwrap().1;
                    assert!(
                        window.starts_with("$__rate_interval]"),
                        "{title}: a window that does not follow the scrapes"
                    );
                }
            }
        }
    }
    let mut found = Vec::new();
    strings(&dashboard, "", &mut found);
    for (key, text) in found {
        assert!(!text.contains("://") && !text.contains(":9464") && !text.contains("localhost"), "{key}: {text}");
    }
}

#[test]
fn nothing_else_in_the_crate_records_metrics_by_itself() {
    fn visit(directory: &Path, telemetry: &Path) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path == telemetry {
                continue;
            }
            if path.is_dir() {
                visit(&path, telemetry);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for word in ["counter!(", "gauge!(", "histogram!(", "use metrics::", "metrics_exporter_prometheus"] {
                    assert!(!text.contains(word), "{} uses {word}", path.display());
                }
            }
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    visit(&source, &source.join("telemetry"));
}
