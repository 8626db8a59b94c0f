//! Power cuts at every operation of the disk, in the repair after them too; disks that fail once; and
//! what these tests are worth.
//!
//! `ATOMIC_DB_POWER_CUTS=50` tries as many ways in which a cut can tear what was not synced, instead
//! of a few.

use super::storage::{Disk, Fault, Left};
use crate::common::HANG_LIMIT;
use atomic_db::testing::with_timeout;
use atomic_db::{
    AtomicDb, Batch, Durability, Error, Item, Key, Lock, Query, RedbDb, Result, Version,
};
use std::collections::BTreeMap;
use std::env;
use std::sync::{Arc, Barrier};
use std::thread;

const COMMITS: usize = 5;

/// One operation in so many of those after a power cut is where it is cut again.
const SECOND_CUTS: usize = 7;

const LOCK: (&str, &str) = ("ledger", "lock");

/// How a database is opened over a disk, and how it is written to: where the plants go.
#[derive(Clone, Copy)]
struct Way {
    durability: Durability,
    lies: bool,
    commit: fn(&RedbDb<String>, &Batch<String>) -> Result<Version>,
}

const SOUND: Way = Way {
    durability: Durability::Immediate,
    lies: false,
    commit: |db, batch| db.commit(batch),
};

impl Way {
    fn open(self, disk: &Disk) -> Result<RedbDb<String>> {
        let disk = match self.lies {
            true => disk.clone().lying(),
            false => disk.clone(),
        };
        RedbDb::builder()
            .durability(self.durability)
            .cache_size(1 << 20)
            .open_with(disk)
    }
}

/// What the script's first `commits` commits leave: a counter, and the last three entries.
fn left_by(commits: usize) -> BTreeMap<String, String> {
    let entries = (commits.saturating_sub(2).max(1)..=commits)
        .map(|number| (format!("entry {number}"), "x".repeat(100 * number)));
    let counter = (commits > 0).then(|| ("counter".to_owned(), commits.to_string()));
    entries.chain(counter).collect()
}

/// The script's commit of that number, counted from one.
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

/// What the script was told.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    acknowledged: usize,
    /// Whether the next commit may have happened.
    unknown: bool,
    version: Option<Version>,
}

/// Commits until something fails.
fn script(way: Way, disk: &Disk) -> Told {
    let mut told = Told::default();
    let Ok(db) = way.open(disk) else {
        return told;
    };
    for number in 1..=COMMITS {
        let Ok(lock) = db.get_lock(Key::from(LOCK)) else {
            return told;
        };
        match (way.commit)(&db, &batch(number, lock)) {
            Ok(version) => {
                told.acknowledged = number;
                told.version = Some(version);
            }
            Err(Error::OutcomeUnknown(_)) => {
                told.unknown = true;
                return told;
            }
            Err(_) => return told,
        }
    }
    told
}

/// Whether what is on the disk agrees with what was told, and the database goes on from there.
fn agrees(disk: &Disk, told: Told) -> Result<(), String> {
    let db = SOUND
        .open(disk)
        .map_err(|error| format!("does not open: {error:?}"))?;
    if disk.was_cut() {
        return Ok(());
    }
    let sound = db.check_integrity();
    sound.map_err(|error| format!("damaged: {error:?}"))?;
    let items = db.query(&Query::new("ledger"));
    let items = items.map_err(|error| format!("cannot be read: {error:?}"))?;
    let found: BTreeMap<String, String> = items
        .iter()
        .map(|item| {
            (
                item.sk().to_owned(),
                item.data().cloned().unwrap_or_default(),
            )
        })
        .collect();
    let commits = found
        .get("counter")
        .map_or(0, |number| number.parse().unwrap());
    let possible = told.acknowledged..=told.acknowledged + usize::from(told.unknown);
    if !possible.contains(&commits) {
        return Err(format!("{commits} commits are there, not {possible:?}"));
    }
    if found != left_by(commits) {
        return Err(format!("commit {commits} is there in part: {found:?}"));
    }
    let next = db.get_lock(Key::from(LOCK)).and_then(|lock| {
        let before = lock.version();
        Ok((before, db.commit(&Batch::new().lock(lock))?))
    });
    let (before, after) = next.map_err(|error| format!("cannot go on: {error:?}"))?;
    match told.version {
        Some(version) if before < version => Err(format!("{before} after {version}")),
        _ if after <= before => Err(format!("{after} follows {before}")),
        _ => Ok(()),
    }
}

/// A disk with an empty database on it. How a file comes to be is not for a storage to show.
fn new_disk() -> Disk {
    let disk = Disk::default();
    drop(SOUND.open(&disk).unwrap());
    Disk::holding(disk.current())
}

/// Cuts the power at every operation of the script, and again at every operation of what opens the
/// file after that. Returns how many images of the disk were opened, or the first that is wrong.
fn cut_everywhere(way: Way, ways_to_tear: u64) -> Result<usize, String> {
    let whole = new_disk();
    script(way, &whole);
    let mut images = 0;
    for cut in 0..whole.operations() {
        let disk = new_disk().failing_at(cut, Fault::PowerCut);
        let told = script(way, &disk);
        let torn = (0..ways_to_tear).map(|seed| Left::Some(seed << 32 | cut as u64));
        for left in [Left::None, Left::All].into_iter().chain(torn) {
            let image = disk.after_power_cut(left);
            // Neighbouring cuts have other second ones.
            let first = cut % SECOND_CUTS;
            for again in (first..).step_by(SECOND_CUTS) {
                let again_at =
                    |reason| format!("cut at {cut}, {left:?}, again at {again}: {reason}");
                let disk = Disk::holding(image.clone()).failing_at(again, Fault::PowerCut);
                // The second cut ends this one wherever it hits; what it leaves is looked at.
                let outcome = agrees(&disk, told);
                images += 1;
                if !disk.was_cut() {
                    outcome.map_err(again_at)?;
                    break;
                }
                // What goes on after the script may have been cut as well: the lock's own commit
                // leaves the items as they are.
                let left = [Left::None, Left::All, Left::Some(again as u64)][images % 3];
                let twice = Disk::holding(disk.after_power_cut(left));
                agrees(&twice, told).map_err(again_at)?;
                images += 1;
            }
        }
    }
    Ok(images)
}

