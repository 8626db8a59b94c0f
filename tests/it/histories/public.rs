//! The public entry points: `check_history` and `Recorder`.

use super::seeds;
use crate::common::{Call, HookedDb, Moment};
#[cfg(feature = "redb")]
use crate::redb::temporary::Temporary;
#[cfg(feature = "redb")]
use atomic_db::RedbDb;
use atomic_db::testing::{AnomalyKind, Recorder, Versions, Workload, check_history};
use atomic_db::testing::{History, run_concurrently, suite};
use atomic_db::{
    AtomicDb, AtomicDbExt, Error, Item, Key, LruCache, ManualClock, MemoryDb, Query, Scan,
};
use atomic_db_test_support::faulty_db::{Fault, FaultyCache, FaultyDb};
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn histories_of_memory_are_strictly_serializable() {
    check_history(
        |clock| MemoryDb::builder().clock(clock).build(),
        &Workload::new().histories(2).versions(Versions::AtCommit),
    )
    .unwrap();
}

#[test]
fn histories_of_a_cache_are_strictly_serializable() {
    let make = |clock: ManualClock| {
        let db = MemoryDb::builder().clock(clock.clone()).build();
        LruCache::builder(db).capacity(6).clock(clock).build()
    };
    let evidence = check_history(make, &Workload::new().histories(2)).unwrap();
    assert_eq!(evidence.histories(), 2);
    assert!(evidence.calls() >= 2 * 4 * 245, "{evidence}");
}

#[cfg(feature = "redb")]
#[test]
fn histories_of_a_file_are_strictly_serializable() {
    let make = |clock| Temporary::open(RedbDb::<String>::builder().clock(clock));
    check_history(make, &Workload::new().calls(60)).unwrap();
}

suite! {
    a_recorded_database_keeps_the_contract: |clock: ManualClock| {
        let db = MemoryDb::builder().clock(clock).build();
        Recorder::new(|_: &Item<String>| 0).record(db)
    }
}

/// Anomalies, and a fault that causes each of them.
const CAUSES: &[(AnomalyKind, Fault)] = &[
    (AnomalyKind::G1a, Fault::PartialApply),
    (AnomalyKind::FracturedRead, Fault::TornGetMany),
    (AnomalyKind::GSingle, Fault::IgnoredChecks),
    (AnomalyKind::G2, Fault::IgnoredChecks),
    (AnomalyKind::Phantom, Fault::CachedQuery),
    (AnomalyKind::Phantom, Fault::StaleFreshQuery),
    (AnomalyKind::LostUpdate, Fault::CheckThenAct),
    (AnomalyKind::StaleRead, Fault::StaleGet),
    (AnomalyKind::ReadAfterDeletion, Fault::DroppedDelete),
    (AnomalyKind::ReadAfterExpiry, Fault::IgnoredTtl),
    (AnomalyKind::LostWrite, Fault::TornSet),
    (AnomalyKind::VersionReuse, Fault::ReusedVersion),
    (AnomalyKind::DuplicateCreation, Fault::DuplicateLock),
    (AnomalyKind::CreateOverExisting, Fault::CreateReplaces),
    (AnomalyKind::UnjustifiedRejection, Fault::SpuriousConflict),
    (AnomalyKind::WrongResult, Fault::ShortGetMany),
    (AnomalyKind::WrongResult, Fault::AfterIgnoredInReverse),
];

#[test]
fn each_anomaly_is_found_in_a_database_with_its_bug() {
    const TRIES: usize = 400;
    for (kind, fault) in CAUSES {
        let mut found = Vec::new();
        for seed in seeds().take(TRIES) {
            let workload = Workload::new().calls(60).seed(seed);
            let workload = workload.versions(Versions::AtCommit);
            let make = |clock| FaultyCache::with_fault(*fault, clock);
            if let Err(violation) = check_history(make, &workload) {
                assert_eq!(violation.seed, seed);
                found.push(violation.anomaly.kind);
            }
            if found.last() == Some(kind) {
                break;
            }
        }
        assert_eq!(found.last(), Some(kind), "{fault:?} showed as {found:?}");
    }
}

#[test]
fn a_call_that_fails_is_reported() {
    let broken = |clock| {
        let db = MemoryDb::<String>::builder().clock(clock).build();
        HookedDb::new(db, |call, moment| match (call, moment) {
            (Call::Query, Moment::Before) => Err(Error::Backend("broken".into())),
            _ => Ok(()),
        })
    };
    let violation = check_history(broken, &Workload::new()).unwrap_err();
    assert_eq!(violation.anomaly.kind, AnomalyKind::FailedCall);
    assert!(violation.to_string().contains("broken"), "{violation}");
}

