//! A wrapper that stores a NUL as U+0001, so that the reference model, whose keys have a NUL, runs on
//! PostgreSQL. No other text has a U+0001, so the order stays the same.

use atomic_db::{
    AtomicDb, Batch, Error, Item, Key, KeyBuf, Lock, Page, PostgresDb, Query, Result, RetryQueue,
    Version,
};
use atomic_db_test_support::reference_model::DbUnderTest;

pub(crate) struct WithoutNul(pub(crate) PostgresDb<u32>);

fn stored(text: &str) -> String {
    text.replace('\0', "\u{1}")
}

fn shown(text: &str) -> String {
    text.replace('\u{1}', "\0")
}

fn stored_key(key: Key<'_>) -> KeyBuf {
    KeyBuf::new(stored(key.pk), stored(key.sk))
}

fn shown_key(key: Key<'_>) -> KeyBuf {
    KeyBuf::new(shown(key.pk), shown(key.sk))
}

fn with_key(key: KeyBuf, item: &Item<u32>) -> Item<u32> {
    let copy = match item.data() {
        Some(data) => Item::at(key, *data),
        None => Item::without_data(key.pk(), key.sk()),
    };
    copy.expires_at(item.ttl().unwrap_or(u64::MAX))
}

fn stored_item(item: &Item<u32>) -> Item<u32> {
    with_key(stored_key(item.key()), item)
}

fn shown_item(item: &Item<u32>) -> Item<u32> {
    with_key(shown_key(item.key()), item)
}

fn stored_lock(lock: &Lock) -> Lock {
    Lock::new(stored_key(lock.key()), lock.version(), lock.ttl())
}

fn shown_lock(lock: &Lock) -> Lock {
    Lock::new(shown_key(lock.key()), lock.version(), lock.ttl())
}

fn stored_query(query: &Query) -> Query {
    let mut query = query.clone();
    query.pk = stored(&query.pk);
    query.prefix = stored(&query.prefix);
    query.after = query.after.as_deref().map(stored);
    let (start, end) = query.range;
    query.range = (start.map(|sk| stored(&sk)), end.map(|sk| stored(&sk)));
    query
}

fn shown_error(error: Error) -> Error {
    match error {
        Error::RaceCondition { keys } => Error::RaceCondition {
            keys: keys.iter().map(|key| shown_key(key.as_key())).collect(),
        },
        Error::AlreadyExists { key } => Error::AlreadyExists {
            key: shown_key(key.as_key()),
        },
        other => other,
    }
}

impl WithoutNul {
    fn with_keys<R>(
        &self,
        keys: &[Key<'_>],
        call: impl FnOnce(&PostgresDb<u32>, &[Key<'_>]) -> R,
    ) -> R {
        let keys: Vec<KeyBuf> = keys.iter().map(|key| stored_key(*key)).collect();
        let keys: Vec<Key<'_>> = keys.iter().map(KeyBuf::as_key).collect();
        call(&self.0, &keys)
    }
}

impl AtomicDb for WithoutNul {
    type Data = u32;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<u32>>> {
        let item = self.0.get(stored_key(key).as_key())?;
        Ok(item.as_ref().map(shown_item))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<u32>>> {
        let item = self.0.get_fresh(stored_key(key).as_key())?;
        Ok(item.as_ref().map(shown_item))
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<u32>>>> {
        let items = self.with_keys(keys, |db, keys| db.get_many(keys))?;
        Ok(items
            .iter()
            .map(|item| item.as_ref().map(shown_item))
            .collect())
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<u32>>>> {
        let items = self.with_keys(keys, |db, keys| db.get_many_fresh(keys))?;
        Ok(items
            .iter()
            .map(|item| item.as_ref().map(shown_item))
            .collect())
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        Ok(shown_lock(&self.0.get_lock(stored_key(key).as_key())?))
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        let locks = self.with_keys(keys, |db, keys| db.get_locks(keys))?;
        Ok(locks.iter().map(shown_lock).collect())
    }

    fn set(&self, items: &[Item<u32>]) -> Result<()> {
        let items: Vec<_> = items.iter().map(stored_item).collect();
        self.0.set(&items)
    }

    fn commit(&self, batch: &Batch<u32>) -> Result<Version> {
        let mut inner = Batch::new();
        for lock in batch.locks() {
            inner = inner.lock(stored_lock(lock));
        }
        for lock in batch.checks() {
            inner = inner.check(stored_lock(lock));
        }
        for item in batch.sets() {
            inner = inner.set(stored_item(item));
        }
        for item in batch.creates() {
            inner = inner.create(stored_item(item));
        }
        for key in batch.deletes() {
            inner = inner.delete(stored_key(key.as_key()));
        }
        self.0.commit(&inner).map_err(shown_error)
    }

    fn set_atomic(&self, items: &[Item<u32>], locks: &[Lock]) -> Result<Version> {
        let items: Vec<_> = items.iter().map(stored_item).collect();
        let locks: Vec<_> = locks.iter().map(stored_lock).collect();
        self.0.set_atomic(&items, &locks).map_err(shown_error)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.with_keys(keys, |db, keys| db.delete(keys))
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<u32>> {
        let after = after.map(stored);
        let page = self.0.page(&stored_query(query), after.as_deref())?;
        Ok(Page {
            items: page.items.iter().map(shown_item).collect(),
            next: page.next.as_deref().map(shown),
        })
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<u32>>> {
        let items = self.0.query(&stored_query(query))?;
        Ok(items.iter().map(shown_item).collect())
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        self.0.retry_queue()
    }
}

impl DbUnderTest for WithoutNul {
    fn purge(&self) -> Option<usize> {
        Some(self.0.purge_expired().unwrap())
    }
}
