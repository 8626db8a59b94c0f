//! One stripe: the items and locks of the partitions that fall to it.
//!
//! Plain `&mut self` code that never sees a mutex, a clock or a caller's code. What it removes it
//! hands out as [`RemovedRows`], for the caller to drop after unlocking.

use super::order::{Order, Place};
use crate::deferred_drop::DeferredDrop;
use crate::hash::KeyHasher;
use crate::sync::Arc;
use crate::{Item, Key, Lock, Query, Version};
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::{mem, slice};

/// Rows that were replaced or removed, kept alive until no mutex is held.
pub(super) type RemovedRows<T> = DeferredDrop<Row<T>>;

/// Where a key lives: computed once, outside the mutex.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub(super) stripe: u32,
    partition: u32,
    pub(super) row: u32,
}

impl Address {
    /// The address of the key with these `bytes` among `stripes` stripes, a power of two.
    #[inline]
    pub(super) fn new(hasher: &KeyHasher, bytes: (&[u8], &[u8]), stripes: usize) -> Self {
        let (partition, row) = hasher.hash_parts(bytes);
        Address {
            stripe: stripe_of(partition, stripes) as u32,
            partition: partition as u32,
            row: row as u32,
        }
    }
}

/// The stripe of the partition with this hash. A stripe's own tables use the lower half of a hash
/// (see [`spread`]), so the choice is made by bits of the upper half: were it made by theirs, each
/// stripe would use only its share of their buckets.
pub(super) fn stripe_of(partition_hash: u64, stripes: usize) -> usize {
    (partition_hash >> 32) as usize & (stripes - 1)
}

/// The table hash of a 32-bit one. Tables choose a bucket by a hash's lowest bits and a tag by its
/// highest seven; 32 bits that are both are enough for both, and half the size in every row.
fn spread(hash: u32) -> u64 {
    u64::from(hash) * 0x1_0000_0001
}

/// A slot of the slab: what is at one key, or a link of the free list. At most 24 bytes, for there
/// is one for every item.
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
            // Whatever it is, no index holds a vacant row; this one costs no branch.
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

    /// Whether this is at the key of `item`.
    fn is_at_key_of(&self, item: &Item<T>) -> bool {
        match self {
            Row::Item { item: held, .. } => held.key_buf() == item.key_buf(),
            Row::Lock { lock, .. } => **lock.key_buf() == *item.key_buf(),
            Row::Vacant { .. } => false,
        }
    }

    /// The bytes of the key, in whose order rows are.
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

/// The end of the free list, and so never a row.
const NO_ROW: u32 = u32::MAX;

/// The most rows that a stripe can number.
pub(super) const MAX_ROWS: usize = NO_ROW as usize;

/// The items of one partition key, in order. Its rows know the key itself.
#[derive(Debug)]
struct Partition {
    hash: u32,
    order: Order,
}

/// What a hash says of an item.
#[derive(Debug)]
pub(super) enum Likely<T> {
    /// An item with the same hash, of this key unless two keys share it.
    Item(Item<T>),
    /// Nothing is there.
    Nothing,
    /// Something that is no item has the same hash.
    Unclear,
}

/// Why a lock cannot be read.
#[derive(Debug, PartialEq)]
pub(super) enum NoLock {
    /// A live item is at its key.
    Item,
    /// The stripe is full.
    Room,
}

/// Rules that hold between calls, which `validate` checks in tests:
///
/// 1. Every row that is not vacant is in `by_key` once, under its hash; every vacant one is on the
///    free list once.
/// 2. Every item is in the order of its partition once. No lock is, so that a query need not step
///    over them.
/// 3. No partition is empty, so its first row tells its key.
/// 4. Every row with a time to live is in `expiries` under it, and nothing else is.
/// 5. `items` counts the items.
#[derive(Debug)]
pub(super) struct Stripe<T> {
    rows: Vec<Row<T>>,
    vacant: u32,
    by_key: HashTable<u32>,
    partitions: HashTable<Partition>,
    expiries: BTreeSet<(u64, u32)>,
    items: usize,
    hasher: KeyHasher,
    max_rows: usize,
}

