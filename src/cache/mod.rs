//! The LRU cache in front of another database.
//!
//! - `mod.rs`: [`LruCache`], which selects shards, locks them, and calls the inner database.
//! - `builder.rs`: the options.
//! - `shard.rs`: the capacity of one shard, and the fills and writes that are in flight. It never sees
//!   a mutex, a clock or the inner database.
//! - `scan.rs`: reads all items, past the cache.
//! - `list.rs`: entries in the order of their last use, with a hash index.
//!
//! # Lock order
//!
//! A call holds at most one shard at a time. It holds none while it calls the inner database, asks
//! the clock or drops an item (guarantee 22). So neither order nor nesting of locks has to be
//! considered, not even those of the inner database.
//!
//! Fills and writes are guards, [`PendingFill`] and [`PendingWrite`], which end in the shard when they
//! are dropped. So they end even if the inner database fails or panics.

mod builder;
mod list;
mod scan;
mod shard;

pub use builder::LruCacheBuilder;

use crate::batch::BatchRef;
use crate::hash::KeyHasher;
use crate::sharding::{MAX_SHARDS, available_cores};
use crate::sync::{Arc, Mutex, MutexGuard};
use crate::{
    AtomicDb, Batch, Clock, Item, Key, Lock, Observer, Page, Query, Result, RetryQueue, Version,
};
use shard::{Lookup, RemovedItems, Shard, Ticket};
use smallvec::SmallVec;
use std::fmt;

/// Caches the most recently used items of another database.
///
/// This is a handle: clones share one cache. When the cache is full, the least recently used item is
/// evicted.
///
/// # Guarantees
///
/// - A read that starts after a write through this cache completed never returns an older value, even
///   when fills, writes, conflicts and failures overlap: the cache is linearizable per key. After a
///   write that failed, or whose outcome is unknown, its keys are not cached.
/// - [`get_many`](AtomicDb::get_many) is a snapshot if it is one in the inner database: if a cached
///   item changes while the others are fetched, all of them are read again.
/// - Locks, [`get_fresh`](AtomicDb::get_fresh), [`get_many_fresh`](AtomicDb::get_many_fresh),
///   [`query`](AtomicDb::query), [`page`](AtomicDb::page) and [`stream`](AtomicDb::stream) always
///   bypass the cache. Misses are not cached: there is no negative caching.
/// - Times to live are honoured, by the cache's own clock. Give it the clock of the inner database.
///
/// # Limits
///
/// Writes that bypass the cache, in this process or another, are not visible until the entry is
/// evicted. They can cause a stale read, but never a lost update, as long as updates read with
/// [`get_fresh`](AtomicDb::get_fresh) under a lock, as [`transact`](crate::AtomicDbExt::transact)
/// does.
///
/// ```
/// use atomic_db::{AtomicDb, Item, Key, LruCache, MemoryDb};
///
/// let db = LruCache::new(MemoryDb::new(), 1_000);
/// db.inner().set(&[Item::new("user#1", "name", "Ada")])?;
/// db.get(Key::new("user#1", "name"))?; // fetched
/// db.get(Key::new("user#1", "name"))?; // cached
///
/// let stats = db.stats();
/// assert_eq!((stats.hits, stats.misses, stats.entries), (1, 1, 1));
/// # Ok::<(), atomic_db::Error>(())
/// ```
pub struct LruCache<D: AtomicDb> {
    shared: Arc<CacheState<D>>,
}

struct CacheState<D: AtomicDb> {
    inner: D,
    /// Their number is a power of two.
    shards: Box<[Mutex<Shard<D::Data>>]>,
    hasher: KeyHasher,
    clock: Arc<dyn Clock>,
}

/// The counters of an [`LruCache`], and the number of its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CacheStats {
    /// Items that were read from the cache.
    pub hits: u64,
    /// Keys that were read from the inner database, because they were not cached.
    pub misses: u64,
    /// Items that were removed because the cache was full.
    pub evictions: u64,
    /// Items that are cached now.
    pub entries: usize,
}

