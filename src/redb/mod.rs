//! A database in one file.
//!
//! | file | contents |
//! | --- | --- |
//! | `builder` | options and their setters |
//! | `operations` | the methods of `AtomicDb` |
//! | `encoding` | the format of the file: its tables, keys and values |
//! | `open` | opening a file, and waiting for it if it is open elsewhere |
//! | `create` | creating a file, so that it appears when it is complete |
//! | `format` | creates or checks the format of a file that was opened |
//! | `waiting` | waiting for other processes, with a deadline |
//! | `handle` | an open redb database |
//! | `file` | an open file, its transactions, closing it |
//! | `read` | what is read from a file |
//! | `scan` | reads all items |
//! | `backup` | copies all items to a new file |
//! | `request` | what callers submit to the group commit, and what they receive |
//! | `group` | the group commit, which does not depend on files |
//! | `write` | applies the requests of a group in one transaction |
//! | `tables` | applies one request within a transaction |
//! | `error` | what errors and panics of redb mean |
//!
//! # Lock order
//!
//! 1. **The handle** of the file, a read-write lock. Each transaction holds it for reading until its
//!    end. `compact` and `check_integrity` hold it for writing, and closing takes the file out of it.
//!    No thread locks it twice, because a second read would deadlock with a writer that waits in
//!    between.
//! 2. **redb's write transaction**, of which there is one at a time. Only the leader of the group
//!    begins one, so it never waits for another of this process. If the file is shared, redb takes
//!    locks of the file to begin a transaction and to commit. Each wait for them has a deadline.
//! 3. **The queue's mutex** of the group. The leader locks it for each request that it takes, while it
//!    holds the handle for reading and the write transaction. Nothing is locked while it is held. A
//!    caller that queues its request, and a leader that hands off, hold nothing else.
//! 4. **A waiter's mutex.** It is locked only while nothing else is held, and nothing is locked while
//!    it is held. A follower that waits has released it.
//!
//! So the order is handle, write transaction, queue; the queue and a waiter are never held together.
//! Between two requests a leader may yield, a bounded number of times, while it holds the handle and
//! the write transaction. It waits for no other caller.
//!
//! No user code runs while any of these is held (guarantee 22): data is encoded before its request is
//! submitted, and decoded after its row was copied out; the clock is read outside of transactions. The
//! exception is a `StorageBackend` that is given to `open_with`, which redb calls within transactions.

mod backup;
mod builder;
mod create;
mod encoding;
mod error;
mod file;
mod format;
mod group;
mod handle;
mod open;
mod operations;
mod read;
mod request;
mod scan;
mod tables;
mod waiting;
mod write;

pub use builder::{Durability, RedbDbBuilder};

use crate::sync::Arc;
#[cfg(doc)]
use crate::{AtomicDb, Error};
use crate::{Clock, Codec, Json, Result, RetryQueue, VersionGenerator};
use file::File;
use group::GroupCommit;
use request::{Outcome, Response, WriteError, WriteRequest, mismatched_response};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

