//! The cache under failures, panics, late results and writes that bypass it.

use crate::common::{Call, Gate, HANG_LIMIT, HookedDb, Moment, data};
use atomic_db::testing::{run_concurrently, with_timeout};
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Error, Item, Key, LruCache, ManualClock, MemoryDb, Query, Result,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice::from_ref;
use std::sync::{Arc, Mutex};
use std::thread;

const KEY: Key<'static> = Key::new("pk", "a");
const OTHER: Key<'static> = Key::new("pk", "b");
const LOCK: Key<'static> = Key::new("pk", "lock");

fn item(key: Key<'_>, data: u32) -> Item<u32> {
    Item::new(key.pk, key.sk, data)
}

/// How an inner call fails.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It returns an error, and nothing has happened.
    Rejected,
    /// It has happened, and its result is lost.
    ResultLost,
    PanicBefore,
    PanicAfter,
}

const FAULTS: [Fault; 4] = [
    Fault::Rejected,
    Fault::ResultLost,
    Fault::PanicBefore,
    Fault::PanicAfter,
];

/// The call that fails next, and how.
type NextFault = Arc<Mutex<Option<(Call, Fault)>>>;

/// Returns a database in which a fault can be injected.
fn faulty() -> (HookedDb<MemoryDb<u32>>, NextFault) {
    let next = NextFault::default();
    let fault = Arc::clone(&next);
    let db = HookedDb::new(MemoryDb::new(), move |called, moment| {
        let mut next = fault.lock().unwrap();
        let due = match (*next, moment) {
            (Some((call, fault)), moment) if call == called => match (fault, moment) {
                (Fault::Rejected | Fault::PanicBefore, Moment::Before) => Some(fault),
                (Fault::ResultLost | Fault::PanicAfter, Moment::After) => Some(fault),
                _ => None,
            },
            _ => None,
        };
        let Some(due) = due else { return Ok(()) };
        *next = None;
        drop(next);
        match due {
            Fault::Rejected => Err(Error::Backend("rejected".into())),
            Fault::ResultLost => Err(Error::OutcomeUnknown("lost".into())),
            Fault::PanicBefore | Fault::PanicAfter => panic!("inner"),
        }
    });
    (db, next)
}

type Write = (
    &'static str,
    Call,
    fn(&dyn AtomicDb<Data = u32>) -> Result<()>,
);

/// Returns calls that write 2 at `KEY` and `OTHER`, or delete both.
fn writes() -> Vec<Write> {
    fn both() -> [Item<u32>; 2] {
        [item(KEY, 2), item(OTHER, 2)]
    }
    vec![
        ("set", Call::Set, |db| db.set(&both())),
        ("commit", Call::Commit, |db| {
            let [a, b] = both();
            let lock = db.get_lock(LOCK)?;
            db.commit(&Batch::new().lock(lock).set(a).set(b)).map(drop)
        }),
        ("commit with deletes", Call::Commit, |db| {
            db.commit(&Batch::new().delete(KEY).delete(OTHER)).map(drop)
        }),
        ("set_atomic", Call::Commit, |db| {
            let lock = db.get_lock(LOCK)?;
            db.set_atomic(&both(), &[lock]).map(drop)
        }),
        ("delete", Call::Delete, |db| db.delete(&[KEY, OTHER])),
    ]
}

#[test]
fn after_a_write_that_failed_or_panicked_its_keys_are_not_cached() {
    for (name, call, write) in writes() {
        for fault in FAULTS {
            let (inner, next) = faulty();
            let db = LruCache::new(inner, 10);
            let third = Key::new("pk", "c");
            db.set(&[item(KEY, 1), item(OTHER, 1), item(third, 1)])
                .unwrap();
            *next.lock().unwrap() = Some((call, fault));
            let outcome = catch_unwind(AssertUnwindSafe(|| write(&db)));
            match (fault, outcome) {
                (Fault::Rejected, Ok(Err(Error::Backend(_)))) => {}
                (Fault::ResultLost, Ok(Err(Error::OutcomeUnknown(_)))) => {}
                (Fault::PanicBefore | Fault::PanicAfter, Err(_)) => {}
                (_, outcome) => panic!("{name}, {fault:?}: {outcome:?}"),
            }
            assert_eq!(db.stats().entries, 1, "{name}, {fault:?}");
            assert_eq!(data(&db, third), Some(1));
            assert_eq!(db.stats().hits, 1);
            for key in [KEY, OTHER] {
                assert_eq!(
                    data(&db, key),
                    data(&db.inner().inner, key),
                    "{name}, {fault:?}"
                );
            }
            // The keys can be filled and written as before.
            db.set(&[item(KEY, 3)]).unwrap();
            let before = db.stats().hits;
            assert_eq!(data(&db, KEY), Some(3), "{name}, {fault:?}");
            assert_eq!(db.stats().hits, before + 1, "{name}, {fault:?}");
        }
    }
}

