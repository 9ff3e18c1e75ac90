//! A line of a data file of a full export.

use bytes::Bytes;

use super::scanner::Scanner;
use super::{DecodeError, KeyCodec, LoadedItem};

/// Reads one line, `{"Item":{…}}`, without its line end. The image is a slice of it.
///
/// # Errors
/// [`DecodeError`] on anything that is not as documented (Developer Guide, DynamoDB table export output format): so a line
/// of an incremental export, which has `Keys` and images, is one, too.
pub fn export_line(line: &Bytes, keys: &KeyCodec) -> Result<LoadedItem, DecodeError> {
    let mut item = None;
    let mut scanner = Scanner::new(line)?;
    scanner.object(|scanner, name| {
        if !name.is("Item") || item.is_some() {
            return Err(DecodeError::new("find nothing but one Item in a line", scanner.position()));
        }
        item = Some(keys.item(scanner, line)?);
        Ok(())
    })?;
    scanner.end()?;
    item.ok_or_else(|| DecodeError::new("find an Item in a line", 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyAttribute, KeyKind, KeySchema};

    fn codec() -> KeyCodec {
        KeyCodec::new(&KeySchema { hash: KeyAttribute { name: "pk".to_owned(), kind: KeyKind::S }, range: None })
    }

    fn line(text: &'static str) -> Result<LoadedItem, DecodeError> {
        export_line(&Bytes::from_static(text.as_bytes()), &codec())
    }

    #[test]
    fn an_image_is_the_very_bytes_of_its_line() {
        let image = r#"{"n":{"N":"1.50"}, "pk":{"S":"a"},"s":{"SS":["\u0041"]}}"#;
        let text: &'static str = format!("{{\"Item\": {image} }}").leak();
        let item = line(text).unwrap();
        assert_eq!(item.image.json(), image.as_bytes());
        assert_eq!(item.key.json, r#"{"pk":{"S":"a"}}"#.as_bytes());
    }

    #[test]
    fn marks_of_legacy_global_tables_are_taken_out() {
        let item = line(r#"{"Item":{"pk":{"S":"a"},"aws:rep:updatetime":{"N":"1"}}}"#).unwrap();
        assert_eq!(item.image.json(), r#"{"pk":{"S":"a"}}"#.as_bytes());
    }

    #[test]
    fn nothing_else_is_a_line() {
        for odd in [
            "",
            "{}",
            "[]",
            r#"{"pk":{"S":"a"}}"#,
            r#"{"Item":{"pk":{"S":"a"}}"#,
            r#"{"Item":{"pk":{"S":"a"}}} {"Item":{"pk":{"S":"b"}}}"#,
            r#"{"Item":{"pk":{"S":"a"}},"Item":{"pk":{"S":"b"}}}"#,
            r#"{"Item":{"pk":{"N":"1"}}}"#,
            r#"{"Item":{}}"#,
            r#"{"Item":null}"#,
            r#"{"Metadata":{"WriteTimestampMicros":"1700000000000000"},"Keys":{"pk":{"S":"a"}},"NewImage":{"pk":{"S":"a"}}}"#,
            "$ion_1_0 {Item:{pk:\"a\"}}",
        ] {
            assert!(line(odd).is_err(), "{odd}");
        }
    }
}
