use crate::sync::Arc;
use crate::{Clock, SystemClock};

/// Configures an [`LruCache`](crate::LruCache).
///
/// # Defaults
///
/// A capacity of 1,024 items; the [`SystemClock`]; up to four shards per core, with at least 1,024
/// items each. So a cache of up to 2,047 items has one shard, and eviction is strictly
/// least-recently-used there. With several shards it is so within each.
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
#[must_use = "a builder does nothing until it builds a cache"]
pub struct LruCacheBuilder<D> {
    pub(super) inner: D,
    pub(super) capacity: usize,
    pub(super) shards: Option<usize>,
    pub(super) clock: Arc<dyn Clock>,
}

impl<D> LruCacheBuilder<D> {
    pub(super) fn new(inner: D) -> Self {
        LruCacheBuilder {
            inner,
            capacity: 1_024,
            shards: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// Sets the largest number of items in the cache, over all its shards. With a capacity of zero
    /// nothing is cached.
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = items;
        self
    }

    /// Sets the number of shards, each with a mutex of its own. It is rounded up to a power of two,
    /// but there are not more shards than the capacity. With one shard eviction is strictly
    /// least-recently-used over all items; more shards reduce contention between threads.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Sets the clock that decides which items have expired. It should be that of the inner database.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }
}
