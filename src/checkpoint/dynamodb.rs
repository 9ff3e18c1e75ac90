//! The store of many processes: a table in the target account.
//!
//! # Why it is sound
//! - *One writer.* A link's rows are written in transactions that ask for the head of the link to be as its owner knows it
//!   ([`Head`]), and that count it up. [`StateStore::take`] replaces the head first and reads the rows after it: what the
//!   last owner has written by then is read, and what it tries later is refused. So the reader needs no snapshot, and the
//!   owner may keep the rows in memory.
//! - *Lost answers.* A refused transaction is held against its own nonce before it is believed: where the head has it, an
//!   earlier attempt was carried out. Where the head is still this owner's with another number, an attempt of a commit that
//!   was given up arrived late: the rows are read anew and the commit is tried again. Where it is another's, this owner
//!   is superseded, and only there it is told so.
//! - *Late attempts* find another number, whenever they arrive. The token that the service knows for ten minutes spares
//!   the refusal and is not relied on.
//! - *Order.* Transactions of a link are made one after the other, each answered before the next, in the order of the
//!   calls; a commit of several is safe to break off between them (`layout`).
//! - *Taken over.* A transaction becomes visible to a query item by item (API reference, TransactWriteItems: isolation of
//!   queries is read-committed), so what is taken from an owner that did not let go is read until two looks agree.
//! - *Consistency.* Every read asks for it. A read of somebody else's link compares the head's number before and after.
//! - *Loss.* A table that is not there, or a link without its head, is never made anew by a process that knew it. One that
//!   starts afterwards cannot tell a table that was deleted from one that never was, and makes it.
//!
//! The task is [`TableTask`]; whoever holds the [`TableStore`] sends it what is to be done. Links do not wait for each other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::layout::{self, Head, Image, Items, Places};
use super::rows::{DeadLetterRow, DoubtRow, Fence, SCHEMA_VERSION, VerifiedRow};
use super::rules;
use super::table::{Field, Fields, Found, Guard, ItemKey, ItemWrite, Range, StateTable, Written};
use super::{Leases, LinkState, Pulses, Sighting, Sign, StateStore, StateWrite, StoreError, StoreResult, ledger};
use crate::context::Context;
use crate::error::{Failure, Fault};
use crate::model::CanonicalKey;
use crate::retry::{Attempts, Patience, Verdict};

/// For how long one call is tried again, before whoever waits for it hears of the trouble. A service tries again after that.
const TRY_FOR: Duration = Duration::from_secs(20);
/// How long a table that is being made is waited for, and how often it is looked at.
const MADE_WITHIN: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(1));
/// How often a link that is being written is read for somebody else, and how long after each other.
const READS: (u32, Duration) = (8, Duration::from_millis(50));
/// Between two looks at what an owner left that may have been writing: the parts of a transaction are there long before.
const SETTLES_WITHIN: Duration = Duration::from_millis(500);
/// Attribute of the item that tells the layout's version.
const VERSION: &str = "version";

/// State in a DynamoDB table. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TableStore {
    reach: Arc<Reach>,
    jobs: mpsc::UnboundedSender<(String, Job)>,
    _task: Option<Arc<AbortOnDropHandle<()>>>,
}

/// The table and how to be patient with it.
struct Reach {
    table: Arc<dyn StateTable>,
    places: Places,
    context: Context,
}

/// Opens the table, and makes it where there is none and `create` is set. The task must run for the store to answer.
///
/// # Errors
/// [`StoreError::Gone`] without a table; [`StoreError::Version`], [`StoreError::Damaged`] for another one.
pub(crate) async fn open(
    table: Arc<dyn StateTable>,
    namespace: &str,
    context: Context,
    create: bool,
) -> StoreResult<(TableStore, TableTask)> {
    let reach = Arc::new(Reach { table, places: Places::new(namespace), context });
    reach.find_or_create(create).await?;
    reach.check_version(create).await?;
    let (jobs, queue) = mpsc::unbounded_channel();
    Ok((TableStore { reach: Arc::clone(&reach), jobs, _task: None }, TableTask { reach, jobs: queue }))
}

