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

use crate::batch::BatchRef;
use crate::error::item_at_lock_key;
use crate::hash::KeyHasher;
use crate::sharding::{MAX_SHARDS, available_cores};
use crate::sync::{Arc, Mutex, MutexGuard};
use crate::{
    AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, Page, Query, Result, SystemClock,
    Version, VersionGenerator,
};
use smallvec::SmallVec;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;
use stripe::{Address, Likely, MAX_ROWS, NoLock, RemovedRows, Stripe, stripe_of};

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
    /// db.set(&[Item::new("session", "a", ()).expires_at(1_500), Item::new("session", "b", ())])?;
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

    #[inline]
    fn address(&self, bytes: (&[u8], &[u8])) -> Address {
        Address::new(&self.shared.hasher, bytes, self.shared.stripes.len())
    }

    #[inline]
    fn step(&self, bytes: (&[u8], &[u8])) -> Step {
        Step {
            at: self.address(bytes),
            guard: 0,
            row: 0,
        }
    }

    #[inline]
    fn lock_stripe(&self, stripe: usize) -> Guard<'_, T> {
        self.shared.stripes[stripe].0.lock()
    }

    fn lock_all(&self) -> Vec<Guard<'_, T>> {
        let stripes = self.shared.stripes.iter();
        stripes.map(|stripe| stripe.0.lock()).collect()
    }

    /// The live item at `key`, of which [`Stripe::likely_item`] was no proof.
    #[cold]
    fn get_carefully(&self, at: &Address, key: Key<'_>, likely: Likely<T>) -> Option<Item<T>> {
        let now = self.now();
        match likely {
            Likely::Item(item) if item.has_key(key.bytes()) && item.is_live(now) => Some(item),
            // It has expired, but a live item may have replaced it by now; or another key has its hash.
            // The second look is judged at a time before it, so its answer is right for as long as it
            // holds the mutex.
            _ => {
                let mut removed = RemovedRows::new();
                let mut stripe = self.lock_stripe(at.stripe as usize);
                stripe.live_item(at, key, now, &mut removed)
            }
        }
    }

    /// The lock at `key`, made or refreshed if need be.
    #[cold]
    fn make_lock(&self, at: &Address, key: Key<'_>, now: Duration) -> Result<Lock> {
        let version = || self.shared.versions.next(now);
        let mut removed = RemovedRows::new();
        let mut stripe = self.lock_stripe(at.stripe as usize);
        match stripe.lock(at, key, now.as_secs(), version, &mut removed) {
            Ok(lock) => Ok(lock),
            Err(NoLock::Room) => Err(full()),
            Err(NoLock::Item) => Err(item_at_lock_key(key)),
        }
    }

    /// Locks the stripes of all `steps`, each once, ascending.
    fn lock_stripes(&self, steps: &mut [Step], order: &StripeOrder) -> Guards<'_, T> {
        let mut guards = Guards::new();
        let mut latest = None;
        for entry in order {
            let stripe = (entry >> 96) as usize;
            if latest != Some(stripe) {
                guards.push(self.lock_stripe(stripe));
                latest = Some(stripe);
            }
            steps[*entry as u64 as usize].guard = guards.len() - 1;
        }
        guards
    }

    /// The one instant at which `writes` are judged and happen.
    fn apply(&self, writes: &BatchRef<'_, T>) -> Result<Version> {
        let mut steps = Steps::new();
        // `for_each` walks a chain of iterators link by link; a loop would ask at each key which link
        // it is at.
        let step = |key: &KeyBuf| self.step(key.bytes());
        writes.keys().for_each(|key| steps.push(step(key)));
        let steps = steps.as_mut_slice();
        let order = stripe_order(steps);
        if share_hashes(&order) {
            writes.validate()?;
        }
        let now = self.shared.clock.now();
        let seconds = now.as_secs();

        let mut removed = RemovedRows::new();
        let mut guards = self.lock_stripes(steps, &order);
        let stripes = guards.as_mut_slice();
        // In the order of `Writes::keys`.
        let (locks, rest) = steps.split_at_mut(writes.locks.len());
        let (checks, rest) = rest.split_at(writes.checks.len());
        let (sets, rest) = rest.split_at(writes.sets.len());
        let (creates, deletes) = rest.split_at(writes.creates.len());

        let mut lost = Vec::new();
        for (step, lock) in locks.iter_mut().zip(writes.locks) {
            match stripes[step.guard].unchanged(&step.at, lock, seconds) {
                Some(row) => step.row = row,
                None => lost.push(lock.key().to_buf()),
            }
        }
        for (step, lock) in checks.iter().zip(writes.checks) {
            let row = stripes[step.guard].unchanged(&step.at, lock, seconds);
            if row.is_none() {
                lost.push(lock.key().to_buf());
            }
        }
        if !lost.is_empty() {
            return Err(Error::RaceCondition { keys: lost });
        }
        for (step, item) in creates.iter().zip(writes.creates) {
            if stripes[step.guard].has_item(&step.at, item.key(), seconds) {
                let key = item.key().to_buf();
                return Err(Error::AlreadyExists { key });
            }
        }
        for stripe in &*stripes {
            has_room(stripe, sets.len() + creates.len())?;
        }

        let version = self.shared.versions.next(now);
        for step in &*locks {
            stripes[step.guard].renew(step.row, version);
        }
        let mut put = |step: &Step, item: &Item<T>| {
            if let Some(old) = stripes[step.guard].put(&step.at, item.clone()) {
                removed.push(old);
            }
        };
        for (step, item) in sets.iter().zip(writes.sets) {
            put(step, item);
        }
        for (step, item) in creates.iter().zip(writes.creates) {
            put(step, item);
        }
        for (step, key) in deletes.iter().zip(writes.deletes) {
            removed.extend(stripes[step.guard].remove(&step.at, key.as_key()));
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
        let partition = self.shared.hasher.hash_partition(query.pk.as_bytes());
        let stripe = stripe_of(partition, self.shared.stripes.len());
        let after = after.or(query.after.as_deref());
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

/// One key of a call that touches several.
struct Step {
    at: Address,
    /// Which guard is of its stripe, once the stripes are locked.
    guard: usize,
    /// The row of its lock, once that was found.
    row: u32,
}

type Steps = SmallVec<[Step; 8]>;

/// Stripes, locked, ascending.
type Guards<'a, T> = SmallVec<[Guard<'a, T>; 8]>;

/// The stripe, the hash and the number of each step, in 32, 32 and 64 bits, ascending.
type StripeOrder = SmallVec<[u128; 8]>;

fn stripe_order(steps: &[Step]) -> StripeOrder {
    let mut order = StripeOrder::new();
    for (number, Step { at, .. }) in steps.iter().enumerate() {
        let place = u64::from(at.stripe) << 32 | u64::from(at.row);
        order.push(u128::from(place) << 64 | number as u128);
    }
    order.sort_unstable();
    order
}

/// Whether two keys may be the same: equal ones have equal stripes and hashes.
fn share_hashes(order: &StripeOrder) -> bool {
    let mut pairs = order.windows(2);
    pairs.any(|pair| pair[0] >> 64 == pair[1] >> 64)
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

impl<T> AtomicDb for MemoryDb<T> {
    type Data = T;

    #[inline]
    fn get(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        let at = self.address(key.bytes());
        let likely = self.lock_stripe(at.stripe as usize).likely_item(&at);
        // Its key is compared after unlocking, so that readers of one stripe wait less for each other,
        // and the clock is asked only for items that can expire.
        match likely {
            Likely::Item(item) if item.ttl().is_none() && item.has_key(key.bytes()) => {
                Ok(Some(item))
            }
            Likely::Nothing => Ok(None),
            likely => Ok(self.get_carefully(&at, key, likely)),
        }
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.get(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        let now = self.now();
        let mut steps: Steps = keys.iter().map(|key| self.step(key.bytes())).collect();
        let order = stripe_order(&steps);
        let mut removed = RemovedRows::new();
        let mut stripes = self.lock_stripes(&mut steps, &order);
        let steps = steps.iter().zip(keys);
        Ok(steps
            .map(|(step, key)| stripes[step.guard].live_item(&step.at, *key, now, &mut removed))
            .collect())
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let now = self.shared.clock.now();
        let at = self.address(key.bytes());
        let found = self
            .lock_stripe(at.stripe as usize)
            .lasting_lock(&at, &key, now.as_secs());
        match found {
            Some(lock) => Ok(lock),
            None => self.make_lock(&at, key, now),
        }
    }

    fn set(&self, items: &[Item<T>]) -> Result<()> {
        for item in items {
            let at = self.address(item.key_buf().bytes());
            let mut stripe = self.lock_stripe(at.stripe as usize);
            has_room(&stripe, 1)?;
            let old = stripe.put(&at, item.clone());
            drop(stripe);
            drop(old);
        }
        Ok(())
    }

    fn commit(&self, batch: &Batch<T>) -> Result<Version> {
        self.apply(&batch.as_batch_ref())
    }

    fn set_atomic(&self, items: &[Item<T>], locks: &[Lock]) -> Result<Version> {
        self.apply(&BatchRef::for_set_atomic(items, locks)?)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        for key in keys {
            let at = self.address(key.bytes());
            let old = self.lock_stripe(at.stripe as usize).remove(&at, *key);
            drop(old);
        }
        Ok(())
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<T>> {
        let max = query.limit.map_or(PAGE, |limit| limit.min(PAGE));
        Ok(self.select(query, after, max))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<T>>> {
        let max = query.limit.unwrap_or(usize::MAX);
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
        let stripes = self.stripes.unwrap_or_else(|| 8 * available_cores());
        let stripes = stripes.clamp(1, MAX_SHARDS).next_power_of_two();
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

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests;
