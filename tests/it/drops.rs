//! A caller's own code runs while nothing is held: values whose `Drop` calls the database or
//! panics, the sweeper, and calls from async code.

use crate::common::{HANG_LIMIT, data};
use atomic_db::testing::with_timeout;
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Clock, Error, Item, Key, LruCache, ManualClock, MemoryDb, Query,
    Sweeper,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

/// Data that does something when it is dropped.
struct OnDrop(Box<dyn Fn() + Send + Sync>);

impl OnDrop {
    fn new(act: impl Fn() + Send + Sync + 'static) -> Self {
        OnDrop(Box::new(act))
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

fn bare(sk: &str) -> Item<OnDrop> {
    Item::without_data("pk", sk)
}

/// Calls every method of the trait, on keys of its own.
fn call_everything(db: &impl AtomicDb<Data = OnDrop>) {
    let (key, lock_key) = (Key::new("pk", "own"), Key::new("pk", "own lock"));
    db.get(KEY).unwrap();
    db.get_fresh(KEY).unwrap();
    db.get_many(&[KEY, key, LOCK]).unwrap();
    db.set(&[bare("own")]).unwrap();
    let lock = db.get_lock(lock_key).unwrap();
    let version = db
        .commit(&Batch::new().lock(lock.clone()).delete(key))
        .unwrap();
    db.set_atomic(&[bare("own")], &[lock.with_version(version)])
        .unwrap();
    assert_eq!(db.query(&Query::new("pk").prefix("own")).unwrap().len(), 1);
    db.page(&Query::new("pk"), None).unwrap();
    assert!(db.stream(Query::new("pk")).all(|item| item.is_ok()));
    db.delete(&[key, lock_key]).unwrap();
}

fn clock_and_db() -> (ManualClock, MemoryDb<OnDrop>) {
    let clock = ManualClock::new(NOW);
    // All keys meet under one mutex.
    let db = MemoryDb::builder().stripes(1).clock(clock.clone()).build();
    (clock, db)
}

type Way<D> = (&'static str, fn(&D, &ManualClock));

/// The ways in which the value at `KEY`, which lives until `NOW`, can leave a database.
fn ways_out() -> Vec<Way<MemoryDb<OnDrop>>> {
    fn later(clock: &ManualClock) {
        clock.set(NOW + 1);
    }
    vec![
        ("set", |db, _| db.set(&[bare("value")]).unwrap()),
        ("set, twice in one call", |db, _| {
            db.set(&[bare("value"), bare("value")]).unwrap();
        }),
        ("set_atomic", |db, _| {
            let lock = db.get_lock(LOCK).unwrap();
            db.set_atomic(&[bare("value")], &[lock]).unwrap();
        }),
        ("commit with a set", |db, _| {
            db.commit(&Batch::new().set(bare("value"))).unwrap();
        }),
        ("commit with a delete", |db, _| {
            db.commit(&Batch::new().delete(KEY)).unwrap();
        }),
        (
            "commit with a creation over what has expired",
            |db, clock| {
                later(clock);
                db.commit(&Batch::new().create(bare("value"))).unwrap();
            },
        ),
        ("transact", |db, _| {
            db.transact(|tx| {
                tx.lock(LOCK)?;
                tx.set(bare("value"))
            })
            .unwrap();
        }),
        ("delete", |db, _| db.delete(&[KEY, KEY]).unwrap()),
        ("purge_expired", |db, clock| {
            later(clock);
            assert_eq!(db.purge_expired(), 1);
        }),
        ("len", |db, clock| {
            later(clock);
            assert_eq!(db.len(), 0);
        }),
        ("get", |db, clock| {
            later(clock);
            assert!(db.get(KEY).unwrap().is_none());
        }),
        ("get_many", |db, clock| {
            later(clock);
            assert!(db.get_many(&[KEY, KEY]).unwrap()[1].is_none());
        }),
        ("get_lock where it was", |db, clock| {
            later(clock);
            db.get_lock(KEY).unwrap();
        }),
        ("query", |db, clock| {
            later(clock);
            assert!(db.query(&Query::new("pk")).unwrap().is_empty());
        }),
        ("page", |db, clock| {
            later(clock);
            let page = db.page(&Query::new("pk").reverse(), None).unwrap();
            assert!(page.items.is_empty());
        }),
        ("stream", |db, clock| {
            later(clock);
            assert_eq!(db.stream(Query::new("pk")).count(), 0);
        }),
    ]
}

type Cached = LruCache<MemoryDb<OnDrop>>;

/// The ways in which the value at `KEY`, which only the cache still holds, can leave it.
fn ways_out_of_the_cache() -> Vec<Way<Cached>> {
    vec![
        ("evicted by a set", |db, _| {
            db.set(&[bare("other")]).unwrap();
        }),
        ("evicted by a get", |db, _| {
            db.inner().set(&[bare("other")]).unwrap();
            db.get(Key::new("pk", "other")).unwrap();
        }),
        ("evicted by a get_many", |db, _| {
            db.inner().set(&[bare("other")]).unwrap();
            db.get_many(&[KEY, Key::new("pk", "other")]).unwrap();
        }),
        ("set", |db, _| db.set(&[bare("value")]).unwrap()),
        ("set among others", |db, _| {
            db.set(&["a", "value", "b"].map(bare)).unwrap();
        }),
        ("set_atomic", |db, _| {
            let lock = db.get_lock(LOCK).unwrap();
            db.set_atomic(&[bare("value")], &[lock]).unwrap();
        }),
        ("a set_atomic that loses", |db, _| {
            let lock = db.get_lock(LOCK).unwrap();
            db.delete(&[LOCK]).unwrap();
            let lost = db.set_atomic(&[bare("value")], &[lock]).unwrap_err();
            assert!(lost.is_race_condition());
        }),
        ("commit", |db, _| {
            db.commit(&Batch::new().create(bare("value"))).unwrap();
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

/// A cache of one item that alone holds `value`.
fn holding(value: OnDrop) -> (ManualClock, Cached) {
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
fn a_value_that_leaves_the_database_may_call_it_from_its_drop() {
    for (way, leave) in ways_out() {
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
            leave(&db, &clock);
            assert_eq!(drops.load(Ordering::Relaxed), 1, "{way}");
            call_everything(&db);
        });
    }
}

#[test]
fn a_value_that_leaves_the_cache_may_call_it_from_its_drop() {
    for (way, leave) in ways_out_of_the_cache() {
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
            let (clock, db) = holding(value);
            *slot.lock().unwrap() = Some(db.clone());
            leave(&db, &clock);
            assert_eq!(drops.load(Ordering::Relaxed), 1, "{way}");
            call_everything(&db);
        });
    }
}

#[test]
fn a_value_whose_drop_panics_leaves_the_database_usable() {
    for (way, leave) in ways_out() {
        with_timeout(HANG_LIMIT, move |_| {
            let (clock, db) = clock_and_db();
            let value = OnDrop::new(|| panic!("dropped"));
            db.set(&[Item::new(KEY.pk, KEY.sk, value).expires_at(NOW)])
                .unwrap();
            let panicked = catch_unwind(AssertUnwindSafe(|| leave(&db, &clock)));
            assert!(panicked.is_err(), "{way}");
            call_everything(&db);
            db.delete(&[KEY, LOCK]).unwrap();
            assert!(db.is_empty(), "{way}");
            db.set(&[bare("value")]).unwrap();
            assert_eq!(db.len(), 1, "{way}");
        });
    }
}

#[test]
fn a_value_whose_drop_panics_leaves_the_cache_usable() {
    for (way, leave) in ways_out_of_the_cache() {
        with_timeout(HANG_LIMIT, move |_| {
            let (clock, db) = holding(OnDrop::new(|| panic!("dropped")));
            let panicked = catch_unwind(AssertUnwindSafe(|| leave(&db, &clock)));
            assert!(panicked.is_err(), "{way}");
            call_everything(&db);
            // The keys concerned can be cached as before.
            for sk in ["value", "other", "a", "b"] {
                let key = Key::new("pk", sk);
                db.set(&[bare(sk)]).unwrap();
                let before = db.stats();
                assert!(db.get(key).unwrap().is_some(), "{way}");
                assert_eq!(
                    db.stats().hits,
                    before.hits + 1,
                    "{way}: {sk} is not cached"
                );
                db.clear();
                db.get(key).unwrap();
                db.get(key).unwrap();
                assert_eq!(
                    db.stats().hits,
                    before.hits + 2,
                    "{way}: {sk} is not filled"
                );
            }
        });
    }
}

#[test]
fn a_sweeper_drops_what_has_expired() {
    let (clock, db) = clock_and_db();
    let (dropped, drops) = mpsc::channel();
    let value = OnDrop::new(move || dropped.send(()).unwrap());
    db.set(&[Item::new("pk", "value", value).expires_at(NOW)])
        .unwrap();
    clock.set(NOW + 1);
    let sweeper = Sweeper::start(&db, Duration::from_millis(1)).unwrap();
    drops.recv_timeout(Duration::from_secs(60)).unwrap();
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
            // Its thread holds a handle, so this is the last one only if the thread has ended.
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
fn a_sweeper_may_be_dropped_by_a_value_that_it_sweeps() {
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
        // The thread ends too, and lets go of the last handle.
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

/// A transaction that loses one race, so that it pauses on the system's clock.
fn increment_after_a_race(db: &impl AtomicDb<Data = u64>) {
    let mut races = 1;
    db.transact(|tx| {
        let lock = tx.lock(LOCK)?;
        let old = tx.get(KEY)?.and_then(Item::into_data).unwrap_or(0);
        if races > 0 {
            races -= 1;
            // Should this lose itself, somebody else has made the race.
            let _ = db.set_atomic(&[], &[lock]);
        }
        tx.set(Item::new(KEY.pk, KEY.sk, old + 1))
    })
    .unwrap();
}

#[tokio::test]
async fn every_call_may_be_made_on_the_thread_of_an_async_runtime() {
    let db = LruCache::new(MemoryDb::new(), 10);
    let sweeper = Sweeper::start(db.inner(), Duration::from_millis(1)).unwrap();
    increment_after_a_race(&db);
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
async fn handles_are_shared_by_blocking_tasks() {
    let db = LruCache::new(MemoryDb::new(), 10);
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let db = db.clone();
            tokio::task::spawn_blocking(move || increment_after_a_race(&db))
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(data(&db, KEY), Some(4));
}

/// A clock that asks a database each time that it is asked itself.
#[derive(Debug, Default)]
struct Asking {
    db: OnceLock<LruCache<MemoryDb<u32>>>,
    asked: AtomicUsize,
}

impl Clock for Asking {
    fn now(&self) -> Duration {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(db) = self.db.get() {
            // Neither the item nor the deletion needs the time, or this would go round for ever.
            db.get(Key::new("pk", "timeless")).unwrap();
            db.inner().get(Key::new("pk", "timeless")).unwrap();
            db.delete(&[Key::new("pk", "none")]).unwrap();
        }
        Duration::from_secs(1_000)
    }

    fn sleep(&self, _: Duration) {}
}

#[test]
fn a_clock_may_ask_the_database_that_asks_it() {
    with_timeout(HANG_LIMIT, |_| {
        let clock = Arc::new(Asking::default());
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
            // Live, and then expired.
            for ttl in [2_000, 999] {
                db.inner().set(&[timed(ttl)]).unwrap();
                db.invalidate(key);
                let before = clock.asked.load(Ordering::Relaxed);
                call();
                call();
                let asked = clock.asked.load(Ordering::Relaxed) - before;
                assert!(asked > 0, "call {number} asked no clock");
            }
        }
    });
}
