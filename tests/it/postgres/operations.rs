//! Limits, costs and options that only `PostgresDb` has.

use super::proxy::Proxy;
use super::server::{Server, new_name};
use super::sql::Session;
use crate::common::{HANG_LIMIT, sks};
use atomic_db::testing::with_timeout;
use atomic_db::{
    AtomicDb, AtomicDbExt, Batch, Clock, Error, Item, Key, Lock, ManualClock, PostgresDb,
    PostgresDbBuilder, Query, Result, Scan, Version,
};
use std::fmt::Debug;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

fn builder(table: &str) -> PostgresDbBuilder<String> {
    PostgresDb::builder().table(table)
}

fn new_db() -> Option<PostgresDb<String>> {
    let server = Server::shared()?;
    Some(builder(&new_name("ops")).connect(server.url()).unwrap())
}

fn item(sk: &str) -> Item<String> {
    Item::new("pk", sk, format!("data of {sk}"))
}

fn key(sk: &str) -> Key<'_> {
    Key::new("pk", sk)
}

#[test]
fn limits_are_refused_before_anything_is_sent() {
    let Some(db) = new_db() else { return };
    let assert_limit = |result: Result<()>, expected: usize| match result {
        Err(Error::LimitExceeded { limit, actual, .. }) => {
            assert_eq!((limit, actual), (expected, expected + 1));
        }
        other => panic!("{other:?}"),
    };
    let max = 2_600;
    // Random characters are not compressible.
    let noise: String = (0..max as u32)
        .map(|number| char::from(b'!' + (number.wrapping_mul(2_654_435_761) >> 24) as u8 % 90))
        .collect();
    let too_long = format!("{noise}x");
    for long in [Key::new(&too_long, ""), Key::new("x", &noise)] {
        assert_limit(db.get(long).map(drop), max);
        assert_limit(db.get_many(&[long]).map(drop), max);
        assert_limit(db.get_lock(long).map(drop), max);
        assert_limit(db.get_locks(&[long]).map(drop), max);
        assert_limit(db.delete(&[long]), max);
        assert_limit(db.set(&[item("a"), Item::at(long, String::new())]), max);
        let batch = Batch::new().set(item("a")).delete(long);
        assert_limit(db.commit(&batch).map(drop), max);
        let lock = Lock::new(long, Version::from_u128(1), u64::MAX);
        assert_limit(db.set_atomic(&[item("a")], &[lock]).map(drop), max);
    }
    // The JSON of a string has two quotes in addition.
    let max = 16 << 20;
    let large = Item::new("pk", "large", "x".repeat(max - 1));
    assert_limit(db.set(&[item("a"), large]), max);
    let late = item("late").expires_at(i64::MAX as u64 + 1);
    assert_limit(db.set(&[item("a"), late.clone()]), i64::MAX as usize);
    assert_limit(
        db.commit(&Batch::new().set(late)).map(drop),
        i64::MAX as usize,
    );
    for nul in [Key::new("a\0", "b"), Key::new("a", "\0")] {
        for outcome in [
            db.get(nul).map(drop),
            db.set(&[item("a"), Item::at(nul, String::new())]),
            db.commit(&Batch::new().set(item("a")).delete(nul))
                .map(drop),
        ] {
            assert!(
                matches!(outcome, Err(Error::InvalidInput(_))),
                "{outcome:?}"
            );
        }
    }
    assert_eq!(db.scan().count(), 0);

    let longest = Item::new(&noise[..1_300], &noise[1_300..], "x".repeat(max - 2));
    db.set(&[longest.clone().expires_at(i64::MAX as u64)])
        .unwrap();
    let found = db.get(longest.key()).unwrap();
    assert_eq!(found.unwrap().data().unwrap().len(), max - 2);
}

