//! A database with injected faults, threads, and the calls that a caller repeats.

use super::databases::{Database, SharedScan, databases};
use atomic_db::testing::{Fault, FaultRule, FaultyDb, Injection};
use atomic_db::{AtomicDb, Clock, Error, Item, Key, ManualClock, Operation, Query, Result, Scan};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::iter::Sum;
use std::mem::discriminant;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

pub(super) const THREADS: u64 = 4;

/// The seeds of the runs with faults.
const SEEDS: [u64; 3] = [1, 2, 3];

/// A database with faults.
pub(super) type Faulty<T> = FaultyDb<SharedScan<T>>;

/// Random numbers that several threads draw from one sequence (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Random(Arc<AtomicU64>);

impl Random {
    fn new(seed: u64) -> Self {
        Random(Arc::new(AtomicU64::new(seed)))
    }

    /// Returns a number below `end`.
    pub(super) fn below(&self, end: u64) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub(super) fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Lets other threads run instead of sleeping.
#[derive(Debug)]
struct YieldingClock(ManualClock);

impl Clock for YieldingClock {
    fn now(&self) -> Duration {
        self.0.now()
    }

    fn sleep(&self, _: Duration) {
        thread::yield_now();
    }
}

/// Injects into most calls a latency, so that other threads run between calls even if the database is
/// fast, and into some of them the faults that the contract allows.
fn rules(has_faults: bool) -> Vec<FaultRule> {
    let mut rules = vec![FaultRule::new(Fault::Latency(Duration::from_nanos(1))).rate(0.75)];
    if has_faults {
        let unknown = |applied| Fault::OutcomeUnknown { applied };
        // Scans are few.
        let scan = FaultRule::new(Fault::Unavailable).operations([Operation::Scan]);
        rules.push(scan.rate(0.5));
        let rates = [
            (Fault::Unavailable, 0.06),
            (Fault::Backend, 0.03),
            (unknown(false), 0.08),
            (unknown(true), 0.08),
            (Fault::Conflict, 0.08),
            (Fault::Partial, 0.25),
            (Fault::ShortPage, 0.25),
        ];
        rules.extend(rates.map(|(fault, rate)| FaultRule::new(fault).rate(rate)));
    }
    rules
}

/// A database with injected faults, its clock, and random choices.
pub(super) struct Bench<T> {
    /// The database, and the seed of the faults.
    pub(super) name: String,
    /// The database with faults.
    pub(super) db: Faulty<T>,
    pub(super) clock: ManualClock,
    pub(super) random: Random,
    /// The seed of the faults, if there are any.
    seed: Option<u64>,
    /// The number of the run on this database.
    pub(super) run: usize,
}

impl<T> Bench<T> {
    fn new(database: Database<T>, run: usize, seed: Option<u64>) -> Self {
        let name = match seed {
            None => format!("{}, without faults", database.name),
            Some(seed) => format!("{}, with faults of seed {seed}", database.name),
        };
        Bench {
            name,
            clock: database.clock.clone(),
            random: Random::new(seed.unwrap_or(0)),
            db: inject(database, seed),
            seed,
            run,
        }
    }

    /// Returns `database` with the same rules and seed.
    pub(super) fn with_faults(&self, database: Database<T>) -> Faulty<T> {
        inject(database, self.seed)
    }

    /// Returns the time in epoch seconds.
    pub(super) fn now(&self) -> u64 {
        self.clock.epoch_seconds()
    }

    pub(super) fn has_faults(&self) -> bool {
        self.seed.is_some()
    }

    /// Returns the database without faults, to check the invariant.
    pub(super) fn plain(&self) -> &SharedScan<T> {
        self.db.inner()
    }

