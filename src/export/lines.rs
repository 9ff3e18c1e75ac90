//! Pure: bytes that come in pieces, as lines.

use bytes::{Bytes, BytesMut};

/// A line that is longer than anything that may stand here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// Lines of a text that comes in pieces. Holds one unfinished line, and what was put in and not taken.
#[derive(Debug)]
pub(super) struct Lines {
    text: BytesMut,
    /// How much of it is known to hold no line end.
    searched: usize,
    max_line: usize,
    /// Lines taken so far.
    taken: u64,
}

impl Lines {
    /// Lines of at most so many bytes.
    pub(super) fn new(max_line: usize) -> Self {
        Self { text: BytesMut::new(), searched: 0, max_line, taken: 0 }
    }

    pub(super) fn put(&mut self, piece: &[u8]) {
        self.text.extend_from_slice(piece);
    }

    /// The number of the line that was taken last; the first is 1.
    pub(super) const fn number(&self) -> u64 {
        self.taken
    }

    /// The next whole line, without its end; `None`: more text is needed.
    pub(super) fn next_line(&mut self) -> Result<Option<Bytes>, TooLong> {
        let unsearched = self.text.get(self.searched..).unwrap_or_default();
        let Some(at) = memchr::memchr(b'\n', unsearched) else {
            self.searched = self.text.len();
            return if self.searched > self.max_line { Err(TooLong) } else { Ok(None) };
        };
        let line = self.text.split_to(self.searched + at);
        let _line_end = self.text.split_to(1);
        self.searched = 0;
        self.taken += 1;
        if line.len() > self.max_line { Err(TooLong) } else { Ok(Some(line.freeze())) }
    }

    /// What stands behind the last line end, when the text is at its end.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        self.searched = 0;
        let rest = self.text.split();
        self.taken += u64::from(!rest.is_empty());
        (!rest.is_empty()).then(|| rest.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_that_never_ends_is_refused() {
        let mut lines = Lines::new(10);
        lines.put(b"0123456789");
        assert_eq!(lines.next_line(), Ok(None));
        lines.put(b"x");
        assert_eq!(lines.next_line(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn however_a_text_comes_its_lines_are_the_same(
            text in "[ab\n]{0,60}",
            cuts in proptest::collection::vec(0usize..60, 0..6),
        ) {
            let mut lines = Lines::new(100);
            let mut found: Vec<Bytes> = Vec::new();
            let mut cuts = cuts.clone();
            cuts.sort_unstable();
            let mut from = 0;
            for cut in cuts.into_iter().map(|cut| cut.min(text.len())).chain([text.len()]) {
                lines.put(&text.as_bytes()[from..cut]);
                from = cut;
                while let Some(line) = lines.next_line().unwrap() {
                    found.push(line);
                }
            }
            found.extend(lines.rest());
            let mut expected: Vec<&str> = text.split('\n').collect();
            if expected.last() == Some(&"") {
                expected.pop();
            }
            prop_assert_eq!(lines.number(), expected.len() as u64);
            prop_assert_eq!(found, expected);
        }
    }
}
