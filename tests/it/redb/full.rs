//! A full disk: the error that the writer gets, and the contents of the file before and after there
//! is space again.

use super::storage::{Disk, SpaceLimit};
use atomic_db::{AtomicDb, Batch, Error, Item, Key, Query, RedbDb};
use std::error::Error as _;

fn open(disk: &Disk) -> RedbDb<String> {
    RedbDb::builder().open_with(disk.clone()).unwrap()
}

fn item(number: usize) -> Item<String> {
    Item::new("pk", format!("{number:05}"), "x".repeat(20_000))
}

/// Commits items one by one until the disk is full. Returns the number of acknowledged ones, and the
/// error of the next write.
fn fill(db: &RedbDb<String>) -> (usize, Error) {
    for number in 0..100_000 {
        let lock = match db.get_lock(Key::new("pk", "lock")) {
            Ok(lock) => lock,
            Err(error) => return (number, error),
        };
        if let Err(error) = db.commit(&Batch::new().lock(lock).create(item(number))) {
            return (number, error);
        }
    }
    panic!("the disk never became full");
}

/// Whether a source of `error` reports the full disk.
fn reports_full_disk(error: &Error) -> bool {
    let sources = std::iter::successors(error.source(), |error| (*error).source());
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull).to_string();
    sources
        .map(ToString::to_string)
        .any(|text| text.contains(&full))
}

/// Fills a disk with `bytes` of space, checks the file against the results of the writes, and writes
/// again when there is space. Returns whether the failed write reported an unknown outcome.
fn fill_and_recover(limit: impl Fn(usize) -> SpaceLimit, bytes: usize) -> bool {
    let disk = Disk::default();
    let db = open(&disk);
    let before = disk.current().len();
    disk.set_space_limit(Some(limit(before + bytes)));
    let (acknowledged, error) = fill(&db);
    assert!(acknowledged > 0, "no space for a single item");
    assert!(reports_full_disk(&error), "{error:?}");
    let unknown = match &error {
        Error::OutcomeUnknown(_) => true,
        Error::Backend(_) => false,
        other => panic!("{other:?}"),
    };
    drop(db);

    let check = |db: &RedbDb<String>| {
        db.check_integrity().unwrap();
        let found = db.query(&Query::new("pk")).unwrap();
        let count = found.len();
        let possible = acknowledged..=acknowledged + usize::from(unknown);
        assert!(
            possible.contains(&count),
            "found {count} items, expected {possible:?}"
        );
        assert!(found.into_iter().eq((0..count).map(item)));
        count
    };
    // The file can be opened and read while the disk is full.
    let count = check(&open(&disk));
    disk.set_space_limit(None);
    let db = open(&disk);
    assert_eq!(check(&db), count);
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    let batch = (count..count + 100)
        .map(item)
        .fold(Batch::new(), Batch::set);
    db.commit(&batch.lock(lock)).unwrap();
    drop(db);
    assert_eq!(open(&disk).len().unwrap(), count + 100);
    unknown
}

#[test]
fn a_file_that_cannot_grow_keeps_every_acknowledged_commit() {
    for bytes in [100_000, 1_000_000] {
        fill_and_recover(SpaceLimit::Length, bytes);
    }
}

#[test]
fn a_file_that_grew_but_cannot_be_written_keeps_every_acknowledged_commit() {
    for bytes in [100_000, 1_000_000] {
        // redb writes there during the commit, so the outcome is unknown.
        assert!(fill_and_recover(SpaceLimit::Written, bytes));
    }
}
