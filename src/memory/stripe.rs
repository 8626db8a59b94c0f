//! One stripe: the items and locks of the partitions that are assigned to it.
//!
//! Plain `&mut self` code that never sees a mutex, a clock or user code. Removed rows are handed to
//! the caller as [`RemovedRows`], which drops them after unlocking.

use super::row_index::{Cut, IndexedRows, Position, SortedRows};
use super::rows::{Row, Rows, widen_hash};
use crate::deferred_drop::DeferredDrop;
use crate::hash::KeyHasher;
use crate::lock::LockRow;
use crate::sync::Arc;
use crate::{Item, Key, KeyBuf, Lock, Query, Version};
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::ops::{Bound, Range};
use std::{mem, slice};

/// The entries of replaced and removed rows, kept alive until no mutex is held.
pub(super) type RemovedRows<T> = DeferredDrop<Entry<T>>;

/// The stripe and the hashes of a key, computed once and outside the mutex.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Location {
    pub(super) stripe: u32,
    pub(super) partition_hash: u32,
    pub(super) key_hash: u32,
}

impl Location {
    /// Locates the key with these `bytes` among `stripes` stripes, a power of two.
    #[inline]
    pub(super) fn new(hasher: &KeyHasher, bytes: (&[u8], &[u8]), stripes: usize) -> Self {
        let (partition_hash, key_hash) = hasher.hash_parts(bytes);
        Location {
            stripe: stripe_of(partition_hash, stripes) as u32,
            partition_hash: partition_hash as u32,
            key_hash: key_hash as u32,
        }
    }
}

/// Returns the stripe of the partition with this hash, by bits of the upper half of the hash.
///
/// A stripe's own tables use the lower half (see [`widen_hash`]). If the stripe depended on the same
/// bits, each stripe would use only a fraction of its tables' buckets.
pub(super) fn stripe_of(partition_hash: u64, stripes: usize) -> usize {
    (partition_hash >> 32) as usize & (stripes - 1)
}

/// What is stored under a key.
#[derive(Debug)]
pub(super) enum Entry<T> {
    Item(Item<T>),
    Lock(Box<Lock>),
}

impl<T> Entry<T> {
    #[inline]
    fn has_key(&self, bytes: (&[u8], &[u8])) -> bool {
        self.key_buf().has_bytes(bytes)
    }

    fn item(&self) -> Option<&Item<T>> {
        match self {
            Entry::Item(item) => Some(item),
            Entry::Lock(_) => None,
        }
    }

    fn lock(&self) -> Option<&Lock> {
        match self {
            Entry::Item(_) => None,
            Entry::Lock(lock) => Some(lock),
        }
    }

    fn key_buf(&self) -> &KeyBuf {
        match self {
            Entry::Item(item) => item.key_buf(),
            Entry::Lock(lock) => lock.key_buf(),
        }
    }

    fn ttl(&self) -> Option<u64> {
        match self {
            Entry::Item(item) => item.ttl(),
            Entry::Lock(lock) => Some(lock.ttl()),
        }
    }
}

/// The items of one partition in sort-key order. The partition key itself is stored only in the rows.
#[derive(Debug)]
struct Partition {
    hash: u32,
    rows: SortedRows,
}

impl Partition {
    /// Returns whether this is the partition of `pk` (invariant 3).
    #[inline]
    fn has_key<T>(&self, rows: &Rows<Entry<T>>, pk: &[u8]) -> bool {
        let first = self.rows.first();
        first.is_some_and(|row| key_of_row(rows, row).0 == pk)
    }
}

/// Returns the bytes of the key of the row with this number.
#[inline]
fn key_of_row<T>(rows: &Rows<Entry<T>>, number: u32) -> (&[u8], &[u8]) {
    rows.get(number)
        .map_or((&[], &[]), |entry| entry.key_buf().bytes())
}

/// The result of a search by hash alone.
#[derive(Debug)]
pub(super) enum Probe<T> {
    /// An item with the same hash. Its key is another one if two keys share the hash.
    Item(Item<T>),
    /// No row has the hash.
    Vacant,
    /// The first row with the hash is a lock.
    Inconclusive,
}

