//! Transactions: the order of their calls, their retries, and the state that they leave.

use crate::common::{Call, HookedDb, Moment, RecordingClock, data};
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Error, Item, Key, LruCache, MemoryDb, Result, Retry, Transaction,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const KEY: Key<'static> = Key::new("account", "balance");
const LOCK: Key<'static> = Key::new("account", "lock");

fn item(data: u32) -> Item<u32> {
    Item::new(KEY.pk, KEY.sk, data)
}

/// Commits under `LOCK`, so that a transaction that holds it meets a conflict.
fn interfere(db: &impl AtomicDb<Data = u32>) {
    let lock = db.get_lock(LOCK).unwrap();
    db.set_atomic(&[Item::new("noise", "", 0)], &[lock])
        .unwrap();
}

fn is_invalid<R>(result: Result<R>) -> bool {
    matches!(result, Err(Error::InvalidInput(_)))
}

fn value<D>(tx: &mut Transaction<'_, D>) -> Option<u32>
where
    D: AtomicDb<Data = u32> + ?Sized,
{
    tx.get(KEY).unwrap().and_then(Item::into_data)
}

#[test]
fn a_lock_or_check_after_a_get_is_refused_and_nothing_is_written() {
    let db = MemoryDb::new();
    for check in [false, true] {
        let mut runs = 0;
        let outcome = db.transact(|tx| {
            runs += 1;
            tx.set(item(1))?;
            tx.get(("account", "name"))?;
            if check {
                tx.check(LOCK).map(drop)
            } else {
                tx.lock(LOCK).map(drop)
            }
        });
        assert!(is_invalid(outcome), "check: {check}");
        assert_eq!(runs, 1);
        assert_eq!(data(&db, KEY), None);
    }
    // A lock that the transaction has read already may be requested again, and a check upgraded.
    let before = db.get_lock(LOCK).unwrap();
    db.transact(|tx| {
        let lock = tx.check(LOCK)?;
        tx.get(KEY)?;
        assert_eq!(tx.lock(LOCK)?, lock);
        tx.set(item(1))
    })
    .unwrap();
    assert_ne!(
        db.get_lock(LOCK).unwrap(),
        before,
        "the lock was not renewed"
    );
}

#[test]
fn a_transaction_reads_its_own_writes_and_no_other_caller_does() {
    let db = LruCache::new(MemoryDb::new(), 10);
    db.set(&[item(1)]).unwrap();
    db.transact(|tx| {
        tx.lock(LOCK)?;
        assert_eq!(value(tx), Some(1));
        tx.set(item(2))?;
        assert_eq!(value(tx), Some(2));
        assert_eq!(data(&db, KEY), Some(1));
        tx.delete(KEY)?;
        assert_eq!(value(tx), None);
        assert_eq!(data(&db, KEY), Some(1));
        tx.create(item(3))?;
        assert_eq!(value(tx), Some(3));
        assert_eq!(data(&db, KEY), Some(1));
        Ok(())
    })
    .unwrap();
    assert_eq!(data(&db, KEY), Some(3));
}

#[test]
fn writes_to_one_key_become_one_write() {
    type Body = fn(&mut Transaction<'_, MemoryDb<u32>>) -> Result<()>;
    /// The data afterwards if there was none before, and if there was 1; `None` is an error that
    /// leaves the data as it was.
    type After = [Option<Option<u32>>; 2];
    let cases: [(&str, Body, After); 12] = [
        ("set", |tx| tx.set(item(2)), [Some(Some(2)); 2]),
        ("create", |tx| tx.create(item(2)), [Some(Some(2)), None]),
        ("delete", |tx| tx.delete(KEY), [Some(None); 2]),
        (
            "set, set",
            |tx| {
                tx.set(item(2))?;
                tx.set(item(3))
            },
            [Some(Some(3)); 2],
        ),
        (
            "set, delete",
            |tx| {
                tx.set(item(2))?;
                tx.delete(KEY)
            },
            [Some(None); 2],
        ),
        (
            "set, create",
            |tx| {
                tx.set(item(2))?;
                tx.create(item(3))
            },
            [None; 2],
        ),
        (
            "create, set",
            |tx| {
                tx.create(item(2))?;
                tx.set(item(3))
            },
            [Some(Some(3)), None],
        ),
        (
            "create, create",
            |tx| {
                tx.create(item(2))?;
                tx.create(item(3))
            },
            [None; 2],
        ),
        (
            "create, delete",
            |tx| {
                tx.create(item(2))?;
                tx.delete(KEY)
            },
            [None; 2],
        ),
        (
            "delete, set",
            |tx| {
                tx.delete(KEY)?;
                tx.set(item(2))
            },
            [Some(Some(2)); 2],
        ),
        (
            "delete, create",
            |tx| {
                tx.delete(KEY)?;
                tx.create(item(2))
            },
            [Some(Some(2)); 2],
        ),
        (
            "delete, delete",
            |tx| {
                tx.delete(KEY)?;
                tx.delete(KEY)
            },
            [Some(None); 2],
        ),
    ];
    for (name, body, after) in cases {
        for (before, expected) in [None, Some(1)].into_iter().zip(after) {
            let db = MemoryDb::new();
            db.set(&before.map(item).into_iter().collect::<Vec<_>>())
                .unwrap();
            let outcome = db.transact(|tx| {
                tx.lock(LOCK)?;
                body(tx)
            });
            match expected {
                Some(expected) => {
                    outcome.unwrap();
                    assert_eq!(data(&db, KEY), expected, "{name} after {before:?}");
                }
                None => {
                    let error = outcome.unwrap_err();
                    assert!(
                        matches!(error, Error::AlreadyExists { .. } | Error::InvalidInput(_)),
                        "{name} after {before:?}: {error:?}"
                    );
                    assert_eq!(data(&db, KEY), before, "{name} after {before:?}");
                }
            }
        }
    }
}

#[test]
fn a_key_cannot_be_locked_and_written_in_one_transaction() {
    let db = MemoryDb::new();
    let at_lock = || Item::new(LOCK.pk, LOCK.sk, 1);
    type Body = fn(&mut Transaction<'_, MemoryDb<u32>>, Item<u32>) -> Result<()>;
    let bodies: [Body; 5] = [
        |tx, item| tx.lock(LOCK).and_then(|_| tx.set(item)),
        |tx, item| tx.check(LOCK).and_then(|_| tx.create(item)),
        |tx, _| tx.lock(LOCK).and_then(|_| tx.delete(LOCK)),
        |tx, item| tx.set(item).and_then(|()| tx.lock(LOCK).map(drop)),
        |tx, _| tx.delete(LOCK).and_then(|()| tx.check(LOCK).map(drop)),
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let outcome = db.transact(|tx| body(tx, at_lock()));
        assert!(is_invalid(outcome), "body {number}");
        assert!(db.is_empty());
    }
    // Nor can the key of an item be locked.
    db.set(&[item(1)]).unwrap();
    assert!(is_invalid(db.transact(|tx| tx.lock(KEY).map(drop))));
}

#[test]
fn a_transaction_of_many_keys_finds_each_of_them() {
    for count in 1..40 {
        let db = MemoryDb::new();
        let keys: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        db.transact(|tx| {
            let mut locks = Vec::new();
            for key in &keys {
                locks.push(tx.lock(Key::new(key, "lock"))?);
                tx.set(Item::new(key, "written", 1))?;
                tx.set(Item::new(key, "deleted", 1))?;
            }
            for (key, lock) in keys.iter().zip(locks) {
                assert_eq!(tx.lock(Key::new(key, "lock"))?, lock);
                assert!(is_invalid(tx.delete(Key::new(key, "lock"))));
                assert!(is_invalid(tx.lock(Key::new(key, "written")).map(drop)));
                tx.set(Item::new(key, "written", 2))?;
                tx.delete(Key::new(key, "deleted"))?;
            }
            for key in &keys {
                let written = tx.get(Key::new(key, "written"))?;
                assert_eq!(written.and_then(Item::into_data), Some(2));
                assert_eq!(tx.get(Key::new(key, "deleted"))?, None);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(db.len(), keys.len());
        for key in &keys {
            assert_eq!(data(&db, Key::new(key, "written")), Some(2));
        }
    }
}

#[derive(Debug, PartialEq)]
enum PaymentError {
    InsufficientFunds { balance: u32 },
    Db(String),
}

impl From<Error> for PaymentError {
    fn from(error: Error) -> Self {
        PaymentError::Db(error.to_string())
    }
}

#[test]
fn an_error_of_the_body_is_returned_unchanged_and_nothing_is_written() {
    let db = MemoryDb::new();
    db.set(&[item(5)]).unwrap();
    let mut runs = 0;
    let outcome: Result<(), PaymentError> = db.try_transact(|tx| {
        runs += 1;
        tx.lock(LOCK)?;
        let balance = value(tx).unwrap_or(0);
        tx.set(item(0))?;
        tx.delete(("account", "name"))?;
        Err(PaymentError::InsufficientFunds { balance })
    });
    assert_eq!(outcome, Err(PaymentError::InsufficientFunds { balance: 5 }));
    assert_eq!((runs, data(&db, KEY)), (1, Some(5)));

    // A race condition that the body itself returns is not retried.
    let outcome: Result<()> = db.transact(|tx| {
        runs += 1;
        tx.lock(LOCK)?;
        let lock = db.get_lock(LOCK)?;
        interfere(&db);
        db.set_atomic(&[item(6)], &[lock]).map(drop)
    });
    assert!(matches!(outcome, Err(Error::RaceCondition { .. })));
    assert_eq!((runs, data(&db, KEY)), (2, Some(5)));

    // An error of the commit is converted with `From`.
    let exists: Result<(), PaymentError> = db.try_transact(|tx| Ok(tx.create(item(6))?));
    assert_eq!(
        exists,
        Err(PaymentError::Db(
            r#"an item already exists at ("account", "balance")"#.into()
        ))
    );
}

#[test]
fn a_transaction_runs_and_reads_again_after_a_conflict() {
    let db = MemoryDb::new();
    db.set(&[item(1)]).unwrap();
    let handle = db.clone();
    let mut seen = Vec::new();
    let sum = db
        .transact(|tx| {
            tx.lock(LOCK)?;
            let old = value(tx).unwrap_or(0);
            seen.push(old);
            if seen.len() <= 3 {
                let lock = handle.get_lock(LOCK)?;
                handle.set_atomic(&[item(old + 10)], &[lock])?;
            }
            tx.set(item(old + 1))?;
            Ok(old + 1)
        })
        .unwrap();
    assert_eq!(seen, [1, 11, 21, 31]);
    assert_eq!((sum, data(&db, KEY)), (32, Some(32)));
}

#[test]
fn a_check_conflicts_with_a_commit_of_the_lock_and_not_with_a_check() {
    let db = MemoryDb::new();
    let mut runs = 0;
    db.transact(|tx| {
        runs += 1;
        let lock = tx.check(LOCK)?;
        match runs {
            1 => interfere(&db),
            _ => {
                db.commit(&Batch::new().check(lock).set(Item::new("noise", "", 1)))?;
            }
        }
        tx.set(item(runs))
    })
    .unwrap();
    assert_eq!((runs, data(&db, KEY)), (2, Some(2)));
}

#[test]
fn a_transaction_through_a_cache_bypasses_it() {
    let db = LruCache::new(MemoryDb::new(), 10);
    db.set(&[item(1)]).unwrap();
    db.inner().set(&[item(10)]).unwrap();
    assert_eq!(data(&db, KEY), Some(1));
    let new = db.transact(|tx| {
        tx.lock(LOCK)?;
        let old = value(tx).unwrap_or(0);
        tx.set(item(old + 1))?;
        Ok(old + 1)
    });
    assert_eq!(new.unwrap(), 11);
    assert_eq!(data(&db, KEY), Some(11));
}

/// The error of a transaction that always meets a conflict, and the number of its runs.
fn always_conflict(retry: &Retry, mut during: impl FnMut(u32)) -> (Error, u32) {
    let db = MemoryDb::new();
    let mut runs = 0;
    let outcome = db.transact_with(retry, |tx| {
        runs += 1;
        tx.lock(LOCK)?;
        interfere(&db);
        during(runs);
        tx.set(item(1))
    });
    assert_eq!(data(&db, KEY), None, "nothing was written");
    (outcome.unwrap_err(), runs)
}

#[test]
fn attempts_are_bounded_and_the_last_conflict_is_the_source() {
    for (attempts, expected) in [(0, 1), (1, 1), (2, 2), (7, 7)] {
        let pauses = RecordingClock::default();
        let retry = Retry::new().attempts(attempts).clock(pauses.clone());
        let (error, runs) = always_conflict(&retry, |_| ());
        assert_eq!(runs, expected);
        assert_eq!(pauses.take_pauses().len() as u32, expected - 1);
        assert!(error.is_race_condition() && error.is_retryable());
        match error {
            Error::RetriesExhausted { attempts, source } => {
                assert_eq!(attempts, expected);
                assert!(
                    matches!(*source, Error::RaceCondition { keys } if keys == [LOCK.to_buf()])
                );
            }
            other => panic!("{other:?}"),
        }
    }
    let pauses = RecordingClock::default();
    // The defaults have a deadline of ten seconds and no other bound.
    let (_, runs) = always_conflict(&Retry::default().clock(pauses.clone()), |_| ());
    let paused: Duration = pauses.take_pauses().iter().sum();
    assert!(runs > 40, "{runs} attempts");
    assert_eq!(paused, Duration::from_secs(10));
}

#[test]
fn pauses_are_random_up_to_a_ceiling_that_doubles() {
    let pauses = RecordingClock::default();
    let retry = Retry::new()
        .attempts(8)
        .backoff(Duration::from_millis(1), Duration::from_millis(10))
        .clock(pauses.clone());
    let ceilings = [1, 2, 4, 8, 10, 10, 10].map(Duration::from_millis);
    let mut longest = [Duration::ZERO; 7];
    let mut shortest = ceilings;
    for _ in 0..60 {
        let before = atomic_db::Clock::now(&pauses);
        always_conflict(&retry, |_| ());
        let recorded = pauses.take_pauses();
        assert_eq!(recorded.len(), 7);
        for (number, (pause, ceiling)) in recorded.iter().zip(ceilings).enumerate() {
            assert!(*pause <= ceiling, "pause {number} is {pause:?}");
            longest[number] = longest[number].max(*pause);
            shortest[number] = shortest[number].min(*pause);
        }
        let took = atomic_db::Clock::now(&pauses) - before;
        assert_eq!(
            took,
            recorded.iter().sum::<Duration>(),
            "pauses on another clock"
        );
    }
    // Both halves of each range occur. By chance one does not, once in 2^56 runs.
    for (number, ceiling) in ceilings.into_iter().enumerate() {
        assert!(longest[number] > ceiling / 2, "pause {number}: {longest:?}");
        assert!(
            shortest[number] < ceiling / 2,
            "pause {number}: {shortest:?}"
        );
    }
}

#[test]
fn no_attempt_starts_after_the_deadline() {
    let pauses = RecordingClock::default();
    let retry = Retry::new()
        .attempts(u32::MAX)
        .deadline(Duration::from_secs(10))
        .clock(pauses.clone());

    // Time passes within the attempts: the third one ends at 12 seconds.
    let (error, runs) = always_conflict(&retry, |_| pauses.clock.advance(Duration::from_secs(4)));
    assert_eq!(runs, 3);
    assert!(matches!(error, Error::RetriesExhausted { attempts: 3, .. }));
    assert!(error.is_race_condition());

    // Time passes within the pauses, which are cut short.
    for _ in 0..20 {
        pauses.take_pauses();
        let long = retry
            .clone()
            .backoff(Duration::from_secs(3_600), Duration::from_secs(3_600));
        let (error, runs) = always_conflict(&long, |_| ());
        let recorded = pauses.take_pauses();
        assert!(matches!(error, Error::RetriesExhausted { attempts, .. } if attempts == runs));
        assert_eq!(recorded.len() as u32, runs - 1);
        assert!(recorded.iter().sum::<Duration>() <= Duration::from_secs(10));
    }

    // With no time at all, there is one attempt.
    let none = retry.clone().deadline(Duration::ZERO);
    assert_eq!(always_conflict(&none, |_| ()).1, 1);
}

#[test]
fn an_attempt_may_succeed_after_the_deadline() {
    let pauses = RecordingClock::default();
    let retry = Retry::new()
        .deadline(Duration::from_secs(1))
        .clock(pauses.clone());
    let db = MemoryDb::new();
    db.transact_with(&retry, |tx| {
        pauses.clock.advance(Duration::from_secs(60));
        tx.lock(LOCK)?;
        tx.set(item(1))
    })
    .unwrap();
    assert_eq!(data(&db, KEY), Some(1));
}

#[test]
fn a_retry_policy_of_the_largest_values_does_not_panic() {
    let pauses = RecordingClock::default();
    let retry = Retry::new()
        .attempts(100)
        .deadline(Duration::MAX)
        .backoff(Duration::MAX, Duration::MAX)
        .clock(pauses.clone());
    assert!(always_conflict(&retry, |_| ()).0.is_race_condition());
    pauses.clock.set(u64::MAX);
    assert!(always_conflict(&retry, |_| ()).0.is_race_condition());
    let none = retry.backoff(Duration::ZERO, Duration::ZERO);
    assert!(always_conflict(&none, |_| ()).0.is_race_condition());
}

#[test]
fn only_conflicts_are_retried() {
    let error: [fn() -> Error; 3] = [
        || Error::Unavailable("down".into()),
        || Error::OutcomeUnknown("lost".into()),
        || Error::Backend("broken".into()),
    ];
    for error in error {
        let db = HookedDb::new(MemoryDb::new(), move |call, moment| match (call, moment) {
            (Call::Commit, Moment::Before) => Err(error()),
            _ => Ok(()),
        });
        let mut runs = 0;
        let outcome = db.transact(|tx| {
            runs += 1;
            tx.lock(LOCK)?;
            tx.set(item(1))
        });
        assert_eq!(outcome.unwrap_err().to_string(), error().to_string());
        assert_eq!(runs, 1);
    }
}

#[test]
fn a_transaction_calls_the_database_for_its_locks_its_reads_and_one_commit() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let db = HookedDb::new(MemoryDb::new(), move |call, moment| {
        assert!(matches!(
            call,
            Call::GetLock | Call::GetFresh | Call::Commit
        ));
        count.fetch_add(usize::from(moment == Moment::Before), Ordering::Relaxed);
        Ok(())
    });
    db.transact(|tx| {
        tx.lock(LOCK)?;
        tx.lock(LOCK)?;
        tx.check(("shop", "lock"))?;
        tx.get(KEY)?;
        tx.set(item(1))?;
        tx.get(KEY)?;
        tx.create(Item::new("account", "name", 0))
    })
    .unwrap();
    assert_eq!(calls.swap(0, Ordering::Relaxed), 4);

    assert_eq!(db.transact(|_| Ok(7)).unwrap(), 7);
    assert_eq!(
        calls.load(Ordering::Relaxed),
        0,
        "an empty transaction called the database"
    );
}

#[test]
fn trait_objects_can_transact() {
    let db: Box<dyn AtomicDb<Data = u32>> = Box::new(MemoryDb::new());
    let mut runs = 0;
    db.transact(|tx| {
        runs += 1;
        tx.lock(LOCK)?;
        if runs == 1 {
            interfere(&db);
        }
        let old = value(tx).unwrap_or(0);
        tx.set(item(old + runs))
    })
    .unwrap();
    assert_eq!(data(&db, KEY), Some(2));
    let plain: &dyn AtomicDb<Data = u32> = &*db;
    plain.transact(|tx| tx.set(item(9))).unwrap();
    plain.create(Item::new("account", "name", 1)).unwrap();
    assert!(plain.contains(KEY).unwrap());
    plain.delete_one(KEY).unwrap();
    assert!(!plain.contains(KEY).unwrap());
    plain.set_one(item(1)).unwrap();
    assert!(plain.create(item(2)).is_err());
}

#[test]
fn a_body_that_panics_writes_nothing_and_leaves_the_database_usable() {
    let db = LruCache::new(MemoryDb::new(), 10);
    db.set(&[item(1)]).unwrap();
    let body = || {
        db.transact(|tx| {
            tx.lock(LOCK)?;
            tx.get(KEY)?;
            tx.set(item(2))?;
            tx.delete(("pk", "other"))?;
            if tx.get(KEY)?.is_some() {
                panic!("in the body");
            }
            Ok(())
        })
    };
    assert!(catch_unwind(AssertUnwindSafe(body)).is_err());
    assert_eq!(data(&db, KEY), Some(1));
    db.transact(|tx| tx.lock(LOCK).and_then(|_| tx.set(item(3))))
        .unwrap();
    assert_eq!(data(&db, KEY), Some(3));
}
