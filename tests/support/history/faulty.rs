//! What the checker is worth: a database of rows in one map under one mutex, with one fault. It is
//! sound without the fault.

use super::recording::Versions;
use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, ManualClock, Page, Query, Result,
    Version,
};
#[cfg(shuttle)]
use shuttle::sync::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(shuttle))]
use std::sync::{Mutex, MutexGuard};

/// What the database does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
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
    /// `set` takes away what is there in one critical section and writes in another.
    SetsInTwoSteps,
    /// `set` writes again after a while, as if it had not been told that it had.
    SetsTwice,
    /// `delete` now and then does nothing.
    ForgetsADeletion,
    /// `page` leaves out its last item if there are more.
    PageSkipsAnItem,
    /// `page` reads in two parts.
    TornPage,
    /// `stream` answers what was so some commits ago.
    OldStream,
    /// A commit without locks makes each write on its own.
    UnlockedCommitsAreLoose,
    /// A read does not look at times to live.
    NeverExpires,
    /// What expires is gone in its last second already.
    ExpiresEarly,
}

impl Fault {
    pub const ALL: &'static [Fault] = &[
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
        Fault::SetsInTwoSteps,
        Fault::SetsTwice,
        Fault::ForgetsADeletion,
        Fault::PageSkipsAnItem,
        Fault::TornPage,
        Fault::OldStream,
        Fault::UnlockedCommitsAreLoose,
        Fault::NeverExpires,
        Fault::ExpiresEarly,
    ];
}

#[derive(Clone)]
enum Row {
    Item(Item<String>),
    Lock(Lock),
}

type Rows = BTreeMap<KeyBuf, Row>;

pub struct Faulty {
    fault: Fault,
    making: Versions,
    clock: ManualClock,
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
    pub fn new(fault: Fault, making: Versions, clock: ManualClock) -> Self {
        Faulty {
            fault,
            making,
            clock,
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

    /// A version for a critical section that is still to come, if they are made ahead.
    fn version_ahead(&self) -> Option<Version> {
        match self.making {
            Versions::AtCommit => None,
            Versions::Early => {
                let version = self.version();
                self.gap();
                Some(version)
            }
        }
    }

    fn is_live(&self, item: &Item<String>) -> bool {
        let now = self.clock.epoch_seconds();
        match self.fault {
            Fault::NeverExpires => true,
            Fault::ExpiresEarly => item.is_live(now + 1),
            _ => item.is_live(now),
        }
    }

    fn live(&self, row: &Row) -> Option<Item<String>> {
        match row {
            Row::Item(item) if self.is_live(item) => Some(item.clone()),
            Row::Item(_) | Row::Lock(_) => None,
        }
    }

    fn item(&self, rows: &Rows, key: Key<'_>) -> Option<Item<String>> {
        rows.get(&key.to_buf()).and_then(|row| self.live(row))
    }

    /// The items of a partition in order, beyond `after`. All the workload asks of a query,
    /// besides its limit.
    fn select(&self, rows: &Rows, query: &Query, after: Option<&str>) -> Vec<Item<String>> {
        let beyond = |item: &Item<String>| match after {
            Some(after) if query.reverse => item.sk() < after,
            Some(after) => item.sk() > after,
            None => true,
        };
        let rows = rows.values().filter_map(|row| self.live(row));
        let mut items: Vec<Item<String>> = rows
            .filter(|item| item.pk() == query.pk && beyond(item))
            .collect();
        if query.reverse {
            items.reverse();
        }
        items
    }

    /// The same, read in two critical sections.
    fn select_twice(&self, query: &Query, after: Option<&str>) -> Vec<Item<String>> {
        let mut items = self.select(&self.rows(), query, after);
        self.gap();
        items.truncate(items.len() / 2);
        let last = items.last().map(|item| item.sk().to_owned());
        let after = last.as_deref().or(after);
        let later = self.select(&self.rows(), query, after);
        items.extend(later);
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
            return Ok(self.item(&self.old.lock().unwrap(), key));
        }
        if !self.caches() {
            return self.get_fresh(key);
        }
        let cached = self.cached.lock().unwrap().get(&key.to_buf()).cloned();
        if let Some(item) = cached.filter(|item| self.is_live(item)) {
            return Ok(Some(item));
        }
        let rows = self.rows();
        let item = self.item(&rows, key);
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
        Ok(self.item(&self.rows(), key))
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
            items.push(self.item(&rows, *key));
        }
        Ok(items)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let ahead = self.version_ahead();
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
        let version = buried.or(ahead).unwrap_or_else(|| self.version());
        let lock = Lock::new(key, version, u64::MAX);
        rows.insert(key.to_buf(), Row::Lock(lock.clone()));
        Ok(lock)
    }

    fn set(&self, items: &[Item<String>]) -> Result<()> {
        let each = |item: &Item<String>| self.commit(&Batch::new().set(item.clone())).map(drop);
        if self.has(Fault::SetsInTwoSteps) {
            let keys: Vec<Key<'_>> = items.iter().map(Item::key).collect();
            self.delete(&keys)?;
            self.gap();
        }
        items.iter().try_for_each(each)?;
        if self.has(Fault::SetsTwice) {
            self.gap();
            items.iter().try_for_each(each)?;
        }
        Ok(())
    }

    fn commit(&self, batch: &Batch<String>) -> Result<Version> {
        batch.validate()?;
        let writes = batch.sets().len() + batch.deletes().len();
        if self.has(Fault::UnlockedCommitsAreLoose) && batch.locks().is_empty() && writes > 1 {
            self.set(batch.sets())?;
            self.gap();
            let keys: Vec<Key<'_>> = batch.deletes().iter().map(KeyBuf::as_key).collect();
            self.delete(&keys)?;
            return Ok(self.version());
        }
        let turn = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        let ahead = self.version_ahead();
        let mut rows = self.rows();
        let reads_old = self.has(Fault::OldReads) || self.has(Fault::OldStream);
        if reads_old && turn % 4 == 0 {
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
            let there = self.item(&rows, item.key()).is_some();
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
            _ => ahead.unwrap_or_else(|| self.version()),
        };
        for lock in batch.locks() {
            let lock = lock.clone().with_version(version);
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
        let turn = self.commits.load(Ordering::SeqCst);
        if self.has(Fault::ForgetsADeletion) && turn % 2 == 0 {
            return Ok(());
        }
        keys.iter()
            .try_for_each(|key| self.commit(&Batch::new().delete(*key)).map(drop))
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<String>> {
        let mut items = match self.fault {
            Fault::TornPage => self.select_twice(query, after),
            _ => self.select(&self.rows(), query, after),
        };
        let limit = query.limit.unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more);
        let next = next.map(|item| item.sk().to_owned());
        if more && self.has(Fault::PageSkipsAnItem) {
            items.pop();
        }
        Ok(Page { items, next })
    }

    fn set_atomic(&self, items: &[Item<String>], locks: &[Lock]) -> Result<Version> {
        let batch = locks
            .iter()
            .fold(Batch::new(), |batch, lock| batch.lock(lock.clone()));
        let set = |batch: Batch<String>, item: &Item<String>| batch.set(item.clone());
        self.commit(&items.iter().fold(batch, set))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<String>>> {
        match self.fault {
            Fault::TornQuery => Ok(self.select_twice(query, None)),
            _ => Ok(self.select(&self.rows(), query, None)),
        }
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<String>>> {
        let rows = match self.fault {
            Fault::OldStream => &self.old,
            _ => &self.rows,
        };
        let items = self.select(&rows.lock().unwrap(), &query, None);
        items.into_iter().map(Ok)
    }
}
