//! Finds where JSON values end, and nothing more.
//!
//! A page of a megabyte holds thousands of values of which a copy needs a handful; the rest is forwarded as it came. The
//! scanner walks the text once, checks all of JSON's grammar on the way (what it accepts, `serde_json` accepts too) and
//! decodes only what it is asked for. It knows nothing of DynamoDB, allocates nothing and never panics.

use std::borrow::Cow;
use std::ops::Range;

use super::DecodeError;

/// Deepest nesting accepted, as in `serde_json`. DynamoDB's 32 levels of values take 64, the envelope a few more.
const MAX_DEPTH: u32 = 127;

/// A cursor over one JSON text.
#[derive(Debug, Clone)]
pub(crate) struct Scanner<'a> {
    text: &'a [u8],
    /// What is not consumed yet: the end of `text`.
    rest: &'a [u8],
    depth: u32,
    /// Whether there is a byte below the space anywhere. The service sends none, and then no string needs a look for one.
    has_controls: bool,
}

/// A string as it stands in the text, without its quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawStr<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl<'a> RawStr<'a> {
    /// Whether it is this text, decoded.
    #[inline]
    pub(crate) fn is(&self, text: &str) -> bool {
        if self.escaped { self.decode().is_ok_and(|decoded| decoded == text) } else { self.raw == text.as_bytes() }
    }

    /// Whether it begins with this text, decoded. One without a UTF-8 form does not.
    #[inline]
    pub(crate) fn starts_with(&self, text: &str) -> bool {
        if self.escaped {
            self.decode().is_ok_and(|decoded| decoded.starts_with(text))
        } else {
            self.raw.starts_with(text.as_bytes())
        }
    }

    /// As it stands in the text, escapes and all.
    pub(crate) const fn as_written(&self) -> &'a [u8] {
        self.raw
    }

    /// The decoded text. Fails on a lone surrogate: such a string has no UTF-8 form.
    pub(crate) fn decode(&self) -> Result<Cow<'a, str>, DecodeError> {
        let bad = || DecodeError::new("decode a string", 0);
        if !self.escaped {
            return std::str::from_utf8(self.raw).map(Cow::Borrowed).map_err(|_| bad());
        }
        let mut quoted = Vec::with_capacity(self.raw.len() + 2);
        quoted.push(b'"');
        quoted.extend_from_slice(self.raw);
        quoted.push(b'"');
        serde_json::from_slice::<String>(&quoted).map(Cow::Owned).map_err(|_| bad())
    }
}

