//! Backups of a file that is in use.

use crate::common::{contents, numbered};
use atomic_db::testing::run_concurrently;
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Bytes, Error, Item, Key, ManualClock, Query, RedbDb, Result,
    Scan, copy,
};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn open<T>(path: &Path, clock: &ManualClock) -> RedbDb<T>
where
    RedbDb<T>: AtomicDb<Data = T>,
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    RedbDb::builder().clock(clock.clone()).open(path).unwrap()
}

fn files_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

#[test]
fn a_backup_has_the_live_items_with_their_expiries() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(1_000);
    let db = open(&directory.path().join("db.redb"), &clock);
    let path = directory.path().join("backup.redb");
    assert_eq!(db.backup(directory.path().join("empty.redb")).unwrap(), 0);
    db.set(&numbered(2_000)).unwrap();
    db.set(&[
        Item::new("odd\0", "", 1).expires_at(1_000),
        Item::without_data("odd", "\u{10ffff}").expires_at(1_500),
        Item::new("expired", "", 1).expires_at(999),
    ])
    .unwrap();
    assert_eq!(db.backup(&path).unwrap(), 2_002);

    let backup: RedbDb<u32> = open(&path, &clock);
    assert_eq!(contents(&backup), contents(&db));
    assert_eq!(backup.len().unwrap(), 2_002);
    assert!(backup.check_integrity().unwrap());
    clock.set(1_501);
    assert_eq!(backup.purge_expired().unwrap(), 2);
    assert_eq!(backup.len().unwrap(), 2_000);
    backup.set(&numbered(10)).unwrap();
    let expected = ["backup.redb", "db.redb", "empty.redb"];
    assert_eq!(files_in(directory.path()), expected);
}

/// Large enough for several transactions.
#[test]
fn a_large_backup_has_all_items() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(1_000);
    let db = open(&directory.path().join("db.redb"), &clock);
    let data = "x".repeat(1 << 20);
    for number in 0..20 {
        let item = Item::new("pk", format!("{number:02}"), format!("{number}{data}"));
        db.set(&[item]).unwrap();
    }
    let path = directory.path().join("backup.redb");
    assert_eq!(db.backup(&path).unwrap(), 20);
    let backup: RedbDb<String> = open(&path, &clock);
    assert_eq!(contents(&backup), contents(&db));
}

/// Transfers keep the total, so a backup with another total has a part of a commit. The accounts are
/// large, so that a backup takes several transactions.
#[test]
fn a_backup_during_writes_is_a_snapshot() {
    const ACCOUNTS: usize = 450;
    type Account = (i64, String);
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(1_000);
    let db: RedbDb<Account> = open(&directory.path().join("db.redb"), &clock);
    let data = "x".repeat(40_000);
    let account = |number: usize, amount| {
        Item::new(format!("{number:03}"), "balance", (amount, data.clone()))
    };
    let accounts: Vec<_> = (0..ACCOUNTS).map(|number| account(number, 100)).collect();
    db.set(&accounts).unwrap();
    let done = AtomicBool::new(false);
    run_concurrently(2, |thread| {
        if thread == 0 {
            let back_up = |number| {
                let path = directory.path().join(format!("backup {number}.redb"));
                db.backup(&path).map(|items| (path, items))
            };
            let backups: Vec<Result<_>> = (0..2).map(back_up).collect();
            // Before anything can fail, because the other thread goes on until then.
            done.store(true, Ordering::Relaxed);
            for backup in backups {
                let (path, items) = backup.unwrap();
                assert_eq!(items, ACCOUNTS as u64);
                let backup: RedbDb<Account> = open(&path, &clock);
                let amounts = backup.scan().map(|item| item.unwrap().data().unwrap().0);
                let total: i64 = amounts.sum();
                assert_eq!(total, 100 * ACCOUNTS as i64, "a part of a commit");
            }
            return;
        }
        // From one end of the file to the other, so that the two rows are in different transactions.
        let mut amounts = [100; ACCOUNTS];
        for turn in 0.. {
            if done.load(Ordering::Relaxed) {
                return;
            }
            let (from, to) = (turn % 100, ACCOUNTS - 1 - turn % 100);
            amounts[from] -= 1;
            amounts[to] += 1;
            let batch = Batch::new().set(account(from, amounts[from]));
            db.commit(&batch.set(account(to, amounts[to]))).unwrap();
        }
    });
}

/// Guarantee 17.
#[test]
fn a_backup_has_no_locks_and_its_versions_are_greater() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(1_000_000);
    let db = open(&directory.path().join("db.redb"), &clock);
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    let version = db
        .set_atomic(&[Item::new("pk", "item", 1)], &[lock.clone()])
        .unwrap();
    let lock = lock.with_version(version);
    let path = directory.path().join("backup.redb");
    db.backup(&path).unwrap();

    // Its clock is behind.
    let backup: RedbDb<u32> = open(&path, &ManualClock::new(1_000));
    let stale = backup.set_atomic(&[Item::new("pk", "item", 2)], &[lock.clone()]);
    assert!(stale.unwrap_err().is_race_condition());
    assert!(backup.get_lock(lock.key()).unwrap().version() > version);
    assert!(db.set_atomic(&[], &[lock]).is_ok());
}

