//! What is reported about transactions.

use super::{KEY, LOCK, Recorder, SeenTransaction, add_one, by_every_method, interfere};
use crate::common::{HANG_LIMIT, RecordingClock};
use atomic_db::testing::with_timeout;
use atomic_db::{
    AtomicDb, AtomicDbExt, Error, ErrorKind, Item, LruCache, ManualClock, MemoryDb, Observed,
    Result, Retry, SharedDb, TransactionEnd,
};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

#[test]
fn a_transaction_is_reported_on_any_handle_over_an_observed_database() {
    let recorder = Recorder::default();
    let observed = Observed::new(MemoryDb::new(), recorder.clone());
    let outer = Observed::new(observed.clone(), Recorder::default());
    let shared: SharedDb<u32> = Arc::new(observed.clone());
    let handles: Vec<(&str, SharedDb<u32>)> = vec![
        ("a trait object", Arc::clone(&shared)),
        ("a box of a trait object", Arc::new(Box::new(shared))),
        ("a cache", Arc::new(LruCache::new(observed.clone(), 10))),
        ("another observed database", Arc::new(outer)),
    ];
    for (name, handle) in handles {
        for (method, succeeded) in by_every_method(&*handle, &|| ()) {
            assert!(succeeded, "{method} on {name}");
        }
        let seen = recorder.take_transactions();
        assert_eq!(seen.len(), 6, "{name}");
        for transaction in seen {
            let expected = SeenTransaction {
                end: TransactionEnd::FirstAttempt,
                attempts: 1,
                lost_locks: vec![],
                waited: Duration::ZERO,
                paused: Duration::ZERO,
                duration: transaction.duration,
                error: None,
            };
            assert_eq!(transaction, expected, "{name}");
        }
        assert!(recorder.take_conflicts().is_empty());
    }
    by_every_method(observed.inner(), &|| ());
    let seen = recorder.take_transactions();
    assert!(seen.is_empty(), "the inner database is not observed");
}

#[test]
fn both_observers_of_a_nested_database_receive_each_event() {
    let (outer, inner) = (Recorder::default(), Recorder::default());
    let memory = MemoryDb::new();
    let db = Observed::new(Observed::new(memory.clone(), inner.clone()), outer.clone());
    let mut runs = 0;
    db.update(KEY, LOCK, |count| {
        runs += 1;
        if runs == 1 {
            interfere(&memory);
        }
        add_one(count)
    })
    .unwrap();
    for recorder in [outer, inner] {
        let calls = recorder.take_calls().len();
        assert_eq!(calls, 6, "two attempts of three calls");
        assert_eq!(recorder.take_conflicts(), [(1, vec![LOCK.to_buf()])]);
        assert_eq!(recorder.take_transaction().end, TransactionEnd::Recovered);
    }
}

#[test]
fn a_retry_with_an_observer_reports_its_transactions_on_any_database() {
    let (of_retry, of_db) = (Recorder::default(), Recorder::default());
    let retry = Retry::new().observer(of_retry.clone());
    assert!(format!("{retry:?}").contains("deadline"));
    let memory = MemoryDb::<u32>::new();
    let lock = |db: &dyn AtomicDb<Data = u32>| {
        db.transact_with(&retry, |tx| tx.lock(LOCK).map(drop))
            .unwrap();
    };
    lock(&memory);
    assert_eq!(
        of_retry.take_transaction().end,
        TransactionEnd::FirstAttempt
    );
    lock(&Observed::new(memory, of_db.clone()));
    assert_eq!(
        of_retry.take_transaction().end,
        of_db.take_transaction().end
    );
    assert!(of_retry.take_calls().is_empty(), "a Retry reports no calls");
}

#[test]
fn a_recovered_transaction_reports_its_attempts_lost_locks_and_pauses() {
    let recorder = Recorder::default();
    let memory = MemoryDb::new();
    let db = Observed::new(memory.clone(), recorder.clone());
    let clock = RecordingClock::default();
    let retry = Retry::new().clock(clock.clone());
    let mut runs = 0;
    db.transact_with(&retry, |tx| {
        runs += 1;
        tx.lock(("pk", "other lock"))?;
        tx.lock(LOCK)?;
        // The body itself takes time, which is not a pause.
        clock.clock.advance(Duration::from_secs(1));
        if runs <= 3 {
            interfere(&memory);
        }
        tx.set(Item::at(KEY, runs))
    })
    .unwrap();
    let lost = vec![LOCK.to_buf()];
    let paused: Duration = clock.take_pauses().iter().sum();
    let expected = SeenTransaction {
        end: TransactionEnd::Recovered,
        attempts: 4,
        lost_locks: lost.clone(),
        waited: Duration::ZERO,
        paused,
        duration: paused + Duration::from_secs(4),
        error: None,
    };
    assert_eq!(recorder.take_transaction(), expected);
    let conflicts: Vec<_> = (1..=3).map(|attempt| (attempt, lost.clone())).collect();
    assert_eq!(recorder.take_conflicts(), conflicts);
}

