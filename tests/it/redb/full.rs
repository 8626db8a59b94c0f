//! A disk that is full: what the writer is told, and what is in the file before and after there is
//! room again.

use super::storage::{Disk, Room};
use atomic_db::{AtomicDb, Batch, Error, Item, Key, Query, RedbDb};
use std::error::Error as _;

fn open(disk: &Disk) -> RedbDb<String> {
    RedbDb::builder().open_with(disk.clone()).unwrap()
}

fn item(number: usize) -> Item<String> {
    Item::new("pk", format!("{number:05}"), "x".repeat(20_000))
}

/// Writes items one by one until the disk is full. How many were acknowledged, and what the next
/// write was told.
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
    panic!("the disk is never full");
}

/// What was told of the disk, below what was told of the write.
fn says_that_it_is_full(error: &Error) -> bool {
    let sources = std::iter::successors(error.source(), |error| (*error).source());
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull).to_string();
    sources
        .map(ToString::to_string)
        .any(|text| text.contains(&full))
}

/// Fills the disk, and holds what was told against what is there. Whether it was told that the outcome
/// was unknown.
fn fill_and_go_on(room: impl Fn(usize) -> Room, bytes: usize) -> bool {
    let disk = Disk::default();
    let db = open(&disk);
    let before = disk.current().len();
    disk.set_room(Some(room(before + bytes)));
    let (acknowledged, error) = fill(&db);
    assert!(acknowledged > 0, "no room for a single item");
    assert!(says_that_it_is_full(&error), "{error:?}");
    let unknown = match &error {
        Error::OutcomeUnknown(_) => true,
        Error::Backend(_) => false,
        other => panic!("{other:?}"),
    };
    drop(db);

    let whole = |db: &RedbDb<String>| {
        db.check_integrity().unwrap();
        let found = db.query(&Query::new("pk")).unwrap();
        let count = found.len();
        let possible = acknowledged..=acknowledged + usize::from(unknown);
        assert!(
            possible.contains(&count),
            "{count} are there, not {possible:?}"
        );
        assert!(found.into_iter().eq((0..count).map(item)));
        count
    };
    // What reading takes fits on a full disk.
    let count = whole(&open(&disk));
    disk.set_room(None);
    let db = open(&disk);
    assert_eq!(whole(&db), count);
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
fn a_file_that_cannot_grow_keeps_what_was_acknowledged() {
    for bytes in [100_000, 1_000_000] {
        fill_and_go_on(Room::Length, bytes);
    }
}

#[test]
fn a_file_that_grew_and_cannot_be_written_keeps_what_was_acknowledged() {
    for bytes in [100_000, 1_000_000] {
        // Not before the commit is anything written there.
        assert!(fill_and_go_on(Room::Written, bytes));
    }
}
