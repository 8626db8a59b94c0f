use super::bench::{on_each_database, repeat};
use super::databases::databases;
use super::recipes::moving::{move_all, write};
use crate::common::{Call, Gate, Moment, contents};
use atomic_db::{AtomicDb, Error, Item, MemoryDb, Result, TransferError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Calls `move_all` until it succeeds.
fn repeat_move(mut call: impl FnMut() -> Result<(), TransferError>) {
    repeat(|| match call() {
        Ok(()) => Ok(()),
        Err(TransferError::Read(error) | TransferError::Write(error)) => Err(error),
        Err(error) => panic!("{error:?}"),
    });
}

/// Each writer writes growing numbers to its items in the old database until that refuses one, and then
/// to one of them in the new database.
#[test]
fn no_acknowledged_write_is_lost_while_the_database_moves() {
    on_each_database::<String>(|bench| {
        // The runs together move each database to each other one.
        let mut databases = databases::<String>();
        let to = databases.remove(bench.run % databases.len());
        let names = format!("from {} to {}", bench.name, to.name);
        let to = bench.with_faults(to);
        let from = &bench.db;
        let acknowledged = AtomicU64::new(0);
        thread::scope(|scope| {
            for writer in 0..3 {
                let (from, to, names, acknowledged) = (from, &to, &names, &acknowledged);
                scope.spawn(move || {
                    let item = |number: u64| {
                        let pk = format!("writer#{writer}");
                        Item::new(pk, (number % 4).to_string(), format!("{number:06}"))
                    };
                    let mut number = 0;
                    while repeat(|| write(from, &item(number))) {
                        number += 1;
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                    // An item that the copy must not set back.
                    for number in (number..number + 12).step_by(4) {
                        while !repeat(|| write(to, &item(number))) {
                            thread::yield_now();
                        }
                        let stored = to.inner().get_fresh(item(number).key());
                        assert_eq!(stored.unwrap(), Some(item(number)), "{names}");
                    }
                });
            }
            while acknowledged.load(Ordering::SeqCst) < 15 {
                thread::yield_now();
            }
            repeat_move(|| move_all(from, &to));
        });
        // A call whose response was lost is repeated.
        let before = contents(to.inner());
        repeat_move(|| move_all(from, &to));
        assert_eq!(contents(to.inner()), before, "{names}");
        for (key, item) in contents(bench.plain()) {
            let moved = before.get(&key).map(|moved| moved.data() >= item.data());
            let expected = (key.0 != "moved").then_some(true);
            assert_eq!(moved, expected, "{names}: {key:?}");
        }
    });
}

#[test]
fn items_keep_their_expiry() {
    on_each_database::<String>(|bench| {
        let to = databases::<String>().remove(0);
        let item = Item::new("session#1", "user", "Ada".to_owned()).expires_at(3_000_000_000);
        assert!(repeat(|| write(&bench.db, &item)));
        repeat_move(|| move_all(&bench.db, &to.db));
        let moved = to.db.get_fresh(item.key()).unwrap();
        assert_eq!(moved, Some(item), "{}", bench.name);
        assert!(!repeat(|| write(
            &bench.db,
            &Item::new("a", "b", String::new())
        )));
        let outcome = write(&to.db, &Item::new("a", "b", String::new()));
        assert!(
            matches!(outcome, Ok(true) | Err(Error::Unavailable(_))),
            "{}",
            bench.name
        );
    });
}

#[test]
fn a_writer_that_is_paused_before_its_commit_is_refused_after_the_move() {
    let (from, to) = (MemoryDb::new(), MemoryDb::new());
    let item = Item::new("user#1", "name", "Ada".to_owned());
    let (paused, gate) = Gate::new(from.clone(), Call::Commit, Moment::Before);
    thread::scope(|scope| {
        let writer = scope.spawn(|| write(&paused, &item).unwrap());
        gate.wait_until_reached();
        move_all(&from, &to).unwrap();
        gate.open();
        assert!(!writer.join().unwrap());
    });
    assert_eq!(contents(&to).len(), 0);
}

#[test]
fn the_new_database_takes_no_writes_before_the_copy_is_complete() {
    let (from, to) = (MemoryDb::new(), MemoryDb::new());
    let item = |text: &str| Item::new("user#1", "name", text.to_owned());
    assert!(write(&from, &item("old")).unwrap());
    let (paused, gate) = Gate::new(from.clone(), Call::ScannedItem, Moment::Before);
    thread::scope(|scope| {
        let mover = scope.spawn(|| move_all(&paused, &to).unwrap());
        gate.wait_until_reached();
        let written = [write(&from, &item("new")), write(&to, &item("new"))];
        gate.open();
        mover.join().unwrap();
        assert_eq!(written.map(Result::unwrap), [false, false]);
    });
    assert!(write(&to, &item("new")).unwrap());
    assert_eq!(to.get(item("").key()).unwrap(), Some(item("new")));
}
