//! The cache: picks shards, takes one mutex at a time, and asks the database behind while it holds
//! none.
//!
//! Everything that begins in a shard ends there, also if the database behind panics: a [`Fill`] and
//! a [`Writing`] end themselves when they are dropped.

mod list;
mod shard;

use crate::batch::BatchRef;
use crate::hash::KeyHasher;
use crate::sharding::{MAX_SHARDS, available_cores};
use crate::sync::{Arc, Mutex, MutexGuard};
use crate::{AtomicDb, Batch, Clock, Item, Key, Lock, Page, Query, Result, SystemClock, Version};
use shard::{DroppedItems, Look, Shard, Ticket};
use smallvec::SmallVec;
use std::fmt;

/// Keeps the most recently used items of another database at hand.
///
/// A handle: clones share one cache. When it is full, the least recently used item leaves.
///
/// # What it promises
///
/// - A read that starts after a write through this cache has finished never returns what was there
///   before it, also when fills, writes, races and failures overlap (it is linearizable per key).
///   After a write that failed, or whose outcome is unknown, its keys are not cached.
/// - [`get_many`](AtomicDb::get_many) through it sees one instant if it does so in the database
///   behind: should items that were at hand change while the others are fetched, all are read anew.
/// - Locks, [`get_fresh`](AtomicDb::get_fresh), [`query`](AtomicDb::query),
///   [`page`](AtomicDb::page) and [`stream`](AtomicDb::stream) always go to the database behind.
///   Absent items are not remembered.
/// - Times to live are honoured, by the cache's own clock: give it the one of the database behind.
///
/// # What it does not promise
///
/// Writers that go round it, in this process or another, are not seen until the item leaves the
/// cache. They can cause an old read, but never a lost update as long as updates read with
/// [`get_fresh`](AtomicDb::get_fresh) under a lock, as [`transact`](crate::AtomicDbExt::transact)
/// does.
///
/// ```
/// use atomic_db::{AtomicDb, Item, Key, LruCache, MemoryDb};
///
/// let db = LruCache::new(MemoryDb::new(), 1_000);
/// db.inner().set(&[Item::new("user#1", "name", "Ada")])?;
/// db.get(Key::new("user#1", "name"))?; // fetched
/// db.get(Key::new("user#1", "name"))?; // at hand
///
/// let stats = db.stats();
/// assert_eq!((stats.hits, stats.misses, stats.entries), (1, 1, 1));
/// # Ok::<(), atomic_db::Error>(())
/// ```
pub struct LruCache<D: AtomicDb> {
    shared: Arc<Shared<D>>,
}

struct Shared<D: AtomicDb> {
    inner: D,
    /// A power of two of them.
    shards: Box<[Mutex<Shard<D::Data>>]>,
    hasher: KeyHasher,
    clock: Arc<dyn Clock>,
}

/// What a cache has done so far, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Items that were answered from the cache.
    pub hits: u64,
    /// Items that were asked for and had to be looked for in the database behind.
    pub misses: u64,
    /// Items that left because the cache was full.
    pub evictions: u64,
    /// Items in the cache now.
    pub entries: usize,
}

impl<D: AtomicDb> LruCache<D> {
    /// A cache of at most `capacity` items in front of `db`. With a capacity of zero it caches
    /// nothing.
    #[must_use]
    pub fn new(db: D, capacity: usize) -> Self {
        LruCache::builder(db).capacity(capacity).build()
    }

    /// A cache with shards or a clock of your own.
    #[must_use]
    pub fn builder(db: D) -> LruCacheBuilder<D> {
        LruCacheBuilder::new(db)
    }

    /// The database behind. Writing to it directly goes round the cache.
    #[must_use]
    pub fn inner(&self) -> &D {
        &self.shared.inner
    }

    /// What the cache has done so far. The shards are read one after another.
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

