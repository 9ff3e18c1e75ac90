//! What is asked of the service: nothing that it must refuse, nothing too often; and what its answers tell the program.

use std::collections::BTreeMap;
use std::time::Duration;

use dynaferry::model::{SequenceNumber, ShardId, WallTime};
use dynaferry::sandbox::Exchange;

use super::Judge;
use crate::truth::ShardTruth;
use crate::world::SOURCE;

/// So often an iterator that has expired may be used again by one who was told so.
const DEAD_ITERATOR_USES: u32 = 2;
/// A load may begin with an export that is no older: the stream keeps 24 hours.
const EXPORT_OF_USE: Duration = Duration::from_secs(21 * 3600);
/// Another export is begun no sooner after one that failed, as the program promises, less what clocks are apart.
const AFTER_FAILURE: Duration = Duration::from_secs(13 * 60);
/// Exports by ARN: when they were begun, and when they failed.
pub(super) type OwnExports = BTreeMap<String, (WallTime, Option<WallTime>)>;

/// DescribeStream calls of an account in a second. Source: DynamoDB Streams API reference.
const DESCRIBE_STREAM_LIMIT: usize = 10;

impl Judge {
    pub(crate) fn exchange(&mut self, exchange: &Exchange<'_>) {
        self.exchanges += 1;
        self.trace.exchange(exchange);
        let may_be_lost = std::mem::take(&mut self.answer_may_be_lost);
        let Some(reply) = exchange.reply else { return };
        match exchange.operation {
            "DescribeStream" if exchange.account == SOURCE => {
                self.count_describe(exchange.at);
                for shard in texts_in(reply.body(), br#""ShardId":""#) {
                    *self.shown.entry(ShardId::new(shard)).or_default() += 1;
                }
            }
            "GetRecords" if reply.status() == 200 => self.records_were_given(reply.body()),
            "GetRecords" if !may_be_lost => self.check_iterator(exchange.request, reply.body(), exchange.at),
            "Scan" | "GetItem" if exchange.account == SOURCE && reply.status() == 200 => {
                let is_loading = self.link.as_ref().is_some_and(|link| link.load.is_some());
                if is_loading && exchange.operation == "Scan" {
                    self.loaded_at.get_or_insert(exchange.at);
                }
                self.source_was_read(exchange.operation, reply.body());
            }
            "ExportTableToPointInTime" if reply.status() == 200 => match window_of(exchange.request) {
                Some(from) => self.window_was_begun(reply.body(), from, exchange.at),
                None => self.export_was_begun(reply.body(), exchange.at),
            },
            "DescribeExport" if reply.status() == 200 => self.export_was_described(reply.body()),
            "ImportTable" if reply.status() == 200 => self.import_was_begun(reply.body(), exchange.at),
            "DescribeImport" if reply.status() == 200 => self.import_was_described(reply.body()),
            _ => {}
        }
        if reply.status() == 400 && is_our_fault(reply.body()) && !self.is_about_poison(exchange.request) {
            let text = String::from_utf8_lossy(reply.body()).into_owned();
            self.violated("C7", exchange.at, format!("{} is refused as invalid: {text}", exchange.operation));
        }
    }

    fn records_were_given(&mut self, body: &[u8]) {
        let numbers: Vec<SequenceNumber> = numbers_in(body).collect();
        let Some((first, last)) = numbers.first().zip(numbers.last()) else { return };
        let is_of = |shard: &ShardTruth| shard.records.iter().any(|record| record.sequence == *first);
        if let Some((id, _)) = self.truth.shards.iter().find(|(_, shard)| is_of(shard)) {
            let to = self.given_to.entry(id.clone()).or_insert(*last);
            *to = (*to).max(*last);
        }
        self.given.extend(numbers);
    }

    fn is_about_poison(&self, request: &[u8]) -> bool {
        !self.poison.is_empty() && memchr::memmem::find(request, b"poison").is_some()
    }

    /// C7: who is told that an iterator has expired gets another one.
    fn check_iterator(&mut self, request: &[u8], body: &[u8], at: WallTime) {
        if memchr::memmem::find(body, b"ExpiredIteratorException").is_none() {
            return;
        }
        let uses = self.expired.entry(request.to_vec()).or_default();
        *uses += 1;
        if *uses == DEAD_ITERATOR_USES {
            self.violated("C7", at, format!("an expired iterator was used {DEAD_ITERATOR_USES} times"));
        }
    }

    fn count_describe(&mut self, at: WallTime) {
        self.describe_calls.push_back(at);
        while self.describe_calls.front().is_some_and(|first| at.since(*first) >= Duration::from_secs(1)) {
            self.describe_calls.pop_front();
        }
        if self.describe_calls.len() > DESCRIBE_STREAM_LIMIT {
            let count = self.describe_calls.len();
            self.violated("C7", at, format!("{count} DescribeStream calls within a second"));
        }
    }

    /// The link makes an export itself: one, as long as nothing takes its use away.
    pub(crate) fn expects_own_export(&mut self) {
        self.own_exports = Some(BTreeMap::new());
    }

