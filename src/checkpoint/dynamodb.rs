//! The store of many processes: a table in the target account.
//!
//! # Why it is sound
//! - *One writer.* A link's rows are written in transactions that ask for the link's
//!   [head](super::layout::Head) to be as its owner knows it, and that count it up. [`StateStore::take`] replaces the head
//!   first and reads the rows after it: what the last owner has written by then is read, and what it tries later is
//!   refused. So the reader needs no snapshot, and the owner may keep the rows in memory.
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
//! - *Parts* of a link have a head that is made once, by whoever divides the link, and never anew: who takes a part that has
//!   none finds nothing, and who owned one whose head is gone is superseded.
//! - *Loss.* A table that is not there, or a link without its head, is never made anew by a process that knew it. One that
//!   starts afterwards cannot tell a table that was deleted from one that never was, and makes it.
//!
//! The task is [`TableTask`]; whoever holds the [`TableStore`] sends it what is to be done. Links do not wait for each other.

mod gates;
mod reach;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::gates::Gates;
use super::layout::{Image, Places};
use super::part::is_part;
use super::rows::{DeadLetterRow, DoubtRow, ExportRequestRow, Fence, ImportRequestRow, LinkRow, VerifiedRow};
use super::table::{Field, Guard, StateTable};
use super::{
    Leases, LinkState, PartName, Pulses, Sighting, Sign, StateStore, StateWrite, StoreError, StoreResult, ledger,
};
use crate::context::Context;
use crate::model::CanonicalKey;

use reach::{MARK, Reach};

/// State in a DynamoDB table. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TableStore {
    reach: Arc<Reach>,
    jobs: mpsc::UnboundedSender<(String, Job)>,
    _task: Option<Arc<AbortOnDropHandle<()>>>,
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

/// What a link is asked for; in order.
enum Job {
    Read(oneshot::Sender<StoreResult<LinkState>>),
    Take(String, Option<Option<Fence>>, oneshot::Sender<StoreResult<Option<(Fence, LinkState)>>>),
    Commit(Fence, Vec<StateWrite>, oneshot::Sender<StoreResult<()>>),
    Release(String, oneshot::Sender<StoreResult<()>>),
    MakePart(PartName, String, Vec<StateWrite>, oneshot::Sender<StoreResult<()>>),
    RemovePart(PartName, oneshot::Sender<StoreResult<()>>),
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
            if is_part(&link) {
                // There is never an end to new ones.
                memory = Memory::default();
            }
        }
        Job::MakePart(part, owner, writes, answer) => {
            drop(answer.send(Box::pin(reach.make_part(&part, &owner, writes)).await));
        }
        Job::RemovePart(part, answer) => {
            drop(answer.send(Box::pin(reach.remove_part(&part)).await));
            memory = Memory::default();
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

    fn link_row<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<LinkRow>>> {
        self.reach.link_row(link).boxed()
    }

    fn make_part<'a>(
        &'a self,
        part: &'a PartName,
        owner: &'a str,
        writes: Vec<StateWrite>,
    ) -> BoxFuture<'a, StoreResult<()>> {
        self.ask(&part.to_string(), |answer| Job::MakePart(part.clone(), owner.to_owned(), writes, answer))
    }

    fn parts<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Vec<PartName>>> {
        self.reach.parts(link).boxed()
    }

    fn remove_part<'a>(&'a self, part: &'a PartName) -> BoxFuture<'a, StoreResult<()>> {
        self.ask(&part.to_string(), |answer| Job::RemovePart(part.clone(), answer))
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

    fn gates(&self) -> Option<Arc<dyn Gates>> {
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
        let key = self.reach.places.verified(link);
        async move { self.reach.note(key, row, String::new(), Guard::Always).await.map(drop) }.boxed()
    }

    fn verified<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<VerifiedRow>>> {
        async move { self.reach.noted(&self.reach.places.verified(link)).await }.boxed()
    }

    fn note_export<'a>(
        &'a self,
        link: &'a str,
        row: &'a ExportRequestRow,
        replaces: Option<&'a ExportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        let key = self.reach.places.export(link);
        let same = |row: &ExportRequestRow| Guard::Same(vec![(MARK, Field::Text(row.mark()))]);
        let guard = replaces.map_or(Guard::Absent, same);
        async move { self.reach.note(key, row, row.mark(), guard).await }.boxed()
    }

    fn export_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ExportRequestRow>>> {
        async move { self.reach.noted(&self.reach.places.export(link)).await }.boxed()
    }

    fn note_import<'a>(
        &'a self,
        link: &'a str,
        row: &'a ImportRequestRow,
        replaces: Option<&'a ImportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        let key = self.reach.places.import(link);
        let same = |row: &ImportRequestRow| Guard::Same(vec![(MARK, Field::Text(row.mark()))]);
        let guard = replaces.map_or(Guard::Absent, same);
        async move { self.reach.note(key, row, row.mark(), guard).await }.boxed()
    }

    fn import_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ImportRequestRow>>> {
        async move { self.reach.noted(&self.reach.places.import(link)).await }.boxed()
    }
}
