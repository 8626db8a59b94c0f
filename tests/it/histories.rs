//! Tests of the history checker, and of every database by recorded histories of concurrent calls.
//!
//! `ATOMIC_DB_HISTORIES=1000` records that many histories instead of a few. `ATOMIC_DB_SEED` sets
//! the first seed. With `RUSTFLAGS="--cfg perturb"` the library's locks pause, so that calls overlap
//! far more often.

#[cfg(feature = "redb")]
use crate::redb::temporary::Temporary;
#[cfg(feature = "redb")]
use atomic_db::RedbDb;
use atomic_db::testing::{run_concurrently, with_timeout};
use atomic_db::{AtomicDb, KeyBuf, LruCache, ManualClock, MemoryDb, Version};
use atomic_db_test_support::faulty_db::{Fault, FaultyCache, HISTORY_FAULTS};
use atomic_db_test_support::history::AnomalyKind::{
    self, CreateOverExisting, DuplicateCreation, FracturedRead, G0, G1a, G1c, G2, GSingle,
    GarbageRead, IncompatibleOrder, LostUpdate, LostWrite, ReadAfterDeletion, ReadAfterExpiry,
    StaleRead, UnjustifiedRejection, VersionReuse,
};
use atomic_db_test_support::history::workload::{Job, Workload};
use atomic_db_test_support::history::{
    Action, Commit, History, LockVersion, Observation, Op, Outcome, Versions, Write,
};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use todc_utils::{Action as Event, History as Events, Specification, WGLChecker};

/// How versions may be assigned.
const BOTH: [Versions; 2] = [Versions::AtCommit, Versions::Early];

/// Runs a job on threads that begin together.
pub(super) fn on_threads(threads: usize, job: Job) -> Vec<Vec<Op>> {
    let run = move |_: &dyn Fn()| run_concurrently(threads, |thread| job(thread));
    with_timeout(Duration::from_secs(120), run)
}

/// The seeds of a run. The first one is random unless the environment sets it.
pub(super) fn seeds() -> impl Iterator<Item = u64> {
    let first = env::var("ATOMIC_DB_SEED").ok();
    let first = first.map(|seed| seed.parse().expect("a seed is a number"));
    let first = first.unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 16);
    (0..).map(move |step: u64| first.wrapping_add(step))
}

/// The number of histories to record, if the environment does not set it.
pub(super) fn count(default: usize) -> usize {
    let count = env::var("ATOMIC_DB_HISTORIES").ok();
    count.map_or(default, |count| count.parse().expect("a count is a number"))
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

type AnyDb = Arc<dyn AtomicDb<Data = String> + Send + Sync>;
type Make = fn(&ManualClock) -> AnyDb;

fn manual_clock() -> ManualClock {
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

/// The databases that histories are recorded from.
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
    let (mut operations, mut overlapping, mut pairs) = (0, 0, 0);
    for (seed, (name, make)) in seeds().zip(DATABASES.iter().cycle()).take(count) {
        let workload = thousand(seed);
        let clock = manual_clock();
        let (history, sum) = workload.run(&Arc::new(make(&clock)), Some(&clock), on_threads);
        for versions in BOTH {
            if let Err(anomaly) = history.check(versions) {
                panic!("{name}, {workload}, versions {versions:?}: {anomaly}");
            }
        }
        assert_eq!(sum, workload.sum(), "{name}, {workload}");
        let (overlaps, of) = history.overlaps();
        operations += history.ops.len();
        overlapping += overlaps;
        pairs += of;
    }
    let overlap = 100 * overlapping / pairs.max(1);
    println!("histories {count}, operations {operations}, overlap {overlap} %");
    // Histories without overlap would be little evidence.
    assert!(!cfg!(perturb) || overlap >= 20, "they overlap too little");
}

/// Records a history of a database with this fault.
fn record_faulty(
    fault: Fault,
    versions: Versions,
    workload: Workload,
    time: Option<&ManualClock>,
) -> (History, i64) {
    let clock = time.cloned().unwrap_or_else(manual_clock);
    let db = FaultyCache::with_fault(fault, clock).with_versions_ahead(versions == Versions::Early);
    let db = Arc::new(db);
    workload.run(&db, time, on_threads)
}

/// Every fault, with both ways to assign versions.
fn faults() -> impl Iterator<Item = (Fault, Versions)> {
    let each = |fault: &Fault| BOTH.map(|versions| (*fault, versions));
    HISTORY_FAULTS.iter().flat_map(each)
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
        let recorded = record_faulty(fault, versions, workload, Some(&manual_clock()));
        (workload, recorded)
    };
    for versions in BOTH.into_iter().cycle().take(6) {
        let (workload, (history, sum)) = run(Fault::None, versions);
        if let Err(anomaly) = history.check(versions) {
            panic!("without a fault, {workload}, versions {versions:?}: {anomaly}");
        }
        assert_eq!(sum, workload.sum());
    }
    for (fault, versions) in faults() {
        let found = (1..=TRIES).find_map(|tries| {
            let (_, (history, _)) = run(fault, versions);
            Some((tries, history.check(versions).err()?))
        });
        let what = format!("{fault:?}, versions {versions:?}");
        match found {
            Some((tries, anomaly)) => println!("{what}, try {tries}: {}", anomaly.kind),
            None => panic!("{what}, was not found in {TRIES} histories"),
        }
    }
}

