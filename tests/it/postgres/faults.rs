//! Broken connections, a server that ends, and lost answers.

use super::counters::{self, Counters, assert_exact, run};
use super::proxy::Proxy;
use super::server::{Server, kill, new_name};
use super::sql::Session;
use crate::common::HANG_LIMIT;
use atomic_db::testing::with_timeout;
use atomic_db::{AtomicDb, Batch, Error, Item, Key, PostgresDb, PostgresDbBuilder, Query};
use std::thread;
use std::time::{Duration, Instant};

fn builder() -> PostgresDbBuilder<u64> {
    PostgresDb::builder().table(new_name("faults"))
}

fn key(sk: &str) -> Key<'_> {
    Key::new("pk", sk)
}

fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

/// The server reports the end of a session before it commits, so every outcome is known.
#[test]
fn counts_are_exact_while_sessions_are_terminated() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    with_timeout(HANG_LIMIT, move |_| {
        for counters in [Counters::Shared, Counters::Own] {
            let db = counters::builder().connect(server.url()).unwrap();
            let outcomes = run(&db, counters, || {
                let session = Session::connect(&server.url());
                for _ in 0..60 {
                    session.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                         WHERE application_name = 'atomic-db' ORDER BY random() LIMIT 2",
                    );
                    pause(50);
                }
            });
            assert_exact(&db, &outcomes, counters);
            if counters == Counters::Own {
                assert_eq!(outcomes.unknown.len(), 0, "all of them can be resolved");
                assert_eq!(outcomes.failed.len(), 0);
            }
        }
    });
}

#[test]
fn counts_are_exact_while_processes_of_the_server_are_killed() {
    let Some(server) = Server::start(&["-c", "restart_after_crash=on"]) else {
        return;
    };
    with_timeout(HANG_LIMIT, move |_| {
        let db = counters::builder().connect(server.url()).unwrap();
        let outcomes = run(&db, Counters::Own, || {
            for _ in 0..4 {
                pause(400);
                let session = Session::connect(&server.url());
                let pid = session.value(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'atomic-db' LIMIT 1",
                );
                kill("KILL", pid.parse().unwrap());
                // The server recovers before it accepts connections.
                pause(400);
                while super::server::try_sql(&server.url(), "SELECT 1").is_err() {
                    pause(20);
                }
            }
        });
        assert_exact(&db, &outcomes, Counters::Own);
        assert_eq!(outcomes.failed.len(), 0);
        assert_eq!(outcomes.unknown.len(), 0, "all of them can be resolved");
    });
}

#[test]
fn counts_are_exact_while_the_server_is_restarted_and_killed() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    with_timeout(HANG_LIMIT, move |_| {
        let db = counters::builder().connect(server.url()).unwrap();
        let outcomes = run(&db, Counters::Own, || {
            // A fast shutdown, an immediate one, and a crash.
            for signal in ["INT", "QUIT", "KILL", "INT"] {
                pause(400);
                server.stop(signal);
                pause(50);
                server.launch();
            }
            pause(400);
        });
        assert_exact(&db, &outcomes, Counters::Own);
        assert_eq!(outcomes.failed.len(), 0);
        assert_eq!(outcomes.unknown.len(), 0, "all of them can be resolved");
    });
}

#[test]
fn counts_are_exact_while_answers_are_lost() {
    let Some(server) = Server::shared() else {
        return;
    };
    with_timeout(HANG_LIMIT, move |_| {
        for (counters, pooled) in [
            (Counters::Own, false),
            (Counters::Own, true),
            (Counters::Shared, false),
        ] {
            let proxy = Proxy::start(server.folder());
            let db = counters::builder()
                .pooled(pooled)
                .connect(proxy.url())
                .unwrap();
            proxy.swallow_one_of(29);
            let outcomes = run(&db, counters, || pause(2_000));
            proxy.swallow_one_of(0);
            println!("{} answers were lost", proxy.swallowed());
            assert!(proxy.swallowed() > 3);
            assert_exact(&db, &outcomes, counters);
            if counters == Counters::Own {
                assert_eq!(outcomes.unknown.len(), 0, "all of them can be resolved");
            }
        }
    });
}

