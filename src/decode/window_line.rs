//! A line of a data file of an incremental export: what a window left of one item.

use bytes::Bytes;

use super::replica_marks::without_replica_marks;
use super::scanner::Scanner;
use super::{DecodeError, KeyCodec};
use crate::model::{Key, RawItem};

/// An item as an export tells of it.
#[derive(Debug, Clone)]
pub struct ExportedItem {
    /// Its key.
    pub key: Key,
    /// The item; `None`: it is gone.
    pub image: Option<RawItem>,
}

/// Reads one line, `{"Metadata":{…},"Keys":{…},"NewImage":{…},"OldImage":{…}}`, without its line end. Key and image are slices
/// of it. Without a new image the item was deleted; the old one and the time of the last write, which has several shapes, are
/// not looked into.
///
/// # Errors
/// [`DecodeError`] on anything that is not as documented (Developer Guide, DynamoDB table export output format): a member
/// that nobody knows is one, too, for an image under another name would be taken for a deletion.
pub fn window_line(line: &Bytes, keys: &KeyCodec) -> Result<ExportedItem, DecodeError> {
    let mut found: [Option<Bytes>; 4] = [const { None }; 4];
    let mut scanner = Scanner::new(line)?;
    scanner.object(|scanner, name| {
        let slot = MEMBERS.iter().zip(&mut found).find(|(member, _)| name.is(member)).map(|(_, slot)| slot);
        let Some(slot) = slot.filter(|slot| slot.is_none()) else {
            return Err(DecodeError::new("find Metadata, Keys, NewImage and OldImage, each once", scanner.position()));
        };
        *slot = Some(line.slice(scanner.whole_object()?));
        Ok(())
    })?;
    scanner.end()?;
    let [metadata, key, new, old] = found;
    let (Some(_), Some(key)) = (&metadata, key) else {
        return Err(DecodeError::new("find Metadata and Keys in a line", 0));
    };
    let key = keys.key(key)?;
    for image in new.iter().chain(&old) {
        if keys.key_of_item(image)?.canonical != key.canonical {
            return Err(DecodeError::new("find images of the item that Keys names", 0));
        }
    }
    Ok(ExportedItem { key, image: new.map(without_replica_marks).transpose()? })
}

