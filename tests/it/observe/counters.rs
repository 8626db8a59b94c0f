//! `Counters`: what its snapshot shows of a run.

use super::{KEY, LOCK, add_one, interfere};
use crate::common::HANG_LIMIT;
use atomic_db::testing::{run_concurrently, with_timeout};
use atomic_db::{
    AtomicDb, AtomicDbExt, Counters, Error, ErrorKind, Item, Key, ManualClock, MemoryDb, Observed,
    Operation, Query, Result, Retry,
};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

#[test]
fn calls_keys_items_and_errors_are_counted_per_operation() {
    let counters = Counters::new();
    let db = Observed::new(MemoryDb::new(), counters.clone());
    db.set(&[Item::new("pk", "a", 1_u32), Item::new("pk", "b", 2)])
        .unwrap();
    for _ in 0..3 {
        db.get_many(&[Key::new("pk", "a"), Key::new("pk", "absent")])
            .unwrap();
    }
    db.query(&Query::new("pk")).unwrap();
    let stale = db.get_lock(LOCK).unwrap();
    interfere(db.inner());
    assert!(db.set_atomic(&[], &[stale.clone()]).is_err());
    assert!(db.set_atomic(&[], &[stale]).is_err());
    assert!(db.set_atomic(&[Item::at(KEY, 1)], &[]).is_err());

    let snapshot = counters.snapshot();
    let count = |operation| {
        let stats = snapshot.operation(operation);
        (stats.calls, stats.keys, stats.items)
    };
    assert_eq!(count(Operation::Set), (1, 2, 0));
    assert_eq!(count(Operation::GetMany), (3, 6, 3));
    assert_eq!(count(Operation::Query), (1, 0, 2));
    assert_eq!(count(Operation::SetAtomic), (3, 3, 0));
    assert_eq!(count(Operation::Get), (0, 0, 0));
    assert_eq!(
        snapshot.operation(Operation::SetAtomic).errors,
        [(ErrorKind::RaceCondition, 2), (ErrorKind::InvalidInput, 1)]
    );
    assert_eq!(snapshot.operations.len(), 5, "only those that were called");
    assert_eq!(snapshot.locks_of_commits.len(), 1);
    let hottest = &snapshot.locks_of_commits[0];
    assert_eq!((hottest.key.as_key(), hottest.count), (LOCK, 2));
    assert!(
        snapshot.locks_of_attempts.is_empty(),
        "no transaction lost a race"
    );
    let table = snapshot.to_string();
    assert!(
        table.contains("race_condition 2, invalid_input 1"),
        "{table}"
    );
    assert!(!table.contains("transactions"), "{table}");
}

#[test]
fn transactions_are_counted_by_their_end() {
    let counters = Counters::new();
    let memory = MemoryDb::<u32>::new();
    let clock = ManualClock::new(1_000);
    let retry = Retry::new()
        .attempts(4)
        .clock(clock)
        .observer(counters.clone());
    let run = |races: u32| {
        let mut runs = 0;
        memory.transact_with(&retry, |tx| {
            tx.lock(LOCK)?;
            runs += 1;
            if runs <= races {
                interfere(&memory);
            }
            tx.set(Item::at(KEY, runs))
        })
    };
    for races in [0, 0, 0, 1, 2, 9] {
        assert_eq!(run(races).is_ok(), races < 4);
    }
    let failed: Result<()> =
        memory.transact_with(&retry, |_| Err(Error::InvalidInput("own".into())));
    assert!(failed.is_err());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        memory.transact_with(&retry, |_| -> Result<()> { resume_unwind(Box::new(())) })
    }));
    assert!(panicked.is_err());

    let stats = counters.snapshot().transactions;
    assert_eq!(stats.count(), 8);
    assert_eq!((stats.first_attempt, stats.recovered), (3, 2));
    assert_eq!((stats.exhausted, stats.failed, stats.panicked), (1, 1, 1));
    assert_eq!(stats.lost_attempts, 1 + 2 + 4);
    assert_eq!((stats.attempts.p50, stats.attempts.max), (1, 3));
    assert!((stats.attempts_per_success() - 8.0 / 5.0).abs() < 1e-9);
    assert!(stats.paused.max > Duration::ZERO);
}

/// A run with one hot key and many others, of which only the snapshot is looked at.
#[test]
fn a_run_with_a_hot_key_is_understood_from_its_table() {
    with_timeout(HANG_LIMIT, |_| {
        let counters = Counters::new();
        let memory = MemoryDb::new();
        let db = Observed::new(memory.clone(), counters.clone());
        let counts = run_concurrently(8, |number| {
            let mut runs = 0;
            for round in 0..50 {
                let own = format!("own#{number}");
                let pk = if round % 2 == 0 { "hot" } else { &own };
                db.transact(|tx| {
                    tx.lock((pk, "lock"))?;
                    runs += 1;
                    let count = tx.get((pk, "count"))?.and_then(Item::into_data);
                    // Lets the other threads run between the read and the commit.
                    std::thread::sleep(Duration::from_micros(200));
                    tx.set(Item::new(pk, "count", count.unwrap_or(0) + 1))
                })
                .unwrap();
            }
            runs
        });
        let runs: u64 = counts.iter().sum();
        let snapshot = counters.snapshot();
        let stats = snapshot.transactions;
        // Which lock is hot, and that the others are not.
        let hottest = &snapshot.locks_of_attempts[0];
        assert_eq!(hottest.key.as_key(), Key::new("hot", "lock"));
        assert_eq!(hottest.count, stats.lost_attempts);
        assert_eq!(snapshot.locks_of_attempts.len(), 1);
        // What it costs: attempts and waits.
        assert_eq!(stats.successes(), 8 * 50);
        assert_eq!(stats.attempts_of_successes, runs);
        assert_eq!(stats.lost_attempts, runs - 8 * 50);
        assert!(stats.lost_attempts > 0 && stats.recovered > 0, "{snapshot}");
        assert!(stats.waited.max > Duration::from_micros(100), "{snapshot}");
        assert!(stats.waited.p50 < stats.waited.max, "{snapshot}");
        assert!(stats.duration.max >= stats.waited.max, "{snapshot}");
        // The same in words.
        let table = snapshot.to_string();
        let shown = [
            format!(
                "transactions         400: {} at the first attempt, {} recovered, 0 exhausted",
                stats.first_attempt, stats.recovered
            ),
            format!("{:.2} per success", runs as f64 / 400.0),
            format!("{:>10}  {}", hottest.count, hottest.key),
            format!("race_condition {}", stats.lost_attempts),
            format!("waited for turns     p50 {:.1?}", stats.waited.p50),
        ];
        for line in shown {
            assert!(table.contains(&line), "{line:?} is not in\n{table}");
        }
        let total = memory.get(Key::new("hot", "count")).unwrap();
        assert_eq!(total.and_then(Item::into_data), Some(8_u64 * 25));
    });
}

#[test]
fn clones_share_their_counters() {
    let counters = Counters::new();
    let one = Observed::new(MemoryDb::<u32>::new(), counters.clone());
    let other = Observed::new(MemoryDb::<u32>::new(), counters.clone());
    one.update(KEY, LOCK, add_one).unwrap();
    other.update(KEY, LOCK, add_one).unwrap();
    assert_eq!(counters.snapshot().transactions.first_attempt, 2);
    assert!(format!("{counters:?}").contains("Counters"));
}
