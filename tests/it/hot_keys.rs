//! Transactions of many threads on the same locks: none is exhausted, waits are bounded, and no update
//! is lost.

use crate::common::{HANG_LIMIT, RecordingClock, data};
use atomic_db::testing::{run_concurrently, with_timeout};
use atomic_db::{
    AtomicDb, AtomicDbExt, Clock, Error, Item, Key, LruCache, ManualClock, MemoryDb, Result, Retry,
    SharedDb, Transaction,
};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// An item and its lock.
type Account = (Key<'static>, Key<'static>);

const A: Account = (Key::new("a", "count"), Key::new("a", "lock"));
const B: Account = (Key::new("b", "count"), Key::new("b", "lock"));

fn add<D>(tx: &mut Transaction<'_, D>, key: Key<'_>) -> Result<()>
where
    D: AtomicDb<Data = u32> + ?Sized,
{
    let count = tx.get(key)?.and_then(Item::into_data).unwrap_or(0);
    tx.set(Item::at(key, count + 1))
}

fn increment<D>(db: &D, (key, lock): Account) -> Result<()>
where
    D: AtomicDb<Data = u32> + ?Sized,
{
    db.transact(|tx| {
        tx.lock(lock)?;
        add(tx, key)
    })
}

/// Commits under the lock of `account` without a transaction, so that a transaction that has read the
/// lock fails with a conflict.
fn interfere(db: &impl AtomicDb<Data = u32>, (_, lock): Account) {
    let lock = db.get_lock(lock).unwrap();
    db.set_atomic(&[], &[lock]).unwrap();
}

/// One for each kind of database and wrapper.
fn databases() -> Vec<(&'static str, SharedDb<u32>)> {
    let mut databases: Vec<(&str, SharedDb<u32>)> = vec![
        ("memory", Arc::new(MemoryDb::new())),
        ("cache", Arc::new(LruCache::new(MemoryDb::new(), 10))),
    ];
    #[cfg(feature = "redb")]
    databases.push((
        "file",
        Arc::new(atomic_db::RedbDb::builder().in_memory().unwrap()),
    ));
    databases.push(("boxed", Arc::new(Box::new(MemoryDb::new()))));
    databases
}

#[test]
fn many_threads_increment_one_item_and_none_is_exhausted() {
    for (name, db) in databases() {
        with_timeout(HANG_LIMIT, move |_| {
            for threads in [2, 8, 32, 64] {
                let before = data(&db, A.0).unwrap_or(0);
                run_concurrently(threads, |number| {
                    for _ in 0..40 {
                        if number % 2 == 0 {
                            increment(&db, A).unwrap();
                        } else {
                            let added = |count: Option<&u32>| Some(count.copied().unwrap_or(0) + 1);
                            db.update(A.0, A.1, added).unwrap();
                        }
                    }
                });
                let after = data(&db, A.0).unwrap();
                assert_eq!(
                    after - before,
                    threads as u32 * 40,
                    "{name}, {threads} threads"
                );
            }
        });
    }
}

#[test]
fn two_hot_locks_in_both_orders_do_not_deadlock() {
    for (name, db) in databases() {
        with_timeout(HANG_LIMIT, move |_| {
            run_concurrently(16, |number| {
                let order = if number % 2 == 0 { [A, B] } else { [B, A] };
                for round in 0..25 {
                    let done = db.transact(|tx| {
                        if round % 2 == 0 {
                            tx.lock_all(&order.map(|(_, lock)| lock))?;
                        } else {
                            tx.lock(order[0].1)?;
                            tx.lock(order[1].1)?;
                        }
                        order.iter().try_for_each(|(key, _)| add(tx, *key))
                    });
                    done.unwrap();
                }
            });
            for (key, _) in [A, B] {
                assert_eq!(data(&db, key), Some(16 * 25), "{name}");
            }
        });
    }
}

#[test]
fn transactions_within_transactions_on_hot_locks_do_not_deadlock() {
    for (name, db) in databases() {
        with_timeout(HANG_LIMIT, move |_| {
            let inner_commits = AtomicU32::new(0);
            run_concurrently(8, |number| {
                let (outer, inner) = if number % 2 == 0 { (A, B) } else { (B, A) };
                for round in 0..10 {
                    let done = db.transact(|tx| {
                        // The same lock within the transaction that locks it only afterwards, or
                        // another one.
                        let inner = if round % 2 == 0 { outer } else { inner };
                        if round % 2 == 1 {
                            tx.lock(outer.1)?;
                        }
                        increment(&db, inner)?;
                        inner_commits.fetch_add(1, Ordering::Relaxed);
                        tx.lock(outer.1)?;
                        add(tx, outer.0)
                    });
                    done.unwrap();
                }
            });
            let commits = inner_commits.load(Ordering::Relaxed) + 8 * 10;
            let total = data(&db, A.0).unwrap() + data(&db, B.0).unwrap();
            assert_eq!(total, commits, "{name}");
        });
    }
}

#[test]
fn a_body_that_panics_under_contention_leaves_no_transaction_waiting() {
    for (name, db) in databases() {
        with_timeout(HANG_LIMIT, move |_| {
            run_concurrently(8, |number| {
                for round in 0..40 {
                    let panics = round % 3 == number % 3;
                    let outcome = catch_unwind(AssertUnwindSafe(|| {
                        db.transact(|tx| {
                            tx.lock(A.1)?;
                            add(tx, A.0)?;
                            if panics {
                                resume_unwind(Box::new("an injected panic"));
                            }
                            Ok(())
                        })
                    }));
                    match outcome {
                        Ok(done) => done.unwrap(),
                        Err(_) => assert!(panics),
                    }
                }
            });
            let panics =
                (0..8).map(|number: u32| (0..40).filter(|round| round % 3 == number % 3).count());
            let expected = 8 * 40 - panics.sum::<usize>();
            assert_eq!(data(&db, A.0), Some(expected as u32), "{name}");
        });
    }
}

