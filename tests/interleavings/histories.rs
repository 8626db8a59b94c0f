//! Histories recorded under a model checker, which chooses who goes next: many short ones, in which
//! threads meet in far more ways than they do on processors.
//!
//! `SHUTTLE_ITERS` is the number of schedules of each short body; of each long one it is a
//! twentieth.

use atomic_db::{AtomicDb, LruCache, ManualClock, MemoryDb};
use atomic_db_test_support::history::faulty::{Fault, Faulty};
use atomic_db_test_support::history::workload::{Job, Workload};
use atomic_db_test_support::history::{History, Op, Versions};
use shuttle::rand::RngCore;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Some schedules for each body, unless the environment says how many.
fn schedules() -> usize {
    let count = std::env::var("SHUTTLE_ITERS").ok();
    let count = count.map(|count| count.parse().expect("a count is a number"));
    count.unwrap_or(2_000)
}

fn on_threads(jobs: Vec<Job>) -> Vec<Vec<Op>> {
    let threads: Vec<_> = jobs.into_iter().map(shuttle::thread::spawn).collect();
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

/// Eighteen calls by three threads, or a few more.
fn short() -> Workload {
    Workload {
        accounts: 2,
        shelves: 1,
        places: 2,
        notes: 2,
        threads: 3,
        calls: 6,
        // Of the schedule, so that it is replayed with it.
        seed: shuttle::rand::thread_rng().next_u64(),
    }
}

/// Two hundred calls by four threads.
fn long() -> Workload {
    Workload {
        accounts: 4,
        shelves: 2,
        places: 3,
        notes: 2,
        threads: 4,
        calls: 50,
        ..short()
    }
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

fn record<D>(workload: Workload, versions: Versions, make: impl Fn(&ManualClock) -> D) -> History
where
    D: AtomicDb<Data = String> + Send + Sync + 'static,
{
    let clock = ManualClock::new(1_700_000_000);
    let (history, sum) = workload.run(&Arc::new(make(&clock)), Some(&clock), on_threads);
    if let Err(anomaly) = history.check(versions) {
        panic!("{workload}: {anomaly}");
    }
    assert_eq!(sum, workload.sum(), "{workload}");
    history
}

/// Checks histories of what `make` makes, under schedules chosen at random and such as put few
/// threads off at the worst of moments.
fn check<D>(name: &str, versions: Versions, make: fn(&ManualClock) -> D)
where
    D: AtomicDb<Data = String> + Send + Sync + 'static,
{
    let bodies: [(fn() -> Workload, usize); 2] =
        [(short, schedules()), (long, schedules().div_ceil(20))];
    for (workload, schedules) in bodies {
        let begun = Instant::now();
        let operations = Arc::new(AtomicUsize::new(0));
        let overlapping = Arc::new(AtomicUsize::new(0));
        let body = {
            let (operations, overlapping) = (Arc::clone(&operations), Arc::clone(&overlapping));
            move || {
                let history = record(workload(), versions, make);
                operations.fetch_add(history.ops.len(), Ordering::Relaxed);
                overlapping.fetch_add(history.overlaps().0, Ordering::Relaxed);
            }
        };
        shuttle::check_random(body.clone(), schedules);
        shuttle::check_pct(body, schedules, 3);
        let operations = operations.load(Ordering::Relaxed);
        let overlap = 100 * overlapping.load(Ordering::Relaxed) / operations.max(1);
        let a_second = 2.0 * schedules as f64 / begun.elapsed().as_secs_f64();
        println!(
            "{name}: schedules {}, operations {operations}, overlap {overlap} %, schedules a second {a_second:.0}",
            2 * schedules
        );
    }
}

#[test]
fn histories_of_memory_are_strictly_serializable_under_every_schedule_tried() {
    check("memory", Versions::AtTheInstant, memory);
}

#[test]
fn histories_of_a_cache_of_few_are_strictly_serializable_under_every_schedule_tried() {
    check("a cache of two", Versions::AtTheInstant, |clock| {
        cached(memory(clock), clock, 2)
    });
}

#[test]
fn histories_of_a_cache_of_all_are_strictly_serializable_under_every_schedule_tried() {
    check("a cache of all", Versions::AtTheInstant, |clock| {
        cached(memory(clock), clock, 100)
    });
}

#[test]
fn histories_of_stacked_caches_are_strictly_serializable_under_every_schedule_tried() {
    check("a cache before a cache", Versions::AtTheInstant, |clock| {
        cached(cached(memory(clock), clock, 2), clock, 4)
    });
}

#[test]
fn a_database_without_a_fault_has_sound_histories() {
    check("one mutex", Versions::AtTheInstant, |clock| {
        Faulty::new(Fault::None, Versions::AtTheInstant, clock.clone())
    });
    check("versions made ahead", Versions::Ahead, |clock| {
        Faulty::new(Fault::None, Versions::Ahead, clock.clone())
    });
}

#[test]
fn every_fault_of_a_database_is_found_by_some_schedule() {
    const TRIES: usize = 30_000;
    let both = [Versions::AtTheInstant, Versions::Ahead];
    let each = |fault| both.map(|versions| (fault, versions));
    for (fault, versions) in Fault::ALL.iter().flat_map(each) {
        let tries = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&tries);
        let body = move || {
            count.fetch_add(1, Ordering::Relaxed);
            record(short(), versions, |clock| {
                Faulty::new(*fault, versions, clock.clone())
            });
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
