//! The databases that are compared with the model.

use super::driver::{Coverage, DbUnderTest, START, run};
use super::operations::{Op, decode};
use crate::faulty_db::{FaultyCache, FaultyDb};
use atomic_db::{AtomicDb, Key, LruCache, ManualClock, MemoryDb};
use std::sync::Arc;

impl DbUnderTest for MemoryDb<u32> {
    fn purge(&self) -> Option<usize> {
        Some(self.purge_expired())
    }

    fn count(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl<D: DbUnderTest> DbUnderTest for LruCache<D> {
    fn purge(&self) -> Option<usize> {
        self.inner().purge()
    }

    fn count(&self) -> Option<usize> {
        self.inner().count()
    }

    fn invalidate(&self, key: Key<'_>) {
        LruCache::invalidate(self, key);
        self.inner().invalidate(key);
    }

    fn clear(&self) {
        LruCache::clear(self);
        self.inner().clear();
    }
}

impl DbUnderTest for Box<dyn AtomicDb<Data = u32>> {}

impl DbUnderTest for Arc<dyn AtomicDb<Data = u32>> {}

impl DbUnderTest for FaultyCache<FaultyDb<u32>> {
    fn purge(&self) -> Option<usize> {
        Some(self.inner().purge_expired())
    }
}

/// How a database is set up.
#[derive(Clone, Copy, Debug)]
pub enum Setup {
    Memory { stripes: usize },
    Cache { capacity: usize, shards: usize },
    TwoCaches,
    BoxedTraitObject,
    CachedTraitObject,
}

pub const SETUPS: [Setup; 10] = [
    Setup::Memory { stripes: 1 },
    Setup::Memory { stripes: 2 },
    Setup::Memory { stripes: 16 },
    Setup::Cache {
        capacity: 0,
        shards: 1,
    },
    Setup::Cache {
        capacity: 1,
        shards: 1,
    },
    Setup::Cache {
        capacity: 4,
        shards: 1,
    },
    Setup::Cache {
        capacity: 100,
        shards: 8,
    },
    Setup::TwoCaches,
    Setup::BoxedTraitObject,
    Setup::CachedTraitObject,
];

/// Runs `ops` against a new database.
///
/// # Errors
///
/// Describes the first wrong result and its operation.
pub fn run_setup(setup: Setup, ops: &[Op]) -> Result<Coverage, String> {
    let clock = ManualClock::new(START);
    let memory = |stripes| {
        let builder = MemoryDb::builder().stripes(stripes);
        builder.clock(clock.clone()).build()
    };
    match setup {
        Setup::Memory { stripes } => run(ops, &memory(stripes), &clock),
        Setup::Cache { capacity, shards } => {
            run(ops, &cached(memory(2), &clock, capacity, shards), &clock)
        }
        Setup::TwoCaches => {
            let inner = cached(memory(2), &clock, 6, 2);
            run(ops, &cached(inner, &clock, 2, 1), &clock)
        }
        Setup::BoxedTraitObject => {
            let db: Box<dyn AtomicDb<Data = u32>> = Box::new(memory(2));
            run(ops, &db, &clock)
        }
        Setup::CachedTraitObject => {
            let db: Arc<dyn AtomicDb<Data = u32>> = Arc::new(memory(2));
            run(ops, &cached(db, &clock, 3, 2), &clock)
        }
    }
}

fn cached<D: AtomicDb>(db: D, clock: &ManualClock, capacity: usize, shards: usize) -> LruCache<D> {
    let builder = LruCache::builder(db).capacity(capacity).shards(shards);
    builder.clock(clock.clone()).build()
}

/// The body of the fuzz target `database`: the first byte chooses the database, the others are
/// operations.
///
/// # Panics
///
/// Panics if a result is wrong.
pub fn fuzz_database(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let setup = SETUPS[usize::from(*first) % SETUPS.len()];
    let ops = decode(rest, 300);
    if let Err(mismatch) = run_setup(setup, &ops) {
        panic!("{mismatch}\nin {setup:?} by {ops:#?}");
    }
}
