//! The database in one file: encodes and decodes what callers bring and ask for, and leaves the
//! reading to `file`, the writing to `write`, and the waiting to `group`.
//!
//! No code of a caller runs while a lock of ours or a transaction of redb's is held: data is encoded
//! before its work joins the group, decoded after what was read has been copied out, and the clock is
//! asked before either.

mod builder;
mod file;
mod group;
mod rows;
mod write;

pub use builder::{Durability, RedbDbBuilder};

use crate::batch::BatchRef;
use crate::error::item_at_lock_key;
use crate::sync::Arc;
use crate::{
    AtomicDb, Batch, Clock, Error, Item, Key, Lock, Page, Query, Result, Version, VersionGenerator,
};
use file::{File, FoundLock, Row, Stored};
use group::Group;
use rows::RowKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use write::{Answer, Change, Failure, Outcome, Work};

/// A database in one file on disk, for command-line tools and services on one machine. What a call
/// has written survives the end of the process, `kill -9` and a power cut.
///
/// A handle: clones are handles to the same open file, which is closed when the last of them is
/// dropped. One process at a time has it open for writing, or any number for
/// [reading only](RedbDbBuilder::read_only).
///
/// ```
/// use atomic_db::{AtomicDb, Item, Key, RedbDb};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize, Serialize)]
/// struct Account {
///     cents: i64,
/// }
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("accounts.redb");
/// let db: RedbDb<Account> = RedbDb::open(&path)?;
/// let lock = db.get_lock(Key::new("account#1", "lock"))?;
/// db.set_atomic(&[Item::new("account#1", "balance", Account { cents: 250 })], &[lock])?;
/// drop(db);
///
/// let db: RedbDb<Account> = RedbDb::open(&path)?;
/// let item = db.get(Key::new("account#1", "balance"))?;
/// assert_eq!(item.and_then(|item| item.data().map(|account| account.cents)), Some(250));
/// # Ok::<(), atomic_db::Error>(())
/// ```
///
/// # What it promises
///
/// All of [`AtomicDb`]'s contract. One [`query`](AtomicDb::query), one
/// [`get_many`](AtomicDb::get_many) and one [`page`](AtomicDb::page) each see one instant; a
/// [`stream`](AtomicDb::stream) sees one instant per page and holds nothing between two. Reads run
/// beside writers, and neither waits for the other. A [`set`](AtomicDb::set) or
/// [`delete`](AtomicDb::delete) is all or nothing as a whole, not for each item alone.
///
/// Versions of one lock grow from one run to the next, also if the clock was set back between them:
/// the file keeps the latest one. Versions that no lock has had are unique by chance
/// alone, see [`VersionGenerator`].
///
/// # Writing together
///
/// Writes wait for the disk, and those that wait together are written together: the caller who
/// comes first takes all that wait, judges and applies each on its own in the order of arrival, and
/// makes them durable at once; then each is told its own outcome. So a race is lost by one and not
/// by its neighbours, and eight threads write several times as much as one. There is no thread in
/// the background.
///
/// # When the file fails
///
/// - [`Unavailable`](Error::Unavailable): somebody else has the file open. Nothing happened.
/// - [`Backend`](Error::Backend): it could not be read, or what is in it cannot be understood.
///   Nothing was written.
/// - [`OutcomeUnknown`](Error::OutcomeUnknown): the disk failed, or was full, when the write was to
///   be made durable. All of it was written, or nothing. Everyone whose write was in the same
///   transaction hears this; whoever lost a race there has written nothing, and is told
///   [`Backend`](Error::Backend).
///
/// After a failure of the disk this handle and its clones refuse to write, and what they have not in
/// memory they do not read either. Drop them all and open the file again: it is as it was, without or
/// with the write whose outcome was unknown.
///
/// # Limits
///
/// A partition key and a sort key may be 65,535 bytes long each, an item's data 16 MiB of JSON.
/// What is longer is refused with [`LimitExceeded`](Error::LimitExceeded) before anything happens. All items of one
/// commit are in memory at once.
///
/// Data is stored as JSON, so it must come back from it: JSON has no infinite and no undefined numbers,
/// keys of maps are texts, and at most 127 values lie within each other.
///
/// # What is in the file
///
/// A [redb](https://docs.rs/redb) file of format 3 with four tables, all with byte strings as keys:
///
/// | table | key | value |
/// | --- | --- | --- |
/// | `atomic_db/meta` | `format` | `1`, as text |
/// | | `latest` | the latest version that a lock has had, 16 bytes |
/// | `atomic_db/items` | row key | `ttl`, 8 bytes, and the data as JSON; no JSON if there is no data |
/// | `atomic_db/locks` | row key | the version, 16 bytes, and `ttl`, 8 bytes |
/// | `atomic_db/expiries` | `ttl`, 8 bytes, then `i` or `l`, then the row key | nothing |
///
/// Numbers are big-endian. A `ttl` of 2⁶⁴-1 is none, and has no row among the expiries. A row key is
/// the partition key with a byte 0xFF after every NUL in it, then a NUL, then the sort key: no two
/// keys share one, for no UTF-8 holds 0xFF, and row keys are in the order of their `(pk, sk)`. No key
/// is in both of `items` and `locks`. A file with another `format` is refused.
///
/// What has expired stays in the file and is not seen; it is dropped when a write meets it, and by
/// [`purge_expired`](RedbDb::purge_expired).
pub struct RedbDb<T> {
    shared: Arc<Shared>,
    data: PhantomData<fn() -> T>,
}