impl<T> Stripe<T> {
    /// An empty stripe with room for `capacity` rows before it grows, that never holds more than
    /// `max_rows`.
    pub(super) fn new(hasher: KeyHasher, capacity: usize, max_rows: usize) -> Self {
        let (mut rows, mut by_key) = (Vec::new(), HashTable::new());
        // The capacity is a wish: where there is not that much memory, it comes to nothing.
        let capacity = capacity.min(max_rows);
        if rows.try_reserve(capacity).is_ok() {
            let _ = by_key.try_reserve(capacity, |_| 0);
        }
        Stripe {
            rows,
            vacant: NO_ROW,
            by_key,
            partitions: HashTable::new(),
            expiries: BTreeSet::new(),
            items: 0,
            hasher,
            max_rows,
        }
    }

    /// How many items there are, expired ones that were not removed yet included.
    pub(super) fn items(&self) -> usize {
        self.items
    }

    /// Whether `more` rows can be added.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.by_key.len().saturating_add(more) <= self.max_rows
    }

    #[inline]
    fn find(&self, at: &Address, key: Key<'_>) -> Option<u32> {
        let row = self.first_at(at)?;
        match self.rows[row as usize].has_key(key.bytes()) {
            true => Some(row),
            false => self.find_among_equal_hashes(at, key.bytes()),
        }
    }

    /// The first row with this hash, which nearly always is the one at the address. The table's own
    /// loop compares nothing but hashes so, which keeps it in registers.
    #[inline]
    fn first_at(&self, at: &Address) -> Option<u32> {
        let is = |row: &u32| self.rows[*row as usize].hash() == at.row;
        self.by_key.find(spread(at.row), is).copied()
    }

    #[cold]
    fn find_among_equal_hashes(&self, at: &Address, bytes: (&[u8], &[u8])) -> Option<u32> {
        let rows = &self.rows;
        self.by_key
            .find(spread(at.row), |row| rows[*row as usize].has_key(bytes))
            .copied()
    }

    /// What is most likely at the address, judged by its hash alone.
    #[inline]
    pub(super) fn likely_item(&self, at: &Address) -> Likely<T> {
        match self.first_at(at).map(|row| &self.rows[row as usize]) {
            None => Likely::Nothing,
            Some(Row::Item { item, .. }) => Likely::Item(item.clone()),
            Some(_) => Likely::Unclear,
        }
    }

    /// The item at `key` that is live at `now`. One that has expired is removed.
    pub(super) fn live_item(
        &mut self,
        at: &Address,
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

    /// Whether a live item is at `key`.
    pub(super) fn has_item(&self, at: &Address, key: Key<'_>, now: u64) -> bool {
        let row = self.find(at, key);
        let item = row.and_then(|row| self.rows[row as usize].item());
        item.is_some_and(|item| item.is_live(now))
    }

    /// The row of `lock` if it is live and has the same version.
    pub(super) fn unchanged(&self, at: &Address, lock: &Lock, now: u64) -> Option<u32> {
        // Whoever read the lock here shares its key with it.
        let is_key_of = |held: &Lock| {
            Arc::ptr_eq(held.key_buf(), lock.key_buf()) || held.key_buf() == lock.key_buf()
        };
        let mut row = self.first_at(at)?;
        if !self.rows[row as usize].lock().is_some_and(is_key_of) {
            row = self.find_among_equal_hashes(at, lock.key_buf().bytes())?;
        }
        let held = self.rows[row as usize].lock()?;
        (held.version() == lock.version() && held.is_live(now)).then_some(row)
    }

    /// Gives the lock in `row`, which [`unchanged`](Stripe::unchanged) found, its next version.
    pub(super) fn renew(&mut self, row: u32, version: Version) {
        if let Row::Lock { lock, .. } = &mut self.rows[row as usize] {
            lock.set_version(version);
        }
    }

    /// The live lock at `key`, unless it is to be refreshed.
    #[inline]
    pub(super) fn lasting_lock(&self, at: &Address, key: &Key<'_>, now: u64) -> Option<Lock> {
        match &self.rows[self.first_at(at)? as usize] {
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

    /// The lock at `key`, made or refreshed if need be.
    pub(super) fn lock(
        &mut self,
        at: &Address,
        key: Key<'_>,
        now: u64,
        version: impl FnOnce() -> Version,
        removed: &mut RemovedRows<T>,
    ) -> Result<Lock, NoLock> {
        if let Some(row) = self.find(at, key) {
            match &mut self.rows[row as usize] {
                Row::Lock { lock, .. } if lock.is_live(now) => {
                    let (old, new) = (lock.ttl(), lock.refreshed_ttl(now));
                    lock.set_ttl(new);
                    let lock = Lock::clone(lock);
                    self.expires_instead(row, Some(old), Some(new));
                    return Ok(lock);
                }
                Row::Item { item, .. } if item.is_live(now) => return Err(NoLock::Item),
                _ => removed.push(self.remove_row(row)),
            }
        }
        if !self.has_room(1) {
            return Err(NoLock::Room);
        }
        let lock = Lock::new(key, version(), now.saturating_add(Lock::LIFETIME));
        let hash = at.row;
        self.add(Row::Lock {
            hash,
            lock: Box::new(lock.clone()),
        });
        Ok(lock)
    }

    /// Writes `item` over whatever is at its key, and hands that out. There must be room for one
    /// more.
    pub(super) fn put(&mut self, at: &Address, item: Item<T>) -> Option<Row<T>> {
        let found = match self.first_at(at) {
            Some(row) if !self.rows[row as usize].is_at_key_of(&item) => {
                self.find_among_equal_hashes(at, item.key_buf().bytes())
            }
            found => found,
        };
        let hash = at.row;
        let new = Row::Item { hash, item };
        let Some(row) = found else {
            let row = self.add(new);
            self.arrange(at.partition, row);
            return None;
        };
        let ttl = new.ttl();
        let old = mem::replace(&mut self.rows[row as usize], new);
        self.expires_instead(row, old.ttl(), ttl);
        if old.item().is_none() {
            self.items += 1;
            self.arrange(at.partition, row);
        }
        Some(old)
    }

    /// Removes what is at `key` and hands it out, if anything is.
    pub(super) fn remove(&mut self, at: &Address, key: Key<'_>) -> Option<Row<T>> {
        let row = self.find(at, key)?;
        Some(self.remove_row(row))
    }

    /// Removes at most `max` rows that have expired at `now`; returns how many it removed. Costs
    /// what it removes, whatever else is stored.
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

    /// At most `max` live items of what `query` asks for, and whether there are more. Expired ones
    /// that are met are removed.
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
        let found = self.partitions.find(spread(hash), |partition| {
            self.is_of(partition, query.pk.as_bytes())
        });
        let Some(Partition { order, .. }) = found else {
            return (Vec::new(), false);
        };
        let (from, to) = self.bounds(order, query, after);
        let max = max.min(order.count(from, to));
        let blocks = order.slices(from, to);
        let (items, expired, more) = match query.reverse {
            false => self.live_items(blocks.map(|rows| rows.iter()), max, now),
            true => self.live_items(blocks.rev().map(|rows| rows.iter().rev()), max, now),
        };
        removed.extend(expired.into_iter().map(|row| self.remove_row(row)));
        (items, more)
    }

    /// At most `max` live items of the rows of `blocks`, the expired rows that are met, and whether
    /// there are more.
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
                    // Room is made before the clone. A push clones first, and what it keeps at hand
                    // to undo that takes a sixth of this loop's instructions.
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

    /// The places between which the rows of a query lie.
    fn bounds(&self, order: &Order, query: &Query, after: Option<&str>) -> (Place, Place) {
        let prefix = query.prefix.as_bytes();
        let after = after.map(str::as_bytes);
        let (mut from, mut to) = match prefix {
            [] => (order.start(), order.end()),
            _ => (
                order.place(|row| self.sk(row) < prefix),
                // Up to the prefix's length: what is smaller, and what begins with it.
                order.place(|row| start_of(self.sk(row), prefix.len()) <= prefix),
            ),
        };
        if let Some(after) = after {
            match query.reverse {
                false => from = from.max(order.place(|row| self.sk(row) <= after)),
                true => to = to.min(order.place(|row| self.sk(row) < after)),
            }
        }
        (from, to)
    }

    fn sk(&self, row: u32) -> &[u8] {
        self.rows[row as usize].key().1
    }

    fn is_of(&self, partition: &Partition, pk: &[u8]) -> bool {
        let first = partition.order.first();
        first.is_some_and(|row| self.rows[row as usize].key().0 == pk)
    }

    /// Puts `row` into the slab, the index, the expiries and the count; not into an order.
    fn add(&mut self, row: Row<T>) -> u32 {
        let (hash, ttl) = (row.hash(), row.ttl());
        self.items += usize::from(row.item().is_some());
        let number = match self.rows.get(self.vacant as usize) {
            Some(&Row::Vacant { next }) => {
                let number = mem::replace(&mut self.vacant, next);
                self.rows[number as usize] = row;
                number
            }
            _ => {
                self.rows.push(row);
                (self.rows.len() - 1) as u32
            }
        };
        let rows = &self.rows;
        self.by_key.insert_unique(spread(hash), number, |row| {
            spread(rows[*row as usize].hash())
        });
        self.expires_instead(number, None, ttl);
        number
    }

    /// Puts the item in `row` into the order of its partition.
    fn arrange(&mut self, hash: u32, row: u32) {
        let rows = &self.rows;
        let (pk, sk) = rows[row as usize].key();
        let entry = self.partitions.entry(
            spread(hash),
            |partition| {
                let first = partition.order.first();
                first.is_some_and(|row| rows[row as usize].key().0 == pk)
            },
            |partition| spread(partition.hash),
        );
        match entry {
            hashbrown::hash_table::Entry::Vacant(entry) => {
                let order = Order::of(row);
                entry.insert(Partition { hash, order });
            }
            hashbrown::hash_table::Entry::Occupied(mut entry) => {
                let order = &mut entry.get_mut().order;
                order.insert(row, |other| rows[other as usize].key().1.cmp(sk));
            }
        }
    }

    /// Takes the item in `row` out of the order of its partition.
    fn disarrange(&mut self, row: u32) {
        let rows = &self.rows;
        let (pk, sk) = rows[row as usize].key();
        let hash = self.hasher.hash_partition(pk) as u32;
        let found = self.partitions.find_entry(spread(hash), |partition| {
            let first = partition.order.first();
            first.is_some_and(|row| rows[row as usize].key().0 == pk)
        });
        if let Ok(mut entry) = found {
            let order = &mut entry.get_mut().order;
            order.remove(|other| rows[other as usize].key().1.cmp(sk));
            if order.is_empty() {
                entry.remove();
            }
        }
    }

    /// Takes `row` out of everything, and hands it out.
    fn remove_row(&mut self, row: u32) -> Row<T> {
        if self.rows[row as usize].item().is_some() {
            self.disarrange(row);
            self.items -= 1;
        }
        let hash = self.rows[row as usize].hash();
        if let Ok(entry) = self.by_key.find_entry(spread(hash), |other| *other == row) {
            entry.remove();
        }
        let vacant = Row::Vacant { next: self.vacant };
        let old = mem::replace(&mut self.rows[row as usize], vacant);
        self.vacant = row;
        self.expires_instead(row, old.ttl(), None);
        old
    }

    /// Moves `row` in the index of expiries.
    #[inline]
    fn expires_instead(&mut self, row: u32, old: Option<u64>, new: Option<u64>) {
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

fn start_of(bytes: &[u8], most: usize) -> &[u8] {
    bytes.get(..most).unwrap_or(bytes)
}

#[cfg(test)]
mod tests;
