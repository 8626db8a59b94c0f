//! The database in memory: picks stripes, takes their mutexes in order, nothing else.
//!
//! # Lock order
//!
//! 1. A call that needs several stripes takes the mutex of each once, in ascending order. There is
//!    no other lock.
//! 2. While it holds any, it runs no code of a caller: no `Drop`, `Clone` or `Debug` of data and no
//!    clock. Cloning an item is a reference count. What is replaced or removed goes into a
//!    [`RemovedRows`] that is declared before the guards, and so dropped after them. The clock is asked
//!    before the first mutex is taken.
//! 3. Checking and writing happen under the same guards.

mod order;
mod stripe;
mod sweeper;

pub use sweeper::Sweeper;

use crate::batch::Writes;
use crate::hash::KeyHasher;
use crate::sync::{Arc, Mutex, MutexGuard, thread};
use crate::{
    AtomicDb, Batch, Clock, Error, Item, Key, Lock, Page, Query, Result, SystemClock, Version,
    VersionGenerator,
};
use smallvec::SmallVec;
use std::fmt;
use std::marker::PhantomData;
use stripe::{Address, MAX_ROWS, NoLock, RemovedRows, Stripe, stripe_of};

/// A database in memory, for tests, tools and caches. It holds any data, without serializing it.
///
/// A handle: clones are handles to the same data, which goes when the last of them does.
///
/// # What it promises
///
/// All of [`AtomicDb`]'s contract. Any text is a key, of any length, the empty one included. One
/// [`query`](AtomicDb::query), one [`get_many`](AtomicDb::get_many) and one
/// [`page`](AtomicDb::page) each see one instant; a [`stream`](AtomicDb::stream) sees one instant
/// per page. No call copies data, and those allocate nothing: a [`get`](AtomicDb::get), a
/// [`get_lock`](AtomicDb::get_lock) of a live lock, and a [`set_atomic`](AtomicDb::set_atomic) of up
/// to four existing items under up to four locks.
///
/// # What it costs
///
/// Partitions are spread over stripes, each under a mutex of its own, and a partition lies wholly in
/// one: calls on different partitions seldom meet, and what is hot is best spread over several. A
/// point read costs the same in a partition of one
/// item and of a million. A [`query`](AtomicDb::query) holds its stripe's mutex for as long as it
/// takes to count a reference to each item; read a large partition with
/// [`stream`](AtomicDb::stream), which holds it for a page at a time.
///
/// What has expired is dropped when a call meets it, by
/// [`purge_expired`](MemoryDb::purge_expired), and by a [`Sweeper`]. Until then it takes memory and
/// is not seen.
///
/// ```
/// use atomic_db::{AtomicDb, Item, Key, MemoryDb};
///
/// let db = MemoryDb::new();
/// db.set(&[Item::new("user#1", "name", "Ada")])?;
///
/// let other_handle = db.clone();
/// let item = other_handle.get(Key::new("user#1", "name"))?;
/// assert_eq!(item.and_then(Item::into_data), Some("Ada"));
/// # Ok::<(), atomic_db::Error>(())
/// ```
pub struct MemoryDb<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    /// A power of two of them.
    stripes: Box<[Line<Mutex<Stripe<T>>>]>,
    hasher: KeyHasher,
    versions: VersionGenerator,
    clock: Arc<dyn Clock>,
}

/// A cache line of its own, so that threads at work on neighbouring stripes do not slow each other.
/// 128 bytes, for processors that fetch lines in pairs.
#[repr(align(128))]
struct Line<M>(M);

type Guard<'a, T> = MutexGuard<'a, Stripe<T>>;

/// The most items of one page: enough to make the mutex cheap, few enough to hold it briefly.
const PAGE: usize = 256;

/// How many expired rows are removed under one hold of a mutex.
const PURGE: usize = 256;

impl<T> MemoryDb<T> {
    /// An empty database with the defaults of [`MemoryDbBuilder`].
    #[must_use]
    pub fn new() -> Self {
        MemoryDb::builder().build()
    }

