//! Random writes while a scan runs, compared with a model.
//!
//! - Each item that is present throughout a scan is yielded exactly once.
//! - Each item that a scan yields was live, with this data, at some point in time during the scan.

use atomic_db::{Clock, Item, Key, ManualClock, MemoryDb, Scan};
use atomic_db_test_support::faulty_db::{Fault, FaultyDb};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

/// The keys are numbers, which are distributed over partitions.
const KEYS: u32 = 1_000;
const PARTITIONS: u32 = 13;

/// The number of items at the beginning. It takes several pages to scan them.
const INITIAL: u32 = 700;

const START: u64 = 1_000_000;

const SHRINK_ITERS: u32 = 1_000;

#[derive(Clone, Debug)]
enum Op {
    /// Writes items that expire after some seconds, or never.
    Set(Range<u32>, Option<u64>),
    Delete(Range<u32>),
    /// Reads locks, which creates them where there is no item.
    Lock(Range<u32>),
    /// Advances the clock by a second.
    Tick,
    /// Takes items of the scan.
    Take(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let keys = || (0..KEYS, 1..100_u32).prop_map(|(from, len)| from..(from + len).min(KEYS));
    let op = prop_oneof![
        3 => (keys(), prop::option::weighted(0.3, 0..4_u64)).prop_map(|(keys, ttl)| Op::Set(keys, ttl)),
        3 => keys().prop_map(Op::Delete),
        1 => keys().prop_map(Op::Lock),
        1 => Just(Op::Tick),
        4 => (0..300_usize).prop_map(Op::Take),
    ];
    prop::collection::vec(op, 1..40)
}

fn pk(key: u32) -> String {
    format!("{}", key % PARTITIONS)
}

/// The live items, and the observations of the current scan.
struct Model {
    /// The data and the expiry of each live item.
    live: HashMap<u32, (u32, Option<u64>)>,
    /// The keys that have had a live item since the scan began.
    lasting: HashSet<u32>,
    /// The data that a key has had since the scan began.
    written: HashSet<(u32, u32)>,
    yielded: HashMap<u32, u32>,
}

impl Model {
    fn new() -> Self {
        Model {
            live: HashMap::new(),
            lasting: HashSet::new(),
            written: HashSet::new(),
            yielded: HashMap::new(),
        }
    }

    fn begin_scan(&mut self) {
        self.lasting = self.live.keys().copied().collect();
        self.written = self
            .live
            .iter()
            .map(|(key, (data, _))| (*key, *data))
            .collect();
        self.yielded.clear();
    }

    fn set(&mut self, key: u32, data: u32, ttl: Option<u64>) {
        self.live.insert(key, (data, ttl));
        self.written.insert((key, data));
    }

    fn delete(&mut self, key: u32) {
        self.live.remove(&key);
        self.lasting.remove(&key);
    }

    fn expire(&mut self, now: u64) {
        self.live
            .retain(|_, (_, ttl)| ttl.is_none_or(|ttl| now <= ttl));
        self.lasting.retain(|key| self.live.contains_key(key));
    }

    fn yielded(&mut self, item: &Item<u32>) -> Result<(), String> {
        let key: u32 = item.sk().parse().map_err(|_| format!("{item:?}"))?;
        let data = item.data().copied();
        if !data.is_some_and(|data| self.written.contains(&(key, data))) || item.pk() != pk(key) {
            return Err(format!("{item:?} was not live during the scan"));
        }
        *self.yielded.entry(key).or_default() += 1;
        Ok(())
    }