#[test]
fn a_violation_names_its_anomaly_and_shows_the_calls() {
    let make = |clock| FaultyDb::new(Fault::CheckThenAct, clock);
    let violation = check_history(make, &Workload::new().histories(20)).unwrap_err();
    // `unwrap` shows the same text.
    assert_eq!(format!("{violation:?}"), violation.to_string());
    let text = violation.to_string();
    for part in [
        violation.anomaly.kind.to_string(),
        format!("seed {}", violation.seed),
        violation.anomaly.explanation[0].clone(),
    ] {
        assert!(text.contains(&part), "{part} is missing: {text}");
    }
    let again = violation.history.check().unwrap_err();
    assert_eq!(again.to_string(), violation.anomaly.to_string());
}

#[test]
fn a_database_without_snapshots_is_accepted_if_it_is_not_asked_for_them() {
    let workload = Workload::new().without_snapshots().histories(10).calls(60);
    for fault in [Fault::TornGetMany, Fault::TornQuery] {
        check_history(|clock| FaultyDb::new(fault, clock), &workload).unwrap();
    }
}

#[test]
fn a_database_with_another_clock_is_accepted_without_expiry() {
    let workload = Workload::new().without_expiry().calls(60);
    check_history(|_| MemoryDb::new(), &workload).unwrap();
    let workload = Workload::new().histories(30);
    let kind = check_history(|_| MemoryDb::new(), &workload).unwrap_err();
    assert_eq!(kind.anomaly.kind, AnomalyKind::ReadAfterExpiry);
}