    /// A database with a clock, a number of stripes or a capacity of your own.
    #[must_use]
    pub fn builder() -> MemoryDbBuilder<T> {
        MemoryDbBuilder::new()
    }

    /// How many live items there are, at one instant. Locks do not count. Expired items are dropped
    /// on the way.
    #[must_use]
    pub fn len(&self) -> usize {
        // Bit by bit at first: under all mutexes at once there is little left to drop.
        self.purge_expired();
        let now = self.now();
        let mut removed = RemovedRows::new();
        let mut stripes = self.lock_all();
        for stripe in &mut stripes {
            stripe.remove_expired(now, usize::MAX, &mut removed);
        }
        stripes.iter().map(|stripe| stripe.items()).sum()
    }

    /// Whether there is no live item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops all items and locks that have expired, and returns how many these were.
    ///
    /// The cost is in proportion to what has expired, not to what is stored. Each stripe's mutex is
    /// held for a few hundred of them at a time.
    ///
    /// ```
    /// use atomic_db::{AtomicDb, Item, ManualClock, MemoryDb};
    ///
    /// let clock = ManualClock::new(1_000);
    /// let db = MemoryDb::builder().clock(clock.clone()).build();
    /// db.set(&[Item::new("session", "a", ()).with_ttl(1_500), Item::new("session", "b", ())])?;
    /// clock.set(1_501);
    /// assert_eq!(db.purge_expired(), 1);
    /// assert_eq!(db.len(), 1);
    /// # Ok::<(), atomic_db::Error>(())
    /// ```
    pub fn purge_expired(&self) -> usize {
        let now = self.now();
        let mut count = 0;
        for stripe in &self.shared.stripes {
            loop {
                let mut removed = RemovedRows::new();
                let some = stripe.0.lock().remove_expired(now, PURGE, &mut removed);
                count += some;
                if some < PURGE {
                    break;
                }
            }
        }
        count
    }

    fn now(&self) -> u64 {
        self.shared.clock.epoch_seconds()
    }

    fn address(&self, key: Key<'_>) -> Address {
        Address::new(&self.shared.hasher, key, self.shared.stripes.len())
    }

    fn lock_stripe(&self, stripe: usize) -> Guard<'_, T> {
        self.shared.stripes[stripe].0.lock()
    }

    fn lock_all(&self) -> Vec<Guard<'_, T>> {
        let stripes = self.shared.stripes.iter();
        stripes.map(|stripe| stripe.0.lock()).collect()
    }

    /// Locks the stripes of all `addresses`, each once, ascending.
    fn lock_stripes(&self, addresses: &[Address]) -> Stripes<'_, T> {
        let mut numbers: SmallVec<[usize; 8]> = addresses.iter().map(|at| at.stripe).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let guards = numbers.iter().map(|number| self.lock_stripe(*number));
        Stripes {
            guards: guards.collect(),
            numbers,
        }
    }

    /// The one instant at which `writes` are judged and happen.
    fn apply(&self, writes: &Writes<'_, T>) -> Result<Version> {
        writes.validate()?;
        let now = self.shared.clock.now();
        let seconds = now.as_secs();
        let addresses: SmallVec<[Address; 8]> =
            writes.keys().map(|key| self.address(key)).collect();
        // In the order of `Writes::keys`.
        let (locks, items) = addresses.split_at(writes.locks.len() + writes.checks.len());
        let (sets, items) = items.split_at(writes.sets.len());
        let (creates, deletes) = items.split_at(writes.creates.len());

        let mut removed = RemovedRows::new();
        let mut stripes = self.lock_stripes(&addresses);

        let mut lost = Vec::new();
        let mut renewed: SmallVec<[u32; 8]> = SmallVec::new();
        for (at, lock) in locks.iter().zip(writes.locks.iter().chain(writes.checks)) {
            match stripes.of(at).unchanged(at, lock, seconds) {
                Some(row) => renewed.push(row),
                None => lost.push(lock.key().to_buf()),
            }
        }
        if !lost.is_empty() {
            return Err(Error::RaceCondition { keys: lost });
        }
        for (at, item) in creates.iter().zip(writes.creates) {
            if stripes.of(at).has_item(at, item.key(), seconds) {
                let key = item.key().to_buf();
                return Err(Error::AlreadyExists { key });
            }
        }
        for stripe in &stripes.guards {
            has_room(stripe, sets.len() + creates.len())?;
        }

        let version = self.shared.versions.next(now);
        for ((at, row), _) in locks.iter().zip(renewed).zip(writes.locks) {
            stripes.of(at).renew(row, version);
        }
        let items = sets
            .iter()
            .zip(writes.sets)
            .chain(creates.iter().zip(writes.creates));
        for (at, item) in items {
            stripes.of(at).put(at, item.clone(), &mut removed);
        }
        for (at, key) in deletes.iter().zip(writes.deletes) {
            stripes.of(at).remove(at, key.as_key(), &mut removed);
        }
        Ok(version)
    }

    /// What `query` asks for at one instant, at most `max` items of it.
    fn select(&self, query: &Query, after: Option<&str>, max: usize) -> Page<T> {
        if max == 0 {
            return Page {
                items: Vec::new(),
                next: None,
            };
        }
        let now = self.now();
        let partition = self.shared.hasher.partition(query.pk());
        let stripe = stripe_of(partition, self.shared.stripes.len());
        let after = after.or(query.start_after());
        let mut removed = RemovedRows::new();
        let mut stripe = self.lock_stripe(stripe);
        let (items, more) = stripe.select(partition, query, after, max, now, &mut removed);
        drop(stripe);
        let last = items.last().filter(|_| more);
        Page {
            next: last.map(|item| item.sk().to_owned()),
            items,
        }
    }
}

