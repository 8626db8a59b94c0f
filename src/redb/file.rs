//! One open file: how it is opened and checked, what is read from it, and what redb's errors mean.

use super::builder::{Durability, Options};
use super::rows::{self, Kind, RowKey, after_all};
use crate::sync::{Arc, RwLock};
use crate::{BoxError, Error, Query, Result, Version, VersionGenerator};
use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadOnlyTable, ReadTransaction, ReadableDatabase,
    ReadableTable, ReadableTableMetadata, StorageBackend, StorageError, TableDefinition,
    TableError, TableHandle, WriteTransaction,
};
use std::fs;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

pub(super) type Bytes = &'static [u8];

pub(super) const META: TableDefinition<Bytes, Bytes> = TableDefinition::new("atomic_db/meta");
pub(super) const ITEMS: TableDefinition<Bytes, Bytes> = TableDefinition::new("atomic_db/items");
pub(super) const LOCKS: TableDefinition<Bytes, Bytes> = TableDefinition::new("atomic_db/locks");
pub(super) const EXPIRIES: TableDefinition<Bytes, ()> = TableDefinition::new("atomic_db/expiries");

/// The row of the format, and the only one that is known.
const FORMAT: &[u8] = b"format";
const FORMAT_1: &[u8] = b"1";

/// The row of the latest version that a lock has had.
pub(super) const LATEST: &[u8] = b"latest";

/// An open file. Whoever reads or writes holds it for reading for as long as its transaction lives;
/// what needs the file for itself holds it for writing. No code of a caller runs meanwhile.
pub(super) struct File {
    handle: RwLock<Handle>,
    pub(super) durability: Durability,
    /// How errors name it.
    pub(super) name: String,
}

enum Handle {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
    /// What is left of a file that is being dropped.
    Closed,
}

/// What a query finds: a live item and its sort key.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) sk: String,
    pub(super) stored: Stored,
}

/// What is stored of a live item: to be decoded when nothing is held any more.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) ttl: u64,
    pub(super) json: Vec<u8>,
}

/// The lock at a key, as a reader finds it.
pub(super) enum FoundLock {
    Live(Version, u64),
    /// None, or an expired one; an expired item may be there.
    None,
    /// A live item is there.
    Item,
}

