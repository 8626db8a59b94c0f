//! Commits next to transactions of another session, which are held open by hand at the moment that
//! matters.

use super::server::{Server, new_name};
use super::sql::Session;
use crate::common::HANG_LIMIT;
use atomic_db::testing::{run_concurrently, with_timeout};
use atomic_db::{AtomicDb, Batch, Error, Item, Key, PostgresDb, Result};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

struct Table {
    server: &'static Server,
    db: PostgresDb<String>,
    name: String,
}

fn table() -> Option<Table> {
    let server = Server::shared()?;
    let name = new_name("sessions");
    let db = PostgresDb::builder().table(&name);
    let db = db.connect(server.url()).unwrap();
    Some(Table { server, db, name })
}

impl Table {
    fn session(&self) -> Session {
        Session::connect(&self.server.url())
    }

    /// Waits until a statement on the table waits for a row lock.
    fn wait_until_blocked(&self) {
        let observer = self.session();
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE wait_event_type = 'Lock' AND query LIKE '%\"{}\"%'",
            self.name
        );
        let start = Instant::now();
        while observer.value(&sql) == "0" {
            assert!(start.elapsed() < HANG_LIMIT, "no statement waits");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs `call` while `held` has an open transaction that it waits for, and ends that with `end`.
    fn blocked_by<R: Send>(
        &self,
        held: &Session,
        end: &str,
        call: impl FnOnce(&PostgresDb<String>) -> R + Send,
    ) -> R {
        thread::scope(|scope| {
            let call = scope.spawn(|| call(&self.db));
            self.wait_until_blocked();
            held.execute(end);
            call.join().unwrap()
        })
    }
}

fn item(sk: &str, data: &str) -> Item<String> {
    Item::new("pk", sk, data.to_owned())
}

fn key(sk: &str) -> Key<'_> {
    Key::new("pk", sk)
}

/// A plain `DELETE` in the statement that validates would work on the snapshot from before the wait,
/// renew the lock, and leave the item.
#[test]
fn a_commit_deletes_an_item_that_was_created_while_it_waited_for_its_lock() {
    let Some(table) = table() else { return };
    let lock = table.db.get_lock(key("lock")).unwrap();
    let held = table.session();
    held.execute(&format!(
        "BEGIN; SELECT FROM \"{0}\" WHERE sk = 'lock' FOR SHARE; \
         INSERT INTO \"{0}\" (pk, sk, data) VALUES ('pk', 'd', '\"new\"')",
        table.name
    ));
    let batch = Batch::new().lock(lock.clone()).delete(("pk", "d"));
    let version = table
        .blocked_by(&held, "COMMIT", |db| db.commit(&batch))
        .unwrap();
    assert_eq!(table.db.get(key("d")).unwrap(), None);
    let renewed = table.db.get_lock(key("lock")).unwrap();
    assert_eq!(renewed.version(), version);
}

#[test]
fn a_commit_that_deletes_an_absent_key_waits_for_a_writer_that_creates_it() {
    let Some(table) = table() else { return };
    let held = table.session();
    held.execute(&format!(
        "BEGIN; INSERT INTO \"{}\" (pk, sk, data) VALUES ('pk', 'd', '\"new\"')",
        table.name
    ));
    let batch = Batch::new().delete(("pk", "d"));
    table
        .blocked_by(&held, "COMMIT", |db| db.commit(&batch))
        .unwrap();
    assert_eq!(table.db.get(key("d")).unwrap(), None);
}

#[test]
fn of_two_creators_the_second_finds_the_item_of_the_first() {
    let Some(table) = table() else { return };
    let lock = table.db.get_lock(key("lock")).unwrap();
    for (end, is_created) in [("COMMIT", false), ("ROLLBACK", true)] {
        let held = table.session();
        held.execute(&format!(
            "BEGIN; INSERT INTO \"{}\" (pk, sk, data) VALUES ('pk', '{end}', '\"first\"')",
            table.name
        ));
        let batch = Batch::new()
            .lock(table.db.get_lock(key("lock")).unwrap())
            .set(item("other", end))
            .create(item(end, "second"));
        let outcome: Result<_> = table.blocked_by(&held, end, |db| db.commit(&batch));
        let found = table.db.get(key(end)).unwrap().and_then(Item::into_data);
        let other = table.db.get(key("other")).unwrap();
        if is_created {
            outcome.unwrap();
            assert_eq!(found.as_deref(), Some("second"));
            assert!(other.is_some());
        } else {
            match outcome {
                Err(Error::AlreadyExists { key: existing }) => assert_eq!(existing, key(end)),
                other => panic!("{other:?}"),
            }
            assert_eq!(found.as_deref(), Some("first"));
            assert_eq!(other, None);
            assert_eq!(table.db.get_lock(key("lock")).unwrap(), lock);
        }
    }
}

