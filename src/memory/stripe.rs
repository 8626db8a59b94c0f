//! One stripe: the items and locks of the partitions that fall to it.
//!
//! Plain `&mut self` code that never sees a mutex, a clock or a caller's code. What it removes it
//! hands out as [`RemovedRows`], for the caller to drop after unlocking.

use super::order::{Order, Place};
use crate::hash::KeyHasher;
use crate::removed::Removed;
use crate::{Item, Key, Lock, Query, Version};
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// Rows that were replaced or removed, kept alive until no mutex is held.
pub(super) type RemovedRows<T> = Removed<Row<T>>;

/// Where a key lives: computed once, outside the mutex.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    /// Chooses the stripe.
    pub(super) stripe: usize,
    partition: u32,
    row: u32,
}

impl Address {
    /// The address of `key` among `stripes` stripes, a power of two.
    pub(super) fn new(hasher: &KeyHasher, key: Key<'_>, stripes: usize) -> Self {
        let partition = hasher.partition(key.pk);
        Address {
            stripe: stripe_of(partition, stripes),
            partition: partition as u32,
            row: hasher.row(partition, key.sk) as u32,
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
    fn is_at(&self, key: Key<'_>) -> bool {
        match self {
            Row::Item { item, .. } => item.is_at(key),
            Row::Lock { lock, .. } => lock.is_at(key),
            Row::Vacant { .. } => false,
        }
    }

    fn hash(&self) -> u32 {
        match self {
            Row::Item { hash, .. } | Row::Lock { hash, .. } => *hash,
            Row::Vacant { .. } => 0,
        }
    }

    fn item(&self) -> Option<&Item<T>> {
        match self {
            Row::Item { item, .. } => Some(item),
            _ => None,
        }
    }

    fn key(&self) -> Key<'_> {
        match self {
            Row::Item { item, .. } => item.key(),
            Row::Lock { lock, .. } => lock.key(),
            Row::Vacant { .. } => Key::new("", ""),
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

    fn find(&self, at: &Address, key: Key<'_>) -> Option<u32> {
        let rows = &self.rows;
        self.by_key
            .find(spread(at.row), |row| rows[*row as usize].is_at(key))
            .copied()
    }

    /// The item at `key`, live or not.
    pub(super) fn item(&self, at: &Address, key: Key<'_>) -> Option<Item<T>> {
        let row = self.find(at, key)?;
        self.rows[row as usize].item().cloned()
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
        self.remove_row(row, removed);
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
        let row = self.find(at, lock.key())?;
        match &self.rows[row as usize] {
            Row::Lock { lock: held, .. }
                if held.version() == lock.version() && held.is_live(now) =>
            {
                Some(row)
            }
            _ => None,
        }
    }

    /// Gives the lock in `row`, which [`unchanged`](Stripe::unchanged) found, its next version.
    pub(super) fn renew(&mut self, row: u32, version: Version) {
        if let Row::Lock { lock, .. } = &mut self.rows[row as usize] {
            lock.set_version(version);
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
                _ => self.remove_row(row, removed),
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

    /// Writes `item` over whatever is at its key. There must be room for one more.
    pub(super) fn put(&mut self, at: &Address, item: Item<T>, removed: &mut RemovedRows<T>) {
        let new = Row::Item { hash: at.row, item };
        let Some(row) = self.find(at, new.key()) else {
            let row = self.add(new);
            self.arrange(at.partition, row);
            return;
        };
        let ttl = new.ttl();
        let old = std::mem::replace(&mut self.rows[row as usize], new);
        self.expires_instead(row, old.ttl(), ttl);
        if old.item().is_none() {
            self.items += 1;
            self.arrange(at.partition, row);
        }
        removed.push(old);
    }

    /// Removes what is at `key`, if anything is.
    pub(super) fn remove(&mut self, at: &Address, key: Key<'_>, removed: &mut RemovedRows<T>) {
        if let Some(row) = self.find(at, key) {
            self.remove_row(row, removed);
        }
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
                Some(&(ttl, row)) if ttl < now => self.remove_row(row, removed),
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
        let found = self
            .partitions
            .find(spread(hash), |partition| self.is_of(partition, query.pk()));
        let Some(Partition { order, .. }) = found else {
            return (Vec::new(), false);
        };
        let (from, to) = self.bounds(order, query, after);
        let mut items = Vec::with_capacity(order.count(from, to).min(max));
        let mut expired: SmallVec<[u32; 8]> = SmallVec::new();
        let mut more = false;
        let mut visit = |row: u32| match self.rows[row as usize].item() {
            Some(item) if !item.is_live(now) => {
                expired.push(row);
                true
            }
            Some(item) if items.len() < max => {
                items.push(item.clone());
                true
            }
            _ => {
                more = true;
                false
            }
        };
        match query.is_reverse() {
            false => order.range(from, to).all(&mut visit),
            true => order.range(from, to).rev().all(&mut visit),
        };
        for row in expired {
            self.remove_row(row, removed);
        }
        (items, more)
    }

    /// The places between which the rows of a query lie.
    fn bounds(&self, order: &Order, query: &Query, after: Option<&str>) -> (Place, Place) {
        let prefix = query.sk_prefix();
        let (mut from, mut to) = match prefix {
            "" => (order.start(), order.end()),
            _ => (
                order.place(|row| self.sk(row) < prefix),
                order.place(|row| self.sk(row) < prefix || self.sk(row).starts_with(prefix)),
            ),
        };
        if let Some(after) = after {
            match query.is_reverse() {
                false => from = from.max(order.place(|row| self.sk(row) <= after)),
                true => to = to.min(order.place(|row| self.sk(row) < after)),
            }
        }
        (from, to)
    }

    fn sk(&self, row: u32) -> &str {
        self.rows[row as usize].key().sk
    }

    fn is_of(&self, partition: &Partition, pk: &str) -> bool {
        let first = partition.order.first();
        first.is_some_and(|row| self.rows[row as usize].key().pk == pk)
    }

    /// Puts `row` into the slab, the index, the expiries and the count; not into an order.
    fn add(&mut self, row: Row<T>) -> u32 {
        let (hash, ttl) = (row.hash(), row.ttl());
        self.items += usize::from(row.item().is_some());
        let number = match self.rows.get(self.vacant as usize) {
            Some(&Row::Vacant { next }) => {
                let number = std::mem::replace(&mut self.vacant, next);
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
        let key = rows[row as usize].key();
        let entry = self.partitions.entry(
            spread(hash),
            |partition| {
                let first = partition.order.first();
                first.is_some_and(|row| rows[row as usize].key().pk == key.pk)
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
                order.insert(row, |other| rows[other as usize].key().sk.cmp(key.sk));
            }
        }
    }

    /// Takes the item in `row` out of the order of its partition.
    fn disarrange(&mut self, row: u32) {
        let rows = &self.rows;
        let key = rows[row as usize].key();
        let hash = self.hasher.partition(key.pk) as u32;
        let found = self.partitions.find_entry(spread(hash), |partition| {
            let first = partition.order.first();
            first.is_some_and(|row| rows[row as usize].key().pk == key.pk)
        });
        if let Ok(mut entry) = found {
            let order = &mut entry.get_mut().order;
            order.remove(|other| rows[other as usize].key().sk.cmp(key.sk));
            if order.is_empty() {
                entry.remove();
            }
        }
    }

    /// Takes `row` out of everything.
    fn remove_row(&mut self, row: u32, removed: &mut RemovedRows<T>) {
        if self.rows[row as usize].item().is_some() {
            self.disarrange(row);
            self.items -= 1;
        }
        let hash = self.rows[row as usize].hash();
        if let Ok(entry) = self.by_key.find_entry(spread(hash), |other| *other == row) {
            entry.remove();
        }
        let vacant = Row::Vacant { next: self.vacant };
        let old = std::mem::replace(&mut self.rows[row as usize], vacant);
        self.vacant = row;
        self.expires_instead(row, old.ttl(), None);
        removed.push(old);
    }

    /// Moves `row` in the index of expiries.
    fn expires_instead(&mut self, row: u32, old: Option<u64>, new: Option<u64>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.expiries.remove(&(old, row));
        }
        if let Some(new) = new {
            self.expiries.insert((new, row));
        }
    }
}

#[cfg(test)]
mod tests;