/// Items `a.x`, `a.y` and `b.x`, each written once under the lock of its letter.
const WRITTEN: &str = "get_lock a@10
    get_lock b@20
    commit lock a@10 set a.x=1 a.y=2 -> 30
    commit lock b@20 set b.x=3 -> 31";

/// Reads a history from text, one call a line, as in [`WRITTEN`], which the word inserts.
///
/// A call without times begins after the previous one has returned. Times such as `0..9` count from
/// the end of the last call without times. `-` stands for absence.
fn parse(script: &str) -> History {
    let mut history = History::default();
    let mut now = 0;
    let script = script.replace("WRITTEN", WRITTEN);
    for line in script.lines().map(str::trim) {
        let times = line.split_once(' ').and_then(|(times, call)| {
            let (begin, end) = times.split_once("..")?;
            Some((now + number(begin), now + number(end), call))
        });
        let (invoked, returned, call) = times.unwrap_or_else(|| {
            now += 2;
            (now - 2, now - 1, line)
        });
        history.ops.push(Op {
            thread: history.ops.len(),
            invoked,
            returned,
            action: parse_action(call),
        });
    }
    history
}

fn parse_action(call: &str) -> Action {
    let words: Vec<&str> = call.split(' ').collect();
    match words[..] {
        ["read", ref items @ ..] => {
            let items = items.iter().copied().map(parse_item);
            Action::Read("get_many", items.collect())
        }
        ["get_lock", lock] => Action::GetLock(parse_lock(lock)),
        ["set", item] => Action::Write("set", parse_write(item, None, None)),
        ["set", item, "until", ttl] => {
            Action::Write("set", parse_write(item, None, Some(number(ttl))))
        }
        ["delete", item] => Action::Write("delete", parse_write(item, None, None)),
        ["clock", second] => Action::AdvanceClock(number(second)),
        ["commit", ref words @ ..] => Action::Commit(parse_commit(words)),
        _ => panic!("not a call: {call}"),
    }
}

fn parse_commit(words: &[&str]) -> Commit {
    const KEYWORDS: [&str; 9] = [
        "lock", "check", "read", "set", "create", "delete", "->", "conflict", "exists",
    ];
    let mut commit = Commit {
        locks: Vec::new(),
        checks: Vec::new(),
        read_set: Vec::new(),
        writes: Vec::new(),
        outcome: Outcome::Conflict(Vec::new()),
    };
    let mut keyword = "";
    for word in words.iter().copied() {
        match keyword {
            _ if KEYWORDS.contains(&word) => keyword = word,
            "lock" => commit.locks.push(parse_lock(word)),
            "check" => commit.checks.push(parse_lock(word)),
            "read" => commit.read_set.push(parse_item(word)),
            "->" => commit.outcome = Outcome::Committed(version(word)),
            "exists" => commit.outcome = Outcome::AlreadyExists(parse_item(word).0),
            "conflict" => {
                if let Outcome::Conflict(keys) = &mut commit.outcome {
                    keys.push(KeyBuf::new(word, "lock"));
                }
            }
            _ => {
                let (key, _) = parse_item(word);
                let mut locks = commit.locks.iter();
                let guard = locks.position(|(lock, _)| lock.pk() == key.pk());
                let mut write = parse_write(word, guard, None);
                write.create = keyword == "create";
                commit.writes.push(write);
            }
        }
    }
    commit
}

fn parse_write(item: &str, guard: Option<usize>, ttl: Option<u64>) -> Write {
    let (key, value) = parse_item(item);
    Write {
        key,
        guard,
        value,
        ttl,
        create: false,
    }
}

/// `a.x=1`, `a.x=-` or `a.x`.
fn parse_item(text: &str) -> Observation {
    let (key, value) = text.split_once('=').unwrap_or((text, "-"));
    let (pk, sk) = key.split_once('.').unwrap();
    (KeyBuf::new(pk, sk), (value != "-").then(|| number(value)))
}

/// `a@10`.
fn parse_lock(text: &str) -> LockVersion {
    let (letter, text) = text.split_once('@').unwrap();
    (KeyBuf::new(letter, "lock"), version(text))
}

fn version(text: &str) -> Version {
    Version::from_u128(number(text).into())
}

fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("not a number: {text}"))
}

