//! Guarantees 7, 8, 11, 13, 15, 19 and 20 with several threads.

use super::fixture::{Database, Fixture};
use super::support::{Must, data, item, key, number};
use super::threads::run_concurrently;
use crate::{AtomicDbExt, Batch, Error, Item, Key, Query, Retry};
use std::collections::HashSet;
use std::iter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const THREADS: usize = 4;

/// The rounds of a race: a minimum number, and then as many as begin within a fraction of a second.
/// A fast database runs thousands of rounds, and a slow one takes little longer than the minimum.
struct Rounds {
    minimum: u32,
    end: Instant,
}

impl Rounds {
    fn new(minimum: u32) -> Self {
        Rounds {
            minimum,
            end: Instant::now() + Duration::from_millis(150),
        }
    }
}

impl Iterator for Rounds {
    type Item = ();

    fn next(&mut self) -> Option<()> {
        let left = self.minimum.checked_sub(1);
        self.minimum = left.unwrap_or(0);
        (left.is_some() || Instant::now() < self.end).then_some(())
    }
}

/// Counts down when it is dropped, so that a thread that panics does not leave others waiting for
/// the count.
struct CountDown<'a>(&'a AtomicU64);

impl Drop for CountDown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Allows so many attempts that every transaction commits in the end, however slow the database is.
fn unbounded_retry() -> Retry {
    Retry::new()
        .attempts(10_000)
        .backoff(Duration::from_micros(50), Duration::from_millis(20))
}

const ACCOUNTS: usize = 6;
const INITIAL_BALANCE: u64 = 1_000;
const TOTAL: u64 = ACCOUNTS as u64 * INITIAL_BALANCE;

/// Between two accounts, a read meets this many other keys, so that a backend that reads pages or chunks
/// of a few hundred reads the accounts at several points in time.
const OTHERS: usize = 200;

/// Returns the partition key and the sort key of an account.
type Address = fn(usize) -> (String, String);

const SEPARATE_PARTITIONS: Address = |account| (format!("account {account}"), "balance".into());
const ONE_PARTITION: Address = |account| ("accounts".into(), format!("{account}"));

/// Transfers money between accounts on two threads, and calls `audit` on two others until the last
/// transfer is complete, and once after it.
fn run_transfers<D: Database>(db: &D, address: Address, audit: impl Fn() + Sync) {
    let accounts: Vec<Item<String>> = (0..ACCOUNTS)
        .map(|account| {
            let (pk, sk) = address(account);
            item(&pk, &sk, INITIAL_BALANCE)
        })
        .collect();
    db.set(&accounts).must("set");
    let retry = unbounded_retry();
    let transferring = AtomicU64::new(2);
    run_concurrently(4, |thread| {
        if thread >= 2 {
            while transferring.load(Ordering::Acquire) > 0 {
                audit();
            }
            return audit();
        }
        let _count_down = CountDown(&transferring);
        for (turn, ()) in Rounds::new(10).enumerate() {
            let from = (turn + thread) % ACCOUNTS;
            let to = (turn * 3 + 1) % ACCOUNTS;
            db.transact_with(&retry, |tx| {
                tx.lock(("lock", from.to_string().as_str()))?;
                tx.lock(("lock", to.to_string().as_str()))?;
                for (account, amount) in [(from, -7), (to, 7)] {
                    let (pk, sk) = address(account);
                    let balance = number(tx.get((pk.as_str(), sk.as_str()))?);
                    tx.set(item(&pk, &sk, balance.wrapping_add_signed(amount)))?;
                }
                Ok(())
            })
            .must("a transfer");
        }
    });
}

fn get_balances<D: Database>(db: &D, address: Address) -> Vec<u64> {
    let addresses: Vec<_> = (0..ACCOUNTS).map(address).collect();
    let keys: Vec<Key<'_>> = addresses.iter().map(|(pk, sk)| key(pk, sk)).collect();
    db.get_many(&keys)
        .must("get_many")
        .into_iter()
        .map(number)
        .collect()
}

