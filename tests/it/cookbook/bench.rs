//! A database with injected faults, threads, and the calls that a caller repeats.

use super::databases::{Database, SharedScan, databases};
use crate::common::{Call, HookedDb, Moment};
use atomic_db::{Error, Item, ManualClock, Result, Scan};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

pub(super) const THREADS: u64 = 4;

/// The seeds of the runs with faults.
const SEEDS: [u64; 3] = [1, 2, 3];

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

/// A database with injected faults, its clock, and random choices.
pub(super) struct Bench<T> {
    /// The database, and the seed of the faults.
    pub(super) name: String,
    /// The database with faults.
    pub(super) db: HookedDb<SharedScan<T>>,
    pub(super) clock: ManualClock,
    pub(super) random: Random,
    pub(super) has_faults: bool,
    /// The number of the run on this database.
    pub(super) run: usize,
}

impl<T> Bench<T> {
    fn new(database: Database<T>, run: usize, seed: Option<u64>) -> Self {
        let Database { name, db, clock } = database;
        let random = Random::new(seed.unwrap_or(0));
        let name = match seed {
            None => format!("{name}, without faults"),
            Some(seed) => format!("{name}, with faults of seed {seed}"),
        };
        let faults = Random::new(seed.map_or(0, |seed| seed << 32));
        let db = HookedDb::new(db, move |call, moment| {
            // Other threads run between the calls, even if the database is fast.
            for _ in 0..faults.below(4) {
                thread::yield_now();
            }
            if seed.is_some() {
                fault(&faults, call, moment)
            } else {
                Ok(())
            }
        });
        Bench {
            name,
            db,
            clock,
            random,
            has_faults: seed.is_some(),
            run,
        }
    }

    /// Returns the database without faults, to check the invariant.
    pub(super) fn plain(&self) -> &SharedScan<T> {
        &self.db.inner
    }

    /// Returns all items of the partitions that begin with `prefix`, by their keys.
    pub(super) fn items(&self, prefix: &str) -> Vec<Item<T>> {
        let items = self.plain().scan().map(Result::unwrap);
        let mut items: Vec<Item<T>> = items.filter(|item| item.pk().starts_with(prefix)).collect();
        items.sort_by(|one, other| one.key().cmp(&other.key()));
        items
    }
}

/// Fails one call in some: an unavailable database, a conflict, or a write with an unknown outcome, of
/// which half were applied.
fn fault(random: &Random, call: Call, moment: Moment) -> Result<()> {
    let is_write = matches!(call, Call::Commit | Call::Set | Call::Delete);
    match (is_write, moment) {
        // Scans have many items.
        (_, Moment::Before) if call == Call::ScannedItem && !random.one_in(8) => Ok(()),
        (_, Moment::Before) if random.one_in(16) => Err(Error::Unavailable("injected".into())),
        (true, Moment::Before) if random.one_in(12) => {
            Err(Error::OutcomeUnknown("not applied".into()))
        }
        (true, Moment::After) if random.one_in(12) => Err(Error::OutcomeUnknown("applied".into())),
        (_, Moment::Before) if call == Call::Commit && random.one_in(12) => {
            Err(Error::RaceCondition { keys: Vec::new() })
        }
        _ => Ok(()),
    }
}

/// Runs `test` on each database: without faults, and with those of each seed.
pub(super) fn on_each_database<T>(test: impl Fn(&Bench<T>))
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    for (run, seed) in [None].into_iter().chain(SEEDS.map(Some)).enumerate() {
        for database in databases() {
            test(&Bench::new(database, run, seed));
        }
    }
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
            Err(error) if error.is_retryable() || matches!(error, Error::OutcomeUnknown(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Sets a flag when it is dropped, so that loops on other threads also end after a panic.
pub(super) struct Ending<'a>(pub(super) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