/// The anomaly of a script, on which the other checker agrees.
fn anomaly(script: &str, versions: Versions) -> Option<AnomalyKind> {
    let history = parse(script);
    let anomaly = history.check(versions).err();
    let linearizable = is_linearizable(&history, versions);
    assert_eq!(linearizable, anomaly.is_none(), "{script}\n{anomaly:?}");
    let anomaly = anomaly?;
    assert!(!anomaly.explanation.is_empty());
    Some(anomaly.kind)
}

fn early(script: &str) -> Option<AnomalyKind> {
    anomaly(script, Versions::Early)
}

/// Checks that a script is correct, however versions are assigned.
fn accepts(script: &str) {
    for versions in BOTH {
        assert_eq!(anomaly(script, versions), None, "{script}");
    }
}

/// Checks that a script has this anomaly if versions are assigned at commit, and one if early.
fn detects(kind: AnomalyKind, script: &str) {
    assert_eq!(anomaly(script, Versions::AtCommit), Some(kind), "{script}");
    assert!(early(script).is_some(), "{script}");
}

/// Checks that one more call makes a correct script incorrect.
fn detects_last(kind: AnomalyKind, script: &str, call: &str) {
    accepts(script);
    detects(kind, &format!("{script}\n{call}"));
}

/// The same if versions are assigned early.
fn detects_last_early(kind: AnomalyKind, script: &str, call: &str) {
    assert_eq!(early(script), None, "{script}");
    assert_eq!(early(&format!("{script}\n{call}")), Some(kind), "{script}");
}

#[test]
fn a_sequential_history_is_accepted() {
    accepts(
        "WRITTEN
        read a.x=1 b.x=3
        get_lock a@30
        commit lock a@30 check b@31 read a.x=1 b.x=3 delete a.x set a.y=4 -> 40
        read a.x=- a.y=4
        commit lock a@30 set a.y=5 conflict a
        commit lock a@40 create a.y=6 exists a.y
        commit lock a@40 create a.x=7 -> 50
        read a.x=7 a.y=4
        read a.z=-",
    );
}

#[test]
fn reads_that_overlap_a_commit_may_observe_it_or_not() {
    accepts(
        "WRITTEN
        0..9 commit lock a@30 set a.x=4 a.y=5 -> 40
        1..2 read a.x=1 a.y=2
        3..4 read a.x=4 a.y=5
        5..6 get_lock a@40
        3..8 commit lock a@30 set a.x=6 conflict a",
    );
}

#[test]
fn a_lock_may_be_deleted_and_created_again() {
    let script = "WRITTEN
        commit delete a.lock -> 40
        commit lock a@30 set a.x=4 conflict a
        commit delete a.lock -> 41
        get_lock a@50
        commit lock a@50 set a.x=5 -> 60
        read a.x=5 a.y=2";
    // A commit under the earlier incarnation may not succeed.
    let old = "commit lock a@30 set a.x=6 -> 70";
    detects_last(LostUpdate, script, old);
}

/// Recorded from a database that checks locks in one critical section and writes in another: the
/// commit replaces a lock that has been deleted since. Without an order of versions, the deletion
/// may have come before the lock was created.
#[test]
fn a_deletion_between_two_versions_of_a_lock_is_a_lost_update() {
    let recorded = "12..21 commit delete a.lock -> 7
        16..17 get_lock a@6
        20..33 commit lock a@6 set a.x=1 -> 9";
    let read_later = format!("{recorded}\n 40..41 get_lock a@9");
    for script in [recorded, &read_later] {
        assert_eq!(anomaly(script, Versions::AtCommit), Some(LostUpdate));
        assert_eq!(early(script), None);
    }
}

#[test]
fn a_deletion_with_an_early_version_ends_the_current_incarnation() {
    // The deletion has the lesser version, but the lock was created before it.
    let lesser = "0..9 get_lock a@20
        5..15 commit delete a.lock -> 10
        18..19 commit lock a@20 set a.x=1 conflict a
        20..21 get_lock a@30
        22..23 commit lock a@30 set a.x=2 -> 40";
    assert_eq!(early(lesser), None);
    let by_version = anomaly(lesser, Versions::AtCommit);
    assert_eq!(by_version, Some(DuplicateCreation));

    // The deletion has the greater version, but it came first.
    let greater = "0..3 commit delete a.lock -> 30
        2..9 get_lock a@20
        10..11 commit lock a@20 set a.x=1 -> 40";
    assert_eq!(early(greater), None);
}

#[test]
fn an_incarnation_with_an_early_version_may_be_the_later_one() {
    let script = "get_lock a@20
        commit lock a@20 set a.x=1 -> 21
        commit delete a.lock -> 30
        get_lock a@10
        commit lock a@21 set a.x=2 conflict a
        commit lock a@10 read a.x=1 set a.x=3 -> 40
        read a.x=3";
    // Items written in the incarnations have the same order.
    detects_last_early(StaleRead, script, "read a.x=1");
    let overwrite = "commit lock a@40 read a.x=1 set a.x=4 -> 50";
    detects_last_early(LostUpdate, script, overwrite);
}

