//! `DynamoDb` against the server of `tests/dynamodb-server`, or another one.

mod fault_proxy;
mod faults;
mod requests;
mod runtimes;
mod server;
mod sharing;

use super::histories::{count, on_threads, seeds, thousand};
use super::reference_model::ops;
use atomic_db::testing::{Capabilities, check};
use atomic_db::{
    AtomicDb, Batch, Clock, DynamoDb, DynamoDbError, Error, Item, Key, KeyBuf, Lock, LruCache,
    ManualClock, Page, Query, Result, Version,
};
use atomic_db_test_support::history::workload::Workload;
use atomic_db_test_support::history::{Action, Op, Versions};
use atomic_db_test_support::reference_model as model;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::fmt::Debug;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

/// In 2033: the server deletes by its own clock what has expired, and is to find nothing.
const START: u64 = 2_000_000_000;

/// A new table with the defaults, for tests that live by a clock of their own.
fn table<T>(endpoint: &str, clock: ManualClock) -> DynamoDb<T> {
    server::builder(endpoint, clock).open().unwrap()
}

/// A new table, or `None` where there is no server.
fn new_table<T>() -> Option<DynamoDb<T>> {
    Some(table(server::endpoint()?, ManualClock::new(START)))
}

/// One test for each behaviour of the conformance suite, as `suite!` makes them, but that it is
/// skipped where there is no server.
macro_rules! tests_with_server {
    (($make:expr) $($case:ident)*) => {$(
        #[test]
        fn $case() {
            if let Some(endpoint) = super::server::endpoint() {
                let make = |clock| ($make)(endpoint, clock);
                check(
                    atomic_db::testing::$case,
                    make,
                    Capabilities::new().without_snapshots(),
                );
            }
        }
    )*};
}

mod conformance {
    use super::*;
    atomic_db::__testing_cases! { [tests_with_server] (table::<String>) }
}

mod conformance_behind_a_cache {
    use super::*;
    atomic_db::__testing_cases! {
        [tests_with_server]
        (|endpoint: &str, clock: ManualClock| {
            let db = table(endpoint, clock.clone());
            LruCache::builder(db).capacity(20).clock(clock).build()
        })
    }
}

/// A part of a database: every partition key and every sort key begins with something that is its
/// own. So many parts find place in one table, and no key is empty.
struct Part<D> {
    db: D,
    name: String,
}

impl<D: AtomicDb<Data = u32>> Part<D> {
    fn pk(&self, pk: &str) -> String {
        format!("{}/{pk}", self.name)
    }

    fn sk(sk: &str) -> String {
        format!("/{sk}")
    }

    fn inner(&self, key: Key<'_>) -> KeyBuf {
        KeyBuf::new(self.pk(key.pk), Self::sk(key.sk))
    }

    fn inner_item(&self, item: &Item<u32>) -> Item<u32> {
        let key = self.inner(item.key());
        readdressed(key.as_key(), item)
    }

    fn inner_lock(&self, lock: &Lock) -> Lock {
        Lock::new(self.inner(lock.key()), lock.version(), lock.ttl())
    }

    fn outer<'k>(&self, key: Key<'k>) -> Key<'k> {
        Key::new(&key.pk[self.name.len() + 1..], &key.sk[1..])
    }

    fn outer_item(&self, item: &Item<u32>) -> Item<u32> {
        readdressed(self.outer(item.key()), item)
    }

    fn outer_error(&self, error: Error) -> Error {
        let outer = |key: KeyBuf| self.outer(key.as_key()).to_buf();
        match error {
            Error::RaceCondition { keys } => Error::RaceCondition {
                keys: keys.into_iter().map(outer).collect(),
            },
            Error::AlreadyExists { key } => Error::AlreadyExists { key: outer(key) },
            other => other,
        }
    }
}

