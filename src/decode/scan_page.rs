//! A page of Scan, and the answer of GetItem.

use bytes::Bytes;

use super::replica_marks::without_replica_marks;
use super::scanner::{RawStr, Scanner};
use super::{DecodeError, KeyCodec};
use crate::model::{Key, RawItem};

/// An item of the load.
#[derive(Debug, Clone)]
pub struct LoadedItem {
    /// Its key.
    pub key: Key,
    /// The item.
    pub image: RawItem,
}

/// One page of a segment.
#[derive(Debug)]
pub struct ScanPage {
    /// The items.
    pub items: Vec<LoadedItem>,
    /// `ExclusiveStartKey` of the next page as JSON; `None`: this was the last.
    pub last_key: Option<Bytes>,
    /// Read units that the page cost; `None` where the service did not say.
    pub consumed_units: Option<f64>,
}

impl ScanPage {
    /// Reads the body of a Scan answer. Images are slices of `body`.
    ///
    /// # Errors
    /// [`DecodeError`] on anything that is not as documented.
    pub fn decode(body: &Bytes, keys: &KeyCodec) -> Result<Self, DecodeError> {
        let mut page = Self { items: Vec::new(), last_key: None, consumed_units: None };
        let mut has_items = false;
        let mut scanner = Scanner::new(body)?;
        scanner.object(|scanner, name| {
            if scanner.null() {
                Ok(())
            } else if name.is("Items") {
                has_items = true;
                scanner.array(|scanner| {
                    page.items.push(keys.item(scanner, body)?);
                    Ok(())
                })
            } else if name.is("LastEvaluatedKey") {
                page.last_key = last_key(scanner, body)?;
                Ok(())
            } else if name.is("ConsumedCapacity") {
                page.consumed_units = capacity_units(scanner)?;
                Ok(())
            } else {
                scanner.value().map(drop)
            }
        })?;
        scanner.end()?;
        if has_items { Ok(page) } else { Err(DecodeError::new("find Items in a page", 0)) }
    }
}

/// Reads the body of a GetItem answer; `None`: there is no such item.
///
/// # Errors
/// [`DecodeError`] on anything that is not as documented.
pub fn one_item(body: &Bytes) -> Result<Option<RawItem>, DecodeError> {
    let mut item = None;
    let mut scanner = Scanner::new(body)?;
    scanner.object(|scanner, name| {
        if scanner.null() {
            return Ok(());
        }
        if name.is("Item") {
            item = Some(without_replica_marks(body.slice(scanner.whole_object()?))?);
            Ok(())
        } else {
            scanner.value().map(drop)
        }
    })?;
    scanner.end()?;
    Ok(item)
}

/// A key from which to go on; an empty one is none, or the scan would begin anew.
fn last_key(scanner: &mut Scanner<'_>, body: &Bytes) -> Result<Option<Bytes>, DecodeError> {
    let key = body.slice(scanner.whole_object()?);
    let mut is_empty = true;
    Scanner::over(&key).object(|scanner, _| {
        is_empty = false;
        scanner.value().map(drop)
    })?;
    Ok(if is_empty { None } else { Some(key) })
}

/// `CapacityUnits` of a ConsumedCapacity object; an amount beyond all numbers is not said.
pub(super) fn capacity_units(scanner: &mut Scanner<'_>) -> Result<Option<f64>, DecodeError> {
    Ok(capacity_of(scanner, |_| true)?.0)
}

