//! Observers that panic, that call the observed database, and that need the turn of the transaction
//! that they receive.

use super::{KEY, LOCK, Recorder, by_every_method, interfere};
use crate::common::{HANG_LIMIT, data};
use atomic_db::testing::{run_concurrently, with_timeout};
use atomic_db::{
    AtomicDb, AtomicDbExt, CallEvent, ConflictEvent, Item, Key, LruCache, ManualClock, MemoryDb,
    Observed, Observer, Query, Result, Retry, SharedDb, TransactionEnd, TransactionEvent,
};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// Panics in every method, with a payload whose `Drop` panics as well.
struct Panics;

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        resume_unwind(Box::new("a panic in the drop of a payload"));
    }
}

impl Observer for Panics {
    fn on_call(&self, _: &CallEvent<'_>) {
        resume_unwind(Box::new(PanicsOnDrop));
    }

    fn on_conflict(&self, _: &ConflictEvent<'_>) {
        resume_unwind(Box::new(PanicsOnDrop));
    }

    fn on_transaction(&self, _: &TransactionEvent<'_>) {
        resume_unwind(Box::new(PanicsOnDrop));
    }
}

#[test]
fn a_panic_of_an_observer_does_not_reach_the_caller() {
    let recorder = Recorder::default();
    let memory = MemoryDb::new();
    // The other observer still receives the events.
    let db = Observed::new(Observed::new(memory.clone(), recorder.clone()), Panics);
    db.set(&[Item::at(KEY, 0)]).unwrap();
    assert_eq!(data(&db, KEY), Some(0));
    assert_eq!(db.stream(Query::new("pk")).count(), 1);
    drop(db.stream(Query::new("pk")));
    let runs = Cell::new(0);
    let done = by_every_method(&db, &|| {
        runs.set(runs.get() + 1);
        if runs.get() % 2 == 1 {
            interfere(&memory);
        }
    });
    assert!(done.iter().all(|(_, succeeded)| *succeeded), "{done:?}");
    assert_eq!(data(&db, KEY), Some(6));
    let retry = Retry::new().observer(Panics);
    db.transact_with(&retry, |tx| tx.lock(LOCK).map(drop))
        .unwrap();
    // Even while the closure's own panic unwinds.
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        drop(db.transact(|_| -> Result<()> { resume_unwind(Box::new("of the closure")) }));
    }));
    let panicked = panicked.unwrap_err();
    assert_eq!(panicked.downcast_ref(), Some(&"of the closure"));
    assert_eq!(recorder.take_transactions().len(), 8);
    assert_eq!(recorder.take_conflicts().len(), 6);
}

/// Calls the database in every method, and runs transactions on the lock of the observed one.
#[derive(Clone, Default)]
struct CallsDb {
    db: Arc<OnceLock<SharedDb<u32>>>,
}

impl CallsDb {
    fn call(&self) {
        thread_local! {
            static IS_CALLING: Cell<bool> = const { Cell::new(false) };
        }
        if IS_CALLING.replace(true) {
            return;
        }
        let db = self.db.get().unwrap();
        let done = by_every_method(&**db, &|| ());
        assert!(done.iter().all(|(_, succeeded)| *succeeded), "{done:?}");
        db.stream(Query::new("pk")).for_each(drop);
        db.delete(&[Key::new("pk", "other")]).unwrap();
        IS_CALLING.set(false);
    }
}

impl Observer for CallsDb {
    fn on_call(&self, _: &CallEvent<'_>) {
        self.call();
    }

    fn on_conflict(&self, _: &ConflictEvent<'_>) {
        self.call();
    }

    fn on_transaction(&self, _: &TransactionEvent<'_>) {
        self.call();
    }
}

#[test]
fn an_observer_may_call_the_observed_database() {
    with_timeout(HANG_LIMIT, |_| {
        let observer = CallsDb::default();
        let cached = LruCache::new(MemoryDb::new(), 1);
        let db: SharedDb<u32> = Arc::new(Observed::new(cached, observer.clone()));
        assert!(observer.db.set(Arc::clone(&db)).is_ok());
        // Each call of the observer is a conflict for the transaction that is observed.
        let conflicts = run_concurrently(4, |number| {
            let retry = Retry::new().attempts(3).clock(ManualClock::new(1_000));
            let mut conflicts = 0;
            for _ in 0..20 {
                db.set(&[Item::new("pk", number.to_string(), 0)]).unwrap();
                let outcome = db.transact_with(&retry, |tx| {
                    tx.lock(LOCK)?;
                    tx.get(KEY)?;
                    tx.set(Item::new("pk", "other", 1))
                });
                conflicts += usize::from(outcome.is_err_and(|error| error.is_race_condition()));
                db.stream(Query::new("pk")).take(1).for_each(drop);
            }
            conflicts
        });
        assert_eq!(conflicts, [20; 4]);
    });
}

/// Runs a transaction that loses a race at `LOCK` when one has recovered, and asserts that it need not
/// wait for a turn.
struct TakesTurn(MemoryDb<u32>);

impl Observer for TakesTurn {
    fn on_transaction(&self, transaction: &TransactionEvent<'_>) {
        assert_eq!(transaction.end, TransactionEnd::Recovered);
        let recorder = Recorder::default();
        let retry = Retry::new().observer(recorder.clone());
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut runs = 0;
                let done = self.0.transact_with(&retry, |tx| {
                    tx.lock(LOCK)?;
                    runs += 1;
                    if runs == 1 {
                        interfere(&self.0);
                    }
                    tx.set(Item::at(KEY, 1))
                });
                done.unwrap();
            });
        });
        assert_eq!(recorder.take_transaction().waited, Duration::ZERO);
        self.0.set(&[Item::new("pk", "passed", 1)]).unwrap();
    }
}

#[test]
fn the_turns_of_a_transaction_have_ended_when_it_is_reported() {
    with_timeout(HANG_LIMIT, |_| {
        let interfere_once = |memory: &MemoryDb<u32>, runs: &mut u32| {
            *runs += 1;
            if *runs == 1 {
                interfere(memory);
            }
        };
        for is_update in [false, true] {
            let memory = MemoryDb::new();
            let db = Observed::new(memory.clone(), TakesTurn(memory.clone()));
            let mut runs = 0;
            if is_update {
                let done = db.update(KEY, LOCK, |_| {
                    interfere_once(&memory, &mut runs);
                    Some(1)
                });
                done.unwrap();
            } else {
                let done = db.transact(|tx| {
                    tx.lock(LOCK)?;
                    interfere_once(&memory, &mut runs);
                    tx.set(Item::at(KEY, 1))
                });
                done.unwrap();
            }
            let passed = data(&memory, Key::new("pk", "passed"));
            assert_eq!(passed, Some(1), "update: {is_update}");
        }
    });
}
