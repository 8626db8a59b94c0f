//! One shard of the cache: capacity and in-flight marks.
//!
//! Plain `&mut self` code that never sees a mutex, a clock or the database behind. What it removes
//! it hands out, for the caller to drop after unlocking.

use super::list::{Keyed, List, MAX_ENTRIES};
use crate::deferred_drop::DeferredDrop;
use crate::{Item, Key};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

/// Items that left the shard, kept alive until no mutex is held.
pub(super) type DroppedItems<T> = DeferredDrop<Item<T>>;

/// Rules that hold between calls, and together make the shard linearizable per key as long as every
/// writer goes through it:
///
/// 1. While a write of a key is under way, the key has no entry: the write takes it out when it
///    begins, and nothing is stored meanwhile.
/// 2. A fill is stored only if no write of its key was under way when it began, or began since.
/// 3. A write that succeeded is stored only if no other write of its key was under way at any time
///    since it began: otherwise nobody knows which came last.
///
/// So an entry is what the database behind holds, for as long as it is there.
#[derive(Debug)]
pub(super) struct Shard<T> {
    list: List<Entry<T>>,
    capacity: usize,
    marks: HashTable<Mark>,
    /// Given to the next entry. An entry that is taken out and stored again has another stamp, so
    /// the same stamp means that the entry was there throughout.
    stamp: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
}

#[derive(Debug)]
struct Entry<T> {
    item: Item<T>,
    stamp: u64,
}

impl<T> Keyed for Entry<T> {
    type Key<'k> = &'k Key<'k>;

    #[inline(always)]
    fn has_key(&self, key: &Key<'_>) -> bool {
        self.item.has_key(key.bytes())
    }
}

/// What is under way for the keys of one hash. Two keys that share all 64 bits of it share a mark:
/// one of them may then go uncached for once, which is harmless, and a mark need not keep its key.
#[derive(Debug)]
struct Mark {
    hash: u64,
    fills: u32,
    writes: u32,
    /// Counts the writes that began, and whatever else makes a fill under way stale.
    epoch: u64,
}

/// A fill or a write that is under way.
#[derive(Debug)]
#[must_use = "what begins must end, or its mark stays for ever"]
pub(super) struct Ticket {
    hash: u64,
    epoch: u64,
    /// No (other) write was under way when it began.
    alone: bool,
}

impl Ticket {
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

/// What a look-up finds.
#[derive(Debug)]
pub(super) enum Look<T> {
    /// An item, whose time to live was not looked at, and its stamp.
    Hit(Item<T>, u64),
    /// Nothing, so that a fill has begun.
    Miss(Ticket),
}

impl<T> Shard<T> {
    /// An empty shard that holds at most `capacity` items, or none if that is zero.
    pub(super) fn new(capacity: usize) -> Self {
        Shard {
            list: List::new(),
            capacity: capacity.min(MAX_ENTRIES),
            marks: HashTable::new(),
            stamp: 0,
            hits: 0,
            misses: 0,
            evictions: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Hits, misses and evictions.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (self.hits, self.misses, self.evictions)
    }

    /// The item at `key`, which becomes the most recently used one; or else begins a fill.
    pub(super) fn look(&mut self, hash: u64, key: Key<'_>) -> Look<T> {
        if let Some(entry) = self.list.touch(hash, &key) {
            self.hits += 1;
            return Look::Hit(entry.item.clone(), entry.stamp);
        }
        self.misses += 1;
        Look::Miss(self.begin_fill(hash))
    }

    /// The item at `key` if there is one that cannot expire, which becomes the most recently used
    /// one. Otherwise there is a [`look`](Shard::look) to come.
    #[inline]
    pub(super) fn hit(&mut self, hash: u64, key: &Key<'_>) -> Option<Item<T>> {
        let entry = self.list.touch(hash, key)?;
        if entry.item.ttl().is_some() {
            return None;
        }
        self.hits += 1;
        Some(entry.item.clone())
    }

    /// Takes back a hit on an entry that turned out to have expired, and begins a fill instead.
    pub(super) fn look_past(
        &mut self,
        hash: u64,
        key: Key<'_>,
        stamp: u64,
        removed: &mut DroppedItems<T>,
    ) -> Ticket {
        self.hits -= 1;
        self.misses += 1;
        if self.stands(hash, key, stamp) {
            self.take_out(hash, key, removed);
        }
        self.begin_fill(hash)
    }

    /// Whether the entry with this stamp is still there.
    pub(super) fn stands(&self, hash: u64, key: Key<'_>, stamp: u64) -> bool {
        let entry = self.list.peek(hash, &key);
        entry.is_some_and(|entry| entry.stamp == stamp)
    }

    fn begin_fill(&mut self, hash: u64) -> Ticket {
        let mark = self.mark(hash);
        mark.fills += 1;
        Ticket {
            hash,
            epoch: mark.epoch,
            alone: mark.writes == 0,
        }
    }

    /// Ends a fill that read `item` from the database behind, or none.
    pub(super) fn end_fill(
        &mut self,
        ticket: Ticket,
        item: Option<Item<T>>,
        removed: &mut DroppedItems<T>,
    ) {
        let current = self.unmark(&ticket, |mark| mark.fills -= 1);
        self.store_if(current, ticket.hash, item, removed);
    }

    /// Begins a write of the item at `key`.
    pub(super) fn begin_write(
        &mut self,
        hash: u64,
        key: Key<'_>,
        removed: &mut DroppedItems<T>,
    ) -> Ticket {
        self.take_out(hash, key, removed);
        let mark = self.mark(hash);
        mark.writes += 1;
        mark.epoch += 1;
        Ticket {
            hash,
            epoch: mark.epoch,
            alone: mark.writes == 1,
        }
    }

    /// Ends a write that put `item` into the database behind; none if it deleted one, failed, or
    /// nobody knows.
    pub(super) fn end_write(
        &mut self,
        ticket: Ticket,
        item: Option<Item<T>>,
        removed: &mut DroppedItems<T>,
    ) {
        let current = self.unmark(&ticket, |mark| mark.writes -= 1);
        self.store_if(current, ticket.hash, item, removed);
    }

    /// Takes out the item at `key`; fills and writes of it that are under way store nothing.
    pub(super) fn invalidate(&mut self, hash: u64, key: Key<'_>, removed: &mut DroppedItems<T>) {
        self.take_out(hash, key, removed);
        if let Some(mark) = self.marks.find_mut(hash, |mark| mark.hash == hash) {
            mark.epoch += 1;
        }
    }

    /// Takes out everything; fills and writes that are under way store nothing.
    pub(super) fn clear(&mut self, removed: &mut DroppedItems<T>) {
        while let Some(entry) = self.list.remove_oldest() {
            removed.push(entry.item);
        }
        for mark in self.marks.iter_mut() {
            mark.epoch += 1;
        }
    }

    /// How many hashes have fills or writes under way.
    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.marks.len()
    }

