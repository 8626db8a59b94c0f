//! Hits, misses and commits over existing items allocate nothing, whatever the size of the data.

#![allow(unsafe_code)]

use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, Lock, LruCache, MemoryDb};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a count of allocations for each thread, because tests run
/// concurrently.
struct CountingAllocator;

thread_local! {
    // Initialized without allocating and never dropped, so that the allocator may always use it.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call is forwarded unchanged to the system's allocator. Counting accesses only a
// thread-local number.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The number of allocations that `f` makes on this thread.
fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

/// No data, a byte, and a megabyte.
fn sizes() -> [Vec<u8>; 3] {
    [vec![], vec![1], vec![1; 1 << 20]]
}

const KEY: Key<'static> = Key::new("account#1", "balance");
const LOCK: Key<'static> = Key::new("account#1", "lock");

fn item(data: &[u8]) -> Item<Vec<u8>> {
    Item::new(KEY.pk, KEY.sk, data.to_vec())
}

/// Reads the item at `KEY` and its data.
fn read(db: &impl AtomicDb<Data = Vec<u8>>, size: usize) {
    let item = db.get(KEY).unwrap().unwrap();
    assert_eq!(item.data().map(Vec::len), Some(size));
}

#[test]
fn allocations_are_counted() {
    assert_eq!(allocations(|| ()), 0);
    assert_eq!(allocations(|| drop(vec![1_u8])), 1);
    assert_eq!(allocations(|| drop(vec![0_u8; 1 << 20])), 1);
    let mut grown = Vec::with_capacity(1);
    grown.push(1_u8);
    assert_eq!(allocations(|| grown.push(2)), 1);
    let db = MemoryDb::new();
    let new = [item(&[1])];
    assert!(allocations(|| db.set(&new).unwrap()) > 0);
}

#[test]
fn a_get_that_hits_allocates_nothing() {
    for data in sizes() {
        let db = MemoryDb::new();
        db.set(&[item(&data)]).unwrap();
        read(&db, data.len());
        assert_eq!(allocations(|| read(&db, data.len())), 0);
        let fresh = || drop(db.get_fresh(KEY).unwrap().unwrap());
        assert_eq!(allocations(fresh), 0);
    }
}

#[test]
fn a_get_that_misses_allocates_nothing() {
    let db = MemoryDb::new();
    db.set(&[item(&[1])]).unwrap();
    db.get_lock(LOCK).unwrap();
    let absent = [
        Key::new("account#1", ""),
        Key::new("account#2", "balance"),
        LOCK,
    ];
    for key in absent {
        let miss = || assert!(db.get(key).unwrap().is_none());
        miss();
        assert_eq!(allocations(miss), 0, "{key}");
    }
}

#[test]
fn a_get_of_a_live_item_with_a_ttl_allocates_nothing() {
    for data in sizes() {
        let db = MemoryDb::new();
        db.set(&[item(&data).expires_at(u64::MAX - 1)]).unwrap();
        read(&db, data.len());
        assert_eq!(allocations(|| read(&db, data.len())), 0);
    }
}

#[test]
fn a_get_that_hits_the_cache_allocates_nothing() {
    for data in sizes() {
        for ttl in [u64::MAX, u64::MAX - 1] {
            let db = LruCache::new(MemoryDb::new(), 10);
            db.set(&[item(&data).expires_at(ttl), Item::new("other", "", vec![])])
                .unwrap();
            read(&db, data.len());
            // Use another item, so that the entry is not the most recently used one.
            db.get(Key::new("other", "")).unwrap();
            assert_eq!(allocations(|| read(&db, data.len())), 0);
            assert_eq!(db.stats().misses, 0);
        }
    }
}

#[test]
fn a_get_lock_of_a_live_lock_allocates_nothing() {
    let db = MemoryDb::<()>::new();
    let cached = LruCache::new(db.clone(), 10);
    let lock = db.get_lock(LOCK).unwrap();
    let again = || assert_eq!(db.get_lock(LOCK).unwrap(), lock);
    assert_eq!(allocations(again), 0);
    let through = || assert_eq!(cached.get_lock(LOCK).unwrap(), lock);
    assert_eq!(allocations(through), 0);
}

#[test]
fn a_set_atomic_over_existing_items_allocates_nothing() {
    for data in sizes() {
        // As many locks as items, up to the number in MemoryDb's documentation.
        for count in [1, 2, 4] {
            let db = MemoryDb::new();
            let sks: Vec<String> = (0..count).map(|number| format!("{number}")).collect();
            let items = || -> Vec<Item<Vec<u8>>> {
                let item = |sk| Item::new("account#1", sk, data.clone());
                sks.iter().map(item).collect()
            };
            db.set(&items()).unwrap();
            let lock = |sk: &String| db.get_lock(Key::new("lock", sk)).unwrap();
            let mut locks: Vec<Lock> = sks.iter().map(lock).collect();
            for round in 0..3 {
                let new = items();
                let allocated = allocations(|| {
                    let version = db.set_atomic(&new, &locks).unwrap();
                    for lock in &mut locks {
                        *lock = lock.clone().with_version(version);
                    }
                });
                assert_eq!(allocated, 0, "{count} items, round {round}");
            }
            assert!(sks.iter().map(lock).eq(locks));
        }
    }
}

#[test]
fn a_transaction_without_a_conflict_allocates_nothing_of_its_own() {
    for data in sizes() {
        let db = MemoryDb::new();
        let other = Key::new("account#2", "lock");
        let new = item(&data);
        db.set(std::slice::from_ref(&new)).unwrap();
        let transfer = || {
            let done = db.transact(|tx| {
                tx.lock(LOCK)?;
                tx.lock(other)?;
                assert!(tx.get(KEY)?.is_some());
                tx.set(new.clone())
            });
            done.unwrap();
        };
        transfer();
        assert_eq!(allocations(transfer), 0);
    }
}

#[test]
fn an_update_without_a_conflict_allocates_only_the_new_item() {
    let db = MemoryDb::new();
    db.set(&[item(&[])]).unwrap();
    let update = || drop(db.update(KEY, LOCK, |_| Some(Vec::new())).unwrap());
    update();
    let new = || drop(item(&[]));
    assert_eq!(allocations(update), allocations(new));
}