#[test]
fn after_a_read_that_failed_or_panicked_the_keys_can_be_cached() {
    for call in [Call::Get, Call::GetMany] {
        for fault in FAULTS {
            let (inner, next) = faulty();
            let db = LruCache::new(inner, 10);
            db.inner().set(&[item(KEY, 1), item(OTHER, 1)]).unwrap();
            let read = || match call {
                Call::Get => db.get(KEY).map(drop),
                _ => db.get_many(&[KEY, OTHER, KEY]).map(drop),
            };
            *next.lock().unwrap() = Some((call, fault));
            let outcome = catch_unwind(AssertUnwindSafe(read));
            assert!(!matches!(outcome, Ok(Ok(()))), "{call:?}, {fault:?}");
            assert_eq!(db.stats().entries, 0);
            read().unwrap();
            let before = db.stats();
            read().unwrap();
            let after = db.stats();
            assert_eq!(after.misses, before.misses, "{call:?}, {fault:?}");
            assert!(after.hits > before.hits);
        }
    }
}

#[test]
fn a_late_fill_never_replaces_a_newer_write() {
    for call in [Call::Get, Call::GetMany] {
        for (name, _, write) in writes() {
            with_timeout(HANG_LIMIT, move |_| {
                let (inner, gate) = Gate::new(MemoryDb::new(), call, Moment::After);
                let db = LruCache::new(inner, 10);
                db.inner().set(&[item(KEY, 1), item(OTHER, 1)]).unwrap();
                let reader = {
                    let db = db.clone();
                    thread::spawn(move || match call {
                        Call::Get => db.get(KEY).map(drop),
                        _ => db.get_many(&[OTHER, KEY]).map(drop),
                    })
                };
                gate.wait_until_reached();
                write(&db).unwrap();
                let expected = data(&db.inner().inner, KEY);
                assert_ne!(expected, Some(1));
                gate.open();
                reader.join().unwrap().unwrap();
                for _ in 0..2 {
                    let found = db.get_many(&[KEY, OTHER]).unwrap();
                    let found: Vec<Option<u32>> = found
                        .into_iter()
                        .map(|item| item.and_then(Item::into_data))
                        .collect();
                    assert_eq!(found, [expected; 2], "{call:?}, {name}");
                    assert_eq!(data(&db, KEY), expected, "{call:?}, {name}");
                }
            });
        }
    }
}

#[test]
fn items_read_while_a_write_is_in_flight_are_not_cached() {
    for moment in [Moment::Before, Moment::After] {
        for (name, call, write) in writes() {
            with_timeout(HANG_LIMIT, move |_| {
                let (inner, gate) = Gate::new(MemoryDb::new(), call, moment);
                let db = LruCache::new(inner, 10);
                db.inner()
                    .inner
                    .set(&[item(KEY, 1), item(OTHER, 1)])
                    .unwrap();
                assert_eq!(data(&db, KEY), Some(1));
                let writer = {
                    let db = db.clone();
                    thread::spawn(move || write(&db))
                };
                gate.wait_until_reached();
                let now = data(&db.inner().inner, KEY);
                assert_eq!(now == Some(1), moment == Moment::Before);
                assert_eq!(data(&db, KEY), now, "{name}");
                db.get_many(&[KEY, OTHER]).unwrap();
                assert_eq!(db.stats().entries, 0, "{name}");
                gate.open();
                writer.join().unwrap().unwrap();
                let expected = data(&db.inner().inner, KEY);
                assert_ne!(expected, Some(1));
                assert_eq!(data(&db, KEY), expected, "{name}");
            });
        }
    }
}