    fn mark(&mut self, hash: u64) -> &mut Mark {
        let slot = self
            .marks
            .entry(hash, |mark| mark.hash == hash, |mark| mark.hash);
        let slot = slot.or_insert_with(|| Mark {
            hash,
            fills: 0,
            writes: 0,
            epoch: 0,
        });
        slot.into_mut()
    }

    /// Takes a fill or a write off its mark; returns whether what it knows is current.
    fn unmark(&mut self, ticket: &Ticket, end: impl FnOnce(&mut Mark)) -> bool {
        let hash = ticket.hash;
        let slot = self
            .marks
            .entry(hash, |mark| mark.hash == hash, |mark| mark.hash);
        let Slot::Occupied(mut slot) = slot else {
            return false;
        };
        let mark = slot.get_mut();
        end(mark);
        let current = ticket.alone && mark.epoch == ticket.epoch;
        if mark.fills == 0 && mark.writes == 0 {
            slot.remove();
        }
        current
    }

    fn store_if(
        &mut self,
        current: bool,
        hash: u64,
        item: Option<Item<T>>,
        removed: &mut DroppedItems<T>,
    ) {
        let Some(item) = item else { return };
        if !current || self.capacity == 0 {
            removed.push(item);
            return;
        }
        // Two fills may end one after the other.
        self.take_out(hash, item.key(), removed);
        if self.list.len() == self.capacity {
            let evicted = self.list.remove_oldest();
            removed.extend(evicted.map(|entry| entry.item));
            self.evictions += 1;
        }
        let stamp = self.stamp;
        self.stamp += 1;
        self.list.insert(hash, Entry { item, stamp });
    }