/// Why a lock cannot be read or created.
#[derive(Debug, PartialEq)]
pub(super) enum LockError {
    /// A live item has its key.
    ItemExists,
    StripeFull,
}

/// Invariants between calls, in addition to those of [`Rows`], which `validate` checks in tests:
///
/// 1. Every row is stored under the hash of its key.
/// 2. Every item is in the sorted rows of its partition once. Locks are not, so that a query does
///    not have to skip them.
/// 3. No partition is empty, so that its first row has its partition key.
/// 4. `expiries` has every row with a time to live, and no other rows.
/// 5. `item_count` is the number of items.
#[derive(Debug)]
pub(super) struct Stripe<T> {
    rows: Rows<Entry<T>>,
    partitions: HashTable<Partition>,
    expiries: BTreeSet<(u64, u32)>,
    item_count: usize,
    hasher: KeyHasher,
    max_rows: usize,
}

impl<T> Stripe<T> {
    /// Creates an empty stripe that reserves memory for `capacity` rows and never holds more than
    /// `max_rows`.
    pub(super) fn new(hasher: KeyHasher, capacity: usize, max_rows: usize) -> Self {
        Stripe {
            rows: Rows::with_capacity(capacity.min(max_rows)),
            partitions: HashTable::new(),
            expiries: BTreeSet::new(),
            item_count: 0,
            hasher,
            max_rows,
        }
    }

    /// Returns the number of items, including expired ones that were not removed yet.
    pub(super) fn item_count(&self) -> usize {
        self.item_count
    }

    /// Returns the number of row numbers in use so far: those of all rows are smaller.
    pub(super) fn row_numbers(&self) -> usize {
        self.rows.numbers()
    }

    /// Returns whether `additional` rows can be added.
    pub(super) fn has_capacity(&self, additional: usize) -> bool {
        self.rows.len().saturating_add(additional) <= self.max_rows
    }

    #[inline]
    fn find(&self, at: &Location, key: (&[u8], &[u8])) -> Option<&Row<Entry<T>>> {
        let hash = at.key_hash;
        let row = self.rows.find(hash)?;
        if row.entry.has_key(key) {
            Some(row)
        } else {
            let has_key = |entry: &Entry<T>| entry.has_key(key);
            self.rows.find_colliding(hash, has_key)
        }
    }

    /// Searches by hash alone. The caller compares the key.
    #[inline]
    pub(super) fn probe(&self, at: &Location) -> Probe<T> {
        match self.rows.find(at.key_hash).map(|row| &row.entry) {
            None => Probe::Vacant,
            Some(Entry::Item(item)) => Probe::Item(item.clone()),
            Some(Entry::Lock(_)) => Probe::Inconclusive,
        }
    }

    /// Returns the item at `key` if it is live at `now`. An expired item is removed.
    pub(super) fn live_item(
        &mut self,
        at: &Location,
        key: Key<'_>,
        now: u64,
        removed: &mut RemovedRows<T>,
    ) -> Option<Item<T>> {
        let row = self.find(at, key.bytes())?;
        let item = row.entry.item()?;
        if item.is_live(now) {
            return Some(item.clone());
        }
        let number = row.number();
        removed.extend(self.remove_row(number));
        None
    }

    /// Returns whether `key` has a live item.
    pub(super) fn has_item(&self, at: &Location, key: (&[u8], &[u8]), now: u64) -> bool {
        let item = self.find(at, key).and_then(|row| row.entry.item());
        item.is_some_and(|item| item.is_live(now))
    }

