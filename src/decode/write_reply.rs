//! The answer of BatchWriteItem.

use bytes::Bytes;

use super::scan_page::{capacity_of, capacity_units};
use super::scanner::Scanner;
use super::{DecodeError, KeyCodec};
use crate::model::CanonicalKey;

/// What became of a batch that was taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WriteReply {
    /// The keys whose writes were *not* carried out, to be sent again.
    pub unprocessed: Vec<CanonicalKey>,
    /// Write units that the batch cost; `None` where the service did not say.
    pub consumed_units: Option<f64>,
}

/// Reads the body of a BatchWriteItem answer.
///
/// # Errors
/// [`DecodeError`] on anything that is not as documented.
pub fn write_reply(body: &Bytes, keys: &KeyCodec) -> Result<WriteReply, DecodeError> {
    let mut reply = WriteReply { unprocessed: Vec::new(), consumed_units: None };
    let mut scanner = Scanner::new(body)?;
    scanner.object(|scanner, name| {
        if scanner.null() {
            Ok(())
        } else if name.is("UnprocessedItems") {
            scanner.object(|scanner, _table| {
                scanner.array(|scanner| {
                    reply.unprocessed.push(key_of_request(scanner, body, keys)?);
                    Ok(())
                })
            })
        } else if name.is("ConsumedCapacity") {
            scanner.array(|scanner| {
                if let Some(units) = capacity_units(scanner)? {
                    *reply.consumed_units.get_or_insert(0.0) += units;
                }
                Ok(())
            })
        } else {
            scanner.value().map(drop)
        }
    })?;
    scanner.end()?;
    Ok(reply)
}

/// Reads the body of a TransactWriteItems answer: what the writes of one table cost.
///
/// # Errors
/// [`DecodeError`] on anything that is not as documented.
pub fn transaction_reply(body: &Bytes, table: &str) -> Result<WriteReply, DecodeError> {
    let mut consumed_units = None;
    let mut scanner = Scanner::new(body)?;
    scanner.object(|scanner, name| {
        if !name.is("ConsumedCapacity") || scanner.null() {
            return scanner.value().map(drop);
        }
        scanner.array(|scanner| {
            if let (Some(units), true) = capacity_of(scanner, |name| name.is(table))? {
                *consumed_units.get_or_insert(0.0) += units;
            }
            Ok(())
        })
    })?;
    scanner.end()?;
    Ok(WriteReply { unprocessed: Vec::new(), consumed_units })
}

/// The key of `{"PutRequest":{"Item":…}}` or `{"DeleteRequest":{"Key":…}}`.
fn key_of_request(scanner: &mut Scanner<'_>, body: &Bytes, keys: &KeyCodec) -> Result<CanonicalKey, DecodeError> {
    let mut key = None;
    scanner.object(|scanner, _kind| {
        if scanner.null() {
            return Ok(());
        }
        scanner.object(|scanner, name| {
            let value = body.slice(scanner.value()?);
            if name.is("Item") || name.is("Key") {
                key = Some(keys.key_of_item(&value)?.canonical);
            }
            Ok(())
        })
    })?;
    key.ok_or_else(|| DecodeError::new("find the key of an unprocessed item", 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyAttribute, KeyKind, KeySchema};

    fn codec() -> KeyCodec {
        KeyCodec::new(&KeySchema { hash: KeyAttribute { name: "pk".into(), kind: KeyKind::N }, range: None })
    }

    #[test]
    fn nothing_unprocessed() {
        for body in ["{}", r#"{"UnprocessedItems":{}}"#, r#"{"UnprocessedItems":null}"#] {
            assert!(write_reply(&body.to_owned().into(), &codec()).unwrap().unprocessed.is_empty(), "{body}");
        }
    }

    #[test]
    fn of_a_transaction_over_two_tables_one_is_told() {
        let body =
            r#"{"ConsumedCapacity":[{"CapacityUnits":2.0,"TableName":"state"},{"TableName":"t","CapacityUnits":6.0}]}"#;
        let units = |table| transaction_reply(&body.into(), table).unwrap().consumed_units;
        assert_eq!((units("t"), units("state"), units("other")), (Some(6.0), Some(2.0), None));
        assert_eq!(transaction_reply(&"{}".into(), "t").unwrap(), WriteReply::default());
        assert!(transaction_reply(&"[]".into(), "t").is_err());
    }

    #[test]
    fn names_the_keys_that_were_left_whatever_their_spelling() {
        let body = r#"{"UnprocessedItems":{"t":[{"PutRequest":{"Item":{"v":{"S":"x"},"pk":{"N":"1.0"}}}},{"DeleteRequest":{"Key":{"pk":{"N":"20"}}}}]},"ConsumedCapacity":[{"CapacityUnits":2.0,"TableName":"t"}]}"#;
        let reply = write_reply(&body.into(), &codec()).unwrap();
        let key = |json: &'static str| codec().key(json.into()).unwrap().canonical;
        assert_eq!(reply.unprocessed, [key(r#"{"pk":{"N":"1"}}"#), key(r#"{"pk":{"N":"2E1"}}"#)]);
        assert_eq!(reply.consumed_units, Some(2.0));
    }
}