    fn take_out(&mut self, hash: u64, key: Key<'_>, removed: &mut DroppedItems<T>) {
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

    /// What the shard answers, without counting it or beginning a fill.
    fn cached(shard: &Shard<u32>) -> Option<u32> {
        let entry = shard.list.peek(HASH, &KEY);
        entry.and_then(|entry| entry.item.data().copied())
    }

    fn begin_fill(shard: &mut Shard<u32>) -> Ticket {
        match shard.look(HASH, KEY) {
            Look::Miss(ticket) => ticket,
            Look::Hit(item, _) => panic!("{item:?} is cached"),
        }
    }

    fn begin_write(shard: &mut Shard<u32>) -> Ticket {
        shard.begin_write(HASH, KEY, &mut DroppedItems::new())
    }

    fn end_fill(shard: &mut Shard<u32>, ticket: Ticket, data: u32) {
        shard.end_fill(ticket, Some(item(data)), &mut DroppedItems::new());
    }

    fn end_write(shard: &mut Shard<u32>, ticket: Ticket, data: Option<u32>) {
        shard.end_write(ticket, data.map(item), &mut DroppedItems::new());
    }

    #[test]
    fn a_fill_and_a_write_that_meet_nobody_are_stored() {
        let mut shard = Shard::new(2);
        let fill = begin_fill(&mut shard);
        end_fill(&mut shard, fill, 1);
        assert_eq!(cached(&shard), Some(1));
        let write = begin_write(&mut shard);
        assert_eq!(
            cached(&shard),
            None,
            "an entry outlived the beginning of a write"
        );
        end_write(&mut shard, write, Some(2));
        assert_eq!(cached(&shard), Some(2));
        assert_eq!(shard.under_way(), 0);
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
        assert_eq!(shard.under_way(), 0);
    }

    #[test]
    fn a_fill_that_began_after_a_write_had_ended_is_stored_though_older_fills_are_under_way() {
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
            assert_eq!(shard.under_way(), 0);
        }
    }

    #[test]
    fn writes_that_overlap_are_not_stored_whichever_ends_last() {
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
            assert_eq!(shard.under_way(), 0);
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
    fn what_is_under_way_when_a_key_is_invalidated_or_the_shard_cleared_is_not_stored() {
        let mut shard = Shard::new(2);
        let fill = begin_fill(&mut shard);
        shard.invalidate(HASH, KEY, &mut DroppedItems::new());
        end_fill(&mut shard, fill, 1);
        assert_eq!(cached(&shard), None);

        let fill = begin_fill(&mut shard);
        shard.clear(&mut DroppedItems::new());
        end_fill(&mut shard, fill, 1);
        assert_eq!(cached(&shard), None);
        assert_eq!(shard.under_way(), 0);
    }

    #[test]
    fn an_entry_that_was_taken_out_and_stored_again_does_not_stand() {
        let mut shard = Shard::new(2);
        let same = item(1);
        let fill = begin_fill(&mut shard);
        shard.end_fill(fill, Some(same.clone()), &mut DroppedItems::new());
        let Look::Hit(_, stamp) = shard.look(HASH, KEY) else {
            panic!("the item is not cached");
        };
        assert!(shard.stands(HASH, KEY, stamp));
        let write = begin_write(&mut shard);
        shard.end_write(write, Some(same), &mut DroppedItems::new());
        assert!(!shard.stands(HASH, KEY, stamp));
    }

    #[test]
    fn looking_past_an_entry_that_has_expired_leaves_the_one_that_replaced_it() {
        let mut shard = Shard::new(2);
        let write = begin_write(&mut shard);
        end_write(&mut shard, write, Some(1));
        let Look::Hit(_, expired) = shard.look(HASH, KEY) else {
            panic!("the item is not cached");
        };
        let write = begin_write(&mut shard);
        end_write(&mut shard, write, Some(2));
        let fill = shard.look_past(HASH, KEY, expired, &mut DroppedItems::new());
        assert_eq!(cached(&shard), Some(2));
        assert_eq!(shard.counts(), (0, 1, 0));
        end_fill(&mut shard, fill, 2);
        assert_eq!(shard.under_way(), 0);
    }

    #[test]
    fn hits_misses_and_evictions_are_counted() {
        let mut shard = Shard::new(1);
        for data in [1, 2] {
            let fill = begin_fill(&mut shard);
            end_fill(&mut shard, fill, data);
            assert!(matches!(shard.look(HASH, KEY), Look::Hit(..)));
            assert!(matches!(shard.look(HASH, KEY), Look::Hit(..)));
            let other =
                shard.begin_write(HASH + 1, Key::new("pk", "other"), &mut DroppedItems::new());
            let item = Item::new("pk", "other", data);
            shard.end_write(other, Some(item), &mut DroppedItems::new());
        }
        assert_eq!(shard.counts(), (4, 2, 3));
    }

    #[test]
    fn the_least_recently_used_item_is_evicted_and_handed_out() {
        let mut shard = Shard::new(2);
        let mut removed = DroppedItems::new();
        let mut write = |shard: &mut Shard<u32>, hash: u64, sk: &str| {
            let ticket = shard.begin_write(hash, Key::new("pk", sk), &mut DroppedItems::new());
            shard.end_write(ticket, Some(Item::new("pk", sk, 0)), &mut removed);
        };
        write(&mut shard, 1, "a");
        write(&mut shard, 2, "b");
        assert!(matches!(shard.look(1, Key::new("pk", "a")), Look::Hit(..)));
        write(&mut shard, 3, "c");
        assert_eq!(
            removed.values().iter().map(Item::sk).collect::<Vec<_>>(),
            ["b"]
        );
        assert_eq!((shard.len(), shard.counts()), (2, (1, 0, 1)));
    }
}
