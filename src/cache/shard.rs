//! One shard of the cache: its capacity, and the fills and writes that are in flight.
//!
//! Plain `&mut self` code that never sees a mutex, a clock or the inner database. Removed items are
//! handed to the caller as [`RemovedItems`], which drops them after unlocking.

use super::list::{Keyed, LruList, MAX_ENTRIES};
use crate::deferred_drop::DeferredDrop;
use crate::{Item, Key};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

/// Removed items, kept alive until no mutex is held.
pub(super) type RemovedItems<T> = DeferredDrop<Item<T>>;

/// Invariants between calls. Together they make the shard linearizable per key, as long as all writes
/// go through it (guarantee 19):
///
/// 1. A key has no entry while a write of it is in flight. The write removes the entry when it
///    begins, and no entry is stored until it ends.
/// 2. A fill is stored only if no write of its key was in flight when it began, and none has begun
///    since.
/// 3. A successful write is stored only if no other write of its key was in flight at any time since
///    it began. Otherwise the order of the writes is unknown.
///
/// So an entry is equal to the item in the inner database for as long as it is cached.
#[derive(Debug)]
pub(super) struct Shard<T> {
    list: LruList<Entry<T>>,
    capacity: usize,
    in_flight: HashTable<InFlight>,
    /// The generation of the next entry. An entry that is removed and stored again has another one,
    /// so an entry with the same generation has been cached throughout.
    generation: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
}

#[derive(Debug)]
struct Entry<T> {
    item: Item<T>,
    generation: u64,
}

impl<T> Keyed for Entry<T> {
    type Key<'k> = &'k Key<'k>;

    #[inline(always)]
    fn has_key(&self, key: &Key<'_>) -> bool {
        self.item.has_key(key.bytes())
    }
}

/// The fills and writes of the keys with one hash. Two keys that share all 64 bits share the record.
/// One of them may then not be cached, which is harmless, and the record does not need the key.
#[derive(Debug)]
struct InFlight {
    hash: u64,
    fills: u32,
    writes: u32,
    /// Incremented by every write that begins and by every invalidation: each makes the fills that
    /// are in flight outdated.
    epoch: u64,
}

/// A fill or a write that is in flight.
#[derive(Debug)]
#[must_use = "a ticket that is never ended leaks its in-flight record"]
pub(super) struct Ticket {
    hash: u64,
    epoch: u64,
    /// No other write was in flight when it began.
    exclusive: bool,
}

