//! The databases against an executable model of the contract, by operations drawn at random; and
//! what the model is worth: databases with one deliberate fault each, which it must find.

use atomic_db::{
    AtomicDb, Batch, Clock, Error, Item, Key, KeyBuf, Lock, LruCache, ManualClock, MemoryDb, Page,
    Query, Result, Version,
};
use atomic_db_test_support::reference_model::{
    Op, SHAPES, Shape, Subject, Tally, database, decode, run, run_over,
};
use atomic_db_test_support::reference_model::{lru, text};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRng, TestRunner};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

/// How many lists of operations each test runs, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 100;

pub(crate) fn config() -> Config {
    let default = Config {
        // A finding becomes a test by hand, or a file of the corpus.
        failure_persistence: None,
        ..Config::default()
    };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => Config {
            cases: CASES,
            ..default
        },
    }
}

/// Each operation has bytes of its own, so that one can be taken away and the others stay.
pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = vec(any::<u8>(), 1..32).prop_map(|bytes| decode(&bytes, 1));
    vec(op, 0..60).prop_map(|ops| ops.concat())
}

fn check(shape: Shape) {
    let mut runner = TestRunner::new(config());
    let done = runner.run(&ops(), |ops| {
        let done = run_over(shape, &ops);
        done.map(|_| ()).map_err(TestCaseError::fail)
    });
    if let Err(failure) = done {
        panic!("{failure}");
    }
}

macro_rules! checks {
    ($($name:ident: $shape:literal)*) => {
        /// Every shape has a test.
        const CHECKED: &[usize] = &[$($shape),*];

        $(
            #[test]
            fn $name() {
                check(SHAPES[$shape]);
            }
        )*
    };
}

checks! {
    one_stripe_does_what_the_model_does: 0
    two_stripes_do_what_the_model_does: 1
    many_stripes_do_what_the_model_does: 2
    a_cache_of_nothing_does_what_the_model_does: 3
    a_cache_of_one_does_what_the_model_does: 4
    a_cache_of_few_does_what_the_model_does: 5
    a_cache_of_many_in_several_shards_does_what_the_model_does: 6
    a_cache_before_a_cache_does_what_the_model_does: 7
    a_boxed_trait_object_does_what_the_model_does: 8
    a_cache_before_a_shared_trait_object_does_what_the_model_does: 9
}

#[test]
fn every_shape_of_the_database_is_checked() {
    assert!(CHECKED.iter().copied().eq(0..SHAPES.len()));
}

#[test]
fn the_operations_reach_every_kind_of_answer() {
    let mut all = Tally::new();
    let mut runner = deterministic();
    for _ in 0..CASES {
        let ops = ops().new_tree(&mut runner).unwrap().current();
        for (what, count) in run_over(SHAPES[1], &ops).unwrap() {
            *all.entry(what).or_default() += count;
        }
    }
    for what in [
        "a key twice",
        "an item where a lock was asked for",
        "committed",
        "committed without a lock",
        "doubt",
        "exists already",
        "found",
        "items without a lock",
        "lock made",
        "lock read again",
        "lock refreshed",
        "lost",
        "next page",
        "not found",
        "purged",
        "query found more than a page",
        "query found nothing",
        "query found one",
        "query found several",
    ] {
        let count = all.get(what).copied().unwrap_or(0);
        assert!(count > 1, "{what}: {count} of {all:?}");
    }
}

fn deterministic() -> TestRunner {
    let rng = TestRng::deterministic_rng(Config::default().rng_algorithm);
    TestRunner::new_with_rng(Config::default(), rng)
}