fn readdressed(key: Key<'_>, item: &Item<u32>) -> Item<u32> {
    let moved = match item.data() {
        Some(data) => Item::new(key.pk, key.sk, *data),
        None => Item::without_data(key.pk, key.sk),
    };
    match item.ttl() {
        Some(ttl) => moved.expires_at(ttl),
        None => moved,
    }
}

impl<D: AtomicDb<Data = u32>> AtomicDb for Part<D> {
    type Data = u32;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<u32>>> {
        let item = self.db.get(self.inner(key).as_key())?;
        Ok(item.map(|item| self.outer_item(&item)))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<u32>>> {
        let item = self.db.get_fresh(self.inner(key).as_key())?;
        Ok(item.map(|item| self.outer_item(&item)))
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<u32>>>> {
        let keys: Vec<KeyBuf> = keys.iter().map(|key| self.inner(*key)).collect();
        let keys: Vec<Key<'_>> = keys.iter().map(KeyBuf::as_key).collect();
        let items = self.db.get_many(&keys)?.into_iter();
        Ok(items
            .map(|item| item.map(|item| self.outer_item(&item)))
            .collect())
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let lock = self.db.get_lock(self.inner(key).as_key())?;
        Ok(Lock::new(key, lock.version(), lock.ttl()))
    }

    fn set(&self, items: &[Item<u32>]) -> Result<()> {
        let items: Vec<_> = items.iter().map(|item| self.inner_item(item)).collect();
        self.db.set(&items)
    }

    fn commit(&self, batch: &Batch<u32>) -> Result<Version> {
        let mut inner = Batch::new();
        for lock in batch.locks() {
            inner = inner.lock(self.inner_lock(lock));
        }
        for lock in batch.checks() {
            inner = inner.check(self.inner_lock(lock));
        }
        for item in batch.sets() {
            inner = inner.set(self.inner_item(item));
        }
        for item in batch.creates() {
            inner = inner.create(self.inner_item(item));
        }
        for key in batch.deletes() {
            inner = inner.delete(self.inner(key.as_key()));
        }
        let done = self.db.commit(&inner);
        done.map_err(|error| self.outer_error(error))
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        let keys: Vec<KeyBuf> = keys.iter().map(|key| self.inner(*key)).collect();
        let keys: Vec<Key<'_>> = keys.iter().map(KeyBuf::as_key).collect();
        self.db.delete(&keys)
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<u32>> {
        let mut inner = Query::new(self.pk(&query.pk)).prefix(Self::sk(query.prefix.as_str()));
        if query.reverse {
            inner = inner.reverse();
        }
        if let Some(limit) = query.limit {
            inner = inner.limit(limit);
        }
        if let Some(after) = query.after.as_deref() {
            inner = inner.after(Self::sk(after));
        }
        let after = after.map(Self::sk);
        let page = self.db.page(&inner, after.as_deref())?;
        let items = page.items.iter();
        Ok(Page {
            items: items.map(|item| self.outer_item(item)).collect(),
            next: page.next.map(|next| next[1..].to_owned()),
        })
    }
}

impl<D: AtomicDb<Data = u32>> model::Subject for Part<D> {}

#[test]
fn it_does_what_the_model_does() {
    let clock = ManualClock::new(START);
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let db = table::<u32>(endpoint, clock.clone());
    let mut runner = TestRunner::default();
    let cases = std::env::var("PROPTEST_CASES").ok();
    let cases = cases.map_or(6, |cases| cases.parse().expect("a count is a number"));
    for case in 0..cases {
        clock.set(START);
        let part = Part {
            db: db.clone(),
            name: case.to_string(),
        };
        let ops = ops().new_tree(&mut runner).unwrap().current();
        let done = match case % 2 {
            0 => model::run(&ops, &part, &clock),
            _ => {
                let cache = LruCache::builder(part).capacity(6).clock(clock.clone());
                model::run(&ops, &cache.build(), &clock)
            }
        };
        if let Err(mismatch) = done {
            panic!("{mismatch}\nby {ops:#?}");
        }
    }
}

#[test]
fn histories_of_threads_are_strictly_serializable() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let count = count(2);
    let mut operations = 0;
    let seeds = seeds().zip([false, true].into_iter().cycle());
    for (seed, cached) in seeds.take(count) {
        let clock = ManualClock::new(START);
        let db = table::<String>(endpoint, clock.clone());
        let db: Arc<dyn AtomicDb<Data = String> + Send + Sync> = match cached {
            false => Arc::new(db),
            true => Arc::new(LruCache::builder(db).capacity(6).clock(clock).build()),
        };
        let workload = Workload {
            calls: 60,
            ..thousand(seed)
        };
        let (mut history, sum) = workload.run(&Arc::new(db), None, on_threads);
        // A read of many keys sees each at an instant of its own.
        history.ops = history.ops.into_iter().flat_map(one_by_one).collect();
        if let Err(anomaly) = history.check(Versions::Ahead) {
            panic!("cached: {cached}, {workload}: {anomaly}");
        }
        assert_eq!(sum, workload.sum(), "cached: {cached}, {workload}");
        operations += history.ops.len();
    }
    println!("histories {count}, operations {operations}");
}

/// A read of many keys as reads of one, all at the same time.
fn one_by_one(op: Op) -> Vec<Op> {
    let Action::Read(call, seen) = op.action else {
        return vec![op];
    };
    let seen = seen.into_iter();
    seen.map(|seen| Op {
        action: Action::Read(call, vec![seen]),
        ..op
    })
    .collect()
}

#[test]
fn a_handle_is_cheap_and_goes_everywhere() {
    fn goes_everywhere<D: Clone + Debug + Send + Sync + UnwindSafe + RefUnwindSafe + 'static>() {}
    goes_everywhere::<DynamoDb<String>>();
    goes_everywhere::<DynamoDb<std::cell::Cell<u8>>>();
    let Some(db) = new_table::<String>() else {
        return;
    };
    let told = format!("{db:?}");
    assert!(told.starts_with("DynamoDb { table: \"test-"), "{told}");
    assert!(!told.contains("redentials"), "{told}");
}

/// The source of an error, which tells what to do about it.
fn source(error: &Error) -> &DynamoDbError {
    let (Error::Backend(source) | Error::Unavailable(source)) = error else {
        panic!("{error:?}");
    };
    source.downcast_ref().expect("DynamoDB said so")
}

#[test]
fn a_table_that_is_missing_is_told() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let name = server::unique_table_name();
    let db = server::builder_for_table::<String>(endpoint, name.as_str());
    let db = db.open().unwrap();
    let lock = Lock::new(("pk", "lock"), Version::from_u128(1), u64::MAX);
    for error in [
        db.get(Key::new("pk", "a")).map(drop),
        db.get_many(&[Key::new("pk", "a")]).map(drop),
        db.get_lock(Key::new("pk", "lock")).map(drop),
        db.set(&[Item::new("pk", "a", String::new())]),
        db.set_atomic(&[Item::new("pk", "a", String::new())], &[lock])
            .map(drop),
        db.delete(&[Key::new("pk", "a")]),
        db.query(&Query::new("pk")).map(drop),
    ]
    .map(Result::unwrap_err)
    {
        assert!(matches!(error, Error::Backend(_)), "{error:?}");
        match source(&error) {
            DynamoDbError::TableNotFound { table } => assert_eq!(*table, name),
            other => panic!("{other:?}"),
        }
    }
    // Who may create it does so, and then it is there for everybody; also at once and twice.
    let creators = [0; 4].map(|_| {
        let builder = server::builder_for_table::<String>(endpoint, name.as_str());
        std::thread::spawn(|| builder.create_table(true).open())
    });
    for creator in creators {
        creator.join().unwrap().unwrap();
    }
    assert_eq!(db.get(Key::new("pk", "a")).unwrap(), None);
}

#[test]
fn what_a_builder_is_told_is_checked() {
    let open = |change: fn(atomic_db::DynamoDbBuilder<u8>) -> atomic_db::DynamoDbBuilder<u8>| {
        change(server::builder_for_table("http://127.0.0.1:1", "table")).open()
    };
    open(|builder| builder).expect("opening sends nothing");
    for refused in [
        open(|builder| builder.timeout(Duration::ZERO)),
        open(|builder| builder.timeout(Duration::MAX)),
        open(|builder| builder.attempt_timeout(Duration::ZERO)),
        open(|builder| builder.worker_threads(0)),
        open(|builder| builder.worker_threads(usize::MAX)),
        server::builder_for_table("http://127.0.0.1:1", "").open(),
        server::builder_for_table("http://127.0.0.1:1", "a table").open(),
    ] {
        let refused = refused.unwrap_err();
        assert!(
            matches!(
                refused,
                Error::InvalidInput(_) | Error::LimitExceeded { .. }
            ),
            "{refused:?}"
        );
    }
    let db = open(|builder| builder.endpoint_url("no url at all")).unwrap();
    assert!(db.get(Key::new("pk", "a")).is_err());

    let bare = aws_config::SdkConfig::builder;
    let without = |config: aws_config::SdkConfig| {
        let builder = DynamoDb::<u8>::builder("table").sdk_config(&config);
        builder.open().unwrap_err()
    };
    let error = without(bare().build());
    assert!(
        matches!(&error, Error::InvalidInput(text) if text.contains("region")),
        "{error:?}"
    );
    let error = without(bare().region(aws_config::Region::new("local")).build());
    assert!(
        matches!(source(&error), DynamoDbError::AccessDenied { .. }),
        "{error:?}"
    );
}

#[test]
fn a_handle_of_another_type_reads_the_same_table() {
    let Some(numbers) = new_table::<u32>() else {
        return;
    };
    let texts = numbers.with_data::<String>();
    numbers.set(&[Item::new("pk", "number", 7)]).unwrap();
    texts
        .set(&[Item::new("pk", "text", "seven".to_owned())])
        .unwrap();
    let number = numbers.get(Key::new("pk", "number")).unwrap();
    assert_eq!(number.and_then(Item::into_data), Some(7));
    match texts.get(Key::new("pk", "number")) {
        Err(Error::Codec { key, .. }) => assert_eq!(key, KeyBuf::new("pk", "number")),
        other => panic!("{other:?}"),
    }
    let lock = texts.get_lock(Key::new("pk", "lock")).unwrap();
    assert_eq!(numbers.get_lock(Key::new("pk", "lock")).unwrap(), lock);
    drop(numbers);
    texts.set_atomic(&[], &[lock]).unwrap();
    assert!(texts.get(Key::new("pk", "text")).unwrap().is_some());
}

/// Times to live are the clock's; how long to wait is the system's.
#[test]
fn a_clock_may_call_the_database_that_asks_it() {
    #[derive(Debug)]
    struct Asking(std::sync::OnceLock<DynamoDb<u8>>);

    impl Clock for Asking {
        fn now(&self) -> Duration {
            if let Some(db) = self.0.get() {
                let row = db.get(Key::new("pk", "a")).unwrap();
                assert!(row.is_some());
            }
            Duration::from_secs(START)
        }

        fn sleep(&self, _: Duration) {}
    }

    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let name = server::unique_table_name();
    let told = server::builder_for_table::<u8>(endpoint, name.as_str());
    let told = told.create_table(true).open().unwrap();
    told.set(&[Item::new("pk", "a", 1)]).unwrap();
    let clock = Arc::new(Asking(std::sync::OnceLock::new()));
    let db = server::builder_for_table::<u8>(endpoint, name.as_str());
    let db = db.clock(Arc::clone(&clock)).open().unwrap();
    clock.0.set(told).unwrap();
    assert_eq!(db.query(&Query::new("pk")).unwrap().len(), 1);
    db.get_lock(Key::new("pk", "lock")).unwrap();
}