impl Ticket {
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

/// The result of a lookup.
#[derive(Debug)]
pub(super) enum Lookup<T> {
    /// A cached item, which may have expired, and the generation of its entry.
    Hit(Item<T>, u64),
    /// The key is not cached, and a fill has begun.
    Miss(Ticket),
}

impl<T> Shard<T> {
    /// Creates an empty shard that holds at most `capacity` items.
    pub(super) fn new(capacity: usize) -> Self {
        Shard {
            list: LruList::new(),
            capacity: capacity.min(MAX_ENTRIES),
            in_flight: HashTable::new(),
            generation: 0,
            hits: 0,
            misses: 0,
            evictions: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Returns the number of hits, misses and evictions.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (self.hits, self.misses, self.evictions)
    }

    /// Returns the item at `key`, and makes it the most recently used one. Begins a fill if it is not
    /// cached.
    pub(super) fn lookup(&mut self, hash: u64, key: Key<'_>) -> Lookup<T> {
        if let Some(entry) = self.list.touch(hash, &key) {
            self.hits += 1;
            return Lookup::Hit(entry.item.clone(), entry.generation);
        }
        self.misses += 1;
        Lookup::Miss(self.begin_fill(hash))
    }

    /// Returns the item at `key` if it is cached and cannot expire, and makes it the most recently
    /// used one. Otherwise the caller calls [`lookup`](Shard::lookup).
    #[inline]
    pub(super) fn get_fast(&mut self, hash: u64, key: &Key<'_>) -> Option<Item<T>> {
        let entry = self.list.touch(hash, key)?;
        if entry.item.ttl().is_some() {
            return None;
        }
        self.hits += 1;
        Some(entry.item.clone())
    }

    /// Counts a hit on an expired entry as a miss, removes that entry, and begins a fill.
    pub(super) fn discard_expired(
        &mut self,
        hash: u64,
        key: Key<'_>,
        generation: u64,
        removed: &mut RemovedItems<T>,
    ) -> Ticket {
        self.hits -= 1;
        self.misses += 1;
        if self.is_current(hash, key, generation) {
            self.remove(hash, key, removed);
        }
        self.begin_fill(hash)
    }

    /// Returns whether the entry of this generation is still cached.
    pub(super) fn is_current(&self, hash: u64, key: Key<'_>, generation: u64) -> bool {
        let entry = self.list.peek(hash, &key);
        entry.is_some_and(|entry| entry.generation == generation)
    }

    fn begin_fill(&mut self, hash: u64) -> Ticket {
        let in_flight = self.in_flight_entry(hash);
        in_flight.fills += 1;
        Ticket {
            hash,
            epoch: in_flight.epoch,
            exclusive: in_flight.writes == 0,
        }
    }

    /// Ends a fill that read `item` from the inner database. `None` if there was no item or the read
    /// failed.
    pub(super) fn end_fill(
        &mut self,
        ticket: Ticket,
        item: Option<Item<T>>,
        removed: &mut RemovedItems<T>,
    ) {
        let current = self.finish(&ticket, |in_flight| in_flight.fills -= 1);
        self.insert_if_current(current, ticket.hash, item, removed);
    }

    /// Begins a write of the item at `key`, and removes its entry (invariant 1).
    pub(super) fn begin_write(
        &mut self,
        hash: u64,
        key: Key<'_>,
        removed: &mut RemovedItems<T>,
    ) -> Ticket {
        self.remove(hash, key, removed);
        let in_flight = self.in_flight_entry(hash);
        in_flight.writes += 1;
        in_flight.epoch += 1;
        Ticket {
            hash,
            epoch: in_flight.epoch,
            exclusive: in_flight.writes == 1,
        }
    }

    /// Ends a write that wrote `item` to the inner database. `None` if it deleted the item, failed, or
    /// its outcome is unknown.
    pub(super) fn end_write(
        &mut self,
        ticket: Ticket,
        item: Option<Item<T>>,
        removed: &mut RemovedItems<T>,
    ) {
        let current = self.finish(&ticket, |in_flight| in_flight.writes -= 1);
        self.insert_if_current(current, ticket.hash, item, removed);
    }

    /// Removes the item at `key`. Fills and writes of it that are in flight store nothing.
    pub(super) fn invalidate(&mut self, hash: u64, key: Key<'_>, removed: &mut RemovedItems<T>) {
        self.remove(hash, key, removed);
        let found = self
            .in_flight
            .find_mut(hash, |in_flight| in_flight.hash == hash);
        if let Some(in_flight) = found {
            in_flight.epoch += 1;
        }
    }

    /// Removes all items. Fills and writes that are in flight store nothing.
    pub(super) fn clear(&mut self, removed: &mut RemovedItems<T>) {
        while let Some(entry) = self.list.remove_tail() {
            removed.push(entry.item);
        }
        for in_flight in self.in_flight.iter_mut() {
            in_flight.epoch += 1;
        }
    }

    /// Returns how many hashes have fills or writes in flight.
    #[cfg(test)]
    pub(super) fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    fn in_flight_entry(&mut self, hash: u64) -> &mut InFlight {
        let slot = self.in_flight.entry(
            hash,
            |in_flight| in_flight.hash == hash,
            |in_flight| in_flight.hash,
        );
        let slot = slot.or_insert_with(|| InFlight {
            hash,
            fills: 0,
            writes: 0,
            epoch: 0,
        });
        slot.into_mut()
    }

    /// Removes a fill or a write from its in-flight record, and returns whether its item may be stored
    /// (invariants 2 and 3).
    fn finish(&mut self, ticket: &Ticket, end: impl FnOnce(&mut InFlight)) -> bool {
        let hash = ticket.hash;
        let slot = self.in_flight.entry(
            hash,
            |in_flight| in_flight.hash == hash,
            |in_flight| in_flight.hash,
        );
        let Slot::Occupied(mut slot) = slot else {
            return false;
        };
        let in_flight = slot.get_mut();
        end(in_flight);
        let current = ticket.exclusive && in_flight.epoch == ticket.epoch;
        if in_flight.fills == 0 && in_flight.writes == 0 {
            slot.remove();
        }
        current
    }

    fn insert_if_current(
        &mut self,
        current: bool,
        hash: u64,
        item: Option<Item<T>>,
        removed: &mut RemovedItems<T>,
    ) {
        let Some(item) = item else { return };
        if !current || self.capacity == 0 {
            removed.push(item);
            return;
        }
        // A concurrent fill may already have stored an entry.
        if self.list.has_hash(hash) {
            self.remove(hash, item.key(), removed);
        }
        if self.list.len() == self.capacity {
            let evicted = self.list.remove_tail();
            removed.extend(evicted.map(|entry| entry.item));
            self.evictions += 1;
        }
        let generation = self.generation;
        self.generation += 1;
        self.list.insert(hash, Entry { item, generation });
    }

    fn remove(&mut self, hash: u64, key: Key<'_>, removed: &mut RemovedItems<T>) {
        let entry = self.list.remove(hash, &key);
        removed.extend(entry.map(|entry| entry.item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key<'static> = Key::new("pk", "sk");
    const HASH: u64 = 7;

    fn item(data: u32) -> Item<u32> {
        Item::new(KEY.pk, KEY.sk, data)
    }

    /// Returns the cached data, without counting a hit or beginning a fill.
    fn cached(shard: &Shard<u32>) -> Option<u32> {
        let entry = shard.list.peek(HASH, &KEY);
        entry.and_then(|entry| entry.item.data().copied())
    }

    fn begin_fill(shard: &mut Shard<u32>) -> Ticket {
        match shard.lookup(HASH, KEY) {
            Lookup::Miss(ticket) => ticket,
            Lookup::Hit(item, _) => panic!("{item:?} is cached"),
        }
    }

    fn begin_write(shard: &mut Shard<u32>) -> Ticket {
        shard.begin_write(HASH, KEY, &mut RemovedItems::new())
    }

    fn end_fill(shard: &mut Shard<u32>, ticket: Ticket, data: u32) {
        shard.end_fill(ticket, Some(item(data)), &mut RemovedItems::new());
    }

    fn end_write(shard: &mut Shard<u32>, ticket: Ticket, data: Option<u32>) {
        shard.end_write(ticket, data.map(item), &mut RemovedItems::new());
    }

    #[test]
    fn a_fill_and_a_write_without_concurrent_calls_are_stored() {
        let mut shard = Shard::new(2);
        let fill = begin_fill(&mut shard);
        end_fill(&mut shard, fill, 1);
        assert_eq!(cached(&shard), Some(1));
        let write = begin_write(&mut shard);
        assert_eq!(
            cached(&shard),
            None,
            "an entry is cached while a write is in flight"
        );
        end_write(&mut shard, write, Some(2));
        assert_eq!(cached(&shard), Some(2));
        assert_eq!(shard.in_flight_count(), 0);
    }

    #[test]
    fn a_fill_that_began_before_or_during_a_write_is_not_stored() {
        let mut shard = Shard::new(2);
        let before = begin_fill(&mut shard);
        let write = begin_write(&mut shard);
        let during = begin_fill(&mut shard);
        let late = begin_fill(&mut shard);
        end_fill(&mut shard, during, 1);
        assert_eq!(cached(&shard), None);
        end_write(&mut shard, write, Some(2));
        end_fill(&mut shard, before, 1);
        assert_eq!(
            cached(&shard),
            Some(2),
            "a late fill replaced a newer write"
        );
        end_fill(&mut shard, late, 1);
        assert_eq!(
            cached(&shard),
            Some(2),
            "a late fill replaced a newer write"
        );
        assert_eq!(shard.in_flight_count(), 0);
    }

    #[test]
    fn a_fill_that_began_after_a_write_ended_is_stored_even_if_older_fills_are_in_flight() {
        for old_ends_last in [true, false] {
            let mut shard = Shard::new(2);
            let old = begin_fill(&mut shard);
            let write = begin_write(&mut shard);
            end_write(&mut shard, write, None);
            let new = begin_fill(&mut shard);
            if old_ends_last {
                end_fill(&mut shard, new, 2);
                end_fill(&mut shard, old, 1);
            } else {
                end_fill(&mut shard, old, 1);
                assert_eq!(cached(&shard), None, "a late fill is cached");
                end_fill(&mut shard, new, 2);
            }
            assert_eq!(cached(&shard), Some(2));
            assert_eq!(shard.in_flight_count(), 0);
        }
    }

    #[test]
    fn overlapping_writes_are_not_stored_whichever_ends_last() {
        for first_ends_last in [true, false] {
            let mut shard = Shard::new(2);
            let first = begin_write(&mut shard);
            let second = begin_write(&mut shard);
            let (a, b) = if first_ends_last {
                (second, first)
            } else {
                (first, second)
            };
            end_write(&mut shard, a, Some(1));
            end_write(&mut shard, b, Some(2));
            assert_eq!(cached(&shard), None);
            assert_eq!(shard.in_flight_count(), 0);
        }
    }

    #[test]
    fn a_write_that_failed_or_deleted_leaves_nothing_cached() {
        let mut shard = Shard::new(2);
        let fill = begin_fill(&mut shard);
        end_fill(&mut shard, fill, 1);
        let write = begin_write(&mut shard);
        end_write(&mut shard, write, None);
        assert_eq!(cached(&shard), None);
    }

    #[test]
    fn a_fill_in_flight_is_not_stored_after_invalidate_or_clear() {
        let mut shard = Shard::new(2);
        let fill = begin_fill(&mut shard);
        shard.invalidate(HASH, KEY, &mut RemovedItems::new());
        end_fill(&mut shard, fill, 1);
        assert_eq!(cached(&shard), None);

        let fill = begin_fill(&mut shard);
        shard.clear(&mut RemovedItems::new());
        end_fill(&mut shard, fill, 1);
        assert_eq!(cached(&shard), None);
        assert_eq!(shard.in_flight_count(), 0);
    }

    #[test]
    fn an_entry_that_was_removed_and_stored_again_has_another_generation() {
        let mut shard = Shard::new(2);
        let same = item(1);
        let fill = begin_fill(&mut shard);
        shard.end_fill(fill, Some(same.clone()), &mut RemovedItems::new());
        let Lookup::Hit(_, generation) = shard.lookup(HASH, KEY) else {
            panic!("the item is not cached");
        };
        assert!(shard.is_current(HASH, KEY, generation));
        let write = begin_write(&mut shard);
        shard.end_write(write, Some(same), &mut RemovedItems::new());
        assert!(!shard.is_current(HASH, KEY, generation));
    }

    #[test]
    fn discarding_an_expired_entry_leaves_the_one_that_replaced_it() {
        let mut shard = Shard::new(2);
        let write = begin_write(&mut shard);
        end_write(&mut shard, write, Some(1));
        let Lookup::Hit(_, expired) = shard.lookup(HASH, KEY) else {
            panic!("the item is not cached");
        };
        let write = begin_write(&mut shard);
        end_write(&mut shard, write, Some(2));
        let fill = shard.discard_expired(HASH, KEY, expired, &mut RemovedItems::new());
        assert_eq!(cached(&shard), Some(2));
        assert_eq!(shard.counts(), (0, 1, 0));
        end_fill(&mut shard, fill, 2);
        assert_eq!(shard.in_flight_count(), 0);
    }

    #[test]
    fn hits_misses_and_evictions_are_counted() {
        let mut shard = Shard::new(1);
        for data in [1, 2] {
            let fill = begin_fill(&mut shard);
            end_fill(&mut shard, fill, data);
            assert!(matches!(shard.lookup(HASH, KEY), Lookup::Hit(..)));
            assert!(matches!(shard.lookup(HASH, KEY), Lookup::Hit(..)));
            let other =
                shard.begin_write(HASH + 1, Key::new("pk", "other"), &mut RemovedItems::new());
            let item = Item::new("pk", "other", data);
            shard.end_write(other, Some(item), &mut RemovedItems::new());
        }
        assert_eq!(shard.counts(), (4, 2, 3));
    }

    #[test]
    fn the_least_recently_used_item_is_evicted_and_returned() {
        let mut shard = Shard::new(2);
        let mut removed = RemovedItems::new();
        let mut write = |shard: &mut Shard<u32>, hash: u64, sk: &str| {
            let ticket = shard.begin_write(hash, Key::new("pk", sk), &mut RemovedItems::new());
            shard.end_write(ticket, Some(Item::new("pk", sk, 0)), &mut removed);
        };
        write(&mut shard, 1, "a");
        write(&mut shard, 2, "b");
        assert!(matches!(
            shard.lookup(1, Key::new("pk", "a")),
            Lookup::Hit(..)
        ));
        write(&mut shard, 3, "c");
        assert_eq!(
            removed.values().iter().map(Item::sk).collect::<Vec<_>>(),
            ["b"]
        );
        assert_eq!((shard.len(), shard.counts()), (2, (1, 0, 1)));
    }
}