/// # Errors
///
/// [`Error::Backend`] if `more` rows are too many for the stripe.
fn has_room<T>(stripe: &Stripe<T>, more: usize) -> Result<()> {
    match stripe.has_room(more) {
        true => Ok(()),
        false => Err(full()),
    }
}

fn full() -> Error {
    let most = MAX_ROWS;
    Error::Backend(format!("a stripe holds at most {most} items and locks").into())
}

/// Several stripes, locked.
struct Stripes<'a, T> {
    /// Ascending.
    numbers: SmallVec<[usize; 8]>,
    guards: SmallVec<[Guard<'a, T>; 8]>,
}

impl<T> Stripes<'_, T> {
    /// The stripe of an address that was given when they were locked.
    fn of(&mut self, at: &Address) -> &mut Stripe<T> {
        let position = self.numbers.partition_point(|number| *number < at.stripe);
        &mut self.guards[position]
    }
}

impl<T> AtomicDb for MemoryDb<T> {
    type Data = T;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        let at = self.address(key);
        let found = self.lock_stripe(at.stripe).item(&at, key);
        // The clock is asked only for items that can expire, and after unlocking.
        match found {
            Some(item) if item.ttl().is_some() && !item.is_live(self.now()) => {}
            found => return Ok(found),
        }
        // Expired, but a live item may have replaced it by now. The second look is judged at a time
        // before it, so its answer is right for as long as it holds the mutex.
        let now = self.now();
        let mut removed = RemovedRows::new();
        let mut stripe = self.lock_stripe(at.stripe);
        Ok(stripe.live_item(&at, key, now, &mut removed))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.get(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        let now = self.now();
        let addresses: SmallVec<[Address; 8]> = keys.iter().map(|key| self.address(*key)).collect();
        let mut removed = RemovedRows::new();
        let mut stripes = self.lock_stripes(&addresses);
        let items = addresses.iter().zip(keys);
        Ok(items
            .map(|(at, key)| stripes.of(at).live_item(at, *key, now, &mut removed))
            .collect())
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let now = self.shared.clock.now();
        let at = self.address(key);
        let version = || self.shared.versions.next(now);
        let mut removed = RemovedRows::new();
        let mut stripe = self.lock_stripe(at.stripe);
        match stripe.lock(&at, key, now.as_secs(), version, &mut removed) {
            Ok(lock) => Ok(lock),
            Err(NoLock::Room) => Err(full()),
            Err(NoLock::Item) => Err(Error::InvalidInput(format!(
                "an item is at {key}: a lock lives beside the data, under a key of its own"
            ))),
        }
    }

