//! The in-memory database.
//!
//! - `mod.rs`: [`MemoryDb`], which selects stripes and locks them.
//! - `builder.rs`: the options.
//! - `stripe.rs`: the items and locks of one stripe. It never sees a mutex, a clock or user code.
//! - `rows.rs`: the table of a stripe's rows, by hash and by number.
//! - `row_index`: the rows of one partition in sort-key order.
//! - `scan.rs`: reads all items.
//! - `sweeper.rs`: the thread that purges expired items.
//!
//! # Lock order
//!
//! A call that needs several stripes locks each once, in ascending order of their index. There is
//! no other lock. Validating and writing happen under the same guards.
//!
//! While a call holds a stripe it runs no user code (guarantee 22):
//!
//! - Cloning an item increments a reference count.
//! - Replaced and removed rows go into a [`RemovedRows`], which is declared before the guards and so
//!   dropped after them.
//! - The clock is asked before the first stripe is locked, or after the last one is unlocked.

mod builder;
mod row_index;
mod rows;
mod scan;
mod stripe;
mod sweeper;

pub use builder::MemoryDbBuilder;
pub use sweeper::Sweeper;

use crate::batch::BatchRef;
use crate::error::item_at_lock_key;
use crate::expiry::live_or_read_again;
use crate::hash::KeyHasher;
use crate::random::random_u64;
use crate::sharding::{MAX_SHARDS, available_cores};
use crate::sync::{Arc, Mutex, MutexGuard};
use crate::{
    AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, Page, Query, Result, RetryQueue,
    Version, VersionGenerator,
};
use rows::{MAX_ROWS, NO_ROW};
use smallvec::SmallVec;
use std::fmt;
use std::time::Duration;
use stripe::{Location, LockError, Probe, RemovedRows, Stripe, stripe_of};

/// A database in memory, for tests, tools and caches. It holds any data, without serializing it.
///
/// This is a handle: clones share the same data, which is freed when the last one is dropped.
///
/// # Guarantees
///
/// `MemoryDb` fulfils all of [`AtomicDb`]'s contract. Any text is a key, of any length, including
/// the empty one. One [`query`](AtomicDb::query), one [`get_many`](AtomicDb::get_many) and one
/// [`page`](AtomicDb::page) are each a snapshot; a [`stream`](AtomicDb::stream) is a snapshot per
/// page.
///
/// No call copies data. These calls allocate nothing: a [`get`](AtomicDb::get), a
/// [`get_lock`](AtomicDb::get_lock) of a live lock, and a [`set_atomic`](AtomicDb::set_atomic) of up
/// to four existing items under up to four locks.
///
/// # Costs
///
/// Partitions are distributed over stripes, each with a mutex of its own. A partition lies wholly in
/// one stripe. Calls on different partitions rarely contend; spread hot data over several
/// partitions. A point read costs the same in a partition of one item and of a million. A
/// [`query`](AtomicDb::query) holds the stripe's mutex while it clones a handle to each item. Read a
/// large partition with [`stream`](AtomicDb::stream), which holds the mutex for one page at a time.
///
/// Expired items and locks are removed when a call encounters them, by
/// [`purge_expired`](MemoryDb::purge_expired), and by a [`Sweeper`]. Until then they take memory and
/// are not visible.
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
    shared: Arc<DbState<T>>,
}

struct DbState<T> {
    /// Random, and different from that of every other database.
    number: u64,
    /// Their number is a power of two.
    stripes: Box<[CachePadded<Mutex<Stripe<T>>>]>,
    hasher: KeyHasher,
    /// Every commit writes to it, and every call reads the other fields.
    versions: CachePadded<VersionGenerator>,
    clock: Arc<dyn Clock>,
    retry_queue: RetryQueue,
}

/// Padded to avoid false sharing with what lies next to it. 128 bytes, because some processors prefetch cache
/// lines in pairs.
#[repr(align(128))]
struct CachePadded<M>(M);

type Guard<'a, T> = MutexGuard<'a, Stripe<T>>;

