use crate::batch::BatchRef;
use crate::query::Stream;
use crate::sync::Arc;
use crate::{Batch, Item, Key, Lock, Page, Query, Result, Version};

/// A store of items under partition keys and sort keys, with optimistic locking. Every call blocks
/// until it is done.
///
/// # Reading, computing, committing
///
/// The order is always the same: **the lock first, then a fresh read, then the commit.** A lock
/// that was read before the data proves at the commit that the data has not changed since. Read
/// the other way round, somebody's commit can fall between the two, and is overwritten.
///
/// ```
/// use atomic_db::{AtomicDb, Item, Key, MemoryDb};
///
/// let db = MemoryDb::new();
/// loop {
///     let lock = db.get_lock(Key::new("account#1", "lock"))?;
///     let item = db.get_fresh(Key::new("account#1", "balance"))?;
///     let balance = item.and_then(|item| item.data().copied()).unwrap_or(0);
///     match db.set_atomic(&[Item::new("account#1", "balance", balance + 10)], &[lock]) {
///         Ok(_) => break,
///         Err(error) if error.is_race_condition() => continue,
///         Err(error) => return Err(error),
///     }
/// }
/// # Ok::<(), atomic_db::Error>(())
/// ```
///
/// [`transact`](crate::AtomicDbExt::transact) writes this loop for you, with bounded attempts and
/// back-off between them.
///
/// # Contract
///
/// This is what every database promises and what the conformance suite checks; an implementor
/// runs that suite against its own work.
///
/// - An expired item (`now > ttl`) exists on no read path, whatever the store still holds.
/// - A key holds an item or a lock, never both. Locks are never seen by `get`, `get_fresh`,
///   `get_many`, `query`, `page` and `stream`. Writing an item over a lock replaces it, and whoever
///   holds the lock loses.
/// - A [`Version`] is never handed out twice; a [`VersionGenerator`](crate::VersionGenerator) makes
///   them.
/// - No call panics on any input, inside or outside an async runtime. From async code, call through
///   your runtime's `spawn_blocking`.
/// - Bad input is refused before anything happens.
///
/// # Clone
///
/// The databases of this crate are handles: a clone is another handle to the same data.
///
/// # Trait objects
///
/// The trait is implemented for `&D`, `Box<D>` and `Arc<D>`, also of a `D: ?Sized`, so a box or a
/// reference of a trait object is a database like any other. [`stream`] asks for a sized `Self`,
/// and they are: a `Box` or an `Arc` streams as it is. With a plain `&dyn AtomicDb` at hand, stream
/// on a reference to it, `(&db).stream(query)`, for otherwise the compiler looks no further than
/// the trait object.
///
/// ```
/// use atomic_db::{AtomicDb, Item, MemoryDb, Query};
///
/// let boxed: Box<dyn AtomicDb<Data = u32>> = Box::new(MemoryDb::new());
/// boxed.set(&[Item::new("log", "1", 7)])?;
/// assert_eq!(boxed.stream(Query::new("log")).count(), 1);
///
/// let db: &dyn AtomicDb<Data = u32> = &*boxed;
/// for item in (&db).stream(Query::new("log")) {
///     assert_eq!(item?.data(), Some(&7));
/// }
/// # Ok::<(), atomic_db::Error>(())
/// ```
///
/// # Wrappers
///
/// Three methods have bodies of their own, in terms of the others. A wrapper forwards them too,
/// or it would hide what the database inside does better; `#[deny(clippy::missing_trait_methods)]`
/// on the `impl` sees to it.
///
/// [`stream`]: AtomicDb::stream
pub trait AtomicDb {
    /// What the items hold.
    type Data;

