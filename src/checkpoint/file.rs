//! The store of one process: a file, locked while it is open.
//!
//! One thread owns the database. It takes whatever is queued, runs it in one transaction, makes that durable, and then
//! answers each: so commits of many links share one flush of the disk, a lone one waits for nothing else, and the async
//! runtime never blocks on the disk. A refused commit has written nothing, so it cannot spoil its neighbours; a medium
//! that fails fails the whole group, whose outcome is then unknown until the file is opened again, which the next group
//! tries. The thread is also the wall against a panic of the database over a damaged file: callers get an error.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::database::{self, FileRows};
use super::ledger::{Engine, Rows};
use super::{StoreError, StoreResult};

/// At most this many operations share a transaction, so that the first need not wait long for the last.
const MAX_GROUP: usize = 256;

/// State in a file.
///
/// Exclusive: a second opening, by this process or another, answers [`StoreError::Held`]. Dropping it finishes what is
/// queued and gives the lock back before it returns (a flush of the disk at most). Killed at any moment, the file holds
/// what was answered, and all or nothing of what was not.
///
/// The file grows to about twice what its rows take (a page that changes is written anew and the old one is used again
/// after the commit) and shrinks again; it is not below some hundred KiB.
#[derive(Debug)]
pub struct FileStore {
    place: String,
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl FileStore {
    /// Opens a file, or makes it and its parent directories. Blocks until that is done.
    ///
    /// # Errors
    /// [`StoreError::Held`] when it is open already, [`StoreError::Version`] when another version wrote it,
    /// [`StoreError::Damaged`] when it is no state file, [`StoreError::Io`] for all else.
    pub fn open(path: impl AsRef<Path>) -> StoreResult<Self> {
        let path = path.as_ref().to_owned();
        let place = format!("file:{}", path.display());
        let (jobs, queue) = mpsc::channel();
        let (opened, is_open) = mpsc::channel();
        let mut keeper = Keeper { path, place: place.clone(), database: None };
        let work = move || {
            let result = database::open_or_create(&keeper.path, &keeper.place);
            let result = result.map(|database| keeper.database = Some(database));
            let is_ok = result.is_ok();
            if opened.send(result).is_ok() && is_ok {
                keeper.serve(&queue);
            }
        };
        let thread = std::thread::Builder::new()
            .name("dynaferry-state".to_owned())
            .spawn(work)
            .map_err(|error| StoreError::Io { place: place.clone(), source: error.into() })?;
        is_open.recv().unwrap_or_else(|_| {
            let what = "the database gave up on it".to_owned();
            Err(StoreError::Damaged { place: place.clone(), what })
        })?;
        Ok(Self { place, jobs: Some(jobs), thread: Some(thread) })
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there was answered and printed when it happened.
            drop(thread.join());
        }
    }
}

impl Engine for FileStore {
    fn place_name(&self) -> String {
        self.place.clone()
    }

    fn submit<T, F>(&self, work: F) -> BoxFuture<'static, StoreResult<T>>
    where
        T: Send + 'static,
        F: FnOnce(&mut dyn Rows) -> StoreResult<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        // Unbounded, but each caller waits for its answers: the queue is as long as the callers are many.
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(Box::new(Task { work: Some(work), result: None, reply })));
        let stopped = stopped(&self.place);
        async move {
            match sent {
                Some(Ok(())) => answer.await.unwrap_or(Err(stopped)),
                Some(Err(_)) | None => Err(stopped),
            }
        }
        .boxed()
    }
}

fn stopped(place: &str) -> StoreError {
    StoreError::Io { place: place.to_owned(), source: "the thread that keeps it has stopped".into() }
}

/// One operation in the queue.
trait Job: Send {
    fn run(&mut self, rows: &mut dyn Rows);
    /// Answers what `run` found, or the failure of the medium.
    fn answer(self: Box<Self>, failure: Option<StoreError>, place: &str);
}

struct Task<T, F> {
    work: Option<F>,
    result: Option<StoreResult<T>>,
    reply: oneshot::Sender<StoreResult<T>>,
}

impl<T, F> Job for Task<T, F>
where
    T: Send,
    F: FnOnce(&mut dyn Rows) -> StoreResult<T> + Send,
{
    fn run(&mut self, rows: &mut dyn Rows) {
        self.result = self.work.take().map(|work| work(rows));
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>, place: &str) {
        let result = failure.map(Err).or(self.result).unwrap_or_else(|| Err(stopped(place)));
        // Nobody waits for it where the future was dropped.
        drop(self.reply.send(result));
    }
}

/// What the thread owns.
struct Keeper {
    path: PathBuf,
    place: String,
    database: Option<redb::Database>,
}

impl Keeper {
    fn serve(&mut self, queue: &mpsc::Receiver<Box<dyn Job>>) {
        while let Ok(first) = queue.recv() {
            let mut group = vec![first];
            group.extend(queue.try_iter().take(MAX_GROUP - 1));
            let failure = self.run(&mut group).err();
            if failure.is_some() {
                // The database refuses to go on after a failure; what is in the file is known when it is open again.
                self.database = None;
            }
            for job in group {
                job.answer(failure.as_ref().map(|failure| failure.to_error(&self.place)), &self.place);
            }
        }
    }

    fn run(&mut self, group: &mut [Box<dyn Job>]) -> Result<(), database::Failure> {
        let database = match self.database.take() {
            Some(database) => database,
            None => database::reopen(&self.path)?,
        };
        let database = self.database.insert(database);
        database::transact(database, &self.place, |rows: &mut FileRows<'_>| {
            group.iter_mut().for_each(|job| job.run(rows));
        })
    }
}
