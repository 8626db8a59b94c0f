//! The cache's order of recency against a plain vector: which items are at hand, which one leaves,
//! and what the statistics say, after every call.
//!
//! One shard, so that eviction is exactly least recently used. Writes also go round the cache, so
//! that an answer shows where it came from: what is at hand stays old.

use super::bytes::Bytes;
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

/// An exact cache of a few items, as simple as can be.
struct Model {
    capacity: usize,
    /// The most recently used first.
    at_hand: Vec<Item<u32>>,
    behind: BTreeMap<Key<'static>, Item<u32>>,
    hits: u64,
    misses: u64,
    evictions: u64,
}

impl Model {
    /// The item at hand, which becomes the most recently used one.
    fn look(&mut self, key: Key<'_>, now: u64) -> Option<Item<u32>> {
        let place = self.at_hand.iter().position(|item| item.key() == key);
        let item = place.map(|place| self.at_hand.remove(place));
        let item = item.filter(|item| item.is_live(now));
        match &item {
            Some(item) => {
                self.hits += 1;
                self.at_hand.insert(0, item.clone());
            }
            None => self.misses += 1,
        }
        item
    }

    fn fetch(&self, key: Key<'_>, now: u64) -> Option<Item<u32>> {
        self.behind
            .get(&key)
            .filter(|item| item.is_live(now))
            .cloned()
    }

    fn store(&mut self, item: Item<u32>) {
        self.forget(item.key());
        if self.capacity == 0 {
            return;
        }
        if self.at_hand.len() == self.capacity {
            self.at_hand.pop();
            self.evictions += 1;
        }
        self.at_hand.insert(0, item);
    }

    fn forget(&mut self, key: Key<'_>) {
        self.at_hand.retain(|item| item.key() != key);
    }
}

