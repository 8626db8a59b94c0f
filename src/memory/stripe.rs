//! One stripe: the items and locks of the partitions that are assigned to it.
//!
//! Plain `&mut self` code that never sees a mutex, a clock or user code. Removed rows are handed to
//! the caller as [`RemovedRows`], which drops them after unlocking.

use super::row_index::{Position, SortedRows};
use crate::deferred_drop::DeferredDrop;
use crate::hash::KeyHasher;
use crate::sync::Arc;
use crate::{Item, Key, Lock, Query, Version};
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::ops::{Bound, Range};
use std::{mem, slice};

/// Replaced and removed rows, kept alive until no mutex is held.
pub(super) type RemovedRows<T> = DeferredDrop<Row<T>>;

/// The stripe and the hashes of a key, computed once and outside the mutex.
#[derive(Clone, Copy, Debug)]
pub(super) struct Location {
    pub(super) stripe: u32,
    partition_hash: u32,
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

/// Widens a 32-bit hash for a table, which chooses the bucket by a hash's lowest bits and the tag by
/// its highest seven. Duplicating 32 bits serves both, and halves the space per row.
fn widen_hash(hash: u32) -> u64 {
    u64::from(hash) * 0x1_0000_0001
}

/// A slot of the slab: an item, a lock, or a link of the free list. It takes at most 24 bytes,
/// because there is one for every item.
#[derive(Debug)]
pub(super) enum Row<T> {
    Item { hash: u32, item: Item<T> },
    Lock { hash: u32, lock: Box<Lock> },
    Vacant { next: u32 },
}

impl<T> Row<T> {
    #[inline]
    fn has_key(&self, bytes: (&[u8], &[u8])) -> bool {
        match self {
            Row::Item { item, .. } => item.has_key(bytes),
            Row::Lock { lock, .. } => lock.has_key(bytes),
            Row::Vacant { .. } => false,
        }
    }

    fn hash(&self) -> u32 {
        match self {
            Row::Item { hash, .. } | Row::Lock { hash, .. } => *hash,
            // Never used: vacant rows are not indexed. Returning `next` avoids a branch.
            Row::Vacant { next } => *next,
        }
    }

    fn item(&self) -> Option<&Item<T>> {
        match self {
            Row::Item { item, .. } => Some(item),
            _ => None,
        }
    }

    fn lock(&self) -> Option<&Lock> {
        match self {
            Row::Lock { lock, .. } => Some(lock),
            _ => None,
        }
    }

    /// Returns whether this row has the key of `item`.
    fn has_key_of(&self, item: &Item<T>) -> bool {
        match self {
            Row::Item { item: stored, .. } => stored.key_buf() == item.key_buf(),
            Row::Lock { lock, .. } => **lock.key_buf() == *item.key_buf(),
            Row::Vacant { .. } => false,
        }
    }

    /// Returns the bytes of the key.
    fn key(&self) -> (&[u8], &[u8]) {
        match self {
            Row::Item { item, .. } => item.key_buf().bytes(),
            Row::Lock { lock, .. } => lock.key_buf().bytes(),
            Row::Vacant { .. } => (&[], &[]),
        }
    }