/// By default, a cache has no shards with a smaller capacity.
const MIN_SHARD_CAPACITY: usize = 1_024;

impl<D: AtomicDb> LruCache<D> {
    /// Creates a cache of at most `capacity` items in front of `db`. With a capacity of zero nothing
    /// is cached.
    #[must_use]
    pub fn new(db: D, capacity: usize) -> Self {
        LruCache::builder(db).capacity(capacity).build()
    }

    /// Returns a builder, which sets the capacity, the number of shards and the clock.
    pub fn builder(db: D) -> LruCacheBuilder<D> {
        LruCacheBuilder::new(db)
    }

    /// Returns the inner database. Writes to it bypass the cache.
    #[must_use]
    pub fn inner(&self) -> &D {
        &self.shared.inner
    }

    /// Returns the counters of the cache. The shards are read one after another, so the counters are
    /// not a snapshot.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let mut stats = CacheStats::default();
        for shard in &self.shared.shards {
            let shard = shard.lock();
            let (hits, misses, evictions) = shard.counts();
            stats.hits += hits;
            stats.misses += misses;
            stats.evictions += evictions;
            stats.entries += shard.len();
        }
        stats
    }

    /// Removes `key` from the cache, so that the next read of it goes to the inner database.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, Item, Key, LruCache, MemoryDb};
    ///
    /// let db = LruCache::new(MemoryDb::new(), 1_000);
    /// db.set(&[Item::new("user#1", "name", "Ada")])?;
    /// db.inner().set(&[Item::new("user#1", "name", "Bob")])?;
    ///
    /// let key = Key::new("user#1", "name");
    /// assert_eq!(db.get(key)?.and_then(Item::into_data), Some("Ada"));
    /// db.invalidate(key);
    /// assert_eq!(db.get(key)?.and_then(Item::into_data), Some("Bob"));
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    pub fn invalidate(&self, key: Key<'_>) {
        let hash = self.shared.hasher.hash_key(key);
        let mut removed = RemovedItems::new();
        self.shard(hash).invalidate(hash, key, &mut removed);
    }

    /// Removes all items from the cache. The counters in [`stats`](LruCache::stats) are kept.
    pub fn clear(&self) {
        let mut removed = RemovedItems::new();
        for shard in &self.shared.shards {
            shard.lock().clear(&mut removed);
        }
    }

    #[inline]
    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard<D::Data>> {
        // A shard's own tables use the lowest and the highest bits of the hash.
        let number = (hash >> 32) as usize & (self.shared.shards.len() - 1);
        self.shared.shards[number].lock()
    }

    #[cold]
    fn get_or_fetch(&self, hash: u64, key: Key<'_>) -> Result<Option<Item<D::Data>>> {
        match self.get_or_fill(hash, key) {
            HitOrFill::Hit(item, _) => Ok(Some(item)),
            HitOrFill::Fill(fill) => {
                let item = self.shared.inner.get(key)?;
                fill.succeed(item.clone());
                Ok(item)
            }
        }
    }

    /// Returns the live cached item at `key`, or begins a fill.
    fn get_or_fill(&self, hash: u64, key: Key<'_>) -> HitOrFill<'_, D> {
        let lookup = self.shard(hash).lookup(hash, key);
        match lookup {
            Lookup::Miss(ticket) => HitOrFill::Fill(PendingFill::new(self, ticket)),
            // The clock is asked only for items that can expire, and after unlocking.
            Lookup::Hit(item, generation)
                if item.ttl().is_none() || item.is_live(self.shared.clock.epoch_seconds()) =>
            {
                HitOrFill::Hit(item, HitToken { hash, generation })
            }
            Lookup::Hit(expired, generation) => {
                let mut removed = RemovedItems::new();
                let ticket = self
                    .shard(hash)
                    .discard_expired(hash, key, generation, &mut removed);
                let fill = PendingFill::new(self, ticket);
                // If one of these panics, dropping `fill` ends it.
                drop(removed);
                drop(expired);
                HitOrFill::Fill(fill)
            }
        }
    }

    /// Runs `op`, which writes to the inner database: the given item at each of `keys`, or no item
    /// where it is `None`. The items are cached afterwards if `op` succeeded.
    fn write<'k, R>(
        &self,
        keys: impl Iterator<Item = (Key<'k>, Option<&'k Item<D::Data>>)>,
        op: impl FnOnce(&D) -> Result<R>,
    ) -> Result<R>
    where
        D::Data: 'k,
    {
        let begun = keys.map(|(key, item)| PendingWrite::begin(self, key, item.cloned()));
        let writes: SmallVec<[PendingWrite<'_, D>; 4]> = begun.collect();
        let result = op(&self.shared.inner)?;
        writes.into_iter().for_each(PendingWrite::succeed);
        Ok(result)
    }

    fn apply(
        &self,
        writes: &BatchRef<'_, D::Data>,
        op: impl FnOnce(&D) -> Result<Version>,
    ) -> Result<Version> {
        let items = writes.sets.iter().chain(writes.creates);
        let deletes = writes.deletes.iter().map(|key| (key.as_key(), None));
        self.write(items.map(key_and_item).chain(deletes), op)
    }
}

