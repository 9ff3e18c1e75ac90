//! What a verification found: counts, the summary, and one JSON line a difference.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::compare::CompareCounts;
use super::confirm::{Confirm, Look};
use super::{Kind, VerifyError, VerifySettings};
use crate::model::{Key, RawItem, WallTime};

/// Counts by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KindCounts {
    /// At the source only.
    pub missing: u64,
    /// At the target only.
    pub extra: u64,
    /// On both sides, with different values.
    pub different: u64,
}

impl KindCounts {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.missing + self.extra + self.different
    }

    fn of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Missing => &mut self.missing,
            Kind::Extra => &mut self.extra,
            Kind::Different => &mut self.different,
        }
    }
}

/// Counts by state and kind. A difference is in one state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    /// Never came to rest: neither shown to be equal nor to differ.
    pub pending: KindCounts,
    /// Differ, and are not repaired.
    pub confirmed: KindCounts,
    /// Differed, were repaired, and are equal now.
    pub repaired: KindCounts,
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VerifyProgress {
    /// Items read at the source.
    pub source_items: u64,
    /// Items read at the target.
    pub target_items: u64,
    /// Segments read to their end on both sides.
    pub segments_done: u32,
    /// Segments in all.
    pub segments: u32,
    /// Keys whose case is open.
    pub suspects: u64,
    /// Differences so far.
    pub differences: Differences,
}

impl VerifyProgress {
    pub(crate) fn new(counts: &CompareCounts, confirm: &Confirm, segments: u32) -> Self {
        Self {
            source_items: counts.source_items,
            target_items: counts.target_items,
            segments_done: counts.segments_done,
            segments,
            suspects: confirm.held() as u64,
            differences: confirm.tally().differences,
        }
    }
}

/// The outcome of a verification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifyReport {
    /// Items read at the source.
    pub source_items: u64,
    /// Items read at the target.
    pub target_items: u64,
    /// Keys compared.
    pub compared: u64,
    /// Keys that the scans saw differ, and that are equal: written meanwhile, or met late.
    pub settled: u64,
    /// Differences by state and kind.
    pub differences: Differences,
    /// Of the pending and confirmed ones, those with an item on either side whose time to live has passed.
    pub expired_differences: u64,
    /// Items at the source whose time to live has passed; zero where no attribute was given.
    pub source_expired: u64,
    /// Items at the target whose time to live has passed.
    pub target_expired: u64,
    /// Whether everything was compared: false when it stopped at a number of differences.
    pub complete: bool,
    /// Seconds that it took.
    pub duration_seconds: f64,
    /// Read units consumed at the source.
    pub source_units: f64,
    /// Read units consumed at the target.
    pub target_units: f64,
}

impl VerifyReport {
    /// Whether source and target were found to be the same, perhaps after repairs. A key that never came to rest, or a part
    /// that was not compared, is no sameness.
    #[must_use]
    pub const fn is_identical(&self) -> bool {
        self.complete && self.differences.confirmed.total() == 0 && self.differences.pending.total() == 0
    }
}

/// The state of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Pending,
    Confirmed,
    Repaired,
}

/// A difference, as the report tells it.
pub(crate) struct Difference<'a> {
    pub(crate) kind: Kind,
    pub(crate) state: State,
    pub(crate) key: &'a Key,
    pub(crate) first_seen: WallTime,
    /// What was seen last; `None` where there is nothing to show.
    pub(crate) look: Option<&'a Look>,
}

/// One line. `kind`, `state`, `key`, `first_seen` are always there.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
    kind: Kind,
    state: State,
    key: &'a RawValue,
    first_seen: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expired: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a RawValue>,
}

/// Writes NDJSON: one line a difference; one that is repaired has a second line that says so.
pub(crate) struct ReportWriter {
    out: Box<dyn Write + Send>,
    show_values: bool,
    link: Option<String>,
}

impl ReportWriter {
    pub(crate) fn new(out: Box<dyn Write + Send>, settings: &VerifySettings) -> Self {
        Self { out, show_values: settings.show_values, link: settings.link.clone() }
    }

    pub(crate) fn write(&mut self, difference: &Difference<'_>) -> Result<(), VerifyError> {
        let images = difference.look.filter(|_| self.show_values);
        let shown = |image: Option<&RawItem>| image.map(|item| raw(item.json())).transpose();
        let source = shown(images.and_then(Look::source_item))?;
        let target = shown(images.and_then(Look::target_item))?;
        let key = raw(&difference.key.json)?;
        let line = Line {
            link: self.link.as_deref(),
            kind: difference.kind,
            state: difference.state,
            key: &key,
            first_seen: difference.first_seen.to_string(),
            expired: difference.look.is_some_and(Look::is_expired),
            source: source.as_deref(),
            target: target.as_deref(),
        };
        serde_json::to_writer(&mut self.out, &line).map_err(std::io::Error::from)?;
        self.out.write_all(b"\n")?;
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), VerifyError> {
        Ok(self.out.flush()?)
    }
}

/// JSON as it is, without the line breaks that may stand between its tokens: a line stays a line.
fn raw(json: &[u8]) -> Result<Box<RawValue>, VerifyError> {
    let text = std::str::from_utf8(json).map_err(std::io::Error::other)?;
    Ok(RawValue::from_string(text.replace(['\n', '\r'], " ")).map_err(std::io::Error::from)?)
}

/// Keeps the counts and writes the lines.
#[derive(Default)]
pub(crate) struct Tally {
    writer: Option<ReportWriter>,
    pub(crate) differences: Differences,
    /// Suspects that were closed, each key once.
    pub(crate) judged: u64,
    pub(crate) settled: u64,
    expired_differences: u64,
}

impl Tally {
    pub(crate) fn new(writer: Option<ReportWriter>) -> Self {
        Self { writer, ..Self::default() }
    }

    /// Differences that stand.
    pub(crate) const fn open(&self) -> u64 {
        self.differences.pending.total() + self.differences.confirmed.total()
    }

    /// Books a difference. One that is repaired was booked as confirmed before.
    pub(crate) fn book(&mut self, difference: &Difference<'_>, was_expired: bool) -> Result<(), VerifyError> {
        let (kind, counts) = (difference.kind, &mut self.differences);
        let expired = u64::from(was_expired);
        match difference.state {
            State::Pending => {
                *counts.pending.of(kind) += 1;
                self.expired_differences += expired;
            }
            State::Confirmed => {
                *counts.confirmed.of(kind) += 1;
                self.expired_differences += expired;
            }
            State::Repaired => {
                *counts.confirmed.of(kind) = counts.confirmed.of(kind).saturating_sub(1);
                *counts.repaired.of(kind) += 1;
                self.expired_differences = self.expired_differences.saturating_sub(expired);
            }
        }
        self.writer.as_mut().map_or(Ok(()), |writer| writer.write(difference))
    }

    /// The summary.
    pub(crate) fn finish(
        mut self,
        counts: CompareCounts,
        complete: bool,
        duration: Duration,
        units: (f64, f64),
    ) -> Result<VerifyReport, VerifyError> {
        if let Some(writer) = &mut self.writer {
            writer.flush()?;
        }
        Ok(VerifyReport {
            source_items: counts.source_items,
            target_items: counts.target_items,
            compared: counts.matched + self.judged,
            settled: self.settled,
            differences: self.differences,
            expired_differences: self.expired_differences,
            source_expired: counts.source_expired,
            target_expired: counts.target_expired,
            complete,
            duration_seconds: duration.as_secs_f64(),
            source_units: units.0,
            target_units: units.1,
        })
    }
}
