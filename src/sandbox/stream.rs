//! One table stream: shards that own ranges of the partition keys' hash, their lineage, and the records in them.
//!
//! Nothing happens by itself: [`Stream::advance`] brings a stream up to a time (roll-overs, splits, trims), and every
//! request calls it first. Records share the images with the table; pages are put together from ready JSON.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::events::Event;
use super::moment::Moment;
use super::value::Stored;
use crate::model::WallTime;

/// Smallest number that has the 21 digits of the service's shortest sequence number.
const FIRST_SEQUENCE: u128 = 100_000_000_000_000_000_000;

/// Which images a stream's records carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    KeysOnly,
    NewImage,
    OldImage,
    NewAndOld,
}

impl View {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "KEYS_ONLY" => Self::KeysOnly,
            "NEW_IMAGE" => Self::NewImage,
            "OLD_IMAGE" => Self::OldImage,
            "NEW_AND_OLD_IMAGES" => Self::NewAndOld,
            _ => return None,
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::KeysOnly => "KEYS_ONLY",
            Self::NewImage => "NEW_IMAGE",
            Self::OldImage => "OLD_IMAGE",
            Self::NewAndOld => "NEW_AND_OLD_IMAGES",
        }
    }
}

/// One item-level change.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) sequence: u128,
    pub(super) at: WallTime,
    pub(super) event_id: u128,
    pub(super) keys: Bytes,
    pub(super) keys_size: usize,
    pub(super) new: Option<Arc<Stored>>,
    pub(super) old: Option<Arc<Stored>>,
    /// Deleted by the service's time to live, not by a user.
    pub(super) expired: bool,
}

impl Record {
    /// The images as this view type shows them: new, old.
    pub(super) fn images(&self, view: View) -> (Option<&Stored>, Option<&Stored>) {
        let new = self.new.as_deref().filter(|_| matches!(view, View::NewImage | View::NewAndOld));
        let old = self.old.as_deref().filter(|_| matches!(view, View::OldImage | View::NewAndOld));
        (new, old)
    }

    /// Bytes of the record, by the size rules of items.
    pub(super) fn size(&self, view: View) -> usize {
        let (new, old) = self.images(view);
        self.keys_size + new.map_or(0, |image| image.size) + old.map_or(0, |image| image.size)
    }

    /// Appends the record's JSON.
    pub(super) fn write_json(&self, view: View, region: &str, out: &mut Vec<u8>) {
        let name = match (&self.old, &self.new) {
            (None, _) => "INSERT",
            (Some(_), Some(_)) => "MODIFY",
            (Some(_), None) => "REMOVE",
        };
        let (new, old) = self.images(view);
        let created = self.at.millis().div_euclid(1000);
        let mut put = |text: &str| out.extend_from_slice(text.as_bytes());
        put(&format!(
            "{{\"awsRegion\":\"{region}\",\"dynamodb\":{{\"ApproximateCreationDateTime\":{created},\"Keys\":",
        ));
        out.extend_from_slice(&self.keys);
        for (member, image) in [("NewImage", new), ("OldImage", old)] {
            if let Some(image) = image {
                out.extend_from_slice(format!(",\"{member}\":").as_bytes());
                out.extend_from_slice(&image.json);
            }
        }
        let mut put = |text: &str| out.extend_from_slice(text.as_bytes());
        put(&format!(
            ",\"SequenceNumber\":\"{}\",\"SizeBytes\":{},\"StreamViewType\":\"{}\"}},\"eventID\":\"{:032x}\",\
             \"eventName\":\"{name}\",\"eventSource\":\"aws:dynamodb\",\"eventVersion\":\"1.1\"",
            self.sequence,
            self.size(view),
            view.name(),
            self.event_id,
        ));
        if self.expired {
            put(",\"userIdentity\":{\"PrincipalId\":\"dynamodb.amazonaws.com\",\"Type\":\"Service\"}");
        }
        put("}");
    }
}

/// One shard: open until it has an `end`.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) parent: Option<String>,
    hashes: RangeInclusive<u64>,
    pub(super) start: u128,
    pub(super) end: Option<u128>,
    closed: Option<WallTime>,
    /// When it rolls over, while it is open.
    expires: WallTime,
    /// Not listed and not found before.
    pub(super) visible: WallTime,
    pub(super) records: VecDeque<Record>,
    /// Sequence number of the last record that was trimmed; 0 before the first.
    pub(super) trimmed_through: u128,
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
    /// By id, which is the order of creation.
    pub(super) shards: BTreeMap<String, Shard>,
    /// The open shard of each range, by the range's last hash.
    open: BTreeMap<u64, String>,
    next_sequence: u128,
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
}