    fn end_scan(&self) -> Result<(), String> {
        let count = |key| self.yielded.get(key).copied().unwrap_or(0);
        let wrong = self.lasting.iter().find(|key| count(key) != 1);
        wrong.map_or(Ok(()), |key| {
            Err(format!("{key} was yielded {} times", count(key)))
        })
    }
}

/// Applies `ops` to `db` and the model, with one scan after the other. Returns the first difference.
fn run(db: &impl Scan<Data = u32>, clock: &ManualClock, ops: &[Op]) -> Result<(), String> {
    let mut model = Model::new();
    let write = |model: &mut Model, keys: Range<u32>, data: u32, ttl: Option<u64>| {
        let item = |key: u32| {
            let item = Item::new(pk(key), key.to_string(), data);
            item.expires_at(ttl.unwrap_or(u64::MAX))
        };
        db.set(&keys.clone().map(item).collect::<Vec<_>>()).unwrap();
        keys.for_each(|key| model.set(key, data, ttl));
    };
    write(&mut model, 0..INITIAL, 0, None);
    model.begin_scan();
    let mut scan = db.scan();
    // The last operation ends the last scan.
    for (number, op) in (1..).zip(ops.iter().chain([&Op::Take(usize::MAX)])) {
        match op {
            Op::Set(keys, seconds) => {
                let ttl = seconds.map(|seconds| clock.epoch_seconds() + seconds);
                write(&mut model, keys.clone(), number, ttl);
            }
            Op::Delete(keys) => {
                let sks: Vec<(String, String)> =
                    keys.clone().map(|key| (pk(key), key.to_string())).collect();
                let deleted: Vec<Key<'_>> = sks.iter().map(|(pk, sk)| Key::new(pk, sk)).collect();
                db.delete(&deleted).unwrap();
                keys.clone().for_each(|key| model.delete(key));
            }
            Op::Lock(keys) => {
                for key in keys.clone() {
                    let lock = db.get_lock(Key::new(&pk(key), &key.to_string()));
                    assert_eq!(lock.is_err(), model.live.contains_key(&key));
                }
            }
            Op::Tick => {
                clock.advance(Duration::from_secs(1));
                model.expire(clock.epoch_seconds());
            }
            Op::Take(count) => {
                for _ in 0..*count {
                    if let Some(item) = scan.next() {
                        model.yielded(&item.unwrap())?;
                        continue;
                    }
                    model.end_scan()?;
                    if *count == usize::MAX {
                        return Ok(());
                    }
                    model.begin_scan();
                    scan = db.scan();
                }
            }
        }
    }
    Ok(())
}

/// Runs lists of operations on databases that `make` creates. `PROPTEST_CASES` sets their number.
fn check<D: Scan<Data = u32>>(
    make: impl Fn(ManualClock) -> D,
    max_shrink_iters: u32,
) -> Result<(), TestError<Vec<Op>>> {
    let cases = std::env::var("PROPTEST_CASES").map_or(32, |cases| cases.parse().unwrap());
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        max_shrink_iters,
        ..Config::with_cases(cases)
    });
    runner.run(&ops(), |ops| {
        let clock = ManualClock::new(START);
        run(&make(clock.clone()), &clock, &ops).map_err(TestCaseError::fail)
    })
}

#[test]
fn scans_of_a_memory_database_agree_with_the_model() {
    for stripes in [1, 4] {
        let make = |clock| MemoryDb::builder().stripes(stripes).clock(clock).build();
        check(make, SHRINK_ITERS).unwrap();
    }
}

#[cfg(feature = "redb")]
#[test]
fn scans_of_a_file_agree_with_the_model() {
    let make = |clock| {
        let builder = atomic_db::RedbDb::builder().clock(clock);
        let builder = builder.durability(atomic_db::Durability::Deferred);
        builder.in_memory().unwrap()
    };
    check(make, SHRINK_ITERS).unwrap();
}

#[test]
fn scans_of_databases_with_a_fault_differ_from_the_model() {
    check(|clock| FaultyDb::new(Fault::None, clock), SHRINK_ITERS).unwrap();
    for fault in [
        Fault::OffsetScan,
        Fault::ScanLosesPosition,
        Fault::ScanRestarts,
        Fault::ScanEndsAfterPage,
        Fault::LockInScan,
        Fault::ExpiredItemInScan,
        Fault::StaleScan,
    ] {
        let found = check(|clock| FaultyDb::new(fault, clock), 0);
        assert!(
            matches!(found, Err(TestError::Fail(..))),
            "{fault:?} was not found"
        );
    }
}