#[test]
fn overlapping_writes_leave_no_older_value_in_the_cache() {
    for moment in [Moment::Before, Moment::After] {
        for (name, call, write) in writes() {
            with_timeout(HANG_LIMIT, move |_| {
                let (inner, gate) = Gate::new(MemoryDb::new(), call, moment);
                let db = LruCache::new(inner, 10);
                let writer = {
                    let db = db.clone();
                    thread::spawn(move || write(&db))
                };
                gate.wait_until_reached();
                db.set(&[item(KEY, 7), item(OTHER, 7)]).unwrap();
                gate.open();
                writer.join().unwrap().unwrap();
                for key in [KEY, OTHER] {
                    let expected = data(&db.inner().inner, key);
                    assert_eq!(data(&db, key), expected, "{name}, {moment:?}");
                    assert_eq!(data(&db, key), expected, "{name}, {moment:?}");
                }
            });
        }
    }
}

#[test]
fn fills_and_writes_in_flight_are_not_cached_after_invalidate_or_clear() {
    type Invalidation = fn(&LruCache<HookedDb<MemoryDb<u32>>>);
    let invalidations: [(&str, Invalidation); 2] = [
        ("invalidate", |db| db.invalidate(KEY)),
        ("clear", LruCache::clear),
    ];
    for (name, invalidate) in invalidations {
        for call in [Call::Get, Call::Set] {
            with_timeout(HANG_LIMIT, move |_| {
                let (inner, gate) = Gate::new(MemoryDb::new(), call, Moment::After);
                let db = LruCache::new(inner, 10);
                db.inner().inner.set(&[item(KEY, 1)]).unwrap();
                let worker = {
                    let db = db.clone();
                    thread::spawn(move || match call {
                        Call::Get => db.get(KEY).map(drop),
                        _ => db.set(&[item(KEY, 1)]),
                    })
                };
                gate.wait_until_reached();
                // A write bypasses the cache, and the key is invalidated.
                db.inner().inner.set(&[item(KEY, 2)]).unwrap();
                invalidate(&db);
                gate.open();
                worker.join().unwrap().unwrap();
                assert_eq!(data(&db, KEY), Some(2), "{name} during {call:?}");
            });
        }
    }
}

#[test]
fn get_many_is_a_snapshot_even_if_a_cached_item_changes_during_the_fetch() {
    with_timeout(HANG_LIMIT, |_| {
        let (inner, gate) = Gate::new(MemoryDb::new(), Call::GetMany, Moment::Before);
        let db = LruCache::new(inner, 10);
        db.inner().set(&[item(KEY, 1), item(OTHER, 1)]).unwrap();
        assert_eq!(data(&db, KEY), Some(1));
        let reader = {
            let db = db.clone();
            thread::spawn(move || db.get_many(&[KEY, OTHER]).unwrap())
        };
        // One of them is cached, and the call is about to fetch the other.
        gate.wait_until_reached();
        db.commit(&Batch::new().set(item(KEY, 2)).set(item(OTHER, 2)))
            .unwrap();
        gate.open();
        let found = reader.join().unwrap();
        assert_eq!(found, [Some(item(KEY, 2)), Some(item(OTHER, 2))]);
    });
}

#[test]
fn fresh_reads_locks_and_queries_bypass_the_cache() {
    let db = LruCache::new(MemoryDb::new(), 10);
    db.set(&[item(KEY, 1)]).unwrap();
    let lock = db.get_lock(LOCK).unwrap();
    let version = db
        .inner()
        .set_atomic(&[item(KEY, 2)], from_ref(&lock))
        .unwrap();
    assert_eq!(data(&db, KEY), Some(1), "get returns the cached item");
    assert_eq!(db.get_fresh(KEY).unwrap(), Some(item(KEY, 2)));
    assert_eq!(db.get_lock(LOCK).unwrap().version(), version);
    assert_eq!(db.query(&Query::new("pk")).unwrap(), [item(KEY, 2)]);
    let page = db.page(&Query::new("pk"), None).unwrap();
    assert_eq!(page.items, [item(KEY, 2)]);
    let first = db.stream(Query::new("pk")).next().unwrap();
    assert_eq!(first.unwrap(), item(KEY, 2));
    assert_eq!(data(&db, KEY), Some(1));
    db.invalidate(KEY);
    assert_eq!(data(&db, KEY), Some(2));
}

