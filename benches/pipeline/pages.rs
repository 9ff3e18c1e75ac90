//! Stream pages made ahead, the same in every process.
//!
//! An item is 663 bytes of JSON with 11 attributes of mixed types; a page has 1,000 records, of which about one in ten
//! repeats a key of its page and one in fifty deletes. A stream is so many *cycles* over the same pages, told apart by
//! eight digits of each sequence number.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::str::FromStr;

use crate::Result;

pub(crate) const SHARDS: usize = 4;
/// Different pages of a shard.
pub(crate) const PAGES: usize = 4;
pub(crate) const RECORDS: usize = 1000;
pub(crate) const RECORDS_PER_CYCLE: usize = SHARDS * PAGES * RECORDS;
/// Bytes of an item's JSON.
const ITEM_BYTES: usize = 663;
/// Digits of a sequence number that tell the cycle.
pub(crate) const CYCLE_DIGITS: usize = 8;

/// What the stream's records carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// Both images.
    Both,
    /// The new image alone.
    New,
}

impl Variant {
    pub(crate) const ALL: [Self; 2] = [Self::Both, Self::New];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::New => "new",
        }
    }

    /// The stream's view type, as the service spells it.
    pub(crate) const fn view(self) -> &'static str {
        match self {
            Self::Both => "NEW_AND_OLD_IMAGES",
            Self::New => "NEW_IMAGE",
        }
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|variant| variant.as_str() == text).ok_or_else(|| format!("no variant {text}"))
    }
}

/// One change before it is spelled out.
pub(crate) struct Planned {
    pub(crate) key: String,
    /// `None`: a delete.
    pub(crate) image: Option<String>,
    old: Option<String>,
}

/// A page without its envelope's end, and where the cycle's digits go.
pub(crate) struct Page {
    pub(crate) body: Vec<u8>,
    pub(crate) cycles_at: Vec<usize>,
}

/// An item's JSON.
pub(crate) fn item(number: usize, version: usize) -> String {
    let mut text = String::with_capacity(ITEM_BYTES);
    let (key, amount, active) = (key_fields(number), number % 97_531, version.is_multiple_of(2));
    // Bytes that nobody compresses, as digests and what is compressed already are.
    let mut random = fastrand::Rng::with_seed((number * 31 + version) as u64);
    let payload: String = std::iter::repeat_with(|| random.alphanumeric()).take(64).collect();
    write!(
        text,
        r#"{{{key},"status":{{"S":"{status}"}},"amount":{{"N":"{amount}.{version}5"}},"created":{{"S":"2026-11-20T14:{minute:02}:10.123Z"}},"active":{{"BOOL":{active}}},"tags":{{"SS":["express","gift","tag-{tag}"]}},"payload":{{"B":"{payload}"}},"address":{{"M":{{"street":{{"S":"Example street {amount}"}},"city":{{"S":"Dublin"}},"zip":{{"S":"D0{tag}"}},"floor":{{"NULL":true}}}}}},"history":{{"L":[{{"N":"{version}"}},{{"S":"placed"}},{{"M":{{"by":{{"S":"web"}}}}}}]}},"note":{{"S":""#,
        status = if active { "SHIPPED" } else { "PLACED" },
        minute = number % 60,
        tag = number % 10,
    )
    .expect("a string takes all");
    text.push_str(r#"leave it \"at the door\" — été "#);
    while text.len() < ITEM_BYTES - 3 {
        text.push(char::from(b'a' + u8::try_from(text.len() % 26).unwrap_or(0)));
    }
    text.push_str("\"}}");
    text
}

fn key_fields(number: usize) -> String {
    format!(r#""pk":{{"S":"customer#{:08}"}},"sk":{{"N":"{}"}}"#, number / 10, number % 10)
}

/// The changes of a page: the same at each call.
pub(crate) fn plan(shard: usize, page: usize) -> Vec<Planned> {
    let mut random = fastrand::Rng::with_seed((shard * PAGES + page + 1) as u64);
    let first = (shard * PAGES + page) * RECORDS;
    let planned = (0..RECORDS).map(|record| {
        let repeats = record > 0 && random.usize(..10) == 0;
        let number = first + if repeats { random.usize(..record) } else { record };
        let (version, deletes) = (random.usize(1..9), random.usize(..50) == 0);
        Planned {
            key: format!("{{{}}}", key_fields(number)),
            image: (!deletes).then(|| item(number, version)),
            old: Some(item(number, version - 1)),
        }
    });
    planned.collect()
}

/// The page as the service would send it, but for what depends on the cycle.
pub(crate) fn page(variant: Variant, shard: usize, page: usize) -> Page {
    let (mut body, mut cycles_at) = (String::from(r#"{"Records":["#), Vec::new());
    for (record, change) in plan(shard, page).into_iter().enumerate() {
        let separator = if record == 0 { "" } else { "," };
        let event = if change.image.is_some() { "MODIFY" } else { "REMOVE" };
        let view = variant.view();
        let id = (page * RECORDS + record) as u64 ^ ((shard as u64) << 32);
        write!(
            body,
            r#"{separator}{{"eventID":"{id:032x}","eventName":"{event}","eventVersion":"1.1","eventSource":"aws:dynamodb","awsRegion":"eu-west-1","dynamodb":{{"ApproximateCreationDateTime":1.763647200E9,"Keys":{},"#,
            change.key
        )
        .expect("a string takes all");
        if let Some(image) = &change.image {
            write!(body, r#""NewImage":{image},"#).expect("a string takes all");
        }
        if let (Variant::Both, Some(old)) = (variant, &change.old) {
            write!(body, r#""OldImage":{old},"#).expect("a string takes all");
        }
        body.push_str(r#""SequenceNumber":"1"#);
        cycles_at.push(body.len());
        let number = page * RECORDS + record;
        write!(body, r#"{:08}{number:015}","SizeBytes":1207,"StreamViewType":"{view}"}}}}"#, 0).expect("as above");
    }
    Page { body: body.into_bytes(), cycles_at }
}

/// What every arm must have delivered in the end: the last image of each key, by key; keys that were deleted are not in it.
pub(crate) fn final_items() -> HashMap<String, String> {
    let mut items = HashMap::new();
    for (shard, page) in all_pages() {
        for Planned { key, image, .. } in plan(shard, page) {
            match image {
                Some(image) => items.insert(key, image),
                None => items.remove(&key),
            };
        }
    }
    items
}

pub(crate) fn all_pages() -> impl Iterator<Item = (usize, usize)> {
    (0..SHARDS).flat_map(|shard| (0..PAGES).map(move |page| (shard, page)))
}

/// The same number for the same items, in whatever order they come and however their JSON is written.
pub(crate) fn digest<'a>(items: impl Iterator<Item = &'a serde_json::Value>) -> (u64, u64) {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    items.fold((0, 0), |(count, sum), item| {
        let mut hasher = DefaultHasher::new();
        item.to_string().hash(&mut hasher);
        (count + 1, sum ^ hasher.finish())
    })
}

pub(crate) fn expected_digest() -> Result<(u64, u64)> {
    let items: Vec<serde_json::Value> =
        final_items().values().map(|json| serde_json::from_str(json)).collect::<std::result::Result<_, _>>()?;
    Ok(digest(items.iter()))
}
