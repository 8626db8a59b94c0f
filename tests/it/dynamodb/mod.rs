//! `DynamoDb` against the server of `tests/dynamodb-server`, or another one.

mod behind_proxy;
mod commits;
mod credentials;
pub(crate) mod fault_proxy;
mod faults;
mod interop;
mod requests;
mod responses;
mod runtimes;
mod scans;
pub(crate) mod server;
mod settings;
mod throughput;

use super::histories::{count, on_threads, seeds};
use super::reference_model::ops;
use atomic_db::testing::Workload;
use atomic_db::testing::{Capabilities, check, run_concurrently};
use atomic_db::{
    AtomicDb, Batch, Bytes, Clock, DynamoDb, DynamoDbError, Error, Item, Key, KeyBuf, Lock,
    LruCache, ManualClock, Observer, Page, Query, Result, RetryQueue, Version,
};
use atomic_db_test_support::reference_model as model;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::fmt::Debug;
use std::ops::Bound;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// In 2033, so that the server, which deletes expired rows by its own clock, finds none.
const START: u64 = 2_000_000_000;

/// How long a test may hang before it fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Creates a new table with the default settings.
fn new_db<T>(endpoint: &str, clock: ManualClock) -> DynamoDb<T> {
    server::builder(endpoint, clock).open().unwrap()
}

/// Creates a new table, or returns `None` without a server.
fn new_db_or_skip<T>() -> Option<DynamoDb<T>> {
    Some(new_db(server::endpoint()?, ManualClock::new(START)))
}

/// Returns the error of DynamoDB within `error`.
fn dynamodb_error(error: &Error) -> &DynamoDbError {
    let (Error::Backend(source) | Error::Unavailable(source) | Error::OutcomeUnknown(source)) =
        error
    else {
        panic!("{error:?}");
    };
    let source = source.downcast_ref();
    source.unwrap_or_else(|| panic!("not a DynamoDbError: {error:?}"))
}

/// Makes one test of each conformance case, as `suite!` does. The tests are skipped without a server.
macro_rules! conformance_tests {
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
    atomic_db::__testing_cases! { [conformance_tests] (new_db::<String>) }
}

mod conformance_of_scans {
    use super::*;
    atomic_db::__testing_scan_cases! { [conformance_tests] (new_db::<String>) }
}

mod conformance_behind_a_cache {
    use super::*;
    atomic_db::__testing_cases! {
        [conformance_tests]
        (|endpoint: &str, clock: ManualClock| {
            let db = new_db(endpoint, clock.clone());
            LruCache::builder(db).capacity(20).clock(clock).build()
        })
    }
}

/// A namespace of a database: prefixes every partition key and every sort key. Many reference model
/// cases then share one table, and no key is empty.
struct Namespaced<D> {
    db: D,
    namespace: String,
}

impl<D: AtomicDb<Data = u32>> Namespaced<D> {
    fn pk(&self, pk: &str) -> String {
        format!("{}/{pk}", self.namespace)
    }

    fn sk(sk: &str) -> String {
        format!("/{sk}")
    }

    fn to_inner(&self, key: Key<'_>) -> KeyBuf {
        KeyBuf::new(self.pk(key.pk), Self::sk(key.sk))
    }

    fn to_inner_keys(&self, keys: &[Key<'_>]) -> Vec<KeyBuf> {
        keys.iter().map(|key| self.to_inner(*key)).collect()
    }

    fn to_inner_item(&self, item: &Item<u32>) -> Item<u32> {
        let key = self.to_inner(item.key());
        with_key(key.as_key(), item)
    }

    fn to_inner_lock(&self, lock: &Lock) -> Lock {
        Lock::new(self.to_inner(lock.key()), lock.version(), lock.ttl())
    }

    fn to_outer<'k>(&self, key: Key<'k>) -> Key<'k> {
        Key::new(&key.pk[self.namespace.len() + 1..], &key.sk[1..])
    }

    fn to_outer_items(&self, items: Vec<Option<Item<u32>>>) -> Vec<Option<Item<u32>>> {
        let items = items.into_iter();
        items
            .map(|item| item.map(|item| self.to_outer_item(&item)))
            .collect()
    }

    fn to_outer_item(&self, item: &Item<u32>) -> Item<u32> {
        with_key(self.to_outer(item.key()), item)
    }

    fn to_outer_error(&self, error: Error) -> Error {
        let outer = |key: KeyBuf| self.to_outer(key.as_key()).to_buf();
        match error {
            Error::RaceCondition { keys } => Error::RaceCondition {
                keys: keys.into_iter().map(outer).collect(),
            },
            Error::AlreadyExists { key } => Error::AlreadyExists { key: outer(key) },
            other => other,
        }
    }
}

