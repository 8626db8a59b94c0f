use crate::batch::BatchRef;
use crate::query::Stream;
use crate::sync::Arc;
use crate::{Batch, Item, Key, Lock, Observer, Page, Query, Result, RetryQueue, Version};

/// A store of items, each under a partition key and a sort key, with optimistic locking. Every call
/// blocks until it is done.
///
/// # Read, compute, commit
///
/// The order is always the same: **the lock first, then a fresh read, then the commit.** If the lock
/// is still unchanged at the commit, the data that was read after it is unchanged too. In any other
/// order, another commit can land between the two reads and be overwritten.
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
/// [`transact`](crate::AtomicDbExt::transact) runs this loop for you, with back-off between
/// the attempts, until a deadline.
///
/// # Contract
///
/// Every database gives these guarantees, which other documentation cites by number. The conformance
/// suite tests them; implementors run it against their own database.
///
/// **Reading**
///
/// 1. A key is a pair, never a joined string. Odd keys (empty, NUL, `/`, `#`, non-ASCII, long) are
///    ordinary, or are refused with `InvalidInput` or `LimitExceeded` before anything is sent, as the
///    database documents.
/// 2. `get_many` and `get_many_fresh` return results in the order of their keys, repeats included,
///    `None` where there is no item, for any number of keys.
/// 3. No read returns an expired item (`now > ttl`).
/// 4. A key holds an item or a lock, never both. No read returns a lock. `get_lock` where a live item
///    exists is `InvalidInput`. Writing an item over a lock replaces it, and commits under it fail.
/// 5. `query`, `page` and `stream` are in the byte order of `sk`, in either direction, and honour
///    prefix, range, limit and `after`.
/// 6. `stream` buffers at most a page, and holds no lock or read transaction between pages, so the
///    loop body may call any method of the same database. Items present throughout are yielded once.
///    The iterator is fused and yields an error once.
/// 7. In `MemoryDb`, `RedbDb` and `PostgresDb`, one `query` and one `get_many` are each a snapshot.
/// 8. `get_fresh`, `get_many_fresh` and `fresh` queries see every write that completed before the
///    call. They, and all of `query`, `page` and `stream`, are never answered from a cache. On a
///    handle that was asked for eventually consistent reads, the other reads may be late.
///
/// **Writing**
///
/// 9. `set` and `delete` check nothing and are atomic per item. If a key is repeated, the last one
///    wins. `delete` removes whatever is stored at a key, item or lock.
/// 10. Empty input succeeds and does nothing. `set_atomic` with items and no lock is `InvalidInput`; a
///     [`Batch`] may have no lock.
/// 11. `commit` is all or nothing, and no reader sees a part of it. On any error except
///     `OutcomeUnknown`, nothing was written.
/// 12. A commit succeeds only if every lock in it is live (by the stored `ttl`) and has the given
///     version. Every `lock` then gets one new version, which is returned. Otherwise it is a
///     `RaceCondition` with exactly the keys that have changed.
/// 13. Of the commits that `lock` the same version of a lock, at most one succeeds; any number that
///     `check` it may.
/// 14. A key that appears more than once in a batch, as lock or item, is `InvalidInput`.
///
/// **Locks**
///
/// 15. `get_lock` creates a missing or expired lock with a new version, for 24 hours. Concurrent
///     callers get the same one.
/// 16. Within the last hour of a lock's life, `get_lock` extends it to 24 hours from now and keeps its
///     version: a refresh causes no conflicts.
/// 17. A [`Version`] is never reused. A [`VersionGenerator`](crate::VersionGenerator) generates them.
/// 18. Commits under a deleted, expired or replaced lock fail. A commit does not extend a lock's life.
///
/// **Caching**
///
/// 19. Through one `LruCache`, a read that starts after a write completed never returns an older value,
///     even when fills, writes, conflicts and failures overlap. Cached items expire like stored ones.
///     Locks and fresh reads are never answered from the cache.
/// 20. After a failed write, or one with an unknown outcome, its keys are not cached.
/// 21. Writes that bypass a cache are not seen until the entry is evicted. Transactions read fresh, so
///     they never lose an update because of it.
///
/// **Everywhere**
///
/// 22. No user code (`Drop`, `Clone`, `Debug`, serializers, clocks, closures, inner databases) runs
///     while a mutex of this crate is held.
/// 23. No call panics on any input, inside or outside an async runtime; nor does dropping a handle or a
///     stream. A file or server that returns garbage causes an error.
/// 24. Invalid input is refused before anything happens, with an error that says what is wrong.
///
/// In async code, call a database through the runtime's `spawn_blocking`.
///
/// # Clone
///
/// The databases of this crate are handles: a clone is another handle to the same data.
///
/// # Trait objects
///
/// The trait is implemented for `&D`, `Box<D>` and `Arc<D>` with `D: ?Sized`, so a boxed or borrowed
/// trait object is itself a database. [`stream`] requires `Self: Sized`, which `Box` and `Arc` are. On
/// a `&dyn AtomicDb`, call `(&db).stream(query)`, because `db.stream(query)` refers to the unsized
/// trait object.
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
/// # Implementing
///
/// [Adding a backend](crate::_documentation::contributing) has the steps, and `examples/custom_backend.rs`
/// is a whole one. The default of [`query`] reads a page at a time, so a backend whose queries are
/// snapshots (guarantee 7) has its own, and one that returns a [`retry_queue`](AtomicDb::retry_queue) lets
/// transactions take turns. The conformance suite and the history checker are in the module `testing`,
/// with the feature of that name.
///
/// # Wrappers
///
/// `set_atomic`, `query`, `stream`, `retry_queue` and `transaction_observer` have default
/// implementations. A wrapper should forward them as well, or it hides a more efficient or more
/// consistent implementation of the inner database. Put `#[deny(clippy::missing_trait_methods)]` on its
/// `impl`.
///
/// [`query`]: AtomicDb::query
/// [`stream`]: AtomicDb::stream
pub trait AtomicDb {
    /// The type of the data in items.
    type Data;