    fn set(&self, items: &[Item<T>]) -> Result<()> {
        for item in items {
            let at = self.address(item.key());
            let mut removed = RemovedRows::new();
            let mut stripe = self.lock_stripe(at.stripe);
            has_room(&stripe, 1)?;
            stripe.put(&at, item.clone(), &mut removed);
        }
        Ok(())
    }

    fn commit(&self, batch: &Batch<T>) -> Result<Version> {
        self.apply(&batch.writes())
    }

    fn set_atomic(&self, items: &[Item<T>], locks: &[Lock]) -> Result<Version> {
        self.apply(&Writes::guarded(items, locks)?)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        for key in keys {
            let at = self.address(*key);
            let mut removed = RemovedRows::new();
            self.lock_stripe(at.stripe).remove(&at, *key, &mut removed);
        }
        Ok(())
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<T>> {
        let max = query.max_items().map_or(PAGE, |limit| limit.min(PAGE));
        Ok(self.select(query, after, max))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<T>>> {
        let max = query.max_items().unwrap_or(usize::MAX);
        Ok(self.select(query, None, max).items)
    }
}

impl<T> Clone for MemoryDb<T> {
    fn clone(&self) -> Self {
        MemoryDb {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Default for MemoryDb<T> {
    fn default() -> Self {
        MemoryDb::new()
    }
}

/// Shows how the database is set up, and none of its data.
impl<T> fmt::Debug for MemoryDb<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDb")
            .field("stripes", &self.shared.stripes.len())
            .field("clock", &self.shared.clock)
            .finish_non_exhaustive()
    }
}

/// Sets up a [`MemoryDb`].
///
/// # Defaults
///
/// Eight stripes per core, no capacity set aside, the [`SystemClock`].
///
/// ```
/// use atomic_db::{ManualClock, MemoryDb};
///
/// let db: MemoryDb<String> = MemoryDb::builder()
///     .stripes(64)
///     .capacity(100_000)
///     .clock(ManualClock::new(1_700_000_000))
///     .build();
/// assert!(db.is_empty());
/// ```
#[derive(Debug)]
pub struct MemoryDbBuilder<T> {
    stripes: Option<usize>,
    capacity: usize,
    clock: Arc<dyn Clock>,
    data: PhantomData<fn() -> T>,
}

impl<T> MemoryDbBuilder<T> {
    fn new() -> Self {
        MemoryDbBuilder {
            stripes: None,
            capacity: 0,
            clock: Arc::new(SystemClock),
            data: PhantomData,
        }
    }

    /// How many stripes the partitions are spread over, rounded up to a power of two, at least one
    /// and at most 65,536. More of them let more threads work at once; each takes some 400 bytes.
    #[must_use]
    pub fn stripes(mut self, stripes: usize) -> Self {
        self.stripes = Some(stripes);
        self
    }

    /// For how many items and locks to set memory aside. They may be fewer or more; where they are
    /// spread unevenly over the stripes, some stripes grow all the same.
    #[must_use]
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = items;
        self
    }

    /// The clock that times to live are judged by.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The database.
    #[must_use]
    pub fn build(self) -> MemoryDb<T> {
        const MOST: usize = 1 << 16;
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let stripes = self.stripes.unwrap_or_else(|| 8 * cores());
        let stripes = stripes.clamp(1, MOST).next_power_of_two();
        let hasher = KeyHasher::default();
        let capacity = self.capacity.div_ceil(stripes);
        let stripe = || Stripe::new(hasher.clone(), capacity, MAX_ROWS);
        MemoryDb {
            shared: Arc::new(Shared {
                stripes: (0..stripes).map(|_| Line(Mutex::new(stripe()))).collect(),
                versions: VersionGenerator::new(),
                clock: self.clock,
                hasher,
            }),
        }
    }
}
