//! Which calls get which fault, and what it does.

use super::{KEY, LOCK, WRITES, every_fault};
use atomic_db::testing::{Fault, FaultRule, FaultyDb, Injection, run_concurrently};
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Clock, Error, ErrorKind, Item, Key, ManualClock, MemoryDb,
    Operation, Query, Result, Scan,
};
use std::time::Duration;

fn with_rule(rule: FaultRule) -> FaultyDb<MemoryDb<u32>> {
    FaultyDb::new(MemoryDb::new(), [rule])
}

fn kind<R>(outcome: &Result<R>) -> Option<ErrorKind> {
    outcome.as_ref().err().map(ErrorKind::from)
}

/// Makes a call of every operation, and returns the error of each. `set` and `delete` have one key.
fn call_everything(db: &(impl Scan<Data = u32> + ?Sized)) -> Vec<(Operation, Option<ErrorKind>)> {
    let lock = || atomic_db::Lock::new(LOCK, atomic_db::Version::from_u128(1), u64::MAX);
    let query = Query::new("pk");
    vec![
        (Operation::Get, kind(&db.get(KEY))),
        (Operation::GetFresh, kind(&db.get_fresh(KEY))),
        (Operation::GetMany, kind(&db.get_many(&[KEY]))),
        (Operation::GetManyFresh, kind(&db.get_many_fresh(&[KEY]))),
        (Operation::GetLock, kind(&db.get_lock(LOCK))),
        (Operation::GetLocks, kind(&db.get_locks(&[LOCK]))),
        (Operation::Set, kind(&db.set(&[Item::at(KEY, 1)]))),
        (
            Operation::Commit,
            kind(&db.commit(&Batch::new().set(Item::at(KEY, 1)))),
        ),
        (Operation::Delete, kind(&db.delete(&[KEY]))),
        (Operation::Page, kind(&db.page(&query, None))),
        (Operation::Query, kind(&db.query(&query))),
        (
            Operation::Scan,
            kind(&db.scan().collect::<Result<Vec<_>>>()),
        ),
        (
            Operation::SetAtomic,
            match kind(&db.set_atomic(&[], &[lock()])) {
                // The version is not a current one.
                Some(ErrorKind::RaceCondition) => None,
                other => other,
            },
        ),
    ]
}

#[test]
fn without_rules_nothing_is_injected() {
    let db = FaultyDb::new(MemoryDb::new(), []);
    assert!(
        call_everything(&db)
            .iter()
            .all(|(_, error)| error.is_none())
    );
    assert!(db.injections().is_empty());
}

#[test]
fn a_refused_call_fails_and_has_no_effect() {
    for (fault, expected) in [
        (Fault::Unavailable, ErrorKind::Unavailable),
        (Fault::Backend, ErrorKind::Backend),
    ] {
        let db = with_rule(FaultRule::new(fault));
        for (operation, error) in call_everything(&db) {
            assert_eq!(error, Some(expected), "{operation}");
        }
        assert!(db.inner().is_empty());
        let injections = db.injections();
        assert_eq!(injections.len(), 13);
        assert!(
            injections
                .iter()
                .all(|injection| injection.fault == fault && !injection.applied)
        );
    }
}

#[test]
fn a_write_with_an_unknown_outcome_is_applied_or_not_as_the_fault_says() {
    for applied in [true, false] {
        let fault = Fault::OutcomeUnknown { applied };
        let db = with_rule(FaultRule::new(fault));
        let lock = db.get_lock(LOCK).unwrap();
        let outcome = db.set_atomic(&[Item::at(KEY, 7)], &[lock.clone()]);
        assert_eq!(kind(&outcome), Some(ErrorKind::OutcomeUnknown));
        let stored = db.get(KEY).unwrap().and_then(Item::into_data);
        assert_eq!(stored, applied.then_some(7));
        assert_ne!(db.get_lock(LOCK).unwrap() == lock, applied);
        let [
            Injection {
                keys,
                applied: logged,
                operation,
                ..
            },
        ] = &db.injections()[..]
        else {
            panic!("one fault was injected");
        };
        assert_eq!((*logged, *operation), (applied, Operation::SetAtomic));
        assert_eq!(*keys, [LOCK.to_buf(), KEY.to_buf()]);
        for (operation, error) in call_everything(&with_rule(FaultRule::new(fault))) {
            let expected = WRITES
                .contains(&operation)
                .then_some(ErrorKind::OutcomeUnknown);
            // The stale commit is refused before its response is lost.
            let expected = expected.filter(|_| operation != Operation::SetAtomic || !applied);
            assert_eq!(error, expected, "{operation}");
        }
    }
}

