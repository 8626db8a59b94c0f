//! What the checker is worth: a database of rows in one map under one mutex, with one fault. It is
//! sound without the fault.

use atomic_db::{AtomicDb, Batch, Error, Item, Key, KeyBuf, Lock, Page, Query, Result, Version};
#[cfg(shuttle)]
use shuttle::sync::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(shuttle))]
use std::sync::{Mutex, MutexGuard};

/// What the database does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// A commit judges its locks in one critical section and writes in another.
    ChecksThenActs,
    /// A commit looks at what it renews, not at what it only checks.
    IgnoresChecks,
    /// A refused commit leaves its first item.
    HalfApplied,
    /// A commit writes its first item in one critical section and the others in another.
    WritesInTwoSteps,
    /// A commit now and then loses its last write.
    ForgetsAWrite,
    /// `get_many` reads key by key.
    TornGetMany,
    /// `query` reads in two parts.
    TornQuery,
    /// A fill of a cache overwrites a newer write.
    LateFill,
    /// A cache is not told of deletions.
    DeletedStaysCached,
    /// `get` answers what was so some commits ago.
    OldReads,
    /// A lock that is made again has its last version.
    LockComesBack,
    /// A commit now and then hands out the version of the one before.
    VersionReused,
    /// `get_lock` makes a lock in another critical section than it looks for it.
    LockMadeTwice,
    /// A commit is refused now and then although nothing has changed.
    SpuriousRace,
    /// A creation is refused now and then although nothing is there.
    SpuriousExists,
    /// A race names a lock that has not changed.
    NamesTooMany,
    /// `create` replaces what is there.
    CreateReplaces,
}

impl Fault {
    pub(crate) const ALL: &'static [Fault] = &[
        Fault::ChecksThenActs,
        Fault::IgnoresChecks,
        Fault::HalfApplied,
        Fault::WritesInTwoSteps,
        Fault::ForgetsAWrite,
        Fault::TornGetMany,
        Fault::TornQuery,
        Fault::LateFill,
        Fault::DeletedStaysCached,
        Fault::OldReads,
        Fault::LockComesBack,
        Fault::VersionReused,
        Fault::LockMadeTwice,
        Fault::SpuriousRace,
        Fault::SpuriousExists,
        Fault::NamesTooMany,
        Fault::CreateReplaces,
    ];
}

#[derive(Clone)]
enum Row {
    Item(Item<String>),
    Lock(Lock),
}

type Rows = BTreeMap<KeyBuf, Row>;

