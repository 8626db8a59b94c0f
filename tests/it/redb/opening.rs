//! Opening and closing a file, files that cannot be opened, and damaged files.

use super::storage::Disk;
use crate::common::{assert_causes_are_not_repeated, data, sks};
use atomic_db::testing::run_concurrently;
use atomic_db::{
    AtomicDb, Batch, Error, Item, Key, Lock, ManualClock, Query, RedbDb, Result, Version,
};
use redb::{Database, TableDefinition};
use std::error::Error as _;
use std::fs;
use std::path::Path;

fn open(path: &Path) -> Result<RedbDb<String>> {
    RedbDb::open(path)
}

fn item(sk: &str) -> Item<String> {
    Item::new("pk", sk, format!("data of {sk}"))
}

/// Creates a file with ten thousand bytes of data, and closes it.
fn write_file(path: &Path) {
    let db = open(path).unwrap();
    let items = (0..100).map(|number| Item::new("pk", number.to_string(), "x".repeat(100)));
    db.set(&items.collect::<Vec<_>>()).unwrap();
}

fn assert_invalid<T>(result: Result<T>, expected: &str) {
    match result {
        Err(Error::InvalidInput(message)) => assert!(message.contains(expected), "{message}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("the call succeeded"),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(with_causes).unwrap_or_default();
    format!("{error}: {cause}")
}

fn source(error: &Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

#[test]
fn items_and_locks_are_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let lock = {
        let db = open(&path).unwrap();
        db.set(&[
            item("a"),
            item("b").expires_at(9_000_000_000),
            Item::without_data("pk", "c"),
        ])
        .unwrap();
        db.get_lock(Key::new("pk", "lock")).unwrap()
    };
    let db = open(&path).unwrap();
    let found = db.query(&Query::new("pk")).unwrap();
    let expected = [
        item("a"),
        item("b").expires_at(9_000_000_000),
        Item::without_data("pk", "c"),
    ];
    assert_eq!(found, expected);
    assert_eq!(db.get_lock(Key::new("pk", "lock")).unwrap(), lock);
    assert_eq!(db.len().unwrap(), 3);
    db.set_atomic(&[item("d")], &[lock]).unwrap();
}

#[test]
fn the_file_stays_open_until_the_last_clone_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let db = open(&path).unwrap();
    let clone = db.clone();
    drop(db);
    clone.set(&[item("a")]).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(error.is_retryable());
    assert!(source(&error).contains("already open"), "{error:?}");
    drop(clone);
    assert_eq!(
        data(&open(&path).unwrap(), Key::new("pk", "a")).unwrap(),
        "data of a"
    );
}

#[test]
fn a_directory_a_device_and_a_missing_directory_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert_invalid(open(directory.path()), "a directory");
    assert_invalid(open(Path::new("/dev/null")), "device");
    let error = open(&directory.path().join("none").join("db.redb")).unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error:?}");
    assert!(source(&error).contains("none"), "{error:?}");
    assert_causes_are_not_repeated(&error);
    let cause = error.source().and_then(|cause| cause.source());
    let cause = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>());
    assert_eq!(
        cause.map(std::io::Error::kind),
        Some(std::io::ErrorKind::NotFound)
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_missing_file_is_not_created_when_it_is_opened_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let options = || RedbDb::<String>::builder().read_only(true);
    for options in [options(), options().shared()] {
        let error = options.open(&path).unwrap_err();
        assert!(matches!(error, Error::Backend(_)), "{error:?}");
        assert!(!path.exists());
    }
}

