//! Pure: a data file, from the parts of its object to pages of items.
//!
//! Decompresses as much as a page needs and no more, so memory does not depend on the file. A page that is the last one
//! comes only when the whole file was checked: its MD5, gzip's own checksum, the number of items.
//!
//! A [`Cursor`] says how many items are behind it and what their text was. Whoever goes on from one reads the file from its
//! beginning (gzip has no other entry) and hands out what comes after; where the text before it is another one, what was
//! taken of it then was damaged, and the file must be begun again.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;

use bytes::{Buf as _, Bytes};
use flate2::Crc;
use flate2::write::MultiGzDecoder;
use md5::{Digest as _, Md5};

use super::lines::{Lines, TooLong};
use super::manifest::{FileEntry, Kind};
use crate::decode::{DecodeError, ExportedItem, KeyCodec, export_line, window_line};

/// A page ends when it has this much text: about as much as a page of a scan.
const PAGE_BYTES: usize = 1 << 20;
/// Or this many items: as many keys are listed before they are written.
const PAGE_ITEMS: usize = 2_000;
/// An item has 400 KB; its JSON may have ten times as much, and a request 16 MB at most.
const MAX_LINE: usize = 16 << 20;

/// What is wrong with a data file. Names no contents.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is no gzip, or damaged, or not whole.
    #[error("decompress it after line {line}")]
    Gzip {
        /// The last line that was read.
        line: u64,
        /// What the decoder says.
        #[source]
        source: std::io::Error,
    },
    /// A line is none of such an export.
    #[error("line {line}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// What is odd about it.
        #[source]
        source: DecodeError,
    },
    /// A line is longer than any item.
    #[error("line {line} is longer than {MAX_LINE} bytes")]
    TooLong {
        /// Which, from 1.
        line: u64,
    },
    /// It has fewer items or more than the list of files says.
    #[error("it has {found} items, the list of files says {listed}")]
    Count {
        /// So many it has.
        found: u64,
        /// So many it should have.
        listed: u64,
    },
    /// It is another object than the one that the list of files tells of, or a damaged one.
    #[error("its MD5 is not the one in the list of files")]
    Md5,
    /// The text before the cursor is not the one that was read then.
    #[error("what was read of it before was something else")]
    Changed,
}

/// How far a file was read: so many items, of a text with this checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    items: u64,
    crc: u32,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items, crc32 {:08x}", self.items, self.crc)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (items, crc) = text.split_once(" items, crc32 ").ok_or(())?;
        Ok(Self { items: items.parse().map_err(drop)?, crc: u32::from_str_radix(crc, 16).map_err(drop)? })
    }
}

/// Some items of a file.
#[derive(Debug)]
pub struct Page {
    /// The items, in the order of their lines; of a window, what is left of each.
    pub items: Vec<ExportedItem>,
    /// Bytes of their images.
    pub bytes: u64,
    /// Where the next page begins.
    pub cursor: Cursor,
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Put the next part of the object in, or say that there is none.
    NeedsPart,
    /// A page, and there is more.
    Page(Page),
    /// The last page, perhaps without items: the file is whole and as the list of files says.
    Last(Page),
}

/// A data file while it is read.
pub struct DataFile<'a> {
    entry: &'a FileEntry,
    kind: Kind,
    keys: &'a KeyCodec,
    md5: Md5,
    text: MultiGzDecoder<Sink>,
    /// What was put in and not decompressed.
    part: Bytes,
    has_begun: bool,
    is_ended: bool,
    sum: TextSum,
    items: u64,
    /// Up to where it was taken before.
    skip_to: Option<Cursor>,
    page: Vec<ExportedItem>,
    page_text: usize,
}

impl<'a> DataFile<'a> {
    /// A file from its beginning; items before the cursor are left out.
    #[must_use]
    pub fn new(entry: &'a FileEntry, kind: Kind, keys: &'a KeyCodec, after: Option<Cursor>) -> Self {
        Self {
            entry,
            kind,
            keys,
            md5: Md5::new(),
            text: MultiGzDecoder::new(Sink(Lines::new(MAX_LINE))),
            part: Bytes::new(),
            has_begun: false,
            is_ended: false,
            sum: TextSum::new(),
            items: 0,
            skip_to: after.filter(|cursor| cursor.items > 0),
            page: Vec::new(),
            page_text: 0,
        }
    }

