//! Crash recovery: a process with several writers is killed, again and again, alone or next to others.
//!
//! `ATOMIC_DB_KILLS` sets the number of kills, which is 20 by default.

use super::child::{KilledOnDrop, child};
use crate::common::HANG_LIMIT;
use atomic_db::testing::{run_concurrently, with_timeout};
use atomic_db::{AtomicDb, Batch, Item, Key, RedbDb, Version};
use std::collections::BTreeMap;
use std::env;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const WRITERS: usize = 8;

/// The number of processes that share a file, and of writers in each.
const PROCESSES: usize = 3;
const WRITERS_PER_PROCESS: usize = 2;

/// The environment variables that give a child process its file, whether it is shared, and the numbers
/// of its first and its last writer.
const FILE: &str = "ATOMIC_DB_CRASH_FILE";
const SHARED: &str = "ATOMIC_DB_CRASH_SHARED";
const WRITER_RANGE: &str = "ATOMIC_DB_CRASH_WRITERS";

fn open(path: impl AsRef<Path>, shared: bool) -> RedbDb<u64> {
    let builder = RedbDb::builder();
    let builder = if shared { builder.shared() } else { builder };
    builder.open(path).unwrap()
}

fn count(db: &RedbDb<u64>, pk: &str) -> u64 {
    let item = db.get(Key::new(pk, "count")).unwrap();
    item.and_then(Item::into_data).unwrap_or(0)
}

/// The two partitions of a writer, which each of its commits writes to.
fn partitions(writer: usize) -> (String, String) {
    (format!("first {writer}"), format!("second {writer}"))
}

/// Commits forever: each writer increments a counter in both of its partitions and creates an entry,
/// under its own lock. It prints an acknowledgement when a commit has returned.
#[test]
#[ignore = "a child process of the tests below"]
fn child_process_for_kill_test() {
    let Ok(path) = env::var(FILE) else {
        return;
    };
    let db = open(path, env::var(SHARED).is_ok());
    let writers = env::var(WRITER_RANGE).unwrap();
    let (begin, end) = writers.split_once("..").unwrap();
    let begin: usize = begin.parse().unwrap();
    run_concurrently(end.parse::<usize>().unwrap() - begin, |thread| {
        let writer = begin + thread;
        let (first, second) = partitions(writer);
        let mut lock = db.get_lock(Key::new(&first, "lock")).unwrap();
        for number in count(&db, &first) + 1.. {
            let entry = format!("entry {number}");
            let batch = Batch::new()
                .lock(lock.clone())
                .set(Item::new(&first, "count", number))
                .set(Item::new(&second, "count", number))
                .create(Item::new(&second, entry, number));
            let version = db.commit(&batch).unwrap();
            lock = lock.with_version(version);
            // A single write, so that lines of different threads do not mix.
            let line = format!("\nacknowledged {writer} {number} {version}\n");
            io::stdout().write_all(line.as_bytes()).unwrap();
        }
    });
}

/// The number and the version of the last acknowledged commit of each writer.
type Acknowledged = BTreeMap<usize, (u64, Version)>;

/// A process that writes until it is killed.
struct Writing {
    process: KilledOnDrop,
    /// Receives a message at the first acknowledgement.
    started: mpsc::Receiver<()>,
    acknowledged: thread::JoinHandle<Acknowledged>,
}

impl Writing {
    fn start(path: &Path, shared: bool, writers: Range<usize>) -> Self {
        let mut command = child("redb::crash::child_process_for_kill_test");
        command
            .env(FILE, path)
            .env(WRITER_RANGE, format!("{writers:?}"));
        if shared {
            command.env(SHARED, "1");
        }
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (start, started) = mpsc::channel();
        let acknowledged = thread::spawn(move || {
            let mut acknowledged = Acknowledged::new();
            // A truncated last line has no complete version, and is ignored.
            for line in stdout.lines().map_while(Result::ok) {
                let Some((writer, number, version)) = parse(&line) else {
                    continue;
                };
                let before = acknowledged.insert(writer, (number, version));
                let increases = before.is_none_or(|before| before < (number, version));
                assert!(increases, "{line} after {before:?}");
                // The receiver may be gone.
                let _ = start.send(());
            }
            acknowledged
        });
        Writing {
            process: KilledOnDrop(process),
            started,
            acknowledged,
        }
    }

    /// Kills the process at a random time after its first acknowledgement, and returns the last ones.
    fn kill(self) -> Acknowledged {
        self.started.recv().expect("the process ended");
        let micros = RandomState::new().build_hasher().finish() % 60_000;
        thread::sleep(Duration::from_micros(micros));
        drop(self.process);
        self.acknowledged.join().unwrap()
    }
}