    /// Forgets the item at `key`, so that the next read of it asks the database behind.
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
        let mut removed = DroppedItems::new();
        self.shard(hash).invalidate(hash, key, &mut removed);
    }

    /// Forgets everything. The counts in [`stats`](LruCache::stats) go on.
    pub fn clear(&self) {
        let mut removed = DroppedItems::new();
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
        match self.look(hash, key) {
            Found::Hit(item, _) => Ok(Some(item)),
            Found::Miss(fill) => {
                let item = self.shared.inner.get(key)?;
                fill.succeed(item.clone());
                Ok(item)
            }
        }
    }

    /// What is at hand for `key`, live, and else a fill that has begun.
    fn look(&self, hash: u64, key: Key<'_>) -> Found<'_, D> {
        let look = self.shard(hash).look(hash, key);
        match look {
            Look::Miss(ticket) => Found::Miss(Fill::of(self, ticket)),
            // The clock is asked only for items that can expire, and after unlocking.
            Look::Hit(item, stamp)
                if item.ttl().is_none() || item.is_live(self.shared.clock.epoch_seconds()) =>
            {
                Found::Hit(item, Standing { hash, stamp })
            }
            Look::Hit(expired, stamp) => {
                let mut removed = DroppedItems::new();
                let ticket = self.shard(hash).look_past(hash, key, stamp, &mut removed);
                let fill = Fill::of(self, ticket);
                // The fill ends itself should one of these panic.
                drop(removed);
                drop(expired);
                Found::Miss(fill)
            }
        }
    }

    /// Runs `act`, which writes each of `keys` in the database behind: the item that goes with it,
    /// or none. What it wrote is at hand afterwards if it succeeded.
    fn write<'k, R>(
        &self,
        keys: impl Iterator<Item = (Key<'k>, Option<&'k Item<D::Data>>)>,
        act: impl FnOnce(&D) -> Result<R>,
    ) -> Result<R>
    where
        D::Data: 'k,
    {
        let begun = keys.map(|(key, item)| Writing::begin(self, key, item.cloned()));
        let writing: SmallVec<[Writing<'_, D>; 4]> = begun.collect();
        let result = act(&self.shared.inner)?;
        writing.into_iter().for_each(Writing::succeed);
        Ok(result)
    }

    fn apply(
        &self,
        writes: &BatchRef<'_, D::Data>,
        act: impl FnOnce(&D) -> Result<Version>,
    ) -> Result<Version> {
        let items = writes.sets.iter().chain(writes.creates);
        let deletes = writes.deletes.iter().map(|key| (key.as_key(), None));
        self.write(items.map(written).chain(deletes), act)
    }
}

fn written<T>(item: &Item<T>) -> (Key<'_>, Option<&Item<T>>) {
    (item.key(), Some(item))
}

/// What a look-up finds.
enum Found<'a, D: AtomicDb> {
    Hit(Item<D::Data>, Standing),
    Miss(Fill<'a, D>),
}

/// What it takes to find out whether a hit has stayed at hand since.
struct Standing {
    hash: u64,
    stamp: u64,
}

/// A read of the database behind that is under way.
struct Fill<'a, D: AtomicDb> {
    cache: &'a LruCache<D>,
    /// `None` once it has ended.
    ticket: Option<Ticket>,
}

impl<'a, D: AtomicDb> Fill<'a, D> {
    fn of(cache: &'a LruCache<D>, ticket: Ticket) -> Self {
        Fill {
            cache,
            ticket: Some(ticket),
        }
    }

    fn succeed(mut self, item: Option<Item<D::Data>>) {
        self.end(item);
    }

    fn end(&mut self, item: Option<Item<D::Data>>) {
        if let Some(ticket) = self.ticket.take() {
            let mut removed = DroppedItems::new();
            let mut shard = self.cache.shard(ticket.hash());
            shard.end_fill(ticket, item, &mut removed);
        }
    }
}

impl<D: AtomicDb> Drop for Fill<'_, D> {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// A write to the database behind that is under way.
struct Writing<'a, D: AtomicDb> {
    cache: &'a LruCache<D>,
    /// `None` once it has ended.
    ticket: Option<Ticket>,
    item: Option<Item<D::Data>>,
}