#[test]
fn names_of_every_possible_length_can_be_created() {
    let directory = tempfile::tempdir().unwrap();
    for length in [1, 99, 100, 101, 223, 224, 225, 254, 255] {
        // Characters of two bytes, which must not be cut in half.
        for name in ["x".repeat(length), "é".repeat(length / 2)] {
            let path = directory.path().join(name + &"y".repeat(length % 2));
            if path.file_name().unwrap().len() > 255 {
                continue;
            }
            drop(open(&path).unwrap());
            assert!(path.is_file());
            fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let error = open(&directory.path().join("x".repeat(256))).unwrap_err();
    assert!(
        source(&error).contains("cannot be opened for writing"),
        "{error:?}"
    );
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn a_creation_removes_the_temporary_files_of_killed_processes_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let id = "01ARZ3NDEKTSV4RRFFQ69G5FA";
    let in_use = format!("db.redb.{id}1.new");
    let in_use_db = open(&directory.path().join(&in_use)).unwrap();
    let kept = [
        "db.redb.new".to_owned(),
        format!("db.redb.{id}.new"),
        format!("db.redb.{id}8.old"),
        format!("other.redb.{id}V.new"),
    ];
    for name in &kept {
        fs::write(directory.path().join(name), "").unwrap();
    }
    for leftover in ["", "not a database"] {
        fs::write(
            directory.path().join(format!("db.redb.{id}V.new")),
            leftover,
        )
        .unwrap();
        fs::write(
            directory.path().join(format!("db.redb.{id}W.new")),
            leftover,
        )
        .unwrap();
        drop(open(&path).unwrap());
        let mut expected = kept.to_vec();
        expected.extend(["db.redb".to_owned(), in_use.clone()]);
        expected.sort();
        assert_eq!(names(directory.path()), expected);
        fs::remove_file(&path).unwrap();
    }
    in_use_db.set(&[item("a")]).unwrap();
}

#[cfg(unix)]
#[test]
fn the_temporary_name_of_a_complete_file_is_removed_when_it_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    write_file(&path);
    let temporary = directory
        .path()
        .join("db.redb.01ARZ3NDEKTSV4RRFFQ69G5FAV.new");
    let copy = directory.path().join("a link of the user");
    fs::hard_link(&path, &temporary).unwrap();
    fs::hard_link(&path, &copy).unwrap();
    assert_eq!(open(&path).unwrap().len().unwrap(), 100);
    assert_eq!(names(directory.path()), ["a link of the user", "db.redb"]);
}

/// The environment variable that gives a child process its file.
#[cfg(not(mutants))]
const FILE: &str = "ATOMIC_DB_CREATED_FILE";

#[cfg(not(mutants))]
#[test]
#[ignore = "the child process of the test below"]
fn child_process_that_creates_a_file() {
    if let Ok(path) = std::env::var(FILE) {
        println!("\nbegin");
        open(Path::new(&path)).unwrap();
    }
}

#[cfg(not(mutants))]
#[test]
fn a_process_that_is_killed_while_it_creates_a_file_leaves_nothing_that_prevents_its_creation() {
    use super::child::{KilledOnDrop, child};
    use std::io::{BufRead, BufReader};
    let directory = tempfile::tempdir().unwrap();
    for kill in 0..40 {
        let path = directory.path().join(format!("{}.redb", kill % 4));
        let process = child("redb::opening::child_process_that_creates_a_file")
            .env(FILE, &path)
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut process = KilledOnDrop(process.unwrap());
        let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        lines
            .find(|line| line.as_ref().is_ok_and(|line| line == "begin"))
            .unwrap()
            .unwrap();
        // A creation takes about a millisecond.
        std::thread::sleep(std::time::Duration::from_micros(40 * kill));
        drop(process);
        if kill % 2 == 0 {
            open(&path).unwrap().set(&[item("a")]).unwrap();
            fs::remove_file(&path).unwrap();
        }
    }
    for number in 0..4 {
        let path = directory.path().join(format!("{number}.redb"));
        open(&path).unwrap().set(&[item("a")]).unwrap();
        // What was left of the last creation is removed by the next one.
        fs::remove_file(&path).unwrap();
        open(&path).unwrap();
    }
    assert_eq!(
        names(directory.path()),
        ["0.redb", "1.redb", "2.redb", "3.redb"]
    );
}

#[test]
fn creating_a_file_leaves_no_temporary_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    drop(open(&path).unwrap());
    let files: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].as_ref().unwrap().path(), path);
}

#[test]
fn of_concurrent_callers_that_create_a_file_one_succeeds_and_the_others_get_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let opened = run_concurrently(8, |_| open(&path));
    let (succeeded, failed): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    assert_eq!(succeeded.len(), 1);
    let is_unavailable = |result: &Result<_>| matches!(result, Err(Error::Unavailable(_)));
    assert!(failed.iter().all(is_unavailable), "{failed:?}");
}

#[test]
fn a_file_that_is_not_redb_is_refused_and_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("letter.txt");
    for text in [
        "x".to_owned(),
        "Dear reader".to_owned(),
        "Dear reader, ".repeat(10_000),
    ] {
        fs::write(&path, &text).unwrap();
        assert_invalid(open(&path), "not a redb file");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn an_empty_file_becomes_a_database() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    fs::write(&path, "").unwrap();
    assert!(open(&path).unwrap().is_empty().unwrap());
}

