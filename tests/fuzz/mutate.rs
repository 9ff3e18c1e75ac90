//! Spoils texts: a few bytes, a piece twice, a piece elsewhere, a word of the format where none belongs.

/// Words that mean something to one of the readers.
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    " ",
    "\n",
    "\t",
    "\0",
    "\u{1f}",
    "null",
    "true",
    "0",
    "-",
    "1e400",
    "1E5",
    "-0.0",
    "9223372036854775807",
    "99999999999999999999",
    "1e-400",
    ".",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "\\u0053",
    "\\u003a",
    "{}",
    "[]",
    "\"\"",
    "\"S\"",
    "\"N\"",
    "\"B\"",
    "{\"S\":\"x\"}",
    "{\"N\":\"1\"}",
    "\"Records\"",
    "\"Items\"",
    "\"Item\"",
    "\"Keys\"",
    "\"NewImage\"",
    "\"dynamodb\"",
    "\"eventName\"",
    "\"REMOVE\"",
    "\"INSERT\"",
    "\"pk\"",
    "\"aws:rep:x\":{\"S\":\"\"},",
    "\"UnprocessedItems\":",
    "\"CapacityUnits\":",
    "\"SequenceNumber\":",
    "é",
    "\u{feff}",
    "=",
    "'",
    "\"\"\"",
    "#",
    ".",
    "5s",
    "25%",
    "1d",
    "table",
    "external_id",
    "[link.x]",
    "{table}",
    "inf",
    "0x",
    "1979-05-27",
    "*",
];
/// Bytes that no valid text has.
const BYTES: &[u8] = &[0xff, 0x80, 0xc3, 0xed, 0xf4, 0x00, 0x7f];
/// How deep it may get all at once.
const DEEP: usize = 140;

/// Changes a text in so many places.
pub(crate) fn spoil(text: &mut Vec<u8>, times: usize, random: &mut fastrand::Rng) {
    (0..times).for_each(|_| once(text, random));
}

fn once(text: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let at = random.usize(0..=text.len());
    let end = (at + random.usize(0..20)).min(text.len());
    match random.u32(0..100) {
        0..15 => drop(text.drain(at..end.min(at + 1))),
        15..25 => drop(text.drain(at..end)),
        25..35 => {
            let byte = random.u8(32..127);
            text.insert(at, byte);
        }
        35..42 => {
            let byte = if random.bool() { random.u8(..) } else { random.choice(BYTES).copied().unwrap_or(0) };
            text.splice(at..end.min(at + 1), [byte]);
        }
        42..62 => {
            let word = random.choice(WORDS).copied().unwrap_or("");
            text.splice(at..at, word.bytes());
        }
        62..75 => {
            let word = random.choice(WORDS).copied().unwrap_or("");
            text.splice(at..end, word.bytes());
        }
        75..85 => {
            let piece: Vec<u8> = text.drain(at..end).collect();
            let to = random.usize(0..=text.len());
            text.splice(to..to, piece);
        }
        85..93 => {
            let piece: Vec<u8> = text.get(at..end).unwrap_or_default().to_vec();
            text.splice(at..at, piece);
        }
        93..97 => text.truncate(at),
        97..99 => spoil_bit(text, at, random),
        _ => {
            let depth = random.usize(DEEP - 30..DEEP);
            let (open, close) = if random.bool() { ("[", "]") } else { ("{\"M\":", "}") };
            let nest = format!("{}0{}", open.repeat(depth), close.repeat(depth));
            text.splice(at..end.min(at + 1), nest.into_bytes());
        }
    }
}

fn spoil_bit(text: &mut [u8], at: usize, random: &mut fastrand::Rng) {
    if let Some(byte) = text.get_mut(at) {
        *byte ^= 1 << random.u32(0..8);
    }
}