#[test]
fn a_failed_commit_removes_only_its_own_items_from_the_cache() {
    let db = LruCache::new(MemoryDb::new(), 10);
    db.set(&[item(KEY, 1), item(OTHER, 1)]).unwrap();
    let lock = db.get_lock(LOCK).unwrap();
    db.set_atomic(&[], from_ref(&lock)).unwrap();
    let conflict = db.set_atomic(&[item(KEY, 2)], &[lock]).unwrap_err();
    assert!(conflict.is_race_condition());
    assert_eq!(db.stats().entries, 1);
    assert_eq!(data(&db, KEY), Some(1));
    assert_eq!(data(&db, OTHER), Some(1));
    let stats = db.stats();
    assert_eq!((stats.hits, stats.misses), (1, 1));
}

#[test]
fn no_update_is_lost_through_two_caches_over_one_database() {
    const EACH: u32 = 50;
    let inner = MemoryDb::new();
    let caches = [(); 2].map(|()| LruCache::new(inner.clone(), 10));
    run_concurrently(4, |worker| {
        let db = &caches[worker % 2];
        for _ in 0..EACH {
            // Caches an entry, which the writes through the other cache make stale.
            db.get(KEY).unwrap();
            let retry = atomic_db::Retry::new().attempts(u32::MAX);
            db.transact_with(&retry, |tx| {
                tx.lock(LOCK)?;
                let old = tx.get(KEY)?.and_then(Item::into_data).unwrap_or(0);
                tx.set(item(KEY, old + 1))
            })
            .unwrap();
        }
    });
    assert_eq!(data(&inner, KEY), Some(4 * EACH));
    for db in &caches {
        let fresh = db.get_fresh(KEY).unwrap();
        assert_eq!(fresh.and_then(Item::into_data), Some(4 * EACH));
    }
}

#[test]
fn misses_are_not_cached() {
    let db = LruCache::new(MemoryDb::new(), 10);
    assert_eq!(data(&db, KEY), None);
    assert_eq!(db.stats().entries, 0);
    db.inner().set(&[item(KEY, 1)]).unwrap();
    assert_eq!(data(&db, KEY), Some(1));
}

#[test]
fn a_cache_never_holds_more_than_its_capacity_however_it_is_sharded() {
    for (capacity, shards, most) in [
        (0, Some(8), 0),
        (0, None, 0),
        (1, Some(0), 1),
        (1, Some(usize::MAX), 1),
        (3, Some(1_000), 3),
        (5, Some(4), 5),
        (100, None, 100),
    ] {
        let builder = LruCache::builder(MemoryDb::new()).capacity(capacity);
        let db = match shards {
            Some(shards) => builder.shards(shards).build(),
            None => builder.build(),
        };
        let sks: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        let keys: Vec<Key<'_>> = sks.iter().map(|sk| Key::new("pk", sk)).collect();
        for (number, key) in keys.iter().enumerate() {
            db.set(&[item(*key, number as u32)]).unwrap();
            assert!(db.stats().entries <= most);
        }
        let found = db.get_many(&keys).unwrap();
        for (number, item) in found.into_iter().enumerate() {
            assert_eq!(item.and_then(Item::into_data), Some(number as u32));
        }
        let stats = db.stats();
        assert_eq!(stats.entries, most, "a capacity of {capacity}");
        assert_eq!(stats.hits + stats.misses, 200);
        db.clear();
        assert_eq!(db.stats().entries, 0);
        assert_eq!(db.stats().evictions, stats.evictions);
    }
}

#[test]
fn handles_share_one_cache() {
    let db = LruCache::new(MemoryDb::new(), 10);
    let other = db.clone();
    db.set(&[item(KEY, 1)]).unwrap();
    assert_eq!(data(&other, KEY), Some(1));
    assert_eq!(db.stats().hits, 1);
    other.clear();
    assert_eq!(db.stats().entries, 0);
    assert!(format!("{db:?}").starts_with("LruCache"));
}

#[test]
fn get_many_of_more_keys_than_the_capacity_fetches_the_misses_once() {
    let fetches = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&fetches);
    let db = HookedDb::new(MemoryDb::new(), move |call, moment| {
        *counted.lock().unwrap() += u32::from((call, moment) == (Call::GetMany, Moment::Before));
        Ok(())
    });
    let cache = LruCache::new(db, 2);
    let sks: Vec<String> = (0..6).map(|number| format!("{number}")).collect();
    for (number, sk) in sks.iter().enumerate() {
        let item = Item::new("pk", sk, number as u32);
        cache.set(&[item]).unwrap();
    }
    // The last two are cached, and the others will evict them.
    let keys: Vec<Key<'_>> = sks.iter().rev().map(|sk| Key::new("pk", sk)).collect();
    let found = cache.get_many(&keys).unwrap();
    let found: Vec<u32> = found
        .into_iter()
        .flatten()
        .filter_map(Item::into_data)
        .collect();
    assert_eq!(found, [5, 4, 3, 2, 1, 0]);
    assert_eq!(cache.stats().hits, 2);
    assert_eq!(
        *fetches.lock().unwrap(),
        1,
        "the misses were fetched more than once"
    );
}