#[test]
fn an_exhausted_transaction_is_reported_with_its_error() {
    let recorder = Recorder::default();
    let memory = MemoryDb::<u32>::new();
    let db = Observed::new(memory.clone(), recorder.clone());
    let retry = Retry::new().attempts(3).clock(ManualClock::new(1_000));
    let outcome = db.transact_with(&retry, |tx| {
        tx.lock(LOCK)?;
        interfere(&memory);
        tx.set(Item::at(KEY, 1))
    });
    assert!(matches!(
        outcome,
        Err(Error::RetriesExhausted { attempts: 3, .. })
    ));
    let seen = recorder.take_transaction();
    assert_eq!((seen.end, seen.attempts), (TransactionEnd::Exhausted, 3));
    assert_eq!(seen.error, Some(ErrorKind::RetriesExhausted));
    assert_eq!(recorder.take_conflicts().len(), 3);
}

#[derive(Debug)]
struct OwnError;

impl From<Error> for OwnError {
    fn from(_: Error) -> Self {
        OwnError
    }
}

#[test]
fn a_failed_transaction_is_reported_with_the_error_of_the_database() {
    let recorder = Recorder::default();
    let db = Observed::new(MemoryDb::<u32>::new(), recorder.clone());
    db.set(&[Item::at(KEY, 1)]).unwrap();
    let created = db.transact(|tx| {
        tx.lock(LOCK)?;
        tx.create(Item::at(KEY, 2))
    });
    assert!(matches!(created, Err(Error::AlreadyExists { .. })));
    let seen = recorder.take_transaction();
    assert_eq!((seen.end, seen.attempts), (TransactionEnd::Failed, 1));
    assert_eq!(seen.error, Some(ErrorKind::AlreadyExists));

    let failed: Result<(), OwnError> = db.try_transact(|tx| {
        tx.lock(LOCK)?;
        Err(OwnError)
    });
    failed.unwrap_err();
    db.try_update(KEY, LOCK, |_| Err::<Option<u32>, _>(OwnError))
        .unwrap_err();
    let seen = recorder.take_transactions();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!((seen.end, seen.error), (TransactionEnd::Failed, None));
    }
    // Refused before it begins.
    assert!(db.update(KEY, KEY, |_| None).is_err());
    assert!(recorder.take_transactions().is_empty());
}

#[test]
fn a_transaction_whose_closure_panics_is_reported() {
    fn panic<R>() -> R {
        resume_unwind(Box::new("an injected panic"))
    }
    let recorder = Recorder::default();
    let db = Observed::new(MemoryDb::<u32>::new(), recorder.clone());
    let outcomes = [
        catch_unwind(AssertUnwindSafe(|| {
            drop(db.transact(|_| panic::<Result<()>>()));
        })),
        catch_unwind(AssertUnwindSafe(|| drop(db.update(KEY, LOCK, |_| panic())))),
    ];
    assert!(outcomes.iter().all(std::result::Result::is_err));
    let seen = recorder.take_transactions();
    let ends: Vec<_> = seen.iter().map(|seen| seen.end).collect();
    assert_eq!(ends, [TransactionEnd::Panicked; 2]);
}

#[test]
fn the_time_of_waiting_for_a_turn_is_reported() {
    with_timeout(HANG_LIMIT, |_| {
        let recorder = Recorder::default();
        let memory = MemoryDb::<u32>::new();
        let db = Observed::new(memory.clone(), recorder.clone());
        // Another thread has its turn for longer than the patience of the queue, 250 milliseconds.
        let (reach, reached) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let holder = memory.clone();
            scope.spawn(move || {
                let mut runs = 0;
                let done = holder.transact(|tx| {
                    tx.lock(LOCK)?;
                    runs += 1;
                    if runs == 1 {
                        interfere(&holder);
                    } else if runs == 2 {
                        reach.send(()).unwrap();
                        ended.recv().unwrap();
                    }
                    tx.set(Item::at(KEY, 1))
                });
                done.unwrap();
            });
            reached.recv().unwrap();
            let mut runs = 0;
            let done = db.transact(|tx| {
                tx.lock(LOCK)?;
                runs += 1;
                if runs == 1 {
                    interfere(&memory);
                }
                tx.set(Item::at(KEY, 2))
            });
            done.unwrap();
            end.send(()).unwrap();
        });
        let seen = recorder.take_transaction();
        assert_eq!(seen.end, TransactionEnd::Recovered);
        assert!(seen.waited >= Duration::from_millis(100), "{seen:?}");
        // A pause of at most 200 microseconds, with a margin for a busy machine.
        assert!(seen.paused < seen.waited, "{seen:?}");
        assert!(seen.duration >= seen.waited + seen.paused, "{seen:?}");
    });
}