fn assert_total(balances: &[u64], reader: &str) {
    let total = balances
        .iter()
        .fold(0, |sum: u64, balance| sum.wrapping_add(*balance));
    assert_eq!(
        total, TOTAL,
        "the total of the balances that {reader} returned: {balances:?}"
    );
}

/// Guarantee 7: one `get_many` is a snapshot. While money is transferred, the total of the balances
/// that it returns does not change.
pub fn get_many_is_a_snapshot<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    if !fixture.capabilities.snapshots {
        return;
    }
    for address in [SEPARATE_PARTITIONS, ONE_PARTITION] {
        let missing = |other| ("missing".to_string(), format!("{other}"));
        let addresses: Vec<_> = (0..ACCOUNTS)
            .flat_map(|account| iter::once(address(account)).chain((0..OTHERS).map(missing)))
            .collect();
        let keys: Vec<Key<'_>> = addresses.iter().map(|(pk, sk)| key(pk, sk)).collect();
        run_transfers(db, address, || {
            let items = db.get_many(&keys).must("get_many");
            let balances: Vec<u64> = items.into_iter().step_by(1 + OTHERS).map(number).collect();
            assert_total(&balances, "get_many");
        });
    }
}

/// Guarantee 7: one `query` is a snapshot. While money is transferred, the total of the balances
/// that it returns does not change.
pub fn a_query_is_a_snapshot<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    if !fixture.capabilities.snapshots {
        return;
    }
    let others: Vec<Item<String>> = (0..ACCOUNTS)
        .flat_map(|account| (0..OTHERS).map(move |other| (account, other)))
        .map(|(account, other)| item("accounts", &format!("{account}/{other}"), 0))
        .collect();
    db.set(&others).must("set");
    run_transfers(db, ONE_PARTITION, || {
        let items = db.query(&Query::new("accounts")).must("query");
        let balances: Vec<u64> = items
            .into_iter()
            .filter(|item| !item.sk().contains('/'))
            .map(|item| number(Some(item)))
            .collect();
        assert_eq!(balances.len(), ACCOUNTS, "the number of queried accounts");
        assert_total(&balances, "query");
    });
}

/// Guarantee 11: of concurrent commits that create the same item, exactly one succeeds. Its item is
/// stored.
pub fn one_of_several_concurrent_creates_of_an_item_succeeds<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for () in Rounds::new(10) {
        db.delete(&[key("pk", "a")]).must("delete");
        let outcomes = run_concurrently(THREADS, |thread| {
            match db.commit(&Batch::new().create(item("pk", "a", thread))) {
                Ok(_) => Some(thread),
                Err(Error::AlreadyExists { .. }) => None,
                Err(error) => panic!("a concurrent create returned {error:?}"),
            }
        });
        let creators: Vec<usize> = outcomes.into_iter().flatten().collect();
        let [creator] = creators[..] else {
            panic!("threads {creators:?} of {THREADS} created one item");
        };
        let stored = number(db.get(key("pk", "a")).must("get"));
        assert_eq!(
            stored, creator as u64,
            "the item of a create that failed is stored"
        );
    }
}

/// Guarantee 13: of concurrent commits that `.lock` the same version of a lock, at most one
/// succeeds. Without other writers exactly one does, and only its items are stored (guarantee 11).
pub fn one_of_several_concurrent_commits_under_one_version_succeeds<D: Database>(
    fixture: &Fixture<D>,
) {
    let db = &*fixture.db;
    for () in Rounds::new(10) {
        let lock = db.get_lock(key("pk", "lock")).must("get_lock");
        let outcomes = run_concurrently(THREADS, |thread| {
            let items = [item("p1", "a", thread), item("p2", "a", thread)];
            match db.set_atomic(&items, &[lock.clone()]) {
                Ok(version) => Some((thread, version)),
                Err(Error::RaceCondition { .. }) => None,
                Err(error) => panic!("a concurrent commit returned {error:?}"),
            }
        });
        let winners: Vec<_> = outcomes.into_iter().flatten().collect();
        let [(winner, version)] = winners[..] else {
            panic!("{} commits under one version succeeded", winners.len());
        };
        let stored = db
            .get_many(&[key("p1", "a"), key("p2", "a")])
            .must("get_many");
        for stored in stored {
            assert_eq!(
                number(stored),
                winner as u64,
                "an item of a failed commit is stored"
            );
        }
        assert_eq!(
            db.get_lock(key("pk", "lock")).must("get_lock").version(),
            version,
            "the lock has another version than the successful commit returned"
        );
    }
}