    fn ttl(&self) -> Option<u64> {
        match self {
            Row::Item { item, .. } => item.ttl(),
            Row::Lock { lock, .. } => Some(lock.ttl()),
            Row::Vacant { .. } => None,
        }
    }
}

/// The null link of the free list. It is never the number of a row.
const NIL: u32 = u32::MAX;

/// The largest number of rows in a stripe.
pub(super) const MAX_ROWS: usize = NIL as usize;

/// The items of one partition in sort-key order. The partition key itself is stored only in the rows.
#[derive(Debug)]
struct Partition {
    hash: u32,
    rows: SortedRows,
}

impl Partition {
    /// Returns whether this is the partition of `pk` (invariant 3).
    #[inline]
    fn has_key<T>(&self, rows: &[Row<T>], pk: &[u8]) -> bool {
        let first = self.rows.first();
        first.is_some_and(|row| rows[row as usize].key().0 == pk)
    }
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

/// Invariants between calls, which `validate` checks in tests:
///
/// 1. Every row that is not vacant is in `by_key` once, under its hash. Every vacant row is in the
///    free list once.
/// 2. Every item is in the sorted rows of its partition once. Locks are not, so that a query does
///    not have to skip them.
/// 3. No partition is empty, so that its first row has its partition key.
/// 4. `expiries` has every row with a time to live, and no other rows.
/// 5. `item_count` is the number of items.
#[derive(Debug)]
pub(super) struct Stripe<T> {
    rows: Vec<Row<T>>,
    free_head: u32,
    by_key: HashTable<u32>,
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
        let (mut rows, mut by_key) = (Vec::new(), HashTable::new());
        // The capacity is a hint: an allocation failure is ignored.
        let capacity = capacity.min(max_rows);
        if rows.try_reserve(capacity).is_ok() {
            let _ = by_key.try_reserve(capacity, |_| 0);
        }
        Stripe {
            rows,
            free_head: NIL,
            by_key,
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

    /// Returns the number of rows, including vacant ones.
    pub(super) fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether `additional` rows can be added.
    pub(super) fn has_capacity(&self, additional: usize) -> bool {
        self.by_key.len().saturating_add(additional) <= self.max_rows
    }

    #[inline]
    fn find(&self, at: &Location, key: Key<'_>) -> Option<u32> {
        let row = self.find_by_hash(at)?;
        if self.rows[row as usize].has_key(key.bytes()) {
            Some(row)
        } else {
            self.find_colliding(at, key.bytes())
        }
    }

    /// Returns the first row with this hash, which nearly always has the right key. Comparing only
    /// hashes keeps the table's probe loop in registers.
    #[inline]
    fn find_by_hash(&self, at: &Location) -> Option<u32> {
        let same_hash = |row: &u32| self.rows[*row as usize].hash() == at.key_hash;
        self.by_key
            .find(widen_hash(at.key_hash), same_hash)
            .copied()
    }

    #[cold]
    fn find_colliding(&self, at: &Location, bytes: (&[u8], &[u8])) -> Option<u32> {
        let rows = &self.rows;
        self.by_key
            .find(widen_hash(at.key_hash), |row| {
                rows[*row as usize].has_key(bytes)
            })
            .copied()
    }

    /// Searches by hash alone. The caller compares the key.
    #[inline]
    pub(super) fn probe(&self, at: &Location) -> Probe<T> {
        match self.find_by_hash(at).map(|row| &self.rows[row as usize]) {
            None => Probe::Vacant,
            Some(Row::Item { item, .. }) => Probe::Item(item.clone()),
            Some(_) => Probe::Inconclusive,
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
        let row = self.find(at, key)?;
        let item = self.rows[row as usize].item()?;
        if item.is_live(now) {
            return Some(item.clone());
        }
        removed.push(self.remove_row(row));
        None
    }

    /// Returns whether `key` has a live item.
    pub(super) fn has_item(&self, at: &Location, key: Key<'_>, now: u64) -> bool {
        let row = self.find(at, key);
        let item = row.and_then(|row| self.rows[row as usize].item());
        item.is_some_and(|item| item.is_live(now))
    }

    /// Returns the row of `lock` if the stored lock is live and has the same version.
    pub(super) fn find_unchanged_lock(&self, at: &Location, lock: &Lock, now: u64) -> Option<u32> {
        // A lock that was read from this database shares its key with the stored one.
        let has_same_key = |stored: &Lock| {
            Arc::ptr_eq(stored.key_buf(), lock.key_buf()) || stored.key_buf() == lock.key_buf()
        };
        let mut row = self.find_by_hash(at)?;
        if !self.rows[row as usize].lock().is_some_and(has_same_key) {
            row = self.find_colliding(at, lock.key_buf().bytes())?;
        }
        let stored = self.rows[row as usize].lock()?;
        (stored.version() == lock.version() && stored.is_live(now)).then_some(row)
    }

    /// Sets the version of the lock in `row`, which
    /// [`find_unchanged_lock`](Stripe::find_unchanged_lock) found.
    pub(super) fn set_lock_version(&mut self, row: u32, version: Version) {
        if let Row::Lock { lock, .. } = &mut self.rows[row as usize] {
            lock.set_version(version);
        }
    }

    /// Returns the lock at `key` if it is live and needs no refresh.
    #[inline]
    pub(super) fn get_lock_fast(&self, at: &Location, key: &Key<'_>, now: u64) -> Option<Lock> {
        match &self.rows[self.find_by_hash(at)? as usize] {
            Row::Lock { lock, .. }
                if lock.is_live(now)
                    && lock.refreshed_ttl(now) == lock.ttl()
                    && lock.has_key(key.bytes()) =>
            {
                Some(Lock::clone(lock))
            }
            _ => None,
        }
    }

    /// Returns the lock at `key`, created or refreshed where necessary.
    pub(super) fn create_or_refresh_lock(
        &mut self,
        at: &Location,
        key: Key<'_>,
        now: u64,
        version: impl FnOnce() -> Version,
        removed: &mut RemovedRows<T>,
    ) -> Result<Lock, LockError> {
        if let Some(row) = self.find(at, key) {
            match &mut self.rows[row as usize] {
                Row::Lock { lock, .. } if lock.is_live(now) => {
                    let (old, new) = (lock.ttl(), lock.refreshed_ttl(now));
                    lock.set_ttl(new);
                    let lock = Lock::clone(lock);
                    self.update_expiry(row, Some(old), Some(new));
                    return Ok(lock);
                }
                Row::Item { item, .. } if item.is_live(now) => return Err(LockError::ItemExists),
                _ => removed.push(self.remove_row(row)),
            }
        }
        if !self.has_capacity(1) {
            return Err(LockError::StripeFull);
        }
        let lock = Lock::new(key, version(), now.saturating_add(Lock::LIFETIME));
        let hash = at.key_hash;
        self.add(Row::Lock {
            hash,
            lock: Box::new(lock.clone()),
        });
        Ok(lock)
    }

    /// Writes `item`, and returns the row that it replaces. The stripe must have capacity for one more
    /// row.
    pub(super) fn put(&mut self, at: &Location, item: Item<T>) -> Option<Row<T>> {
        let found = match self.find_by_hash(at) {
            Some(row) if !self.rows[row as usize].has_key_of(&item) => {
                self.find_colliding(at, item.key_buf().bytes())
            }
            found => found,
        };
        let hash = at.key_hash;
        let new = Row::Item { hash, item };
        let Some(row) = found else {
            let row = self.add(new);
            self.index_row(at.partition_hash, row);
            return None;
        };
        let ttl = new.ttl();
        let old = mem::replace(&mut self.rows[row as usize], new);
        self.update_expiry(row, old.ttl(), ttl);
        if old.item().is_none() {
            self.item_count += 1;
            self.index_row(at.partition_hash, row);
        }
        Some(old)
    }

    /// Removes the item or lock at `key`, and returns it.
    pub(super) fn remove(&mut self, at: &Location, key: Key<'_>) -> Option<Row<T>> {
        let row = self.find(at, key)?;
        Some(self.remove_row(row))
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
                Some(&(ttl, row)) if ttl < now => removed.push(self.remove_row(row)),
                _ => return count,
            }
        }
        max
    }

