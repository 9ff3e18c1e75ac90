//! One table stream: shards that own ranges of the partition keys' hash, their lineage, and the records in them.
//!
//! Nothing happens by itself: [`Stream::advance`] brings a stream up to a time (roll-overs, splits, trims), and every
//! request calls it first. Records share the images with the table; pages are put together from ready JSON.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::events::Event;
use super::knobs::Knob;
use super::moment::Moment;
use super::options::SequenceNumbers;
use super::readers::Readers;
use super::record::{Record, View};
use super::sequence::Sequence;
use crate::model::WallTime;

/// One shard: open until it has an `end`.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) parent: Option<String>,
    hashes: RangeInclusive<u64>,
    pub(super) start: Sequence,
    pub(super) end: Option<Sequence>,
    pub(super) closed: Option<WallTime>,
    /// When it rolls over, while it is open.
    expires: WallTime,
    /// Not listed and not found before.
    pub(super) visible: WallTime,
    pub(super) records: VecDeque<Record>,
    /// Number of the last record that was trimmed; 0 before the first.
    pub(super) trimmed_through: Sequence,
    /// The highest number in it so far: its start's, or a record's.
    pub(super) last: Sequence,
    /// So many pages are still to be empty.
    pub(super) empty_pages: u32,
    pub(super) readers: Readers,
}

impl Shard {
    /// Where a reader begins that wants everything.
    pub(super) fn horizon(&self) -> Sequence {
        self.records.front().map_or_else(|| self.trimmed_through.next(), |record| record.sequence)
    }

    /// Drops the oldest records, so many.
    fn trim(&mut self, count: usize) {
        for record in self.records.drain(..count.min(self.records.len())) {
            self.trimmed_through = record.sequence;
        }
    }

    /// Tells that records are gone, or the shard.
    fn tell_trimmed(&self, stream: &str, id: &str, shard_gone: bool, moment: &Moment) {
        if moment.events.are_watched() {
            let through = (self.trimmed_through > Sequence::ZERO).then(|| self.trimmed_through.to_string());
            let (through, at) = (through.as_deref(), moment.now);
            moment.events.tell(&Event::Trimmed { stream, shard: id, through, at, shard_gone });
        }
    }
}

/// One stream of one table.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) arn: String,
    pub(super) label: String,
    pub(super) table: String,
    pub(super) view: View,
    pub(super) created: WallTime,
    pub(super) enabled_from: WallTime,
    pub(super) disabled: Option<WallTime>,
    pub(super) key_schema: serde_json::Value,
    /// By id; the service's ids are in the order of creation.
    pub(super) shards: BTreeMap<String, Shard>,
    /// The open shard of each range, by the range's last hash.
    open: BTreeMap<u64, String>,
    /// The highest number so far.
    pub(super) last: Sequence,
    shards_made: u32,
    /// Nothing happens before.
    due: WallTime,
}

/// What a new stream is made of.
pub(super) struct NewStream {
    pub(super) arn: String,
    pub(super) label: String,
    pub(super) table: String,
    pub(super) view: View,
    pub(super) key_schema: serde_json::Value,
    pub(super) enabled_from: WallTime,
    /// The highest number of the table's stream before, if it had one.
    pub(super) after: Option<Sequence>,
}

/// A shard that is to be opened.
struct NewShard {
    parent: Option<String>,
    hashes: RangeInclusive<u64>,
    created: WallTime,
    visible: WallTime,
    start: Sequence,
}

impl Stream {
    pub(super) fn new(new: NewStream, moment: &mut Moment) -> Self {
        let base = match new.after {
            Some(_) if moment.options.restart_numbers => {
                moment.fault(Knob::EpochRestart);
                Sequence::FIRST
            }
            Some(after) => after,
            None if moment.options.restart_numbers => Sequence::FIRST,
            None => Sequence::FIRST.plus(u128::from(moment.rng.u64(..)) * 10),
        };
        let mut stream = Self {
            arn: new.arn,
            label: new.label,
            table: new.table,
            view: new.view,
            created: moment.now,
            enabled_from: new.enabled_from,
            disabled: None,
            key_schema: new.key_schema,
            shards: BTreeMap::new(),
            open: BTreeMap::new(),
            last: base,
            shards_made: 0,
            due: moment.now,
        };
        let initial = moment.options.initial_shards.clone();
        let count = u64::try_from(moment.rng.usize(initial).max(1)).unwrap_or(1);
        let width = u64::MAX / count;
        for index in 0..count {
            let last = if index + 1 == count { u64::MAX } else { width * (index + 1) - 1 };
            let now = moment.now;
            let start = stream.draw_number(base, moment);
            let hashes = width * index..=last;
            stream.open_shard(NewShard { parent: None, hashes, created: now, visible: now, start }, moment);
        }
        stream
    }

