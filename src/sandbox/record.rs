//! Stream records, and their JSON as GetRecords answers it.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use super::sequence::Sequence;
use super::value::Stored;
use crate::model::WallTime;

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

/// What is wrong with a record as it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    UnknownEvent,
    NoName,
    NoKeys,
    NoNumber,
    /// Without the new image, if it has one.
    NoImage,
}

impl Flaw {
    /// One of those with something missing.
    pub(super) fn missing(rng: &mut fastrand::Rng) -> Self {
        [Self::NoName, Self::NoKeys, Self::NoNumber, Self::NoImage].get(rng.usize(..4)).copied().unwrap_or(Self::NoName)
    }
}

/// One item-level change.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) sequence: Sequence,
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

    /// Appends the record's JSON, with a flaw if there is to be one.
    pub(super) fn write_json(&self, view: View, region: &str, flaw: Flaw, out: &mut Vec<u8>) {
        let name = match (&self.old, &self.new) {
            _ if flaw == Flaw::UnknownEvent => "RESHUFFLE",
            (None, _) => "INSERT",
            (Some(_), Some(_)) => "MODIFY",
            (Some(_), None) => "REMOVE",
        };
        let (new, old) = self.images(view);
        let created = self.at.millis().div_euclid(1000);
        out.extend_from_slice(b"{\"awsRegion\":\"");
        out.extend_from_slice(region.as_bytes());
        put(out, format_args!("\",\"dynamodb\":{{\"ApproximateCreationDateTime\":{created}"));
        let parts: [(&[u8], Option<&[u8]>); 3] = [
            (b",\"Keys\":", Some(&self.keys[..]).filter(|_| flaw != Flaw::NoKeys)),
            (b",\"NewImage\":", new.map(|image| &image.json[..]).filter(|_| flaw != Flaw::NoImage)),
            (b",\"OldImage\":", old.map(|image| &image.json[..])),
        ];
        for (member, json) in parts {
            if let Some(json) = json {
                out.extend_from_slice(member);
                out.extend_from_slice(json);
            }
        }
        if flaw != Flaw::NoNumber {
            put(out, format_args!(",\"SequenceNumber\":\"{}\"", self.sequence));
        }
        put(
            out,
            format_args!(
                ",\"SizeBytes\":{},\"StreamViewType\":\"{}\"}},\"eventID\":\"{:032x}\"",
                self.size(view),
                view.name(),
                self.event_id
            ),
        );
        if flaw != Flaw::NoName {
            put(out, format_args!(",\"eventName\":\"{name}\""));
        }
        out.extend_from_slice(b",\"eventSource\":\"aws:dynamodb\",\"eventVersion\":\"1.1\"");
        if self.expired {
            out.extend_from_slice(
                b",\"userIdentity\":{\"PrincipalId\":\"dynamodb.amazonaws.com\",\"Type\":\"Service\"}",
            );
        }
        out.push(b'}');
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes everything");
}
