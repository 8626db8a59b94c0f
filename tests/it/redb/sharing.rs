//! Files that several handles or processes share, and waiting for files that are not shared.

use super::child::{KilledOnDrop, child};
use super::remote::RemoteDb;
use crate::common::{HANG_LIMIT, data, sks};
use crate::histories::{count, on_threads, seeds};
use atomic_db::testing::{Versions, Workload, run_concurrently, suite, with_timeout};
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Durability, Error, Item, Key, Lock, ManualClock, Page, Query,
    RedbDb, RedbDbBuilder, Result, Version,
};
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::env;
use std::error::Error as _;
use std::fs;
use std::ops::Bound;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn shared() -> RedbDbBuilder<u64> {
    RedbDb::builder().shared()
}

fn exclusive() -> RedbDbBuilder<u64> {
    RedbDb::builder()
}

fn item(sk: &str) -> Item<u64> {
    Item::new("pk", sk, 7)
}

fn assert_unavailable<R>(result: Result<R>, expected: &str) {
    match result {
        Err(error @ Error::Unavailable(_)) => {
            let source = error.source().unwrap().to_string();
            assert!(source.contains(expected), "{source}");
            assert!(error.is_retryable());
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("the call succeeded"),
    }
}

/// Several handles to one file, which serve the calls in turn.
struct InTurn {
    handles: Vec<RedbDb<String>>,
    next: AtomicUsize,
    _directory: TempDir,
}

impl InTurn {
    fn new(clock: ManualClock, durability: Durability, handles: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.redb");
        let open = |_| {
            let builder = RedbDb::builder().shared().durability(durability);
            builder.clock(clock.clone()).open(&path).unwrap()
        };
        InTurn {
            handles: (0..handles).map(open).collect(),
            next: AtomicUsize::new(0),
            _directory: directory,
        }
    }

    fn db(&self) -> &RedbDb<String> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        &self.handles[next % self.handles.len()]
    }
}

