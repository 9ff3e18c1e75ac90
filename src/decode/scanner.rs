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
    at: usize,
    depth: u32,
}

/// A string as it stands in the text, without its quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawStr<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl<'a> RawStr<'a> {
    /// Whether it is this text, decoded.
    pub(crate) fn is(&self, text: &str) -> bool {
        if self.escaped { self.decode().is_ok_and(|decoded| decoded == text) } else { self.raw == text.as_bytes() }
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

impl<'a> Scanner<'a> {
    /// Starts at the beginning of a text, which must be UTF-8 as a whole.
    pub(crate) fn new(text: &'a [u8]) -> Result<Self, DecodeError> {
        match std::str::from_utf8(text) {
            Ok(_) => Ok(Self { text, at: 0, depth: 0 }),
            Err(error) => Err(DecodeError::new("read UTF-8", error.valid_up_to())),
        }
    }

    /// A scanner over a part of a text that was scanned before.
    pub(crate) const fn over(text: &'a [u8]) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// The offset of the next byte.
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    fn error(&self, what: &'static str) -> DecodeError {
        DecodeError::new(what, self.at)
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next byte that is no white space.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), DecodeError> {
        if self.peek() != Some(byte) {
            return Err(self.error(what));
        }
        self.at += 1;
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
            self.at += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            let name = self.string()?;
            self.expect(b':', "find a colon")?;
            field(self, name)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.error("find a comma or the end of an object")),
            }
        }
        self.at += 1;
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
            self.at += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            element(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.error("find a comma or the end of an array")),
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn deeper(&mut self) -> Result<(), DecodeError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(self.error("nest less than 128 deep")) } else { Ok(()) }
    }

    /// Consumes any value; answers where it stands in the text.
    pub(crate) fn value(&mut self) -> Result<Range<usize>, DecodeError> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'"') => self.string().map(drop)?,
            Some(b'{' | b'[') => self.skip_container()?,
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            Some(b'-' | b'0'..=b'9') => self.number().map(drop)?,
            _ => return Err(self.error("find a value")),
        }
        Ok(start..self.at)
    }

    /// Consumes an object or an array with all that is in it: most of a page. One loop instead of a call for each value.
    fn skip_container(&mut self) -> Result<(), DecodeError> {
        let outside = self.depth;
        // A bit for each open container, the innermost lowest: whether it is an object. Depths are below 128.
        let mut objects: u128 = 0;
        loop {
            match self.text.get(self.at) {
                Some(b'"') => self.skip_string()?,
                Some(b'{') => {
                    self.at += 1;
                    self.deeper()?;
                    objects = objects << 1 | 1;
                    if self.peek() != Some(b'}') {
                        self.skip_name()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    self.deeper()?;
                    objects <<= 1;
                    if self.peek() != Some(b']') {
                        continue;
                    }
                }
                Some(b' ' | b'\t' | b'\n' | b'\r') => {
                    self.at += 1;
                    continue;
                }
                _ => self.value().map(drop)?,
            }
            loop {
                match self.text.get(self.at) {
                    Some(b',') => {
                        self.at += 1;
                        if objects & 1 == 1 {
                            self.skip_name()?;
                        }
                        break;
                    }
                    Some(b'}') if objects & 1 == 1 => {}
                    Some(b']') if objects & 1 == 0 => {}
                    Some(b' ' | b'\t' | b'\n' | b'\r') => {
                        self.at += 1;
                        continue;
                    }
                    _ => return Err(self.error("find a comma or the end of a container")),
                }
                self.at += 1;
                objects >>= 1;
                self.depth -= 1;
                if self.depth == outside {
                    return Ok(());
                }
            }
        }
    }

    /// Consumes a field's name and its colon.
    #[inline]
    fn skip_name(&mut self) -> Result<(), DecodeError> {
        if self.peek() != Some(b'"') {
            return Err(self.error("find a string"));
        }
        self.skip_string()?;
        if self.peek() != Some(b':') {
            return Err(self.error("find a colon"));
        }
        self.at += 1;
        Ok(())
    }

    /// Consumes the string whose opening quote stands here.
    #[inline]
    fn skip_string(&mut self) -> Result<(), DecodeError> {
        self.at += 1;
        while let Some(chunk) = self.rest().first_chunk::<8>() {
            let special = special_bytes(u64::from_le_bytes(*chunk));
            if special == 0 {
                self.at += 8;
                continue;
            }
            self.at += (special.trailing_zeros() / 8) as usize;
            if self.text.get(self.at) != Some(&b'"') {
                break;
            }
            self.at += 1;
            return Ok(());
        }
        self.rest_of_string().map(drop)
    }

    fn literal(&mut self, word: &'static [u8]) -> Result<(), DecodeError> {
        if !self.rest().starts_with(word) {
            return Err(self.error("find true, false or null"));
        }
        self.at += word.len();
        Ok(())
    }

    /// Consumes `null` when it stands here.
    pub(crate) fn null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.literal(b"null").is_ok()
    }

    /// Reads a number's text.
    pub(crate) fn number(&mut self) -> Result<&'a str, DecodeError> {
        self.peek();
        let start = self.at;
        if self.text.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.text.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.error("find a number")),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        self.text
            .get(start..self.at)
            .and_then(|n| std::str::from_utf8(n).ok())
            .ok_or_else(|| self.error("find a number"))
    }

    fn digits(&mut self) -> Result<(), DecodeError> {
        let count = self.rest().iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 {
            return Err(self.error("find a digit"));
        }
        self.at += count;
        Ok(())
    }

    /// Reads a string.
    pub(crate) fn string(&mut self) -> Result<RawStr<'a>, DecodeError> {
        self.expect(b'"', "find a string")?;
        let start = self.at;
        let escaped = self.rest_of_string()?;
        let raw = self.text.get(start..self.at - 1).unwrap_or_default();
        Ok(RawStr { raw, escaped })
    }

    /// Consumes a string from within it, its closing quote included; answers whether it has escapes from here on.
    fn rest_of_string(&mut self) -> Result<bool, DecodeError> {
        let mut escaped = false;
        loop {
            self.at += plain_prefix(self.rest());
            match self.text.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.error("read a control character")),
                None => return Err(self.error("find the end of a string")),
            }
        }
        self.at += 1;
        Ok(escaped)
    }

    fn escape(&mut self) -> Result<(), DecodeError> {
        let length = match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') => {
                let digits = self.text.get(self.at + 2..self.at + 6).unwrap_or_default();
                if digits.len() != 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(self.error("read a \\u escape"));
                }
                6
            }
            _ => return Err(self.error("read an escape")),
        };
        self.at += length;
        Ok(())
    }
}

