//! The calls: one row or all of them, a transaction, and how patient to be with each.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::super::layout::{self, Head, Image, Items, Places, VALUE};
use super::super::part::is_part;
use super::super::rows::{DeadLetterRow, Fence, LinkRow, SCHEMA_VERSION};
use super::super::rules;
use super::super::table::{
    Field, Fields, Found, Guard, ItemKey, ItemWrite, MAX_TRANSACTION_ITEMS, Range, StateTable, Written,
};
use super::super::{LinkState, PartName, Sighting, Sign, StateWrite, StoreError, StoreResult, ledger};
use super::Memory;
use crate::context::Context;
use crate::error::{Failure, Fault};
use crate::retry::{Attempts, Patience, Verdict};

/// For how long one call is tried again, before whoever waits for it hears of the trouble. A service tries again after that.
const TRY_FOR: Duration = Duration::from_secs(20);
/// How long a table that is being made is waited for, and how often it is looked at.
const MADE_WITHIN: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(1));
/// How often a link that is being written is read for somebody else, and how long after each other.
const READS: (u32, Duration) = (8, Duration::from_millis(50));
/// Between two looks at what an owner left that may have been writing: the parts of a transaction are there long before.
const SETTLES_WITHIN: Duration = Duration::from_millis(500);
/// Attribute that tells a row beside the links from another one.
pub(super) const MARK: &str = "mark";
/// Attribute of the item that tells the layout's version.
const VERSION: &str = "version";

/// The table and how to be patient with it.
pub(super) struct Reach {
    pub(super) table: Arc<dyn StateTable>,
    pub(super) places: Places,
    pub(super) context: Context,
}

impl Reach {
    pub(super) async fn find_or_create(&self, create: bool) -> StoreResult<()> {
        let until = Instant::now() + MADE_WITHIN.0;
        let mut is_made = false;
        loop {
            let found = self.patiently(|| self.table.find()).await?;
            match found {
                Found::Ready => return Ok(()),
                Found::Foreign => {
                    let what = "it is a table for something else: its keys are not pk (S) and sk (B)".to_owned();
                    return Err(StoreError::Damaged { place: self.place(), what });
                }
                Found::Nothing if !create => return Err(StoreError::Gone { place: self.place() }),
                Found::Nothing if !is_made => {
                    tracing::info!(table = self.place(), "making the table for the state");
                    self.patiently(|| self.table.create()).await?;
                    is_made = true;
                    continue;
                }
                Found::Nothing | Found::NotYet if Instant::now() < until => {}
                Found::Nothing | Found::NotYet => {
                    let source = "the table is not ready yet".into();
                    return Err(StoreError::Io { place: self.place(), source });
                }
            }
            tokio::time::sleep(MADE_WITHIN.1).await;
        }
    }

    pub(super) async fn check_version(&self, create: bool) -> StoreResult<()> {
        let key = Places::version();
        let mut fields = self.get(&key).await?;
        if fields.is_none() && create {
            let version = Fields::from([(VERSION.to_owned(), Field::Number(SCHEMA_VERSION.into()))]);
            let write = ItemWrite::new(key.clone(), Some(version)).guarded(Guard::Absent);
            self.write(&write).await?;
            fields = self.get(&key).await?;
        }
        match fields.as_ref().and_then(|fields| fields.get(VERSION)) {
            Some(Field::Number(version)) if *version == u64::from(SCHEMA_VERSION) => Ok(()),
            Some(Field::Number(version)) => {
                let found = u32::try_from(*version).unwrap_or(u32::MAX);
                Err(StoreError::Version { place: self.place(), found, known: SCHEMA_VERSION })
            }
            _ => Err(StoreError::Damaged { place: self.place(), what: "it does not say its version".to_owned() }),
        }
    }

    pub(super) fn place(&self) -> String {
        self.table.place()
    }

