//! The conformance suite on every database and wrapper, in several configurations.

use atomic_db::testing::suite;
use atomic_db::{AtomicDb, Clock, LruCache, ManualClock, MemoryDb};

fn memory(clock: ManualClock, stripes: usize) -> MemoryDb<String> {
    MemoryDb::builder().stripes(stripes).clock(clock).build()
}

fn cache<D: AtomicDb>(db: D, clock: impl Clock + 'static, capacity: usize) -> LruCache<D> {
    LruCache::builder(db)
        .capacity(capacity)
        .clock(clock)
        .build()
}

suite! { two_stripes: |clock| memory(clock, 2) }
suite! { small_cache: |clock: ManualClock| cache(memory(clock.clone(), 4), clock, 5) }

// Mutation testing runs only the configurations above, which catch as many mutants as all of them.
#[cfg(not(mutants))]
mod more {
    use super::{cache, memory, suite};
    use atomic_db::{AtomicDb, LruCache, ManualClock, MemoryDb};
    use std::sync::Arc;

    suite! { one_stripe: |clock| memory(clock, 1) }
    suite! { many_stripes: |clock| memory(clock, 64) }

    suite! { cache_without_capacity: |clock: ManualClock| cache(memory(clock.clone(), 4), clock, 0) }
    suite! { cache_of_one_entry: |clock: ManualClock| cache(memory(clock.clone(), 4), clock, 1) }
    suite! { large_cache: |clock: ManualClock| cache(memory(clock.clone(), 4), clock, 100_000) }
    suite! {
        sharded_cache: |clock: ManualClock| {
            let db = memory(clock.clone(), 4);
            LruCache::builder(db).capacity(64).shards(16).clock(clock).build()
        }
    }
    suite! {
        nested_caches: |clock: ManualClock| {
            let inner = cache(memory(clock.clone(), 4), clock.clone(), 50);
            cache(inner, clock, 3)
        }
    }

    suite! {
        boxed_trait_object: |clock| -> Box<dyn AtomicDb<Data = String> + Send + Sync> {
            Box::new(memory(clock, 4))
        }
    }
    suite! {
        cached_trait_object: |clock: ManualClock| {
            let db: Arc<dyn AtomicDb<Data = String> + Send + Sync> = Arc::new(memory(clock.clone(), 4));
            cache(db, clock, 20)
        }
    }
    suite! {
        reference: |clock| -> &'static MemoryDb<String> { Box::leak(Box::new(memory(clock, 4))) }
    }
}

#[cfg(feature = "redb")]
mod redb {
    use super::suite;
    use crate::redb::temporary::Temporary;
    use atomic_db::{Durability, ManualClock, RedbDb};

    fn open(clock: ManualClock, durability: Durability) -> Temporary<RedbDb<String>> {
        Temporary::open(RedbDb::builder().clock(clock).durability(durability))
    }

    suite! { immediate_durability: |clock| open(clock, Durability::Immediate) }

    #[cfg(not(mutants))]
    mod more {
        use super::{open, suite};
        use crate::redb::temporary::Temporary;
        use crate::suites::cache;
        use atomic_db::{AtomicDb, Durability, ManualClock, RedbDb};
        use std::sync::Arc;

        suite! { quick_repair: |clock| open(clock, Durability::QuickRepair) }
        suite! { deferred_durability: |clock| open(clock, Durability::Deferred) }
        suite! {
            without_page_cache: |clock| {
                Temporary::open(RedbDb::builder().clock(clock).cache_size(0))
            }
        }
        suite! {
            cached: |clock: ManualClock| {
                cache(open(clock.clone(), Durability::Immediate), clock, 20)
            }
        }
        suite! {
            cached_trait_object: |clock: ManualClock| {
                let file = open(clock.clone(), Durability::Deferred);
                let db: Arc<dyn AtomicDb<Data = String> + Send + Sync> = Arc::new(file);
                cache(db, clock, 1)
            }
        }
    }
}
