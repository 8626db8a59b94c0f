//! The caches that are compared: atomic-db's and its peers, each in front of the same database.

use crate::keys::Pair;
use crate::stores::Hasher;
use atomic_db::{AtomicDb, Item, Key, LruCache, MemoryDb};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is behind every cache.
pub(crate) type Source = MemoryDb<u64>;

fn at(pair: &Pair) -> Key<'_> {
    Key::new(&pair.pk, &pair.sk)
}

fn value(item: &Item<u64>) -> u64 {
    item.data().copied().unwrap_or(0)
}

/// What a peer asks when it has nothing. It counts, as atomic-db's cache does.
struct Behind {
    source: Source,
    asked: AtomicU64,
}

impl Behind {
    fn new(source: Source) -> Self {
        Behind {
            source,
            asked: AtomicU64::new(0),
        }
    }

    fn fetch(&self, key: &Pair) -> Item<u64> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let item = self.source.get(at(key)).expect("a read succeeds");
        item.expect("the database behind has every key that is asked for")
    }

    fn misses(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A cache under measurement.
pub(crate) trait Cache: Sync + Sized {
    const NAME: &'static str;

    /// A cache of `capacity` items in front of `source`.
    fn new(source: Source, capacity: usize) -> Self;

    /// What `key` holds, from the cache or through it.
    fn get(&self, key: &Pair) -> u64;

    /// How often the database behind was asked.
    fn misses(&self) -> u64;
}

pub(crate) struct Ours(LruCache<Source>);

impl Cache for Ours {
    const NAME: &'static str = "LruCache";

    fn new(source: Source, capacity: usize) -> Self {
        Ours(LruCache::new(source, capacity))
    }

    fn get(&self, key: &Pair) -> u64 {
        let item = self.0.get(at(key)).expect("a read succeeds");
        item.as_ref().map_or(0, value)
    }

    fn misses(&self) -> u64 {
        self.0.stats().misses
    }
}

pub(crate) struct MutexLru {
    source: Behind,
    items: parking_lot::Mutex<lru::LruCache<Pair, Item<u64>, Hasher>>,
}

impl Cache for MutexLru {
    const NAME: &'static str = "Mutex<lru>";

    fn new(source: Source, capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity).expect("a cache has room");
        let items = lru::LruCache::with_hasher(capacity, Hasher::default());
        MutexLru {
            source: Behind::new(source),
            items: parking_lot::Mutex::new(items),
        }
    }

    fn get(&self, key: &Pair) -> u64 {
        let found = self.items.lock().get(key).cloned();
        if let Some(item) = found {
            return value(&item);
        }
        let item = self.source.fetch(key);
        let entry = (key.clone(), item.clone());
        let evicted = self.items.lock().push(entry.0, entry.1);
        drop(evicted);
        value(&item)
    }

    fn misses(&self) -> u64 {
        self.source.misses()
    }
}

pub(crate) struct Quick {
    source: Behind,
    items: quick_cache::sync::Cache<Pair, Item<u64>, quick_cache::UnitWeighter, Hasher>,
}

impl Cache for Quick {
    const NAME: &'static str = "quick_cache";

    fn new(source: Source, capacity: usize) -> Self {
        let items = quick_cache::sync::Cache::with(
            capacity,
            capacity as u64,
            quick_cache::UnitWeighter,
            Hasher::default(),
            quick_cache::sync::DefaultLifecycle::default(),
        );
        Quick {
            source: Behind::new(source),
            items,
        }
    }

    fn get(&self, key: &Pair) -> u64 {
        if let Some(item) = self.items.get(key) {
            return value(&item);
        }
        let item = self.source.fetch(key);
        self.items.insert(key.clone(), item.clone());
        value(&item)
    }

    fn misses(&self) -> u64 {
        self.source.misses()
    }
}

pub(crate) struct Moka {
    source: Behind,
    items: moka::sync::Cache<Pair, Item<u64>, Hasher>,
}

impl Cache for Moka {
    const NAME: &'static str = "moka";

    fn new(source: Source, capacity: usize) -> Self {
        let items = moka::sync::Cache::builder()
            .max_capacity(capacity as u64)
            .build_with_hasher(Hasher::default());
        Moka {
            source: Behind::new(source),
            items,
        }
    }

    fn get(&self, key: &Pair) -> u64 {
        if let Some(item) = self.items.get(key) {
            return value(&item);
        }
        let item = self.source.fetch(key);
        self.items.insert(key.clone(), item.clone());
        value(&item)
    }

    fn misses(&self) -> u64 {
        self.source.misses()
    }
}