#[test]
fn a_redb_file_of_another_program_is_refused() {
    const OTHER: TableDefinition<'_, u32, u32> = TableDefinition::new("numbers");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.redb");
    let write = Database::create(&path).unwrap().begin_write().unwrap();
    write.open_table(OTHER).unwrap();
    write.commit().unwrap();
    assert_invalid(open(&path), "numbers");
}

#[test]
fn a_file_of_another_program_with_only_multimap_tables_is_refused() {
    const OTHER: redb::MultimapTableDefinition<'_, u32, u32> =
        redb::MultimapTableDefinition::new("pairs");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let write = Database::create(&path).unwrap().begin_write().unwrap();
    write.open_multimap_table(OTHER).unwrap();
    write.commit().unwrap();
    assert_invalid(open(&path), "pairs");
    assert_invalid(
        RedbDb::<u32>::builder().read_only(true).open(&path),
        "pairs",
    );
}

#[test]
fn the_error_for_a_file_of_the_wrong_length_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    write_file(&path);
    let image = fs::read(&path).unwrap();
    let read_only = || RedbDb::<String>::builder().read_only(true);
    for cut in [
        100,
        400,
        4_096,
        image.len() / 2,
        image.len() - 4_096,
        image.len() - 1,
    ] {
        fs::write(&path, &image[..cut]).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, Error::Backend(_)), "{error:?}");
        let problem = source(&error);
        assert!(problem.contains("truncated"), "cut at {cut}: {problem}");
        fs::write(&path, &image[..cut]).unwrap();
        for (options, shared) in [(read_only(), false), (read_only().shared(), true)] {
            match options.open(&path) {
                // The missing part is found when it is read.
                Ok(_) => assert!(shared && cut > 4_096, "cut at {cut}"),
                Err(error @ Error::Backend(_)) => {
                    let problem = with_causes(&error);
                    assert!(problem.contains("truncated"), "cut at {cut}: {problem}");
                    assert!(problem.contains("db.redb"), "cut at {cut}: {problem}");
                    assert_causes_are_not_repeated(&error);
                }
                Err(Error::InvalidInput(problem)) => {
                    assert!(problem.contains("its length was changed"), "{problem}");
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    for grown in [1, 5_000] {
        let mut image = image.clone();
        image.resize(image.len() + grown, 7);
        fs::write(&path, &image).unwrap();
        let error = open(&path).unwrap_err();
        assert!(
            source(&error).contains("length"),
            "grown by {grown}: {error:?}"
        );
        assert_invalid(read_only().open(&path), "its length was changed");
    }
}

#[test]
fn a_newer_format_is_refused() {
    const META: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("atomic_db/meta");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    write_file(&path);
    let write = Database::create(&path).unwrap().begin_write().unwrap();
    {
        let mut meta = write.open_table(META).unwrap();
        meta.insert(&b"format"[..], &b"2"[..]).unwrap();
    }
    write.commit().unwrap();
    assert_invalid(open(&path), "format 2");
    assert_invalid(
        RedbDb::<u32>::builder().read_only(true).open(&path),
        "format 2",
    );
}

#[test]
fn a_table_of_another_type_is_refused() {
    const META: TableDefinition<'_, u32, u32> = TableDefinition::new("atomic_db/meta");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let write = Database::create(&path).unwrap().begin_write().unwrap();
    write.open_table(META).unwrap();
    write.commit().unwrap();
    assert_invalid(open(&path), "not an atomic-db database");
}

#[test]
fn read_only_handles_share_the_file_and_refuse_every_write() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let read_only = || RedbDb::<String>::builder().read_only(true).open(&path);
    let missing = read_only().unwrap_err();
    assert!(matches!(missing, Error::Backend(_)), "{missing:?}");
    assert!(!path.exists());

    let lock = {
        let db = open(&path).unwrap();
        db.set(&[item("a")]).unwrap();
        db.get_lock(Key::new("pk", "lock")).unwrap()
    };
    let before = fs::read(&path).unwrap();
    let (first, second) = (read_only().unwrap(), read_only().unwrap());
    for db in [&first, &second] {
        assert_eq!(sks(&db.query(&Query::new("pk")).unwrap()), ["a"]);
        assert_eq!(db.get_lock(Key::new("pk", "lock")).unwrap(), lock);
        assert!(db.check_integrity().unwrap());
    }
    let message = "read-only";
    assert_invalid(first.get_lock(Key::new("pk", "other lock")), message);
    assert_invalid(first.set(&[item("b")]), message);
    assert_invalid(first.delete(&[Key::new("pk", "a")]), message);
    assert_invalid(first.commit(&Batch::new().lock(lock)), message);
    assert_invalid(first.purge_expired(), message);
    assert_invalid(first.compact(), message);
    assert_invalid(first.flush(), message);
    drop((first, second));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn get_lock_on_a_read_only_handle_is_refused_if_the_lock_has_to_be_refreshed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let clock = ManualClock::new(1_000_000);
    let open = |read_only| {
        let builder = RedbDb::<String>::builder().clock(clock.clone());
        builder.read_only(read_only).open(&path)
    };
    let key = Key::new("pk", "lock");
    let lock = open(false).unwrap().get_lock(key).unwrap();
    let db = open(true).unwrap();
    clock.set(lock.ttl() - Lock::REFRESH_WINDOW - 1);
    assert_eq!(db.get_lock(key).unwrap(), lock);
    // In its last hour, while it expires, and after that.
    for now in [
        lock.ttl() - Lock::REFRESH_WINDOW + 1,
        lock.ttl(),
        lock.ttl() + 1,
    ] {
        clock.set(now);
        assert_invalid(db.get_lock(key), "read-only");
        assert_invalid(db.get_locks(&[key]), "read-only");
    }
    drop(db);
    clock.set(lock.ttl());
    let refreshed = open(false).unwrap().get_lock(key).unwrap();
    assert_eq!(refreshed.version(), lock.version());
    assert_eq!(open(true).unwrap().get_lock(key).unwrap(), refreshed);
}

#[cfg(unix)]
#[test]
fn a_file_without_write_permission_can_only_be_opened_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    write_file(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    // Root can write to it in spite of the permissions.
    if fs::OpenOptions::new().append(true).open(&path).is_err() {
        let error = open(&path).unwrap_err();
        let expected = "db.redb\" cannot be opened for writing";
        assert!(source(&error).contains(expected), "{error:?}");
        RedbDb::<String>::builder()
            .read_only(true)
            .open(&path)
            .unwrap();
    }
}

/// A file is truncated, or one of its bytes is changed. With the check on open it is refused or read
/// correctly; without the check no call panics.
#[test]
fn a_truncated_or_corrupted_file_is_an_error_and_not_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    write_file(&path);
    let intact = fs::read(&path).unwrap();
    let is_refused = |image: &[u8]| {
        let db = RedbDb::<String>::builder().check_on_open(true);
        let disk = Disk::with_image(image.to_vec());
        match db.open_with(disk) {
            Err(Error::InvalidInput(_) | Error::Backend(_)) => true,
            Err(other) => panic!("{other:?}"),
            Ok(db) => {
                let found = db.query(&Query::new("pk"));
                assert!(
                    found
                        .unwrap()
                        .iter()
                        .all(|item| item.data().unwrap().len() == 100)
                );
                false
            }
        }
    };
    assert!(!is_refused(&intact));
    let truncated = (1..intact.len())
        .step_by(997)
        .filter(|length| is_refused(&intact[..*length]))
        .count();
    assert!(truncated > 10, "only {truncated} were refused");
    let mut refused = 0;
    for offset in (0..intact.len()).step_by(211) {
        let mut image = intact.clone();
        image[offset] ^= 0x41;
        refused += usize::from(is_refused(&image));
        // Without the check the damage may go unnoticed.
        if let Ok(db) = RedbDb::<String>::builder().open_with(Disk::with_image(image)) {
            let _ = (db.query(&Query::new("pk")), db.set(&[item("a")]), db.len());
            let _ = (db.get_lock(Key::new("pk", "lock")), db.check_integrity());
        }
    }
    assert!(refused > 10, "only {refused} were refused");
}

#[test]
fn versions_increase_across_reopening_even_if_the_clock_goes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let clock = ManualClock::new(2_000_000_000);
    let mut versions: Vec<Version> = Vec::new();
    for run in 0..6 {
        // Forward and back, further each time, within a lock's life.
        let forward = run % 2 == 1;
        clock.set(if forward {
            2_000_000_000 + 1_000 * run
        } else {
            2_000_000_000 - 1_000 * run
        });
        let db: RedbDb<String> = RedbDb::builder().clock(clock.clone()).open(&path).unwrap();
        let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
        versions.push(db.set_atomic(&[item("a")], &[lock]).unwrap());
        // The last version of a run is that of a commit or that of a recreated lock.
        if !forward {
            db.delete(&[Key::new("pk", "lock")]).unwrap();
            versions.push(db.get_lock(Key::new("pk", "lock")).unwrap().version());
        }
    }
    assert!(
        versions.is_sorted_by(|version, next| version < next),
        "{versions:?}"
    );
}
