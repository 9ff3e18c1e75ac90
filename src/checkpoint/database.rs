//! The file's layout, on redb: opening, making, checking, and one transaction.
//!
//! Two tables: `dynaferry` holds the schema version, `rows` all rows of all links. Only [`super::file`] uses this, on its
//! own thread. Every commit is flushed to the disk before it returns.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, TableHandle};

use super::ledger::{KeyValues, Kind, Rows, Span};
use super::rows::SCHEMA_VERSION;
use super::{StoreError, StoreResult};

const META: TableDefinition<'_, &str, u32> = TableDefinition::new("dynaferry");
const ROWS: TableDefinition<'_, RowKey<'static>, &[u8]> = TableDefinition::new("rows");
const VERSION_KEY: &str = "schema_version";

/// Link, kind, key; ordered so.
type RowKey<'a> = (&'a str, u8, &'a [u8]);

/// Pages kept in memory, in bytes. The rows of a busy link are a few MiB; the library's default is 1 GiB.
const CACHE_BYTES: usize = 16 << 20;

/// Above every [`Kind`].
const AFTER_KINDS: u8 = u8::MAX;

/// A failure of the database or its medium, shared by all that it concerns.
#[derive(Debug, Clone)]
pub(super) struct Failure(Arc<redb::Error>);

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Arc::new(error.into()))
    }
}

impl Failure {
    /// What it means to the one who asked.
    pub(super) fn to_error(&self, place: &str) -> StoreError {
        let place = place.to_owned();
        let damaged = |what: &str| StoreError::Damaged { place: place.clone(), what: what.to_owned() };
        match &*self.0 {
            redb::Error::DatabaseAlreadyOpen => StoreError::Held { place },
            redb::Error::Corrupted(what) => damaged(what),
            redb::Error::UpgradeRequired(_) | redb::Error::TableTypeMismatch { .. } => damaged("unknown file layout"),
            redb::Error::TableIsMultimap(_) | redb::Error::TypeDefinitionChanged { .. } => {
                damaged("unknown file layout")
            }
            redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => damaged("it is no state file"),
            redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
            _ => StoreError::Io { place, source: Box::new(Shared(Arc::clone(&self.0))) },
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Shared(Arc<redb::Error>);

/// Whether there is such a file.
pub(super) fn exists(path: &Path, place: &str) -> StoreResult<bool> {
    path.try_exists().map_err(|error| Failure::from(error).to_error(place))
}

/// Opens a state file, or makes one.
pub(super) fn open_or_create(path: &Path, place: &str) -> StoreResult<Database> {
    let fail = |failure: Failure| failure.to_error(place);
    if !exists(path, place)? {
        create(path).map_err(fail)?;
    }
    let is_empty = fs::metadata(path).map_err(|error| fail(error.into()))?.len() == 0;
    let opened = if is_empty { builder().create(path) } else { builder().open(path) };
    let mut database = opened.map_err(|error| fail(error.into()))?;
    if is_empty {
        write_version(&database).map_err(fail)?;
    }
    check_version(&database, place)?;
    check_sums(&mut database, place)?;
    Ok(database)
}

/// Compares every page with its checksum, once. The database itself does so only after an unclean stop, and a flipped
/// digit of a checkpoint would be a valid row: changes lost in silence.
fn check_sums(database: &mut Database, place: &str) -> StoreResult<()> {
    let damaged = |what: &str| StoreError::Damaged { place: place.to_owned(), what: what.to_owned() };
    match database.check_integrity() {
        Ok(true) => Ok(()),
        Ok(false) => Err(damaged("checksums differ; the last commits may be missing from what could be saved")),
        Err(error) => Err(Failure::from(error).to_error(place)),
    }
}

/// Opens the file again after a failure. It has to be there still: a new one would forget everything.
pub(super) fn reopen(path: &Path) -> Result<Database, Failure> {
    Ok(builder().open(path)?)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Makes the file whole under another name first, so that being killed half-way leaves no file that is none.
fn create(path: &Path) -> Result<(), Failure> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.try_exists()? {
        let what = format!("the directory {} is not there: make it, or mount its disk", parent.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, what).into());
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = Path::new(&draft);
    let made = make(draft).and_then(|()| Ok(publish(draft, path)?));
    // Its second name, where it got one; else what is left of a failure that is reported.
    drop(fs::remove_file(draft));
    made?;
    sync_directory(parent)?;
    Ok(())
}

fn make(draft: &Path) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    // It holds keys, and items that were refused: the user's data.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let database = builder().create_file(options.open(draft)?)?;
    write_version(&database)
}

/// Gives the file its name, unless another process was faster: then its file is the one.
fn publish(draft: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(draft, path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // A file system without links.
        Err(_) => fs::rename(draft, path),
    }
}

/// Makes the new name in it durable, where directories can be flushed.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

fn write_version(database: &Database) -> Result<(), Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.open_table(META)?.insert(VERSION_KEY, SCHEMA_VERSION)?;
    transaction.open_table(ROWS)?;
    Ok(transaction.commit()?)
}

/// Nothing is written before this has found our table and our version.
fn check_version(database: &Database, place: &str) -> StoreResult<()> {
    let found = read_version(database).map_err(|failure| failure.to_error(place))?;
    match found {
        Some(SCHEMA_VERSION) => Ok(()),
        Some(found) => Err(StoreError::Version { place: place.to_owned(), found, known: SCHEMA_VERSION }),
        None => {
            let what = "it is a database of another program".to_owned();
            Err(StoreError::Damaged { place: place.to_owned(), what })
        }
    }
}

fn read_version(database: &Database) -> Result<Option<u32>, Failure> {
    let transaction = database.begin_read()?;
    if !transaction.list_tables()?.any(|table| table.name() == META.name()) {
        return Ok(None);
    }
    let version = transaction.open_table(META)?.get(VERSION_KEY)?.map(|version| version.value());
    Ok(version)
}

/// Runs `work` in one transaction and makes it durable; one that wrote nothing costs no flush.
///
/// # Errors
/// Then none of it may be taken for done: it may be in the file or not.
pub(super) fn transact(database: &Database, place: &str, work: impl FnOnce(&mut FileRows<'_>)) -> Result<(), Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let table = transaction.open_table(ROWS)?;
    let mut rows = FileRows { table, place, is_dirty: false, failure: RefCell::new(None) };
    work(&mut rows);
    let (is_dirty, failure) = (rows.is_dirty, rows.failure.take());
    drop(rows);
    match failure {
        Some(failure) => Err(failure),
        None if is_dirty => Ok(transaction.commit()?),
        None => Ok(transaction.abort()?),
    }
}

/// The rows inside a transaction.
pub(super) struct FileRows<'t> {
    table: Table<'t, RowKey<'static>, &'static [u8]>,
    place: &'t str,
    is_dirty: bool,
    /// The first failure of the medium: then the whole transaction is off.
    failure: RefCell<Option<Failure>>,
}

impl FileRows<'_> {
    fn note<T>(&self, result: Result<T, redb::StorageError>) -> StoreResult<T> {
        result.map_err(|error| {
            let failure = Failure::from(error);
            let told = failure.to_error(self.place);
            self.failure.borrow_mut().get_or_insert(failure);
            told
        })
    }
}

