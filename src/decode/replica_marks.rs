//! What legacy global tables (version 2017) write into items, and no copy carries over: attributes named `aws:rep:*`.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::DecodeError;
use super::scanner::Scanner;
use crate::model::RawItem;

/// Made once: it is asked for each image.
static MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"aws:rep:"));

/// The image without attributes named `aws:rep:*`; the same bytes where there are none.
pub(super) fn without_replica_marks(image: Bytes) -> Result<RawItem, DecodeError> {
    if MARK.find(&image).is_none() {
        return Ok(RawItem::new(image));
    }
    let mut kept = Vec::with_capacity(image.len());
    kept.push(b'{');
    Scanner::over(&image).object(|scanner, name| {
        let value = scanner.value()?;
        let name = name.decode()?;
        if name.starts_with("aws:rep:") {
            return Ok(());
        }
        if kept.len() > 1 {
            kept.push(b',');
        }
        kept.extend_from_slice(serde_json::Value::from(name.as_ref()).to_string().as_bytes());
        kept.push(b':');
        kept.extend_from_slice(image.get(value).unwrap_or_default());
        Ok(())
    })?;
    kept.push(b'}');
    Ok(RawItem::new(kept.into()))
}
