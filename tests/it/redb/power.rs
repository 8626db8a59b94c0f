//! Crash images: power cuts at every operation of the disk, also during recovery, and disks that fail
//! once. Seeded bugs show what these tests detect.
//!
//! `ATOMIC_DB_POWER_CUTS` sets the number of random subsets of unsynced writes that survive each cut,
//! which is 1 by default.

use super::storage::{Disk, Fault, SurvivingWrites};
use crate::common::HANG_LIMIT;
use atomic_db::testing::{run_concurrently, with_timeout};
use atomic_db::{
    AtomicDb, Batch, Durability, Error, Item, Key, Lock, Query, RedbDb, Result, Version,
};
use std::collections::BTreeMap;
use std::env;

const COMMITS: usize = 5;

/// After a power cut, recovery is cut again at every operation with this distance.
const SECOND_CUT_STEP: usize = 7;

const LOCK: (&str, &str) = ("ledger", "lock");

/// How a database is opened on a disk and written to. Seeded bugs are put in here.
#[derive(Clone, Copy)]
struct Setup {
    durability: Durability,
    ignores_sync: bool,
    commit: fn(&RedbDb<String>, &Batch<String>) -> Result<Version>,
}

const CORRECT: Setup = Setup {
    durability: Durability::Immediate,
    ignores_sync: false,
    commit: |db, batch| db.commit(batch),
};

impl Setup {
    fn open(self, disk: &Disk) -> Result<RedbDb<String>> {
        let disk = if self.ignores_sync {
            disk.clone().ignoring_syncs()
        } else {
            disk.clone()
        };
        RedbDb::builder()
            .durability(self.durability)
            .cache_size(1 << 20)
            .open_with(disk)
    }
}

/// Returns the items after the first `commits` commits of the script: a counter, and the last three
/// entries.
fn state_after(commits: usize) -> BTreeMap<String, String> {
    let entries = (commits.saturating_sub(2).max(1)..=commits)
        .map(|number| (format!("entry {number}"), "x".repeat(100 * number)));
    let counter = (commits > 0).then(|| ("counter".to_owned(), commits.to_string()));
    entries.chain(counter).collect()
}

/// Returns the commit of the script with this number, counted from one.
fn batch(number: usize, lock: Lock) -> Batch<String> {
    let entry = format!("entry {number}");
    let batch = Batch::new()
        .lock(lock)
        .set(Item::new("ledger", "counter", number.to_string()))
        .create(Item::new("ledger", entry, "x".repeat(100 * number)).expires_at(9_000_000_000));
    match number {
        0..=3 => batch,
        _ => batch.delete(("ledger", format!("entry {}", number - 3))),
    }
}

/// The results that the script received.
#[derive(Clone, Copy, Debug, Default)]
struct Acked {
    commits: usize,
    /// Whether the outcome of the next commit is unknown.
    unknown: bool,
    version: Option<Version>,
}

/// Commits until something fails.
fn script(setup: Setup, disk: &Disk) -> Acked {
    let mut acked = Acked::default();
    let Ok(db) = setup.open(disk) else {
        return acked;
    };
    for number in 1..=COMMITS {
        let Ok(lock) = db.get_lock(Key::from(LOCK)) else {
            return acked;
        };
        match (setup.commit)(&db, &batch(number, lock)) {
            Ok(version) => {
                acked.commits = number;
                acked.version = Some(version);
            }
            Err(Error::OutcomeUnknown(_)) => {
                acked.unknown = true;
                return acked;
            }
            Err(_) => return acked,
        }
    }
    acked
}