/// Runs `during` while another thread has its turn at the lock of `A` and does not end it.
fn while_a_turn_is_paused(db: &MemoryDb<u32>, races: u32, during: impl FnOnce()) {
    let (reach, reached) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut runs = 0;
            let done = db.transact(|tx| {
                tx.lock(A.1)?;
                add(tx, A.0)?;
                runs += 1;
                if runs <= races {
                    interfere(db, A);
                } else if runs == races + 1 {
                    reach.send(()).unwrap();
                    ended.recv().unwrap();
                }
                Ok(())
            });
            done.unwrap();
        });
        reached.recv().unwrap();
        during();
        end.send(()).unwrap();
    });
}

#[test]
fn a_transaction_goes_on_if_the_turn_before_it_is_paused() {
    with_timeout(HANG_LIMIT, |_| {
        let db = MemoryDb::new();
        while_a_turn_is_paused(&db, 1, || {
            // Its first attempt is not in the queue, so let it fail.
            let mut runs = 0;
            let done = db.transact(|tx| {
                runs += 1;
                tx.lock(A.1)?;
                add(tx, A.0)?;
                if runs == 1 {
                    interfere(&db, A);
                }
                Ok(())
            });
            done.unwrap();
            assert_eq!((runs, data(&db, A.0)), (2, Some(1)));
            // One that has not lost a race does not look at the queue.
            increment(&db, A).unwrap();
        });
        assert_eq!(data(&db, A.0), Some(3), "the paused one tried again");
    });
}

#[test]
fn a_newcomer_at_a_closed_lock_goes_on_if_the_turn_there_is_paused() {
    with_timeout(HANG_LIMIT, |_| {
        let db = MemoryDb::new();
        while_a_turn_is_paused(&db, 3, || {
            increment(&db, A).unwrap();
            db.update(A.0, A.1, |count| count.map(|count| count + 1))
                .unwrap();
        });
        assert_eq!(data(&db, A.0), Some(3));
    });
}

/// A clock that jumps by an hour after it has been read a number of times.
#[derive(Clone, Debug)]
struct JumpingClock {
    clock: ManualClock,
    reads: Arc<AtomicU32>,
    jumps_after: u32,
}

impl Clock for JumpingClock {
    fn now(&self) -> Duration {
        if self.reads.fetch_add(1, Ordering::Relaxed) == self.jumps_after {
            self.clock.advance(Duration::from_secs(3_600));
        }
        self.clock.now()
    }

    fn sleep(&self, _: Duration) {}
}

#[test]
fn a_wait_for_a_turn_ends_at_the_deadline_of_a_manual_clock() {
    with_timeout(HANG_LIMIT, |_| {
        // The clock is read at the start, after the first attempt, before the wait, and in it.
        for jumps_after in [2, 3] {
            let db = MemoryDb::new();
            let clock = JumpingClock {
                clock: ManualClock::new(1_000),
                reads: Arc::default(),
                jumps_after,
            };
            while_a_turn_is_paused(&db, 1, || {
                let outcome = db.transact_with(&Retry::new().clock(clock), |tx| {
                    tx.lock(A.1)?;
                    interfere(&db, A);
                    add(tx, A.0)
                });
                assert!(
                    matches!(outcome, Err(Error::RetriesExhausted { attempts: 2, .. })),
                    "{jumps_after}: {outcome:?}"
                );
            });
        }
    });
}

#[test]
fn a_transaction_that_only_checks_a_closed_lock_does_not_wait() {
    with_timeout(HANG_LIMIT, |_| {
        let db = MemoryDb::new();
        while_a_turn_is_paused(&db, 3, || {
            let clock = RecordingClock::default();
            let retry = Retry::new().deadline(Duration::ZERO).clock(clock);
            let read = db.transact_with(&retry, |tx| {
                tx.check(A.1)?;
                tx.check_all(&[A.1])?;
                tx.get(A.0)
            });
            assert_eq!(read.unwrap(), None);
        });
    });
}

#[test]
fn all_handles_to_one_database_share_one_queue() {
    fn queue<D: AtomicDb + ?Sized>(db: &D) -> *const atomic_db::RetryQueue {
        std::ptr::from_ref(db.retry_queue().unwrap())
    }
    let db = MemoryDb::<u32>::new();
    let expected = queue(&db);
    assert_eq!(queue(&db.clone()), expected);
    assert_eq!(queue(&&db), expected);
    assert_eq!(queue(&LruCache::new(db.clone(), 10)), expected);
    assert_eq!(queue(&Box::new(db.clone())), expected);
    let shared: SharedDb<u32> = Arc::new(db.clone());
    assert_eq!(queue(&shared), expected);
    assert_eq!(queue(&*shared), expected);
    assert_ne!(queue(&MemoryDb::<u32>::new()), expected);

    #[cfg(feature = "redb")]
    {
        let file = atomic_db::RedbDb::<u32>::builder().in_memory().unwrap();
        assert_eq!(queue(&file.with_data::<String>()), queue(&file));
    }
}
