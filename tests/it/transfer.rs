//! Copies from one database to another.

use crate::common::{Call, HookedDb, Moment, contents, numbered};
use atomic_db::{
    AtomicDb, AtomicDbExt, Error, Item, Key, LruCache, ManualClock, MemoryDb, Query, Scan,
    TransferError, copy,
};
use atomic_db_test_support::faulty_db::{Fault, FaultyDb};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The number of items that are written in one call.
const BATCH: u32 = 250;

#[test]
fn a_copy_has_the_items_of_the_original_with_their_expiries() {
    let clock = ManualClock::new(1_000);
    let new = || MemoryDb::builder().clock(clock.clone()).build();
    for count in [0, 1, BATCH - 3, BATCH - 2, BATCH - 1, 1_234] {
        let (from, to) = (new(), new());
        from.set(&numbered(count)).unwrap();
        from.set(&[
            Item::new("a", "expiring", 1).expires_at(1_500),
            Item::without_data("a", "without data"),
        ])
        .unwrap();
        let mut progress = Vec::new();
        let copied = copy(&from, &to, |copied| progress.push(copied)).unwrap();
        assert_eq!(copied, u64::from(count) + 2);
        assert_eq!(contents(&to), contents(&from));
        assert!(progress.is_sorted_by(|one, other| one < other));
        assert_eq!(progress.last(), Some(&copied));
        assert_eq!(progress.len() as u64, copied.div_ceil(u64::from(BATCH)));

        // It can be repeated, and replaces what changed in the copy.
        to.set(&[Item::new("a", "expiring", 2), Item::new("b", "other", 3)])
            .unwrap();
        assert_eq!(copy(&from, &to, |_| {}).unwrap(), copied);
        let mut expected = contents(&from);
        let other = Item::new("b", "other", 3);
        expected.insert(("b".into(), "other".into()), other);
        assert_eq!(contents(&to), expected);
    }
    let expired = new();
    let from = new();
    from.set(&[Item::new("a", "expiring", 1).expires_at(1_500)])
        .unwrap();
    clock.set(1_501);
    assert_eq!(copy(&from, &expired, |_| {}).unwrap(), 0);
}

/// Guarantee 17.
#[test]
fn locks_are_not_copied_and_commits_under_them_fail_in_the_copy() {
    let (from, to) = (MemoryDb::new(), MemoryDb::new());
    let lock = from.get_lock(Key::new("pk", "lock")).unwrap();
    from.set(&[Item::new("pk", "item", 1)]).unwrap();
    // A lock at the key of an item is replaced.
    let replaced = to.get_lock(Key::new("pk", "item")).unwrap();
    assert_eq!(copy(&from, &to, |_| {}).unwrap(), 1);
    for lock in [lock.clone(), replaced] {
        let stale = to.set_atomic(&[Item::new("pk", "other", 2)], &[lock]);
        assert!(stale.unwrap_err().is_race_condition());
    }
    assert_ne!(to.get_lock(lock.key()).unwrap().version(), lock.version());
    assert!(to.contains(Key::new("pk", "item")).unwrap());
}

#[test]
fn a_copy_through_trait_objects_and_caches_has_all_items() {
    let inner: Arc<dyn Scan<Data = u32> + Send + Sync> = Arc::new(MemoryDb::new());
    let from = LruCache::new(inner, 10);
    from.set(&numbered(500)).unwrap();
    let to: Box<dyn Scan<Data = u32>> = Box::new(MemoryDb::new());
    let as_trait_object: &dyn Scan<Data = u32> = &from;
    assert_eq!(copy(as_trait_object, &*to, |_| {}).unwrap(), 500);
    assert_eq!(contents(&to), contents(&from));
}

#[test]
fn a_copy_to_itself_changes_nothing() {
    let db = MemoryDb::new();
    db.set(&numbered(1_000)).unwrap();
    assert_eq!(copy(&db, &db, |_| {}).unwrap(), 1_000);
    assert_eq!(db.len(), 1_000);
}

#[test]
fn a_copy_that_cannot_read_on_keeps_what_it_has_copied() {
    for readable in [0, 1, 249, 250, 251, 500] {
        let seen = AtomicUsize::new(0);
        let from = HookedDb::new(MemoryDb::new(), move |call, moment| {
            if (call, moment) == (Call::ScannedItem, Moment::Before)
                && seen.fetch_add(1, Ordering::Relaxed) == readable
            {
                return Err(Error::Unavailable("lost the connection".into()));
            }
            Ok(())
        });
        from.set(&numbered(600)).unwrap();
        let to = MemoryDb::new();
        let mut progress = 0;
        let error = copy(&from, &to, |copied| progress = copied).unwrap_err();
        assert!(
            matches!(error, TransferError::Read(Error::Unavailable(_))),
            "{error:?}"
        );
        assert_eq!(to.len(), readable);
        assert_eq!(progress, readable as u64);
    }
}

