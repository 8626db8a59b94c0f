//! The guarantees of the crate on a database with faults: of transactions, and of every wrapper.

use super::{KEY, LOCK, every_fault};
use crate::common::HANG_LIMIT;
use atomic_db::testing::{
    Fault, FaultRule, FaultyDb, run_concurrently, scan_suite, suite, with_timeout,
};
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Counters, Error, Item, Key, LruCache, ManualClock, MemoryDb,
    Observed, Operation, Query, Result, Retry, SharedDb,
};
use std::sync::Arc;
use std::time::Duration;

fn memory(clock: &ManualClock) -> MemoryDb<String> {
    MemoryDb::builder().stripes(4).clock(clock.clone()).build()
}

/// Faults that no caller may notice.
fn harmless(clock: ManualClock) -> FaultyDb<MemoryDb<String>> {
    let short = FaultRule::new(Fault::ShortPage).rate(0.5);
    let slow = FaultRule::new(Fault::Latency(Duration::from_nanos(1))).rate(0.2);
    FaultyDb::new(memory(&clock), [short, slow]).with_clock(clock)
}

suite! { without_rules: |clock: ManualClock| FaultyDb::new(memory(&clock), []) }
suite! { harmless_faults: harmless }
scan_suite! { scans: harmless }

#[cfg(not(mutants))]
suite! {
    harmless_faults_behind_a_cache: |clock: ManualClock| {
        LruCache::builder(harmless(clock.clone())).capacity(5).clock(clock).build()
    }
}

type Inner = FaultyDb<MemoryDb<u32>>;

/// A database with every fault, below each wrapper of the crate.
fn wrapped(seed: u64, rate: f64) -> Vec<(&'static str, Inner, SharedDb<u32>)> {
    let faulty = || {
        FaultyDb::new(MemoryDb::new(), every_fault(rate))
            .with_seed(seed)
            .with_clock(ManualClock::new(1_000))
    };
    type Wrap = fn(Inner) -> SharedDb<u32>;
    let wraps: [(&str, Wrap); 5] = [
        ("itself", |db| Arc::new(db)),
        ("a box", |db| Arc::new(Box::new(db))),
        ("a cache", |db| Arc::new(LruCache::new(db, 3))),
        ("an observed database", |db| {
            Arc::new(Observed::new(db, Counters::new()))
        }),
        ("a cache over faults over a cache", |db| {
            let inner = LruCache::new(db, 10);
            let rules = [FaultRule::new(Fault::OutcomeUnknown { applied: true }).rate(0.1)];
            Arc::new(LruCache::new(FaultyDb::new(inner, rules), 3))
        }),
    ];
    wraps
        .into_iter()
        .map(|(name, wrap)| {
            let db = faulty();
            (name, db.clone(), wrap(db))
        })
        .collect()
}

#[test]
fn a_transaction_is_never_applied_twice() {
    with_timeout(HANG_LIMIT, |_| {
        for (name, faulty, db) in wrapped(3, 0.03) {
            let outcomes = run_concurrently(4, |number| {
                let (mut done, mut unknown) = (0, 0);
                let retry = Retry::new().clock(ManualClock::new(1_000));
                for round in 0..150 {
                    let outcome = if (round + number) % 2 == 0 {
                        let add = |count: Option<&u32>| Some(count.copied().unwrap_or(0) + 1);
                        db.update(KEY, LOCK, add).map(drop)
                    } else {
                        db.transact_with(&retry, |tx| {
                            tx.lock(LOCK)?;
                            let count = tx.get(KEY)?.and_then(Item::into_data).unwrap_or(0);
                            tx.set(Item::at(KEY, count + 1))
                        })
                    };
                    match outcome {
                        Ok(()) => done += 1,
                        Err(Error::OutcomeUnknown(_)) => unknown += 1,
                        Err(_) => {}
                    }
                }
                (done, unknown)
            });
            let done: u32 = outcomes.iter().map(|(done, _)| done).sum();
            let unknown: u32 = outcomes.iter().map(|(_, unknown)| unknown).sum();
            let count = faulty.inner().get(KEY).unwrap().and_then(Item::into_data);
            let count = count.unwrap_or(0);
            assert!(
                (done..=done + unknown).contains(&count),
                "{name}: {done} succeeded, {unknown} are unknown, and {count} were applied"
            );
            let log = faulty.injections();
            let has = |fault| log.iter().any(|injection| injection.fault == fault);
            assert!(has(Fault::Conflict) && has(Fault::Unavailable), "{name}");
            assert!(has(Fault::OutcomeUnknown { applied: true }), "{name}");
            if name == "itself" {
                let applied = log.iter().filter(|injection| injection.applied).count();
                assert_eq!(count, done + applied as u32);
            }
        }
    });
}