struct Shared {
    file: File,
    group: Group<Work, Outcome>,
    versions: VersionGenerator,
    clock: Arc<dyn Clock>,
}

/// The most items of one page, and the bytes of data after which it holds no more.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 1 << 20;

/// How many expired rows are removed in one transaction.
const PURGE: usize = 4_096;

/// How often a leader yields to those who were served last; see [`Group::new`].
const PATIENCE: u32 = 64;

const MAX_KEY: usize = 65_535;
const MAX_DATA: usize = 16 << 20;

impl<T> RedbDb<T> {
    /// Opens the file at `path` with the defaults of [`RedbDbBuilder`]; makes it if there is none, or
    /// an empty one.
    ///
    /// # Errors
    ///
    /// Those of [`RedbDbBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        RedbDb::builder().open(path)
    }

    /// A database with a clock, a cache or a durability of your own, or for reading only.
    #[must_use]
    pub fn builder() -> RedbDbBuilder<T> {
        RedbDbBuilder::new()
    }

    /// Another handle to the same open file, which reads and writes items as `U`s.
    ///
    /// So each partition can be of a type of its own. An item that is read as what it is not is a
    /// [`Codec`](Error::Codec) error that names it; a query that meets one fails as a whole.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, Error, Item, Key, RedbDb};
    ///
    /// let names: RedbDb<String> = RedbDb::builder().in_memory()?;
    /// let counts = names.with_data::<u32>();
    /// names.set(&[Item::new("user#1", "name", "Ada".to_string())])?;
    /// counts.set(&[Item::new("user#1", "visits", 3)])?;
    ///
    /// assert_eq!(counts.get(Key::new("user#1", "visits"))?.and_then(Item::into_data), Some(3));
    /// let wrong = counts.get(Key::new("user#1", "name")).unwrap_err();
    /// assert!(matches!(wrong, Error::Codec { key, .. } if key.sk() == "name"));
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    #[must_use]
    pub fn with_data<U>(&self) -> RedbDb<U> {
        RedbDb {
            shared: Arc::clone(&self.shared),
            data: PhantomData,
        }
    }

    /// How many live items there are, at one instant. Locks do not count. The cost is in proportion
    /// to what has expired and is still in the file.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`]: the file could not be read.
    pub fn len(&self) -> Result<usize> {
        let items = self.shared.file.len(self.now())?;
        Ok(usize::try_from(items).unwrap_or(usize::MAX))
    }

    /// Whether there is no live item.
    ///
    /// # Errors
    ///
    /// Those of [`len`](RedbDb::len).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Removes all items and locks that have expired, and returns how many these were.
    ///
    /// The cost is in proportion to what has expired, not to what is stored; a few thousand go in
    /// one transaction, and other writes are let in between. The file does not become smaller: what
    /// is free in it is used again, and [`compact`](RedbDb::compact) gives it back.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, Item, ManualClock, RedbDb};
    ///
    /// let clock = ManualClock::new(1_000);
    /// let db = RedbDb::builder().clock(clock.clone()).in_memory()?;
    /// db.set(&[Item::new("session", "a", ()).expires_at(1_500), Item::new("session", "b", ())])?;
    /// clock.set(1_501);
    /// assert_eq!(db.len()?, 1);
    /// assert_eq!(db.purge_expired()?, 1);
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`delete`](AtomicDb::delete). What has expired is not seen, whether it was removed or
    /// not.
    pub fn purge_expired(&self) -> Result<usize> {
        let now = self.now();
        let mut count = 0;
        loop {
            let most = PURGE;
            let Answer::Purged(some) = self.write(Work::Purge { now, most })? else {
                return Err(unexpected());
            };
            count += some;
            if some < most {
                return Ok(count);
            }
        }
    }

    /// Waits until all that was written before the call is on the disk. Needed with
    /// [`Durability::Deferred`] alone.
    ///
    /// # Errors
    ///
    /// - [`Error::OutcomeUnknown`]: the disk failed. What was written since the last flush may be
    ///   lost.
    /// - [`Error::Backend`]: the file had failed before.
    /// - [`Error::InvalidInput`]: it was opened for reading only.
    pub fn flush(&self) -> Result<()> {
        self.write(Work::Flush)?;
        Ok(())
    }

    /// Makes the file as small as it can be, and returns whether it could be made smaller.
    ///
    /// It takes time in proportion to the file; all other calls wait meanwhile. A crash meanwhile
    /// loses nothing.
    ///
    /// # Errors
    ///
    /// - [`Error::Backend`]: the disk failed. Nothing is lost; drop all handles and open the file
    ///   again.
    /// - [`Error::InvalidInput`]: it was opened for reading only.
    pub fn compact(&self) -> Result<bool> {
        self.shared.file.compact()
    }

    /// Checks the whole file: the checksums of all its pages, that every row can be read, and that
    /// the tables agree with each other. Returns whether it was sound; if not, it was damaged where
    /// it could be repaired, and is sound now.
    ///
    /// Data is not decoded. All other calls wait meanwhile. On a file that was opened for reading only
    /// the rows are checked, and not the checksums.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`]: the file is damaged beyond repair, or could not be read. Items that can
    /// still be read can be copied to another file.
    pub fn check_integrity(&self) -> Result<bool> {
        self.shared.file.check_integrity()
    }

    fn now(&self) -> u64 {
        self.shared.clock.epoch_seconds()
    }

    /// Joins the group with `work`, and leads it if nobody does.
    fn join(&self, work: Work) -> Result<Answer, Failure> {
        let Shared { file, versions, .. } = &*self.shared;
        let write = |works: &mut dyn Iterator<Item = Work>| write::write(file, versions, works);
        self.shared.group.run(work, write, write::unanswered)
    }

    fn write(&self, work: Work) -> Result<Answer> {
        self.join(work).map_err(Failure::into_error)
    }
}

