//! Expiry of items and locks, and versions, on a clock that is moved by hand.

use crate::common::{data, sks};
use atomic_db::{
    AtomicDb, Batch, Error, Item, Key, KeyBuf, Lock, LruCache, ManualClock, MemoryDb, Query,
    Result, Version,
};
use std::collections::HashSet;
use std::slice::from_ref;
use std::time::Duration;

const KEY: Key<'static> = Key::new("pk", "item");
const LOCK: Key<'static> = Key::new("pk", "lock");
const NOW: u64 = 1_000_000;

fn clock_and_db() -> (ManualClock, MemoryDb<u32>) {
    let clock = ManualClock::new(NOW);
    let db = MemoryDb::builder().stripes(1).clock(clock.clone()).build();
    (clock, db)
}

/// Every way to read the item at `KEY`, and whether it finds the item.
fn read_all_ways(db: &(impl AtomicDb<Data = u32> + ?Sized)) -> Vec<(&'static str, bool)> {
    let query = Query::new("pk");
    let page = db.page(&query, None).unwrap();
    let streamed: Vec<Item<u32>> = (&db).stream(query.clone()).collect::<Result<_>>().unwrap();
    vec![
        ("get", db.get(KEY).unwrap().is_some()),
        ("get_fresh", db.get_fresh(KEY).unwrap().is_some()),
        ("get_many", db.get_many(&[LOCK, KEY]).unwrap()[1].is_some()),
        ("query", sks(&db.query(&query).unwrap()) == ["item"]),
        (
            "query, reversed",
            sks(&db.query(&query.clone().reverse().limit(1)).unwrap()) == ["item"],
        ),
        ("page", sks(&page.items) == ["item"]),
        ("stream", sks(&streamed) == ["item"]),
    ]
}

#[test]
fn an_item_is_visible_up_to_its_ttl_and_on_no_read_path_after_it() {
    // Each way is the first one once, because a read may remove the expired item for the others.
    for first in 0..7 {
        for cached in [false, true] {
            let (clock, inner) = clock_and_db();
            let db: Box<dyn AtomicDb<Data = u32>> = if cached {
                let cache = LruCache::builder(inner.clone()).clock(clock.clone());
                Box::new(cache.build())
            } else {
                Box::new(inner.clone())
            };
            db.set(&[Item::new("pk", "item", 1).expires_at(NOW + 5)])
                .unwrap();
            clock.set(NOW + 5);
            for (way, found) in read_all_ways(&*db) {
                assert!(found, "{way} misses a live item, cached: {cached}");
            }
            assert_eq!(inner.len(), 1);
            clock.advance(Duration::from_millis(999));
            assert!(
                db.get(KEY).unwrap().is_some(),
                "the last second is not over"
            );
            clock.set(NOW + 6);
            let found = match first {
                0 => db.get(KEY).unwrap().is_some(),
                1 => db.get_fresh(KEY).unwrap().is_some(),
                2 => db.get_many(&[KEY]).unwrap()[0].is_some(),
                3 => !db.query(&Query::new("pk")).unwrap().is_empty(),
                4 => !db.page(&Query::new("pk"), None).unwrap().items.is_empty(),
                5 => db.stream(Query::new("pk")).next().is_some(),
                _ => !inner.is_empty(),
            };
            assert!(
                !found,
                "way {first} finds an expired item, cached: {cached}"
            );
            for (way, found) in read_all_ways(&*db) {
                assert!(!found, "{way} finds an expired item, cached: {cached}");
            }
            assert_eq!((inner.len(), inner.purge_expired()), (0, 0));
        }
    }
}

#[test]
fn expired_items_count_towards_no_limit_and_end_no_stream() {
    let (clock, db) = clock_and_db();
    // Several pages of expired items between live ones.
    for number in 0..1_000 {
        let item = Item::new("pk", format!("{number:04}"), number);
        db.set(&[match number % 400 {
            399 => item,
            _ => item.expires_at(NOW),
        }])
        .unwrap();
    }
    clock.set(NOW + 1);
    let stream = |query| -> Vec<u32> {
        let items = db.stream(query).map(|item| item.unwrap().into_data());
        items.map(Option::unwrap).collect()
    };
    assert_eq!(stream(Query::new("pk").limit(2)), [399, 799]);
    assert_eq!(stream(Query::new("pk").reverse()), [799, 399]);
    assert_eq!(db.query(&Query::new("pk").limit(1)).unwrap().len(), 1);
    assert_eq!(db.len(), 2);
}

#[test]
fn purge_expired_counts_items_and_locks_of_every_stripe() {
    for stripes in [1, 2, 64] {
        let clock = ManualClock::new(NOW);
        let builder = MemoryDb::builder().stripes(stripes).clock(clock.clone());
        let db = builder.build();
        assert!(db.is_empty());
        for number in 0..1_000 {
            let item = Item::new(format!("{}", number % 50), format!("{number}"), ());
            db.set(&[match number % 2 {
                0 => item.expires_at(NOW + number / 100),
                _ => item,
            }])
            .unwrap();
        }
        db.get_lock(LOCK).unwrap();
        assert_eq!(db.len(), 1_000);
        clock.set(NOW + 1);
        assert_eq!(db.purge_expired(), 50);
        assert_eq!(db.purge_expired(), 0);
        assert_eq!(db.len(), 950);
        clock.set(NOW + Lock::LIFETIME);
        assert_eq!(db.purge_expired(), 450);
        clock.set(NOW + Lock::LIFETIME + 1);
        assert_eq!(db.purge_expired(), 1, "the lock");
        assert_eq!(db.len(), 500);
        assert!(!db.is_empty());
    }
}

