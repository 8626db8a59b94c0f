//! A file against the reference model, closed and opened again in between.

use crate::reference_model::{config, ops};
use atomic_db::{
    AtomicDb, Batch, Durability, Item, Key, Lock, LruCache, ManualClock, Observer, Page, Query,
    RedbDb, Result, RetryQueue, Version,
};
use atomic_db_test_support::reference_model::{DbUnderTest, run};
use proptest::test_runner::{TestCaseError, TestRunner};
use std::cell::RefCell;
use std::path::PathBuf;
use tempfile::TempDir;

/// A file that is closed and opened again when the reference model clears caches.
struct Reopened {
    db: RefCell<Option<RedbDb<u32>>>,
    durability: Durability,
    clock: ManualClock,
    path: PathBuf,
    _directory: TempDir,
}

impl Reopened {
    fn new(durability: Durability, clock: &ManualClock) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Reopened {
            db: RefCell::new(None),
            durability,
            clock: clock.clone(),
            path: directory.path().join("db.redb"),
            _directory: directory,
        }
    }

    fn db(&self) -> RedbDb<u32> {
        let mut db = self.db.borrow_mut();
        let open = || {
            let builder = RedbDb::builder().durability(self.durability);
            builder.clock(self.clock.clone()).open(&self.path).unwrap()
        };
        db.get_or_insert_with(open).clone()
    }
}

#[deny(clippy::missing_trait_methods)]
impl AtomicDb for Reopened {
    type Data = u32;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<u32>>> {
        self.db().get(key)
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<u32>>> {
        self.db().get_fresh(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<u32>>>> {
        self.db().get_many(keys)
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<u32>>>> {
        self.db().get_many_fresh(keys)
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        self.db().get_locks(keys)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.db().get_lock(key)
    }

    fn set(&self, items: &[Item<u32>]) -> Result<()> {
        self.db().set(items)
    }

    fn commit(&self, batch: &Batch<u32>) -> Result<Version> {
        self.db().commit(batch)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.db().delete(keys)
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<u32>> {
        self.db().page(query, after)
    }

    fn set_atomic(&self, items: &[Item<u32>], locks: &[Lock]) -> Result<Version> {
        self.db().set_atomic(items, locks)
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<u32>>> {
        self.db().query(query)
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<u32>>> {
        let items: Vec<_> = self.db().stream(query).collect();
        items.into_iter()
    }

    /// A handle lives for one call, so there is no queue that outlives it.
    fn retry_queue(&self) -> Option<&RetryQueue> {
        None
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        None
    }
}

impl DbUnderTest for Reopened {
    fn purge(&self) -> Option<usize> {
        Some(self.db().purge_expired().unwrap())
    }

    fn count(&self) -> Option<usize> {
        Some(self.db().len().unwrap())
    }

    fn clear(&self) {
        assert!(self.db().check_integrity().unwrap());
        *self.db.borrow_mut() = None;
    }
}

fn check(durability: Durability, capacity: Option<usize>) {
    let mut runner = TestRunner::new(config());
    let result = runner.run(&ops(), |ops| {
        let clock = ManualClock::new(atomic_db_test_support::reference_model::START);
        let file = Reopened::new(durability, &clock);
        let coverage = match capacity {
            None => run(&ops, &file, &clock),
            Some(capacity) => {
                let builder = LruCache::builder(file).capacity(capacity);
                run(&ops, &builder.clock(clock.clone()).build(), &clock)
            }
        };
        coverage.map(|_| ()).map_err(TestCaseError::fail)
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn a_reopened_file_matches_the_reference_model() {
    check(Durability::Immediate, None);
}

#[test]
fn a_reopened_file_with_deferred_durability_matches_the_reference_model() {
    check(Durability::Deferred, None);
}

#[test]
fn a_cached_file_matches_the_reference_model() {
    check(Durability::QuickRepair, Some(4));
}
