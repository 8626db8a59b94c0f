//! `Scan`: its conformance cases on every database and wrapper, their own tests on databases with
//! seeded bugs, and errors of the backing database.

use crate::common::{HookedDb, assert_all_found};
use atomic_db::testing::{Capabilities, check, scan_cases, scan_suite};
use atomic_db::{AtomicDb, Clock, Item, Key, LruCache, ManualClock, MemoryDb, Scan, SharedDb};
use atomic_db_test_support::faulty_db::{Fault, FaultyDb};
use std::collections::{BTreeSet, HashSet};
use std::panic::catch_unwind;
use std::sync::Arc;

fn memory(clock: ManualClock, stripes: usize) -> MemoryDb<String> {
    MemoryDb::builder().stripes(stripes).clock(clock).build()
}

fn cache<D: AtomicDb>(db: D, clock: impl Clock + 'static) -> LruCache<D> {
    LruCache::builder(db).capacity(50).clock(clock).build()
}

scan_suite! { two_stripes: |clock| memory(clock, 2) }
scan_suite! { behind_a_cache: |clock: ManualClock| cache(memory(clock.clone(), 4), clock) }
scan_suite! { a_database_without_a_fault: |clock| FaultyDb::new(Fault::None, clock).with_stripes(4) }

// Mutation testing runs only the configurations above, which catch as many mutants as all of them.
#[cfg(not(mutants))]
mod more {
    use super::*;

    scan_suite! { one_stripe: |clock| memory(clock, 1) }
    scan_suite! { many_stripes: |clock| memory(clock, 4_096) }
    scan_suite! {
        boxed_trait_object: |clock| -> Box<dyn Scan<Data = String> + Send + Sync> {
            Box::new(memory(clock, 4))
        }
    }
    scan_suite! {
        cached_trait_object: |clock: ManualClock| {
            let db: Arc<dyn Scan<Data = String> + Send + Sync> = Arc::new(memory(clock.clone(), 4));
            cache(db, clock)
        }
    }
    scan_suite! {
        reference: |clock| -> &'static MemoryDb<String> { Box::leak(Box::new(memory(clock, 4))) }
    }
    scan_suite! {
        hooked: |clock| HookedDb::new(memory(clock, 4), |_, _| Ok(()))
    }
}

#[cfg(feature = "redb")]
mod redb {
    use super::{cache, scan_suite};
    use crate::common::HANG_LIMIT;
    use crate::redb::temporary::Temporary;
    use atomic_db::testing::with_timeout;
    use atomic_db::{AtomicDb, Bytes, Durability, Error, Item, Key, ManualClock, RedbDb, Scan};

    fn open(clock: ManualClock) -> Temporary<RedbDb<String>> {
        Temporary::open(
            RedbDb::builder()
                .clock(clock)
                .durability(Durability::Deferred),
        )
    }

    scan_suite! { a_file: open }
    #[cfg(not(mutants))]
    scan_suite! { behind_a_cache: |clock: ManualClock| cache(open(clock.clone()), clock) }

    /// Items that are deleted after the first page was read are not yielded.
    #[test]
    fn a_page_of_a_scan_of_a_file_is_bounded_by_its_bytes() {
        let db: RedbDb<String> = RedbDb::builder().in_memory().unwrap();
        let item = |number: u32| Item::new("pk", format!("{number:02}"), "x".repeat(200_000));
        db.set(&(0..20).map(item).collect::<Vec<_>>()).unwrap();
        let mut scan = db.scan();
        scan.next().unwrap().unwrap();
        let sks: Vec<String> = (1..20).map(|number| format!("{number:02}")).collect();
        let keys: Vec<Key<'_>> = sks.iter().map(|sk| Key::new("pk", sk)).collect();
        db.delete(&keys).unwrap();
        assert!(scan.count() <= 6, "a page has more than a mebibyte");
    }

