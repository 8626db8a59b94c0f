//! Opening and closing, what cannot be opened, and what a file alone can do.

use super::storage::Disk;
use super::temporary::Temporary;
use crate::common::{data, sks};
use atomic_db::{
    AtomicDb, Batch, Clock, Durability, Error, Item, Key, Lock, ManualClock, Query, RedbDb, Result,
    Version,
};
use redb::{Database, TableDefinition};
use serde::{Deserialize, Serialize};
use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

fn open(path: &Path) -> Result<RedbDb<String>> {
    RedbDb::open(path)
}

fn in_memory() -> RedbDb<String> {
    RedbDb::builder().in_memory().unwrap()
}

fn item(sk: &str) -> Item<String> {
    Item::new("pk", sk, format!("data of {sk}"))
}

/// A file with ten thousand bytes of data in it, closed.
fn written(path: &Path) {
    let db = open(path).unwrap();
    let items = (0..100).map(|number| Item::new("pk", number.to_string(), "x".repeat(100)));
    db.set(&items.collect::<Vec<_>>()).unwrap();
}

fn assert_invalid<T>(result: Result<T>, says: &str) {
    match result {
        Err(Error::InvalidInput(text)) => assert!(text.contains(says), "{text}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was done"),
    }
}

fn source(error: &Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

#[test]
fn a_file_has_what_was_written_when_it_is_opened_again() {
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
fn a_clone_keeps_the_file_open_and_the_last_one_closes_it() {
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
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_made_leaves_nothing_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    drop(open(&path).unwrap());
    let files: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].as_ref().unwrap().path(), path);
}

#[test]
fn of_many_who_make_a_file_one_has_it_and_the_others_are_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let start = std::sync::Barrier::new(8);
    let open = || {
        start.wait();
        open(&path)
    };
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let (made, told): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 1);
    assert!(
        told.iter()
            .all(|told| matches!(told, Err(Error::Unavailable(_))))
    );
}