fn key_and_item<T>(item: &Item<T>) -> (Key<'_>, Option<&Item<T>>) {
    (item.key(), Some(item))
}

/// A live cached item, or a fill that has begun.
enum HitOrFill<'a, D: AtomicDb> {
    Hit(Item<D::Data>, HitToken),
    Fill(PendingFill<'a, D>),
}

/// Identifies a hit, to check later whether the entry is still cached.
struct HitToken {
    hash: u64,
    generation: u64,
}

/// A read of the inner database that is in flight.
struct PendingFill<'a, D: AtomicDb> {
    cache: &'a LruCache<D>,
    /// `None` once it has ended.
    ticket: Option<Ticket>,
}

impl<'a, D: AtomicDb> PendingFill<'a, D> {
    fn new(cache: &'a LruCache<D>, ticket: Ticket) -> Self {
        PendingFill {
            cache,
            ticket: Some(ticket),
        }
    }

    fn succeed(mut self, item: Option<Item<D::Data>>) {
        self.end(item);
    }

    fn end(&mut self, item: Option<Item<D::Data>>) {
        if let Some(ticket) = self.ticket.take() {
            let mut removed = RemovedItems::new();
            let mut shard = self.cache.shard(ticket.hash());
            shard.end_fill(ticket, item, &mut removed);
        }
    }
}

impl<D: AtomicDb> Drop for PendingFill<'_, D> {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// A write to the inner database that is in flight.
struct PendingWrite<'a, D: AtomicDb> {
    cache: &'a LruCache<D>,
    /// `None` once it has ended.
    ticket: Option<Ticket>,
    item: Option<Item<D::Data>>,
}

impl<'a, D: AtomicDb> PendingWrite<'a, D> {
    fn begin(cache: &'a LruCache<D>, key: Key<'_>, item: Option<Item<D::Data>>) -> Self {
        let hash = cache.shared.hasher.hash_key(key);
        let mut removed = RemovedItems::new();
        let ticket = cache.shard(hash).begin_write(hash, key, &mut removed);
        let write = PendingWrite {
            cache,
            ticket: Some(ticket),
            item,
        };
        // If this panics, dropping `write` ends it.
        drop(removed);
        write
    }

    fn succeed(mut self) {
        let item = self.item.take();
        self.end(item);
    }

    fn end(&mut self, item: Option<Item<D::Data>>) {
        if let Some(ticket) = self.ticket.take() {
            let mut removed = RemovedItems::new();
            let mut shard = self.cache.shard(ticket.hash());
            shard.end_write(ticket, item, &mut removed);
        }
    }
}