/// The answer does not arrive, and the connection stays open.
#[test]
fn a_commit_without_an_answer_is_resolved_by_another_attempt() {
    let Some(server) = Server::shared() else {
        return;
    };
    let proxy = Proxy::start(server.folder());
    let db = builder().attempt_timeout(Duration::from_millis(300));
    let db = db.timeout(Duration::from_secs(20)).pool_size(1);
    let db = db.connect(proxy.url()).unwrap();
    let lock = db.get_lock(key("lock")).unwrap();
    let version = db
        .set_atomic(&[Item::new("pk", "a", 1)], &[lock.clone()])
        .unwrap();
    let lock = lock.with_version(version);
    thread::scope(|scope| {
        proxy.be_silent(true);
        let commit = scope.spawn(|| db.set_atomic(&[Item::new("pk", "a", 2)], &[lock.clone()]));
        pause(150);
        proxy.be_silent(false);
        let version = commit.join().unwrap().unwrap();
        assert_eq!(db.get_lock(key("lock")).unwrap().version(), version);
    });
    assert_eq!(db.get(key("a")).unwrap().and_then(Item::into_data), Some(2));
}

/// Repeating it could undo the write of another caller, or bring an item back.
#[test]
fn an_unconditional_write_without_an_answer_is_not_repeated() {
    let Some(server) = Server::shared() else {
        return;
    };
    let proxy = Proxy::start(server.folder());
    let db = builder().pool_size(1).connect(proxy.url()).unwrap();
    let item = Item::new("pk", "a", 1);
    let create = Batch::new().create(item.clone());
    let writes: [(&dyn Fn() -> atomic_db::Result<()>, bool); 3] = [
        (&|| db.set(&[item.clone()]), true),
        (&|| db.delete(&[item.key()]), false),
        (&|| db.commit(&create).map(drop), true),
    ];
    for (write, leaves_an_item) in writes {
        // Prepares the statement on the only connection, so that its answer is the next one.
        write().unwrap();
        db.delete(&[item.key()]).unwrap();
        proxy.swallow_one_of(1);
        let outcome = write();
        assert!(
            matches!(outcome, Err(Error::OutcomeUnknown(_))),
            "{outcome:?}"
        );
        proxy.swallow_one_of(0);
        // It was executed.
        assert_eq!(db.get(item.key()).unwrap().is_some(), leaves_an_item);
        db.delete(&[item.key()]).unwrap();
    }
}