#[test]
fn a_file_of_another_kind_is_refused_and_left_as_it_is() {
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
fn a_later_format_is_refused() {
    const META: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("atomic_db/meta");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    written(&path);
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
fn reading_only_changes_nothing_and_lets_others_read() {
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
    let (one, other) = (read_only().unwrap(), read_only().unwrap());
    for db in [&one, &other] {
        assert_eq!(sks(&db.query(&Query::new("pk")).unwrap()), ["a"]);
        assert_eq!(db.get_lock(Key::new("pk", "lock")).unwrap(), lock);
        assert!(db.check_integrity().unwrap());
    }
    let says = "read-only";
    assert_invalid(one.get_lock(Key::new("pk", "other lock")), says);
    assert_invalid(one.set(&[item("b")]), says);
    assert_invalid(one.delete(&[Key::new("pk", "a")]), says);
    assert_invalid(one.commit(&Batch::new().lock(lock)), says);
    assert_invalid(one.purge_expired(), says);
    assert_invalid(one.compact(), says);
    assert_invalid(one.flush(), says);
    drop((one, other));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    written(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    // Root may write all the same.
    if fs::OpenOptions::new().append(true).open(&path).is_err() {
        let error = open(&path).unwrap_err();
        assert!(source(&error).contains("db.redb"), "{error:?}");
        RedbDb::<String>::builder()
            .read_only(true)
            .open(&path)
            .unwrap();
    }
}

/// Cuts a file, or changes one of its bytes: it is refused, or what is read from it is right, or it
/// is found by the check. Nothing panics.
#[test]
fn a_file_that_was_cut_or_changed_is_an_error_and_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    written(&path);
    let sound = fs::read(&path).unwrap();
    let check = |image: &[u8]| {
        let db = RedbDb::<String>::builder().check_on_open(true);
        let disk = Disk::holding(image.to_vec());
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
    assert!(!check(&sound));
    let cut = (1..sound.len())
        .step_by(997)
        .filter(|length| check(&sound[..*length]))
        .count();
    assert!(cut > 10, "only {cut} were refused");
    let mut refused = 0;
    for place in (0..sound.len()).step_by(211) {
        let mut image = sound.clone();
        image[place] ^= 0x41;
        refused += usize::from(check(&image));
        // Without the check an open may not notice; but nothing panics.
        if let Ok(db) = RedbDb::<String>::builder().open_with(Disk::holding(image)) {
            let _ = (db.query(&Query::new("pk")), db.set(&[item("a")]), db.len());
            let _ = (db.get_lock(Key::new("pk", "lock")), db.check_integrity());
        }
    }
    assert!(refused > 10, "only {refused} were refused");
}

#[test]
fn versions_grow_from_run_to_run_though_the_clock_goes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let clock = ManualClock::new(2_000_000_000);
    let mut versions: Vec<Version> = Vec::new();
    for run in 0..6 {
        // Ahead and back, further each time, within a lock's life.
        let ahead = run % 2 == 1;
        clock.set(match ahead {
            true => 2_000_000_000 + 1_000 * run,
            false => 2_000_000_000 - 1_000 * run,
        });
        let db: RedbDb<String> = RedbDb::builder().clock(clock.clone()).open(&path).unwrap();
        let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
        versions.push(db.set_atomic(&[item("a")], &[lock]).unwrap());
        // The last that a run hands out is a commit's version, or a lock's that is made again, which
        // does not begin anew.
        if !ahead {
            db.delete(&[Key::new("pk", "lock")]).unwrap();
            versions.push(db.get_lock(Key::new("pk", "lock")).unwrap().version());
        }
    }
    assert!(
        versions.is_sorted_by(|one, next| one < next),
        "{versions:?}"
    );
}

#[test]
fn what_has_expired_is_purged_from_every_table() {
    let clock = ManualClock::new(1_000_000);
    let db: RedbDb<String> = RedbDb::builder().clock(clock.clone()).in_memory().unwrap();
    let expiring = (0..5_000).map(|number| item(&number.to_string()).expires_at(1_000_100));
    db.set(&expiring.collect::<Vec<_>>()).unwrap();
    db.set(&[item("stays")]).unwrap();
    db.get_lock(Key::new("pk", "lock")).unwrap();
    assert_eq!(db.purge_expired().unwrap(), 0);
    clock.set(1_000_100);
    assert_eq!(db.len().unwrap(), 5_001);
    clock.advance(Duration::from_secs(1));
    assert_eq!(db.len().unwrap(), 1);
    assert_eq!(db.purge_expired().unwrap(), 5_000);
    clock.advance(Duration::from_secs(2 * Lock::LIFETIME));
    assert_eq!(db.purge_expired().unwrap(), 1);
    assert_eq!(db.purge_expired().unwrap(), 0);
    assert!(db.check_integrity().unwrap());
}

#[test]
fn compacting_makes_a_file_smaller_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db.redb");
    let db = open(&path).unwrap();
    let items: Vec<_> = (0..2_000)
        .map(|number| Item::new("pk", number.to_string(), "x".repeat(1_000)))
        .collect();
    db.set(&items).unwrap();
    let keys: Vec<_> = items.iter().skip(1).map(Item::key).collect();
    db.delete(&keys).unwrap();
    let before = fs::metadata(&path).unwrap().len();
    assert!(db.compact().unwrap());
    let after = fs::metadata(&path).unwrap().len();
    assert!(after < before / 2, "{after} after {before}");
    assert_eq!(sks(&db.query(&Query::new("pk")).unwrap()), ["0"]);
    assert!(db.check_integrity().unwrap());
    db.set(&[item("a")]).unwrap();
}

#[test]
fn deferred_writes_are_there_after_a_flush_and_after_a_close() {
    let disk = Disk::default();
    let open = |disk: Disk| {
        let builder = RedbDb::<String>::builder().durability(Durability::Deferred);
        builder.open_with(disk).unwrap()
    };
    let durable = |disk: &Disk| {
        let image = disk.after_power_cut(super::storage::Left::None);
        open(Disk::holding(image)).len().unwrap()
    };
    let db = open(disk.clone());
    db.set(&[item("a")]).unwrap();
    assert_eq!((db.len().unwrap(), durable(&disk)), (1, 0));
    db.flush().unwrap();
    assert_eq!(durable(&disk), 1);
    db.set(&[item("b")]).unwrap();
    assert_eq!(durable(&disk), 1);
    drop(db);
    assert_eq!(durable(&disk), 2);
}

#[test]
fn a_commit_that_loses_does_not_wait_for_the_disk() {
    let disk = Disk::default();
    let db: RedbDb<String> = RedbDb::builder().open_with(disk.clone()).unwrap();
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    db.set_atomic(&[item("a")], &[lock.clone()]).unwrap();
    let before = disk.operations();
    let lost = db.set_atomic(&[item("a")], &[lock]).unwrap_err();
    assert!(lost.is_race_condition());
    db.get_lock(Key::new("pk", "lock")).unwrap();
    let exists = db.commit(&Batch::new().create(item("a"))).unwrap_err();
    assert!(matches!(exists, Error::AlreadyExists { .. }));
    assert_eq!(disk.operations(), before);
}

#[test]
fn each_handle_reads_its_own_type() {
    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Account {
        cents: i64,
    }

    let names = in_memory();
    let accounts = names.with_data::<Account>();
    names
        .set(&[Item::new("names", "1", "Ada".to_owned())])
        .unwrap();
    accounts
        .set(&[Item::new("accounts", "1", Account { cents: 5 })])
        .unwrap();
    let account = accounts.get(Key::new("accounts", "1")).unwrap().unwrap();
    assert_eq!(account.data(), Some(&Account { cents: 5 }));
    // A lock is of no type.
    let lock = names.get_lock(Key::new("names", "lock")).unwrap();
    accounts.set_atomic(&[], &[lock]).unwrap();

    for error in [
        accounts.get(Key::new("names", "1")).unwrap_err(),
        accounts.get_many(&[Key::new("names", "1")]).unwrap_err(),
        accounts.query(&Query::new("names")).unwrap_err(),
        accounts.page(&Query::new("names"), None).unwrap_err(),
        accounts
            .stream(Query::new("names"))
            .next()
            .unwrap()
            .unwrap_err(),
    ] {
        match error {
            Error::Codec { key, .. } => assert_eq!(key, Key::new("names", "1")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn data_that_is_no_json_is_refused_before_anything_happens() {
    use std::collections::HashMap;
    let db: RedbDb<HashMap<Vec<u8>, u8>> = RedbDb::builder().in_memory().unwrap();
    let good = Item::new("pk", "good", HashMap::new());
    let bad = Item::new("pk", "bad", HashMap::from([(vec![1], 1)]));
    let error = db.set(&[good, bad]).unwrap_err();
    assert!(matches!(error, Error::Codec { key, .. } if key.sk() == "bad"));
    assert!(db.is_empty().unwrap());
}

#[test]
fn what_is_too_long_is_refused_before_anything_happens() {
    let db = in_memory();
    let (longest, long) = ("x".repeat(65_535), "x".repeat(65_536));
    let limit = |result: Result<()>, is: usize, got_is: usize| match result {
        Err(Error::LimitExceeded {
            limit: max,
            actual: got,
            ..
        }) => assert_eq!((max, got), (is, got_is)),
        other => panic!("{other:?}"),
    };
    for key in [Key::new(&long, ""), Key::new("", &long)] {
        limit(db.get(key).map(drop), 65_535, 65_536);
        limit(db.get_many(&[key]).map(drop), 65_535, 65_536);
        limit(db.get_lock(key).map(drop), 65_535, 65_536);
        limit(db.delete(&[key]), 65_535, 65_536);
        limit(
            db.set(&[item("a"), Item::without_data(key.pk, key.sk)]),
            65_535,
            65_536,
        );
        limit(
            db.commit(&Batch::new().set(item("a")).delete(key))
                .map(drop),
            65_535,
            65_536,
        );
    }
    limit(
        db.query(&Query::new(long.as_str())).map(drop),
        65_535,
        65_536,
    );
    // Two quotes are part of it.
    let most = 16 << 20;
    let large = Item::new("pk", "large", "x".repeat(most - 1));
    limit(db.set(&[item("a"), large]), most, most + 1);
    assert!(db.is_empty().unwrap());

    db.set(&[Item::new(&longest, &longest, "x".repeat(most - 2))])
        .unwrap();
    let found = db.get(Key::new(&longest, &longest)).unwrap().unwrap();
    assert_eq!(found.data().unwrap().len(), most - 2);
    assert_eq!(
        db.query(&Query::new(longest.as_str()).prefix(&*longest))
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_page_of_large_items_holds_few_of_them() {
    let db = in_memory();
    let items: Vec<_> = (0..9)
        .map(|number| Item::new("pk", number.to_string(), "x".repeat(400_000)))
        .collect();
    db.set(&items).unwrap();
    let page = db.page(&Query::new("pk"), None).unwrap();
    assert_eq!(page.items.len(), 3);
    assert_eq!(db.stream(Query::new("pk").reverse()).count(), 9);
}

/// A clock that asks the database, which it may do as no lock is held then.
#[derive(Debug)]
struct Asks(std::sync::OnceLock<RedbDb<String>>);

impl Clock for Asks {
    fn now(&self) -> Duration {
        if let Some(db) = self.0.get() {
            db.set(&[Item::without_data("clock", "asked")]).unwrap();
        }
        Duration::from_secs(1_000)
    }

    fn sleep(&self, _duration: Duration) {}
}

#[test]
fn a_clock_may_write_to_the_database() {
    let clock = std::sync::Arc::new(Asks(std::sync::OnceLock::new()));
    let db: RedbDb<String> = RedbDb::builder()
        .clock(std::sync::Arc::clone(&clock))
        .in_memory()
        .unwrap();
    clock.0.set(db.clone()).unwrap();
    atomic_db::testing::with_timeout(crate::common::HANG_LIMIT, move |_| {
        let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
        db.set_atomic(&[item("a").expires_at(5_000)], &[lock])
            .unwrap();
        assert!(db.get(Key::new("pk", "a")).unwrap().is_some());
        db.query(&Query::new("pk")).unwrap();
        db.purge_expired().unwrap();
        db.len().unwrap();
    });
}

#[test]
fn a_handle_shows_its_file_and_none_of_its_data() {
    let db = Temporary::open(RedbDb::<String>::builder());
    db.set(&[item("secret")]).unwrap();
    let shown = format!("{:?}", db.db);
    assert!(
        shown.contains("db.redb") && !shown.contains("secret"),
        "{shown}"
    );
}