#[test]
fn a_backup_never_replaces_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let db = open(&directory.path().join("db.redb"), &ManualClock::new(1_000));
    db.set(&numbered(10)).unwrap();
    let path = directory.path().join("backup.redb");
    fs::write(&path, "precious").unwrap();
    for path in [&path, &directory.path().join("db.redb")] {
        let error = db.backup(path).unwrap_err();
        assert!(
            matches!(&error, Error::InvalidInput(text) if text.contains("already exists")),
            "{error:?}"
        );
    }
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert!(matches!(
        db.backup(directory.path().join("missing").join("db.redb")),
        Err(Error::Backend(_))
    ));
    assert!(db.backup(directory.path()).is_err());
    assert_eq!(files_in(directory.path()), ["backup.redb", "db.redb"]);
    assert!(db.contains(Key::new("pk 1", "1")).unwrap());
}

#[test]
fn one_of_several_concurrent_backups_to_one_path_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(1_000);
    let db = open(&directory.path().join("db.redb"), &clock);
    db.set(&numbered(1_000)).unwrap();
    let path = directory.path().join("backup.redb");
    let results = run_concurrently(4, |_| db.backup(&path));
    let (done, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (1, 3));
    for error in refused {
        assert!(matches!(error, Err(Error::InvalidInput(_))), "{error:?}");
    }
    let backup: RedbDb<u32> = open(&path, &clock);
    assert_eq!(contents(&backup), contents(&db));
    assert_eq!(files_in(directory.path()), ["backup.redb", "db.redb"]);
}

#[test]
fn a_database_in_memory_and_a_read_only_handle_can_be_backed_up() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(1_000);
    let memory = RedbDb::builder().clock(clock.clone()).in_memory().unwrap();
    memory.set(&numbered(100)).unwrap();
    let path = directory.path().join("from memory.redb");
    assert_eq!(memory.backup(&path).unwrap(), 100);
    let read_only = RedbDb::<u32>::builder()
        .clock(clock.clone())
        .read_only(true)
        .open(&path)
        .unwrap();
    let second = directory.path().join("from read-only.redb");
    assert_eq!(read_only.backup(&second).unwrap(), 100);
    let backup: RedbDb<u32> = open(&second, &clock);
    assert_eq!(contents(&backup), contents(&memory));
    // A copy through the public API has the same items.
    let copied = RedbDb::<u32>::builder().clock(clock).in_memory().unwrap();
    copy(&backup, &copied, |_| {}).unwrap();
    assert_eq!(
        copied.query(&Query::new("pk 0")).unwrap(),
        memory.query(&Query::new("pk 0")).unwrap()
    );
}

/// Backups do not decode data, so one file may hold several types.
#[test]
fn a_backup_has_the_items_of_all_types() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(1_000);
    let numbers: RedbDb<u32> = open(&directory.path().join("db.redb"), &clock);
    let texts = numbers.with_data::<String>();
    numbers.set(&[Item::new("pk", "number", 1)]).unwrap();
    texts
        .set(&[Item::new("pk", "text", "one".to_owned())])
        .unwrap();
    let path = directory.path().join("backup.redb");
    assert_eq!(numbers.backup(&path).unwrap(), 2);
    let backup: RedbDb<String> = open(&path, &clock);
    let item = backup.get(Key::new("pk", "text")).unwrap();
    assert_eq!(item.and_then(Item::into_data).as_deref(), Some("one"));
}

#[test]
fn a_backup_has_the_codec_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let db: RedbDb<Vec<u8>, Bytes> = RedbDb::builder()
        .codec(Bytes)
        .open(directory.path().join("db.redb"))
        .unwrap();
    db.set(&[
        Item::new("pk", "sk", vec![0, 255]),
        Item::new("pk", "empty", vec![]),
    ])
    .unwrap();
    let path = directory.path().join("backup.redb");
    db.backup(&path).unwrap();
    let error = RedbDb::<Vec<u8>>::open(&path).unwrap_err();
    assert!(
        matches!(&error, Error::InvalidInput(text) if text.contains("bytes")),
        "{error:?}"
    );
    let backup: RedbDb<Vec<u8>, Bytes> = RedbDb::builder().codec(Bytes).open(&path).unwrap();
    assert_eq!(contents(&backup), contents(&db));
}

/// The file keeps working for other processes and for this one.
#[test]
fn a_shared_file_can_be_backed_up() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("db.redb");
    let open_shared = || RedbDb::<u32>::builder().shared().open(&file).unwrap();
    let (one, other) = (open_shared(), open_shared());
    one.set(&numbered(100)).unwrap();
    let path = directory.path().join("backup.redb");
    assert_eq!(other.backup(&path).unwrap(), 100);
    other.set(&numbered(200)).unwrap();
    assert_eq!(one.scan().count(), 200);
    let backup = RedbDb::<u32>::builder().shared().open(&path).unwrap();
    assert_eq!(backup.scan().count(), 100);
}