#[test]
fn a_conflict_names_a_lock_that_has_changed() {
    for seed in 0..20 {
        let db = with_rule(FaultRule::new(Fault::Conflict)).with_seed(seed);
        let keys = ["a", "b", "c"].map(|sk| Key::new("pk", sk));
        let locks = keys.map(|key| db.get_lock(key).unwrap());
        let [a, b, c] = locks.clone();
        let batch = Batch::new().lock(a).lock(b).check(c).set(Item::at(KEY, 1));
        let Err(Error::RaceCondition { keys: lost }) = db.commit(&batch) else {
            panic!("a conflict was injected");
        };
        assert_eq!(lost.len(), 1);
        for lock in locks {
            let now = db.get_lock(lock.key()).unwrap();
            assert_eq!(
                now.version() != lock.version(),
                lost.contains(&lock.key().to_buf())
            );
        }
        assert_eq!(db.get(KEY).unwrap(), None);
        assert_eq!(db.injections().len(), 1);
        // A commit without a lock cannot lose a race.
        db.commit(&Batch::new().set(Item::at(KEY, 1))).unwrap();
    }
}

#[test]
fn a_partial_write_applies_some_of_its_keys_and_never_all() {
    let items: Vec<_> = (0..5)
        .map(|number| Item::new("pk", number.to_string(), number))
        .collect();
    let keys: Vec<_> = items.iter().map(Item::key).collect();
    let mut counts = Vec::new();
    for seed in 0..40 {
        let db = with_rule(FaultRule::new(Fault::Partial)).with_seed(seed);
        assert_eq!(kind(&db.set(&items)), Some(ErrorKind::Unavailable));
        let written = db.inner().len();
        assert_eq!(db.injections()[0].applied, written > 0);
        counts.push(written);
        db.inner().set(&items).unwrap();
        assert_eq!(kind(&db.delete(&keys)), Some(ErrorKind::Unavailable));
        counts.push(5 - db.inner().len());
        // One key is all or nothing.
        db.set(&items[..1]).unwrap();
    }
    assert!(counts.iter().all(|count| *count < 5), "{counts:?}");
    assert!((0..5).all(|count| counts.contains(&count)), "{counts:?}");
}

#[test]
fn short_pages_are_contiguous_and_streams_go_on_after_them() {
    let db = with_rule(FaultRule::new(Fault::ShortPage));
    let items: Vec<_> = (0..50)
        .map(|number| Item::new("pk", format!("{number:02}"), number))
        .collect();
    db.set(&items).unwrap();
    for query in [Query::new("pk"), Query::new("pk").reverse().limit(50)] {
        let page = db.page(&query, None).unwrap();
        assert!(page.items.len() < 50 && page.next.is_some());
        let streamed: Vec<_> = db.stream(query.clone()).map(Result::unwrap).collect();
        assert_eq!(streamed, db.query(&query).unwrap());
    }
    assert!(db.injections().len() > 4);
}

#[test]
fn latency_passes_on_the_clock_and_another_fault_may_follow() {
    let clock = ManualClock::new(1_000);
    let slow = |millis| FaultRule::new(Fault::Latency(Duration::from_millis(millis)));
    let memory = MemoryDb::<u32>::builder().clock(clock.clone()).build();
    let rules = [slow(300), FaultRule::new(Fault::Unavailable), slow(400)];
    let db = FaultyDb::new(memory, rules).with_clock(clock.clone());
    assert_eq!(kind(&db.get(KEY)), Some(ErrorKind::Unavailable));
    assert_eq!(clock.now(), Duration::from_millis(1_000_700));
    let faults: Vec<_> = db
        .injections()
        .iter()
        .map(|injection| injection.fault)
        .collect();
    assert_eq!(
        faults,
        [
            Fault::Latency(Duration::from_millis(700)),
            Fault::Unavailable
        ]
    );
}

#[test]
fn a_scan_ends_with_one_error_after_some_items() {
    let mut counts = Vec::new();
    for seed in 0..40 {
        let inner = with_rule(FaultRule::new(Fault::Unavailable).operations([Operation::Scan]));
        let items: Vec<_> = (0..20)
            .map(|number| Item::new("pk", number.to_string(), number))
            .collect();
        inner.set(&items).unwrap();
        let outer = FaultyDb::new(inner, [FaultRule::new(Fault::Backend)]).with_seed(seed);
        let mut scan = outer.scan();
        counts.push(scan.by_ref().take_while(Result::is_ok).count());
        assert!(scan.next().is_none() && scan.next().is_none());
    }
    assert!(
        counts.contains(&0) && counts.iter().any(|count| *count > 3),
        "{counts:?}"
    );
}