/// The provided `stream` calls `page`, so that handles serve its pages in turn, too.
impl AtomicDb for InTurn {
    type Data = String;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<String>>> {
        self.db().get(key)
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<String>>> {
        self.db().get_fresh(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<String>>>> {
        self.db().get_many(keys)
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<String>>>> {
        self.db().get_many_fresh(keys)
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        self.db().get_lock(key)
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        self.db().get_locks(keys)
    }

    fn set(&self, items: &[Item<String>]) -> Result<()> {
        self.db().set(items)
    }

    fn commit(&self, batch: &Batch<String>) -> Result<Version> {
        self.db().commit(batch)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.db().delete(keys)
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<String>> {
        self.db().page(query, after)
    }

    fn set_atomic(&self, items: &[Item<String>], locks: &[Lock]) -> Result<Version> {
        self.db().set_atomic(items, locks)
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<String>>> {
        self.db().query(query)
    }
}

suite! { two_handles_in_turn: |clock| InTurn::new(clock, Durability::Immediate, 2) }

#[cfg(not(mutants))]
suite! { two_processes_in_turn: |clock| RemoteDb::new(2, clock) }

/// Records histories of a database that several handles or processes serve in turn.
fn check_histories(
    default: usize,
    make: impl Fn(ManualClock) -> Arc<dyn AtomicDb<Data = String> + Send + Sync>,
) {
    let count = count(default);
    for seed in seeds().take(count) {
        let workload = Workload::new().seed(seed);
        let clock = ManualClock::new(1_700_000_000);
        let db = make(clock.clone());
        let history = workload.run(&Arc::new(db), Some(&clock), on_threads);
        if let Err(anomaly) = history.check_with(Versions::AtCommit) {
            panic!("{workload:?}: {anomaly}");
        }
    }
}

#[test]
fn histories_of_three_handles_are_strictly_serializable() {
    check_histories(2, |clock| {
        Arc::new(InTurn::new(clock, Durability::QuickRepair, 3))
    });
}

#[cfg(not(mutants))]
#[test]
fn histories_of_three_processes_are_strictly_serializable() {
    check_histories(2, |clock| Arc::new(RemoteDb::new(3, clock)));
}

#[test]
fn an_exclusive_and_a_shared_handle_exclude_each_other_and_the_error_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let wait = Duration::from_millis(20);
    {
        let first = shared().open(&path).unwrap();
        let second = shared().open(&path).unwrap();
        assert_unavailable(exclusive().open(&path), "open it with `shared` everywhere");
        assert_unavailable(exclusive().read_only(true).open(&path), "db.redb");
        second.set(&[item("a")]).unwrap();
        assert_eq!(data(&first, Key::new("pk", "a")), Some(7));
    }
    {
        let _first = exclusive().open(&path).unwrap();
        let with_shared = "open it with `shared` there too";
        assert_unavailable(shared().wait(wait).open(&path), with_shared);
        let reader = shared().wait(wait).read_only(true);
        assert_unavailable(reader.open(&path), with_shared);
    }
    let _reader = exclusive().read_only(true).open(&path).unwrap();
    assert_unavailable(shared().wait(wait).open(&path), "db.redb");
}

#[test]
fn deferred_durability_is_refused_for_a_shared_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let builder = shared().durability(Durability::Deferred);
    let refused = builder.open(&path).unwrap_err();
    assert!(matches!(refused, Error::InvalidInput(message) if message.contains("Deferred")));
    assert!(!path.exists());
}

#[test]
fn a_storage_without_locks_cannot_be_shared() {
    let refused = shared().in_memory().unwrap_err();
    assert!(matches!(refused, Error::InvalidInput(message) if message.contains("be shared")));
}

#[test]
fn a_shared_read_only_handle_follows_the_commits_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let writer = shared().open(&path).unwrap();
    let reader = shared().read_only(true).open(&path).unwrap();
    for number in 0..20 {
        writer.set(&[Item::new("pk", "a", number)]).unwrap();
        assert_eq!(data(&reader, Key::new("pk", "a")), Some(number));
    }
    let refused = reader.set(&[item("b")]).unwrap_err();
    assert!(matches!(refused, Error::InvalidInput(message) if message.contains("read-only")));
}

#[test]
fn of_concurrent_handles_that_create_a_shared_file_all_succeed() {
    for empty_file_exists in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.redb");
        if empty_file_exists {
            fs::write(&path, "").unwrap();
        }
        run_concurrently(8, |thread| {
            let db = shared().open(&path).unwrap();
            db.set(&[item(&thread.to_string())]).unwrap();
        });
        let found = exclusive().open(&path).unwrap().query(&Query::new("pk"));
        assert_eq!(
            sks(&found.unwrap()),
            ["0", "1", "2", "3", "4", "5", "6", "7"]
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

#[test]
fn versions_grow_across_handles_even_if_their_clocks_differ() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let clocks = [1_000_000, 3_000_000, 2_000_000, 3_000_000].map(ManualClock::new);
    let handles = clocks
        .clone()
        .map(|clock| shared().clock(clock).open(&path).unwrap());
    let mut latest = Version::from_u128(0);
    let mut assert_greater = |version: Version| {
        assert!(version > latest, "{version} after {latest}");
        latest = version;
    };
    for round in 0..40 {
        let db = &handles[round % handles.len()];
        // Locks expire in between, by some of the clocks, and are deleted.
        let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
        assert_greater(db.set_atomic(&[item("a")], &[lock]).unwrap());
        db.delete(&[Key::new("pk", "lock")]).unwrap();
        assert_greater(db.get_lock(Key::new("pk", "lock")).unwrap().version());
        db.delete(&[Key::new("pk", "lock")]).unwrap();
    }
}

#[test]
fn operations_on_the_whole_file_work_while_it_is_shared() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let (first, second) = (shared().open(&path).unwrap(), shared().open(&path).unwrap());
    let items: Vec<_> = (0..2_000).map(|number| item(&number.to_string())).collect();
    first.set(&items).unwrap();
    second
        .delete(&items.iter().map(Item::key).collect::<Vec<_>>())
        .unwrap();
    first.set(&[item("a").expires_at(1)]).unwrap();
    assert_eq!(second.purge_expired().unwrap(), 1);
    assert!(first.compact().unwrap());
    second.set(&[item("b")]).unwrap();
    assert!(first.check_integrity().unwrap());
    first.flush().unwrap();
    assert!(second.check_integrity().unwrap());
    assert_eq!(sks(&first.query(&Query::new("pk")).unwrap()), ["b"]);
}

/// Holds a lock of redb's on the file, as a process does that is stopped in the middle of a call.
struct Stopped(FileBackend);

/// The bytes of the header, which are locked to begin a transaction and to commit.
const HEADER: (Bound<u64>, Bound<u64>) = (Bound::Included(0), Bound::Excluded(320));

/// The byte that is locked for a write transaction.
const WRITER: (Bound<u64>, Bound<u64>) = (Bound::Included(1 << 62), Bound::Included(1 << 62));

impl Stopped {
    fn holding(range: (Bound<u64>, Bound<u64>), path: &Path) -> Self {
        let file = fs::OpenOptions::new().read(true).write(true).open(path);
        let backend = FileBackend::new(file.unwrap()).unwrap();
        assert!(backend.try_lock_range(range.0, range.1).unwrap());
        Stopped(backend)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.close().unwrap();
    }
}

#[test]
fn a_call_beside_a_stopped_process_is_unavailable_after_the_wait_and_succeeds_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let wait = Duration::from_millis(300);
    let open = || shared().wait(wait).open(&path);
    let db = open().unwrap();
    db.set(&[item("a")]).unwrap();
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    let problem = "another process has been using the file";
    for range in [WRITER, HEADER] {
        let stopped = Stopped::holding(range, &path);
        // All threads together wait no longer than one of them.
        let assert_waited = move |start: Instant| {
            let waited = start.elapsed();
            assert!((wait..4 * wait).contains(&waited), "{waited:?}");
        };
        with_timeout(HANG_LIMIT, {
            let (db, lock) = (db.clone(), lock.clone());
            move |_| {
                let start = Instant::now();
                run_concurrently(8, |_| {
                    if range == WRITER {
                        assert_eq!(data(&db, Key::new("pk", "a")), Some(7));
                    } else {
                        assert_unavailable(db.get(Key::new("pk", "a")), problem);
                    }
                });
                if range == HEADER {
                    assert_waited(start);
                }
                if range == WRITER {
                    // A lock is read when the writer has finished, or after ten milliseconds.
                    let start = Instant::now();
                    assert_eq!(db.get_lock(lock.key()).unwrap(), lock);
                    let waited = start.elapsed();
                    assert!(
                        (Duration::from_millis(10)..wait).contains(&waited),
                        "{waited:?}"
                    );
                }
                let start = Instant::now();
                run_concurrently(8, |_| {
                    assert_unavailable(db.set(&[item("b")]), problem);
                });
                // A second group may form while the first one fails.
                assert!(start.elapsed() < 5 * wait);
                let start = Instant::now();
                assert_unavailable(db.set_atomic(&[item("b")], &[lock]), problem);
                assert_waited(start);
            }
        });
        let start = Instant::now();
        assert_unavailable(open(), problem);
        assert_waited(start);
        drop(stopped);
        assert_eq!(data(&db, Key::new("pk", "a")), Some(7));
        assert_eq!(data(&db, Key::new("pk", "b")), None);
    }
    db.set_atomic(&[item("b")], &[lock]).unwrap();
    assert!(db.check_integrity().unwrap());
    drop(db);
    assert_eq!(exclusive().open(&path).unwrap().len().unwrap(), 2);
}

#[test]
fn opening_waits_until_another_handle_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let first = exclusive().open(&path).unwrap();
    let wait = Duration::from_millis(60);
    let start = Instant::now();
    assert_unavailable(exclusive().wait(wait).open(&path), "already open");
    assert!(start.elapsed() >= wait);
    let mut first = first;
    for second in [exclusive(), exclusive().read_only(true), shared()] {
        first.set(&[item("a")]).unwrap();
        let second = second.wait(Duration::from_secs(3_600));
        // The first handle is closed while the second one waits.
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| second.open(&path));
            std::thread::sleep(Duration::from_millis(20));
            drop(first);
            assert_eq!(opened.join().unwrap().unwrap().len().unwrap(), 1);
        });
        first = exclusive().open(&path).unwrap();
    }
}

