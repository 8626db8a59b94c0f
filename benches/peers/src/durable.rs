//! Operations per second on real files: commits that survive a power failure, and reads. In each round,
//! the contenders do the same work one after another.

use crate::environment;
use crate::figures::Figures;
use crate::keys::{Pair, Random};
use crate::stores::{FileStore, FjallStore, RawRedb, Record, RedbDbStore, SqliteWal};
use crate::throughput::{at, nanos, ratios};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(crate) const RATE: &str = "operations per second on files";
pub(crate) const SHARE: &str = "operations per second on files, against RedbDb";
pub(crate) const SPEEDUP: &str = "commits per second on files, against one thread";

pub(crate) const ONE: &str = "commit of one item";
pub(crate) const GUARDED: &str = "commit of one item under a lock";
pub(crate) const READ: &str = "point read";

const THREADS: [usize; 4] = [1, 2, 8, 32];
const WRITERS: usize = THREADS[THREADS.len() - 1];

/// The number of records that each thread overwrites, in a partition of its own.
const RECORDS: usize = 1_000;

/// The time of one turn of a contender, and the number of its turns in one round. Turns are short,
/// because the speed of a disk changes within seconds and should do so for all contenders.
const SLICE: Duration = Duration::from_millis(50);
const TURNS: usize = 4;

#[derive(Clone, Copy)]
enum Op {
    Set,
    SetAtomic,
    Get,
}

/// A filled database, and its writers.
struct Contender<F: FileStore> {
    files: F,
    /// One for each thread, which is the only one that locks it.
    writers: Vec<Mutex<Writer<F>>>,
}

struct Writer<F: FileStore> {
    /// Each key with the number of the record that was written last.
    records: Vec<(F::Key, u64)>,
    lock: F::Lock,
    random: Random,
    next: u64,
}

trait DynContender {
    fn name(&self) -> &'static str;

    /// Returns the operations per second of `threads` threads together.
    fn rate(&self, op: Op, threads: usize) -> f64;

    /// Returns whether every record is the one that was written last.
    fn is_complete(&self) -> bool;
}

impl<F: FileStore> Contender<F> {
    fn filled(directory: &Path) -> Box<dyn DynContender>
    where
        F: 'static,
    {
        let key = |pair: Pair| F::key(&pair.pk, &pair.sk);
        let files = F::create(directory);
        let writer = |number: usize| {
            let pk = format!("user#{number:07}");
            let records = (0..RECORDS).map(|place| {
                let pair = Pair::new(&pk, &format!("item#{place:07}"));
                (key(pair), place as u64)
            });
            let records: Vec<_> = records.collect();
            files.load(&records);
            Mutex::new(Writer {
                records,
                lock: files.get_lock(key(Pair::new(&pk, "lock"))),
                random: Random::new(10 + number as u64),
                next: RECORDS as u64,
            })
        };
        let writers = (0..WRITERS).map(writer).collect();
        Box::new(Contender { files, writers })
    }
}

impl<F: FileStore> Writer<F> {
    fn run(&mut self, files: &F, op: Op) {
        let place = self.random.below(RECORDS);
        let (key, newest) = &mut self.records[place];
        if matches!(op, Op::Get) {
            assert_eq!(
                files.get(key),
                Some(*newest),
                "{} reads an old record",
                F::NAME
            );
            return;
        }
        let record = Record::new(self.next);
        match op {
            Op::SetAtomic => files.set_atomic(key, record, &mut self.lock),
            _ => files.set(key, record),
        }
        *newest = self.next;
        self.next += 1;
    }
}

impl<F: FileStore> DynContender for Contender<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn rate(&self, op: Op, threads: usize) -> f64 {
        let nanos = nanos(threads, SLICE, |number, stop| {
            let mut writer = self.writers[number].lock();
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                writer.run(&self.files, op);
                done += 1;
            }
            done
        });
        1e9 / nanos
    }

    fn is_complete(&self) -> bool {
        self.writers.iter().all(|writer| {
            let writer = writer.lock();
            let mut records = writer.records.iter();
            records.all(|(key, newest)| self.files.get(key) == Some(*newest))
        })
    }
}

/// Measures on files in `directory`. Skips a file system in memory.
///
/// # Errors
///
/// Those of creating and removing a directory there.
pub(crate) fn measure(rounds: usize, directory: &Path) -> io::Result<Option<Figures>> {
    let system = environment::file_system(directory);
    if let Some(memory @ ("tmpfs" | "ramfs")) = system.as_deref() {
        eprintln!(
            "durable: skipped, because {} is on {memory} and has no disk to wait for; \
             use --directory",
            directory.display()
        );
        return Ok(None);
    }
    let mut figures = Figures::default();
    figures.note(format!(
        "{rounds} rounds of {TURNS} times {} ms for each number; medians, with the quartiles in brackets; load average {}; files on {}.",
        SLICE.as_millis(),
        environment::load(),
        system.as_deref().unwrap_or("an unknown file system")
    ));

    let files = tempfile::Builder::new()
        .prefix("atomic-db-peers-")
        .tempdir_in(directory)?;
    let contenders = [
        Contender::<RedbDbStore>::filled(files.path()),
        Contender::<RawRedb>::filled(files.path()),
        Contender::<SqliteWal>::filled(files.path()),
        Contender::<FjallStore>::filled(files.path()),
    ];
    for (name, op, counts) in [
        (ONE, Op::Set, &THREADS[..]),
        (GUARDED, Op::SetAtomic, &THREADS[..]),
        (READ, Op::Get, &THREADS[..1]),
    ] {
        compare(&contenders, name, op, counts, rounds, &mut figures);
    }
    for contender in &contenders {
        let is_complete = contender.is_complete();
        assert!(is_complete, "{} lost a write", contender.name());
    }
    drop(contenders);
    files.close()?;
    Ok(Some(figures))
}

/// Runs one operation on all contenders, and adds the results to `figures`.
fn compare(
    contenders: &[Box<dyn DynContender>],
    name: &str,
    op: Op,
    counts: &[usize],
    rounds: usize,
    figures: &mut Figures,
) {
    // Indexed by number of threads, contender and round.
    let mut rates = vec![vec![Vec::new(); contenders.len()]; counts.len()];
    for _ in 0..rounds {
        for (by_contender, threads) in rates.iter_mut().zip(counts) {
            let mut sums = vec![0.0; contenders.len()];
            for turn in 0..TURNS {
                let mut order: Vec<_> = sums.iter_mut().zip(contenders).collect();
                // Alternate the order, so that the pending I/O of one contender does not always
                // affect the same next one.
                if turn % 2 == 1 {
                    order.reverse();
                }
                for (sum, contender) in order {
                    *sum += contender.rate(op, *threads);
                }
            }
            for (by_round, sum) in by_contender.iter_mut().zip(sums) {
                by_round.push(sum / TURNS as f64);
            }
        }
    }
    for (by_contender, threads) in rates.iter().zip(counts) {
        let row = at(name, *threads);
        for (place, contender) in contenders.iter().enumerate() {
            let (peer, samples) = (contender.name(), &by_contender[place]);
            figures.add_samples(RATE, &row, peer, samples);
            let shares = ratios(samples, &by_contender[0]);
            figures.add_samples(SHARE, &row, peer, &shares);
            if *threads > 1 {
                let gains = ratios(samples, &rates[0][place]);
                figures.add_samples(SPEEDUP, &row, peer, &gains);
            }
        }
    }
    eprintln!("{name}: done");
}