#[test]
fn large_writes_are_split_and_keep_their_order() {
    let Some(db) = new_db() else { return };
    let items: Vec<Item<String>> = (0..12_000)
        .map(|number| Item::new("pk", (number % 11_000).to_string(), number.to_string()))
        .collect();
    db.set(&items).unwrap();
    let keys: Vec<Key<'_>> = items[..11_000].iter().map(Item::key).collect();
    let found = db.get_many(&keys).unwrap();
    for (number, found) in found.into_iter().enumerate() {
        let last = if number < 1_000 {
            number + 11_000
        } else {
            number
        };
        assert_eq!(found.unwrap().into_data(), Some(last.to_string()));
    }
    assert_eq!(db.stream(Query::new("pk")).count(), 11_000);
    assert_eq!(db.scan().count(), 11_000);
    db.delete(&keys).unwrap();
    assert_eq!(db.query(&Query::new("pk")).unwrap(), []);
    let large: Vec<Item<String>> = (0..9)
        .map(|number| Item::new("large", number.to_string(), "x".repeat(1_500_000)))
        .collect();
    db.set(&large).unwrap();
    assert_eq!(db.scan().count(), 9);
}

#[test]
fn a_page_of_large_items_holds_few_of_them() {
    let Some(db) = new_db() else { return };
    let items: Vec<_> = (0..9)
        .map(|number| Item::new("pk", number.to_string(), "x".repeat(400_000)))
        .collect();
    db.set(&items).unwrap();
    let page = db.page(&Query::new("pk"), None).unwrap();
    assert_eq!(sks(&page.items), ["0", "1", "2"]);
    assert_eq!(page.next.as_deref(), Some("2"));
    let page = db.page(&Query::new("pk").reverse(), Some("2")).unwrap();
    assert_eq!(sks(&page.items), ["1", "0"]);
    assert_eq!(page.next, None);
    assert_eq!(db.stream(Query::new("pk").reverse()).count(), 9);
}

#[test]
fn a_purge_removes_expired_rows_and_no_others() {
    let Some(server) = Server::shared() else {
        return;
    };
    let clock = ManualClock::new(1_000_000);
    let name = new_name("ops");
    let db = builder(&name).clock(clock.clone());
    let db = db.connect(server.url()).unwrap();
    let expiring = (0..2_500).map(|number| item(&number.to_string()).expires_at(1_000_100));
    db.set(&expiring.collect::<Vec<_>>()).unwrap();
    db.set(&[item("stays")]).unwrap();
    db.get_lock(key("lock")).unwrap();
    assert_eq!(db.purge_expired().unwrap(), 0);
    clock.set(1_000_101);
    assert_eq!(db.purge_expired().unwrap(), 2_500);
    clock.advance(Duration::from_secs(2 * Lock::LIFETIME));
    assert_eq!(db.purge_expired().unwrap(), 1);
    let count = format!("SELECT count(*) FROM {name}");
    assert_eq!(Session::connect(&server.url()).value(&count), "1");
}