#[test]
fn empty_input_and_invalid_input_are_handled_as_without_faults() {
    let db =
        FaultyDb::new(MemoryDb::<u32>::new(), every_fault(1.0)).with_clock(ManualClock::new(1_000));
    db.get_many(&[]).unwrap();
    db.get_locks(&[]).unwrap();
    db.set(&[]).unwrap();
    db.delete(&[]).unwrap();
    db.commit(&Batch::new()).unwrap();
    db.set_atomic(&[], &[]).unwrap();
    let item = || Item::at(KEY, 1);
    assert_eq!(
        kind(&db.set_atomic(&[item()], &[])),
        Some(ErrorKind::InvalidInput)
    );
    let repeated = Batch::new().set(item()).delete(KEY);
    assert_eq!(kind(&db.commit(&repeated)), Some(ErrorKind::InvalidInput));
}

#[test]
fn a_rule_selects_by_operation_partition_and_count() {
    let rule = || FaultRule::new(Fault::Unavailable);
    let failures = |db: &FaultyDb<MemoryDb<u32>>, key: Key<'_>| -> Vec<bool> {
        (0..5).map(|_| db.get_fresh(key).is_err()).collect()
    };
    let db = with_rule(
        rule()
            .operations([Operation::GetFresh, Operation::Set])
            .prefix("account#"),
    );
    assert_eq!(failures(&db, Key::new("account#1", "a")), [true; 5]);
    assert_eq!(failures(&db, Key::new("user#1", "a")), [false; 5]);
    assert!(db.get(Key::new("account#1", "a")).is_ok());
    // One of several keys is enough.
    let items = [Item::new("user#1", "a", 1), Item::new("account#1", "a", 1)];
    assert!(db.set(&items).is_err());

    let db = with_rule(rule().skip(1).times(2));
    assert_eq!(failures(&db, KEY), [false, true, true, false, false]);
    let db = with_rule(rule().skip(u64::MAX));
    assert_eq!(failures(&db, KEY), [false; 5]);
    // The first rule that selects a call decides, and the count of the other does not move.
    let backend = FaultRule::new(Fault::Backend).times(2);
    let db = FaultyDb::new(MemoryDb::<u32>::new(), [backend, rule().times(1)]);
    let kinds: Vec<_> = (0..4).map(|_| kind(&db.get(KEY))).collect();
    let expected = [
        Some(ErrorKind::Backend),
        Some(ErrorKind::Backend),
        Some(ErrorKind::Unavailable),
        None,
    ];
    assert_eq!(kinds, expected);
}

/// Each of eight keys is read 100 times, by `threads` threads. Returns what was injected, sorted.
fn injected(seed: u64, threads: usize) -> Vec<(String, bool)> {
    let rules = every_fault(0.1);
    let db = FaultyDb::new(MemoryDb::<u32>::new(), rules)
        .with_seed(seed)
        .with_clock(ManualClock::new(1_000));
    run_concurrently(threads, |number| {
        for _ in 0..100 {
            for key in (0..8).filter(|key| key % threads == number) {
                let sk = key.to_string();
                let _ = db.get_fresh(Key::new("pk", &sk));
                let _ = db.set(&[Item::new("pk", sk, 1)]);
            }
        }
    });
    let log = db.injections();
    let mut log: Vec<_> = log
        .iter()
        .map(|injection| (format!("{injection:?}"), injection.applied))
        .collect();
    log.sort();
    log
}

#[test]
fn a_seed_decides_which_calls_fail_whatever_the_order_of_threads() {
    let log = injected(1, 1);
    assert_eq!(log, injected(1, 4));
    assert_ne!(log, injected(2, 1));
    // Of 800 reads and 800 writes: latency, unavailable, backend, and two unknown outcomes of writes.
    assert!((400..700).contains(&log.len()), "{}", log.len());
    let rate = |rate| {
        let db = with_rule(FaultRule::new(Fault::Unavailable).rate(rate));
        (0..2_000).filter(|_| db.get(KEY).is_err()).count()
    };
    assert_eq!((rate(0.0), rate(1.0)), (0, 2_000));
    assert!((140..260).contains(&rate(0.1)), "{}", rate(0.1));
}

#[test]
fn clones_share_the_rules_and_the_log() {
    let db = with_rule(FaultRule::new(Fault::Unavailable).times(1));
    assert!(db.clone().get(KEY).is_err());
    assert!(db.get(KEY).is_ok());
    assert_eq!(db.clone().injections(), db.injections());
    assert!(format!("{db:?}").contains("Unavailable"));
    assert!(db.contains(KEY).is_ok());
}