    /// Returns all items of the partitions that begin with `prefix`, by their keys.
    pub(super) fn items(&self, prefix: &str) -> Vec<Item<T>> {
        let items = self.plain().scan().map(Result::unwrap);
        let mut items: Vec<Item<T>> = items.filter(|item| item.pk().starts_with(prefix)).collect();
        items.sort_by(|one, other| one.key().cmp(&other.key()));
        items
    }
}

fn inject<T>(database: Database<T>, seed: Option<u64>) -> Faulty<T> {
    FaultyDb::new(database.db, rules(seed.is_some()))
        .with_seed(seed.unwrap_or(0))
        .with_clock(YieldingClock(database.clock))
}

/// Runs `test` on each database: without faults, and with those of each seed.
pub(super) fn on_each_database<T>(test: impl Fn(&Bench<T>))
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    on_each_database_without_faults(&test);
    let runs = SEEDS.iter().zip(1..);
    let faults: usize = runs
        .map(|(seed, run)| run_all(run, Some(*seed), &test))
        .sum();
    assert!(faults > 0, "no fault was injected");
}

/// Runs `test` on each database.
pub(super) fn on_each_database_without_faults<T>(test: impl Fn(&Bench<T>))
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    run_all(0, None, &test);
}

/// Runs `test` on each database, and returns the number of injected faults.
fn run_all<T>(run: usize, seed: Option<u64>, test: &impl Fn(&Bench<T>)) -> usize
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let is_fault = |injection: &Injection| !matches!(injection.fault, Fault::Latency(_));
    let run_one = |database| {
        let bench = Bench::new(database, run, seed);
        // The last line of a failed test names the database and the seed.
        println!("{}", bench.name);
        test(&bench);
        bench.db.injections().into_iter().filter(is_fault).count()
    };
    databases().into_iter().map(run_one).sum()
}

/// Runs `body` on [`THREADS`] threads, with their numbers, and returns the results in this order.
pub(super) fn on_threads<R: Send>(body: impl Fn(u64) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = (0..THREADS)
            .map(|number| scope.spawn(move || body(number)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// Calls a function that may be repeated after any injected fault until it succeeds.
pub(super) fn repeat<R>(mut call: impl FnMut() -> Result<R>) -> R {
    loop {
        match call() {
            Ok(result) => return result,
            Err(error) if is_injected(&error) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Returns whether `error` may be the effect of a fault.
pub(super) fn is_injected(error: &Error) -> bool {
    error.is_retryable() || matches!(error, Error::Backend(_) | Error::OutcomeUnknown(_))
}

/// How many calls were acknowledged, and how many may have had their effect without it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    done: u64,
    unknown: u64,
}

impl Tally {
    pub(super) fn count(&mut self, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.done += 1,
            Err(Error::OutcomeUnknown(_)) => self.unknown += 1,
            // Nothing was written.
            Err(Error::Unavailable(_) | Error::Backend(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Asserts that `effects` is a possible number of effects.
    pub(super) fn assert_possible(self, effects: u64, name: &str) {
        let possible: RangeInclusive<u64> = self.done..=self.done + self.unknown;
        assert!(
            possible.contains(&effects),
            "{name}: {effects} of {possible:?}"
        );
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Tally::default(), |sum, one| Tally {
            done: sum.done + one.done,
            unknown: sum.unknown + one.unknown,
        })
    }
}

/// Sets a flag when it is dropped, so that loops on other threads also end after a panic.
pub(super) struct Ending<'a>(pub(super) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn every_kind_of_fault_is_injected() {
    let database = databases::<u8>().remove(0);
    let db = Bench::new(database, 1, Some(SEEDS[0])).db;
    let items = [Item::new("a", "1", 1), Item::new("a", "2", 2)];
    for _ in 0..100 {
        let lock = db.inner().get_lock(Key::new("a", "lock")).unwrap();
        let _ = db.set(&items);
        let _ = db.set_atomic(&items, &[lock]);
        let _ = db.page(&Query::new("a"), None);
        let _ = db.scan().count();
    }
    let injections = db.injections();
    let kinds: HashSet<_> = injections
        .iter()
        .map(|one| discriminant(&one.fault))
        .collect();
    // `OutcomeUnknown` has two forms, and there are two rules for `Unavailable`.
    assert_eq!(kinds.len(), rules(true).len() - 2, "{kinds:?}");
    for applied in [false, true] {
        let unknown = Fault::OutcomeUnknown { applied };
        assert!(injections.iter().any(|one| one.fault == unknown));
    }
}
