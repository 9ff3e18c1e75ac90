//! The text of `/metrics`, from the exporter's.
//!
//! The exporter prints in the order of its hash maps and knows no gauge without a value. Here its samples get the table's
//! order and headings, and those that are NaN, which is how an unknown gauge is held, are left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::table::{METRICS, MetricDoc, MetricKind};

/// Puts the exporter's lines into the table's order, without the unknown, under the table's headings.
pub(super) fn arrange(exported: &str) -> String {
    let mut families: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let samples = exported.lines().filter(|line| !line.is_empty() && !line.starts_with('#') && !line.ends_with(" NaN"));
    for line in samples {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        families.entry(name).or_default().push(line);
    }
    let mut text = String::with_capacity(exported.len());
    for MetricDoc { name, kind, help, .. } in METRICS {
        let mut lines: Vec<&str> = match kind {
            MetricKind::Counter | MetricKind::Gauge => families.remove(name).unwrap_or_default(),
            MetricKind::Histogram => ["_bucket", "_sum", "_count"]
                .into_iter()
                .flat_map(|suffix| families.remove(format!("{name}{suffix}").as_str()).unwrap_or_default())
                .collect(),
        };
        if lines.is_empty() {
            continue;
        }
        // Stable: the buckets of one series stay in their order, and before its sum and its count.
        lines.sort_by_cached_key(|line| series(line));
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str()).expect("text grows without errors");
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
    }
    debug_assert!(families.is_empty(), "recorded without a place in the table: {:?}", families.keys());
    text
}

/// The labels of a sample without the bucket's bound, which the exporter puts last.
fn series(line: &str) -> &str {
    let labels = line.split_once('{').map_or("", |(_, rest)| rest);
    let labels = labels.rsplit_once('}').map_or(labels, |(labels, _)| labels);
    labels.rsplit_once("le=\"").map_or(labels, |(rest, _)| rest.trim_end_matches(','))
}
