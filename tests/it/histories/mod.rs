//! Tests of the history checker, and of every database by recorded histories of concurrent calls.
//!
//! `ATOMIC_DB_HISTORIES=1000` records that many histories instead of a few. `ATOMIC_DB_SEED` sets
//! the first seed. With `RUSTFLAGS="--cfg perturb"` the library's locks pause, so that calls overlap
//! far more often.

mod anomalies;
mod expectations;
mod incarnations;
mod public;
mod script;
mod second_opinion;

#[cfg(feature = "redb")]
use crate::redb::temporary::Temporary;
#[cfg(feature = "redb")]
use atomic_db::RedbDb;
use atomic_db::testing::history::{History, Job, Versions, Workload};
use atomic_db::testing::{run_concurrently, with_timeout};
use atomic_db::{AtomicDb, LruCache, ManualClock, MemoryDb};
use atomic_db_test_support::faulty_db::{Fault, FaultyCache, HISTORY_FAULTS};
use expectations::BOTH;
use second_opinion::is_linearizable;
use std::env;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

/// Runs a job on threads that begin together.
pub(super) fn on_threads(threads: usize, job: Job) {
    let run = move |_: &dyn Fn()| run_concurrently(threads, |thread| job(thread));
    with_timeout(Duration::from_secs(120), run);
}

/// The seeds of a run. The first one is random unless the environment sets it.
pub(super) fn seeds() -> impl Iterator<Item = u64> {
    let first = env::var("ATOMIC_DB_SEED").ok();
    let first = first.map(|seed| seed.parse().expect("a seed is a number"));
    let first = first.unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 16);
    (0..).map(move |step: u64| first.wrapping_add(step))
}

/// The number of histories to record, if the environment does not set it.
pub(super) fn count(default: usize) -> usize {
    let count = env::var("ATOMIC_DB_HISTORIES").ok();
    count.map_or(default, |count| count.parse().expect("a count is a number"))
}

type AnyDb = Arc<dyn AtomicDb<Data = String> + Send + Sync>;
type Make = fn(&ManualClock) -> AnyDb;

fn manual_clock() -> ManualClock {
    ManualClock::new(1_700_000_000)
}

fn memory(clock: &ManualClock, stripes: usize) -> MemoryDb<String> {
    let builder = MemoryDb::builder().stripes(stripes);
    builder.clock(clock.clone()).build()
}

fn cached<D: AtomicDb>(db: D, clock: &ManualClock, capacity: usize, shards: usize) -> LruCache<D> {
    LruCache::builder(db)
        .capacity(capacity)
        .shards(shards)
        .clock(clock.clone())
        .build()
}

#[cfg(feature = "redb")]
fn file(clock: &ManualClock) -> Temporary<RedbDb<String>> {
    Temporary::open(RedbDb::builder().clock(clock.clone()))
}

/// The databases that histories are recorded from.
const DATABASES: &[(&str, Make)] = &[
    ("memory with one stripe", |clock| Arc::new(memory(clock, 1))),
    ("memory with two stripes", |clock| {
        Arc::new(memory(clock, 2))
    }),
    ("memory with many stripes", |clock| {
        Arc::new(memory(clock, 64))
    }),
    ("a cache of one", |clock| {
        Arc::new(cached(memory(clock, 4), clock, 1, 1))
    }),
    ("a cache of few", |clock| {
        Arc::new(cached(memory(clock, 4), clock, 6, 2))
    }),
    ("a cache of many", |clock| {
        Arc::new(cached(memory(clock, 4), clock, 1_000, 4))
    }),
    ("a cache before a cache", |clock| {
        let behind = cached(memory(clock, 4), clock, 8, 1);
        Arc::new(cached(behind, clock, 3, 1))
    }),
    ("a large cache before a small one", |clock| {
        let behind = cached(memory(clock, 1), clock, 2, 1);
        Arc::new(cached(behind, clock, 1_000, 1))
    }),
    #[cfg(feature = "redb")]
    ("a file", |clock| Arc::new(file(clock))),
    #[cfg(feature = "redb")]
    ("a cache before a file", |clock| {
        Arc::new(cached(file(clock), clock, 6, 2))
    }),
];