    /// Appends a change of an item whose partition key has this hash; not to a closed stream. Hands back where: the
    /// shard's id and the record's number.
    pub(super) fn append(
        &mut self,
        hash: u64,
        make: impl FnOnce(Sequence, u128) -> Record,
        moment: &mut Moment,
    ) -> Option<(&str, Sequence)> {
        let last = self.shards.get(self.open.range(hash..).next()?.1)?.last;
        let sequence = self.draw_number(last, moment);
        let record = make(sequence, moment.rng.u128(..));
        let id = self.open.range(hash..).next().map(|(_, id)| id)?;
        let shard = self.shards.get_mut(id)?;
        if shard.records.is_empty() {
            self.due = self.due.min(record.at.plus(moment.options.retention));
        }
        shard.records.push_back(record);
        shard.last = sequence;
        Some((id, sequence))
    }

    /// A number for something in a shard whose highest is `last`.
    fn draw_number(&mut self, last: Sequence, moment: &mut Moment) -> Sequence {
        let number = match moment.options.sequence_numbers {
            SequenceNumbers::Steady => self.last.plus(1 + u128::from(moment.rng.u32(..))),
            SequenceNumbers::Growing => {
                let number = last.leap(moment.knobs.chance(Knob::LongNumbers));
                if number.digits() > last.digits() {
                    moment.fault(Knob::LongNumbers);
                }
                number
            }
        };
        self.last = self.last.max(number);
        number
    }

    /// The start of a child: above its parent's numbers, or, with growing ones, as well far below.
    fn draw_start(&mut self, parent: Sequence, moment: &mut Moment) -> Sequence {
        let is_growing = moment.options.sequence_numbers == SequenceNumbers::Growing;
        let begins_low = is_growing && moment.knobs.chance(Knob::LongNumbers).bool();
        self.draw_number(if begins_low { Sequence::FIRST } else { parent }, moment)
    }

    fn new_id(&mut self, created: WallTime, moment: &mut Moment) -> String {
        self.shards_made += 1;
        if moment.options.odd_shard_ids {
            moment.fault(Knob::OddShardIds);
            let rng = moment.knobs.chance(Knob::OddShardIds);
            let length = rng.usize(28..=65);
            return std::iter::repeat_with(|| rng.alphanumeric()).take(length).collect();
        }
        let millis = created.millis().max(0);
        format!("shardId-{millis:020}-{:04x}{:04x}", self.shards_made & 0xffff, moment.rng.u16(..))
    }

    fn open_shard(&mut self, new: NewShard, moment: &mut Moment) {
        let NewShard { parent, hashes, created, visible, start } = new;
        let id = self.new_id(created, moment);
        let expires = created.plus(moment.options.shard_life.mul_f64(0.9 + 0.2 * moment.rng.f64()));
        moment.events.tell(&Event::ShardOpened {
            stream: &self.arn,
            shard: &id,
            parent: parent.as_deref(),
            at: created,
            listed_from: visible,
        });
        self.open.insert(*hashes.end(), id.clone());
        self.due = self.due.min(expires);
        let shard = Shard {
            parent,
            hashes,
            start,
            end: None,
            closed: None,
            expires,
            visible,
            records: VecDeque::new(),
            trimmed_through: Sequence::ZERO,
            last: start,
            empty_pages: 0,
            readers: Readers::default(),
        };
        self.shards.insert(id, shard);
    }

    fn close_shard(&mut self, id: &str, at: WallTime, moment: &mut Moment) -> Option<RangeInclusive<u64>> {
        let last = self.shards.get(id).filter(|shard| shard.end.is_none())?.last;
        let end = self.draw_number(last, moment);
        if moment.events.are_watched() {
            moment.events.tell(&Event::ShardClosed { stream: &self.arn, shard: id, end: &end.to_string(), at });
        }
        let shard = self.shards.get_mut(id)?;
        shard.end = Some(end);
        shard.last = end;
        shard.closed = Some(at);
        self.open.remove(shard.hashes.end());
        self.due = moment.now;
        Some(shard.hashes.clone())
    }

    /// Closes a shard and opens its children, one or two. Returns whether there was such an open shard.
    pub(super) fn replace_shard(&mut self, id: &str, at: WallTime, children: usize, moment: &mut Moment) -> bool {
        let Some(hashes) = self.close_shard(id, at, moment) else { return false };
        let (first, last) = hashes.into_inner();
        let (parent_visible, parent_last) =
            self.shards.get(id).map_or((at, self.last), |shard| (shard.visible, shard.last));
        let middle = first + (last - first) / 2;
        let halves =
            if children > 1 && first < last { vec![first..=middle, middle + 1..=last] } else { vec![first..=last] };
        moment.fault(if halves.len() > 1 { Knob::Split } else { Knob::Rollover });
        // A world that slept for days does not live through every generation that nobody could have read.
        let created = at.max(moment.now.minus(moment.options.retention));
        for hashes in halves {
            let delay = moment.options.children_delay + child_stagger(moment);
            // A child is never listed before its parent was.
            let visible = created.plus(delay).max(parent_visible);
            let start = self.draw_start(parent_last, moment);
            self.open_shard(NewShard { parent: Some(id.to_owned()), hashes, created, visible, start }, moment);
        }
        if !moment.options.children_delay.is_zero() {
            moment.fault(Knob::ChildrenDelay);
        }
        true
    }