/// The largest number of items of one page: enough to make locking cheap, few enough to hold the
/// mutex briefly.
const PAGE_SIZE: usize = 256;

/// How many expired rows are removed each time a mutex is held.
const PURGE_BATCH: usize = 256;

impl<T> MemoryDb<T> {
    /// Creates an empty database with the defaults of [`MemoryDbBuilder`].
    #[must_use]
    pub fn new() -> Self {
        MemoryDb::builder().build()
    }

    /// Returns a builder, which sets the clock, the number of stripes and the reserved capacity.
    pub fn builder() -> MemoryDbBuilder<T> {
        MemoryDbBuilder::new()
    }

    /// Returns the number of live items at a single point in time. Locks are not counted. Expired
    /// items and locks are removed first.
    #[must_use]
    pub fn len(&self) -> usize {
        // Purge incrementally first, so that little is left to remove while all stripes are locked.
        self.purge_expired();
        let now = self.now();
        let mut removed = RemovedRows::new();
        let mut stripes = self.lock_all();
        for stripe in &mut stripes {
            stripe.remove_expired(now, usize::MAX, &mut removed);
        }
        stripes.iter().map(|stripe| stripe.item_count()).sum()
    }

    /// Returns whether there is no live item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes all expired items and locks, and returns how many there were.
    ///
    /// The cost is in proportion to the number of expired items and locks, not to the size of the
    /// database. Each stripe's mutex is held for a few hundred of them at a time.
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
    #[expect(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn purge_expired(&self) -> usize {
        let now = self.now();
        let mut total = 0;
        for stripe in &self.shared.stripes {
            loop {
                let mut removed = RemovedRows::new();
                let count = stripe
                    .0
                    .lock()
                    .remove_expired(now, PURGE_BATCH, &mut removed);
                total += count;
                if count < PURGE_BATCH {
                    break;
                }
            }
        }
        total
    }

    fn now(&self) -> u64 {
        self.shared.clock.epoch_seconds()
    }

    #[inline]
    fn locate(&self, bytes: (&[u8], &[u8])) -> Location {
        Location::new(&self.shared.hasher, bytes, self.shared.stripes.len())
    }

    /// Returns the target of an operation on `lock`. The key of a lock that was read from this
    /// database is not hashed.
    #[inline(always)]
    fn lock_target<O>(&self, op: O, lock: &Lock) -> Target<O> {
        match lock.row_in(self.shared.number) {
            Some(row) => {
                let at = Location {
                    stripe: row.stripe,
                    // Only an item is indexed by it.
                    partition_hash: 0,
                    key_hash: row.hash,
                };
                Target::new(op, at, row.number)
            }
            None => Target::new(op, self.locate(lock.key_buf().bytes()), NO_ROW),
        }
    }

    fn stripe_count(&self) -> usize {
        self.shared.stripes.len()
    }

    #[inline]
    fn lock_stripe(&self, stripe: usize) -> Guard<'_, T> {
        self.shared.stripes[stripe].0.lock()
    }

    fn lock_all(&self) -> Vec<Guard<'_, T>> {
        let stripes = self.shared.stripes.iter();
        stripes.map(|stripe| stripe.0.lock()).collect()
    }

    /// Slow path of `get`: the probe was inconclusive, or the item can expire.
    #[cold]
    fn get_slow(&self, at: &Location, key: Key<'_>, probe: Probe<T>) -> Result<Option<Item<T>>> {
        let read = |now| {
            let mut removed = RemovedRows::new();
            let mut stripe = self.lock_stripe(at.stripe as usize);
            Ok(stripe.live_item(at, key, now, &mut removed))
        };
        match probe {
            Probe::Item(item) if item.has_key(key.bytes()) => {
                let ttl = item.ttl();
                live_or_read_again(item, ttl, &*self.shared.clock, read)
            }
            // A lock, or an item of another key with the same hash.
            _ => read(self.now()),
        }
    }

    #[inline]
    fn get_lock_at(&self, key: Key<'_>, now: Duration) -> Result<Lock> {
        let at = self.locate(key.bytes());
        let found = self
            .lock_stripe(at.stripe as usize)
            .get_lock_fast(&at, &key, now.as_secs());
        match found {
            Some(lock) => Ok(lock),
            None => self.create_or_refresh_lock(&at, key, now),
        }
    }

    /// Slow path of `get_lock`: returns the lock at `key`, created or refreshed where necessary.
    #[cold]
    fn create_or_refresh_lock(&self, at: &Location, key: Key<'_>, now: Duration) -> Result<Lock> {
        let version = || self.shared.versions.0.next(now);
        let mut removed = RemovedRows::new();
        let mut stripe = self.lock_stripe(at.stripe as usize);
        let (seconds, database) = (now.as_secs(), self.shared.number);
        match stripe.create_or_refresh_lock(at, key, seconds, database, version, &mut removed) {
            Ok(lock) => Ok(lock),
            Err(LockError::StripeFull) => Err(stripe_full_error()),
            Err(LockError::ItemExists) => Err(item_at_lock_key(key)),
        }
    }

    /// Locks the stripes of all `targets`, each once, in ascending order.
    ///
    /// Lists are passed to be filled: returning them by value would copy them.
    #[inline]
    fn lock_stripes<'a, O>(
        &'a self,
        targets: &mut [Target<O>],
        order: &[OrderEntry],
        guards: &mut Guards<'a, T>,
    ) {
        let mut latest = None;
        for entry in order {
            let stripe = entry.stripe();
            if latest != Some(stripe) {
                guards.push(self.lock_stripe(stripe));
                latest = Some(stripe);
            }
            targets[entry.index()].guard = guards.len() as u32 - 1;
        }
    }

    /// Validates and applies `writes` under the locks of all affected stripes.
    fn apply(&self, writes: &BatchRef<'_, T>) -> Result<Version> {
        let mut targets: SmallVec<[Target<Op<'_, T>>; 8]> = SmallVec::new();
        for lock in writes.locks {
            targets.push(self.lock_target(Op::Lock(lock), lock));
        }
        for lock in writes.checks {
            targets.push(self.lock_target(Op::Check(lock), lock));
        }
        for item in writes.sets {
            let at = self.locate(item.key_buf().bytes());
            targets.push(Target::new(Op::Set(item), at, NO_ROW));
        }
        for item in writes.creates {
            let at = self.locate(item.key_buf().bytes());
            targets.push(Target::new(Op::Create(item), at, NO_ROW));
        }
        for key in writes.deletes {
            let at = self.locate(key.bytes());
            targets.push(Target::new(Op::Delete(key), at, NO_ROW));
        }
        let targets = targets.as_mut_slice();
        let mut order = LockOrder::new();
        sort_by_stripe(targets, &mut order);
        if may_have_duplicates(&order) {
            writes.validate()?;
        }
        let now = self.shared.clock.now();
        let seconds = now.as_secs();

        let mut removed = RemovedRows::new();
        let mut guards = Guards::new();
        self.lock_stripes(targets, &order, &mut guards);
        let stripes = guards.as_mut_slice();

        let mut conflicts = Vec::new();
        let mut existing = None;
        for Target { op, at, guard, row } in &mut *targets {
            let stripe = &stripes[*guard as usize];
            match op {
                Op::Lock(lock) | Op::Check(lock) => {
                    match stripe.find_unchanged_lock(at, *row, lock, seconds) {
                        Some(found) => *row = found,
                        None => conflicts.push(lock.key_buf().clone()),
                    }
                }
                Op::Create(item) if stripe.has_item(at, item.key_buf().bytes(), seconds) => {
                    existing.get_or_insert(item.key_buf());
                }
                _ => {}
            }
        }
        if !conflicts.is_empty() {
            return Err(Error::RaceCondition { keys: conflicts });
        }
        if let Some(key) = existing {
            return Err(Error::AlreadyExists { key: key.clone() });
        }
        for stripe in &*stripes {
            check_capacity(stripe, writes.sets.len() + writes.creates.len())?;
        }

        let version = self.shared.versions.0.next(now);
        for Target { op, at, guard, row } in targets {
            let stripe = &mut stripes[*guard as usize];
            let old = match op {
                Op::Lock(_) => {
                    stripe.set_lock_version(*row, version);
                    None
                }
                Op::Check(_) => None,
                Op::Set(item) | Op::Create(item) => stripe.put(at, item.clone()),
                Op::Delete(key) => stripe.remove(at, key.bytes()),
            };
            if let Some(old) = old {
                removed.push(old);
            }
        }
        Ok(version)
    }

    /// Returns at most `max` items that match `query`, as a snapshot.
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

/// One operation of a call that has several.
struct Target<O> {
    op: O,
    at: Location,
    /// The index of the guard of its stripe, once the stripes are locked.
    guard: u32,
    /// The row of its lock, if it is known.
    row: u32,
}

impl<O> Target<O> {
    #[inline]
    fn new(op: O, at: Location, row: u32) -> Self {
        Target {
            op,
            at,
            guard: 0,
            row,
        }
    }
}

/// An operation of a commit.
enum Op<'a, T> {
    Lock(&'a Lock),
    Check(&'a Lock),
    Set(&'a Item<T>),
    Create(&'a Item<T>),
    Delete(&'a KeyBuf),
}

/// The guards of locked stripes, in ascending order.
type Guards<'a, T> = SmallVec<[Guard<'a, T>; 8]>;

/// The targets in ascending order of their stripes, and of their keys within a stripe.
type LockOrder = SmallVec<[OrderEntry; 8]>;

/// The stripe of a target, the upper half of its key's hash, and its index, in 16, 16 and 32 bits:
/// one number is cheaper to sort than three.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct OrderEntry(u64);

const _: () = assert!(MAX_SHARDS <= 1 << 16);

impl OrderEntry {
    #[inline]
    fn new(index: usize, at: &Location) -> Self {
        let stripe = u64::from(at.stripe) << 48;
        let hash = u64::from(at.key_hash >> 16) << 32;
        OrderEntry(stripe | hash | index as u64)
    }

    fn stripe(self) -> usize {
        (self.0 >> 48) as usize
    }

    fn index(self) -> usize {
        self.0 as u32 as usize
    }

    /// Returns the part that is the same for equal keys.
    fn of_key(self) -> u64 {
        self.0 >> 32
    }
}

/// Fills `order`, which is empty, with the order of `targets`.
#[inline]
fn sort_by_stripe<O>(targets: &[Target<O>], order: &mut LockOrder) {
    for (index, target) in targets.iter().enumerate() {
        order.push(OrderEntry::new(index, &target.at));
        // For a few targets, inserting each in place is cheaper than a call of the general sort.
        if targets.len() <= INSERTION_SORT_MAX {
            let mut place = index;
            while place > 0 && order[place - 1] > order[place] {
                order.swap(place - 1, place);
                place -= 1;
            }
        }
    }
    if targets.len() > INSERTION_SORT_MAX {
        order.sort_unstable();
    }
}

const INSERTION_SORT_MAX: usize = 8;

/// Returns whether two keys may be equal.
#[inline]
fn may_have_duplicates(order: &[OrderEntry]) -> bool {
    order
        .windows(2)
        .any(|pair| pair[0].of_key() == pair[1].of_key())
}

/// # Errors
///
/// [`Error::Backend`] if the stripe cannot hold `additional` more rows.
fn check_capacity<T>(stripe: &Stripe<T>, additional: usize) -> Result<()> {
    if stripe.has_capacity(additional) {
        Ok(())
    } else {
        Err(stripe_full_error())
    }
}

fn stripe_full_error() -> Error {
    Error::Backend(format!("a stripe holds at most {MAX_ROWS} items and locks").into())
}

impl<T> AtomicDb for MemoryDb<T> {
    type Data = T;

    #[inline]
    fn get(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        let at = self.locate(key.bytes());
        let probe = self.lock_stripe(at.stripe as usize).probe(&at);
        // The key is compared after unlocking, which shortens the critical section. The clock is
        // asked only for items that can expire.
        match probe {
            Probe::Item(item) if item.ttl().is_none() && item.has_key(key.bytes()) => {
                Ok(Some(item))
            }
            Probe::Vacant => Ok(None),
            probe => self.get_slow(&at, key, probe),
        }
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<T>>> {
        self.get(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        let now = self.now();
        let targets = keys.iter();
        let targets = targets.map(|key| Target::new(key, self.locate(key.bytes()), NO_ROW));
        let mut targets: SmallVec<[Target<&Key<'_>>; 8]> = targets.collect();
        let mut order = LockOrder::new();
        sort_by_stripe(&targets, &mut order);
        let mut removed = RemovedRows::new();
        let mut stripes = Guards::new();
        self.lock_stripes(&mut targets, &order, &mut stripes);
        let targets = targets.iter();
        Ok(targets
            .map(|target| {
                let stripe = &mut stripes[target.guard as usize];
                stripe.live_item(&target.at, *target.op, now, &mut removed)
            })
            .collect())
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<T>>>> {
        self.get_many(keys)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.get_lock_at(key, self.shared.clock.now())
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        let now = self.shared.clock.now();
        keys.iter().map(|key| self.get_lock_at(*key, now)).collect()
    }

    fn set(&self, items: &[Item<T>]) -> Result<()> {
        for item in items {
            let at = self.locate(item.key_buf().bytes());
            let mut stripe = self.lock_stripe(at.stripe as usize);
            check_capacity(&stripe, 1)?;
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
            let at = self.locate(key.bytes());
            let old = self
                .lock_stripe(at.stripe as usize)
                .remove(&at, key.bytes());
            drop(old);
        }
        Ok(())
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<T>> {
        let max = query.limit.map_or(PAGE_SIZE, |limit| limit.min(PAGE_SIZE));
        Ok(self.select(query, after, max))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<T>>> {
        let max = query.limit.unwrap_or(usize::MAX);
        Ok(self.select(query, None, max).items)
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        Some(&self.shared.retry_queue)
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

/// Shows the configuration, and none of the data.
impl<T> fmt::Debug for MemoryDb<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDb")
            .field("stripes", &self.shared.stripes.len())
            .field("clock", &self.shared.clock)
            .finish_non_exhaustive()
    }
}

fn default_stripes() -> usize {
    // With fewer, threads wait for each other; more of them only take memory.
    (32 * available_cores()).min(1_024)
}

impl<T> MemoryDbBuilder<T> {
    /// Creates the database.
    #[must_use]
    pub fn build(self) -> MemoryDb<T> {
        let stripes = self.stripes.unwrap_or_else(default_stripes);
        let stripes = stripes.clamp(1, MAX_SHARDS).next_power_of_two();
        let hasher = KeyHasher::default();
        let capacity = self.capacity.div_ceil(stripes);
        let stripe = || Stripe::new(hasher.clone(), capacity, MAX_ROWS);
        MemoryDb {
            shared: Arc::new(DbState {
                number: random_u64(),
                stripes: (0..stripes)
                    .map(|_| CachePadded(Mutex::new(stripe())))
                    .collect(),
                versions: CachePadded(VersionGenerator::new()),
                clock: self.clock,
                hasher,
                retry_queue: RetryQueue::new(),
            }),
        }
    }
}

impl Sweeper {
    /// Starts a thread that purges `db` each time that `every` has passed.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidInput`]: `every` is zero. No thread was started.
    /// - [`Error::Backend`]: the thread could not be spawned.
    pub fn start<T: Send + Sync + 'static>(db: &MemoryDb<T>, every: Duration) -> Result<Self> {
        let db = db.clone();
        Sweeper::spawn(every, move || {
            db.purge_expired();
        })
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests;