#[test]
fn a_commit_whose_locks_were_changed_after_a_lost_answer_is_unknown() {
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("faults");
    let proxy = Proxy::start(server.folder());
    let db = PostgresDb::<u64>::builder().table(&name);
    let db = db.attempt_timeout(Duration::from_millis(500)).pool_size(1);
    let db = db.connect(proxy.url()).unwrap();
    let other = PostgresDb::<u64>::builder().table(&name);
    let other = other.connect(server.url()).unwrap();
    let change = |sk: &str| {
        let lock = other.get_lock(key(sk)).unwrap();
        other.commit(&Batch::new().lock(lock)).unwrap();
    };
    let locks = |sks: &[&str]| {
        let locks = sks.iter().map(|sk| other.get_lock(key(sk)).unwrap());
        locks.fold(Batch::<u64>::new(), Batch::lock)
    };
    // Prepares the statements.
    db.commit(&locks(&["a"]).set(Item::new("pk", "x", 0)))
        .unwrap();
    db.commit(&locks(&["a"]).create(Item::new("pk", "new", 0)))
        .unwrap();

    // Executes `batch`, does not return its answer, and calls `before_retry` before the next attempt.
    let lose_answer = |batch: &Batch<u64>, before_retry: &(dyn Fn() + Sync)| {
        // Prepares the statements on the only connection.
        db.commit(&Batch::new().set(Item::new("pk", "y", 0)))
            .unwrap();
        db.commit(&Batch::new().create(Item::new("pk", "new", 0)))
            .unwrap_err();
        proxy.be_silent(true);
        thread::scope(|scope| {
            let commit = scope.spawn(|| db.commit(batch));
            pause(200);
            before_retry();
            proxy.be_silent(false);
            commit.join().unwrap()
        })
    };
    // All locks have a third version: the commit was executed before, or never.
    let batch = locks(&["a"]).set(Item::new("pk", "x", 1));
    let outcome = lose_answer(&batch, &|| change("a"));
    assert!(
        matches!(outcome, Err(Error::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    assert_eq!(db.get(key("x")).unwrap().and_then(Item::into_data), Some(1));

    // One lock has changed before the first attempt, which therefore wrote nothing; the other lock,
    // which is as expected, shows that.
    let batch = locks(&["a", "b"]).set(Item::new("pk", "x", 2));
    change("a");
    match lose_answer(&batch, &|| {}) {
        Err(Error::RaceCondition { keys }) => assert_eq!(keys, [key("a").to_buf()]),
        outcome => panic!("{outcome:?}"),
    }
    // The item exists, but the first attempt may still be executed once it is gone.
    let batch = locks(&["a"]).create(Item::new("pk", "new", 1));
    let outcome = lose_answer(&batch, &|| {});
    assert!(
        matches!(outcome, Err(Error::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    assert_eq!(db.get(key("x")).unwrap().and_then(Item::into_data), Some(1));
}

#[test]
fn connections_that_were_cut_while_idle_are_noticed_before_they_are_used() {
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("idle");
    let url = format!("{}&application_name={name}", server.url());
    let db = PostgresDb::<u64>::builder().table(&name);
    let db = db.connect(&url).unwrap();
    let session = Session::connect(&server.url());
    let cut = || {
        session.execute(&format!(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = '{name}'"
        ));
    };
    let create = |sk: String| db.commit(&Batch::new().create(Item::new("pk", sk, 1)));
    let cut_warm = |round: u64| {
        // Prepares the statements, so that nothing is sent before the write itself.
        create(format!("{round} warm")).unwrap();
        db.set(&[Item::new("pk", "a", round)]).unwrap();
        db.get(key("a")).unwrap();
        cut();
    };
    for round in 0..20 {
        cut_warm(3 * round);
        // Could not be repeated if it was sent.
        create(round.to_string()).unwrap();
        cut_warm(3 * round + 1);
        db.set(&[Item::new("pk", "a", round)]).unwrap();
        cut_warm(3 * round + 2);
        assert!(db.get(key("a")).unwrap().is_some());
    }
}

/// As after a failover, or when a firewall forgets connections.
#[test]
fn idle_connections_that_were_lost_without_notice_cost_one_attempt() {
    const CONNECTIONS: usize = 8;
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("lost");
    let proxy = Proxy::start(server.folder());
    let db = PostgresDb::<u64>::builder().table(&name);
    // Three attempts.
    let db = db.attempt_timeout(Duration::from_secs(4));
    let db = db.timeout(Duration::from_secs(12)).pool_size(CONNECTIONS);
    let db = db.connect(proxy.url()).unwrap();
    // Lets all of them wait at the same time, each on a connection of its own.
    let session = Session::connect(&server.url());
    session.execute(&format!("BEGIN; LOCK TABLE {name}"));
    thread::scope(|scope| {
        let get = || assert!(db.get(key("a")).unwrap().is_none());
        for _ in 0..CONNECTIONS {
            scope.spawn(get);
        }
        while proxy.connections() < CONNECTIONS {
            pause(5);
        }
        session.execute("COMMIT");
    });
    proxy.silence_connections();
    assert!(db.get(key("a")).unwrap().is_none());
    assert_eq!(proxy.connections(), CONNECTIONS + 1);
}

#[test]
fn a_pool_larger_than_the_server_allows_works_with_what_it_gets() {
    let arguments = [
        "-c",
        "max_connections=12",
        "-c",
        "superuser_reserved_connections=0",
    ];
    let Some(server) = Server::start(&arguments) else {
        return;
    };
    with_timeout(HANG_LIMIT, move |_| {
        let db = builder().pool_size(80).connect(server.url()).unwrap();
        thread::scope(|scope| {
            for thread in 0..40 {
                let db = &db;
                scope.spawn(move || {
                    for round in 0..20 {
                        let sk = format!("{thread}-{round}");
                        db.set(&[Item::new("pk", sk, round)]).unwrap();
                    }
                });
            }
        });
        assert_eq!(db.query(&Query::new("pk")).unwrap().len(), 800);
    });
}

/// The server's processes are stopped, so that nothing is answered and nothing is closed.
#[test]
fn calls_to_a_stopped_server_end_at_their_deadline() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let name = new_name("stopped");
    let db = PostgresDb::<u64>::builder().table(&name);
    let db = db.timeout(Duration::from_secs(1)).pool_size(1);
    let db = db.connect(server.url()).unwrap();
    let lock = db.get_lock(key("lock")).unwrap();
    db.commit(&Batch::new().lock(lock).set(Item::new("pk", "a", 1)))
        .unwrap();
    let lock = db.get_lock(key("lock")).unwrap();
    db.get(key("a")).unwrap();
    let session = Session::connect(&server.url());
    let pid =
        session.value("SELECT pid FROM pg_stat_activity WHERE application_name = 'atomic-db'");
    let pids = [pid.parse().unwrap(), server.pid()];
    pids.iter().for_each(|pid| kill("STOP", *pid));
    let start = Instant::now();
    let outcome = db.commit(&Batch::new().lock(lock).set(Item::new("pk", "a", 2)));
    assert!(
        matches!(outcome, Err(Error::OutcomeUnknown(_))),
        "{outcome:?}"
    );
    let outcome = db.get(key("a"));
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    let elapsed = start.elapsed();
    pids.iter().for_each(|pid| kill("CONT", *pid));
    assert!(elapsed < Duration::from_millis(3_500), "{elapsed:?}");
    // It was executed when the server went on.
    let start = Instant::now();
    while db.get(key("a")).ok().flatten().and_then(Item::into_data) != Some(2) {
        assert!(start.elapsed() < HANG_LIMIT);
        pause(20);
    }
}

#[test]
fn writes_on_a_server_that_became_read_only_fail_with_nothing_written() {
    let Some(server) = Server::shared() else {
        return;
    };
    let database = new_name("read_only");
    server.sql(&format!("CREATE DATABASE {database}"));
    let url = server.url_of(&database);
    let db = builder()
        .timeout(Duration::from_secs(1))
        .connect(&url)
        .unwrap();
    let lock = db.get_lock(key("lock")).unwrap();
    db.set(&[Item::new("pk", "a", 1)]).unwrap();
    let set_read_only = |on: bool| {
        server.sql(&format!(
            "ALTER DATABASE {database} SET default_transaction_read_only = {on}"
        ));
        server.sql(&format!(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{database}'"
        ));
    };
    set_read_only(true);
    for outcome in [
        db.set(&[Item::new("pk", "a", 2)]),
        db.commit(&Batch::new().lock(lock.clone())).map(drop),
        db.delete(&[key("a")]),
    ] {
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    }
    assert_eq!(db.get(key("a")).unwrap().and_then(Item::into_data), Some(1));
    set_read_only(false);
    db.set_atomic(&[Item::new("pk", "a", 3)], &[lock]).unwrap();
}