impl Stream {
    pub(super) fn new(new: NewStream, moment: &mut Moment) -> Self {
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
            next_sequence: FIRST_SEQUENCE + u128::from(moment.rng.u64(..)) * 10,
            shards_made: 0,
            due: moment.now,
        };
        let initial = moment.options.initial_shards.clone();
        let count = u64::try_from(moment.rng.usize(initial).max(1)).unwrap_or(1);
        let width = u64::MAX / count;
        for index in 0..count {
            let last = if index + 1 == count { u64::MAX } else { width * (index + 1) - 1 };
            let now = moment.now;
            stream.open_shard(None, width * index..=last, now, now, moment);
        }
        stream
    }

    /// Appends a change of an item whose partition key has this hash; not to a closed stream. Hands back where: the
    /// shard's id and the record's number.
    pub(super) fn append(
        &mut self,
        hash: u64,
        make: impl FnOnce(u128, u128) -> Record,
        moment: &mut Moment,
    ) -> Option<(&str, u128)> {
        let sequence = self.draw_sequence(&mut moment.rng);
        let event_id = moment.rng.u128(..);
        let id = self.open.range(hash..).next().map(|(_, id)| id)?;
        let shard = self.shards.get_mut(id)?;
        let record = make(sequence, event_id);
        if shard.records.is_empty() {
            self.due = self.due.min(record.at.plus(moment.options.retention));
        }
        shard.records.push_back(record);
        Some((id, sequence))
    }

    fn draw_sequence(&mut self, rng: &mut fastrand::Rng) -> u128 {
        self.next_sequence += 1 + u128::from(rng.u32(..));
        self.next_sequence
    }

    /// The number below which no future record is.
    pub(super) const fn tip(&self) -> u128 {
        self.next_sequence + 1
    }

    fn open_shard(
        &mut self,
        parent: Option<String>,
        hashes: RangeInclusive<u64>,
        created: WallTime,
        visible: WallTime,
        moment: &mut Moment,
    ) {
        self.shards_made += 1;
        let millis = created.millis().max(0);
        let id = format!("shardId-{millis:020}-{:04x}{:04x}", self.shards_made & 0xffff, moment.rng.u16(..));
        let life = moment.options.shard_life;
        let expires = created.plus(life.mul_f64(0.9 + 0.2 * moment.rng.f64()));
        self.open.insert(*hashes.end(), id.clone());
        let start = self.draw_sequence(&mut moment.rng);
        moment.events.tell(&Event::ShardOpened {
            stream: &self.arn,
            shard: &id,
            parent: parent.as_deref(),
            at: created,
            listed_from: visible,
        });
        let shard = Shard {
            parent,
            hashes,
            start,
            end: None,
            closed: None,
            expires,
            visible,
            records: VecDeque::new(),
            trimmed_through: 0,
        };
        self.shards.insert(id, shard);
        self.due = self.due.min(expires);
    }

    fn close_shard(&mut self, id: &str, at: WallTime, moment: &mut Moment) -> Option<RangeInclusive<u64>> {
        let end = self.draw_sequence(&mut moment.rng);
        let shard = self.shards.get_mut(id).filter(|shard| shard.end.is_none())?;
        if moment.events.are_watched() {
            moment.events.tell(&Event::ShardClosed { stream: &self.arn, shard: id, end: &end.to_string(), at });
        }
        shard.end = Some(end);
        shard.closed = Some(at);
        self.open.remove(shard.hashes.end());
        self.due = moment.now;
        Some(shard.hashes.clone())
    }

    /// Closes a shard and opens its children, one or two. Returns whether there was such an open shard.
    pub(super) fn replace_shard(&mut self, id: &str, at: WallTime, children: usize, moment: &mut Moment) -> bool {
        let Some(hashes) = self.close_shard(id, at, moment) else { return false };
        let (first, last) = hashes.into_inner();
        let parent_visible = self.shards.get(id).map_or(at, |shard| shard.visible);
        let middle = first + (last - first) / 2;
        let halves =
            if children > 1 && first < last { vec![first..=middle, middle + 1..=last] } else { vec![first..=last] };
        // A world that slept for days does not live through every generation that nobody could have read.
        let created = at.max(moment.now.minus(moment.options.retention));
        for half in halves {
            let stagger = moment.options.children_stagger.mul_f64(moment.rng.f64());
            // A child is never listed before its parent was.
            let visible = created.plus(moment.options.children_delay + stagger).max(parent_visible);
            self.open_shard(Some(id.to_owned()), half, created, visible, moment);
        }
        true
    }

    /// Closes every shard; what they hold stays readable for the retention.
    pub(super) fn disable(&mut self, moment: &mut Moment) {
        self.disabled = Some(moment.now);
        moment.events.tell(&Event::StreamDisabled { stream: &self.arn, at: moment.now });
        for id in self.open_shards() {
            let now = moment.now;
            self.close_shard(&id, now, moment);
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
            let splits = may_split && moment.rng.f64() < moment.options.split_chance;
            self.replace_shard(&id, at, 1 + usize::from(splits), moment);
        }
        self.trim(moment.options.retention, moment);
        self.due = self.next_due(moment.options.retention);
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

    /// Drops what is as old as `keep`: records, then closed shards.
    pub(super) fn trim(&mut self, keep: Duration, moment: &Moment) {
        let horizon = moment.now.minus(keep);
        let stream = &self.arn;
        self.shards.retain(|id, shard| {
            let before = shard.trimmed_through;
            while let Some(record) = shard.records.pop_front_if(|record| record.at <= horizon) {
                shard.trimmed_through = record.sequence;
            }
            let shard_gone = shard.closed.is_some_and(|closed| closed <= horizon);
            if moment.events.are_watched() && (shard_gone || shard.trimmed_through > before) {
                let through = (shard.trimmed_through > 0).then(|| shard.trimmed_through.to_string());
                moment.events.tell(&Event::Trimmed {
                    stream,
                    shard: id,
                    through: through.as_deref(),
                    at: moment.now,
                    shard_gone,
                });
            }
            !shard_gone
        });
    }

    /// Whether the stream itself is gone: disabled, and as old as its retention.
    pub(super) fn is_gone(&self, now: WallTime, retention: Duration) -> bool {
        self.disabled.is_some_and(|disabled| disabled.plus(retention) <= now)
    }
}
