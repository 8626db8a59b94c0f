//! Promises 7, 10, 12, 14 and 18 where many threads meet.

use super::{Database, Fixture, Rounds, held, item, key, number, run_concurrently};
use crate::{AtomicDbExt, Batch, Error, Item, Key, Query, Retry};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const THREADS: usize = 4;

/// Enough attempts that a transaction ends by winning, however slow the database is.
fn patient() -> Retry {
    Retry::new()
        .attempts(10_000)
        .backoff(Duration::from_micros(50), Duration::from_millis(20))
}

/// Of any number of callers at once, one makes the lock and all get the same one.
pub fn concurrent_callers_of_get_lock_get_the_same_lock<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for round in Rounds::new(10) {
        let sk = format!("lock {round}");
        db.delete(&[key("pk", &sk)]).unwrap();
        let locks = run_concurrently(THREADS, |_| db.get_lock(key("pk", &sk)).unwrap());
        let versions: HashSet<_> = locks.iter().map(|lock| lock.version()).collect();
        assert_eq!(
            versions.len(),
            1,
            "callers at once got different locks: {locks:?}"
        );
        db.set_atomic(&[], &locks[..1])
            .expect("the lock that all got is the one that is there");
    }
}

/// Of many commits that renew the same version of a lock, exactly one succeeds if nothing else is
/// in their way, and what it wrote is what is there.
pub fn one_of_several_concurrent_commits_under_one_version_succeeds<D: Database>(
    fixture: &Fixture<D>,
) {
    let db = &*fixture.db;
    for _ in Rounds::new(10) {
        let lock = db.get_lock(key("pk", "lock")).unwrap();
        let outcomes = run_concurrently(THREADS, |thread| {
            let items = [item("p1", "a", thread), item("p2", "a", thread)];
            match db.set_atomic(&items, &[lock.clone()]) {
                Ok(version) => Some((thread, version)),
                Err(error) => {
                    assert!(matches!(error, Error::RaceCondition { .. }), "{error:?}");
                    None
                }
            }
        });
        let winners: Vec<_> = outcomes.into_iter().flatten().collect();
        let [(winner, version)] = winners[..] else {
            panic!("{} commits under one version succeeded", winners.len());
        };
        let there = db.get_many(&[key("p1", "a"), key("p2", "a")]).unwrap();
        for there in there {
            assert_eq!(number(there), winner as u64, "a loser's write is there");
        }
        assert_eq!(db.get_lock(key("pk", "lock")).unwrap().version(), version);
    }
}

/// Of many creations of the same item, one succeeds.
pub fn one_of_several_concurrent_creates_of_an_item_succeeds<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for _ in Rounds::new(10) {
        db.delete(&[key("pk", "a")]).unwrap();
        let outcomes = run_concurrently(THREADS, |thread| {
            match db.commit(&Batch::new().create(item("pk", "a", thread))) {
                Ok(_) => Some(thread),
                Err(error) => {
                    assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
                    None
                }
            }
        });
        let creators: Vec<usize> = outcomes.into_iter().flatten().collect();
        assert_eq!(creators.len(), 1, "{creators:?} all created one item");
        let there = number(db.get(key("pk", "a")).unwrap());
        assert_eq!(there, creators[0] as u64, "a loser's item is there");
    }
}

/// Commits that only check a lock all succeed, at once.
pub fn concurrent_commits_that_only_check_a_lock_all_succeed<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lock = db.get_lock(key("pk", "lock")).unwrap();
    for _ in Rounds::new(5) {
        run_concurrently(THREADS, |thread| {
            let batch = Batch::new().check(lock.clone());
            db.commit(&batch.set(item("pk", &thread.to_string(), "")))
                .unwrap();
        });
    }
    assert_eq!(db.get_lock(key("pk", "lock")).unwrap(), lock);
}