/// What stands after the fields that were skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A field's value.
    Value,
    /// The end of the object, or a mistake.
    End,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of a text, which must be UTF-8 as a whole.
    pub(crate) fn new(text: &'a [u8]) -> Result<Self, DecodeError> {
        match std::str::from_utf8(text) {
            Ok(_) => Ok(Self::over(text)),
            Err(error) => Err(DecodeError::new("read UTF-8", error.valid_up_to())),
        }
    }

    /// A scanner over a part of a text that was scanned before.
    pub(crate) fn over(text: &'a [u8]) -> Self {
        // Every byte is looked at, without a way out: compilers make vector code of it.
        let has_controls = text.iter().fold(false, |found, byte| found | (*byte < 0x20));
        Self { text, rest: text, depth: 0, has_controls }
    }

    /// What stands in this range of the text.
    pub(crate) fn slice(&self, range: Range<usize>) -> &'a [u8] {
        self.text.get(range).unwrap_or_default()
    }

    /// The offset of the next byte.
    #[inline]
    pub(crate) const fn position(&self) -> usize {
        self.text.len() - self.rest.len()
    }

    #[cold]
    fn error(&self, what: &'static str) -> DecodeError {
        DecodeError::new(what, self.position())
    }

    #[inline]
    fn advance(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// The next byte that is no white space.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.rest {
                [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] => self.rest = rest,
                other => return other.first().copied(),
            }
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), DecodeError> {
        if self.peek() != Some(byte) {
            return Err(self.error(what));
        }
        self.advance(1);
        Ok(())
    }

    /// Fails unless only white space is left.
    pub(crate) fn end(&mut self) -> Result<(), DecodeError> {
        if self.peek().is_some() { Err(self.error("find the end of the text")) } else { Ok(()) }
    }

    /// Reads an object; `field` is called with each name and must consume its value.
    pub(crate) fn object(
        &mut self,
        mut field: impl FnMut(&mut Self, RawStr<'a>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        self.expect(b'{', "find an object")?;
        self.deeper()?;
        if self.peek() == Some(b'}') {
            self.advance(1);
            self.depth -= 1;
            return Ok(());
        }
        loop {
            let name = self.string()?;
            self.expect(b':', "find a colon")?;
            field(self, name)?;
            match self.peek() {
                Some(b',') => self.advance(1),
                Some(b'}') => break,
                _ => return Err(self.error("find a comma or the end of an object")),
            }
        }
        self.advance(1);
        self.depth -= 1;
        Ok(())
    }

    /// Reads an array; `element` is called at each element and must consume it.
    pub(crate) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        self.expect(b'[', "find an array")?;
        self.deeper()?;
        if self.peek() == Some(b']') {
            self.advance(1);
            self.depth -= 1;
            return Ok(());
        }
        loop {
            element(self)?;
            match self.peek() {
                Some(b',') => self.advance(1),
                Some(b']') => break,
                _ => return Err(self.error("find a comma or the end of an array")),
            }
        }
        self.advance(1);
        self.depth -= 1;
        Ok(())
    }

    #[inline]
    fn deeper(&mut self) -> Result<(), DecodeError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(self.error("nest less than 128 deep")) } else { Ok(()) }
    }

    /// Consumes any value; answers where it stands in the text.
    pub(crate) fn value(&mut self) -> Result<Range<usize>, DecodeError> {
        let first = self.peek();
        let start = self.position();
        match first {
            Some(b'"') => self.string().map(drop)?,
            Some(b'{' | b'[') => self.skip_container()?,
            _ => self.scalar()?,
        }
        Ok(start..self.position())
    }

    /// Consumes an object; answers where it stands in the text.
    pub(crate) fn whole_object(&mut self) -> Result<Range<usize>, DecodeError> {
        if self.peek() != Some(b'{') {
            return Err(self.error("find an object"));
        }
        self.value()
    }

    /// Consumes a value that is neither string nor container.
    fn scalar(&mut self) -> Result<(), DecodeError> {
        match self.peek() {
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            _ => Err(self.error("find a value")),
        }
    }

    /// Consumes an object or an array with all that is in it: most of a page. One loop instead of a call for each value.
    fn skip_container(&mut self) -> Result<(), DecodeError> {
        let outside = self.depth;
        // A bit for each open container, the innermost lowest: whether it is an object. Depths are below 128.
        let mut objects: u128 = 0;
        loop {
            match self.peek() {
                Some(b'"') => self.string().map(drop)?,
                Some(b'{') => {
                    self.advance(1);
                    self.deeper()?;
                    objects = objects << 1 | 1;
                    if self.peek() != Some(b'}') && self.skip_fields()? == Next::Value {
                        continue;
                    }
                }
                Some(b'[') => {
                    self.advance(1);
                    self.deeper()?;
                    objects <<= 1;
                    if self.peek() != Some(b']') {
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            loop {
                match self.peek() {
                    Some(b',') if objects & 1 == 0 => {
                        self.advance(1);
                        break;
                    }
                    Some(b',') => {
                        self.advance(1);
                        if self.skip_fields()? == Next::Value {
                            break;
                        }
                    }
                    Some(b'}') if objects & 1 == 1 => {
                        self.advance(1);
                        objects >>= 1;
                        self.depth -= 1;
                    }
                    Some(b']') if objects & 1 == 0 => {
                        self.advance(1);
                        objects >>= 1;
                        self.depth -= 1;
                    }
                    _ => return Err(self.error("find a comma or the end of a container")),
                }
                if self.depth == outside {
                    return Ok(());
                }
            }
        }
    }

    /// Consumes fields up to the value of one that must be looked at.
    ///
    /// Most fields of an item are `"name":{"T":"…"}`, without white space and escapes; what stands between the two strings
    /// is compared at once. Everything else is left to the caller, from behind its name's colon on.
    #[inline]
    fn skip_fields(&mut self) -> Result<Next, DecodeError> {
        if !self.has_controls && self.depth < MAX_DEPTH {
            while let [b'"', name @ ..] = self.rest
                && let Some(after_name) = after_plain_string(name)
            {
                let Some(after_value) = tagged(after_name).and_then(after_plain_string) else {
                    let [b':', value @ ..] = after_name else { break };
                    self.rest = value;
                    return Ok(Next::Value);
                };
                match after_value {
                    [b'}', b',', next @ ..] => self.rest = next,
                    [b'}', end @ ..] => {
                        self.rest = end;
                        return Ok(Next::End);
                    }
                    _ => break,
                }
            }
        }
        self.string()?;
        self.expect(b':', "find a colon")?;
        Ok(Next::Value)
    }

    fn literal(&mut self, word: &'static [u8]) -> Result<(), DecodeError> {
        match self.rest.strip_prefix(word) {
            Some(rest) => self.rest = rest,
            None => return Err(self.error("find true, false or null")),
        }
        Ok(())
    }

    /// Consumes `null` when it stands here.
    pub(crate) fn null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.literal(b"null").is_ok()
    }

    /// Reads a number's text.
    pub(crate) fn number(&mut self) -> Result<&'a str, DecodeError> {
        self.peek();
        let start = self.rest;
        if let [b'-', rest @ ..] = self.rest {
            self.rest = rest;
        }
        match self.rest {
            [b'0', rest @ ..] => self.rest = rest,
            [b'1'..=b'9', ..] => self.digits()?,
            _ => return Err(self.error("find a number")),
        }
        if let [b'.', rest @ ..] = self.rest {
            self.rest = rest;
            self.digits()?;
        }
        if let [b'e' | b'E', rest @ ..] = self.rest {
            self.rest = rest;
            if let [b'+' | b'-', rest @ ..] = self.rest {
                self.rest = rest;
            }
            self.digits()?;
        }
        let text = start.get(..start.len() - self.rest.len()).and_then(|n| std::str::from_utf8(n).ok());
        text.ok_or_else(|| self.error("find a number"))
    }

    fn digits(&mut self) -> Result<(), DecodeError> {
        let count = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 {
            return Err(self.error("find a digit"));
        }
        self.advance(count);
        Ok(())
    }

    /// Reads a string.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<RawStr<'a>, DecodeError> {
        self.expect(b'"', "find a string")?;
        let start = self.rest;
        let plain = if self.has_controls { None } else { after_plain_string(start) };
        let escaped = match plain {
            Some(after) => {
                self.rest = after;
                false
            }
            None => self.rest_of_string()?,
        };
        let raw = start.get(..start.len() - self.rest.len() - 1).unwrap_or_default();
        Ok(RawStr { raw, escaped })
    }

    /// Consumes a string from within it, its closing quote included; answers whether it has escapes from here on.
    fn rest_of_string(&mut self) -> Result<bool, DecodeError> {
        let mut escaped = false;
        loop {
            self.advance(self.plain_prefix());
            match self.rest.first() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.error("read a control character")),
                None => return Err(self.error("find the end of a string")),
            }
        }
        self.advance(1);
        Ok(escaped)
    }

    /// How many bytes from here are neither `"` nor `\` nor a control character.
    fn plain_prefix(&self) -> usize {
        let length = memchr::memchr2(b'"', b'\\', self.rest).unwrap_or(self.rest.len());
        if !self.has_controls {
            return length;
        }
        self.rest.iter().take(length).position(|byte| *byte < 0x20).unwrap_or(length)
    }

    fn escape(&mut self) -> Result<(), DecodeError> {
        let length = match self.rest.get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') => {
                let digits = self.rest.get(2..6).unwrap_or_default();
                if digits.len() != 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(self.error("read a \\u escape"));
                }
                6
            }
            _ => return Err(self.error("read an escape")),
        };
        self.advance(length);
        Ok(())
    }
}

