//! What only a file can break: locks, layout, damage, sudden death.

use std::path::{Path, PathBuf};

use super::super::database;
use super::*;

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    (directory, path)
}

#[test]
fn a_file_in_use_is_refused_with_the_exit_code_for_it() {
    let (_directory, path) = place();
    let first = FileStore::open(&path).unwrap();
    let error = FileStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Held { .. }), "{error:?}");
    assert_eq!(crate::error::Error::from(error).exit, crate::error::Exit::Held);
    drop(first);
    FileStore::open(&path).unwrap();
}

#[test]
fn no_draft_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let store = FileStore::open(folder.join("state.redb")).unwrap();
    assert_eq!(store.place(), format!("file:{}", folder.join("state.redb").display()));
    let names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["state.redb"]);
}

#[cfg(unix)]
#[test]
fn a_new_file_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, path) = place();
    drop(FileStore::open(&path).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn an_empty_file_becomes_a_state_file() {
    let (_directory, path) = place();
    std::fs::write(&path, "").unwrap();
    let store = FileStore::open(&path).unwrap();
    assert_eq!(store.take("orders", "a").await.unwrap().0.epoch, 1);
}

#[test]
fn another_version_is_refused_and_left_as_it_is() {
    let (_directory, path) = place();
    drop(FileStore::open(&path).unwrap());
    database::tests::set_version(&path, 2);
    for _twice in 0..2 {
        let error = FileStore::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Version { found: 2, known: 1, .. }), "{error:?}");
    }
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_is() {
    let (_directory, path) = place();
    for content in ["x", "not a database", &"SQLite format 3\0".repeat(4096)] {
        std::fs::write(&path, content).unwrap();
        let error = FileStore::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), content.as_bytes());
    }
}

#[test]
fn a_database_of_another_program_is_refused() {
    let (_directory, path) = place();
    database::tests::make_foreign(&path);
    let error = FileStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
}

#[test]
fn a_place_that_cannot_be_written_is_named_with_the_cause() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for path in [file.join("state.redb"), directory.path().to_owned()] {
        let error = FileStore::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
        assert!(error.to_string().contains(&path.display().to_string()));
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[tokio::test]
async fn a_damaged_row_is_told_without_its_contents_and_others_live_on() {
    let (_directory, path) = place();
    let store = FileStore::open(&path).unwrap();
    store.take("orders", "a").await.unwrap();
    drop(store);
    database::tests::put_raw(&path, ("orders", 4, b"s"), br#"{"id":"s","status":"SECRET"}"#);
    let store = FileStore::open(&path).unwrap();
    let error = store.read("orders").await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }) && !format!("{error:?}").contains("SECRET"), "{error:?}");
    store.take("other", "a").await.unwrap();
}

/// Flips bytes all over a file, and cuts it: it is refused, or it is a state that was once answered. Nothing panics
/// in the caller, nothing hangs, and no row is read as what it never was.
#[tokio::test]
async fn a_damaged_file_is_an_error_and_never_a_panic_or_another_state() {
    let (_directory, path) = place();
    let store: Arc<dyn StateStore> = Arc::new(FileStore::open(&path).unwrap());
    let fence = taken(&store, "orders").await;
    let mut states = vec![store.read("orders").await.unwrap()];
    for n in 1..=20 {
        write(&store, &fence, StateWrite::Shard(shard(&format!("s{n}"), Some(n)))).await;
        states.push(store.read("orders").await.unwrap());
    }
    drop(store);
    let good = std::fs::read(&path).unwrap();
    let used: Vec<usize> =
        good.chunks(4096).enumerate().filter(|(_, p)| p.iter().any(|b| *b != 0)).map(|(n, _)| n).collect();
    let mut random = fastrand::Rng::with_seed(7);
    let (mut refused, mut read) = (0, 0);
    for case in 0..300 {
        let mut bytes = good.clone();
        if case % 10 == 0 {
            bytes.truncate(random.usize(1..good.len()));
        } else {
            let page = if case % 3 == 0 { 0 } else { used[random.usize(..used.len())] };
            let at = page * 4096 + random.usize(..if case % 3 == 0 { 512 } else { 4096 });
            let end = good.len().min(at + random.usize(1..16));
            bytes[at..end].iter_mut().for_each(|byte| *byte = random.u8(..));
        }
        std::fs::write(&path, &bytes).unwrap();
        let Ok(store) = FileStore::open(&path) else {
            refused += 1;
            continue;
        };
        read += 1;
        let state = store.read("orders").await.unwrap();
        assert!(states.contains(&state), "case {case}: {state:?}");
        store.commit("orders", &fence, vec![StateWrite::Shard(shard("s99", Some(99)))]).await.unwrap();
    }
    assert!(refused > 50 && read > 20, "{refused} refused, {read} read");
}

