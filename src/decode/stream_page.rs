//! A page of GetRecords.

use std::ops::Range;

use bytes::Bytes;

use super::replica_marks::without_replica_marks;
use super::scanner::Scanner;
use super::{DecodeError, KeyCodec};
use crate::model::{Change, ChangeOp, Key, SequenceNumber, ViewType, WallTime};

/// A record with images is hardly smaller: room for the changes of a page is made once, and not much too large.
const ROOMY_RECORD_BYTES: usize = 1024;

/// One page of a shard.
#[derive(Debug)]
pub struct StreamPage {
    /// The changes in the order of the shard.
    pub changes: Vec<Change>,
    /// Where the next page starts; `None`: the shard is closed and this was its last page.
    pub next_iterator: Option<String>,
}

/// Reads the body of a GetRecords answer.
///
/// Images and keys are slices of `body`. Attributes that legacy global tables put into items (`aws:rep:*`) are taken out.
///
/// # Errors
/// [`DecodeError`] on anything that is not as documented: an unknown event, a missing field, a put without its image.
/// Nothing is skipped.
pub fn stream_page(body: &Bytes, keys: &KeyCodec, view: ViewType) -> Result<StreamPage, DecodeError> {
    let mut changes = Vec::with_capacity(body.len() / ROOMY_RECORD_BYTES);
    let mut next_iterator = None;
    let mut has_records = false;
    let mut buffer = Vec::with_capacity(64);
    let mut scanner = Scanner::new(body)?;
    scanner.object(|scanner, name| {
        if name.is("Records") {
            has_records = true;
            scanner.array(|scanner| {
                let start = scanner.position();
                let record = Record::read(scanner)?;
                let key = record.key(body, keys, &mut buffer)?;
                changes.push(record.into_change(key, body, view, scanner.position() - start)?);
                Ok(())
            })
        } else if name.is("NextShardIterator") {
            next_iterator = if scanner.null() { None } else { Some(scanner.string()?.decode()?.into_owned()) };
            Ok(())
        } else {
            scanner.value().map(drop)
        }
    })?;
    scanner.end()?;
    if !has_records {
        return Err(DecodeError::new("find Records in a page", 0));
    }
    Ok(StreamPage { changes, next_iterator: next_iterator.filter(|token| !token.is_empty()) })
}

/// What is read of a record; ranges point into the page.
#[derive(Debug, Default)]
struct Record {
    event: Option<Event>,
    is_ttl_delete: bool,
    keys: Option<Range<usize>>,
    new_image: Option<Range<usize>>,
    sequence: Option<SequenceNumber>,
    created: Option<WallTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Insert,
    Modify,
    Remove,
}

impl Record {
    fn read(scanner: &mut Scanner<'_>) -> Result<Self, DecodeError> {
        let mut record = Self::default();
        scanner.object(|scanner, name| {
            if name.is("eventName") {
                let event = scanner.string()?;
                record.event = Some(match () {
                    () if event.is("INSERT") => Event::Insert,
                    () if event.is("MODIFY") => Event::Modify,
                    () if event.is("REMOVE") => Event::Remove,
                    () => return Err(DecodeError::new("know the event of a record", scanner.position())),
                });
                Ok(())
            } else if name.is("dynamodb") {
                record.read_data(scanner)
            } else if scanner.null() {
                Ok(())
            } else if name.is("userIdentity") {
                record.is_ttl_delete = is_ttl(scanner)?;
                Ok(())
            } else {
                scanner.value().map(drop)
            }
        })?;
        Ok(record)
    }

    fn read_data(&mut self, scanner: &mut Scanner<'_>) -> Result<(), DecodeError> {
        scanner.object(|scanner, name| {
            if name.is("Keys") {
                self.keys = Some(scanner.value()?);
            } else if name.is("NewImage") {
                self.new_image = if scanner.null() { None } else { Some(scanner.whole_object()?) };
            } else if name.is("SequenceNumber") {
                let text = scanner.string()?.decode()?;
                let number = SequenceNumber::parse(&text);
                self.sequence =
                    Some(number.map_err(|_| DecodeError::new("read a sequence number", scanner.position()))?);
            } else if name.is("ApproximateCreationDateTime") {
                self.created = Some(creation_time(scanner.number()?)?);
            } else {
                scanner.value()?;
            }
            Ok(())
        })
    }