/// The row lock reads the newest version, not that of the snapshot from before the wait.
#[test]
fn a_commit_fails_under_a_lock_that_was_renewed_while_it_waited() {
    let Some(table) = table() else { return };
    let lock = table.db.get_lock(key("lock")).unwrap();
    for batch in [
        Batch::new().lock(lock.clone()).set(item("a", "lost")),
        Batch::new().check(lock.clone()).set(item("a", "lost")),
    ] {
        let held = table.session();
        held.execute(&format!(
            "BEGIN; UPDATE \"{}\" SET version = '00000000000000000000000001' WHERE sk = 'lock'",
            table.name
        ));
        let outcome = table.blocked_by(&held, "COMMIT", |db| db.commit(&batch));
        match outcome {
            Err(Error::RaceCondition { keys }) => assert_eq!(keys, [key("lock").to_buf()]),
            other => panic!("{other:?}"),
        }
        assert_eq!(table.db.get(key("a")).unwrap(), None);
        held.execute(&format!(
            "UPDATE \"{}\" SET version = '{}' WHERE sk = 'lock'",
            table.name,
            lock.version()
        ));
    }
}

#[test]
fn a_statement_that_waits_too_long_is_cancelled_and_writes_nothing() {
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("sessions");
    let db = PostgresDb::<String>::builder().table(&name);
    let db = db.timeout(Duration::from_millis(700));
    let db = db.connect(server.url()).unwrap();
    let lock = db.get_lock(key("lock")).unwrap();
    let held = Session::connect(&server.url());
    held.execute(&format!(
        "BEGIN; SELECT FROM \"{name}\" WHERE sk = 'lock' FOR UPDATE"
    ));
    let start = Instant::now();
    let outcome = db.set_atomic(&[item("a", "1")], &[lock.clone()]);
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_millis(1_500), "{elapsed:?}");
    held.execute("ROLLBACK");
    db.set_atomic(&[item("a", "1")], &[lock]).unwrap();
}

/// The server ends a session before it commits, so the write is repeated although it has no locks.
#[test]
fn a_write_whose_session_is_terminated_before_it_commits_is_repeated() {
    let Some(table) = table() else { return };
    type Write = fn(&PostgresDb<String>) -> Result<()>;
    let writes: [Write; 3] = [
        |db| db.set(&[item("a", "2")]),
        |db| db.delete(&[key("a")]),
        |db| db.commit(&Batch::new().delete(("pk", "a"))).map(drop),
    ];
    for write in writes {
        table.db.set(&[item("a", "1")]).unwrap();
        let held = table.session();
        held.execute(&format!(
            "BEGIN; UPDATE \"{}\" SET ttl = NULL WHERE sk = 'a'",
            table.name
        ));
        let end = format!(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
             WHERE wait_event_type = 'Lock' AND query LIKE '%\"{}\"%'; COMMIT",
            table.name
        );
        table.blocked_by(&held, &end, write).unwrap();
        let found = table.db.get(key("a")).unwrap().and_then(Item::into_data);
        assert_ne!(found.as_deref(), Some("1"));
    }
}

/// Row locks are taken in the order of keys, so commits that lock and check the same locks wait for
/// each other and never deadlock.
#[test]
fn commits_that_check_each_others_locks_do_not_deadlock() {
    let Some(server) = Server::shared() else {
        return;
    };
    with_timeout(HANG_LIMIT, |_| {
        let database = new_name("deadlocks");
        server.sql(&format!("CREATE DATABASE {database}"));
        let url = server.url_of(&database);
        let db = PostgresDb::<String>::connect(&url).unwrap();
        let db = Arc::new(db);
        run_concurrently(8, |thread| {
            for round in 0..60 {
                let keys = ["a", "b", "c"].map(|sk| Key::new("pk", sk));
                let mut locks = db.get_locks(&keys).unwrap();
                locks.rotate_left((thread + round) % 3);
                if round % 2 == 0 {
                    locks.swap(0, 2);
                }
                let mut batch = Batch::new();
                for (place, lock) in locks.into_iter().enumerate() {
                    batch = match (place + thread) % 2 {
                        0 => batch.lock(lock),
                        _ => batch.check(lock),
                    };
                }
                let batch = batch.set(item("0 first", "x")).set(item("z last", "x"));
                match db.commit(&batch) {
                    Ok(_) => {}
                    Err(error) => assert!(error.is_race_condition(), "{error:?}"),
                }
            }
        });
        // Sessions report their statistics when they end.
        drop(db);
        let observer = Session::connect(&server.url());
        let column = |column: &str| {
            let sql = format!("SELECT {column} FROM pg_stat_database WHERE datname = '{database}'");
            observer.value(&sql)
        };
        let start = Instant::now();
        while column("numbackends") != "0" {
            assert!(start.elapsed() < HANG_LIMIT, "the sessions do not end");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(column("deadlocks"), "0");
    });
}