/// The environment variables that give a child process its file and how to open it.
const FILE: &str = "ATOMIC_DB_CONTENTION_FILE";
const MODE: &str = "ATOMIC_DB_CONTENTION_MODE";
const INCREMENTS: &str = "ATOMIC_DB_CONTENTION_INCREMENTS";

/// Opens the file and increments a counter.
#[test]
#[ignore = "a child process of the tests below"]
fn child_process_that_increments() {
    let Ok(path) = env::var(FILE) else {
        return;
    };
    let wait = Duration::from_secs(60);
    let builder = match env::var(MODE).unwrap().as_str() {
        "shared" => shared(),
        _ => exclusive(),
    };
    let db = builder.wait(wait).open(path).unwrap();
    let increments: usize = env::var(INCREMENTS).unwrap().parse().unwrap();
    let increment = || {
        db.update(("pk", "counter"), ("pk", "lock"), |old| {
            Some(old.unwrap_or(&0) + 1)
        })
    };
    for _ in 0..increments {
        // A transaction gives up after ten seconds, which is not long on a busy machine.
        while let Err(error) = increment() {
            assert!(error.is_retryable(), "{error:?}");
        }
    }
}

/// Starts this many processes at once, each of which increments a counter.
fn increment_in_processes(processes: u64, increments: u64, mode: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let start = |_| {
        let process = child("redb::sharing::child_process_that_increments")
            .env(FILE, &path)
            .env(MODE, mode)
            .env(INCREMENTS, increments.to_string())
            .stdout(Stdio::null())
            .spawn();
        KilledOnDrop(process.unwrap())
    };
    let processes_started: Vec<_> = (0..processes).map(start).collect();
    for mut process in processes_started {
        assert!(process.0.wait().unwrap().success());
    }
    let db = exclusive().open(&path).unwrap();
    let total = data(&db, Key::new("pk", "counter"));
    assert_eq!(total, Some(processes * increments));
}

#[test]
fn sixty_processes_that_wait_for_each_other_all_succeed() {
    increment_in_processes(60, 1, "wait");
}

#[test]
fn sixty_processes_that_share_the_file_all_succeed() {
    increment_in_processes(60, 1, "shared");
}

#[test]
fn increments_of_eight_processes_are_all_counted() {
    increment_in_processes(8, 200, "shared");
}