    fn key(&self, body: &Bytes, keys: &KeyCodec, buffer: &mut Vec<u8>) -> Result<Key, DecodeError> {
        let range = self.keys.clone().ok_or_else(|| DecodeError::new("find Keys in a record", 0))?;
        keys.key_with(body.slice(range), buffer)
    }

    fn into_change(self, key: Key, body: &Bytes, view: ViewType, wire_bytes: usize) -> Result<Change, DecodeError> {
        let at = self.keys.as_ref().map_or(0, |range| range.start);
        let missing = |what| DecodeError::new(what, at);
        let event = self.event.ok_or_else(|| missing("find eventName in a record"))?;
        let op = match (event, self.new_image) {
            _ if !view.has_new_image() => ChangeOp::Touch,
            (Event::Remove, None) => ChangeOp::Delete,
            (Event::Insert | Event::Modify, Some(image)) => ChangeOp::Put(without_replica_marks(body.slice(image))?),
            (Event::Remove, Some(_)) => return Err(missing("find no NewImage in a REMOVE")),
            (Event::Insert | Event::Modify, None) => return Err(missing("find NewImage in a record")),
        };
        Ok(Change {
            key,
            op,
            sequence: self.sequence.ok_or_else(|| missing("find SequenceNumber in a record"))?,
            created: self.created.ok_or_else(|| missing("find ApproximateCreationDateTime in a record"))?,
            is_ttl_delete: self.is_ttl_delete && event == Event::Remove,
            wire_bytes,
        })
    }
}

/// Whether the identity is DynamoDB's own: `Service`, `dynamodb.amazonaws.com`. The model spells its members with
/// capitals, the documentation without.
fn is_ttl(scanner: &mut Scanner<'_>) -> Result<bool, DecodeError> {
    let (mut is_service, mut is_dynamodb) = (false, false);
    scanner.object(|scanner, name| {
        if name.is("type") || name.is("Type") {
            is_service = !scanner.null() && scanner.string()?.is("Service");
        } else if name.is("principalId") || name.is("PrincipalId") {
            is_dynamodb = !scanner.null() && scanner.string()?.is("dynamodb.amazonaws.com");
        } else {
            scanner.value()?;
        }
        Ok(())
    })?;
    Ok(is_service && is_dynamodb)
}

