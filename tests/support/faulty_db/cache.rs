//! The cache.

use super::db::FaultyDb;
use super::fault::Fault;
use super::sync::{Mutex, MutexGuard, RaceWindow};
use atomic_db::{
    AtomicDb, Batch, Clock, Item, Key, KeyBuf, Lock, Observer, Page, Query, Result, RetryQueue,
    Scan, Version,
};
use std::collections::BTreeMap;
use std::sync::Arc;

type Entries<T> = BTreeMap<KeyBuf, Item<T>>;

/// An unbounded cache, whose mutex is held during the calls to the inner database. Writes invalidate.
///
/// This is correct and slow. A fault of a cache makes it incorrect.
pub struct FaultyCache<D: AtomicDb> {
    inner: D,
    fault: Fault,
    clock: Arc<dyn Clock>,
    /// Whether there is a cache at all.
    caches: bool,
    entries: Mutex<Entries<D::Data>>,
    /// Results by the text of their query.
    queries: Mutex<BTreeMap<String, Vec<Item<D::Data>>>>,
    window: RaceWindow,
}

impl<T: Clone> FaultyCache<FaultyDb<T>> {
    /// Returns a database with `fault`. There is a cache only if `fault` is one of a cache.
    pub fn with_fault(fault: Fault, clock: impl Clock + Clone + 'static) -> Self {
        let inner = FaultyDb::new(fault, clock.clone());
        FaultyCache {
            caches: fault.is_in_cache(),
            ..FaultyCache::new(inner, fault, clock)
        }
    }

    /// See [`FaultyDb::with_versions_ahead`].
    #[must_use]
    pub fn with_versions_ahead(mut self, ahead: bool) -> Self {
        self.inner = self.inner.with_versions_ahead(ahead);
        self
    }
}

impl<D: AtomicDb> FaultyCache<D> {
    pub fn new(inner: D, fault: Fault, clock: impl Clock + 'static) -> Self {
        FaultyCache {
            inner,
            fault,
            clock: Arc::new(clock),
            caches: true,
            entries: Mutex::new(BTreeMap::new()),
            queries: Mutex::new(BTreeMap::new()),
            window: RaceWindow::default(),
        }
    }

    pub fn inner(&self) -> &D {
        &self.inner
    }

    pub fn invalidate(&self, key: Key<'_>) {
        self.entries().remove(&self.entry_key(key));
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn entry_key(&self, key: Key<'_>) -> KeyBuf {
        match self.fault {
            Fault::JoinedCacheKeys => KeyBuf::new("", format!("{}/{}", key.pk, key.sk)),
            _ => key.to_buf(),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries<D::Data>> {
        self.window.count_call();
        self.entries.lock().unwrap()
    }

    fn get_cached(&self, key: Key<'_>) -> Result<Option<Item<D::Data>>> {
        let entries = self.entries();
        if let Some(item) = entries.get(&self.entry_key(key)) {
            if item.is_live(self.clock.epoch_seconds()) || self.has(Fault::ExpiredEntry) {
                return Ok(Some(item.clone()));
            }
        }
        let late = self.has(Fault::LateFill);
        let held = (!late).then_some(entries);
        let item = self.inner.get(key)?;
        if late {
            self.window.wait();
        }
        let mut entries = held.unwrap_or_else(|| self.entries());
        if let Some(item) = &item {
            entries.insert(self.entry_key(key), item.clone());
        }
        Ok(item)
    }

    fn write<'a, R>(
        &self,
        items: impl IntoIterator<Item = &'a Item<D::Data>>,
        deleted: impl IntoIterator<Item = Key<'a>>,
        call: impl FnOnce(&D) -> Result<R>,
    ) -> Result<R>
    where
        D::Data: 'a,
    {
        if !self.caches {
            return call(&self.inner);
        }
        let items: Vec<&Item<D::Data>> = items.into_iter().collect();
        let missed = self.has(Fault::MissedInvalidation) || self.has(Fault::StaleGetMany);
        let deleted: Vec<Key<'_>> = deleted.into_iter().filter(|_| !missed).collect();
        let invalidate = |entries: &mut Entries<D::Data>| {
            let written = items.iter().map(|item| item.key());
            for key in written.chain(deleted.iter().copied()) {
                entries.remove(&self.entry_key(key));
            }
        };
        let store = |entries: &mut Entries<D::Data>| {
            invalidate(entries);
            for item in &items {
                entries.insert(self.entry_key(item.key()), Item::clone(item));
            }
        };
        match self.fault {
            Fault::CachedBeforeCommit | Fault::FailedWriteCached => {
                store(&mut self.entries());
                let result = call(&self.inner);
                if result.is_err() && self.has(Fault::CachedBeforeCommit) {
                    invalidate(&mut self.entries());
                }
                result
            }
            Fault::CachedQuery => {
                let result = call(&self.inner)?;
                let written = items.iter().map(|item| item.key());
                let written: Vec<Key<'_>> = written.chain(deleted.iter().copied()).collect();
                let mut queries = self.queries.lock().unwrap();
                queries.retain(|_, found| found.iter().all(|item| !written.contains(&item.key())));
                invalidate(&mut self.entries());
                Ok(result)
            }
            Fault::LastWriterCaches => {
                let result = call(&self.inner)?;
                store(&mut self.entries());
                Ok(result)
            }
            _ => {
                let mut entries = self.entries();
                invalidate(&mut entries);
                let result = call(&self.inner)?;
                // Entries that a deletion misses.
                if missed {
                    store(&mut entries);
                }
                Ok(result)
            }
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: AtomicDb> AtomicDb for FaultyCache<D> {
    type Data = D::Data;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<D::Data>>> {
        if self.caches && !self.has(Fault::StaleGetMany) {
            self.get_cached(key)
        } else {
            self.inner.get(key)
        }
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<D::Data>>> {
        self.inner.get_fresh(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<D::Data>>>> {
        if self.has(Fault::StaleGetMany) {
            keys.iter().map(|key| self.get_cached(*key)).collect()
        } else {
            self.inner.get_many(keys)
        }
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<D::Data>>>> {
        self.inner.get_many_fresh(keys)
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        self.inner.get_locks(keys)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.inner.get_lock(key)
    }

    fn set(&self, items: &[Item<D::Data>]) -> Result<()> {
        self.write(items, [], |inner| inner.set(items))
    }

    fn commit(&self, batch: &Batch<D::Data>) -> Result<Version> {
        let items = batch.sets().iter().chain(batch.creates());
        let deleted = batch.deletes().iter().map(KeyBuf::as_key);
        self.write(items, deleted, |inner| inner.commit(batch))
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.write([], keys.iter().copied(), |inner| inner.delete(keys))
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<D::Data>> {
        self.inner.page(query, after)
    }

    fn set_atomic(&self, items: &[Item<D::Data>], locks: &[Lock]) -> Result<Version> {
        self.write(items, [], |inner| inner.set_atomic(items, locks))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<D::Data>>> {
        if !self.has(Fault::CachedQuery) {
            return self.inner.query(query);
        }
        let mut queries = self.queries.lock().unwrap();
        let text = format!("{query:?}");
        if let Some(found) = queries.get(&text) {
            return Ok(found.clone());
        }
        let found = self.inner.query(query)?;
        queries.insert(text, found.clone());
        Ok(found)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<D::Data>>> {
        self.inner.stream(query)
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        self.inner.retry_queue()
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        self.inner.transaction_observer()
    }
}

impl<D: Scan> Scan for FaultyCache<D> {
    fn scan(&self) -> Box<dyn Iterator<Item = Result<Item<D::Data>>> + '_> {
        self.inner.scan()
    }
}