    /// Returns the live item at `key`.
    ///
    /// The result may come from a cache. If it determines what you write, use
    /// [`get_fresh`](AtomicDb::get_fresh).
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](crate::Error::InvalidInput),
    ///   [`LimitExceeded`](crate::Error::LimitExceeded): this database cannot store such a key.
    /// - [`Codec`](crate::Error::Codec): the stored value cannot be decoded as `Data`.
    /// - [`Unavailable`](crate::Error::Unavailable), [`Backend`](crate::Error::Backend): the item
    ///   could not be read.
    fn get(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>>;

    /// Returns the live item at `key` from the database itself, never from a cache. Sees every write
    /// that completed before the call.
    ///
    /// # Errors
    ///
    /// Those of [`get`](AtomicDb::get).
    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>>;

    /// Returns the live items at `keys`, in this order, and `None` where there is none. Any number of
    /// keys is accepted, and a key may be repeated.
    ///
    /// Like that of `get`, the result may come from a cache. Whether it is a snapshot depends on the
    /// database (guarantee 7).
    ///
    /// # Errors
    ///
    /// Those of [`get`](AtomicDb::get), for the whole call: there are no partial results.
    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>>;

    /// Returns the live items at `keys` as [`get_many`](AtomicDb::get_many) does, but from the
    /// database itself, never from a cache. Sees every write that completed before the call.
    ///
    /// # Errors
    ///
    /// Those of [`get`](AtomicDb::get), for the whole call: there are no partial results.
    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>>;

    /// Returns the lock at `key`, and creates it if it does not exist or has expired.
    ///
    /// A new lock has a new version and lives for [24 hours](Lock::LIFETIME); concurrent callers get
    /// the same one. A lock in [the last hour](Lock::REFRESH_WINDOW) of its life is extended to 24
    /// hours and keeps its version, so a refresh causes no conflicts.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](crate::Error::InvalidInput): a live item exists at `key`, or this database
    ///   cannot store such a key. Nothing was written.
    /// - [`LimitExceeded`](crate::Error::LimitExceeded): the key exceeds a limit of this database, or
    ///   the database is full. Nothing was written.
    /// - [`Unavailable`](crate::Error::Unavailable), [`Backend`](crate::Error::Backend): the lock could
    ///   not be read, created or extended. A lock that no caller has received may exist.
    fn get_lock(&self, key: Key<'_>) -> Result<Lock>;

    /// Returns the locks at `keys` in this order, repeats included, each as
    /// [`get_lock`](AtomicDb::get_lock) does. They are not a snapshot.
    ///
    /// # Errors
    ///
    /// Those of [`get_lock`](AtomicDb::get_lock). Locks of other keys may have been created or
    /// extended.
    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>>;

    /// Writes `items` unconditionally. Each item is written atomically.
    ///
    /// An item replaces the item or lock at its key; commits under a replaced lock fail with a
    /// conflict. If a key is repeated, the last item wins. An empty slice succeeds.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](crate::Error::InvalidInput),
    ///   [`LimitExceeded`](crate::Error::LimitExceeded), [`Codec`](crate::Error::Codec): an item cannot
    ///   be stored here. Nothing was written.
    /// - [`Unavailable`](crate::Error::Unavailable), [`Backend`](crate::Error::Backend): some items may
    ///   have been written and others not.
    /// - [`OutcomeUnknown`](crate::Error::OutcomeUnknown): the response was lost. Each item may or may
    ///   not have been written.
    fn set(&self, items: &[Item<Self::Data>]) -> Result<()>;

    /// Writes a [`Batch`] if every lock in it is live and still has the version that it was read with,
    /// and returns the new version of the locks that it renews.
    ///
    /// The commit is all or nothing, and no reader sees a part of it. Of the commits that renew the
    /// same version of a lock, at most one succeeds; any number that only check it may. A commit does
    /// not extend a lock's life. An empty batch succeeds and does nothing.
    ///
    /// # Errors
    ///
    /// - [`RaceCondition`](crate::Error::RaceCondition): locks were changed, deleted or replaced, or
    ///   have expired; it names exactly these. Nothing was written.
    /// - [`AlreadyExists`](crate::Error::AlreadyExists): all locks are unchanged, but an item to be
    ///   created exists. Nothing was written.
    /// - [`InvalidInput`](crate::Error::InvalidInput): a key is repeated, or this database cannot store
    ///   it. Nothing was written.
    /// - [`LimitExceeded`](crate::Error::LimitExceeded), [`Codec`](crate::Error::Codec): the batch or
    ///   an item in it cannot be stored here. Nothing was written.
    /// - [`Unavailable`](crate::Error::Unavailable), [`Backend`](crate::Error::Backend): nothing was
    ///   written.
    /// - [`OutcomeUnknown`](crate::Error::OutcomeUnknown): the response was lost. Either the whole
    ///   batch was written, or nothing.
    fn commit(&self, batch: &Batch<Self::Data>) -> Result<Version>;

    /// Removes the items and locks at `keys` unconditionally, each atomically.
    ///
    /// Missing keys are ignored. Commits under a removed lock fail with a conflict.
    ///
    /// # Errors
    ///
    /// Those of [`set`](AtomicDb::set), with the same states afterwards.
    fn delete(&self, keys: &[Key<'_>]) -> Result<()>;

    /// Returns one bounded page of the result of `query`, beginning after the sort key `after` if it
    /// is given, and otherwise where the query itself begins.
    ///
    /// The page has at most as many items as the query's limit, and as this database reads at once. To
    /// continue, pass the page's `next` as `after`.
    ///
    /// # Errors
    ///
    /// Those of [`get`](AtomicDb::get). If the first item cannot be decoded, the call fails; before
    /// any other such item, the page may end.
    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<Self::Data>>;

    /// Writes all `items` if every one of `locks` still has the version that it was read with, and
    /// returns the new version of `locks`: a [`commit`](AtomicDb::commit) that renews `locks` and sets
    /// `items`.
    ///
    /// # Errors
    ///
    /// Those of [`commit`](AtomicDb::commit), and [`InvalidInput`](crate::Error::InvalidInput) if there
    /// are items and no lock. Nothing was written in that case.
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

    /// Returns all items that `query` selects.
    ///
    /// Whether the result is a snapshot depends on the database (guarantee 7); that of the default
    /// implementation, which reads a page at a time, is not. If it may not fit in memory, use
    /// [`stream`](AtomicDb::stream).
    ///
    /// # Errors
    ///
    /// Those of [`page`](AtomicDb::page), for the whole call: there are no partial results.
    fn query(&self, query: &Query) -> Result<Vec<Item<Self::Data>>> {
        Stream::new(query.clone(), |query, after| self.page(query, after)).collect()
    }

    /// Returns an iterator over all items that `query` selects, which reads a page at a time.
    ///
    /// The iterator buffers at most a page, and holds no lock or read transaction between pages, so
    /// the loop body may call any method of the same database. It is not a snapshot: items present
    /// throughout are yielded once, and items that are added or removed during the iteration may or may
    /// not be.
    ///
    /// The iterator is fused. It ends after the first error, unless the database documents that it
    /// skips items that cannot be decoded.
    ///
    /// # Errors
    ///
    /// The iterator yields those of [`page`](AtomicDb::page), each once.
    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Self::Data>>>
    where
        Self: Sized,
    {
        Stream::new(query, |query, after| self.page(query, after))
    }

    /// Returns the queue in which transactions that lost a race for a lock take turns: the same one
    /// for all handles to the same data. With `None`, which is the default, they only pause at random
    /// and try again.
    fn retry_queue(&self) -> Option<&RetryQueue> {
        None
    }

    /// Returns the observer to which transactions on this handle are reported. `None`, which is the
    /// default, reports nothing. [`Observed`](crate::Observed) returns one, and wrappers return that of
    /// the inner database.
    fn transaction_observer(&self) -> Option<&dyn Observer> {
        None
    }
}

/// A shared trait object, the form in which application state holds a database.
///
/// ```
/// use atomic_db::{AtomicDb, Item, MemoryDb, SharedDb};
/// use std::sync::Arc;
///
/// struct App {
///     db: SharedDb<String>,
/// }
///
/// let app = App { db: Arc::new(MemoryDb::new()) };
/// app.db.set(&[Item::new("user#1", "name", "Ada".to_string())])?;
/// # Ok::<(), atomic_db::Error>(())
/// ```
///
/// A program that chooses its backend when it starts, with the features `redb` and `postgres`:
///
#[cfg_attr(all(feature = "redb", feature = "postgres"), doc = "```")]
#[cfg_attr(not(all(feature = "redb", feature = "postgres")), doc = "```ignore")]
/// use atomic_db::{Error, LruCache, MemoryDb, PostgresDb, RedbDb, Result, SharedDb};
/// use std::sync::Arc;
///
/// fn open(url: &str) -> Result<SharedDb<String>> {
///     let db: SharedDb<String> = match url.split_once(':') {
///         Some(("memory", _)) => Arc::new(MemoryDb::new()),
///         Some(("file", path)) => Arc::new(LruCache::new(RedbDb::open(path)?, 10_000)),
///         Some(("postgresql", _)) => Arc::new(PostgresDb::connect(url)?),
///         _ => return Err(Error::InvalidInput(format!("unknown database: {url}"))),
///     };
///     Ok(db)
/// }
/// assert!(open("memory:").is_ok());
/// ```
///
/// Methods that a single backend has, such as `purge_expired`, are not in the trait: keep a handle of
/// that type next to this one. A program that also scans shares an `Arc<dyn Scan<Data = T> + Send + Sync>`
/// instead (see [`Scan`](crate::Scan)).
pub type SharedDb<T> = Arc<dyn AtomicDb<Data = T> + Send + Sync>;

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

            fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
                (**self).get_many_fresh(keys)
            }

            fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
                (**self).get_lock(key)
            }

            fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
                (**self).get_locks(keys)
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

            // `D` may be a trait object, which has no `stream`, so stream its pages.
            fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Self::Data>>> {
                Stream::new(query, |query, after| (**self).page(query, after))
            }

            fn retry_queue(&self) -> Option<&RetryQueue> {
                (**self).retry_queue()
            }

            fn transaction_observer(&self) -> Option<&dyn Observer> {
                (**self).transaction_observer()
            }
        }
    )*};
}

forward!(&D, Box<D>, Arc<D>);
