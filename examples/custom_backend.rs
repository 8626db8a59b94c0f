//! A backend of your own: a `BTreeMap` under a mutex. It passes the conformance suite and the history
//! checker (`cargo test --example custom_backend`).

use atomic_db::*;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

struct MapDb<T, C> {
    rows: Mutex<Rows<T>>,
    clock: C,
    versions: VersionGenerator,
    retry_queue: RetryQueue,
}

/// The items and the locks. A key has one or the other, never both (guarantee 4).
type Rows<T> = (BTreeMap<KeyBuf, Item<T>>, BTreeMap<KeyBuf, Lock>);

impl<T, C: Clock> MapDb<T, C> {
    fn new(clock: C) -> Self {
        MapDb {
            rows: Mutex::default(),
            clock,
            versions: VersionGenerator::new(),
            retry_queue: RetryQueue::new(),
        }
    }
    /// The clock is user code, so it is read before the mutex is locked (guarantee 22).
    fn now_and_rows(&self) -> (u64, MutexGuard<'_, Rows<T>>) {
        let now = self.clock.epoch_seconds();
        let rows = self.rows.lock();
        (now, rows.unwrap_or_else(PoisonError::into_inner))
    }
}

fn live_item<T>((items, _): &Rows<T>, key: Key<'_>, now: u64) -> Option<Item<T>> {
    let item = items.get(&key.to_buf());
    item.filter(|item| item.is_live(now)).cloned()
}
fn live_lock<T>((_, locks): &Rows<T>, key: Key<'_>, now: u64) -> Option<Lock> {
    let lock = locks.get(&key.to_buf());
    lock.filter(|lock| lock.is_live(now)).cloned()
}

impl<T, C: Clock> AtomicDb for MapDb<T, C> {
    type Data = T;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.get_many(&[key]).map(|mut items| items.remove(0))
    }
    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.get(key)
    }
    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        let (now, rows) = self.now_and_rows();
        Ok(keys.iter().map(|key| live_item(&rows, *key, now)).collect())
    }
    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        self.get_many(keys)
    }
    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let new_version = self.versions.next(self.clock.now());
        let (now, mut rows) = self.now_and_rows();
        if live_item(&rows, key, now).is_some() {
            return Err(Error::InvalidInput(format!("an item exists at {key}")));
        }
        let lock = match live_lock(&rows, key, now) {
            // A refresh keeps the version (guarantee 16).
            Some(lock) => Lock::new(key, lock.version(), lock.refreshed_ttl(now)),
            None => Lock::new(key, new_version, now.saturating_add(Lock::LIFETIME)),
        };
        rows.1.insert(key.to_buf(), lock.clone());
        let _expired = rows.0.remove(&key.to_buf());
        drop(rows); // before the expired item, whose `Drop` is user code (guarantee 22)
        Ok(lock)
    }
    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        keys.iter().map(|key| self.get_lock(*key)).collect()
    }
    fn set(&self, items: &[Item<T>]) -> Result<()> {
        let set = |item: &Item<T>| self.commit(&Batch::new().set(item.clone())).map(drop);
        items.iter().try_for_each(set)
    }
    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        keys.iter()
            .try_for_each(|key| self.commit(&Batch::new().delete(*key)).map(drop))
    }
    fn commit(&self, batch: &Batch<T>) -> Result<Version> {
        batch.validate()?;
        let version = self.versions.next(self.clock.now());
        let (now, mut rows) = self.now_and_rows();
        let stored = |lock: &Lock| live_lock(&rows, lock.key(), now);
        let is_stale = |lock: &&Lock| stored(lock).map(|now| now.version()) != Some(lock.version());
        let stale = batch.locks().iter().chain(batch.checks()).filter(is_stale);
        let keys: Vec<KeyBuf> = stale.map(|lock| lock.key().to_buf()).collect();
        if !keys.is_empty() {
            return Err(Error::RaceCondition { keys });
        }
        let mut creates = batch.creates().iter().map(|item| item.key().to_buf());
        if let Some(key) = creates.find(|key| live_item(&rows, key.as_key(), now).is_some()) {
            return Err(Error::AlreadyExists { key });
        }
        // From here on, nothing fails. A lock keeps its stored expiry (guarantee 18).
        let renewed: Vec<Lock> = batch.locks().iter().filter_map(stored).collect();
        let renewed = renewed.into_iter().map(|lock| lock.with_version(version));
        let (items, locks) = &mut *rows;
        locks.extend(renewed.map(|lock| (lock.key().to_buf(), lock)));
        let mut replaced = Vec::new();
        for item in batch.sets().iter().chain(batch.creates()) {
            locks.remove(&item.key().to_buf());
            replaced.push(items.insert(item.key().to_buf(), item.clone()));
        }
        for key in batch.deletes() {
            locks.remove(key);
            replaced.push(items.remove(key));
        }
        drop(rows); // before the replaced items
        Ok(version)
    }
    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<T>> {
        let (now, rows) = self.now_and_rows();
        let rest = after.map_or(query.clone(), |after| query.clone().after(after));
        let items = rows.0.range(KeyBuf::new(&query.pk, "")..).map(|row| row.1);
        let items = items.take_while(|item| item.pk() == query.pk);
        let selected = items.filter(|item| query.matches(*item) && rest.matches(*item));
        let mut items: Vec<_> = selected.filter(|item| item.is_live(now)).cloned().collect();
        if query.reverse {
            items.reverse();
        }
        let limit = query.limit.unwrap_or(usize::MAX);
        let last = items.get(limit).and_then(|_| items[..limit].last());
        let next = last.map(|last| last.sk().to_owned());
        items.truncate(limit);
        Ok(Page { items, next })
    }
    fn retry_queue(&self) -> Option<&RetryQueue> {
        Some(&self.retry_queue)
    }
}

fn main() -> Result<()> {
    MapDb::new(SystemClock).create(Item::new("page", "title", "Home"))
}

#[cfg(test)]
atomic_db::testing::suite! { conformance: MapDb::new }

#[test]
fn histories_are_strictly_serializable() {
    atomic_db::testing::check_history(MapDb::new, &atomic_db::testing::Workload::new()).unwrap();
}