#[test]
fn histories_of_every_database_are_strictly_serializable() {
    let count = count(DATABASES.len());
    let (mut operations, mut overlapping, mut pairs) = (0, 0, 0);
    for (seed, (name, make)) in seeds().zip(DATABASES.iter().cycle()).take(count) {
        let workload = Workload::new().seed(seed);
        let clock = manual_clock();
        let history = workload.run(&Arc::new(make(&clock)), Some(&clock), on_threads);
        for versions in BOTH {
            if let Err(anomaly) = history.check_with(versions) {
                panic!("{name}, {workload:?}, versions {versions:?}: {anomaly}");
            }
        }
        let (overlaps, of) = history.overlaps();
        operations += history.ops.len();
        overlapping += overlaps;
        pairs += of;
    }
    let overlap = 100 * overlapping / pairs.max(1);
    println!("histories {count}, operations {operations}, overlap {overlap} %");
    // Histories without overlap would be little evidence.
    assert!(!cfg!(perturb) || overlap >= 20, "they overlap too little");
}

/// Records a history of a database with this fault.
fn record_faulty(
    fault: Fault,
    versions: Versions,
    workload: Workload,
    time: Option<&ManualClock>,
) -> History {
    let clock = time.cloned().unwrap_or_else(manual_clock);
    let db = FaultyCache::with_fault(fault, clock).with_versions_ahead(versions == Versions::Early);
    let db = Arc::new(db);
    workload.run(&db, time, on_threads)
}

/// Every fault, with both ways to assign versions.
fn faults() -> impl Iterator<Item = (Fault, Versions)> {
    let each = |fault: &Fault| BOTH.map(|versions| (*fault, versions));
    HISTORY_FAULTS.iter().flat_map(each)
}

#[test]
fn every_fault_of_a_database_shows_in_its_histories() {
    const TRIES: usize = 400;
    let mut seeds = seeds();
    let mut run = |fault, versions| {
        let seed = seeds.next().unwrap_or_default();
        let workload = Workload::new().calls(120).seed(seed);
        let history = record_faulty(fault, versions, workload, Some(&manual_clock()));
        (workload, history)
    };
    for versions in BOTH.into_iter().cycle().take(6) {
        let (workload, history) = run(Fault::None, versions);
        if let Err(anomaly) = history.check_with(versions) {
            panic!("without a fault, {workload:?}, versions {versions:?}: {anomaly}");
        }
    }
    for (fault, versions) in faults() {
        let found = (1..=TRIES).find_map(|tries| {
            let (_, history) = run(fault, versions);
            Some((tries, history.check_with(versions).err()?))
        });
        let what = format!("{fault:?}, versions {versions:?}");
        match found {
            Some((tries, anomaly)) => println!("{what}, try {tries}: {}", anomaly.kind),
            None => panic!("{what}, was not found in {TRIES} histories"),
        }
    }
}
/// Short enough for a checker that searches.
fn hundred(seed: u64) -> Workload {
    let workload = Workload::new().accounts(3).shelves(1, 3, 2);
    workload.threads(3).calls(30).seed(seed)
}

#[test]
fn another_checker_agrees_that_the_histories_are_correct() {
    for (seed, (name, make)) in seeds().zip(DATABASES) {
        let workload = hundred(seed);
        let db = Arc::new(make(&manual_clock()));
        let history = workload.run(&db, None, on_threads);
        for versions in BOTH {
            let linearizable = is_linearizable(&history, versions);
            assert!(linearizable, "{name}, {workload:?}, versions {versions:?}");
            assert!(history.check_with(versions).is_ok(), "{name}, {workload:?}");
        }
    }
}

#[test]
fn another_checker_agrees_about_every_fault_that_it_can_detect() {
    const TRIES: usize = 4;
    for (fault, versions) in faults() {
        let mut rejected = 0;
        for seed in seeds().take(TRIES) {
            // To reject a history takes longer, because all orders must be tried.
            let workload = hundred(seed).calls(20);
            let history = record_faulty(fault, versions, workload, None);
            let what = format!("{fault:?}, versions {versions:?}, {workload:?}");
            match (
                is_linearizable(&history, versions),
                history.check_with(versions),
            ) {
                (true, Ok(())) => {}
                (false, Err(_)) => rejected += 1,
                (true, Err(anomaly)) => panic!("{what}: {anomaly}"),
                // Ours accepts if it does not know which absence was observed.
                (false, Ok(())) => println!("{what}: rejected only by the other checker"),
            }
        }
        println!("{fault:?}, versions {versions:?}: both reject {rejected} of {TRIES}");
    }
}