    /// Compaction waits for open transactions of its own process.
    #[test]
    fn a_scan_of_a_file_holds_no_transaction_between_pages() {
        with_timeout(HANG_LIMIT, |progress| {
            let db = open(ManualClock::new(1_000)).db;
            let item = |number: u32| Item::new(number.to_string(), "sk", "x".repeat(1_000));
            db.set(&(0..1_000).map(item).collect::<Vec<_>>()).unwrap();
            for (number, found) in db.scan().enumerate() {
                found.unwrap();
                if number % 100 == 0 {
                    db.compact().unwrap();
                    progress();
                }
            }
        });
    }

    #[test]
    fn a_scan_of_a_file_is_in_the_order_of_the_keys_and_decodes_with_its_codec() {
        let db: RedbDb<Vec<u8>, Bytes> = RedbDb::builder().codec(Bytes).in_memory().unwrap();
        let item = |number: u32| Item::new(format!("{:03}", number % 700), "sk", vec![255]);
        db.set(&(0..700).rev().map(item).collect::<Vec<_>>())
            .unwrap();
        let found: Vec<_> = db.scan().map(Result::unwrap).collect();
        assert!(found.into_iter().eq((0..700).map(item)));
    }

    #[test]
    fn a_scan_of_a_file_ends_at_an_item_that_cannot_be_decoded() {
        let numbers: RedbDb<u32> = RedbDb::builder().in_memory().unwrap();
        let texts = numbers.with_data::<String>();
        numbers
            .set(&[Item::new("pk", "a", 1), Item::new("pk", "c", 3)])
            .unwrap();
        texts
            .set(&[Item::new("pk", "b", "two".to_owned())])
            .unwrap();
        let mut scan = numbers.scan();
        assert_eq!(scan.next().unwrap().unwrap(), Item::new("pk", "a", 1));
        match scan.next() {
            Some(Err(Error::Codec { key, .. })) => assert_eq!(key, Key::new("pk", "b")),
            other => panic!("{other:?}"),
        }
        assert!(scan.next().is_none(), "a scan went on after an error");
    }
}

/// Faults, and the cases that find them.
const FINDINGS: &[(Fault, &[&str])] = &[
    (
        Fault::DatalessItemDropped,
        &["a_scan_yields_the_items_of_all_partitions"],
    ),
    (
        Fault::ScanSkipsSmallPartitions,
        &["a_scan_yields_the_items_of_all_partitions"],
    ),
    (
        Fault::ScanEndsAfterPage,
        &["a_scan_yields_the_items_of_all_partitions"],
    ),
    (
        Fault::ScanRestarts,
        &["a_scan_yields_the_items_of_all_partitions"],
    ),
    (Fault::StaleScan, &["a_scan_sees_every_completed_write"]),
    (Fault::LockInScan, &["a_scan_does_not_yield_locks"]),
    (
        Fault::ExpiredItemInScan,
        &["a_scan_yields_an_item_until_its_ttl_has_passed"],
    ),
    (
        Fault::ExclusiveTtl,
        &["a_scan_yields_an_item_until_its_ttl_has_passed"],
    ),
    (Fault::ScanNotFused, &["scans_are_fused"]),
    (
        Fault::ScanHoldsMutex,
        &["the_loop_body_of_a_scan_may_call_any_method"],
    ),
    (
        Fault::OffsetScan,
        &[
            "a_scan_yields_items_present_throughout_exactly_once",
            "concurrent_writes_do_not_hide_or_repeat_items_in_a_scan",
        ],
    ),
    (
        Fault::ScanLosesPosition,
        &["a_scan_yields_items_present_throughout_exactly_once"],
    ),
];

#[test]
fn every_fault_of_a_scan_fails_the_case_that_covers_it() {
    let cases = scan_cases::<FaultyDb<String>>();
    let pairs: Vec<(Fault, &str)> = FINDINGS
        .iter()
        .flat_map(|(fault, names)| names.iter().map(|name| (*fault, *name)))
        .collect();
    assert_all_found(&pairs, |fault, name| {
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let make = move |clock| FaultyDb::new(fault, clock);
        catch_unwind(|| check(case.run, make, Capabilities::new())).is_err()
    });
}