impl<'a, D: AtomicDb> Writing<'a, D> {
    fn begin(cache: &'a LruCache<D>, key: Key<'_>, item: Option<Item<D::Data>>) -> Self {
        let hash = cache.shared.hasher.hash_key(key);
        let mut removed = DroppedItems::new();
        let ticket = cache.shard(hash).begin_write(hash, key, &mut removed);
        let writing = Writing {
            cache,
            ticket: Some(ticket),
            item,
        };
        // The write ends itself should this panic.
        drop(removed);
        writing
    }

    fn succeed(mut self) {
        let item = self.item.take();
        self.end(item);
    }

    fn end(&mut self, item: Option<Item<D::Data>>) {
        if let Some(ticket) = self.ticket.take() {
            let mut removed = DroppedItems::new();
            let mut shard = self.cache.shard(ticket.hash());
            shard.end_write(ticket, item, &mut removed);
        }
    }
}

impl<D: AtomicDb> Drop for Writing<'_, D> {
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
        let hit = self.shard(hash).hit(hash, &key);
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
        let mut hits: SmallVec<[(Key<'_>, Standing); 8]> = SmallVec::new();
        let mut fills: SmallVec<[(usize, Fill<'_, D>); 4]> = SmallVec::new();
        let mut missing: SmallVec<[Key<'_>; 8]> = SmallVec::new();
        for (place, key) in keys.iter().enumerate() {
            let hash = self.shared.hasher.hash_key(*key);
            items.push(match self.look(hash, *key) {
                Found::Hit(item, standing) => {
                    hits.push((*key, standing));
                    Some(item)
                }
                Found::Miss(fill) => {
                    fills.push((place, fill));
                    missing.push(*key);
                    None
                }
            });
        }
        let fetched = match missing.is_empty() {
            true => Vec::new(),
            false => self.shared.inner.get_many(&missing)?,
        };
        // What has stood from before the fetch until after it was there at the fetch's instant; so
        // it is asked before the fills are stored and may evict it. A single answer needs no other
        // to agree with.
        let stands = |(key, standing): &(Key<'_>, Standing)| {
            let shard = self.shard(standing.hash);
            shard.stands(standing.hash, *key, standing.stamp)
        };
        let agree = keys.len() == 1 || hits.iter().all(stands);
        for ((place, fill), item) in fills.into_iter().zip(fetched) {
            fill.succeed(item.clone());
            items[place] = item;
        }
        match agree {
            true => Ok(items),
            false => self.shared.inner.get_many(keys),
        }
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let lock = self.shared.inner.get_lock(key)?;
        // Where a lock is, there is no item any more, whatever this cache's own clock says.
        self.invalidate(key);
        Ok(lock)
    }

    fn set(&self, items: &[Item<Self::Data>]) -> Result<()> {
        self.write(items.iter().map(written), |inner| inner.set(items))
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
        let written = items.iter().map(written);
        self.write(written, |inner| inner.set_atomic(items, locks))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<Self::Data>>> {
        self.shared.inner.query(query)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<Self::Data>>> {
        self.shared.inner.stream(query)
    }
}

impl<D: AtomicDb> Clone for LruCache<D> {
    fn clone(&self) -> Self {
        LruCache {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// Shows how the cache is set up and the database behind, and none of the items.
impl<D: AtomicDb + fmt::Debug> fmt::Debug for LruCache<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LruCache")
            .field("inner", &self.shared.inner)
            .field("shards", &self.shared.shards.len())
            .field("clock", &self.shared.clock)
            .finish_non_exhaustive()
    }
}

/// Sets up an [`LruCache`].
///
/// # Defaults
///
/// A capacity of 1,024 items, the [`SystemClock`], and as many shards as four per core, but none
/// with fewer than 1,024 items: up to 2,047 items there is one shard, and eviction is exactly least
/// recently used. With several, it is so within each.
///
/// ```
/// use atomic_db::{LruCache, ManualClock, MemoryDb};
///
/// let clock = ManualClock::new(1_700_000_000);
/// let db: MemoryDb<String> = MemoryDb::builder().clock(clock.clone()).build();
/// let cached = LruCache::builder(db).capacity(50_000).shards(1).clock(clock).build();
/// assert_eq!(cached.stats().entries, 0);
/// ```
#[derive(Debug)]
pub struct LruCacheBuilder<D> {
    inner: D,
    capacity: usize,
    shards: Option<usize>,
    clock: Arc<dyn Clock>,
}

impl<D: AtomicDb> LruCacheBuilder<D> {
    fn new(inner: D) -> Self {
        LruCacheBuilder {
            inner,
            capacity: 1_024,
            shards: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// How many items the cache holds at most, over all its shards. Zero caches nothing.
    #[must_use]
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = items;
        self
    }

    /// How many shards the items are spread over, each under a mutex of its own: rounded up to a
    /// power of two, but not more than there are items to hold. One makes eviction exactly least
    /// recently used over all items; more of them let more threads read at once.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// The clock that times to live are judged by: the one of the database behind.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The cache.
    #[must_use]
    pub fn build(self) -> LruCache<D> {
        const ROOMY: usize = 1_024;
        let shards = match self.shards {
            Some(shards) => shards.clamp(1, MAX_SHARDS).next_power_of_two(),
            None => power_of_two_within((4 * available_cores()).min(self.capacity / ROOMY)),
        };
        let shards = shards.min(power_of_two_within(self.capacity));
        let (each, rest) = (self.capacity / shards, self.capacity % shards);
        let capacities = (0..shards).map(|number| each + usize::from(number < rest));
        LruCache {
            shared: Arc::new(Shared {
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

/// The largest power of two that is at most `most`, or one.
fn power_of_two_within(most: usize) -> usize {
    1 << most.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ManualClock, MemoryDb};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    const KEY: Key<'static> = Key::new("pk", "sk");

    #[test]
    fn a_fill_or_a_write_that_is_given_up_leaves_no_mark() {
        let cache = LruCache::new(MemoryDb::<u32>::new(), 10);
        let hash = cache.shared.hasher.hash_key(KEY);
        let under_way = || cache.shard(hash).under_way();
        let Found::Miss(fill) = cache.look(hash, KEY) else {
            panic!("something is cached");
        };
        assert_eq!(under_way(), 1);
        drop(fill);
        assert_eq!(under_way(), 0);
        let writing = Writing::begin(&cache, KEY, None);
        assert_eq!(under_way(), 1);
        drop(writing);
        assert_eq!(under_way(), 0);
    }

    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn an_expired_item_whose_drop_panics_leaves_no_mark() {
        let clock = ManualClock::new(1_000);
        let cache = LruCache::builder(MemoryDb::new())
            .clock(clock.clone())
            .build();
        let item = Item::new(KEY.pk, KEY.sk, PanicsOnDrop).expires_at(u64::MAX - 1);
        cache.set(&[item]).unwrap();
        // The last handle is the cache's own.
        cache.inner().delete(&[KEY]).unwrap();
        clock.set(u64::MAX);
        let got = catch_unwind(AssertUnwindSafe(|| cache.get(KEY).is_ok()));
        assert!(got.is_err());
        assert_eq!(
            cache.shard(cache.shared.hasher.hash_key(KEY)).under_way(),
            0
        );
    }

    #[test]
    fn a_large_cache_has_four_shards_per_core_unless_told_otherwise() {
        let cores = available_cores();
        let builder = LruCache::builder(MemoryDb::<u32>::new());
        let cache = builder.capacity(1 << 30).build();
        let shards = cache.shared.shards.len();
        assert!(shards.is_power_of_two());
        assert!(shards <= 4 * cores && 4 * cores < 2 * shards);
    }

    #[test]
    fn the_capacity_is_shared_out_whole_and_no_shard_is_without() {
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
    }
}
