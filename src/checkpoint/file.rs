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
/// Size, as measured: under 1.1 MiB with 50 shards, and about 400 bytes more for each key in doubt. Dead letters hold the
/// refused items and add at least what those take. Rows that go leave room that is used again: the file stays at its
/// largest while it is open, and gives part of that back when it is closed.
#[derive(Debug)]
pub struct FileStore {
    place: String,
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl FileStore {
    /// Opens a file, or makes it. Blocks until that is done. Its directory must be there: where it is missing, so is the
    /// disk, or the path is misspelt, and state in another place would be found by nobody.
    ///
    /// # Errors
    /// [`StoreError::Held`] when it is open already, [`StoreError::Version`] when another version wrote it,
    /// [`StoreError::Damaged`] when it is no state file, [`StoreError::Io`] for all else.
    pub fn open(path: impl AsRef<Path>) -> StoreResult<Self> {
        let path = path.as_ref().to_owned();
        Self::start(path, database::open_or_create)
    }

    /// Opens a file that is there; `None`: it is not, and is not made either. Blocks until that is done.
    ///
    /// # Errors
    /// As for [`FileStore::open`].
    pub fn open_existing(path: impl AsRef<Path>) -> StoreResult<Option<Self>> {
        let path = path.as_ref();
        if !database::exists(path, &format!("file:{}", path.display()))? {
            return Ok(None);
        }
        Self::open(path).map(Some)
    }

    fn start(
        path: PathBuf,
        open: impl FnOnce(&Path, &str) -> StoreResult<redb::Database> + Send + 'static,
    ) -> StoreResult<Self> {
        let place = format!("file:{}", path.display());
        let (jobs, queue) = mpsc::channel();
        let (opened, is_open) = mpsc::channel();
        let mut keeper = Keeper { path, place: place.clone(), database: None };
        let work = move || {
            let result = open(&keeper.path, &keeper.place);
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
    StoreError::Stopped { place: place.to_owned() }
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    use super::super::rows::{SegmentRow, ShardRow, ShardStatus};
    use super::super::{StateStore, StateWrite};
    use super::*;
    use crate::model::{ShardId, WallTime};

    /// A disk that counts its flushes, and fails on demand.
    #[derive(Debug)]
    struct Disk {
        file: redb::backends::FileBackend,
        switches: Arc<Switches>,
    }

    #[derive(Debug, Default)]
    struct Switches {
        is_full: AtomicBool,
        flushes: AtomicUsize,
    }

    impl redb::StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.switches.flushes.fetch_add(1, SeqCst);
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            if self.switches.is_full.load(SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.file.write(offset, data)
        }
    }

    fn on_disk(directory: &Path) -> (FileStore, Arc<Switches>) {
        let path = directory.join("state.redb");
        drop(FileStore::open(&path).unwrap());
        let switches = Arc::new(Switches::default());
        let disk = Arc::clone(&switches);
        let open = move |path: &Path, _: &str| {
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let file = redb::backends::FileBackend::new(file).unwrap();
            Ok(redb::Builder::new().create_with_backend(Disk { file, switches: disk }).unwrap())
        };
        (FileStore::start(path, open).unwrap(), switches)
    }

    fn segment(segment: u32) -> Vec<StateWrite> {
        vec![StateWrite::Segment(SegmentRow { segment, cursor: None, done: false, items: 0, bytes: 0 })]
    }

    /// Keeps the store's thread busy until the answer is dropped.
    fn hold(store: &FileStore) -> mpsc::Sender<()> {
        let (release, held) = mpsc::channel::<()>();
        drop(store.submit(move |_| Ok(held.recv().is_ok())));
        release
    }

    #[tokio::test]
    async fn what_waits_for_the_disk_shares_its_next_flush() {
        let directory = tempfile::tempdir().unwrap();
        let (store, disk) = on_disk(directory.path());
        let mut fences = Vec::new();
        for link in ["a", "b"] {
            fences.push((link, store.take(link, "worker").await.unwrap().0));
        }
        let lone = disk.flushes.load(SeqCst);
        store.commit("a", &fences[0].1, segment(0)).await.unwrap();
        let per_commit = disk.flushes.load(SeqCst) - lone;
        let release = hold(&store);
        let before = disk.flushes.load(SeqCst);
        let commits: Vec<_> = (0..100).map(|n| fences.iter().map(move |(link, f)| (*link, f, n))).collect::<Vec<_>>();
        let commits: Vec<_> =
            commits.into_iter().flatten().map(|(link, f, n)| store.commit(link, f, segment(n))).collect();
        drop(release);
        for commit in commits {
            commit.await.unwrap();
        }
        let flushes = disk.flushes.load(SeqCst) - before;
        assert!(per_commit > 0 && flushes <= 2 * per_commit, "{flushes} flushes, {per_commit} for a lone commit");
        assert_eq!(store.read("b").await.unwrap().segments.len(), 100);
        let before = disk.flushes.load(SeqCst);
        store.commit("a", &fences[0].1, vec![]).await.unwrap();
        assert_eq!(disk.flushes.load(SeqCst), before, "nothing to write, nothing to flush");
    }

    #[tokio::test]
    async fn a_full_disk_fails_what_waits_and_later_commits_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let (store, disk) = on_disk(directory.path());
        let (fence, _) = store.take("orders", "worker").await.unwrap();
        store.commit("orders", &fence, segment(0)).await.unwrap();
        disk.is_full.store(true, SeqCst);
        let release = hold(&store);
        let (one, two) = (store.commit("orders", &fence, segment(1)), store.commit("orders", &fence, segment(2)));
        drop(release);
        for failed in [one.await, two.await] {
            let error = failed.unwrap_err();
            assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
            assert!(format!("{:?}", crate::error::Error::from(error)).contains("no storage space"));
        }
        // The file was opened anew, not through the full disk.
        store.commit("orders", &fence, segment(3)).await.unwrap();
        let segments: Vec<_> = store.read("orders").await.unwrap().segments.iter().map(|row| row.segment).collect();
        assert!(segments.starts_with(&[0]) && segments.ends_with(&[3]), "{segments:?}");
    }

    #[tokio::test]
    async fn a_file_that_is_gone_is_not_made_anew_behind_the_owners_back() {
        let directory = tempfile::tempdir().unwrap();
        let (store, disk) = on_disk(directory.path());
        let (fence, _) = store.take("orders", "worker").await.unwrap();
        disk.is_full.store(true, SeqCst);
        store.commit("orders", &fence, segment(1)).await.unwrap_err();
        std::fs::remove_file(directory.path().join("state.redb")).unwrap();
        for _ in 0..2 {
            let error = store.commit("orders", &fence, segment(1)).await.unwrap_err();
            assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
        }
        assert!(!directory.path().join("state.redb").exists());
    }

    #[test]
    fn who_only_looks_makes_nothing_and_nobody_makes_directories() {
        let directory = tempfile::tempdir().unwrap();
        assert!(FileStore::open_existing(directory.path().join("state.redb")).unwrap().is_none());
        let nowhere = directory.path().join("nowhere");
        assert!(FileStore::open_existing(nowhere.join("state.redb")).unwrap().is_none());
        let error = FileStore::open(nowhere.join("state.redb")).unwrap_err();
        let text = crate::error::chain(&error);
        assert!(text.contains("nowhere is not there: make it, or mount its disk"), "{text}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        drop(FileStore::open(directory.path().join("state.redb")).unwrap());
        assert!(FileStore::open_existing(directory.path().join("state.redb")).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_panic_in_the_thread_is_an_error_for_all_who_wait_and_all_who_come() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path().join("state.redb")).unwrap();
        let (fence, _) = store.take("orders", "worker").await.unwrap();
        let release = hold(&store);
        let panicking = store.submit(|_| -> StoreResult<()> { panic!("a bug of the database") });
        let waiting = store.commit("orders", &fence, segment(0));
        drop(release);
        assert!(matches!(panicking.await, Err(StoreError::Stopped { .. })));
        assert!(matches!(waiting.await, Err(StoreError::Stopped { .. })));
        assert!(matches!(store.read("orders").await, Err(StoreError::Stopped { .. })));
        drop(store);
        let store = FileStore::open(directory.path().join("state.redb")).unwrap();
        assert!(store.read("orders").await.unwrap().segments.is_empty());
    }

    #[tokio::test]
    async fn a_row_larger_than_a_page_survives() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileStore::open(directory.path().join("state.redb")).unwrap();
        let (fence, _) = store.take("orders", "worker").await.unwrap();
        let parent = Some(ShardId::new("x".repeat(500_000)));
        let (time, status) = (WallTime::from_secs(0), ShardStatus::Waiting);
        let row = ShardRow {
            id: ShardId::new("s"),
            parent,
            status,
            checkpoint: None,
            checkpoint_time: None,
            dispatch: None,
            verified_at: time,
            last_listed: time,
            debts: vec![],
            is_trimmed: false,
            is_lost: false,
        };
        store.commit("orders", &fence, vec![StateWrite::Shard(row.clone())]).await.unwrap();
        assert_eq!(store.read("orders").await.unwrap().shards, [row]);
    }
}