#[test]
fn concurrent_incarnations_may_have_either_order() {
    let one = "0..9 get_lock a@10
        1..8 get_lock a@20
        2..7 commit delete a.lock -> 30";
    // The second deletion is not needed and deleted nothing.
    let two = format!("{one}\n 2..7 commit delete a.lock -> 31");
    for script in [one, &two] {
        // A later read shows which one was the last.
        for (last, other) in [(10, 20), (20, 10)] {
            let read = format!("{script}\n 20..21 get_lock a@{last}");
            assert_eq!(early(&read), None);
            let back = format!("{read}\n 22..23 get_lock a@{other}");
            assert!(early(&back).is_some());
        }
    }
}

#[test]
fn two_incarnations_need_a_deletion_between_them() {
    let creations = "10..19 get_lock a@20
        30..39 get_lock a@10";
    assert_eq!(early(creations), Some(DuplicateCreation));
    let deleted = |times| early(&format!("{creations}\n{times} commit delete a.lock -> 15"));
    // It had returned before the first creation, or began after the second.
    for times in ["0..9", "40..49"] {
        assert_eq!(deleted(times), Some(DuplicateCreation), "{times}");
    }
    for times in ["0..11", "0..49", "20..29", "38..49", "18..31"] {
        assert_eq!(deleted(times), None, "{times}");
    }
}

/// Checks that a script needs one more deletion, during these times.
fn needs_a_deletion(script: &str, times: &str) {
    assert_eq!(early(script), Some(DuplicateCreation), "{script}");
    let script = format!("{script}\n {times} commit delete a.lock -> 99");
    assert_eq!(early(&script), None, "{script}");
}

#[test]
fn a_deletion_ends_a_single_incarnation() {
    let sequential = "0..1 get_lock a@10
        10..11 get_lock a@20
        20..21 get_lock a@30
        0..30 commit delete a.lock -> 40";
    needs_a_deletion(sequential, "12..30");

    let concurrent = "0..9 get_lock a@10
        0..9 get_lock a@20
        0..9 get_lock a@30
        0..9 get_lock a@40
        0..9 commit delete a.lock -> 50
        0..9 commit delete a.lock -> 51";
    needs_a_deletion(concurrent, "0..9");

    // There are as many deletions as are needed, but two of them come too late.
    let late = "0..49 get_lock a@10
        0..9 get_lock a@20
        0..9 get_lock a@21
        0..9 get_lock a@22
        0..9 get_lock a@23
        0..49 commit delete a.lock -> 30
        0..49 commit delete a.lock -> 31
        20..49 commit delete a.lock -> 32
        20..49 commit delete a.lock -> 33";
    needs_a_deletion(late, "0..49");
}

#[test]
fn the_other_writes_of_a_deletion_are_visible_once_the_incarnation_has_ended() {
    let overlapping = "WRITTEN
        0..50 commit lock b@31 set b.x=9 delete a.lock -> 90
        1..2 read b.x=3";
    let old = "5..6 read b.x=3";
    // The next incarnation shows that this one has ended.
    let next = format!("{overlapping}\n 3..4 get_lock a@40");
    detects_last_early(DuplicateCreation, &next, old);
    // So does a conflict.
    let conflict = format!("{overlapping}\n 3..4 commit lock a@30 set a.x=8 conflict a");
    detects_last_early(UnjustifiedRejection, &conflict, old);
}

#[test]
fn two_incarnations_never_exist_at_the_same_time() {
    // The first is observed before and after the second, whatever was deleted concurrently.
    let script = "0..50 commit delete a.lock -> 40
        0..50 commit delete a.lock -> 41
        0..50 commit delete a.lock -> 42
        1..2 get_lock a@10
        3..4 get_lock a@20";
    detects_last_early(StaleRead, script, "5..6 get_lock a@10");
    // Nor is the first renewed after the second has been observed.
    let renewal = "5..6 commit lock a@10 set a.x=1 -> 50";
    detects_last_early(LostUpdate, script, renewal);
}

#[test]
fn an_ended_incarnation_is_neither_observed_nor_renewed() {
    let script = "WRITTEN
        commit delete a.lock -> 25
        get_lock a@24";
    detects_last_early(ReadAfterDeletion, script, "get_lock a@30");
    let renewal = "commit lock a@30 set a.x=6 -> 70";
    detects_last_early(LostUpdate, script, renewal);
    let check = "commit lock b@31 check a@30 -> 70";
    detects_last_early(GSingle, script, check);
}

