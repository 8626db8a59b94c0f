//! The caches that are compared: `LruCache` and its peers, each in front of the same database.

use crate::keys::Pair;
use crate::stores::Hasher;
use atomic_db::{AtomicDb, Item, Key, LruCache, MemoryDb};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

/// The database behind every cache.
pub(crate) type Source = MemoryDb<u64>;

fn at(pair: &Pair) -> Key<'_> {
    Key::new(&pair.pk, &pair.sk)
}

fn value(item: &Item<u64>) -> u64 {
    item.data().copied().unwrap_or(0)
}

/// The source of a peer. It counts the misses, as `LruCache` does.
struct CountingSource {
    source: Source,
    misses: AtomicU64,
}

impl CountingSource {
    fn new(source: Source) -> Self {
        CountingSource {
            source,
            misses: AtomicU64::new(0),
        }
    }

    fn fetch(&self, key: &Pair) -> Item<u64> {
        self.misses.fetch_add(1, Ordering::Relaxed);
        let item = self.source.get(at(key)).expect("a read succeeds");
        item.expect("the source has every requested key")
    }

    fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }
}

/// A cache under measurement.
pub(crate) trait Cache: Sync + Sized {
    const NAME: &'static str;

    /// Creates a cache of `capacity` items in front of `source`.
    fn new(source: Source, capacity: usize) -> Self;

    /// Returns the value of `key`, from the cache or from its source.
    fn get(&self, key: &Pair) -> u64;

    /// Returns the number of reads of the source.
    fn misses(&self) -> u64;
}

pub(crate) struct Lru(LruCache<Source>);

impl Cache for Lru {
    const NAME: &'static str = "LruCache";

    fn new(source: Source, capacity: usize) -> Self {
        Lru(LruCache::new(source, capacity))
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
    source: CountingSource,
    items: parking_lot::Mutex<lru::LruCache<Pair, Item<u64>, Hasher>>,
}

impl Cache for MutexLru {
    const NAME: &'static str = "Mutex<lru>";

    fn new(source: Source, capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity).expect("the capacity is not zero");
        let items = lru::LruCache::with_hasher(capacity, Hasher::default());
        MutexLru {
            source: CountingSource::new(source),
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

pub(crate) struct QuickCache {
    source: CountingSource,
    items: quick_cache::sync::Cache<Pair, Item<u64>, quick_cache::UnitWeighter, Hasher>,
}

impl Cache for QuickCache {
    const NAME: &'static str = "quick_cache";

    fn new(source: Source, capacity: usize) -> Self {
        let items = quick_cache::sync::Cache::with(
            capacity,
            capacity as u64,
            quick_cache::UnitWeighter,
            Hasher::default(),
            quick_cache::sync::DefaultLifecycle::default(),
        );
        QuickCache {
            source: CountingSource::new(source),
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
    source: CountingSource,
    items: moka::sync::Cache<Pair, Item<u64>, Hasher>,
}

impl Cache for Moka {
    const NAME: &'static str = "moka";

    fn new(source: Source, capacity: usize) -> Self {
        let items = moka::sync::Cache::builder()
            .max_capacity(capacity as u64)
            .build_with_hasher(Hasher::default());
        Moka {
            source: CountingSource::new(source),
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