/// Runs a fuzz target's body over what its fuzzer has kept. A published package has no corpus.
fn replay(target: &str, body: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    if !fuzz.exists() {
        return;
    }
    let files = fs::read_dir(fuzz.join("corpus").join(target)).unwrap();
    let mut count = 0;
    for file in files {
        body(&fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "the corpus of {target} is empty");
}

#[test]
fn the_database_does_what_the_model_does_over_the_corpus() {
    replay("database", database);
}

#[test]
fn the_cache_does_what_a_vector_does_over_the_corpus() {
    replay("list", lru::list);
}

#[test]
fn versions_and_keys_are_written_as_they_are_read_over_the_corpus() {
    replay("text", text::text);
}

/// A mark stands for all keys of one hash, so keys that share it are not cached when they are
/// written together. A hash that folded its parts alike gave `("a", "b")` that of `("b", "a")`, and
/// all of `("a", "a")`, `("b", "b")` one and the same.
#[test]
fn keys_with_swapped_or_equal_parts_are_hashed_apart() {
    for keys in [[("a", "b"), ("b", "a")], [("a", "a"), ("b", "b")]] {
        let db = LruCache::builder(MemoryDb::new()).shards(1).build();
        let items = keys.map(|(pk, sk)| Item::new(pk, sk, ()));
        db.set(&items).unwrap();
        assert_eq!(db.stats().entries, 2, "{keys:?}");
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_are_operations_that_databases_agree_on(bytes in vec(any::<u8>(), 0..150)) {
        database(&bytes);
    }

    #[test]
    fn the_cache_does_what_a_vector_does(bytes in vec(any::<u8>(), 0..150)) {
        lru::list(&bytes);
    }

    #[test]
    fn versions_and_keys_are_written_as_they_are_read(bytes in vec(any::<u8>(), 0..40)) {
        text::text(&bytes);
    }
}

/// The one thing that a [`Broken`] database does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    ExpiredItemsInQueries,
    ExpiredItemsCountTowardsTheLimit,
    ExpiredAtTheLastSecond,
    OldItemsAfterADelete,
    ItemsOfALostCommitAreCached,
    OldItemsInManyAnswers,
    FewerAnswersToMany,
    AfterIgnoredInReverse,
    LastPageLost,
    StreamBeginsAnewAfterAPage,
    FirstOfARepeatedKeyStands,
    DeleteLeavesLocks,
    VersionReused,
    LockRefreshedTooEarly,
    LockMadeAnewInsteadOfRefreshed,
    HalfOfALostCommitApplied,
    AllLocksNamed,
    FirstLoserNamed,
    ChecksRenewed,
    ChecksIgnored,
    CreateReplaces,
    RepeatedKeysInABatch,
    UnguardedSetAtomic,
    PurgeCountsWrong,
    PurgeTakesRefreshedLocks,
}

const FAULTS: [Fault; 25] = [
    Fault::ExpiredItemsInQueries,
    Fault::ExpiredItemsCountTowardsTheLimit,
    Fault::ExpiredAtTheLastSecond,
    Fault::OldItemsAfterADelete,
    Fault::ItemsOfALostCommitAreCached,
    Fault::OldItemsInManyAnswers,
    Fault::FewerAnswersToMany,
    Fault::AfterIgnoredInReverse,
    Fault::LastPageLost,
    Fault::StreamBeginsAnewAfterAPage,
    Fault::FirstOfARepeatedKeyStands,
    Fault::DeleteLeavesLocks,
    Fault::VersionReused,
    Fault::LockRefreshedTooEarly,
    Fault::LockMadeAnewInsteadOfRefreshed,
    Fault::HalfOfALostCommitApplied,
    Fault::AllLocksNamed,
    Fault::FirstLoserNamed,
    Fault::ChecksRenewed,
    Fault::ChecksIgnored,
    Fault::CreateReplaces,
    Fault::RepeatedKeysInABatch,
    Fault::UnguardedSetAtomic,
    Fault::PurgeCountsWrong,
    Fault::PurgeTakesRefreshedLocks,
];

/// A correct database with a fault in front of it.
struct Broken {
    db: MemoryDb<u32>,
    fault: Fault,
    clock: ManualClock,
    /// Holds the same items, and never knows that they expire.
    timeless: MemoryDb<u32>,
    /// A careless cache.
    cached: RefCell<HashMap<KeyBuf, Item<u32>>>,
    /// The version that each lock had first, and the one that stands for it in `db`.
    first: RefCell<BTreeMap<KeyBuf, (Version, Version)>>,
    /// The last second that each lock had when it was first seen with this version.
    ends: RefCell<BTreeMap<KeyBuf, (Version, u64)>>,
}

impl Broken {
    fn new(fault: Fault, clock: &ManualClock) -> Self {
        Broken {
            db: MemoryDb::builder().stripes(2).clock(clock.clone()).build(),
            fault,
            clock: clock.clone(),
            timeless: MemoryDb::builder().clock(ManualClock::new(0)).build(),
            cached: RefCell::default(),
            first: RefCell::default(),
            ends: RefCell::default(),
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn is_live(&self, item: &Item<u32>) -> bool {
        item.is_live(self.clock.epoch_seconds())
    }

    fn remember(&self, items: &[Item<u32>]) {
        for item in items {
            self.cached
                .borrow_mut()
                .insert(item.key().to_buf(), item.clone());
        }
    }

    fn forget<'k>(&self, keys: impl Iterator<Item = Key<'k>>) {
        keys.for_each(|key| {
            self.cached.borrow_mut().remove(&key.to_buf());
        });
    }

    /// What the careless cache holds, and else what the database does.
    fn carelessly_cached(&self, key: Key<'_>) -> Result<Option<Item<u32>>> {
        let cached = self.cached.borrow().get(&key.to_buf()).cloned();
        match cached {
            Some(item) if self.is_live(&item) => Ok(Some(item)),
            _ => {
                let item = self.db.get(key)?;
                item.iter().for_each(|item| self.remember(&[item.clone()]));
                Ok(item)
            }
        }
    }

    /// The lock as `db` knows it.
    fn inner(&self, lock: &Lock) -> Lock {
        match self.first.borrow().get(&lock.key().to_buf()) {
            Some((first, inner)) if *first == lock.version() && self.is(Fault::VersionReused) => {
                lock.clone().with_version(*inner)
            }
            _ => lock.clone(),
        }
    }

    /// The batch that is committed instead of this one.
    fn instead(&self, batch: &Batch<u32>) -> Batch<u32> {
        let mut instead = Batch::new();
        for lock in batch.locks() {
            instead = instead.lock(self.inner(lock));
        }
        for check in batch.checks() {
            instead = match self.fault {
                Fault::ChecksRenewed => instead.lock(check.clone()),
                Fault::ChecksIgnored => instead,
                _ => instead.check(self.inner(check)),
            };
        }
        for item in batch.sets() {
            instead = instead.set(item.clone());
        }
        for item in batch.creates() {
            instead = match self.is(Fault::CreateReplaces) {
                true => instead.set(item.clone()),
                false => instead.create(item.clone()),
            };
        }
        for key in batch.deletes() {
            instead = instead.delete(key);
        }
        instead
    }
}

impl AtomicDb for Broken {
    type Data = u32;

    fn get(&self, key: Key<'_>) -> Result<Option<Item<u32>>> {
        match self.fault {
            Fault::OldItemsAfterADelete | Fault::ItemsOfALostCommitAreCached => {
                self.carelessly_cached(key)
            }
            Fault::ExpiredAtTheLastSecond => {
                let now = self.clock.epoch_seconds();
                let item = self.db.get(key)?;
                Ok(item.filter(|item| item.ttl().is_none_or(|last| now < last)))
            }
            _ => self.db.get(key),
        }
    }

    fn get_fresh(&self, key: Key<'_>) -> Result<Option<Item<u32>>> {
        self.db.get_fresh(key)
    }

    fn get_many(&self, keys: &[Key<'_>]) -> Result<Vec<Option<Item<u32>>>> {
        match self.fault {
            Fault::FewerAnswersToMany => {
                let mut keys = keys.to_vec();
                keys.dedup();
                self.db.get_many(&keys)
            }
            Fault::OldItemsInManyAnswers => keys
                .iter()
                .map(|key| self.carelessly_cached(*key))
                .collect(),
            _ => self.db.get_many(keys),
        }
    }

    fn get_lock(&self, key: Key<'_>) -> Result<Lock> {
        let lock = self.db.get_lock(key)?;
        let now = self.clock.epoch_seconds();
        match self.fault {
            Fault::PurgeTakesRefreshedLocks => {
                let mut ends = self.ends.borrow_mut();
                match ends.get(&key.to_buf()) {
                    Some((version, _)) if *version == lock.version() => {}
                    _ => drop(ends.insert(key.to_buf(), (lock.version(), lock.ttl()))),
                }
                Ok(lock)
            }
            Fault::LockRefreshedTooEarly if lock.ttl() - now < 2 * Lock::REFRESH_WINDOW => {
                self.db.delete(&[key])?;
                let made = self.db.get_lock(key)?;
                Ok(Lock::new(key, lock.version(), made.ttl()))
            }
            Fault::LockMadeAnewInsteadOfRefreshed if lock.ttl() == now + Lock::LIFETIME => {
                self.db.delete(&[key])?;
                self.db.get_lock(key)
            }
            Fault::VersionReused => {
                let mut first = self.first.borrow_mut();
                let (version, inner) = first
                    .entry(key.to_buf())
                    .or_insert((lock.version(), lock.version()));
                // Made again after it was gone, and not renewed: no commit returned this version.
                if lock.ttl() == now + Lock::LIFETIME {
                    *inner = lock.version();
                }
                match *inner == lock.version() {
                    true => Ok(lock.with_version(*version)),
                    false => Ok(lock),
                }
            }
            _ => Ok(lock),
        }
    }

    fn set(&self, items: &[Item<u32>]) -> Result<()> {
        let mut items = items.to_vec();
        if self.is(Fault::FirstOfARepeatedKeyStands) {
            items.reverse();
        }
        self.timeless.set(&items)?;
        self.db.set(&items)?;
        self.remember(&items);
        Ok(())
    }

    fn commit(&self, batch: &Batch<u32>) -> Result<Version> {
        if !self.is(Fault::RepeatedKeysInABatch) {
            batch.validate()?;
        } else if batch.validate().is_err() {
            return self.db.commit(&Batch::new());
        }
        let written = batch.sets().iter().chain(batch.creates());
        if self.is(Fault::ItemsOfALostCommitAreCached) {
            written
                .clone()
                .for_each(|item| self.remember(&[item.clone()]));
        }
        let version = match self.db.commit(&self.instead(batch)) {
            Err(Error::RaceCondition { keys }) => {
                let locks = batch.locks().iter().chain(batch.checks());
                let keys = match self.fault {
                    Fault::AllLocksNamed => locks.map(|lock| lock.key().to_buf()).collect(),
                    Fault::FirstLoserNamed => keys.into_iter().take(1).collect(),
                    _ => keys,
                };
                if self.is(Fault::HalfOfALostCommitApplied) {
                    self.db.set(batch.sets())?;
                }
                return Err(Error::RaceCondition { keys });
            }
            other => other?,
        };
        for item in written {
            self.timeless.set(&[item.clone()])?;
            self.remember(&[item.clone()]);
        }
        for key in batch.deletes() {
            self.timeless.delete(&[key.as_key()])?;
        }
        self.forget(batch.deletes().iter().map(KeyBuf::as_key));
        Ok(version)
    }

    fn delete(&self, keys: &[Key<'_>]) -> Result<()> {
        self.timeless.delete(keys)?;
        for key in keys {
            let is_item = self.db.get(*key)?.is_some();
            if is_item || !self.is(Fault::DeleteLeavesLocks) {
                self.db.delete(&[*key])?;
            }
        }
        match self.fault {
            Fault::OldItemsAfterADelete | Fault::OldItemsInManyAnswers => {}
            _ => self.forget(keys.iter().copied()),
        }
        Ok(())
    }

    fn page(&self, query: &Query, after: Option<&str>) -> Result<Page<u32>> {
        match self.fault {
            Fault::LastPageLost => {
                let mut page = self.db.page(query, after)?;
                let next = self.db.page(query, page.next.as_deref())?;
                page.next = page.next.filter(|_| next.next.is_some());
                Ok(page)
            }
            Fault::ExpiredItemsCountTowardsTheLimit => {
                let mut page = self.timeless.page(query, after)?;
                page.items.retain(|item| self.is_live(item));
                page.next = None;
                Ok(page)
            }
            _ => self.db.page(query, after),
        }
    }

    fn set_atomic(&self, items: &[Item<u32>], locks: &[Lock]) -> Result<Version> {
        if locks.is_empty() && !items.is_empty() && !self.is(Fault::UnguardedSetAtomic) {
            return self.db.set_atomic(items, locks);
        }
        let batch = locks.iter().cloned().fold(Batch::new(), Batch::lock);
        self.commit(&items.iter().cloned().fold(batch, Batch::set))
    }

    fn query(&self, query: &Query) -> Result<Vec<Item<u32>>> {
        match self.fault {
            Fault::ExpiredItemsInQueries => self.timeless.query(query),
            Fault::AfterIgnoredInReverse if query.reverse => {
                let mut again = Query::new(query.pk.as_str())
                    .prefix(query.prefix.as_str())
                    .reverse();
                if let Some(limit) = query.limit {
                    again = again.limit(limit);
                }
                self.db.query(&again)
            }
            _ => self.db.query(query),
        }
    }

    fn stream(&self, query: Query) -> impl Iterator<Item = Result<Item<u32>>> {
        // A page holds 256 items.
        let anew = self.is(Fault::StreamBeginsAnewAfterAPage);
        let first: Vec<_> = self.db.stream(query.clone()).take(256).collect();
        let rest = self.db.stream(query).skip(if anew { 0 } else { 256 });
        let rest = rest.take(if anew && first.len() < 256 {
            0
        } else {
            usize::MAX
        });
        first.into_iter().chain(rest).fuse()
    }
}

impl Subject for Broken {
    fn purge(&self) -> Option<usize> {
        let count = self.db.purge_expired();
        let now = self.clock.epoch_seconds();
        self.ends.borrow_mut().retain(|key, (_, end)| {
            let ended = *end < now;
            if ended && matches!(self.db.get(key.as_key()), Ok(None)) {
                let _ = self.db.delete(&[key.as_key()]);
            }
            !ended
        });
        match self.is(Fault::PurgeCountsWrong) && count > 1 {
            true => Some(1),
            false => Some(count),
        }
    }
}

/// How many lists of operations are well with a database that has this fault.
fn cases_passed(fault: Fault) -> u32 {
    let mut runner = deterministic();
    let passes = |_: &u32| {
        let ops = ops().new_tree(&mut runner).unwrap().current();
        let clock = ManualClock::new(1_700_000_000);
        run(&ops, &Broken::new(fault, &clock), &clock).is_ok()
    };
    (0..CASES).take_while(passes).count() as u32
}

#[test]
fn the_model_finds_every_fault_within_the_cases_that_it_is_given() {
    let passed: Vec<(Fault, u32)> = FAULTS.map(|fault| (fault, cases_passed(fault))).to_vec();
    println!("cases passed before each fault was found: {passed:?}");
    for (fault, passed) in passed {
        assert!(passed < CASES, "{fault:?} was not found");
    }
}

#[test]
fn the_model_finds_no_fault_in_the_database_that_the_faults_are_put_into() {
    assert_eq!(cases_passed(Fault::Nothing), CASES);
}