    /// The next part of the object. Only when it was asked for.
    pub fn put(&mut self, part: Bytes) {
        self.md5.update(&part);
        self.has_begun |= !part.is_empty();
        self.part = part;
    }

    /// The object is at its end.
    pub fn end(&mut self) {
        self.is_ended = true;
    }

    /// Goes on as far as it can.
    ///
    /// # Errors
    /// [`FileError`]; then the file is of no more use, and neither is what came of it since its last cursor.
    pub fn next_step(&mut self) -> Result<Step, FileError> {
        loop {
            if self.page_text >= PAGE_BYTES || self.page.len() >= PAGE_ITEMS {
                return Ok(Step::Page(self.take_page()));
            }
            match self.text.get_mut().0.next_line() {
                Ok(Some(line)) => self.take_line(line)?,
                Err(TooLong) => return Err(FileError::TooLong { line: self.line() + 1 }),
                Ok(None) if !self.part.is_empty() => self.decompress()?,
                Ok(None) if !self.is_ended => return Ok(Step::NeedsPart),
                Ok(None) => {
                    self.finish()?;
                    return Ok(Step::Last(self.take_page()));
                }
            }
        }
    }

    /// One piece: at most as much text as the decoder holds, some ten kilobytes.
    fn decompress(&mut self) -> Result<(), FileError> {
        match self.text.write(&self.part) {
            Ok(0) => Err(self.broken(std::io::ErrorKind::InvalidData.into())),
            Ok(taken) => {
                self.part.advance(taken);
                Ok(())
            }
            Err(source) => Err(self.broken(source)),
        }
    }

    fn finish(&mut self) -> Result<(), FileError> {
        // The file of an empty partition may be empty itself, without gzip's frame.
        if self.has_begun {
            self.text.try_finish().map_err(|source| self.broken(source))?;
            while let Some(line) =
                self.text.get_mut().0.next_line().map_err(|_| FileError::TooLong { line: self.line() + 1 })?
            {
                self.take_line(line)?;
            }
            if let Some(line) = self.text.get_mut().0.rest() {
                self.take_line(line)?;
            }
        }
        if self.entry.md5.is_some_and(|listed| self.md5.clone().finalize().as_slice() != listed) {
            return Err(FileError::Md5);
        }
        if self.items != self.entry.items {
            return Err(FileError::Count { found: self.items, listed: self.entry.items });
        }
        if self.skip_to.is_some() { Err(FileError::Changed) } else { Ok(()) }
    }

    fn take_line(&mut self, line: Bytes) -> Result<(), FileError> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        self.sum.add(&line);
        self.items += 1;
        if let Some(cursor) = self.skip_to {
            if self.items < cursor.items {
                return Ok(());
            }
            self.skip_to = None;
            return if self.sum.value() == cursor.crc { Ok(()) } else { Err(FileError::Changed) };
        }
        let item = match self.kind {
            Kind::Full => {
                let item = export_line(&line, self.keys);
                item.map(|item| ExportedItem { key: item.key, image: Some(item.image) })
            }
            Kind::Window => window_line(&line, self.keys),
        };
        let item = item.map_err(|source| FileError::Line { line: self.line(), source })?;
        self.page_text += line.len();
        self.page.push(item);
        Ok(())
    }

    fn take_page(&mut self) -> Page {
        self.page_text = 0;
        let items = std::mem::take(&mut self.page);
        let bytes = items.iter().filter_map(|item| item.image.as_ref()).map(|image| image.len() as u64).sum();
        Page { items, bytes, cursor: Cursor { items: self.items, crc: self.sum.value() } }
    }

    fn line(&self) -> u64 {
        self.text.get_ref().0.number()
    }

    fn broken(&self, source: std::io::Error) -> FileError {
        FileError::Gzip { line: self.line(), source }
    }
}

/// The checksum of the lines so far.
///
/// They are gathered: a call of the checksum costs as much as eight kilobytes of text, which is more than most lines have.
struct TextSum {
    crc: Crc,
    gathered: Vec<u8>,
}

impl TextSum {
    /// Lines are gathered up to this.
    const GATHERED: usize = 64 << 10;

    fn new() -> Self {
        Self { crc: Crc::new(), gathered: Vec::new() }
    }

    fn add(&mut self, line: &[u8]) {
        if self.gathered.len() + line.len() >= Self::GATHERED {
            self.sum_up();
        }
        if line.len() >= Self::GATHERED {
            self.crc.update(line);
        } else {
            self.gathered.extend_from_slice(line);
        }
        self.gathered.push(b'\n');
    }