/// Makes one call that is chosen by `choice`.
fn call_something(db: &SharedDb<u32>, choice: u64) -> Result<()> {
    let key = |number: u64| ["a", "b", "c", "d", "e"][number as usize % 5];
    let (one, other) = (key(choice >> 8), key(choice >> 16));
    let item = |sk: &str| Item::new("pk", sk, choice as u32);
    match choice % 6 {
        0 => db.set(&[item(one), item(other)]),
        1 => db.delete(&[Key::new("pk", one), Key::new("pk", other)]),
        2 => {
            let lock = db.get_lock(LOCK)?;
            db.set_atomic(&[item(one)], &[lock]).map(drop)
        }
        3 => db.commit(&Batch::new().create(item(one))).map(drop),
        4 => db.commit(&Batch::new().delete(("pk", one))).map(drop),
        _ => db
            .stream(Query::new("pk"))
            .try_for_each(|item| item.map(drop)),
    }
}

/// Guarantees 19 and 20: after each call, whether it failed or not, a read returns what is stored.
#[test]
fn reads_through_every_wrapper_equal_the_stored_items_after_each_call() {
    for seed in 0..20 {
        for (name, faulty, db) in wrapped(seed, 0.1) {
            let mut choice = seed + 1;
            for _ in 0..200 {
                choice = choice
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let outcome = call_something(&db, choice >> 20);
                for sk in ["a", "b", "c", "d", "e"] {
                    let key = Key::new("pk", sk);
                    // A read that fails shows nothing.
                    if let Ok(read) = db.get(key) {
                        let stored = faulty.inner().get(key).unwrap();
                        assert_eq!(read, stored, "{name}, seed {seed}, after {outcome:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn counters_show_the_injected_errors() {
    let rules = [
        FaultRule::new(Fault::Unavailable)
            .operations([Operation::GetFresh])
            .times(2),
        FaultRule::new(Fault::Conflict).times(3),
    ];
    let counters = Counters::new();
    let db = Observed::new(FaultyDb::new(MemoryDb::new(), rules), counters.clone());
    let add = |count: Option<&u32>| Some(count.copied().unwrap_or(0) + 1);
    for _ in 0..2 {
        assert!(db.update(KEY, LOCK, add).is_err());
    }
    db.update(KEY, LOCK, add).unwrap();
    let transactions = counters.snapshot().transactions;
    assert_eq!((transactions.failed, transactions.recovered), (2, 1));
    assert_eq!(transactions.lost_attempts, 3);
}

/// The bug that `FaultyDb` is for: an update is repeated after an unknown outcome.
#[test]
fn code_that_repeats_an_update_after_an_unknown_outcome_is_caught() {
    let add_twice_by_mistake = |db: &Inner| {
        let add = |count: Option<&u32>| Some(count.copied().unwrap_or(0) + 1);
        while db.update(KEY, LOCK, add).is_err() {}
    };
    let lost = FaultRule::new(Fault::OutcomeUnknown { applied: true }).times(1);
    let db = FaultyDb::new(MemoryDb::new(), [lost]);
    add_twice_by_mistake(&db);
    let count = db.inner().get(KEY).unwrap().and_then(Item::into_data);
    assert_eq!(count, Some(2));
}
