//! The cache against a vector in the order of use: the cached items, the evicted one, and the
//! statistics, after every call.
//!
//! The cache has one shard, so that it evicts exactly the least recently used entry. Some writes
//! bypass it, so that a result shows its origin: entries stay old.

use super::choices::Choices;
use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, Lock, LruCache, ManualClock, MemoryDb, Version,
};
use std::collections::BTreeMap;

const KEYS: [Key<'static>; 8] = [
    Key::new("a", "b"),
    Key::new("a", "bc"),
    Key::new("ab", "c"),
    Key::new("", ""),
    Key::new("a", ""),
    Key::new("", "a"),
    Key::new("b", "\0"),
    Key::new("b", "ä"),
];

const LOCK: Key<'static> = Key::new("lock", "");

const START: u64 = 1_700_000_000;

/// A strict LRU cache of a few items, and its backing database.
struct Model {
    capacity: usize,
    /// The most recently used first.
    cached: Vec<Item<u32>>,
    stored: BTreeMap<Key<'static>, Item<u32>>,
    hits: u64,
    misses: u64,
    evictions: u64,
}

impl Model {
    /// Looks an item up in the cache, which uses it.
    fn look_up(&mut self, key: Key<'_>, now: u64) -> Option<Item<u32>> {
        let place = self.cached.iter().position(|item| item.key() == key);
        let item = place.map(|place| self.cached.remove(place));
        let item = item.filter(|item| item.is_live(now));
        match &item {
            Some(item) => {
                self.hits += 1;
                self.cached.insert(0, item.clone());
            }
            None => self.misses += 1,
        }
        item
    }

    fn stored(&self, key: Key<'_>, now: u64) -> Option<Item<u32>> {
        let item = self.stored.get(&key);
        item.filter(|item| item.is_live(now)).cloned()
    }

    /// Reads a stored item and caches it.
    fn fill(&mut self, key: Key<'_>, now: u64) -> Option<Item<u32>> {
        let item = self.stored(key, now)?;
        self.cache(item.clone());
        Some(item)
    }

    fn cache(&mut self, item: Item<u32>) {
        self.invalidate(item.key());
        if self.capacity == 0 {
            return;
        }
        if self.cached.len() == self.capacity {
            self.cached.pop();
            self.evictions += 1;
        }
        self.cached.insert(0, item);
    }

    fn invalidate(&mut self, key: Key<'_>) {
        self.cached.retain(|item| item.key() != key);
    }
}

/// The body of the fuzz target `list`: the first byte is the capacity, the others are calls.
///
/// # Panics
///
/// Panics if the cache differs from the model.
pub fn fuzz_list(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let clock = ManualClock::new(START);
    let capacity = choices.below(6);
    let memory = MemoryDb::builder().stripes(1).clock(clock.clone()).build();
    let builder = LruCache::builder(memory).capacity(capacity).shards(1);
    let mut test = Test {
        db: builder.clock(clock.clone()).build(),
        clock,
        model: Model {
            capacity,
            cached: Vec::new(),
            stored: BTreeMap::new(),
            hits: 0,
            misses: 0,
            evictions: 0,
        },
        written: 0,
    };
    for _ in 0..400 {
        if choices.is_empty() {
            return;
        }
        test.step(&mut choices);
        let (stats, model) = (test.db.stats(), &test.model);
        assert_eq!(
            (stats.hits, stats.misses, stats.evictions, stats.entries),
            (
                model.hits,
                model.misses,
                model.evictions,
                model.cached.len()
            ),
            "hits, misses, evictions, entries"
        );
    }
}

struct Test {
    db: LruCache<MemoryDb<u32>>,
    clock: ManualClock,
    model: Model,
    /// The number of items written.
    written: u32,
}