/// The recipe of the documentation.
#[test]
fn data_can_be_read_and_changed_in_sql() {
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("ops");
    let db = builder(&name).connect(server.url()).unwrap();
    let numbers = db.with_data::<Vec<f64>>();
    numbers
        .set(&[Item::new("pk", "n", vec![1.5, -0.0])])
        .unwrap();
    db.get_lock(key("lock")).unwrap();
    let session = Session::connect(&server.url());
    let rows = session.try_rows(&format!(
        "SELECT sk, data, data::json->>0, version IS NULL FROM {name} WHERE pk = 'pk' ORDER BY sk"
    ));
    assert_eq!(
        rows.unwrap(),
        [
            ["lock", "NULL", "NULL", "f"],
            ["n", "[1.5,-0.0]", "1.5", "t"]
        ]
    );
    session.execute(&format!(
        "UPDATE {name} SET data = '\"by hand\"' WHERE sk = 'n'"
    ));
    let found = db.get(key("n")).unwrap().and_then(Item::into_data);
    assert_eq!(found.as_deref(), Some("by hand"));
    match numbers.get(key("n")) {
        Err(Error::Codec { key: named, .. }) => assert_eq!(named, key("n")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_takes_one_round_trip() {
    let Some(server) = Server::shared() else {
        return;
    };
    for pooled in [false, true] {
        let proxy = Proxy::start(server.folder());
        let db = builder(&new_name("ops")).pooled(pooled).pool_size(1);
        let db = db.connect(proxy.url()).unwrap();
        let lock = db.get_lock(key("lock")).unwrap();
        let round_trips = |call: &dyn Fn()| {
            // The first one may prepare the statement.
            call();
            let before = proxy.sent();
            call();
            proxy.sent() - before
        };
        let commit = |batch: Batch<String>| {
            let lock = db.get_lock(key("lock")).unwrap();
            let before = proxy.sent();
            db.commit(&batch.lock(lock)).unwrap();
            proxy.sent() - before
        };
        let query = Query::new("pk").prefix("a").limit(3);
        let calls: [(&str, &dyn Fn()); 9] = [
            ("get", &|| drop(db.get(key("a")).unwrap())),
            ("get_many", &|| {
                drop(db.get_many(&[key("a"), key("b")]).unwrap());
            }),
            ("get_lock", &|| drop(db.get_lock(key("lock")).unwrap())),
            ("get_locks", &|| drop(db.get_locks(&[key("lock")]).unwrap())),
            ("set", &|| db.set(&[item("a"), item("b")]).unwrap()),
            ("delete", &|| db.delete(&[key("a")]).unwrap()),
            ("query", &|| drop(db.query(&query).unwrap())),
            ("page", &|| drop(db.page(&query, None).unwrap())),
            ("purge", &|| assert_eq!(db.purge_expired().unwrap(), 0)),
        ];
        for (name, call) in calls {
            assert_eq!(round_trips(call), 1, "{name}, pooled: {pooled}");
        }
        let batches: [fn() -> Batch<String>; 3] = [
            || Batch::new().set(item("a")),
            || Batch::new().delete(("pk", "a")),
            || {
                Batch::new()
                    .set(item("b"))
                    .create(item("a"))
                    .delete(("pk", "c"))
            },
        ];
        for batch in batches {
            commit(batch());
            db.delete(&[key("a")]).unwrap();
            assert_eq!(commit(batch()), 1, "{:?}, pooled: {pooled}", batch());
        }
        drop(lock);
    }
}

/// Plans that were made for an almost empty table would scan it, and stay.
#[test]
fn no_statement_scans_the_table() {
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("plans");
    let clock = ManualClock::new(1_000_000);
    let open = || {
        let db = builder(&name).clock(clock.clone()).pool_size(1);
        db.connect(server.url()).unwrap()
    };
    let session = Session::connect(&server.url());
    open().set(&[item("first")]).unwrap();
    session.execute(&format!("VACUUM ANALYZE {name}"));
    let scans = |counter: &str| -> i64 {
        let sql = format!("SELECT {counter} FROM pg_stat_user_tables WHERE relname = '{name}'");
        session.value(&sql).parse().unwrap()
    };
    // The creation of the index counts. A session reports its statistics when it ends.
    let before = settled(|| scans("seq_scan"));
    let db = open();
    for round in 0..12 {
        let sk = round.to_string();
        let locks = db.get_locks(&[key("lock"), key("other lock")]).unwrap();
        let batch = Batch::new().lock(locks[0].clone()).check(locks[1].clone());
        let batch = batch.set(item("a")).create(item(&sk)).delete(("pk", "b"));
        db.commit(&batch).unwrap();
        let lock = db.get_lock(key("lock")).unwrap();
        db.set_atomic(&[item("a")], &[lock]).unwrap();
        db.set(&[item("a"), item("b").expires_at(1)]).unwrap();
        db.get(key("a")).unwrap();
        db.get_many(&[key("a"), key("b")]).unwrap();
        db.delete(&[key("c")]).unwrap();
        for query in [
            Query::new("pk"),
            Query::new("pk").prefix("a").reverse().limit(2),
            Query::new("pk").range("a"..="b").after("a"),
        ] {
            db.query(&query).unwrap();
            db.page(&query, None).unwrap();
        }
        db.scan().for_each(drop);
        db.purge_expired().unwrap();
    }
    let index_scans = scans("idx_scan");
    drop(db);
    let start = Instant::now();
    while scans("idx_scan") < index_scans + 100 {
        assert!(start.elapsed() < HANG_LIMIT, "no statistics arrived");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(settled(|| scans("seq_scan")), before);
}

/// Returns a value that has not changed for a while.
fn settled(value: impl Fn() -> i64) -> i64 {
    loop {
        let first = value();
        thread::sleep(Duration::from_millis(1_200));
        if value() == first {
            return first;
        }
    }
}

#[test]
fn handles_are_cloneable_and_thread_safe_and_hide_the_url() {
    fn assert_bounds<D: Clone + Debug + Send + Sync + UnwindSafe + RefUnwindSafe + 'static>() {}
    assert_bounds::<PostgresDb<String>>();
    assert_bounds::<PostgresDb<std::cell::Cell<u8>>>();
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("shown");
    let url = server
        .url()
        .replace("user=postgres", "user=postgres&password=secret");
    let db = builder(&name).connect(&url).unwrap();
    db.set(&[item("secret")]).unwrap();
    let text = format!("{db:?} {:?}", builder(&name));
    assert!(text.contains(&name) && !text.contains("secret"), "{text}");
    assert!(db.retry_queue().is_some());
    let (one, other) = (db.clone(), db.with_data::<u8>());
    assert!(std::ptr::eq(
        one.retry_queue().unwrap(),
        other.retry_queue().unwrap()
    ));
}

/// The clock is read on the caller's thread, where it may call the database.
#[test]
fn a_clock_may_write_to_the_database() {
    #[derive(Debug)]
    struct WritingClock(OnceLock<PostgresDb<String>>);

    impl Clock for WritingClock {
        fn now(&self) -> Duration {
            if let Some(db) = self.0.get() {
                db.set(&[Item::without_data("clock", "was read")]).unwrap();
            }
            Duration::from_secs(1_000)
        }

        fn sleep(&self, _: Duration) {}
    }

    let Some(server) = Server::shared() else {
        return;
    };
    with_timeout(HANG_LIMIT, |_| {
        let clock = Arc::new(WritingClock(OnceLock::new()));
        let name = new_name("ops");
        let db = builder(&name).clock(Arc::clone(&clock)).pool_size(1);
        let db = db.connect(server.url()).unwrap();
        let writer = builder(&name).connect(server.url()).unwrap();
        clock.0.set(writer).unwrap();
        db.update(("pk", "a"), ("pk", "lock"), |_| Some("1".to_owned()))
            .unwrap();
        db.query(&Query::new("pk")).unwrap();
        db.purge_expired().unwrap();
        assert!(db.contains(("clock", "was read")).unwrap());
    });
}

#[test]
fn the_wait_for_a_connection_of_the_pool_ends_at_the_deadline() {
    let Some(server) = Server::shared() else {
        return;
    };
    let name = new_name("ops");
    let db = builder(&name)
        .pool_size(1)
        .timeout(Duration::from_millis(400));
    let db = db.attempt_timeout(Duration::from_millis(400));
    let db = db.connect(server.url()).unwrap();
    let session = Session::connect(&server.url());
    session.execute(&format!("BEGIN; LOCK TABLE {name}"));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let start = Instant::now();
                let outcome = db.get(key("a"));
                assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
                assert!(start.elapsed() < Duration::from_secs(2));
            });
        }
    });
    session.execute("COMMIT");
    assert_eq!(db.get(key("a")).unwrap(), None);
}