impl Reach {
    async fn find_or_create(&self, create: bool) -> StoreResult<()> {
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

    async fn check_version(&self, create: bool) -> StoreResult<()> {
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

    fn place(&self) -> String {
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

    async fn get(&self, key: &ItemKey) -> StoreResult<Option<Fields>> {
        self.patiently(|| self.table.get(key)).await
    }

    async fn write(&self, write: &ItemWrite) -> StoreResult<Written> {
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
    fn nonce(&self) -> String {
        format!("{:016x}{:016x}", self.context.draw_u64(), self.context.draw_u64())
    }

    async fn note_verified(&self, link: &str, row: &VerifiedRow) -> StoreResult<()> {
        let value = serde_json::to_vec(row).map_err(|error| self.damaged_verified(link, &error))?;
        let fields = Fields::from([(layout::VALUE.to_owned(), Field::Bytes(value))]);
        self.write(&ItemWrite::new(self.places.verified(link), Some(fields))).await.map(drop)
    }

    async fn verified(&self, link: &str) -> StoreResult<Option<VerifiedRow>> {
        let fields = self.get(&self.places.verified(link)).await?;
        match fields.as_ref().and_then(|fields| fields.get(layout::VALUE)) {
            Some(Field::Bytes(value)) => {
                serde_json::from_slice(value).map(Some).map_err(|error| self.damaged_verified(link, &error))
            }
            _ => Ok(None),
        }
    }

    fn damaged_verified(&self, link: &str, error: &serde_json::Error) -> StoreError {
        let what = format!("the verification row of link {link}: {:?}", error.classify());
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
    async fn load_steadily(&self, link: &str) -> StoreResult<Image> {
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
    async fn take(
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
            None => Err(StoreError::Gone { place: self.place() }),
        }
    }

    /// `memory`: what is known of the link, of whatever owner; left there as it is after the commit.
    async fn commit(&self, memory: &mut Memory, link: &str, fence: &Fence, writes: Vec<StateWrite>) -> StoreResult<()> {
        // What fails half-way leaves none: what is in the table is then read again.
        let known = memory.image.take().filter(|known| known.fence() == Some(fence));
        let is_known = known.is_some();
        let mut known = match known {
            Some(known) => known,
            None => self.load(link).await?,
        };
        let Some(mut head) = known.head.clone().filter(|head| rules::is_owner(Some(&head.fence), fence)) else {
            return Err(match &known.head {
                None if memory.was_taken => StoreError::Gone { place: self.place() },
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
                None => return Err(StoreError::Gone { place: self.place() }),
            }
        }
        for step in std::mem::take(&mut plan.steps) {
            head = self.transact(link, &head, step).await?;
        }
        known.apply(link, plan, head)?;
        memory.image = Some(known);
        Ok(())
    }

    async fn letters(&self, link: &str, after: u64, limit: usize) -> StoreResult<Vec<DeadLetterRow>> {
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

    async fn links(&self) -> StoreResult<Vec<String>> {
        let entries = self.all(self.places.entries(), usize::MAX).await?;
        Ok(entries.into_iter().filter_map(|(sort, _)| String::from_utf8(sort).ok()).collect())
    }
}

/// What a link is asked for; in order.
enum Job {
    Read(oneshot::Sender<StoreResult<LinkState>>),
    Take(String, Option<Option<Fence>>, oneshot::Sender<StoreResult<Option<(Fence, LinkState)>>>),
    Commit(Fence, Vec<StateWrite>, oneshot::Sender<StoreResult<()>>),
    Release(String, oneshot::Sender<StoreResult<()>>),
    Letters(u64, usize, oneshot::Sender<StoreResult<Vec<DeadLetterRow>>>),
    Doubt(CanonicalKey, oneshot::Sender<StoreResult<Option<DoubtRow>>>),
}

/// Does what the store is asked for. Ends, when all of that is done, after the last [`TableStore`] was dropped.
pub(crate) struct TableTask {
    reach: Arc<Reach>,
    jobs: mpsc::UnboundedReceiver<(String, Job)>,
}

/// One link: what waits. While a job runs, the memory is with the job.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Job>,
    is_busy: bool,
    memory: Memory,
}

/// What is known of a link.
#[derive(Default)]
struct Memory {
    image: Option<Image>,
    /// By this process: then it has a head.
    was_taken: bool,
}

impl TableTask {
    /// Runs until nobody can ask any more. Dropping it half-way is a crash of the process, as far as the table goes.
    pub(crate) async fn run(mut self) {
        let mut lanes: HashMap<String, Lane> = HashMap::new();
        let mut running = FuturesUnordered::new();
        let mut is_open = true;
        while is_open || !running.is_empty() {
            let link = tokio::select! {
                job = self.jobs.recv(), if is_open => match job {
                    Some((link, job)) => {
                        lanes.entry(link.clone()).or_default().waiting.push_back(job);
                        link
                    }
                    None => {
                        is_open = false;
                        continue;
                    }
                },
                Some((link, memory)) = running.next() => {
                    let link: String = link;
                    let lane = lanes.entry(link.clone()).or_default();
                    (lane.is_busy, lane.memory) = (false, memory);
                    link
                }
            };
            let Some(lane) = lanes.get_mut(&link) else { continue };
            if !lane.is_busy
                && let Some(job) = lane.waiting.pop_front()
            {
                lane.is_busy = true;
                running.push(work(Arc::clone(&self.reach), link, job, std::mem::take(&mut lane.memory)));
            }
        }
    }
}

async fn work(reach: Arc<Reach>, link: String, job: Job, mut memory: Memory) -> (String, Memory) {
    // Who no longer waits was cancelled, and needs no answer.
    match job {
        Job::Read(answer) => {
            let state = Box::pin(reach.load_steadily(&link)).await;
            drop(answer.send(state.and_then(|image| ledger::read(&image, &link))));
        }
        Job::Take(owner, seen, answer) => {
            let taken = Box::pin(reach.take(&link, &owner, seen.as_ref())).await;
            let taken = taken.map(|taken| {
                taken.map(|(fence, state, taken)| {
                    memory = Memory { image: Some(taken), was_taken: true };
                    (fence, state)
                })
            });
            drop(answer.send(taken));
        }
        Job::Commit(fence, writes, answer) => {
            let done = Box::pin(reach.commit(&mut memory, &link, &fence, writes)).await;
            drop(answer.send(done));
        }
        Job::Release(owner, answer) => {
            drop(answer.send(Box::pin(reach.release_link(&link, &owner)).await));
        }
        Job::Letters(after, limit, answer) => drop(answer.send(Box::pin(reach.letters(&link, after, limit)).await)),
        Job::Doubt(key, answer) => {
            let image = Box::pin(reach.load_steadily(&link)).await;
            drop(answer.send(image.and_then(|image| ledger::doubt(&image, &link, key))));
        }
    }
    (link, memory)
}

impl TableStore {
    fn ask<T: Send + 'static>(
        &self,
        link: &str,
        job: impl FnOnce(oneshot::Sender<StoreResult<T>>) -> Job,
    ) -> BoxFuture<'static, StoreResult<T>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.jobs.send((link.to_owned(), job(reply)));
        let stopped = StoreError::Stopped { place: self.reach.place() };
        async move {
            match sent {
                Ok(()) => answer.await.unwrap_or(Err(stopped)),
                Err(_) => Err(stopped),
            }
        }
        .boxed()
    }

    /// The same, whose task ends with its last clone.
    pub(crate) fn kept_by(self, task: AbortOnDropHandle<()>) -> Self {
        Self { _task: Some(Arc::new(task)), ..self }
    }
}

/// Signs of life alone, through a client of their own.
pub(crate) fn pulses(table: Arc<dyn StateTable>, namespace: &str, context: Context) -> Arc<dyn Pulses> {
    Arc::new(Reach { table, places: Places::new(namespace), context })
}

impl Reach {
    async fn give_sign(&self, sign: &Sign, first: bool) -> StoreResult<bool> {
        let guard = if first { Guard::Absent } else { layout::guard_of_counter(sign.counter.saturating_sub(1)) };
        let key = self.places.worker(&sign.worker);
        let write = ItemWrite::new(key, Some(layout::sign_fields(sign))).guarded(guard);
        match self.table.write(&write).await.map_err(|failure| self.failed(failure))? {
            Written::Done => Ok(true),
            Written::Refused(found) => Ok(found.as_ref().and_then(layout::counter_of) == Some(sign.counter)),
        }
    }

    async fn all_signs(&self) -> StoreResult<Vec<Sign>> {
        let rows = self.all(self.places.workers(), usize::MAX).await?;
        Ok(rows.iter().filter_map(|(sort, fields)| layout::sign_of(sort, fields)).collect())
    }

    async fn forget_worker(&self, worker: &str, counter: u64) -> StoreResult<()> {
        let guard = layout::guard_of_counter(counter);
        self.write(&ItemWrite::new(self.places.worker(worker), None).guarded(guard)).await.map(drop)
    }

    async fn sight_link(&self, link: &str, with_counter: bool) -> StoreResult<Sighting> {
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
    async fn release_link(&self, link: &str, owner: &str) -> StoreResult<()> {
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

impl Pulses for Reach {
    fn give<'a>(&'a self, sign: &'a Sign, first: bool) -> BoxFuture<'a, StoreResult<bool>> {
        self.give_sign(sign, first).boxed()
    }

    fn signs(&self) -> BoxFuture<'_, StoreResult<Vec<Sign>>> {
        self.all_signs().boxed()
    }

    fn forget<'a>(&'a self, worker: &'a str, counter: u64) -> BoxFuture<'a, StoreResult<()>> {
        self.forget_worker(worker, counter).boxed()
    }
}

impl Pulses for TableStore {
    fn give<'a>(&'a self, sign: &'a Sign, first: bool) -> BoxFuture<'a, StoreResult<bool>> {
        self.reach.give(sign, first)
    }

    fn signs(&self) -> BoxFuture<'_, StoreResult<Vec<Sign>>> {
        self.reach.signs()
    }

    fn forget<'a>(&'a self, worker: &'a str, counter: u64) -> BoxFuture<'a, StoreResult<()>> {
        self.reach.forget(worker, counter)
    }
}

impl Leases for TableStore {
    fn sight<'a>(&'a self, link: &'a str, with_counter: bool) -> BoxFuture<'a, StoreResult<Sighting>> {
        self.reach.sight_link(link, with_counter).boxed()
    }

    fn take_from<'a>(
        &'a self,
        link: &'a str,
        owner: &'a str,
        seen: Option<&'a Fence>,
    ) -> BoxFuture<'a, StoreResult<Option<(Fence, LinkState)>>> {
        self.ask(link, |answer| Job::Take(owner.to_owned(), Some(seen.cloned()), answer))
    }

    fn release<'a>(&'a self, link: &'a str, owner: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        self.ask(link, |answer| Job::Release(owner.to_owned(), answer))
    }
}

impl StateStore for TableStore {
    fn place(&self) -> String {
        self.reach.place()
    }

    fn leases(&self) -> Option<Arc<dyn Leases>> {
        Some(Arc::new(self.clone()))
    }

    fn links(&self) -> BoxFuture<'_, StoreResult<Vec<String>>> {
        self.reach.links().boxed()
    }

    fn read<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<LinkState>> {
        self.ask(link, Job::Read)
    }

    fn take<'a>(&'a self, link: &'a str, owner: &'a str) -> BoxFuture<'a, StoreResult<(Fence, LinkState)>> {
        let taken = self.ask(link, |answer| Job::Take(owner.to_owned(), None, answer));
        let fenced = StoreError::Fenced { link: link.to_owned() };
        async move { taken.await?.ok_or(fenced) }.boxed()
    }

    fn commit<'a>(
        &'a self,
        link: &'a str,
        fence: &'a Fence,
        writes: Vec<StateWrite>,
    ) -> BoxFuture<'a, StoreResult<()>> {
        self.ask(link, |answer| Job::Commit(fence.clone(), writes, answer))
    }

    fn dead_letters<'a>(
        &'a self,
        link: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, StoreResult<Vec<DeadLetterRow>>> {
        self.ask(link, |answer| Job::Letters(after, limit, answer))
    }

    fn doubt<'a>(&'a self, link: &'a str, key: &'a CanonicalKey) -> BoxFuture<'a, StoreResult<Option<DoubtRow>>> {
        self.ask(link, |answer| Job::Doubt(key.clone(), answer))
    }

    fn note_verified<'a>(&'a self, link: &'a str, row: &'a VerifiedRow) -> BoxFuture<'a, StoreResult<()>> {
        self.reach.note_verified(link, row).boxed()
    }

    fn verified<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<VerifiedRow>>> {
        self.reach.verified(link).boxed()
    }
}
