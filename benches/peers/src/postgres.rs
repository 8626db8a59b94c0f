//! Operations per second on a PostgreSQL server: `PostgresDb`, and the `postgres` crate by hand. In each
//! round, both do the same work one after the other, on the same server.

use crate::environment;
use crate::figures::Figures;
use crate::keys::{Pair, Random};
use crate::server::{self, Server};
use crate::stores::{ByHand, PostgresDbStore, Record, SqlStore};
use crate::throughput::{at, nanos, ratios};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(crate) const RATE: &str = "operations per second on PostgreSQL";
pub(crate) const SHARE: &str = "operations per second on PostgreSQL, against by hand";
pub(crate) const SPEEDUP: &str = "operations per second on PostgreSQL, against one thread";

const GUARDED: &str = "commit of one item under a lock";
const READ: &str = "get";

const THREADS: [usize; 3] = [1, 8, 32];
const SESSIONS: usize = THREADS[THREADS.len() - 1];

/// The number of records that each thread overwrites, in a partition of its own.
const RECORDS: usize = 1_000;

/// The time of one turn of a contender, and the number of its turns in one round.
const SLICE: Duration = Duration::from_millis(50);
const TURNS: usize = 4;

/// Each commit waits for the disk, as by default. The tests' server does not.
const ARGUMENTS: [&str; 4] = ["-c", "fsync=on", "-c", "shared_buffers=128MB"];

#[derive(Clone, Copy)]
enum Op {
    SetAtomic,
    Get,
}

/// A filled table, and its writers.
struct Contender<S: SqlStore> {
    store: S,
    /// One for each thread, which is the only one that locks it.
    writers: Vec<Mutex<Writer<S>>>,
}

struct Writer<S: SqlStore> {
    session: S::Session,
    /// Each key with the number of the record that was written last.
    records: Vec<(Pair, u64)>,
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

impl<S: SqlStore> Contender<S> {
    fn filled(url: &str) -> Box<dyn DynContender>
    where
        S: 'static,
    {
        let store = S::create(url, SESSIONS);
        let writer = |number: usize| {
            let pk = format!("user#{number:07}");
            let mut session = store.session(Pair::new(&pk, "lock"));
            let records = (0..RECORDS)
                .map(|place| (Pair::new(&pk, &format!("item#{place:07}")), place as u64));
            let records: Vec<_> = records.collect();
            store.load(&mut session, &records);
            Mutex::new(Writer {
                session,
                records,
                random: Random::new(10 + number as u64),
                next: RECORDS as u64,
            })
        };
        let writers = (0..SESSIONS).map(writer).collect();
        Box::new(Contender { store, writers })
    }
}

impl<S: SqlStore> Writer<S> {
    fn run(&mut self, store: &S, op: Op) {
        let place = self.random.below(RECORDS);
        let (key, newest) = &mut self.records[place];
        match op {
            Op::Get => {
                let found = store.get(&mut self.session, key);
                assert_eq!(found, Some(*newest), "{} reads an old record", S::NAME);
            }
            Op::SetAtomic => {
                store.set_atomic(&mut self.session, key, Record::new(self.next));
                *newest = self.next;
                self.next += 1;
            }
        }
    }
}

impl<S: SqlStore> DynContender for Contender<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn rate(&self, op: Op, threads: usize) -> f64 {
        let nanos = nanos(threads, SLICE, |number, stop| {
            let mut writer = self.writers[number].lock();
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                writer.run(&self.store, op);
                done += 1;
            }
            done
        });
        1e9 / nanos
    }

    fn is_complete(&self) -> bool {
        self.writers.iter().all(|writer| {
            let Writer {
                session, records, ..
            } = &mut *writer.lock();
            let is_newest =
                |(key, newest): &(Pair, u64)| self.store.get(session, key) == Some(*newest);
            records.iter().all(is_newest)
        })
    }
}

