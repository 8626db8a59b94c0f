//! The database.

use super::fault::Fault;
use super::sync::{Mutex, MutexGuard, RaceWindow};
use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, Observer, Page, Query, Result,
    RetryQueue, Version,
};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::Hasher;
use std::iter;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A small database: a call locks the stripes of its keys in ascending order, reads the clock once,
/// and does all its work. Without a fault this keeps every guarantee.
pub struct FaultyDb<T> {
    fault: Fault,
    clock: Arc<dyn Clock>,
    stripes: Vec<Mutex<Stripe<T>>>,
    pub(super) page_size: usize,
    versions_ahead: bool,
    versions: AtomicU64,
    commits: AtomicU64,
    /// The locks that `get_lock` returned last.
    recent_locks: Mutex<BTreeMap<KeyBuf, Lock>>,
    window: RaceWindow,
    retry_queue: RetryQueue,
}

struct Stripe<T> {
    rows: BTreeMap<KeyBuf, Row<T>>,
    /// The rows before one of the last four writes.
    snapshot: BTreeMap<KeyBuf, Row<T>>,
    writes: u64,
    /// The versions that locks have when they are created again.
    versions: BTreeMap<KeyBuf, Version>,
    /// The expiries that locks were created with.
    expiries: BTreeMap<KeyBuf, u64>,
}

#[derive(Clone)]
enum Row<T> {
    Item(Item<T>),
    Lock(Lock),
}

/// A row that a query reads: its sort key, and its item unless the row is hidden.
type Hit<T> = (String, Option<Item<T>>);

/// The stripes that a call has locked, and the time when it had.
pub(super) struct Section<'a, T> {
    db: &'a FaultyDb<T>,
    stripes: Vec<(usize, MutexGuard<'a, Stripe<T>>)>,
    now: u64,
    /// Whether reads are from the snapshots.
    pub(super) stale: bool,
}

impl<T: Clone> FaultyDb<T> {
    /// Returns an empty database with one stripe and pages of fifty items.
    pub fn new(fault: Fault, clock: impl Clock + 'static) -> Self {
        FaultyDb {
            fault,
            clock: Arc::new(clock),
            stripes: Vec::new(),
            page_size: 50,
            versions_ahead: false,
            // Small versions are those that tests forge.
            versions: AtomicU64::new(1 << 32),
            commits: AtomicU64::new(0),
            retry_queue: RetryQueue::new(),
            recent_locks: Mutex::new(BTreeMap::new()),
            window: RaceWindow::default(),
        }
        .with_stripes(1)
    }

    /// `count` is a power of two. Partitions have the same stripes as in a `MemoryDb` of that many.
    #[must_use]
    pub fn with_stripes(mut self, count: usize) -> Self {
        let stripe = || {
            Mutex::new(Stripe {
                rows: BTreeMap::new(),
                snapshot: BTreeMap::new(),
                writes: 0,
                versions: BTreeMap::new(),
                expiries: BTreeMap::new(),
            })
        };
        self.stripes = iter::repeat_with(stripe).take(count).collect();
        self
    }

    #[must_use]
    pub fn with_page_size(mut self, items: usize) -> Self {
        self.page_size = items;
        self
    }

    /// Assigns versions before the critical sections that store them, as clients of a server do.
    #[must_use]
    pub fn with_versions_ahead(mut self, ahead: bool) -> Self {
        self.versions_ahead = ahead;
        self
    }

    /// Removes expired items and locks, and returns their number.
    pub fn purge_expired(&self) -> usize {
        let mut section = self.lock_all();
        let expired = section.expired();
        if self.has(Fault::PurgeByKey) {
            drop(section);
            self.window.wait();
            section = self.lock_all();
        }
        for key in &expired {
            section.remove(key.as_key());
        }
        if self.has(Fault::StaleExpiryIndex) {
            section.remove_locks_by_first_expiry();
        }
        if self.has(Fault::WrongPurgeCount) {
            expired.len().min(1)
        } else {
            expired.len()
        }
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    pub(super) fn lock_all(&self) -> Section<'_, T> {
        self.lock_stripes((0..self.stripes.len()).collect())
    }