/// Guarantee 13: any number of concurrent commits that only `.check` a lock succeed.
pub fn concurrent_commits_that_only_check_a_lock_all_succeed<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let lock = db.get_lock(key("pk", "lock")).must("get_lock");
    for () in Rounds::new(5) {
        run_concurrently(THREADS, |thread| {
            let batch = Batch::new().check(lock.clone());
            db.commit(&batch.set(item("pk", &thread.to_string(), "")))
                .expect("a commit that only checks a lock");
        });
    }
    assert_eq!(
        db.get_lock(key("pk", "lock")).must("get_lock"),
        lock,
        "checks changed a lock"
    );
}

/// Guarantee 13: no update is lost. Several threads increment one counter in transactions, and the
/// sum is exact.
pub fn no_update_is_lost<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    let retry = unbounded_retry();
    let increments = run_concurrently(THREADS, |_| {
        let mut increments = 0;
        for () in Rounds::new(10) {
            db.transact_with(&retry, |tx| {
                tx.lock(("pk", "lock"))?;
                let count = number(tx.get(("pk", "count"))?);
                tx.set(item("pk", "count", count + 1))
            })
            .must("an increment");
            // Fills a cache with a value that the next transaction of another thread replaces.
            db.get(key("pk", "count")).must("get");
            increments += 1;
        }
        increments
    });
    let expected: u64 = increments.into_iter().sum();
    let count = number(db.get(key("pk", "count")).must("get"));
    assert_eq!(count, expected, "get of the counter after all increments");
    let fresh = number(db.get_fresh(key("pk", "count")).must("get_fresh"));
    assert_eq!(
        fresh, expected,
        "get_fresh of the counter after all increments"
    );
}

/// Guarantees 11 and 13: transfers between accounts in transactions preserve the total.
pub fn transfers_preserve_the_total<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for address in [SEPARATE_PARTITIONS, ONE_PARTITION] {
        // These reads fill a cache with a balance that later transfers replace.
        run_transfers(db, address, || {
            let (pk, sk) = address(0);
            db.get(key(&pk, &sk)).must("get");
        });
        let balances = get_balances(db, address);
        assert_total(&balances, "get_many after the last transfer");
    }
}

/// Guarantee 15: concurrent callers of `get_lock` get the same lock, and it is the stored one.
pub fn concurrent_callers_of_get_lock_get_the_same_lock<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for (round, ()) in Rounds::new(10).enumerate() {
        // Locks that were never stored, and then locks that were deleted.
        let sk = format!("lock {}", round % 10);
        db.delete(&[key("pk", &sk)]).must("delete");
        let locks = run_concurrently(THREADS, |_| db.get_lock(key("pk", &sk)).must("get_lock"));
        let versions: HashSet<_> = locks.iter().map(|lock| lock.version()).collect();
        assert_eq!(
            versions.len(),
            1,
            "concurrent callers got different locks: {locks:?}"
        );
        db.set_atomic(&[], &locks[..1])
            .expect("a commit under the lock that all concurrent callers got");
    }
}