impl Test {
    fn step(&mut self, choices: &mut Choices<'_>) {
        let now = self.clock.epoch_seconds();
        match choices.below(16) {
            0..=4 => {
                let key = choices.one_of(&KEYS);
                let cached = self.model.look_up(key, now);
                let expected = cached.or_else(|| self.model.fill(key, now));
                assert_eq!(self.db.get(key).unwrap(), expected, "{key}");
            }
            5 | 6 => self.get_many(&choices.list(6, |choices| choices.one_of(&KEYS))),
            7 | 8 => {
                let lifetime = choices.one_of(&[None, None, Some(0), Some(60)]);
                let keys = choices.list(4, |choices| choices.one_of(&KEYS));
                self.set(&keys, lifetime.map(|lifetime| now + lifetime));
            }
            9 | 10 => self.commit(choices),
            11 => {
                let keys = choices.list(3, |choices| choices.one_of(&KEYS));
                self.db.delete(&keys).unwrap();
                for key in keys {
                    self.model.invalidate(key);
                    self.model.stored.remove(&key);
                }
            }
            12 => {
                for key in choices.list(3, |choices| choices.one_of(&KEYS)) {
                    let item = self.item(key);
                    self.db.inner().set(&[item.clone()]).unwrap();
                    self.model.stored.insert(key, item);
                }
            }
            13 => self.clock.set(now + choices.one_of(&[0, 1, 60, 61])),
            14 => {
                let key = choices.one_of(&KEYS);
                self.db.invalidate(key);
                self.model.invalidate(key);
            }
            _ => {
                self.db.clear();
                self.model.cached.clear();
            }
        }
    }

    fn item(&mut self, key: Key<'_>) -> Item<u32> {
        self.written += 1;
        Item::new(key.pk, key.sk, self.written)
    }

    fn get_many(&mut self, keys: &[Key<'static>]) {
        let (now, model) = (self.clock.epoch_seconds(), &mut self.model);
        // All keys are looked up before any fetched item is cached.
        let cached: Vec<_> = keys.iter().map(|key| model.look_up(*key, now)).collect();
        let each = keys.iter().zip(cached);
        let expected: Vec<_> = each
            .map(|(key, cached)| cached.or_else(|| model.fill(*key, now)))
            .collect();
        assert_eq!(self.db.get_many(keys).unwrap(), expected, "{keys:?}");
    }

    fn set(&mut self, keys: &[Key<'static>], ttl: Option<u64>) {
        let expiring = |item: Item<u32>| match ttl {
            Some(ttl) => item.expires_at(ttl),
            None => item,
        };
        let items: Vec<_> = keys.iter().map(|key| expiring(self.item(*key))).collect();
        self.db.set(&items).unwrap();
        keys.iter().for_each(|key| self.model.invalidate(*key));
        for (key, item) in keys.iter().zip(items) {
            self.model.stored.insert(*key, item.clone());
            // Two writes of one key in a call overlap, so that neither is known to be the last.
            if keys.iter().filter(|other| *other == key).count() == 1 {
                self.model.cache(item);
            }
        }
    }

    /// Commits a batch in which the bits of two bytes say of each key whether it is written or
    /// deleted.
    fn commit(&mut self, choices: &mut Choices<'_>) {
        let now = self.clock.epoch_seconds();
        let (named, more) = (choices.byte(), choices.byte());
        let deleted = named & more & !(more << 1);
        let keys = |bits: u8| {
            let keys = KEYS.iter().enumerate();
            keys.filter_map(move |(bit, key)| (bits >> bit & 1 == 1).then_some(*key))
        };
        let items: Vec<_> = keys(named & !deleted)
            .map(|key| (key, self.item(key)))
            .collect();
        let unchanged = choices.below(4) > 0;
        let creates = choices.below(4) == 0;
        let mut lock = self.db.get_lock(LOCK).unwrap();
        if !unchanged {
            lock = Lock::new(LOCK, Version::from_u128(1), lock.ttl());
        }
        let mut batch = Batch::new().lock(lock);
        for (_, item) in &items {
            batch = if creates {
                batch.create(item.clone())
            } else {
                batch.set(item.clone())
            };
        }
        batch = keys(deleted).fold(batch, Batch::delete);
        let absent = |(key, _): &(Key<'_>, _)| self.model.stored(*key, now).is_none();
        let possible = !creates || items.iter().all(absent);
        match self.db.commit(&batch) {
            Ok(_) => assert!(unchanged && possible),
            Err(Error::RaceCondition { .. }) => assert!(!unchanged),
            Err(Error::AlreadyExists { .. }) => assert!(unchanged && !possible),
            Err(error) => panic!("{error}"),
        }
        // Even a failed commit invalidates its keys.
        keys(named).for_each(|key| self.model.invalidate(key));
        if unchanged && possible {
            for (key, item) in items {
                self.model.stored.insert(key, item.clone());
                self.model.cache(item);
            }
            keys(deleted).for_each(|key| drop(self.model.stored.remove(&key)));
        }
    }
}