/// No update is lost: one counter, many threads, and the sum is exact.
pub fn no_update_is_lost<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let retry = patient();
    let done = run_concurrently(THREADS, |_| {
        let mut done = 0;
        for _ in Rounds::new(10) {
            db.transact_with(&retry, |tx| {
                tx.lock(("pk", "lock"))?;
                let count = number(tx.get(("pk", "count"))?);
                tx.set(item("pk", "count", count + 1))
            })
            .unwrap();
            // What a cache holds is made old, over and over.
            db.get(key("pk", "count")).unwrap();
            done += 1;
        }
        done
    });
    let count = number(db.get(key("pk", "count")).unwrap());
    assert_eq!(count, done.into_iter().sum::<u64>(), "updates were lost");
    assert_eq!(number(db.get_fresh(key("pk", "count")).unwrap()), count);
}

const ACCOUNTS: usize = 6;
const EACH: u64 = 1_000;
const TOTAL: u64 = ACCOUNTS as u64 * EACH;

/// Where an account is: all in one partition, or each in its own.
type Place = fn(usize) -> (String, String);

const APART: Place = |account| (format!("account {account}"), "balance".into());
const TOGETHER: Place = |account| ("accounts".into(), format!("{account}"));

fn open_accounts<D: Database>(db: &D, place: Place) {
    let open = |account| {
        let (pk, sk) = place(account);
        item(&pk, &sk, EACH)
    };
    let accounts: Vec<Item<String>> = (0..ACCOUNTS).map(open).collect();
    db.set(&accounts).unwrap();
}

/// Moves money between accounts on some threads, and calls `audit` on two others meanwhile.
fn move_money<D: Database>(db: &D, place: Place, audit: impl Fn() + Sync) {
    open_accounts(db, place);
    let retry = patient();
    let moving = AtomicU64::new(2);
    run_concurrently(4, |thread| {
        if thread >= 2 {
            // Once more after the last transfer.
            while moving.load(Ordering::Acquire) > 0 {
                audit();
            }
            return audit();
        }
        // Counted down also by a panic, or the auditors would go on for ever.
        let _ends = CountDown(&moving);
        for (turn, _) in Rounds::new(10).enumerate() {
            let from = (turn + thread) % ACCOUNTS;
            let to = (turn * 3 + 1) % ACCOUNTS;
            db.transact_with(&retry, |tx| {
                tx.lock(("lock", from.to_string().as_str()))?;
                tx.lock(("lock", to.to_string().as_str()))?;
                for (account, paid) in [(from, -7), (to, 7)] {
                    let (pk, sk) = place(account);
                    let balance = number(tx.get((pk.as_str(), sk.as_str()))?);
                    tx.set(item(&pk, &sk, balance.wrapping_add_signed(paid)))?;
                }
                Ok(())
            })
            .unwrap();
        }
    });
}

struct CountDown<'a>(&'a AtomicU64);

impl Drop for CountDown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

fn balances<D: Database>(db: &D, place: Place) -> Vec<u64> {
    let places: Vec<_> = (0..ACCOUNTS).map(place).collect();
    let keys: Vec<Key<'_>> = places.iter().map(|(pk, sk)| key(pk, sk)).collect();
    db.get_many(&keys)
        .unwrap()
        .into_iter()
        .map(number)
        .collect()
}

fn assert_total(balances: &[u64], seen: &str) {
    let total = balances
        .iter()
        .fold(0, |sum: u64, balance| sum.wrapping_add(*balance));
    assert_eq!(
        total, TOTAL,
        "{seen} saw money that was made or lost: {balances:?}"
    );
}

/// Money that moves between accounts under their locks is neither made nor lost.
pub fn transfers_preserve_the_total<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for place in [APART, TOGETHER] {
        // Reads that leave an account's balance in a cache, where it gets old.
        move_money(db, place, || {
            let (pk, sk) = place(0);
            db.get(key(&pk, &sk)).unwrap();
        });
        assert_total(&balances(db, place), "get_many at rest");
    }
}

/// One `get_many` sees one instant: while money moves, the total is always the same.
pub fn get_many_is_a_snapshot<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    if !fixture.capabilities.snapshots {
        return;
    }
    for place in [APART, TOGETHER] {
        move_money(db, place, || assert_total(&balances(db, place), "get_many"));
    }
}

