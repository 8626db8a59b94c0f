//! Crash recovery: a process with eight writers is killed, again and again.
//!
//! `ATOMIC_DB_KILLS` sets the number of kills, which is 20 by default.

use crate::common::HANG_LIMIT;
use atomic_db::testing::{run_concurrently, with_timeout};
use atomic_db::{AtomicDb, Batch, Item, Key, RedbDb, Version};
use std::collections::BTreeMap;
use std::env;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

const WRITERS: usize = 8;

/// The environment variable that gives the child process its file.
const FILE: &str = "ATOMIC_DB_CRASH_FILE";

fn open(path: impl AsRef<Path>) -> RedbDb<u64> {
    RedbDb::open(path).unwrap()
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
#[ignore = "the child process of the test below"]
fn child_process_for_kill_test() {
    let Ok(path) = env::var(FILE) else {
        return;
    };
    let db = open(path);
    run_concurrently(WRITERS, |writer| {
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

fn run_and_kill(path: &Path, after: Duration) -> Acknowledged {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "redb::crash::child_process_for_kill_test",
            "--ignored",
            "--nocapture",
        ])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Acknowledged::new();
    let mut read = |line: &str| {
        let mut words = line.strip_prefix("acknowledged ")?.split(' ');
        let writer = words.next()?.parse().ok()?;
        let number = words.next()?.parse().ok()?;
        acknowledged.insert(writer, (number, words.next()?.parse().ok()?))
    };
    // The child is killed at a random time after its first acknowledgement.
    for line in lines.by_ref() {
        let line = line.unwrap();
        read(&line);
        if line.starts_with("acknowledged") {
            break;
        }
    }
    let killer = thread::spawn(move || {
        thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    // A truncated last line has no complete version, and is ignored.
    for line in lines.map_while(Result::ok) {
        read(&line);
    }
    killer.join().unwrap();
    acknowledged
}

#[test]
fn a_killed_process_loses_no_acknowledged_commit_and_leaves_no_partial_one() {
    let kills = env::var("ATOMIC_DB_KILLS").ok();
    let kills: u64 = kills.map_or(20, |kills| kills.parse().expect("a number of kills"));
    let commits = with_timeout(HANG_LIMIT, move |progress| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.redb");
        let mut commits = 0;
        let mut latest = Version::from_u128(0);
        for kill in 0..kills {
            let micros = RandomState::new().build_hasher().finish() % 60_000;
            let acknowledged = run_and_kill(&path, Duration::from_micros(micros));
            let db = open(&path);
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
