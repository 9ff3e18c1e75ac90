//! Where the items of a namespace are.

use super::items::{PART, PARTS, part_sort};
use crate::checkpoint::ledger::Kind;
use crate::checkpoint::part::is_part;
use crate::checkpoint::table::{ItemKey, Range};

/// Where the rows of a namespace are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    namespace: String,
}

impl Places {
    pub(crate) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    /// The name of the namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The item that says which layout the whole table has.
    pub(crate) fn version() -> ItemKey {
        ItemKey { partition: "dynaferry".to_owned(), sort: b"schema_version".to_vec() }
    }

    pub(super) fn partition(&self, link: &str) -> String {
        format!("{}/link/{link}", self.namespace)
    }

    /// The head of a link.
    pub(crate) fn head(&self, link: &str) -> ItemKey {
        ItemKey { partition: self.partition(link), sort: vec![Kind::Fence as u8] }
    }

    /// The item that says that there is such a link, or such a part of one: those are no links to anybody who lists them.
    pub(crate) fn entry(&self, link: &str) -> ItemKey {
        let list = if is_part(link) { "parts" } else { "links" };
        ItemKey { partition: format!("{}/{list}", self.namespace), sort: link.as_bytes().to_vec() }
    }

    /// All parts of a link, of whatever division.
    pub(crate) fn part_entries(&self, link: &str) -> Range {
        let after_slash = char::from(b'/' + 1);
        let (from, to) = (format!("{link}/"), format!("{link}{after_slash}"));
        self.range(format!("{}/parts", self.namespace), from.into_bytes(), to.into_bytes())
    }

    /// The row of a link.
    pub(crate) fn link_row(&self, link: &str) -> ItemKey {
        ItemKey { partition: self.partition(link), sort: vec![Kind::Link as u8] }
    }

    /// The keys of everything of a link.
    pub(crate) fn all_keys(&self, link: &str) -> Range {
        Range { only: &[PARTS], ..self.range(self.partition(link), vec![0], vec![0xFF]) }
    }

    /// All links.
    pub(crate) fn entries(&self) -> Range {
        self.range(format!("{}/links", self.namespace), vec![0], vec![0xFF])
    }

    /// What the last comparison of a link's tables found. In no link's own partition, whose rows are its owner's alone.
    pub(crate) fn verified(&self, link: &str) -> ItemKey {
        ItemKey { partition: format!("{}/verified", self.namespace), sort: link.as_bytes().to_vec() }
    }

    /// A gate of a link. In a partition of its own, for each write of the target asks for one.
    pub(crate) fn gate(&self, link: &str, number: u32) -> ItemKey {
        ItemKey { partition: format!("{}/gate/{link}/{number}", self.namespace), sort: b"gate".to_vec() }
    }

    /// The export that a link has asked for. In no link's own partition, as above.
    pub(crate) fn export(&self, link: &str) -> ItemKey {
        ItemKey { partition: format!("{}/exports", self.namespace), sort: link.as_bytes().to_vec() }
    }

    /// The import that a link has asked for, likewise.
    pub(crate) fn import(&self, link: &str) -> ItemKey {
        ItemKey { partition: format!("{}/imports", self.namespace), sort: link.as_bytes().to_vec() }
    }

    /// A worker's pulse.
    pub(crate) fn worker(&self, worker: &str) -> ItemKey {
        ItemKey { partition: format!("{}/workers", self.namespace), sort: worker.as_bytes().to_vec() }
    }

    /// All workers.
    pub(crate) fn workers(&self) -> Range {
        self.range(format!("{}/workers", self.namespace), vec![0], vec![0xFF])
    }

    /// Everything of a link but dead letters.
    pub(crate) fn rows(&self, link: &str) -> Range {
        self.range(self.partition(link), vec![0], vec![Kind::DeadLetter as u8])
    }

    /// The further items of those rows.
    pub(crate) fn parts(&self, link: &str) -> Range {
        self.range(self.partition(link), vec![PART, 0], vec![PART, Kind::DeadLetter as u8])
    }

    /// Dead letters with a number of this one or above.
    pub(crate) fn letters(&self, link: &str, from: u64) -> Range {
        let from = [&[Kind::DeadLetter as u8][..], &from.to_be_bytes()].concat();
        self.range(self.partition(link), from, vec![Kind::DeadLetter as u8 + 1])
    }

    /// The same, without what they hold.
    pub(crate) fn letter_numbers(&self, link: &str) -> Range {
        Range { only: &[PARTS], ..self.letters(link, 0) }
    }

    /// A further item of a row.
    pub(crate) fn part(&self, link: &str, sort: &[u8], part: u16) -> ItemKey {
        ItemKey { partition: self.partition(link), sort: part_sort(sort, part) }
    }

    #[expect(clippy::unused_self, reason = "ranges are of a namespace")]
    fn range(&self, partition: String, from: Vec<u8>, to: Vec<u8>) -> Range {
        Range { partition, from, to, after: None, limit: None, only: &[] }
    }
}
