//! Commits that outlive a power cut, and reads of what they wrote, from real files: how many in a
//! second, every contender in turn, round after round.

use crate::figures::Figures;
use crate::keys::{Pair, Random};
use crate::machine;
use crate::stores::{Bare, Files, Fjall, OneFile, Record, Wal};
use crate::timed::{at, divided, nanos};
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

pub(crate) const PEERS: [&str; 3] = [Bare::NAME, Wal::NAME, Fjall::NAME];

const THREADS: [usize; 4] = [1, 2, 8, 32];
const WRITERS: usize = THREADS[THREADS.len() - 1];

/// How many records each thread writes over and over, in a partition of its own.
const RECORDS: usize = 1_000;

/// How long one contender works at one thing at a time, and how often in one round. A disk is quick
/// and slow by turns, of seconds or less, and is to be so for all alike.
const SLICE: Duration = Duration::from_millis(50);
const TURNS: usize = 4;

#[derive(Clone, Copy)]
enum What {
    Set,
    SetAtomic,
    Get,
}

/// A database that is filled, and those who write to it.
struct Contender<F: Files> {
    files: F,
    /// One for each thread, which alone locks it.
    writers: Vec<Mutex<Writer<F>>>,
}

struct Writer<F: Files> {
    /// Each with the number of the record that was written there last.
    records: Vec<(F::Key, u64)>,
    lock: F::Lock,
    random: Random,
    next: u64,
}

trait Contends {
    fn name(&self) -> &'static str;

    /// Operations in a second, of `threads` together.
    fn rate(&self, what: What, threads: usize) -> f64;

    /// Every record is the last that was written there.
    fn is_whole(&self) -> bool;
}

impl<F: Files> Contender<F> {
    fn filled(directory: &Path) -> Box<dyn Contends>
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

impl<F: Files> Writer<F> {
    fn act(&mut self, files: &F, what: What) {
        let place = self.random.below(RECORDS);
        let (key, newest) = &mut self.records[place];
        if matches!(what, What::Get) {
            assert_eq!(files.get(key), Some(*newest), "{} reads wrong", F::NAME);
            return;
        }
        let record = Record::new(self.next);
        match what {
            What::SetAtomic => files.set_atomic(key, record, &mut self.lock),
            _ => files.set(key, record),
        }
        *newest = self.next;
        self.next += 1;
    }
}

impl<F: Files> Contends for Contender<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn rate(&self, what: What, threads: usize) -> f64 {
        let nanos = nanos(threads, SLICE, |number, stop| {
            let mut writer = self.writers[number].lock();
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                writer.act(&self.files, what);
                done += 1;
            }
            done
        });
        1e9 / nanos
    }

    fn is_whole(&self) -> bool {
        self.writers.iter().all(|writer| {
            let writer = writer.lock();
            let mut records = writer.records.iter();
            records.all(|(key, newest)| self.files.get(key) == Some(*newest))
        })
    }
}

/// Measures on files in `directory`; nothing where memory is all that is behind it.
///
/// # Errors
///
/// Those of making a directory there and of removing it.
pub(crate) fn measure(rounds: usize, directory: &Path) -> io::Result<Option<Figures>> {
    let system = machine::file_system(directory);
    if let Some(memory @ ("tmpfs" | "ramfs")) = system.as_deref() {
        eprintln!(
            "durable: left out, for {} is on {memory}, where nothing waits for a disk; \
             --directory names another",
            directory.display()
        );
        return Ok(None);
    }
    let mut figures = Figures::default();
    figures.note(format!(
        "{rounds} rounds of {TURNS} times {} ms for each number; medians, with the quartiles in brackets; load average {}; files on {}.",
        SLICE.as_millis(),
        machine::load(),
        system.as_deref().unwrap_or("a file system that could not be told")
    ));

    let files = tempfile::Builder::new()
        .prefix("atomic-db-peers-")
        .tempdir_in(directory)?;
    let contenders = [
        Contender::<OneFile>::filled(files.path()),
        Contender::<Bare>::filled(files.path()),
        Contender::<Wal>::filled(files.path()),
        Contender::<Fjall>::filled(files.path()),
    ];
    for (name, what, counts) in [
        (ONE, What::Set, &THREADS[..]),
        (GUARDED, What::SetAtomic, &THREADS[..]),
        (READ, What::Get, &THREADS[..1]),
    ] {
        compare(&contenders, name, what, counts, rounds, &mut figures);
    }
    for contender in &contenders {
        let is_whole = contender.is_whole();
        assert!(is_whole, "{} loses what it wrote", contender.name());
    }
    drop(contenders);
    files.close()?;
    Ok(Some(figures))
}

/// Has all contenders do one thing, in turn, and adds what comes of it.
fn compare(
    contenders: &[Box<dyn Contends>],
    name: &str,
    what: What,
    counts: &[usize],
    rounds: usize,
    figures: &mut Figures,
) {
    // By number of threads, contender and round.
    let mut rates = vec![vec![Vec::new(); contenders.len()]; counts.len()];
    for _ in 0..rounds {
        for (by_contender, threads) in rates.iter_mut().zip(counts) {
            let mut sums = vec![0.0; contenders.len()];
            for turn in 0..TURNS {
                let mut order: Vec<_> = sums.iter_mut().zip(contenders).collect();
                // What one leaves the disk to do does not always meet the same next one.
                if turn % 2 == 1 {
                    order.reverse();
                }
                for (sum, contender) in order {
                    *sum += contender.rate(what, *threads);
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
            let shares = divided(samples, &by_contender[0]);
            figures.add_samples(SHARE, &row, peer, &shares);
            if *threads > 1 {
                let gains = divided(samples, &rates[0][place]);
                figures.add_samples(SPEEDUP, &row, peer, &gains);
            }
        }
    }
    eprintln!("{name}: done");
}