    /// Returns the row of `lock` if the stored lock is live and has the same version. `expected` is
    /// the row that had the lock when it was read, if that is known.
    pub(super) fn find_unchanged_lock(
        &self,
        at: &Location,
        expected: u32,
        lock: &Lock,
        now: u64,
    ) -> Option<u32> {
        // A lock that was read from this database shares its key with the stored one.
        let is_same = |stored: &&Lock| Arc::ptr_eq(stored.shared_key(), lock.shared_key());
        let (number, stored) = match self.rows.get(expected).and_then(Entry::lock) {
            Some(stored) if is_same(&stored) => (expected, stored),
            _ => {
                let row = self.find(at, lock.key_buf().bytes())?;
                (row.number(), row.entry.lock()?)
            }
        };
        (stored.version() == lock.version() && stored.is_live(now)).then_some(number)
    }

    /// Sets the version of the lock in `row`, which
    /// [`find_unchanged_lock`](Stripe::find_unchanged_lock) found.
    pub(super) fn set_lock_version(&mut self, row: u32, version: Version) {
        if let Some(Entry::Lock(lock)) = self.rows.get_mut(row) {
            lock.set_version(version);
        }
    }

    /// Returns the lock at `key` if it is live and needs no refresh.
    #[inline]
    pub(super) fn get_lock_fast(&self, at: &Location, key: &Key<'_>, now: u64) -> Option<Lock> {
        match &self.rows.find(at.key_hash)?.entry {
            Entry::Lock(lock)
                if lock.is_live(now)
                    && lock.refreshed_ttl(now) == lock.ttl()
                    && lock.has_key(key.bytes()) =>
            {
                Some(Lock::clone(lock))
            }
            _ => None,
        }
    }

    /// Returns the lock at `key`, created or refreshed where necessary. `database` is the number of
    /// the database that this stripe belongs to.
    pub(super) fn create_or_refresh_lock(
        &mut self,
        at: &Location,
        key: Key<'_>,
        now: u64,
        database: u64,
        version: impl FnOnce() -> Version,
        removed: &mut RemovedRows<T>,
    ) -> Result<Lock, LockError> {
        if let Some(number) = self.find(at, key.bytes()).map(Row::number) {
            match self.rows.get_mut(number) {
                Some(Entry::Lock(lock)) if lock.is_live(now) => {
                    let (old, new) = (lock.ttl(), lock.refreshed_ttl(now));
                    lock.set_ttl(new);
                    let lock = Lock::clone(lock);
                    update_expiry(&mut self.expiries, number, Some(old), Some(new));
                    return Ok(lock);
                }
                Some(Entry::Item(item)) if item.is_live(now) => return Err(LockError::ItemExists),
                _ => removed.extend(self.remove_row(number)),
            }
        }
        if !self.has_capacity(1) {
            return Err(LockError::StripeFull);
        }
        let row = LockRow {
            database,
            stripe: at.stripe,
            hash: at.key_hash,
            number: self.rows.next_number(),
        };
        let lock = Lock::in_row(key, version(), now.saturating_add(Lock::LIFETIME), row);
        self.add(at.key_hash, Entry::Lock(Box::new(lock.clone())));
        Ok(lock)
    }

    /// Writes `item`, and returns the entry that it replaces. The stripe must have capacity for one
    /// more row.
    pub(super) fn put(&mut self, at: &Location, item: Item<T>) -> Option<Entry<T>> {
        let hash = at.key_hash;
        let has_key = |entry: &Entry<T>| entry.key_buf() == item.key_buf();
        let found = match self.rows.find_mut(hash) {
            Some(row) if !has_key(&row.entry) => self.rows.find_colliding_mut(hash, has_key),
            found => found,
        };
        let Some(row) = found else {
            let number = self.add(hash, Entry::Item(item));
            self.index_row(at.partition_hash, number);
            return None;
        };
        let (number, ttl) = (row.number(), item.ttl());
        let old = mem::replace(&mut row.entry, Entry::Item(item));
        update_expiry(&mut self.expiries, number, old.ttl(), ttl);
        if old.item().is_none() {
            self.item_count += 1;
            self.index_row(at.partition_hash, number);
        }
        Some(old)
    }

    /// Removes the item or lock at `key`, and returns it.
    pub(super) fn remove(&mut self, at: &Location, key: (&[u8], &[u8])) -> Option<Entry<T>> {
        let number = self.find(at, key)?.number();
        self.remove_row(number)
    }