impl<D: AtomicDb> Drop for PendingWrite<'_, D> {
    fn drop(&mut self) {
        self.end(None);
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: AtomicDb> AtomicDb for LruCache<D> {
    type Data = D::Data;

    #[inline]
    fn get(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        let hash = self.shared.hasher.hash_key(key);
        let hit = self.shard(hash).get_fast(hash, &key);
        match hit {
            Some(item) => Ok(Some(item)),
            None => self.get_or_fetch(hash, key),
        }
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<Self::Data>>> {
        self.shared.inner.get_fresh(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
        let mut items = Vec::with_capacity(keys.len());
        let mut hits: SmallVec<[(Key<'_>, HitToken); 8]> = SmallVec::new();
        let mut fills: SmallVec<[(usize, PendingFill<'_, D>); 4]> = SmallVec::new();
        let mut missing: SmallVec<[Key<'_>; 8]> = SmallVec::new();
        for (index, key) in keys.iter().enumerate() {
            let hash = self.shared.hasher.hash_key(*key);
            items.push(match self.get_or_fill(hash, *key) {
                HitOrFill::Hit(item, token) => {
                    hits.push((*key, token));
                    Some(item)
                }
                HitOrFill::Fill(fill) => {
                    fills.push((index, fill));
                    missing.push(*key);
                    None
                }
            });
        }
        let fetched = if missing.is_empty() {
            Vec::new()
        } else {
            self.shared.inner.get_many(&missing)?
        };
        // Entries that were cached both before and after the fetch were valid when it ran, so the
        // result is a snapshot. This is checked before the fills are stored, which may evict the
        // entries. A single key needs no check.
        let still_cached = |(key, token): &(Key<'_>, HitToken)| {
            let shard = self.shard(token.hash);
            shard.is_current(token.hash, *key, token.generation)
        };
        let is_snapshot = keys.len() == 1 || hits.iter().all(still_cached);
        for ((index, fill), item) in fills.into_iter().zip(fetched) {
            fill.succeed(item.clone());
            items[index] = item;
        }
        if is_snapshot {
            Ok(items)
        } else {
            self.shared.inner.get_many(keys)
        }
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<Self::Data>>>> {
        self.shared.inner.get_many_fresh(keys)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let lock = self.shared.inner.get_lock(key)?;
        // The key of a lock has no item (guarantee 4), even if the item that it had is live by this
        // cache's own clock. After the call, because a fill may store that item until then.
        self.invalidate(key);
        Ok(lock)
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        let locks = self.shared.inner.get_locks(keys)?;
        // As in `get_lock`.
        for key in keys {
            self.invalidate(*key);
        }
        Ok(locks)
    }

    fn set(&self, items: &[Item<Self::Data>]) -> Result<()> {
        self.write(items.iter().map(key_and_item), |inner| inner.set(items))
    }

    fn commit(&self, batch: &Batch<Self::Data>) -> Result<Version> {
        self.apply(&batch.as_batch_ref(), |inner| inner.commit(batch))
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        let deletes = keys.iter().map(|key| (*key, None));
        self.write(deletes, |inner| inner.delete(keys))
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<Self::Data>> {
        self.shared.inner.page(query, after)
    }

    fn set_atomic(&self, items: &[Item<Self::Data>], locks: &[Lock]) -> Result<Version> {
        let written = items.iter().map(key_and_item);
        self.write(written, |inner| inner.set_atomic(items, locks))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<Self::Data>>> {
        self.shared.inner.query(query)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Self::Data>>> {
        self.shared.inner.stream(query)
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        self.shared.inner.retry_queue()
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        self.shared.inner.transaction_observer()
    }
}

impl<D: AtomicDb> Clone for LruCache<D> {
    fn clone(&self) -> Self {
        LruCache {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// Shows the configuration and the inner database, and none of the items.
impl<D: AtomicDb + fmt::Debug> fmt::Debug for LruCache<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LruCache")
            .field("inner", &self.shared.inner)
            .field("shards", &self.shared.shards.len())
            .field("clock", &self.shared.clock)
            .finish_non_exhaustive()
    }
}

impl<D: AtomicDb> LruCacheBuilder<D> {
    /// Creates the cache.
    #[must_use]
    pub fn build(self) -> LruCache<D> {
        let shards = match self.shards {
            Some(shards) => shards.clamp(1, MAX_SHARDS).next_power_of_two(),
            None => {
                let fitting = self.capacity / MIN_SHARD_CAPACITY;
                prev_power_of_two((4 * available_cores()).min(fitting))
            }
        };
        let shards = shards.min(prev_power_of_two(self.capacity));
        let (each, rest) = (self.capacity / shards, self.capacity % shards);
        let capacities = (0..shards).map(|number| each + usize::from(number < rest));
        LruCache {
            shared: Arc::new(CacheState {
                shards: capacities
                    .map(|capacity| Mutex::new(Shard::new(capacity)))
                    .collect(),
                hasher: KeyHasher::default(),
                inner: self.inner,
                clock: self.clock,
            }),
        }
    }
}

/// Returns the largest power of two that is at most `max`, or one.
fn prev_power_of_two(max: usize) -> usize {
    1 << max.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_timeout;
    use crate::{ManualClock, MemoryDb};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    const KEY: Key<'static> = Key::new("pk", "sk");
    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn a_fill_or_a_write_that_is_dropped_is_no_longer_in_flight() {
        with_timeout(TIMEOUT, |_| {
            let cache = LruCache::new(MemoryDb::<u32>::new(), 10);
            let hash = cache.shared.hasher.hash_key(KEY);
            let in_flight = || cache.shard(hash).in_flight_count();
            let HitOrFill::Fill(fill) = cache.get_or_fill(hash, KEY) else {
                panic!("an item is cached");
            };
            assert_eq!(in_flight(), 1);
            drop(fill);
            assert_eq!(in_flight(), 0);
            let write = PendingWrite::begin(&cache, KEY, None);
            assert_eq!(in_flight(), 1);
            drop(write);
            assert_eq!(in_flight(), 0);
        });
    }

    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn a_fill_is_no_longer_in_flight_if_the_drop_of_an_expired_item_panics() {
        with_timeout(TIMEOUT, |_| {
            let clock = ManualClock::new(1_000);
            let cache = LruCache::builder(MemoryDb::new())
                .clock(clock.clone())
                .build();
            let item = Item::new(KEY.pk, KEY.sk, PanicsOnDrop).expires_at(u64::MAX - 1);
            cache.set(&[item]).unwrap();
            // The cache has the last handle.
            cache.inner().delete(&[KEY]).unwrap();
            clock.set(u64::MAX);
            let got = catch_unwind(AssertUnwindSafe(|| cache.get(KEY).is_ok()));
            assert!(got.is_err());
            assert_eq!(
                cache
                    .shard(cache.shared.hasher.hash_key(KEY))
                    .in_flight_count(),
                0
            );
        });
    }

    #[test]
    fn default_shard_count_of_a_large_cache_is_four_per_core() {
        let cores = available_cores();
        let builder = LruCache::builder(MemoryDb::<u32>::new());
        let cache = builder.capacity(1 << 30).build();
        let shards = cache.shared.shards.len();
        assert!(shards.is_power_of_two());
        assert!(shards <= 4 * cores && 4 * cores < 2 * shards);
    }

    #[test]
    fn capacity_is_fully_distributed_and_no_shard_is_empty() {
        with_timeout(TIMEOUT, |_| {
            for (capacity, shards, expected) in [
                (0, Some(8), 1),
                (1, Some(8), 1),
                (3, Some(8), 2),
                (7, Some(3), 4),
                (100, Some(0), 1),
                (2_047, None, 1),
            ] {
                let mut builder = LruCache::builder(MemoryDb::<u32>::new()).capacity(capacity);
                if let Some(shards) = shards {
                    builder = builder.shards(shards);
                }
                let cache = builder.build();
                assert_eq!(
                    cache.shared.shards.len(),
                    expected,
                    "{capacity}, {shards:?}"
                );
                for number in 0..200 * expected {
                    let sk = number.to_string();
                    cache.set(&[Item::new("pk", sk, 0)]).unwrap();
                }
                assert_eq!(cache.stats().entries, capacity.min(200 * expected));
            }
        });
    }
}