/// A copy of the file taken at any moment is what a killed process leaves behind.
#[tokio::test]
async fn a_killed_process_leaves_what_it_was_answered() {
    let (directory, path) = place();
    let store: Arc<dyn StateStore> = Arc::new(FileStore::open(&path).unwrap());
    let fence = taken(&store, "orders").await;
    for n in 1..=30 {
        write(&store, &fence, StateWrite::Shard(shard("s", Some(n)))).await;
        let copy = directory.path().join(format!("copy-{n}"));
        std::fs::copy(&path, &copy).unwrap();
        let state = read_all(&copy).await;
        assert_eq!(state.shards, [shard("s", Some(n))]);
    }
}

async fn read_all(path: &Path) -> LinkState {
    FileStore::open(path).unwrap().read("orders").await.unwrap()
}

#[tokio::test]
async fn a_future_that_is_dropped_leaves_the_store_in_order() {
    let (_directory, path) = place();
    let store: Arc<dyn StateStore> = Arc::new(FileStore::open(&path).unwrap());
    let fence = taken(&store, "orders").await;
    for n in 1..=50 {
        drop(store.commit("orders", &fence, vec![StateWrite::Shard(shard("s", Some(n)))]));
    }
    drop(store);
    assert_eq!(read_all(&path).await.shards, [shard("s", Some(50))]);
}

#[tokio::test]
async fn settled_doubts_give_their_room_back() {
    let (_directory, path) = place();
    let store: Arc<dyn StateStore> = Arc::new(FileStore::open(&path).unwrap());
    let fence = taken(&store, "orders").await;
    let mut sizes = Vec::new();
    for round in 0..6 {
        let rows = (0..3000).map(|n| StateWrite::Doubt(doubt(&format!("{round}-{n}"), 1, Some(page(0, round)))));
        store.commit("orders", &fence, rows.collect()).await.unwrap();
        write(&store, &fence, StateWrite::SettlePage(page(0, round))).await;
        sizes.push(std::fs::metadata(&path).unwrap().len());
    }
    assert!(sizes.iter().all(|size| *size < 8 << 20), "{sizes:?}");
    assert!(sizes[5] <= sizes[1] * 2, "{sizes:?}");
}

