//! User code runs while no mutex is held (guarantee 22): values whose `Drop` calls the database or
//! panics, clocks that call it, the sweeper, and calls from async code.

use crate::common::{HANG_LIMIT, data};
use atomic_db::testing::with_timeout;
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Clock, Error, Item, Key, LruCache, ManualClock, MemoryDb, Query,
    Scan, Sweeper,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

/// Data that calls a function when it is dropped.
struct OnDrop(Box<dyn Fn() + Send + Sync>);

impl OnDrop {
    fn new(callback: impl Fn() + Send + Sync + 'static) -> Self {
        OnDrop(Box::new(callback))
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        (self.0)();
    }
}

const KEY: Key<'static> = Key::new("pk", "value");
const LOCK: Key<'static> = Key::new("pk", "lock");
const NOW: u64 = 1_000_000;

fn empty_item(sk: &str) -> Item<OnDrop> {
    Item::without_data("pk", sk)
}

/// Calls every method of the trait, mostly on keys that no test uses.
fn call_everything(db: &impl AtomicDb<Data = OnDrop>) {
    let (key, lock_key) = (Key::new("pk", "own"), Key::new("pk", "own lock"));
    db.get(KEY).unwrap();
    db.get_fresh(KEY).unwrap();
    db.get_many(&[KEY, key, LOCK]).unwrap();
    db.set(&[empty_item("own")]).unwrap();
    let lock = db.get_lock(lock_key).unwrap();
    let version = db
        .commit(&Batch::new().lock(lock.clone()).delete(key))
        .unwrap();
    db.set_atomic(&[empty_item("own")], &[lock.with_version(version)])
        .unwrap();
    assert_eq!(db.query(&Query::new("pk").prefix("own")).unwrap().len(), 1);
    db.page(&Query::new("pk"), None).unwrap();
    assert!(db.stream(Query::new("pk")).all(|item| item.is_ok()));
    db.delete(&[key, lock_key]).unwrap();
}

fn clock_and_db() -> (ManualClock, MemoryDb<OnDrop>) {
    let clock = ManualClock::new(NOW);
    // All keys are in one stripe.
    let db = MemoryDb::builder().stripes(1).clock(clock.clone()).build();
    (clock, db)
}