fn ways_to_tear() -> u64 {
    let ways = env::var("ATOMIC_DB_POWER_CUTS").ok();
    ways.map_or(1, |ways| ways.parse().expect("a number of ways"))
}

#[test]
fn a_power_cut_at_any_operation_loses_no_acknowledged_commit_and_leaves_none_in_part() {
    let images = cut_everywhere(SOUND, ways_to_tear()).unwrap();
    println!("power cuts: {images} images");
    assert!(images > 1_000, "only {images} images");
}

#[test]
fn a_power_cut_loses_nothing_with_quick_repair() {
    let way = Way {
        durability: Durability::QuickRepair,
        ..SOUND
    };
    cut_everywhere(way, ways_to_tear()).unwrap();
}

#[test]
fn an_acknowledgement_before_the_disk_has_it_is_found() {
    let early = Way {
        durability: Durability::Deferred,
        ..SOUND
    };
    cut_everywhere(early, 1).unwrap_err();
    let lying = Way {
        lies: true,
        ..SOUND
    };
    cut_everywhere(lying, 1).unwrap_err();
}

/// What a caller was told of its commits: whether each is there, where that is known.
type Answers = Vec<(String, Option<bool>)>;

const THREADS: usize = 8;
const EACH: usize = 3;

/// Eight threads at one disk that fails at an operation: half of the commits are under one lock that
/// all have read, so that some lose.
fn together(way: Way, disk: &Disk) -> Answers {
    let Ok(db) = way.open(disk) else {
        return Vec::new();
    };
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (db, start) = (db.clone(), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                let mut answers = Answers::new();
                for number in 0..EACH {
                    let shared = db.get_lock(Key::new("shared", "lock"));
                    let sk = format!("{thread} {number}");
                    let batch = Batch::new()
                        .create(Item::new("one", &sk, "1".to_owned()))
                        .create(Item::new("other", &sk, "1".to_owned()));
                    let batch = match shared {
                        Ok(lock) if number % 2 == 0 => batch.lock(lock),
                        _ => batch,
                    };
                    let there = match (way.commit)(&db, &batch) {
                        Ok(_) => Some(true),
                        Err(Error::OutcomeUnknown(_)) => None,
                        Err(_) => Some(false),
                    };
                    answers.push((sk, there));
                }
                answers
            })
        })
        .collect();
    let answers = threads.into_iter().map(|thread| thread.join().unwrap());
    answers.flatten().collect()
}

/// Has the disk fail at its operations, one after another, and holds every answer against the file.
fn fail_everywhere(way: Way, fault: Fault) -> Result<(), String> {
    let (mut told, mut unknown, mut refused) = (0, 0, 0);
    let whole = new_disk();
    together(way, &whole);
    // What the threads do differs from run to run; how much they do, not by much.
    for at in 0..whole.operations() {
        let disk = new_disk().failing_at(at, fault);
        let answers = with_timeout(HANG_LIMIT, {
            let disk = disk.clone();
            move |_| together(way, &disk)
        });
        let db = SOUND.open(&Disk::holding(disk.current()));
        let db = db.map_err(|error| format!("at {at}: {error:?}"))?;
        for (sk, there) in answers {
            let [one, other] =
                ["one", "other"].map(|pk| db.get(Key::new(pk, &sk)).unwrap().is_some());
            if one != other {
                return Err(format!("at {at}: {sk} is there in part"));
            }
            if there.is_some_and(|there| there != one) {
                return Err(format!("at {at}: {sk} is told as {there:?} and is {one}"));
            }
            match there {
                Some(true) => told += 1,
                Some(false) => refused += 1,
                None => unknown += 1,
            }
        }
    }
    println!("{fault:?}: {told} written, {refused} not, {unknown} unknown");
    match told > 0 && refused > 0 && unknown > 0 {
        true => Ok(()),
        false => Err("not every kind of answer was seen".to_owned()),
    }
}

#[test]
fn every_caller_of_a_group_is_told_the_truth_when_the_disk_fails() {
    fail_everywhere(SOUND, Fault::Error).unwrap();
}

#[test]
fn every_caller_of_a_group_is_told_the_truth_when_the_storage_panics() {
    fail_everywhere(SOUND, Fault::Panic).unwrap();
}

#[test]
fn an_error_that_is_swallowed_is_found() {
    let swallows = Way {
        commit: |db, batch| match db.commit(batch) {
            Err(Error::OutcomeUnknown(_)) => Ok(Version::from_u128(0)),
            other => other,
        },
        ..SOUND
    };
    // Whether a write that failed is in the file or not is decided by where it failed.
    fail_everywhere(swallows, Fault::Error).unwrap_err();
    let forgets = Way {
        commit: |db, batch| match db.commit(batch) {
            Err(Error::OutcomeUnknown(source)) => Err(Error::Unavailable(source)),
            other => other,
        },
        ..SOUND
    };
    fail_everywhere(forgets, Fault::Error).unwrap_err();
}