impl<T: Serialize + DeserializeOwned> RedbDb<T> {
    /// The items of `rows`, in their order.
    fn decode_all(&self, pk: &str, rows: Vec<Row>) -> Result<Vec<Item<T>>> {
        let decode = |row: Row| decode(Key::new(pk, &row.sk), row.stored);
        rows.into_iter().map(decode).collect()
    }

    /// The one instant at which `writes` are judged and happen.
    fn apply(&self, writes: &BatchRef<'_, T>) -> Result<Version> {
        writes.validate()?;
        writes.keys().try_for_each(|key| check_key(key.as_key()))?;
        let now = self.shared.clock.now();
        if writes.len() == 0 {
            return Ok(self.shared.versions.next(now));
        }
        let locks = writes.locks.iter().chain(writes.checks);
        let change = Change {
            now,
            locks: locks
                .clone()
                .map(|lock| (rows::row_key(lock.key()), lock.version()))
                .collect(),
            renewed: writes.locks.len(),
            sets: encode_all(writes.sets)?,
            creates: encode_all(writes.creates)?,
            deletes: row_keys(writes.deletes.iter().map(|key| key.as_key())),
        };
        match self.write(Work::Change(change))? {
            Answer::Committed(version) => Ok(version),
            Answer::Lost(numbers) => Err(Error::RaceCondition {
                keys: locks
                    .enumerate()
                    .filter(|(number, _)| numbers.contains(number))
                    .map(|(_, lock)| lock.key().to_buf())
                    .collect(),
            }),
            Answer::Exists(number) => match writes.creates.get(number) {
                Some(item) => Err(Error::AlreadyExists {
                    key: item.key().to_buf(),
                }),
                None => Err(unexpected()),
            },
            _ => Err(unexpected()),
        }
    }
}