fn with_key(key: Key<'_>, item: &Item<u32>) -> Item<u32> {
    let copy = match item.data() {
        Some(data) => Item::new(key.pk, key.sk, *data),
        None => Item::without_data(key.pk, key.sk),
    };
    match item.ttl() {
        Some(ttl) => copy.expires_at(ttl),
        None => copy,
    }
}

impl<D: AtomicDb<Data = u32>> AtomicDb for Namespaced<D> {
    type Data = u32;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<u32>>> {
        let item = self.db.get(self.to_inner(key).as_key())?;
        Ok(item.map(|item| self.to_outer_item(&item)))
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<u32>>> {
        let item = self.db.get_fresh(self.to_inner(key).as_key())?;
        Ok(item.map(|item| self.to_outer_item(&item)))
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<u32>>>> {
        let keys = self.to_inner_keys(keys);
        let keys: Vec<Key<'_>> = keys.iter().map(KeyBuf::as_key).collect();
        Ok(self.to_outer_items(self.db.get_many(&keys)?))
    }

    fn get_many_fresh(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<u32>>>> {
        let keys = self.to_inner_keys(keys);
        let keys: Vec<Key<'_>> = keys.iter().map(KeyBuf::as_key).collect();
        Ok(self.to_outer_items(self.db.get_many_fresh(&keys)?))
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let lock = self.db.get_lock(self.to_inner(key).as_key())?;
        Ok(Lock::new(key, lock.version(), lock.ttl()))
    }

    fn get_locks(&self, keys: &[Key<'_>]) -> Result<Vec<Lock>> {
        let inner = self.to_inner_keys(keys);
        let inner: Vec<Key<'_>> = inner.iter().map(KeyBuf::as_key).collect();
        let locks = self.db.get_locks(&inner)?;
        let locks = keys.iter().zip(locks);
        Ok(locks
            .map(|(key, lock)| Lock::new(*key, lock.version(), lock.ttl()))
            .collect())
    }

    fn set(&self, items: &[Item<u32>]) -> Result<()> {
        let items: Vec<_> = items.iter().map(|item| self.to_inner_item(item)).collect();
        self.db.set(&items)
    }

    fn commit(&self, batch: &Batch<u32>) -> Result<Version> {
        let mut inner = Batch::new();
        for lock in batch.locks() {
            inner = inner.lock(self.to_inner_lock(lock));
        }
        for lock in batch.checks() {
            inner = inner.check(self.to_inner_lock(lock));
        }
        for item in batch.sets() {
            inner = inner.set(self.to_inner_item(item));
        }
        for item in batch.creates() {
            inner = inner.create(self.to_inner_item(item));
        }
        for key in batch.deletes() {
            inner = inner.delete(self.to_inner(key.as_key()));
        }
        let outcome = self.db.commit(&inner);
        outcome.map_err(|error| self.to_outer_error(error))
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        let keys = self.to_inner_keys(keys);
        let keys: Vec<Key<'_>> = keys.iter().map(KeyBuf::as_key).collect();
        self.db.delete(&keys)
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<u32>> {
        let mut inner = query.clone();
        let bound = |bound: &Bound<String>| bound.as_ref().map(|sk| Self::sk(sk));
        inner.pk = self.pk(&query.pk);
        inner.prefix = Self::sk(&query.prefix);
        inner.range = (bound(&query.range.0), bound(&query.range.1));
        inner.after = query.after.as_deref().map(Self::sk);
        let after = after.map(Self::sk);
        let page = self.db.page(&inner, after.as_deref())?;
        let items = page.items.iter();
        Ok(Page {
            items: items.map(|item| self.to_outer_item(item)).collect(),
            next: page.next.map(|next| next[1..].to_owned()),
        })
    }

    fn retry_queue(&self) -> Option<&RetryQueue> {
        self.db.retry_queue()
    }

    fn transaction_observer(&self) -> Option<&dyn Observer> {
        self.db.transaction_observer()
    }
}

impl<D: AtomicDb<Data = u32>> model::DbUnderTest for Namespaced<D> {}

#[test]
fn agrees_with_the_reference_model() {
    let clock = ManualClock::new(START);
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let db = new_db::<u32>(endpoint, clock.clone());
    let mut runner = TestRunner::default();
    let cases = std::env::var("PROPTEST_CASES").ok();
    let cases = cases.map_or(6, |cases| {
        cases.parse().expect("PROPTEST_CASES is a number")
    });
    for case in 0..cases {
        clock.set(START);
        let namespaced = Namespaced {
            db: db.clone(),
            namespace: case.to_string(),
        };
        let ops = ops().new_tree(&mut runner).unwrap().current();
        let outcome = if case % 2 == 0 {
            model::run(&ops, &namespaced, &clock)
        } else {
            let cache = LruCache::builder(namespaced).capacity(6);
            model::run(&ops, &cache.clock(clock.clone()).build(), &clock)
        };
        if let Err(mismatch) = outcome {
            panic!("{mismatch}\nafter {ops:#?}");
        }
    }
}

/// Guarantee 5.
#[test]
fn a_query_returns_the_items_that_it_matches() {
    let Some(db) = new_db_or_skip::<u32>() else {
        return;
    };
    // The successor of one character has more bytes, one character has none.
    let chars = ["", "a", "\u{7f}", "\u{80}", "\u{10ffff}"];
    let mut texts: Vec<String> = chars
        .iter()
        .flat_map(|first| chars.map(|second| format!("{first}{second}")))
        .collect();
    texts.sort_unstable();
    texts.dedup();
    // Of every four texts, one has no row and one a hidden row. The empty text is the first of all.
    let row = |(number, sk): (u32, &String)| match number % 4 {
        0 => None,
        1 => Some(Item::new("pk", sk, number).expires_at(START - 1)),
        _ => Some(Item::new("pk", sk, number)),
    };
    let items: Vec<Item<u32>> = (0..).zip(&texts).filter_map(row).collect();
    db.set(&items).unwrap();
    let text = prop::sample::select(texts);
    let bound = || {
        prop_oneof![
            Just(Bound::Unbounded),
            text.clone().prop_map(Bound::Included),
            text.clone().prop_map(Bound::Excluded),
        ]
    };
    let queries = (
        prop_oneof![Just(String::new()), text.clone()],
        (bound(), bound()),
        any::<bool>(),
        prop::option::of(0..6_usize),
        prop::option::of(text.clone()),
    );
    let mut runner = TestRunner::default();
    for _ in 0..200 {
        let (prefix, range, reverse, limit, after) =
            queries.new_tree(&mut runner).unwrap().current();
        let mut query = Query::new("pk").prefix(prefix).range(range);
        query.reverse = reverse;
        query.after = after;
        let mut expected = items.clone();
        expected.retain(|item| query.matches(item.key()) && item.ttl().is_none());
        if reverse {
            expected.reverse();
        }
        let mut paged = Vec::new();
        let mut next = None;
        loop {
            let page = db.page(&query.clone().limit(2), next.as_deref()).unwrap();
            assert!(page.items.len() <= 2);
            paged.extend(page.items);
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        assert_eq!(paged, expected, "{query:?} of {items:?}");
        query.limit = limit;
        expected.truncate(limit.unwrap_or(usize::MAX));
        assert_eq!(
            db.query(&query).unwrap(),
            expected,
            "{query:?} of {items:?}"
        );
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
        let db = new_db::<String>(endpoint, clock.clone());
        let db: Arc<dyn AtomicDb<Data = String> + Send + Sync> = if cached {
            Arc::new(LruCache::builder(db).capacity(6).clock(clock).build())
        } else {
            Arc::new(db)
        };
        // A read of many keys is not a snapshot.
        let workload = Workload::new().calls(60).seed(seed).without_snapshots();
        let history = workload.run(&Arc::new(db), None, on_threads);
        if let Err(anomaly) = history.check() {
            panic!("cached: {cached}, {workload:?}: {anomaly}");
        }
        operations += history.ops.len();
    }
    println!("histories {count}, operations {operations}");
}

#[test]
fn handles_are_cloneable_and_thread_safe_and_hide_credentials() {
    fn assert_bounds<D: Clone + Debug + Send + Sync + UnwindSafe + RefUnwindSafe + 'static>() {}
    assert_bounds::<DynamoDb<String>>();
    assert_bounds::<DynamoDb<std::cell::Cell<u8>>>();
    let Some(db) = new_db_or_skip::<String>() else {
        return;
    };
    let text = format!("{db:?}");
    assert!(text.starts_with("DynamoDb { table: \"test-"), "{text}");
    assert!(!text.contains("redentials"), "{text}");
}

#[test]
fn a_missing_table_is_reported_and_can_be_created_concurrently() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let name = server::unique_table_name();
    let builder = || server::builder_for_table::<String>(endpoint, name.as_str());
    let db = builder().open().unwrap();
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
        match dynamodb_error(&error) {
            DynamoDbError::TableNotFound { table } => assert_eq!(*table, name),
            other => panic!("{other:?}"),
        }
    }
    run_concurrently(4, |_| builder().create_table(true).open().unwrap());
    assert_eq!(db.get(Key::new("pk", "a")).unwrap(), None);
}

#[test]
fn a_handle_with_another_data_type_uses_the_same_table() {
    let Some(numbers) = new_db_or_skip::<u32>() else {
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

#[test]
fn a_handle_with_another_codec_refuses_the_rows_of_json_and_the_reverse() {
    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let name = server::unique_table_name();
    let builder = || server::builder_for_table::<Vec<u8>>(endpoint, name.as_str());
    let json = builder().create_table(true).open().unwrap();
    let bytes = builder().codec(Bytes).open().unwrap();
    let keys = [Key::new("json", "1"), Key::new("bytes", "1")];
    json.set(&[Item::at(keys[0], vec![1, 2])]).unwrap();
    let lock = bytes.get_lock(Key::new("bytes", "lock")).unwrap();
    let binary = Item::at(keys[1], vec![0, 255]);
    bytes.set_atomic(&[binary.clone()], &[lock]).unwrap();

    assert_eq!(bytes.get(keys[1]).unwrap(), Some(binary.clone()));
    assert_eq!(bytes.query(&Query::new("bytes")).unwrap(), [binary]);
    for (error, key) in [
        (json.get(keys[1]).unwrap_err(), keys[1]),
        (json.get_many(&[keys[1]]).unwrap_err(), keys[1]),
        (json.query(&Query::new("bytes")).unwrap_err(), keys[1]),
        (bytes.get(keys[0]).unwrap_err(), keys[0]),
        (bytes.page(&Query::new("json"), None).unwrap_err(), keys[0]),
    ] {
        match error {
            Error::Codec { key: named, .. } => assert_eq!(named, key.to_buf()),
            other => panic!("{other:?}"),
        }
    }
}

/// The clock is used for times to live only. Timeouts use the system's clock.
#[test]
fn a_clock_may_call_a_database_on_the_same_table() {
    #[derive(Debug)]
    struct ReadingClock(OnceLock<DynamoDb<u8>>);

    impl Clock for ReadingClock {
        fn now(&self) -> Duration {
            if let Some(db) = self.0.get() {
                let item = db.get(Key::new("pk", "a")).unwrap();
                assert!(item.is_some());
            }
            Duration::from_secs(START)
        }

        fn sleep(&self, _: Duration) {}
    }

    let Some(endpoint) = server::endpoint() else {
        return;
    };
    let name = server::unique_table_name();
    let builder = || server::builder_for_table::<u8>(endpoint, name.as_str());
    let read_by_clock = builder().create_table(true).open().unwrap();
    read_by_clock.set(&[Item::new("pk", "a", 1)]).unwrap();
    let clock = Arc::new(ReadingClock(OnceLock::new()));
    let db = builder().clock(Arc::clone(&clock)).open().unwrap();
    clock.0.set(read_by_clock).unwrap();
    assert_eq!(db.query(&Query::new("pk")).unwrap().len(), 1);
    db.get_lock(Key::new("pk", "lock")).unwrap();
}