/// Run by hand: `cargo test --release --lib commit_latency -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "measures the disk"]
#[expect(clippy::disallowed_methods, reason = "measures real time")]
async fn commit_latency() {
    let directory = tempfile::tempdir_in(std::env::var("STATE_DIR").unwrap_or("/var/tmp".into())).unwrap();
    let path = directory.path().join("state.redb");
    let store: Arc<dyn StateStore> = Arc::new(FileStore::open(&path).unwrap());
    let fence = taken(&store, "orders").await;
    let mut lone: Vec<Duration> = Vec::new();
    for n in 1..=500 {
        let start = std::time::Instant::now();
        write(&store, &fence, StateWrite::Shard(shard("s", Some(n)))).await;
        lone.push(start.elapsed());
    }
    lone.sort_unstable();
    println!("lone commit: median {:?}, p99 {:?}", lone[250], lone[495]);
    let start = std::time::Instant::now();
    for n in 501..=550 {
        let shards =
            (0..64).map(|s| store.commit("orders", &fence, vec![StateWrite::Shard(shard(&format!("s{s}"), Some(n)))]));
        futures_util::future::join_all(shards).await.into_iter().for_each(|done| done.unwrap());
    }
    println!("64 at once: {:?} each", start.elapsed() / (50 * 64));
    let start = std::time::Instant::now();
    let rows = (0..2000).map(|n| StateWrite::Doubt(doubt(&format!("k{n}"), 1, Some(page(0, 1)))));
    store.commit("orders", &fence, rows.collect()).await.unwrap();
    println!("2000 doubts of a page: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    write(&store, &fence, StateWrite::SettlePage(page(0, 1))).await;
    println!("its settling: {:?}; file {} KiB", start.elapsed(), std::fs::metadata(&path).unwrap().len() >> 10);
    let start = std::time::Instant::now();
    store.read("orders").await.unwrap();
    println!("read: {:?}", start.elapsed());
    let sync = std::fs::File::create(directory.path().join("probe")).unwrap();
    let start = std::time::Instant::now();
    for n in 0..200_u64 {
        std::io::Write::write_all(&mut &sync, &n.to_be_bytes()).unwrap();
        sync.sync_data().unwrap();
    }
    println!("bare fdatasync: {:?}", start.elapsed() / 200);
    drop(store);
    println!("file after close {} KiB", std::fs::metadata(&path).unwrap().len() >> 10);
}

/// Not a test: the other process of those below. Commits checkpoints 1, 2, … and tells each once it was answered.
#[tokio::test]
#[ignore = "run by other tests, as another process"]
async fn another_process() {
    let Some(path) = std::env::var_os("DYNAFERRY_TEST_STATE") else { return };
    let store: Arc<dyn StateStore> = match FileStore::open(path) {
        Ok(store) => Arc::new(store),
        Err(error) => return println!("refused {error:?}"),
    };
    let (fence, before) = store.take("orders", "another").await.unwrap();
    let reached = before.shards.first().and_then(|row| row.checkpoint).map_or(0, |c| c.as_str().parse().unwrap());
    for n in reached + 1.. {
        let rows = vec![StateWrite::Shard(shard("s", Some(n))), StateWrite::Segment(segment((n % 500) as u32, false))];
        store.commit("orders", &fence, rows).await.unwrap();
        println!("answered {n}");
    }
}

fn start_another_process(path: &Path) -> (std::process::Child, impl Iterator<Item = String> + use<>) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["another_process", "--ignored", "--nocapture"])
        .env("DYNAFERRY_TEST_STATE", path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap())).map_while(Result::ok);
    (child, lines.filter(|line| line.contains("answered") || line.contains("refused")))
}

#[tokio::test]
async fn another_process_is_refused_while_this_one_has_the_file() {
    let (_directory, path) = place();
    let store = FileStore::open(&path).unwrap();
    let (mut child, mut lines) = start_another_process(&path);
    assert!(lines.next().unwrap().contains("refused Held"));
    child.wait().unwrap();
    drop(store);
}

#[tokio::test]
async fn a_process_killed_at_any_line_keeps_every_commit_it_was_answered() {
    let (_directory, path) = place();
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..8 {
        let (mut child, mut lines) = start_another_process(&path);
        let last_seen = lines.nth(random.usize(..200)).unwrap();
        for _ in 0..random.usize(..50_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let last_seen = lines.last().unwrap_or(last_seen);
        let answered: u64 = last_seen.rsplit(' ').next().unwrap().parse().unwrap();
        let state = read_all(&path).await;
        let kept: u64 = state.shards[0].checkpoint.unwrap().as_str().parse().unwrap();
        assert!(kept == answered || kept == answered + 1, "{kept} kept, {answered} answered");
        assert!(state.segments.iter().any(|row| u64::from(row.segment) == kept % 500), "a commit is whole");
    }
}