/// Guarantees 8, 11 and 19: a read that starts after a write completed never returns an older value,
/// even when other reads and writes of the key overlap. A fresh read that starts after one item of a
/// commit was visible sees its other items.
pub fn reads_that_start_after_a_write_never_return_an_older_value<D: Database>(
    fixture: &Fixture<D>,
) {
    let db = &*fixture.db;
    db.set(&[
        item("pk", "a", 0),
        item("pk", "b", 0),
        item("other", "a", 0),
    ])
    .must("set");
    let completed = AtomicU64::new(0);
    let writing = AtomicU64::new(1);
    run_concurrently(THREADS, |thread| {
        if thread == 0 {
            let _count_down = CountDown(&writing);
            for (turn, ()) in Rounds::new(10).enumerate() {
                let turn = turn as u64 + 1;
                match turn % 3 {
                    0 => db.set(&[item("pk", "a", turn)]).must("set"),
                    1 => db
                        .commit(
                            &Batch::new()
                                .set(item("pk", "a", turn))
                                .set(item("other", "a", turn)),
                        )
                        .map(drop)
                        .must("commit"),
                    _ => {
                        db.delete(&[key("pk", "a")]).must("delete");
                        db.commit(&Batch::new().create(item("pk", "a", turn)))
                            .map(drop)
                            .must("commit");
                    }
                }
                completed.store(turn, Ordering::Release);
            }
            return;
        }
        while writing.load(Ordering::Acquire) > 0 {
            let mut minimum = completed.load(Ordering::Acquire);
            let (reader, read) = match thread {
                1 => ("get", db.get(key("pk", "a")).must("get")),
                2 => {
                    let keys = [key("pk", "b"), key("pk", "a")];
                    ("get_many", db.get_many(&keys).must("get_many").remove(1))
                }
                _ => {
                    let other = number(db.get_fresh(key("other", "a")).must("get_fresh"));
                    minimum = minimum.max(other);
                    ("get_fresh", db.get_fresh(key("pk", "a")).must("get_fresh"))
                }
            };
            // There is no item between its deletion and its next creation.
            if let Some(read) = data(read) {
                let read: u64 = read.parse().unwrap_or_else(|_| {
                    panic!("{reader} returned {read:?}, which was never written")
                });
                assert!(
                    read >= minimum,
                    "{reader} returned {read}, and it started after write {minimum} was visible"
                );
            }
        }
    });
    let last = completed.load(Ordering::Acquire);
    let get = number(db.get(key("pk", "a")).must("get"));
    assert_eq!(get, last, "get after the last write");
    let fresh = number(db.get_fresh(key("pk", "a")).must("get_fresh"));
    assert_eq!(fresh, last, "get_fresh after the last write");
}

/// Guarantees 19 and 20: while commits to one key succeed and fail, reads of it never return an
/// older value than earlier reads did. After the last commit every kind of read agrees.
pub fn reads_never_return_older_values_while_commits_conflict<D: Database>(fixture: &Fixture<D>) {
    let db = &*fixture.db;
    for () in Rounds::new(4) {
        db.set(&[item("pk", "a", 0)]).must("set");
        let writing = AtomicU64::new(2);
        run_concurrently(3, |thread| {
            if thread == 2 {
                let mut latest = 0;
                while writing.load(Ordering::Acquire) > 0 {
                    let read = number(db.get(key("pk", "a")).must("get"));
                    assert!(
                        read >= latest,
                        "get returned {read} after an earlier get had returned {latest}"
                    );
                    latest = read;
                }
                return;
            }
            let _count_down = CountDown(&writing);
            for _ in 0..10 {
                // Failed commits are part of the test: they must leave nothing in a cache.
                let lock = db.get_lock(key("pk", "lock")).must("get_lock");
                let count = number(db.get_fresh(key("pk", "a")).must("get_fresh"));
                match db.set_atomic(&[item("pk", "a", count + 1)], &[lock]) {
                    Ok(_) => {}
                    Err(error) if error.is_race_condition() => {}
                    Err(error) => panic!("a concurrent commit returned {error:?}"),
                }
            }
        });
        let fresh = number(db.get_fresh(key("pk", "a")).must("get_fresh"));
        let get = number(db.get(key("pk", "a")).must("get"));
        assert_eq!(
            get, fresh,
            "get differs from get_fresh after the last commit"
        );
    }
}