/// A database in one file on disk, for command-line tools and for services on one machine. A write
/// that has returned survives the end of the process, `kill -9` and power loss, unless
/// [`Durability::Deferred`] was chosen.
///
/// This is a handle: clones share one open file, which is closed when the last of them is dropped.
/// Either one process has the file open for writing, or any number have it open
/// [read-only](RedbDbBuilder::read_only), or any number [share](RedbDbBuilder::shared) it.
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
/// # Guarantees
///
/// `RedbDb` keeps the whole contract of [`AtomicDb`]. In addition:
///
/// - One [`query`](AtomicDb::query), one [`get_many`](AtomicDb::get_many) and one
///   [`page`](AtomicDb::page) are each a snapshot (guarantee 7). A [`stream`](AtomicDb::stream) reads
///   one page at a time: each page is a snapshot, and nothing is held between pages (guarantee 6).
/// - Reads and writes do not wait for each other.
/// - A [`set`](AtomicDb::set) or a [`delete`](AtomicDb::delete) is atomic as a whole, not only per
///   item.
/// - Each new version of a lock is greater than the ones before, even after the file was closed and
///   the clock was set back, and across processes: the file stores the latest version. A version that
///   no lock has had, which a commit without locks returns, is unique with very high probability; see
///   [`VersionGenerator`].
///
/// # Group commit
///
/// Writes wait for the disk, so concurrent ones are committed together. The first writer becomes the
/// leader: it validates and applies all queued writes in the order of arrival, in one transaction, and
/// commits them with one sync. Each caller then receives its own result. A conflict in one write does
/// not affect the others. So throughput grows with the number of writing threads. There is no
/// background thread.
///
/// # Errors
///
/// On every error but `OutcomeUnknown`, the call wrote nothing (guarantee 11).
///
/// - [`RaceCondition`](Error::RaceCondition), [`AlreadyExists`](Error::AlreadyExists): as everywhere,
///   see [`commit`](AtomicDb::commit).
/// - [`InvalidInput`](Error::InvalidInput): invalid arguments, or a write on a read-only handle.
/// - [`LimitExceeded`](Error::LimitExceeded): a key or the data of an item is too long, see below.
/// - [`Codec`](Error::Codec): the codec cannot encode the data of an item, or it cannot decode a
///   stored item as a `T`.
/// - [`Unavailable`](Error::Unavailable): the file is open elsewhere; or, if it is
///   [shared](RedbDbBuilder::shared), another process kept it busy for longer than the
///   [`wait`](RedbDbBuilder::wait). Try again later.
/// - [`Backend`](Error::Backend): the file could not be read or written, its contents are damaged, or
///   it failed earlier. After a [`get_lock`](AtomicDb::get_lock), an unused lock may have been left
///   behind.
/// - [`OutcomeUnknown`](Error::OutcomeUnknown): the disk failed, or was full, during the commit. The
///   whole group of writes is in the file, or none of it. Every caller in the group gets this error,
///   except those that had nothing to write, for instance because of a conflict: they get
///   [`Backend`](Error::Backend).
///
/// After the disk was full, the handle and its clones work again as soon as there is room: the file is
/// opened again inside. Reads at that very moment may fail. This applies to files that were opened by
/// their path, with any durability but [`Durability::Deferred`].
///
/// After any other I/O error, the handle and its clones reject all writes, and reads that are not cached
/// fail too. Drop them all and open the file again.
///
/// In both cases, the file then holds every write that had returned, and the writes whose outcome was
/// unknown either all or not at all.
///
/// # Limits
///
/// A partition key and a sort key can have 65,535 bytes each, and an item's encoded data 16 MiB.
/// Anything longer is refused with [`LimitExceeded`](Error::LimitExceeded) before anything happens. All
/// items of one commit are in memory at once.
///
/// Data is stored as [`Json`], unless [`codec`](RedbDbBuilder::codec) chooses another codec. What it
/// cannot represent is refused with [`Codec`](Error::Codec) before anything is written.
///
/// # File format
///
/// A [redb](https://docs.rs/redb) file of format 3 with four tables, whose keys are byte strings:
///
/// | table | key | value |
/// | --- | --- | --- |
/// | `atomic_db/meta` | `format` | `1`, as text |
/// | | `codec` | [the name of the codec](Codec::NAME) |
/// | | `latest` | the latest version that a lock has had, or a later one, 16 bytes |
/// | `atomic_db/items` | row key | `ttl`, 8 bytes, then the encoded data |
/// | `atomic_db/locks` | row key | the version, 16 bytes, and `ttl`, 8 bytes |
/// | `atomic_db/expiries` | `ttl`, 8 bytes, then `i` or `l`, then the row key | nothing |
///
/// Numbers are big-endian. A `ttl` of 2⁶⁴-1 means that the item never expires; such an item has no row
/// in `expiries`. A row key is the partition key with a byte 0xFF after every NUL in it, then a NUL,
/// then the sort key. UTF-8 never contains 0xFF, so no two keys share a row key, and row keys are in
/// the order of their `(pk, sk)`. Nothing follows the `ttl` of an item without data; encoded data that
/// is empty or begins with a NUL is preceded by a NUL. No key is in both `items` and `locks`. A file
/// with another `format` or `codec` is refused; if it names no `codec`, that is `json`.
///
/// Expired items and locks stay in the file, where no read sees them (guarantee 3). They are removed
/// by a write to their key, and by [`purge_expired`](RedbDb::purge_expired).
pub struct RedbDb<T, C = Json> {
    shared: Arc<Shared>,
    codec: C,
    data: PhantomData<fn() -> T>,
}

