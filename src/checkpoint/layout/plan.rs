//! A commit as transactions.

use std::collections::{BTreeMap, BTreeSet};

use super::head::Head;
use super::image::Image;
use super::items::{KEY, MAX_KEY, MAX_PACK, MAX_PART, PARTS, VALUE, pack_doubt, part_sort, row_sort, shown};
use super::places::Places;
use crate::checkpoint::ledger::{self, Changes, Kind, Overlay, Rows as _, StoredDoubt};
use crate::checkpoint::pages::PAGE_PREFIX;
use crate::checkpoint::rows::Fence;
use crate::checkpoint::table::{Field, Fields, ItemKey, ItemWrite, MAX_TRANSACTION_ITEMS};
use crate::checkpoint::{StateWrite, StoreError, StoreResult};

/// Bytes of a transaction's values, about: a pack or a part less than the service's 4 MB.
const MAX_TRANSACTION: usize = 3 << 20;
/// A step is cut after so many rows, or so many bytes: then it is one transaction.
const STEP: (usize, usize) = (90, 2 << 20);

/// A commit as it is to be written.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// One transaction each, in this order, besides the head of the link.
    pub(crate) steps: Vec<Vec<ItemWrite>>,
    changes: Changes,
    stored: BTreeMap<Vec<u8>, Option<u16>>,
}

impl Plan {
    /// It was written, and the head is this one now.
    pub(crate) fn apply_to(self, image: &mut Image, link: &str, head: Head) -> StoreResult<()> {
        for ((kind, key), value) in self.changes {
            image.write(link, kind, &key, value.as_deref())?;
        }
        for (sort, parts) in self.stored {
            image.set_parts(sort, parts);
        }
        image.head = Some(head);
        Ok(())
    }
}

/// Judges a commit, and turns it into transactions. Refused: nothing of it may be written.
pub(crate) fn plan(
    places: &Places,
    image: &Image,
    link: &str,
    fence: &Fence,
    writes: Vec<StateWrite>,
) -> StoreResult<Plan> {
    let mut planner = Planner {
        partition: places.partition(link),
        link,
        image,
        overlay: Overlay::noting(image, link, fence.epoch),
        plan: Plan::default(),
        dirty: BTreeSet::new(),
        order: Vec::new(),
        shrunk: BTreeSet::new(),
        weight: 0,
    };
    for write in writes {
        if matches!(write, StateWrite::ForgetSegments) {
            planner.cut()?;
        }
        planner.overlay.apply(write)?;
        planner.note()?;
        if planner.order.len() >= STEP.0 || planner.weight >= STEP.1 {
            planner.cut()?;
        }
    }
    let shrunk = std::mem::take(&mut planner.shrunk);
    let shrunk = shrunk.into_iter().map(|page| (Kind::DoubtOfPage, page));
    let shrunk: Vec<Stored> = shrunk.filter(|pack| !planner.dirty.contains(pack)).collect();
    planner.order.extend(shrunk);
    planner.cut()?;
    let Planner { overlay, mut plan, .. } = planner;
    plan.changes = overlay.changes;
    Ok(plan)
}

/// A row as the table keeps it: a row of the ledger, or all packs of a page.
type Stored = (Kind, Vec<u8>);

/// A sort key, the value (`None`: the row goes), and the key where the sort key does not hold all of it.
type Row = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

struct Planner<'a> {
    partition: String,
    link: &'a str,
    image: &'a Image,
    overlay: Overlay<'a>,
    plan: Plan,
    dirty: BTreeSet<Stored>,
    order: Vec<Stored>,
    /// Pages that have fewer keys than their packs.
    shrunk: BTreeSet<Vec<u8>>,
    weight: usize,
}