/// A name, and a function that removes the value at `KEY`.
type Removal<D> = (&'static str, fn(&D, &ManualClock));

/// Returns all calls that remove the value at `KEY`, which is live until `NOW`, from a database.
fn removals() -> Vec<Removal<MemoryDb<OnDrop>>> {
    fn expire(clock: &ManualClock) {
        clock.set(NOW + 1);
    }
    vec![
        ("set", |db, _| db.set(&[empty_item("value")]).unwrap()),
        ("set, twice in one call", |db, _| {
            db.set(&[empty_item("value"), empty_item("value")]).unwrap();
        }),
        ("set_atomic", |db, _| {
            let lock = db.get_lock(LOCK).unwrap();
            db.set_atomic(&[empty_item("value")], &[lock]).unwrap();
        }),
        ("commit with a set", |db, _| {
            db.commit(&Batch::new().set(empty_item("value"))).unwrap();
        }),
        ("commit with a delete", |db, _| {
            db.commit(&Batch::new().delete(KEY)).unwrap();
        }),
        ("commit with a create over an expired item", |db, clock| {
            expire(clock);
            db.commit(&Batch::new().create(empty_item("value")))
                .unwrap();
        }),
        ("transact", |db, _| {
            db.transact(|tx| {
                tx.lock(LOCK)?;
                tx.set(empty_item("value"))
            })
            .unwrap();
        }),
        ("delete", |db, _| db.delete(&[KEY, KEY]).unwrap()),
        ("purge_expired", |db, clock| {
            expire(clock);
            assert_eq!(db.purge_expired(), 1);
        }),
        ("len", |db, clock| {
            expire(clock);
            assert_eq!(db.len(), 0);
        }),
        ("get", |db, clock| {
            expire(clock);
            assert!(db.get(KEY).unwrap().is_none());
        }),
        ("get_many", |db, clock| {
            expire(clock);
            assert!(db.get_many(&[KEY, KEY]).unwrap()[1].is_none());
        }),
        ("get_lock at its key", |db, clock| {
            expire(clock);
            db.get_lock(KEY).unwrap();
        }),
        ("query", |db, clock| {
            expire(clock);
            assert!(db.query(&Query::new("pk")).unwrap().is_empty());
        }),
        ("page", |db, clock| {
            expire(clock);
            let page = db.page(&Query::new("pk").reverse(), None).unwrap();
            assert!(page.items.is_empty());
        }),
        ("stream", |db, clock| {
            expire(clock);
            assert_eq!(db.stream(Query::new("pk")).count(), 0);
        }),
        ("scan", |db, clock| {
            expire(clock);
            assert_eq!(db.scan().count(), 0);
        }),
    ]
}

type Cached = LruCache<MemoryDb<OnDrop>>;

/// Returns all calls that remove the value at `KEY`, which only the cache still has, from the cache.
fn removals_from_the_cache() -> Vec<Removal<Cached>> {
    vec![
        ("evicted by a set", |db, _| {
            db.set(&[empty_item("other")]).unwrap();
        }),
        ("evicted by a get", |db, _| {
            db.inner().set(&[empty_item("other")]).unwrap();
            db.get(Key::new("pk", "other")).unwrap();
        }),
        ("evicted by a get_many", |db, _| {
            db.inner().set(&[empty_item("other")]).unwrap();
            db.get_many(&[KEY, Key::new("pk", "other")]).unwrap();
        }),
        ("set", |db, _| db.set(&[empty_item("value")]).unwrap()),
        ("set among others", |db, _| {
            db.set(&["a", "value", "b"].map(empty_item)).unwrap();
        }),
        ("set_atomic", |db, _| {
            let lock = db.get_lock(LOCK).unwrap();
            db.set_atomic(&[empty_item("value")], &[lock]).unwrap();
        }),
        ("a set_atomic that fails with a conflict", |db, _| {
            let lock = db.get_lock(LOCK).unwrap();
            db.delete(&[LOCK]).unwrap();
            let conflict = db.set_atomic(&[empty_item("value")], &[lock]).unwrap_err();
            assert!(conflict.is_race_condition());
        }),
        ("commit", |db, _| {
            db.commit(&Batch::new().create(empty_item("value")))
                .unwrap();
        }),
        ("delete", |db, _| db.delete(&[KEY]).unwrap()),
        ("invalidate", |db, _| db.invalidate(KEY)),
        ("clear", |db, _| db.clear()),
        ("get after it has expired", |db, clock| {
            clock.set(NOW + 1);
            assert!(db.get(KEY).unwrap().is_none());
        }),
        ("get_many after it has expired", |db, clock| {
            clock.set(NOW + 1);
            assert!(db.get_many(&[KEY, KEY]).unwrap()[0].is_none());
        }),
    ]
}

/// Returns a cache of one item that alone has `value`.
fn cache_with(value: OnDrop) -> (ManualClock, Cached) {
    let (clock, inner) = clock_and_db();
    let cache = LruCache::builder(inner).capacity(1).clock(clock.clone());
    let db = cache.build();
    db.set(&[Item::new(KEY.pk, KEY.sk, value).expires_at(NOW)])
        .unwrap();
    db.inner().delete(&[KEY]).unwrap();
    assert_eq!(db.stats().entries, 1);
    (clock, db)
}

#[test]
fn the_drop_of_a_removed_value_may_call_the_database() {
    for (name, remove) in removals() {
        with_timeout(HANG_LIMIT, move |_| {
            let (clock, db) = clock_and_db();
            let drops = Arc::new(AtomicUsize::new(0));
            let (handle, count) = (db.clone(), Arc::clone(&drops));
            let value = OnDrop::new(move || {
                call_everything(&handle);
                handle.purge_expired();
                let _ = handle.len();
                count.fetch_add(1, Ordering::Relaxed);
            });
            db.set(&[Item::new(KEY.pk, KEY.sk, value).expires_at(NOW)])
                .unwrap();
            remove(&db, &clock);
            assert_eq!(drops.load(Ordering::Relaxed), 1, "{name}");
            call_everything(&db);
        });
    }
}

#[test]
fn the_drop_of_a_removed_value_may_call_the_cache() {
    for (name, remove) in removals_from_the_cache() {
        with_timeout(HANG_LIMIT, move |_| {
            let drops = Arc::new(AtomicUsize::new(0));
            let slot = Arc::new(Mutex::new(None::<Cached>));
            let (handle, count) = (Arc::clone(&slot), Arc::clone(&drops));
            let value = OnDrop::new(move || {
                let db = handle.lock().unwrap().clone().unwrap();
                call_everything(&db);
                db.invalidate(KEY);
                let _ = db.stats();
                db.clear();
                count.fetch_add(1, Ordering::Relaxed);
            });
            let (clock, db) = cache_with(value);
            *slot.lock().unwrap() = Some(db.clone());
            remove(&db, &clock);
            assert_eq!(drops.load(Ordering::Relaxed), 1, "{name}");
            call_everything(&db);
        });
    }
}

#[test]
fn a_value_whose_drop_panics_leaves_the_database_usable() {
    for (name, remove) in removals() {
        with_timeout(HANG_LIMIT, move |_| {
            let (clock, db) = clock_and_db();
            let value = OnDrop::new(|| panic!("dropped"));
            db.set(&[Item::new(KEY.pk, KEY.sk, value).expires_at(NOW)])
                .unwrap();
            let panicked = catch_unwind(AssertUnwindSafe(|| remove(&db, &clock)));
            assert!(panicked.is_err(), "{name}");
            call_everything(&db);
            db.delete(&[KEY, LOCK]).unwrap();
            assert!(db.is_empty(), "{name}");
            db.set(&[empty_item("value")]).unwrap();
            assert_eq!(db.len(), 1, "{name}");
        });
    }
}

#[test]
fn a_value_whose_drop_panics_leaves_the_cache_usable() {
    for (name, remove) in removals_from_the_cache() {
        with_timeout(HANG_LIMIT, move |_| {
            let (clock, db) = cache_with(OnDrop::new(|| panic!("dropped")));
            let panicked = catch_unwind(AssertUnwindSafe(|| remove(&db, &clock)));
            assert!(panicked.is_err(), "{name}");
            call_everything(&db);
            // The keys can be cached as before.
            for sk in ["value", "other", "a", "b"] {
                let key = Key::new("pk", sk);
                db.set(&[empty_item(sk)]).unwrap();
                let before = db.stats();
                assert!(db.get(key).unwrap().is_some(), "{name}");
                assert_eq!(
                    db.stats().hits,
                    before.hits + 1,
                    "{name}: {sk} is not cached"
                );
                db.clear();
                db.get(key).unwrap();
                db.get(key).unwrap();
                assert_eq!(
                    db.stats().hits,
                    before.hits + 2,
                    "{name}: {sk} is not filled"
                );
            }
        });
    }
}

#[test]
fn a_sweeper_removes_expired_items() {
    let (clock, db) = clock_and_db();
    let (dropped, drops) = mpsc::channel();
    let value = OnDrop::new(move || dropped.send(()).unwrap());
    db.set(&[Item::new("pk", "value", value).expires_at(NOW)])
        .unwrap();
    clock.set(NOW + 1);
    let sweeper = Sweeper::start(&db, Duration::from_millis(1)).unwrap();
    drops.recv_timeout(HANG_LIMIT).unwrap();
    drop(sweeper);
    assert_eq!(db.purge_expired(), 0);
}

#[test]
fn dropping_a_sweeper_ends_its_thread() {
    for every in [Duration::from_millis(1), Duration::MAX] {
        with_timeout(HANG_LIMIT, move |_| {
            let (_, db) = clock_and_db();
            let (dropped, drops) = mpsc::channel();
            let value = OnDrop::new(move || dropped.send(()).unwrap());
            db.set(&[Item::new("pk", "value", value)]).unwrap();
            drop(Sweeper::start(&db, every).unwrap());
            // The thread has a handle. This is the last one only if the thread has ended.
            drop(db);
            drops.try_recv().expect("the database is still alive");
        });
    }
    let (_, db) = clock_and_db();
    assert!(matches!(
        Sweeper::start(&db, Duration::ZERO),
        Err(Error::InvalidInput(_))
    ));
}

#[test]
fn a_sweeper_may_be_dropped_by_a_value_that_it_removes() {
    with_timeout(HANG_LIMIT, |_| {
        let (clock, db) = clock_and_db();
        let slot = Arc::new(Mutex::new(None::<Sweeper>));
        let (ended, end) = mpsc::channel();
        let (handle, sender) = (Arc::clone(&slot), ended.clone());
        let value = OnDrop::new(move || {
            drop(handle.lock().unwrap().take());
            sender.send("sweeper").unwrap();
        });
        let last = OnDrop::new(move || ended.send("database").unwrap());
        db.set(&[
            Item::new("pk", "value", value).expires_at(NOW),
            Item::new("pk", "last", last),
        ])
        .unwrap();
        *slot.lock().unwrap() = Some(Sweeper::start(&db, Duration::from_millis(1)).unwrap());
        clock.set(NOW + 1);
        assert_eq!(end.recv(), Ok("sweeper"));
        drop(db);
        // The thread ends, and drops the last handle.
        assert_eq!(end.recv(), Ok("database"));
    });
}

#[test]
fn a_sweeper_goes_on_after_a_value_whose_drop_panics() {
    with_timeout(HANG_LIMIT, |_| {
        let (clock, db) = clock_and_db();
        let (dropped, drops) = mpsc::channel();
        let sender = dropped.clone();
        let bad = OnDrop::new(move || {
            sender.send("bad").unwrap();
            panic!("dropped");
        });
        let good = OnDrop::new(move || dropped.send("good").unwrap());
        db.set(&[
            Item::new("pk", "bad", bad).expires_at(NOW),
            Item::new("pk", "good", good).expires_at(NOW + 1),
        ])
        .unwrap();
        let _sweeper = Sweeper::start(&db, Duration::from_millis(1)).unwrap();
        clock.set(NOW + 1);
        assert_eq!(drops.recv(), Ok("bad"));
        clock.set(NOW + 2);
        assert_eq!(drops.recv(), Ok("good"));
    });
}

/// Runs a transaction that fails with one conflict, so that it pauses on the system clock.
fn increment_after_a_conflict(db: &impl AtomicDb<Data = u64>) {
    let mut conflicts = 1;
    db.transact(|tx| {
        let lock = tx.lock(LOCK)?;
        let old = tx.get(KEY)?.and_then(Item::into_data).unwrap_or(0);
        if conflicts > 0 {
            conflicts -= 1;
            // If this fails, another thread has caused the conflict.
            let _ = db.set_atomic(&[], &[lock]);
        }
        tx.set(Item::new(KEY.pk, KEY.sk, old + 1))
    })
    .unwrap();
}

#[tokio::test]
async fn every_call_may_be_made_on_an_async_runtimes_thread() {
    let db = LruCache::new(MemoryDb::new(), 10);
    let sweeper = Sweeper::start(db.inner(), Duration::from_millis(1)).unwrap();
    increment_after_a_conflict(&db);
    assert_eq!(data(&db, KEY), Some(1));
    let mut stream = db.stream(Query::new("pk"));
    assert!(stream.next().is_some());
    tokio::task::yield_now().await;
    drop(stream);
    db.delete(&[KEY, LOCK]).unwrap();
    assert!(db.inner().is_empty());
    drop(sweeper);
    drop(db);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_tasks_share_handles() {
    let db = LruCache::new(MemoryDb::new(), 10);
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let db = db.clone();
            tokio::task::spawn_blocking(move || increment_after_a_conflict(&db))
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(data(&db, KEY), Some(4));
}

/// A clock that calls a database each time that it is asked.
#[derive(Debug, Default)]
struct ReentrantClock {
    db: OnceLock<LruCache<MemoryDb<u32>>>,
    asked: AtomicUsize,
}

impl Clock for ReentrantClock {
    fn now(&self) -> Duration {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(db) = self.db.get() {
            // Neither the item nor the deletion needs the time. Otherwise this would recurse forever.
            db.get(Key::new("pk", "timeless")).unwrap();
            db.inner().get(Key::new("pk", "timeless")).unwrap();
            db.delete(&[Key::new("pk", "none")]).unwrap();
        }
        Duration::from_secs(1_000)
    }

    fn sleep(&self, _: Duration) {}
}

#[test]
fn a_clock_may_call_the_database_that_asks_it() {
    with_timeout(HANG_LIMIT, |_| {
        let clock = Arc::new(ReentrantClock::default());
        let db = MemoryDb::builder()
            .stripes(1)
            .clock(Arc::clone(&clock))
            .build();
        let db = LruCache::builder(db)
            .shards(1)
            .clock(Arc::clone(&clock))
            .build();
        db.set(&[Item::new("pk", "timeless", 1)]).unwrap();
        clock.db.set(db.clone()).unwrap();
        let timed = |ttl| Item::new("pk", "timed", 1).expires_at(ttl);
        let key = Key::new("pk", "timed");
        let calls: [&dyn Fn(); 9] = [
            &|| drop(db.get(key).unwrap()),
            &|| drop(db.get_fresh(key).unwrap()),
            &|| drop(db.get_many(&[key, Key::new("pk", "other")]).unwrap()),
            &|| drop(db.get_lock(Key::new("pk", "lock")).unwrap()),
            &|| assert!(db.commit(&Batch::new().set(timed(2_000))).is_ok()),
            &|| drop(db.query(&Query::new("pk")).unwrap()),
            &|| drop(db.page(&Query::new("pk"), None).unwrap()),
            &|| assert!(db.inner().purge_expired() <= 1),
            &|| assert!(db.inner().len() <= 2),
        ];
        for (number, call) in calls.iter().enumerate() {
            // A live item, and an expired one.
            for ttl in [2_000, 999] {
                db.inner().set(&[timed(ttl)]).unwrap();
                db.invalidate(key);
                let before = clock.asked.load(Ordering::Relaxed);
                call();
                call();
                let asked = clock.asked.load(Ordering::Relaxed) - before;
                assert!(asked > 0, "call {number} did not ask the clock");
            }
        }
    });
}