    /// A stream that is younger than an export does not go on from it.
    pub(super) fn exports_are_of_no_use(&mut self) {
        self.own_exports.iter_mut().for_each(BTreeMap::clear);
    }

    /// Another one is begun only when the last one is of no use, or failed some time ago.
    fn export_was_begun(&mut self, body: &[u8], at: WallTime) {
        let Some(arn) = texts_in(body, br#""ExportArn":""#).next().map(str::to_owned) else { return };
        let Some(exports) = &mut self.own_exports else { return };
        if exports.contains_key(&arn) {
            return;
        }
        let is_too_soon = exports.values().any(|(begun, failed)| match failed {
            None => at.since(*begun) < EXPORT_OF_USE,
            Some(failed) => at.since(*failed) < AFTER_FAILURE,
        });
        exports.insert(arn, (at, None));
        self.source_was_exported(at);
        if is_too_soon {
            self.violated("C7", at, "an export was begun while another one is of use, or had just failed".to_owned());
        }
    }

    /// A window is exported once, unless that failed.
    fn window_was_begun(&mut self, body: &[u8], from: i64, at: WallTime) {
        let Some(arn) = texts_in(body, br#""ExportArn":""#).next().map(str::to_owned) else { return };
        if self.own_windows.contains_key(&arn) {
            return;
        }
        let is_twice = self.own_windows.values().any(|(other, failed)| *other == from && !failed);
        self.own_windows.insert(arn, (from, false));
        if is_twice {
            self.violated("C7", at, format!("the window from {from} is exported twice"));
        }
        // What was changed up to now may be in it, and that a key is gone.
        self.loaded_at = Some(at);
        for key in &mut self.truth.keys {
            key.exported = Some(key.last());
        }
    }

    /// One that has failed is of no use from its end on, which may be long ago.
    fn export_was_described(&mut self, body: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<serde_json::Value>(body) else { return };
        let export = &answer["ExportDescription"];
        let (arn, ended) = (export["ExportArn"].as_str(), export["EndTime"].as_f64());
        if export["ExportStatus"] == "FAILED"
            && let Some(window) = arn.and_then(|arn| self.own_windows.get_mut(arn))
        {
            window.1 = true;
        }
        let known = self.own_exports.as_mut().zip(arn).and_then(|(exports, arn)| exports.get_mut(arn));
        if let (Some((_, failed)), Some(ended), Some("FAILED")) = (known, ended, export["ExportStatus"].as_str()) {
            *failed = Some(WallTime::from_millis((ended * 1000.0) as i64));
        }
    }

    /// An export holds all that the source has now, or had some minutes ago: it may be written from now on.
    pub(crate) fn source_was_exported(&mut self, at: WallTime) {
        self.loaded_at = Some(at);
        for key in &mut self.truth.keys {
            key.exported = key.versions.iter().rposition(|version| version.number.is_some());
        }
    }

    /// What was read at the source table may be written from now on, ahead of the stream.
    fn source_was_read(&mut self, operation: &str, body: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<serde_json::Value>(body) else { return };
        let items = match operation {
            "Scan" => answer.get("Items").and_then(|items| items.as_array()).cloned().unwrap_or_default(),
            _ => answer.get("Item").cloned().into_iter().collect(),
        };
        if items.is_empty() && operation == "GetItem" {
            // An absent item: it may be any key that is absent now.
            for key in &mut self.truth.keys {
                if key.versions[key.last()].number.is_none() {
                    key.read = key.read.max(Some(key.last()));
                }
            }
            return;
        }
        for item in items {
            let number = item.pointer("/v/S").and_then(|text| text.as_str()?.parse().ok());
            if let Some((key, version)) = number.and_then(|number| self.truth.version(number)) {
                let truth = &mut self.truth.keys[key];
                truth.read = truth.read.max(Some(version));
            }
        }
    }
}

/// Where the window begins that a request asks for, in milliseconds.
fn window_of(request: &[u8]) -> Option<i64> {
    let request: serde_json::Value = serde_json::from_slice(request).ok()?;
    let from = request.pointer("/IncrementalExportSpecification/ExportFromTime")?.as_f64()?;
    Some((from * 1000.0).round() as i64)
}

/// The sequence numbers in an answer of GetRecords.
fn numbers_in(body: &[u8]) -> impl Iterator<Item = SequenceNumber> {
    texts_in(body, br#""SequenceNumber":""#).filter_map(|digits| SequenceNumber::parse(digits).ok())
}

/// The plain texts that follow this in a body.
fn texts_in<'a>(body: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a str> {
    memchr::memmem::find_iter(body, name).filter_map(move |at| {
        let text = body.get(at + name.len()..)?.split(|byte| *byte == b'"').next()?;
        std::str::from_utf8(text).ok()
    })
}

/// Answers that say that a request was malformed.
fn is_our_fault(body: &[u8]) -> bool {
    [&b"ValidationException"[..], b"SerializationException", b"MissingParameter", b"UnknownOperation"]
        .iter()
        .any(|code| memchr::memmem::find(body, code).is_some())
}
