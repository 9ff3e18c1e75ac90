//! One page of DescribeStream: which shards it shows, and what it says of them, with what may go wrong.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use super::faults::FaultKind;
use super::knobs::Knob;
use super::moment::Moment;
use super::sequence::Sequence;
use super::stream::{Shard, Stream};
use super::table::hash_of;
use crate::model::WallTime;

/// What a request asks for.
pub(super) struct Wanted {
    pub(super) after: Option<String>,
    /// Only the children of this shard.
    pub(super) parent: Option<String>,
    pub(super) limit: usize,
}

/// A shard as it is shown.
struct Row<'a> {
    id: &'a str,
    parent: Option<&'a str>,
    start: Sequence,
    end: Option<Sequence>,
}

/// One page.
pub(super) struct Listing<'a> {
    rows: Vec<Row<'a>>,
    cursor: Option<String>,
}

/// The order of a listing: that of the ids, or another one that is as lasting.
type Place<'a> = (u64, &'a str);

fn place<'a>(id: &'a str, moment: &Moment) -> Place<'a> {
    (if moment.options.shuffle_listings { hash_of(id.as_bytes()) } else { 0 }, id)
}

impl<'a> Listing<'a> {
    pub(super) fn of(stream: &'a Stream, mut wanted: Wanted, moment: &mut Moment) -> Self {
        let twist = moment.twist.take();
        if stream.enabled_from > moment.now {
            moment.fault(Knob::StreamEnabling);
            return Self { rows: Vec::new(), cursor: None };
        }
        if twist == Some(FaultKind::FilterIgnored) && wanted.parent.take().is_some() {
            moment.fault(Knob::FilterIgnored);
        }
        let age = if let Some(FaultKind::StaleListing(age)) = twist { age } else { Duration::ZERO };
        let mut shards = visible(stream, &wanted, age, moment);
        leave_out_children(&mut shards, twist.as_ref(), moment);
        let limit = wanted.limit.min(moment.options.max_page_shards).max(1);
        let more = shards.len() > limit;
        if more && limit < wanted.limit {
            moment.fault(Knob::DescribePageSize);
        }
        shards.truncate(limit);
        let mut cursor = shards.last().filter(|_| more).map(|(id, _)| (*id).to_owned());
        match (&twist, shards.last(), &wanted.after) {
            (Some(FaultKind::EmptyLastPage), Some((last, _)), _) if !more => {
                moment.fault(Knob::DescribeEmptyLastPage);
                cursor = Some((*last).to_owned());
            }
            (Some(FaultKind::RepeatCursor), _, Some(after)) => {
                moment.fault(Knob::DescribeRepeatCursor);
                cursor = Some(after.clone());
            }
            _ => {}
        }
        let as_of = moment.now.minus(age);
        let mut rows: Vec<Row<'a>> = shards.iter().map(|(id, shard)| row(id, shard, as_of)).collect();
        distort(&mut rows, stream, twist.as_ref(), moment);
        Self { rows, cursor }
    }

    /// Appends DescribeStream's answer.
    pub(super) fn write_description(&self, stream: &Stream, now: WallTime, out: &mut Vec<u8>) {
        let status = match (stream.disabled, now < stream.enabled_from) {
            (Some(_), _) => "DISABLED",
            (None, true) => "ENABLING",
            (None, false) => "ENABLED",
        };
        let mut put = |text: std::fmt::Arguments<'_>| out.write_fmt(text).expect("a vector takes everything");
        put(format_args!(
            "{{\"StreamDescription\":{{\"StreamArn\":\"{}\",\"StreamLabel\":\"{}\",\"StreamStatus\":\"{status}\",\
             \"StreamViewType\":\"{}\",\"CreationRequestDateTime\":{:.3},\"TableName\":\"{}\",\"KeySchema\":{},\
             \"Shards\":[",
            stream.arn,
            stream.label,
            stream.view.name(),
            stream.created.as_secs_f64(),
            stream.table,
            stream.key_schema,
        ));
        for (index, row) in self.rows.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            put(format_args!(
                "{comma}{{\"ShardId\":\"{}\",\"SequenceNumberRange\":{{\"StartingSequenceNumber\":\"{}\"",
                row.id, row.start
            ));
            if let Some(end) = row.end {
                put(format_args!(",\"EndingSequenceNumber\":\"{end}\""));
            }
            put(format_args!("}}"));
            if let Some(parent) = row.parent {
                put(format_args!(",\"ParentShardId\":\"{parent}\""));
            }
            put(format_args!("}}"));
        }
        put(format_args!("]"));
        if let Some(cursor) = &self.cursor {
            put(format_args!(",\"LastEvaluatedShardId\":\"{cursor}\""));
        }
        put(format_args!("}}}}"));
    }
}