/// What a fuzzer runs: the first byte is the capacity, the others are calls.
///
/// # Panics
///
/// Panics if the cache does anything but what the vector does.
pub fn list(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let clock = ManualClock::new(START);
    let capacity = bytes.below(6);
    let memory = MemoryDb::builder().stripes(1).clock(clock.clone()).build();
    let builder = LruCache::builder(memory).capacity(capacity).shards(1);
    let db = builder.clock(clock.clone()).build();
    let mut model = Model {
        capacity,
        at_hand: Vec::new(),
        behind: BTreeMap::new(),
        hits: 0,
        misses: 0,
        evictions: 0,
    };
    let mut written = 0;
    let mut calls = 0;
    while !bytes.is_empty() && calls < 400 {
        calls += 1;
        let now = clock.epoch_seconds();
        let mut items = |keys: &[usize], life: Option<u64>| -> Vec<(usize, Item<u32>)> {
            let item = |key: usize| {
                written += 1;
                let item = Item::new(KEYS[key].pk, KEYS[key].sk, written);
                (
                    key,
                    life.map_or(item.clone(), |life| item.expires_at(now + life)),
                )
            };
            keys.iter().copied().map(item).collect()
        };
        match bytes.below(16) {
            0..=4 => {
                let key = KEYS[bytes.below(KEYS.len())];
                let expected = model.look(key, now).or_else(|| {
                    let item = model.fetch(key, now);
                    item.iter().for_each(|item| model.store(item.clone()));
                    item
                });
                assert_eq!(db.get(key).unwrap(), expected, "{key}");
            }
            5 | 6 => {
                let keys: Vec<_> = numbers(&mut bytes, 6)
                    .iter()
                    .map(|key| KEYS[*key])
                    .collect();
                let looks: Vec<_> = keys.iter().map(|key| model.look(*key, now)).collect();
                // All are looked for before any that is fetched is stored.
                let each = keys.iter().zip(looks).map(|(key, look)| {
                    look.or_else(|| {
                        let item = model.fetch(*key, now);
                        item.iter().for_each(|item| model.store(item.clone()));
                        item
                    })
                });
                let expected: Vec<_> = each.collect();
                assert_eq!(db.get_many(&keys).unwrap(), expected, "{keys:?}");
            }
            7 | 8 => {
                let life = [None, None, Some(0), Some(60)][bytes.below(4)];
                let items = items(&numbers(&mut bytes, 4), life);
                let plain: Vec<_> = items.iter().map(|(_, item)| item.clone()).collect();
                db.set(&plain).unwrap();
                items.iter().for_each(|(_, item)| model.forget(item.key()));
                for (key, item) in &items {
                    model.behind.insert(KEYS[*key], item.clone());
                    // Two writes of one key in one call overlap: neither is known to be the last.
                    if items.iter().filter(|(other, _)| other == key).count() == 1 {
                        model.store(item.clone());
                    }
                }
            }
            9 | 10 => {
                // Each key once, from the bits of two bytes: set, create or delete.
                let (all, more) = (bytes.byte(), bytes.byte());
                let chosen = |bits: u8| (0..KEYS.len()).filter(move |key| bits >> key & 1 == 1);
                let keys: Vec<usize> = chosen(all).collect();
                let deleted: Vec<usize> = chosen(all & more & !(more << 1)).collect();
                let kept: Vec<usize> = keys
                    .into_iter()
                    .filter(|key| !deleted.contains(key))
                    .collect();
                let items = items(&kept, None);
                let unchanged = bytes.below(4) > 0;
                let mut lock = db.get_lock(LOCK).unwrap();
                if !unchanged {
                    lock = Lock::new(LOCK, Version::from_u128(1), lock.ttl());
                }
                let mut batch = Batch::new().lock(lock);
                let creates = bytes.below(4) == 0;
                for (_, item) in &items {
                    batch = match creates {
                        true => batch.create(item.clone()),
                        false => batch.set(item.clone()),
                    };
                }
                for key in &deleted {
                    batch = batch.delete(KEYS[*key]);
                }
                let free = |key: &usize| model.fetch(KEYS[*key], now).is_none();
                let created = !creates || kept.iter().all(free);
                match db.commit(&batch) {
                    Ok(_) => assert!(unchanged && created),
                    Err(Error::RaceCondition { .. }) => assert!(!unchanged),
                    Err(Error::AlreadyExists { .. }) => assert!(unchanged && !created),
                    Err(error) => panic!("{error}"),
                }
                // Whatever comes of it, what was there before is no longer at hand.
                for key in kept.iter().chain(&deleted) {
                    model.forget(KEYS[*key]);
                }
                if unchanged && created {
                    for (key, item) in items {
                        model.behind.insert(KEYS[key], item.clone());
                        model.store(item);
                    }
                    for key in deleted {
                        model.behind.remove(&KEYS[key]);
                    }
                }
            }
            11 => {
                let keys: Vec<_> = numbers(&mut bytes, 3)
                    .iter()
                    .map(|key| KEYS[*key])
                    .collect();
                db.delete(&keys).unwrap();
                for key in keys {
                    model.forget(key);
                    model.behind.remove(&key);
                }
            }
            12 => {
                for (key, item) in items(&numbers(&mut bytes, 3), None) {
                    db.inner().set(&[item.clone()]).unwrap();
                    model.behind.insert(KEYS[key], item);
                }
            }
            13 => clock.set(now + [0, 1, 60, 61][bytes.below(4)]),
            14 => {
                let key = KEYS[bytes.below(KEYS.len())];
                db.invalidate(key);
                model.forget(key);
            }
            _ => {
                db.clear();
                model.at_hand.clear();
            }
        }
        let stats = db.stats();
        assert_eq!(
            (stats.hits, stats.misses, stats.evictions, stats.entries),
            (
                model.hits,
                model.misses,
                model.evictions,
                model.at_hand.len()
            ),
            "hits, misses, evictions, entries"
        );
    }
}

fn numbers(bytes: &mut Bytes<'_>, end: usize) -> Vec<usize> {
    let count = bytes.below(end);
    (0..count).map(|_| bytes.below(KEYS.len())).collect()
}