struct Shared {
    file: File,
    group: GroupCommit<WriteRequest, Outcome>,
    versions: VersionGenerator,
    clock: Arc<dyn Clock>,
    retry_queue: RetryQueue,
}

/// The number of expired rows that are removed in one transaction.
const PURGE_BATCH: usize = 4_096;

/// How often a leader yields to the callers of the last group; see [`GroupCommit::new`].
const MAX_YIELDS: u32 = 64;

impl<T, C: Codec<T>> RedbDbBuilder<T, C> {
    /// Opens the file at `path`, and repairs it if it was not closed properly. If it does not exist or
    /// is empty, a database is created in it, unless it is opened read-only.
    ///
    /// # Errors
    ///
    /// In every case an existing file is as it was, and a new one is missing or empty.
    ///
    /// - [`Error::Unavailable`]: another process has the file open, or a handle of this process that
    ///   is not a clone, even after the [`wait`](RedbDbBuilder::wait). Try again later.
    /// - [`Error::InvalidInput`]: it is a directory or a device, it is not a file of this database, it has
    ///   a format that this version does not support, or its data has another codec; or it is opened
    ///   read-only and has to be repaired first; or it cannot be [shared](RedbDbBuilder::shared).
    /// - [`Error::Backend`]: the file is damaged; or it could not be opened, created or written,
    ///   because of permissions, a read-only or full disk, or a missing directory. The cause is then a
    ///   [`std::io::Error`], as one of its [sources](Error#causes).
    pub fn open(self, path: impl AsRef<Path>) -> Result<RedbDb<T, C>> {
        let file = File::open(path.as_ref(), C::NAME, self.options)?;
        RedbDb::from_file(file, self.clock, self.codec)
    }

    /// Creates a database in memory, which is lost when its last handle is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`open_with`](RedbDbBuilder::open_with), none of which is expected.
    pub fn in_memory(self) -> Result<RedbDb<T, C>> {
        self.open_with(redb::backends::InMemoryBackend::new())
    }

    /// Opens a file that is kept in `storage`, which may encrypt it, write it to a device, or inject
    /// faults in a test. A database is created if the storage is empty.
    ///
    /// The storage is called while locks of the database are held, so it must not call the database.
    /// If the creation of a database is interrupted, the storage must be emptied before the next
    /// attempt; [`open`](RedbDbBuilder::open) takes care of that itself.
    ///
    /// This method exposes a type of redb in the public API.
    ///
    /// # Errors
    ///
    /// Those of [`open`](RedbDbBuilder::open). An error of the storage itself is an
    /// [`Error::Backend`].
    pub fn open_with(self, storage: impl redb::StorageBackend) -> Result<RedbDb<T, C>> {
        let file = File::open_with(storage, C::NAME, self.options)?;
        RedbDb::from_file(file, self.clock, self.codec)
    }
}

impl<T> RedbDb<T> {
    /// Opens the file at `path` with the defaults of [`RedbDbBuilder`]. If it does not exist or is
    /// empty, a database is created in it.
    ///
    /// # Errors
    ///
    /// Those of [`RedbDbBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self>
    where
        Json: Codec<T>,
    {
        RedbDb::builder().open(path)
    }

    /// Returns a builder, to choose the codec, the clock, the cache size or the durability, or to open
    /// read-only.
    pub fn builder() -> RedbDbBuilder<T> {
        RedbDbBuilder::new()
    }
}

impl<T, C> RedbDb<T, C> {
    fn from_file(file: File, clock: Arc<dyn Clock>, codec: C) -> Result<Self> {
        let versions = match file.latest_version()? {
            None => VersionGenerator::new(),
            Some(latest) => VersionGenerator::after(latest),
        };
        Ok(RedbDb {
            shared: Arc::new(Shared {
                file,
                group: GroupCommit::new(MAX_YIELDS),
                versions,
                clock,
                retry_queue: RetryQueue::new(),
            }),
            codec,
            data: PhantomData,
        })
    }

    /// Returns another handle to the same open file, which reads and writes data of type `U` with the
    /// same codec.
    ///
    /// This allows a different type per partition. Reading an item as the wrong type is a
    /// [`Codec`](Error::Codec) error that names its key; a query that meets one fails as a whole.
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
    pub fn with_data<U>(&self) -> RedbDb<U, C>
    where
        C: Clone,
    {
        RedbDb {
            shared: Arc::clone(&self.shared),
            codec: self.codec.clone(),
            data: PhantomData,
        }
    }