impl File {
    pub(super) fn open(path: &Path, options: &Options) -> Result<Self> {
        let name = format!("{path:?}");
        match fs::metadata(path) {
            Ok(found) if !found.is_file() => Err(Error::InvalidInput(format!(
                "{name} is no file but a {}",
                match found.is_dir() {
                    true => "directory",
                    false => "device or pipe",
                }
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !options.read_only => {
                File::create(path, name, options)
            }
            // What else is wrong, an open says it.
            _ => File::open_in_place(path, name, options),
        }
    }

    /// Makes a file under another name, and gives it its own when it is whole: redb opens no file
    /// whose making was cut short.
    fn create(path: &Path, name: String, options: &Options) -> Result<Self> {
        let mut other = path.file_name().unwrap_or_default().to_owned();
        other.push(format!(
            ".{}.new",
            VersionGenerator::new().next(Duration::ZERO)
        ));
        let other = path.with_file_name(other);
        let file = File::open_in_place(&other, name.clone(), options);
        let linked = match &file {
            Ok(_) => fs::hard_link(&other, path),
            Err(_) => Ok(()),
        };
        // If it cannot be removed, it was not made; a second name of the file does no harm.
        let _ = fs::remove_file(&other);
        match linked {
            Ok(()) => {
                let file = file?;
                let synced = sync_directory_of(path);
                synced.map_err(|error| cannot_open(&name, error))?;
                Ok(file)
            }
            // Somebody else has made it meanwhile; or files here have one name only.
            Err(_) => {
                drop(file);
                File::open_in_place(path, name, options)
            }
        }
    }

    fn open_in_place(path: &Path, name: String, options: &Options) -> Result<Self> {
        File::opened(name, options, |builder| match options.read_only {
            true => builder.open_read_only(path).map(Handle::ReadOnly),
            false => builder.create(path).map(Handle::Writable),
        })
    }

    pub(super) fn open_with(backend: impl StorageBackend, options: &Options) -> Result<Self> {
        let name = "the storage".to_owned();
        File::opened(name, options, |builder| match options.read_only {
            true => builder
                .open_read_only_with_backend(backend)
                .map(Handle::ReadOnly),
            false => builder.create_with_backend(backend).map(Handle::Writable),
        })
    }

    fn opened(
        name: String,
        options: &Options,
        open: impl FnOnce(&redb::Builder) -> Result<Handle, DatabaseError>,
    ) -> Result<Self> {
        sheltered(|| {
            let mut builder = Database::builder();
            builder
                .set_cache_size(options.cache_size)
                .set_check_integrity_on_open(options.check_on_open);
            let handle = open(&builder).map_err(|error| not_opened(&name, error))?;
            let file = File {
                handle: RwLock::new(handle),
                durability: options.durability,
                name,
            };
            file.check_format()?;
            Ok(file)
        })
    }

    /// Makes the tables of an empty file; refuses a file that has other tables.
    fn check_format(&self) -> Result<()> {
        let handle = self.handle.read();
        let read = handle.begin_read()?;
        let tables = read.list_tables().map_err(backend)?;
        let tables: Vec<String> = tables.map(|table| table.name().to_owned()).collect();
        if tables.iter().any(|name| name == META.name()) {
            let meta = read.open_table(META).map_err(|error| self.foreign(error))?;
            let format = meta.get(FORMAT).map_err(backend)?;
            let format = format.map(|row| row.value().to_vec());
            return match format.as_deref() {
                Some(FORMAT_1) => {
                    read.open_table(ITEMS)
                        .map_err(|error| self.foreign(error))?;
                    read.open_table(LOCKS)
                        .map_err(|error| self.foreign(error))?;
                    let opened = read.open_table(EXPIRIES);
                    opened.map(|_| ()).map_err(|error| self.foreign(error))
                }
                other => Err(Error::InvalidInput(format!(
                    "{} has format {}, and this version of atomic-db knows format 1",
                    self.name,
                    other.map_or("none".into(), String::from_utf8_lossy)
                ))),
            };
        }
        if let Some(other) = tables.first() {
            return Err(Error::InvalidInput(format!(
                "{} is a redb file of another program: it has a table {other:?}",
                self.name
            )));
        }
        let Handle::Writable(database) = &*handle else {
            return Err(Error::InvalidInput(format!(
                "{} has no database in it yet: open it for writing once",
                self.name
            )));
        };
        let write = database.begin_write().map_err(backend)?;
        {
            let mut meta = write.open_table(META).map_err(backend)?;
            meta.insert(FORMAT, FORMAT_1).map_err(backend)?;
            write.open_table(ITEMS).map_err(backend)?;
            write.open_table(LOCKS).map_err(backend)?;
            write.open_table(EXPIRIES).map_err(backend)?;
        }
        write.commit().map_err(backend)
    }

    fn foreign(&self, error: TableError) -> Error {
        match error {
            TableError::Storage(error) => backend(error),
            error => Error::InvalidInput(format!(
                "{} is no database of atomic-db: {error}",
                self.name
            )),
        }
    }

    /// The latest version that a lock has had, if one has.
    pub(super) fn latest_version(&self) -> Result<Option<Version>> {
        self.reading(META, |meta| {
            let row = meta.get(LATEST).map_err(backend)?;
            row.map(|row| match row.value().try_into() {
                Ok(bits) => Ok(Version::from_u128(u128::from_be_bytes(bits))),
                Err(_) => Err(damaged("the latest version has another length")),
            })
            .transpose()
        })
    }

    /// The item at `key`, live or expired.
    pub(super) fn item(&self, key: &[u8]) -> Result<Option<Stored>> {
        self.reading(ITEMS, |items| stored_at(items, key))
    }

    /// The live items at `keys`, at one instant.
    pub(super) fn items(&self, keys: &[RowKey], now: u64) -> Result<Vec<Option<Stored>>> {
        self.reading(ITEMS, |items| {
            let live = |key: &RowKey| {
                let found = stored_at(items, key)?;
                Ok(found.filter(|found| now <= found.ttl))
            };
            keys.iter().map(live).collect()
        })
    }

    /// What `query` asks for at one instant: at most `max` items, and no more once they hold `bytes`
    /// of data; and whether there are more.
    pub(super) fn select(
        &self,
        query: &Query,
        after: Option<&str>,
        max: usize,
        bytes: usize,
        now: u64,
    ) -> Result<(Vec<Row>, bool)> {
        let partition = rows::partition(&query.pk);
        let Some((from, to)) = bounds(&partition, query, after) else {
            return Ok((Vec::new(), false));
        };
        self.reading(ITEMS, |items| {
            let range = (
                from.as_ref().map(RowKey::as_slice),
                to.as_ref().map(RowKey::as_slice),
            );
            let mut range = items.range::<&[u8]>(range).map_err(backend)?;
            let mut found = Vec::new();
            let mut size = 0;
            loop {
                let next = match query.reverse {
                    true => range.next_back(),
                    false => range.next(),
                };
                let Some(next) = next else {
                    return Ok((found, false));
                };
                let (key, row) = next.map_err(backend)?;
                let (ttl, json) = rows::read_item(row.value()).ok_or_else(no_item)?;
                if ttl < now {
                    continue;
                }
                if found.len() == max || size >= bytes {
                    return Ok((found, true));
                }
                let sk = key.value().get(partition.len()..).unwrap_or_default();
                let sk = std::str::from_utf8(sk);
                size += json.len();
                found.push(Row {
                    sk: sk.map_err(|_| damaged("a key is no text"))?.to_owned(),
                    stored: Stored {
                        ttl,
                        json: json.to_vec(),
                    },
                });
            }
        })
    }

    pub(super) fn lock(&self, key: &[u8], now: u64) -> Result<FoundLock> {
        self.transaction(|read| {
            let locks = open(read, LOCKS)?;
            if let Some(row) = locks.get(key).map_err(backend)? {
                let (version, ttl) = rows::read_lock(row.value()).ok_or_else(no_lock)?;
                return Ok(match now <= ttl {
                    true => FoundLock::Live(version, ttl),
                    false => FoundLock::None,
                });
            }
            let items = open(read, ITEMS)?;
            Ok(match stored_at(&items, key)? {
                Some(item) if now <= item.ttl => FoundLock::Item,
                _ => FoundLock::None,
            })
        })
    }

    /// How many live items there are.
    pub(super) fn len(&self, now: u64) -> Result<u64> {
        self.transaction(|read| {
            let mut count = open(read, ITEMS)?.len().map_err(backend)?;
            let end = now.to_be_bytes();
            let expiries = open(read, EXPIRIES)?;
            let expired = expiries.range::<&[u8]>(..end.as_slice()).map_err(backend)?;
            for row in expired {
                let (key, _) = row.map_err(backend)?;
                let (_, kind, _) = rows::read_expiry(key.value()).ok_or_else(no_expiry)?;
                count = count.saturating_sub(u64::from(kind == Kind::Item));
            }
            Ok(count)
        })
    }

    fn reading<K: redb::Key, V: redb::Value, R>(
        &self,
        table: TableDefinition<'static, K, V>,
        read: impl FnOnce(&ReadOnlyTable<K, V>) -> Result<R>,
    ) -> Result<R> {
        self.transaction(|transaction| read(&open(transaction, table)?))
    }

    /// One read transaction, which sees one instant.
    fn transaction<R>(&self, read: impl FnOnce(&ReadTransaction) -> Result<R>) -> Result<R> {
        sheltered(|| {
            let handle = self.handle.read();
            let transaction = handle.begin_read()?;
            read(&transaction)
        })
    }

    /// Gives a write transaction to `write`, while the file cannot be taken for itself.
    pub(super) fn writing<R>(
        &self,
        write: impl FnOnce(WriteTransaction) -> Result<R>,
    ) -> Result<R> {
        match &*self.handle.read() {
            Handle::Writable(database) => write(database.begin_write().map_err(backend)?),
            Handle::ReadOnly(_) | Handle::Closed => Err(self.is_read_only()),
        }
    }

    fn is_read_only(&self) -> Error {
        Error::InvalidInput(format!("{} was opened for reading only", self.name))
    }

    pub(super) fn compact(&self) -> Result<bool> {
        sheltered(|| match &mut *self.handle.write() {
            Handle::Writable(database) => database.compact().map_err(backend),
            Handle::ReadOnly(_) | Handle::Closed => Err(self.is_read_only()),
        })
    }

    pub(super) fn check_integrity(&self) -> Result<bool> {
        sheltered(|| {
            let mut handle = self.handle.write();
            let sound = match &mut *handle {
                Handle::Writable(database) => database.check_integrity().map_err(backend)?,
                Handle::ReadOnly(_) | Handle::Closed => true,
            };
            check_rows(&handle.begin_read()?)?;
            Ok(sound)
        })
    }
}

/// Closing a file writes to it, and a storage may panic there.
impl Drop for File {
    fn drop(&mut self) {
        let handle = std::mem::replace(&mut *self.handle.write(), Handle::Closed);
        let closed = sheltered(|| {
            drop(handle);
            Ok(())
        });
        // Whoever wants to hear of it has called `flush`; a drop has nobody to tell.
        drop(closed);
    }
}

impl Handle {
    fn begin_read(&self) -> Result<ReadTransaction> {
        match self {
            Handle::Writable(database) => database.begin_read(),
            Handle::ReadOnly(database) => database.begin_read(),
            Handle::Closed => Err(StorageError::DatabaseClosed.into()),
        }
        .map_err(backend)
    }
}

/// Every row can be read, every `ttl` has its place in the index and every place its row, and no key
/// holds an item and a lock.
fn check_rows(read: &ReadTransaction) -> Result<()> {
    let (items, locks) = (open(read, ITEMS)?, open(read, LOCKS)?);
    let expiries = open(read, EXPIRIES)?;
    let mut expiring = 0;
    let mut check = |kind: Kind, key: &[u8], ttl: u64| {
        rows::read_key(key).ok_or_else(|| damaged("a key is no text"))?;
        if ttl != rows::NEVER {
            expiring += 1;
            let place = rows::expiry_key(ttl, kind, key);
            if expiries.get(place.as_slice()).map_err(backend)?.is_none() {
                return Err(damaged("a time to live is not in the index of expiries"));
            }
        }
        Ok(())
    };
    for row in items.iter().map_err(backend)? {
        let (key, row) = row.map_err(backend)?;
        let (ttl, _) = rows::read_item(row.value()).ok_or_else(no_item)?;
        check(Kind::Item, key.value(), ttl)?;
    }
    for row in locks.iter().map_err(backend)? {
        let (key, row) = row.map_err(backend)?;
        let (_, ttl) = rows::read_lock(row.value()).ok_or_else(no_lock)?;
        check(Kind::Lock, key.value(), ttl)?;
        if items.get(key.value()).map_err(backend)?.is_some() {
            return Err(damaged("a key holds an item and a lock"));
        }
    }
    match expiries.len().map_err(backend)? == expiring {
        true => Ok(()),
        false => Err(damaged(
            "the index of expiries names rows that are not there",
        )),
    }
}

fn open<K: redb::Key, V: redb::Value>(
    read: &ReadTransaction,
    table: TableDefinition<'static, K, V>,
) -> Result<ReadOnlyTable<K, V>> {
    read.open_table(table).map_err(backend)
}

fn stored_at(items: &ReadOnlyTable<Bytes, Bytes>, key: &[u8]) -> Result<Option<Stored>> {
    let Some(row) = items.get(key).map_err(backend)? else {
        return Ok(None);
    };
    let (ttl, json) = rows::read_item(row.value()).ok_or_else(no_item)?;
    let json = json.to_vec();
    Ok(Some(Stored { ttl, json }))
}

/// Where the rows of `query` begin and end, after `after` if it is given; `None` if there can be none.
fn bounds(
    partition: &[u8],
    query: &Query,
    after: Option<&str>,
) -> Option<(Bound<RowKey>, Bound<RowKey>)> {
    let within = |sk: &str| {
        let mut key = RowKey::from_slice(partition);
        key.extend_from_slice(sk.as_bytes());
        key
    };
    let first = within(&query.prefix);
    let end = after_all(&first);
    let after = after.or(query.after.as_deref()).map(within);
    let (from, to) = match (after, query.reverse) {
        (Some(after), false) if after >= first => (Bound::Excluded(after), end),
        (Some(after), true) if after < end => (Bound::Included(first), after),
        _ => (Bound::Included(first), end),
    };
    // An empty range between bounds that have crossed is not for redb to judge.
    let crossed = match &from {
        Bound::Included(from) | Bound::Excluded(from) => *from >= to,
        Bound::Unbounded => false,
    };
    (!crossed).then_some((from, Bound::Excluded(to)))
}

/// A file's own name is durable only when its directory is.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    // Other systems do not open directories, and write their entries through.
    if cfg!(unix) {
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// redb may panic on a file that was damaged from outside; no call of ours does.
pub(super) fn sheltered<R>(act: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    damaged(text.unwrap_or("a panic without a text"))
}

pub(super) fn damaged(what: &str) -> Error {
    Error::Backend(format!("the file may be damaged: {what}").into())
}

pub(super) fn no_item() -> Error {
    damaged("an item's row is too short")
}

pub(super) fn no_lock() -> Error {
    damaged("a lock's row has another length")
}

pub(super) fn no_expiry() -> Error {
    damaged("a row of the index of expiries cannot be read")
}

/// An error of redb's that means no more than that the call failed.
pub(super) fn backend(error: impl Into<redb::Error>) -> Error {
    Error::Backend(source(error.into()))
}

/// What failed below redb where it says so, else what redb says.
pub(super) fn source(error: redb::Error) -> BoxError {
    match error {
        redb::Error::Io(error) => error.into(),
        redb::Error::Backend(error) => error,
        redb::Error::PreviousIo => {
            "the file failed before: drop every handle to it and open it again".into()
        }
        error => Box::new(Shared::from(error)),
    }
}

/// An error that several callers are told of.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct Shared(Arc<dyn std::error::Error + Send + Sync>);

impl From<redb::Error> for Shared {
    fn from(error: redb::Error) -> Self {
        Shared(Arc::new(error))
    }
}

impl From<BoxError> for Shared {
    fn from(error: BoxError) -> Self {
        Shared(error.into())
    }
}

fn cannot_open(name: &str, source: io::Error) -> Error {
    Error::Backend(Box::new(CannotOpen {
        name: name.to_owned(),
        source,
    }))
}

#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be opened")]
struct CannotOpen {
    name: String,
    source: io::Error,
}

fn not_opened(name: &str, error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => Error::Unavailable(
            format!("{name} is open already, in another process or by another handle").into(),
        ),
        DatabaseError::UpgradeRequired(version) => Error::InvalidInput(format!(
            "{name} is a redb file of the older format {version}"
        )),
        DatabaseError::RepairAborted => Error::InvalidInput(format!(
            "{name} was not closed properly: open it for writing once, which repairs it"
        )),
        DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
            io::ErrorKind::InvalidData => {
                Error::InvalidInput(format!("{name} is no redb file: {error}"))
            }
            io::ErrorKind::UnexpectedEof => damaged(&format!("{name} ends too early")),
            _ => cannot_open(name, error),
        },
        DatabaseError::Storage(StorageError::Corrupted(what)) => {
            damaged(&format!("{name}: {what}"))
        }
        error => Error::Backend(source(error.into())),
    }
}