    /// Reads the live item at `key`.
    ///
    /// A cache may answer, with what it knows. Where the answer decides what is written, use
    /// [`get_fresh`](AtomicDb::get_fresh).
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](crate::Error::InvalidInput), [`LimitExceeded`](crate::Error::LimitExceeded): this
    ///   database cannot hold such a key.
    /// - [`Codec`](crate::Error::Codec): what is stored is no `Data`.
    /// - [`Unavailable`](crate::Error::Unavailable), [`Backend`](crate::Error::Backend): it could
    ///   not be read.
    fn get(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>>;

    /// Reads the live item at `key` from the database itself, never from a cache, and sees every
    /// write that had finished before the call.
    ///
    /// # Errors
    ///
    /// Those of [`get`](AtomicDb::get).
    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>>;

    /// Reads the live items at `keys`, any number of them, in the order asked; `None` where there
    /// is none. A key may be asked for more than once.
    ///
    /// Whether all are seen at one instant is the database's to say:
    /// [`MemoryDb`](crate::MemoryDb) does so.
    ///
    /// # Errors
    ///
    /// Those of [`get`](AtomicDb::get), for the whole call: there is no partial answer.
    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>>;

    /// Reads the lock at `key`, and makes it if there is none or it has expired.
    ///
    /// A new lock has a new version and lives for [24 hours](Lock::LIFETIME); of any number of
    /// callers at once all get the same one. A lock within [the last hour](Lock::REFRESH_WINDOW)
    /// of its life is given 24 hours more and keeps its version: a refresh is no modification, and
    /// fails nobody.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](crate::Error::InvalidInput): a live item is at `key`, or this database
    ///   cannot hold such a key. Nothing was written.
    /// - [`LimitExceeded`](crate::Error::LimitExceeded): this database can hold no such key, or no more. Nothing was
    ///   written.
    /// - [`Unavailable`](crate::Error::Unavailable), [`Backend`](crate::Error::Backend): it could
    ///   not be read or made. A lock that nobody has read may be there.
    fn get_lock(&self, key: Key<'_>) -> Result<Lock>;

    /// Writes `items` without checking anything, each of them all or nothing.
    ///
    /// Of items with the same key, the last one stands. An item replaces what is at its key; a
    /// lock there is gone, and whoever holds it loses. No items are a success.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](crate::Error::InvalidInput), [`LimitExceeded`](crate::Error::LimitExceeded),
    ///   [`Codec`](crate::Error::Codec): an item cannot be written here. None was.
    /// - [`Unavailable`](crate::Error::Unavailable), [`Backend`](crate::Error::Backend): some items
    ///   may have been written and others not.
    /// - [`OutcomeUnknown`](crate::Error::OutcomeUnknown): the answer was lost.
    fn set(&self, items: &[Item<Self::Data>]) -> Result<()>;

    /// Writes a whole [`Batch`] if every lock in it still has the version that it was read with,
    /// and returns the new version that all its renewed locks now have.
    ///
    /// All or nothing: no reader ever sees a part of it. A lock counts as unchanged if it is live
    /// and has the version given; a commit does not lengthen its life. Of any number of commits
    /// that renew the same version of a lock, at most one succeeds; those that only check it all
    /// may. An empty batch is a success that does nothing.
    ///
    /// # Errors
    ///
    /// - [`RaceCondition`](crate::Error::RaceCondition): locks were changed, deleted, replaced or
    ///   have expired; it names exactly these. Nothing was written.
    /// - [`AlreadyExists`](crate::Error::AlreadyExists): no lock lost, and a live item is where one
    ///   was to be created. Nothing was written.
    /// - [`InvalidInput`](crate::Error::InvalidInput): a key appears twice, or cannot be held here.
    ///   Nothing was written.
    /// - [`LimitExceeded`](crate::Error::LimitExceeded), [`Codec`](crate::Error::Codec): the batch or an item cannot
    ///   be written here. Nothing was written.
    /// - [`Unavailable`](crate::Error::Unavailable), [`Backend`](crate::Error::Backend): nothing was
    ///   written.
    /// - [`OutcomeUnknown`](crate::Error::OutcomeUnknown): the answer was lost; all of it was
    ///   written, or nothing.
    fn commit(&self, batch: &Batch<Self::Data>) -> Result<Version>;

    /// Removes what is at `keys`, items and locks, without checking anything, each of them all or
    /// nothing. Where nothing is, nothing happens; whoever holds a lock that is removed loses.
    ///
    /// # Errors
    ///
    /// Those of [`set`](AtomicDb::set), with the same states afterwards.
    fn delete(&self, keys: &[Key<'_>]) -> Result<()>;

    /// Reads one bounded page of what `query` asks for, beginning after the sort key `after` if it
    /// is given, and otherwise where the query itself begins.
    ///
    /// The page holds at most the query's limit, and at most as many items as this database reads
    /// at once. The limit counts items that are returned. To go on, pass the page's `next` as
    /// `after`.
    ///
    /// # Errors
    ///
    /// Those of [`get`](AtomicDb::get); also for a page whose first item is
    /// bad; a page may end before one.
    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<Self::Data>>;

    /// Writes all `items` if every one of `locks` still has the version that it was read with, and
    /// returns the locks' new version: a [`commit`](AtomicDb::commit) that renews `locks` and sets
    /// `items`.
    ///
    /// # Errors
    ///
    /// Those of [`commit`](AtomicDb::commit), and
    /// [`InvalidInput`](crate::Error::InvalidInput) if there are items and no lock.
    fn set_atomic(&self, items: &[Item<Self::Data>], locks: &[Lock]) -> Result<Version> {
        BatchRef::for_set_atomic(items, locks)?;
        let mut batch = Batch::new();
        for lock in locks {
            batch = batch.lock(lock.clone());
        }
        for item in items {
            batch = batch.set(item.clone());
        }
        self.commit(&batch)
    }

    /// Reads all that `query` asks for.
    ///
    /// Whether all is seen at one instant is the database's to say: [`MemoryDb`](crate::MemoryDb)
    /// does so. For more than fits in memory, use [`stream`](AtomicDb::stream).
    ///
    /// # Errors
    ///
    /// Those of [`page`](AtomicDb::page), for the whole call: there is no partial answer.
    fn query(&self, query: &Query) -> Result<Vec<Item<Self::Data>>> {
        Stream::new(query.clone(), |query, after| self.page(query, after)).collect()
    }

    /// Reads all that `query` asks for, a page at a time.
    ///
    /// The iterator holds at most a page, and nothing of the database between two pages: the loop's
    /// body may call any method of the same database. An item that is there throughout is yielded
    /// once; of items that come and go meanwhile, some are seen, for it is no snapshot. After the
    /// last item it ends, and after the first error, unless the database says that it goes on past an
    /// item that cannot be decoded.
    ///
    /// # Errors
    ///
    /// The iterator yields those of [`page`](AtomicDb::page), once.
    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Self::Data>>>
    where
        Self: Sized,
    {
        Stream::new(query, |query, after| self.page(query, after))
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[deny(clippy::missing_trait_methods)]
        impl<D: AtomicDb + ?Sized> AtomicDb for $pointer {
            type Data = D::Data;

            fn get(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
                (**self).get(key)
            }

            fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
                (**self).get_fresh(key)
            }

            fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
                (**self).get_many(keys)
            }

            fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
                (**self).get_lock(key)
            }

            fn set(&self, items: &[Item<Self::Data>]) -> Result<()> {
                (**self).set(items)
            }

            fn commit(&self, batch: &Batch<Self::Data>) -> Result<Version> {
                (**self).commit(batch)
            }

            fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
                (**self).delete(keys)
            }

            fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<Self::Data>> {
                (**self).page(query, after)
            }

            fn set_atomic(&self, items: &[Item<Self::Data>], locks: &[Lock]) -> Result<Version> {
                (**self).set_atomic(items, locks)
            }

            fn query(&self, query: &Query) -> Result<Vec<Item<Self::Data>>> {
                (**self).query(query)
            }

            // A trait object has no `stream` of its own; what is behind the pointer is paged.
            fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Self::Data>>> {
                Stream::new(query, |query, after| (**self).page(query, after))
            }
        }
    )*};
}

forward!(&D, Box<D>, Arc<D>);
