//! The conformance suite on observed databases.

use atomic_db::testing::{scan_suite, suite};
use atomic_db::{LruCache, ManualClock, MemoryDb, Observed, Observer, Scan};

/// An observer that receives events and does nothing.
struct Silent;

impl Observer for Silent {}

fn observed(clock: ManualClock) -> Observed<MemoryDb<String>, Silent> {
    let memory = MemoryDb::builder().stripes(4).clock(clock).build();
    Observed::new(memory, Silent)
}

fn behind_a_cache(clock: ManualClock) -> impl Scan<Data = String> + Send + Sync {
    let cache = LruCache::builder(observed(clock.clone()));
    Observed::new(cache.capacity(5).clock(clock).build(), Silent)
}

suite! { observed_memory: observed }
scan_suite! { scans: observed }

#[cfg(not(mutants))]
suite! { below_and_above_a_cache: behind_a_cache }