/// One `query` sees one instant: while money moves, the total is always the same.
pub fn a_query_is_a_snapshot<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    if !fixture.capabilities.snapshots {
        return;
    }
    move_money(db, TOGETHER, || {
        let accounts = db.query(&Query::new("accounts")).unwrap();
        let balances: Vec<u64> = accounts
            .into_iter()
            .map(|item| number(Some(item)))
            .collect();
        assert_eq!(balances.len(), ACCOUNTS);
        assert_total(&balances, "query");
    });
}

/// A read that starts after a write has finished never returns what was there before it, also while
/// other reads and writes of the key are under way.
pub fn reads_that_start_after_a_write_never_return_an_older_value<D: Database>(
    fixture: &Fixture<D>,
) {
    let db = &*fixture.db;
    db.set(&[item("pk", "a", 0), item("pk", "b", 0)]).unwrap();
    let finished = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    run_concurrently(THREADS, |thread| {
        if thread == 0 {
            let _stop = Stop(&stop);
            for (turn, _) in Rounds::new(10).enumerate() {
                let turn = turn as u64 + 1;
                match turn % 3 {
                    0 => db.set(&[item("pk", "a", turn)]).unwrap(),
                    1 => db
                        .commit(&Batch::new().set(item("pk", "a", turn)))
                        .map(drop)
                        .unwrap(),
                    _ => {
                        db.delete(&[key("pk", "a")]).unwrap();
                        db.commit(&Batch::new().create(item("pk", "a", turn)))
                            .map(drop)
                            .unwrap();
                    }
                }
                finished.store(turn, Ordering::Release);
            }
            return;
        }
        while !stop.load(Ordering::Acquire) {
            let before = finished.load(Ordering::Acquire);
            let read = match thread {
                1 => db.get(key("pk", "a")).unwrap(),
                2 => db
                    .get_many(&[key("pk", "b"), key("pk", "a")])
                    .unwrap()
                    .remove(1),
                _ => db.get_fresh(key("pk", "a")).unwrap(),
            };
            // Nothing is there while it is deleted and created again.
            let read = held(read).map_or(u64::MAX, |text| text.parse().unwrap());
            assert!(
                read >= before,
                "write {before} had finished, and a read returned {read}"
            );
        }
    });
    let last = finished.load(Ordering::Acquire);
    assert_eq!(number(db.get(key("pk", "a")).unwrap()), last);
    assert_eq!(number(db.get_fresh(key("pk", "a")).unwrap()), last);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// While writers race for one key, successful and not, reads of it through one handle never go back,
/// and at rest every kind of read agrees.
pub fn reads_never_return_older_values_while_commits_conflict<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for _ in Rounds::new(4) {
        db.set(&[item("pk", "a", 0)]).unwrap();
        let writing = AtomicU64::new(2);
        run_concurrently(3, |thread| {
            if thread == 2 {
                let mut latest = 0;
                while writing.load(Ordering::Acquire) > 0 {
                    let read = number(db.get(key("pk", "a")).unwrap());
                    assert!(
                        read >= latest,
                        "a read returned {read} after one returned {latest}"
                    );
                    latest = read;
                }
                return;
            }
            let _ends = CountDown(&writing);
            for _ in 0..10 {
                // Losing is as good as winning here: a write that fails must leave nothing behind.
                let lock = db.get_lock(key("pk", "lock")).unwrap();
                let count = number(db.get_fresh(key("pk", "a")).unwrap());
                let outcome = db.set_atomic(&[item("pk", "a", count + 1)], &[lock]);
                assert!(outcome.is_ok() || outcome.is_err_and(|error| error.is_race_condition()));
            }
        });
        let there = number(db.get_fresh(key("pk", "a")).unwrap());
        assert_eq!(
            number(db.get(key("pk", "a")).unwrap()),
            there,
            "at rest, get is not fresh"
        );
    }
}