    fn stripe_of(&self, pk: &str) -> usize {
        let mut hasher = DefaultHasher::new();
        hasher.write(pk.as_bytes());
        (hasher.finish() >> 32) as usize & (self.stripes.len() - 1)
    }

    fn lock_stripes(&self, numbers: Vec<usize>) -> Section<'_, T> {
        self.window.count_call();
        let lock = |number: usize| (number, self.stripes[number].lock().unwrap());
        Section {
            db: self,
            stripes: numbers.into_iter().map(lock).collect(),
            now: self.clock.epoch_seconds(),
            stale: false,
        }
    }

    /// Locks the stripes of `keys`, each once, in ascending order.
    fn section<'k>(&self, keys: impl IntoIterator<Item = Key<'k>>) -> Section<'_, T> {
        let keys = keys.into_iter();
        let mut numbers: Vec<usize> = keys.map(|key| self.stripe_of(key.pk)).collect();
        if !self.has(Fault::UnorderedStripes) {
            numbers.sort_unstable();
        }
        if !self.has(Fault::StripeLockedTwice) {
            numbers.dedup();
        }
        self.lock_stripes(numbers)
    }

    fn stored_key(&self, key: Key<'_>) -> KeyBuf {
        match self.fault {
            Fault::JoinedKeys => KeyBuf::new("", format!("{}:{}", key.pk, key.sk)),
            _ => key.to_buf(),
        }
    }

    fn refuse_late(&self, key: Key<'_>) -> Result<()> {
        if self.has(Fault::LateKeyRefusal) && key.sk.is_empty() {
            return Err(Error::InvalidInput("an empty sort key".into()));
        }
        Ok(())
    }

    fn next_version(&self) -> Version {
        Version::from_u128(u128::from(self.versions.fetch_add(1, Ordering::Relaxed)))
    }

    /// Returns a version for a later critical section, if versions are assigned ahead.
    fn version_ahead(&self) -> Option<Version> {
        self.versions_ahead.then(|| {
            let version = self.next_version();
            self.window.wait();
            version
        })
    }

    fn get_item(&self, key: Key<'_>, stale: bool) -> Option<Item<T>> {
        let mut section = self.section([key]);
        section.stale = stale;
        if self.has(Fault::LateClockRead) {
            let row = section.row(key).cloned();
            drop(section);
            let now = self.clock.epoch_seconds();
            return match row {
                Some(Row::Item(item)) => Some(item).filter(|item| item.is_live(now)),
                _ => None,
            };
        }
        section.item(key)
    }

    /// The rows of a query after `after`, read in one critical section, or in two if `torn`.
    fn select(&self, query: &Query, after: Option<&str>, torn: bool) -> Vec<Hit<T>> {
        let section = || {
            let mut section = self.section([Key::new(&query.pk, "")]);
            section.stale = query.fresh && self.has(Fault::StaleFreshQuery);
            section
        };
        let mut hits = section().select(query, after);
        if torn {
            // Long enough for a commit, even if it waits for its version.
            (0..3).for_each(|_| self.window.wait());
            let returned = query.limit.unwrap_or(usize::MAX).min(hits.len());
            hits.truncate(returned / 2);
            let last = hits.last().map(|(sk, _)| sk.clone());
            hits.extend(section().select(query, last.as_deref().or(after)));
        }
        hits
    }

    /// Makes a page of at most `size` items of the rows after `after`.
    fn paginate(
        &self,
        mut hits: Vec<Hit<T>>,
        query: &Query,
        after: Option<&str>,
        size: usize,
    ) -> Page<T> {
        let offset = match after {
            Some(offset) if self.has(Fault::OffsetPaging) => offset.parse().unwrap(),
            _ => 0,
        };
        hits.drain(..hits.len().min(offset));
        if self.has(Fault::LimitOverflow) {
            let limit = query.limit.unwrap_or(0);
            assert!(limit.checked_add(1).is_some(), "the limit overflows");
        }
        let size = query.limit.unwrap_or(size).min(size);
        let last_page = self.has(Fault::LastPageLost) && hits.len() <= size.saturating_mul(2);
        let more = hits.len() >= size && size > 0 && !last_page;
        hits.truncate(size);
        let next = match hits.last() {
            Some(_) if self.has(Fault::OffsetPaging) => Some((offset + hits.len()).to_string()),
            last => last.map(|(sk, _)| sk.clone()),
        };
        if more && self.has(Fault::SkippedItem) {
            hits.pop();
        }
        Page {
            items: hits.into_iter().filter_map(|(_, item)| item).collect(),
            next: next.filter(|_| more),
        }
    }
}

