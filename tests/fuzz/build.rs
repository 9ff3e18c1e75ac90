//! Writes texts that the service could have sent: pages and items of every type, in every spelling that JSON allows.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dynaferry::model::{KeyAttribute, KeyKind, KeySchema, ViewType};

/// Names of key attributes.
const KEY_NAMES: &[&str] = &["pk", "sk", "s\"k", "ключ", "a", "Records", "S"];
/// Names of other attributes.
const NAMES: &[&str] = &[
    "v",
    "t",
    "",
    "NewImage",
    "Item",
    "a.b [0] #:",
    "aws:rep:deleting",
    "aws:rep:",
    "aws:re",
    "long-name-of-an-attribute",
];

/// A schema that a table could have.
pub(crate) fn schema(random: &mut fastrand::Rng) -> KeySchema {
    let names = random.choose_multiple(KEY_NAMES.iter().copied(), 2);
    let mut attributes = names.into_iter().map(|name| KeyAttribute {
        name: name.to_owned(),
        kind: random.choice([KeyKind::S, KeyKind::N, KeyKind::B]).unwrap_or(KeyKind::S),
    });
    let hash = attributes.next().unwrap_or(KeyAttribute { name: "pk".to_owned(), kind: KeyKind::S });
    let range = attributes.next();
    KeySchema { hash, range: range.filter(|_| random.bool()) }
}

pub(crate) fn view(random: &mut fastrand::Rng) -> ViewType {
    random
        .choice([ViewType::NewAndOldImages, ViewType::NewImage, ViewType::KeysOnly, ViewType::OldImage])
        .unwrap_or(ViewType::NewImage)
}

