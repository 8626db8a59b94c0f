//! Histories recorded under shuttle, which chooses the thread that runs next. They are short and
//! many, and their threads interleave in far more ways than on processors.
//!
//! `SHUTTLE_ITERS` is the number of schedules of the short workload. The long one gets a twentieth.

use super::checker::schedules;
use atomic_db::testing::history::{History, Job, Versions, Workload};
use atomic_db::{AtomicDb, LruCache, ManualClock, MemoryDb};
use atomic_db_test_support::faulty_db::{Fault, FaultyCache, FaultyDb, HISTORY_FAULTS};
use shuttle::rand::RngCore;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const BOTH: [Versions; 2] = [Versions::AtCommit, Versions::Early];

fn on_threads(threads: usize, job: Job) {
    let spawn = |thread| {
        let job = Arc::clone(&job);
        shuttle::thread::spawn(move || job(thread))
    };
    let threads: Vec<_> = (0..threads).map(spawn).collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

/// A seed from the schedule, so that the same schedule replays it.
fn seed() -> u64 {
    shuttle::rand::thread_rng().next_u64()
}

/// About twenty-four calls by three threads.
fn short() -> Workload {
    let workload = Workload::new().accounts(2).shelves(2, 2, 2);
    workload.threads(3).calls(8).seed(seed())
}

/// About two hundred calls by four threads.
fn long() -> Workload {
    let workload = Workload::new().accounts(4).shelves(2, 3, 2);
    workload.threads(4).calls(50).seed(seed())
}

fn memory(clock: &ManualClock) -> MemoryDb<String> {
    let builder = MemoryDb::builder().stripes(2);
    builder.clock(clock.clone()).build()
}

fn cached<D: AtomicDb>(db: D, clock: &ManualClock, capacity: usize) -> LruCache<D> {
    LruCache::builder(db)
        .capacity(capacity)
        .shards(2)
        .clock(clock.clone())
        .build()
}

fn faulty(
    fault: Fault,
    versions: Versions,
) -> impl Fn(&ManualClock) -> FaultyCache<FaultyDb<String>> + Copy {
    move |clock| {
        FaultyCache::with_fault(fault, clock.clone())
            .with_versions_ahead(versions == Versions::Early)
    }
}

fn record<D>(workload: Workload, versions: Versions, make: impl Fn(&ManualClock) -> D) -> History
where
    D: AtomicDb<Data = String> + Send + Sync + 'static,
{
    let clock = ManualClock::new(1_700_000_000);
    let history = workload.run(&Arc::new(make(&clock)), Some(&clock), on_threads);
    if let Err(anomaly) = history.check_with(versions) {
        panic!("{workload:?}: {anomaly}");
    }
    history
}

/// Checks histories of the databases that `make` builds, under random and PCT schedules.
fn check<D, M>(name: &str, versions: Versions, make: M)
where
    D: AtomicDb<Data = String> + Send + Sync + 'static,
    M: Fn(&ManualClock) -> D + Copy + Send + Sync + 'static,
{
    let workloads: [(fn() -> Workload, usize); 2] =
        [(short, schedules()), (long, schedules().div_ceil(20))];
    for (workload, schedules) in workloads {
        let begun = Instant::now();
        let counters = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let body = {
            let counters = Arc::clone(&counters);
            move || {
                let history = record(workload(), versions, make);
                counters[0].fetch_add(history.ops.len(), Ordering::Relaxed);
                counters[1].fetch_add(history.overlaps().0, Ordering::Relaxed);
            }
        };
        shuttle::check_random(body.clone(), schedules);
        shuttle::check_pct(body, schedules, 3);
        let [operations, overlapping] = [0, 1].map(|n| counters[n].load(Ordering::Relaxed));
        let overlap = 100 * overlapping / operations.max(1);
        let per_second = 2.0 * schedules as f64 / begun.elapsed().as_secs_f64();
        println!(
            "{name}: schedules {}, operations {operations}, overlap {overlap} %, schedules a second {per_second:.0}",
            2 * schedules
        );
    }
}

#[test]
fn histories_of_memory_are_strictly_serializable_under_every_schedule_tried() {
    check("memory", Versions::AtCommit, memory);
}

#[test]
fn histories_of_a_small_cache_are_strictly_serializable_under_every_schedule_tried() {
    check("a cache of two", Versions::AtCommit, |clock| {
        cached(memory(clock), clock, 2)
    });
}

#[test]
fn histories_of_a_large_cache_are_strictly_serializable_under_every_schedule_tried() {
    check("a cache of all", Versions::AtCommit, |clock| {
        cached(memory(clock), clock, 100)
    });
}

#[test]
fn histories_of_stacked_caches_are_strictly_serializable_under_every_schedule_tried() {
    check("a cache before a cache", Versions::AtCommit, |clock| {
        cached(cached(memory(clock), clock, 2), clock, 4)
    });
}

#[test]
fn histories_of_a_database_without_a_fault_are_strictly_serializable() {
    for versions in BOTH {
        let name = format!("one mutex, versions {versions:?}");
        check(&name, versions, faulty(Fault::None, versions));
    }
}

#[test]
fn every_fault_of_a_database_is_found_by_some_schedule() {
    const TRIES: usize = 30_000;
    let each = |fault: &Fault| BOTH.map(|versions| (*fault, versions));
    for (fault, versions) in HISTORY_FAULTS.iter().flat_map(each) {
        let tries = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&tries);
        let body = move || {
            count.fetch_add(1, Ordering::Relaxed);
            record(short(), versions, faulty(fault, versions));
        };
        let found = catch_unwind(AssertUnwindSafe(|| shuttle::check_random(body, TRIES)));
        let tries = tries.load(Ordering::Relaxed);
        assert!(
            found.is_err(),
            "{fault:?}, versions {versions:?}, was not found in {TRIES} schedules"
        );
        println!("{fault:?}, versions {versions:?}: found in schedule {tries}");
    }
}