/// From within a string to behind its closing quote, where it is short and has no escape. In a text without control
/// characters only.
///
/// Eight bytes at a time: most strings of an item are so short that a call of vector code would cost more than they do.
#[inline(always)]
fn after_plain_string(text: &[u8]) -> Option<&[u8]> {
    const SHORT: usize = 40;
    let mut rest = text;
    loop {
        let (word, tail) = rest.split_first_chunk::<8>()?;
        let marks = quotes_and_slashes(u64::from_le_bytes(*word));
        if marks != 0 {
            rest = rest.get((marks.trailing_zeros() / 8) as usize..)?;
            break;
        }
        if text.len() - tail.len() >= SHORT {
            return None;
        }
        rest = tail;
    }
    rest.strip_prefix(b"\"")
}

/// From behind a field's name into its value, where that is `{"T":"…`.
#[inline(always)]
fn tagged(after_name: &[u8]) -> Option<&[u8]> {
    match after_name {
        [b':', b'{', b'"', tag, b'"', b':', b'"', value @ ..] if tag.is_ascii_alphabetic() => Some(value),
        _ => None,
    }
}

/// The high bit of each byte that is `"` or `\`; the lowest one set is exact, higher ones may be false alarms.
#[inline]
const fn quotes_and_slashes(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    const QUOTES: u64 = u64::from_le_bytes([b'"'; 8]);
    const SLASHES: u64 = u64::from_le_bytes([b'\\'; 8]);
    let (quotes, slashes) = (word ^ QUOTES, word ^ SLASHES);
    let quote = quotes.wrapping_sub(ONES) & !quotes;
    let slash = slashes.wrapping_sub(ONES) & !slashes;
    (quote | slash) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accepts(text: &[u8]) -> bool {
        Scanner::new(text).and_then(|mut scanner| scanner.value().and_then(|_| scanner.end())).is_ok()
    }

    fn serde_accepts(text: &[u8]) -> bool {
        serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok() && std::str::from_utf8(text).is_ok()
    }

    #[test]
    fn agrees_with_serde_json_on_odd_texts() {
        for text in [
            "",
            " ",
            "{}",
            "[]",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1,]",
            "[,1]",
            "nul",
            "null",
            "true",
            "falsey",
            "\"",
            "\"a",
            "\"\\",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\x\"",
            "\"a\nb\"",
            "01",
            "-",
            "-0",
            "1.",
            "1.5e",
            "1e+5",
            ".5",
            "{\"a\":1 \"b\":2}",
            "{1:2}",
            "[1 2]",
            "{} {}",
            " { \"a\" : [ 1 , 2 ] } ",
            "\"\u{7f}\u{e9}\u{1f600}\"",
            "+1",
            "Infinity",
            "\t[\r\n]\t",
            "{\"a\":{\"b\":{}}}",
            "]",
            "}",
            "[}",
            "{]",
        ] {
            assert_eq!(accepts(text.as_bytes()), serde_accepts(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn finds_a_special_byte_at_every_offset() {
        for special in ["\"", "\\", "\\n", "\0", "\u{1f}", "é", "\u{7f}"] {
            for offset in 0..60 {
                let inner = format!("{}{special}{}", "x".repeat(offset), "y".repeat(59 - offset));
                let (string, item) =
                    (format!("\"{inner}\""), format!(r#"{{"{inner}":{{"S":"{inner}"}},"b":{{"S":""}}}}"#));
                for text in [&string, &item] {
                    assert_eq!(accepts(text.as_bytes()), serde_accepts(text.as_bytes()), "{special:?} at {offset}");
                }
                let raw = Scanner::new(string.as_bytes()).unwrap().string().map(|found| found.raw.len());
                match special {
                    "\"" => assert_eq!(raw, Ok(offset)),
                    "\\n" | "é" | "\u{7f}" => assert_eq!(raw, Ok(inner.len())),
                    _ => assert!(raw.is_err(), "{special:?} at {offset}"),
                }
            }
        }
    }

    #[test]
    fn refuses_what_nests_too_deep_without_a_stack_overflow() {
        assert!(accepts(format!("{}{}", "[".repeat(127), "]".repeat(127)).as_bytes()));
        assert!(!accepts("[".repeat(100_000).as_bytes()));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_json_like_texts(text in r#"[\[\]{}:,"\\u0-9a-e.\-+ tn\x00-\x02é]{0,40}"#) {
            prop_assert_eq!(accepts(text.as_bytes()), serde_accepts(text.as_bytes()), "{}", text);
        }

        #[test]
        fn agrees_with_serde_json_on_mutated_items(at in 0usize..90, byte in any::<u8>()) {
            let mut text = br#"{"pk":{"S":"a\u00e9b"},"n":{"N":"-1.5E+3"},"l":{"L":[{"NULL":true},{"B":"AA=="}]},"x":12.5e-3}"#.to_vec();
            if let Some(slot) = text.get_mut(at) { *slot = byte; }
            prop_assert_eq!(accepts(&text), serde_accepts(&text));
        }

        #[test]
        fn agrees_with_serde_json_on_pieces_of_items(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", " ", "\n", "\"a\"", "\"a\":", "{\"S\":\"x\"}", "\"k\":{\"N\":\"1\"}", "{\"k\":{\"B\":\"\\n\"}}",
                "\"l\":{\"L\":[{\"S\":\"\"}]}", "null", "1", "\"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz\"", "\"k\":{\"N\":\"1\" }",
            ]), 0..12),
        ) {
            for text in [pieces.concat(), format!("{{{}}}", pieces.concat()), format!("{{\"a\":{}}}", pieces.join(","))] {
                prop_assert_eq!(accepts(text.as_bytes()), serde_accepts(text.as_bytes()), "{}", text);
            }
        }

        #[test]
        fn decodes_strings_like_serde_json(text in ".{0,30}") {
            let json = serde_json::to_string(&text).unwrap();
            let decoded = Scanner::new(json.as_bytes()).unwrap().string().unwrap().decode().unwrap().into_owned();
            prop_assert_eq!(decoded, text);
        }
    }
}
