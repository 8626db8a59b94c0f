use super::bench::{on_each_database, repeat};
use super::databases::databases;
use super::recipes::moving::{move_all, write};
use crate::common::{HookedDb, contents};
use atomic_db::{Error, Item, Result, TransferError};
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

/// Each writer writes a growing number to its own item, to the old database until that refuses it,
/// and then to the new one. It is never set back.
#[test]
fn no_acknowledged_write_is_lost_while_the_database_moves() {
    on_each_database::<String>(|bench| {
        // The runs together move each database to each other one.
        let mut databases = databases::<String>();
        let to = databases.remove(bench.run % databases.len());
        let names = format!("from {} to {}", bench.name, to.name);
        let hook = bench.db.clone();
        let to = HookedDb::new(to.db, move |call, moment| hook.run_hook(call, moment));
        let from = &bench.db;
        let acknowledged = AtomicU64::new(0);
        thread::scope(|scope| {
            for writer in 0..3 {
                let (from, to, names, acknowledged) = (from, &to, &names, &acknowledged);
                scope.spawn(move || {
                    let item = |number: u64| {
                        Item::new(format!("writer#{writer}"), "number", format!("{number:06}"))
                    };
                    let mut number = 1;
                    while repeat(|| write(from, &item(number))) {
                        number += 1;
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                    for number in number..number + 3 {
                        while !repeat(|| write(to, &item(number))) {
                            thread::yield_now();
                        }
                        let is_stored = || to.inner.get_fresh(item(number).key());
                        assert_eq!(is_stored().unwrap(), Some(item(number)), "{names}");
                    }
                });
            }
            while acknowledged.load(Ordering::SeqCst) < 9 {
                thread::yield_now();
            }
            repeat_move(|| move_all(from, &to));
        });
        // A call whose response was lost is repeated.
        let before = contents(&to.inner);
        repeat_move(|| move_all(from, &to));
        assert_eq!(contents(&to.inner), before, "{names}");
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