pub(crate) struct Faulty {
    fault: Fault,
    rows: Mutex<Rows>,
    /// Copies of items, where a cache is at fault.
    cached: Mutex<BTreeMap<KeyBuf, Item<String>>>,
    /// The rows as they were, where old ones are read.
    old: Mutex<Rows>,
    /// The last versions of deleted locks.
    buried: Mutex<BTreeMap<KeyBuf, Version>>,
    versions: AtomicU64,
    commits: AtomicU64,
    calls: AtomicU64,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Self {
        Faulty {
            fault,
            rows: Mutex::default(),
            cached: Mutex::default(),
            old: Mutex::default(),
            buried: Mutex::default(),
            versions: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn caches(&self) -> bool {
        self.has(Fault::LateFill) || self.has(Fault::DeletedStaysCached)
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.rows.lock().unwrap()
    }

    /// Between two critical sections that should be one: waits for others, but not for long.
    fn gap(&self) {
        #[cfg(shuttle)]
        shuttle::thread::yield_now();
        #[cfg(not(shuttle))]
        {
            let calls = self.calls.load(Ordering::SeqCst);
            for _ in 0..100 {
                std::thread::yield_now();
                if self.calls.load(Ordering::SeqCst) > calls + 4 {
                    break;
                }
            }
        }
    }

    fn version(&self) -> Version {
        Version::from_u128(u128::from(self.versions.fetch_add(1, Ordering::SeqCst)))
    }

    fn item(rows: &Rows, key: Key<'_>) -> Option<Item<String>> {
        match rows.get(&key.to_buf()) {
            Some(Row::Item(item)) => Some(item.clone()),
            Some(Row::Lock(_)) | None => None,
        }
    }

    /// The items of a partition in order. All the workload asks of a query, besides a prefix
    /// that they all have.
    fn select(rows: &Rows, query: &Query) -> Vec<Item<String>> {
        let mut items: Vec<Item<String>> = rows
            .values()
            .filter_map(|row| match row {
                Row::Item(item) => Some(item.clone()),
                Row::Lock(_) => None,
            })
            .filter(|item| item.pk() == query.pk() && item.sk().starts_with(query.sk_prefix()))
            .collect();
        if query.is_reverse() {
            items.reverse();
        }
        items
    }

    fn lost(&self, rows: &Rows, batch: &Batch<String>) -> Vec<KeyBuf> {
        let changed = |lock: &&Lock| match rows.get(&lock.key().to_buf()) {
            Some(Row::Lock(held)) => held.version() != lock.version(),
            Some(Row::Item(_)) | None => true,
        };
        let checks = match self.fault {
            Fault::IgnoresChecks => &[],
            _ => batch.checks(),
        };
        let named = || batch.locks().iter().chain(checks);
        let any = named().any(|lock| changed(&lock));
        let too_many = any && self.has(Fault::NamesTooMany);
        let lost = named().filter(|lock| changed(lock) || too_many);
        lost.map(|lock| lock.key().to_buf()).collect()
    }
}

#[deny(clippy::missing_trait_methods)]
impl AtomicDb for Faulty {
    type Data = String;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<String>>> {
        if self.has(Fault::OldReads) {
            return Ok(Self::item(&self.old.lock().unwrap(), key));
        }
        if !self.caches() {
            return self.get_fresh(key);
        }
        if let Some(item) = self.cached.lock().unwrap().get(&key.to_buf()) {
            return Ok(Some(item.clone()));
        }
        let rows = self.rows();
        let item = Self::item(&rows, key);
        let mut kept = Some(rows);
        if self.has(Fault::LateFill) {
            kept = None;
            self.gap();
        }
        if let Some(item) = &item {
            let mut cached = self.cached.lock().unwrap();
            cached.insert(key.to_buf(), item.clone());
        }
        drop(kept);
        Ok(item)
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<String>>> {
        Ok(Self::item(&self.rows(), key))
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<String>>>> {
        let mut rows = self.rows();
        let mut items = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            if place == 1 && self.has(Fault::TornGetMany) {
                drop(rows);
                self.gap();
                rows = self.rows();
            }
            items.push(Self::item(&rows, *key));
        }
        Ok(items)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let mut rows = self.rows();
        if let Some(Row::Lock(lock)) = rows.get(&key.to_buf()) {
            return Ok(lock.clone());
        }
        if self.has(Fault::LockMadeTwice) {
            drop(rows);
            self.gap();
            rows = self.rows();
        }
        let buried = self.buried.lock().unwrap().remove(&key.to_buf());
        let version = buried.unwrap_or_else(|| self.version());
        let lock = Lock::new(key, version, u64::MAX);
        rows.insert(key.to_buf(), Row::Lock(lock.clone()));
        Ok(lock)
    }

    fn set(&self, items: &[Item<String>]) -> Result<()> {
        items
            .iter()
            .try_for_each(|item| self.commit(&Batch::new().set(item.clone())).map(drop))
    }

    fn commit(&self, batch: &Batch<String>) -> Result<Version> {
        batch.validate()?;
        let turn = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        let mut rows = self.rows();
        if self.has(Fault::OldReads) && turn % 4 == 0 {
            self.old.lock().unwrap().clone_from(&rows);
        }
        let mut lost = self.lost(&rows, batch);
        let spurious = batch.locks().iter().map(|lock| lock.key().to_buf());
        if self.has(Fault::SpuriousRace) && turn % 8 == 0 {
            lost.extend(spurious.take(1));
        }
        if !lost.is_empty() {
            if self.has(Fault::HalfApplied) {
                for item in batch.sets().iter().take(1) {
                    rows.insert(item.key().to_buf(), Row::Item(item.clone()));
                }
            }
            return Err(Error::RaceCondition { keys: lost });
        }
        for item in batch.creates() {
            let there = Self::item(&rows, item.key()).is_some();
            let spurious = self.has(Fault::SpuriousExists) && turn % 4 == 0;
            if there && !self.has(Fault::CreateReplaces) || spurious {
                let key = item.key().to_buf();
                return Err(Error::AlreadyExists { key });
            }
        }
        if self.has(Fault::ChecksThenActs) {
            drop(rows);
            self.gap();
            rows = self.rows();
        }
        let reused = self.has(Fault::VersionReused) && turn % 8 == 0;
        let version = match self.versions.load(Ordering::SeqCst) {
            made if reused && made > 0 => Version::from_u128(u128::from(made - 1)),
            _ => self.version(),
        };
        for lock in batch.locks() {
            let lock = lock.clone().renewed(version);
            rows.insert(lock.key().to_buf(), Row::Lock(lock));
        }
        let items = batch.sets().iter().chain(batch.creates());
        let count = items.clone().count();
        for (place, item) in items.enumerate() {
            if place == 1 && self.has(Fault::WritesInTwoSteps) {
                drop(rows);
                self.gap();
                rows = self.rows();
            }
            if place + 1 == count && self.has(Fault::ForgetsAWrite) && turn % 8 == 0 {
                continue;
            }
            rows.insert(item.key().to_buf(), Row::Item(item.clone()));
            let mut cached = self.cached.lock().unwrap();
            match self.fault {
                Fault::LateFill => drop(cached.remove(&item.key().to_buf())),
                Fault::DeletedStaysCached => {
                    cached.insert(item.key().to_buf(), item.clone());
                }
                _ => {}
            }
        }
        for key in batch.deletes() {
            let removed = rows.remove(key);
            if let (Some(Row::Lock(lock)), Fault::LockComesBack) = (removed, self.fault) {
                let mut buried = self.buried.lock().unwrap();
                buried.insert(key.clone(), lock.version());
            }
            if self.has(Fault::LateFill) {
                self.cached.lock().unwrap().remove(key);
            }
        }
        Ok(version)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        keys.iter()
            .try_for_each(|key| self.commit(&Batch::new().delete(*key)).map(drop))
    }

    fn page(&self, query: &Query, _after: Option<&str>) -> Result<Page<String>> {
        let items = self.query(query)?;
        Ok(Page { items, next: None })
    }

    fn set_atomic(&self, items: &[Item<String>], locks: &[Lock]) -> Result<Version> {
        let batch = locks
            .iter()
            .fold(Batch::new(), |batch, lock| batch.lock(lock.clone()));
        let set = |batch: Batch<String>, item: &Item<String>| batch.set(item.clone());
        self.commit(&items.iter().fold(batch, set))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<String>>> {
        let mut items = Self::select(&self.rows(), query);
        if self.has(Fault::TornQuery) {
            self.gap();
            let later = Self::select(&self.rows(), query);
            let half = items.len() / 2;
            items.truncate(half);
            let last = items.last().map(|item| item.sk().to_owned());
            items.extend(later.into_iter().filter(|item| match &last {
                Some(last) if query.is_reverse() => item.sk() < last.as_str(),
                Some(last) => item.sk() > last.as_str(),
                None => true,
            }));
        }
        Ok(items)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<String>>> {
        let items = self.query(&query).unwrap_or_default();
        items.into_iter().map(Ok)
    }
}