    /// Closes every shard; what they hold stays readable for the retention.
    pub(super) fn disable(&mut self, moment: &mut Moment) {
        self.disabled = Some(moment.now);
        moment.events.tell(&Event::StreamDisabled { stream: &self.arn, at: moment.now });
        moment.fault(Knob::StreamDisable);
        for id in self.open_shards() {
            let now = moment.now;
            self.close_shard(&id, now, moment);
            moment.fault(Knob::ChildrenNever);
        }
    }

    /// Ids of the open shards, by hash range.
    pub(super) fn open_shards(&self) -> Vec<String> {
        self.open.values().cloned().collect()
    }

    /// Brings the stream up to now: roll-overs, splits, trims.
    pub(super) fn advance(&mut self, moment: &mut Moment) {
        if moment.now < self.due {
            return;
        }
        while let Some((id, at)) = self.next_expired(moment.now) {
            let may_split = self.open.len() < moment.options.max_open_shards;
            let splits = may_split && moment.knobs.happens(Knob::Split, moment.options.split_chance);
            self.replace_shard(&id, at, 1 + usize::from(splits), moment);
        }
        if self.trim(moment.options.retention, |_| true, moment) > 0 {
            moment.fault(Knob::TrimOnTime);
        }
        self.due = self.next_due(moment.options.retention);
    }

    /// Makes the next look find what is due, whatever was reckoned before.
    pub(super) fn look_again(&mut self) {
        self.due = WallTime::from_millis(i64::MIN);
    }

    fn next_expired(&self, now: WallTime) -> Option<(String, WallTime)> {
        let expired = |id: &String| self.shards.get(id).map(|shard| (shard.expires, id.clone()));
        let (at, id) = self.open.values().filter_map(expired).min()?;
        (at <= now).then_some((id, at))
    }

    fn next_due(&self, retention: Duration) -> WallTime {
        let mut due = WallTime::from_millis(i64::MAX);
        for shard in self.shards.values() {
            if let Some(record) = shard.records.front() {
                due = due.min(record.at.plus(retention));
            }
            due = due.min(shard.closed.map_or(shard.expires, |closed| closed.plus(retention)));
        }
        due
    }

    /// Drops what is as old as `keep` of the chosen shards: records, then closed shards. Returns how many records.
    pub(super) fn trim(&mut self, keep: Duration, which: impl Fn(&str) -> bool, moment: &Moment) -> usize {
        let horizon = moment.now.minus(keep);
        let stream = &self.arn;
        let mut records = 0;
        self.shards.retain(|id, shard| {
            if !which(id) {
                return true;
            }
            let old = shard.records.partition_point(|record| record.at <= horizon);
            shard.trim(old);
            records += old;
            let shard_gone = shard.closed.is_some_and(|closed| closed <= horizon);
            if shard_gone || old > 0 {
                shard.tell_trimmed(stream, id, shard_gone, moment);
            }
            !shard_gone
        });
        records
    }

    /// Drops some of the oldest records of a shard, whatever their age. Returns whether there were any.
    pub(super) fn trim_early(&mut self, moment: &mut Moment) -> bool {
        let rng = moment.knobs.chance(Knob::TrimEarly);
        let full = |(_, shard): &(&String, &mut Shard)| !shard.records.is_empty();
        let count = self.shards.values().filter(|shard| !shard.records.is_empty()).count();
        if count == 0 {
            return false;
        }
        let chosen = rng.usize(..count);
        let Some((id, shard)) = self.shards.iter_mut().filter(full).nth(chosen) else { return false };
        let records = rng.usize(1..=shard.records.len());
        shard.trim(records);
        shard.tell_trimmed(&self.arn, id, false, moment);
        true
    }

    /// Drops what a reader is about to read. Returns whether there was anything.
    pub(super) fn trim_at(&mut self, id: &str, from: Sequence, moment: &Moment) -> bool {
        let Some(shard) = self.shards.get_mut(id) else { return false };
        let first = shard.records.partition_point(|record| record.sequence < from);
        if first == shard.records.len() {
            return false;
        }
        shard.trim(first + 1);
        shard.tell_trimmed(&self.arn, id, false, moment);
        true
    }

    /// Takes a shard away with all that is in it; an open one is rolled over first. Returns whether there was one.
    pub(super) fn vanish(&mut self, id: &str, moment: &mut Moment) -> bool {
        let now = moment.now;
        self.replace_shard(id, now, 1, moment);
        let Some(mut shard) = self.shards.remove(id) else { return false };
        shard.trim(shard.records.len());
        shard.tell_trimmed(&self.arn, id, true, moment);
        true
    }

    /// Whether the stream itself is gone: disabled, and as old as its retention.
    pub(super) fn is_gone(&self, now: WallTime, retention: Duration) -> bool {
        self.disabled.is_some_and(|disabled| disabled.plus(retention) <= now)
    }
}

/// How much later than the others a child is listed.
fn child_stagger(moment: &mut Moment) -> Duration {
    let most = moment.options.children_stagger;
    if most.is_zero() {
        return Duration::ZERO;
    }
    moment.fault(Knob::ChildrenStagger);
    most.mul_f64(moment.knobs.chance(Knob::ChildrenStagger).f64())
}