#[test]
fn a_conflict_on_an_ended_incarnation_needs_a_deletion_in_time() {
    let script = "10..11 get_lock a@20
        20..29 commit lock a@20 set a.x=1 conflict a";
    let deleted = |times: &[&str]| {
        let versions = ["-> 30", "-> 31"].iter().zip(times);
        let lines =
            versions.map(|(version, times)| format!("\n {times} commit delete a.lock {version}"));
        early(&lines.fold(script.to_owned(), |script, line| script + &line))
    };
    let too_late: [&[&str]; 4] = [&[], &["0..9"], &["30..31"], &["30..39", "30..39"]];
    for times in too_late {
        assert_eq!(deleted(times), Some(UnjustifiedRejection), "{times:?}");
    }
    for times in ["0..11", "12..13", "28..39", "0..40"] {
        assert_eq!(deleted(&[times]), None, "{times}");
    }

    // The lock is not observed again, even while the deletions are under way.
    let concurrent = "0..40 commit delete a.lock -> 30
        0..40 commit delete a.lock -> 31
        10..11 get_lock a@20
        12..13 commit lock a@20 set a.x=1 conflict a";
    detects_last_early(UnjustifiedRejection, concurrent, "14..15 get_lock a@20");

    // The conflict shows that the lock was deleted, so no later commit can check it.
    let checked = "10..11 get_lock a@20
        12..50 commit delete a.lock -> 30
        20..21 commit lock a@20 set a.x=1 conflict a";
    detects_last_early(
        UnjustifiedRejection,
        checked,
        "30..31 commit check a@20 -> 40",
    );
}

#[test]
fn lost_updates_are_detected() {
    // Two commits replace one version of a lock.
    let renewed = "WRITTEN
        commit lock a@30 set a.x=4 -> 40";
    detects_last(LostUpdate, renewed, "commit lock a@30 set a.x=5 -> 41");
    // A commit overwrites a version of an item that it has not read.
    let overwrite = "commit lock a@40 read a.x=1 set a.x=5 -> 41";
    detects_last(LostUpdate, renewed, overwrite);
}

#[test]
fn fractured_reads_are_detected() {
    let script = "WRITTEN
        0..5 commit lock a@30 set a.x=4 a.y=5 -> 40";
    detects_last(FracturedRead, script, "1..2 read a.x=4 a.y=2");
}

#[test]
fn single_anti_dependency_cycles_are_detected() {
    // A read observes a commit, but not another one that this depends on.
    let script = "WRITTEN
        0..9 commit lock a@30 set a.x=4 -> 40
        0..9 commit lock b@31 check a@40 set b.x=5 -> 41";
    detects_last(GSingle, script, "0..9 read a.x=1 b.x=5");
    // A commit checks a lock that has changed.
    let script = "WRITTEN
        commit lock a@30 -> 40";
    detects_last(GSingle, script, "commit lock b@31 check a@30 -> 41");
}

#[test]
fn anti_dependency_cycles_are_detected() {
    // Write skew: two commits check each other's locks.
    let script = "WRITTEN
        0..5 commit lock a@30 check b@31 read b.x=3 set a.x=4 -> 40";
    let skewed = "1..4 commit lock b@31 check a@30 read a.x=1 set b.x=5 -> 41";
    detects_last(G2, script, skewed);
    // Long fork: two reads observe two commits in different orders.
    let script = "WRITTEN
        0..9 commit lock a@30 set a.x=4 -> 40
        1..8 commit lock b@31 set b.x=5 -> 41
        2..6 read a.x=4 b.x=3";
    detects_last(G2, script, "3..7 read a.x=1 b.x=5");
}

#[test]
fn stale_reads_are_detected() {
    let completed = "WRITTEN
        commit lock a@30 set a.x=4 -> 40";
    detects_last(StaleRead, completed, "read a.x=1");
    detects_last(StaleRead, completed, "get_lock a@30");
    // Another read has observed the commit while it is under way.
    let observed = "WRITTEN
        0..9 commit lock a@30 set a.x=4 -> 40
        1..2 read a.x=4";
    detects_last(StaleRead, observed, "3..4 read a.x=1");
    detects(StaleRead, "set n.x=1\n set n.x=2\n read n.x=1");
}

#[test]
fn reads_after_deletion_are_detected() {
    let deleted = "WRITTEN
        commit lock a@30 delete a.x -> 40";
    detects_last(ReadAfterDeletion, deleted, "read a.x=1");
    detects_last(ReadAfterDeletion, "set n.x=1\n delete n.x", "read n.x=1");
    // Another read has observed the deletion while it is under way.
    let observed = "set n.x=1
        8..17 delete n.x
        9..10 read n.x=-";
    detects_last(ReadAfterDeletion, observed, "11..12 read n.x=1");
}

#[test]
fn reused_versions_are_detected() {
    // By two commits.
    let script = "WRITTEN
        commit lock a@30 set a.x=4 -> 40";
    detects_last(VersionReuse, script, "commit lock b@31 set b.x=5 -> 40");
    // By two creations.
    detects_last(VersionReuse, "WRITTEN\n get_lock c@50", "get_lock d@50");
    // By a commit and a creation.
    detects_last(VersionReuse, "WRITTEN", "get_lock c@30");
}

