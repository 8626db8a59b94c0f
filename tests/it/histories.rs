//! Histories of many threads, recorded from every database and checked for strict serializability;
//! and what that check is worth.
//!
//! `ATOMIC_DB_HISTORIES=1000` records that many instead of a few, `ATOMIC_DB_SEED` chooses the
//! first seed. With `RUSTFLAGS="--cfg perturb"` the locks of the library dawdle, so that calls
//! overlap far more often.

#[cfg(feature = "redb")]
use crate::redb::temporary::Temporary;
#[cfg(feature = "redb")]
use atomic_db::RedbDb;
use atomic_db::{AtomicDb, KeyBuf, LruCache, ManualClock, MemoryDb, Version};
use atomic_db_test_support::history::faulty::{Fault, Faulty};
use atomic_db_test_support::history::workload::{Job, Workload};
use atomic_db_test_support::history::{
    Action, Commit, History, Kind, Op, Outcome, Seen, Value, Versions, Write,
};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Barrier};
use std::thread;
use todc_utils::{Action as Event, History as Events, Specification, WGLChecker};

/// Runs jobs on threads of their own that begin together.
pub(super) fn on_threads(jobs: Vec<Job>) -> Vec<Vec<Op>> {
    let start = Arc::new(Barrier::new(jobs.len()));
    let threads: Vec<_> = jobs
        .into_iter()
        .map(|job| {
            let start = Arc::clone(&start);
            thread::spawn(move || {
                start.wait();
                job()
            })
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

/// The seeds of a run, from a first one that nobody can foresee unless the environment gives it.
pub(super) fn seeds() -> impl Iterator<Item = u64> {
    let first = env::var("ATOMIC_DB_SEED").ok();
    let first = first.map(|seed| seed.parse().expect("a seed is a number"));
    let first = first.unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 16);
    (0..).map(move |step: u64| first.wrapping_add(step))
}

/// How many histories to record, if the environment does not say so.
pub(super) fn count(otherwise: usize) -> usize {
    let count = env::var("ATOMIC_DB_HISTORIES").ok();
    count.map_or(otherwise, |count| {
        count.parse().expect("a count is a number")
    })
}

/// A thousand calls by four threads over few keys.
pub(super) fn thousand(seed: u64) -> Workload {
    Workload {
        accounts: 5,
        shelves: 2,
        places: 4,
        notes: 2,
        threads: 4,
        calls: 245,
        seed,
    }
}

type Shared = Arc<dyn AtomicDb<Data = String> + Send + Sync>;
type Make = fn(&ManualClock) -> Shared;

fn stopped() -> ManualClock {
    ManualClock::new(1_700_000_000)
}

fn memory(clock: &ManualClock, stripes: usize) -> MemoryDb<String> {
    let builder = MemoryDb::builder().stripes(stripes);
    builder.clock(clock.clone()).build()
}

fn cached<D: AtomicDb>(db: D, clock: &ManualClock, capacity: usize, shards: usize) -> LruCache<D> {
    LruCache::builder(db)
        .capacity(capacity)
        .shards(shards)
        .clock(clock.clone())
        .build()
}

#[cfg(feature = "redb")]
fn file(clock: &ManualClock) -> Temporary<RedbDb<String>> {
    Temporary::open(RedbDb::builder().clock(clock.clone()))
}

/// What histories are recorded from.
const DATABASES: &[(&str, Make)] = &[
    ("memory with one stripe", |clock| Arc::new(memory(clock, 1))),
    ("memory with two stripes", |clock| {
        Arc::new(memory(clock, 2))
    }),
    ("memory with many stripes", |clock| {
        Arc::new(memory(clock, 64))
    }),
    ("a cache of one", |clock| {
        Arc::new(cached(memory(clock, 4), clock, 1, 1))
    }),
    ("a cache of few", |clock| {
        Arc::new(cached(memory(clock, 4), clock, 6, 2))
    }),
    ("a cache of many", |clock| {
        Arc::new(cached(memory(clock, 4), clock, 1_000, 4))
    }),
    ("a cache before a cache", |clock| {
        let behind = cached(memory(clock, 4), clock, 8, 1);
        Arc::new(cached(behind, clock, 3, 1))
    }),
    ("a large cache before a small one", |clock| {
        let behind = cached(memory(clock, 1), clock, 2, 1);
        Arc::new(cached(behind, clock, 1_000, 1))
    }),
    #[cfg(feature = "redb")]
    ("a file", |clock| Arc::new(file(clock))),
    #[cfg(feature = "redb")]
    ("a cache before a file", |clock| {
        Arc::new(cached(file(clock), clock, 6, 2))
    }),
];

#[test]
fn histories_of_every_database_are_strictly_serializable() {
    let count = count(DATABASES.len());
    let (mut operations, mut overlapping, mut neighbours) = (0, 0, 0);
    for (seed, (name, make)) in seeds().zip(DATABASES.iter().cycle()).take(count) {
        let workload = thousand(seed);
        let clock = stopped();
        let (history, sum) = workload.run(&Arc::new(make(&clock)), Some(&clock), on_threads);
        for versions in [Versions::AtTheInstant, Versions::Ahead] {
            if let Err(anomaly) = history.check(versions) {
                panic!("{name}, {workload}, versions {versions:?}: {anomaly}");
            }
        }
        assert_eq!(sum, workload.sum(), "{name}, {workload}");
        let (overlaps, of) = history.overlaps();
        operations += history.ops.len();
        overlapping += overlaps;
        neighbours += of;
    }
    let overlap = 100 * overlapping / neighbours.max(1);
    println!("histories {count}, operations {operations}, overlap {overlap} %");
    // Threads that take turns would prove little.
    assert!(!cfg!(perturb) || overlap >= 20, "they overlap too little");
}

#[test]
fn every_fault_of_a_database_shows_in_its_histories() {
    const TRIES: usize = 60;
    let mut seeds = seeds();
    let mut run = |fault, versions| {
        let seed = seeds.next().unwrap_or_default();
        let workload = Workload {
            calls: 120,
            ..thousand(seed)
        };
        let clock = stopped();
        let db = Arc::new(Faulty::new(fault, versions, clock.clone()));
        (workload, workload.run(&db, Some(&clock), on_threads))
    };
    for versions in [Versions::AtTheInstant, Versions::Ahead] {
        for _ in 0..3 {
            let (workload, (history, sum)) = run(Fault::None, versions);
            if let Err(anomaly) = history.check(versions) {
                panic!("without a fault, {workload}, versions {versions:?}: {anomaly}");
            }
            assert_eq!(sum, workload.sum());
        }
        for fault in Fault::ALL {
            let found = (1..=TRIES).find_map(|tries| {
                let (_, (history, _)) = run(*fault, versions);
                Some((tries, history.check(versions).err()?))
            });
            let what = format!("{fault:?}, versions {versions:?}");
            match found {
                Some((tries, anomaly)) => println!("{what}, try {tries}: {}", anomaly.kind),
                None => panic!("{what}, was not found in {TRIES} histories"),
            }
        }
    }
}

/// The key of an item that the lock with the same letter guards.
fn item(letter: &str, place: &str) -> KeyBuf {
    KeyBuf::new(letter, place)
}

fn lock(letter: &str) -> KeyBuf {
    KeyBuf::new(letter, "lock")
}

fn at(version: u128) -> Version {
    Version::from_u128(version)
}

/// Builds histories by hand. Without other times, each call begins when the one before has
/// returned.
#[derive(Clone, Default)]
struct Script {
    history: History,
    now: u64,
}

impl Script {
    fn then(&mut self, action: Action) -> &mut Self {
        let invoked = self.now;
        self.during(invoked, invoked + 1, action);
        self.now += 2;
        self
    }

    fn during(&mut self, invoked: u64, returned: u64, action: Action) -> &mut Self {
        let thread = self.history.ops.len();
        self.history.ops.push(Op {
            thread,
            invoked,
            returned,
            action,
        });
        self
    }

    /// What is wrong with it, on which all agree: the other checker, and ours also when it does not
    /// go by the order of versions.
    fn kind(&self) -> Option<Kind> {
        let kind = self.kind_where(Versions::AtTheInstant);
        let ahead = self.kind_where(Versions::Ahead);
        assert_eq!(ahead.is_some(), kind.is_some(), "{ahead:?}, {kind:?}");
        kind
    }

    /// What is wrong with it if versions are made so, on which the other checker agrees.
    fn kind_where(&self, versions: Versions) -> Option<Kind> {
        let anomaly = self.history.check(versions).err();
        let kind = anomaly.as_ref().map(|anomaly| anomaly.kind);
        assert_eq!(is_linearizable(&self.history), kind.is_none(), "{kind:?}");
        // What is found is told in words.
        if let Some(anomaly) = anomaly {
            assert!(!anomaly.story.is_empty());
            assert!(anomaly.to_string().starts_with(&anomaly.kind.to_string()));
        }
        kind
    }
}

fn read(seen: &[(KeyBuf, Option<Value>)]) -> Action {
    Action::Read("get_many", seen.to_vec())
}

fn read_lock(letter: &str, version: u128) -> Action {
    Action::ReadLock(lock(letter), at(version))
}

fn set(place: &str, value: Value) -> Action {
    Action::Write("set", blind(place, Some(value), None))
}

fn set_until(ttl: u64, place: &str, value: Value) -> Action {
    Action::Write("set", blind(place, Some(value), Some(ttl)))
}

fn delete(place: &str) -> Action {
    Action::Write("delete", blind(place, None, None))
}

/// A write of a note, which has no guard.
fn blind(place: &str, value: Option<Value>, ttl: Option<u64>) -> Write {
    Write {
        key: note(place),
        guard: None,
        value,
        ttl,
        create: false,
    }
}

fn note(place: &str) -> KeyBuf {
    item("notes", place)
}

fn see(place: &str, value: Option<Value>) -> Action {
    read(&[(note(place), value)])
}

/// A commit under locks, each a letter, and writes that the locks of their letters guard.
struct Making(Commit);

fn commit(locks: &[(&str, u128)], writes: &[(&str, &str, Option<Value>)]) -> Making {
    let guard = |letter: &str| locks.iter().position(|(lock, _)| *lock == letter);
    let write = |(letter, place, value): &(&str, &str, Option<Value>)| Write {
        key: item(letter, place),
        guard: guard(letter),
        value: *value,
        ttl: None,
        create: false,
    };
    Making(Commit {
        locks: locks
            .iter()
            .map(|(letter, version)| (lock(letter), at(*version)))
            .collect(),
        checks: Vec::new(),
        rests_on: Vec::new(),
        writes: writes.iter().map(write).collect(),
        outcome: Outcome::Raced(Vec::new()),
    })
}

impl Making {
    fn check(mut self, letter: &str, version: u128) -> Self {
        self.0.checks.push((lock(letter), at(version)));
        self
    }

    fn rests_on(mut self, seen: Seen) -> Self {
        self.0.rests_on.push(seen);
        self
    }

    fn creates(mut self) -> Self {
        self.0
            .writes
            .iter_mut()
            .for_each(|write| write.create = true);
        self
    }

    fn renewed_to(self, version: u128) -> Action {
        self.ended(Outcome::Committed(at(version)))
    }

    fn lost(self, letters: &[&str]) -> Action {
        self.ended(Outcome::Raced(
            letters.iter().map(|letter| lock(letter)).collect(),
        ))
    }

    fn exists(self, key: KeyBuf) -> Action {
        self.ended(Outcome::Exists(key))
    }

    fn ended(mut self, outcome: Outcome) -> Action {
        self.0.outcome = outcome;
        Action::Commit(self.0)
    }
}

/// Two items under lock `a` and one under `b`, written once: values 1, 2 and 3.
fn written() -> Script {
    let mut script = Script::default();
    script
        .then(read_lock("a", 10))
        .then(read_lock("b", 20))
        .then(commit(&[("a", 10)], &[("a", "x", Some(1)), ("a", "y", Some(2))]).renewed_to(30))
        .then(commit(&[("b", 20)], &[("b", "x", Some(3))]).renewed_to(31));
    script
}

#[test]
fn a_history_of_one_call_after_another_is_sound() {
    let mut script = written();
    script
        .then(read(&[
            (item("a", "x"), Some(1)),
            (item("b", "x"), Some(3)),
        ]))
        .then(read_lock("a", 30))
        .then(
            commit(&[("a", 30)], &[("a", "x", None), ("a", "y", Some(4))])
                .check("b", 31)
                .rests_on((item("a", "x"), Some(1)))
                .rests_on((item("b", "x"), Some(3)))
                .renewed_to(40),
        )
        .then(read(&[(item("a", "x"), None), (item("a", "y"), Some(4))]))
        .then(commit(&[("a", 30)], &[("a", "y", Some(5))]).lost(&["a"]))
        .then(
            commit(&[("a", 40)], &[("a", "y", Some(6))])
                .creates()
                .exists(item("a", "y")),
        )
        .then(
            commit(&[("a", 40)], &[("a", "x", Some(7))])
                .creates()
                .renewed_to(50),
        )
        .then(read(&[
            (item("a", "x"), Some(7)),
            (item("a", "y"), Some(4)),
        ]))
        .then(read(&[(item("a", "z"), None)]));
    assert_eq!(script.kind(), None);
}

#[test]
fn reads_that_overlap_a_commit_may_see_either_side_of_it() {
    let mut script = written();
    let start = script.now;
    script
        .during(
            start,
            start + 9,
            commit(&[("a", 30)], &[("a", "x", Some(4)), ("a", "y", Some(5))]).renewed_to(40),
        )
        .during(
            start + 1,
            start + 2,
            read(&[(item("a", "x"), Some(1)), (item("a", "y"), Some(2))]),
        )
        .during(
            start + 3,
            start + 4,
            read(&[(item("a", "x"), Some(4)), (item("a", "y"), Some(5))]),
        )
        .during(start + 5, start + 6, read_lock("a", 40))
        .during(
            start + 3,
            start + 8,
            commit(&[("a", 30)], &[("a", "x", Some(6))]).lost(&["a"]),
        );
    assert_eq!(script.kind(), None);
}

#[test]
fn a_lock_that_is_deleted_and_made_again_is_sound() {
    let mut script = written();
    script
        .then(deletion("a", 40))
        .then(commit(&[("a", 30)], &[("a", "x", Some(4))]).lost(&["a"]))
        .then(deletion("a", 41))
        .then(read_lock("a", 50))
        .then(commit(&[("a", 50)], &[("a", "x", Some(5))]).renewed_to(60))
        .then(read(&[
            (item("a", "x"), Some(5)),
            (item("a", "y"), Some(2)),
        ]));
    assert_eq!(script.kind(), None);

    // Whoever had the lock before may not succeed.
    script.then(commit(&[("a", 30)], &[("a", "x", Some(6))]).renewed_to(70));
    assert!(script.kind().is_some());
}

/// A commit that deletes the lock of this letter, whoever holds it.
fn deletion(letter: &str, version: u128) -> Action {
    let mut making = commit(&[], &[(letter, "lock", None)]);
    making.0.writes[0].guard = None;
    making.renewed_to(version)
}

/// What is wrong with a history of a database that makes versions ahead of time.
fn ahead(script: &Script) -> Option<Kind> {
    script.kind_where(Versions::Ahead)
}

#[test]
fn a_deletion_whose_version_was_made_early_ends_the_life_that_it_met() {
    // The deletion has the lesser version, but the lock was made before it.
    let mut script = Script::default();
    script
        .during(0, 9, read_lock("a", 20))
        .during(5, 15, deletion("a", 10))
        .during(
            18,
            19,
            commit(&[("a", 20)], &[("a", "x", Some(1))]).lost(&["a"]),
        )
        .during(20, 21, read_lock("a", 30))
        .during(
            22,
            23,
            commit(&[("a", 30)], &[("a", "x", Some(2))]).renewed_to(40),
        );
    assert_eq!(ahead(&script), None);
    let by_version = script.history.check(Versions::AtTheInstant).unwrap_err();
    assert_eq!(by_version.kind, Kind::LockMadeTwice);

    // Or the greater one, but it came before.
    let mut script = Script::default();
    script
        .during(0, 3, deletion("a", 30))
        .during(2, 9, read_lock("a", 20))
        .during(
            10,
            11,
            commit(&[("a", 20)], &[("a", "x", Some(1))]).renewed_to(40),
        );
    assert_eq!(ahead(&script), None);
}

#[test]
fn a_life_whose_version_was_made_early_may_be_the_later_one() {
    let mut script = Script::default();
    script
        .then(read_lock("a", 20))
        .then(commit(&[("a", 20)], &[("a", "x", Some(1))]).renewed_to(21))
        .then(deletion("a", 30))
        .then(read_lock("a", 10))
        .then(commit(&[("a", 21)], &[("a", "x", Some(2))]).lost(&["a"]))
        .then(
            commit(&[("a", 10)], &[("a", "x", Some(3))])
                .rests_on((item("a", "x"), Some(1)))
                .renewed_to(40),
        )
        .then(read(&[(item("a", "x"), Some(3))]));
    assert_eq!(ahead(&script), None);

    // What was written in the lives has their order.
    let mut stale = script.clone();
    stale.then(read(&[(item("a", "x"), Some(1))]));
    assert_eq!(ahead(&stale), Some(Kind::StaleRead));
    script.then(
        commit(&[("a", 40)], &[("a", "x", Some(4))])
            .rests_on((item("a", "x"), Some(1)))
            .renewed_to(50),
    );
    assert_eq!(ahead(&script), Some(Kind::LostUpdate));
}

#[test]
fn lives_that_overlap_may_have_been_in_either_order() {
    // Also with a deletion more than is needed, which met nothing.
    for deletions in [1, 2] {
        let mut script = Script::default();
        script
            .during(0, 9, read_lock("a", 10))
            .during(1, 8, read_lock("a", 20));
        for version in 0..deletions {
            script.during(2, 7, deletion("a", 30 + version));
        }
        assert_eq!(ahead(&script), None);
        // Who is told of one later says which was the last.
        for (last, other) in [(10, 20), (20, 10)] {
            let mut script = script.clone();
            script.during(20, 21, read_lock("a", last));
            assert_eq!(ahead(&script), None);
            script.during(22, 23, read_lock("a", other));
            assert!(ahead(&script).is_some());
        }
    }
}

#[test]
fn between_two_lives_there_must_be_a_deletion_in_time() {
    let two_lives = |deleted: Option<(u64, u64)>| {
        let mut script = Script::default();
        script
            .during(10, 19, read_lock("a", 20))
            .during(30, 39, read_lock("a", 10));
        if let Some((invoked, returned)) = deleted {
            script.during(invoked, returned, deletion("a", 15));
        }
        ahead(&script)
    };
    assert_eq!(two_lives(None), Some(Kind::LockMadeTwice));
    // Over before the first life, or begun after the second.
    for before_or_after in [(0, 9), (40, 49)] {
        let found = two_lives(Some(before_or_after));
        assert_eq!(found, Some(Kind::LockMadeTwice), "{before_or_after:?}");
    }
    for between in [(0, 11), (0, 49), (20, 29), (38, 49), (18, 31)] {
        assert_eq!(two_lives(Some(between)), None, "{between:?}");
    }
}

#[test]
fn a_deletion_ends_one_life_only() {
    // One after another.
    let mut script = Script::default();
    script
        .during(0, 1, read_lock("a", 10))
        .during(10, 11, read_lock("a", 20))
        .during(20, 21, read_lock("a", 30))
        .during(0, 30, deletion("a", 40));
    assert_eq!(ahead(&script), Some(Kind::LockMadeTwice));
    script.during(12, 30, deletion("a", 41));
    assert_eq!(ahead(&script), None);

    // All at the same time.
    let mut script = Script::default();
    for version in [10, 20, 30, 40] {
        script.during(0, 9, read_lock("a", version));
    }
    script
        .during(0, 9, deletion("a", 50))
        .during(0, 9, deletion("a", 51));
    assert_eq!(ahead(&script), Some(Kind::LockMadeTwice));
    script.during(0, 9, deletion("a", 52));
    assert_eq!(ahead(&script), None);
}

#[test]
fn as_many_lives_as_deletions_are_too_many_if_these_come_too_late_for_some() {
    let mut script = Script::default();
    script.during(0, 49, read_lock("a", 10));
    for version in [20, 21, 22, 23] {
        script.during(0, 9, read_lock("a", version));
    }
    for (version, invoked) in [(30, 0), (31, 0), (32, 20), (33, 20)] {
        script.during(invoked, 49, deletion("a", version));
    }
    assert_eq!(ahead(&script), Some(Kind::LockMadeTwice));
    script.during(0, 49, deletion("a", 34));
    assert_eq!(ahead(&script), None);
}

#[test]
fn what_a_deletion_wrote_besides_is_there_as_soon_as_a_life_is_over() {
    let with_a_write = || {
        let writes = [("b", "x", Some(9)), ("a", "lock", None)];
        commit(&[("b", 31)], &writes).renewed_to(90)
    };
    let old = || read(&[(item("b", "x"), Some(3))]);

    // The life is known to be over from the next one.
    let mut script = written();
    let start = script.now;
    script
        .during(start, start + 50, with_a_write())
        .during(start + 1, start + 2, old())
        .during(start + 3, start + 4, read_lock("a", 40));
    assert_eq!(ahead(&script), None);
    script.during(start + 5, start + 6, old());
    assert_eq!(ahead(&script), Some(Kind::LockMadeTwice));

    // Or from a commit that lost.
    let mut script = written();
    let start = script.now;
    let lost = || commit(&[("a", 30)], &[("a", "x", Some(8))]).lost(&["a"]);
    script
        .during(start, start + 50, with_a_write())
        .during(start + 1, start + 2, old())
        .during(start + 3, start + 4, lost());
    assert_eq!(ahead(&script), None);
    script.during(start + 5, start + 6, old());
    assert_eq!(ahead(&script), Some(Kind::UnjustifiedRefusal));
}

#[test]
fn two_lives_are_never_at_the_same_time() {
    // Both are seen before and after the other one, whatever was deleted meanwhile.
    let mut script = Script::default();
    script
        .during(0, 50, deletion("a", 40))
        .during(0, 50, deletion("a", 41))
        .during(0, 50, deletion("a", 42))
        .during(1, 2, read_lock("a", 10))
        .during(3, 4, read_lock("a", 20));
    assert_eq!(ahead(&script), None);
    script.during(5, 6, read_lock("a", 10));
    assert_eq!(ahead(&script), Some(Kind::StaleRead));

    // Nor is one renewed after the other has been seen.
    let mut script = Script::default();
    script
        .during(0, 50, deletion("a", 40))
        .during(1, 2, read_lock("a", 10))
        .during(3, 4, read_lock("a", 20))
        .during(
            5,
            6,
            commit(&[("a", 10)], &[("a", "x", Some(1))]).renewed_to(50),
        );
    assert_eq!(ahead(&script), Some(Kind::LostUpdate));
}

#[test]
fn a_life_that_is_over_is_neither_seen_nor_renewed() {
    let deleted = || {
        let mut script = written();
        script.then(deletion("a", 25)).then(read_lock("a", 24));
        script
    };
    assert_eq!(ahead(&deleted()), None);
    let mut script = deleted();
    script.then(read_lock("a", 30));
    assert!(ahead(&script).is_some());
    let mut script = deleted();
    script.then(commit(&[("a", 30)], &[("a", "x", Some(6))]).renewed_to(70));
    assert_eq!(ahead(&script), Some(Kind::LostUpdate));
    let mut script = deleted();
    script.then(commit(&[("b", 31)], &[]).check("a", 30).renewed_to(70));
    assert_eq!(ahead(&script), Some(Kind::WriteSkew));
}

#[test]
fn a_refusal_because_a_life_is_over_needs_a_deletion_in_time() {
    let refused = |deleted: Option<(u64, u64)>| {
        let mut script = Script::default();
        script.during(10, 11, read_lock("a", 20)).during(
            20,
            29,
            commit(&[("a", 20)], &[("a", "x", Some(1))]).lost(&["a"]),
        );
        if let Some((invoked, returned)) = deleted {
            script.during(invoked, returned, deletion("a", 30));
        }
        ahead(&script)
    };
    let unjustified = Some(Kind::UnjustifiedRefusal);
    let mut late = Script::default();
    late.during(10, 11, read_lock("a", 20))
        .during(
            20,
            29,
            commit(&[("a", 20)], &[("a", "x", Some(1))]).lost(&["a"]),
        )
        .during(30, 39, deletion("a", 30))
        .during(30, 39, deletion("a", 31));
    assert_eq!(ahead(&late), unjustified);
    assert_eq!(refused(None), unjustified);
    assert_eq!(refused(Some((0, 9))), unjustified);
    assert_eq!(refused(Some((30, 31))), unjustified);
    for in_time in [(0, 11), (12, 13), (28, 39), (0, 40)] {
        assert_eq!(refused(Some(in_time)), None, "{in_time:?}");
    }

    // While a deletion is under way, too, the lock is seen no more.
    let mut script = Script::default();
    script
        .during(0, 40, deletion("a", 30))
        .during(0, 40, deletion("a", 31))
        .during(10, 11, read_lock("a", 20))
        .during(
            12,
            13,
            commit(&[("a", 20)], &[("a", "x", Some(1))]).lost(&["a"]),
        );
    assert_eq!(ahead(&script), None);
    script.during(14, 15, read_lock("a", 20));
    assert_eq!(ahead(&script), unjustified);

    // It was deleted, for the commit lost; so nothing rests on it later.
    let mut script = Script::default();
    script
        .during(10, 11, read_lock("a", 20))
        .during(12, 50, deletion("a", 30))
        .during(
            20,
            21,
            commit(&[("a", 20)], &[("a", "x", Some(1))]).lost(&["a"]),
        );
    assert_eq!(ahead(&script), None);
    script.during(30, 31, commit(&[], &[]).check("a", 20).renewed_to(40));
    assert_eq!(ahead(&script), unjustified);
}

#[test]
fn two_commits_over_one_version_are_a_lost_update() {
    let mut script = written();
    script
        .then(commit(&[("a", 30)], &[("a", "x", Some(4))]).renewed_to(40))
        .then(commit(&[("a", 30)], &[("a", "x", Some(5))]).renewed_to(41));
    assert_eq!(script.kind(), Some(Kind::LostUpdate));
}

#[test]
fn a_commit_over_what_it_has_not_seen_is_a_lost_update() {
    let mut script = written();
    script
        .then(commit(&[("a", 30)], &[("a", "x", Some(4))]).renewed_to(40))
        .then(
            commit(&[("a", 40)], &[("a", "x", Some(5))])
                .rests_on((item("a", "x"), Some(1)))
                .renewed_to(41),
        );
    assert_eq!(script.kind(), Some(Kind::LostUpdate));
}

#[test]
fn a_read_of_half_a_commit_is_torn() {
    let mut script = written();
    let start = script.now;
    script
        .during(
            start,
            start + 5,
            commit(&[("a", 30)], &[("a", "x", Some(4)), ("a", "y", Some(5))]).renewed_to(40),
        )
        .during(
            start + 1,
            start + 2,
            read(&[(item("a", "x"), Some(4)), (item("a", "y"), Some(2))]),
        );
    assert_eq!(script.kind(), Some(Kind::TornRead));
}

#[test]
fn readers_that_see_two_commits_in_two_orders_are_torn() {
    let mut script = written();
    let start = script.now;
    script
        .during(
            start,
            start + 9,
            commit(&[("a", 30)], &[("a", "x", Some(4))]).renewed_to(40),
        )
        .during(
            start + 1,
            start + 8,
            commit(&[("b", 31)], &[("b", "x", Some(5))]).renewed_to(41),
        )
        .during(
            start + 2,
            start + 6,
            read(&[(item("a", "x"), Some(4)), (item("b", "x"), Some(3))]),
        )
        .during(
            start + 3,
            start + 7,
            read(&[(item("a", "x"), Some(1)), (item("b", "x"), Some(5))]),
        );
    assert_eq!(script.kind(), Some(Kind::TornRead));
}

#[test]
fn commits_that_check_each_others_locks_are_a_write_skew() {
    let mut script = written();
    let start = script.now;
    script
        .during(
            start,
            start + 5,
            commit(&[("a", 30)], &[("a", "x", Some(4))])
                .check("b", 31)
                .rests_on((item("b", "x"), Some(3)))
                .renewed_to(40),
        )
        .during(
            start + 1,
            start + 4,
            commit(&[("b", 31)], &[("b", "x", Some(5))])
                .check("a", 30)
                .rests_on((item("a", "x"), Some(1)))
                .renewed_to(41),
        );
    assert_eq!(script.kind(), Some(Kind::WriteSkew));
}

#[test]
fn a_read_of_what_was_replaced_before_it_began_is_stale() {
    let mut script = written();
    script
        .then(commit(&[("a", 30)], &[("a", "x", Some(4))]).renewed_to(40))
        .then(read(&[(item("a", "x"), Some(1))]));
    assert_eq!(script.kind(), Some(Kind::StaleRead));

    let mut script = written();
    script
        .then(commit(&[("a", 30)], &[("a", "x", Some(4))]).renewed_to(40))
        .then(read_lock("a", 30));
    assert_eq!(script.kind(), Some(Kind::StaleRead));
}

#[test]
fn reads_that_go_back_are_stale_also_while_the_commit_is_under_way() {
    let mut script = written();
    let start = script.now;
    script
        .during(
            start,
            start + 9,
            commit(&[("a", 30)], &[("a", "x", Some(4))]).renewed_to(40),
        )
        .during(start + 1, start + 2, read(&[(item("a", "x"), Some(4))]))
        .during(start + 3, start + 4, read(&[(item("a", "x"), Some(1))]));
    assert_eq!(script.kind(), Some(Kind::StaleRead));
}

#[test]
fn an_item_seen_after_its_deletion_is_found() {
    let mut script = written();
    script
        .then(commit(&[("a", 30)], &[("a", "x", None)]).renewed_to(40))
        .then(read(&[(item("a", "x"), Some(1))]));
    assert_eq!(script.kind(), Some(Kind::SeenAfterDeletion));
}

#[test]
fn nothing_where_an_item_is_all_the_while_is_a_lost_write() {
    let mut script = written();
    script.then(read(&[(item("a", "x"), None)]));
    assert_eq!(script.kind(), Some(Kind::LostWrite));
}

#[test]
fn a_version_that_two_commits_made_is_found() {
    let mut script = written();
    script
        .then(commit(&[("a", 30)], &[("a", "x", Some(4))]).renewed_to(40))
        .then(commit(&[("b", 31)], &[("b", "x", Some(5))]).renewed_to(40));
    assert_eq!(script.kind(), Some(Kind::VersionReuse));
}

#[test]
fn a_version_that_two_locks_were_made_with_is_found() {
    let mut script = written();
    script.then(read_lock("c", 50)).then(read_lock("d", 50));
    assert_eq!(script.kind(), Some(Kind::VersionReuse));

    let mut script = written();
    script.then(read_lock("c", 30));
    assert_eq!(script.kind(), Some(Kind::VersionReuse));
}

#[test]
fn a_lock_that_was_made_where_one_was_is_found() {
    let mut script = written();
    script.then(read_lock("c", 50)).then(read_lock("c", 51));
    assert_eq!(script.kind(), Some(Kind::LockMadeTwice));
}

#[test]
fn a_refusal_must_be_justified() {
    // The lock never changed.
    let mut script = written();
    script.then(commit(&[("a", 30)], &[("a", "x", Some(4))]).lost(&["a"]));
    assert_eq!(script.kind(), Some(Kind::UnjustifiedRefusal));

    // It names no lock, or one that it was not given.
    let mut script = written();
    script.then(commit(&[("a", 30)], &[("a", "x", Some(4))]).lost(&[]));
    assert_eq!(script.kind(), Some(Kind::UnjustifiedRefusal));
    let mut script = written();
    script.then(commit(&[("a", 10)], &[("a", "x", Some(4))]).lost(&["a", "b"]));
    assert_eq!(script.kind(), Some(Kind::UnjustifiedRefusal));

    // It names one twice.
    let mut script = written();
    script.then(commit(&[("a", 10)], &[("a", "x", Some(4))]).lost(&["a", "a"]));
    assert_eq!(script.kind(), Some(Kind::UnjustifiedRefusal));

    // The lock changed, but only after the refusal.
    let mut script = written();
    script
        .then(commit(&[("a", 30)], &[("a", "x", Some(4))]).lost(&["a"]))
        .then(commit(&[("a", 30)], &[("a", "x", Some(5))]).renewed_to(40));
    assert_eq!(script.kind(), Some(Kind::UnjustifiedRefusal));

    // It leaves out one of the two that had changed.
    let mut script = written();
    script
        .then(commit(&[("a", 30)], &[("a", "x", Some(4))]).renewed_to(40))
        .then(
            commit(&[("a", 30)], &[("a", "x", Some(5))])
                .check("b", 20)
                .lost(&["a"]),
        );
    assert_eq!(script.kind(), Some(Kind::UnjustifiedRefusal));

    // Nothing was in the way of the creation.
    let mut script = written();
    script
        .then(commit(&[("a", 30)], &[("a", "x", None)]).renewed_to(40))
        .then(
            commit(&[("a", 40)], &[("a", "x", Some(4))])
                .creates()
                .exists(item("a", "x")),
        );
    assert_eq!(script.kind(), Some(Kind::UnjustifiedRefusal));
}

#[test]
fn a_creation_over_an_item_is_found() {
    let mut script = written();
    script.then(
        commit(&[("a", 30)], &[("a", "x", Some(4))])
            .creates()
            .renewed_to(40),
    );
    assert_eq!(script.kind(), Some(Kind::CreatedOverAnother));
}

#[test]
fn a_read_of_a_refused_commit_is_found() {
    let mut script = written();
    script
        .then(commit(&[("a", 10)], &[("a", "x", Some(4))]).lost(&["a"]))
        .then(read(&[(item("a", "x"), Some(4))]));
    assert_eq!(script.kind(), Some(Kind::AbortedRead));
}

#[test]
fn a_read_of_what_nobody_wrote_there_is_found() {
    let mut script = written();
    script.then(read(&[(item("a", "x"), Some(99))]));
    assert_eq!(script.kind(), Some(Kind::UnknownRead));

    let mut script = written();
    script.then(read(&[(item("a", "x"), Some(3))]));
    assert_eq!(script.kind(), Some(Kind::UnknownRead));
}

#[test]
fn information_that_flows_in_a_circle_is_found() {
    let mut script = written();
    let start = script.now;
    script
        .during(
            start,
            start + 5,
            commit(&[("a", 30)], &[("a", "x", Some(4))])
                .check("b", 41)
                .renewed_to(40),
        )
        .during(
            start + 1,
            start + 4,
            commit(&[("b", 31)], &[("b", "x", Some(5))])
                .check("a", 40)
                .renewed_to(41),
        );
    assert_eq!(script.kind(), Some(Kind::CyclicFlow));

    // Also from the future.
    let mut script = written();
    script
        .then(read(&[(item("a", "x"), Some(4))]))
        .then(commit(&[("a", 30)], &[("a", "x", Some(4))]).renewed_to(40));
    assert_eq!(script.kind(), Some(Kind::CyclicFlow));
}

#[test]
fn blind_writes_that_overlap_may_be_seen_in_either_order() {
    for (last, other) in [(1, 2), (2, 1)] {
        let mut script = Script::default();
        script
            .during(0, 9, set("x", 1))
            .during(1, 8, set("x", 2))
            .during(2, 3, see("x", Some(other)))
            .during(4, 5, see("x", Some(last)))
            .during(6, 20, delete("x"))
            .during(10, 11, see("x", Some(last)))
            .during(12, 13, see("x", None))
            .during(21, 22, see("x", None));
        assert_eq!(script.kind(), None);
    }
}

#[test]
fn what_a_blind_write_replaced_before_the_read_began_is_stale() {
    let mut script = Script::default();
    script
        .then(set("x", 1))
        .then(set("x", 2))
        .then(see("x", Some(1)));
    assert_eq!(script.kind(), Some(Kind::StaleRead));
}

#[test]
fn blind_writes_that_are_seen_in_two_orders_are_found() {
    // By two readers.
    let mut script = Script::default();
    script
        .during(0, 9, set("x", 1))
        .during(0, 9, set("x", 2))
        .during(1, 2, see("x", Some(1)))
        .during(3, 6, see("x", Some(2)))
        .during(1, 4, see("x", Some(2)))
        .during(5, 6, see("x", Some(1)));
    assert_eq!(script.kind(), Some(Kind::DisputedOrder));

    // By one, to whom the first comes back.
    let mut script = Script::default();
    script
        .during(0, 9, set("x", 1))
        .during(0, 9, set("x", 2))
        .during(1, 2, see("x", Some(1)))
        .during(3, 4, see("x", Some(2)))
        .during(5, 6, see("x", Some(1)));
    assert_eq!(script.kind(), Some(Kind::DisputedOrder));
}

#[test]
fn what_was_seen_of_one_note_orders_what_is_seen_of_another() {
    let mut script = Script::default();
    script
        .then(set("x", 1))
        .then(set("y", 2))
        .during(10, 19, set("x", 3))
        .during(10, 19, set("y", 4))
        .during(11, 18, read(&[(note("x"), Some(3)), (note("y"), Some(2))]));
    assert_eq!(script.kind(), None);
    script.during(11, 18, read(&[(note("x"), Some(1)), (note("y"), Some(4))]));
    assert_eq!(script.kind(), Some(Kind::TornRead));
}

#[test]
fn a_read_of_half_a_commit_without_locks_is_torn() {
    let loose = |version| {
        let mut making = commit(&[], &[("notes", "x", Some(3)), ("notes", "y", None)]);
        making
            .0
            .writes
            .iter_mut()
            .for_each(|write| write.guard = None);
        making.renewed_to(version)
    };
    let seen = [(None, None), (Some(3), Some(2)), (Some(1), None)];
    let torn = [Kind::LostWrite, Kind::TornRead, Kind::TornRead];
    for ((x, y), kind) in seen.into_iter().zip(torn) {
        let mut script = Script::default();
        script
            .then(set("x", 1))
            .then(set("y", 2))
            .during(10, 19, loose(50))
            .during(11, 12, read(&[(note("x"), Some(1)), (note("y"), Some(2))]))
            .during(13, 14, read(&[(note("x"), Some(3)), (note("y"), None)]));
        assert_eq!(script.kind(), None);
        script.during(11, 18, read(&[(note("x"), x), (note("y"), y)]));
        assert_eq!(script.kind(), Some(kind));
    }
}

#[test]
fn a_note_seen_after_its_deletion_is_found() {
    let mut script = Script::default();
    script
        .then(set("x", 1))
        .then(delete("x"))
        .then(see("x", Some(1)));
    assert_eq!(script.kind(), Some(Kind::SeenAfterDeletion));

    // Also where a reader knows of the deletion before it has returned.
    let mut script = Script::default();
    script
        .then(set("x", 1))
        .during(10, 19, delete("x"))
        .during(11, 12, see("x", None));
    assert_eq!(script.kind(), None);
    script.during(13, 14, see("x", Some(1)));
    assert_eq!(script.kind(), Some(Kind::SeenAfterDeletion));
}

#[test]
fn nothing_where_a_note_is_all_the_while_is_a_lost_write() {
    let mut script = Script::default();
    script.then(set("x", 1)).then(see("x", None));
    assert_eq!(script.kind(), Some(Kind::LostWrite));

    // What was deleted before has been written again since.
    let mut script = Script::default();
    script
        .then(set("x", 1))
        .then(delete("x"))
        .then(see("x", None))
        .then(set("x", 2))
        .then(see("x", None));
    assert_eq!(script.kind(), Some(Kind::LostWrite));

    // It has not been deleted yet.
    let mut script = Script::default();
    script
        .then(set("x", 1))
        .then(see("x", None))
        .then(delete("x"));
    assert_eq!(script.kind(), Some(Kind::LostWrite));
}

#[test]
fn nothing_before_the_first_write_comes_before_all_of_them() {
    let mut script = Script::default();
    script
        .during(0, 9, set("x", 1))
        .during(0, 9, set("x", 2))
        .during(1, 2, see("x", None))
        .during(3, 4, see("x", Some(1)));
    assert_eq!(script.kind(), None);
    script.during(5, 6, see("x", None));
    assert_eq!(script.kind(), Some(Kind::LostWrite));
}

#[test]
fn a_note_may_be_seen_in_its_last_second_and_not_after() {
    let mut script = Script::default();
    script
        .then(set_until(100, "x", 1))
        .then(Action::Tick(100))
        .then(see("x", Some(1)))
        .during(10, 13, Action::Tick(101))
        .during(11, 12, see("x", None))
        .during(14, 15, see("x", None));
    assert_eq!(script.kind(), None);
    script.during(16, 17, see("x", Some(1)));
    assert_eq!(script.kind(), Some(Kind::SeenAfterExpiry));
}

#[test]
fn a_note_that_is_gone_before_its_last_second_has_passed_is_a_lost_write() {
    let mut script = Script::default();
    script
        .then(Action::Tick(99))
        .then(set_until(100, "x", 1))
        .then(Action::Tick(100))
        .then(see("x", None))
        .then(Action::Tick(101));
    assert_eq!(script.kind(), Some(Kind::LostWrite));

    // What replaced it does not expire.
    let mut script = Script::default();
    script
        .then(set_until(100, "x", 1))
        .then(set("x", 2))
        .then(Action::Tick(101))
        .then(see("x", None));
    assert_eq!(script.kind(), Some(Kind::LostWrite));
}

#[test]
fn what_is_gone_because_it_expired_had_been_the_last_one_written() {
    // The reader found nothing, so the first note was the last, so the other was replaced.
    let mut script = Script::default();
    script
        .during(0, 1, set_until(100, "x", 1))
        .during(0, 1, set("x", 2))
        .during(2, 3, Action::Tick(101))
        .during(4, 5, see("x", None));
    assert_eq!(script.kind(), None);
    script.during(6, 7, see("x", Some(2)));
    assert_eq!(script.kind(), Some(Kind::DisputedOrder));
}

#[test]
fn a_long_history_is_checked_without_deep_recursion() {
    let mut script = written();
    let mut version = 30;
    for value in 100..2_100 {
        let writes = [("a", "x", Some(value))];
        script.then(commit(&[("a", version)], &writes).renewed_to(version + 100));
        version += 100;
        script.then(read(&[
            (item("a", "x"), Some(value)),
            (item("a", "w"), None),
        ]));
    }
    assert!(script.history.check(Versions::AtTheInstant).is_ok());

    // A cycle over all of it is told by few of its calls.
    script.then(read(&[(item("a", "x"), Some(1))]));
    let anomaly = script.history.check(Versions::AtTheInstant).unwrap_err();
    assert_eq!(anomaly.kind, Kind::StaleRead);
    assert!(anomaly.story.len() < 20, "{anomaly}");
}

/// The whole database as one object that is asked one call after another, for the checker of
/// another crate: it searches for an order by trying, and knows nothing of graphs or of how versions
/// follow each other.
struct OneByOne;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Cell {
    /// Up to its last second, if it has one.
    Item(Value, Option<u64>),
    Lock(Version),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Cells {
    now: u64,
    cells: BTreeMap<KeyBuf, Cell>,
    /// All that were ever handed out.
    versions: BTreeSet<Version>,
}

impl Cells {
    fn get(&self, key: &KeyBuf) -> Option<&Cell> {
        let expired = |cell: &&Cell| match cell {
            Cell::Item(_, ttl) => ttl.is_some_and(|ttl| self.now > ttl),
            Cell::Lock(_) => false,
        };
        self.cells.get(key).filter(|cell| !expired(cell))
    }

    fn insert(&mut self, key: &KeyBuf, cell: Cell) {
        self.cells.insert(key.clone(), cell);
    }

    fn write(&mut self, write: &Write) {
        match write.value {
            Some(value) => self.insert(&write.key, Cell::Item(value, write.ttl)),
            None => drop(self.cells.remove(&write.key)),
        }
    }
}

impl Specification for OneByOne {
    type State = Cells;
    type Operation = Action;

    fn init() -> Cells {
        Cells {
            now: 0,
            cells: BTreeMap::new(),
            versions: BTreeSet::new(),
        }
    }

    fn apply(action: &Action, before: &Cells) -> (bool, Cells) {
        let holds = |(key, value): &Seen| match before.get(key) {
            Some(Cell::Item(there, _)) => Some(*there) == *value,
            Some(Cell::Lock(_)) | None => value.is_none(),
        };
        let mut after = before.clone();
        let sound = match action {
            Action::Read(_, seen) => seen.iter().all(holds),
            Action::ReadLock(key, version) => {
                let lock = Cell::Lock(*version);
                match before.get(key) {
                    Some(there) => *there == lock,
                    None => {
                        after.insert(key, lock);
                        after.versions.insert(*version)
                    }
                }
            }
            Action::Write(_, write) => {
                after.write(write);
                true
            }
            Action::Tick(now) => {
                after.now = *now;
                true
            }
            Action::Commit(commit) => {
                let named = commit.locks.iter().chain(&commit.checks);
                let changed = |(key, version): &&(KeyBuf, Version)| {
                    before.get(key) != Some(&Cell::Lock(*version))
                };
                let lost: Vec<KeyBuf> = named.filter(changed).map(|(key, _)| key.clone()).collect();
                let occupied = |write: &&Write| {
                    write.create && matches!(before.get(&write.key), Some(Cell::Item(..)))
                };
                let exists = commit.writes.iter().find(occupied);
                match &commit.outcome {
                    Outcome::Raced(keys) => !lost.is_empty() && *keys == lost,
                    Outcome::Exists(key) => {
                        lost.is_empty() && exists.is_some_and(|write| write.key == *key)
                    }
                    Outcome::Committed(version) => {
                        for (key, _) in &commit.locks {
                            after.insert(key, Cell::Lock(*version));
                        }
                        commit.writes.iter().for_each(|write| after.write(write));
                        let rests = commit.rests_on.iter().all(holds);
                        let is_new = after.versions.insert(*version);
                        lost.is_empty() && exists.is_none() && rests && is_new
                    }
                }
            }
        };
        match sound {
            true => (true, after),
            false => (false, before.clone()),
        }
    }
}

/// Whether the other crate finds an order that explains the history.
fn is_linearizable(history: &History) -> bool {
    let mut events: Vec<(u64, usize, Event<Action>)> = Vec::new();
    // Each as if by a thread of its own, for what one call does at several moments overlaps itself.
    for (thread, op) in history.ops.iter().enumerate() {
        events.push((op.invoked, thread, Event::Call(op.action.clone())));
        events.push((op.returned, thread, Event::Response(op.action.clone())));
    }
    events.sort_by_key(|(time, ..)| *time);
    let events = events
        .into_iter()
        .map(|(_, thread, event)| (thread, event))
        .collect();
    WGLChecker::<OneByOne>::is_linearizable(Events::from_actions(events))
}

/// Short enough for a checker that tries.
fn hundred(seed: u64) -> Workload {
    Workload {
        accounts: 3,
        shelves: 1,
        places: 3,
        notes: 2,
        threads: 3,
        calls: 30,
        seed,
    }
}

#[test]
fn another_checker_agrees_that_the_histories_are_sound() {
    for (seed, (name, make)) in seeds().zip(DATABASES) {
        let workload = hundred(seed);
        let (history, _) = workload.run(&Arc::new(make(&stopped())), None, on_threads);
        assert!(is_linearizable(&history), "{name}, {workload}");
        for versions in [Versions::AtTheInstant, Versions::Ahead] {
            assert!(history.check(versions).is_ok(), "{name}, {workload}");
        }
    }
}

#[test]
fn another_checker_agrees_about_every_fault_that_it_can_see() {
    const TRIES: usize = 4;
    let both = [Versions::AtTheInstant, Versions::Ahead];
    let each = |fault| both.map(|versions| (fault, versions));
    for (fault, versions) in Fault::ALL.iter().flat_map(each) {
        let mut refused = 0;
        for seed in seeds().take(TRIES) {
            // To refuse one takes longer: all orders must have been tried.
            let workload = Workload {
                calls: 20,
                ..hundred(seed)
            };
            let db = Arc::new(Faulty::new(*fault, versions, stopped()));
            let (history, _) = workload.run(&db, None, on_threads);
            let what = format!("{fault:?}, versions {versions:?}, {workload}");
            match (is_linearizable(&history), history.check(versions)) {
                (true, Ok(())) => {}
                (false, Err(_)) => refused += 1,
                (true, Err(anomaly)) => panic!("{what}: {anomaly}"),
                // Where absences are many, ours gives the benefit of the doubt.
                (false, Ok(())) => println!("{what}: only the other one objects"),
            }
        }
        println!("{fault:?}, versions {versions:?}: both refuse {refused} of {TRIES}");
    }
}