/// Measures on a server in memory and on one with its data in `directory`, each started for this. `None`
/// if PostgreSQL is not installed.
///
/// # Errors
///
/// Those of creating a directory there.
pub(crate) fn measure(rounds: usize, directory: &Path) -> io::Result<Option<Figures>> {
    let Some(programs) = server::installed() else {
        eprintln!(
            "postgres: skipped, because PostgreSQL is not installed: no `initdb` in \
             ATOMIC_DB_POSTGRES_BIN, PATH or /usr/lib/postgresql"
        );
        return Ok(None);
    };
    let mut figures = Figures::default();
    figures.note(format!(
        "{rounds} rounds of {TURNS} times {} ms for each number; medians, with the quartiles in brackets; load average {}; {}.",
        SLICE.as_millis(),
        environment::load(),
        version(&programs)
    ));
    let memory = Path::new("/dev/shm");
    for (place, directory) in [("in memory", memory), ("on disk", directory)] {
        let system = environment::file_system(directory);
        let is_memory = matches!(system.as_deref(), Some("tmpfs" | "ramfs"));
        if is_memory != (place == "in memory") {
            eprintln!(
                "postgres: {place} is skipped, because {} is on {}",
                directory.display(),
                system.as_deref().unwrap_or("an unknown file system")
            );
            continue;
        }
        let place = format!("{place} ({})", system.unwrap_or_default());
        let folder = server::new_folder(directory)?;
        let server = Server::start_in(folder, programs.clone(), &ARGUMENTS);
        compare(&server.url(), &place, rounds, &mut figures);
    }
    Ok(Some(figures))
}

/// Returns the name and the version of the server, such as `postgres (PostgreSQL) 15.18`.
fn version(programs: &Path) -> String {
    let output = Command::new(programs.join("postgres"))
        .arg("--version")
        .output();
    let text = output.ok().map(|output| output.stdout);
    let text = text.and_then(|text| String::from_utf8(text).ok());
    text.map_or_else(|| "an unknown server".into(), |text| text.trim().to_owned())
}

/// Measures both clients on the server at `url`, and adds the results to `figures`.
fn compare(url: &str, place: &str, rounds: usize, figures: &mut Figures) {
    let contenders = [
        Contender::<PostgresDbStore>::filled(url),
        Contender::<ByHand>::filled(url),
    ];
    // The statistics that the server would gather in its own time.
    let client = postgres::Client::connect(url, postgres::NoTls);
    let analyzed = client.and_then(|mut client| client.batch_execute("VACUUM ANALYZE"));
    analyzed.expect("the server accepts connections");

    for (name, op) in [(GUARDED, Op::SetAtomic), (READ, Op::Get)] {
        let name = format!("{name}, {place}");
        // Indexed by number of threads, contender and round. The first round only opens connections
        // and prepares statements.
        let mut rates = [const { [const { Vec::new() }; 2] }; THREADS.len()];
        for round in 0..=rounds {
            for (by_contender, threads) in rates.iter_mut().zip(THREADS) {
                let mut sums = [0.0; 2];
                for turn in 0..TURNS {
                    let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
                    for contender in order {
                        sums[contender] += contenders[contender].rate(op, threads);
                    }
                }
                if round > 0 {
                    for (by_round, sum) in by_contender.iter_mut().zip(sums) {
                        by_round.push(sum / TURNS as f64);
                    }
                }
            }
        }
        for (by_contender, threads) in rates.iter().zip(THREADS) {
            let row = at(&name, threads);
            for (contender, samples) in contenders.iter().zip(by_contender) {
                figures.add_samples(RATE, &row, contender.name(), samples);
                let shares = ratios(samples, &by_contender[1]);
                figures.add_samples(SHARE, &row, contender.name(), &shares);
            }
            if threads > 1 {
                for (place, contender) in contenders.iter().enumerate() {
                    let gains = ratios(&by_contender[place], &rates[0][place]);
                    figures.add_samples(SPEEDUP, &row, contender.name(), &gains);
                }
            }
        }
        eprintln!("{name}: done");
    }
    for contender in &contenders {
        let is_complete = contender.is_complete();
        assert!(is_complete, "{} lost a write", contender.name());
    }
}