    /// Returns the number of live items at a single point in time. Locks do not count. The cost is
    /// proportional to the number of expired items and locks that are still in the file.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`]: the file could not be read.
    pub fn len(&self) -> Result<usize> {
        let items = self.shared.file.len(self.now())?;
        Ok(usize::try_from(items).unwrap_or(usize::MAX))
    }

    /// Returns `true` if there is no live item.
    ///
    /// # Errors
    ///
    /// Those of [`len`](RedbDb::len).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Removes all expired items and locks, and returns their number.
    ///
    /// The cost is proportional to the number of expired items and locks, not to the size of the
    /// database. They are removed in transactions of a few thousand, so that other writes can
    /// interleave. The file does not become smaller: free space in it is reused, and
    /// [`compact`](RedbDb::compact) releases it.
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
    /// Those of [`delete`](AtomicDb::delete). Some of the expired items and locks may have been removed.
    /// No read sees the others either.
    pub fn purge_expired(&self) -> Result<usize> {
        let now = self.now();
        let mut total = 0;
        loop {
            let max = PURGE_BATCH;
            let Response::Purged(removed) = self.write(WriteRequest::Purge { now, max })? else {
                return Err(mismatched_response());
            };
            total += removed;
            if removed < max {
                return Ok(total);
            }
        }
    }

    /// Makes all writes that completed before the call durable. Only needed with
    /// [`Durability::Deferred`].
    ///
    /// # Errors
    ///
    /// - [`Error::OutcomeUnknown`]: the disk failed. Writes since the last flush may be lost.
    /// - [`Error::Backend`]: the file failed earlier. Writes since the last flush may be lost.
    /// - [`Error::InvalidInput`]: the file was opened read-only.
    pub fn flush(&self) -> Result<()> {
        self.write(WriteRequest::Flush)?;
        Ok(())
    }

    /// Checks the file as [`check_integrity`](RedbDb::check_integrity) does, makes it as small as
    /// possible, and returns whether it became smaller.
    ///
    /// This takes time in proportion to the size of the file, and all other calls wait for it. A crash
    /// in between loses nothing.
    ///
    /// # Errors
    ///
    /// - [`Error::Unavailable`]: another process is reading or writing the file. Nothing has changed.
    /// - [`Error::Backend`]: the file is damaged beyond repair, and nothing was changed; or the disk
    ///   failed, and nothing is lost: drop all handles and open the file again.
    /// - [`Error::InvalidInput`]: the file was opened read-only.
    pub fn compact(&self) -> Result<bool> {
        self.shared.file.compact()
    }

    /// Checks the whole file: the checksums of all pages, that every row can be decoded, and that the
    /// tables agree with each other. Returns `true` if the file was intact, and `false` if it was
    /// damaged and has been repaired.
    ///
    /// The data of items is not decoded. All other calls wait for the check. If the file was opened
    /// read-only, the rows are checked but not the checksums.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`]: the file is damaged beyond repair, or could not be read. Items that are
    /// still readable can be copied to another file.
    pub fn check_integrity(&self) -> Result<bool> {
        self.shared.file.check_integrity()
    }

    fn now(&self) -> u64 {
        self.shared.clock.epoch_seconds()
    }

    /// Submits `request` to the group commit.
    fn submit(&self, request: WriteRequest) -> Outcome {
        let Shared { file, versions, .. } = &*self.shared;
        let execute =
            |requests: &mut dyn Iterator<Item = _>| write::write(file, versions, requests);
        self.shared
            .group
            .submit(request, execute, request::leader_lost)
    }

    fn write(&self, request: WriteRequest) -> Result<Response> {
        self.submit(request).map_err(WriteError::into_error)
    }
}

impl<T, C: Clone> Clone for RedbDb<T, C> {
    fn clone(&self) -> Self {
        self.with_data()
    }
}

/// Shows the options of the database, but no data.
impl<T, C> fmt::Debug for RedbDb<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbDb")
            .field("file", &format_args!("{}", self.shared.file.name()))
            .field("durability", &self.shared.file.durability())
            .field("clock", &self.shared.clock)
            .finish_non_exhaustive()
    }
}