impl Planner<'_> {
    /// Takes note of what the last write changed.
    fn note(&mut self) -> StoreResult<()> {
        for (kind, key) in self.overlay.take_touched() {
            let stored = match kind {
                Kind::DoubtOfPage => {
                    let page = key.get(..PAGE_PREFIX).unwrap_or_default().to_vec();
                    if self.overlay.bytes(kind, &key)?.is_none() {
                        self.shrunk.insert(page);
                        continue;
                    }
                    self.weight += key.len() * 2;
                    (kind, page)
                }
                Kind::Doubt if !self.is_own_row(&key)? && !self.is_stored(&row_sort(kind, &key)) => continue,
                _ => {
                    self.weight += self.overlay.bytes(kind, &key)?.map_or(0, |value| value.len());
                    (kind, key)
                }
            };
            if self.dirty.insert(stored.clone()) {
                self.order.push(stored);
            }
        }
        Ok(())
    }

    /// Whether a key in doubt is a row of its own now, and not in a pack.
    fn is_own_row(&self, key: &[u8]) -> StoreResult<bool> {
        let Some(value) = self.overlay.bytes(Kind::Doubt, key)? else { return Ok(false) };
        let doubt: StoredDoubt = ledger::decode(self.image, self.link, Kind::Doubt, &value)?;
        Ok(doubt.page.is_none())
    }

    fn is_stored(&self, sort: &[u8]) -> bool {
        self.stored_parts(sort) > 0
    }

    fn stored_parts(&self, sort: &[u8]) -> u16 {
        match self.plan.stored.get(sort) {
            Some(parts) => parts.unwrap_or(0),
            None => self.image.parts(sort),
        }
    }

    /// Everything noted so far goes out before anything that comes.
    fn cut(&mut self) -> StoreResult<()> {
        let (mut step, mut bytes) = (Vec::new(), 0);
        self.dirty.clear();
        self.weight = 0;
        for (kind, key) in std::mem::take(&mut self.order) {
            let rows = match kind {
                Kind::DoubtOfPage => self.packs(&key)?,
                Kind::Doubt if !self.is_own_row(&key)? => vec![(row_sort(kind, &key), None, None)],
                _ => {
                    let sort = row_sort(kind, &key);
                    let value = self.overlay.bytes(kind, &key)?;
                    vec![(sort, value, (key.len() > MAX_KEY).then_some(key))]
                }
            };
            for (sort, value, key) in rows {
                let size = value.as_ref().map_or(0, Vec::len) + sort.len();
                let items = self.items(&sort, value, key)?;
                let is_full = step.len() + items.len() >= MAX_TRANSACTION_ITEMS || bytes + size > MAX_TRANSACTION;
                if is_full && !step.is_empty() {
                    self.plan.steps.push(std::mem::take(&mut step));
                    bytes = 0;
                }
                bytes += size;
                step.extend(items);
            }
        }
        if !step.is_empty() {
            self.plan.steps.push(step);
        }
        Ok(())
    }

    /// The packs of a page as it is now. What is left over of them goes.
    fn packs(&self, prefix: &[u8]) -> StoreResult<Vec<Row>> {
        let mut packs: Vec<Vec<u8>> = Vec::new();
        for entry in self.overlay.keys(Kind::DoubtOfPage, prefix)? {
            let key = entry.get(prefix.len()..).unwrap_or_default();
            let Some(value) = self.overlay.bytes(Kind::Doubt, key)? else { continue };
            let doubt: StoredDoubt = ledger::decode(self.image, self.link, Kind::Doubt, &value)?;
            if packs.last().is_none_or(|pack| pack.len() >= MAX_PACK) {
                packs.push(Vec::new());
            }
            if let Some(pack) = packs.last_mut() {
                pack_doubt(pack, key, &doubt);
            }
        }
        let num_packs = packs.len();
        let sort = |number: usize| {
            let number = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
            [&[Kind::DoubtOfPage as u8][..], prefix, &number].concat()
        };
        let mut rows: Vec<_> =
            packs.into_iter().enumerate().map(|(number, pack)| (sort(number), Some(pack), None)).collect();
        let left = (num_packs..).map(sort).take_while(|sort| self.is_stored(sort));
        rows.extend(left.map(|sort| (sort, None, None)));
        Ok(rows)
    }

    /// The items that a row becomes, and those that it leaves.
    fn items(&mut self, sort: &[u8], value: Option<Vec<u8>>, key: Option<Vec<u8>>) -> StoreResult<Vec<ItemWrite>> {
        let before = self.stored_parts(sort);
        let item = |sort: Vec<u8>, fields| ItemWrite::new(ItemKey { partition: self.partition.clone(), sort }, fields);
        let mut items = Vec::new();
        let mut parts = 0_u16;
        if let Some(value) = &value {
            if value.len() > MAX_TRANSACTION {
                let what = format!("a row of {} bytes is too large for a table", value.len());
                return Err(StoreError::Invariant { link: self.link.to_owned(), what });
            }
            let num_parts = u16::try_from(value.len().div_ceil(MAX_PART)).unwrap_or(u16::MAX).max(1);
            let mut chunks = value.chunks(MAX_PART);
            let first = chunks.next().unwrap_or_default();
            let mut fields = Fields::from([(VALUE.to_owned(), shown(first))]);
            fields.extend(key.map(|key| (KEY.to_owned(), Field::Bytes(key))));
            if num_parts > 1 {
                fields.insert(PARTS.to_owned(), Field::Number(num_parts.into()));
            }
            items.push(item(sort.to_vec(), Some(fields)));
            parts = 1;
            for chunk in chunks {
                let fields = Fields::from([(VALUE.to_owned(), Field::Bytes(chunk.to_vec()))]);
                items.push(item(part_sort(sort, parts), Some(fields)));
                parts += 1;
            }
        } else if before > 0 {
            items.push(item(sort.to_vec(), None));
        }
        items.extend((parts.max(1)..before).map(|part| item(part_sort(sort, part), None)));
        self.plan.stored.insert(sort.to_vec(), value.map(|_| parts));
        Ok(items)
    }
}
