//! What is reported about calls and streams.

use super::{KEY, LOCK, Recorder, SeenCall, interfere};
use crate::common::{Call, HookedDb, Moment};
use atomic_db::{
    AtomicDb, Batch, Error, ErrorKind, Item, Key, ManualClock, MemoryDb, Observed, Operation,
    Query, Scan,
};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn numbered(count: u32) -> Vec<Item<u32>> {
    let item = |number| Item::new("pk", format!("{number:04}"), number);
    (0..count).map(item).collect()
}

#[test]
fn each_call_is_reported_once_with_its_operation_keys_and_items() {
    let recorder = Recorder::default();
    let db = Observed::new(MemoryDb::new(), recorder.clone());
    let (a, b) = (Key::new("pk", "a"), Key::new("pk", "b"));
    let absent = Key::new("other", "absent");
    let items = [Item::at(a, 1_u32), Item::at(b, 2)];
    let lock = db.inner().get_lock(LOCK).unwrap();
    let check = db.inner().get_lock(Key::new("checked", "lock")).unwrap();
    let query = Query::new("pk");
    let batch = Batch::new()
        .check(check)
        .set(Item::new("pk", "c", 3))
        .create(Item::new("pk", "e", 5))
        .delete(("pk", "d"));
    type Run<'a> = &'a dyn Fn();
    let calls: [(Operation, Option<&str>, usize, usize, Run<'_>); 17] = [
        (Operation::Set, Some("pk"), 2, 0, &|| {
            db.set(&items).unwrap();
        }),
        (Operation::Get, Some("pk"), 1, 1, &|| {
            drop(db.get(a).unwrap());
        }),
        (Operation::Get, Some("other"), 1, 0, &|| {
            drop(db.get(absent).unwrap());
        }),
        (Operation::GetFresh, Some("pk"), 1, 1, &|| {
            drop(db.get_fresh(a).unwrap());
        }),
        (Operation::GetMany, Some("other"), 3, 2, &|| {
            drop(db.get_many(&[absent, a, a]).unwrap());
        }),
        (Operation::GetManyFresh, Some("pk"), 1, 1, &|| {
            drop(db.get_many_fresh(&[b]).unwrap());
        }),
        (Operation::GetMany, None, 0, 0, &|| {
            drop(db.get_many(&[]).unwrap());
        }),
        (Operation::GetLock, Some("pk"), 1, 1, &|| {
            drop(db.get_lock(LOCK).unwrap());
        }),
        (Operation::GetLocks, Some("pk"), 2, 2, &|| {
            drop(db.get_locks(&[LOCK, LOCK]).unwrap());
        }),
        (Operation::Commit, Some("checked"), 4, 0, &|| {
            db.commit(&batch).unwrap();
        }),
        (Operation::SetAtomic, Some("pk"), 3, 0, &|| {
            db.set_atomic(&items, &[lock.clone()]).unwrap();
        }),
        (Operation::Page, Some("pk"), 0, 2, &|| {
            db.page(&query.clone().limit(2), None).unwrap();
        }),
        (Operation::Query, Some("pk"), 0, 4, &|| {
            drop(db.query(&query).unwrap());
        }),
        (Operation::Stream, Some("pk"), 0, 4, &|| {
            assert_eq!(db.stream(query.clone()).count(), 4);
        }),
        (Operation::Scan, None, 0, 4, &|| {
            assert_eq!(db.scan().count(), 4);
        }),
        (Operation::Delete, Some("pk"), 2, 0, &|| {
            db.delete(&[a, b]).unwrap();
        }),
        (Operation::Set, None, 0, 0, &|| db.set(&[]).unwrap()),
    ];
    for (operation, partition, keys, items, run) in calls {
        run();
        let seen = recorder.take_calls();
        assert_eq!(seen.len(), 1, "{seen:?}");
        let expected = SeenCall {
            operation,
            partition: partition.map(str::to_owned),
            keys,
            items,
            duration: seen[0].duration,
            error: None,
        };
        assert_eq!(seen[0], expected);
    }
    db.inner().get(KEY).unwrap();
    let seen = recorder.take_calls();
    assert!(seen.is_empty(), "the inner database is not observed");
}

#[test]
fn an_error_is_reported_and_returned_unchanged() {
    let recorder = Recorder::default();
    let db = Observed::new(MemoryDb::<u32>::new(), recorder.clone());
    let lock = db.get_lock(LOCK).unwrap();
    interfere(db.inner());
    recorder.take_calls();
    let raced = db.set_atomic(&[Item::at(KEY, 1)], &[lock]);
    assert!(matches!(raced, Err(Error::RaceCondition { keys }) if keys == [LOCK.to_buf()]));
    let refused = db.set_atomic(&[Item::at(KEY, 1)], &[]);
    assert!(matches!(refused, Err(Error::InvalidInput(_))));
    let seen: Vec<_> = recorder
        .take_calls()
        .iter()
        .map(|call| call.error)
        .collect();
    let expected = [ErrorKind::RaceCondition, ErrorKind::InvalidInput];
    assert_eq!(seen, expected.map(Some));
}

#[test]
fn the_duration_of_a_call_is_measured_on_the_given_clock() {
    let recorder = Recorder::default();
    let clock = ManualClock::new(1_000);
    let slow = HookedDb::new(MemoryDb::<u32>::new(), {
        let clock = clock.clone();
        move |_, moment| {
            if moment == Moment::Before {
                clock.advance(Duration::from_millis(7));
            }
            Ok(())
        }
    });
    // A box streams by pages, each of which takes the hook's time.
    let db = Observed::new(Box::new(slow), recorder.clone()).with_clock(clock.clone());
    db.set(&[Item::at(KEY, 1)]).unwrap();
    assert_eq!(recorder.take_calls()[0].duration, Duration::from_millis(7));

    // The loop body of a stream does not count.
    for item in db.stream(Query::new("pk")) {
        item.unwrap();
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(recorder.take_calls()[0].duration, Duration::from_millis(7));
}

#[test]
fn a_stream_is_reported_once_when_it_ends_or_is_dropped() {
    let recorder = Recorder::default();
    let db = Observed::new(MemoryDb::<u32>::new(), recorder.clone());
    db.set(&numbered(5)).unwrap();
    recorder.take_calls();
    for read in 0..8 {
        let mut stream = db.stream(Query::new("pk"));
        for _ in 0..read {
            stream.next();
        }
        let at_end = recorder.take_calls();
        assert_eq!(at_end.len(), usize::from(read > 5));
        assert!(at_end.iter().all(|call| call.items == 5));
        drop(stream);
        let at_drop = recorder.take_calls();
        assert_eq!(at_drop.len(), usize::from(read <= 5));
        assert!(at_drop.iter().all(|call| call.items == read));
    }
}

#[test]
fn a_scan_is_reported_once_when_it_ends_or_is_dropped() {
    let recorder = Recorder::default();
    let db = Observed::new(MemoryDb::<u32>::new(), recorder.clone());
    db.set(&numbered(5)).unwrap();
    recorder.take_calls();
    for read in [2, 5] {
        assert_eq!(db.scan().take(read).count(), read);
        let seen = recorder.take_calls();
        assert_eq!((seen.len(), seen[0].items), (1, read));
    }
}

#[test]
fn a_stream_is_reported_at_its_first_error() {
    let recorder = Recorder::default();
    let pages = AtomicU32::new(0);
    let failing = HookedDb::new(MemoryDb::<u32>::new(), move |call, moment| {
        if (call, moment) == (Call::Page, Moment::Before)
            && pages.fetch_add(1, Ordering::Relaxed) == 1
        {
            return Err(Error::Unavailable("injected".into()));
        }
        Ok(())
    });
    // A box streams by pages.
    let db = Observed::new(Box::new(failing), recorder.clone());
    db.set(&numbered(5_000)).unwrap();
    recorder.take_calls();
    let mut stream = db.stream(Query::new("pk"));
    let items = stream.by_ref().take_while(Result::is_ok).count();
    let seen = recorder.take_calls();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].items, seen[0].error),
        (items, Some(ErrorKind::Unavailable))
    );
    assert!(stream.next().is_none());
    drop(stream);
    assert!(recorder.take_calls().is_empty(), "it was reported already");
}

#[test]
fn debug_shows_the_inner_database() {
    let db = Observed::new(MemoryDb::<u32>::new(), Recorder::default());
    assert!(format!("{db:?}").contains("MemoryDb"));
    assert!(db.observer().take_calls().is_empty());
}