#[test]
fn a_seed_repeats_the_calls_of_a_thread() {
    let record = |seed| {
        let workload = Workload::new().threads(1).calls(200).seed(seed);
        let clock = ManualClock::new(1_000_000);
        let db = std::sync::Arc::new(FaultyDb::new(Fault::None, clock.clone()));
        let history = workload.run(&db, Some(&clock), |_, job| job(0));
        history
            .ops
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(record(7), record(7));
    assert_ne!(record(7), record(8));
}

/// Increments a counter from several threads, by the two calls of a program that has a lock.
fn count(db: &(impl AtomicDb<Data = u64> + Sync)) {
    run_concurrently(3, |thread| {
        for round in 1..40 {
            let value = (thread as u64) << 32 | round;
            let lock = db.get_lock(Key::new("count", "lock")).unwrap();
            let old = db.get_fresh(Key::new("count", "last")).unwrap();
            assert_ne!(old.and_then(Item::into_data), Some(value));
            std::thread::yield_now();
            match db.set_atomic(&[Item::new("count", "last", value)], &[lock]) {
                Ok(_) | Err(Error::RaceCondition { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
            let log = Item::new("log", format!("{value}"), value);
            db.set(&[log]).unwrap();
            db.query(&Query::new("log").prefix("1").reverse().limit(3))
                .unwrap();
            db.stream(Query::new("log"))
                .take(2)
                .for_each(|item| drop(item.unwrap()));
        }
    });
}

fn recorder() -> Recorder<u64> {
    Recorder::new(|item: &Item<u64>| item.data().copied().unwrap_or_default())
}

fn record(db: impl AtomicDb<Data = u64> + Sync + Send) -> History {
    let recorder = recorder();
    count(&recorder.record(db));
    recorder.history()
}

fn kind_of(history: &History) -> Option<AnomalyKind> {
    history.check().err().map(|anomaly| anomaly.kind)
}

#[test]
fn a_recorded_program_on_a_correct_database_is_accepted() {
    assert_eq!(kind_of(&record(MemoryDb::new())), None);
    assert_eq!(kind_of(&record(LruCache::new(MemoryDb::new(), 3))), None);
    let clock = ManualClock::new(1_000_000);
    assert_eq!(kind_of(&record(FaultyDb::new(Fault::None, clock))), None);
}

#[test]
fn a_recorded_program_shows_the_bug_of_its_database() {
    for (fault, kinds) in [
        (Fault::CheckThenAct, &[AnomalyKind::LostUpdate][..]),
        (
            Fault::StaleGetFresh,
            &[AnomalyKind::StaleRead, AnomalyKind::LostWrite],
        ),
        (
            Fault::OrderByLength,
            &[AnomalyKind::WrongResult, AnomalyKind::LostWrite],
        ),
    ] {
        let found = (0..50)
            .find_map(|_| kind_of(&record(FaultyDb::new(fault, ManualClock::new(1_000_000)))));
        assert!(
            found.is_some_and(|kind| kinds.contains(&kind)),
            "{fault:?} showed as {found:?}"
        );
    }
}

#[test]
fn scans_and_streams_are_recorded() {
    let recorder = recorder();
    let db = recorder.record(MemoryDb::new());
    db.set(&[Item::new("a", "x", 1), Item::new("a", "y", 2)])
        .unwrap();
    assert_eq!(db.scan().count(), 2);
    assert_eq!(db.stream(Query::new("a")).count(), 2);
    let history = recorder.history();
    history.check().unwrap();
    let text: Vec<String> = history.ops.iter().map(ToString::to_string).collect();
    assert!(
        text[2].contains(r#"scan read ("a", "x")=1 ("a", "y")=2"#),
        "{text:?}"
    );
    // A stream that is not read to its end observed nothing after its last item.
    db.inner().set(&[Item::new("a", "y", 9)]).unwrap();
    drop(db.stream(Query::new("a")).next());
    assert_eq!(kind_of(&recorder.history()), None);
    drop(db.scan().collect::<Vec<_>>());
    assert_eq!(kind_of(&recorder.history()), Some(AnomalyKind::GarbageRead));
}

#[test]
fn a_program_that_records_its_transactions_is_accepted() {
    let recorder = recorder();
    let db = recorder.record(MemoryDb::new());
    // A value for each attempt: a commit that failed also counts as a write of its value.
    let next = AtomicU64::new(1);
    run_concurrently(3, |_| {
        for _ in 1..30 {
            db.transact(|tx| {
                let value = next.fetch_add(1, Ordering::Relaxed);
                tx.lock(("a", "lock"))?;
                let items = tx.query(&Query::new("a"))?;
                tx.set(Item::new("a", format!("{}", items.len() % 3), value))
            })
            .unwrap();
        }
    });
    let history = recorder.history();
    history.check().unwrap();
    assert!(history.ops.len() >= 3 * 29 * 3);
}

#[test]
fn a_program_that_writes_a_value_twice_is_not_checkable() {
    let recorder = recorder();
    let db = recorder.record(MemoryDb::new());
    for _ in 0..2 {
        db.set_one(Item::new("a", "x", 1)).unwrap();
    }
    assert_eq!(
        kind_of(&recorder.history()),
        Some(AnomalyKind::NotCheckable)
    );
    // The same value at another key is another value.
    let recorder = self::recorder();
    let db = recorder.record(MemoryDb::new());
    db.set(&[Item::new("a", "x", 1), Item::new("a", "y", 1)])
        .unwrap();
    db.get_many(&[Key::new("a", "x"), Key::new("a", "y")])
        .unwrap();
    assert_eq!(kind_of(&recorder.history()), None);
}

#[test]
fn a_program_that_writes_an_item_over_a_lock_is_not_checkable() {
    let recorder = recorder();
    let db = recorder.record(MemoryDb::new());
    db.get_lock(Key::new("a", "x")).unwrap();
    db.set_one(Item::new("a", "x", 1)).unwrap();
    assert_eq!(
        kind_of(&recorder.history()),
        Some(AnomalyKind::NotCheckable)
    );
}

#[test]
fn a_history_with_an_unknown_outcome_is_not_checkable() {
    let lost = HookedDb::new(MemoryDb::new(), |call, moment| match (call, moment) {
        (Call::Commit, Moment::After) => Err(Error::OutcomeUnknown("no answer".into())),
        _ => Ok(()),
    });
    let recorder = recorder();
    let db = recorder.record(lost);
    assert!(db.create(Item::new("a", "x", 1)).is_err());
    assert_eq!(
        kind_of(&recorder.history()),
        Some(AnomalyKind::NotCheckable)
    );
}

#[test]
fn calls_that_failed_without_an_effect_are_not_in_the_way() {
    let down = HookedDb::new(MemoryDb::new(), |call, moment| match (call, moment) {
        (Call::Commit | Call::Query, Moment::Before) => Err(Error::Unavailable("down".into())),
        _ => Ok(()),
    });
    let recorder = recorder();
    let db = recorder.record(down);
    assert!(db.create(Item::new("a", "x", 1)).is_err());
    assert!(db.query(&Query::new("a")).is_err());
    assert_eq!(db.get(Key::new("a", "x")).unwrap(), None);
    assert_eq!(kind_of(&recorder.history()), None);
    // What the failed commit asked for must not be visible.
    db.inner().set(&[Item::new("a", "x", 1)]).unwrap();
    db.get(Key::new("a", "x")).unwrap();
    assert_eq!(kind_of(&recorder.history()), Some(AnomalyKind::G1a));
}