impl<T: Serialize + DeserializeOwned> AtomicDb for RedbDb<T> {
    type Data = T;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        check_key(key)?;
        let row = rows::row_key(key);
        // The clock is asked only for items that can expire, and after reading.
        let found = match self.shared.file.item(&row)? {
            None => None,
            Some(found) if found.ttl == rows::NEVER || self.now() <= found.ttl => Some(found),
            // Expired, but a live item may have replaced it by now. The second look is judged at a
            // time before it.
            Some(_) => {
                let now = self.now();
                let found = self.shared.file.item(&row)?;
                found.filter(|found| now <= found.ttl)
            }
        };
        found.map(|stored| decode(key, stored)).transpose()
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.get(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        keys.iter().copied().try_for_each(check_key)?;
        let now = self.now();
        let rows = row_keys(keys.iter().copied());
        let found = self.shared.file.items(&rows, now)?;
        let items = keys.iter().zip(found);
        items
            .map(|(key, stored)| stored.map(|stored| decode(*key, stored)).transpose())
            .collect()
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        check_key(key)?;
        let now = self.shared.clock.now();
        let row = rows::row_key(key);
        let refused = || Err(item_at_lock_key(key));
        match self.shared.file.lock(&row, now.as_secs())? {
            FoundLock::Item => return refused(),
            FoundLock::Live(version, ttl) => {
                let lock = Lock::new(key, version, ttl);
                if lock.refreshed_ttl(now.as_secs()) == ttl {
                    return Ok(lock);
                }
            }
            FoundLock::None => {}
        }
        match self.join(Work::Lock { key: row, now }) {
            Ok(Answer::Lock(version, ttl)) => Ok(Lock::new(key, version, ttl)),
            Ok(Answer::ItemThere) => refused(),
            Ok(_) => Err(unexpected()),
            // A lock that nobody has read does no harm, whether it is there or not.
            Err(Failure::Unknown(source)) => Err(Error::Backend(Box::new(source))),
            Err(failure) => Err(failure.into_error()),
        }
    }

    fn set(&self, items: &[Item<T>]) -> Result<()> {
        items.iter().map(Item::key).try_for_each(check_key)?;
        if items.is_empty() {
            return Ok(());
        }
        self.write(Work::Change(Change {
            sets: encode_all(items)?,
            ..Change::default()
        }))?;
        Ok(())
    }

    fn commit(&self, batch: &Batch<T>) -> Result<Version> {
        self.apply(&batch.as_batch_ref())
    }