    /// Removes at most `max` rows that have expired at `now`, and returns how many it removed. The
    /// cost is in proportion to that number.
    pub(super) fn remove_expired(
        &mut self,
        now: u64,
        max: usize,
        removed: &mut RemovedRows<T>,
    ) -> usize {
        for count in 0..max {
            match self.expiries.first() {
                Some(&(ttl, row)) if ttl < now => removed.extend(self.remove_row(row)),
                _ => return count,
            }
        }
        max
    }

    /// Returns the live items in the rows with the given numbers. Expired items and locks in them are
    /// removed.
    ///
    /// A row keeps its number until it is removed. So an item that is present throughout several
    /// calls, which together cover all numbers once, is returned by exactly one of them.
    pub(super) fn live_items_of_rows(
        &mut self,
        numbers: Range<usize>,
        now: u64,
        removed: &mut RemovedRows<T>,
    ) -> Vec<Item<T>> {
        let mut items = Vec::with_capacity(numbers.len());
        let mut expired: SmallVec<[u32; 8]> = SmallVec::new();
        for number in numbers {
            let number = number as u32;
            match self.rows.get(number) {
                Some(entry) if entry.ttl().is_some_and(|ttl| ttl < now) => expired.push(number),
                Some(entry) => items.extend(entry.item().cloned()),
                None => {}
            }
        }
        removed.extend(expired.into_iter().filter_map(|row| self.remove_row(row)));
        items
    }

    /// Returns at most `max` live items that match `query`, and whether there are more. Expired items
    /// on the way are removed.
    pub(super) fn select(
        &mut self,
        partition_hash: u64,
        query: &Query,
        after: Option<&str>,
        max: usize,
        now: u64,
        removed: &mut RemovedRows<T>,
    ) -> (Vec<Item<T>>, bool) {
        let hash = partition_hash as u32;
        let found = self.partitions.find(widen_hash(hash), |partition| {
            partition.has_key(&self.rows, query.pk.as_bytes())
        });
        let Some(partition) = found else {
            return (Vec::new(), false);
        };
        let (from, to) = self.bounds(&partition.rows, query, after);
        let max = max.min(partition.rows.count(from, to));
        let blocks = partition.rows.slices(from, to);
        let (items, expired, more) = if query.reverse {
            self.live_items(blocks.rev().map(|rows| rows.iter().rev()), max, now)
        } else {
            self.live_items(blocks.map(|rows| rows.iter()), max, now)
        };
        removed.extend(expired.into_iter().filter_map(|row| self.remove_row(row)));
        (items, more)
    }