impl<T: Clone> Section<'_, T> {
    fn has(&self, fault: Fault) -> bool {
        self.db.has(fault)
    }

    fn stripe(&self, pk: &str) -> &Stripe<T> {
        let number = self.db.stripe_of(pk);
        let locked = self.stripes.iter().find(|(locked, _)| *locked == number);
        &locked.expect("the stripe is locked").1
    }

    fn stripe_mut(&mut self, pk: &str) -> &mut Stripe<T> {
        let number = self.db.stripe_of(pk);
        let locked = self
            .stripes
            .iter_mut()
            .find(|(locked, _)| *locked == number);
        &mut locked.expect("the stripe is locked").1
    }

    fn rows(&self, pk: &str) -> &BTreeMap<KeyBuf, Row<T>> {
        let stripe = self.stripe(pk);
        if self.stale {
            &stripe.snapshot
        } else {
            &stripe.rows
        }
    }

    fn row(&self, key: Key<'_>) -> Option<&Row<T>> {
        self.rows(key.pk).get(&self.db.stored_key(key))
    }

    fn item(&self, key: Key<'_>) -> Option<Item<T>> {
        self.row(key).and_then(|row| self.live_item(row))
    }

    /// All rows of the locked stripes. Hidden rows have no item.
    pub(super) fn all_rows(&self) -> Vec<(KeyBuf, Option<Item<T>>)> {
        let rows = self
            .stripes
            .iter()
            .flat_map(|(_, stripe)| match self.stale {
                true => &stripe.snapshot,
                false => &stripe.rows,
            });
        let item = |row: &Row<T>| match row {
            Row::Item(item) if self.has(Fault::ExpiredItemInScan) => Some(item.clone()),
            Row::Lock(lock) if self.has(Fault::LockInScan) => {
                Some(Item::without_data(lock.key().pk, lock.key().sk))
            }
            row => self.live_item(row),
        };
        rows.map(|(key, row)| (key.clone(), item(row))).collect()
    }

    fn live_item(&self, row: &Row<T>) -> Option<Item<T>> {
        let Row::Item(item) = row else {
            return None;
        };
        let live = match self.db.fault {
            Fault::IgnoredTtl => true,
            Fault::ExclusiveTtl => item.is_live(self.now.saturating_add(1)),
            Fault::DatalessItemDropped => item.data().is_some() && item.is_live(self.now),
            _ => item.is_live(self.now),
        };
        live.then(|| item.clone())
    }

    fn insert(&mut self, key: Key<'_>, row: Row<T>) {
        let stale = matches!(
            self.db.fault,
            Fault::StaleGet
                | Fault::StaleGetFresh
                | Fault::StaleFreshQuery
                | Fault::StaleStream
                | Fault::StaleScan
        );
        let stored = self.db.stored_key(key);
        let stripe = self.stripe_mut(key.pk);
        if stale && stripe.writes % 4 == 0 {
            stripe.snapshot.clone_from(&stripe.rows);
        }
        stripe.writes += 1;
        stripe.rows.insert(stored, row);
    }

    fn put(&mut self, item: &Item<T>) {
        self.insert(item.key(), Row::Item(item.clone()));
    }

    fn remove(&mut self, key: Key<'_>) {
        let stored = self.db.stored_key(key);
        self.stripe_mut(key.pk).rows.remove(&stored);
    }

    /// The rows of a partition that match a query, in its order.
    fn select(&self, query: &Query, after: Option<&str>) -> Vec<Hit<T>> {
        let matches = |sk: &str| match self.db.fault {
            Fault::PrefixAnywhere => sk.contains(&*query.prefix),
            _ => sk.starts_with(&*query.prefix),
        };
        let mut range = Query::new(&query.pk).range(query.range.clone());
        if let (Bound::Excluded(end), true) = (&query.range.1, self.has(Fault::InclusiveRangeEnd)) {
            range.range.1 = Bound::Included(end.clone());
        }
        let in_range = |key: Key<'_>| range.matches(key);
        let hit = |row: &Row<T>| {
            let (key, item) = match row {
                Row::Item(item) if self.has(Fault::ExpiredItemInQuery) => {
                    (item.key(), Some(item.clone()))
                }
                Row::Item(item) => (item.key(), self.live_item(row)),
                Row::Lock(lock) => {
                    let shown = self.has(Fault::LockInQuery);
                    let item = || Item::without_data(lock.key().pk, lock.key().sk);
                    (lock.key(), shown.then(item))
                }
            };
            let hidden = item.is_none() && !self.has(Fault::LimitCountsHidden);
            let hit = key.pk == query.pk && matches(key.sk) && in_range(key) && !hidden;
            hit.then(|| (key.sk.to_owned(), item))
        };
        let mut hits: Vec<Hit<T>> = self.rows(&query.pk).values().filter_map(hit).collect();
        if self.has(Fault::OrderByLength) {
            hits.sort_by_key(|(sk, _)| sk.len());
        }
        if query.reverse {
            hits.reverse();
        }
        let ignored = query.reverse && self.has(Fault::AfterIgnoredInReverse);
        let own = query.after.as_deref().filter(|_| !ignored);
        let after = after.filter(|_| !self.has(Fault::OffsetPaging)).or(own);
        if let Some(after) = after {
            hits.retain(|(sk, _)| match self.db.fault {
                _ if query.reverse => sk.as_str() < after,
                Fault::InclusiveAfter => sk.as_str() >= after,
                _ => sk.as_str() > after,
            });
        }
        hits
    }

    /// Succeeds if the locks and checks of a batch are unchanged and its creations are possible.
    fn validate(&self, batch: &Batch<T>, commit: u64) -> Result<()> {
        let unchanged = |lock: &Lock| match self.row(lock.key()) {
            Some(Row::Lock(stored)) => {
                let live = stored.is_live(self.now) || self.has(Fault::ExpiredLockCommits);
                live && stored.version() == lock.version()
            }
            _ => false,
        };
        let ignored = self.has(Fault::IgnoredChecks);
        let checks = batch.checks().iter().filter(|_| !ignored);
        let mut changed: Vec<&Lock> = batch.locks().iter().chain(checks).collect();
        let all = changed.clone();
        changed.retain(|lock| !unchanged(lock));
        match self.db.fault {
            Fault::OverreportedConflict if !changed.is_empty() => changed = all,
            Fault::UnderreportedConflict => changed.truncate(1),
            Fault::SpuriousConflict if changed.is_empty() && commit % 8 == 0 => {
                changed.extend(batch.locks().first());
            }
            _ => {}
        }
        let exists = |item: &&Item<T>| match (self.db.fault, self.row(item.key())) {
            (Fault::CreateReplaces, _) => false,
            (Fault::ExpiredItemBlocksCreate, Some(Row::Item(_))) => true,
            (Fault::SpuriousExists, _) if commit % 4 == 0 => true,
            (_, row) => row.is_some_and(|row| self.live_item(row).is_some()),
        };
        if changed.is_empty() || self.has(Fault::ExistsBeforeConflict) {
            if let Some(item) = batch.creates().iter().find(exists) {
                let key = item.key().to_buf();
                return Err(Error::AlreadyExists { key });
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let keys = changed.iter().map(|lock| lock.key().to_buf()).collect();
        Err(Error::RaceCondition { keys })
    }

    /// Stores a lock of a commit with its new version, and with its stored expiry: the caller's copy
    /// may be older than a refresh.
    fn renew(&mut self, lock: &Lock, version: Version) {
        let ttl = match self.row(lock.key()) {
            _ if self.has(Fault::CommitExtendsLock) => self.now.saturating_add(Lock::LIFETIME),
            Some(Row::Lock(stored)) => stored.ttl(),
            _ => lock.ttl(),
        };
        let key = lock.key();
        if self.has(Fault::ResurrectedVersion) {
            let versions = &mut self.stripe_mut(key.pk).versions;
            versions.insert(key.to_buf(), version);
        }
        self.insert(key, Row::Lock(Lock::new(key, version, ttl)));
    }

    fn create_lock(&mut self, key: Key<'_>, mut version: Version) -> Lock {
        let ttl = self.now.saturating_add(Lock::LIFETIME);
        let reused = self.has(Fault::RestartedVersion) || self.has(Fault::ResurrectedVersion);
        let stripe = self.stripe_mut(key.pk);
        if reused {
            version = *stripe.versions.entry(key.to_buf()).or_insert(version);
        }
        stripe.expiries.insert(key.to_buf(), ttl);
        let lock = Lock::new(key, version, ttl);
        self.insert(key, Row::Lock(lock.clone()));
        lock
    }

    fn expired(&self) -> Vec<KeyBuf> {
        let rows = self
            .stripes
            .iter()
            .flat_map(|(_, stripe)| stripe.rows.values());
        let keys = rows.filter_map(|row| match row {
            Row::Item(item) => (!item.is_live(self.now)).then(|| item.key().to_buf()),
            Row::Lock(lock) => (!lock.is_live(self.now)).then(|| lock.key().to_buf()),
        });
        keys.collect()
    }

    fn remove_locks_by_first_expiry(&mut self) {
        for (_, stripe) in &mut self.stripes {
            let Stripe { rows, expiries, .. } = &mut **stripe;
            rows.retain(|key, row| match row {
                Row::Lock(_) => expiries[key] >= self.now,
                Row::Item(_) => true,
            });
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<T: Clone> AtomicDb for FaultyDb<T> {
    type Data = T;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        Ok(self.get_item(key, self.has(Fault::StaleGet)))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        Ok(self.get_item(key, self.has(Fault::StaleGetFresh)))
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        let mut keys = keys.to_vec();
        if self.has(Fault::ShortGetMany) {
            keys.dedup();
        }
        if self.has(Fault::TornGetMany) {
            let get = |key: &Key<'_>| {
                self.window.wait();
                self.get(*key)
            };
            return keys.iter().map(get).collect();
        }
        if self.has(Fault::ChunkedGetMany) && keys.len() > 100 {
            let chunks = keys.chunks(100).map(|chunk| self.get_many(chunk));
            return chunks
                .collect::<Result<Vec<_>>>()
                .map(|chunks| chunks.concat());
        }
        let section = self.section(keys.iter().copied());
        let mut seen = HashSet::new();
        let items = keys.iter().enumerate().map(|(place, key)| {
            let repeated = !seen.insert(*key) && self.has(Fault::MergedRepeats);
            let ignored = place >= 100 && self.has(Fault::TruncatedGetMany);
            section.item(*key).filter(|_| !repeated && !ignored)
        });
        Ok(items.collect())
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        self.get_many(keys)
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        let mut keys = keys.to_vec();
        if self.has(Fault::MergedLocks) {
            keys.sort_unstable();
            keys.dedup();
        }
        let lock = |key: Key<'_>| {
            let recent = self.recent_locks.lock().unwrap().remove(&key.to_buf());
            recent.map_or_else(|| self.get_lock(key), Ok)
        };
        keys.into_iter().map(lock).collect()
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.refuse_late(key)?;
        let ahead = self.version_ahead();
        let mut section = self.section([key]);
        let now = section.now;
        match section.row(key).cloned() {
            Some(Row::Lock(lock)) if lock.is_live(now) => {
                let early = lock.ttl().saturating_sub(now) < 2 * Lock::REFRESH_WINDOW;
                let ttl = match self.fault {
                    Fault::EarlyRefresh if early => now.saturating_add(Lock::LIFETIME),
                    _ => lock.refreshed_ttl(now),
                };
                let version = match self.fault {
                    Fault::RefreshChangesVersion if ttl != lock.ttl() => self.next_version(),
                    _ => lock.version(),
                };
                let refreshed = Lock::new(key, version, ttl);
                if refreshed != lock {
                    section.insert(key, Row::Lock(refreshed.clone()));
                }
                if self.has(Fault::StaleGetLocks) {
                    let mut recent = self.recent_locks.lock().unwrap();
                    recent.insert(key.to_buf(), refreshed.clone());
                }
                return Ok(refreshed);
            }
            Some(Row::Lock(lock)) if self.has(Fault::RevivedLock) => {
                return Ok(section.create_lock(key, lock.version()));
            }
            row => {
                let item = row.and_then(|row| section.live_item(&row));
                if item.is_some() && !self.has(Fault::LockReplacesItem) {
                    return Err(Error::InvalidInput(format!("an item is at {key}")));
                }
            }
        }
        if self.has(Fault::DuplicateLock) {
            drop(section);
            self.window.wait();
            section = self.section([key]);
        }
        let version = ahead.unwrap_or_else(|| self.next_version());
        Ok(section.create_lock(key, version))
    }

    fn set(&self, items: &[Item<T>]) -> Result<()> {
        if items.is_empty() && self.has(Fault::EmptyInputRefused) {
            return Err(Error::InvalidInput("nothing to set".into()));
        }
        if self.has(Fault::TornSet) {
            let keys: Vec<Key<'_>> = items.iter().map(Item::key).collect();
            self.delete(&keys)?;
            self.window.wait();
        }
        let write = || {
            let mut seen = HashSet::new();
            items.iter().try_for_each(|item| {
                self.refuse_late(item.key())?;
                if seen.insert(item.key()) || !self.has(Fault::FirstRepeatWins) {
                    self.section([item.key()]).put(item);
                }
                Ok(())
            })
        };
        write()?;
        if self.has(Fault::RepeatedSet) {
            // Long enough for a read, a write by another thread, and another read.
            (0..6).for_each(|_| self.window.wait());
            write()?;
        }
        Ok(())
    }

    fn commit(&self, batch: &Batch<T>) -> Result<Version> {
        if !self.has(Fault::RepeatedKeyInBatch) {
            batch.validate()?;
        }
        let guards = batch.locks().iter().chain(batch.checks());
        let items = batch.sets().iter().chain(batch.creates());
        let deletes = batch.deletes().iter().map(KeyBuf::as_key);
        let guarded = guards.clone().next().is_some() || !batch.creates().is_empty();
        if self.has(Fault::TornUnlockedCommit) && !guarded {
            self.set(batch.sets())?;
            self.window.wait();
            self.delete(&deletes.collect::<Vec<_>>())?;
            return Ok(self.next_version());
        }
        let keys = guards.map(Lock::key).chain(items.clone().map(Item::key));
        let keys = keys.chain(deletes.clone());

        let commit = self.commits.fetch_add(1, Ordering::Relaxed) + 1;
        let ahead = self.version_ahead();
        let mut section = self.section(keys.clone());
        if let Err(error) = section.validate(batch, commit) {
            if self.has(Fault::PartialApply) {
                batch
                    .sets()
                    .iter()
                    .take(1)
                    .for_each(|item| section.put(item));
            }
            return Err(error);
        }
        if self.has(Fault::CheckThenAct) {
            drop(section);
            self.window.wait();
            section = self.section(keys.clone());
        }
        let sometimes = commit % 8 == 0;
        let version = match self.fault {
            Fault::ReusedVersion if sometimes => {
                let next = self.versions.load(Ordering::Relaxed);
                Version::from_u128(u128::from(next - 1))
            }
            _ => ahead.unwrap_or_else(|| self.next_version()),
        };
        let renewed = self.has(Fault::RenewedChecks);
        let checks = batch.checks().iter().filter(|_| renewed);
        for lock in batch.locks().iter().chain(checks) {
            section.renew(lock, version);
        }
        let last = items.clone().count().wrapping_sub(1);
        for (place, item) in items.enumerate() {
            if place == 1 && self.has(Fault::TornCommit) {
                drop(section);
                self.window.wait();
                section = self.section(keys.clone());
            }
            self.refuse_late(item.key())?;
            if !(place == last && sometimes && self.has(Fault::DroppedWrite)) {
                section.put(item);
            }
        }
        if !self.has(Fault::DroppedCommitDeletes) {
            deletes.for_each(|key| section.remove(key));
        }
        if self.has(Fault::WrongVersionReturned) {
            return Ok(self.next_version());
        }
        Ok(version)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        if self.has(Fault::DroppedDelete) && self.commits.load(Ordering::Relaxed) % 2 == 0 {
            return Ok(());
        }
        for key in keys {
            let mut section = self.section([*key]);
            let is_lock = matches!(section.row(*key), Some(Row::Lock(_)));
            if !(is_lock && self.has(Fault::DeleteLeavesLocks)) {
                section.remove(*key);
            }
        }
        Ok(())
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<T>> {
        let hits = self.select(query, after, self.has(Fault::TornPage));
        Ok(self.paginate(hits, query, after, self.page_size))
    }

    fn set_atomic(&self, items: &[Item<T>], locks: &[Lock]) -> Result<Version> {
        if locks.is_empty() && !items.is_empty() && !self.has(Fault::UnguardedSetAtomic) {
            return Err(Error::InvalidInput("items without a lock".into()));
        }
        let batch = locks.iter().cloned().fold(Batch::new(), Batch::lock);
        self.commit(&items.iter().cloned().fold(batch, Batch::set))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<T>>> {
        if self.has(Fault::PagedQuery) {
            return self.stream(query.clone()).collect();
        }
        let hits = self.select(query, None, self.has(Fault::TornQuery));
        Ok(self.paginate(hits, query, None, usize::MAX).items)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<T>>> {
        let pk = query.pk.clone();
        let section = move || {
            let mut section = self.section([Key::new(&pk, "")]);
            section.stale = self.has(Fault::StaleStream);
            section
        };
        let held = self.has(Fault::StreamHoldsMutex).then(&section);
        let mut left = query.limit.unwrap_or(usize::MAX);
        let mut page = Vec::new().into_iter();
        let (mut after, mut restarted, mut ended) = (None::<String>, false, false);
        iter::from_fn(move || {
            while page.len() == 0 && left > 0 && !ended {
                let hits = match &held {
                    Some(section) => section.select(&query, after.as_deref()),
                    None => section().select(&query, after.as_deref()),
                };
                let next = self.paginate(hits, &query, after.as_deref(), self.page_size);
                page = next.items.into_iter();
                ended = next.next.is_none() || self.has(Fault::StreamEndsAfterPage);
                after = next.next;
                if self.has(Fault::StreamRestarts) && !restarted {
                    restarted = true;
                    after = None;
                }
            }
            let item = page.next().filter(|_| left > 0);
            left -= usize::from(item.is_some());
            if item.is_none() && self.has(Fault::StreamNotFused) {
                ended = false;
            }
            item.map(Ok)
        })
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        Some(&self.retry_queue)
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        None
    }
}
