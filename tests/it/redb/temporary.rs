//! A database in a temporary directory, which is removed with it.

use atomic_db::{
    AtomicDb, Batch, Codec, Item, Key, Lock, Observer, Page, Query, RedbDb, RedbDbBuilder, Result,
    RetryQueue, Scan, Version,
};
use tempfile::TempDir;

/// A database and its directory. Fields are dropped in order: the file is closed before its directory is
/// removed.
pub(crate) struct Temporary<D> {
    pub(crate) db: D,
    _directory: TempDir,
}

impl<T, C: Codec<T>> Temporary<RedbDb<T, C>> {
    pub(crate) fn open(builder: RedbDbBuilder<T, C>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Temporary {
            db: builder.open(directory.path().join("db.redb")).unwrap(),
            _directory: directory,
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: AtomicDb> AtomicDb for Temporary<D> {
    type Data = D::Data;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        self.db.get(key)
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        self.db.get_fresh(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
        self.db.get_many(keys)
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
        self.db.get_many_fresh(keys)
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        self.db.get_locks(keys)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.db.get_lock(key)
    }

    fn set(&self, items: &[Item<Self::Data>]) -> Result<()> {
        self.db.set(items)
    }

    fn commit(&self, batch: &Batch<Self::Data>) -> Result<Version> {
        self.db.commit(batch)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.db.delete(keys)
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<Self::Data>> {
        self.db.page(query, after)
    }

    fn set_atomic(&self, items: &[Item<Self::Data>], locks: &[Lock]) -> Result<Version> {
        self.db.set_atomic(items, locks)
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<Self::Data>>> {
        self.db.query(query)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Self::Data>>> {
        self.db.stream(query)
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        self.db.retry_queue()
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        self.db.transaction_observer()
    }
}

impl<D: Scan> Scan for Temporary<D> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<Self::Data>>> + '_> {
        self.db.scan()
    }
}
