//! The books of the initial load: pages whose items are under way, and the cursors of its segments.

use super::{Book, BookError, Event};
use crate::checkpoint::rows::{PageId, SegmentRow};
use crate::model::Key;

#[derive(Debug)]
pub(super) struct PageBooks {
    remaining: usize,
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
    pub(crate) fn open_page(&mut self, page: PageId, keys: Vec<Key>, after: SegmentRow) {
        keys.iter().for_each(|key| self.outlive_sync(key));
        self.pages.insert(page, PageBooks { remaining: keys.len(), after });
        self.dirty.pages.push((page, keys));
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