    /// Returns at most `max` live items of the rows of `blocks`, the expired rows on the way, and
    /// whether there are more items.
    fn live_items<'r>(
        &self,
        blocks: impl Iterator<Item = impl Iterator<Item = &'r u32>>,
        max: usize,
        now: u64,
    ) -> (Vec<Item<T>>, SmallVec<[u32; 8]>, bool) {
        let mut items = Vec::with_capacity(max);
        let mut expired = SmallVec::new();
        for rows in blocks {
            for row in rows {
                match self.rows.get(*row).and_then(Entry::item) {
                    Some(item) if !item.is_live(now) => expired.push(*row),
                    // `extend_from_slice` reserves before it clones. `push(item.clone())` needs
                    // cleanup code for the clone, which is a sixth of this loop's instructions.
                    Some(item) if items.len() < max => {
                        items.extend_from_slice(slice::from_ref(item));
                    }
                    Some(_) => return (items, expired, true),
                    None => {}
                }
            }
        }
        (items, expired, false)
    }

    /// Returns the positions between which the rows of a query lie.
    fn bounds(
        &self,
        rows: &SortedRows,
        query: &Query,
        after: Option<&str>,
    ) -> (Position, Position) {
        let prefix = query.prefix.as_bytes();
        let after = after.map(str::as_bytes);
        let (mut from, mut to) = (rows.start(), rows.end());
        if !prefix.is_empty() {
            from = rows.position(Cut::Before(prefix), &self.rows);
            to = rows.position_from(from, Cut::AfterPrefix(prefix), &self.rows);
        }
        let below = |sk: &[u8]| rows.position(Cut::Before(sk), &self.rows);
        let up_to = |sk: &[u8]| rows.position(Cut::After(sk), &self.rows);
        match &query.range.0 {
            Bound::Included(start) => from = from.max(below(start.as_bytes())),
            Bound::Excluded(start) => from = from.max(up_to(start.as_bytes())),
            Bound::Unbounded => {}
        }
        match &query.range.1 {
            Bound::Included(end) => to = to.min(up_to(end.as_bytes())),
            Bound::Excluded(end) => to = to.min(below(end.as_bytes())),
            Bound::Unbounded => {}
        }
        if let Some(after) = after {
            if query.reverse {
                to = to.min(below(after));
            } else {
                from = from.max(up_to(after));
            }
        }
        (from, to)
    }

    /// Adds a row to the table, the expiries and the count, but not to the sorted rows of a
    /// partition. Returns its number.
    fn add(&mut self, hash: u32, entry: Entry<T>) -> u32 {
        let ttl = entry.ttl();
        self.item_count += usize::from(entry.item().is_some());
        let number = self.rows.insert(hash, entry);
        update_expiry(&mut self.expiries, number, None, ttl);
        number
    }

    /// Adds the item in `row` to the sorted rows of its partition.
    fn index_row(&mut self, hash: u32, row: u32) {
        let rows = &self.rows;
        let pk = key_of_row(rows, row).0;
        let entry = self.partitions.entry(
            widen_hash(hash),
            |partition| partition.has_key(rows, pk),
            |partition| widen_hash(partition.hash),
        );
        match entry {
            hashbrown::hash_table::Entry::Vacant(entry) => {
                let rows = SortedRows::new(row);
                entry.insert(Partition { hash, rows });
            }
            hashbrown::hash_table::Entry::Occupied(mut entry) => {
                let sorted = &mut entry.get_mut().rows;
                sorted.insert(row, &mut self.rows);
            }
        }
    }

    /// Removes the item in `row` from the sorted rows of its partition.
    fn unindex_row(&mut self, row: u32) {
        let rows = &self.rows;
        let pk = key_of_row(rows, row).0;
        let hash = self.hasher.hash_partition(pk) as u32;
        let found = self
            .partitions
            .find_entry(widen_hash(hash), |partition| partition.has_key(rows, pk));
        if let Ok(mut entry) = found {
            let block = rows.block(row);
            let sorted = &mut entry.get_mut().rows;
            sorted.remove(row, block, &mut self.rows);
            if sorted.is_empty() {
                entry.remove();
            }
        }
    }

    /// Removes a row from the table and all indexes, and returns its entry.
    fn remove_row(&mut self, row: u32) -> Option<Entry<T>> {
        if self.rows.get(row)?.item().is_some() {
            self.unindex_row(row);
            self.item_count -= 1;
        }
        let old = self.rows.remove(row)?;
        update_expiry(&mut self.expiries, row, old.ttl(), None);
        Some(old)
    }
}

/// Moves a row in the index of expiries.
#[inline]
fn update_expiry(
    expiries: &mut BTreeSet<(u64, u32)>,
    row: u32,
    old: Option<u64>,
    new: Option<u64>,
) {
    if old != new {
        move_expiry(expiries, row, old, new);
    }
}

fn move_expiry(expiries: &mut BTreeSet<(u64, u32)>, row: u32, old: Option<u64>, new: Option<u64>) {
    if let Some(old) = old {
        expiries.remove(&(old, row));
    }
    if let Some(new) = new {
        expiries.insert((new, row));
    }
}

impl<T> IndexedRows for Rows<Entry<T>> {
    #[inline]
    fn sk(&self, row: u32) -> &[u8] {
        key_of_row(self, row).1
    }

    fn set_block(&mut self, row: u32, block: u32) {
        Rows::set_block(self, row, block);
    }
}

#[cfg(test)]
mod tests;
