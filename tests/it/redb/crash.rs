//! A process with eight writers that is killed, over and over.
//!
//! `ATOMIC_DB_KILLS=200` kills it that often instead of a few times.

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

/// Tells the child which file is its own.
const FILE: &str = "ATOMIC_DB_CRASH_FILE";

fn open(path: impl AsRef<Path>) -> RedbDb<u64> {
    RedbDb::open(path).unwrap()
}

fn count(db: &RedbDb<u64>, pk: &str) -> u64 {
    let item = db.get(Key::new(pk, "count")).unwrap();
    item.and_then(Item::into_data).unwrap_or(0)
}

/// Commits without end: each writer counts in two partitions at once and leaves an entry, under a lock
/// of its own. It says so on a pipe when a commit has returned.
#[test]
#[ignore = "it is what the test below kills"]
fn the_child_that_is_killed() {
    let Ok(path) = env::var(FILE) else {
        return;
    };
    let db = open(path);
    let writers = (0..WRITERS).map(|writer| {
        let db = db.clone();
        thread::spawn(move || {
            let (one, other) = (format!("one {writer}"), format!("other {writer}"));
            let mut lock = db.get_lock(Key::new(&one, "lock")).unwrap();
            for number in count(&db, &one) + 1.. {
                let entry = format!("entry {number}");
                let batch = Batch::new()
                    .lock(lock.clone())
                    .set(Item::new(&one, "count", number))
                    .set(Item::new(&other, "count", number))
                    .create(Item::new(&other, entry, number));
                let version = db.commit(&batch).unwrap();
                lock = lock.with_version(version);
                // One write, so that lines of several threads do not mix.
                let line = format!("\nacknowledged {writer} {number} {version}\n");
                io::stdout().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.join().unwrap();
    }
}

/// The last commit of each writer that it was told of, and its version.
type Acknowledged = BTreeMap<usize, (u64, Version)>;

fn run_and_kill(path: &Path, after: Duration) -> Acknowledged {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "redb::crash::the_child_that_is_killed",
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
    // It has begun when it has acknowledged something; from there on the moment is drawn.
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
    // The last line may have been cut off: then it has no whole version, and does not count.
    for line in lines.map_while(Result::ok) {
        read(&line);
    }
    killer.join().unwrap();
    acknowledged
}

#[test]
fn a_process_that_is_killed_loses_no_acknowledged_commit_and_leaves_none_in_part() {
    let kills = env::var("ATOMIC_DB_KILLS").ok();
    let kills: u64 = kills.map_or(20, |kills| kills.parse().expect("a number of kills"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let mut commits = 0;
    let mut latest = Version::from_u128(0);
    for kill in 0..kills {
        let random = RandomState::new().build_hasher().finish() % 60_000;
        let acknowledged = run_and_kill(&path, Duration::from_micros(random));
        let db = open(&path);
        assert!(db.check_integrity().is_ok());
        for writer in 0..WRITERS {
            let (one, other) = (format!("one {writer}"), format!("other {writer}"));
            let there = count(&db, &one);
            assert_eq!(there, count(&db, &other), "kill {kill}, writer {writer}");
            let entries: Vec<_> = (0..=there + 1)
                .map(|number| format!("entry {number}"))
                .collect();
            let keys: Vec<_> = entries.iter().map(|sk| Key::new(&other, sk)).collect();
            let entries = db.get_many(&keys).unwrap();
            for (number, entry) in (0..).zip(entries) {
                let expected = (1..=there).contains(&number).then_some(number);
                assert_eq!(entry.and_then(Item::into_data), expected, "kill {kill}");
            }
            let version = db.get_lock(Key::new(&one, "lock")).unwrap().version();
            if let Some((told, of)) = acknowledged.get(&writer) {
                let possible = *told..=told + 1;
                assert!(
                    possible.contains(&there),
                    "kill {kill}: {there}, not {possible:?}"
                );
                assert!(version >= *of, "kill {kill}: {version} after {of}");
                assert!(
                    *of > latest,
                    "kill {kill}: {of} after {latest} of an earlier run"
                );
            }
        }
        let written: u64 = (0..WRITERS)
            .map(|writer| count(&db, &format!("one {writer}")))
            .sum();
        assert!(written > commits, "kill {kill}: it did not go on");
        commits = written;
        let lock = db.get_lock(Key::new("parent", "lock")).unwrap();
        latest = db.commit(&Batch::new().lock(lock)).unwrap();
    }
    println!("{kills} kills, {commits} commits");
}