/// Opens the disk, and checks that it agrees with `acked` and that commits succeed again. If the power
/// is cut while it is opened, that is for the caller to check.
fn check_recovery(disk: &Disk, acked: Acked) -> Result<(), String> {
    let db = CORRECT
        .open(disk)
        .map_err(|error| format!("cannot be opened: {error:?}"))?;
    if disk.was_cut() {
        return Ok(());
    }
    let intact = db.check_integrity();
    intact.map_err(|error| format!("damaged: {error:?}"))?;
    let items = db.query(&Query::new("ledger"));
    let items = items.map_err(|error| format!("cannot be read: {error:?}"))?;
    let found: BTreeMap<String, String> = items
        .iter()
        .map(|item| {
            let data = item.data().cloned().unwrap_or_default();
            (item.sk().to_owned(), data)
        })
        .collect();
    let commits = found
        .get("counter")
        .map_or(0, |number| number.parse().unwrap());
    let possible = acked.commits..=acked.commits + usize::from(acked.unknown);
    if !possible.contains(&commits) {
        return Err(format!("found {commits} commits, expected {possible:?}"));
    }
    if found != state_after(commits) {
        return Err(format!("commit {commits} is partial: {found:?}"));
    }
    let next = db.get_lock(Key::from(LOCK)).and_then(|lock| {
        let before = lock.version();
        Ok((before, db.commit(&Batch::new().lock(lock))?))
    });
    let (before, after) = next.map_err(|error| format!("cannot commit: {error:?}"))?;
    match acked.version {
        Some(version) if before < version => Err(format!("{before} after {version}")),
        _ if after <= before => Err(format!("{after} follows {before}")),
        _ => Ok(()),
    }
}

/// Returns a disk with an empty database. A storage cannot show how a file is created.
fn new_disk() -> Disk {
    let disk = Disk::default();
    drop(CORRECT.open(&disk).unwrap());
    Disk::with_image(disk.current())
}

/// Cuts the power at every operation of the script, and again during each recovery. Returns the number
/// of crash images that were recovered and checked, or the first failure.
fn cut_everywhere(setup: Setup, random_subsets: u64) -> Result<usize, String> {
    let complete = new_disk();
    script(setup, &complete);
    let mut images = 0;
    for cut in 0..complete.operations() {
        let disk = new_disk().failing_at(cut, Fault::PowerCut);
        let acked = script(setup, &disk);
        let random =
            (0..random_subsets).map(|seed| SurvivingWrites::Random(seed << 32 | cut as u64));
        let all = [SurvivingWrites::None, SurvivingWrites::All];
        for surviving in all.into_iter().chain(random) {
            let image = disk.after_power_cut(surviving);
            // Adjacent first cuts get different second ones.
            let first = cut % SECOND_CUT_STEP;
            for second in (first..).step_by(SECOND_CUT_STEP) {
                let describe = |reason| {
                    format!("cut at {cut}, {surviving:?}, second cut at {second}: {reason}")
                };
                let disk = Disk::with_image(image.clone()).failing_at(second, Fault::PowerCut);
                // An error that the second cut causes is ignored; the image after it is checked.
                let outcome = check_recovery(&disk, acked);
                images += 1;
                if !disk.was_cut() {
                    outcome.map_err(describe)?;
                    break;
                }
                // The second cut may have hit the commit of the check itself, which changes only the
                // lock and leaves the items as they are.
                let surviving = [
                    SurvivingWrites::None,
                    SurvivingWrites::All,
                    SurvivingWrites::Random(second as u64),
                ][images % 3];
                let disk = Disk::with_image(disk.after_power_cut(surviving));
                check_recovery(&disk, acked).map_err(describe)?;
                images += 1;
            }
        }
    }
    Ok(images)
}

fn random_subsets() -> u64 {
    let subsets = env::var("ATOMIC_DB_POWER_CUTS").ok();
    subsets.map_or(1, |subsets| subsets.parse().expect("a number of subsets"))
}

#[test]
fn a_power_cut_at_any_operation_loses_no_acknowledged_commit_and_leaves_no_partial_one() {
    let images = cut_everywhere(CORRECT, random_subsets()).unwrap();
    println!("power cuts: {images} images");
    assert!(images > 1_000, "only {images} images");
}

#[test]
fn a_power_cut_loses_no_acknowledged_commit_with_quick_repair() {
    let setup = Setup {
        durability: Durability::QuickRepair,
        ..CORRECT
    };
    cut_everywhere(setup, random_subsets()).unwrap();
}

#[test]
fn acknowledging_a_commit_before_it_is_synced_is_detected() {
    let early = Setup {
        durability: Durability::Deferred,
        ..CORRECT
    };
    cut_everywhere(early, 1).unwrap_err();
    let ignores_sync = Setup {
        ignores_sync: true,
        ..CORRECT
    };
    cut_everywhere(ignores_sync, 1).unwrap_err();
}