/// Seconds since the epoch in any JSON spelling; the service writes whole ones, emulators may not.
fn creation_time(text: &str) -> Result<WallTime, DecodeError> {
    if let Ok(secs) = text.parse::<i64>() {
        return Ok(WallTime::from_secs(secs));
    }
    let millis = text.parse::<f64>().map_or(f64::NAN, |secs| (secs * 1000.0).floor());
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    match millis {
        m if m.abs() < 9.0e15 => Ok(WallTime::from_millis(m as i64)),
        _ => Err(DecodeError::new("read ApproximateCreationDateTime", 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyAttribute, KeyKind, KeySchema, RawItem};

    fn codec() -> KeyCodec {
        KeyCodec::new(&KeySchema { hash: KeyAttribute { name: "pk".into(), kind: KeyKind::S }, range: None })
    }

    fn record(event: &str, extra: &str) -> String {
        format!(
            r#"{{"eventID":"1","eventName":"{event}","eventVersion":"1.1","eventSource":"aws:dynamodb","awsRegion":"eu-west-1","dynamodb":{{"ApproximateCreationDateTime":1700000000,"Keys":{{"pk":{{"S":"a"}}}},{extra}"SequenceNumber":"100000000000000000001","SizeBytes":12,"StreamViewType":"NEW_AND_OLD_IMAGES"}}}}"#
        )
    }

    fn page(records: &str, next: &str) -> Result<StreamPage, DecodeError> {
        stream_page(&format!(r#"{{"Records":[{records}]{next}}}"#).into(), &codec(), ViewType::NewAndOldImages)
    }

    #[test]
    fn an_image_is_the_very_bytes_of_the_page() {
        let image = r#"{"pk":{"S":"a"},"n":{"N":"1.0"},"s":{"S":"\u0041 \" é"}}"#;
        let page =
            page(&record("MODIFY", &format!(r#""NewImage":{image},"OldImage":{{}},"#)), r#","NextShardIterator":"it""#)
                .unwrap();
        let [change] = page.changes.as_slice() else { panic!("one change") };
        assert_eq!(change.op, ChangeOp::Put(RawItem::new(image.into())));
        assert_eq!(change.created, WallTime::from_secs(1_700_000_000));
        assert_eq!(page.next_iterator.as_deref(), Some("it"));
    }

    #[test]
    fn a_last_page_with_records_keeps_them() {
        for next in ["", r#","NextShardIterator":null"#, r#","NextShardIterator":"""#] {
            let page = page(&record("REMOVE", ""), next).unwrap();
            assert_eq!((page.changes.len(), page.next_iterator), (1, None));
        }
    }

    #[test]
    fn nothing_odd_is_skipped() {
        assert!(page(&record("REPLACE", ""), "").is_err(), "unknown event");
        assert!(page(&record("INSERT", ""), "").is_err(), "put without its image");
        assert!(page(&record("INSERT", r#""NewImage":"text","#), "").is_err(), "an image that is no item");
        assert!(page(&record("REMOVE", "").replace("SequenceNumber", "Seq"), "").is_err(), "no sequence number");
        assert!(page(&record("REMOVE", "").replace("eventName", "name"), "").is_err(), "no event");
        assert!(page(&record("REMOVE", "").replace(r#""S":"a""#, r#""N":"1""#), "").is_err(), "key of another type");
        assert!(stream_page(&"{}".into(), &codec(), ViewType::NewImage).is_err(), "no records");
        assert!(stream_page(&r#"{"Records":[]"#.into(), &codec(), ViewType::NewImage).is_err(), "truncated");
    }

    #[test]
    fn a_view_without_new_images_touches_the_key() {
        let body = format!(r#"{{"Records":[{},{}]}}"#, record("INSERT", ""), record("REMOVE", "")).into();
        let page = stream_page(&body, &codec(), ViewType::KeysOnly).unwrap();
        assert!(page.changes.iter().all(|change| change.op == ChangeOp::Touch));
    }

    #[test]
    fn tells_ttl_deletes_apart() {
        let with = |identity: &str| {
            record("REMOVE", "").replacen(r#""eventID""#, &format!(r#""userIdentity":{identity},"eventID""#), 1)
        };
        let is_ttl = |identity: &str| page(&with(identity), "").unwrap().changes.first().unwrap().is_ttl_delete;
        assert!(is_ttl(r#"{"type":"Service","principalId":"dynamodb.amazonaws.com"}"#));
        assert!(is_ttl(r#"{"PrincipalId":"dynamodb.amazonaws.com","Type":"Service"}"#));
        assert!(!is_ttl(r#"{"type":"AssumedRole","principalId":"dynamodb.amazonaws.com"}"#));
        assert!(!is_ttl("null"));
    }

    #[test]
    fn marks_of_legacy_global_tables_are_taken_out() {
        let image =
            r#"{"aws:rep:deleting":{"BOOL":false},"pk":{"S":"a"},"aws:rep:updatetime":{"N":"1"},"v":{"S":"aws:rep:"}}"#;
        let page = page(&record("INSERT", &format!(r#""NewImage":{image},"#)), "").unwrap();
        let expected = RawItem::new(r#"{"pk":{"S":"a"},"v":{"S":"aws:rep:"}}"#.into());
        assert_eq!(page.changes.first().unwrap().op, ChangeOp::Put(expected));
    }

    #[test]
    fn reads_creation_times_in_every_spelling() {
        for (text, millis) in
            [("1700000000", 1_700_000_000_000), ("1.7E9", 1_700_000_000_000), ("1700000000.75", 1_700_000_000_750)]
        {
            assert_eq!(creation_time(text), Ok(WallTime::from_millis(millis)), "{text}");
        }
        assert!(creation_time("1e400").is_err());
    }
}