    /// Tries a call again while its failure may pass, for a while.
    async fn patiently<T, F>(&self, mut call: impl FnMut() -> F) -> StoreResult<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let (mut attempts, begun) = (Attempts::new(Patience::COMMAND), Instant::now());
        loop {
            let failure = match call().await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match attempts.failed_with(&failure, begun.elapsed(), self.context.draw()) {
                Verdict::Again(wait) if begun.elapsed() + wait < TRY_FOR => {
                    tracing::debug!(error = %failure, "the state table did not answer, trying again");
                    tokio::time::sleep(wait).await;
                }
                Verdict::Again(_) | Verdict::Stop => return Err(self.failed(failure)),
            }
        }
    }

    fn failed(&self, failure: Failure) -> StoreError {
        let place = self.place();
        match failure.fault {
            Fault::Lost => StoreError::Gone { place },
            Fault::Denied => StoreError::Denied { place, source: failure.into() },
            Fault::Transient | Fault::Expired | Fault::Rejected | Fault::Broken => {
                StoreError::Io { place, source: failure.into() }
            }
        }
    }

    pub(super) async fn get(&self, key: &ItemKey) -> StoreResult<Option<Fields>> {
        self.patiently(|| self.table.get(key)).await
    }

    pub(super) async fn write(&self, write: &ItemWrite) -> StoreResult<Written> {
        self.patiently(|| self.table.write(write)).await
    }

    /// All items of a range, or the first so many.
    async fn all(&self, mut range: Range, limit: usize) -> StoreResult<Vec<(Vec<u8>, Fields)>> {
        let mut items = Vec::new();
        while items.len() < limit {
            let page = self.patiently(|| self.table.query(&range)).await?;
            items.extend(page.items);
            match page.next {
                Some(next) if range.after.as_ref() != Some(&next) => range.after = Some(next),
                _ => break,
            }
        }
        items.truncate(limit);
        Ok(items)
    }

    /// A name for one write, or one transaction: nobody else has it.
    pub(super) fn nonce(&self) -> String {
        format!("{:016x}{:016x}", self.context.draw_u64(), self.context.draw_u64())
    }

    /// Writes a row that is not of a link's owner. `mark` tells it from others. Answers whether the guard held, or the row is
    /// there already.
    pub(super) async fn note<T: Serialize>(
        &self,
        key: ItemKey,
        row: &T,
        mark: String,
        guard: Guard,
    ) -> StoreResult<bool> {
        let value = serde_json::to_vec(row).map_err(|error| self.damaged_note(&error))?;
        let mark = Field::Text(mark);
        let fields = Fields::from([(VALUE.to_owned(), Field::Bytes(value)), (MARK.to_owned(), mark.clone())]);
        let written = self.write(&ItemWrite::new(key, Some(fields)).guarded(guard)).await?;
        Ok(match written {
            Written::Done => true,
            // An attempt whose answer was lost.
            Written::Refused(found) => found.is_some_and(|found| found.get(MARK) == Some(&mark)),
        })
    }

    pub(super) async fn noted<T: DeserializeOwned>(&self, key: &ItemKey) -> StoreResult<Option<T>> {
        let fields = self.get(key).await?;
        match fields.as_ref().and_then(|fields| fields.get(VALUE)) {
            Some(Field::Bytes(value)) => {
                serde_json::from_slice(value).map(Some).map_err(|error| self.damaged_note(&error))
            }
            _ => Ok(None),
        }
    }

    fn damaged_note(&self, error: &serde_json::Error) -> StoreError {
        let what = format!("a row beside the links: {:?}", error.classify());
        StoreError::Damaged { place: self.place(), what }
    }

    async fn head(&self, link: &str) -> StoreResult<Option<Head>> {
        let fields = self.get(&self.places.head(link)).await?;
        fields.map(|fields| Head::parse(&fields, &self.place())).transpose()
    }

    /// All rows, as they are read; of a link whose owner writes meanwhile they may be of several moments.
    async fn load(&self, link: &str) -> StoreResult<Image> {
        let mut rows = self.all(self.places.rows(link), usize::MAX).await?;
        rows.extend(self.all(self.places.letter_numbers(link), usize::MAX).await?);
        let parts = match rows.iter().any(|(_, fields)| layout::parts_of(fields) > 1) {
            true => self.all(self.places.parts(link), usize::MAX).await?,
            false => Vec::new(),
        };
        Image::of_items(&self.place(), Items { rows, parts })
    }

    /// All rows, of one moment wherever that can be had.
    pub(super) async fn load_steadily(&self, link: &str) -> StoreResult<Image> {
        let mut before = self.head(link).await?;
        for _ in 0..READS.0 {
            let image = self.load(link).await;
            let after = self.head(link).await?;
            if before == after {
                return image;
            }
            before = after;
            tokio::time::sleep(READS.1).await;
        }
        // Somebody writes it all the time. Each row is whole, and that is enough to look at.
        self.load(link).await.map_err(|error| match error {
            StoreError::Damaged { place, what } => {
                StoreError::Io { place, source: format!("{what}, while it is being written").into() }
            }
            error => error,
        })
    }

    /// All rows, when nobody may write them any more and the last writes may still be on their way into view.
    async fn load_settled(&self, link: &str) -> StoreResult<Image> {
        let mut image = self.load(link).await;
        for _ in 0..READS.0 {
            tokio::time::sleep(SETTLES_WITHIN).await;
            let before = std::mem::replace(&mut image, self.load(link).await);
            if before.is_ok_and(|before| image.as_ref().is_ok_and(|now| before == *now)) {
                break;
            }
        }
        image
    }

    /// Replaces the head, if it still is `seen`, or whatever it is. `None`: somebody was faster.
    pub(super) async fn take(
        &self,
        link: &str,
        owner: &str,
        seen: Option<&Option<Fence>>,
    ) -> StoreResult<Option<(Fence, LinkState, Image)>> {
        loop {
            let before = self.head(link).await?;
            let fence_before = before.as_ref().map(|head| head.fence.clone());
            if seen.is_some_and(|seen| *seen != fence_before) {
                return Ok(None);
            }
            if before.is_none() && is_part(link) {
                return Ok(None);
            }
            if before.is_none() {
                // Before the link has anything: a link that is listed and has nothing is harmless, the other way round not.
                self.write(&ItemWrite::new(self.places.entry(link), Some(Fields::new()))).await?;
            }
            let fence = rules::next_fence(fence_before.as_ref(), owner);
            let head = Head { fence: fence.clone(), seq: 0, nonce: self.nonce(), released: false };
            // Not of its last transaction: the owner may be writing.
            let guard = before.as_ref().map_or(Guard::Absent, Head::guard_of_owner);
            let write = ItemWrite::new(self.places.head(link), Some(head.fields())).guarded(guard);
            if let Written::Refused(found) = self.write(&write).await? {
                let found = found.map(|fields| Head::parse(&fields, &self.place())).transpose()?;
                let is_ours = found.is_some_and(|found| found.fence == fence && found.nonce == head.nonce);
                if !is_ours {
                    continue;
                }
            }
            let image = match before {
                Some(head) if !head.released => self.load_settled(link).await?,
                _ => self.load(link).await?,
            };
            let state = LinkState { fence: fence_before, ..ledger::read(&image, link)? };
            return Ok(Some((fence, state, image)));
        }
    }

    /// One transaction: these items, if the link is still the owner's as `head` says. Answers the next head.
    async fn transact(&self, link: &str, head: &Head, items: Vec<ItemWrite>) -> StoreResult<Head> {
        let next = Head { seq: head.seq + 1, nonce: self.nonce(), ..head.clone() };
        let guarded = ItemWrite::new(self.places.head(link), Some(next.fields())).guarded(head.guard_of_writer());
        let writes: Vec<ItemWrite> = std::iter::once(guarded).chain(items).collect();
        let written = self.patiently(|| self.table.transact(&next.nonce, &writes)).await?;
        let Written::Refused(found) = written else { return Ok(next) };
        let found = found.map(|fields| Head::parse(&fields, &self.place())).transpose()?;
        match found {
            // An attempt whose answer was lost.
            Some(found) if found == next => Ok(next),
            Some(found) if found.fence == head.fence => {
                let source = "an earlier write arrived late: the state is read anew".into();
                Err(StoreError::Io { place: self.place(), source })
            }
            Some(_) => Err(StoreError::Fenced { link: link.to_owned() }),
            None => Err(self.headless(link)),
        }
    }

    /// What the owner of a link hears whose head is gone.
    fn headless(&self, link: &str) -> StoreError {
        match is_part(link) {
            // It was put together with the others, and removed.
            true => StoreError::Fenced { link: link.to_owned() },
            false => StoreError::Gone { place: self.place() },
        }
    }

    /// `memory`: what is known of the link, of whatever owner; left there as it is after the commit.
    pub(super) async fn commit(
        &self,
        memory: &mut Memory,
        link: &str,
        fence: &Fence,
        writes: Vec<StateWrite>,
    ) -> StoreResult<()> {
        // What fails half-way leaves none: what is in the table is then read again.
        let known = memory.image.take().filter(|known| known.fence() == Some(fence));
        let is_known = known.is_some();
        let mut known = match known {
            Some(known) => known,
            None => self.load(link).await?,
        };
        let Some(mut head) = known.head.clone().filter(|head| rules::is_owner(Some(&head.fence), fence)) else {
            return Err(match &known.head {
                None if memory.was_taken => self.headless(link),
                _ => StoreError::Fenced { link: link.to_owned() },
            });
        };
        let mut plan = match layout::plan(&self.places, &known, link, fence, writes) {
            Ok(plan) => plan,
            Err(refused) => {
                memory.image = Some(known);
                return Err(refused);
            }
        };
        if plan.steps.is_empty() && is_known {
            // Nothing to write; whether the link is still ours is asked for all the same.
            match self.head(link).await? {
                Some(found) if found.fence == *fence => {}
                Some(_) => return Err(StoreError::Fenced { link: link.to_owned() }),
                None => return Err(self.headless(link)),
            }
        }
        for step in std::mem::take(&mut plan.steps) {
            head = self.transact(link, &head, step).await?;
        }
        plan.apply_to(&mut known, link, head)?;
        memory.image = Some(known);
        Ok(())
    }

    pub(super) async fn letters(&self, link: &str, after: u64, limit: usize) -> StoreResult<Vec<DeadLetterRow>> {
        let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
        let range = Range { limit: u32::try_from(limit).ok(), ..self.places.letters(link, from) };
        let mut letters = Vec::new();
        for (sort, fields) in self.all(range, limit).await? {
            let mut parts = Vec::new();
            for part in 1..layout::parts_of(&fields) {
                parts.push(self.get(&self.places.part(link, &sort, part)).await?);
            }
            let value = layout::whole(&self.place(), &fields, parts.iter().map(Option::as_ref))?;
            letters.push(serde_json::from_slice(&value).map_err(|_| StoreError::Damaged {
                place: self.place(),
                what: format!("a dead letter of link {link}"),
            })?);
        }
        Ok(letters)
    }

    pub(super) async fn link_row(&self, link: &str) -> StoreResult<Option<LinkRow>> {
        let Some(fields) = self.get(&self.places.link_row(link)).await? else { return Ok(None) };
        let mut parts = Vec::new();
        for part in 1..layout::parts_of(&fields) {
            parts.push(self.get(&self.places.part(link, &self.places.link_row(link).sort, part)).await?);
        }
        let value = layout::whole(&self.place(), &fields, parts.iter().map(Option::as_ref))?;
        serde_json::from_slice(&value).map(Some).map_err(|error| {
            let what = format!("the row of link {link}: {:?} at byte {}", error.classify(), error.column());
            StoreError::Damaged { place: self.place(), what }
        })
    }

    /// By the way of all commits, under a head of its own that is let go of at the end: so what arrives late of it is refused.
    pub(super) async fn make_part(&self, part: &PartName, owner: &str, writes: Vec<StateWrite>) -> StoreResult<()> {
        let name = part.to_string();
        // Before the part has anything: it is found by this, and removed if nothing comes of it.
        self.write(&ItemWrite::new(self.places.entry(&name), Some(Fields::new()))).await?;
        let fence = Fence { owner: owner.to_owned(), epoch: 0 };
        let head = Head { fence: fence.clone(), seq: 0, nonce: self.nonce(), released: false };
        let write = ItemWrite::new(self.places.head(&name), Some(head.fields())).guarded(Guard::Absent);
        if let Written::Refused(found) = self.write(&write).await? {
            let found = found.map(|fields| Head::parse(&fields, &self.place())).transpose()?;
            if found != Some(head) {
                return Err(StoreError::Fenced { link: name });
            }
        }
        if !writes.is_empty() {
            self.commit(&mut Memory::default(), &name, &fence, writes).await?;
        }
        self.release_link(&name, owner).await
    }

    pub(super) async fn parts(&self, link: &str) -> StoreResult<Vec<PartName>> {
        let entries = self.all(self.places.part_entries(link), usize::MAX).await?;
        let names = entries.into_iter().filter_map(|(sort, _)| PartName::parse(std::str::from_utf8(&sort).ok()?));
        Ok(names.filter(|part| part.link == link).collect())
    }

    /// The head first, so that nobody writes what is removed; the entry last, so that what is left is found.
    pub(super) async fn remove_part(&self, part: &PartName) -> StoreResult<()> {
        let name = part.to_string();
        self.write(&ItemWrite::new(self.places.head(&name), None)).await?;
        let keys = self.all(self.places.all_keys(&name), usize::MAX).await?;
        let partition = self.places.head(&name).partition;
        let deletes =
            keys.into_iter().map(|(sort, _)| ItemWrite::new(ItemKey { partition: partition.clone(), sort }, None));
        for deletes in deletes.collect::<Vec<_>>().chunks(MAX_TRANSACTION_ITEMS) {
            let token = self.nonce();
            self.patiently(|| self.table.transact(&token, deletes)).await?;
        }
        self.write(&ItemWrite::new(self.places.entry(&name), None)).await.map(drop)
    }

    pub(super) async fn links(&self) -> StoreResult<Vec<String>> {
        let entries = self.all(self.places.entries(), usize::MAX).await?;
        Ok(entries.into_iter().filter_map(|(sort, _)| String::from_utf8(sort).ok()).collect())
    }
}