/// A text that grows.
pub(crate) struct Writer<'a> {
    pub(crate) text: Vec<u8>,
    random: &'a mut fastrand::Rng,
    schema: &'a KeySchema,
    /// Whether there is white space between tokens, and characters are escaped that need not be.
    is_odd: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(schema: &'a KeySchema, random: &'a mut fastrand::Rng) -> Self {
        let is_odd = random.f64() < 0.3;
        Self { text: Vec::new(), random, schema, is_odd }
    }

    fn chance(&mut self, chance: f64) -> bool {
        self.random.f64() < chance
    }

    fn raw(&mut self, token: &str) {
        if self.is_odd && self.chance(0.05) {
            let space = self.random.choice([" ", "\n", "\t", "\r\n  "]).unwrap_or(" ");
            self.text.extend_from_slice(space.as_bytes());
        }
        self.text.extend_from_slice(token.as_bytes());
    }

    /// A string, escaped where it must be, and sometimes where it need not be.
    fn string(&mut self, text: &str) {
        self.raw("\"");
        for c in text.chars() {
            let escape = match c {
                '"' | '\\' => format!("\\{c}"),
                '\n' => "\\n".to_owned(),
                c if c < ' ' || (self.is_odd && self.chance(0.1)) => {
                    c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                }
                c => c.to_string(),
            };
            self.text.extend_from_slice(escape.as_bytes());
        }
        self.text.push(b'"');
    }

    /// Parts between two brackets.
    fn list(&mut self, brackets: (&str, &str), count: usize, mut part: impl FnMut(&mut Self, usize)) {
        self.raw(brackets.0);
        for n in 0..count {
            if n > 0 {
                self.raw(",");
            }
            part(self, n);
        }
        self.raw(brackets.1);
    }

    fn name(&mut self, name: &str) {
        self.string(name);
        self.raw(":");
    }

    fn words(&mut self) -> String {
        let length = if self.chance(0.1) { self.random.usize(0..60) } else { self.random.usize(0..8) };
        let letter = |random: &mut fastrand::Rng| match random.u32(0..20) {
            0 => random.choice(['"', '\\', '\n', '\0', '/', '\u{7f}']).unwrap_or('"'),
            1 => random.char(..),
            2 => random.choice(['é', 'ä', '\u{1f600}', '\u{10ffff}']).unwrap_or('é'),
            _ => random.alphanumeric(),
        };
        (0..length).map(|_| letter(self.random)).collect()
    }

    /// A number as a table may hold it, in any spelling.
    fn digits(&mut self) -> String {
        let n = self.random.i64(-2000..2000);
        match self.random.u32(0..6) {
            0 => format!("{n}.0"),
            1 => format!("{n}e{}", self.random.i32(-130..126)),
            2 => format!("{n}.{:03}E+{}", self.random.u32(0..1000), self.random.u32(0..9)),
            3 => format!("1234567890123456789012345678{:010}", n.unsigned_abs()),
            _ => n.to_string(),
        }
    }

    fn blob(&mut self) -> String {
        let bytes: Vec<u8> = (0..self.random.usize(0..9)).map(|_| self.random.u8(..)).collect();
        STANDARD.encode(bytes)
    }

    fn typed(&mut self, tag: &str, text: &str) {
        self.list(("{", "}"), 1, |w, _| {
            w.name(tag);
            w.string(text);
        });
    }

    /// A value of any type.
    fn value(&mut self, depth: usize) {
        match self.random.u32(0..if depth < 4 { 12 } else { 9 }) {
            0..3 => {
                let text = self.words();
                self.typed("S", &text);
            }
            3..5 => {
                let digits = self.digits();
                self.typed("N", &digits);
            }
            5 => {
                let blob = self.blob();
                self.typed("B", &blob);
            }
            6 => {
                let word = self.random.choice(["\"BOOL\":true", "\"BOOL\":false", "\"NULL\":true"]).unwrap_or("");
                self.list(("{", "}"), 1, |w, _| w.raw(word));
            }
            7..9 => self.set(),
            9 | 10 => self.list(("{", "}"), 1, |w, _| {
                w.name("L");
                let count = w.random.usize(0..4);
                w.list(("[", "]"), count, |w, _| w.value(depth + 1));
            }),
            _ => self.list(("{", "}"), 1, |w, _| {
                w.name("M");
                let count = w.random.usize(0..4);
                w.list(("{", "}"), count, |w, n| {
                    let name = format!("{n}{}", w.words());
                    w.name(&name);
                    w.value(depth + 1);
                });
            }),
        }
    }

    fn set(&mut self) {
        let tag = self.random.choice(["SS", "NS", "BS"]).unwrap_or("SS");
        self.list(("{", "}"), 1, |w, _| {
            w.name(tag);
            let count = w.random.usize(1..4);
            w.list(("[", "]"), count, |w, n| {
                let element = match tag {
                    "SS" => format!("{n}{}", w.words()),
                    "NS" => format!("{n}.5"),
                    _ => STANDARD.encode([u8::try_from(n).unwrap_or(0)]),
                };
                w.string(&element);
            });
        });
    }

    fn key_value(&mut self, kind: KeyKind) {
        let text = match kind {
            KeyKind::S => self.words(),
            KeyKind::N => self.digits(),
            KeyKind::B => self.blob(),
        };
        self.typed(kind.as_str(), &text);
    }

    /// The key attributes alone.
    fn keys(&mut self) {
        let attributes: Vec<_> = self.schema.attributes().cloned().collect();
        self.list(("{", "}"), attributes.len(), |w, n| {
            if let Some(attribute) = attributes.get(n) {
                w.name(&attribute.name);
                w.key_value(attribute.kind);
            }
        });
    }

    /// A whole item, its key somewhere in it.
    pub(crate) fn item(&mut self) {
        let attributes: Vec<_> = self.schema.attributes().cloned().collect();
        let mut names: Vec<(String, Option<KeyKind>)> =
            attributes.into_iter().map(|attribute| (attribute.name, Some(attribute.kind))).collect();
        let count = self.random.usize(0..5);
        let others = self.random.choose_multiple(NAMES.iter().copied(), count);
        names.extend(others.into_iter().map(|name| (name.to_owned(), None)));
        self.random.shuffle(&mut names);
        self.list(("{", "}"), names.len(), |w, n| {
            let Some((name, kind)) = names.get(n) else { return };
            w.name(name);
            match kind {
                Some(kind) => w.key_value(*kind),
                None => w.value(0),
            }
        });
    }

    /// Fields in any order.
    fn fields(&mut self, mut names: Vec<&'static str>, mut value: impl FnMut(&mut Self, &str)) {
        self.random.shuffle(&mut names);
        self.list(("{", "}"), names.len(), |w, n| {
            let name = names.get(n).copied().unwrap_or_default();
            w.name(name);
            value(w, name);
        });
    }

    fn number(&mut self) {
        let secs = self.random.u64(1_600_000_000..1_900_000_000);
        let text = match self.random.u32(0..5) {
            0 => format!("{secs}.{}", self.random.u32(0..1000)),
            1 => format!("{}e9", f64::from(self.random.u32(0..3000)) / 1000.0),
            _ => secs.to_string(),
        };
        self.raw(&text);
    }

    fn record(&mut self, view: ViewType) {
        let event = self.random.choice(["INSERT", "MODIFY", "REMOVE"]).unwrap_or("INSERT");
        let mut names = vec!["eventID", "eventName", "eventVersion", "dynamodb"];
        if self.chance(0.3) {
            names.push("userIdentity");
        }
        self.fields(names, |w, name| match name {
            "eventName" => w.string(event),
            "dynamodb" => w.data(event, view),
            "userIdentity" => w.identity(),
            _ => w.string("1.1"),
        });
    }

    fn data(&mut self, event: &str, view: ViewType) {
        let mut names = vec!["ApproximateCreationDateTime", "Keys", "SequenceNumber", "SizeBytes", "StreamViewType"];
        if view.has_new_image() && event != "REMOVE" {
            names.push("NewImage");
        }
        if self.chance(0.2) {
            names.push("OldImage");
        }
        self.fields(names, |w, name| match name {
            "ApproximateCreationDateTime" => w.number(),
            "Keys" => w.keys(),
            "NewImage" | "OldImage" => w.item(),
            "SequenceNumber" => {
                let digits = w.random.usize(1..=40);
                let number: String = (0..digits).map(|_| w.random.digit(10)).collect();
                w.string(&number);
            }
            "SizeBytes" => w.raw("26"),
            _ => w.string("NEW_AND_OLD_IMAGES"),
        });
    }

    fn identity(&mut self) {
        if self.chance(0.2) {
            return self.raw("null");
        }
        let names = if self.random.bool() { ["type", "principalId"] } else { ["Type", "PrincipalId"] };
        self.fields(names.to_vec(), |w, name| {
            let usual = if name.ends_with("ype") { "Service" } else { "dynamodb.amazonaws.com" };
            let is_usual = w.chance(0.8);
            w.string(if is_usual { usual } else { "AssumedRole" });
        });
    }

    /// A page of GetRecords.
    pub(crate) fn stream_page(&mut self, view: ViewType) {
        let mut names = vec!["Records"];
        if self.chance(0.8) {
            names.push("NextShardIterator");
        }
        self.fields(names, |w, name| match name {
            "Records" => {
                let count = w.random.usize(0..4);
                w.list(("[", "]"), count, |w, _| w.record(view));
            }
            _ => match w.random.u32(0..8) {
                0 => w.raw("null"),
                1 => w.string(""),
                _ => {
                    let token = w.words();
                    w.string(&token);
                }
            },
        });
    }

    fn capacity(&mut self) {
        self.fields(vec!["CapacityUnits", "TableName"], |w, name| match name {
            "CapacityUnits" => {
                let units = format!("{}.5", w.random.u32(0..1000));
                w.raw(&units);
            }
            _ => w.string("t"),
        });
    }

    /// A page of Scan.
    pub(crate) fn scan_page(&mut self) {
        let mut names = vec!["Items", "Count", "ScannedCount"];
        if self.chance(0.6) {
            names.push("LastEvaluatedKey");
        }
        if self.chance(0.6) {
            names.push("ConsumedCapacity");
        }
        self.fields(names, |w, name| match name {
            "Items" => {
                let count = w.random.usize(0..4);
                w.list(("[", "]"), count, |w, _| w.item());
            }
            "LastEvaluatedKey" => match w.random.u32(0..8) {
                0 => w.raw("null"),
                1 => w.raw("{}"),
                _ => w.keys(),
            },
            "ConsumedCapacity" => w.capacity(),
            _ => w.raw("1"),
        });
    }

    /// The answer of GetItem.
    pub(crate) fn single_item(&mut self) {
        let mut names = vec!["ConsumedCapacity"];
        if self.chance(0.8) {
            names.push("Item");
        }
        self.fields(names, |w, name| match name {
            "Item" => w.item(),
            _ => w.capacity(),
        });
    }

    /// A line of a full export.
    pub(crate) fn export_line(&mut self) {
        self.list(("{", "}"), 1, |w, _| {
            w.name("Item");
            w.item();
        });
    }

    /// The answer of BatchWriteItem.
    pub(crate) fn write_reply(&mut self) {
        self.fields(vec!["UnprocessedItems", "ConsumedCapacity"], |w, name| match name {
            "UnprocessedItems" => {
                let tables = w.random.usize(0..2);
                w.list(("{", "}"), tables, |w, _| {
                    w.name("t");
                    let count = w.random.usize(1..4);
                    w.list(("[", "]"), count, |w, _| w.request());
                });
            }
            _ => {
                let count = w.random.usize(0..3);
                w.list(("[", "]"), count, |w, _| w.capacity());
            }
        });
    }

    fn request(&mut self) {
        if self.random.bool() {
            self.fields(vec!["PutRequest"], |w, _| w.fields(vec!["Item"], |w, _| w.item()));
        } else {
            self.fields(vec!["DeleteRequest"], |w, _| w.fields(vec!["Key"], |w, _| w.keys()));
        }
    }
}