const MEMBERS: [&str; 4] = ["Metadata", "Keys", "NewImage", "OldImage"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyAttribute, KeyKind, KeySchema};
    use proptest::prelude::*;

    fn codec() -> KeyCodec {
        KeyCodec::new(&KeySchema { hash: KeyAttribute { name: "pk".to_owned(), kind: KeyKind::S }, range: None })
    }

    fn line(text: &str) -> Result<ExportedItem, DecodeError> {
        window_line(&Bytes::copy_from_slice(text.as_bytes()), &codec())
    }

    const AT: &str = r#""Metadata":{"WriteTimestampMicros":"1700000000000000"}"#;
    const KEYS: &str = r#""Keys":{"pk":{"S":"a"}}"#;

    #[test]
    fn every_documented_shape_is_a_put_or_a_delete() {
        let image = r#"{"n":{"N":"1.50"}, "pk":{"S":"a"}}"#;
        let old = r#""OldImage":{"pk":{"S":"a"},"n":{"N":"1"}}"#;
        for at in [r#""1700000000000000""#, "1700000000000000", r#"{"N":"1700000000000000"}"#] {
            let at = format!(r#""Metadata":{{"WriteTimestampMicros":{at}}}"#);
            for put in [
                format!(r#"{{{at},{KEYS},"NewImage":{image}}}"#),
                format!(r#"{{{at}, {KEYS} ,"NewImage": {image},{old}}}"#),
                format!(r#"{{"NewImage":{image},{KEYS},{at}}}"#),
            ] {
                let item = line(&put).unwrap();
                assert_eq!(item.image.unwrap().json(), image.as_bytes(), "{put}");
                assert_eq!(item.key.json, r#"{"pk":{"S":"a"}}"#.as_bytes());
            }
            for delete in [format!("{{{at},{KEYS}}}"), format!("{{{at},{KEYS},{old}}}")] {
                let item = line(&delete).unwrap();
                assert!(item.image.is_none() && item.key.json == r#"{"pk":{"S":"a"}}"#.as_bytes(), "{delete}");
            }
        }
    }

    #[test]
    fn marks_of_legacy_global_tables_are_taken_out() {
        let item =
            line(&format!(r#"{{{AT},{KEYS},"NewImage":{{"pk":{{"S":"a"}},"aws:rep:x":{{"N":"1"}}}}}}"#)).unwrap();
        assert_eq!(item.image.unwrap().json(), r#"{"pk":{"S":"a"}}"#.as_bytes());
    }

    #[test]
    fn nothing_else_is_a_line() {
        for odd in [
            String::new(),
            "{}".to_owned(),
            r#"{"Item":{"pk":{"S":"a"}}}"#.to_owned(),
            format!("{{{KEYS}}}"),
            format!("{{{AT}}}"),
            format!(r#"{{{AT},"Keys":{{"pk":{{"N":"1"}}}}}}"#),
            format!(r#"{{{AT},"Keys":{{"pk":{{"S":"a"}},"n":{{"N":"1"}}}}}}"#),
            format!(r#"{{{AT},{KEYS},{KEYS}}}"#),
            // Each of these would be a deletion to who looks for a new image only.
            format!(r#"{{{AT},{KEYS},"NewItem":{{"pk":{{"S":"a"}}}}}}"#),
            format!(r#"{{{AT},{KEYS},"newImage":{{"pk":{{"S":"a"}}}}}}"#),
            format!(r#"{{{AT},{KEYS},"NewImage":null}}"#),
            format!(r#"{{{AT},{KEYS},"NewImage":{{"pk":{{"S":"b"}}}}}}"#),
            format!(r#"{{{AT},{KEYS},"OldImage":{{"pk":{{"S":"b"}}}}}}"#),
            format!(r#"{{{AT},{KEYS},"NewImage":{{"n":{{"N":"1"}}}}}}"#),
            format!("{{{AT},{KEYS}}} {{{AT},{KEYS}}}"),
            format!("{{{AT},{KEYS}"),
            "$ion_1_0 {Record:{Keys:{pk:\"a\"}}}".to_owned(),
        ] {
            assert!(line(&odd).is_err(), "{odd}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_what_is_read(
            name in "[a-zé\"\\\\]{1,8}", value in "[a-z\u{0}é\"\\\\]{0,8}", has_new in any::<bool>(), has_old in any::<bool>(),
        ) {
            let image = serde_json::json!({"pk": {"S": name}, "v": {"S": value}});
            let mut whole = serde_json::json!({"Metadata": {"WriteTimestampMicros": {"N": "1"}}, "Keys": {"pk": {"S": name}}});
            let mut put = |member: &str, has: bool| if has { whole[member] = image.clone(); };
            put("NewImage", has_new);
            put("OldImage", has_old);
            let item = line(&whole.to_string()).unwrap();
            prop_assert_eq!(&item.key.canonical, &codec().key_of_item(image.to_string().as_bytes()).unwrap().canonical);
            prop_assert_eq!(item.image.map(|image| image.json().clone()), has_new.then(|| image.to_string().into()));
        }

        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _read = window_line(&Bytes::from(text), &codec()).is_ok();
        }

        #[test]
        fn a_line_that_is_damaged_is_no_other_items_line(at in 0usize..140, byte in any::<u8>()) {
            let whole = format!(r#"{{{AT},{KEYS},"NewImage":{{"pk":{{"S":"a"}},"v":{{"S":"w"}}}}}}"#);
            let mut text = whole.into_bytes();
            let at = at % text.len();
            text[at] = byte;
            if let Ok(item) = window_line(&Bytes::from(text), &codec()) {
                // A deletion takes more than one odd byte.
                prop_assert!(item.image.is_some());
            }
        }
    }
}