    /// Returns the live items in the given rows. Expired items and locks in them are removed.
    ///
    /// A row keeps its number until it is removed, whatever happens to the tables and the sorted rows
    /// of the partitions. So an item that is present throughout several calls, which together cover
    /// all rows once, is returned by exactly one of them.
    pub(super) fn live_items_of_rows(
        &mut self,
        numbers: Range<usize>,
        now: u64,
        removed: &mut RemovedRows<T>,
    ) -> Vec<Item<T>> {
        let rows = self.rows.get(numbers.clone()).unwrap_or_default();
        let mut items = Vec::with_capacity(rows.len());
        let mut expired: SmallVec<[u32; 8]> = SmallVec::new();
        for (number, row) in numbers.zip(rows) {
            if row.ttl().is_some_and(|ttl| ttl < now) {
                expired.push(number as u32);
            } else {
                items.extend(row.item().cloned());
            }
        }
        removed.extend(expired.into_iter().map(|row| self.remove_row(row)));
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
        removed.extend(expired.into_iter().map(|row| self.remove_row(row)));
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
                match self.rows[*row as usize].item() {
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
        let (mut from, mut to) = match prefix {
            [] => (rows.start(), rows.end()),
            _ => (
                rows.partition_point(|row| self.sk(row) < prefix),
                // Truncated to the prefix's length, a sort key that begins with the prefix is equal
                // to it. So no upper bound has to be computed from the prefix.
                rows.partition_point(|row| truncated(self.sk(row), prefix.len()) <= prefix),
            ),
        };
        let below = |sk: &[u8]| rows.partition_point(|row| self.sk(row) < sk);
        let up_to = |sk: &[u8]| rows.partition_point(|row| self.sk(row) <= sk);
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

    fn sk(&self, row: u32) -> &[u8] {
        self.rows[row as usize].key().1
    }

    /// Adds `row` to the slab, the hash index, the expiries and the count, but not to the sorted rows
    /// of a partition.
    fn add(&mut self, row: Row<T>) -> u32 {
        let (hash, ttl) = (row.hash(), row.ttl());
        self.item_count += usize::from(row.item().is_some());
        let number = match self.rows.get(self.free_head as usize) {
            Some(&Row::Vacant { next }) => {
                let number = mem::replace(&mut self.free_head, next);
                self.rows[number as usize] = row;
                number
            }
            _ => {
                self.rows.push(row);
                (self.rows.len() - 1) as u32
            }
        };
        let rows = &self.rows;
        self.by_key.insert_unique(widen_hash(hash), number, |row| {
            widen_hash(rows[*row as usize].hash())
        });
        self.update_expiry(number, None, ttl);
        number
    }

    /// Adds the item in `row` to the sorted rows of its partition.
    fn index_row(&mut self, hash: u32, row: u32) {
        let rows = &self.rows;
        let (pk, sk) = rows[row as usize].key();
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
                sorted.insert(row, |other| rows[other as usize].key().1.cmp(sk));
            }
        }
    }

