//! A full disk: the error that the writer gets, and the contents of the file before and after there
//! is space again.

use super::child::child;
use super::storage::{Disk, SpaceLimit};
use atomic_db::{AtomicDb, Batch, Durability, Error, Item, Key, Query, RedbDb};
use std::error::Error as _;
use std::process::{Command, Stdio};

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

/// The environment variables that give a child process its file, and how to open it.
#[cfg(target_os = "linux")]
const FILE: &str = "ATOMIC_DB_FULL_FILE";
#[cfg(target_os = "linux")]
const MODE: &str = "ATOMIC_DB_FULL_MODE";

/// Sets the size that files of this process can have, which stands in for a disk.
#[cfg(target_os = "linux")]
fn limit_file_size(limit: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string()])
        .arg(format!("--fsize={limit}:"))
        .status();
    assert!(status.unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "the child process of the test below"]
fn child_process_whose_disk_is_full() {
    let (Ok(path), Ok(mode)) = (std::env::var(FILE), std::env::var(MODE)) else {
        return;
    };
    let builder = RedbDb::builder();
    let builder = match mode.as_str() {
        "shared" => builder.shared(),
        "quick repair" => builder.durability(Durability::QuickRepair),
        "deferred" => builder.durability(Durability::Deferred),
        _ => builder,
    };
    let db: RedbDb<String> = builder.open(path).unwrap();
    let clone = db.clone();
    let mut count = 0;
    for limit in [500_000, 1_000_000, 2_000_000] {
        limit_file_size(&limit.to_string());
        let (last, error) = loop {
            let write = db.commit(&Batch::new().create(item(count)));
            match write {
                Ok(_) => count += 1,
                Err(error) => break (count, error),
            }
        };
        let too_large = std::io::Error::from(std::io::ErrorKind::FileTooLarge).to_string();
        let source = error.source().unwrap().to_string();
        assert!(
            source.contains(&too_large) || source.contains("too large"),
            "{error:?}"
        );
        if mode == "deferred" {
            clone.set(&[item(last)]).unwrap_err();
            clone.compact().unwrap_err();
            return;
        }
        // Everything that was committed can be read while the disk is full.
        let found = clone.query(&Query::new("pk")).unwrap();
        if matches!(error, Error::OutcomeUnknown(_)) && found.len() == count + 1 {
            count += 1;
        }
        assert!(found.into_iter().eq((0..count).map(item)));
        // Small writes may succeed. Large ones fail again and again.
        let large = (count..count + 150).map(item).collect::<Vec<_>>();
        for _ in 0..3 {
            clone.set(&large).unwrap_err();
        }
        assert_eq!(db.len().unwrap(), count);
    }
    limit_file_size("unlimited");
    let lock = db.get_lock(Key::new("pk", "lock")).unwrap();
    db.set_atomic(&[item(count)], &[lock]).unwrap();
    clone.delete(&[item(0).key()]).unwrap();
    assert!(clone.check_integrity().unwrap());
    clone.compact().unwrap();
    let found = db.query(&Query::new("pk")).unwrap();
    assert!(found.into_iter().eq((1..=count).map(item)));
}

#[cfg(target_os = "linux")]
#[test]
fn a_handle_works_again_once_there_is_room_on_the_disk() {
    let process = child("redb::full::child_process_whose_disk_is_full");
    for mode in ["immediate", "quick repair", "shared", "deferred"] {
        let directory = tempfile::tempdir().unwrap();
        // The signal would end the process. An ignored signal stays ignored.
        let status = Command::new("sh")
            .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#])
            .arg(process.get_program())
            .args(process.get_args())
            .env(FILE, directory.path().join("db.redb"))
            .env(MODE, mode)
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{mode}");
    }
}