#[test]
fn a_copy_names_the_item_that_the_target_refuses() {
    let from = MemoryDb::builder().stripes(1).build();
    from.set(&numbered(150)).unwrap();
    from.set(&[Item::new("pk", "", 1)]).unwrap();
    from.set(&numbered(300)).unwrap();
    // This database refuses empty sort keys.
    let to = FaultyDb::new(Fault::LateKeyRefusal, ManualClock::new(1_000));
    match copy(&from, &to, |_| {}) {
        Err(TransferError::Refused { key, source }) => {
            assert_eq!(key, Key::new("pk", ""));
            assert!(matches!(source, Error::InvalidInput(_)));
        }
        other => panic!("{other:?}"),
    }
    // The items before it, in the order of the scan, are in the copy.
    assert_eq!(to.scan().count(), 150);
}

#[test]
fn a_copy_that_cannot_write_on_reports_the_error_of_the_target() {
    let from = MemoryDb::new();
    from.set(&numbered(3 * BATCH)).unwrap();
    let calls = AtomicUsize::new(0);
    let to = HookedDb::new(MemoryDb::new(), move |call, moment| {
        if (call, moment) == (Call::Set, Moment::Before)
            && calls.fetch_add(1, Ordering::Relaxed) == 2
        {
            return Err(Error::OutcomeUnknown("the response was lost".into()));
        }
        Ok(())
    });
    let mut progress = Vec::new();
    let error = copy(&from, &to, |copied| progress.push(copied)).unwrap_err();
    assert!(
        matches!(error, TransferError::Write(Error::OutcomeUnknown(_))),
        "{error:?}"
    );
    assert_eq!(progress, [250, 500]);
    assert_eq!(to.inner.len(), 500);
}

/// The memory of a copy does not grow with the database.
#[test]
fn a_copy_holds_few_items_at_a_time() {
    let from = MemoryDb::builder().stripes(1).build();
    let value = Arc::new(());
    let item = |number: u32| Item::new("pk", number.to_string(), Arc::clone(&value));
    from.set(&(0..5_000).map(item).collect::<Vec<_>>()).unwrap();
    // Copied items are deleted from both databases, so the others belong to the source or to the copy.
    let held = Arc::new(Mutex::new(0));
    let to = {
        let (from, held) = (from.clone(), Arc::clone(&held));
        let value = Arc::downgrade(&value);
        HookedDb::new(MemoryDb::new(), move |call, moment| {
            if (call, moment) == (Call::Set, Moment::Before) {
                let mut held = held.lock().unwrap();
                *held = (*held).max(value.strong_count() - from.len());
            }
            Ok(())
        })
    };
    let copied = copy(&from, &to, |_| {
        let copied: Vec<Item<Arc<()>>> = to.inner.query(&Query::new("pk")).unwrap();
        let keys: Vec<Key<'_>> = copied.iter().map(Item::key).collect();
        from.delete(&keys).unwrap();
        to.inner.delete(&keys).unwrap();
    });
    assert_eq!(copied.unwrap(), 5_000);
    assert!(*held.lock().unwrap() < 600, "{held:?} items");
}

#[cfg(feature = "redb")]
#[test]
fn a_copy_from_memory_to_a_file_and_back_has_the_same_items() {
    let clock = ManualClock::new(1_000);
    let memory = || MemoryDb::<u32>::builder().clock(clock.clone()).build();
    let file = atomic_db::RedbDb::<u32>::builder()
        .clock(clock.clone())
        .in_memory()
        .unwrap();
    let (from, to) = (memory(), memory());
    from.set(&numbered(1_000)).unwrap();
    from.set(&[
        Item::new("odd\0", "", 1).expires_at(1_000),
        Item::without_data("odd", "\u{10ffff}"),
    ])
    .unwrap();
    copy(&from, &file, |_| {}).unwrap();
    copy(&file, &to, |_| {}).unwrap();
    assert_eq!(contents(&to), contents(&from));

    // A key that a file cannot hold is named.
    let long = "k".repeat(65_536);
    from.set(&[Item::new("pk", &long, 1)]).unwrap();
    match copy(&from, &file, |_| {}) {
        Err(TransferError::Refused { key, source }) => {
            assert_eq!(key.sk(), long);
            assert!(matches!(source, Error::LimitExceeded { .. }));
        }
        other => panic!("{other:?}"),
    }
}