/// The sort key of each commit, and whether it was written, if the result says so.
type Results = Vec<(String, Option<bool>)>;

const THREADS: usize = 8;
const COMMITS_PER_THREAD: usize = 3;

/// Commits from eight threads. Half of the commits are under one lock that all threads read, so that
/// some of them conflict.
fn commit_concurrently(setup: Setup, disk: &Disk) -> Results {
    let Ok(db) = setup.open(disk) else {
        return Vec::new();
    };
    let results = run_concurrently(THREADS, |thread| {
        let mut results = Results::new();
        for number in 0..COMMITS_PER_THREAD {
            let lock = db.get_lock(Key::new("shared", "lock"));
            let sk = format!("{thread} {number}");
            let batch = Batch::new()
                .create(Item::new("first", &sk, "1".to_owned()))
                .create(Item::new("second", &sk, "1".to_owned()));
            let batch = match lock {
                Ok(lock) if number % 2 == 0 => batch.lock(lock),
                _ => batch,
            };
            let written = match (setup.commit)(&db, &batch) {
                Ok(_) => Some(true),
                Err(Error::OutcomeUnknown(_)) => None,
                Err(_) => Some(false),
            };
            results.push((sk, written));
        }
        results
    });
    results.into_iter().flatten().collect()
}

/// Injects `fault` at each operation in turn, and compares every result with the file.
fn fail_everywhere(setup: Setup, fault: Fault) -> Result<(), String> {
    let (mut written, mut not_written, mut unknown) = (0, 0, 0);
    let complete = new_disk();
    commit_concurrently(setup, &complete);
    // The number of operations differs slightly from run to run.
    for at in 0..complete.operations() {
        let disk = new_disk().failing_at(at, fault);
        let results = with_timeout(HANG_LIMIT, {
            let disk = disk.clone();
            move |_| commit_concurrently(setup, &disk)
        });
        let db = CORRECT.open(&Disk::with_image(disk.current()));
        let db = db.map_err(|error| format!("fault at {at}: {error:?}"))?;
        for (sk, reported) in results {
            let [first, second] =
                ["first", "second"].map(|pk| db.get(Key::new(pk, &sk)).unwrap().is_some());
            if first != second {
                return Err(format!("fault at {at}: {sk} is partial"));
            }
            if reported.is_some_and(|reported| reported != first) {
                return Err(format!(
                    "fault at {at}: {sk} was reported as {reported:?} and is {first}"
                ));
            }
            match reported {
                Some(true) => written += 1,
                Some(false) => not_written += 1,
                None => unknown += 1,
            }
        }
    }
    println!("{fault:?}: {written} written, {not_written} not, {unknown} unknown");
    if written > 0 && not_written > 0 && unknown > 0 {
        Ok(())
    } else {
        Err("a kind of result never occurred".to_owned())
    }
}

#[test]
fn every_caller_of_a_group_receives_the_true_result_when_the_disk_fails() {
    fail_everywhere(CORRECT, Fault::Error).unwrap();
}

#[test]
fn every_caller_of_a_group_receives_the_true_result_when_the_storage_panics() {
    fail_everywhere(CORRECT, Fault::Panic).unwrap();
}

#[test]
fn reporting_an_unknown_outcome_as_known_is_detected() {
    // Whether a failed write is in the file depends on the operation that failed, so either claim is
    // wrong for some of them.
    let reports_success = Setup {
        commit: |db, batch| match db.commit(batch) {
            Err(Error::OutcomeUnknown(_)) => Ok(Version::from_u128(0)),
            other => other,
        },
        ..CORRECT
    };
    fail_everywhere(reports_success, Fault::Error).unwrap_err();
    let reports_failure = Setup {
        commit: |db, batch| match db.commit(batch) {
            Err(Error::OutcomeUnknown(source)) => Err(Error::Unavailable(source)),
            other => other,
        },
        ..CORRECT
    };
    fail_everywhere(reports_failure, Fault::Error).unwrap_err();
}