    /// Removes the item in `row` from the sorted rows of its partition.
    fn unindex_row(&mut self, row: u32) {
        let rows = &self.rows;
        let (pk, sk) = rows[row as usize].key();
        let hash = self.hasher.hash_partition(pk) as u32;
        let found = self
            .partitions
            .find_entry(widen_hash(hash), |partition| partition.has_key(rows, pk));
        if let Ok(mut entry) = found {
            let sorted = &mut entry.get_mut().rows;
            sorted.remove(|other| rows[other as usize].key().1.cmp(sk));
            if sorted.is_empty() {
                entry.remove();
            }
        }
    }

    /// Removes `row` from the slab and all indexes, and returns it.
    fn remove_row(&mut self, row: u32) -> Row<T> {
        if self.rows[row as usize].item().is_some() {
            self.unindex_row(row);
            self.item_count -= 1;
        }
        let hash = self.rows[row as usize].hash();
        if let Ok(entry) = self
            .by_key
            .find_entry(widen_hash(hash), |other| *other == row)
        {
            entry.remove();
        }
        let vacant = Row::Vacant {
            next: self.free_head,
        };
        let old = mem::replace(&mut self.rows[row as usize], vacant);
        self.free_head = row;
        self.update_expiry(row, old.ttl(), None);
        old
    }

    /// Moves `row` in the index of expiries.
    #[inline]
    fn update_expiry(&mut self, row: u32, old: Option<u64>, new: Option<u64>) {
        if old != new {
            self.move_expiry(row, old, new);
        }
    }

    fn move_expiry(&mut self, row: u32, old: Option<u64>, new: Option<u64>) {
        if let Some(old) = old {
            self.expiries.remove(&(old, row));
        }
        if let Some(new) = new {
            self.expiries.insert((new, row));
        }
    }
}

fn truncated(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(..len).unwrap_or(bytes)
}

#[cfg(test)]
mod tests;
