//! The conformance suite over every database and wrapper, in several configurations.

use atomic_db::testing::suite;
use atomic_db::{AtomicDb, Clock, LruCache, ManualClock, MemoryDb};

fn memory(clock: ManualClock, stripes: usize) -> MemoryDb<String> {
    MemoryDb::builder().stripes(stripes).clock(clock).build()
}

fn cached<D: AtomicDb>(db: D, clock: impl Clock + 'static, capacity: usize) -> LruCache<D> {
    LruCache::builder(db)
        .capacity(capacity)
        .clock(clock)
        .build()
}

suite! { memory_with_two_stripes: |clock| memory(clock, 2) }
suite! { a_cache_of_few: |clock: ManualClock| cached(memory(clock.clone(), 4), clock, 5) }

#[cfg(not(mutants))]
mod more {
    use super::{cached, memory, suite};
    use atomic_db::{AtomicDb, LruCache, ManualClock, MemoryDb};
    use std::sync::Arc;

    suite! { memory_with_one_stripe: |clock| memory(clock, 1) }
    suite! { memory_with_many_stripes: |clock| memory(clock, 64) }

    suite! { a_cache_of_one: |clock: ManualClock| cached(memory(clock.clone(), 4), clock, 1) }
    suite! { a_cache_of_many: |clock: ManualClock| cached(memory(clock.clone(), 4), clock, 100_000) }
    suite! {
        a_cache_of_many_shards: |clock: ManualClock| {
            let db = memory(clock.clone(), 4);
            LruCache::builder(db).capacity(64).shards(16).clock(clock).build()
        }
    }
    suite! { a_cache_of_nothing: |clock: ManualClock| cached(memory(clock.clone(), 4), clock, 0) }
    suite! {
        a_cache_before_a_cache: |clock: ManualClock| {
            let behind = cached(memory(clock.clone(), 4), clock.clone(), 50);
            cached(behind, clock, 3)
        }
    }

    suite! {
        a_boxed_trait_object: |clock| -> Box<dyn AtomicDb<Data = String> + Send + Sync> {
            Box::new(memory(clock, 4))
        }
    }
    suite! {
        a_cache_before_a_shared_trait_object: |clock: ManualClock| {
            let db: Arc<dyn AtomicDb<Data = String> + Send + Sync> = Arc::new(memory(clock.clone(), 4));
            cached(db, clock, 20)
        }
    }
    suite! {
        a_reference: |clock| -> &'static MemoryDb<String> { Box::leak(Box::new(memory(clock, 4))) }
    }
}

#[cfg(feature = "redb")]
mod redb {
    use super::suite;
    use crate::redb::temporary::Temporary;
    use atomic_db::{Durability, ManualClock, RedbDb};

    fn in_a_file(clock: ManualClock, durability: Durability) -> Temporary<RedbDb<String>> {
        Temporary::open(RedbDb::builder().clock(clock).durability(durability))
    }

    suite! { a_file: |clock| in_a_file(clock, Durability::Immediate) }

    #[cfg(not(mutants))]
    mod more {
        use super::{in_a_file, suite};
        use crate::redb::temporary::Temporary;
        use crate::suites::cached;
        use atomic_db::{AtomicDb, Durability, ManualClock, RedbDb};
        use std::sync::Arc;

        suite! { a_file_with_quick_repair: |clock| in_a_file(clock, Durability::QuickRepair) }
        suite! { a_file_that_is_flushed_later: |clock| in_a_file(clock, Durability::Deferred) }
        suite! {
            a_file_without_a_cache: |clock| {
                Temporary::open(RedbDb::builder().clock(clock).cache_size(0))
            }
        }
        suite! {
            a_cache_before_a_file: |clock: ManualClock| {
                cached(in_a_file(clock.clone(), Durability::Immediate), clock, 20)
            }
        }
        suite! {
            a_cache_before_a_shared_file: |clock: ManualClock| {
                let file = in_a_file(clock.clone(), Durability::Deferred);
                let db: Arc<dyn AtomicDb<Data = String> + Send + Sync> = Arc::new(file);
                cached(db, clock, 1)
            }
        }
    }
}