#[test]
fn duplicate_creations_are_detected() {
    detects_last(
        DuplicateCreation,
        "WRITTEN\n get_lock c@50",
        "get_lock c@51",
    );
    detects_last(
        CreateOverExisting,
        "WRITTEN",
        "commit lock a@30 create a.x=4 -> 40",
    );
}

#[test]
fn unjustified_rejections_are_detected() {
    for rejected in [
        // The lock has not changed.
        "commit lock a@30 set a.x=4 conflict a",
        // The conflict names no lock, one that the commit does not, or one twice.
        "commit lock a@30 set a.x=4 conflict",
        "commit lock a@10 set a.x=4 conflict a b",
        "commit lock a@10 set a.x=4 conflict a a",
    ] {
        detects_last(UnjustifiedRejection, "WRITTEN", rejected);
    }
    // The lock changed after the rejection.
    detects(
        UnjustifiedRejection,
        "WRITTEN
        commit lock a@30 set a.x=4 conflict a
        commit lock a@30 set a.x=5 -> 40",
    );
    // The conflict omits one of two locks that have changed.
    let changed = "WRITTEN
        commit lock a@30 set a.x=4 -> 40";
    let omitted = "commit lock a@30 check b@20 set a.x=5 conflict a";
    detects_last(UnjustifiedRejection, changed, omitted);
    // The item to be created does not exist.
    let deleted = "WRITTEN
        commit lock a@30 delete a.x -> 40";
    let exists = "commit lock a@40 create a.x=4 exists a.x";
    detects_last(UnjustifiedRejection, deleted, exists);
}

#[test]
fn aborted_reads_are_detected() {
    let rejected = "WRITTEN
        commit lock a@10 set a.x=4 conflict a";
    detects_last(G1a, rejected, "read a.x=4");
}

#[test]
fn garbage_reads_are_detected() {
    // The value was never written, or only to another key.
    detects_last(GarbageRead, "WRITTEN", "read a.x=99");
    detects_last(GarbageRead, "WRITTEN", "read a.x=3");
}

#[test]
fn circular_information_flow_is_detected() {
    detects(
        G1c,
        "WRITTEN
        0..5 commit lock a@30 check b@41 set a.x=4 -> 40
        1..4 commit lock b@31 check a@40 set b.x=5 -> 41",
    );
    // A read observes a commit that begins later.
    detects(
        G1c,
        "WRITTEN
        read a.x=4
        commit lock a@30 set a.x=4 -> 40",
    );
}

#[test]
fn write_cycles_are_detected() {
    // Each of two commits overwrites the other one at one of two keys.
    let script = "0..9 commit set n.x=1 n.y=2 -> 50
        0..9 commit set n.x=3 n.y=4 -> 51
        10..11 read n.x=1";
    detects_last(G0, script, "10..11 read n.y=4");
}

#[test]
fn concurrent_blind_writes_may_have_either_order() {
    for (last, other) in [(1, 2), (2, 1)] {
        accepts(&format!(
            "0..9 set n.x=1
            1..8 set n.x=2
            2..3 read n.x={other}
            4..5 read n.x={last}
            6..20 delete n.x
            10..11 read n.x={last}
            12..13 read n.x=-
            21..22 read n.x=-"
        ));
    }
}

#[test]
fn incompatible_orders_of_blind_writes_are_detected() {
    let observed = "0..9 set n.x=1
        0..9 set n.x=2
        1..2 read n.x=1
        3..6 read n.x=2";
    // Another reader observes them the other way round.
    let other = format!("{observed}\n 1..4 read n.x=2");
    detects_last(IncompatibleOrder, &other, "5..6 read n.x=1");
    // The first value comes back.
    detects_last(IncompatibleOrder, observed, "7..8 read n.x=1");
}

#[test]
fn reads_of_one_blind_write_order_reads_of_another() {
    let script = "set n.x=1
        set n.y=2
        10..19 set n.x=3
        10..19 set n.y=4
        11..18 read n.x=3 n.y=2";
    detects_last(G2, script, "11..18 read n.x=1 n.y=4");
}

#[test]
fn fractured_reads_of_a_commit_without_locks_are_detected() {
    let script = "set n.x=1
        set n.y=2
        10..19 commit set n.x=3 delete n.y -> 50
        11..12 read n.x=1 n.y=2
        13..14 read n.x=3 n.y=-";
    detects_last(LostWrite, script, "11..18 read n.x=- n.y=-");
    detects_last(FracturedRead, script, "11..18 read n.x=3 n.y=2");
    detects_last(FracturedRead, script, "11..18 read n.x=1 n.y=-");
}

