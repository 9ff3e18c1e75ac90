//! One write to be sent.

use super::{Key, RawItem};

/// One write: a whole image, or the absence of the key.
#[derive(Debug, Clone)]
pub struct Write {
    /// The key.
    pub key: Key,
    /// The image; `None` deletes.
    pub image: Option<RawItem>,
}

impl Write {
    /// Bytes of JSON that it adds to a request; never less than the item's size by DynamoDB's rules.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.image.as_ref().map_or(self.key.json.len(), RawItem::len)
    }
}