impl Rows for FileRows<'_> {
    fn place(&self) -> &str {
        self.place
    }

    fn get(&self, link: &str, kind: Kind, key: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        let found = self.note(self.table.get((link, kind as u8, key)))?;
        Ok(found.map(|value| value.value().to_vec()))
    }

    fn scan(&self, link: &str, kind: Kind, span: Span<'_>) -> StoreResult<KeyValues> {
        let mut found = KeyValues::new();
        let rows = self.note(self.table.range((link, kind as u8, span.from)..))?;
        for row in rows.take(span.limit) {
            let (row, value) = self.note(row)?;
            let (its_link, its_kind, key) = row.value();
            if its_link != link || its_kind != kind as u8 || !key.starts_with(span.prefix) {
                break;
            }
            found.push((key.to_vec(), value.value().to_vec()));
        }
        Ok(found)
    }

    fn next_link(&self, after: Option<&str>) -> StoreResult<Option<String>> {
        let from: RowKey<'_> = after.map_or(("", 0, &[]), |after| (after, AFTER_KINDS, &[]));
        let first = self.note(self.table.range(from..))?.next();
        let first = first.map(|row| self.note(row)).transpose()?;
        Ok(first.map(|(row, _)| row.value().0.to_owned()))
    }

    fn write(&mut self, link: &str, kind: Kind, key: &[u8], value: Option<&[u8]>) -> StoreResult<()> {
        self.is_dirty = true;
        let row = (link, kind as u8, key);
        let done = match value {
            Some(value) => self.table.insert(row, value).map(drop),
            None => self.table.remove(row).map(drop),
        };
        self.note(done)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes a file look like another version's.
    pub(in super::super) fn set_version(path: &Path, version: u32) {
        let database = builder().open(path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(VERSION_KEY, version).unwrap();
        transaction.commit().unwrap();
    }

    /// Writes bytes past all rules.
    pub(in super::super) fn put_raw(path: &Path, key: RowKey<'_>, value: &[u8]) {
        let database = builder().open(path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(ROWS).unwrap().insert(key, value).unwrap();
        transaction.commit().unwrap();
    }

    /// Makes a database that is not ours.
    pub(in super::super) fn make_foreign(path: &Path) {
        let database = builder().create(path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 1).unwrap();
        transaction.commit().unwrap();
    }
}