#[test]
fn lost_writes_are_detected() {
    detects_last(LostWrite, "WRITTEN", "read a.x=-");
    detects_last(LostWrite, "set n.x=1", "read n.x=-");
    // The note was written again after its deletion.
    let rewritten = "set n.x=1
        delete n.x
        read n.x=-
        set n.x=2";
    detects_last(LostWrite, rewritten, "read n.x=-");
    // The note is deleted later.
    detects(LostWrite, "set n.x=1\n read n.x=-\n delete n.x");
    // Absence before the first write comes before every write.
    let first = "0..9 set n.x=1
        0..9 set n.x=2
        1..2 read n.x=-
        3..4 read n.x=1";
    detects_last(LostWrite, first, "5..6 read n.x=-");
    // A note expires early.
    detects(
        LostWrite,
        "clock 99
        set n.x=1 until 100
        clock 100
        read n.x=-
        clock 101",
    );
    // The value that replaced it does not expire.
    let replaced = "set n.x=1 until 100
        set n.x=2
        clock 101";
    detects_last(LostWrite, replaced, "read n.x=-");
}

#[test]
fn reads_after_expiry_are_detected() {
    let script = "set n.x=1 until 100
        clock 100
        read n.x=1
        4..7 clock 101
        5..6 read n.x=-
        8..9 read n.x=-";
    detects_last(ReadAfterExpiry, script, "10..11 read n.x=1");
}

#[test]
fn an_expired_note_was_the_last_one_written() {
    // The absence shows that the note with a last second replaced the other one.
    let script = "0..1 set n.x=1 until 100
        0..1 set n.x=2
        2..3 clock 101
        4..5 read n.x=-";
    detects_last(IncompatibleOrder, script, "6..7 read n.x=2");
}

#[test]
fn a_long_history_is_checked_without_deep_recursion() {
    let mut script = WRITTEN.to_owned();
    for value in 100..2_100 {
        let version = if value == 100 { 30 } else { value };
        let next = value + 1;
        script += &format!("\n commit lock a@{version} set a.x={value} -> {next}");
        script += &format!("\n read a.x={value} a.w=-");
    }
    assert!(parse(&script).check(Versions::AtCommit).is_ok());

    // A cycle through all of it is explained by a few of its calls.
    let anomaly = parse(&(script + "\n read a.x=1")).check(Versions::AtCommit);
    let anomaly = anomaly.unwrap_err();
    assert_eq!(anomaly.kind, StaleRead);
    assert!(anomaly.explanation.len() < 20, "{anomaly}");
}

#[test]
fn an_anomaly_is_explained_by_the_calls_of_its_cycle_and_the_edges_between_them() {
    let script = "WRITTEN
        0..9 commit lock a@30 set a.x=4 -> 40
        1..2 read a.x=4
        3..4 read a.x=1";
    let anomaly = parse(script).check(Versions::AtCommit).unwrap_err();
    let expected = r#"stale read:
  thread 4 at 8..17: commit lock ("a", "lock")=0000000000000000000000000Y set ("a", "x")=4: committed as 00000000000000000000000018
    -- wr ("a", "x"): the next call observed the version that this call wrote
  thread 5 at 9..10: get_many returned ("a", "x")=4
    -- real time: this call had returned before the next call began
  thread 6 at 11..12: get_many returned ("a", "x")=1
    -- rw ("a", "x"): this call observed a version that the next call overwrote
  the first call again"#;
    assert_eq!(anomaly.to_string(), expected);
}

/// The whole database as one sequential object, for the checker of another crate. That checker
/// searches for an order by trying, without a graph. If versions are `ORDERED`, those of one lock
/// increase, as [`Versions::AtCommit`] states.
struct Sequential<const ORDERED: bool>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Row {
    /// With its last second, if it has one.
    Item(u64, Option<u64>),
    Lock(Version),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    now: u64,
    rows: BTreeMap<KeyBuf, Row>,
    /// All versions that were ever assigned.
    versions: BTreeSet<Version>,
    /// For each lock, the version of its last creation, renewal or deletion.
    last: BTreeMap<KeyBuf, Version>,
}

impl State {
    fn get(&self, key: &KeyBuf) -> Option<&Row> {
        let expired = |row: &&Row| match row {
            Row::Item(_, ttl) => ttl.is_some_and(|ttl| self.now > ttl),
            Row::Lock(_) => false,
        };
        self.rows.get(key).filter(|row| !expired(row))
    }

    fn write(&mut self, write: &Write) {
        match write.value {
            Some(value) => drop(
                self.rows
                    .insert(write.key.clone(), Row::Item(value, write.ttl)),
            ),
            None => drop(self.rows.remove(&write.key)),
        }
    }

    /// Whether this version of a lock comes after its earlier ones.
    fn follows(&mut self, key: &KeyBuf, version: Version) -> bool {
        let before = self.last.insert(key.clone(), version);
        before.is_none_or(|before| before < version)
    }