#[test]
fn an_item_expires_by_the_ttl_that_was_written_last() {
    let (clock, db) = clock_and_db();
    let item = Item::new("pk", "item", 1);
    db.set(&[item.clone().expires_at(NOW)]).unwrap();
    db.set(&[item.clone().expires_at(NOW + 10)]).unwrap();
    clock.set(NOW + 10);
    assert_eq!(db.purge_expired(), 0);
    assert_eq!(data(&db, KEY), Some(1));
    db.set(&[item]).unwrap();
    clock.set(u64::MAX);
    assert_eq!(db.purge_expired(), 0);
    assert_eq!(data(&db, KEY), Some(1));
}

#[test]
fn an_item_that_is_written_expired_is_on_no_read_path() {
    let (_, db) = clock_and_db();
    let cached = LruCache::builder(db.clone()).clock(ManualClock::new(NOW));
    let cached = cached.build();
    cached
        .set(&[Item::new("pk", "item", 1).expires_at(NOW - 1)])
        .unwrap();
    assert!(read_all_ways(&cached).iter().all(|(_, found)| !found));
    assert!(db.is_empty());
}

#[test]
fn a_commit_keeps_the_stored_ttl_and_not_the_callers() {
    let (clock, db) = clock_and_db();
    let lock = db.get_lock(LOCK).unwrap();
    clock.set(lock.ttl() - 1);
    let refreshed = db.get_lock(LOCK).unwrap();
    clock.set(lock.ttl() + 1);
    let version = db.set_atomic(&[], &[lock]).unwrap();
    assert_eq!(db.get_lock(LOCK).unwrap(), refreshed.with_version(version));
}

#[test]
fn a_purge_keeps_a_refreshed_lock() {
    let (clock, db) = clock_and_db();
    let lock = db.get_lock(LOCK).unwrap();
    clock.set(lock.ttl());
    db.get_lock(LOCK).unwrap();
    clock.set(lock.ttl() + 1);
    assert_eq!(db.purge_expired(), 0);
    assert_eq!(db.get_lock(LOCK).unwrap().version(), lock.version());
}

#[test]
fn later_versions_of_a_lock_are_new_and_greater_on_any_clock() {
    let mut seen: HashSet<Version> = HashSet::new();
    let mut assert_new = |version: Version| assert!(seen.insert(version), "{version} is reused");
    for _ in 0..20 {
        let (clock, db) = clock_and_db();
        let mut latest = Version::from_u128(0);
        for round in 0..50 {
            let lock = db.get_lock(LOCK).unwrap();
            assert_new(lock.version());
            assert!(lock.version() > latest, "a later version is not greater");
            latest = db.set_atomic(&[], &[lock]).unwrap();
            assert_new(latest);
            match round % 5 {
                0 => db.delete(&[LOCK]).unwrap(),
                1 => clock.advance(Duration::from_secs(Lock::LIFETIME + 1)),
                2 => {
                    db.set(&[Item::new(LOCK.pk, LOCK.sk, 1)]).unwrap();
                    db.delete(&[LOCK]).unwrap();
                }
                // A clock that goes back, even to zero, or near its end.
                3 => {
                    clock.set([0, NOW, u64::MAX - 100 * Lock::LIFETIME][round % 3]);
                    db.delete(&[LOCK]).unwrap();
                }
                _ => {
                    latest = db.set_atomic(&[], &[db.get_lock(LOCK).unwrap()]).unwrap();
                    assert_new(latest);
                    db.delete(&[LOCK]).unwrap();
                }
            }
        }
    }
    assert_eq!(seen.len(), 20 * 110);
}

#[test]
fn a_conflict_names_exactly_the_changed_locks_in_the_order_of_the_batch() {
    let (clock, db) = clock_and_db();
    let lock = |sk: &str| db.get_lock(Key::new("locks", sk)).unwrap();
    let short = lock("short");
    clock.set(short.ttl() - 4_000);
    let [kept, deleted, renewed, replaced, checked] =
        ["kept", "deleted", "renewed", "replaced", "checked"].map(lock);
    let never = Lock::new(("locks", "never"), kept.version(), u64::MAX);
    let other_key = Lock::new(("locks", "checked"), kept.version(), u64::MAX);
    clock.set(short.ttl() + 1);
    db.delete(&[deleted.key()]).unwrap();
    db.set_atomic(&[], from_ref(&renewed)).unwrap();
    db.set(&[Item::new("locks", "replaced", 1)]).unwrap();
    db.set(&[Item::new("pk", "item", 1)]).unwrap();

    let changed = |batch: Batch<u32>| match db.commit(&batch) {
        Err(Error::RaceCondition { keys }) => keys,
        outcome => panic!("{outcome:?}"),
    };
    let names =
        |sks: &[&str]| -> Vec<KeyBuf> { sks.iter().map(|sk| KeyBuf::new("locks", sk)).collect() };
    let write = || Batch::new().set(Item::new("pk", "item", 2));
    assert_eq!(
        changed(
            write()
                .lock(renewed.clone())
                .lock(kept.clone())
                .lock(never.clone())
                .lock(short.clone())
                .check(replaced.clone())
                .check(checked.clone())
                .check(deleted.clone())
        ),
        names(&["renewed", "never", "short", "replaced", "deleted"])
    );
    assert_eq!(
        changed(write().lock(kept.clone()).check(other_key)),
        names(&["checked"])
    );
    assert_eq!(data(&db, KEY), Some(1));
    db.set_atomic(&[], &[kept, checked])
        .expect("a commit that failed leaves every lock as it was");
}
