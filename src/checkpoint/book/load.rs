//! The books of the initial load: pages whose items are under way, and the cursors of its segments.

use super::{Book, BookError, Event, text};
use crate::checkpoint::rows::{DoubtRow, PageId, SegmentRow};
use crate::model::{CanonicalKey, Key, WallTime};

#[derive(Debug)]
pub(super) struct PageBooks {
    remaining: usize,
    /// Of an export: whose items it has.
    pub(super) keys: Vec<CanonicalKey>,
    after: SegmentRow,
}

impl Book {
    /// Plans the segments of a load.
    pub(crate) fn plan_segments(&mut self, rows: impl IntoIterator<Item = SegmentRow>) {
        for row in rows {
            self.dirty.segments.insert(row.segment);
            self.segments.insert(row.segment, row);
        }
        self.dirty.urgent = true;
    }

    /// A page of the load was received: its items may be sent once this is durable. `after` is the segment's row for when
    /// all of them are settled.
    pub(crate) fn open_page<'a>(&mut self, page: PageId, keys: impl Iterator<Item = &'a Key>, after: SegmentRow) {
        let (mut remaining, mut listed) = (0, Vec::new());
        for key in keys {
            remaining += 1;
            if self.loads_export {
                listed.push(key.canonical.clone());
            }
            self.outlive_sync(key);
            self.dirty.pages.push(DoubtRow {
                key: key.canonical.clone(),
                key_json: text(key),
                until: WallTime::from_millis(0),
                page: Some(page),
                under_way: true,
            });
        }
        self.pages.insert(page, PageBooks { remaining, keys: listed, after });
        self.dirty.urgent = true;
        self.finish_page_if_done(page);
    }

    pub(super) fn settle_item(&mut self, page: PageId) -> Result<(), BookError> {
        let books = self.pages.get_mut(&page).ok_or_else(|| BookError::Unknown(format!("page {page:?}")))?;
        books.remaining = books.remaining.saturating_sub(1);
        self.finish_page_if_done(page);
        Ok(())
    }

    fn finish_page_if_done(&mut self, page: PageId) {
        if self.pages.get(&page).is_none_or(|books| books.remaining > 0) {
            return;
        }
        if let Some(books) = self.pages.remove(&page) {
            self.dirty.segments.insert(books.after.segment);
            self.segments.insert(books.after.segment, books.after);
            self.dirty.settled_pages.push(page);
            self.events.push(Event::PageDone(page));
        }
    }

    /// The load is done: its cursors are of no more use; how much it was is told by later runs, too.
    pub(crate) fn forget_segments(&mut self) {
        let before =
            self.link.load.as_ref().and_then(|plan| plan.export.as_ref()).map_or(0, |export| export.items_before);
        let items: u64 = self.segments.values().map(|segment| segment.items).sum::<u64>() + before;
        if let Some(plan) = &mut self.link.load {
            plan.loaded_items = plan.loaded_items.max(Some(items));
            self.dirty.link = true;
        }
        self.segments.clear();
        self.dirty.segments.clear();
        self.dirty.forget_segments = true;
    }
}
