//! What legacy global tables (version 2017) write into items, and no copy carries over: attributes named `aws:rep:*`.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::DecodeError;
use super::scanner::{RawStr, Scanner};
use crate::model::RawItem;

/// How their names begin.
const MARK: &str = "aws:rep:";

/// Made once: it is asked for each image.
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(MARK));

/// The image without attributes named `aws:rep:*`; the same bytes where there are none.
///
/// # Errors
/// When the image is no JSON object.
pub(super) fn without_replica_marks(image: Bytes) -> Result<RawItem, DecodeError> {
    // A name may be spelt with escapes, and then it is not found as it stands.
    let may_have_marks = FINDER.find(&image).is_some() || memchr::memchr(b'\\', &image).is_some();
    if may_have_marks && has_marks(&image)? { take_marks(&image) } else { Ok(RawItem::new(image)) }
}

/// The image without the attributes that [`is_mark`] names.
pub(super) fn take_marks(image: &[u8]) -> Result<RawItem, DecodeError> {
    let mut kept = Vec::with_capacity(image.len());
    kept.push(b'{');
    Scanner::over(image).object(|scanner, name| {
        let value = scanner.value()?;
        if is_mark(name) {
            return Ok(());
        }
        if kept.len() > 1 {
            kept.push(b',');
        }
        kept.push(b'"');
        kept.extend_from_slice(name.as_written());
        kept.extend_from_slice(b"\":");
        kept.extend_from_slice(image.get(value).unwrap_or_default());
        Ok(())
    })?;
    kept.push(b'}');
    Ok(RawItem::new(kept.into()))
}

fn has_marks(image: &[u8]) -> Result<bool, DecodeError> {
    let mut found = false;
    Scanner::over(image).object(|scanner, name| {
        found |= is_mark(name);
        scanner.value().map(drop)
    })?;
    Ok(found)
}

/// Whether an attribute of this name is one. A name without a UTF-8 form is none.
#[inline]
pub(super) fn is_mark(name: RawStr<'_>) -> bool {
    name.starts_with(MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(image: &'static str) -> Bytes {
        without_replica_marks(Bytes::from_static(image.as_bytes())).unwrap().json().clone()
    }

    #[test]
    fn a_mark_is_one_in_every_spelling() {
        assert_eq!(kept(r#"{"\u0061ws:r\u0065p:x":{"S":""},"a":{"S":"b"}}"#), r#"{"a":{"S":"b"}}"#);
        assert_eq!(kept(r#"{"aws:rep:x":{"S":""}, "\u0061" : {"S":"b"}}"#), r#"{"\u0061":{"S":"b"}}"#);
    }

    #[test]
    fn what_is_no_mark_stays_as_it_is() {
        for image in [
            r#"{ "a" : {"S":"aws:rep:"} }"#,
            r#"{"\ud800":{"S":""},"m":{"M":{"aws:rep:x":{"S":"\n"}}}}"#,
            r#"{"aws:re\u0070":{"S":""}}"#,
        ] {
            assert_eq!(kept(image), image);
        }
    }
}