    fn sum_up(&mut self) {
        self.crc.update(&self.gathered);
        self.gathered.clear();
    }

    fn value(&mut self) -> u32 {
        self.sum_up();
        self.crc.sum()
    }
}

/// Takes what the decoder gives.
#[derive(Debug)]
struct Sink(Lines);

impl std::io::Write for Sink {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.put(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyAttribute, KeyKind, KeySchema};
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    fn codec() -> KeyCodec {
        KeyCodec::new(&KeySchema { hash: KeyAttribute { name: "pk".to_owned(), kind: KeyKind::S }, range: None })
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn lines(count: usize) -> String {
        (0..count).map(|n| format!("{{\"Item\":{{\"pk\":{{\"S\":\"key {n}\"}}}}}}\n")).collect()
    }

    fn entry(object: &[u8], items: u64) -> FileEntry {
        FileEntry { key: "k".to_owned(), items, md5: Some(Md5::digest(object).into()) }
    }

    /// Reads an object in parts of this size: the keys of each page, and the cursor behind it.
    fn read(
        object: &[u8],
        entry: &FileEntry,
        part: usize,
        after: Option<Cursor>,
    ) -> Result<Vec<(Vec<Bytes>, Cursor)>, FileError> {
        let keys = codec();
        let mut file = DataFile::new(entry, Kind::Full, &keys, after);
        let (mut parts, mut pages) = (object.chunks(part), Vec::new());
        loop {
            let (page, is_last) = match file.next_step()? {
                Step::NeedsPart => {
                    match parts.next() {
                        Some(part) => file.put(Bytes::copy_from_slice(part)),
                        None => file.end(),
                    }
                    continue;
                }
                Step::Page(page) => (page, false),
                Step::Last(page) => (page, true),
            };
            pages.push((page.items.into_iter().map(|item| item.key.json).collect(), page.cursor));
            if is_last {
                return Ok(pages);
            }
        }
    }

    fn keys_of(pages: &[(Vec<Bytes>, Cursor)]) -> Vec<Bytes> {
        pages.iter().flat_map(|(keys, _)| keys.clone()).collect()
    }

    #[test]
    fn a_long_file_comes_in_pages_and_goes_on_behind_any_of_them() {
        let object = gzip(&lines(5_000));
        let entry = entry(&object, 5_000);
        let pages = read(&object, &entry, 1_000, None).unwrap();
        let sizes: Vec<usize> = pages.iter().map(|(keys, _)| keys.len()).collect();
        assert_eq!(sizes, [2_000, 2_000, 1_000]);
        for (n, (_, cursor)) in pages.iter().enumerate() {
            let text = cursor.to_string();
            let rest = read(&object, &entry, 777, Some(text.parse().unwrap())).unwrap();
            assert_eq!(keys_of(&rest), keys_of(&pages[n + 1..]), "after page {n}");
        }
    }

    #[test]
    fn a_page_ends_by_its_bytes_too() {
        let value = "x".repeat(300_000);
        let text: String = (0..8)
            .map(|n| format!("{{\"Item\":{{\"pk\":{{\"S\":\"{n}\"}},\"v\":{{\"S\":\"{value}\"}}}}}}\n"))
            .collect();
        let object = gzip(&text);
        let pages = read(&object, &entry(&object, 8), 64, None).unwrap();
        assert_eq!(keys_of(&pages).len(), 8);
        assert!(pages.iter().all(|(keys, _)| keys.len() <= 4));
    }

    #[test]
    fn a_file_of_a_window_tells_what_is_there_and_what_is_gone() {
        let line = |id: u32, image: &str| {
            let at = r#""Metadata":{"WriteTimestampMicros":{"N":"1"}}"#;
            format!("{{{at},\"Keys\":{{\"pk\":{{\"S\":\"{id}\"}}}}{image}}}\n")
        };
        let object = gzip(&[line(1, r#","NewImage":{"pk":{"S":"1"}}"#), line(2, "")].concat());
        let (keys, entry) = (codec(), entry(&object, 2));
        let mut file = DataFile::new(&entry, Kind::Window, &keys, None);
        file.put(object.clone().into());
        assert!(matches!(file.next_step(), Ok(Step::NeedsPart)));
        file.end();
        let Ok(Step::Last(page)) = file.next_step() else { panic!("a whole file") };
        let images: Vec<bool> = page.items.iter().map(|item| item.image.is_some()).collect();
        assert_eq!((images, page.bytes), (vec![true, false], 16));
        let mut file = DataFile::new(&entry, Kind::Full, &keys, None);
        file.put(object.into());
        assert!(matches!(file.next_step(), Ok(Step::NeedsPart)));
        file.end();
        assert!(matches!(file.next_step(), Err(FileError::Line { line: 1, .. })), "nor is it one of a full export");
    }

    #[test]
    fn files_without_items_are_whole_with_and_without_a_frame() {
        for object in [Vec::new(), gzip("")] {
            let pages = read(&object, &entry(&object, 0), 7, None).unwrap();
            assert!(pages.len() == 1 && pages[0].0.is_empty());
        }
    }

    #[test]
    fn several_members_are_one_file_and_the_last_line_needs_no_end() {
        let text = lines(4);
        let object = [gzip(&text[..20]), gzip(text[20..].trim_end())].concat();
        assert_eq!(keys_of(&read(&object, &entry(&object, 4), 11, None).unwrap()).len(), 4);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_line_and_without_its_contents() {
        let whole = gzip(&lines(3));
        let listed = entry(&whole, 3);
        let told = |object: &[u8], entry: &FileEntry| {
            let error = read(object, entry, 16, None).unwrap_err();
            crate::error::chain(&error)
        };
        let unchecked = FileEntry { md5: None, ..listed.clone() };
        assert!(told(&whole[..whole.len() - 9], &unchecked).starts_with("decompress it after line"));
        assert!(told(b"no gzip at all", &unchecked).starts_with("decompress it after line 0"));
        assert!(told(&[], &unchecked).contains("has 0 items, the list of files says 3"));
        assert!(
            told(&whole, &FileEntry { items: 4, ..listed.clone() }).contains("has 3 items, the list of files says 4")
        );
        assert!(told(&whole, &FileEntry { md5: Some([0; 16]), ..listed.clone() }).contains("MD5"));
        let odd = gzip(&format!("{}\n{{\"Item\":{{\"secret\":1}}}}\n", lines(2)));
        let told = told(&odd, &unchecked);
        assert!(told.starts_with("line 4: ") && !told.contains("secret"), "{told}");
    }

    #[test]
    fn what_was_taken_of_another_text_is_not_skipped() {
        let (one, other) = (gzip(&lines(5)), gzip(&lines(5).replace("key 1", "key x")));
        let listed = entry(&one, 5);
        let cursor = Cursor { items: 3, crc: 7 };
        assert!(matches!(read(&one, &listed, 16, Some(cursor)), Err(FileError::Changed)));
        let of_other = read(&other, &entry(&other, 5), 16, None).unwrap()[0].1;
        assert!(matches!(read(&one, &listed, 16, Some(of_other)), Err(FileError::Changed)));
        let beyond = Cursor { items: 9, crc: 0 };
        assert!(matches!(read(&one, &listed, 16, Some(beyond)), Err(FileError::Changed)));
    }

    #[test]
    fn a_bomb_takes_no_more_memory_than_a_line_may() {
        let object = gzip(&"x".repeat(40 << 20));
        let error = read(&object, &FileEntry { md5: None, ..entry(&object, 1) }, 1 << 20, None).unwrap_err();
        assert!(matches!(error, FileError::TooLong { line: 1 }), "{error}");
    }

    proptest! {
        #[test]
        fn however_it_comes_and_wherever_it_broke_off_every_item_comes_once(
            count in 0usize..300, part in 1usize..400, stop in 0usize..300,
        ) {
            let object = gzip(&lines(count));
            let entry = entry(&object, count as u64);
            let whole = read(&object, &entry, part, None).unwrap();
            prop_assert_eq!(keys_of(&whole).len(), count);
            let stop = stop.min(count);
            let text: String = lines(stop);
            let mut crc = Crc::new();
            crc.update(text.as_bytes());
            let cursor = Cursor { items: stop as u64, crc: crc.sum() };
            let rest = read(&object, &entry, part, Some(cursor)).unwrap();
            prop_assert_eq!(keys_of(&rest), keys_of(&whole)[stop..].to_vec());
        }

        #[test]
        fn a_damaged_file_is_never_taken_for_whole(at in 0usize..400, bit in 0u8..8, part in 1usize..100) {
            let mut object = gzip(&lines(40));
            let entry = entry(&object, 40);
            let at = at % object.len();
            object[at] ^= 1 << bit;
            prop_assert!(read(&object, &entry, part, None).is_err());
        }
    }
}