    fn set_atomic(&self, items: &[Item<T>], locks: &[Lock]) -> Result<Version> {
        self.apply(&BatchRef::for_set_atomic(items, locks)?)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        keys.iter().copied().try_for_each(check_key)?;
        if keys.is_empty() {
            return Ok(());
        }
        self.write(Work::Change(Change {
            deletes: row_keys(keys.iter().copied()),
            ..Change::default()
        }))?;
        Ok(())
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<T>> {
        let max = query.limit.map_or(PAGE, |limit| limit.min(PAGE));
        let (rows, more) = self.select(query, after, max, PAGE_BYTES)?;
        let items = self.decode_all(&query.pk, rows)?;
        let last = items.last().filter(|_| more);
        Ok(Page {
            next: last.map(|item| item.sk().to_owned()),
            items,
        })
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<T>>> {
        let max = query.limit.unwrap_or(usize::MAX);
        let (rows, _) = self.select(query, None, max, usize::MAX)?;
        self.decode_all(&query.pk, rows)
    }
}

impl<T> RedbDb<T> {
    fn select(
        &self,
        query: &Query,
        after: Option<&str>,
        max: usize,
        bytes: usize,
    ) -> Result<(Vec<Row>, bool)> {
        check_key(Key::new(&query.pk, ""))?;
        if max == 0 {
            return Ok((Vec::new(), false));
        }
        let now = self.now();
        self.shared.file.select(query, after, max, bytes, now)
    }
}

/// # Errors
///
/// [`Error::LimitExceeded`] if either part is too long.
fn check_key(key: Key<'_>) -> Result<()> {
    let parts = [
        ("a partition key's length in bytes", key.pk.len()),
        ("a sort key's length in bytes", key.sk.len()),
    ];
    match parts.into_iter().find(|(_, got)| *got > MAX_KEY) {
        None => Ok(()),
        Some((what, got)) => Err(Error::LimitExceeded {
            what,
            limit: MAX_KEY,
            actual: got,
        }),
    }
}

fn row_keys<'a>(keys: impl Iterator<Item = Key<'a>>) -> Vec<RowKey> {
    keys.map(rows::row_key).collect()
}

fn encode_all<T: Serialize>(items: &[Item<T>]) -> Result<Vec<(RowKey, Vec<u8>)>> {
    let encode = |item: &Item<T>| Ok((rows::row_key(item.key()), encode(item)?));
    items.iter().map(encode).collect()
}

fn encode<T: Serialize>(item: &Item<T>) -> Result<Vec<u8>> {
    let header = rows::item_header(item.ttl());
    let mut row = Vec::with_capacity(128);
    row.extend_from_slice(&header);
    if let Some(data) = item.data() {
        serde_json::to_writer(&mut row, data).map_err(|error| codec(item.key(), error))?;
    }
    match row.len() - header.len() {
        size if size > MAX_DATA => Err(Error::LimitExceeded {
            what: "an item's data in bytes of JSON",
            limit: MAX_DATA,
            actual: size,
        }),
        _ => Ok(row),
    }
}

fn decode<T: DeserializeOwned>(key: Key<'_>, stored: Stored) -> Result<Item<T>> {
    let item = match stored.json.as_slice() {
        [] => Item::without_data(key.pk, key.sk),
        json => {
            let data = serde_json::from_slice(json).map_err(|error| codec(key, error))?;
            Item::new(key.pk, key.sk, data)
        }
    };
    Ok(item.expires_at(stored.ttl))
}

fn codec(key: Key<'_>, error: serde_json::Error) -> Error {
    Error::Codec {
        key: key.to_buf(),
        source: error.into(),
    }
}

/// Each work has answers of its own; another one is an error of this module.
fn unexpected() -> Error {
    Error::Backend("a write was answered as another one".into())
}

impl<T> Clone for RedbDb<T> {
    fn clone(&self) -> Self {
        self.with_data()
    }
}

/// Shows how the database is set up, and none of its data.
impl<T> fmt::Debug for RedbDb<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbDb")
            .field("file", &format_args!("{}", self.shared.file.name))
            .field("durability", &self.shared.file.durability)
            .field("clock", &self.shared.clock)
            .finish_non_exhaustive()
    }
}