#[test]
fn an_expired_entry_counts_as_a_miss() {
    let clock = ManualClock::new(1_000);
    let db = MemoryDb::builder().clock(clock.clone()).build();
    let cache = LruCache::builder(db).clock(clock.clone()).build();
    cache.set(&[item(KEY, 1).expires_at(1_010)]).unwrap();
    assert_eq!(data(&cache, KEY), Some(1));
    clock.set(1_011);
    assert_eq!(data(&cache, KEY), None);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.entries), (1, 1, 0));
}

#[test]
fn get_lock_removes_an_item_that_has_expired_in_the_inner_database() {
    // The cache's own clock is behind the one of the database.
    let clock = ManualClock::new(1_000);
    let db = MemoryDb::builder().clock(clock.clone()).build();
    let cache = LruCache::builder(db).clock(ManualClock::new(1_000)).build();
    cache.set(&[item(KEY, 1).expires_at(1_010)]).unwrap();
    clock.set(1_011);
    assert!(cache.get_lock(KEY).is_ok());
    assert_eq!(data(&cache, KEY), None);
}

#[test]
fn an_item_cached_while_a_lock_is_read_does_not_stay_at_the_locks_key() {
    type GetLock = fn(&LruCache<HookedDb<MemoryDb<u32>>>) -> Result<()>;
    let get_lock: [(Call, GetLock); 2] = [
        (Call::GetLock, |cache| cache.get_lock(KEY).map(drop)),
        (Call::GetLocks, |cache| {
            cache.get_locks(&[OTHER, KEY]).map(drop)
        }),
    ];
    with_timeout(HANG_LIMIT, move |_| {
        for (call, get_lock) in get_lock {
            cache_while_a_lock_is_read(call, get_lock);
        }
    });

    fn cache_while_a_lock_is_read(call: Call, get_lock: GetLock) {
        // The cache's own clock is behind the one of the database.
        let clock = ManualClock::new(1_000);
        let inner = MemoryDb::builder().clock(clock.clone()).build();
        let (inner, gate) = Gate::new(inner, call, Moment::Before);
        let cache = LruCache::builder(inner)
            .clock(ManualClock::new(1_000))
            .build();
        let expiring = item(KEY, 1).expires_at(1_010);
        cache.inner().set(&[expiring]).unwrap();
        let locker = {
            let cache = cache.clone();
            thread::spawn(move || get_lock(&cache))
        };
        gate.wait_until_reached();
        // The item is still live, and a fill caches it.
        assert_eq!(data(&cache, KEY), Some(1));
        assert_eq!(cache.stats().entries, 1);
        clock.set(1_011);
        gate.open();
        locker.join().unwrap().unwrap();
        assert_eq!(data(&cache, KEY), None, "{call:?}");
    }
}

#[test]
fn stats_are_the_sums_over_all_shards() {
    const ITEMS: u64 = 400;
    let db = LruCache::builder(MemoryDb::new())
        .capacity(8)
        .shards(4)
        .build();
    let sks: Vec<String> = (0..ITEMS).map(|number| number.to_string()).collect();
    for sk in &sks {
        db.set(&[Item::new("pk", sk, 1)]).unwrap();
    }
    let stats = db.stats();
    assert_eq!((stats.hits, stats.misses, stats.entries), (0, 0, 8));
    assert_eq!(stats.evictions, ITEMS - 8);
    db.clear();
    for sk in &sks {
        for _ in 0..3 {
            assert_eq!(data(&db, Key::new("pk", sk)), Some(1));
        }
    }
    let stats = db.stats();
    assert_eq!((stats.hits, stats.misses), (2 * ITEMS, ITEMS));
    assert_eq!((stats.entries, stats.evictions), (8, 2 * (ITEMS - 8)));
}
