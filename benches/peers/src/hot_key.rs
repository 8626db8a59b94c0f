//! Transactions of many threads on one item, against the same work under exclusion: in memory under one
//! mutex, and on a file in redb's own write transactions, of which one runs at a time. In each round,
//! both do the same work one after the other.

use crate::environment;
use crate::figures::Figures;
use crate::throughput::{at, ratios};
use atomic_db::{AtomicDb, AtomicDbExt, Item, Key, MemoryDb, RedbDb};
use parking_lot::Mutex;
use redb::{ReadableTable, TableDefinition};
use std::io;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const RATE: &str = "transactions per second on one hot key";
pub(crate) const SHARE: &str = "transactions per second on one hot key, against exclusion";
pub(crate) const LATENCY: &str = "milliseconds per transaction on one hot key";
pub(crate) const ATTEMPTS: &str = "attempts per transaction on one hot key";

pub(crate) const TRANSACT: &str = "transact";
const EXCLUSION: &str = "exclusion";

const THREADS: [usize; 4] = [2, 8, 32, 64];

/// The time for which one contender runs in one round.
const SLICE: Duration = Duration::from_millis(500);

const LOCK: Key<'_> = Key::new("counter", "lock");
const COUNT: Key<'_> = Key::new("counter", "count");
const TABLE: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// What one contender did in one round.
struct Run {
    per_second: f64,
    /// The duration of each transaction, in ascending order.
    durations: Vec<Duration>,
    attempts_each: f64,
}

impl Run {
    fn millis(&self, per_mille: usize) -> f64 {
        let place = (self.durations.len() - 1) * per_mille / 1_000;
        self.durations[place].as_secs_f64() * 1e3
    }
}

/// Lets `threads` threads call `work` for a slice of time. `work` increments a counter by one, and
/// returns the number of its attempts.
fn run(threads: usize, work: impl Fn() -> u64 + Sync) -> Run {
    let ready = Barrier::new(threads);
    let began = Mutex::new(None);
    let worker = || {
        let (mut durations, mut attempts) = (Vec::new(), 0);
        ready.wait();
        let began = *began.lock().get_or_insert_with(Instant::now);
        while began.elapsed() < SLICE {
            let start = Instant::now();
            attempts += work();
            durations.push(start.elapsed());
        }
        (durations, attempts)
    };
    let (mut durations, mut attempts) = (Vec::new(), 0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            let (its_durations, its_attempts) = worker.join().expect("a worker ends");
            durations.extend(its_durations);
            attempts += its_attempts;
        }
    });
    let seconds = began
        .lock()
        .map_or(1.0, |began| began.elapsed().as_secs_f64());
    durations.sort_unstable();
    Run {
        per_second: durations.len() as f64 / seconds,
        attempts_each: attempts as f64 / durations.len() as f64,
        durations,
    }
}

/// Increments the counter in a transaction, with the default `Retry`.
fn transact(db: &impl AtomicDb<Data = u64>) -> u64 {
    let mut attempts = 0;
    let outcome = db.transact(|tx| {
        attempts += 1;
        tx.lock(LOCK)?;
        let count = tx.get(COUNT)?.and_then(Item::into_data).unwrap_or(0);
        tx.set(Item::at(COUNT, count + 1))
    });
    outcome.expect("no transaction is exhausted");
    attempts
}

fn count(db: &impl AtomicDb<Data = u64>) -> u64 {
    let item = db.get_fresh(COUNT).expect("a read succeeds");
    item.and_then(Item::into_data).unwrap_or(0)
}

/// Increments the counter by hand. The caller excludes other threads.
fn increment(db: &MemoryDb<u64>) {
    let lock = db.get_lock(LOCK).expect("a lock is read");
    let item = Item::at(COUNT, count(db) + 1);
    let written = db.set_atomic(&[item], &[lock]);
    written.expect("no other thread writes");
}

/// Increments the counter in redb's own transaction.
fn increment_in_redb(db: &redb::Database) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    {
        let mut table = transaction.open_table(TABLE)?;
        let count = table.get("count")?.map_or(0, |count| count.value());
        table.insert("count", count + 1)?;
    }
    Ok(transaction.commit()?)
}

/// Measures in memory, and on files in `directory` unless it is on a file system in memory.
///
/// # Errors
///
/// Those of creating and removing a directory there.
pub(crate) fn measure(rounds: usize, directory: &Path) -> io::Result<Figures> {
    let mut figures = Figures::default();
    let system = environment::file_system(directory);
    figures.note(format!(
        "{rounds} rounds of {} ms for each number; medians, with the quartiles in brackets; load average {}; files on {}.",
        SLICE.as_millis(),
        environment::load(),
        system.as_deref().unwrap_or("an unknown file system")
    ));

    let db = MemoryDb::new();
    let mutex = Mutex::new(MemoryDb::new());
    compare(
        "in memory",
        rounds,
        &mut figures,
        &|| transact(&db),
        &|| {
            increment(&mutex.lock());
            1
        },
    );

    if let Some("tmpfs" | "ramfs") = system.as_deref() {
        eprintln!(
            "hot-key: files are skipped, because there is no disk to wait for; use --directory"
        );
        return Ok(figures);
    }
    let files = tempfile::Builder::new()
        .prefix("atomic-db-peers-")
        .tempdir_in(directory)?;
    let db = RedbDb::open(files.path().join("atomic-db.redb")).expect("the file can be created");
    let peer = redb::Database::create(files.path().join("redb.redb"));
    let peer = peer.expect("the file can be created");
    compare(
        "on a file",
        rounds,
        &mut figures,
        &|| transact(&db),
        &|| {
            increment_in_redb(&peer).expect("a commit succeeds");
            1
        },
    );
    drop((db, peer));
    files.close()?;
    Ok(figures)
}

fn compare(
    place: &str,
    rounds: usize,
    figures: &mut Figures,
    ours: &(dyn Fn() -> u64 + Sync),
    exclusion: &(dyn Fn() -> u64 + Sync),
) {
    for threads in THREADS {
        let row = at(place, threads);
        let runs: Vec<[Run; 2]> = (0..rounds)
            .map(|_| [run(threads, ours), run(threads, exclusion)])
            .collect();
        let samples = |contender: usize, sample: &dyn Fn(&Run) -> f64| -> Vec<f64> {
            runs.iter().map(|both| sample(&both[contender])).collect()
        };
        let rates = [0, 1].map(|contender| samples(contender, &|run| run.per_second));
        for (contender, name) in [TRANSACT, EXCLUSION].into_iter().enumerate() {
            figures.add_samples(RATE, &row, name, &rates[contender]);
            figures.add_samples(SHARE, &row, name, &ratios(&rates[contender], &rates[1]));
            for (name_of, per_mille) in [("median", 500), ("p99", 990), ("longest", 1_000)] {
                let row = format!("{row}, {name_of}");
                let millis = samples(contender, &|run| run.millis(per_mille));
                figures.add_samples(LATENCY, &row, name, &millis);
            }
        }
        let attempts = samples(0, &|run| run.attempts_each);
        figures.add_samples(ATTEMPTS, &row, TRANSACT, &attempts);
        eprintln!("{row}: done");
    }
}