    /// Performs a successful commit. Returns whether its version is valid.
    fn commit(&mut self, commit: &Commit, version: Version) -> bool {
        let deleted = commit.writes.iter().map(|write| &write.key);
        let deleted = deleted.filter(|key| key.sk() == "lock");
        let mut locks = commit.locks.iter().map(|(key, _)| key).chain(deleted);
        let ordered = locks.all(|key| self.follows(key, version));
        for (key, _) in &commit.locks {
            self.rows.insert(key.clone(), Row::Lock(version));
        }
        commit.writes.iter().for_each(|write| self.write(write));
        self.versions.insert(version) && ordered
    }
}

impl<const ORDERED: bool> Specification for Sequential<ORDERED> {
    type State = State;
    type Operation = Action;

    fn init() -> State {
        State::default()
    }

    fn apply(action: &Action, before: &State) -> (bool, State) {
        let holds = |(key, value): &Observation| match before.get(key) {
            Some(Row::Item(present, _)) => Some(*present) == *value,
            Some(Row::Lock(_)) | None => value.is_none(),
        };
        let mut after = before.clone();
        let valid = match action {
            Action::Read(_, observed) => observed.iter().all(holds),
            Action::GetLock((key, version)) => match before.get(key) {
                Some(row) => *row == Row::Lock(*version),
                None => {
                    after.rows.insert(key.clone(), Row::Lock(*version));
                    after.versions.insert(*version) && after.follows(key, *version)
                }
            },
            Action::Write(_, write) => {
                after.write(write);
                true
            }
            Action::AdvanceClock(now) => {
                after.now = *now;
                true
            }
            Action::Commit(commit) => {
                let changed =
                    |(key, version): &&LockVersion| before.get(key) != Some(&Row::Lock(*version));
                let changed = action.lock_versions().filter(changed);
                let changed: Vec<KeyBuf> = changed.map(|(key, _)| key.clone()).collect();
                let mut creates = commit.writes.iter().filter(|write| write.create);
                let exists = creates
                    .find(|write| matches!(before.get(&write.key), Some(Row::Item(..))))
                    .map(|write| &write.key);
                match &commit.outcome {
                    Outcome::Conflict(keys) => !changed.is_empty() && *keys == changed,
                    Outcome::AlreadyExists(key) => changed.is_empty() && exists == Some(key),
                    Outcome::Committed(version) => {
                        let reads_hold = commit.read_set.iter().all(holds);
                        let version_is_valid = after.commit(commit, *version);
                        changed.is_empty() && exists.is_none() && reads_hold && version_is_valid
                    }
                }
            }
        };
        if !ORDERED {
            after.last.clear();
        }
        (valid, after)
    }
}

/// Whether the other crate's checker finds an order that explains the history.
fn is_linearizable(history: &History, versions: Versions) -> bool {
    let mut events: Vec<(u64, usize, Event<Action>)> = Vec::new();
    // Each call has a thread of its own, because the actions of one call may overlap.
    for (thread, op) in history.ops.iter().enumerate() {
        events.push((op.invoked, thread, Event::Call(op.action.clone())));
        events.push((op.returned, thread, Event::Response(op.action.clone())));
    }
    events.sort_by_key(|(time, ..)| *time);
    let events = events.into_iter();
    let events = events.map(|(_, thread, event)| (thread, event)).collect();
    let events = Events::from_actions(events);
    match versions {
        Versions::AtCommit => WGLChecker::<Sequential<true>>::is_linearizable(events),
        Versions::Early => WGLChecker::<Sequential<false>>::is_linearizable(events),
    }
}

/// Short enough for a checker that searches.
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
fn another_checker_agrees_that_the_histories_are_correct() {
    for (seed, (name, make)) in seeds().zip(DATABASES) {
        let workload = hundred(seed);
        let db = Arc::new(make(&manual_clock()));
        let (history, _) = workload.run(&db, None, on_threads);
        for versions in BOTH {
            let linearizable = is_linearizable(&history, versions);
            assert!(linearizable, "{name}, {workload}, versions {versions:?}");
            assert!(history.check(versions).is_ok(), "{name}, {workload}");
        }
    }
}

#[test]
fn another_checker_agrees_about_every_fault_that_it_can_detect() {
    const TRIES: usize = 4;
    for (fault, versions) in faults() {
        let mut rejected = 0;
        for seed in seeds().take(TRIES) {
            // To reject a history takes longer, because all orders must be tried.
            let workload = Workload {
                calls: 20,
                ..hundred(seed)
            };
            let (history, _) = record_faulty(fault, versions, workload, None);
            let what = format!("{fault:?}, versions {versions:?}, {workload}");
            match (is_linearizable(&history, versions), history.check(versions)) {
                (true, Ok(())) => {}
                (false, Err(_)) => rejected += 1,
                (true, Err(anomaly)) => panic!("{what}: {anomaly}"),
                // Ours accepts if it does not know which absence was observed.
                (false, Ok(())) => println!("{what}: rejected only by the other checker"),
            }
        }
        println!("{fault:?}, versions {versions:?}: both reject {rejected} of {TRIES}");
    }
}