/// How many bytes from the start are neither `"` nor `\` nor a control character: eight at a time.
#[inline]
fn plain_prefix(bytes: &[u8]) -> usize {
    let mut length = 0;
    let mut rest = bytes;
    while let Some((chunk, tail)) = rest.split_first_chunk::<8>() {
        let special = special_bytes(u64::from_le_bytes(*chunk));
        if special != 0 {
            return length + (special.trailing_zeros() / 8) as usize;
        }
        length += 8;
        rest = tail;
    }
    length + rest.iter().take_while(|b| !matches!(b, b'"' | b'\\' | 0..0x20)).count()
}

/// The high bit of each byte that ends plain text; the lowest one set is exact, higher ones may be false alarms.
#[inline]
const fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    const QUOTES: u64 = u64::from_le_bytes([b'"'; 8]);
    const SLASHES: u64 = u64::from_le_bytes([b'\\'; 8]);
    const SPACES: u64 = u64::from_le_bytes([0x20; 8]);
    let (quotes, slashes) = (word ^ QUOTES, word ^ SLASHES);
    let quote = quotes.wrapping_sub(ONES) & !quotes;
    let slash = slashes.wrapping_sub(ONES) & !slashes;
    let control = word.wrapping_sub(SPACES) & !word;
    (quote | slash | control) & HIGH
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
        for special in [b'"', b'\\', 0x00, 0x1f] {
            for offset in 0..40 {
                let mut text = vec![b'\xc3'; 50];
                *text.get_mut(offset).unwrap() = special;
                assert_eq!(plain_prefix(&text), offset, "{special} at {offset}");
            }
        }
        assert_eq!(plain_prefix("é\u{7f} !#[]".as_bytes()), "é\u{7f} !#[]".len());
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
        fn decodes_strings_like_serde_json(text in ".{0,30}") {
            let json = serde_json::to_string(&text).unwrap();
            let decoded = Scanner::new(json.as_bytes()).unwrap().string().unwrap().decode().unwrap().into_owned();
            prop_assert_eq!(decoded, text);
        }
    }
}