#[test]
fn every_case_of_a_scan_finds_a_fault() {
    let finding: HashSet<&str> = FINDINGS
        .iter()
        .flat_map(|(_, names)| *names)
        .copied()
        .collect();
    let cases = scan_cases::<MemoryDb<String>>();
    let all: HashSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(finding, all);
}

#[test]
fn a_scan_of_a_memory_database_ends_although_its_loop_body_adds_items() {
    for stripes in [1, 4] {
        let db = MemoryDb::builder().stripes(stripes).build();
        let item = |number: u32| Item::new(number.to_string(), "sk", ());
        db.set(&(0..2_000).map(item).collect::<Vec<_>>()).unwrap();
        let mut seen = 0;
        for found in db.scan() {
            found.unwrap();
            assert!(seen < 100_000, "a scan does not end");
            seen += 1;
            db.set(&[item(10_000 + 2 * seen), item(10_001 + 2 * seen)])
                .unwrap();
        }
        assert!(seen >= 2_000);
    }
}

#[test]
fn a_scan_of_a_memory_database_removes_expired_items_and_locks() {
    let clock = ManualClock::new(1_000);
    let db = MemoryDb::builder().clock(clock.clone()).build();
    for number in 0..1_000 {
        let pk = number.to_string();
        db.set(&[
            Item::new(&pk, "expiring", ()).expires_at(1_500),
            Item::new(&pk, "lasting", ()),
        ])
        .unwrap();
        db.get_lock(Key::new(&pk, "lock")).unwrap();
    }
    clock.set(1_000_000);
    assert_eq!(db.scan().count(), 1_000);
    assert_eq!(db.purge_expired(), 0);
    assert_eq!(db.len(), 1_000);
}

/// Items that are deleted after the first page was read are not yielded.
#[test]
fn a_scan_of_a_memory_database_buffers_at_most_a_page() {
    let db = MemoryDb::builder().stripes(1).build();
    let item = |number: u32| Item::new(number.to_string(), "sk", ());
    let items: Vec<Item<()>> = (0..2_000).map(item).collect();
    db.set(&items).unwrap();
    let mut scan = db.scan();
    scan.next().unwrap().unwrap();
    db.delete(&items.iter().map(Item::key).collect::<Vec<_>>())
        .unwrap();
    assert!(scan.count() < 256, "a page has more than 256 items");
}

#[test]
fn a_scan_leaves_the_cache_as_it_is() {
    let db = cache(MemoryDb::new(), ManualClock::new(1_000));
    let items: Vec<_> = (0..100)
        .map(|number| Item::new("pk", number.to_string(), ()))
        .collect();
    db.set(&items).unwrap();
    let before = db.stats();
    assert_eq!(db.scan().count(), 100);
    assert_eq!(db.stats(), before);
    // Past the cache, so it sees a write that bypassed it.
    db.inner().delete(&[Key::new("pk", "99")]).unwrap();
    assert!(db.get(Key::new("pk", "99")).unwrap().is_some());
    assert_eq!(db.scan().count(), 99);
}

/// A trait object with `Scan` is a database, so it can be cached, copied and shared like any other.
#[test]
fn a_trait_object_with_scan_is_a_database() {
    let shared: Arc<dyn Scan<Data = u32> + Send + Sync> = Arc::new(MemoryDb::new());
    shared.set(&[Item::new("pk", "a", 1)]).unwrap();
    let as_db: SharedDb<u32> = Arc::clone(&shared) as _;
    as_db.set(&[Item::new("pk", "b", 2)]).unwrap();
    let sks: BTreeSet<String> = shared
        .scan()
        .map(|item| item.unwrap().sk().to_owned())
        .collect();
    assert_eq!(sks, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
}