/// The same, and whether it is of such a table.
pub(super) fn capacity_of(
    scanner: &mut Scanner<'_>,
    is_such: impl Fn(&RawStr<'_>) -> bool,
) -> Result<(Option<f64>, bool), DecodeError> {
    let (mut units, mut is_of_such) = (None, false);
    scanner.object(|scanner, name| {
        if name.is("CapacityUnits") {
            units = scanner.number()?.parse().ok().filter(|units: &f64| units.is_finite());
            Ok(())
        } else if name.is("TableName") {
            is_of_such = is_such(&scanner.string()?);
            Ok(())
        } else {
            scanner.value().map(drop)
        }
    })?;
    Ok((units, is_of_such))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyAttribute, KeyKind, KeySchema};

    fn codec() -> KeyCodec {
        let attribute = |name: &str, kind| KeyAttribute { name: name.to_owned(), kind };
        KeyCodec::new(&KeySchema { hash: attribute("pk", KeyKind::S), range: Some(attribute("sk", KeyKind::N)) })
    }

    #[test]
    fn reads_items_cursor_and_cost() {
        let body = br#"{"Count":1,"Items":[{"v":{"L":[]},"sk":{"N":"2"},"pk":{"S":"a"}}],"LastEvaluatedKey":{"pk":{"S":"a"},"sk":{"N":"2"}},"ScannedCount":1,"ConsumedCapacity":{"CapacityUnits":128.5,"TableName":"t"}}"#;
        let page = ScanPage::decode(&Bytes::from_static(body), &codec()).unwrap();
        assert_eq!(page.items.len(), 1);
        assert_eq!(page.items.first().unwrap().key.json, r#"{"pk":{"S":"a"},"sk":{"N":"2"}}"#.as_bytes());
        assert_eq!(page.last_key.unwrap(), r#"{"pk":{"S":"a"},"sk":{"N":"2"}}"#.as_bytes());
        assert_eq!(page.consumed_units, Some(128.5));
    }

    #[test]
    fn an_empty_page_may_have_a_cursor_and_a_full_one_none() {
        let page =
            ScanPage::decode(&r#"{"Items":[],"LastEvaluatedKey":{"pk":{"S":"x"},"sk":{"N":"1"}}}"#.into(), &codec())
                .unwrap();
        assert!(page.items.is_empty() && page.last_key.is_some());
        let page = ScanPage::decode(&r#"{"Items":[{"pk":{"S":"a"},"sk":{"N":"1"}}]}"#.into(), &codec()).unwrap();
        assert!(page.items.len() == 1 && page.last_key.is_none());
    }

    #[test]
    fn an_empty_cursor_is_none_in_every_spelling() {
        for key in ["{}", "{ }", "null"] {
            let body = format!(r#"{{"Items":[],"LastEvaluatedKey":{key}}}"#);
            assert_eq!(ScanPage::decode(&body.into(), &codec()).unwrap().last_key, None, "{key}");
        }
        assert!(ScanPage::decode(&r#"{"Items":[],"LastEvaluatedKey":[]}"#.into(), &codec()).is_err());
    }

    #[test]
    fn a_cost_that_is_no_amount_is_none() {
        let body = r#"{"Items":[],"ConsumedCapacity":{"CapacityUnits":1e400}}"#;
        assert_eq!(ScanPage::decode(&body.into(), &codec()).unwrap().consumed_units, None);
    }

    #[test]
    fn an_item_without_its_key_is_an_error() {
        assert!(ScanPage::decode(&r#"{"Items":[{"pk":{"S":"a"}}]}"#.into(), &codec()).is_err());
    }

    #[test]
    fn tells_a_missing_item_from_an_empty_answer() {
        assert_eq!(one_item(&"{}".into()), Ok(None));
        assert_eq!(one_item(&r#"{"ConsumedCapacity":{"CapacityUnits":1}}"#.into()), Ok(None));
        assert_eq!(
            one_item(&r#"{"Item":{"pk":{"S":"a"}}}"#.into()),
            Ok(Some(RawItem::new(r#"{"pk":{"S":"a"}}"#.into())))
        );
        assert_eq!(one_item(&r#"{"Item":null}"#.into()), Ok(None));
        for odd in ["[]", r#"{"Item":5}"#] {
            assert!(one_item(&odd.into()).is_err(), "{odd}");
        }
    }
}