impl Reach {
    pub(super) async fn give_sign(&self, sign: &Sign, first: bool) -> StoreResult<bool> {
        let guard = if first { Guard::Absent } else { layout::guard_of_counter(sign.counter.saturating_sub(1)) };
        let key = self.places.worker(&sign.worker);
        let write = ItemWrite::new(key, Some(layout::sign_fields(sign))).guarded(guard);
        match self.table.write(&write).await.map_err(|failure| self.failed(failure))? {
            Written::Done => Ok(true),
            Written::Refused(found) => Ok(found.as_ref().and_then(layout::counter_of) == Some(sign.counter)),
        }
    }

    pub(super) async fn all_signs(&self) -> StoreResult<Vec<Sign>> {
        let rows = self.all(self.places.workers(), usize::MAX).await?;
        Ok(rows.iter().filter_map(|(sort, fields)| layout::sign_of(sort, fields)).collect())
    }

    pub(super) async fn forget_worker(&self, worker: &str, counter: u64) -> StoreResult<()> {
        let guard = layout::guard_of_counter(counter);
        self.write(&ItemWrite::new(self.places.worker(worker), None).guarded(guard)).await.map(drop)
    }

    pub(super) async fn sight_link(&self, link: &str, with_counter: bool) -> StoreResult<Sighting> {
        let Some(head) = self.head(link).await? else { return Ok(Sighting::default()) };
        let mut sighting = Sighting { released: head.released, fence: None, counter: None, lease: None };
        if with_counter && !head.released {
            let row = self.get(&self.places.worker(&head.fence.owner)).await?;
            sighting.counter = Some(row.as_ref().and_then(layout::counter_of));
            sighting.lease = row.as_ref().and_then(layout::lease_of);
        }
        Ok(Sighting { fence: Some(head.fence), ..sighting })
    }

    /// Counts up, too: a transaction that is still on its way is refused, and cannot take the word back.
    pub(super) async fn release_link(&self, link: &str, owner: &str) -> StoreResult<()> {
        loop {
            let Some(head) = self.head(link).await?.filter(|head| head.fence.owner == owner && !head.released) else {
                return Ok(());
            };
            let released = Head { released: true, seq: head.seq + 1, nonce: self.nonce(), ..head.clone() };
            let write = ItemWrite::new(self.places.head(link), Some(released.fields()));
            // Refused: by an earlier attempt, by another owner, or by a transaction of ours that arrived just now.
            if self.write(&write.guarded(head.guard_of_writer())).await? == Written::Done {
                return Ok(());
            }
        }
    }
}