fn parse(line: &str) -> Option<(usize, u64, Version)> {
    let mut words = line.strip_prefix("acknowledged ")?.split(' ');
    let writer = words.next()?.parse().ok()?;
    let number = words.next()?.parse().ok()?;
    Some((writer, number, words.next()?.parse().ok()?))
}

fn kills() -> u64 {
    let kills = env::var("ATOMIC_DB_KILLS").ok();
    kills.map_or(20, |kills| kills.parse().expect("a number of kills"))
}

#[test]
fn a_killed_process_loses_no_acknowledged_commit_and_leaves_no_partial_one() {
    let kills = kills();
    let commits = with_timeout(HANG_LIMIT, move |progress| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.redb");
        let mut commits = 0;
        let mut latest = Version::from_u128(0);
        for kill in 0..kills {
            let acknowledged = Writing::start(&path, false, 0..WRITERS).kill();
            let db = open(&path, false);
            assert!(db.check_integrity().is_ok());
            for writer in 0..WRITERS {
                check_writer(&db, writer, acknowledged.get(&writer), latest, kill);
            }
            let total: u64 = (0..WRITERS)
                .map(|writer| count(&db, &partitions(writer).0))
                .sum();
            assert!(total > commits, "kill {kill}: no commit succeeded");
            commits = total;
            let lock = db.get_lock(Key::new("parent", "lock")).unwrap();
            latest = db.commit(&Batch::new().lock(lock)).unwrap();
            progress();
        }
        commits
    });
    println!("{kills} kills, {commits} commits");
}

#[test]
fn a_killed_process_that_shares_a_file_loses_no_acknowledged_commit_of_any_process() {
    let kills = kills();
    let commits = with_timeout(HANG_LIMIT, move |progress| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.redb");
        let start = |process: usize| {
            let first = process * WRITERS_PER_PROCESS;
            Writing::start(&path, true, first..first + WRITERS_PER_PROCESS)
        };
        let mut processes: Vec<_> = (0..PROCESSES)
            .map(|process| (process, start(process)))
            .collect();
        let db = open(&path, true);
        let mut acknowledged = Acknowledged::new();
        let check = |db: &RedbDb<u64>, acknowledged: &Acknowledged, kill| {
            for (writer, last) in acknowledged {
                check_writer(db, *writer, Some(last), Version::from_u128(0), kill);
            }
        };
        for kill in 0..kills {
            // The others go on writing while the writers of the killed process are checked.
            let (process, writing) = processes.remove(0);
            let of_killed = writing.kill();
            finish_commits(&db);
            check(&db, &of_killed, kill);
            acknowledged.extend(of_killed);
            processes.push((process, start(process)));
            progress();
        }
        for (_, writing) in processes {
            acknowledged.extend(writing.kill());
        }
        finish_commits(&db);
        check(&db, &acknowledged, kills);
        assert!(db.check_integrity().is_ok());
        drop(db);
        let db = open(&path, false);
        check(&db, &acknowledged, kills);
        acknowledged.values().map(|(number, _)| number).sum::<u64>()
    });
    println!("{kills} kills, {commits} commits");
}

/// Commits, with which a commit takes effect that a killed process had written but not yet synced.
fn finish_commits(db: &RedbDb<u64>) {
    db.set(&[Item::new("parent", "count", 0)]).unwrap();
}

/// Checks that the commits of `writer` are complete, include the acknowledged ones, and have versions
/// greater than `latest`, the last one before this run.
fn check_writer(
    db: &RedbDb<u64>,
    writer: usize,
    acknowledged: Option<&(u64, Version)>,
    latest: Version,
    kill: u64,
) {
    let (first, second) = partitions(writer);
    let found = count(db, &first);
    assert_eq!(found, count(db, &second), "kill {kill}, writer {writer}");
    let entries: Vec<_> = (0..=found + 1)
        .map(|number| format!("entry {number}"))
        .collect();
    let keys: Vec<_> = entries.iter().map(|sk| Key::new(&second, sk)).collect();
    let entries = db.get_many(&keys).unwrap();
    for (number, entry) in (0..).zip(entries) {
        let expected = (1..=found).contains(&number).then_some(number);
        assert_eq!(entry.and_then(Item::into_data), expected, "kill {kill}");
    }
    let version = db.get_lock(Key::new(&first, "lock")).unwrap().version();
    if let Some((number, acknowledged)) = acknowledged {
        let possible = *number..=number + 1;
        assert!(
            possible.contains(&found),
            "kill {kill}: found {found} commits, expected {possible:?}"
        );
        assert!(
            version >= *acknowledged,
            "kill {kill}: {version} after {acknowledged}"
        );
        assert!(
            *acknowledged > latest,
            "kill {kill}: {acknowledged} after {latest} of an earlier run"
        );
    }
}