/// The shards that are to be shown from the cursor on, in the listing's order, as they were so long ago.
fn visible<'a>(stream: &'a Stream, wanted: &Wanted, age: Duration, moment: &Moment) -> Vec<(&'a str, &'a Shard)> {
    let as_of = moment.now.minus(age);
    let after = wanted.after.as_deref().map(|id| place(id, moment));
    let matches = |id: &str, shard: &Shard| {
        shard.visible <= moment.now
            && after.is_none_or(|after| place(id, moment) > after)
            && wanted.parent.as_ref().is_none_or(|parent| shard.parent.as_ref() == Some(parent))
    };
    let mut shards: Vec<(&str, &Shard)> =
        stream.shards.iter().map(|(id, shard)| (id.as_str(), shard)).filter(|(id, shard)| matches(id, shard)).collect();
    let is_news = |shard: &Shard| shard.visible > as_of || shard.closed.is_some_and(|closed| closed > as_of);
    if !age.is_zero() && shards.iter().any(|(_, shard)| is_news(shard)) {
        moment.fault(Knob::DescribeStaleListing);
        shards.retain(|(_, shard)| shard.visible <= as_of);
    }
    if moment.options.shuffle_listings {
        shards.sort_by_key(|(id, _)| place(id, moment));
        if !shards.is_sorted_by_key(|(id, _)| *id) {
            moment.fault(Knob::DescribeShuffle);
        }
    }
    shards
}

fn row<'a>(id: &'a str, shard: &'a Shard, as_of: WallTime) -> Row<'a> {
    let end = shard.end.filter(|_| shard.closed.is_none_or(|closed| closed <= as_of));
    Row { id, parent: shard.parent.as_deref(), start: shard.start, end }
}

/// The filter's faults.
fn leave_out_children(shards: &mut Vec<(&str, &Shard)>, twist: Option<&FaultKind>, moment: &mut Moment) {
    match twist {
        Some(FaultKind::FilterEmpty) if !shards.is_empty() => {
            moment.fault(Knob::FilterEmpty);
            shards.clear();
        }
        Some(FaultKind::FilterPartial) if shards.len() > 1 => {
            moment.fault(Knob::FilterPartial);
            shards.remove(moment.knobs.chance(Knob::FilterPartial).usize(..shards.len()));
        }
        _ => {}
    }
}

/// The page's faults.
fn distort<'a>(rows: &mut Vec<Row<'a>>, stream: &'a Stream, twist: Option<&FaultKind>, moment: &mut Moment) {
    match twist {
        Some(FaultKind::ShuffleShards) if rows.len() > 1 => {
            moment.fault(Knob::DescribeShuffle);
            moment.knobs.chance(Knob::DescribeShuffle).shuffle(rows);
        }
        Some(FaultKind::DuplicateShards) if !rows.is_empty() => {
            moment.fault(Knob::DescribeDuplicate);
            let rng = moment.knobs.chance(Knob::DescribeDuplicate);
            let (chosen, looks_open) = (rng.usize(..rows.len()), rng.bool());
            if let Some(Row { id, parent, start, end }) = rows.get(chosen) {
                let end = end.filter(|_| !looks_open);
                rows.push(Row { id, parent: *parent, start: *start, end });
            }
        }
        Some(FaultKind::StaleParentOpen) => {
            let parents: BTreeSet<&str> = stream
                .shards
                .values()
                .filter(|shard| shard.visible <= moment.now)
                .filter_map(|shard| shard.parent.as_deref())
                .collect();
            let mut hidden = 0;
            for row in rows.iter_mut().filter(|row| parents.contains(row.id)) {
                hidden += usize::from(row.end.take().is_some());
            }
            if hidden > 0 {
                moment.fault(Knob::DescribeStaleParent);
            }
        }
        _ => {}
    }
}
